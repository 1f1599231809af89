// SPDX-License-Identifier: GPL-2.0-or-later
/* The machine reassignment problem: a second, naive reading of its definition judges every move of the incremental state on
 * random small instances; a case by hand; the search against all assignments of tiny instances. */
#include "test.h"

#include <string.h>

#include "engine/reassignment-search.h"

#define MACHINES 5
#define PROCESSES 12
#define SERVICES 6
#define RESOURCES 3
#define INFEASIBLE INT64_MIN

static uint64_t draw(uint64_t *seed) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint32_t below(uint64_t *seed, uint32_t limit) {
    return (uint32_t) (draw(seed) % limit);
}

/* --- the definition, once more --------------------------------------------------------------------------------------- */

static int64_t use_of(const struct reassignment *q, const uint32_t *at, uint32_t m, uint32_t r, bool with_transit) {
    int64_t use = 0;

    for (uint32_t p = 0; p < q->processes; p++)
        if (at[p] == m || (with_transit && q->transient[r] && q->home[p] == m))
            use += q->need[p * q->resources + r];
    return use;
}

static bool services_hold(const struct reassignment *q, const uint32_t *at) {
    for (uint32_t a = 0; a < q->processes; a++)
        for (uint32_t b = 0; b < a; b++)
            if (q->service[a] == q->service[b] && at[a] == at[b])
                return false;
    for (uint32_t s = 0; s < q->services; s++) {
        uint32_t locations = 0;
        for (uint32_t l = 0; l < q->locations; l++) {
            bool seen = false;
            for (uint32_t p = 0; p < q->processes; p++)
                seen |= q->service[p] == s && q->location[at[p]] == l;
            locations += seen;
        }
        if (locations < q->spread[s])
            return false;
    }
    for (uint32_t p = 0; p < q->processes; p++)
        for (uint32_t d = q->dependency_begin[q->service[p]]; d < q->dependency_begin[q->service[p] + 1]; d++) {
            bool found = false;
            for (uint32_t o = 0; o < q->processes; o++)
                found |= q->service[o] == q->dependency[d] && q->neighbourhood[at[o]] == q->neighbourhood[at[p]];
            if (!found)
                return false;
        }
    return true;
}

static int64_t moving_cost(const struct reassignment *q, const uint32_t *at) {
    int64_t cost = 0, most = 0;

    for (uint32_t p = 0; p < q->processes; p++) {
        cost += at[p] != q->home[p] ? q->process_weight * q->effort[p] : 0;
        cost += q->machine_weight * q->distance[q->home[p] * q->machines + at[p]];
    }
    for (uint32_t s = 0; s < q->services; s++) {
        int64_t moved = 0;
        for (uint32_t p = 0; p < q->processes; p++)
            moved += q->service[p] == s && at[p] != q->home[p];
        most = moved > most ? moved : most;
    }
    return cost + q->service_weight * most;
}

static int64_t naive_cost(const struct reassignment *q, const uint32_t *at) {
    int64_t cost = moving_cost(q, at);

    if (!services_hold(q, at))
        return INFEASIBLE;
    for (uint32_t m = 0; m < q->machines; m++) {
        int64_t left[RESOURCES];
        for (uint32_t r = 0; r < q->resources; r++) {
            int64_t use = use_of(q, at, m, r, false), over = use - q->safety[m * q->resources + r];
            if (use_of(q, at, m, r, true) > q->capacity[m * q->resources + r])
                return INFEASIBLE;
            cost += over > 0 ? over * q->load_weight[r] : 0;
            left[r] = q->capacity[m * q->resources + r] - use;
        }
        for (uint32_t b = 0; b < q->balances; b++) {
            int64_t lack = q->balance[b].target * left[q->balance[b].first] - left[q->balance[b].second];
            cost += lack > 0 ? lack * q->balance[b].weight : 0;
        }
    }
    return cost;
}

/* --- random instances ------------------------------------------------------------------------------------------------ */

static struct reassignment *blank(uint32_t machines, uint32_t processes, uint32_t services, uint32_t resources) {
    struct reassignment *q = calloc(1, sizeof(*q));

    *q = (struct reassignment){ .machines = machines, .processes = processes, .services = services,
                                .resources = resources, .locations = 3, .neighbourhoods = 2, .balances = 1 };
    q->balance = calloc(1, sizeof(*q->balance));
    q->location = calloc(machines, sizeof(uint32_t));
    q->neighbourhood = calloc(machines, sizeof(uint32_t));
    q->capacity = calloc((size_t) machines * resources, sizeof(int64_t));
    q->safety = calloc((size_t) machines * resources, sizeof(int64_t));
    q->distance = calloc((size_t) machines * machines, sizeof(int32_t));
    q->spread = calloc(services, sizeof(uint32_t));
    q->dependency_begin = calloc(services + 1, sizeof(uint32_t));
    q->dependency = calloc((size_t) services * services, sizeof(uint32_t));
    q->service = calloc(processes, sizeof(uint32_t));
    q->home = calloc(processes, sizeof(uint32_t));
    q->need = calloc((size_t) processes * resources, sizeof(int64_t));
    q->effort = calloc(processes, sizeof(int64_t));
    return q;
}

static void fill_processes(struct reassignment *q, uint64_t *seed) {
    for (uint32_t p = 0; p < q->processes; p++) {
        q->service[p] = below(seed, q->services);
        q->home[p] = below(seed, q->machines);
        q->effort[p] = below(seed, 5);
        for (uint32_t r = 0; r < q->resources; r++)
            q->need[p * q->resources + r] = below(seed, 10);
    }
    for (uint32_t s = 0; s < q->services; s++) {
        q->spread[s] = below(seed, 3);
        q->dependency_begin[s + 1] = q->dependency_begin[s];
        if (below(seed, 3) == 0)
            q->dependency[q->dependency_begin[s + 1]++] = below(seed, q->services);
    }
}

static struct reassignment *random_instance(uint64_t *seed, uint32_t machines, uint32_t processes) {
    for (;;) {
        _cleanup_reassignment_ struct reassignment *q =
            blank(2 + below(seed, machines - 1), 1 + below(seed, processes), 2 + below(seed, SERVICES - 1),
                  1 + below(seed, RESOURCES));
        fill_processes(q, seed);
        for (uint32_t r = 0; r < q->resources; r++) {
            q->transient[r] = below(seed, 2);
            q->load_weight[r] = 1 + below(seed, 10);
        }
        for (uint32_t m = 0; m < q->machines; m++) {
            q->location[m] = below(seed, q->locations);
            q->neighbourhood[m] = below(seed, q->neighbourhoods);
            for (uint32_t r = 0; r < q->resources; r++) {
                q->capacity[m * q->resources + r] = 12 + below(seed, 40);
                q->safety[m * q->resources + r] = below(seed, 20);
            }
            for (uint32_t o = 0; o < q->machines; o++)
                q->distance[m * q->machines + o] = m == o ? 0 : (int32_t) below(seed, 7);
        }
        q->balance[0] = (struct reassignment_balance){ .first = below(seed, q->resources),
                                                       .second = below(seed, q->resources), .target = below(seed, 3),
                                                       .weight = below(seed, 10) };
        q->process_weight = below(seed, 3);
        q->service_weight = below(seed, 20);
        q->machine_weight = below(seed, 5);
        if (naive_cost(q, q->home) != INFEASIBLE)
            return STEAL_PTR(q);
    }
}

/* --- the incremental state ------------------------------------------------------------------------------------------- */

static struct reassignment_move random_move(const struct reassignment *q, const uint32_t *at, uint64_t *seed) {
    struct reassignment_move move = { .process = below(seed, q->processes), .to = below(seed, q->machines),
                                      .other = REASSIGNMENT_NONE };
    uint32_t other = below(seed, q->processes), kind = below(seed, 3);

    if (kind == 0 || other == move.process)
        return move;
    move.other = other;
    move.to = at[other];
    move.onward = kind == 1 ? at[move.process] : below(seed, q->machines);
    return move;
}

/* Moves that go nowhere are refused, and the ejection of a process of the same service. */
static bool is_left_out(const struct reassignment *q, const uint32_t *at, const struct reassignment_move *move) {
    if (at[move->process] == move->to)
        return true;
    return move->other != REASSIGNMENT_NONE &&
           (move->onward == move->to ||
            (q->service[move->process] == q->service[move->other] && move->onward != at[move->process]));
}

static void check_moves(const struct reassignment *q, uint64_t seed) {
    _cleanup_reassignment_state_ struct reassignment_state *state = NULL;
    uint32_t after[PROCESSES];

    assert_int_equal(reassignment_state_new(q, q->home, &state), 0);
    assert_int_equal(reassignment_state_total(state), naive_cost(q, q->home));
    for (unsigned i = 0; i < 300; i++) {
        const uint32_t *at = reassignment_state_assignment(state);
        struct reassignment_move move = random_move(q, at, &seed);
        int64_t before = reassignment_state_total(state), rise = 0, expected;
        bool allowed = reassignment_state_try(state, &move, &rise);

        memcpy(after, at, q->processes * sizeof(*after));
        if (move.other != REASSIGNMENT_NONE)
            after[move.other] = move.onward;
        after[move.process] = move.to;
        expected = is_left_out(q, at, &move) ? INFEASIBLE : naive_cost(q, after);
        assert_int_equal(allowed, expected != INFEASIBLE);
        if (!allowed)
            continue;
        assert_int_equal(before + rise, expected);
        assert_int_equal(reassignment_state_apply(state, &move), 0);
        assert_int_equal(reassignment_state_total(state), expected);
        assert_memory_equal(reassignment_state_assignment(state), after, q->processes * sizeof(*after));
    }
}

static void test_every_move(void **unused) {
    uint64_t seed = 1;

    for (unsigned i = 0; i < 2000; i++) {
        _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, MACHINES, PROCESSES);
        check_moves(q, seed);
    }
}

static void test_residents(void **unused) {
    uint64_t seed = 5;
    _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, MACHINES, PROCESSES);
    _cleanup_reassignment_state_ struct reassignment_state *state = NULL;
    uint32_t count, sum = 0;

    assert_int_equal(reassignment_state_new(q, q->home, &state), 0);
    for (uint32_t m = 0; m < q->machines; m++) {
        const uint32_t *residents = reassignment_state_residents(state, m, &count);
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(q->home[residents[i]], m);
        sum += count;
    }
    assert_int_equal(sum, q->processes);
}

/* --- the checker ----------------------------------------------------------------------------------------------------- */

static void test_checker_agrees(void **unused) {
    uint64_t seed = 2;

    for (unsigned i = 0; i < 2000; i++) {
        _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, MACHINES, PROCESSES);
        uint32_t at[PROCESSES];
        enum reassignment_rule rule;
        struct reassignment_cost cost = { 0 };
        for (unsigned tries = 0; tries < 20; tries++) {
            memcpy(at, q->home, q->processes * sizeof(*at));
            for (uint32_t n = below(&seed, 4); n > 0; n--)
                at[below(&seed, q->processes)] = below(&seed, q->machines);
            assert_int_equal(reassignment_evaluate(q, at, &rule, &cost), 0);
            int64_t expected = naive_cost(q, at);
            assert_int_equal(rule == REASSIGNMENT_FEASIBLE, expected != INFEASIBLE);
            if (expected != INFEASIBLE)
                assert_int_equal(cost.total, expected);
        }
    }
}

/* Two machines of 10, safety 4; processes of 3, 3 (one service) and 2 at the first would be a conflict, so 3 and 2 there.
 * Load weight 2: (5 - 4) x 2 = 2 at the first, 0 at the second (3). Moving the process of 2: load 0 + (5 - 4) x 2 = 2,
 * process cost 7 x 1, machine cost 5 x 1, one moved of its service: 10 x 1. Total 24. */
static void test_by_hand(void **unused) {
    _cleanup_reassignment_ struct reassignment *q = blank(2, 3, 2, 1);
    enum reassignment_rule rule;
    struct reassignment_cost cost;

    q->balances = 0;
    q->load_weight[0] = 2;
    q->process_weight = q->machine_weight = 1;
    q->service_weight = 10;
    for (uint32_t m = 0; m < 2; m++) {
        q->capacity[m] = 10;
        q->safety[m] = 4;
        q->distance[m * 2 + 1 - m] = 5;
    }
    memcpy(q->need, (const int64_t[]){ 3, 3, 2 }, 3 * sizeof(int64_t));
    memcpy(q->effort, (const int64_t[]){ 1, 1, 7 }, 3 * sizeof(int64_t));
    memcpy(q->service, (const uint32_t[]){ 0, 0, 1 }, 3 * sizeof(uint32_t));
    memcpy(q->home, (const uint32_t[]){ 0, 1, 0 }, 3 * sizeof(uint32_t));
    assert_int_equal(reassignment_evaluate(q, q->home, &rule, &cost), 0);
    assert_int_equal(rule, REASSIGNMENT_FEASIBLE);
    assert_int_equal(cost.total, 2);
    assert_int_equal(reassignment_evaluate(q, (const uint32_t[]){ 0, 1, 1 }, &rule, &cost), 0);
    assert_int_equal(cost.load, 2);
    assert_int_equal(cost.process, 7);
    assert_int_equal(cost.machine, 5);
    assert_int_equal(cost.service, 10);
    assert_int_equal(cost.total, 24);
    assert_int_equal(reassignment_evaluate(q, (const uint32_t[]){ 0, 0, 1 }, &rule, &cost), 0);
    assert_int_equal(rule, REASSIGNMENT_CONFLICT);
    assert_int_equal(reassignment_evaluate(q, (const uint32_t[]){ 0, 2, 1 }, &rule, &cost), 0);
    assert_int_equal(rule, REASSIGNMENT_NOWHERE);
    q->transient[0] = true; /* 3 + 2 at home, and 3 come: 8 fit; of 7 only 5 do */
    q->capacity[0] = q->capacity[1] = 7;
    assert_int_equal(reassignment_evaluate(q, (const uint32_t[]){ 1, 0, 0 }, &rule, &cost), 0);
    assert_int_equal(rule, REASSIGNMENT_CAPACITY);
}

static void test_insane_numbers(void **unused) {
    uint64_t seed = 3;
    _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, MACHINES, PROCESSES);

    assert_true(reassignment_is_sane(q));
    q->effort[0] = INT64_C(1) << 60;
    q->process_weight = 100;
    assert_false(reassignment_is_sane(q));
}

/* --- the search ------------------------------------------------------------------------------------------------------ */

static int64_t search(const struct reassignment *q, uint64_t seed, uint64_t steps, bool backwards, uint32_t *ret) {
    _cleanup_reassignment_search_ struct reassignment_search *found = NULL;
    int64_t total;
    int r = 1;

    assert_int_equal(reassignment_search_new(q, q->home, seed, steps, &found), 0);
    while (r > 0) {
        for (unsigned i = 0; i < REASSIGNMENT_CHAINS; i++)
            assert_int_equal(reassignment_search_run(found, backwards ? REASSIGNMENT_CHAINS - 1 - i : i), 0);
        r = reassignment_search_join(found);
    }
    assert_int_equal(r, 0);
    memcpy(ret, reassignment_search_best(found, &total), q->processes * sizeof(*ret));
    return total;
}

static int64_t least_cost(const struct reassignment *q) {
    uint32_t at[PROCESSES] = { 0 };
    int64_t least = INT64_MAX;

    for (;;) {
        int64_t cost = naive_cost(q, at);
        least = cost != INFEASIBLE && cost < least ? cost : least;
        uint32_t p = 0;
        while (p < q->processes && ++at[p] == q->machines)
            at[p++] = 0;
        if (p == q->processes)
            return least;
    }
}

/* Rules may cut the way to the best assignment: it is found nearly always. */
static void test_search_finds_the_least(void **unused) {
    uint64_t seed = 4;
    unsigned found = 0;

    for (unsigned i = 0; i < 200; i++) {
        _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, 4, 6);
        uint32_t at[PROCESSES];
        int64_t total = search(q, 1, 40000, false, at), least = least_cost(q);
        assert_int_equal(naive_cost(q, at), total);
        assert_true(total >= least);
        found += total == least;
    }
    assert_true(found >= 190);
}

static void test_search_repeats(void **unused) {
    uint64_t seed = 6;

    for (unsigned i = 0; i < 20; i++) {
        _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, MACHINES, PROCESSES);
        uint32_t once[PROCESSES], again[PROCESSES];
        int64_t total = search(q, i, 30000, false, once);
        assert_int_equal(search(q, i, 30000, true, again), total);
        assert_memory_equal(once, again, q->processes * sizeof(*once));
        assert_true(total <= naive_cost(q, q->home));
    }
}

static void test_few_steps(void **unused) {
    uint64_t seed = 7;
    _cleanup_reassignment_ struct reassignment *q = random_instance(&seed, MACHINES, PROCESSES);
    uint32_t at[PROCESSES];

    assert_int_equal(search(q, 1, 0, false, at), naive_cost(q, q->home));
    for (uint64_t steps = 1; steps < 300; steps += 7) {
        int64_t total = search(q, 1, steps, false, at);
        assert_int_equal(total, naive_cost(q, at));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_move),
        cmocka_unit_test(test_residents),
        cmocka_unit_test(test_checker_agrees),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_insane_numbers),
        cmocka_unit_test(test_search_finds_the_least),
        cmocka_unit_test(test_search_repeats),
        cmocka_unit_test(test_few_steps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
