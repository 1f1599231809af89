// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Where a container's changes are kept, and what bounds their size. */

struct storage;

enum disk_type {
    DISK_PLAIN,  /* directories on the state file system: unbounded, or bounded by its project quota or qgroup */
    DISK_IMAGE,  /* a sparse ext4 image on a loop device */
};

struct disk {
    enum disk_type type;
    char *path; /* directory that holds "upper" and "work", or the image file */
};

/* Chooses by the file system of state_path and by what exists, and applies the limit (bytes; 0: none). Fiber.
 * `project` is an id of the instance's own. NOT_SUPPORTED: a limit that what exists cannot be given. */
int disk_prepare(struct storage *storage, const char *state_path, uint64_t limit, uint32_t project, struct disk *ret,
                 struct error *error);
/* Is there what disk_prepare made in an earlier start? */
bool disk_is_there(const char *state_path);
void disk_done(struct disk *disk);
/* In the container's mount namespace: the directory with upper and work appears at `target`. A loop device goes with
 * the mount. -ENXIO: no loop device is to be had. */
int disk_mount(const struct disk *disk, const char *target);
