// SPDX-License-Identifier: GPL-2.0-or-later
#include "manager/operation.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/map.h"

#define OPERATIONS_KEPT 1000
#define OPERATIONS_KEPT_US (3600 * CLOCK_SECOND)

/* Operations in order of their start, a ring that drops the oldest finished ones. */
struct operations {
    struct map *by_id;
    struct operation **list; /* oldest first */
    size_t count, allocated;
};

struct body {
    struct operation *operation;
    int (*function)(struct operation *operation, void *userdata, struct error *error);
    void *userdata;
    void (*free_userdata)(void *userdata);
};

int operations_new(struct operations **ret) {
    struct operations *operations = calloc(1, sizeof(*operations));
    int r;

    if (!operations)
        return -ENOMEM;
    r = map_new(&operations->by_id);
    if (r < 0) {
        free(operations);
        return r;
    }
    *ret = operations;
    return 0;
}

void operations_free(struct operations *operations) {
    if (!operations)
        return;
    for (size_t i = 0; i < operations->count; i++)
        operation_unref(operations->list[i]);
    free(operations->list);
    map_free(operations->by_id);
    free(operations);
}

struct operation *operations_find(struct operations *operations, const char *id) {
    return map_get(operations->by_id, id);
}

struct operation *operations_next(struct operations *operations, uint64_t *position) {
    if (*position >= operations->count)
        return NULL;
    return operations->list[operations->count - 1 - (*position)++];
}

struct operation *operation_ref(struct operation *operation) {
    operation->references++;
    return operation;
}

void operation_unref(struct operation *operation) {
    if (!operation || --operation->references > 0)
        return;
    fiber_unref(operation->fiber);
    free(operation->type);
    free(operation->object);
    free(operation->actor);
    free(operation->step);
    free(operation->result);
    error_clear(&operation->error);
    free(operation);
}

static bool operation_is_stale(const struct operation *operation, size_t count) {
    if (operation->state == OPERATION_RUNNING)
        return false;
    return count > OPERATIONS_KEPT || operation->ended + OPERATIONS_KEPT_US < clock_now();
}

static void operations_trim(struct operations *operations) {
    size_t kept = 0, count = operations->count;

    for (size_t i = 0; i < operations->count; i++) {
        struct operation *operation = operations->list[i];
        if (operation_is_stale(operation, count)) {
            (void) map_remove(operations->by_id, operation->id);
            operation_unref(operation);
            count--;
        } else {
            operations->list[kept++] = operation;
        }
    }
    operations->count = kept;
}

static int operations_add(struct operations *operations, struct operation *operation) {
    int r;

    if (operations->count >= OPERATIONS_KEPT + 64)
        operations_trim(operations);
    if (operations->count == operations->allocated) {
        size_t allocated = operations->allocated ? operations->allocated * 2 : 64;
        struct operation **list = realloc(operations->list, allocated * sizeof(*list));
        if (!list)
            return -ENOMEM;
        operations->list = list;
        operations->allocated = allocated;
    }
    r = map_put(operations->by_id, operation->id, operation);
    if (r < 0)
        return r;
    operations->list[operations->count++] = operation_ref(operation);
    return 0;
}

static void operation_changed(struct operation *operation) {
    operation->revision++;
    fiber_queue_wake_all(&operation->waiters);
}

static void operation_finish(struct operation *operation, int r, struct error *error) {
    if (r >= 0)
        operation->state = OPERATION_DONE;
    else if (r == -ECANCELED)
        operation->state = OPERATION_CANCELED;
    else
        operation->state = OPERATION_FAILED;
    if (r < 0 && !error_is_set(error))
        (void) error_errno(error, r, "%s", operation->type);
    if (r < 0)
        error_move(&operation->error, error);
    free(operation->step);
    operation->step = NULL;
    operation->finished = clock_wall();
    operation->ended = clock_now();
    operation_changed(operation);
}

static int operation_main(void *userdata) {
    struct body *body = userdata;
    struct operation *operation = body->operation;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = body->function(operation, body->userdata, &error);

    operation_finish(operation, r, &error);
    if (body->free_userdata)
        body->free_userdata(body->userdata);
    free(body);
    operation_unref(operation);
    return 0;
}

static int operation_new(struct operations *operations, const char *type, const char *object, const char *actor,
                         struct operation **ret) {
    _cleanup_operation_ struct operation *operation = calloc(1, sizeof(*operation));

    if (!operation)
        return -ENOMEM;
    operation->references = 1;
    uuid_new(operation->id);
    operation->type = strdup(type);
    operation->object = strdup(object);
    operation->actor = strdup(actor);
    operation->created = clock_wall();
    operation->operations = operations;
    if (!operation->type || !operation->object || !operation->actor)
        return -ENOMEM;
    *ret = STEAL_PTR(operation);
    return 0;
}

int operation_start(struct operations *operations, const char *type, const char *object, const char *actor,
                    int (*function)(struct operation *operation, void *userdata, struct error *error), void *userdata,
                    void (*free_userdata)(void *userdata), struct operation **ret) {
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_free_ struct body *body = calloc(1, sizeof(*body));
    int r = body ? operation_new(operations, type, object, actor, &operation) : -ENOMEM;

    if (r >= 0)
        r = operations_add(operations, operation);
    if (r >= 0) {
        *body = (struct body){ operation_ref(operation), function, userdata, free_userdata };
        r = fiber_start(&operation->fiber, type, operation_main, body);
        if (r < 0)
            operation_unref(operation);
    }
    if (r < 0) {
        _cleanup_error_ struct error error = ERROR_INIT;
        if (operation)
            operation_finish(operation, r, &error);
        if (free_userdata)
            free_userdata(userdata);
        return r;
    }
    (void) STEAL_PTR(body);
    if (ret)
        *ret = STEAL_PTR(operation);
    return 0;
}

int operation_wait(struct operation *operation, uint64_t revision, uint64_t deadline) {
    while (operation->state == OPERATION_RUNNING &&
           (revision == UINT64_MAX || operation->revision <= revision)) {
        int r = fiber_queue_wait(&operation->waiters, deadline);
        if (r < 0)
            return r;
    }
    return 0;
}

void operation_cancel(struct operation *operation) {
    if (operation->state == OPERATION_RUNNING)
        fiber_cancel(operation->fiber);
}

void operation_wait_begin(struct operation *operation, const char *step) {
    operation_progress(operation, step, 0, 0);
    if (operation)
        operation->idle = true;
}

void operation_wait_end(struct operation *operation) {
    if (operation)
        operation->idle = false;
}

bool operations_busy(const struct operations *operations) {
    for (size_t i = 0; i < operations->count; i++)
        if (operations->list[i]->state == OPERATION_RUNNING && !operations->list[i]->idle)
            return true;
    return false;
}

void operation_progress(struct operation *operation, const char *step, uint64_t done, uint64_t total) {
    if (!operation)
        return;
    if (step && (!operation->step || strcmp(step, operation->step) != 0)) {
        free(operation->step);
        operation->step = strdup(step);
    }
    operation->done = done;
    operation->total = total;
    operation_changed(operation);
}

const char *operation_state_name(enum operation_state state) {
    static const char *const names[] = { "running", "done", "failed", "canceled" };

    return names[state];
}

void operation_emit(const struct operation *operation, const struct actor *actor, struct emitter *emitter) {
    bool hidden = operation->restricted && actor && authorise(actor, "default", PERMISSION_ADMIN, NULL, NULL) < 0;
    char time[CLOCK_TEXT_SIZE];

    emit_object(emitter);
    emit_key_text(emitter, "id", operation->id);
    emit_key_text(emitter, "type", operation->type);
    emit_key_text(emitter, "object", operation->object);
    emit_key_text(emitter, "actor", operation->actor);
    emit_key_text(emitter, "state", operation_state_name(operation->state));
    emit_key_text(emitter, "step", operation->step);
    emit_key(emitter, "progress");
    emit_object(emitter);
    emit_key_unsigned(emitter, "done", operation->done);
    emit_key_unsigned(emitter, "total", operation->total);
    emit_object_end(emitter);
    emit_key_unsigned(emitter, "revision", operation->revision);
    emit_key_text(emitter, "created", clock_format(operation->created, time));
    emit_key_text(emitter, "finished", operation->finished ? clock_format(operation->finished, time) : NULL);
    emit_key(emitter, "error");
    if (error_is_set(&operation->error) && !hidden)
        emit_error(emitter, &operation->error);
    else
        emit_null(emitter);
    emit_key(emitter, "result");
    if (operation->result && !hidden)
        emit_raw(emitter, operation->result);
    else
        emit_null(emitter);
    emit_object_end(emitter);
}
