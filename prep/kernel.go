package prep

import (
	"golang.org/x/sys/unix"
)

// Moment is a time as utimensat(2) and statx(2) have it: struct
// __kernel_timespec, on every architecture.
type Moment struct{ Sec, Nsec int64 }

// Kernel is the seam: every system call by which volprep looks at or acts on
// a volume is one of these methods, so that each is known, each can be made
// to fail in a test, and the seccomp profile can be made from the list. The
// methods take descriptors and single names, never paths, but for Open, by
// which a run enters a volume. All retry EINTR and return a bare
// [unix.Errno]; the caller knows the path and what it was doing.
type Kernel interface {
	// Openat2 is openat2(2); ENOSYS or EPERM where kernel or seccomp know it not.
	Openat2(dir int, name string, how *unix.OpenHow) (int, error)
	// Openat is openat(2), used with O_NOFOLLOW and one path component.
	Openat(dir int, name string, flags int, mode uint32) (int, error)
	// Statx is statx(2); an empty name with AT_EMPTY_PATH means the descriptor.
	Statx(dir int, name string, flags, mask int, stat *unix.Statx_t) error
	// Fstatfs is fstatfs(2).
	Fstatfs(fd int, stat *unix.Statfs_t) error
	// Mkdirat is mkdirat(2).
	Mkdirat(dir int, name string, mode uint32) error
	// Renameat2 is renameat2(2).
	Renameat2(fromDir int, from string, toDir int, to string, flags uint) error
	// Unlinkat is unlinkat(2), used with AT_REMOVEDIR alone.
	Unlinkat(dir int, name string, flags int) error
	// Fchownat is fchownat(fd, "", uid, gid, AT_EMPTY_PATH), for O_PATH
	// descriptors of any type, symbolic links too; -1 leaves an id alone.
	Fchownat(fd, uid, gid int) error
	// Fchmod changes the mode behind an O_PATH descriptor: fchmodat2(2) with
	// AT_EMPTY_PATH or, where that is unknown, chmod(2) by /proc/self/fd.
	Fchmod(fd int, mode uint32) error
	// Getxattr, Setxattr and Removexattr work by /proc/self/fd, the only
	// way for an O_PATH descriptor (setxattrat answers EBADF).
	Getxattr(fd int, name string, value []byte) (int, error)
	Setxattr(fd int, name string, value []byte) error
	Removexattr(fd int, name string) error
	// Utimensat sets access and modification time behind an O_PATH descriptor.
	Utimensat(fd int, times *[2]Moment) error
	// Getdents is getdents64(2) on a descriptor opened for reading.
	Getdents(fd int, buffer []byte) (int, error)
	Close(fd int) error
	// FchmodDirect does what Fchmod does, by fchmodat2(2) first: half the price
	// where there are many files.
	FchmodDirect(fd int, mode uint32) error
	// StatxName, OpenName and GetAccessName are statx(2), openat(2) and
	// getxattrat(2) of the access ACL, never following a link, for a contents walk: name
	// points at a name ended by a NUL, in the buffer of [Kernel.Getdents].
	StatxName(dir int, name *byte, flags, mask int, stat *unix.Statx_t) error
	OpenName(dir int, name *byte, flags int) (int, error)
	GetAccessName(dir int, name *byte, value []byte) (int, error)
}
