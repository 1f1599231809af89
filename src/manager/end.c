// SPDX-License-Identifier: GPL-2.0-or-later
/* Ends: what follows when an instance ends by itself or as asked, restarts with back-off, time limits, the trash and
 * removal. An end is first made durable, then the driver forgets it in release. If the store takes nothing (a full or
 * read-only disk), what is on the host is released all the same: the record stays marked and is written later. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define RESTART_FIRST_MS 100
#define RESTART_MOST_MS 60000
#define REAPER_PAUSE (100 * CLOCK_MILLISECOND)
#define TIDIER_FIRST (1 * CLOCK_SECOND)
#define TIDIER_MOST (60 * CLOCK_SECOND)
#define RESTART_CALM (10 * CLOCK_SECOND) /* having run this long, the back-off starts anew */

/* --- timers -------------------------------------------------------------------------------------------------------- */

/* The time limit or the pause before a restart: one fiber that sleeps, takes the lock, and acts if it is still the
 * instance's timer. It frees this itself. */
struct run_timer {
    struct instance *instance;
    struct fiber *fiber;
    uint64_t delay;
    void (*act)(struct instance *instance);
};

static void timer_free(struct run_timer *timer) {
    fiber_unref(timer->fiber);
    instance_unref(timer->instance);
    free(timer);
}

static int timer_main(void *userdata) {
    struct run_timer *timer = userdata;
    struct instance *instance = timer->instance;
    int r = fiber_sleep(timer->delay);

    if (r >= 0)
        r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    if (r >= 0) {
        if (instance->timer == timer) {
            instance->timer = NULL;
            if (!instance->removed)
                timer->act(instance);
        }
        fiber_mutex_unlock(&instance->lock);
    }
    timer_free(timer);
    return 0;
}

static int timer_start(struct instance *instance, const char *name, uint64_t delay,
                       void (*act)(struct instance *instance)) {
    struct run_timer *timer = calloc(1, sizeof(*timer));
    int r;

    run_timer_cancel(instance);
    if (!timer)
        return -ENOMEM;
    timer->instance = instance_ref(instance);
    timer->delay = delay;
    timer->act = act;
    r = fiber_start(&timer->fiber, name, timer_main, timer);
    if (r < 0) {
        timer_free(timer);
        return r;
    }
    instance->timer = timer;
    return 0;
}

void run_timer_cancel(struct instance *instance) {
    struct run_timer *timer = STEAL_PTR(instance->timer);

    if (timer)
        fiber_cancel(timer->fiber);
}

/* --- restarts -------------------------------------------------------------------------------------------------------- */

static uint64_t restart_delay_ms(const struct instance *instance) {
    int64_t failures = instance->control.failures;
    uint64_t delay = RESTART_FIRST_MS;

    while (failures-- > 1 && delay < RESTART_MOST_MS)
        delay *= 2;
    return delay < RESTART_MOST_MS ? delay : RESTART_MOST_MS;
}

static bool wants_restart(const struct instance *instance) {
    const struct instance_spec *spec = &instance->spec;

    if (instance->control.power != POWER_RUNNING)
        return false;
    switch (spec->restart) {
    case RESTART_ALWAYS:
    case RESTART_UNLESS_STOPPED:
        return true;
    case RESTART_ON_FAILURE:
        return instance->status.exit_code != 0 &&
               (spec->restart_limit == 0 || instance->status.restarts < spec->restart_limit);
    default:
        return false;
    }
}

static void restart_act(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;

    if (state_is_active(instance->status.state) || instance->status.state == STATE_QUEUED ||
        instance->control.power != POWER_RUNNING)
        return;
    instance->status.restarts++;
    (void) run_start_wished(instance, NULL, NULL, POWER_RUNNING, &error);
}

void run_schedule_restart(struct instance *instance) {
    if (!wants_restart(instance))
        return;
    if (timer_start(instance, "restart", restart_delay_ms(instance) * CLOCK_MILLISECOND, restart_act) < 0)
        log_warning("instance '%s': it cannot be restarted: out of memory", instance->name);
}

/* --- time limit ------------------------------------------------------------------------------------------------------ */

static void timeout_act(struct instance *instance) {
    struct manager *manager = instance->manager;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r;

    if (!state_is_active(instance->status.state))
        return;
    log_info("instance '%s': its time limit is over, stopping it", instance->name);
    instance->control.power = POWER_STOPPED;
    manager_mark_dirty(manager, instance);
    r = run_stop(instance, instance->spec.stop_timeout, &error);
    audit_instance(manager, &actor_daemon, "instance.stop", instance->name, r, &error);
}

int run_arm_timeout(struct instance *instance) {
    uint64_t limit = instance->spec.timeout * CLOCK_MILLISECOND, ran = clock_now() - instance->ran_since;

    ran += (uint64_t) instance->control.worked; /* before it was suspended */
    run_timer_cancel(instance);
    if (limit == 0 || instance->control.yielded) /* paused for others: that is no work, and its end arms it again */
        return 0;
    return timer_start(instance, "time limit", ran < limit ? limit - ran : 0, timeout_act);
}

/* --- the end of an instance ---------------------------------------------------------------------------------------- */

static void end_note(struct instance *instance, const struct driver_exit *ended) {
    struct instance_status *status = &instance->status;
    enum power power = instance->control.power;
    bool asked = status->state == STATE_STOPPING || power == POWER_STOPPED || power == POWER_DELETED;
    bool good = ended->code == 0 && !ended->out_of_memory;

    status->exit_code = ended->code;
    status->out_of_memory = ended->out_of_memory;
    status->finished = clock_wall();
    status->pid = 0;
    instance_set_vnc(instance, NULL);
    status->unresponsive = false;
    (void) instance_advance(instance, good || asked ? EVENT_EXITED : EVENT_CRASHED, NULL);
    instance_set_reason(instance, NULL);
    if (ended->reason)
        status->message = strdup(ended->reason);
    if (asked || clock_now() - instance->ran_since > RESTART_CALM)
        instance->control.failures = 0;
    else
        instance->control.failures++;
}

static void end_complain(const struct instance *instance, int r, const struct error *error) {
    _cleanup_free_ char *sentence = r < 0 ? error_sentence(error, LANGUAGE_ENGLISH) : NULL;

    if (r < 0)
        log_warning("instance '%s': tidying up after its end: %s", instance->name,
                    error_is_set(error) ? sentence : strerror(-r));
}

static void end_keep(struct instance *instance) {
    _cleanup_error_ struct error unwritten = ERROR_INIT, error = ERROR_INIT;
    int r;

    manager_mark_dirty(instance->manager, instance);
    end_complain(instance, instance_flush(instance, &unwritten), &unwritten);
    FAILPOINT("end-before-release");
    r = run_release(instance, &error);
    end_complain(instance, r, &error);
    if (r < 0)
        run_release_later(instance);
    room_end(instance);
}

void run_after_end(struct instance *instance, const struct driver_exit *ended) {
    _cleanup_error_ struct error error = ERROR_INIT;
    bool again, over;

    run_timer_cancel(instance);
    end_note(instance, ended);
    again = !instance->handover && wants_restart(instance);
    over = !instance->handover && !again && instance->control.power != POWER_DELETED;
    if (over)
        instance->control.power = POWER_STOPPED;
    FAILPOINT("end-before-record");
    if (over && instance->spec.remove) {
        int r = run_purge(instance, &actor_daemon, &error);
        end_complain(instance, r, &error);
        if (instance->removed)
            return;
    }
    end_keep(instance);
    if (again)
        run_schedule_restart(instance);
    /* Who asked for it was told that it would end later; this is later. */
    if (instance->control.power == POWER_DELETED && !instance->handover)
        end_complain(instance, instance_discard(instance, &actor_daemon, instance->control.purge, &error), &error);
}

static int remove_tree_job(void *userdata) {
    return file_remove_tree(AT_FDCWD, userdata);
}

static int ended_main(void *userdata) {
    struct instance *instance = userdata;

    if (fiber_mutex_lock(&instance->lock, DEADLINE_NONE) >= 0) {
        _cleanup_free_ char *reason = STEAL_PTR(instance->end.reason);
        struct driver_exit copy = { instance->end.code, instance->end.out_of_memory, reason };
        if (!instance->removed && state_is_active(instance->status.state))
            run_after_end(instance, &copy);
        fiber_mutex_unlock(&instance->lock);
    }
    instance->ends = 0;
    instance_touch(instance);
    instance_unref(instance);
    return 0;
}

void run_ended(struct driver_instance *view, const struct driver_exit *given) {
    struct instance *instance = view->manager_data;
    struct manager *manager = instance->manager;
    struct instance_end *end = &instance->end;

    end->code = given->code;
    end->out_of_memory = given->out_of_memory;
    free(end->reason);
    end->reason = given->reason ? text_escape(given->reason, strlen(given->reason), false) : NULL;
    if (instance->ends > 0)
        return;
    instance->ends = 1;
    if (fiber_start(NULL, "ended", ended_main, instance_ref(instance)) >= 0)
        return;
    end->next = manager->ends_first;
    manager->ends_first = instance;
    fiber_queue_wake_all(&manager->reaper_queue);
}

/* --- what there was no memory for ------------------------------------------------------------------------------------ */

static int reaper_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r != -ECANCELED) {
        struct instance *instance = manager->ends_first;
        if (!instance) {
            r = fiber_queue_wait(&manager->reaper_queue, DEADLINE_NONE);
            continue;
        }
        manager->ends_first = instance->end.next;
        if (fiber_start(NULL, "ended", ended_main, instance) >= 0)
            continue;
        instance->end.next = manager->ends_first;
        manager->ends_first = instance;
        r = fiber_sleep(REAPER_PAUSE);
    }
    return 0;
}

void run_release_later(struct instance *instance) {
    struct manager *manager = instance->manager;

    if (instance->unreleased)
        return;
    instance->unreleased = true;
    instance->unreleased_next = manager->unreleased_first;
    manager->unreleased_first = instance_ref(instance);
    fiber_queue_wake_all(&manager->tidier_queue);
}

/* Whether it needs no further try: it is released, or runs again. Lock held. */
static bool tidy(struct instance *instance) {
    _cleanup_error_ struct error ignored = ERROR_INIT;
    int r;

    if (!instance->removed && instance->unattended)
        return adopt_attend(instance);
    if (!instance->removed && (state_is_active(instance->status.state) || instance->unreachable))
        return true;
    r = run_release(instance, &ignored);
    if (r >= 0 && instance->removed)
        r = fiber_job(remove_tree_job, instance->state_path);
    return r >= 0;
}

/* Tries each one once; those under work keep their turn. Returns whether all are done. */
static bool tidy_all(struct manager *manager) {
    struct instance *list = STEAL_PTR(manager->unreleased_first);
    bool all = true;

    while (list) {
        _cleanup_instance_ struct instance *instance = list;
        bool done = false;

        list = instance->unreleased_next;
        instance->unreleased = false;
        if (!instance->lock.owner && fiber_mutex_lock(&instance->lock, DEADLINE_NONE) >= 0) {
            done = tidy(instance);
            fiber_mutex_unlock(&instance->lock);
        }
        if (!done)
            run_release_later(instance);
        all = all && done;
    }
    return all;
}

static int tidier_main(void *userdata) {
    struct manager *manager = userdata;
    uint64_t pause = TIDIER_FIRST;
    int r = 0;

    while (r != -ECANCELED) {
        if (!manager->unreleased_first) {
            pause = TIDIER_FIRST;
            r = fiber_queue_wait(&manager->tidier_queue, DEADLINE_NONE);
            continue;
        }
        r = fiber_sleep(pause);
        if (r >= 0)
            pause = tidy_all(manager) ? TIDIER_FIRST : pause * 2 < TIDIER_MOST ? pause * 2 : TIDIER_MOST;
    }
    return 0;
}

int reaper_start(struct manager *manager) {
    int r = fiber_start(&manager->reaper, "reaper", reaper_main, manager);

    return r < 0 ? r : fiber_start(&manager->tidier, "tidier", tidier_main, manager);
}

/* --- removal -------------------------------------------------------------------------------------------------------- */

static int purge_commit(struct instance *instance, const struct actor *actor, struct error *error) {
    struct manager *manager = instance->manager;
    _cleanup_free_ char *key = instance_key(instance->assigned.uuid), *name_key = instance_name_key(instance->name);
    _cleanup_free_ char *object = instance_object(instance->name);
    _cleanup_free_ char *audit_key = NULL, *audit_value = NULL;
    struct store_operation operations[3];
    size_t count = 0;
    int r = key && name_key && object ? 0 : -ENOMEM;

    if (r >= 0)
        r = audit_build(manager, actor, "instance.remove", object, "ok", &audit_key, &audit_value);
    if (r < 0)
        return error_errno(error, r, "removing %s", instance->name);
    operations[count++] = (struct store_operation){ .type = STORE_DELETE, .key = key };
    operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = audit_key, .value = audit_value,
                                                    .size = strlen(audit_value) };
    if (map_get(manager->by_name, instance->name) == instance)
        operations[count++] = (struct store_operation){ .type = STORE_DELETE, .key = name_key };
    return store_commit_urgent(manager->store, operations, count, NULL, error);
}

/* After the commit it is gone whatever happens: what cannot be released now is tried again, and what is left then the sweep
 * finds at the next start. */
static void purge_finish(struct instance *instance) {
    struct manager *manager = instance->manager;
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *object = instance_object(instance->name);
    int r;

    instance->removed = true;
    run_timer_cancel(instance);
    r = run_release(instance, &error);
    FAILPOINT("purge-after-release");
    if (r >= 0)
        r = fiber_job(remove_tree_job, instance->state_path);
    end_complain(instance, r, &error);
    if (r < 0)
        run_release_later(instance);
    instance_unpin(instance);
    instance->status.state = STATE_DELETED;
    room_give_back(instance);
    registry_remove(manager, instance);
    events_publish(manager->events, "instance.removed", object ? object : "instances", NULL);
    instance_touch(instance);
    fiber_queue_wake_all(&instance->admission);
}

/* The record goes first: should we die after that, the sweep at the next start removes what has no record. */
int run_purge(struct instance *instance, const struct actor *actor, struct error *error) {
    _cleanup_instance_ struct instance *kept = instance_ref(instance);
    int r;

    fiber_shield();
    instance->purging = true;
    FAILPOINT("purge-before-commit");
    r = purge_commit(instance, actor, error);
    FAILPOINT("purge-after-commit");
    if (r >= 0) {
        purge_finish(kept);
    } else {
        instance->purging = false;
        manager_mark_dirty(instance->manager, instance);
    }
    fiber_unshield();
    return r;
}

static int trash_commit(struct instance *instance, const struct actor *actor, struct error *error) {
    _cleanup_free_ char *name_key = instance_name_key(instance->name);
    struct store_operation extra = { .type = STORE_DELETE, .key = name_key };
    struct instance_control *control = &instance->control;
    enum state before = instance->status.state;
    int r;

    if (!name_key)
        return error_errno(error, -ENOMEM, "deleting");
    control->power = POWER_DELETED;
    control->deleted = clock_wall();
    control->since = (int64_t) clock_now();
    free(control->boot_id);
    control->boot_id = strdup(clock_boot_id());
    instance->status.state = STATE_DELETED;
    instance_touch(instance);
    FAILPOINT("delete-before-commit");
    r = manager_commit_instance(instance->manager, instance, actor, "instance.delete", COMMIT_URGENT, &extra, 1, error);
    FAILPOINT("delete-after-commit");
    if (r < 0) {
        instance->status.state = before;
        control->deleted = 0;
        control->power = POWER_STOPPED;
        manager_mark_dirty(instance->manager, instance);
        instance_touch(instance);
    }
    return r;
}

int instance_discard(struct instance *instance, const struct actor *actor, bool purge, struct error *error) {
    struct manager *manager = instance->manager;
    _cleanup_free_ char *object = instance_object(instance->name);
    int r;

    if (purge || instance->spec.remove || manager->configuration.trash_seconds == 0)
        return run_purge(instance, actor, error);
    r = lifecycle_check(instance->status.state, EVENT_DELETE, &(enum state){ 0 }, error);
    if (r < 0)
        return r;
    run_timer_cancel(instance);
    fiber_shield();
    r = trash_commit(instance, actor, error);
    if (r >= 0) {
        _cleanup_error_ struct error trouble = ERROR_INIT;
        registry_hide(manager, instance);
        instance_touch(instance);
        events_publish(manager->events, "instance.deleted", object ? object : "instances", NULL);
        r = run_release(instance, &trouble);
        end_complain(instance, r, &trouble);
        if (r < 0)
            run_release_later(instance);
        r = 0;
    }
    fiber_unshield();
    return r;
}
