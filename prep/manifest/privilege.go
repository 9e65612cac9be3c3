package manifest

import "strings"

// baseline are the capabilities that the Pod Security level of that name lets
// be added (kubernetes.io/docs/concepts/security/pod-security-standards).
var baseline = strings.Fields("AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT")

// needed are the capabilities without which no layout that hands anything over can be applied.
var needed = []string{"CHOWN", "FOWNER"}

// needsCapabilities tells whether the layout gives anything to somebody else
// than the uid that volprep runs as: what names no owner is its maker's.
func (c *checker) needsCapabilities(own uint32) bool {
	other := func(owner *uint32) bool { return owner != nil && *owner != own }
	for _, volume := range c.layout.Volumes {
		if other(volume.Root.Owner) || other(volume.Defaults.Owner) || volume.Contents != nil && other(volume.Contents.Owner) {
			return true
		}
		for _, directory := range volume.Directories {
			if other(directory.Owner) {
				return true
			}
		}
	}
	return false
}

// checkPreparer: exactly what volprep needs, and in a way that is effective.
func (c *checker) checkPreparer(p *Container) {
	if p.Privileged.is(true) {
		c.add(Error, "volprep-privileged", p.Privileged.at, "take it away, drop ALL and add CHOWN and FOWNER", "volprep is privileged, and needs two capabilities")
	}
	root := p.UID == nil || *p.UID == 0
	if root && p.NonRoot {
		c.add(Error, "volprep-nonroot", p.NonRootAt, "say runAsNonRoot: false for volprep's container", "the kubelet refuses to start volprep as uid 0 here")
	}
	if !root && len(p.Add) > 0 {
		c.add(Error, "volprep-uid", p.UIDAt, "say runAsUser: 0 for volprep's container, or use the -nonroot image whose binary has file capabilities",
			"capabilities that are added to a container of uid %d are not effective: there is no ambient set", *p.UID)
	}
	if root || c.needsCapabilities(*p.UID) {
		for _, name := range needed {
			if !has(p.Add, name) && !has(p.Add, "ALL") && has(p.Drop, "ALL") {
				c.add(Error, "volprep-capability", p.Caps, "add "+name, "volprep lacks CAP_%s", name)
			}
		}
	}
	for _, capability := range p.Add {
		if name := strings.TrimPrefix(strings.ToUpper(capability.text()), "CAP_"); name != needed[0] && name != needed[1] {
			c.add(Warning, "volprep-privilege", capability.at, "take it away: volprep borrows a directory that it may not look into", "volprep does not need CAP_%s", name)
		}
	}
	if !has(p.Drop, "ALL") {
		c.add(Warning, "volprep-privilege", p.Caps, "drop ALL, and add CHOWN and FOWNER", "volprep keeps the container runtime's default capabilities")
	}
	if p.Escalates {
		c.add(Warning, "volprep-privilege", p.EscalatesAt, c.noNewPrivileges(), "volprep may gain privileges by what it executes")
	}
	c.checkSeccomp(p)
}

func (c *checker) noNewPrivileges() string {
	if c.workload.Compose {
		return `say security_opt: ["no-new-privileges:true"]`
	}
	return "say allowPrivilegeEscalation: false"
}

func (c *checker) checkSeccomp(container *Container) {
	if !container.Confined {
		c.add(Warning, "seccomp", container.ConfinedAt, "say seccompProfile: {type: RuntimeDefault}, or leave the engine's default", "%q runs without a seccomp profile", container.Name)
	}
}

// checkServer: a server that works on prepared volumes needs no privilege.
func (c *checker) checkServer(s *Container) {
	switch {
	case s.Privileged.is(true):
		c.add(Error, "server-privileged", s.Privileged.at, "take it away", "%q is privileged, and its volumes are prepared for a plain user", s.Name)
	case len(s.Add) > 0:
		c.add(Warning, "server-privilege", s.Add[0].at, "add none, and drop ALL", "%q is given capabilities, and needs none on volumes that are prepared", s.Name)
	case !has(s.Drop, "ALL"):
		c.add(Warning, "server-privilege", s.Caps, "drop ALL", "%q keeps the container runtime's default capabilities", s.Name)
	}
	if s.UID != nil && *s.UID == 0 {
		c.add(Warning, "server-root", s.UIDAt, "run it as an identity of the layout", "%q runs as uid 0", s.Name)
	}
	if s.Escalates {
		c.add(Warning, "server-privilege", s.EscalatesAt, c.noNewPrivileges(), "%q may gain privileges by what it executes", s.Name)
	}
	c.checkSeccomp(s)
}

// checkPolicy: what the namespace's Pod Security level would refuse.
func (c *checker) checkPolicy(p *Container) {
	level := c.set.Levels[c.workload.Namespace]
	if c.workload.Compose || level == "" || level == "privileged" {
		return
	}
	refused := func(at At, mend, message string, args ...any) {
		c.add(Error, "pod-security", at, mend, "the namespace's Pod Security level %s refuses the pod: "+message, append([]any{level}, args...)...)
	}
	for name, at := range c.workload.HostPaths {
		refused(at, "use a local PersistentVolume, or a namespace of level privileged", "volume %q is a hostPath", name)
	}
	for i := range c.workload.Containers {
		container := &c.workload.Containers[i]
		for _, capability := range container.Add {
			name := strings.TrimPrefix(strings.ToUpper(capability.text()), "CAP_")
			if level == "restricted" && name != "NET_BIND_SERVICE" || !strings.Contains(" "+strings.Join(baseline, " ")+" ", " "+name+" ") {
				refused(capability.at, "prepare the volume in a namespace of level baseline, or run volprep without capabilities as the server's own uid", "%q adds %s", container.Name, name)
			}
		}
		if level != "restricted" {
			continue
		}
		if !container.NonRoot || container.UID != nil && *container.UID == 0 {
			refused(container.NonRootAt, "say runAsNonRoot: true, and a uid that is not 0", "%q may run as uid 0", container.Name)
		}
		if container.Escalates {
			refused(container.EscalatesAt, "say allowPrivilegeEscalation: false", "%q may gain privileges", container.Name)
		}
		if !has(container.Drop, "ALL") {
			refused(container.Caps, "drop ALL", "%q does not drop ALL", container.Name)
		}
		if !container.Confined {
			refused(container.ConfinedAt, "say seccompProfile: {type: RuntimeDefault}", "%q has no seccomp profile", container.Name)
		}
	}
}
