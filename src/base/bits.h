// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>
#include <string.h>

/* Numbers with parts, written as whole ones: nothing is rounded on the way. */

static inline int64_t bits_of(double value) {
    int64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline double double_of(int64_t bits) {
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}
