// SPDX-License-Identifier: GPL-2.0-or-later
/* Where: the engine's placement over the nodes that this daemon knows, of which there is one. What it
 * decides at a start is kept and written to the ledger beside the queue's decision of the same number; for
 * one that waits, and for a need that is only thought of, it is worked out when somebody asks. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "engine/ledger.h"
#include "engine/placement-explain.h"
#include "manager/internal.h"

#define SCORE "polder"

void placements_done(struct placements *placements) {
    for (size_t i = 0; i < PLACEMENTS_KEPT; i++)
        free(placements->kept[i].text);
    *placements = (struct placements){ 0 };
}

const char *placement_kept(const struct manager *manager, uint64_t number) {
    size_t place = number % PLACEMENTS_KEPT;

    return number && manager->placements.kept[place].number == number ? manager->placements.kept[place].text : NULL;
}

/* --- the node as the engine's table has it -------------------------------------------------------------- */

/* What a request can ask a node for: kinds that can run here, and what the host is. */
static int add_traits(struct manager *manager, char ***ret) {
    int r = list_addf(ret, "machine=%s", manager->facts.machine ? manager->facts.machine : "unknown");

    if (r >= 0)
        r = list_addf(ret, "acceleration=%s", manager->facts.kvm_usable ? "kvm" : "tcg");
    for (int kind = KIND_CONTAINER; kind < KIND_COUNT && r >= 0; kind++) {
        _cleanup_error_ struct error reason = ERROR_INIT;
        if (manager_driver_available(manager, kind, &reason) >= 0)
            r = list_addf(ret, "kind=%s", kind_name(kind));
    }
    return r;
}

/* `own` is what the one that is asked about holds already: it does not stand in its own way. */
static int add_node(struct manager *manager, const struct engine_totals *totals, const struct node_share *own,
                    struct nodes *nodes) {
    uint64_t reserve = manager->configuration.memory_reserve;
    uint32_t cpu[KIND_COUNT], memory[KIND_COUNT], slot;
    _cleanup_list_ char **traits = NULL;
    struct node_description node = {
        .name = manager->facts.hostname ? manager->facts.hostname : "localhost",
        .cpus = manager->facts.cpus * 1000000,
        .memory = manager->facts.memory > reserve ? manager->facts.memory - reserve : 0,
        .overcommit_cpu = cpu, .overcommit_memory = memory,
    };
    struct node_share used = { .cpus = totals->taken_cpus * 1000, .memory = totals->taken_memory, .group = -1 };
    int r = add_traits(manager, &traits);

    for (int kind = 0; kind < KIND_COUNT; kind++) {
        cpu[kind] = (uint32_t) manager->configuration.overcommit_cpu[kind];
        memory[kind] = (uint32_t) manager->configuration.overcommit_memory[kind];
        cpu[kind] += cpu[kind] == 0 ? 100 : 0;
        memory[kind] += memory[kind] == 0 ? 100 : 0;
    }
    node.traits = traits;
    if (r >= 0)
        r = nodes_add(nodes, &node, NULL);
    used.cpus -= used.cpus < own->cpus ? used.cpus : own->cpus;
    used.memory -= used.memory < own->memory ? used.memory : own->memory;
    used.cpus = used.cpus < node.cpus ? used.cpus : node.cpus; /* adopted ones may have more than there is */
    used.memory = used.memory < node.memory ? used.memory : node.memory;
    return r >= 0 ? nodes_take(nodes, 0, &used, &slot) : r;
}

struct wanted {
    const char *name;
    enum kind kind;
    uint64_t cpus, memory; /* thousandths, bytes */
    bool holds;            /* it has its room already */
};

static int explain(struct manager *manager, const struct wanted *wanted, uint64_t number, char **ret) {
    const struct placement_options options = { .score = score_find(SCORE) };
    uint32_t cpu = (uint32_t) manager->configuration.overcommit_cpu[wanted->kind];
    uint32_t memory = (uint32_t) manager->configuration.overcommit_memory[wanted->kind];
    struct node_share own = { 0 };
    _cleanup_nodes_ struct nodes *nodes = NULL;
    _cleanup_free_ char *kind = text_format("kind=%s", kind_name(wanted->kind));
    struct placement_request request;
    struct placement placement;
    struct engine_totals totals;
    int r = kind ? nodes_new(&nodes) : -ENOMEM;

    if (wanted->holds)
        own = (struct node_share){ .cpus = node_physical(wanted->cpus * 1000, cpu ? cpu : 100),
                                   .memory = node_physical(wanted->memory, memory ? memory : 100) };
    engine_totals(manager->engine, &totals);
    if (r >= 0)
        r = add_node(manager, &totals, &own, nodes);
    if (r < 0)
        return r;
    placement_request_init(&request, wanted->name);
    request.shape.kind = wanted->kind;
    request.shape.cpus = wanted->cpus * 1000;
    request.shape.memory = wanted->memory;
    r = placement_require(nodes, &request, kind, NULL);
    placement_init(&placement, nodes, &options);
    if (r >= 0)
        r = placement_explain(&placement, &request, number, ret);
    placement_done(&placement);
    return r;
}

static int explain_instance(struct instance *instance, uint64_t number, char **ret) {
    const struct wanted wanted = { instance->name, (enum kind) instance->assigned.kind, instance->spec.cpus,
                                   instance->spec.memory, instance->admitted };

    return explain(instance->manager, &wanted, number, ret);
}

/* --- starts --------------------------------------------------------------------------------------------- */

/* It is kept for explanations only: without memory there is none. */
void placement_note(struct instance *instance) {
    struct manager *manager = instance->manager;
    uint64_t number = engine_decision_about(manager->engine, instance->assigned.uuid);
    struct placement_record *record = &manager->placements.kept[number % PLACEMENTS_KEPT];

    instance->placed = 0;
    if (number == 0)
        return;
    free(record->text);
    *record = (struct placement_record){ .number = number };
    if (explain_instance(instance, number, &record->text) < 0)
        return;
    instance->placed = number;
    engine_note(manager->engine, record->text);
}

void placement_emit(struct instance *instance, struct emitter *emitter) {
    const char *kept = instance->admitted ? placement_kept(instance->manager, instance->placed) : NULL;
    _cleanup_free_ char *text = NULL;

    emit_key(emitter, "placement");
    if (!kept && !instance->admitted && explain_instance(instance, 0, &text) >= 0)
        kept = text;
    if (kept)
        emit_raw(emitter, kept);
    else
        emit_null(emitter);
}

void placement_emit_need(struct manager *manager, enum kind kind, uint64_t cpus, uint64_t memory,
                         struct emitter *emitter) {
    const struct wanted wanted = { NULL, kind, cpus, memory, false };
    _cleanup_free_ char *text = NULL;

    emit_key(emitter, "placement");
    if (explain(manager, &wanted, 0, &text) >= 0)
        emit_raw(emitter, text);
    else
        emit_null(emitter);
}
