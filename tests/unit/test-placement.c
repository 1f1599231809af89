// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/placement-ledger.h"
#include "engine/placement.h"
#include "shrink.h"

#define GIB (UINT64_C(1) << 30)
#define CPU UINT64_C(1000000)

static void add_node(struct nodes *nodes, const char *name, uint64_t cpus, uint64_t gib, unsigned gpus,
                     const char *rack, char *const *traits, char *const *taints) {
    const struct node_description description = { .name = name,
                                                  .cpus = cpus * CPU,
                                                  .memory = gib * GIB,
                                                  .gpus = gpus,
                                                  .gpu_model = "T4",
                                                  .rack = rack,
                                                  .traits = traits,
                                                  .taints = taints };

    assert_int_equal(nodes_add(nodes, &description, NULL), 0);
}

static struct nodes *make_nodes(void) {
    struct nodes *nodes = NULL;

    assert_int_equal(nodes_new(&nodes), 0);
    return nodes;
}

static struct placement_request request_of(uint64_t cpus, uint64_t gib, unsigned gpus, unsigned milli) {
    struct placement_request request;

    placement_request_init(&request, "test");
    request.shape.cpus = cpus * CPU;
    request.shape.memory = gib * GIB;
    request.shape.gpus = gpus;
    request.shape.gpu_milli = milli;
    return request;
}

static uint32_t place(struct placement *placement, const struct placement_request *request) {
    struct placement_decision decision;
    uint32_t slot;

    assert_int_equal(placement_place(placement, request, 0, true, &decision, &slot), 0);
    return decision.node;
}

static int32_t value(const char *name, struct nodes *nodes, const struct fragments *fragments, uint32_t node,
                     const struct placement_request *request, uint16_t *ret_gpus) {
    struct score_input input = { .nodes = nodes, .resolution = 100, .fragments = fragments };
    struct scarcity scarcity = { 0 };
    struct node_share share;

    scarcity_learn(&scarcity, fragments);
    scarcity_update(&scarcity, nodes);
    input.scarcity = &scarcity;

    nodes_scale(nodes, &input.scale);
    share_init(nodes, nodes_get(nodes, node), &request->shape, &share);
    int32_t score = score_find(name)->value(&input, nodes_get(nodes, node), &request->shape, &share);
    if (ret_gpus)
        *ret_gpus = share.gpus;
    return score;
}

/* Two nodes: 8 CPUs and 2 GPUs; 4 CPUs and 2 GPUs, of which 1.5 are free. Asked: 2 CPUs and half a GPU. */
static void test_scores_by_hand(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct fragments fragments = { 0 };
    uint32_t slot;
    uint16_t gpus;

    add_node(nodes, "big", 8, 16, 2, NULL, NULL, NULL);
    add_node(nodes, "small", 4, 16, 2, NULL, NULL, NULL);
    const struct node_share half = { .gpus = 2, .gpu_milli = 500, .group = -1 };
    assert_int_equal(nodes_take(nodes, 1, &half, &slot), 0);
    struct placement_request request = request_of(2, 1, 1, 500);
    /* 100 (1 - (6/8 + 1500/2000) / 2) = 25; 100 (1 - (2/8 + 1000/2000) / 2) = 62.5 */
    assert_int_equal(value("best", nodes, &fragments, 0, &request, NULL), 25);
    assert_int_equal(value("best", nodes, &fragments, 1, &request, &gpus), 62);
    assert_int_equal(gpus, 2); /* the one in use is the tightest */
    assert_int_equal(value("worst", nodes, &fragments, 0, &request, NULL), 75);
    assert_int_equal(value("worst", nodes, &fragments, 1, &request, NULL), 37);
    /* 100 (1 - (1 x 1/4 + 1 x 1/4) / 2) = 75; 100 (1 - (1/2 x 1/4 + 3/4 x 1/4) / 2) = 84.375 */
    assert_int_equal(value("dot", nodes, &fragments, 0, &request, NULL), 75);
    assert_int_equal(value("dot", nodes, &fragments, 1, &request, NULL), 84);
    /* Idle node 25 + 0; the same kind of use 75 + floor(25 x 500/2000). */
    assert_int_equal(value("gpu-clustering", nodes, &fragments, 0, &request, NULL), 25);
    assert_int_equal(value("gpu-clustering", nodes, &fragments, 1, &request, NULL), 81);
    /* All idle: 33 - 2; a GPU in use with 50 % left: 100 - 5. */
    assert_int_equal(value("gpu-packing", nodes, &fragments, 0, &request, NULL), 31);
    assert_int_equal(value("gpu-packing", nodes, &fragments, 1, &request, NULL), 95);
    assert_true(value("pack", nodes, &fragments, 1, &request, NULL) >
                value("pack", nodes, &fragments, 0, &request, NULL));
    assert_true(value("spread", nodes, &fragments, 0, &request, NULL) >
                value("spread", nodes, &fragments, 1, &request, NULL));
}

/* The usual request is one whole GPU with 4 CPUs. */
static void test_fragments_by_hand(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct fragments fragments = { 0 };
    struct fragment_state idle;

    add_node(nodes, "one", 8, 16, 2, NULL, NULL, NULL);
    struct placement_request usual = request_of(4, 1, 1, 1000), part = request_of(1, 1, 1, 300),
                             greedy = request_of(5, 1, 1, 300);
    assert_int_equal(fragments_add(&fragments, &usual.shape), 0);
    fragments_keep(&fragments, 95);
    fragment_state_of(nodes_get(nodes, 0), &idle);
    assert_int_equal(fragments_amount(&fragments, &idle), 0);
    /* 700 of one GPU become useless: 100 sigmoid(-0.7) = 33.18; with 3 CPUs left all 1700: 100 sigmoid(-1.7)
     * = 15.4. */
    assert_int_equal(value("fgd", nodes, &fragments, 0, &part, NULL), 33);
    assert_int_equal(value("fgd", nodes, &fragments, 0, &greedy, NULL), 15);
    assert_int_equal(value("fgd", nodes, &fragments, 0, &usual, NULL), 50);
    fragments_done(&fragments);
}

/* Usual: one GPU with 4 CPUs and 8 GiB. What 6 CPUs serve of 2 GPUs, were 60, 80 or 100 % of that needed:
 * 2, 1.875 and 1.5, so that 0.208 is stranded on average. */
static void test_balance_by_hand(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct fragments fragments = { 0 };
    struct scarcity scarcity = { 0 };

    add_node(nodes, "even", 8, 64, 2, NULL, NULL, NULL);
    add_node(nodes, "starved", 6, 64, 2, NULL, NULL, NULL);
    add_node(nodes, "plain", 6, 64, 0, NULL, NULL, NULL);
    struct placement_request usual = request_of(4, 8, 1, 1000), lean = request_of(1, 1, 1, 1000),
                             plain = request_of(4, 1, 0, 0);
    assert_int_equal(fragments_add(&fragments, &usual.shape), 0);
    scarcity_learn(&scarcity, &fragments);
    struct score_input input = {
        .nodes = nodes, .resolution = 100, .fragments = &fragments, .scarcity = &scarcity
    };
    nodes_scale(nodes, &input.scale);
    const struct {
        const struct placement_request *request;
        uint32_t node;
        int32_t expected; /* 16,000, and 3 less per GPU lost */
    } cases[] = {
        { &usual, 0, 16000 }, /* leaves 1 GPU with 4 CPUs */
        { &usual, 1, 16000 }, /* leaves 1 with 2: 0.347, 0.139 more: 15999.58 is rounded */
        { &lean, 0, 16000 },
        { &lean, 1, 16001 },  /* leaves 1 with 5: the 0.208 that were stranded can be used: 16000.62 */
        { &plain, 0, 15998 }, /* leaves 2 with 4 CPUs: 0.694: 15997.92 */
        { &plain, 1, 15997 }, /* leaves 2 with 2 CPUs: 1.347, 1.139 more: 15996.58 */
        { &plain, 2, 16000 }, /* CPUs without GPUs are for those who want none */
    };
    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        struct node_share share;
        const struct node *node = nodes_get(nodes, cases[i].node);
        share_init(nodes, node, &cases[i].request->shape, &share);
        assert_int_equal(score_find("polder")->value(&input, node, &cases[i].request->shape, &share),
                         cases[i].expected);
    }
    fragments_done(&fragments);
}

static void add_gpus(struct nodes *nodes, const char *name, unsigned gpus, const char *model) {
    const struct node_description description = {
        .name = name, .cpus = 64 * CPU, .memory = 64 * GIB, .gpus = gpus, .gpu_model = model
    };

    assert_int_equal(nodes_add(nodes, &description, NULL), 0);
}

/* 2 GPUs of "rare", 6 of "common". Half of what is asked for needs "rare": its pressure is 1/2, that on all
 * is 2/8: more than 1 to 1, so its price is 1. Of 16 asked for one alone: (1/2) / (16/8) = 1/4, squared 1/16.
 */
static void test_scarcity_by_hand(void **state) {
    struct fragments fragments = { 0 };
    struct scarcity scarcity = { 0 };
    struct placement placement;
    struct nodes *nodes = NULL;

    assert_int_equal(nodes_new(&nodes), 0);
    add_gpus(nodes, "r", 2, "rare");
    add_gpus(nodes, "c", 6, "common");
    struct placement_request any = request_of(1, 1, 1, 1000), rare = any;
    assert_int_equal(placement_want_model(nodes, &rare, "rare", NULL), 0);
    assert_int_equal(fragments_add(&fragments, &rare.shape), 0);
    assert_int_equal(fragments_add(&fragments, &any.shape), 0);
    scarcity_learn(&scarcity, &fragments);
    uint64_t version = scarcity.version;
    scarcity_update(&scarcity, nodes);
    assert_int_equal(scarcity.price[nodes_get(nodes, 0)->gpu_model], SCARCITY_WHOLE);
    assert_int_equal(scarcity.price[nodes_get(nodes, 1)->gpu_model], 0);
    assert_true(scarcity.version > version);
    version = scarcity.version;
    scarcity_update(&scarcity, nodes);
    assert_int_equal(scarcity.version, version);
    /* Who may use any goes where nobody must, although "r" ranks first; who needs it gets it. */
    const struct placement_options options = { .score = score_find("polder"), .fragments = &fragments };
    placement_init(&placement, nodes, &options);
    for (int i = 0; i < 6; i++)
        assert_int_equal(place(&placement, &any), 1);
    assert_int_equal(place(&placement, &rare), 0);
    assert_int_equal(place(&placement, &any), 0);
    placement_done(&placement);
    for (int i = 0; i < 14; i++)
        assert_int_equal(fragments_add(&fragments, &any.shape), 0);
    nodes_free(nodes);
    assert_int_equal(nodes_new(&nodes), 0);
    add_gpus(nodes, "r", 2, "rare");
    add_gpus(nodes, "c", 6, "common");
    assert_int_equal(placement_want_model(nodes, &rare, "rare", NULL), 0);
    scarcity_learn(&scarcity, &fragments);
    scarcity_update(&scarcity, nodes);
    assert_int_equal(scarcity.price[nodes_get(nodes, 0)->gpu_model], SCARCITY_WHOLE / 16);
    fragments_done(&fragments);
    nodes_free(nodes);
}

/* Equal nodes, one needed until 100, one until 1000: what ends at 90 fills the first of equals, what ends at
 * 900 goes to the second, whose time it does not lengthen. Without an expected end the rank decides. */
static void test_ends_align(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct placement_request request = request_of(2, 2, 0, 0);
    struct placement_decision decision;
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slots[2], slot;

    add_node(nodes, "soon", 8, 16, 0, NULL, NULL, NULL);
    add_node(nodes, "late", 8, 16, 0, NULL, NULL, NULL);
    const struct placement_options options = { .score = score_find("polder") };
    placement_init(&placement, nodes, &options);
    request.until = 100;
    assert_int_equal(placement_take(&placement, &request, 0, &slots[0]), 0);
    request.until = 1000;
    assert_int_equal(placement_take(&placement, &request, 1, &slots[1]), 0);
    const struct {
        uint64_t until;
        uint32_t expected;
    } cases[] = { { 90, 0 }, { 900, 1 }, { 5000, 1 }, { 0, 0 } };
    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        request.until = cases[i].until;
        assert_int_equal(placement_decide(&placement, &request, 10, true, &decision), 0);
        assert_int_equal(decision.node, cases[i].expected);
        assert_int_equal(decision.candidate_count, 2);
    }
    /* Another end is expected of what runs on "late". */
    nodes_expect(nodes, slots[1], 50);
    assert_int_equal(nodes_get(nodes, 1)->busy_until, 50);
    request.until = 95;
    assert_int_equal(placement_place(&placement, &request, 10, false, &decision, &slot), 0);
    assert_int_equal(decision.node, 0);
}

/* Of four requests three are of 2 CPUs and 4 GiB, one of 4 CPUs and 2 GiB. Of 8 CPUs and 16 GiB four of the
 * first use everything, two of the second leave 12 GiB: 3/4 of the memory, a quarter of the time. On average
 * they ask for 5/16 of the CPUs and 7/32 of the memory, which therefore counts 7/17: 0.75 x 0.25 x 0.412 =
 * 0.077. */
static void test_mixture_by_hand(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct mixture mixture = { 0 };
    struct placement_request slim = request_of(2, 4, 0, 0), wide = request_of(4, 2, 0, 0);

    add_node(nodes, "n", 8, 16, 0, NULL, NULL, NULL);
    const struct node *node = nodes_get(nodes, 0);
    for (int i = 0; i < 63; i++)
        mixture_add(&mixture, i % 4 ? &slim.shape : &wide.shape);
    assert_int_equal(mixture_unused(&mixture, node, 8 * CPU, 16 * GIB), 0); /* nothing is known yet */
    mixture_add(&mixture, &slim.shape);
    assert_int_equal(mixture.version, 1);
    assert_int_equal(mixture.usual_count, 2);
    assert_int_equal(mixture.usual[0].count, 768);
    assert_in_range(mixture_unused(&mixture, node, 8 * CPU, 16 * GIB), 76800, 77500);
    /* The wide ones have ended: what remains uses all when the usual ones are chosen again. */
    for (int i = 0; i < 16; i++)
        mixture_remove(&mixture, &wide.shape);
    for (int i = 0; i < 64; i++)
        mixture_add(&mixture, &slim.shape);
    assert_int_equal(mixture.version, 2);
    assert_int_equal(mixture.usual[1].count, 0);
    assert_int_equal(mixture_unused(&mixture, node, 8 * CPU, 16 * GIB), 0);
    /* The score prefers the node on which less becomes useless, though the other gets as full. */
    add_node(nodes, "uneven", 8, 16, 0, NULL, NULL, NULL);
    const struct node_share held = { .cpus = 2 * CPU, .memory = 4 * GIB, .group = -1 },
                            odd = { .cpus = 3 * CPU, .memory = 2 * GIB, .group = -1 };
    uint32_t slot;
    assert_int_equal(nodes_take(nodes, 0, &odd, &slot), 0);
    assert_int_equal(nodes_take(nodes, 1, &held, &slot), 0);
    const struct placement_options options = { .score = score_find("polder"), .mixture = &mixture };
    _cleanup_placement_ struct placement placement = { 0 };
    placement_init(&placement, nodes, &options);
    assert_int_equal(place(&placement, &slim), 1);
}

static void test_static_filters(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    char *fast[] = { (char *) "avx2", NULL }, *keep[] = { (char *) "db-only", NULL };
    struct placement_decision decision;
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slot;

    add_node(nodes, "closed", 8, 16, 1, NULL, fast, NULL);
    add_node(nodes, "tainted", 8, 16, 1, NULL, fast, keep);
    add_node(nodes, "slow", 8, 16, 1, NULL, NULL, NULL);
    add_node(nodes, "no-gpu", 8, 16, 0, NULL, fast, NULL);
    add_node(nodes, "few", 1, 16, 1, NULL, fast, NULL);
    add_node(nodes, "tight", 8, 1, 1, NULL, fast, NULL);
    add_node(nodes, "right", 8, 16, 1, NULL, fast, NULL);
    nodes_close(nodes, 0, true);
    placement_init(&placement, nodes, NULL);
    struct placement_request request = request_of(2, 2, 1, 1000);
    assert_int_equal(placement_require(nodes, &request, "avx2", NULL), 0);
    assert_int_equal(placement_place(&placement, &request, 0, true, &decision, &slot), 0);
    assert_string_equal(nodes_name(nodes, decision.node), "right");
    assert_int_equal(decision.candidate_count, 1);
    const enum filter once[] = { FILTER_CLOSED, FILTER_TAINT, FILTER_TRAIT,
                                 FILTER_GPU,    FILTER_CPU,   FILTER_MEMORY };
    for (size_t i = 0; i < ELEMENTS(once); i++)
        assert_int_equal(decision.refused[once[i]], 1);
    assert_int_equal(place(&placement, &request), NODE_NONE); /* its GPU is taken */
    nodes_give(nodes, slot);
    assert_int_equal(place(&placement, &request), 6);
    assert_int_equal(placement_tolerate(nodes, &request, "db-only", NULL), 0);
    assert_int_equal(place(&placement, &request), 1);
}

/* V = P x C: twelve containers of 1 CPU on 4 CPUs at 300 %, and then nothing more. */
static void test_overcommit_per_kind(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    uint32_t ratios[KIND_COUNT];
    _cleanup_placement_ struct placement placement = { 0 };

    for (int kind = 0; kind < KIND_COUNT; kind++)
        ratios[kind] = kind == KIND_CONTAINER ? 300 : 100;
    const struct node_description description = { .name = "n", .cpus = 4 * CPU, .memory = 64 * GIB,
                                                  .overcommit_cpu = ratios };
    assert_int_equal(nodes_add(nodes, &description, NULL), 0);
    placement_init(&placement, nodes, NULL);
    struct placement_request container = request_of(1, 1, 0, 0), vm = request_of(1, 1, 0, 0);
    vm.shape.kind = KIND_VM;
    for (int i = 0; i < 12; i++)
        assert_int_equal(place(&placement, &container), 0);
    assert_int_equal(place(&placement, &container), NODE_NONE);
    assert_int_equal(place(&placement, &vm), NODE_NONE);
}

static void test_constraints(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct placement_request web = request_of(1, 1, 0, 0), cache = request_of(1, 1, 0, 0),
                             lone = request_of(1, 1, 0, 0);
    _cleanup_placement_ struct placement placement = { 0 };

    add_node(nodes, "a1", 8, 16, 0, "a", NULL, NULL);
    add_node(nodes, "a2", 8, 16, 0, "a", NULL, NULL);
    add_node(nodes, "b1", 8, 16, 0, "b", NULL, NULL);
    const struct placement_options options = { .score = score_find("first") };
    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_join(nodes, &web, "web", NULL), 0);
    assert_int_equal(placement_constrain(nodes, &web, CONSTRAINT_SPREAD, "web", LEVEL_RACK, 1, NULL), 0);
    assert_int_equal(place(&placement, &web), 0);
    assert_int_equal(place(&placement, &web), 2); /* rack a has one more than b */
    assert_int_equal(place(&placement, &web), 0);
    assert_int_equal(placement_constrain(nodes, &cache, CONSTRAINT_AFFINITY, "web", LEVEL_RACK, 0, NULL), 0);
    assert_int_equal(placement_constrain(nodes, &cache, CONSTRAINT_ANTI_AFFINITY, "web", LEVEL_NODE, 0, NULL),
                     0);
    assert_int_equal(place(&placement, &cache), 1); /* near web, but not beside it */
    assert_int_equal(placement_join(nodes, &lone, "lone", NULL), 0);
    assert_int_equal(placement_constrain(nodes, &lone, CONSTRAINT_ANTI_AFFINITY, "lone", LEVEL_NODE, 0, NULL),
                     0);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(place(&placement, &lone), i);
    assert_int_equal(place(&placement, &lone), NODE_NONE);
}

static void expect_refused(const struct placement *placement, const struct placement_request *request,
                           enum error_code code, const char *part) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_true(placement_check(placement, request, &error) < 0);
    assert_int_equal(error.code, code);
    _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_non_null(strstr(sentence, part));
}

static void test_impossible_and_contradictory(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct placement_request request = request_of(9, 1, 0, 0);
    _cleanup_placement_ struct placement placement = { 0 };

    add_node(nodes, "n", 8, 16, 1, NULL, NULL, NULL);
    placement_init(&placement, nodes, NULL);
    expect_refused(&placement, &request, ERROR_IMPOSSIBLE, "more than 8");
    request = request_of(1, 17, 0, 0);
    expect_refused(&placement, &request, ERROR_IMPOSSIBLE, "16GiB");
    request = request_of(1, 1, 2, 1000);
    expect_refused(&placement, &request, ERROR_IMPOSSIBLE, "GPUs");
    request = request_of(1, 1, 0, 0);
    assert_int_equal(placement_require(nodes, &request, "sgx", NULL), 0);
    expect_refused(&placement, &request, ERROR_NOT_FOUND, "sgx");
    assert_int_equal(placement_refuse(nodes, &request, "sgx", NULL), 0);
    expect_refused(&placement, &request, ERROR_BAD_REQUEST, "'sgx' is both");
    request = request_of(1, 1, 0, 0);
    assert_int_equal(placement_constrain(nodes, &request, CONSTRAINT_AFFINITY, "db", LEVEL_NODE, 0, NULL), 0);
    assert_int_equal(placement_check(&placement, &request, NULL), 0);
    assert_int_equal(
        placement_constrain(nodes, &request, CONSTRAINT_ANTI_AFFINITY, "db", LEVEL_ZONE, 0, NULL), 0);
    expect_refused(&placement, &request, ERROR_BAD_REQUEST, "one node with 'db'");
}

/* Nodes of 8 CPUs. In order of the list 3, 3, 5, 5 leave the last without a place; the largest first do not.
 */
static void test_batch_by_demand(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct placement_request requests[5];
    struct placement_decision decisions[5];
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slots[5];
    size_t placed;

    add_node(nodes, "a", 8, 16, 0, NULL, NULL, NULL);
    add_node(nodes, "b", 8, 16, 0, NULL, NULL, NULL);
    const struct placement_options options = { .score = score_find("first") };
    placement_init(&placement, nodes, &options);
    const uint64_t cpus[] = { 3, 3, 5, 5, 1 };
    for (size_t i = 0; i < 5; i++)
        requests[i] = request_of(cpus[i], 1, 0, 0);
    assert_int_equal(placement_batch(&placement, requests, 4, 0, true, decisions, slots, &placed), 0);
    assert_int_equal(placed, 4);
    assert_int_equal(decisions[2].node, 0); /* of equals the first in the list */
    assert_int_equal(decisions[3].node, 1);
    assert_int_equal(decisions[0].node, 0);
    assert_int_equal(decisions[1].node, 1);
    for (size_t i = 0; i < 4; i++)
        nodes_give(nodes, slots[i]);
    /* One too many: as a whole none, else all but the smallest. */
    assert_int_equal(placement_batch(&placement, requests, 5, 0, true, decisions, slots, &placed), 0);
    assert_int_equal(placed, 0);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(slots[i], NODE_NONE);
    assert_int_equal(nodes_get(nodes, 0)->instances + nodes_get(nodes, 1)->instances, 0);
    assert_int_equal(decisions[4].refused[FILTER_CPU], 2);
    assert_int_equal(placement_batch(&placement, requests, 5, 0, false, decisions, slots, &placed), 0);
    assert_int_equal(placed, 4);
    assert_int_equal(slots[4], NODE_NONE);
}

/* The large one must be near the small one, which comes later in this order. */
static void test_batch_with_affinity(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct placement_request requests[2] = { request_of(6, 1, 0, 0), request_of(1, 1, 0, 0) };
    struct placement_decision decisions[2];
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slots[2];
    size_t placed;

    add_node(nodes, "a", 8, 16, 0, NULL, NULL, NULL);
    placement_init(&placement, nodes, NULL);
    assert_int_equal(placement_join(nodes, &requests[1], "db", NULL), 0);
    assert_int_equal(placement_constrain(nodes, &requests[0], CONSTRAINT_AFFINITY, "db", LEVEL_NODE, 0, NULL),
                     0);
    assert_int_equal(placement_batch(&placement, requests, 2, 0, true, decisions, slots, &placed), 0);
    assert_int_equal(placed, 2);
}

static int request_by_slot(void *userdata, uint32_t slot, struct placement_request *ret) {
    const struct placement_request *requests = userdata;

    *ret = requests[slot];
    return 0;
}

/* Three nodes of 8 CPUs and instances of 2: what one node holds must fit into what the others have left. */
static void test_reserve(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    struct placement_request requests[16];
    struct placement_decision decision;
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slot, node;
    bool survives;

    add_node(nodes, "a", 8, 16, 0, "r", NULL, NULL);
    add_node(nodes, "b", 8, 16, 0, "r", NULL, NULL);
    add_node(nodes, "c", 8, 16, 0, "s", NULL, NULL);
    const struct placement_options options = { .score = score_find("first") };
    placement_init(&placement, nodes, &options);
    for (size_t i = 0; i < ELEMENTS(requests); i++)
        requests[i] = request_of(2, 1, 0, 0);
    /* Four on a, four on b: any one of them may fail, c takes what it held. */
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(placement_place_reserved(&placement, &requests[0], 0, LEVEL_NODE, request_by_slot,
                                                  requests, &decision, &slot),
                         0);
        assert_int_equal(slot, i);
        assert_int_equal(decision.node, i / 4);
    }
    /* A ninth fits, but then a could not fail: refused, and nothing has changed. */
    assert_int_equal(placement_place_reserved(&placement, &requests[0], 0, LEVEL_NODE, request_by_slot,
                                              requests, &decision, &slot),
                     0);
    assert_int_equal(slot, NODE_NONE);
    assert_int_equal(decision.node, NODE_NONE);
    assert_int_equal(nodes_get(nodes, 2)->instances, 0);
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(nodes_holder(nodes, i), i / 4);
        assert_int_equal(nodes_share(nodes, i)->cpus, 2 * CPU);
    }
    assert_int_equal(placement_reserve(&placement, LEVEL_NODE, request_by_slot, requests, &node), 0);
    assert_int_equal(node, NODE_NONE);
    /* Rack r holds eight and c has room for four. */
    assert_int_equal(placement_survives(&placement, LEVEL_RACK, 1, request_by_slot, requests, &survives), 0);
    assert_false(survives);
    assert_int_equal(placement_reserve(&placement, LEVEL_RACK, request_by_slot, requests, &node), 0);
    assert_int_equal(node, 0);
    assert_int_equal(placement_place(&placement, &requests[0], 0, true, &decision, &slot), 0);
    assert_int_equal(placement_reserve(&placement, LEVEL_NODE, request_by_slot, requests, &node), 0);
    assert_int_equal(node, 0);
}

static void test_ledger(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    _cleanup_ledger_ struct placement_ledger ledger = { 0 };
    struct placement_request request = request_of(2, 1, 0, 0);
    struct placement_decision decision;
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slot;

    add_node(nodes, "small", 1, 16, 0, NULL, NULL, NULL);
    add_node(nodes, "a", 8, 16, 0, NULL, NULL, NULL);
    add_node(nodes, "b", 8, 16, 0, NULL, NULL, NULL);
    const struct placement_options options = { .score = score_find("polder") };
    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_ledger_init(&ledger, 3, nodes), 0);
    request.until = 1000; /* so that the candidates are kept */
    for (uint64_t i = 0; i < 6; i++)
        assert_int_equal(placement_ledger_place(&ledger, &placement, &request, 10, &decision, &slot), 0);
    assert_null(placement_ledger_find(&ledger, 1)); /* four are kept */
    assert_null(placement_ledger_find(&ledger, 6));
    const struct ledger_record *record = placement_ledger_find(&ledger, 2);
    assert_non_null(record);
    assert_int_equal(record->node, 1);
    assert_int_equal(record->refused[FILTER_CPU], 1);
    assert_int_equal(record->candidate_count, 2);
    /* Both terms of the score: a holds something until 1000 already, so that its time is not lengthened. */
    assert_int_equal(record->candidates[0].node, 1);
    assert_true(record->candidates[0].value > record->candidates[1].value);
    const struct placement_candidate *first = record->candidates, *second = first + 1;
    assert_true(first->score - first->value > second->score - second->value);
    assert_true(record->shape == shape_digest(&request.shape));
    assert_int_equal(placement_ledger_explain(&ledger, &placement, 2, &decision), 0);
    assert_int_equal(decision.candidate_count, 2);
    assert_memory_equal(decision.candidates, record->candidates, sizeof(decision.candidates));
    assert_int_equal(placement_ledger_explain(&ledger, &placement, 1, &decision), -ENOENT);
}

static void expect_same_decision(const struct placement_decision *a, const struct placement_decision *b) {
    assert_int_equal(a->node, b->node);
    assert_int_equal(a->score, b->score);
    assert_int_equal(a->gpus, b->gpus);
    assert_true(a->number == b->number && a->shape == b->shape && a->position == b->position);
    assert_int_equal(a->candidate_count, b->candidate_count);
    assert_memory_equal(a->candidates, b->candidates, a->candidate_count * sizeof(*a->candidates));
    assert_memory_equal(a->refused, b->refused, sizeof(a->refused));
}

static uint32_t dice(uint64_t *seed, uint32_t limit) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t) (*seed >> 33) % limit;
}

/* The naive second implementation: looks at every node each time, keeps nothing. */
static uint32_t naive(const struct nodes *nodes, const char *score, const struct fragments *fragments,
                      const struct placement_request *request) {
    uint32_t best = NODE_NONE, fewest[CONSTRAINTS_MAX];
    int32_t highest = -1;

    filter_fewest(nodes, request, fewest);
    for (uint32_t i = 0; i < nodes_count(nodes); i++) {
        if (filter_static(nodes, nodes_get(nodes, i), &request->shape) != FILTER_PASSED ||
            filter_constraints(nodes, i, request, fewest) != FILTER_PASSED)
            continue;
        int32_t now = value(score, (struct nodes *) nodes, fragments, i, request, NULL);
        if (now > highest) {
            highest = now;
            best = i;
        }
    }
    return best;
}

/* Who arrives: 1 to 4 CPUs and GiB, GPUs, a group that it is in (0: none) and is kept apart in, by node or rack; whether the
 * best eight are asked for; and who leaves then (0: nobody). */
static const char *const cluster_numbers[] = { "score", "nodes", "layout", NULL };
static const char *const arrival_numbers[] = { "cpus", "gib", "gpus", "part", "group", "apart", "level", "told", "leaves", NULL };

#define CLUSTER 150
#define ARRIVALS 1500

static struct placement_request arrival(struct nodes *nodes, const uint64_t *number) {
    unsigned gpus = (unsigned) (number[2] % 3);
    struct placement_request request = request_of(1 + number[0] % 4, 1 + number[1] % 4, gpus,
                                                  gpus == 0 ? 0 : gpus == 1 ? 100 * (1 + (unsigned) (number[3] % 10)) : 1000);
    char group[16];

    if (number[4] % 7 == 0)
        return request;
    snprintf(group, sizeof(group), "g%u", (unsigned) (number[4] % 7));
    assert_int_equal(placement_join(nodes, &request, group, NULL), 0);
    assert_int_equal(placement_constrain(nodes, &request, number[5] % 2 ? CONSTRAINT_SPREAD : CONSTRAINT_ANTI_AFFINITY, group,
                                         number[6] % 2, 1, NULL), 0);
    return request;
}

/* All that came goes: each node has again what it had. */
static bool all_is_given_back(struct nodes *nodes, const uint32_t *slots, uint32_t held) {
    while (held > 0)
        nodes_give(nodes, slots[--held]);
    for (uint32_t i = 0; i < nodes_count(nodes); i++) {
        const struct node *node = nodes_get(nodes, i);
        if (node->free_cpus != node->cpus || node->free_memory != node->memory || node->gpu_free_total != node->gpus * GPU_WHOLE)
            return false;
    }
    return true;
}

static bool decides_like_the_naive_one(struct placement *placement, struct nodes *nodes, const char *score,
                                       const struct fragments *fragments, const struct example *example) {
    uint32_t slots[ARRIVALS], held = 0;

    for (size_t step = 0; step < example->count; step++) {
        const uint64_t *number = example->items[step];
        struct placement_request request = arrival(nodes, number);
        struct placement_decision decision;
        uint32_t expected = naive(nodes, score, fragments, &request), slot;

        assert_int_equal(placement_place(placement, &request, 0, number[7] % 2, &decision, &slot), 0);
        if (decision.node != expected)
            return false;
        if (slot != NODE_NONE)
            slots[held++] = slot;
        if (held > 0 && number[8] > 0) {
            uint32_t which = (uint32_t) (number[8] % held);
            nodes_give(nodes, slots[which]);
            slots[which] = slots[--held];
        }
    }
    return all_is_given_back(nodes, slots, held);
}

/* Arrivals and departures decide as the naive one does, and no node ever promises more than it has. */
static bool is_like_the_naive_one(const struct example *example, void *userdata) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    const struct score *score = &scores[example->head[0] % scores_count];
    struct placement_request usual = request_of(2, 1, 1, 500);
    struct fragments fragments = { 0 };
    uint64_t seed = example->head[2];
    struct placement placement;

    if (score->random)
        return true;
    for (unsigned i = 0; i < 1 + example->head[1] % CLUSTER; i++) {
        char text[16], rack[16];
        snprintf(text, sizeof(text), "n%u", i);
        snprintf(rack, sizeof(rack), "r%u", i % 7);
        add_node(nodes, text, 4 + dice(&seed, 3) * 4, 16, dice(&seed, 5), rack, NULL, NULL);
    }
    assert_int_equal(fragments_add(&fragments, &usual.shape), 0);
    const struct placement_options options = { .score = score, .fragments = &fragments, .resolution = 100 };
    placement_init(&placement, nodes, &options);
    bool holds = decides_like_the_naive_one(&placement, nodes, score->name, &fragments, example);
    placement_done(&placement);
    fragments_done(&fragments);
    return holds;
}

static uint64_t arrivals[ARRIVALS][EXAMPLE_WIDTH];

static struct example random_arrivals(size_t score, uint64_t seed) {
    struct example example = { .head = { score, CLUSTER - 1, seed }, .count = ARRIVALS, .items = arrivals };

    for (size_t i = 0; i < ARRIVALS; i++) {
        for (size_t j = 0; j < 9; j++)
            arrivals[i][j] = dice(&seed, 420);
        arrivals[i][4] = dice(&seed, 4) ? 0 : 1 + dice(&seed, 6);
        arrivals[i][8] = dice(&seed, 3) ? 0 : 1 + dice(&seed, ARRIVALS);
    }
    return example;
}

static struct placement_request random_request(struct nodes *nodes, uint64_t *seed) {
    uint32_t gpus = dice(seed, 3);
    struct placement_request request = request_of(1 + dice(seed, 4), 1 + dice(seed, 4), gpus,
                                                  gpus == 1 ? 100 * (1 + dice(seed, 10)) : gpus * 500);
    char group[16];

    if (dice(seed, 3) == 0)
        assert_int_equal(placement_require(nodes, &request, "fast", NULL), 0);
    if (dice(seed, 3) == 0)
        assert_int_equal(placement_tolerate(nodes, &request, "kept", NULL), 0);
    if (dice(seed, 5) == 0)
        request.until = 100 + dice(seed, 100);
    if (dice(seed, 2) == 0)
        return request;
    snprintf(group, sizeof(group), "g%u", dice(seed, 6));
    assert_int_equal(placement_join(nodes, &request, group, NULL), 0);
    assert_int_equal(placement_constrain(nodes, &request, dice(seed, 2) ? CONSTRAINT_SPREAD : CONSTRAINT_ANTI_AFFINITY, group,
                                         dice(seed, 2), 1, NULL), 0);
    return request;
}

/* Whatever came, went, was closed and opened since: each decision is told as it was made, the best eight and how many failed
 * what included, though only the winner was looked for. */
static void decide_and_make_again(const char *name, uint64_t seed) {
    enum { NODES = 150, STEPS = 400 };
    static struct placement_decision wanted[STEPS];
    char *fast[] = { (char *) "fast", NULL }, *kept[] = { (char *) "kept", NULL };
    const struct placement_options options = { .score = score_find(name), .seed = 5 };
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    _cleanup_ledger_ struct placement_ledger ledger = { 0 };
    _cleanup_placement_ struct placement placement = { 0 };
    uint32_t slots[STEPS], held = 0;
    struct placement_decision found;

    for (unsigned i = 0; i < NODES; i++) {
        char text[16], rack[16];
        snprintf(text, sizeof(text), "n%u", i);
        snprintf(rack, sizeof(rack), "r%u", i % 7);
        add_node(nodes, text, 4 + dice(&seed, 3) * 4, 16, dice(&seed, 5), rack, i % 2 ? fast : NULL, i % 5 ? NULL : kept);
    }
    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_ledger_init(&ledger, STEPS, nodes), 0);
    for (unsigned step = 0; step < STEPS; step++) {
        struct placement_request request = random_request(nodes, &seed);
        uint32_t slot;
        assert_int_equal(placement_decide(&placement, &request, 50, true, &wanted[step]), 0);
        placement.decisions--;
        assert_int_equal(placement_ledger_place(&ledger, &placement, &request, 50, &found, &slot), 0);
        assert_int_equal(found.node, wanted[step].node);
        if (slot != NODE_NONE)
            slots[held++] = slot;
        if (held > 0 && dice(&seed, 2) == 0) {
            uint32_t which = dice(&seed, held);
            nodes_give(nodes, slots[which]);
            slots[which] = slots[--held];
        }
        if (dice(&seed, 10) == 0) {
            uint32_t node = dice(&seed, NODES);
            nodes_close(nodes, node, !nodes_get(nodes, node)->closed);
        }
    }
    for (unsigned step = 0; step < STEPS; step++) {
        assert_int_equal(placement_ledger_explain(&ledger, &placement, step, &found), 0);
        expect_same_decision(&found, &wanted[step]);
    }
    assert_int_equal(placement_ledger_explain(&ledger, &placement, STEPS, &found), -ENOENT);
}

static void test_decisions_are_made_again(void **state) {
    for (size_t i = 0; i < scores_count; i++)
        decide_and_make_again(scores[i].name, 7 + i);
}

/* What the nodes do not remember any more, or what came before there were so many of them, is not told wrongly. */
static void test_what_is_forgotten(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    _cleanup_ledger_ struct placement_ledger ledger = { 0 };
    _cleanup_placement_ struct placement placement = { 0 };
    struct placement_request request = request_of(1, 1, 0, 0);
    struct placement_decision decision;
    struct nodes *past = NULL;
    uint32_t slot;

    add_node(nodes, "a", 8, 16, 0, NULL, NULL, NULL);
    assert_int_equal(nodes_past(nodes, nodes_position(nodes), &past), -ESTALE); /* nothing is remembered yet */
    placement_init(&placement, nodes, NULL);
    assert_int_equal(placement_ledger_init(&ledger, 4, nodes), 0);
    assert_int_equal(placement_ledger_place(&ledger, &placement, &request, 0, &decision, &slot), 0);
    assert_int_equal(placement_ledger_explain(&ledger, &placement, 0, &decision), 0);
    assert_int_equal(decision.candidate_count, 1);
    assert_int_equal(nodes_past(nodes, nodes_position(nodes) + 1, &past), -ESTALE);
    for (unsigned i = 0; i < 8; i++) {
        nodes_give(nodes, slot);
        assert_int_equal(placement_place(&placement, &request, 0, false, &decision, &slot), 0);
    }
    assert_int_equal(placement_ledger_explain(&ledger, &placement, 0, &decision), -ESTALE);
    assert_int_equal(placement_ledger_place(&ledger, &placement, &request, 0, &decision, &slot), 0);
    assert_int_equal(placement_ledger_explain(&ledger, &placement, decision.number, &decision), 0);
    add_node(nodes, "b", 8, 16, 0, NULL, NULL, NULL);
    assert_int_equal(placement_ledger_explain(&ledger, &placement, decision.number, &decision), -ESTALE);
}

static void test_like_the_naive_one(void **state) {
    const struct property property = { cluster_numbers, arrival_numbers, is_like_the_naive_one, NULL };

    for (size_t i = 0; i < scores_count; i++) {
        struct example example = random_arrivals(i, 41 + i);
        property_check(&property, &example);
    }
}

/* This is false: of 1,500 that come and go and three numbers of the cluster, one that finds no room on one node is left. */
static bool there_is_always_room(const struct example *example, void *userdata) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    const struct placement_options options = { .score = score_find("first") };
    struct placement placement;
    bool room = true;

    for (unsigned i = 0; i < 1 + example->head[1] % CLUSTER; i++) {
        char name[16];
        snprintf(name, sizeof(name), "n%u", i);
        add_node(nodes, name, 8, 16, 0, NULL, NULL, NULL);
    }
    placement_init(&placement, nodes, &options);
    for (size_t i = 0; room && i < example->count; i++) {
        struct placement_request request = arrival(nodes, example->items[i]);
        room = place(&placement, &request) != NODE_NONE;
    }
    placement_done(&placement);
    return room;
}

static void test_false_property_is_told_small(void **state) {
    const struct property property = { cluster_numbers, arrival_numbers, there_is_always_room, NULL };
    struct example example = random_arrivals(0, 7);

    for (size_t i = 0; i < example.count; i++)
        example.items[i][4] = 0; /* in no group: room alone decides */
    example_shrink(&property, &example);
    _cleanup_free_ char *text = example_text(&property, &example);
    assert_string_equal(text, "score 0, nodes 0, layout 0 | cpus 0, gib 0, gpus 1, part 0, group 0, apart 0, level 0, told 0, leaves 0");
}

/* The best 1,300 of 2,000 nodes are refused by a constraint: those after them are found, in their order, whether one or
 * eight are asked for. */
static void test_best_are_refused(void **state) {
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    const struct placement_options options = { .score = score_find("best") };
    struct placement_decision decision;
    _cleanup_placement_ struct placement placement = { 0 };
    struct placement_request request = request_of(1, 1, 0, 0);
    uint32_t slot;

    placement_init(&placement, nodes, &options);
    for (uint32_t i = 0; i < 2000; i++) {
        char name[16];
        snprintf(name, sizeof(name), "n%u", i);
        add_node(nodes, name, 4000, 4000, 0, NULL, NULL, NULL);
        /* Node (i x 7) mod 2,000 is the i-th fullest. */
        uint64_t rank = i * 1143 % 2000; /* 7 x 1143 = 8001 = 1 mod 2,000 */
        const struct node_share used = { .cpus = (3000 - rank) * CPU, .memory = (3000 - rank) * GIB, .group = -1 };
        assert_int_equal(nodes_take(nodes, i, &used, &slot), 0);
    }
    assert_int_equal(placement_constrain(nodes, &request, CONSTRAINT_ANTI_AFFINITY, "db", LEVEL_NODE, 0, NULL), 0);
    for (uint32_t rank = 0; rank < 1300; rank++) {
        const struct node_share member = { .group = nodes_number(nodes, NAMES_GROUPS, "db", false) };
        assert_int_equal(nodes_take(nodes, rank * 7 % 2000, &member, &slot), 0);
    }
    assert_int_equal(placement_decide(&placement, &request, 0, false, &decision), 0);
    assert_int_equal(decision.node, 1300 * 7 % 2000);
    assert_int_equal(placement_decide(&placement, &request, 0, true, &decision), 0);
    assert_int_equal(decision.candidate_count, PLACEMENT_CANDIDATES);
    for (uint32_t i = 0; i < PLACEMENT_CANDIDATES; i++)
        assert_int_equal(decision.candidates[i].node, (1300 + i) * 7 % 2000);
    assert_int_equal(decision.refused[FILTER_ANTI_AFFINITY], 1300); /* each counted once */
}

static void expect_batch(struct placement *placement, const struct placement_request *requests, size_t count,
                         const char *sentence) {
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = placement_check_batch(placement, requests, count, &error);

    if (!sentence) {
        assert_int_equal(r, 0);
        return;
    }
    assert_true(r < 0);
    assert_int_equal(error.code, ERROR_BAD_REQUEST);
    _cleanup_free_ char *text = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_non_null(strstr(text, sentence));
}

/* a near b, b near c, c near a: none can be first, unless somebody of one of them is there. d near itself and near a is no
 * part of the circle; e must be near a group that nobody is in. */
static void test_circles_are_named(void **state) {
    static const char *const groups[] = { "a", "b", "c", "d", "e" }, *const near[] = { "b", "c", "a", "d", "x" };
    _cleanup_nodes_ struct nodes *nodes = make_nodes();
    _cleanup_placement_ struct placement placement = { 0 };
    struct placement_request requests[5];
    struct placement_decision decisions[5];
    uint32_t slots[5];
    size_t placed;

    add_node(nodes, "n", 8, 16, 0, NULL, NULL, NULL);
    placement_init(&placement, nodes, NULL);
    for (size_t i = 0; i < 5; i++) {
        requests[i] = request_of(1, 1, 0, 0);
        assert_int_equal(placement_join(nodes, &requests[i], groups[i], NULL), 0);
        assert_int_equal(placement_constrain(nodes, &requests[i], CONSTRAINT_AFFINITY, near[i], LEVEL_NODE, 0, NULL), 0);
    }
    expect_batch(&placement, requests, 3, "'b' must be near 'c', that near 'a', that near 'b': none of them can be first");
    assert_int_equal(placement_batch(&placement, requests, 3, 0, false, decisions, slots, &placed), 0);
    assert_int_equal(placed, 0); /* and it is so */
    expect_batch(&placement, requests, 2, "it must be near 'c', and nobody is in that group");
    expect_batch(&placement, &requests[3], 1, NULL);
    expect_batch(&placement, &requests[4], 1, "'x'");
    assert_int_equal(placement_constrain(nodes, &requests[3], CONSTRAINT_AFFINITY, "a", LEVEL_NODE, 0, NULL), 0);
    expect_batch(&placement, requests, 4, "'b' must be near 'c'");
    requests[2].constraint_count = 0; /* c can be first, then b, a and d */
    expect_batch(&placement, requests, 4, NULL);
    assert_int_equal(placement_batch(&placement, requests, 4, 0, true, decisions, slots, &placed), 0);
    assert_int_equal(placed, 4);
    expect_batch(&placement, &requests[1], 1, NULL); /* c is there now */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_by_hand),
        cmocka_unit_test(test_fragments_by_hand),
        cmocka_unit_test(test_balance_by_hand),
        cmocka_unit_test(test_scarcity_by_hand),
        cmocka_unit_test(test_ends_align),
        cmocka_unit_test(test_mixture_by_hand),
        cmocka_unit_test(test_static_filters),
        cmocka_unit_test(test_overcommit_per_kind),
        cmocka_unit_test(test_constraints),
        cmocka_unit_test(test_impossible_and_contradictory),
        cmocka_unit_test(test_batch_by_demand),
        cmocka_unit_test(test_batch_with_affinity),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_ledger),
        cmocka_unit_test(test_decisions_are_made_again),
        cmocka_unit_test(test_what_is_forgotten),
        cmocka_unit_test(test_like_the_naive_one),
        cmocka_unit_test(test_false_property_is_told_small),
        cmocka_unit_test(test_best_are_refused),
        cmocka_unit_test(test_circles_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
