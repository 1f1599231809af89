// SPDX-License-Identifier: GPL-2.0-or-later
/* The choice of a kind: scores by hand, exclusions, what would change the answer. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "engine/advisor.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static void host_init(struct advisor_host *host, bool accelerated) {
    *host = (struct advisor_host){ .cpus = 8000, .memory = 16 * GIB };
    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
        kind_facts_init(&host->kinds[kind], (enum kind) kind, accelerated);
}

static void ask(const struct need *need, const struct advisor_host *host, struct advice *ret) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_int_equal(advise(need, host, ret, &error), 0);
}

/* By hand, for a container of 256 MiB and one CPU on 8 CPUs and 16 GiB:
 * performance (6 x 1000 + 3 x 1000000/1030 + 1000) / 10 = (6000 + 2910 + 1000) / 10 = 991
 * resources 256/259 = 988; security 500; compatibility 850; holds min(8, 16384/259 = 63) = 8, as the microvm: cost 1000
 * total (3 x 991 + 3 x 988 + 500 + 2 x 850 + 1000) / 10 = 9137 / 10 = 914 */
static void test_scores(void **state) {
    struct advisor_host host;
    struct advice advice;
    struct need need;

    host_init(&host, true);
    need_init(&need);
    ask(&need, &host, &advice);
    const struct kind_advice *container = &advice.kinds[KIND_CONTAINER];
    assert_int_equal(container->scores[CRITERION_PERFORMANCE], 991);
    assert_int_equal(container->scores[CRITERION_RESOURCES], 988);
    assert_int_equal(container->scores[CRITERION_SECURITY], 500);
    assert_int_equal(container->scores[CRITERION_COMPATIBILITY], 850);
    assert_int_equal(container->scores[CRITERION_COST], 1000);
    assert_int_equal(container->holds, 8);
    assert_int_equal(container->total, 914);
    assert_int_equal(advice.kind, KIND_CONTAINER);
    assert_int_equal(advice.second, KIND_MICROVM);
    assert_non_null(strstr(advice.kinds[KIND_VM].excluded, "without a boot loader"));
}

static void test_untrusted_gets_a_kernel(void **state) {
    struct advisor_host host;
    struct advice advice;
    struct need need;

    host_init(&host, true);
    need_init(&need);
    need.untrusted = true;
    ask(&need, &host, &advice);
    assert_int_equal(advice.weights[CRITERION_SECURITY], 8);
    assert_int_equal(advice.kind, KIND_MICROVM);
    host_init(&host, false); /* emulated: slow, and no border that QEMU's project vouches for */
    ask(&need, &host, &advice);
    assert_int_equal(advice.kind, KIND_CONTAINER);
}

static void test_flips_are_true(void **state) {
    struct advisor_host host;
    struct advice advice, changed;
    struct need need;
    unsigned flips = 0;

    host_init(&host, true);
    need_init(&need);
    ask(&need, &host, &advice);
    for (int i = 0; i < CRITERION_COUNT; i++) {
        if (advice.flips[i].kind == KIND_AUTO)
            continue;
        struct need other = need;
        other.weights[i] = advice.flips[i].weight;
        ask(&other, &host, &changed);
        assert_int_equal(changed.kind, advice.flips[i].kind);
        assert_int_not_equal(changed.kind, advice.kind);
        flips++;
    }
    assert_true(flips > 0);
}

static void test_exclusions(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct advisor_host host;
    struct advice advice;
    struct need need;

    host_init(&host, true);
    need_init(&need);
    need.own_kernel = true;
    ask(&need, &host, &advice);
    assert_int_equal(advice.kind, KIND_MICROVM);
    need.oci = false;
    need.disk = need.graphics = true;
    ask(&need, &host, &advice);
    assert_int_equal(advice.kind, KIND_VM);
    assert_int_equal(advice.second, KIND_AUTO);
    host.kinds[KIND_VM].lacking = "qemu-system-x86_64 is not installed";
    assert_true(advise(&need, &host, &advice, &error) < 0);
    assert_int_equal(error.code, ERROR_NOT_SUPPORTED);
    assert_string_equal(error.parameters[2], "qemu-system-x86_64 is not installed");
    assert_int_equal(advice.kind, KIND_AUTO);
}

static void test_weights(void **state) {
    struct advisor_host host;
    struct advice advice;
    struct need need;

    host_init(&host, true);
    need_init(&need);
    assert_int_equal(need_parse_weights("security=10,performance=0,cost=0", &need, NULL), 0);
    assert_int_equal(need.weights[CRITERION_SECURITY], 10);
    assert_int_equal(need.weights[CRITERION_RESOURCES], 3);
    static const char *const bad[] = { "speed=1", "cost", "cost=11", "cost=-1", "cost=nan", "cost=" };
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        assert_true(need_parse_weights(bad[i], &need, &error) < 0);
        assert_int_equal(error.code, ERROR_BAD_VALUE);
    }
    _cleanup_error_ struct error error = ERROR_INIT;
    memset(need.weights, 0, sizeof(need.weights));
    assert_true(advise(&need, &host, &advice, &error) < 0);
    assert_string_equal(error.parameters[0], "weights");
}

/* One that needs 8 GiB of 16: what an image of 256 MiB costs beside does not matter, and two of each kind fit: how well it
 * is isolated decides. By hand, container: resources 8192/8195 = 999, cost 1000 (one holds 16384/8195 = 1, as does a microvm). */
static void test_size_changes_the_answer(void **state) {
    struct advisor_host host;
    struct instance_spec spec;
    struct advice small, large;

    host_init(&host, true);
    assert_int_equal(table_init(&instance_spec_table, &spec), 0);
    spec.memory = 8 * GIB;
    for (int given = 0; given < 2; given++) {
        _cleanup_need_ struct need need = { 0 };
        need_init(&need);
        assert_int_equal(need_of_spec(&need, &spec, false, given), 0);
        assert_int_equal(need.memory, given ? 8 * GIB : 0);
        ask(&need, &host, given ? &large : &small);
    }
    assert_int_equal(small.kinds[KIND_CONTAINER].memory, 256 * MIB);
    assert_int_equal(small.kind, KIND_CONTAINER);
    assert_int_equal(large.kinds[KIND_CONTAINER].scores[CRITERION_RESOURCES], 999);
    assert_int_equal(large.kinds[KIND_CONTAINER].holds, 1);
    /* (3 x 991 + 3 x 999 + 500 + 2 x 850 + 1000) / 10 = 9170 / 10; a microvm (3 x 898 + 3 x 993 + 950 + 2 x 800 + 1000) / 10 */
    assert_int_equal(large.kinds[KIND_CONTAINER].total, 917);
    assert_int_equal(large.kinds[KIND_MICROVM].total, 922);
    assert_int_equal(large.kind, KIND_MICROVM);
    table_done(&instance_spec_table, &spec);
}

/* Each option, set to something, leaves the kinds that validation would let have it, and no other. */
static void test_options_narrow(void **state) {
    static const struct {
        const char *json;
        unsigned kinds;
    } rows[] = {
        { "{}", 1 << KIND_CONTAINER | 1 << KIND_MICROVM | 1 << KIND_VM },
        { "{\"graphics\": true}", 1 << KIND_VM },
        { "{\"cdrom\": \"medium\"}", 1 << KIND_VM },
        { "{\"firmware\": \"uefi\"}", 1 << KIND_VM },
        { "{\"user_data\": \"#cloud-config\"}", 1 << KIND_VM },
        { "{\"control_rate\": 7}", 1 << KIND_MICROVM | 1 << KIND_VM },
        { "{\"pids\": 100}", 1 << KIND_CONTAINER },
        { "{\"memory\": \"128M\", \"memory_limit\": \"256M\"}", 1 << KIND_CONTAINER },
        { "{\"command\": [\"sh\"]}", 1 << KIND_CONTAINER | 1 << KIND_MICROVM },
        { "{\"memory\": \"16M\"}", 1 << KIND_CONTAINER },
        { "{\"memory\": \"48M\"}", 1 << KIND_CONTAINER | 1 << KIND_MICROVM },
        { "{\"mounts\": [{\"type\": \"tmpfs\", \"target\": \"/t\"}]}", 1 << KIND_CONTAINER | 1 << KIND_MICROVM },
        { "{\"control_rate\": 7, \"command\": [\"sh\"]}", 1 << KIND_MICROVM },
        { "{\"control_rate\": 7, \"pids\": 100}", 0 },
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        _cleanup_json_ struct json_object *json = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_need_ struct need need = { 0 };
        struct advisor_host host;
        struct advice advice;
        struct instance_spec spec;

        host_init(&host, true);
        need_init(&need);
        need.disk = true;
        assert_int_equal(table_init(&instance_spec_table, &spec), 0);
        assert_int_equal(json_parse(rows[i].json, strlen(rows[i].json), &json, NULL), 0);
        assert_int_equal(table_decode(&instance_spec_table, json, DECODE_REPLACE, &spec, &error), 0);
        assert_int_equal(need_of_spec(&need, &spec, false, json_has(json, "memory")), 0);
        assert_int_equal(advise(&need, &host, &advice, &error) == 0, rows[i].kinds != 0);
        for (enum kind kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
            if (!advice.kinds[kind].excluded != !!(rows[i].kinds & (1U << kind)))
                fail_msg("%s as %s: %s", rows[i].json, kind_name(kind), advice.kinds[kind].excluded);
        if (rows[i].kinds)
            assert_true(rows[i].kinds & (1U << advice.kind));
        else
            assert_non_null(strstr(error.parameters[2], "no container, since container does not support control_rate"));
        table_done(&instance_spec_table, &spec);
    }
}

static void expect_size(const struct kind_advice *advice, const char *sentence) {
    _cleanup_free_ char *text = size_sentence(advice);

    assert_string_equal(text, sentence);
}

static void test_size(void **state) {
    struct advisor_host host;
    struct advice advice;
    struct need need;

    host_init(&host, true);
    need_init(&need);
    need.disk = true;
    ask(&need, &host, &advice);
    expect_size(&advice.kinds[KIND_CONTAINER], "1 CPU (the default), 256MiB (the default)");
    expect_size(&advice.kinds[KIND_VM], "1 CPU (the default), 1GiB (the default)");
    need.cpus = 1500;
    host.kinds[KIND_CONTAINER].learnt.memory = 40 * MIB;
    host.kinds[KIND_CONTAINER].learnt.advised = 52 * MIB;
    host.kinds[KIND_CONTAINER].learnt.instances = 3;
    ask(&need, &host, &advice);
    expect_size(&advice.kinds[KIND_CONTAINER],
                "1.5 CPUs (asked for), 52MiB (3 of this image used at most 40MiB; unasked it gets 256MiB)");
    assert_int_equal(advice.kinds[KIND_CONTAINER].memory, 256 * MIB); /* the scores are of what it would get */
    need.memory = 2 * GIB;
    ask(&need, &host, &advice);
    expect_size(&advice.kinds[KIND_CONTAINER], "1.5 CPUs (asked for), 2GiB (asked for)");
}

static void test_words(void **state) {
    struct advisor_host host;
    struct advice advice;
    struct need need;

    host_init(&host, true);
    need_init(&need);
    ask(&need, &host, &advice);
    _cleanup_free_ char *sentence = advice_sentence(&advice);
    assert_non_null(strstr(sentence, "container scores 914 of 1000, microvm "));
    assert_non_null(strstr(sentence, "it would be microvm"));
    need.oci = false;
    need.disk = true;
    ask(&need, &host, &advice);
    _cleanup_free_ char *only = advice_sentence(&advice);
    assert_non_null(strstr(only, "only vm can be: not microvm, since the image is a disk"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores),     cmocka_unit_test(test_untrusted_gets_a_kernel),
        cmocka_unit_test(test_flips_are_true), cmocka_unit_test(test_exclusions),
        cmocka_unit_test(test_weights),    cmocka_unit_test(test_words),
        cmocka_unit_test(test_size_changes_the_answer), cmocka_unit_test(test_options_narrow), cmocka_unit_test(test_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
