package prep

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These calls take names as getdents64(2) left them in its buffer, ended by a
// NUL, so that an entry costs no allocation.

func (system) StatxName(dir int, name *byte, flags, mask int, stat *unix.Statx_t) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags), uintptr(mask), uintptr(unsafe.Pointer(stat)), 0)
		if errno != unix.EINTR {
			return orNil(errno)
		}
	}
}

func (system) OpenName(dir int, name *byte, flags int) (int, error) {
	for {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags), 0, 0, 0)
		if errno != unix.EINTR {
			return int(fd), orNil(errno)
		}
	}
}

// orNil keeps a zero errno from becoming an error. The value that it boxes
// is allocated for rare errors alone: the runtime has the small ones.
func orNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// withoutFchmodat2 is set for good once fchmodat2(2), of Linux 6.6, turns out
// to be unknown to the kernel or to a seccomp profile.
var withoutFchmodat2 atomic.Bool

var emptyName [1]byte

func (s system) FchmodDirect(fd int, mode uint32) error {
	if withoutFchmodat2.Load() {
		return s.Fchmod(fd, mode)
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_FCHMODAT2, uintptr(fd), uintptr(unsafe.Pointer(&emptyName[0])), uintptr(mode), unix.AT_EMPTY_PATH, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.ENOENT:
			// EPERM is the answer of a seccomp profile, or of the file system:
			// the other way tells.
			err := s.Fchmod(fd, mode)
			if err == nil {
				withoutFchmodat2.Store(true)
			}
			return err
		default:
			return errno
		}
	}
}
