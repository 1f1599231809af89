// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "store/internal.h"

/* A file that takes up room, so that there is some to give when the disk is full. */

static int reserve_fill(const char *path) {
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    struct stat status;
    int r;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) == 0 && status.st_blocks >= STORE_RESERVE / 512)
        return 0;
    r = posix_fallocate(fd, 0, STORE_RESERVE);
    if (r != 0)
        unlink(path);
    return -r;
}

int reserve_make(struct store *store) {
    _cleanup_free_ char *path = text_format("%s.reserve", store->path);
    int r = path ? reserve_fill(path) : -ENOMEM;

    if (r == 0 && store->reserve_used)
        log_notice("there is room again at %s: changes are taken", store->path);
    store->has_reserve = r == 0;
    store->reserve_used = r < 0;
    return r;
}

void reserve_release(struct store *store) {
    _cleanup_free_ char *path = text_format("%s.reserve", store->path);

    if (path && unlink(path) == 0)
        log_warning("no space left at %s: the reserve is used, changes that need room are refused",
                    store->path);
    store->has_reserve = false;
    store->reserve_used = true;
}
