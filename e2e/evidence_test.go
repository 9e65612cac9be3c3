package e2e

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the checked-in results anew")

// evidenceFile is what TestEvidence found when it last ran with -update.
const evidenceFile = "evidence/REPORT.md"

// check is one question of the kernel's whether volprep has a capability.
type check struct {
	scenario, capability, call string
	granted                    bool
}

func (c check) String() string {
	answer := "denied"
	if c.granted {
		answer = "granted"
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", c.scenario, c.capability, c.call, answer)
}

// trace is an instance of tracefs of this test alone.
type trace struct {
	dir string
	// name is that of the processes that are traced, which no other on the machine has.
	name string
}

// startTrace records what the kernel asks and is asked by processes of that
// name: capability:cap_capable is of Linux 6.14 and later.
func startTrace(t *testing.T) trace {
	t.Helper()
	needRoot(t)
	const root = "/sys/kernel/tracing"
	if _, err := os.Stat(root + "/events"); err != nil {
		if err := unix.Mount("tracefs", root, "tracefs", 0, ""); err != nil {
			lacking(t, "tracefs cannot be mounted: %v", err)
		}
	}
	dir := filepath.Join(root, "instances", fmt.Sprintf("volprep-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		lacking(t, "tracefs gives no instance: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("ending the trace: %v", err)
		}
	})
	tr := trace{dir, fmt.Sprintf("vp-%d", os.Getpid())}
	if _, err := os.Stat(filepath.Join(dir, "events/capability/cap_capable")); err != nil {
		lacking(t, "this kernel has no tracepoint capability:cap_capable: %v", err)
	}
	tr.set(t, "buffer_size_kb", "16384")
	tr.set(t, "events/capability/filter", fmt.Sprintf("comm == %q", tr.name))
	tr.set(t, "events/syscalls/filter", fmt.Sprintf("comm == %q", tr.name))
	tr.set(t, "events/capability/enable", "1")
	tr.set(t, "events/syscalls/enable", "1")
	t.Cleanup(func() { tr.set(t, "events/enable", "0") })
	return tr
}

func (tr trace) set(t *testing.T, file, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tr.dir, file), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

var (
	eventLine = regexp.MustCompile(`^\s*vp-\d+-(\d+)\s+\[\d+\]\s+\S+\s+[\d.]+: (.*)$`)
	callEvent = regexp.MustCompile(`^sys_(\w+)\(`)
	capEvent  = regexp.MustCompile(`^cap_capable: .*, cap (\d+), ret (-?\d+)$`)
)

// checks reads the trace, and begins it anew: the checks with their counts,
// and the names of all calls.
func (tr trace) checks(t *testing.T, scenario string) (map[check]int, map[string]bool) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tr.dir, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	tr.set(t, "trace", "")
	asked, calls, last := map[check]int{}, map[string]bool{}, map[string]string{}
	for line := range strings.Lines(string(text)) {
		event := eventLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if event == nil {
			continue
		}
		if call := callEvent.FindStringSubmatch(event[2]); call != nil {
			last[event[1]] = call[1]
			calls[call[1]] = true
		} else if c := capEvent.FindStringSubmatch(event[2]); c != nil {
			number, err := strconv.Atoi(c[1])
			if err != nil {
				t.Fatal(err)
			}
			call := last[event[1]]
			if call == "" {
				call = "execve" // it began under another name
			}
			asked[check{scenario, capabilityName(number), call, c[2] == "0"}]++
		}
	}
	return asked, calls
}

func capabilityName(number int) string {
	names := map[int]string{unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
		unix.CAP_FOWNER: "CAP_FOWNER", unix.CAP_FSETID: "CAP_FSETID", unix.CAP_SETPCAP: "CAP_SETPCAP", unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
		unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE"}
	if name, ok := names[number]; ok {
		return name
	}
	return fmt.Sprintf("capability %d", number)
}

// TestEvidence answers, from the kernel's own account, which capability a run
// uses, and for which call.
func TestEvidence(t *testing.T) {
	needPrograms(t, "setpriv")
	tr := startTrace(t)
	named := filepath.Join(t.TempDir(), tr.name)
	program("cp", filepath.Join(binaries(t), "volprep"), named).must(t)
	asked, calls := map[check]int{}, map[string]bool{}
	root := ""
	for _, state := range states {
		if !state.same {
			root = state.plant(t)
		}
		run := state.apply(t, root)
		run.args[slices.Index(run.args, filepath.Join(binaries(t), "volprep"))] = named
		stdout, stderr, status := run.output(t)
		if !state.ends(status) {
			t.Fatalf("%s: exit status %d\n%s", state.name, status, stderr)
		}
		var report applyReport
		if err := json.Unmarshal([]byte(stdout), &report); err != nil {
			t.Fatal(err)
		}
		if state.same != (report.Result == "unchanged") {
			t.Errorf("%s: %s", state.name, report.Result)
		}
		more, made := tr.checks(t, state.name)
		if len(made) < 20 {
			t.Fatalf("%s: the trace has %d calls", state.name, len(made))
		}
		for c, n := range more {
			asked[c] += n
			own := c.capability == "CAP_CHOWN" || c.capability == "CAP_FOWNER"
			if c.granted && !own {
				t.Errorf("granted beyond the two: %s", c)
			}
		}
		for call := range made {
			calls[call] = true
		}
		if state.same && slices.ContainsFunc(keys(more), func(c check) bool { return c.granted }) {
			t.Errorf("a run with nothing to do was granted a capability: %v", more)
		}
	}
	profiled(t, calls)
	compareEvidence(t, asked)
}

// profiled holds the calls of all scenarios against the seccomp profile.
func profiled(t *testing.T, calls map[string]bool) {
	t.Helper()
	var profile struct{ Syscalls []struct{ Names []string } }
	if err := json.Unmarshal([]byte(program(filepath.Join(binaries(t), "volprep"), "seccomp").must(t)), &profile); err != nil {
		t.Fatal(err)
	}
	for _, call := range slices.Sorted(func(yield func(string) bool) {
		for call := range calls {
			if !yield(strings.TrimPrefix(call, "new")) {
				return
			}
		}
	}) {
		if !slices.Contains(profile.Syscalls[0].Names, call) && !slices.Contains(profile.Syscalls[0].Names, "new"+call) {
			t.Errorf("%s was called, and the seccomp profile does not have it", call)
		}
	}
}

func keys[K comparable, V any](m map[K]V) []K {
	var list []K
	for k := range m {
		list = append(list, k)
	}
	return list
}

// compareEvidence holds what was asked against the checked-in report. What was
// granted must be the same everywhere; what the kernel asked on its own and
// denied is compared on the kernel series that the report is of.
func compareEvidence(t *testing.T, asked map[check]int) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	series := strings.Join(strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)[:2], ".")
	if *update {
		writeEvidence(t, asked, series)
	}
	text, err := os.ReadFile(evidenceFile)
	if err != nil {
		t.Fatal(err)
	}
	same := bytes.Contains(text, []byte("Linux "+series+","))
	rows := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) == 5 && (same || cells[3] == "granted") && cells[0] != "| state" && cells[0] != "| ---" {
			rows[strings.Join(cells[:4], " | ")+" |"] = true
		}
	}
	for c := range asked {
		if (same || c.granted) && !rows[c.String()] {
			t.Errorf("not in %s: %s", evidenceFile, c)
		}
		delete(rows, c.String())
	}
	for row := range rows {
		t.Errorf("in %s, and not seen: %s", evidenceFile, row)
	}
}

func writeEvidence(t *testing.T, asked map[check]int, series string) {
	t.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, `# Which capability, for which call

Written by `+"`go test ./e2e -run Evidence -update`"+` on Linux %s, of the tracepoints capability:cap_capable and syscalls, from the
static binary under `+"`setpriv --bounding-set=-all,+chown,+fowner --inh-caps=-all`"+` with examples/nim/layout.yaml (the last state:
one with contents of owner, group, modes and a default ACL). Without -update the same command holds a run against this table.

A capability that is *granted* is one that the kernel would have refused the call without. One that is *denied* was asked for by
the kernel on its own, and the call went on without it: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH where a directory may not be looked into, which
is then borrowed; CAP_FSETID where a mode or an owner changes, so that setgid would be lost in any other order than volprep's;
CAP_SYS_ADMIN where a program starts (execve), takes memory (mmap) and sets its filter; CAP_SETPCAP where the bounding set is to be made smaller.

| state | capability | call | answer | times |
| --- | --- | --- | --- | --- |
`, series)
	order := func(c check) int {
		return slices.IndexFunc(states, func(s state) bool { return s.name == c.scenario })
	}
	rows := keys(asked)
	slices.SortFunc(rows, func(a, b check) int {
		if d := order(a) - order(b); d != 0 {
			return d
		}
		if a.granted != b.granted {
			if a.granted {
				return -1
			}
			return 1
		}
		return strings.Compare(a.String(), b.String())
	})
	for _, c := range rows {
		fmt.Fprintf(&text, "%s %d |\n", c, asked[c])
	}
	if err := os.MkdirAll(filepath.Dir(evidenceFile), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(evidenceFile, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
