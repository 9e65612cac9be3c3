package prep

import (
	"io/fs"

	"volprep/spec"
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
