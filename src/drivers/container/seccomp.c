// SPDX-License-Identifier: GPL-2.0-or-later
/* The system calls that a container may make: the same as Docker's default profile gives a container with Docker's
 * default capabilities. What is not listed fails with EPERM; among that are mount and its newer relatives, keyctl,
 * add_key, bpf, perf_event_open, io_uring_*, kexec_*, modules, clock setting, setns and unshare.
 *
 * The filter is compiled here, once per daemon, and handed to crun in the annotation run.oci.seccomp_bpf_data: crun
 * would compile the profile at each start, which takes 12 ms, twice as long as everything else it does. */
#include "drivers/container/seccomp.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"

static const char *const allowed[] = {
    "_llseek", "_newselect", "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat",
    "capget", "capset", "chdir", "chmod", "chown", "chown32", "chroot", "clock_adjtime", "clock_adjtime64",
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2",
    "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve", "execveat", "exit", "exit_group",
    "faccessat", "faccessat2", "fadvise64", "fadvise64_64", "fallocate", "fanotify_mark", "fchdir", "fchmod",
    "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr",
    "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs",
    "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex", "futex_requeue", "futex_time64", "futex_wait",
    "futex_waitv", "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd",
    "getdents", "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32",
    "getgroups", "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid",
    "getpriority", "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit",
    "getrusage", "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getuid32",
    "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup",
    "io_submit", "ioctl", "ioprio_get", "ioprio_set", "ipc", "kill", "landlock_add_rule",
    "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32", "lgetxattr", "link", "linkat",
    "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr",
    "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create", "memfd_secret",
    "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap", "mmap2",
    "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv",
    "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat",
    "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2",
    "prlimit64", "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "pselect6_time64",
    "ptrace", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
    "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "remap_file_pages", "removexattr",
    "removexattrat", "rename", "renameat", "renameat2", "restart_syscall", "riscv_hwprobe", "rmdir", "rseq",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
    "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sched_get_priority_max",
    "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
    "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
    "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop",
    "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg", "sendto",
    "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid", "setfsgid32", "setfsuid",
    "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority",
    "setregid", "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
    "setreuid32", "setrlimit", "setsid", "setsockopt", "setuid", "setuid32", "setxattr", "setxattrat",
    "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask",
    "sigreturn", "socketcall", "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount",
    "statx", "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
    "timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname",
    "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimensat_time64", "utimes", "vfork",
    "vmsplice", "wait4", "waitid", "waitpid", "write", "writev",
#if defined(__x86_64__) || defined(__i386__)
    "arch_prctl", "modify_ldt",
#elif defined(__aarch64__) || defined(__arm__)
    "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2",
#endif
};

/* No new namespaces: of clone's flags these must be 0. clone3 hides its flags in memory, so it answers "not there" and
 * the C library falls back to clone. */
#define NAMESPACE_FLAGS                                                                                      \
    (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

/* PER_LINUX, PER_LINUX32, each with and without UNAME26, and the query. */
static const uint64_t personalities[] = { PER_LINUX, PER_LINUX32, UNAME26, PER_LINUX32 | UNAME26, UINT32_MAX };

/* Families around AF_ALG (38, the kernel's crypto) and AF_VSOCK (40, the host's own agents) only. */
static const struct scmp_arg_cmp sockets[] = {
    { .arg = 0, .op = SCMP_CMP_LT, .datum_a = AF_ALG },
    { .arg = 0, .op = SCMP_CMP_EQ, .datum_a = AF_NFC },
    { .arg = 0, .op = SCMP_CMP_GT, .datum_a = AF_VSOCK },
};

static int add_rule(scmp_filter_ctx filter, uint32_t action, const char *name, unsigned count,
                    const struct scmp_arg_cmp *arguments) {
    int number = seccomp_syscall_resolve_name(name);

    if (number == __NR_SCMP_ERROR)
        return 0; /* newer than libseccomp: stays forbidden */
    return seccomp_rule_add_array(filter, action, number, count, arguments);
}

static int add_rules(scmp_filter_ctx filter) {
    const struct scmp_arg_cmp plain_clone = { .arg = 0, .op = SCMP_CMP_MASKED_EQ, .datum_a = NAMESPACE_FLAGS };
    int r = add_rule(filter, SCMP_ACT_ALLOW, "clone", 1, &plain_clone);

    for (size_t i = 0; r >= 0 && i < ELEMENTS(allowed); i++)
        r = add_rule(filter, SCMP_ACT_ALLOW, allowed[i], 0, NULL);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(sockets); i++)
        r = add_rule(filter, SCMP_ACT_ALLOW, "socket", 1, &sockets[i]);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(personalities); i++) {
        const struct scmp_arg_cmp is = { .arg = 0, .op = SCMP_CMP_EQ, .datum_a = personalities[i] };
        r = add_rule(filter, SCMP_ACT_ALLOW, "personality", 1, &is);
    }
    return r < 0 ? r : add_rule(filter, SCMP_ACT_ERRNO(ENOSYS), "clone3", 0, NULL);
}

/* 32-bit programs of the same machine run too. */
static int add_architectures(scmp_filter_ctx filter) {
    int r = 0;

#if defined(__x86_64__)
    r = seccomp_arch_add(filter, SCMP_ARCH_X86);
    if (r >= 0 || r == -EEXIST)
        r = seccomp_arch_add(filter, SCMP_ARCH_X32);
#elif defined(__aarch64__)
    r = seccomp_arch_add(filter, SCMP_ARCH_ARM);
#endif
    return r == -EEXIST ? 0 : r;
}

static int encode(const unsigned char *data, size_t size, char **ret) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;

    for (size_t i = 0; i < size; i += 3) {
        uint32_t bits = (uint32_t) data[i] << 16 | (i + 1 < size ? (uint32_t) data[i + 1] << 8 : 0) |
                        (i + 2 < size ? data[i + 2] : 0);
        char four[] = { digits[bits >> 18], digits[bits >> 12 & 63], i + 1 < size ? digits[bits >> 6 & 63] : '=',
                        i + 2 < size ? digits[bits & 63] : '=' };
        buffer_add(&text, four, sizeof(four));
    }
    return buffer_take(&text, ret);
}

static int export_filter(scmp_filter_ctx filter, char **ret) {
    _cleanup_close_ int fd = memfd_create("filter", MFD_CLOEXEC);
    unsigned char data[64 * 1024];
    ssize_t size;
    int r;

    if (fd < 0)
        return -errno;
    r = seccomp_export_bpf(filter, fd);
    if (r < 0)
        return r;
    size = pread(fd, data, sizeof(data), 0);
    if (size <= 0 || (size_t) size == sizeof(data))
        return size < 0 ? -errno : -EFBIG;
    return encode(data, (size_t) size, ret);
}

int seccomp_filter_text(char **ret) {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r;

    if (!filter)
        return -ENOMEM;
    r = add_architectures(filter);
    /* A binary tree over the numbers instead of a list: shorter for each call that the container makes. */
    if (r >= 0)
        (void) seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (r >= 0)
        r = add_rules(filter);
    if (r >= 0)
        r = export_filter(filter, ret);
    seccomp_release(filter);
    return r;
}
