package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The floors are what is left of a walk when only the calls remain without
// which nobody could do the work through descriptors, by programs that know
// all names beforehand, keep no order and need no answers. The plain floor is
// the changes alone; the careful one looks before a change, so that it is of the
// inode that was looked at, and reads back. What a walk takes beyond the
// careful floor is ours, the rest is the kernel's.

// nearness is how far above the careful floor of its own run a walk may be
// where the floor itself is above the bound.
const nearness = 1.5

// names lists a tree's files, folder by folder.
func (at tree) names(t testing.TB) map[string][]string {
	t.Helper()
	names := map[string][]string{}
	folders, err := os.ReadDir(at.root)
	must(t, err)
	for _, folder := range folders {
		path := filepath.Join(at.root, folder.Name())
		files, err := os.ReadDir(path)
		must(t, err)
		for _, file := range files {
			names[path] = append(names[path], file.Name())
		}
	}
	return names
}

// floor runs a call for each file, by jobs workers, each with folders of its own.
func floor(t testing.TB, names map[string][]string, jobs int, call func(dir int, name string) error) {
	t.Helper()
	type piece struct {
		folder string
		names  []string
		// list: the folder is read too.
		list bool
	}
	var pieces []piece
	for folder, files := range names {
		for list := true; len(files) > 0; list = false {
			n := min(len(files), max(len(files)/jobs, 4))
			pieces = append(pieces, piece{folder, files[:n], list})
			files = files[n:]
		}
	}
	work := make(chan piece, len(pieces))
	for _, p := range pieces {
		work <- p
	}
	close(work)
	var workers sync.WaitGroup
	for range jobs {
		workers.Go(func() {
			for p := range work {
				dir, err := unix.Open(p.folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err == nil && p.list {
					_, err = os.ReadDir(p.folder)
				}
				for _, name := range p.names {
					if err == nil {
						err = call(dir, name)
					}
				}
				unix.Close(dir)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
}

// looks is one statx(2).
func looks(dir int, name string) error {
	var stat unix.Statx_t
	return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID, &stat)
}

// changes opens, changes ids and mode, and the ACL if there is one, and closes.
func changes(acl []byte) func(dir int, name string) error {
	return changing(acl, func(int) error { return nil })
}

// carefulChanges looks, at the ACL too where there is one, before and after.
func carefulChanges(acl []byte) func(dir int, name string) error {
	return changing(acl, func(fd int) error {
		var stat unix.Statx_t
		err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID, &stat)
		if err != nil || acl == nil {
			return err
		}
		var value [512]byte
		if _, err = unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), "system.posix_acl_access", value[:]); err == unix.ENODATA {
			return nil
		}
		return err
	})
}

func changing(acl []byte, look func(fd int) error) func(dir int, name string) error {
	return func(dir int, name string) error {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := look(fd); err != nil {
			return err
		}
		if err := unix.Fchownat(fd, "", rightOwner, rightGroup, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
		if acl == nil {
			err = unix.Fchmodat(fd, "", 0o640, unix.AT_EMPTY_PATH)
		} else {
			err = unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), "system.posix_acl_access", acl, 0)
		}
		if err != nil {
			return err
		}
		return look(fd)
	}
}
