// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/fragments.h"

/* How scarce each model of GPU is, and what a GPU usually needs beside it: learnt from the usual requests. A
 * model's pressure is what only it (or it among few) can serve, divided by what of it is idle; its price
 * compares that with the pressure on all GPUs together. Price 1: those who can use no other model will use it
 * up by the time when all GPUs are used up, and whoever else takes one takes it from them. 0: nobody needs it
 * in particular. */

#define SCARCITY_MASKS 64
#define SCARCITY_WHOLE 16 /* a price of 1: coarse, so that it changes seldom */

struct scarcity {
    uint64_t gpu, cpus, memory; /* sums over the usual requests with GPUs: thousandths, millionths, bytes */
    struct {
        uint64_t models; /* a bit each */
        uint64_t gpu;    /* asked for by those who accept these models alone */
    } masks[SCARCITY_MASKS];
    unsigned mask_count;
    uint64_t models; /* all that are named */
    uint8_t price[GPU_MODELS_MAX];
    uint64_t version; /* changes with any price */
};

/* From nothing. What does not fit the table of masks is left out. */
void scarcity_learn(struct scarcity *scarcity, const struct fragments *fragments);
/* Prices by what is idle now. */
void scarcity_update(struct scarcity *scarcity, const struct nodes *nodes);
