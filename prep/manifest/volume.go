package manifest

import (
	"path"
	"strings"

	"volprep/spec"
)

// source is where a volume of the layout comes from.
type source struct {
	volume *spec.Volume
	mount  Mount
	// inside is the path of the layout's root in the volume that is mounted.
	inside string
}

// view is a mount by which another container sees a volume of the layout.
type view struct {
	source
	mount Mount
	// start is the layout's path of what lies at the mount, or of the volume's root
	// where the mount is above that.
	start string
	// where is start in the container.
	where string
}

// within tells whether a path lies at or below another, and the way from there.
func within(name, above string) (rest string, ok bool) {
	if name == above {
		return "", true
	}
	return strings.CutPrefix(name, strings.TrimSuffix(above, "/")+"/")
}

// checkMounts: each volume of the layout is mounted for volprep, and writable.
func (c *checker) checkMounts(p *Container) []source {
	var sources []source
	for i := range c.layout.Volumes {
		volume := &c.layout.Volumes[i]
		var best *Mount
		rest := ""
		for j := range p.Mounts {
			if way, ok := within(volume.Path, p.Mounts[j].Path); ok && (best == nil || len(p.Mounts[j].Path) > len(best.Path)) {
				best, rest = &p.Mounts[j], way
			}
		}
		if best == nil {
			if !volume.Optional {
				c.add(Error, "mount-missing", p.At, "add it to volprep's mounts, with the same path as in the layout", "nothing is mounted for volprep at %q, so its directories would be made in the container and be gone with it", volume.Path)
			}
			continue
		}
		if best.ReadOnly {
			c.add(Error, "mount-readonly", best.At, "mount it writable for volprep", "volprep sees %q read-only", volume.Path)
		}
		sources = append(sources, source{volume: volume, mount: *best, inside: path.Join("/", best.SubPath, rest)})
	}
	return sources
}

// views are the mounts by which a container sees volumes of the layout.
func (c *checker) views(container *Container, sources []source) []view {
	var views []view
	for _, s := range sources {
		for _, mount := range container.Mounts {
			if mount.Volume != s.mount.Volume || mount.Volume == "" {
				continue
			}
			root := path.Join("/", mount.SubPath)
			if rest, ok := within(s.inside, root); ok {
				views = append(views, view{s, mount, s.volume.Path, path.Join(mount.Path, rest)})
			} else if rest, ok := within(root, s.inside); ok {
				views = append(views, view{s, mount, path.Join(s.volume.Path, rest), mount.Path})
			}
		}
	}
	return views
}

// checkOrder: volprep has ended before a server starts.
func (c *checker) checkOrder(p, server *Container, place int) {
	if c.workload.Compose {
		if !c.startsAfter(server, p, map[string]bool{}) {
			c.add(Error, "order", server.AfterAt, "say depends_on: {"+p.Name+": {condition: service_completed_successfully}}", "%q may start before %q has prepared its volumes", server.Name, p.Name)
		}
		return
	}
	if !p.Init {
		c.add(Error, "order", p.At, "make volprep an init container", "volprep runs beside %q, not before it", server.Name)
		return
	}
	for i := range place + 1 {
		if &c.workload.Containers[i] == p {
			return
		}
	}
	c.add(Error, "order", server.At, "put volprep's container before it", "%q starts before volprep has prepared its volumes", server.Name)
}

// startsAfter tells whether a service waits for volprep's end, or for a service that does.
func (c *checker) startsAfter(server, p *Container, seen map[string]bool) bool {
	seen[server.Name] = true
	if server.After[p.Name] == "service_completed_successfully" {
		return true
	}
	for i := range c.workload.Containers {
		other := &c.workload.Containers[i]
		if _, waits := server.After[other.Name]; waits && !seen[other.Name] && c.startsAfter(other, p, seen) {
			return true
		}
	}
	return false
}

// The kubelet's walk for fsGroup ORs these into the modes of directories
// (SetVolumeOwnership in pkg/volume/volume_linux.go).
const (
	kubeletMode   = 0o2770
	kubeletPolicy = "OnRootMismatch"
)

// checkFSGroup: what the kubelet does to a volume before each start, where the pod has an fsGroup.
func (c *checker) checkFSGroup(sources []source) {
	group, ok := c.workload.FSGroup.id()
	if !ok {
		return
	}
	at := c.workload.FSGroup.at
	const mend = "use supplementalGroups in place of fsGroup"
	for _, s := range sources {
		if _, host := c.workload.HostPaths[s.mount.Volume]; host {
			c.add(Warning, "fsgroup", at, mend, "fsGroup does nothing for %q, which is a hostPath; its processes get the group all the same", s.volume.Path)
			continue
		}
		root := c.states[s.volume.Path]
		if c.workload.FSGroupPolicy == kubeletPolicy && root.GID == group && root.StatMode()&kubeletMode == kubeletMode {
			continue
		}
		undone := ""
		for name, state := range c.states {
			_, inside := within(name, s.volume.Path)
			if inside && (state.GID != group || state.StatMode()&kubeletMode != kubeletMode) && (undone == "" || name < undone) {
				undone = name
			}
		}
		if undone == "" {
			c.add(Warning, "fsgroup", at, "say fsGroupChangePolicy: "+kubeletPolicy, "the kubelet walks all of %q at each start", s.volume.Path)
			continue
		}
		c.add(Error, "fsgroup", at, mend, "at each start the kubelet walks all of %q, gives it to group %d and opens it to that group, against what the layout says of %q (%s)", s.volume.Path, group, undone, c.states[undone])
	}
}
