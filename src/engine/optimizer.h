// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/consolidation.h"

/* What could be better about those that run, as a plan: a list of steps with what each gains and costs and why, and for
 * everybody else what keeps it as it is. Pure: who carries a plan out does so by ordinary requests.
 *
 *   resize   what is promised follows what is used. Less: the measured peak with headroom, where that is well below what is
 *            promised; the limit stays, so that only the promise shrinks. More: up to the limit, where more is used than
 *            promised and the node has room.
 *   suspend  who idles goes to disk, where somebody of at least its priority waits for the room, resizing does not give
 *            enough and idle ones together do. Nobody is paused: a pause gives no promised room back, and who idles uses no
 *            processor that it could free.
 *   move     with several nodes, what consolidation.h says of those that have no other step.
 *
 * It does not swing: less is promised only down to (1 + headroom) x peak and where that is at most `shrink` of the
 * promise, more only above `full` of it, with full x (1 + headroom) > 1 > shrink. So, with demands that stay, whoever was
 * resized fits. Besides, an instance stays as it is for `cooldown` after any change, and is measured anew after a step. */

/* --- measuring ------------------------------------------------------------------------------------------ */

#define OPTIMIZER_WINDOW UINT64_C(3600000000) /* µs; the peak is of this window and the one before */

/* What an instance was seen to use in this run. Zeroed: nothing yet. */
struct optimizer_use {
    uint64_t since, last;   /* µs of a steady scale: first and last observation */
    uint64_t counter;       /* µs of processor time at the last one that counted */
    uint64_t counted;       /* when that was */
    struct trend cpu;      /* thousandths of a processor */
    uint64_t memory;        /* bytes, last seen */
    uint64_t window;        /* when the present window began */
    double cpu_peak[2];     /* of the present window, of the one before */
    uint64_t memory_peak[2];
};
/* `cpu_us`: processor time used so far; less than before: another run, everything is forgotten. Rates are
 * taken over `least` µs or more. */
void optimizer_observe(struct optimizer_use *use, uint64_t cpu_us, uint64_t memory, uint64_t least, uint64_t now);

/* --- planning ------------------------------------------------------------------------------------------- */

struct optimizer_parameters {
    uint64_t observe;   /* s that it must have been measured for */
    uint64_t cooldown;  /* s that it stays as it is after a change */
    double headroom;    /* added to the measured peak */
    double shrink;      /* less is promised only if that is at most this share of what is */
    double full;        /* more is promised only where use is above this share */
    double idle;        /* who never used more than this share of its limit idles */
    double disk_rate;   /* bytes a second that memory goes to disk at; an estimate, for the cost */
    double wire_rate;   /* the same between nodes */
    struct consolidation_parameters moves;
};
void optimizer_parameters_init(struct optimizer_parameters *parameters);
/* What would swing or is no share: BAD_VALUE, OUT_OF_RANGE name the parameter. */
int optimizer_parameters_check(const struct optimizer_parameters *parameters, struct error *error);

enum optimizer_way {
    OPTIMIZER_MAY_RESIZE = 1 << 0,
    OPTIMIZER_MAY_SUSPEND = 1 << 1,
    OPTIMIZER_MAY_MOVE = 1 << 2,
};

struct optimizer_node {
    uint64_t cpus, memory;           /* physical: thousandths, bytes */
    uint64_t free_cpus, free_memory; /* of these not promised */
    const double *power;             /* as in consolidation.h; NULL: 100 W idle, 200 W full */
    bool closed;
};

/* What is promised of one resource, and between what. */
struct optimizer_amount {
    uint64_t promised, floor, most; /* most: its limit; promised if it cannot get more while it runs */
    uint32_t ratio;                 /* overcommit, percent: what it takes of the node is promised x 100 / ratio */
};

struct optimizer_instance {
    uint32_t node;
    int64_t priority;
    unsigned ways;
    bool pinned;       /* by its owner */
    bool running;
    uint64_t changed;  /* µs of the last change by anybody; 0: long ago */
    struct optimizer_amount cpus, memory;
    struct optimizer_use use;
};

/* The first in the queue that lacks room. */
struct optimizer_waiter {
    uint32_t node;
    int64_t priority;
    uint64_t cpus, memory; /* physical, missing on the node beside what is free */
};

enum optimizer_action {
    OPTIMIZER_RESIZE,
    OPTIMIZER_SUSPEND,
    OPTIMIZER_MOVE,
};
extern const char *const optimizer_actions[]; /* "resize", … */

enum optimizer_reason {
    OPTIMIZER_USES_LESS,
    OPTIMIZER_USES_MORE,
    OPTIMIZER_IDLES,
    OPTIMIZER_RELIEVES,
    OPTIMIZER_TOO_LARGE,
    OPTIMIZER_EMPTIES,
};
extern const char *const optimizer_reasons[]; /* "uses-less", … */

struct optimizer_step {
    uint32_t instance;
    enum optimizer_action action;
    enum optimizer_reason reason;
    uint64_t cpus, memory;              /* resize: promised after it */
    uint32_t to;                        /* move */
    int64_t cpus_gain, memory_gain;     /* physical, for the node it is on; below 0: taken */
    uint64_t cost_bytes;                /* written or sent */
    double cost_seconds;                /* in which it does not run; an estimate */
};

/* Why an instance has no step. */
enum optimizer_hold {
    OPTIMIZER_HAS_STEP,
    OPTIMIZER_FITS,       /* what is promised fits what is used */
    OPTIMIZER_RESTS,      /* it does not run */
    OPTIMIZER_PINNED,     /* its owner said so */
    OPTIMIZER_RESERVED,   /* its room is reserved: fixed allocation */
    OPTIMIZER_MEASURING,  /* not measured for long enough */
    OPTIMIZER_COOLS,      /* it changed not long ago */
    OPTIMIZER_NO_ROOM,    /* it uses more than is promised; the node has no room */
    OPTIMIZER_AT_LIMIT,   /* it uses all that it may; only its owner can give it more */
    OPTIMIZER_HOLD_COUNT,
};
extern const char *const optimizer_holds[];          /* "fits", … */
const char *optimizer_hold_sentence(enum optimizer_hold hold);

struct optimizer_input {
    const struct optimizer_parameters *parameters;
    const struct optimizer_node *nodes;
    size_t node_count;
    const struct optimizer_instance *instances;
    size_t instance_count;
    const struct optimizer_waiter *waiter; /* NULL: nobody lacks room */
    uint64_t now; /* µs */
};

struct optimizer_plan {
    struct optimizer_step *steps; /* in the order in which they should be done */
    size_t count;
    enum optimizer_hold *holds;   /* of each instance */
    bool waiter_fits;             /* with the plan done, the one that waits has its room */
};
void optimizer_plan_done(struct optimizer_plan *plan);
#define _cleanup_optimizer_plan_ _cleanup_(optimizer_plan_done)
/* -ENOMEM. The same input gives the same plan. */
int optimizer_plan_make(const struct optimizer_input *input, struct optimizer_plan *ret);
