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

static void emit_node_input(const struct nodes *nodes, uint32_t index, enum kind kind, struct emitter *emitter) {
    const struct node *node = nodes_get(nodes, index);

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
    emit_object_end(emitter);
    emit_key(emitter, "nodes");
    emit_array(emitter);
    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++)
        emit_node_input(placement->nodes, i, (enum kind) shape->kind, emitter);
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
    enum filter failed = filter_static(placement->nodes, node, &request->shape);

    emit_object(emitter);
    emit_key_text(emitter, "node", nodes_name(placement->nodes, index));
    emit_key_boolean(emitter, "passes", failed == FILTER_PASSED);
    emit_key(emitter, "filters");
    emit_array(emitter);
    for (enum filter filter = FILTER_CLOSED; filter < FILTER_STATIC; filter++)
        if (filter != FILTER_GPU && filter != FILTER_GPU_MODEL)
            emit_filter(placement->nodes, node, &request->shape, filter, emitter);
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

/* The node that only lacks room and lacks the least; NODE_NONE. */
static uint32_t nearest(const struct placement *placement, const struct shape *shape) {
    uint32_t found = NODE_NONE;
    uint64_t least = UINT64_MAX;

    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        const struct node *node = nodes_get(placement->nodes, i);
        enum filter failed = filter_static(placement->nodes, node, shape);
        uint64_t weight;
        if (failed != FILTER_CPU && failed != FILTER_MEMORY)
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

static char *refused_sentence(const struct placement *placement, const struct placement_request *request) {
    uint32_t near = nearest(placement, &request->shape);
    _cleanup_free_ char *less = NULL;
    const struct node *node;

    if (near == NODE_NONE)
        return strdup("no node would take it, however little it asked for");
    node = nodes_get(placement->nodes, near);
    less = less_text(lacking_cpus(placement->nodes, node, &request->shape),
                     lacking_memory(placement->nodes, node, &request->shape));
    return less ? text_format("it would fit on %s if it asked for %s less", nodes_name(placement->nodes, near), less)
                : NULL;
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
    return request->constraint_count > 0 || request->group >= 0 || request->shape.gpus > 0 || request->until > 0
               ? -EOPNOTSUPP
               : 0;
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

static int read_node(struct nodes *nodes, struct json_object *json, struct error *error) {
    _cleanup_list_ char **traits = NULL, **taints = NULL;
    uint32_t cpu[KIND_COUNT], memory[KIND_COUNT], slot;
    struct node_description node = { .name = json_text(json, "name", NULL), .cpus = amount(json, "cpus_millionths"),
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

static int read_request(struct nodes *nodes, struct json_object *json, struct placement_request *ret,
                        struct error *error) {
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
