package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fenced and inline are a document's code.
var (
	fenced = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")
	inline = regexp.MustCompile("`((?:[A-Z_]+=[^ `]+ )*(?:go|volprep|bash) [^`]+)`")
)

// TestEveryCommandOfTheREADME goes through README.md from top to bottom as a
// stranger does, in a copy of the tree: what stands in a block of its own and
// in the text is run, and the time of each is told.
func TestEveryCommandOfTheREADME(t *testing.T) {
	tree, work := copied(t), t.TempDir()
	text, err := os.ReadFile(filepath.Join(tree, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer timed(t, "README.md from top to bottom")()
	for _, block := range fenced.FindAllStringSubmatch(string(text), -1) {
		name, content := "", block[2]
		switch {
		case block[1] == "sh":
			for line := range strings.Lines(content) {
				stranger{tree, work}.run(t, strings.TrimSpace(line))
			}
			continue
		case block[1] != "yaml":
			continue // what is shown with its output is compared by the command line's own tests
		case strings.Contains(content, "identities:") && strings.Contains(content, "expect:"):
			name = "layout.yaml"
		case strings.HasPrefix(content, "spec:"):
			name, content = "pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: nim}\n"+content
		case strings.HasPrefix(content, "services:"):
			name = "compose.yaml"
		default:
			continue
		}
		if err := os.WriteFile(filepath.Join(work, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	commands := inline.FindAllStringSubmatch(fenced.ReplaceAllString(string(text), ""), -1)
	if len(commands) < 8 {
		t.Errorf("README.md names %d commands in its text, and had more", len(commands))
	}
	for _, found := range commands {
		stranger{tree, work}.run(t, found[1])
	}
}

// stranger runs commands: those of Go in the tree, volprep where README.md's files are.
type stranger struct{ tree, work string }

func (s stranger) run(t *testing.T, line string) {
	words := strings.Fields(line)
	for strings.Contains(words[0], "=") {
		words = words[1:] // it asks for a longer run of the same
	}
	c := command{name: words[0], args: words[1:], dir: s.tree}
	switch {
	case words[0] == "volprep":
		c.name, c.dir = filepath.Join(binaries(t), "volprep"), s.work
	case strings.HasPrefix(line, "go run ./e2e/release"):
		c.args = append(c.args, "-only", "amd64")
	case words[0] == "go" && words[1] == "test":
		// The tests are not run within one of them, but must be there and compile.
		pattern := "."
		for i, word := range words {
			if word == "-run" {
				pattern = words[i+1]
			}
		}
		c.args = []string{"test", "-list", pattern, words[2]}
	}
	defer timed(t, line)()
	stdout, stderr, status := c.output(t)
	if status != 0 || words[1] == "test" && !strings.Contains(stdout, "Test") {
		t.Errorf("%s: exit status %d\n%s%s", line, status, stdout, stderr)
	}
	if words[1] == "run" && strings.Contains(line, " apply ") {
		if again := c.must(t); !strings.Contains(again, "unchanged: ") {
			t.Errorf("a second %s says %s, want unchanged", line, again)
		}
	}
}
