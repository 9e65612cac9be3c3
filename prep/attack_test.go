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
// with each other and with fifos, close them, move them out of the volume and
// back, and make hard links to a file outside, while apply, a walk over contents and verify
// run over and over. VOLPREP_ATTACK is how long each way takes; 3 s where it is not set.
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
	walks := layoutOf(t, `{version: 1, volumes: [{path: /v, contents: {owner: 1000, group: 2000, dir_mode: "u+rwx,g+s", file_mode: "0640"}}]}`)
	for name, openat2 := range map[string]unix.Errno{"with openat2": 0, "component by component": unix.ENOSYS} {
		t.Run(name, func(t *testing.T) {
			dir := mounted(t, "tmpfs")
			for _, path := range []string{"canary/b/c", "canary/e", "canary/b/b/c", "exile", "v/a/b/c", "v/other/b/c", "v/d/e"} {
				makeDir(t, dir, path, directory(0, 0, 0o755))
			}
			attacked := []string{"v", "v/a", "v/a/b", "v/other", "v/other/b", "v/d", "exile"}
			for _, path := range attacked {
				put(t, filepath.Join(dir, path), directory(1000, 1000, 0o755))
			}
			putFile(t, filepath.Join(dir, "canary/secret"), State{UID: 1000, GID: 1000, Mode: 0o600})
			putFile(t, filepath.Join(dir, "canary/b/c/secret"), State{Mode: 0o644})
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
						switch inside := filepath.Join(volume, "other/b"); i % 100 {
						case 25:
							if unix.Rename(inside, filepath.Join(dir, "exile/b")) == nil {
								unix.Rename(filepath.Join(dir, "exile/b"), inside)
								swaps.Add(2)
							}
						case 50:
							// It is his own, so fs.protected_hardlinks lets him.
							unix.Link(filepath.Join(canary, "secret"), filepath.Join(volume, "other/hard"))
						case 75:
							unix.Unlink(filepath.Join(volume, "other/hard"))
						case 0:
							unix.Chmod(filepath.Join(volume, pair[0]), 0)
							unix.Chmod(filepath.Join(volume, pair[0]), 0o755)
						}
					}
				})
			}()
			statuses := map[int]int{}
			runs := []func(Options) *Report{
				func(options Options) *Report { return Apply(context.Background(), layout, options) },
				func(options Options) *Report { return Apply(context.Background(), walks, options) },
				func(options Options) *Report { return Verify(context.Background(), layout, options) },
			}
			borrows, walked := 0, int64(0)
			for i, began := 0, time.Now(); time.Since(began) < length; i++ {
				asVolprep(t, func() {
					kernel := answering{Kernel: System(), openat2: openat2}
					report := runs[i%len(runs)](Options{Root: dir, Kernel: kernel, Caller: &Caller{}, Jobs: 2})
					statuses[report.ExitStatus()]++
					walked += report.contentsChanged()
					for _, action := range report.Actions {
						if action.Op == OpBorrow {
							borrows++
						}
					}
				})
				// What apply handed over is the attacker's no more: give it back to him.
				for _, path := range attacked {
					reown(t, dir, path)
				}
			}
			close(stop)
			<-stopped
			if got := tree(t, canary); got != before {
				t.Errorf("the canary is\n%swas\n%s", got, before)
			}
			for path, ctime := range changeTimes(t, canary) {
				// The attacker's own link to it moves that of the secret.
				if ctimes[path] != ctime && path != filepath.Join(canary, "secret") {
					t.Errorf("the ctime of %s moved", path)
				}
			}
			for status := range statuses {
				if !slices.Contains([]int{0, 1, 4, 5, 6}, status) {
					t.Errorf("a run ended with status %d", status)
				}
			}
			if borrows == 0 || walked == 0 {
				t.Errorf("%d borrows and %d entries changed: the attack was not on all", borrows, walked)
			}
			t.Logf("%d swaps, %d borrows, %d entries changed by walks, runs by status: %v", swaps.Load(), borrows, walked, statuses)
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
