package prep

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"volprep/spec"
)

// Credentials are a process without any capability.
type Credentials struct {
	UID, GID uint32
	Groups   []uint32
}

// String is the credentials as --as takes them.
func (c Credentials) String() string {
	text := fmt.Sprintf("%d:%d", c.UID, c.GID)
	for _, group := range c.Groups {
		text += fmt.Sprintf(",%d", group)
	}
	return text
}

// credentialsOf are those of an identity's processes.
func credentialsOf(identity spec.Identity) Credentials {
	return Credentials{UID: identity.UID, GID: identity.GID, Groups: identity.Groups}
}

func (c Credentials) caller() Caller { return Caller(c) }

// Component is one directory, or at the end one file, on the way from a
// volume's root to a path.
type Component struct {
	Path  string
	State State
	// ReadOnly: it lies on a read-only mount.
	ReadOnly bool
}

// Verdict says whether a process may do something, and what decided.
type Verdict struct {
	Verb    spec.Verb `json:"verb"`
	Allowed bool      `json:"allowed"`
	// At is the path of the component that decided.
	At string `json:"at"`
	// Entry is the ACL entry or the rule that decided.
	Entry string `json:"entry"`
	Why   string `json:"why"`
	// Mend is the smallest change of the layout that would allow it.
	Mend string `json:"mend,omitempty"`
}

// Can tells whether a process may do something at the end of a chain of
// components that begins at a volume's root, as path_resolution(7), acl(5)
// and unlink(2) have it. The sysctls fs.protected_* (proc_sys_fs(5)) decide
// none of the verbs: they are about links that are made or followed, and about
// open(2) with O_CREAT of what exists already in a sticky directory, where
// write is open(2) without it, and create is of a name that is not there.
func Can(c Credentials, chain []Component, verb spec.Verb) Verdict {
	last := chain[len(chain)-1]
	allowed := Verdict{Verb: verb, Allowed: true, At: last.Path}
	for _, above := range chain[:len(chain)-1] {
		if verdict := decide(c, above, verb, spec.PermExecute); !verdict.Allowed {
			return verdict
		}
	}
	if last.ReadOnly && slices.Contains([]spec.Verb{spec.Create, spec.Write, spec.Delete, spec.Chmod}, verb) {
		return Verdict{Verb: verb, At: last.Path, Entry: "read-only mount", Why: "the volume is mounted read-only", Mend: "mount it writable for this container"}
	}
	directory := last.State.Type == fs.ModeDir
	switch verb {
	case spec.List:
		if !directory {
			return wrongKind(verb, last, "only a directory can be listed")
		}
		return decide(c, last, verb, spec.PermRead)
	case spec.Traverse:
		if !directory {
			return wrongKind(verb, last, "only a directory can be traversed")
		}
		return decide(c, last, verb, spec.PermExecute)
	case spec.Read:
		return decide(c, last, verb, spec.PermRead)
	case spec.Create:
		if !directory {
			return wrongKind(verb, last, "only in a directory can something be created")
		}
		return decide(c, last, verb, spec.PermWrite|spec.PermExecute)
	case spec.Write:
		need := spec.PermWrite
		if directory {
			need |= spec.PermExecute
		}
		return decide(c, last, verb, need)
	case spec.Chmod:
		if last.State.UID == c.UID {
			allowed.Entry, allowed.Why = "owner", fmt.Sprintf("uid %d owns it", c.UID)
			return allowed
		}
		return Verdict{Verb: verb, At: last.Path, Entry: "owner", Why: fmt.Sprintf("uid %d does not own it, uid %d does", c.UID, last.State.UID),
			Mend: fmt.Sprintf("name owner: %d for %s", c.UID, printable(last.Path))}
	default:
		return canDelete(c, chain)
	}
}

// canDelete: whoever may write the directory above may, but in a sticky one
// only the owner of either (unlink(2), EPERM).
func canDelete(c Credentials, chain []Component) Verdict {
	last := chain[len(chain)-1]
	if len(chain) == 1 {
		return Verdict{Verb: spec.Delete, At: last.Path, Entry: "mount point", Why: "a volume's own root cannot be deleted"}
	}
	above := chain[len(chain)-2]
	verdict := decide(c, above, spec.Delete, spec.PermWrite|spec.PermExecute)
	if !verdict.Allowed || above.State.Mode&stickyBit == 0 || above.State.UID == c.UID || last.State.UID == c.UID {
		return verdict
	}
	return Verdict{Verb: spec.Delete, At: above.Path, Entry: "sticky", Why: fmt.Sprintf("the directory is sticky, and uid %d owns neither it nor %s", c.UID, printable(last.Path)),
		Mend: "take the sticky bit off " + printable(above.Path) + ": mode: o-t"}
}

func wrongKind(verb spec.Verb, at Component, why string) Verdict {
	return Verdict{Verb: verb, At: at.Path, Entry: "type", Why: why + ", and this is " + typeName(at.State.Type)}
}

// decide is the access check algorithm of acl(5) for one inode, with the
// entry that decides.
func decide(c Credentials, at Component, verb spec.Verb, need spec.Perm) Verdict {
	verdict := Verdict{Verb: verb, Allowed: permits(at.State, c.caller(), need), At: at.Path}
	entry, whom := deciding(at.State, c.caller(), need)
	verdict.Entry = entry.String()
	effective := entry.Perm
	masked := ""
	if whom != owner && whom != others {
		effective &= at.State.mask()
		if effective != entry.Perm {
			masked = fmt.Sprintf(", of which the mask leaves %s", effective)
		}
	}
	verdict.Why = fmt.Sprintf("%s: %s has %s%s, and %s is needed", printable(at.Path), whom, entry.Perm, masked, need)
	if !verdict.Allowed {
		verdict.Mend = mend(c, at, entry, need, masked != "")
	}
	return verdict
}

// permits tells whether the kernel lets the caller, without CAP_DAC_OVERRIDE,
// have the permissions on an inode.
func permits(s State, caller Caller, need spec.Perm) bool {
	entry, whom := deciding(s, caller, need)
	if whom == owner || whom == others {
		return entry.Perm&need == need
	}
	return entry.Perm&s.mask()&need == need
}

// The classes that no mask bounds.
const (
	owner  = "owner"
	others = "others"
)

// deciding is the entry that grants, or the one that refuses, and whose it is:
// acl_permission_check (fs/namei.c) and posix_acl_permission (fs/posix_acl.c).
// Where the mask is empty the kernel does not look at the ACL at all, and who
// is named in it is one of the others.
func deciding(s State, caller Caller, need spec.Perm) (spec.Entry, string) {
	refuses, whom := spec.Entry{Tag: spec.TagOther, Perm: spec.Perm(s.Mode & 7)}, others
	if s.UID == caller.UID {
		return spec.Entry{Tag: spec.TagUserObj, Perm: spec.Perm(s.Mode >> 6 & 7)}, owner
	}
	for _, entry := range s.accessACL().Entries {
		if entry.Tag != spec.TagGroupObj && s.mask() == 0 {
			continue
		}
		switch {
		case entry.Tag == spec.TagUser && entry.ID == caller.UID:
			return entry, "the named user"
		case entry.Tag == spec.TagGroupObj && caller.in(s.GID), entry.Tag == spec.TagGroup && caller.in(entry.ID):
			name := "the named group"
			if entry.Tag == spec.TagGroupObj {
				name = fmt.Sprintf("the owning group %d", s.GID)
			}
			if entry.Perm&s.mask()&need == need {
				return entry, name
			}
			if whom == others {
				refuses, whom = entry, name
			}
		}
	}
	return refuses, whom
}

// mend is the smallest change that would grant what an entry refuses.
func mend(c Credentials, at Component, entry spec.Entry, need spec.Perm, masked bool) string {
	lacking := strings.ReplaceAll((need &^ entry.Perm).String(), "-", "")
	where := printable(at.Path)
	switch {
	case masked:
		return "widen the mask of " + where + " in access_acl"
	case entry.Tag == spec.TagUserObj:
		return fmt.Sprintf("give %s mode: u+%s", where, lacking)
	case entry.Tag == spec.TagGroupObj:
		return fmt.Sprintf("give %s mode: g+%s", where, lacking)
	case entry.Tag == spec.TagOther && spec.Perm(at.State.Mode>>3&7)&at.State.mask()&need == need:
		return fmt.Sprintf("put the identity into group %d, which has %s on %s", at.State.GID, spec.Perm(at.State.Mode>>3&7), where)
	default:
		return fmt.Sprintf("add \"user:%d:%s\" to the access_acl of %s", c.UID, strings.ReplaceAll((need|entry.Perm).String(), "-", ""), where)
	}
}

// verbs are all, in the order of tables.
var verbs = []spec.Verb{spec.List, spec.Traverse, spec.Read, spec.Create, spec.Write, spec.Delete, spec.Chmod}

// Access is what one identity may do at one path.
type Access struct {
	As       string    `json:"as"`
	Path     string    `json:"path"`
	Unknown  string    `json:"unknown,omitempty"`
	Verdicts []Verdict `json:"verdicts,omitempty"`
}

// Evaluate answers every verb for one path; look gives its chain.
func Evaluate(c Credentials, path string, look func(string) ([]Component, error)) Access {
	access := Access{As: c.String(), Path: path}
	chain, err := look(path)
	if err != nil {
		access.Unknown = err.Error()
		return access
	}
	for _, verb := range verbs {
		access.Verdicts = append(access.Verdicts, Can(c, chain, verb))
	}
	return access
}

// Text writes the answers as a table, verb by verb.
func (a Access) Text(w io.Writer, coloured bool) {
	p := paletteFor(coloured)
	fmt.Fprintf(w, "%s as %s\n", printable(a.Path), a.As)
	if a.Unknown != "" {
		fmt.Fprintf(w, "  %sunknown%s  %s\n", p.changed, p.plain, a.Unknown)
	}
	for _, v := range a.Verdicts {
		answer := p.refused + "no " + p.plain
		if v.Allowed {
			answer = p.created + "yes" + p.plain
		}
		fmt.Fprintf(w, "  %-9s %s  %s\n", v.Verb, answer, v.Why)
		if v.Mend != "" {
			fmt.Fprintf(w, "                 %s\n", v.Mend)
		}
	}
}

// ParseCredentials reads UID[:GID[,GID…]]; without a gid it is the uid.
func ParseCredentials(text string) (Credentials, error) {
	uid, groups, _ := strings.Cut(text, ":")
	c := Credentials{}
	var ids []uint32
	for _, field := range append([]string{uid}, strings.FieldsFunc(groups, func(r rune) bool { return r == ',' })...) {
		var id uint32
		if _, err := fmt.Sscanf(field, "%d", &id); err != nil || fmt.Sprint(id) != field {
			return c, errors.New(text + " must be UID[:GID[,GID…]] in decimal ids")
		}
		ids = append(ids, id)
	}
	c.UID, c.GID = ids[0], ids[0]
	if len(ids) > 1 {
		c.GID, c.Groups = ids[1], ids[2:]
	}
	return c, nil
}
