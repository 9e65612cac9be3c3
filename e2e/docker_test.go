package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The images that the tests build.
const (
	volprepImage = "volprep:e2e"
	runtimeImage = "volprep-e2e-runtime:e2e"
)

// docker is an engine: the machine's own, or one that a test started.
type docker struct {
	// host is the value of DOCKER_HOST; empty for the machine's own.
	host string
}

// engine gives the machine's engine with both images in it.
func engine(t testing.TB) docker {
	t.Helper()
	needPrograms(t, "docker")
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		lacking(t, "no Docker Engine answers: %s", strings.TrimSpace(string(out)))
	}
	if err := ownImages(); err != nil {
		t.Fatal(err)
	}
	return docker{}
}

var ownImages = sync.OnceValue(func() error { return docker{}.buildImages() })

// finalStage gives the released image's own last stage with the binary taken
// from the build context: no base image can be pulled where these tests run,
// and what is tested must be the image that is released.
func finalStage(dockerfile string) string {
	stage := dockerfile[strings.LastIndex(dockerfile, "\nFROM ")+1:]
	return strings.Replace(stage, "COPY --from=build /volprep", "COPY volprep", 1)
}

// buildImages assembles both images from binaries built here.
func (d docker) buildImages() error {
	binaries, err := buildBinaries()
	if err != nil {
		return err
	}
	released, err := os.ReadFile("../Dockerfile")
	if err != nil {
		return err
	}
	for image, dockerfile := range map[string]string{
		volprepImage: finalStage(string(released)),
		runtimeImage: "FROM scratch\nCOPY runtime /runtime\nUSER 1000\nENTRYPOINT [\"/runtime\"]\nCMD [\"pause\"]\n",
	} {
		path := filepath.Join(binaries, "Dockerfile")
		if err := os.WriteFile(path, []byte(dockerfile), 0o600); err != nil {
			return err
		}
		build := exec.Command("docker", "build", "--quiet", "--tag", image, binaries)
		build.Env = append(d.environment(), "DOCKER_BUILDKIT=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("docker build of %s: %w\n%s", image, err, out)
		}
	}
	return nil
}

func (d docker) environment() []string {
	if d.host == "" {
		return os.Environ()
	}
	return append(os.Environ(), "DOCKER_HOST="+d.host)
}

// command is one of the docker client for this engine.
func (d docker) command(args ...string) command {
	c := program("docker", args...)
	if d.host != "" {
		c.env = []string{"DOCKER_HOST=" + d.host}
	}
	return c
}

// prepare runs volprep in a container with exactly the rights of the
// documentation, and gives its JSON report. options are docker run's.
func (d docker) prepare(t testing.TB, layout string, options ...string) (applyReport, string, int) {
	t.Helper()
	args := append([]string{"run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--cap-add", "CHOWN",
		"--cap-add", "FOWNER", "--security-opt", "no-new-privileges", "--env", "VOLPREP_LAYOUT=" + layout}, options...)
	stdout, stderr, status := d.command(append(args, volprepImage, "apply", "--format", "json")...).output(t)
	var report applyReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil && status < 2 {
		t.Fatalf("volprep's report is no JSON: %v\n%s%s", err, stdout, stderr)
	}
	return report, stderr, status
}

// serverReport is what the stand-in runtime prints.
type serverReport struct {
	Process struct {
		UID    int               `json:"uid"`
		Groups []int             `json:"groups"`
		Status map[string]string `json:"status"`
	} `json:"process"`
	Model   string            `json:"model"`
	Wrote   []string          `json:"wrote"`
	Refused map[string]string `json:"refused"`
	Paths   map[string]string `json:"paths"`
}

// applyReport is what the tests read of volprep's JSON report.
type applyReport struct {
	Result  string `json:"result"`
	Summary struct {
		Created, Changed, Unchanged, Failed int
	} `json:"summary"`
	Actions []struct {
		Path, Op, Error string
	} `json:"actions"`
	Contents     []struct{ Changed int }
	Capabilities struct{ Had []string }
	Sandbox      struct{ Landlock, Seccomp string }
}

func TestDockerfileFinalStage(t *testing.T) {
	dockerfile, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var instructions []string
	for line := range strings.Lines(finalStage(string(dockerfile))) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word != "" && word == strings.ToUpper(word) && word != "#" {
			instructions = append(instructions, strings.TrimSpace(line))
		}
	}
	for _, want := range []string{"FROM scratch", "COPY volprep /volprep", "USER 0", `ENTRYPOINT ["/volprep"]`, `CMD ["apply"]`} {
		found := false
		for _, have := range instructions {
			found = found || have == want
		}
		if !found {
			t.Errorf("the final stage of Dockerfile has no line %q; it has:\n%s", want, strings.Join(instructions, "\n"))
		}
	}
}

func TestDockerImage(t *testing.T) {
	d := engine(t)
	var images []struct {
		Size   int64
		Config struct {
			User       string
			Entrypoint []string
			Cmd        []string
			Labels     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(d.command("image", "inspect", volprepImage).must(t)), &images); err != nil {
		t.Fatal(err)
	}
	image := images[0]
	if image.Config.User != "0" || strings.Join(image.Config.Entrypoint, " ") != "/volprep" || strings.Join(image.Config.Cmd, " ") != "apply" {
		t.Errorf("the image runs %q %q as %q, want /volprep apply as 0", image.Config.Entrypoint, image.Config.Cmd, image.Config.User)
	}
	if got := image.Config.Labels["org.opencontainers.image.licenses"]; got != "Apache-2.0" {
		t.Errorf("label org.opencontainers.image.licenses is %q", got)
	}
	const most = 6 << 20
	if image.Size > most {
		t.Errorf("the image has %d bytes, at most %d are wanted", image.Size, most)
	}
	compressed := command{name: "sh", args: []string{"-c", "docker save " + volprepImage + " | gzip -9 | wc -c"}}.must(t)
	t.Logf("image: %d bytes, compressed %s", image.Size, strings.TrimSpace(compressed))
}

// volume makes a named volume that goes with the test.
func (d docker) volume(t testing.TB, options ...string) string {
	t.Helper()
	name := strings.TrimSpace(d.command(append([]string{"volume", "create"}, options...)...).must(t))
	t.Cleanup(func() {
		if out, err := outlive(d.command("volume", "rm", "--force", name)); err != nil {
			t.Errorf("docker volume rm: %v\n%s", err, out)
		}
	})
	return name
}

// What the flags of the documentation leave to the process, the kernel itself
// says: bits 0 and 3, CAP_CHOWN and CAP_FOWNER.
func TestDockerPrepHasTwoCapabilities(t *testing.T) {
	d := engine(t)
	stdout := d.command("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--cap-add", "CHOWN",
		"--cap-add", "FOWNER", "--security-opt", "no-new-privileges", "--user", "0", runtimeImage, "stat", "/").must(t)
	var report serverReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	for _, set := range []string{"CapEff", "CapPrm", "CapBnd"} {
		if got := report.Process.Status[set]; got != "0000000000000009" {
			t.Errorf("%s is %s, want 0000000000000009", set, got)
		}
	}
	if got := report.Process.Status["NoNewPrivs"] + report.Process.Status["Seccomp"]; got != "12" {
		t.Errorf("no_new_privs and seccomp mode are %s, want 1 and 2", got)
	}
}
