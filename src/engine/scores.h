// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/fragments.h"

/* How well a node that passed the filters suits a request: one row each. A score is a whole number from 0 to SCORE_MAX,
 * rounded down once from exact integers; the higher wins, the lowest rank among equals. Scores that compare loads do so over CPU
 * and GPU where any node has GPUs (as FGD's evaluation does), over CPU and memory otherwise. */

#define SCORE_MAX 32000

struct score_input {
    const struct nodes *nodes;
    struct nodes_scale scale;
    const struct fragments *fragments; /* the usual requests; may be empty */
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
    bool random;  /* equal chances among all that pass, instead of the score */
    bool timely;  /* depends on `now` and `until`: nothing can be kept */
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
