package prep

import (
	"context"
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Sandbox says what holds a run within its volumes, beside the care that its
// own code takes: "on", with what it covers, or why it is off.
type Sandbox struct {
	Landlock string `json:"landlock"`
	Seccomp  string `json:"seccomp"`
}

// Confine takes from this process, on all its threads and for good, whatever a
// run over the layout does not need: by landlock(7) to read, make, rename or
// remove anything outside the volumes, and by seccomp(2) the calls of never.
// What landlock(7) does not cover (owners, modes and ACLs of what a
// descriptor can be had for) stays the engine's own to keep to. What the
// kernel does not have is left out, and the answer says so.
//
// Files that are open stay open: the report and the kubelet's termination log
// must be opened before.
func Confine(layout *spec.Layout, options Options) Sandbox {
	// What the run may still ask for by name is asked for now.
	_, _ = time.Now().Zone()
	idMap()
	procFS()
	sandbox := Sandbox{Seccomp: "on"}
	abi, err := newEngine(context.Background(), "", options).confinePaths(layout)
	if sandbox.Landlock = fmt.Sprintf("on, ABI %d", abi); err != nil {
		sandbox.Landlock = "off: " + err.Error()
	}
	if err := denyCalls(); err != nil {
		sandbox.Seccomp = "off: " + err.Error()
	}
	return sandbox
}

// landlockRights are the rights that each ABI added (landlock(7)); index 0 is
// ABI 1. What a kernel does not know it refuses to handle.
var landlockRights = []uint64{
	unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM,
	unix.LANDLOCK_ACCESS_FS_REFER,
	unix.LANDLOCK_ACCESS_FS_TRUNCATE,
	0, // ABI 4: TCP, which the filter of calls takes away whole
	unix.LANDLOCK_ACCESS_FS_IOCTL_DEV,
}

// volumeRights are what a run does by name in a volume: it reads directories,
// makes them, and renames them into place out of the staging directory, which
// it removes.
const volumeRights = unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REFER

// landlockABI is the kernel's version of landlock(7); ABI 1 is too little, for
// under it no directory can be renamed into another one.
func landlockABI() (int, error) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno == unix.EOPNOTSUPP:
		return 0, fmt.Errorf("the kernel was started without it (lsm=)")
	case errno != 0:
		return 0, fmt.Errorf("the kernel or a seccomp profile does not know it (%w)", errno)
	case abi < 2:
		return int(abi), fmt.Errorf("the kernel's ABI %d allows no rename between directories", abi)
	}
	return int(abi), nil
}

// confinePaths is the landlock(7) part of Confine: a rule for each volume's
// root or, where that is to be made, for the directory that it is made in.
func (e *engine) confinePaths(layout *spec.Layout) (abi int, err error) {
	if abi, err = landlockABI(); err != nil {
		return abi, err
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno == unix.ENOTSUP {
		return abi, ErrCgo
	} else if errno != 0 {
		return abi, fmt.Errorf("setting no_new_privs: %w", errno)
	}
	var attr unix.LandlockRulesetAttr
	for i := range min(abi, len(landlockRights)) {
		attr.Handled_access_fs |= landlockRights[i]
	}
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return abi, fmt.Errorf("making a ruleset: %w", errno)
	}
	defer unix.Close(int(rules))
	for _, tree := range e.trees(layout) {
		at, err := e.locate(tree)
		if err != nil {
			continue // the run meets it again, and tells
		}
		in := at.root
		if in < 0 {
			in = at.parent
		}
		errno := allowBeneath(int(rules), in)
		at.close(e.kernel)
		if errno != 0 {
			return abi, fmt.Errorf("allowing %s: %w", printable(tree.path), errno)
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); errno != 0 {
		return abi, fmt.Errorf("restricting all threads: %w", errno)
	}
	return abi, nil
}

func allowBeneath(rules, directory int) unix.Errno {
	rule := unix.LandlockPathBeneathAttr{Allowed_access: volumeRights, Parent_fd: int32(directory)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	return errno
}
