// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

/* The machine reassignment problem of the ROADEF/EURO challenge 2012 (Google): processes that run on machines are moved
 * so that the weighted sum of five costs falls, within hard limits. It is one formulation of the optimiser's task, and
 * the one for which others published results. */

#define REASSIGNMENT_RESOURCES 32
#define REASSIGNMENT_NONE UINT32_MAX

/* Each machine pays weight * max(0, target * A(first) - A(second)), A being what is left of the capacity. */
struct reassignment_balance {
    uint32_t first, second;
    int64_t target, weight;
};

/* Plain data, filled by a reader; the arrays belong to it. `machine * resources + resource` indexes rows of machines,
 * `process * resources + resource` those of processes. */
struct reassignment {
    uint32_t resources, machines, services, processes, balances;
    uint32_t locations, neighbourhoods;          /* one above the greatest number used */
    bool transient[REASSIGNMENT_RESOURCES];      /* a process that left still takes it where it was */
    int64_t load_weight[REASSIGNMENT_RESOURCES];
    struct reassignment_balance *balance;
    uint32_t *location, *neighbourhood;          /* of a machine */
    int64_t *capacity, *safety;                  /* of a machine */
    int32_t *distance;                           /* from * machines + to: cost of moving a process */
    uint32_t *spread;                            /* of a service: in how many locations it must be at least */
    uint32_t *dependency_begin, *dependency;     /* services + 1 offsets: the services that one needs nearby */
    uint32_t *service, *home;                    /* of a process: its service, where it runs now */
    int64_t *need, *effort;                      /* of a process: what it takes, cost of moving it at all */
    int64_t process_weight, service_weight, machine_weight;
};

enum reassignment_rule {
    REASSIGNMENT_FEASIBLE,
    REASSIGNMENT_CAPACITY,   /* more than a machine has, what is in transit included */
    REASSIGNMENT_CONFLICT,   /* two processes of one service on one machine */
    REASSIGNMENT_SPREAD,     /* a service in too few locations */
    REASSIGNMENT_DEPENDENCY, /* a process whose service needs another that is not in its neighbourhood */
    REASSIGNMENT_NOWHERE,    /* a machine that does not exist */
};

/* Costs, weights included. */
struct reassignment_cost {
    int64_t load;    /* use above the safety capacities */
    int64_t balance;
    int64_t process; /* moving processes at all */
    int64_t service; /* the greatest number of processes of one service that move */
    int64_t machine; /* from where to where they move */
    int64_t total;
    uint32_t moved;  /* processes away from home; costs nothing by itself */
};

void reassignment_free(struct reassignment *problem);
DEFINE_CLEANUP(struct reassignment *, reassignment_free)
#define _cleanup_reassignment_ _cleanup_(reassignment_freep)

/* Could a cost, or the use of a machine, leave 62 bits? All else counts on it that they cannot. */
bool reassignment_is_sane(const struct reassignment *problem);

/* Costs and rules of an assignment (a machine per process), from the definition and nothing else: it shares no code
 * with the search, whose results it checks. Sets *ret_rule to the first rule broken (the cost is then not set).
 * Returns 0 or -ENOMEM. */
int reassignment_evaluate(const struct reassignment *problem, const uint32_t *assignment,
                          enum reassignment_rule *ret_rule, struct reassignment_cost *ret_cost);

const char *reassignment_rule_name(enum reassignment_rule rule);
