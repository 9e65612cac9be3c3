package manifest

import "slices"

// podSpecs are the ways from an object to the pod's spec in it.
var podSpecs = map[string][]string{
	"Pod":                   {"spec"},
	"Deployment":            {"spec", "template", "spec"},
	"StatefulSet":           {"spec", "template", "spec"},
	"DaemonSet":             {"spec", "template", "spec"},
	"ReplicaSet":            {"spec", "template", "spec"},
	"ReplicationController": {"spec", "template", "spec"},
	"Job":                   {"spec", "template", "spec"},
	"CronJob":               {"spec", "jobTemplate", "spec", "template", "spec"},
}

func pod(object, spec field) Workload {
	w := Workload{
		At: object.at, Kind: object.get("kind").text(), Name: object.get("metadata", "name").text(), Namespace: object.get("metadata", "namespace").text(),
		FSGroup: spec.get("securityContext", "fsGroup"), FSGroupPolicy: spec.get("securityContext", "fsGroupChangePolicy").text(),
		NonRoot: spec.get("securityContext", "runAsNonRoot"), HostUsers: spec.get("hostUsers"), HostPaths: map[string]At{},
	}
	for _, volume := range spec.get("volumes").list() {
		if volume.get("hostPath").there() {
			w.HostPaths[volume.get("name").text()] = volume.get("hostPath").at
		}
	}
	for _, container := range spec.get("initContainers").list() {
		// A sidecar goes on beside the others.
		c := podContainer(spec, container)
		c.Init = container.get("restartPolicy").text() != "Always"
		w.Containers = append(w.Containers, c)
	}
	for _, container := range spec.get("containers").list() {
		w.Containers = append(w.Containers, podContainer(spec, container))
	}
	return w
}

func podContainer(spec, f field) Container {
	own, pods := f.get("securityContext"), spec.get("securityContext")
	// A container's field wins over the pod's.
	either := func(key string) field {
		if value := own.get(key); value.there() {
			return value
		}
		if value := pods.get(key); value.there() {
			return value
		}
		return own.get(key)
	}
	c := Container{
		At: f.at, Name: f.get("name").text(),
		Privileged: own.get("privileged"), Add: own.get("capabilities", "add").list(), Drop: own.get("capabilities", "drop").list(),
		Caps: own.get("capabilities").at, EscalatesAt: own.get("allowPrivilegeEscalation").at, Escalates: !own.get("allowPrivilegeEscalation").is(false),
	}
	command := f.get("command")
	c.Prep = runsVolprep(c.Name, f.get("image").text(), command)
	c.UIDAt = either("runAsUser").at
	if uid, ok := either("runAsUser").id(); ok {
		c.UID = &uid
	}
	if gid, ok := either("runAsGroup").id(); ok {
		c.GID = &gid
	}
	for _, group := range append(pods.get("supplementalGroups").list(), pods.get("fsGroup")) {
		if id, ok := group.id(); ok && !slices.Contains(c.Groups, id) {
			c.Groups = append(c.Groups, id)
		}
	}
	c.NonRoot, c.NonRootAt = either("runAsNonRoot").is(true), either("runAsNonRoot").at
	profile := either("seccompProfile")
	c.Confined, c.ConfinedAt = profile.get("type").there() && profile.get("type").text() != "Unconfined", profile.at
	for _, mount := range f.get("volumeMounts").list() {
		c.Mounts = append(c.Mounts, Mount{At: mount.at, Volume: mount.get("name").text(), Path: cleaned(mount.get("mountPath").text()),
			SubPath: mount.get("subPath").text(), ReadOnly: mount.get("readOnly").is(true)})
	}
	return c
}
