package prep

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// The extended attributes that hold POSIX ACLs (xattr(7)).
const (
	accessXattr  = "system.posix_acl_access"
	defaultXattr = "system.posix_acl_default"
)

// The version 2 form (include/uapi/linux/posix_acl_xattr.h): a 32-bit
// version, then for each entry tag and permissions of 16 bits and an id of
// 32, all little-endian. Entries without an id carry ACL_UNDEFINED_ID.
const (
	aclVersion     = 2
	aclHeaderSize  = 4
	aclEntrySize   = 8
	aclUndefinedID = 0xffffffff
	// maxXattrSize is XATTR_SIZE_MAX (include/uapi/linux/limits.h).
	maxXattrSize = 65536
)

// EncodeACL gives the extended attribute's bytes of a complete ACL.
func EncodeACL(acl spec.ACL) []byte {
	bytes := make([]byte, aclHeaderSize, aclHeaderSize+aclEntrySize*len(acl.Entries))
	binary.LittleEndian.PutUint32(bytes, aclVersion)
	for _, entry := range acl.Entries {
		id := uint32(aclUndefinedID)
		if entry.Tag == spec.TagUser || entry.Tag == spec.TagGroup {
			id = entry.ID
		}
		bytes = binary.LittleEndian.AppendUint16(bytes, uint16(entry.Tag))
		bytes = binary.LittleEndian.AppendUint16(bytes, uint16(entry.Perm))
		bytes = binary.LittleEndian.AppendUint32(bytes, id)
	}
	return bytes
}

// DecodeACL reads the extended attribute's bytes. The kernel gives entries
// back as they were written, unsorted ids and repeated entries too, so the
// result is put into canonical order. Bytes without entries are an empty ACL.
// What posix_acl_valid (fs/posix_acl.c) would refuse is an error.
func DecodeACL(bytes []byte) (spec.ACL, error) {
	if len(bytes) < aclHeaderSize {
		return spec.ACL{}, fmt.Errorf("an ACL of %d bytes is too short: the header has %d", len(bytes), aclHeaderSize)
	}
	if version := binary.LittleEndian.Uint32(bytes); version != aclVersion {
		return spec.ACL{}, fmt.Errorf("an ACL of version %d: only version %d is known", version, aclVersion)
	}
	bytes = bytes[aclHeaderSize:]
	if len(bytes)%aclEntrySize != 0 {
		return spec.ACL{}, fmt.Errorf("an ACL ends within an entry: %d bytes left over", len(bytes)%aclEntrySize)
	}
	var acl spec.ACL
	for ; len(bytes) > 0; bytes = bytes[aclEntrySize:] {
		entry := spec.Entry{
			Tag:  spec.Tag(binary.LittleEndian.Uint16(bytes)),
			Perm: spec.Perm(binary.LittleEndian.Uint16(bytes[2:])),
		}
		if binary.LittleEndian.Uint16(bytes[2:]) > 7 {
			return spec.ACL{}, fmt.Errorf("an ACL entry with unknown permission bits %#x", binary.LittleEndian.Uint16(bytes[2:]))
		}
		if entry.Tag == spec.TagUser || entry.Tag == spec.TagGroup {
			entry.ID = binary.LittleEndian.Uint32(bytes[4:])
		}
		acl.Entries = append(acl.Entries, entry)
	}
	if len(acl.Entries) == 0 {
		return acl, nil
	}
	acl = canonical(acl)
	return acl, acl.Check()
}

// readACL reads one of a descriptor's ACLs; none, and a file system that
// knows none (supported is then false), are an empty one.
func readACL(kernel Kernel, fd int, xattr string) (acl spec.ACL, supported bool, err error) {
	var small [512]byte
	buffer := small[:]
	n, err := kernel.Getxattr(fd, xattr, buffer)
	if err == unix.ERANGE {
		buffer = make([]byte, maxXattrSize)
		n, err = kernel.Getxattr(fd, xattr, buffer)
	}
	switch err {
	case nil:
		acl, err = DecodeACL(buffer[:n])
		return acl, true, err
	case unix.ENODATA:
		return spec.ACL{}, true, nil
	case unix.EOPNOTSUPP:
		return spec.ACL{}, false, nil
	default:
		return spec.ACL{}, true, err
	}
}

// canonical sorts entries by tag, then id, and drops a repeated named user,
// of whom the kernel only ever reads the first entry (posix_acl_permission).
func canonical(acl spec.ACL) spec.ACL {
	entries := slices.Clone(acl.Entries)
	slices.SortStableFunc(entries, func(a, b spec.Entry) int {
		return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.ID, b.ID))
	})
	entries = slices.CompactFunc(entries, func(a, b spec.Entry) bool {
		return a.Tag == b.Tag && a.ID == b.ID && a.Tag == spec.TagUser
	})
	return spec.ACL{Entries: entries}
}
