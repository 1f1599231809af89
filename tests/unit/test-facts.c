// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "host/cgroup-internal.h"
#include "host/facts.h"

static const struct finding *finding_about(const struct findings *findings, const char *topic) {
    for (size_t i = 0; i < findings->count; i++)
        if (text_equal(findings->items[i].topic, topic))
            return &findings->items[i];
    return NULL;
}

static void test_facts(void **state _unused_) {
    struct host_facts facts;

    assert_int_equal(host_facts_read(&facts), 0);
    assert_true(facts.cpus > 0);
    assert_true(facts.memory > 1 << 20);
    assert_false(facts.kvm_usable);
    assert_non_null(facts.kernel);
    host_facts_done(&facts);
    host_facts_done(&facts);
}

static void test_findings(void **state _unused_) {
    struct host_facts facts;
    struct findings findings = { 0 };
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    assert_int_equal(host_facts_read(&facts), 0);
    assert_int_equal(host_findings(&facts, NULL, "/", &findings), 0);
    assert_int_equal(finding_about(&findings, "kvm")->level, FINDING_WARNING);
    assert_non_null(finding_about(&findings, "kvm")->advice);
    assert_int_equal(finding_about(&findings, "cgroup")->level, FINDING_ERROR);
    assert_non_null(finding_about(&findings, "clock"));
    assert_non_null(finding_about(&findings, "room"));
    findings_emit(&findings, &emitter);
    assert_non_null(strstr(out.data, "\"topic\":\"kvm\""));
    findings_done(&findings);
    assert_int_equal(findings.count, 0);
    host_facts_done(&facts);
}

/* What is wrong says what it costs and what to do. */
static void assert_told(const struct findings *findings) {
    for (size_t i = 0; i < findings->count; i++) {
        const struct finding *finding = &findings->items[i];
        if (finding->level == FINDING_OK)
            continue;
        if (text_is_empty(finding->reason) || text_is_empty(finding->advice))
            fail_msg("%s: without reason or advice", finding->text);
    }
}

static void test_missing_controllers(void **state _unused_) {
    struct cgroup_host legacy = { .layout = CGROUP_V1 }, unified = { .layout = CGROUP_V2, .available = "cpu io" };
    struct cgroup_host *const hosts[] = { &legacy, &unified };
    const size_t missing[] = { 6, 3 }; /* version 2 freezes by itself */
    struct host_facts facts;

    assert_int_equal(host_facts_read(&facts), 0);
    for (size_t i = 0; i < ELEMENTS(hosts); i++) {
        struct findings findings = { 0 };
        size_t count = 0;
        assert_int_equal(host_findings(&facts, hosts[i], "/", &findings), 0);
        assert_told(&findings);
        for (size_t j = 0; j < findings.count; j++) {
            const struct finding *finding = &findings.items[j];
            if (!text_starts(finding->text, "the controller '"))
                continue;
            count++;
            /* A limit that cannot be kept is refused: that is told, and with which code. */
            assert_non_null(strstr(finding->reason, "refused (host-lacks)"));
            assert_non_null(strstr(finding->advice, hosts[i] == &legacy ? "mount -t cgroup -o" : "cgroup.subtree_control"));
        }
        assert_int_equal(count, missing[i]);
        findings_done(&findings);
    }
    host_facts_done(&facts);
}

static void test_tsc(void **state _unused_) {
    uint64_t first = host_measure_tsc_khz(), second = host_measure_tsc_khz();

    /* Two measurements agree within a percent, or there is no counter at all. */
    assert_true(first == 0 || (second > first - first / 100 && second < first + first / 100));
}

/* The probe with scripts in its place: says yes, says no, hangs, is killed; and its answer is kept for this
 * boot. */
struct script {
    const char *text;
    bool usable;
    const char *reason;
};

static const struct script scripts[] = {
    { "#!/bin/sh\necho it ran\n", true, "it ran" },
    { "#!/bin/sh\nprintf 'no \\033[31mway\\n'; exit 1\n", false, "no \\x1b[31mway" },
    { "#!/bin/sh\nexec sleep 60\n", false, "hung" },
    { "#!/bin/sh\nkill -9 $$\n", false, "the probe was killed" },
};

static void script_write(const char *directory, const char *text) {
    _cleanup_free_ char *path = text_format("%s/polder-kvm-probe", directory);

    assert_int_equal(file_write_atomic(AT_FDCWD, path, text, strlen(text), 0755, false), 0);
}

static int probe_main(void *userdata) {
    const char *directory = userdata;
    _cleanup_free_ char *cache = text_format("%s/kvm-probe.json", directory);
    struct host_facts facts;

    assert_int_equal(host_facts_read(&facts), 0);
    for (size_t i = 0; i < ELEMENTS(scripts); i++) {
        unlink(cache);
        script_write(directory, scripts[i].text);
        host_probe_kvm(&facts, directory, directory);
        assert_int_equal(facts.kvm_usable, scripts[i].usable);
        assert_non_null(strstr(facts.kvm_reason, scripts[i].reason));
    }
    script_write(directory, "#!/bin/sh\necho another\n");
    host_probe_kvm(&facts, directory, directory);
    assert_string_equal(facts.kvm_reason, "the probe was killed");
    host_facts_done(&facts);
    loop_exit(0);
    return 0;
}

static void test_probe(void **state _unused_) {
    char directory[] = "/tmp/polder-facts-XXXXXX";

    if (access("/dev/kvm", R_OK | W_OK) < 0)
        skip();
    assert_non_null(mkdtemp(directory));
    assert_int_equal(loop_init(), 0);
    assert_int_equal(fiber_start(NULL, "probe", probe_main, directory), 0);
    assert_int_equal(loop_run(), 0);
    loop_done();
    assert_int_equal(file_remove_tree(AT_FDCWD, directory), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_findings),
        cmocka_unit_test(test_missing_controllers),
        cmocka_unit_test(test_tsc),
        cmocka_unit_test(test_probe),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
