// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder fsck`: do records, host and files agree? Each problem is a sentence that names the object. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define FLUSH_DEADLINE (5 * CLOCK_SECOND)

static int check_store(struct manager *manager, char ***problems, struct error *error) {
    _cleanup_free_ char *problem = NULL;
    int r = store_check(manager->store, &problem, error);

    return r >= 0 && problem ? list_addf(problems, "store: %s", problem) : r;
}

static int check_process(const struct instance *instance, char ***problems) {
    struct driver_facts facts = { 0 };
    int r = 0;

    if (instance->driver && instance->driver->facts)
        instance->driver->facts(instance->driver_data, &instance->view, &facts);
    if (instance->assigned.kind != KIND_FAKE && facts.pid > 0 && instance->view.cgroup &&
        !cgroup_holds(instance->view.cgroup, (int) facts.pid) && !proc_is_ending((pid_t) facts.pid))
        r = list_addf(problems, "instance '%s': process %" PRIi64 " is not in its control group", instance->name, facts.pid);
    if (r >= 0 && instance->assigned.kind != KIND_FAKE && facts.pid <= 0)
        r = list_addf(problems, "instance '%s' is %s but has no process", instance->name,
                      state_name(instance->status.state));
    free(facts.hostname);
    list_free(facts.addresses);
    return r;
}

static int check_image(struct manager *manager, const struct instance *instance, char ***problems) {
    const char *const digests[] = { instance->assigned.image_digest, instance->assigned.cdrom_digest };
    const struct image *image;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(digests); i++)
        if (!text_is_empty(digests[i]) && storage_image_find(manager->storage, digests[i], &image, NULL) < 0)
            r = list_addf(problems, "instance '%s': its image %s is missing", instance->name, digests[i]);
    return r;
}

static int check_pair(const struct instance *a, const struct instance *b, char ***problems) {
    int r = 0;

    if (a->assigned.uid_base == b->assigned.uid_base)
        r = list_addf(problems, "instances '%s' and '%s' share the user ids from %" PRIi64, a->name, b->name,
                      a->assigned.uid_base);
    if (r >= 0 && a->assigned.address && text_equal(a->assigned.address, b->assigned.address))
        r = list_addf(problems, "instances '%s' and '%s' share the address %s", a->name, b->name, a->assigned.address);
    return r;
}

static int compare_uid(const void *a, const void *b) {
    const struct instance *const *first = a, *const *second = b;

    return ((*first)->assigned.uid_base > (*second)->assigned.uid_base) -
           ((*first)->assigned.uid_base < (*second)->assigned.uid_base);
}

/* What two instances must never share: neighbours after sorting by id range. */
static int check_shared(struct manager *manager, char ***problems) {
    size_t count;
    struct instance *const *sorted = registry_sorted(manager, &count);
    struct instance **copy = calloc(count + 1, sizeof(*copy));
    int r = copy ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < count; i++)
        copy[i] = sorted[i];
    if (r >= 0)
        qsort(copy, count, sizeof(*copy), compare_uid);
    for (size_t i = 1; r >= 0 && i < count; i++)
        r = check_pair(copy[i - 1], copy[i], problems);
    free(copy);
    return r;
}

/* A name that was changed while the list was read is no problem: it is looked at once more. */
static bool name_is_wrong(struct manager *manager, const char *key) {
    const struct instance *instance = map_get(manager->by_name, key + strlen(NAME_PREFIX));
    struct store_item item = { 0 };
    bool wrong;

    if (store_get(manager->store, key, &item, NULL) < 0)
        return false;
    instance = map_get(manager->by_name, key + strlen(NAME_PREFIX));
    wrong = !instance || strlen(instance->assigned.uuid) != item.size ||
            memcmp(instance->assigned.uuid, item.value, item.size) != 0;
    store_item_done(&item);
    return wrong && !(instance && instance->lock.owner);
}

static int check_names(struct manager *manager, char ***problems, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(manager->store, NAME_PREFIX, NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++) {
        const struct instance *instance = map_get(manager->by_name, items.items[i].key + strlen(NAME_PREFIX));
        if (!instance || strncmp(instance->assigned.uuid, items.items[i].value, items.items[i].size) != 0)
            if (name_is_wrong(manager, items.items[i].key))
                r = list_addf(problems, "the name '%s' points to no live instance",
                              items.items[i].key + strlen(NAME_PREFIX));
    }
    store_items_done(&items);
    return r;
}

/* Has each instance its record, and the living their name? Asked of the store one by one. */
static int check_record(struct manager *manager, struct instance *instance, char ***problems) {
    _cleanup_free_ char *key = instance_key(instance->assigned.uuid), *name_key = instance_name_key(instance->name);
    struct store_item item = { 0 };
    int r = 0;

    if (!key || !name_key)
        return -ENOMEM;
    if (store_get(manager->store, key, &item, NULL) == -ENOENT && !instance->removed && !instance->lock.owner)
        r = list_addf(problems, "instance '%s' has no record", instance->name);
    store_item_done(&item);
    item = (struct store_item){ 0 };
    if (r >= 0 && instance->status.state != STATE_DELETED && store_get(manager->store, name_key, &item, NULL) == -ENOENT &&
        !instance->removed && !instance->lock.owner && instance->status.state != STATE_DELETED)
        r = list_addf(problems, "instance '%s' has no entry in the index of names", instance->name);
    store_item_done(&item);
    return r;
}

static int check_records(struct manager *manager, char ***problems, struct error *error) {
    struct store_items items = { 0 };
    size_t count;
    struct instance **copy = registry_hold(manager, &count);
    int r = copy ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < count; i++)
        if (!copy[i]->uncommitted)
            r = check_record(manager, copy[i], problems);
    registry_release(copy, count);
    if (r >= 0)
        r = store_list(manager->store, INSTANCE_PREFIX, NULL, 0, false, &items, error);
    for (size_t i = 0; i < items.count && r >= 0; i++) {
        const char *uuid = strrchr(items.items[i].key, '/') + 1;
        struct store_item item = { 0 };
        if (map_get(manager->by_uuid, uuid))
            continue;
        if (store_get(manager->store, items.items[i].key, &item, NULL) >= 0 && !map_get(manager->by_uuid, uuid))
            r = list_addf(problems, "the record '%s' belongs to no instance", items.items[i].key);
        store_item_done(&item);
    }
    store_items_done(&items);
    return r;
}

/* What the engine believes to have promised, against a recount. */
static int check_ledger(struct manager *manager, char ***problems) {
    uint64_t cpus = 0, memory = 0;
    struct engine_totals totals;
    size_t position = 0, admitted = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        const struct instance *instance = value;
        if (instance->lock.owner)
            return 0; /* in the middle of a change */
        if (!instance->admitted)
            continue;
        admitted++;
        cpus += instance->spec.cpus;
        memory += instance->spec.memory;
        if (!state_is_active(instance->status.state)) {
            int r = list_addf(problems, "instance '%s' is %s but holds room", instance->name,
                              state_name(instance->status.state));
            if (r < 0)
                return r;
        }
    }
    engine_totals(manager->engine, &totals);
    if (totals.admitted == admitted && totals.promised_cpus == cpus && totals.promised_memory == memory)
        return 0;
    return list_addf(problems, "the engine has promised %" PRIu64 " thousandths of a CPU and %" PRIu64
                     " bytes to %zu instances, but %zu hold %" PRIu64 " and %" PRIu64,
                     totals.promised_cpus, totals.promised_memory, totals.admitted, admitted, cpus, memory);
}

static int check_instances(struct manager *manager, char ***problems) {
    size_t count;
    struct instance *const *sorted = registry_sorted(manager, &count);
    int r = 0;

    for (size_t i = 0; i < count && r >= 0; i++) {
        struct instance *instance = sorted[i];
        if (instance->lock.owner || instance->uncommitted)
            continue; /* in the middle of a change */
        if (state_is_active(instance->status.state) && !instance->admitted && !instance->yielded)
            r = list_addf(problems, "instance '%s' is %s but holds no room", instance->name,
                          state_name(instance->status.state));
        if (r >= 0)
            r = check_image(manager, instance, problems);
        if (r >= 0 && (instance->status.state == STATE_RUNNING || instance->status.state == STATE_PAUSED))
            r = check_process(instance, problems);
    }
    return r;
}

static int check_all(struct manager *manager, bool deep, bool repair, const struct storage_progress *progress,
                     char ***problems, struct error *error) {
    int r = check_instances(manager, problems);

    if (r >= 0)
        r = check_shared(manager, problems);
    if (r >= 0)
        r = check_names(manager, problems, error);
    if (r >= 0)
        r = check_records(manager, problems, error);
    if (r >= 0)
        r = check_ledger(manager, problems);
    if (r >= 0)
        r = orphans_sweep(manager, repair, problems, error);
    if (r >= 0)
        r = storage_check(manager->storage, deep, progress, problems, error);
    if (r >= 0 && deep)
        r = fsck_modes(manager, problems, error);
    if (r >= 0 && deep)
        r = fsck_disks(manager, problems, error);
    if (r >= 0 && deep)
        r = check_store(manager, problems, error);
    return r;
}

/* Authorised by its caller. */
static int check_and_emit(struct manager *manager, const struct actor *actor, bool deep, bool repair,
                          const struct storage_progress *progress, struct emitter *emitter, struct error *error) {
    _cleanup_list_ char **problems = NULL;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    int r;

    if (manager_flush(manager, deadline_in(FLUSH_DEADLINE), &ignored) < 0)
        log_debug("fsck: not everything observed is written yet");
    r = check_all(manager, deep, repair, progress, &problems, error);
    if (r < 0)
        return audit_refusal(manager, actor, "fsck", "node", error_is_set(error) ? r : error_errno(error, r, "checking"),
                             error);
    audit_note(manager, actor, "fsck", "node", "ok");
    emit_object(emitter);
    emit_key_boolean(emitter, "clean", list_count(problems) == 0);
    emit_key_list(emitter, "problems", problems);
    emit_object_end(emitter);
    return 0;
}

int manager_fsck_emit(struct manager *manager, const struct actor *actor, bool deep, bool repair,
                      struct emitter *emitter, struct error *error) {
    int r = authorise(actor, "default", PERMISSION_ADMIN, "fsck", error);

    return r < 0 ? audit_refusal(manager, actor, "fsck", "node", r, error)
                 : check_and_emit(manager, actor, deep, repair, NULL, emitter, error);
}

/* --- as an operation, which tells how far it is ------------------------------------------------------------------------ */

struct fsck {
    struct manager *manager;
    struct actor actor;
    char *actor_name;
    bool deep, repair;
};

static void fsck_free(void *userdata) {
    struct fsck *fsck = userdata;

    free(fsck->actor_name);
    free(fsck);
}

static void report(const char *step, uint64_t done, uint64_t total, void *userdata) {
    operation_progress(userdata, step, done, total);
}

static int fsck_body(struct operation *operation, void *userdata, struct error *error) {
    const struct storage_progress progress = { .report = report, .userdata = operation };
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct fsck *fsck = userdata;
    int r = check_and_emit(fsck->manager, &fsck->actor, fsck->deep, fsck->repair, &progress, &emitter, error);

    return r < 0 ? r : buffer_take(&buffer, &operation->result);
}

int manager_fsck_start(struct manager *manager, const struct actor *actor, bool deep, bool repair, struct operation **ret,
                       struct error *error) {
    struct fsck *fsck;
    int r = authorise(actor, "default", PERMISSION_ADMIN, "fsck", error);

    if (r < 0)
        return audit_refusal(manager, actor, "fsck", "node", r, error);
    fsck = calloc(1, sizeof(*fsck));
    if (!fsck)
        return error_errno(error, -ENOMEM, "checking");
    *fsck = (struct fsck){ .manager = manager, .deep = deep, .repair = repair, .actor_name = strdup(actor->name) };
    fsck->actor = (struct actor){ .name = fsck->actor_name, .origin = actor->origin, .role = actor->role };
    if (!fsck->actor_name) {
        fsck_free(fsck);
        return error_errno(error, -ENOMEM, "checking");
    }
    r = operation_start(manager->operations, "node.check", "node", actor->name, fsck_body, fsck, fsck_free, ret);
    if (r < 0)
        return error_errno(error, r, "checking");
    (*ret)->restricted = true; /* it names what lies open */
    return 0;
}
