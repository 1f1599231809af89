// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/fragments.h"
#include "engine/mixture.h"
#include "engine/scarcity.h"

/* How well a node that passed the filters suits a request: one row each. A score is a whole number from 0 to
 * SCORE_MAX, rounded down once from exact integers; the higher wins, the lowest rank among equals. Scores
 * that compare loads do so over CPU and GPU where any node has GPUs (as FGD's evaluation does), over CPU and
 * memory otherwise. */

#define SCORE_MAX 32000

struct score_input {
    const struct nodes *nodes;
    struct nodes_scale scale;
    const struct fragments *fragments; /* the usual requests; may be empty */
    const struct scarcity *scarcity;   /* NULL: nothing is scarce */
    const struct mixture *mixture;     /* usual sizes without GPUs; NULL: not known */
    uint64_t version;                  /* differs when kept scores are no longer true */
    uint32_t resolution;               /* the score of the best imaginable node: 100, or finer */
    uint64_t now;
    uint64_t until;                    /* of the request */
};

struct score {
    const char *name;
    const char *summary;
    /* The score; also chooses the GPUs (share->gpus). `share` has the rest filled in. */
    int32_t (*value)(const struct score_input *input, const struct node *node, const struct shape *shape,
                     struct node_share *share);
    /* The score once ends are known; asked of each node that passes when the request has an expected end.
     * NULL: they do not matter. */
    int32_t (*adjust)(const struct score_input *input, const struct node *node, int32_t value);
    bool scarcity; /* depends on how scarce models of GPU are */
    bool random; /* equal chances among all that pass, instead of the score */
};

extern const struct score scores[];
extern const size_t scores_count;
/* NULL: no such score. */
const struct score *score_find(const char *name);

/* The GPUs with the least left that are enough, lowest number first. 0 when the shape asks for none. */
uint16_t gpus_tightest(const struct node *node, const struct shape *shape);
/* What a request of this shape takes of the node, GPUs left to choose. */
void share_init(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                struct node_share *ret);
