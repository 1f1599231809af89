// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/placement.h"

/* The last decisions of a placement, in a ring of fixed size: winner, the best eight with their scores'
 * terms, and how many nodes failed each filter. With the request and the changes of the nodes since a
 * checkpoint, the whole table of scores can be computed again. */

struct ledger_record {
    uint64_t number, position; /* of the decision; of the nodes' changes that it saw */
    uint64_t shape;            /* digest of what was asked for */
    uint64_t now;
    uint32_t node;             /* NODE_NONE: refused */
    uint16_t gpus;
    uint16_t candidate_count;
    struct placement_candidate candidates[PLACEMENT_CANDIDATES];
    uint32_t refused[FILTER_COUNT];
};

struct placement_ledger {
    struct ledger_record *records;
    size_t room;      /* a power of two */
    uint64_t written; /* since it was made */
};

/* Room for at least so many decisions. -ENOMEM. */
int placement_ledger_init(struct placement_ledger *ledger, size_t decisions);
void placement_ledger_done(struct placement_ledger *ledger);
#define _cleanup_ledger_ _cleanup_(placement_ledger_done)

/* A decision that was made with `full`. Forgets the oldest when it is full. */
void placement_ledger_write(struct placement_ledger *ledger, uint64_t now,
                            const struct placement_decision *decision);
/* The record of a decision, or NULL: forgotten or not yet made. */
const struct ledger_record *placement_ledger_find(const struct placement_ledger *ledger, uint64_t number);
