// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "simulator/queue-simulation.h"

/* Which policy with which parameters serves a recorded load best? Chosen on the first half of each log, reported on the
 * second half and the whole as well. */

enum tune_goal {
    TUNE_BSLD,     /* mean bounded slowdown */
    TUNE_WAIT,     /* mean wait */
    TUNE_P95,      /* 95th percentile of waits */
    TUNE_FAIRNESS, /* root of the mean squared bounded slowdown: what treats few very badly is dear */
    TUNE_MOVES,    /* how often somebody was taken off; of equals the one with the smaller bounded slowdown */
    TUNE_GOAL_COUNT,
};
extern const char *const tune_goals[TUNE_GOAL_COUNT + 1];

struct tune {
    const struct swf_log *logs;
    char *const *paths;
    size_t log_count;
    const struct queue_run *candidates; /* policy, backfilling, estimates, semantics and first parameters to choose from */
    size_t candidate_count;
    enum tune_goal goal;
    uint64_t steps; /* of the search for parameters */
    uint64_t workers;
};

/* Prints what was compared and what it proposes, which is *ret. -ENOMEM. Deterministic. */
int queue_tune(const struct tune *tune, struct queue_run *ret);
/* Does the policy of the choice have this parameter? */
bool queue_tune_has(const struct queue_run *choice, const struct policy_parameter_row *row);
