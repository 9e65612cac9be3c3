package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nim gives the values of testdata/pod.yaml for the NIM layout.
func nim(t testing.TB, name, models, logs string) map[string]string {
	t.Helper()
	layout, err := os.ReadFile("../examples/nim/layout.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"NAME": name, "RESTART": "Always", "SERVE": "",
		"LAYOUT": strconv.Quote(string(layout)), "MODELS": models, "LOGS": logs,
	}
}

func hostPath(dir string) string { return "hostPath: {type: Directory, path: " + dir + "}" }

// serving: each container of the pod runs.
func serving(p pod) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running == nil {
			return false
		}
	}
	return len(p.Status.ContainerStatuses) > 0
}

// initFailed: volprep has ended with another status than 0.
func initFailed(p pod) bool {
	for _, c := range p.Status.InitContainerStatuses {
		if c.Name == "volprep" {
			return c.State.Terminated != nil && c.State.Terminated.ExitCode != 0
		}
	}
	return false
}

// servedInPod waits for the server's report, which it writes after its start.
func (k *kubelet) servedInPod(t testing.TB, name string) serverReport {
	t.Helper()
	var text string
	if err := await(k.dir, "kubelet", func() bool {
		text = k.logs(t, name, "runtime")
		return strings.HasSuffix(text, "}\n")
	}); err != nil {
		t.Fatal(err)
	}
	return parseServed(t, text)
}

func TestKubernetesServerOverModelCache(t *testing.T) {
	k := node(t)
	for _, kind := range []struct {
		name, models, logs string
		kept               bool // the volumes outlive the pod
	}{
		{"host", hostPath(t.TempDir()), hostPath(t.TempDir()), true},
		{"empty", "emptyDir: {}", "emptyDir: {}", false},
		{"memory", "emptyDir: {medium: Memory, sizeLimit: 8Mi}", "emptyDir: {medium: Memory, sizeLimit: 8Mi}", false},
	} {
		t.Run(kind.name, func(t *testing.T) {
			values := nim(t, kind.name, kind.models, kind.logs)
			k.run(t, values, serving)
			first := parseReport(t, k.logs(t, kind.name, "volprep"))
			if first.Result != "changed" || first.Summary.Created != 3 {
				t.Errorf("the first start says %+v, want 3 directories created", first)
			}
			if had := strings.Join(first.Capabilities.Had, " "); had != "CAP_CHOWN CAP_FOWNER" {
				t.Errorf("in the pod volprep had %q, want CAP_CHOWN and CAP_FOWNER", had)
			}
			checkServed(t, k.servedInPod(t, kind.name))
			if !kind.kept {
				return
			}
			k.remove(t, kind.name)
			values["NAME"] += "-again"
			k.run(t, values, serving)
			second := parseReport(t, k.logs(t, values["NAME"], "volprep"))
			if second.Result != "unchanged" || len(second.Actions) != 0 {
				t.Errorf("the second start says %+v, want unchanged and no action", second)
			}
			checkServed(t, k.servedInPod(t, values["NAME"]))
		})
	}
}

func TestKubernetesTwoPodsOnOneVolume(t *testing.T) {
	k := node(t)
	models, logs := hostPath(t.TempDir()), hostPath(t.TempDir())
	for _, name := range []string{"left", "right"} {
		k.run(t, nim(t, name, models, logs), serving)
		checkServed(t, k.servedInPod(t, name))
	}
	if report := parseReport(t, k.logs(t, "right", "volprep")); report.Result != "unchanged" || len(report.Actions) != 0 {
		t.Errorf("under a running server apply says %+v, want unchanged and no action", report)
	}
	if p, found := k.pod(t, "left"); !found || !serving(p) {
		t.Errorf("the first pod no longer serves: %+v", p.Status)
	}
}

func TestKubernetesServerThatCrashesRestarts(t *testing.T) {
	k := node(t)
	values := nim(t, "crash", "emptyDir: {}", "emptyDir: {}")
	values["SERVE"] = ", -crash-once, /logs/nim/crashed"
	p := k.run(t, values, func(p pod) bool { return serving(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	checkServed(t, k.servedInPod(t, "crash"))
	if last := p.Status.ContainerStatuses[0].LastState.Terminated; last == nil || last.ExitCode != 1 {
		t.Errorf("the server's last state is %+v, want its crash", last)
	}
}

func TestKubernetesPodSaysWhyVolprepFailed(t *testing.T) {
	k := node(t)
	const layout = "version: 1\nidentities: {runtime: {uid: 1000, gid: 1000}}\nvolumes:\n  - path: /logs\n    directories:\n"
	for _, failure := range []struct {
		name, layout string
		status       int
		message      []string
	}{
		{"wrong-layout", layout + "      - {path: nim, ownr: runtime}\n", 3, []string{"VOLPREP_LAYOUT:6:21:", "ownr", "owner"}},
		{"expectation", layout + "      - {path: nim, owner: 0, group: 0, mode: 0700}\n" +
			"expect:\n  - {as: runtime, path: /logs/nim, can: [create]}\n", 7, []string{"/logs/nim", "create"}},
		{"forgotten-mount", strings.Replace(layout, "/logs", "/data", 1) + "      - {path: nim}\n", 1, []string{"/data"}},
	} {
		t.Run(failure.name, func(t *testing.T) {
			values := nim(t, failure.name, "emptyDir: {}", "emptyDir: {}")
			values["RESTART"], values["LAYOUT"] = "Never", strconv.Quote(failure.layout)
			p := k.run(t, values, initFailed)
			end := p.Status.InitContainerStatuses[0].State.Terminated
			if end.ExitCode != failure.status {
				t.Errorf("volprep ended with exit status %d, want %d", end.ExitCode, failure.status)
			}
			for _, want := range failure.message {
				if !strings.Contains(end.Message, want) {
					t.Errorf("the termination message has no %q:\n%s", want, end.Message)
				}
			}
			if c := p.Status.ContainerStatuses[0]; c.State.Running != nil || c.State.Terminated != nil {
				t.Errorf("the server was started all the same: %+v", c.State)
			}
		})
	}
}

func TestKubernetesVolumesLookAsTheLayoutSays(t *testing.T) {
	k := node(t)
	needPrograms(t, "getfacl")
	models, logs := t.TempDir(), t.TempDir()
	k.run(t, nim(t, "acl", hostPath(models), hostPath(logs)), serving)
	checkServed(t, k.servedInPod(t, "acl"))
	got, err := exec.Command("getfacl", "--numeric", "--absolute-names", "--omit-header", models+"/hub").CombinedOutput()
	if err != nil {
		t.Fatalf("getfacl: %v\n%s", err, got)
	}
	want := "user::rwx\nuser:0:r-x\ngroup::r-x\nmask::r-x\nother::---\n" +
		"default:user::rwx\ndefault:user:0:r-x\ndefault:group::r-x\ndefault:mask::r-x\ndefault:other::---\n\n"
	if string(got) != want {
		t.Errorf("getfacl of the model cache gives\n%swant\n%s", got, want)
	}
	for path, want := range map[string]string{
		models:                 "1001:2000 2750",
		models + "/hub":        "1001:2000 2750",
		models + "/hub/.locks": "1001:2000 2770",
		logs:                   "0:0 0755",
		logs + "/nim":          "1000:1000 0750",
	} {
		if got := owner(t, path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

// ended: the server has ended, or volprep failed before it.
func ended(p pod) bool {
	return initFailed(p) || len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Terminated != nil
}

func TestKubernetesPodOfWhatIsRendered(t *testing.T) {
	k := node(t)
	// One directory of an empty volume, named after the pod.
	owned := func(uid string) string {
		path := filepath.Join(t.TempDir(), "layout.yaml")
		if err := os.WriteFile(path, []byte("version: 1\nvariables: {POD_NAME: {}}\nidentities: {runtime: {uid: 1000, gid: 1000}}\n"+
			"volumes:\n  - path: /logs\n    directories: [{path: \"${POD_NAME}\", owner: "+uid+", group: 1000, mode: \"0750\"}]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, kind := range []struct {
		name, layout string
		options      []string
		had          string
		want         map[string]string
	}{
		{"rendered-host", "../examples/nim/layout.yaml", []string{"--volume", "/models=" + t.TempDir(), "--volume", "/logs=" + t.TempDir()},
			"CAP_CHOWN CAP_FOWNER", preparedNIM("rendered-host-node")},
		{"rendered-empty", "../examples/nim/layout.yaml", []string{"--volume", "/models=emptyDir", "--volume", "/logs=emptyDir"},
			"CAP_CHOWN CAP_FOWNER", preparedNIM("rendered-empty-node")},
		{"rendered-other", owned("1001"), []string{"--volume", "/logs=emptyDir"}, "CAP_CHOWN", map[string]string{"/logs/rendered-other-node": "1001:1000 0750"}},
		{"rendered-own", owned("runtime"), []string{"--volume", "/logs=emptyDir"}, "", map[string]string{"/logs/rendered-own-node": "1000:1000 0750"}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			args, err := json.Marshal(append([]string{"stat"}, slices.Sorted(maps.Keys(kind.want))...))
			if err != nil {
				t.Fatal(err)
			}
			manifest := rendered(t, "kubernetes", kind.layout, append(kind.options, "--image", "docker.io/library/"+volprepImage)...)
			// The test's images, arguments, and a kubelet without a network.
			manifest = replaced(t, manifest, map[string]string{
				"\nmetadata: {name: runtime}": "\nmetadata: {name: " + kind.name + "}",
				"\nspec:\n":                   "\nspec:\n  hostNetwork: true\n  restartPolicy: Never\n",
				"image: docker.io/library/" + volprepImage + "\n": "image: docker.io/library/" + volprepImage +
					"\n      imagePullPolicy: Never\n      args: [apply, --format, json, --log-level, warn]\n",
				"image: runtime\n": "image: docker.io/library/" + runtimeImage + "\n      imagePullPolicy: Never\n      args: " + string(args) + "\n",
			})
			k.apply(t, kind.name, manifest, ended)
			report := parseReport(t, k.logs(t, kind.name, "volprep"))
			if had := strings.Join(report.Capabilities.Had, " "); had != kind.had || report.Result != "changed" {
				t.Errorf("volprep had %q, want %q, and says %+v", had, kind.had, report)
			}
			if diff := cmp.Diff(kind.want, parseServed(t, k.logs(t, kind.name, "runtime")).Paths); diff != "" {
				t.Errorf("the server sees (-want +got):\n%s", diff)
			}
		})
	}
}

// replaced puts what a test needs into a manifest, where each old stands once.
func replaced(t testing.TB, manifest string, here map[string]string) string {
	t.Helper()
	for old, here := range here {
		if strings.Count(manifest, old) != 1 {
			t.Fatalf("not once in the manifest: %q\n%s", old, manifest)
		}
		manifest = strings.Replace(manifest, old, here, 1)
	}
	return manifest
}
