package spec

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Limits beyond which a text is refused before it costs memory.
const (
	maxSize        = 1 << 20
	maxDirectories = 100_000
	maxNodes       = 1_000_000
	// maxProblems ends the look at a text that is wrong throughout.
	maxProblems = 200
)

// Options are what a layout must be told of the system.
type Options struct {
	// Variables are the given values, by name.
	Variables map[string]string
	// LookupUser and LookupGroup ask the system's user database; nil is none.
	LookupUser, LookupGroup Lookup
}

// Parse reads a layout. It is nil if, and only if, the problems have a fault;
// there may be warnings otherwise. source names the text in messages.
func Parse(source string, text []byte, options Options) (*Layout, Problems) {
	p := &parser{
		options: options, source: source, lines: strings.Split(string(text[:min(len(text), maxSize)]), "\n"),
		layout:    &Layout{Source: source},
		variables: map[string]variable{}, groups: map[string]Group{}, identities: map[string]Identity{},
	}
	if root := p.document(text); root != nil {
		p.parseLayout(root)
	}
	slices.SortStableFunc(p.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Position.Line, b.Position.Line), cmp.Compare(a.Position.Column, b.Position.Column))
	})
	problems := Problems{Source: source, List: slices.Compact(p.problems)}
	if problems.Faults() {
		return nil, problems
	}
	return p.layout, problems
}

// parser collects: a problem does not stop it.
type parser struct {
	options    Options
	source     string
	lines      []string
	problems   []Problem
	layout     *Layout
	variables  map[string]variable
	groups     map[string]Group
	identities map[string]Identity
	// nodes counts what was looked at, aliases every time anew.
	nodes       int
	directories int
}

// fault notes what is wrong at a node, and how to mend it.
func (p *parser) fault(n *yaml.Node, mend, format string, values ...any) {
	p.note(Position{n.Line, n.Column}, Fault, mend, fmt.Sprintf(format, values...))
}

func (p *parser) warn(n *yaml.Node, mend, format string, values ...any) {
	p.note(Position{n.Line, n.Column}, Warning, mend, fmt.Sprintf(format, values...))
}

func (p *parser) note(at Position, severity Severity, mend, message string) {
	if len(p.problems) >= maxProblems {
		return
	}
	at = Position{max(at.Line, 1), max(at.Column, 1)}
	line := ""
	if at.Line <= len(p.lines) {
		line = p.lines[at.Line-1]
	}
	p.problems = append(p.problems, Problem{Position: at, Severity: severity, Message: message, Mend: mend, Line: strings.TrimRight(line, "\r")})
}

// document decodes the text's one document, and refuses what is none.
func (p *parser) document(text []byte) (root *yaml.Node) {
	start := &yaml.Node{Line: 1, Column: 1}
	if len(text) > maxSize {
		p.fault(start, "split it, or list fewer directories", "the layout is larger than 1 MiB")
		return nil
	}
	if slices.Contains(text, 0) {
		p.fault(start, "save it as UTF-8", "the layout holds NUL bytes")
		return nil
	}
	defer func() {
		// yaml.v3 panics on some texts that are no YAML.
		if r := recover(); r != nil {
			p.fault(start, "check the file's indentation and quotes", "the layout is no YAML: %v", r)
			root = nil
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		p.fault(start, "begin it with version: 1 and volumes", "the layout is empty")
		return nil
	}
	if err != nil {
		p.fault(p.yamlPosition(err), "check the indentation, quotes and colons there", "the layout is no YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		p.fault(&second, "put each layout into a file of its own", "there is a second document")
	}
	return document.Content[0]
}

// yamlPosition finds the line that yaml.v3 names in its message.
func (p *parser) yamlPosition(err error) *yaml.Node {
	var line int
	if _, rest, ok := strings.Cut(err.Error(), "line "); ok {
		fmt.Sscanf(rest, "%d", &line)
	}
	return &yaml.Node{Line: min(max(line, 1), len(p.lines)), Column: 1}
}

// resolve follows an alias. Every look counts, so that aliases of aliases
// cannot make a small text large.
func (p *parser) resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	p.nodes++
	if p.nodes == maxNodes {
		p.fault(n, "write fewer anchors", "the layout's aliases expand to more than %d nodes", maxNodes)
	}
	return n
}

// tooMuch tells whether a limit was passed, after which nothing more is looked at.
func (p *parser) tooMuch() bool {
	return p.nodes >= maxNodes || p.directories > maxDirectories || len(p.problems) >= maxProblems
}

// kindName is a node's kind in words.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		if n.Tag == "!!null" {
			return "nothing"
		}
		return "the value " + quote(n.Value)
	}
}

func quote(text string) string {
	if len(text) > 40 {
		text = text[:40] + "…"
	}
	return fmt.Sprintf("%q", text)
}

// pair is a key with its value.
type pair struct{ key, value *yaml.Node }

// pairs lists a mapping's keys and values, each key once: those that `<<`
// brings come after the mapping's own, which count before them.
func (p *parser) pairs(n *yaml.Node, what string) []pair {
	n = p.resolve(n)
	if n.Kind != yaml.MappingNode {
		p.fault(n, "write key: value lines", "%s must be a mapping, not %s", what, kindName(n))
		return nil
	}
	if p.tooMuch() {
		return nil
	}
	seen := map[string]*yaml.Node{}
	var own []pair
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			p.fault(key, "write a plain word", "a key of %s must be a word, not %s", what, kindName(key))
			continue
		}
		if key.Tag == "!!merge" {
			merged = append(merged, value)
			continue
		}
		if len(own) > 0 && continuesMode(own[len(own)-1], pair{key, value}) {
			own[len(own)-1].value = joined(own[len(own)-1].value, key)
			continue
		}
		if first, ok := seen[key.Value]; ok {
			p.fault(key, "keep one of them", "%q stands twice in %s, first at line %d", key.Value, what, first.Line)
			continue
		}
		seen[key.Value] = key
		own = append(own, pair{key, value})
	}
	for _, value := range merged {
		sources := []*yaml.Node{value}
		if list := p.resolve(value); list.Kind == yaml.SequenceNode {
			sources = list.Content
		}
		for _, source := range sources {
			// A mapping that merges itself would go on for ever, but each turn counts.
			for _, pair := range p.pairs(source, what) {
				if seen[pair.key.Value] == nil {
					seen[pair.key.Value] = pair.key
					own = append(own, pair)
				}
			}
		}
	}
	return own
}

// continuesMode tells whether a key without a value is the next clause of a
// symbolic mode: in {mode: u=rwx,g=rx,o=} YAML takes the commas for its own.
func continuesMode(before, next pair) bool {
	if !strings.HasSuffix(before.key.Value, "mode") || before.value.Kind != yaml.ScalarNode || next.value.Tag != "!!null" || next.value.Value != "" {
		return false
	}
	_, err := parseClauses(next.key.Value)
	return err == nil
}

// joined is a scalar with one more clause behind it.
func joined(value, clause *yaml.Node) *yaml.Node {
	longer := *value
	longer.Value += "," + clause.Value
	return &longer
}

// fields are a mapping's values by key; keys that are not known are faults.
func (p *parser) fields(n *yaml.Node, kind, what string) map[string]*yaml.Node {
	known := mappings[kind]
	values := map[string]*yaml.Node{}
	for _, pair := range p.pairs(n, what) {
		name := pair.key.Value
		if !known.has(name) {
			mend := "known are " + strings.Join(known.names(), ", ")
			if near := nearest(name, known.names()); near != "" {
				mend = fmt.Sprintf("did you mean %q?", near)
			}
			p.fault(pair.key, mend, "%s has the unknown key %s", what, quote(name))
			continue
		}
		if value := p.resolve(pair.value); value.Tag == "!!null" && value.Kind == yaml.ScalarNode {
			p.fault(pair.key, "give it one, or leave the key out", "%q of %s has no value", name, what)
			continue
		}
		values[name] = pair.value
	}
	for _, key := range known {
		if key.required && values[key.name] == nil && p.resolve(n).Kind == yaml.MappingNode {
			p.fault(n, "add "+key.name, "%s lacks %q", what, key.name)
		}
	}
	return values
}

// items are the members of a list.
func (p *parser) items(n *yaml.Node, what string) []*yaml.Node {
	if n == nil {
		return nil
	}
	n = p.resolve(n)
	if n.Kind != yaml.SequenceNode {
		p.fault(n, "write a list: [a, b], or lines that begin with -", "%s must be a list, not %s", what, kindName(n))
		return nil
	}
	if p.tooMuch() {
		return nil
	}
	return n.Content
}

// text is a scalar's source text with its variables substituted.
func (p *parser) text(n *yaml.Node, what string) (string, bool) {
	if n == nil {
		return "", false
	}
	n = p.resolve(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.fault(n, "write one value", "%s must be a single value, not %s", what, kindName(n))
		return "", false
	}
	return p.substitute(n)
}

// word is a scalar that must be one of a few.
func (p *parser) word(n *yaml.Node, kind, what string) string {
	text, ok := p.text(n, what)
	if !ok {
		return ""
	}
	if !slices.Contains(words[kind], text) {
		mend := "it must be " + strings.Join(words[kind], ", ")
		if near := nearest(text, words[kind]); near != "" {
			mend = fmt.Sprintf("did you mean %q?", near)
		}
		p.fault(n, mend, "%s is %s", what, quote(text))
		return ""
	}
	return text
}

// boolean is true or false, as they are written.
func (p *parser) boolean(n *yaml.Node, what string, otherwise bool) bool {
	text, ok := p.text(n, what)
	if !ok || text == "true" || text == "false" {
		return ok && text == "true" || !ok && otherwise
	}
	p.fault(n, "write true or false", "%s is %s", what, quote(text))
	return otherwise
}

// names are all that may be written for a kind of name, for the nearest of a misspelling.
func namesOf[V any](known map[string]V) []string {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// mendName says what may be written instead of a name that is not known.
func mendName(name string, known []string, otherwise string) string {
	if near := nearest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return otherwise
}
