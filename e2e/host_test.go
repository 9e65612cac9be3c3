package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestHostSetupScript(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv", "bash")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "srv"), 0o755); err != nil {
		t.Fatal(err)
	}
	setup := command{
		name: "../examples/host/setup.sh",
		args: []string{"../examples/host/layout.yaml", "--root", root, "--format", "json"},
		env:  []string{"VOLPREP=" + filepath.Join(binaries(t), "volprep")},
	}
	if report := parseReport(t, setup.must(t)); report.Result != "changed" || report.Summary.Created != 5 {
		t.Errorf("the first run says %+v, want 5 directories created", report)
	}
	for path, want := range map[string]string{
		"/srv/models":            "1001:2000 2750",
		"/srv/models/hub":        "1001:2000 2750",
		"/srv/models/hub/.locks": "1001:2000 2750",
		"/srv/logs/server":       "1000:1000 0750",
	} {
		if got := owner(t, root+path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if report := parseReport(t, setup.must(t)); report.Result != "unchanged" {
		t.Errorf("the second run says %+v, want unchanged", report)
	}
}

// exposure is what `systemd-analyze security` may find at most, of 10. All of
// it is the task itself: uid 0 with CHOWN and FOWNER, on the host's own users,
// root directory and setgid bits.
const exposure = 1.4

func TestHostUnit(t *testing.T) {
	needPrograms(t, "systemd-analyze")
	// The example's is what render makes of the example's layout.
	for _, layout := range []string{"host", "nim"} {
		t.Run(layout, func(t *testing.T) { checkUnit(t, rendered(t, "systemd", "../examples/"+layout+"/layout.yaml")) })
	}
}

func checkUnit(t *testing.T, unit string) {
	// The unit names the installed binary; here it lies elsewhere.
	path := filepath.Join(t.TempDir(), "volprep.service")
	here := strings.ReplaceAll(unit, "/usr/local/bin/volprep", filepath.Join(binaries(t), "volprep"))
	if err := os.WriteFile(path, []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, status := program("systemd-analyze", "verify", "--man=no", path).output(t)
	// Other units of the machine are loaded too, and complained of.
	for line := range strings.Lines(stdout + stderr) {
		if strings.Contains(line, "volprep.service") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	if status != 0 {
		t.Errorf("systemd-analyze verify: exit status %d\n%s%s", status, stdout, stderr)
	}
	stdout, stderr, status = program("systemd-analyze", "security", "--offline=true", "--no-pager", path).output(t)
	score := regexp.MustCompile(`Overall exposure level for volprep.service: ([0-9.]+)`).FindStringSubmatch(stdout)
	if status != 0 || score == nil {
		t.Fatalf("systemd-analyze security: exit status %d\n%s%s", status, stdout, stderr)
	}
	t.Logf("systemd-analyze security: exposure %s", score[1])
	if got, err := strconv.ParseFloat(score[1], 64); err != nil || got > exposure {
		t.Errorf("systemd-analyze security finds an exposure of %s, want at most %.1f:\n%s", score[1], exposure, stdout)
	}
}

// callSet expands a name of SystemCallFilter=: a call, or a set of systemd's.
func callSet(t testing.TB, name string) map[string]bool {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return map[string]bool{name: true}
	}
	calls := map[string]bool{}
	lines := strings.Split(program("systemd-analyze", "syscall-filter", "--no-pager", name).must(t), "\n")
	for _, line := range lines[1:] {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			maps.Copy(calls, callSet(t, line))
		}
	}
	return calls
}

// The machine's first process need not be systemd, so the unit cannot be
// started; but what its filter lets through can be held against what apply
// really calls.
func TestHostUnitAllowsWhatApplyCalls(t *testing.T) {
	needRoot(t)
	needPrograms(t, "systemd-analyze", "strace")
	unit, err := os.ReadFile("../examples/host/volprep.service")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{"execve": true, "exit_group": true}
	// A systemd that does not know these two refuses them by EPERM, and volprep
	// makes the older calls; a strace that does not gives their numbers.
	for _, call := range []string{"setxattrat", "getxattrat", "syscall_0x1cf", "syscall_0x1d0"} {
		allowed[call] = true
	}
	for line := range strings.Lines(string(unit)) {
		filter, found := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !found {
			continue
		}
		names, denied := strings.CutPrefix(filter, "~")
		for _, name := range strings.Fields(names) {
			for call := range callSet(t, name) {
				allowed[call] = !denied
			}
		}
	}
	trace, root := filepath.Join(t.TempDir(), "trace"), t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "srv"), 0o755); err != nil {
		t.Fatal(err)
	}
	program("strace", "-f", "-o", trace, filepath.Join(binaries(t), "volprep"), "apply",
		"-f", "../examples/host/layout.yaml", "--root", root).must(t)
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^\d+ +(\w+)\(`).FindAllStringSubmatch(string(text), -1) {
		called[match[1]] = true
	}
	if !called["fchownat"] || !called["mkdirat"] {
		t.Fatalf("the trace shows no work: %v", slices.Sorted(maps.Keys(called)))
	}
	// These are younger than some strace and systemd; refused, volprep goes the older way.
	if !strings.Contains(string(unit), "SystemCallErrorNumber=EPERM") {
		t.Error("the unit's filter kills a process that tries a young call")
	}
	for _, young := range []string{"setxattrat", "getxattrat", fmt.Sprintf("syscall_%#x", 463), fmt.Sprintf("syscall_%#x", 464)} {
		allowed[young] = true
	}
	for _, call := range slices.Sorted(maps.Keys(called)) {
		if !allowed[call] {
			t.Errorf("apply calls %s, which the unit's SystemCallFilter does not allow", call)
		}
	}
}
