// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/policy.h"
#include "engine/profile.h"

/* Those that wait, in the order of a policy, those that run, and the pass that decides who starts now. Pure: no clock, no
 * I/O; the same calls give the same decisions. Times are of any steady unit of which `second` make a second. */

enum backfill {
    BACKFILL_NONE,         /* strictly in order */
    BACKFILL_EASY,         /* the first has a reservation; others go ahead where they do not delay it */
    BACKFILL_EASY_SJBF,    /* likewise, the shortest first */
    BACKFILL_CONSERVATIVE, /* everybody has a reservation */
    BACKFILL_GREEDY,       /* whatever fits; nobody has a reservation */
    BACKFILL_COUNT,
};
extern const char *const backfill_names[BACKFILL_COUNT + 1];

struct queue;

struct queue_options {
    const struct policy *policy;
    struct policy_parameters parameters;
    enum backfill backfill;
    struct demand capacity;
    int64_t second;
    /* Scores that change with time are made anew in a pass when they are older than this; 0: in each. */
    int64_t refresh;
    /* What has outlived its estimate holds nothing any more (the event semantics of pyss). */
    bool expires;
};

struct queue_request {
    uint64_t id;      /* breaks ties */
    uint64_t owner;   /* whose use counts for fair shares */
    int64_t submitted;
    int64_t estimate; /* expected run time, at least 1; TIME_FOREVER for a service */
    struct demand demand;
    int64_t priority;
    double weight;    /* for rr; 0: the parameter rr.weight */
    void *userdata;
};

enum queue_state {
    QUEUE_ABSENT,
    QUEUE_WAITING,
    QUEUE_RUNNING,
    QUEUE_EXPIRED, /* runs beyond its estimate and holds nothing */
};

/* What is kept of each; 112 bytes, and 24 of demand and estimate beside it. */
struct queue_entry {
    uint64_t id, owner, rank;
    int64_t submitted, started, expected_end, done, key, priority;
    int64_t planned; /* conservative: when its reservation begins */
    double tag, weight;
    void *userdata;
    enum queue_state state;
};

int queue_new(const struct queue_options *options, struct queue **ret);
void queue_free(struct queue *queue);
DEFINE_CLEANUP(struct queue *, queue_free)
#define _cleanup_queue_ _cleanup_(queue_freep)

/* Joins those that wait. -ENOSPC: it asks for more than the capacity; -ENOMEM. */
int queue_submit(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle);
/* Ends: what waits leaves, what runs gives its room back. The handle is void afterwards. */
int queue_remove(struct queue *queue, uint32_t handle, int64_t now);
/* It runs longer than expected: `estimate` is its whole run time from its start on. */
int queue_extend(struct queue *queue, uint32_t handle, int64_t estimate, int64_t now);
/* A burst of round robin ended: its tag moves on, and others may come first. -ENOMEM. */
int queue_burst(struct queue *queue, uint32_t handle, int64_t now);

/* What a pass decided, in order. Starting and stopping has happened in the queue when this is called; the callback must not
 * change the queue. */
typedef void (*queue_decided)(void *userdata, uint32_t handle, enum queue_state state);
/* Decides who starts now; under a preemptive policy also who gives way (WAITING). -ENOMEM. */
int queue_pass(struct queue *queue, int64_t now, queue_decided decided, void *userdata);

const struct queue_entry *queue_entry(const struct queue *queue, uint32_t handle);
struct demand queue_free_room(const struct queue *queue, int64_t now);
size_t queue_waiting(const struct queue *queue);
size_t queue_running(const struct queue *queue);
/* Bytes that the queue holds. */
size_t queue_size(const struct queue *queue);

/* Why does it wait? */
enum queue_reason {
    QUEUE_REASON_CPUS,   /* too few processors are free */
    QUEUE_REASON_MEMORY,
    QUEUE_REASON_ORDER,  /* it would fit, but those ahead of it come first */
    QUEUE_REASON_NONE,   /* the next pass may start it */
};
struct queue_forecast {
    uint32_t handle;
    size_t position; /* from 1 */
    int64_t start;   /* expected, if nobody else came and estimates held: T_i = sum of T_j before it, over the profile */
    enum queue_reason reason;
};
/* The first `limit` in order with their expected starts. Returns how many, or -ENOMEM. */
ssize_t queue_forecast(struct queue *queue, int64_t now, struct queue_forecast *ret, size_t limit);
