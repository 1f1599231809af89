// SPDX-License-Identifier: GPL-2.0-or-later
/* Integers throughout: CPUs in thousandths, memory in MiB, GPUs in thousandths, so that products stay below
 * 2^63. The published scores (best, dot and those of scores-gpu.c) are those of the evaluation of FGD,
 * rounded where it rounds: coarse scores whose ties go to the first node are part of what they are. */
#include "engine/scores.h"

#include "base/text.h"
#include "engine/scores-internal.h"

void share_init(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                struct node_share *ret) {
    *ret = (struct node_share){ .cpus = node_physical(shape->cpus, nodes_ratio_cpu(nodes, node, shape->kind)),
                                .memory = node_physical(shape->memory,
                                                        nodes_ratio_memory(nodes, node, shape->kind)),
                                .gpu_milli = (uint16_t) shape->gpu_milli,
                                .group = -1 };
}

uint16_t gpus_tightest(const struct node *node, const struct shape *shape) {
    uint16_t chosen = 0;

    for (unsigned taken = 0; taken < shape->gpus; taken++) {
        unsigned best = NODE_GPUS;
        for (unsigned i = 0; i < node->gpus; i++)
            if (!(chosen >> i & 1) && node->gpu_free[i] >= shape->gpu_milli &&
                (best == NODE_GPUS || node->gpu_free[i] < node->gpu_free[best]))
                best = i;
        if (best == NODE_GPUS)
            return chosen;
        chosen |= (uint16_t) (1 << best);
    }
    return chosen;
}

/* What would be left, and what it is measured against. */
struct left {
    uint64_t value[2], scale[2];
};
static struct left left_after(const struct score_input *input, const struct node *node,
                              const struct shape *shape, const struct node_share *share) {
    struct left left = { .scale[0] = input->scale.cpus / 1000 };

    left.value[0] = (node->free_cpus - share->cpus) / 1000;
    if (input->scale.gpus > 0) {
        left.value[1] = node->gpu_free_total - (uint64_t) shape->gpus * shape->gpu_milli;
        left.scale[1] = input->scale.gpus * (uint64_t) GPU_WHOLE;
    } else {
        left.value[1] = (node->free_memory - share->memory) >> 20;
        left.scale[1] = input->scale.memory >> 20;
    }
    left.scale[0] += left.scale[0] == 0;
    left.scale[1] += left.scale[1] == 0;
    return left;
}

static int32_t value_first(const struct score_input *input, const struct node *node,
                           const struct shape *shape, struct node_share *share) {
    share->gpus = gpus_tightest(node, shape);
    return 0;
}

/* floor(resolution x (1 - (c/C + g/G) / 2)) */
static int32_t value_best(const struct score_input *input, const struct node *node, const struct shape *shape,
                          struct node_share *share) {
    struct left left = left_after(input, node, shape, share);
    uint64_t whole = 2 * left.scale[0] * left.scale[1];
    uint64_t rest = left.value[0] * left.scale[1] + left.value[1] * left.scale[0];

    share->gpus = gpus_tightest(node, shape);
    return (int32_t) ((whole - rest) * input->resolution / whole);
}

static int32_t value_worst(const struct score_input *input, const struct node *node,
                           const struct shape *shape, struct node_share *share) {
    struct left left = left_after(input, node, shape, share);
    uint64_t whole = 2 * left.scale[0] * left.scale[1];
    uint64_t rest = left.value[0] * left.scale[1] + left.value[1] * left.scale[0];

    share->gpus = gpus_tightest(node, shape);
    return (int32_t) (rest * input->resolution / whole);
}

/* floor(resolution x (1 - (free . asked) / 2)), both as shares of the largest node: what is left before, not
 * after. */
static int32_t value_dot(const struct score_input *input, const struct node *node, const struct shape *shape,
                         struct node_share *share) {
    struct left left = left_after(input, node, shape, share);
    uint64_t asked[2] = { share->cpus / 1000, input->scale.gpus > 0
                                                  ? (uint64_t) shape->gpus * shape->gpu_milli
                                                  : share->memory >> 20 };
    uint64_t sum = 0;

    for (unsigned i = 0; i < 2; i++)
        sum += (left.value[i] + asked[i]) * asked[i] * 1000000 / left.scale[i] * 1000 / left.scale[i];
    share->gpus = gpus_tightest(node, shape);
    uint64_t whole = UINT64_C(2000000000);
    return (int32_t) ((sum > whole ? 0 : whole - sum) * input->resolution / whole);
}

/* What is left as shares of the node itself, in millionths. */
static void left_shares(const struct score_input *input, const struct node *node, const struct shape *shape,
                        const struct node_share *share, uint64_t *ret) {
    struct left left = left_after(input, node, shape, share);
    uint64_t own[2] = { node->cpus / 1000,
                        input->scale.gpus > 0 ? node->gpus * (uint64_t) GPU_WHOLE : node->memory >> 20 };

    for (unsigned i = 0; i < 2; i++)
        ret[i] = own[i] ? left.value[i] * 1000000 / own[i] : 0;
}

static int32_t value_l1(const struct score_input *input, const struct node *node, const struct shape *shape,
                        struct node_share *share) {
    uint64_t left[2];

    left_shares(input, node, shape, share, left);
    share->gpus = gpus_tightest(node, shape);
    return (int32_t) ((2000000 - left[0] - left[1]) * SCORE_MAX / 2000000);
}

static int32_t value_l2(const struct score_input *input, const struct node *node, const struct shape *shape,
                        struct node_share *share) {
    uint64_t left[2], whole = UINT64_C(2000000000000);

    left_shares(input, node, shape, share, left);
    share->gpus = gpus_tightest(node, shape);
    return (int32_t) ((whole - left[0] * left[0] - left[1] * left[1]) / 1000000 * SCORE_MAX /
                      (whole / 1000000));
}

/* The fullest before: by the largest of its shares in use. */
static uint64_t dominant_use(const struct node *node) {
    uint64_t use = node->cpus ? (node->cpus - node->free_cpus) / 1000 * 1000000 / (node->cpus / 1000 + 1) : 0;
    uint64_t memory =
        node->memory ? ((node->memory - node->free_memory) >> 20) * 1000000 / ((node->memory >> 20) + 1) : 0;
    uint64_t gpu = node->gpus ? (node->gpus * (uint64_t) GPU_WHOLE - node->gpu_free_total) * 1000 / node->gpus
                              : 0;

    use = memory > use ? memory : use;
    return gpu > use ? gpu : use;
}

static int32_t value_pack(const struct score_input *input, const struct node *node, const struct shape *shape,
                          struct node_share *share) {
    share->gpus = gpus_tightest(node, shape);
    return (int32_t) (dominant_use(node) * SCORE_MAX / 1000000);
}

static int32_t value_spread(const struct score_input *input, const struct node *node,
                            const struct shape *shape, struct node_share *share) {
    uint32_t few = node->instances < 1000 ? 1000 - node->instances : 0;

    share->gpus = gpus_tightest(node, shape);
    return (int32_t) (few * 31 + (1000000 - dominant_use(node)) * 30 / 1000000);
}

/* How much longer than now is the node needed if it takes the request, as a share of the request's life, in
 * ENDS_STEPS steps: lives that end together empty a node together, and what fits into the life of a node
 * costs no time of it. The share is coarse and weighs little: a
 * prediction says no more, and what is packed badly costs more than what ends late. */
#define ENDS_STEPS 4
#define ENDS_WEIGHT 20
static int32_t adjust_polder(const struct score_input *input, const struct node *node, int32_t value) {
    uint64_t ends = node->busy_until > input->now ? node->busy_until : input->now;
    uint64_t life = input->until > input->now ? input->until - input->now : 1;
    uint64_t longer = input->until > ends ? input->until - ends : 0;
    uint64_t steps = (longer * ENDS_STEPS + life / 2) / life;

    return value + (int32_t) (ENDS_STEPS - steps) * ENDS_WEIGHT;
}

/* Fragments first: what the usual sizes could less use of the node than before; then how full it gets, for a
 * third of that. 0 to SCORE_MAX, 2,500 where nothing changes. */
static int32_t value_mixture(const struct score_input *input, const struct node *node,
                             const struct shape *shape, struct node_share *share) {
    uint64_t cpus = node->free_cpus - share->cpus, memory = node->free_memory - share->memory;
    int64_t before = (int64_t) mixture_unused(input->mixture, node, node->free_cpus, node->free_memory);
    int64_t after = (int64_t) mixture_unused(input->mixture, node, cpus, memory);
    uint64_t need[2];
    mixture_need(input->mixture, node, need);
    uint64_t left = (cpus / 1000 * 1000000 / (node->cpus / 1000 + 1) * need[0] +
                     (memory >> 20) * 1000000 / ((node->memory >> 20) + 1) * need[1]) /
                    MIXTURE_NEED;
    int64_t value = 2500 * INT64_C(1000000) + (before - after) * 5000 + (1000000 - (int64_t) left) * 1500;

    share->gpus = gpus_tightest(node, shape);
    return value < 0 ? 0 : (int32_t) (value / 1000000);
}

static int32_t value_polder(const struct score_input *input, const struct node *node,
                            const struct shape *shape, struct node_share *share) {
    if (input->scale.gpus > 0)
        return score_gpu_balance(input, node, shape, share);
    return input->mixture && input->mixture->weight > 0 ? value_mixture(input, node, shape, share)
                                                        : value_best(input, node, shape, share);
}

const struct score scores[] = {
    { "first", "first fit: the lowest rank", value_first },
    { "best", "best fit: the least left (mean share of the largest node)", value_best },
    { "worst", "worst fit: the most left", value_worst },
    { "dot", "dot product of what is free and what is asked, the smallest", value_dot },
    { "l1", "best fit by the sum of the node's shares left", value_l1 },
    { "l2", "best fit by the sum of their squares", value_l2 },
    { "pack", "the fullest node", value_pack },
    { "spread", "the node with the fewest instances, then the emptiest", value_spread },
    { "random", "equal chances", value_first, .random = true },
    { "gpu-clustering", "nodes with the same kind of GPU use", score_gpu_clustering },
    { "gpu-packing", "GPUs in use, then busy nodes, then idle ones", score_gpu_packing },
    { "fgd", "the smallest growth of what the usual requests cannot use", score_gpu_fgd },
    { "polder", "the least loss of what usual requests could use; lives that end together", value_polder,
      .adjust = adjust_polder, .scarcity = true },
};
const size_t scores_count = ELEMENTS(scores);

const struct score *score_find(const char *name) {
    for (size_t i = 0; i < ELEMENTS(scores); i++)
        if (text_equal(scores[i].name, name))
            return &scores[i];
    return NULL;
}
