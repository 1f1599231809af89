// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/scores.h"
#include "engine/views.h"

/* Chooses the node of an instance: filters, then the best score, then the lowest rank. Deterministic: the
 * same calls in the same order decide the same, on every compiler. */

struct placement_options {
    const struct score *score;         /* NULL: best */
    uint64_t seed;                     /* of the score "random" */
    uint32_t resolution;               /* of scores.h; 0: 100 where nodes have GPUs, 10,000 elsewhere */
    const struct fragments *fragments; /* borrowed; NULL: none */
    const struct mixture *mixture;     /* borrowed; NULL: none. It may learn on. */
};

struct placement {
    struct nodes *nodes; /* borrowed */
    struct placement_options options;
    struct fragments none;
    struct scarcity scarcity;
    struct views views;
    uint64_t decisions;
};

#define PLACEMENT_CANDIDATES 8

struct placement_candidate {
    uint32_t node;
    int16_t score;
    int16_t value; /* the score before it is adjusted to expected ends */
};

/* What the ledger keeps of a decision. */
struct placement_decision {
    uint32_t node;   /* NODE_NONE: refused */
    int32_t score;
    uint16_t gpus;
    uint16_t candidate_count;
    uint64_t number; /* of the decision */
    uint64_t shape;  /* digest of what was asked for */
    uint64_t position; /* of the nodes' changes: the state that was decided on */
    struct placement_candidate candidates[PLACEMENT_CANDIDATES]; /* best first */
    /* How many nodes failed each filter first. Those above FILTER_STATIC count only nodes that were looked
     * at, which are all when the request was refused. */
    uint32_t refused[FILTER_COUNT];
};

void placement_init(struct placement *placement, struct nodes *nodes,
                    const struct placement_options *options);
void placement_done(struct placement *placement);
#define _cleanup_placement_ _cleanup_(placement_done)

/* A request for nothing: kind container, no group. */
void placement_request_init(struct placement_request *request, const char *name);
/* Needs, refuses or tolerates by name. EXHAUSTED when there are too many names. */
int placement_require(struct nodes *nodes, struct placement_request *request, const char *trait,
                      struct error *error);
int placement_refuse(struct nodes *nodes, struct placement_request *request, const char *trait,
                     struct error *error);
int placement_tolerate(struct nodes *nodes, struct placement_request *request, const char *taint,
                       struct error *error);
int placement_want_model(struct nodes *nodes, struct placement_request *request, const char *model,
                         struct error *error);
int placement_join(struct nodes *nodes, struct placement_request *request, const char *group,
                   struct error *error);
int placement_constrain(struct nodes *nodes, struct placement_request *request, enum constraint_type type,
                        const char *group, enum node_level level, uint32_t skew, struct error *error);

/* Could it ever run, were all nodes empty and open? IMPOSSIBLE names the resource and the most that there is,
 * BAD_REQUEST a contradiction, NOT_FOUND the feature, model or toleration that no node answers. */
int placement_check(const struct placement *placement, const struct placement_request *request,
                    struct error *error);

/* Decides and changes nothing but the number of decisions. `now` is only used by scores that know lifetimes.
 * With `full`, the decision has its candidates; without, only the winner. 0 also when refused (ret->node);
 * -ENOMEM. */
int placement_decide(struct placement *placement, const struct placement_request *request, uint64_t now,
                     bool full, struct placement_decision *ret);
/* Decides and takes. *ret_slot is NODE_NONE when refused. */
int placement_place(struct placement *placement, const struct placement_request *request, uint64_t now,
                    bool full, struct placement_decision *ret, uint32_t *ret_slot);
/* Takes that node whatever its score. -ENOSPC. */
int placement_take(struct placement *placement, const struct placement_request *request, uint32_t node,
                   uint32_t *ret_slot);

/* Places all, the largest demand first: by the greatest share that each asks of the largest node; what is
 * equal, in order of the list. Whoever is refused because those it must be near are not yet placed is tried
 * again. With `whole` all are placed or none. A decision and a slot (NODE_NONE: refused) for each request;
 * *ret_placed may be NULL. -ENOMEM.
 */
int placement_batch(struct placement *placement, const struct placement_request *requests, size_t count,
                    uint64_t now, bool whole, struct placement_decision *ret, uint32_t *ret_slots,
                    size_t *ret_placed);

/* Names what keeps some of these from ever being placed together, each by itself being possible: groups that must be near each
 * other in a circle, so that none can be first, or a group that nobody is in. BAD_REQUEST with a sentence. */
int placement_check_batch(const struct placement *placement, const struct placement_request *requests, size_t count,
                          struct error *error);

/* What the holder of a slot asked for. Negative errno ends the trial. */
typedef int placement_request_of(void *userdata, uint32_t slot, struct placement_request *ret);

/* Were this node, its rack or its zone to fail: would all that it holds find a place elsewhere, the largest
 * demand first? Everything is as before afterwards, slots included. */
int placement_survives(struct placement *placement, enum node_level level, uint32_t node,
                       placement_request_of *request_of, void *userdata, bool *ret);
/* N+1: the first node whose failure (or that of its rack or zone) would leave something without a place, or
 * NODE_NONE. Costs about one decision for each instance. */
int placement_reserve(struct placement *placement, enum node_level level, placement_request_of *request_of,
                      void *userdata, uint32_t *ret_node);
/* As placement_place, on the best candidate with which any one node (rack, zone) may still fail; refused when
 * none of the eight is such. */
int placement_place_reserved(struct placement *placement, const struct placement_request *request,
                             uint64_t now, enum node_level level, placement_request_of *request_of,
                             void *userdata, struct placement_decision *ret, uint32_t *ret_slot);
