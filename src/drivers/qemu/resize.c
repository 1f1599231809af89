// SPDX-License-Identifier: GPL-2.0-or-later
/* A running machine gets less through its balloon: the guest gives pages back. It cannot get more than it
 * started with. The share of CPU time is the control group's; only the number of virtual processors is
 * fixed. What its disks take is limited by QEMU. */
#include <errno.h>
#include <json-c/json.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/qemu/arguments.h"
#include "drivers/qemu/machine.h"

#define BALLOON_DEADLINE (30 * CLOCK_SECOND)
#define BALLOON_PAUSE (50 * CLOCK_MILLISECOND)
#define BALLOON_SLACK (UINT64_C(8) << 20)
#define MEBIBYTE (UINT64_C(1) << 20)

unsigned machine_processors(const struct instance_spec *spec) {
    uint64_t most = instance_cpu_limit(spec);

    return most > 1000 ? (unsigned) ((most + 999) / 1000) : 1;
}

int machine_boot_sizes(struct machine *machine, struct error *error) {
    _cleanup_json_ struct json_object *memory = NULL, *processors = NULL;
    int r;

    if (machine->boot_memory > 0)
        return 0;
    r = machine_call(machine, "query-memory-size-summary", NULL, &memory, error);
    if (r >= 0)
        r = machine_call(machine, "query-cpus-fast", NULL, &processors, error);
    if (r < 0)
        return r;
    machine->boot_cpus = json_object_is_type(processors, json_type_array)
                                 ? (unsigned) json_object_array_length(processors)
                                 : 1;
    machine->boot_memory = (uint64_t) json_integer(memory, "base-memory", 0);
    return 0;
}

static int balloon_set(struct machine *machine, uint64_t bytes, struct error *error) {
    _cleanup_free_ char *arguments = text_format("{\"value\":%llu}", (unsigned long long) bytes);

    if (!arguments)
        return error_errno(error, -ENOMEM, "changing memory");
    return machine_call(machine, "balloon", arguments, NULL, error);
}

/* Waits until the guest holds no more than `bytes`. */
static int balloon_wait(struct machine *machine, uint64_t bytes, struct error *error) {
    uint64_t deadline = deadline_in(BALLOON_DEADLINE);

    for (;;) {
        _cleanup_json_ struct json_object *info = NULL;
        int r = machine_call(machine, "query-balloon", NULL, &info, error);

        if (r < 0)
            return r;
        if ((uint64_t) json_integer(info, "actual", INT64_MAX) <= bytes + BALLOON_SLACK)
            return 0;
        if (clock_now() > deadline)
            return error_set(error, ERROR_GUEST,
                             "it did not give the memory back; it may need it, or lack the balloon driver");
        r = fiber_sleep(BALLOON_PAUSE);
        if (r < 0)
            return error_errno(error, r, "changing memory");
    }
}

static int memory_resize(struct machine *machine, uint64_t before, uint64_t wanted, struct error *error) {
    uint64_t boot = (machine->boot_memory + MEBIBYTE - 1) / MEBIBYTE * MEBIBYTE;
    int r;

    if (wanted > boot) {
        _cleanup_free_ char *size = text_format_size(boot);
        _cleanup_free_ char *what =
                text_format("more memory than the %s it started with, while it runs", size ? size : "");
        return error_set(error, ERROR_NOT_SUPPORTED, kind_name((enum kind) machine->instance->assigned->kind),
                         what, "stop it first");
    }
    r = balloon_set(machine, wanted, error);
    if (r >= 0)
        r = balloon_wait(machine, wanted, error);
    if (r < 0) {
        fiber_shield();
        (void) balloon_set(machine, before < boot ? before : boot, NULL);
        fiber_unshield();
    }
    return r;
}

/* Applied at once; a machine of an earlier daemon may lack the object. */
static int io_resize(struct machine *machine, const struct instance_spec *spec, struct error *error) {
    _cleanup_free_ char *limits = machine_io_limits(spec->io_read, spec->io_write);
    _cleanup_free_ char *arguments = limits ? text_format("{\"path\":\"/objects/" MACHINE_LIMITS "\","
                                                          "\"property\":\"limits\",\"value\":%s}", limits)
                                            : NULL;

    if (!arguments)
        return error_errno(error, -ENOMEM, "limiting its disks");
    return machine_call(machine, "qom-set", arguments, NULL, error);
}

static int size_resize(struct machine *machine, const struct instance_spec *before, struct error *error) {
    const struct instance_spec *spec = machine->instance->spec;
    int r;

    if (spec->memory == before->memory && machine_processors(spec) == machine_processors(before))
        return 0;
    r = machine_boot_sizes(machine, error);
    if (r < 0)
        return r;
    if (machine_processors(spec) > machine->boot_cpus) {
        _cleanup_free_ char *what =
                text_format("more CPUs than the %u it started with, while it runs", machine->boot_cpus);
        return error_set(error, ERROR_NOT_SUPPORTED, kind_name((enum kind) machine->instance->assigned->kind),
                         what, "stop it first");
    }
    return spec->memory == before->memory ? 0 : memory_resize(machine, before->memory, spec->memory, error);
}

int machine_resize(struct machine *machine, const struct instance_spec *before, struct error *error) {
    const struct instance_spec *spec = machine->instance->spec;
    bool limited = spec->io_read != before->io_read || spec->io_write != before->io_write;
    int r = limited ? io_resize(machine, spec, error) : 0;

    if (r >= 0)
        r = size_resize(machine, before, error);
    if (r < 0 && limited) {
        fiber_shield();
        (void) io_resize(machine, before, NULL);
        fiber_unshield();
    }
    return r;
}
