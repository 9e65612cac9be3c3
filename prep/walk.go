package prep

import (
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// This file is the only one that turns names into descriptors. Below a
// volume's root a name is one component, looked up in a directory whose
// descriptor is held, and a symbolic link is never followed.

// walker opens names through the kernel seam.
type walker struct {
	kernel Kernel
	// withoutOpenat2 is set for good by the first openat2(2) that the kernel
	// or a seccomp profile does not know: a filter may appear in mid-run.
	withoutOpenat2 atomic.Bool
}

// errCrossing: a component is the root of another mount.
var errCrossing = errors.New("another file system is mounted there")

// below opens one component of a directory as O_PATH, whatever its type:
// the caller looks at what it got. A component on another mount is errCrossing.
func (w *walker) below(dir int, name string) (int, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return -1, unix.EINVAL
	}
	if !w.withoutOpenat2.Load() {
		fd, err := w.kernel.Openat2(dir, name, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		switch err {
		case unix.EXDEV:
			return -1, errCrossing
		case unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.E2BIG:
			w.withoutOpenat2.Store(true)
		case unix.EAGAIN:
			// A rename elsewhere on the system raced the lookup (openat2(2));
			// one component has no ".." to go wrong, so the plain way is as safe.
		default:
			return fd, err
		}
	}
	fd, err := w.kernel.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	crossed, err := w.crossed(dir, fd)
	if err == nil && crossed {
		err = errCrossing
	}
	if err != nil {
		w.kernel.Close(fd)
		return -1, err
	}
	return fd, nil
}

// crossed tells whether a child is on another mount than its directory.
func (w *walker) crossed(dir, child int) (bool, error) {
	var parent, stat unix.Statx_t
	for fd, into := range map[int]*unix.Statx_t{dir: &parent, child: &stat} {
		if err := w.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, into); err != nil {
			return false, err
		}
	}
	if parent.Mask&stat.Mask&unix.STATX_MNT_ID != 0 {
		return parent.Mnt_id != stat.Mnt_id, nil
	}
	return parent.Dev_major != stat.Dev_major || parent.Dev_minor != stat.Dev_minor, nil
}

// reader opens a held directory for getdents64(2).
func (w *walker) reader(dir int) (int, error) {
	return w.kernel.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// place is where a volume's root is, or would be.
type place struct {
	// parent is a descriptor of the deepest directory that exists above the
	// root, and missing the components below it that do not, the root's name last.
	parent  int
	name    string
	missing []string
	// root is the root's own descriptor, -1 while missing.
	root int
}

// errSymlinkInVolume: a symbolic link lies below the mount point of the
// volume, where whoever may write the volume could have made it.
var errSymlinkInVolume = errors.New("a symbolic link lies on the way to the volume's root, on the same file system")

// locate walks down to a volume's root, a component at a time. Symbolic links
// are followed only where they lie on another mount than the root, and only
// when follow is set; with a link on the root's own mount the answer is
// errSymlinkInVolume. The caller closes what the place holds.
func (w *walker) locate(start int, path string, follow bool) (place, error) {
	components := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	at := place{parent: -1, root: start}
	var linkMounts []uint64
	fail := func(err error) (place, error) {
		at.close(w.kernel)
		return place{}, err
	}
	for i, name := range components {
		fd, err := w.kernel.Openat(at.root, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			at.closeParent(w.kernel)
			at.parent, at.root, at.missing = at.root, -1, components[i:]
			at.name = components[len(components)-1]
			return at, nil
		}
		if err != nil {
			return fail(err)
		}
		var stat unix.Statx_t
		if err := w.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, inodeMask, &stat); err != nil {
			w.kernel.Close(fd)
			return fail(err)
		}
		if fileType(stat.Mode) == fs.ModeSymlink {
			w.kernel.Close(fd)
			if !follow {
				return fail(errSymlinkInVolume)
			}
			linkMounts = append(linkMounts, stat.Mnt_id)
			if fd, err = w.kernel.Openat(at.root, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				return fail(err)
			}
		}
		at.closeParent(w.kernel)
		at.parent, at.root, at.name = at.root, fd, name
	}
	if len(linkMounts) > 0 {
		var stat unix.Statx_t
		if err := w.kernel.Statx(at.root, "", unix.AT_EMPTY_PATH, inodeMask, &stat); err != nil {
			return fail(err)
		}
		for _, mount := range linkMounts {
			if mount == stat.Mnt_id {
				return fail(errSymlinkInVolume)
			}
		}
	}
	return at, nil
}

func (p *place) closeParent(kernel Kernel) {
	if p.parent >= 0 {
		kernel.Close(p.parent)
		p.parent = -1
	}
}

func (p *place) close(kernel Kernel) {
	p.closeParent(kernel)
	if p.root >= 0 {
		kernel.Close(p.root)
		p.root = -1
	}
}
