// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/nodes.h"

/* What a node must pass to be chosen: one row each, in the order in which they are asked. The first that a
 * node fails is the one it is counted under. Those up to FILTER_STATIC depend on the node and the request
 * alone, so that their verdict is kept per node (views.h); the others depend on where instances are and are
 * asked at each decision. */

#define FILTERS(ROW)                                                                                         \
    ROW(CLOSED, "closed", "takes nothing new")                                                              \
    ROW(TAINT, "taint", "has a taint that is not tolerated")                                                \
    ROW(TRAIT, "trait", "lacks a feature or label, or has one that is refused")                             \
    ROW(GPU_MODEL, "gpu-model", "has no GPU of a model asked for")                                          \
    ROW(GPU, "gpu", "has too little left of its GPUs")                                                      \
    ROW(CPU, "cpu", "has too few CPUs left")                                                                \
    ROW(MEMORY, "memory", "has too little memory left")                                                     \
    ROW(AFFINITY, "affinity", "is not near the group it must be near")                                      \
    ROW(ANTI_AFFINITY, "anti-affinity", "is too near to the group it must keep away from")                  \
    ROW(SPREAD, "spread", "lies where the group has too many members already")

enum filter {
#define FILTER_ROW(name, word, sentence) FILTER_##name,
    FILTERS(FILTER_ROW)
#undef FILTER_ROW
    FILTER_COUNT,
};
#define FILTER_STATIC FILTER_AFFINITY /* the first that is not */
#define FILTER_PASSED FILTER_COUNT

const char *filter_name(enum filter filter);
const char *filter_sentence(enum filter filter);

enum constraint_type {
    CONSTRAINT_AFFINITY,      /* where members of the group are; the first member of its own group is free */
    CONSTRAINT_ANTI_AFFINITY, /* where none is */
    CONSTRAINT_SPREAD,        /* where the group has fewer than its fewest plus `skew` */
};
struct constraint {
    enum constraint_type type;
    enum node_level level;
    unsigned group;
    uint32_t skew; /* of SPREAD, at least 1 */
    bool own;      /* it is of that group itself, though it joins another or none */
};
#define CONSTRAINTS_MAX 16

/* The part of a request on which the static filters and the scores depend; equal shapes share a view. No
 * padding may differ: make it with memset or a compound literal of all of it. */
struct shape {
    uint64_t cpus;   /* millionths */
    uint64_t memory; /* bytes */
    uint64_t traits[TRAIT_WORDS], refused[TRAIT_WORDS];
    uint64_t tolerated;  /* taints */
    uint64_t gpu_models; /* bit per model; 0: any */
    uint32_t gpus;
    uint32_t gpu_milli;  /* of each */
    uint32_t kind;       /* enum kind */
    uint32_t reserved;   /* 0 */
};

/* Equal shapes have equal digests, on every machine of one byte order. */
uint64_t shape_digest(const struct shape *shape);

struct placement_request {
    const char *name; /* for messages; borrowed */
    struct shape shape;
    int32_t group;    /* that it joins; -1: none */
    uint64_t until;   /* when it is expected to end; 0: unknown */
    struct constraint constraints[CONSTRAINTS_MAX];
    unsigned constraint_count;
};

/* Does the node pass this static filter, whatever it does at the others? */
bool filter_passes(const struct nodes *nodes, const struct node *node, const struct shape *shape,
                   enum filter filter);
/* The first static filter that the node fails, or FILTER_PASSED. */
enum filter filter_static(const struct nodes *nodes, const struct node *node, const struct shape *shape);
/* The first constraint that the node fails, or FILTER_PASSED. `fewest` of each constraint is from
 * filter_fewest. */
enum filter filter_constraints(const struct nodes *nodes, uint32_t node,
                               const struct placement_request *request, const uint32_t *fewest);
/* One of them alone. */
bool filter_constraint_passes(const struct nodes *nodes, uint32_t node, const struct placement_request *request,
                              unsigned index, const uint32_t *fewest);
void filter_fewest(const struct nodes *nodes, const struct placement_request *request, uint32_t *ret_fewest);

/* Names what can never be met, whatever the nodes: BAD_REQUEST with a sentence. A trait both asked for and
 * refused, affinity and anti-affinity that exclude each other, affinity or spread that keeps the group from
 * itself. */
int filter_check_request(const struct nodes *nodes, const struct placement_request *request,
                         struct error *error);
