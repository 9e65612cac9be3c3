package prep

import (
	"io/fs"

	"volprep/spec"
)

// rule is a [spec.Contents] made ready for many entries.
type rule struct {
	owner, group *uint32
	dir, file    *spec.Mode
	access, dflt *spec.ACL
	umask        uint32
	always       bool
	// dirModes and fileModes give for each of the 4096 modes the one wanted
	// in its place; nil where the rules name none. They spare the fast check
	// the reading of clauses.
	dirModes, fileModes []uint16
}

func newRule(contents *spec.Contents, umask uint32) *rule {
	r := &rule{
		owner: contents.Owner, group: contents.Group,
		dir: contents.DirMode, file: contents.FileMode,
		access: contents.Access, dflt: contents.Default,
		umask: umask, always: contents.When == spec.WhenAlways,
	}
	r.dirModes = modeTable(r.dir, true, umask)
	r.fileModes = modeTable(r.file, false, umask)
	return r
}

func modeTable(mode *spec.Mode, directory bool, umask uint32) []uint16 {
	if mode == nil {
		return nil
	}
	table := make([]uint16, modeBits+1)
	for have := range table {
		table[have] = uint16(mode.Apply(uint32(have), directory, umask) & modeBits)
	}
	return table
}

// ids tells whether owner and group are as the rules name them.
func (r *rule) ids(uid, gid uint32) bool {
	return (r.owner == nil || *r.owner == uid) && (r.group == nil || *r.group == gid)
}

// plainlyRight is the fast check: right as far as stat(2) can tell, which is
// all there is for anything but a regular file of rules that name an access ACL.
// Only regular files have a mode that the rules name.
func (r *rule) plainlyRight(regular bool, uid, gid, mode uint32) bool {
	if !r.ids(uid, gid) {
		return false
	}
	return !regular || r.access != nil || r.fileModes == nil || uint32(r.fileModes[mode&modeBits]) == mode&modeBits
}

// wanted is what a state must become. The state of a file, where the rules
// name no access ACL, bears the mode as stat(2) shows it and no ACL.
func (r *rule) wanted(have State) State {
	want := have
	if r.owner != nil {
		want.UID = *r.owner
	}
	if r.group != nil {
		want.GID = *r.group
	}
	switch {
	case have.Type == fs.ModeDir:
		return r.wantedPermissions(want, r.dirModes)
	case have.Type.IsRegular():
		if want.UID != have.UID || want.GID != have.GID {
			want.Mode = afterChown(want.Mode)
		}
		return r.wantedPermissions(want, r.fileModes)
	default:
		return want
	}
}

func (r *rule) wantedPermissions(want State, modes []uint16) State {
	directory := want.Type == fs.ModeDir
	switch {
	case modes == nil:
	case r.access == nil:
		// chmod(1) on a file with an ACL: the group digit goes to the mask.
		want = Step{Op: OpChmod, Mode: uint32(modes[want.StatMode()])}.after(want, Caller{GID: want.GID})
	default:
		want = withMode(want, uint32(modes[want.Mode]))
	}
	executable := directory || want.Mode&0o111 != 0
	if r.access != nil {
		if r.access.Empty() {
			want.Access = spec.ACL{}
		} else {
			want = want.withAccess(r.access.Complete(want.Mode&0o777, executable))
		}
	}
	if directory && r.dflt != nil {
		want.Default = spec.ACL{}
		if !r.dflt.Empty() {
			want.Default = r.dflt.Complete(want.Mode&0o777, true)
		}
	}
	return want
}

// afterChown is what a change of owner leaves of a file's mode: set-user-id
// goes, and set-group-id where the group may execute (setattr_prepare and
// setattr_should_drop_sgid in fs/attr.c). Where the kernel takes more, the
// reading back shows it.
func afterChown(mode uint32) uint32 {
	mode &^= setuidBit
	if mode&0o010 != 0 {
		mode &^= setgidBit
	}
	return mode
}
