// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/profile.h"

/* A sorted list of numbered things, cheap to change at 100,000 of them: blocks of some hundred slots, each with the least
 * demand and time in it, so that a search for what fits passes over whole blocks. */

#define ORDER_BLOCK 512

struct order_slot {
    int64_t key;     /* first this, */
    uint64_t id;     /* then this */
    uint32_t handle;
};

struct order_least {
    struct demand demand;
    int64_t time;
};

struct order_block {
    size_t count;
    struct order_least least; /* never above what is in the block; it may be below after something left */
    struct order_slot slots[ORDER_BLOCK];
};

struct order {
    struct order_block **blocks; /* those in use, then spare ones */
    size_t block_count, spare_count, block_room, count;
};

struct order_position {
    size_t block, slot;
};

void order_done(struct order *order);
void order_clear(struct order *order);
/* Takes what memory may be needed for one more slot, and for `count` slots put anew: those calls then cannot fail. -ENOMEM. */
int order_reserve(struct order *order, size_t count);
/* -ENOMEM. */
int order_add(struct order *order, const struct order_slot *slot, struct demand demand, int64_t time);
/* Must be there, with the key it was added with. */
void order_remove(struct order *order, int64_t key, uint64_t id);
/* Puts all slots anew, sorted; `least` are their demands and times. -ENOMEM. */
int order_rebuild(struct order *order, struct order_slot *slots, const struct order_least *least, size_t count);
/* The slot at a position, which moves on past ends of blocks; NULL at the end. */
const struct order_slot *order_at(const struct order *order, struct order_position *position);
/* How many come before it. */
size_t order_rank(const struct order *order, int64_t key, uint64_t id);
