package prep

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// answering is a kernel that answers one call with an errno, always.
type answering struct {
	Kernel
	mkdirat, openat2, fchownat, setxattr, utimensat, renameFlags unix.Errno
	// deaf lets changes of owner and mode succeed and do nothing.
	deaf bool
}

func answered(errno unix.Errno, otherwise func() error) error {
	if errno != 0 {
		return errno
	}
	return otherwise()
}

func (a answering) Openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	if a.openat2 != 0 {
		return -1, a.openat2
	}
	return a.Kernel.Openat2(dir, name, how)
}

func (a answering) Mkdirat(dir int, name string, mode uint32) error {
	return answered(a.mkdirat, func() error { return a.Kernel.Mkdirat(dir, name, mode) })
}

func (a answering) Fchownat(fd, uid, gid int) error {
	if a.deaf {
		return nil
	}
	return answered(a.fchownat, func() error { return a.Kernel.Fchownat(fd, uid, gid) })
}

func (a answering) Setxattr(fd int, name string, value []byte) error {
	return answered(a.setxattr, func() error { return a.Kernel.Setxattr(fd, name, value) })
}

func (a answering) Utimensat(fd int, times *[2]Moment) error {
	return answered(a.utimensat, func() error { return a.Kernel.Utimensat(fd, times) })
}

func (a answering) Renameat2(fromDir int, from string, toDir int, to string, flags uint) error {
	if flags != 0 && a.renameFlags != 0 {
		return a.renameFlags
	}
	return a.Kernel.Renameat2(fromDir, from, toDir, to, flags)
}

// roots makes the volumes' roots, of root and 0755.
func roots(t testing.TB, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		makeDir(t, dir, name, directory(0, 0, 0o755))
	}
}

func TestWithoutOpenat2OrRenameFlagsTheEndIsTheSame(t *testing.T) {
	layout := layoutOf(t, nimLayout)
	for _, kernel := range []answering{{openat2: unix.ENOSYS}, {openat2: unix.EPERM}, {openat2: unix.EAGAIN}, {renameFlags: unix.EINVAL}} {
		dir := mounted(t, "tmpfs")
		roots(t, dir, "models", "logs")
		kernel.Kernel = System()
		applied(t, layout, Options{Root: dir, Kernel: kernel}, 0)
		if got := tree(t, dir); got != nimTree {
			t.Errorf("%+v: the tree is\n%s", kernel, got)
		}
	}
}

func TestWhatTheKernelAnswersIsExplained(t *testing.T) {
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a, owner: 1000, mode: "0750", access_acl: ["u:3000:r"]}]}]}`)
	for _, c := range []struct {
		kernel answering
		status int
		words  string
	}{
		{answering{mkdirat: unix.ENOSPC}, 1, "no space left on device: the file system has no space or inodes left"},
		{answering{mkdirat: unix.EDQUOT}, 1, "quota"},
		{answering{mkdirat: unix.EIO}, 1, "look into the kernel's log"},
		{answering{mkdirat: unix.ENAMETOOLONG}, 1, "shorten the name"},
		{answering{mkdirat: unix.EMLINK}, 1, "spread them over more parents"},
		{answering{mkdirat: unix.EROFS}, 1, "mounted read-only"},
		{answering{mkdirat: unix.EMFILE}, 1, "raise the limit of open files"},
		{answering{mkdirat: unix.ENOMEM}, 1, "memory limit"},
		{answering{mkdirat: unix.ESTALE}, 1, "mount the volume anew"},
		{answering{mkdirat: unix.ENOSYS}, 1, "seccomp profile"},
		{answering{setxattr: unix.EOPNOTSUPP}, 1, "has no POSIX ACLs"},
		{answering{setxattr: unix.E2BIG}, 1, "grant to groups"},
		{answering{fchownat: unix.EPERM}, 6, "the server squashes root"},
		{answering{fchownat: unix.EINVAL}, 6, "no place in this user namespace (its map: 0 0 4294967295)"},
		{answering{fchownat: unix.EOVERFLOW}, 6, "no place in this user namespace"},
		{answering{deaf: true}, 1, "it does not read back: it is"},
	} {
		dir := mounted(t, "tmpfs")
		roots(t, dir, "v")
		c.kernel.Kernel = System()
		report := applied(t, layout, Options{Root: dir, Kernel: c.kernel}, c.status)
		text := report.Termination()
		if !strings.Contains(text, c.words) || !strings.Contains(text, "/v/a: ") {
			t.Errorf("%+v: the account does not say %q:\n%s", c.kernel, c.words, text)
		}
		if entries, err := os.ReadDir(filepath.Join(dir, "v")); err != nil || len(entries) > 1 {
			t.Errorf("%+v leaves %v, %v", c.kernel, entries, err)
		}
	}
}

func TestOneFailureDoesNotStopTheRest(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "v", "w", "outside")
	if err := os.WriteFile(filepath.Join(dir, "v/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../outside", filepath.Join(dir, "v/link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "v/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := stateAt(t, filepath.Join(dir, "outside"))
	layout := layoutOf(t, `{version: 1, volumes: [
	  {path: /v, directories: [{path: file/a}, {path: link, mode: 777}, {path: fifo}, {path: good, mode: "0700"}]},
	  {path: /missing}, {path: /gone, optional: true}, {path: /w, directories: [{path: here, only: existing}, {path: made/by/hand, only: create, owner: 7}]}]}`)
	report := applied(t, layout, Options{Root: dir}, 5)
	for _, words := range []string{"/v/file: opening the directory: a regular file is in its place", "/v/link: opening the directory: a symbolic link", "/v/fifo: opening the directory: a fifo", "/missing: opening the volume's root: no such file or directory: mount the volume there"} {
		if !strings.Contains(report.Termination(), words) {
			t.Errorf("not said: %q in\n%s", words, report.Termination())
		}
	}
	if report.Summary.Created != 4 || len(report.Skipped) != 2 {
		t.Errorf("%s, skipped %v", report.Line(), report.Skipped)
	}
	if after := stateAt(t, filepath.Join(dir, "outside")); after.identity != before.identity || !after.equal(before.State) {
		t.Errorf("what a link leads to is %s, was %s", after, before)
	}
	if got := stateAt(t, filepath.Join(dir, "w/made/by/hand")); got.UID != 7 {
		t.Errorf("only: create made %s", got)
	}
	put(t, filepath.Join(dir, "w/made/by/hand"), directory(8, 8, 0o711))
	applied(t, layout, Options{Root: dir, Only: []string{"/w"}}, 0)
	if got := stateAt(t, filepath.Join(dir, "w/made/by/hand")); got.UID != 8 || got.Mode != 0o711 {
		t.Errorf("only: create changed what it did not make: %s", got)
	}
}

func TestAReadOnlyVolumeIsFineWhileItIsRight(t *testing.T) {
	dir := mounted(t, "ext4")
	roots(t, dir, "v/a")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	applied(t, layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a, mode: 755}]}]}`), Options{Root: dir}, 0)
	report := applied(t, layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a, mode: 750}, {path: b}]}]}`), Options{Root: dir}, 1)
	if text := report.Termination(); strings.Count(text, "mounted read-only and not yet as the layout says") != 2 {
		t.Errorf("%s", text)
	}
}

func TestAFileSystemWithoutACLsTakesWhatItCan(t *testing.T) {
	requirement(t, os.Geteuid() == 0, "needs root, to mount btrfs")
	dir := mounted(t, "btrfs")
	out, err := exec.Command("mount", "-o", "remount,noacl", dir).CombinedOutput()
	requirement(t, err == nil, "mounting btrfs with noacl: "+string(out))
	roots(t, dir, "v")
	plain := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a, owner: 1000, group: 2000, mode: "2770"}]}]}`)
	applied(t, plain, Options{Root: dir}, 0)
	if got := stateAt(t, filepath.Join(dir, "v/a")); got.State.String() != "2770 1000:2000" {
		t.Errorf("a is %s", got)
	}
	report := applied(t, layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a, access_acl: ["u:3000:r"]}]}]}`), Options{Root: dir}, 1)
	if !strings.Contains(report.Termination(), "has no POSIX ACLs") {
		t.Error(report.Termination())
	}
}

func TestBorrowPolicies(t *testing.T) {
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, owner: 1000, group: 2000, mode: "2750", directories: [{path: a, owner: 1000, group: 2000, mode: "2750"}]}]}`)
	for _, c := range []struct {
		policy Borrow
		groups []uint32
		status int
		lent   bool
	}{
		{BorrowAuto, nil, 0, true},
		{BorrowAuto, []uint32{2000}, 0, false},
		{BorrowNever, []uint32{2000}, 0, false},
		{BorrowNever, nil, 6, false},
		{BorrowOnMismatch, nil, 0, false},
	} {
		dir := mounted(t, "tmpfs")
		makeDir(t, dir, "v/a", directory(1000, 2000, 0o2750))
		makeDir(t, dir, "v", directory(1000, 2000, 0o2750))
		before := changeTimes(t, dir)
		report := appliedInGroups(t, layout, Options{Root: dir, Borrow: c.policy}, c.status, c.groups...)
		if lent := len(report.Actions) > 0; lent != c.lent {
			t.Errorf("%s in %v: %+v", c.policy, c.groups, report.Actions)
		}
		for path, ctime := range changeTimes(t, dir) {
			if !c.lent && before[path] != ctime {
				t.Errorf("%s in %v: the ctime of %s moved", c.policy, c.groups, path)
			}
		}
		if c.status == 6 && !strings.Contains(report.Termination(), "supplementalGroups, group_add), or let volprep borrow it") {
			t.Error(report.Termination())
		}
	}
}

func TestWhatPlanCannotSeeIsUnknown(t *testing.T) {
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a/b}]}]}`)
	dir := mounted(t, "tmpfs")
	makeDir(t, dir, "v/a", directory(1000, 1000, 0o700))
	makeDir(t, dir, "v", directory(1000, 1000, 0o700))
	before := changeTimes(t, dir)
	var report *Report
	asVolprep(t, func() { report = Plan(context.Background(), layout, Options{Root: dir, Caller: &Caller{}}) })
	if len(report.Unknown) != 2 || report.Unknown[1].Path != "/v/a/b" || report.Unknown[1].Behind != "/v" {
		t.Errorf("unknown: %+v", report.Unknown)
	}
	if needed := strings.Join(report.Needed(), " "); needed != "CAP_CHOWN CAP_FOWNER" {
		t.Errorf("needed: %s", needed)
	}
	for path, ctime := range changeTimes(t, dir) {
		if before[path] != ctime {
			t.Errorf("plan moved the ctime of %s", path)
		}
	}
}

func TestParentsThatAreNotListedGetTheDefaultsOnceAndAreThenLeftAlone(t *testing.T) {
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, defaults: {owner: 5, mode: "0711"}, directories: [{path: a/b, mode: "0700"}]}]}`)
	dir := mounted(t, "tmpfs")
	roots(t, dir, "v")
	applied(t, layout, Options{Root: dir}, 0)
	want := ". 0755 0:0\nv 0755 0:0\nv/a 0711 5:0\nv/a/b 0700 5:0\n"
	if got := tree(t, dir); got != want {
		t.Errorf("%s", got)
	}
	put(t, filepath.Join(dir, "v/a"), directory(9, 9, 0o755))
	applied(t, layout, Options{Root: dir}, 0)
	if got := stateAt(t, filepath.Join(dir, "v/a")); got.UID != 9 {
		t.Errorf("a is %s", got)
	}
}

func TestAMountInsideAVolumeIsNotEntered(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "v/other")
	if err := unix.Mount("tmpfs", filepath.Join(dir, "v/other"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "v/other"), 0)
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: other, mode: 700}]}]}`)
	for _, openat2 := range []unix.Errno{0, unix.ENOSYS} {
		report := applied(t, layout, Options{Root: dir, Kernel: answering{Kernel: System(), openat2: openat2}}, 5)
		if !strings.Contains(report.Termination(), "another file system is mounted there") {
			t.Error(report.Termination())
		}
	}
}

func TestAContextThatEndsStopsBetweenTwoActions(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "models", "logs")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var report *Report
	asVolprep(t, func() { report = Apply(ctx, layoutOf(t, nimLayout), Options{Root: dir, Caller: &Caller{}}) })
	if report.ExitStatus() != 1 || !strings.Contains(report.Termination(), "run again to go on") || len(report.Failures()) != 1 {
		t.Errorf("status %d: %s", report.ExitStatus(), report.Termination())
	}
}

func TestManyRunsAtOnceAllSucceed(t *testing.T) {
	layouts := []string{nimLayout, strings.Replace(nimLayout, "path: hub\n", "path: other\n", 1)}
	dir := mounted(t, "ext4")
	os.Remove(filepath.Join(dir, "lost+found"))
	roots(t, dir, "models", "logs")
	runs := 64
	reports := make([]*Report, runs)
	var group sync.WaitGroup
	for i := range runs {
		layout := layoutOf(t, layouts[i%2])
		group.Go(func() {
			asVolprep(t, func() { reports[i] = Apply(context.Background(), layout, Options{Root: dir, Caller: &Caller{}}) })
		})
	}
	group.Wait()
	for i, report := range reports {
		if report.ExitStatus() != 0 {
			t.Errorf("run %d: %s", i, report.Termination())
		}
	}
	for _, layout := range layouts {
		applied(t, layoutOf(t, layout), Options{Root: dir}, 0)
	}
	want := strings.Replace(nimTree, "models/hub 2750", "models/other 2750 0:2000 access u::rwx,u:3000:r-x,g::r-x,m::r-x,o::--- default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---\nmodels/hub 2750", 1)
	if got := tree(t, dir); sortedLines(got) != sortedLines(want) {
		t.Errorf("the tree is\n%swant\n%s", got, want)
	}
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestTheReportsForPeople(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "models", "logs")
	makeDir(t, dir, "logs/nim", directory(5, 5, 0o777))
	layout := layoutOf(t, nimLayout)
	var plan, verify *Report
	asVolprep(t, func() {
		plan = Plan(context.Background(), layout, Options{Root: dir, Caller: &Caller{}})
		verify = Verify(context.Background(), layout, Options{Root: dir, Caller: &Caller{}})
	})
	apply := applied(t, layout, Options{Root: dir}, 0)
	var text, coloured strings.Builder
	plan.Tree(&text, false)
	verify.Verdict(&text, false)
	apply.Account(&text, false)
	goldenText(t, "testdata/reports.txt", text.String())
	plan.Tree(&coloured, true)
	if !strings.Contains(coloured.String(), "\x1b[32m+ hub\x1b[0m") {
		t.Errorf("no colours: %q", coloured.String())
	}
	if verify.ExitStatus() != 4 || plan.ExitStatus() != 0 {
		t.Errorf("verify %d, plan %d", verify.ExitStatus(), plan.ExitStatus())
	}
	var json strings.Builder
	if err := apply.JSON(&json); err != nil || !strings.Contains(json.String(), `"used": [
      "CAP_CHOWN",
      "CAP_FOWNER"
    ]`) {
		t.Errorf("%v %s", err, json.String())
	}
	if apply.Milliseconds > int64(time.Minute/time.Millisecond) {
		t.Errorf("it took %d ms", apply.Milliseconds)
	}
}

func goldenText(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("VOLPREP_UPDATE") != "" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s is not\n%s", name, got)
	}
}

func TestHostileNamesReachNoTerminal(t *testing.T) {
	for path, want := range map[string]string{
		"/v/plain":       "/v/plain",
		"/v/a\x1b[31mb":  `"/v/a\x1b[31mb"`,
		"/v/line\nbreak": `"/v/line\nbreak"`,
		"/v/\xff":        `"/v/\xff"`,
		"/v/ü":           "/v/ü",
	} {
		if got := printable(path); got != want {
			t.Errorf("%q is shown as %s, want %s", path, got, want)
		}
	}
}

func TestASlipRemembersWhatItMust(t *testing.T) {
	for _, s := range []slip{
		{uid: 1000, ownerDigit: 7, veil: noVeil}, {uid: 4294967294, ownerDigit: 0, veil: 3, setgid: true}, {uid: 65536, ownerDigit: 5},
	} {
		info := inodeInfo{State: directory(0, 0, 0o700), access: s.time()}
		if got, ok := slipOf(info, Caller{}); !ok || got != s {
			t.Errorf("%+v reads back as %+v, %v", s, got, ok)
		}
		if s.time().Nsec >= 1e9 || s.time().Sec >= 1<<31 {
			t.Errorf("%+v has the time %+v", s, s.time())
		}
		info.UID = 1000
		if _, ok := slipOf(info, Caller{}); ok {
			t.Errorf("a slip counts on a directory of somebody else")
		}
		info.UID = 0
		info.access.Nsec++
		if got, ok := slipOf(info, Caller{}); ok && got == s {
			t.Errorf("a changed slip counts as the same")
		}
	}
}

// Go's runtime interrupts its own threads, and a seccomp notifier may: the
// call is made again, and never given up.
func TestAnInterruptedCallIsMadeAgain(t *testing.T) {
	calls := 0
	err := retry(func() error {
		if calls++; calls < 3 {
			return unix.EINTR
		}
		return unix.EIO
	})
	if err != unix.EIO || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
	calls = 0
	n, err := retryInt(func() (int, error) {
		if calls++; calls < 3 {
			return 0, unix.EINTR
		}
		return calls, nil
	})
	if err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
}
