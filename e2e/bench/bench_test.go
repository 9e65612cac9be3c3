// Package bench holds a contents walk against the tools that people use in its
// place, on one tree, interleaved in one run: the ratios of the medians are
// what counts, for they depend little on the machine.
//
//	go test ./e2e/bench -v                       a small tree
//	VOLPREP_BENCH=full go test ./e2e/bench -v    the table of 200,000 files, and a directory of 1,000,000
package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"volprep/prep"
	"volprep/spec"
)

// full tells whether the large trees are asked for.
func full() bool { return os.Getenv("VOLPREP_BENCH") == "full" }

// requirement skips a test that lacks something, with the reason; with
// VOLPREP_E2E=require the lack is a failure.
func requirement(t testing.TB, met bool, reason string) {
	t.Helper()
	if met {
		return
	}
	if os.Getenv("VOLPREP_E2E") == "require" {
		t.Fatalf("required, but: %s", reason)
	}
	t.Skip(reason)
}

const (
	rightOwner, rightGroup = 1000, 2000
	wrongOwner, wrongGroup = 1001, 2001
)

// tree is a directory of folders with as many files each.
type tree struct {
	root           string
	folders, files int
}

func plant(t testing.TB, folders, files int) tree {
	t.Helper()
	requirement(t, os.Geteuid() == 0, "needs root, to make files of others")
	root := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(root, 0o755))
	for d := range folders {
		folder := filepath.Join(root, fmt.Sprintf("models--%03d", d))
		must(t, os.Mkdir(folder, 0o755))
		for f := range files {
			fd, err := unix.Open(filepath.Join(folder, fmt.Sprintf("%040x", d*files+f)), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			must(t, err)
			unix.Close(fd)
		}
	}
	return tree{root, folders, files}
}

func must(t testing.TB, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

// command runs one of the old tools.
func command(t testing.TB, name string, arguments ...string) {
	t.Helper()
	if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, arguments, err, out)
	}
}

// rules want ids and modes, and the ACLs if so asked.
func rules(acls bool) spec.Contents {
	owner, group := uint32(rightOwner), uint32(rightGroup)
	contents := spec.Contents{Owner: &owner, Group: &group, OneFileSystem: true,
		DirMode:  &spec.Mode{Text: "0750", Absolute: true, Bits: 0o750},
		FileMode: &spec.Mode{Text: "0640", Absolute: true, Bits: 0o640}}
	if acls {
		contents.Access = &spec.ACL{Entries: []spec.Entry{{Tag: spec.TagUser, ID: 3000, Perm: spec.PermRead | spec.PermConditionalExecute}}}
		contents.Default = contents.Access
	}
	return contents
}

// ours is a contents walk.
func ours(t testing.TB, at tree, acls bool, jobs int) prep.ContentsResult {
	t.Helper()
	return walk(t, at.root, rules(acls), jobs)
}

func walk(t testing.TB, root string, rules spec.Contents, jobs int) prep.ContentsResult {
	t.Helper()
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	contents := prep.Contents{Root: fd, RootPath: root, Rules: rules, Jobs: jobs}
	result, err := contents.Walk(context.Background())
	must(t, err)
	if result.FailedCount+result.RefusedCount+result.OpaqueCount > 0 {
		t.Fatalf("the walk failed: %+v", result)
	}
	return result
}

// find is find(1) with the same tests.
func find(t testing.TB, at tree, _ bool) {
	command(t, "find", at.root, "(", "!", "-uid", fmt.Sprint(rightOwner), "-o", "!", "-gid", fmt.Sprint(rightGroup), "-o",
		"-type", "d", "!", "-perm", "0750", "-o", "-type", "f", "!", "-perm", "0640", ")", "-print")
}

// changeAll is chown -R and chmod -R, and setfacl -R if so asked.
func changeAll(t testing.TB, at tree, acls bool) {
	command(t, "chown", "-R", fmt.Sprintf("%d:%d", rightOwner, rightGroup), at.root)
	command(t, "chmod", "-R", "u=rwX,g=rX,o=", at.root)
	if acls {
		command(t, "setfacl", "-R", "-m", "u:3000:rX,d:u:3000:rX", at.root)
	}
}

// kubelet walks as SetVolumeOwnership does: filepath.Walk, lchown and chmod of every entry
// (pkg/volume/volume_linux.go of Kubernetes).
func kubelet(t testing.TB, at tree, _ bool) {
	must(t, filepath.Walk(at.root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(path, rightOwner, rightGroup); err != nil {
			return err
		}
		if info.Mode()&os.ModeSymlink != 0 {
			return nil
		}
		mode := fs.FileMode(0o640)
		if info.IsDir() {
			mode = 0o750
		}
		return os.Chmod(path, mode)
	}))
}

// makeWrong undoes what any of them did.
func (at tree) makeWrong(t testing.TB, acls bool) {
	if acls {
		command(t, "setfacl", "-R", "-b", "-k", at.root)
	}
	command(t, "chown", "-R", fmt.Sprintf("%d:%d", wrongOwner, wrongGroup), at.root)
	command(t, "chmod", "-R", "u=rwX,go=rX", at.root)
}

func timed(action func()) time.Duration {
	began := time.Now()
	action()
	return time.Since(began)
}

func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}

// ratio runs both in turn, each after the same preparation, and gives the ratio of the medians.
func ratio(t *testing.T, rounds int, prepare, first, second func()) float64 {
	t.Helper()
	var a, b []time.Duration
	for range rounds {
		prepare()
		a = append(a, timed(first))
		prepare()
		b = append(b, timed(second))
	}
	value := float64(median(a)) / float64(median(b))
	t.Logf("%v ÷ %v", median(a).Round(100*time.Microsecond), median(b).Round(100*time.Microsecond))
	return value
}

// report prints a line of the table, and fails where a full run is above its
// bound and not near the careful floor of the same run either.
func report(t *testing.T, what string, value, bound, floor float64) {
	t.Helper()
	t.Logf("%-62s %.3f (at most %.3f; %.2f of the careful floor)", what, value, bound, value/floor)
	if full() && value > max(bound, nearness*floor) {
		t.Errorf("%s: %.3f is above %.3f, and above %.2f of the floor of %.3f", what, value, bound, nearness, floor)
	}
}

// floorLine prints how far below any walk can come.
func floorLine(t *testing.T, what string, value float64) float64 {
	t.Helper()
	t.Logf("  %-60s %.3f", what, value)
	return value
}

func TestRatios(t *testing.T) {
	folders, files, rounds := 40, 50, 3
	if full() {
		folders, files, rounds = 400, 500, 3
	}
	at := plant(t, folders, files)
	jobs := max(runtime.NumCPU(), 2)
	nothing := func() {}
	names := at.names(t)

	for _, change := range []struct {
		what  string
		acls  bool
		bound float64
	}{
		{"all wrong, owner+group+modes ÷ (chown -R + chmod -R)", false, 0.50},
		{"all wrong with ACLs ÷ (chown -R + chmod -R + setfacl -R)", true, 0.40},
	} {
		var acl []byte
		if change.acls {
			acl = prep.EncodeACL(rules(true).Access.Complete(0o640, false))
		}
		wrong := func() { at.makeWrong(t, change.acls) }
		theirs := func() { changeAll(t, at, change.acls) }
		floorLine(t, "the floor: the changes alone", ratio(t, rounds, wrong, func() { floor(t, names, jobs, changes(acl)) }, theirs))
		careful := floorLine(t, "the careful floor: with a look before and after", ratio(t, rounds, wrong, func() { floor(t, names, jobs, carefulChanges(acl)) }, theirs))
		report(t, change.what, ratio(t, rounds, wrong, func() { ours(t, at, change.acls, jobs) }, theirs), change.bound, careful)
	}

	at.makeWrong(t, true)
	ours(t, at, false, jobs)
	if changed := ours(t, at, false, jobs).Changed; changed != 0 {
		t.Fatalf("a walk over what is right changed %d entries", changed)
	}
	for _, other := range []struct {
		what   string
		bound  float64
		theirs func(testing.TB, tree, bool)
	}{
		{"already right, owner+group+modes ÷ find(1) with the same tests", 0.70, find},
		{"already right ÷ the kubelet-like walk", 0.20, kubelet},
	} {
		theirs := func() { other.theirs(t, at, false) }
		least := floorLine(t, "the floor: reading and statx alone", ratio(t, rounds, nothing, func() { floor(t, names, jobs, looks) }, theirs))
		report(t, other.what, ratio(t, rounds, nothing, func() { ours(t, at, false, jobs) }, theirs), other.bound, least)
	}
	if _, err := exec.LookPath("systemd-tmpfiles"); err == nil {
		z := filepath.Join(t.TempDir(), "z.conf")
		must(t, os.WriteFile(z, fmt.Appendf(nil, "Z %s ~0750 %d %d\n", at.root, rightOwner, rightGroup), 0o644))
		t.Logf("%-62s %.2f", "already right ÷ systemd-tmpfiles Z",
			ratio(t, rounds, nothing, func() { ours(t, at, false, jobs) }, func() { command(t, "systemd-tmpfiles", "--create", z) }))
	}
}
