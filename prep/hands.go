package prep

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// hands is how a contents walk acts on directories: by the engine's own
// orders, borrows and slips. An engine is for one goroutine, so each worker
// has hands of its own.
type hands struct {
	*walk
	engine *engine
}

func (w *walk) newHands() *hands {
	return &hands{walk: w, engine: newEngine(w.ctx, "contents", Options{
		Kernel: w.kernel, Caller: &w.caller, Borrow: w.Contents.Borrow, Log: w.Log,
	})}
}

// forget keeps the engine's report, which is not the walk's, from growing.
func (h *hands) forget() { h.engine.report.Actions = nil }

// within runs an action that looks up names in a directory, and borrows the
// directory where that is refused. Where it may not be borrowed, EACCES is the answer.
func (h *hands) within(dir int, f *folder, action func() error) error {
	if h.ReadOnly || h.Contents.Borrow == BorrowNever {
		return unix.EACCES
	}
	// One at a time: two that borrow the same directory would take turns in
	// taking it from each other.
	h.borrowing.Lock()
	defer h.borrowing.Unlock()
	err := h.engine.within(dir, h.pathOf(f, nil), h.Rules.Owner != nil, action)
	for _, action := range h.engine.report.Actions {
		if action.Op == OpBorrow {
			h.borrows.Add(1)
		}
	}
	h.forget()
	return err
}

// returnOrphan gives back a folder that a killed run had borrowed, and tells
// whether the walk may go on with it.
func (h *hands) returnOrphan(f *folder, stat *unix.Statx_t) bool {
	if h.ReadOnly || stat.Uid != h.caller.UID {
		return true
	}
	info := inodeInfo{State: stateOf(stat), access: Moment{Sec: stat.Atime.Sec, Nsec: int64(stat.Atime.Nsec)}}
	if _, ok := slipOf(info, h.caller); !ok {
		return true
	}
	h.borrowing.Lock()
	defer h.borrowing.Unlock()
	info, err := look(h.kernel, f.fd)
	if err == nil {
		_, err = h.engine.returnOrphan(f.fd, h.pathOf(f, nil), info)
	}
	h.forget()
	if err != nil {
		h.fail(h.pathOf(f, nil), "giving back what an earlier run borrowed", err, info.State)
		f.left = true
	}
	return err == nil
}

// lookThrough is a directory's state and, where a killed run left a slip on
// it, the state that it had before that run.
func (h *hands) lookThrough(fd int) (have State, slipped bool, err error) {
	info, err := look(h.kernel, fd)
	if err != nil {
		return State{Type: fs.ModeDir}, false, err
	}
	if old, ok := slipOf(info, h.caller); ok {
		return old.restore(info.State), true, nil
	}
	return info.State, false, nil
}

// become makes a folder itself right, by the order table for directories.
func (h *hands) become(f *folder, have, want State) {
	err := h.engine.become(f.fd, want, orderOptions{})
	h.forget()
	if err == nil {
		h.differs(f, nil, have, want)
		return
	}
	doing := "changing the directory"
	var failed *stepError
	if errors.As(err, &failed) {
		doing = failed.step.doing()
	}
	h.fail(h.pathOf(f, nil), doing, err, have)
}
