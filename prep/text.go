package prep

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// palette holds the terminal's colours; all empty where none are wanted.
type palette struct {
	created, changed, refused, faint, plain string
}

// colours are the ANSI escape sequences of ECMA-48 that every terminal knows.
var colours = palette{created: "\x1b[32m", changed: "\x1b[33m", refused: "\x1b[31m", faint: "\x1b[2m", plain: "\x1b[0m"}

func paletteFor(coloured bool) palette {
	if coloured {
		return colours
	}
	return palette{}
}

// Tree writes the actions as a tree, what is unchanged folded into a count,
// and at its end the least capabilities that the whole needs.
func (r *Report) Tree(w io.Writer, coloured bool) {
	p := paletteFor(coloured)
	r.actions(w, p)
	for _, unknown := range r.Unknown {
		fmt.Fprintf(w, "%s? %s: unknown, for this process may not look into %s%s\n", p.changed, printable(unknown.Path), printable(unknown.Behind), p.plain)
	}
	for _, skip := range r.Skipped {
		fmt.Fprintf(w, "%s- %s: left out: %s%s\n", p.faint, printable(skip.Path), skip.Why, p.plain)
	}
	r.errors(w, p)
	s := r.Summary
	fmt.Fprintf(w, "%d to create, %d to change, %d right already", s.Created, s.Changed, s.Unchanged)
	if len(r.Unknown) > 0 {
		fmt.Fprintf(w, ", %d unknown", len(r.Unknown))
	}
	needed := "none"
	if list := r.Needed(); len(list) > 0 {
		needed = strings.Join(list, ", ")
	}
	fmt.Fprintf(w, "\nleast capabilities: %s\n", needed)
	if r.Unprivileged != "" && needed != "none" {
		fmt.Fprintf(w, "or none at all: run it as %s, with ALL dropped, on volumes that are its own\n", r.Unprivileged)
	}
}

// actions writes each path once, below the nearest path above it that has
// actions too, with its actions.
func (r *Report) actions(w io.Writer, p palette) {
	actions := map[string][]Action{}
	var paths []string
	for _, action := range r.Actions {
		if _, ok := actions[action.Path]; !ok {
			paths = append(paths, action.Path)
		}
		actions[action.Path] = append(actions[action.Path], action)
	}
	slices.SortFunc(paths, comparePaths)
	var above []string
	for _, path := range paths {
		for len(above) > 0 && !strings.HasPrefix(path, strings.TrimSuffix(above[len(above)-1], "/")+"/") {
			above = above[:len(above)-1]
		}
		label := path
		if len(above) > 0 {
			label = strings.TrimPrefix(path[len(above[len(above)-1]):], "/")
		}
		writeNode(w, p, len(above), printable(label), actions[path])
		above = append(above, path)
	}
}

// comparePaths sorts a directory before what lies in it, and that before its siblings.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func writeNode(w io.Writer, p palette, depth int, label string, actions []Action) {
	indent := strings.Repeat("  ", depth)
	if len(actions) == 1 && actions[0].Op == OpMkdir {
		fmt.Fprintf(w, "%s%s+ %s%s  %s%s\n", indent, p.created, label, p.plain, actions[0].To, because(p, actions[0]))
		return
	}
	fmt.Fprintf(w, "%s%s~ %s%s\n", indent, p.changed, label, p.plain)
	for _, action := range actions {
		fmt.Fprintf(w, "%s    %s %s → %s%s\n", indent, action.Op, action.From, action.To, because(p, action))
	}
}

// because is what an action needs, and why it is to be done.
func because(p palette, action Action) string {
	needs := "no capability"
	if len(action.Capabilities) > 0 {
		needs = strings.Join(action.Capabilities, ", ")
	}
	return fmt.Sprintf("  %s%s: %s%s", p.faint, needs, action.Reason, p.plain)
}

// Verdict writes a verify's drift and expectations.
func (r *Report) Verdict(w io.Writer, coloured bool) {
	p := paletteFor(coloured)
	for _, drift := range r.Drift {
		fmt.Fprintf(w, "%s~ %s%s is %s, should be %s\n", p.changed, printable(drift.Path), p.plain, drift.Is, drift.Want)
	}
	for _, unknown := range r.Unknown {
		fmt.Fprintf(w, "%s? %s: unknown, for this process may not look into %s: %s%s\n", p.changed, printable(unknown.Path), printable(unknown.Behind), unknown.Mend, p.plain)
	}
	r.errors(w, p)
	fmt.Fprintf(w, "%d differ, %d are missing, %d are as the layout says\n", r.Summary.Changed, r.Summary.Created, r.Summary.Unchanged)
}

// Account writes what an apply did: its failures, and the run in one line.
func (r *Report) Account(w io.Writer, coloured bool) {
	p := paletteFor(coloured)
	r.errors(w, p)
	used := "none"
	if len(r.Capabilities.Used) > 0 {
		used = strings.Join(r.Capabilities.Used, ", ")
	}
	fmt.Fprintf(w, "%s; capabilities used: %s\n", r.Line(), used)
}

func (r *Report) errors(w io.Writer, p palette) {
	for _, f := range r.failures {
		fmt.Fprintf(w, "%s! %s%s\n", p.refused, f.Error(), p.plain)
	}
}
