// SPDX-License-Identifier: GPL-2.0-or-later
/* Bringing one instance to what is wished, step by step. Each step is safe to repeat: what a crash left half-made is
 * found by the instance's uuid and finished or removed. The instance's lock is held by the one fiber that works on it;
 * only waiting for room (queued) gives it up, so that a stop or a delete can take the wish back. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define REMOVE_DEADLINE (20 * CLOCK_SECOND)

/* --- resources --------------------------------------------------------------------------------------------------- */

void run_limits(struct instance *instance, struct cgroup_limits *ret) {
    const struct instance_spec *spec = &instance->spec;
    struct stat status;

    *ret = (struct cgroup_limits){
        .memory = instance_memory_limit(spec),
        .pids = spec->pids,
        .io_read = spec->io_read,
        .io_write = spec->io_write,
    };
    /* A machine's memory is bounded by QEMU itself; the group only keeps its helpers from growing without end. */
    if (instance->assigned.kind == KIND_VM || instance->assigned.kind == KIND_MICROVM) {
        ret->memory = spec->memory + spec->memory / 4 + (UINT64_C(512) << 20);
        ret->pids = 0;
    }
    allocation_limits(instance, ret);
    /* Named even when nothing is asked for: that is how a limit set before is lifted. */
    if (stat(manager_configuration(instance->manager)->state_path, &status) == 0)
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
    allocation_settle(instance);
    allocation_begin(instance);
    run_limits(instance, &limits);
    if (!limits.io_read && !limits.io_write)
        limits.io_device = 0; /* a group at its start has no limit to lift */
    if (limits.io_weight == 100)
        limits.io_weight = 0; /* and its weight is the normal one */
    r = cgroup_set_limits(instance->view.cgroup, &limits, error);
    if (r >= 0)
        allocation_applied(instance, &limits);
    return r;
}

/* On a worker thread, and with a write: storage that hangs then holds up this start and nobody else, because the loop's
 * own small writes to it come after. */
static int state_directory_job(void *userdata) {
    const char *path = userdata;
    _cleanup_free_ char *probe = text_format("%s/.answers", path);
    _cleanup_close_ int fd = -EBADF;
    int r = probe ? file_make_directories(AT_FDCWD, path, 0700) : -ENOMEM;

    /* What a container writes has the modes that it gives; nobody on the host comes near. One that an earlier polderd
     * made could be entered. */
    if (r >= 0 && chmod(path, 0700) < 0)
        r = -errno;
    if (r < 0)
        return r;
    fd = open(probe, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    return unlink(probe) < 0 && errno != ENOENT ? -errno : 0; /* somebody else may ask there, too */
}

static int directories_make(struct instance *instance, struct error *error) {
    int r;

    if (instance->assigned.kind == KIND_FAKE)
        return 0;
    r = fiber_job(state_directory_job, instance->state_path);
    if (r >= 0)
        r = file_make_directories(AT_FDCWD, instance->run_path, 0711);
    return r < 0 ? error_errno(error, r, "creating %s", instance->state_path) : 0;
}

/* For as long as it takes, but not in silence: what it waits for stands with the instance and its operation. */
static int storage_await(struct instance *instance, struct operation *operation, const char *path, struct error *error) {
    struct storage *storage = instance->manager->storage;
    _cleanup_error_ struct error late = ERROR_INIT;
    uint64_t deadline = deadline_in(STORAGE_PATIENCE);
    int r = path ? storage_ask(storage, path, deadline, &late) : storage_ask_images(storage, deadline, &late);

    if (r == -ETIMEDOUT) {
        instance_set_reason(instance, &late);
        operation_wait_begin(operation, "waiting for storage that does not answer");
        error_clear(&late);
        r = path ? storage_ask(storage, path, DEADLINE_NONE, &late) : storage_ask_images(storage, DEADLINE_NONE, &late);
        operation_wait_end(operation);
        instance_set_reason(instance, NULL);
    }
    if (r < 0)
        error_move(error, &late);
    return r;
}

/* What is beneath an instance: the image store and the directory of its own files. */
static int storage_ready(struct instance *instance, struct operation *operation, struct error *error) {
    _cleanup_free_ char *instances = text_format("%s/instances", manager_configuration(instance->manager)->state_path);
    int r = instances ? 0 : error_errno(error, -ENOMEM, "starting");

    if (instance->assigned.kind == KIND_FAKE)
        return 0;
    if (r >= 0)
        r = storage_await(instance, operation, NULL, error);
    return r < 0 ? r : storage_await(instance, operation, instances, error);
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
    if (r >= 0)
        r = reservation_take(instance, error);
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
    instance_set_vnc(instance, facts.vnc);
    free(facts.hostname);
    list_free(facts.addresses);
    instance->status.started = clock_wall();
    instance->status.finished = 0;
    instance->status.exit_code = -1;
    instance->status.out_of_memory = false;
    instance->ran_since = clock_now();
    instance->control.since = (int64_t) instance->ran_since;
    free(instance->control.boot_id);
    instance->control.boot_id = strdup(clock_boot_id());
}

/* `begun`: not when the storage was only waited for. What hangs is not asked then for the memory, which is where it was. */
static void start_undo(struct instance *instance, bool restore, bool begun, int r, struct error *error) {
    fiber_shield();
    if (run_release(instance, NULL) < 0)
        run_release_later(instance);
    room_give_back(instance);
    (void) instance_advance(instance, EVENT_FAIL, NULL);
    if (restore && (!begun || run_saved(instance, false)))
        instance_set_state(instance, STATE_SUSPENDED);
    else if (r == -ECANCELED)
        instance_set_state(instance, STATE_STOPPED);
    else
        instance->status.finished = clock_wall();
    if (r == -ECANCELED)
        instance_set_reason(instance, NULL);
    else
        instance_set_reason(instance, error);
    fiber_unshield();
}

static int start_steps(struct instance *instance, struct operation *operation, const struct driver_start *start,
                       struct error *error) {
    struct driver_start options = start ? *start : (struct driver_start){ 0 };
    int r = manager_driver_available(instance->manager, instance->assigned.kind, error);
    uint64_t begun;
    bool ready;

    options.restore = instance->status.state == STATE_SUSPENDED;
    if (r >= 0 && !options.restore)
        instance->control.worked = 0;
    instance->control.yielded = 0;
    instance->control.swapped = instance->unswappable = false;
    if (r >= 0)
        r = room_take(instance, operation, error);
    if (r < 0)
        return r;
    r = storage_ready(instance, operation, error);
    ready = r >= 0;
    if (ready && !options.restore)
        (void) run_saved(instance, true); /* from here on the disk changes: that memory must never come back */
    operation_progress(operation, options.restore ? "restoring" : "starting", 0, 0);
    begun = clock_now();
    if (r >= 0)
        r = start_driver(instance, &options, error);
    if (r < 0) {
        start_undo(instance, options.restore, ready, r, error);
        return r;
    }
    if (options.restore)
        preempt_measured(instance, ENGINE_COST_RESTORE, begun);
    else
        advice_note_start(instance->manager, instance->assigned.kind, clock_now() - begun);
    start_note(instance);
    r = instance_advance(instance, EVENT_STARTED, error);
    if (r >= 0 && run_arm_timeout(instance) < 0)
        log_warning("instance '%s': its time limit cannot be watched", instance->name);
    return r;
}

int run_start(struct instance *instance, struct operation *operation, const struct driver_start *start,
              struct error *error) {
    int r;

    run_timer_cancel(instance);
    instance->starter = fiber_current();
    r = start_steps(instance, operation, start, error);
    if (instance->starter == fiber_current())
        instance->starter = NULL;
    return r;
}

/* Another request has it started already: this one only waits, and tells how that came out. */
static int start_join(struct instance *instance, struct operation *operation, struct error *error) {
    int r = 0;

    while (r >= 0 && (instance->status.state == STATE_QUEUED || instance->status.state == STATE_STARTING)) {
        fiber_mutex_unlock(&instance->lock);
        operation_wait_begin(operation, "waiting for the start under way");
        r = fiber_queue_wait(&instance->changed, DEADLINE_NONE);
        operation_wait_end(operation);
        fiber_shield();
        (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
        fiber_unshield();
    }
    if (r < 0)
        return error_errno(error, r, "waiting for the start");
    if (state_is_active(instance->status.state))
        return 0;
    if (instance->status.state == STATE_FAILED && instance->status.message)
        return error_set(error, ERROR_INTERNAL, "the start", instance->status.message);
    return error_set(error, ERROR_CANCELED, "the start");
}

int run_start_wished(struct instance *instance, struct operation *operation, const struct driver_start *start,
                     enum power before, struct error *error) {
    int r;

    if (instance->status.state == STATE_QUEUED || instance->status.state == STATE_STARTING)
        return start_join(instance, operation, error);
    instance->stands = before == POWER_RUNNING;
    r = run_start(instance, operation, start, error);
    if (r >= 0 || instance->removed || instance->control.power != POWER_RUNNING)
        return r; /* done, or a newer wish took this one back */
    if (state_is_active(instance->status.state) || instance->status.state == STATE_QUEUED)
        return r;
    if (before == POWER_RUNNING) {
        instance->control.failures++;
        run_schedule_restart(instance);
    }
    if (!instance->timer)
        instance->control.power = instance->status.state == STATE_SUSPENDED ? POWER_SUSPENDED : POWER_STOPPED;
    manager_mark_dirty(instance->manager, instance);
    return r;
}

/* --- stop and release -------------------------------------------------------------------------------------------- */

int run_release(struct instance *instance, struct error *error) {
    struct manager *manager = instance->manager;
    int r = 0;

    allocation_forget(instance);
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

static int lacks_driver(const struct instance *instance, struct error *error) {
    int r;

    if (instance->driver)
        return 0;
    r = manager_driver_available(instance->manager, instance->assigned.kind, error);
    return r < 0 ? r : error_set(error, ERROR_BUSY, "its driver", "it was not there when polderd started");
}

bool run_saved(struct instance *instance, bool drop) {
    return instance->driver && instance->driver->saved &&
           instance->driver->saved(instance->driver_data, &instance->view, drop);
}

int run_stop(struct instance *instance, uint64_t timeout_ms, struct error *error) {
    enum state before = instance->status.state;
    int r = state_is_active(before) ? lacks_driver(instance, error) : 0;

    if (r >= 0)
        r = instance_advance(instance, EVENT_STOP, error);
    if (r < 0)
        return r;
    run_timer_cancel(instance);
    if (instance->status.state != STATE_STOPPING) { /* queued, suspended, failed: nothing runs */
        (void) run_saved(instance, true);
        instance->control.queued = 0;
        if (before == STATE_QUEUED)
            room_give_back(instance);
        fiber_queue_wake_all(&instance->admission);
        instance_set_reason(instance, NULL);
        return 0;
    }
    FAILPOINT("stop-before-driver");
    r = instance->driver->stop(instance->driver_data, &instance->view, timeout_ms, error);
    FAILPOINT("stop-after-driver");
    if (r < 0) { /* it still runs: say so rather than keep "stopping" for ever */
        instance_set_state(instance, before);
        (void) run_arm_timeout(instance);
    }
    return r;
}

int run_wait_rest(struct instance *instance, uint64_t deadline) {
    uint64_t ticket = instance->ticket;
    int r = 0;

    while (r >= 0 && state_is_active(instance->status.state) && instance->ticket == ticket) {
        fiber_mutex_unlock(&instance->lock);
        r = fiber_queue_wait(&instance->changed, deadline);
        fiber_shield();
        (void) fiber_mutex_lock(&instance->lock, DEADLINE_NONE);
        fiber_unshield();
    }
    return r;
}

/* Used by actions that must see the end: stop, restart, delete with force. */
int run_stop_and_wait(struct instance *instance, uint64_t timeout_ms, struct error *error) {
    int r = run_stop(instance, timeout_ms, error);

    if (r >= 0)
        r = run_wait_rest(instance, deadline_in(REMOVE_DEADLINE));
    if (r == -ETIMEDOUT && !error_is_set(error))
        return error_set(error, ERROR_TIMEOUT, "stopping", "the time it was given");
    return r;
}

/* --- pause, resume, suspend --------------------------------------------------------------------------------------- */

int run_require(const struct instance *instance, unsigned capability, const char *verb, struct error *error) {
    if (instance->driver && (instance->driver->capabilities & capability))
        return 0;
    if (!instance->driver)
        return lacks_driver(instance, error);
    return error_set(error, ERROR_NOT_SUPPORTED, kind_name(instance->assigned.kind), verb,
                     capability == DRIVER_SUSPEND ? "its memory cannot be written to disk and read back"
                                                  : "its driver cannot do that");
}

int run_pause(struct instance *instance, struct error *error) {
    int r = run_require(instance, DRIVER_PAUSE, "pause", error);
    uint64_t begun;

    if (r >= 0)
        r = lifecycle_check(instance->status.state, EVENT_PAUSE, &(enum state){ 0 }, error);
    FAILPOINT("pause-before-driver");
    begun = clock_now();
    if (r >= 0)
        r = instance->driver->pause(instance->driver_data, &instance->view, error);
    FAILPOINT("pause-after-driver");
    if (r < 0)
        return r;
    preempt_measured(instance, ENGINE_COST_PAUSE, begun);
    return instance_advance(instance, EVENT_PAUSE, error);
}

int run_resume(struct instance *instance, struct operation *operation, enum power before, struct error *error) {
    int r;

    if (instance->status.state == STATE_SUSPENDED || instance->status.state == STATE_QUEUED)
        return run_start_wished(instance, operation, NULL, before, error);
    r = lifecycle_check(instance->status.state, EVENT_RESUME, &(enum state){ 0 }, error);
    if (r >= 0)
        r = lacks_driver(instance, error);
    if (r >= 0 && instance->swapped) /* what runs now may need the memory that it had */
        return error_set(error, ERROR_BUSY, "its room", "it gave way to others, and goes on by itself when there is room again");
    if (r >= 0 && instance->yielded) { /* it was paused for others, and its user does not want that */
        room_occupy(instance, 0);
        preempt_forget(instance);
        instance->status.queue_position = 0;
        instance_set_reason(instance, NULL);
    }
    FAILPOINT("resume-before-driver");
    if (instance->view.cgroup && instance->assigned.kind == KIND_CONTAINER)
        cgroup_swap_end(instance->view.cgroup); /* whoever was paused may have been let to swap, also by an earlier polderd */
    if (r >= 0)
        r = instance->driver->resume(instance->driver_data, &instance->view, error);
    FAILPOINT("resume-after-driver");
    if (r < 0)
        return r;
    if (preempt_pause_ends(instance) && run_arm_timeout(instance) < 0)
        log_warning("instance '%s': its time limit cannot be watched", instance->name);
    return instance_advance(instance, EVENT_RESUME, error);
}

int run_suspend(struct instance *instance, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    enum state before = instance->status.state;
    int r = run_require(instance, DRIVER_SUSPEND, "suspend", error), released;
    uint64_t begun;

    if (r >= 0)
        r = instance_advance(instance, EVENT_SUSPEND, error);
    if (r < 0)
        return r;
    run_timer_cancel(instance);
    FAILPOINT("suspend-before-driver");
    begun = clock_now();
    r = instance->driver->suspend(instance->driver_data, &instance->view, error);
    FAILPOINT("suspend-after-driver");
    if (r < 0) {
        instance_set_state(instance, before); /* the driver promises that it runs on */
        (void) run_arm_timeout(instance);
        return r;
    }
    fiber_shield();
    preempt_measured(instance, ENGINE_COST_SUSPEND, begun);
    (void) instance_advance(instance, EVENT_SUSPENDED, NULL);
    (void) preempt_pause_ends(instance);
    instance->control.worked += (int64_t) (clock_now() - instance->ran_since);
    instance->status.pid = 0;
    instance_set_vnc(instance, NULL);
    manager_mark_dirty(instance->manager, instance);
    r = instance_flush(instance, error);
    FAILPOINT("suspend-before-release");
    released = run_release(instance, &trouble);
    if (released < 0)
        run_release_later(instance);
    room_give_back(instance);
    fiber_unshield();
    if (r >= 0 && released < 0)
        error_move(error, &trouble);
    return r < 0 ? r : released;
}
