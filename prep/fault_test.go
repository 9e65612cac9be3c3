package prep

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// faulty counts the calls of a run and does something at one of them: it
// dies before or after the call is made, as a killed process would, or answers
// an error. A dead kernel carries out nothing more, but for closing descriptors.
type faulty struct {
	Kernel
	calls int
	at    int
	// answer is the errno of the call; 0 dies instead.
	answer unix.Errno
	// late dies after the call has been carried out.
	late bool
	dead bool
	// name is the call at which it happened.
	name string
}

// errKilled is what a dead kernel panics with.
var errKilled = errors.New("killed")

func (f *faulty) call(name string, carryOut func() error) error {
	if f.dead {
		panic(errKilled)
	}
	f.calls++
	if f.calls != f.at {
		return carryOut()
	}
	f.name = name
	if f.answer != 0 {
		return f.answer
	}
	if f.late {
		carryOut()
	}
	f.dead = true
	panic(errKilled)
}

func (f *faulty) callInt(name string, carryOut func() (int, error)) (n int, err error) {
	n = -1
	err = f.call(name, func() (err error) { n, err = carryOut(); return err })
	return n, err
}

func (f *faulty) Openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	return f.callInt("openat2", func() (int, error) { return f.Kernel.Openat2(dir, name, how) })
}

func (f *faulty) Openat(dir int, name string, flags int, mode uint32) (int, error) {
	return f.callInt("openat", func() (int, error) { return f.Kernel.Openat(dir, name, flags, mode) })
}

func (f *faulty) Statx(dir int, name string, flags, mask int, stat *unix.Statx_t) error {
	return f.call("statx", func() error { return f.Kernel.Statx(dir, name, flags, mask, stat) })
}

func (f *faulty) Mkdirat(dir int, name string, mode uint32) error {
	return f.call("mkdirat", func() error { return f.Kernel.Mkdirat(dir, name, mode) })
}

func (f *faulty) Renameat2(fromDir int, from string, toDir int, to string, flags uint) error {
	return f.call("renameat2", func() error { return f.Kernel.Renameat2(fromDir, from, toDir, to, flags) })
}

func (f *faulty) Unlinkat(dir int, name string, flags int) error {
	return f.call("unlinkat", func() error { return f.Kernel.Unlinkat(dir, name, flags) })
}

func (f *faulty) Fchownat(fd, uid, gid int) error {
	return f.call("fchownat", func() error { return f.Kernel.Fchownat(fd, uid, gid) })
}

func (f *faulty) Fchmod(fd int, mode uint32) error {
	return f.call("chmod", func() error { return f.Kernel.Fchmod(fd, mode) })
}

func (f *faulty) Getxattr(fd int, name string, value []byte) (int, error) {
	return f.callInt("getxattr", func() (int, error) { return f.Kernel.Getxattr(fd, name, value) })
}

func (f *faulty) Setxattr(fd int, name string, value []byte) error {
	return f.call("setxattr", func() error { return f.Kernel.Setxattr(fd, name, value) })
}

func (f *faulty) Removexattr(fd int, name string) error {
	return f.call("removexattr", func() error { return f.Kernel.Removexattr(fd, name) })
}

func (f *faulty) Utimensat(fd int, times *[2]Moment) error {
	return f.call("utimensat", func() error { return f.Kernel.Utimensat(fd, times) })
}

func (f *faulty) Getdents(fd int, buffer []byte) (int, error) {
	return f.callInt("getdents64", func() (int, error) { return f.Kernel.Getdents(fd, buffer) })
}

// start is a state of volumes from which a run must bear being disturbed.
type start struct {
	name string
	make func(t testing.TB, dir string)
}

func makeDir(t testing.TB, dir, path string, s State) {
	t.Helper()
	full := filepath.Join(dir, path)
	if err := os.MkdirAll(full, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, full, s)
}

// starts are: nothing but the roots; some of it made and wrong; everything
// there, but closed to uid 0 and of somebody else.
var starts = []start{
	{"from empty", func(t testing.TB, dir string) {
		makeDir(t, dir, "models", directory(0, 0, 0o755))
		makeDir(t, dir, "logs", directory(0, 0, 0o755))
	}},
	{"from half done", func(t testing.TB, dir string) {
		makeDir(t, dir, "models/hub/.locks", directory(1001, 2000, 0o770))
		makeDir(t, dir, "models/deep/er", directory(1001, 1001, 0o755))
		makeDir(t, dir, "models/hub", directory(0, 0, 0o777))
		makeDir(t, dir, "models", directory(1000, 1000, 0o2775))
		makeDir(t, dir, "logs", directory(0, 0, 0o755))
	}},
	{"from opaque", func(t testing.TB, dir string) {
		makeDir(t, dir, "models/deep/er", directory(1001, 1001, 0o700))
		makeDir(t, dir, "models/deep", directory(1001, 1001, 0o700))
		makeDir(t, dir, "models/hub", directory(1002, 2000, 0o2700))
		makeDir(t, dir, "models", directory(1001, 2000, 0o2700))
		makeDir(t, dir, "logs", directory(1000, 1000, 0o700))
	}},
}

// fresh empties a directory and sets a start up in it.
func (s start) fresh(t testing.TB, dir string) {
	t.Helper()
	for _, name := range []string{"models", "logs"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.make(t, dir)
}

// disturbed runs apply on a faulty kernel; a nil report means it was killed.
func disturbed(t testing.TB, layout *spec.Layout, dir string, kernel *faulty) (report *Report) {
	t.Helper()
	asVolprep(t, func() {
		defer func() {
			if r := recover(); r != nil && r != errKilled {
				panic(r)
			}
		}()
		caller := Caller{}
		report = Apply(t.Context(), layout, Options{Root: dir, Kernel: kernel, Caller: &caller})
	})
	return report
}

// descriptors counts the open descriptors of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// statesBelow are the states of all directories of a tree, by path.
func statesBelow(t testing.TB, dir string) map[string]State {
	t.Helper()
	states := map[string]State{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			states[path] = stateAt(t, path).State
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return states
}

// mayEnter tells whether a process can come as far as a path, by what the states say.
func mayEnter(states map[string]State, root, path string, subject Caller) bool {
	for at := filepath.Dir(path); len(at) >= len(root); at = filepath.Dir(at) {
		if s, ok := states[at]; ok && !permits(s, subject, spec.PermExecute) {
			return false
		}
	}
	return true
}

// opened lists what somebody may do in a disturbed tree that he could do
// neither before nor after. A directory that is in neither is staged: nobody
// may reach it at all.
func exposures(between, before, after map[string]State, root string) []string {
	var exposed []string
	for path, now := range between {
		was, had := before[path]
		will, has := after[path]
		for _, subject := range subjects {
			may := reach(now, subject)
			if had {
				may &^= reach(was, subject)
			}
			if has {
				may &^= reach(will, subject)
			}
			if may != 0 && mayEnter(between, root, path, subject) {
				exposed = append(exposed, fmt.Sprintf("%s is %s, where %+v may %s", path, now, subject, may))
			}
		}
	}
	return exposed
}

func TestKilledAtEveryCallTheNextRunEndsTheSame(t *testing.T) {
	layout := layoutOf(t, nimLayout)
	names := []string{"ext4", "tmpfs"}
	if !testing.Short() {
		names = fileSystems
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			dir := mounted(t, name)
			os.Remove(filepath.Join(dir, "lost+found"))
			for _, start := range starts {
				start.fresh(t, dir)
				before := statesBelow(t, dir)
				applied(t, layout, Options{Root: dir}, 0)
				want, after := tree(t, dir), statesBelow(t, dir)
				points := 0
				for at := 1; ; at++ {
					ended := false
					for _, late := range []bool{false, true} {
						start.fresh(t, dir)
						kernel := &faulty{Kernel: System(), at: at, late: late}
						report := disturbed(t, layout, dir, kernel)
						if report != nil {
							ended = true
							break
						}
						points++
						point := fmt.Sprintf("%s, killed at call %d (%s, late %v)", start.name, at, kernel.name, late)
						if exposed := exposures(statesBelow(t, dir), before, after, dir); len(exposed) > 0 {
							t.Errorf("%s: %s", point, strings.Join(exposed, "\n"))
						}
						applied(t, layout, Options{Root: dir}, 0)
						if got := tree(t, dir); got != want {
							t.Fatalf("%s: the next run ends as\n%swant\n%s", point, got, want)
						}
					}
					if ended {
						break
					}
				}
				t.Logf("%s: %d points tried and recovered", start.name, points)
			}
		})
	}
}

// errnos are what a call may answer on a bad day.
var errnos = []unix.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EACCES, unix.EPERM, unix.ENOMEM, unix.EMFILE, unix.ENFILE,
	unix.EROFS, unix.ESTALE, unix.ELOOP, unix.ENOENT, unix.EOPNOTSUPP, unix.ENOSYS}

func TestFailedAtEveryCallNothingIsLeftOverAndTheNextRunEndsRight(t *testing.T) {
	layout := layoutOf(t, nimLayout)
	dir := mounted(t, "tmpfs")
	for _, start := range starts {
		start.fresh(t, dir)
		applied(t, layout, Options{Root: dir}, 0)
		want := tree(t, dir)
		points, failures := 0, 0
		for at := 1; ; at++ {
			ended := false
			tried := errnos
			if os.Getenv("VOLPREP_FAULTS") != "all" {
				tried = errnos[at%len(errnos) : at%len(errnos)+1]
			}
			for _, errno := range tried {
				start.fresh(t, dir)
				open := descriptors(t)
				kernel := &faulty{Kernel: System(), at: at, answer: errno}
				report := disturbed(t, layout, dir, kernel)
				if kernel.name == "" {
					ended = true
					break
				}
				points++
				point := fmt.Sprintf("%s, %s at call %d (%s)", start.name, unix.ErrnoName(errno), at, kernel.name)
				if now := descriptors(t); now != open {
					t.Errorf("%s: %d descriptors are left over", point, now-open)
				}
				if report.ExitStatus() == 0 {
					if got := tree(t, dir); got != want {
						t.Errorf("%s: success, but the tree is\n%s", point, got)
					}
				} else {
					failures++
				}
				for _, f := range report.Failures() {
					if f.Path == "" || f.Doing == "" || f.Mend == "" {
						t.Errorf("%s: a failure without path, doing or mend: %q", point, f.Error())
					}
				}
				applied(t, layout, Options{Root: dir}, 0)
				if got := tree(t, dir); got != want {
					t.Fatalf("%s: the next run ends as\n%swant\n%s", point, got, want)
				}
			}
			if ended {
				break
			}
		}
		t.Logf("%s: %d points, %d of them failures of the run", start.name, points, failures)
	}
}
