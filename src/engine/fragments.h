// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/filters.h"

/* How much of the idle GPUs the usual requests could not use: the measure of "Beware of Fragmentation" (FGD,
 * USENIX ATC'23). Weights are whole numbers, so that sums are exact. */

struct fragment_spec {
    uint64_t cpus;       /* millionths */
    uint64_t memory;     /* bytes */
    uint64_t gpu_models; /* 0: any */
    uint32_t gpus, gpu_milli;
    uint32_t weight;     /* how often it is asked for */
};

struct fragments {
    struct fragment_spec *specs;
    unsigned count, room;
    uint64_t weight; /* of all */
};

void fragments_done(struct fragments *fragments);
#define _cleanup_fragments_ _cleanup_(fragments_done)
/* Counts one request of this shape. -ENOMEM. */
int fragments_add(struct fragments *fragments, const struct shape *shape);
/* Most frequent first (equal: as first seen); keeps the fewest that make up `percent` of all. */
void fragments_keep(struct fragments *fragments, unsigned percent);

/* What of a node matters to the measure. */
struct fragment_state {
    uint64_t cpus;
    uint16_t gpu_free[NODE_GPUS];
    uint32_t gpu_free_total;
    uint8_t gpus, gpu_model;
};
void fragment_state_of(const struct node *node, struct fragment_state *ret);
/* Sum over the specs of weight x thousandths of idle GPU that this spec could not use: all of it where the
 * spec asks for no GPU, may not use the model or does not fit; else the GPUs with less left than it asks of
 * one. */
int64_t fragments_amount(const struct fragments *fragments, const struct fragment_state *state);
