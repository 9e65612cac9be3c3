package prep

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestACLsAreReadAndWrittenAsGetfaclAndSetfaclDo(t *testing.T) {
	_, err := exec.LookPath("setfacl")
	requirement(t, err == nil, "needs setfacl (e2e/setup.sh installs it)")
	texts := []string{
		"u::rwx,u:3000:r-x,g::r-x,m::r-x,o::---",
		"u::rw-,u:1:rwx,u:4294967294:---,g::---,g:2000:rwx,g:2001:-w-,m::rw-,o::r-x",
		"u::---,g::---,g:5:--x,m::---,o::rwx",
	}
	onEachFileSystem(t, func(t *testing.T, dir string) {
		for _, text := range texts {
			for xattr, flag := range map[string]string{accessXattr: "", defaultXattr: "-d"} {
				theirs, ours := filepath.Join(dir, "theirs"), filepath.Join(dir, "ours")
				for _, path := range []string{theirs, ours} {
					if err := os.Mkdir(path, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				arguments := strings.Fields("-n " + flag + " -m " + text + " " + theirs)
				if out, err := exec.Command("setfacl", arguments...).CombinedOutput(); err != nil {
					t.Fatalf("setfacl %s: %v\n%s", text, err, out)
				}
				info := stateAt(t, theirs)
				got := info.Access
				if xattr == defaultXattr {
					got = info.Default
				}
				if got.String() != text {
					t.Errorf("setfacl %s reads as %s", text, got)
				}
				fd, err := unix.Open(ours, unix.O_PATH|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := System().Setxattr(fd, xattr, EncodeACL(got)); err != nil {
					t.Errorf("writing %s: %v", text, err)
				}
				unix.Close(fd)
				if a, b := getfacl(t, theirs), getfacl(t, ours); a != b {
					t.Errorf("getfacl shows\n%s\nof setfacl's, and of ours\n%s", a, b)
				}
				os.Remove(theirs)
				os.Remove(ours)
			}
		}
	})
}

func getfacl(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("getfacl", "-cnp", path).CombinedOutput()
	if err != nil {
		t.Fatalf("getfacl: %v\n%s", err, out)
	}
	return string(out)
}

func TestBytesThatAreNoACLAreRefusedWithTheReason(t *testing.T) {
	valid := EncodeACL(named(0o750, user(3000, 5)))
	for reason, bytes := range map[string][]byte{
		"too short":             valid[:3],
		"of version 3":          append([]byte{3, 0, 0, 0}, valid[4:]...),
		"ends within an entry":  valid[:len(valid)-1],
		"unknown permission":    append(append([]byte{}, valid...), 0x20, 0, 0x10, 0, 0, 0, 0, 0),
		"unknown tag":           append(append([]byte{}, valid...), 0x40, 0, 1, 0, 0, 0, 0, 0),
		"entries o:: instead":   append(append([]byte{}, valid...), 0x20, 0, 1, 0, 0, 0, 0, 0),
		"masks instead of one":  append(append([]byte{}, valid...), 0x10, 0, 1, 0, 0, 0, 0, 0),
		"which means none":      append(append([]byte{}, valid...), 0x02, 0, 1, 0, 0xff, 0xff, 0xff, 0xff),
		"0 entries u:: instead": valid[:4:4][:4],
	} {
		if len(bytes) == 4 {
			bytes = append(append([]byte{}, bytes...), 0x20, 0, 1, 0, 0, 0, 0, 0)
		}
		if acl, err := DecodeACL(bytes); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: %v, %v", reason, acl, err)
		}
	}
}

func FuzzACLBytes(f *testing.F) {
	f.Add(EncodeACL(named(0o750, user(3000, 5))))
	f.Add(EncodeACL(named(0o770, user(1, 7), group(2, 0))))
	f.Add([]byte{2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		acl, err := DecodeACL(text)
		if err != nil || len(acl.Entries) == 0 {
			return
		}
		again, err := DecodeACL(EncodeACL(acl))
		if err != nil || !again.Equal(acl) {
			t.Errorf("%x is %s, which reads back as %s (%v)", text, acl, again, err)
		}
		if !bytes.Equal(EncodeACL(acl), EncodeACL(again)) {
			t.Errorf("%s has two forms", acl)
		}
	})
}
