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

// procFDs is a descriptor of /proc/self/fd, and -1 where that is no procfs:
// over anything else a chmod by a name in it would hit a file of somebody's
// choosing. It stays open for good.
var procFDs = sync.OnceValue(func() int {
	fd, err := unix.Open("/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	var stat unix.Statfs_t
	if unix.Fstatfs(fd, &stat) != nil || stat.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1
	}
	return fd
})

// procFS tells whether descriptors can be reached by /proc/self/fd.
func procFS() bool { return procFDs() >= 0 }

// procPath is the name by which calls that know no AT_EMPTY_PATH reach the
// inode of an O_PATH descriptor (proc_pid_fd(5)); only where there is a procfs.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Fchmod goes by /proc/self/fd first: fchmodat2(2) is from Linux 6.6, is
// ENOSYS or EPERM under older seccomp profiles and ENOENT on one vendor's
// 5.10 (opencontainers/runc#5415). Where /proc is missing it is the only way.
func (system) Fchmod(fd int, mode uint32) error {
	if procFS() {
		return retry(func() error { return unix.Chmod(procPath(fd), mode) })
	}
	return retry(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_FCHMODAT2, uintptr(fd), uintptr(unsafe.Pointer(&emptyName[0])), uintptr(mode), unix.AT_EMPTY_PATH, 0, 0)
		return orNil(errno)
	})
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
	if err != unix.EINVAL && err != unix.ENOENT || !procFS() {
		return err
	}
	return call(unix.AT_FDCWD, procPath(fd), 0)
}

func (system) Getdents(fd int, buffer []byte) (int, error) {
	return retryInt(func() (int, error) { return unix.Getdents(fd, buffer) })
}

// Close does not retry: on Linux the descriptor is gone whatever close(2) answers.
func (system) Close(fd int) error { return unix.Close(fd) }
