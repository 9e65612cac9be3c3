package prep

import (
	"io/fs"
	"slices"

	"volprep/spec"
)

// Inherit is what the kernel makes of mkdir(2), or of open(2) with O_CREAT, by
// a process with these ids and umask in a directory: group and setgid of a
// setgid parent (inode_init_owner), permissions from the parent's default ACL
// under the mode argument, where the umask then does not count, else from
// the mode argument under the umask (posix_acl_create; acl(5)).
func Inherit(parent State, mode uint32, directory bool, uid, gid uint32, umask uint32) State {
	made := State{UID: uid, GID: gid, Mode: mode &^ setgidBit}
	if directory {
		made.Type = fs.ModeDir
	}
	if parent.Mode&setgidBit != 0 {
		made.GID = parent.GID
	}
	special := made.Mode &^ 0o777
	if parent.Mode&setgidBit != 0 && directory {
		special |= setgidBit
	}
	if parent.Default.Empty() {
		made.Mode = made.Mode&0o777&^umask | special
		return made
	}
	made = made.withAccess(createMasked(parent.Default, mode))
	made.Mode |= special
	if directory {
		made.Default = parent.Default
	}
	return made
}

// createMasked lowers a default ACL by a mode argument: owner and others by
// their digits, the group class by the group's, in the mask where there is
// one and else in the owning group's entry (posix_acl_create_masq).
func createMasked(acl spec.ACL, mode uint32) spec.ACL {
	_, masked := acl.Get(spec.TagMask)
	entries := slices.Clone(acl.Entries)
	for i := range entries {
		switch tag := entries[i].Tag; {
		case tag == spec.TagUserObj:
			entries[i].Perm &= spec.Perm(mode >> 6 & 7)
		case tag == spec.TagMask, tag == spec.TagGroupObj && !masked:
			entries[i].Perm &= spec.Perm(mode >> 3 & 7)
		case tag == spec.TagOther:
			entries[i].Perm &= spec.Perm(mode & 7)
		}
	}
	return spec.ACL{Entries: entries}
}
