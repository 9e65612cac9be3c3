package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"volprep/spec"
)

// The manual pages are made from what the command says of itself and from the
// schema's descriptions, so that they cannot say anything else.

// roff makes text fit for man(7): no line of it begins a request, and no
// backslash an escape.
func roff(text string) string {
	text = strings.ReplaceAll(text, `\`, `\e`)
	text = strings.ReplaceAll(text, "-", `\-`)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

func heading(name, section, summary string) string {
	return fmt.Sprintf(".TH %s %s \"\" volprep\n.SH NAME\n%s \\- %s\n", strings.ToUpper(name), section, name, roff(summary))
}

// commandPage is volprep(1): the help of each command.
func commandPage() ([]byte, error) {
	dir, err := os.MkdirTemp("", "volprep-man-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "volprep")
	if said, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building for the manual: %w\n%s", err, said)
	}
	help := func(args ...string) (string, error) {
		said, err := exec.Command(binary, append(args, "--help")...).Output()
		return string(said), err
	}
	top, err := help()
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	page.WriteString(heading("volprep", "1", "prepare volumes for servers that run without any privilege"))
	page.WriteString(".SH SYNOPSIS\n.B volprep\n.I COMMAND\n[FLAGS] ...\n.SH COMMANDS\n")
	_, list, _ := strings.Cut(top, "COMMANDS:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "help") {
			continue
		}
		text, err := help(name)
		if err != nil {
			return nil, fmt.Errorf("the help of %s: %w", name, err)
		}
		fmt.Fprintf(&page, ".SS %s\n.nf\n%s\n.fi\n", roff(name), roff(strings.TrimSpace(text)))
	}
	page.WriteString(".SH FILES\n/etc/volprep/layout.yaml\n.SH SEE ALSO\nvolprep\\-layout(5), acl(5), capabilities(7), landlock(7)\n")
	return page.Bytes(), nil
}

// layoutPage is volprep-layout(5): the keys, with what the schema says of each.
func layoutPage() ([]byte, error) {
	type mapping struct {
		Properties map[string]struct {
			Description string `json:"description"`
		} `json:"properties"`
		Required []string `json:"required"`
	}
	var schema struct {
		mapping
		Defs map[string]mapping `json:"$defs"`
	}
	if err := json.Unmarshal(spec.Schema(), &schema); err != nil {
		return nil, err
	}
	var page bytes.Buffer
	page.WriteString(heading("volprep-layout", "5", "how volumes must look, for volprep(1)"))
	page.WriteString(".SH DESCRIPTION\nA layout is one YAML file. What it does not name is not touched.\n")
	schema.Defs["the file"] = schema.mapping
	for _, name := range []string{"the file", "variable", "identity", "defaults", "volume", "directory", "contents", "expectation"} {
		keys := schema.Defs[name]
		if len(keys.Properties) == 0 {
			return nil, fmt.Errorf("the schema has no keys for %s", name)
		}
		fmt.Fprintf(&page, ".SS Keys of %s\n", roff(name))
		var sorted []string
		for key := range keys.Properties {
			sorted = append(sorted, key)
		}
		slices.Sort(sorted)
		for _, key := range sorted {
			required := ""
			if slices.Contains(keys.Required, key) {
				required = " It must be there."
			}
			fmt.Fprintf(&page, ".TP\n.B %s\n%s\n", roff(key), roff(keys.Properties[key].Description+required))
		}
	}
	page.WriteString(".SH SEE ALSO\nvolprep(1), setfacl(1), acl(5), umask(2)\n")
	return page.Bytes(), nil
}
