// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdatomic.h>

#include "base/map.h"
#include "engine/engine.h"
#include "engine/yielding.h"

struct ledger;

/* Shared by engine.c (who is there, and decisions) and what explains, records and tries them. */

/* What does not change once it is made: copies of the engine share it with the engine, on whatever thread they are looked at. */
struct engine_texts {
    atomic_uint users;
    char texts[];
};
struct engine_lists {
    atomic_uint users;
    char **lists[WISH_COUNT];
};

struct engine_entry {
    const char *id, *name; /* within `texts` */
    enum kind kind;
    uint64_t cpus, memory; /* as asked */
    uint64_t owner, class;
    uint64_t expected, limit; /* as declared, µs; 0: not */
    uint64_t learnt;       /* the predictor's moment when its estimate was made */
    int64_t first;         /* estimate it began with */
    int64_t since;         /* when it was admitted last */
    unsigned corrections;
    bool service, admitted, paused; /* paused: waits, is still there, and keeps its memory unless that was swapped out */
    char **wishes[WISH_COUNT]; /* those of `lists` */
    struct engine_guarantee guarantee;
    uint32_t handle;
    void *userdata;
    struct engine_texts *texts;
    struct engine_lists *lists; /* NULL: it has no wishes */
};

struct engine_place {
    char **traits, **taints;
};

struct engine_pending {
    struct engine_entry *entry; /* NULL: it went away meanwhile */
    enum engine_verdict verdict;
};

struct engine {
    struct engine_node node;
    struct engine_options options;
    uint64_t scale_cpus, scale_memory; /* units of the queue's demands in a thousandth of a CPU and in a byte */
    struct queue *queue;
    struct predictor *predictor;
    bool learning;        /* something ended since those that wait were expected anew */
    int64_t expected_at;  /* when they last were */
    struct engine_measured measured[ENGINE_COST_COUNT];
    struct map *entries;
    int64_t now;          /* of the pass under way */
    uint64_t sequence;
    uint64_t promised_cpus, promised_memory;
    struct engine_pending *pending;
    size_t pending_first, pending_count, pending_room;
    struct ledger *ledger; /* NULL: nothing is recorded */
    struct engine_place place;
    size_t constrained;    /* entries that ask for more than room */
    size_t repelling;      /* entries with an anti-affinity */
    size_t promises;       /* how often one was admitted */
};

/* --- entries.c --- */
/* Its texts, of none before. -ENOMEM. */
int entry_set_texts(struct engine_entry *entry, const char *id, const char *name);
/* Its wishes from now on. -ENOMEM: as they were. */
int entry_set_wishes(struct engine_entry *entry, const struct engine_wishes *wishes);
/* A copy that shares texts and wishes with it. */
void entry_share(const struct engine_entry *entry, struct engine_entry *ret);
/* Its part of texts and wishes; on any thread. */
void entry_done(struct engine_entry *entry);

/* --- engine.c --- */
/* A new entry with the names and numbers of the request, in the map. -ENOMEM. */
int engine_entry_new(struct engine *engine, const struct engine_request *request, struct engine_entry **ret);
struct engine_entry *engine_entry_at(const struct engine *engine, uint32_t handle);
/* What a request takes of the physical capacity, in the queue's units. */
struct demand engine_take(const struct engine *engine, enum kind kind, uint64_t cpus, uint64_t memory);
/* What there is of the resource for a request of the kind, when so much of the queue's units is free. */
uint64_t engine_free_cpus(const struct engine *engine, enum kind kind, uint64_t room);
uint64_t engine_free_memory(const struct engine *engine, enum kind kind, uint64_t room);
void engine_queue_options(const struct engine *engine, const struct engine_options *options, struct queue_options *ret);
/* What giving way takes, from what was measured. */
void engine_costs(const struct engine *engine, struct queue_costs *ret);
/* Before a pass: tells the queue whom not to ask to give way, since it is not worth that yet. */
void engine_spare(struct engine *engine, int64_t now);
/* Members "pause", "suspend" and "measured" for one that runs. */
void engine_emit_costs(const struct engine *engine, const struct engine_entry *entry, int64_t now, struct emitter *emitter);
/* What the queue is told of a request. */
void engine_queue_request(const struct engine *engine, const struct engine_request *request, uint64_t now,
                          struct queue_request *ret);
/* Where it is known how long it will run. */
void engine_queue_predicted(const struct engine *engine, const struct engine_request *request,
                            const struct prediction *prediction, uint64_t now, struct queue_request *ret);

/* --- constraints.c --- */
/* It is about to go. */
void constraints_forget(struct engine *engine, const struct engine_entry *entry);
/* What it asks for beside room, from now on. -ENOMEM: as it was. */
int constraints_note(struct engine *engine, struct engine_entry *entry, const struct engine_request *request);
/* Bars those that the node does not take, and nobody else, in the order of the queue: who is barred for the sake of one that
 * waits, waits for one that comes before it. True: somebody could be barred at all. -ENOMEM. */
int constraints_bar(struct engine *engine, int64_t now);
/* UNPLACEABLE names the label or feature that the node lacks. */
int constraints_check(const struct engine *engine, const struct engine_wishes *wishes, struct error *error);
void constraints_explain(const struct engine *engine, const struct engine_entry *entry, struct engine_refusal *ret);
