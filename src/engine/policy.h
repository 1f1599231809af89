// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "engine/profile.h"

/* Who comes first among those that wait. A policy is a row: a name and a function from what is known to a score; the
 * smallest score is first, ids break ties. Adding one is a row and a function in policy.c, and a test. */

/* What is known when an order is made. Times in units of which `second` make a second. */
struct policy_input {
    int64_t now, submitted;
    int64_t estimate;   /* expected run time, at least 1 */
    int64_t done;       /* run time it already had (it was preempted, or it runs) */
    struct demand demand, capacity;
    double size;        /* processors asked for, perhaps parts of one */
    int64_t priority;   /* larger is more important */
    double tag;         /* virtual finish tag, for rr */
    double usage;       /* what its owner used lately, in shares of the capacity times seconds, decayed */
    double urgency;     /* expected value of 1 / max(run time, 10 s); 0: from the estimate */
    double constant;    /* what the policy's `constant` gave when it was submitted */
    int64_t drain;      /* the longest time that the work at hand would have kept the whole capacity busy, so far */
    int64_t second;
};

/* Values that can be set, each by its name in policy_parameter_rows. */
struct policy_parameters {
    double quantum, weight;                         /* rr */
    double ageing, step, fairness, decay;           /* dynamic */
    double alarm;                                   /* dynamic, polder: seconds of waiting after which it goes first */
    double yield_worth, yield_prior;                /* giving way on a real node: see policy.c */
    double drain;                                   /* polder: the alarm also waits for so many times the longest drain */
    double patience, time_power, size_power, urgency_power, floor, blocking; /* polder */
};

/* One of the numbers that a score is made of. */
struct policy_term {
    const char *name; /* "wait" */
    double value;
};
#define POLICY_TERMS 12

struct policy {
    const char *name, *summary;
    double (*score)(const struct policy_parameters *parameters, const struct policy_input *input);
    /* The part of the score that time does not change, computed once; or NULL. */
    double (*constant)(const struct policy_parameters *parameters, const struct policy_input *input);
    /* What its score is made of, as computed, at most POLICY_TERMS; or NULL: what policy_input says is all. */
    size_t (*terms)(const struct policy_parameters *parameters, const struct policy_input *input, struct policy_term *ret);
    const char *formula; /* of the score from its terms; or NULL */
    bool changes;    /* the order of two that wait may change with time */
    bool preempts;   /* what runs gives way to what comes before it */
    bool preempts_on_alarm; /* on a real node what runs gives way to one whose alarm rang */
    bool sees_room;  /* made for backfilling: where it alone decides who is next, what fits and delays nobody goes first */
    bool alarms;     /* beyond the alarm the score is below -9e11, by time of arrival alone */
    bool uses_account; /* `usage` counts */
    bool by_arrival; /* ties go to who joined the queue first, not to the smaller id */
};

/* All of them, ended by a row without a name; the default is "polder". */
extern const struct policy policies[];
/* BAD_VALUE with a suggestion. */
int policy_find(const char *name, const struct policy **ret, struct error *error);
/* fixed_key of the score. */
/* Is this the key of one whose alarm rang? For policies with `alarms`. */
bool policy_is_alarm(int64_t key);
int64_t policy_key(const struct policy *policy, const struct policy_parameters *parameters,
                   const struct policy_input *input);

struct policy_parameter_row {
    const char *name;     /* "polder.patience" */
    size_t offset;        /* in struct policy_parameters */
    double value, minimum, maximum; /* the default, and the range */
    const char *meaning;
};
extern const struct policy_parameter_row policy_parameter_rows[];
void policy_parameters_init(struct policy_parameters *parameters);
/* NOT_FOUND for an unknown name; BAD_VALUE by name for what is no number, NaN, infinite or (where zero makes no sense)
 * zero; OUT_OF_RANGE. */
int policy_parameters_set(struct policy_parameters *parameters, const char *name, const char *value,
                          struct error *error);
/* Values that contradict each other: BAD_VALUE names both. */
int policy_parameters_check(const struct policy_parameters *parameters, struct error *error);

/* T_next = T_current + B_burst / R_remaining: the tag after a burst of `burst` seconds at weight `rate`. At rate 0 the
 * tag is infinite: it is parked until its rate is filled up again. */
double policy_next_tag(double tag, double burst, double rate);
