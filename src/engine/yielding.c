// SPDX-License-Identifier: GPL-2.0-or-later
/* To go to disk and back takes time in which nobody gets anything done. So who runs is asked for that only after it worked for
 * yield.worth times as long since it started, which bounds the share of time that moving can take, however often others come;
 * and not when it is expected to end sooner than it could be moved. The same holds for a pause, with which going to disk
 * begins: it takes next to nothing. */
#include "engine/yielding.h"

#include <errno.h>

#include "engine/engine-internal.h"
#include "engine/ledger-internal.h"
#include "engine/queue-internal.h"

#define GIB ((double) (1 << 30))
#define SECOND 1e6
#define PAUSE_PRIOR 0.1 /* s */
#define MEMORY_OF_OLD (7. / 8)
#define LONGEST 86400.  /* s: what took longer is no measurement */

const char *const engine_cost_names[ENGINE_COST_COUNT + 1] = { "pause", "suspend", "restore", NULL };

/* --- what it costs --------------------------------------------------------------------------------------------------- */

double engine_cost_rate(const struct engine *engine, enum engine_cost what) {
    const struct engine_measured *measured = &engine->measured[what];

    if (what == ENGINE_COST_PAUSE)
        return measured->count > 0 ? measured->seconds : PAUSE_PRIOR;
    return measured->count > 0 ? measured->seconds / measured->gib : engine->options.parameters.yield_prior / 2;
}

void engine_costs(const struct engine *engine, struct queue_costs *ret) {
    double suspend = engine_cost_rate(engine, ENGINE_COST_SUSPEND) + engine_cost_rate(engine, ENGINE_COST_RESTORE);

    *ret = (struct queue_costs){
        .pause = (int64_t) (2 * engine_cost_rate(engine, ENGINE_COST_PAUSE) * SECOND),
        .suspend = suspend * SECOND / (GIB * (double) engine->scale_memory),
    };
}

static void costs_changed(struct engine *engine) {
    struct queue_costs costs;

    engine_costs(engine, &costs);
    queue_set_costs(engine->queue, &costs);
}

void engine_measure(struct engine *engine, enum engine_cost what, uint64_t memory, uint64_t duration, uint64_t now) {
    struct engine_measured *measured = &engine->measured[what];
    double seconds = (double) duration / SECOND, gib = (double) memory / GIB;

    if (seconds > LONGEST || (what != ENGINE_COST_PAUSE && memory < 1 << 20))
        return;
    ledger_note_measure(engine, what, memory, duration, now);
    if (what == ENGINE_COST_PAUSE) { /* a mean: memory does not matter */
        measured->seconds += measured->count > 0 ? (seconds - measured->seconds) * (1 - MEMORY_OF_OLD) : seconds;
    } else {
        measured->seconds = measured->seconds * MEMORY_OF_OLD + seconds;
        measured->gib = measured->gib * MEMORY_OF_OLD + gib;
    }
    measured->count++;
    costs_changed(engine);
}

void engine_measured(const struct engine *engine, enum engine_cost what, struct engine_measured *ret) {
    *ret = engine->measured[what];
}

int engine_measured_again(struct engine *engine, enum engine_cost what, const struct engine_measured *measured) {
    bool sound = measured->seconds >= 0 && measured->seconds <= 8 * LONGEST && measured->gib >= 0 && measured->gib < 1e12;

    if (!sound || (measured->count > 0 && what != ENGINE_COST_PAUSE && measured->gib < 1e-4))
        return -EINVAL;
    engine->measured[what] = *measured;
    costs_changed(engine);
    return 0;
}

/* --- whether it is worth it ------------------------------------------------------------------------------------------ */

/* When it may be asked for that way; TIME_FOREVER: not any more, since it is about to end. */
static int64_t may_be_asked_at(const struct engine *engine, const struct engine_entry *entry, enum queue_yield way, int64_t now) {
    int64_t cost = queue_yield_cost(engine->queue, entry->handle, way), end;
    double worth = engine->options.parameters.yield_worth * (double) cost, residency = (double) engine->options.residency;

    end = queue_entry(engine->queue, entry->handle)->expected_end;
    if (end < TIME_FOREVER && end - now <= cost)
        return TIME_FOREVER;
    worth = worth > residency ? worth : residency;
    return worth < (double) TIME_FOREVER ? entry->since + (int64_t) worth : TIME_FOREVER;
}

static unsigned ways_spared(const struct engine *engine, const struct engine_entry *entry, int64_t now) {
    unsigned yields = queue_entry(engine->queue, entry->handle)->yields, spared = 0;

    for (unsigned way = QUEUE_YIELD_PAUSE; way <= QUEUE_YIELD_SUSPEND; way <<= 1)
        if ((yields & way) && may_be_asked_at(engine, entry, (enum queue_yield) way, now) > now)
            spared |= way;
    return spared;
}

void engine_spare(struct engine *engine, int64_t now) {
    const struct policy *policy = engine->options.policy;
    uint32_t handle;

    if ((!policy->preempts && !policy->preempts_on_alarm) || queue_waiting(engine->queue) == 0)
        return;
    for (size_t i = 0; queue_running_at(engine->queue, i, &handle); i++)
        queue_spare(engine->queue, handle, ways_spared(engine, engine_entry_at(engine, handle), now));
}

/* --- who could -------------------------------------------------------------------------------------------------------- */

/* Until time lets it be asked; UINT64_MAX: it does not. */
static uint64_t wait_until_asked(const struct engine *engine, const struct engine_entry *entry,
                                 const struct queue_prospect *prospect, int64_t now) {
    int64_t at = may_be_asked_at(engine, entry, (enum queue_yield) prospect->way, now), burst;

    if (at >= TIME_FOREVER)
        return UINT64_MAX;
    if (engine->options.policy->by_arrival) {
        burst = (int64_t) (engine->options.parameters.quantum * SECOND);
        burst += queue_entry(engine->queue, entry->handle)->started;
        at = burst > at ? burst : at;
    }
    return at > now ? (uint64_t) (at - now) : 0;
}

static void yielder_of(const struct engine *engine, const struct engine_entry *entry, const struct queue_prospect *prospect,
                       int64_t now, struct engine_yielder *ret) {
    bool by_time = prospect->obstacle == QUEUE_MAY_BE_ASKED || prospect->obstacle == QUEUE_RUNS_TOO_SHORT ||
                   prospect->obstacle == QUEUE_IS_SPARED;

    *ret = (struct engine_yielder){ .userdata = entry->userdata, .name = entry->name, .obstacle = prospect->obstacle,
                                    .way = prospect->way, .asked_in = UINT64_MAX, .key = prospect->key };
    if (prospect->way)
        ret->cost = (uint64_t) queue_yield_cost(engine->queue, entry->handle, (enum queue_yield) prospect->way);
    if (by_time && prospect->way)
        ret->asked_in = wait_until_asked(engine, entry, prospect, now);
    ret->ends_before = by_time && ret->asked_in == UINT64_MAX;
}

/* Those that were asked, those that may be, those that time will let be, those that end before, and the others. */
static unsigned grade_of(const struct engine_yielder *yielder) {
    if (yielder->obstacle == QUEUE_IS_ASKED)
        return 0;
    if (yielder->asked_in != UINT64_MAX)
        return yielder->obstacle == QUEUE_MAY_BE_ASKED ? 1 : 2;
    return yielder->ends_before ? 3 : 4 + (unsigned) yielder->obstacle;
}

/* Would a be asked before b? Of those who may be, who comes last is, and of equals whom it costs least. */
static bool is_asked_before(const struct engine_yielder *a, const struct engine_yielder *b) {
    if (grade_of(a) != grade_of(b))
        return grade_of(a) < grade_of(b);
    if (a->asked_in != b->asked_in)
        return a->asked_in < b->asked_in;
    if (a->key != b->key)
        return a->key > b->key;
    return a->cost < b->cost;
}

static void yielders_add(struct engine_yielders *yielders, const struct engine_yielder *yielder) {
    size_t at = yielders->count;

    while (at > 0 && is_asked_before(yielder, &yielders->who[at - 1]))
        at--;
    if (yielders->count == ENGINE_YIELDERS)
        yielders->more++;
    else
        yielders->count++;
    for (size_t i = yielders->count - 1; i > at; i--)
        yielders->who[i] = yielders->who[i - 1];
    if (at < ENGINE_YIELDERS)
        yielders->who[at] = *yielder;
}

/* What the room would be, if those gave way that were asked, that may be asked now, that ever may be. */
struct rooms {
    struct demand asked, now, ever;
};

static void rooms_add(struct rooms *rooms, const struct engine_yielder *yielder, struct demand gift) {
    bool asked = yielder->obstacle == QUEUE_IS_ASKED, now = yielder->obstacle == QUEUE_MAY_BE_ASKED;

    if (asked)
        rooms->asked = demand_sum(rooms->asked, gift);
    if (asked || now)
        rooms->now = demand_sum(rooms->now, gift);
    if (asked || now || yielder->asked_in != UINT64_MAX)
        rooms->ever = demand_sum(rooms->ever, gift);
}

static enum engine_refrain refrain_of(const struct engine *engine, const struct engine_entry *entry, const struct rooms *rooms) {
    const struct policy *policy = engine->options.policy;
    struct demand wanted = queue_demand(engine->queue, entry->handle);

    if (demand_fits(wanted, queue_free_room(engine->queue, 0)))
        return ENGINE_HAS_ROOM;
    if (!policy->preempts && !policy->preempts_on_alarm)
        return ENGINE_NEVER_ASKS;
    if (demand_fits(wanted, rooms->asked))
        return ENGINE_IS_ASKING;
    if (queue_position(engine->queue, entry->handle) > 1)
        return ENGINE_ASKS_FOR_FIRST;
    if (!policy->preempts && !policy_is_alarm(queue_entry(engine->queue, entry->handle)->key))
        return ENGINE_ASKS_ON_ALARM;
    if (demand_fits(wanted, rooms->now))
        return ENGINE_ASKS;
    return demand_fits(wanted, rooms->ever) ? ENGINE_TOO_LITTLE_YET : ENGINE_TOO_LITTLE;
}

int engine_find_yielders(const struct engine *engine, const char *id, uint64_t now, struct engine_yielders *ret) {
    const struct engine_entry *entry = map_get(engine->entries, id);
    struct demand room = queue_free_room(engine->queue, (int64_t) now);
    struct rooms rooms = { room, room, room };
    uint32_t handle;

    *ret = (struct engine_yielders){ .refrain = ENGINE_ASKS };
    if (!entry || entry->admitted || queue_entry(engine->queue, entry->handle)->state == QUEUE_BARRED)
        return -ENOENT;
    for (size_t i = 0; queue_running_at(engine->queue, i, &handle); i++) {
        const struct engine_entry *other = engine_entry_at(engine, handle);
        struct queue_prospect prospect;
        struct engine_yielder yielder;
        queue_find_obstacle(engine->queue, entry->handle, handle, ways_spared(engine, other, (int64_t) now), (int64_t) now,
                            &prospect);
        yielder_of(engine, other, &prospect, (int64_t) now, &yielder);
        rooms_add(&rooms, &yielder, prospect.gift);
        yielders_add(ret, &yielder);
    }
    ret->refrain = refrain_of(engine, entry, &rooms);
    if (ret->refrain == ENGINE_ASKS_ON_ALARM) {
        double left = engine->options.parameters.alarm * SECOND -
                      ((double) now - (double) queue_entry(engine->queue, entry->handle)->submitted);
        ret->alarm_in = left > 0 ? (uint64_t) left : 0;
    }
    return 0;
}

/* --- telling --------------------------------------------------------------------------------------------------------- */

static void emit_seconds(struct emitter *emitter, const char *key, double seconds) {
    emit_key(emitter, key);
    emit_double(emitter, seconds);
}

static void emit_way(const struct engine *engine, const struct engine_entry *entry, enum queue_yield way, int64_t now,
                     struct emitter *emitter) {
    int64_t at = may_be_asked_at(engine, entry, way, now);

    emit_object(emitter);
    emit_seconds(emitter, "cost", (double) queue_yield_cost(engine->queue, entry->handle, way) / SECOND);
    emit_key_text(emitter, "frees", way == QUEUE_YIELD_PAUSE ? "cpus" : "cpus and memory");
    emit_key(emitter, "asked_in"); /* null: it will end sooner than it could be moved */
    if (at >= TIME_FOREVER)
        emit_null(emitter);
    else
        emit_double(emitter, at > now ? (double) (at - now) / SECOND : 0);
    emit_object_end(emitter);
}

void engine_emit_costs(const struct engine *engine, const struct engine_entry *entry, int64_t now, struct emitter *emitter) {
    unsigned yields = queue_entry(engine->queue, entry->handle)->yields;

    if (yields & QUEUE_YIELD_PAUSE) {
        emit_key(emitter, "pause");
        emit_way(engine, entry, QUEUE_YIELD_PAUSE, now, emitter);
    }
    if (yields & QUEUE_YIELD_SUSPEND) {
        emit_key(emitter, "suspend");
        emit_way(engine, entry, QUEUE_YIELD_SUSPEND, now, emitter);
    }
    emit_key(emitter, "measured");
    emit_object(emitter);
    for (enum engine_cost what = ENGINE_COST_PAUSE; what < ENGINE_COST_COUNT; what++) {
        emit_key(emitter, engine_cost_names[what]);
        emit_object(emitter);
        emit_seconds(emitter, what == ENGINE_COST_PAUSE ? "seconds" : "seconds_per_gib", engine_cost_rate(engine, what));
        emit_key_unsigned(emitter, "times", engine->measured[what].count);
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
}

void engine_emit_yield(const struct engine *engine, const char *id, uint64_t now, struct emitter *emitter) {
    const struct engine_entry *entry = map_get(engine->entries, id);

    if (!entry || !entry->admitted || queue_entry(engine->queue, entry->handle)->yields == 0)
        return;
    emit_key(emitter, "gives_way");
    emit_object(emitter);
    engine_emit_costs(engine, entry, (int64_t) now, emitter);
    emit_object_end(emitter);
}
