package render

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"volprep/prep"
	"volprep/prep/manifest"
	"volprep/spec"
)

var update = flag.Bool("update", false, "write the golden files anew")

// optionsFor are those of a layout's text with its identity runtime, or 1000.
func optionsFor(t testing.TB, text string, variables map[string]string) Options {
	t.Helper()
	layout, problems := spec.Parse("layout.yaml", []byte(text), spec.Options{Variables: variables})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	o := Options{Layout: layout, Text: []byte(text), As: prep.Credentials{UID: 1000, GID: 1000}, Name: "server", Image: "volprep"}
	for _, identity := range layout.Identities {
		if identity.Name == "runtime" {
			o.As = prep.Credentials{UID: identity.UID, GID: identity.GID, Groups: identity.Groups}
		}
	}
	return o
}

var targets = []struct {
	name, extension string
	render          func(Options) ([]byte, error)
	mounted, yaml   bool
}{
	{"kubernetes", "yaml", Kubernetes, false, true},
	{"configmap", "yaml", Kubernetes, true, true},
	{"kustomize", "yaml", Kustomize, false, true},
	{"compose", "yaml", Compose, false, true},
	{"systemd", "service", Systemd, true, false},
	{"podman", "container", Podman, true, false},
}

func TestTheExamplesRendered(t *testing.T) {
	for _, example := range []string{"quickstart", "nim/layout", "host/layout", "indexed-job/layout"} {
		text, err := os.ReadFile("../../examples/" + example + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range targets {
			o := optionsFor(t, string(text), nil)
			o.Mounted = target.mounted
			got, err := target.render(o)
			if err != nil {
				t.Fatalf("%s of %s: %v", target.name, example, err)
			}
			golden := filepath.Join("testdata", strings.TrimSuffix(example, "/layout")+"-"+target.name+"."+target.extension)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", golden, diff)
			}
			if target.yaml {
				readable(t, golden, got)
			}
			if target.name != "kustomize" && target.yaml {
				agrees(t, o, golden, got)
			}
		}
	}
}

// readable reads every document again.
func readable(t *testing.T, name string, text []byte) []map[string]any {
	t.Helper()
	var documents []map[string]any
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var document map[string]any
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		documents = append(documents, document)
	}
}

// agrees holds what was rendered against its layout by check-pod.
func agrees(t *testing.T, o Options, name string, text []byte) {
	t.Helper()
	var set manifest.Set
	if err := set.Decode(name, text); err != nil {
		t.Fatal(err)
	}
	// What is nobody's own yet can only be found unwritable, or unprepared.
	if findings := manifest.Check(o.Layout, &set); findings.Errors() > 0 && prep.NamesOwners(o.Layout) {
		var account strings.Builder
		findings.Text(&account)
		t.Errorf("check-pod finds in %s:\n%s", name, account.String())
	}
}
