// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/file.h"
#include "base/text.h"
#include "manager/internal.h"

#define AUDIT_DEADLINE (2 * CLOCK_SECOND)
#define PROBE_PATIENCE (20 * CLOCK_SECOND)

/* --- node show: promised versus real -------------------------------------------------------------------------------- */

/* `name` with its colon. */
static uint64_t meminfo(const char *name) {
    _cleanup_free_ char *text = NULL;
    const char *line;

    if (file_read(AT_FDCWD, "/proc/meminfo", 8192, &text, NULL) < 0)
        return 0;
    line = strstr(text, name);
    return line ? strtoull(line + strlen(name), NULL, 10) * 1024 : 0;
}

uint64_t memory_available(void) {
    return meminfo("MemAvailable:");
}

uint64_t swap_free(void) {
    return meminfo("SwapFree:");
}

static void emit_overcommit(const char *key, const uint64_t percent[KIND_COUNT], struct emitter *emitter) {
    emit_key(emitter, key);
    emit_object(emitter);
    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
        emit_key_unsigned(emitter, kind_name(kind), percent[kind]);
    emit_object_end(emitter);
}

static uint64_t virtual_of(uint64_t physical, uint64_t percent) {
    return (uint64_t) ((unsigned __int128) physical * percent / 100);
}

/* Without what is kept for the host. */
static uint64_t memory_for_instances(const struct manager *manager) {
    uint64_t reserve = manager->configuration.memory_reserve;

    return manager->facts.memory > reserve ? manager->facts.memory - reserve : 0;
}

/* V = P x C for each kind, of what is left to instances. */
static void emit_virtual(const char *key, uint64_t physical, const uint64_t percent[KIND_COUNT], struct emitter *emitter) {
    emit_key(emitter, key);
    emit_object(emitter);
    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
        emit_key_unsigned(emitter, kind_name(kind), virtual_of(physical, percent[kind]));
    emit_object_end(emitter);
}

static void emit_cpu_part(const struct manager *manager, const struct engine_totals *totals, struct emitter *emitter) {
    emit_key(emitter, "cpus");
    emit_object(emitter);
    emit_key_unsigned(emitter, "physical_milli", manager->facts.cpus * 1000);
    emit_key_unsigned(emitter, "promised_milli", totals->promised_cpus);
    emit_key_unsigned(emitter, "taken_milli", totals->taken_cpus);
    emit_overcommit("overcommit_percent", manager->configuration.overcommit_cpu, emitter);
    emit_virtual("virtual_milli", manager->facts.cpus * 1000, manager->configuration.overcommit_cpu, emitter);
    emit_object_end(emitter);
}

static void emit_memory_part(const struct manager *manager, const struct engine_totals *totals,
                             struct emitter *emitter) {
    uint64_t reserve = manager->configuration.memory_reserve;

    emit_key(emitter, "memory");
    emit_object(emitter);
    emit_key_unsigned(emitter, "physical", manager->facts.memory);
    emit_key_unsigned(emitter, "reserved", reserve);
    emit_key_unsigned(emitter, "available", memory_available());
    emit_key_unsigned(emitter, "promised", totals->promised_memory);
    emit_key_unsigned(emitter, "taken", totals->taken_memory);
    emit_overcommit("overcommit_percent", manager->configuration.overcommit_memory, emitter);
    emit_virtual("virtual", memory_for_instances(manager), manager->configuration.overcommit_memory, emitter);
    emit_object_end(emitter);
}

static void emit_disk_part(const struct manager *manager, struct emitter *emitter) {
    struct statvfs status = { 0 };

    (void) statvfs(manager->configuration.state_path, &status);
    emit_key(emitter, "disk");
    emit_object(emitter);
    emit_key_unsigned(emitter, "size", (uint64_t) status.f_blocks * status.f_frsize);
    emit_key_unsigned(emitter, "free", (uint64_t) status.f_bavail * status.f_frsize);
    emit_object_end(emitter);
}

static void emit_drivers_part(struct manager *manager, struct emitter *emitter) {
    emit_key(emitter, "kinds");
    emit_object(emitter);
    for (int kind = KIND_CONTAINER; kind < KIND_COUNT; kind++) {
        _cleanup_error_ struct error reason = ERROR_INIT;
        _cleanup_free_ char *sentence = NULL;
        int r = manager_driver_available(manager, kind, &reason);
        if (kind == KIND_FAKE && !manager->configuration.fake_driver)
            continue;
        sentence = r < 0 ? error_sentence(&reason, LANGUAGE_ENGLISH) : NULL;
        emit_key(emitter, kind_name(kind));
        emit_object(emitter);
        emit_key_boolean(emitter, "available", r >= 0);
        emit_key_text(emitter, "reason", sentence);
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
}

/* What was measured and can be asked for like labels; then features of the processor. */
static void emit_traits_part(const struct manager *manager, struct emitter *emitter) {
    _cleanup_list_ char **measured = NULL;

    for (char *const *trait = engine_traits(manager->engine); trait && *trait; trait++)
        if (strchr(*trait, '=') && !list_has(manager->node_settings.labels, *trait))
            (void) list_add(&measured, *trait);
    emit_key_list(emitter, "measured", measured);
    emit_key_list(emitter, "features", manager->facts.features);
}

static const char *const layout_names[] = { "none", "v1", "hybrid", "v2" };

void manager_node_emit(struct manager *manager, struct emitter *emitter) {
    struct engine_totals totals;
    char time[CLOCK_TEXT_SIZE];

    engine_totals(manager->engine, &totals);
    emit_object(emitter);
    emit_key_text(emitter, "name", manager->facts.hostname);
    emit_key_text(emitter, "version", POLDER_VERSION);
    emit_key_text(emitter, "started", clock_format(manager->started, time));
    emit_key_text(emitter, "kernel", manager->facts.kernel);
    emit_key_text(emitter, "machine", manager->facts.machine);
    emit_key_text(emitter, "acceleration", manager->facts.kvm_usable ? "kvm" : "tcg");
    emit_key_text(emitter, "acceleration_reason", manager->facts.kvm_reason);
    emit_key_text(emitter, "cgroups", layout_names[manager->cgroups ? cgroup_host_layout(manager->cgroups) : CGROUP_NONE]);
    table_emit(&node_settings_table, &manager->node_settings, emitter);
    emit_traits_part(manager, emitter);
    emit_cpu_part(manager, &totals, emitter);
    emit_memory_part(manager, &totals, emitter);
    emit_disk_part(manager, emitter);
    emit_key(emitter, "instances");
    emit_object(emitter);
    emit_key_unsigned(emitter, "total", map_count(manager->by_name));
    emit_key_unsigned(emitter, "admitted", totals.admitted);
    emit_key_unsigned(emitter, "queued", totals.queued);
    emit_object_end(emitter);
    emit_key(emitter, "queue");
    emit_object(emitter);
    table_emit(&queue_settings_table, &manager->queue_settings, emitter);
    emit_object_end(emitter);
    emit_drivers_part(manager, emitter);
    emit_object_end(emitter);
}

/* --- doctor ------------------------------------------------------------------------------------------------------------- */

static int driver_findings(struct manager *manager, struct findings *findings) {
    int r = 0;

    for (int kind = KIND_CONTAINER; kind <= KIND_VM && r >= 0; kind++) {
        _cleanup_error_ struct error reason = ERROR_INIT;
        _cleanup_free_ char *sentence = NULL, *text = NULL;
        int available = manager_driver_available(manager, kind, &reason);
        sentence = available < 0 ? error_sentence(&reason, LANGUAGE_ENGLISH) : NULL;
        text = text_format("%s instances %s", kind_name(kind), available >= 0 ? "can run" : "cannot run");
        r = findings_add(findings, available >= 0 ? FINDING_OK : FINDING_ERROR, "kinds", text, sentence,
                         available >= 0 ? NULL : "install or enable what is named, then restart polderd");
    }
    return r;
}

void manager_await_probe(struct manager *manager) {
    if (manager->probe)
        (void) fiber_join(manager->probe, deadline_in(PROBE_PATIENCE), NULL);
}

int manager_doctor_emit(struct manager *manager, struct emitter *emitter, struct error *error) {
    struct findings findings = { 0 };
    int r = driver_findings(manager, &findings);

    manager_await_probe(manager);
    if (r >= 0)
        r = host_findings(&manager->facts, manager->cgroups, manager->configuration.state_path, &findings);
    if (r >= 0)
        r = host_helper_findings(manager->configuration.libexec_path, &findings);
    if (r >= 0)
        r = storage_findings(manager->storage, &findings);
    if (r >= 0 && manager->network)
        r = network_findings(manager->network, &findings);
    if (r >= 0)
        findings_emit(&findings, emitter);
    findings_done(&findings);
    return r < 0 ? error_errno(error, r, "looking at the host") : 0;
}

/* --- audit, networks, metrics --------------------------------------------------------------------------------------------- */

int manager_audit_emit(struct manager *manager, const struct actor *actor, const char *after, size_t limit,
                       struct emitter *emitter, struct error *error) {
    _cleanup_free_ char *from = NULL;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    struct store_items items = { 0 };
    int r = authorise(actor, "default", PERMISSION_AUDIT, NULL, error);
    uint64_t number;

    if (r >= 0 && after && text_parse_u64(after, &number) < 0)
        r = error_set(error, ERROR_BAD_VALUE, "after", after, "it is no audit id");
    if (r < 0)
        return audit_refusal(manager, actor, "audit.list", "audit", r, error);
    /* Who acts and then looks sees what he did. */
    (void) manager_flush(manager, deadline_in(AUDIT_DEADLINE), &ignored);
    from = after ? text_format(AUDIT_PREFIX "%020" PRIu64, number) : NULL;
    r = store_list(manager->store, AUDIT_PREFIX, from, limit ? limit : 100, true, &items, error);
    if (r < 0)
        return r;
    emit_object(emitter);
    emit_key(emitter, "audit");
    emit_array(emitter);
    for (size_t i = 0; i < items.count; i++)
        emit_raw(emitter, items.items[i].value);
    emit_array_end(emitter);
    emit_object_end(emitter);
    store_items_done(&items);
    return 0;
}

int manager_networks_emit(struct manager *manager, struct emitter *emitter) {
    emit_object(emitter);
    emit_key(emitter, "networks");
    emit_array(emitter);
    if (manager->network)
        network_emit(manager->network, emitter);
    emit_array_end(emitter);
    emit_object_end(emitter);
    return 0;
}

int manager_network_reset(struct manager *manager, const struct actor *actor, struct error *error) {
    int r = authorise(actor, "default", PERMISSION_ADMIN, "network", error);

    if (r >= 0 && !manager->network)
        r = error_set(error, ERROR_NOT_FOUND, "network", "default");
    if (r >= 0)
        r = network_reset(manager->network, error);
    if (r >= 0)
        audit_note(manager, actor, "network.reset", "networks/default", "ok");
    return audit_refusal(manager, actor, "network.reset", "networks/default", r, error);
}

static void metric_head(struct buffer *out, const char *name, const char *type, const char *help) {
    buffer_addf(out, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

static void metrics_states(struct manager *manager, struct buffer *out) {
    size_t counts[STATE_COUNT] = { 0 }, position = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value))
        counts[((struct instance *) value)->status.state]++;
    metric_head(out, "polder_instances", "gauge", "Instances by state.");
    for (int state = 0; state < STATE_COUNT; state++)
        buffer_addf(out, "polder_instances{state=\"%s\"} %zu\n", state_name(state), counts[state]);
}

/* V = P x C. */
static void metrics_virtual(struct manager *manager, struct buffer *out) {
    const char *node = manager->facts.hostname;

    metric_head(out, "polder_virtual_cpus", "gauge", "CPUs that may be promised to instances of a kind, were there no others.");
    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++) {
        uint64_t milli = virtual_of(manager->facts.cpus * 1000, manager->configuration.overcommit_cpu[kind]);
        buffer_addf(out, "polder_virtual_cpus{kind=\"%s\",node=\"%s\"} %" PRIu64 ".%03" PRIu64 "\n", kind_name((enum kind) kind), node,
                    milli / 1000, milli % 1000);
    }
    metric_head(out, "polder_virtual_memory_bytes", "gauge", "Memory that may be promised to instances of a kind, were there no others.");
    for (int kind = KIND_CONTAINER; kind <= KIND_VM; kind++)
        buffer_addf(out, "polder_virtual_memory_bytes{kind=\"%s\",node=\"%s\"} %" PRIu64 "\n", kind_name((enum kind) kind), node,
                    virtual_of(memory_for_instances(manager), manager->configuration.overcommit_memory[kind]));
}

void manager_metrics(struct manager *manager, struct buffer *out) {
    struct engine_totals totals;
    struct store_statistics store;

    engine_totals(manager->engine, &totals);
    store_statistics(manager->store, &store);
    metrics_states(manager, out);
    metrics_virtual(manager, out);
    metric_head(out, "polder_promised_cpus", "gauge", "CPUs promised to admitted instances.");
    buffer_addf(out, "polder_promised_cpus %" PRIu64 ".%03" PRIu64 "\n", totals.promised_cpus / 1000,
                totals.promised_cpus % 1000);
    metric_head(out, "polder_promised_memory_bytes", "gauge", "Memory promised to admitted instances.");
    buffer_addf(out, "polder_promised_memory_bytes %" PRIu64 "\n", totals.promised_memory);
    metric_head(out, "polder_allocator_writes_total", "counter", "Values that the allocator wrote to control groups.");
    buffer_addf(out, "polder_allocator_writes_total %" PRIu64 "\n", manager->allocator.writes);
    metric_head(out, "polder_allocator_passes_total", "counter", "Times that the allocator looked at all that run.");
    buffer_addf(out, "polder_allocator_passes_total %" PRIu64 "\n", manager->allocator.passes);
    metric_head(out, "polder_allocator_pass_seconds", "gauge", "How long its last decision took.");
    buffer_addf(out, "polder_allocator_pass_seconds %" PRIu64 ".%06" PRIu64 "\n", manager->allocator.pass_time / 1000000,
                manager->allocator.pass_time % 1000000);
    allocation_metrics(manager, out);
    flows_metrics(manager, out);
    metric_head(out, "polder_queue_length", "gauge", "Instances that wait for room.");
    buffer_addf(out, "polder_queue_length %zu\n", totals.queued);
    metric_head(out, "polder_store_commits_total", "counter", "Transactions groups written.");
    buffer_addf(out, "polder_store_commits_total %" PRIu64 "\n", store.commits);
    metric_head(out, "polder_store_fsync_seconds", "gauge", "Duration of the last write to disk.");
    buffer_addf(out, "polder_store_fsync_seconds %" PRIu64 ".%06" PRIu64 "\n", store.fsync_us_last / 1000000,
                store.fsync_us_last % 1000000);
}
