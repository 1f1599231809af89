// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Shares a host's memory among those who can do with less for a while: guests with a balloon, and containers whose page
 * cache can be dropped. Bytes. While the host has what it keeps for itself nobody is asked for anything. */

#define MEMORY_HEADROOM (UINT64_C(32) << 20) /* beyond what is used, and an eighth of that */

struct memory_item {
    uint64_t held;     /* what it takes of the host now */
    uint64_t used;     /* what it could not do without now */
    uint64_t floor;    /* its reservation */
    uint64_t most;     /* what it has while memory is not short */
    uint32_t priority; /* C, thousandths */
    uint32_t weight;   /* S, thousandths */
    uint64_t granted;  /* the answer: whole MiB, unless it is `most` */
};

/* What it is never brought below: used + used / 8 + MEMORY_HEADROOM, within [floor, most]. */
uint64_t memory_need(const struct memory_item *item);

/* Capacity is what they hold and what the host has left beyond its reserve: sum of held + available - reserve. It does not
 * change as they give back, so that what follows from it does not swing. Shared by allocator_share: R is `most`, the floor
 * the need. Where needs exceed the capacity each gets its need. -ENOMEM. */
int memory_share(uint64_t available, uint64_t reserve, struct memory_item *items, size_t count);

/* Is memory short now? It begins when less is left than the host keeps for itself, and ends when half of what was `taken`
 * from all could be given back without its beginning again. */
bool memory_is_short(bool before, uint64_t available, uint64_t reserve, uint64_t taken);
