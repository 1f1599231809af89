// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "engine/scores.h"

/* The score of every node for one shape of request, kept while the shape recurs: a view catches up with the
 * few nodes that changed since it was last asked, instead of looking at all. Of each block of nodes it knows
 * the best score, so that the winner is found by looking at one number per block and one block. */

#define VIEW_BLOCK 64
#define VIEWS_MAX 96

struct view {
    uint64_t hash;
    uint64_t used;      /* when it was last asked, by count */
    uint64_t position;  /* of the nodes' changes that it knows */
    uint64_t version;   /* of the input that it was filled with */
    struct shape shape;
    int16_t *values;    /* the score; -1 - filter: refused; whole blocks, filled up with INT16_MIN */
    int16_t *best;      /* per block; below 0: none passes; filled up likewise */
    size_t count;       /* nodes it covers */
    uint32_t refused[FILTER_STATIC];
};

/* Eight values at a time: compilers make vector instructions of it where the machine has them. */
#define VIEW_GROUP 8
typedef int16_t view_group __attribute__((vector_size(2 * VIEW_GROUP)));

/* So many blocks, filled up to whole rows of VIEW_BLOCK: what is done to a block's values can be done to a
 * row of bests. */
static inline size_t view_row(size_t blocks) {
    return (blocks + VIEW_BLOCK - 1) / VIEW_BLOCK * VIEW_BLOCK;
}

/* Which of a block's values are above the limit: a bit each. */
static inline uint64_t view_above(const int16_t *values, int16_t limit) {
    uint64_t above = 0;

#ifdef __SSE2__
    __m128i limits = _mm_set1_epi16(limit);
    for (unsigned i = 0; i < VIEW_BLOCK; i += 16) {
        __m128i low = _mm_loadu_si128((const __m128i *) (const void *) (values + i));
        __m128i high = _mm_loadu_si128((const __m128i *) (const void *) (values + i + 8));
        __m128i both = _mm_packs_epi16(_mm_cmpgt_epi16(low, limits), _mm_cmpgt_epi16(high, limits));
        above |= (uint64_t) (uint32_t) _mm_movemask_epi8(both) << i;
    }
#else
    for (unsigned i = 0; i < VIEW_BLOCK; i++)
        above |= (uint64_t) (values[i] > limit) << i;
#endif
    return above;
}

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
