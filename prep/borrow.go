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
//
// A run that is killed while it borrows leaves a directory that belongs to
// uid 0, and nothing but the directory itself could tell whose it was: its
// parent may be just as closed. So before the chown the owner is written onto
// the inode, in its access time, which CAP_FOWNER may set, which changes
// nobody's access and which is there on every file system that can say who
// owns a file. This is the slip. Giving back takes the directory off first and
// the slip after, so at no instant does a borrowed directory lack one. A later
// run that meets a directory of its own with a slip gives it back.
//
// The slip lies in the future, so that relatime mounts leave it alone. Only
// the owner of a directory can write one, and it counts only once uid 0 owns
// the directory: whoever forges a slip can at most get back, by a later run,
// a directory that was once his and that somebody handed to root in between
// without the layout naming its owner.

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

// The slip's form: seconds of a tag, the owner's upper half and a check;
// nanoseconds of a tag, the owner bits of the mode and the owner's lower half.
// The seconds stay below 2^31, which is all that xfs without bigtime and ext4
// with small inodes can hold.
const (
	slipSeconds     = 0x7e << 24 // December 2036
	slipNanoseconds = 0x2a << 24
)

// slip is what a borrower writes of a directory's state.
type slip struct {
	uid uint32
	// ownerBits is the owner's digit of the mode, 0 to 7.
	ownerBits uint32
}

func (s slip) check() uint32 {
	return (s.uid ^ s.uid>>8 ^ s.uid>>16 ^ s.uid>>24 ^ s.ownerBits ^ 0x5a) & 0xff
}

func (s slip) time() unix.Timespec {
	return unix.Timespec{
		Sec:  int64(slipSeconds | s.uid>>16<<8 | s.check()),
		Nsec: int64(slipNanoseconds | s.ownerBits<<16 | s.uid&0xffff),
	}
}

// slipOf reads the slip of a directory that this process owns.
func slipOf(info inodeInfo, caller Caller) (slip, bool) {
	sec, nsec := uint64(info.access.Sec), uint64(info.access.Nsec)
	if info.UID != caller.UID || sec&^0xffffff != slipSeconds || nsec&^0x7ffff != slipNanoseconds {
		return slip{}, false
	}
	s := slip{
		uid:       uint32(sec)>>8&0xffff<<16 | uint32(nsec)&0xffff,
		ownerBits: uint32(nsec) >> 16 & 7,
	}
	return s, s.check() == uint32(sec)&0xff
}

// loan is a directory that is borrowed just now.
type loan struct {
	fd    int
	path  string
	since time.Time
	// was is the state to give back, and times what the slip replaced.
	was    State
	opened bool // owner bits were added
	times  unix.Timespec
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
	l := &loan{fd: fd, path: path, since: time.Now(), was: info.State, times: info.access}
	if old, ok := slipOf(info, e.caller); ok {
		l.was = old.restore(l.was)
		l.times = unix.Timespec{Nsec: unix.UTIME_NOW}
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
	if err := e.writeSlip(l, ownerNamed); err != nil {
		return nil, e.failed(path, doing, err, &l.was)
	}
	if info.UID != e.caller.UID {
		if err := e.kernel.Fchownat(fd, int(e.caller.UID), -1); err != nil {
			e.clearSlip(l)
			return nil, e.failed(path, doing, err, &l.was)
		}
		e.used("CAP_CHOWN")
	}
	if l.opened {
		if err := e.kernel.Fchmod(fd, info.StatMode()|0o700); err != nil {
			return nil, errors.Join(e.failed(path, doing, err, &l.was), e.giveBack(l))
		}
	}
	return l, nil
}

// writeSlip notes the owner on the inode and reads it back.
func (e *engine) writeSlip(l *loan, ownerNamed bool) error {
	want := slip{uid: l.was.UID, ownerBits: ownerDigit(l.was.Mode)}.time()
	err := e.kernel.Utimensat(l.fd, &[2]unix.Timespec{want, {Nsec: unix.UTIME_OMIT}})
	if err == nil {
		var info inodeInfo
		if info, err = look(e.kernel, l.fd); err == nil && info.access != want {
			err = fmt.Errorf("the file system does not keep an access time to the nanosecond, in which the owner would be noted; name the directory's owner in the layout: %w", unix.EOPNOTSUPP)
		}
	}
	if err == nil && l.was.UID != e.caller.UID {
		e.used("CAP_FOWNER")
	}
	if ownerNamed && err != unix.ENOENT {
		return nil
	}
	return err
}

func (e *engine) clearSlip(l *loan) {
	if err := e.kernel.Utimensat(l.fd, &[2]unix.Timespec{l.times, {Nsec: unix.UTIME_OMIT}}); err != nil {
		e.log.Warn().Str("path", printable(l.path)).Err(err).Msg("the access time could not be put back")
	}
}

// restore is the state that a slip remembers.
func (s slip) restore(have State) State {
	have.UID = s.uid
	have = withOwnerDigit(have, s.ownerBits)
	return have
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
	e.clearSlip(l)
	info, err := look(e.kernel, l.fd)
	if err != nil {
		return e.failed(l.path, doing, err, &l.was)
	}
	if info.UID != l.was.UID && info.UID == e.caller.UID {
		return e.failed(l.path, doing, fmt.Errorf("%w: its owner is %d, not %d", errNotAsAsked, info.UID, l.was.UID), &l.was)
	}
	e.borrowed(l, lent)
	return nil
}

// returnOrphan gives back what a killed run had borrowed, and is the state after that.
func (e *engine) returnOrphan(fd int, path string, info inodeInfo) (inodeInfo, error) {
	old, ok := slipOf(info, e.caller)
	if !ok {
		return info, nil
	}
	was := old.restore(info.State)
	l := &loan{fd: fd, path: path, since: time.Now(), was: was, opened: was.Mode != info.Mode, times: unix.Timespec{Nsec: unix.UTIME_NOW}}
	if err := e.giveBack(l); err != nil {
		return info, err
	}
	return look(e.kernel, fd)
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
