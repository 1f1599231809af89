// SPDX-License-Identifier: GPL-2.0-or-later
/* The planner of moves between hosts: cases by hand, and its promises on random clusters. */
#include "test.h"

#include <string.h>

#include "engine/consolidation.h"

#define HOSTS 12
#define INSTANCES 40
#define STEP 300

static const double flat[CONSOLIDATION_POWERS] = { 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200 };
static const double thrifty[CONSOLIDATION_POWERS] = { 50, 55, 60, 65, 70, 75, 80, 85, 90, 95, 100 };

static struct consolidation_host host(double cpu, const double *power) {
    return (struct consolidation_host){ .cpu = cpu, .cpu_largest = cpu, .memory = UINT64_MAX, .power = power };
}

/* An instance whose demand is known to be constant. */
static struct consolidation_instance instance(uint32_t where, double demand, double move_time) {
    return (struct consolidation_instance){ .host = where, .move_time = move_time,
                                            .demand = { .now = demand, .mean = demand, .seen = 100 } };
}

struct setting {
    struct consolidation_parameters parameters;
    struct consolidation_host hosts[HOSTS];
    struct consolidation_instance instances[INSTANCES];
    size_t host_count, instance_count;
    struct consolidation_move *moves;
    size_t count;
};

static void plan(struct setting *setting, uint64_t now) {
    free(setting->moves);
    assert_int_equal(consolidation_plan(&setting->parameters, setting->hosts, setting->host_count, setting->instances,
                                        setting->instance_count, now, &setting->moves, &setting->count), 0);
}

static void setting_init(struct setting *setting) {
    memset(setting, 0, sizeof(*setting));
    consolidation_parameters_init(&setting->parameters);
}

static void setting_done(struct setting *setting) {
    free(setting->moves);
}
#define SETTING(name)                                                                                        \
    _cleanup_(setting_done) struct setting name;                                                             \
    setting_init(&name)

/* Two equal hosts of 100 with an instance each, which takes so long to move. */
static void set_pair(struct setting *s, double first, double second) {
    s->hosts[0] = s->hosts[1] = host(100, flat);
    s->host_count = 2;
    s->instances[0] = instance(0, first, 5);
    s->instances[1] = instance(1, second, 5);
    s->instance_count = 2;
}

static void expect_count(struct setting *s, uint64_t now, size_t count) {
    plan(s, now);
    assert_int_equal(s->count, count);
}

static void expect_move(struct setting *s, uint64_t now, uint32_t who) {
    expect_count(s, now, 1);
    assert_int_equal(s->moves[0].instance, who);
}

/* w = 1/2: 4, then 8: mean 6, variance (1/2)(4 x 4 / 4 + 1/2 x 16) = 6. */
static void test_demand(void **state) {
    struct consolidation_parameters parameters = { .weight = 0.5 };
    struct trend demand = { 0 };

    trend_observe(&demand, 4, &parameters);
    assert_true(demand.mean >= 4 && demand.mean <= 4 && demand.variance >= 4 && demand.variance <= 4);
    trend_observe(&demand, 8, &parameters);
    assert_true(demand.mean >= 6 && demand.mean <= 6 && demand.variance >= 6 && demand.variance <= 6);
    assert_true(demand.now >= 8 && demand.now <= 8);
}

/* 70 + 25 + 15 = 110 of 100: an excess of 10, which 25 or 15 cure; of equal times the smaller goes. */
static void test_relieve(void **state) {
    SETTING(s);
    s.hosts[0] = s.hosts[1] = s.hosts[2] = host(100, flat);
    s.host_count = 3;
    s.instances[0] = instance(0, 70, 5);
    s.instances[1] = instance(0, 25, 5);
    s.instances[2] = instance(0, 15, 5);
    s.instances[3] = instance(1, 60, 5);
    s.instance_count = 4;
    expect_move(&s, 1000, 2);
    assert_int_equal(s.moves[0].from, 0);
    assert_int_equal(s.moves[0].to, 1); /* it is on, and 75 are below the mark */
    assert_int_equal(s.moves[0].reason, CONSOLIDATION_RELIEVE);
    assert_true(s.moves[0].from_share > 1.09 && s.moves[0].to_share < 0.76);
    s.instances[1].move_time = 1; /* faster to move: it goes instead */
    plan(&s, 1000);
    assert_int_equal(s.moves[0].instance, 1);
    s.instances[3] = instance(1, 90, 5); /* no room below the mark: a host is started, the thriftiest */
    s.hosts[2].power = thrifty;
    plan(&s, 1000);
    assert_int_equal(s.moves[0].to, 2);
    s.hosts[2].closed = true; /* nowhere to go */
    expect_count(&s, 1000, 0);
}

/* Between the marks nothing happens: a host at 100 % is not relieved, one at 96 % is not filled. */
static void test_hysteresis(void **state) {
    SETTING(s);
    set_pair(&s, 100, 40);
    expect_count(&s, 1000, 0);
    s.instances[0] = instance(0, 46, 5); /* together 86: above the mark for packing */
    expect_count(&s, 1000, 0);
    s.instances[0] = instance(0, 44, 5); /* 84 */
    expect_count(&s, 1000, 1);
    assert_int_equal(s.moves[0].reason, CONSOLIDATION_EMPTY);
    assert_int_equal(s.moves[0].instance, 1); /* the less used host is emptied */
}

static void test_margin_counts(void **state) {
    SETTING(s);
    set_pair(&s, 44, 40);
    expect_count(&s, 1000, 1);
    s.instances[0].demand.variance = 4; /* 84 + 2 */
    expect_count(&s, 1000, 0);
}

static void test_what_stays(void **state) {
    SETTING(s);
    set_pair(&s, 44, 20);
    expect_count(&s, 10000, 1);
    s.instances[1].pinned = true; /* then the other host is emptied, for the first cannot be */
    expect_move(&s, 10000, 0);
    s.instances[0].moved = 9000; /* 1,000 s ago: it rests */
    expect_count(&s, 10000, 0);
    s.instances[0].moved = 8200; /* 1,800 s ago */
    expect_count(&s, 10000, 1);
    s.hosts[0].started = 9000; /* the host stays on */
    expect_count(&s, 10000, 0);
    s.hosts[0].started = 0;
    s.instances[0].move_time = 3601; /* 100 W saved for 3,600 s against 3,601 s of 100 W */
    expect_count(&s, 10000, 0);
}

static void test_memory_and_size(void **state) {
    SETTING(s);
    set_pair(&s, 44, 20);
    s.instances[0].memory = s.instances[1].memory = 6;
    s.hosts[0].memory = s.hosts[1].memory = 11;
    expect_count(&s, 10000, 0);
    s.hosts[0].memory = 12;
    expect_count(&s, 10000, 1);
    s.hosts[0].cpu_largest = 10;      /* the second may not come, and the first wants more than it can get */
    s.hosts[1].memory = 12;
    expect_move(&s, 10000, 0);
    assert_int_equal(s.moves[0].reason, CONSOLIDATION_LARGE);
}

/* The less efficient host is emptied, though it is fuller. */
static void test_thrift(void **state) {
    SETTING(s);
    s.hosts[0] = host(100, thrifty);
    s.hosts[1] = host(100, flat);
    s.host_count = 2;
    s.instances[0] = instance(0, 10, 5);
    s.instances[1] = instance(1, 50, 5);
    s.instance_count = 2;
    expect_move(&s, 10000, 1);
}

/* --- random clusters ------------------------------------------------------------------------------------------------- */

static uint32_t below(uint64_t *seed, uint32_t limit) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (uint32_t) ((z ^ z >> 31) % limit);
}

static void fill_random(struct setting *s, uint64_t *seed) {
    s->host_count = 2 + below(seed, HOSTS - 1);
    s->instance_count = 1 + below(seed, INSTANCES);
    for (size_t i = 0; i < s->host_count; i++) {
        s->hosts[i] = host(100 + below(seed, 100), below(seed, 2) ? flat : thrifty);
        s->hosts[i].memory = 200;
        s->hosts[i].closed = below(seed, 10) == 0;
    }
    for (size_t i = 0; i < s->instance_count; i++) {
        s->instances[i] = (struct consolidation_instance){ .host = below(seed, (uint32_t) s->host_count),
                                                           .move_time = 1 + below(seed, 30), .memory = below(seed, 10),
                                                           .pinned = below(seed, 10) == 0 };
        trend_observe(&s->instances[i].demand, below(seed, 30), &s->parameters);
    }
}

/* Applies the plan to the setting, and checks what it promises. */
static void apply(struct setting *s, uint64_t now) {
    bool moved[INSTANCES] = { false };
    uint64_t memory[HOSTS] = { 0 };

    for (size_t i = 0; i < s->count; i++) {
        struct consolidation_instance *item = &s->instances[s->moves[i].instance];
        assert_int_equal(item->host, s->moves[i].from);
        assert_true(s->moves[i].to != s->moves[i].from);
        assert_false(moved[s->moves[i].instance]);
        assert_false(item->pinned);
        assert_false(s->hosts[s->moves[i].to].closed);
        assert_true(item->moved == 0 || now >= item->moved + s->parameters.rest);
        assert_true(s->moves[i].to_share <= s->parameters.fill + 1e-9);
        moved[s->moves[i].instance] = true;
    }
    for (size_t i = 0; i < s->count; i++) {
        s->instances[s->moves[i].instance].host = s->moves[i].to;
        s->instances[s->moves[i].instance].moved = now;
    }
    for (size_t i = 0; i < s->instance_count; i++)
        memory[s->instances[i].host] += s->instances[i].memory;
    for (size_t i = 0; i < s->count; i++)
        assert_true(memory[s->moves[i].to] <= s->hosts[s->moves[i].to].memory);
    for (size_t i = 0; i < s->count; i++) /* what is emptied is empty */
        for (size_t k = 0; k < s->instance_count && s->moves[i].reason == CONSOLIDATION_EMPTY; k++)
            assert_int_not_equal(s->instances[k].host, s->moves[i].from);
}

/* With demands that stay as they are the moves come to an end. */
static void test_no_swinging(void **state) {
    uint64_t seed = 1;

    for (unsigned round = 0; round < 300; round++) {
        SETTING(s);
        fill_random(&s, &seed);
        for (unsigned step = 1; step <= 100; step++) {
            plan(&s, step * STEP);
            apply(&s, step * STEP);
            if (step > 70)
                assert_int_equal(s.count, 0);
            for (size_t i = 0; i < s.instance_count; i++)
                trend_observe(&s.instances[i].demand, s.instances[i].demand.now, &s.parameters);
        }
    }
}

/* With demands that change an instance moves once per rest at most, and plans are the same again. */
static void test_promises(void **state) {
    uint64_t seed = 2;

    for (unsigned round = 0; round < 200; round++) {
        SETTING(s);
        fill_random(&s, &seed);
        for (unsigned step = 1; step <= 60; step++) {
            plan(&s, step * STEP);
            size_t count = s.count;
            _cleanup_free_ struct consolidation_move *first = s.moves;
            s.moves = NULL;
            plan(&s, step * STEP);
            assert_int_equal(s.count, count);
            for (size_t i = 0; i < count; i++)
                assert_true(first[i].instance == s.moves[i].instance && first[i].to == s.moves[i].to);
            apply(&s, step * STEP);
            for (size_t i = 0; i < s.instance_count; i++)
                trend_observe(&s.instances[i].demand, below(&seed, 40), &s.parameters);
        }
    }
}

static void test_parameters(void **state) {
    struct consolidation_parameters parameters;

    consolidation_parameters_init(&parameters);
    _cleanup_error_ struct error error = ERROR_INIT;
    assert_int_equal(consolidation_parameters_check(&parameters, &error), 0);
    assert_int_equal(consolidation_parameters_set(&parameters, "rest", "60", &error), 0);
    assert_int_equal(parameters.rest, 60);
    static const char *const bad[][2] = { { "fill", "nan" }, { "fill", "" }, { "fill", "0.5x" }, { "weight", "0" },
                                          { "margin", "inf" }, { "pack", "-1" }, { "nothing", "1" } };
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        _cleanup_error_ struct error refused = ERROR_INIT;
        assert_true(consolidation_parameters_set(&parameters, bad[i][0], bad[i][1], &refused) < 0);
        assert_true(error_is_set(&refused));
    }
    _cleanup_error_ struct error swing = ERROR_INIT, endless = ERROR_INIT;
    assert_int_equal(consolidation_parameters_set(&parameters, "pack", "0.99", &error), 0);
    assert_true(consolidation_parameters_check(&parameters, &swing) < 0);
    assert_int_equal(consolidation_parameters_set(&parameters, "fill", "1.1", &error), 0);
    assert_true(consolidation_parameters_check(&parameters, &endless) < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_demand),
        cmocka_unit_test(test_relieve),
        cmocka_unit_test(test_hysteresis),
        cmocka_unit_test(test_margin_counts),
        cmocka_unit_test(test_what_stays),
        cmocka_unit_test(test_memory_and_size),
        cmocka_unit_test(test_thrift),
        cmocka_unit_test(test_no_swinging),
        cmocka_unit_test(test_promises),
        cmocka_unit_test(test_parameters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
