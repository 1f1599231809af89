// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/filters.h"

#include <string.h>

#include "base/text.h"

static const struct {
    const char *name, *sentence;
} rows[FILTER_COUNT] = {
#define FILTER_ROW(name, word, sentence) { word, sentence },
    FILTERS(FILTER_ROW)
#undef FILTER_ROW
};

const char *filter_name(enum filter filter) {
    return filter < FILTER_COUNT ? rows[filter].name : "passed";
}

const char *filter_sentence(enum filter filter) {
    return filter < FILTER_COUNT ? rows[filter].sentence : "passed";
}

static bool traits_pass(const struct node *node, const struct shape *shape) {
    uint64_t missing = 0;

    for (unsigned i = 0; i < TRAIT_WORDS; i++)
        missing |= (shape->traits[i] & ~node->traits[i]) | (shape->refused[i] & node->traits[i]);
    return missing == 0;
}

static bool gpus_pass(const struct node *node, const struct shape *shape) {
    unsigned enough = 0;

    for (unsigned i = 0; i < node->gpus; i++)
        enough += node->gpu_free[i] >= shape->gpu_milli;
    return enough >= shape->gpus;
}

/* Inlined where the filter is known, so that asking all costs no more than if they were written out. */
static inline bool passes(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                          enum filter filter) {
    switch (filter) {
    case FILTER_CLOSED:
        return !node->closed;
    case FILTER_TAINT:
        return !(node->taints & ~shape->tolerated);
    case FILTER_TRAIT:
        return traits_pass(node, shape);
    case FILTER_GPU_MODEL:
        return !shape->gpu_models || shape->gpu_models >> node->gpu_model & 1;
    case FILTER_GPU:
        return !shape->gpus || gpus_pass(node, shape);
    case FILTER_CPU:
        return node_physical(shape->cpus, nodes_ratio_cpu(nodes, node, shape->kind)) <= node->free_cpus;
    case FILTER_MEMORY:
        return node_physical(shape->memory, nodes_ratio_memory(nodes, node, shape->kind)) <= node->free_memory;
    default:
        return true;
    }
}

bool filter_passes(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                   enum filter filter) {
    return passes(nodes, node, shape, filter);
}

enum filter filter_static(const struct nodes *nodes, const struct node *node, const struct shape *shape) {
#define FILTER_ROW(name, word, sentence)                                                                     \
    if (!passes(nodes, node, shape, FILTER_##name))                                                          \
        return FILTER_##name;
    FILTERS(FILTER_ROW)
#undef FILTER_ROW
    return FILTER_PASSED;
}

void filter_fewest(const struct nodes *nodes, const struct placement_request *request, uint32_t *ret_fewest) {
    for (unsigned i = 0; i < request->constraint_count; i++) {
        const struct constraint *constraint = &request->constraints[i];
        ret_fewest[i] = constraint->type == CONSTRAINT_SPREAD
                            ? nodes_group_fewest(nodes, constraint->group, constraint->level)
                            : nodes_group_size(nodes, constraint->group);
    }
}

static inline bool constraint_passes(const struct nodes *nodes, uint32_t node, const struct placement_request *request,
                                     const struct constraint *constraint, uint32_t fewest) {
    uint32_t near = nodes_group_near(nodes, constraint->group, constraint->level, node);
    bool own = constraint->own || request->group == (int32_t) constraint->group;

    switch (constraint->type) {
    case CONSTRAINT_AFFINITY:
        return near > 0 || (own && fewest == 0);
    case CONSTRAINT_ANTI_AFFINITY:
        return near == 0;
    case CONSTRAINT_SPREAD:
        /* A node without a domain of that level is nowhere: it cannot help to spread. */
        return near < fewest + constraint->skew &&
               (constraint->level == LEVEL_NODE || nodes_get(nodes, node)->domains[constraint->level] != 0);
    }
    return true;
}

bool filter_constraint_passes(const struct nodes *nodes, uint32_t node, const struct placement_request *request,
                              unsigned index, const uint32_t *fewest) {
    return constraint_passes(nodes, node, request, &request->constraints[index], fewest[index]);
}

enum filter filter_constraints(const struct nodes *nodes, uint32_t node,
                               const struct placement_request *request, const uint32_t *fewest) {
    for (unsigned i = 0; i < request->constraint_count; i++)
        if (!constraint_passes(nodes, node, request, &request->constraints[i], fewest[i]))
            return (enum filter) (FILTER_AFFINITY + request->constraints[i].type);
    return FILTER_PASSED;
}

_Static_assert(FILTER_ANTI_AFFINITY == FILTER_AFFINITY + CONSTRAINT_ANTI_AFFINITY &&
                   FILTER_SPREAD == FILTER_AFFINITY + CONSTRAINT_SPREAD,
               "a filter for each type");

static int refuse_pair(const struct nodes *nodes, const struct constraint *near,
                       const struct constraint *away, struct error *error) {
    const char *group = nodes_number_name(nodes, NAMES_GROUPS, near->group);
    _cleanup_free_ char *text = text_format("it must be in one %s with '%s' and in another %s than '%s'",
                                            node_level_name(near->level), group, node_level_name(away->level),
                                            group);

    return error_set(error, ERROR_BAD_REQUEST, text);
}

static int check_traits(const struct nodes *nodes, const struct shape *shape, struct error *error) {
    for (unsigned i = 0; i < TRAITS_MAX; i++)
        if ((shape->traits[i / 64] & shape->refused[i / 64]) >> (i % 64) & 1) {
            _cleanup_free_ char *text =
                text_format("'%s' is both asked for and refused", nodes_number_name(nodes, NAMES_TRAITS, i));
            return error_set(error, ERROR_BAD_REQUEST, text);
        }
    return 0;
}

int filter_check_request(const struct nodes *nodes, const struct placement_request *request,
                         struct error *error) {
    const struct constraint *all = request->constraints;
    int r = check_traits(nodes, &request->shape, error);

    if (r < 0)
        return r;
    if (request->constraint_count > CONSTRAINTS_MAX)
        return error_set(error, ERROR_TOO_LARGE, "the list of constraints", "16");
    for (unsigned i = 0; i < request->constraint_count; i++) {
        if (all[i].type == CONSTRAINT_SPREAD && all[i].skew == 0)
            return error_set(error, ERROR_BAD_VALUE, "skew", "0",
                             "a spread lets domains differ by at least 1");
        /* In one node means in one rack and zone as well: what keeps away in the wider domain excludes it. */
        for (unsigned j = 0; j < request->constraint_count; j++)
            if (all[i].type == CONSTRAINT_AFFINITY && all[j].type == CONSTRAINT_ANTI_AFFINITY &&
                all[i].group == all[j].group && all[i].level <= all[j].level)
                return refuse_pair(nodes, &all[i], &all[j], error);
    }
    return 0;
}

uint64_t shape_digest(const struct shape *shape) {
    uint64_t words[sizeof(*shape) / 8], digest = 0;

    _Static_assert(sizeof(*shape) % 8 == 0, "a shape has no padding");
    memcpy(words, shape, sizeof(*shape));
    for (unsigned i = 0; i < ELEMENTS(words); i++) {
        digest = (digest ^ words[i]) * UINT64_C(0x9E3779B97F4A7C15);
        digest ^= digest >> 29;
    }
    return digest;
}
