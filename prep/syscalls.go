package prep

import "golang.org/x/sys/unix"

// never are the system calls that no run of volprep makes, by kind: what the
// filter of [Confine] denies with EPERM, and [OCIProfile] does not list.
// Only calls that every architecture of a release has are here.
var never = []struct {
	name   string
	number uint32
}{
	// Other programs.
	{"execve", unix.SYS_EXECVE}, {"execveat", unix.SYS_EXECVEAT}, {"ptrace", unix.SYS_PTRACE},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV}, {"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV},
	{"pidfd_getfd", unix.SYS_PIDFD_GETFD}, {"pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL}, {"kcmp", unix.SYS_KCMP},
	{"kill", unix.SYS_KILL}, {"tkill", unix.SYS_TKILL}, {"rt_sigqueueinfo", unix.SYS_RT_SIGQUEUEINFO},
	{"process_madvise", unix.SYS_PROCESS_MADVISE}, {"migrate_pages", unix.SYS_MIGRATE_PAGES}, {"move_pages", unix.SYS_MOVE_PAGES},
	// Networks and messages.
	{"socket", unix.SYS_SOCKET}, {"socketpair", unix.SYS_SOCKETPAIR}, {"connect", unix.SYS_CONNECT}, {"bind", unix.SYS_BIND},
	{"listen", unix.SYS_LISTEN}, {"accept4", unix.SYS_ACCEPT4}, {"sendto", unix.SYS_SENDTO}, {"sendmsg", unix.SYS_SENDMSG},
	{"recvfrom", unix.SYS_RECVFROM}, {"recvmsg", unix.SYS_RECVMSG},
	{"msgget", unix.SYS_MSGGET}, {"semget", unix.SYS_SEMGET}, {"shmget", unix.SYS_SHMGET}, {"mq_open", unix.SYS_MQ_OPEN},
	// Mounts and namespaces.
	{"mount", unix.SYS_MOUNT}, {"umount2", unix.SYS_UMOUNT2}, {"pivot_root", unix.SYS_PIVOT_ROOT}, {"chroot", unix.SYS_CHROOT},
	{"setns", unix.SYS_SETNS}, {"unshare", unix.SYS_UNSHARE}, {"fsopen", unix.SYS_FSOPEN}, {"fsconfig", unix.SYS_FSCONFIG},
	{"fsmount", unix.SYS_FSMOUNT}, {"fspick", unix.SYS_FSPICK}, {"open_tree", unix.SYS_OPEN_TREE},
	{"move_mount", unix.SYS_MOVE_MOUNT}, {"mount_setattr", unix.SYS_MOUNT_SETATTR},
	// The kernel itself.
	{"bpf", unix.SYS_BPF}, {"perf_event_open", unix.SYS_PERF_EVENT_OPEN}, {"userfaultfd", unix.SYS_USERFAULTFD},
	{"add_key", unix.SYS_ADD_KEY}, {"keyctl", unix.SYS_KEYCTL}, {"request_key", unix.SYS_REQUEST_KEY},
	{"init_module", unix.SYS_INIT_MODULE}, {"finit_module", unix.SYS_FINIT_MODULE}, {"delete_module", unix.SYS_DELETE_MODULE},
	{"kexec_load", unix.SYS_KEXEC_LOAD}, {"kexec_file_load", unix.SYS_KEXEC_FILE_LOAD}, {"reboot", unix.SYS_REBOOT},
	{"swapon", unix.SYS_SWAPON}, {"swapoff", unix.SYS_SWAPOFF}, {"acct", unix.SYS_ACCT}, {"syslog", unix.SYS_SYSLOG},
	{"quotactl", unix.SYS_QUOTACTL}, {"quotactl_fd", unix.SYS_QUOTACTL_FD}, {"personality", unix.SYS_PERSONALITY},
	{"sethostname", unix.SYS_SETHOSTNAME}, {"setdomainname", unix.SYS_SETDOMAINNAME}, {"settimeofday", unix.SYS_SETTIMEOFDAY},
	{"clock_settime", unix.SYS_CLOCK_SETTIME}, {"clock_adjtime", unix.SYS_CLOCK_ADJTIME}, {"adjtimex", unix.SYS_ADJTIMEX},
	{"io_uring_setup", unix.SYS_IO_URING_SETUP}, {"io_uring_enter", unix.SYS_IO_URING_ENTER},
	{"io_uring_register", unix.SYS_IO_URING_REGISTER}, {"io_setup", unix.SYS_IO_SETUP},
	// Files by ways that volprep does not go.
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT}, {"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT},
	{"mknodat", unix.SYS_MKNODAT}, {"linkat", unix.SYS_LINKAT}, {"symlinkat", unix.SYS_SYMLINKAT},
	{"memfd_create", unix.SYS_MEMFD_CREATE}, {"fanotify_init", unix.SYS_FANOTIFY_INIT}, {"inotify_init1", unix.SYS_INOTIFY_INIT1},
	{"splice", unix.SYS_SPLICE}, {"vmsplice", unix.SYS_VMSPLICE}, {"tee", unix.SYS_TEE}, {"copy_file_range", unix.SYS_COPY_FILE_RANGE},
	// Other identities.
	{"setreuid", unix.SYS_SETREUID}, {"setregid", unix.SYS_SETREGID}, {"setfsuid", unix.SYS_SETFSUID}, {"setfsgid", unix.SYS_SETFSGID},
}

// made are the calls that a run makes: those of [Kernel], those by which it
// confines itself, and those of Go's runtime, with the names that they have
// on other architectures.
var made = []string{
	// Kernel's.
	"openat2", "openat", "open", "statx", "fstatfs", "fstatfs64", "statfs", "statfs64", "mkdirat", "mkdir", "renameat2", "unlinkat", "fchownat",
	"chmod", "fchmodat", "fchmodat2", "getxattr", "getxattrat", "lgetxattr", "setxattr", "setxattrat", "removexattr", "utimensat", "getdents64", "close",
	// Of a run around its volumes: the layout, the report, and what it is allowed.
	"read", "pread64", "write", "writev", "fstat", "fstat64", "newfstatat", "fstatat64", "stat", "lstat", "readlinkat", "readlink", "lseek", "_llseek",
	"ftruncate", "ftruncate64", "fcntl", "fcntl64", "ioctl", "getcwd", "uname", "umask", "capget", "capset", "prctl", "seccomp",
	"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
	"getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32", "getgroups", "getgroups32",
	// The runtime's.
	"arch_prctl", "brk", "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "clone", "clone3",
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2", "exit", "exit_group", "futex", "futex_time64",
	"getpid", "getppid", "getrandom", "getrlimit", "gettid", "gettimeofday", "madvise", "mincore", "mmap", "mmap2", "mprotect", "munmap",
	"nanosleep", "pipe2", "ppoll", "prlimit64", "restart_syscall", "riscv_hwprobe", "rseq", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity",
	"sched_yield", "set_robust_list", "set_tid_address", "set_tls", "setitimer", "setrlimit", "sigaltstack", "sigreturn", "tgkill", "time",
	"timer_create", "timer_delete", "timer_settime", "timer_settime64", "timerfd_create", "ugetrlimit", "cacheflush",
}

// starting are the calls by which a container runtime, which puts the profile
// on before it becomes volprep, gets there (runc's standard_init_linux.go).
var starting = []string{
	"access", "chdir", "close_range", "dup", "dup3", "execve", "faccessat", "faccessat2", "fchdir", "fchown", "fchown32", "getdents", "poll",
	"setgid", "setgid32", "setgroups", "setgroups32", "setresgid", "setresuid", "setsid", "setuid", "setuid32",
}
