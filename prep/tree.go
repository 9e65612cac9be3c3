package prep

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"volprep/spec"
)

// node is one directory of a volume's tree: one that the layout lists, or a
// parent of one.
type node struct {
	volume *spec.Volume
	parent *node
	name   string
	// path is for messages alone; it is the layout's, without --root.
	path string
	// listed is nil for a parent that the layout does not list.
	listed   *spec.Directory
	children []*node
}

// plant makes the tree of a volume: parents before children, in the order of names.
func plant(volume *spec.Volume) *node {
	root := &node{volume: volume, path: volume.Path, name: path.Base(volume.Path), listed: &volume.Root}
	nodes := map[string]*node{".": root}
	var find func(at string) *node
	find = func(at string) *node {
		if n, ok := nodes[at]; ok {
			return n
		}
		parent := find(path.Dir(at))
		n := &node{volume: volume, parent: parent, name: path.Base(at), path: path.Join(volume.Path, at)}
		parent.children = append(parent.children, n)
		nodes[at] = n
		return n
	}
	for i := range volume.Directories {
		find(volume.Directories[i].Path).listed = &volume.Directories[i]
	}
	for _, n := range nodes {
		slices.SortFunc(n.children, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	}
	return root
}

// prune keeps of a tree what lies at, above or below one of the paths; what
// lies above is kept as a parent that is not listed. The result is nil where nothing is left.
func (n *node) prune(only []string) *node {
	if len(only) == 0 {
		return n
	}
	for _, at := range only {
		if n.path == at || strings.HasPrefix(n.path, strings.TrimSuffix(at, "/")+"/") {
			return n
		}
	}
	above := *n
	above.children = nil
	for _, child := range n.children {
		if kept := child.prune(only); kept != nil {
			kept.parent = &above
			above.children = append(above.children, kept)
		}
	}
	if len(above.children) == 0 {
		return nil
	}
	above.listed = nil
	return &above
}

// only is when the node's attributes count: for a parent that is not listed,
// when it is made.
func (n *node) only() spec.Only {
	if n.listed == nil {
		return spec.OnlyCreate
	}
	return n.listed.Only
}

// attributes are those that the node's directory has when it is made.
func (n *node) attributes() spec.Attributes {
	if n.listed == nil {
		return n.volume.Defaults
	}
	return n.listed.Attributes
}

// ownerNamed: the layout says to whom an existing directory belongs.
func (n *node) ownerNamed() bool {
	return n.listed != nil && n.listed.Only != spec.OnlyCreate && n.listed.Owner != nil
}

// named: the layout says owner, group and the whole mode of an existing directory.
func (n *node) named() bool {
	return n.ownerNamed() && n.listed.Group != nil && n.listed.Mode != nil && n.listed.Mode.Absolute
}

func (n *node) umask() uint32 {
	if n.listed == nil {
		return n.volume.Umask
	}
	return n.listed.Umask
}

// born is the state of the node's directory when apply makes it: what
// mkdir(2) with mode 0777 would make in its finished parent, with the named
// attributes set over it.
func (n *node) born(parent State, caller Caller) State {
	made := Inherit(parent, 0o777, true, caller.UID, caller.GID, n.umask())
	return dress(made, n.attributes(), n.umask())
}

// wanted is the state that the node's existing directory must have.
func (n *node) wanted(have State, caller Caller) State {
	switch n.only() {
	case spec.OnlyCreate:
		// A directory is handed over in the last step of its making. One
		// that differs in nothing but that its owner is still this process
		// was made by a run that did not get so far.
		made := dress(have, n.attributes(), n.umask())
		handed := made
		handed.UID = have.UID
		if have.UID == caller.UID && handed.equal(have) {
			return made
		}
		return have
	default:
		return dress(have, n.attributes(), n.umask())
	}
}

// dress sets named attributes over a directory's state; what is not named stays.
func dress(s State, named spec.Attributes, umask uint32) State {
	if named.Owner != nil {
		s.UID = *named.Owner
	}
	if named.Group != nil {
		s.GID = *named.Group
	}
	if named.Mode != nil {
		s = withMode(s, named.Mode.Apply(s.Mode, true, umask))
	}
	if named.Access != nil {
		if named.Access.Empty() {
			s.Access = spec.ACL{}
		} else {
			s = s.withAccess(named.Access.Complete(s.Mode&0o777, true))
		}
	}
	if named.Default != nil {
		s.Default = spec.ACL{}
		if !named.Default.Empty() {
			s.Default = named.Default.Complete(s.Mode&0o777, true)
		}
	}
	return s
}

// withMode sets the mode's bits; the group digit is the owning group's entry.
// In an ACL that stands, named entries stay, and the mask is widened where it
// would take from that digit.
func withMode(s State, mode uint32) State {
	if !s.Access.Extended() {
		s.Mode = mode
		return s
	}
	acl := spec.ACL{Entries: slices.Clone(s.Access.Entries)}
	for i := range acl.Entries {
		entry := &acl.Entries[i]
		switch entry.Tag {
		case spec.TagUserObj:
			entry.Perm = spec.Perm(mode >> 6 & 7)
		case spec.TagGroupObj:
			entry.Perm = spec.Perm(mode >> 3 & 7)
		case spec.TagMask:
			entry.Perm |= spec.Perm(mode >> 3 & 7)
		case spec.TagOther:
			entry.Perm = spec.Perm(mode & 7)
		}
	}
	s = s.withAccess(acl)
	s.Mode = s.Mode&0o777 | mode&^0o777
	return s
}
