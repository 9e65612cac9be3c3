package spec

import (
	"fmt"
	"path"
	"strings"

	"gopkg.in/yaml.v3"
)

// variable is a declared variable with its value, if it has one.
type variable struct {
	value string
	given bool
}

// parseVariables reads the declarations and holds each value against its type,
// so that a hostile pod name cannot be a path.
func (p *parser) parseVariables(n *yaml.Node) {
	for _, pair := range p.pairs(n, "variables") {
		name := pair.key.Value
		if !isVariableName(name) {
			p.fault(pair.key, "use letters, digits and _", "%s is no name for a variable", quote(name))
			continue
		}
		fields := p.fields(pair.value, "variable", "variable "+name)
		kind := "name"
		if fields["type"] != nil {
			kind = p.word(fields["type"], "variableType", "the type of variable "+name)
		}
		value, given := p.options.Variables[name]
		declared := Variable{Name: name, Position: Position{pair.key.Line, pair.key.Column}, Given: given}
		at := pair.key
		if !given && fields["default"] != nil {
			if at = p.resolve(fields["default"]); at.Kind == yaml.ScalarNode {
				value, given = at.Value, true
			} else {
				p.fault(at, "write one value", "the default of variable %s must be a single value, not %s", name, kindName(at))
			}
		}
		if given {
			if err := checkValue(kind, value); err != nil {
				p.fault(at, "give another by --set "+name+"=VALUE or VOLPREP_VAR_"+name, "variable %s: %v", name, err)
			}
		}
		declared.Value = value
		p.layout.Variables = append(p.layout.Variables, declared)
		p.variables[name] = variable{value, given}
	}
}

func isVariableName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9' || i == 0) {
			return false
		}
	}
	return name != ""
}

// checkValue holds a variable's value against its type.
func checkValue(kind, value string) error {
	switch kind {
	case "id":
		_, err := parseID(value)
		return err
	case "name":
		if value == "" || value == "." || value == ".." || strings.ContainsAny(value, "/\x00") || len(value) > maxComponent {
			return fmt.Errorf("%s is not one path component", quote(value))
		}
	case "path":
		return checkRelative(value)
	}
	return nil
}

// substitute puts values in the place of ${NAME}; $$ is one $.
func (p *parser) substitute(n *yaml.Node) (string, bool) {
	var text strings.Builder
	rest := n.Value
	for {
		before, after, found := strings.Cut(rest, "$")
		text.WriteString(before)
		if !found {
			return text.String(), true
		}
		if strings.HasPrefix(after, "$") {
			text.WriteByte('$')
			rest = after[1:]
			continue
		}
		name, behind, closed := strings.Cut(strings.TrimPrefix(after, "{"), "}")
		if !strings.HasPrefix(after, "{") || !closed {
			p.fault(n, "write ${NAME}, or $$ for a dollar sign", "a $ in %s begins no variable", quote(n.Value))
			return "", false
		}
		v, declared := p.variables[name]
		if !declared {
			p.fault(n, mendName(name, namesOf(p.variables), "declare it under variables"), "the variable %s is not declared", quote(name))
			return "", false
		}
		if !v.given {
			p.fault(n, "give it by --set "+name+"=VALUE or VOLPREP_VAR_"+name, "the variable %s has no value", name)
			return "", false
		}
		text.WriteString(v.value)
		rest = behind
	}
}

// maxComponent is NAME_MAX (limits.h): the bytes of one path component.
const maxComponent = 255

// checkRelative refuses a path that is not relative and clean.
func checkRelative(text string) error {
	switch {
	case text == "":
		return fmt.Errorf("a path is empty")
	case strings.HasPrefix(text, "/"):
		return fmt.Errorf("%s is absolute, and must be relative", quote(text))
	default:
		return checkComponents(text, strings.Split(text, "/"))
	}
}

// checkAbsolute refuses a path that is not absolute and clean, and the root of all.
func checkAbsolute(text string) error {
	switch {
	case !strings.HasPrefix(text, "/"):
		return fmt.Errorf("%s must begin with /", quote(text))
	case text == "/":
		return fmt.Errorf("the root directory is no volume")
	default:
		return checkComponents(text, strings.Split(text[1:], "/"))
	}
}

func checkComponents(text string, components []string) error {
	for _, component := range components {
		switch {
		case component == "..":
			return fmt.Errorf("%s climbs out by \"..\" in it", quote(text))
		case component == "." || component == "":
			return fmt.Errorf("%s is not clean, as %s would be", quote(text), quote(path.Clean(text)))
		case len(component) > maxComponent:
			return fmt.Errorf("%s has a component of more than %d bytes", quote(text), maxComponent)
		case strings.ContainsRune(component, 0):
			return fmt.Errorf("%s holds a NUL byte", quote(text))
		}
	}
	return nil
}
