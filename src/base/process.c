// SPDX-License-Identifier: GPL-2.0-or-later
/* Children are made with CLONE_VM | CLONE_VFORK on a stack of their own, as posix_spawn does: no page table is copied
 * and a failing exec is reported through shared memory. The child may only use async-signal-safe calls. */
#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#define CHILD_STACK (128 * 1024)
#define CHILD_FDS_MAX 256

static const char *const default_environment[] = {
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL=C.UTF-8",
    NULL,
};

struct child {
    const struct process_spec *spec;
    char *const *environment;
    sigset_t mask;
    int result; /* negative errno, written by the child through shared memory */
};

static int child_enter_cgroups(const struct process_spec *spec) {
    for (size_t i = 0; i < spec->cgroup_fd_count; i++)
        if (write(spec->cgroup_fds[i], "0", 1) != 1)
            return -errno;
    return 0;
}

static int child_place(int source, int target) {
    if (source == target)
        return fcntl(target, F_SETFD, 0) < 0 ? -errno : 0;
    return dup2(source, target) < 0 ? -errno : 0;
}

/* polderd protects itself from the kernel's search for memory, by a value that children inherit. Theirs is the usual one:
 * whatever needs the memory goes before whoever keeps the books. A higher value, set for all of us, stays. */
static void child_unprotect(void) {
    int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    char sign = 0;

    if (fd >= 0 && read(fd, &sign, 1) == 1 && sign == '-')
        (void) !pwrite(fd, "0", 1, 0);
    if (fd >= 0)
        close(fd);
}

/* Above every target, so that none overwrites a source; no higher, since 1024 is where many a limit is. */
static int child_fd_base(const struct process_spec *spec) {
    int base = 3;

    for (size_t i = 0; i < spec->fd_count; i++)
        if (spec->fds[i].target >= base)
            base = spec->fds[i].target + 1;
    return base;
}

/* Puts the listed descriptors at their numbers, in two passes: lift all, then place all. */
static int child_arrange_fds(const struct process_spec *spec) {
    const int base = child_fd_base(spec);
    int lifted[CHILD_FDS_MAX + 3];
    int targets[CHILD_FDS_MAX + 3];
    const int standard[] = { spec->input, spec->output, spec->errors };
    size_t count = 0;

    if (spec->fd_count > CHILD_FDS_MAX)
        return -E2BIG;
    for (int i = 0; i < 3; i++) {
        int fd = standard[i] > 0 ? standard[i] : open("/dev/null", O_RDWR | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        lifted[count] = fcntl(fd, F_DUPFD_CLOEXEC, base);
        targets[count] = i;
        if (lifted[count++] < 0)
            return -errno;
    }
    for (size_t i = 0; i < spec->fd_count; i++) {
        lifted[count] = fcntl(spec->fds[i].source, F_DUPFD_CLOEXEC, base);
        targets[count] = spec->fds[i].target;
        if (lifted[count++] < 0)
            return -errno;
    }
    for (size_t i = 0; i < count; i++) {
        int r = child_place(lifted[i], targets[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Everything that is not listed gets the close-on-exec flag, so that `setup` may still use the rest. */
static int child_close_rest(const struct process_spec *spec) {
    if (syscall(SYS_close_range, 3, UINT_MAX, CLOSE_RANGE_CLOEXEC) < 0)
        return -errno;
    for (size_t i = 0; i < spec->fd_count; i++)
        if (fcntl(spec->fds[i].target, F_SETFD, 0) < 0)
            return -errno;
    return 0;
}

static void child_reset_signals(void) {
    struct sigaction action = { .sa_handler = SIG_DFL };

    for (int i = 1; i < NSIG; i++)
        if (i != SIGKILL && i != SIGSTOP)
            (void) sigaction(i, &action, NULL);
}

static int child_run(struct child *child) {
    const struct process_spec *spec = child->spec;
    sigset_t none;
    int r;

    child_reset_signals();
    child_unprotect();
    if (spec->new_session)
        (void) setsid();
    if (spec->die_with_parent && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    r = child_enter_cgroups(spec);
    if (r < 0)
        return r;
    r = child_arrange_fds(spec);
    if (r < 0)
        return r;
    r = child_close_rest(spec);
    if (r < 0)
        return r;
    if (spec->setup) {
        r = spec->setup(spec->userdata);
        if (r < 0)
            return r;
    }
    sigemptyset(&none);
    (void) sigprocmask(SIG_SETMASK, &none, NULL);
    if (spec->program)
        execve(spec->program, spec->arguments, child->environment);
    else
        syscall(SYS_execveat, spec->program_fd, "", spec->arguments, child->environment, AT_EMPTY_PATH);
    return -errno;
}

static int child_main(void *userdata) {
    struct child *child = userdata;

    child->result = child_run(child);
    _exit(127);
}

static int environment_build(const struct process_spec *spec, char ***ret) {
    _cleanup_list_ char **list = NULL;
    int r = list_copy((char *const *) default_environment, &list);

    for (char *const *entry = spec->environment; r >= 0 && entry && *entry; entry++)
        r = list_add(&list, *entry);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(list);
    return 0;
}

static int child_clone(struct child *child, int *ret_pidfd) {
    char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    int pidfd = -EBADF, pid;
    sigset_t all;

    if (stack == MAP_FAILED)
        return -errno;
#ifdef __SANITIZE_ADDRESS__
    /* A child never leaves its frames, and this one may stand where another's stood: forget what is known of it. */
    __asan_unpoison_memory_region(stack, CHILD_STACK);
#endif
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &child->mask);
    pid = clone(child_main, stack + CHILD_STACK,
                CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | (int) child->spec->namespaces, child, &pidfd);
    if (pid < 0)
        pid = -errno;
    pthread_sigmask(SIG_SETMASK, &child->mask, NULL);
    munmap(stack, CHILD_STACK);
    *ret_pidfd = pidfd;
    return pid;
}

/* In a process that shares our memory: system calls only. Its table of descriptors is its own. Of ours the kernel copies those
 * below 64 into it, and closes the copies one after the other, which may hang for what a close hangs for: such descriptors are
 * kept above (drivers/log.c). With a write, since a file system that is frozen still answers reads; another's file of that name
 * is neither opened nor changed. Several may ask at once: whose file another has removed has had its answer. */
static int await_main(void *userdata) {
    const char *probe = userdata;
    int fd = -EBADF;

    if (syscall(SYS_close_range, 3, UINT_MAX, CLOSE_RANGE_UNSHARE) == 0)
        fd = open(probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0)
        close(fd);
    if (fd >= 0 || errno == EEXIST)
        (void) unlink(probe);
    return 0; /* which ends it; _exit() would have a sanitizer write of the foreign stack, and standard error may be blocked */
}

int process_await_storage(const char *directory) {
    _cleanup_free_ char *probe = text_format("%s/.answers", directory);
    char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    int pid = -ENOMEM;

    if (stack == MAP_FAILED)
        return -errno;
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack, CHILD_STACK);
#endif
    if (probe)
        pid = clone(await_main, stack + CHILD_STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, probe);
    if (probe && pid < 0)
        pid = -errno;
    if (pid > 0)
        (void) waitpid(pid, NULL, 0);
    munmap(stack, CHILD_STACK);
    return pid < 0 ? pid : 0;
}

int process_start(const struct process_spec *spec, struct process *ret) {
    _cleanup_list_ char **environment = NULL;
    struct child child = { .spec = spec };
    int pidfd = -EBADF, pid, r;

    r = environment_build(spec, &environment);
    if (r < 0)
        return r;
    child.environment = environment;
    pid = child_clone(&child, &pidfd);
    if (pid < 0)
        return pid;
    if (child.result < 0) {
        (void) waitpid(pid, NULL, 0);
        close_fd(pidfd);
        return child.result;
    }
    ret->pid = pid;
    ret->pidfd = pidfd;
    ret->start_ticks = PROCESS_START_UNKNOWN;
    (void) proc_start_time(pid, &ret->start_ticks);
    return 0;
}

void process_done(struct process *process) {
    process->pidfd = close_fd(process->pidfd);
    process->pid = 0;
}

int process_signal(const struct process *process, int number) {
    if (process->pidfd < 0)
        return -ESRCH;
    return syscall(SYS_pidfd_send_signal, process->pidfd, number, NULL, 0) < 0 ? -errno : 0;
}

static int status_from_siginfo(const siginfo_t *info) {
    return info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status;
}

/* Takes the status of a dead process; an adopted one is not our child and has none. */
static int process_reap(struct process *process) {
    siginfo_t info = { 0 };

    if (waitid(P_PIDFD, process->pidfd, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
        return -1;
    return status_from_siginfo(&info);
}

static bool is_shortage(int r) {
    return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -ENOSPC; /* of memory, descriptors, watches of epoll */
}

int process_wait(struct process *process, uint64_t deadline, int *ret_status) {
    int status, r;

    if (process->pidfd < 0)
        return -ESRCH;
    /* Nobody else will ever tell of this end: what is short now is there again later. */
    while ((r = fiber_wait_fd(process->pidfd, EPOLLIN, deadline)) < 0 && is_shortage(r)) {
        if (clock_now() >= deadline)
            return -ETIMEDOUT;
        r = fiber_sleep(PROCESS_SHORTAGE_PAUSE);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return r;
    status = process_reap(process);
    if (ret_status)
        *ret_status = status;
    return 0;
}

int process_end(struct process *process, uint64_t grace) {
    int r;

    if (process->pidfd < 0)
        return 0;
    fiber_shield();
    if (grace > 0)
        (void) process_signal(process, SIGTERM);
    r = grace > 0 ? process_wait(process, deadline_in(grace), NULL) : -ETIMEDOUT;
    if (r == -ETIMEDOUT) {
        (void) process_signal(process, SIGKILL);
        r = process_wait(process, DEADLINE_NONE, NULL);
    }
    fiber_unshield();
    return r;
}

bool process_is_alive(const struct process *process) {
    struct pollfd entry = { .fd = process->pidfd, .events = POLLIN };

    return process->pidfd >= 0 && poll(&entry, 1, 0) == 0;
}

int process_adopt(pid_t pid, uint64_t start_ticks, struct process *ret) {
    _cleanup_close_ int pidfd = -EBADF;
    uint64_t ticks;
    int r;

    if (pid <= 0)
        return -ESRCH;
    pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return errno == EINVAL || errno == ENOENT ? -ESRCH : -errno;
    /* The descriptor is held before the time is read: a match means this very process. */
    r = proc_start_time(pid, &ticks);
    if (r < 0)
        return r;
    if (ticks != start_ticks)
        return -ESRCH;
    ret->pid = pid;
    ret->pidfd = STEAL_FD(pidfd);
    ret->start_ticks = ticks;
    return process_is_alive(ret) ? 0 : (process_done(ret), -ESRCH);
}

/* --- run to the end, collecting output ----------------------------------------------------------------------- */

struct collector {
    int fd; /* our end, non-blocking */
    struct buffer *target;
    struct buffer pending; /* an incomplete line */
    size_t limit;
    void (*line)(const char *line, void *userdata);
    void *userdata;
    uint64_t deadline;
    struct fiber *fiber;
};

static void collector_lines(struct collector *collector) {
    char *end;

    while (collector->pending.size > 0 && (end = memchr(collector->pending.data, '\n', collector->pending.size))) {
        *end = '\0';
        collector->line(collector->pending.data, collector->userdata);
        buffer_consume(&collector->pending, (size_t) (end - collector->pending.data) + 1);
    }
    if (collector->pending.size > collector->limit)
        buffer_reset(&collector->pending);
}

static void collector_take(struct collector *collector, const char *data, size_t size) {
    if (collector->line) {
        buffer_add(&collector->pending, data, size);
        collector_lines(collector);
    } else if (collector->target && collector->target->size < collector->limit) {
        size_t room = collector->limit - collector->target->size;
        buffer_add(collector->target, data, size < room ? size : room);
    }
}

static int collector_main(void *userdata) {
    struct collector *collector = userdata;
    char data[4096];
    long size;

    while ((size = fiber_read(collector->fd, data, sizeof(data), collector->deadline)) > 0)
        collector_take(collector, data, (size_t) size);
    buffer_done(&collector->pending);
    return (int) size;
}

static int collector_start(struct collector *collector, const char *name, int *ret_child_end) {
    int pair[2], r;

    collector->fd = -EBADF;
    if (pipe2(pair, O_CLOEXEC) < 0)
        return -errno;
    (void) fcntl(pair[0], F_SETFL, O_NONBLOCK);
    collector->fd = pair[0];
    *ret_child_end = pair[1];
    r = fiber_start(&collector->fiber, name, collector_main, collector);
    return r;
}

/* After the child's end, output of a grandchild that keeps the pipe is not waited for longer than this. */
#define COLLECT_GRACE (200 * CLOCK_MILLISECOND)

static void collector_end(struct collector *collector) {
    if (collector->fiber) {
        if (fiber_join(collector->fiber, deadline_in(COLLECT_GRACE), NULL) < 0)
            fiber_cancel_join(collector->fiber);
        fiber_unref(collector->fiber);
    }
    close_fd(collector->fd);
}

static int input_feed(const struct process_run *run, int fd) {
    int r = fiber_write(fd, run->input, run->input_size, run->deadline);

    return r == -EPIPE ? 0 : r;
}

/* The last line that says something, for the error sentence. Foreign text: escaped. */
static char *last_line(const struct buffer *errors) {
    size_t end = errors->size, start;

    while (end > 0 && (errors->data[end - 1] == '\n' || errors->data[end - 1] == ' '))
        end--;
    for (start = end; start > 0 && errors->data[start - 1] != '\n'; start--)
        ;
    return text_escape(errors->data ? errors->data + start : "", end - start, false);
}

static int run_wait(struct process *process, const struct process_run *run, struct buffer *errors, const char *name,
                    struct error *error) {
    int status = -1, r = process_wait(process, run->deadline, &status);

    if (r < 0) {
        (void) process_end(process, 0);
        return error_errno(error, r, "%s", name);
    }
    if (run->ret_status)
        *run->ret_status = status;
    (void) errors;
    return status;
}

int process_run(const struct process_spec *given, const struct process_run *run, struct error *error) {
    _cleanup_process_ struct process process = PROCESS_INIT;
    _cleanup_buffer_ struct buffer own_errors = BUFFER_INIT;
    _cleanup_close_ int out_end = -EBADF, err_end = -EBADF, in_read = -EBADF, in_write = -EBADF;
    struct buffer *errors = run->errors ? run->errors : &own_errors;
    struct collector output = { .target = run->output, .limit = run->limit ? run->limit : 65536, .line = run->line,
                                .userdata = run->userdata, .deadline = run->deadline };
    struct collector trouble = { .target = errors, .limit = 65536, .deadline = run->deadline };
    struct process_spec spec = *given;
    const char *name = spec.arguments[0];
    int r, pair[2], status;

    r = collector_start(&output, "output", &out_end);
    if (r >= 0)
        r = collector_start(&trouble, "errors", &err_end);
    else
        trouble.fd = -EBADF;
    if (r >= 0 && run->input) {
        r = pipe2(pair, O_CLOEXEC) < 0 ? -errno : 0;
        if (r >= 0) {
            in_read = pair[0];
            in_write = pair[1];
            (void) fcntl(in_write, F_SETFL, O_NONBLOCK);
            spec.input = in_read;
        }
    }
    spec.output = out_end;
    spec.errors = err_end;
    if (r >= 0)
        r = process_start(&spec, &process);
    out_end = close_fd(out_end);
    err_end = close_fd(err_end);
    in_read = close_fd(in_read);
    if (r >= 0 && run->input)
        r = input_feed(run, in_write);
    in_write = close_fd(in_write);
    if (r < 0)
        (void) process_end(&process, 0);
    status = r < 0 ? error_errno(error, r, "running %s", name) : run_wait(&process, run, errors, name, error);
    collector_end(&output);
    collector_end(&trouble);
    if (status > 0) {
        _cleanup_free_ char *line = last_line(errors);
        _cleanup_free_ char *code = text_format("exit status %d", status);
        return error_set(error, ERROR_PROGRAM_FAILED, name, line && *line ? line : code);
    }
    return status;
}
