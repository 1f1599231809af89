// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "drivers/container/disk.h"

/* The root file system of one container and all other mounts that it needs, in a mount namespace of their own. Only
 * the descriptor and the processes that entered it hold the namespace: when they are gone, every mount, loop device
 * and file in it is gone too, whatever happened. The daemon's own namespace never sees any of it.
 *
 * Beneath run_path, on a small tmpfs "s": "rootfs", "etc/{hosts,hostname,resolv.conf}", "m/N" for the N-th bind mount. */

struct rootfs_mount {
    int fd;          /* O_PATH of the source, or -EBADF for a mount that needs none */
    bool directory;
    bool read_only;
    const char *name; /* the source as the user wrote it, for errors */
};

struct rootfs_request {
    const char *run_path;
    char *const *layers;      /* directories, lowest first; at least one */
    int64_t uid_base;
    struct disk disk;         /* where the writable part is */
    const struct rootfs_mount *mounts;
    size_t mount_count;
    const char *program;      /* mounted read-only in its own place, or NULL */
    const char *hosts, *hostname, *resolver; /* contents of the files; NULL: not made */
};

struct rootfs {
    int mount_namespace;
    int user_namespace; /* maps the container's ids */
    int root;           /* O_PATH of the merged root directory, usable from outside */
};

#define ROOTFS_INIT                                                                                          \
    { .mount_namespace = -EBADF, .user_namespace = -EBADF, .root = -EBADF }

/* Fiber. BAD_IMAGE: a top-level directory that a mount belongs on is no directory. NOT_SUPPORTED: a file system that
 * cannot be shown with other ids. */
int rootfs_make(const struct rootfs_request *request, struct rootfs *ret, struct error *error);
/* A program on a read-only mount that nobody else sees, for execveat; or negative errno. crun run from a place that its
 * container could write copies and executes itself once more, which takes a quarter of the time of a start. */
int rootfs_open_program(const char *path);
void rootfs_done(struct rootfs *rootfs);

#define _cleanup_rootfs_ _cleanup_(rootfs_done)
