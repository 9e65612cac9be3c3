package render

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"volprep/prep"
	"volprep/spec"
)

// emptyDir is the source of a volume that lives as long as its pod.
const emptyDir = "emptyDir"

// volume is one of the layout's, with its name and source.
type volume struct {
	*spec.Volume
	name, source string
}

// host tells whether the source is a directory of the host.
func (v volume) host() bool {
	return strings.HasPrefix(v.source, "/") || strings.HasPrefix(v.source, ".")
}

// volumes names the layout's volumes, after the last component of their paths
// where that tells them apart.
func (o Options) volumes() ([]volume, error) {
	var volumes []volume
	taken := map[string]bool{"layout": true}
	for i := range o.Layout.Volumes {
		v := volume{Volume: &o.Layout.Volumes[i]}
		if v.name = label(path.Base(v.Path)); taken[v.name] {
			v.name = label(v.Path)
		}
		for n, first := 2, v.name; taken[v.name]; n++ {
			v.name = fmt.Sprintf("%.50s-%d", first, n)
		}
		taken[v.name] = true
		if v.source = o.Sources[v.Path]; v.source == "" {
			v.source = v.name
		}
		volumes = append(volumes, v)
	}
	for name := range o.Sources {
		if !slices.ContainsFunc(volumes, func(v volume) bool { return v.Path == name }) {
			return nil, fmt.Errorf("--volume %s: the layout has no such volume", name)
		}
	}
	return volumes, nil
}

// view is how the server mounts a volume that looks as the layout says: not at
// all where it cannot enter it, and read-only where it can create nothing
// anywhere, so that nothing is taken from it.
func (o Options) view(v volume) (mounted, readOnly bool) {
	if !prep.NamesOwners(o.Layout) {
		return true, false
	}
	states := prep.Fresh(&spec.Layout{Volumes: []spec.Volume{*v.Volume}})
	can := func(name string, verb spec.Verb) bool {
		var chain []prep.Component
		for at := name; ; at = path.Dir(at) {
			chain = append(chain, prep.Component{Path: at, State: states[at]})
			if at == v.Path {
				break
			}
		}
		slices.Reverse(chain)
		return prep.Can(o.As, chain, verb).Allowed
	}
	if !can(v.Path, spec.Traverse) {
		return false, false
	}
	for name := range states {
		if can(name, spec.Create) {
			return true, false
		}
	}
	// What only may be there is in no state yet.
	return true, !slices.ContainsFunc(v.Directories, func(d spec.Directory) bool { return d.Only == spec.OnlyExisting })
}

// label makes a DNS label of a text (RFC 1123), which every target takes as a name.
func label(text string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		default:
			return '-'
		}
	}, text)
	name = strings.Trim(name[:min(len(name), 63)], "-")
	if name == "" {
		return "volume"
	}
	return name
}
