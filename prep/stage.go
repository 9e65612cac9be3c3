package prep

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// New directories are made in a staging directory beside their place, closed
// to everybody but uid 0, finished there, children first, and put into place
// by one rename. So nobody ever meets one that is half made, a run that is
// killed leaves none, and no order of calls in there can let anybody in. The
// owner of the topmost comes last, after the rename, for a directory of
// somebody else cannot be renamed into another parent (rename(2), EACCES).
//
// The staging directory has one fixed name, so that a later run finds what a
// killed one left behind by a single lookup and without reading the parent.
// Two runs at once share it: each makes its own entries, whoever is done first
// takes all of it away, and the other finds its directories made or begins anew.

// StagingName is the name of the staging directory.
const StagingName = ".volprep"

// stagedPrefix begins the name of everything that is made in there.
const stagedPrefix = "new-"

// errStagingForeign: something that is not ours has the staging directory's name.
var errStagingForeign = errors.New("something else has the name of volprep's staging directory")

// stage opens, or makes, the staging directory in a directory. The caller has
// seen to it that names can be made there.
func (e *engine) stage(dir int) (int, error) {
	if err := e.kernel.Mkdirat(dir, StagingName, 0o700); err != nil && err != unix.EEXIST {
		return -1, err
	}
	return e.openStage(dir)
}

// openStage opens the staging directory of a directory; ENOENT where there is none.
func (e *engine) openStage(dir int) (int, error) {
	fd, err := e.walker.below(dir, StagingName)
	if err != nil {
		return -1, err
	}
	err = e.closeOff(fd)
	if err != nil {
		e.kernel.Close(fd)
		return -1, err
	}
	return fd, nil
}

// closeOff takes from a staging directory what it inherited: setgid, a group
// and a default ACL would pass on to what is made in it.
func (e *engine) closeOff(fd int) error {
	info, err := look(e.kernel, fd)
	if err != nil {
		return err
	}
	if info.Type != fs.ModeDir || info.UID != e.caller.UID || info.StatMode()&0o077 != 0 {
		return fmt.Errorf("%w (%s, %s)", errStagingForeign, typeName(info.Type), info.State)
	}
	want := State{Type: fs.ModeDir, UID: e.caller.UID, GID: e.caller.GID, Mode: 0o700}
	return e.become(fd, want, orderOptions{sheltered: true})
}

// stagedName is a name that no other run uses.
func stagedName() string {
	var random [8]byte
	// getrandom(2) itself: crypto/rand would add a thirtieth to the binary for
	// secrecy that a name does not need.
	if _, err := unix.Getrandom(random[:], 0); err != nil {
		binary.LittleEndian.PutUint64(random[:], uint64(time.Now().UnixNano()))
	}
	return stagedPrefix + hex.EncodeToString(random[:])
}

// build makes the missing children of a directory whose finished state will
// be parent, and prepares those that appear meanwhile.
func (e *engine) build(n *node, dir int, parent State, missing []*node) {
	for _, child := range missing {
		if e.interrupted(child) {
			return
		}
		e.place(n, dir, parent, child)
	}
	err := e.within(dir, n.path, n.ownerNamed(), func() error { return e.unstage(dir) })
	if err != nil && !(err == unix.ENOENT && !e.exists(dir, StagingName)) {
		e.fail(n, e.failed(n.path+"/"+StagingName, "removing the staging directory", err, nil))
	}
}

// place makes one missing child, with all below it, and puts it into place.
func (e *engine) place(n *node, dir int, parent State, child *node) {
	var err error
	for range attempts {
		var fd int
		if fd, err = e.grow(n, dir, parent, child); err == nil {
			e.finish(child, fd, child.born(parent, e.caller), true)
			e.kernel.Close(fd)
			return
		}
		if err == unix.EEXIST {
			fd, err = -1, nil
			err = e.within(dir, n.path, n.ownerNamed(), func() (err error) {
				fd, err = e.walker.below(dir, child.name)
				return err
			})
			if err == nil {
				e.prepare(child, fd)
				e.kernel.Close(fd)
				return
			}
			e.closeAny(fd)
		}
		// ENOENT: another run has cleared the staging directory away.
		if err != unix.ENOENT {
			break
		}
	}
	e.fail(child, e.failed(child.path, "making the directory", err, &parent))
}

// grow makes a child in the staging directory and renames it into place.
func (e *engine) grow(n *node, dir int, parent State, child *node) (fd int, err error) {
	stage := -1
	if err := e.within(dir, n.path, n.ownerNamed(), func() (err error) {
		stage, err = e.stage(dir)
		return err
	}); err != nil {
		e.closeAny(stage)
		return -1, err
	}
	defer e.kernel.Close(stage)
	name := stagedName()
	born := child.born(parent, e.caller)
	fd, err = e.seedling(child, stage, name, born, e.staged(born))
	if err == nil {
		err = e.within(dir, n.path, n.ownerNamed(), func() error { return e.renameNew(stage, name, dir, child.name) })
		if err == nil {
			return fd, nil
		}
		e.kernel.Close(fd)
	}
	if razeErr := e.raze(stage, name); razeErr != nil && razeErr != unix.ENOENT {
		err = errors.Join(err, razeErr)
	}
	return -1, err
}

// staged is a directory's state until it is in its place: still the caller's
// and, as moving it changes its "..", writable (rename(2)).
func (e *engine) staged(born State) State {
	born.UID = e.caller.UID
	return withOwnerDigit(born, ownerDigit(born.Mode)|2)
}

// closeAny closes a descriptor, if it is one.
func (e *engine) closeAny(fd int) {
	if fd >= 0 {
		e.kernel.Close(fd)
	}
}

// renameNew renames without ever replacing anything.
func (e *engine) renameNew(fromDir int, from string, toDir int, to string) error {
	err := e.kernel.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	// NFS and some FUSE file systems know no flags. Without them a directory
	// can replace nothing but an empty directory (rename(2)).
	if e.exists(toDir, to) {
		return unix.EEXIST
	}
	return e.kernel.Renameat2(fromDir, from, toDir, to, 0)
}

// seedling makes one directory of a new subtree, its children, and then
// itself finished as wanted. born is what its own children inherit from.
func (e *engine) seedling(n *node, dir int, name string, born, want State) (int, error) {
	if err := e.kernel.Mkdirat(dir, name, 0o700); err != nil {
		return -1, err
	}
	fd, err := e.walker.below(dir, name)
	if err != nil {
		return -1, err
	}
	for _, child := range n.children {
		if child.only() == spec.OnlyExisting || e.interrupted(child) {
			continue
		}
		state := child.born(born, e.caller)
		below, err := e.seedling(child, fd, child.name, state, state)
		if err == unix.ENOENT {
			e.kernel.Close(fd)
			return -1, err
		}
		if err != nil {
			e.fail(child, e.failed(child.path, "making the directory", err, &state))
			e.raze(fd, child.name)
			continue
		}
		e.kernel.Close(below)
		e.made(child, state)
	}
	if err := e.become(fd, want, orderOptions{sheltered: true}); err != nil {
		e.kernel.Close(fd)
		return -1, err
	}
	return fd, nil
}

// unstage takes the staging directory away, with whatever a killed run left in it.
func (e *engine) unstage(dir int) error {
	var stat unix.Statx_t
	err := e.kernel.Statx(dir, StagingName, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stat)
	if err == unix.ENOENT || err == unix.EACCES {
		return err
	}
	err = e.kernel.Unlinkat(dir, StagingName, unix.AT_REMOVEDIR)
	for try := 0; err == unix.ENOTEMPTY && try < attempts; try++ {
		stage, openErr := e.openStage(dir)
		if openErr != nil {
			return openErr
		}
		names, listErr := e.names(stage)
		for _, name := range names {
			if strings.HasPrefix(name, stagedPrefix) {
				if err := e.raze(stage, name); err != nil && err != unix.ENOENT {
					listErr = errors.Join(listErr, err)
				}
			}
		}
		e.kernel.Close(stage)
		if listErr != nil {
			return listErr
		}
		err = e.kernel.Unlinkat(dir, StagingName, unix.AT_REMOVEDIR)
	}
	return err
}

// raze removes a tree of directories in a staging directory. It removes
// nothing but empty directories, so nothing else can be lost by it.
func (e *engine) raze(dir int, name string) error {
	err := e.kernel.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if err != unix.ENOTEMPTY && err != unix.EACCES {
		return err
	}
	fd, err := e.walker.below(dir, name)
	if err != nil {
		return err
	}
	defer e.kernel.Close(fd)
	if err := e.kernel.Fchownat(fd, int(e.caller.UID), int(e.caller.GID)); err != nil {
		return err
	}
	if err := e.kernel.Fchmod(fd, 0o700); err != nil {
		return err
	}
	names, err := e.names(fd)
	if err != nil {
		return err
	}
	for _, below := range names {
		if err := e.raze(fd, below); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return e.kernel.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// names lists a directory of the staging area, which is small.
func (e *engine) names(dir int) ([]string, error) {
	fd, err := e.walker.reader(dir)
	if err != nil {
		return nil, err
	}
	defer e.kernel.Close(fd)
	var names []string
	buffer := make([]byte, 4096)
	for {
		n, err := e.kernel.Getdents(fd, buffer)
		if err != nil || n == 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}
