// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/container/internal.h"
#include "host/cgroup.h"

#define CREATE_TIME (60 * CLOCK_SECOND)
#define START_TIME (20 * CLOCK_SECOND)
#define REPLY_MAX (64 * 1024)
#define ENTER_STEP CLOCK_MILLISECOND
/* Numbers of descriptors in conmon. */
#define SYNC_FD 3
#define NAMESPACE_FD 4

struct launch {
    struct container *container;
    struct process_spec spec;
    const char *run_path;
    int result;
};

/* In the child: into the namespace in which the root file system is mounted. Until here it dies with the daemon; from here
 * on it is in the watcher's cgroup, where adopt finds it, and lives on. */
static int enter_namespace(void *userdata) {
    const struct launch *launch = userdata;

    if (setns(NAMESPACE_FD, CLONE_NEWNS) < 0)
        return -errno;
    if (fcntl(NAMESPACE_FD, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    if (chdir(launch->run_path) < 0)
        return -errno;
    return prctl(PR_SET_PDEATHSIG, 0) < 0 ? -errno : 0;
}

/* conmon itself stays out of the container's limits: what it starts as its runtime enters the cgroup, then becomes crun. */
static int add_runtime(const struct container *container, char ***list) {
    _cleanup_list_ char **entries = NULL;
    int r = cgroup_procs_paths(container->instance->cgroup, &entries);

    if (r >= 0)
        r = list_addf(list, "--runtime=%s/polder-enter", container->driver->libexec_path);
    for (char **entry = entries; r >= 0 && *entry; entry++)
        r = list_addf(list, "--runtime-arg=--enter=%s", *entry);
    if (r >= 0)
        r = list_add(list, "--runtime-arg=--program=" CRUN_PROGRAM);
    if (r >= 0)
        r = list_add(list, "--runtime-arg=--cgroup-manager=disabled");
    return r < 0 ? r : list_addf(list, "--runtime-arg=--root=%s", container->driver->crun_root);
}

static int build_arguments(const struct container *container, uint64_t log_limit, char ***ret) {
    const struct process_settings *process = &container->instance->process;
    _cleanup_list_ char **list = NULL;
    static const char *const fixed[] = { "conmon", "--api-version=1", "--sync", "--full-attach", "--no-sync-log" };
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(fixed); i++)
        r = list_add(&list, fixed[i]);
    r = r < 0 ? r : add_runtime(container, &list);
    r = r < 0 ? r : list_addf(&list, "--bundle=%s", container->run_path);
    r = r < 0 ? r : list_addf(&list, "--persist-dir=%s", container->run_path);
    r = r < 0 ? r : list_addf(&list, "--cid=%s", container->uuid);
    r = r < 0 ? r : list_addf(&list, "--cuuid=%s", container->uuid);
    r = r < 0 ? r : list_addf(&list, "--container-pidfile=%s/init.pid", container->run_path);
    r = r < 0 ? r : list_addf(&list, "--log-path=k8s-file:%s/log", container->state_path);
    r = r < 0 ? r : list_addf(&list, "--log-size-max=%llu", (unsigned long long) log_limit);
    if (r >= 0 && process->tty)
        r = list_add(&list, "--terminal");
    if (r >= 0 && process->stdin_open && !process->tty)
        r = list_add(&list, "--stdin");
    if (r >= 0 && !container->input_once)
        r = list_add(&list, "--leave-stdin-open");
    if (r < 0)
        return r;
    *ret = STEAL_PTR(list);
    return 0;
}

/* A vfork: the calling thread sleeps until the exec, and moving into a cgroup can take milliseconds. */
static int launch_job(void *userdata) {
    struct launch *launch = userdata;

    return process_start(&launch->spec, &launch->container->monitor);
}

static int launch_monitor(struct container *container, const struct rootfs *rootfs, int sync, struct error *error) {
    _cleanup_list_ char **arguments = NULL;
    _cleanup_free_ char *temporary = text_format("TMPDIR=%s", container->run_path);
    const char *environment[] = { temporary, "_OCI_SYNCPIPE=3", NULL };
    const struct process_fd fds[] = { { sync, SYNC_FD }, { rootfs->mount_namespace, NAMESPACE_FD } };
    struct launch launch = { .container = container, .run_path = container->run_path };
    _cleanup_cgroup_entry_ struct cgroup_entry entry = { .count = 0 };
    uint64_t log_limit;
    int r = logs_prepare(container, container->instance->spec->log_size, &log_limit);

    if (r < 0)
        return error_errno(error, r, "preparing the log");
    r = temporary ? build_arguments(container, log_limit, &arguments) : -ENOMEM;
    if (r < 0)
        return error_errno(error, r, "starting conmon");
    launch.spec = (struct process_spec){
        .program = CONMON_PROGRAM,
        .arguments = arguments,
        .environment = (char *const *) environment,
        .fds = fds,
        .fd_count = ELEMENTS(fds),
        .die_with_parent = true,
        .setup = enter_namespace,
        .userdata = &launch,
    };
    r = cgroup_watcher_open(container->instance->cgroup, &entry);
    launch.spec.cgroup_fds = entry.fds;
    launch.spec.cgroup_fd_count = entry.count;
    if (r >= 0)
        r = fiber_job(launch_job, &launch);
    return r < 0 ? error_errno(error, r, "starting conmon") : 0;
}

/* What crun says of a command that cannot run, in the words of its error message. */
static int creation_error(const struct container *container, const char *message, struct error *error) {
    char *const *arguments = container->instance->process.arguments;
    const char *command = arguments && *arguments ? *arguments : "";
    _cleanup_free_ char *text = text_escape(message, strcspn(message, "\n"), false);

    if (strstr(message, "executable file") && strstr(message, "not found"))
        return error_set(error, ERROR_NO_COMMAND, command);
    if (strstr(message, "open executable"))
        return error_set(error, ERROR_NOT_EXECUTABLE, command, "permission denied");
    return error_set(error, ERROR_PROGRAM_FAILED, "crun", text ? text : "");
}

/* conmon's one line: {"data": PID} or {"data": -1, "message": "what crun said"}. */
static int take_reply(struct container *container, const struct buffer *reply, struct error *error) {
    _cleanup_json_ struct json_object *object = NULL;
    int64_t pid;
    int r;

    if (reply->size == 0)
        return error_set(error, ERROR_PROGRAM_FAILED, "conmon", "it ended before the container was created");
    r = json_parse_foreign(reply->data, reply->size, &object, NULL);
    if (r < 0)
        return error_set(error, ERROR_PROGRAM_FAILED, "conmon", "its answer makes no sense");
    pid = json_integer(object, "data", -1);
    if (pid <= 0 || pid > INT32_MAX)
        return creation_error(container, json_text(object, "message", ""), error);
    uint64_t ticks;
    r = proc_start_time((pid_t) pid, &ticks);
    if (r >= 0)
        r = process_adopt((pid_t) pid, ticks, &container->init);
    if (r >= 0)
        r = cgroup_holds(container->instance->cgroup, (int) pid);
    if (r == 0)
        r = -ESRCH;
    return r < 0 ? error_errno(error, r, "finding the created container") : 0;
}

static int read_reply(int fd, struct buffer *reply, struct error *error) {
    uint64_t deadline = deadline_in(CREATE_TIME);
    char data[4096];

    while (reply->size < REPLY_MAX && (reply->size == 0 || reply->data[reply->size - 1] != '\n')) {
        long size = fiber_read(fd, data, sizeof(data), deadline);
        if (size == -ETIMEDOUT)
            return error_set(error, ERROR_TIMEOUT, "creating the container", "60s");
        if (size < 0)
            return error_errno(error, (int) size, "creating the container");
        if (size == 0)
            break;
        buffer_add(reply, data, (size_t) size);
    }
    return reply->failed ? error_errno(error, -ENOMEM, "creating the container") : 0;
}

static int remember(const struct container *container, bool created, struct error *error) {
    int r = state_write(container, created);

    return r < 0 ? error_errno(error, r, "writing the state of the container") : 0;
}

int monitor_start(struct container *container, const struct rootfs *rootfs, struct error *error) {
    _cleanup_buffer_ struct buffer reply = BUFFER_INIT;
    _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
    int pair[2], r;

    if (pipe2(pair, O_CLOEXEC) < 0)
        return error_errno(error, -errno, "making a pipe");
    ours = pair[0];
    theirs = pair[1];
    (void) fcntl(ours, F_SETFL, O_NONBLOCK);
    r = launch_monitor(container, rootfs, theirs, error);
    theirs = close_fd(theirs);
    if (r < 0)
        return r;
    FAILPOINT("container-launched");
    r = remember(container, false, error);
    if (r >= 0)
        r = read_reply(ours, &reply, error);
    if (r >= 0)
        r = take_reply(container, &reply, error);
    if (r >= 0)
        r = remember(container, true, error);
    if (r < 0)
        return r;
    FAILPOINT("container-created");
    return 0;
}

/* The long way, should another crun wait elsewhere. */
static int run_start(const struct container *container, struct error *error) {
    _cleanup_free_ char *root = text_format("--root=%s", container->driver->crun_root);
    const char *arguments[] = { "crun", root, "--cgroup-manager=disabled", "start", container->uuid, NULL };
    const struct process_spec spec = { .program = CRUN_PROGRAM, .arguments = (char *const *) arguments };
    const struct process_run run = { .deadline = deadline_in(START_TIME) };

    return root ? process_run(&spec, &run, error) : error_errno(error, -ENOMEM, "starting the container");
}

static int program_of(const struct process *process, struct program_file *ret) {
    struct stat program;
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d/exe", process->pid);
    if (stat(path, &program) < 0)
        return -errno;
    *ret = (struct program_file){ program.st_dev, program.st_ino };
    return 0;
}

/* The byte that releases init is not yet its execve. Until then it is crun, which nobody may look into (PR_SET_DUMPABLE),
 * and `crun exec` fails to enter its namespaces: "fail startup". */
int monitor_wait_entered(const struct container *container, uint64_t deadline) {
    const struct program_file *starter = &container->starter;
    struct program_file now;
    int r = 0;

    while (r >= 0 && starter->inode && process_is_alive(&container->init) && program_of(&container->init, &now) >= 0 &&
           now.device == starter->device && now.inode == starter->inode)
        r = clock_now() < deadline ? fiber_sleep(ENTER_STEP) : -ETIMEDOUT;
    return r;
}

/* Init waits for one byte in crun's "exec.fifo"; this is what `crun start` does, without a program. The name goes last:
 * as long as it is there, adopt takes the container for one that never started. */
int monitor_release(struct container *container, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/%s/exec.fifo", container->driver->crun_root, container->uuid);
    _cleanup_close_ int fd = -EBADF;

    if (!path)
        return error_errno(error, -ENOMEM, "starting the container");
    if (program_of(&container->init, &container->starter) < 0)
        container->starter = (struct program_file){ 0 };
    fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return run_start(container, error);
    if (fd < 0 || write(fd, "", 1) != 1 || unlink(path) < 0)
        return error_errno(error, -errno, "starting the created container");
    return 0;
}

int monitor_connect(struct container *container) {
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    if (fd < 0)
        return -errno;
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/attach", container->directory);
    if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
        return -errno;
    return STEAL_FD(fd);
}

int monitor_resize(struct container *container, uint16_t rows, uint16_t columns) {
    _cleanup_close_ int fd = openat(container->directory, "ctl", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    char line[32];
    int size = snprintf(line, sizeof(line), "1 %u %u\n", rows, columns);

    if (fd < 0)
        return -errno;
    return write(fd, line, (size_t) size) == size ? 0 : -errno;
}
