// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/fixed.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#define TWO_OVER_LN2 2.8853900817779268147
#define LN2 0.69314718055994530942
#define LOG10_2 0.30102999566398119521
#define SQRT2 1.4142135623730950488
#define KEY_DROPPED_BITS 12

/* 1/3, 1/5, … of the series atanh(s)/s = 1 + s²/3 + s⁴/5 + …; |s| <= 0.1716, so the first dropped term is below 1e-20. */
static const double inverse_odd[] = { 1. / 3, 1. / 5, 1. / 7, 1. / 9, 1. / 11, 1. / 13, 1. / 15, 1. / 17, 1. / 19,
                                      1. / 21, 1. / 23, 1. / 25 };

static uint64_t bits_of(double value) {
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static double double_of(uint64_t bits) {
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

double fixed_log2(double value) {
    int exponent = 0;
    double s, square, sum = 0;

    if (!(value > 0))
        return -INFINITY;
    if (isinf(value))
        return INFINITY;
    if (value < 0x1p-1022) {
        value *= 0x1p60;
        exponent = -60;
    }
    uint64_t bits = bits_of(value);
    exponent += (int) (bits >> 52) - 1023;
    double mantissa = double_of((bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1023) << 52);
    if (mantissa > SQRT2) {
        mantissa *= 0.5;
        exponent++;
    }
    s = (mantissa - 1) / (mantissa + 1);
    square = s * s;
    for (size_t i = sizeof(inverse_odd) / sizeof(*inverse_odd); i-- > 0;)
        sum = (sum + inverse_odd[i]) * square;
    return exponent + (s + s * sum) * TWO_OVER_LN2;
}

double fixed_log10(double value) {
    return fixed_log2(value) * LOG10_2;
}

double fixed_exp2(double value) {
    double whole, x, sum = 1;

    if (!(value > -1022))
        return 0;
    if (value >= 1024)
        return INFINITY;
    whole = (double) (int64_t) (value < 0 ? value - 0.5 : value + 0.5);
    x = (value - whole) * LN2;
    for (int k = 16; k > 0; k--)
        sum = 1 + sum * x / k;
    if (whole == 1024)
        return sum * 0x1p1023 * 2;
    return sum * double_of((uint64_t) ((int64_t) whole + 1023) << 52);
}

double fixed_power(double base, double exponent) {
    if (exponent == 0)
        return 1;
    if (!(base > 0))
        return exponent > 0 ? 0 : INFINITY;
    return fixed_exp2(exponent * fixed_log2(base));
}

double fixed_square_root(double value) {
    return value > 0 ? sqrt(value) : 0;
}

int64_t fixed_key(double score) {
    uint64_t magnitude;

    if (isnan(score))
        return INT64_MAX;
    magnitude = bits_of(score) & INT64_MAX;
    if (!isinf(score))
        magnitude += UINT64_C(1) << (KEY_DROPPED_BITS - 1);
    magnitude &= ~((UINT64_C(1) << KEY_DROPPED_BITS) - 1);
    return score < 0 ? -(int64_t) magnitude : (int64_t) magnitude;
}
