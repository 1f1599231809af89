// SPDX-License-Identifier: GPL-2.0-or-later
/* To go to disk and back takes time in which nobody gets anything done. So who runs is asked for that only after it worked for
 * yield.worth times as long since it started, which bounds the share of time that moving can take, however often others come;
 * and not when it is expected to end sooner than it could be moved. The same holds for a pause, with which going to disk
 * begins: it takes next to nothing. */
#include "engine/yielding.h"

#include <errno.h>

#include "engine/engine-internal.h"
#include "engine/ledger-internal.h"

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

void engine_spare(struct engine *engine, int64_t now) {
    const struct policy *policy = engine->options.policy;
    uint32_t handle;

    if ((!policy->preempts && !policy->preempts_on_alarm) || queue_waiting(engine->queue) == 0)
        return;
    for (size_t i = 0; queue_running_at(engine->queue, i, &handle); i++) {
        const struct engine_entry *entry = engine_entry_at(engine, handle);
        unsigned yields = queue_entry(engine->queue, handle)->yields, spared = 0;
        for (unsigned way = QUEUE_YIELD_PAUSE; way <= QUEUE_YIELD_SUSPEND; way <<= 1)
            if ((yields & way) && may_be_asked_at(engine, entry, (enum queue_yield) way, now) > now)
                spared |= way;
        queue_spare(engine->queue, handle, spared);
    }
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
