// SPDX-License-Identifier: GPL-2.0-or-later
/* Bringing one instance to what is wished, step by step. Each step is safe to repeat: what a crash left half-made is
 * found by the instance's uuid and finished or removed. The instance's lock is held by the one fiber that works on it;
 * only waiting for room (queued) gives it up, so that a stop or a delete can take the wish back. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define REMOVE_DEADLINE (20 * CLOCK_SECOND)
#define RESTART_FIRST_MS 100
#define RESTART_MOST_MS 60000
#define RESTART_CALM (10 * CLOCK_SECOND) /* having run this long, the back-off starts anew */

/* --- room -------------------------------------------------------------------------------------------------------- */

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

static void explain_wait(struct manager *manager, struct instance *instance) {
    _cleanup_error_ struct error reason = ERROR_INIT;
    _cleanup_free_ char *wanted = NULL, *available = NULL;
    struct engine_explanation why;
    bool cpus;

    engine_explain(manager->engine, instance->assigned.uuid, &why);
    instance->status.queue_position = (int64_t) why.position;
    if (!why.resource) {
        (void) error_set(&reason, ERROR_BUSY, "the queue", "others wait before it");
    } else {
        cpus = why.resource[0] == 'c';
        wanted = cpus ? text_format_cpus(why.wanted) : text_format_size(why.wanted);
        available = cpus ? text_format_cpus(why.free) : text_format_size(why.free);
        (void) error_set(&reason, ERROR_NO_ROOM, why.resource, wanted, available);
    }
    instance_set_reason(instance, &reason);
}

void admission_run(struct manager *manager) {
    struct instance *admitted;
    size_t count, index;
    struct instance *const *sorted;

    while ((admitted = engine_next(manager->engine))) {
        admitted->admitted = true;
        fiber_queue_wake_all(&admitted->admission);
    }
    sorted = registry_sorted(manager, &count);
    for (index = 0; index < count; index++)
        if (sorted[index]->status.state == STATE_QUEUED && !sorted[index]->admitted)
            explain_wait(manager, sorted[index]);
}

static void room_give_back(struct instance *instance) {
    instance->admitted = false;
    engine_release(instance->manager->engine, instance->assigned.uuid);
    admission_run(instance->manager);
}

void run_occupy(struct instance *instance) {
    struct engine_request request;

    request_of(instance, &request);
    if (engine_occupy(instance->manager->engine, &request) >= 0)
        instance->admitted = true;
}

/* Waits for room with the lock given up. Afterwards the wish may have changed: -ECANCELED. */
static int room_wait(struct instance *instance, struct operation *operation, struct error *error) {
    int r = 0;

    while (!instance->admitted && instance->status.state == STATE_QUEUED) {
        fiber_mutex_unlock(&instance->lock);
        operation_progress(operation, "waiting for room", 0, 0);
        r = fiber_queue_wait(&instance->admission, DEADLINE_NONE);
        fiber_shield();
        (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
        fiber_unshield();
        if (r < 0)
            break;
    }
    if (r >= 0 && instance->control.power != POWER_RUNNING)
        r = -ECANCELED;
    if (r == -ECANCELED)
        return error_set(error, ERROR_CANCELED, "the start");
    return r;
}

static int room_take(struct instance *instance, struct operation *operation, struct error *error) {
    struct manager *manager = instance->manager;
    struct engine_request request;
    int r;

    request_of(instance, &request);
    r = engine_check(manager->engine, &request, error);
    if (r < 0)
        return r;
    r = instance_advance(instance, EVENT_START, error);
    if (r < 0)
        return r;
    r = engine_submit(manager->engine, &request, clock_now());
    if (r < 0)
        return error_errno(error, r, "queueing");
    admission_run(manager);
    r = room_wait(instance, operation, error);
    instance->status.queue_position = 0;
    if (r < 0) {
        room_give_back(instance);
        return r;
    }
    instance_set_reason(instance, NULL);
    return instance_advance(instance, EVENT_ADMIT, error);
}

/* --- resources --------------------------------------------------------------------------------------------------- */

void run_limits(const struct instance *instance, struct cgroup_limits *ret) {
    const struct instance_spec *spec = &instance->spec;
    struct stat status;

    *ret = (struct cgroup_limits){
        .cpu_milli = spec->cpus,
        .cpu_weight = 100,
        .memory = spec->memory,
        .pids = spec->pids,
        .io_read = spec->io_read,
        .io_write = spec->io_write,
    };
    /* A machine's memory is bounded by QEMU itself; the group only keeps its helpers from growing without end. */
    if (instance->assigned.kind == KIND_VM || instance->assigned.kind == KIND_MICROVM) {
        ret->memory = spec->memory + spec->memory / 4 + (UINT64_C(512) << 20);
        ret->pids = 0;
    }
    if ((spec->io_read || spec->io_write) && stat(manager_configuration(instance->manager)->state_path, &status) == 0)
        ret->io_device = status.st_dev;
}

static int cgroup_make(struct instance *instance, struct error *error) {
    struct cgroup_limits limits;
    int r;

    if (instance->assigned.kind == KIND_FAKE || !instance->manager->cgroups)
        return 0;
    if (!instance->view.cgroup) {
        r = cgroup_ensure(instance->manager->cgroups, instance->assigned.uuid, &instance->view.cgroup, error);
        if (r < 0)
            return r;
    }
    run_limits(instance, &limits);
    return cgroup_set_limits(instance->view.cgroup, &limits, error);
}

static int directories_make(struct instance *instance, struct error *error) {
    int r;

    if (instance->assigned.kind == KIND_FAKE)
        return 0;
    r = file_make_directories(AT_FDCWD, instance->state_path, 0711);
    if (r >= 0)
        r = file_make_directories(AT_FDCWD, instance->run_path, 0711);
    return r < 0 ? error_errno(error, r, "creating %s", instance->state_path) : 0;
}

static int image_resolve(struct instance *instance, struct error *error) {
    const struct image *image = NULL;
    int r;

    if (instance->assigned.kind == KIND_FAKE)
        return instance_process(instance, NULL, error);
    if (!text_is_empty(instance->assigned.image_digest)) {
        r = storage_image_find(instance->manager->storage, instance->assigned.image_digest, &image, error);
        if (r < 0)
            return r;
    }
    return instance_process(instance, image, error);
}

/* --- start ------------------------------------------------------------------------------------------------------- */

static int start_driver(struct instance *instance, const struct driver_start *start, struct error *error) {
    int r = image_resolve(instance, error);

    if (r >= 0)
        r = instance_readdress(instance, error);
    FAILPOINT("start-before-directories");
    if (r >= 0)
        r = directories_make(instance, error);
    FAILPOINT("start-before-cgroup");
    if (r >= 0)
        r = cgroup_make(instance, error);
    FAILPOINT("start-before-driver");
    if (r >= 0)
        r = instance->driver->start(instance->driver_data, &instance->view, start, error);
    FAILPOINT("start-after-driver");
    return r;
}

static void start_note(struct instance *instance) {
    struct driver_facts facts = { 0 };

    if (instance->driver->facts)
        instance->driver->facts(instance->driver_data, &instance->view, &facts);
    instance->status.pid = facts.pid;
    free(facts.hostname);
    list_free(facts.addresses);
    instance->status.started = clock_wall();
    instance->status.finished = 0;
    instance->status.exit_code = -1;
    instance->status.out_of_memory = false;
    instance->ran_since = clock_now();
    free(instance->control.boot_id);
    instance->control.boot_id = strdup(clock_boot_id());
}

int run_start(struct instance *instance, struct operation *operation, const struct driver_start *start,
              struct error *error) {
    struct driver_start options = start ? *start : (struct driver_start){ 0 };
    int r;

    options.restore = instance->status.state == STATE_SUSPENDED;
    run_timer_cancel(instance);
    r = manager_driver_available(instance->manager, instance->assigned.kind, error);
    if (r >= 0)
        r = room_take(instance, operation, error);
    if (r < 0 && instance->status.state == STATE_QUEUED)
        (void) instance_advance(instance, EVENT_STOP, NULL);
    if (r < 0)
        return r;
    r = start_driver(instance, &options, error);
    if (r < 0) {
        fiber_shield();
        (void) run_release(instance, NULL);
        room_give_back(instance);
        instance_set_reason(instance, error);
        /* What was suspended stays so: its memory is still on disk. */
        (void) instance_advance(instance, EVENT_FAIL, NULL);
        if (options.restore)
            instance->status.state = STATE_SUSPENDED;
        instance->status.finished = clock_wall();
        fiber_unshield();
        return r;
    }
    start_note(instance);
    r = instance_advance(instance, EVENT_STARTED, error);
    if (r >= 0)
        r = run_arm_timeout(instance);
    return r;
}

/* --- stop and release -------------------------------------------------------------------------------------------- */

int run_release(struct instance *instance, struct error *error) {
    struct manager *manager = instance->manager;
    int r = 0;

    FAILPOINT("release-before-driver");
    if (instance->driver)
        r = instance->driver->release(instance->driver_data, &instance->view, error);
    FAILPOINT("release-before-cgroup");
    if (r >= 0 && manager->cgroups && instance->assigned.kind != KIND_FAKE) {
        cgroup_free(instance->view.cgroup);
        instance->view.cgroup = NULL;
        r = cgroup_remove(manager->cgroups, instance->assigned.uuid, deadline_in(REMOVE_DEADLINE), error);
    }
    FAILPOINT("release-before-run-path");
    if (r >= 0 && instance->assigned.kind != KIND_FAKE) {
        r = file_remove_tree(AT_FDCWD, instance->run_path);
        if (r < 0)
            r = error_errno(error, r, "removing %s", instance->run_path);
    }
    return r;
}

int run_stop(struct instance *instance, uint64_t timeout_ms, struct error *error) {
    enum state before = instance->status.state;
    int r = instance_advance(instance, EVENT_STOP, error);

    if (r < 0)
        return r;
    run_timer_cancel(instance);
    if (instance->status.state != STATE_STOPPING) { /* queued, suspended, failed: nothing runs */
        if (before == STATE_QUEUED)
            room_give_back(instance);
        fiber_queue_wake_all(&instance->admission);
        instance_set_reason(instance, NULL);
        return 0;
    }
    FAILPOINT("stop-before-driver");
    r = instance->driver->stop(instance->driver_data, &instance->view, timeout_ms, error);
    FAILPOINT("stop-after-driver");
    if (r < 0) {
        /* It still runs: say so rather than keep "stopping" for ever. */
        instance->status.state = before;
        instance_touch(instance);
    }
    return r;
}

/* Waits, with the lock given up, until the end that the driver announced has been worked off. */
static int run_wait_rest(struct instance *instance, uint64_t deadline) {
    int r = 0;

    while (r >= 0 && state_is_active(instance->status.state)) {
        fiber_mutex_unlock(&instance->lock);
        r = fiber_queue_wait(&instance->changed, deadline);
        fiber_shield();
        (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
        fiber_unshield();
    }
    return r;
}

/* --- pause, resume, suspend --------------------------------------------------------------------------------------- */

static int require(struct instance *instance, unsigned capability, const char *verb, struct error *error) {
    if (instance->driver && (instance->driver->capabilities & capability))
        return 0;
    return error_set(error, ERROR_NOT_SUPPORTED, kind_name(instance->assigned.kind), verb,
                     capability == DRIVER_SUSPEND ? "its memory cannot be written to disk and read back"
                                                  : "its driver cannot do that");
}

int run_pause(struct instance *instance, struct error *error) {
    int r = require(instance, DRIVER_PAUSE, "pause", error);

    if (r >= 0)
        r = lifecycle_check(instance->status.state, EVENT_PAUSE, &(enum state){ 0 }, error);
    if (r >= 0)
        r = instance->driver->pause(instance->driver_data, &instance->view, error);
    return r < 0 ? r : instance_advance(instance, EVENT_PAUSE, error);
}

int run_resume(struct instance *instance, struct operation *operation, struct error *error) {
    int r;

    if (instance->status.state == STATE_SUSPENDED)
        return run_start(instance, operation, NULL, error);
    r = lifecycle_check(instance->status.state, EVENT_RESUME, &(enum state){ 0 }, error);
    if (r >= 0)
        r = instance->driver->resume(instance->driver_data, &instance->view, error);
    return r < 0 ? r : instance_advance(instance, EVENT_RESUME, error);
}

int run_suspend(struct instance *instance, struct error *error) {
    enum state before = instance->status.state;
    int r = require(instance, DRIVER_SUSPEND, "suspend", error);

    if (r >= 0)
        r = instance_advance(instance, EVENT_SUSPEND, error);
    if (r < 0)
        return r;
    FAILPOINT("suspend-before-driver");
    r = instance->driver->suspend(instance->driver_data, &instance->view, error);
    FAILPOINT("suspend-after-driver");
    if (r < 0) {
        instance->status.state = before; /* the driver promises that it runs on */
        instance_touch(instance);
        return r;
    }
    (void) instance_advance(instance, EVENT_SUSPENDED, NULL);
    instance->status.pid = 0;
    /* That it is suspended must be durable before its processes are forgotten. */
    r = manager_flush(instance->manager, error);
    FAILPOINT("suspend-before-release");
    if (r >= 0)
        r = run_release(instance, error);
    room_give_back(instance);
    return r;
}

/* --- the end of an instance ---------------------------------------------------------------------------------------- */

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

struct restart {
    struct instance *instance;
    uint64_t delay;
};

static int restart_main(void *userdata) {
    struct restart *restart = userdata;
    struct instance *instance = restart->instance;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = fiber_sleep(restart->delay);

    free(restart);
    if (r >= 0)
        r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    if (r >= 0) {
        if (!state_is_active(instance->status.state) && instance->control.power == POWER_RUNNING) {
            fiber_unref(instance->timer); /* this fiber: run_start must not cancel it */
            instance->timer = NULL;
            instance->status.restarts++;
            r = run_start(instance, NULL, NULL, &error);
            if (r < 0 && r != -ECANCELED && instance->status.state == STATE_FAILED) {
                instance->control.failures++;
                run_schedule_restart(instance);
            }
        }
        fiber_mutex_unlock(&instance->lock);
    }
    instance_unref(instance);
    return r;
}

void run_schedule_restart(struct instance *instance) {
    struct restart *restart;

    if (!wants_restart(instance))
        return;
    restart = calloc(1, sizeof(*restart));
    if (!restart)
        return;
    restart->instance = instance_ref(instance);
    restart->delay = restart_delay_ms(instance) * CLOCK_MILLISECOND;
    run_timer_cancel(instance);
    if (fiber_start(&instance->timer, "restart", restart_main, restart) < 0) {
        instance_unref(instance);
        free(restart);
    }
}

static void end_note(struct instance *instance, const struct driver_exit *ended) {
    struct instance_status *status = &instance->status;
    bool asked = status->state == STATE_STOPPING || instance->control.power != POWER_RUNNING;
    bool good = ended->code == 0 && !ended->out_of_memory;

    status->exit_code = ended->code;
    status->out_of_memory = ended->out_of_memory;
    status->finished = clock_wall();
    status->pid = 0;
    instance_set_reason(instance, NULL);
    if (ended->reason)
        status->message = strdup(ended->reason);
    (void) instance_advance(instance, good || asked ? EVENT_EXITED : EVENT_CRASHED, NULL);
    if (clock_now() - instance->ran_since > RESTART_CALM)
        instance->control.failures = 0;
    instance->control.failures = good ? 0 : instance->control.failures + 1;
}

void run_after_end(struct instance *instance, const struct driver_exit *ended) {
    struct manager *manager = instance->manager;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = 0;

    run_timer_cancel(instance);
    end_note(instance, ended);
    FAILPOINT("end-before-record");
    if (instance->spec.remove && !wants_restart(instance)) {
        r = run_purge(instance, &actor_daemon, &error);
    } else {
        if (!wants_restart(instance) && instance->control.power == POWER_RUNNING)
            instance->control.power = POWER_STOPPED;
        manager_mark_dirty(manager, instance);
        r = manager_flush(manager, &error); /* the driver forgets the result in release */
        FAILPOINT("end-before-release");
        if (r >= 0)
            r = run_release(instance, &error);
        room_give_back(instance);
        run_schedule_restart(instance);
    }
    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        log_warning("instance '%s': tidying up after its end: %s", instance->name, sentence);
    }
}

struct ended {
    struct instance *instance;
    int code;
    bool out_of_memory;
    char *reason;
};

static int ended_main(void *userdata) {
    struct ended *ended = userdata;
    struct instance *instance = ended->instance;
    struct driver_exit copy = { ended->code, ended->out_of_memory, ended->reason };

    if (fiber_mutex_lock(&instance->lock, DEADLINE_NONE) >= 0) {
        if (!instance->removed && state_is_active(instance->status.state))
            run_after_end(instance, &copy);
        fiber_mutex_unlock(&instance->lock);
    }
    instance_touch(instance);
    instance_unref(instance);
    free(ended->reason);
    free(ended);
    return 0;
}

void run_ended(struct driver_instance *view, const struct driver_exit *given) {
    struct instance *instance = view->manager_data;
    struct ended *ended = calloc(1, sizeof(*ended));

    if (!ended)
        return;
    ended->instance = instance_ref(instance);
    ended->code = given->code;
    ended->out_of_memory = given->out_of_memory;
    ended->reason = given->reason ? text_escape(given->reason, strlen(given->reason), false) : NULL;
    if (fiber_start(NULL, "ended", ended_main, ended) < 0) {
        instance_unref(instance);
        free(ended->reason);
        free(ended);
    }
}

/* --- time limit ------------------------------------------------------------------------------------------------------ */

static int timeout_main(void *userdata) {
    struct instance *instance = userdata;
    uint64_t limit = instance->spec.timeout * CLOCK_MILLISECOND, ran = clock_now() - instance->ran_since;
    int r = ran < limit ? fiber_sleep(limit - ran) : 0;

    if (r >= 0)
        r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
    if (r >= 0) {
        _cleanup_error_ struct error error = ERROR_INIT;
        if (state_is_active(instance->status.state)) {
            fiber_unref(instance->timer);
            instance->timer = NULL;
            instance->control.power = POWER_STOPPED;
            log_info("instance '%s': its time limit is over, stopping it", instance->name);
            (void) run_stop(instance, instance->spec.stop_timeout, &error);
        }
        fiber_mutex_unlock(&instance->lock);
    }
    instance_unref(instance);
    return 0;
}

int run_arm_timeout(struct instance *instance) {
    int r;

    if (instance->spec.timeout == 0)
        return 0;
    run_timer_cancel(instance);
    r = fiber_start(&instance->timer, "time limit", timeout_main, instance_ref(instance));
    if (r < 0)
        instance_unref(instance);
    return r;
}

void run_timer_cancel(struct instance *instance) {
    if (!instance->timer)
        return;
    if (instance->timer != fiber_current())
        fiber_cancel(instance->timer);
    fiber_unref(instance->timer);
    instance->timer = NULL;
}

/* --- removal -------------------------------------------------------------------------------------------------------- */

static int purge_commit(struct instance *instance, const struct actor *actor, struct error *error) {
    struct manager *manager = instance->manager;
    _cleanup_free_ char *key = instance_key(instance->assigned.uuid), *name_key = instance_name_key(instance->name);
    _cleanup_free_ char *object = text_format("instances/%s", instance->name);
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
    return store_commit(manager->store, operations, count, NULL, error);
}

static int remove_tree_job(void *userdata) {
    return file_remove_tree(AT_FDCWD, userdata);
}

/* The record goes first: should we die after that, the sweep at the next start removes what has no record. */
int run_purge(struct instance *instance, const struct actor *actor, struct error *error) {
    struct manager *manager = instance->manager;
    _cleanup_free_ char *object = text_format("instances/%s", instance->name);
    int r;

    fiber_shield();
    FAILPOINT("purge-before-commit");
    r = purge_commit(instance, actor, error);
    FAILPOINT("purge-after-commit");
    if (r >= 0) {
        instance->removed = true;
        run_timer_cancel(instance);
        r = run_release(instance, error);
        FAILPOINT("purge-after-release");
        if (r >= 0 && instance->assigned.kind != KIND_FAKE)
            r = fiber_job(remove_tree_job, instance->state_path);
        if (!text_is_empty(instance->assigned.image_digest))
            storage_image_unuse(manager->storage, instance->assigned.image_digest, instance->assigned.uuid);
        instance->status.state = STATE_DELETED;
        room_give_back(instance);
        registry_remove(manager, instance);
        events_publish(manager->events, "instance.removed", object ? object : "instances", NULL);
        instance_touch(instance);
        fiber_queue_wake_all(&instance->admission);
    }
    fiber_unshield();
    return r;
}

/* Used by actions that must see the end: stop, restart, delete with force. */
int run_stop_and_wait(struct instance *instance, uint64_t timeout_ms, struct error *error) {
    int r = run_stop(instance, timeout_ms, error);

    if (r >= 0)
        r = run_wait_rest(instance, deadline_in(timeout_ms * CLOCK_MILLISECOND + REMOVE_DEADLINE));
    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_TIMEOUT, "stopping", "the time it was given");
    return r;
}
