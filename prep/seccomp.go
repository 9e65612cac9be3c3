package prep

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch is what seccomp(2) calls this architecture (linux/audit.h).
var auditArch = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
	"ppc64le": unix.AUDIT_ARCH_PPC64LE, "s390x": unix.AUDIT_ARCH_S390X, "riscv64": unix.AUDIT_ARCH_RISCV64,
}[runtime.GOARCH]

// x32 is set in the numbers of amd64's other table of calls (__X32_SYSCALL_BIT).
const x32 = 0x40000000

// filter is the program that answers EPERM to the calls of never, and to any
// call by another architecture's table.
func filter() []unix.SockFilter {
	const number, arch = 0, 4 // offsets in struct seccomp_data
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	program := []unix.SockFilter{
		load(arch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 0, Jf: uint8(len(never) + 3)},
		load(number),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32, Jt: uint8(len(never) + 1)},
	}
	for i, call := range never {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call.number, Jt: uint8(len(never) - i)})
	}
	return append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
	)
}

// denyCalls puts the filter on all threads at once. The kernel wants
// no_new_privs first, and gives it to the other threads too
// (SECCOMP_FILTER_FLAG_TSYNC of seccomp(2)).
func denyCalls() error {
	if auditArch == 0 {
		return fmt.Errorf("no filter is made for %s", runtime.GOARCH)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	program := filter()
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if thread != 0 {
		return fmt.Errorf("thread %d has a filter of its own", thread)
	}
	return nil
}

// OCIProfile is a seccomp profile for container runtimes, as Docker's
// --security-opt seccomp=FILE and a kubelet's Localhost take it: only what a
// run of volprep makes, and what the runtime itself makes to start it.
func OCIProfile() ([]byte, error) {
	type rule struct {
		Names  []string `json:"names"`
		Action string   `json:"action"`
	}
	names := slices.Concat(made, starting)
	slices.Sort(names)
	text, err := json.MarshalIndent(struct {
		Default string `json:"defaultAction"`
		Errno   int    `json:"defaultErrnoRet"`
		Calls   []rule `json:"syscalls"`
	}{"SCMP_ACT_ERRNO", int(unix.EPERM), []rule{{slices.Compact(names), "SCMP_ACT_ALLOW"}}}, "", "  ")
	return append(text, '\n'), err
}
