// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>

#include "simulator/cloud-correlation.h"

#define LENGTH 12

static double dice(uint64_t *seed) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double) (*seed >> 40);
}

/* The sum of the products of what is away from the means. */
static double product(const double *a, const double *b) {
    double mean_a = 0, mean_b = 0, sum = 0;

    for (unsigned i = 0; i < LENGTH; i++) {
        mean_a += a[i] / LENGTH;
        mean_b += b[i] / LENGTH;
    }
    for (unsigned i = 0; i < LENGTH; i++)
        sum += (a[i] - mean_a) * (b[i] - mean_b);
    return sum;
}

/* For one by two others there is a formula: (r1^2 + r2^2 - 2 r1 r2 r12) / (1 - r12^2), with r1 = s1 / sqrt(s s11) and so on. */
static double naive(const double *y, const double *a, const double *b) {
    double s = product(y, y), aa = product(a, a), bb = product(b, b), ya = product(y, a), yb = product(y, b), ab = product(a, b);

    return (ya * ya / (s * aa) + yb * yb / (s * bb) - 2 * ya * yb * ab / (s * aa * bb)) / (1 - ab * ab / (aa * bb));
}

static void test_like_the_formula_for_three(void **state) {
    unsigned chosen[3] = { 0 };
    uint64_t seed = 5;

    for (unsigned round = 0; round < 500; round++) {
        double values[3][LENGTH];
        const double *const series[] = { values[0], values[1], values[2] };
        size_t most;
        for (unsigned i = 0; i < 3; i++)
            for (unsigned k = 0; k < LENGTH; k++)
                values[i][k] = dice(&seed);
        const double squares[] = { naive(values[0], values[1], values[2]), naive(values[1], values[0], values[2]),
                                   naive(values[2], values[0], values[1]) };
        assert_int_equal(correlation_most(series, 3, LENGTH, &most), 0);
        for (unsigned i = 0; i < 3; i++)
            assert_true(squares[most] >= squares[i] - 1e-9);
        chosen[most]++;
    }
    assert_true(chosen[0] > 50 && chosen[1] > 50 && chosen[2] > 50);
}

/* c is a + b and some more: the others tell most of it, though no other alone does. */
static void test_by_the_others_together(void **state) {
    const double a[] = { 1, 9, 2, 8, 3, 7 }, b[] = { 5, 1, 9, 2, 8, 3 }, c[] = { 6, 10, 11, 10, 11, 10.01 }, d[] = { 3, 1, 4, 1, 5, 9 };
    const double *const series[] = { d, a, c, b };
    size_t most;

    assert_int_equal(correlation_most(series, 4, 6, &most), 0);
    assert_true(most != 0);
}

static void test_what_cannot_be_told(void **state) {
    const double a[] = { 1, 2, 3 }, b[] = { 3, 1, 2 }, nothing[] = { 0, 0, 0 };
    const double *const series[] = { a, b, a, b }, *const idle[] = { a, nothing, b };
    size_t most;

    assert_int_equal(correlation_most(series, 4, 3, &most), -EDOM); /* more unknown than values */
    assert_int_equal(correlation_most(series, 1, 3, &most), -EDOM);
    assert_int_equal(correlation_most(idle, 3, 3, &most), -EDOM); /* no plane through a series of nothing */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_the_formula_for_three),
        cmocka_unit_test(test_by_the_others_together),
        cmocka_unit_test(test_what_cannot_be_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
