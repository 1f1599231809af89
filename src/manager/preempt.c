// SPDX-License-Identifier: GPL-2.0-or-later
/* Giving way without loss. The engine says who and how; a fiber for each brings it about. What is paused keeps its memory and
 * its place among the running ones of the host, and goes on by itself when the engine admits it again. What is suspended
 * goes to disk, its room is given back, and it is started like anything that was suspended: through the queue. A container's
 * memory cannot be saved; where the host has swap it is paused, and its memory goes there: for the engine that is the same.
 *
 * The wish stays "running" all the time. So after a crash at any point the next polderd resumes or restores it, and a stop,
 * a delete or a resume by the user is what it always is. */
#include <errno.h>
#include <stdlib.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define SWAP_REST (UINT64_C(16) << 20) /* bytes that may stay, */
#define SWAP_PART 8                    /* or so large a part of what it asks for */
#define SWAP_PORTION (UINT64_C(256) << 20)

struct preemption {
    struct instance *instance;
    enum engine_verdict how;
};

/* Looked up once for many that start at once. */
static uint64_t swap_room(struct manager *manager) {
    uint64_t now = clock_now();

    if (manager->swap_seen == 0 || now - manager->swap_seen >= CLOCK_SECOND) {
        manager->swap_seen = now;
        manager->swap_room = swap_free();
    }
    return manager->swap_room;
}

/* Only containers hold their memory in a control group and nowhere else; what is guaranteed there does not leave it. */
static bool may_swap(const struct instance *instance) {
    uint64_t most = instance_memory_limit(&instance->spec);

    return instance->assigned.kind == KIND_CONTAINER && !instance->unswappable && most > 0 && reservation_floor(instance) == 0 &&
           swap_room(instance->manager) >= most;
}

unsigned preempt_ways(const struct instance *instance) {
    unsigned ways = 0;

    if (!instance->driver)
        return 0;
    if (instance->driver->capabilities & DRIVER_PAUSE)
        ways |= QUEUE_YIELD_PAUSE;
    if (instance->driver->capabilities & DRIVER_SUSPEND || may_swap(instance))
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
    instance->yielded = instance->swapped = false;
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

static void go_on(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;
    int r;

    instance->yielded = instance->swapped = false;
    instance->status.queue_position = 0;
    instance_set_reason(instance, NULL);
    if (instance->control.power != POWER_RUNNING)
        return;
    r = run_resume(instance, NULL, POWER_RUNNING, &error);
    if (r < 0)
        instance_set_reason(instance, &error);
    audit_instance(instance->manager, &actor_daemon, "instance.resume", instance->name, r, &error);
}

static void wait_and_go_on(struct instance *instance) {
    wait_paused(instance);
    if (instance->yielded && instance->admitted && !instance->removed && instance->status.state == STATE_PAUSED)
        go_on(instance);
}

bool preempt_pause_ends(struct instance *instance) {
    uint64_t now = clock_now();

    if (instance->control.yielded == 0)
        return false;
    instance->ran_since += now - (uint64_t) instance->control.yielded;
    instance->control.since = (int64_t) instance->ran_since;
    instance->control.yielded = 0;
    instance->control.swapped = false;
    manager_mark_dirty(instance->manager, instance);
    return true;
}

static int yield_room(struct instance *instance, bool swapped) {
    int r = FAILPOINT_ERROR("preempt-yield");

    if (r >= 0)
        r = engine_paused(instance->manager->engine, instance->assigned.uuid, swapped, clock_now());
    if (r < 0)
        return r;
    instance->yielded = true;
    instance->swapped = swapped;
    instance->admitted = false;
    return 0;
}

struct swap_out {
    struct cgroup *cgroup;
    uint64_t left;
};

static int swap_out_job(void *userdata) {
    struct swap_out *out = userdata;

    return cgroup_swap_out(out->cgroup, SWAP_PORTION, &out->left);
}

/* In portions, between which a newer wish is heard. What the kernel itself keeps for its processes cannot leave. */
static int swap_out(struct instance *instance, struct error *error) {
    struct swap_out out = { .cgroup = instance->view.cgroup };
    uint64_t begun = clock_now(), held = 0, cache = 0, before = UINT64_MAX;
    int r = out.cgroup ? cgroup_memory(out.cgroup, &held, &cache) : -ENODEV;

    if (r >= 0 && held - (cache < held ? cache : held) > swap_free())
        return error_set(error, ERROR_BUSY, "the host's swap", "its memory does not fit in there any more");
    out.left = held;
    while (r >= 0 && out.left > SWAP_REST / 4 && out.left < before) {
        if (instance->control.power != POWER_RUNNING || instance->manager->stopping)
            return error_set(error, ERROR_CANCELED, "giving way");
        before = out.left - (out.left < SWAP_PORTION ? out.left : SWAP_PORTION) / SWAP_PART; /* less helps no more */
        r = fiber_job(swap_out_job, &out);
    }
    if (r < 0)
        return error_errno(error, r, "writing its memory to the host's swap");
    if (out.left > SWAP_REST && out.left > instance->spec.memory / SWAP_PART)
        return error_set(error, ERROR_BUSY, "its memory", "the kernel keeps too much of it out of the swap");
    if (held > out.left + SWAP_REST) { /* of less the time tells nothing */
        uint64_t now = clock_now();
        engine_measure(instance->manager->engine, ENGINE_COST_SUSPEND, held - out.left, now - begun, now);
    }
    return 0;
}

/* It was paused already, and goes on: for the engine it still runs, so that nobody else would ever let it. */
static void take_back(struct instance *instance, bool swaps) {
    if (swaps && !instance->unswappable) {
        instance->unswappable = true;
        if (room_change(instance, NULL) < 0) /* it can still be paused for processors */
            refuse(instance);
    } else {
        refuse(instance);
    }
    go_on(instance);
}

static void give_way_paused(struct instance *instance, bool swaps) {
    _cleanup_error_ struct error error = ERROR_INIT;
    uint64_t since = clock_now();
    int r = run_pause(instance, &error);

    if (r < 0) {
        note(instance, r, &error);
        refuse(instance);
        return;
    }
    instance->control.yielded = (int64_t) since;
    manager_mark_dirty(instance->manager, instance);
    run_timer_cancel(instance);
    r = swaps ? swap_out(instance, &error) : 0;
    if (r >= 0 && swaps) { /* noted before its room is another's: the next polderd must not let both run */
        instance->control.swapped = true;
        manager_mark_dirty(instance->manager, instance);
        r = instance_flush(instance, &error);
    }
    note(instance, r, &error);
    if (r >= 0) {
        r = yield_room(instance, swaps);
        swaps = swaps && r >= 0; /* no fault of the swap */
        if (r < 0)
            log_warning("instance '%s' does not give way: out of memory", instance->name);
    }
    if (r < 0) {
        take_back(instance, swaps);
        return;
    }
    admission_run(instance->manager);
    wait_and_go_on(instance);
}

static int take_up_main(void *userdata) {
    struct instance *instance = userdata;

    (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    wait_and_go_on(instance);
    fiber_mutex_unlock(&instance->lock);
    instance_unref(instance);
    return 0;
}

/* Where that cannot be done it is resumed at once, as one that was only paused. */
void preempt_take_up(struct instance *instance) {
    if (!instance->admitted || yield_room(instance, true) < 0)
        return;
    if (fiber_start(NULL, "preempt", take_up_main, instance_ref(instance)) >= 0)
        return;
    instance_unref(instance);
    room_occupy(instance, 0);
    preempt_forget(instance);
}

/* --- all ------------------------------------------------------------------------------------------------------------- */

static int preempt_main(void *userdata) {
    struct preemption *preemption = userdata;
    struct instance *instance = preemption->instance;

    (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    if (instance->removed || !instance->admitted || instance->status.state != STATE_RUNNING ||
        instance->control.power != POWER_RUNNING || instance->manager->stopping)
        refuse(instance);
    else if (preemption->how == ENGINE_SUSPEND && instance->driver->capabilities & DRIVER_SUSPEND)
        give_way_to_disk(instance);
    else
        give_way_paused(instance, preemption->how == ENGINE_SUSPEND);
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
