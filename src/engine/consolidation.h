// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The planner of moves between hosts: it relieves hosts that are asked for more than they have, and empties hosts so that they
 * can rest. Pure: what it sees goes in, a list of moves comes out; who carries them out tells it later what became of them.
 *
 * What keeps it from swinging: a host is relieved above one mark, filled for relief to a lower one and filled by emptying
 * others to one lower still; each mark is compared with a prediction that has a margin for the spread of the demand; an
 * instance that moved rests for a while, a host that was started stays for a while; a host is emptied only if the energy
 * saved within the payback time is worth more than the moves. One plan never moves an instance twice. */

/* What is known of an instance's demand: exponentially weighted mean and variance. Zeroed: nothing yet. */
struct trend {
    double now, mean, variance;
    uint64_t seen;
};

struct consolidation_parameters {
    double relieve;     /* a host asked for more than this share of its CPU is relieved */
    double fill;        /* up to where hosts are filled for relief, with the margin */
    double pack;        /* up to where hosts are filled to empty others, with the margin */
    double margin;      /* standard deviations added to the mean */
    double weight;      /* of the newest observation in mean and variance, above 0, at most 1 */
    uint64_t rest;      /* s that an instance stays after a move */
    uint64_t dwell;     /* s that a host stays on */
    uint64_t payback;   /* s within which a move must pay */
    double move_power;  /* W that a second of moving costs */
};
void consolidation_parameters_init(struct consolidation_parameters *parameters);
/* One by name, as text. NOT_FOUND, BAD_VALUE. */
int consolidation_parameters_set(struct consolidation_parameters *parameters, const char *name, const char *value,
                                 struct error *error);
/* Contradictions: relieve below fill, fill below pack. BAD_VALUE. */
int consolidation_parameters_check(const struct consolidation_parameters *parameters, struct error *error);

/* Takes an observation of the demand in. */
void trend_observe(struct trend *demand, double value, const struct consolidation_parameters *parameters);

#define CONSOLIDATION_POWERS 11

struct consolidation_host {
    double cpu;           /* capacity, in the unit of demands */
    double cpu_largest;   /* most that one instance can use */
    uint64_t memory;
    const double *power;  /* W at 0, 10, ... 100 % of the CPU */
    bool closed;          /* takes nobody: failing, in maintenance */
    uint64_t started;     /* s; when it was last switched on, 0 long ago */
};

struct consolidation_instance {
    uint32_t host;
    uint64_t memory;
    double move_time;     /* s */
    uint64_t moved;       /* s; when it last moved, 0 never */
    bool pinned;
    struct trend demand;
};

enum consolidation_reason {
    CONSOLIDATION_RELIEVE, /* its host is asked for too much */
    CONSOLIDATION_LARGE,   /* it asks for more than one instance can get there */
    CONSOLIDATION_EMPTY,   /* its host is to rest */
};
extern const char *const consolidation_reasons[];

struct consolidation_move {
    uint32_t instance, from, to;
    enum consolidation_reason reason;
    double from_share, to_share; /* of the CPU, predicted: where it leaves before, where it comes after */
};

/* The moves wanted at `now` (s), in the order in which they should start. A host without instances rests. `ret` is the
 * caller's. -ENOMEM. */
int consolidation_plan(const struct consolidation_parameters *parameters, const struct consolidation_host *hosts,
                       size_t host_count, const struct consolidation_instance *instances, size_t instance_count,
                       uint64_t now, struct consolidation_move **ret, size_t *ret_count);
