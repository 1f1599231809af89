// SPDX-License-Identifier: GPL-2.0-or-later
/* virtiofsd sees its directory as /share in a jail of its own and nothing else of the host. It keeps the
 * ids of files as they are, so it is root there with just the capabilities that changing owners takes; what
 * it makes on the host is without set-id and device meaning, since the mount says nosuid and nodev. It ends
 * when QEMU closes the connection. */
#include "drivers/qemu/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/qemu/socket.h"
#include "host/cgroup.h"
#include "host/jail.h"

#define PROGRAM "/usr/lib/qemu/virtiofsd"
#define OPEN_FILES 65536
#define SOCKET_FD 3
#define CAPABILITY(name) (1u << CAP_##name)
#define CAPABILITIES                                                                                         \
    (CAPABILITY(CHOWN) | CAPABILITY(DAC_OVERRIDE) | CAPABILITY(DAC_READ_SEARCH) | CAPABILITY(FOWNER) |       \
     CAPABILITY(FSETID) | CAPABILITY(SETGID) | CAPABILITY(SETUID) | CAPABILITY(SETPCAP) |                    \
     CAPABILITY(SYS_CHROOT) | CAPABILITY(MKNOD) | CAPABILITY(SETFCAP))

/* The part of `path` beneath `root`, or NULL. */
static const char *beneath(const char *path, const char *root) {
    size_t size = strlen(root);

    while (size > 0 && root[size - 1] == '/')
        size--;
    if (strncmp(path, root, size) != 0 || (path[size] != '/' && path[size] != '\0'))
        return NULL;
    for (path += size; *path == '/'; path++)
        ;
    return *path ? path : ".";
}

static int source_open(const struct machine *machine, const char *path, struct error *error) {
    char *const *roots = machine->qemu->context.mount_roots;
    _cleanup_free_ char *names = list_join(roots, ", ");

    for (char *const *root = roots; root && *root; root++) {
        const char *rest = beneath(path, *root);
        _cleanup_close_ int directory = rest ? open(*root, O_PATH | O_DIRECTORY | O_CLOEXEC) : -EBADF;
        int fd;

        if (directory < 0)
            continue;
        fd = file_open_beneath(directory, rest, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, false);
        if (fd == -ENOTDIR)
            return error_set(error, ERROR_NOT_SUPPORTED, "a virtual machine", "mounting a single file", path);
        return fd < 0 ? error_errno(error, fd, "opening %s", path) : fd;
    }
    return error_set(error, ERROR_NOT_ALLOWED_PATH, path, text_is_empty(names) ? "none" : names);
}

static int process_keep(struct machine *machine, struct process process_take) {
    struct process *shares = reallocarray(machine->shares, machine->share_count + 1, sizeof(*shares));

    if (!shares) {
        (void) process_end(&process_take, 0);
        process_done(&process_take);
        return -ENOMEM;
    }
    machine->shares = shares;
    shares[machine->share_count++] = process_take;
    return 0;
}

static int virtiofsd_start(struct machine *machine, int source, bool read_only, int listening) {
    const struct jail_view views[] = {
        { .path = PROGRAM },
        { .path = "/share", .source_fd = source, .writable = !read_only },
    };
    const struct jail_options options = { .views = views,
                                          .view_count = ELEMENTS(views),
                                          .system_libraries = true,
                                          .open_files = OPEN_FILES,
                                          .capabilities = CAPABILITIES };
    char *const arguments[] = { (char *) PROGRAM,
                                (char *) "--fd=3",
                                (char *) "--rlimit-nofile=0",
                                (char *) "-o",
                                (char *) "source=/share,sandbox=chroot,cache=auto,log_level=err,xattr",
                                NULL };
    const struct process_fd fds[] = { { .source = listening, .target = SOCKET_FD } };
    _cleanup_cgroup_entry_ struct cgroup_entry entry = { .count = 0 };
    _cleanup_jail_ struct jail *jail = NULL;
    struct process process = PROCESS_INIT;
    struct process_spec spec = { .program = PROGRAM, .arguments = arguments, .fds = fds, .fd_count = 1,
                                 .new_session = true, .setup = jail_enter };
    int r = jail_new(&options, &jail, NULL);

    if (r < 0)
        return r;
    spec.namespaces = jail_namespaces(jail);
    spec.userdata = jail;
    if (machine->instance->cgroup)
        r = cgroup_entry_open(machine->instance->cgroup, &entry);
    if (r < 0)
        return r;
    spec.cgroup_fds = entry.fds;
    spec.cgroup_fd_count = entry.count;
    r = process_start(&spec, &process);
    return r < 0 ? r : process_keep(machine, process);
}

/* One share; *ret_fd is QEMU's end. */
static int share_start(struct machine *machine, const struct instance_mount *mount, int *ret_fd,
                       struct error *error) {
    _cleanup_close_ int source = source_open(machine, mount->source, error), listening = -EBADF,
                        connected = -EBADF;
    int flags, r;

    if (source < 0)
        return source;
    r = listening = socket_listen(machine->directory, "share.sock");
    if (r >= 0)
        r = connected = socket_connect(machine->directory, "share.sock");
    (void) unlinkat(machine->directory, "share.sock", 0);
    if (r < 0)
        return error_errno(error, r, "connecting a file server");
    /* virtiofsd waits in accept, and QEMU expects a plain descriptor. */
    flags = fcntl(listening, F_GETFL);
    (void) fcntl(listening, F_SETFL, flags & ~O_NONBLOCK);
    r = virtiofsd_start(machine, source, mount->read_only, listening);
    if (r < 0)
        return error_errno(error, r, "starting virtiofsd");
    *ret_fd = STEAL_FD(connected);
    return 0;
}

int share_start_all(struct machine *machine, struct machine_plan *plan, int *fds, struct error *error) {
    const struct instance_mount *mounts = machine->instance->spec->mounts.items;

    for (size_t i = 0; i < machine->instance->spec->mounts.count; i++) {
        int r;

        if (mounts[i].type != MOUNT_BIND)
            continue;
        if (access(PROGRAM, X_OK) < 0)
            return error_set(error, ERROR_HOST_LACKS, PROGRAM, "install the package qemu-system-common");
        if (plan->shares == MACHINE_SHARES_MAX)
            return error_set(error, ERROR_TOO_LARGE, "mounts", "16 host directories");
        r = share_start(machine, &mounts[i], &fds[plan->shares], error);
        if (r < 0)
            return r;
        plan->share_tags[plan->shares++] = (unsigned) i;
    }
    return 0;
}
