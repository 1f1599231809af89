// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/order.h"
#include "engine/queue.h"
#include "engine/usage.h"

/* Shared by queue.c (what there is) and backfill.c (who goes ahead). */

struct running_slot {
    int64_t end; /* expected */
    uint32_t handle;
};

struct queue {
    struct queue_options options;
    struct queue_entry *entries; /* by handle */
    struct order_least *wants;   /* by handle: demand and expected run time */
    size_t entry_count, entry_room;
    uint32_t *vacant;
    size_t vacant_count, vacant_room;
    struct order waiting;
    int64_t scored_at;
    int64_t drain; /* the longest so far */
    struct running_slot *running; /* sorted by end, then handle */
    size_t running_count, running_room;
    struct demand free;
    struct usage usage;
    struct profile plan; /* conservative */
    bool plan_lost, plan_loose; /* it must be made anew; something ended early */
    double virtual_time; /* rr: the largest tag served */
    uint64_t sequence;
    void *scratch;
    size_t scratch_size;
    uint64_t held; /* memory that waiting ones keep */
    size_t barred_count;
    struct demand coming; /* room of those that are asked to give way */
    uint32_t asked_for;   /* in the last pass; UINT32_MAX: for nobody */
};

/* Joins those that wait. */
int queue_join(struct queue *queue, uint32_t handle);
/* A new entry that is nowhere yet. -ENOMEM. */
int queue_admit(struct queue *queue, const struct queue_request *request, int64_t now, uint32_t *ret_handle);
int queue_running_add(struct queue *queue, uint32_t handle);
void queue_running_drop(struct queue *queue, uint32_t handle);
/* Its owner is charged for the time since it started. */
int queue_charge(struct queue *queue, uint32_t handle, int64_t now);
/* It is not asked to give way any more. */
void queue_unask(struct queue *queue, uint32_t handle);
/* What it would give back. */
struct demand queue_gift(const struct queue *queue, uint32_t handle, unsigned how);

/* Within what an entry keeps of it. */
int32_t queue_priority(const struct queue_request *request);
/* Large scratch memory goes back. */
void queue_scratch_shrink(struct queue *queue);
/* Scratch memory of a pass, valid until the next call. */
void *queue_scratch(struct queue *queue, size_t size);
/* Scores anew, where time changes the order. */
int queue_rescore(struct queue *queue, int64_t now);
/* Moves a waiting entry to the running ones. */
int queue_start(struct queue *queue, uint32_t handle, int64_t now);
/* Moves a running entry back to those that wait. */
int queue_stop(struct queue *queue, uint32_t handle, int64_t now);
/* Expected run time that is left of a waiting one. */
int64_t queue_left(const struct queue *queue, uint32_t handle);
/* What the policy is told of it. */
void queue_input(const struct queue *queue, uint32_t handle, int64_t now, struct policy_input *ret);
int64_t queue_key(const struct queue *queue, uint32_t handle, int64_t now);
/* Computes the part of its score that stays; before queue_key, whenever what that depends on has changed. */
void queue_weigh(struct queue *queue, uint32_t handle, int64_t now);

static inline struct demand demand_sum(struct demand a, struct demand b) {
    return (struct demand){ a.cpus + b.cpus, a.memory + b.memory };
}

static inline struct demand demand_difference(struct demand a, struct demand b) {
    return (struct demand){ a.cpus - b.cpus, a.memory - b.memory };
}

/* Moment + duration, where either may be for ever. */
static inline int64_t time_after(int64_t time, int64_t duration) {
    return duration >= TIME_FOREVER || time >= TIME_FOREVER - duration ? TIME_FOREVER : time + duration;
}

/* Conservative reservations: in backfill.c. */
int backfill_plan_one(struct queue *queue, uint32_t handle, int64_t now);
void backfill_unplan(struct queue *queue, uint32_t handle);
