// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/cloud-correlation.h"

#include <errno.h>
#include <string.h>

#include "engine/fixed.h"

/* Columns of the plane: 1, then each other series; rows: the values. After `reflect` a column holds the reflection below
 * its diagonal and the upper triangle above it. */
struct plane {
    double columns[CORRELATION_MAX][CORRELATION_MAX], diagonal[CORRELATION_MAX];
    size_t width, length;
};

static double dot(const double *a, const double *b, size_t from, size_t length) {
    double sum = 0;

    for (size_t i = from; i < length; i++)
        sum += a[i] * b[i];
    return sum;
}

static void fill(struct plane *plane, const double *const *series, size_t count, size_t left_out) {
    plane->width = 1;
    for (size_t i = 0; i < plane->length; i++)
        plane->columns[0][i] = 1;
    for (size_t i = 0; i < count; i++)
        if (i != left_out)
            memcpy(plane->columns[plane->width++], series[i], plane->length * sizeof(double));
}

static int reflect(struct plane *plane) {
    for (size_t at = 0; at < plane->width; at++) {
        double *column = plane->columns[at], norm = fixed_square_root(dot(column, column, at, plane->length));
        double a = plane->diagonal[at] = column[at] > 0 ? -norm : norm;
        if (a == 0)
            return -EDOM;
        column[at] -= a;
        for (size_t other = at + 1; other < plane->width; other++) {
            double alpha = -dot(plane->columns[other], column, at, plane->length) / (a * column[at]);
            for (size_t i = at; i < plane->length; i++)
                plane->columns[other][i] -= alpha * column[i];
        }
    }
    return 0;
}

static void solve(const struct plane *plane, const double *values, double *ret) {
    double left[CORRELATION_MAX];

    memcpy(left, values, plane->length * sizeof(*left));
    for (size_t at = 0; at < plane->width; at++) {
        const double *column = plane->columns[at];
        double alpha = dot(left, column, at, plane->length) / (plane->diagonal[at] * column[at]);
        for (size_t i = at; i < plane->length; i++)
            left[i] += alpha * column[i];
    }
    for (size_t at = plane->width; at-- > 0;) {
        ret[at] = left[at] / plane->diagonal[at];
        for (size_t i = 0; i < at; i++)
            left[i] -= ret[at] * plane->columns[at][i];
    }
}

static double spread(const double *values, size_t length) {
    double mean = 0, sum = 0;

    for (size_t i = 0; i < length; i++) {
        double away = values[i] - mean, part = away / (double) (i + 1);
        mean += part;
        sum += (double) i * away * part;
    }
    return sum;
}

/* 1 less what the plane leaves over of the series' squares. */
static int square_of_r(const double *const *series, size_t count, size_t length, size_t which, double *ret) {
    struct plane plane = { .length = length };
    double factors[CORRELATION_MAX] = { 0 }, residue = 0, all = spread(series[which], length);
    size_t place;

    fill(&plane, series, count, which);
    if (reflect(&plane) < 0)
        return -EDOM;
    solve(&plane, series[which], factors);
    for (size_t i = 0; i < length; i++) {
        double value = factors[0];
        place = 1;
        for (size_t other = 0; other < count; other++)
            if (other != which)
                value += factors[place++] * series[other][i];
        residue += (series[which][i] - value) * (series[which][i] - value);
    }
    *ret = all > 0 ? 1 - residue / all : 0;
    return 0;
}

int correlation_most(const double *const *series, size_t count, size_t length, size_t *ret) {
    double most = 0;

    *ret = 0;
    if (count < 2 || count > length || length > CORRELATION_MAX)
        return -EDOM;
    for (size_t i = 0; i < count; i++) {
        double found;
        if (square_of_r(series, count, length, i, &found) < 0)
            return -EDOM;
        if (found > most) {
            most = found;
            *ret = i;
        }
    }
    return 0;
}
