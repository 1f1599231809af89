// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "engine/queue.h"

/* What giving way costs on this node, as measured by whoever does it, and when it is worth that. */

struct engine;

enum engine_cost {
    ENGINE_COST_PAUSE,   /* a pause, or going on after one */
    ENGINE_COST_SUSPEND, /* memory to disk */
    ENGINE_COST_RESTORE, /* and back */
    ENGINE_COST_COUNT,
};
extern const char *const engine_cost_names[ENGINE_COST_COUNT + 1];

/* Sums over the last ones (each measurement weakens those before it to 7/8): the more memory one had, the more it counts. */
struct engine_measured {
    double seconds, gib;
    uint64_t count; /* of all measurements */
};

/* One took `duration` microseconds with `memory` bytes. Absurd values are left out. */
void engine_measure(struct engine *engine, enum engine_cost what, uint64_t memory, uint64_t duration, uint64_t now);
void engine_measured(const struct engine *engine, enum engine_cost what, struct engine_measured *ret);
/* As it was before a restart, before anything else is told to the engine. -EINVAL for what cannot be. */
int engine_measured_again(struct engine *engine, enum engine_cost what, const struct engine_measured *measured);

/* Seconds: of ENGINE_COST_PAUSE for a pause; of the others for a GiB. Before the first half of yield.prior (pause: 0.1 s). */
double engine_cost_rate(const struct engine *engine, enum engine_cost what);

/* Member "gives_way" of an object: how it would give way, what each way takes, and when it may be asked. Nothing for who does
 * not run or cannot. */
void engine_emit_yield(const struct engine *engine, const char *id, uint64_t now, struct emitter *emitter);

/* Why nobody is asked to give way for one that waits. */
enum engine_refrain {
    ENGINE_ASKS,           /* somebody is asked in the next pass */
    ENGINE_IS_ASKING,      /* those that were asked will make enough room */
    ENGINE_HAS_ROOM,       /* nothing is lacking */
    ENGINE_NEVER_ASKS,     /* the policy asks nobody */
    ENGINE_ASKS_ON_ALARM,  /* the policy asks only for one whose alarm rang */
    ENGINE_ASKS_FOR_FIRST, /* others wait before it */
    ENGINE_TOO_LITTLE_YET, /* those that may be asked now would not make enough room: then nobody is */
    ENGINE_TOO_LITTLE,     /* nor would all that could ever be */
};
struct engine_yielder {
    void *userdata;       /* of one that runs */
    const char *name;     /* borrowed until the engine changes */
    enum queue_obstacle obstacle;
    unsigned way;         /* enum queue_yield; 0: none helps */
    uint64_t cost;        /* microseconds that the way takes, as measured */
    uint64_t asked_in;    /* microseconds; UINT64_MAX: time alone does not bring it about */
    bool ends_before;     /* spared since it is expected to end sooner than it could be moved */
    int64_t key;
};
#define ENGINE_YIELDERS 8
struct engine_yielders {
    enum engine_refrain refrain;
    uint64_t alarm_in;    /* of ENGINE_ASKS_ON_ALARM, microseconds */
    struct engine_yielder who[ENGINE_YIELDERS]; /* who would be asked first, first; at the end those who cannot */
    size_t count, more;   /* of those that run, how many are told, and how many are not */
};
/* Who could give way for one that waits, if it were the first in the queue. -ENOENT: it does not wait. */
int engine_find_yielders(const struct engine *engine, const char *id, uint64_t now, struct engine_yielders *ret);
