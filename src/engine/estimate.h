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
/* Predicts by another kind from now on; what was learnt stays. */
void predictor_use(struct predictor *predictor, enum estimate kind);
/* How many histories are remembered at most; then the half that was touched last stays. 65,536 unless told, 128 at
 * least. */
void predictor_bound(struct predictor *predictor, size_t most);
void predictor_free(struct predictor *predictor);
DEFINE_CLEANUP(struct predictor *, predictor_free)
#define _cleanup_predictor_ _cleanup_(predictor_freep)

/* What tells how long something runs. */
struct run_traits {
    uint64_t owner;
    uint64_t class;    /* those of one class tell of each other; 0: none is named (logs), so those of one owner with one request */
    uint64_t cpus;     /* of the request; counts where no class is named */
    int64_t requested; /* the longest it may take; TIME_FOREVER: without end, unless two of its class ended */
};
/* What is expected of a run. */
struct prediction {
    int64_t time;   /* at least 1, never above what was requested. ESTIMATE_TSAFRIR (Tsafrir, Etsion, Feitelson, "Backfilling
                       using system-generated predictions rather than user runtime estimates", 2007): the whole part of the
                       mean of the last two run times of the owner, or, where one is named, of the class */
    double urgency; /* expected value of 1 / max(run time, 10 s), in 1/s: how fast its slowdown grows while it waits. Under
                       ESTIMATE_HISTORY the mean over its history: one in three that ends at once makes all urgent */
};
/* `actual` is used by ESTIMATE_ACTUAL alone. */
struct prediction predictor_predict(const struct predictor *predictor, const struct run_traits *traits, int64_t actual);
/* Such a one ended after `run`. Of what names a class all is learnt, whatever is predicted by. -ENOMEM. */
int predictor_learn(struct predictor *predictor, const struct run_traits *traits, int64_t run);
/* Counts what was learnt. */
uint64_t predictor_moment(const struct predictor *predictor);
/* Has something of the owner or of the class ended since that moment? */
bool predictor_has_news(const struct predictor *predictor, const struct run_traits *traits, uint64_t since);

/* All that was learnt, as numbers: from *position 0 on, until it returns false; and one of them back, in any order. -ENOMEM;
 * -EINVAL for what no history has. */
#define PREDICTOR_VALUES 9
bool predictor_next(const struct predictor *predictor, size_t *position, int64_t ret[PREDICTOR_VALUES]);
int predictor_restore(struct predictor *predictor, const int64_t values[PREDICTOR_VALUES]);

/* It still runs at the end of its estimate: the next one. `first` is the prediction it began with, *corrections counts
 * from 0. The steps are 1, 5, 15, 30 minutes, 1, 2, 5, 10, 20, 50, 100 hours above the first, capped by the request.
 * `second` is the length of a second in the caller's unit. */
int64_t estimate_correct(int64_t first, unsigned *corrections, int64_t requested, int64_t second);
