package prep

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readSize is how much of a directory is read at once, in bytes.
	readSize = 32 << 10
	// pieceEntries bounds the entries of a piece, the unit that one worker
	// gives to another. Where many wait, as on a network file system, pieces
	// are smaller.
	pieceEntries = 64
	// entrySize is about what an entry takes in the buffer.
	entrySize = 48
	// foldersAtOnce is how many folders a worker finds in one directory
	// before it goes into them and leaves the rest of the directory unread.
	foldersAtOnce = 256
	// suspendedAtOnce bounds the directories that a worker leaves half read,
	// for each of them holds a descriptor.
	suspendedAtOnce = 64
)

// worker is one of a walk's workers.
type worker struct {
	*walk
	hands  *hands
	buffer []byte
	// folders to be walked into, the latest last: the worker goes on with
	// that one, and gives the oldest, which is nearest to the root and
	// mostly has the most below it, to a worker that waits.
	folders []*folder
	// given counts folders that were given away.
	given     int
	suspended int
	// scannedHere is not yet in the walk's count.
	scannedHere int64
	// wrongInARow counts the wrong entries since the last that was right.
	wrongInARow int
	stat        unix.Statx_t
	// key and value hold what an entry looks like; see verdict.go.
	key, value []byte
	verdicts   map[string]*verdict
}

// task is what a worker gives to another: a folder or, where piece is set,
// some entries of one, which is pinned.
type task struct {
	folder *folder
	piece  []byte
}

// queue is where workers that have work leave some for those that have none.
type queue struct {
	mu      sync.Mutex
	cond    sync.Cond
	tasks   []task
	workers int
	waiting int
	over    bool
	// wanted is how many workers wait for which there is no task as yet. It
	// is read without the lock: whoever finds it above 0 has a closer look.
	wanted atomic.Int32
	pieces sync.Pool
}

func (q *queue) init(workers int) {
	q.cond.L = &q.mu
	q.workers = workers
	q.pieces.New = func() any { return new([readSize]byte) }
}

// offer leaves tasks for workers that wait.
func (q *queue) offer(tasks ...task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tasks = append(q.tasks, tasks...)
	q.wanted.Store(int32(q.waiting - len(q.tasks)))
	for range tasks {
		q.cond.Signal()
	}
}

// take waits for a task; without one, all is done.
func (q *queue) take() (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting++
	for len(q.tasks) == 0 {
		if q.waiting == q.workers || q.over {
			q.over = true
			q.cond.Broadcast()
			return task{}, false
		}
		q.wanted.Store(int32(q.waiting))
		q.cond.Wait()
	}
	q.waiting--
	last := len(q.tasks) - 1
	t := q.tasks[last]
	q.tasks[last] = task{}
	q.tasks = q.tasks[:last]
	q.wanted.Store(int32(q.waiting - len(q.tasks)))
	return t, true
}

// run walks the tree with all workers.
func (w *walk) run(root *folder) {
	w.queue.offer(task{folder: root})
	var workers sync.WaitGroup
	for range w.jobs {
		workers.Go(func() { w.newWorker().work() })
	}
	workers.Wait()
}

func (w *walk) newWorker() *worker {
	return &worker{walk: w, hands: w.newHands(), buffer: make([]byte, readSize), value: make([]byte, 512), verdicts: map[string]*verdict{}}
}

func (w *walk) stopped() bool { return w.ctx.Err() != nil }

func (k *worker) work() {
	for {
		t, ok := k.queue.take()
		if !ok {
			return
		}
		if t.piece == nil {
			k.walkFolder(t.folder)
		} else {
			k.entries(t.folder, t.folder.fd, t.piece)
			k.queue.pieces.Put((*[readSize]byte)(t.piece[:readSize]))
			k.walk.folders.release(t.folder)
			k.done(t.folder)
		}
		for len(k.folders) > 0 {
			k.walkFolder(k.pop())
		}
		k.flush()
	}
}

func (k *worker) pop() *folder {
	last := len(k.folders) - 1
	f := k.folders[last]
	k.folders[last] = nil
	k.folders = k.folders[:last]
	return f
}

// share gives the older half of the worker's folders to those that wait.
func (k *worker) share() {
	n := min(int(k.queue.wanted.Load()), (len(k.folders)+1)/2)
	if n <= 0 {
		return
	}
	tasks := make([]task, n)
	for i, f := range k.folders[:n] {
		tasks[i] = task{folder: f}
	}
	kept := copy(k.folders, k.folders[n:])
	clear(k.folders[kept:])
	k.folders = k.folders[:kept]
	k.given += n
	k.queue.offer(tasks...)
}

func (k *worker) flush() {
	if k.scannedHere > 0 {
		k.scanned.Add(k.scannedHere)
		k.scannedHere = 0
	}
}

// walkFolder reads a folder and looks at what is in it. The folders below are
// left for later.
func (k *worker) walkFolder(f *folder) {
	if k.stopped() {
		return
	}
	reader, ok := k.enter(f)
	if !ok {
		k.done(f)
		return
	}
	if reader >= 0 {
		k.read(f, reader)
		if reader != f.fd {
			k.kernel.Close(reader)
		}
	}
	k.walk.folders.release(f)
	k.done(f)
}

func (k *worker) read(f *folder, reader int) {
	for !k.stopped() {
		n, err := k.kernel.Getdents(reader, k.buffer)
		if err != nil {
			k.fail(k.pathOf(f, nil), "reading the directory", err, State{})
			return
		}
		if n == 0 {
			return
		}
		floor := k.given + len(k.folders)
		k.piece(f, k.buffer[:n])
		k.share()
		if k.given+len(k.folders)-floor < foldersAtOnce || k.suspended >= suspendedAtOnce {
			continue
		}
		k.suspended++
		for len(k.folders) > 0 && k.given+len(k.folders) > floor {
			k.walkFolder(k.pop())
		}
		k.suspended--
	}
}

// piece looks at the entries of a piece of a directory, and gives some of them
// to workers that wait.
func (k *worker) piece(f *folder, entries []byte) {
	for len(entries) > 0 && !k.stopped() {
		size, share := 0, pieceEntries
		if waiting := int(k.queue.wanted.Load()); waiting > 0 {
			share = min(max(len(entries)/entrySize/(waiting+1), 1), pieceEntries)
		}
		for n := 0; n < share && size < len(entries); n++ {
			size += int(dirent(entries[size:]).length())
		}
		some := entries[:size]
		entries = entries[size:]
		if len(entries) > 0 && k.queue.wanted.Load() > 0 {
			room := k.queue.pieces.Get().(*[readSize]byte)
			f.pending.Add(1)
			k.walk.folders.repin(f)
			k.queue.offer(task{folder: f, piece: room[:copy(room[:], some)]})
			continue
		}
		k.entries(f, f.fd, some)
		k.flush()
	}
}

// repin pins a folder that is pinned already once more.
func (c *folderCache) repin(f *folder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pin(f)
}

// done ends one of the things that a folder waits for. The last of them
// finishes the folder, and so what is above it.
func (k *worker) done(f *folder) {
	for f != nil && f.pending.Add(-1) == 0 {
		if !k.stopped() {
			k.finish(f)
		}
		k.walk.folders.drop(f)
		f = f.parent
	}
}

// dirent is one entry of getdents64(2): inode and offset of 64 bits, a length
// of 16, a type of 8, and the name, ended by a NUL.
type dirent []byte

const (
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

func (d dirent) length() uint16 {
	return *(*uint16)(unsafe.Pointer(&d[direntLength]))
}

func (d dirent) kind() byte { return d[direntType] }

// name is the entry's name without its NUL, which stays behind it in memory.
func (d dirent) name() []byte {
	name := d[direntName:d.length()]
	n := 0
	for name[n] != 0 {
		n++
	}
	return name[:n]
}

func isDot(name []byte) bool {
	return name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.')
}
