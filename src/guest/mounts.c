// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/mounts.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

static int mount_at(int target_fd, const struct request_mount *request) {
    unsigned long flags = request->readonly ? MS_RDONLY : 0;
    char target[32], options[64] = "mode=1777";

    /* By descriptor, so that what was resolved is what is mounted upon. */
    snprintf(target, sizeof(target), "/proc/self/fd/%d", target_fd);
    if (strcmp(request->type, "virtiofs") == 0)
        return mount(request->tag, target, "virtiofs", flags, NULL) < 0 ? -errno : 0;
    if (request->size > 0)
        snprintf(options, sizeof(options), "mode=1777,size=%lld", (long long) request->size);
    return mount("tmpfs", target, "tmpfs", flags | MS_NOSUID | MS_NODEV, options) < 0 ? -errno : 0;
}

int mounts_add(int root_fd, const struct request_mount *request, struct reason *reason) {
    bool is_share = strcmp(request->type, "virtiofs") == 0;
    _cleanup_close_ int target = -EBADF;
    int r;

    if (!is_share && strcmp(request->type, "tmpfs") != 0)
        return reason_set(reason, -EINVAL, "'%s' is no kind of mount", request->type);
    if (is_share && (!request->tag || !*request->tag))
        return reason_set(reason, -EINVAL, "the share for %.128s has no tag", request->target);
    if (request->target[0] != '/')
        return reason_set(reason, -EINVAL, "the mount target '%.128s' is not absolute", request->target);
    target = make_directory_in_root(root_fd, request->target);
    if (target < 0)
        return reason_set(reason, target, "cannot make the mount target %.128s", request->target);
    r = mount_at(target, request);
    if (r < 0)
        return reason_set(reason, r, "cannot mount %s at %.128s", is_share ? request->tag : "a tmpfs",
                          request->target);
    return 0;
}

int mounts_seal_root(struct reason *reason) {
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0)
        return reason_set(reason, -errno, "cannot make the root read-only");
    return 0;
}
