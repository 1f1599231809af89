// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"
#include "simulator/cloud.h"

/* The published policies of Beloglazov and Buyya (CCPE 2012), for comparison: a rule that says when a host is overloaded,
 * one to choose who leaves, power-aware best fit decreasing to choose where to, and the emptying
 * of whatever can be emptied, at every step. */

enum overload {
    OVERLOAD_THR, /* use above the parameter */
    OVERLOAD_IQR, /* use above 1 - parameter x interquartile range of the host's history */
    OVERLOAD_MAD, /* use above 1 - parameter x median absolute deviation */
    OVERLOAD_LR,  /* parameter x the use that a line through the last ten predicts is 1 or more */
    OVERLOAD_COUNT,
};
extern const char *const overload_names[OVERLOAD_COUNT + 1];

/* Who leaves an overloaded host, until it is none. */
enum selection {
    SELECTION_MMT, /* least memory: minimum migration time */
    SELECTION_MU,  /* least use of what is its */
    SELECTION_MC,  /* whose use the others' tell most of: maximum correlation; while that cannot be told, as MMT */
    SELECTION_RS,  /* anybody, by a number drawn from the time and the host */
    SELECTION_COUNT,
};
extern const char *const selection_names[SELECTION_COUNT + 1];

struct cloud_policy {
    enum overload overload;
    enum selection selection;
    double parameter;
};

/* THR-MMT-0.8, LR-MU-1.2 and so on. ERROR_NOT_FOUND. */
int cloud_policy_find(const char *name, struct cloud_policy *ret, struct error *error);
/* The moves that the policy wants now; appended in its order, owned by the caller. -ENOMEM. */
int cloud_policy_plan(const struct cloud_policy *policy, const struct cloud *cloud, struct cloud_move **ret, size_t *ret_count);
