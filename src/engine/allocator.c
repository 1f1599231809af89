// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/allocator.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/text.h"

/* A level x of water gives each item floor(x * score / 2^32), clamped to its bounds. The highest level whose sum fits is
 * found by bisection; at the next level no item gets more than one unit more, since scores are below 2^32, so what
 * is left is dealt one by one to those whom the next level would raise. That is d'Hondt's rule with bounds. */

#define SCORE_BITS 32
#define LEVEL_BITS (48 + SCORE_BITS) /* at this level the least score, 1, has reached ALLOCATION_MOST */

static const char *const mode_names[] = { "fixed", "dynamic", "hybrid" };
_Static_assert(ELEMENTS(mode_names) == ALLOCATION_MODE_COUNT, "a name for each mode");

const char *allocation_mode_name(enum allocation_mode mode) {
    return (unsigned) mode < ALLOCATION_MODE_COUNT ? mode_names[mode] : "unknown";
}

int allocation_mode_from_name(const char *name) {
    for (int i = 0; i < ALLOCATION_MODE_COUNT; i++)
        if (text_equal(mode_names[i], name))
            return i;
    return -EINVAL;
}

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

void allocation_set_mode(struct allocation *allocation, enum allocation_mode mode, uint64_t requested, uint64_t floor) {
    allocation->requested = requested;
    allocation->limit = requested;
    allocation->reservation = mode == ALLOCATION_FIXED ? requested : mode == ALLOCATION_HYBRID ? least(floor, requested) : 0;
}

struct share {
    uint64_t low, high; /* bounds of the grant */
    uint64_t score;     /* 1 to 2^32 - 1 */
};

static int refuse_range(struct error *error, const char *field, uint64_t minimum, uint64_t maximum, uint64_t value) {
    _cleanup_free_ char *low = text_format("%llu", (unsigned long long) minimum);
    _cleanup_free_ char *high = text_format("%llu", (unsigned long long) maximum);
    _cleanup_free_ char *given = text_format("%llu", (unsigned long long) value);

    return error_set(error, ERROR_OUT_OF_RANGE, field, low, high, given);
}

static int check(const struct allocation *item, struct error *error) {
    if (item->priority < 1 || item->priority > ALLOCATION_FACTOR_MOST)
        return refuse_range(error, "priority", 1, ALLOCATION_FACTOR_MOST, item->priority);
    if (item->weight < 1 || item->weight > ALLOCATION_FACTOR_MOST)
        return refuse_range(error, "weight", 1, ALLOCATION_FACTOR_MOST, item->weight);
    if (item->requested > ALLOCATION_MOST)
        return refuse_range(error, "request", 0, ALLOCATION_MOST, item->requested);
    if (item->limit > ALLOCATION_MOST)
        return refuse_range(error, "limit", 0, ALLOCATION_MOST, item->limit);
    if (item->reservation > item->limit) {
        _cleanup_free_ char *given = text_format("%llu", (unsigned long long) item->reservation);
        return error_set(error, ERROR_BAD_VALUE, "reservation", given, "it is above the limit");
    }
    return 0;
}

/* R x C x S of an item; at most 2^48 x 2^20 x 2^20. */
static unsigned __int128 demand_score(const struct allocation *item) {
    return (unsigned __int128) (item->requested ? item->requested : 1) * item->priority * item->weight;
}

/* Scores keep their proportions to one part in 2^32 of the greatest. */
static int prepare(const struct allocation *items, size_t count, struct share *shares, unsigned *ret_shift,
                   struct error *error) {
    unsigned __int128 greatest = 0;
    unsigned shift = 0;
    int r;

    for (size_t i = 0; i < count; i++) {
        unsigned __int128 score = demand_score(&items[i]);
        r = check(&items[i], error);
        if (r < 0)
            return r;
        if (score > greatest)
            greatest = score;
    }
    while (greatest >> shift >= (UINT64_C(1) << SCORE_BITS))
        shift++;
    for (size_t i = 0; i < count; i++) {
        uint64_t score = (uint64_t) (demand_score(&items[i]) >> shift);
        uint64_t wanted = least(items[i].requested, items[i].limit);
        shares[i] = (struct share){ .low = items[i].reservation,
                                    .high = wanted > items[i].reservation ? wanted : items[i].reservation,
                                    .score = score ? score : 1 };
    }
    *ret_shift = shift;
    return 0;
}

static uint64_t share_at(const struct share *share, unsigned __int128 level) {
    unsigned __int128 units = level * share->score >> SCORE_BITS;

    if (units < share->low)
        return share->low;
    return units > share->high ? share->high : (uint64_t) units;
}

static unsigned __int128 sum_at(const struct share *shares, size_t count, unsigned __int128 level) {
    unsigned __int128 sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += share_at(&shares[i], level);
    return sum;
}

/* The highest level whose sum is at most capacity; the sum at level 0 is. */
static unsigned __int128 level_find(const struct share *shares, size_t count, uint64_t capacity) {
    unsigned __int128 low = 0, high = (unsigned __int128) 1 << LEVEL_BITS;

    if (sum_at(shares, count, high) <= capacity)
        return high;
    while (high - low > 1) {
        unsigned __int128 middle = low + (high - low) / 2;
        if (sum_at(shares, count, middle) <= capacity)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int refuse_reservations(struct error *error, unsigned __int128 sum, uint64_t capacity) {
    _cleanup_free_ char *wanted = text_format("%llu", (unsigned long long) sum);
    _cleanup_free_ char *most = text_format("%llu", (unsigned long long) capacity);

    return error_set(error, ERROR_NO_ROOM, "capacity for the reservations", wanted, most);
}

int allocator_share(uint64_t capacity, struct allocation *items, size_t count, struct error *error) {
    _cleanup_free_ struct share *shares = calloc(count ? count : 1, sizeof(*shares));
    unsigned __int128 level, sum;
    unsigned shift;
    uint64_t left;
    int r;

    if (!shares)
        return error_errno(error, -ENOMEM, "sharing a resource");
    r = prepare(items, count, shares, &shift, error);
    if (r < 0)
        return r;
    sum = sum_at(shares, count, 0);
    if (sum > capacity)
        return refuse_reservations(error, sum, capacity);
    level = level_find(shares, count, capacity);
    left = capacity - (uint64_t) sum_at(shares, count, level);
    for (size_t i = 0; i < count; i++) {
        items[i].granted = share_at(&shares[i], level);
        if (left > 0 && share_at(&shares[i], level + 1) > items[i].granted) {
            items[i].granted++;
            left--;
        }
    }
    return 0;
}

/* --- weights ------------------------------------------------------------------------------------------------------- */

#define SCORE_UNIT ((unsigned __int128) ALLOCATION_FACTOR_ONE * ALLOCATION_FACTOR_ONE)
#define FINE_BITS 20
#define FINE_MOST (ALLOCATION_MOST >> FINE_BITS)
#define WEIGHT_SCORE (SCORE_UNIT * ALLOCATION_WEIGHT_UNIT / ALLOCATION_WEIGHT) /* the score of weight 1 */

static uint64_t rounded(unsigned __int128 value, unsigned __int128 divisor) {
    unsigned __int128 result = (value + divisor / 2) / divisor;

    return result > UINT64_MAX ? UINT64_MAX : (uint64_t) result;
}

uint64_t allocation_score(const struct allocation *item) {
    return rounded(demand_score(item), SCORE_UNIT);
}

uint64_t allocation_weight(const struct allocation *item) {
    uint64_t weight = rounded(demand_score(item), WEIGHT_SCORE);

    return weight ? weight : 1;
}

/* Its score, or the one that earns its grant at the level; a thousandth is rounding. */
static uint64_t lifted_weight(const struct allocation *fine, const struct share *share, unsigned __int128 level,
                              unsigned shift) {
    unsigned __int128 earned = level * share->score >> SCORE_BITS, wanted;
    uint64_t weight = rounded(demand_score(fine), WEIGHT_SCORE << FINE_BITS), lifted;

    if (weight == 0)
        weight = 1;
    if (level == 0 || fine->granted <= earned + earned / 1000 + 1)
        return weight;
    wanted = (((unsigned __int128) fine->granted << SCORE_BITS) + level - 1) / level;
    lifted = wanted >> (127 - shift) ? UINT64_MAX : rounded(wanted << shift, WEIGHT_SCORE << FINE_BITS);
    return lifted > weight ? lifted : weight;
}

static int make_fine(const struct allocation *items, size_t count, struct allocation *fine, struct error *error) {
    for (size_t i = 0; i < count; i++) {
        if (items[i].requested > FINE_MOST)
            return refuse_range(error, "request", 0, FINE_MOST, items[i].requested);
        if (items[i].limit > FINE_MOST)
            return refuse_range(error, "limit", 0, FINE_MOST, items[i].limit);
        fine[i] = items[i];
        fine[i].requested <<= FINE_BITS;
        fine[i].reservation <<= FINE_BITS;
        fine[i].limit <<= FINE_BITS;
    }
    return 0;
}

static int weigh_fine(uint64_t capacity, struct allocation *fine, size_t count, struct share *shares, struct error *error) {
    unsigned __int128 level;
    unsigned shift;
    int r = allocator_share(capacity, fine, count, error);

    if (r >= 0)
        r = prepare(fine, count, shares, &shift, error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        shares[i].low = fine[i].granted;
        shares[i].high = fine[i].limit > fine[i].granted ? fine[i].limit : fine[i].granted;
    }
    level = level_find(shares, count, capacity);
    for (size_t i = 0; i < count; i++) {
        fine[i].busy = share_at(&shares[i], level);
        fine[i].scheduler = lifted_weight(&fine[i], &shares[i], level, shift);
    }
    return 0;
}

/* Whole units are too coarse to tell a grant that a floor lifted from one that was rounded up: all of it is worked out in
 * small parts of them. */
int allocator_weigh(uint64_t capacity, struct allocation *items, size_t count, struct error *error) {
    _cleanup_free_ struct share *shares = calloc(count ? count : 1, sizeof(*shares));
    _cleanup_free_ struct allocation *fine = calloc(count ? count : 1, sizeof(*fine));
    int r = shares && fine ? allocator_share(capacity, items, count, error) : -ENOMEM;

    if (r == -ENOMEM)
        return error_errno(error, r, "sharing a resource");
    if (r >= 0)
        r = make_fine(items, count, fine, error);
    if (r >= 0)
        r = weigh_fine(least(capacity, FINE_MOST) << FINE_BITS, fine, count, shares, error);
    for (size_t i = 0; r >= 0 && i < count; i++) {
        items[i].busy = (fine[i].busy + (1 << (FINE_BITS - 1))) >> FINE_BITS;
        items[i].scheduler = fine[i].scheduler;
    }
    return r;
}
