// SPDX-License-Identifier: GPL-2.0-or-later
/* Whatever allocation fails within a call: either the journal says that it is lost, or it leads to the same state. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

#include "base/buffer.h"
#include "engine/ledger.h"
#include "shortage.h"

#ifndef OWN_ALLOCATOR
#define SECONDS UINT64_C(1000000)
#define GIB (UINT64_C(1) << 30)
#define NOW (100 * SECONDS)

static void drain(struct engine *engine, uint64_t now) {
    struct engine_decision decision;

    assert_int_equal(engine_run(engine, now), 0);
    while (engine_next(engine, &decision))
        if (decision.verdict == ENGINE_PAUSE)
            assert_int_equal(engine_paused(engine, decision.userdata, false, now), 0);
}

static struct engine_request request_of(const char *id, uint64_t owner) {
    return (struct engine_request){ .id = id, .kind = KIND_CONTAINER, .cpus = 1000, .memory = GIB, .owner = owner,
                                    .class = owner, .yields = QUEUE_YIELD_PAUSE, .userdata = (void *) id };
}

/* "paused" gave way to "b", "a" and "b" run, and two wait. */
static struct engine *engine_busy(void) {
    struct engine_node node = { .cpus = 2000, .memory = 16 * GIB };
    static const char *const names[] = { "a", "paused", "b", "c", "d" };
    struct engine_options options;
    struct engine *engine = NULL;

    engine_options_init(&options);
    assert_int_equal(engine_new(&node, &options, &engine), 0);
    assert_int_equal(engine_record(engine, 1), 0);
    for (size_t i = 0; i < ELEMENTS(names); i++) {
        struct engine_request request = request_of(names[i], i);
        assert_int_equal(engine_submit(engine, &request, i), 0);
        drain(engine, 10 + i);
        if (i == 1)
            assert_int_equal(engine_paused(engine, "paused", false, 20), 0);
    }
    return engine;
}

/* --- the calls ---------------------------------------------------------------------------------------------------------- */

static int call_submit(struct engine *engine) {
    struct engine_request request = request_of("new", 9);

    return engine_submit(engine, &request, NOW);
}

static int call_occupy(struct engine *engine) {
    struct engine_request request = request_of("new", 9);

    return engine_occupy(engine, &request, NOW);
}

static int call_occupy_paused(struct engine *engine) {
    struct engine_request request = request_of("paused", 1);

    return engine_occupy(engine, &request, NOW);
}

static int call_change(struct engine *engine) {
    struct engine_request request = request_of("c", 3);

    request.memory = 2 * GIB;
    return engine_change(engine, &request, NOW, NULL);
}

static int call_release(struct engine *engine) {
    engine_release(engine, "a", true, NOW);
    return 0;
}

static int call_paused(struct engine *engine) {
    return engine_paused(engine, "a", false, NOW);
}

static int call_run(struct engine *engine) {
    struct engine_decision decision;
    int r;

    engine_release(engine, "a", false, NOW);
    r = engine_run(engine, NOW);
    while (engine_next(engine, &decision))
        ;
    return r;
}

static int call_configure(struct engine *engine) {
    struct engine_options options = *engine_options(engine);

    assert_int_equal(policy_find("sjf", &options.policy, NULL), 0);
    options.estimate = ESTIMATE_REQUESTED;
    return engine_configure(engine, &options, NOW);
}

/* --- each allocation in turn ---------------------------------------------------------------------------------------------- */

static char *state_of(struct engine *engine) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    char *text = NULL;

    assert_int_equal(engine_checkpoint(engine, &buffer), 0);
    assert_int_equal(buffer_take(&buffer, &text), 0);
    return text;
}

static struct json_object *read_line(const char *line) {
    struct json_object *json = NULL;

    assert_int_equal(json_parse(line, strcspn(line, "\n"), &json, NULL), 0);
    return json;
}

static void expect_replay(const char *checkpoint, const char *journal, struct engine *engine) {
    struct json_object *json = read_line(checkpoint);
    _cleanup_free_ char *state = state_of(engine), *repeated = NULL;
    struct engine *again = NULL;

    assert_int_equal(engine_restore(json, &again, NULL), 0);
    json_put(json);
    for (const char *line = journal, *end; line && (end = strchr(line, '\n')); line = end + 1) {
        json = read_line(line);
        assert_int_equal(engine_repeat(again, json, NULL), 0);
        json_put(json);
    }
    repeated = state_of(again);
    assert_string_equal(repeated, state);
    engine_free(again);
}

static void check_call(int (*call)(struct engine *engine), bool is_whole) {
    bool failed = true;

    for (long i = 1; failed; i++) {
        struct engine *engine = engine_busy();
        _cleanup_free_ char *journal = NULL, *before = NULL, *more = NULL;
        size_t size;
        int r;

        assert_int_equal(engine_take_journal(engine, &journal, &size), 0);
        free(journal);
        before = state_of(engine);
        left_until = i;
        left_failing = 1;
        r = call(engine);
        failed = left_failing == 0;
        left_failing = 0;
        if (r < 0 && is_whole)
            expect_replay(before, NULL, engine);
        r = engine_take_journal(engine, &journal, &size);
        assert_true(r == 0 || (r == -ENOMEM && failed));
        if (r == 0)
            expect_replay(before, journal, engine);
        assert_int_equal(engine_take_journal(engine, &more, &size), 0); /* told once */
        assert_null(more);
        engine_free(engine);
        assert_in_range(i, 1, 10000);
    }
}

static void test_what_did_not_happen_is_not_in_the_journal(void **state _unused_) {
    check_call(call_submit, false);
    check_call(call_occupy, false);
    check_call(call_occupy_paused, false);
    check_call(call_change, true);
    check_call(call_release, false);
    check_call(call_paused, true);
    check_call(call_run, false);
}

static void test_rules_change_whole_or_not_at_all(void **state _unused_) {
    check_call(call_configure, true);
}
#endif

int main(void) {
#ifdef OWN_ALLOCATOR
    fputs("a sanitizer brings an allocator of its own\n", stderr);
    return 77; /* skipped */
#else
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_did_not_happen_is_not_in_the_journal),
        cmocka_unit_test(test_rules_change_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
#endif
}
