// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>

/* Arithmetic that gives the same bits with every compiler, optimisation level and C library. IEEE 754 fixes +, -, *, / and
 * the square root, so only these are used here, in a written order, and never fused (-ffp-contract=off); the logarithm
 * of the C library is not fixed and is not used by the engine. */

/* Logarithms of a finite value above 0, within 2 units of the last place; of 0 or less: -INFINITY. */
double fixed_log2(double value);
double fixed_log10(double value);
/* 2^value; 0 below the smallest and INFINITY above the largest normal number. */
double fixed_exp2(double value);
/* base^exponent for base >= 0 (0^0 is 1). */
double fixed_power(double base, double exponent);
double fixed_square_root(double value);

/* The one rounding: a score as an integer in the same order, to 40 bits of its mantissa, so that what differs in the last
 * bits alone is equal, and ids decide. -0 is 0; NaN comes last. */
int64_t fixed_key(double score);
