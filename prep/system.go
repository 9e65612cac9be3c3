package prep

import (
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System is the real kernel behind the seam.
func System() Kernel { return system{} }

type system struct{}

// retry repeats a call that a signal interrupted: Go's runtime preempts
// goroutines by signal, so EINTR is ordinary (signal(7)).
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

func retryInt(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

func (system) Openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	return retryInt(func() (int, error) { return unix.Openat2(dir, name, how) })
}

func (system) Openat(dir int, name string, flags int, mode uint32) (int, error) {
	return retryInt(func() (int, error) { return unix.Openat(dir, name, flags, mode) })
}

func (system) Statx(dir int, name string, flags, mask int, stat *unix.Statx_t) error {
	return retry(func() error { return unix.Statx(dir, name, flags, mask, stat) })
}

func (system) Fstatfs(fd int, stat *unix.Statfs_t) error {
	return retry(func() error { return unix.Fstatfs(fd, stat) })
}

func (system) Mkdirat(dir int, name string, mode uint32) error {
	return retry(func() error { return unix.Mkdirat(dir, name, mode) })
}

func (system) Renameat2(fromDir int, from string, toDir int, to string, flags uint) error {
	return retry(func() error { return unix.Renameat2(fromDir, from, toDir, to, flags) })
}

func (system) Unlinkat(dir int, name string, flags int) error {
	return retry(func() error { return unix.Unlinkat(dir, name, flags) })
}

func (system) Fchownat(fd, uid, gid int) error {
	return retry(func() error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) })
}

// procFS tells whether /proc/self/fd really is procfs: over anything else a
// chmod by that name would hit a file of somebody's choosing.
var procFS = sync.OnceValue(func() bool {
	var stat unix.Statfs_t
	return unix.Statfs("/proc/self/fd", &stat) == nil && stat.Type == unix.PROC_SUPER_MAGIC
})

// procPath is the name by which calls that know no AT_EMPTY_PATH reach the
// inode of an O_PATH descriptor (proc_pid_fd(5)).
func procPath(fd int) (string, error) {
	if !procFS() {
		return "", unix.ENOENT
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}

// Fchmod goes by /proc/self/fd first: fchmodat2(2) is from Linux 6.6, is
// ENOSYS or EPERM under older seccomp profiles and ENOENT on one vendor's
// 5.10 (opencontainers/runc#5415). Where /proc is missing it is the only way.
func (system) Fchmod(fd int, mode uint32) error {
	path, err := procPath(fd)
	if err == nil {
		return retry(func() error { return unix.Chmod(path, mode) })
	}
	return retry(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_FCHMODAT2, uintptr(fd), uintptr(unsafe.Pointer(&emptyName[0])), uintptr(mode), unix.AT_EMPTY_PATH, 0, 0)
		return orNil(errno)
	})
}

func (system) Getxattr(fd int, name string, value []byte) (int, error) {
	path, err := procPath(fd)
	if err != nil {
		return 0, err
	}
	return retryInt(func() (int, error) { return unix.Getxattr(path, name, value) })
}

func (system) Setxattr(fd int, name string, value []byte) error {
	path, err := procPath(fd)
	if err != nil {
		return err
	}
	return retry(func() error { return unix.Setxattr(path, name, value, 0) })
}

func (system) Removexattr(fd int, name string) error {
	path, err := procPath(fd)
	if err != nil {
		return err
	}
	return retry(func() error { return unix.Removexattr(path, name) })
}

// sysUtimensat is the call that takes 64 bits of seconds, on 32-bit
// architectures one of its own (utimensat(2); the number is the same on all).
func sysUtimensat() uintptr {
	if strconv.IntSize == 32 {
		return 412
	}
	return unix.SYS_UTIMENSAT
}

// Utimensat uses AT_EMPTY_PATH (Linux 5.8) and, before that, /proc/self/fd.
func (system) Utimensat(fd int, times *[2]Moment) error {
	call := func(dir int, name string, flags int) error {
		pointer, err := unix.BytePtrFromString(name)
		if err != nil {
			return err
		}
		return retry(func() error {
			_, _, errno := unix.Syscall6(sysUtimensat(), uintptr(dir), uintptr(unsafe.Pointer(pointer)), uintptr(unsafe.Pointer(times)), uintptr(flags), 0, 0)
			return orNil(errno)
		})
	}
	err := call(fd, "", unix.AT_EMPTY_PATH)
	if err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	path, err := procPath(fd)
	if err != nil {
		return err
	}
	return call(unix.AT_FDCWD, path, 0)
}

func (system) Getdents(fd int, buffer []byte) (int, error) {
	return retryInt(func() (int, error) { return unix.Getdents(fd, buffer) })
}

// Close does not retry: on Linux the descriptor is gone whatever close(2) answers.
func (system) Close(fd int) error { return unix.Close(fd) }
