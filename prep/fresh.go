package prep

import (
	"io/fs"

	"volprep/spec"
)

// Fresh are the states that a layout gives to the directories of volumes that
// were empty, by path. Their roots are taken as a file system makes them,
// root:root 0755. It looks at nothing.
func Fresh(layout *spec.Layout) map[string]State {
	states := map[string]State{}
	var caller Caller
	var below func(n *node, state State)
	below = func(n *node, state State) {
		states[n.path] = state
		for _, child := range n.children {
			if child.only() != spec.OnlyExisting {
				below(child, child.born(state, caller))
			}
		}
	}
	for i := range layout.Volumes {
		root := plant(&layout.Volumes[i])
		below(root, root.wanted(directoryOf(0o755), caller))
	}
	return states
}

// directoryOf is a directory of root's with this mode.
func directoryOf(mode uint32) State { return State{Type: fs.ModeDir, Mode: mode} }
