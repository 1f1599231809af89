// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/scores.h"

/* Rows of the table of scores that have a file of their own. */
int32_t score_gpu_clustering(const struct score_input *input, const struct node *node,
                             const struct shape *shape, struct node_share *share);
int32_t score_gpu_packing(const struct score_input *input, const struct node *node, const struct shape *shape,
                          struct node_share *share);
int32_t score_gpu_fgd(const struct score_input *input, const struct node *node, const struct shape *shape,
                      struct node_share *share);
int32_t score_gpu_balance(const struct score_input *input, const struct node *node, const struct shape *shape,
                         struct node_share *share);
