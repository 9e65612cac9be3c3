package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manyFiles fills models with files of somebody else, and gives the layout that takes them.
func manyFiles(t *testing.T, root string, files int) string {
	t.Helper()
	for i := range files {
		dir := fmt.Sprintf("%s/models/d%d", root, i/500)
		if i%500 == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := unix.Open(fmt.Sprintf("%s/f%d", dir, i), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	return `{version: 1, volumes: [{path: /models, owner: 1000, directories: [{path: hub, owner: 1000, mode: "0750"}],
		contents: {owner: 1000, group: 2000, dir_mode: "2750", file_mode: "0640", default_acl: ["user:0:rX"]}}]}`
}

// TestLimits: with few descriptors, little memory, hardly a thread, and
// nothing to write to but its volume, a run does all of its work.
func TestLimits(t *testing.T) {
	d := engine(t)
	const files = 10000
	for _, c := range []struct {
		name    string
		options []string
	}{
		{"64 open files", []string{"--ulimit", "nofile=64:64"}},
		{"32 MiB of memory", []string{"--memory", "32m"}},
		{"8 threads", []string{"--pids-limit", "8"}},
		{"all of them", []string{"--ulimit", "nofile=64:64", "--memory", "32m", "--pids-limit", "8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := state{script: "true"}.plant(t)
			layout := manyFiles(t, root, files)
			report, stderr, status := d.prepare(t, layout, append(c.options, "--volume", root+"/models:/models")...)
			if status != 0 || report.Contents[0].Changed < files {
				t.Fatalf("exit status %d, %+v\n%s", status, report.Contents, stderr)
			}
			if report, stderr, status := d.prepare(t, layout, append(c.options, "--volume", root+"/models:/models")...); status != 0 || report.Result != "unchanged" {
				t.Errorf("again: exit status %d, %s\n%s", status, report.Result, stderr)
			}
		})
	}
}

// TestWithoutTheUsualSurroundings: without /proc a run says so and changes
// nothing, without standard output it does its work.
func TestWithoutTheUsualSurroundings(t *testing.T) {
	needRoot(t)
	volprep := filepath.Join(binaries(t), "volprep")
	plain := `VOLPREP_LAYOUT={version: 1, volumes: [{path: /models, owner: 1000, mode: "2750", group: 2000, directories: [{path: hub, owner: 1000}]}]}`
	t.Run("no /proc, no /dev and nothing else", func(t *testing.T) {
		root := state{script: "true"}.plant(t)
		program("cp", volprep, root+"/volprep").must(t)
		c := program("/volprep", "apply")
		c.env, c.namespace = []string{plain}, &syscall.SysProcAttr{Chroot: root}
		c.dir = "/"
		// An ACL that cannot be read could let anybody in: nothing is changed.
		if _, stderr, status := c.output(t); status != 1 || !strings.Contains(stderr, "/models: ") || !strings.Contains(stderr, "mount proc") {
			t.Errorf("exit status %d\n%s", status, stderr)
		}
		if got := owner(t, root+"/models"); got != "0:0 0755" {
			t.Errorf("models is %s", got)
		}
	})
	for name, redirection := range map[string]string{"standard output is closed": ">&-", "standard output is full": ">/dev/full", "all of them are closed": "<&- >&- 2>&-"} {
		t.Run(name, func(t *testing.T) {
			root := state{script: "true"}.plant(t)
			c := program("sh", "-c", "exec "+volprep+" apply --root "+root+" "+redirection)
			c.env = []string{plain}
			if _, stderr, status := c.output(t); status != 0 {
				t.Errorf("exit status %d\n%s", status, stderr)
			}
			if got := owner(t, root+"/models/hub"); !strings.HasPrefix(got, "1000:2000") {
				t.Errorf("hub is %s", got)
			}
		})
	}
}

func TestAFullDisk(t *testing.T) {
	needRoot(t)
	root := state{script: "mount -t tmpfs -o nr_inodes=3,mode=755 tmpfs models"}.plant(t)
	t.Cleanup(func() {
		if err := unix.Unmount(root+"/models", 0); err != nil {
			t.Error(err)
		}
	})
	run := applyWithTwo(t, root)
	run.env = []string{`VOLPREP_LAYOUT={version: 1, volumes: [{path: /models, directories: [{path: a/b/c/d, owner: 1000, mode: "0750"}]}]}`}
	stdout, stderr, status := run.output(t)
	if status != 1 || !strings.Contains(stderr, "/models/a") || !strings.Contains(stdout, "no space or inodes left") {
		t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
	}
	program("mount", "-o", "remount,nr_inodes=100", root+"/models").must(t)
	run.must(t)
	if got := owner(t, root+"/models/a/b/c/d"); got != "1000:0 0750" {
		t.Errorf("d is %s", got)
	}
	if left, err := filepath.Glob(root + "/models/.volprep*"); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// A server that does not answer any more holds a run no longer than --timeout and a little.
func TestAStuckFileSystem(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv")
	source, root := state{script: "true"}.plant(t), state{script: "true"}.plant(t)
	server := obstinately(t, source+"/models", root+"/models", 0)
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	run := applyWithTwo(t, root)
	run.env = []string{"VOLPREP_TIMEOUT=1s", "VOLPREP_LAYOUT={version: 1, volumes: [{path: /models, owner: 1000}]}"}
	began := time.Now()
	_, stderr, status := run.output(t)
	if took := time.Since(began); status != 1 || !strings.Contains(stderr, "a file system does not answer") || took > 20*time.Second {
		t.Errorf("exit status %d after %s\n%s", status, took.Round(time.Millisecond), stderr)
	}
}
