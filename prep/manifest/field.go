package manifest

import (
	"fmt"
	"strconv"

	"gopkg.in/yaml.v3"
)

// At is a place in a manifest.
type At struct {
	File         string
	Line, Column int
	// Field is the way to it, as kubectl explain and compose write it.
	Field string
}

// field is a value of a manifest, or the place where it is missing.
type field struct {
	// node is nil where the value is missing.
	node *yaml.Node
	at   At
}

// Aliases and merge keys may lead to each other, and the same way again and
// again: aliasDepth bounds a chain, and mergesSeen the mappings of one lookup.
const (
	aliasDepth = 8
	mergesSeen = 64
)

func resolved(node *yaml.Node) *yaml.Node {
	for range aliasDepth {
		if node == nil || node.Kind != yaml.AliasNode {
			return node
		}
		node = node.Alias
	}
	return nil
}

// get follows keys of mappings. What is missing has the place of the last
// mapping that is there.
func (f field) get(keys ...string) field {
	for _, key := range keys {
		next := field{at: f.at}
		next.at.Field = key
		if f.at.Field != "" {
			next.at.Field = f.at.Field + "." + key
		}
		budget := mergesSeen
		if name, value := lookup(f.node, key, &budget); value != nil {
			next.node = value
			next.at.Line, next.at.Column = name.Line, name.Column
		}
		f = next
	}
	return f
}

// lookup finds a key of a mapping, in what it merges too (https://yaml.org/type/merge.html).
func lookup(node *yaml.Node, key string, budget *int) (name, value *yaml.Node) {
	if node = resolved(node); node == nil || node.Kind != yaml.MappingNode || *budget == 0 {
		return nil, nil
	}
	*budget--
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i], resolved(node.Content[i+1])
		}
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value != "<<" {
			continue
		}
		merged := []*yaml.Node{node.Content[i+1]}
		if list := resolved(node.Content[i+1]); list != nil && list.Kind == yaml.SequenceNode {
			merged = list.Content
		}
		for _, source := range merged {
			if name, value := lookup(source, key, budget); value != nil {
				return name, value
			}
		}
	}
	return nil, nil
}

func (f field) there() bool { return f.node != nil && f.node.Tag != "!!null" }

// text is a scalar's, "" for anything else.
func (f field) text() string {
	if f.node == nil || f.node.Kind != yaml.ScalarNode {
		return ""
	}
	return f.node.Value
}

// id is a user or group id; ok is false for what is missing or no number.
func (f field) id() (id uint32, ok bool) {
	n, err := strconv.ParseUint(f.text(), 10, 32)
	return uint32(n), err == nil
}

// is tells whether it is a boolean of that value.
func (f field) is(value bool) bool { return f.text() == strconv.FormatBool(value) }

// list are the items of a sequence.
func (f field) list() []field {
	if f.node == nil || f.node.Kind != yaml.SequenceNode {
		return nil
	}
	var items []field
	for i, node := range f.node.Content {
		if node = resolved(node); node == nil {
			continue
		}
		at := At{File: f.at.File, Line: f.node.Content[i].Line, Column: f.node.Content[i].Column, Field: fmt.Sprintf("%s[%d]", f.at.Field, i)}
		items = append(items, field{node: node, at: at})
	}
	return items
}

// keys are those of a mapping, in its order.
func (f field) keys() []string {
	if f.node == nil || f.node.Kind != yaml.MappingNode {
		return nil
	}
	var keys []string
	for i := 0; i+1 < len(f.node.Content); i += 2 {
		keys = append(keys, f.node.Content[i].Value)
	}
	return keys
}
