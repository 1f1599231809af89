// SPDX-License-Identifier: GPL-2.0-or-later
/* The planner of what could be better: cases by hand, and its promises on random nodes. */
#include "test.h"

#include <string.h>

#include "engine/optimizer.h"

#define SECOND UINT64_C(1000000)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define NODES 4
#define INSTANCES 24
#define HOUR (3600 * SECOND)

struct setting {
    struct optimizer_parameters parameters;
    struct optimizer_node nodes[NODES];
    struct optimizer_instance instances[INSTANCES];
    size_t node_count, instance_count;
    struct optimizer_waiter waiter;
    bool waits;
    struct optimizer_plan plan;
    uint64_t now;
};

static void setting_init(struct setting *s) {
    memset(s, 0, sizeof(*s));
    optimizer_parameters_init(&s->parameters);
    s->nodes[0] = (struct optimizer_node){ .cpus = 16000, .memory = 64 * GIB, .free_cpus = 4000, .free_memory = 8 * GIB };
    s->node_count = 1;
    s->now = 10 * HOUR;
}

static void setting_done(struct setting *s) {
    optimizer_plan_done(&s->plan);
}
#define SETTING(name)                                                                                        \
    _cleanup_(setting_done) struct setting name;                                                             \
    setting_init(&name)

/* Measured for an hour: it used so much all the time. */
static struct optimizer_use use_of(const struct setting *s, uint64_t cpus, uint64_t memory) {
    return (struct optimizer_use){ .since = s->now - HOUR, .last = s->now, .window = s->now - HOUR,
                                   .cpu = { .now = (double) cpus, .mean = (double) cpus, .seen = 180 },
                                   .cpu_peak = { (double) cpus, 0 }, .memory = memory, .memory_peak = { memory, 0 } };
}

static struct optimizer_instance *add(struct setting *s, uint64_t cpus, uint64_t memory, uint64_t used, uint64_t in_use) {
    struct optimizer_instance *item = &s->instances[s->instance_count++];

    *item = (struct optimizer_instance){ .running = true, .ways = OPTIMIZER_MAY_RESIZE | OPTIMIZER_MAY_SUSPEND,
                                         .cpus = { cpus, 0, cpus, 100 }, .memory = { memory, 0, memory, 100 },
                                         .use = use_of(s, used, in_use) };
    return item;
}

static void make(struct setting *s) {
    const struct optimizer_input input = { .parameters = &s->parameters, .nodes = s->nodes, .node_count = s->node_count,
                                           .instances = s->instances, .instance_count = s->instance_count,
                                           .waiter = s->waits ? &s->waiter : NULL, .now = s->now };

    optimizer_plan_done(&s->plan);
    assert_int_equal(optimizer_plan_make(&input, &s->plan), 0);
}

/* Two seconds of processor time in four seconds: 500 thousandths; then one in two. */
static void test_measure(void **state) {
    struct optimizer_use use = { 0 };

    optimizer_observe(&use, 7 * SECOND, 50, SECOND, 100 * SECOND);
    assert_int_equal(use.cpu.seen, 0);
    assert_int_equal(use.memory_peak[0], 50);
    optimizer_observe(&use, 8 * SECOND, 40, 4 * SECOND, 102 * SECOND); /* too short for a rate */
    assert_int_equal(use.cpu.seen, 0);
    optimizer_observe(&use, 9 * SECOND, 40, 4 * SECOND, 104 * SECOND);
    assert_int_equal(use.cpu.seen, 1);
    assert_true(use.cpu.mean > 499 && use.cpu.mean < 501);
    assert_int_equal(use.memory, 40);
    assert_int_equal(use.memory_peak[0], 50);
    optimizer_observe(&use, 10 * SECOND, 40, SECOND, 104 * SECOND + OPTIMIZER_WINDOW); /* the window has turned */
    assert_int_equal(use.memory_peak[0], 40);
    assert_int_equal(use.memory_peak[1], 50);
    optimizer_observe(&use, 10 * SECOND, 30, SECOND, 104 * SECOND + 4 * OPTIMIZER_WINDOW);
    assert_int_equal(use.memory_peak[1], 0);
    optimizer_observe(&use, SECOND, 20, SECOND, 105 * SECOND + 4 * OPTIMIZER_WINDOW); /* another run */
    assert_int_equal(use.cpu.seen, 0);
    assert_int_equal(use.since, use.last);
}

/* 4 CPUs promised, 0.8 used: 0.8 x 1.25 = 1. 4 GiB promised, 1,000 MiB used: 1,250 MiB, in steps of 4 MiB
 * 1,252. */
static void test_shrink(void **state) {
    SETTING(s);
    add(&s, 4000, 4 * GIB, 800, 1000 * MIB);
    add(&s, 1000, GIB, 700, 700 * MIB); /* 0.875 of 1: not well below */
    make(&s);
    assert_int_equal(s.plan.count, 1);
    const struct optimizer_step *step = &s.plan.steps[0];
    assert_int_equal(step->instance, 0);
    assert_int_equal(step->action, OPTIMIZER_RESIZE);
    assert_int_equal(step->reason, OPTIMIZER_USES_LESS);
    assert_int_equal(step->cpus, 1000);
    assert_int_equal(step->memory, 1252 * MIB);
    assert_int_equal(step->cpus_gain, 3000);
    assert_int_equal(step->memory_gain, 4 * GIB - 1252 * MIB);
    assert_int_equal(s.plan.holds[1], OPTIMIZER_FITS);
    s.instances[0].cpus.floor = 2000; /* never below what is reserved */
    s.instances[0].cpus.ratio = 400;  /* and four of these are one of the node's */
    make(&s);
    assert_int_equal(s.plan.steps[0].cpus, 2000);
    assert_int_equal(s.plan.steps[0].cpus_gain, 500);
}

static void test_grow(void **state) {
    SETTING(s);
    struct optimizer_instance *item = add(&s, 1000, GIB, 1600, 500 * MIB);
    item->memory.promised = item->memory.most = 640 * MIB;
    make(&s); /* no limit above the promise */
    assert_int_equal(s.plan.count, 0);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_AT_LIMIT);
    item->cpus.most = 4000;
    make(&s);
    assert_int_equal(s.plan.count, 1);
    assert_int_equal(s.plan.steps[0].reason, OPTIMIZER_USES_MORE);
    assert_int_equal(s.plan.steps[0].cpus, 2000); /* 1.6 x 1.25 */
    assert_int_equal(s.plan.steps[0].cpus_gain, -1000);
    item->cpus.most = 1500; /* never above the limit */
    make(&s);
    assert_int_equal(s.plan.steps[0].cpus, 1500);
    s.nodes[0].free_cpus = 499;
    make(&s);
    assert_int_equal(s.plan.count, 0);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_NO_ROOM);
    add(&s, 2000, GIB, 100, 900 * MIB); /* what it gives back is enough */
    make(&s);
    assert_int_equal(s.plan.count, 2);
    s.waits = true; /* but now somebody waits for room */
    s.waiter = (struct optimizer_waiter){ .cpus = 100 };
    make(&s);
    assert_int_equal(s.plan.count, 1);
    assert_int_equal(s.plan.steps[0].instance, 1);
    assert_true(s.plan.waiter_fits);
}

static void test_suspend(void **state) {
    SETTING(s);
    add(&s, 1000, 4 * GIB, 10, 3500 * MIB); /* idle: at most 50 of 1,000; its memory is in use */
    add(&s, 1000, 4 * GIB, 10, 3400 * MIB); /* written faster */
    add(&s, 1000, 4 * GIB, 900, 3500 * MIB); /* busy */
    for (int i = 0; i < 3; i++)
        s.instances[i].cpus.floor = 1000;
    make(&s);
    assert_int_equal(s.plan.count, 0); /* nobody waits */
    s.waits = true;
    s.waiter = (struct optimizer_waiter){ .memory = 3 * GIB };
    make(&s);
    assert_int_equal(s.plan.count, 1);
    assert_int_equal(s.plan.steps[0].instance, 1);
    assert_int_equal(s.plan.steps[0].action, OPTIMIZER_SUSPEND);
    assert_int_equal(s.plan.steps[0].memory_gain, 4 * GIB);
    assert_int_equal(s.plan.steps[0].cost_bytes, 3400 * MIB);
    assert_true(s.plan.waiter_fits);
    s.instances[0].priority = -1; /* the less important goes first */
    make(&s);
    assert_int_equal(s.plan.steps[0].instance, 0);
    s.waiter.memory = 5 * GIB;
    make(&s);
    assert_int_equal(s.plan.count, 2);
    s.waiter.memory = 9 * GIB; /* all that idle are not enough: nobody goes in vain */
    make(&s);
    assert_int_equal(s.plan.count, 0);
    assert_false(s.plan.waiter_fits);
    s.waiter.memory = 3 * GIB;
    s.waiter.priority = -2; /* less important than everybody */
    make(&s);
    assert_int_equal(s.plan.count, 0);
    s.waiter.priority = 0;
    s.instances[0].ways = s.instances[1].ways = OPTIMIZER_MAY_RESIZE; /* containers */
    make(&s);
    assert_int_equal(s.plan.count, 0);
}

/* Resizing alone gives enough: nobody goes to disk. And who goes to disk is not resized as well. */
static void test_resize_before_suspend(void **state) {
    SETTING(s);
    add(&s, 1000, 4 * GIB, 10, GIB); /* resizes to 1.25 GiB: 2.75 GiB */
    s.instances[0].cpus.floor = 1000;
    s.waits = true;
    s.waiter = (struct optimizer_waiter){ .memory = 2 * GIB };
    make(&s);
    assert_int_equal(s.plan.count, 1);
    assert_int_equal(s.plan.steps[0].action, OPTIMIZER_RESIZE);
    assert_true(s.plan.waiter_fits);
    s.waiter.memory = 3 * GIB;
    make(&s);
    assert_int_equal(s.plan.count, 1);
    assert_int_equal(s.plan.steps[0].action, OPTIMIZER_SUSPEND);
    assert_int_equal(s.plan.steps[0].memory_gain, 4 * GIB);
}

static void test_who_is_kept(void **state) {
    SETTING(s);
    struct optimizer_instance *item = add(&s, 4000, 4 * GIB, 100, GIB);
    item->pinned = true;
    make(&s);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_PINNED);
    item->pinned = false;
    item->changed = s.now - 1799 * SECOND;
    make(&s);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_COOLS);
    item->changed = s.now - 1800 * SECOND;
    item->use.since = s.now - 599 * SECOND;
    make(&s);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_MEASURING);
    item->use.since = s.now - 600 * SECOND;
    item->ways = 0;
    make(&s);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_RESERVED);
    item->running = false;
    make(&s);
    assert_int_equal(s.plan.holds[0], OPTIMIZER_RESTS);
    item->running = true;
    item->ways = OPTIMIZER_MAY_RESIZE;
    make(&s);
    assert_int_equal(s.plan.count, 1);
}

/* Two nodes, each a quarter used: one is emptied, and its instance has no other step. */
static void test_moves(void **state) {
    SETTING(s);
    s.nodes[1] = s.nodes[0];
    s.node_count = 2;
    for (uint32_t i = 0; i < 2; i++) {
        struct optimizer_instance *item = add(&s, 4000, 4 * GIB, 3900, 4 * GIB);
        item->node = i;
        item->ways = OPTIMIZER_MAY_RESIZE | OPTIMIZER_MAY_MOVE;
    }
    make(&s);
    assert_int_equal(s.plan.count, 1);
    assert_int_equal(s.plan.steps[0].action, OPTIMIZER_MOVE);
    assert_int_equal(s.plan.steps[0].reason, OPTIMIZER_EMPTIES);
    assert_int_not_equal(s.plan.steps[0].to, s.instances[s.plan.steps[0].instance].node);
    s.nodes[0].closed = s.nodes[1].closed = true;
    make(&s);
    assert_int_equal(s.plan.count, 0);
}

static void test_parameters(void **state) {
    struct optimizer_parameters parameters;

    optimizer_parameters_init(&parameters);
    _cleanup_error_ struct error error = ERROR_INIT, swing = ERROR_INIT, share = ERROR_INIT;
    assert_int_equal(optimizer_parameters_check(&parameters, &error), 0);
    parameters.full = 0.8; /* 0.8 x 1.25 = 1 */
    assert_true(optimizer_parameters_check(&parameters, &swing) < 0);
    parameters.full = 0.95;
    parameters.shrink = 1;
    assert_true(optimizer_parameters_check(&parameters, &share) < 0);
}

/* --- random nodes --------------------------------------------------------------------------------------- */

static uint32_t below(uint64_t *seed, uint32_t limit) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (uint32_t) ((z ^ z >> 31) % limit);
}

/* What each would use if nothing held it; it uses that, up to its limits. */
struct need {
    uint64_t cpus, memory;
};

static void observe_all(struct setting *s, const struct need *needs) {
    for (size_t i = 0; i < s->instance_count; i++) {
        struct optimizer_instance *item = &s->instances[i];
        uint64_t cpus = needs[i].cpus < item->cpus.most ? needs[i].cpus : item->cpus.most;
        uint64_t memory = needs[i].memory < item->memory.most ? needs[i].memory : item->memory.most;
        item->use = use_of(s, cpus, memory);
    }
}

static void fill_random(struct setting *s, struct need *needs, uint64_t *seed) {
    s->instance_count = 1 + below(seed, INSTANCES);
    s->node_count = 1 + below(seed, NODES);
    s->parameters.cooldown = 0;
    for (size_t i = 0; i < s->node_count; i++)
        s->nodes[i] = (struct optimizer_node){ .cpus = 32000, .memory = 64 * GIB, .free_cpus = below(seed, 8000),
                                               .free_memory = below(seed, 16) * GIB, .closed = below(seed, 10) == 0 };
    for (size_t i = 0; i < s->instance_count; i++) {
        uint64_t cpus = 100 + below(seed, 8000), memory = (16 + below(seed, 8192)) * MIB;
        uint64_t floor = below(seed, 3) ? 0 : cpus / (1 + below(seed, 4));
        s->instances[i] = (struct optimizer_instance){
            .node = below(seed, (uint32_t) s->node_count), .priority = (int64_t) below(seed, 5) - 2,
            .running = below(seed, 8) != 0, .pinned = below(seed, 10) == 0, .ways = below(seed, 8),
            .cpus = { cpus, floor, below(seed, 2) ? cpus : cpus + below(seed, 8000), 100 + 100 * below(seed, 4) },
            .memory = { memory, 0, below(seed, 2) ? memory : memory + below(seed, 4096) * MIB, 100 },
        };
        needs[i] = (struct need){ below(seed, 4) ? below(seed, 12000) : 0, below(seed, 12288) * MIB };
    }
    s->waits = below(seed, 2);
    s->waiter = (struct optimizer_waiter){ .node = below(seed, (uint32_t) s->node_count), .priority = (int64_t) below(seed, 5) - 2,
                                           .cpus = below(seed, 8000), .memory = below(seed, 16) * GIB };
}

static void check_resize(const struct optimizer_step *step, const struct optimizer_instance *item) {
    assert_true(item->ways & OPTIMIZER_MAY_RESIZE);
    assert_true(step->cpus >= item->cpus.floor && step->cpus <= item->cpus.most);
    assert_true(step->memory >= item->memory.floor && step->memory <= item->memory.most);
    if (step->reason == OPTIMIZER_USES_LESS) {
        /* Never below what it was seen to use. */
        assert_true(step->cpus == item->cpus.promised || (double) step->cpus >= item->use.cpu_peak[0]);
        assert_true(step->memory == item->memory.promised || step->memory >= item->use.memory_peak[0]);
        assert_true(step->cpus <= item->cpus.promised && step->memory <= item->memory.promised);
    } else {
        assert_true(step->cpus >= item->cpus.promised && step->memory >= item->memory.promised);
    }
}

static uint64_t with(uint64_t amount, int64_t gain) {
    assert_true(gain >= 0 || (uint64_t) -gain <= amount);
    return amount + (uint64_t) gain;
}

/* Which resource of whom was promised more, which less. */
struct history {
    bool more[INSTANCES][2], less[INSTANCES][2];
};

static void remember(struct history *history, uint32_t who, int resource, uint64_t before, uint64_t after) {
    history->more[who][resource] |= after > before;
    history->less[who][resource] |= after < before;
}

/* Applies the plan as the daemon would, and checks what it promises. */
static void apply(struct setting *s, struct history *history) {
    bool stepped[INSTANCES] = { false };

    for (size_t i = 0; i < s->plan.count; i++) {
        const struct optimizer_step *step = &s->plan.steps[i];
        struct optimizer_instance *item = &s->instances[step->instance];
        struct optimizer_node *node = &s->nodes[item->node];
        assert_false(stepped[step->instance]);
        stepped[step->instance] = true;
        assert_true(item->running && !item->pinned);
        assert_int_equal(s->plan.holds[step->instance], OPTIMIZER_HAS_STEP);
        if (step->action == OPTIMIZER_MOVE) {
            assert_false(s->nodes[step->to].closed);
            item->node = step->to;
            item->changed = s->now;
            continue;
        }
        node->free_cpus = with(node->free_cpus, step->cpus_gain);
        node->free_memory = with(node->free_memory, step->memory_gain);
        if (step->action == OPTIMIZER_SUSPEND) {
            assert_true(s->waits && item->priority <= s->waiter.priority && s->plan.waiter_fits);
            item->running = false;
            continue;
        }
        check_resize(step, item);
        remember(history, step->instance, 0, item->cpus.promised, step->cpus);
        remember(history, step->instance, 1, item->memory.promised, step->memory);
        item->cpus.promised = step->cpus;
        item->memory.promised = step->memory;
    }
}

/* The one that waits starts when its room is there. */
static void admit(struct setting *s) {
    if (s->waits && s->plan.waiter_fits)
        s->waits = false;
}

/* While needs stay as they are, even without any cooldown: on one node the third plan is empty (one
 * resource of an instance may shrink before the other grows), on several they come to an end, and nobody
 * is resized to and fro. */
static void test_no_swinging(void **state) {
    uint64_t seed = 7, steps = 0, resized = 0, suspended = 0, moved = 0;

    for (unsigned round = 0; round < 4000; round++) {
        SETTING(s);
        struct need needs[INSTANCES];
        struct history history = { 0 };
        fill_random(&s, needs, &seed);
        for (unsigned turn = 0; turn < 12; turn++) {
            observe_all(&s, needs);
            make(&s);
            steps += s.plan.count;
            for (size_t i = 0; i < s.plan.count; i++) {
                resized += s.plan.steps[i].action == OPTIMIZER_RESIZE;
                suspended += s.plan.steps[i].action == OPTIMIZER_SUSPEND;
                moved += s.plan.steps[i].action == OPTIMIZER_MOVE;
            }
            if (turn > (s.node_count == 1 ? 2 : 8))
                assert_int_equal(s.plan.count, 0);
            apply(&s, &history);
            admit(&s);
            s.now += 300 * SECOND;
        }
        for (size_t i = 0; i < s.instance_count; i++)
            for (int resource = 0; resource < 2; resource++)
                assert_false(history.more[i][resource] && history.less[i][resource]);
    }
    assert_true(steps > 1000 && resized > 1000 && suspended > 50 && moved > 50); /* it was no empty promise */
}

/* The same plan for the same input, whatever was planned before. */
static void test_repeatable(void **state) {
    uint64_t seed = 11;

    for (unsigned round = 0; round < 500; round++) {
        SETTING(s);
        struct need needs[INSTANCES];
        fill_random(&s, needs, &seed);
        observe_all(&s, needs);
        make(&s);
        size_t count = s.plan.count;
        _cleanup_free_ struct optimizer_step *first = s.plan.steps;
        s.plan.steps = NULL;
        make(&s);
        assert_int_equal(s.plan.count, count);
        for (size_t i = 0; i < count; i++)
            assert_true(first[i].instance == s.plan.steps[i].instance && first[i].action == s.plan.steps[i].action &&
                        first[i].cpus == s.plan.steps[i].cpus && first[i].memory == s.plan.steps[i].memory);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measure),
        cmocka_unit_test(test_shrink),
        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_suspend),
        cmocka_unit_test(test_resize_before_suspend),
        cmocka_unit_test(test_who_is_kept),
        cmocka_unit_test(test_moves),
        cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_no_swinging),
        cmocka_unit_test(test_repeatable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
