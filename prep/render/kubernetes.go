package render

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"volprep/prep"
)

// Kubernetes writes a pod that runs volprep and then the server; with Mounted
// the ConfigMap of the layout before it.
func Kubernetes(o Options) ([]byte, error) {
	p, err := o.pod()
	if err != nil {
		return nil, err
	}
	pod := block(
		pair{key: "apiVersion", value: scalar("v1")},
		pair{key: "kind", value: scalar("Pod")},
		pair{key: "metadata", value: flow(pair{key: "name", value: scalar(label(o.Name))})},
		pair{key: "spec", value: block(
			pair{key: "automountServiceAccountToken", value: scalar(false)},
			pair{key: "securityContext", value: p.security()},
			pair{key: "initContainers", value: list(p.volprep())},
			pair{key: "containers", value: list(p.server(pair{key: "image", value: scalar(label(o.Name)), why: "the server's own image, command and ports"}))},
			pair{key: "volumes", value: list(p.sources()...)},
		)},
	)
	head := "volprep, then " + o.Name + " (" + o.As.String() + ") without any capability. kubectl apply -f, or take the\nparts into a pod template of your own.\n"
	if o.Mounted {
		return documents(head, p.configMap(), pod)
	}
	return documents(head, pod)
}

// Kustomize writes a kustomization.yaml of kind Component, which adds volprep
// to the Deployment of the server's name.
func Kustomize(o Options) ([]byte, error) {
	p, err := o.pod()
	if err != nil {
		return nil, err
	}
	spec := block(
		pair{key: "securityContext", value: p.security()},
		pair{key: "initContainers", value: list(p.volprep())},
		pair{key: "containers", value: list(p.server(pair{})), why: "merged by its name: it keeps its image and command"},
	)
	var generated *yaml.Node
	if o.Mounted {
		spec.Content = append(spec.Content, scalar("volumes"), list(p.layoutVolume()))
		// The name gets a hash of the content, so a new layout rolls the Deployment out.
		generated = list(block(pair{key: "name", value: scalar(configMapName)}, pair{key: "literals", value: list(literal("layout.yaml=" + string(o.Text)))}))
	}
	patch, err := documents("", block(
		pair{key: "apiVersion", value: scalar("apps/v1")},
		pair{key: "kind", value: scalar("Deployment")},
		pair{key: "metadata", value: flow(pair{key: "name", value: scalar(label(o.Name))})},
		pair{key: "spec", value: block(pair{key: "template", value: block(pair{key: "spec", value: spec})})},
	))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range p.volumes {
		names = append(names, v.name)
	}
	return documents("kustomization.yaml of a component: save it in a directory, and name that under components.\n"+
		"The Deployment has the volumes itself, by these names: "+strings.Join(names, ", ")+".\n",
		block(
			pair{key: "apiVersion", value: scalar("kustomize.config.k8s.io/v1alpha1")},
			pair{key: "kind", value: scalar("Component")},
			pair{key: "configMapGenerator", value: generated},
			pair{key: "patches", value: list(block(
				pair{key: "target", value: flow(pair{key: "kind", value: scalar("Deployment")}, pair{key: "name", value: scalar(label(o.Name))})},
				pair{key: "patch", value: literal(string(patch))},
			))},
		))
}

// configMapName is the ConfigMap's, as the README has it.
const configMapName = "volprep-layout"

// pod is what the parts of a pod are made of.
type pod struct {
	Options
	need
	volumes []volume
}

func (o Options) pod() (*pod, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	volumes, err := o.volumes()
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		if strings.HasPrefix(v.source, ".") {
			return nil, fmt.Errorf("--volume %s=%s: a directory of the node must be absolute", v.Path, v.source)
		}
	}
	// An emptyDir is writable for all, and a claim for fsGroup.
	return &pod{Options: o, volumes: volumes, need: o.need(volumes, func(v volume) bool { return !v.host() })}, nil
}

// security is the pod's own security context.
func (p *pod) security() *yaml.Node {
	groups := pair{key: "supplementalGroups", value: row(p.As.Groups), why: "the server's groups; volprep looks in by them too, without borrowing"}
	if !p.self {
		return block(groups, seccomp())
	}
	// A root whose mode the layout names must be the server's own: no group is enough.
	claimed := func(v volume) bool { return !v.host() && v.source != emptyDir && !prep.RootNamed(v.Volume) }
	if !slices.ContainsFunc(p.volumes, claimed) {
		return block(groups, seccomp())
	}
	return block(groups,
		pair{key: "fsGroup", value: scalar(p.As.GID), why: "a new claim is root's: by this group the server may write its root"},
		pair{key: "fsGroupChangePolicy", value: scalar("OnRootMismatch")},
		seccomp())
}

func seccomp() pair {
	return pair{key: "seccompProfile", value: flow(pair{key: "type", value: scalar("RuntimeDefault")})}
}

// volprep is the init container.
func (p *pod) volprep() *yaml.Node {
	env := p.environment()
	mounts := p.mounts(false)
	if p.Mounted {
		mounts = append([]*yaml.Node{flow(pair{key: "name", value: scalar("layout")}, pair{key: "mountPath", value: scalar("/etc/volprep")}, pair{key: "readOnly", value: scalar(true)})}, mounts...)
	}
	return block(
		pair{key: "name", value: scalar("volprep")},
		pair{key: "image", value: scalar(p.Image)},
		pair{key: "env", value: list(env...)},
		pair{key: "securityContext", value: confined(p.UID, p.GID, pair{key: "capabilities", why: p.why,
			value: flow(pair{key: "drop", value: row([]string{"ALL"})}, pair{key: "add", value: row(p.added())})})},
		pair{key: "terminationMessagePolicy", value: scalar("FallbackToLogsOnError"), why: "kubectl describe then shows why it failed"},
		pair{key: "volumeMounts", value: list(mounts...)},
	)
}

// server is the container that volprep prepares for.
func (p *pod) server(image pair) *yaml.Node {
	return block(
		pair{key: "name", value: scalar(label(p.Name))},
		image,
		pair{key: "securityContext", value: confined(p.As.UID, p.As.GID, pair{key: "capabilities", value: flow(pair{key: "drop", value: row([]string{"ALL"})})})},
		pair{key: "volumeMounts", value: list(p.mounts(true)...)},
	)
}

func confined(uid, gid uint32, capabilities pair) *yaml.Node {
	return block(
		pair{key: "runAsUser", value: scalar(uid)},
		pair{key: "runAsGroup", value: scalar(gid)},
		pair{key: "runAsNonRoot", value: scalar(uid != 0)},
		pair{key: "allowPrivilegeEscalation", value: scalar(false)},
		pair{key: "readOnlyRootFilesystem", value: scalar(true)},
		capabilities,
	)
}

// environment is what volprep is told: the pod's values, those given, the layout.
func (p *pod) environment() []*yaml.Node {
	var env []*yaml.Node
	add := func(name, key string, value *yaml.Node) {
		env = append(env, block(pair{key: "name", value: scalar(name)}, pair{key: key, value: value}))
	}
	for _, v := range p.Layout.Variables {
		if at, known := podFields[v.Name]; known {
			add("VOLPREP_VAR_"+v.Name, "valueFrom", flow(pair{key: "fieldRef", value: flow(pair{key: "fieldPath", value: scalar(at)})}))
		} else if v.Given {
			add("VOLPREP_VAR_"+v.Name, "value", quoted(unexpanded(v.Value)))
		}
	}
	if !p.Mounted {
		add("VOLPREP_LAYOUT", "value", literal(unexpanded(string(p.Text))))
	}
	return env
}

// unexpanded keeps the kubelet from expanding $(NAME), and $$ to $, in the
// value of an environment variable.
func unexpanded(text string) string {
	var kept strings.Builder
	for i := range len(text) {
		kept.WriteByte(text[i])
		if text[i] == '$' && i+1 < len(text) && (text[i+1] == '$' || text[i+1] == '(') {
			kept.WriteByte('$')
		}
	}
	return kept.String()
}

// mounts are those of each volume: volprep's, or the server's.
func (p *pod) mounts(server bool) []*yaml.Node {
	var mounts []*yaml.Node
	for _, v := range p.volumes {
		readOnly := pair{key: "readOnly"}
		if mounted, only := p.view(v); server && !mounted {
			continue
		} else if server && only {
			readOnly.value = scalar(true)
		}
		mounts = append(mounts, flow(pair{key: "name", value: scalar(v.name)}, pair{key: "mountPath", value: scalar(v.Path)}, readOnly))
	}
	return mounts
}

// sources are the pod's volumes.
func (p *pod) sources() []*yaml.Node {
	var sources []*yaml.Node
	if p.Mounted {
		sources = append(sources, p.layoutVolume())
	}
	for _, v := range p.volumes {
		source := pair{key: "persistentVolumeClaim", value: flow(pair{key: "claimName", value: scalar(v.source)})}
		switch {
		case v.source == emptyDir:
			source = pair{key: emptyDir, value: flow()}
		case v.host():
			source = pair{key: "hostPath", value: flow(pair{key: "path", value: scalar(v.source)}, pair{key: "type", value: scalar("Directory")})}
		}
		sources = append(sources, block(pair{key: "name", value: scalar(v.name)}, source))
	}
	return sources
}

func (p *pod) layoutVolume() *yaml.Node {
	return block(pair{key: "name", value: scalar("layout")}, pair{key: "configMap", value: flow(pair{key: "name", value: scalar(configMapName)})})
}

func (p *pod) configMap() *yaml.Node {
	return block(
		pair{key: "apiVersion", value: scalar("v1")},
		pair{key: "kind", value: scalar("ConfigMap")},
		pair{key: "metadata", value: flow(pair{key: "name", value: scalar(configMapName)})},
		pair{key: "data", value: block(pair{key: "layout.yaml", value: literal(string(p.Text))})},
	)
}
