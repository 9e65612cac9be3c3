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

// changedLast is a file's ctime and number of names, as soon as that ctime is
// older than a tick of its clock. A file that is changed over and over is not settled.
func (k *worker) changedLast(fd int) (changed Moment, names uint32, settled bool, err error) {
	for range roundsOfChange {
		var stat unix.Statx_t
		if err := k.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_CTIME|unix.STATX_NLINK, &stat); err != nil {
			return Moment{}, 0, false, err
		}
		changed, names = Moment{Sec: stat.Ctime.Sec, Nsec: int64(stat.Ctime.Nsec)}, stat.Nlink
		since := time.Since(time.Unix(changed.Sec, changed.Nsec))
		if since < 0 || since > clockTick {
			// A server's clock may be ahead of ours; it is compared with itself alone.
			return changed, names, true, nil
		}
		time.Sleep(clockTick - since + time.Millisecond)
	}
	return changed, names, false, nil
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
