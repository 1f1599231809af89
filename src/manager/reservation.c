// SPDX-License-Identifier: GPL-2.0-or-later
/* What modes guarantee. A fixed instance owns processors, which everybody else is kept off, and its memory; a hybrid one
 * has floors. The sum of what is guaranteed never exceeds what there is, whatever may be promised above it. Fake instances
 * are counted among themselves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

void reservation_give_back(struct instance *instance) {
    free(STEAL_PTR(instance->share.pinned));
}

static bool is_fake(const struct instance *instance) {
    return instance->assigned.kind == KIND_FAKE;
}

uint64_t reservation_floor(const struct instance *instance) {
    const struct instance_spec *spec = &instance->spec;

    return spec->allocation == INSTANCE_FIXED ? spec->memory : spec->memory_reservation;
}

static uint64_t node_memory(const struct manager *manager) {
    uint64_t reserve = manager->configuration.memory_reserve;

    return manager->facts.memory > reserve ? manager->facts.memory - reserve : 0;
}

/* One of an earlier daemon has its processors in its control group. */
static void pins_recover(struct instance *instance) {
    struct instance_share *share = &instance->share;
    _cleanup_free_ char *text = NULL;
    struct cpu_list list;

    if (share->pinned || instance->spec.allocation != INSTANCE_FIXED || !instance->view.cgroup)
        return;
    if (cgroup_cpus(instance->view.cgroup, &text) >= 0 && cpu_list_parse(text, &list) >= 0 &&
        cpu_list_count(&list) * 1000 == instance->spec.cpus)
        share->pinned = STEAL_PTR(text);
}

/* What the others hold. */
struct held {
    struct cpu_list fixed;  /* processors owned */
    struct cpu_list named;  /* processors that somebody's cpuset names */
    uint64_t cpus, memory;  /* floors */
};

static void held_add(struct held *held, struct instance *instance) {
    const struct instance_spec *spec = &instance->spec;
    struct cpu_list list;

    held->memory += reservation_floor(instance);
    if (spec->allocation != INSTANCE_FIXED) {
        held->cpus += spec->cpu_reservation;
        if (!text_is_empty(spec->cpuset) && cpu_list_parse(spec->cpuset, &list) >= 0)
            held->named = cpu_list_union(&held->named, &list);
        return;
    }
    pins_recover(instance);
    if (instance->share.pinned && cpu_list_parse(instance->share.pinned, &list) >= 0)
        held->fixed = cpu_list_union(&held->fixed, &list);
}

static void held_by_others(const struct instance *instance, struct held *ret) {
    size_t position = 0;
    void *value;

    *ret = (struct held){ 0 };
    while (map_next(instance->manager->by_uuid, &position, NULL, &value)) {
        struct instance *other = value;
        if (other != instance && is_fake(other) == is_fake(instance) && state_is_active(other->status.state))
            held_add(ret, other);
    }
}

struct cpu_list reservation_fixed(struct manager *manager, bool fake) {
    struct held held = { 0 };
    size_t position = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *other = value;
        if (other->spec.allocation == INSTANCE_FIXED && is_fake(other) == fake && state_is_active(other->status.state))
            held_add(&held, other);
    }
    return held.fixed;
}

/* --- refusals ---------------------------------------------------------------------------------------------------- */

static int no_cpus(uint64_t wanted, uint64_t available, struct error *error) {
    _cleanup_free_ char *first = text_format_cpus(wanted), *second = text_format_cpus(available);

    return error_set(error, ERROR_NO_ROOM, "processors to guarantee", first, second);
}

static int no_memory(uint64_t wanted, uint64_t available, struct error *error) {
    _cleanup_free_ char *first = text_format_size(wanted), *second = text_format_size(available);

    return error_set(error, ERROR_NO_ROOM, "memory to guarantee", first, second);
}

static int check_controllers(const struct instance *instance, struct error *error) {
    const struct instance_spec *spec = &instance->spec;
    struct cgroup_host *cgroups = instance->manager->cgroups;
    bool pinned = spec->allocation == INSTANCE_FIXED || !text_is_empty(spec->cpuset);

    if (is_fake(instance) || (spec->allocation == INSTANCE_DYNAMIC && !pinned))
        return 0;
    if (pinned && (!cgroups || !cgroup_host_has(cgroups, "cpuset")))
        return error_set(error, ERROR_HOST_LACKS, "cpuset", "no instance can be pinned to processors without this controller");
    if (reservation_floor(instance) && (!cgroups || !cgroup_host_has(cgroups, "memory")))
        return error_set(error, ERROR_HOST_LACKS, "memory", "no memory can be guaranteed without this controller");
    if (spec->cpu_reservation && (!cgroups || !cgroup_host_has(cgroups, "cpu")))
        return error_set(error, ERROR_HOST_LACKS, "cpu", "no processor time can be guaranteed without this controller");
    return 0;
}

static int check_cpuset(const struct instance *instance, struct error *error) {
    const struct cpu_list *all = &instance->manager->allocator.all;
    struct cpu_list wanted, missing;
    _cleanup_free_ char *text = NULL;

    if (text_is_empty(instance->spec.cpuset) || cpu_list_parse(instance->spec.cpuset, &wanted) < 0)
        return 0;
    missing = cpu_list_without(&wanted, all);
    if (cpu_list_count(&missing) == 0)
        return 0;
    text = cpu_list_format(all);
    return error_set(error, ERROR_IMPOSSIBLE, "processors", instance->spec.cpuset, text);
}

int reservation_check(struct manager *manager, const struct instance *instance, struct error *error) {
    const struct instance_spec *spec = &instance->spec;
    uint64_t most = cpu_list_count(&manager->allocator.all) * 1000, memory = node_memory(manager);
    _cleanup_free_ char *wanted = NULL, *given = NULL;
    int r = check_controllers(instance, error);

    if (r >= 0)
        r = check_cpuset(instance, error);
    if (r < 0)
        return r;
    if (spec->allocation == INSTANCE_FIXED)
        most -= most > 0 ? 1000 : 0; /* one is left to everybody else */
    if ((spec->allocation == INSTANCE_FIXED ? spec->cpus : spec->cpu_reservation) > most) {
        wanted = text_format_cpus(spec->allocation == INSTANCE_FIXED ? spec->cpus : spec->cpu_reservation);
        given = text_format_cpus(most);
        return error_set(error, ERROR_IMPOSSIBLE, "processors to guarantee", wanted, given);
    }
    if (reservation_floor(instance) > memory) {
        wanted = text_format_size(reservation_floor(instance));
        given = text_format_size(memory);
        return error_set(error, ERROR_IMPOSSIBLE, "memory to guarantee", wanted, given);
    }
    return 0;
}

/* --- taking ------------------------------------------------------------------------------------------------------ */

/* The last ones first: interrupts and the host's own work like the first. */
static struct cpu_list pins_choose(const struct cpu_list *from, size_t count) {
    struct cpu_list chosen = { 0 };

    for (unsigned cpu = CPU_LIST_MAX; cpu-- > 0 && count > 0;)
        if (cpu_list_has(from, cpu)) {
            cpu_list_add(&chosen, cpu);
            count--;
        }
    return chosen;
}

static bool pins_stand(const struct instance *instance, const struct held *held) {
    const struct instance_spec *spec = &instance->spec;
    struct cpu_list have, wanted;

    if (!instance->share.pinned || cpu_list_parse(instance->share.pinned, &have) < 0)
        return false;
    if (!text_is_empty(spec->cpuset) && cpu_list_parse(spec->cpuset, &wanted) >= 0 && !cpu_list_equal(&have, &wanted))
        return false;
    return cpu_list_count(&have) * 1000 == spec->cpus && !cpu_list_overlap(&have, &held->fixed);
}

static int pins_take(struct instance *instance, const struct held *held, struct error *error) {
    const struct cpu_list *all = &instance->manager->allocator.all;
    const struct instance_spec *spec = &instance->spec;
    struct cpu_list free_list = cpu_list_without(all, &held->fixed), chosen, rest;
    size_t wanted = spec->cpus / 1000;

    pins_recover(instance);
    if (pins_stand(instance, held))
        return 0;
    free_list = cpu_list_without(&free_list, &held->named);
    if (!text_is_empty(spec->cpuset) && cpu_list_parse(spec->cpuset, &chosen) >= 0) {
        rest = cpu_list_without(&chosen, &free_list);
        if (cpu_list_count(&rest) > 0)
            return no_cpus(spec->cpus, (wanted - cpu_list_count(&rest)) * 1000, error);
    } else {
        chosen = pins_choose(&free_list, wanted);
    }
    rest = cpu_list_union(&held->fixed, &chosen);
    rest = cpu_list_without(all, &rest);
    /* The floors of hybrid ones stay covered, and one processor is left to everybody else. */
    if (cpu_list_count(&chosen) < wanted || cpu_list_count(&rest) < 1 || cpu_list_count(&rest) * 1000 < held->cpus) {
        uint64_t keep = held->cpus > 1000 ? (held->cpus + 999) / 1000 : 1, there = cpu_list_count(&free_list);
        return no_cpus(spec->cpus, there > keep ? (there - keep) * 1000 : 0, error);
    }
    free(instance->share.pinned);
    instance->share.pinned = cpu_list_format(&chosen);
    return instance->share.pinned ? 0 : error_errno(error, -ENOMEM, "pinning");
}

/* A cpuset may not name what belongs to a fixed instance. */
static int cpuset_take(const struct instance *instance, const struct held *held, struct error *error) {
    _cleanup_free_ char *text = NULL;
    struct cpu_list wanted, rest;

    if (text_is_empty(instance->spec.cpuset) || cpu_list_parse(instance->spec.cpuset, &wanted) < 0 ||
        !cpu_list_overlap(&wanted, &held->fixed))
        return 0;
    rest = cpu_list_without(&instance->manager->allocator.all, &held->fixed);
    text = cpu_list_format(&rest);
    return error_set(error, ERROR_NO_ROOM, "processors of that number", instance->spec.cpuset, text);
}

int reservation_take(struct instance *instance, struct error *error) {
    struct manager *manager = instance->manager;
    const struct instance_spec *spec = &instance->spec;
    uint64_t memory = node_memory(manager), floor = reservation_floor(instance);
    struct held held;
    int r = check_controllers(instance, error);

    if (spec->allocation != INSTANCE_FIXED)
        reservation_give_back(instance);
    if (r < 0 || (spec->allocation == INSTANCE_DYNAMIC && text_is_empty(spec->cpuset)))
        return r;
    held_by_others(instance, &held);
    if (spec->allocation != INSTANCE_FIXED && cpuset_take(instance, &held, error) < 0)
        return -ENOSPC;
    if (spec->allocation == INSTANCE_DYNAMIC)
        return 0;
    if (held.memory + floor > memory)
        return no_memory(floor, memory > held.memory ? memory - held.memory : 0, error);
    if (spec->allocation == INSTANCE_FIXED)
        return pins_take(instance, &held, error);
    uint64_t shared = (cpu_list_count(&manager->allocator.all) - cpu_list_count(&held.fixed)) * 1000;
    if (held.cpus + spec->cpu_reservation > shared)
        return no_cpus(spec->cpu_reservation, shared > held.cpus ? shared - held.cpus : 0, error);
    return 0;
}
