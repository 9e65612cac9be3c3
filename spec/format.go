package spec

import (
	"bytes"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// Shorten leaves out of a complete ACL what [ACL.Complete] would add to it
// again, of this mode: the result means the same, and is what a person writes.
func Shorten(acl ACL, mode uint32) ACL {
	if acl.Empty() {
		return ACL{}
	}
	short := ACL{}
	for _, entry := range acl.Entries {
		if entry.named() {
			short.Entries = append(short.Entries, entry)
		}
	}
	for _, tag := range []Tag{TagUserObj, TagGroupObj, TagMask, TagOther} {
		perm, there := acl.Get(tag)
		if would, _ := short.Complete(mode, true).Get(tag); there && would != perm {
			short.Entries = append(short.Entries, Entry{Tag: tag, Perm: perm})
		}
	}
	if short.Empty() {
		return acl
	}
	return short
}

// Format writes a layout's groups, identities and volumes with their
// directories, as a person would: [Parse] makes the same of it. Contents and
// expectations, which no tree shows, are not written.
func Format(layout *Layout) ([]byte, error) {
	w := writer{names: map[uint32]string{}, groups: map[uint32]string{}}
	root := mappingNode(0, "version", plainNode("1"))
	if len(layout.Groups) > 0 {
		groups := mappingNode(yaml.FlowStyle)
		for _, group := range layout.Groups {
			w.groups[group.GID] = group.Name
			addKey(groups, group.Name, idNode(group.GID))
		}
		addKey(root, "groups", groups)
	}
	if len(layout.Identities) > 0 {
		identities := mappingNode(0)
		for _, identity := range layout.Identities {
			w.names[identity.UID] = identity.Name
			addKey(identities, identity.Name, w.identity(identity))
		}
		addKey(root, "identities", identities)
	}
	volumes := &yaml.Node{Kind: yaml.SequenceNode}
	for _, volume := range layout.Volumes {
		node := mappingNode(0, "path", textNode(volume.Path))
		w.attributes(node, volume.Root.Attributes)
		if len(volume.Directories) > 0 {
			directories := &yaml.Node{Kind: yaml.SequenceNode}
			for _, directory := range volume.Directories {
				one := mappingNode(yaml.FlowStyle, "path", textNode(directory.Path))
				w.attributes(one, directory.Attributes)
				directories.Content = append(directories.Content, one)
			}
			addKey(node, "directories", directories)
		}
		volumes.Content = append(volumes.Content, node)
	}
	addKey(root, "volumes", volumes)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	err := encoder.Encode(root)
	return out.Bytes(), err
}

// writer knows the names of ids.
type writer struct{ names, groups map[uint32]string }

func (w writer) identity(identity Identity) *yaml.Node {
	node := mappingNode(yaml.FlowStyle, "uid", idNode(identity.UID), "gid", w.group(identity.GID))
	if len(identity.Groups) > 0 {
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, gid := range identity.Groups {
			list.Content = append(list.Content, w.group(gid))
		}
		addKey(node, "groups", list)
	}
	return node
}

func (w writer) group(gid uint32) *yaml.Node {
	if name, ok := w.groups[gid]; ok {
		return plainNode(name)
	}
	return idNode(gid)
}

func (w writer) attributes(node *yaml.Node, named Attributes) {
	if named.Owner != nil {
		owner := idNode(*named.Owner)
		if name, ok := w.names[*named.Owner]; ok {
			owner = plainNode(name)
		}
		addKey(node, "owner", owner)
	}
	if named.Group != nil {
		addKey(node, "group", w.group(*named.Group))
	}
	if named.Mode != nil {
		addKey(node, "mode", &yaml.Node{Kind: yaml.ScalarNode, Value: named.Mode.Text, Style: yaml.DoubleQuotedStyle})
	}
	if named.Access != nil {
		addKey(node, "access_acl", entriesNode(*named.Access))
	}
	if named.Default != nil {
		addKey(node, "default_acl", entriesNode(*named.Default))
	}
}

func entriesNode(acl ACL) *yaml.Node {
	list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
	for _, entry := range acl.Entries {
		list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: entry.String(), Style: yaml.DoubleQuotedStyle})
	}
	return list
}

// textNode is a string in which no variable is meant.
func textNode(value string) *yaml.Node {
	node := &yaml.Node{}
	node.SetString(strings.ReplaceAll(value, "$", "$$"))
	return node
}

func plainNode(value string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: value} }

func idNode(id uint32) *yaml.Node { return plainNode(fmt.Sprint(id)) }

// mappingNode is a mapping of keys and values in turn.
func mappingNode(style yaml.Style, pairs ...any) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode, Style: style}
	for i := 0; i < len(pairs); i += 2 {
		addKey(node, pairs[i].(string), pairs[i+1].(*yaml.Node))
	}
	return node
}

func addKey(node *yaml.Node, key string, value *yaml.Node) {
	node.Content = append(node.Content, plainNode(key), value)
}
