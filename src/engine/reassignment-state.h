// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/reassignment.h"

/* An assignment with the sums that make it cheap to tell what a move would cost: about a hundred nanoseconds. It starts
 * feasible and each move that is applied leaves it so. */

struct reassignment_state;

/* `process` goes to the machine `to`; `other` (or REASSIGNMENT_NONE), which runs there, goes on to the machine `onward`:
 * a shift, a swap (onward is where `process` came from) or an ejection. */
struct reassignment_move {
    uint32_t process, to, other, onward;
};

/* From an assignment that keeps the rules (reassignment_evaluate) of a sane problem, which must outlive the state.
 * Returns 0 or -ENOMEM. */
int reassignment_state_new(const struct reassignment *problem, const uint32_t *assignment,
                           struct reassignment_state **ret);
void reassignment_state_free(struct reassignment_state *state);
DEFINE_CLEANUP(struct reassignment_state *, reassignment_state_free)
#define _cleanup_reassignment_state_ _cleanup_(reassignment_state_freep)

/* Would the rules hold after the move, and by how much would the total cost rise? Changes nothing. */
bool reassignment_state_try(struct reassignment_state *state, const struct reassignment_move *move, int64_t *ret_rise);
/* Only after reassignment_state_try said so. Returns 0, or -ENOMEM and changes nothing. */
int reassignment_state_apply(struct reassignment_state *state, const struct reassignment_move *move);

int64_t reassignment_state_total(const struct reassignment_state *state);
/* The machine of each process. Borrowed. */
const uint32_t *reassignment_state_assignment(const struct reassignment_state *state);
/* Processes that run on a machine, in no order that means something. Borrowed until the next move. */
const uint32_t *reassignment_state_residents(const struct reassignment_state *state, uint32_t machine, uint32_t *ret_count);
