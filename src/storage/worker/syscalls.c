// SPDX-License-Identifier: GPL-2.0-or-later
#include "syscalls.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* What the C library and the decompressors need on descriptors that are open already. */
static const int pure_calls[] = {
    SCMP_SYS(read),         SCMP_SYS(write),
    SCMP_SYS(pread64),      SCMP_SYS(pwrite64),
    SCMP_SYS(readv),        SCMP_SYS(writev),
    SCMP_SYS(lseek),        SCMP_SYS(close),
    SCMP_SYS(fstat),        SCMP_SYS(munmap),
    SCMP_SYS(mremap),       SCMP_SYS(brk),
    SCMP_SYS(madvise),      SCMP_SYS(exit),
    SCMP_SYS(exit_group),   SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(futex),        SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday), SCMP_SYS(getpid),
    SCMP_SYS(gettid),       SCMP_SYS(getrandom),
    SCMP_SYS(sched_yield),  SCMP_SYS(restart_syscall),
    SCMP_SYS(fdatasync),    SCMP_SYS(fsync),
    SCMP_SYS(ftruncate),
};

static const int unpack_calls[] = {
    SCMP_SYS(openat),    SCMP_SYS(openat2),   SCMP_SYS(newfstatat), SCMP_SYS(mkdirat),   SCMP_SYS(symlinkat),
    SCMP_SYS(linkat),    SCMP_SYS(unlinkat),  SCMP_SYS(fchown),     SCMP_SYS(fchownat),  SCMP_SYS(fchmod),
    SCMP_SYS(utimensat), SCMP_SYS(fsetxattr), SCMP_SYS(getdents64), SCMP_SYS(fallocate), SCMP_SYS(syncfs),
    SCMP_SYS(wait4),     SCMP_SYS(fcntl),     SCMP_SYS(fstatfs),
};

/* qemu-img with its threads: files, memory, waiting; no sockets, no mounts, no other processes' affairs. */
static const int convert_calls[] = {
    SCMP_SYS(access),
    SCMP_SYS(arch_prctl),
    SCMP_SYS(copy_file_range),
    SCMP_SYS(dup),
    SCMP_SYS(dup2),
    SCMP_SYS(dup3),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_pwait),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(eventfd2),
    SCMP_SYS(execve),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(fallocate),
    SCMP_SYS(fcntl),
    SCMP_SYS(flock),
    SCMP_SYS(fstatfs),
    SCMP_SYS(getcwd),
    SCMP_SYS(getdents64),
    SCMP_SYS(getegid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getppid),
    SCMP_SYS(getrlimit),
    SCMP_SYS(getuid),
    SCMP_SYS(kill),
    SCMP_SYS(lstat),
    SCMP_SYS(membarrier),
    SCMP_SYS(mlock),
    SCMP_SYS(mmap),
    SCMP_SYS(mprotect),
    SCMP_SYS(nanosleep),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(newfstatat),
    SCMP_SYS(open),
    SCMP_SYS(openat),
    SCMP_SYS(pipe),
    SCMP_SYS(pipe2),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(prctl),
    SCMP_SYS(preadv),
    SCMP_SYS(preadv2),
    SCMP_SYS(prlimit64),
    SCMP_SYS(pwritev),
    SCMP_SYS(pwritev2),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(rseq),
    SCMP_SYS(rt_sigpending),
    SCMP_SYS(rt_sigsuspend),
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(signalfd4),
    SCMP_SYS(stat),
    SCMP_SYS(statfs),
    SCMP_SYS(statx),
    SCMP_SYS(sync_file_range),
    SCMP_SYS(sysinfo),
    SCMP_SYS(tgkill),
    SCMP_SYS(timer_create),
    SCMP_SYS(timer_settime),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(umask),
    SCMP_SYS(uname),
    SCMP_SYS(wait4),
    SCMP_SYS(waitid),
    SCMP_SYS(clock_getres),
    SCMP_SYS(getpgrp),
    SCMP_SYS(unlink),
    SCMP_SYS(select),
    SCMP_SYS(pselect6),
};

static int allow(scmp_filter_ctx context, const int *calls, size_t count) {
    for (size_t i = 0; i < count; i++) {
        int r = seccomp_rule_add(context, SCMP_ACT_ALLOW, calls[i], 0);
        if (r < 0 && r != -EDOM && r != -EEXIST) /* EDOM: this architecture has no such call */
            return r;
    }
    return 0;
}

/* Memory, but never executable memory. */
static int allow_data_memory(scmp_filter_ctx context) {
    int r = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r < 0)
        return r;
    return seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                            SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

/* Character devices only with the number 0:0, which is a whiteout; a process ended only by SIGKILL (the
 * expander). */
static int allow_unpack(scmp_filter_ctx context) {
    int r = allow(context, unpack_calls, ELEMENTS(unpack_calls));
    if (r < 0)
        return r;
    r = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(mknodat), 2, SCMP_A2(SCMP_CMP_EQ, S_IFCHR),
                         SCMP_A3(SCMP_CMP_EQ, 0));
    if (r < 0)
        return r;
    return seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(kill), 1, SCMP_A1(SCMP_CMP_EQ, 9));
}

/* fstat() of the C library is newfstatat() with this flag. */
static int allow_fstat(scmp_filter_ctx context) {
    return seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(newfstatat), 1,
                            SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH));
}

/* Threads and processes, but no namespaces: a new user namespace would come with capabilities. What clone3 asks for
 * cannot be seen by a filter, so it does not exist here and the C library uses clone. */
static int allow_clone(scmp_filter_ctx context) {
    const uint64_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                CLONE_NEWPID | CLONE_NEWNET;
    int r = seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (r < 0)
        return r;
    return seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces, 0));
}

static int build(scmp_filter_ctx context, enum jail_profile profile) {
    int r = allow(context, pure_calls, ELEMENTS(pure_calls));
    if (r == 0 && profile == JAIL_PURE)
        r = allow_fstat(context);
    if (r == 0 && profile != JAIL_CONVERT)
        r = allow_data_memory(context);
    if (r == 0 && profile == JAIL_UNPACK)
        r = allow_unpack(context);
    if (r == 0 && profile == JAIL_CONVERT)
        r = allow(context, convert_calls, ELEMENTS(convert_calls));
    if (r == 0 && profile == JAIL_CONVERT)
        r = allow_clone(context);
    if (r == 0) /* "is this a terminal?" and the like: no */
        r = seccomp_rule_add(context, SCMP_ACT_ERRNO(ENOTTY), SCMP_SYS(ioctl), 0);
    return r == 0 ? seccomp_load(context) : r;
}

int syscalls_confine(enum jail_profile profile) {
    scmp_filter_ctx context =
        seccomp_init(profile == JAIL_CONVERT ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS);
    if (!context)
        return -ENOMEM;
    int r = build(context, profile);
    seccomp_release(context);
    return r;
}
