package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const nonrootImage = "volprep:1.2.3-nonroot"

const nonrootLayout = `{version: 1, volumes: [{path: /models, owner: 1001, group: 2000, mode: "0770",
  directories: [{path: hub, owner: 1001, group: 2000, mode: "2750"}, {path: logs, owner: 1000, group: 1000, mode: "0700"}]}]}`

// TestKubernetesNonrootImage: the runtime starts a container's program with
// the pod's capabilities permitted, so that those of the file hold although
// allowPrivilegeEscalation is false.
func TestKubernetesNonrootImage(t *testing.T) {
	k := node(t)
	archive := filepath.Join(released(t, "amd64"), "volprep-nonroot-image.tar")
	program("ctr", "--address", k.socket, "--namespace", "k8s.io", "images", "import", archive).must(t)
	dir := t.TempDir()
	manifest := `apiVersion: v1
kind: Pod
metadata: {name: nonroot}
spec:
  hostNetwork: true
  automountServiceAccountToken: false
  restartPolicy: Never
  containers:
    - name: volprep
      image: docker.io/library/` + nonrootImage + `
      imagePullPolicy: Never
      args: [apply, --format, json, --log-level, warn]
      env: [{name: VOLPREP_LAYOUT, value: ` + "'" + strings.ReplaceAll(nonrootLayout, "\n", "") + "'" + `}]
      securityContext:
        runAsNonRoot: true
        runAsUser: 65532
        runAsGroup: 65532
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL], add: [CHOWN, FOWNER]}
        seccompProfile: {type: RuntimeDefault}
      volumeMounts: [{name: models, mountPath: /models}]
  volumes: [{name: models, ` + hostPath(dir) + `}]
`
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	p := k.apply(t, "nonroot", manifest, ended)
	if end := p.Status.ContainerStatuses[0].State.Terminated; end.ExitCode != 0 {
		t.Fatalf("exit status %d: %s", end.ExitCode, end.Message)
	}
	report := parseReport(t, k.logs(t, "nonroot", "volprep"))
	if had := strings.Join(report.Capabilities.Had, " "); had != "CAP_CHOWN CAP_FOWNER" || report.Result != "changed" {
		t.Errorf("volprep says %+v", report)
	}
	checkNonroot(t, dir)
}

// TestDockerNonrootImage: Docker empties the permitted set of whoever is not
// root, and under no-new-privileges the file's capabilities add nothing to it.
func TestDockerNonrootImage(t *testing.T) {
	needRoot(t)
	d := engine(t)
	d.command("load", "--input", filepath.Join(released(t, "amd64"), "volprep-nonroot-image.tar")).must(t)
	t.Cleanup(func() { outlive(d.command("image", "rm", "--force", nonrootImage)) })
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	run := func(options ...string) (string, int) {
		args := append([]string{"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "FOWNER",
			"--env", "VOLPREP_LAYOUT=" + nonrootLayout, "--volume", dir + ":/models"}, options...)
		stdout, stderr, status := d.command(append(args, nonrootImage)...).output(t)
		return stdout + stderr, status
	}
	before := owner(t, dir)
	said, status := run("--security-opt", "no-new-privileges")
	if status == 0 || owner(t, dir) != before {
		t.Errorf("under no-new-privileges: exit status %d, the volume is %s:\n%s", status, owner(t, dir), said)
	}
	for _, want := range []string{"CAP_CHOWN", "no_new_privs"} {
		if !strings.Contains(said, want) {
			t.Errorf("the refusal has no %q:\n%s", want, said)
		}
	}
	if said, status := run(); status != 0 {
		t.Errorf("without no-new-privileges: exit status %d\n%s", status, said)
	}
	checkNonroot(t, dir)
}

func checkNonroot(t testing.TB, dir string) {
	t.Helper()
	for path, want := range map[string]string{".": "1001:2000 0770", "hub": "1001:2000 2750", "logs": "1000:1000 0700"} {
		if got := owner(t, filepath.Join(dir, path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}
