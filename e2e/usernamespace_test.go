package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Where the ids of the remapped engine's containers begin on the host, and how many there are.
const (
	firstHostID = 200000
	hostIDs     = 65536
)

// remapped starts an engine whose containers have user namespaces, beside the
// machine's own: with its own socket, root and containerd, in a mount
// namespace with /etc/subuid and /etc/subgid of its own, and in a network
// namespace, as a daemon with --bridge none removes docker0.
func remapped(t *testing.T) docker {
	t.Helper()
	needRoot(t)
	needPrograms(t, "dockerd", "docker", "unshare")
	dir, err := os.MkdirTemp("", "volprep-userns-")
	if err != nil {
		t.Fatal(err)
	}
	subordinate := filepath.Join(dir, "subid")
	if err := errors.Join(
		// The daemon's own directories below must be reachable for uid 200000.
		os.Chmod(dir, 0o711),
		os.WriteFile(subordinate, fmt.Appendf(nil, "nobody:%[1]d:%[2]d\nnogroup:%[1]d:%[2]d\n", firstHostID, hostIDs), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	d := docker{host: "unix://" + dir + "/docker.sock"}
	script := `for file in /etc/subuid /etc/subgid; do [ -e $file ] || touch $file; mount --bind "$0" $file; done; exec dockerd "$@"`
	daemon := exec.Command("unshare", "--mount", "--net", "sh", "-ec", script, subordinate,
		"--userns-remap", "nobody:nogroup", "--host", d.host, "--data-root", dir+"/data", "--exec-root", dir+"/run",
		"--pidfile", dir+"/docker.pid", "--bridge", "none", "--iptables=false", "--ip6tables=false")
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	t.Cleanup(func() {
		daemon.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			daemon.Process.Kill()
			<-ended
		}
		unmountBelow(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		if _, err := outlive(d.command("version")); err == nil {
			break
		}
		exited := false
		select {
		case err := <-ended:
			ended <- err
			exited = true
		default:
		}
		if exited || time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			lacking(t, "a Docker Engine with userns-remap does not start here; it says:\n%s", text[max(0, len(text)-2000):])
		}
	}
	if err := d.buildImages(); err != nil {
		t.Fatal(err)
	}
	return d
}

// owner gives uid, gid and mode of a path of the host.
func owner(t testing.TB, path string) string {
	t.Helper()
	var stat syscall.Stat_t
	if err := syscall.Lstat(path, &stat); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return fmt.Sprintf("%d:%d %04o", stat.Uid, stat.Gid, stat.Mode&0o7777)
}

func TestDockerUserNamespaceRemap(t *testing.T) {
	d := remapped(t)
	layout, err := os.ReadFile("../examples/nim/layout.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("ids of the layout are the container's", func(t *testing.T) {
		models, logs := d.volume(t), d.volume(t)
		mounts := []string{"--volume", models + ":/models", "--volume", logs + ":/logs", "--group-add", "2000"}
		report, stderr, status := d.prepare(t, string(layout), mounts...)
		if status != 0 || report.Summary.Created != 3 {
			t.Fatalf("apply: exit status %d, %+v\n%s", status, report, stderr)
		}
		where := strings.TrimSpace(d.command("volume", "inspect", "--format", "{{.Mountpoint}}", models).must(t))
		want := fmt.Sprintf("%d:%d 2750", firstHostID+1001, firstHostID+2000)
		if got := owner(t, where+"/hub"); got != want {
			t.Errorf("on the host the model cache is %s, want %s", got, want)
		}
		if report, stderr, status := d.prepare(t, string(layout), mounts...); status != 0 || len(report.Actions) != 0 {
			t.Errorf("the second apply: exit status %d, %+v, want no action\n%s", status, report, stderr)
		}
	})
	t.Run("a volume of the host's root is not the container root's to prepare", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		before := owner(t, dir)
		const layout = "{version: 1, volumes: [{path: /logs, mount: required, directories: [{path: nim, owner: 1000, group: 1000, mode: 0750}]}]}"
		report, stderr, status := d.prepare(t, layout, "--volume", dir+":/logs")
		if status != 6 {
			t.Errorf("apply: exit status %d, want 6: %+v\n%s", status, report, stderr)
		}
		if !strings.Contains(stderr, "/logs") || !strings.Contains(stderr, "user namespace") {
			t.Errorf("the message does not say that the user namespace is in the way:\n%s", stderr)
		}
		if got := owner(t, dir); got != before {
			t.Errorf("the volume's root was %s and is now %s", before, got)
		}
	})
	t.Run("an id beyond the map", func(t *testing.T) {
		const layout = "{version: 1, volumes: [{path: /logs, directories: [{path: nim, owner: 100000, mode: 0750}]}]}"
		report, stderr, status := d.prepare(t, layout, "--volume", d.volume(t)+":/logs")
		if status != 6 || !strings.Contains(stderr, "100000") || !strings.Contains(stderr, "map") {
			t.Errorf("apply: exit status %d, want 6 and the id 100000 said not to be mapped: %+v\n%s", status, report, stderr)
		}
	})
}
