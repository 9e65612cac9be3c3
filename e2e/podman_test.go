package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Without CAP_SYS_RESOURCE no limit can be raised, and not every machine's
// first process is systemd.
const podmanConfig = `[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`

func TestPodmanPlaysThePodThatIsRendered(t *testing.T) {
	needRoot(t)
	needPrograms(t, "podman", "catatonit")
	d := engine(t)
	// Podman takes no run directory of more than 50 characters.
	dir, err := os.MkdirTemp("", "podman-")
	if err != nil {
		t.Fatal(err)
	}
	config, manifest := filepath.Join(dir, "containers.conf"), filepath.Join(dir, "pod.yaml")
	podman := func(args ...string) command {
		options := []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
		return command{name: "podman", args: append(options, args...), env: []string{"CONTAINERS_CONF=" + config}}
	}
	t.Cleanup(func() {
		if out, err := outlive(podman("pod", "rm", "--all", "--force")); err != nil {
			t.Errorf("podman pod rm: %v\n%s", err, out)
		}
		unmountBelow(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	volumes := map[string]string{"/models": filepath.Join(dir, "models"), "/logs": filepath.Join(dir, "logs")}
	options := []string{"--image", "localhost/" + volprepImage}
	for path, host := range volumes {
		if err := os.Mkdir(host, 0o755); err != nil {
			t.Fatal(err)
		}
		options = append(options, "--volume", path+"="+host)
	}
	text := rendered(t, "kubernetes", "../examples/nim/layout.yaml", options...)
	// As a "once" init container Podman 4.3 may try to remove volprep while it ends.
	text = strings.Replace(text, "metadata: {name: runtime}", "metadata: {name: runtime, annotations: {io.podman.annotations.init.container.type: always}}", 1)
	text = strings.Replace(text, "image: runtime\n", "image: localhost/"+runtimeImage+"\n", 1)
	for path, content := range map[string]string{config: podmanConfig, manifest: text} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images := filepath.Join(dir, "images.tar")
	d.command("save", "--output", images, volprepImage, runtimeImage).must(t)
	podman("load", "--input", images).must(t)
	podman("play", "kube", "--network", "host", manifest).must(t)
	got := map[string]string{}
	for _, path := range []string{"/models", "/models/hub", "/models/hub/.locks", "/logs", "/logs/runtime"} {
		volume, rest, _ := strings.Cut(path[1:], "/")
		got[path] = owner(t, filepath.Join(volumes["/"+volume], rest))
	}
	if diff := cmp.Diff(preparedNIM("runtime"), got); diff != "" {
		t.Errorf("the volumes are (-want +got):\n%s", diff)
	}
	// The pod's server runs as podman was told, without any capability.
	var said string
	for deadline := time.Now().Add(20 * time.Second); said == "" && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		said = podman("logs", "runtime-runtime").must(t)
	}
	server := parseServed(t, said)
	if diff := cmp.Diff([]int{1000, 2000}, server.Process.Groups); diff != "" || server.Process.UID != 1000 {
		t.Errorf("the server runs as %d in groups %s", server.Process.UID, diff)
	}
}
