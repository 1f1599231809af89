// SPDX-License-Identifier: GPL-2.0-or-later
/* The table as it was: a copy, on which the changes since are taken back, the last first. Slots that are taken on the copy
 * again may get other numbers than they had: `where` tells which. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/nodes-internal.h"

int nodes_remember(struct nodes *nodes, size_t changes) {
    size_t room = 16;

    while (room < changes)
        room *= 2;
    struct nodes_event *past = reallocarray(nodes->past, room, sizeof(*past));
    if (!past)
        return -ENOMEM;
    nodes->past = past;
    nodes->past_room = room;
    nodes->past_from = nodes->position;
    return 0;
}

static void *copy_of(const void *source, size_t used, size_t room, size_t element) {
    void *copy = calloc(room ? room : 1, element);

    if (copy && used)
        memcpy(copy, source, used * element);
    return copy;
}

static int copy_groups(const struct nodes *source, struct nodes *target) {
    target->groups = calloc(source->group_room ? source->group_room : 1, sizeof(*target->groups));
    if (!target->groups)
        return -ENOMEM;
    for (; target->group_room < source->group_room; target->group_room++) {
        const struct group *from = &source->groups[target->group_room];
        struct group *to = &target->groups[target->group_room];
        *to = *from;
        to->nodes = copy_of(from->nodes, from->room, from->room, sizeof(*from->nodes));
        to->domains = copy_of(from->domains, from->domain_room, from->domain_room, sizeof(*from->domains));
        if (!to->nodes || !to->domains) {
            free(to->nodes);
            free(to->domains);
            return -ENOMEM;
        }
    }
    return 0;
}

/* How many names there are counts (of domains); none is found. */
static int copy_names(const struct nodes *source, struct nodes *target) {
    for (int i = 0; i < NAMES_COUNT; i++) {
        target->names[i].texts = calloc(source->names[i].count + 1, sizeof(char *));
        if (!target->names[i].texts)
            return -ENOMEM;
        target->names[i].count = target->names[i].room = source->names[i].count;
    }
    return 0;
}

static int copy(const struct nodes *source, struct nodes **ret) {
    _cleanup_nodes_ struct nodes *target = NULL;
    int r = nodes_new(&target);

    if (r < 0)
        return r;
    target->count = source->count;
    target->room = source->room;
    target->slot_count = source->slot_count;
    target->slot_room = source->slot_room;
    target->slot_free = source->slot_free;
    target->ratio_count = source->ratio_count;
    target->scale = source->scale;
    target->change_room = source->change_room;
    target->position = source->position;
    memcpy(target->ratios, source->ratios, sizeof(target->ratios));
    memcpy(target->model_free, source->model_free, sizeof(target->model_free));
    target->texts = calloc(source->room + 1, sizeof(*target->texts));
    if (!target->texts) {
        target->count = 0;
        return -ENOMEM;
    }
    target->nodes = copy_of(source->nodes, source->count, source->room, sizeof(*source->nodes));
    target->slots = copy_of(source->slots, source->slot_count, source->slot_room, sizeof(*source->slots));
    target->changes = calloc(source->change_room + 1, sizeof(*target->changes));
    target->domain_levels = copy_of(source->domain_levels, source->names[NAMES_DOMAINS].count,
                                    source->names[NAMES_DOMAINS].count, sizeof(*source->domain_levels));
    if (!target->nodes || !target->slots || !target->changes || !target->domain_levels)
        return -ENOMEM;
    r = copy_groups(source, target);
    if (r >= 0)
        r = copy_names(source, target);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(target);
    return 0;
}

static int take_back(struct nodes *nodes, const struct nodes_event *event, uint32_t *where) {
    const struct node_share share = { .cpus = event->cpus, .memory = event->memory, .until = event->until,
                                      .group = event->group, .gpus = event->gpus, .gpu_milli = event->gpu_milli };

    if (event->slot == NODE_NONE)
        nodes_close(nodes, event->node, !nodes_get(nodes, event->node)->closed);
    else if (event->given)
        return nodes_take(nodes, event->node, &share, &where[event->slot]);
    else
        nodes_give(nodes, where[event->slot]);
    return 0;
}

int nodes_past(const struct nodes *nodes, uint64_t position, struct nodes **ret) {
    _cleanup_nodes_ struct nodes *past = NULL;
    _cleanup_free_ uint32_t *where = NULL;
    int r;

    if (!nodes->past || position < nodes->past_from || position > nodes->position ||
        nodes->position - position > nodes->past_room)
        return -ESTALE;
    where = reallocarray(NULL, nodes->slot_count + (size_t) 1, sizeof(*where));
    r = where ? copy(nodes, &past) : -ENOMEM;
    for (uint32_t slot = 0; r >= 0 && slot < nodes->slot_count; slot++)
        where[slot] = slot;
    for (uint64_t at = nodes->position; r >= 0 && at > position; at--)
        r = take_back(past, &nodes->past[(at - 1) & (nodes->past_room - 1)], where);
    if (r < 0)
        return r == -ENOSPC ? -ESTALE : r;
    past->position = position;
    *ret = STEAL_PTR(past);
    return 0;
}
