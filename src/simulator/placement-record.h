// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdio.h>

#include "simulator/openb.h"

/* The decisions of a simulated placement, one line of JSON each, behind the nodes in the order of their ranks and the pods: all
 * that they were made from, so that they are made again from the file alone, to the byte. */

#define PLACEMENT_RECORD 1 /* raised when the same nodes and pods would give other decisions, or other words about them */

/* Begins the file. `seed` is that of the score. */
int placement_record_begin(const char *path, const struct score *score, uint64_t seed, const struct nodes *nodes,
                           const struct openb *openb, FILE **ret, struct error *error);
/* One decision, which was made with `full`, about a pod of the list. -ENOMEM, -EIO. */
int placement_record_write(FILE *file, const struct nodes *nodes, size_t pod, const struct placement_decision *decision);

/* What each pod asks for, in the numbers of this table; the usual ones make the measure of fragments. */
int placement_requests(const struct openb *openb, struct nodes *nodes, struct placement_request *requests,
                       struct fragments *fragments);

/* Makes every decision of a file again, in order, and compares the lines; prints how many came out the same, and of `why` (unless
 * it is UINT64_MAX) why it came out so. BAD_INPUT names the line that is none or that comes out otherwise; NOT_SUPPORTED another
 * version. */
int placement_replay(const char *path, uint64_t why, bool json, struct error *error);
