// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

/* What each owner used lately: an account that halves every half-life. */

struct usage_account {
    uint64_t owner;
    int64_t updated;
    double amount;
};

struct usage {
    struct usage_account *accounts; /* open addressing; a place is empty while updated is INT64_MIN */
    size_t count, size;
    double half_life; /* in the unit of time */
};

void usage_done(struct usage *usage);
/* Room for one more account: the next usage_add will not fail. -ENOMEM. */
int usage_reserve(struct usage *usage);
/* -ENOMEM. */
int usage_add(struct usage *usage, uint64_t owner, int64_t now, double amount);
/* What is left of the account now; 0 for an owner that is not known. */
double usage_of(const struct usage *usage, uint64_t owner, int64_t now);
