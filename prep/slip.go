package prep

import (
	"fmt"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// A slip is a note on an inode of what must come back, written before an order
// of calls takes it away: the owner of a borrowed directory, or owner, group
// and setgid of one on its way through the veiled order. A run that is killed
// in between leaves a directory that belongs to uid 0, and nothing but the
// directory itself could tell whose it was: its parent may be just as closed.
//
// It is written into the access time, which CAP_FOWNER may set, which changes
// nobody's access and which is there on every file system that can say who
// owns a file. It lies in the future, so that relatime mounts leave it alone.
// It is written before the chown that takes the directory and cleared after
// the one that gives it back, so at no instant does a taken directory lack it.
//
// A slip counts only on a directory that uid 0 owns, and only an owner can
// write one. Whoever forges a slip can at most have a later run give him back
// a directory that was once his and that somebody handed to root in between,
// without the layout naming its owner.

// The slip's form. Seconds: a tag, the owner's upper half, a check.
// Nanoseconds: a tag, the group's place, setgid, the owner's digit of the
// mode, the owner's lower half. The seconds stay below 2^31, which is all that
// xfs without bigtime and ext4 with small inodes can hold.
const (
	slipSeconds     = 0x7e << 24 // December 2036
	slipNanoseconds = 0x2a << 24
	// noVeil in the group's place: the group was not changed.
	noVeil = 15
)

type slip struct {
	uid uint32
	// ownerDigit is the owner's rwx of the mode.
	ownerDigit uint32
	// veil counts the named groups of the ACL that come before the one that
	// was the directory's own; noVeil where the group still is its own.
	veil   uint32
	setgid bool
}

func (s slip) check() uint32 {
	check := s.uid ^ s.uid>>8 ^ s.uid>>16 ^ s.uid>>24 ^ s.ownerDigit ^ s.veil<<3 ^ 0x5a
	if s.setgid {
		check ^= 0x80
	}
	return check & 0xff
}

func (s slip) time() Moment {
	nsec := slipNanoseconds | s.veil<<20 | s.ownerDigit<<16 | s.uid&0xffff
	if s.setgid {
		nsec |= 1 << 19
	}
	return Moment{Sec: int64(slipSeconds | s.uid>>16<<8 | s.check()), Nsec: int64(nsec)}
}

// slipOf reads the slip of a directory that this process owns.
func slipOf(info inodeInfo, caller Caller) (slip, bool) {
	sec, nsec := uint64(info.access.Sec), uint64(info.access.Nsec)
	if info.UID != caller.UID || sec>>24 != slipSeconds>>24 || nsec>>24 != slipNanoseconds>>24 {
		return slip{}, false
	}
	s := slip{
		uid:        uint32(sec)>>8&0xffff<<16 | uint32(nsec)&0xffff,
		ownerDigit: uint32(nsec) >> 16 & 7,
		setgid:     nsec>>19&1 != 0,
		veil:       uint32(nsec) >> 20 & 15,
	}
	return s, s.check() == uint32(sec)&0xff
}

// slipFor notes a state for the veiled order, whose veil has this ACL.
func slipFor(have State, veil spec.ACL) slip {
	s := slip{uid: have.UID, ownerDigit: ownerDigit(have.Mode), setgid: have.Mode&setgidBit != 0}
	for _, entry := range veil.Entries {
		if entry.Tag == spec.TagGroup && entry.ID < have.GID {
			s.veil++
		}
	}
	return s
}

// restore is the state that a slip remembers, of what the killed run left.
func (s slip) restore(have State) State {
	have.UID = s.uid
	if s.veil == noVeil {
		return withMode(have, have.Mode&^0o700|s.ownerDigit<<6)
	}
	place := s.veil
	for _, entry := range have.Access.Entries {
		if entry.Tag != spec.TagGroup {
			continue
		}
		if place == 0 {
			have.GID = entry.ID
			break
		}
		place--
	}
	have = have.settled()
	if s.setgid {
		have.Mode |= setgidBit
	}
	return have
}

// writeSlip notes and reads back.
func (e *engine) writeSlip(fd int, s slip) error {
	want := s.time()
	if err := e.kernel.Utimensat(fd, &[2]Moment{want, {Nsec: unix.UTIME_OMIT}}); err != nil {
		return fmt.Errorf("noting the owner in the access time: %w", err)
	}
	info, err := look(e.kernel, fd)
	if err == nil && info.access != want {
		err = fmt.Errorf("the file system does not keep an access time to the nanosecond, in which the owner would be noted; name owner, group and mode in the layout: %w", unix.EOPNOTSUPP)
	}
	return err
}

// clearSlip puts an access time in the slip's place.
func (e *engine) clearSlip(fd int, access Moment) error {
	return e.kernel.Utimensat(fd, &[2]Moment{access, {Nsec: unix.UTIME_OMIT}})
}

// accessTime is what to put back for a slip: the time that was there, or now
// where that was a slip too.
func accessTime(info inodeInfo, caller Caller) Moment {
	if _, ok := slipOf(info, caller); ok {
		return Moment{Nsec: unix.UTIME_NOW}
	}
	return info.access
}
