package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// examples gives each example's folder.
func examples(t testing.TB) []string {
	t.Helper()
	layouts, err := filepath.Glob("../examples/*/layout.yaml")
	if err != nil || len(layouts) < 12 {
		t.Fatalf("%d examples, %v", len(layouts), err)
	}
	for i := range layouts {
		layouts[i] = filepath.Dir(layouts[i])
	}
	return layouts
}

// mounted makes the layout's volumes below a new directory, as a platform
// does: empty, 0:0, of the mode, and each a mount of its own.
func mounted(t testing.TB, layoutFile string, mode os.FileMode) string {
	t.Helper()
	text, err := os.ReadFile(layoutFile)
	if err != nil {
		t.Fatal(err)
	}
	layout, problems := spec.Parse(layoutFile, text, spec.Options{})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	root := t.TempDir()
	if err := os.Chmod(filepath.Dir(root), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, volume := range layout.Volumes {
		path := filepath.Join(root, volume.Path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
			lacking(t, "this test wants bind mounts: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", path, err)
			}
		})
	}
	return root
}

// Every example is applied, with the rights that its manifest gives, twice, and verified.
func TestEveryExampleHolds(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv")
	// An example's volprep may be another user, who must reach the binary.
	if err := os.Chmod(binaries(t), 0o755); err != nil {
		t.Fatal(err)
	}
	volprep := filepath.Join(binaries(t), "volprep")
	for _, example := range examples(t) {
		t.Run(filepath.Base(example), func(t *testing.T) {
			layout := filepath.Join(example, "layout.yaml")
			rights, mode := []string{"--bounding-set=-all,+chown,+fowner"}, os.FileMode(0o755)
			if filepath.Base(example) == "openshift" {
				rights = []string{"--bounding-set=-all", "--reuid=1000660000", "--regid=0", "--clear-groups"}
				mode = os.ModeSetgid | 0o770
			}
			root := mounted(t, layout, mode)
			apply := append(rights, "--inh-caps=-all", volprep, "apply", "-f", layout, "--root", root)
			if got := program("setpriv", apply...).must(t); !strings.HasPrefix(got, "changed: ") {
				t.Errorf("the first apply says %q", got)
			}
			if got := program("setpriv", apply...).must(t); !strings.HasPrefix(got, "unchanged: ") {
				t.Errorf("the second apply says %q", got)
			}
			if got := program(volprep, "verify", "-f", layout, "--root", root).must(t); !strings.Contains(got, "0 differ, 0 are missing") {
				t.Errorf("verify says %q", got)
			}
		})
	}
}

// Every manifest and Compose file of an example goes with its layout: mounts,
// uids, groups, privileges. Those of before a migration do not.
func TestEveryExampleManifestGoesWithItsLayout(t *testing.T) {
	volprep := filepath.Join(binaries(t), "volprep")
	held := 0
	for _, example := range examples(t) {
		files, err := filepath.Glob(filepath.Join(example, "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if filepath.Base(file) == "layout.yaml" {
				continue
			}
			held++
			t.Run(filepath.Base(example)+"/"+filepath.Base(file), func(t *testing.T) {
				stdout, stderr, status := program(volprep, "check-pod", "-f", filepath.Join(example, "layout.yaml"), file).output(t)
				if strings.HasSuffix(file, "-before.yaml") {
					if status != 7 || !strings.Contains(stdout, "nothing here runs volprep") {
						t.Errorf("check-pod: exit status %d, want 7\n%s%s", status, stdout, stderr)
					}
					return
				}
				if status != 0 || stdout != "0 to mend, 0 warnings\n" {
					t.Errorf("check-pod: exit status %d\n%s%s", status, stdout, stderr)
				}
			})
		}
	}
	if held < 20 {
		t.Errorf("only %d manifests were held against their layouts", held)
	}
}

// Every example's Compose file prepares its volumes in a real engine, and finds
// them right the second time. docker-compose 1.29, as Debian has it, is the
// oldest that knows service_completed_successfully.
func TestEveryExampleComposeFilePrepares(t *testing.T) {
	d := engine(t)
	files, err := filepath.Glob("../examples/*/compose.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d Compose files, %v", len(files), err)
	}
	image := filepath.Join(t.TempDir(), "image.yaml")
	if err := os.WriteFile(image, []byte(`{version: "3.8", services: {prep: {image: "`+volprepImage+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			p := composeOf(t, d, []string{file, image})
			for _, want := range []string{"changed: ", "unchanged: "} {
				if got := p.command("run", "--rm", "prep").must(t); !strings.HasPrefix(got, want) {
					t.Errorf("prep says %q, want %q", got, want)
				}
			}
		})
	}
}
