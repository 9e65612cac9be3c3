package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tree is a volume in which a server has made a directory that only it may
// enter. What is wanted of it: all is 1001's and of group 2000, the root setgid.
func tree(t *testing.T) (root, inner string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "volume")
	inner = filepath.Join(root, "closed", "weights")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(inner), 0o700), os.Chmod(root, 0o755),
		os.WriteFile(inner, nil, 0o640),
		os.Chown(filepath.Dir(inner), 1000, 1000), os.Chown(inner, 1000, 1000),
	); err != nil {
		t.Fatal(err)
	}
	return root, inner
}

// ways are programs that are asked for the same. README.md's table beside
// other ways says of them what is seen here.
var ways = map[string]struct {
	command func(t *testing.T, root string) command
	// closed: with CHOWN and FOWNER alone the way gets into a closed directory.
	// setgid: it then leaves the bit that it was asked for.
	// calm: where all is right already it changes no ctime.
	closed, setgid, calm bool
}{
	"chown -R and chmod": {func(_ *testing.T, root string) command {
		return program("busybox", "sh", "-c", `chown -R 1001:2000 "$0"; result=$?; chmod 2755 "$0" || exit 99; exit $result`, root)
	}, false, false, false},
	"systemd-tmpfiles": {func(t *testing.T, root string) command {
		lines := "Z " + root + " - 1001 2000\nz " + root + " 2755 1001 2000\n"
		path := filepath.Join(t.TempDir(), "volume.conf")
		if err := os.WriteFile(path, []byte(lines), 0o644); err != nil {
			t.Fatal(err)
		}
		return program("systemd-tmpfiles", "--create", path)
	}, false, false, true},
	"volprep": {func(t *testing.T, root string) command {
		c := program(filepath.Join(binaries(t), "volprep"), "apply", "--root", filepath.Dir(root))
		c.env = []string{`VOLPREP_LAYOUT={version: 1, volumes: [{path: /volume, owner: 1001, group: 2000, mode: "2755", contents: {owner: 1001, group: 2000}}]}`}
		return c
	}, true, true, true},
}

func TestBesideOtherWays(t *testing.T) {
	needRoot(t)
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			root, inner := tree(t)
			c := way.command(t, root)
			needPrograms(t, "setpriv", c.name)
			two := c
			two.name, two.args = "setpriv", append([]string{"--bounding-set=-all,+chown,+fowner", "--inh-caps=-all", c.name}, c.args...)
			stdout, stderr, status := two.output(t)
			t.Logf("with CHOWN and FOWNER: exit status %d\n%s%s", status, stdout, stderr)
			if status == 99 {
				t.Error("chmod says that it has not set the bit")
			}
			if closed := owner(t, inner) == "1001:2000 0640"; closed != way.closed || closed != (status == 0) {
				t.Errorf("in the closed directory is %s, exit status %d", owner(t, inner), status)
			}
			if setgid := strings.HasSuffix(owner(t, root), " 2755"); setgid != way.setgid {
				t.Errorf("the root is %s", owner(t, root))
			}

			c.must(t) // as root with all capabilities, until it is right
			before := changed(t, inner)
			c.must(t)
			if calm := changed(t, inner) == before; calm != way.calm {
				t.Errorf("a run where all was right left the ctime alone: %t, want %t", calm, way.calm)
			}
		})
	}
}

func changed(t *testing.T, path string) syscall.Timespec {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ctim
}
