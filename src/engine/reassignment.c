// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/reassignment.h"

#include <errno.h>
#include <stdlib.h>

typedef __int128 wide;

void reassignment_free(struct reassignment *problem) {
    if (!problem)
        return;
    free(problem->balance);
    free(problem->location);
    free(problem->neighbourhood);
    free(problem->capacity);
    free(problem->safety);
    free(problem->distance);
    free(problem->spread);
    free(problem->dependency_begin);
    free(problem->dependency);
    free(problem->service);
    free(problem->home);
    free(problem->need);
    free(problem->effort);
    free(problem);
}

bool reassignment_is_sane(const struct reassignment *problem) {
    wide limit = (wide) 1 << 62, total = 0, farthest = 0;
    uint32_t resources = problem->resources;

    for (uint32_t r = 0; r < resources; r++) {
        wide sum = 0;
        for (uint32_t p = 0; p < problem->processes; p++)
            sum += problem->need[(size_t) p * resources + r];
        if (sum > limit)
            return false;
        total += sum * problem->load_weight[r];
    }
    for (uint32_t b = 0; b < problem->balances; b++) {
        const struct reassignment_balance *balance = &problem->balance[b];
        wide sum = 0;
        for (uint32_t m = 0; m < problem->machines; m++)
            sum += problem->capacity[(size_t) m * resources + balance->first];
        sum *= balance->target;
        if (sum > limit)
            return false;
        total += sum * balance->weight;
    }
    for (size_t i = 0; i < (size_t) problem->machines * problem->machines; i++)
        farthest = problem->distance[i] > farthest ? problem->distance[i] : farthest;
    total += farthest * problem->machine_weight * problem->processes;
    total += (wide) problem->service_weight * problem->processes;
    for (uint32_t p = 0; p < problem->processes; p++)
        total += (wide) problem->effort[p] * problem->process_weight;
    return total <= limit;
}

static bool is_above_capacity(const struct reassignment *problem, const int64_t *use) {
    for (size_t i = 0; i < (size_t) problem->machines * problem->resources; i++)
        if (use[i] > problem->capacity[i])
            return true;
    return false;
}

/* Sums into use[] what the processes take, first with what is in transit. */
static enum reassignment_rule check_capacity(const struct reassignment *problem, const uint32_t *assignment,
                                             int64_t *use) {
    uint32_t resources = problem->resources;

    for (uint32_t p = 0; p < problem->processes; p++)
        for (uint32_t r = 0; r < resources; r++) {
            int64_t need = problem->need[(size_t) p * resources + r];
            use[(size_t) assignment[p] * resources + r] += need;
            if (problem->transient[r] && assignment[p] != problem->home[p])
                use[(size_t) problem->home[p] * resources + r] += need;
        }
    if (is_above_capacity(problem, use))
        return REASSIGNMENT_CAPACITY;
    for (uint32_t p = 0; p < problem->processes; p++)
        for (uint32_t r = 0; r < resources; r++)
            if (problem->transient[r] && assignment[p] != problem->home[p])
                use[(size_t) problem->home[p] * resources + r] -= problem->need[(size_t) p * resources + r];
    return REASSIGNMENT_FEASIBLE;
}

/* Processes by service: members[begin[s]..begin[s + 1]). */
static void group(const struct reassignment *problem, uint32_t *begin, uint32_t *members) {
    for (uint32_t p = 0; p < problem->processes; p++)
        begin[problem->service[p] + 1]++;
    for (uint32_t s = 0; s < problem->services; s++)
        begin[s + 1] += begin[s];
    for (uint32_t p = problem->processes; p-- > 0;)
        members[--begin[problem->service[p] + 1]] = p;
    for (uint32_t s = 0; s < problem->services; s++)
        begin[s] = begin[s + 1];
    begin[problem->services] = problem->processes;
}

static bool stands_in(const struct reassignment *problem, const uint32_t *assignment, const uint32_t *members,
                      uint32_t count, uint32_t neighbourhood) {
    for (uint32_t i = 0; i < count; i++)
        if (problem->neighbourhood[assignment[members[i]]] == neighbourhood)
            return true;
    return false;
}

/* mark[] has a cell per machine, location: what was last seen there. */
static enum reassignment_rule check_service(const struct reassignment *problem, const uint32_t *assignment, uint32_t service,
                                            const uint32_t *begin, const uint32_t *members, uint32_t *on_machine,
                                            uint32_t *in_location) {
    uint32_t distinct = 0;

    for (uint32_t i = begin[service]; i < begin[service + 1]; i++) {
        uint32_t machine = assignment[members[i]], location = problem->location[machine];
        if (on_machine[machine] == service + 1)
            return REASSIGNMENT_CONFLICT;
        on_machine[machine] = service + 1;
        distinct += in_location[location] != service + 1;
        in_location[location] = service + 1;
    }
    if (distinct < problem->spread[service])
        return REASSIGNMENT_SPREAD;
    for (uint32_t d = problem->dependency_begin[service]; d < problem->dependency_begin[service + 1]; d++) {
        uint32_t other = problem->dependency[d];
        for (uint32_t i = begin[service]; i < begin[service + 1]; i++)
            if (!stands_in(problem, assignment, members + begin[other], begin[other + 1] - begin[other],
                           problem->neighbourhood[assignment[members[i]]]))
                return REASSIGNMENT_DEPENDENCY;
    }
    return REASSIGNMENT_FEASIBLE;
}

static int check_services(const struct reassignment *problem, const uint32_t *assignment, const uint32_t *begin,
                          const uint32_t *members, enum reassignment_rule *ret) {
    _cleanup_free_ uint32_t *on_machine = calloc(problem->machines + 1, sizeof(*on_machine));
    _cleanup_free_ uint32_t *in_location = calloc(problem->locations + 1, sizeof(*in_location));

    if (!on_machine || !in_location)
        return -ENOMEM;
    for (uint32_t s = 0; s < problem->services && *ret == REASSIGNMENT_FEASIBLE; s++)
        *ret = check_service(problem, assignment, s, begin, members, on_machine, in_location);
    return 0;
}

static void cost_of_machines(const struct reassignment *problem, const int64_t *use, struct reassignment_cost *cost) {
    for (uint32_t m = 0; m < problem->machines; m++) {
        const int64_t *row = use + (size_t) m * problem->resources;
        const int64_t *capacity = problem->capacity + (size_t) m * problem->resources;
        const int64_t *safety = problem->safety + (size_t) m * problem->resources;
        for (uint32_t r = 0; r < problem->resources; r++)
            if (row[r] > safety[r])
                cost->load += problem->load_weight[r] * (row[r] - safety[r]);
        for (uint32_t b = 0; b < problem->balances; b++) {
            const struct reassignment_balance *balance = &problem->balance[b];
            int64_t lack = balance->target * (capacity[balance->first] - row[balance->first]) -
                           (capacity[balance->second] - row[balance->second]);
            if (lack > 0)
                cost->balance += balance->weight * lack;
        }
    }
}

static void cost_of_moves(const struct reassignment *problem, const uint32_t *assignment, const uint32_t *begin,
                          const uint32_t *members, struct reassignment_cost *cost) {
    uint32_t most = 0;

    for (uint32_t s = 0; s < problem->services; s++) {
        uint32_t moved = 0;
        for (uint32_t i = begin[s]; i < begin[s + 1]; i++) {
            uint32_t p = members[i], home = problem->home[p];
            cost->machine += problem->machine_weight * problem->distance[(size_t) home * problem->machines + assignment[p]];
            if (assignment[p] == home)
                continue;
            cost->process += problem->process_weight * problem->effort[p];
            moved++;
        }
        cost->moved += moved;
        most = moved > most ? moved : most;
    }
    cost->service = problem->service_weight * most;
}

int reassignment_evaluate(const struct reassignment *problem, const uint32_t *assignment,
                          enum reassignment_rule *ret_rule, struct reassignment_cost *ret_cost) {
    _cleanup_free_ int64_t *use = calloc((size_t) problem->machines * problem->resources + 1, sizeof(*use));
    _cleanup_free_ uint32_t *begin = calloc(problem->services + 2, sizeof(*begin));
    _cleanup_free_ uint32_t *members = calloc(problem->processes + 1, sizeof(*members));
    struct reassignment_cost cost = { 0 };
    int r;

    if (!use || !begin || !members)
        return -ENOMEM;
    for (uint32_t p = 0; p < problem->processes; p++)
        if (assignment[p] >= problem->machines) {
            *ret_rule = REASSIGNMENT_NOWHERE;
            return 0;
        }
    *ret_rule = check_capacity(problem, assignment, use);
    group(problem, begin, members);
    r = check_services(problem, assignment, begin, members, ret_rule);
    if (r < 0 || *ret_rule != REASSIGNMENT_FEASIBLE)
        return r;
    cost_of_machines(problem, use, &cost);
    cost_of_moves(problem, assignment, begin, members, &cost);
    cost.total = cost.load + cost.balance + cost.process + cost.service + cost.machine;
    *ret_cost = cost;
    return 0;
}

const char *reassignment_rule_name(enum reassignment_rule rule) {
    static const char *const names[] = {
        [REASSIGNMENT_FEASIBLE] = "none",
        [REASSIGNMENT_CAPACITY] = "a machine's capacity, with what is in transit",
        [REASSIGNMENT_CONFLICT] = "one process of a service per machine",
        [REASSIGNMENT_SPREAD] = "the least number of locations of a service",
        [REASSIGNMENT_DEPENDENCY] = "a service that another needs in its neighbourhood",
        [REASSIGNMENT_NOWHERE] = "machines that exist",
    };

    return names[rule];
}
