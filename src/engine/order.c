// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/order.h"

#include <errno.h>
#include <string.h>

static bool is_before(int64_t key, uint64_t id, const struct order_slot *slot) {
    return key != slot->key ? key < slot->key : id < slot->id;
}

#define ORDER_FILL (ORDER_BLOCK * 3 / 4) /* of a block that is made anew */
#define SPARE_MOST 1

static size_t blocks_for(size_t count) {
    return (count + ORDER_FILL - 1) / ORDER_FILL;
}

static void trim_spares(struct order *order, size_t most) {
    while (order->spare_count > most)
        free(order->blocks[order->block_count + --order->spare_count]);
}

void order_clear(struct order *order) {
    order->spare_count += order->block_count;
    order->block_count = order->count = 0;
    trim_spares(order, 0);
}

void order_done(struct order *order) {
    order_clear(order);
    free(order->blocks);
    *order = (struct order){ 0 };
}

int order_reserve(struct order *order, size_t count) {
    size_t wanted = blocks_for(count) > order->block_count ? blocks_for(count) : order->block_count + 1;

    if (wanted > order->block_room) {
        size_t room = wanted > 8 ? wanted * 2 : 16;
        struct order_block **blocks = reallocarray(order->blocks, room, sizeof(*blocks));
        if (!blocks)
            return -ENOMEM;
        order->blocks = blocks;
        order->block_room = room;
    }
    while (order->block_count + order->spare_count < wanted) {
        struct order_block *block = malloc(sizeof(*block));
        if (!block)
            return -ENOMEM;
        order->blocks[order->block_count + order->spare_count++] = block;
    }
    return 0;
}

static int insert_block(struct order *order, size_t at) {
    struct order_block *block;

    if (order->spare_count == 0 && order_reserve(order, 0) < 0)
        return -ENOMEM;
    block = order->blocks[order->block_count];
    block->count = 0;
    block->least = (struct order_least){ { UINT64_MAX, UINT64_MAX }, INT64_MAX };
    memmove(order->blocks + at + 1, order->blocks + at, (order->block_count - at) * sizeof(*order->blocks));
    order->blocks[at] = block;
    order->block_count++;
    order->spare_count--;
    return 0;
}

static void lower(struct order_least *least, struct demand demand, int64_t time) {
    if (demand.cpus < least->demand.cpus)
        least->demand.cpus = demand.cpus;
    if (demand.memory < least->demand.memory)
        least->demand.memory = demand.memory;
    if (time < least->time)
        least->time = time;
}

/* The last block whose first slot is not behind (key, id); the first block if there is none. */
static size_t block_of(const struct order *order, int64_t key, uint64_t id) {
    size_t low = 0, high = order->block_count;

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (is_before(key, id, &order->blocks[middle]->slots[0]))
            high = middle;
        else
            low = middle;
    }
    return low;
}

/* The first slot in the block that is not before (key, id). */
static size_t slot_of(const struct order_block *block, int64_t key, uint64_t id) {
    size_t low = 0, high = block->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct order_slot *slot = &block->slots[middle];
        if (slot->key < key || (slot->key == key && slot->id < id))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int order_add(struct order *order, const struct order_slot *slot, struct demand demand, int64_t time) {
    struct order_block *block;
    size_t at, place;

    if (order->block_count == 0 && insert_block(order, 0) < 0)
        return -ENOMEM;
    at = block_of(order, slot->key, slot->id);
    if (order->blocks[at]->count == ORDER_BLOCK) {
        struct order_block *full = order->blocks[at];
        if (insert_block(order, at + 1) < 0)
            return -ENOMEM;
        block = order->blocks[at + 1];
        block->count = ORDER_BLOCK / 2;
        full->count -= block->count;
        memcpy(block->slots, full->slots + full->count, block->count * sizeof(*block->slots));
        block->least = full->least;
        at = block_of(order, slot->key, slot->id);
    }
    block = order->blocks[at];
    place = slot_of(block, slot->key, slot->id);
    memmove(block->slots + place + 1, block->slots + place, (block->count - place) * sizeof(*block->slots));
    block->slots[place] = *slot;
    block->count++;
    lower(&block->least, demand, time);
    order->count++;
    return 0;
}

void order_remove(struct order *order, int64_t key, uint64_t id) {
    size_t at = block_of(order, key, id);
    struct order_block *block = order->blocks[at];
    size_t place = slot_of(block, key, id);

    memmove(block->slots + place, block->slots + place + 1, (block->count - place - 1) * sizeof(*block->slots));
    block->count--;
    order->count--;
    if (block->count > 0)
        return;
    memmove(order->blocks + at, order->blocks + at + 1, (order->block_count - at - 1) * sizeof(*order->blocks));
    order->blocks[--order->block_count] = block;
    order->spare_count++;
    trim_spares(order, SPARE_MOST);
}

/* Sorts by insertion, as long as that is cheap: what was in order lately mostly still is. False: it is not. */
static bool sort_gently(struct order_slot *slots, size_t count) {
    size_t moves = 0;

    for (size_t i = 1; i < count; i++) {
        struct order_slot slot = slots[i];
        size_t at = i;
        for (; at > 0 && is_before(slot.key, slot.id, &slots[at - 1]); at--)
            slots[at] = slots[at - 1];
        slots[at] = slot;
        moves += i - at;
        if (moves > 16 * count)
            return false;
    }
    return true;
}

static int compare_slots(const void *a, const void *b) {
    const struct order_slot *left = a, *right = b;

    return is_before(left->key, left->id, right) ? -1 : is_before(right->key, right->id, left);
}

int order_rebuild(struct order *order, struct order_slot *slots, const struct order_least *least, size_t count) {
    const size_t fill = ORDER_FILL, needed = blocks_for(count);

    if (order_reserve(order, count) < 0)
        return -ENOMEM;
    if (!sort_gently(slots, count))
        qsort(slots, count, sizeof(*slots), compare_slots);
    while (order->block_count > needed) {
        order->block_count--;
        order->spare_count++;
    }
    trim_spares(order, SPARE_MOST + needed - order->block_count);
    order->count = 0;
    for (size_t b = 0; b < needed; b++) {
        if (b == order->block_count && insert_block(order, b) < 0)
            return -ENOMEM;
        struct order_block *block = order->blocks[b];
        block->count = count - order->count < fill ? count - order->count : fill;
        block->least = (struct order_least){ { UINT64_MAX, UINT64_MAX }, INT64_MAX };
        memcpy(block->slots, slots + order->count, block->count * sizeof(*slots));
        for (size_t s = 0; s < block->count; s++)
            lower(&block->least, least[block->slots[s].handle].demand, least[block->slots[s].handle].time);
        order->count += block->count;
    }
    return 0;
}

const struct order_slot *order_at(const struct order *order, struct order_position *position) {
    while (position->block < order->block_count && position->slot >= order->blocks[position->block]->count) {
        position->block++;
        position->slot = 0;
    }
    return position->block < order->block_count ? &order->blocks[position->block]->slots[position->slot] : NULL;
}

size_t order_rank(const struct order *order, int64_t key, uint64_t id) {
    size_t rank = 0, at = order->count ? block_of(order, key, id) : 0;

    for (size_t i = 0; i < at; i++)
        rank += order->blocks[i]->count;
    return order->count ? rank + slot_of(order->blocks[at], key, id) : 0;
}
