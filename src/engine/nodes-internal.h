// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/map.h"
#include "engine/nodes.h"

/* Shared by nodes.c (what there is) and nodes-past.c (what there was). */

/* A change as it can be taken back: what came or went. */
struct nodes_event {
    uint64_t cpus, memory, until;
    uint32_t node, slot; /* slot NODE_NONE: the node was opened or closed */
    int32_t group;
    uint16_t gpus;
    uint16_t gpu_milli : 15, given : 1;
};

struct names {
    struct map *numbers; /* name -> number + 1 */
    char **texts;
    unsigned count, room;
};

struct slot {
    struct node_share share;
    uint32_t node; /* NODE_NONE: free */
    uint32_t next, previous;
};

struct tally {
    uint32_t node, count;
};
struct group {
    struct tally *nodes; /* open addressing, a power of two; count 0 may remain */
    uint32_t room, used;
    uint32_t *domains;   /* by the number of the domain */
    unsigned domain_room;
    uint32_t members;
};

struct ratios {
    uint32_t cpu[KIND_COUNT], memory[KIND_COUNT];
};

struct nodes {
    struct node *nodes;
    char **texts; /* their names */
    struct map *by_name;
    size_t count, room;
    struct slot *slots;
    uint32_t slot_count, slot_room, slot_free;
    struct names names[NAMES_COUNT];
    uint8_t *domain_levels; /* by the number of the domain */
    struct group *groups;
    unsigned group_room;
    struct ratios ratios[RATIOS_MAX];
    unsigned ratio_count;
    struct nodes_scale scale;
    uint64_t model_free[GPU_MODELS_MAX]; /* thousandths of idle GPU on open nodes */
    uint32_t *changes;
    size_t change_room; /* a power of two, at least the nodes */
    uint64_t position;
    struct nodes_event *past; /* by position; NULL: nothing is remembered */
    size_t past_room;         /* a power of two */
    uint64_t past_from;       /* what was before is not known */
};
