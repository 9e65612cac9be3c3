package prep

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Diagnosis is what this process and these volumes allow.
type Diagnosis struct {
	Facts []Fact `json:"facts"`
}

// Fact is one line of a diagnosis.
type Fact struct {
	// About is "process", "kernel" or a volume's path.
	About string `json:"about"`
	Name  string `json:"name"`
	Value string `json:"value"`
	// Stops says why an apply would fail because of it, and the mend; empty where it would not.
	Stops string `json:"stops,omitempty"`
}

// Doctor looks at the process, the kernel and the layout's volumes, if there
// is a layout, and changes nothing.
func Doctor(layout *spec.Layout, options Options) Diagnosis {
	e := newEngine(context.Background(), "doctor", options)
	d := &Diagnosis{}
	d.process(e)
	d.kernel()
	if layout != nil {
		for _, tree := range e.trees(layout) {
			d.volume(e, tree)
		}
	}
	return *d
}

func (d *Diagnosis) add(about, name, value, stops string) {
	d.Facts = append(d.Facts, Fact{About: about, Name: name, Value: value, Stops: stops})
}

func (d *Diagnosis) process(e *engine) {
	d.add("process", "ids", Credentials(e.caller).String(), "")
	for _, name := range []string{"uid_map", "gid_map"} {
		d.add("process", name, fileLine("/proc/self/"+name), "")
	}
	p, err := CurrentPrivileges()
	if err != nil {
		d.add("process", "capabilities", err.Error(), "")
		return
	}
	stops := ""
	if missing := (CapChown | CapFowner) &^ p.Effective; missing != 0 {
		stops = fmt.Sprintf("%s is not effective, which a layout that hands over or mends what belongs to others needs: %s", missing, e.whyLacking(missing.Names()[0]))
	}
	effective := p.Effective.String()
	if p.Effective&^(CapChown|CapFowner) != 0 {
		effective += ", of which apply keeps at most {chown,fowner}"
	}
	d.add("process", "effective", effective, stops)
	d.add("process", "permitted", p.Permitted.String(), "")
	d.add("process", "inheritable", p.Inheritable.String(), "")
	d.add("process", "bounding", p.Bounding.String(), "")
	d.add("process", "ambient", p.Ambient.String(), "")
	d.add("process", "no_new_privs", fmt.Sprint(p.NoNewPrivs), "")
	if bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0); err == nil {
		d.add("process", "securebits", fmt.Sprintf("%#x", bits), "")
	}
	d.add("process", "seccomp", statusField("Seccomp"), "")
}

func (d *Diagnosis) kernel() {
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		d.add("kernel", "release", unix.ByteSliceToString(name.Release[:]), "")
	}
	d.add("kernel", "lsm", fileLine("/sys/kernel/security/lsm"), "")
	proc, stops := "there", ""
	if !procFS() {
		proc, stops = "missing", "ACLs can only be reached through /proc/self/fd: mount proc"
	}
	d.add("kernel", "/proc/self/fd", proc, stops)
	_, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: ^uint64(0)})
	d.add("kernel", "openat2", known(err, unix.EINVAL), "")
	_, _, errno := unix.Syscall6(unix.SYS_FCHMODAT2, ^uintptr(0), 0, 0, unix.AT_EMPTY_PATH, 0, 0)
	d.add("kernel", "fchmodat2", known(errno, unix.EBADF, unix.EFAULT), "")
	landlock := "off: "
	if abi, err := landlockABI(); err != nil {
		landlock += err.Error()
	} else {
		landlock = fmt.Sprintf("ABI %d", abi)
	}
	d.add("kernel", "landlock", landlock, "")
	denies := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&denies)))
	d.add("kernel", "seccomp filters", known(errno, 0), "")
	for _, name := range []string{"protected_hardlinks", "protected_symlinks", "protected_regular", "protected_fifos"} {
		d.add("kernel", "fs."+name, fileLine("/proc/sys/fs/"+name), "")
	}
}

// known reads the answer to a call that must fail: with one of the errors that
// only a kernel gives which knows the call.
func known(err error, expected ...unix.Errno) string {
	for _, errno := range expected {
		if err == errno {
			return "known"
		}
	}
	return fmt.Sprintf("unknown (%v), and done without", err)
}

func (d *Diagnosis) volume(e *engine, tree *node) {
	path := tree.path
	at, err := e.locate(tree)
	if err != nil {
		if !tree.volume.Optional {
			d.add(path, "root", "missing", err.Error())
		}
		return
	}
	defer at.close(e.kernel)
	if at.root < 0 {
		d.add(path, "root", "missing, and apply makes it", "")
		return
	}
	info, err := look(e.kernel, at.root)
	if err != nil {
		d.add(path, "root", "cannot be looked at", err.Error())
		return
	}
	d.add(path, "root", fmt.Sprintf("%s, %s", typeName(info.Type), info.State), "")
	var stat unix.Statfs_t
	if err := e.kernel.Fstatfs(at.root, &stat); err == nil {
		stops := ""
		if stat.Flags&unix.ST_RDONLY != 0 {
			stops = "it is mounted read-only, which is fine only while it is as the layout says"
		}
		d.add(path, "file system", fileSystemName(int64(stat.Type)), "")
		d.add(path, "mounted", mountOptions(int64(stat.Flags)), stops)
		stops = ""
		if stat.Bavail == 0 || stat.Files > 0 && stat.Ffree == 0 {
			stops = "nothing can be made there: free some space or inodes"
		}
		d.add(path, "free", fmt.Sprintf("%d MiB, %d inodes", stat.Bavail*uint64(stat.Bsize)>>20, stat.Ffree), stops)
	}
	acls, stops := "yes", ""
	if !info.acls {
		acls = "no"
		if wantsACL(tree) {
			stops = "the layout names ACLs, and the file system has none"
		}
	}
	d.add(path, "ACLs", acls, stops)
	switch {
	case permits(info.State, e.caller, spec.PermExecute|spec.PermWrite):
		d.add(path, "access", "this process may search and write it", "")
	case permits(info.State, e.caller, spec.PermExecute):
		d.add(path, "access", "this process may search it, and borrows it to make something", "")
	default:
		d.add(path, "access", "this process may not search it, and borrows it to look in", "")
	}
}

// wantsACL tells whether anything in a tree names an ACL.
func wantsACL(n *node) bool {
	named := n.attributes()
	if named.Access != nil && !named.Access.Empty() || named.Default != nil && !named.Default.Empty() {
		return true
	}
	for _, child := range n.children {
		if wantsACL(child) {
			return true
		}
	}
	return false
}

// fileSystemName names the types of statfs(2) that volumes have.
func fileSystemName(kind int64) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse", unix.CEPH_SUPER_MAGIC: "ceph",
		unix.SMB2_SUPER_MAGIC: "smb", unix.MSDOS_SUPER_MAGIC: "vfat", unix.RAMFS_MAGIC: "ramfs",
	}
	if name, ok := names[kind]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", kind)
}

// mountOptions are those of mount(8) that statfs(2) tells.
func mountOptions(flags int64) string {
	options := "rw"
	if flags&unix.ST_RDONLY != 0 {
		options = "ro"
	}
	for _, option := range []struct {
		flag int64
		name string
	}{
		{unix.ST_NOSUID, "nosuid"}, {unix.ST_NODEV, "nodev"}, {unix.ST_NOEXEC, "noexec"}, {unix.ST_SYNCHRONOUS, "sync"},
		{unix.ST_NOATIME, "noatime"}, {unix.ST_NODIRATIME, "nodiratime"}, {unix.ST_RELATIME, "relatime"},
	} {
		if flags&option.flag != 0 {
			options += "," + option.name
		}
	}
	return options
}

// fileLine is a small file's text in one line, or why it cannot be read.
func fileLine(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Sprintf("unknown (%v)", err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

// statusField is one field of /proc/self/status.
func statusField(name string) string {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Sprintf("unknown (%v)", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// JSON writes the diagnosis as one indented JSON value.
func (d Diagnosis) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}

// Text writes the diagnosis, grouped, what stops an apply below its line.
func (d Diagnosis) Text(w io.Writer, coloured bool) {
	p := paletteFor(coloured)
	about := ""
	for _, fact := range d.Facts {
		if fact.About != about {
			about = fact.About
			fmt.Fprintln(w, printable(about))
		}
		fmt.Fprintf(w, "  %-22s %s\n", fact.Name, fact.Value)
		if fact.Stops != "" {
			fmt.Fprintf(w, "    %s! %s%s\n", p.refused, fact.Stops, p.plain)
		}
	}
}
