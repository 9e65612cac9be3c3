package spec

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

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

// String is the permissions as getfacl(1) writes them: r-x.
func (p Perm) String() string {
	text := []byte("---")
	for i, letter := range []byte("rwx") {
		if p&(PermRead>>i) != 0 {
			text[i] = letter
		}
	}
	if p&PermConditionalExecute != 0 && p&PermExecute == 0 {
		text[2] = 'X'
	}
	return string(text)
}

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

var tagNames = map[Tag]string{TagUserObj: "u", TagUser: "u", TagGroupObj: "g", TagGroup: "g", TagMask: "m", TagOther: "o"}

// Entry is one line of an ACL. ID counts for TagUser and TagGroup alone.
type Entry struct {
	Tag  Tag
	ID   uint32
	Perm Perm
}

// named: the entry is for a user or group by id.
func (e Entry) named() bool { return e.Tag == TagUser || e.Tag == TagGroup }

// String is the entry as setfacl(1) takes it, its id as a number.
func (e Entry) String() string {
	id := ""
	if e.named() {
		id = strconv.FormatUint(uint64(e.ID), 10)
	}
	return tagNames[e.Tag] + ":" + id + ":" + e.Perm.String()
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

// Empty tells whether the ACL says nothing, which in a layout removes one.
func (a ACL) Empty() bool { return len(a.Entries) == 0 && a.Umask == nil }

// Extended tells whether the ACL says more than a mode could.
func (a ACL) Extended() bool {
	return slices.ContainsFunc(a.Entries, func(e Entry) bool { return e.named() || e.Tag == TagMask })
}

// Get is the permission of a base entry or the mask.
func (a ACL) Get(tag Tag) (Perm, bool) {
	for _, entry := range a.Entries {
		if entry.Tag == tag && !entry.named() {
			return entry.Perm, true
		}
	}
	return 0, false
}

// Equal compares two ACLs entry by entry.
func (a ACL) Equal(b ACL) bool { return slices.Equal(a.Entries, b.Entries) }

// String is the ACL as setfacl(1) takes it, ids as numbers.
func (a ACL) String() string {
	entries := make([]string, len(a.Entries))
	for i, entry := range a.Entries {
		entries[i] = entry.String()
	}
	return strings.Join(entries, ",")
}

// Complete adds the base entries that are not written, from the umask where
// the word stands in the ACL, else from mode (its digits for owner, owning
// group and others); settles X, for executable means a directory or a file
// that somebody may execute; adds the mask, the union of the group class,
// where named entries need one (acl(5)); and sorts.
func (a ACL) Complete(mode uint32, executable bool) ACL {
	if a.Umask != nil {
		mode = 0o777 &^ *a.Umask
	}
	entries := slices.Clone(a.Entries)
	for i := range entries {
		if entries[i].Perm&PermConditionalExecute != 0 {
			entries[i].Perm &^= PermConditionalExecute
			if executable {
				entries[i].Perm |= PermExecute
			}
		}
	}
	for _, base := range []Entry{{Tag: TagUserObj, Perm: Perm(mode >> 6 & 7)}, {Tag: TagGroupObj, Perm: Perm(mode >> 3 & 7)}, {Tag: TagOther, Perm: Perm(mode & 7)}} {
		if _, ok := a.Get(base.Tag); !ok {
			entries = append(entries, base)
		}
	}
	named, mask := false, Perm(0)
	for _, entry := range entries {
		if entry.named() || entry.Tag == TagGroupObj {
			mask |= entry.Perm
		}
		named = named || entry.named()
	}
	if _, ok := a.Get(TagMask); !ok && named {
		entries = append(entries, Entry{Tag: TagMask, Perm: mask})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Or(cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.ID, b.ID)) })
	return ACL{Entries: entries}
}

// Check says what the kernel would refuse of a complete ACL (posix_acl_valid
// in fs/posix_acl.c).
func (a ACL) Check() error {
	counts := map[Tag]int{}
	for _, entry := range a.Entries {
		if tagNames[entry.Tag] == "" {
			return fmt.Errorf("an ACL entry with the unknown tag %#x", uint16(entry.Tag))
		}
		if entry.named() && entry.ID == maxID+1 {
			return errors.New("an ACL entry for the id 4294967295, which means none")
		}
		counts[entry.Tag]++
	}
	for _, tag := range []Tag{TagUserObj, TagGroupObj, TagOther} {
		if counts[tag] != 1 {
			return fmt.Errorf("an ACL with %d entries %s:: instead of one", counts[tag], tagNames[tag])
		}
	}
	if counts[TagMask] > 1 || counts[TagMask] == 0 && counts[TagUser]+counts[TagGroup] > 0 {
		return fmt.Errorf("an ACL with named entries and %d masks instead of one", counts[TagMask])
	}
	return nil
}

// Lookup gives the id of a name.
type Lookup func(name string) (uint32, bool)

// ParseEntry reads one entry of setfacl(1) text, long or short: `user:3000:r-X`,
// `g::rx`, `m:rx`, `o::-`, `default:` or `d:` before it. Names are looked up.
func ParseEntry(text string, users, groups Lookup) (Entry, error) {
	fields := strings.Split(strings.TrimSpace(text), ":")
	if len(fields) > 1 && (fields[0] == "d" || fields[0] == "default") {
		fields = fields[1:]
	}
	var entry Entry
	named := TagUser
	lookup := users
	switch fields[0] {
	case "u", "user":
		entry.Tag = TagUserObj
	case "g", "group":
		entry.Tag, named, lookup = TagGroupObj, TagGroup, groups
	case "m", "mask":
		entry.Tag, named = TagMask, 0
	case "o", "other":
		entry.Tag, named = TagOther, 0
	default:
		return entry, fmt.Errorf("%q begins with none of user, group, mask, other", text)
	}
	if len(fields) == 2 && named == 0 {
		fields = []string{fields[0], "", fields[1]}
	}
	if len(fields) != 3 {
		return entry, fmt.Errorf("%q has not the form kind:name:permissions", text)
	}
	if fields[1] != "" {
		if named == 0 {
			return entry, fmt.Errorf("%q names somebody, and mask and other are for nobody by name", text)
		}
		id, err := parseID(fields[1])
		if err != nil {
			known := false
			if id, known = lookup(fields[1]); !known {
				return entry, fmt.Errorf("%q names %q, which is neither an id nor declared", text, fields[1])
			}
		}
		entry.Tag, entry.ID = named, id
	}
	for _, letter := range fields[2] {
		switch letter {
		case 'r':
			entry.Perm |= PermRead
		case 'w':
			entry.Perm |= PermWrite
		case 'x':
			entry.Perm |= PermExecute
		case 'X':
			entry.Perm |= PermConditionalExecute
		case '-':
		default:
			return entry, fmt.Errorf("%q has the unknown permission %q", text, letter)
		}
	}
	if fields[2] == "" {
		return entry, fmt.Errorf("%q names no permissions; - is none", text)
	}
	return entry, nil
}

// maxID is the largest user or group id; the one above it means "leave alone" to chown(2).
const maxID uint32 = 4294967294

// parseID reads a decimal id. A leading zero is refused, for it looks octal.
func parseID(text string) (uint32, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || text[0] == '+' {
		return 0, fmt.Errorf("%q is no decimal id", text)
	}
	if len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("%q begins with a zero", text)
	}
	if id > uint64(maxID) {
		return 0, fmt.Errorf("%q is above %d", text, maxID)
	}
	return uint32(id), nil
}
