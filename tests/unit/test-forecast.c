// SPDX-License-Identifier: GPL-2.0-or-later
/* When each that waits will start, against a second implementation that is as simple as can be: the order by comparing, and the
 * room of each second of a long strip of time. Random queues over random events; a failure names the seed. */
#include "test.h"

#include <string.h>

#include "engine/queue.h"

#define STRIP 1200 /* seconds from now on; the last one stands for all that come after it */
#define MOST 24
#define CPUS 8
#define MEMORY 16

enum place { GONE, WAITS, RUNS };

struct guest {
    enum place place;
    uint32_t handle;
    int64_t submitted, estimate, done, started, end, priority;
    uint64_t cpus, memory, held;
};

struct world {
    struct queue *queue;
    struct guest guests[MOST];
    const char *policy;
    bool in_order;
    int64_t now;
    uint64_t seed;
};

static uint64_t draw(struct world *world, uint64_t below) {
    world->seed = world->seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (world->seed >> 33) % below;
}

/* --- the second implementation --------------------------------------------------------------------------------------- */

struct strip {
    uint64_t cpus[STRIP], memory[STRIP]; /* taken */
};

static void take(struct strip *strip, int64_t from, int64_t until, uint64_t cpus, uint64_t memory) {
    for (int64_t t = from; t < STRIP && (t < until || until >= TIME_FOREVER); t++) {
        strip->cpus[t] += cpus;
        strip->memory[t] += memory;
    }
}

static bool fits(const struct strip *strip, const struct guest *guest, int64_t from, int64_t until) {
    uint64_t memory = guest->held ? 0 : guest->memory;

    for (int64_t t = from; t < STRIP && (t < until || until >= TIME_FOREVER); t++)
        if (strip->cpus[t] + guest->cpus > CPUS || strip->memory[t] + memory > MEMORY)
            return false;
    return true;
}

static bool goes_before(const struct world *world, size_t a, size_t b) {
    const struct guest *left = &world->guests[a], *right = &world->guests[b];
    int64_t first = 0, second = 0;

    if (!strcmp(world->policy, "fcfs"))
        first = left->submitted, second = right->submitted;
    else if (!strcmp(world->policy, "sjf"))
        first = left->estimate, second = right->estimate;
    else
        first = -left->priority, second = -right->priority;
    return first != second ? first < second : a < b;
}

/* Times from now on; FOREVER: not before somebody without end leaves. */
static size_t foresee(const struct world *world, size_t order[MOST], int64_t starts[MOST]) {
    struct strip strip = { 0 };
    size_t count = 0;
    int64_t earliest = 0;

    for (size_t i = 0; i < MOST; i++) {
        const struct guest *guest = &world->guests[i];
        if (guest->place == RUNS)
            take(&strip, 0, guest->end >= TIME_FOREVER ? TIME_FOREVER : guest->end > world->now ? guest->end - world->now : 1,
                 guest->cpus, guest->memory);
        if (guest->place != WAITS)
            continue;
        take(&strip, 0, TIME_FOREVER, 0, guest->held);
        size_t at = count++;
        for (; at > 0 && goes_before(world, i, order[at - 1]); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (size_t i = 0; i < count; i++) {
        const struct guest *guest = &world->guests[order[i]];
        int64_t left = guest->estimate >= TIME_FOREVER ? TIME_FOREVER : guest->estimate - guest->done, start = earliest;
        left = left < 1 ? 1 : left;
        while (start < STRIP && !fits(&strip, guest, start, left >= TIME_FOREVER ? TIME_FOREVER : start + left))
            start++;
        starts[i] = start < STRIP ? start : TIME_FOREVER;
        if (start < STRIP)
            take(&strip, start, left >= TIME_FOREVER ? TIME_FOREVER : start + left, guest->cpus, guest->held ? 0 : guest->memory);
        if (world->in_order)
            earliest = start;
    }
    return count;
}

/* --- random events ---------------------------------------------------------------------------------------------------- */

static void decided(void *userdata, uint32_t handle, enum queue_state state) {
    struct world *world = userdata;
    struct guest *guest = queue_entry(world->queue, handle)->userdata;

    assert_int_equal(state, QUEUE_RUNNING);
    guest->place = RUNS;
    guest->started = world->now;
    guest->held = 0;
    guest->end = TIME_FOREVER;
    if (guest->estimate < TIME_FOREVER)
        guest->end = world->now + (guest->estimate > guest->done ? guest->estimate - guest->done : 1);
}

static void arrive(struct world *world, size_t index) {
    struct guest *guest = &world->guests[index];
    struct queue_request request;

    *guest = (struct guest){ .place = WAITS, .submitted = world->now - (int64_t) draw(world, 5), .priority = (int64_t) draw(world, 3),
                             .cpus = 1 + draw(world, 6), .memory = 1 + draw(world, 10) };
    guest->estimate = draw(world, 12) ? 1 + (int64_t) draw(world, 40) : TIME_FOREVER;
    guest->done = draw(world, 3) ? 0 : (int64_t) draw(world, 10);
    request = (struct queue_request){ .id = index, .submitted = guest->submitted, .estimate = guest->estimate,
                                      .demand = { guest->cpus, guest->memory }, .priority = guest->priority,
                                      .done = guest->done, .userdata = guest };
    assert_int_equal(queue_submit(world->queue, &request, world->now, &guest->handle), 0);
}

static void event(struct world *world) {
    size_t index = draw(world, MOST);
    struct guest *guest = &world->guests[index];
    uint64_t what = draw(world, 8);

    if (guest->place == GONE) {
        arrive(world, index);
    } else if (what < 3) {
        assert_int_equal(queue_remove(world->queue, guest->handle, world->now), 0);
        guest->place = GONE;
    } else if (what == 3 && guest->place == RUNS) { /* it is paused for others, and keeps its memory */
        assert_int_equal(queue_yield(world->queue, guest->handle, QUEUE_YIELD_PAUSE, world->now), 0);
        guest->done += world->now - guest->started;
        guest->held = guest->memory;
        guest->place = WAITS;
    } else if (what == 4 && guest->place == RUNS && guest->estimate < TIME_FOREVER) {
        guest->estimate += 1 + (int64_t) draw(world, 20);
        guest->end = guest->started - guest->done + guest->estimate;
        assert_int_equal(queue_extend(world->queue, guest->handle, guest->estimate, world->now), 0);
    } else if (what == 5 && guest->place == WAITS) {
        guest->estimate = 1 + (int64_t) draw(world, 40);
        assert_int_equal(queue_expect(world->queue, guest->handle, guest->estimate, 0, world->now), 0);
    }
}

static size_t compare(struct world *world, uint64_t seed) {
    struct queue_forecast forecasts[MOST];
    size_t order[MOST], count;
    int64_t starts[MOST];

    assert_int_equal(queue_forecast(world->queue, world->now, forecasts, MOST), count = foresee(world, order, starts));
    for (size_t i = 0; i < count; i++) {
        int64_t start = starts[i] >= TIME_FOREVER ? TIME_FOREVER : world->now + starts[i];
        if (forecasts[i].handle != world->guests[order[i]].handle || forecasts[i].position != i + 1 ||
            (forecasts[i].start < TIME_FOREVER ? forecasts[i].start : TIME_FOREVER) != start)
            fail_msg("seed %llu, %s, second %lld, place %zu: %lld, and naively %lld", (unsigned long long) seed, world->policy,
                     (long long) world->now, i + 1, (long long) forecasts[i].start, (long long) start);
    }
    return count;
}

static void test_expected_starts(void **state _unused_) {
    static const char *const names[] = { "fcfs", "sjf", "priority" };
    size_t compared = 0;

    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct world world = { .policy = names[seed % ELEMENTS(names)], .seed = seed, .now = 100 };
        struct queue_options options = { .capacity = { CPUS, MEMORY }, .second = 1, .deferred = true,
                                         .backfill = (enum backfill) (seed / 3 % BACKFILL_COUNT) };
        world.in_order = options.backfill == BACKFILL_NONE;
        policy_parameters_init(&options.parameters);
        assert_int_equal(policy_find(world.policy, &options.policy, NULL), 0);
        assert_int_equal(queue_new(&options, &world.queue), 0);
        for (int i = 0; i < 120; i++) {
            event(&world);
            if (draw(&world, 2))
                assert_int_equal(queue_pass(world.queue, world.now, decided, &world), 0);
            compared += compare(&world, seed);
            world.now += (int64_t) draw(&world, 6);
        }
        queue_free(world.queue);
    }
    assert_true(compared > 100000);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_expected_starts) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
