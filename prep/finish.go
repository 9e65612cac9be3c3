package prep

import (
	"io/fs"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// differsFolder tells whether a folder itself is wrong, or bears a slip. What
// cannot be looked at counts as wrong.
func (k *worker) differsFolder(f *folder) bool {
	stat := &k.stat
	err := k.kernel.Statx(f.fd, "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, folderMask, stat)
	if err != nil || k.rule.always || stat.Uid == k.caller.UID || k.rule.access != nil || k.rule.dflt != nil {
		have, slipped, err := k.hands.lookThrough(f.fd)
		return err != nil || slipped || k.rule.always || !have.equal(k.rule.wanted(have))
	}
	mode := stat.Mode & modeBits
	return !k.rule.ids(stat.Uid, stat.Gid) || k.rule.dirModes != nil && k.rule.dirModes[mode] != mode
}

// finish makes a folder right, when all below it is.
func (k *worker) finish(f *folder) {
	if f.left || !f.entered || f.declared != nil && f.declared.listed || !k.shard.finishes(f.id.ino, f.spine.Load()) {
		return
	}
	if f.parent == nil && k.Rules.When == spec.WhenRootMismatch && k.failures.Load()+k.refusals.Load() > 0 {
		// A root that is right would say that all below it is.
		return
	}
	if _, err := k.walk.folders.acquire(f); err != nil {
		k.lost(f, err)
		return
	}
	defer k.walk.folders.release(f)
	if !k.differsFolder(f) {
		return
	}
	have, slipped, err := k.hands.lookThrough(f.fd)
	if err != nil {
		k.fail(k.pathOf(f, nil), "looking at the directory", err, State{Type: fs.ModeDir})
		return
	}
	want := k.rule.wanted(have)
	switch {
	case !have.equal(want) || slipped:
	case k.rule.always && !k.ReadOnly:
		k.again(f, have)
		return
	default:
		return
	}
	if k.ReadOnly {
		k.differs(f, nil, have, want)
		return
	}
	k.hands.become(f, have, want)
}

// again does what when: always asks for a folder that is right. Only the
// change of ids is done: a chmod(2) could cost a folder its setgid.
func (k *worker) again(f *folder, have State) {
	for _, step := range k.rule.again(have) {
		if err := k.carryOut(f.fd, step, nil); err != nil {
			k.fail(k.pathOf(f, nil), step.doing(), err, have)
			return
		}
	}
	k.differs(f, nil, have, have)
}
