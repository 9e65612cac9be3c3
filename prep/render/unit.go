package render

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// unit is the text of a unit file in the making (systemd.syntax(7)).
type unit struct{ strings.Builder }

// lines writes text as it is.
func (u *unit) lines(text string) { u.WriteString(text) }

// set writes a setting with words that are quoted where they must be; a
// setting without a word is left out.
func (u *unit) set(key string, words ...string) {
	if len(words) == 0 {
		return
	}
	var written []string
	for _, word := range words {
		word = strings.ReplaceAll(word, "%", "%%")
		if strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || strings.ContainsRune("\"'\\;", r) }) {
			word = strconv.Quote(word)
		}
		written = append(written, word)
	}
	fmt.Fprintf(u, "%s=%s\n", key, strings.Join(written, " "))
}

// Systemd writes a oneshot unit for a host, which reads /etc/volprep/layout.yaml.
func Systemd(o Options) ([]byte, error) {
	volumes, err := o.volumes()
	if err != nil {
		return nil, err
	}
	var mounts, writable []string
	for _, v := range volumes {
		if o.Sources[v.Path] != "" {
			return nil, fmt.Errorf("--volume %s: on a host a volume is its own path", v.Path)
		}
		mounts = append(mounts, v.Path)
		if v.Create {
			writable = append(writable, path.Dir(v.Path))
		} else {
			writable = append(writable, v.Path)
		}
	}
	slices.Sort(writable)
	n := o.need(volumes, func(volume) bool { return false })
	var u unit
	u.lines(unitHead)
	u.set("RequiresMountsFor", mounts...)
	u.lines(unitService)
	for _, v := range o.given() {
		u.set("Environment", "VOLPREP_VAR_"+v.Name+"="+v.Value)
	}
	u.lines("\n# " + n.why + ".\n")
	if n.UID != 0 {
		u.set("User", fmt.Sprint(n.UID))
		u.set("Group", fmt.Sprint(n.GID))
	}
	// Without a word it leaves none.
	u.lines("CapabilityBoundingSet=" + strings.Join(n.capabilities.Names(), " ") + "\n")
	u.lines("NoNewPrivileges=yes\n")
	if groups := numbers(o.As.Groups); len(groups) > 0 {
		u.lines("# By the server's groups volprep looks in without borrowing; only where the system has them, else the unit fails:\n# ")
		u.set("SupplementaryGroups", groups...)
	}
	u.lines("\n# All is read-only but the volumes, and what holds one that may have to be made.\nProtectSystem=strict\n")
	u.set("ReadWritePaths", slices.Compact(writable)...)
	u.lines(unitSandbox)
	return []byte(u.String()), nil
}

const unitHead = `# Prepares the volumes of a host before the servers on it start, with the
# rights that the container has, and nothing else.
#
#	install -m 0755 volprep /usr/local/bin/
#	install -D -m 0644 layout.yaml /etc/volprep/layout.yaml
#	install -m 0644 volprep.service /etc/systemd/system/
#	systemctl enable --now volprep.service
#
# A server's own unit then says: Requires=volprep.service, After=volprep.service.
# volprep render systemd writes this file from the layout: write it anew with that.

[Unit]
Description=Prepare volumes as /etc/volprep/layout.yaml says
Documentation=man:acl(5) man:capabilities(7)
After=local-fs.target remote-fs.target
# Prepared before a volume is mounted, the directories would lie hidden below the mount.
`

const unitService = `ConditionPathExists=/etc/volprep/layout.yaml

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/bin/volprep apply --log-format json
ExecReload=/usr/local/bin/volprep apply --log-format json
TimeoutStartSec=30min
`

const unitSandbox = `ProtectHome=yes
PrivateTmp=yes
PrivateMounts=yes
PrivateDevices=yes
PrivateNetwork=yes
PrivateIPC=yes
IPAddressDeny=any
RestrictAddressFamilies=none
# The mount namespace above must not hide the processes' own directory:
# ACLs of descriptors are reached by /proc/self/fd alone.
ProtectProc=invisible
ProcSubset=pid
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
# Layouts set the setgid bit of shared directories.
RestrictSUIDSGID=no
LockPersonality=yes
MemoryDenyWriteExecute=yes
KeyringMode=private
RemoveIPC=yes
UMask=0077

SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@resources @network-io @ipc @keyring @timer @privileged
# Of those, what the two capabilities are for and a Go program's start calls;
# and what volprep shuts itself in with.
SystemCallFilter=@chown capset prlimit64 prctl seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`

// Podman writes a Quadlet unit (podman-systemd.unit(5)), which reads
// /etc/volprep/layout.yaml of the host.
func Podman(o Options) ([]byte, error) {
	volumes, err := o.volumes()
	if err != nil {
		return nil, err
	}
	n := o.need(volumes, func(volume) bool { return false })
	var u unit
	u.lines(quadletHead)
	u.lines("#\n# The server's own .container then says: User=" + fmt.Sprint(o.As.UID) + ", Group=" + fmt.Sprint(o.As.GID) + ", ")
	for _, group := range numbers(o.As.Groups) {
		u.lines("PodmanArgs=--group-add=" + group + ", ")
	}
	u.lines("DropCapability=all,\n# NoNewPrivileges=true, ReadOnly=true, and under [Unit] Requires=volprep.service, After=volprep.service.\n" + quadletUnit)
	u.set("Image", o.Image)
	u.set("User", fmt.Sprint(n.UID))
	u.set("Group", fmt.Sprint(n.GID))
	for _, group := range numbers(o.As.Groups) {
		// GroupAdd= is not known to older ones.
		u.set("PodmanArgs", "--group-add="+group)
	}
	u.lines("# " + n.why + ".\nDropCapability=all\n")
	u.set("AddCapability", n.added()...)
	u.lines("NoNewPrivileges=true\nReadOnly=true\nNetwork=none\n")
	for _, v := range o.given() {
		if strings.Contains(v.Value, "$") {
			return nil, fmt.Errorf("the variable %s has a $ in its value, which Quadlet hands on to systemd: leave it out", v.Name)
		}
		u.set("Environment", "VOLPREP_VAR_"+v.Name+"="+v.Value)
	}
	u.set("Volume", "/etc/volprep/layout.yaml:/etc/volprep/layout.yaml:ro")
	for _, v := range volumes {
		if v.source == emptyDir || strings.Contains(v.source+v.Path, ":") {
			return nil, fmt.Errorf("--volume %s=%s: Podman wants a name or a directory here, without a colon", v.Path, v.source)
		}
		u.set("Volume", v.source+":"+v.Path)
	}
	u.lines("\n[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=30min\n\n[Install]\nWantedBy=multi-user.target default.target\n")
	return []byte(u.String()), nil
}

const quadletHead = `# volprep.container, for /etc/containers/systemd/: prepares the volumes once,
# before the servers that share them start.
#
#	install -D -m 0644 layout.yaml /etc/volprep/layout.yaml
#	install -D -m 0644 volprep.container /etc/containers/systemd/volprep.container
#	systemctl daemon-reload && systemctl start volprep.service
`

const quadletUnit = `
[Unit]
Description=Prepare volumes as /etc/volprep/layout.yaml says

[Container]
`
