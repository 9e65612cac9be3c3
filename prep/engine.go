package prep

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Options say how a run goes about its layout.
type Options struct {
	// Kernel is the seam; nil is the real one.
	Kernel Kernel
	// Caller is who acts; the zero value asks the kernel.
	Caller *Caller
	// Root is put before every path of the layout; "" is none.
	Root string
	// Only are the absolute paths of the layout to be taken; none takes all.
	Only []string
	// Borrow is the policy for directories that cannot be looked into.
	Borrow Borrow
	// Jobs is the number of workers of a contents walk; at least 1.
	Jobs int
	// Shard and Shards split the walks over contents among several runs; fewer than 2 is the whole.
	Shard, Shards int
	// Progress is told how far a walk over contents has come, each ProgressEvery.
	Progress      func(volume string, at ContentsProgress)
	ProgressEvery time.Duration
	// AllowUnknown lets an expectation pass that could not be seen.
	AllowUnknown bool
	// Capabilities are those that are effective; nil does not ask.
	Capabilities *Capabilities
	// Keep gives up every capability but these for good: those that the plan
	// does not need before the first action, and all after the last; nil gives up none.
	Keep func(Capabilities) error
	// Log gets one event for each change.
	Log zerolog.Logger
}

// engine is one run over one layout.
type engine struct {
	ctx     context.Context
	kernel  Kernel
	walker  *walker
	caller  Caller
	options Options
	log     zerolog.Logger
	report  *Report
	// keepVeil remembers, by device, where the removal of an ACL clears setgid.
	keepVeil map[uint64]bool
	// final is the state of each directory that was read back, by the layout's path.
	final map[string]State
	began time.Time
	// directoriesOnly leaves the walks over contents out.
	directoriesOnly bool
	// leftover: a killed run left a staging directory, with who knows what in it.
	leftover bool
	// gaveUp are the capabilities that this run had and does without.
	gaveUp Capabilities
}

func newEngine(ctx context.Context, command string, options Options) *engine {
	if options.Kernel == nil {
		options.Kernel = System()
	}
	if options.Caller == nil {
		caller := CurrentCaller()
		options.Caller = &caller
	}
	if options.Borrow == "" {
		options.Borrow = BorrowAuto
	}
	return &engine{
		ctx:      ctx,
		kernel:   options.Kernel,
		walker:   &walker{kernel: options.Kernel},
		caller:   *options.Caller,
		options:  options,
		log:      options.Log,
		report:   &Report{Version: reportVersion, Command: command},
		keepVeil: map[uint64]bool{},
		final:    map[string]State{},
		began:    time.Now(),
	}
}

// CurrentCaller is this process: its effective ids, which are its file system
// ids, and its groups.
func CurrentCaller() Caller {
	caller := Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if groups, err := unix.Getgroups(); err == nil {
		for _, group := range groups {
			caller.Groups = append(caller.Groups, uint32(group))
		}
	}
	return caller
}

// idMap is the user namespace's map of user ids in one line.
var idMap = sync.OnceValue(func() string { return fileLine("/proc/self/uid_map") })

// interrupted tells whether the run must end here, and notes so once.
func (e *engine) interrupted(n *node) bool {
	if e.ctx.Err() == nil {
		return false
	}
	if !slices.ContainsFunc(e.report.failures, func(f *Failure) bool { return errors.Is(f, e.ctx.Err()) }) {
		e.fail(n, e.failed(n.path, "preparing the volume", context.Cause(e.ctx), nil))
	}
	return true
}

// trees plants the layout's volumes, pruned to what the run takes.
func (e *engine) trees(layout *spec.Layout) []*node {
	var trees []*node
	for i := range layout.Volumes {
		if tree := plant(&layout.Volumes[i]).prune(e.options.Only); tree != nil {
			trees = append(trees, tree)
		}
	}
	return trees
}

// locate finds a volume's root, and refuses one that must be a mount point and is none.
func (e *engine) locate(tree *node) (place, error) {
	start := "/"
	if e.options.Root != "" {
		start = e.options.Root
	}
	fd, err := e.kernel.Openat(unix.AT_FDCWD, start, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT && e.options.Root != "" && tree.volume.Create {
		return e.locateBelow(tree)
	}
	if err != nil {
		return place{}, e.failed(start, "opening --root", err, nil)
	}
	return e.locateFrom(tree, fd, tree.volume.Path, e.options.Root == "")
}

// locateBelow is locate where --root itself is still missing: its parent is
// the start, and its name one more missing component.
func (e *engine) locateBelow(tree *node) (place, error) {
	parent, name := path.Split(path.Clean(e.options.Root))
	fd, err := e.kernel.Openat(unix.AT_FDCWD, cmpOr(parent, "."), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return place{}, e.failed(parent, "opening the directory of --root", err, nil)
	}
	return e.locateFrom(tree, fd, name+tree.volume.Path, false)
}

func (e *engine) locateFrom(tree *node, start int, name string, follow bool) (place, error) {
	at, err := e.walker.locate(start, name, follow)
	if err != nil {
		return at, e.failed(tree.path, "walking to the volume's root", err, nil)
	}
	if at.root < 0 && !tree.volume.Create {
		f := e.failed(tree.path, "opening the volume's root", unix.ENOENT, nil)
		f.Mend = "mount the volume there, or say create: true, or optional: true"
		at.close(e.kernel)
		return place{}, f
	}
	if tree.volume.MountRequired {
		if err := e.mountPoint(at); err != nil {
			at.close(e.kernel)
			return place{}, &Failure{Path: tree.path, Doing: "looking for the mount point", Err: err, Class: ClassFailed,
				Mend: "add the volume to this container's volumeMounts, or leave mount: required out"}
		}
	}
	return at, nil
}

// mountPoint refuses a place that is no mount's own root.
func (e *engine) mountPoint(at place) error {
	if at.root < 0 {
		return unix.ENOENT
	}
	info, err := look(e.kernel, at.root)
	if err != nil {
		return err
	}
	crossed := true
	if at.parent >= 0 {
		if crossed, err = e.walker.crossed(at.parent, at.root); err != nil {
			return err
		}
	}
	if !info.mountRoot && !crossed {
		return errors.New("nothing is mounted there: it is a directory of the file system above")
	}
	return nil
}

// carryOut makes one step. access is the access time that a slip replaces.
func (e *engine) carryOut(fd int, step Step, access Moment) error {
	switch step.Op {
	case opNote:
		return e.writeSlip(fd, step.Slip)
	case opForget:
		return e.clearSlip(fd, access)
	case OpChown:
		return e.kernel.Fchownat(fd, step.UID, step.GID)
	case OpChmod:
		return e.kernel.Fchmod(fd, step.Mode)
	case OpSetAccess:
		return e.kernel.Setxattr(fd, accessXattr, EncodeACL(step.ACL))
	case OpRemoveAccess:
		if step.Unveil {
			return e.kernel.Removexattr(fd, accessXattr)
		}
		return e.kernel.Setxattr(fd, accessXattr, EncodeACL(step.ACL))
	case OpSetDefault:
		return e.kernel.Setxattr(fd, defaultXattr, EncodeACL(step.ACL))
	case OpRemoveDefault:
		return e.kernel.Removexattr(fd, defaultXattr)
	default:
		return fmt.Errorf("no step is named %q", step.Op)
	}
}

// stepError is a step that failed, with the state it was to change.
type stepError struct {
	step Step
	have State
	err  error
}

func (s *stepError) Error() string { return s.err.Error() }
func (s *stepError) Unwrap() error { return s.err }

// doing says in words what the step was about.
func (s Step) doing() string {
	switch s.Op {
	case OpChown:
		switch {
		case s.GID < 0:
			return fmt.Sprintf("changing the owner to %d", s.UID)
		case s.UID < 0:
			return fmt.Sprintf("changing the group to %d", s.GID)
		default:
			return fmt.Sprintf("changing owner and group to %d:%d", s.UID, s.GID)
		}
	case OpChmod:
		return fmt.Sprintf("changing the mode to %04o", s.Mode)
	case OpSetAccess:
		return "changing the access ACL to " + s.ACL.String()
	case OpRemoveAccess:
		return "removing the access ACL"
	case OpSetDefault:
		return "changing the default ACL to " + s.ACL.String()
	case opNote, opForget:
		return "noting on the directory whose it is"
	default:
		return "removing the default ACL"
	}
}

// become makes a directory what it must be, step by step, and reads it back:
// a step that changes nothing, or loses setgid on the way, is tried by another
// order once, and then is an error that names the difference.
func (e *engine) become(fd int, want State, options orderOptions) error {
	info, err := look(e.kernel, fd)
	if err != nil {
		return err
	}
	options.noACL = !info.acls
	access := accessTime(info, e.caller)
	for range 3 {
		_, options.noted = slipOf(info, e.caller)
		options.keepVeil = e.keepVeil[info.identity.dev]
		steps, err := transition(info.State, want, e.caller, options)
		if err != nil {
			return err
		}
		have, device := info.State, info.identity.dev
		for _, step := range steps {
			if err := e.carryOut(fd, step, access); err != nil {
				return &stepError{step, have, err}
			}
			e.used(step.capability(have, e.caller))
			have = step.after(have, e.caller)
			if step.Unveil && e.lostSetgid(fd) {
				e.keepVeil[device] = true
				break
			}
		}
		if info, err = look(e.kernel, fd); err != nil {
			return err
		}
		if info.equal(want) {
			if _, left := slipOf(info, e.caller); left {
				return e.clearSlip(fd, access)
			}
			return nil
		}
	}
	return fmt.Errorf("%w: it is %s and should be %s", errNotAsAsked, info.State, want)
}

// lostSetgid tells whether a directory that just had setgid has it no more.
func (e *engine) lostSetgid(fd int) bool {
	info, err := look(e.kernel, fd)
	return err == nil && info.Mode&setgidBit == 0
}

func cmpOr(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
