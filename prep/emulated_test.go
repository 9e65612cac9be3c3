package prep

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// withoutOverride refuses lookups and reads as the kernel refuses them to uid
// 0 without CAP_DAC_OVERRIDE, whatever the thread may: the workers of a walk
// run on threads that a test cannot take capabilities from.
type withoutOverride struct {
	Kernel
	caller Caller
}

func (w withoutOverride) allowed(dir int, need spec.Perm) error {
	info, err := look(w.Kernel, dir)
	if err == nil && info.Type == fs.ModeDir && !permits(info.State, w.caller, need) {
		return unix.EACCES
	}
	return err
}

func (w withoutOverride) Openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	if err := w.allowed(dir, spec.PermExecute); err != nil {
		return -1, err
	}
	return w.Kernel.Openat2(dir, name, how)
}

func (w withoutOverride) Openat(dir int, name string, flags int, mode uint32) (int, error) {
	need := spec.PermExecute
	if name == "." && flags&unix.O_PATH == 0 {
		need |= spec.PermRead
	}
	if dir >= 0 {
		if err := w.allowed(dir, need); err != nil {
			return -1, err
		}
	}
	return w.Kernel.Openat(dir, name, flags, mode)
}

func (w withoutOverride) StatxName(dir int, name *byte, flags, mask int, stat *unix.Statx_t) error {
	if err := w.allowed(dir, spec.PermExecute); err != nil {
		return err
	}
	return w.Kernel.StatxName(dir, name, flags, mask, stat)
}

func (w withoutOverride) OpenName(dir int, name *byte, flags int) (int, error) {
	if err := w.allowed(dir, spec.PermExecute); err != nil {
		return -1, err
	}
	return w.Kernel.OpenName(dir, name, flags)
}

func TestContentsOfClosedDirectoriesAreReachedByBorrowing(t *testing.T) {
	closedStates := []State{directory(3000, 3000, 0o700), directory(3000, 3000, 0o744), directory(3000, 2000, 0o2700)}
	for _, state := range closedStates {
		for _, policy := range []Borrow{BorrowAuto, BorrowNever} {
			dir := mounted(t, "tmpfs")
			for _, path := range []string{"v/x", "v/x/y", "v/z"} {
				makeDir(t, dir, path, directory(0, 0, 0o755))
			}
			for _, path := range []string{"v/x/f", "v/x/y/g", "v/z/h"} {
				putFile(t, filepath.Join(dir, path), State{UID: 3000, GID: 3000, Mode: 0o777})
			}
			put(t, filepath.Join(dir, "v/x/y"), state)
			put(t, filepath.Join(dir, "v/x"), state)
			fd, err := unix.Open(filepath.Join(dir, "v"), unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			owner, group := uint32(1000), uint32(2000)
			walk := Contents{
				Kernel: withoutOverride{Kernel: System()}, Root: fd, RootPath: "/v", Caller: &Caller{}, Jobs: 2, Borrow: policy,
				Rules: spec.Contents{Owner: &owner, Group: &group, FileMode: &spec.Mode{Absolute: true, Bits: 0o640},
					DirMode: &spec.Mode{Absolute: true, Bits: 0o750}, When: spec.WhenMismatch, Hardlinks: spec.HardlinksInside, OneFileSystem: true},
			}
			result, err := walk.Walk(t.Context())
			unix.Close(fd)
			if err != nil {
				t.Fatal(err)
			}
			if policy == BorrowNever {
				if result.OpaqueCount == 0 && len(result.Opaque) == 0 || result.Borrows > 0 {
					t.Errorf("%s, never: %+v", state, result)
				}
				continue
			}
			if result.Borrows == 0 || result.FailedCount > 0 {
				t.Errorf("%s: %+v", state, result)
			}
			for path, want := range map[string]string{"v/x": "0750 1000:2000", "v/x/y": "0750 1000:2000", "v/x/f": "0640 1000:2000", "v/x/y/g": "0640 1000:2000", "v/z/h": "0640 1000:2000"} {
				if got := stateAt(t, filepath.Join(dir, path)).State.String(); got != want {
					t.Errorf("from %s: %s is %s, want %s", state, path, got, want)
				}
			}
		}
	}
}

func TestEveryFileTypeHasItsName(t *testing.T) {
	dir := mounted(t, "tmpfs")
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", at("link")); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "char": unix.S_IFCHR, "block": unix.S_IFBLK} {
		if err := unix.Mknod(at(name), mode|0o600, int(unix.Mkdev(1, 3))); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"file": "a regular file", "link": "a symbolic link", "fifo": "a fifo", "socket": "a socket", "char": "a device node", "block": "a device node", ".": "a directory"} {
		if got := typeName(stateAt(t, at(name)).Type); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := typeName(fs.ModeIrregular); got != "a file of an unknown type" {
		t.Error(got)
	}
}

func TestOnAFileOnlyWhatAFileAllowsIsAnswered(t *testing.T) {
	chain := []Component{{Path: "/v", State: directory(0, 0, 0o755)}, {Path: "/v/f", State: State{UID: 5, Mode: 0o666}}}
	for _, verb := range []spec.Verb{spec.List, spec.Traverse, spec.Create} {
		if verdict := Can(Credentials{UID: 5, GID: 5}, chain, verb); verdict.Allowed || !strings.Contains(verdict.Why, "this is a regular file") {
			t.Errorf("%s: %+v", verb, verdict)
		}
	}
}

func TestAccountsShowFailuresAndWhatIsUnknown(t *testing.T) {
	report := &Report{Command: "plan", Result: "failed",
		Unknown: []Unknown{{Path: "/v/a", Behind: "/v", Mend: "mend it"}}, Skipped: []Skip{{Path: "/w", Why: "it is optional"}}}
	report.AddFailure(&Failure{Path: "/x\x1b", Doing: "opening it", Err: unix.EIO, Mend: "look", Class: ClassFailed})
	for range 100 {
		report.AddFailure(&Failure{Path: strings.Repeat("/long", 20), Doing: "opening it", Err: unix.EIO, Class: ClassFailed})
	}
	var text strings.Builder
	report.Tree(&text, false)
	report.Verdict(&text, false)
	report.Account(&text, false)
	for _, words := range []string{"? /v/a: unknown", "- /w: left out: it is optional", `! "/x\x1b": opening it: input/output error: look`} {
		if !strings.Contains(text.String(), words) {
			t.Errorf("not said: %q", words)
		}
	}
	if message := report.Termination(); len(message) > terminationLimit || !strings.Contains(message, "more\n") {
		t.Errorf("a termination message of %d bytes", len(message))
	}
	if strings.ContainsRune(text.String(), '\x1b') {
		t.Error("an escape sequence gets through")
	}
}

func TestTheOlderCallsDoTheSame(t *testing.T) {
	dir := mounted(t, "tmpfs")
	want := directory(1000, 2000, 0o750).withAccess(named(0o750, user(3000, 5)))
	makeDir(t, dir, "a", want)
	parent, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(parent)
	fd, err := unix.Openat(parent, "a", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	name := []byte("a\x00")
	for _, older := range []bool{false, true} {
		withoutXattrat.Store(older)
		withoutFchmodat2.Store(older)
		value := make([]byte, 512)
		n, err := System().GetAccessName(parent, &name[0], value)
		if err != nil {
			t.Fatal(err)
		}
		if acl, err := DecodeACL(value[:n]); err != nil || !acl.Equal(want.Access) {
			t.Errorf("older %v: the ACL is %s, %v", older, acl, err)
		}
		if err := System().FchmodDirect(fd, 0o700); err != nil {
			t.Error(err)
		}
		if got := stateAt(t, filepath.Join(dir, "a")).StatMode(); got != 0o700 {
			t.Errorf("older %v: the mode is %04o", older, got)
		}
		put(t, filepath.Join(dir, "a"), want)
	}
	withoutXattrat.Store(false)
	withoutFchmodat2.Store(false)
}
