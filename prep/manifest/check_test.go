package manifest

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"volprep/spec"
)

var update = flag.Bool("update", false, "write the expected findings anew")

func layoutOf(t testing.TB, text []byte) *spec.Layout {
	t.Helper()
	layout, problems := spec.Parse("layout.yaml", text, spec.Options{})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	return layout
}

// Each archive is a real case: a layout, what people ran, and what is wrong with it.
func TestWhatWasWrongInTheFieldIsFound(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			layout := layoutOf(t, archive.Files[0].Data)
			var set Set
			if err := set.Decode(archive.Files[1].Name, archive.Files[1].Data); err != nil {
				t.Fatal(err)
			}
			findings := Check(layout, &set)
			if len(findings.List) == 0 {
				t.Error("nothing was found")
			}
			var got strings.Builder
			findings.Text(&got)
			if *update {
				archive.Files[2].Data = []byte(got.String())
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if difference := cmp.Diff(string(archive.Files[2].Data), got.String()); difference != "" {
				t.Errorf("%s (-want +got):\n%s", file, difference)
			}
		})
	}
}

// checked decodes and checks one manifest.
func checked(t *testing.T, layout, manifest string) Findings {
	t.Helper()
	var set Set
	if err := set.Decode("m.yaml", []byte(manifest)); err != nil {
		t.Fatal(err)
	}
	return Check(layoutOf(t, []byte(layout)), &set)
}

const oneVolume = "version: 1\nidentities: {app: {uid: 1000, gid: 1000}}\nvolumes: [{path: /data/v, owner: app, group: 1000, mode: \"0750\", directories: [{path: a, owner: app, group: 1000, mode: \"0750\"}]}]\n"

// services is a Compose file of volprep and an app that mounts so.
func services(prep, app string) string {
	return "services:\n  volprep: {image: volprep, user: \"0\", cap_drop: [ALL], cap_add: [CHOWN, CAP_FOWNER], security_opt: [\"no-new-privileges:true\"], volumes: [" + prep + "]}\n" +
		"  app: {image: app, user: \"1000:1000\", cap_drop: [ALL], security_opt: [\"no-new-privileges:true\"], depends_on: {volprep: {condition: service_completed_successfully}}, volumes: [" + app + "]}\n"
}

func TestMountsAreFollowedThroughSubpathsAndOtherNames(t *testing.T) {
	for _, c := range []struct {
		name, prep, app string
		rules           []string
	}{
		{"the same path", `"v:/data/v"`, `"v:/data/v"`, nil},
		{"another path", `"v:/data/v"`, `"v:/srv"`, nil},
		{"a mount above the volume", `"v:/data"`, `"v:/srv"`, nil},
		{"a subpath for the app", `"v:/data/v"`, `{type: volume, source: v, target: /srv, volume: {subpath: a}}`, nil},
		{"the same subpath for both", `{type: volume, source: v, target: /data/v, volume: {subpath: x}}`, `{type: volume, source: v, target: /srv, volume: {subpath: x}}`, nil},
		{"another subpath, which is no concern of the layout", `{type: volume, source: v, target: /data/v, volume: {subpath: x}}`, `{type: volume, source: v, target: /srv, volume: {subpath: y}}`, nil},
		{"a subpath that the layout does not list", `"v:/data/v"`, `{type: volume, source: v, target: /srv, volume: {subpath: b}}`, []string{"path-unknown"}},
		{"no mount for volprep", `"w:/other"`, `"v:/srv"`, []string{"mount-missing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var rules []string
			for _, finding := range checked(t, oneVolume, services(c.prep, c.app)).List {
				rules = append(rules, finding.Rule)
			}
			if difference := cmp.Diff(c.rules, rules); difference != "" {
				t.Error(difference)
			}
		})
	}
}

func TestWithoutVolprepThatIsSaid(t *testing.T) {
	findings := checked(t, oneVolume, "kind: Pod\nspec: {containers: [{name: a, image: busybox}]}\n")
	if len(findings.List) != 1 || findings.List[0].Rule != "no-volprep" || findings.Errors() != 1 {
		t.Errorf("%+v", findings.List)
	}
	if findings := checked(t, oneVolume, "# nothing\n---\n"); findings.Errors() != 1 {
		t.Errorf("of an empty file: %+v", findings.List)
	}
}

func TestFindingsAsJSON(t *testing.T) {
	var text bytes.Buffer
	if err := checked(t, oneVolume, services(`"v:/data/v:ro"`, `"v:/srv"`)).JSON(&text); err != nil {
		t.Fatal(err)
	}
	var value struct{ Findings []Finding }
	if err := json.Unmarshal(text.Bytes(), &value); err != nil || len(value.Findings) != 1 || value.Findings[0].Rule != "mount-readonly" || value.Findings[0].Line != 2 {
		t.Errorf("%v: %s", err, text.String())
	}
}

func TestWhatIsNoManifestIsRefused(t *testing.T) {
	for name, text := range map[string]string{"no YAML": "a: [", "too large": strings.Repeat("#", manifestLimit+1)} {
		var set Set
		if err := set.Decode("m.yaml", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "m.yaml: reading the manifest: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a manifest holds, it is decoded and checked, or refused.
func FuzzManifest(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[1].Data)
	}
	f.Add([]byte("services: &a {volprep: {<<: *a, image: volprep, volumes: [*a, \"v:/data/v\"]}}"))
	f.Add([]byte("kind: List\nitems: &i [{kind: List, items: *i}]"))
	layout := layoutOf(f, []byte(oneVolume))
	f.Fuzz(func(t *testing.T, text []byte) {
		var set Set
		if set.Decode("m.yaml", text) != nil {
			return
		}
		var out bytes.Buffer
		findings := Check(layout, &set)
		findings.Text(&out)
		if err := findings.JSON(&out); err != nil {
			t.Error(err)
		}
		for _, r := range out.String() {
			if r != '\n' && r != '\t' && r < ' ' || r == 0x7f {
				t.Fatalf("a control character gets through: %q", out.String())
			}
		}
	})
}
