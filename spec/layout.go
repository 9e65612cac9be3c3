// Package spec is volprep's layout language: bytes in, a typed, positioned and
// validated [Layout] out, or every fault of the file at once. It touches no
// file system: whatever it must be told of the system (the values of
// variables, the user database) comes in through [Options].
package spec

// Layout says how volumes must look before a workload starts. Everything in
// it is resolved: variables are substituted, names have become numbers, and
// what `umask` and `defaults` give from outside has been handed down.
type Layout struct {
	// Source names the text for messages: a file's path, or "-".
	Source string
	// Variables are those that the layout declares, in its order.
	Variables  []Variable
	Identities []Identity
	Groups     []Group
	Volumes    []Volume
	Expect     []Expectation
}

// Position is a place in the layout's text. Line and Column count from 1;
// the column counts bytes, as editors and compilers do.
type Position struct {
	Line, Column int
}

// Variable is a declared name that the layout's texts refer to.
type Variable struct {
	Name     string
	Position Position
	Value    string
	// Given: the value came from outside, and is not the layout's own default.
	Given bool
}

// Identity is a user of the volumes: a process with these ids, this umask
// and no capability.
type Identity struct {
	Name     string
	Position Position
	UID, GID uint32
	// Groups are the supplementary groups; GID is not repeated in them.
	Groups []uint32
	// Umask is the process's own (mode bits 0777); 0022 where the layout names none.
	Umask uint32
}

// Group is a declared name of a group id.
type Group struct {
	Name     string
	Position Position
	GID      uint32
}

// Volume is a directory tree of its own that the layout prepares.
type Volume struct {
	Position Position
	// Path is absolute and clean.
	Path string
	// MountRequired: the path must be a mount point of its own.
	MountRequired bool
	// Create: the root may be made where it is missing.
	Create bool
	// Optional: where the root is missing, the volume is skipped.
	Optional bool
	// Root is the volume's own root directory; its Path is ".".
	Root Directory
	// Directories are those listed, in the order of the file, each with
	// the volume's defaults already handed down.
	Directories []Directory
	// Defaults are for parents that are not listed and must be made.
	Defaults Attributes
	// Umask gives such parents their mode (bits 0777).
	Umask uint32
	// Contents is nil where the layout names none.
	Contents *Contents
}

// Only limits when the attributes of a directory count.
type Only string

// The values of Only.
const (
	// OnlyAlways: made where missing, mended where it exists.
	OnlyAlways Only = ""
	// OnlyCreate: attributes are set when apply makes the directory and left to the workload afterwards.
	OnlyCreate Only = "create"
	// OnlyExisting: mended where it exists, never made.
	OnlyExisting Only = "existing"
)

// Directory is one directory of a volume.
type Directory struct {
	Position Position
	// Path is relative to the volume's root and clean; "." is the root.
	Path string
	Only Only
	// Umask gives the mode of a directory that is made and names none (bits 0777).
	Umask uint32
	Attributes
}

// Attributes are what a layout names of a directory. A nil field is not
// named, and what is not named is not touched.
type Attributes struct {
	Owner *uint32
	Group *uint32
	Mode  *Mode
	// Access and Default are nil where not named; an ACL without entries removes.
	Access  *ACL
	Default *ACL
}

// When says which trees a Contents walk changes.
type When string

// The values of When.
const (
	WhenMismatch     When = "mismatch"      // each entry that differs (the default)
	WhenRootMismatch When = "root-mismatch" // nothing, where the volume's root is already right
	WhenAlways       When = "always"        // each entry, right or not
)

// Hardlinks says what a Contents walk does with a file that has several names.
type Hardlinks string

// The values of Hardlinks.
const (
	HardlinksInside Hardlinks = "inside" // changed when all its names are inside the tree (the default)
	HardlinksRefuse Hardlinks = "refuse"
	HardlinksChange Hardlinks = "change"
)

// Contents says how what already lies in a volume must look.
type Contents struct {
	Position          Position
	Owner, Group      *uint32
	DirMode, FileMode *Mode
	Access, Default   *ACL
	When              When
	// Exclude are names, or ** globs relative to the volume's root.
	Exclude       []string
	Hardlinks     Hardlinks
	OneFileSystem bool
}

// Verb is something a process may want to do at a path.
type Verb string

// The verbs of expectations and of `volprep access`.
const (
	List     Verb = "list"
	Traverse Verb = "traverse"
	Read     Verb = "read"
	Create   Verb = "create"
	Write    Verb = "write"
	Delete   Verb = "delete"
	Chmod    Verb = "chmod"
)

// Expectation is proved at the end of apply and verify.
type Expectation struct {
	Position Position
	As       Identity
	// Path is absolute and clean, and lies in a volume of the layout.
	Path        string
	Can, Cannot []Verb
	Creates     []Creation
}

// Creation says what Who may do with what the expectation's identity makes.
type Creation struct {
	Position  Position
	Directory bool // else a regular file
	Who       Identity
	Can       []Verb
}
