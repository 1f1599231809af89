// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

#include "base/cleanup.h"

/* An array that may become larger than the memory: above ARRAY_IN_MEMORY it stands in a file without a name in $TMPDIR (else
 * /var/tmp), mapped, so that the kernel writes out what is not being used. Its room on the disk is taken before it is
 * written to: a full disk is an error here and no signal later. */

#define ARRAY_IN_MEMORY ((size_t) 32 << 20)

#define ARRAY_PLACE "$TMPDIR, else /var/tmp"

struct array {
    void *data;
    size_t size; /* bytes */
    int fd;      /* of the file, while size is above ARRAY_IN_MEMORY */
};

/* Makes it larger, to `size` bytes; what is new is 0. What it held stays, `data` may move. A struct of zeros is an empty array. -ENOMEM,
 * or negative errno of the file (-ENOSPC); the array is then as it was. */
int array_grow(struct array *array, size_t size);
void array_done(struct array *array);
#define _cleanup_array_ _cleanup_(array_done)
