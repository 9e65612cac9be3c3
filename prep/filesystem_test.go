package prep

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setGroups sets the supplementary groups of the calling thread alone;
// syscall.Setgroups would set those of the whole process.
func setGroups(groups []uint32) error {
	var first unsafe.Pointer
	if len(groups) > 0 {
		first = unsafe.Pointer(&groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
		return errno
	}
	return nil
}

// fileSystems are those that every order and every hard state is tested on.
var fileSystems = []string{"ext4", "xfs", "btrfs", "tmpfs", "overlay"}

// onEachFileSystem runs a test on a fresh mount of each.
func onEachFileSystem(t *testing.T, test func(t *testing.T, dir string)) {
	t.Helper()
	for _, name := range fileSystems {
		t.Run(name, func(t *testing.T) { test(t, mounted(t, name)) })
	}
}

// mounted mounts a fresh file system for the length of a test.
func mounted(t testing.TB, name string) string {
	t.Helper()
	requirement(t, os.Geteuid() == 0, "needs root, to mount "+name)
	dir := t.TempDir()
	// os.MkdirTemp makes its directory 0700; other users must come as far as the mount.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "volume")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	switch name {
	case "tmpfs":
		err = unix.Mount("tmpfs", at, "tmpfs", 0, "size=64m,mode=755")
	case "overlay":
		base := mounted(t, "ext4")
		for _, part := range []string{"lower", "upper", "work"} {
			if err := os.Mkdir(filepath.Join(base, part), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		err = unix.Mount("overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", base, base, base))
	default:
		_, lookErr := exec.LookPath("mkfs." + name)
		requirement(t, lookErr == nil, "needs mkfs."+name+" (e2e/setup.sh installs it)")
		image := filepath.Join(dir, "image")
		sizes := map[string]int64{"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 128 << 20}
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, sizes[name]); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs."+name, "-q", image).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.%s: %v\n%s", name, err, out)
		}
		if out, mountErr := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); mountErr != nil {
			err = fmt.Errorf("%w: %s", mountErr, out)
		}
	}
	requirement(t, err == nil, fmt.Sprintf("mounting %s: %v", name, err))
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", at, err)
		}
	})
	return at
}
