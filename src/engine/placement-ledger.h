// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/placement.h"

/* The last decisions of a placement, in a ring of fixed size. Of each: the winner, how many nodes failed each filter, what was
 * asked for, and on which state of the nodes it was decided. The nodes remember their changes as long, so that the best
 * eight with their scores' terms, which take a third of the time of a decision to find, are found when somebody asks: the
 * decision is made again on the nodes as they were, and must come out the same. What a decision rests on besides (a mixture that
 * learns, expected ends that change, fragments of the caller) is not remembered: then the eight are found at once and
 * kept. */

struct ledger_record {
    uint64_t number, position; /* of the decision; of the nodes' changes that it saw */
    uint64_t shape;            /* digest of what was asked for */
    uint64_t now, until;
    uint32_t node;             /* NODE_NONE: refused */
    int32_t score;
    uint16_t gpus;
    uint16_t candidate_count;
    int32_t group;
    uint32_t refused[FILTER_COUNT];
    uint16_t constraint_count;
    bool has_candidates, has_sets; /* which of the members below were written at all */
    uint64_t cpus, memory;         /* of the shape, and */
    uint32_t gpus_wanted, gpu_milli, kind;
    uint64_t sets[2 * TRAIT_WORDS + 2];
    struct constraint constraints[CONSTRAINTS_MAX];
    struct placement_candidate candidates[PLACEMENT_CANDIDATES];
};

struct placement_ledger {
    struct ledger_record *records;
    size_t room;      /* a power of two */
    uint64_t written; /* since it was made */
};

/* Room for at least so many decisions about these nodes, which remember their changes from now on: LEDGER_CHANGES for each. -ENOMEM. */
#define LEDGER_CHANGES 4
int placement_ledger_init(struct placement_ledger *ledger, size_t decisions, struct nodes *nodes);
void placement_ledger_done(struct placement_ledger *ledger);
#define _cleanup_ledger_ _cleanup_(placement_ledger_done)

/* As placement_place, and recorded. Forgets the oldest when it is full. */
int placement_ledger_place(struct placement_ledger *ledger, struct placement *placement,
                           const struct placement_request *request, uint64_t now, struct placement_decision *ret,
                           uint32_t *ret_slot);
/* The record of a decision, or NULL: forgotten or not yet made. */
const struct ledger_record *placement_ledger_find(const struct placement_ledger *ledger, uint64_t number);
/* A decision with its candidates, as placement_decide makes it with `full`. -ENOENT: forgotten or not yet made. -ESTALE: the nodes
 * changed too much since. -EBADMSG: made again it is not the same. -ENOMEM. */
int placement_ledger_explain(const struct placement_ledger *ledger, const struct placement *placement, uint64_t number,
                             struct placement_decision *ret);
