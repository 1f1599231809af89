// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* How long instances live, learnt per class from those that were seen: of those that reached an age, how many
 * ended before it doubled. What still runs counts for the ages that it reached, so that the many short lives
 * that end first do not hide the few long ones. Times are milliseconds; ages count in octaves from
 * LIFETIME_UNIT. */

#define LIFETIME_UNIT 60000
#define LIFETIME_OCTAVES 24 /* the last is open: from 2^22 minutes, eight years */

struct lifetimes;

int lifetimes_new(struct lifetimes **ret);
void lifetimes_free(struct lifetimes *lifetimes);
DEFINE_CLEANUP(struct lifetimes *, lifetimes_free)
#define _cleanup_lifetimes_ _cleanup_(lifetimes_freep)

/* The octave of an age: 0 below the unit, then 1 + log2. */
unsigned lifetime_octave(uint64_t age);
/* The age at which an octave begins. */
uint64_t lifetime_octave_begin(unsigned octave);

/* One of this class has reached the octave (0: it was created), ended in it. -ENOMEM. */
int lifetimes_reached(struct lifetimes *lifetimes, uint32_t class_number, unsigned octave);
int lifetimes_ended(struct lifetimes *lifetimes, uint32_t class_number, unsigned octave);
/* Expected time that is left to one of this age: the mean over what its class has shown, leaning on all
 * classes while it has shown little. At least 1. */
uint64_t lifetimes_expected(const struct lifetimes *lifetimes, uint32_t class_number, uint64_t age);
