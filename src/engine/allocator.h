// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Shares one resource of one node among its instances. Units are whatever the resource is counted in: thousandths of a
 * CPU, pages, bytes a second; at most ALLOCATION_MOST of them. */

#define ALLOCATION_MOST (UINT64_C(1) << 48)
#define ALLOCATION_FACTOR_ONE 1000 /* of priority and weight: 1.0 */
#define ALLOCATION_FACTOR_MOST 1000000

enum allocation_mode {
    ALLOCATION_FIXED,   /* reserved whole: reservation = request = limit */
    ALLOCATION_DYNAMIC, /* by weight alone: reservation 0 */
    ALLOCATION_HYBRID,  /* a guaranteed floor and a share of what is left */
    ALLOCATION_MODE_COUNT,
};
const char *allocation_mode_name(enum allocation_mode mode);
int allocation_mode_from_name(const char *name); /* -EINVAL */

struct allocation {
    uint64_t requested;   /* what it asks for, or has use for now */
    uint64_t reservation; /* never gets less, even when it asks for less */
    uint64_t limit;       /* never gets more */
    uint32_t priority;    /* C_priority in thousandths, 1 to ALLOCATION_FACTOR_MOST */
    uint32_t weight;      /* S_weight in thousandths, likewise */
    uint64_t granted;     /* the answer of allocator_share */
    uint64_t busy;        /* the answers of allocator_weigh: what it gets while all are busy, */
    uint64_t scheduler;   /* and the weight that makes a scheduler give it that */
};

/* What a mode makes of a request with a wished floor. */
void allocation_set_mode(struct allocation *allocation, enum allocation_mode mode, uint64_t requested, uint64_t floor);

/* R_allocated = R_requested x C_priority x S_weight, read as a demand score: under contention each gets in
 * proportion to its score, clamped to [reservation, min(request, limit)] (weighted max-min fairness by water filling);
 * without contention everybody gets what he asks for. The sum never exceeds capacity, and nothing is left over that
 * somebody has use for. More capacity never means less for anybody; a higher score never means less for its owner.
 * Whole units are dealt by the highest-averages rule (d'Hondt), equal claims in the order given. Same input, same output
 * on every machine: integers only. Cost: about 80 passes over the items.
 * NO_ROOM if the reservations alone exceed the capacity; OUT_OF_RANGE for factors and amounts outside of the ranges,
 * BAD_VALUE for a reservation above its limit: nothing is granted then. */
int allocator_share(uint64_t capacity, struct allocation *items, size_t count, struct error *error);

/* R x C x S in the resource's units, rounded; UINT64_MAX if it does not fit. */
uint64_t allocation_score(const struct allocation *item);

#define ALLOCATION_WEIGHT_UNIT 1000 /* requested units with factors of 1.0 … */
#define ALLOCATION_WEIGHT 100       /* … have this weight */

/* The weights under which a work-conserving scheduler (the kernel's) that knows weights and hard limits gives everybody at
 * least what allocator_share granted, also when all want their whole limit, which may lie above the request:
 *
 *     weight_i = 100 / 1000 x max(R_i x C_i x S_i, granted_i / L)
 *
 * L, the level, is the most of the resource for each unit of score at which the sum of clamp(score_i x L, granted_i,
 * limit_i) fits the capacity. Without floors and limits above requests nobody is lifted, so weights are scores, and then one
 * instance's weight does not depend on the others. Calls allocator_share itself. Errors as there, and OUT_OF_RANGE for amounts
 * above 2^28. */
int allocator_weigh(uint64_t capacity, struct allocation *items, size_t count, struct error *error);
/* The weight of one that nothing lifts. */
uint64_t allocation_weight(const struct allocation *item);
