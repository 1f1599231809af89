// SPDX-License-Identifier: GPL-2.0-or-later
/* What an instance has and why: every term of the formulas, so that anybody can work them out again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "manager/internal.h"

static const char *mode_of(const struct instance *instance) {
    static const char *const names[] = { [INSTANCE_FIXED] = "fixed", [INSTANCE_DYNAMIC] = "dynamic",
                                         [INSTANCE_HYBRID] = "hybrid" };

    return names[instance->spec.allocation];
}

void allocation_emit_weight(struct instance *instance, struct emitter *emitter) {
    uint64_t wished = allocation_wished(instance);

    emit_key(emitter, "weight");
    emit_object(emitter);
    emit_key_text(emitter, "formula", "R = alpha x P + beta x T");
    emit_key_unsigned(emitter, "alpha_milli", instance->spec.weight_alpha);
    emit_key_unsigned(emitter, "priority_share", engine_cpu_weight(instance->spec.priority));
    emit_key_integer(emitter, "beta_per_hour", instance->spec.weight_beta);
    emit_key_unsigned(emitter, "running_seconds", allocation_age(instance) / CLOCK_SECOND);
    emit_key_unsigned(emitter, "wished", wished);
    emit_key_unsigned(emitter, "in_force", instance->share.dynamic ? instance->share.dynamic : wished);
    emit_object_end(emitter);
}

static void emit_terms(const struct allocation *own, struct emitter *emitter) {
    emit_key_text(emitter, "formula", "R_allocated = R_requested x C_priority x S_weight, clamped to [floor, limit]");
    emit_key_unsigned(emitter, "requested_milli", own->requested);
    emit_key_unsigned(emitter, "priority_factor_milli", own->priority);
    emit_key_unsigned(emitter, "weight_factor_milli", own->weight);
    emit_key_unsigned(emitter, "score", allocation_score(own));
    emit_key_unsigned(emitter, "floor_milli", own->reservation);
    emit_key_unsigned(emitter, "limit_milli", own->limit);
}

static bool is_machine(const struct instance *instance) {
    return instance->assigned.kind == KIND_MICROVM || instance->assigned.kind == KIND_VM;
}

static void emit_budget(const struct instance *instance, struct emitter *emitter) {
    emit_key_text(emitter, "control_formula", "C = P x R");
    emit_key_unsigned(emitter, "control_priority_factor_milli", priority_factor(instance->spec.priority));
    emit_key_integer(emitter, "control_rate", instance->spec.control_rate);
    emit_key_unsigned(emitter, "control_budget_milli",
                      priority_factor(instance->spec.priority) * (uint64_t) instance->spec.control_rate);
}

void allocation_emit_score(const struct instance *instance, struct emitter *emitter) {
    const struct allocation own = allocation_terms(instance);

    emit_key(emitter, "allocation");
    emit_object(emitter);
    emit_terms(&own, emitter);
    emit_object_end(emitter);
    if (!is_machine(instance))
        return;
    emit_key(emitter, "control");
    emit_object(emitter);
    emit_budget(instance, emitter);
    emit_object_end(emitter);
}

/* What the kernel was told, read back from it. */
static void emit_control(struct instance *instance, uint64_t weight, struct emitter *emitter) {
    _cleanup_free_ char *cpus = NULL;
    const char *file = NULL;
    uint64_t value = 0;

    emit_key(emitter, "control_group");
    emit_object(emitter);
    if (instance->view.cgroup && cgroup_cpu_weight(instance->view.cgroup, &file, &value) >= 0) {
        emit_key_text(emitter, "path", cgroup_path(instance->view.cgroup));
        emit_key_text(emitter, "file", file);
        emit_key_unsigned(emitter, "value", value);
        emit_key_unsigned(emitter, "expected", cgroup_cpu_value(instance->manager->cgroups, weight));
        if (cgroup_cpus(instance->view.cgroup, &cpus) >= 0)
            emit_key_text(emitter, "cpuset", cpus);
    }
    emit_object_end(emitter);
}

static void emit_pool(const struct instance *instance, size_t count, uint64_t capacity, struct emitter *emitter) {
    const struct allocator_state *state = &instance->manager->allocator;
    _cleanup_free_ char *all = cpu_list_format(&state->all);
    const char *cpus = instance->spec.allocation == INSTANCE_FIXED ? instance->share.pinned : instance->spec.cpuset;

    emit_key(emitter, "pool");
    emit_object(emitter);
    emit_key_text(emitter, "processors", !text_is_empty(cpus) ? cpus : state->shared ? state->shared : all);
    emit_key_unsigned(emitter, "capacity_milli", capacity);
    emit_key_unsigned(emitter, "instances", count);
    emit_object_end(emitter);
}

static uint64_t sum_of_requests(const struct allocation *items, size_t count) {
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += items[i].requested;
    return sum;
}

static uint64_t sum_of_weights(const struct allocation *items, size_t count) {
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += items[i].scheduler;
    return sum;
}

/* In parts of a million of the pool, while everybody wants more than he gets. */
static uint64_t parts(uint64_t weight, uint64_t sum) {
    return sum ? (uint64_t) ((unsigned __int128) weight * 1000000 / sum) : 0;
}

static void emit_cpu(struct instance *instance, const struct allocation *items, size_t count, size_t self,
                     uint64_t capacity, struct emitter *emitter) {
    const struct allocator_state *state = &instance->manager->allocator;
    const struct allocation *own = &items[self];
    uint64_t weight = own->scheduler >> state->shift;

    emit_key(emitter, "cpu");
    emit_object(emitter);
    emit_terms(own, emitter);
    emit_key_boolean(emitter, "contended", sum_of_requests(items, count) > capacity);
    emit_key_unsigned(emitter, "granted_milli", own->granted);
    emit_key_unsigned(emitter, "busy_milli", own->busy);
    emit_key_unsigned(emitter, "scheduler_weight", own->scheduler);
    emit_key_boolean(emitter, "lifted_by_floor", own->scheduler > allocation_weight(own));
    emit_key_unsigned(emitter, "pool_weight", sum_of_weights(items, count));
    emit_key_unsigned(emitter, "share_ppm", parts(own->scheduler, sum_of_weights(items, count)));
    emit_key_unsigned(emitter, "halved", state->shift);
    emit_key_unsigned(emitter, "in_force", instance->share.weight);
    emit_control(instance, weight < 1 ? 1 : weight, emitter);
    emit_object_end(emitter);
}

static void emit_memory(struct instance *instance, struct emitter *emitter) {
    const struct allocator_state *state = &instance->manager->allocator;
    const struct instance_share *share = &instance->share;
    const struct instance_spec *spec = &instance->spec;
    struct cgroup_limits limits;

    run_limits(instance, &limits);
    emit_key(emitter, "memory");
    emit_object(emitter);
    emit_key_unsigned(emitter, "requested", spec->memory);
    emit_key_unsigned(emitter, "floor", reservation_floor(instance));
    emit_key_unsigned(emitter, "limit", instance_memory_limit(spec));
    emit_key_unsigned(emitter, "hard_limit", limits.memory); /* of the group: a machine's programs on the host are in it */
    emit_key_text(emitter, "formula", "while memory is short: R x C x S of what all hold + available - reserve, between need and limit");
    emit_key_boolean(emitter, "short", state->memory_short);
    emit_key_unsigned(emitter, "available", state->memory_available);
    emit_key_unsigned(emitter, "reserve", instance->manager->configuration.memory_reserve);
    emit_key_unsigned(emitter, "held", share->memory_held);
    emit_key_unsigned(emitter, "used", share->memory_used);
    emit_key_unsigned(emitter, "need", share->memory_need);
    emit_key_unsigned(emitter, "granted", share->memory_granted ? share->memory_granted : instance_memory_limit(spec));
    emit_key_boolean(emitter, "preallocated", spec->allocation == INSTANCE_FIXED && instance->assigned.kind != KIND_CONTAINER);
    emit_object_end(emitter);
}

/* Bytes a second; 0: no limit. */
static void emit_rates(const struct instance_spec *spec, struct emitter *emitter) {
    emit_key(emitter, "rates");
    emit_object(emitter);
    emit_key_unsigned(emitter, "io_read", spec->io_read);
    emit_key_unsigned(emitter, "io_write", spec->io_write);
    emit_key_unsigned(emitter, "network_in", spec->network_in);
    emit_key_unsigned(emitter, "network_out", spec->network_out);
    emit_object_end(emitter);
}

static void emit_requests(struct instance *instance, struct emitter *emitter) {
    const struct instance_status *status = &instance->status;
    struct driver_facts facts = { 0 };

    if (instance->driver && instance->driver->facts && state_is_active(status->state))
        instance->driver->facts(instance->driver_data, &instance->view, &facts);
    emit_key(emitter, "requests");
    emit_object(emitter);
    emit_key_integer(emitter, "io_reads", status->io_reads);
    emit_key_integer(emitter, "io_writes", status->io_writes);
    emit_key_unsigned(emitter, "control_calls", facts.control_calls);
    emit_key_unsigned(emitter, "control_waits", facts.control_waits);
    if (is_machine(instance))
        emit_budget(instance, emitter);
    emit_object_end(emitter);
    free(facts.hostname);
    list_free(facts.addresses);
}

int manager_allocation_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error) {
    _cleanup_free_ struct allocation *items = NULL;
    struct instance *instance;
    size_t count, self;
    uint64_t capacity;
    int r = registry_lookup(manager, name, false, &instance, error);

    if (r < 0)
        return r;
    r = allocation_pool(instance, &items, &count, &self, &capacity);
    if (r < 0)
        return error_errno(error, r, "working out its share");
    /* Floors beyond a cpuset's processors cannot be kept: scores are what is left to go by. */
    if (allocator_weigh(capacity, items, count, NULL) < 0)
        for (size_t i = 0; i < count; i++)
            items[i].scheduler = allocation_weight(&items[i]);
    emit_object(emitter);
    emit_key_text(emitter, "name", instance->name);
    emit_key_text(emitter, "mode", mode_of(instance));
    emit_key_boolean(emitter, "running", state_is_active(instance->status.state));
    emit_pool(instance, count, capacity, emitter);
    allocation_emit_weight(instance, emitter);
    emit_cpu(instance, items, count, self, capacity, emitter);
    emit_memory(instance, emitter);
    emit_rates(&instance->spec, emitter);
    emit_requests(instance, emitter);
    emit_object_end(emitter);
    return 0;
}

/* --- metrics --------------------------------------------------------------------------------------------------------- */

enum metric_source { SOURCE_READS, SOURCE_WRITES, SOURCE_READ_BYTES, SOURCE_WRITE_BYTES, SOURCE_CALLS, SOURCE_WAITS, SOURCE_WEIGHT };

static const struct {
    const char *name, *help;
    bool counts;
} metrics[] = {
    [SOURCE_READS] = { "polder_instance_io_reads", "Reads that reached its disks, over all its runs.", true },
    [SOURCE_WRITES] = { "polder_instance_io_writes", "Writes that reached its disks, over all its runs.", true },
    [SOURCE_READ_BYTES] = { "polder_instance_io_read_bytes", "Bytes read from its disks, over all its runs.", true },
    [SOURCE_WRITE_BYTES] = { "polder_instance_io_write_bytes", "Bytes written to its disks, over all its runs.", true },
    [SOURCE_CALLS] = { "polder_instance_control_calls", "Messages on its control channel, over all its runs.", true },
    [SOURCE_WAITS] = { "polder_instance_control_waits", "Waits for its budget of messages, in its last run.", false },
    [SOURCE_WEIGHT] = { "polder_instance_weight", "Its dynamic weight, alpha x P + beta x T, as it is in force.", false },
};

static int64_t metric_value(const struct instance *instance, enum metric_source source) {
    const struct instance_status *status = &instance->status;
    const int64_t values[] = { status->io_reads,      status->io_writes,     status->io_read_bytes, status->io_write_bytes,
                               status->control_calls, status->control_waits, (int64_t) instance->share.dynamic };

    return values[source];
}

/* Fake instances ask for nothing. */
static bool is_counted(const struct instance *instance) {
    return !instance->uncommitted && instance->status.state != STATE_DELETED && instance->assigned.kind != KIND_FAKE;
}

void allocation_metrics(struct manager *manager, struct buffer *out) {
    size_t count;
    struct instance *const *sorted = registry_sorted(manager, &count);

    for (size_t i = 0; i < ELEMENTS(metrics); i++) {
        const char *suffix = metrics[i].counts ? "_total" : "";

        buffer_addf(out, "# TYPE %s%s %s\n# HELP %s%s %s\n", metrics[i].name, suffix, metrics[i].counts ? "counter" : "gauge",
                    metrics[i].name, suffix, metrics[i].help);
        for (size_t j = 0; j < count; j++)
            if (is_counted(sorted[j]))
                buffer_addf(out, "%s%s{name=\"%s\",project=\"%s\",kind=\"%s\",node=\"%s\"} %lld\n", metrics[i].name,
                            suffix, sorted[j]->name, sorted[j]->assigned.project,
                            kind_name(sorted[j]->assigned.kind), sorted[j]->assigned.node,
                            (long long) metric_value(sorted[j], (enum metric_source) i));
    }
}
