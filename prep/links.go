package prep

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// links counts the names that a walk found of files that are wrong and have
// several. A name may lie outside the tree, where a change would be seen too,
// so a file is changed only when the last of its names was found.
//
// Whoever owns the tree could show one name twice, by renaming it between two
// looks. But a rename, a link and an unlink change the file's ctime
// (rename(2) in ext4, xfs, btrfs and tmpfs), so names that were found with one
// and the same ctime were all there at once.
type links struct {
	mu    sync.Mutex
	files map[inodeIdentity]*linked
}

type linked struct {
	names   map[sighting]bool
	total   uint32
	changed Moment
	// restless: its names were changed while the walk looked.
	restless bool
	// path is the first name that was found.
	path string
}

// sighting is a name in a directory, which stays the same when directories are moved.
type sighting struct {
	folder inodeIdentity
	name   string
}

func (l *links) init() { l.files = map[inodeIdentity]*linked{} }

// found notes a name, and tells whether it was the last. settled: the ctime is
// so old that a change from now on would show in it.
func (l *links) found(id inodeIdentity, total uint32, changed Moment, settled bool, at sighting, path string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	file := l.files[id]
	if file == nil {
		file = &linked{names: map[sighting]bool{}, total: total, changed: changed, path: path}
		l.files[id] = file
	}
	file.names[at] = true
	file.restless = file.restless || !settled || file.changed != changed || file.total != total
	if file.restless || uint32(len(file.names)) < total {
		return false
	}
	delete(l.files, id)
	return true
}

// clockTick is how coarse the clock of ctimes may be, before Linux 6.13 gave
// them a fine one: a jiffy, which is 10 ms at most, and as much again.
const clockTick = 20 * time.Millisecond

// longAgo is an age of a ctime at which nobody can have moved the file since
// it was opened a moment ago, whatever a server's clock says.
const longAgo = time.Hour

// namesOf tells how many names the file behind a descriptor has, and since
// when, once it is known that the name by which it was opened is one of them.
// Between the opening and the look at the file its owner can take that name
// away, so that the names which are left all lie elsewhere. there is false
// where he did, or where the name is another file's by now.
func (k *worker) namesOf(f *folder, name []byte, fd int) (changed Moment, names uint32, settled, there bool, err error) {
	stat := k.stat
	for range roundsOfChange {
		changed, names = ctimeOf(&stat), stat.Nlink
		age := time.Since(time.Unix(changed.Sec, changed.Nsec))
		if age > longAgo {
			return changed, names, true, true, nil
		}
		if age < 0 || age > clockTick {
			// A server's clock may be ahead of ours; it is compared with itself alone.
			var named unix.Statx_t
			err := k.statName(f, name, &named)
			if err == unix.ENOENT {
				return changed, names, true, false, nil
			}
			if err != nil || identityOf(&named) != identityOf(&stat) {
				return changed, names, true, false, err
			}
			if ctimeOf(&named) == changed && named.Nlink == names {
				return changed, names, true, true, nil
			}
		} else {
			time.Sleep(clockTick - age + time.Millisecond)
		}
		if err := k.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, namesMask, &stat); err != nil {
			return changed, names, false, false, err
		}
	}
	return changed, names, false, true, nil
}

// namesMask is what is asked of a file whose names count.
const namesMask = unix.STATX_INO | unix.STATX_NLINK | unix.STATX_CTIME

func ctimeOf(stat *unix.Statx_t) Moment {
	return Moment{Sec: stat.Ctime.Sec, Nsec: int64(stat.Ctime.Nsec)}
}

// statName looks at a name in a folder, and borrows the folder where it is closed.
func (k *worker) statName(f *folder, name []byte, stat *unix.Statx_t) error {
	look := func() error {
		return k.kernel.StatxName(f.fd, &name[0], unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, namesMask, stat)
	}
	err := look()
	if err == unix.EACCES {
		err = k.hands.within(f.fd, f, look)
	}
	return err
}

// settleLinks refuses the files of which names are missing.
func (w *walk) settleLinks() {
	if w.stopped() {
		return
	}
	where, mend := "the walked tree", "remove the other names, replace the file by a copy, or say hardlinks: change"
	if w.shard.count > 1 {
		// Nobody tells a shard what the others found.
		where, mend = "this shard's directories", "walk once without --shard, which finds all names, or say hardlinks: change"
	}
	for _, file := range w.links.files {
		if file.restless {
			w.refuse(file.path, linkWhy(uint64(file.total))+", which were changed while the walk looked for them", "run again when nobody changes them")
			continue
		}
		w.refuse(file.path,
			fmt.Sprintf("%s, of which %d lie in %s: a change would show outside of it", linkWhy(uint64(file.total)), len(file.names), where), mend)
	}
}

func linkWhy(names uint64) string { return fmt.Sprintf("it has %d names (hard links)", names) }
