// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/filters.h"

/* The sizes that are usually asked for, learnt from requests without GPUs, and how much of what is free on a
 * node they would leave unused if only one of them came, as many of it as fit: the measure of fragments for
 * CPUs and memory. */

#define MIXTURE_TRACKED 256
#define MIXTURE_USUAL 16 /* the most frequent of them */

struct mixture_size {
    uint64_t cpus, memory; /* thousandths, MiB; at least 1 */
    uint64_t count;
};

struct mixture {
    struct mixture_size tracked[MIXTURE_TRACKED]; /* what comes when it is full is not learnt */
    unsigned tracked_count;
    uint64_t held;          /* sum of the tracked counts */
    uint64_t seen, learnt;  /* requests; of them when the usual ones were last chosen */
    struct mixture_size usual[MIXTURE_USUAL]; /* counts in shares of 1,024 */
    unsigned usual_count;
    uint64_t weight;        /* sum of their counts; 0: nothing is known */
    uint64_t cpus, memory;  /* sums of the usual sizes by their counts */
    uint64_t version;       /* changes with the usual ones */
};

/* The usual ones are chosen again whenever twice as many requests have come. */
void mixture_add(struct mixture *mixture, const struct shape *shape);
/* Takes back what has ended: then sizes count by how long they stay. */
void mixture_remove(struct mixture *mixture, const struct shape *shape);

#define MIXTURE_NEED 1000
/* How much CPUs [0] and memory [1] matter on this node: in proportion to the shares of it that the usual
 * sizes ask for; MIXTURE_NEED together. */
void mixture_need(const struct mixture *mixture, const struct node *node, uint64_t *ret_need);

/* Share that would stay unused, in millionths: the mean over the usual sizes, of CPUs and memory by their
 * need. */
uint64_t mixture_unused(const struct mixture *mixture, const struct node *node, uint64_t free_cpus,
                        uint64_t free_memory);
