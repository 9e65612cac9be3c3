package spec

// Perm is a set of permissions of one ACL entry.
type Perm uint8

// The permissions. ConditionalExecute is setfacl(1)'s X: execute for a
// directory, and for a file that somebody may execute already.
const (
	PermExecute            Perm = 1
	PermWrite              Perm = 2
	PermRead               Perm = 4
	PermConditionalExecute Perm = 8
)

// Tag says whom an ACL entry is for. The values are the kernel's own
// (include/uapi/linux/posix_acl.h).
type Tag uint16

// The tags, in the canonical order of acl(5).
const (
	TagUserObj  Tag = 0x01
	TagUser     Tag = 0x02
	TagGroupObj Tag = 0x04
	TagGroup    Tag = 0x08
	TagMask     Tag = 0x10
	TagOther    Tag = 0x20
)

// Entry is one line of an ACL. ID counts for TagUser and TagGroup alone.
type Entry struct {
	Tag  Tag
	ID   uint32
	Perm Perm
}

// ACL is a POSIX access control list. As a layout writes it, base entries
// and mask may be missing and X may be unsettled: [ACL.Complete] settles
// both. An ACL that describes a file is complete and in canonical order:
// by tag, then by id.
type ACL struct {
	Entries []Entry
	// Umask: the word `umask` stood among the items of a default ACL; the
	// base entries that are not written are then 0777 & ~umask.
	Umask *uint32
}
