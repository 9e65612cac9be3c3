package render

import (
	"bytes"
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// pair is a key with its value, and why it is there.
type pair struct {
	key   string
	value *yaml.Node
	why   string
}

// block is a mapping, a line for each key; pairs without a value are left out.
func block(pairs ...pair) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range pairs {
		if p.value == nil {
			continue
		}
		key := scalar(p.key)
		if p.why != "" {
			key.HeadComment = "# " + p.why
		}
		n.Content = append(n.Content, key, p.value)
	}
	return n
}

// flow is a mapping on one line.
func flow(pairs ...pair) *yaml.Node {
	n := block(pairs...)
	n.Style = yaml.FlowStyle
	return n
}

// list is a sequence, a line for each item; without items it is nil.
func list(items ...*yaml.Node) *yaml.Node {
	if len(items) == 0 {
		return nil
	}
	return &yaml.Node{Kind: yaml.SequenceNode, Content: items}
}

// row is a sequence on one line; without items it is nil.
func row[T any](items []T) *yaml.Node {
	var nodes []*yaml.Node
	for _, item := range items {
		nodes = append(nodes, scalar(item))
	}
	n := list(nodes...)
	if n != nil {
		n.Style = yaml.FlowStyle
	}
	return n
}

// scalar is a number, a boolean or a string, quoted where it would read back
// as something else.
func scalar(value any) *yaml.Node {
	n := &yaml.Node{}
	if err := n.Encode(value); err != nil {
		panic(fmt.Sprintf("%T is no scalar: %v", value, err))
	}
	return n
}

// quoted is a string in quotes, which older readers could take for a number.
func quoted(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: yaml.DoubleQuotedStyle}
}

// literal is a text as a literal block, where it reads back from one.
func literal(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: yaml.LiteralStyle}
	var back []string
	if written, err := yaml.Marshal([]*yaml.Node{n}); err != nil || yaml.Unmarshal(written, &back) != nil || back[0] != text {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// documents writes each with the comment at its head.
func documents(comment string, nodes ...*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	for line := range strings.Lines(comment) {
		out.WriteString("# " + line)
	}
	if comment != "" {
		out.WriteString("\n")
	}
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	for _, n := range nodes {
		if err := encoder.Encode(n); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), encoder.Close()
}
