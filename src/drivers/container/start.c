// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/container/internal.h"
#include "drivers/container/seccomp.h"
#include "host/cgroup.h"
#include "network/network.h"

#define UNDO_TIME (30 * CLOCK_SECOND)

static int filter_job(void *userdata) {
    return seccomp_filter_text(userdata);
}

static int ensure_filter(struct container_driver *driver, struct error *error) {
    char *filter = NULL;
    int r;

    if (driver->filter)
        return 0;
    r = fiber_job(filter_job, &filter);
    if (r < 0)
        return error_errno(error, r, "compiling the system call filter");
    /* Another start may have been as quick. */
    free(driver->filter);
    driver->filter = filter;
    return 0;
}

/* The container's root passes through run_path to reach its files; nobody else does. */
static int ensure_directory(struct container *container, struct error *error) {
    gid_t group = (gid_t) container->instance->assigned->uid_base;
    int r = file_make_directories(AT_FDCWD, container->run_path, 0711);

    if (r < 0)
        return error_errno(error, r, "creating %s", container->run_path);
    container->directory = close_fd(container->directory);
    container->directory = open(container->run_path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (container->directory < 0)
        return error_errno(error, -errno, "opening %s", container->run_path);
    if (chown(container->run_path, 0, group) < 0 || chmod(container->run_path, 0710) < 0)
        return error_errno(error, -errno, "giving away %s", container->run_path);
    return 0;
}

/* What an earlier run left: its end has been taken. */
static int remove_remains(struct container *container, struct error *error) {
    static const char *const names[] = { "exit", "oom", "state", "init.pid", "attach", "ctl", "winsz", "config.json" };
    _cleanup_free_ char *state = text_format("%s/%s", container->driver->crun_root, container->uuid);
    int r = state ? file_remove_tree(AT_FDCWD, state) : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(names); i++)
        if (unlinkat(container->directory, names[i], 0) < 0 && errno != ENOENT)
            r = -errno;
    return r < 0 ? error_errno(error, r, "removing what the last run left") : 0;
}

static int write_bundle(struct container *container, const struct rootfs *rootfs, const struct exec_terminal *terminal,
                        struct error *error) {
    const struct driver_instance *instance = container->instance;
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    _cleanup_free_ char *files = text_format("%s/s", container->run_path);
    _cleanup_close_ int fd = -EBADF;
    struct user user;
    struct container_config config = {
        .instance = instance,
        .user = &user,
        .hostname = container_hostname(instance),
        .files = files,
        .filter = container->driver->filter,
        .open_files = container_open_files(),
        .terminal = terminal,
    };
    int r = container_user(instance->process.user, rootfs->root, &user, error);

    if (r < 0)
        return r;
    r = files ? config_emit(&config, &text) : -ENOMEM;
    if (r >= 0) {
        fd = openat(container->directory, "config.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : file_write_all(fd, text.data, text.size);
    }
    return r < 0 ? error_errno(error, r, "writing the container's configuration") : 0;
}

static int attach_network(struct container *container, struct error *error) {
    const struct driver_instance *instance = container->instance;
    const struct instance_assigned *assigned = instance->assigned;
    struct network *network = container->driver->context.network;
    const struct network_member member = network_member_of(instance->name, assigned, instance->spec);
    _cleanup_close_ int namespace = -EBADF;
    char path[40];

    if (!assigned->address || text_equal(instance->spec->network, "none"))
        return 0;
    if (!network)
        return error_set(error, ERROR_HOST_LACKS, "a network", "this polderd runs without one");
    snprintf(path, sizeof(path), "/proc/%d/ns/net", container->init.pid);
    namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || !process_is_alive(&container->init))
        return error_errno(error, namespace < 0 ? -errno : -ESRCH, "opening the container's network namespace");
    return network_attach_container(network, &member, namespace, error);
}

static int create(struct container *container, const struct driver_start *start, struct error *error) {
    _cleanup_prepared_root_ struct prepared_root prepared = { 0 };
    _cleanup_rootfs_ struct rootfs rootfs = ROOTFS_INIT;
    int r;

    container_close_mounts(container);
    r = ensure_filter(container->driver, error);
    if (r >= 0)
        r = ensure_directory(container, error);
    if (r >= 0)
        r = remove_remains(container, error);
    if (r >= 0)
        r = prepared_root_init(container, true, &prepared, error);
    if (r >= 0)
        r = rootfs_make(&prepared.request, &rootfs, error);
    if (r >= 0)
        r = write_bundle(container, &rootfs, start ? start->terminal : NULL, error);
    if (r >= 0)
        r = monitor_start(container, &rootfs, error);
    if (r >= 0)
        container->mount_namespace = STEAL_FD(rootfs.mount_namespace);
    return r;
}

/* From created to running. */
static int release(struct container *container, struct stream **ret_stream, struct error *error) {
    _cleanup_stream_ struct stream *stream = NULL;
    int r = attach_network(container, error);

    if (r >= 0 && ret_stream)
        r = attach_open(container, &stream, error);
    if (r >= 0)
        r = monitor_release(container, error);
    if (r < 0)
        return r;
    FAILPOINT("container-started");
    r = watch_start(container);
    if (r < 0)
        return error_errno(error, r, "watching the container");
    logs_watch(container);
    if (ret_stream)
        *ret_stream = STEAL_PTR(stream);
    return 0;
}

/* Nothing of a failed start may run. */
static void undo(struct container *container) {
    struct driver_instance *instance = container->instance;
    uint64_t deadline = deadline_in(UNDO_TIME);

    fiber_shield();
    container->active = false;
    watch_stop(container);
    logs_unwatch(container);
    /* conmon first: it may still be about to start crun, which cgroup_remove then finds in conmon's own group. */
    (void) process_end(&container->monitor, 0);
    (void) process_signal(&container->init, SIGKILL);
    (void) container_kill_group(container, deadline);
    process_done(&container->monitor);
    process_done(&container->init);
    container_close_mounts(container);
    if (container->driver->context.network && instance->assigned->address)
        (void) network_detach(container->driver->context.network, container->uuid, NULL);
    (void) remove_remains(container, NULL);
    fiber_unshield();
}

static int create_and_release(struct container *container, const struct driver_start *start, struct error *error) {
    int r = create(container, start, error);

    if (r >= 0)
        r = release(container, start ? start->ret_stream : NULL, error);
    if (r < 0)
        undo(container);
    return r;
}

int container_start(void *data, struct driver_instance *instance, const struct driver_start *start,
                    struct error *error) {
    struct container *container = NULL;
    struct cgroup_usage usage;
    int r = container_of_instance(data, instance, &container);

    if (r < 0)
        return error_errno(error, r, "starting the container");
    if (start && start->restore)
        return error_set(error, ERROR_NOT_SUPPORTED, "a container", "suspend", "its memory cannot be saved");
    if (container->active)
        return error_set(error, ERROR_WRONG_STATE, "running", "start", "stop");
    if (!instance->cgroup)
        return error_errno(error, -EINVAL, "starting a container without a cgroup");
    container->tty = instance->process.tty;
    container->input_open = instance->process.stdin_open;
    container->input_once = instance->process.stdin_open && !instance->process.tty && start && start->ret_stream;
    container->oom_kills = cgroup_usage(instance->cgroup, &usage) < 0 ? 0 : usage.oom_kills;
    container->ended = false;
    container_change_begin(container);
    r = container_await_copies(container);
    if (r == -ETIMEDOUT)
        r = error_set(error, ERROR_BUSY, "its root file system", "files are being copied");
    if (r >= 0)
        r = create_and_release(container, start, error);
    container_change_end(container);
    return r;
}
