// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <json-c/json.h>

#include "base/buffer.h"
#include "base/text.h"
#include "engine/ledger.h"
#include "engine/trial.h"
#include "engine/yielding.h"

/* Two CPUs and 4 GiB; containers may be promised four times the CPUs and twice the memory, VMs just what is there. */
#define GIB (UINT64_C(1) << 30)

static struct engine *engine_two_cpus(void) {
    struct engine_node node = { .cpus = 2000, .memory = 4 * GIB };
    struct engine *engine = NULL;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    node.overcommit_cpu[KIND_CONTAINER] = 400;
    node.overcommit_memory[KIND_CONTAINER] = 200;
    assert_int_equal(engine_new(&node, NULL, &engine), 0);
    return engine;
}

static void submit(struct engine *engine, const char *id, enum kind kind, uint64_t cpus, uint64_t memory) {
    struct engine_request request = { .id = id, .kind = kind, .cpus = cpus, .memory = memory, .userdata = (void *) id };

    assert_int_equal(engine_submit(engine, &request, 7), 0);
}

static const char *take_next(struct engine *engine) {
    struct engine_decision decision;

    assert_int_equal(engine_run(engine, 8), 0);
    if (!engine_next(engine, &decision))
        return NULL;
    assert_int_equal(decision.verdict, ENGINE_START);
    return decision.userdata;
}

static void expect_next(struct engine *engine, const char *id) {
    const char *next = take_next(engine);

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
    engine_release(engine, "first", false, 9);
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
    assert_int_equal(engine_occupy(engine, &request, 7), 0);
    assert_int_equal(engine_occupy(engine, &request, 7), 0);
    engine_totals(engine, &totals);
    assert_int_equal(totals.admitted, 1);
    assert_int_equal(totals.promised_cpus, 9000);
    submit(engine, "late", KIND_VM, 10, 1);
    expect_next(engine, NULL);
    engine_release(engine, "adopted", false, 9);
    engine_release(engine, "adopted", false, 9);
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
            engine_release(engine, ids[i], false, 9);
            in[i] = false;
        } else {
            struct engine_explanation why;
            engine_explain(engine, ids[i], &why);
            if (why.standing == ENGINE_ABSENT)
                cpus[i] = 10 + (seed >> 40) % 1990;
            submit(engine, ids[i], KIND_VM, cpus[i], 1);
        }
        while ((next = take_next(engine)))
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
    assert_int_equal(engine_change(engine, &request, 8, &error), -ENOSPC);
    assert_int_equal(error.code, ERROR_NO_ROOM);
    error_clear(&error);
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_memory, GIB);
    /* All that is there is taken, and what waits may shrink and keeps its place. */
    request.memory = 3 * GIB;
    assert_int_equal(engine_change(engine, &request, 8, &error), 0);
    engine_totals(engine, &totals);
    assert_int_equal(totals.promised_memory, 3 * GIB);
    request = (struct engine_request){ .id = "large", .kind = KIND_VM, .cpus = 1000, .memory = GIB };
    assert_int_equal(engine_change(engine, &request, 8, &error), 0);
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
    assert_int_equal(engine_change(engine, &request, 8, &error), 0);
    engine_free(engine);
}

/* Three containers of one CPU each at three times the CPUs fill one CPU to the last part. */
static void test_thirds_are_whole(void **state _unused_) {
    struct engine_node node = { .cpus = 1000, .memory = GIB };
    struct engine *engine = NULL;
    struct engine_totals totals;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    node.overcommit_cpu[KIND_CONTAINER] = 300;
    node.overcommit_cpu[KIND_FAKE] = 10000000;
    assert_int_equal(engine_new(&node, NULL, &engine), 0);
    submit(engine, "a", KIND_CONTAINER, 1000, 1);
    submit(engine, "b", KIND_CONTAINER, 1000, 1);
    submit(engine, "c", KIND_CONTAINER, 1000, 1);
    submit(engine, "d", KIND_FAKE, 10, 1);
    expect_next(engine, "a");
    expect_next(engine, "b");
    expect_next(engine, "c");
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_cpus, 1000);
    expect_next(engine, NULL);
    engine_free(engine);
}

static struct engine *engine_with(const char *policy, enum backfill backfill) {
    struct engine_node node = { .cpus = 2000, .memory = 4 * GIB };
    struct engine_options options;
    struct engine *engine = NULL;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    engine_options_init(&options);
    assert_int_equal(policy_find(policy, &options.policy, NULL), 0);
    options.backfill = backfill;
    options.residency = 0;
    assert_int_equal(engine_new(&node, &options, &engine), 0);
    return engine;
}

#define SECONDS UINT64_C(1000000)

static void submit_batch(struct engine *engine, const char *id, uint64_t cpus, uint64_t seconds, uint64_t now) {
    struct engine_request request = { .id = id, .kind = KIND_VM, .cpus = cpus, .memory = GIB, .userdata = (void *) id,
                                      .expected = seconds * SECONDS, .yields = QUEUE_YIELD_PAUSE | QUEUE_YIELD_SUSPEND };

    assert_int_equal(engine_submit(engine, &request, now * SECONDS), 0);
}

static void expect_decision(struct engine *engine, enum engine_verdict verdict, const char *id) {
    struct engine_decision decision;

    assert_true(engine_next(engine, &decision));
    assert_string_equal(decision.userdata, id);
    assert_int_equal(decision.verdict, verdict);
}

static void drain(struct engine *engine, uint64_t now) {
    struct engine_decision decision;

    assert_int_equal(engine_run(engine, now), 0);
    while (engine_next(engine, &decision))
        ;
}

static void expect_no_decision(struct engine *engine) {
    struct engine_decision decision;

    assert_false(engine_next(engine, &decision));
}

/* A service comes before what has an end, whatever its policy says of time; under fcfs arrival alone counts. */
static void test_services_come_first(void **state _unused_) {
    for (int fcfs = 0; fcfs < 2; fcfs++) {
        struct engine *engine = engine_with(fcfs ? "fcfs" : "sjf", BACKFILL_NONE);
        submit_batch(engine, "batch", 2000, 60, 1);
        submit_batch(engine, "service", 2000, 0, 2);
        assert_int_equal(engine_run(engine, 3 * SECONDS), 0);
        expect_decision(engine, ENGINE_START, fcfs ? "batch" : "service");
        expect_no_decision(engine);
        engine_free(engine);
    }
}

/* Its class's runs took 40 and 20 s: 30 s are expected of the third. One alone is no proof that it ends by itself. */
static void test_history_predicts(void **state _unused_) {
    struct engine *engine = engine_with("sjf", BACKFILL_EASY);
    struct engine_request request = { .kind = KIND_VM, .cpus = 100, .memory = 1, .class = 7 };
    struct engine_explanation why;
    static const uint64_t took[] = { 40, 20 };

    for (size_t i = 0; i < 2; i++) {
        request.id = i ? "second" : "first";
        assert_int_equal(engine_submit(engine, &request, 100 * SECONDS), 0);
        assert_int_equal(engine_run(engine, 100 * SECONDS), 0);
        engine_explain(engine, request.id, &why);
        assert_true(why.expected == UINT64_MAX);
        engine_release(engine, request.id, true, (100 + took[i]) * SECONDS);
    }
    request.id = "third";
    assert_int_equal(engine_submit(engine, &request, 200 * SECONDS), 0);
    engine_explain(engine, "third", &why);
    assert_int_equal(why.expected, 30 * SECONDS);
    engine_free(engine);
}

static void run_of_class(struct engine *engine, const char *id, uint64_t class, uint64_t begin, uint64_t seconds) {
    struct engine_request request = { .id = id, .kind = KIND_VM, .cpus = 100, .memory = 1, .class = class, .userdata = (void *) id };

    assert_int_equal(engine_occupy(engine, &request, begin * SECONDS), 0);
    engine_release(engine, id, true, (begin + seconds) * SECONDS);
}

/* Two wait, of two classes that are not known to end; then runs of both end, and the shorter class goes first. With "history"
 * what was known when they came counts, and the first of the queue stays. */
static void test_learning_orders_anew(void **state _unused_) {
    static const enum estimate kinds[] = { ESTIMATE_HISTORY, ESTIMATE_LEARNING };

    for (size_t i = 0; i < ELEMENTS(kinds); i++) {
        struct engine *engine = engine_with("sjf", BACKFILL_NONE);
        struct engine_options options = *engine_options(engine);
        struct engine_request request = { .kind = KIND_VM, .cpus = 2000, .memory = GIB };
        struct engine_explanation why;
        options.estimate = kinds[i];
        assert_int_equal(engine_configure(engine, &options, 1), 0);
        submit_batch(engine, "busy", 2000, 1000, 1);
        drain(engine, 2 * SECONDS);
        request.id = "long", request.class = 8, request.userdata = (void *) "long";
        assert_int_equal(engine_submit(engine, &request, 2 * SECONDS), 0);
        request.id = "short", request.class = 9, request.userdata = (void *) "short";
        assert_int_equal(engine_submit(engine, &request, 2 * SECONDS), 0);
        for (int run = 0; run < 2; run++) {
            run_of_class(engine, "a", 8, 3, 400);
            run_of_class(engine, "b", 9, 3, 20);
        }
        drain(engine, 500 * SECONDS);
        engine_explain(engine, "short", &why);
        assert_true(why.expected == (kinds[i] == ESTIMATE_LEARNING ? 20 * SECONDS : UINT64_MAX));
        assert_int_equal(why.position, kinds[i] == ESTIMATE_LEARNING ? 1 : 2);
        engine_explain(engine, "long", &why);
        assert_true(why.expected == (kinds[i] == ESTIMATE_LEARNING ? 400 * SECONDS : UINT64_MAX));
        engine_free(engine);
    }
}

/* By hand: it waited 100 s, 300 s are expected of it; urgency 1 / 300, weight (1/300)^0.425 / 1400^1.1, score -(20100 x weight). */
static void test_the_score_is_told(void **state _unused_) {
    struct engine *engine = engine_with("polder", BACKFILL_EASY);
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    static const struct {
        const char *name;
        double value;
    } expected[] = { { "wait", 100 }, { "patience", 20000 }, { "urgency", 1. / 300 }, { "time", 300 }, { "floor", 1100 },
                     { "alarm", 225000 }, { "weight", 3.0654e-5 } };
    struct json_object *json = NULL;

    submit_batch(engine, "busy", 2000, 0, 1);
    drain(engine, 1 * SECONDS);
    submit_batch(engine, "waits", 2000, 300, 10);
    emit_object(&emitter);
    engine_emit_score(engine, "busy", 110 * SECONDS, &emitter); /* it runs: nothing */
    engine_emit_score(engine, "waits", 110 * SECONDS, &emitter);
    emit_object_end(&emitter);
    assert_int_equal(json_parse(buffer.data, buffer.size, &json, NULL), 0);
    for (size_t i = 0; i < ELEMENTS(expected); i++) {
        double value = json_object_get_double(json_member(json_member(json, "terms"), expected[i].name));
        assert_true(value > expected[i].value * .999 && value < expected[i].value * 1.001);
    }
    assert_true(json_object_get_double(json_member(json, "score")) < -20100 * 3.0654e-5 * .999);
    assert_true(json_object_get_double(json_member(json, "score")) > -20100 * 3.0654e-5 * 1.001);
    json_put(json);
    engine_free(engine);
}

/* What was learnt goes to another engine, as over a restart: both expect the same. */
static void test_learning_survives(void **state _unused_) {
    struct engine *engine = engine_with("polder", BACKFILL_EASY), *again = engine_with("polder", BACKFILL_EASY);
    struct engine_request request = { .id = "next", .kind = KIND_VM, .cpus = 100, .memory = 1, .class = 5 };
    struct engine_explanation why;
    int64_t values[PREDICTOR_VALUES];
    size_t position = 0, count = 0;

    for (uint64_t i = 0; i < 20000; i++) /* of more classes than are remembered */
        run_of_class(engine, "a", 100 + i / 2, 10, 30);
    run_of_class(engine, "a", 5, 10, 70);
    run_of_class(engine, "a", 5, 10, 50);
    while (engine_learnt(engine, &position, values)) {
        assert_int_equal(engine_learn_again(again, values), 0);
        count++;
    }
    assert_in_range(count, 1000, 4096);
    assert_int_equal(engine_learnt_moment(again), engine_learnt_moment(engine));
    assert_int_equal(engine_submit(again, &request, 1), 0);
    engine_explain(again, "next", &why);
    assert_int_equal(why.expected, 60 * SECONDS);
    engine_free(engine);
    engine_free(again);
}

/* Other rules order those who wait anew; who runs runs on. */
static void test_rules_change(void **state _unused_) {
    struct engine *engine = engine_with("fcfs", BACKFILL_NONE);
    struct engine_options options = *engine_options(engine);

    submit_batch(engine, "runs", 2000, 100, 1);
    submit_batch(engine, "long", 2000, 1000, 2);
    submit_batch(engine, "short", 2000, 10, 3);
    assert_int_equal(engine_run(engine, 4 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "runs");
    assert_int_equal(policy_find("sjf", &options.policy, NULL), 0);
    assert_int_equal(engine_configure(engine, &options, 5 * SECONDS), 0);
    engine_release(engine, "runs", true, 6 * SECONDS);
    assert_int_equal(engine_run(engine, 6 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "short");
    expect_no_decision(engine);
    engine_free(engine);
}

/* "long" runs, and is asked to make room for "short". Processors alone are wanted: the cheaper way. */
static void ask_to_give_way(struct engine *engine) {
    submit_batch(engine, "long", 2000, 1000, 1);
    assert_int_equal(engine_run(engine, 1 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "long");
    submit_batch(engine, "short", 2000, 10, 2);
    assert_int_equal(engine_run(engine, 2 * SECONDS), 0);
    expect_decision(engine, ENGINE_PAUSE, "long");
}

/* Who is asked to give way keeps its room until it has; paused, its memory stays taken. */
static void test_giving_way(void **state _unused_) {
    struct engine *engine = engine_with("srtf", BACKFILL_NONE);
    struct engine_totals totals;
    struct engine_explanation why;

    ask_to_give_way(engine);
    expect_no_decision(engine);
    assert_int_equal(engine_run(engine, 3 * SECONDS), 0);
    expect_no_decision(engine); /* it was asked already, and holds its room */
    assert_int_equal(engine_paused(engine, "long", false, 3 * SECONDS), 0);
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_cpus, 0);
    assert_int_equal(totals.taken_memory, GIB);
    assert_int_equal(engine_run(engine, 3 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "short");
    engine_explain(engine, "long", &why);
    assert_int_equal(why.standing, ENGINE_QUEUED);
    assert_string_equal(why.resource, "cpus");
    engine_release(engine, "short", true, 13 * SECONDS);
    assert_int_equal(engine_run(engine, 13 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "long");
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_memory, GIB);
    engine_release(engine, "long", false, 14 * SECONDS);
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_memory, 0);
    engine_free(engine);
}

/* Paused and swapped out it holds nothing, but is still there for who wants to be far from it. */
static void test_swapped_out(void **state _unused_) {
    struct engine *engine = engine_with("srtf", BACKFILL_NONE);
    struct engine_totals totals;

    ask_to_give_way(engine);
    assert_int_equal(engine_paused(engine, "long", true, 3 * SECONDS), 0);
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_cpus, 0);
    assert_int_equal(totals.taken_memory, 0);
    assert_int_equal(totals.admitted, 0);
    assert_int_equal(engine_run(engine, 3 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "short");
    engine_release(engine, "short", true, 13 * SECONDS);
    assert_int_equal(engine_run(engine, 13 * SECONDS), 0);
    expect_decision(engine, ENGINE_START, "long");
    engine_totals(engine, &totals);
    assert_int_equal(totals.taken_memory, GIB);
    engine_release(engine, "long", false, 14 * SECONDS);
    engine_free(engine);
}

/* Memory is wanted: what can only be paused is not asked, since that would free processors alone. */
static void test_a_pause_frees_no_memory(void **state _unused_) {
    struct engine *engine = engine_with("srtf", BACKFILL_NONE);
    struct engine_request request = { .id = "container", .kind = KIND_VM, .cpus = 100, .memory = 3 * GIB,
                                      .userdata = (void *) "container", .expected = 1000 * SECONDS,
                                      .yields = QUEUE_YIELD_PAUSE };

    assert_int_equal(engine_submit(engine, &request, 1), 0);
    assert_int_equal(engine_run(engine, 1), 0);
    expect_decision(engine, ENGINE_START, "container");
    request = (struct engine_request){ .id = "short", .kind = KIND_VM, .cpus = 100, .memory = 2 * GIB,
                                       .userdata = (void *) "short", .expected = SECONDS };
    assert_int_equal(engine_submit(engine, &request, 2), 0);
    assert_int_equal(engine_run(engine, 2), 0);
    expect_no_decision(engine);
    engine_release(engine, "container", false, 3);
    assert_int_equal(engine_run(engine, 3), 0);
    expect_decision(engine, ENGINE_START, "short");
    engine_free(engine);
}

/* --- what giving way costs --------------------------------------------------------------------------------------------- */

static void submit_ranked(struct engine *engine, const char *id, int64_t priority, uint64_t memory, unsigned yields, uint64_t now) {
    struct engine_request request = { .id = id, .kind = KIND_VM, .cpus = 100, .memory = memory, .userdata = (void *) id,
                                      .priority = priority, .expected = 3600 * SECONDS, .yields = yields };

    assert_int_equal(engine_submit(engine, &request, now * SECONDS), 0);
}

static void expect_start(struct engine *engine, const char *id, uint64_t now) {
    assert_int_equal(engine_run(engine, now * SECONDS), 0);
    expect_decision(engine, ENGINE_START, id);
}

static void expect_nothing(struct engine *engine, uint64_t now) {
    assert_int_equal(engine_run(engine, now * SECONDS), 0);
    expect_no_decision(engine);
}

#define BOTH (QUEUE_YIELD_PAUSE | QUEUE_YIELD_SUSPEND)

/* By hand: 3 GiB at the prior of 10 s take 30 s and a pause 0.2 s, so it works for 4 x 30.2 s before it is asked. Measured at
 * 1 s + 0.5 s for a GiB they take 4.7 s, so 18.8 s. */
static void test_costs_are_worth_it(void **state _unused_) {
    for (int measured = 0; measured < 2; measured++) {
        struct engine *engine = engine_with("priority:preemptive", BACKFILL_NONE);
        uint64_t due = measured ? 19 : 121;
        submit_ranked(engine, "low", 0, 3 * GIB, BOTH, 0);
        expect_start(engine, "low", 0);
        if (measured) {
            engine_measure(engine, ENGINE_COST_SUSPEND, GIB, SECONDS, 1);
            engine_measure(engine, ENGINE_COST_RESTORE, 2 * GIB, SECONDS, 1);
        }
        submit_ranked(engine, "high", 10, 2 * GIB, BOTH, 1);
        expect_nothing(engine, due - 1);
        assert_int_equal(engine_run(engine, due * SECONDS), 0);
        expect_decision(engine, ENGINE_SUSPEND, "low");
        expect_no_decision(engine);
        engine_free(engine);
    }
}

/* Processors alone are wanted: a pause is asked for, which takes less. Pauses were measured at 3 s, so that one and going on take
 * 6 s, and it works for 24 s before. */
static void test_the_cheaper_way(void **state _unused_) {
    struct engine *engine = engine_with("srtf", BACKFILL_NONE);

    submit_batch(engine, "long", 2000, 1000, 0);
    expect_start(engine, "long", 0);
    engine_measure(engine, ENGINE_COST_PAUSE, GIB, 3 * SECONDS, 1);
    submit_batch(engine, "short", 2000, 10, 1);
    expect_nothing(engine, 23);
    assert_int_equal(engine_run(engine, 24 * SECONDS), 0);
    expect_decision(engine, ENGINE_PAUSE, "long");
    engine_free(engine);
}

/* Of equals the one is asked that it costs least; and where a later one gives enough, nobody else is. */
static void test_no_more_than_needed(void **state _unused_) {
    struct engine *engine = engine_with("priority:preemptive", BACKFILL_NONE);

    submit_ranked(engine, "large", 0, 2 * GIB, BOTH, 0);
    submit_ranked(engine, "small", 0, GIB, BOTH, 0);
    submit_ranked(engine, "half", 0, GIB, QUEUE_YIELD_PAUSE, 0); /* frees no memory */
    expect_start(engine, "large", 0);
    expect_decision(engine, ENGINE_START, "small");
    expect_decision(engine, ENGINE_START, "half");
    submit_ranked(engine, "high", 10, GIB, BOTH, 1);
    assert_int_equal(engine_run(engine, 1000 * SECONDS), 0);
    expect_decision(engine, ENGINE_SUSPEND, "small");
    expect_no_decision(engine);
    engine_free(engine);

    engine = engine_with("priority:preemptive", BACKFILL_NONE);
    submit_ranked(engine, "last", 0, GIB, BOTH, 0);
    submit_ranked(engine, "next", 1, 3 * GIB, BOTH, 0);
    assert_int_equal(engine_run(engine, 0), 0);
    expect_decision(engine, ENGINE_START, "next");
    expect_decision(engine, ENGINE_START, "last");
    submit_ranked(engine, "high", 10, 3 * GIB, BOTH, 1);
    assert_int_equal(engine_run(engine, 1000 * SECONDS), 0);
    expect_decision(engine, ENGINE_SUSPEND, "next"); /* the last one's GiB would not have been enough, and is not needed */
    expect_no_decision(engine);
    engine_free(engine);
}

/* 1 GiB takes 10.2 s to disk and back: one that is expected to end in 9 s is waited for. */
static void test_who_is_about_to_end_is_waited_for(void **state _unused_) {
    struct engine *engine = engine_with("srtf", BACKFILL_NONE);
    struct engine_request request = { .id = "runs", .kind = KIND_VM, .cpus = 2000, .memory = GIB, .userdata = (void *) "runs",
                                      .expected = 100 * SECONDS, .yields = QUEUE_YIELD_SUSPEND };

    assert_int_equal(engine_submit(engine, &request, 0), 0);
    expect_start(engine, "runs", 0);
    submit_batch(engine, "short", 2000, 5, 91);
    expect_nothing(engine, 91);
    engine_free(engine);
}

/* Whatever comes: somebody more important every second, for an hour. To disk and back takes 15.2 s, so it works for 60.8 s between
 * two moves, of which the first half, 10 s, is played here. */
static void test_moving_is_bounded(void **state _unused_) {
    struct engine *engine = engine_with("priority:preemptive", BACKFILL_EASY);
    struct engine_request request = { .id = "low", .kind = KIND_VM, .cpus = 1000, .memory = 3 * GIB, .userdata = (void *) "low",
                                      .expected = 100000 * SECONDS, .yields = QUEUE_YIELD_SUSPEND };
    uint64_t moves = 0, away = 0;

    engine_measure(engine, ENGINE_COST_SUSPEND, 3 * GIB, 10 * SECONDS, 0);
    engine_measure(engine, ENGINE_COST_RESTORE, 3 * GIB, 5 * SECONDS, 0);
    assert_int_equal(engine_submit(engine, &request, 0), 0);
    for (uint64_t now = 0; now < 3600; now++) {
        struct engine_decision decision;
        bool runs = false;
        if (now > 0) {
            engine_release(engine, "high", true, now * SECONDS);
            submit_ranked(engine, "high", 10, 2 * GIB, 0, now);
        }
        if (away > 0 && --away == 0) {
            engine_release(engine, "low", false, now * SECONDS);
            assert_int_equal(engine_submit(engine, &request, now * SECONDS), 0);
            engine_release(engine, "high", true, now * SECONDS);
        }
        assert_int_equal(engine_run(engine, now * SECONDS), 0);
        while (engine_next(engine, &decision)) {
            runs = decision.verdict == ENGINE_SUSPEND;
            moves += runs;
            away = runs ? 10 : away;
        }
    }
    assert_in_range(moves, 20, 3600 / (60 + 10) + 1);
    engine_free(engine);
}

/* By hand: "large" came at 2 s and waits; "small", which came later, went ahead of it until its alarm rings at 52 s. A service
 * is left in peace, and who gave way does not come back before it. */
static void test_an_alarm_makes_others_give_way(void **state _unused_) {
    for (int service = 0; service < 2; service++) {
        struct engine *engine = engine_with("dynamic", BACKFILL_EASY);
        struct engine_options options = *engine_options(engine);
        options.parameters.alarm = 50;
        assert_int_equal(engine_record(engine, 1), 0);
        assert_int_equal(engine_configure(engine, &options, 0), 0);
        submit_batch(engine, "runs", 1000, 3600, 1);
        expect_start(engine, "runs", 1);
        submit_batch(engine, "large", 1500, 3600, 2);
        expect_nothing(engine, 2);
        submit_batch(engine, "small", 1000, service ? 0 : 3000, 3);
        expect_start(engine, "small", 3);
        engine_release(engine, "runs", true, 30 * SECONDS);
        expect_nothing(engine, 51);
        assert_int_equal(engine_run(engine, 53 * SECONDS), 0);
        if (!service) {
            struct json_object *json = NULL;
            const char *text = engine_decision(engine, engine_decision_last(engine));
            expect_decision(engine, ENGINE_PAUSE, "small");
            assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
            assert_string_equal(json_text(json_member(json, "gives_way"), "for", ""), "large");
            assert_true(json_object_get_double(json_member(json_member(json_member(json, "gives_way"), "pause"), "cost")) == .2);
            assert_true(json_object_get_double(json_member(json_member(json_member(json, "gives_way"), "suspend"), "cost")) == 10.2);
            json_put(json);
            assert_int_equal(engine_paused(engine, "small", false, 53 * SECONDS), 0);
            expect_start(engine, "large", 54);
        }
        expect_nothing(engine, 500); /* its own alarm rang too, but it came later */
        engine_free(engine);
    }
}

/* --- who could give way ------------------------------------------------------------------------------------------------ */

static void expect_yielder(const struct engine_yielders *yielders, size_t at, const char *id, enum queue_obstacle obstacle,
                           unsigned way, uint64_t cost, uint64_t asked_in) {
    const struct engine_yielder *yielder = &yielders->who[at];

    assert_true(at < yielders->count);
    assert_string_equal(yielder->name, id);
    assert_int_equal(yielder->obstacle, obstacle);
    assert_int_equal(yielder->way, way);
    assert_int_equal(yielder->cost, cost);
    assert_int_equal(yielder->asked_in, asked_in);
}

/* By hand: a GiB takes 10.2 s to disk and back, so it works for 40.8 s before it is asked. Half a GiB is free. */
static void test_who_could_give_way(void **state _unused_) {
    struct engine *engine = engine_with("priority:preemptive", BACKFILL_NONE);
    const uint64_t cost = 10200000;
    struct engine_yielders yielders;

    submit_ranked(engine, "low", 0, GIB, BOTH, 0);
    submit_ranked(engine, "container", 0, GIB, QUEUE_YIELD_PAUSE, 0);
    submit_ranked(engine, "fixed", 0, GIB / 2, 0, 0);
    submit_ranked(engine, "above", 20, GIB, BOTH, 0);
    drain(engine, 0);
    assert_int_equal(engine_find_yielders(engine, "low", 0, &yielders), -ENOENT);
    submit_ranked(engine, "high", 10, GIB + GIB / 2, BOTH, 1);
    submit_ranked(engine, "behind", 5, GIB, BOTH, 1);
    assert_int_equal(engine_find_yielders(engine, "high", SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_TOO_LITTLE_YET);
    assert_int_equal(yielders.count, 4);
    assert_int_equal(yielders.more, 0);
    expect_yielder(&yielders, 0, "low", QUEUE_IS_SPARED, QUEUE_YIELD_SUSPEND, cost, 4 * cost - SECONDS);
    expect_yielder(&yielders, 1, "above", QUEUE_COMES_FIRST, QUEUE_YIELD_SUSPEND, cost, UINT64_MAX);
    expect_yielder(&yielders, 2, "container", QUEUE_FREES_NOTHING, 0, 0, UINT64_MAX);
    expect_yielder(&yielders, 3, "fixed", QUEUE_CANNOT_YIELD, 0, 0, UINT64_MAX);
    expect_nothing(engine, 40);
    assert_int_equal(engine_find_yielders(engine, "behind", 41 * SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_ASKS_FOR_FIRST);
    assert_int_equal(engine_find_yielders(engine, "high", 41 * SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_ASKS);
    expect_yielder(&yielders, 0, "low", QUEUE_MAY_BE_ASKED, QUEUE_YIELD_SUSPEND, cost, 0);
    assert_int_equal(engine_run(engine, 41 * SECONDS), 0);
    expect_decision(engine, ENGINE_SUSPEND, "low");
    assert_int_equal(engine_find_yielders(engine, "high", 42 * SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_IS_ASKING);
    expect_yielder(&yielders, 0, "low", QUEUE_IS_ASKED, QUEUE_YIELD_SUSPEND, cost, UINT64_MAX);
    engine_free(engine);
}

/* Who does not have to for other reasons; and of many the first eight. */
static void test_who_could_not_give_way(void **state _unused_) {
    struct engine *engine = engine_with("priority:preemptive", BACKFILL_NONE);
    struct engine_options options = *engine_options(engine);
    struct engine_yielders yielders;
    char ids[12][16];

    options.residency = 100 * SECONDS;
    assert_int_equal(engine_configure(engine, &options, 0), 0);
    for (unsigned i = 0; i < ELEMENTS(ids); i++) {
        snprintf(ids[i], sizeof(ids[i]), "low-%u", i);
        submit_ranked(engine, ids[i], i, GIB / 3, BOTH, 0);
    }
    drain(engine, 0);
    submit_ranked(engine, "high", 50, GIB, BOTH, 1);
    assert_int_equal(engine_find_yielders(engine, "high", SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_TOO_LITTLE_YET);
    assert_int_equal(yielders.count, ENGINE_YIELDERS);
    assert_int_equal(yielders.more, 4);
    for (unsigned i = 0; i < ENGINE_YIELDERS; i++) /* the least important is asked first */
        expect_yielder(&yielders, i, ids[i], QUEUE_RUNS_TOO_SHORT, QUEUE_YIELD_SUSPEND, yielders.who[0].cost, 99 * SECONDS);
    assert_int_equal(policy_find("polder", &options.policy, NULL), 0);
    assert_int_equal(engine_configure(engine, &options, 0), 0);
    assert_int_equal(engine_find_yielders(engine, "high", SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_NEVER_ASKS);
    assert_int_equal(policy_find("dynamic", &options.policy, NULL), 0);
    options.parameters.alarm = 50;
    assert_int_equal(engine_configure(engine, &options, 0), 0);
    assert_int_equal(engine_find_yielders(engine, "high", 11 * SECONDS, &yielders), 0);
    assert_int_equal(yielders.refrain, ENGINE_ASKS_ON_ALARM);
    assert_int_equal(yielders.alarm_in, 40 * SECONDS);
    engine_free(engine);
}

static uint64_t random_next(uint64_t *seed) {
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return *seed >> 33;
}

/* One random call, as a daemon would make it; who is asked to give way does, or cannot. */
static void random_event(struct engine *engine, uint64_t *seed, uint64_t now) {
    uint64_t what = random_next(seed) % 20, number = random_next(seed) % 40;
    char id[16];
    struct engine_request request = { .id = id, .kind = number % 2 ? KIND_VM : KIND_CONTAINER, .class = number % 5,
                                      .owner = number % 3, .yields = (unsigned) number % 4 };

    snprintf(id, sizeof(id), "i%u", (unsigned) number);
    request.cpus = 10 + random_next(seed) % 600;
    request.memory = (1 + random_next(seed) % 900) << 20;
    request.priority = (int64_t) (random_next(seed) % 5);
    request.expected = random_next(seed) % 3 ? (1 + random_next(seed) % 100) * SECONDS : 0;
    request.service = random_next(seed) % 8 == 0;
    request.limit = random_next(seed) % 2 ? (1 + random_next(seed) % 200) * SECONDS : 0;
    if (what < 8)
        assert_int_equal(engine_submit(engine, &request, now), 0);
    else if (what < 12 || what >= 16)
        engine_release(engine, id, what % 2, now);
    else if (what == 12)
        assert_int_equal(engine_occupy(engine, &request, now), 0);
    else if (what == 13)
        (void) engine_change(engine, &request, now, NULL);
    else if (what == 14)
        engine_refused(engine, id, now);
    else if (what == 15 && number < 30)
        assert_int_equal(engine_paused(engine, id, false, now), 0);
    else
        engine_measure(engine, (enum engine_cost) (number % ENGINE_COST_COUNT), request.memory, request.cpus * 1000, now);
}

/* What is told is what is done: somebody is asked exactly when that is said, and only who may be. */
static void expect_as_told(struct engine *engine, uint64_t now, const struct engine_yielders *told) {
    struct engine_decision decision;
    size_t asked = 0;

    assert_int_equal(engine_run(engine, now), 0);
    while (engine_next(engine, &decision)) {
        bool known = told->more > 0;
        if (decision.verdict == ENGINE_START)
            continue;
        for (size_t i = 0; i < told->count; i++)
            known = known || (told->who[i].userdata == decision.userdata && told->who[i].obstacle == QUEUE_MAY_BE_ASKED);
        assert_true(known);
        asked++;
    }
    assert_int_equal(asked > 0, told->refrain == ENGINE_ASKS);
}

static void test_who_is_asked_was_told(void **state _unused_) {
    static const char *const names[] = { "srtf", "priority:preemptive" };
    static char places[40];
    size_t asked = 0;

    for (uint64_t run = 0; run < 40; run++) {
        struct engine *engine = engine_with(names[run % 2], BACKFILL_NONE);
        struct engine_options options = *engine_options(engine);
        uint64_t seed = run, now = 1;
        options.estimate = ESTIMATE_REQUESTED;
        options.parameters.yield_prior = 1;
        assert_int_equal(engine_configure(engine, &options, 0), 0);
        for (unsigned i = 0; i < 300; i++) {
            struct engine_forecast first;
            struct engine_yielders told;
            char id[16];
            uint64_t number = random_next(&seed) % ELEMENTS(places);
            struct engine_request request = { .id = id, .kind = KIND_VM, .cpus = 10 + random_next(&seed) % 600,
                                              .memory = (1 + random_next(&seed) % 900) << 20,
                                              .priority = (int64_t) (random_next(&seed) % 5), .userdata = &places[number],
                                              .yields = (unsigned) random_next(&seed) % 4,
                                              .expected = (3600 + random_next(&seed) % 90000) * SECONDS };
            snprintf(id, sizeof(id), "i%u", (unsigned) number);
            now += random_next(&seed) % (2 * SECONDS);
            if (random_next(&seed) % 4 == 0)
                engine_release(engine, id, false, now);
            else
                assert_int_equal(engine_submit(engine, &request, now), 0);
            if (engine_foresee(engine, now, &first, 1) == 1) {
                assert_int_equal(engine_find_yielders(engine, first.id, now, &told), 0);
                asked += told.refrain == ENGINE_ASKS;
                if (told.refrain != ENGINE_HAS_ROOM) /* else it starts, and the next is the first */
                    expect_as_told(engine, now, &told);
            }
            drain(engine, now);
        }
        engine_free(engine);
    }
    assert_in_range(asked, 50, 40 * 300);
}

static void random_options(struct engine *engine, uint64_t seed, uint64_t now) {
    struct engine_options options = *engine_options(engine);
    size_t count = 0;

    while (policies[count].name)
        count++;
    options.policy = &policies[random_next(&seed) % count];
    options.backfill = (enum backfill) (random_next(&seed) % BACKFILL_COUNT);
    do
        options.estimate = (enum estimate) (random_next(&seed) % ESTIMATE_COUNT);
    while (options.estimate == ESTIMATE_ACTUAL);
    options.parameters.quantum = 5;
    options.parameters.yield_prior = 1;
    options.parameters.alarm = 60;
    assert_int_equal(engine_configure(engine, &options, now), 0);
}

static void look(struct engine *engine, uint64_t now) {
    struct engine_forecast forecasts[40];
    struct engine_flip flip;

    assert_in_range(engine_foresee(engine, now, forecasts, ELEMENTS(forecasts)), 0, ELEMENTS(forecasts));
    (void) engine_find_flip(engine, "i7", now, &flip);
}

/* Every decision, of every policy, is made again from a checkpoint and the events after it: the same bytes. A checkpoint in
 * the middle changes nothing. */
static void test_replay_gives_the_same_bytes(void **state _unused_) {
    uint64_t decisions = 0;

    for (uint64_t run = 0; run < 60; run++) {
        struct engine *engine = engine_with("polder", BACKFILL_EASY), *again = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_buffer_ struct buffer checkpoint = BUFFER_INIT;
        _cleanup_free_ char *journal = NULL, *repeated = NULL;
        uint64_t seed = run + 1, now = 1000 * SECONDS;
        size_t size, repeated_size;

        assert_int_equal(engine_record(engine, 1), 0);
        random_options(engine, run, now);
        for (int i = 0; i < 400; i++) {
            if (i == 200) {
                free(journal);
                assert_int_equal(engine_take_journal(engine, &journal, &size), 0);
                assert_int_equal(engine_checkpoint(engine, &checkpoint), 0);
                if (run % 3 == 0)
                    random_options(engine, run + 100, now);
            }
            random_event(engine, &seed, now);
            if (random_next(&seed) % 4 == 0) /* whoever looks changes nothing of what is decided later */
                look(engine, now + random_next(&seed) % SECONDS);
            drain(engine, now += random_next(&seed) % (5 * SECONDS));
        }
        free(journal);
        assert_int_equal(engine_take_journal(engine, &journal, &size), 0);
        struct json_object *json = NULL;
        assert_int_equal(json_parse(checkpoint.data, checkpoint.size - 1, &json, &error), 0);
        assert_int_equal(engine_restore(json, &again, &error), 0);
        json_put(json);
        for (char *line = journal, *end; (end = strchr(line, '\n')); line = end + 1) {
            assert_int_equal(json_parse(line, (size_t) (end - line), &json, &error), 0);
            assert_int_equal(engine_repeat(again, json, &error), 0);
            json_put(json);
        }
        assert_int_equal(engine_take_journal(again, &repeated, &repeated_size), 0);
        assert_int_equal(repeated_size, size);
        assert_memory_equal(repeated, journal, size);
        decisions += engine_decision_last(engine);
        assert_int_equal(engine_decision_last(again), engine_decision_last(engine));
        if (engine_decision(again, engine_decision_last(engine))) /* it came after the checkpoint */
            assert_string_equal(engine_decision(engine, engine_decision_last(engine)),
                                engine_decision(again, engine_decision_last(engine)));
        engine_free(engine);
        engine_free(again);
    }
    assert_true(decisions > 1000);
}

/* What happens to the engine after it was taken does not show. */
static void test_a_snapshot_stays_as_it_was(void **state _unused_) {
    _cleanup_buffer_ struct buffer wanted = BUFFER_INIT, found = BUFFER_INIT;
    _cleanup_snapshot_ struct engine_snapshot *snapshot = NULL;
    struct engine *engine = engine_with("polder", BACKFILL_EASY);
    uint64_t seed = 7;

    assert_int_equal(engine_record(engine, 3), 0);
    for (uint64_t i = 1; i < 200; i++) {
        random_event(engine, &seed, i * SECONDS);
        drain(engine, i * SECONDS);
    }
    assert_int_equal(engine_checkpoint(engine, &wanted), 0);
    assert_int_equal(engine_snapshot_take(engine, &snapshot), 0);
    for (uint64_t i = 200; i < 400; i++) {
        random_event(engine, &seed, i * SECONDS);
        drain(engine, i * SECONDS);
    }
    engine_free(engine);
    assert_int_equal(engine_snapshot_write(snapshot, &found), 0);
    assert_string_equal(found.data, wanted.data);
}

/* What is tried on it does not depend on what became of the engine; who went away meanwhile is not told. */
static void test_a_trial_stays_as_it_was(void **state _unused_) {
    for (int gone = 0; gone < 2; gone++) {
        _cleanup_copy_ struct engine_copy *copy = NULL;
        _cleanup_trial_ struct engine_trial *trial = NULL;
        struct engine *engine = engine_with("fcfs", BACKFILL_NONE);
        struct engine_flip at_once, later;
        submit_batch(engine, "batch-7", 1000, 100, 0);
        submit_batch(engine, "holder", 800, 100, 0);
        submit_batch(engine, "waiting", 1000, 60, 0);
        drain(engine, 0);
        assert_int_equal(engine_copy_new(engine, SIZE_MAX, &copy), 0);
        assert_int_equal(engine_trial_new(copy, engine, "holder", 0, &trial), -ENOENT);
        assert_int_equal(engine_find_flip(engine, "waiting", 10 * SECONDS, &at_once), 0);
        assert_string_equal(at_once.gone, "holder");
        assert_int_equal(engine_trial_new(copy, engine, "waiting", 10 * SECONDS, &trial), 0);
        if (gone) {
            engine_release(engine, "holder", false, 11 * SECONDS);
            submit_batch(engine, "another", 500, 10, 11); /* with the same handle */
        }
        assert_int_equal(engine_trial_run(trial), 0);
        engine_trial_flip(trial, engine, &later);
        assert_int_equal(at_once.start, 100 * SECONDS);
        assert_int_equal(at_once.fewer_cpus, 800);
        assert_int_equal(later.fewer_cpus, at_once.fewer_cpus);
        assert_int_equal(later.start, at_once.start);
        if (gone)
            assert_null(later.gone);
        else
            assert_string_equal(later.gone, "holder");
        engine_free(engine);
    }
}

static void test_another_version_is_refused_by_name(void **state _unused_) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct json_object *json = json_object_new_object();
    struct engine *engine = NULL;

    json_object_object_add(json, "checkpoint", json_object_new_int(0));
    assert_true(engine_restore(json, &engine, &error) < 0);
    assert_int_equal(error.code, ERROR_NOT_SUPPORTED);
    assert_string_equal(error.parameters[1], "decisions of engine version 0");
    json_put(json);
}

/* By hand: of 2 CPUs and 4 GiB nothing is taken; the first asks for 1.5 CPUs and 1 GiB, so half a CPU more is the least that
 * would have made it wait. */
static void test_a_decision_tells(void **state _unused_) {
    struct engine *engine = engine_with("sjf", BACKFILL_NONE);
    struct json_object *json = NULL, *flip;

    assert_int_equal(engine_record(engine, 7), 0);
    submit_batch(engine, "long", 1000, 100, 10);
    submit_batch(engine, "short", 1500, 10, 12);
    drain(engine, 14 * SECONDS);
    assert_int_equal(engine_decision_last(engine), 7);
    assert_int_equal(engine_decision_about(engine, "short"), 7);
    assert_int_equal(engine_decision_about(engine, "long"), 0);
    const char *text = engine_decision(engine, 7);
    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    assert_string_equal(json_text(json, "name", ""), "short");
    assert_string_equal(json_text(json, "verdict", ""), "start");
    assert_int_equal(json_integer(json, "waiting", 0), 2);
    assert_int_equal(json_integer(json_member(json, "counts"), "order", 0), 2);
    struct json_object *first = json_object_array_get_idx(json_member(json, "candidates"), 0);
    assert_string_equal(json_text(first, "name", ""), "short");
    assert_int_equal(json_object_get_double(json_member(first, "score")), 10);
    assert_int_equal(json_object_get_double(json_member(first, "waited")), 2);
    flip = json_member(json, "flip");
    assert_string_equal(json_text(flip, "resource", ""), "cpus");
    assert_int_equal(json_integer(flip, "more", 0), 500);
    assert_int_equal(json_object_array_length(json_member(json_member(json, "input"), "delta")), 2);
    json_put(json);
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
        cmocka_unit_test(test_priority_is_a_weight), cmocka_unit_test(test_thirds_are_whole),
        cmocka_unit_test(test_services_come_first), cmocka_unit_test(test_history_predicts),
        cmocka_unit_test(test_rules_change), cmocka_unit_test(test_learning_orders_anew),
        cmocka_unit_test(test_the_score_is_told), cmocka_unit_test(test_learning_survives), cmocka_unit_test(test_giving_way),
        cmocka_unit_test(test_costs_are_worth_it), cmocka_unit_test(test_the_cheaper_way),
        cmocka_unit_test(test_no_more_than_needed), cmocka_unit_test(test_who_is_about_to_end_is_waited_for),
        cmocka_unit_test(test_moving_is_bounded), cmocka_unit_test(test_an_alarm_makes_others_give_way),
        cmocka_unit_test(test_a_snapshot_stays_as_it_was), cmocka_unit_test(test_a_trial_stays_as_it_was),
        cmocka_unit_test(test_who_could_give_way), cmocka_unit_test(test_who_could_not_give_way),
        cmocka_unit_test(test_who_is_asked_was_told),
        cmocka_unit_test(test_a_pause_frees_no_memory), cmocka_unit_test(test_swapped_out), cmocka_unit_test(test_replay_gives_the_same_bytes),
        cmocka_unit_test(test_another_version_is_refused_by_name), cmocka_unit_test(test_a_decision_tells),
        cmocka_unit_test(test_overcommit_is_per_kind),
        cmocka_unit_test(test_explains_the_wait),
        cmocka_unit_test(test_impossible_is_refused_at_once),
        cmocka_unit_test(test_occupying_never_fails),
        cmocka_unit_test(test_totals_match_a_recount),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
