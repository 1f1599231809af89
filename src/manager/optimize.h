// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/optimizer.h"

/* The optimiser at work on this node: what instances use is measured at the allocator's ticks, plans are
 * made on request and kept for a while, and one that is applied becomes ordinary requests by whoever
 * applied it. */

#define OPTIMIZE_PLANS 16

struct instance;
struct manager;
struct optimize_plan;

/* The part of the manager. */
struct optimize_state {
    struct optimize_plan *plans[OPTIMIZE_PLANS]; /* oldest first */
    size_t count;
};
void optimize_done(struct optimize_state *state);

/* The part of an instance. */
struct instance_use {
    struct optimizer_use use;
    int64_t generation;   /* of the spec that it was measured under */
    uint64_t changed;     /* boot time of the last change that was seen; 0: none */
    char *done;           /* JSON: the last step that was done with it, or NULL */
    bool looked;          /* that was looked for in the ledger of earlier runs of polderd */
};

void instance_use_done(struct instance_use *use);
/* Member "optimizer": the last step of a plan that was done with it, or null. */
struct emitter;
void optimize_emit_done(const struct instance *instance, struct emitter *emitter);
/* Fiber: what an earlier run of polderd did with it, from the ledger; once. */
void optimize_recall(struct instance *instance);
/* What an instance has used, as the allocator read it anyhow: processor time in microseconds, bytes. */
void optimize_note(struct instance *instance, uint64_t cpu_us, uint64_t memory, uint64_t least);
/* Looks itself. `least`: microseconds over which a rate is taken. */
void optimize_measure(struct instance *instance, uint64_t least);
#define OPTIMIZE_LEAST UINT64_C(10000000)

/* --- between optimize.c and optimize-apply.c ------------------------------------------------------------ */

struct optimize_step {
    struct optimizer_step step;
    char *uuid, *name, *text; /* the last: as it is told, JSON */
    int64_t generation;
    uint64_t cpus, memory;            /* promised before it */
    uint64_t cpu_limit, memory_limit; /* kept so; 0: it has no field for that */
};

/* The state that was decided on. */
struct optimize_mark {
    char *uuid, *name;
    uint64_t hash;
};

struct optimize_plan {
    char id[17];
    uint64_t expires;          /* boot time */
    uint64_t made;             /* wall time */
    bool applied;
    struct optimize_step *steps;
    size_t count;
    struct optimize_mark *marks;
    size_t mark_count;
    char *waiter;              /* uuid of the one that lacks room, or NULL */
    char *text;                /* JSON members of what was decided, without braces */
    unsigned references;
};
struct optimize_plan *optimize_plan_ref(struct optimize_plan *plan);
void optimize_plan_unref(struct optimize_plan *plan);
struct optimize_plan *optimize_plan_find(struct manager *manager, const char *id); /* borrowed; NULL */
/* Bytes that it was promised before the optimiser took some in this run; 0: it did not, or somebody else decided since. */
uint64_t optimize_memory_most(const struct instance *instance);
/* What of an instance a plan depends on: spec, state and wish. */
uint64_t optimize_hash(const struct instance *instance);
