// SPDX-License-Identifier: GPL-2.0-or-later
/* After a daemon start: load every record, find what runs, finish or undo what was interrupted, remove what nobody
 * owns. The wish decides: an instance wished running that does not run is started again if its restart policy or an
 * interrupted request says so. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define SWEEP_EVERY (60 * CLOCK_SECOND)
#define ADOPT_AT_ONCE 64
#define ADOPT_PATIENCE (20 * CLOCK_SECOND) /* with all that run; who takes longer goes on beside everything else */
#define SWEEP_PATIENCE (3 * CLOCK_SECOND)
#define ADOPT_AGAIN_MOST (60 * CLOCK_SECOND)
#define ADOPT_AGAIN_LATE (4 * CLOCK_SECOND) /* of what only did not answer */

/* --- load ------------------------------------------------------------------------------------------------------------- */

static int load_instances(struct manager *manager, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(manager->store, INSTANCE_PREFIX, NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++) {
        _cleanup_instance_ struct instance *instance = NULL;
        r = instance_decode(manager, items.items[i].value, items.items[i].size, &instance, error);
        if (r >= 0)
            r = registry_add(manager, instance);
        if (r >= 0)
            (void) instance_pin(instance);
        if (r < 0)
            (void) error_subject(error, "record", items.items[i].key);
    }
    store_items_done(&items);
    return r;
}

static int load_idempotency(struct manager *manager, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(manager->store, IDEMPOTENCY_PREFIX, NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++) {
        const struct store_item *item = &items.items[i];
        struct store_operation drop = { .type = STORE_DELETE, .key = item->key };
        r = idempotency_load(manager, item->key + strlen(IDEMPOTENCY_PREFIX), item->value, item->size);
        if (r == 0)
            (void) store_commit(manager->store, &drop, 1, NULL, NULL); /* over, or unreadable: it only saves work */
    }
    store_items_done(&items);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "reading idempotency keys") : r;
}

static int load_audit_sequence(struct manager *manager, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(manager->store, AUDIT_PREFIX, NULL, 1, true, &items, error);

    if (r >= 0 && items.count > 0)
        (void) text_parse_u64(items.items[0].key + strlen(AUDIT_PREFIX), &manager->audit_sequence);
    store_items_done(&items);
    return r;
}

/* --- one instance -------------------------------------------------------------------------------------------------------- */

static int resolve_view(struct instance *instance) {
    const struct image *image = NULL;

    if (!text_is_empty(instance->assigned.image_digest))
        (void) storage_image_find(instance->manager->storage, instance->assigned.image_digest, &image, NULL);
    return instance_process(instance, image, NULL);
}

/* Might something of it be on the host? Its directory there is made before anything else. */
static bool may_run(const struct instance *instance) {
    enum state state = instance->status.state;
    enum power power = instance->control.power;

    return state_is_active(state) || state == STATE_QUEUED || power == POWER_RUNNING || power == POWER_PAUSED ||
           power == POWER_SUSPENDED || (power == POWER_DELETED && state != STATE_DELETED) ||
           file_exists(AT_FDCWD, instance->run_path);
}

static bool same_boot(const struct instance *instance) {
    return text_equal(instance->control.boot_id, clock_boot_id());
}

/* What it ran so far counts, but not that it is paused for others. */
static void adopted_time(struct instance *instance, uint64_t now) {
    struct instance_control *control = &instance->control;

    if (control->yielded <= control->since || (uint64_t) control->yielded >= now) {
        control->yielded = 0;
        return;
    }
    instance->ran_since += now - (uint64_t) control->yielded;
    control->since = (int64_t) instance->ran_since;
    control->yielded = (int64_t) now;
}

/* It holds its room. */
static void adopted_room(struct instance *instance) {
    uint64_t now = clock_now();

    /* Started, but cut off before that was written: then it counts from now on. */
    instance->ran_since = now;
    if (same_boot(instance) && instance->control.since > 0 && (uint64_t) instance->control.since < now &&
        instance->status.started)
        instance->ran_since = (uint64_t) instance->control.since;
    adopted_time(instance, now);
    room_occupy(instance, now - instance->ran_since);
}

/* It runs: keep it. An interrupted stop, pause or delete goes on later (wants_follow). */
static void adopted_running(struct instance *instance, bool paused) {
    if (!paused)
        instance->control.yielded = 0; /* it went on, and nobody was there to note that */
    adopted_room(instance);
    instance_set_state(instance, paused ? STATE_PAUSED : STATE_RUNNING);
    instance_set_reason(instance, NULL);
    instance->control.queued = 0;
    instance->control.restarting = false;
    instance->status.pid = 0;
    instance->status.unresponsive = false;
    instance->manager->driver_events.changed(&instance->view);
    if (!instance->status.started)
        instance->status.started = clock_wall();
    (void) run_arm_timeout(instance);
    if (instance->control.yielded && instance->control.swapped && instance->control.power == POWER_RUNNING)
        preempt_take_up(instance);
}

/* It ran, and ended while nobody looked. */
static void adopted_ended(struct instance *instance, const struct driver_exit *ended) {
    struct driver_exit copy = *ended;

    if (copy.code < 0 && !same_boot(instance))
        copy.reason = "the host was restarted while it ran";
    instance_set_state(instance, instance->control.power == POWER_RUNNING || instance->control.power == POWER_PAUSED
                                     ? STATE_RUNNING : STATE_STOPPING);
    instance->ran_since = clock_now();
    instance->handover = instance->control.restarting; /* it was stopped to be started again: wants_follow */
    run_after_end(instance, &copy);
    instance->handover = instance->control.restarting = false;
}

static void adopted_absent(struct instance *instance, enum state recorded, const struct driver_exit *ended) {
    bool begun = recorded == STATE_CREATED || recorded == STATE_QUEUED || recorded == STATE_STARTING;

    if (begun && ended->code >= 0) {
        adopted_ended(instance, ended); /* it had been started after all, and is through */
        return;
    }
    if ((begun || recorded == STATE_SUSPENDING || instance->control.power == POWER_SUSPENDED) &&
        run_saved(instance, false)) {
        instance_set_state(instance, STATE_SUSPENDED);
    } else if (state_is_active(recorded) && recorded != STATE_STARTING) {
        adopted_ended(instance, ended);
        return;
    } else if (begun && recorded != STATE_CREATED) {
        instance_set_state(instance, STATE_STOPPED);
        instance_set_reason(instance, NULL);
    }
    instance->status.queue_position = 0;
    instance->status.pid = 0;
    instance_set_vnc(instance, NULL);
    if (run_release(instance, NULL) < 0)
        run_release_later(instance);
}

static void follow_one(struct instance *instance);

/* --- what could not be taken over ---------------------------------------------------------------------------------- */

/* What the driver is to know of it; what fails here may succeed the next time. */
static void adopt_prepare(struct instance *instance) {
    struct manager *manager = instance->manager;

    (void) resolve_view(instance);
    /* Not only what is recorded as of this boot: a start that was acknowledged a moment ago may not be written yet. */
    if (manager->cgroups && !instance->view.cgroup && instance->assigned.kind != KIND_FAKE &&
        (same_boot(instance) || may_run(instance)))
        (void) cgroup_ensure(manager->cgroups, instance->assigned.uuid, &instance->view.cgroup, NULL);
}

static int adopt_ask(struct instance *instance, struct error *error) {
    struct driver_exit ended = { .code = -1 };
    enum state recorded = instance->status.state;
    bool running = false, paused = false;
    int r;

    adopt_prepare(instance);
    r = instance->driver->adopt(instance->driver_data, &instance->view, &running, &paused, &ended, error);

    if (r < 0)
        return r;
    instance->unreachable = false;
    if (running)
        adopted_running(instance, paused);
    else
        adopted_absent(instance, recorded, &ended);
    return 0;
}

/* Nothing of it is on the host, and only what it left on its disk is not known yet, or there was no memory to look: it holds
 * no room, and a start that was under way is begun anew. */
static bool is_resting(struct instance *instance) {
    enum state state = instance->status.state;

    if (file_exists(AT_FDCWD, instance->run_path) || (state_is_active(state) && state != STATE_STARTING))
        return false;
    if (state == STATE_STARTING || state == STATE_QUEUED)
        instance_set_state(instance, STATE_CREATED);
    return true;
}

/* It may well run: it keeps its state and its room, and is never ended because we cannot reach it. */
static void adopt_failed(struct instance *instance, const struct error *error) {
    _cleanup_free_ char *sentence = error_sentence(error, LANGUAGE_ENGLISH);

    if (!instance->unreachable)
        log_warning("instance '%s' could not be taken over: %s", instance->name, sentence);
    instance->unreachable = true;
    instance_set_reason(instance, error);
    if (is_resting(instance))
        return;
    /* Wished running, and what happened to that wish may not have been written. */
    if (!state_is_active(instance->status.state))
        instance_set_state(instance, instance->control.power == POWER_RUNNING ? STATE_RUNNING : STATE_STOPPED);
    if (state_is_active(instance->status.state))
        adopted_room(instance);
}

static int adopt_again_main(void *userdata) {
    struct instance *instance = userdata;
    uint64_t pause = CLOCK_SECOND, most;
    bool again = true, late = false;

    while (again && fiber_sleep(pause) >= 0 && fiber_mutex_lock(&instance->lock, DEADLINE_NONE) >= 0) {
        _cleanup_error_ struct error error = ERROR_INIT;
        bool missed = !instance->removed && instance->unreachable;
        again = missed && adopt_ask(instance, &error) < 0;
        if (again) {
            late = error.code == ERROR_UNRESPONSIVE;
            adopt_failed(instance, &error);
        } else if (missed || (!instance->removed && !instance->operation)) {
            follow_one(instance); /* also when a request that was refused since then was quicker to reach it */
        }
        fiber_mutex_unlock(&instance->lock);
        most = late ? ADOPT_AGAIN_LATE : ADOPT_AGAIN_MOST;
        pause = pause * 2 < most ? pause * 2 : most;
    }
    instance_unref(instance);
    return 0;
}

/* Before something is done to it: it may answer by now. What does not must not be taken for ended, nor what only rests be
 * started before it is known what it left. */
int adopt_reach(struct instance *instance, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    int r;

    if (!instance->unreachable || !instance->driver)
        return 0;
    r = adopt_ask(instance, &trouble);
    if (r >= 0)
        return 0;
    if (r != -ECANCELED && trouble.code != ERROR_CANCELED) { /* then nothing new is known of it */
        adopt_failed(instance, &trouble);
        if (trouble.code != ERROR_UNRESPONSIVE && !is_resting(instance))
            return 0;
    }
    error_move(error, &trouble);
    return r;
}

bool adopt_attend(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;

    if (instance->unreachable && adopt_ask(instance, &error) < 0) {
        adopt_failed(instance, &error);
        return false;
    }
    instance->unattended = false;
    follow_one(instance);
    return true;
}

/* Without memory for a fiber: who releases later sees to it. */
static void adopt_unattended(struct instance *instance) {
    instance->unattended = true;
    run_release_later(instance);
}

static void adopt_one(struct instance *instance) {
    struct manager *manager = instance->manager;
    _cleanup_error_ struct error error = ERROR_INIT;

    if (!instance->driver) {
        (void) manager_driver_available(manager, instance->assigned.kind, &error);
        adopt_failed(instance, &error);
        return;
    }
    if (adopt_ask(instance, &error) >= 0)
        return;
    adopt_failed(instance, &error);
    if (fiber_start(NULL, "adopt again", adopt_again_main, instance_ref(instance)) >= 0)
        return;
    adopt_unattended(instance);
    instance_unref(instance);
}

/* Adopting in parallel: one that hangs delays nobody else for longer than its own deadlines. */
static int adopt_main(void *userdata) {
    struct instance *instance = userdata;

    if (fiber_mutex_lock(&instance->lock, DEADLINE_NONE) >= 0) {
        if (!instance->removed)
            adopt_one(instance);
        if (instance->manager->followed)
            follow_one(instance);
        fiber_mutex_unlock(&instance->lock);
    }
    instance_unref(instance);
    return 0;
}

static void adopt_starved(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;

    if (!instance->driver)
        return;
    (void) error_set(&error, ERROR_NO_MEMORY);
    adopt_failed(instance, &error);
    adopt_unattended(instance);
}

/* What is to be known of it hangs: until that is known nothing of it is ended, and it keeps its room. */
static void adopt_late(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;

    (void) error_set(&error, ERROR_UNRESPONSIVE, "what it left, or the storage of its disk");
    adopt_failed(instance, &error);
}

/* All instances, referenced, since some are removed while others are worked on. */
static int instances_copy(struct manager *manager, struct instance ***ret, size_t *ret_count) {
    size_t count;
    struct instance *const *sorted = registry_sorted(manager, &count);
    struct instance **copy = calloc(count + 1, sizeof(*copy));

    if (!copy || (count == 0 && map_count(manager->by_uuid) > 0)) { /* no memory for the list: not "none" */
        free(copy);
        return -ENOMEM;
    }
    for (size_t i = 0; i < count; i++)
        copy[i] = instance_ref(sorted[i]);
    *ret = copy;
    *ret_count = count;
    return 0;
}

static void instances_free(struct instance **copy, size_t count) {
    for (size_t i = 0; i < count; i++)
        instance_unref(copy[i]);
    free(copy);
}

struct adoption {
    struct fiber *fiber;
    struct instance *instance; /* borrowed */
};

static void adoptions_finish(struct adoption *adoptions, size_t count, uint64_t deadline) {
    for (size_t i = 0; i < count; i++)
        (void) fiber_join(adoptions[i].fiber, deadline, NULL);
    /* Looked at for too long, or not at all, since its turn has not come. */
    for (size_t i = 0; i < count; i++) {
        if (!fiber_is_done(adoptions[i].fiber) && !adoptions[i].instance->unreachable)
            adopt_late(adoptions[i].instance);
        fiber_unref(adoptions[i].fiber);
    }
}

static int adopt_instances(struct instance *const *instances, size_t count) {
    struct adoption *adoptions = calloc(count + 1, sizeof(*adoptions));
    uint64_t deadline = deadline_in(ADOPT_PATIENCE);
    size_t started = 0;

    if (!adoptions)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (!may_run(instances[i]))
            continue;
        adoptions[started].instance = instances[i];
        if (fiber_start(&adoptions[started].fiber, "adopt", adopt_main, instance_ref(instances[i])) < 0) {
            adopt_starved(instances[i]);
            instance_unref(instances[i]);
            continue;
        }
        /* At most so many at once: each holds descriptors. */
        if (++started >= ADOPT_AT_ONCE)
            (void) fiber_join(adoptions[started - ADOPT_AT_ONCE].fiber, deadline, NULL);
    }
    adoptions_finish(adoptions, started, deadline);
    free(adoptions);
    return 0;
}

/* --- what was interrupted ---------------------------------------------------------------------------------------------- */

/* Brings an instance to its wish when a crash cut the request short. */
static int follow_wish(struct instance *instance, struct operation *operation, struct error *error) {
    enum power power = instance->control.power;
    enum state state = instance->status.state;
    int r = 0;

    if (power == POWER_RUNNING && state == STATE_PAUSED)
        return run_resume(instance, operation, power, error);
    if (power == POWER_RUNNING && !state_is_active(state))
        return run_start_wished(instance, operation, NULL, power, error);
    if (power == POWER_PAUSED && state == STATE_RUNNING)
        return run_pause(instance, error);
    if (power == POWER_SUSPENDED && (state == STATE_RUNNING || state == STATE_PAUSED))
        return run_suspend(instance, error);
    instance->handover = power == POWER_DELETED;
    if ((power == POWER_STOPPED || power == POWER_DELETED) && (state_is_active(state) || state == STATE_SUSPENDED))
        r = run_stop_and_wait(instance, power == POWER_DELETED ? 0 : instance->spec.stop_timeout, error);
    instance->handover = false;
    if (r >= 0 && power == POWER_DELETED && !instance->removed && instance->status.state != STATE_DELETED)
        r = instance_discard(instance, &actor_daemon, instance->control.purge, error);
    return r;
}

static int follow_body(struct operation *operation, void *userdata, struct error *error) {
    struct instance *instance = userdata;
    int r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);

    if (r < 0)
        return r;
    if (!instance->removed) {
        instance->operation = operation;
        r = follow_wish(instance, operation, error);
        if (instance->operation == operation)
            instance->operation = NULL;
        audit_instance(instance->manager, &actor_daemon, "instance.reconcile", instance->name, r, error);
    }
    fiber_mutex_unlock(&instance->lock);
    return r;
}

static void follow_free(void *userdata) {
    instance_unref(userdata);
}

static void follow_start(struct instance *instance) {
    _cleanup_free_ char *object = instance_object(instance->name);

    if (!object || operation_start(instance->manager->operations, "instance.reconcile", object, actor_daemon.name,
                                   follow_body, instance_ref(instance), follow_free, NULL) < 0)
        log_warning("instance '%s': what was interrupted cannot go on: out of memory", instance->name);
}

/* Does the wish ask for something that is not the fact? An end that is not followed by a restart takes the wish back,
 * so what is wished running and does not run was interrupted, or pauses before a restart. */
static bool wants_follow(const struct instance *instance) {
    enum state state = instance->status.state;

    if (instance->removed || instance->unreachable || !instance->driver)
        return false;
    if (instance->yielded && instance->control.power == POWER_RUNNING) /* it goes on by itself */
        return false;
    if (instance->timer && !state_is_active(state)) /* its restart is under way */
        return false;
    switch (instance->control.power) {
    case POWER_RUNNING:
        return state != STATE_RUNNING && state != STATE_DELETED;
    case POWER_PAUSED:
        return state == STATE_RUNNING;
    case POWER_SUSPENDED:
        return state == STATE_RUNNING || state == STATE_PAUSED;
    case POWER_DELETED:
        return state != STATE_DELETED;
    default:
        return state_is_active(state) || state == STATE_SUSPENDED;
    }
}

/* Who waited for room comes first, in the order of arrival. */
static int compare_arrival(const void *a, const void *b) {
    const struct instance *first = *(struct instance *const *) a, *second = *(struct instance *const *) b;
    uint64_t x = first->control.queued ? first->control.queued : UINT64_MAX;
    uint64_t y = second->control.queued ? second->control.queued : UINT64_MAX;

    return x != y ? (x > y) - (x < y) : strcmp(first->name, second->name);
}

static void follow_one(struct instance *instance) {
    enum state state = instance->status.state;

    if (instance->yielded)
        admission_run(instance->manager); /* now that all are known that hold room */
    if (!wants_follow(instance))
        return;
    if (instance->control.power == POWER_RUNNING && (state == STATE_FAILED || state == STATE_STOPPED) &&
        !instance->control.queued)
        run_schedule_restart(instance); /* the pause before a restart, once more */
    if (!instance->timer)
        follow_start(instance);
}

static void follow_all(struct instance **instances, size_t count) {
    qsort(instances, count, sizeof(*instances), compare_arrival);
    for (size_t i = 0; i < count; i++)
        follow_one(instances[i]);
}

/* --- what nobody owns ------------------------------------------------------------------------------------------------------ */

static bool is_owned(struct manager *manager, const char *uuid, bool running) {
    const struct instance *instance = map_get(manager->by_uuid, uuid);

    if (!instance)
        return false;
    if (instance->unreachable)
        return true;
    return !running || state_is_active(instance->status.state) || instance->lock.owner;
}

static int remove_tree_job(void *userdata) {
    return file_remove_tree(AT_FDCWD, userdata);
}

struct listing {
    const char *path;
    char **names; /* that are uuids */
};

/* On a worker thread: the storage may hang. */
static int listing_job(void *userdata) {
    struct listing *listing = userdata;
    DIR *directory = opendir(listing->path);
    struct dirent *entry;
    int r = 0;

    if (!directory)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(directory)) && r >= 0)
        if (uuid_is_valid(entry->d_name))
            r = list_add(&listing->names, entry->d_name);
    closedir(directory);
    return r;
}

static int sweep_directory(struct manager *manager, const char *parent, bool running, bool remove, char ***found) {
    _cleanup_free_ char *path = text_format("%s/%s", running ? manager->configuration.run_path : manager->configuration.state_path,
                                            parent);
    struct listing listing = { .path = path };
    int r = path ? fiber_job(listing_job, &listing) : -ENOMEM;
    _cleanup_list_ char **names = listing.names;

    for (char **name = names; r >= 0 && name && *name; name++) {
        _cleanup_free_ char *full = NULL;
        if (is_owned(manager, *name, running))
            continue;
        full = text_format("%s/%s", path, *name);
        r = full ? list_add(found, full) : -ENOMEM;
        if (r >= 0 && remove)
            (void) fiber_job(remove_tree_job, full);
    }
    return r;
}

static int sweep_cgroups(struct manager *manager, bool remove, char ***found, struct error *error) {
    _cleanup_list_ char **uuids = NULL;
    int r = manager->cgroups ? cgroup_list(manager->cgroups, &uuids) : 0;

    for (char **uuid = uuids; r >= 0 && uuid && *uuid; uuid++) {
        if (is_owned(manager, *uuid, true))
            continue;
        r = list_addf(found, "cgroup %s", *uuid);
        if (r >= 0 && remove)
            r = cgroup_remove(manager->cgroups, *uuid, deadline_in(20 * CLOCK_SECOND), error);
    }
    return r;
}

static int sweep_network(struct manager *manager, bool remove, char ***found, struct error *error) {
    _cleanup_list_ char **known = NULL;
    _cleanup_list_ char **orphans = NULL;
    size_t position = 0;
    void *value;
    int r = 0;

    if (!manager->network)
        return 0;
    while (r >= 0 && map_next(manager->by_uuid, &position, NULL, &value)) {
        const struct instance *instance = value;
        if (state_is_active(instance->status.state) || instance->unreachable || instance->lock.owner)
            r = list_add(&known, instance->assigned.uuid);
    }
    if (r >= 0)
        r = network_orphans(manager->network, known, remove, &orphans, error);
    for (char **orphan = orphans; r >= 0 && orphan && *orphan; orphan++)
        r = list_addf(found, "network %s", *orphan);
    return r;
}

static int sweep_running(struct manager *manager, bool remove, char ***ret_found, struct error *error) {
    int r = sweep_cgroups(manager, remove, ret_found, error); /* first: it ends what still runs */

    if (r >= 0)
        r = sweep_network(manager, remove, ret_found, error);
    if (r >= 0)
        r = sweep_directory(manager, "i", true, remove, ret_found);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "looking for what nobody owns") : r;
}

int orphans_sweep(struct manager *manager, bool remove, char ***ret_found, struct error *error) {
    int r = sweep_running(manager, remove, ret_found, error);

    if (r < 0)
        return r;
    r = sweep_directory(manager, "instances", false, remove, ret_found);
    return r < 0 ? error_errno(error, r, "looking for what nobody owns") : 0;
}

/* --- all -------------------------------------------------------------------------------------------------------------------- */

static int adopt_network(struct manager *manager, struct error *error) {
    size_t count, members = 0;
    struct instance *const *sorted = registry_sorted(manager, &count);
    struct network_member *list;
    int r;

    if (!manager->network)
        return 0;
    list = calloc(count + 1, sizeof(*list));
    if (!list)
        return error_errno(error, -ENOMEM, "taking over the network");
    for (size_t i = 0; i < count; i++) {
        const struct instance *instance = sorted[i];
        if (!instance->assigned.address || !state_is_active(instance->status.state) || !same_boot(instance))
            continue;
        list[members++] = network_member_of(instance->name, &instance->assigned, &instance->spec);
    }
    r = network_adopt(manager->network, list, members, error);
    free(list);
    return r;
}

static void report_sweep(char *const *found) {
    for (char *const *item = found; item && *item; item++)
        log_notice("removed what no instance owns: %s", *item);
}

static void adopt_trouble(const char *what, struct error *trouble) {
    _cleanup_free_ char *sentence = error_sentence(trouble, LANGUAGE_ENGLISH);

    log_warning("%s: %s", what, sentence);
    error_clear(trouble);
}

/* A store that never held anything, beside instances that are here: its file system is not mounted, or it was moved
 * away. They would be ended as nobody's, so nothing is touched until somebody decides. */
static int refuse_strange_store(struct manager *manager, struct error *error) {
    _cleanup_list_ char **found = NULL;
    _cleanup_free_ char *problem = NULL;
    int r;

    if (manager->audit_sequence > 0 || map_count(manager->by_uuid) > 0)
        return 0;
    r = sweep_directory(manager, "i", true, false, &found);
    if (r < 0 || !found)
        return r < 0 ? error_errno(error, r, "looking for instances in %s", manager->configuration.run_path) : 0;
    problem = text_format("%s is new and empty, but instances are here; bring their store back, or remove %s and the like",
                          manager->configuration.state_path, found[0]);
    return error_set(error, ERROR_CORRUPT_STORE, problem ? problem : "it is empty", "with the store that is missing");
}

static int load_all(struct manager *manager, struct error *error) {
    int r = load_instances(manager, error);

    if (r >= 0)
        r = load_audit_sequence(manager, error);
    if (r >= 0)
        r = load_idempotency(manager, error);
    return r < 0 ? r : refuse_strange_store(manager, error);
}

/* Directories on storage that may hang: then it goes on beside everything else. */
static int sweep_main(void *userdata) {
    struct manager *manager = userdata;
    _cleanup_free_ char *path = text_format("%s/instances", manager->configuration.state_path);
    _cleanup_list_ char **found = NULL;
    int r = path ? storage_ask(manager->storage, path, DEADLINE_NONE, NULL) : -ENOMEM;

    if (r >= 0)
        r = sweep_directory(manager, "instances", false, true, &found);
    report_sweep(found);
    if (r < 0 && r != -ECANCELED)
        log_warning("looking for directories that nobody owns: %s", strerror(-r));
    return 0;
}

static void sweep_at_start(struct manager *manager) {
    _cleanup_list_ char **found = NULL;
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_fiber_ struct fiber *fiber = NULL;

    if (sweep_running(manager, true, &found, &trouble) < 0)
        adopt_trouble("removing what nobody owns", &trouble);
    report_sweep(found);
    if (fiber_start(&fiber, "sweep", sweep_main, manager) >= 0)
        (void) fiber_join(fiber, deadline_in(SWEEP_PATIENCE), NULL);
}

int adopt_all(struct manager *manager, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    struct instance **instances = NULL;
    size_t count = 0;
    int r = load_all(manager, error);

    if (r < 0)
        return r;
    if (adopt_network(manager, &trouble) < 0)
        adopt_trouble("the network could not be taken over", &trouble);
    r = instances_copy(manager, &instances, &count);
    if (r >= 0)
        r = adopt_instances(instances, count);
    if (r >= 0)
        sweep_at_start(manager);
    manager->followed = true;
    if (r >= 0)
        follow_all(instances, count);
    instances_free(instances, count);
    admission_run(manager);
    return r < 0 ? error_errno(error, r, "taking over instances") : 0;
}

/* --- the trash ------------------------------------------------------------------------------------------------------------- */

/* How long it has been in the trash: by the clock that nobody can set, as long as that runs. */
static uint64_t trash_age(const struct instance *instance) {
    uint64_t now = clock_wall();

    if (same_boot(instance) && instance->control.since > 0)
        return clock_now() - (uint64_t) instance->control.since;
    return now > instance->control.deleted ? now - instance->control.deleted : 0;
}

/* Past its time in the trash, or ended with --rm while the store took nothing. */
static bool is_overdue(const struct manager *manager, const struct instance *instance) {
    enum state state = instance->status.state;

    if (state == STATE_DELETED)
        return trash_age(instance) > manager->configuration.trash_seconds * CLOCK_SECOND;
    return instance->spec.remove && instance->status.finished && instance->control.power == POWER_STOPPED &&
           !instance->timer && (state == STATE_STOPPED || state == STATE_FAILED);
}

static int overdue_remove(struct instance *instance) {
    struct manager *manager = instance->manager;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);

    if (r < 0)
        return r;
    if (instance->assigned.kind != KIND_FAKE)
        r = storage_ask_instance(manager->storage, instance->state_path, deadline_in(STORAGE_PATIENCE), &error);
    if (r >= 0 && !instance->removed && is_overdue(manager, instance))
        r = run_purge(instance, &actor_daemon, &error);
    fiber_mutex_unlock(&instance->lock);
    return r;
}

/* Each is tried once: one whose storage hangs keeps none of the others. */
static int overdue_remove_all(struct manager *manager) {
    struct instance **instances = NULL;
    size_t count = 0;
    int r = instances_copy(manager, &instances, &count);

    for (size_t i = 0; i < count && r != -ECANCELED; i++)
        if (!instances[i]->removed && !instances[i]->lock.owner && is_overdue(manager, instances[i]))
            r = overdue_remove(instances[i]);
    instances_free(instances, count);
    return r;
}

static int storekeeper_main(void *userdata) {
    struct manager *manager = userdata;
    int r = storage_ask_images(manager->storage, DEADLINE_NONE, NULL);

    if (r >= 0)
        storage_tidy(manager->storage);
    return r;
}

/* Beside the sweeper, so that an image store that hangs holds up nothing but its own tidying. */
static void tidying_begin(struct manager *manager) {
    if (manager->storekeeper && !fiber_is_done(manager->storekeeper))
        return;
    fiber_unref(manager->storekeeper);
    manager->storekeeper = NULL;
    (void) fiber_start(&manager->storekeeper, "storekeeper", storekeeper_main, manager);
}

static int sweeper_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r != -ECANCELED) {
        r = overdue_remove_all(manager);
        if (r == -ECANCELED)
            break;
        idempotency_expire(manager);
        tidying_begin(manager);
        r = fiber_sleep(SWEEP_EVERY);
    }
    return 0;
}

int sweeper_start(struct manager *manager) {
    return fiber_start(&manager->sweeper, "sweeper", sweeper_main, manager);
}
