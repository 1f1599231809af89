// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/copy.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "engine/copy-internal.h"

/* Entries of at most so many, in a multiple of what the queue is aligned to. */
static size_t entries_size(const struct engine *engine, size_t most) {
    size_t waiting = queue_waiting(engine->queue), barred = queue_barred(engine->queue);
    size_t count = queue_running(engine->queue) + (most < waiting ? most : waiting + barred);

    return (count * sizeof(struct engine_entry) + QUEUE_IMAGE_ALIGN - 1) / QUEUE_IMAGE_ALIGN * QUEUE_IMAGE_ALIGN;
}

size_t engine_copy_size(const struct engine *engine, size_t most) {
    return entries_size(engine, most) + queue_image_size(engine->queue, most);
}

/* It is written to at once: the first write to each page is what takes time. */
int engine_copy_prepare(size_t size, struct engine_copy **ret) {
    struct engine_copy *copy = aligned_alloc(QUEUE_IMAGE_ALIGN, (sizeof(*copy) + size + QUEUE_IMAGE_ALIGN - 1) / QUEUE_IMAGE_ALIGN * QUEUE_IMAGE_ALIGN);

    if (!copy)
        return -ENOMEM;
    memset(copy, 0, sizeof(*copy) + size);
    copy->size = size;
    *ret = copy;
    return 0;
}

static int copy_place(const struct engine *engine, struct engine_place *ret) {
    int r = engine->place.traits ? list_copy(engine->place.traits, &ret->traits) : 0;

    return r >= 0 && engine->place.taints ? list_copy(engine->place.taints, &ret->taints) : r;
}

/* Who is in the queue's image, as entries of the copy's own. */
static void copy_entries(struct engine_copy *copy) {
    struct queue *queue = copy->engine.queue;
    size_t handles = queue_handles(queue);

    for (uint32_t handle = 0; handle < handles; handle++) {
        struct engine_entry *entry = &copy->entries[copy->entry_count];
        if (queue_entry(queue, handle)->state == QUEUE_ABSENT)
            continue;
        entry_share(engine_entry_at(&copy->engine, handle), entry);
        entry->handle = handle;
        queue_set_userdata(queue, handle, entry);
        copy->entry_count++;
    }
}

int engine_copy_take(struct engine_copy *copy, const struct engine *engine, size_t most) {
    size_t entries = entries_size(engine, most);

    if (engine_copy_size(engine, most) > copy->size)
        return -ENOBUFS;
    copy->engine = *engine;
    copy->engine.predictor = NULL;
    copy->engine.entries = NULL;
    copy->engine.ledger = NULL;
    copy->engine.pending = NULL;
    copy->engine.pending_first = copy->engine.pending_count = copy->engine.pending_room = 0;
    copy->engine.place = (struct engine_place){ 0 };
    copy->engine.queue = queue_image(engine->queue, most, copy->memory + entries);
    copy->entries = (struct engine_entry *) (void *) copy->memory;
    copy_entries(copy);
    return copy_place(engine, &copy->engine.place);
}

int engine_copy_new(const struct engine *engine, size_t most, struct engine_copy **ret) {
    _cleanup_copy_ struct engine_copy *copy = NULL;
    int r = engine_copy_prepare(engine_copy_size(engine, most), &copy);

    if (r >= 0)
        r = engine_copy_take(copy, engine, most);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(copy);
    return 0;
}

void engine_copy_free(struct engine_copy *copy) {
    if (!copy)
        return;
    for (size_t i = 0; i < copy->entry_count; i++)
        entry_done(&copy->entries[i]);
    list_free(copy->engine.place.traits);
    list_free(copy->engine.place.taints);
    free(copy);
}

const struct engine *engine_copy_view(const struct engine_copy *copy) {
    return &copy->engine;
}
