package prep

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// This file is the order table: by which system calls one state of a
// directory becomes another, with CAP_CHOWN and CAP_FOWNER alone, such that at
// no instant anybody may do more than the wider of before and after.
//
//	order    | when                                        | steps
//	---------|---------------------------------------------|------------------------------------------------
//	handover | permissions are right already               | default ACL, chown
//	ordinary | no setgid is wanted, or its group is ours   | narrow to the meet, chown, default ACL, widen
//	direct   | setgid for a foreign group, the group is    | default ACL, permissions, chown
//	         | ours as yet and gains nothing meanwhile     |
//	veiled   | setgid for a foreign group, otherwise       | (note, chown to us,) veil, chown to our group,
//	         |                                             | default ACL, veiled permissions, setgid, chgrp,
//	         |                                             | unveil, chown(, forget)
//
// Why there are four: without CAP_FSETID, chmod(2) and a write of the access
// ACL clear setgid where the directory's group is not one of ours
// (setattr_prepare and posix_acl_update_mode in the kernel), with exit status
// 0. chown(2) and a write of the default ACL leave it on a directory. So the
// last call must be a chown, and the permissions must stand before it, while
// the group is one of ours, which is mostly group 0. The veil keeps processes
// of that group out: the owning group's entry is empty, and an entry that
// names the wanted group carries its permissions.
//
// The veiled order takes group and setgid away for a while. Where the layout
// does not name them, or the owner, it begins by noting them on the inode
// (slip.go), for a run that is killed in between.
//
// The meet of two states gives each class what both give it. Under the old
// owner it is no more than before, under the new one no more than after.
//
// Mode and ACL do not change in one instant inside the kernel: where an access
// ACL comes or goes, a process may see one with the other's group bits. So an
// ACL comes with a mask of no more than the group's bits at that time, and
// before it goes its mask is lowered to the group's own entry.

// Op names what a step does.
type Op string

// The operations of plans and reports.
const (
	OpMkdir         Op = "mkdir"
	OpChown         Op = "chown"
	OpChmod         Op = "chmod"
	OpSetAccess     Op = "set-access-acl"
	OpRemoveAccess  Op = "remove-access-acl"
	OpSetDefault    Op = "set-default-acl"
	OpRemoveDefault Op = "remove-default-acl"
	OpBorrow        Op = "borrow"
	OpReturn        Op = "return"
	// opNote writes a slip and opForget clears it.
	opNote   Op = "note"
	opForget Op = "forget"
)

// Step is one system call of an order.
type Step struct {
	Op Op
	// UID and GID are for OpChown; -1 leaves the id.
	UID, GID int
	// Mode is for OpChmod: what chmod(2) is given, so its group digit is the
	// mask's where an ACL stands.
	Mode uint32
	// ACL is for OpSetAccess, OpSetDefault and OpRemoveAccess; the latter's
	// is minimal: writing it removes the attribute and leaves each class its
	// own permission, where removexattr(2) would leave the group the mask's.
	ACL spec.ACL
	// Unveil is for OpRemoveAccess: removexattr(2) instead. The mask, which
	// equals the permission wanted, becomes the group's, and ext4, xfs and
	// btrfs keep setgid; tmpfs and overlayfs do not.
	Unveil bool
	// Slip is for opNote.
	Slip slip
}

// Caller is the process that acts: its file system ids and groups.
type Caller struct {
	UID, GID uint32
	Groups   []uint32
}

// in tells whether chmod(2) by the caller would leave setgid for this group (in_group_p).
func (c Caller) in(gid uint32) bool {
	return c.GID == gid || slices.Contains(c.Groups, gid)
}

// after models the kernel: the state that a step makes of another.
func (s Step) after(have State, caller Caller) State {
	dropSetgid := false
	switch s.Op {
	case OpChown:
		if s.UID >= 0 {
			have.UID = uint32(s.UID)
		}
		if s.GID >= 0 {
			have.GID = uint32(s.GID)
		}
	case OpChmod:
		if have.Access.Extended() {
			acl := spec.ACL{Entries: slices.Clone(have.Access.Entries)}
			for i, entry := range acl.Entries {
				switch entry.Tag {
				case spec.TagUserObj:
					acl.Entries[i].Perm = spec.Perm(s.Mode >> 6 & 7)
				case spec.TagMask:
					acl.Entries[i].Perm = spec.Perm(s.Mode >> 3 & 7)
				case spec.TagOther:
					acl.Entries[i].Perm = spec.Perm(s.Mode & 7)
				}
			}
			have = have.withAccess(acl)
			have.Mode = have.Mode&0o777 | s.Mode&^0o777
		} else {
			have.Mode = s.Mode
		}
		dropSetgid = true
	case OpSetAccess:
		have = have.withAccess(s.ACL)
		dropSetgid = true
	case OpRemoveAccess:
		if s.Unveil {
			have.Mode = have.StatMode()
			have.Access = spec.ACL{}
			break
		}
		have = have.withAccess(s.ACL)
		dropSetgid = true
	case OpSetDefault:
		have.Default = s.ACL
	case OpRemoveDefault:
		have.Default = spec.ACL{}
	}
	if dropSetgid && !caller.in(have.GID) {
		have.Mode &^= setgidBit
	}
	return have
}

// capability names what a step needs beyond being who we are, "" for nothing.
func (s Step) capability(have State, caller Caller) string {
	if s.Op == OpChown {
		if s.UID < 0 && have.UID == caller.UID && caller.in(uint32(s.GID)) {
			return ""
		}
		return "CAP_CHOWN"
	}
	if have.UID == caller.UID {
		return ""
	}
	return "CAP_FOWNER"
}

// order collects steps, with the state that the last of them leaves.
type order struct {
	caller Caller
	now    State
	steps  []Step
}

func (o *order) add(step Step) {
	o.steps = append(o.steps, step)
	o.now = step.after(o.now, o.caller)
}

// chown sets the ids that differ.
func (o *order) chown(uid, gid uint32) {
	step := Step{Op: OpChown, UID: -1, GID: -1}
	if o.now.UID != uid {
		step.UID = int(uid)
	}
	if o.now.GID != gid {
		step.GID = int(gid)
	}
	if step.UID >= 0 || step.GID >= 0 {
		o.add(step)
	}
}

// defaults sets the default ACL, if it differs.
func (o *order) defaults(acl spec.ACL) {
	switch {
	case o.now.Default.Equal(acl):
	case acl.Empty():
		o.add(Step{Op: OpRemoveDefault})
	default:
		o.add(Step{Op: OpSetDefault, ACL: acl})
	}
}

// permissions sets access ACL and mode bits, if they differ, with the mask in
// between that closes the kernel's own gap.
func (o *order) permissions(want State) {
	acl := want.accessACL()
	switch {
	case o.now.Access.Equal(want.Access) && (o.now.Access.Extended() || o.now.Mode == want.Mode):
	case want.Access.Extended():
		if !o.now.Access.Extended() {
			group := spec.Perm(o.now.Mode >> 3 & 7)
			if mask := want.mask(); mask&^group != 0 {
				o.add(Step{Op: OpSetAccess, ACL: masked(acl, mask&group, o.now.Mode&want.Mode)})
			}
		}
		if !o.now.Access.Equal(acl) {
			o.add(Step{Op: OpSetAccess, ACL: acl})
		}
	case o.now.Access.Extended():
		own, _ := o.now.Access.Get(spec.TagGroupObj)
		if mask := o.now.mask(); mask&^own != 0 {
			o.add(Step{Op: OpSetAccess, ACL: masked(o.now.Access, mask&own, o.now.Mode&want.Mode)})
		}
		o.add(Step{Op: OpRemoveAccess, ACL: acl})
	}
	if o.now.Mode == want.Mode || o.now.Mode|setgidBit == want.Mode && !o.caller.in(o.now.GID) {
		return
	}
	o.add(Step{Op: OpChmod, Mode: want.StatMode()})
}

// masked is an ACL with another mask. With an empty one the kernel counts who
// is named among the others, who then get no more than other's digits.
func masked(acl spec.ACL, mask spec.Perm, other uint32) spec.ACL {
	entries := slices.Clone(acl.Entries)
	for i := range entries {
		switch {
		case entries[i].Tag == spec.TagMask:
			entries[i].Perm = mask
		case entries[i].Tag == spec.TagOther && mask == 0:
			entries[i].Perm &= spec.Perm(other & 7)
		}
	}
	return spec.ACL{Entries: entries}
}

// closed takes everything from others where an ACL has an empty mask, for
// these would be the rights of those whom it names, to keep them out.
func closed(s State) State {
	if !s.Access.Extended() || s.mask() != 0 {
		return s
	}
	return s.withAccess(masked(s.Access, 0, 0))
}

// meet gives each class what both states give it, and keeps a sticky bit that either has.
func meet(a, b State) State {
	both := a
	both.Mode = a.Mode&b.Mode&0o777 | (a.Mode|b.Mode)&stickyBit | a.Mode&(setuidBit|setgidBit)
	if !a.Access.Extended() && !b.Access.Extended() {
		return both
	}
	group := spec.Perm(a.Mode>>3&7) & a.mask() & spec.Perm(b.Mode>>3&7) & b.mask()
	acl := spec.ACL{Entries: []spec.Entry{
		{Tag: spec.TagUserObj, Perm: spec.Perm(both.Mode >> 6 & 7)},
		{Tag: spec.TagGroupObj, Perm: group},
		{Tag: spec.TagOther, Perm: spec.Perm(both.Mode & 7)},
	}}
	mask := group
	for _, named := range namedOfEither(a.Access, b.Access) {
		named.Perm = permOf(a, named) & permOf(b, named)
		mask |= named.Perm
		acl.Entries = append(acl.Entries, named)
	}
	acl.Entries = append(acl.Entries, spec.Entry{Tag: spec.TagMask, Perm: mask})
	return closed(both.withAccess(canonical(acl)))
}

// namedOfEither lists the named users and groups of two ACLs, each once.
func namedOfEither(a, b spec.ACL) []spec.Entry {
	var named []spec.Entry
	for _, entry := range slices.Concat(a.Entries, b.Entries) {
		entry.Perm = 0
		if (entry.Tag == spec.TagUser || entry.Tag == spec.TagGroup) && !slices.Contains(named, entry) {
			named = append(named, entry)
		}
	}
	return named
}

// permOf is what a state's ACL gives a named entry under its mask, none where it is not named.
func permOf(s State, named spec.Entry) spec.Perm {
	for _, entry := range s.Access.Entries {
		if entry.Tag == named.Tag && entry.ID == named.ID {
			return entry.Perm & s.mask()
		}
	}
	return 0
}

// veiled is a state's permissions with its group's entry empty and the named
// entry of a group in its place. The mask stays; where there is none yet it is
// that entry's.
func veiled(s State, group uint32, perm spec.Perm) State {
	acl := spec.ACL{Entries: []spec.Entry{{Tag: spec.TagGroup, ID: group, Perm: perm}}}
	for _, entry := range s.accessACL().Entries {
		if entry.Tag == spec.TagGroup && entry.ID == group {
			continue
		}
		if entry.Tag == spec.TagGroupObj {
			entry.Perm = 0
		}
		acl.Entries = append(acl.Entries, entry)
	}
	if !s.Access.Extended() {
		// An empty mask would count the group's members among the others.
		mask := perm
		if mask == 0 && s.Mode&7 != 0 {
			mask = spec.PermExecute
		}
		acl.Entries = append(acl.Entries, spec.Entry{Tag: spec.TagMask, Perm: mask})
	}
	return s.withAccess(canonical(acl))
}

// errNeedsGroup: setgid for a foreign group cannot be had here.
type errNeedsGroup struct{ gid uint32 }

func (e errNeedsGroup) Error() string {
	return fmt.Sprintf("setgid for group %d needs CAP_FSETID or membership of that group, for there is no ACL that could keep group 0 out meanwhile", e.gid)
}

// orderOptions say what is known of the directory beyond its state.
type orderOptions struct {
	// keepVeil: on this file system the removal of an ACL clears setgid.
	keepVeil bool
	// noACL: the file system has no ACLs.
	noACL bool
	// sheltered: nobody else can reach the directory, so no order can open it.
	sheltered bool
	// named: the layout names owner, group and mode, so that a run that is
	// killed loses nothing which the next could not know.
	named bool
	// noted: a killed run's slip is on the inode already.
	noted bool
}

// transition gives the steps from one state of a directory to another; none
// where they are equal already.
func transition(have, want State, caller Caller, options orderOptions) ([]Step, error) {
	if have.equal(want) {
		return nil, nil
	}
	if options.noACL && (want.Access.Extended() || !want.Default.Empty()) {
		return nil, unix.EOPNOTSUPP
	}
	o := &order{caller: caller, now: have}
	samePermissions := have.Mode == want.Mode && have.Access.Equal(want.Access)
	if have.GID == want.GID {
		a, b := have.settled(), want.settled()
		samePermissions = a.Mode == b.Mode && a.Access.Equal(b.Access)
	}
	sameIDs := have.UID == want.UID && have.GID == want.GID
	foreignSetgid := want.Mode&setgidBit != 0 && !caller.in(want.GID)
	switch {
	case samePermissions, options.sheltered && caller.in(have.GID):
		// Owner and group last, for until then no capability is needed.
		o.defaults(want.Default)
		o.permissions(want)
		o.chown(want.UID, want.GID)
	case !foreignSetgid:
		if !sameIDs {
			o.permissions(meet(have, want))
		}
		o.chown(want.UID, want.GID)
		o.defaults(want.Default)
		o.permissions(want)
	case caller.in(have.GID) && gainsNothing(have, want, caller):
		o.defaults(want.Default)
		o.permissions(want)
		o.chown(want.UID, want.GID)
	case options.noACL, unveilable(want):
		return nil, errNeedsGroup{want.GID}
	case !options.named && (ownerIsLeast(have) || ownerIsLeast(want)):
		return nil, errOwnerIsLeast
	default:
		o.veil(have, want, options)
	}
	return o.steps, nil
}

// gainsNothing tells whether nobody is better off than before and after when
// want's permissions stand under have's owner and group. It may say no where
// the answer is yes: the veiled order is there for the rest.
func gainsNothing(have, want State, caller Caller) bool {
	if have.Access.Extended() {
		return false
	}
	owner, group, other := want.Mode>>6&7, want.Mode>>3&7, want.Mode&7
	if have.UID != want.UID {
		// Until the last chown the old owner has the new owner's digit, and
		// the new one whatever class he is in.
		oldGains := have.UID != caller.UID && owner&^(have.Mode>>6&7) != 0
		newGains := (group|other|namedPerms(want))&^owner != 0
		if oldGains || newGains {
			return false
		}
	}
	if slices.ContainsFunc(want.Access.Entries, func(e spec.Entry) bool { return e.Tag == spec.TagGroup && e.ID == have.GID }) {
		return false
	}
	return group&^(have.Mode>>3&7) == 0 && (other&^(have.Mode&7) == 0 || other&^group == 0 && other&^owner == 0)
}

// errOwnerIsLeast: taking such a directory would put its owner into a class that may do more.
var errOwnerIsLeast = errors.New("its owner may do less with it than others, and would gain while it is taken from him")

// ownerIsLeast tells whether some other class may do what the owner may not.
func ownerIsLeast(s State) bool {
	return (s.Mode>>3&7&uint32(s.mask())|s.Mode&7|namedPerms(s))&^ownerDigit(s.Mode) != 0
}

// namedPerms is what any named entry of a state grants.
func namedPerms(s State) uint32 {
	var perms spec.Perm
	for _, entry := range s.Access.Entries {
		if entry.Tag == spec.TagUser || entry.Tag == spec.TagGroup {
			perms |= entry.Perm & s.mask()
		}
	}
	return uint32(perms)
}

// unveilable tells whether no veil can say what a state says: its owning group
// has an entry of its name beside `group::` of which neither contains the
// other, or its ACL has an empty mask, so that the kernel would not look at a
// veil either.
func unveilable(s State) bool {
	digit := spec.Perm(s.Mode >> 3 & 7)
	own, ok := ownGroup(s)
	twofold := ok && own|digit != own && own|digit != digit
	return twofold || s.mask() == 0 && s.Mode&7 != 0
}

// veil is the order of that name.
func (o *order) veil(have, want State, options orderOptions) {
	named := spec.Entry{Tag: spec.TagGroup, ID: want.GID}
	had := permOf(have, named)
	if have.GID == want.GID {
		had |= spec.Perm(have.Mode>>3&7) & have.mask()
	}
	own, _ := ownGroup(want)
	wanted := spec.Perm(want.Mode>>3&7) | own
	first := closed(veiled(meet(have, want), want.GID, had&wanted&want.mask()))
	first.Mode &^= setgidBit
	if options.named {
		o.permissions(first)
		o.chown(want.UID, o.caller.GID)
	} else {
		if !options.noted {
			o.add(Step{Op: opNote, Slip: slipFor(have, first.Access)})
		}
		o.chown(o.caller.UID, o.now.GID)
		o.permissions(first)
		o.chown(o.caller.UID, o.caller.GID)
	}
	o.defaults(want.Default)
	under := veiled(want, want.GID, wanted)
	o.permissions(under)
	if options.named {
		o.chown(want.UID, want.GID)
	} else {
		o.chown(o.caller.UID, want.GID)
	}
	if !want.Access.Extended() && !options.keepVeil && under.mask() == wanted {
		o.add(Step{Op: OpRemoveAccess, Unveil: true})
	}
	if !options.named {
		o.chown(want.UID, want.GID)
		o.add(Step{Op: opForget})
	}
}
