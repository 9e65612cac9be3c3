package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Severity tells a fault, with which a layout is refused, from a warning.
type Severity int

// The severities.
const (
	Fault Severity = iota
	Warning
)

// Problem is one thing that is wrong in a layout's text.
type Problem struct {
	Position Position
	Severity Severity
	// Message says what is wrong, Mend how to mend it.
	Message, Mend string
	// Line is the text of the line it stands in.
	Line string
}

// Problems are all that is wrong with one text, in the order of the text.
type Problems struct {
	Source string
	List   []Problem
}

// Error writes each as `file:line:column: what: mend`, and below it the line
// with a caret under the column.
func (p Problems) Error() string {
	var text strings.Builder
	for i, problem := range p.List {
		if i > 0 {
			text.WriteByte('\n')
		}
		level := ""
		if problem.Severity == Warning {
			level = "warning: "
		}
		fmt.Fprintf(&text, "%s:%d:%d: %s%s: %s", p.Source, problem.Position.Line, problem.Position.Column, level, problem.Message, problem.Mend)
		if problem.Line != "" {
			fmt.Fprintf(&text, "\n  %s\n  %s^", plain(problem.Line), indentOf(problem.Line, problem.Position.Column))
		}
	}
	return text.String()
}

// Faults tells whether the layout must be refused.
func (p Problems) Faults() bool {
	return slices.ContainsFunc(p.List, func(problem Problem) bool { return problem.Severity == Fault })
}

// plain makes a line of the source fit for a terminal: no control character
// but the tab gets through.
func plain(line string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0) {
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(line, "\ufffd"))
}

// indentOf is white space as wide as the line is before the column.
func indentOf(line string, column int) string {
	before := line[:min(column-1, len(line))]
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, before)
}

// nearest is the known word that a misspelling most likely means, "" for none.
func nearest(word string, known []string) string {
	best, distance := "", 2
	if len(word) > 3 {
		distance = 3
	}
	for _, candidate := range known {
		if d := editDistance(strings.ToLower(word), candidate); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// editDistance is Levenshtein's, over bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
