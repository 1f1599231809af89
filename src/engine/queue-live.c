// SPDX-License-Identifier: GPL-2.0-or-later
/* What a queue needs that lives beside real instances, and a simulation does not: those that run already, requests that
 * change, giving way step by step, and other rules in the middle. */
#include <errno.h>
#include <string.h>

#include "engine/queue-internal.h"

struct demand queue_gift(const struct queue *queue, uint32_t handle, unsigned how) {
    struct demand demand = queue->wants[handle].demand;

    if (how & QUEUE_YIELD_SUSPEND)
        return demand;
    return how ? (struct demand){ .cpus = demand.cpus } : (struct demand){ 0 };
}

void queue_unask(struct queue *queue, uint32_t handle) {
    struct queue_entry *entry = &queue->entries[handle];

    queue->coming = demand_difference(queue->coming, queue_gift(queue, handle, entry->yielding));
    entry->yielding = 0;
}

void queue_refuse(struct queue *queue, uint32_t handle) {
    queue_unask(queue, handle);
    queue->entries[handle].yields = 0;
}

void queue_spare(struct queue *queue, uint32_t handle, unsigned ways) {
    queue->entries[handle].spared = (uint8_t) ways;
}

int64_t queue_yield_cost(const struct queue *queue, uint32_t handle, enum queue_yield way) {
    const struct queue_costs *costs = &queue->options.costs;
    double suspend = (double) costs->pause + costs->suspend * (double) queue->wants[handle].demand.memory;

    if (way == QUEUE_YIELD_PAUSE)
        return costs->pause;
    return suspend < (double) TIME_FOREVER ? (int64_t) suspend : TIME_FOREVER;
}

void queue_set_costs(struct queue *queue, const struct queue_costs *costs) {
    queue->options.costs = *costs;
}

uint32_t queue_asked_for(const struct queue *queue) {
    return queue->asked_for;
}

int queue_occupy(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle) {
    struct queue_entry *entry;
    uint32_t handle;
    int r = queue_admit(queue, request, now, &handle);

    if (r < 0)
        return r;
    entry = &queue->entries[handle];
    entry->state = QUEUE_RUNNING;
    entry->started = now;
    entry->expected_end = time_after(now, queue_left(queue, handle));
    r = queue_running_add(queue, handle);
    if (r < 0) {
        entry->state = QUEUE_ABSENT;
        queue->vacant[queue->vacant_count++] = handle;
        return r;
    }
    queue->free = demand_difference(queue->free, request->demand);
    queue->plan_lost = true;
    *ret_handle = handle;
    return 0;
}

static int change_running(struct queue *queue, uint32_t handle, const struct queue_request *request) {
    queue_unask(queue, handle);
    queue->free = demand_difference(demand_sum(queue->free, queue->wants[handle].demand), request->demand);
    queue->wants[handle].demand = request->demand;
    queue->entries[handle].yields = (uint8_t) request->yields;
    return queue->wants[handle].time == request->estimate ? 0 : queue_extend(queue, handle, request->estimate, 0);
}

int queue_change(struct queue *queue, uint32_t handle, const struct queue_request *request, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];
    struct demand demand = request->demand;
    bool changes = queue->options.policy->changes && queue->scored_at > INT64_MIN;

    if (order_reserve(&queue->waiting, 0) < 0)
        return -ENOMEM;
    queue->plan_lost = true;
    if (entry->state == QUEUE_WAITING)
        order_remove(&queue->waiting, entry->key, entry->rank);
    entry->priority = queue_priority(request);
    entry->weight = (float) (request->weight > 0 ? request->weight : queue->options.parameters.weight);
    entry->urgency = (float) request->urgency;
    if (entry->state == QUEUE_RUNNING)
        return change_running(queue, handle, request);
    if (entry->held) { /* what is kept follows at once */
        queue->free.memory += entry->held - demand.memory;
        queue->held += demand.memory - entry->held;
        entry->held = demand.memory;
        demand.memory = 0;
    }
    entry->yields = (uint8_t) request->yields;
    queue->wants[handle] = (struct order_least){ demand, request->estimate < 1 ? 1 : request->estimate };
    queue_weigh(queue, handle, now);
    entry->key = queue_key(queue, handle, changes ? queue->scored_at : now);
    return entry->state == QUEUE_BARRED ? 0 : queue_join(queue, handle);
}

void queue_bar(struct queue *queue, uint32_t handle) {
    struct queue_entry *entry = &queue->entries[handle];

    order_remove(&queue->waiting, entry->key, entry->rank);
    entry->state = QUEUE_BARRED;
    entry->planned = TIME_FOREVER;
    queue->barred_count++;
    queue->plan_lost = true;
}

int queue_unbar(struct queue *queue) {
    bool changes = queue->options.policy->changes && queue->scored_at > INT64_MIN;

    for (uint32_t handle = 0; queue->barred_count > 0 && handle < queue->entry_count; handle++) {
        struct queue_entry *entry = &queue->entries[handle];
        if (entry->state != QUEUE_BARRED)
            continue;
        if (order_reserve(&queue->waiting, 0) < 0)
            return -ENOMEM;
        if (changes) /* else its key is as good as when it came */
            entry->key = queue_key(queue, handle, queue->scored_at);
        queue->barred_count--;
        queue->plan_lost = true;
        if (queue_join(queue, handle) < 0)
            return -ENOMEM;
    }
    return 0;
}

size_t queue_barred(const struct queue *queue) {
    return queue->barred_count;
}

size_t queue_handles(const struct queue *queue) {
    return queue->entry_count;
}

int queue_yield(struct queue *queue, uint32_t handle, enum queue_yield how, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];
    struct demand *demand = &queue->wants[handle].demand;
    int r;

    if (order_reserve(&queue->waiting, 0) < 0 || usage_reserve(&queue->usage) < 0)
        return -ENOMEM;
    if (how == QUEUE_YIELD_PAUSE) {
        queue_unask(queue, handle);
        entry->held = demand->memory;
        queue->held += entry->held;
        queue->free.memory -= entry->held;
        r = queue_stop(queue, handle, now); /* gives all of it back */
    } else {
        r = queue_stop(queue, handle, now);
    }
    queue->plan_lost = true;
    return r;
}

static void key_anew(struct queue *queue, uint32_t handle, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];

    entry->rank = queue->options.policy->by_arrival ? queue->sequence++ : entry->id;
    queue_weigh(queue, handle, now);
    entry->key = queue_key(queue, handle, now);
}

static int order_anew(struct queue *queue, int64_t now) {
    struct order_position position = { 0 };
    const struct order_slot *slot;
    struct order_slot *slots = queue_scratch(queue, (queue->waiting.count + 1) * sizeof(*slots));
    size_t count = 0;

    if (!slots)
        return -ENOMEM;
    for (; (slot = order_at(&queue->waiting, &position)); position.slot++) {
        struct queue_entry *entry = &queue->entries[slot->handle];
        key_anew(queue, slot->handle, now);
        slots[count++] = (struct order_slot){ entry->key, entry->rank, slot->handle };
    }
    for (uint32_t handle = 0; queue->barred_count > 0 && handle < queue->entry_count; handle++)
        if (queue->entries[handle].state == QUEUE_BARRED)
            key_anew(queue, handle, now);
    for (size_t i = 0; i < queue->running_count; i++) {
        struct queue_entry *entry = &queue->entries[queue->running[i].handle];
        entry->rank = queue->options.policy->by_arrival ? queue->sequence++ : entry->id;
    }
    return order_rebuild(&queue->waiting, slots, queue->wants, count);
}

int queue_configure(struct queue *queue, const struct queue_options *options, int64_t now) {
    struct demand taken = demand_difference(queue->options.capacity, queue->free);

    if (!queue_scratch(queue, (queue->waiting.count + 1) * sizeof(struct order_slot)) ||
        order_reserve(&queue->waiting, queue->waiting.count) < 0)
        return -ENOMEM;
    queue->options = *options;
    queue->free = demand_difference(options->capacity, taken);
    queue->usage.half_life = options->parameters.decay * (double) options->second;
    queue->scored_at = options->policy->changes ? now : INT64_MIN;
    queue->plan_lost = true;
    for (size_t i = 0; i < queue->running_count; i++)
        queue_unask(queue, queue->running[i].handle);
    return order_anew(queue, now);
}

bool queue_next_waiting(const struct queue *queue, struct queue_cursor *cursor, uint32_t *ret_handle) {
    struct order_position position = { cursor->block, cursor->slot };
    const struct order_slot *slot = order_at(&queue->waiting, &position);

    if (!slot)
        return false;
    *ret_handle = slot->handle;
    *cursor = (struct queue_cursor){ position.block, position.slot + 1 };
    return true;
}

bool queue_running_at(const struct queue *queue, size_t index, uint32_t *ret_handle) {
    if (index >= queue->running_count)
        return false;
    *ret_handle = queue->running[index].handle;
    return true;
}

size_t queue_position(const struct queue *queue, uint32_t handle) {
    return order_rank(&queue->waiting, queue->entries[handle].key, queue->entries[handle].rank) + 1;
}

struct demand queue_demand(const struct queue *queue, uint32_t handle) {
    return queue->wants[handle].demand;
}

int64_t queue_estimate(const struct queue *queue, uint32_t handle) {
    return queue->wants[handle].time;
}
