package prep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Capabilities is a set of capabilities(7), bit by bit.
type Capabilities uint64

// The two that volprep may use.
const (
	CapChown  Capabilities = 1 << unix.CAP_CHOWN
	CapFowner Capabilities = 1 << unix.CAP_FOWNER
)

// capabilityNames are in the order of their numbers (linux/capability.h).
var capabilityNames = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
	linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
	sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
	audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf
	checkpoint_restore`)

// Names lists the set, as CAP_CHOWN and so on.
func (c Capabilities) Names() []string {
	names := []string{}
	for i := range 64 {
		if c&(1<<i) == 0 {
			continue
		}
		name := fmt.Sprintf("CAP_%d", i)
		if i < len(capabilityNames) {
			name = "CAP_" + strings.ToUpper(capabilityNames[i])
		}
		names = append(names, name)
	}
	return names
}

// String is the set in braces, or ∅.
func (c Capabilities) String() string {
	if c == 0 {
		return "∅"
	}
	return "{" + strings.ToLower(strings.ReplaceAll(strings.Join(c.Names(), ","), "CAP_", "")) + "}"
}

// capabilityOf is the set of one by its name.
func capabilityOf(name string) Capabilities {
	return 1 << max(slices.Index(capabilityNames, strings.ToLower(strings.TrimPrefix(name, "CAP_"))), 0)
}

// Privileges are what the kernel lets this process do.
type Privileges struct {
	Effective   Capabilities `json:"effective"`
	Permitted   Capabilities `json:"permitted"`
	Inheritable Capabilities `json:"inheritable"`
	Bounding    Capabilities `json:"bounding"`
	Ambient     Capabilities `json:"ambient"`
	NoNewPrivs  bool         `json:"no_new_privs"`
}

// MarshalText is the set as reports show it.
func (c Capabilities) MarshalText() ([]byte, error) {
	return []byte(strings.Join(c.Names(), " ")), nil
}

// CurrentPrivileges asks the kernel by capget(2) and prctl(2), which need no /proc.
func CurrentPrivileges() (Privileges, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return Privileges{}, fmt.Errorf("capget: %w", err)
	}
	both := func(low, high uint32) Capabilities { return Capabilities(low) | Capabilities(high)<<32 }
	p := Privileges{
		Effective:   both(data[0].Effective, data[1].Effective),
		Permitted:   both(data[0].Permitted, data[1].Permitted),
		Inheritable: both(data[0].Inheritable, data[1].Inheritable),
	}
	for i := range len(capabilityNames) {
		if set, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && set == 1 {
			p.Bounding |= 1 << i
		}
		if set, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, uintptr(i), 0, 0); err == nil && set == 1 {
			p.Ambient |= 1 << i
		}
	}
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	p.NoNewPrivs = err == nil && set == 1
	return p, nil
}

// ErrCgo says that this binary was built with cgo, and syscall.AllThreadsSyscall, by
// which alone all threads of a Go program can give up capabilities, refuses to
// work in such a binary.
var ErrCgo = errors.New("this binary was built with cgo, so capabilities cannot be dropped on all its threads; build it with CGO_ENABLED=0")

// Reduce leaves this process, on all its threads, no capability but those it
// has of keep, and makes them effective: a binary that carries them as file
// capabilities without the effective bit (`=p`) starts with none. The bounding
// set follows where CAP_SETPCAP allows, and no_new_privs is set. It returns
// what is effective afterwards.
func Reduce(keep Capabilities) (Capabilities, error) {
	had, err := CurrentPrivileges()
	if err != nil {
		return 0, err
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0, 0); errno == unix.ENOTSUP {
		return had.Effective, ErrCgo
	}
	for i := range len(capabilityNames) {
		if had.Bounding&(1<<i) != 0 && keep&(1<<i) == 0 {
			// EPERM without CAP_SETPCAP: what is not permitted cannot be had again all the same.
			if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(i), 0, 0, 0, 0); errno == unix.EPERM {
				break
			} else if errno != 0 {
				return had.Effective, fmt.Errorf("dropping %s from the bounding set: %w", capabilityNames[i], errno)
			}
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 && errno != unix.EINVAL {
		return had.Effective, fmt.Errorf("clearing the ambient capabilities: %w", errno)
	}
	left := had.Permitted & keep
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(left), Permitted: uint32(left)},
		{Effective: uint32(left >> 32), Permitted: uint32(left >> 32)},
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return had.Effective, fmt.Errorf("dropping capabilities on all threads: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return left, fmt.Errorf("setting no_new_privs: %w", errno)
	}
	return left, nil
}

// preflight plans the directories before anything changes, refuses a run whose
// plan needs a capability that is not effective, and gives up what the plan
// does not need. What lies behind a closed directory or in a volume's contents
// is not known yet, nor what a killed run left: nothing is asked for it, and nothing given up.
func (e *engine) preflight(layout *spec.Layout) bool {
	if e.options.Capabilities == nil {
		return true
	}
	plan, leftover := e.planDirectories(layout)
	needing := map[string]Action{}
	var needed Capabilities
	for _, action := range plan.Actions {
		for _, name := range action.Capabilities {
			needed |= capabilityOf(name)
			if _, known := needing[name]; !known {
				needing[name] = action
			}
		}
	}
	missing := needed &^ *e.options.Capabilities
	for _, name := range missing.Names() {
		action := needing[name]
		e.report.AddFailure(&Failure{Path: action.Path, Doing: fmt.Sprintf("planning %s %s → %s", action.Op, action.From, action.To), Class: ClassNotPermitted,
			Err:  fmt.Errorf("it needs %s, and this process (uid %d) has %s; nothing was changed", name, e.caller.UID, *e.options.Capabilities),
			Mend: e.whyLacking(name)})
		e.report.Summary.Failed++
	}
	walks := slices.ContainsFunc(layout.Volumes, func(v spec.Volume) bool { return v.Contents != nil })
	if !walks && !leftover && len(plan.Unknown) == 0 && len(plan.failures) == 0 && missing == 0 {
		e.keep(needed)
	}
	return missing == 0
}

// planDirectories is a plan without the walks over contents, and without a
// word: its failures are apply's to tell. leftover: a killed run left something to clear away.
func (e *engine) planDirectories(layout *spec.Layout) (plan *Report, leftover bool) {
	options := e.options
	options.Log = zerolog.Nop()
	planner := newEngine(context.WithoutCancel(e.ctx), "plan", options)
	planner.directoriesOnly = true
	for _, tree := range planner.trees(layout) {
		planner.surveyVolume(tree)
	}
	return planner.finishReport(), planner.leftover
}

// keep gives up all capabilities but these, where the caller wants that.
func (e *engine) keep(kept Capabilities) {
	if e.options.Keep == nil || e.options.Capabilities == nil {
		return
	}
	if err := e.options.Keep(kept); err != nil {
		e.log.Warn().Err(err).Msg("giving up capabilities that are not needed")
		return
	}
	left := *e.options.Capabilities & kept
	e.gaveUp |= *e.options.Capabilities &^ kept
	e.options.Capabilities = &left
}

// whyLacking tells why a capability is not effective, and the mend.
func (e *engine) whyLacking(name string) string {
	p, err := CurrentPrivileges()
	switch {
	case err != nil, e.caller.UID == 0:
		return "add it: capabilities: {drop: [ALL], add: [CHOWN, FOWNER]}, or cap_add: [CHOWN, FOWNER]"
	case p.Bounding&capabilityOf(name) != 0 && p.NoNewPrivs:
		return fmt.Sprintf("a capability added to a container that is not root is not effective (no ambient set; CapEff %s, CapBnd has it, no_new_privs on, which also stops file capabilities under Docker); use runAsUser: 0 with CHOWN and FOWNER", p.Effective)
	case p.Bounding&capabilityOf(name) != 0:
		return fmt.Sprintf("a capability added to a container that is not root is not effective (no ambient set; CapEff %s, CapBnd has it); use runAsUser: 0 with CHOWN and FOWNER", p.Effective)
	default:
		return "use runAsUser: 0 with the capabilities CHOWN and FOWNER, or a layout that needs none"
	}
}
