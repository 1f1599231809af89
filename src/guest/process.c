// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>

#include "guest/transfer.h"
#include "guest/user.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* What a child writes to its failure pipe before it gives up. */
struct failure {
    int32_t code;
    struct reason reason;
};

/* The child's ends of its standard streams and of the failure pipe. */
struct child_ends {
    int in, out, err, failure;
    bool tty;
};

#define CHILD_ENDS_INIT                                                                                      \
    { .in = -EBADF, .out = -EBADF, .err = -EBADF, .failure = -EBADF }

static void child_ends_done(struct child_ends *ends) {
    close_fd(ends->in);
    close_fd(ends->out);
    close_fd(ends->err);
    close_fd(ends->failure);
}

void process_done(struct process *process) {
    process->stdin_fd = close_fd(process->stdin_fd);
    process->stdout_fd = close_fd(process->stdout_fd);
    process->stderr_fd = close_fd(process->stderr_fd);
    process->failure_fd = close_fd(process->failure_fd);
}

/* The parent's end does not block; that is a property of this end alone. */
static int pipe_open(int *ret_read, int *ret_write, bool parent_reads) {
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    if (fcntl(fds[parent_reads ? 0 : 1], F_SETFL, O_NONBLOCK) < 0) {
        int r = -errno;
        close_fd(fds[0]);
        close_fd(fds[1]);
        return r;
    }
    *ret_read = fds[0];
    *ret_write = fds[1];
    return 0;
}

static int terminal_open(const struct request_process *request, struct process *process,
                         struct child_ends *ends) {
    struct winsize size = { .ws_row = (unsigned short) request->rows,
                            .ws_col = (unsigned short) request->columns };
    int unlocked = 0;

    process->stdout_fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (process->stdout_fd < 0)
        return -errno;
    if (ioctl(process->stdout_fd, TIOCSPTLCK, &unlocked) < 0)
        return -errno;
    if (size.ws_row > 0 && size.ws_col > 0 && ioctl(process->stdout_fd, TIOCSWINSZ, &size) < 0)
        return -errno;
    ends->in = ioctl(process->stdout_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (ends->in < 0)
        return -errno;
    ends->tty = true;
    process->tty = true;
    process->stdin_fd = fcntl(process->stdout_fd, F_DUPFD_CLOEXEC, 0);
    return process->stdin_fd < 0 ? -errno : 0;
}

static int streams_open(bool wants_stdin, struct process *process, struct child_ends *ends) {
    int r;

    if (wants_stdin)
        r = pipe_open(&ends->in, &process->stdin_fd, false);
    else
        r = (ends->in = open("/dev/null", O_RDONLY | O_CLOEXEC)) < 0 ? -errno : 0;
    if (r == 0)
        r = pipe_open(&process->stdout_fd, &ends->out, true);
    if (r == 0)
        r = pipe_open(&process->stderr_fd, &ends->err, true);
    return r;
}

static _noreturn_ void child_fail(int failure_fd, int code, const struct reason *reason) {
    struct failure failure = { .code = code, .reason = *reason };

    (void) write_full(failure_fd, &failure, sizeof(failure));
    _exit(code);
}

int process_failure(struct process *process, int *ret_code, struct reason *ret_reason) {
    struct failure failure;

    if (process->failure_fd < 0 || read(process->failure_fd, &failure, sizeof(failure)) != sizeof(failure))
        return 0;
    failure.reason.text[sizeof(failure.reason.text) - 1] = '\0';
    *ret_code = failure.code;
    *ret_reason = failure.reason;
    return 1;
}

/* Signals as a fresh process expects them. */
static void signals_reset(void) {
    struct sigaction action = { .sa_handler = SIG_DFL };
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        (void) sigaction(i, &action, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Makes the three streams 0, 1 and 2 and the terminal, if any, the controlling one. */
static int streams_take(const struct child_ends *ends) {
    int out = ends->tty ? ends->in : ends->out;
    int err = ends->tty ? ends->in : ends->err;

    if (setsid() < 0)
        return -errno;
    if (dup2(ends->in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
        return -errno;
    if (ends->tty && ioctl(0, TIOCSCTTY, 0) < 0)
        return -errno;
    return 0;
}

/* So that the program may open /dev/stdout again after it lost root. */
static void streams_own(const struct user *user, bool tty) {
    struct stat status;

    for (int fd = 0; fd <= 2; fd++) {
        if (fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || tty))
            (void) fchown(fd, user->uid, tty ? status.st_gid : user->gid);
    }
}

static int directory_enter(const char *path, bool make, struct reason *reason) {
    _cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    _cleanup_close_ int fd = -EBADF;
    int r;

    path = path && *path ? path : "/";
    if (*path != '/')
        return reason_set(reason, -EINVAL, "the working directory '%.128s' is not absolute", path);
    fd = make ? make_directory_in_root(root, path) : open_in_root(root, path, O_PATH | O_DIRECTORY, 0);
    r = fd < 0 ? fd : fchdir(fd) < 0 ? -errno : 0;
    return r < 0 ? reason_set(reason, r, "cannot enter the working directory '%.128s'", path) : 0;
}

static int user_become(const struct user *user) {
    if (setgroups(user->group_count, user->groups) < 0)
        return -errno;
    if (setresgid(user->gid, user->gid, user->gid) < 0)
        return -errno;
    return setresuid(user->uid, user->uid, user->uid) < 0 ? -errno : 0;
}

static const char *environment_find(char **env, const char *name) {
    size_t length = strlen(name);

    for (size_t i = 0; env && env[i]; i++) {
        if (strncmp(env[i], name, length) == 0 && env[i][length] == '=')
            return env[i] + length + 1;
    }
    return NULL;
}

static int environment_default(const char *name, const char *value) {
    return value && *value && setenv(name, value, 0) < 0 ? -errno : 0;
}

/* What Docker gives: PATH, HOSTNAME, HOME, and TERM for a terminal, each only if the request has none. */
static int environment_build(const struct request_process *request, const char *hostname,
                             const struct user *user) {
    const char *home = environment_find(request->env, "HOME");
    int r = 0;

    clearenv();
    for (size_t i = 0; request->env && request->env[i]; i++) {
        if (strchr(request->env[i], '=') && request->env[i][0] != '=' && putenv(request->env[i]) < 0)
            return -errno;
    }
    if (home && !*home)
        unsetenv("HOME");
    r = environment_default("PATH", DEFAULT_PATH);
    if (r == 0)
        r = environment_default("HOSTNAME", hostname);
    if (r == 0)
        r = environment_default("HOME", user->home);
    if (r == 0 && request->tty)
        r = environment_default("TERM", "xterm");
    return r;
}

static bool is_program(const char *path) {
    struct stat status;

    return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

/* Looks a name without a slash up in $PATH. NULL: not there. */
static const char *program_find(const char *name, char buffer[PATH_MAX]) {
    const char *path = getenv("PATH");

    if (strchr(name, '/'))
        return name;
    while (path && *path && *name) {
        size_t size = strcspn(path, ":");
        int length = size > 0 ? snprintf(buffer, PATH_MAX, "%.*s/%s", (int) size, path, name)
                              : snprintf(buffer, PATH_MAX, "./%s", name);
        if (length < PATH_MAX && is_program(buffer))
            return buffer;
        path += size + (path[size] == ':');
    }
    return NULL;
}

static _noreturn_ void program_run(char **args, int failure_fd) {
    struct reason reason = REASON_INIT;
    char buffer[PATH_MAX];
    const char *program = args[0] ? program_find(args[0], buffer) : NULL;
    int error;

    if (!args[0]) {
        reason_set(&reason, -EINVAL, "no program to run");
        child_fail(failure_fd, 126, &reason);
    }
    if (!program) {
        reason_set(&reason, -EINVAL, "exec: \"%.128s\": executable file not found in $PATH", args[0]);
        child_fail(failure_fd, 127, &reason);
    }
    execv(program, args);
    error = errno;
    if (error == EACCES && access(program, F_OK) == 0) {
        struct stat status;
        if (stat(program, &status) == 0 && S_ISDIR(status.st_mode))
            error = EISDIR;
    }
    reason_set(&reason, -error, "exec: \"%.128s\"", program);
    child_fail(failure_fd, error == ENOENT || error == ENOTDIR ? 127 : 126, &reason);
}

/* The rest of a child's way to its program; everything up to here was done as root of the instance. */
static _noreturn_ void child_run(const struct request_process *request, const char *hostname, bool is_main,
                                 int failure_fd) {
    static const struct rlimit files = { .rlim_cur = 1024, .rlim_max = 524288 };
    struct reason reason = REASON_INIT;
    struct user user;
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    int r = user_resolve(root, request->user, &user, &reason);

    if (r == 0)
        r = directory_enter(request->cwd, is_main, &reason);
    if (r < 0)
        child_fail(failure_fd, 126, &reason);
    umask(0022);
    (void) setrlimit(RLIMIT_NOFILE, &files);
    streams_own(&user, request->tty);
    r = environment_build(request, hostname, &user);
    if (r == 0)
        r = user_become(&user);
    if (r < 0) {
        reason_set(&reason, r, "cannot become user '%.64s'", request->user ? request->user : "0");
        child_fail(failure_fd, 126, &reason);
    }
    program_run(request->args, failure_fd);
}

/* Forks into pid namespace `pid_fd` (-EBADF: a new one). Only the child lives there, not the agent. Returns
 * as fork. */
static pid_t fork_into(const struct namespaces *namespaces, int pid_fd) {
    pid_t pid;
    int error;

    if (pid_fd >= 0 ? setns(pid_fd, CLONE_NEWPID) < 0 : unshare(CLONE_NEWPID) < 0)
        return -errno;
    pid = fork();
    error = errno;
    if (pid == 0)
        return 0;
    (void) setns(namespaces->own_pid_fd, CLONE_NEWPID);
    return pid < 0 ? -error : pid;
}

/* Puts the agent into a copy of the mount namespace in which the main process will live, and keeps hold of
 * it. */
static int mounts_unshare(struct namespaces *namespaces) {
    if (unshare(CLONE_NEWNS) < 0)
        return -errno;
    namespaces->mount_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (namespaces->mount_fd < 0)
        return -errno;
    return mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ? -errno : 0;
}

static int proc_mount(void) {
    (void) umount2("/proc", MNT_DETACH);
    return mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ? -errno : 0;
}

static int pipes_prepare(const struct request_process *request, struct process *process,
                         struct child_ends *ends) {
    int r = pipe_open(&process->failure_fd, &ends->failure, true);

    if (r < 0)
        return r;
    return request->tty ? terminal_open(request, process, ends) : streams_open(request->stdin, process, ends);
}

static int namespaces_open(struct namespaces *namespaces) {
    namespaces->own_pid_fd = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
    namespaces->own_mount_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return namespaces->own_pid_fd < 0 || namespaces->own_mount_fd < 0 ? -errno : 0;
}

int process_start_main(const struct request_process *request, const char *hostname,
                       struct namespaces *namespaces, struct process *ret, struct reason *reason) {
    _cleanup_(process_done) struct process process = PROCESS_INIT;
    _cleanup_(child_ends_done) struct child_ends ends = CHILD_ENDS_INIT;
    char path[64];
    int r = namespaces_open(namespaces);

    if (r == 0)
        r = pipes_prepare(request, &process, &ends);
    if (r == 0)
        r = mounts_unshare(namespaces);
    process.pid = r < 0 ? r : fork_into(namespaces, -EBADF);
    if (process.pid == 0) {
        struct reason failure = REASON_INIT;
        signals_reset();
        r = proc_mount();
        if (r == 0)
            r = streams_take(&ends);
        if (r < 0) {
            reason_set(&failure, r, "cannot set the main process up");
            child_fail(ends.failure, 126, &failure);
        }
        child_run(request, hostname, true, ends.failure);
    }
    if (namespaces->own_mount_fd >= 0)
        (void) setns(namespaces->own_mount_fd, CLONE_NEWNS);
    if (process.pid < 0)
        return reason_set(reason, process.pid, "cannot start the main process");
    snprintf(path, sizeof(path), "/proc/%d/ns/pid", process.pid);
    namespaces->pid_fd = open(path, O_RDONLY | O_CLOEXEC);
    *ret = process;
    process = (struct process) PROCESS_INIT;
    return 0;
}

int process_start_exec(const struct request_process *request, const char *hostname,
                       const struct namespaces *namespaces, struct process *ret, struct reason *reason) {
    _cleanup_(process_done) struct process process = PROCESS_INIT;
    _cleanup_(child_ends_done) struct child_ends ends = CHILD_ENDS_INIT;
    int r = pipes_prepare(request, &process, &ends);

    if (r < 0)
        return reason_set(reason, r, "cannot prepare a process");
    process.pid = fork_into(namespaces, namespaces->pid_fd);
    if (process.pid == 0) {
        struct reason failure = REASON_INIT;
        signals_reset();
        r = setns(namespaces->mount_fd, CLONE_NEWNS) < 0 ? -errno : streams_take(&ends);
        if (r < 0) {
            reason_set(&failure, r, "cannot join the instance");
            child_fail(ends.failure, 126, &failure);
        }
        child_run(request, hostname, false, ends.failure);
    }
    if (process.pid < 0)
        return reason_set(reason, process.pid, "cannot start a process");
    *ret = process;
    process = (struct process) PROCESS_INIT;
    return 0;
}

static int compare_int(const void *a, const void *b) {
    return *(const int *) a - *(const int *) b;
}

/* A child that runs no other program keeps its copies of all our descriptors: without this the write end of
 * another channel's stdin would stay open as long as the transfer lasts. Sorts `keep`. */
static void descriptors_close(int *keep, size_t count) {
    int next = 3;

    qsort(keep, count, sizeof(*keep), compare_int);
    for (size_t i = 0; i < count; i++) {
        if (keep[i] > next)
            (void) close_range((unsigned) next, (unsigned) keep[i] - 1, 0);
        if (keep[i] >= next)
            next = keep[i] + 1;
    }
    (void) close_range((unsigned) next, ~0u, 0);
}

static _noreturn_ void transfer_run(enum transfer_direction direction, const char *path, int mount_fd,
                                    const struct child_ends *ends) {
    struct reason reason = REASON_INIT;
    int keep[] = { ends->in, ends->out, ends->failure, mount_fd };
    int root, r;

    signals_reset();
    descriptors_close(keep, ELEMENTS(keep));
    umask(0);
    if (mount_fd >= 0 && setns(mount_fd, CLONE_NEWNS) < 0) {
        reason_set(&reason, -errno, "cannot join the instance");
        child_fail(ends->failure, 1, &reason);
    }
    root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    r = direction == TRANSFER_GET ? transfer_get(root, path, ends->out, &reason)
                                  : transfer_put(root, path, ends->in, &reason);
    if (r < 0) {
        reason_set(&reason, r, "the transfer failed");
        child_fail(ends->failure, 1, &reason);
    }
    _exit(0);
}

int process_start_transfer(enum transfer_direction direction, const char *path,
                           const struct namespaces *namespaces, struct process *ret, struct reason *reason) {
    _cleanup_(process_done) struct process process = PROCESS_INIT;
    _cleanup_(child_ends_done) struct child_ends ends = CHILD_ENDS_INIT;
    struct request_process request = { .stdin = direction == TRANSFER_PUT };
    int r = pipes_prepare(&request, &process, &ends);

    if (r < 0)
        return reason_set(reason, r, "cannot prepare the transfer");
    process.pid = fork();
    if (process.pid == 0)
        transfer_run(direction, path, namespaces->mount_fd, &ends);
    if (process.pid < 0)
        return reason_set(reason, -errno, "cannot start the transfer");
    *ret = process;
    process = (struct process) PROCESS_INIT;
    return 0;
}

void process_resize(const struct process *process, int64_t rows, int64_t columns) {
    struct winsize size = { .ws_row = (unsigned short) rows, .ws_col = (unsigned short) columns };

    if (process->tty && process->stdout_fd >= 0)
        (void) ioctl(process->stdout_fd, TIOCSWINSZ, &size);
}
