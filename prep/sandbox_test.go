package prep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// attempt is something that a confined process tries, and what it must get.
type attempt struct {
	name string
	want error
	try  func(inside, outside string) error
}

var forbidden = []attempt{
	{"reads outside", unix.EACCES, func(_, outside string) error { return tryOpen(filepath.Join(outside, "secret"), unix.O_RDONLY) }},
	{"lists outside", unix.EACCES, func(_, outside string) error { return tryOpen(outside, unix.O_RDONLY|unix.O_DIRECTORY) }},
	{"makes a directory outside", unix.EACCES, func(_, outside string) error { return unix.Mkdir(filepath.Join(outside, "new"), 0o700) }},
	{"makes a file outside", unix.EACCES, func(_, outside string) error {
		return tryOpen(filepath.Join(outside, "new"), unix.O_WRONLY|unix.O_CREAT)
	}},
	{"removes a file outside", unix.EACCES, func(_, outside string) error { return unix.Unlink(filepath.Join(outside, "secret")) }},
	{"reads a file inside", unix.EACCES, func(inside, _ string) error { return tryOpen(filepath.Join(inside, "weights"), unix.O_RDONLY) }},
	{"removes a file inside", unix.EACCES, func(inside, _ string) error { return unix.Unlink(filepath.Join(inside, "weights")) }},
	{"lists inside", nil, func(inside, _ string) error { return tryOpen(inside, unix.O_RDONLY|unix.O_DIRECTORY) }},
	{"opens a socket", unix.EPERM, func(_, _ string) error {
		_, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		return err
	}},
	{"runs a program", unix.EPERM, func(_, _ string) error { return unix.Exec("/proc/self/exe", nil, nil) }},
	{"makes a user namespace", unix.EPERM, func(_, _ string) error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"makes a link", unix.EPERM, func(inside, _ string) error { return unix.Symlink("/", filepath.Join(inside, "link")) }},
}

func tryOpen(name string, flags int) error {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// TestConfined is the process that TestASandboxHoldsEveryThread starts.
func TestConfined(t *testing.T) {
	dir := os.Getenv("VOLPREP_CONFINE")
	if dir == "" {
		t.Skip("only as a part of TestASandboxHoldsEveryThread")
	}
	layout := layoutOf(t, "version: 1\nvolumes: [{path: /v, directories: [{path: a/b, mode: \"0750\"}]}]\n")
	inside, outside := filepath.Join(dir, "v"), filepath.Join(dir, "outside")
	start, done := make(chan bool), make(chan []string)
	const threads = 20
	for range threads {
		go func() {
			// A thread that was there before, and waits in the kernel or not.
			runtime.LockOSThread()
			<-start
			var wrong []string
			for _, a := range forbidden {
				if err := a.try(inside, outside); !errors.Is(err, a.want) {
					wrong = append(wrong, fmt.Sprintf("%s: %v", a.name, err))
				}
			}
			done <- wrong
		}()
	}
	sandbox := Confine(layout, Options{Root: dir})
	close(start)
	var wrong []string
	for range threads {
		wrong = append(wrong, <-done...)
	}
	report := Apply(context.Background(), layout, Options{Root: dir})
	answer, err := json.Marshal(struct {
		Sandbox Sandbox
		Wrong   []string
		Line    string
	}{sandbox, wrong, report.Line()})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("confined: %s\n", answer)
}

func TestASandboxHoldsEveryThread(t *testing.T) {
	abi, err := landlockABI()
	requirement(t, err == nil, fmt.Sprintf("needs landlock: %v", err))
	dir := t.TempDir()
	for _, name := range []string{"v", "outside"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"outside/secret", "v/weights"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// With cgo, which another package of the test may bring in, no thread but one can be confined.
	binary := filepath.Join(t.TempDir(), "prep.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	child := exec.Command(binary, "-test.run", "^TestConfined$")
	child.Env = append(os.Environ(), "VOLPREP_CONFINE="+dir)
	output, err := child.CombinedOutput()
	_, line, found := strings.Cut(string(output), "confined: ")
	if err != nil || !found {
		t.Fatalf("%v\n%s", err, output)
	}
	line, _, _ = strings.Cut(line, "\n")
	var answer struct {
		Sandbox Sandbox
		Wrong   []string
		Line    string
	}
	if err := json.Unmarshal([]byte(line), &answer); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if want := (Sandbox{Landlock: fmt.Sprintf("on, ABI %d", abi), Seccomp: "on"}); answer.Sandbox != want {
		t.Errorf("the sandbox is %+v, want %+v", answer.Sandbox, want)
	}
	if len(answer.Wrong) > 0 {
		t.Errorf("some thread could do what it must not, or the reverse: %q", answer.Wrong)
	}
	if answer.Line != "changed: 2 created, 0 changed, 1 unchanged" {
		t.Errorf("a confined apply: %s", answer.Line)
	}
}

func TestTheTableOfCallsIsOfOnePiece(t *testing.T) {
	if len(filter()) != len(never)+6 || len(never)+1 > 255 {
		t.Errorf("%d instructions for %d calls; a jump reaches 255", len(filter()), len(never))
	}
	seen := map[string]bool{}
	for _, call := range never {
		if seen[call.name] || slices.Contains(made, call.name) {
			t.Errorf("%s stands twice, or among what a run makes", call.name)
		}
		seen[call.name] = true
	}
}

// givingUp drops capabilities of this thread alone, as Reduce does of all.
func givingUp(given *[]Capabilities) func(Capabilities) error {
	return func(keep Capabilities) error {
		*given = append(*given, keep)
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		data[0].Effective, data[0].Permitted = uint32(keep), uint32(keep)
		return unix.Capset(&header, &data[0])
	}
}

func TestARunGivesUpWhatItsPlanDoesNotNeed(t *testing.T) {
	layout := layoutOf(t, `version: 1
volumes:
  - path: /models
    owner: 1001
    group: 2000
    mode: "2750"
    access_acl: ["user:0:r-x"]
    default_acl: ["user:0:r-x"]
    directories: [{path: hub, owner: 1001}, {path: hub/.locks, mode: "2770"}]
  - {path: /logs, directories: [{path: nim, owner: 1000, group: 1000, mode: "0750"}]}
`)
	wider := layoutOf(t, "version: 1\nvolumes: [{path: /models, directories: [{path: hub, mode: \"2770\"}]}]\n")
	ruled := layoutOf(t, "version: 1\nvolumes: [{path: /models, directories: [{path: hub, default_acl: [\"user:0:rwx\"]}]}]\n")
	onEachFileSystem(t, func(t *testing.T, dir string) {
		for _, name := range []string{"models", "logs"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, run := range []struct {
			name   string
			layout *spec.Layout
			kept   Capabilities
		}{
			{"from empty, where all is its own until it is handed over", layout, CapChown},
			{"again, with nothing to do", layout, 0},
			{"a default ACL of somebody else's directory", ruled, CapFowner},
			{"a mode and a group of somebody else's directory", wider, CapChown | CapFowner},
		} {
			var given []Capabilities
			asVolprep(t, func() {
				have := CapChown | CapFowner
				report := Apply(context.Background(), run.layout, Options{Root: dir, Capabilities: &have, Keep: givingUp(&given)})
				if report.ExitStatus() != 0 {
					t.Errorf("%s: %v", run.name, report.Errors)
				}
			})
			if want := []Capabilities{run.kept, 0}; !slices.Equal(given, want) {
				t.Errorf("%s: it kept %s in turn, want %s", run.name, given, want)
			}
		}
	})
}
