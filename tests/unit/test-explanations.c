// SPDX-License-Identifier: GPL-2.0-or-later
/* What the engine tells of its decisions, on fixed inputs, compared with tests/golden/engine: a start out of the queue and one who
 * gives way, placement's line, a plan of the optimiser, the shares of the allocator, the advisor's answer. */
#include "test.h"

#include <json-c/json.h>
#include <string.h>

#include "base/buffer.h"
#include "base/text.h"
#include "engine/advisor.h"
#include "engine/allocator.h"
#include "engine/ledger.h"
#include "engine/optimizer.h"
#include "engine/placement-explain.h"
#include "golden.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define SECONDS UINT64_C(1000000)
#define CPU UINT64_C(1000000) /* of placement */

static struct json_object *parsed(const char *text) {
    struct json_object *json = NULL;

    assert_non_null(text);
    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    return json;
}

/* --- the queue ------------------------------------------------------------------------------------------------------- */

/* Without what changes whenever the engine's state or rules do, whatever is told. */
static void compare_decision(const char *path, const char *line) {
    struct json_object *json = parsed(line);

    json_object_object_del(json, "engine");
    json_object_object_del(json_member(json, "input"), "digest");
    golden_compare_json(path, json);
}

static struct engine *engine_of(const char *policy) {
    struct engine_node node = { .cpus = 2000, .memory = 4 * GIB };
    struct engine_options options;
    struct engine *engine = NULL;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    engine_options_init(&options);
    assert_int_equal(policy_find(policy, &options.policy, NULL), 0);
    options.backfill = BACKFILL_NONE;
    options.residency = 0;
    assert_int_equal(engine_new(&node, &options, &engine), 0);
    assert_int_equal(engine_record(engine, 7), 0);
    return engine;
}

static void submit(struct engine *engine, const char *id, uint64_t cpus, int64_t priority, uint64_t seconds, uint64_t now) {
    struct engine_request request = { .id = id, .kind = KIND_VM, .cpus = cpus, .memory = GIB, .userdata = (void *) id,
                                      .priority = priority, .expected = seconds * SECONDS,
                                      .yields = QUEUE_YIELD_PAUSE | QUEUE_YIELD_SUSPEND };

    assert_int_equal(engine_submit(engine, &request, now * SECONDS), 0);
}

static void run(struct engine *engine, uint64_t now) {
    struct engine_decision decision;

    assert_int_equal(engine_run(engine, now * SECONDS), 0);
    while (engine_next(engine, &decision))
        ;
}

/* Of three that wait the shortest starts; had it asked for more than half a processor more, it would have waited. */
static void test_start(void **state) {
    struct engine *engine = engine_of("sjf");

    submit(engine, "long", 1000, 0, 100, 10);
    submit(engine, "short", 1500, 0, 10, 12);
    submit(engine, "medium", 1000, 0, 50, 13);
    run(engine, 14);
    compare_decision("engine/queue-start.json", engine_decision(engine, engine_decision_about(engine, "short")));
    engine_free(engine);
}

/* One that needs ten seconds needs what another holds for a thousand. */
static void test_giving_way(void **state) {
    struct engine *engine = engine_of("srtf");

    submit(engine, "batch", 2000, 0, 1000, 1);
    run(engine, 1);
    submit(engine, "urgent", 2000, 0, 10, 2);
    run(engine, 2);
    compare_decision("engine/queue-yield.json", engine_decision(engine, engine_decision_about(engine, "batch")));
    engine_free(engine);
}

/* --- placement ------------------------------------------------------------------------------------------------------- */

/* The first is too full, the second has room, the third has not the label. */
static void test_placement(void **state) {
    char *ssd[] = { (char *) "disk=ssd", NULL };
    struct node_description nodes_of[] = { { .name = "full", .cpus = 8 * CPU, .memory = 16 * GIB, .traits = ssd },
                                           { .name = "half", .cpus = 8 * CPU, .memory = 16 * GIB, .traits = ssd },
                                           { .name = "plain", .cpus = 8 * CPU, .memory = 16 * GIB } };
    const struct placement_options options = { .score = score_find("polder") };
    const struct node_share used[] = { { .cpus = 7 * CPU, .memory = 6 * GIB, .group = -1 },
                                       { .cpus = 3 * CPU, .memory = 8 * GIB, .group = -1 } };
    _cleanup_nodes_ struct nodes *nodes = NULL;
    struct placement_request request;
    struct placement placement;
    _cleanup_free_ char *line = NULL;
    uint32_t slot;

    assert_int_equal(nodes_new(&nodes), 0);
    for (size_t i = 0; i < ELEMENTS(nodes_of); i++)
        assert_int_equal(nodes_add(nodes, &nodes_of[i], NULL), 0);
    for (uint32_t i = 0; i < ELEMENTS(used); i++)
        assert_int_equal(nodes_take(nodes, i, &used[i], &slot), 0);
    placement_request_init(&request, "web");
    request.shape.cpus = 2 * CPU;
    request.shape.memory = 4 * GIB;
    assert_int_equal(placement_require(nodes, &request, "disk=ssd", NULL), 0);
    placement_init(&placement, nodes, &options);
    assert_int_equal(placement_explain(&placement, &request, 7, &line), 0);
    placement_done(&placement);
    golden_compare_json("engine/placement.json", parsed(line));
}

/* --- optimiser ------------------------------------------------------------------------------------------------------- */

static struct optimizer_instance measured(uint64_t cpus, uint64_t memory, uint64_t cpus_used, uint64_t memory_used) {
    const uint64_t hour = 3600 * SECONDS;

    return (struct optimizer_instance){
        .running = true, .ways = OPTIMIZER_MAY_RESIZE | OPTIMIZER_MAY_SUSPEND, .cpus = { cpus, 0, cpus, 100 },
        .memory = { memory, 0, memory, 100 },
        .use = { .since = 9 * hour, .last = 10 * hour, .window = 9 * hour, .cpu_peak = { (double) cpus_used, 0 },
                 .cpu = { .now = (double) cpus_used, .mean = (double) cpus_used, .seen = 180 }, .memory = memory_used,
                 .memory_peak = { memory_used, 0 } },
    };
}

static void add_step(struct buffer *out, const struct optimizer_step *step, const char *name) {
    buffer_addf(out, "%s %s: %s", optimizer_actions[step->action], name, optimizer_reasons[step->reason]);
    if (step->action == OPTIMIZER_RESIZE)
        buffer_addf(out, "; then %llu thousandths of a CPU, %llu MiB", (unsigned long long) step->cpus,
                    (unsigned long long) (step->memory / MIB));
    buffer_addf(out, "; gains %lld thousandths, %lld MiB; costs %llu MiB written, %.0f s\n", (long long) step->cpus_gain,
                (long long) (step->memory_gain / (int64_t) MIB), (unsigned long long) (step->cost_bytes / MIB), step->cost_seconds);
}

/* One uses a quarter of what it is promised, one idles while somebody waits, one fits, one is pinned, one was just begun. */
static void test_plan(void **state) {
    static const char *const names[] = { "wide", "idle", "fitting", "pinned", "young" };
    struct optimizer_instance instances[] = { measured(4000, 4 * GIB, 800, 1000 * MIB), measured(2000, 2 * GIB, 10, 1900 * MIB),
                                              measured(1000, GIB, 850, 900 * MIB), measured(4000, 4 * GIB, 10, 100 * MIB),
                                              measured(4000, 4 * GIB, 10, 100 * MIB) };
    struct optimizer_node node = { .cpus = 16000, .memory = 16 * GIB, .free_cpus = 1000, .free_memory = GIB };
    struct optimizer_waiter waiter = { .cpus = 4500, .memory = 4 * GIB };
    struct optimizer_parameters parameters;
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_optimizer_plan_ struct optimizer_plan plan = { 0 };
    _cleanup_free_ char *text = NULL;

    instances[3].pinned = true;
    instances[4].use.since = instances[4].use.last - 60 * SECONDS;
    optimizer_parameters_init(&parameters);
    const struct optimizer_input input = { .parameters = &parameters, .nodes = &node, .node_count = 1, .instances = instances,
                                           .instance_count = ELEMENTS(instances), .waiter = &waiter, .now = 36000 * SECONDS };
    assert_int_equal(optimizer_plan_make(&input, &plan), 0);
    for (size_t i = 0; i < plan.count; i++)
        add_step(&out, &plan.steps[i], names[plan.steps[i].instance]);
    for (size_t i = 0; i < ELEMENTS(names); i++)
        if (plan.holds[i] != OPTIMIZER_HAS_STEP)
            buffer_addf(&out, "no step for %s: %s: %s\n", names[i], optimizer_holds[plan.holds[i]],
                        optimizer_hold_sentence(plan.holds[i]));
    buffer_addf(&out, "who waits then has %s\n", plan.waiter_fits ? "room" : "no room");
    assert_int_equal(buffer_take(&out, &text), 0);
    golden_compare("engine/optimizer-plan.txt", text);
}

/* --- allocator ------------------------------------------------------------------------------------------------------- */

/* Two processors: a plain one, one of priority 5, one with a floor, one capped. */
static void test_shares(void **state) {
    struct allocation items[] = { { .requested = 1000, .limit = 1000, .priority = 1000, .weight = 1000 },
                                  { .requested = 1000, .limit = 1000, .priority = 1450, .weight = 1000 },
                                  { .requested = 1000, .reservation = 700, .limit = 1000, .priority = 100, .weight = 1000 },
                                  { .requested = 1000, .limit = 250, .priority = 1000, .weight = 2000 } };
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_free_ char *text = NULL;

    assert_int_equal(allocator_weigh(2000, items, ELEMENTS(items), NULL), 0);
    buffer_add_text(&out, "requested floor limit  C    S    score granted busy weight\n");
    for (size_t i = 0; i < ELEMENTS(items); i++)
        buffer_addf(&out, "%9llu %5llu %5llu %4u %4u %5llu %7llu %4llu %6llu\n", (unsigned long long) items[i].requested,
                    (unsigned long long) items[i].reservation, (unsigned long long) items[i].limit, items[i].priority,
                    items[i].weight, (unsigned long long) allocation_score(&items[i]), (unsigned long long) items[i].granted,
                    (unsigned long long) items[i].busy, (unsigned long long) items[i].scheduler);
    assert_int_equal(buffer_take(&out, &text), 0);
    golden_compare("engine/allocation.txt", text);
}

/* --- advisor --------------------------------------------------------------------------------------------------------- */

static void compare_advice(const char *path, const struct need *need, bool accelerated) {
    struct advisor_host host = { .cpus = 8000, .memory = 16 * GIB };
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    _cleanup_free_ char *text = NULL;
    struct advice advice;

    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
        kind_facts_init(&host.kinds[kind], (enum kind) kind, accelerated);
    host.kinds[KIND_CONTAINER].learnt.memory = 40 * MIB;
    host.kinds[KIND_CONTAINER].learnt.advised = 52 * MIB;
    host.kinds[KIND_CONTAINER].learnt.instances = 3;
    assert_int_equal(advise(need, &host, &advice, NULL), 0);
    emit_object(&emitter);
    advice_emit(&advice, &emitter);
    emit_object_end(&emitter);
    assert_int_equal(buffer_take(&buffer, &text), 0);
    golden_compare_json(path, parsed(text));
}

static void test_advice(void **state) {
    struct need need;

    need_init(&need);
    compare_advice("engine/advice.json", &need, true);
    need.untrusted = true;
    need.memory = 2 * GIB;
    compare_advice("engine/advice-untrusted.json", &need, true);
    compare_advice("engine/advice-emulated.json", &need, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start), cmocka_unit_test(test_giving_way), cmocka_unit_test(test_placement),
        cmocka_unit_test(test_plan),  cmocka_unit_test(test_shares),     cmocka_unit_test(test_advice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
