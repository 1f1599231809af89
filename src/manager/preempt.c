// SPDX-License-Identifier: GPL-2.0-or-later
/* Giving way without loss. The engine says who and how; a fiber for each brings it about. What is paused keeps its memory and
 * its place among the running ones of the host, and goes on by itself when the engine admits it again. What is suspended
 * goes to disk, its room is given back, and it is started like anything that was suspended: through the queue.
 *
 * The wish stays "running" all the time. So after a crash at any point the next polderd resumes or restores it, and a stop,
 * a delete or a resume by the user is what it always is. */
#include <errno.h>
#include <stdlib.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

struct preemption {
    struct instance *instance;
    enum engine_verdict how;
};

unsigned preempt_ways(const struct instance *instance) {
    unsigned ways = 0;

    if (!instance->driver)
        return 0;
    if (instance->driver->capabilities & DRIVER_PAUSE)
        ways |= QUEUE_YIELD_PAUSE;
    if (instance->driver->capabilities & DRIVER_SUSPEND)
        ways |= QUEUE_YIELD_SUSPEND;
    return ways;
}

void preempt_measured(struct instance *instance, enum engine_cost what, uint64_t begun) {
    uint64_t now = clock_now();

    engine_measure(instance->manager->engine, what, instance->spec.memory, now - begun, now);
}

static void note(struct instance *instance, int r, const struct error *error) {
    _cleanup_free_ char *object = instance_object(instance->name);

    if (r >= 0) {
        instance->status.preemptions++;
        events_publish(instance->manager->events, "instance.preempted", object ? object : "instances", NULL);
    }
    audit_instance(instance->manager, &actor_daemon, "instance.preempt", instance->name, r, error);
}

/* It runs on, and is not asked again. */
static void refuse(struct instance *instance) {
    engine_refused(instance->manager->engine, instance->assigned.uuid, clock_now());
    admission_run(instance->manager);
}

/* --- to disk --------------------------------------------------------------------------------------------------------- */

static void give_way_to_disk(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = run_suspend(instance, &error);

    note(instance, r, &error);
    if (instance->status.state != STATE_SUSPENDED) {
        refuse(instance);
        return;
    }
    error_clear(&error);
    if (!instance->removed && instance->control.power == POWER_RUNNING)
        (void) run_start_wished(instance, NULL, NULL, POWER_RUNNING, &error);
}

/* --- paused ---------------------------------------------------------------------------------------------------------- */

void preempt_forget(struct instance *instance) {
    instance->yielded = false;
    fiber_queue_wake_all(&instance->admission);
}

/* With the lock given up, until it is admitted or somebody else decided about it. */
static void wait_paused(struct instance *instance) {
    while (instance->yielded && !instance->admitted && !instance->removed && instance->status.state == STATE_PAUSED) {
        fiber_mutex_unlock(&instance->lock);
        (void) fiber_queue_wait(&instance->admission, DEADLINE_NONE);
        (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    }
}

static void go_on(struct instance *instance, uint64_t since) {
    _cleanup_error_ struct error error = ERROR_INIT;
    int r;

    instance->yielded = false;
    instance->ran_since += clock_now() - since; /* a pause is no work */
    instance->control.since = (int64_t) instance->ran_since;
    instance->status.queue_position = 0;
    instance_set_reason(instance, NULL);
    if (instance->control.power != POWER_RUNNING)
        return;
    r = run_resume(instance, NULL, POWER_RUNNING, &error);
    if (r < 0)
        instance_set_reason(instance, &error);
    else if (run_arm_timeout(instance) < 0)
        log_warning("instance '%s': its time limit cannot be watched", instance->name);
    audit_instance(instance->manager, &actor_daemon, "instance.resume", instance->name, r, &error);
}

static void give_way_paused(struct instance *instance) {
    struct manager *manager = instance->manager;
    _cleanup_error_ struct error error = ERROR_INIT;
    uint64_t since = clock_now();
    int r = run_pause(instance, &error);

    note(instance, r, &error);
    if (r < 0) {
        refuse(instance);
        return;
    }
    run_timer_cancel(instance);
    r = FAILPOINT_ERROR("preempt-yield");
    if (r >= 0)
        r = engine_paused(manager->engine, instance->assigned.uuid, clock_now());
    if (r < 0) { /* for the engine it still runs, so that nobody would ever let it go on */
        log_warning("instance '%s' does not give way: out of memory", instance->name);
        refuse(instance);
        go_on(instance, since);
        return;
    }
    instance->yielded = true;
    instance->admitted = false;
    admission_run(manager);
    wait_paused(instance);
    if (instance->yielded && instance->admitted && !instance->removed && instance->status.state == STATE_PAUSED)
        go_on(instance, since);
}

/* --- all ------------------------------------------------------------------------------------------------------------- */

static int preempt_main(void *userdata) {
    struct preemption *preemption = userdata;
    struct instance *instance = preemption->instance;

    (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    if (instance->removed || !instance->admitted || instance->status.state != STATE_RUNNING ||
        instance->control.power != POWER_RUNNING || instance->manager->stopping)
        refuse(instance);
    else if (preemption->how == ENGINE_SUSPEND)
        give_way_to_disk(instance);
    else
        give_way_paused(instance);
    fiber_mutex_unlock(&instance->lock);
    instance_unref(instance);
    free(preemption);
    return 0;
}

void preempt_start(struct instance *instance, enum engine_verdict how) {
    struct preemption *preemption = malloc(sizeof(*preemption));

    if (preemption) {
        *preemption = (struct preemption){ instance_ref(instance), how };
        if (fiber_start(NULL, "preempt", preempt_main, preemption) >= 0)
            return;
        instance_unref(instance);
        free(preemption);
    }
    engine_refused(instance->manager->engine, instance->assigned.uuid, clock_now());
}
