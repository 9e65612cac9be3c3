package prep

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// layoutOf parses a layout that must be right.
func layoutOf(t testing.TB, text string) *spec.Layout {
	t.Helper()
	layout, problems := spec.Parse("layout.yaml", []byte(text), spec.Options{})
	if layout == nil {
		t.Fatal(problems)
	}
	return layout
}

// stateAt reads the state of a path, as all-powerful root.
func stateAt(t testing.TB, path string) inodeInfo {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	info, err := look(System(), fd)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// tree lists a directory and all below it, one line each, with every attribute.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		lines = append(lines, name+" "+stateAt(t, path).settled().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n") + "\n"
}

// changeTimes are the ctimes of a directory and all below it.
func changeTimes(t testing.TB, dir string) map[string]unix.StatxTimestamp {
	t.Helper()
	times := map[string]unix.StatxTimestamp{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL, &stat); err != nil {
			return err
		}
		times[path] = stat.Ctime
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return times
}

// applied runs apply with the two capabilities and wants this exit status.
func applied(t testing.TB, layout *spec.Layout, options Options, status int) *Report {
	t.Helper()
	return appliedInGroups(t, layout, options, status)
}

// appliedInGroups is applied with supplementary groups.
func appliedInGroups(t testing.TB, layout *spec.Layout, options Options, status int, groups ...uint32) *Report {
	t.Helper()
	var report *Report
	withCapabilities(t, chownAndFowner, groups, func() {
		options.Caller = &Caller{Groups: groups}
		if options.Capabilities == nil {
			both, kept := CapChown|CapFowner, []Capabilities{}
			options.Capabilities, options.Keep = &both, givingUp(&kept)
		}
		report = Apply(context.Background(), layout, options)
	})
	if report.ExitStatus() != status {
		t.Errorf("exit status %d, want %d: %v", report.ExitStatus(), status, report.Failures())
	}
	return report
}

const nimLayout = `
version: 1
umask: "0027"
groups: {models: 2000}
identities:
  runtime: {uid: 1000, gid: 1000, groups: [models], umask: "0027"}
  puller: {uid: 1001, gid: models, umask: "0002"}
volumes:
  - path: /models
    owner: puller
    group: models
    mode: "2750"
    default_acl: [umask, "user:3000:r-X"]
    directories:
      - path: hub
      - {path: hub/.locks, mode: "2770"}
      - {path: deep/er/est, owner: runtime, mode: "0700"}
  - path: /logs
    directories:
      - {path: nim, owner: runtime, group: 1000, mode: "u=rwx,g=rx,o="}
`

const nimTree = `. 0755 0:0
logs 0755 0:0
logs/nim 0750 1000:1000
models 2750 1001:2000 default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---
models/deep 2750 0:2000 access u::rwx,u:3000:r-x,g::r-x,m::r-x,o::--- default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---
models/deep/er 2750 0:2000 access u::rwx,u:3000:r-x,g::r-x,m::r-x,o::--- default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---
models/deep/er/est 0700 1000:2000 access u::rwx,u:3000:r-x,g::---,m::r-x,o::--- default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---
models/hub 2750 0:2000 access u::rwx,u:3000:r-x,g::r-x,m::r-x,o::--- default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---
models/hub/.locks 2770 0:2000 access u::rwx,u:3000:r-x,g::rwx,m::rwx,o::--- default u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---
`

func TestAnEmptyVolumeBecomesWhatTheLayoutSays(t *testing.T) {
	onEachFileSystem(t, func(t *testing.T, dir string) {
		for _, name := range []string{"models", "logs"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		os.Remove(filepath.Join(dir, "lost+found"))
		layout := layoutOf(t, nimLayout)
		first := applied(t, layout, Options{Root: dir}, 0)
		if first.Result != "changed" || first.Summary.Created != 6 {
			t.Errorf("first run: %s", first.Line())
		}
		if got := tree(t, dir); got != nimTree {
			t.Errorf("the tree is\n%swant\n%s", got, nimTree)
		}
		before := changeTimes(t, dir)
		second := appliedInGroups(t, layout, Options{Root: dir}, 0, 2000)
		if second.Result != "unchanged" || len(second.Actions) > 0 {
			t.Errorf("second run: %s %+v", second.Line(), second.Actions)
		}
		for path, ctime := range changeTimes(t, dir) {
			if before[path] != ctime {
				t.Errorf("%s: the second run moved its ctime", path)
			}
		}
		third := applied(t, layout, Options{Root: dir}, 0)
		if third.Result != "unchanged" || len(third.Actions) != 2 || third.Actions[0].Op != OpBorrow || third.Actions[1].Op != OpReturn {
			t.Errorf("a run outside the group: %s %+v", third.Line(), third.Actions)
		}
	})
}

func TestAnOpaqueDirectoryIsBorrowedAndComesBackExactly(t *testing.T) {
	states := []State{
		directory(1000, 1000, 0o700),
		directory(1000, 2000, 0o2700),
		directory(1000, 2000, 0o3700),
		directory(1000, 1000, 0o500),
		directory(1000, 1000, 0o1700),
		directory(1000, 2000, 0o2700).withAccess(named(0o700, user(3000, 5))),
		directory(1000, 0, 0o701),
		directory(0, 0, 0o500),
	}
	states[5].Mode |= setgidBit
	states[5].Default = named(0o700, user(3000, 5))
	layout := layoutOf(t, `
version: 1
umask: "0027"
volumes:
  - path: /v
    directories:
      - {path: a/b/c, owner: 1001, group: 2000, mode: "2770"}
      - {path: a/d, owner: 1001, mode: "0700"}
`)
	onEachFileSystem(t, func(t *testing.T, dir string) {
		for _, state := range states {
			t.Run(state.String(), func(t *testing.T) {
				volume := filepath.Join(dir, "v")
				for _, path := range []string{volume, filepath.Join(volume, "a"), filepath.Join(volume, "a", "b")} {
					if err := os.Mkdir(path, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				defer os.RemoveAll(volume)
				bare := state
				bare.Default = spec.ACL{}
				put(t, filepath.Join(volume, "a", "b"), bare)
				put(t, filepath.Join(volume, "a"), state)
				put(t, volume, state)
				before := stateAt(t, volume).access
				report := applied(t, layout, Options{Root: dir}, 0)
				for _, path := range []string{volume, filepath.Join(volume, "a")} {
					if got := stateAt(t, path); !got.equal(state) {
						t.Errorf("%s is %s, was %s", path, got, state)
					}
				}
				if got := stateAt(t, volume).access; got != before {
					t.Errorf("the volume's access time is %v, was %v", got, before)
				}
				if got := stateAt(t, filepath.Join(volume, "a/b/c")); got.UID != 1001 || got.GID != 2000 || got.Mode != 0o2770 {
					t.Errorf("a/b/c is %s", got)
				}
				if report.Summary.Created != 2 {
					t.Errorf("%s", report.Line())
				}
				if again := applied(t, layout, Options{Root: dir}, 0); again.Result != "unchanged" {
					t.Errorf("second run: %s", again.Line())
				}
				if names, err := os.ReadDir(volume); err != nil || len(names) != 1 {
					t.Errorf("the volume holds %v, %v", names, err)
				}
			})
		}
	})
}
