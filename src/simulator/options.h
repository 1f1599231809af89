// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/scores.h"

/* What the modes' options share. */

/* A whole number from least to most: OUT_OF_RANGE names the option. */
int option_number(const char *option, const char *value, uint64_t least, uint64_t most, uint64_t *ret,
                  struct error *error);

#define OPTION_SCORES_MAX 16
/* "first,best,polder": NOT_FOUND names one that does not exist as `what`; TOO_LARGE; USAGE if there is none. */
int option_scores(const char *option, const char *what, const char *value,
                  const struct score *ret[OPTION_SCORES_MAX], size_t *ret_count, struct error *error);
