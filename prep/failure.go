package prep

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Class is what a failure means for the exit status.
type Class int

// The classes, with the exit statuses of the command line.
const (
	ClassFailed       Class = 1 // could not be done
	ClassDrift        Class = 4 // the volumes are not as the layout says
	ClassRefused      Class = 5 // unsafe: a link or a wrong kind of file in the way
	ClassNotPermitted Class = 6 // a capability, an id map or the server stands in the way
	ClassExpectation  Class = 7 // an expectation does not hold
)

// precedence orders the classes where several apply.
var precedence = []Class{ClassRefused, ClassNotPermitted, ClassFailed, ClassExpectation, ClassDrift}

// Failure is something that could not be done: what, to which path, what the
// kernel answered, and how to mend it.
type Failure struct {
	Path  string
	Doing string // "making the directory"
	Err   error
	Mend  string
	Class Class
}

// Error is one line: `path: doing what: answer: mend`.
func (f *Failure) Error() string {
	text := fmt.Sprintf("%s: %s: %v", printable(f.Path), f.Doing, f.Err)
	if f.Mend != "" {
		text += ": " + f.Mend
	}
	return text
}

func (f *Failure) Unwrap() error { return f.Err }

// printable makes a path fit for a terminal and for one line: whatever could
// be an escape sequence, a line break or no UTF-8 is written as Go writes it.
func printable(path string) string {
	quoted := fmt.Sprintf("%q", path)
	if plain := quoted[1 : len(quoted)-1]; plain != path {
		return quoted
	}
	return path
}

// errors that no system call gives.
var (
	errNotAsAsked = errors.New("the kernel took the change, but it does not read back")
	errOpaque     = errors.New("this process may not look into it")
)

// mends are for the errors whose cause does not depend on what was being done.
var mends = []struct {
	err  error
	mend string
}{
	{unix.EROFS, "the volume is mounted read-only and not yet as the layout says; mount it writable for volprep (readOnly: false), or prepare it elsewhere"},
	{unix.ENOSPC, "the file system has no space or inodes left, or an ACL is larger than its block allows; free some, or shorten the ACL"},
	{unix.EDQUOT, "the quota of this user or project is used up; raise it or free some space"},
	{unix.EOPNOTSUPP, "this file system has no POSIX ACLs; share by group and setgid instead, or use ext4, xfs, btrfs or tmpfs"},
	{unix.E2BIG, "the ACL is longer than this file system can hold; grant to groups instead of users"},
	{unix.EIO, "the disk or the server behind the volume is failing; look into the kernel's log"},
	{unix.EUCLEAN, "the disk or the server behind the volume is failing; look into the kernel's log"},
	{unix.ESTALE, "the server no longer knows this directory; mount the volume anew and run again"},
	{unix.ENAMETOOLONG, "shorten the name: this file system allows less than 255 bytes"},
	{unix.EMLINK, "the parent holds as many directories as this file system allows; spread them over more parents"},
	{unix.EMFILE, "no descriptors left; raise the limit of open files (ulimit -n, LimitNOFILE)"},
	{unix.ENFILE, "no descriptors left; raise the limit of open files (ulimit -n, LimitNOFILE)"},
	{unix.ENOMEM, "the kernel has no memory left for this cgroup; raise the container's memory limit"},
	{unix.ENOENT, "it vanished meanwhile; run again"},
	{unix.ENOSYS, "the kernel or the container's seccomp profile does not know this call; use the runtime's default profile"},
	{errNotAsAsked, "the file system or its server decides owners and modes itself (mount options uid=, gid=, an access point, root squash); set them there and leave them out of the layout"},
}

// failed makes a Failure of what a system call answered, with the likely
// cause and the mend. have is the state of the inode acted on, where known.
func (e *engine) failed(path, doing string, err error, have *State) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	f = &Failure{Path: path, Doing: doing, Err: err, Class: ClassFailed}
	var needs errNeedsGroup
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.Mend = "what was done is kept; run again to go on"
	case errors.As(err, &needs):
		f.Class = ClassNotPermitted
		f.Mend = fmt.Sprintf("put this container into group %d (fsGroup, supplementalGroups, group_add)", needs.gid)
	case errors.Is(err, errOwnerIsLeast):
		f.Class = ClassNotPermitted
		f.Mend = "give its owner at least what group and others have, name owner, group and mode in the layout, or put this container into its group"
	case errors.Is(err, errCrossing):
		f.Class = ClassRefused
		f.Mend = "list that mount as a volume of its own, or take it away"
	case errors.Is(err, errSymlinkInVolume):
		f.Class = ClassRefused
		f.Mend = "write the path that the link leads to"
	case errors.Is(err, unix.ELOOP):
		f.Class = ClassRefused
		f.Mend = "a symbolic link is in the way; remove it, or name the directory that it leads to"
	case errors.Is(err, unix.ENOTDIR):
		f.Class = ClassRefused
		f.Mend = "something that is no directory is in the way; move it away"
	case errors.Is(err, unix.EXDEV):
		f.Class = ClassRefused
		f.Mend = "it lies on another file system or outside the volume"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, errOpaque):
		f.Class = ClassNotPermitted
		f.Mend = e.whyNot(doing, err, have)
	case errors.Is(err, unix.EINVAL) && strings.HasPrefix(doing, "chang"), errors.Is(err, unix.EOVERFLOW):
		f.Class = ClassNotPermitted
		f.Mend = "an id has no place in this user namespace (its map: " + idMap() + "); use ids inside the map, a volume mounted with id mapping, or a pod with hostUsers: true"
	case errors.Is(err, unix.ENOENT) && !procFS():
		f.Mend = "/proc is not mounted here, and modes and ACLs can only be reached through it; mount proc"
	default:
		for _, plain := range mends {
			if errors.Is(err, plain.err) {
				f.Mend = plain.mend
				break
			}
		}
	}
	return f
}

// whyNot gives the mend for EPERM and EACCES.
func (e *engine) whyNot(doing string, err error, have *State) string {
	switch {
	case errors.Is(err, errOpaque), errors.Is(err, unix.EACCES):
		return "put this container into the directory's group (fsGroup, supplementalGroups, group_add), or let volprep borrow it (--borrow auto, with CAP_CHOWN)"
	case e.caller.UID != 0:
		return fmt.Sprintf("this process is uid %d, and capabilities added to a container that is not root are not effective (no ambient set); use runAsUser: 0 with capabilities CHOWN and FOWNER, or give the directory to uid %d", e.caller.UID, e.caller.UID)
	case have != nil && (have.UID == overflowID || have.GID == overflowID):
		return "its owner has no place in this user namespace (its map: " + idMap() + "), so no capability counts for it; use a volume with id mapping, or hostUsers: true"
	case e.lacksGivenUp(doing, have):
		return fmt.Sprintf("somebody changed it after this run had planned, and given up %s as not needed; run again", e.gaveUp)
	default:
		return "add the capabilities CHOWN and FOWNER; where this process has them, the server squashes root (NFS root_squash, an access point) or the directory is immutable (lsattr)"
	}
}

// lacksGivenUp tells whether what was refused needs a capability that this run
// had: a change of ids needs CHOWN, and anything else FOWNER where the inode is
// somebody else's.
func (e *engine) lacksGivenUp(doing string, have *State) bool {
	if strings.HasPrefix(doing, "changing the owner") || strings.HasPrefix(doing, "changing the group") || strings.HasPrefix(doing, "changing owner and group") {
		return e.gaveUp&CapChown != 0
	}
	return e.gaveUp&CapFowner != 0 && have != nil && have.UID != e.caller.UID
}

// overflowID is how an id that a user namespace does not map is shown (/proc/sys/kernel/overflowuid).
const overflowID = 65534
