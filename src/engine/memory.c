// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/memory.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "engine/allocator.h"

#define MIB (UINT64_C(1) << 20)

uint64_t memory_need(const struct memory_item *item) {
    uint64_t need = item->used + item->used / 8 + MEMORY_HEADROOM;

    need = need < item->floor ? item->floor : need;
    return need > item->most ? item->most : need;
}

static uint64_t whole_mib(uint64_t bytes) {
    return (bytes + MIB - 1) / MIB;
}

static void grant_needs(struct memory_item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t need = whole_mib(memory_need(&items[i])) * MIB;
        items[i].granted = need < items[i].most ? need : items[i].most;
    }
}

int memory_share(uint64_t available, uint64_t reserve, struct memory_item *items, size_t count) {
    _cleanup_free_ struct allocation *shares = calloc(count + 1, sizeof(*shares));
    uint64_t there = available;
    int r;

    if (!shares)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        there += items[i].held;
        shares[i] = (struct allocation){
            .requested = whole_mib(items[i].most),
            .reservation = whole_mib(memory_need(&items[i])),
            .limit = whole_mib(items[i].most),
            .priority = items[i].priority,
            .weight = items[i].weight,
        };
    }
    r = allocator_share(there > reserve ? (there - reserve) / MIB : 0, shares, count, NULL);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        grant_needs(items, count);
    for (size_t i = 0; r >= 0 && i < count; i++)
        items[i].granted = shares[i].granted * MIB < items[i].most ? shares[i].granted * MIB : items[i].most;
    return 0;
}

bool memory_is_short(bool before, uint64_t available, uint64_t reserve, uint64_t taken) {
    return available < reserve + (before ? taken / 2 : 0);
}
