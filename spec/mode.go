package spec

// Mode is a mode as a layout writes it: octal, or symbolic as chmod(1) has it.
type Mode struct {
	// Text is the mode as it was written.
	Text string
	// Absolute: Bits are the whole mode, 07777. Else Clauses are applied in order.
	Absolute bool
	Bits     uint32
	Clauses  []Clause
}

// Clause is one change of a symbolic mode: who, operator, permissions.
type Clause struct {
	Who  uint32 // the bits it may touch: of 04700 for u, 02070 for g, 01007 for o
	Op   byte   // '+', '-' or '='
	Perm uint32 // of 07777, replicated over all classes, before Who masks it
	X    bool   // execute, where it is a directory or somebody may execute already
	Copy byte   // 'u', 'g' or 'o': that class's permissions; 0 for none
	// Masked: no class was written, so the umask masks what is added.
	Masked bool
}
