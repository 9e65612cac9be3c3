package prep

import (
	"context"
	"slices"

	"github.com/rs/zerolog"

	"volprep/spec"
)

// NeededWhenEmpty are the capabilities that a run as the caller needs for a
// volume that was empty, its root root's own, and that each later run needs
// for what the first one left. It looks at nothing.
func NeededWhenEmpty(volume *spec.Volume, caller Caller) Capabilities {
	return neededFrom(volume, caller, directoryOf(0o755))
}

// NeedsNone tells whether a run as this identity itself, without any
// capability, makes the layout, on volumes whose roots belong to the identity
// or, where the layout names nothing of a root, let it write.
func NeedsNone(layout *spec.Layout, c Credentials) bool {
	root := directoryOf(0o755)
	root.UID, root.GID = c.UID, c.GID
	return !slices.ContainsFunc(layout.Volumes, func(v spec.Volume) bool {
		return v.Contents != nil || neededFrom(&v, Caller(c), root) != 0
	})
}

// RootNamed tells whether a layout names anything of a volume's root.
func RootNamed(volume *spec.Volume) bool {
	a := volume.Root.Attributes
	return a.Owner != nil || a.Group != nil || a.Mode != nil || a.Access != nil || a.Default != nil
}

// NamesOwners tells whether a layout says of anything to whom it belongs.
func NamesOwners(layout *spec.Layout) bool {
	named := func(a spec.Attributes) bool { return a.Owner != nil || a.Group != nil }
	return slices.ContainsFunc(layout.Volumes, func(v spec.Volume) bool {
		return named(v.Root.Attributes) || named(v.Defaults) || v.Contents != nil && (v.Contents.Owner != nil || v.Contents.Group != nil) ||
			slices.ContainsFunc(v.Directories, func(d spec.Directory) bool { return named(d.Attributes) })
	})
}

// neededFrom plans a volume whose root is in this state, and once more what
// that plan makes.
func neededFrom(volume *spec.Volume, caller Caller, root State) Capabilities {
	e := newEngine(context.Background(), "plan", Options{Caller: &caller, Log: zerolog.Nop()})
	tree := plant(volume)
	have := root
	want := tree.wanted(have, caller)
	e.final[tree.path] = want
	e.report.Actions = e.differences(tree, have, want, orderOptions{named: tree.named()})
	for _, child := range tree.children {
		if child.only() != spec.OnlyExisting {
			e.surveyMissing(child, child.born(want, caller))
		}
	}
	var needed Capabilities
	for _, name := range e.report.Needed() {
		needed |= capabilityOf(name)
	}
	if e.closes(tree) {
		needed |= CapChown | CapFowner
	}
	return needed
}

// closes tells whether a finished tree has a directory that the caller must
// borrow to look at those in it.
func (e *engine) closes(n *node) bool {
	state, made := e.final[n.path]
	return made && len(n.children) > 0 && (!permits(state, e.caller, spec.PermExecute) || slices.ContainsFunc(n.children, e.closes))
}
