// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* What is free over time: a step function of two resources, from one moment to eternity. */

/* Later than anything: an instance without end. */
#define TIME_FOREVER (INT64_MAX / 4)

struct demand {
    uint64_t cpus;   /* thousandths of a CPU, or processors of a log: any unit */
    uint64_t memory; /* bytes */
};

/* Room may lie below zero, in two's complement: what runs already is never refused. All values stay below 2^62. */
static inline bool demand_fits(struct demand wanted, struct demand room) {
    return (int64_t) wanted.cpus <= (int64_t) room.cpus && (int64_t) wanted.memory <= (int64_t) room.memory;
}

struct profile_step {
    int64_t time; /* from then on */
    struct demand free;
};

struct profile {
    struct profile_step *steps; /* in order of time; the last one lasts for ever */
    size_t count, room;
};

void profile_done(struct profile *profile);
/* All of `capacity` is free from `now` on. */
int profile_start(struct profile *profile, int64_t now, struct demand capacity);
/* Takes or gives back from [from, until). What lies before the profile's beginning is left out. What is taken must be
 * free there. -ENOMEM. */
int profile_take(struct profile *profile, int64_t from, int64_t until, struct demand demand);
int profile_give(struct profile *profile, int64_t from, int64_t until, struct demand demand);
/* Forgets what lies before `now`. */
void profile_advance(struct profile *profile, int64_t now);
/* The first moment from `from` on at which `demand` is free for `duration`; TIME_FOREVER if there is none. */
int64_t profile_earliest(const struct profile *profile, int64_t from, int64_t duration, struct demand demand);

#define _cleanup_profile_ _cleanup_(profile_done)
