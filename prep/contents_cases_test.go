package prep

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"volprep/spec"
)

// plainRules want ids and modes of everything.
func plainRules() spec.Contents {
	return spec.Contents{Owner: number(1000), Group: number(2000), DirMode: octal(0o750), FileMode: octal(0o640), OneFileSystem: true}
}

// planted is a fresh tree.
func planted(t testing.TB, tree ...seedling) string {
	t.Helper()
	requirement(t, os.Geteuid() == 0, "needs root, to make files of others")
	root := filepath.Join(t.TempDir(), "volume")
	grow(t, root, tree)
	return root
}

func dirAt(path string, uid, gid, mode uint32) seedling {
	return seedling{Path: path, Kind: 'd', UID: uid, GID: gid, Mode: mode}
}

func fileAt(path string, uid, gid, mode uint32) seedling {
	return seedling{Path: path, Kind: 'f', UID: uid, GID: gid, Mode: mode}
}

// walkHere walks in this process, with all capabilities.
func walkHere(t testing.TB, root string, change func(*Contents)) ContentsResult {
	t.Helper()
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	c := &Contents{Root: fd, RootPath: root, Rules: plainRules(), Jobs: 2}
	if change != nil {
		change(c)
	}
	result, err := c.Walk(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat
}

// is tells whether a path has these ids and this mode.
func is(t testing.TB, path string, uid, gid, mode uint32) {
	t.Helper()
	s := stat(t, path)
	if s.Uid != uid || s.Gid != gid || s.Mode&modeBits != mode {
		t.Errorf("%s is %d:%d %04o, and should be %d:%d %04o", path, s.Uid, s.Gid, s.Mode&modeBits, uid, gid, mode)
	}
}

// opensNoDescriptors fails where a test leaves more descriptors open than there were.
func opensNoDescriptors(t testing.TB) {
	t.Helper()
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	t.Cleanup(func() {
		if after := count(); after > before {
			t.Errorf("%d descriptors are left open", after-before)
		}
	})
}

func TestAWalkChangesTheRootToo(t *testing.T) {
	root := planted(t, fileAt("f", 0, 0, 0o644))
	opensNoDescriptors(t)
	result := walkHere(t, root, nil)
	if result.Changed != 2 || result.Scanned != 2 {
		t.Errorf("changed %d of %d", result.Changed, result.Scanned)
	}
	is(t, root, 1000, 2000, 0o750)
	is(t, filepath.Join(root, "f"), 1000, 2000, 0o640)
}

func TestAReadOnlyWalkCountsAndChangesNothing(t *testing.T) {
	root := planted(t, fileAt("f", 0, 0, 0o644), fileAt("g", 1000, 2000, 0o640), dirAt("d", 1000, 2000, 0o750))
	before := changeTimes(t, root)
	var wrong []string
	result := walkHere(t, root, func(c *Contents) {
		c.ReadOnly = true
		c.Entry = func(path string, have, want State) {
			wrong = append(wrong, fmt.Sprintf("%s %s -> %s", strings.TrimPrefix(path, root), have, want))
		}
	})
	if result.Changed != 2 {
		t.Errorf("%d are wrong: %q", result.Changed, wrong)
	}
	want := []string{"/f 0644 0:0 -> 0640 1000:2000", " 0755 0:0 -> 0750 1000:2000"}
	if difference := cmp.Diff(want, wrong); difference != "" {
		t.Error(difference)
	}
	if difference := cmp.Diff(before, changeTimes(t, root)); difference != "" {
		t.Error(difference)
	}
}

func TestDeclaredDirectoriesKeepWhatTheyHave(t *testing.T) {
	root := planted(t, dirAt("hub", 5, 6, 0o700), dirAt("hub/models", 0, 0, 0o755), dirAt("hub/models/x", 7, 8, 0o711), fileAt("hub/models/x/f", 0, 0, 0o600))
	walkHere(t, root, func(c *Contents) { c.Declared = []string{".", "hub", "hub/models/x"} })
	is(t, root, 0, 0, 0o755)
	is(t, filepath.Join(root, "hub"), 5, 6, 0o700)
	is(t, filepath.Join(root, "hub/models"), 1000, 2000, 0o750)
	is(t, filepath.Join(root, "hub/models/x"), 7, 8, 0o711)
	is(t, filepath.Join(root, "hub/models/x/f"), 1000, 2000, 0o640)
}

func TestRootMismatchTrustsARootThatIsRight(t *testing.T) {
	when := func(c *Contents) { c.Rules.When = spec.WhenRootMismatch }
	root := planted(t, fileAt("f", 0, 0, 0o644))
	if result := walkHere(t, root, when); result.RootRight || result.Changed != 2 {
		t.Fatalf("with a wrong root: %+v", result)
	}
	if err := os.Chown(filepath.Join(root, "f"), 5, 5); err != nil {
		t.Fatal(err)
	}
	if result := walkHere(t, root, when); !result.RootRight || result.Scanned != 0 {
		t.Errorf("with a right root: %+v", result)
	}
	declared := func(right bool) func(*Contents) {
		return func(c *Contents) { when(c); c.Declared, c.RootRight = []string{"."}, right }
	}
	if result := walkHere(t, root, declared(true)); !result.RootRight {
		t.Errorf("with a declared root that is right: %+v", result)
	}
	if result := walkHere(t, root, declared(false)); result.RootRight || result.Changed != 1 {
		t.Errorf("with a declared root that is wrong: %+v", result)
	}
}

func TestARootMismatchWalkLeavesTheRootWrongAfterARefusal(t *testing.T) {
	root := planted(t, fileAt("f", 0, 0, 0o644))
	if err := os.Link(filepath.Join(root, "f"), filepath.Join(filepath.Dir(root), "outside")); err != nil {
		t.Fatal(err)
	}
	walkHere(t, root, func(c *Contents) { c.Rules.When, c.Rules.Hardlinks = spec.WhenRootMismatch, spec.HardlinksRefuse })
	is(t, root, 0, 0, 0o755)
}

func TestAlwaysChangesWhatIsRight(t *testing.T) {
	root := planted(t, fileAt("f", 0, 0, 0o644), dirAt("d", 0, 0, 0o755))
	walkHere(t, root, nil)
	before := changeTimes(t, root)
	result := walkHere(t, root, func(c *Contents) { c.Rules.When = spec.WhenAlways })
	if result.Changed != 3 {
		t.Errorf("changed %d of 3", result.Changed)
	}
	for path, now := range changeTimes(t, root) {
		if now == before[path] {
			t.Errorf("%s was left alone", path)
		}
	}
}

func TestHardLinks(t *testing.T) {
	for _, test := range []struct {
		name     string
		policy   spec.Hardlinks
		outside  bool
		changed  bool
		refusals int64
	}{
		{"inside changes a file of which all names were found", spec.HardlinksInside, false, true, 0},
		{"inside refuses a file with a name outside", spec.HardlinksInside, true, false, 1},
		{"inside is what counts where nothing is said", "", true, false, 1},
		{"refuse refuses each name", spec.HardlinksRefuse, false, false, 3},
		{"change changes all the same", spec.HardlinksChange, true, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := planted(t, dirAt("a", 0, 0, 0o755), dirAt("b", 0, 0, 0o755), fileAt("a/1", 0, 0, 0o644))
			names := []string{filepath.Join(root, "a/2"), filepath.Join(root, "b/3")}
			if test.outside {
				names = append(names, filepath.Join(filepath.Dir(root), "outside"))
			}
			for _, name := range names {
				if err := os.Link(filepath.Join(root, "a/1"), name); err != nil {
					t.Fatal(err)
				}
			}
			result := walkHere(t, root, func(c *Contents) { c.Rules.Hardlinks = test.policy })
			if result.RefusedCount != test.refusals {
				t.Errorf("refused %d: %+v", result.RefusedCount, result.Refused)
			}
			if test.changed {
				is(t, filepath.Join(root, "a/1"), 1000, 2000, 0o640)
			} else {
				is(t, filepath.Join(root, "a/1"), 0, 0, 0o644)
			}
			is(t, filepath.Join(root, "b"), 1000, 2000, 0o750)
		})
	}
}

// One name that is shown twice, by renaming it in between, is not two names.
func TestNamesCountOnlyWhenAllWereThereAtOnce(t *testing.T) {
	file, folder := inodeIdentity{dev: 1, ino: 2}, inodeIdentity{dev: 1, ino: 3}
	type look struct {
		name    string
		changed int64
		settled bool
	}
	for _, c := range []struct {
		name  string
		looks []look
		all   bool
	}{
		{"both names, and nothing changed in between", []look{{"a", 1, true}, {"b", 1, true}}, true},
		{"one name twice", []look{{"a", 1, true}, {"a", 1, true}}, false},
		{"a name that was renamed in between", []look{{"a", 1, true}, {"b", 2, true}}, false},
		{"a name that may have been renamed within a tick of the clock", []look{{"a", 1, false}, {"b", 1, true}}, false},
		{"both names, after one that was renamed", []look{{"a", 1, true}, {"b", 2, true}, {"c", 2, true}}, false},
	} {
		var l links
		l.init()
		all := false
		for _, look := range c.looks {
			all = l.found(file, 2, Moment{Sec: look.changed}, look.settled, sighting{folder, look.name}, "/v/a")
		}
		if all != c.all {
			t.Errorf("%s: %v", c.name, all)
		}
	}
}

func TestARightFileWithANameOutsideIsNoConcern(t *testing.T) {
	root := planted(t, fileAt("f", 1000, 2000, 0o640))
	if err := os.Link(filepath.Join(root, "f"), filepath.Join(filepath.Dir(root), "outside")); err != nil {
		t.Fatal(err)
	}
	if result := walkHere(t, root, nil); result.RefusedCount != 0 {
		t.Errorf("refused: %+v", result.Refused)
	}
}

func TestSymbolicLinksChangeThemselvesAndNeverTheirTarget(t *testing.T) {
	root := planted(t)
	outside := filepath.Join(filepath.Dir(root), "outside")
	if err := os.MkdirAll(filepath.Join(outside, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"directory": outside, "file": "/etc/passwd", "dangling": "nowhere", "up": ".."} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	passwd := stat(t, "/etc/passwd")
	if result := walkHere(t, root, nil); result.Changed != 5 {
		t.Errorf("changed %d of 5", result.Changed)
	}
	for _, name := range []string{"directory", "file", "dangling", "up"} {
		if s := stat(t, filepath.Join(root, name)); s.Uid != 1000 || s.Gid != 2000 {
			t.Errorf("%s is %d:%d", name, s.Uid, s.Gid)
		}
	}
	is(t, outside, 0, 0, 0o700)
	is(t, filepath.Join(outside, "in"), 0, 0, 0o700)
	if after := stat(t, "/etc/passwd"); after.Uid != passwd.Uid || after.Mode != passwd.Mode || after.Ctim != passwd.Ctim {
		t.Error("/etc/passwd was changed")
	}
}

func TestDeviceNodesAreRefused(t *testing.T) {
	root := planted(t, seedling{Path: "pipe", Kind: 'p', Mode: 0o600})
	requirement(t, unix.Mknod(filepath.Join(root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil, "needs CAP_MKNOD")
	result := walkHere(t, root, nil)
	if result.RefusedCount != 1 || !strings.HasSuffix(result.Refused[0].Path, "/null") || !strings.Contains(result.Refused[0].Why, "device") {
		t.Errorf("refused: %+v", result.Refused)
	}
	if s := stat(t, filepath.Join(root, "null")); s.Uid != 0 {
		t.Error("the device node was changed")
	}
	is(t, filepath.Join(root, "pipe"), 1000, 2000, 0o600)
}

func TestWhatAChangeOfOwnerClearsIsReported(t *testing.T) {
	root := planted(t, fileAt("suid", 0, 0, 0o4755), fileAt("caps", 0, 0, 0o755), fileAt("plain", 0, 0, 0o755))
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	requirement(t, unix.Setxattr(filepath.Join(root, "caps"), "security.capability", capability, 0) == nil, "needs CAP_SETFCAP")
	result := walkHere(t, root, func(c *Contents) { c.Rules.FileMode = nil })
	if result.ClearedSetid != 1 || result.ClearedCapabilities != 1 || len(result.Cleared) != 2 {
		t.Errorf("cleared: %d, %d, %q", result.ClearedSetid, result.ClearedCapabilities, result.Cleared)
	}
	is(t, filepath.Join(root, "suid"), 1000, 2000, 0o755)
}

func TestAnotherMountIsNotEntered(t *testing.T) {
	root := planted(t, dirAt("mount", 0, 0, 0o755), dirAt("bind", 0, 0, 0o755), dirAt("source", 0, 0, 0o755), fileAt("source/f", 0, 0, 0o644), fileAt("file", 0, 0, 0o644))
	other := filepath.Join(filepath.Dir(root), "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, how := range map[string]struct {
		source, kind string
		flags        uintptr
	}{"mount": {"tmpfs", "tmpfs", 0}, "bind": {filepath.Join(filepath.Dir(root), "volume/source"), "", unix.MS_BIND}, "file": {other, "", unix.MS_BIND}} {
		at := filepath.Join(root, at)
		err := unix.Mount(how.source, at, how.kind, how.flags, "")
		requirement(t, err == nil, fmt.Sprintf("needs mount(2): %v", err))
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	if err := os.WriteFile(filepath.Join(root, "mount/f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	walkHere(t, root, nil)
	is(t, filepath.Join(root, "mount/f"), 0, 0, 0o644)
	is(t, filepath.Join(root, "mount"), 0, 0, 0o1777)
	is(t, other, 0, 0, 0o600)
	is(t, filepath.Join(root, "source/f"), 1000, 2000, 0o640)

	walkHere(t, root, func(c *Contents) { c.Rules.OneFileSystem = false })
	is(t, filepath.Join(root, "mount/f"), 1000, 2000, 0o640)
	is(t, filepath.Join(root, "mount"), 1000, 2000, 0o750)
}

func TestTheStagingDirectoryAndWhatIsExcludedAreLeftAlone(t *testing.T) {
	root := planted(t, dirAt(StagingName, 0, 0, 0o700), fileAt(StagingName+"/f", 0, 0, 0o644), dirAt("lost+found", 0, 0, 0o700),
		dirAt("user", 1001, 1001, 0o755), dirAt("user/"+StagingName, 1001, 1001, 0o755), fileAt("skip.tmp", 0, 0, 0o600))
	walkHere(t, root, func(c *Contents) { c.Rules.Exclude = []string{"lost+found", "*.tmp"} })
	is(t, filepath.Join(root, StagingName), 0, 0, 0o700)
	is(t, filepath.Join(root, StagingName, "f"), 0, 0, 0o644)
	is(t, filepath.Join(root, "lost+found"), 0, 0, 0o700)
	is(t, filepath.Join(root, "skip.tmp"), 0, 0, 0o600)
	is(t, filepath.Join(root, "user", StagingName), 1000, 2000, 0o750)
}

func TestOpaqueDirectoriesAreBorrowedAndGivenBack(t *testing.T) {
	w := startWalker(t)
	tree := []seedling{dirAt("a", 1001, 1001, 0o700), dirAt("a/b", 1001, 1001, 0o700), fileAt("a/b/f", 1001, 1001, 0o600)}
	for i := range 300 {
		tree = append(tree, fileAt(fmt.Sprintf("a/f%d", i), 1001, 1001, 0o600))
	}
	root := planted(t, tree...)
	rules := spec.Contents{Group: number(2000), FileMode: octal(0o640), OneFileSystem: true}

	reply := w.walk(t, walkRequest{Root: root, Rules: rules, Jobs: 2, Borrow: BorrowNever})
	if reply.Result.OpaqueCount != 1 || reply.Result.Borrows != 0 || !strings.HasSuffix(reply.Result.Opaque[0], "/a") {
		t.Errorf("with borrow never: %+v", reply)
	}
	reply = w.walk(t, walkRequest{Root: root, Rules: rules, Jobs: 2, Borrow: BorrowOnMismatch})
	if reply.Result.Borrows != 0 || reply.Result.OpaqueCount != 0 {
		t.Errorf("with borrow on-mismatch and a directory that is right: %+v", reply)
	}
	is(t, filepath.Join(root, "a/b/f"), 1001, 1001, 0o600)

	reply = w.walk(t, walkRequest{Root: root, Rules: rules, Jobs: 2, Borrow: BorrowAuto})
	reply.clean(t)
	if reply.Result.Borrows == 0 {
		t.Error("nothing was borrowed")
	}
	is(t, filepath.Join(root, "a"), 1001, 2000, 0o700)
	is(t, filepath.Join(root, "a/b"), 1001, 2000, 0o700)
	is(t, filepath.Join(root, "a/b/f"), 1001, 2000, 0o640)
	is(t, filepath.Join(root, "a/f299"), 1001, 2000, 0o640)
}

// deepest makes a chain of directories, each with a file, without ever holding a long path.
func deepest(t testing.TB, root string, levels int) {
	t.Helper()
	at, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := 0; err == nil && i < levels; i++ {
		var next, fd int
		if fd, err = unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err == nil {
			unix.Close(fd)
			if err = unix.Mkdirat(at, "d", 0o755); err == nil {
				next, err = unix.Openat(at, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
		}
		unix.Close(at)
		at = next
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(at)
	t.Cleanup(func() { exec.Command("rm", "-rf", root).Run() })
}

func TestATreeOf4000Levels(t *testing.T) {
	root := planted(t)
	deepest(t, root, 4000)
	opensNoDescriptors(t)
	began := time.Now()
	result := walkHere(t, root, nil)
	if result.Changed != 8001 || result.FailedCount != 0 || result.Vanished != 0 {
		t.Fatalf("%+v", result)
	}
	t.Logf("%v", time.Since(began))
	if again := walkHere(t, root, nil); again.Changed != 0 || again.Scanned != 8001 {
		t.Errorf("a second walk: %+v", again)
	}
}

func TestFourShardsDoWhatOneWalkDoes(t *testing.T) {
	var tree []seedling
	for d := range 40 {
		name := fmt.Sprintf("d%d", d)
		tree = append(tree, dirAt(name, 0, 0, 0o755), dirAt(name+"/below", 5, 5, 0o700))
		for f := range 10 {
			tree = append(tree, fileAt(fmt.Sprintf("%s/f%d", name, f), 0, 0, 0o644), fileAt(fmt.Sprintf("%s/below/f%d", name, f), 3, 3, 0o600))
		}
	}
	one, four := planted(t, tree...), planted(t, tree...)
	whole := walkHere(t, one, nil)
	const count = 4
	var walkers sync.WaitGroup
	var changed atomic.Int64
	var parts [count]int64
	for index := range count {
		walkers.Go(func() {
			result := walkHere(t, four, func(c *Contents) { c.Shard, c.Count = index, count })
			changed.Add(result.Changed)
			parts[index] = result.Changed
		})
	}
	walkers.Wait()
	if difference := cmp.Diff(snapshot(t, one), snapshot(t, four)); difference != "" {
		t.Error(difference)
	}
	if changed.Load() != whole.Changed {
		t.Errorf("four shards changed %d, one walk %d", changed.Load(), whole.Changed)
	}
	for index, part := range parts {
		if part == 0 {
			t.Errorf("shard %d did nothing", index)
		}
	}
}

func TestAShardRefusesAFileOfWhichAnotherShardHasANameAndSaysHowToMend(t *testing.T) {
	var tree []seedling
	for d := range 16 {
		tree = append(tree, dirAt(fmt.Sprintf("d%d", d), 0, 0, 0o755))
	}
	root := planted(t, append(tree, fileAt("d0/f", 0, 0, 0o644))...)
	for d := 1; d < 16; d++ {
		if err := os.Link(filepath.Join(root, "d0/f"), filepath.Join(root, fmt.Sprintf("d%d/f", d))); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for index := range 4 {
		result := walkHere(t, root, func(c *Contents) { c.Shard, c.Count = index, 4 })
		for _, refusal := range result.Refused {
			refused++
			if !strings.Contains(refusal.Mend, "without --shard") {
				t.Errorf("%+v", refusal)
			}
		}
	}
	if refused == 0 {
		t.Error("no shard refused it")
	}
	is(t, filepath.Join(root, "d0/f"), 0, 0, 0o644)
	walkHere(t, root, nil)
	is(t, filepath.Join(root, "d0/f"), 1000, 2000, 0o640)
}

func TestALiveWriterBesideTheWalkIsNoFailure(t *testing.T) {
	var tree []seedling
	for d := range 20 {
		tree = append(tree, dirAt(fmt.Sprintf("d%d", d), 0, 0, 0o755))
	}
	root := planted(t, tree...)
	ctx, stop := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	var made atomic.Int64
	for n := range 2 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				folder := filepath.Join(root, fmt.Sprintf("d%d", i%20))
				name := filepath.Join(folder, fmt.Sprintf("w%d-%d", n, i%64))
				os.WriteFile(name+".tmp", nil, 0o644)
				os.Rename(name+".tmp", name)
				os.Mkdir(name+".d", 0o755)
				os.WriteFile(name+".d/f", nil, 0o644)
				if i%3 != 0 {
					os.Remove(name)
					os.RemoveAll(name + ".d")
				}
				made.Add(1)
			}
		})
	}
	began := time.Now()
	var vanished int64
	for rounds := 0; rounds < 5 || time.Since(began) < 500*time.Millisecond; rounds++ {
		result := walkHere(t, root, nil)
		if result.FailedCount+result.RefusedCount > 0 {
			t.Errorf("failed: %v, refused: %+v", result.Failed, result.Refused)
			break
		}
		vanished += result.Vanished
	}
	stop()
	writers.Wait()
	t.Logf("%d rounds of writing, %d entries vanished", made.Load(), vanished)
	if made.Load() == 0 {
		t.Error("nobody wrote")
	}
	walkHere(t, root, nil)
	for path, state := range snapshot(t, root) {
		if !strings.Contains(state, "1000:2000") {
			t.Errorf("%s is %s", path, state)
		}
	}
}

// TestAWalkThatIsKilledEndsRightNextTime kills a walk at a random point, over and over.
func TestAWalkThatIsKilledEndsRightNextTime(t *testing.T) {
	var tree []seedling
	for d := range 12 {
		name := fmt.Sprintf("d%d", d)
		tree = append(tree, dirAt(name, 1001, 1001, 0o700))
		for f := range 25 {
			tree = append(tree, fileAt(fmt.Sprintf("%s/f%d", name, f), uint32(f), 0, 0o600))
		}
	}
	goal := goals()[3] // setgid of a foreign group, the order with the most steps
	want := planted(t, tree...)
	goal.oldWay(t, want)
	expected := snapshot(t, want)

	kills := trees(12)
	killed := 0
	for i := range kills {
		root := planted(t, tree...)
		w := startWalker(t)
		if err := w.in.Encode(walkRequest{Root: root, Rules: goal.rules, Jobs: 2}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20*time.Millisecond + time.Duration(i*997%30000)*time.Microsecond)
		w.command.Process.Kill()
		if w.command.Wait(); w.command.ProcessState.ExitCode() == -1 {
			killed++
		}
		next := startWalker(t)
		next.walk(t, walkRequest{Root: root, Rules: goal.rules, Jobs: 2}).clean(t)
		if difference := cmp.Diff(expected, snapshot(t, root)); difference != "" {
			t.Fatalf("after kill %d: %s", i, difference)
		}
	}
	if killed == 0 {
		t.Error("no walk was killed")
	}
}

func TestAnInterruptedWalkSaysSoAndLeavesTheRoot(t *testing.T) {
	root := planted(t, fileAt("f", 0, 0, 0o644))
	opensNoDescriptors(t)
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (&Contents{Root: fd, RootPath: root, Rules: plainRules()}).Walk(ctx); err == nil {
		t.Error("no error")
	}
	is(t, root, 0, 0, 0o755)
}

func TestARightEntryCostsNoAllocation(t *testing.T) {
	tree := []seedling{}
	for f := range 500 {
		tree = append(tree, fileAt(fmt.Sprintf("f%d", f), 1000, 2000, 0o640))
	}
	for _, test := range []struct {
		name   string
		change func(*Contents)
	}{
		{"without ACLs", nil},
		{"with an ACL", func(c *Contents) {
			c.Rules.Access = &spec.ACL{Entries: []spec.Entry{{Tag: spec.TagUser, ID: 3000, Perm: spec.PermRead}}}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			few, many := planted(t, tree[:100]...), planted(t, tree...)
			allocations := func(root string) uint64 {
				walkHere(t, root, test.change)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for range 10 {
					walkHere(t, root, test.change)
				}
				runtime.ReadMemStats(&after)
				return after.Mallocs - before.Mallocs
			}
			a, b := allocations(few), allocations(many)
			if perEntry := (float64(b) - float64(a)) / 4000; perEntry > 0.1 {
				t.Errorf("%.2f allocations an entry: %d for 10 walks of 100 entries, %d for 500", perEntry, a, b)
			}
		})
	}
}

func TestProgressIsTold(t *testing.T) {
	root := planted(t, fileAt("f", 0, 0, 0o644))
	var last ContentsProgress
	walkHere(t, root, func(c *Contents) { c.Progress = func(p ContentsProgress) { last = p } })
	if last.Scanned != 2 || last.Changed != 2 {
		t.Errorf("the last report was %+v", last)
	}
}
