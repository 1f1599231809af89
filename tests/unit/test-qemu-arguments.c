// SPDX-License-Identifier: GPL-2.0-or-later
/* Plans in, QEMU's command line out, compared with tests/golden/qemu/NAME.args. POLDER_GOLDEN_UPDATE=1
 * rewrites those. */
#include "test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/qemu/arguments.h"

#define UUID "6ed3ad22-3f11-4459-9b95-0ba89175bc98"
#define MAC "52:54:00:12:34:56"

static const struct machine_plan plan_microvm = {
    .kind = KIND_MICROVM,
    .uuid = UUID,
    .tsc_khz = 2596121,
    .memory = 256 << 20,
    .cpus = 1,
    .mac = MAC,
    .disk_count = 2,
    .disks = { { .role = DISK_ROOT, .read_only = true }, { .role = DISK_DATA } },
};

static const struct machine_plan plan_vm = {
    .kind = KIND_VM,
    .uuid = UUID,
    .tsc_khz = 2596121,
    .memory = UINT64_C(1) << 30,
    .cpus = 2,
    .mac = MAC,
    .disk_count = 2,
    .disks = { { .role = DISK_DATA, .qcow2 = true, .backing = true, .boot_index = 1 },
               { .role = DISK_SEED, .read_only = true } },
};

/* An option and its value share a line. */
static void shown(char *const *arguments, struct buffer *out) {
    for (char *const *argument = arguments; *argument; argument++) {
        bool value = argument > arguments && argument[0][0] != '-';
        buffer_addf(out, "%s%s", argument == arguments ? "" : value ? " " : "\n", *argument);
    }
    buffer_add_text(out, "\n");
}

static void check(const char *name, const struct machine_plan *plan) {
    const char *sources = getenv("POLDER_TEST_SOURCES");
    _cleanup_free_ char *path =
            text_format("%s/../golden/qemu/%s.args", sources ? sources : "tests/unit", name);
    _cleanup_free_ char *wanted = NULL;
    _cleanup_list_ char **arguments = NULL;
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;

    assert_int_equal(machine_arguments(plan, &arguments), 0);
    shown(arguments, &out);
    if (getenv("POLDER_GOLDEN_UPDATE"))
        assert_int_equal(file_write_atomic(AT_FDCWD, path, out.data, out.size, 0644, false), 0);
    assert_int_equal(file_read(AT_FDCWD, path, 65536, &wanted, NULL), 0);
    assert_string_equal(out.data, wanted);
}

static void test_microvm(void **state _unused_) {
    struct machine_plan plan = plan_microvm;

    check("microvm", &plan);
    plan.restore = true;
    check("microvm-restore", &plan);
    plan = plan_microvm;
    plan.kvm = true;
    plan.vhost = true;
    plan.cpus = 2;
    check("microvm-kvm", &plan);
    plan = plan_microvm;
    plan.mac = NULL;
    plan.shares = 2;
    plan.share_tags[1] = 3;
    check("microvm-shares", &plan);
}

static void test_vm(void **state _unused_) {
    struct machine_plan plan = plan_vm;

    check("vm", &plan);
    plan.uefi = true;
    plan.graphics = true;
    check("vm-uefi-graphics", &plan);
    plan = plan_vm;
    plan.kvm = true;
    plan.disks[0] = (struct machine_disk){ .role = DISK_DATA, .boot_index = 1 };
    plan.disks[1] = (struct machine_disk){ .role = DISK_CDROM, .read_only = true, .boot_index = 2 };
    check("vm-iso", &plan);
}

/* An emulated microVM without the rate of the time stamp counter hangs now and then; one with KVM must not
 * be told. */
static bool has_text(const struct machine_plan *plan, const char *text) {
    _cleanup_list_ char **arguments = NULL;
    _cleanup_free_ char *joined = NULL;

    assert_int_equal(machine_arguments(plan, &arguments), 0);
    joined = list_join(arguments, " ");
    return strstr(joined, text) != NULL;
}

static void test_rules(void **state _unused_) {
    struct machine_plan plan = plan_microvm;

    assert_true(has_text(&plan, "tsc_early_khz=2596121"));
    assert_true(has_text(&plan, "merge=off"));
    plan.kvm = true;
    assert_false(has_text(&plan, "tsc_early_khz"));
    /* No path of the host but QEMU's own: everything is a descriptor. */
    plan = plan_vm;
    plan.uefi = plan.graphics = true;
    assert_false(has_text(&plan, "/var/"));
    assert_false(has_text(&plan, "/run/"));
    assert_false(has_text(&plan, ",,"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_microvm),
        cmocka_unit_test(test_vm),
        cmocka_unit_test(test_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
