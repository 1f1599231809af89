// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/instance.h"

#include <inttypes.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cpulist.h"
#include "base/text.h"

/* What looks at several fields of a spec at once. The limits of single fields are in their rows (instance.c).
 */

#define MIB (UINT64_C(1024) * 1024)
#define VM_MEMORY (1024 * MIB)
#define VM_STOP_TIMEOUT 90000 /* what systemd gives a unit that does not stop */
#define MICROVM_MEMORY_LEAST (32 * MIB)
#define VM_MEMORY_LEAST (64 * MIB)
#define MEMORY_MOST (UINT64_C(64) * 1024 * 1024 * MIB)

/* Does a kind's own default apply: because nothing was said, or because it was said to go back to it? */
static bool is_left_open(struct json_object *given, const char *name, unsigned flags) {
    bool has = json_has(given, name);

    return has ? !json_member(given, name) : !(flags & DECODE_MERGE);
}

void instance_spec_complete(struct instance_spec *spec, enum kind kind, struct json_object *given,
                            unsigned flags) {
    if (kind == KIND_VM && is_left_open(given, "memory", flags))
        spec->memory = VM_MEMORY;
    if (kind == KIND_VM && is_left_open(given, "stop_timeout", flags))
        spec->stop_timeout = VM_STOP_TIMEOUT;
}

static int refuse(const char *field, const char *value, const char *reason, struct error *error) {
    return error_set(error, ERROR_BAD_VALUE, field, value, reason);
}

/* "container and microvm take it" */
static char *kinds_text(unsigned kinds) {
    _cleanup_list_ char **names = NULL;
    _cleanup_free_ char *joined = NULL;

    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
        if (kinds & (1U << kind) && list_add(&names, kind_name((enum kind) kind)) < 0)
            return NULL;
    joined = list_join(names, " and ");
    return joined ? text_format(list_count(names) > 1 ? "only %s do" : "only %s does", joined) : NULL;
}

static int check_kind(const struct instance_spec *spec, enum kind kind, struct error *error) {
    const struct table *table = &instance_spec_table;

    for (size_t i = 0; i < table->count; i++) {
        const struct field *field = &table->fields[i];
        _cleanup_free_ char *reason = NULL;

        if (field->kinds == 0 || field->kinds & (1U << kind) || field_is_default(field, spec))
            continue;
        reason = kinds_text(field->kinds);
        return error_set(error, ERROR_NOT_SUPPORTED, kind_name(kind), field->name, reason);
    }
    return 0;
}

static int check_memory(const struct instance_spec *spec, enum kind kind, struct error *error) {
    uint64_t least = kind == KIND_VM ? VM_MEMORY_LEAST : kind == KIND_MICROVM ? MICROVM_MEMORY_LEAST : 0;
    _cleanup_free_ char *low = NULL;
    _cleanup_free_ char *high = NULL;
    _cleanup_free_ char *value = NULL;

    if (spec->memory >= least)
        return 0;
    low = text_format_size(least);
    high = text_format_size(MEMORY_MOST);
    value = text_format_size(spec->memory);
    return error_set(error, ERROR_OUT_OF_RANGE, "memory", low, high, value);
}

static int check_mount(const struct instance_mount *mount, size_t index, enum kind kind,
                       struct error *error) {
    _cleanup_free_ char *field = text_format("mounts[%zu]", index);

    if (mount->type == MOUNT_BIND && !mount->source)
        return refuse(field, mount->target, "a bind mount needs a source", error);
    if (mount->type == MOUNT_BIND && mount->size > 0)
        return refuse(field, mount->target, "only a tmpfs has a size", error);
    if (mount->type == MOUNT_TMPFS && mount->source)
        return refuse(field, mount->target, "a tmpfs has no source", error);
    if (mount->type == MOUNT_TMPFS && kind == KIND_VM)
        return error_set(error, ERROR_NOT_SUPPORTED, "vm", field, "its own system makes its tmpfs mounts");
    return 0;
}

/* Are two paths the same but for repeated and trailing slashes? */
static bool same_path(const char *a, const char *b) {
    for (;;) {
        size_t slashes_a = strspn(a, "/");
        size_t slashes_b = strspn(b, "/");
        size_t length;

        a += slashes_a;
        b += slashes_b;
        length = strcspn(a, "/");
        if (length != strcspn(b, "/") || strncmp(a, b, length) != 0)
            return false;
        if (length == 0)
            return true;
        a += length;
        b += length;
    }
}

static int check_mounts(const struct instance_spec *spec, enum kind kind, struct error *error) {
    const struct instance_mount *mounts = spec->mounts.items;

    for (size_t i = 0; i < spec->mounts.count; i++) {
        int r = check_mount(&mounts[i], i, kind, error);

        if (r < 0)
            return r;
        for (size_t j = 0; j < i; j++)
            if (same_path(mounts[i].target, mounts[j].target))
                return refuse("mounts", mounts[i].target, "two mounts have this target", error);
    }
    return 0;
}

static bool ports_collide(const struct instance_port *a, const struct instance_port *b) {
    if (a->protocol != b->protocol || a->host_port != b->host_port)
        return false;
    return !a->host_address || !b->host_address || text_equal(a->host_address, b->host_address);
}

static int check_ports(const struct instance_spec *spec, struct error *error) {
    const struct instance_port *ports = spec->publish.items;

    for (size_t i = 0; i < spec->publish.count; i++) {
        _cleanup_free_ char *text = text_format("%" PRId64 ":%" PRId64, ports[i].host_port, ports[i].port);

        if (text_equal(spec->network, "none"))
            return refuse("publish", text, "without a network there are no ports", error);
        for (size_t j = 0; j < i; j++)
            if (ports_collide(&ports[i], &ports[j]))
                return refuse("publish", text, "this host port is published twice", error);
    }
    return 0;
}

static int check_restart(const struct instance_spec *spec, struct error *error) {
    _cleanup_free_ char *limit = text_format("%" PRId64, spec->restart_limit);

    if (spec->restart_limit != 0 && spec->restart != RESTART_ON_FAILURE)
        return refuse("restart_limit", limit, "only the policy on-failure has a limit", error);
    if (spec->remove && spec->restart != RESTART_NO)
        return refuse("remove", "true", "what is removed when it ends cannot be restarted", error);
    return 0;
}

static int refuse_cpus(const char *field, uint64_t milli, const char *reason, struct error *error) {
    _cleanup_free_ char *text = text_format_cpus(milli);

    return refuse(field, text, reason, error);
}

static int refuse_size(const char *field, uint64_t bytes, const char *reason, struct error *error) {
    _cleanup_free_ char *text = text_format_size(bytes);

    return refuse(field, text, reason, error);
}

static int check_floor(const struct instance_spec *spec, struct error *error) {
    if (spec->cpu_reservation > spec->cpus)
        return refuse_cpus("cpu_reservation", spec->cpu_reservation, "it is more than cpus", error);
    if (spec->memory_reservation > spec->memory)
        return refuse_size("memory_reservation", spec->memory_reservation, "it is more than memory", error);
    if (spec->allocation == INSTANCE_HYBRID)
        return spec->cpu_reservation || spec->memory_reservation
                   ? 0
                   : refuse("allocation", "hybrid", "it needs a floor: give cpu_reservation or memory_reservation", error);
    if (spec->cpu_reservation)
        return refuse_cpus("cpu_reservation", spec->cpu_reservation, "only the allocation hybrid has a floor", error);
    if (spec->memory_reservation)
        return refuse_size("memory_reservation", spec->memory_reservation, "only the allocation hybrid has a floor", error);
    return 0;
}

static int check_ceiling(const struct instance_spec *spec, struct error *error) {
    if (spec->cpu_limit && spec->cpu_limit < spec->cpus)
        return refuse_cpus("cpu_limit", spec->cpu_limit, "it is less than cpus", error);
    if (spec->memory_limit && spec->memory_limit < spec->memory)
        return refuse_size("memory_limit", spec->memory_limit, "it is less than memory", error);
    if (spec->allocation != INSTANCE_FIXED)
        return 0;
    if (spec->cpu_limit > spec->cpus)
        return refuse_cpus("cpu_limit", spec->cpu_limit, "the allocation fixed gives cpus and no more", error);
    if (spec->memory_limit > spec->memory)
        return refuse_size("memory_limit", spec->memory_limit, "the allocation fixed gives memory and no more", error);
    if (spec->cpus % 1000 != 0)
        return refuse_cpus("cpus", spec->cpus, "the allocation fixed takes whole processors", error);
    return 0;
}

static int check_cpuset_size(const struct instance_spec *spec, struct error *error) {
    struct cpu_list list;

    if (spec->allocation != INSTANCE_FIXED || text_is_empty(spec->cpuset) || cpu_list_parse(spec->cpuset, &list) < 0)
        return 0;
    return cpu_list_count(&list) * 1000 == spec->cpus
               ? 0
               : refuse("cpuset", spec->cpuset, "the allocation fixed takes as many processors as cpus says", error);
}

static int check_allocation(const struct instance_spec *spec, struct error *error) {
    int r = check_floor(spec, error);

    if (r == 0)
        r = check_ceiling(spec, error);
    return r == 0 ? check_cpuset_size(spec, error) : r;
}

static int check_whole_size(const struct instance_spec *spec, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_object(&emitter);
    table_emit(&instance_spec_table, spec, &emitter);
    emit_object_end(&emitter);
    if (text.failed)
        return error_set(error, ERROR_NO_MEMORY);
    if (text.size > INSTANCE_SPEC_MAX)
        return error_set(error, ERROR_TOO_LARGE, "the spec", "384 KiB");
    return 0;
}

int instance_spec_check_kind(const struct instance_spec *spec, enum kind kind, struct error *error) {
    int r = kind != KIND_AUTO && kind != KIND_FAKE ? check_kind(spec, kind, error) : 0;

    if (r == 0)
        r = check_memory(spec, kind, error);
    return r == 0 ? check_mounts(spec, kind, error) : r;
}

int instance_spec_validate(const struct instance_spec *spec, enum kind kind, struct error *error) {
    int r;

    /* A boot medium stands in for an image, and a fake instance needs none. */
    if (text_is_empty(spec->image) && kind != KIND_FAKE && !((kind == KIND_VM || kind == KIND_AUTO) && spec->cdrom))
        return error_set(error, ERROR_MISSING_FIELD, "image");
    if (!spec->network)
        return error_set(error, ERROR_MISSING_FIELD, "network");
    r = instance_spec_check_kind(spec, kind, error);
    if (r == 0)
        r = check_ports(spec, error);
    if (r == 0)
        r = check_restart(spec, error);
    if (r == 0)
        r = check_allocation(spec, error);
    if (r == 0)
        r = check_whole_size(spec, error);
    return r;
}
