package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// state is what a run may find on its volumes /models and /logs.
type state struct {
	name string
	// script makes it, in a directory with models and logs.
	script string
	// same: it is what the run before left.
	same bool
	// contents: the layout has contents.
	contents bool
}

var states = []state{
	{name: "from empty", script: "true"},
	{name: "again, with nothing to do", same: true},
	{name: "opaque: 0700 of somebody else", script: "mkdir -p models/hub logs/nim; chmod 00700 models models/hub logs; chown -R 1500:1500 models logs"},
	{name: "foreign owner, group and mode", script: "mkdir -p models/hub/.locks logs/nim; chmod 00777 models models/hub models/hub/.locks logs/nim; chown -R 1500:1501 models logs/nim"},
	{name: "half done", script: "mkdir models/hub; chmod 00700 models/hub; chown 1001:2000 models; chmod 02750 models"},
	{name: "with contents", contents: true, script: "mkdir models/hub models/hub/closed; for i in 1 2 3 4 5; do : > models/hub/f$i; : > models/hub/closed/f$i; done; " +
		"ln -s /etc/passwd models/hub/link; chown -Rh 1500:1501 models/hub; chmod 00700 models/hub/closed"},
}

const contentsLayout = `version: 1
volumes: [{path: /models, contents: {owner: 1001, group: 2000, dir_mode: "2750", file_mode: "0640", default_acl: ["user:1002:rX"]}}, {path: /logs}]
`

// plant makes the state in a new directory.
func (s state) plant(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for dir := root; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program("sh", "-ec", "cd "+root+"; mkdir -m 755 models logs; "+s.script).must(t)
	return root
}

// text is the layout for the state, as the runs get it.
func (s state) text(t *testing.T) string {
	t.Helper()
	if s.contents {
		return contentsLayout
	}
	text, err := os.ReadFile("../examples/nim/layout.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// apply is a run on a root of the host, as uid 0 with the two capabilities.
func (s state) apply(t *testing.T, root string) command {
	t.Helper()
	c := applyWithTwo(t, root)
	c.env = []string{"VOLPREP_LAYOUT=" + s.text(t)}
	return c
}

func applyWithTwo(t *testing.T, root string) command {
	t.Helper()
	return program("setpriv", "--bounding-set=-all,+chown,+fowner", "--inh-caps=-all",
		filepath.Join(binaries(t), "volprep"), "apply", "--root", root, "--jobs", "1", "--format", "json")
}

// ends tells whether a run ended as it must: what is there already may not be
// as the layout expects, and all that the layout names is done all the same.
func (s state) ends(status int) bool { return status == 0 || status == 7 }

// listing is all that a run may have changed below a root, with ids less first.
func listing(t *testing.T, root string, first uint32) string {
	t.Helper()
	var text strings.Builder
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var stat syscall.Stat_t
		if err := syscall.Lstat(path, &stat); err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s %04o %d:%d\n", strings.TrimPrefix(path, root), stat.Mode&0o7777, stat.Uid-first, stat.Gid-first)
		if stat.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return nil
		}
		acl := program("getfacl", "--numeric", "--omit-header", "--absolute-names", path).must(t)
		// What the owning group has by an entry of its number it has by its own
		// entry too, and the one form is what a run ends in that found setgid lost on the way.
		if own := regexp.MustCompile(fmt.Sprintf(`(?m)^group:%d:(...)\n`, stat.Gid)).FindStringSubmatch(acl); own != nil {
			acl = strings.Replace(strings.Replace(acl, own[0], "", 1), "group::---", "group::"+own[1], 1)
		}
		for line := range strings.Lines(acl) {
			entry := strings.SplitN(strings.TrimSpace(line), "#", 2)[0]
			parts := strings.Split(entry, ":")
			if id := len(parts) - 2; id > 0 && parts[id] != "" {
				var n uint32
				fmt.Sscan(parts[id], &n)
				parts[id] = fmt.Sprint(n - first)
			}
			fmt.Fprintf(&text, "    %s\n", strings.TrimSpace(strings.Join(parts, ":")))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// firstUnprivileged is where the ids of a user namespace begin on the host.
const firstUnprivileged = 300000

// TestEveryStateEndsTheSameEverywhere: with the two capabilities on the host,
// in a container under Docker's default seccomp profile, and as the root of a
// user namespace that is nobody outside.
func TestEveryStateEndsTheSameEverywhere(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv", "getfacl")
	for _, way := range []struct {
		name  string
		first uint32
		run   func(t *testing.T, s state, root string) (stderr string, status int)
	}{
		{"in Docker", 0, func(t *testing.T, s state, root string) (string, int) {
			_, stderr, status := engine(t).prepare(t, s.text(t), "--volume", root+"/models:/models", "--volume", root+"/logs:/logs")
			return stderr, status
		}},
		{"in a user namespace", firstUnprivileged, func(t *testing.T, s state, root string) (string, int) {
			c := s.apply(t, root)
			c.namespace = ids(firstUnprivileged)
			_, stderr, status := c.output(t)
			return stderr, status
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			want, got := "", ""
			for _, s := range states {
				if !s.same {
					want, got = s.plant(t), s.plant(t)
					if way.first > 0 {
						shift(t, got, way.first)
					}
				}
				if _, stderr, status := s.apply(t, want).output(t); !s.ends(status) {
					t.Fatalf("%s on the host: exit status %d\n%s", s.name, status, stderr)
				}
				if stderr, status := way.run(t, s, got); !s.ends(status) {
					t.Fatalf("%s: exit status %d\n%s", s.name, status, stderr)
				}
				if difference := cmp.Diff(listing(t, want, 0), listing(t, got, way.first)); difference != "" {
					t.Errorf("%s:\n%s", s.name, difference)
				}
			}
		})
	}
}

// shift gives a tree to the ids of a user namespace that begins at first.
func shift(t *testing.T, root string, first uint32) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat syscall.Stat_t
		if err := syscall.Lstat(path, &stat); err != nil {
			return err
		}
		mode := stat.Mode & 0o7777
		if err := os.Lchown(path, int(stat.Uid+first), int(stat.Gid+first)); err != nil || stat.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return err
		}
		return syscall.Chmod(path, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ids is a user namespace of 65536 ids that are nobody's on the host.
func ids(first int) *syscall.SysProcAttr {
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: 65536}}
	return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapping, GidMappings: mapping,
		GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{}}
}

// What a user namespace does not map is nobody's to change, and the message says why.
func TestAUserNamespaceSaysWhatItDoesNotMap(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv")
	for _, c := range []struct {
		name, layout, owner string
		want                []string
	}{
		{"an owner outside the map", "{version: 1, volumes: [{path: /models, owner: 1000}]}", "5555:5555", []string{"/models", "user namespace (its map: 0 300000 65536)", "hostUsers"}},
		{"an id beyond the map", "{version: 1, volumes: [{path: /models, owner: 100000}]}", "300000:300000", []string{"/models", "100000", "user namespace (its map: 0 300000 65536)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := state{script: "chown " + c.owner + " models"}.plant(t)
			run := applyWithTwo(t, root)
			run.env, run.namespace = []string{"VOLPREP_LAYOUT=" + c.layout}, ids(firstUnprivileged)
			stdout, stderr, status := run.output(t)
			if status != 6 {
				t.Fatalf("exit status %d\n%s%s", status, stdout, stderr)
			}
			var report struct {
				Errors []struct{ Path, Doing, Error, Mend string }
			}
			if err := json.Unmarshal([]byte(stdout), &report); err != nil {
				t.Fatal(err)
			}
			said := fmt.Sprintf("%+v", report.Errors)
			for _, words := range c.want {
				if !strings.Contains(said, words) {
					t.Errorf("the message has no %q: %s", words, said)
				}
			}
			if got := owner(t, root+"/models"); !strings.HasPrefix(got, c.owner) {
				t.Errorf("it is %s now", got)
			}
		})
	}
}
