package prep

import (
	"fmt"
	"sync"
)

// links counts the names that a walk found of files that are wrong and have
// several. A name may lie outside the tree, where a change would be seen too,
// so a file is changed only when the last of its names was found.
type links struct {
	mu    sync.Mutex
	files map[inodeIdentity]*linked
}

type linked struct {
	found, total uint32
	// path is the first name that was found.
	path string
}

func (l *links) init() { l.files = map[inodeIdentity]*linked{} }

// found counts a name, and tells whether it was the last.
func (l *links) found(id inodeIdentity, total uint32, path func() string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	file := l.files[id]
	if file == nil {
		file = &linked{path: path()}
		l.files[id] = file
	}
	file.found++
	file.total = total
	if file.found < total {
		return false
	}
	delete(l.files, id)
	return true
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
		w.refuse(file.path,
			fmt.Sprintf("%s, of which %d lie in %s: a change would show outside of it", linkWhy(uint64(file.total)), file.found, where), mend)
	}
}

func linkWhy(names uint64) string { return fmt.Sprintf("it has %d names (hard links)", names) }
