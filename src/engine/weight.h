// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>

/* The weight of a running instance beside the others, from its priority and how long it has run. */

#define WEIGHT_LEAST 1
#define WEIGHT_MOST 10000

#define WEIGHT_BETA_MOST 1000000000

/* Fields of a class and of an instance. */
struct weight_rule {
    int64_t alpha; /* of the priority's share, thousandths: 0 to 1,000,000; 1000 by default */
    int64_t beta;  /* weight units won (lost, where negative) in an hour of running, thousandths: at most WEIGHT_BETA_MOST */
};
#define WEIGHT_RULE_DEFAULT { .alpha = 1000, .beta = -2000 } /* favours the young a little */

/* R_i = alpha_i x P_i + beta_i x T_i. P is the share that the priority earns (engine_cpu_weight), T the hours it has
 * run (`running` in microseconds). Age alone never takes more than half of alpha x P away, nor gives more than
 * as much again; the result lies in [WEIGHT_LEAST, WEIGHT_MOST]. */
uint64_t weight_of(const struct weight_rule *rule, int64_t priority, uint64_t running);

/* Hysteresis: the weight in force stays until the wished one differs from it by at least a tenth. */
uint64_t weight_settle(uint64_t in_force, uint64_t wished);

/* S_weight, thousandths: what the dynamic weight makes of the priority's share, so that C x S is R_i / 100 where C is
 * P / 100. */
uint32_t weight_factor(uint64_t dynamic, int64_t priority);
/* C_priority, thousandths: 100 to 10,000. */
uint32_t priority_factor(int64_t priority);
