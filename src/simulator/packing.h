// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/* Vector bin packing: how many equal bins hold items that never leave. All sums are exact; keys that the
 * published definitions compute in floating point are computed so, and ties go to the first of the items in
 * ascending order. */

#define PACKING_DIMENSIONS 8

struct packing {
    uint32_t capacity[PACKING_DIMENSIONS];
    unsigned dimensions;
    uint32_t (*items)[PACKING_DIMENSIONS];
    size_t count, room;
};

/* Rows of whole numbers from 0 to the capacity, a column per dimension and no header. BAD_INPUT. */
int packing_read(struct packing *packing, const char *path, struct error *error);
void packing_done(struct packing *packing);
#define _cleanup_packing_ _cleanup_(packing_done)

struct packing_policy {
    const char *name, *summary;
    /* Bins used; -ENOMEM. */
    int64_t (*pack)(const struct packing *packing);
};
extern const struct packing_policy packing_policies[];
extern const size_t packing_policies_count;

/* No policy can do with fewer: the largest sum of a dimension, in whole bins. */
uint64_t packing_bound(const struct packing *packing);
