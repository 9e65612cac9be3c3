package prep

import (
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extended attributes are the one thing that no call reaches by an O_PATH
// descriptor: getxattrat(2) and setxattrat(2) with AT_EMPTY_PATH answer EBADF. The
// way is the descriptor's name in /proc/self/fd, and the dearest part of that
// way is /proc/self: these two calls, of Linux 6.13, begin behind it.

// withoutXattrat is set for good once they turn out to be unknown to the
// kernel or to a seccomp profile.
var withoutXattrat atomic.Bool

// Their numbers are the same on all architectures.
const (
	sysSetxattrat = 463
	sysGetxattrat = 464
)

// xattrArgs is struct xattr_args of include/uapi/linux/xattr.h, whose first
// field has 64 bits on every architecture.
type xattrArgs struct {
	value *byte
	_     [8 - unsafe.Sizeof(uintptr(0))]byte
	size  uint32
	flags uint32
}

// xattrat makes one of the two calls, or the older one where it is not known.
func xattrat(number uintptr, dir int, name *byte, flags int, attribute *byte, value []byte, older func() (int, error)) (int, error) {
	if withoutXattrat.Load() {
		return retryInt(older)
	}
	args := xattrArgs{value: unsafe.SliceData(value), size: uint32(len(value))}
	for {
		n, _, errno := unix.Syscall6(number, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags),
			uintptr(unsafe.Pointer(attribute)), uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args))
		switch errno {
		case unix.EINTR:
		case unix.ENOSYS, unix.EPERM, unix.EINVAL:
			// The answer of a seccomp profile, or of the file system: the other way tells.
			n, err := retryInt(older)
			if err == nil {
				withoutXattrat.Store(true)
			}
			return n, err
		default:
			return int(n), orNil(errno)
		}
	}
}

// attributes are the names that are asked for, ended by a NUL.
var attributes = map[string]*byte{
	accessXattr:       &append([]byte(accessXattr), 0)[0],
	defaultXattr:      &append([]byte(defaultXattr), 0)[0],
	capabilitiesXattr: &append([]byte(capabilitiesXattr), 0)[0],
}

// capabilitiesXattr holds a file's own capabilities (capabilities(7)).
const capabilitiesXattr = "security.capability"

// decimal is a descriptor's name in /proc/self/fd, ended by a NUL.
type decimal [21]byte

func (d *decimal) of(fd int) *byte {
	strconv.AppendInt(d[:0], int64(fd), 10)
	return &d[0]
}

func (system) Getxattr(fd int, name string, value []byte) (int, error) {
	if !procFS() {
		return 0, unix.ENOENT
	}
	var number decimal
	return xattrat(sysGetxattrat, procFDs(), number.of(fd), 0, attributes[name], value, func() (int, error) {
		return unix.Getxattr(procPath(fd), name, value)
	})
}

func (system) Setxattr(fd int, name string, value []byte) error {
	if !procFS() {
		return unix.ENOENT
	}
	var number decimal
	_, err := xattrat(sysSetxattrat, procFDs(), number.of(fd), 0, attributes[name], value, func() (int, error) {
		return 0, unix.Setxattr(procPath(fd), name, value, 0)
	})
	return err
}

func (system) Removexattr(fd int, name string) error {
	if !procFS() {
		return unix.ENOENT
	}
	return retry(func() error { return unix.Removexattr(procPath(fd), name) })
}

// GetAccessName without getxattrat(2) is lgetxattr(2) by the directory's
// /proc/self/fd, which does the same for twice the time.
func (system) GetAccessName(dir int, name *byte, value []byte) (int, error) {
	return xattrat(sysGetxattrat, dir, name, unix.AT_SYMLINK_NOFOLLOW, attributes[accessXattr], value, func() (int, error) {
		if !procFS() {
			return 0, unix.ENOENT
		}
		return unix.Lgetxattr(procPath(dir)+"/"+unix.BytePtrToString(name), accessXattr, value)
	})
}
