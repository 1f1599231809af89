// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* How long will it run? What was asked for is an upper bound and mostly far too long; what the same user's or class's last
 * ones took is nearer. */

enum estimate {
    ESTIMATE_REQUESTED,
    ESTIMATE_ACTUAL,    /* clairvoyant: in simulations alone */
    ESTIMATE_TSAFRIR,   /* "predicted": mean of the owner's last two run times */
    ESTIMATE_HISTORY,   /* what runs used of their requests: everybody's, those of this request, of this owner, of both */
    ESTIMATE_LEARNING,  /* likewise, and anew for those that wait whenever something of their owner ends */
    ESTIMATE_COUNT,
};

extern const char *const estimate_names[ESTIMATE_COUNT + 1];

struct predictor;
/* `second`: how many units of time make a second. -ENOMEM. */
int predictor_new(enum estimate kind, int64_t second, struct predictor **ret);
void predictor_free(struct predictor *predictor);
DEFINE_CLEANUP(struct predictor *, predictor_free)
#define _cleanup_predictor_ _cleanup_(predictor_freep)

/* The expected run time of what `owner` (a user, a class) submits now, at least 1, never above `requested`; `actual` is used
 * by ESTIMATE_ACTUAL alone. Tsafrir, Etsion, Feitelson, "Backfilling using system-generated predictions rather than
 * user runtime estimates", 2007: the whole part of the mean of the owner's last two run times. */
int64_t predictor_guess(const struct predictor *predictor, uint64_t owner, uint64_t cpus, int64_t requested,
                        int64_t actual);
/* What is expected of a run. */
struct prediction {
    int64_t time;   /* as predictor_guess */
    double urgency; /* expected value of 1 / max(run time, 10 s), in 1/s: how fast its slowdown grows while it waits. Under
                       ESTIMATE_HISTORY the mean over its history: one in three that ends at once makes all urgent */
};
struct prediction predictor_predict(const struct predictor *predictor, uint64_t owner, uint64_t cpus,
                                    int64_t requested, int64_t actual);
/* Something of `owner` ended after `run`. -ENOMEM. */
int predictor_learn(struct predictor *predictor, uint64_t owner, uint64_t cpus, int64_t requested, int64_t run);

/* All that was learnt, as numbers: from *position 0 on, until it returns false; and one of them back. -ENOMEM. */
#define PREDICTOR_VALUES 6
bool predictor_next(const struct predictor *predictor, size_t *position, int64_t ret[PREDICTOR_VALUES]);
int predictor_restore(struct predictor *predictor, const int64_t values[PREDICTOR_VALUES]);

/* It still runs at the end of its estimate: the next one. `first` is the prediction it began with, *corrections counts
 * from 0. The steps are 1, 5, 15, 30 minutes, 1, 2, 5, 10, 20, 50, 100 hours above the first, capped by the request.
 * `second` is the length of a second in the caller's unit. */
int64_t estimate_correct(int64_t first, unsigned *corrections, int64_t requested, int64_t second);
