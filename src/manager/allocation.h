// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/buffer.h"
#include "base/cpulist.h"
#include "base/error.h"
#include "base/fiber.h"
#include "base/json.h"
#include "engine/allocator.h"
#include "engine/weight.h"
#include "host/cgroup.h"

/* The engine's allocator at work: what each instance has of processors, memory and I/O while it runs. */

struct manager;
struct instance;

/* The part of the manager. */
struct allocator_state {
    struct fiber *fiber;
    struct fiber_queue waiting;
    bool stale;
    struct cpu_list all;  /* the processors that instances may use */
    char *shared;         /* of these, those that belong to no fixed instance; NULL while there is none */
    unsigned shift;       /* all weights are halved so often, to fit the kernel's range */
    uint64_t floor;       /* bytes of memory guaranteed to groups, as told to their parent */
    uint64_t writes;      /* to control files */
    size_t members;       /* who ran in the last pass */
    uint64_t passes;      /* over all who run */
    uint64_t pass_time;   /* microseconds that the last one took to decide */
    struct fiber *keeper; /* of the host's memory: memory.c */
    bool memory_short;
    uint64_t memory_available; /* at its last look */
    uint64_t memory_taken;     /* from all, of what they may have while memory is not short */
};

/* The part of an instance. */
struct instance_share {
    struct weight_rule rule; /* what the weight below was made from */
    int64_t priority;
    uint64_t dynamic;   /* R_i in force; 0: none yet */
    uint64_t scheduler; /* the weight that the last pass found */
    uint64_t weight;    /* the one in its control group; 0: not known */
    char *cpus;         /* the cpuset in its control group, NULL for all that there are */
    char *pinned;       /* fixed: the processors that are its own; NULL: none yet */
    struct cgroup_usage counted; /* at the last look, for the counters in its status */
    bool counting;               /* the look before was ours: what came since is to be added */
    uint64_t control_counted;
    bool memory_whole;       /* known to have all that it may have */
    uint64_t memory_granted; /* bytes, while memory is short; 0: all that it may have */
    uint64_t memory_held, memory_used, memory_need; /* what that was made from */
};
void instance_share_done(struct instance_share *share);

/* --- reservations ------------------------------------------------------------------------------------------------ */
/* Before a start, and before a change of one that runs: sets aside what its mode guarantees. Repeatable. NO_ROOM where
 * others have it, HOST_LACKS without the controller. */
int reservation_take(struct instance *instance, struct error *error);
void reservation_give_back(struct instance *instance);
/* Could an empty node guarantee this? IMPOSSIBLE. */
int reservation_check(struct manager *manager, const struct instance *instance, struct error *error);
/* What belongs to fixed instances, `fake` ones or real ones. */
struct cpu_list reservation_fixed(struct manager *manager, bool fake);
uint64_t reservation_floor(const struct instance *instance); /* bytes of memory */

/* --- shares ------------------------------------------------------------------------------------------------------ */
/* Which processors there are. */
void allocation_init(struct allocator_state *state);
int allocation_start(struct manager *manager);
void allocation_done(struct allocator_state *state);
/* Somebody began or ceased to run, or changed: weights and processor sets are looked at anew, soon. */
void allocation_changed(struct manager *manager);
/* Takes the weight that its age and its rule give it now into force, if it is far enough from the one that is. */
void allocation_settle(struct instance *instance);
/* Bytes that the host could give to somebody now; 0 if it does not say. */
uint64_t memory_available(void);
/* Bytes of the host's swap that are free; 0: none, or it cannot be told. */
uint64_t swap_free(void);
/* Fiber for the manager's life: asks for memory back while the host is short of it. */
int memory_start(struct manager *manager);
/* It begins with a control group that nothing was counted in yet. */
void allocation_begin(struct instance *instance);
/* It has ended, its control group is still there: counts a last time; nothing is in force or set aside any more. */
void allocation_forget(struct instance *instance);
uint64_t allocation_age(const struct instance *instance);    /* T: microseconds that it has run */
uint64_t allocation_wished(const struct instance *instance); /* R_i as the formula has it now */
/* What the mode makes of the limits of one that starts or changes. Borrows from the instance. */
void allocation_limits(struct instance *instance, struct cgroup_limits *limits);
/* These are in force now. */
void allocation_applied(struct instance *instance, const struct cgroup_limits *limits);
/* Member "weight": the terms of R_i. */
void allocation_emit_weight(struct instance *instance, struct emitter *emitter);
/* Member "allocation": R x C x S, the score by which it shares. Member "control" of a machine: the budget of its control channel. */
void allocation_emit_score(const struct instance *instance, struct emitter *emitter);
/* Counters and weight of each real instance, as OpenMetrics. */
void allocation_metrics(struct manager *manager, struct buffer *out);
/* Terms of the formulas for one instance now: R, C and S with floor and limit. */
struct allocation allocation_terms(const struct instance *instance);
/* Those that share processors with it, itself included (whether it runs or not) at *ret_self. Allocated. */
int allocation_pool(struct instance *instance, struct allocation **ret, size_t *ret_count, size_t *ret_self,
                    uint64_t *ret_capacity);
