// SPDX-License-Identifier: GPL-2.0-or-later
/* `crun exec`, attached: crun stays as the parent of the process and ends with its exit code. It runs in the
 * container's cgroup, so the process is in it from birth. Its input (the process description), its own messages and the
 * process id go through memory files. If the daemon dies, adopt finds and ends what is left of it. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "drivers/container/child.h"
#include "drivers/container/internal.h"
#include "guest/common.h"
#include "host/cgroup.h"

#define TERMINAL_TIME (20 * CLOCK_SECOND)
#define ENTER_TIME (20 * CLOCK_SECOND)
#define TOLD_TIME (5 * CLOCK_SECOND)
#define TOLD_STEP (2 * CLOCK_MILLISECOND)
#define MESSAGE_MAX 4096
/* Numbers of descriptors in crun. */
#define PROCESS_FD 3
#define MESSAGES_FD 4
#define PID_FD 5

struct exec {
    struct child child;
    char *command;
    int description, messages, pid;
    struct process_spec spec;
};

static struct exec *exec_of(struct child *child) {
    return CONTAINER_OF(child, struct exec, child);
}

static void exec_destroy(struct child *child) {
    struct exec *exec = exec_of(child);

    close_fd(exec->description);
    close_fd(exec->messages);
    close_fd(exec->pid);
    free(exec->command);
    free(exec);
}

/* 0 as long as crun has not told it. */
static int process_id(const struct exec *exec) {
    char text[16] = "";

    return pread(exec->pid, text, sizeof(text) - 1, 0) > 0 ? atoi(text) : 0;
}

/* What was started may have spoken already, but until crun tells its number nobody but crun knows it: crun killed before that
 * would leave it behind. */
static int await_process_id(struct exec *exec) {
    uint64_t deadline = deadline_in(TOLD_TIME);
    int pid;

    fiber_shield();
    while ((pid = process_id(exec)) <= 1 && process_is_alive(&exec->child.process) && clock_now() < deadline)
        (void) fiber_sleep(TOLD_STEP);
    fiber_unshield();
    return pid;
}

/* crun passes on what it gets, but cannot pass on SIGKILL. */
static int exec_signal(struct child *child, int number) {
    _cleanup_process_ struct process process = PROCESS_INIT;
    struct exec *exec = exec_of(child);
    uint64_t ticks;
    int pid, r;

    if (number != SIGKILL && number != SIGSTOP)
        return process_signal(&child->process, number);
    pid = await_process_id(exec);
    if (pid <= 1)
        return process_signal(&child->process, number);
    /* Its parent is crun as long as crun has not reaped it: then the number is still its own. */
    r = proc_start_time(pid, &ticks);
    if (r >= 0)
        r = process_adopt(pid, ticks, &process);
    if (r < 0 || !process_is_alive(&child->process))
        return -ESRCH;
    return process_signal(&process, number);
}

/* crun and what it forks have one program file; a process in the container has another. */
static bool exec_is_starting(struct child *child) {
    struct exec *exec = exec_of(child);
    struct stat crun, process;
    int pid = process_id(exec);
    char path[32];

    if (pid <= 1)
        return true;
    snprintf(path, sizeof(path), "/proc/%d/exe", child->process.pid);
    if (stat(path, &crun) < 0)
        return true;
    snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    return stat(path, &process) < 0 || (process.st_dev == crun.st_dev && process.st_ino == crun.st_ino);
}

static bool exec_start_failed(struct child *child) {
    struct stat messages;

    return child->status != 0 && fstat(exec_of(child)->messages, &messages) == 0 && messages.st_size > 0;
}

/* crun 1.8 whose first fork fails takes itself for the child: in the host's namespaces it does all that precedes the execve, and
 * is then killed by writing to a pipe that nobody reads. It must be, so SIGPIPE is at its default in all that we start. One for
 * which there is no memory is killed as well. Neither has written the process id, nor a word. */
static bool was_killed_on_the_way(const struct exec *exec) {
    int status = exec->child.status;

    return (status == 128 + SIGPIPE || status == 128 + SIGKILL) && process_id(exec) == 0;
}

static int no_room(const struct exec *exec, struct error *error) {
    return error_set(error, ERROR_NOT_EXECUTABLE, exec->command,
                     "the container has no room for it (processes, memory), or is ending");
}

/* "open executable: Operation not permitted" -> the last part; a directory is told as what it is. */
static int not_executable(const char *command, const char *message, struct error *error) {
    const char *reason = text_starts(message, "open executable: ") ? message + strlen("open executable: ") : message;
    _cleanup_free_ char *text = text_escape(reason, strcspn(reason, "\n"), false);

    if (text_equal(text, "Operation not permitted"))
        return error_set(error, ERROR_NOT_EXECUTABLE, command, "it is no regular file");
    return error_set(error, ERROR_NOT_EXECUTABLE, command, text ? text : "");
}

static int exec_finish(struct child *child, int *ret_code, struct error *error) {
    struct exec *exec = exec_of(child);
    char message[MESSAGE_MAX] = "";
    ssize_t size = pread(exec->messages, message, sizeof(message) - 1, 0);

    *ret_code = child->status;
    if (size <= 0 && was_killed_on_the_way(exec)) {
        *ret_code = 126;
        return no_room(exec, error);
    }
    if (size <= 0 || child->status == 0)
        return 0;
    if (strstr(message, "not found in $PATH") || strstr(message, "No such file or directory")) {
        *ret_code = 127;
        return error_set(error, ERROR_NO_COMMAND, exec->command);
    }
    *ret_code = 126;
    if (text_starts(message, "fail startup") || strstr(message, "is not running")) /* its way in or its second fork failed: crun says no more */
        return no_room(exec, error);
    return not_executable(exec->command, message, error);
}

/* The process must not be harder to kill for want of memory than the container is. */
static int reset_oom_score(void *userdata) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t written = write(fd, "0", 1);
        (void) written;
        (void) close(fd);
    }
    return 0;
}

/* crun takes a missing one for a missing command. */
static int check_directory(int root, const char *path, struct error *error) {
    _cleanup_close_ int fd = -EBADF;

    if (!path)
        return 0;
    if (path[0] != '/')
        return error_set(error, ERROR_BAD_VALUE, "working_directory", path, "it must be absolute");
    fd = open_in_root(root, path, O_PATH | O_DIRECTORY, 0);
    return fd < 0 ? error_set(error, ERROR_BAD_VALUE, "working_directory", path, strerror(-fd)) : 0;
}

static int describe(struct container *container, const struct exec_request *request, int fd, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    _cleanup_close_ int root = -EBADF;
    struct user user;
    struct container_config config = {
        .instance = container->instance,
        .user = &user,
        .hostname = container_hostname(container->instance),
        .open_files = container_open_files(),
    };
    const char *wanted = request->user ? request->user : container->instance->process.user;
    char path[40];
    int r;

    snprintf(path, sizeof(path), "/proc/%d/root", container->init.pid);
    root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || !process_is_alive(&container->init))
        return error_errno(error, root < 0 ? -errno : -ESRCH, "opening the container's root");
    r = container_user(wanted, root, &user, error);
    if (r >= 0)
        r = check_directory(root, request->working_directory, error);
    if (r < 0)
        return r;
    r = config_emit_exec(&config, request, &text);
    if (r >= 0)
        r = file_write_all(fd, text.data, text.size);
    return r < 0 ? error_errno(error, r, "describing the process") : 0;
}

static int launch_job(void *userdata) {
    struct exec *exec = userdata;

    return process_start(&exec->spec, &exec->child.process);
}

static int launch(struct container *container, struct exec *exec, const char *socket_path, struct error *error) {
    _cleanup_free_ char *root = text_format("--root=%s", container->driver->crun_root);
    _cleanup_free_ char *console = socket_path ? text_format("--console-socket=%s", socket_path) : NULL;
    const char *arguments[] = { "crun", root, "--cgroup-manager=disabled", "--log=file:/proc/self/fd/4", "exec",
                                "--process=/proc/self/fd/3", "--pid-file=/proc/self/fd/5",
                                console ? console : container->uuid, console ? container->uuid : NULL, NULL };
    const struct process_fd fds[] = { { exec->description, PROCESS_FD }, { exec->messages, MESSAGES_FD },
                                      { exec->pid, PID_FD } };
    _cleanup_close_ int program = rootfs_open_program(CRUN_PROGRAM);
    _cleanup_cgroup_entry_ struct cgroup_entry entry = { .count = 0 };
    int r;

    if (!root || (socket_path && !console) || program < 0)
        return error_errno(error, program < 0 ? program : -ENOMEM, "starting crun exec");
    exec->spec.program_fd = program;
    exec->spec.arguments = (char *const *) arguments;
    exec->spec.fds = fds;
    exec->spec.fd_count = ELEMENTS(fds);
    exec->spec.new_session = true;
    exec->spec.setup = reset_oom_score;
    r = container->instance && container->instance->cgroup ? cgroup_entry_open(container->instance->cgroup, &entry) : -ESRCH;
    exec->spec.cgroup_fds = entry.fds;
    exec->spec.cgroup_fd_count = entry.count;
    if (r >= 0)
        r = fiber_job(launch_job, exec);
    return r < 0 ? error_errno(error, r, "starting crun exec") : 0;
}

/* --- a terminal ------------------------------------------------------------------------------------------------ */

static int listen_at(struct container *container, const char *name) {
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (fd < 0)
        return -errno;
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", container->directory, name);
    if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 || listen(fd, 1) < 0)
        return -errno;
    return STEAL_FD(fd);
}

static int receive_terminal(int connection) {
    char byte[256], control[CMSG_SPACE(sizeof(int))];
    struct iovec part = { byte, sizeof(byte) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                              .msg_controllen = sizeof(control) };
    struct cmsghdr *header;
    int fd;

    if (recvmsg(connection, &message, MSG_CMSG_CLOEXEC) < 0)
        return -errno;
    header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EPROTO;
    memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    (void) fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* crun connects and sends the terminal, or ends before it does. -ECHILD: it ended. */
static int accept_terminal(struct exec *exec, int listener) {
    _cleanup_close_ int set = epoll_create1(EPOLL_CLOEXEC), connection = -EBADF;
    struct epoll_event wanted = { .events = EPOLLIN };
    uint64_t deadline = deadline_in(TERMINAL_TIME);
    int r;

    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, listener, &wanted) < 0 ||
        epoll_ctl(set, EPOLL_CTL_ADD, exec->child.process.pidfd, &wanted) < 0)
        return -errno;
    r = fiber_wait_fd(set, EPOLLIN, deadline);
    if (r < 0)
        return r;
    connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0)
        return errno == EAGAIN ? -ECHILD : -errno;
    r = fiber_wait_fd(connection, EPOLLIN, deadline);
    return r < 0 ? r : receive_terminal(connection);
}

static int start_terminal(struct container *container, struct exec *exec, struct error *error) {
    _cleanup_close_ int listener = -EBADF;
    _cleanup_free_ char *path = NULL;
    char name[24], hex[13];
    int r;

    random_hex(hex, 6);
    snprintf(name, sizeof(name), "x-%s.sock", hex);
    path = text_format("%s/%s", container->run_path, name);
    listener = path ? listen_at(container, name) : -ENOMEM;
    if (listener < 0)
        return error_errno(error, listener, "making a socket for the terminal");
    r = launch(container, exec, path, error);
    if (r >= 0) {
        exec->child.terminal = true;
        exec->child.output = accept_terminal(exec, listener);
        /* No terminal: crun has said why, and `result` tells. */
        if (exec->child.output < 0 && exec->child.output != -ECHILD)
            r = error_errno(error, exec->child.output, "waiting for the terminal");
    }
    (void) unlinkat(container->directory, name, 0);
    return r;
}

static int start_pipes(struct container *container, struct exec *exec, const struct exec_request *request,
                       struct error *error) {
    int r = child_pipes_open(&exec->child, &exec->spec, request->stdin_open, true);

    r = r < 0 ? error_errno(error, r, "making pipes") : launch(container, exec, NULL, error);
    child_pipes_close(&exec->spec);
    return r;
}

static int exec_new(const struct exec_request *request, struct exec **ret) {
    struct exec *exec = calloc(1, sizeof(*exec));

    if (!exec)
        return -ENOMEM;
    child_init(&exec->child);
    exec->child.signal = exec_signal;
    exec->child.finish = exec_finish;
    exec->child.is_starting = exec_is_starting;
    exec->child.start_failed = exec_start_failed;
    exec->child.destroy = exec_destroy;
    exec->command = strdup(request->arguments && *request->arguments ? *request->arguments : "");
    exec->description = memfd_create("process", MFD_CLOEXEC);
    exec->messages = memfd_create("messages", MFD_CLOEXEC);
    exec->pid = memfd_create("pid", MFD_CLOEXEC);
    *ret = exec;
    return !exec->command ? -ENOMEM : exec->description < 0 || exec->messages < 0 || exec->pid < 0 ? -EMFILE : 0;
}

int container_exec(void *data, struct driver_instance *instance, const struct exec_request *request,
                   struct stream **ret, struct error *error) {
    struct container *container = NULL;
    _cleanup_stream_ struct stream *stream = NULL;
    _cleanup_container_ struct container *held = NULL;
    struct exec *exec = NULL;
    int r = container_of_instance(data, instance, &container);

    if (r < 0)
        return error_errno(error, r, "starting a process");
    if (!container->active || !instance->cgroup)
        return error_set(error, ERROR_WRONG_STATE, "not running", "run a process", "start");
    held = container_ref(container); /* who removes it does not wait for us */
    r = monitor_wait_entered(container, deadline_in(ENTER_TIME));
    if (r < 0 && r != -ETIMEDOUT) /* it may be a crun that crun was told to start */
        return error_errno(error, r, "waiting until the container runs");
    if (!container->active || !instance->cgroup) /* it ended meanwhile */
        return error_set(error, ERROR_WRONG_STATE, "not running", "run a process", "start");
    r = exec_new(request, &exec);
    stream = exec ? &exec->child.stream : NULL;
    if (r < 0)
        return error_errno(error, r, "starting a process");
    r = describe(container, request, exec->description, error);
    if (r >= 0)
        r = request->tty ? start_terminal(container, exec, error) : start_pipes(container, exec, request, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(stream);
    return 0;
}
