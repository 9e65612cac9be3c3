package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// walkVariable makes the test binary walk that directory and tell its own peak of memory.
const walkVariable = "VOLPREP_BENCH_WALK"

// TestWalkAndTellMemory is no test: it is the process that TestMemory starts.
func TestWalkAndTellMemory(t *testing.T) {
	root := os.Getenv(walkVariable)
	if root == "" {
		t.Skip("it is the walk that TestMemory starts")
	}
	result := walk(t, root, rules(false), 2)
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		var kilobytes int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); n == 1 {
			fmt.Printf("scanned %d changed %d peak %d\n", result.Scanned, result.Changed, kilobytes)
		}
	}
}

// peak is a walk's peak of memory in kilobytes, in a process of its own.
func peak(t *testing.T, root string) (scanned, changed int64, kilobytes int) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	child := exec.Command(self, "-test.run=^TestWalkAndTellMemory$")
	child.Env = append(os.Environ(), walkVariable+"="+root)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n, err := fmt.Sscanf(string(out), "scanned %d changed %d peak %d", &scanned, &changed, &kilobytes); n != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	return scanned, changed, kilobytes
}

// mostMemory is the bound on a walk's memory, whatever the tree, in kilobytes.
const mostMemory = 24 << 10

func TestMemory(t *testing.T) {
	files, levels := 20_000, 1000
	if full() {
		files, levels = 1_000_000, 4000
	}
	at := plant(t, 1, files)
	// The deep end, below: a chain of directories, each with a file.
	dir, err := unix.Open(at.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := 0; err == nil && i < levels; i++ {
		below := -1
		if err = unix.Mkdirat(dir, "d", 0o755); err == nil {
			below, err = unix.Openat(dir, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		unix.Close(dir)
		dir = below
	}
	must(t, err)
	unix.Close(dir)
	t.Cleanup(func() { exec.Command("rm", "-rf", filepath.Join(at.root)).Run() })

	for _, pass := range []string{"all wrong", "already right"} {
		scanned, changed, kilobytes := peak(t, at.root)
		t.Logf("%s: %d files in one directory, %d levels: scanned %d, changed %d, peak %.1f MiB (at most 24)", pass, files, levels, scanned, changed, float64(kilobytes)/1024)
		if want := int64(files + levels + 2); scanned != want {
			t.Errorf("scanned %d of %d", scanned, want)
		}
		if kilobytes > mostMemory {
			t.Errorf("%s: the peak of memory is %d kB, above %d", pass, kilobytes, mostMemory)
		}
	}
}
