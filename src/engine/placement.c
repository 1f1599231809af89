// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/placement.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/text.h"

void placement_init(struct placement *placement, struct nodes *nodes,
                    const struct placement_options *options) {
    *placement = (struct placement){ .nodes = nodes };
    if (options)
        placement->options = *options;
    if (!placement->options.score)
        placement->options.score = score_find("best");
    if (placement->options.score->scarcity && placement->options.fragments)
        scarcity_learn(&placement->scarcity, placement->options.fragments);
}

void placement_done(struct placement *placement) {
    views_done(&placement->views);
    fragments_done(&placement->none);
}

void placement_request_init(struct placement_request *request, const char *name) {
    memset(request, 0, sizeof(*request));
    request->name = name;
    request->shape.kind = KIND_CONTAINER;
    request->group = -1;
}

static int number(struct nodes *nodes, enum node_names names, const char *name, struct error *error) {
    int r = nodes_number(nodes, names, name, true);

    if (r == -ENOSPC)
        return error_set(error, ERROR_EXHAUSTED, "numbers for names");
    return r < 0 ? error_errno(error, r, "remembering '%s'", name) : r;
}

/* The bit of a name in a set of them. */
static int add_name(struct nodes *nodes, enum node_names names, const char *name, uint64_t *set, struct error *error) {
    int r = number(nodes, names, name, error);

    if (r < 0)
        return r;
    set[r / 64] |= UINT64_C(1) << (r % 64);
    return 0;
}

int placement_require(struct nodes *nodes, struct placement_request *request, const char *trait,
                      struct error *error) {
    return add_name(nodes, NAMES_TRAITS, trait, request->shape.traits, error);
}

int placement_refuse(struct nodes *nodes, struct placement_request *request, const char *trait,
                     struct error *error) {
    return add_name(nodes, NAMES_TRAITS, trait, request->shape.refused, error);
}

int placement_tolerate(struct nodes *nodes, struct placement_request *request, const char *taint,
                       struct error *error) {
    return add_name(nodes, NAMES_TAINTS, taint, &request->shape.tolerated, error);
}

int placement_want_model(struct nodes *nodes, struct placement_request *request, const char *model,
                         struct error *error) {
    return add_name(nodes, NAMES_MODELS, model, &request->shape.gpu_models, error);
}

int placement_join(struct nodes *nodes, struct placement_request *request, const char *group,
                   struct error *error) {
    int r = number(nodes, NAMES_GROUPS, group, error);

    if (r >= 0)
        request->group = r;
    return r < 0 ? r : 0;
}

int placement_constrain(struct nodes *nodes, struct placement_request *request, enum constraint_type type,
                        const char *group, enum node_level level, uint32_t skew, struct error *error) {
    int r;

    if (request->constraint_count == CONSTRAINTS_MAX)
        return error_set(error, ERROR_TOO_LARGE, "the list of constraints", "16");
    r = number(nodes, NAMES_GROUPS, group, error);
    if (r < 0)
        return r;
    request->constraints[request->constraint_count++] =
        (struct constraint){ .type = type, .level = level, .group = (unsigned) r, .skew = skew };
    return 0;
}

/* ---- could it ever run ---- */

/* What an empty, open node of this capacity would answer. */
static enum filter filter_empty(const struct nodes *nodes, const struct node *node,
                                const struct shape *shape) {
    struct node empty = *node;

    empty.closed = false;
    empty.free_cpus = node->cpus;
    empty.free_memory = node->memory;
    for (unsigned i = 0; i < node->gpus; i++)
        empty.gpu_free[i] = GPU_WHOLE;
    return filter_static(nodes, &empty, shape);
}

static int refuse_amount(const struct placement *placement, const struct placement_request *request,
                         enum filter filter, struct error *error) {
    const struct shape *shape = &request->shape;
    uint64_t most = 0;

    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        const struct node *node = nodes_get(placement->nodes, i);
        unsigned __int128 value = node->gpus;
        if (filter == FILTER_CPU)
            value = (unsigned __int128) node->cpus * nodes_ratio_cpu(placement->nodes, node, shape->kind) /
                    100;
        else if (filter == FILTER_MEMORY)
            value = (unsigned __int128) node->memory *
                    nodes_ratio_memory(placement->nodes, node, shape->kind) / 100;
        most = value > most ? (uint64_t) value : most;
    }
    _cleanup_free_ char *wanted = filter == FILTER_CPU      ? text_format_cpus(shape->cpus / 1000)
                                  : filter == FILTER_MEMORY ? text_format_size(shape->memory)
                                                            : text_format("%u", shape->gpus);
    _cleanup_free_ char *limit = filter == FILTER_CPU      ? text_format_cpus(most / 1000)
                                 : filter == FILTER_MEMORY ? text_format_size(most)
                                                           : text_format("%" PRIu64, most);
    return error_set(error, ERROR_IMPOSSIBLE,
                     filter == FILTER_CPU      ? "CPUs"
                     : filter == FILTER_MEMORY ? "memory"
                                               : "GPUs",
                     wanted, limit);
}

/* The filter that no node passes among those that pass all before it: the one to name. */
static enum filter hardest_filter(const struct placement *placement, const struct shape *shape) {
    enum filter furthest = FILTER_CLOSED;

    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        enum filter failed = filter_empty(placement->nodes, nodes_get(placement->nodes, i), shape);
        if (failed == FILTER_PASSED)
            return FILTER_PASSED;
        furthest = failed > furthest ? failed : furthest;
    }
    return furthest;
}

/* The trait asked for that the fewest nodes have is the one to name. */
static int refuse_trait(const struct placement *placement, const struct shape *shape, struct error *error) {
    const char *name = "all traits that it asks for";
    size_t fewest = SIZE_MAX;

    for (unsigned trait = 0; trait < TRAITS_MAX; trait++) {
        size_t having = 0;
        if (!(shape->traits[trait / 64] >> (trait % 64) & 1))
            continue;
        for (uint32_t i = 0; i < nodes_count(placement->nodes); i++)
            having += nodes_get(placement->nodes, i)->traits[trait / 64] >> (trait % 64) & 1;
        if (having < fewest) {
            fewest = having;
            name = fewest == 0 ? nodes_number_name(placement->nodes, NAMES_TRAITS, trait) : name;
        }
    }
    return error_set(error, ERROR_NOT_FOUND, "node with", name);
}

int placement_check(const struct placement *placement, const struct placement_request *request,
                    struct error *error) {
    enum filter failed;
    int r = filter_check_request(placement->nodes, request, error);

    if (r < 0)
        return r;
    if (request->shape.gpus && (request->shape.gpu_milli == 0 || request->shape.gpu_milli > GPU_WHOLE))
        return error_set(error, ERROR_OUT_OF_RANGE, "gpu_milli", "1", "1000", "the request");
    failed = hardest_filter(placement, &request->shape);
    switch (failed) {
    case FILTER_PASSED:
        return 0;
    case FILTER_TRAIT:
        return refuse_trait(placement, &request->shape, error);
    case FILTER_TAINT:
        return error_set(error, ERROR_NOT_FOUND, "node without taints that it does not tolerate among",
                         "all nodes");
    case FILTER_GPU_MODEL:
        return error_set(error, ERROR_NOT_FOUND, "node with a GPU of", "the models that it asks for");
    case FILTER_GPU:
    case FILTER_CPU:
    case FILTER_MEMORY:
        return refuse_amount(placement, request, failed, error);
    default:
        return error_set(error, ERROR_NOT_FOUND, "node", "at all");
    }
}

/* ---- deciding ---- */

static struct score_input score_input(const struct placement *placement,
                                      const struct placement_request *request, uint64_t now) {
    struct score_input input = {
        .nodes = placement->nodes,
        .now = now,
        .until = request->until,
        .resolution = placement->options.resolution,
        .scarcity = &placement->scarcity,
        .mixture = placement->options.mixture,
        .version = placement->scarcity.version +
                   (placement->options.mixture ? placement->options.mixture->version : 0),
        .fragments = placement->options.fragments ? placement->options.fragments : &placement->none
    };

    nodes_scale(placement->nodes, &input.scale);
    if (input.resolution == 0)
        input.resolution = input.scale.gpus > 0 ? 100 : 10000;
    return input;
}

/* Keeps the best, first of equals first. */
static void offer(struct placement_decision *decision, struct placement_candidate candidate, unsigned room) {
    unsigned at = decision->candidate_count;

    if (at == room) {
        if (decision->candidates[at - 1].score >= candidate.score)
            return;
        at--;
    } else {
        decision->candidate_count++;
    }
    for (; at > 0 && decision->candidates[at - 1].score < candidate.score; at--)
        decision->candidates[at] = decision->candidates[at - 1];
    decision->candidates[at] = candidate;
}

/* The best so far as keys, best first: the score, then the lowest rank; 0: none yet. They are kept in
 * order by exchanges without branches, since which way each would go nobody can guess. */
struct scan {
    struct placement *placement;
    const struct placement_request *request;
    const struct view *view;
    const uint32_t *fewest;
    unsigned room;
    uint64_t keys[PLACEMENT_CANDIDATES];
    uint32_t *refused;
    int32_t least, most; /* only what is above the one and not above the other is of interest */
};

static uint64_t scan_key(int16_t value, uint32_t node) {
    return (uint64_t) (value + 1) << 32 | (uint32_t) ~node;
}

static struct placement_candidate scan_candidate(uint64_t key) {
    int16_t value = (int16_t) ((key >> 32) - 1);

    return (struct placement_candidate){ ~(uint32_t) key, value, value };
}

static void scan_keep(struct scan *scan, uint64_t key) {
    for (unsigned i = 0; i < PLACEMENT_CANDIDATES; i++) {
        uint64_t kept = scan->keys[i], better = key > kept ? key : kept;
        key = key > kept ? kept : key;
        scan->keys[i] = better;
    }
}

static void scan_node(struct scan *scan, uint32_t node) {
    int16_t value = scan->view->values[node];
    uint64_t last;

    if (value <= scan->least || value > scan->most)
        return;
    if (scan->request->constraint_count > 0) {
        enum filter failed = filter_constraints(scan->placement->nodes, node, scan->request, scan->fewest);
        if (failed != FILTER_PASSED) {
            scan->refused[failed]++;
            return;
        }
    }
    scan_keep(scan, scan_key(value, node));
    last = scan->keys[scan->room - 1];
    if (last)
        scan->least = scan_candidate(last).value;
}

/* The block's nodes that were above what was known when it began; scan_node knows better. */
static void scan_block(struct scan *scan, size_t block) {
    uint64_t above = view_above(&scan->view->values[block * VIEW_BLOCK], (int16_t) scan->least);

    for (; above; above &= above - 1)
        scan_node(scan, (uint32_t) (block * VIEW_BLOCK + (unsigned) __builtin_ctzll(above)));
}

static void scan_row(struct scan *scan, size_t row) {
    uint64_t above = view_above(&scan->view->best[row * VIEW_BLOCK], (int16_t) scan->least);

    for (; above; above &= above - 1)
        scan_block(scan, row * VIEW_BLOCK + (unsigned) __builtin_ctzll(above));
}

#define LANES 16

/* Of every sixteenth block the best, from the first, the second, ... on: sixteen values that belong to
 * different nodes. */
static void best_of_lanes(const struct view *view, int16_t *ret) {
    size_t blocks = (view->count + VIEW_BLOCK - 1) / VIEW_BLOCK, block = 0;

    for (unsigned lane = 0; lane < LANES; lane++)
        ret[lane] = -1;
    for (; block + LANES <= blocks; block += LANES)
        for (unsigned lane = 0; lane < LANES; lane++)
            ret[lane] = view->best[block + lane] > ret[lane] ? view->best[block + lane] : ret[lane];
    for (unsigned lane = 0; block + lane < blocks; lane++)
        ret[lane] = view->best[block + lane] > ret[lane] ? view->best[block + lane] : ret[lane];
}

/* No more than the eighth best node's score, and seldom much less: the eighth best of the lanes; -1 where
 * there are too few. One value goes into eight that are in order by new[i] = max(old[i], min(value, old[i
 * - 1])). */
static int16_t eighth_best(const struct view *view) {
    const view_group none = { -1, -1, -1, -1, -1, -1, -1, -1 };
    view_group best = none;
    int16_t lanes[LANES];

    best_of_lanes(view, lanes);
    for (unsigned lane = 0; lane < LANES; lane++) {
        view_group value = none + (int16_t) (lanes[lane] + 1);
        view_group next = __builtin_shufflevector(best, best, 0, 0, 1, 2, 3, 4, 5, 6);
        next[0] = INT16_MAX;
        view_group lower = value < next;
        next = (value & lower) | (next & ~lower);
        view_group higher = next > best;
        best = (next & higher) | (best & ~higher);
    }
    return best[PLACEMENT_CANDIDATES - 1];
}

static int16_t best_of_all(const struct view *view) {
    int16_t best = -1;

    for (size_t block = 0; block * VIEW_BLOCK < view->count; block++)
        best = view->best[block] > best ? view->best[block] : best;
    return best;
}

/* Each block has a node with its best score, so that these tell a bound for the room-th best node: one
 * less, or -1 where there are too few blocks. */
static int32_t scan_bound(const struct view *view, unsigned room) {
    int16_t best = room == 1 ? best_of_all(view) : eighth_best(view);

    return best < 0 ? -1 : best - 1;
}

/* Nodes in the order of their rank, whole blocks left out where nothing could be better than what is
 * known. Where constraints refuse so many of those above the bound that too few are left, it is lowered
 * step by step until all were looked at. */
static void scan_view(struct placement *placement, const struct placement_request *request,
                      const struct view *view, unsigned room, struct placement_decision *decision) {
    uint32_t fewest[CONSTRAINTS_MAX];
    struct scan scan = { .placement = placement, .request = request, .view = view, .fewest = fewest, .room = room,
                         .refused = decision->refused, .most = INT16_MAX };
    int32_t bound = scan_bound(view, room);

    filter_fewest(placement->nodes, request, fewest);
    for (;;) {
        scan.least = bound;
        for (size_t row = 0; row * VIEW_BLOCK * VIEW_BLOCK < view->count; row++)
            scan_row(&scan, row);
        if (scan.keys[room - 1] || bound < 0)
            break;
        scan.most = bound;
        bound = bound * 9 / 10 - 1;
    }
    for (unsigned i = 0; i < room; i++) {
        decision->candidates[i] = scan_candidate(scan.keys[i]);
        decision->candidate_count += scan.keys[i] != 0;
    }
}

static bool is_refused(const struct placement *placement, const struct placement_request *request, const uint32_t *fewest,
                       uint32_t node, struct placement_decision *decision) {
    enum filter failed = filter_constraints(placement->nodes, node, request, fewest);

    if (failed == FILTER_PASSED)
        return false;
    decision->refused[failed]++;
    return true;
}

/* Every node that passes, by its score adjusted to what is known of ends. */
static void scan_adjusted(struct placement *placement, const struct placement_request *request,
                          const struct score_input *input, const struct view *view, unsigned room,
                          struct placement_decision *decision) {
    uint32_t fewest[CONSTRAINTS_MAX];

    filter_fewest(placement->nodes, request, fewest);
    for (size_t i = 0; i < view->count; i++) {
        if (i % VIEW_BLOCK == 0 && view->best[i / VIEW_BLOCK] < 0) {
            i += VIEW_BLOCK - 1;
            continue;
        }
        if (view->values[i] < 0 || is_refused(placement, request, fewest, (uint32_t) i, decision))
            continue;
        const struct node *node = nodes_get(placement->nodes, (uint32_t) i);
        int32_t value = placement->options.score->adjust(input, node, view->values[i]);
        offer(decision, (struct placement_candidate){ (uint32_t) i, (int16_t) value, view->values[i] }, room);
    }
}

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return value ^ value >> 31;
}

/* Each that passes has the same chance. */
static void draw(struct placement *placement, const struct placement_request *request,
                 const struct view *view, struct placement_decision *decision) {
    uint64_t state = mix(placement->options.seed + (decision->number + 1) * UINT64_C(0x9E3779B97F4A7C15));
    uint32_t fewest[CONSTRAINTS_MAX], seen = 0;

    filter_fewest(placement->nodes, request, fewest);
    for (size_t i = 0; i < view->count; i++) {
        if (view->values[i] < 0 || is_refused(placement, request, fewest, (uint32_t) i, decision))
            continue;
        state = mix(state + UINT64_C(0x9E3779B97F4A7C15));
        if ((uint64_t) ((unsigned __int128) state * ++seen >> 64) == 0) {
            decision->candidates[0] = (struct placement_candidate){ (uint32_t) i, view->values[i],
                                                                    view->values[i] };
            decision->candidate_count = 1;
        }
    }
}

static void choose(struct placement *placement, const struct placement_request *request, uint64_t now,
                   struct placement_decision *decision) {
    struct score_input input = score_input(placement, request, now);

    if (decision->candidate_count == 0)
        return;
    decision->node = decision->candidates[0].node;
    decision->score = decision->candidates[0].score;
    if (request->shape.gpus > 0) {
        const struct node *node = nodes_get(placement->nodes, decision->node);
        struct node_share share;
        share_init(placement->nodes, node, &request->shape, &share);
        placement->options.score->value(&input, node, &request->shape, &share);
        decision->gpus = share.gpus;
    }
}

/* "random" draws the GPU as well, where one is shared. */
static void draw_gpu(const struct placement *placement, const struct placement_request *request,
                     struct placement_decision *decision) {
    uint64_t state = mix(placement->options.seed ^ mix(decision->number));
    const struct node *node = nodes_get(placement->nodes, decision->node);
    uint32_t seen = 0;

    for (unsigned i = 0; i < node->gpus; i++) {
        if (node->gpu_free[i] < request->shape.gpu_milli)
            continue;
        state = mix(state + UINT64_C(0x9E3779B97F4A7C15));
        if ((uint64_t) ((unsigned __int128) state * ++seen >> 64) == 0)
            decision->gpus = (uint16_t) (1 << i);
    }
}

int placement_decide(struct placement *placement, const struct placement_request *request, uint64_t now,
                     bool full, struct placement_decision *ret) {
    const struct score *score = placement->options.score;
    const struct view *view;
    int r;

    if (score->scarcity)
        scarcity_update(&placement->scarcity, placement->nodes);
    struct score_input input = score_input(placement, request, now);
    *ret = (struct placement_decision){ .node = NODE_NONE, .number = placement->decisions,
                                        .position = nodes_position(placement->nodes) };
    r = views_get(&placement->views, &input, score, &request->shape, &view);
    if (r < 0)
        return r;
    ret->shape = view->hash;
    memcpy(ret->refused, view->refused, sizeof(view->refused));
    if (score->random)
        draw(placement, request, view, ret);
    else if (score->adjust && request->until > 0)
        scan_adjusted(placement, request, &input, view, full ? PLACEMENT_CANDIDATES : 1, ret);
    else
        scan_view(placement, request, view, full ? PLACEMENT_CANDIDATES : 1, ret);
    choose(placement, request, now, ret);
    if (score->random && ret->node != NODE_NONE && request->shape.gpus == 1)
        draw_gpu(placement, request, ret);
    placement->decisions++;
    return 0;
}

static int take(struct placement *placement, const struct placement_request *request, uint32_t node,
                uint16_t gpus, uint32_t *ret_slot) {
    struct node_share share;

    share_init(placement->nodes, nodes_get(placement->nodes, node), &request->shape, &share);
    share.gpus = gpus;
    share.group = request->group;
    share.until = request->until;
    return nodes_take(placement->nodes, node, &share, ret_slot);
}

int placement_take(struct placement *placement, const struct placement_request *request, uint32_t node,
                   uint32_t *ret_slot) {
    const struct node *chosen = nodes_get(placement->nodes, node);

    if (filter_static(placement->nodes, chosen, &request->shape) != FILTER_PASSED && !chosen->closed)
        return -ENOSPC;
    return take(placement, request, node, gpus_tightest(chosen, &request->shape), ret_slot);
}

int placement_place(struct placement *placement, const struct placement_request *request, uint64_t now,
                    bool full, struct placement_decision *ret, uint32_t *ret_slot) {
    int r = placement_decide(placement, request, now, full, ret);

    *ret_slot = NODE_NONE;
    if (r < 0 || ret->node == NODE_NONE)
        return r;
    return take(placement, request, ret->node, ret->gpus, ret_slot);
}
