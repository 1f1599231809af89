// SPDX-License-Identifier: GPL-2.0-or-later
/* Files in and out through `polder-guest archive`, our own static program, which runs inside: in the mount and user
 * namespace of a running container, so that the kernel resolves every path in the container's root, whatever the
 * container swaps meanwhile; for a stopped one in a private mount namespace made as for a start. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/container/child.h"
#include "drivers/container/internal.h"

#define MESSAGE_MAX 1024
#define END_TIME (10 * CLOCK_SECOND)
/* Numbers of descriptors in the child. */
#define PROGRAM_FD 3
#define MOUNTS_FD 4
#define USERS_FD 5

struct transfer {
    struct child child;
    struct container *container;
    bool offline;
    int messages; /* its standard error: a memory file */
    struct process_spec spec;
};

static struct transfer *transfer_of(struct child *child) {
    return CONTAINER_OF(child, struct transfer, child);
}

static void transfer_destroy(struct child *child) {
    struct transfer *transfer = transfer_of(child);

    if (transfer->offline) {
        transfer->container->offline_users--;
        fiber_queue_wake_all(&transfer->container->changed);
    }
    container_unref(transfer->container);
    close_fd(transfer->messages);
    free(transfer);
}

/* What it said on standard error is for the user, not for the archive's stream. */
static int transfer_finish(struct child *child, int *ret_code, struct error *error) {
    struct transfer *transfer = transfer_of(child);
    _cleanup_free_ char *text = NULL;
    char message[MESSAGE_MAX] = "";

    *ret_code = child->status;
    if (child->status == 0 || pread(transfer->messages, message, sizeof(message) - 1, 0) < 0)
        return 0;
    text = text_escape(message, strcspn(message, "\n"), false);
    if (text && text[0] == '/' && text_ends(text, ": No such file or directory")) {
        text[strlen(text) - strlen(": No such file or directory")] = '\0';
        return error_set(error, ERROR_NOT_FOUND, "file", text);
    }
    return error_set(error, ERROR_GUEST, text && *text ? text : "the transfer was cut off");
}

static int become_root(void) {
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 ||
        syscall(SYS_setresuid, 0, 0, 0) < 0)
        return -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

static int keep_out(void) {
    (void) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    for (int fd = PROGRAM_FD; fd <= USERS_FD; fd++)
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            return -errno;
    return 0;
}

/* A running container's mount namespace belongs to its user namespace: that one first. */
static int enter_running(void *userdata) {
    if (setns(USERS_FD, CLONE_NEWUSER) < 0 || setns(MOUNTS_FD, CLONE_NEWNS) < 0)
        return -errno;
    int r = become_root();
    return r < 0 ? r : keep_out();
}

/* A stopped container's mounts are the host root's; its ids come after the change of root. */
static int enter_stopped(void *userdata) {
    const struct transfer *transfer = userdata;

    if (setns(MOUNTS_FD, CLONE_NEWNS) < 0 || chdir(transfer->container->run_path) < 0)
        return -errno;
    if (chroot("s/rootfs") < 0 || chdir("/") < 0 || setns(USERS_FD, CLONE_NEWUSER) < 0)
        return -errno;
    int r = become_root();
    return r < 0 ? r : keep_out();
}

static int open_namespace(const struct process *process, const char *name) {
    char path[40];
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/ns/%s", process->pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (!process_is_alive(process)) {
        close_fd(fd);
        return -ESRCH;
    }
    return fd;
}

/* -ESRCH, -ENOENT: its first process has just gone. */
static int open_running(struct transfer *transfer, struct rootfs *ret) {
    int r;

    ret->mount_namespace = open_namespace(&transfer->container->init, "mnt");
    ret->user_namespace = open_namespace(&transfer->container->init, "user");
    r = ret->mount_namespace < 0 ? ret->mount_namespace : ret->user_namespace;
    transfer->spec.setup = enter_running;
    if (r >= 0)
        return 0;
    ret->mount_namespace = close_fd(ret->mount_namespace);
    ret->user_namespace = close_fd(ret->user_namespace);
    return r;
}

static int open_stopped(struct transfer *transfer, struct rootfs *ret, struct error *error) {
    struct container *container = transfer->container;
    _cleanup_prepared_root_ struct prepared_root prepared = { 0 };
    int r;

    transfer->offline = true; /* from now on nobody starts it */
    container->offline_users++;
    r = file_make_directories(AT_FDCWD, container->run_path, 0711);

    if (r >= 0) /* it may never have been started */
        r = file_make_directories(AT_FDCWD, container->state_path, 0700);
    if (r < 0)
        return error_errno(error, r, "creating %s", container->run_path);
    container_close_mounts(container);
    transfer->spec.setup = enter_stopped;
    r = prepared_root_init(container, false, &prepared, error);
    return r < 0 ? r : rootfs_make(&prepared.request, ret, error);
}

/* One whose first process is gone counts as running until conmon has written how it ended; soon it is a stopped one. */
static int open_root(struct transfer *transfer, struct rootfs *ret, struct error *error) {
    struct container *container = transfer->container;
    int r;

    if (container->active) {
        r = open_running(transfer, ret);
        if (r != -ESRCH && r != -ENOENT)
            return r < 0 ? error_errno(error, r, "entering the container") : 0;
        (void) watch_wait(container, deadline_in(END_TIME));
    }
    if (container->active || container->changing || !container->instance)
        return error_set(error, ERROR_WRONG_STATE, "ending", "copy files", "start");
    return open_stopped(transfer, ret, error);
}

static int launch_job(void *userdata) {
    struct transfer *transfer = userdata;

    return process_start(&transfer->spec, &transfer->child.process);
}

static int launch(struct transfer *transfer, const char *direction, const char *path, struct error *error) {
    _cleanup_free_ char *program_path =
        text_format("%s/" GUEST_PROGRAM, transfer->container->driver->libexec_path);
    _cleanup_rootfs_ struct rootfs rootfs = ROOTFS_INIT;
    _cleanup_close_ int program = -EBADF;
    const char *arguments[] = { GUEST_PROGRAM, "archive", direction, path, NULL };
    int r = open_root(transfer, &rootfs, error);

    if (r < 0)
        return r;
    program = program_path ? open(program_path, O_RDONLY | O_CLOEXEC) : -1;
    if (program < 0)
        return error_errno(error, -errno, "opening %s", program_path ? program_path : GUEST_PROGRAM);
    const struct process_fd fds[] = { { program, PROGRAM_FD }, { rootfs.mount_namespace, MOUNTS_FD },
                                      { rootfs.user_namespace, USERS_FD } };
    transfer->spec.program_fd = PROGRAM_FD;
    transfer->spec.arguments = (char *const *) arguments;
    transfer->spec.fds = fds;
    transfer->spec.fd_count = ELEMENTS(fds);
    transfer->spec.new_session = true;
    transfer->spec.userdata = transfer;
    r = fiber_job(launch_job, transfer);
    return r < 0 ? error_errno(error, r, "starting the transfer") : 0;
}

static int start(struct transfer *transfer, const char *direction, const char *path, struct error *error) {
    bool put = strcmp(direction, "put") == 0;
    int r = child_pipes_open(&transfer->child, &transfer->spec, put, false);

    transfer->messages = memfd_create("messages", MFD_CLOEXEC);
    transfer->spec.errors = r < 0 || transfer->messages < 0 ? 0 : fcntl(transfer->messages, F_DUPFD_CLOEXEC, 3);
    r = r >= 0 && transfer->spec.errors <= 0 ? -EMFILE : r;
    r = r < 0 ? error_errno(error, r, "making pipes") : launch(transfer, direction, path, error);
    child_pipes_close(&transfer->spec);
    return r;
}

/* Once nobody starts or releases it. A released one is made anew. */
static int container_settled(struct container_driver *driver, struct driver_instance *instance, struct container **ret) {
    uint64_t deadline = deadline_in(END_TIME);
    int r = container_of_instance(driver, instance, ret);

    while (r >= 0 && (*ret)->changing) {
        _cleanup_container_ struct container *held = container_ref(*ret);
        r = fiber_queue_wait(&held->changed, deadline);
        if (r >= 0)
            r = container_of_instance(driver, instance, ret);
    }
    return r;
}

static int transfer_open(struct container_driver *driver, struct driver_instance *instance, const char *direction,
                         const char *path, struct stream **ret, struct error *error) {
    struct container *container = NULL;
    _cleanup_stream_ struct stream *stream = NULL;
    struct transfer *transfer;
    int r = container_settled(driver, instance, &container);

    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_WRONG_STATE, "starting or ending", "copy files", "stop");
    if (r < 0 || !(transfer = calloc(1, sizeof(*transfer))))
        return error_errno(error, r < 0 ? r : -ENOMEM, "starting the transfer");
    child_init(&transfer->child);
    transfer->messages = -EBADF;
    transfer->child.finish = transfer_finish;
    transfer->child.destroy = transfer_destroy;
    transfer->container = container_ref(container);
    stream = &transfer->child.stream;
    r = start(transfer, direction, path, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(stream);
    return 0;
}

int container_get(void *data, struct driver_instance *instance, const char *path, struct stream **ret,
                  struct error *error) {
    return transfer_open(data, instance, "get", path, ret, error);
}

int container_put(void *data, struct driver_instance *instance, const char *path, struct stream **ret,
                  struct error *error) {
    return transfer_open(data, instance, "put", path, ret, error);
}
