// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/instance.h"

/* Decides who runs. Pure: (state, event, now) -> decisions; no I/O, no clock of its own, the same input gives the same
 * output. This first cut admits in arrival order on one node; policies, placement and allocation come behind the same
 * calls. */

struct engine;

/* Capacity of a node and how much of it may be promised: V = P x C, a ratio C of its own for each kind, in percent.
 * What an instance takes of the physical capacity is its request divided by its kind's ratio. */
struct engine_node {
    uint64_t cpus;   /* thousandths of a CPU */
    uint64_t memory; /* bytes that instances may have */
    uint64_t overcommit_cpu[KIND_COUNT];
    uint64_t overcommit_memory[KIND_COUNT];
};

struct engine_request {
    const char *id; /* uuid; copied */
    enum kind kind;
    uint64_t cpus;   /* thousandths */
    uint64_t memory; /* bytes */
    int64_t priority;
    void *userdata;  /* handed back by engine_next */
};

int engine_new(const struct engine_node *node, struct engine **ret);
void engine_free(struct engine *engine);

/* Could the node ever take this request, if it were empty? IMPOSSIBLE names the resource. */
int engine_check(const struct engine *engine, const struct engine_request *request, struct error *error);
/* Joins the queue at time `now` (microseconds, any steady scale). Already there or running: 0, nothing changes. */
int engine_submit(struct engine *engine, const struct engine_request *request, uint64_t now);
/* It holds its room already (adopted after a restart, or resumed): never refused. */
int engine_occupy(struct engine *engine, const struct engine_request *request);
/* Its request changed. In the queue it keeps its place; running, it holds the new room from now on, or, where it would
 * take more of something than is free, nothing changes: NO_ROOM. Absent: 0. */
int engine_change(struct engine *engine, const struct engine_request *request, struct error *error);
/* Leaves the queue, or gives its room back. Absent: nothing. */
void engine_release(struct engine *engine, const char *id);
/* The next decision: a queued request that may start now and from then on holds its room; NULL when none may. */
void *engine_next(struct engine *engine);

enum engine_standing {
    ENGINE_ABSENT,
    ENGINE_QUEUED,
    ENGINE_ADMITTED,
};
struct engine_explanation {
    enum engine_standing standing;
    size_t position;     /* from 1 in the queue */
    const char *resource; /* what it waits for: "cpus" or "memory"; NULL: those ahead of it */
    uint64_t wanted, free; /* in the resource's unit, of this request's kind */
    uint64_t since;      /* when it was submitted */
};
void engine_explain(const struct engine *engine, const char *id, struct engine_explanation *ret);

/* Walks the queue in order, for those who explain all of it: from a zeroed cursor on, *ret_userdata and *ret_why (whose
 * position is right) until it returns false. The queue must not change meanwhile. */
struct engine_cursor {
    const void *entry;
    size_t position;
};
bool engine_walk(const struct engine *engine, struct engine_cursor *cursor, void **ret_userdata,
                 struct engine_explanation *ret_why);

/* The share of the processors, beside others, that a priority from -100 to 100 earns, as a control group's weight: 10 to
 * 1000, 100 for priority 0; opposite priorities are as far below as above. */
uint64_t engine_cpu_weight(int64_t priority);

struct engine_totals {
    uint64_t promised_cpus, promised_memory; /* sums of requests admitted */
    uint64_t taken_cpus, taken_memory;       /* of the physical capacity, after the ratios */
    size_t admitted, queued;
};
void engine_totals(const struct engine *engine, struct engine_totals *ret);
