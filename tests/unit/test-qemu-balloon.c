// SPDX-License-Identifier: GPL-2.0-or-later
/* What counts of what a guest says of its memory, with a QEMU that answers what the test says: machine_call is here. */
#include "test.h"

#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/qemu/machine.h"

#define MIB (INT64_C(1) << 20)

struct bench {
    struct machine machine; /* first: machine_call finds the rest by it */
    int64_t answered;       /* seconds, as QEMU dates the guest's answer */
    unsigned polls;         /* how often the period of the questions was set */
};

int machine_call(struct machine *machine, const char *command, const char *arguments _unused_, struct json_object **ret,
                 struct error *error _unused_) {
    struct bench *bench = (struct bench *) machine;
    _cleanup_free_ char *text = NULL;

    if (text_equal(command, "qom-set"))
        bench->polls++;
    else if (text_equal(command, "query-balloon"))
        text = text_format("{\"actual\":%lld}", (long long) (256 * MIB));
    else if (text_equal(command, "qom-get"))
        text = text_format("{\"last-update\":%lld,\"stats\":{\"stat-total-memory\":%lld,\"stat-available-memory\":%lld}}",
                           (long long) bench->answered, (long long) (250 * MIB), (long long) (200 * MIB));
    return text ? json_parse(text, strlen(text), ret, NULL) : 0;
}

static int64_t now(void) {
    return (int64_t) (clock_wall() / CLOCK_SECOND);
}

static uint64_t used(struct bench *bench) {
    struct driver_balloon balloon = { .listen = true };

    assert_int_equal(machine_balloon(&bench->machine, &balloon, NULL), 0);
    assert_int_equal(balloon.size, 256 * MIB);
    return balloon.used;
}

/* What it said when its driver started, or when it was last listened to, is no answer to what is asked now. */
static void test_answers_from_before(void **state) {
    struct bench bench = { .answered = 0 };

    assert_int_equal(used(&bench), 0);
    bench.answered = now() - 3600;
    assert_int_equal(used(&bench), 0);
    bench.answered = (int64_t) bench.machine.listening_since - 1;
    assert_int_equal(used(&bench), 0);
    bench.answered = now();
    assert_true(used(&bench) >= (uint64_t) (50 * MIB));
    assert_int_equal(bench.polls, 1);
}

/* A guest whose balloon driver died is not judged by what it said last. */
static void test_answers_that_stop(void **state) {
    struct bench bench = { .answered = now() };

    assert_true(used(&bench) > 0);
    bench.machine.listening_since -= 100;
    bench.answered = now() - 5;
    assert_true(used(&bench) > 0);
    bench.answered = now() - 60;
    assert_int_equal(used(&bench), 0);
}

/* The host's clock was set back: answers from before are not believed, those since are. */
static void test_clock_set_back(void **state) {
    struct bench bench = { .answered = now() };

    assert_true(used(&bench) > 0);
    bench.machine.listening_since += 3600;
    bench.answered = now() + 3600;
    assert_int_equal(used(&bench), 0);
    bench.answered = now();
    assert_true(used(&bench) > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_from_before),
        cmocka_unit_test(test_answers_that_stop),
        cmocka_unit_test(test_clock_set_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
