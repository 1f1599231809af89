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

/* --- load ------------------------------------------------------------------------------------------------------------- */

static int load_instances(struct manager *manager, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(manager->store, INSTANCE_PREFIX, NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++) {
        _cleanup_instance_ struct instance *instance = NULL;
        r = instance_decode(manager, items.items[i].value, items.items[i].size, &instance, error);
        if (r >= 0)
            r = registry_add(manager, instance);
        if (r >= 0 && !text_is_empty(instance->assigned.image_digest))
            (void) storage_image_use(manager->storage, instance->assigned.image_digest, instance->assigned.uuid);
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
        const char *key = items.items[i].key + strlen(IDEMPOTENCY_PREFIX);
        _cleanup_free_ char *uuid = strndup(items.items[i].value, items.items[i].size);
        struct store_operation drop = { .type = STORE_DELETE, .key = items.items[i].key };

        if (uuid && map_get(manager->by_uuid, uuid))
            (void) idempotency_remember(manager, key, uuid, NULL);
        else
            r = store_commit(manager->store, &drop, 1, NULL, error);
    }
    store_items_done(&items);
    return r;
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

static void set_state(struct instance *instance, enum state state) {
    if (instance->status.state != (int) state)
        manager_mark_dirty(instance->manager, instance);
    instance->status.state = state;
    instance_touch(instance);
}

static int resolve_view(struct instance *instance) {
    const struct image *image = NULL;

    if (!text_is_empty(instance->assigned.image_digest))
        (void) storage_image_find(instance->manager->storage, instance->assigned.image_digest, &image, NULL);
    return instance_process(instance, image, NULL);
}

static bool may_run(const struct instance *instance) {
    enum state state = instance->status.state;

    return state_is_active(state) || state == STATE_STOPPING || state == STATE_QUEUED ||
           instance->control.power == POWER_RUNNING || instance->control.power == POWER_PAUSED ||
           instance->control.power == POWER_SUSPENDED;
}

/* It runs: keep it, at the state its wish implies; an interrupted stop, pause or delete goes on. */
static void adopted_running(struct instance *instance, bool paused) {
    struct driver_facts facts = { 0 };

    run_occupy(instance);
    set_state(instance, paused ? STATE_PAUSED : STATE_RUNNING);
    if (instance->driver->facts)
        instance->driver->facts(instance->driver_data, &instance->view, &facts);
    instance->status.pid = facts.pid;
    free(facts.hostname);
    list_free(facts.addresses);
    instance->ran_since = clock_now();
    if (instance->status.started && clock_wall() > instance->status.started) {
        uint64_t age = clock_wall() - instance->status.started;
        instance->ran_since = clock_now() > age ? clock_now() - age : 0;
    }
    (void) run_arm_timeout(instance);
}

static bool same_boot(const struct instance *instance) {
    return text_equal(instance->control.boot_id, clock_boot_id());
}

/* It does not run, though the record says it did. */
static void adopted_ended(struct instance *instance, const struct driver_exit *ended) {
    bool was_active = state_is_active(instance->status.state);

    if (was_active) {
        set_state(instance, instance->control.power == POWER_RUNNING ? STATE_RUNNING : STATE_STOPPING);
        run_after_end(instance, ended);
        if (!instance->removed && !same_boot(instance) && !instance->status.message)
            instance->status.message = strdup("the host was restarted while it ran");
    } else {
        (void) run_release(instance, NULL);
    }
}

struct follow {
    struct instance *instance;
};

/* Brings an instance to its wish when a crash cut the request short. */
static int follow_body(struct operation *operation, void *userdata, struct error *error) {
    struct follow *follow = userdata;
    struct instance *instance = follow->instance;
    enum state state;
    int r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);

    if (r < 0)
        return r;
    state = instance->status.state;
    instance->operation = operation;
    if (instance->removed)
        r = 0;
    else if (instance->control.power == POWER_RUNNING && (state == STATE_CREATED || state == STATE_STOPPED || state == STATE_FAILED))
        r = run_start(instance, operation, NULL, error);
    else if (instance->control.power == POWER_RUNNING && (state == STATE_PAUSED || state == STATE_SUSPENDED))
        r = run_resume(instance, operation, error);
    else if (instance->control.power == POWER_PAUSED && state == STATE_RUNNING)
        r = run_pause(instance, error);
    else if (instance->control.power == POWER_SUSPENDED && (state == STATE_RUNNING || state == STATE_PAUSED))
        r = run_suspend(instance, error);
    else if ((instance->control.power == POWER_STOPPED || instance->control.power == POWER_DELETED) && state_is_active(state))
        r = run_stop_and_wait(instance, instance->spec.stop_timeout, error);
    instance->operation = NULL;
    fiber_mutex_unlock(&instance->lock);
    return r;
}

static void follow_free(void *userdata) {
    struct follow *follow = userdata;

    instance_unref(follow->instance);
    free(follow);
}

static void follow_start(struct instance *instance) {
    struct manager *manager = instance->manager;
    _cleanup_free_ char *object = text_format("instances/%s", instance->name);
    struct follow *follow = calloc(1, sizeof(*follow));

    if (!follow || !object) {
        free(follow);
        return;
    }
    follow->instance = instance_ref(instance);
    (void) operation_start(manager->operations, "instance.reconcile", object, actor_daemon.name, follow_body, follow,
                           follow_free, NULL);
}

/* Does the wish ask for something that is not the fact, and may it be done without a person? */
static bool wants_follow(const struct instance *instance, enum state recorded) {
    enum state state = instance->status.state;
    enum power power = instance->control.power;

    if (instance->removed || instance->timer)
        return false;
    if (power == POWER_RUNNING)
        /* Interrupted before it ran, or running paused for a while; an end is the restart policy's business. */
        return state == STATE_PAUSED || state == STATE_SUSPENDED || state == STATE_CREATED ||
               ((state == STATE_STOPPED || state == STATE_FAILED) &&
                (recorded == STATE_QUEUED || recorded == STATE_STARTING || recorded == STATE_STOPPED));
    if (power == POWER_PAUSED)
        return state == STATE_RUNNING;
    if (power == POWER_SUSPENDED)
        return state == STATE_RUNNING || state == STATE_PAUSED;
    return state_is_active(state);
}

static void adopt_one(struct instance *instance) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct driver_exit ended = { .code = -1 };
    enum state recorded = instance->status.state;
    bool running = false, paused = false;
    int r = 0;

    if (!instance->driver)
        return;
    (void) resolve_view(instance);
    if (instance->manager->cgroups && instance->assigned.kind != KIND_FAKE && same_boot(instance) && may_run(instance))
        (void) cgroup_ensure(instance->manager->cgroups, instance->assigned.uuid, &instance->view.cgroup, NULL);
    if (may_run(instance))
        r = instance->driver->adopt(instance->driver_data, &instance->view, &running, &paused, &ended, &error);
    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        log_warning("instance '%s' could not be taken over: %s", instance->name, sentence);
    }
    if (recorded == STATE_QUEUED)
        set_state(instance, STATE_STOPPED);
    if (running)
        adopted_running(instance, paused);
    else if (recorded == STATE_STARTING || recorded == STATE_QUEUED) {
        (void) run_release(instance, NULL);
        set_state(instance, STATE_STOPPED);
    } else if (recorded == STATE_SUSPENDING) {
        /* Its memory was not whole on disk and its processes are gone: what ran has ended. */
        set_state(instance, STATE_RUNNING);
        adopted_ended(instance, &ended);
    } else if (recorded != STATE_SUSPENDED && recorded != STATE_DELETED)
        adopted_ended(instance, &ended);
    if (wants_follow(instance, recorded))
        follow_start(instance);
}

/* Adopting in parallel: one that hangs delays nobody else for longer than its own deadlines. */
static int adopt_main(void *userdata) {
    struct instance *instance = userdata;

    if (fiber_mutex_lock(&instance->lock, DEADLINE_NONE) >= 0) {
        if (!instance->removed)
            adopt_one(instance);
        fiber_mutex_unlock(&instance->lock);
    }
    instance_unref(instance);
    return 0;
}

static int adopt_instances(struct manager *manager) {
    size_t count, started = 0;
    struct instance *const *sorted = registry_sorted(manager, &count);
    struct instance **copy = calloc(count + 1, sizeof(*copy));
    struct fiber **fibers = calloc(count + 1, sizeof(*fibers));
    int r = copy && fibers ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < count; i++)
        copy[i] = sorted[i];
    for (size_t i = 0; r >= 0 && i < count; i++) {
        if (copy[i]->status.state == STATE_DELETED || !may_run(copy[i]))
            continue;
        if (fiber_start(&fibers[started], "adopt", adopt_main, instance_ref(copy[i])) < 0) {
            instance_unref(copy[i]);
            continue;
        }
        /* At most so many at once: each holds descriptors. */
        if (++started % 64 == 0)
            (void) fiber_join(fibers[started - 64], DEADLINE_NONE, NULL);
    }
    for (size_t i = 0; i < started; i++) {
        (void) fiber_join(fibers[i], DEADLINE_NONE, NULL);
        fiber_unref(fibers[i]);
    }
    free(copy);
    free(fibers);
    return r;
}

/* --- what nobody owns ------------------------------------------------------------------------------------------------------ */

static bool is_owned(struct manager *manager, const char *uuid, bool running) {
    const struct instance *instance = map_get(manager->by_uuid, uuid);

    if (!instance)
        return false;
    return !running || state_is_active(instance->status.state) || instance->lock.owner;
}

static int sweep_directory(struct manager *manager, const char *parent, bool running, bool remove, char ***found) {
    _cleanup_free_ char *path = text_format("%s/%s", running ? manager->configuration.run_path : manager->configuration.state_path,
                                            parent);
    _cleanup_list_ char **names = NULL;
    struct dirent *entry;
    DIR *directory = path ? opendir(path) : NULL;
    int r = 0;

    if (!directory)
        return path && errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(directory)) && r >= 0)
        if (uuid_is_valid(entry->d_name) && !is_owned(manager, entry->d_name, running))
            r = list_add(&names, entry->d_name);
    closedir(directory);
    for (char **name = names; r >= 0 && name && *name; name++) {
        _cleanup_free_ char *full = text_format("%s/%s", path, *name);
        r = full ? list_add(found, full) : -ENOMEM;
        if (r >= 0 && remove)
            (void) file_remove_tree(AT_FDCWD, full);
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
        if (state_is_active(instance->status.state) || instance->lock.owner)
            r = list_add(&known, instance->assigned.uuid);
    }
    if (r >= 0)
        r = network_orphans(manager->network, known, remove, &orphans, error);
    for (char **orphan = orphans; r >= 0 && orphan && *orphan; orphan++)
        r = list_addf(found, "network %s", *orphan);
    return r;
}

int orphans_sweep(struct manager *manager, bool remove, char ***ret_found, struct error *error) {
    int r = sweep_cgroups(manager, remove, ret_found, error); /* first: it ends what still runs */

    if (r >= 0)
        r = sweep_network(manager, remove, ret_found, error);
    if (r >= 0)
        r = sweep_directory(manager, "i", true, remove, ret_found);
    if (r >= 0)
        r = sweep_directory(manager, "instances", false, remove, ret_found);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "looking for what nobody owns") : r;
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
        list[members++] = (struct network_member){
            .uuid = instance->assigned.uuid, .name = instance->name, .mac = instance->assigned.mac,
            .address = instance->assigned.address, .ports = &instance->spec.publish,
        };
    }
    r = network_adopt(manager->network, list, members, error);
    free(list);
    return r;
}

static void report_sweep(char *const *found) {
    for (char *const *item = found; item && *item; item++)
        log_notice("removed what no instance owns: %s", *item);
}

int adopt_all(struct manager *manager, struct error *error) {
    _cleanup_list_ char **found = NULL;
    _cleanup_error_ struct error trouble = ERROR_INIT;
    int r = load_instances(manager, error);

    if (r >= 0)
        r = load_audit_sequence(manager, error);
    if (r >= 0)
        r = load_idempotency(manager, error);
    if (r < 0)
        return r;
    if (adopt_network(manager, &trouble) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&trouble, LANGUAGE_ENGLISH);
        log_warning("the network could not be taken over: %s", sentence);
        error_clear(&trouble);
    }
    r = adopt_instances(manager);
    if (r < 0)
        return error_errno(error, r, "taking over instances");
    if (orphans_sweep(manager, true, &found, &trouble) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&trouble, LANGUAGE_ENGLISH);
        log_warning("removing what nobody owns: %s", sentence);
    }
    report_sweep(found);
    admission_run(manager);
    return 0;
}

/* --- the trash ------------------------------------------------------------------------------------------------------------- */

static struct instance *overdue(struct manager *manager) {
    uint64_t keep = manager->configuration.trash_seconds * CLOCK_SECOND, now = clock_wall();
    size_t position = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        if (instance->status.state == STATE_DELETED && instance->control.deleted + keep < now && !instance->lock.owner)
            return instance;
    }
    return NULL;
}

static int sweeper_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r != -ECANCELED) {
        struct instance *instance = overdue(manager);
        _cleanup_instance_ struct instance *kept = instance ? instance_ref(instance) : NULL;
        _cleanup_error_ struct error error = ERROR_INIT;

        if (!kept) {
            r = fiber_sleep(SWEEP_EVERY);
            continue;
        }
        r = fiber_mutex_lock(&kept->lock, DEADLINE_NONE);
        if (r < 0)
            continue;
        if (!kept->removed && kept->status.state == STATE_DELETED)
            r = run_purge(kept, &actor_daemon, &error);
        fiber_mutex_unlock(&kept->lock);
        if (r < 0 && r != -ECANCELED)
            r = fiber_sleep(SWEEP_EVERY);
    }
    return 0;
}

int sweeper_start(struct manager *manager) {
    return fiber_start(&manager->sweeper, "sweeper", sweeper_main, manager);
}
