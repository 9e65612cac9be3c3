// Package e2e runs volprep where it is meant to run: in containers of a real
// Docker Engine, in pods of a real kubelet, on real file systems. What a
// machine lacks for a test skips it with the reason; with VOLPREP_E2E=require,
// as in CI after e2e/setup.sh, such a skip is a failure.
package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lacking ends a test that cannot run here.
func lacking(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("VOLPREP_E2E") == "require" {
		t.Fatalf("VOLPREP_E2E=require, but "+format+"; e2e/setup.sh makes a machine ready", args...)
	}
	t.Skipf(format, args...)
}

// needRoot ends a test that wants uid 0.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "this test wants uid 0, and runs as %d", os.Getuid())
	}
}

// needPrograms ends a test for which one of the programs is not installed.
func needPrograms(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			lacking(t, "this test wants the program %s: %v", name, err)
		}
	}
}

// command is one program run by a test.
type command struct {
	name  string
	args  []string
	dir   string
	env   []string
	stdin string
	// namespace starts it in a user namespace of its own.
	namespace *syscall.SysProcAttr
}

// output runs c to its end and gives what it wrote and its exit status.
func (c command) output(t testing.TB) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.name, c.args...)
	cmd.Dir, cmd.Stdin = c.dir, strings.NewReader(c.stdin)
	cmd.Env, cmd.SysProcAttr = append(os.Environ(), c.env...), c.namespace
	var out, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errors
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return out.String(), errors.String(), cmd.ProcessState.ExitCode()
}

// must runs c, which must succeed, and gives its standard output.
func (c command) must(t testing.TB) string {
	t.Helper()
	stdout, stderr, status := c.output(t)
	if status != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", c.name, strings.Join(c.args, " "), status, stdout, stderr)
	}
	return stdout
}

// program is the short form of a command without any circumstance.
func program(name string, args ...string) command { return command{name: name, args: args} }

// binaries builds volprep as the release does, and the stand-in runtime, once
// for all tests, and gives the directory that holds both.
func binaries(t testing.TB) string {
	t.Helper()
	dir, err := buildBinaries()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var buildBinaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "volprep-e2e-")
	if err != nil {
		return "", err
	}
	cleanups = append(cleanups, func() { os.RemoveAll(dir) })
	// Other users run them too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for name, source := range map[string]string{"volprep": ".", "runtime": "./e2e/runtime"} {
		build := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w",
			"-o", filepath.Join(dir, name), source)
		build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", build, err, out)
		}
	}
	return dir, nil
})

// rendered is what `volprep render` prints for a layout's identity runtime.
func rendered(t testing.TB, target, layout string, options ...string) string {
	t.Helper()
	args := append([]string{"render", target, "--file", layout, "--as", "runtime"}, options...)
	return program(filepath.Join(binaries(t), "volprep"), args...).must(t)
}

// cleanups undo what is made once for all tests, the last one first.
var cleanups []func()

func TestMain(m *testing.M) {
	status := m.Run()
	for _, undo := range slices.Backward(cleanups) {
		undo()
	}
	os.Exit(status)
}

// timed logs how long a step of a test took.
func timed(t testing.TB, step string) func() {
	t.Helper()
	start := time.Now()
	return func() { t.Logf("%s took %.2f s", step, time.Since(start).Seconds()) }
}

// outlive runs c in a test's cleanup, when the test's context is over.
func outlive(c command) ([]byte, error) {
	cmd := exec.Command(c.name, c.args...)
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), c.env...)
	return cmd.CombinedOutput()
}
