package spec

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

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

var whoBits = map[byte]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}

var permBits = map[byte]uint32{'r': 0o444, 'w': 0o222, 'x': 0o111, 's': 0o6000, 't': 0o1000}

var classShift = map[byte]uint{'u': 6, 'g': 3, 'o': 0}

// ParseMode reads octal digits, whether or not they begin with 0 or 0o, or
// the clauses of chmod(1). A symbolic mode of which twice is not the same as
// once (u=g,g=o) is refused: a second run would change it again.
func ParseMode(text string) (Mode, error) {
	if text == "" {
		return Mode{}, errors.New("a mode is missing")
	}
	if text[0] >= '0' && text[0] <= '9' {
		digits := strings.TrimPrefix(text, "0o")
		bits, err := strconv.ParseUint(digits, 8, 32)
		if err != nil || bits > 0o7777 {
			return Mode{}, fmt.Errorf("%q is no octal mode of at most 7777", text)
		}
		return Mode{Text: text, Absolute: true, Bits: uint32(bits)}, nil
	}
	mode := Mode{Text: text}
	for _, part := range strings.Split(text, ",") {
		clauses, err := parseClauses(part)
		if err != nil {
			return Mode{}, err
		}
		mode.Clauses = append(mode.Clauses, clauses...)
	}
	if !mode.idempotent() {
		return Mode{}, fmt.Errorf("%q applied twice is not the same as once", text)
	}
	return mode, nil
}

// parseClauses reads one comma's worth: classes, then operators with permissions.
func parseClauses(part string) ([]Clause, error) {
	i := 0
	var who uint32
	for ; i < len(part) && whoBits[part[i]] != 0; i++ {
		who |= whoBits[part[i]]
	}
	masked := who == 0
	if masked {
		who = 0o7777
	}
	if i == len(part) {
		return nil, fmt.Errorf("%q has no +, - or = with permissions", part)
	}
	var clauses []Clause
	for i < len(part) {
		clause := Clause{Who: who, Op: part[i], Masked: masked}
		if !strings.ContainsRune("+-=", rune(part[i])) {
			return nil, fmt.Errorf("%q has %q where +, - or = must stand", part, part[i:i+1])
		}
		for i++; i < len(part) && !strings.ContainsRune("+-=", rune(part[i])); i++ {
			_, copies := classShift[part[i]]
			switch {
			case copies && clause.Copy == 0 && clause.Perm == 0 && !clause.X:
				clause.Copy = part[i]
			case clause.Copy != 0 || copies:
				return nil, fmt.Errorf("%q copies a class and names permissions at once", part)
			case part[i] == 'X':
				clause.X = true
			case permBits[part[i]] != 0:
				clause.Perm |= permBits[part[i]]
			default:
				return nil, fmt.Errorf("%q has the unknown permission %q", part, part[i:i+1])
			}
		}
		clauses = append(clauses, clause)
	}
	return clauses, nil
}

// Apply is the mode that it makes of another (bits 07777), as chmod(1) would
// under this umask.
func (m Mode) Apply(mode uint32, directory bool, umask uint32) uint32 {
	if m.Absolute {
		return m.Bits
	}
	for _, clause := range m.Clauses {
		perm := clause.Perm
		if clause.Copy != 0 {
			perm = mode >> classShift[clause.Copy] & 7 * 0o111
		}
		if clause.X && (directory || mode&0o111 != 0) {
			perm |= 0o111
		}
		perm &= clause.Who
		if clause.Masked {
			perm &^= umask
		}
		switch clause.Op {
		case '+':
			mode |= perm
		case '-':
			mode &^= perm
		case '=':
			mode = mode&^clause.Who | perm
		}
	}
	return mode
}

// idempotent tries every mode there is.
func (m Mode) idempotent() bool {
	for mode := range uint32(0o10000) {
		for _, directory := range []bool{true, false} {
			once := m.Apply(mode, directory, 0o022)
			if m.Apply(once, directory, 0o022) != once {
				return false
			}
		}
	}
	return true
}

// String is the mode as it was written.
func (m Mode) String() string { return m.Text }
