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

/* What giving way takes, in the queue's unit of time. */
struct queue_costs {
    int64_t pause;  /* to be paused and to go on */
    double suspend; /* beyond that to go to disk and back, for each unit of memory */
};

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
    double processor;    /* units of demand.cpus that make a processor; 0: one */
    bool services_first; /* what has no end comes before what has one, unless that waited beyond the alarm */
    bool deferred;       /* who is to give way keeps its room until queue_yield says that it has */
    int64_t residency;   /* nobody has to give way before it ran that long */
    struct queue_costs costs; /* deferred: the cheaper way that helps is asked for */
};

/* How something running can give way; bits. */
enum queue_yield {
    QUEUE_YIELD_PAUSE = 1 << 0,   /* cheap; gives processors back and keeps its memory */
    QUEUE_YIELD_SUSPEND = 1 << 1, /* gives everything back */
};

struct queue_request {
    uint64_t id;      /* breaks ties */
    uint64_t owner;   /* whose use counts for fair shares */
    int64_t submitted;
    int64_t estimate; /* expected run time, at least 1; TIME_FOREVER for a service */
    struct demand demand;
    int64_t priority;
    double weight;    /* for rr; 0: the parameter rr.weight */
    int64_t done;     /* run time it had before */
    unsigned yields;  /* deferred: enum queue_yield */
    double urgency;   /* expected 1 / max(run time, 10 s), in 1/s; 0: from the estimate */
    void *userdata;
};

enum queue_state {
    QUEUE_ABSENT,
    QUEUE_WAITING,
    QUEUE_RUNNING,
    QUEUE_EXPIRED, /* runs beyond its estimate and holds nothing */
    QUEUE_BARRED,  /* waits apart: a pass does not see it */
};

/* What is kept of each; 128 bytes, and 28 beside it: with its place in the order less than 200. */
struct queue_entry {
    uint64_t id, owner, rank;
    int64_t submitted, started, expected_end, done, key;
    int64_t planned; /* conservative: when its reservation begins */
    double tag, constant; /* of rr; the part of its score that stays */
    void *userdata;
    uint64_t held; /* memory that it keeps while it waits, since it was only paused */
    float weight, urgency;
    int32_t priority;
    enum queue_state state : 8;
    uint8_t yields, yielding; /* enum queue_yield: what it can, what it was asked for */
    uint8_t spared;           /* enum queue_yield: what it is not asked for now */
};

int queue_new(const struct queue_options *options, struct queue **ret);
void queue_free(struct queue *queue);
DEFINE_CLEANUP(struct queue *, queue_free)
#define _cleanup_queue_ _cleanup_(queue_freep)

/* Joins those that wait. -ENOSPC: it asks for more than the capacity; -ENOMEM. */
int queue_submit(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle);
/* Ends: what waits leaves, what runs gives its room back. The handle is void afterwards, also after -ENOMEM, which says that its
 * owner was not charged. */
int queue_remove(struct queue *queue, uint32_t handle, int64_t now);
/* It runs longer than expected: `estimate` is its whole run time from its start on. */
int queue_extend(struct queue *queue, uint32_t handle, int64_t estimate, int64_t now);
/* What is expected of one that waits has changed, and so may its place. -ENOMEM. */
int queue_expect(struct queue *queue, uint32_t handle, int64_t estimate, double urgency, int64_t now);
/* A burst of round robin ended: its tag moves on, and others may come first. -ENOMEM. */
int queue_burst(struct queue *queue, uint32_t handle, int64_t now);

/* What a pass decided, in order. Starting and stopping has happened in the queue when this is called; the callback must not
 * change the queue. With `deferred`, WAITING asks it to give way: `yielding` of its entry says how. */
typedef void (*queue_decided)(void *userdata, uint32_t handle, enum queue_state state);
/* Decides who starts now; under a preemptive policy also who gives way (WAITING). -ENOMEM. */
int queue_pass(struct queue *queue, int64_t now, queue_decided decided, void *userdata);

/* --- for a queue that lives (queue-live.c) --- */
/* It runs already and holds its room, whatever is free. -ENOMEM. */
int queue_occupy(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle);
/* It asks for something else: demand, estimate, priority, weight and ways to yield of the request count. Running, it holds
 * that from now on, whatever is free. When it came stays. -ENOMEM. */
int queue_change(struct queue *queue, uint32_t handle, const struct queue_request *request, int64_t now);
/* It has given way and waits again, with its work kept; paused it keeps its memory. -ENOMEM. */
int queue_yield(struct queue *queue, uint32_t handle, enum queue_yield how, int64_t now);
/* It could not give way: it runs on and is not asked again. */
void queue_refuse(struct queue *queue, uint32_t handle);
/* The ways (enum queue_yield) that are not worth their cost at present: it is not asked for them until told otherwise. */
void queue_spare(struct queue *queue, uint32_t handle, unsigned ways);
/* What a way would take. */
int64_t queue_yield_cost(const struct queue *queue, uint32_t handle, enum queue_yield way);
/* Other costs from now on. */
void queue_set_costs(struct queue *queue, const struct queue_costs *costs);
/* Why one that runs is not asked to give way for one that waits. */
enum queue_obstacle {
    QUEUE_MAY_BE_ASKED,
    QUEUE_IS_ASKED,       /* it was asked already */
    QUEUE_RUNS_TOO_SHORT, /* for the residency, or for its burst of round robin */
    QUEUE_IS_SPARED,      /* its way is not worth the cost at present */
    QUEUE_COMES_FIRST,    /* it comes before the one that waits */
    QUEUE_IS_SERVICE,     /* it has no end: an alarm leaves it in peace */
    QUEUE_FREES_NOTHING,  /* none of its ways frees what is lacking: a pause keeps memory */
    QUEUE_CANNOT_YIELD,   /* it has no way, or could not go one when it was asked */
};
struct queue_prospect {
    enum queue_obstacle obstacle;
    unsigned way;       /* enum queue_yield: the cheapest that helps, worth it or not; 0: none */
    int64_t key;        /* its place in the order: the largest is asked first */
    struct demand gift; /* what that way gives back */
};
/* As if the waiting one were the first of the queue, and the ways `spared` not worth it. */
void queue_find_obstacle(const struct queue *queue, uint32_t waiting, uint32_t running, unsigned spared, int64_t now,
                         struct queue_prospect *ret);
/* For whom those were asked to give way that the last pass asked; UINT32_MAX: nobody was. */
uint32_t queue_asked_for(const struct queue *queue);
/* One that waits does so apart from now on: no pass looks at it, and it is in nobody's way. It must not be paused. */
void queue_bar(struct queue *queue, uint32_t handle);
/* All of those are back in their places. -ENOMEM: some of them. */
int queue_unbar(struct queue *queue);
size_t queue_barred(const struct queue *queue);
/* Handles are below this. */
size_t queue_handles(const struct queue *queue);
/* Other rules from now on; who waits is ordered anew, who runs runs on. -ENOMEM: nothing changed, or, should that happen in
 * the middle, the order is the old one. */
int queue_configure(struct queue *queue, const struct queue_options *options, int64_t now);
int queue_copy(const struct queue *queue, struct queue **ret);
/* A copy in memory that is there already, which must be aligned and large enough, and is freed instead of it. Nothing of it may be
 * changed: it is for looking, and to be copied. Where more than `most` wait, only the first `most` of them and those that run are
 * in it, with other handles: enough for a forecast, and to look at these. */
#define QUEUE_IMAGE_ALIGN 16
size_t queue_image_size(const struct queue *queue, size_t most);
struct queue *queue_image(const struct queue *queue, size_t most, void *memory);
/* In an image: what its entry hands back. */
void queue_set_userdata(struct queue *image, uint32_t handle, void *userdata);
/* Is the handle there, and of the same one as in the copy that was made before? */
bool queue_is_same(const struct queue *queue, const struct queue *copy, uint32_t handle);
/* The waiting in order: from a zeroed cursor on, until it returns false. The queue must not change meanwhile. */
struct queue_cursor {
    size_t block, slot;
};
bool queue_next_waiting(const struct queue *queue, struct queue_cursor *cursor, uint32_t *ret_handle);
/* The running by their expected end; index from 0. False at the end. */
bool queue_running_at(const struct queue *queue, size_t index, uint32_t *ret_handle);
/* From 1. It must wait. */
size_t queue_position(const struct queue *queue, uint32_t handle);
struct demand queue_demand(const struct queue *queue, uint32_t handle);
int64_t queue_estimate(const struct queue *queue, uint32_t handle);

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
/* The first `limit` in the order that the last pass made, with their expected starts: whoever looks changes nothing. Returns how
 * many, or -ENOMEM. */
ssize_t queue_forecast(const struct queue *queue, int64_t now, struct queue_forecast *ret, size_t limit);
