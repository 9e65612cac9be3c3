package prep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Apply makes the volumes as the layout says and reports what it did. All
// mount points are looked for before anything changes. What fails is in the
// report; the independent rest is done all the same.
func Apply(ctx context.Context, layout *spec.Layout, options Options) *Report {
	e := newEngine(ctx, "apply", options)
	trees := e.trees(layout)
	if e.ready(trees) && e.preflight(layout) {
		if e.options.Capabilities != nil {
			e.report.Capabilities.Kept = e.options.Capabilities.Names()
		}
		for _, tree := range trees {
			e.applyVolume(tree)
		}
		e.keep(0)
		e.prove(layout)
	}
	return e.finishReport()
}

// ready tells whether every volume's root is there, or may be made.
func (e *engine) ready(trees []*node) bool {
	ready := true
	for _, tree := range trees {
		at, err := e.locate(tree)
		if err == nil {
			at.close(e.kernel)
			continue
		}
		if tree.volume.Optional && errors.Is(err, unix.ENOENT) {
			continue
		}
		e.fail(tree, e.failed(tree.path, "opening the volume", err, nil))
		ready = ready && !tree.volume.MountRequired
	}
	return ready
}

func (e *engine) applyVolume(tree *node) {
	if e.interrupted(tree) || e.report.hasFailure(tree.path) {
		return
	}
	e.enter(tree, e.prepare, e.makeRoot)
}

// enter finds a volume's root, and goes on with it or, where it is to be made, with its place.
func (e *engine) enter(tree *node, present func(n *node, fd int), missing func(n *node, at place)) {
	at, err := e.locate(tree)
	if err != nil {
		if tree.volume.Optional && errors.Is(err, unix.ENOENT) {
			e.skip(tree, "the volume is optional and its root is missing")
			return
		}
		e.fail(tree, e.failed(tree.path, "opening the volume", err, nil))
		return
	}
	defer at.close(e.kernel)
	if at.root < 0 {
		missing(tree, at)
		return
	}
	present(tree, at.root)
}

// examine looks at a directory that there is; what is none is refused.
func (e *engine) examine(n *node, fd int) (inodeInfo, bool) {
	if e.interrupted(n) {
		return inodeInfo{}, false
	}
	info, err := look(e.kernel, fd)
	if err != nil {
		e.fail(n, e.failed(n.path, "looking at the directory", err, nil))
		return info, false
	}
	if info.Type != fs.ModeDir {
		e.refuse(n, info)
		return info, false
	}
	e.report.Summary.Scanned++
	return info, true
}

// makeRoot makes a volume's root, and the directories above it that are
// missing, which are the caller's with the volume's umask.
func (e *engine) makeRoot(tree *node, at place) {
	parent := tree
	for i := len(at.missing) - 2; i >= 0; i-- {
		above := *tree.volume
		above.Defaults = spec.Attributes{}
		parent = &node{volume: &above, path: path.Dir(parent.path), name: at.missing[i], children: []*node{parent}}
	}
	info, err := look(e.kernel, at.parent)
	if err != nil {
		e.fail(tree, e.failed(path.Dir(tree.path), "looking at the directory above the volume", err, nil))
		return
	}
	above := &node{volume: tree.volume, path: path.Dir(tree.path)}
	e.build(above, at.parent, info.State, []*node{parent})
}

// prepare makes an existing directory, and all below it, as its node says:
// children first, so that a directory is right only when all below it is.
func (e *engine) prepare(n *node, fd int) {
	info, ok := e.examine(n, fd)
	if !ok {
		return
	}
	have, err := e.returnOrphan(fd, n.path, info)
	if err != nil {
		e.fail(n, e.failed(n.path, "giving back what an earlier run borrowed", err, &info.State))
		return
	}
	want := n.wanted(have, e.caller)
	if e.trusted(n, info, want) {
		e.settle(n, info.State)
		return
	}
	e.children(n, fd, want)
	if n.parent == nil && n.volume.Contents != nil {
		e.walkContents(n, fd, info.equal(want))
		if n.volume.Root.Attributes == (spec.Attributes{}) {
			// The root is one of the entries, then, and stays as the walk left it.
			return
		}
	}
	e.finish(n, fd, want, false)
}

// refuse is for something that is no directory in a directory's place.
func (e *engine) refuse(n *node, info inodeInfo) {
	e.fail(n, &Failure{Path: n.path, Doing: "opening the directory", Class: ClassRefused,
		Err:  fmt.Errorf("%s is in its place", typeName(info.Type)),
		Mend: "move it away; volprep never follows a link and never replaces a file"})
}

// trusted tells whether an opaque directory that is right itself may count as
// finished: with borrow on-mismatch, as the kubelet's OnRootMismatch trusts a
// root. apply finishes parents after children, so there is reason to.
func (e *engine) trusted(n *node, info inodeInfo, want State) bool {
	return e.options.Borrow == BorrowOnMismatch && len(n.children) > 0 &&
		info.equal(want) && !permits(info.State, e.caller, spec.PermExecute)
}

// opened is a child that exists, by its descriptor.
type opened struct {
	node *node
	fd   int
}

// children opens the children of a directory a few at a time, for a borrowed
// directory is given back before the children are gone into, prepares those
// that exist and makes those that are missing. want is the directory's own
// finished state, from which new children inherit.
func (e *engine) children(n *node, fd int, want State) {
	var missing []*node
	for at := 0; at < len(n.children); at += openAtOnce {
		batch := n.children[at:min(at+openAtOnce, len(n.children))]
		var present []opened
		var absent []*node
		err := e.within(fd, n.path, n.ownerNamed(), func() (err error) {
			e.closeAll(present)
			present, absent, err = e.openBatch(fd, batch, at == 0)
			return err
		})
		if err != nil {
			e.closeAll(present)
			e.fail(n, e.failed(n.path, "opening the directories in it", err, nil))
			return
		}
		for _, child := range present {
			e.prepare(child.node, child.fd)
			e.kernel.Close(child.fd)
		}
		missing = append(missing, absent...)
	}
	if len(missing) > 0 {
		e.build(n, fd, want, missing)
	}
}

// openAtOnce bounds the descriptors that one level of the tree holds.
const openAtOnce = 8

// openBatch opens what exists of some children, lists what is missing and is
// to be made, and clears away what a killed run left staged. EACCES alone is
// returned; any other failure is the child's.
func (e *engine) openBatch(fd int, batch []*node, first bool) (present []opened, missing []*node, err error) {
	if first && e.exists(fd, StagingName) {
		if err := e.unstage(fd); err != nil && err != unix.ENOENT {
			return nil, nil, err
		}
	}
	for _, child := range batch {
		below, err := e.walker.below(fd, child.name)
		switch {
		case err == nil:
			present = append(present, opened{child, below})
		case err == unix.EACCES:
			return present, nil, err
		case err != unix.ENOENT:
			e.fail(child, e.failed(child.path, "opening the directory", err, nil))
		case child.only() == spec.OnlyExisting:
			e.skip(child, "it is missing, and only: existing never makes it")
		default:
			missing = append(missing, child)
		}
	}
	return present, missing, nil
}

// exists tells whether a name can be seen in a directory.
func (e *engine) exists(dir int, name string) bool {
	var stat unix.Statx_t
	return e.kernel.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stat) == nil
}

func (e *engine) closeAll(children []opened) {
	for _, child := range children {
		e.kernel.Close(child.fd)
	}
}

// finish makes a directory what it must be after its children, and reads it
// back. fresh: this run made it.
func (e *engine) finish(n *node, fd int, want State, fresh bool) {
	if e.interrupted(n) {
		return
	}
	info, err := look(e.kernel, fd)
	_, noted := slipOf(info, e.caller)
	if err == nil && !fresh && !noted && info.equal(want) {
		e.settle(n, info.State)
		return
	}
	options := orderOptions{named: n.named(), noACL: !info.acls}
	if err == nil {
		err = e.become(fd, want, options)
	}
	if err != nil {
		doing := "finishing the directory"
		var failed *stepError
		if errors.As(err, &failed) {
			doing = failed.step.doing()
		}
		e.fail(n, e.failed(n.path, doing, err, &info.State))
		return
	}
	if fresh {
		e.made(n, want)
		return
	}
	e.changed(n, info.State, want, options)
}
