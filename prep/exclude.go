package prep

import (
	"bytes"
	"strings"
)

// exclusions are what a contents walk leaves out: it neither opens nor looks
// at an excluded entry.
//
// A pattern without a slash is for the names of entries at any level; one with
// a slash is for paths relative to the volume's root, where `**` stands for
// any number of components, none included. Within a component, `*` stands for
// any run of bytes, `?` for one byte, `[…]` for one of a set (`[!…]`: not of
// it), and a backslash takes the meaning from the next byte.
type exclusions struct {
	names    map[string]bool
	patterns [][]byte
	paths    [][][]byte
}

var anyComponents = []byte("**")

func newExclusions(exclude []string) *exclusions {
	x := &exclusions{names: map[string]bool{}}
	for _, pattern := range exclude {
		pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "./"), "/")
		switch {
		case pattern == "":
		case strings.Contains(pattern, "/"):
			var components [][]byte
			for component := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
				components = append(components, []byte(component))
			}
			x.paths = append(x.paths, components)
		case strings.ContainsAny(pattern, `*?[\`):
			x.patterns = append(x.patterns, []byte(pattern))
		default:
			x.names[pattern] = true
		}
	}
	return x
}

// partial is a path pattern of which a directory's path has met the first
// components.
type partial struct {
	pattern, met int
}

// start are the patterns as the root meets them.
func (x *exclusions) start() []partial {
	var at []partial
	for i := range x.paths {
		at = x.meet(at, partial{i, 0})
	}
	return at
}

// meet adds a partial, and what it becomes where a `**` stands for nothing.
func (x *exclusions) meet(at []partial, p partial) []partial {
	for _, known := range at {
		if known == p {
			return at
		}
	}
	at = append(at, p)
	if components := x.paths[p.pattern]; p.met < len(components) && bytes.Equal(components[p.met], anyComponents) {
		at = x.meet(at, partial{p.pattern, p.met + 1})
	}
	return at
}

// excludes tells whether an entry is left out, in a directory that met some
// patterns in part. It allocates nothing.
func (x *exclusions) excludes(at []partial, name []byte) bool {
	if x.names[string(name)] {
		return true
	}
	for _, pattern := range x.patterns {
		if matchName(pattern, name) {
			return true
		}
	}
	for _, p := range at {
		components := x.paths[p.pattern]
		if p.met >= len(components) {
			continue
		}
		component := components[p.met]
		any := bytes.Equal(component, anyComponents)
		last := p.met == len(components)-1
		if last && (any || matchName(component, name)) {
			return true
		}
	}
	return false
}

// below are the patterns as a directory of that name, in one that met some, meets them.
func (x *exclusions) below(at []partial, name []byte) []partial {
	var next []partial
	for _, p := range at {
		components := x.paths[p.pattern]
		switch {
		case p.met >= len(components):
		case bytes.Equal(components[p.met], anyComponents):
			next = x.meet(next, p)
		case matchName(components[p.met], name):
			next = x.meet(next, partial{p.pattern, p.met + 1})
		}
	}
	return next
}

// matchName matches one name against one component of a pattern, in time
// proportional to their product at most: after a mismatch only the last `*` is
// given one byte more.
func matchName(pattern, name []byte) bool {
	p, n := 0, 0
	star, mark := -1, 0
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, n
			p++
			continue
		}
		if width := matchByte(pattern[p:], name[n]); width > 0 {
			p += width
			n++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, n = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchByte tells how much of a pattern matches one byte; 0 is that it does not.
// A set that is not closed stands for a bracket.
func matchByte(pattern []byte, b byte) int {
	if len(pattern) == 0 {
		return 0
	}
	switch pattern[0] {
	case '?':
		return 1
	case '\\':
		if len(pattern) > 1 {
			if pattern[1] == b {
				return 2
			}
			return 0
		}
	case '[':
		if width, in := matchSet(pattern, b); width > 0 {
			if in {
				return width
			}
			return 0
		}
	}
	if pattern[0] == b {
		return 1
	}
	return 0
}

// matchSet reads a `[…]`, whose width is 0 where it is not closed. A bracket
// that comes first in a set belongs to it.
func matchSet(pattern []byte, b byte) (width int, in bool) {
	at := 1
	negated := at < len(pattern) && (pattern[at] == '!' || pattern[at] == '^')
	if negated {
		at++
	}
	for first := true; at < len(pattern); first = false {
		if pattern[at] == ']' && !first {
			return at + 1, in != negated
		}
		low, high := pattern[at], pattern[at]
		if at+2 < len(pattern) && pattern[at+1] == '-' && pattern[at+2] != ']' {
			high = pattern[at+2]
			at += 2
		}
		at++
		in = in || low <= b && b <= high
	}
	return 0, false
}

// declared is the tree of the directories that a layout lists.
type declared struct {
	listed   bool
	children map[string]*declared
}

func newDeclared(paths []string) *declared {
	if len(paths) == 0 {
		return nil
	}
	root := &declared{}
	for _, path := range paths {
		at := root
		for component := range strings.SplitSeq(path, "/") {
			if component == "." || component == "" {
				continue
			}
			if at.children == nil {
				at.children = map[string]*declared{}
			}
			next := at.children[component]
			if next == nil {
				next = &declared{}
				at.children[component] = next
			}
			at = next
		}
		at.listed = true
	}
	return root
}

// below is the tree below a name; nil where nothing is declared there.
func (d *declared) below(name []byte) *declared {
	if d == nil {
		return nil
	}
	return d.children[string(name)]
}
