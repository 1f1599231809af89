// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <string.h>

#include <json-c/json.h>

#include "base/text.h"
#include "model/lifecycle.h"

/* The table once more, as people read it: a row per state, a column per event in the order of enum
 * lifecycle_event (start admit started pause resume suspend suspended stop exited crashed fail migrate
 * migrated delete undelete). A letter is the next state: c created, q queued, s starting, r running, p
 * paused, g suspending, u suspended, t stopping, o stopped, m migrating, f failed, d deleted; '.' is an
 * illegal event. */
static const char letters[STATE_COUNT + 1] = "cqsrpgutomfd";
static const char *const expected[STATE_COUNT] = {
    [STATE_CREATED] = "q......c..f..d.",   [STATE_QUEUED] = "qs.....o..f..d.",
    [STATE_STARTING] = "s.r....toff....",  [STATE_RUNNING] = "r.rp.g.toffm...",
    [STATE_PAUSED] = "...prg.toffm...",    [STATE_SUSPENDING] = ".....gutofr....",
    [STATE_SUSPENDED] = "q...qu.o..f..d.", [STATE_STOPPING] = ".......toof....",
    [STATE_STOPPED] = "q......o.....d.",   [STATE_MIGRATING] = ".......tofr.r..",
    [STATE_FAILED] = "q......o.....d.",    [STATE_DELETED] = ".............do",
};

static void test_every_cell(void **unused) {
    for (int state = 0; state < STATE_COUNT; state++) {
        assert_int_equal(strlen(expected[state]), EVENT_COUNT);
        for (int event = 0; event < EVENT_COUNT; event++) {
            int next = lifecycle_next((enum state) state, (enum lifecycle_event) event);
            char letter = next < 0 ? '.' : letters[next];

            if (letter != expected[state][event])
                fail_msg("%s + %s gives '%c', expected '%c'", state_name((enum state) state),
                         lifecycle_event_name((enum lifecycle_event) event), letter, expected[state][event]);
        }
    }
}

static void test_illegal_events_name_the_legal(void **unused) {
    for (int i = 0; i < STATE_COUNT * EVENT_COUNT; i++) {
        enum state state = (enum state) (i / EVENT_COUNT);
        enum lifecycle_event event = (enum lifecycle_event) (i % EVENT_COUNT);
        _cleanup_error_ struct error error = ERROR_INIT;
        enum state next = STATE_COUNT;
        int r = lifecycle_check(state, event, &next, &error);

        if (lifecycle_next(state, event) >= 0) {
            assert_int_equal(r, 0);
            assert_int_equal((int) next, lifecycle_next(state, event));
            continue;
        }
        assert_int_equal(r, -EBUSY);
        assert_int_equal(error.code, ERROR_WRONG_STATE);
        assert_string_equal(error.parameters[0], state_name(state));
        assert_string_equal(error.parameters[1], lifecycle_event_name(event));
        assert_true(strlen(error.parameters[2]) > 0);
    }
}

static void test_example(void **unused) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;

    lifecycle_check(STATE_STOPPED, EVENT_PAUSE, NULL, &error);
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_string_equal(sentence, "it is stopped and cannot pause; possible now: start, stop, delete");
}

/* From every state a person can get the instance deleted, by requests and what they bring about. */
static void test_deleted_is_reachable(void **unused) {
    for (int first = 0; first < STATE_COUNT; first++) {
        bool reached[STATE_COUNT] = { false };
        bool grown = true;

        reached[first] = true;
        while (grown) {
            grown = false;
            for (int i = 0; i < STATE_COUNT * EVENT_COUNT; i++) {
                int next =
                    lifecycle_next((enum state) (i / EVENT_COUNT), (enum lifecycle_event) (i % EVENT_COUNT));

                if (next < 0 || !reached[i / EVENT_COUNT] || reached[next])
                    continue;
                reached[next] = true;
                grown = true;
            }
        }
        assert_true(reached[STATE_DELETED]);
        assert_true(reached[STATE_STOPPED]);
    }
}

static void test_names(void **unused) {
    for (int state = 0; state < STATE_COUNT; state++)
        assert_int_equal(state_from_name(state_name((enum state) state)), state);
    assert_int_equal(state_from_name("asleep"), -1);
    assert_int_equal(lifecycle_next((enum state) 99, EVENT_START), -1);
    assert_int_equal(lifecycle_next(STATE_RUNNING, (enum lifecycle_event) 99), -1);
    assert_true(state_is_active(STATE_PAUSED));
    assert_false(state_is_active(STATE_SUSPENDED));
    assert_true(lifecycle_event_is_request(EVENT_STOP));
    assert_false(lifecycle_event_is_request(EVENT_EXITED));
}

static void test_json(void **unused) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    _cleanup_json_ struct json_object *object = NULL;
    size_t legal = 0;

    for (int i = 0; i < STATE_COUNT; i++)
        for (const char *p = expected[i]; *p; p++)
            legal += *p != '.';
    lifecycle_emit(&emitter);
    assert_int_equal(json_parse(out.data, out.size, &object, NULL), 0);
    assert_int_equal(json_object_array_length(json_member(object, "states")), STATE_COUNT);
    assert_int_equal(json_object_array_length(json_member(object, "events")), EVENT_COUNT);
    assert_int_equal(json_object_array_length(json_member(object, "transitions")), legal);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cell), cmocka_unit_test(test_illegal_events_name_the_legal),
        cmocka_unit_test(test_example),    cmocka_unit_test(test_deleted_is_reachable),
        cmocka_unit_test(test_names),      cmocka_unit_test(test_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
