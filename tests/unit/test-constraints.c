// SPDX-License-Identifier: GPL-2.0-or-later
/* Labels, taints, affinity, anti-affinity and spread in the engine: by hand, against the filters of placement, and made again
 * from the ledger. */
#include "test.h"

#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/text.h"
#include "engine/ledger.h"
#include "engine/placement.h"
#include "model/instance.h"
#include "model/placement.h"
#include "shrink.h"

#define GIB (UINT64_C(1) << 30)
#define LIST(...) ((char *[]){ __VA_ARGS__, NULL })

static struct engine *engine_of(uint64_t cpus) {
    struct engine_node node = { .cpus = cpus, .memory = 64 * GIB };
    struct engine_options options;
    struct engine *engine = NULL;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    engine_options_init(&options);
    assert_int_equal(policy_find("fcfs", &options.policy, NULL), 0);
    assert_int_equal(engine_new(&node, &options, &engine), 0);
    return engine;
}

static struct engine_request asked(const char *id, char **labels) {
    return (struct engine_request){ .id = id, .kind = KIND_VM, .cpus = 1000, .memory = GIB, .userdata = (void *) id,
                                    .wishes.lists[WISH_LABELS] = labels };
}

static void submit(struct engine *engine, const char *id, char **labels, enum engine_wish wish, char **terms) {
    struct engine_request request = asked(id, labels);

    request.wishes.lists[wish] = terms;
    assert_int_equal(engine_submit(engine, &request, 5), 0);
}

/* Who starts now, in order, joined by blanks. */
static void expect_starts(struct engine *engine, const char *names) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_free_ char *text = NULL;
    struct engine_decision decision;

    assert_int_equal(engine_run(engine, 10), 0);
    while (engine_next(engine, &decision))
        buffer_addf(&out, "%s%s", out.size ? " " : "", (const char *) decision.userdata);
    buffer_addf(&out, "%s", "");
    assert_int_equal(buffer_take(&out, &text), 0);
    assert_string_equal(text ? text : "", names);
}

static struct engine_refusal refusal_of(struct engine *engine, const char *id) {
    struct engine_explanation why;

    engine_explain(engine, id, &why);
    assert_true(why.barred);
    return why.refusal;
}

static void test_labels_and_features(void **state) {
    struct engine *engine = engine_of(8000);
    struct engine_request request = asked("x", NULL);
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_int_equal(engine_set_place(engine, LIST("zone=a", "avx2"), NULL, 1), 0);
    submit(engine, "here", NULL, WISH_NODE_LABELS, LIST("zone=a", "zone!=b"));
    submit(engine, "fast", NULL, WISH_FEATURES, LIST("avx2"));
    submit(engine, "there", NULL, WISH_NODE_LABELS, LIST("zone=b"));
    submit(engine, "not-here", NULL, WISH_NODE_LABELS, LIST("zone!=a"));
    submit(engine, "after", NULL, WISH_LABELS, NULL); /* nobody stands in its way */
    expect_starts(engine, "here fast after");
    assert_int_equal(refusal_of(engine, "there").filter, FILTER_TRAIT);
    assert_string_equal(refusal_of(engine, "there").term, "zone=b");
    /* Asked at once, what no node has is impossible. */
    request.wishes.lists[WISH_NODE_LABELS] = LIST("zone=b");
    assert_true(engine_check(engine, &request, &error) < 0);
    assert_int_equal(error.code, ERROR_UNPLACEABLE);
    assert_string_equal(error.parameters[0], "none has the label zone=b");
    /* The node changes: those that wait are looked at again, those that run run on. */
    assert_int_equal(engine_set_place(engine, LIST("zone=b"), NULL, 20), 0);
    expect_starts(engine, "there not-here");
    engine_free(engine);
}

static void test_taints(void **state) {
    struct engine *engine = engine_of(8000);

    assert_int_equal(engine_set_place(engine, NULL, LIST("maintenance", "gpu=yes"), 1), 0);
    submit(engine, "plain", NULL, WISH_LABELS, NULL);
    submit(engine, "half", NULL, WISH_TOLERATIONS, LIST("maintenance"));
    submit(engine, "wrong", NULL, WISH_TOLERATIONS, LIST("maintenance", "gpu=no"));
    submit(engine, "both", NULL, WISH_TOLERATIONS, LIST("maintenance", "gpu"));
    expect_starts(engine, "both");
    assert_string_equal(refusal_of(engine, "plain").term, "maintenance");
    assert_string_equal(refusal_of(engine, "half").term, "gpu=yes");
    assert_int_equal(refusal_of(engine, "wrong").filter, FILTER_TAINT);
    assert_int_equal(engine_set_place(engine, NULL, LIST("maintenance"), 20), 0);
    expect_starts(engine, "half wrong");
    assert_int_equal(engine_set_place(engine, NULL, NULL, 30), 0);
    expect_starts(engine, "plain");
    engine_free(engine);
}

static void test_affinity(void **state) {
    struct engine *engine = engine_of(8000);

    submit(engine, "web", LIST("app=web"), WISH_AFFINITY, LIST("app=db"));
    submit(engine, "log", LIST("app=log"), WISH_AFFINITY, LIST("name=web"));
    submit(engine, "own", LIST("app=own"), WISH_AFFINITY, LIST("app=own")); /* the first of its own group */
    expect_starts(engine, "own");
    assert_int_equal(refusal_of(engine, "web").filter, FILTER_AFFINITY);
    /* One start brings the next, in one go. */
    submit(engine, "db", LIST("app=db", "tier=1"), WISH_LABELS, LIST("app=db", "tier=1"));
    expect_starts(engine, "db web log");
    submit(engine, "rack", NULL, WISH_AFFINITY, LIST("app:rack"));
    expect_starts(engine, "");
    assert_int_equal(engine_set_place(engine, LIST("rack=r1"), NULL, 1), 0);
    expect_starts(engine, "rack");
    engine_free(engine);
}

static void test_anti_affinity(void **state) {
    struct engine *engine = engine_of(3000);
    struct engine_refusal refusal;

    submit(engine, "web-1", LIST("app=web"), WISH_ANTI_AFFINITY, LIST("app=web"));
    submit(engine, "web-2", LIST("app=web"), WISH_ANTI_AFFINITY, LIST("app=web"));
    submit(engine, "batch", LIST("app=batch"), WISH_LABELS, LIST("app=batch"));
    expect_starts(engine, "web-1 batch"); /* of the two the first; the second is in nobody's way */
    refusal = refusal_of(engine, "web-2");
    assert_int_equal(refusal.filter, FILTER_ANTI_AFFINITY);
    assert_string_equal(refusal.other, "web-1");
    assert_false(refusal.against || refusal.ahead);
    /* It holds for both sides: who keeps away from a label keeps those that have it away. */
    submit(engine, "shy", NULL, WISH_ANTI_AFFINITY, LIST("app=noisy"));
    expect_starts(engine, "shy");
    submit(engine, "noisy", LIST("app=noisy"), WISH_LABELS, LIST("app=noisy"));
    expect_starts(engine, "");
    assert_true(refusal_of(engine, "noisy").against);
    engine_release(engine, "shy", true, 20);
    expect_starts(engine, "noisy");
    engine_release(engine, "web-1", true, 30);
    expect_starts(engine, "web-2");
    engine_free(engine);
}

/* Who keeps away from one, by which term: what the node does not lie in keeps nobody away. */
static void expect_against(struct engine *engine, const char *id, const char *expected) {
    const char *term = NULL;
    size_t position = 0;

    assert_int_equal(engine_against(engine, id, &position, &term), expected != NULL);
    if (expected)
        assert_string_equal(term, expected);
    assert_false(engine_against(engine, id, &position, &term));
}

static void test_levels_of_anti_affinity(void **state) {
    struct engine *engine = engine_of(8000);
    struct engine_request changed = asked("shy", NULL);

    submit(engine, "far", NULL, WISH_ANTI_AFFINITY, LIST("app=a:zone"));
    submit(engine, "shy", NULL, WISH_ANTI_AFFINITY, LIST("app=b:zone", "app=b"));
    expect_starts(engine, "far shy");
    submit(engine, "a", LIST("app=a"), WISH_LABELS, LIST("app=a"));
    submit(engine, "b", LIST("app=b"), WISH_LABELS, LIST("app=b"));
    expect_against(engine, "a", NULL);
    expect_against(engine, "b", "app=b");
    expect_starts(engine, "a");
    assert_int_equal(engine_set_place(engine, LIST("zone=z"), NULL, 1), 0);
    expect_against(engine, "a", "app=a:zone");
    expect_against(engine, "b", "app=b:zone");
    expect_starts(engine, "");
    assert_string_equal(refusal_of(engine, "b").term, "app=b:zone");
    /* It does not any more: nobody else keeps away from b. */
    assert_int_equal(engine_change(engine, &changed, 20, NULL), 0);
    expect_against(engine, "b", NULL);
    expect_starts(engine, "b");
    /* The last of them goes. */
    submit(engine, "a2", LIST("app=a"), WISH_LABELS, LIST("app=a"));
    expect_starts(engine, "");
    assert_string_equal(refusal_of(engine, "a2").other, "far");
    engine_release(engine, "far", true, 30);
    expect_starts(engine, "a2");
    engine_free(engine);
}

/* One that comes first and waits for room keeps its place against one that it keeps away. */
static void test_order_of_those_that_exclude_each_other(void **state) {
    struct engine *engine = engine_of(2000);
    struct engine_request large = asked("large", LIST("app=a"));
    struct engine_explanation why;

    submit(engine, "holder", NULL, WISH_LABELS, NULL);
    expect_starts(engine, "holder");
    large.cpus = 2000;
    assert_int_equal(engine_submit(engine, &large, 5), 0);
    submit(engine, "small", NULL, WISH_ANTI_AFFINITY, LIST("app=a"));
    expect_starts(engine, "");
    assert_true(refusal_of(engine, "small").ahead);
    assert_string_equal(refusal_of(engine, "small").other, "large");
    engine_explain(engine, "large", &why);
    assert_false(why.barred);
    assert_string_equal(why.resource, "cpus");
    engine_explain(engine, "small", &why);
    assert_int_equal(why.position, 2);
    engine_release(engine, "large", false, 20); /* it gave up */
    expect_starts(engine, "small");
    engine_free(engine);
}

static void test_spread(void **state) {
    struct engine *engine = engine_of(8000);

    submit(engine, "node", LIST("app=a"), WISH_SPREAD, LIST("app=a"));
    submit(engine, "zone", LIST("app=a"), WISH_SPREAD, LIST("app=a:zone"));
    expect_starts(engine, "node");
    assert_int_equal(refusal_of(engine, "zone").filter, FILTER_SPREAD);
    assert_int_equal(engine_set_place(engine, LIST("zone=z"), NULL, 1), 0);
    expect_starts(engine, "zone");
    engine_free(engine);
}

static void test_supposed_nodes(void **state) {
    struct engine *engine = engine_of(8000);
    struct engine_verdict_of verdict;
    size_t position = 0;

    assert_int_equal(engine_set_place(engine, LIST("zone=a"), NULL, 1), 0);
    submit(engine, "bound", NULL, WISH_NODE_LABELS, LIST("zone=a"));
    submit(engine, "tough", NULL, WISH_TOLERATIONS, LIST("old"));
    expect_starts(engine, "bound tough");
    assert_true(engine_suppose_place(engine, NULL, LIST("old"), false, &position, &verdict));
    assert_int_equal(verdict.now.filter, FILTER_PASSED);
    assert_int_equal(verdict.then.filter, FILTER_TAINT);
    assert_true(engine_suppose_place(engine, NULL, LIST("old"), false, &position, &verdict));
    assert_true(verdict.runs && verdict.then.filter == FILTER_PASSED);
    assert_false(engine_suppose_place(engine, NULL, NULL, false, &position, &verdict));
    position = 0;
    assert_true(engine_suppose_place(engine, NULL, NULL, true, &position, &verdict));
    assert_int_equal(verdict.then.filter, FILTER_CLOSED);
    engine_free(engine);
}

/* --- at random -------------------------------------------------------------------------------------------------------- */

#define CROWD 24

static uint64_t dice(uint64_t *seed, uint64_t limit) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % limit;
}

static char ids[CROWD][8];
static char *const apps[] = { (char *) "app=a", (char *) "app=b", (char *) "app=c", (char *) "app", (char *) "name=i3" };
static char *const anywhere[] = { (char *) "app=a", (char *) "app=b:zone", (char *) "app=c:rack", (char *) "app:node", (char *) "name=i3" };

struct member {
    bool present;
    struct engine_wishes wishes;
    char *lists[WISH_COUNT][3];
};
static struct member crowd[CROWD];

static void random_wishes(struct member *member, uint64_t *seed) {
    memset(member->lists, 0, sizeof(member->lists));
    member->lists[WISH_LABELS][0] = apps[dice(seed, 3)];
    if (dice(seed, 3) == 0)
        member->lists[WISH_NODE_LABELS][0] = (char *) (dice(seed, 2) ? "zone=z" : "zone!=z");
    if (dice(seed, 3) == 0)
        member->lists[WISH_TOLERATIONS][0] = (char *) "t";
    if (dice(seed, 4) == 0)
        member->lists[WISH_AFFINITY][0] = anywhere[dice(seed, 5)];
    if (dice(seed, 3) == 0)
        member->lists[WISH_ANTI_AFFINITY][0] = anywhere[dice(seed, 5)];
    if (dice(seed, 5) == 0)
        member->lists[WISH_SPREAD][0] = anywhere[dice(seed, 5)];
    for (int i = 0; i < WISH_COUNT; i++)
        member->wishes.lists[i] = member->lists[i];
}

static void random_event(struct engine *engine, uint64_t *seed, uint64_t now) {
    size_t i = dice(seed, CROWD);
    struct engine_request request;
    struct member before;

    if (dice(seed, 20) == 0) {
        char *traits[] = { (char *) "zone=z", (char *) "rack=r", NULL }, *taints[] = { (char *) "t", NULL };
        size_t skip = dice(seed, 3);
        assert_int_equal(engine_set_place(engine, traits + skip, taints + dice(seed, 2), now), 0);
        return;
    }
    if (crowd[i].present && dice(seed, 3)) {
        engine_release(engine, ids[i], dice(seed, 2), now);
        crowd[i].present = false;
        return;
    }
    before = crowd[i];
    random_wishes(&crowd[i], seed);
    request = (struct engine_request){ .id = ids[i], .kind = KIND_VM, .cpus = 100 + dice(seed, 3000), .memory = GIB,
                                       .priority = (int64_t) dice(seed, 5), .wishes = crowd[i].wishes, .userdata = ids[i] };
    if (crowd[i].present && engine_change(engine, &request, now, NULL) < 0)
        crowd[i] = before; /* it would have grown beyond the room there is */
    else if (crowd[i].present)
        return;
    else if (dice(seed, 12))
        assert_int_equal(engine_submit(engine, &request, now), 0);
    else
        assert_int_equal(engine_occupy(engine, &request, now), 0);
    crowd[i].present = true;
}

/* What the filters of placement say of one beside those that run. */
static bool filters_pass(struct engine *engine, size_t i) {
    _cleanup_nodes_ struct nodes *nodes = NULL;
    struct node_description description = { .name = "n", .cpus = 1000000, .memory = GIB, .traits = engine_traits(engine),
                                            .taints = engine_taints(engine) };
    struct placement_request request;
    uint32_t fewest[CONSTRAINTS_MAX], slot;

    for (char *const *trait = engine_traits(engine); trait && *trait; trait++) {
        description.zone = text_starts(*trait, "zone=") ? *trait + 5 : description.zone;
        description.rack = text_starts(*trait, "rack=") ? *trait + 5 : description.rack;
    }
    assert_int_equal(nodes_new(&nodes), 0);
    assert_int_equal(nodes_add(nodes, &description, NULL), 0);
    placement_request_init(&request, ids[i]);
    for (char *const *taint = engine_taints(engine); taint && *taint; taint++)
        if (placement_tolerates(crowd[i].lists[WISH_TOLERATIONS], *taint))
            assert_int_equal(placement_tolerate(nodes, &request, *taint, NULL), 0);
    for (char **term = crowd[i].lists[WISH_NODE_LABELS]; *term; term++) {
        _cleanup_free_ char *refused = placement_refused_label(*term);
        assert_int_equal(refused ? placement_refuse(nodes, &request, refused, NULL)
                                 : placement_require(nodes, &request, *term, NULL), 0);
    }
    for (int type = CONSTRAINT_AFFINITY; type <= CONSTRAINT_SPREAD; type++)
        for (char **term = crowd[i].lists[WISH_AFFINITY + type]; *term; term++) {
            enum placement_level level;
            _cleanup_free_ char *selector = placement_selector(*term, &level);
            struct node_share share = { .group = nodes_number(nodes, NAMES_GROUPS, selector, true) };
            for (size_t j = 0; j < CROWD; j++) {
                struct engine_explanation why;
                engine_explain(engine, ids[j], &why);
                if (j != i && crowd[j].present && why.standing == ENGINE_ADMITTED &&
                    placement_selects(selector, ids[j], crowd[j].lists[WISH_LABELS]) &&
                    nodes_group_size(nodes, (unsigned) share.group) < engine_selected(engine, *term, ids[i]))
                    assert_int_equal(nodes_take(nodes, 0, &share, &slot), 0);
            }
            assert_int_equal(nodes_group_size(nodes, (unsigned) share.group), engine_selected(engine, *term, ids[i]));
            assert_int_equal(placement_constrain(nodes, &request, (enum constraint_type) type, selector, (enum node_level) level, 1,
                                                 NULL), 0);
            request.constraints[request.constraint_count - 1].own =
                placement_selects(selector, ids[i], crowd[i].lists[WISH_LABELS]);
        }
    for (size_t position = 0; request.constraint_count < CONSTRAINTS_MAX;) {
        const char *term;
        enum placement_level level;
        if (!engine_against(engine, ids[i], &position, &term))
            break;
        level = placement_level(term);
        struct node_share share = { .group = nodes_number(nodes, NAMES_GROUPS, "against", true) };
        assert_int_equal(nodes_take(nodes, 0, &share, &slot), 0);
        assert_int_equal(placement_constrain(nodes, &request, CONSTRAINT_ANTI_AFFINITY, "against", (enum node_level) level, 1, NULL),
                         0);
    }
    filter_fewest(nodes, &request, fewest);
    return filter_static(nodes, nodes_get(nodes, 0), &request.shape) == FILTER_PASSED &&
           filter_constraints(nodes, 0, &request, fewest) == FILTER_PASSED;
}

/* Who is barred is so for a reason that the filters of placement agree with, or for one that comes before it; who is not barred
 * passes them. */
static bool is_rightly_barred(struct engine *engine, uint64_t *barred) {
    for (size_t i = 0; i < CROWD; i++) {
        struct engine_explanation why;
        engine_explain(engine, ids[i], &why);
        if (!crowd[i].present || why.standing != ENGINE_QUEUED)
            continue;
        *barred += why.barred;
        if (why.barred && why.refusal.ahead ? !why.refusal.other : filters_pass(engine, i) == why.barred)
            return false;
        if (why.barred && why.refusal.filter == FILTER_PASSED)
            return false;
    }
    return true;
}

static void run(struct engine *engine, uint64_t now) {
    struct engine_decision decision;

    assert_int_equal(engine_run(engine, now), 0);
    while (engine_next(engine, &decision))
        if (decision.verdict != ENGINE_START)
            engine_refused(engine, decision.userdata, now);
}

static struct engine *restored(const struct buffer *checkpoint) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct json_object *json = NULL;
    struct engine *engine = NULL;

    assert_int_equal(json_parse(checkpoint->data, checkpoint->size - 1, &json, &error), 0);
    assert_int_equal(engine_restore(json, &engine, &error), 0);
    json_put(json);
    return engine;
}

static bool is_made_again(const struct buffer *checkpoint, const char *journal, size_t size) {
    struct engine *again = restored(checkpoint);
    _cleanup_free_ char *repeated = NULL;
    struct json_object *json = NULL;
    size_t repeated_size;

    for (const char *line = journal, *end; (end = strchr(line, '\n')); line = end + 1) {
        assert_int_equal(json_parse(line, (size_t) (end - line), &json, NULL), 0);
        assert_int_equal(engine_repeat(again, json, NULL), 0);
        json_put(json);
    }
    assert_int_equal(engine_take_journal(again, &repeated, &repeated_size), 0);
    engine_free(again);
    return repeated_size == size && memcmp(repeated, journal, size) == 0;
}

/* Plays the events of an example, one after the other, and then makes those of the second half again from a checkpoint. */
static bool play(struct engine *engine, const struct example *example,
                 bool (*event)(struct engine *, const uint64_t *numbers, size_t index, void *userdata), void *userdata) {
    _cleanup_buffer_ struct buffer checkpoint = BUFFER_INIT;
    _cleanup_free_ char *journal = NULL;
    size_t size;

    for (size_t i = 0; i < example->count; i++) {
        if (i == example->count / 2) {
            assert_int_equal(engine_take_journal(engine, &journal, &size), 0);
            free(STEAL_PTR(journal));
            assert_int_equal(engine_checkpoint(engine, &checkpoint), 0);
        }
        if (!event(engine, example->items[i], i, userdata))
            return false;
    }
    assert_int_equal(engine_take_journal(engine, &journal, &size), 0);
    return example->count == 0 || is_made_again(&checkpoint, journal, size);
}

#define EVENTS 300
static uint64_t events[EVENTS][EXAMPLE_WIDTH];

static void name_crowd(void) {
    for (size_t i = 0; i < CROWD; i++)
        snprintf(ids[i], sizeof(ids[i]), "i%zu", i);
    memset(crowd, 0, sizeof(crowd));
}

struct random_crowd {
    uint64_t now, barred;
};

static bool random_turn(struct engine *engine, const uint64_t *numbers, size_t index, void *userdata) {
    struct random_crowd *state = userdata;
    uint64_t seed = numbers[0];

    random_event(engine, &seed, state->now);
    run(engine, state->now += dice(&seed, 5000000));
    return is_rightly_barred(engine, &state->barred);
}

/* Policy and backfilling by the round, and what each event is by its own seed. */
static const char *const crowd_numbers[] = { "round", NULL }, *const crowd_events[] = { "seed", NULL };

static bool filters_agree(const struct example *example, void *userdata) {
    static const char *const names[] = { "fcfs", "sjf", "rr", "priority", "dynamic", "polder" };
    struct random_crowd state = { .now = 1000000000 };
    uint64_t round = example->head[0], *barred = userdata;
    struct engine *engine = engine_of(8000);
    struct engine_options options;

    name_crowd();
    engine_options_init(&options);
    assert_int_equal(policy_find(names[round % ELEMENTS(names)], &options.policy, NULL), 0);
    options.backfill = options.policy->by_arrival ? BACKFILL_NONE : (enum backfill) (round / 6 % BACKFILL_COUNT);
    assert_int_equal(engine_record(engine, 1), 0);
    assert_int_equal(engine_configure(engine, &options, state.now), 0);
    bool holds = play(engine, example, random_turn, &state);
    engine_free(engine);
    *barred += state.barred;
    return holds;
}

static void test_at_random(void **state) {
    uint64_t barred = 0, seed = 1;
    const struct property property = { crowd_numbers, crowd_events, filters_agree, &barred };

    for (uint64_t round = 0; round < 60; round++) {
        struct example example = { .head = { round }, .count = EVENTS, .items = events };
        memset(events, 0, sizeof(events));
        for (size_t i = 0; i < EVENTS; i++)
            events[i][0] = dice(&seed, UINT64_MAX);
        property_check(&property, &example);
    }
    assert_true(barred > 1000);
}

/* --- what is guaranteed ----------------------------------------------------------------------------------------------- */

static struct engine_request promised(const char *id, enum kind kind, struct engine_guarantee guarantee) {
    return (struct engine_request){ .id = id, .kind = kind, .cpus = 1000, .memory = GIB, .userdata = (void *) id,
                                    .guarantee = guarantee };
}

static void submit_promised(struct engine *engine, const char *id, enum kind kind, struct engine_guarantee guarantee) {
    struct engine_request request = promised(id, kind, guarantee);

    assert_int_equal(engine_submit(engine, &request, 5), 0);
}

/* Four processors, of which three can be owned; 64 GiB. */
static void test_guarantees(void **state) {
    struct engine *engine = engine_of(4000);
    struct engine_explanation why;
    struct engine_request request;

    submit_promised(engine, "owner", KIND_VM, (struct engine_guarantee){ 2000, GIB, true });
    submit_promised(engine, "second", KIND_VM, (struct engine_guarantee){ 2000, GIB, true });
    submit_promised(engine, "floor", KIND_VM, (struct engine_guarantee){ .cpus = 1000 });
    submit_promised(engine, "plain", KIND_VM, (struct engine_guarantee){ 0 });
    submit_promised(engine, "fake", KIND_FAKE, (struct engine_guarantee){ 3000, 64 * GIB, true });
    expect_starts(engine, "owner plain fake"); /* fake ones are counted apart */
    assert_int_equal(refusal_of(engine, "second").filter, FILTER_CPU);
    assert_int_equal(refusal_of(engine, "second").wanted, 2000);
    assert_int_equal(refusal_of(engine, "second").free, 1000);
    assert_string_equal(refusal_of(engine, "second").other, "owner");
    /* There would be enough for it, but it does not go ahead. */
    assert_true(refusal_of(engine, "floor").ahead);
    assert_string_equal(refusal_of(engine, "floor").other, "second");
    /* Asking for less, it may start. */
    request = promised("second", KIND_VM, (struct engine_guarantee){ 1000, GIB, true });
    assert_int_equal(engine_change(engine, &request, 20, NULL), 0);
    expect_starts(engine, "second");
    engine_explain(engine, "floor", &why);
    assert_false(why.barred);
    assert_string_equal(why.resource, "cpus"); /* four run, of one processor each */
    engine_release(engine, "owner", true, 30);
    expect_starts(engine, "floor");
    engine_free(engine);
}

/* What the node could not guarantee if it were empty waits, and holds up nobody; who waits is told of those before it alone. */
static void test_guarantees_that_cannot_be(void **state) {
    struct engine *engine = engine_of(4000);

    submit_promised(engine, "huge", KIND_VM, (struct engine_guarantee){ 4000, GIB, true });
    submit_promised(engine, "first", KIND_VM, (struct engine_guarantee){ 2000, GIB, true });
    submit_promised(engine, "second", KIND_VM, (struct engine_guarantee){ 2000, GIB, true });
    submit_promised(engine, "third", KIND_VM, (struct engine_guarantee){ .cpus = 1000 });
    submit_promised(engine, "fourth", KIND_VM, (struct engine_guarantee){ .cpus = 1000 });
    expect_starts(engine, "first");
    assert_int_equal(refusal_of(engine, "huge").free, 1000);
    assert_true(refusal_of(engine, "third").ahead);
    assert_int_equal(refusal_of(engine, "third").others, 2); /* huge and second, not fourth */
    engine_free(engine);
}

static void test_guarantee_of_memory(void **state) {
    struct engine *engine = engine_of(8000);

    submit_promised(engine, "most", KIND_VM, (struct engine_guarantee){ .memory = 60 * GIB });
    submit_promised(engine, "more", KIND_CONTAINER, (struct engine_guarantee){ .memory = 5 * GIB });
    expect_starts(engine, "most");
    assert_int_equal(refusal_of(engine, "more").filter, FILTER_MEMORY);
    assert_int_equal(refusal_of(engine, "more").free, 4 * GIB);
    engine_release(engine, "most", false, 20);
    expect_starts(engine, "more");
    engine_free(engine);
}

struct promised_one {
    struct engine_guarantee guarantee;
    bool present, runs;
    uint64_t since;
};
struct promised_crowd {
    struct promised_one ones[CROWD];
    uint64_t last_started; /* of those that are guaranteed something, when it asked */
};

/* The sums stay within the node, and of two that ask for some the later never starts while the earlier waits for it. */
static bool are_kept(const struct promised_crowd *state) {
    uint64_t cpus = 0, memory = 0, owned = 0;

    for (size_t i = 0; i < CROWD; i++) {
        const struct promised_one *one = &state->ones[i];
        cpus += one->present && one->runs ? one->guarantee.cpus : 0;
        memory += one->present && one->runs ? one->guarantee.memory : 0;
        owned += one->present && one->runs && one->guarantee.owned ? one->guarantee.cpus : 0;
        if (one->present && !one->runs && one->guarantee.cpus + one->guarantee.memory > 0 && one->since <= state->last_started)
            return false;
    }
    return cpus <= 8000 && memory <= 64 * GIB && owned <= 7000;
}

static const char *const no_numbers[] = { NULL };
static const char *const promise_events[] = { "who", "cpus", "gib", "owned", NULL };

static bool promise_turn(struct engine *engine, const uint64_t *numbers, size_t index, void *userdata) {
    struct promised_crowd *state = userdata;
    struct promised_one *one = &state->ones[numbers[0] % CROWD];
    const char *id = ids[numbers[0] % CROWD];
    uint64_t now = index + 1;
    struct engine_decision decision;

    if (one->present) {
        engine_release(engine, id, true, now);
        one->present = false;
    } else {
        struct engine_guarantee guarantee = { numbers[1] % 5 * 1000, numbers[2] % 20 * GIB, numbers[3] % 2 };
        struct engine_request request = promised(id, KIND_VM, guarantee);
        request.cpus = request.memory = 1; /* nobody waits for room */
        *one = (struct promised_one){ guarantee, true, false, now };
        assert_int_equal(engine_submit(engine, &request, now), 0);
    }
    assert_int_equal(engine_run(engine, now), 0);
    while (engine_next(engine, &decision)) {
        one = &state->ones[atoi((const char *) decision.userdata + 1)];
        one->runs = true;
        if (one->guarantee.cpus + one->guarantee.memory > 0 && one->since > state->last_started)
            state->last_started = one->since;
    }
    return are_kept(state);
}

static bool promises_are_kept(const struct example *example, void *userdata) {
    struct promised_crowd state = { 0 };
    struct engine *engine = engine_of(8000);

    name_crowd();
    assert_int_equal(engine_record(engine, 1), 0);
    bool holds = play(engine, example, promise_turn, &state);
    engine_free(engine);
    return holds;
}

static void test_guarantees_at_random(void **state) {
    const struct property property = { no_numbers, promise_events, promises_are_kept, NULL };

    for (uint64_t round = 1; round <= 40; round++) {
        struct example example = { .count = EVENTS, .items = events };
        uint64_t seed = round;
        memset(events, 0, sizeof(events));
        for (size_t i = 0; i < EVENTS; i++) {
            const uint64_t numbers[] = { dice(&seed, CROWD), dice(&seed, 5), dice(&seed, 20), dice(&seed, 2) };
            memcpy(events[i], numbers, sizeof(numbers));
        }
        property_check(&property, &example);
    }
}

/* This is false: two that ask are all that is left of three hundred. */
static bool no_more_than_seven_are_asked_for(const struct example *example, void *userdata) {
    uint64_t cpus = 0;

    for (size_t i = 0; i < example->count; i++)
        cpus += example->items[i][1] % 5;
    return promises_are_kept(example, NULL) && cpus <= 7;
}

static void test_false_property_is_told_small(void **state) {
    const struct property property = { no_numbers, promise_events, no_more_than_seven_are_asked_for, NULL };
    struct example example = { .count = EVENTS, .items = events };
    uint64_t seed = 3;

    memset(events, 0, sizeof(events));
    for (size_t i = 0; i < EVENTS; i++) {
        events[i][0] = dice(&seed, CROWD);
        events[i][1] = 4;
    }
    example_shrink(&property, &example);
    _cleanup_free_ char *text = example_text(&property, &example);
    assert_string_equal(text, " | who 0, cpus 4, gib 0, owned 0 | who 0, cpus 4, gib 0, owned 0");
}

/* --- terms ------------------------------------------------------------------------------------------------------------ */

static void expect_contradiction(struct instance_spec spec, const char *field, const char *reason) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_true(placement_validate(&spec, "web-1", &error) < 0);
    assert_int_equal(error.code, ERROR_BAD_VALUE);
    assert_string_equal(error.parameters[0], field);
    if (!strstr(error.parameters[2], reason))
        fail_msg("%s is not in %s", reason, error.parameters[2]);
}

static void test_contradictions(void **state) {
    struct instance_spec fine = { .affinity = LIST("app=db:zone"), .anti_affinity = LIST("app=db", "app=web") };

    expect_contradiction((struct instance_spec){ .node_labels = LIST("zone=a", "zone=b") }, "node_labels", "zone=b");
    expect_contradiction((struct instance_spec){ .node_labels = LIST("zone=a", "zone!=a") }, "node_labels", "zone!=a");
    expect_contradiction((struct instance_spec){ .affinity = LIST("app=db"), .anti_affinity = LIST("app=db") }, "anti_affinity",
                         "near and away at once");
    expect_contradiction((struct instance_spec){ .affinity = LIST("app=db"), .anti_affinity = LIST("app=db:zone") },
                         "anti_affinity", "near and away at once");
    expect_contradiction((struct instance_spec){ .affinity = LIST("app=a"), .spread = LIST("app=a:zone") }, "spread", "as many");
    expect_contradiction((struct instance_spec){ .anti_affinity = LIST("app=a:zone"), .spread = LIST("app=a") }, "spread",
                         "leave one of them out");
    expect_contradiction((struct instance_spec){ .anti_affinity = LIST("name=web-1") }, "anti_affinity", "from itself");
    assert_int_equal(placement_validate(&fine, "web-1", NULL), 0); /* in one zone, on different nodes */
    fine = (struct instance_spec){ .node_labels = LIST("zone=a", "zone!=b", "disk!=hdd", "disk!=tape") };
    assert_int_equal(placement_validate(&fine, "web-1", NULL), 0);
}

static void test_terms(void **state) {
    static const char *const selectors[] = { "app", "app=web", "app=web:zone", "name=x", "a/b.c=d:e" };
    static const char *const no_selectors[] = { "", "=web", "app=", ":zone", "app=:zone" };

    for (size_t i = 0; i < ELEMENTS(selectors); i++)
        assert_null(placement_check_selector(selectors[i]));
    for (size_t i = 0; i < ELEMENTS(no_selectors); i++)
        assert_non_null(placement_check_selector(no_selectors[i]));
    assert_true(placement_selects("app=web:zone", "x", LIST("app=web")));
    assert_true(placement_selects("app=we:b", "x", LIST("app=we:b")));
    assert_false(placement_selects("app=we", "x", LIST("app=web")));
    assert_true(placement_selects("app:rack", "x", LIST("app=web")));
    assert_false(placement_selects("ap", "x", LIST("app=web")));
    assert_true(placement_selects("name=x:rack", "x", NULL));
    assert_non_null(placement_check_node_label("zone"));
    assert_non_null(placement_check_node_label("zone="));
    assert_non_null(placement_check_toleration("a b"));
    assert_null(placement_check_node_label("zone!=a"));
    assert_true(placement_label_holds("zone!=a", NULL));
    assert_false(placement_label_holds("zone!=a", LIST("zone=a")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labels_and_features),
        cmocka_unit_test(test_taints),
        cmocka_unit_test(test_affinity),
        cmocka_unit_test(test_anti_affinity),
        cmocka_unit_test(test_levels_of_anti_affinity),
        cmocka_unit_test(test_order_of_those_that_exclude_each_other),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_supposed_nodes),
        cmocka_unit_test(test_guarantees),
        cmocka_unit_test(test_guarantees_that_cannot_be),
        cmocka_unit_test(test_guarantee_of_memory),
        cmocka_unit_test(test_guarantees_at_random),
        cmocka_unit_test(test_at_random),
        cmocka_unit_test(test_false_property_is_told_small),
        cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_terms),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
