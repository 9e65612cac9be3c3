package prep

import (
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// folder is one directory that a contents walk is about: from when its name is
// read until all below it is finished, and then itself.
type folder struct {
	parent *folder
	name   string
	// id and mount are known once it was opened.
	id      inodeIdentity
	mount   uint64
	entered bool
	// pending counts what must end before the folder is finished: the reading
	// of it, pieces of it that others look at, and the folders below.
	pending atomic.Int32
	// spine: it has directories in it.
	spine atomic.Bool
	// unseen: it could not be looked into, and was told so.
	unseen atomic.Bool
	// left: it is not the walk's to finish.
	left     bool
	declared *declared
	partial  []partial

	// What follows belongs to the folderCache. fd is -1 while closed.
	fd         int
	pins       int
	prev, next *folder
}

// pathOf is an entry's path for messages.
func (w *walk) pathOf(f *folder, name []byte) string {
	size := len(name)
	for at := f; at.parent != nil; at = at.parent {
		size += len(at.name) + 1
	}
	path := make([]byte, len(w.RootPath)+1+size)
	end := len(path)
	put := func(component []byte) {
		end -= len(component)
		copy(path[end:], component)
	}
	put(name)
	for at := f; at.parent != nil; at = at.parent {
		if end < len(path) {
			put([]byte{'/'})
		}
		put([]byte(at.name))
	}
	if end < len(path) && w.RootPath != "/" {
		put([]byte{'/'})
	}
	put([]byte(w.RootPath))
	return string(path[end:])
}

// folderCache holds descriptors of folders under way, the least recently used
// closed first, so that neither depth nor width of a tree is bounded by the
// limit of open files. A folder that was closed is found again from the
// nearest one above it that is open, name by name, and must be the same inode.
// Such a walk leaves the descriptors of the folders that it came through, so
// the way back up from the bottom of a deep tree costs few of them.
type folderCache struct {
	w *walk
	// hands borrow what must be searched to open a folder again; mu guards them too.
	hands    *hands
	mu       sync.Mutex
	open     int
	capacity int
	// lru is the ring's head: next is the most recently used folder without a pin.
	lru folder
}

// descriptorShare is the part of the limit of open files that a cache may use,
// and all workers together for the entries of closed folders.
const descriptorShare = 4

func (c *folderCache) init(w *walk) {
	c.w = w
	c.hands = w.newHands()
	c.lru.prev, c.lru.next = &c.lru, &c.lru
	c.capacity, w.closedAtOnce = 256+4*w.jobs, closedMost
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		share := int(min(limit.Cur/descriptorShare, 1<<20))
		c.capacity = max(min(c.capacity, share), 16)
		w.closedAtOnce = max(min(w.closedAtOnce, share/w.jobs), 2)
	}
}

// put gives a folder its descriptor, with a pin if so asked.
func (c *folderCache) put(f *folder, fd int, pin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(f, fd)
	if pin {
		c.pin(f)
	}
}

func (c *folderCache) store(f *folder, fd int) {
	f.fd = fd
	c.open++
	c.link(f)
	for c.open > c.capacity && c.lru.prev != &c.lru && c.lru.prev != f {
		c.closeFolder(c.lru.prev)
	}
}

func (c *folderCache) link(f *folder) {
	f.prev, f.next = &c.lru, c.lru.next
	f.prev.next, f.next.prev = f, f
}

func (c *folderCache) unlink(f *folder) {
	f.prev.next, f.next.prev = f.next, f.prev
	f.prev, f.next = nil, nil
}

func (c *folderCache) pin(f *folder) {
	if f.pins == 0 {
		c.unlink(f)
	}
	f.pins++
}

func (c *folderCache) closeFolder(f *folder) {
	if f.prev != nil {
		c.unlink(f)
	}
	c.w.kernel.Close(f.fd)
	f.fd = -1
	c.open--
}

// acquire pins a folder's descriptor, and opens it again where it was closed.
func (c *folderCache) acquire(f *folder) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.fd < 0 {
		if err := c.reopen(f); err != nil {
			return -1, err
		}
	}
	c.pin(f)
	return f.fd, nil
}

func (c *folderCache) reopen(f *folder) error {
	var way []*folder
	at := f
	for ; at.fd < 0; at = at.parent {
		way = append(way, at)
	}
	for i := len(way) - 1; i >= 0; i-- {
		next := way[i]
		fd, err := c.hands.openFolder(at.fd, at, next.name)
		if err != nil {
			return err
		}
		var stat unix.Statx_t
		err = c.w.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, entryMask, &stat)
		if err == nil && next.entered && identityOf(&stat) != next.id {
			err = unix.ENOENT
		}
		if err != nil {
			c.w.kernel.Close(fd)
			return err
		}
		c.pin(at)
		c.store(next, fd)
		c.unpin(at)
		at = next
	}
	return nil
}

func (c *folderCache) unpin(f *folder) {
	f.pins--
	if f.pins == 0 {
		c.link(f)
	}
}

func (c *folderCache) release(f *folder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unpin(f)
}

// drop closes a folder for good.
func (c *folderCache) drop(f *folder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.fd >= 0 && f.parent != nil {
		c.closeFolder(f)
	}
}

// closeAll ends an interrupted walk.
func (c *folderCache) closeAll() {
	for f := c.lru.next; f != &c.lru; {
		next := f.next
		if f.parent != nil {
			c.w.kernel.Close(f.fd)
		}
		f = next
	}
}

// entryMask is what a walk asks of statx(2). It leaves out sizes and times of
// writing, which a network file system must fetch from whoever is writing.
const entryMask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_NLINK | unix.STATX_UID | unix.STATX_GID | unix.STATX_INO | unix.STATX_MNT_ID

// folderMask adds the access time, where a borrower's slip is.
const folderMask = entryMask | unix.STATX_ATIME

func identityOf(stat *unix.Statx_t) inodeIdentity {
	return inodeIdentity{dev: unix.Mkdev(stat.Dev_major, stat.Dev_minor), ino: stat.Ino}
}

// mountOf is the mount's id and, before Linux 5.8, which tells none, the device.
func mountOf(stat *unix.Statx_t) uint64 {
	if stat.Mask&unix.STATX_MNT_ID != 0 {
		return stat.Mnt_id
	}
	return unix.Mkdev(stat.Dev_major, stat.Dev_minor)
}

// stateOf is a state as far as statx(2) knows it.
func stateOf(stat *unix.Statx_t) State {
	return State{Type: fileType(stat.Mode), UID: stat.Uid, GID: stat.Gid, Mode: uint32(stat.Mode) & modeBits}
}

// plantRoot is the folder of the volume's root. Its descriptor stays the caller's.
func (w *walk) plantRoot() *folder {
	root := &folder{fd: w.Root, declared: w.declared, partial: w.exclude.start()}
	root.pending.Store(1)
	w.folders.mu.Lock()
	defer w.folders.mu.Unlock()
	w.folders.link(root)
	w.folders.pin(root)
	return root
}

// open opens one component below a directory, never through a link and, with
// one_file_system, never onto another mount: that is EXDEV.
func (w *walk) open(dir int, name string, flags int) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !w.withoutOpenat2.Load() {
		how := &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
		if w.Rules.OneFileSystem {
			how.Resolve |= unix.RESOLVE_NO_XDEV
		}
		fd, err := w.kernel.Openat2(dir, name, how)
		switch err {
		case unix.ENOSYS, unix.EINVAL, unix.E2BIG:
			w.withoutOpenat2.Store(true)
		case unix.EPERM:
			// A seccomp profile, or O_NOATIME on somebody else's directory:
			// openat(2) tells.
		case unix.EAGAIN:
			// A rename elsewhere raced the lookup (openat2(2)); one component
			// has no ".." to go wrong, so the plain way is as safe.
		default:
			return fd, err
		}
	}
	return w.kernel.Openat(dir, name, flags, 0)
}

// reading are the flags to read a directory without moving its access time,
// which CAP_FOWNER allows.
const reading = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOATIME

// openToRead opens a directory for getdents64(2).
func (w *walk) openToRead(dir int, name string) (int, error) {
	fd, err := w.open(dir, name, reading)
	if err == unix.EPERM {
		fd, err = w.open(dir, name, reading&^unix.O_NOATIME)
	}
	return fd, err
}

// openFolder opens a directory as O_PATH, and borrows the one that it is in
// where that may not be searched.
func (h *hands) openFolder(dir int, parent *folder, name string) (int, error) {
	fd, err := h.open(dir, name, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.EACCES {
		err = h.within(dir, parent, func() (err error) {
			fd, err = h.open(dir, name, unix.O_PATH|unix.O_DIRECTORY)
			return err
		})
	}
	return fd, err
}

// enter opens a folder and, where it is to be read, a descriptor to read it
// by, which may be the folder's own. The folder is left pinned if ok.
func (k *worker) enter(f *folder) (reader int, ok bool) {
	w := k.walk
	reader = -1
	if f.parent != nil && !w.folders.has(f) {
		dir, err := w.folders.acquire(f.parent)
		if err != nil {
			k.lost(f, err)
			return -1, false
		}
		fd, err := w.openToRead(dir, f.name)
		if err == nil {
			reader = fd
		} else if err == unix.EACCES {
			fd, err = k.hands.openFolder(dir, f.parent, f.name)
		}
		w.folders.release(f.parent)
		if err != nil {
			k.lost(f, err)
			return -1, false
		}
		w.folders.put(f, fd, true)
	} else if _, err := w.folders.acquire(f); err != nil {
		k.lost(f, err)
		return -1, false
	}
	if !k.meetFolder(f) {
		w.folders.release(f)
		return -1, false
	}
	if reader < 0 {
		reader = k.openReader(f)
	}
	return reader, true
}

// has tells whether a folder is open.
func (c *folderCache) has(f *folder) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.fd >= 0
}

// lost notes a folder that cannot be opened.
func (k *worker) lost(f *folder, err error) {
	f.left = true
	switch err {
	case unix.EXDEV:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ESTALE:
		k.vanished.Add(1)
	case unix.EACCES:
		k.unseen(f.parent)
	default:
		k.fail(k.pathOf(f, nil), "opening the directory", err, State{Type: fs.ModeDir})
	}
}

// unseen notes, once, a folder that could not be looked into.
func (w *walk) unseen(f *folder) {
	if !f.unseen.Swap(true) {
		w.opaque(w.pathOf(f, nil))
	}
}

// meetFolder looks at a folder that was opened, and tells whether it is to be walked into.
func (k *worker) meetFolder(f *folder) bool {
	stat := &k.stat
	if err := k.kernel.Statx(f.fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, folderMask, stat); err != nil {
		k.lost(f, err)
		return false
	}
	id := identityOf(stat)
	if f.entered && id != f.id {
		k.lost(f, unix.ENOENT)
		return false
	}
	f.id, f.mount, f.entered = id, mountOf(stat), true
	if f.parent != nil && k.Rules.OneFileSystem && f.mount != f.parent.mount {
		k.lost(f, unix.EXDEV)
		return false
	}
	if f.name == StagingName && (stat.Uid == 0 || stat.Uid == k.caller.UID) {
		f.left = true
		return false
	}
	k.scannedHere++
	return k.hands.returnOrphan(f, stat)
}

// openReader opens a folder, of which there is an O_PATH descriptor, for
// reading; -1 is that it cannot, or need not, be looked into.
func (k *worker) openReader(f *folder) int {
	fd, err := k.openToRead(f.fd, ".")
	if err == unix.EACCES {
		if k.Contents.Borrow == BorrowOnMismatch && !k.differsFolder(f) {
			return -1
		}
		err = k.hands.within(f.fd, f, func() (err error) {
			fd, err = k.openToRead(f.fd, ".")
			return err
		})
	}
	switch err {
	case nil:
		return fd
	case unix.EACCES:
		k.unseen(f)
	default:
		k.fail(k.pathOf(f, nil), "opening the directory", err, State{Type: fs.ModeDir})
	}
	return -1
}
