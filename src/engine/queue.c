// SPDX-License-Identifier: GPL-2.0-or-later
/* Entries are numbered by handles. A waiting one is in `waiting`, sorted by the key that its policy gave it when it came,
 * or, for policies whose order changes with time, when a pass last scored all of them; a running one is in `running`, sorted
 * by its expected end. `free` is the capacity less what runs. */
#include "engine/queue.h"

#include <errno.h>
#include <string.h>

#include "engine/fixed.h"
#include "engine/queue-internal.h"

#define SCRATCH_KEPT (UINT64_C(256) << 10) /* bytes, between passes */

const char *const backfill_names[BACKFILL_COUNT + 1] = { "none", "easy", "easy-sjbf", "conservative", "greedy", NULL };

int queue_new(const struct queue_options *options, struct queue **ret) {
    _cleanup_queue_ struct queue *queue = calloc(1, sizeof(*queue));

    if (!queue)
        return -ENOMEM;
    queue->options = *options;
    queue->free = options->capacity;
    queue->scored_at = INT64_MIN;
    queue->usage.half_life = options->parameters.decay * (double) options->second;
    if (profile_start(&queue->plan, 0, options->capacity) < 0)
        return -ENOMEM;
    queue->plan_lost = true;
    queue->asked_for = UINT32_MAX;
    *ret = STEAL_PTR(queue);
    return 0;
}

void queue_free(struct queue *queue) {
    if (!queue)
        return;
    free(queue->entries);
    free(queue->wants);
    free(queue->vacant);
    free(queue->running);
    free(queue->scratch);
    order_done(&queue->waiting);
    usage_done(&queue->usage);
    profile_done(&queue->plan);
    free(queue);
}

void *queue_scratch(struct queue *queue, size_t size) {
    if (size > queue->scratch_size) {
        size_t room = size + size / 4 + 256;
        void *scratch = realloc(queue->scratch, room);
        if (!scratch)
            return NULL;
        queue->scratch = scratch;
        queue->scratch_size = room;
    }
    return queue->scratch;
}

void queue_scratch_shrink(struct queue *queue) {
    if (queue->scratch_size <= SCRATCH_KEPT)
        return;
    free(queue->scratch);
    queue->scratch = NULL;
    queue->scratch_size = 0;
}

/* Room for one more of everything that a waiting entry needs, so that later steps cannot fail halfway. */
static int reserve_entry(struct queue *queue) {
    size_t room;

    if (order_reserve(&queue->waiting, 0) < 0)
        return -ENOMEM;
    if (queue->vacant_count > 0 || queue->entry_count < queue->entry_room)
        return 0;
    room = queue->entry_room + queue->entry_room / (queue->entry_room < 4096 ? 2 : 32) + 64;
    struct queue_entry *entries = reallocarray(queue->entries, room, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    queue->entries = entries;
    struct order_least *wants = reallocarray(queue->wants, room, sizeof(*wants));
    if (!wants)
        return -ENOMEM;
    queue->wants = wants;
    uint32_t *vacant = reallocarray(queue->vacant, room, sizeof(*vacant));
    if (!vacant)
        return -ENOMEM;
    queue->vacant = vacant;
    queue->entry_room = room;
    return 0;
}

/* Keys of what has no end lie between those of the rest and those of what waited beyond the alarm (below -9e11, policy.c). */
static int64_t tier_of(int64_t key, bool service, bool alarms) {
    int64_t front = fixed_key(-3.3e11), most = fixed_key(-1e11);
    bool alarmed = alarms && policy_is_alarm(key);

    if (service)
        return alarmed ? key : front + key / 2048;
    return key < most && !alarmed ? most : key;
}

void queue_input(const struct queue *queue, uint32_t handle, int64_t now, struct policy_input *ret) {
    const struct queue_entry *entry = &queue->entries[handle];
    const struct queue_options *options = &queue->options;

    *ret = (struct policy_input){
        .now = now,
        .submitted = entry->submitted,
        .estimate = queue->wants[handle].time,
        .done = entry->done + (entry->state == QUEUE_RUNNING ? now - entry->started : 0),
        .demand = queue->wants[handle].demand,
        .capacity = options->capacity,
        .size = (double) queue->wants[handle].demand.cpus / (options->processor > 0 ? options->processor : 1),
        .priority = entry->priority,
        .tag = entry->tag,
        .usage = options->policy->uses_account ? usage_of(&queue->usage, entry->owner, now) : 0,
        .second = options->second,
        .urgency = entry->urgency,
        .constant = entry->constant,
        .drain = queue->drain,
    };
}

void queue_weigh(struct queue *queue, uint32_t handle, int64_t now) {
    const struct policy *policy = queue->options.policy;
    struct policy_input input;

    if (!policy->constant)
        return;
    queue_input(queue, handle, now, &input);
    queue->entries[handle].constant = policy->constant(&queue->options.parameters, &input);
}

int64_t queue_key(const struct queue *queue, uint32_t handle, int64_t now) {
    const struct queue_options *options = &queue->options;
    struct policy_input input;
    int64_t key;

    queue_input(queue, handle, now, &input);
    key = policy_key(options->policy, &options->parameters, &input);
    if (!options->services_first)
        return key;
    return tier_of(key, input.estimate >= TIME_FOREVER, options->policy->alarms);
}

int queue_join(struct queue *queue, uint32_t handle) {
    struct queue_entry *entry = &queue->entries[handle];
    struct order_slot slot = { entry->key, entry->rank, handle };

    entry->state = QUEUE_WAITING;
    return order_add(&queue->waiting, &slot, queue->wants[handle].demand, queue->wants[handle].time);
}

int32_t queue_priority(const struct queue_request *request) {
    if (request->priority > INT32_MAX || request->priority < INT32_MIN)
        return request->priority > 0 ? INT32_MAX : INT32_MIN;
    return (int32_t) request->priority;
}

int queue_admit(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle) {
    uint32_t handle;

    if (reserve_entry(queue) < 0)
        return -ENOMEM;
    handle = queue->vacant_count > 0 ? queue->vacant[--queue->vacant_count] : (uint32_t) queue->entry_count++;
    queue->wants[handle] = (struct order_least){ request->demand, request->estimate < 1 ? 1 : request->estimate };
    double weight = request->weight > 0 ? request->weight : queue->options.parameters.weight;
    queue->entries[handle] = (struct queue_entry){
        .id = request->id,
        .owner = request->owner,
        .rank = queue->options.policy->by_arrival ? queue->sequence++ : request->id,
        .submitted = request->submitted,
        .expected_end = TIME_FOREVER,
        .priority = queue_priority(request),
        .planned = TIME_FOREVER,
        .weight = (float) weight,
        .urgency = (float) request->urgency,
        .tag = policy_next_tag(queue->virtual_time, queue->options.parameters.quantum, weight),
        .done = request->done,
        .yields = (uint8_t) request->yields,
        .userdata = request->userdata,
    };
    queue_weigh(queue, handle, now);
    *ret_handle = handle;
    return 0;
}

int queue_submit(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle) {
    bool changes = queue->options.policy->changes && queue->scored_at > INT64_MIN;
    uint32_t handle;
    int r;

    if (!demand_fits(request->demand, queue->options.capacity))
        return -ENOSPC;
    r = queue_admit(queue, request, now, &handle);
    if (r < 0)
        return r;
    queue->entries[handle].key = queue_key(queue, handle, changes ? queue->scored_at : now);
    r = queue_join(queue, handle);
    if (r < 0) {
        queue->entries[handle].state = QUEUE_ABSENT;
        queue->vacant[queue->vacant_count++] = handle;
        return r;
    }
    if (queue->options.backfill == BACKFILL_CONSERVATIVE && !queue->plan_lost &&
        backfill_plan_one(queue, handle, now) < 0)
        queue->plan_lost = true;
    *ret_handle = handle;
    return 0;
}

static size_t running_place(const struct queue *queue, int64_t end, uint32_t handle) {
    size_t low = 0, high = queue->running_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct running_slot *slot = &queue->running[middle];
        if (slot->end < end || (slot->end == end && slot->handle < handle))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int running_reserve(struct queue *queue) {
    size_t room = queue->running_room ? queue->running_room * 2 : 64;
    struct running_slot *running;

    if (queue->running_count < queue->running_room)
        return 0;
    running = reallocarray(queue->running, room, sizeof(*running));
    if (!running)
        return -ENOMEM;
    queue->running = running;
    queue->running_room = room;
    return 0;
}

int queue_running_add(struct queue *queue, uint32_t handle) {
    int64_t end = queue->entries[handle].expected_end;

    if (running_reserve(queue) < 0)
        return -ENOMEM;
    size_t at = running_place(queue, end, handle);
    memmove(queue->running + at + 1, queue->running + at, (queue->running_count - at) * sizeof(*queue->running));
    queue->running[at] = (struct running_slot){ end, handle };
    queue->running_count++;
    return 0;
}

void queue_running_drop(struct queue *queue, uint32_t handle) {
    size_t at = running_place(queue, queue->entries[handle].expected_end, handle);

    queue->running_count--;
    memmove(queue->running + at, queue->running + at + 1, (queue->running_count - at) * sizeof(*queue->running));
}

int64_t queue_left(const struct queue *queue, uint32_t handle) {
    int64_t left = queue->wants[handle].time, done = queue->entries[handle].done;

    if (left >= TIME_FOREVER || done <= 0)
        return left;
    return left > done ? left - done : 1;
}

int queue_start(struct queue *queue, uint32_t handle, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];
    int64_t left = queue_left(queue, handle);

    if (running_reserve(queue) < 0)
        return -ENOMEM;
    order_remove(&queue->waiting, entry->key, entry->rank);
    entry->state = QUEUE_RUNNING;
    entry->started = now;
    entry->expected_end = time_after(now, left);
    queue->free = demand_difference(queue->free, queue->wants[handle].demand);
    if (entry->held) {
        queue->wants[handle].demand.memory += entry->held;
        queue->held -= entry->held;
        entry->held = 0;
    }
    if (entry->tag > queue->virtual_time)
        queue->virtual_time = entry->tag;
    return queue_running_add(queue, handle);
}

int queue_charge(struct queue *queue, uint32_t handle, int64_t now) {
    const struct queue_entry *entry = &queue->entries[handle];
    struct demand demand = queue->wants[handle].demand, capacity = queue->options.capacity;
    double time = (double) (now - entry->started) / (double) queue->options.second;

    if (capacity.cpus == 0)
        return 0;
    return usage_add(&queue->usage, entry->owner, now, time * (double) demand.cpus / (double) capacity.cpus);
}

/* Without memory its owner is not charged: better than an entry that is neither here nor there. */
static int running_leave(struct queue *queue, uint32_t handle, int64_t now) {
    queue_unask(queue, handle);
    queue_running_drop(queue, handle);
    queue->free = demand_sum(queue->free, queue->wants[handle].demand);
    return queue_charge(queue, handle, now);
}

int queue_stop(struct queue *queue, uint32_t handle, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];

    if (order_reserve(&queue->waiting, 0) < 0 || usage_reserve(&queue->usage) < 0)
        return -ENOMEM;
    (void) running_leave(queue, handle, now);
    entry->done += now - entry->started;
    entry->state = QUEUE_WAITING;
    if (entry->held) /* it was given back with the rest, and is taken out of what is free */
        queue->wants[handle].demand.memory = 0;
    queue_weigh(queue, handle, now);
    entry->key = queue_key(queue, handle, now);
    return queue_join(queue, handle);
}

int queue_remove(struct queue *queue, uint32_t handle, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];
    bool conservative = queue->options.backfill == BACKFILL_CONSERVATIVE && !queue->plan_lost;
    int r = 0;

    if (entry->state == QUEUE_WAITING) {
        order_remove(&queue->waiting, entry->key, entry->rank);
        queue->free.memory += entry->held;
        queue->held -= entry->held;
        if (conservative)
            backfill_unplan(queue, handle);
    } else if (entry->state == QUEUE_RUNNING) {
        r = running_leave(queue, handle, now);
        if (conservative && entry->expected_end > now) {
            if (profile_give(&queue->plan, now, entry->expected_end, queue->wants[handle].demand) < 0)
                queue->plan_lost = true;
            queue->plan_loose = true;
        }
    } else if (entry->state == QUEUE_BARRED) {
        queue->barred_count--;
    }
    entry->state = QUEUE_ABSENT;
    queue->vacant[queue->vacant_count++] = handle;
    return r;
}

int queue_extend(struct queue *queue, uint32_t handle, int64_t estimate, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];

    queue->wants[handle].time = estimate < 1 ? 1 : estimate;
    if (entry->state != QUEUE_RUNNING)
        return 0;
    queue_running_drop(queue, handle);
    entry->expected_end = time_after(entry->started - entry->done, estimate);
    queue->plan_lost = true;
    return queue_running_add(queue, handle);
}

int queue_expect(struct queue *queue, uint32_t handle, int64_t estimate, double urgency, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];

    if (entry->state != QUEUE_WAITING)
        return 0;
    if (order_reserve(&queue->waiting, 0) < 0)
        return -ENOMEM;
    order_remove(&queue->waiting, entry->key, entry->rank);
    if (queue->options.backfill == BACKFILL_CONSERVATIVE && !queue->plan_lost)
        backfill_unplan(queue, handle);
    queue->plan_lost = true;
    entry->planned = TIME_FOREVER;
    queue->wants[handle].time = estimate < 1 ? 1 : estimate;
    entry->urgency = (float) urgency;
    queue_weigh(queue, handle, now);
    entry->key = queue_key(queue, handle, now);
    return queue_join(queue, handle);
}

int queue_burst(struct queue *queue, uint32_t handle, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];
    double burst = (double) (now - entry->started) / (double) queue->options.second;
    int r = queue_charge(queue, handle, now);

    entry->tag = policy_next_tag(entry->tag, burst, entry->weight);
    entry->rank = queue->options.policy->by_arrival ? queue->sequence++ : entry->rank;
    entry->done += now - entry->started;
    entry->started = now;
    return r;
}

/* How long would the work at hand keep the whole capacity busy? Services, which never end, do not count. */
static void note_drain(struct queue *queue, int64_t now) {
    double capacity = (double) queue->options.capacity.cpus, work = 0;
    struct order_position position = { 0 };
    const struct order_slot *slot;

    for (; (slot = order_at(&queue->waiting, &position)); position.slot++)
        if (queue->wants[slot->handle].time < TIME_FOREVER)
            work += (double) queue->wants[slot->handle].demand.cpus * (double) queue->wants[slot->handle].time;
    for (size_t i = 0; i < queue->running_count; i++)
        if (queue->running[i].end > now && queue->running[i].end < TIME_FOREVER)
            work += (double) queue->wants[queue->running[i].handle].demand.cpus *
                    (double) (queue->running[i].end - now);
    if (capacity > 0 && work / capacity < (double) TIME_FOREVER && (int64_t) (work / capacity) > queue->drain)
        queue->drain = (int64_t) (work / capacity);
}

int queue_rescore(struct queue *queue, int64_t now) {
    struct order_slot *slots;
    struct order_position position = { 0 };
    const struct order_slot *slot;
    size_t count = 0;

    if (!queue->options.policy->changes || queue->waiting.count == 0)
        return 0;
    if (queue->scored_at == now || (queue->scored_at > INT64_MIN && now - queue->scored_at < queue->options.refresh))
        return 0;
    slots = queue_scratch(queue, queue->waiting.count * sizeof(*slots));
    if (!slots || order_reserve(&queue->waiting, queue->waiting.count) < 0)
        return -ENOMEM;
    queue->scored_at = now;
    note_drain(queue, now);
    for (; (slot = order_at(&queue->waiting, &position)); position.slot++) {
        slots[count] = *slot;
        slots[count].key = queue->entries[slot->handle].key = queue_key(queue, slot->handle, now);
        count++;
    }
    return order_rebuild(&queue->waiting, slots, queue->wants, count);
}

const struct queue_entry *queue_entry(const struct queue *queue, uint32_t handle) {
    return &queue->entries[handle];
}

struct demand queue_free_room(const struct queue *queue, int64_t now) {
    struct demand room = queue->free;

    for (size_t i = 0; queue->options.expires && i < queue->running_count && queue->running[i].end <= now; i++)
        room = demand_sum(room, queue->wants[queue->running[i].handle].demand);
    return room;
}

size_t queue_waiting(const struct queue *queue) {
    return queue->waiting.count;
}

size_t queue_running(const struct queue *queue) {
    return queue->running_count;
}

size_t queue_size(const struct queue *queue) {
    return sizeof(*queue) +
           queue->entry_room * (sizeof(*queue->entries) + sizeof(*queue->wants) + sizeof(*queue->vacant)) +
           queue->waiting.block_count * sizeof(struct order_block) + queue->running_room * sizeof(*queue->running) +
           queue->plan.room * sizeof(*queue->plan.steps) + queue->scratch_size;
}

static enum queue_reason reason_of(const struct queue *queue, uint32_t handle, bool first, struct demand room) {
    const struct demand *demand = &queue->wants[handle].demand;

    if ((int64_t) demand->cpus > (int64_t) room.cpus)
        return QUEUE_REASON_CPUS;
    if ((int64_t) demand->memory > (int64_t) room.memory)
        return QUEUE_REASON_MEMORY;
    return first ? QUEUE_REASON_NONE : QUEUE_REASON_ORDER;
}

ssize_t queue_forecast(const struct queue *queue, int64_t now, struct queue_forecast *ret, size_t limit) {
    _cleanup_profile_ struct profile profile = { 0 };
    struct order_position position = { 0 };
    const struct order_slot *slot;
    struct demand room = queue_free_room(queue, now);
    bool in_order = queue->options.backfill == BACKFILL_NONE;
    int64_t earliest = now;
    size_t count = 0;
    int r = profile_start(&profile, now, queue->options.capacity);

    for (size_t i = 0; r >= 0 && i < queue->running_count; i++) {
        int64_t end = queue->running[i].end > now ? queue->running[i].end : now + (queue->options.expires ? 0 : 1);
        r = profile_take(&profile, now, end, queue->wants[queue->running[i].handle].demand);
    }
    if (r >= 0 && queue->held > 0)
        r = profile_take(&profile, now, TIME_FOREVER, (struct demand){ .memory = queue->held });
    for (; r >= 0 && count < limit && (slot = order_at(&queue->waiting, &position)); position.slot++) {
        const struct order_least *want = &queue->wants[slot->handle];
        int64_t left = queue_left(queue, slot->handle);
        int64_t start = earliest < TIME_FOREVER ? profile_earliest(&profile, earliest, left, want->demand) : TIME_FOREVER;
        earliest = in_order ? start : earliest;
        ret[count] = (struct queue_forecast){ slot->handle, count + 1, start,
                                              reason_of(queue, slot->handle, count == 0, room) };
        r = start < TIME_FOREVER ? profile_take(&profile, start, time_after(start, left), want->demand) : 0;
        count++;
    }
    return r < 0 ? r : (ssize_t) count;
}
