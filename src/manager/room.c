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
#define EXPLAIN_SLICE CLOCK_MILLISECOND /* what the node does not take is explained by a look at all others: that takes longer */
#define TICK CLOCK_SECOND
#define EXPLAIN_SHARE 20 /* one part in so many of the time goes into explanations */

static const char *label_of(const struct instance *instance, const char *key) {
    size_t length = strlen(key);

    for (char *const *label = instance->spec.labels; label && *label; label++)
        if (strncmp(*label, key, length) == 0 && (*label)[length] == '=')
            return *label + length + 1;
    return NULL;
}

/* Its label "class", else what it runs: those of one class tell of each other how long they take. */
static uint64_t class_of(const struct instance *instance) {
    const char *label = label_of(instance, "class");
    uint64_t class = engine_hash(label ? label : instance->assigned.image_digest);

    if (label)
        return class;
    for (char *const *word = instance->spec.entrypoint; word && *word; word++)
        class = class * 31 + engine_hash(*word);
    for (char *const *word = instance->spec.command; word && *word; word++)
        class = class * 31 + engine_hash(*word);
    return class;
}

void room_request(struct instance *instance, struct engine_request *ret) {
    const struct instance_spec *spec = &instance->spec;
    const char *owner = label_of(instance, "owner");
    uint64_t now = clock_wall();

    *ret = (struct engine_request){
        .id = instance->assigned.uuid,
        .name = instance->name,
        .kind = instance->assigned.kind,
        .cpus = spec->cpus,
        .memory = spec->memory,
        .priority = spec->priority,
        .owner = engine_hash(owner ? owner : instance->assigned.project),
        .class = class_of(instance),
        .waited = instance->control.queued && now > instance->control.queued ? now - instance->control.queued : 0,
        .expected = spec->duration * CLOCK_MILLISECOND,
        .limit = spec->timeout * CLOCK_MILLISECOND,
        .done = (uint64_t) instance->control.worked,
        .yields = preempt_ways(instance),
        .service = spec->restart == RESTART_ALWAYS || spec->restart == RESTART_UNLESS_STOPPED,
        .wishes = placement_wishes(spec),
        .guarantee = { spec->allocation == INSTANCE_FIXED ? spec->cpus : spec->cpu_reservation, reservation_floor(instance),
                       spec->allocation == INSTANCE_FIXED },
        .userdata = instance,
    };
}

/* --- why one waits ------------------------------------------------------------------------------------------------- */

static void explain_wait(struct instance *instance, const struct engine_explanation *why) {
    _cleanup_error_ struct error reason = ERROR_INIT;
    _cleanup_free_ char *sentence = queue_sentence(instance->manager, why, &reason);

    if (instance->status.queue_position == (int64_t) why->position && sentence && instance->status.message &&
        text_equal(sentence, instance->status.message))
        return;
    instance->status.queue_position = (int64_t) why->position;
    instance_set_reason(instance, &reason);
}

/* In slices, between which others are served: if the queue changes meanwhile, all of it is gone through again soon. *ret_time is
 * what it took. */
static int explain_all(struct manager *manager, uint64_t *ret_time) {
    uint64_t begun = clock_now();
    struct engine_cursor cursor = { 0 };
    struct engine_explanation why;
    void *waiting;

    *ret_time = 0;
    while (engine_walk(manager->engine, &cursor, &waiting, &why)) {
        if (((struct instance *) waiting)->status.state == STATE_QUEUED || ((struct instance *) waiting)->yielded)
            explain_wait(waiting, &why);
        if (clock_now() - begun < EXPLAIN_SLICE)
            continue;
        *ret_time += clock_now() - begun;
        int r = fiber_yield();
        if (r < 0)
            return r;
        begun = clock_now();
    }
    *ret_time += clock_now() - begun;
    return 0;
}

static int explainer_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r >= 0) {
        uint64_t taken, pause;
        if (!manager->explain_stale) {
            r = fiber_queue_wait(&manager->explain_queue, DEADLINE_NONE);
            continue;
        }
        manager->explain_stale = false;
        r = explain_all(manager, &taken);
        pause = taken * EXPLAIN_SHARE;
        if (r >= 0)
            r = fiber_sleep(pause > EXPLAIN_PAUSE ? pause : EXPLAIN_PAUSE);
    }
    return 0;
}

void admission_run(struct manager *manager) {
    struct engine_decision decision;

    manager->admission_failed = engine_run(manager->engine, clock_now()) < 0;
    if (manager->admission_failed)
        log_warning("nobody could be admitted: out of memory");
    while (engine_next(manager->engine, &decision)) {
        struct instance *instance = decision.userdata;
        if (decision.verdict != ENGINE_START) {
            preempt_start(instance, decision.verdict);
            continue;
        }
        instance->admitted = true;
        fiber_queue_wake_all(&instance->admission);
    }
    manager->explain_stale = true;
    fiber_queue_wake_all(&manager->explain_queue);
    fiber_queue_wake_all(&manager->ticker_queue);
    fiber_queue_wake_all(&manager->scribe_queue);
}

/* There was no memory to note the room of some that run: once more. */
static void occupy_again(struct manager *manager) {
    size_t position = 0;
    void *value;

    manager->occupation_failed = false;
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        if (instance->admitted || instance->yielded || !state_is_active(instance->status.state))
            continue;
        if (instance->lock.owner)
            manager->occupation_failed = true; /* under work: at the next tick */
        else
            room_occupy(instance, clock_now() - instance->ran_since);
    }
}

/* While somebody waits, time alone may change whose turn it is. */
static int ticker_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r >= 0) {
        if (!manager->admission_failed && !manager->occupation_failed && !engine_is_restless(manager->engine)) {
            r = fiber_queue_wait(&manager->ticker_queue, DEADLINE_NONE);
            continue;
        }
        r = fiber_sleep(TICK);
        if (r < 0)
            break;
        if (manager->occupation_failed)
            occupy_again(manager);
        admission_run(manager);
    }
    return 0;
}

int explainer_start(struct manager *manager) {
    int r = fiber_start(&manager->explainer, "explainer", explainer_main, manager);

    return r < 0 ? r : fiber_start(&manager->ticker, "ticker", ticker_main, manager);
}

/* --- taking and giving back ------------------------------------------------------------------------------------------- */

static void room_leave(struct instance *instance, bool ended) {
    instance->admitted = false;
    instance->status.queue_position = 0;
    if (instance->yielded)
        preempt_forget(instance);
    engine_release(instance->manager->engine, instance->assigned.uuid, ended, clock_now());
    admission_run(instance->manager);
}

void room_give_back(struct instance *instance) {
    room_leave(instance, false);
}

void room_end(struct instance *instance) {
    room_leave(instance, instance->status.exit_code == 0);
}

void room_occupy(struct instance *instance, uint64_t ran) {
    struct engine_request request;

    room_request(instance, &request);
    request.done += ran;
    if (engine_occupy(instance->manager->engine, &request, clock_now()) >= 0) {
        instance->admitted = true;
        return;
    }
    instance->manager->occupation_failed = true;
    fiber_queue_wake_all(&instance->manager->ticker_queue);
}

int room_change(struct instance *instance, struct error *error) {
    struct engine_request request;
    int r;

    room_request(instance, &request);
    r = engine_change(instance->manager->engine, &request, clock_now(), error);
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

    room_request(instance, &request);
    if (instance->control.queued || instance->stands) /* for a label that is gone it goes on waiting */
        request.wishes = (struct engine_wishes){ 0 };
    r = engine_check(manager->engine, &request, error);
    if (r >= 0) /* the node may have become smaller: it would wait for ever */
        r = reservation_check(manager, instance, error);
    if (r < 0)
        return r;
    if (!instance->control.queued)
        instance->control.queued = clock_wall();
    room_request(instance, &request);
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
    placement_note(instance);
    instance->control.queued = 0;
    instance->status.queue_position = 0;
    instance_set_reason(instance, NULL);
    return instance_advance(instance, EVENT_ADMIT, error);
}
