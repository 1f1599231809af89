// SPDX-License-Identifier: GPL-2.0-or-later
/* Decisions of placement as they are told: by hand, and made again from their own line on random nodes. */
#include "test.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "engine/placement-explain.h"

#define GIB (UINT64_C(1) << 30)
#define CPU UINT64_C(1000000)

static uint64_t dice(uint64_t *seed, uint64_t limit) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % limit;
}

/* Of 8 CPUs and 16 GiB. */
static void add(struct nodes *nodes, const char *name, unsigned gpus, char *const *traits) {
    const struct node_description node = { .name = name, .cpus = 8 * CPU, .memory = 16 * GIB, .gpus = gpus,
                                           .gpu_model = gpus ? "T4" : NULL, .traits = traits };

    assert_int_equal(nodes_add(nodes, &node, NULL), 0);
}

static struct placement_request asked(uint64_t cpus, uint64_t gib) {
    struct placement_request request;

    placement_request_init(&request, "test");
    request.shape.cpus = cpus * CPU;
    request.shape.memory = gib * GIB;
    return request;
}

/* Made again from its line, it is the same line. */
static void check_again(const char *line) {
    struct json_object *json = NULL;
    _cleanup_free_ char *again = NULL;

    assert_int_equal(json_parse(line, strlen(line), &json, NULL), 0);
    assert_int_equal(placement_explain_again(json, &again, NULL), 0);
    assert_string_equal(line, again);
    json_put(json);
}

static char *explained(struct nodes *nodes, const struct placement_request *request) {
    const struct placement_options options = { .score = score_find("polder") };
    struct placement placement;
    char *line = NULL;

    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_explain(&placement, request, 7, &line), 0);
    placement_done(&placement);
    check_again(line);
    return line;
}

static void assert_has(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("%s lacks %s", text, part);
}

/* 8 CPUs of which 3 are free, 16 GiB of which 10 are; asked for: 4 CPUs and 8 GiB, then 2 and 8. */
static void test_explanation(void **state) {
    char *ssd[] = { (char *) "disk=ssd", NULL };
    _cleanup_nodes_ struct nodes *nodes = NULL;
    struct placement_request request = asked(4, 8), small = asked(2, 8);
    uint32_t slot;

    assert_int_equal(nodes_new(&nodes), 0);
    add(nodes, "one", 0, NULL);
    const struct node_share used = { .cpus = 5 * CPU, .memory = 6 * GIB, .group = -1 };
    assert_int_equal(nodes_take(nodes, 0, &used, &slot), 0);
    _cleanup_free_ char *refused = explained(nodes, &request);
    assert_has(refused, "\"placement\":7,");
    assert_has(refused, "\"node\":null");
    assert_has(refused, "{\"filter\":\"cpu\",\"passed\":false,\"sentence\":\"has too few CPUs left\",\"lacks_millionths\":1000000}");
    assert_has(refused, "{\"filter\":\"memory\",\"passed\":true}");
    assert_has(refused, "it would fit on one if it asked for 1 cpus less");
    _cleanup_free_ char *chosen = explained(nodes, &small);
    assert_has(chosen, "\"node\":\"one\"");
    assert_has(chosen, "with more than 1 cpus or 2GiB more it would fit nowhere");
    /* 10,000 (1 - (1/8 + 2/16) / 2) */
    assert_has(chosen, "\"score\":8750");
    assert_has(chosen, "\"left_cpus_ppm\":125000,\"left_memory_ppm\":125000");
    add(nodes, "two", 0, ssd);
    _cleanup_free_ char *two = explained(nodes, &small); /* 10,000 (1 - (6/8 + 8/16) / 2) = 3,750 */
    assert_has(two, "two would have it if one were not there: 3750 against 8750");
    assert_int_equal(placement_require(nodes, &small, "disk=ssd", NULL), 0);
    _cleanup_free_ char *labelled = explained(nodes, &small);
    assert_has(labelled, "\"lacks\":[\"disk=ssd\"]");
    nodes_close(nodes, 1, true);
    _cleanup_free_ char *nobody = explained(nodes, &small);
    assert_has(nobody, "one would take it if it had disk=ssd");
    assert_has(nobody, "takes nothing new");
}

static void test_explanation_of_another_version(void **state) {
    static const char *const lines[] = { "{\"placement\":1,\"version\":0,\"input\":{}}", "{\"placement\":1,\"version\":2}",
                                         "{\"placement\":1,\"version\":2,\"input\":{\"score\":\"polder\",\"nodes\":[]}}",
                                         ("{\"placement\":1,\"version\":2,\"input\":{\"score\":\"polder\",\"nodes\":[{\"name\":\"n\","
                                          "\"cpus_millionths\":1,\"free_cpus_millionths\":2}]}}") };

    for (size_t i = 0; i < ELEMENTS(lines); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        struct json_object *json = NULL;
        _cleanup_free_ char *again = NULL;
        assert_int_equal(json_parse(lines[i], strlen(lines[i]), &json, NULL), 0);
        assert_true(placement_explain_again(json, &again, &error) < 0);
        assert_true(error_is_set(&error));
        assert_int_equal(error.code, i == 0 ? ERROR_NOT_SUPPORTED : ERROR_BAD_VALUE);
        json_put(json);
    }
}

/* What lacks on the nearest node is enough to ask for less of, and nothing less is. */
static void check_flip(struct nodes *nodes, struct placement_request *request) {
    const struct placement_options options = { .score = score_find("polder") };
    const struct node *node = nodes_get(nodes, 0);
    uint32_t cpu = nodes_ratio_cpu(nodes, node, KIND_CONTAINER), memory = nodes_ratio_memory(nodes, node, KIND_CONTAINER);
    uint64_t cpus = (uint64_t) ((unsigned __int128) node->free_cpus * cpu / 100);
    uint64_t bytes = (uint64_t) ((unsigned __int128) node->free_memory * memory / 100);
    struct placement placement;
    struct placement_decision decision;

    if (request->shape.cpus > cpus)
        request->shape.cpus = cpus;
    if (request->shape.memory > bytes)
        request->shape.memory = bytes;
    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_decide(&placement, request, 0, true, &decision), 0);
    assert_int_equal(decision.node, 0);
    placement_done(&placement);
}

/* Random nodes, all in any state: each line is made again to the byte. */
static void test_explanations_again(void **state) {
    static char *const names[] = { (char *) "a", (char *) "b", (char *) "c", (char *) "d" };
    uint64_t seed = 5;

    for (unsigned round = 0; round < 1000; round++) {
        _cleanup_nodes_ struct nodes *nodes = NULL;
        size_t count = 1 + dice(&seed, PLACEMENT_EXPLAINED);
        assert_int_equal(nodes_new(&nodes), 0);
        for (uint32_t i = 0; i < count; i++) {
            char *traits[] = { names[dice(&seed, 4)], NULL }, *taints[] = { names[dice(&seed, 4)], NULL };
            const uint32_t cpu[KIND_COUNT] = { 100, 300, 200, 100, 250 }, memory[KIND_COUNT] = { 100, 150, 100, 100, 100 };
            char name[16];
            snprintf(name, sizeof(name), "n%u", i);
            const struct node_description node = {
                .name = name, .cpus = (1 + dice(&seed, 64)) * CPU + dice(&seed, 1000),
                .memory = (1 + dice(&seed, 64)) * GIB, .traits = traits,
                .taints = dice(&seed, 4) ? NULL : taints, .overcommit_cpu = cpu, .overcommit_memory = memory,
            };
            uint32_t slot;
            assert_int_equal(nodes_add(nodes, &node, NULL), 0);
            const struct node_share used = { .cpus = dice(&seed, node.cpus), .memory = dice(&seed, node.memory),
                                             .group = -1 };
            assert_int_equal(nodes_take(nodes, i, &used, &slot), 0);
            nodes_close(nodes, i, dice(&seed, 8) == 0);
        }
        struct placement_request request = asked(1 + dice(&seed, 80), 1 + dice(&seed, 80));
        if (dice(&seed, 2))
            assert_int_equal(placement_require(nodes, &request, names[dice(&seed, 4)], NULL), 0);
        if (dice(&seed, 4) == 0)
            assert_int_equal(placement_refuse(nodes, &request, names[dice(&seed, 4)], NULL), 0);
        if (dice(&seed, 2))
            assert_int_equal(placement_tolerate(nodes, &request, names[dice(&seed, 4)], NULL), 0);
        _cleanup_free_ char *line = explained(nodes, &request);
        if (count == 1 && strstr(line, "it would fit on"))
            check_flip(nodes, &request);
    }
}

/* What is not of that kind is refused, not told wrongly. */
static void test_explanation_limits(void **state) {
    const struct placement_options options = { .score = score_find("polder") };
    _cleanup_nodes_ struct nodes *nodes = NULL;
    struct placement_request request = asked(1, 1);
    struct placement placement;
    char *line = NULL;

    assert_int_equal(nodes_new(&nodes), 0);
    add(nodes, "gpus", 2, NULL);
    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_explain(&placement, &request, 1, &line), -EOPNOTSUPP);
    for (unsigned i = 0; i < PLACEMENT_EXPLAINED; i++) {
        char name[16];
        snprintf(name, sizeof(name), "more-%u", i);
        add(nodes, name, 0, NULL);
    }
    assert_int_equal(placement_explain(&placement, &request, 1, &line), -E2BIG);
    placement_done(&placement);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_explanation),
        cmocka_unit_test(test_explanation_of_another_version),
        cmocka_unit_test(test_explanations_again),
        cmocka_unit_test(test_explanation_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
