package prep

import (
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Mode bits that are no permissions (inode(7)).
const (
	setuidBit = 0o4000
	setgidBit = 0o2000
	stickyBit = 0o1000
	modeBits  = 0o7777
)

// State is what volprep looks at and sets of one inode.
type State struct {
	// Type holds the type bits alone (fs.ModeDir, fs.ModeSymlink, …; 0 is a regular file).
	Type     fs.FileMode
	UID, GID uint32
	// Mode holds the bits 07777. Its group digit is the owning group's own
	// permission, the ACL's group:: entry: never the mask that stat(2)
	// shows in that place where a file has an ACL (acl(5)).
	Mode uint32
	// Access is complete and canonical, and empty where there is no more
	// than the mode; Default likewise, and empty for all but directories.
	Access, Default spec.ACL
}

// StatMode is the mode as stat(2) and ls(1) show it, 07777: with the mask in
// the group's place where there is one.
func (s State) StatMode() uint32 {
	if mask, ok := s.Access.Get(spec.TagMask); ok {
		return s.Mode&^0o070 | uint32(mask)<<3
	}
	return s.Mode
}

// mask is the upper bound of the whole group class: rwx where none is set.
func (s State) mask() spec.Perm {
	if mask, ok := s.Access.Get(spec.TagMask); ok {
		return mask
	}
	return 7
}

// withAccess is the state with a complete ACL in place of permissions: the
// base entries become the mode's digits, and an ACL that says no more than
// they do is none (posix_acl_equiv_mode).
func (s State) withAccess(acl spec.ACL) State {
	s.Mode &^= 0o777
	for _, entry := range acl.Entries {
		switch entry.Tag {
		case spec.TagUserObj:
			s.Mode |= uint32(entry.Perm) << 6
		case spec.TagGroupObj:
			s.Mode |= uint32(entry.Perm) << 3
		case spec.TagOther:
			s.Mode |= uint32(entry.Perm)
		}
	}
	s.Access = spec.ACL{}
	if acl.Extended() {
		s.Access = acl
	}
	return s
}

// accessACL is the state's permissions as a complete ACL, minimal where it has none.
func (s State) accessACL() spec.ACL {
	if s.Access.Extended() {
		return s.Access
	}
	return spec.ACL{}.Complete(s.Mode&0o777, true)
}

// settled rewrites forms that mean the same to every process into one: an
// entry that names the owning group beside `group::` counts as `group::` with
// the wider of the two, for either may grant (acl(5), access check algorithm).
// A setgid directory of a group that is not ours can only get its bits as
// `group::---` with such an entry (see order.go), and must then count as right.
func (s State) settled() State {
	digit, _ := s.Access.Get(spec.TagGroupObj)
	own, ok := ownGroup(s)
	if !ok || own|digit != own && own|digit != digit {
		return s
	}
	var entries []spec.Entry
	named := false
	for _, entry := range s.Access.Entries {
		switch {
		case entry.Tag == spec.TagGroup && entry.ID == s.GID:
			continue
		case entry.Tag == spec.TagGroupObj:
			entry.Perm = own | digit
		case entry.Tag == spec.TagUser || entry.Tag == spec.TagGroup:
			named = true
		}
		entries = append(entries, entry)
	}
	if !named {
		perm := (own | digit) & s.mask()
		entries = spec.ACL{}.Complete(s.Mode&0o707|uint32(perm)<<3, true).Entries
	}
	return s.withAccess(spec.ACL{Entries: entries})
}

// ownGroup is the permission of an entry that names the owning group.
func ownGroup(s State) (spec.Perm, bool) {
	for _, entry := range s.Access.Entries {
		if entry.Tag == spec.TagGroup && entry.ID == s.GID {
			return entry.Perm, true
		}
	}
	return 0, false
}

// equal tells whether two states mean the same.
func (s State) equal(other State) bool {
	a, b := s.settled(), other.settled()
	return a.Type == b.Type && a.UID == b.UID && a.GID == b.GID && a.Mode == b.Mode &&
		a.Access.Equal(b.Access) && a.Default.Equal(b.Default)
}

// String is the state as messages show it: mode, owner and group, then the
// ACLs where there are any.
func (s State) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%04o %d:%d", s.Mode, s.UID, s.GID)
	if !s.Access.Empty() {
		fmt.Fprintf(&text, " access %s", s.Access)
	}
	if !s.Default.Empty() {
		fmt.Fprintf(&text, " default %s", s.Default)
	}
	return text.String()
}

// inodeInfo is a state together with what tells its inode from any other.
type inodeInfo struct {
	State
	identity inodeIdentity
	// mount is the id of the mount it was reached by, and mountRoot whether
	// it is that mount's own root; both 0 and false where the kernel cannot tell.
	mount     uint64
	mountRoot bool
	links     uint32
	access    Moment
	modify    Moment
	// acls: the file system has POSIX ACLs.
	acls bool
}

// inodeIdentity tells one inode from another for as long as a descriptor of it is open.
type inodeIdentity struct {
	dev, ino uint64
}

const inodeMask = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

// look reads the state of a descriptor's inode.
func look(kernel Kernel, fd int) (inodeInfo, error) {
	var stat unix.Statx_t
	if err := kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, inodeMask, &stat); err != nil {
		return inodeInfo{}, fmt.Errorf("statx: %w", err)
	}
	info := inodeInfo{
		State:    State{Type: fileType(stat.Mode), UID: stat.Uid, GID: stat.Gid, Mode: uint32(stat.Mode) & modeBits},
		identity: inodeIdentity{dev: unix.Mkdev(stat.Dev_major, stat.Dev_minor), ino: stat.Ino},
		links:    stat.Nlink,
		access:   Moment{Sec: stat.Atime.Sec, Nsec: int64(stat.Atime.Nsec)},
		modify:   Moment{Sec: stat.Mtime.Sec, Nsec: int64(stat.Mtime.Nsec)},
	}
	if stat.Mask&unix.STATX_MNT_ID != 0 {
		info.mount = stat.Mnt_id
	}
	info.mountRoot = stat.Attributes_mask&stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	if info.Type == fs.ModeSymlink {
		return info, nil
	}
	access, supported, err := readACL(kernel, fd, accessXattr)
	if err != nil {
		return inodeInfo{}, fmt.Errorf("reading the access ACL: %w", err)
	}
	info.acls = supported
	if access.Extended() {
		info.State = info.State.withAccess(access)
	}
	if info.Type == fs.ModeDir && supported {
		if info.Default, _, err = readACL(kernel, fd, defaultXattr); err != nil {
			return inodeInfo{}, fmt.Errorf("reading the default ACL: %w", err)
		}
	}
	return info, nil
}

// fileType is the type of a stat(2) mode.
func fileType(mode uint16) fs.FileMode {
	switch uint32(mode) & unix.S_IFMT {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	case unix.S_IFLNK:
		return fs.ModeSymlink
	case unix.S_IFIFO:
		return fs.ModeNamedPipe
	case unix.S_IFSOCK:
		return fs.ModeSocket
	case unix.S_IFCHR:
		return fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		return fs.ModeDevice
	default:
		return fs.ModeIrregular
	}
}

// typeName is a file type in words.
func typeName(t fs.FileMode) string {
	switch {
	case t == 0:
		return "a regular file"
	case t == fs.ModeDir:
		return "a directory"
	case t == fs.ModeSymlink:
		return "a symbolic link"
	case t == fs.ModeNamedPipe:
		return "a fifo"
	case t == fs.ModeSocket:
		return "a socket"
	case t&fs.ModeDevice != 0:
		return "a device node"
	default:
		return "a file of an unknown type"
	}
}
