// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/text.h"

int option_number(const char *option, const char *value, uint64_t least, uint64_t most, uint64_t *ret,
                  struct error *error) {
    char low[24], high[24];

    if (text_parse_u64(value, ret) >= 0 && *ret >= least && *ret <= most)
        return 0;
    snprintf(low, sizeof(low), "%" PRIu64, least);
    snprintf(high, sizeof(high), "%" PRIu64, most);
    return error_set(error, ERROR_OUT_OF_RANGE, option, low, high, value);
}

int option_scores(const char *option, const char *what, const char *value,
                  const struct score *ret[OPTION_SCORES_MAX], size_t *ret_count, struct error *error) {
    _cleanup_list_ char **names = NULL;
    char problem[64];
    int r = list_split(value, ",", &names);

    if (r < 0)
        return error_errno(error, r, "reading %s", option);
    *ret_count = 0;
    for (char **name = names; name && *name; name++) {
        const struct score *score = score_find(*name);
        if (!score)
            return error_set(error, ERROR_NOT_FOUND, what, *name);
        if (*ret_count == OPTION_SCORES_MAX)
            return error_set(error, ERROR_TOO_LARGE, option, "16 names");
        ret[(*ret_count)++] = score;
    }
    if (*ret_count > 0)
        return 0;
    snprintf(problem, sizeof(problem), "%s names no %s", option, what);
    return error_set(error, ERROR_USAGE, problem);
}
