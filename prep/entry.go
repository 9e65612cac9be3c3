package prep

import (
	"io/fs"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// entries looks at some entries of a folder, whose descriptor is dir.
func (k *worker) entries(f *folder, dir int, entries []byte) {
	mine := k.shard.takes(f.id.ino)
	for len(entries) > 0 {
		entry := dirent(entries)
		rest := entries[entry.length():]
		name := entry.name()
		switch {
		case isDot(name) || k.exclude.excludes(f.partial, name):
		case entry.kind() == unix.DT_DIR:
			k.push(f, name, -1)
		case !mine && entry.kind() != unix.DT_UNKNOWN:
		default:
			var err error
			if mine && k.wrongInARow >= presumedWrong && entry.kind() != unix.DT_UNKNOWN {
				err = k.openAndMend(f, dir, name, true)
			} else {
				err = k.check(f, dir, name, mine)
			}
			if err == unix.EACCES {
				// The folder may not be searched, and neither may the rest be.
				k.closedEntries(f, dir, entries, mine)
				return
			}
			if err != nil {
				k.fail(k.pathOf(f, name), "looking at it", err, State{})
			}
		}
		entries = rest
	}
}

// push notes a folder to be walked into; fd is an O_PATH descriptor, if there is one.
func (k *worker) push(parent *folder, name []byte, fd int) {
	f := &folder{parent: parent, name: string(name), fd: -1,
		declared: parent.declared.below(name), partial: k.exclude.below(parent.partial, name)}
	f.pending.Store(1)
	parent.pending.Add(1)
	parent.spine.Store(true)
	if fd >= 0 {
		k.walk.folders.put(f, fd, false)
	}
	k.folders = append(k.folders, f)
}

// presumedWrong is after how many wrong entries in a row the next is opened at
// once: in a tree where all is wrong that saves the look by name.
const presumedWrong = 8

// check looks at one entry by its name, and changes it if it is not right.
// EACCES alone says that the folder may not be searched.
func (k *worker) check(f *folder, dir int, name []byte, mine bool) error {
	stat := &k.stat
	err := k.kernel.StatxName(dir, &name[0], unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, entryMask, stat)
	if err != nil {
		return err
	}
	kind := uint32(stat.Mode) & unix.S_IFMT
	if kind == unix.S_IFDIR {
		k.push(f, name, -1)
		return nil
	}
	if !mine || k.foreign(f, stat) {
		return nil
	}
	k.scannedHere++
	regular := kind == unix.S_IFREG
	wrong := k.wrongInARow
	k.wrongInARow = 0
	if !k.rule.always && k.rule.plainlyRight(regular, stat.Uid, stat.Gid, uint32(stat.Mode)) {
		if !regular || k.rule.access == nil {
			return nil
		}
		n, err := k.accessByName(dir, name)
		if err != nil {
			return err
		}
		if v, err := k.judge(stat, k.value[:n]); err == nil && v.right() {
			return nil
		}
	}
	k.wrongInARow = wrong + 1
	return k.openAndMend(f, dir, name, false)
}

// openAndMend opens an entry and makes it right; unseen is that nobody looked at it yet.
func (k *worker) openAndMend(f *folder, dir int, name []byte, unseen bool) error {
	fd, err := k.kernel.OpenName(dir, &name[0], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	if unseen {
		k.scannedHere++
	}
	k.mend(f, name, fd)
	k.kernel.Close(fd)
	return nil
}

// foreign tells whether an entry is on another mount, where the walk does not go.
func (k *worker) foreign(f *folder, stat *unix.Statx_t) bool {
	return k.Rules.OneFileSystem && mountOf(stat) != f.mount
}

// accessByName reads an access ACL into the worker's value; its length is 0
// where there is none.
func (k *worker) accessByName(dir int, name []byte) (int, error) {
	n, err := k.kernel.GetAccessName(dir, &name[0], k.value)
	if err == unix.ERANGE {
		k.value = make([]byte, maxXattrSize)
		n, err = k.kernel.GetAccessName(dir, &name[0], k.value)
	}
	return noACL(n, err)
}

func (k *worker) accessByDescriptor(fd int) (int, error) {
	n, err := k.kernel.Getxattr(fd, accessXattr, k.value)
	if err == unix.ERANGE {
		k.value = make([]byte, maxXattrSize)
		n, err = k.kernel.Getxattr(fd, accessXattr, k.value)
	}
	return noACL(n, err)
}

func noACL(n int, err error) (int, error) {
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return 0, nil
	}
	return n, err
}

// closedMost bounds the entries of a folder that are opened in one borrow.
const closedMost = 128

// closedEntries is entries for a folder that may be read but not searched:
// everything in it is opened while the folder is borrowed, some at a time, and
// looked at when it is given back.
func (k *worker) closedEntries(f *folder, dir int, entries []byte, mine bool) {
	type found struct {
		name []byte
		fd   int
	}
	for len(entries) > 0 {
		var batch []dirent
		for len(entries) > 0 && len(batch) < k.closedAtOnce {
			entry := dirent(entries)
			entries = entries[entry.length():]
			name := entry.name()
			if !isDot(name) && !k.exclude.excludes(f.partial, name) && (mine || entry.kind() == unix.DT_DIR || entry.kind() == unix.DT_UNKNOWN) {
				batch = append(batch, entry)
			}
		}
		if len(batch) == 0 {
			continue
		}
		opened := make([]found, 0, len(batch))
		lost := 0
		err := k.hands.within(dir, f, func() error {
			// It runs again where somebody else gave the folder back meanwhile.
			for _, entry := range batch[len(opened)+lost:] {
				name := entry.name()
				fd, err := k.kernel.OpenName(dir, &name[0], unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
				if err == unix.EACCES {
					return err
				}
				if err != nil {
					lost++
					k.fail(k.pathOf(f, name), "opening it", err, State{})
					continue
				}
				opened = append(opened, found{name, fd})
			}
			return nil
		})
		for _, entry := range opened {
			k.closedEntry(f, entry.name, entry.fd, mine)
		}
		switch {
		case err == unix.EACCES:
			k.unseen(f)
			return
		case err != nil:
			k.fail(k.pathOf(f, nil), "looking into the directory", err, State{Type: fs.ModeDir})
			return
		}
	}
}

// closedEntry takes over an O_PATH descriptor of an entry.
func (k *worker) closedEntry(f *folder, name []byte, fd int, mine bool) {
	if err := k.statDescriptor(fd); err != nil {
		k.kernel.Close(fd)
		k.fail(k.pathOf(f, name), "looking at it", err, State{})
		return
	}
	if fileType(k.stat.Mode) == fs.ModeDir {
		k.push(f, name, fd)
		return
	}
	if mine && !k.foreign(f, &k.stat) {
		k.scannedHere++
		k.mend(f, name, fd)
	}
	k.kernel.Close(fd)
}

func (k *worker) statDescriptor(fd int) error {
	return k.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, entryMask, &k.stat)
}

// mend makes an entry right by its O_PATH descriptor, whatever it was when it
// was looked at by name.
func (k *worker) mend(f *folder, name []byte, fd int) {
	failed := func(doing string, err error) {
		k.fail(k.pathOf(f, name), doing, err, stateOf(&k.stat))
	}
	if err := k.kernel.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, entryMask|unix.STATX_CTIME, &k.stat); err != nil {
		failed("looking at it", err)
		return
	}
	kind := fileType(k.stat.Mode)
	if kind == fs.ModeDir || k.foreign(f, &k.stat) {
		k.vanished.Add(1)
		return
	}
	v, err := k.judgeDescriptor(fd)
	if err != nil {
		failed("reading its ACL", err)
		return
	}
	if v.right() && !k.rule.always {
		k.wrongInARow = 0
		return
	}
	if kind&fs.ModeDevice != 0 {
		k.refuse(k.pathOf(f, name), "it is a device node, and whoever owns it has the device",
			"remove it from the volume, or exclude it")
		return
	}
	if k.ReadOnly && k.stat.Nlink == 1 {
		k.differs(f, name, v.have, v.want)
		return
	}
	if !k.allNames(f, name, fd) {
		return
	}
	if k.ReadOnly {
		k.differs(f, name, v.have, v.want)
		return
	}
	k.become(f, name, fd, v)
}

// allNames tells whether a file may be changed, as far as hardlinks goes: with
// inside, when the last of its names was found.
func (k *worker) allNames(f *folder, name []byte, fd int) bool {
	if k.Rules.Hardlinks == spec.HardlinksChange {
		return true
	}
	changed, names, settled, there, err := k.namesOf(f, name, fd)
	switch {
	case err != nil:
		k.fail(k.pathOf(f, name), "looking at it", err, stateOf(&k.stat))
		return false
	case !there:
		k.vanished.Add(1)
		return false
	case names == 1 && settled:
		return true
	case k.Rules.Hardlinks == spec.HardlinksRefuse:
		k.refuse(k.pathOf(f, name), linkWhy(uint64(names)), "exclude it, replace it by a copy, or say hardlinks: inside or change")
		return false
	default:
		return k.links.found(identityOf(&k.stat), names, changed, settled, sighting{f.id, string(name)}, k.pathOf(f, name))
	}
}

// roundsOfChange bounds how often a change is tried again because the kernel,
// or somebody else, made something else of it.
const roundsOfChange = 3

// become changes an entry step by step and reads it back.
func (k *worker) become(f *folder, name []byte, fd int, v *verdict) {
	first := v
	setid, capabilities := false, false
	for range roundsOfChange {
		if v.err != nil {
			k.fail(k.pathOf(f, name), "changing it", v.err, v.have)
			return
		}
		if v.chowns && v.have.Type.IsRegular() {
			setid = setid || v.have.Mode&(setuidBit|setgidBit) != 0
			capabilities = capabilities || v.have.Mode&0o111 != 0 && k.hasCapabilities(fd)
		}
		for i, step := range v.steps {
			if err := k.carryOut(fd, step, v.encoded[i]); err != nil {
				k.fail(k.pathOf(f, name), step.doing(), err, v.have)
				return
			}
		}
		want := v.want
		err := k.statDescriptor(fd)
		if err == nil {
			v, err = k.judgeDescriptor(fd)
		}
		if err != nil {
			k.fail(k.pathOf(f, name), "reading it back", err, first.have)
			return
		}
		if !v.right() && !v.have.equal(want) {
			continue
		}
		if setid && v.have.Mode&(setuidBit|setgidBit) == first.have.Mode&(setuidBit|setgidBit) {
			setid = false
		}
		if setid || capabilities {
			k.cleared(k.pathOf(f, name), setid, capabilities)
		}
		k.differs(f, name, first.have, v.have)
		return
	}
	k.fail(k.pathOf(f, name), "changing it", errNotAsAsked, v.have)
}

// hasCapabilities tells whether a file has capabilities of its own (capabilities(7)).
func (k *worker) hasCapabilities(fd int) bool {
	n, err := k.kernel.Getxattr(fd, capabilitiesXattr, k.key[:0])
	return n > 0 && err == nil
}

// carryOut does one step by a descriptor.
func (k *worker) carryOut(fd int, step Step, encoded []byte) error {
	switch {
	case step.Op == OpChown:
		return k.kernel.Fchownat(fd, step.UID, step.GID)
	case step.Op == OpChmod:
		return k.kernel.FchmodDirect(fd, step.Mode)
	case step.Op == OpSetAccess, step.Op == OpRemoveAccess && !step.Unveil:
		return k.kernel.Setxattr(fd, accessXattr, encoded)
	case step.Op == OpRemoveAccess:
		return k.kernel.Removexattr(fd, accessXattr)
	case step.Op == OpSetDefault:
		return k.kernel.Setxattr(fd, defaultXattr, encoded)
	default:
		return k.kernel.Removexattr(fd, defaultXattr)
	}
}
