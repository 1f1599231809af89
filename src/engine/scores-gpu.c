// SPDX-License-Identifier: GPL-2.0-or-later
/* Scores that know GPUs, whole and shared. */
#include "engine/scores-internal.h"

/* Thousandths of idle GPU, as published: nodes with the same kind of use first, then idle nodes. */
int32_t score_gpu_clustering(const struct score_input *input, const struct node *node,
                             const struct shape *shape, struct node_share *share) {
    unsigned kinds = 0, own = shape->gpu_milli < GPU_WHOLE ? 0 : shape->gpus;
    int32_t whole = (int32_t) (input->scale.gpus * GPU_WHOLE), value;

    share->gpus = gpus_tightest(node, shape);
    if (shape->gpus == 0 || whole == 0)
        return 0;
    for (unsigned i = 0; i <= NODE_GPUS; i++)
        kinds += node->gpu_uses[i] > 0;
    value = 25 * (whole - node->gpu_free_total) / whole;
    if (node->gpu_uses[own] > 0)
        return value + (kinds == 1 ? 75 : 50);
    return value + (kinds == 0 ? 25 : 0);
}

/* Score steps to a GPU. */
#define BALANCE_STEPS 3

static uint64_t lesser(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static int32_t most(int32_t a, int32_t b) {
    return a > b ? a : b;
}

/* As published: shared GPUs first, then idle GPUs of busy nodes, then idle nodes. */
int32_t score_gpu_packing(const struct score_input *input, const struct node *node, const struct shape *shape,
                             struct node_share *share) {
    int32_t idle = 0, used = 0, left = 0;

    share->gpus = gpus_tightest(node, shape);
    if (shape->gpus == 0)
        return 0;
    for (unsigned i = 0; i < node->gpus; i++) {
        idle += node->gpu_free[i] == GPU_WHOLE;
        if (!(share->gpus >> i & 1))
            continue;
        used += node->gpu_free[i] == GPU_WHOLE;
        left += node->gpu_free[i] * 100 / GPU_WHOLE;
    }
    if (idle == node->gpus)
        return most(33 - idle, idle);
    return used > 0 ? most(50 - used, 33) : most(100 - left / 10, 50);
}

/* ceil(10^9 ln(k / (100 - k))) for k = 1..99: where 100 / (1 + exp(-x)) reaches k. */
static const int64_t sigmoid_steps[99] = {
    -4595119850, -3891820298, -3476098689, -3178053830, -2944438979, -2751535313, -2586689344,
    -2442347035, -2313634929, -2197224577, -2090741096, -1992430164, -1900958761, -1815289966,
    -1734601055, -1658228076, -1585627263, -1516347489, -1450010175, -1386294361, -1324925414,
    -1265666373, -1208311205, -1152679509, -1098612288, -1045968555, -994622575, -944461608, -895384047,
    -847297860, -800119300, -753771802, -708185057, -663294217, -619039208, -575364144, -532216813,
    -489548225, -447312218, -405465108, -363965377, -322773392, -281851152, -241162056, -200670695,
    -160342650, -120144311, -80042707, -40005334, 0, 40005335, 80042708, 120144312, 160342651,
    200670696, 241162057, 281851153, 322773393, 363965378, 405465109, 447312219, 489548226, 532216814,
    575364145, 619039209, 663294218, 708185058, 753771803, 800119301, 847297861, 895384048, 944461609,
    994622576, 1045968556, 1098612289, 1152679510, 1208311206, 1265666374, 1324925415, 1386294362,
    1450010176, 1516347490, 1585627264, 1658228077, 1734601056, 1815289967, 1900958762, 1992430165,
    2090741097, 2197224578, 2313634930, 2442347036, 2586689345, 2751535314, 2944438980, 3178053831,
    3476098690, 3891820299, 4595119851,
};

/* floor(100 sigmoid(gain / (1000 weight))) without a floating-point number. */
static int32_t sigmoid_percent(int64_t gain, uint64_t weight) {
    unsigned low = 0, high = 99; /* how many steps are reached */

    while (low < high) {
        unsigned middle = (low + high) / 2;
        if ((__int128) gain * 1000000 >= (__int128) sigmoid_steps[middle] * (int64_t) weight)
            low = middle + 1;
        else
            high = middle;
    }
    return (int32_t) low;
}

static void state_take(struct fragment_state *state, uint64_t cpus, uint16_t gpus, uint32_t milli) {
    state->cpus -= cpus;
    for (unsigned i = 0; i < state->gpus; i++)
        if (gpus >> i & 1) {
            state->gpu_free[i] = (uint16_t) (state->gpu_free[i] - milli);
            state->gpu_free_total -= milli;
        }
}

/* The smallest growth of the fragments; a shared GPU is the one that grows them least, by the rounded score,
 * first of equals. */
int32_t score_gpu_fgd(const struct score_input *input, const struct node *node, const struct shape *shape,
                         struct node_share *share) {
    struct fragment_state before, after;
    int32_t best = -1;

    share->gpus = gpus_tightest(node, shape);
    if (input->fragments->weight == 0)
        return 0;
    fragment_state_of(node, &before);
    int64_t lost = fragments_amount(input->fragments, &before);
    if (shape->gpus != 1 || shape->gpu_milli == GPU_WHOLE) {
        after = before;
        state_take(&after, share->cpus, share->gpus, shape->gpu_milli);
        return sigmoid_percent(lost - fragments_amount(input->fragments, &after), input->fragments->weight);
    }
    for (unsigned i = 0; i < node->gpus; i++) {
        unsigned same = 0;
        while (node->gpu_free[same] != node->gpu_free[i])
            same++;
        if (node->gpu_free[i] < shape->gpu_milli || same < i)
            continue;
        after = before;
        state_take(&after, share->cpus, (uint16_t) (1 << i), shape->gpu_milli);
        int32_t value = sigmoid_percent(lost - fragments_amount(input->fragments, &after),
                                        input->fragments->weight);
        if (value > best) {
            best = value;
            share->gpus = (uint16_t) (1 << i);
        }
    }
    return best;
}

/* Thousandths of idle GPU that what else is free could not serve, if requests needed 60, 80 or 100 percent of
 * what is usual: the mean of the three. What comes differs, and what needs much fits less often. */
static int64_t stranded(const struct scarcity *scarcity, uint64_t gpu, uint64_t cpus, uint64_t memory) {
    uint64_t served = UINT64_MAX / 100, sum = 0;

    if (gpu == 0)
        return 0;
    if (scarcity->cpus > 0)
        served = lesser(served, (uint64_t) ((unsigned __int128) cpus * scarcity->gpu / scarcity->cpus));
    if (scarcity->memory > 0)
        served = lesser(served, (uint64_t) ((unsigned __int128) memory * scarcity->gpu / scarcity->memory));
    for (unsigned percent = 60; percent <= 100; percent += 20)
        sum += gpu - lesser(gpu, served * 100 / percent);
    return (int64_t) (sum / 3);
}

/* The least loss of GPU: what becomes stranded, and what a scarce model is worth to those who can use no
 * other. Coarse (BALANCE_STEPS to a GPU), so that among nearly equal nodes the first is taken and the others
 * stay whole. */
int32_t score_gpu_balance(const struct score_input *input, const struct node *node, const struct shape *shape,
                          struct node_share *share) {
    const struct scarcity *scarcity = input->scarcity;
    uint64_t asked = (uint64_t) shape->gpus * shape->gpu_milli;

    share->gpus = gpus_tightest(node, shape);
    if (!scarcity || scarcity->gpu == 0)
        return SCORE_MAX / 2;
    int64_t loss = stranded(scarcity, node->gpu_free_total - asked, node->free_cpus - share->cpus,
                            node->free_memory - share->memory) -
                   stranded(scarcity, node->gpu_free_total, node->free_cpus, node->free_memory);
    loss += (int64_t) (asked * scarcity->price[node->gpu_model] / SCARCITY_WHOLE);
    return (int32_t) ((SCORE_MAX / 2 * INT64_C(1000) - loss * BALANCE_STEPS + 500) / 1000);
}
