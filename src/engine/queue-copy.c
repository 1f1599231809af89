// SPDX-License-Identifier: GPL-2.0-or-later
/* Copies to try things on, and images: copies in one piece of memory that was got before, which are quick to make since nothing is
 * allocated, and are only looked at or copied. */
#include <errno.h>
#include <string.h>

#include "engine/queue-internal.h"

static void *copy_of(const void *source, size_t used, size_t room) {
    void *copy = malloc(room ? room : 1);

    if (copy && used)
        memcpy(copy, source, used);
    return copy;
}

static int copy_order(const struct order *source, struct order *target) {
    *target = (struct order){ 0 };
    target->blocks = calloc(source->block_count + 1, sizeof(*target->blocks));
    if (!target->blocks)
        return -ENOMEM;
    target->block_room = source->block_count + 1;
    for (; target->block_count < source->block_count; target->block_count++) {
        struct order_block *block = copy_of(source->blocks[target->block_count], sizeof(*block), sizeof(*block));
        if (!block)
            return -ENOMEM;
        target->blocks[target->block_count] = block;
    }
    target->count = source->count;
    return 0;
}

int queue_copy(const struct queue *queue, struct queue **ret) {
    _cleanup_queue_ struct queue *copy = malloc(sizeof(*copy));
    size_t entries = queue->entry_count, room = queue->entry_room, steps = queue->plan.room * sizeof(*queue->plan.steps);

    if (!copy)
        return -ENOMEM;
    *copy = *queue;
    copy->scratch = NULL;
    copy->scratch_size = 0;
    copy->entries = copy_of(queue->entries, entries * sizeof(*copy->entries), room * sizeof(*copy->entries));
    copy->wants = copy_of(queue->wants, entries * sizeof(*copy->wants), room * sizeof(*copy->wants));
    copy->vacant = copy_of(queue->vacant, queue->vacant_count * sizeof(*copy->vacant), room * sizeof(*copy->vacant));
    copy->running = copy_of(queue->running, queue->running_count * sizeof(*copy->running),
                            queue->running_room * sizeof(*copy->running));
    copy->usage.accounts = copy_of(queue->usage.accounts, queue->usage.size * sizeof(*copy->usage.accounts),
                                   queue->usage.size * sizeof(*copy->usage.accounts));
    copy->plan.steps = copy_of(queue->plan.steps, steps, steps);
    if (copy_order(&queue->waiting, &copy->waiting) < 0 || !copy->entries || !copy->wants || !copy->vacant ||
        !copy->running || !copy->usage.accounts || !copy->plan.steps)
        return -ENOMEM;
    *ret = STEAL_PTR(copy);
    return 0;
}

/* --- images ------------------------------------------------------------------------------------------------------------- */

/* One part of an image after the other; without memory they are only counted. */
struct shelf {
    char *memory;
    size_t used;
};

static void *place(struct shelf *shelf, size_t size) {
    void *part = shelf->memory ? shelf->memory + shelf->used : NULL;

    shelf->used += (size + QUEUE_IMAGE_ALIGN - 1) / QUEUE_IMAGE_ALIGN * QUEUE_IMAGE_ALIGN;
    return part;
}

/* How many blocks of the order hold the first so many. */
static size_t blocks_of(const struct order *order, size_t count) {
    size_t blocks = 0, held = 0;

    while (blocks < order->block_count && held < count)
        held += order->blocks[blocks++]->count;
    return blocks;
}

/* What of the queue is in the image, and where. */
static void lay_out(const struct queue *queue, size_t waiting, bool all, struct shelf *shelf, struct queue *image) {
    size_t count = all ? queue->entry_count : queue->running_count + waiting;

    image->entry_count = image->entry_room = count;
    image->running_count = image->running_room = queue->running_count;
    image->vacant_count = image->vacant_room = all ? queue->vacant_count : 0;
    image->usage.size = all ? queue->usage.size : 0;
    image->plan.room = image->plan.count = all ? queue->plan.count : 0;
    image->waiting = (struct order){ .count = waiting, .block_count = blocks_of(&queue->waiting, waiting) };
    image->waiting.block_room = image->waiting.block_count;
    image->entries = place(shelf, count * sizeof(*image->entries));
    image->wants = place(shelf, count * sizeof(*image->wants));
    image->running = place(shelf, image->running_count * sizeof(*image->running));
    image->vacant = place(shelf, image->vacant_count * sizeof(*image->vacant));
    image->usage.accounts = place(shelf, image->usage.size * sizeof(*image->usage.accounts));
    image->plan.steps = place(shelf, image->plan.count * sizeof(*image->plan.steps));
    image->waiting.blocks = place(shelf, image->waiting.block_count * sizeof(*image->waiting.blocks));
    for (size_t i = 0; i < image->waiting.block_count; i++) {
        struct order_block *block = place(shelf, sizeof(*block));
        if (block)
            image->waiting.blocks[i] = block;
    }
}

static void copy_part(void *target, const void *source, size_t size) {
    if (size > 0)
        memcpy(target, source, size);
}

static void image_all(const struct queue *queue, struct queue *image) {
    copy_part(image->entries, queue->entries, image->entry_count * sizeof(*image->entries));
    copy_part(image->wants, queue->wants, image->entry_count * sizeof(*image->wants));
    copy_part(image->running, queue->running, image->running_count * sizeof(*image->running));
    copy_part(image->vacant, queue->vacant, image->vacant_count * sizeof(*image->vacant));
    copy_part(image->usage.accounts, queue->usage.accounts, image->usage.size * sizeof(*image->usage.accounts));
    copy_part(image->plan.steps, queue->plan.steps, image->plan.count * sizeof(*image->plan.steps));
}

static uint32_t image_one(const struct queue *queue, uint32_t handle, struct queue *image, uint32_t as) {
    image->entries[as] = queue->entries[handle];
    image->wants[as] = queue->wants[handle];
    return as;
}

/* Those that run, then the first of those that wait, with handles of their own. */
static void image_first(const struct queue *queue, struct queue *image) {
    uint32_t next = 0;
    size_t left = image->waiting.count;

    for (size_t i = 0; i < queue->running_count; i++)
        image->running[i] = (struct running_slot){ queue->running[i].end,
                                                   image_one(queue, queue->running[i].handle, image, next++) };
    for (size_t i = 0; i < image->waiting.block_count; i++) {
        struct order_block *block = image->waiting.blocks[i];
        block->count = block->count < left ? block->count : left;
        left -= block->count;
        for (size_t j = 0; j < block->count; j++)
            block->slots[j].handle = image_one(queue, block->slots[j].handle, image, next++);
    }
    image->barred_count = 0;
    image->plan_lost = true;
    image->usage.count = 0;
    image->asked_for = UINT32_MAX;
}

size_t queue_image_size(const struct queue *queue, size_t most) {
    bool all = most >= queue->waiting.count;
    struct shelf shelf = { 0 };
    struct queue image;

    (void) place(&shelf, sizeof(image));
    lay_out(queue, all ? queue->waiting.count : most, all, &shelf, &image);
    return shelf.used;
}

struct queue *queue_image(const struct queue *queue, size_t most, void *memory) {
    bool all = most >= queue->waiting.count;
    struct shelf shelf = { .memory = memory };
    struct queue *image = memory;

    if (!image) /* place() only counts then, and nobody asks for that */
        return NULL;
    (void) place(&shelf, sizeof(*image));
    *image = *queue;
    image->scratch = NULL;
    image->scratch_size = 0;
    lay_out(queue, all ? queue->waiting.count : most, all, &shelf, image);
    for (size_t i = 0; i < image->waiting.block_count; i++)
        *image->waiting.blocks[i] = *queue->waiting.blocks[i];
    if (all)
        image_all(queue, image);
    else
        image_first(queue, image);
    return image;
}

void queue_set_userdata(struct queue *image, uint32_t handle, void *userdata) {
    image->entries[handle].userdata = userdata;
}

bool queue_is_same(const struct queue *queue, const struct queue *copy, uint32_t handle) {
    return handle < queue->entry_count && queue->entries[handle].state != QUEUE_ABSENT &&
           queue->entries[handle].id == copy->entries[handle].id;
}
