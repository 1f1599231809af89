// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A token bucket in integers: what one instance may ask of the platform (C_m = P_m x R_m). */

struct bucket {
    uint64_t rate;   /* tokens a second, thousandths */
    uint64_t depth;  /* most tokens it holds, thousandths */
    uint64_t tokens; /* thousandths */
    uint64_t rest;   /* what is not yet a whole thousandth, in millionths of one */
    uint64_t last;   /* when it was filled last, microseconds */
};

/* C_m = P_m x R_m: the rate is the priority's factor (engine_cpu_weight / 100) times `base` requests a second; it holds
 * `seconds` of it and starts full. A base of 0 refuses everything. */
void bucket_init(struct bucket *bucket, int64_t priority, uint64_t base, uint64_t seconds, uint64_t now);
/* Takes one token; false when there is none. `now` in microseconds on a steady scale; it never goes back. */
bool bucket_take(struct bucket *bucket, uint64_t now);
/* Microseconds until a token is there; 0 if one is, UINT64_MAX if never. */
uint64_t bucket_wait(const struct bucket *bucket, uint64_t now);
