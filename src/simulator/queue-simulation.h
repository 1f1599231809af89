// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "engine/estimate.h"
#include "engine/queue.h"
#include "simulator/swf.h"

/* A log's jobs on virtual time through the engine's queue. */

enum semantics {
    /* All that ends at a moment, then all that comes, then one pass. */
    SEMANTICS_BATCH,
    /* As pyss: corrections of estimates, then each submission with a pass of its own, then each end with one; what has outlived
     * its estimate holds nothing; under EASY no pass follows a submission that does not fit. */
    SEMANTICS_PYSS,
    /* As RLScheduler: the best at a decision point is chosen and blocks until it fits; meanwhile, with backfilling, others
     * that fit in order of arrival if they are expected to end strictly before the moment at which it was expected to start. */
    SEMANTICS_RLSCHEDULER,
    SEMANTICS_COUNT,
};
extern const char *const semantics_names[SEMANTICS_COUNT + 1];

/* What tells how long a job runs. */
static inline struct run_traits swf_traits(const struct swf_job *job) {
    return (struct run_traits){ .owner = (uint64_t) job->user, .class = job->class, .cpus = job->processors,
                                .requested = job->requested };
}

struct queue_run {
    const struct swf_job *jobs; /* sorted by submission */
    size_t count;
    uint64_t processors, part, memory; /* as of swf_log */
    const struct policy *policy;
    struct policy_parameters parameters;
    enum backfill backfill;
    enum estimate estimate;
    enum semantics semantics;
    bool stretches; /* are to be kept */
};

/* The machine of the log. */
static inline void queue_run_on(struct queue_run *run, const struct swf_log *log) {
    run->processors = log->processors;
    run->part = log->part;
    run->memory = log->memory;
}
/* Its whole processors. */
static inline double queue_run_machine(const struct queue_run *run) {
    return (double) run->processors / (double) (run->part ? run->part : 1);
}

/* For which a job ran without a break: [from, to). */
struct queue_stretch {
    uint32_t job;
    int64_t from, to;
};

struct queue_outcome {
    int64_t *starts; /* first start of each job; both of `storage` */
    int64_t *ends;
    struct array storage;
    struct queue_stretch *stretches; /* in the order of their ends, or NULL; owned */
    size_t stretch_count, stretch_room;
    double bsld, root_square_bsld; /* means over all jobs of max(1, (wait + run) / max(run, 10 s)), and root of the square's */
    double wait, flow;             /* means, s */
    int64_t wait_95, wait_maximum;
    double utilisation;
    uint64_t preemptions, corrections;
    size_t waiting_maximum;
};

/* At least one job. Memory grows with the jobs that wait or run (under SEMANTICS_RLSCHEDULER with all); what is known of each job is
 * kept as in array.h. -ENOMEM, -ENOSPC for a job
 * above the machine's size, negative errno of that file. */
int queue_simulate(const struct queue_run *run, struct queue_outcome *ret);
/* queue_simulate for SEMANTICS_RLSCHEDULER, which needs no engine queue: fills starts and ends. */
int rlscheduler_simulate(const struct queue_run *run, struct queue_outcome *outcome);
/* Frees what is known of each job; the figures stay. */
void queue_outcome_done(struct queue_outcome *outcome);
#define _cleanup_outcome_ _cleanup_(queue_outcome_done)
