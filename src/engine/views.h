// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/scores.h"

/* The score of every node for one shape of request, kept while the shape recurs: a view catches up with the
 * few nodes that changed since it was last asked, instead of looking at all. Of each block of nodes it knows
 * the best score, so that the winner is found by looking at one number per block and one block. */

#define VIEW_BLOCK 64
#define VIEWS_MAX 128

struct view {
    uint64_t hash;
    uint64_t used;      /* when it was last asked, by count */
    uint64_t position;  /* of the nodes' changes that it knows */
    uint64_t version;   /* of the input that it was filled with */
    struct shape shape;
    int16_t *values;    /* the score; -1 - filter: refused */
    int16_t *best;      /* per block; below 0: none passes */
    size_t count;       /* nodes it covers */
    uint32_t refused[FILTER_STATIC];
};

struct views {
    struct view *views[VIEWS_MAX];
    uint64_t hashes[VIEWS_MAX];
    unsigned count;
    uint64_t clock;
};

void views_done(struct views *views);
/* The view of this shape, up to date. -ENOMEM. Valid until the next call. */
int views_get(struct views *views, const struct score_input *input, const struct score *score,
              const struct shape *shape, const struct view **ret);
/* Bytes per node of all views that there are. */
size_t views_memory(const struct views *views);
