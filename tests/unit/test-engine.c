// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

/* Two CPUs and 4 GiB; containers may be promised four times the CPUs and twice the memory, VMs just what is there. */
#define GIB (UINT64_C(1) << 30)

static struct engine *engine_two_cpus(void) {
    struct engine_node node = { .cpus = 2000, .memory = 4 * GIB };
    struct engine *engine = NULL;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    node.overcommit_cpu[KIND_CONTAINER] = 400;
    node.overcommit_memory[KIND_CONTAINER] = 200;
    assert_int_equal(engine_new(&node, &engine), 0);
    return engine;
}

static void submit(struct engine *engine, const char *id, enum kind kind, uint64_t cpus, uint64_t memory) {
    struct engine_request request = { .id = id, .kind = kind, .cpus = cpus, .memory = memory, .userdata = (void *) id };

    assert_int_equal(engine_submit(engine, &request, 7), 0);
}

static void expect_next(struct engine *engine, const char *id) {
    const char *next = engine_next(engine);

    if (!id)
        assert_null(next);
    else
        assert_string_equal(next, id);
}

static void test_arrival_order(void **state) {
    struct engine *engine = engine_two_cpus();

    (void) state;
    submit(engine, "first", KIND_VM, 1500, GIB);
    submit(engine, "large", KIND_VM, 1000, GIB);
    submit(engine, "small", KIND_VM, 100, GIB);
    expect_next(engine, "first");
    expect_next(engine, NULL); /* small would fit, but large came before it */
    engine_release(engine, "first");
    expect_next(engine, "large");
    expect_next(engine, "small");
    expect_next(engine, NULL);
    engine_free(engine);
}

static void test_overcommit_is_per_kind(void **state) {
    struct engine *engine = engine_two_cpus();
    struct engine_totals totals;

    (void) state;
    /* A container's CPU takes a quarter of a real one, its memory half: by hand, 4000/4 + 1000 = 2000. */
    submit(engine, "container", KIND_CONTAINER, 4000, 2 * GIB);
    submit(engine, "vm", KIND_VM, 1000, 3 * GIB);
    expect_next(engine, "container");
    expect_next(engine, "vm");
    engine_totals(engine, &totals);
    assert_int_equal(totals.promised_cpus, 5000);
    assert_int_equal(totals.taken_cpus, 2000);
    assert_int_equal(totals.taken_memory, 4 * GIB);
    submit(engine, "more", KIND_CONTAINER, 10, 1 << 20);
    expect_next(engine, NULL);
    engine_free(engine);
}

static void test_explains_the_wait(void **state) {
    struct engine *engine = engine_two_cpus();
    struct engine_explanation why;

    (void) state;
    submit(engine, "a", KIND_VM, 1000, 3 * GIB);
    submit(engine, "b", KIND_VM, 500, 2 * GIB);
    submit(engine, "c", KIND_VM, 500, GIB);
    expect_next(engine, "a");
    expect_next(engine, NULL);
    engine_explain(engine, "b", &why);
    assert_int_equal(why.standing, ENGINE_QUEUED);
    assert_int_equal(why.position, 1);
    assert_string_equal(why.resource, "memory");
    assert_int_equal(why.wanted, 2 * GIB);
    assert_int_equal(why.free, GIB);
    engine_explain(engine, "c", &why);
    assert_int_equal(why.position, 2);
    assert_null(why.resource); /* it would fit: it waits for b */
    engine_explain(engine, "a", &why);
    assert_int_equal(why.standing, ENGINE_ADMITTED);
    engine_explain(engine, "nobody", &why);
    assert_int_equal(why.standing, ENGINE_ABSENT);
    engine_free(engine);
}

static void test_impossible_is_refused_at_once(void **state) {
    struct engine *engine = engine_two_cpus();
    _cleanup_error_ struct error error = ERROR_INIT;
    struct engine_request request = { .id = "x", .kind = KIND_VM, .cpus = 1000, .memory = 5 * GIB };

    (void) state;
    assert_true(engine_check(engine, &request, &error) < 0);
    assert_int_equal(error.code, ERROR_IMPOSSIBLE);
    assert_string_equal(error.parameters[0], "memory");
    assert_string_equal(error.parameters[2], "4GiB");
    error_clear(&error);
    request.kind = KIND_CONTAINER; /* 8 GiB may be promised to containers */
    assert_int_equal(engine_check(engine, &request, &error), 0);
    request.cpus = 8001;
    assert_true(engine_check(engine, &request, &error) < 0);
    assert_string_equal(error.parameters[0], "cpus");
    engine_free(engine);
}

static void test_occupying_never_fails(void **state) {
    struct engine *engine = engine_two_cpus();
    struct engine_request request = { .id = "adopted", .kind = KIND_VM, .cpus = 9000, .memory = 9 * GIB };
    struct engine_totals totals;

    (void) state;
    assert_int_equal(engine_occupy(engine, &request), 0);
    assert_int_equal(engine_occupy(engine, &request), 0);
    engine_totals(engine, &totals);
    assert_int_equal(totals.admitted, 1);
    assert_int_equal(totals.promised_cpus, 9000);
    submit(engine, "late", KIND_VM, 10, 1);
    expect_next(engine, NULL);
    engine_release(engine, "adopted");
    engine_release(engine, "adopted");
    expect_next(engine, "late");
    engine_free(engine);
}

/* Whatever happens in whatever order, what is promised equals the sum over those admitted, and never more than there is. */
static void test_totals_match_a_recount(void **state) {
    struct engine *engine = engine_two_cpus();
    static char ids[64][8];
    uint64_t seed = 42, cpus[64] = { 0 };
    bool in[64] = { false };

    (void) state;
    for (int i = 0; i < 64; i++)
        snprintf(ids[i], sizeof(ids[i]), "i%d", i);
    for (int round = 0; round < 20000; round++) {
        struct engine_totals totals;
        uint64_t sum = 0;
        const char *next;
        int i;

        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        i = (int) (seed >> 33) % 64;
        if (seed & UINT64_C(1) << 20) {
            engine_release(engine, ids[i]);
            in[i] = false;
        } else {
            struct engine_explanation why;
            engine_explain(engine, ids[i], &why);
            if (why.standing == ENGINE_ABSENT)
                cpus[i] = 10 + (seed >> 40) % 1990;
            submit(engine, ids[i], KIND_VM, cpus[i], 1);
        }
        while ((next = engine_next(engine)))
            in[atoi(next + 1)] = true;
        for (int j = 0; j < 64; j++)
            sum += in[j] ? cpus[j] : 0;
        engine_totals(engine, &totals);
        assert_int_equal(totals.taken_cpus, sum);
        assert_true(totals.taken_cpus <= 2000);
    }
    engine_free(engine);
}

static void test_change(void **state) {
    struct engine *engine = engine_two_cpus();
    struct engine_request request = { .id = "one", .kind = KIND_VM, .cpus = 1000, .memory = GIB };
    struct engine_explanation why;
    struct engine_cursor cursor = { 0 };
    struct engine_totals totals;
    struct error error = ERROR_INIT;
    void *id;

    (void) state;
    submit(engine, "one", KIND_VM, 1000, GIB);
    expect_next(engine, "one");
    submit(engine, "large", KIND_VM, 2000, GIB);
    submit(engine, "last", KIND_VM, 100, GIB);
    expect_next(engine, NULL);
    /* More than is there is refused, and nothing changes. */
    request.memory = 5 * GIB;
    assert_int_equal(engine_change(engine, &request, &error), -ENOSPC);
    assert_int_equal(error.code, ERROR_NO_ROOM);
    error_clear(&error);
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_memory, GIB);
    /* All that is there is taken, and what waits may shrink and keeps its place. */
    request.memory = 3 * GIB;
    assert_int_equal(engine_change(engine, &request, &error), 0);
    engine_totals(engine, &totals);
    assert_int_equal(totals.promised_memory, 3 * GIB);
    request = (struct engine_request){ .id = "large", .kind = KIND_VM, .cpus = 1000, .memory = GIB };
    assert_int_equal(engine_change(engine, &request, &error), 0);
    assert_true(engine_walk(engine, &cursor, &id, &why));
    assert_string_equal(id, "large");
    assert_int_equal(why.position, 1);
    assert_true(engine_walk(engine, &cursor, &id, &why));
    assert_string_equal(id, "last");
    assert_int_equal(why.position, 2);
    assert_false(engine_walk(engine, &cursor, &id, &why));
    expect_next(engine, "large");
    expect_next(engine, NULL);
    request.id = "nobody";
    assert_int_equal(engine_change(engine, &request, &error), 0);
    engine_free(engine);
}

static void test_priority_is_a_weight(void **state _unused_) {
    assert_int_equal(engine_cpu_weight(0), 100);
    assert_int_equal(engine_cpu_weight(100), 1000);
    assert_int_equal(engine_cpu_weight(-100), 10);
    for (int64_t priority = -99; priority <= 100; priority++)
        assert_true(engine_cpu_weight(priority) >= engine_cpu_weight(priority - 1));
    assert_int_equal(engine_cpu_weight(INT64_MAX), 1000);
    assert_int_equal(engine_cpu_weight(INT64_MIN), 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arrival_order), cmocka_unit_test(test_change),
        cmocka_unit_test(test_priority_is_a_weight),
        cmocka_unit_test(test_overcommit_is_per_kind),
        cmocka_unit_test(test_explains_the_wait),
        cmocka_unit_test(test_impossible_is_refused_at_once),
        cmocka_unit_test(test_occupying_never_fails),
        cmocka_unit_test(test_totals_match_a_recount),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
