package prep

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"volprep/spec"
)

// captured captures /v below a directory, and reads what is written of it.
func captured(t testing.TB, dir string, depth int) (Captured, *spec.Layout, string) {
	t.Helper()
	found, err := Capture(context.Background(), []string{"/v"}, depth, Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	text, err := spec.Format(found.Layout)
	if err != nil {
		t.Fatal(err)
	}
	return found, layoutOf(t, string(text)), string(text)
}

// directoriesOf keeps of a generated tree the directories that a layout can name.
func directoriesOf(tree []seedling) []seedling {
	return slices.DeleteFunc(tree, func(s seedling) bool { return s.Kind != 'd' || !utf8.ValidString(s.Path) })
}

func TestApplyOnWhatWasCapturedChangesNothing(t *testing.T) {
	begin := startingSeed()
	onEachFileSystem(t, func(t *testing.T, dir string) {
		for i := range uint64(8) {
			seedling := rand.New(rand.NewPCG(begin+i, 1))
			at, again := filepath.Join(dir, fmt.Sprint("t", i)), filepath.Join(dir, fmt.Sprint("again", i))
			grow(t, filepath.Join(at, "v"), directoriesOf(seed(seedling, 60)))
			before := changeTimes(t, at)
			found, layout, text := captured(t, at, 100)
			if len(found.Unseen)+len(found.Deeper)+len(found.Elsewhere)+len(found.Unnamed) > 0 {
				t.Fatalf("something was left out: %+v", found)
			}
			report := Apply(context.Background(), layout, Options{Root: at})
			if report.Result != "unchanged" || report.ExitStatus() != 0 {
				t.Fatalf("VOLPREP_SEED=%d: %s\n%+v\n%s", begin, report.Line(), report.Actions, text)
			}
			if difference := cmp.Diff(before, changeTimes(t, at)); difference != "" {
				t.Fatalf("a time was moved: %s", difference)
			}
			if _, _, second := captured(t, at, 100); second != text {
				t.Fatalf("a second capture differs: %s", cmp.Diff(text, second))
			}
			if err := os.MkdirAll(filepath.Join(again, "v"), 0o755); err != nil {
				t.Fatal(err)
			}
			applied(t, layout, Options{Root: again}, 0)
			if difference := cmp.Diff(snapshot(t, at+"/v"), snapshot(t, again+"/v")); difference != "" {
				t.Fatalf("VOLPREP_SEED=%d: of an empty volume it makes something else: %s\n%s", begin, difference, text)
			}
		}
	})
}

func TestCaptureSaysWhatItDoesNotDescribe(t *testing.T) {
	dir := mounted(t, "tmpfs")
	makeDir(t, dir, "v/a/b/c", directory(0, 0, 0o755))
	makeDir(t, dir, "v/closed", directory(1000, 1000, 0o700))
	makeDir(t, dir, "v/lost+found", directory(0, 0, 0o700))
	makeDir(t, dir, "v/\xff", directory(0, 0, 0o755))
	makeDir(t, dir, "v/other", directory(0, 0, 0o755))
	if err := unix.Mount("tmpfs", filepath.Join(dir, "v/other"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(dir, "v/other"), 0) })
	var remarks strings.Builder
	asVolprep(t, func() {
		found, _, _ := captured(t, dir, 2)
		found.Remarks(&remarks)
		var paths []string
		for _, directory := range found.Layout.Volumes[0].Directories {
			paths = append(paths, directory.Path)
		}
		if difference := cmp.Diff([]string{"a", "a/b", "closed"}, paths); difference != "" {
			t.Error(difference)
		}
	})
	const want = `/v/closed: not described, for this process may not look into /v/closed: put this container into the group of /v/closed (fsGroup, supplementalGroups, group_add), or let apply borrow it
/v/a/b: the directories in it are deeper than was asked for: --depth
/v/other: another file system is mounted there: name it beside the others
"/v/\xff": not described, for its name is no UTF-8: rename it
`
	if difference := cmp.Diff(want, remarks.String()); difference != "" {
		t.Error(difference)
	}
}

func TestWhatIsCapturedReadsAsAPersonWouldWriteIt(t *testing.T) {
	dir := mounted(t, "tmpfs")
	makeDir(t, dir, "v/hub/a $HOME", directory(1001, 3000, 0o755))
	makeDir(t, dir, "v/hub", directory(1001, 2000, 0o2770).withAccess(named(0o770, user(0, 5))))
	makeDir(t, dir, "v/logs", directory(1000, 2000, 0o1775))
	_, _, text := captured(t, dir, 4)
	const want = `version: 1
groups: {g2000: 2000}
identities:
  u1000: {uid: 1000, gid: g2000}
  u1001: {uid: 1001, gid: g2000, groups: [3000]}
volumes:
  - path: /v
    owner: 0
    group: 0
    mode: "0755"
    directories:
      - {path: hub, owner: u1001, group: g2000, mode: "2770", access_acl: ["u:0:r-x"]}
      - {path: hub/a $$HOME, owner: u1001, group: 3000, mode: "0755"}
      - {path: logs, owner: u1000, group: g2000, mode: "1775"}
`
	if difference := cmp.Diff(want, text); difference != "" {
		t.Error(difference)
	}
}
