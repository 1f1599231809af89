// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include "engine/lifetime.h"

#define MINUTE UINT64_C(60000)

static void test_octaves(void **state) {
    const struct {
        uint64_t age;
        unsigned octave;
    } cases[] = { { 0, 0 },
                  { MINUTE - 1, 0 },
                  { MINUTE, 1 },
                  { 2 * MINUTE - 1, 1 },
                  { 2 * MINUTE, 2 },
                  { 4 * MINUTE, 3 },
                  { UINT64_MAX, LIFETIME_OCTAVES - 1 } };

    for (size_t i = 0; i < ELEMENTS(cases); i++)
        assert_int_equal(lifetime_octave(cases[i].age), cases[i].octave);
    for (unsigned i = 0; i < LIFETIME_OCTAVES; i++)
        assert_int_equal(lifetime_octave(lifetime_octave_begin(i)), i);
}

/* `count` of a class that ended in the octave. */
static void live(struct lifetimes *lifetimes, uint32_t number, unsigned octave, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        for (unsigned at = 0; at <= octave; at++)
            assert_int_equal(lifetimes_reached(lifetimes, number, at), 0);
        assert_int_equal(lifetimes_ended(lifetimes, number, octave), 0);
    }
}

static void test_history_tells_classes_apart(void **state) {
    _cleanup_lifetimes_ struct lifetimes *lifetimes = NULL;

    assert_int_equal(lifetimes_new(&lifetimes), 0);
    uint64_t unknown = lifetimes_expected(lifetimes, 7, 0);
    assert_true(unknown > 0);
    live(lifetimes, 1, 3, 1000); /* 4 to 8 minutes */
    live(lifetimes, 2, 11, 1000); /* 17 to 34 hours */
    /* All that began end in that octave, in its middle: 6 minutes, 25.6 hours, but for what the prior adds.
     */
    uint64_t short_lived = lifetimes_expected(lifetimes, 1, 0),
             long_lived = lifetimes_expected(lifetimes, 2, 0);
    assert_in_range(short_lived, 5 * MINUTE, 8 * MINUTE);
    assert_in_range(long_lived, 24 * 60 * MINUTE, 28 * 60 * MINUTE);
    /* What has outlived its like is expected to go on as the others do, and the older the longer. */
    assert_true(lifetimes_expected(lifetimes, 1, 9 * MINUTE) > short_lived);
    assert_true(lifetimes_expected(lifetimes, 2, 20 * 60 * MINUTE) < long_lived);
    /* A class that is not known is like all together. */
    uint64_t fresh = lifetimes_expected(lifetimes, 9, 0);
    assert_true(fresh > short_lived && fresh < long_lived);
}

/* Those that still run count: ten short lives have ended, ninety of the same class run on. */
static void test_what_runs_counts(void **state) {
    _cleanup_lifetimes_ struct lifetimes *lifetimes = NULL;

    assert_int_equal(lifetimes_new(&lifetimes), 0);
    live(lifetimes, 0, 0, 10);
    uint64_t before = lifetimes_expected(lifetimes, 0, 0);
    for (int i = 0; i < 90; i++)
        for (unsigned at = 0; at <= 8; at++)
            assert_int_equal(lifetimes_reached(lifetimes, 0, at), 0);
    assert_true(lifetimes_expected(lifetimes, 0, 0) > 20 * before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_octaves),
        cmocka_unit_test(test_history_tells_classes_apart),
        cmocka_unit_test(test_what_runs_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
