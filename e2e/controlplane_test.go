package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// cluster is a control plane of its own, and one node.
type cluster struct {
	node       *kubelet
	kubectl    string
	kubeconfig string
}

// controlled starts the cluster once for all tests.
func controlled(t testing.TB) *cluster {
	t.Helper()
	needRoot(t)
	needPrograms(t, "containerd", "ctr", "runc", "etcd")
	engine(t) // has the images
	needKubernetes(t)
	c, err := startCluster()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const kubeconfigText = `apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://127.0.0.1:%d", insecure-skip-tls-verify: true}}]
users: [{name: admin, user: {token: volprep}}]
contexts: [{name: e2e, context: {cluster: e2e, user: admin}}]
current-context: e2e
`

// controllers are those that the tests' objects need; none gives out service
// account tokens, which no pod here wants.
const controllers = "deployment-controller,replicaset-controller,job-controller,garbage-collector-controller," +
	"node-lifecycle-controller,persistentvolume-binder-controller,persistentvolumeclaim-protection-controller,namespace-controller"

var startCluster = sync.OnceValues(func() (*cluster, error) {
	dir, err := os.MkdirTemp("", "volprep-cluster-")
	if err != nil {
		return nil, err
	}
	cleanups = append(cleanups, func() { os.RemoveAll(dir) })
	programs := map[string]string{}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"} {
		if programs[name], err = kubernetes(name); err != nil {
			return nil, err
		}
	}
	c := &cluster{kubectl: programs["kubectl"], kubeconfig: filepath.Join(dir, "kubeconfig")}
	store, peer, secure := freePort(), freePort(), freePort()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	signing := filepath.Join(dir, "signing.pem")
	if err := errors.Join(
		os.WriteFile(signing, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
		os.WriteFile(filepath.Join(dir, "tokens.csv"), []byte("volprep,admin,admin,system:masters\n"), 0o600),
		os.WriteFile(c.kubeconfig, fmt.Appendf(nil, kubeconfigText, secure), 0o600),
	); err != nil {
		return nil, err
	}
	etcd := fmt.Sprintf("http://127.0.0.1:%d", store)
	peers := fmt.Sprintf("http://127.0.0.1:%d", peer)
	if err := errors.Join(
		daemon(dir, "etcd", "--data-dir", filepath.Join(dir, "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
			"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers),
		daemon(dir, programs["kube-apiserver"], "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", fmt.Sprint(secure),
			"--cert-dir", filepath.Join(dir, "certificates"), "--token-auth-file", filepath.Join(dir, "tokens.csv"), "--authorization-mode", "RBAC",
			"--service-account-issuer", "https://volprep.test", "--service-account-key-file", signing, "--service-account-signing-key-file", signing,
			"--service-cluster-ip-range", "10.213.78.0/24", "--endpoint-reconciler-type", "none", "--disable-admission-plugins", "ServiceAccount"),
	); err != nil {
		return nil, err
	}
	if err := await(dir, "kube-apiserver", func() bool { return c.command("get", "--raw", "/readyz").quiet() }); err != nil {
		return nil, err
	}
	if err := errors.Join(
		daemon(dir, programs["kube-controller-manager"], "--kubeconfig", c.kubeconfig, "--leader-elect=false", "--secure-port", "0", "--controllers", controllers),
		daemon(dir, programs["kube-scheduler"], "--kubeconfig", c.kubeconfig, "--leader-elect=false", "--secure-port", "0"),
	); err != nil {
		return nil, err
	}
	if c.node, err = newNode(c.kubeconfig); err != nil {
		return nil, err
	}
	// Containers outlive a containerd that is only stopped.
	cleanups = append(cleanups, func() {
		outlive(c.command("delete", "deployments,jobs,pods", "--all", "--all-namespaces", "--now", "--timeout=60s"))
	})
	return c, await(c.node.dir, "kubelet", func() bool {
		return c.command("wait", "--for=condition=Ready", "node/node", "--timeout=1s").quiet()
	})
})

// quiet says whether c succeeds.
func (c command) quiet() bool {
	_, err := outlive(c)
	return err == nil
}

func (c *cluster) command(args ...string) command {
	return program(c.kubectl, append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

// namespace makes one in which Pod Security enforces a level, and takes it
// down after the test with all that is in it.
func (c *cluster) namespace(t testing.TB, name, level string) namespace {
	t.Helper()
	n := namespace{cluster: c, name: name}
	n.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: %s}}\n", name, level))
	t.Cleanup(func() {
		if t.Failed() {
			events, _ := outlive(n.command("get", "events,pods"))
			t.Logf("%s", events)
		}
		if out, err := outlive(n.command("delete", "deployments,jobs,pods", "--all", "--now", "--timeout=60s")); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	return n
}

type namespace struct {
	*cluster
	name string
}

func (n namespace) command(args ...string) command {
	return n.cluster.command(append([]string{"--namespace", n.name}, args...)...)
}

func (n namespace) apply(t testing.TB, manifest string) {
	t.Helper()
	c := n.command("apply", "--filename", "-")
	c.stdin = manifest
	c.must(t)
}

// await waits for a condition of an object.
func (n namespace) await(t testing.TB, object, condition string) {
	t.Helper()
	defer timed(t, object+" "+condition)()
	n.command("wait", object, "--for="+condition, "--timeout=90s").must(t)
}

// layout puts one into the ConfigMap that the pods mount.
func (n namespace) layout(t testing.TB, text string) {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	n.apply(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: volprep-layout}\ndata: {layout.yaml: "+string(quoted)+"}\n")
}

// claim binds a claim to a directory of the node. A local volume, unlike
// hostPath, is one for which the kubelet applies fsGroup.
func (n namespace) claim(t testing.TB, name string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	n.apply(t, fmt.Sprintf(`apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s-%[2]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: ""
  local: {path: %[3]s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[2]s}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: ""
  volumeName: %[1]s-%[2]s
  resources: {requests: {storage: 1Gi}}
`, n.name, name, dir))
	return dir
}

// reports gives volprep's report of each pod that a label selects.
func (n namespace) reports(t testing.TB, selector string) map[string]applyReport {
	t.Helper()
	names := n.command("get", "pods", "--selector", selector, "--field-selector", "status.phase!=Failed",
		"--output", "jsonpath={.items[*].metadata.name}").must(t)
	reports := map[string]applyReport{}
	for _, name := range strings.Fields(names) {
		reports[name] = parseReport(t, n.node.logsOf(t, n.name, name, "volprep"))
	}
	return reports
}

// server is the pod of the tests below: volprep, its layout from a ConfigMap,
// then a stand-in that shows the volume and stays. The values are its
// pod-level securityContext and what stands above the pod's spec.
const server = `
automountServiceAccountToken: false
terminationGracePeriodSeconds: 1
securityContext: {seccompProfile: {type: RuntimeDefault}%s}
initContainers:
  - name: volprep
    image: docker.io/library/volprep:e2e
    imagePullPolicy: Never
    args: [apply, --format, json, --log-level, warn]
    env: [{name: VOLPREP_VAR_POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    securityContext:
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [CHOWN, FOWNER]}
    volumeMounts:
      - {name: layout, mountPath: /etc/volprep, readOnly: true}
      - {name: cache, mountPath: /models%s}
containers:
  - name: runtime
    image: docker.io/library/volprep-e2e-runtime:e2e
    imagePullPolicy: Never
    args: [pause]
    securityContext:
      runAsUser: 1000
      runAsGroup: 1000
      runAsNonRoot: true
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    volumeMounts: [{name: cache, mountPath: /models%s}]
volumes:
  - {name: layout, configMap: {name: volprep-layout}}
  - {name: cache, persistentVolumeClaim: {claimName: cache}}
`

// indented moves each line to the right.
func indented(text string, by int) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", by))
}

// serverPod is a pod of the server's, with more in its securityContext, its
// volume mounted by its subPath.
func serverPod(name, security, subPath string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: " + name + "}}\nspec:" +
		indented(fmt.Sprintf(server, security, subPath, subPath), 2)
}

const sharedLayout = `version: 1
variables: {POD_NAME: {}}
volumes:
  - path: /models
    mount: required
    owner: 1001
    group: 2000
    mode: "2775"
    directories:
      - {path: hub, owner: 1001, group: 2000, mode: "2750"}
      - {path: "run/${POD_NAME}", owner: 1000, group: 1000, mode: "0700"}
`

func TestKubernetesDeploymentOnOneVolume(t *testing.T) {
	n := controlled(t).namespace(t, "deployment", "baseline")
	dir := n.claim(t, "cache")
	n.layout(t, sharedLayout)
	n.apply(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: server}\nspec:\n  replicas: 3\n  selector: {matchLabels: {app: server}}\n"+
		"  template:\n    metadata: {labels: {app: server}}\n    spec:"+indented(fmt.Sprintf(server, ", supplementalGroups: [2000]", "", ""), 6))
	n.rollout(t)
	first := n.reports(t, "app=server")
	if len(first) != 3 {
		t.Fatalf("%d pods serve, want 3", len(first))
	}
	for name, report := range first {
		if report.Result != "changed" || strings.Join(report.Capabilities.Had, " ") != "CAP_CHOWN CAP_FOWNER" {
			t.Errorf("in pod %s volprep says %+v", name, report)
		}
		if got, want := owner(t, filepath.Join(dir, "run", name)), "1000:1000 0700"; got != want {
			t.Errorf("the directory of pod %s is %s, want %s", name, got, want)
		}
	}
	if got, want := owner(t, filepath.Join(dir, "hub")), "1001:2000 2750"; got != want {
		t.Errorf("what the three share is %s, want %s", got, want)
	}

	n.layout(t, sharedLayout+`      - {path: adapters, owner: 1001, group: 2000, mode: "2750"}`+"\n")
	n.command("rollout", "restart", "deployment/server").must(t)
	n.rollout(t)
	if got, want := owner(t, filepath.Join(dir, "adapters")), "1001:2000 2750"; got != want {
		t.Errorf("what the ConfigMap came to name is %s, want %s", got, want)
	}
	for name := range n.reports(t, "app=server") {
		if _, old := first[name]; old {
			t.Errorf("pod %s still serves after the rollout", name)
		}
	}
}

func (n namespace) rollout(t testing.TB) {
	t.Helper()
	defer timed(t, "rollout")()
	n.command("rollout", "status", "deployment/server", "--timeout=120s").must(t)
	// What is being replaced ends in its own time.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		names := n.command("get", "pods", "--selector", "app=server", "--output", "name").must(t)
		if len(strings.Fields(names)) == 3 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("there are still %s", names)
		}
	}
}

func TestKubernetesPodSecurity(t *testing.T) {
	c := controlled(t)
	restricted := c.namespace(t, "restricted", "restricted")
	pod := restricted.command("apply", "--filename", "-", "--dry-run=server")
	pod.stdin = serverPod("server", "", "")
	_, stderr, status := pod.output(t)
	if status == 0 {
		t.Error("the level restricted accepts uid 0 with CHOWN and FOWNER")
	}
	for _, want := range []string{`violates PodSecurity "restricted`, `container "volprep" must not include "CHOWN", "FOWNER"`, `container "volprep" must not set runAsUser=0`} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the API server's answer has no %q:\n%s", want, stderr)
		}
	}
	pod = c.namespace(t, "baseline", "baseline").command("apply", "--filename", "-", "--dry-run=server")
	pod.stdin = serverPod("server", "", "")
	pod.must(t)

	// What the server owns itself takes no capability, and the level restricted no exception.
	layout := filepath.Join(t.TempDir(), "layout.yaml")
	if err := os.WriteFile(layout, []byte("version: 1\nidentities: {runtime: {uid: 1000, gid: 1000, groups: [2000]}}\nvolumes:\n"+
		"  - path: /logs\n    directories: [{path: nim, owner: runtime, group: 2000, mode: \"2750\"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	manifest := rendered(t, "kubernetes", layout, "--volume", "/logs=emptyDir", "--image", "docker.io/library/"+volprepImage)
	restricted.apply(t, replaced(t, manifest, map[string]string{
		"image: docker.io/library/" + volprepImage + "\n": "image: docker.io/library/" + volprepImage +
			"\n      imagePullPolicy: Never\n      args: [apply, --format, json, --log-level, warn]\n",
		"image: runtime\n": "image: docker.io/library/" + runtimeImage + "\n      imagePullPolicy: Never\n      args: [stat, /logs/nim]\n",
		"\nspec:\n":        "\nspec:\n  restartPolicy: Never\n",
	}))
	restricted.await(t, "pod/runtime", "jsonpath={.status.phase}=Succeeded")
	report := parseReport(t, restricted.node.logsOf(t, "restricted", "runtime", "volprep"))
	if report.Result != "changed" || len(report.Capabilities.Had) != 0 {
		t.Errorf("volprep says %+v, want a change and no capability", report)
	}
	if got, want := parseServed(t, restricted.node.logsOf(t, "restricted", "runtime", "runtime")).Paths["/logs/nim"], "1000:2000 2750"; got != want {
		t.Errorf("the server sees %s, want %s", got, want)
	}
}

// TestKubernetesGroupOfTheFileSystem: the kubelet gives the volume's root a
// group and g+rwxs of its own idea at each start, unless both agree already.
func TestKubernetesGroupOfTheFileSystem(t *testing.T) {
	c := controlled(t)
	for _, kind := range []struct{ name, mode, second string }{
		{"agreed", "2775", "unchanged"},
		{"disputed", "2755", "changed"},
	} {
		t.Run("a mode that is "+kind.name, func(t *testing.T) {
			n := c.namespace(t, "fsgroup-"+kind.name, "baseline")
			dir := n.claim(t, "cache")
			n.layout(t, strings.NewReplacer("2775", kind.mode, "run/${POD_NAME}", "run", "variables: {POD_NAME: {}}\n", "").Replace(sharedLayout))
			for _, start := range []struct{ pod, result string }{{"first", "changed"}, {"second", kind.second}} {
				n.apply(t, serverPod(start.pod, ", fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch", ""))
				n.await(t, "pod/"+start.pod, "condition=Ready")
				if report := parseReport(t, n.node.logsOf(t, n.name, start.pod, "volprep")); report.Result != start.result {
					t.Errorf("the %s start says %s, want %s: %+v", start.pod, report.Result, start.result, report.Actions)
				}
				if got, want := owner(t, dir), "1001:2000 "+kind.mode; got != want {
					t.Errorf("after the %s start the volume is %s, want %s", start.pod, got, want)
				}
				n.command("delete", "pod", start.pod, "--now").must(t)
			}
		})
	}
}

func TestKubernetesSubPathIsAVolumeOfItsOwn(t *testing.T) {
	n := controlled(t).namespace(t, "subpath", "baseline")
	dir := n.claim(t, "cache")
	before := owner(t, dir)
	n.layout(t, sharedLayout)
	n.apply(t, serverPod("part", "", ", subPath: team"))
	n.await(t, "pod/part", "condition=Ready")
	for path, want := range map[string]string{
		".": before, "team": "1001:2000 2775", "team/hub": "1001:2000 2750", "team/run/part": "1000:1000 0700",
	} {
		if got := owner(t, filepath.Join(dir, path)); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
}

func TestKubernetesIndexedJobOfShards(t *testing.T) {
	n := controlled(t).namespace(t, "job", "baseline")
	dir := n.claim(t, "models")
	var files []string
	for d := range 40 {
		sub := filepath.Join(dir, fmt.Sprintf("model-%02d", d))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		for f := range 10 {
			file := filepath.Join(sub, fmt.Sprintf("%d.safetensors", f))
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	layout, err := os.ReadFile("../examples/indexed-job/layout.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n.layout(t, string(layout))
	manifest, err := os.ReadFile("../examples/indexed-job/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n.apply(t, replaced(t, string(manifest), map[string]string{
		"image: volprep\n": "image: docker.io/library/" + volprepImage +
			"\n          imagePullPolicy: Never\n          args: [apply, --format, json, --log-level, warn]\n",
	}))
	n.await(t, "job/prepare-models", "condition=Complete")
	reports := n.reports(t, "job-name=prepare-models")
	if len(reports) != 4 {
		t.Errorf("%d pods have ended well, want 4", len(reports))
	}
	busy := 0
	for _, report := range reports {
		if report.Result == "changed" {
			busy++
		}
	}
	if busy < 2 {
		t.Errorf("%d of the shards changed something: the work was not shared", busy)
	}
	for _, file := range files {
		if got, want := owner(t, file), "1001:2000 0640"; got != want {
			t.Fatalf("%s is %s, want %s", file, got, want)
		}
	}
}

func TestKubernetesComponentOfADeployment(t *testing.T) {
	n := controlled(t).namespace(t, "component", "baseline")
	models, logs := n.claim(t, "models"), n.claim(t, "logs")
	dir := t.TempDir()
	component := rendered(t, "kubernetes", "../examples/nim/layout.yaml", "--kustomize", "--name", "server", "--image", "docker.io/library/"+volprepImage)
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "volprep"), 0o755),
		os.WriteFile(filepath.Join(dir, "volprep", "kustomization.yaml"), []byte(component), 0o644),
		os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte("resources: [server.yaml]\ncomponents: [volprep]\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "server.yaml"), []byte(`apiVersion: apps/v1
kind: Deployment
metadata: {name: server}
spec:
  replicas: 3
  selector: {matchLabels: {app: server}}
  template:
    metadata: {labels: {app: server}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: server, image: "docker.io/library/`+runtimeImage+`", imagePullPolicy: Never, args: [pause]}]
      volumes:
        - {name: models, persistentVolumeClaim: {claimName: models}}
        - {name: logs, persistentVolumeClaim: {claimName: logs}}
`), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	n.command("apply", "--kustomize", dir).must(t)
	n.rollout(t)
	for path, want := range map[string]string{
		models: "1001:2000 2750", models + "/hub": "1001:2000 2750", models + "/hub/.locks": "1001:2000 2770", logs: "0:0 0755",
	} {
		if got := owner(t, path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	entries, err := os.ReadDir(logs)
	if err != nil || len(entries) != 3 {
		t.Fatalf("the logs are %v of three pods: %v", entries, err)
	}
	for _, entry := range entries {
		if got, want := owner(t, filepath.Join(logs, entry.Name())), "1000:1000 0750"; got != want {
			t.Errorf("the logs of %s are %s, want %s", entry.Name(), got, want)
		}
	}
}
