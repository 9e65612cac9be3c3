package prep

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A directory into which uid 0 may not look without CAP_DAC_OVERRIDE (0700 of
// somebody else) is borrowed: this process becomes its owner for the few
// calls that need it, opens or makes what it must, and gives it back. A chown
// keeps mode, setgid and ACLs, so nobody but uid 0 gains anything; the price
// is that the owner's own new lookups fail in between.
// What a run that is killed meanwhile leaves, the slip of slip.go mends.

// Borrow says when a directory may be borrowed.
type Borrow string

// The values of --borrow.
const (
	// BorrowAuto borrows where it must.
	BorrowAuto Borrow = "auto"
	// BorrowOnMismatch does not look into an opaque directory whose own attributes are right already.
	BorrowOnMismatch Borrow = "on-mismatch"
	// BorrowNever reports what it could not see.
	BorrowNever Borrow = "never"
)

// loan is a directory that is borrowed just now.
type loan struct {
	fd    int
	path  string
	since time.Time
	// was is the state to give back, and access the time that the slip replaced.
	was    State
	opened bool // owner bits were added
	noted  bool // a slip was written
	access Moment
}

// ownerDigit is the owner's rwx of a mode.
func ownerDigit(mode uint32) uint32 { return mode >> 6 & 7 }

// borrow makes this process the owner of a directory, with all owner bits.
// ownerNamed: the layout says whose it is, so that no slip is needed where
// the file system cannot hold one.
func (e *engine) borrow(fd int, path string, ownerNamed bool) (*loan, error) {
	const doing = "borrowing the directory"
	if e.options.Borrow == BorrowNever {
		return nil, e.failed(path, "looking into the directory without borrowing it", errOpaque, nil)
	}
	info, err := look(e.kernel, fd)
	if err != nil {
		return nil, e.failed(path, doing, err, nil)
	}
	l := &loan{fd: fd, path: path, since: time.Now(), was: info.State, access: accessTime(info, e.caller)}
	if old, ok := slipOf(info, e.caller); ok {
		l.was = old.restore(l.was)
	}
	if l.was.UID != e.caller.UID && e.caller.UID != 0 {
		return nil, e.failed(path, doing, unix.EPERM, &l.was)
	}
	l.opened = ownerDigit(info.Mode) != 7
	if l.opened && info.Mode&setgidBit != 0 && !e.caller.in(info.GID) {
		f := e.failed(path, doing, errNeedsGroup{info.GID}, &l.was)
		f.Err = fmt.Errorf("its owner may not read, write and search it (mode %04o), and adding that would cost it setgid for good", info.Mode)
		return nil, f
	}
	if l.was.UID != e.caller.UID && ownerIsLeast(l.was) {
		return nil, e.failed(path, doing, errOwnerIsLeast, &l.was)
	}
	note := slip{uid: l.was.UID, ownerDigit: ownerDigit(l.was.Mode), veil: noVeil}
	err = e.writeSlip(fd, note)
	l.noted = err == nil
	if err != nil && !(ownerNamed && !l.opened) {
		return nil, e.failed(path, doing, err, &l.was)
	}
	if info.UID != e.caller.UID {
		if err := e.kernel.Fchownat(fd, int(e.caller.UID), -1); err != nil {
			e.clearSlip(fd, l.access)
			return nil, e.failed(path, doing, err, &l.was)
		}
		e.used("CAP_CHOWN")
		e.used("CAP_FOWNER")
	}
	if l.opened {
		if err := e.kernel.Fchmod(fd, info.StatMode()|0o700); err != nil {
			return nil, errors.Join(e.failed(path, doing, err, &l.was), e.giveBack(l))
		}
	}
	return l, nil
}

func withOwnerDigit(s State, digit uint32) State {
	return withMode(s, s.Mode&^0o700|digit<<6)
}

// giveBack undoes a borrow, in the reverse order, and reads back.
func (e *engine) giveBack(l *loan) error {
	const doing = "giving the borrowed directory back"
	if l.opened {
		if err := e.kernel.Fchmod(l.fd, l.was.StatMode()); err != nil {
			return e.failed(l.path, doing, err, &l.was)
		}
	}
	if l.was.UID != e.caller.UID {
		if err := e.kernel.Fchownat(l.fd, int(l.was.UID), -1); err != nil {
			return e.failed(l.path, doing, err, &l.was)
		}
	}
	lent := time.Since(l.since)
	if l.noted {
		if err := e.clearSlip(l.fd, l.access); err != nil {
			return e.failed(l.path, doing, err, &l.was)
		}
	}
	if err := e.returned(l); err != nil {
		return e.failed(l.path, doing, err, &l.was)
	}
	e.borrowed(l, lent)
	return nil
}

// returned reads back that a directory is no longer this process's. Another
// run may have borrowed it meanwhile: then it has that run's slip and comes
// back by that run, or had its slip cleared by us, and is given back again.
func (e *engine) returned(l *loan) error {
	for try := range attempts {
		info, err := look(e.kernel, l.fd)
		if err != nil || info.UID == l.was.UID || info.UID != e.caller.UID {
			return err
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
		if _, lent := slipOf(info, e.caller); !lent {
			if err := e.kernel.Fchownat(l.fd, int(l.was.UID), -1); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%w: its owner is %d, not %d", errNotAsAsked, e.caller.UID, l.was.UID)
}

// returnOrphan gives back what a killed run had borrowed; the state is what
// the directory had before that run.
func (e *engine) returnOrphan(fd int, path string, info inodeInfo) (State, error) {
	old, ok := slipOf(info, e.caller)
	if !ok {
		return info.State, nil
	}
	was := old.restore(info.State)
	if old.veil != noVeil {
		// The order that was interrupted begins anew when the directory is finished.
		return was, nil
	}
	l := &loan{fd: fd, path: path, since: time.Now(), was: was, opened: was.Mode != info.Mode, noted: true, access: accessTime(info, e.caller)}
	return was, e.giveBack(l)
}

// attempts bounds how often a step is tried again when somebody else's run,
// or the workload, changed the directory in between.
const attempts = 64

// within runs an action that needs to look up or make names in a directory,
// and borrows the directory if that is refused. The action must bear being
// run again: another run may give the directory back while we are in it.
func (e *engine) within(fd int, path string, ownerNamed bool, action func() error) error {
	err := action()
	for try := 0; err == unix.EACCES && try < attempts; try++ {
		l, borrowErr := e.borrow(fd, path, ownerNamed)
		if borrowErr != nil {
			return borrowErr
		}
		err = action()
		ours := e.ours(fd)
		if backErr := e.giveBack(l); backErr != nil {
			return errors.Join(err, backErr)
		}
		if ours {
			return err
		}
		if err == unix.EACCES {
			time.Sleep(time.Duration(try) * time.Millisecond)
		}
	}
	return err
}

// ours tells whether a directory belongs to this process.
func (e *engine) ours(fd int) bool {
	info, err := look(e.kernel, fd)
	return err == nil && info.UID == e.caller.UID
}
