package spec

import (
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// uid reads an owner: an id, an identity, or a user of the system.
func (p *parser) uid(n *yaml.Node, text, what string) *uint32 {
	if id, ok := p.id(n, text, what); ok {
		return id
	}
	if identity, ok := p.identities[text]; ok {
		return &identity.UID
	}
	if p.options.LookupUser != nil {
		if id, ok := p.options.LookupUser(text); ok {
			return &id
		}
	}
	p.fault(n, mendName(text, namesOf(p.identities), "write an id, or declare it under identities"), "%s %s is not declared", what, quote(text))
	return nil
}

// gid reads a group: an id, a declared group, an identity for its gid, or a
// group of the system.
func (p *parser) gid(n *yaml.Node, text, what string) *uint32 {
	if id, ok := p.id(n, text, what); ok {
		return id
	}
	if id, ok := p.groupByName(text); ok {
		return &id
	}
	known := append(namesOf(p.groups), namesOf(p.identities)...)
	p.fault(n, mendName(text, known, "write an id, or declare it under groups"), "%s %s is not declared", what, quote(text))
	return nil
}

func (p *parser) groupByName(name string) (uint32, bool) {
	if group, ok := p.groups[name]; ok {
		return group.GID, true
	}
	if identity, ok := p.identities[name]; ok {
		return identity.GID, true
	}
	if p.options.LookupGroup != nil {
		return p.options.LookupGroup(name)
	}
	return 0, false
}

func (p *parser) userByName(name string) (uint32, bool) {
	if identity, ok := p.identities[name]; ok {
		return identity.UID, true
	}
	if p.options.LookupUser != nil {
		return p.options.LookupUser(name)
	}
	return 0, false
}

// id reads what begins as a number; ok is false for a name. What is wrong
// with a number is a fault, and its id then nil.
func (p *parser) id(n *yaml.Node, text, what string) (id *uint32, ok bool) {
	if text == "" {
		p.fault(n, "write an id or a name", "%s is empty", what)
		return nil, true
	}
	if !strings.ContainsRune("+-0123456789", rune(text[0])) {
		return nil, false
	}
	value, err := parseID(text)
	if err != nil {
		p.fault(n, "write a decimal id from 0 to 4294967294", "%s: %v", what, err)
		return nil, true
	}
	return &value, true
}

// umask reads a umask; 0022, or what is handed down, where none is written.
func (p *parser) umask(n *yaml.Node, what string, otherwise uint32) uint32 {
	text, ok := p.text(n, what)
	if !ok {
		return otherwise
	}
	mode, err := ParseMode(text)
	if err != nil || !mode.Absolute || mode.Bits > 0o777 {
		p.fault(n, `write three octal digits, as in "0027"`, "%s is %s, which is no umask", what, quote(text))
		return otherwise
	}
	return mode.Bits
}

func (p *parser) mode(n *yaml.Node, what string) *Mode {
	text, ok := p.text(n, what)
	if !ok {
		return nil
	}
	mode, err := ParseMode(text)
	if err != nil {
		p.fault(n, `write it octal, as in "2750", or symbolic, as in u=rwx,g=rx,o=`, "%s: %v", what, err)
		return nil
	}
	return &mode
}

// attributes reads the keys that directories, volumes and defaults share.
func (p *parser) attributes(fields map[string]*yaml.Node, what string, umask uint32) Attributes {
	var a Attributes
	a.Owner, a.Group = p.owner(fields, what)
	a.Mode = p.mode(fields["mode"], "the mode of "+what)
	a.Access = p.acl(fields["access_acl"], "the access_acl of "+what, nil)
	a.Default = p.acl(fields["default_acl"], "the default_acl of "+what, &umask)
	p.checkBase(fields["access_acl"], what, a)
	return a
}

// owner reads owner and group; `owner: user:group` names both.
func (p *parser) owner(fields map[string]*yaml.Node, what string) (uid, gid *uint32) {
	if text, ok := p.text(fields["owner"], "the owner of "+what); ok {
		user, group, both := strings.Cut(text, ":")
		uid = p.uid(fields["owner"], user, "the owner of "+what+",")
		if both {
			gid = p.gid(fields["owner"], group, "the group of "+what+",")
		}
		if both && fields["group"] != nil {
			p.fault(fields["group"], "leave one of them out", "%s names its group twice, here and behind the owner", what)
			return uid, gid
		}
	}
	if text, ok := p.text(fields["group"], "the group of "+what); ok {
		gid = p.gid(fields["group"], text, "the group of "+what+",")
	}
	return uid, gid
}

// acl reads a list of entries, or one text with commas; umask is the one that
// the word stands for, nil where it means nothing.
func (p *parser) acl(n *yaml.Node, what string, umask *uint32) *ACL {
	if n == nil {
		return nil
	}
	var items []*yaml.Node
	if resolved := p.resolve(n); resolved.Kind == yaml.ScalarNode {
		items = []*yaml.Node{resolved}
	} else {
		items = p.items(n, what)
	}
	acl := &ACL{}
	seen := map[Entry]bool{}
	for _, item := range items {
		text, ok := p.text(item, "an entry of "+what)
		if !ok {
			continue
		}
		for _, part := range strings.Split(text, ",") {
			part = strings.TrimSpace(part)
			if part == "umask" && umask != nil {
				acl.Umask = umask
				continue
			}
			entry, err := ParseEntry(part, p.userByName, p.groupByName)
			if err != nil {
				p.fault(item, `write it as setfacl does, as in "user:3000:r-X"`, "%s: %v", what, err)
				continue
			}
			whom := Entry{Tag: entry.Tag, ID: entry.ID}
			if seen[whom] {
				p.fault(item, "keep one of them", "%s has two entries for the same, %s", what, quote(part))
				continue
			}
			seen[whom] = true
			acl.Entries = append(acl.Entries, entry)
		}
	}
	p.checkMask(n, what, *acl)
	return acl
}

// checkMask warns of entries that a written mask makes ineffective.
func (p *parser) checkMask(n *yaml.Node, what string, acl ACL) {
	mask, ok := acl.Get(TagMask)
	if !ok {
		return
	}
	for _, entry := range acl.Entries {
		if (entry.named() || entry.Tag == TagGroupObj) && entry.Perm&7&^mask != 0 {
			p.warn(n, "widen the mask, or leave it out: it is then computed", "in %s the mask %s makes part of %s ineffective", what, mask, entry)
		}
	}
}

// checkBase refuses base entries that say something else than the mode beside them.
func (p *parser) checkBase(n *yaml.Node, what string, a Attributes) {
	if a.Access == nil || a.Mode == nil || !a.Mode.Absolute {
		return
	}
	for tag, shift := range map[Tag]uint{TagUserObj: 6, TagGroupObj: 3, TagOther: 0} {
		perm, ok := a.Access.Get(tag)
		if digit := Perm(a.Mode.Bits >> shift & 7); ok && perm&7 != digit && perm&PermConditionalExecute == 0 {
			p.fault(n, "leave the base entry out: it comes from the mode", "the access_acl of %s has %s::%s, and its mode %s says %s", what, tagNames[tag], perm, a.Mode, digit)
		}
	}
}

// inherit fills what is not named from outside.
func (a Attributes) inherit(outer Attributes) Attributes {
	if a.Owner == nil {
		a.Owner = outer.Owner
	}
	if a.Group == nil {
		a.Group = outer.Group
	}
	if a.Mode == nil {
		a.Mode = outer.Mode
	}
	if a.Access == nil {
		a.Access = outer.Access
	}
	if a.Default == nil {
		a.Default = outer.Default
	}
	return a
}

// parseGroups reads the declared groups.
func (p *parser) parseGroups(n *yaml.Node) {
	for _, pair := range p.pairs(n, "groups") {
		name := pair.key.Value
		text, ok := p.text(pair.value, "group "+name)
		if !ok || !p.declarable(pair.key) {
			continue
		}
		gid, err := parseID(text)
		if err != nil {
			p.fault(pair.value, "write a decimal id from 0 to 4294967294", "group %s: %v", name, err)
			continue
		}
		group := Group{Name: name, Position: Position{pair.key.Line, pair.key.Column}, GID: gid}
		p.groups[name] = group
		p.layout.Groups = append(p.layout.Groups, group)
	}
}

// declarable refuses names that could be taken for an id or for user:group.
func (p *parser) declarable(key *yaml.Node) bool {
	if _, err := strconv.ParseFloat(key.Value, 64); err == nil || key.Value == "" || strings.ContainsAny(key.Value, ":, \t\n") {
		p.fault(key, "use a word without colon, comma or space", "%s is no name", quote(key.Value))
		return false
	}
	return true
}

// parseIdentities reads who uses the volumes.
func (p *parser) parseIdentities(n *yaml.Node) {
	for _, pair := range p.pairs(n, "identities") {
		if !p.declarable(pair.key) {
			continue
		}
		what := "identity " + pair.key.Value
		fields := p.fields(pair.value, "identity", what)
		identity := Identity{Name: pair.key.Value, Position: Position{pair.key.Line, pair.key.Column}}
		if text, ok := p.text(fields["uid"], "the uid of "+what); ok {
			uid, err := parseID(text)
			if err != nil {
				p.fault(fields["uid"], "write a decimal id from 0 to 4294967294", "the uid of %s: %v", what, err)
			}
			identity.UID = uid
		}
		if text, ok := p.text(fields["gid"], "the gid of "+what); ok {
			if gid := p.gid(fields["gid"], text, "the gid of "+what+","); gid != nil {
				identity.GID = *gid
			}
		}
		for _, item := range p.items(fields["groups"], "the groups of "+what) {
			if text, ok := p.text(item, "a group of "+what); ok {
				if gid := p.gid(item, text, "a group of "+what+","); gid != nil && *gid != identity.GID {
					identity.Groups = append(identity.Groups, *gid)
				}
			}
		}
		identity.Umask = p.umask(fields["umask"], "the umask of "+what, defaultUmask)
		if group, ok := p.groups[identity.Name]; ok && group.GID != identity.GID {
			p.fault(pair.key, "rename one of them", "%s is also a group, with the gid %d and not %d", quote(identity.Name), group.GID, identity.GID)
		}
		p.identities[identity.Name] = identity
		p.layout.Identities = append(p.layout.Identities, identity)
	}
}

// identity finds the identity that a node names.
func (p *parser) identity(n *yaml.Node, what string) Identity {
	text, ok := p.text(n, what)
	if !ok {
		return Identity{}
	}
	return p.identityByName(n, text, what)
}

func (p *parser) identityByName(n *yaml.Node, name, what string) Identity {
	identity, ok := p.identities[name]
	if !ok {
		p.fault(n, mendName(name, namesOf(p.identities), "declare it under identities"), "%s names %s, which is no identity", what, quote(name))
	}
	return identity
}

// defaultUmask is what a process has that nobody gave another, and a layout that names none.
const defaultUmask = 0o022

func describe(kind, path string) string {
	if path == "" {
		return "a " + kind
	}
	return fmt.Sprintf("%s %s", kind, quote(path))
}
