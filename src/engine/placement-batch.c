// SPDX-License-Identifier: GPL-2.0-or-later
/* Several at once: a batch that is placed as a whole, and the trial that asks whether what a node holds would
 * fit elsewhere if it failed. The trial takes everything away, places it again and undoes both in reverse
 * order: slots come from a stack, so that each instance gets its own back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/placement.h"

/* ---- batches ---- */

struct demand {
    uint64_t share; /* of the largest node: the greatest of CPU, memory and GPU, in millionths */
    size_t number;
};

static uint64_t demand_share(const struct nodes_scale *scale, const struct shape *shape) {
    uint64_t gpu = scale->gpus ? (uint64_t) shape->gpus * shape->gpu_milli * 1000 / scale->gpus : 0;
    uint64_t cpus = (uint64_t) ((unsigned __int128) shape->cpus * 1000000 / scale->cpus);
    uint64_t memory = (uint64_t) ((unsigned __int128) shape->memory * 1000000 / scale->memory);

    cpus = memory > cpus ? memory : cpus;
    return gpu > cpus ? gpu : cpus;
}

static int compare_demands(const void *a, const void *b) {
    const struct demand *first = a, *second = b;

    if (first->share != second->share)
        return first->share > second->share ? -1 : 1;
    return first->number < second->number ? -1 : 1;
}

static struct demand *order_demands(const struct placement *placement,
                                    const struct placement_request *requests, size_t count) {
    struct demand *demands = calloc(count ? count : 1, sizeof(*demands));
    struct nodes_scale scale;

    if (!demands)
        return NULL;
    nodes_scale(placement->nodes, &scale);
    for (size_t i = 0; i < count; i++)
        demands[i] = (struct demand){ demand_share(&scale, &requests[i].shape), i };
    qsort(demands, count, sizeof(*demands), compare_demands);
    return demands;
}

static void give_all(struct placement *placement, uint32_t *slots, const size_t *taken, size_t count) {
    while (count-- > 0) {
        nodes_give(placement->nodes, slots[taken[count]]);
        slots[taken[count]] = NODE_NONE;
    }
}

int placement_batch(struct placement *placement, const struct placement_request *requests, size_t count,
                    uint64_t now, bool whole, struct placement_decision *ret, uint32_t *ret_slots,
                    size_t *ret_placed) {
    _cleanup_free_ struct demand *demands = order_demands(placement, requests, count);
    _cleanup_free_ size_t *taken = calloc(count ? count : 1, sizeof(*taken));
    size_t placed = 0, before;
    int r = demands && taken ? 0 : -ENOMEM;

    for (size_t i = 0; i < count; i++)
        ret_slots[i] = NODE_NONE;
    /* Again as long as it helps: what must be near others may come before them in this order. */
    do {
        before = placed;
        for (size_t i = 0; i < count && r >= 0; i++) {
            size_t number = demands[i].number;
            if (ret_slots[number] != NODE_NONE)
                continue;
            r = placement_place(placement, &requests[number], now, true, &ret[number], &ret_slots[number]);
            if (r >= 0 && ret_slots[number] != NODE_NONE)
                taken[placed++] = number;
        }
    } while (r >= 0 && placed > before && placed < count);
    if (r < 0 || (whole && placed < count)) {
        give_all(placement, ret_slots, taken, placed);
        placed = 0;
    }
    if (ret_placed)
        *ret_placed = placed;
    return r;
}

/* ---- reserve ---- */

/* What lies in the domain that fails. */
struct failure {
    struct placement *placement;
    uint32_t *nodes; /* that were open */
    size_t node_count;
    uint32_t *slots; /* what they held, in the order of giving */
    struct node_share *shares;
    uint32_t *holders;
    struct placement_request *requests;
    size_t slot_count;
};

static void failure_done(struct failure *failure) {
    free(failure->nodes);
    free(failure->slots);
    free(failure->shares);
    free(failure->holders);
    free(failure->requests);
}

static bool fails_with(const struct nodes *nodes, enum node_level level, uint32_t failed, uint32_t node) {
    unsigned domain = level == LEVEL_NODE ? 0 : nodes_get(nodes, failed)->domains[level];

    return node == failed || (domain != 0 && nodes_get(nodes, node)->domains[level] == domain);
}

static int failure_reserve(struct failure *failure, enum node_level level, uint32_t failed) {
    const struct nodes *nodes = failure->placement->nodes;
    size_t held = 0, count = 0;

    for (uint32_t i = 0; i < nodes_count(nodes); i++)
        if (fails_with(nodes, level, failed, i)) {
            held += nodes_get(nodes, i)->instances;
            count++;
        }
    failure->nodes = calloc(count, sizeof(*failure->nodes));
    failure->slots = calloc(held + 1, sizeof(*failure->slots));
    failure->shares = calloc(held + 1, sizeof(*failure->shares));
    failure->holders = calloc(held + 1, sizeof(*failure->holders));
    failure->requests = calloc(held + 1, sizeof(*failure->requests));
    return failure->nodes && failure->slots && failure->shares && failure->holders && failure->requests
               ? 0
               : -ENOMEM;
}

static int failure_collect(struct failure *failure, enum node_level level, uint32_t failed,
                           placement_request_of *request_of, void *userdata) {
    struct nodes *nodes = failure->placement->nodes;
    int r = failure_reserve(failure, level, failed);

    for (uint32_t i = 0; i < nodes_count(nodes) && r >= 0; i++) {
        if (!fails_with(nodes, level, failed, i))
            continue;
        if (!nodes_get(nodes, i)->closed)
            failure->nodes[failure->node_count++] = i;
        uint32_t slot = nodes_next(nodes, i, NODE_NONE);
        for (; slot != NODE_NONE && r >= 0; slot = nodes_next(nodes, i, slot)) {
            failure->slots[failure->slot_count] = slot;
            failure->shares[failure->slot_count] = *nodes_share(nodes, slot);
            failure->holders[failure->slot_count] = i;
            r = request_of(userdata, slot, &failure->requests[failure->slot_count]);
            failure->slot_count++;
        }
    }
    return r;
}

static int failure_try(struct failure *failure, bool *ret_fits) {
    struct placement *placement = failure->placement;
    size_t count = failure->slot_count, placed = 0;
    _cleanup_free_ struct placement_decision *decisions = calloc(count + 1, sizeof(*decisions));
    _cleanup_free_ uint32_t *slots = calloc(count + 1, sizeof(*slots));
    _cleanup_free_ struct demand *demands = order_demands(placement, failure->requests, count);
    int r = decisions && slots && demands ? 0 : -ENOMEM;

    *ret_fits = true;
    for (; placed < count && r >= 0 && *ret_fits; placed++) {
        const struct placement_request *request = &failure->requests[demands[placed].number];
        r = placement_place(placement, request, 0, false, &decisions[placed], &slots[placed]);
        if (r < 0 || slots[placed] == NODE_NONE)
            *ret_fits = false;
    }
    while (placed-- > 0)
        if (slots[placed] != NODE_NONE)
            nodes_give(placement->nodes, slots[placed]);
    return r;
}

int placement_survives(struct placement *placement, enum node_level level, uint32_t node,
                       placement_request_of *request_of, void *userdata, bool *ret) {
    _cleanup_(failure_done) struct failure failure = { .placement = placement };
    uint64_t decisions = placement->decisions;
    int r = failure_collect(&failure, level, node, request_of, userdata);

    if (r < 0)
        return r;
    for (size_t i = 0; i < failure.node_count; i++)
        nodes_close(placement->nodes, failure.nodes[i], true);
    for (size_t i = 0; i < failure.slot_count; i++)
        nodes_give(placement->nodes, failure.slots[i]);
    r = failure_try(&failure, ret);
    /* Their room was theirs and slots are there: taking them again cannot fail. */
    for (size_t i = failure.slot_count; i-- > 0;) {
        uint32_t slot;
        int again = nodes_take(placement->nodes, failure.holders[i], &failure.shares[i], &slot);
        r = again < 0 ? again : r;
    }
    for (size_t i = 0; i < failure.node_count; i++)
        nodes_close(placement->nodes, failure.nodes[i], false);
    placement->decisions = decisions;
    return r;
}

int placement_reserve(struct placement *placement, enum node_level level, placement_request_of *request_of,
                      void *userdata, uint32_t *ret_node) {
    *ret_node = NODE_NONE;
    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        bool survives = true;
        int r = nodes_get(placement->nodes, i)->instances
                    ? placement_survives(placement, level, i, request_of, userdata, &survives)
                    : 0;
        if (r < 0)
            return r;
        if (!survives) {
            *ret_node = i;
            return 0;
        }
    }
    return 0;
}

/* The request of a slot that was just taken is the one at hand, that of any other is asked for. */
struct with_new {
    const struct placement_request *request;
    uint32_t slot;
    placement_request_of *request_of;
    void *userdata;
};

static int request_with_new(void *userdata, uint32_t slot, struct placement_request *ret) {
    const struct with_new *with = userdata;

    if (slot != with->slot)
        return with->request_of(with->userdata, slot, ret);
    *ret = *with->request;
    return 0;
}

int placement_place_reserved(struct placement *placement, const struct placement_request *request,
                             uint64_t now, enum node_level level, placement_request_of *request_of,
                             void *userdata, struct placement_decision *ret, uint32_t *ret_slot) {
    int r = placement_decide(placement, request, now, true, ret);

    *ret_slot = NODE_NONE;
    for (unsigned i = 0; r >= 0 && i < ret->candidate_count; i++) {
        struct with_new with = { request, NODE_NONE, request_of, userdata };
        uint32_t broken;
        r = placement_take(placement, request, ret->candidates[i].node, &with.slot);
        if (r >= 0)
            r = placement_reserve(placement, level, request_with_new, &with, &broken);
        if (r >= 0 && broken == NODE_NONE) {
            ret->node = ret->candidates[i].node;
            ret->score = ret->candidates[i].score;
            ret->gpus = nodes_share(placement->nodes, with.slot)->gpus;
            *ret_slot = with.slot;
            return 0;
        }
        if (with.slot != NODE_NONE)
            nodes_give(placement->nodes, with.slot);
    }
    ret->node = NODE_NONE;
    return r;
}
