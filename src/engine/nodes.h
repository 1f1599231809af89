// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/instance.h"

/* The table of nodes: what each has, what of it is promised, and where the members of each group are. Pure
 * memory: no clock, no I/O. A node's rank is its index, the order in which nodes were added; ties go to the
 * lowest.
 *
 * Units: CPUs in millionths, memory in bytes, GPUs in thousandths each. Capacity is physical; what an
 * instance takes of it is its request divided by its kind's overcommit ratio (V = P x C), rounded down, so
 * that nothing is lost to rounding: promises exceed V by less than one unit per instance. GPUs are never
 * overcommitted. */

struct nodes;

#define NODE_NONE UINT32_MAX
#define NODES_MAX 1000000
#define NODE_GPUS 16
#define GPU_WHOLE 1000
/* Words of a set of traits: features and labels ("avx2", "disk=ssd"), each a bit once it has a number. */
#define TRAIT_WORDS 4
#define TRAITS_MAX (TRAIT_WORDS * 64)
#define TAINTS_MAX 64
#define GPU_MODELS_MAX 64
/* Different sets of overcommit ratios in one table. */
#define RATIOS_MAX 64

/* Where a constraint counts: on the node itself, or in its rack or zone. */
enum node_level {
    LEVEL_NODE,
    LEVEL_RACK,
    LEVEL_ZONE,
    LEVEL_COUNT,
};
const char *node_level_name(enum node_level level);

/* What decides and what is shown. Read-only outside nodes.c. */
struct node {
    uint64_t free_cpus, free_memory;
    uint64_t cpus, memory;
    uint64_t traits[TRAIT_WORDS];
    uint64_t taints;
    uint64_t busy_until;           /* when the last of its instances is expected to end; 0: it is empty */
    uint16_t gpu_free[NODE_GPUS];  /* thousandths */
    uint8_t gpu_uses[NODE_GPUS +
                     1]; /* instances that share a GPU [0], that have n whole ones [n]; stops at 255 */
    uint8_t gpus;
    uint8_t gpu_model;             /* number of its name */
    uint8_t ratios;                /* which set of overcommit ratios */
    bool closed;                   /* takes nothing new: drained, failed, kept as a reserve */
    uint16_t domains[LEVEL_COUNT]; /* [LEVEL_RACK], [LEVEL_ZONE]; 0: none */
    uint16_t gpu_free_total;
    uint32_t instances;            /* how many, */
    uint32_t first;                /* and the first of their list */
};

/* What to add. Strings are copied; lists end with NULL and may be NULL. */
struct node_description {
    const char *name;
    uint64_t cpus;   /* millionths */
    uint64_t memory; /* bytes */
    unsigned gpus;
    const char *gpu_model;
    char *const *traits;
    char *const *taints;
    const char *rack, *zone;
    const uint32_t *overcommit_cpu;    /* percent per kind, KIND_COUNT of them; NULL: 100 each */
    const uint32_t *overcommit_memory;
};

int nodes_new(struct nodes **ret);
void nodes_free(struct nodes *nodes);
DEFINE_CLEANUP(struct nodes *, nodes_free)
#define _cleanup_nodes_ _cleanup_(nodes_freep)

/* EXISTS, OUT_OF_RANGE, EXHAUSTED (names for traits, taints or models). */
int nodes_add(struct nodes *nodes, const struct node_description *description, struct error *error);
size_t nodes_count(const struct nodes *nodes);
const struct node *nodes_get(const struct nodes *nodes, uint32_t node);
const char *nodes_name(const struct nodes *nodes, uint32_t node);
uint32_t nodes_find(const struct nodes *nodes, const char *name); /* NODE_NONE */
/* Closed nodes take nothing new; what they hold stays. */
void nodes_close(struct nodes *nodes, uint32_t node, bool closed);
/* Bytes of memory per node, all indexes of this table included. */
size_t nodes_memory(const struct nodes *nodes);

/* Thousandths of idle GPU of a model on all open nodes. */
uint64_t nodes_model_free(const struct nodes *nodes, unsigned model);

/* Largest of any node, to scale scores; at least 1. */
struct nodes_scale {
    uint64_t cpus, memory;
    unsigned gpus; /* 0: no node has any */
};
void nodes_scale(const struct nodes *nodes, struct nodes_scale *ret);

/* Numbers of names; added when `add`, otherwise -ENOENT. -ENOSPC when there are too many, -ENOMEM. */
enum node_names {
    NAMES_TRAITS,
    NAMES_TAINTS,
    NAMES_MODELS,
    NAMES_DOMAINS, /* from 1 */
    NAMES_GROUPS,
    NAMES_COUNT,
};
int nodes_number(struct nodes *nodes, enum node_names names, const char *name, bool add);
const char *nodes_number_name(const struct nodes *nodes, enum node_names names, unsigned number);

/* What an instance takes of a node. */
struct node_share {
    uint64_t cpus, memory; /* physical, after the ratio */
    uint16_t gpus;         /* bit per GPU */
    uint16_t gpu_milli;    /* of each */
    int32_t group;         /* -1: none */
    uint64_t until;        /* expected end; 0: unknown */
};
/* What a request of `kind` takes of this node's physical capacity. */
static inline uint64_t node_physical(uint64_t amount, uint32_t percent) {
    return percent == 100 ? amount : (uint64_t) ((unsigned __int128) amount * 100 / percent);
}
uint32_t nodes_ratio_cpu(const struct nodes *nodes, const struct node *node, enum kind kind);
uint32_t nodes_ratio_memory(const struct nodes *nodes, const struct node *node, enum kind kind);

/* Promises the share; one that does not fit gets -ENOSPC and changes nothing. *ret_slot is the handle to give
 * it back by. */
int nodes_take(struct nodes *nodes, uint32_t node, const struct node_share *share, uint32_t *ret_slot);
void nodes_give(struct nodes *nodes, uint32_t slot);
/* Another end is expected of what holds the slot. Scores that are kept do not depend on it: no change is
 * noted. */
void nodes_expect(struct nodes *nodes, uint32_t slot, uint64_t until);
/* Walks what a node holds: NODE_NONE ends. */
uint32_t nodes_next(const struct nodes *nodes, uint32_t node, uint32_t slot);
const struct node_share *nodes_share(const struct nodes *nodes, uint32_t slot);
uint32_t nodes_holder(const struct nodes *nodes, uint32_t slot);

/* Members of a group in the domain of this node at that level, and in all. */
uint32_t nodes_group_near(const struct nodes *nodes, unsigned group, enum node_level level, uint32_t node);
uint32_t nodes_group_size(const struct nodes *nodes, unsigned group);
/* Fewest members in any domain of that level (nodes: any open node). */
uint32_t nodes_group_fewest(const struct nodes *nodes, unsigned group, enum node_level level);

/* Every change of a node is noted: readers that hold a position catch up with what changed since. */
uint64_t nodes_position(const struct nodes *nodes);
/* The node changed at that position, or NODE_NONE when it is too long ago (then look at all of them). */
uint32_t nodes_changed(const struct nodes *nodes, uint64_t position);

/* So many changes, at least, are remembered from now on. -ENOMEM. */
int nodes_remember(struct nodes *nodes, size_t changes);
/* The table as it was at a position, apart from this one and without names; numbers of slots may be others. -ESTALE: nothing is
 * remembered of that, or nodes were added since. -ENOMEM. */
int nodes_past(const struct nodes *nodes, uint64_t position, struct nodes **ret);
