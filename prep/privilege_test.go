package prep

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// requirement skips a test that lacks something, with the reason; with
// VOLPREP_E2E=require the lack is a failure.
func requirement(t testing.TB, met bool, reason string) {
	t.Helper()
	if met {
		return
	}
	if os.Getenv("VOLPREP_E2E") == "require" {
		t.Fatalf("required, but: %s", reason)
	}
	t.Skip(reason)
}

// asThread runs an action on a thread of its own, which ends with it, so that
// whatever privileges it gave away are gone with the thread.
func asThread(t testing.TB, give func() error, action func()) {
	t.Helper()
	requirement(t, os.Geteuid() == 0, "needs root, to take other ids and fewer capabilities")
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := give()
		defer func() { done <- err }()
		if err == nil {
			action()
		}
	}()
	if err := <-done; err != nil {
		t.Fatalf("changing the thread's privileges: %v", err)
	}
}

// withCapabilities leaves the thread uid 0 with these capabilities alone effective.
func withCapabilities(t testing.TB, mask uint32, groups []uint32, action func()) {
	t.Helper()
	asThread(t, func() error {
		if err := setGroups(groups); err != nil {
			return err
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		data[0].Effective, data[0].Permitted = mask, mask
		return unix.Capset(&header, &data[0])
	}, action)
}

const chownAndFowner = 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER

// asVolprep is uid 0 with CAP_CHOWN and CAP_FOWNER and no groups but 0.
func asVolprep(t testing.TB, action func()) {
	t.Helper()
	withCapabilities(t, chownAndFowner, nil, action)
}

// asUser is an ordinary process with these ids and no capability.
func asUser(t testing.TB, uid, gid uint32, groups []uint32, action func()) {
	t.Helper()
	asThread(t, func() error {
		if err := setGroups(groups); err != nil {
			return err
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
			return errno
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			return errno
		}
		return nil
	}, action)
}
