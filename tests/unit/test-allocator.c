// SPDX-License-Identifier: GPL-2.0-or-later
/* Sharing under contention, dynamic weights, the control channel's budget. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdbool.h>
#include <string.h>

#include "base/cleanup.h"
#include "engine/allocator.h"
#include "engine/bucket.h"
#include "engine/engine.h"
#include "engine/memory.h"
#include "engine/weight.h"
#include "shrink.h"

#define SECOND UINT64_C(1000000)
#define HOUR (3600 * SECOND)

static void share(uint64_t capacity, struct allocation *items, size_t count) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_int_equal(allocator_share(capacity, items, count, &error), 0);
}

#define ITEM(asked, low, high, c, s)                                                                         \
    { .requested = (asked), .reservation = (low), .limit = (high), .priority = (c), .weight = (s) }

static void test_no_contention(void **state) {
    struct allocation items[] = { ITEM(1000, 0, 1000, 1000, 1000), ITEM(500, 100, 2000, 5000, 1), ITEM(9000, 0, 800, 1, 1) };

    share(10000, items, 3);
    assert_int_equal(items[0].granted, 1000);
    assert_int_equal(items[1].granted, 500);
    assert_int_equal(items[2].granted, 800); /* its limit */
}

/* By hand: scores 1000 x 1 x 1, 1000 x 2 x 1, 1000 x 1 x 3 of 1200: 200, 400, 600. */
static void test_by_score(void **state) {
    struct allocation items[] = { ITEM(1000, 0, 1000, 1000, 1000), ITEM(1000, 0, 1000, 2000, 1000),
                                  ITEM(1000, 0, 1000, 1000, 3000) };

    share(1200, items, 3);
    assert_int_equal(items[0].granted, 200);
    assert_int_equal(items[1].granted, 400);
    assert_int_equal(items[2].granted, 600);
    items[0].weight = 2000; /* one input changed: 2:2:3 of 1200 = 342.86, 342.86, 514.29 */
    share(1200, items, 3);
    assert_int_equal(items[0].granted, 343);
    assert_int_equal(items[1].granted, 343);
    assert_int_equal(items[2].granted, 514);
}

/* By hand: 100 of 1000 for three of equal score; one has a floor of 600, so the others share 400; another is capped at
 * 50, so the third gets 350. */
static void test_floor_and_cap(void **state) {
    struct allocation items[] = { ITEM(1000, 600, 1000, 1000, 1000), ITEM(1000, 0, 50, 1000, 1000),
                                  ITEM(1000, 0, 1000, 1000, 1000) };

    share(1000, items, 3);
    assert_int_equal(items[0].granted, 600);
    assert_int_equal(items[1].granted, 50);
    assert_int_equal(items[2].granted, 350);
}

static void test_modes(void **state) {
    struct allocation item = { .priority = 1000, .weight = 1000 };

    allocation_set_mode(&item, ALLOCATION_FIXED, 800, 100);
    assert_int_equal(item.reservation, 800);
    allocation_set_mode(&item, ALLOCATION_HYBRID, 800, 100);
    assert_int_equal(item.reservation, 100);
    allocation_set_mode(&item, ALLOCATION_DYNAMIC, 800, 100);
    assert_int_equal(item.reservation, 0);
    for (int mode = 0; mode < ALLOCATION_MODE_COUNT; mode++)
        assert_int_equal(allocation_mode_from_name(allocation_mode_name(mode)), mode);
    assert_true(allocation_mode_from_name("elastic") < 0);
}

static void refused(uint64_t capacity, struct allocation item, enum error_code code, const char *field) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_true(allocator_share(capacity, &item, 1, &error) < 0);
    assert_int_equal(error.code, code);
    assert_string_equal(error.parameters[0], field);
    assert_int_equal(item.granted, 0);
}

static void test_refused(void **state) {
    refused(10, (struct allocation) ITEM(5, 0, 5, 0, 1000), ERROR_OUT_OF_RANGE, "priority");
    refused(10, (struct allocation) ITEM(5, 0, 5, 1000, 0), ERROR_OUT_OF_RANGE, "weight");
    refused(10, (struct allocation) ITEM(5, 0, 5, 1000, ALLOCATION_FACTOR_MOST + 1), ERROR_OUT_OF_RANGE, "weight");
    refused(10, (struct allocation) ITEM(ALLOCATION_MOST + 1, 0, 5, 1000, 1000), ERROR_OUT_OF_RANGE, "request");
    refused(10, (struct allocation) ITEM(5, 6, 5, 1000, 1000), ERROR_BAD_VALUE, "reservation");
    refused(10, (struct allocation) ITEM(50, 11, 50, 1000, 1000), ERROR_NO_ROOM, "capacity for the reservations");
}

/* --- properties --------------------------------------------------------------------------------------------------- */

#define MOST 12

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint64_t below(uint64_t *seed, uint64_t limit) {
    return next(seed) % limit;
}

/* Room beside what is reserved; how much more of it there is, then who gets a larger weight, and by how much. */
static const char *const pool_numbers[] = { "room", "more", "chosen", "weight", NULL };
static const char *const item_numbers[] = { "requested", "reservation", "limit", "priority", "weight", NULL };

static void random_example(uint64_t *seed, struct example *example) {
    example->count = 1 + below(seed, MOST);
    example->head[0] = below(seed, 6000);
    example->head[1] = below(seed, 500);
    example->head[2] = below(seed, MOST);
    example->head[3] = below(seed, 3000);
    for (size_t i = 0; i < example->count; i++) {
        uint64_t limit = below(seed, 3000), floor = below(seed, 3) ? below(seed, limit + 1) : 0;
        const uint64_t numbers[] = { below(seed, 4000), floor, limit, 1 + below(seed, 5000), 1 + below(seed, 5000) };
        memcpy(example->items[i], numbers, sizeof(numbers));
    }
}

static uint64_t at_least_one(uint64_t number) {
    return number ? number : 1;
}

/* The pool of an example; its capacity. */
static uint64_t items_of(const struct example *example, struct allocation items[MOST]) {
    uint64_t capacity = example->head[0];

    memset(items, 0, MOST * sizeof(*items));
    for (size_t i = 0; i < example->count; i++) {
        const uint64_t *number = example->items[i];
        uint64_t floor = number[1] < number[2] ? number[1] : number[2];
        items[i] = (struct allocation) ITEM(number[0], floor, number[2], (uint32_t) at_least_one(number[3]),
                                            (uint32_t) at_least_one(number[4]));
        capacity += floor;
    }
    return capacity;
}

static void check_random(bool (*holds)(const struct example *, void *), uint64_t seed, int rounds) {
    const struct property property = { pool_numbers, item_numbers, holds, NULL };
    uint64_t items[MOST][EXAMPLE_WIDTH] = { 0 };

    for (int round = 0; round < rounds; round++) {
        struct example example = { .items = items };
        random_example(&seed, &example);
        property_check(&property, &example);
    }
}

static uint64_t most_of(const struct allocation *item) {
    uint64_t wanted = item->requested < item->limit ? item->requested : item->limit;

    return wanted > item->reservation ? wanted : item->reservation;
}

/* The second implementation: units one by one to the highest quotient score / (granted + 1). */
static void share_naively(uint64_t capacity, struct allocation *items, size_t count) {
    uint64_t left = capacity;

    for (size_t i = 0; i < count; i++) {
        items[i].granted = items[i].reservation;
        left -= items[i].reservation;
    }
    for (; left > 0; left--) {
        struct allocation *best = NULL;
        double highest = -1;
        for (size_t i = 0; i < count; i++) {
            double score = (double) (items[i].requested ? items[i].requested : 1) * items[i].priority * items[i].weight;
            double quotient = score / (double) (items[i].granted + 1);
            if (items[i].granted < most_of(&items[i]) && quotient > highest) {
                highest = quotient;
                best = &items[i];
            }
        }
        if (!best)
            return;
        best->granted++;
    }
}

/* Feasible, work-conserving, between floor and limit, and as the second implementation has it. */
static bool is_like_the_naive_one(const struct example *example, void *userdata) {
    struct allocation items[MOST], naive[MOST];
    uint64_t capacity = items_of(example, items), sum = 0, useful = 0;

    memcpy(naive, items, sizeof(naive));
    share(capacity, items, example->count);
    share_naively(capacity, naive, example->count);
    for (size_t i = 0; i < example->count; i++) {
        /* Scores are rounded to 32 bits, so claims that are as good as equal may fall the other way. */
        if (items[i].granted + 1 < naive[i].granted || items[i].granted > naive[i].granted + 1 ||
            items[i].granted < items[i].reservation || items[i].granted > most_of(&items[i]))
            return false;
        sum += items[i].granted;
        useful += most_of(&items[i]);
    }
    return sum == (capacity < useful ? capacity : useful);
}

static void test_like_the_naive_one(void **state) {
    check_random(is_like_the_naive_one, 20260101, 2000);
}

/* More capacity is less for nobody, and a larger weight is not less for its owner. */
static bool is_monotone(const struct example *example, void *userdata) {
    size_t chosen = example->count ? example->head[2] % example->count : 0;
    struct allocation items[MOST], more[MOST];
    uint64_t capacity = items_of(example, items);

    share(capacity, items, example->count);
    memcpy(more, items, sizeof(more));
    share(capacity + 1 + example->head[1], more, example->count);
    for (size_t i = 0; i < example->count; i++)
        if (more[i].granted < items[i].granted)
            return false;
    memcpy(more, items, sizeof(more));
    more[chosen].weight += (uint32_t) (1 + example->head[3]);
    share(capacity, more, example->count);
    return example->count == 0 || more[chosen].granted + 1 >= items[chosen].granted; /* one unit: scores are rounded */
}

static void test_monotone(void **state) {
    check_random(is_monotone, 424242, 3000);
}

/* This is false, and the smallest pool for which it is so is found: one that asks for one unit where there is none. */
static bool gets_what_it_asks_for(const struct example *example, void *userdata) {
    struct allocation items[MOST];
    uint64_t capacity = items_of(example, items);

    share(capacity, items, example->count);
    for (size_t i = 0; i < example->count; i++)
        if (items[i].granted < items[i].requested)
            return false;
    return true;
}

static void test_false_property_is_told_small(void **state) {
    const struct property property = { pool_numbers, item_numbers, gets_what_it_asks_for, NULL };
    uint64_t items[MOST][EXAMPLE_WIDTH] = { 0 }, seed = 5;
    struct example example = { .items = items };

    do
        random_example(&seed, &example);
    while (gets_what_it_asks_for(&example, NULL));
    example_shrink(&property, &example);
    _cleanup_free_ char *text = example_text(&property, &example);
    assert_string_equal(text, "room 0, more 0, chosen 0, weight 0 | requested 1, reservation 0, limit 0, priority 0, weight 0");
}

static void test_large(void **state) {
    struct allocation items[2] = { ITEM(ALLOCATION_MOST, 0, ALLOCATION_MOST, 1, 1),
                                   ITEM(ALLOCATION_MOST, 0, ALLOCATION_MOST, ALLOCATION_FACTOR_MOST, 99) };

    share(ALLOCATION_MOST, items, 2);
    assert_int_equal(items[0].granted + items[1].granted, ALLOCATION_MOST);
    assert_true(items[1].granted > items[0].granted * 1000);
}

/* --- weights and budgets ------------------------------------------------------------------------------------------- */

static void test_weight(void **state) {
    struct weight_rule rule = { .alpha = 1000, .beta = -2000 }, older = { .alpha = 500, .beta = 3000 };

    assert_int_equal(weight_of(&rule, 0, 0), 100);          /* 1 x 100 */
    assert_int_equal(weight_of(&rule, 0, 10 * HOUR), 80);   /* 1 x 100 - 2 x 10 */
    assert_int_equal(weight_of(&rule, 0, 1000 * HOUR), 50); /* no more than half is lost to age */
    assert_int_equal(weight_of(&rule, 100, 10 * HOUR), 980);
    assert_int_equal(weight_of(&older, 0, 10 * HOUR), 80);  /* 0.5 x 100 + 3 x 10 */
    assert_int_equal(weight_of(&older, 0, UINT64_MAX), 100);
    assert_int_equal(weight_of(&(struct weight_rule){ .alpha = 0 }, 50, HOUR), WEIGHT_LEAST);
    assert_int_equal(weight_of(&(struct weight_rule){ .alpha = 1000000, .beta = 0 }, 100, 0), WEIGHT_MOST);
}

static void test_hysteresis(void **state) {
    assert_int_equal(weight_settle(100, 91), 100);
    assert_int_equal(weight_settle(100, 109), 100);
    assert_int_equal(weight_settle(100, 90), 90);
    assert_int_equal(weight_settle(100, 110), 110);
    assert_int_equal(weight_settle(0, 1), 1);
}

/* C_m = P_m x R_m: 1.0 x 2 a second at priority 0, 10 x 2 at priority 100. */
static void test_bucket(void **state) {
    struct bucket bucket;

    bucket_init(&bucket, 0, 2, 3, 5 * SECOND);
    for (int i = 0; i < 6; i++)
        assert_true(bucket_take(&bucket, 5 * SECOND));
    assert_false(bucket_take(&bucket, 5 * SECOND));
    assert_int_equal(bucket_wait(&bucket, 5 * SECOND), SECOND / 2);
    assert_false(bucket_take(&bucket, 4 * SECOND)); /* time never goes back */
    assert_true(bucket_take(&bucket, 5 * SECOND + SECOND / 2));
    for (uint64_t t = 1; t <= 1000; t++) /* looked at often, nothing is lost */
        assert_int_equal(bucket_take(&bucket, 5 * SECOND + SECOND / 2 + t * 1000), t % 500 == 0);
    bucket_init(&bucket, 100, 2, 1, 0);
    for (int i = 0; i < 20; i++)
        assert_true(bucket_take(&bucket, 0));
    assert_false(bucket_take(&bucket, 0));
    bucket_init(&bucket, 0, 0, 10, 0);
    assert_false(bucket_take(&bucket, 1000 * SECOND));
    assert_true(bucket_wait(&bucket, 0) == UINT64_MAX);
}

/* --- weights for the kernel ----------------------------------------------------------------------------------------- */

static void weigh(uint64_t capacity, struct allocation *items, size_t count) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_int_equal(allocator_weigh(capacity, items, count, &error), 0);
}

/* By hand: 100 a CPU: 0.5 x 1 x 1, 2 x 1.1 x 1, 1 x 10 x 0.5; crowded or not. */
static void test_weights_are_scores(void **state) {
    for (uint64_t capacity = 1000; capacity <= 100000; capacity *= 10) {
        struct allocation items[] = { ITEM(500, 0, 500, 1000, 1000), ITEM(2000, 0, 2000, 1100, 1000),
                                      ITEM(1000, 0, 1000, 10000, 500) };
        weigh(capacity, items, 3);
        assert_int_equal(items[0].scheduler, 50);
        assert_int_equal(items[1].scheduler, 220);
        assert_int_equal(items[2].scheduler, 500);
        assert_int_equal(allocation_score(&items[1]), 2200);
        assert_int_equal(allocation_weight(&items[2]), 500);
    }
}

/* Rounding is no floor: under contention too weights are in the ratio of the scores, to the last one. */
static void test_weights_are_not_rounded_up(void **state) {
    for (uint32_t ratio = 1; ratio <= 10000; ratio++) {
        struct allocation items[] = { ITEM(1000, 0, 1000, 1000, 1000), ITEM(1000, 0, 1000, 1000, 1000 * ratio / 10) };
        if (items[1].weight == 0)
            continue;
        weigh(1000, items, 2);
        assert_int_equal(items[0].scheduler, 100);
        assert_int_equal(items[1].scheduler, (items[1].weight + 5) / 10);
    }
}

/* By hand: two of equal score on 1000, one with a floor of 800: the other gets 200, so a unit of score earns 0.2, and a
 * floor of 800 takes a score of 4000: weights 100 and 400. */
static void test_weights_lift_to_the_floor(void **state) {
    struct allocation items[] = { ITEM(1000, 0, 1000, 1000, 1000), ITEM(1000, 800, 1000, 1000, 1000) };

    weigh(1000, items, 2);
    assert_int_equal(items[0].granted, 200);
    assert_int_equal(items[1].granted, 800);
    assert_int_equal(items[0].scheduler, 100);
    assert_int_equal(items[1].scheduler, 400);
}

/* By hand: room for both requests, but the second may take 2000 with ten times the score. The first still gets its 1000
 * when both are busy: the rest, 1000, goes to the second's score of 10000, 0.1 a unit, so the first needs 10000 too. */
static void test_weights_keep_requests_whole(void **state) {
    struct allocation items[] = { ITEM(1000, 0, 1000, 1000, 1000), ITEM(1000, 0, 2000, 10000, 1000) };

    weigh(2000, items, 2);
    assert_int_equal(items[0].busy, 1000);
    assert_int_equal(items[1].busy, 1000);
    assert_int_equal(items[0].scheduler, 1000);
    assert_int_equal(items[1].scheduler, 1000);
    weigh(3000, items, 2); /* room for all limits: nobody needs help */
    assert_int_equal(items[1].busy, 2000);
    assert_int_equal(items[0].scheduler, 100);
}

/* What a work-conserving scheduler with weights and limits gives: shares of the weight, what is above a limit dealt out
 * among the rest, again and again. */
static void schedule(uint64_t capacity, const struct allocation *items, size_t count, double *ret) {
    bool full[MOST] = { false };

    for (size_t round = 0; round <= count; round++) {
        double left = (double) capacity, sum = 0;
        for (size_t i = 0; i < count; i++) {
            left -= full[i] ? (double) items[i].limit : 0;
            sum += full[i] ? 0 : (double) items[i].scheduler;
        }
        for (size_t i = 0; i < count; i++) {
            ret[i] = full[i] ? (double) items[i].limit : sum > 0 ? left * (double) items[i].scheduler / sum : 0;
            full[i] = full[i] || ret[i] > (double) items[i].limit;
        }
    }
}

/* While all are busy everybody gets what was granted, under any floors and limits: weights are whole numbers, hence 2 %. */
static void test_weights_deliver_grants(void **state) {
    uint64_t seed = 99;

    for (int round = 0; round < 3000; round++) {
        struct allocation items[MOST];
        double got[MOST];
        size_t count = 2 + below(&seed, MOST - 2);
        uint64_t floors = 0, capacity;
        for (size_t i = 0; i < count; i++) {
            uint64_t asked = 1000 + 100 * below(&seed, 40), low = below(&seed, 3) == 0 ? below(&seed, asked) : 0;
            items[i] = (struct allocation) ITEM(asked, low, asked + 1000 * below(&seed, 3), (uint32_t) (1000 + below(&seed, 9000)),
                                                (uint32_t) (1000 + below(&seed, 1000)));
            floors += low;
        }
        capacity = floors + 1000 + below(&seed, 30000);
        weigh(capacity, items, count);
        schedule(capacity, items, count, got);
        for (size_t i = 0; i < count; i++) {
            uint64_t granted = items[i].granted < items[i].limit ? items[i].granted : items[i].limit;
            assert_true(got[i] >= 0.98 * (double) granted - 5);
            assert_true(got[i] <= (double) items[i].limit + 1e-6);
        }
    }
}

/* C x S = R_i / 100: the factors that are shown multiply to the weight. */
static void test_factors(void **state) {
    assert_int_equal(priority_factor(0), 1000);
    assert_int_equal(priority_factor(100), 10000);
    assert_int_equal(priority_factor(-100), 100);
    assert_int_equal(weight_factor(80, 0), 800);     /* R = 80 of P = 100 */
    assert_int_equal(weight_factor(980, 100), 980);  /* 980 of 1000 */
    assert_int_equal(weight_factor(10000, -100), 1000000);
    assert_int_equal(weight_of(&(struct weight_rule){ .alpha = 1000, .beta = 1000000000 }, 0, 36000), 110); /* in 36 ms */
}

/* --- memory ------------------------------------------------------------------------------------------------------- */

#define MIB (UINT64_C(1) << 20)

/* What two hold is 600 each, 100 are left of which 300 are the host's: 1000 for them. */
static void test_memory_by_hand(void **state) {
    struct memory_item items[] = { { .held = 600 * MIB, .used = 96 * MIB, .most = 1000 * MIB, .priority = 1000, .weight = 1000 },
                                   { .held = 600 * MIB, .used = 96 * MIB, .most = 1000 * MIB, .priority = 1000, .weight = 1000 } };

    assert_int_equal(memory_need(&items[0]), 140 * MIB); /* 96 + 12 + 32 */
    assert_int_equal(memory_share(100 * MIB, 300 * MIB, items, 2), 0);
    assert_int_equal(items[0].granted, 500 * MIB);
    assert_int_equal(items[1].granted, 500 * MIB);
    items[0].priority = 3000;
    assert_int_equal(memory_share(100 * MIB, 300 * MIB, items, 2), 0);
    assert_int_equal(items[0].granted, 750 * MIB);
    assert_int_equal(items[1].granted, 250 * MIB);
    items[0].held -= 200 * MIB; /* what it gives back is the host's: nothing swings */
    assert_int_equal(memory_share(300 * MIB, 300 * MIB, items, 2), 0);
    assert_int_equal(items[0].granted, 750 * MIB);
    items[1].floor = 700 * MIB;
    assert_int_equal(memory_share(300 * MIB, 300 * MIB, items, 2), 0);
    assert_int_equal(items[0].granted, 300 * MIB);
    assert_int_equal(items[1].granted, 700 * MIB);
    assert_int_equal(memory_share(0, 9000 * MIB, items, 2), 0); /* nothing is there: nobody goes below its need */
    assert_int_equal(items[0].granted, 140 * MIB);
    assert_int_equal(items[1].granted, 700 * MIB);
    assert_int_equal(memory_share(9000 * MIB, 300 * MIB, items, 2), 0);
    assert_int_equal(items[0].granted, 1000 * MIB);
    items[0].used = 999 * MIB; /* its need is no more than what it may have */
    items[0].most = 1000 * MIB + 5;
    assert_int_equal(memory_share(0, 9000 * MIB, items, 1), 0);
    assert_int_equal(items[0].granted, 1000 * MIB + 5);
}

static void test_memory_is_short(void **state) {
    assert_false(memory_is_short(false, 300, 300, 0));
    assert_true(memory_is_short(false, 299, 300, 0));
    assert_true(memory_is_short(true, 349, 300, 100)); /* 100 were taken: 50 more must be there */
    assert_false(memory_is_short(true, 350, 300, 100));
}

/* Never below the need or the floor, never above the most, and no more in all than there is unless needs want it. */
static void test_memory_is_feasible(void **state) {
    uint64_t seed = 7;

    for (int round = 0; round < 2000; round++) {
        struct memory_item items[8] = { 0 };
        uint64_t there, needs = 0, sum = 0, available, reserve;
        size_t count = 1 + (size_t) round % 8;
#define RANDOM(most) ((seed = seed * 6364136223846793005 + 1442695040888963407) >> 33) % (most)
        available = there = RANDOM(4000) * MIB;
        reserve = RANDOM(4000) * MIB;
        for (size_t i = 0; i < count; i++) {
            items[i].most = (64 + RANDOM(2000)) * MIB;
            items[i].held = RANDOM(items[i].most / MIB) * MIB;
            items[i].used = items[i].held / (1 + RANDOM(4));
            items[i].floor = RANDOM(items[i].most / MIB) * MIB;
            items[i].priority = (uint32_t) (100 + RANDOM(9900));
            items[i].weight = (uint32_t) (500 + RANDOM(1500));
            needs += memory_need(&items[i]) + MIB;
            there += items[i].held;
        }
        assert_int_equal(memory_share(available, reserve, items, count), 0);
        for (size_t i = 0; i < count; i++) {
            assert_true(items[i].granted >= memory_need(&items[i]) && items[i].granted >= items[i].floor);
            assert_true(items[i].granted <= items[i].most);
            sum += items[i].granted;
        }
        there = there > reserve ? there - reserve : 0;
        assert_true(sum <= (there > needs ? there : needs));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_contention),      cmocka_unit_test(test_by_score), cmocka_unit_test(test_floor_and_cap),
        cmocka_unit_test(test_modes),              cmocka_unit_test(test_refused),  cmocka_unit_test(test_like_the_naive_one),
        cmocka_unit_test(test_monotone), cmocka_unit_test(test_false_property_is_told_small),           cmocka_unit_test(test_large),    cmocka_unit_test(test_weight),
        cmocka_unit_test(test_hysteresis),         cmocka_unit_test(test_bucket),
        cmocka_unit_test(test_weights_are_scores), cmocka_unit_test(test_weights_are_not_rounded_up), cmocka_unit_test(test_weights_lift_to_the_floor),
        cmocka_unit_test(test_weights_keep_requests_whole), cmocka_unit_test(test_weights_deliver_grants),
        cmocka_unit_test(test_factors),            cmocka_unit_test(test_memory_by_hand), cmocka_unit_test(test_memory_is_short),
        cmocka_unit_test(test_memory_is_feasible),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
