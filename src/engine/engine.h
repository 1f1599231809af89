// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "engine/estimate.h"
#include "engine/filters.h"
#include "engine/queue.h"
#include "model/instance.h"

/* Decides who runs on one node: the queue of queue.h with any policy, over what the node's overcommit ratios leave. Pure:
 * (state, event, now) -> decisions; no I/O, no clock of its own, the same input gives the same output. Times are
 * microseconds of any steady scale. */

struct engine;

/* Capacity of a node and how much of it may be promised: V = P x C, a ratio C of its own for each kind, in percent.
 * What an instance takes of the physical capacity is its request divided by its kind's ratio. */
struct engine_node {
    uint64_t cpus;   /* thousandths of a CPU */
    uint64_t memory; /* bytes that instances may have */
    uint64_t overcommit_cpu[KIND_COUNT];
    uint64_t overcommit_memory[KIND_COUNT];
};

/* The rules by which the queue is kept. */
struct engine_options {
    const struct policy *policy;
    struct policy_parameters parameters;
    enum backfill backfill;
    enum estimate estimate; /* any but ESTIMATE_ACTUAL */
    uint64_t residency;     /* microseconds for which nobody who started has to give way */
};
/* polder, EASY, learning, 30 s. */
void engine_options_init(struct engine_options *options);
/* What contradicts itself, by name: BAD_VALUE. */
int engine_options_check(const struct engine_options *options, struct error *error);

/* Where it may run: lists of terms that end with NULL, or NULL (model/placement.h); and its own labels, which others' terms
 * select it by. What the lists ask for is looked at when it starts, and not again while it runs. */
enum engine_wish {
    WISH_LABELS,
    WISH_NODE_LABELS,
    WISH_FEATURES,
    WISH_TOLERATIONS,
    WISH_AFFINITY,
    WISH_ANTI_AFFINITY,
    WISH_SPREAD,
    WISH_COUNT,
};
extern const char *const engine_wish_names[WISH_COUNT];
struct engine_wishes {
    char *const *lists[WISH_COUNT];
};

/* What the node guarantees it while it runs, a pause included. The sum of such promises stays within what the node physically
 * has, whatever the ratios, and processors owned leave one to everybody else. Fake instances are counted among themselves. */
struct engine_guarantee {
    uint64_t cpus;   /* thousandths */
    uint64_t memory; /* bytes */
    bool owned;      /* the processors are its own */
};

struct engine_request {
    const char *id;   /* uuid; copied */
    const char *name; /* for people; copied; NULL: the id */
    enum kind kind;
    uint64_t cpus;    /* thousandths */
    uint64_t memory;  /* bytes */
    int64_t priority;
    uint64_t owner;   /* engine_hash: whose use counts together */
    uint64_t class;   /* engine_hash: whose run times tell of each other */
    uint64_t waited;  /* microseconds that it has waited already */
    uint64_t expected; /* microseconds it will run, as declared; 0: not declared */
    uint64_t limit;   /* microseconds after which it is ended; 0: none */
    bool service;     /* never ends by itself: its class tells nothing */
    uint64_t done;    /* microseconds that it ran already, work that is kept */
    unsigned yields;  /* enum queue_yield: how it can give way */
    struct engine_wishes wishes; /* copied */
    struct engine_guarantee guarantee;
    void *userdata;   /* handed back in decisions */
};

uint64_t engine_hash(const char *text);

/* Without options: in order of arrival, without backfilling. */
int engine_new(const struct engine_node *node, const struct engine_options *options, struct engine **ret);
void engine_free(struct engine *engine);
const struct engine_options *engine_options(const struct engine *engine);
/* What is remembered of run times: of at most 4,096 owners, classes and requests. As numbers, from *position 0 on, until it
 * returns false; and one of them back, before anything else is told to the engine. -EINVAL, -ENOMEM. */
bool engine_learnt(const struct engine *engine, size_t *position, int64_t ret[PREDICTOR_VALUES]);
int engine_learn_again(struct engine *engine, const int64_t values[PREDICTOR_VALUES]);
/* Rises with each run that is learnt from. */
uint64_t engine_learnt_moment(const struct engine *engine);
/* Other rules from now on, for all that wait. -ENOMEM: those that were. */
int engine_configure(struct engine *engine, const struct engine_options *options, uint64_t now);

/* What the node is, beside its room: labels ("KEY=VALUE") and features ("avx2") together, and taints ("KEY" or "KEY=VALUE").
 * Copied. Those that wait are looked at anew by the next engine_run. -ENOMEM: as it was. */
int engine_set_place(struct engine *engine, char *const *traits, char *const *taints, uint64_t now);
char *const *engine_traits(const struct engine *engine);
char *const *engine_taints(const struct engine *engine);

/* Could the node ever take this request, if it were empty? IMPOSSIBLE names the resource, UNPLACEABLE the label or feature that
 * the node lacks. What may pass (a taint, those that run there) is no reason. */
int engine_check(const struct engine *engine, const struct engine_request *request, struct error *error);
/* Joins the queue. Already there or running: 0, nothing changes. -ENOSPC: it could never run. */
int engine_submit(struct engine *engine, const struct engine_request *request, uint64_t now);
/* It holds its room already (adopted after a restart, or resumed): never refused. */
int engine_occupy(struct engine *engine, const struct engine_request *request, uint64_t now);
/* Its request changed. In the queue it keeps when it came; running, it holds the new room from now on, or, where it would
 * take more of something than is free, nothing changes: NO_ROOM. Absent: 0. */
int engine_change(struct engine *engine, const struct engine_request *request, uint64_t now, struct error *error);
/* Leaves the queue, or gives its room back; `ended`: by itself, after all of its work, which its class learns from.
 * Absent: nothing. */
void engine_release(struct engine *engine, const char *id, bool ended, uint64_t now);
/* It gave way by being paused, asked for that or for a suspend: it waits again, and keeps its memory, or, swapped out, holds
 * nothing. It is still there, for those that want to be near it or far from it. Absent or not running: nothing. */
int engine_paused(struct engine *engine, const char *id, bool swapped, uint64_t now);
/* It could not give way and runs on; it is not asked again. */
void engine_refused(struct engine *engine, const char *id, uint64_t now);

enum engine_verdict {
    ENGINE_START,   /* it may start (or, paused, go on) and from now on holds its room */
    ENGINE_PAUSE,   /* it shall give way by being paused: then engine_paused, or engine_refused */
    ENGINE_SUSPEND, /* it shall give way by going to disk: then engine_release, and engine_submit with what it has done */
};
struct engine_decision {
    enum engine_verdict verdict;
    void *userdata;
};
/* Decides. -ENOMEM. */
int engine_run(struct engine *engine, uint64_t now);
/* The decisions of engine_run in their order; false when there are no more. */
bool engine_next(struct engine *engine, struct engine_decision *ret);
/* Is there somebody waiting whose turn may come by the passing of time alone? Then engine_run is due every so often. */
bool engine_is_restless(const struct engine *engine);

enum engine_standing {
    ENGINE_ABSENT,
    ENGINE_QUEUED,
    ENGINE_ADMITTED,
};
/* What keeps one from the node whatever room there is. */
struct engine_refusal {
    enum filter filter; /* FILTER_PASSED: nothing; FILTER_CPU and FILTER_MEMORY: what is guaranteed */
    const char *term;   /* its own, or the other's (against), or the taint; borrowed */
    const char *other;  /* name of the first that stands in its way; borrowed; NULL: none */
    size_t others;      /* how many do */
    bool against;       /* they keep away from it */
    bool ahead;         /* they wait before it */
    uint64_t wanted, free; /* to guarantee: in thousandths of a CPU, or bytes */
};
struct engine_explanation {
    enum engine_standing standing;
    bool barred;          /* it waits for the node to take it, apart from the order */
    struct engine_refusal refusal;
    size_t position;      /* from 1 in the queue */
    const char *resource; /* what it waits for: "cpus" or "memory"; NULL: those ahead of it */
    uint64_t wanted, free; /* in the resource's unit, of this request's kind */
    uint64_t since;       /* when it was submitted */
    uint64_t expected;    /* expected run time, microseconds; UINT64_MAX: without end */
};
void engine_explain(const struct engine *engine, const char *id, struct engine_explanation *ret);

/* Does it wait for room or its turn, and not for the node to take it at all? */
bool engine_waits_for_room(const struct engine *engine, const char *id);

/* Walks the queue in order, for those who explain all of it: from a zeroed cursor on, *ret_userdata and *ret_why (or NULL, which is
 * quicker) until it returns false. What is told of each is right; if the queue changes meanwhile, some may be left out or told twice. */
struct engine_cursor {
    struct queue_cursor cursor;
    uint32_t apart; /* the next of those that wait apart, and how many of them were told */
    size_t apart_count;
};
bool engine_walk(const struct engine *engine, struct engine_cursor *cursor, void **ret_userdata,
                 struct engine_explanation *ret_why);

/* A forecast takes time with the square of how many it is for: a thousand are some ten milliseconds. */
#define ENGINE_FORESEEN 1000

/* When each will start, if nobody else came and estimates held. */
struct engine_forecast {
    void *userdata;
    const char *id, *name; /* borrowed until the engine changes */
    uint32_t handle;
    struct engine_explanation why;
    uint64_t start; /* UINT64_MAX: not before somebody without a known end leaves */
};
/* The first `limit` of the queue. Returns how many, or -ENOMEM. */
ssize_t engine_foresee(const struct engine *engine, uint64_t now, struct engine_forecast *ret, size_t limit);

/* Each that runs or waits, by the order in which it came: what keeps it from a node of these traits and taints, beside those
 * that run. `gone`: there is no node. False at the end; *position starts at 0. */
struct engine_verdict_of {
    const char *name; /* borrowed */
    bool runs;
    struct engine_refusal now, then;
};
bool engine_suppose_place(const struct engine *engine, char *const *traits, char *const *taints, bool gone, size_t *position,
                          struct engine_verdict_of *ret);
/* Those that run there and are selected by a term, but for one id (or NULL). */
size_t engine_selected(const struct engine *engine, const char *term, const char *but);
/* The terms of those that run there and keep away from one that runs or waits; false at the end. *position starts at 0. */
bool engine_against(const struct engine *engine, const char *id, size_t *position, const char **ret_term);

/* The share of the processors, beside others, that a priority from -100 to 100 earns, as a control group's weight: 10 to
 * 1000, 100 for priority 0; opposite priorities are as far below as above. */
uint64_t engine_cpu_weight(int64_t priority);

struct engine_totals {
    uint64_t promised_cpus, promised_memory; /* sums of requests admitted */
    uint64_t taken_cpus, taken_memory;       /* of the physical capacity, after the ratios */
    size_t admitted, queued;
};
void engine_totals(const struct engine *engine, struct engine_totals *ret);
