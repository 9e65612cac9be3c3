package e2e

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// released makes a release of a copy of the tree, in a directory of its own,
// for the architectures that are named.
func released(t testing.TB, architectures string) string {
	t.Helper()
	tree, out := copied(t), t.TempDir()
	run := program("go", "run", "./e2e/release", "-o", out, "-version", "1.2.3", "-commit", "abc", "-only", architectures)
	run.dir = tree
	run.must(t)
	return out
}

// copied is a copy of the tree as a stranger gets it, but for dot files.
func copied(t testing.TB) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel("..", path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != "..":
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(tree, name), 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tree, name), text, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestTwoReleasesOfOneTreeAreTheSameBytes, and the image of one runs.
func TestTwoReleasesOfOneTreeAreTheSameBytes(t *testing.T) {
	first, second := released(t, "amd64,arm64"), released(t, "amd64,arm64")
	entries, err := os.ReadDir(first)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
		a, err := os.ReadFile(filepath.Join(first, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, entry.Name()))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs between two releases: %v", entry.Name(), err)
		}
	}
	if got := strings.Join(names, " "); got != "SHA256SUMS layout.schema.json seccomp.json volprep-image.tar volprep-layout.5 volprep-linux-amd64 volprep-linux-arm64 volprep-nonroot-image.tar volprep.1 volprep.cdx.json" {
		t.Errorf("a release has %s", got)
	}
	check := program("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.dir = first
	check.must(t)
	var bill struct {
		Components []struct{ Name, Version string }
	}
	text, err := os.ReadFile(filepath.Join(first, "volprep.cdx.json"))
	if err == nil {
		err = json.Unmarshal(text, &bill)
	}
	if err != nil || len(bill.Components) < 4 || bytes.Contains(text, []byte("go-fuse")) {
		t.Errorf("the bill of materials: %v: %s", err, text)
	}

	for page, words := range map[string]string{"volprep.1": "require\\-caps exact|at\\-most", "volprep-layout.5": "default_acl"} {
		text, err := os.ReadFile(filepath.Join(first, page))
		if err != nil || !strings.HasPrefix(string(text), ".TH ") || !strings.Contains(string(text), words) {
			t.Errorf("%s has no %q: %v", page, words, err)
		}
	}

	d := engine(t)
	t.Cleanup(func() { outlive(d.command("image", "rm", "--force", "volprep:1.2.3", "volprep:1.2.3-arm64")) })
	d.command("load", "--input", filepath.Join(first, "volprep-image.tar")).must(t)
	said := d.command("run", "--rm", "--network", "none", "volprep:1.2.3", "version", "--format", "json").must(t)
	var version struct{ Version, Commit, Go, Arch string }
	if err := json.Unmarshal([]byte(said), &version); err != nil || version.Version != "1.2.3" || version.Commit != "abc" || version.Go == "" {
		t.Errorf("the image says of itself %s", said)
	}
	d.command("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "FOWNER",
		"--env", "VOLPREP_LAYOUT={version: 1, volumes: [{path: /models, owner: 1000}]}", "--volume", d.volume(t)+":/models", "volprep:1.2.3").must(t)
}

// TestArm64BinaryUnderQemu: of a processor that is not this machine's, with
// the two capabilities, a whole run and its reading back.
func TestArm64BinaryUnderQemu(t *testing.T) {
	needRoot(t)
	needPrograms(t, "qemu-aarch64-static", "setpriv")
	binary := filepath.Join(released(t, "arm64"), "volprep-linux-arm64")
	root := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		return program("setpriv", append([]string{"--bounding-set=-all,+chown,+fowner", "--inh-caps=-all", "qemu-aarch64-static", binary}, args...)...).must(t)
	}
	if said := run("version"); !strings.Contains(said, "linux/arm64") {
		t.Errorf("it says of itself %s", said)
	}
	for _, volume := range []string{"models", "logs"} {
		if err := os.Mkdir(filepath.Join(root, volume), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layout := []string{"--file", "../examples/nim/layout.yaml", "--root", root}
	if report := parseReport(t, run(append([]string{"apply", "--format", "json"}, layout...)...)); report.Result != "changed" || report.Summary.Created != 3 {
		t.Errorf("apply says %+v", report)
	}
	for path, want := range map[string]string{
		"models": "1001:2000 2750", "models/hub/.locks": "1001:2000 2770", "logs/nim": "1000:1000 0750",
	} {
		if got := owner(t, filepath.Join(root, path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if report := parseReport(t, run(append([]string{"apply", "--format", "json"}, layout...)...)); report.Result != "unchanged" {
		t.Errorf("a second apply says %+v", report)
	}
	run(append([]string{"verify"}, layout...)...)
}
