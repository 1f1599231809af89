// SPDX-License-Identifier: GPL-2.0-or-later
/* Names of traits and taints are written in alphabetical order, so that the line does not depend on the
 * numbers they have. */
#include "engine/placement-explain.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

/* --- what it is decided from ---------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static void emit_names(const struct nodes *nodes, enum node_names kind, const char *key, const uint64_t *bits,
                       unsigned words, struct emitter *emitter) {
    const char *names[TRAITS_MAX];
    size_t count = 0;

    for (unsigned word = 0; word < words; word++)
        for (uint64_t rest = bits[word]; rest; rest &= rest - 1)
            names[count++] = nodes_number_name(nodes, kind, word * 64 + (unsigned) __builtin_ctzll(rest));
    qsort(names, count, sizeof(*names), compare_names);
    emit_key(emitter, key);
    emit_array(emitter);
    for (size_t i = 0; i < count; i++)
        emit_text(emitter, names[i]);
    emit_array_end(emitter);
}

static const char *const constraint_names[] = { "affinity", "anti-affinity", "spread" };

static const char *group_name(const struct nodes *nodes, const struct constraint *constraint) {
    return nodes_number_name(nodes, NAMES_GROUPS, constraint->group);
}

/* Where the node lies, and how many of each group that is asked about are on it. */
static void emit_near(const struct nodes *nodes, uint32_t index, const struct placement_request *request,
                      struct emitter *emitter) {
    for (enum node_level level = LEVEL_RACK; level < LEVEL_COUNT; level++) {
        unsigned domain = nodes_get(nodes, index)->domains[level];
        if (domain) /* its name begins with its level */
            emit_key_text(emitter, node_level_name(level),
                          nodes_number_name(nodes, NAMES_DOMAINS, domain) + strlen(node_level_name(level)) + 1);
    }
    if (request->constraint_count == 0)
        return;
    emit_key(emitter, "members");
    emit_object(emitter);
    for (unsigned i = 0; i < request->constraint_count; i++) {
        bool told = false;
        for (unsigned j = 0; j < i; j++)
            told |= request->constraints[j].group == request->constraints[i].group;
        if (!told)
            emit_key_unsigned(emitter, group_name(nodes, &request->constraints[i]),
                              nodes_group_near(nodes, request->constraints[i].group, LEVEL_NODE, index));
    }
    emit_object_end(emitter);
}

static void emit_constraints(const struct nodes *nodes, const struct placement_request *request, struct emitter *emitter) {
    if (request->constraint_count == 0)
        return;
    emit_key(emitter, "constraints");
    emit_array(emitter);
    for (unsigned i = 0; i < request->constraint_count; i++) {
        const struct constraint *constraint = &request->constraints[i];
        emit_object(emitter);
        emit_key_text(emitter, "type", constraint_names[constraint->type]);
        emit_key_text(emitter, "group", group_name(nodes, constraint));
        emit_key_text(emitter, "level", node_level_name(constraint->level));
        emit_key_unsigned(emitter, "skew", constraint->skew);
        emit_key_boolean(emitter, "own", constraint->own);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

static void emit_node_input(const struct nodes *nodes, uint32_t index, const struct placement_request *request,
                            struct emitter *emitter) {
    const struct node *node = nodes_get(nodes, index);
    enum kind kind = (enum kind) request->shape.kind;

    emit_object(emitter);
    emit_key_text(emitter, "name", nodes_name(nodes, index));
    emit_key_unsigned(emitter, "cpus_millionths", node->cpus);
    emit_key_unsigned(emitter, "memory", node->memory);
    emit_key_unsigned(emitter, "free_cpus_millionths", node->free_cpus);
    emit_key_unsigned(emitter, "free_memory", node->free_memory);
    emit_key_unsigned(emitter, "overcommit_cpu_percent", nodes_ratio_cpu(nodes, node, kind));
    emit_key_unsigned(emitter, "overcommit_memory_percent", nodes_ratio_memory(nodes, node, kind));
    emit_key_boolean(emitter, "closed", node->closed);
    emit_names(nodes, NAMES_TRAITS, "traits", node->traits, TRAIT_WORDS, emitter);
    emit_names(nodes, NAMES_TAINTS, "taints", &node->taints, 1, emitter);
    emit_near(nodes, index, request, emitter);
    emit_object_end(emitter);
}

static void emit_input(const struct placement *placement, const struct placement_request *request,
                       struct emitter *emitter) {
    const struct shape *shape = &request->shape;

    emit_key(emitter, "input");
    emit_object(emitter);
    emit_key_text(emitter, "score", placement->options.score->name);
    emit_key(emitter, "request");
    emit_object(emitter);
    emit_key_text(emitter, "name", request->name);
    emit_key_text(emitter, "kind", kind_name((enum kind) shape->kind));
    emit_key_unsigned(emitter, "cpus_millionths", shape->cpus);
    emit_key_unsigned(emitter, "memory", shape->memory);
    emit_names(placement->nodes, NAMES_TRAITS, "traits", shape->traits, TRAIT_WORDS, emitter);
    emit_names(placement->nodes, NAMES_TRAITS, "refused", shape->refused, TRAIT_WORDS, emitter);
    emit_names(placement->nodes, NAMES_TAINTS, "tolerated", &shape->tolerated, 1, emitter);
    emit_constraints(placement->nodes, request, emitter);
    emit_object_end(emitter);
    emit_key(emitter, "nodes");
    emit_array(emitter);
    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++)
        emit_node_input(placement->nodes, i, request, emitter);
    emit_array_end(emitter);
    emit_object_end(emitter);
}

/* --- what each node says -------------------------------------------------------------------------------- */

/* In units of the request: what it asks for beyond what the node has left for its kind. */
static uint64_t lacking(uint64_t asked, uint64_t left, uint32_t percent) {
    uint64_t most = (uint64_t) ((unsigned __int128) left * percent / 100);

    return asked > most ? asked - most : 0;
}

static uint64_t lacking_cpus(const struct nodes *nodes, const struct node *node, const struct shape *shape) {
    return lacking(shape->cpus, node->free_cpus, nodes_ratio_cpu(nodes, node, (enum kind) shape->kind));
}

static uint64_t lacking_memory(const struct nodes *nodes, const struct node *node, const struct shape *shape) {
    return lacking(shape->memory, node->free_memory, nodes_ratio_memory(nodes, node, (enum kind) shape->kind));
}

/* The traits asked for that it lacks, and those refused that it has. */
static void emit_wrong_traits(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                              struct emitter *emitter) {
    uint64_t missing[TRAIT_WORDS], unwanted[TRAIT_WORDS];

    for (unsigned i = 0; i < TRAIT_WORDS; i++) {
        missing[i] = shape->traits[i] & ~node->traits[i];
        unwanted[i] = shape->refused[i] & node->traits[i];
    }
    emit_names(nodes, NAMES_TRAITS, "lacks", missing, TRAIT_WORDS, emitter);
    emit_names(nodes, NAMES_TRAITS, "has", unwanted, TRAIT_WORDS, emitter);
}

static void emit_filter(const struct nodes *nodes, const struct node *node, const struct shape *shape, enum filter filter,
                        struct emitter *emitter) {
    bool passed = filter_passes(nodes, node, shape, filter);

    emit_object(emitter);
    emit_key_text(emitter, "filter", filter_name(filter));
    emit_key_boolean(emitter, "passed", passed);
    if (!passed) {
        emit_key_text(emitter, "sentence", filter_sentence(filter));
        if (filter == FILTER_TRAIT)
            emit_wrong_traits(nodes, node, shape, emitter);
        if (filter == FILTER_CPU)
            emit_key_unsigned(emitter, "lacks_millionths", lacking_cpus(nodes, node, shape));
        if (filter == FILTER_MEMORY)
            emit_key_unsigned(emitter, "lacks", lacking_memory(nodes, node, shape));
    }
    emit_object_end(emitter);
}

/* All constraints of one type; nothing where it has none. */
static void emit_group_filter(const struct nodes *nodes, uint32_t node, const struct placement_request *request,
                              enum constraint_type type, struct emitter *emitter) {
    uint32_t fewest[CONSTRAINTS_MAX];
    unsigned asked = 0, failed = 0, which[CONSTRAINTS_MAX];

    filter_fewest(nodes, request, fewest);
    for (unsigned i = 0; i < request->constraint_count; i++) {
        if (request->constraints[i].type != type)
            continue;
        asked++;
        if (!filter_constraint_passes(nodes, node, request, i, fewest))
            which[failed++] = i;
    }
    if (asked == 0)
        return;
    emit_object(emitter);
    emit_key_text(emitter, "filter", filter_name(FILTER_AFFINITY + type));
    emit_key_boolean(emitter, "passed", failed == 0);
    if (failed > 0) {
        emit_key_text(emitter, "sentence", filter_sentence(FILTER_AFFINITY + type));
        emit_key(emitter, "groups");
        emit_array(emitter);
        for (unsigned i = 0; i < failed; i++)
            emit_text(emitter, group_name(nodes, &request->constraints[which[i]]));
        emit_array_end(emitter);
    }
    emit_object_end(emitter);
}

/* The first filter of all that the node fails. */
static enum filter first_failed(const struct nodes *nodes, uint32_t node, const struct placement_request *request) {
    enum filter failed = filter_static(nodes, nodes_get(nodes, node), &request->shape);
    uint32_t fewest[CONSTRAINTS_MAX];

    if (failed != FILTER_PASSED)
        return failed;
    filter_fewest(nodes, request, fewest);
    return filter_constraints(nodes, node, request, fewest);
}

static const struct placement_candidate *candidate_of(const struct placement_decision *decision, uint32_t node) {
    for (unsigned i = 0; i < decision->candidate_count; i++)
        if (decision->candidates[i].node == node)
            return &decision->candidates[i];
    return NULL;
}

static uint64_t parts(uint64_t left, uint64_t whole) {
    return whole ? (uint64_t) ((unsigned __int128) left * 1000000 / whole) : 0;
}

/* What the scores are made from: what would be left of the node, in all and in millionths of it. */
static void emit_terms(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                       const struct placement_candidate *candidate, struct emitter *emitter) {
    struct node_share share;

    share_init(nodes, node, shape, &share);
    emit_key_integer(emitter, "score", candidate->score);
    emit_key(emitter, "terms");
    emit_object(emitter);
    emit_key_unsigned(emitter, "takes_cpus_millionths", share.cpus);
    emit_key_unsigned(emitter, "takes_memory", share.memory);
    emit_key_unsigned(emitter, "left_cpus_millionths", node->free_cpus - share.cpus);
    emit_key_unsigned(emitter, "left_memory", node->free_memory - share.memory);
    emit_key_unsigned(emitter, "left_cpus_ppm", parts(node->free_cpus - share.cpus, node->cpus));
    emit_key_unsigned(emitter, "left_memory_ppm", parts(node->free_memory - share.memory, node->memory));
    emit_key_integer(emitter, "fit", candidate->value);
    emit_key_integer(emitter, "ends", candidate->score - candidate->value);
    emit_object_end(emitter);
}

static void emit_node(const struct placement *placement, const struct placement_request *request,
                      const struct placement_decision *decision, uint32_t index, struct emitter *emitter) {
    const struct node *node = nodes_get(placement->nodes, index);
    const struct placement_candidate *candidate = candidate_of(decision, index);
    enum filter failed = first_failed(placement->nodes, index, request);

    emit_object(emitter);
    emit_key_text(emitter, "node", nodes_name(placement->nodes, index));
    emit_key_boolean(emitter, "passes", failed == FILTER_PASSED);
    emit_key(emitter, "filters");
    emit_array(emitter);
    for (enum filter filter = FILTER_CLOSED; filter < FILTER_STATIC; filter++)
        if (filter != FILTER_GPU && filter != FILTER_GPU_MODEL)
            emit_filter(placement->nodes, node, &request->shape, filter, emitter);
    for (enum constraint_type type = CONSTRAINT_AFFINITY; type <= CONSTRAINT_SPREAD; type++)
        emit_group_filter(placement->nodes, index, request, type, emitter);
    emit_array_end(emitter);
    if (candidate)
        emit_terms(placement->nodes, node, &request->shape, candidate, emitter);
    emit_object_end(emitter);
}

/* --- what would change it ------------------------------------------------------------------------------- */

/* Of two lacks the one that is the smaller part of what is asked for. */
static uint64_t weigh(const struct shape *shape, uint64_t cpus, uint64_t memory) {
    return parts(cpus, shape->cpus) + parts(memory, shape->memory);
}

/* Does it pass all but what is there of room? */
static bool lacks_room_alone(const struct nodes *nodes, uint32_t node, const struct placement_request *request) {
    enum filter failed = filter_static(nodes, nodes_get(nodes, node), &request->shape);
    uint32_t fewest[CONSTRAINTS_MAX];

    filter_fewest(nodes, request, fewest);
    return (failed == FILTER_CPU || failed == FILTER_MEMORY) && filter_constraints(nodes, node, request, fewest) == FILTER_PASSED;
}

/* The node that only lacks room and lacks the least; NODE_NONE. */
static uint32_t nearest(const struct placement *placement, const struct placement_request *request) {
    const struct shape *shape = &request->shape;
    uint32_t found = NODE_NONE;
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        const struct node *node = nodes_get(placement->nodes, i);
        uint64_t weight;
        if (!lacks_room_alone(placement->nodes, i, request))
            continue;
        weight = weigh(shape, lacking_cpus(placement->nodes, node, shape), lacking_memory(placement->nodes, node, shape));
        if (weight < least) {
            least = weight;
            found = i;
        }
    }
    return found;
}

/* Rounded up, so that asking for so much less is enough. */
static char *less_text(uint64_t cpus_millionths, uint64_t bytes) {
    _cleanup_free_ char *cpus = text_format_cpus((cpus_millionths + 999) / 1000);
    _cleanup_free_ char *memory = text_format("%" PRIu64 "MiB", (bytes + (1 << 20) - 1) >> 20);

    if (!cpus || !memory)
        return NULL;
    if (cpus_millionths && bytes)
        return text_format("%s cpus and %s of memory", cpus, memory);
    return text_format(cpus_millionths ? "%s cpus" : "%s of memory", cpus_millionths ? cpus : memory);
}

/* "it tolerated X" and such, for each name. */
static int add_names(const struct nodes *nodes, enum node_names kind, const uint64_t *bits, unsigned words, const char *before,
                     char ***ret) {
    int r = 0;

    for (unsigned word = 0; word < words; word++)
        for (uint64_t rest = bits[word]; rest && r >= 0; rest &= rest - 1)
            r = list_addf(ret, "%s %s", before,
                          nodes_number_name(nodes, kind, word * 64 + (unsigned) __builtin_ctzll(rest)));
    return r;
}

static int add_group_change(const struct nodes *nodes, uint32_t node, const struct constraint *constraint, char ***ret) {
    const char *group = group_name(nodes, constraint), *level = node_level_name(constraint->level);
    bool nowhere = constraint->level != LEVEL_NODE && nodes_get(nodes, node)->domains[constraint->level] == 0;

    if (nowhere)
        return list_addf(ret, "it lay in a %s", level);
    if (constraint->type == CONSTRAINT_AFFINITY)
        return list_addf(ret, "something with %s ran in that %s", group, level);
    return list_addf(ret, "%s with %s ran in that %s", constraint->type == CONSTRAINT_SPREAD ? "fewer" : "nothing", group, level);
}

/* What of the request or the node stands against it, as what would have to be. */
static int add_changes(const struct nodes *nodes, uint32_t index, const struct placement_request *request, char ***ret) {
    const struct node *node = nodes_get(nodes, index);
    const struct shape *shape = &request->shape;
    uint64_t missing[TRAIT_WORDS], unwanted[TRAIT_WORDS], untolerated = node->taints & ~shape->tolerated;
    uint32_t fewest[CONSTRAINTS_MAX];
    int r = node->closed ? list_addf(ret, "it took new ones") : 0;

    for (unsigned i = 0; i < TRAIT_WORDS; i++) {
        missing[i] = shape->traits[i] & ~node->traits[i];
        unwanted[i] = shape->refused[i] & node->traits[i];
    }
    if (r >= 0)
        r = add_names(nodes, NAMES_TAINTS, &untolerated, 1, "it had not the taint", ret);
    if (r >= 0)
        r = add_names(nodes, NAMES_TRAITS, missing, TRAIT_WORDS, "it had", ret);
    if (r >= 0)
        r = add_names(nodes, NAMES_TRAITS, unwanted, TRAIT_WORDS, "it had not", ret);
    filter_fewest(nodes, request, fewest);
    for (unsigned i = 0; r >= 0 && i < request->constraint_count; i++)
        if (!filter_constraint_passes(nodes, index, request, i, fewest))
            r = add_group_change(nodes, index, &request->constraints[i], ret);
    return r;
}

static char *less_of(const struct placement *placement, uint32_t index, const struct shape *shape) {
    const struct node *node = nodes_get(placement->nodes, index);

    return less_text(lacking_cpus(placement->nodes, node, shape), lacking_memory(placement->nodes, node, shape));
}

/* Of the node of which the least would have to be otherwise. */
static char *changed_sentence(const struct placement *placement, const struct placement_request *request) {
    _cleanup_list_ char **best = NULL;
    _cleanup_free_ char *joined = NULL, *less = NULL;
    uint32_t found = NODE_NONE;
    enum filter failed;

    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        _cleanup_list_ char **changes = NULL;
        if (add_changes(placement->nodes, i, request, &changes) < 0)
            return NULL;
        if (found != NODE_NONE && list_count(changes) >= list_count(best))
            continue;
        list_free(best);
        best = STEAL_PTR(changes);
        found = i;
    }
    if (found == NODE_NONE)
        return strdup("there is no node");
    failed = FILTER_CPU;
    while (failed <= FILTER_MEMORY && filter_passes(placement->nodes, nodes_get(placement->nodes, found), &request->shape, failed))
        failed++;
    if (failed <= FILTER_MEMORY)
        less = less_of(placement, found, &request->shape);
    joined = best ? list_join(best, " and ") : NULL;
    return joined ? text_format("%s would take it if %s%s%s%s", nodes_name(placement->nodes, found), joined,
                                less ? ", and it asked for " : "", less ? less : "", less ? " less" : "")
                  : NULL;
}

static char *refused_sentence(const struct placement *placement, const struct placement_request *request) {
    uint32_t near = nearest(placement, request);
    _cleanup_free_ char *less = NULL;

    if (near == NODE_NONE)
        return changed_sentence(placement, request);
    less = less_of(placement, near, &request->shape);
    return less ? text_format("it would fit on %s if it asked for %s less", nodes_name(placement->nodes, near), less) : NULL;
}

static char *chosen_sentence(const struct placement *placement, const struct placement_request *request,
                             const struct placement_decision *decision) {
    const struct node *node = nodes_get(placement->nodes, decision->node);
    const struct shape *shape = &request->shape;
    struct node_share share;
    _cleanup_free_ char *cpus = NULL, *memory = NULL;

    if (decision->candidate_count > 1)
        return text_format("%s would have it if %s were not there: %d against %d",
                           nodes_name(placement->nodes, decision->candidates[1].node),
                           nodes_name(placement->nodes, decision->node), (int) decision->candidates[1].score,
                           (int) decision->score);
    share_init(placement->nodes, node, shape, &share);
    cpus = text_format_cpus((uint64_t) ((unsigned __int128) (node->free_cpus - share.cpus) *
                                        nodes_ratio_cpu(placement->nodes, node, (enum kind) shape->kind) / 100 / 1000));
    memory = text_format_size((uint64_t) ((unsigned __int128) (node->free_memory - share.memory) *
                                          nodes_ratio_memory(placement->nodes, node, (enum kind) shape->kind) / 100));
    return cpus && memory ? text_format("with more than %s cpus or %s more it would fit nowhere", cpus, memory) : NULL;
}

/* --- all ------------------------------------------------------------------------------------------------ */

static int can_tell(const struct placement *placement, const struct placement_request *request) {
    if (nodes_count(placement->nodes) > PLACEMENT_EXPLAINED)
        return -E2BIG;
    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++)
        if (nodes_get(placement->nodes, i)->gpus > 0)
            return -EOPNOTSUPP;
    return request->group >= 0 || request->shape.gpus > 0 || request->until > 0 ? -EOPNOTSUPP : 0;
}

static void emit_result(const struct placement *placement, const struct placement_request *request,
                        const struct placement_decision *decision, const char *sentence, struct emitter *emitter) {
    emit_key(emitter, "node");
    if (decision->node == NODE_NONE)
        emit_null(emitter);
    else
        emit_text(emitter, nodes_name(placement->nodes, decision->node));
    emit_key_text(emitter, "if", sentence);
    emit_key(emitter, "table");
    emit_array(emitter);
    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++)
        emit_node(placement, request, decision, i, emitter);
    emit_array_end(emitter);
}

int placement_explain(struct placement *placement, const struct placement_request *request, uint64_t number, char **ret) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct placement_decision decision;
    _cleanup_free_ char *sentence = NULL;
    int r = can_tell(placement, request);

    if (r >= 0)
        r = placement_decide(placement, request, 0, true, &decision);
    if (r < 0)
        return r;
    sentence = decision.node == NODE_NONE ? refused_sentence(placement, request)
                                          : chosen_sentence(placement, request, &decision);
    if (!sentence)
        return -ENOMEM;
    emit_object(&emitter);
    emit_key_unsigned(&emitter, "placement", number);
    emit_key_unsigned(&emitter, "version", PLACEMENT_VERSION);
    emit_input(placement, request, &emitter);
    emit_result(placement, request, &decision, sentence, &emitter);
    emit_object_end(&emitter);
    return buffer_take(&buffer, ret);
}

/* --- again ---------------------------------------------------------------------------------------------- */

static int bad(struct error *error, const char *part) {
    return error_set(error, ERROR_BAD_VALUE, "placement", part, "it is no recorded decision");
}

static int read_names(struct json_object *object, const char *key, char ***ret) {
    struct json_object *array = json_member(object, key);
    int r = 0;

    for (size_t i = 0; json_object_is_type(array, json_type_array) && r >= 0 && i < json_object_array_length(array); i++)
        r = list_add(ret, json_object_get_string(json_object_array_get_idx(array, i)));
    return r;
}

static uint64_t amount(struct json_object *object, const char *key) {
    int64_t value = json_integer(object, key, 0);

    return value < 0 ? 0 : (uint64_t) value;
}

/* As many as were there, of each group that is asked about. */
static int read_members(struct nodes *nodes, struct json_object *json, struct error *error) {
    struct json_object *members = json_member(json, "members");
    uint32_t node = (uint32_t) nodes_count(nodes) - 1, slot;
    int r = 0;

    if (!json_object_is_type(members, json_type_object))
        return 0;
    json_object_object_foreach(members, group, value) {
        int64_t count = json_object_get_int64(value);
        struct node_share share = { .group = nodes_number(nodes, NAMES_GROUPS, group, true) };
        if (count < 0 || count > PLACEMENT_MEMBERS || share.group < 0)
            return bad(error, "members");
        for (int64_t i = 0; r >= 0 && i < count; i++)
            r = nodes_take(nodes, node, &share, &slot);
    }
    return r;
}

static int read_node(struct nodes *nodes, struct json_object *json, struct error *error) {
    _cleanup_list_ char **traits = NULL, **taints = NULL;
    uint32_t cpu[KIND_COUNT], memory[KIND_COUNT], slot;
    struct node_description node = { .name = json_text(json, "name", NULL), .rack = json_text(json, "rack", NULL),
                                     .zone = json_text(json, "zone", NULL), .cpus = amount(json, "cpus_millionths"),
                                     .memory = amount(json, "memory"), .overcommit_cpu = cpu,
                                     .overcommit_memory = memory };
    struct node_share used = { .cpus = node.cpus - amount(json, "free_cpus_millionths"),
                               .memory = node.memory - amount(json, "free_memory"), .group = -1 };
    int r = read_names(json, "traits", &traits);

    for (int kind = 0; kind < KIND_COUNT; kind++) {
        cpu[kind] = (uint32_t) json_integer(json, "overcommit_cpu_percent", 100);
        memory[kind] = (uint32_t) json_integer(json, "overcommit_memory_percent", 100);
    }
    if (r >= 0)
        r = read_names(json, "taints", &taints);
    if (r < 0)
        return error_errno(error, r, "reading a placement");
    if (!node.name || used.cpus > node.cpus || used.memory > node.memory || cpu[0] == 0 || memory[0] == 0)
        return bad(error, "node");
    node.traits = traits;
    node.taints = taints;
    r = nodes_add(nodes, &node, error);
    if (r >= 0 && (used.cpus > 0 || used.memory > 0))
        r = nodes_take(nodes, (uint32_t) nodes_count(nodes) - 1, &used, &slot);
    if (r >= 0)
        r = read_members(nodes, json, error);
    if (r >= 0)
        nodes_close(nodes, (uint32_t) nodes_count(nodes) - 1, json_boolean(json, "closed", false));
    return r;
}

typedef int name_setter(struct nodes *nodes, struct placement_request *request, const char *name, struct error *error);

static int read_wishes(struct nodes *nodes, struct json_object *json, const char *key, name_setter *set,
                       struct placement_request *request, struct error *error) {
    _cleanup_list_ char **names = NULL;
    int r = read_names(json, key, &names);

    for (char **name = names; r >= 0 && name && *name; name++)
        r = set(nodes, request, *name, error);
    return r;
}

static int read_constraint(struct nodes *nodes, struct json_object *json, struct placement_request *request,
                           struct error *error) {
    const char *name = json_text(json, "type", ""), *level_name = json_text(json, "level", "");
    const char *group = json_text(json, "group", NULL);
    enum constraint_type type = CONSTRAINT_AFFINITY;
    enum node_level level = LEVEL_NODE;
    int r;

    while (type < CONSTRAINT_SPREAD && !text_equal(constraint_names[type], name))
        type++;
    while (level < LEVEL_ZONE && !text_equal(node_level_name(level), level_name))
        level++;
    if (!group || !text_equal(constraint_names[type], name) || !text_equal(node_level_name(level), level_name))
        return bad(error, "constraints");
    r = placement_constrain(nodes, request, type, group, level, (uint32_t) amount(json, "skew"), error);
    if (r >= 0)
        request->constraints[request->constraint_count - 1].own = json_boolean(json, "own", false);
    return r;
}

static int read_request(struct nodes *nodes, struct json_object *json, struct placement_request *ret,
                        struct error *error) {
    struct json_object *constraints = json_member(json, "constraints");
    int kind = kind_from_name(json_text(json, "kind", ""));
    int r;

    placement_request_init(ret, json_text(json, "name", NULL));
    if (kind < 0)
        return bad(error, "kind");
    ret->shape.kind = (uint32_t) kind;
    ret->shape.cpus = amount(json, "cpus_millionths");
    ret->shape.memory = amount(json, "memory");
    r = read_wishes(nodes, json, "traits", placement_require, ret, error);
    if (r >= 0)
        r = read_wishes(nodes, json, "refused", placement_refuse, ret, error);
    if (r >= 0)
        r = read_wishes(nodes, json, "tolerated", placement_tolerate, ret, error);
    for (size_t i = 0; r >= 0 && json_object_is_type(constraints, json_type_array) && i < json_object_array_length(constraints); i++)
        r = read_constraint(nodes, json_object_array_get_idx(constraints, i), ret, error);
    return r;
}

static int read_nodes(struct nodes *nodes, struct json_object *array, struct error *error) {
    size_t count = json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
    int r = count > 0 && count <= PLACEMENT_EXPLAINED ? 0 : bad(error, "nodes");

    for (size_t i = 0; r >= 0 && i < count; i++)
        r = read_node(nodes, json_object_array_get_idx(array, i), error);
    return r;
}

int placement_explain_again(struct json_object *line, char **ret, struct error *error) {
    struct json_object *input = json_member(line, "input");
    struct placement_options options = { .score = score_find(json_text(input, "score", "")) };
    _cleanup_nodes_ struct nodes *nodes = NULL;
    struct placement_request request;
    struct placement placement;
    int64_t version = json_integer(line, "version", 0);
    int r;

    if (version != PLACEMENT_VERSION) {
        _cleanup_free_ char *name = text_format("version %" PRIi64, version);
        return error_set(error, ERROR_NOT_SUPPORTED, "this polderd", name ? name : "it", "another version made it");
    }
    if (!options.score)
        return bad(error, "score");
    r = nodes_new(&nodes);
    if (r >= 0)
        r = read_nodes(nodes, json_member(input, "nodes"), error);
    if (r >= 0)
        r = read_request(nodes, json_member(input, "request"), &request, error);
    if (r >= 0) {
        placement_init(&placement, nodes, &options);
        r = placement_explain(&placement, &request, amount(line, "placement"), ret);
        placement_done(&placement);
    }
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "making a placement again") : r;
}
