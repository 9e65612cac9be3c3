package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// kubelet is a node: a kubelet with a containerd of its own. Without an API
// server it runs the static pods of a directory.
type kubelet struct {
	dir      string // configuration, logs, state
	manifest string // static pods
	url      string // of the read-only port
	socket   string // containerd's
}

// node starts the kubelet and its containerd once for all tests.
func node(t testing.TB) *kubelet {
	t.Helper()
	needRoot(t)
	needPrograms(t, "containerd", "ctr", "runc")
	engine(t) // has the images
	needKubernetes(t)
	k, err := startNode()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// needKubernetes ends a test where e2e/kubernetes.sh has built nothing. Building
// takes minutes, so that is left to e2e/setup.sh.
func needKubernetes(t testing.TB) {
	t.Helper()
	if _, err := kubernetes("kubelet"); err != nil {
		lacking(t, "%v", err)
	}
}

// kubernetes is where e2e/kubernetes.sh has put a program.
func kubernetes(program string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(cache, "volprep-e2e", "kubernetes-*.*.*", program))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no %s in %s/volprep-e2e: e2e/kubernetes.sh builds it from its Go module in some minutes", program, cache)
	}
	return slices.Max(found), nil
}

var startNode = sync.OnceValues(func() (*kubelet, error) { return newNode("") })

const containerdConfig = `version = 2
root = "%[1]s/containerd"
state = "%[1]s/run"
oom_score = 0
[grpc]
  address = "%[2]s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/volprep-e2e-runtime:e2e"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
`

// What a machine of one's own need not have and a container lacks is switched
// off: cgroup hierarchies of systemd, no swap, iptables, OOM scores.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: %[1]s/manifests
podLogsDir: %[1]s/logs
containerRuntimeEndpoint: unix://%[2]s
address: 127.0.0.1
port: %[3]d
readOnlyPort: %[4]d
healthzPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
makeIPTablesUtilChains: false
oomScoreAdj: 0
fileCheckFrequency: 1s
evictionHard: {memory.available: 1Mi, nodefs.available: 0%%, imagefs.available: 0%%, nodefs.inodesFree: 0%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`

// network gives each pod an address, and a way to nowhere but the node.
const network = `{"cniVersion": "0.4.0", "name": "volprep", "plugins": [{"type": "ptp", "ipam": {
  "type": "host-local", "ranges": [[{"subnet": "10.213.77.0/24"}]], "dataDir": "%s/addresses"}}]}
`

// newNode starts a node for the API server of kubeconfig, with a network for
// its pods; without one, a node of static pods, which use the host's.
func newNode(kubeconfig string) (*kubelet, error) {
	binary, err := kubernetes("kubelet")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "volprep-node-")
	if err != nil {
		return nil, err
	}
	k := &kubelet{dir: dir, manifest: filepath.Join(dir, "manifests"), socket: filepath.Join(dir, "containerd.sock")}
	cleanups = append(cleanups, func() {
		unmountBelow(dir)
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	})
	for _, sub := range []string{"manifests", "logs", "cni", "root"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	port, readOnly := freePort(), freePort()
	k.url = fmt.Sprintf("http://127.0.0.1:%d", readOnly)
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "containerd.toml"), fmt.Appendf(nil, containerdConfig, dir, k.socket), 0o600),
		os.WriteFile(filepath.Join(dir, "kubelet.yaml"), fmt.Appendf(nil, kubeletConfig, dir, k.socket, port, readOnly), 0o600),
	); err != nil {
		return nil, err
	}
	if kubeconfig != "" {
		if err := os.WriteFile(filepath.Join(dir, "cni", "volprep.conflist"), fmt.Appendf(nil, network, dir), 0o600); err != nil {
			return nil, err
		}
	}
	if err := daemon(dir, "containerd", "--config", filepath.Join(dir, "containerd.toml")); err != nil {
		return nil, err
	}
	if err := await(dir, "containerd", func() bool { return exec.Command("ctr", "--address", k.socket, "version").Run() == nil }); err != nil {
		return nil, err
	}
	transfer := fmt.Sprintf("docker save %s %s | ctr --address %s --namespace k8s.io images import -", volprepImage, runtimeImage, k.socket)
	if out, err := exec.Command("sh", "-c", transfer).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", transfer, err, out)
	}
	args := []string{"--config", filepath.Join(dir, "kubelet.yaml"), "--root-dir", filepath.Join(dir, "root"), "--hostname-override", "node"}
	if kubeconfig != "" {
		args = append(args, "--kubeconfig", kubeconfig)
	} else {
		args = append(args, "--node-ip", "127.0.0.1")
		cleanups = append(cleanups, k.removePods)
	}
	if err := daemon(dir, binary, args...); err != nil {
		return nil, err
	}
	return k, await(dir, "kubelet", func() bool { _, err := k.pods(); return err == nil })
}

// daemon starts a program whose output goes to a log in dir, and which ends
// with the tests.
func daemon(dir, name string, args ...string) error {
	log, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	cleanups = append(cleanups, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		done := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait()
		done.Stop()
	})
	return nil
}

// await waits up to a minute for a daemon, whose log is in dir.
func await(dir, name string, ready func() bool) error {
	for deadline := time.Now().Add(time.Minute); !ready(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(dir, name+".log"))
			return fmt.Errorf("%s does not answer after a minute; its log ends:\n%s", name, log[max(0, len(log)-4000):])
		}
	}
	return nil
}

func freePort() int {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// unmountBelow takes down what is mounted below dir, the newest first.
func unmountBelow(dir string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	lines := strings.Split(string(mounts), "\n")
	for _, line := range slices.Backward(lines) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			syscall.Unmount(fields[1], syscall.MNT_DETACH)
		}
	}
}

// pod is what the tests read of the kubelet's account of one.
type pod struct {
	Metadata struct{ Name string }
	Status   struct {
		Phase                 string
		InitContainerStatuses []containerStatus
		ContainerStatuses     []containerStatus
	}
}

type containerStatus struct {
	Name         string
	RestartCount int
	State        containerState
	LastState    containerState
}

type containerState struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{}
	Terminated *struct {
		ExitCode int
		Message  string
	}
}

func (k *kubelet) pods() ([]pod, error) {
	response, err := http.Get(k.url + "/pods")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var list struct{ Items []pod }
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// removePods takes every pod down, and waits for their ends: containers
// outlive a containerd that is only stopped.
func (k *kubelet) removePods() {
	manifests, _ := filepath.Glob(filepath.Join(k.manifest, "*"))
	for _, manifest := range manifests {
		os.Remove(manifest)
	}
	await(k.dir, "kubelet", func() bool {
		pods, err := k.pods()
		out, listed := exec.Command("ctr", "--address", k.socket, "--namespace", "k8s.io", "tasks", "list", "--quiet").Output()
		return err != nil || listed != nil || len(pods) == 0 && len(strings.TrimSpace(string(out))) == 0
	})
}

// run writes the manifest of testdata/pod.yaml with the values and waits
// until the pod is settled, as the caller says.
func (k *kubelet) run(t testing.TB, values map[string]string, settled func(pod) bool) pod {
	t.Helper()
	template, err := os.ReadFile("testdata/pod.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return k.apply(t, values["NAME"], os.Expand(string(template), func(name string) string { return values[name] }), settled)
}

// apply writes a manifest and waits until its pod is settled.
func (k *kubelet) apply(t testing.TB, name, manifest string, settled func(pod) bool) pod {
	t.Helper()
	defer timed(t, "pod "+name)()
	path := filepath.Join(k.manifest, name+".yaml")
	// A file that is only half written must not be seen: written beside, then moved.
	if err := errors.Join(os.WriteFile(path+".new", []byte(manifest), 0o644), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	deadline := time.Now().Add(90 * time.Second)
	for {
		p, found := k.pod(t, name)
		if found && settled(p) {
			return p
		}
		if time.Now().After(deadline) {
			state, _ := json.MarshalIndent(p.Status, "", "  ")
			log, _ := os.ReadFile(filepath.Join(k.dir, "kubelet.log"))
			t.Fatalf("pod %s is not settled after 90 s: %s\nkubelet's log ends:\n%s", name, state, log[max(0, len(log)-6000):])
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// pod gives the named static pod, to whose name the kubelet adds the node's.
func (k *kubelet) pod(t testing.TB, name string) (pod, bool) {
	t.Helper()
	pods, err := k.pods()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Metadata.Name == name+"-node" {
			return p, true
		}
	}
	return pod{}, false
}

// remove takes a pod down and waits for its end.
func (k *kubelet) remove(t testing.TB, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(k.manifest, name+".yaml")); err != nil {
		t.Fatal(err)
	}
	if err := await(k.dir, "kubelet", func() bool { _, found := k.pod(t, name); return !found }); err != nil {
		t.Fatal(err)
	}
}

// logs gives the standard output of the newest run of a static pod's container.
func (k *kubelet) logs(t testing.TB, pod, container string) string {
	t.Helper()
	return k.logsOf(t, "default", pod+"-node", container)
}

// logsOf reads CRI's log file: time, stream, F for a full line or P for a part, text.
func (k *kubelet) logsOf(t testing.TB, namespace, pod, container string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(k.dir, "logs", namespace+"_"+pod+"_*", container, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("container %s of pod %s has no log file in %s: %v", container, pod, k.dir, err)
	}
	slices.SortFunc(files, func(a, b string) int {
		first, _ := os.Stat(a)
		second, _ := os.Stat(b)
		return first.ModTime().Compare(second.ModTime())
	})
	content, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(content)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 && fields[1] == "stdout" {
			if fields[2] == "P" {
				fields[3] = strings.TrimSuffix(fields[3], "\n")
			}
			text.WriteString(fields[3])
		}
	}
	return text.String()
}
