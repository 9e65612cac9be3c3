package prep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Captured is a layout that describes trees as they are.
type Captured struct {
	Layout *spec.Layout
	// Unseen are directories that could not be looked into.
	Unseen []Unknown
	// Deeper are directories with others in them, below the depth that was asked for.
	Deeper []string
	// Elsewhere are the mount points in the trees, which a layout lists as volumes of their own.
	Elsewhere []string
	// Unnamed are directories whose names no layout can hold: they are no UTF-8.
	Unnamed []string
}

// Capture looks at the directories of trees, down to depth levels below each
// root, and changes nothing, not even an access time where it may. Applied to
// the same trees the layout changes nothing; applied to empty ones it makes
// the same directories. lost+found, .snapshot and volprep's own staging
// directory are passed over. Its error is that a root could not be looked at.
func Capture(ctx context.Context, roots []string, depth int, options Options) (Captured, error) {
	c := &capture{engine: newEngine(ctx, "capture", options), depth: depth, layout: &spec.Layout{}}
	for _, root := range roots {
		volume := spec.Volume{Path: path.Clean("/" + root), Root: spec.Directory{Path: "."}}
		at, err := c.engine.locate(plant(&volume))
		if err != nil {
			return Captured{}, err
		}
		err = c.directory(&volume, State{Type: fs.ModeDir}, at.root, ".", 0)
		at.close(c.engine.kernel)
		if err != nil {
			return Captured{}, err
		}
		c.layout.Volumes = append(c.layout.Volumes, volume)
	}
	c.guess()
	return Captured{Layout: c.layout, Unseen: c.engine.report.Unknown, Deeper: c.deeper, Elsewhere: c.elsewhere, Unnamed: c.unnamed}, ctx.Err()
}

// Remarks writes what the layout does not describe, a line each.
func (c Captured) Remarks(w io.Writer) {
	for _, unseen := range c.Unseen {
		fmt.Fprintf(w, "%s: not described, for this process may not look into %s: %s\n", printable(unseen.Path), printable(unseen.Behind), unseen.Mend)
	}
	for _, path := range c.Deeper {
		fmt.Fprintf(w, "%s: the directories in it are deeper than was asked for: --depth\n", printable(path))
	}
	for _, path := range c.Elsewhere {
		fmt.Fprintf(w, "%s: another file system is mounted there: name it beside the others\n", printable(path))
	}
	for _, path := range c.Unnamed {
		fmt.Fprintf(w, "%s: not described, for its name is no UTF-8: rename it\n", printable(path))
	}
}

type capture struct {
	engine                     *engine
	depth                      int
	layout                     *spec.Layout
	deeper, elsewhere, unnamed []string
	// owners are the uids in the order in which they were met, each with the groups of its directories.
	owners []spec.Identity
}

// passedOver are names that belong to the file system, or to volprep.
var passedOver = []string{"lost+found", ".snapshot", StagingName}

// directory describes a directory, then those in it. parent is the state of
// the one above.
func (c *capture) directory(volume *spec.Volume, parent State, fd int, name string, level int) error {
	where := path.Join(volume.Path, name)
	info, err := look(c.engine.kernel, fd)
	if err != nil {
		return c.engine.failed(where, "looking at the directory", err, nil)
	}
	described := spec.Directory{Path: name, Attributes: attributesOf(info.State, parent)}
	c.owned(info.State)
	if level == 0 {
		volume.Root = described
	} else {
		volume.Directories = append(volume.Directories, described)
	}
	names, err := c.names(fd)
	if err == unix.EACCES {
		c.engine.unknown(&node{path: where}, where)
		return nil
	}
	if err != nil {
		return c.engine.failed(where, "reading the directory", err, &info.State)
	}
	for _, child := range names {
		if !utf8.ValidString(child) {
			c.unnamed = append(c.unnamed, path.Join(where, child))
			continue
		}
		below, err := c.engine.walker.below(fd, child)
		switch {
		case errors.Is(err, errCrossing):
			c.elsewhere = append(c.elsewhere, path.Join(where, child))
			continue
		case err == unix.EACCES:
			c.engine.unknown(&node{path: path.Join(where, child)}, where)
			continue
		case err == unix.ENOENT:
			continue
		case err != nil:
			return c.engine.failed(path.Join(where, child), "opening the directory", err, nil)
		}
		if level == c.depth {
			c.engine.kernel.Close(below)
			c.deeper = append(c.deeper, where)
			break
		}
		err = c.directory(volume, info.State, below, path.Join(name, child), level+1)
		c.engine.kernel.Close(below)
		if err != nil {
			return err
		}
	}
	return nil
}

// names are the directories in a directory, sorted.
func (c *capture) names(fd int) ([]string, error) {
	kernel := c.engine.kernel
	reader, err := kernel.Openat(fd, ".", reading|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.EPERM {
		reader, err = c.engine.walker.reader(fd)
	}
	if err != nil {
		return nil, err
	}
	defer kernel.Close(reader)
	var names []string
	buffer := make([]byte, readSize)
	for {
		n, err := kernel.Getdents(reader, buffer)
		if err != nil || n == 0 {
			slices.Sort(names)
			return names, err
		}
		for entries := buffer[:n]; len(entries) > 0; {
			entry := dirent(entries)
			name := string(entry.name())
			entries = entries[entry.length():]
			if isDot([]byte(name)) || slices.Contains(passedOver, name) {
				continue
			}
			directory := entry.kind() == unix.DT_DIR
			if entry.kind() == unix.DT_UNKNOWN {
				var stat unix.Statx_t
				directory = kernel.Statx(fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &stat) == nil && fileType(stat.Mode) == fs.ModeDir
			}
			if directory {
				names = append(names, name)
			}
		}
	}
}

// attributesOf names what makes a directory so: owner, group and mode, and an ACL where
// there is one, or where one would be inherited.
func attributesOf(state, parent State) spec.Attributes {
	named := spec.Attributes{Owner: &state.UID, Group: &state.GID,
		Mode: &spec.Mode{Text: fmt.Sprintf("%04o", state.Mode), Absolute: true, Bits: state.Mode}}
	if state.Access.Extended() || !parent.Default.Empty() {
		acl := spec.Shorten(state.Access, state.Mode)
		named.Access = &acl
	}
	if !state.Default.Empty() || !parent.Default.Empty() {
		acl := spec.Shorten(state.Default, state.Mode)
		named.Default = &acl
	}
	return named
}

// owned notes whose a directory is.
func (c *capture) owned(state State) {
	at := slices.IndexFunc(c.owners, func(i spec.Identity) bool { return i.UID == state.UID })
	if at < 0 {
		c.owners = append(c.owners, spec.Identity{UID: state.UID, GID: state.GID})
	} else if i := &c.owners[at]; i.GID != state.GID && !slices.Contains(i.Groups, state.GID) {
		i.Groups = append(i.Groups, state.GID)
	}
}

// guess makes identities of the owners but root, and groups of the groups that
// more than one of them has: who owns a directory of a group is mostly in it.
func (c *capture) guess() {
	members := map[uint32]int{}
	for _, owner := range c.owners {
		if owner.UID == 0 {
			continue
		}
		owner.Name = fmt.Sprintf("u%d", owner.UID)
		c.layout.Identities = append(c.layout.Identities, owner)
		for _, gid := range append([]uint32{owner.GID}, owner.Groups...) {
			members[gid]++
		}
	}
	slices.SortFunc(c.layout.Identities, func(a, b spec.Identity) int { return strings.Compare(a.Name, b.Name) })
	for gid, n := range members {
		if n > 1 {
			c.layout.Groups = append(c.layout.Groups, spec.Group{Name: fmt.Sprintf("g%d", gid), GID: gid})
		}
	}
	slices.SortFunc(c.layout.Groups, func(a, b spec.Group) int { return strings.Compare(a.Name, b.Name) })
}
