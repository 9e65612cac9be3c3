package spec

import (
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// parseLayout reads the document: first what is referred to, then what refers.
func (p *parser) parseLayout(root *yaml.Node) {
	fields := p.fields(root, "layout", "the layout")
	if n := fields["variables"]; n != nil {
		p.parseVariables(n)
	}
	if n := fields["version"]; n != nil {
		if text, ok := p.text(n, "the version"); ok && text != "1" {
			p.fault(n, "write version: 1, or use a newer volprep", "the version is %s", quote(text))
		}
	}
	if n := fields["groups"]; n != nil {
		p.parseGroups(n)
	}
	if n := fields["identities"]; n != nil {
		p.parseIdentities(n)
	}
	umask := p.umask(fields["umask"], "the umask", defaultUmask)
	defaults := p.defaults(fields["defaults"], "the defaults", umask)
	for _, n := range p.items(fields["volumes"], "volumes") {
		p.parseVolume(n, umask, defaults)
	}
	if n := fields["volumes"]; n != nil && p.resolve(n).Kind == yaml.SequenceNode && len(p.resolve(n).Content) == 0 {
		p.fault(n, "list at least one", "there are no volumes")
	}
	for _, n := range p.items(fields["expect"], "expect") {
		p.parseExpectation(n)
	}
}

func (p *parser) defaults(n *yaml.Node, what string, umask uint32) Attributes {
	if n == nil {
		return Attributes{}
	}
	return p.attributes(p.fields(n, "defaults", what), what, umask)
}

func (p *parser) parseVolume(n *yaml.Node, umask uint32, defaults Attributes) {
	fields := p.fields(n, "volume", "a volume")
	at, ok := p.text(fields["path"], "the path of a volume")
	if ok {
		if err := checkAbsolute(at); err != nil {
			p.fault(fields["path"], "write the absolute, clean path of its mount point", "the path of a volume: %v", err)
			ok = false
		}
	}
	what := describe("volume", at)
	position := p.resolve(n)
	volume := Volume{
		Position:      Position{position.Line, position.Column},
		Path:          at,
		MountRequired: p.word(fields["mount"], "mount", "mount of "+what) == "required",
		Create:        p.boolean(fields["create"], "create of "+what, false),
		Optional:      p.boolean(fields["optional"], "optional of "+what, false),
		Umask:         p.umask(fields["umask"], "the umask of "+what, umask),
	}
	if volume.Create && volume.MountRequired {
		p.fault(fields["create"], "leave one of them out", "%s is to be made and to be a mount point, which cannot both be", what)
	}
	volume.Defaults = p.defaults(fields["defaults"], "the defaults of "+what, volume.Umask).inherit(defaults)
	volume.Root = Directory{
		Position:   volume.Position,
		Path:       ".",
		Only:       Only(p.word(fields["only"], "only", "only of "+what)),
		Umask:      volume.Umask,
		Attributes: p.attributes(fields, what, volume.Umask),
	}
	listed := map[string]int{}
	directories := p.items(fields["directories"], "the directories of "+what)
	if p.directories += len(directories); p.directories > maxDirectories {
		p.fault(fields["directories"], "split the layout", "there are more than %d directories", maxDirectories)
		return
	}
	for _, n := range directories {
		p.parseDirectory(n, &volume, listed)
	}
	if n := fields["contents"]; n != nil {
		volume.Contents = p.contents(n, what, volume.Umask)
	}
	if ok {
		p.apart(fields["path"], at)
	}
	p.layout.Volumes = append(p.layout.Volumes, volume)
}

// apart refuses a volume that is listed twice, or lies in another one.
func (p *parser) apart(n *yaml.Node, at string) {
	for _, other := range p.layout.Volumes {
		switch {
		case other.Path == at:
			p.fault(n, "list it once", "the volume %s is listed twice, first at line %d", quote(at), other.Position.Line)
		case other.Path != "" && strings.HasPrefix(at, other.Path+"/"):
			p.fault(n, "list it as a directory of that volume", "the volume %s lies in the volume %s", quote(at), quote(other.Path))
		case strings.HasPrefix(other.Path, at+"/"):
			p.fault(n, "list that one as a directory of this volume", "the volume %s holds the volume %s", quote(at), quote(other.Path))
		}
	}
}

func (p *parser) parseDirectory(n *yaml.Node, volume *Volume, listed map[string]int) {
	fields := p.fields(n, "directory", "a directory")
	at, ok := p.text(fields["path"], "the path of a directory")
	what := describe("directory", at)
	if ok {
		if err := checkRelative(at); err != nil {
			p.fault(fields["path"], "write it relative to the volume, without .., . or empty parts", "the path of a directory: %v", err)
		} else if line, twice := listed[at]; twice {
			p.fault(fields["path"], "list it once", "the directory %s is listed twice, first at line %d", quote(at), line)
		} else if at == ".volprep" || strings.HasSuffix(at, "/.volprep") || strings.Contains("/"+at, "/.volprep/") {
			p.fault(fields["path"], "choose another name", "the name .volprep is volprep's own, for directories in the making")
		}
	}
	position := p.resolve(n)
	listed[at] = position.Line
	directory := Directory{Position: Position{position.Line, position.Column}, Path: path.Clean(at), Only: Only(p.word(fields["only"], "only", "only of "+what))}
	directory.Umask = p.umask(fields["umask"], "the umask of "+what, volume.Umask)
	directory.Attributes = p.attributes(fields, what, directory.Umask).inherit(volume.Defaults)
	volume.Directories = append(volume.Directories, directory)
}

// defaultExclude is left out of every contents walk that names nothing else:
// what the file system or its server keeps for itself.
var defaultExclude = []string{"lost+found", ".snapshot"}

func (p *parser) contents(n *yaml.Node, volume string, umask uint32) *Contents {
	what := "the contents of " + volume
	fields := p.fields(n, "contents", what)
	position := p.resolve(n)
	c := &Contents{
		Position:      Position{position.Line, position.Column},
		DirMode:       p.mode(fields["dir_mode"], "the dir_mode of "+what),
		FileMode:      p.mode(fields["file_mode"], "the file_mode of "+what),
		Access:        p.acl(fields["access_acl"], "the access_acl of "+what, nil),
		Default:       p.acl(fields["default_acl"], "the default_acl of "+what, &umask),
		When:          When(p.word(fields["when"], "when", "when of "+what)),
		Exclude:       defaultExclude,
		Hardlinks:     Hardlinks(p.word(fields["hardlinks"], "hardlinks", "hardlinks of "+what)),
		OneFileSystem: p.boolean(fields["one_file_system"], "one_file_system of "+what, true),
	}
	c.Owner, c.Group = p.owner(fields, what)
	if c.When == "" {
		c.When = WhenMismatch
	}
	if c.Hardlinks == "" {
		c.Hardlinks = HardlinksInside
	}
	if fields["exclude"] != nil {
		c.Exclude = nil
		for _, item := range p.items(fields["exclude"], "the exclude of "+what) {
			text, ok := p.text(item, "a glob of "+what)
			if _, err := path.Match(text, ""); err != nil || text == "" && ok {
				p.fault(item, `write a name, or a glob as in "hub/**/*.lock"`, "%s is no glob", quote(text))
				continue
			}
			c.Exclude = append(c.Exclude, text)
		}
	}
	return c
}

func (p *parser) parseExpectation(n *yaml.Node) {
	fields := p.fields(n, "expectation", "an expectation")
	position := p.resolve(n)
	expectation := Expectation{
		Position: Position{position.Line, position.Column},
		As:       p.identity(fields["as"], "as of an expectation"),
		Can:      p.verbs(fields["can"], "can"),
		Cannot:   p.verbs(fields["cannot"], "cannot"),
	}
	for _, verb := range expectation.Cannot {
		if slices.Contains(expectation.Can, verb) {
			p.fault(fields["cannot"], "keep one of them", "an expectation wants %s both to be possible and not", verb)
		}
	}
	if text, ok := p.text(fields["path"], "the path of an expectation"); ok {
		expectation.Path = text
		if err := checkAbsolute(text); err != nil {
			p.fault(fields["path"], "write an absolute, clean path", "the path of an expectation: %v", err)
		} else if !slices.ContainsFunc(p.layout.Volumes, func(v Volume) bool { return text == v.Path || strings.HasPrefix(text, v.Path+"/") }) {
			p.fault(fields["path"], "name a path in one of the volumes", "%s lies in no volume of the layout", quote(text))
		}
	}
	if n := fields["creates"]; n != nil {
		expectation.Creates = p.creations(n)
	}
	if fields["can"] == nil && fields["cannot"] == nil && fields["creates"] == nil && p.resolve(n).Kind == yaml.MappingNode {
		p.fault(n, "add can, cannot or creates", "an expectation expects nothing")
	}
	p.layout.Expect = append(p.layout.Expect, expectation)
}

func (p *parser) verbs(n *yaml.Node, what string) []Verb {
	var verbs []Verb
	for _, item := range p.items(n, what) {
		if verb := p.word(item, "verb", "a verb of "+what); verb != "" {
			verbs = append(verbs, Verb(verb))
		}
	}
	return verbs
}

func (p *parser) creations(n *yaml.Node) []Creation {
	fields := p.fields(n, "creates", "creates")
	var creations []Creation
	for _, kind := range mappings["creates"] {
		if fields[kind.name] == nil {
			continue
		}
		for _, pair := range p.pairs(fields[kind.name], kind.name+" of creates") {
			creations = append(creations, Creation{
				Position:  Position{pair.key.Line, pair.key.Column},
				Directory: kind.name == "directory",
				Who:       p.identityByName(pair.key, pair.key.Value, kind.name+" of creates"),
				Can:       p.verbs(pair.value, "what "+pair.key.Value+" can"),
			})
		}
	}
	return creations
}
