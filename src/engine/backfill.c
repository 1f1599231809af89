// SPDX-License-Identifier: GPL-2.0-or-later
/* The pass: who starts now. First those at the head of the order while they fit; then, by kind of backfilling, others that
 * fit. EASY (Lifka 1995) gives the first that does not fit a reservation: the "shadow" time at which enough of what runs will
 * have ended, if estimates hold, and the "extra" room that is left over then. One behind it may go ahead if it ends before
 * the shadow, or needs no more than the extra. */
#include <errno.h>
#include <string.h>

#include "engine/queue-internal.h"

struct pass {
    struct queue *queue;
    int64_t now;
    queue_decided decided;
    void *userdata;
};

static int start(const struct pass *pass, uint32_t handle) {
    int r = queue_start(pass->queue, handle, pass->now);

    if (r >= 0)
        pass->decided(pass->userdata, handle, QUEUE_RUNNING);
    return r;
}

/* What outlived its estimate gives its room back, though it still runs. */
static void expire(struct queue *queue, int64_t now) {
    size_t count = 0;

    while (count < queue->running_count && queue->running[count].end <= now) {
        uint32_t handle = queue->running[count++].handle;
        queue->free = demand_sum(queue->free, queue->wants[handle].demand);
        queue->entries[handle].state = QUEUE_EXPIRED;
    }
    if (count == 0)
        return;
    queue->running_count -= count;
    memmove(queue->running, queue->running + count, queue->running_count * sizeof(*queue->running));
}

/* Starts from the head on while they fit. */
static int start_head(const struct pass *pass) {
    struct queue *queue = pass->queue;

    for (;;) {
        struct order_position position = { 0 };
        const struct order_slot *slot = order_at(&queue->waiting, &position);
        if (!slot || !demand_fits(queue->wants[slot->handle].demand, queue->free))
            return 0;
        int r = start(pass, slot->handle);
        if (r < 0)
            return r;
    }
}

struct reservation {
    int64_t shadow;
    struct demand extra;
};

static struct reservation reserve(const struct queue *queue, uint32_t head, int64_t now) {
    struct demand room = queue->free, wanted = queue->wants[head].demand;
    int64_t time = now;
    size_t i = 0;

    if (demand_fits(wanted, demand_sum(room, queue->coming))) /* those that give way for it are about to */
        return (struct reservation){ now + 1, demand_difference(demand_sum(room, queue->coming), wanted) };
    while (i < queue->running_count) {
        int64_t end = queue->running[i].end;
        if (end > time && demand_fits(wanted, room))
            break;
        time = end > now ? end : now + 1; /* overdue: expected at any moment */
        for (; i < queue->running_count && queue->running[i].end <= time; i++)
            room = demand_sum(room, queue->wants[queue->running[i].handle].demand);
    }
    return (struct reservation){ time, demand_fits(wanted, room) ? demand_difference(room, wanted)
                                                                 : (struct demand){ 0 } };
}

/* Is it through before the reservation begins? What has no end never is. */
static bool ends_before(int64_t now, int64_t time, int64_t shadow) {
    int64_t end = time_after(now, time);

    return end < TIME_FOREVER && end <= shadow;
}

/* May it go ahead? Uses up the extra room, if it ends after the shadow. */
static bool goes_ahead(const struct queue *queue, uint32_t handle, int64_t now, struct reservation *reservation) {
    const struct order_least *want = &queue->wants[handle];

    if (!demand_fits(want->demand, queue->free))
        return false;
    if (ends_before(now, want->time, reservation->shadow))
        return true;
    if (!demand_fits(want->demand, reservation->extra))
        return false;
    reservation->extra = demand_difference(reservation->extra, want->demand);
    return true;
}

/* Can nobody in this block go ahead? */
static bool block_is_out(const struct order_block *block, const struct queue *queue, int64_t now,
                         const struct reservation *reservation) {
    const struct order_least *least = &block->least;

    if (!demand_fits(least->demand, queue->free))
        return true;
    return !ends_before(now, least->time, reservation->shadow) && !demand_fits(least->demand, reservation->extra);
}

/* The handles behind the head that might go ahead, in order. */
static int candidates(struct queue *queue, int64_t now, const struct reservation *reservation, size_t skip,
                      uint32_t **ret, size_t *ret_count) {
    uint32_t *handles = queue_scratch(queue, (queue->waiting.count + 1) * sizeof(*handles));
    size_t count = 0;

    if (!handles)
        return -ENOMEM;
    for (size_t b = 0; b < queue->waiting.block_count; b++) {
        struct order_block *block = queue->waiting.blocks[b];
        if (block_is_out(block, queue, now, reservation))
            continue;
        struct order_least least = { { UINT64_MAX, UINT64_MAX }, INT64_MAX };
        for (size_t s = 0; s < block->count; s++) {
            const struct order_least *want = &queue->wants[block->slots[s].handle];
            struct reservation trial = *reservation;
            if (want->demand.cpus < least.demand.cpus)
                least.demand.cpus = want->demand.cpus;
            if (want->demand.memory < least.demand.memory)
                least.demand.memory = want->demand.memory;
            if (want->time < least.time)
                least.time = want->time;
            if ((b > 0 || s >= skip) && goes_ahead(queue, block->slots[s].handle, now, &trial))
                handles[count++] = block->slots[s].handle;
        }
        block->least = least;
    }
    *ret = handles;
    *ret_count = count;
    return 0;
}

/* Is a expected to be shorter than b? Of equals the one that came first, whatever the policy says. */
static bool is_shorter(const struct queue *queue, uint32_t a, uint32_t b) {
    int64_t left = queue->wants[a].time, right = queue->wants[b].time;

    return left != right ? left < right : queue->entries[a].rank < queue->entries[b].rank;
}

/* Insertion sort: they are few, and mostly sorted under sjf. */
static void sort_by_time(const struct queue *queue, uint32_t *handles, size_t count) {
    for (size_t i = 1; i < count; i++) {
        uint32_t handle = handles[i];
        size_t at = i;
        for (; at > 0 && is_shorter(queue, handle, handles[at - 1]); at--)
            handles[at] = handles[at - 1];
        handles[at] = handle;
    }
}

static int start_ahead(const struct pass *pass, enum backfill backfill) {
    struct queue *queue = pass->queue;
    struct order_position position = { 0 };
    const struct order_slot *head = order_at(&queue->waiting, &position);
    struct reservation reservation = { TIME_FOREVER, queue->free };
    uint32_t *handles;
    size_t count;
    int r;

    if (!head || queue->waiting.count == 1)
        return 0;
    if (backfill != BACKFILL_GREEDY)
        reservation = reserve(queue, head->handle, pass->now);
    r = candidates(queue, pass->now, &reservation, 1, &handles, &count);
    if (r < 0)
        return r;
    if (backfill == BACKFILL_EASY_SJBF)
        sort_by_time(queue, handles, count);
    for (size_t i = 0; r >= 0 && i < count; i++)
        if (goes_ahead(queue, handles[i], pass->now, &reservation))
            r = start(pass, handles[i]);
    return r;
}

/* --- conservative --- */

int backfill_plan_one(struct queue *queue, uint32_t handle, int64_t now) {
    struct queue_entry *entry = &queue->entries[handle];
    const struct order_least *want = &queue->wants[handle];

    entry->planned = profile_earliest(&queue->plan, now, want->time, want->demand);
    return entry->planned >= TIME_FOREVER ? 0
                                          : profile_take(&queue->plan, entry->planned,
                                                         time_after(entry->planned, want->time), want->demand);
}

void backfill_unplan(struct queue *queue, uint32_t handle) {
    struct queue_entry *entry = &queue->entries[handle];

    if (entry->planned >= TIME_FOREVER)
        return;
    if (profile_give(&queue->plan, entry->planned, time_after(entry->planned, queue->wants[handle].time),
                     queue->wants[handle].demand) < 0)
        queue->plan_lost = true;
    queue->plan_loose = true;
}

static int plan_running(struct queue *queue, int64_t now) {
    int r = profile_start(&queue->plan, now, queue->options.capacity);

    for (size_t i = 0; r >= 0 && i < queue->running_count; i++) {
        int64_t end = queue->running[i].end > now ? queue->running[i].end : now + 1;
        r = profile_take(&queue->plan, now, end, queue->wants[queue->running[i].handle].demand);
    }
    if (r >= 0 && queue->held > 0)
        r = profile_take(&queue->plan, now, TIME_FOREVER, (struct demand){ .memory = queue->held });
    return r;
}

/* All reservations anew, or, where something only ended early, each in turn moved to its earliest moment. One that moved may
 * have made room for one that was before it in turn, so the next pass tries again: otherwise that one's reservation could begin
 * at a moment at which nothing happens. */
static int plan_all(struct queue *queue, int64_t now) {
    bool anew = queue->plan_lost || queue->options.policy->changes, moved = false;
    struct order_position position = { 0 };
    const struct order_slot *slot;
    int r = 0;

    profile_advance(&queue->plan, now);
    if (!anew && !queue->plan_loose)
        return 0;
    if (anew)
        r = plan_running(queue, now);
    for (; r >= 0 && (slot = order_at(&queue->waiting, &position)); position.slot++) {
        int64_t before = queue->entries[slot->handle].planned;
        if (!anew)
            backfill_unplan(queue, slot->handle);
        r = backfill_plan_one(queue, slot->handle, now);
        moved = moved || (!anew && queue->entries[slot->handle].planned != before);
    }
    queue->plan_lost = false;
    queue->plan_loose = moved;
    return r;
}

static int start_planned(const struct pass *pass) {
    struct queue *queue = pass->queue;
    struct order_position position = { 0 };
    const struct order_slot *slot;
    uint32_t *handles;
    size_t count = 0;
    int r = plan_all(queue, pass->now);

    handles = queue_scratch(queue, (queue->waiting.count + 1) * sizeof(*handles));
    if (r < 0 || !handles)
        return r < 0 ? r : -ENOMEM;
    for (; (slot = order_at(&queue->waiting, &position)); position.slot++)
        if (queue->entries[slot->handle].planned <= pass->now)
            handles[count++] = slot->handle;
    for (size_t i = 0; r >= 0 && i < count; i++) {
        if (demand_fits(queue->wants[handles[i]].demand, queue->free))
            r = start(pass, handles[i]);
        else
            queue->plan_lost = true; /* something outlived its estimate */
    }
    return r;
}

/* --- preemption --- */

/* A burst of round robin is not cut short; others give way at once. */
static bool keeps_running(const struct queue *queue, const struct queue_entry *entry, int64_t now) {
    if (queue->options.deferred && (!entry->yields || entry->yielding))
        return true;
    if (!queue->options.policy->by_arrival)
        return queue->options.deferred && now - entry->started < queue->options.residency;
    return (double) (now - entry->started) < queue->options.parameters.quantum * (double) queue->options.second &&
           entry->started < now;
}

/* Running ones come first among equals: a change costs. */
static bool comes_first(const struct queue *queue, int64_t running_key, uint64_t rank, const struct order_slot *slot) {
    if (running_key != slot->key)
        return running_key < slot->key;
    return !queue->options.policy->by_arrival || rank < slot->id;
}

/* Stops those of the running that come after one that waits and does not fit, the last first. */
static int make_room(const struct pass *pass, uint32_t head) {
    struct queue *queue = pass->queue;
    struct order_slot first = { queue->entries[head].key, queue->entries[head].rank, head };

    while (!demand_fits(queue->wants[head].demand, queue->free)) {
        uint32_t victim = UINT32_MAX;
        int64_t worst = INT64_MIN;
        for (size_t i = 0; i < queue->running_count; i++) {
            uint32_t handle = queue->running[i].handle;
            const struct queue_entry *entry = &queue->entries[handle];
            int64_t key = queue_key(queue, handle, pass->now);
            if (keeps_running(queue, entry, pass->now) || comes_first(queue, key, entry->rank, &first))
                continue;
            if (victim == UINT32_MAX || key > worst || (key == worst && entry->rank > queue->entries[victim].rank)) {
                victim = handle;
                worst = key;
            }
        }
        if (victim == UINT32_MAX)
            return 0;
        int r = queue_stop(queue, victim, pass->now);
        if (r < 0)
            return r;
        pass->decided(pass->userdata, victim, QUEUE_WAITING);
    }
    return 1;
}

/* Could stopping every running one that comes after `head` make room? */
static bool room_can_be_made(const struct queue *queue, uint32_t head, int64_t now) {
    struct order_slot first = { queue->entries[head].key, queue->entries[head].rank, head };
    struct demand room = queue->free;

    for (size_t i = 0; i < queue->running_count; i++) {
        uint32_t handle = queue->running[i].handle;
        const struct queue_entry *entry = &queue->entries[handle];
        if (!keeps_running(queue, entry, now) &&
            !comes_first(queue, queue_key(queue, handle, now), entry->rank, &first))
            room = demand_sum(room, queue->wants[handle].demand);
    }
    return demand_fits(queue->wants[head].demand, room);
}

/* What is short of the room; nothing where there is more than enough. */
static struct demand lacking_in(struct demand room, struct demand wanted) {
    return (struct demand){ (int64_t) wanted.cpus > (int64_t) room.cpus ? wanted.cpus - room.cpus : 0,
                            (int64_t) wanted.memory > (int64_t) room.memory ? wanted.memory - room.memory : 0 };
}

/* What is short of the room there will be. */
static struct demand lacking_of(const struct queue *queue, struct demand wanted) {
    return lacking_in(demand_sum(queue->free, queue->coming), wanted);
}

static bool is_lacking(struct demand lacking) {
    return lacking.cpus > 0 || lacking.memory > 0;
}

/* Which of the ways would give some of what is lacking: memory by going to disk alone, processors by a pause if it can, which
 * is a part of going to disk, and so never dearer; 0: none. */
static unsigned way_among(unsigned ways, struct demand lacking) {
    if (lacking.memory > 0 && (ways & QUEUE_YIELD_SUSPEND))
        return QUEUE_YIELD_SUSPEND;
    if (lacking.cpus == 0)
        return 0;
    return ways & QUEUE_YIELD_PAUSE ? QUEUE_YIELD_PAUSE : ways;
}

static unsigned way_of(const struct queue *queue, uint32_t handle, struct demand lacking) {
    return way_among(queue->entries[handle].yields & ~(unsigned) queue->entries[handle].spared, lacking);
}

struct asking {
    const struct queue *queue;
    struct order_slot first; /* of those that wait: who runs and comes after it may be asked */
    bool alarmed;            /* by its alarm alone: services are left in peace */
    int64_t now;
};

/* Whatever its ways are worth. */
static enum queue_obstacle obstacle_of(const struct asking *asking, uint32_t handle, int64_t key) {
    const struct queue *queue = asking->queue;
    const struct queue_entry *entry = &queue->entries[handle], *first = &queue->entries[asking->first.handle];

    if (entry->yielding)
        return QUEUE_IS_ASKED;
    if (!entry->yields)
        return QUEUE_CANNOT_YIELD;
    if (asking->alarmed && queue->wants[handle].time >= TIME_FOREVER)
        return QUEUE_IS_SERVICE;
    /* For an alarm by arrival alone: scores of two whose alarms rang may be equal after rounding. */
    if (asking->alarmed ? entry->submitted <= first->submitted : comes_first(queue, key, entry->rank, &asking->first))
        return QUEUE_COMES_FIRST;
    return keeps_running(queue, entry, asking->now) ? QUEUE_RUNS_TOO_SHORT : QUEUE_MAY_BE_ASKED;
}

static bool may_be_asked(const struct asking *asking, uint32_t handle, int64_t key) {
    return obstacle_of(asking, handle, key) == QUEUE_MAY_BE_ASKED;
}

void queue_find_obstacle(const struct queue *queue, uint32_t waiting, uint32_t running, unsigned spared, int64_t now,
                         struct queue_prospect *ret) {
    const struct queue_entry *first = &queue->entries[waiting], *entry = &queue->entries[running];
    const struct policy *policy = queue->options.policy;
    const struct asking asking = { queue, { first->key, first->rank, waiting },
                                   policy->preempts_on_alarm && !policy->preempts, now };
    struct demand wanted = queue->wants[waiting].demand, lacking = lacking_of(queue, wanted);
    unsigned way;

    if (!is_lacking(lacking)) /* enough is about to come, but is not there yet */
        lacking = lacking_in(queue->free, wanted);
    way = way_among(entry->yields & ~spared, lacking);
    ret->key = queue_key(queue, running, now);
    ret->obstacle = obstacle_of(&asking, running, ret->key);
    ret->way = entry->yielding ? entry->yielding : way ? way : way_among(entry->yields, lacking);
    ret->gift = queue_gift(queue, running, ret->way);
    if (ret->way == 0 && entry->yields)
        ret->obstacle = QUEUE_FREES_NOTHING;
    else if (way == 0 && ret->obstacle == QUEUE_MAY_BE_ASKED)
        ret->obstacle = QUEUE_IS_SPARED;
}

/* The running one that comes last, of those that come after `first` and could help; of equals the one that it costs least. */
static uint32_t last_running(const struct asking *asking, struct demand lacking) {
    const struct queue *queue = asking->queue;
    uint32_t victim = UINT32_MAX;
    int64_t worst = INT64_MIN, least = 0;

    for (size_t i = 0; i < queue->running_count; i++) {
        uint32_t handle = queue->running[i].handle;
        int64_t key = queue_key(queue, handle, asking->now), cost;
        unsigned way = way_of(queue, handle, lacking);
        if (!way || (victim != UINT32_MAX && key < worst) || !may_be_asked(asking, handle, key))
            continue;
        cost = queue_yield_cost(queue, handle, (enum queue_yield) way);
        if (victim != UINT32_MAX && key == worst &&
            (cost > least || (cost == least && queue->entries[handle].rank <= queue->entries[victim].rank)))
            continue;
        victim = handle;
        worst = key;
        least = cost;
    }
    return victim;
}

/* Would there be room if all gave way that may be asked? */
static bool room_can_come(const struct asking *asking, struct demand lacking) {
    const struct queue *queue = asking->queue;
    struct demand room = demand_sum(queue->free, queue->coming);

    for (size_t i = 0; i < queue->running_count; i++) {
        uint32_t handle = queue->running[i].handle;
        if (may_be_asked(asking, handle, queue_key(queue, handle, asking->now)))
            room = demand_sum(room, queue_gift(queue, handle, way_of(queue, handle, lacking)));
    }
    return demand_fits(queue->wants[asking->first.handle].demand, room);
}

static void ask(struct queue *queue, uint32_t handle, unsigned way) {
    queue->entries[handle].yielding = (uint8_t) way;
    queue->coming = demand_sum(queue->coming, queue_gift(queue, handle, way));
}

/* Whose room is not needed after all, since a later one gave more, is not asked: the dearest first. */
static void ask_no_more_than_needed(struct queue *queue, struct demand wanted, uint32_t *asked, size_t *count) {
    for (;;) {
        size_t dearest = *count;
        int64_t most = -1;
        for (size_t i = 0; i < *count; i++) {
            enum queue_yield way = (enum queue_yield) queue->entries[asked[i]].yielding;
            struct demand without = demand_difference(queue->coming, queue_gift(queue, asked[i], way));
            int64_t cost = queue_yield_cost(queue, asked[i], way);
            if (cost > most && demand_fits(wanted, demand_sum(queue->free, without))) {
                dearest = i;
                most = cost;
            }
        }
        if (dearest == *count)
            return;
        queue_unask(queue, asked[dearest]);
        memmove(asked + dearest, asked + dearest + 1, (--*count - dearest) * sizeof(*asked));
    }
}

/* Asks those of the running to give way that come after the first that waits, the last first, until there will be room. They
 * keep their room until they have. */
static int ask_for_room(const struct pass *pass, const struct order_slot *first, bool alarmed) {
    struct queue *queue = pass->queue;
    struct asking asking = { queue, *first, alarmed, pass->now };
    struct demand wanted = queue->wants[first->handle].demand, lacking = lacking_of(queue, wanted);
    uint32_t *asked, victim;
    size_t count = 0;

    if (!is_lacking(lacking) || !room_can_come(&asking, lacking))
        return 0;
    asked = queue_scratch(queue, (queue->running_count + 1) * sizeof(*asked));
    if (!asked)
        return -ENOMEM;
    for (; is_lacking(lacking) && (victim = last_running(&asking, lacking)) != UINT32_MAX; lacking = lacking_of(queue, wanted)) {
        ask(queue, victim, way_of(queue, victim, lacking));
        asked[count++] = victim;
    }
    ask_no_more_than_needed(queue, wanted, asked, &count);
    queue->asked_for = first->handle;
    for (size_t i = 0; i < count; i++)
        pass->decided(pass->userdata, asked[i], QUEUE_WAITING);
    return 0;
}

/* One whose alarm rang does not wait for those that came after it. What they lose by it is bounded: who gave way once comes
 * after it in the order of arrival for good. */
static int make_way_for_alarm(const struct pass *pass) {
    struct queue *queue = pass->queue;
    struct order_position position = { 0 };
    const struct order_slot *slot = order_at(&queue->waiting, &position);

    if (!slot || !policy_is_alarm(slot->key) || demand_fits(queue->wants[slot->handle].demand, queue->free))
        return 0;
    return ask_for_room(pass, slot, true);
}

static int preempt(const struct pass *pass) {
    struct queue *queue = pass->queue;

    for (;;) {
        struct order_position position = { 0 };
        const struct order_slot *slot = order_at(&queue->waiting, &position);
        if (slot && queue->options.deferred && !demand_fits(queue->wants[slot->handle].demand, queue->free))
            return ask_for_room(pass, slot, false);
        if (!slot || !room_can_be_made(queue, slot->handle, pass->now))
            return 0;
        uint32_t head = slot->handle;
        int r = make_room(pass, head);
        if (r > 0)
            r = start(pass, head);
        if (r <= 0 && queue->entries[head].state != QUEUE_RUNNING)
            return r;
    }
}

static int decide(const struct pass *pass) {
    struct queue *queue = pass->queue;
    enum backfill backfill = queue->options.backfill;
    int64_t now = pass->now;
    int r;

    if (queue->options.expires)
        expire(queue, now);
    r = queue_rescore(queue, now);
    if (r < 0)
        return r;
    if (queue->options.policy->preempts) {
        r = preempt(pass);
        if (r < 0 || backfill == BACKFILL_NONE)
            return r;
    }
    if (queue->options.deferred && queue->options.policy->preempts_on_alarm) {
        r = make_way_for_alarm(pass);
        if (r < 0)
            return r;
    }
    if (backfill == BACKFILL_CONSERVATIVE)
        return start_planned(pass);
    r = start_head(pass);
    if (r < 0 || backfill == BACKFILL_NONE)
        return r;
    return start_ahead(pass, backfill);
}

/* Round robin: one that goes on alone is served at its new tag, and those that come are to stand behind that. */
static void note_served(struct queue *queue) {
    for (size_t i = 0; i < queue->running_count; i++) {
        double tag = queue->entries[queue->running[i].handle].tag;
        if (tag > queue->virtual_time)
            queue->virtual_time = tag;
    }
}

int queue_pass(struct queue *queue, int64_t now, queue_decided decided, void *userdata) {
    struct pass pass = { queue, now, decided, userdata };
    int r;

    queue->asked_for = UINT32_MAX;
    r = decide(&pass);

    if (queue->options.policy->by_arrival)
        note_served(queue);

    queue_scratch_shrink(queue);
    return r;
}
