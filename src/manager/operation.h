// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/fiber.h"
#include "base/json.h"
#include "base/uuid.h"
#include "manager/actor.h"

/* A change under way: progress, cancel, wait. Kept in memory while it runs and for an hour (at most 1,000) after. Its
 * start is in the audit record; what a crash interrupted is finished or undone by reconcile, which says so there. */

enum operation_state {
    OPERATION_RUNNING,
    OPERATION_DONE,
    OPERATION_FAILED,
    OPERATION_CANCELED,
};

struct operations;

struct operation {
    char id[UUID_TEXT_SIZE];
    char *type;    /* "instance.start" */
    char *object;  /* "instances/web-1" */
    char *actor;
    enum operation_state state;
    char *step;    /* "unpacking layer 2 of 5" or NULL */
    uint64_t done, total; /* progress; total 0: unknown */
    struct error error;
    char *result;  /* JSON value or NULL */
    uint64_t created, finished; /* wall time */
    uint64_t ended; /* clock_now() */
    uint64_t revision;          /* counts changes, for waiters */
    bool restricted;            /* what came of it is for those alone who may administer the node */
    bool idle;                  /* waits for what may never come: a daemon that stops does not wait for it */
    struct fiber *fiber;        /* NULL when it is over */
    struct fiber_queue waiters;
    unsigned references;
    struct operations *operations;
};

int operations_new(struct operations **ret);
void operations_free(struct operations *operations);
struct operation *operations_find(struct operations *operations, const char *id); /* borrowed */
struct operation *operations_next(struct operations *operations, uint64_t *position); /* newest first; NULL at the end */

struct operation *operation_ref(struct operation *operation);
void operation_unref(struct operation *operation);
/* Fiber: until it is over (0) or changed beyond `revision` if that is not UINT64_MAX. */
int operation_wait(struct operation *operation, uint64_t revision, uint64_t deadline);
/* Asks it to stop; it ends CANCELED after undoing, unless it was past the point. */
void operation_cancel(struct operation *operation);
void operation_progress(struct operation *operation, const char *step, uint64_t done, uint64_t total);
/* Around a wait for something that may never come. NULL: nothing. */
void operation_wait_begin(struct operation *operation, const char *step);
void operation_wait_end(struct operation *operation);
/* Is any under way that will end by itself? */
bool operations_busy(const struct operations *operations);
/* For this actor; NULL: for who began it. */
void operation_emit(const struct operation *operation, const struct actor *actor, struct emitter *emitter);
const char *operation_state_name(enum operation_state state);

/* For the manager. body runs on a fiber of its own; its return value and error decide the state. */
int operation_start(struct operations *operations, const char *type, const char *object, const char *actor,
                    int (*body)(struct operation *operation, void *userdata, struct error *error), void *userdata,
                    void (*free_userdata)(void *userdata), struct operation **ret);

static inline void operation_unrefp(struct operation **operation) {
    operation_unref(*operation);
}
#define _cleanup_operation_ __attribute__((cleanup(operation_unrefp)))
