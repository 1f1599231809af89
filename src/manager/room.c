// SPDX-License-Identifier: GPL-2.0-or-later
/* Room: asking the engine for it, waiting, giving it back. Who waits is told his place and what is missing; that is
 * worked out for the whole queue at most every so often, so that a long queue costs little. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define EXPLAIN_PAUSE (50 * CLOCK_MILLISECOND)
#define EXPLAIN_SHARE 20 /* one part in so many of the time goes into explanations */

static void request_of(struct instance *instance, struct engine_request *ret) {
    *ret = (struct engine_request){
        .id = instance->assigned.uuid,
        .kind = instance->assigned.kind,
        .cpus = instance->spec.cpus,
        .memory = instance->spec.memory,
        .priority = instance->spec.priority,
        .userdata = instance,
    };
}

/* --- why one waits ------------------------------------------------------------------------------------------------- */

static void explain_wait(struct instance *instance, const struct engine_explanation *why) {
    _cleanup_error_ struct error reason = ERROR_INIT;
    _cleanup_free_ char *wanted = NULL, *available = NULL, *sentence = NULL;

    if (!why->resource) {
        (void) error_set(&reason, ERROR_BUSY, "the queue", "others wait before it");
    } else {
        bool cpus = text_equal(why->resource, "cpus");
        wanted = cpus ? text_format_cpus(why->wanted) : text_format_size(why->wanted);
        available = cpus ? text_format_cpus(why->free) : text_format_size(why->free);
        (void) error_set(&reason, ERROR_NO_ROOM, why->resource, wanted, available);
    }
    sentence = error_sentence(&reason, LANGUAGE_ENGLISH);
    if (instance->status.queue_position == (int64_t) why->position && sentence && instance->status.message &&
        text_equal(sentence, instance->status.message))
        return;
    instance->status.queue_position = (int64_t) why->position;
    instance_set_reason(instance, &reason);
}

static void explain_all(struct manager *manager) {
    struct engine_cursor cursor = { 0 };
    struct engine_explanation why;
    void *waiting;

    while (engine_walk(manager->engine, &cursor, &waiting, &why))
        if (((struct instance *) waiting)->status.state == STATE_QUEUED)
            explain_wait(waiting, &why);
}

static int explainer_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r >= 0) {
        uint64_t begun, pause;
        if (!manager->explain_stale) {
            r = fiber_queue_wait(&manager->explain_queue, DEADLINE_NONE);
            continue;
        }
        manager->explain_stale = false;
        begun = clock_now();
        explain_all(manager);
        pause = (clock_now() - begun) * EXPLAIN_SHARE;
        r = fiber_sleep(pause > EXPLAIN_PAUSE ? pause : EXPLAIN_PAUSE);
    }
    return 0;
}

int explainer_start(struct manager *manager) {
    return fiber_start(&manager->explainer, "explainer", explainer_main, manager);
}

void admission_run(struct manager *manager) {
    struct instance *admitted;

    while ((admitted = engine_next(manager->engine))) {
        admitted->admitted = true;
        fiber_queue_wake_all(&admitted->admission);
    }
    manager->explain_stale = true;
    fiber_queue_wake_all(&manager->explain_queue);
}

/* --- taking and giving back ------------------------------------------------------------------------------------------- */

void room_give_back(struct instance *instance) {
    instance->admitted = false;
    instance->status.queue_position = 0;
    engine_release(instance->manager->engine, instance->assigned.uuid);
    admission_run(instance->manager);
}

void room_occupy(struct instance *instance) {
    struct engine_request request;

    request_of(instance, &request);
    if (engine_occupy(instance->manager->engine, &request) >= 0)
        instance->admitted = true;
}

int room_change(struct instance *instance, struct error *error) {
    struct engine_request request;
    int r;

    request_of(instance, &request);
    r = engine_change(instance->manager->engine, &request, error);
    if (r >= 0)
        admission_run(instance->manager);
    return r;
}

/* Out of the queue without having run: what was suspended still is, its memory is on disk. */
static void queue_leave(struct instance *instance) {
    room_give_back(instance);
    instance->control.queued = 0;
    (void) instance_advance(instance, EVENT_STOP, NULL);
    if (run_saved(instance, false))
        instance_set_state(instance, STATE_SUSPENDED);
    instance_set_reason(instance, NULL);
}

static int canceled(struct error *error) {
    error_clear(error);
    return error_set(error, ERROR_CANCELED, "the start");
}

/* Waits with the lock given up. Whoever took the wish back meanwhile (a stop) has given the room back too; a later
 * start may be waiting in our place, so only the holder of the newest ticket touches anything. */
static int room_wait(struct instance *instance, struct operation *operation, struct error *error) {
    uint64_t ticket = ++instance->ticket;
    int r = 0;

    while (r >= 0 && !instance->admitted && instance->status.state == STATE_QUEUED && instance->ticket == ticket) {
        fiber_mutex_unlock(&instance->lock);
        operation_wait_begin(operation, "waiting for room");
        r = fiber_queue_wait(&instance->admission, DEADLINE_NONE);
        operation_wait_end(operation);
        fiber_shield();
        (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
        fiber_unshield();
    }
    if (instance->removed || instance->status.state != STATE_QUEUED || instance->ticket != ticket)
        return canceled(error);
    if (r >= 0 && instance->control.power == POWER_RUNNING)
        return 0;
    queue_leave(instance);
    return r < 0 && r != -ECANCELED ? error_errno(error, r, "waiting for room") : canceled(error);
}

int room_take(struct instance *instance, struct operation *operation, struct error *error) {
    struct manager *manager = instance->manager;
    struct engine_explanation why;
    struct engine_request request;
    int r;

    request_of(instance, &request);
    r = engine_check(manager->engine, &request, error);
    if (r < 0)
        return r;
    if (!instance->control.queued)
        instance->control.queued = clock_wall();
    r = instance_advance(instance, EVENT_START, error);
    if (r < 0)
        return r;
    r = engine_submit(manager->engine, &request, clock_now());
    if (r < 0) {
        queue_leave(instance);
        return error_errno(error, r, "queueing");
    }
    admission_run(manager);
    if (!instance->admitted) {
        engine_explain(manager->engine, instance->assigned.uuid, &why);
        explain_wait(instance, &why);
    }
    r = room_wait(instance, operation, error);
    if (r < 0)
        return r;
    instance->control.queued = 0;
    instance->status.queue_position = 0;
    instance_set_reason(instance, NULL);
    return instance_advance(instance, EVENT_ADMIT, error);
}
