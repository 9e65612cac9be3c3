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
			if example == "host/layout" && target.name == "systemd" {
				// The example is what render writes.
				golden = "../../examples/host/volprep.service"
			}
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

func TestALayoutReadsBackAsItWasWritten(t *testing.T) {
	for name, text := range map[string]string{
		"dollars":                    "version: 1 # $$ $(HOME) ${x} $$$(a) $\nvolumes: [{path: /v}]\n",
		"no line break at its end":   "version: 1\nvolumes: [{path: /v}]",
		"several at its end":         "version: 1\nvolumes: [{path: /v}]\n\n\n",
		"line breaks before it":      "\n\n  \nversion: 1\nvolumes: [{path: /v}]\n",
		"spaces at a line's end":     "version: 1   \nvolumes: [{path: /v}]\n",
		"a tab":                      "version: 1\t# one\nvolumes: [{path: /v}]\n",
		"carriage returns":           "version: 1\r\nvolumes: [{path: /v}]\r\n",
		"it begins with a space":     " version: 1\n volumes: [{path: /v}]\n",
		"letters beyond ASCII":       "version: 1 # ü 模型 \u00a0\nvolumes: [{path: /v}]\n",
		"one line":                   "{version: 1, volumes: [{path: /v}]}",
		"a comment, then a document": "# it\n---\nversion: 1\nvolumes: [{path: /v}]\n",
	} {
		o := optionsFor(t, text, nil)
		pod, err := Kubernetes(o)
		if err != nil {
			t.Fatal(err)
		}
		var inPod struct {
			Spec struct {
				InitContainers []struct{ Env []struct{ Value string } } `yaml:"initContainers"`
			}
		}
		if err := yaml.Unmarshal(pod, &inPod); err != nil {
			t.Fatal(err)
		}
		if got := expanded(inPod.Spec.InitContainers[0].Env[0].Value); got != text {
			t.Errorf("%s: the pod gives %q, want %q", name, got, text)
		}
		file, err := Compose(o)
		if err != nil {
			t.Fatal(err)
		}
		var inFile struct {
			Services struct {
				Prep struct{ Environment map[string]string }
			}
		}
		if err := yaml.Unmarshal(file, &inFile); err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(inFile.Services.Prep.Environment["VOLPREP_LAYOUT"], "$$", "$"); got != text {
			t.Errorf("%s: the Compose file gives %q, want %q", name, got, text)
		}
		o.Mounted = true
		if pod, err = Kubernetes(o); err != nil {
			t.Fatal(err)
		}
		if got := readable(t, name, pod)[0]["data"].(map[string]any)["layout.yaml"]; got != text {
			t.Errorf("%s: the ConfigMap gives %q, want %q", name, got, text)
		}
	}
}

// expanded is what the kubelet makes of a value that refers to nothing
// (k8s.io/kubernetes/third_party/forked/golang/expansion).
func expanded(value string) string {
	var text strings.Builder
	for i := 0; i < len(value); i++ {
		text.WriteByte(value[i])
		if value[i] == '$' && i+1 < len(value) && value[i+1] == '$' {
			i++
		}
	}
	return text.String()
}

func TestWhoRunsItAndWithWhat(t *testing.T) {
	const own = "{version: 1, identities: {runtime: {uid: 1000, gid: 1000}}, volumes: [{path: /logs, directories: [{path: a, owner: runtime, mode: 0750}]}]}"
	other := strings.Replace(own, "owner: runtime", "owner: 1001", 1)
	closed := strings.Replace(other, "0750}", "0700}, {path: a/b, owner: 1001}", 1)
	for _, test := range []struct {
		name, text, source string
		render             func(Options) ([]byte, error)
		has                []string
	}{
		{"all is the server's: as the server, by fsGroup", own, "", Kubernetes, []string{"capabilities: {drop: [ALL]}", "runAsUser: 1000", "fsGroup: 1000", "all is the server's own"}},
		{"an emptyDir needs no fsGroup", own, "emptyDir", Kubernetes, []string{"emptyDir: {}", "runAsUser: 1000"}},
		{"a directory of the node may be root's", own, "/srv/logs", Kubernetes, []string{"add: [CHOWN, FOWNER]", "hostPath: {path: /srv/logs, type: Directory}"}},
		{"a new named volume is root's", own, "", Compose, []string{"cap_add: [CHOWN, FOWNER]"}},
		{"an emptyDir begins empty: CHOWN alone", other, "emptyDir", Kubernetes, []string{"add: [CHOWN]}"}},
		{"a claim need not: FOWNER too", other, "", Kubernetes, []string{"add: [CHOWN, FOWNER]}"}},
		{"what closes itself is borrowed at the next start", closed, "emptyDir", Kubernetes, []string{"add: [CHOWN, FOWNER]}"}},
		{"a unit that needs nothing has an empty set", "{version: 1, volumes: [{path: /logs, directories: [{path: a}]}]}", "", Systemd, []string{"\nUser=1000\n", "\nCapabilityBoundingSet=\n"}},
	} {
		o := optionsFor(t, test.text, nil)
		if test.source != "" {
			o.Sources = map[string]string{"/logs": test.source}
		}
		text, err := test.render(o)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		for _, words := range test.has {
			if !strings.Contains(string(text), words) {
				t.Errorf("%s: no %q in\n%s", test.name, words, text)
			}
		}
	}
}

func TestVolumesHaveNamesOfTheirOwn(t *testing.T) {
	o := optionsFor(t, "{version: 1, volumes: [{path: /a/models}, {path: /b/models}, {path: /b-models}, {path: /layout}, {path: /模型}]}", nil)
	volumes, err := o.volumes()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range volumes {
		names = append(names, v.name)
	}
	if diff := cmp.Diff([]string{"models", "b-models", "b-models-2", "layout-2", "volume"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestWhatNoTargetCanSayIsRefused(t *testing.T) {
	const text = "{version: 1, variables: {X: {type: name}}, volumes: [{path: /v}]}"
	for _, test := range []struct {
		change func(*Options)
		render func(Options) ([]byte, error)
		want   string
	}{
		{func(o *Options) { o.Text = bytes.Repeat([]byte("# long\n"), 20000) }, Kubernetes, "use --layout configmap"},
		{func(o *Options) { o.Text = []byte{0xff} }, Compose, "not in UTF-8"},
		{func(o *Options) { o.Sources = map[string]string{"/w": "x"} }, Kustomize, "the layout has no such volume"},
		{func(o *Options) { o.Sources = map[string]string{"/v": "./x"} }, Kubernetes, "must be absolute"},
		{func(o *Options) { o.Sources = map[string]string{"/v": emptyDir} }, Compose, "a tmpfs is each service's own"},
		{func(o *Options) { o.Sources = map[string]string{"/v": "/x:y"} }, Podman, "without a colon"},
		{func(o *Options) { o.Sources = map[string]string{"/v": "/x"} }, Systemd, "its own path"},
		{func(o *Options) { o.Layout.Variables[0].Value = "a$b" }, Podman, "leave it out"},
	} {
		o := optionsFor(t, text, map[string]string{"X": "x"})
		test.change(&o)
		if _, err := test.render(o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

func TestEveryExamplesServersGetWhatCheckPodAccepts(t *testing.T) {
	layouts, err := filepath.Glob("../../examples/*/layout.yaml")
	if err != nil || len(layouts) == 0 {
		t.Fatal(layouts, err)
	}
	for _, name := range layouts {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, identity := range optionsFor(t, string(text), PodVariables()).Layout.Identities {
			for _, target := range targets {
				if target.name == "kustomize" || !target.yaml {
					continue
				}
				o := optionsFor(t, string(text), PodVariables())
				o.As, o.Name, o.Mounted = prep.Credentials{UID: identity.UID, GID: identity.GID, Groups: identity.Groups}, identity.Name, target.mounted
				got, err := target.render(o)
				if err != nil {
					t.Fatalf("%s, %s as %s: %v", name, target.name, identity.Name, err)
				}
				agrees(t, o, name+" as "+identity.Name, got)
			}
		}
	}
}
