package prep

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// verdict says what the rules make of an entry that looks so: nothing, or
// which steps. It depends on the looks alone, and a tree has few of them, so
// each worker keeps its verdicts: a second entry of the same looks costs
// neither decoding nor planning, and no allocation.
type verdict struct {
	have, want State
	steps      []Step
	// encoded are the ACLs of the steps as setxattr(2) takes them.
	encoded [][]byte
	// chowns: a step changes the owner or group.
	chowns bool
	equal  bool
	err    error
}

func (v *verdict) right() bool { return v.equal }

// verdictsKept bounds what a worker remembers.
const verdictsKept = 4096

// judge gives the verdict on an entry that is no directory.
func (k *worker) judge(stat *unix.Statx_t, access []byte) (*verdict, error) {
	key := k.key[:0]
	key = binary.LittleEndian.AppendUint16(key, stat.Mode)
	key = binary.LittleEndian.AppendUint32(key, stat.Uid)
	key = binary.LittleEndian.AppendUint32(key, stat.Gid)
	key = append(key, access...)
	k.key = key
	if v := k.verdicts[string(key)]; v != nil {
		return v, nil
	}
	have := stateOf(stat)
	if len(access) > 0 {
		acl, err := DecodeACL(access)
		if err != nil {
			return nil, err
		}
		if acl.Extended() {
			have = have.withAccess(acl)
		}
	}
	v := k.rule.verdict(have, k.caller)
	if len(k.verdicts) >= verdictsKept {
		clear(k.verdicts)
	}
	k.verdicts[string(key)] = v
	return v, nil
}

// judgeDescriptor judges the entry behind a descriptor that k.stat is of.
func (k *worker) judgeDescriptor(fd int) (*verdict, error) {
	if k.rule.access == nil || !fileType(k.stat.Mode).IsRegular() {
		return k.judge(&k.stat, nil)
	}
	n, err := k.accessByDescriptor(fd)
	if err != nil {
		return nil, err
	}
	return k.judge(&k.stat, k.value[:n])
}

// verdict plans the change of an entry that is no directory.
func (r *rule) verdict(have State, caller Caller) *verdict {
	v := &verdict{have: have, want: r.wanted(have)}
	v.equal = v.have.equal(v.want)
	switch {
	case !v.equal:
		v.steps, v.err = fileSteps(have, v.want, caller)
	case r.always:
		v.steps = r.again(have)
	}
	for _, step := range v.steps {
		var encoded []byte
		if !step.ACL.Empty() {
			encoded = EncodeACL(step.ACL)
		}
		v.encoded = append(v.encoded, encoded)
		v.chowns = v.chowns || step.Op == OpChown
	}
	return v
}

// again are the steps of when: always for what is right: those that the rules
// name, without any effect but on ctime and on what chown(2) clears.
func (r *rule) again(have State) []Step {
	var steps []Step
	if r.owner != nil || r.group != nil {
		step := Step{Op: OpChown, UID: -1, GID: -1}
		if r.owner != nil {
			step.UID = int(*r.owner)
		}
		if r.group != nil {
			step.GID = int(*r.group)
		}
		steps = append(steps, step)
	}
	if r.fileModes != nil && have.Type.IsRegular() {
		steps = append(steps, Step{Op: OpChmod, Mode: have.StatMode()})
	}
	return steps
}

// fileSteps leads an entry that is no directory from one state to another. A
// file's set-group-id for a foreign group cannot be had without CAP_FSETID:
// chmod(2) does not give it, and chown(2) takes it.
func fileSteps(have, want State, caller Caller) ([]Step, error) {
	if want.Mode&setgidBit != 0 && want.Type.IsRegular() && !caller.in(want.GID) {
		return nil, errNeedsGroup{want.GID}
	}
	if have.UID != want.UID || have.GID != want.GID {
		have.Mode = afterChown(have.Mode)
	}
	o := &order{caller: caller, now: have}
	if have.UID != want.UID || have.GID != want.GID {
		o.narrow(want)
	}
	o.chown(want.UID, want.GID)
	o.permissions(want)
	return o.steps, nil
}

// narrow takes from a file, before its owner changes, what either state does
// not give. A file without an ACL gets none for that: whom the wanted ACL
// names is until then of the others, as before. The others keep what they have
// where owner and group, of whom some will be others, have as much.
func (o *order) narrow(want State) {
	if o.now.Access.Extended() {
		both := meet(o.now, want)
		both.Mode &^= setuidBit | setgidBit
		o.permissions(both)
		return
	}
	both := o.now
	others := want.Mode & 0o007
	if both.Mode&0o007&^(both.Mode>>6&both.Mode>>3) == 0 {
		others = 0o007
	}
	both.Mode &= want.Mode&^0o077 | want.Mode&0o070&(uint32(want.mask())<<3) | others | stickyBit
	if both.Mode&0o777 != o.now.Mode&0o777 {
		o.permissions(both)
	}
}
