package prep

import (
	"context"
	"path"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Plan reports what Apply would do, and changes nothing. What lies behind a
// directory that this process may not look into is unknown.
func Plan(ctx context.Context, layout *spec.Layout, options Options) *Report {
	report := survey(ctx, "plan", layout, options)
	for _, identity := range layout.Identities {
		as := Credentials{UID: identity.UID, GID: identity.GID, Groups: identity.Groups}
		if report.Unprivileged == "" && as.UID != 0 && NeedsNone(layout, as) {
			report.Unprivileged = as.String()
		}
	}
	return report
}

// Verify reports in what the volumes differ from the layout, and changes nothing.
func Verify(ctx context.Context, layout *spec.Layout, options Options) *Report {
	return survey(ctx, "verify", layout, options)
}

func survey(ctx context.Context, command string, layout *spec.Layout, options Options) *Report {
	e := newEngine(ctx, command, options)
	for _, tree := range e.trees(layout) {
		e.surveyVolume(tree)
	}
	if command == "verify" {
		e.prove(layout)
	}
	return e.finishReport()
}

func (e *engine) surveyVolume(tree *node) {
	e.enter(tree, e.survey, func(tree *node, at place) {
		info, err := look(e.kernel, at.parent)
		if err != nil {
			e.fail(tree, e.failed(path.Dir(tree.path), "looking at the directory above the volume", err, nil))
			return
		}
		e.surveyMissing(tree, tree.born(info.State, e.caller))
	})
}

// survey looks at an existing directory and all below it.
func (e *engine) survey(n *node, fd int) {
	info, ok := e.examine(n, fd)
	if !ok {
		return
	}
	have := info.State
	if old, ok := slipOf(info, e.caller); ok {
		have = old.restore(have)
		returned := e.borrowing(n.path, have, OpReturn, "planned", 0)
		returned.Reason = "an earlier run was killed while it borrowed it"
		e.report.Actions = append(e.report.Actions, returned)
		e.report.Drift = append(e.report.Drift, Drift{Path: n.path, Is: info.State.String(), Want: have.String()})
	}
	want := n.wanted(have, e.caller)
	if !e.trusted(n, info, want) {
		e.surveyChildren(n, fd, have, want)
		if n.parent == nil && n.volume.Contents != nil && !e.directoriesOnly {
			e.walkContents(n, fd, have.equal(want))
		}
	}
	e.final[n.path] = have
	if e.report.Command != "verify" {
		e.final[n.path] = want
	}
	if have.equal(want) {
		e.report.Summary.Unchanged++
		return
	}
	e.report.Summary.Changed++
	e.report.Drift = append(e.report.Drift, Drift{Path: n.path, Is: have.String(), Want: want.String()})
	for _, action := range e.differences(n, have, want, orderOptions{named: n.named(), noACL: !info.acls}) {
		action.Status = "planned"
		e.report.Actions = append(e.report.Actions, action)
	}
}

func (e *engine) surveyChildren(n *node, fd int, have, want State) {
	e.leftover = e.leftover || len(n.children) > 0 && e.exists(fd, StagingName)
	borrowed := false
	needBorrow := func() {
		if borrowed {
			return
		}
		borrowed = true
		e.report.Actions = append(e.report.Actions,
			e.borrowing(n.path, have, OpBorrow, "planned", 0), e.borrowing(n.path, have, OpReturn, "planned", 0))
	}
	for _, child := range n.children {
		below, err := e.walker.below(fd, child.name)
		switch {
		case err == nil:
			e.survey(child, below)
			e.kernel.Close(below)
		case err == unix.EACCES:
			needBorrow()
			e.unknown(child, n.path)
		case err != unix.ENOENT:
			e.fail(child, e.failed(child.path, "opening the directory", err, nil))
		case child.only() == spec.OnlyExisting:
			e.skip(child, "it is missing, and only: existing never makes it")
		default:
			if !permits(have, e.caller, spec.PermWrite|spec.PermExecute) {
				needBorrow()
			}
			e.surveyMissing(child, child.born(want, e.caller))
		}
	}
}

// surveyMissing is survey for a directory that apply would make.
func (e *engine) surveyMissing(n *node, born State) {
	e.report.Summary.Created++
	if e.report.Command != "verify" {
		e.final[n.path] = born
	}
	e.report.Drift = append(e.report.Drift, Drift{Path: n.path, Is: "missing", Want: born.String()})
	e.report.Actions = append(e.report.Actions, e.making(n, born, "planned"))
	for _, child := range n.children {
		if child.only() != spec.OnlyExisting {
			e.surveyMissing(child, child.born(born, e.caller))
		}
	}
}

// unknown notes that a directory and all below it cannot be seen.
func (e *engine) unknown(n *node, behind string) {
	e.report.Unknown = append(e.report.Unknown, unknownBehind(n.path, behind))
	for _, child := range n.children {
		e.unknown(child, behind)
	}
}

func unknownBehind(path, behind string) Unknown {
	return Unknown{Path: path, Behind: behind,
		Mend: "put this container into the group of " + printable(behind) + " (fsGroup, supplementalGroups, group_add), or let apply borrow it"}
}

// AccessAt answers what an identity may do at paths of a layout: as the
// volumes are, or, with after, as they would be after apply.
func AccessAt(ctx context.Context, layout *spec.Layout, options Options, c Credentials, paths []string, after bool) []Access {
	e := newEngine(ctx, "access", options)
	if after {
		for _, tree := range e.trees(layout) {
			e.surveyVolume(tree)
		}
	}
	var answers []Access
	for _, path := range paths {
		answers = append(answers, Evaluate(c, path, func(path string) ([]Component, error) { return e.chain(layout, path) }))
	}
	return answers
}
