package prep

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// named makes a complete ACL of base permissions and named entries.
func named(mode uint32, entries ...spec.Entry) spec.ACL {
	return spec.ACL{Entries: entries}.Complete(mode, true)
}

func user(id uint32, perm spec.Perm) spec.Entry {
	return spec.Entry{Tag: spec.TagUser, ID: id, Perm: perm}
}

func group(id uint32, perm spec.Perm) spec.Entry {
	return spec.Entry{Tag: spec.TagGroup, ID: id, Perm: perm}
}

// directory is a state without ACLs.
func directory(uid, gid, mode uint32) State {
	return State{Type: fs.ModeDir, UID: uid, GID: gid, Mode: mode}
}

// orderStates are the states between which every order is tested: each pair, both ways.
func orderStates() []State {
	states := []State{
		directory(0, 0, 0o755),
		directory(0, 0, 0o700),
		directory(1000, 1000, 0o755),
		directory(1000, 1000, 0o700),
		directory(1000, 2000, 0o770),
		directory(1000, 2000, 0o2770),
		directory(1000, 2000, 0o2750),
		directory(1001, 2000, 0o2775),
		directory(1000, 0, 0o750),
		directory(0, 2000, 0o2770),
		directory(1000, 1000, 0o1777),
		directory(1001, 3000, 0o3770),
		directory(1000, 2000, 0o2570),
		directory(1000, 1000, 0o077),
	}
	extended := []State{
		directory(1000, 2000, 0o2750).withAccess(named(0o750, user(3000, 5))),
		directory(0, 0, 0o755).withAccess(named(0o755, user(3000, 7), group(4000, 5))),
		directory(1000, 1000, 0o700).withAccess(named(0o700, user(3000, 0), group(2000, 7))),
		directory(1000, 2000, 0o750).withAccess(spec.ACL{Entries: []spec.Entry{
			{Tag: spec.TagUserObj, Perm: 7}, {Tag: spec.TagUser, ID: 3000, Perm: 7},
			{Tag: spec.TagGroupObj, Perm: 7}, {Tag: spec.TagMask, Perm: 5}, {Tag: spec.TagOther},
		}}),
	}
	extended[0].Mode |= setgidBit
	states = append(states, extended...)
	withDefault := directory(1001, 2000, 0o2750)
	withDefault.Default = named(0o750, user(3000, 5))
	return append(states, withDefault)
}

// subjects are processes of every class that the states know.
var subjects = []Caller{
	{UID: 1000, GID: 1000}, {UID: 1001, GID: 1001}, {UID: 1001, GID: 3000},
	{UID: 3000, GID: 3000}, {UID: 3000, GID: 2000}, {UID: 5000, GID: 2000},
	{UID: 5000, GID: 4000}, {UID: 5000, GID: 0}, {UID: 5000, GID: 5000},
	{UID: 5000, GID: 5000, Groups: []uint32{0, 2000}},
}

// reach is what a process may do with a directory, as bits.
func reach(s State, subject Caller) spec.Perm {
	var may spec.Perm
	for _, bit := range []spec.Perm{spec.PermRead, spec.PermWrite, spec.PermExecute} {
		if permits(s, subject, bit) {
			may |= bit
		}
	}
	return may
}

// wider tells whether a process may do more with a directory between two
// states than before and than after.
func wider(between, before, after State, subject Caller) bool {
	may := reach(between, subject)
	return may&^(reach(before, subject)|reach(after, subject)) != 0
}

func TestEveryOrderEndsRightAndOpensNothingMeanwhile(t *testing.T) {
	caller := Caller{}
	for _, before := range orderStates() {
		for _, after := range orderStates() {
			for _, options := range []orderOptions{{}, {keepVeil: true}, {named: true}, {named: true, keepVeil: true}} {
				steps, err := transition(before, after, caller, options)
				if err == errOwnerIsLeast && !options.named && (ownerIsLeast(before) || ownerIsLeast(after)) {
					continue
				}
				if err != nil {
					t.Errorf("%s -> %s: %v", before, after, err)
					continue
				}
				now := before
				for i, step := range steps {
					now = step.after(now, caller)
					for _, subject := range subjects {
						if wider(now, before, after, subject) {
							t.Errorf("%s -> %s: step %d (%s) leaves %s, where %+v may %s, before %s, after %s", before, after, i+1, step.doing(), now,
								subject, reach(now, subject), reach(before, subject), reach(after, subject))
						}
					}
				}
				if !now.equal(after) {
					t.Errorf("%s -> %s ends as %s", before, after, now)
				}
			}
		}
	}
}

func TestRandomOrdersEndRightAndOpenNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	ids := []uint32{0, 1000, 2000, 3000}
	state := func() State {
		s := directory(ids[random.IntN(4)], ids[random.IntN(4)], random.Uint32()&0o3777)
		if random.IntN(2) == 0 {
			special := s.Mode &^ 0o777
			s = s.withAccess(named(s.Mode&0o777, user(ids[random.IntN(4)], spec.Perm(random.IntN(8))), group(ids[random.IntN(4)], spec.Perm(random.IntN(8)))))
			s.Mode |= special
			if random.IntN(3) == 0 {
				s.Access = masked(s.Access, spec.Perm(1+random.IntN(7)), 7)
			}
		}
		return s
	}
	for range 20000 {
		before, after := state(), state()
		caller := Caller{}
		if random.IntN(3) == 0 {
			caller.Groups = []uint32{2000}
		}
		options := orderOptions{keepVeil: random.IntN(2) == 0, named: random.IntN(2) == 0}
		steps, err := transition(before, after, caller, options)
		if err != nil && (unveilable(after) || !options.named && (ownerIsLeast(before) || ownerIsLeast(after))) {
			continue
		}
		if err != nil {
			t.Fatalf("%s -> %s: %v", before, after, err)
		}
		now := before
		for _, step := range steps {
			now = step.after(now, caller)
			for _, subject := range append(subjects, Caller{UID: 2000, GID: 1000}, Caller{UID: 3000, GID: 0}) {
				if wider(now, before, after, subject) {
					t.Fatalf("%s -> %s: %s leaves %s, where %+v may %s, before %s, after %s", before, after, step.doing(), now,
						subject, reach(now, subject), reach(before, subject), reach(after, subject))
				}
			}
		}
		if !now.equal(after) {
			t.Fatalf("%s -> %s ends as %s after %d steps", before, after, now, len(steps))
		}
	}
}

// stepByStep records the state after each call that changes something.
type stepByStep struct {
	Kernel
	changed func(fd int)
}

func (s stepByStep) Fchownat(fd, uid, gid int) error {
	err := s.Kernel.Fchownat(fd, uid, gid)
	s.changed(fd)
	return err
}

func (s stepByStep) Fchmod(fd int, mode uint32) error {
	err := s.Kernel.Fchmod(fd, mode)
	s.changed(fd)
	return err
}

func (s stepByStep) Setxattr(fd int, name string, value []byte) error {
	err := s.Kernel.Setxattr(fd, name, value)
	s.changed(fd)
	return err
}

func (s stepByStep) Removexattr(fd int, name string) error {
	err := s.Kernel.Removexattr(fd, name)
	s.changed(fd)
	return err
}

// put gives a directory a state, as all-powerful root.
func put(t testing.TB, path string, s State) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	kernel := System()
	if err := kernel.Fchownat(fd, int(s.UID), int(s.GID)); err != nil {
		t.Fatal(err)
	}
	for xattr, acl := range map[string]spec.ACL{accessXattr: s.accessACL(), defaultXattr: s.Default} {
		if xattr == defaultXattr && s.Default.Empty() {
			continue
		}
		err := kernel.Setxattr(fd, xattr, EncodeACL(acl))
		if err != nil && !(err == unix.EOPNOTSUPP && !acl.Extended()) {
			t.Fatal(err)
		}
	}
	if err := kernel.Fchmod(fd, s.StatMode()); err != nil {
		t.Fatal(err)
	}
	info, err := look(kernel, fd)
	if err != nil || !info.equal(s) {
		t.Fatalf("%s is %s (%v), should be %s", path, info.State, err, s)
	}
}

func TestEveryOrderOnRealFileSystemsWithTwoCapabilities(t *testing.T) {
	onEachFileSystem(t, func(t *testing.T, dir string) {
		states := orderStates()
		orders := 0
		for i, before := range states {
			for j := range states {
				path := filepath.Join(dir, fmt.Sprintf("%d-%d", i, j))
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
				put(t, path, before)
			}
		}
		asVolprep(t, func() {
			for i, before := range states {
				for j, after := range states {
					fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("%d-%d", i, j)), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					kernel := stepByStep{Kernel: System(), changed: func(fd int) {
						info, err := look(System(), fd)
						if err != nil {
							t.Error(err)
						}
						for _, subject := range subjects {
							if wider(info.State, before, after, subject) {
								t.Errorf("%s -> %s: on the way it is %s, where %+v may %s", before, after, info.State, subject, reach(info.State, subject))
							}
						}
					}}
					caller := Caller{}
					e := newEngine(context.Background(), "test", Options{Kernel: kernel, Caller: &caller})
					if err := e.become(fd, after, orderOptions{named: ownerIsLeast(before) || ownerIsLeast(after) || i%2 == 0}); err != nil {
						t.Errorf("%s -> %s: %v", before, after, err)
					}
					if info, err := look(System(), fd); err != nil || !info.equal(after) {
						t.Errorf("%s -> %s: it is %s, %v", before, after, info.State, err)
					}
					unix.Close(fd)
					orders++
				}
			}
		})
		t.Logf("%d orders", orders)
	})
}
