// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/reassignment-state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Per machine two rows are kept: what is left of the capacity (`left`, it makes the costs) and what is left for newcomers
 * (`room`: less what is in transit, for resources that stay taken at home). A move changes at most three machines, so
 * its cost is that of three rows. Services count how many of their processes stand in a location, a neighbourhood and on
 * a machine; those of one process without dependencies need no counting. */

#define NO_SLOT UINT32_MAX

struct reassignment_state {
    const struct reassignment *problem;
    uint32_t *assignment;
    int64_t *left, *room;   /* machine * resources + resource */
    int64_t *margin;        /* capacity - safety: less than that left costs load */
    int64_t *cost;          /* load and balance, of a machine */
    int64_t total;
    int64_t keep_all[REASSIGNMENT_RESOURCES];    /* masks: what a process takes of a machine that is not its home, */
    int64_t keep_steady[REASSIGNMENT_RESOURCES]; /* and at home, where what is transient is taken anyway */
    /* services with several processes: a slot each */
    uint32_t *slot;
    uint8_t *stands;        /* slot * machines + machine */
    uint16_t *in_location;  /* slot * locations + location */
    uint32_t *distinct;     /* locations, of a slot */
    /* services that depend or are depended upon: a slot each */
    uint32_t *tie;
    uint16_t *nearby;       /* tie * neighbourhoods + neighbourhood */
    uint32_t *needed_begin, *needed; /* the services that need one */
    /* moved processes of each service, and how many services have moved so many */
    uint32_t *moved, *having;
    uint32_t most;
    /* residents of machines, as lists in arrays */
    uint32_t **resident, *residents, *resident_room, *place;
};

void reassignment_state_free(struct reassignment_state *state) {
    if (!state)
        return;
    for (uint32_t m = 0; state->resident && m < state->problem->machines; m++)
        free(state->resident[m]);
    free(state->assignment);
    free(state->left);
    free(state->room);
    free(state->margin);
    free(state->cost);
    free(state->slot);
    free(state->stands);
    free(state->in_location);
    free(state->distinct);
    free(state->tie);
    free(state->nearby);
    free(state->needed_begin);
    free(state->needed);
    free(state->moved);
    free(state->having);
    free(state->resident);
    free(state->residents);
    free(state->resident_room);
    free(state->place);
    free(state);
}

/* Numbers the services that must be counted; returns how many. */
static uint32_t number_slots(struct reassignment_state *state, uint32_t *ret_ties) {
    const struct reassignment *problem = state->problem;
    uint32_t slots = 0, ties = 0;

    for (uint32_t s = 0; s < problem->services; s++) {
        state->slot[s] = state->tie[s] = NO_SLOT;
        state->moved[s] = 0;
    }
    for (uint32_t p = 0; p < problem->processes; p++)
        state->moved[problem->service[p]]++; /* borrowed to count members */
    for (uint32_t s = 0; s < problem->services; s++) {
        if (state->moved[s] > 1)
            state->slot[s] = slots++;
        state->moved[s] = 0;
        for (uint32_t d = problem->dependency_begin[s]; d < problem->dependency_begin[s + 1]; d++) {
            uint32_t other = problem->dependency[d];
            if (state->tie[s] == NO_SLOT)
                state->tie[s] = ties++;
            if (state->tie[other] == NO_SLOT)
                state->tie[other] = ties++;
            state->needed_begin[other + 1]++;
        }
    }
    *ret_ties = ties;
    return slots;
}

/* The dependencies the other way round. */
static void turn_dependencies(struct reassignment_state *state) {
    const struct reassignment *problem = state->problem;
    uint32_t *begin = state->needed_begin;

    for (uint32_t s = 0; s < problem->services; s++)
        begin[s + 1] += begin[s];
    for (uint32_t s = problem->services; s-- > 0;)
        for (uint32_t d = problem->dependency_begin[s]; d < problem->dependency_begin[s + 1]; d++)
            state->needed[--begin[problem->dependency[d] + 1]] = s;
    for (uint32_t s = 0; s < problem->services; s++)
        begin[s] = begin[s + 1];
    begin[problem->services] = problem->dependency_begin[problem->services];
}

static int allocate(struct reassignment_state *state) {
    const struct reassignment *problem = state->problem;
    size_t machines = problem->machines, services = problem->services, processes = problem->processes;
    size_t cells = machines * problem->resources + 1;

    state->assignment = calloc(processes + 1, sizeof(uint32_t));
    state->left = calloc(cells, sizeof(int64_t));
    state->room = calloc(cells, sizeof(int64_t));
    state->margin = calloc(cells, sizeof(int64_t));
    state->cost = calloc(machines + 1, sizeof(int64_t));
    state->slot = calloc(services + 1, sizeof(uint32_t));
    state->tie = calloc(services + 1, sizeof(uint32_t));
    state->needed_begin = calloc(services + 2, sizeof(uint32_t));
    state->needed = calloc((size_t) problem->dependency_begin[services] + 1, sizeof(uint32_t));
    state->moved = calloc(services + 1, sizeof(uint32_t));
    state->having = calloc(processes + 2, sizeof(uint32_t));
    state->resident = calloc(machines + 1, sizeof(uint32_t *));
    state->residents = calloc(machines + 1, sizeof(uint32_t));
    state->resident_room = calloc(machines + 1, sizeof(uint32_t));
    state->place = calloc(processes + 1, sizeof(uint32_t));
    return state->assignment && state->left && state->room && state->margin && state->cost && state->slot &&
                   state->tie && state->needed_begin && state->needed && state->moved && state->having &&
                   state->resident && state->residents && state->resident_room && state->place
               ? 0
               : -ENOMEM;
}

static int allocate_counts(struct reassignment_state *state) {
    const struct reassignment *problem = state->problem;
    uint32_t ties, slots = number_slots(state, &ties);

    state->stands = calloc((size_t) slots * problem->machines + 1, sizeof(uint8_t));
    state->in_location = calloc((size_t) slots * problem->locations + 1, sizeof(uint16_t));
    state->distinct = calloc((size_t) slots + 1, sizeof(uint32_t));
    state->nearby = calloc((size_t) ties * problem->neighbourhoods + 1, sizeof(uint16_t));
    return state->stands && state->in_location && state->distinct && state->nearby ? 0 : -ENOMEM;
}

/* Lists grow by doubling. */
static int resident_reserve(struct reassignment_state *state, uint32_t machine, uint32_t count) {
    uint32_t room = state->resident_room[machine];
    uint32_t *list;

    if (count <= room)
        return 0;
    room = room ? room * 2 : 16;
    list = realloc(state->resident[machine], (size_t) room * sizeof(*list));
    if (!list)
        return -ENOMEM;
    state->resident[machine] = list;
    state->resident_room[machine] = room;
    return 0;
}

static void resident_add(struct reassignment_state *state, uint32_t process, uint32_t machine) {
    state->place[process] = state->residents[machine];
    state->resident[machine][state->residents[machine]++] = process;
}

static void resident_remove(struct reassignment_state *state, uint32_t process, uint32_t machine) {
    uint32_t last = state->resident[machine][--state->residents[machine]];

    state->resident[machine][state->place[process]] = last;
    state->place[last] = state->place[process];
}

static const int64_t zeros[REASSIGNMENT_RESOURCES];

/* Load and balance of a machine if `out` left it and `in` came. */
static int64_t machine_cost(const struct reassignment_state *state, uint32_t machine, const int64_t *out,
                            const int64_t *in) {
    const struct reassignment *problem = state->problem;
    uint32_t resources = problem->resources;
    const int64_t *left = state->left + (size_t) machine * resources;
    const int64_t *margin = state->margin + (size_t) machine * resources;
    int64_t now[REASSIGNMENT_RESOURCES], cost = 0;

    for (uint32_t r = 0; r < resources; r++) {
        now[r] = left[r] + out[r] - in[r];
        int64_t over = margin[r] - now[r];
        cost += over > 0 ? over * problem->load_weight[r] : 0;
    }
    for (uint32_t b = 0; b < problem->balances; b++) {
        const struct reassignment_balance *balance = &problem->balance[b];
        int64_t lack = balance->target * now[balance->first] - now[balance->second];
        cost += lack > 0 ? lack * balance->weight : 0;
    }
    return cost;
}

/* What moving the process from home to the machine costs. */
static int64_t distance_cost(const struct reassignment *problem, uint32_t process, uint32_t machine) {
    uint32_t home = problem->home[process];
    int64_t cost = problem->machine_weight * problem->distance[(size_t) home * problem->machines + machine];

    return machine == home ? cost : cost + problem->process_weight * problem->effort[process];
}

/* Adds or takes away (by = 1, -1) a process that counts as standing on the machine. */
static void count_process(struct reassignment_state *state, uint32_t service, uint32_t machine, int by) {
    const struct reassignment *problem = state->problem;
    uint32_t slot = state->slot[service], tie = state->tie[service];

    if (slot != NO_SLOT) {
        uint16_t *cell = &state->in_location[(size_t) slot * problem->locations + problem->location[machine]];
        state->stands[(size_t) slot * problem->machines + machine] += (uint8_t) by;
        state->distinct[slot] -= *cell > 0;
        *cell = (uint16_t) (*cell + by);
        state->distinct[slot] += *cell > 0;
    }
    if (tie != NO_SLOT) {
        uint16_t *cell = &state->nearby[(size_t) tie * problem->neighbourhoods + problem->neighbourhood[machine]];
        *cell = (uint16_t) (*cell + by);
    }
}

static void count_moved(struct reassignment_state *state, uint32_t service, int by) {
    uint32_t *moved = &state->moved[service];

    state->having[*moved]--;
    *moved = (uint32_t) ((int64_t) *moved + by);
    state->having[*moved]++;
    if (*moved > state->most)
        state->most = *moved;
    while (state->most > 0 && state->having[state->most] == 0)
        state->most--;
}

static int settle(struct reassignment_state *state, uint32_t process, uint32_t machine) {
    const struct reassignment *problem = state->problem;
    uint32_t resources = problem->resources, home = problem->home[process];
    const int64_t *need = problem->need + (size_t) process * resources;
    int r = resident_reserve(state, machine, state->residents[machine] + 1);

    if (r < 0)
        return r;
    state->assignment[process] = machine;
    resident_add(state, process, machine);
    count_process(state, problem->service[process], machine, 1);
    for (uint32_t i = 0; i < resources; i++) {
        state->left[(size_t) machine * resources + i] -= need[i];
        state->room[(size_t) machine * resources + i] -= need[i];
        if (home != machine)
            state->room[(size_t) home * resources + i] -= need[i] & ~state->keep_steady[i];
    }
    if (machine != home)
        count_moved(state, problem->service[process], 1);
    state->total += distance_cost(problem, process, machine);
    return 0;
}

int reassignment_state_new(const struct reassignment *problem, const uint32_t *assignment,
                           struct reassignment_state **ret) {
    _cleanup_reassignment_state_ struct reassignment_state *state = calloc(1, sizeof(*state));
    size_t cells = (size_t) problem->machines * problem->resources;
    int r;

    if (!state)
        return -ENOMEM;
    state->problem = problem;
    r = allocate(state);
    if (r >= 0)
        r = allocate_counts(state);
    if (r < 0)
        return r;
    turn_dependencies(state);
    for (uint32_t i = 0; i < REASSIGNMENT_RESOURCES; i++) {
        state->keep_all[i] = -1;
        state->keep_steady[i] = i < problem->resources && problem->transient[i] ? 0 : -1;
    }
    for (size_t i = 0; i < cells; i++) {
        state->left[i] = state->room[i] = problem->capacity[i];
        state->margin[i] = problem->capacity[i] - problem->safety[i];
    }
    state->having[0] = problem->services;
    for (uint32_t p = 0; p < problem->processes && r >= 0; p++)
        r = settle(state, p, assignment[p]);
    if (r < 0)
        return r;
    for (uint32_t m = 0; m < problem->machines; m++) {
        state->cost[m] = machine_cost(state, m, zeros, zeros);
        state->total += state->cost[m];
    }
    state->total += problem->service_weight * state->most;
    *ret = STEAL_PTR(state);
    return 0;
}

static const int64_t *mask_of(const struct reassignment_state *state, uint32_t process, uint32_t machine) {
    return state->problem->home[process] == machine ? state->keep_steady : state->keep_all;
}

/* Does `in` fit on the machine once `out` (or REASSIGNMENT_NONE) has left? */
static bool has_room(const struct reassignment_state *state, uint32_t machine, uint32_t in, uint32_t out) {
    const struct reassignment *problem = state->problem;
    uint32_t resources = problem->resources;
    const int64_t *room = state->room + (size_t) machine * resources;
    const int64_t *need = problem->need + (size_t) in * resources, *mask = mask_of(state, in, machine);

    if (out == REASSIGNMENT_NONE) {
        for (uint32_t r = 0; r < resources; r++)
            if (room[r] < (need[r] & mask[r]))
                return false;
        return true;
    }
    const int64_t *given = problem->need + (size_t) out * resources, *given_mask = mask_of(state, out, machine);
    for (uint32_t r = 0; r < resources; r++)
        if (room[r] + (given[r] & given_mask[r]) < (need[r] & mask[r]))
            return false;
    return true;
}

static bool may_stand(const struct reassignment_state *state, uint32_t service, uint32_t from, uint32_t to) {
    const struct reassignment *problem = state->problem;
    uint32_t slot = state->slot[service], old, new;
    const uint16_t *cells;

    if (slot == NO_SLOT)
        return true;
    if (state->stands[(size_t) slot * problem->machines + to])
        return false;
    old = problem->location[from];
    new = problem->location[to];
    cells = state->in_location + (size_t) slot * problem->locations;
    return old == new || state->distinct[slot] - (cells[old] == 1) + (cells[new] == 0) >= problem->spread[service];
}

/* After the counts were changed: does the service find at the new place what it needs, and those it left too? */
static bool ties_hold(const struct reassignment_state *state, uint32_t service, uint32_t from, uint32_t to) {
    const struct reassignment *problem = state->problem;
    size_t neighbourhoods = problem->neighbourhoods;
    uint32_t old = problem->neighbourhood[from], new = problem->neighbourhood[to];

    if (state->tie[service] == NO_SLOT || old == new)
        return true;
    for (uint32_t d = problem->dependency_begin[service]; d < problem->dependency_begin[service + 1]; d++)
        if (state->nearby[state->tie[problem->dependency[d]] * neighbourhoods + new] == 0)
            return false;
    if (state->nearby[state->tie[service] * neighbourhoods + old] > 0)
        return true;
    for (uint32_t d = state->needed_begin[service]; d < state->needed_begin[service + 1]; d++)
        if (state->nearby[state->tie[state->needed[d]] * neighbourhoods + old] > 0)
            return false;
    return true;
}

/* Dependencies after the whole move. Two services of one move may be tied to each other: so count, look, count back. */
static bool ties_allow(struct reassignment_state *state, const struct reassignment_move *move, uint32_t from) {
    const struct reassignment *problem = state->problem;
    uint32_t service = problem->service[move->process];
    uint32_t other = move->other == REASSIGNMENT_NONE ? REASSIGNMENT_NONE : problem->service[move->other];
    bool tied = state->tie[service] != NO_SLOT, other_tied = other != REASSIGNMENT_NONE && state->tie[other] != NO_SLOT;
    bool hold;

    if (!tied && !other_tied)
        return true;
    count_process(state, service, from, -1);
    count_process(state, service, move->to, 1);
    if (other != REASSIGNMENT_NONE) {
        count_process(state, other, move->to, -1);
        count_process(state, other, move->onward, 1);
    }
    hold = ties_hold(state, service, from, move->to) &&
           (other == REASSIGNMENT_NONE || ties_hold(state, other, move->to, move->onward));
    if (other != REASSIGNMENT_NONE) {
        count_process(state, other, move->onward, -1);
        count_process(state, other, move->to, 1);
    }
    count_process(state, service, move->to, -1);
    count_process(state, service, from, 1);
    return hold;
}

/* How the process's being away from home changes: -1, 0, 1. */
static int away_change(const struct reassignment *problem, uint32_t process, uint32_t from, uint32_t to) {
    return (to != problem->home[process]) - (from != problem->home[process]);
}

static int64_t service_rise(struct reassignment_state *state, const struct reassignment_move *move, uint32_t from) {
    const struct reassignment *problem = state->problem;
    uint32_t before = state->most, after;
    int first = away_change(problem, move->process, from, move->to);
    int second = move->other == REASSIGNMENT_NONE ? 0 : away_change(problem, move->other, move->to, move->onward);

    if (first == 0 && second == 0)
        return 0;
    if (first)
        count_moved(state, problem->service[move->process], first);
    if (second)
        count_moved(state, problem->service[move->other], second);
    after = state->most;
    if (second)
        count_moved(state, problem->service[move->other], -second);
    if (first)
        count_moved(state, problem->service[move->process], -first);
    return ((int64_t) after - before) * problem->service_weight;
}

/* Room and services of the one that is displaced, besides what is said of the first. */
static bool other_may_go(const struct reassignment_state *state, const struct reassignment_move *move, uint32_t from) {
    const struct reassignment *problem = state->problem;
    bool swap = move->onward == from;
    bool same = problem->service[move->other] == problem->service[move->process];

    if (same)
        return swap && has_room(state, from, move->other, move->process);
    return has_room(state, move->onward, move->other, swap ? move->process : REASSIGNMENT_NONE) &&
           may_stand(state, problem->service[move->other], move->to, move->onward);
}

bool reassignment_state_try(struct reassignment_state *state, const struct reassignment_move *move, int64_t *ret_rise) {
    const struct reassignment *problem = state->problem;
    uint32_t from = state->assignment[move->process], resources = problem->resources;
    bool pair = move->other != REASSIGNMENT_NONE;
    int64_t rise;

    if (from == move->to || (pair && move->onward == move->to))
        return false;
    if (!has_room(state, move->to, move->process, move->other))
        return false;
    if (pair && !other_may_go(state, move, from))
        return false;
    if (!(pair && problem->service[move->other] == problem->service[move->process]) &&
        !may_stand(state, problem->service[move->process], from, move->to))
        return false;
    if (!ties_allow(state, move, from))
        return false;
    const int64_t *need = problem->need + (size_t) move->process * resources;
    const int64_t *given = pair ? problem->need + (size_t) move->other * resources : zeros;
    rise = distance_cost(problem, move->process, move->to) - distance_cost(problem, move->process, from);
    rise += machine_cost(state, from, need, pair && move->onward == from ? given : zeros) - state->cost[from];
    rise += machine_cost(state, move->to, given, need) - state->cost[move->to];
    if (pair) {
        rise += distance_cost(problem, move->other, move->onward) - distance_cost(problem, move->other, move->to);
        if (move->onward != from)
            rise += machine_cost(state, move->onward, zeros, given) - state->cost[move->onward];
    }
    *ret_rise = rise + service_rise(state, move, from);
    return true;
}

static void transfer(struct reassignment_state *state, uint32_t process, uint32_t to) {
    const struct reassignment *problem = state->problem;
    uint32_t from = state->assignment[process], resources = problem->resources, service = problem->service[process];
    const int64_t *need = problem->need + (size_t) process * resources;
    const int64_t *mask_from = mask_of(state, process, from), *mask_to = mask_of(state, process, to);
    int64_t *old = state->left + (size_t) from * resources, *old_room = state->room + (size_t) from * resources;
    int64_t *new = state->left + (size_t) to * resources, *new_room = state->room + (size_t) to * resources;
    int change = away_change(problem, process, from, to);

    for (uint32_t r = 0; r < resources; r++) {
        old[r] += need[r];
        old_room[r] += need[r] & mask_from[r];
        new[r] -= need[r];
        new_room[r] -= need[r] & mask_to[r];
    }
    state->total += distance_cost(problem, process, to) - distance_cost(problem, process, from);
    if (change)
        count_moved(state, service, change);
    count_process(state, service, from, -1);
    count_process(state, service, to, 1);
    resident_remove(state, process, from);
    resident_add(state, process, to);
    state->assignment[process] = to;
}

static void refresh(struct reassignment_state *state, uint32_t machine) {
    int64_t cost = machine_cost(state, machine, zeros, zeros);

    state->total += cost - state->cost[machine];
    state->cost[machine] = cost;
}

int reassignment_state_apply(struct reassignment_state *state, const struct reassignment_move *move) {
    uint32_t from = state->assignment[move->process], before = state->most;
    bool pair = move->other != REASSIGNMENT_NONE;
    int r = resident_reserve(state, move->to, state->residents[move->to] + 1);

    if (r >= 0 && pair)
        r = resident_reserve(state, move->onward, state->residents[move->onward] + 1);
    if (r < 0)
        return r;
    if (pair)
        transfer(state, move->other, move->onward);
    transfer(state, move->process, move->to);
    state->total += ((int64_t) state->most - before) * state->problem->service_weight;
    refresh(state, from);
    refresh(state, move->to);
    if (pair && move->onward != from)
        refresh(state, move->onward);
    return 0;
}

int64_t reassignment_state_total(const struct reassignment_state *state) {
    return state->total;
}

const uint32_t *reassignment_state_assignment(const struct reassignment_state *state) {
    return state->assignment;
}

const uint32_t *reassignment_state_residents(const struct reassignment_state *state, uint32_t machine, uint32_t *ret_count) {
    *ret_count = state->residents[machine];
    return state->resident[machine];
}
