// Package render writes what runs a layout, with the least privilege, in the
// words of each runtime: a pod of Kubernetes or a component of kustomize, a
// Compose file, a Quadlet unit of Podman, a unit of systemd.
//
// A plan decides who runs and with what (need.go); volumes get names and
// sources once for all (volume.go); each target has a file of its own.
package render

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"volprep/prep"
	"volprep/spec"
)

// Options say what is rendered.
type Options struct {
	Layout *spec.Layout
	// Text is the layout as it is written.
	Text []byte
	// As is the server.
	As prep.Credentials
	// Name is the server's: of its pod and container, its service, its unit.
	Name string
	// Image is volprep's.
	Image string
	// Mounted: the layout comes from a ConfigMap or a file, not as VOLPREP_LAYOUT.
	Mounted bool
	// Sources say by the path of a volume where it comes from: "emptyDir", a
	// directory of the host (with / or . at its beginning), else the name of a claim
	// or of a named volume.
	Sources map[string]string
}

// podFields are the variables whose values the kubelet knows
// (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/).
var podFields = map[string]string{
	"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "NODE_NAME": "spec.nodeName",
}

// PodVariables are values with which a layout can be read before there is a
// pod, for the variables that the pod gives a value of its own.
func PodVariables() map[string]string {
	values := map[string]string{}
	for name := range podFields {
		values[name] = "pod"
	}
	return values
}

// inlineLimit is MAX_ARG_STRLEN of execve(2), which bounds one environment variable.
const inlineLimit = 128<<10 - len("VOLPREP_LAYOUT=") - 1

// check refuses what no target can say.
func (o Options) check() error {
	switch {
	case !utf8.Valid(o.Text):
		return errors.New("the layout is not in UTF-8: write it so")
	case !o.Mounted && len(o.Text) > inlineLimit:
		return fmt.Errorf("the layout has %d bytes, and an environment variable holds %d: use --layout configmap, or file", len(o.Text), inlineLimit)
	}
	return nil
}

// given are the variables that were given a value.
func (o Options) given() []spec.Variable {
	return slices.DeleteFunc(slices.Clone(o.Layout.Variables), func(v spec.Variable) bool { return !v.Given })
}
