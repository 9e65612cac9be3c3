package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// project is one docker-compose project, taken down with its volumes at the
// test's end.
type project struct {
	docker
	name  string
	files []string
	env   []string
}

// compose is the NIM example's project with the images that these tests build.
func compose(t testing.TB, d docker, env ...string) project {
	t.Helper()
	return composeOf(t, d, []string{"../examples/nim/compose.yaml", "testdata/compose.yaml"}, env...)
}

// composeOf is a project of these files.
func composeOf(t testing.TB, d docker, files []string, env ...string) project {
	t.Helper()
	needPrograms(t, "docker-compose")
	p := project{
		docker: d,
		name:   fmt.Sprintf("volprep%d", time.Now().UnixNano()),
		files:  files,
		env:    env,
	}
	t.Cleanup(func() {
		// The test's context is over when its cleanup runs.
		c := p.command("down", "--volumes", "--timeout", "1")
		if out, err := outlive(c); err != nil {
			t.Errorf("docker-compose down: %v\n%s", err, out)
		}
	})
	return p
}

func (p project) command(args ...string) command {
	options := []string{"--no-ansi", "--project-name", p.name}
	for _, file := range p.files {
		options = append(options, "--file", file)
	}
	return command{name: "docker-compose", args: append(options, args...), env: append(p.env, p.docker.command().env...)}
}

// up starts the project anew and waits until each service has ended.
func (p project) up(t testing.TB) string {
	t.Helper()
	defer timed(t, "docker-compose up")()
	return p.command("up", "--force-recreate", "--timeout", "1").must(t)
}

// container is what a service's container ended with.
type container struct {
	status         int
	stdout, stderr string
}

func (p project) container(t testing.TB, service string) container {
	t.Helper()
	id := strings.TrimSpace(p.command("ps", "--quiet", service).must(t))
	var c container
	if _, err := fmt.Sscan(p.docker.command("inspect", "--format", "{{.State.ExitCode}}", id).must(t), &c.status); err != nil {
		t.Fatalf("exit status of %s: %v", service, err)
	}
	c.stdout, c.stderr, _ = p.docker.command("logs", id).output(t)
	return c
}

// prepared reads the report of the service `prep`.
func (p project) prepared(t testing.TB) applyReport {
	t.Helper()
	c := p.container(t, "prep")
	if c.status != 0 {
		t.Fatalf("prep ended with exit status %d\n%s%s", c.status, c.stdout, c.stderr)
	}
	return parseReport(t, c.stdout)
}

// parseReport finds the JSON report in what volprep wrote.
func parseReport(t testing.TB, text string) applyReport {
	t.Helper()
	begin := strings.Index(text, "{")
	if begin < 0 {
		t.Fatalf("no report in: %s", text)
	}
	var report applyReport
	if err := json.NewDecoder(strings.NewReader(text[begin:])).Decode(&report); err != nil {
		t.Fatalf("volprep's report is no JSON: %v\n%s", err, text)
	}
	return report
}

// served reads the report of a service that runs the stand-in runtime, which
// must have succeeded without any capability.
func (p project) served(t testing.TB, service string) serverReport {
	t.Helper()
	c := p.container(t, service)
	if c.status != 0 {
		t.Fatalf("%s ended with exit status %d\n%s%s", service, c.status, c.stdout, c.stderr)
	}
	return parseServed(t, c.stdout)
}

func parseServed(t testing.TB, text string) serverReport {
	t.Helper()
	var report serverReport
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatalf("the runtime's report is no JSON: %v\n%s", err, text)
	}
	want := map[string]string{"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
	for key, value := range want {
		if got := report.Process.Status[key]; got != value {
			t.Errorf("the runtime's %s is %q, want %q", key, got, value)
		}
	}
	return report
}

// checkServed holds the report of a server against what the NIM layout promises.
func checkServed(t testing.TB, server serverReport) {
	t.Helper()
	if len(server.Wrote) != 2 {
		t.Errorf("the runtime wrote %q, want a log and a rotated one", server.Wrote)
	}
	if !strings.HasSuffix(server.Model, "/model.safetensors") {
		t.Errorf("the runtime read %q, want a model", server.Model)
	}
	if len(server.Refused) != 4 {
		t.Errorf("refused were %v, want the model cache thrice and the root file system", server.Refused)
	}
	for path, answer := range server.Refused {
		want := "permission denied"
		if path == "/intruder" {
			want = "read-only file system"
		}
		if answer != want {
			t.Errorf("writing %s was refused by %q, want %q", path, answer, want)
		}
	}
}

func TestComposeServerOverModelCache(t *testing.T) {
	d := engine(t)
	for _, kind := range []struct {
		name string
		env  func(*testing.T) []string
	}{
		{"named volumes", func(*testing.T) []string { return nil }},
		{"bind mounts", func(t *testing.T) []string {
			needRoot(t)
			return []string{"MODELS=" + t.TempDir(), "LOGS=" + t.TempDir()}
		}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			p := compose(t, d, kind.env(t)...)
			p.up(t)
			first := p.prepared(t)
			if first.Result != "changed" || first.Summary.Created != 3 {
				t.Errorf("the first run says %+v, want 3 directories created", first)
			}
			if got := p.served(t, "puller").Process.UID; got != 1001 {
				t.Errorf("the puller ran as %d", got)
			}
			checkServed(t, p.served(t, "runtime"))

			p.up(t)
			second := p.prepared(t)
			if second.Result != "unchanged" || len(second.Actions) != 0 {
				t.Errorf("the second run says %+v, want unchanged and no action", second)
			}
			checkServed(t, p.served(t, "runtime"))
		})
	}
}

// preparedNIM are owners and modes of the NIM layout's directories, as its
// server sees them, whose log directory has this name.
func preparedNIM(logs string) map[string]string {
	return map[string]string{
		"/models": "1001:2000 2750", "/models/hub": "1001:2000 2750", "/models/hub/.locks": "1001:2000 2770",
		"/logs": "0:0 0755", "/logs/" + logs: "1000:1000 0750",
	}
}

func TestComposeOfWhatIsRendered(t *testing.T) {
	needRoot(t)
	d := engine(t)
	for _, kind := range []struct {
		name    string
		options []string
	}{
		{"named volumes", nil},
		{"bind mounts", []string{"--volume", "/models=" + t.TempDir(), "--volume", "/logs=" + t.TempDir()}},
	} {
		t.Run(kind.name, func(t *testing.T) {
			want := preparedNIM("nim")
			args, err := json.Marshal(append([]string{"stat"}, slices.Sorted(maps.Keys(want))...))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			files := []string{filepath.Join(dir, "rendered.yaml"), filepath.Join(dir, "images.yaml")}
			for i, text := range []string{
				rendered(t, "compose", "../examples/nim/layout.yaml", append(kind.options, "--image", volprepImage)...),
				"version: \"3.8\"\nservices:\n  prep: {command: [apply, --format, json, --log-level, warn]}\n" +
					"  runtime: {image: " + runtimeImage + ", network_mode: none, command: " + string(args) + "}\n",
			} {
				if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := composeOf(t, d, files)
			for _, result := range []string{"changed", "unchanged"} {
				p.up(t)
				if report := p.prepared(t); report.Result != result {
					t.Errorf("apply says %+v, want %s", report, result)
				}
				if diff := cmp.Diff(want, p.served(t, "runtime").Paths); diff != "" {
					t.Errorf("the server sees (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestComposeWithoutPrepTheServerCrashesOnItsFirstLog(t *testing.T) {
	d := engine(t)
	p := compose(t, d)
	_, stderr, status := p.command("run", "--rm", "--no-deps", "runtime", "serve", "-logs", "/logs").output(t)
	if status == 0 || !strings.Contains(stderr, "open /logs/server.log: permission denied") {
		t.Errorf("without prep the runtime ended with %d, want its log refused\n%s", status, stderr)
	}
}

func TestDockerTwoServersWithTwoUIDsOnOneCache(t *testing.T) {
	d := engine(t)
	layout, err := os.ReadFile("testdata/two-servers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	models, logs := d.volume(t), d.volume(t)
	mounts := []string{"--volume", models + ":/models", "--volume", logs + ":/logs"}
	if report, stderr, status := d.prepare(t, string(layout), mounts...); status != 0 || report.Result != "changed" {
		t.Fatalf("apply: exit status %d, %+v\n%s", status, report, stderr)
	}
	unprivileged := append([]string{"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges"}, mounts...)
	as := func(user, group string, args ...string) command {
		run := append(append([]string{}, unprivileged...), "--user", user, "--group-add", group, runtimeImage)
		return d.command(append(run, args...)...)
	}
	as("1001:2000", "2000", "pull").must(t)
	for _, server := range []struct{ user, logs string }{{"1000:1000", "/logs/first"}, {"1100:1100", "/logs/second"}} {
		checkServed(t, parseServed(t, as(server.user, "2000", "serve", "-logs", server.logs).must(t)))
	}
	_, stderr, status := as("1100:1100", "2000", "serve", "-logs", "/logs/first").output(t)
	if status == 0 || !strings.Contains(stderr, "/logs/first/server.log: permission denied") {
		t.Errorf("the second server wrote the first one's log: exit status %d\n%s", status, stderr)
	}
	_, stderr, status = as("1200:1200", "1200", "serve", "-logs", "").output(t)
	if status == 0 || !strings.Contains(stderr, "permission denied") {
		t.Errorf("a server outside the group read the cache: exit status %d\n%s", status, stderr)
	}
	// Outside the group, volprep must borrow the closed directories to look into them, and nothing else.
	report, _, status := d.prepare(t, string(layout), mounts...)
	if status != 0 || report.Result != "unchanged" || len(report.Actions) == 0 {
		t.Errorf("the second apply: exit status %d, %+v, want unchanged with borrowed directories", status, report)
	}
	for _, action := range report.Actions {
		if action.Op != "borrow" && action.Op != "return" {
			t.Errorf("the second apply does %s to %s", action.Op, action.Path)
		}
	}
	if report, _, status := d.prepare(t, string(layout), append(mounts, "--group-add", "2000")...); status != 0 || len(report.Actions) != 0 {
		t.Errorf("as a member of the group, apply: exit status %d, %+v, want no action", status, report)
	}
}

func TestDockerTmpfsVolumeKeepsWhatPrepMadeWhileAContainerHoldsIt(t *testing.T) {
	d := engine(t)
	const layout = "{version: 1, volumes: [{path: /logs, mount: required, directories: [{path: nim, owner: 1000, group: 1000, mode: 0750}]}]}"
	logs := d.volume(t, "--driver", "local", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=8m")
	mount := []string{"--volume", logs + ":/logs"}
	stat := func() (string, int) {
		stdout, _, status := d.command("run", "--rm", "--network", "none", "--user", "0", "--volume", logs+":/logs", runtimeImage, "stat", "/logs/nim").output(t)
		return stdout, status
	}
	if report, stderr, status := d.prepare(t, layout, mount...); status != 0 || report.Summary.Created != 1 {
		t.Fatalf("apply: exit status %d, %+v\n%s", status, report, stderr)
	}
	// The engine unmounts such a volume with its last container: what prep made is gone with it.
	if stdout, status := stat(); status == 0 {
		t.Errorf("the volume outlived its last container: %s", stdout)
	}
	holder := strings.TrimSpace(d.command("run", "--detach", "--rm", "--network", "none", "--volume", logs+":/logs", runtimeImage, "pause").must(t))
	defer d.command("kill", holder).must(t)
	if report, stderr, status := d.prepare(t, layout, mount...); status != 0 || report.Summary.Created != 1 {
		t.Fatalf("apply: exit status %d, %+v\n%s", status, report, stderr)
	}
	stdout, status := stat()
	if status != 0 || !strings.Contains(stdout, `"/logs/nim":"1000:1000 0750"`) {
		t.Errorf("after prep the volume holds: exit status %d, %s", status, stdout)
	}
	if report, _, status := d.prepare(t, layout, mount...); status != 0 || report.Result != "unchanged" {
		t.Errorf("the second apply: exit status %d, %+v, want unchanged", status, report)
	}
}

func TestDockerForgottenVolumeIsAnError(t *testing.T) {
	d := engine(t)
	const layout = "{version: 1, volumes: [{path: /logs, mount: required, directories: [{path: nim}]}]}"
	_, stderr, status := d.prepare(t, layout)
	if status != 1 || !strings.Contains(stderr, "/logs") {
		t.Errorf("apply without the volume: exit status %d, want 1 and a message about /logs\n%s", status, stderr)
	}
}

func TestDockerMissingCapabilityIsNamed(t *testing.T) {
	d := engine(t)
	const layout = "{version: 1, volumes: [{path: /logs, directories: [{path: nim, owner: 1000, mode: 0750}]}]}"
	stdout, stderr, status := d.command("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL",
		"--volume", d.volume(t)+":/logs", "--env", "VOLPREP_LAYOUT="+layout, volprepImage).output(t)
	if status != 6 || !strings.Contains(stdout+stderr, "CHOWN") {
		t.Errorf("apply without capabilities: exit status %d, want 6 and CAP_CHOWN named\n%s%s", status, stdout, stderr)
	}
}
