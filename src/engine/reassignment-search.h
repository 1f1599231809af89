// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/reassignment-state.h"

/* Anytime search for a better assignment: simulated annealing over shifts, swaps, ejections and the making of room for
 * large processes, in cycles that each begin from the best known. It is made of a fixed number of chains, whatever the
 * number of threads that run them: the result depends on problem, start, seed and steps alone, to the byte. No
 * assignment it holds ever breaks a rule. */

#define REASSIGNMENT_CHAINS 2

struct reassignment_search;

/* `assignment` keeps the rules; `steps` is the number of moves tried, over all chains. The problem must outlive the search.
 * Returns 0 or -ENOMEM. */
int reassignment_search_new(const struct reassignment *problem, const uint32_t *assignment, uint64_t seed,
                            uint64_t steps, struct reassignment_search **ret);
void reassignment_search_free(struct reassignment_search *search);
DEFINE_CLEANUP(struct reassignment_search *, reassignment_search_free)
#define _cleanup_reassignment_search_ _cleanup_(reassignment_search_freep)

/* Runs one chain to the next joint. Chains may run at the same time, each in a thread of its own. 0 or -ENOMEM. */
int reassignment_search_run(struct reassignment_search *search, unsigned chain);
/* When all chains stand at a joint; at the end of a cycle it hands on the best. 1 while there is more to run, 0 at the
 * end, -ENOMEM. */
int reassignment_search_join(struct reassignment_search *search);
/* Share of the steps done, at a joint: 0 to 1. */
double reassignment_search_progress(const struct reassignment_search *search);

/* The best found (at a joint). Borrowed. */
const uint32_t *reassignment_search_best(const struct reassignment_search *search, int64_t *ret_total);
