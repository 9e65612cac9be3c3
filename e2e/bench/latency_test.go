package bench

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// farAway is what a metadata call costs on a file system at the other end of a network.
const farAway = time.Millisecond

// slowFiles is a file system of which each metadata call takes farAway longer.
type slowFiles struct{ fuse.RawFileSystem }

func (s slowFiles) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.Lookup(cancel, header, name, out)
}

func (s slowFiles) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.GetAttr(cancel, in, out)
}

func (s slowFiles) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.Statx(cancel, in, out)
}

func (s slowFiles) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.SetAttr(cancel, in, out)
}

func (s slowFiles) GetXAttr(cancel <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	time.Sleep(farAway)
	return s.RawFileSystem.GetXAttr(cancel, header, attr, dest)
}

func (s slowFiles) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.OpenDir(cancel, in, out)
}

func (s slowFiles) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.ReadDir(cancel, in, out)
}

func (s slowFiles) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	time.Sleep(farAway)
	return s.RawFileSystem.ReadDirPlus(cancel, in, out)
}

// sourceVariable makes the test binary serve that directory, slowly, at targetVariable's.
const (
	sourceVariable = "VOLPREP_BENCH_SOURCE"
	targetVariable = "VOLPREP_BENCH_TARGET"
)

// TestServeSlowFiles is no test: it is the process that TestLatency starts,
// for a process must not wait for itself in the kernel.
func TestServeSlowFiles(t *testing.T) {
	source := os.Getenv(sourceVariable)
	if source == "" {
		t.Skip("it is the file server that TestLatency starts")
	}
	root, err := fs.NewLoopbackRoot(source)
	must(t, err)
	slow := slowFiles{fs.NewNodeFS(root, &fs.Options{})}
	server, err := fuse.NewServer(slow, os.Getenv(targetVariable), &fuse.MountOptions{DirectMountStrict: true, AllowOther: true, FsName: "slow", Name: "slow"})
	if err != nil {
		fmt.Println("no mount:", err)
		return
	}
	go server.Serve()
	must(t, server.WaitMount())
	fmt.Println("mounted")
	server.Wait()
}

// servedSlowly mounts a directory by a slow server for the length of a test.
func servedSlowly(t *testing.T, source string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "slow")
	must(t, os.Mkdir(target, 0o755))
	self, err := os.Executable()
	must(t, err)
	server := exec.Command(self, "-test.run=^TestServeSlowFiles$", "-test.timeout=0")
	server.Env = append(os.Environ(), sourceVariable+"="+source, targetVariable+"="+target)
	said, err := server.StdoutPipe()
	must(t, err)
	must(t, server.Start())
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			t.Errorf("unmounting %s: %v", target, err)
		}
		server.Process.Kill()
		server.Wait()
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	must(t, err)
	requirement(t, line == "mounted\n", "needs FUSE: "+line)
	return target
}

func TestLatency(t *testing.T) {
	folders, files := 6, 60
	if full() {
		folders, files = 20, 200
	}
	at := plant(t, folders, files)
	ours(t, at, false, 2)
	slow := tree{root: servedSlowly(t, at.root)}
	scanned := int64(1 + folders + folders*files)
	with := func(jobs int) func() {
		return func() {
			result := ours(t, slow, false, jobs)
			if result.Scanned != scanned || result.Changed != 0 {
				t.Fatalf("%d jobs: %+v", jobs, result)
			}
		}
	}
	names := slow.names(t)
	least := floorLine(t, "the floor: reading and statx alone", ratio(t, 3, func() {}, func() { floor(t, names, 64, looks) }, func() { floor(t, names, 1, looks) }))
	value := ratio(t, 3, func() {}, with(64), with(1))
	report(t, "1 ms a metadata call, already right, jobs 64 ÷ jobs 1", value, 1.0/40, least)
	if value > 1.0/2 {
		t.Errorf("64 jobs take %.2f of the time of one", value)
	}
}
