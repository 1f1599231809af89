// SPDX-License-Identifier: GPL-2.0-or-later
/* Properties that are false: from a large random example their smallest one is found. */
#include "test.h"

#include "shrink.h"

#define ITEMS 60

static const char *const head_names[] = { "limit", NULL };
static const char *const item_names[] = { "a", "b", NULL };

static uint64_t items[ITEMS][EXAMPLE_WIDTH];

static uint64_t dice(uint64_t *seed, uint64_t limit) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (*seed >> 33) % limit;
}

static struct example random_example(uint64_t seed) {
    struct example example = { .head = { 1000 + dice(&seed, 1000) }, .count = ITEMS, .items = items };

    for (size_t i = 0; i < ITEMS; i++)
        for (size_t j = 0; j < 2; j++)
            items[i][j] = dice(&seed, 500);
    return example;
}

static bool none_is_above_100(const struct example *example, void *userdata) {
    for (size_t i = 0; i < example->count; i++)
        if (example->items[i][0] > 100)
            return false;
    return true;
}

static bool sum_is_within_the_limit(const struct example *example, void *userdata) {
    uint64_t sum = 0;

    for (size_t i = 0; i < example->count; i++)
        sum += example->items[i][0] + example->items[i][1];
    return sum <= example->head[0];
}

/* What comes later needs what came before: the first b above 10 opens, and an a above 20 after it is wrong. */
static bool none_comes_after(const struct example *example, void *userdata) {
    bool open = false;

    for (size_t i = 0; i < example->count; i++) {
        if (open && example->items[i][0] > 20)
            return false;
        open = open || example->items[i][1] > 10;
    }
    return true;
}

static bool is_always_so(const struct example *example, void *userdata) {
    return true;
}

static void expect_smallest(bool (*holds)(const struct example *, void *), const char *smallest) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        const struct property property = { head_names, item_names, holds, NULL };
        struct example example = random_example(seed);

        assert_false(holds(&example, NULL));
        assert_true(example_shrink(&property, &example) < 20000);
        assert_false(holds(&example, NULL));
        _cleanup_free_ char *text = example_text(&property, &example);
        assert_string_equal(text, smallest);
    }
}

static void test_false_properties(void **state) {
    expect_smallest(none_is_above_100, "limit 0 | a 101, b 0");
    expect_smallest(none_comes_after, "limit 0 | a 0, b 11 | a 21, b 0");
}

/* Which item is left depends on the example; that there is one, and one number above the limit of 0, does not. */
static void test_the_head_shrinks_too(void **state) {
    const struct property property = { head_names, item_names, sum_is_within_the_limit, NULL };

    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct example example = random_example(seed);
        example_shrink(&property, &example);
        assert_int_equal(example.count, 1);
        assert_int_equal(example.head[0], 0);
        assert_int_equal(example.items[0][0] + example.items[0][1], 1);
    }
}

static void test_true_property(void **state) {
    const struct property property = { head_names, item_names, is_always_so, NULL };
    struct example example = random_example(1);

    property_check(&property, &example);
    assert_int_equal(example.count, ITEMS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_false_properties),
        cmocka_unit_test(test_the_head_shrinks_too),
        cmocka_unit_test(test_true_property),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
