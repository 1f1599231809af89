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

/* --- what an instance asks for, and what the node is ---------------------------------------------------- */

struct engine_wishes placement_wishes(const struct instance_spec *spec) {
    return (struct engine_wishes){ { [WISH_LABELS] = spec->labels,
                                     [WISH_NODE_LABELS] = spec->node_labels,
                                     [WISH_FEATURES] = spec->features,
                                     [WISH_TOLERATIONS] = spec->tolerations,
                                     [WISH_AFFINITY] = spec->affinity,
                                     [WISH_ANTI_AFFINITY] = spec->anti_affinity,
                                     [WISH_SPREAD] = spec->spread } };
}

int placement_possible(struct manager *manager, const struct instance *instance, const struct instance_spec *before,
                       struct error *error) {
    const struct instance_spec *spec = &instance->spec;
    struct engine_request request = { .kind = instance->assigned.kind };

    if (!before || !list_equal(before->node_labels, spec->node_labels))
        request.wishes.lists[WISH_NODE_LABELS] = spec->node_labels;
    if (!before || !list_equal(before->features, spec->features))
        request.wishes.lists[WISH_FEATURES] = spec->features;
    if (request.wishes.lists[WISH_NODE_LABELS])
        manager_await_probe(manager); /* acceleration is a label */
    return engine_check(manager->engine, &request, error);
}

/* What was measured, which nobody can set: then labels, then features of the processor. */
int placement_traits(struct manager *manager, const struct node_settings *settings, char ***ret_traits, char ***ret_taints) {
    const struct host_facts *facts = &manager->facts;
    int r = list_addf(ret_traits, "node=%s", facts->hostname ? facts->hostname : "localhost");

    if (r >= 0)
        r = list_addf(ret_traits, "machine=%s", facts->machine ? facts->machine : "unknown");
    if (r >= 0)
        r = list_addf(ret_traits, "acceleration=%s", facts->kvm_usable ? "kvm" : "tcg");
    for (char *const *label = settings->labels; r >= 0 && label && *label; label++)
        r = list_add(ret_traits, *label);
    for (char *const *feature = facts->features; r >= 0 && feature && *feature; feature++)
        r = list_add(ret_traits, *feature);
    for (char *const *taint = settings->taints; r >= 0 && taint && *taint; taint++)
        r = list_addf(ret_taints, "%.*s", (int) (strlen(*taint) - text_ends(*taint, "=")), *taint);
    return r;
}

int placement_tell(struct manager *manager, const struct node_settings *settings) {
    _cleanup_list_ char **traits = NULL, **taints = NULL;
    int r = placement_traits(manager, settings, &traits, &taints);

    if (r < 0 || (list_equal(traits, (char **) engine_traits(manager->engine)) &&
                  list_equal(taints, (char **) engine_taints(manager->engine))))
        return r;
    return engine_set_place(manager->engine, traits, taints, clock_now());
}

/* --- why the node does not take one --------------------------------------------------------------------- */

static char *others_text(const struct engine_refusal *refusal) {
    return refusal->others > 1 ? text_format("%s and %zu more", refusal->other, refusal->others - 1) : strdup(refusal->other);
}

static char *anti_affinity_reason(const struct engine_refusal *refusal) {
    _cleanup_free_ char *others = others_text(refusal);
    bool one = refusal->others == 1;
    const char *here = refusal->ahead ? (one ? "waits before it" : "wait before it") : one ? "is here" : "are here";

    if (!others)
        return NULL;
    return refusal->against ? text_format("%s %s, and %s away from %s", others, here, one ? "keeps" : "keep", refusal->term)
                            : text_format("it keeps away from %s, and %s %s", refusal->term, others, here);
}

static char *amount_text(const struct engine_refusal *refusal, uint64_t amount) {
    return refusal->filter == FILTER_CPU ? text_format_cpus(amount) : text_format_size(amount);
}

static char *guarantee_reason(const struct manager *manager, const struct engine_refusal *refusal) {
    const char *what = refusal->filter == FILTER_CPU ? "processors" : "memory";
    _cleanup_free_ char *wanted = amount_text(refusal, refusal->wanted), *left = amount_text(refusal, refusal->free);
    _cleanup_free_ char *others = refusal->other ? others_text(refusal) : NULL;

    if (!wanted || !left)
        return NULL;
    if (refusal->ahead)
        return text_format("%s %s before it for %s to be guaranteed", others, refusal->others > 1 ? "wait" : "waits", what);
    return text_format("%s of %s to be guaranteed to it, and %s can guarantee %s more%s%s", wanted, what,
                       manager->facts.hostname ? manager->facts.hostname : "the node", left, others ? " beside " : "",
                       others ? others : "");
}

char *placement_reason(const struct manager *manager, const struct engine_refusal *refusal) {
    const char *node = manager->facts.hostname ? manager->facts.hostname : "the node";

    switch (refusal->filter) {
    case FILTER_TAINT:
        return text_format("%s has the taint %s, which it does not tolerate", node, refusal->term);
    case FILTER_TRAIT:
        return strstr(refusal->term, "!=") ? text_format("%s has not %s", node, refusal->term)
                                           : text_format("%s lacks %s", node, refusal->term);
    case FILTER_AFFINITY:
        return text_format("it must be near %s, and no such is here", refusal->term);
    case FILTER_ANTI_AFFINITY:
        return anti_affinity_reason(refusal);
    case FILTER_SPREAD:
        return text_format("it is to be spread by %s, and %s has no label that says in which it lies", refusal->term, node);
    case FILTER_CPU:
    case FILTER_MEMORY:
        return guarantee_reason(manager, refusal);
    case FILTER_CLOSED:
        return strdup("there is no node left");
    default:
        return strdup("others wait before it");
    }
}

char *placement_change(const struct manager *manager, const struct engine_refusal *refusal) {
    _cleanup_free_ char *others = refusal->other ? others_text(refusal) : NULL;

    switch (refusal->filter) {
    case FILTER_TAINT:
        return text_format("starts if it tolerated %s, or if the taint were gone (polder node set --taint %.*s-)", refusal->term,
                           (int) strcspn(refusal->term, "="), refusal->term);
    case FILTER_TRAIT:
        return text_format(strchr(refusal->term, '=') ? "starts on a node for which %s holds (polder node set --label)"
                                                      : "starts on a node whose processor has %s", refusal->term);
    case FILTER_AFFINITY:
        return text_format("starts when an instance with %s runs here", refusal->term);
    case FILTER_ANTI_AFFINITY:
        return others ? text_format("starts if %s %s not there", others, refusal->others > 1 ? "were" : "was") : NULL;
    case FILTER_CPU:
    case FILTER_MEMORY:
        return others ? text_format("starts when less is guaranteed to %s, or if it asked for less itself (polder set --allocation "
                                    "dynamic)", others) : NULL;
    case FILTER_SPREAD:
        return text_format("starts on a node with that label (polder node set --label)");
    default:
        return strdup("no single change would let it start now");
    }
}

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

/* What a request can ask a node for: kinds that can run here, and what the engine was told, of features only those that it
 * asks for, since there are hundreds. */
static int add_traits(struct manager *manager, const struct instance_spec *spec, char ***ret) {
    int r = 0;

    for (char *const *trait = engine_traits(manager->engine); r >= 0 && trait && *trait; trait++)
        if (strchr(*trait, '=') || (spec && list_has(spec->features, *trait)))
            r = list_add(ret, *trait);
    for (int kind = KIND_CONTAINER; kind < KIND_COUNT && r >= 0; kind++) {
        _cleanup_error_ struct error reason = ERROR_INIT;
        if (manager_driver_available(manager, kind, &reason) >= 0)
            r = list_addf(ret, "kind=%s", kind_name(kind));
    }
    return r;
}

static const char *label_of(char *const *labels, const char *key) {
    size_t length = strlen(key);

    for (char *const *label = labels; label && *label; label++)
        if (strncmp(*label, key, length) == 0 && (*label)[length] == '=')
            return *label + length + 1;
    return NULL;
}

/* `own` is what the one that is asked about holds already: it does not stand in its own way. */
static int add_node(struct manager *manager, const struct instance_spec *spec, const struct engine_totals *totals,
                    const struct node_share *own, struct nodes *nodes) {
    uint64_t reserve = manager->configuration.memory_reserve;
    uint32_t cpu[KIND_COUNT], memory[KIND_COUNT], slot;
    _cleanup_list_ char **traits = NULL;
    struct node_description node = {
        .name = manager->facts.hostname ? manager->facts.hostname : "localhost",
        .cpus = manager->facts.cpus * 1000000,
        .memory = manager->facts.memory > reserve ? manager->facts.memory - reserve : 0,
        .overcommit_cpu = cpu, .overcommit_memory = memory,
        .rack = label_of(engine_traits(manager->engine), "rack"), .zone = label_of(engine_traits(manager->engine), "zone"),
        .taints = (char *const *) engine_taints(manager->engine),
    };
    struct node_share used = { .cpus = totals->taken_cpus * 1000, .memory = totals->taken_memory, .group = -1 };
    int r = add_traits(manager, spec, &traits);

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
    const char *name, *id;
    enum kind kind;
    uint64_t cpus, memory; /* thousandths, bytes */
    bool holds;            /* it has its room already */
    const struct instance_spec *spec; /* NULL: it asks for room alone */
};

/* The group has as many members on the node as the engine says. */
static int add_members(struct nodes *nodes, const char *group, size_t count, struct error *error) {
    struct node_share share = { .group = nodes_number(nodes, NAMES_GROUPS, group, true) };
    uint32_t slot;
    int r = share.group < 0 ? error_errno(error, share.group, "placing") : 0;

    count = count < PLACEMENT_MEMBERS ? count : PLACEMENT_MEMBERS;
    for (size_t have = r < 0 ? 0 : nodes_group_size(nodes, (unsigned) share.group); r >= 0 && have < count; have++)
        r = nodes_take(nodes, 0, &share, &slot);
    return r;
}

static int constrain(struct manager *manager, const struct wanted *wanted, enum constraint_type type, char *const *terms,
                     struct nodes *nodes, struct placement_request *request) {
    int r = 0;

    for (; r >= 0 && terms && *terms; terms++) {
        enum placement_level level;
        _cleanup_free_ char *selector = placement_selector(*terms, &level);
        r = selector ? add_members(nodes, selector, engine_selected(manager->engine, *terms, wanted->id), NULL) : -ENOMEM;
        if (r >= 0)
            r = placement_constrain(nodes, request, type, selector, (enum node_level) level, 1, NULL);
        if (r >= 0)
            request->constraints[request->constraint_count - 1].own =
                placement_selects(selector, wanted->name, wanted->spec->labels);
    }
    return r;
}

/* Those here that keep away from it: a group of those that do by the same term. More than there is room for say the same. */
static int constrain_against(struct manager *manager, const struct wanted *wanted, struct nodes *nodes,
                             struct placement_request *request) {
    const char *term;
    size_t position = 0;
    int r = 0;

    while (r >= 0 && request->constraint_count < CONSTRAINTS_MAX &&
           engine_against(manager->engine, wanted->id, &position, &term)) {
        enum placement_level level;
        _cleanup_free_ char *selector = placement_selector(term, &level);
        const char *apart = level == PLACEMENT_NODE ? "" : ":"; /* each level is a group of its own */
        const char *where = level == PLACEMENT_NODE ? "" : placement_level_names[level];
        _cleanup_free_ char *group = selector ? text_format("anti-affinity to %s%s%s", selector, apart, where) : NULL;
        bool told = group && nodes_number(nodes, NAMES_GROUPS, group, false) >= 0;
        r = group ? 0 : -ENOMEM;
        if (r >= 0 && !told)
            r = add_members(nodes, group, 1, NULL);
        if (r >= 0 && !told)
            r = placement_constrain(nodes, request, CONSTRAINT_ANTI_AFFINITY, group, (enum node_level) level, 1, NULL);
    }
    return r;
}

static int ask_node(struct manager *manager, const struct instance_spec *spec, struct nodes *nodes,
                    struct placement_request *request) {
    int r = 0;

    for (char *const *term = spec->node_labels; r >= 0 && term && *term; term++) {
        _cleanup_free_ char *refused = placement_refused_label(*term);
        r = refused ? placement_refuse(nodes, request, refused, NULL) : placement_require(nodes, request, *term, NULL);
    }
    for (char *const *feature = spec->features; r >= 0 && feature && *feature; feature++)
        r = placement_require(nodes, request, *feature, NULL);
    for (char *const *taint = engine_taints(manager->engine); r >= 0 && taint && *taint; taint++)
        if (placement_tolerates(spec->tolerations, *taint))
            r = placement_tolerate(nodes, request, *taint, NULL);
    return r;
}

static int ask(struct manager *manager, const struct wanted *wanted, struct nodes *nodes, struct placement_request *request) {
    const struct instance_spec *spec = wanted->spec;
    int r = spec ? ask_node(manager, spec, nodes, request) : 0;

    if (!spec || r < 0)
        return r;
    r = constrain(manager, wanted, CONSTRAINT_AFFINITY, spec->affinity, nodes, request);
    if (r >= 0)
        r = constrain(manager, wanted, CONSTRAINT_ANTI_AFFINITY, spec->anti_affinity, nodes, request);
    if (r >= 0)
        r = constrain(manager, wanted, CONSTRAINT_SPREAD, spec->spread, nodes, request);
    return r < 0 ? r : constrain_against(manager, wanted, nodes, request);
}

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
        r = add_node(manager, wanted->spec, &totals, &own, nodes);
    if (r < 0)
        return r;
    placement_request_init(&request, wanted->name);
    request.shape.kind = wanted->kind;
    request.shape.cpus = wanted->cpus * 1000;
    request.shape.memory = wanted->memory;
    r = placement_require(nodes, &request, kind, NULL);
    if (r >= 0)
        r = ask(manager, wanted, nodes, &request);
    placement_init(&placement, nodes, &options);
    if (r >= 0)
        r = placement_explain(&placement, &request, number, ret);
    placement_done(&placement);
    return r;
}

static int explain_instance(struct instance *instance, uint64_t number, char **ret) {
    const struct wanted wanted = { .name = instance->name, .id = instance->assigned.uuid,
                                   .kind = (enum kind) instance->assigned.kind, .cpus = instance->spec.cpus,
                                   .memory = instance->spec.memory, .holds = instance->admitted, .spec = &instance->spec };

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
    const struct wanted wanted = { .kind = kind, .cpus = cpus, .memory = memory };
    _cleanup_free_ char *text = NULL;

    emit_key(emitter, "placement");
    if (explain(manager, &wanted, 0, &text) >= 0)
        emit_raw(emitter, text);
    else
        emit_null(emitter);
}
