package prep

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"volprep/spec"
)

func number(n uint32) *uint32 { return &n }

func octal(bits uint32) *spec.Mode {
	return &spec.Mode{Text: fmt.Sprintf("%04o", bits), Absolute: true, Bits: bits}
}

// symbolic is `u=rwX,g=rX,o=` and the like: one clause for each class.
func symbolic(clauses ...spec.Clause) *spec.Mode {
	return &spec.Mode{Text: "symbolic", Clauses: clauses}
}

const (
	userClass  = 0o4700
	groupClass = 0o2070
	otherClass = 0o1007
)

// walkRequest is a walk that another process is asked for.
type walkRequest struct {
	Root         string
	Rules        spec.Contents
	Umask        uint32
	Declared     []string
	RootRight    bool
	ReadOnly     bool
	Jobs         int
	Shard, Count int
	Borrow       Borrow
}

// walkReply is a ContentsResult with its errors as text.
type walkReply struct {
	Result ContentsResult
	Failed []string
	Error  string
}

// contents are the request's Contents.
func (r walkRequest) contents(root int) *Contents {
	return &Contents{Root: root, RootPath: r.Root, Rules: r.Rules, Umask: r.Umask, Declared: r.Declared, RootRight: r.RootRight,
		ReadOnly: r.ReadOnly, Jobs: r.Jobs, Shard: r.Shard, Count: r.Count, Borrow: r.Borrow}
}

func (r walkRequest) walk(ctx context.Context) walkReply {
	root, err := unix.Open(r.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return walkReply{Error: err.Error()}
	}
	defer unix.Close(root)
	result, err := r.contents(root).Walk(ctx)
	reply := walkReply{Result: result}
	for _, failure := range result.Failed {
		reply.Failed = append(reply.Failed, failure.Error())
	}
	reply.Result.Failed = nil
	if err != nil {
		reply.Error = err.Error()
	}
	return reply
}

// walkerVariable makes the test binary a process that walks as it is told on standard input.
const walkerVariable = "VOLPREP_TEST_WALKER"

// TestWalkerProcess is no test: it is what asVolprepProcess starts.
func TestWalkerProcess(t *testing.T) {
	if os.Getenv(walkerVariable) == "" {
		t.Skip("it is the process that other tests start, with the privileges of an init container")
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.NewFile(3, "replies"))
	for {
		var request walkRequest
		if err := in.Decode(&request); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if err := out.Encode(request.walk(context.Background())); err != nil {
			t.Fatal(err)
		}
	}
}

// walkerProcess is a process with the privileges of an init container.
type walkerProcess struct {
	command *exec.Cmd
	in      *json.Encoder
	closeIn io.Closer
	out     *json.Decoder
}

// startWalker starts this test binary once more, as uid 0 with CAP_CHOWN and CAP_FOWNER alone.
func startWalker(t testing.TB, prefix ...string) *walkerProcess {
	t.Helper()
	requirement(t, os.Geteuid() == 0, "needs root, to make files of others")
	_, err := exec.LookPath("setpriv")
	requirement(t, err == nil, "needs setpriv(1)")
	arguments := append(slices.Clone(prefix), "setpriv", "--bounding-set=-all,+chown,+fowner", "--inh-caps=-all", "--clear-groups",
		"/proc/self/exe", "-test.run=^TestWalkerProcess$")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	arguments[len(arguments)-2] = self
	command := exec.Command(arguments[0], arguments[1:]...)
	command.Env = append(os.Environ(), walkerVariable+"=1")
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.ExtraFiles = []*os.File{writer}
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	w := &walkerProcess{command: command, in: json.NewEncoder(in), closeIn: in, out: json.NewDecoder(bufio.NewReader(reader))}
	t.Cleanup(func() {
		in.Close()
		command.Wait()
		reader.Close()
	})
	return w
}

// walk asks for a walk and waits for what came of it.
func (w *walkerProcess) walk(t testing.TB, request walkRequest) walkReply {
	t.Helper()
	if err := w.in.Encode(request); err != nil {
		t.Fatal(err)
	}
	var reply walkReply
	if err := w.out.Decode(&reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

// clean fails unless a walk did all that it had to.
func (r walkReply) clean(t testing.TB) {
	t.Helper()
	if r.Error != "" || len(r.Failed) > 0 || r.Result.FailedCount > 0 || r.Result.RefusedCount > 0 || r.Result.OpaqueCount > 0 {
		t.Fatalf("the walk did not do all: %+v", r)
	}
}

// snapshot is the state of each entry of a tree, by relative path.
func snapshot(t testing.TB, root string) map[string]string {
	t.Helper()
	states := map[string]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		info, err := look(System(), fd)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		states[name] = info.Type.String() + " " + info.settled().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return states
}

// seedling is one entry of a generated tree; a tree is a list of them, parents first.
type seedling struct {
	Path     string
	Kind     byte // d, f, l, p
	UID, GID uint32
	Mode     uint32
	ACL      string
}

// grow makes a generated tree.
func grow(t testing.TB, root string, tree []seedling) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(root, 0o755))
	for _, s := range tree {
		path := filepath.Join(root, s.Path)
		switch s.Kind {
		case 'd':
			must(os.Mkdir(path, 0o755))
		case 'f':
			must(os.WriteFile(path, nil, 0o600))
		case 'l':
			must(os.Symlink("/etc/passwd", path))
		case 'p':
			must(unix.Mkfifo(path, 0o600))
		}
		must(os.Lchown(path, int(s.UID), int(s.GID)))
		if s.Kind != 'l' {
			must(unix.Chmod(path, s.Mode))
		}
		if s.ACL != "" {
			out, err := exec.Command("setfacl", "-m", s.ACL, path).CombinedOutput()
			if err != nil {
				t.Fatalf("setfacl -m %s: %v: %s", s.ACL, err, out)
			}
		}
	}
}

var names = []string{"a", "b", "weights.safetensors", "-rf", "*", "new\nline", "\x1b[31m", "ünï", " ", "..a", "x;y", "\xff\xfe"}

// seed generates a tree.
func seed(r *rand.Rand, entries int) []seedling {
	var tree []seedling
	directories := []string{""}
	taken := map[string]bool{}
	ids := []uint32{0, 1000, 1001, 2000, 65533}
	for range entries {
		path := filepath.Join(directories[r.IntN(len(directories))], names[r.IntN(len(names))])
		if taken[path] {
			continue
		}
		taken[path] = true
		s := seedling{Path: path, Kind: "dddffffffflp"[r.IntN(12)], UID: ids[r.IntN(len(ids))], GID: ids[r.IntN(len(ids))], Mode: uint32(r.IntN(0o1000))}
		switch s.Kind {
		case 'd':
			// A borrower cannot add owner bits to a setgid directory without
			// its losing that for good, and says so; another test is about it.
			if s.Mode |= 0o700; r.IntN(3) == 0 {
				s.Mode |= 0o2000
			}
			directories = append(directories, path)
		case 'f':
			if r.IntN(8) == 0 {
				// Not setgid: a file's, for a foreign group, is beyond CAP_FOWNER.
				// And of ids that no goal has, for chown(1) clears the bit of
				// a file that is right already, and a walk leaves that alone.
				s.Mode |= 0o4000
				s.UID, s.GID = 65533, 65533
			}
		}
		if s.Kind != 'l' && s.Kind != 'p' && r.IntN(5) == 0 {
			if s.Kind == 'd' {
				s.Mode &^= 0o2000
			}
			s.ACL = []string{"u:3000:rwx", "g:3001:r", "u:3000:r,g:1000:rw"}[r.IntN(3)]
		}
		tree = append(tree, s)
	}
	return tree
}

// goal is one way to ask for an end state, of volprep and of the old tools.
type goal struct {
	name  string
	rules spec.Contents
	// chown, directories, files and acl are the old tools' arguments; "" is not asked.
	chown, directories, files, acl string
}

func goals() []goal {
	named := &spec.ACL{Entries: []spec.Entry{{Tag: spec.TagUser, ID: 3000, Perm: spec.PermRead | spec.PermConditionalExecute}, {Tag: spec.TagGroup, ID: 3001, Perm: spec.PermRead | spec.PermWrite}}}
	everywhere := spec.Contents{OneFileSystem: true}
	with := func(change func(*spec.Contents)) spec.Contents {
		rules := everywhere
		change(&rules)
		return rules
	}
	return []goal{
		{name: "owner alone", chown: "1000", rules: with(func(c *spec.Contents) { c.Owner = number(1000) })},
		{name: "group alone", chown: ":2000", rules: with(func(c *spec.Contents) { c.Group = number(2000) })},
		{name: "ids and octal modes", chown: "1000:2000", directories: "00750", files: "00640", rules: with(func(c *spec.Contents) {
			c.Owner, c.Group, c.DirMode, c.FileMode = number(1000), number(2000), octal(0o750), octal(0o640)
		})},
		{name: "setgid directories of a foreign group", chown: "1000:2000", directories: "02770", files: "00660", rules: with(func(c *spec.Contents) {
			c.Owner, c.Group, c.DirMode, c.FileMode = number(1000), number(2000), octal(0o2770), octal(0o660)
		})},
		{name: "symbolic modes with X", chown: ":2000", directories: "g+rwxs,o=", files: "g+rX,g-w,o=", rules: with(func(c *spec.Contents) {
			c.Group = number(2000)
			c.DirMode = symbolic(spec.Clause{Who: groupClass, Op: '+', Perm: 0o2777}, spec.Clause{Who: otherClass, Op: '='})
			c.FileMode = symbolic(spec.Clause{Who: groupClass, Op: '+', Perm: 0o444, X: true}, spec.Clause{Who: groupClass, Op: '-', Perm: 0o222}, spec.Clause{Who: otherClass, Op: '='})
		})},
		{name: "modes alone", directories: "u+rwx,g-w", files: "u=rw,g=r,o=", rules: with(func(c *spec.Contents) {
			c.DirMode = symbolic(spec.Clause{Who: userClass, Op: '+', Perm: 0o777}, spec.Clause{Who: groupClass, Op: '-', Perm: 0o222})
			c.FileMode = symbolic(spec.Clause{Who: userClass, Op: '=', Perm: 0o666}, spec.Clause{Who: groupClass, Op: '=', Perm: 0o444}, spec.Clause{Who: otherClass, Op: '='})
		})},
		{name: "ACLs", chown: "1000:2000", directories: "00750", files: "00640", acl: "u:3000:rX,g:3001:rw", rules: with(func(c *spec.Contents) {
			c.Owner, c.Group, c.DirMode, c.FileMode = number(1000), number(2000), octal(0o750), octal(0o640)
			c.Access, c.Default = named, named
		})},
	}
}

// oldWay brings a tree to a goal by chown(1), chmod(1) and setfacl(1), with all capabilities.
func (g goal) oldWay(t testing.TB, root string) {
	t.Helper()
	run := func(name string, arguments ...string) {
		t.Helper()
		if out, err := exec.Command(name, arguments...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", name, arguments, err, out)
		}
	}
	if g.chown != "" {
		run("chown", "-hR", g.chown, root)
	}
	if g.acl != "" {
		run("find", root, "(", "-type", "d", "-o", "-type", "f", ")", "-exec", "setfacl", "-b", "--", "{}", "+")
	}
	if g.directories != "" {
		run("find", root, "-depth", "-type", "d", "-exec", "chmod", g.directories, "--", "{}", "+")
	}
	if g.files != "" {
		run("find", root, "-type", "f", "-exec", "chmod", g.files, "--", "{}", "+")
	}
	if g.acl != "" {
		run("find", root, "-type", "f", "-exec", "setfacl", "-m", g.acl, "--", "{}", "+")
		run("find", root, "-type", "d", "-exec", "setfacl", "-m", g.acl+",d:"+strings.ReplaceAll(g.acl, ",", ",d:"), "--", "{}", "+")
	}
}

// sameEnd grows a tree twice, and tells how the ends of both ways differ.
func sameEnd(t testing.TB, w *walkerProcess, g goal, tree []seedling) string {
	t.Helper()
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	grow(t, ours, tree)
	grow(t, theirs, tree)
	g.oldWay(t, theirs)
	reply := w.walk(t, walkRequest{Root: ours, Rules: g.rules, Jobs: 2})
	if reply.Error != "" || len(reply.Failed) > 0 || reply.Result.RefusedCount+reply.Result.OpaqueCount > 0 {
		return fmt.Sprintf("%+v", reply)
	}
	if difference := cmp.Diff(snapshot(t, theirs), snapshot(t, ours)); difference != "" {
		return difference
	}
	before := changeTimes(t, ours)
	again := w.walk(t, walkRequest{Root: ours, Rules: g.rules, Jobs: 2})
	if again.Result.Changed != 0 {
		return fmt.Sprintf("a second walk changed %d entries", again.Result.Changed)
	}
	if again.Result.Borrows == 0 {
		if difference := cmp.Diff(before, changeTimes(t, ours)); difference != "" {
			return "a second walk moved times: " + difference
		}
	}
	os.RemoveAll(dir)
	return ""
}

// shrink drops entries of a tree for as long as it still fails.
func shrink(tree []seedling, fails func([]seedling) bool) []seedling {
	for size := len(tree) / 2; size >= 1; size /= 2 {
		for at := 0; at < len(tree); {
			end := min(at+size, len(tree))
			var smaller []seedling
			kept := map[string]bool{".": true}
			for _, s := range slices.Concat(tree[:at], tree[end:]) {
				if kept[filepath.Dir(s.Path)] {
					kept[s.Path] = true
					smaller = append(smaller, s)
				}
			}
			if fails(smaller) {
				tree = smaller
			} else {
				at = end
			}
		}
	}
	return tree
}

// trees is how many trees the property is tried on; VOLPREP_TREES sets it.
func trees(otherwise int) int {
	n := otherwise
	if text := os.Getenv("VOLPREP_TREES"); text != "" {
		fmt.Sscan(text, &n)
	}
	return n
}

// startingSeed is VOLPREP_SEED, or what the clock says.
func startingSeed() uint64 {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("VOLPREP_SEED"); text != "" {
		fmt.Sscan(text, &seed)
	}
	return seed
}

func TestAWalkEndsAsChownChmodAndSetfaclDo(t *testing.T) {
	w := startWalker(t)
	_, err := exec.LookPath("setfacl")
	requirement(t, err == nil, "needs setfacl(1)")
	begin := startingSeed()
	all := goals()
	for i := range trees(28) {
		n := begin + uint64(i)
		r := rand.New(rand.NewPCG(n, 0))
		g := all[i%len(all)]
		tree := seed(r, 5+r.IntN(40))
		difference := sameEnd(t, w, g, tree)
		if difference == "" {
			continue
		}
		tree = shrink(tree, func(smaller []seedling) bool { return sameEnd(t, w, g, smaller) != "" })
		t.Fatalf("VOLPREP_SEED=%d, goal %q, shrunk to %d entries:\n%+v\n%s", n, g.name, len(tree), tree, sameEnd(t, w, g, tree))
	}
}
