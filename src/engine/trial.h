// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/cleanup.h"
#include "engine/copy.h"

/* Questions that are answered by trying: the same code decides, on a copy of the engine, and on any thread, since with 10,000 waiting
 * that takes tens of milliseconds. */

/* What would let one that waits start now, and when it is expected to. A trial is made of a copy, which it borrows, as soon as that
 * was taken from the engine, then run; then its result is read beside the engine, which may have gone on. */
struct engine_trial;
struct engine_flip {
    uint64_t fewer_cpus, less_memory; /* if it asked for so much less (thousandths, bytes); both 0: that does not help */
    const char *gone;  /* if this running one were suspended (its name, borrowed); NULL: no single one helps */
    const char *ahead; /* if this waiting one were not there; NULL: that does not help */
    uint64_t start;    /* expected; UINT64_MAX: not known, or it is not among the first ENGINE_FORESEEN */
};
/* -ENOENT: it does not wait. -ENOMEM. */
int engine_trial_new(const struct engine_copy *copy, const struct engine *engine, const char *id, uint64_t now,
                     struct engine_trial **ret);
void engine_trial_free(struct engine_trial *trial);
DEFINE_CLEANUP(struct engine_trial *, engine_trial_free)
#define _cleanup_trial_ _cleanup_(engine_trial_freep)
/* -ENOMEM. */
int engine_trial_run(struct engine_trial *trial);
/* Of one that was run. Those who are not there any more are not told. */
void engine_trial_flip(const struct engine_trial *trial, const struct engine *engine, struct engine_flip *ret);
/* All of it at once. -ENOENT: it does not wait. -ENOMEM. */
int engine_find_flip(const struct engine *engine, const char *id, uint64_t now, struct engine_flip *ret);

/* What if it were otherwise? */
struct engine_supposition {
    size_t add;                           /* so many more of `request`; at most 10,000 */
    const struct engine_request *request; /* its id and name do not count */
    const struct engine_options *options; /* other rules; NULL: the same */
    uint64_t cpus, memory;                /* of the node; 0: the same */
    bool gone, otherwise;                 /* there is no node; it is these instead (engine_set_place): */
    char *const *traits, *const *taints;
    struct prediction prediction;         /* of those added (engine_supposition_predict) */
};
struct engine_prospect {
    const char *name;       /* NULL: one of those that were added */
    uint64_t before, after; /* expected starts; UINT64_MAX: not known, or not there */
    size_t position_before, position_after; /* 0: not in the queue */
};
/* What is expected of those added: by what the engine learnt, which a copy does not have. */
void engine_supposition_predict(struct engine_supposition *supposition, const struct engine *engine);
/* The first ENGINE_FORESEEN of those that wait, in their present order, those apart last, then those added. Of an engine, or of a
 * copy of all. *ret is allocated, its texts borrowed. Returns how many, or -ENOMEM, or -ENOSPC where what is added could never run. */
ssize_t engine_suppose(const struct engine *engine, const struct engine_supposition *supposition, uint64_t now,
                       struct engine_prospect **ret);
