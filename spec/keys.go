package spec

import "slices"

// This file is the one table of the language's keys. The parser takes from it
// what is known, and the JSON Schema is made from it.

// key is one key of a mapping.
type key struct {
	name string
	// of is what its value must be: a name of schemaTypes, or of a mapping.
	of          string
	required    bool
	description string
}

// mapping is a kind of mapping with its keys, in the order of the documentation.
type mapping []key

// names are the keys' names.
func (m mapping) names() []string {
	names := make([]string, len(m))
	for i, key := range m {
		names[i] = key.name
	}
	return names
}

func (m mapping) has(name string) bool { return slices.Contains(m.names(), name) }

var attributeKeys = mapping{
	{"owner", "owner", false, "The owning user: an id, an identity's name, or a name of the system; user:group names both."},
	{"group", "group", false, "The owning group: an id, a declared group, an identity's name for its gid, or a name of the system."},
	{"mode", "mode", false, "Octal, quoted or not, or symbolic as chmod(1) has it. Its group digit is the owning group's own entry."},
	{"access_acl", "acl", false, "The access ACL as setfacl(1) text; [] removes it."},
	{"default_acl", "acl", false, "The default ACL, which whatever is made below inherits; the item umask stands for 0777 & ~umask; [] removes it."},
}

// mappings are all kinds of mappings by name; "layout" is the document itself.
var mappings = map[string]mapping{
	"layout": {
		{"version", "version", true, "The language's version: 1."},
		{"umask", "umask", false, "Gives the mode of a directory that names none: 0777 & ~umask. 0022 where it is not written."},
		{"defaults", "defaults", false, "Attributes of every directory that does not name them; a volume's own count before these."},
		{"variables", "variables", false, "What may be written as ${NAME}; values come from --set NAME=VALUE or VOLPREP_VAR_NAME."},
		{"groups", "groups", false, "Names for group ids."},
		{"identities", "identities", false, "Who uses the volumes; an identity's name also serves as an owner."},
		{"volumes", "volumes", true, "The directory trees to prepare."},
		{"expect", "expect", false, "What must hold at the end of every apply and verify."},
	},
	"variable": {
		{"default", "text", false, "The value where none is given; without it one must be given."},
		{"type", "variableType", false, "What a value must be: name (one path component, the default), id, path (relative and clean) or string."},
	},
	"identity": {
		{"uid", "id", true, "The user id."},
		{"gid", "group", true, "The primary group."},
		{"groups", "groupList", false, "Supplementary groups."},
		{"umask", "umask", false, "The process's own umask; 0022 where it is not written."},
	},
	"defaults": attributeKeys,
	"volume": append(mapping{
		{"path", "absolutePath", true, "Where the volume is mounted."},
		{"mount", "mount", false, "required: refuse where nothing is mounted there; any is the default."},
		{"create", "bool", false, "Make the volume's root where it is missing."},
		{"optional", "bool", false, "Skip the volume where its root is missing."},
		{"umask", "umask", false, "As at the top, for this volume."},
		{"defaults", "defaults", false, "As at the top, for this volume's directories and the parents that must be made."},
		{"directories", "directories", false, "Directories below the root, in any order."},
		{"contents", "contents", false, "How what lies in the volume already must look."},
		{"only", "only", false, "create: attributes count when the directory is made; existing: it is never made."},
	}, attributeKeys...),
	"directory": append(mapping{
		{"path", "relativePath", true, "Relative to the volume's root."},
		{"umask", "umask", false, "As at the top, for this directory."},
		{"only", "only", false, "create: attributes count when the directory is made; existing: it is mended, but never made."},
	}, attributeKeys...),
	"contents": {
		{"owner", "owner", false, "The owning user of every entry; user:group names both."},
		{"group", "group", false, "The owning group of every entry."},
		{"dir_mode", "mode", false, "The mode of directories, octal or symbolic."},
		{"file_mode", "mode", false, "The mode of regular files, octal or symbolic; X is execute where somebody may execute already."},
		{"access_acl", "acl", false, "The access ACL of files and directories."},
		{"default_acl", "acl", false, "The default ACL of directories."},
		{"when", "when", false, "mismatch (the default): each entry that differs; root-mismatch: nothing where the root is right; always: each entry."},
		{"exclude", "globList", false, "Names, or ** globs below the root, that are left out; lost+found and .snapshot where it is not written."},
		{"hardlinks", "hardlinks", false, "inside (the default): a file of several names when all lie in the tree; refuse; change."},
		{"one_file_system", "bool", false, "Do not enter what is mounted below; true is the default."},
	},
	"expectation": {
		{"as", "identityName", true, "The identity that wants to do it."},
		{"path", "absolutePath", true, "Where."},
		{"can", "verbs", false, "What it must be able to do."},
		{"cannot", "verbs", false, "What it must not be able to do."},
		{"creates", "creates", false, "What others may do with what it makes there."},
	},
	"creates": {
		{"file", "creation", false, "With a file, made with mode 0666 under the identity's umask."},
		{"directory", "creation", false, "With a directory, made with mode 0777 under the identity's umask."},
	},
}

// words are the values of keys that take one of a few.
var words = map[string][]string{
	"variableType": {"name", "id", "path", "string"},
	"mount":        {"any", "required"},
	"only":         {"create", "existing"},
	"when":         {string(WhenMismatch), string(WhenRootMismatch), string(WhenAlways)},
	"hardlinks":    {string(HardlinksInside), string(HardlinksRefuse), string(HardlinksChange)},
	"verb":         {string(List), string(Traverse), string(Read), string(Create), string(Write), string(Delete), string(Chmod)},
}
