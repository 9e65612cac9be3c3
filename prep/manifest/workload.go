package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"volprep/prep"
)

// Workload is a pod, or all services of a Compose file.
type Workload struct {
	At
	Kind, Name, Namespace string
	// Compose: it is a Compose file, whose services start in the order of depends_on.
	Compose    bool
	Containers []Container
	// FSGroup is the pod's, with its policy and the volumes that it counts for.
	FSGroup       field
	FSGroupPolicy string
	// NonRoot is the pod's own runAsNonRoot.
	NonRoot   field
	HostUsers field
	// HostPaths are the volumes that are directories of the node.
	HostPaths map[string]At
}

// Container is a container of a pod or a service of a Compose file.
type Container struct {
	At
	Name string
	// Prep: it runs volprep.
	Prep bool
	// Init: it ends before the pod's other containers start.
	Init bool
	// UID and GID are nil where the image says them.
	UID, GID *uint32
	// UIDAt is where the uid is said, or could be.
	UIDAt  At
	Groups []uint32
	// NonRoot: the kubelet refuses to start it as uid 0.
	NonRoot     bool
	NonRootAt   At
	Add, Drop   []field
	Caps        At
	Privileged  field
	Escalates   bool
	EscalatesAt At
	Confined    bool
	ConfinedAt  At
	Mounts      []Mount
	// After are the services that must be up first, with the condition.
	After   map[string]string
	AfterAt At
}

// Mount is where a container sees a volume.
type Mount struct {
	At
	// Volume is its name, or the path of a directory of the host.
	Volume, Path, SubPath string
	ReadOnly              bool
}

// credentials are the container's, once its uid is known.
func (c Container) credentials() prep.Credentials {
	credentials := prep.Credentials{UID: *c.UID, Groups: c.Groups}
	if c.GID != nil {
		credentials.GID = *c.GID
	}
	return credentials
}

// preparer is the container that runs volprep; nil for none.
func (w Workload) preparer() *Container {
	for i := range w.Containers {
		if w.Containers[i].Prep {
			return &w.Containers[i]
		}
	}
	return nil
}

// runsVolprep tells by image, command or name that a container is volprep.
func runsVolprep(name, image string, command field) bool {
	base := path.Base(image)
	base, _, _ = strings.Cut(base, "@")
	base, _, _ = strings.Cut(base, ":")
	first := command.text()
	if list := command.list(); len(list) > 0 {
		first = list[0].text()
	}
	first, _, _ = strings.Cut(first, " ")
	return base == "volprep" || strings.HasPrefix(base, "volprep-") || path.Base(first) == "volprep" || image == "" && name == "volprep"
}

// Set are the workloads of all manifests, and what their namespaces enforce.
type Set struct {
	Workloads []Workload
	// Levels are the Pod Security levels of namespaces, by name.
	Levels map[string]string
	// lines are the lines of each file, for messages.
	lines map[string][]string
}

// manifestLimit bounds a manifest, in bytes.
const manifestLimit = 8 << 20

// Decode reads one file of manifests into the set: documents of YAML or JSON.
// What is neither a workload nor a namespace is passed over.
func (s *Set) Decode(file string, text []byte) error {
	if len(text) > manifestLimit {
		return fmt.Errorf("%s: reading the manifest: it has %d bytes, at most %d are read", file, len(text), manifestLimit)
	}
	if s.lines == nil {
		s.lines, s.Levels = map[string][]string{}, map[string]string{}
	}
	s.lines[file] = strings.Split(string(text), "\n")
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: reading the manifest: %w", file, err)
		}
		if len(document.Content) == 0 {
			continue
		}
		root := resolved(document.Content[0])
		if root == nil {
			continue
		}
		s.document(field{node: root, at: At{File: file, Line: root.Line, Column: root.Column}})
	}
}

func (s *Set) document(f field) {
	switch {
	case f.get("services").there() && !f.get("kind").there():
		s.Workloads = append(s.Workloads, compose(f))
	case f.get("kind").text() == "List":
		for _, item := range f.get("items").list() {
			// A list in a list is none that kubectl takes, and could hold itself.
			if item.get("kind").text() != "List" {
				s.document(item)
			}
		}
	case f.get("kind").text() == "Namespace":
		s.Levels[f.get("metadata", "name").text()] = f.get("metadata", "labels", "pod-security.kubernetes.io/enforce").text()
	default:
		if way, ok := podSpecs[f.get("kind").text()]; ok {
			s.Workloads = append(s.Workloads, pod(f, f.get(way...)))
		}
	}
}

func has(capabilities []field, name string) bool {
	return slices.ContainsFunc(capabilities, func(f field) bool {
		return strings.EqualFold(strings.TrimPrefix(strings.ToUpper(f.text()), "CAP_"), name)
	})
}
