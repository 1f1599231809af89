// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "engine/bucket.h"

/* What may pass between one guest's agent and us: C_m = P_m x R_m messages a second (engine/bucket.h). Whoever exceeds it
 * waits; nobody else does. Bulk data is not counted: windows bound it. */

#define BUDGET_RATE 250    /* R_m until the instance's own is known */
#define BUDGET_SECONDS 4   /* so much of it may come at once */

struct budget {
    struct bucket bucket;
    bool set;
    uint64_t calls; /* messages that passed */
    uint64_t waits; /* of these, those that had to wait */
};

/* The rate for a priority; what was saved up stays, as far as there is room for it. */
void budget_set(struct budget *budget, int64_t priority, uint64_t rate);
/* Fiber: counts one message and waits until it may pass. -ECANCELED. */
int budget_take(struct budget *budget);
