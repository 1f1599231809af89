// SPDX-License-Identifier: GPL-2.0-or-later
/* Batches and the reserve for a failure on 10,000 nodes, against a naive second implementation that looks at all of them each
 * time: the largest demand first, each on the first node that takes it. */
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/placement.h"

#define NODES 10000
#define RACK_NODES 40
#define REQUESTS 15000
#define GIB (UINT64_C(1) << 30)
#define CPU UINT64_C(1000000)
#define LARGE 9990 /* alone holds what fits nowhere else */
#define SPARE 9995

struct simple {
    uint64_t cpus, memory; /* of a node: free; of a request: asked for */
    bool lone;             /* request: no two such in one rack */
    uint64_t share;
    size_t number;
};

struct world {
    struct nodes *nodes;
    struct placement placement;
    struct placement_request *requests;
    struct simple *wanted, *free;
    uint32_t *places;                  /* naively, of each request */
    struct placement_request **owners; /* of slots */
    bool racks[NODES / RACK_NODES];    /* that hold a lone one */
};

static uint32_t dice(uint64_t *seed, uint32_t limit) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t) (*seed >> 33) % limit;
}

static void make_nodes(struct world *world, uint64_t *seed) {
    static const uint64_t sizes[] = { 16, 32, 64 };

    assert_int_equal(nodes_new(&world->nodes), 0);
    for (uint32_t i = 0; i < NODES; i++) {
        char name[24], rack[24];
        snprintf(name, sizeof(name), "n%u", i);
        snprintf(rack, sizeof(rack), "r%u", i / RACK_NODES);
        uint64_t cpus = i == LARGE || i == SPARE ? 128 : sizes[dice(seed, 3)], gib = cpus * (2 + dice(seed, 4));
        const struct node_description description = { .name = name, .cpus = cpus * CPU, .memory = gib * GIB, .rack = rack };
        assert_int_equal(nodes_add(world->nodes, &description, NULL), 0);
        world->free[i] = (struct simple){ .cpus = cpus * CPU, .memory = gib * GIB };
    }
}

/* Equal shares are equal requests, so that their order does not matter. */
static void make_requests(struct world *world, uint64_t *seed) {
    for (size_t i = 0; i < REQUESTS; i++) {
        uint64_t cpus = 4 + dice(seed, 24), gib = cpus * 3;
        bool lone = i % 75 == 0;
        placement_request_init(&world->requests[i], "test");
        world->requests[i].shape.cpus = cpus * CPU;
        world->requests[i].shape.memory = gib * GIB;
        if (lone) {
            assert_int_equal(placement_join(world->nodes, &world->requests[i], "lone", NULL), 0);
            assert_int_equal(placement_constrain(world->nodes, &world->requests[i], CONSTRAINT_ANTI_AFFINITY, "lone", LEVEL_RACK, 0,
                                                 NULL),
                             0);
        }
        world->wanted[i] = (struct simple){ cpus * CPU, gib * GIB, lone, cpus, i };
    }
}

static int world_setup(void **state) {
    struct world *world = calloc(1, sizeof(*world));
    uint64_t seed = 10;

    assert_non_null(world);
    world->requests = calloc(REQUESTS + 1, sizeof(*world->requests));
    world->wanted = calloc(REQUESTS + 1, sizeof(*world->wanted));
    world->free = calloc(NODES, sizeof(*world->free));
    world->places = calloc(REQUESTS + 1, sizeof(*world->places));
    world->owners = calloc(REQUESTS + 2, sizeof(*world->owners));
    assert_true(world->requests && world->wanted && world->free && world->places && world->owners);
    make_nodes(world, &seed);
    make_requests(world, &seed);
    const struct placement_options options = { .score = score_find("first") };
    placement_init(&world->placement, world->nodes, &options);
    *state = world;
    return 0;
}

static int world_teardown(void **state) {
    struct world *world = *state;

    placement_done(&world->placement);
    nodes_free(world->nodes);
    free(world->requests);
    free(world->wanted);
    free(world->free);
    free(world->places);
    free(world->owners);
    free(world);
    return 0;
}

static int compare(const void *a, const void *b) {
    const struct simple *first = a, *second = b;

    if (first->share != second->share)
        return first->share > second->share ? -1 : 1;
    return first->number < second->number ? -1 : first->number > second->number;
}

static uint32_t naive_place(struct world *world, const struct simple *wanted) {
    for (uint32_t i = 0; i < NODES; i++)
        if (world->free[i].cpus >= wanted->cpus && world->free[i].memory >= wanted->memory &&
            !(wanted->lone && world->racks[i / RACK_NODES])) {
            world->free[i].cpus -= wanted->cpus;
            world->free[i].memory -= wanted->memory;
            if (wanted->lone)
                world->racks[i / RACK_NODES] = true;
            return i;
        }
    return NODE_NONE;
}

static void naive_take_back(struct world *world, const struct simple *wanted, uint32_t node) {
    world->free[node].cpus += wanted->cpus;
    world->free[node].memory += wanted->memory;
    if (wanted->lone)
        world->racks[node / RACK_NODES] = false;
}

/* Would all that lies on the nodes [first, first + count) find a place elsewhere? Changes nothing. */
static bool naive_survives(struct world *world, uint32_t first, uint32_t count) {
    struct simple *kept = calloc(count, sizeof(*kept)), *moved = calloc(REQUESTS + 1, sizeof(*moved));
    uint32_t *homes = calloc(REQUESTS + 1, sizeof(*homes)), *found = calloc(REQUESTS + 1, sizeof(*found));
    size_t moving = 0, placed = 0;
    bool fits = true;

    assert_true(kept && moved && homes && found);
    for (size_t i = 0; i <= REQUESTS; i++)
        if (world->places[i] >= first && world->places[i] < first + count) {
            homes[i] = world->places[i];
            naive_take_back(world, &world->wanted[i], homes[i]);
            moved[moving++] = world->wanted[i];
        }
    memcpy(kept, &world->free[first], count * sizeof(*kept));
    for (uint32_t i = 0; i < count; i++)
        world->free[first + i] = (struct simple){ 0 };
    qsort(moved, moving, sizeof(*moved), compare);
    for (; placed < moving && fits; placed += fits) {
        found[placed] = naive_place(world, &moved[placed]);
        fits = found[placed] != NODE_NONE;
    }
    while (placed-- > 0)
        naive_take_back(world, &moved[placed], found[placed]);
    memcpy(&world->free[first], kept, count * sizeof(*kept));
    for (size_t i = 0; i < moving; i++) {
        const struct simple *one = &moved[i];
        uint32_t home = homes[one->number];
        world->free[home].cpus -= one->cpus;
        world->free[home].memory -= one->memory;
        if (one->lone)
            world->racks[home / RACK_NODES] = true;
    }
    free(kept);
    free(moved);
    free(homes);
    free(found);
    return fits;
}

static void expect_free(const struct world *world) {
    for (uint32_t i = 0; i < NODES; i++) {
        assert_true(nodes_get(world->nodes, i)->free_cpus == world->free[i].cpus);
        assert_true(nodes_get(world->nodes, i)->free_memory == world->free[i].memory);
    }
}

/* One too many in the batch leaves all as it was; without it each lies where the naive one puts it. */
static void test_batch(void **state) {
    struct world *world = *state;
    _cleanup_free_ struct placement_decision *decisions = calloc(REQUESTS + 1, sizeof(*decisions));
    _cleanup_free_ uint32_t *slots = calloc(REQUESTS + 1, sizeof(*slots));
    _cleanup_free_ struct simple *ordered = calloc(REQUESTS, sizeof(*ordered));
    struct placement_request *extra = &world->requests[REQUESTS];
    size_t placed = 7;

    assert_true(decisions && slots && ordered);
    placement_request_init(extra, "test");
    extra->shape.cpus = 129 * CPU;
    extra->shape.memory = GIB;
    assert_int_equal(
        placement_batch(&world->placement, world->requests, REQUESTS + 1, 0, true, decisions, slots, &placed), 0);
    assert_int_equal(placed, 0);
    expect_free(world);
    assert_int_equal(placement_batch(&world->placement, world->requests, REQUESTS, 0, true, decisions, slots, &placed), 0);
    assert_int_equal(placed, REQUESTS);
    memcpy(ordered, world->wanted, REQUESTS * sizeof(*ordered));
    qsort(ordered, REQUESTS, sizeof(*ordered), compare);
    for (size_t i = 0; i < REQUESTS; i++)
        world->places[ordered[i].number] = naive_place(world, &ordered[i]);
    for (size_t i = 0; i < REQUESTS; i++) {
        assert_int_equal(decisions[i].node, world->places[i]);
        assert_int_equal(nodes_holder(world->nodes, slots[i]), world->places[i]);
        world->owners[slots[i]] = &world->requests[i];
    }
    world->places[REQUESTS] = NODE_NONE;
    expect_free(world);
}

static int owner_of(void *userdata, uint32_t slot, struct placement_request *ret) {
    const struct world *world = userdata;

    assert_true(slot <= REQUESTS && world->owners[slot]);
    *ret = *world->owners[slot];
    return 0;
}

static uint32_t first_to_break(struct world *world) {
    for (uint32_t i = 0; i < NODES; i++)
        if (nodes_get(world->nodes, i)->instances && !naive_survives(world, i, 1))
            return i;
    return NODE_NONE;
}

/* N+1: nobody's failure breaks anything, until one node holds what only a second of its size could take. */
static void test_reserve(void **state) {
    struct world *world = *state;
    struct placement_request *extra = &world->requests[REQUESTS];
    uint32_t broken = 0, slot;
    bool survives;

    assert_int_equal(placement_reserve(&world->placement, LEVEL_NODE, owner_of, world, &broken), 0);
    assert_int_equal(broken, first_to_break(world));
    assert_int_equal(broken, NODE_NONE);
    for (uint32_t rack = 0; rack < NODES / RACK_NODES; rack += 31) {
        assert_int_equal(
            placement_survives(&world->placement, LEVEL_RACK, rack * RACK_NODES, owner_of, world, &survives), 0);
        assert_true(survives == naive_survives(world, rack * RACK_NODES, RACK_NODES));
    }
    extra->shape.cpus = 100 * CPU;
    assert_int_equal(placement_take(&world->placement, extra, LARGE, &slot), 0);
    world->owners[slot] = extra;
    world->wanted[REQUESTS] = (struct simple){ 100 * CPU, GIB, false, 100, REQUESTS };
    world->places[REQUESTS] = LARGE;
    world->free[LARGE].cpus -= 100 * CPU;
    world->free[LARGE].memory -= GIB;
    assert_int_equal(placement_reserve(&world->placement, LEVEL_NODE, owner_of, world, &broken), 0);
    assert_int_equal(broken, first_to_break(world));
    assert_int_equal(broken, NODE_NONE); /* the spare one takes it */
    nodes_close(world->nodes, SPARE, true);
    world->free[SPARE] = (struct simple){ 0 };
    assert_int_equal(placement_reserve(&world->placement, LEVEL_NODE, owner_of, world, &broken), 0);
    assert_int_equal(broken, first_to_break(world));
    assert_int_equal(broken, LARGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_reserve), /* of what the batch left */
    };

    return cmocka_run_group_tests(tests, world_setup, world_teardown);
}
