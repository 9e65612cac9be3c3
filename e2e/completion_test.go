package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A shell is asked what it offers for a line: fish answers that itself, and
// zsh from a terminal of its own, where a word is completed by a tab.
var shells = map[string]func(t *testing.T, line string) string{
	"fish": func(t *testing.T, line string) string {
		return shell(t, "fish", "--no-config", "-c", `volprep completion fish | source; complete -C "`+line+`"`).must(t)
	},
	"zsh": func(t *testing.T, line string) string {
		script := filepath.Join(t.TempDir(), "ask.zsh")
		if err := os.WriteFile(script, []byte(`zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source <(volprep completion zsh)'
zpty -w z 'compadd() { local -a a; builtin compadd -O a "$@"; print -r -- "OFFERED ${a[*]} END"; builtin compadd "$@" }; print READ""Y'
zpty -r z said '*READY*'
zpty -w -n z $1$'\t'
zpty -r z said '*OFFERED*END*'
print -r -- ${${said##*OFFERED}%END*}
`), 0o600); err != nil {
			t.Fatal(err)
		}
		return shell(t, "timeout", "20", "zsh", "-f", script, line).must(t)
	},
}

// shell has volprep in its PATH.
func shell(t *testing.T, name string, args ...string) command {
	c := program(name, args...)
	c.env = []string{"PATH=" + binaries(t) + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return c
}

func TestCompletion(t *testing.T) {
	for name, offered := range shells {
		t.Run(name, func(t *testing.T) {
			needPrograms(t, name)
			for _, asked := range []struct{ line, want string }{
				{"volprep ver", "verify version"},
				{"volprep render ku", "kubernetes"},
				{"volprep apply --repo", "--report"},
			} {
				answer := offered(t, asked.line)
				for word := range strings.FieldsSeq(asked.want) {
					if !strings.Contains(answer, word) {
						t.Errorf("after %q %s is not offered %s: %q", asked.line, name, word, answer)
					}
				}
				if strings.Contains(answer, "seccomp") {
					t.Errorf("after %q everything is offered: %q", asked.line, answer)
				}
			}
		})
	}
}
