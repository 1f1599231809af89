// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

/* splitmix64: the same numbers from the same seed everywhere. */

static inline uint64_t draw(uint64_t *state) {
    uint64_t value = *state += UINT64_C(0x9E3779B97F4A7C15);

    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return value ^ value >> 31;
}

static inline size_t draw_below(uint64_t *state, size_t limit) {
    return (size_t) ((unsigned __int128) draw(state) * limit >> 64);
}

/* Above 0, at most 1. */
static inline double draw_share(uint64_t *state) {
    return (double) ((draw(state) >> 11) + 1) * 0x1p-53;
}
