package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// obstinate is a file system that decides owners and modes itself: it refuses
// a change of them, or takes it and does nothing.
type obstinate struct {
	fuse.RawFileSystem
	answer fuse.Status
}

func (o obstinate) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	const decided = fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_MODE
	if in.Valid&decided == 0 {
		return o.RawFileSystem.SetAttr(cancel, in, out)
	}
	if o.answer != fuse.OK {
		return o.answer
	}
	return o.GetAttr(cancel, &fuse.GetAttrIn{InHeader: in.InHeader}, out)
}

// serveVariable makes the test binary serve a directory: "ANSWER SOURCE TARGET".
const serveVariable = "VOLPREP_E2E_SERVE"

// TestServeObstinately is no test: it is the process that obstinately starts,
// for a process must not wait for itself in the kernel.
func TestServeObstinately(t *testing.T) {
	var answer int
	var source, target string
	if n, _ := fmt.Sscan(os.Getenv(serveVariable), &answer, &source, &target); n != 3 {
		t.Skip("it is the file server that TestAFileSystemThatDecidesItself starts")
	}
	root, err := fs.NewLoopbackRoot(source)
	if err != nil {
		t.Fatal(err)
	}
	server, err := fuse.NewServer(obstinate{fs.NewNodeFS(root, &fs.Options{}), fuse.Status(answer)}, target,
		&fuse.MountOptions{DirectMountStrict: true, AllowOther: true, FsName: "obstinate", Name: "obstinate"})
	if err != nil {
		fmt.Println("no mount:", err)
		return
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("mounted")
	server.Wait()
}

// obstinately mounts source by a server that gives that answer, without
// default_permissions, for the length of a test.
func obstinately(t *testing.T, source, target string, answer fuse.Status) *os.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command(self, "-test.run=^TestServeObstinately$", "-test.timeout=0")
	server.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s %s", serveVariable, answer, source, target))
	said, err := server.StdoutPipe()
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Errorf("unmounting %s: %v", target, err)
		}
		server.Process.Kill()
		server.Wait()
	})
	if line, err := bufio.NewReader(said).ReadString('\n'); line != "mounted\n" {
		lacking(t, "FUSE does not mount: %s%v", line, err)
	}
	return server.Process
}

func TestAFileSystemThatDecidesItself(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv")
	const layout = "{version: 1, volumes: [{path: /models, owner: 1001, group: 2000, mode: 2750}]}"
	for _, c := range []struct {
		name   string
		answer fuse.Status
		script string
		status int
		said   string
	}{
		{"that refuses a change", fuse.EPERM, "true", 6, "the server squashes root"},
		{"that takes a change and does nothing", fuse.OK, "true", 1, "the file system or its server decides owners and modes itself"},
		{"that refuses, and has nothing to change", fuse.EPERM, "chown 1001:2000 models; chmod 02750 models", 0, ""},
		{"that does nothing, and has nothing to do", fuse.OK, "chown 1001:2000 models; chmod 02750 models", 0, ""},
		{"whose opaque directory its server opens for root", fuse.EPERM, "chown 1001:2000 models; chmod 02750 models; mkdir models/hub; chmod 0700 models/hub; chown 1500 models/hub", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := state{script: c.script}.plant(t)
			target := filepath.Join(t.TempDir(), "served")
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
			obstinately(t, source, target, c.answer)
			run := applyWithTwo(t, target)
			run.env = []string{"VOLPREP_LAYOUT=" + layout}
			before := listing(t, source, 0)
			stdout, stderr, status := run.output(t)
			if status != c.status || !strings.Contains(stdout, c.said) {
				t.Errorf("exit status %d, want %d and %q\n%s%s", status, c.status, c.said, stdout, stderr)
			}
			if after := listing(t, source, 0); after != before {
				t.Errorf("it was\n%s\nand is\n%s", before, after)
			}
		})
	}
}
