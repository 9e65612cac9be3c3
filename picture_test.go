package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// README.md's pictures are what a terminal got, so they cannot fall behind the
// program. --only keeps what would differ with who runs the test out of them.
func TestThePicturesShowWhatIsSaid(t *testing.T) {
	for name, one := range map[string]struct{ file, command string }{
		"a plan of a volume that root made":           {"plan.svg", "volprep plan -f examples/nim/layout.yaml --only /models"},
		"what a server may do there after that apply": {"access.svg", "volprep access -f examples/nim/layout.yaml --only /models --as runtime --after /models/hub"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			models := filepath.Join(root, "models")
			// Chmod, as the umask of who runs this must not show; nor must the ids.
			if err := errors.Join(os.Mkdir(models, 0o755), os.Chmod(models, 0o755)); err != nil {
				t.Fatal(err)
			}
			var made unix.Stat_t
			if err := unix.Stat(models, &made); err != nil {
				t.Fatal(err)
			}
			words := strings.Fields(one.command)
			said := onTerminal(t, exec.Command(words[0], append([]string{words[1], "--root", root}, words[2:]...)...))
			said = strings.ReplaceAll(said, root, "")
			said = strings.ReplaceAll(said, fmt.Sprintf("chown %d:%d →", made.Uid, made.Gid), "chown 0:0 →")
			want, path := picture(t, one.command, said), filepath.Join(".github/pictures", one.file)
			if os.Getenv("VOLPREP_UPDATE") != "" {
				if err := os.WriteFile(path, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want) {
				t.Errorf("%s is not what is said (%v): VOLPREP_UPDATE=1 go test .\n%s", path, err, said)
			}
		})
	}
}

// onTerminal is what a command writes to a terminal: only there it has colours.
func onTerminal(t *testing.T, command *exec.Cmd) string {
	t.Helper()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil && os.Getenv("VOLPREP_E2E") != "require" {
		t.Skip("needs a terminal: ", err)
	}
	defer terminal.Close()
	number, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err := errors.Join(err, unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0)); err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	// PATH alone, for NO_COLOR and VOLPREP_… would change what is said.
	command.Env, command.Stdout, command.Stderr = []string{"PATH=" + os.Getenv("PATH")}, screen, &logged
	if err := errors.Join(command.Start(), screen.Close()); err != nil {
		t.Fatal(err)
	}
	// It ends with EIO, which says that nobody writes to it any more.
	said, _ := io.ReadAll(terminal)
	if err := command.Wait(); err != nil {
		t.Fatalf("%v: %s%s", err, said, logged.String())
	}
	return strings.ReplaceAll(string(said), "\r\n", "\n")
}

var (
	escape = regexp.MustCompile(`\x1b\[(\d+)m([^\x1b]*)`)
	fills  = map[string]string{"0": "#d4d4d4", "2": "#8b949e", "31": "#ff7b72", "32": "#7ee787", "33": "#e3b341"}
)

// picture draws lines of a terminal, with the command in the title bar.
func picture(t *testing.T, command, said string) []byte {
	t.Helper()
	lines, columns := strings.Split(strings.TrimSuffix(said, "\n"), "\n"), len("$ "+command)
	var body, text bytes.Buffer
	for i, line := range lines {
		columns = max(columns, utf8.RuneCountInString(escape.ReplaceAllString(line, "$2")))
		fmt.Fprintf(&body, `<text x="16" y="%d" xml:space="preserve">`, 60+20*i)
		for _, run := range escape.FindAllStringSubmatch("\x1b[0m"+line, -1) {
			text.Reset()
			if err := xml.EscapeText(&text, []byte(run[2])); err != nil || fills[run[1]] == "" {
				t.Fatalf("%q cannot be drawn: %v", run[0], err)
			}
			if text.Len() > 0 {
				fmt.Fprintf(&body, `<tspan fill="%s">%s</tspan>`, fills[run[1]], &text)
			}
		}
		body.WriteString("</text>\n")
	}
	width, height := 32+columns*17/2, 60+20*len(lines)
	text.Reset()
	fmt.Fprintf(&text, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="ui-monospace, Menlo, 'DejaVu Sans Mono', monospace" font-size="14">
<rect width="%[1]d" height="%[2]d" rx="8" fill="#161b22"/><path d="M0 32V8a8 8 0 0 1 8-8H%[3]da8 8 0 0 1 8 8v24z" fill="#30363d"/>
<text x="16" y="21" fill="#f0f6fc">$ `, width, height, width-8)
	if err := xml.EscapeText(&text, []byte(command)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&text, "</text>\n%s</svg>\n", &body)
	if err := xml.Unmarshal(text.Bytes(), new(struct{})); err != nil {
		t.Fatalf("no XML: %v", err)
	}
	return text.Bytes()
}
