package prep

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// someState is a random state, of ids that the subjects know.
func someState(random *rand.Rand, kind fs.FileMode) State {
	ids := []uint32{0, 1000, 1001, 2000, 3000}
	pick := func() uint32 { return ids[random.IntN(len(ids))] }
	s := State{Type: kind, UID: pick(), GID: pick(), Mode: random.Uint32() & 0o777}
	if random.IntN(3) > 0 {
		s.Mode |= 0o111
	}
	if kind == fs.ModeDir {
		s.Mode |= random.Uint32() & (setgidBit | stickyBit)
	}
	someACL := func() spec.ACL {
		entries := []spec.Entry{user(pick(), spec.Perm(random.IntN(8))), group(pick(), spec.Perm(random.IntN(8)))}
		if random.IntN(2) == 0 {
			entries = append(entries, spec.Entry{Tag: spec.TagMask, Perm: spec.Perm(random.IntN(8))})
		}
		return spec.ACL{Entries: entries}.Complete(random.Uint32()&0o777, true)
	}
	if random.IntN(2) == 0 {
		special := s.Mode &^ 0o777
		s = s.withAccess(someACL())
		s.Mode |= special
	}
	if kind == fs.ModeDir && random.IntN(2) == 0 {
		s.Default = someACL()
		if random.IntN(3) == 0 {
			s.Default = spec.ACL{}.Complete(random.Uint32()&0o777, true)
		}
	}
	return s
}

// tries are the real calls by which a verb is tried at a path of a kind; a
// denial is EACCES or EPERM.
func try(verb spec.Verb, path string, directory bool, mode uint32) error {
	open := func(flags int) error {
		fd, err := unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	switch verb {
	case spec.List:
		return open(unix.O_RDONLY | unix.O_DIRECTORY)
	case spec.Traverse:
		var stat unix.Stat_t
		return unix.Lstat(path+"/.", &stat)
	case spec.Read:
		return open(unix.O_RDONLY)
	case spec.Create:
		err := unix.Mkdir(path+"/new", 0o700)
		if err == nil {
			err = unix.Rmdir(path + "/new")
		}
		return err
	case spec.Write:
		if directory {
			return try(spec.Create, path, true, mode)
		}
		return open(unix.O_WRONLY)
	case spec.Delete:
		if directory {
			if err := unix.Rmdir(path); err != unix.ENOTEMPTY {
				return err
			}
			return nil
		}
		err := unix.Rename(path, path+".moved")
		if err == nil {
			err = unix.Rename(path+".moved", path)
		}
		return err
	default:
		return unix.Chmod(path, mode)
	}
}

// putFile is put for a regular file.
func putFile(t testing.TB, path string, s State) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, path, s)
}

func TestTheEvaluatorAgreesWithTheKernel(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	trees := 40
	if os.Getenv("VOLPREP_COMPARE") == "all" {
		trees = 260
	}
	total := 0
	onEachFileSystem(t, func(t *testing.T, dir string) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		type target struct {
			path  string
			chain []Component
		}
		var targets []target
		for i := range trees {
			chain := []Component{{Path: dir, State: stateAt(t, dir).State}}
			path := filepath.Join(dir, fmt.Sprint("t", i))
			for depth := range 3 {
				if depth > 0 {
					path = filepath.Join(path, "d")
				}
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
				chain = append(chain, Component{Path: path, State: someState(random, fs.ModeDir)})
			}
			file := filepath.Join(path, "f")
			chain = append(chain, Component{Path: file, State: someState(random, 0)})
			putFile(t, file, chain[4].State)
			for depth := 3; depth > 0; depth-- {
				put(t, chain[depth].Path, chain[depth].State)
			}
			targets = append(targets, target{path, slices.Clone(chain[:4])}, target{file, chain})
		}
		compared := 0
		for _, subject := range subjects {
			asUser(t, subject.UID, subject.GID, subject.Groups, func() {
				for _, target := range targets {
					last := target.chain[len(target.chain)-1].State
					directory := last.Type == fs.ModeDir
					for _, verb := range verbs {
						if !directory && slices.Contains([]spec.Verb{spec.List, spec.Traverse, spec.Create}, verb) {
							continue
						}
						if verb == spec.Chmod && last.UID == subject.UID && last.Mode&setgidBit != 0 {
							continue // chmod(2) by an owner outside the group would change what others are tried on
						}
						verdict := Can(Credentials(subject), target.chain, verb)
						err := try(verb, target.path, directory, last.StatMode())
						denied := err == unix.EACCES || err == unix.EPERM
						if err != nil && !denied {
							t.Errorf("%s %s: %v", verb, target.path, err)
						}
						if verdict.Allowed == denied {
							t.Errorf("%+v, %s at %s: the kernel says %v, the evaluator: %s", subject, verb, describeChain(target.chain), err, verdict.Why)
						}
						compared++
					}
				}
			})
		}
		total += compared
		t.Logf("%d comparisons", compared)
	})
	t.Logf("%d comparisons in all", total)
}

func describeChain(chain []Component) string {
	var text []string
	for _, component := range chain[1:] {
		text = append(text, component.State.String())
	}
	return strings.Join(text, " / ")
}

func TestWhatIsMadeInheritsAsComputed(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	umasks := []uint32{0, 0o022, 0o027, 0o077}
	parents := 60
	if os.Getenv("VOLPREP_COMPARE") == "all" {
		parents = 1000
	}
	onEachFileSystem(t, func(t *testing.T, dir string) {
		compared := 0
		for i := range parents {
			parent := someState(random, fs.ModeDir)
			subject := subjects[i%len(subjects)]
			parent.UID = subject.UID
			parent = withOwnerDigit(parent, 7)
			path := filepath.Join(dir, fmt.Sprint("p", i))
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			put(t, path, parent)
			umask := umasks[i%len(umasks)]
			directoryMode, fileMode := random.Uint32()&0o777, random.Uint32()&0o777
			asUser(t, subject.UID, subject.GID, subject.Groups, func() {
				// The umask is shared by all threads until CLONE_FS is taken back.
				if err := unix.Unshare(unix.CLONE_FS); err != nil {
					t.Errorf("unshare: %v", err)
					return
				}
				unix.Umask(int(umask))
				if err := unix.Mkdir(path+"/d", directoryMode); err != nil {
					t.Errorf("mkdir: %v", err)
				}
				fd, err := unix.Open(path+"/f", unix.O_CREAT|unix.O_WRONLY|unix.O_EXCL, fileMode)
				if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				unix.Close(fd)
			})
			for name, mode := range map[string]uint32{"d": directoryMode, "f": fileMode} {
				want := Inherit(parent, mode, name == "d", subject.UID, subject.GID, umask)
				if got := stateAt(t, path+"/"+name).State; !got.equal(want) {
					t.Errorf("%s with %04o under umask %04o in %s is %s, computed %s", name, mode, umask, parent, got, want)
				}
				compared++
			}
		}
		t.Logf("%d comparisons", compared)
	})
}

func TestARefusalSaysTheSmallestMend(t *testing.T) {
	masked := directory(1000, 2000, 0o750).withAccess(spec.ACL{Entries: []spec.Entry{
		{Tag: spec.TagUserObj, Perm: 7}, {Tag: spec.TagUser, ID: 3000, Perm: 7}, {Tag: spec.TagGroupObj, Perm: 5}, {Tag: spec.TagMask, Perm: 5}, {Tag: spec.TagOther}}})
	sticky := directory(0, 0, 0o1777)
	for _, c := range []struct {
		name  string
		as    Credentials
		chain []Component
		verb  spec.Verb
		mend  string
	}{
		{"the owner lacks a bit", Credentials{UID: 1000, GID: 1}, []Component{{Path: "/v", State: directory(1000, 1, 0o500)}}, spec.Create, "give /v mode: u+w"},
		{"the group lacks a bit", Credentials{UID: 1, GID: 2000}, []Component{{Path: "/v", State: directory(1000, 2000, 0o750)}}, spec.Create, "give /v mode: g+w"},
		{"somebody is not in the group", Credentials{UID: 1, GID: 1}, []Component{{Path: "/v", State: directory(1000, 2000, 0o750)}}, spec.List, "put the identity into group 2000, which has r-x on /v"},
		{"others have nothing, nor has the group", Credentials{UID: 1, GID: 1}, []Component{{Path: "/v", State: directory(1000, 2000, 0o700)}}, spec.Traverse, `add "user:1:x" to the access_acl of /v`},
		{"the mask hides it", Credentials{UID: 3000, GID: 1}, []Component{{Path: "/v", State: masked}}, spec.Create, "widen the mask of /v in access_acl"},
		{"a sticky directory", Credentials{UID: 5, GID: 5}, []Component{{Path: "/v", State: sticky}, {Path: "/v/f", State: State{UID: 6}}}, spec.Delete, "take the sticky bit off /v: mode: o-t"},
		{"a read-only mount", Credentials{UID: 1000, GID: 1}, []Component{{Path: "/v", State: directory(1000, 1, 0o700), ReadOnly: true}}, spec.Write, "mount it writable for this container"},
		{"not the owner", Credentials{UID: 1, GID: 1}, []Component{{Path: "/v", State: directory(1000, 1, 0o777)}}, spec.Chmod, "name owner: 1 for /v"},
		{"the way is closed", Credentials{UID: 1, GID: 1}, []Component{{Path: "/v", State: directory(0, 0, 0o711)}, {Path: "/v/a", State: directory(0, 7, 0o770)}, {Path: "/v/a/b", State: directory(1, 1, 0o700)}}, spec.List, "put the identity into group 7, which has rwx on /v/a"},
	} {
		verdict := Can(c.as, c.chain, c.verb)
		if verdict.Allowed || verdict.Mend != c.mend {
			t.Errorf("%s: allowed %v (%s), mend %q, want %q", c.name, verdict.Allowed, verdict.Why, verdict.Mend, c.mend)
		}
	}
}
