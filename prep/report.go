package prep

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"volprep/spec"
)

// reportVersion is the report's form; it only grows.
const reportVersion = 1

// Report is what a run saw and did. Its JSON form is documented by a schema
// of its own.
type Report struct {
	Version      int       `json:"report"`
	Command      string    `json:"command"`
	Result       string    `json:"result"`
	Summary      Summary   `json:"summary"`
	Actions      []Action  `json:"actions"`
	Drift        []Drift   `json:"drift,omitempty"`
	Unknown      []Unknown `json:"unknown,omitempty"`
	Skipped      []Skip    `json:"skipped,omitempty"`
	Contents     []Walked  `json:"contents,omitempty"`
	Expectations []Proof   `json:"expectations"`
	Capabilities Used      `json:"capabilities"`
	// Unprivileged is the identity as which a run needs no capability for this
	// layout, on volumes that are its own; "" where there is none. Only a plan says it.
	Unprivileged string       `json:"unprivileged,omitempty"`
	Sandbox      *Sandbox     `json:"sandbox,omitempty"`
	Errors       []ErrorEntry `json:"errors,omitempty"`
	Milliseconds int64        `json:"duration_ms"`

	failures []*Failure
}

// Summary counts directories, and the entries of a contents walk.
type Summary struct {
	Created   int   `json:"created"`
	Changed   int   `json:"changed"`
	Unchanged int   `json:"unchanged"`
	Failed    int   `json:"failed"`
	Scanned   int64 `json:"scanned"`
}

// Action is one change, planned or done.
type Action struct {
	Path   string `json:"path"`
	Op     Op     `json:"op"`
	From   string `json:"from,omitempty"`
	To     string `json:"to,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Capabilities are those without which the kernel would refuse.
	Capabilities []string `json:"capabilities"`
	Status       string   `json:"status"` // planned, done or failed
	Error        string   `json:"error,omitempty"`
	// Microseconds is how long a borrow lasted.
	Microseconds int64 `json:"duration_us,omitempty"`
}

// Drift is a difference between a directory and the layout.
type Drift struct {
	Path string `json:"path"`
	Is   string `json:"is"`
	Want string `json:"want"`
}

// Unknown is a directory that could not be seen.
type Unknown struct {
	Path   string `json:"path"`
	Behind string `json:"behind"`
	Mend   string `json:"mend"`
}

// Skip is a volume or directory that the layout told to leave out.
type Skip struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Walked is a walk over the contents of a volume.
type Walked struct {
	Path    string `json:"path"`
	Scanned int64  `json:"scanned"`
	// Changed are the entries that were changed; in plan and verify, that differ.
	Changed  int64 `json:"changed"`
	Vanished int64 `json:"vanished"`
	Refused  int64 `json:"refused"`
	Failed   int64 `json:"failed"`
	Borrows  int64 `json:"borrows"`
	// Trusted: nothing was looked at, for the root is right and the layout says root-mismatch.
	Trusted bool `json:"trusted,omitempty"`
	// ClearedSetid and ClearedCapabilities count files whose bits a chown cleared.
	ClearedSetid        int64    `json:"cleared_setid"`
	ClearedCapabilities int64    `json:"cleared_capabilities"`
	Cleared             []string `json:"cleared,omitempty"`
}

// Used says which capabilities the process had (its permitted set, from which
// a binary with file capabilities raises its own effective one), which it kept
// for its changes, and which of those counted.
type Used struct {
	Had  []string `json:"had"`
	Kept []string `json:"kept"`
	Used []string `json:"used"`
}

// ErrorEntry is a failure as the report shows it.
type ErrorEntry struct {
	Path   string `json:"path"`
	Doing  string `json:"doing"`
	Error  string `json:"error"`
	Mend   string `json:"mend,omitempty"`
	Status int    `json:"exit_status"`
}

// Failures lists what could not be done.
func (r *Report) Failures() []*Failure { return r.failures }

// ExitStatus is the run's exit status: the first in precedence of what applies.
func (r *Report) ExitStatus() int {
	for _, class := range precedence {
		if slices.ContainsFunc(r.failures, func(f *Failure) bool { return f.Class == class }) {
			return int(class)
		}
		if class == ClassDrift && r.Command == "verify" && (len(r.Drift) > 0 || r.contentsChanged() > 0) {
			return int(class)
		}
	}
	return 0
}

// AddFailure adds a failure that the caller met around the run.
func (r *Report) AddFailure(f *Failure) {
	r.failures = append(r.failures, f)
	r.Errors = append(r.Errors, ErrorEntry{Path: f.Path, Doing: f.Doing, Error: f.Err.Error(), Mend: f.Mend, Status: int(f.Class)})
	r.Result = "failed"
}

func (r *Report) hasFailure(path string) bool {
	return slices.ContainsFunc(r.failures, func(f *Failure) bool { return f.Path == path })
}

// contentsChanged counts the entries that walks over contents changed.
func (r *Report) contentsChanged() int64 {
	var changed int64
	for _, walked := range r.Contents {
		changed += walked.Changed
	}
	return changed
}

// Needed are the capabilities that the actions need, in order of name.
func (r *Report) Needed() []string {
	var needed []string
	for _, action := range r.Actions {
		needed = append(needed, action.Capabilities...)
	}
	slices.Sort(needed)
	return slices.Compact(needed)
}

// JSON writes the report as one indented JSON value.
func (r *Report) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// Line is the run in one line.
func (r *Report) Line() string {
	s := r.Summary
	line := fmt.Sprintf("%s: %d created, %d changed, %d unchanged", r.Result, s.Created, s.Changed, s.Unchanged)
	for _, walked := range r.Contents {
		line += fmt.Sprintf(", %d of %d entries in %s changed", walked.Changed, walked.Scanned, printable(walked.Path))
	}
	if s.Failed > 0 {
		line += fmt.Sprintf(", %d failed", s.Failed)
	}
	return line
}

// terminationLimit is what the kubelet keeps of a termination message, in bytes.
const terminationLimit = 4096

// Termination is the short, plain account for /dev/termination-log.
func (r *Report) Termination() string {
	var text strings.Builder
	fmt.Fprintf(&text, "volprep %s: %s\n", r.Command, r.Line())
	for i, f := range r.failures {
		line := f.Error() + "\n"
		if text.Len()+len(line) > terminationLimit-64 {
			fmt.Fprintf(&text, "and %d more\n", len(r.failures)-i)
			break
		}
		text.WriteString(line)
	}
	return text.String()
}

func (e *engine) fail(n *node, f *Failure) {
	e.report.AddFailure(f)
	e.report.Summary.Failed++
	e.log.Error().Str("path", printable(n.path)).Msg(f.Error())
}

func (e *engine) skip(n *node, why string) {
	e.report.Skipped = append(e.report.Skipped, Skip{Path: n.path, Why: why})
	e.log.Info().Str("path", printable(n.path)).Msg("left out: " + why)
}

// used notes a capability that counted.
func (e *engine) used(capability string) {
	if capability != "" && !slices.Contains(e.report.Capabilities.Used, capability) {
		e.report.Capabilities.Used = append(e.report.Capabilities.Used, capability)
	}
}

// settle notes a directory that was right already.
func (e *engine) settle(n *node, state State) {
	e.final[n.path] = state
	e.report.Summary.Unchanged++
}

// made notes a directory that this run made.
func (e *engine) made(n *node, state State) {
	e.final[n.path] = state
	e.report.Summary.Created++
	e.report.Actions = append(e.report.Actions, e.making(n, state, "done"))
	e.log.Info().Str("path", printable(n.path)).Str("op", string(OpMkdir)).Str("to", state.String()).Msg("made")
}

// making is the action of making a directory: mostly a hand-over alone needs a
// capability, for until then it is the caller's own.
func (e *engine) making(n *node, state State, status string) Action {
	fresh := State{Type: fs.ModeDir, UID: e.caller.UID, GID: e.caller.GID, Mode: 0o700}
	staged := e.staged(state)
	capabilities := e.capabilities(fresh, state, orderOptions{sheltered: true})
	for _, capability := range slices.Concat(e.capabilities(fresh, staged, orderOptions{sheltered: true}), e.capabilities(staged, state, orderOptions{named: n.named()})) {
		if !slices.Contains(capabilities, capability) {
			capabilities = append(capabilities, capability)
		}
	}
	slices.Sort(capabilities)
	return Action{Path: n.path, Op: OpMkdir, To: state.String(), Capabilities: capabilities, Status: status, Reason: "it is missing"}
}

// capabilities are those without which the kernel would refuse a transition.
func (e *engine) capabilities(from, to State, options orderOptions) []string {
	needed := []string{}
	steps, err := transition(from, to, e.caller, options)
	if err != nil {
		return needed
	}
	for _, step := range steps {
		if capability := step.capability(from, e.caller); capability != "" && !slices.Contains(needed, capability) {
			needed = append(needed, capability)
		}
		from = step.after(from, e.caller)
	}
	return needed
}

// changed notes a directory that this run changed, attribute by attribute.
func (e *engine) changed(n *node, from, to State, options orderOptions) {
	e.final[n.path] = to
	e.report.Summary.Changed++
	for _, action := range e.differences(n, from, to, options) {
		action.Status = "done"
		e.report.Actions = append(e.report.Actions, action)
		e.log.Info().Str("path", printable(n.path)).Str("op", string(action.Op)).Str("from", action.From).Str("to", action.To).Msg("changed")
	}
}

// borrowed notes a borrow and its return.
func (e *engine) borrowed(l *loan, lent time.Duration) {
	e.report.Actions = append(e.report.Actions,
		e.borrowing(l.path, l.was, OpBorrow, "done", 0), e.borrowing(l.path, l.was, OpReturn, "done", lent))
	e.log.Info().Str("path", printable(l.path)).Dur("lent", lent).Msg("borrowed and given back")
}

// borrowing is the action of taking a directory, or of giving it back.
func (e *engine) borrowing(path string, was State, op Op, status string, lent time.Duration) Action {
	owners := []string{fmt.Sprint(was.UID), fmt.Sprint(e.caller.UID)}
	if op == OpReturn {
		slices.Reverse(owners)
	}
	return Action{Path: path, Op: op, From: owners[0], To: owners[1], Status: status, Microseconds: lent.Microseconds(),
		Reason:       "this process may not search or write it",
		Capabilities: []string{"CAP_CHOWN", "CAP_FOWNER"}}
}

// differences are the actions that lead from one state to another, one an
// attribute, with the capabilities that the order of calls needs for each;
// what a detour needs, such as a group on the way to setgid, counts for the first.
func (e *engine) differences(n *node, from, to State, options orderOptions) []Action {
	a, b := from.settled(), to.settled()
	needs := map[Op][]string{}
	if steps, err := transition(from, to, e.caller, options); err == nil {
		have := from
		for _, step := range steps {
			op := step.Op
			if op == OpSetAccess && b.Access.Empty() && a.Access.Empty() {
				op = OpChmod
			}
			if capability := step.capability(have, e.caller); capability != "" && !slices.Contains(needs[op], capability) {
				needs[op] = append(needs[op], capability)
			}
			have = step.after(have, e.caller)
		}
	}
	var actions []Action
	add := func(op Op, is, want, reason string) {
		if is == want {
			return
		}
		capabilities := needs[op]
		if capabilities == nil {
			capabilities = []string{}
		}
		delete(needs, op)
		actions = append(actions, Action{Path: n.path, Op: op, From: is, To: want, Capabilities: capabilities, Reason: reason})
	}
	add(OpChmod, fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode), "the layout names its mode")
	op := OpSetAccess
	if b.Access.Empty() {
		op = OpRemoveAccess
	}
	add(op, aclText(a.Access), aclText(b.Access), "the layout names its access ACL")
	op = OpSetDefault
	if b.Default.Empty() {
		op = OpRemoveDefault
	}
	add(op, aclText(a.Default), aclText(b.Default), "the layout names its default ACL")
	add(OpChown, fmt.Sprintf("%d:%d", a.UID, a.GID), fmt.Sprintf("%d:%d", b.UID, b.GID), "the layout names its owner or group")
	for _, capabilities := range needs {
		for _, capability := range capabilities {
			if len(actions) > 0 && !slices.Contains(actions[0].Capabilities, capability) {
				actions[0].Capabilities = append(actions[0].Capabilities, capability)
			}
		}
	}
	for i := range actions {
		slices.Sort(actions[i].Capabilities)
	}
	return actions
}

func aclText(acl spec.ACL) string {
	if acl.Empty() {
		return "none"
	}
	return acl.String()
}

// finishReport settles result and counts.
func (e *engine) finishReport() *Report {
	r := e.report
	switch {
	case len(r.failures) > 0:
		r.Result = "failed"
	case r.Summary.Created+r.Summary.Changed > 0, r.contentsChanged() > 0:
		r.Result = "changed"
	default:
		r.Result = "unchanged"
	}
	if r.Actions == nil {
		r.Actions = []Action{}
	}
	if r.Expectations == nil {
		r.Expectations = []Proof{}
	}
	for _, names := range []*[]string{&r.Capabilities.Had, &r.Capabilities.Kept, &r.Capabilities.Used} {
		if *names == nil {
			*names = []string{}
		}
	}
	slices.Sort(r.Capabilities.Used)
	r.Milliseconds = time.Since(e.began).Milliseconds()
	return r
}
