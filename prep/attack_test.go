package prep

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAnAttackerWhoOwnsTheTreeReachesNothingOutside lets an unprivileged owner
// of a volume swap its directories with symbolic links to a canary outside,
// with each other and with fifos, and close them, while apply runs over and
// over. VOLPREP_ATTACK is how long each way takes; 3 s where it is not set.
func TestAnAttackerWhoOwnsTheTreeReachesNothingOutside(t *testing.T) {
	length := 3 * time.Second
	if text := os.Getenv("VOLPREP_ATTACK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [
	  {path: a, owner: 7, group: 2000, mode: "2770"}, {path: a/b, owner: 7, mode: "0700", default_acl: ["user:3000:rwx"]},
	  {path: a/b/c, group: 2000, mode: "2750"}, {path: d/e, owner: 1000, mode: "0755"}]}]}`)
	for name, openat2 := range map[string]unix.Errno{"with openat2": 0, "component by component": unix.ENOSYS} {
		t.Run(name, func(t *testing.T) {
			dir := mounted(t, "tmpfs")
			for _, path := range []string{"canary/b/c", "canary/e", "v/a/b/c", "v/other/b/c", "v/d/e"} {
				makeDir(t, dir, path, directory(0, 0, 0o755))
			}
			for _, path := range []string{"v", "v/a", "v/a/b", "v/other", "v/other/b", "v/d"} {
				put(t, filepath.Join(dir, path), directory(1000, 1000, 0o755))
			}
			volume := filepath.Join(dir, "v")
			if err := os.Symlink("../canary", filepath.Join(volume, "link")); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(volume, "fifo"), 0o666); err != nil {
				t.Fatal(err)
			}
			canary := filepath.Join(dir, "canary")
			before, ctimes := tree(t, canary), changeTimes(t, canary)
			var swaps atomic.Int64
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				asUser(t, 1000, 1000, nil, func() {
					pairs := [][2]string{{"a", "link"}, {"a", "other"}, {"a/b", "other/b"}, {"d", "link"}, {"a", "fifo"}, {"d/e", "link"}}
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						pair := pairs[i%len(pairs)]
						if unix.Renameat2(unix.AT_FDCWD, filepath.Join(volume, pair[0]), unix.AT_FDCWD, filepath.Join(volume, pair[1]), unix.RENAME_EXCHANGE) == nil {
							swaps.Add(1)
						}
						if i%100 == 0 {
							unix.Chmod(filepath.Join(volume, pair[0]), 0)
							unix.Chmod(filepath.Join(volume, pair[0]), 0o755)
						}
					}
				})
			}()
			statuses := map[int]int{}
			for began := time.Now(); time.Since(began) < length; {
				asVolprep(t, func() {
					kernel := answering{Kernel: System(), openat2: openat2}
					statuses[Apply(context.Background(), layout, Options{Root: dir, Kernel: kernel, Caller: &Caller{}}).ExitStatus()]++
				})
				// What apply handed over is the attacker's no more: give it back to him.
				for _, path := range []string{"v", "v/a", "v/a/b", "v/other", "v/other/b", "v/d"} {
					reown(t, dir, path)
				}
			}
			close(stop)
			<-stopped
			if got := tree(t, canary); got != before {
				t.Errorf("the canary is\n%swas\n%s", got, before)
			}
			for path, ctime := range changeTimes(t, canary) {
				if ctimes[path] != ctime {
					t.Errorf("the ctime of %s moved", path)
				}
			}
			for status := range statuses {
				if !slices.Contains([]int{0, 1, 5, 6}, status) {
					t.Errorf("a run ended with status %d", status)
				}
			}
			t.Logf("%d swaps, runs by status: %v", swaps.Load(), statuses)
		})
	}
}

// reown gives a directory to the attacker again, unless a link stands in its place by now.
func reown(t *testing.T, dir, path string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &walker{kernel: System()}
	for _, name := range strings.Split(path, "/") {
		below, err := w.below(fd, name)
		unix.Close(fd)
		if err != nil {
			return
		}
		fd = below
	}
	defer unix.Close(fd)
	if info, err := look(System(), fd); err == nil && info.Type == fs.ModeDir {
		unix.Fchownat(fd, "", 1000, 1000, unix.AT_EMPTY_PATH)
	}
}
