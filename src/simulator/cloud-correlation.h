// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

/* Multiple correlation: how much of what one series does is told by the others, by the least squares plane through them.
 * With a QR decomposition by Householder's reflections in a written order, so that the result is the same everywhere. */

#define CORRELATION_MAX 30 /* values of a series, and series beyond which there can be no plane */

/* Of `count` series of `length` values (at most CORRELATION_MAX): the number of the one that the others tell most of, by the
 * square of R. -EDOM: there are no more values than it takes for a plane, or one lies within others. */
int correlation_most(const double *const *series, size_t count, size_t length, size_t *ret);
