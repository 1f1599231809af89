// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"

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
