package prep

import (
	"context"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Contents is a walk over what already lies in a volume: each entry that
// differs from the rules is changed, and no other.
//
// An entry that is right costs one statx(2) by its name in an open directory.
// Whatever needs a change is opened with O_PATH|O_NOFOLLOW, looked at again,
// and changed through that descriptor alone. Directories come after what is
// in them, the root last of all, so that a root that is right says that a walk
// came to its end. No name outlives the piece of its directory that it was
// read in, but for the names of directories under way.
//
// Where the rules name no access ACL, a file's mode is compared and changed as
// chmod(1) does it: the group digit is then the mask's, for a file that has an
// ACL. Looking for one would double the cost of every entry that is right.
type Contents struct {
	// Kernel is the seam; nil is the real one.
	Kernel Kernel
	// Root is a descriptor of the volume's root; O_PATH is enough. It stays the caller's.
	Root int
	// RootPath names the root in messages and is used for nothing else.
	RootPath string
	Rules    spec.Contents
	// Umask counts for a symbolic mode that names no class (chmod(1)).
	Umask uint32
	// Declared are the paths, relative to the root, of the directories that
	// the layout lists. They are walked into, and keep what they have; "." is the root.
	Declared []string
	// RootRight: the root is declared, and is as it is declared. It counts for
	// when: root-mismatch; a root that is not declared is looked at by the walk.
	RootRight bool
	// ReadOnly counts what is wrong and changes nothing.
	ReadOnly bool
	// Jobs is the number of workers; less than 1 is 1.
	Jobs int
	// Shard is this process's part of Count; a Count below 2 is the whole.
	Shard, Count int
	// Caller is this process; nil asks the kernel.
	Caller *Caller
	// Borrow says when a directory that cannot be looked into is borrowed.
	Borrow Borrow
	// Log gets what the engine says of borrows.
	Log zerolog.Logger
	// Progress is called every ProgressEvery (a second, where zero) from a goroutine of its own.
	Progress      func(ContentsProgress)
	ProgressEvery time.Duration
	// Entry is called for each entry that is wrong (ReadOnly) or was
	// changed, by one worker at a time. It makes a walk slower.
	Entry func(path string, have, want State)
}

// ContentsProgress is how far a walk has come.
type ContentsProgress struct {
	Scanned, Changed, Failed int64
}

// ContentsResult is what a walk saw and did. Its lists hold the first
// [ContentsListed] of what its counts count.
type ContentsResult struct {
	// Scanned counts entries that were looked at; Changed those that were
	// changed, or in a read-only walk would be.
	Scanned, Changed int64
	// RootRight: nothing was walked, for the rules say root-mismatch and the root is right.
	RootRight bool
	// Refused are entries that it would be unsafe to change.
	Refused      []Refusal
	RefusedCount int64
	Failed       []ContentsFailure
	FailedCount  int64
	// Vanished counts entries that were removed, or replaced, while the walk looked.
	Vanished int64
	// ClearedSetid and ClearedCapabilities count files whose set-id bits or
	// file capabilities a change of owner cleared (chown(2)); Cleared are paths of such files.
	ClearedSetid, ClearedCapabilities int64
	Cleared                           []string
	// Opaque are directories that could not be looked into.
	Opaque      []string
	OpaqueCount int64
	// Borrows counts directories that were borrowed, each time.
	Borrows int64
}

// ContentsListed bounds the lists of a [ContentsResult].
const ContentsListed = 100

// Refusal is an entry that a walk left as it is, for its own reasons: the
// run's exit class is [ClassRefused].
type Refusal struct {
	Path, Why, Mend string
}

// ContentsFailure is an entry that could not be changed, or looked at.
type ContentsFailure struct {
	Path, Doing string
	Err         error
	// Have is the state of the entry, as far as it is known.
	Have State
}

// Error is one line.
func (f ContentsFailure) Error() string {
	return fmt.Sprintf("%s: %s: %v", printable(f.Path), f.Doing, f.Err)
}

// Unwrap is the kernel's answer.
func (f ContentsFailure) Unwrap() error { return f.Err }

// Walk goes through the tree. Its error is that the root could not be opened,
// or the context's; what happened to single entries is in the result, which
// holds what was done even where there is an error.
func (c *Contents) Walk(ctx context.Context) (ContentsResult, error) {
	w := c.prepare(ctx)
	defer w.folders.closeAll()
	root := w.plantRoot()
	if c.Rules.When == spec.WhenRootMismatch && c.Count < 2 {
		right, err := w.rootRight(root)
		if err != nil || right {
			return ContentsResult{RootRight: right}, err
		}
	}
	// A worker that waits in a system call keeps its processor until the
	// runtime's monitor takes it away: 20 µs later where no processor is idle,
	// with a switch of threads each time, and 10 ms later where one is. With
	// one for each worker and one idle nobody waits, and hardly any is taken.
	if before := runtime.GOMAXPROCS(0); w.jobs >= before {
		runtime.GOMAXPROCS(w.jobs + 1)
		defer runtime.GOMAXPROCS(before)
	}
	stop := w.reportProgress()
	w.run(root)
	stop()
	w.settleLinks()
	return w.result(), context.Cause(ctx)
}

// walk is a Contents under way.
type walk struct {
	*Contents
	ctx     context.Context
	kernel  Kernel
	caller  Caller
	jobs    int
	rule    *rule
	exclude *exclusions
	shard   shard
	folders folderCache
	queue   queue
	links   links
	// closedAtOnce is how many entries of a closed folder are opened in one borrow.
	closedAtOnce int
	// declared is the tree of declared directories; nil for none.
	declared *declared
	// withoutOpenat2 is set for good once openat2(2) turns out to be unknown.
	withoutOpenat2 atomic.Bool

	scanned, changed, vanished, failures, refusals, borrows atomic.Int64

	// borrowing is held by the one worker that borrows just now.
	borrowing sync.Mutex
	// mu guards what is told to the caller.
	mu   sync.Mutex
	told ContentsResult
}

func (c *Contents) prepare(ctx context.Context) *walk {
	w := &walk{Contents: c, ctx: ctx, kernel: c.Kernel, jobs: max(c.Jobs, 1)}
	if w.kernel == nil {
		w.kernel = System()
	}
	if c.Caller != nil {
		w.caller = *c.Caller
	} else {
		w.caller = CurrentCaller()
	}
	w.rule = newRule(&c.Rules, c.Umask)
	w.exclude = newExclusions(c.Rules.Exclude)
	w.shard = shard{index: c.Shard, count: c.Count}
	w.declared = newDeclared(c.Declared)
	w.folders.init(w)
	w.queue.init(w.jobs)
	w.links.init()
	return w
}

func (w *walk) reportProgress() (stop func()) {
	if w.Progress == nil {
		return func() {}
	}
	every := w.ProgressEvery
	if every <= 0 {
		every = time.Second
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				w.Progress(w.progress())
			case <-done:
				w.Progress(w.progress())
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (w *walk) progress() ContentsProgress {
	return ContentsProgress{Scanned: w.scanned.Load(), Changed: w.changed.Load(), Failed: w.failures.Load()}
}

func (w *walk) result() ContentsResult {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.told
	r.Scanned, r.Changed, r.Vanished = w.scanned.Load(), w.changed.Load(), w.vanished.Load()
	r.FailedCount, r.RefusedCount, r.Borrows = w.failures.Load(), w.refusals.Load(), w.borrows.Load()
	return r
}

// listed adds to one of the result's lists while there is room.
func listed[T any](list []T, item T) []T {
	if len(list) < ContentsListed {
		list = append(list, item)
	}
	return list
}

func (w *walk) fail(path, doing string, err error, have State) {
	if err == unix.ENOENT || err == unix.ESTALE {
		w.vanished.Add(1)
		return
	}
	w.failures.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.Failed = listed(w.told.Failed, ContentsFailure{Path: path, Doing: doing, Err: err, Have: have})
}

func (w *walk) refuse(path, why, mend string) {
	w.refusals.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.Refused = listed(w.told.Refused, Refusal{Path: path, Why: why, Mend: mend})
}

func (w *walk) opaque(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told.OpaqueCount++
	w.told.Opaque = listed(w.told.Opaque, path)
}

// cleared notes what a change of owner took from a file.
func (w *walk) cleared(path string, setid, capabilities bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if setid {
		w.told.ClearedSetid++
	}
	if capabilities {
		w.told.ClearedCapabilities++
	}
	w.told.Cleared = listed(w.told.Cleared, path)
}

// differs notes an entry that was changed, or in a read-only walk is wrong.
func (w *walk) differs(folder *folder, name []byte, have, want State) {
	w.changed.Add(1)
	if w.Entry == nil {
		return
	}
	path := w.pathOf(folder, name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Entry(path, have, want)
}

// rootRight tells whether the root is as the rules, or the layout, want it.
func (w *walk) rootRight(root *folder) (bool, error) {
	if w.declared != nil && w.declared.listed {
		return w.RootRight, nil
	}
	info, err := look(w.kernel, root.fd)
	if err != nil {
		return false, fmt.Errorf("%s: looking at the volume's root: %w", printable(w.RootPath), err)
	}
	if info.Type != fs.ModeDir {
		return false, fmt.Errorf("%s: looking at the volume's root: %w", printable(w.RootPath), unix.ENOTDIR)
	}
	return info.equal(w.rule.wanted(info.State)), nil
}
