// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder fsck`: do records, host and files agree? Each problem is a sentence that names the object. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/process.h"
#include "base/text.h"
#include "manager/internal.h"

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
        !cgroup_holds(instance->view.cgroup, (int) facts.pid))
        r = list_addf(problems, "instance '%s': process %" PRIi64 " is not in its control group", instance->name, facts.pid);
    if (r >= 0 && instance->assigned.kind != KIND_FAKE && facts.pid <= 0)
        r = list_addf(problems, "instance '%s' is %s but has no process", instance->name,
                      state_name(instance->status.state));
    free(facts.hostname);
    list_free(facts.addresses);
    return r;
}

static int check_image(struct manager *manager, const struct instance *instance, char ***problems) {
    const struct image *image;

    if (text_is_empty(instance->assigned.image_digest) ||
        storage_image_find(manager->storage, instance->assigned.image_digest, &image, NULL) >= 0)
        return 0;
    return list_addf(problems, "instance '%s': its image %s is missing", instance->name, instance->assigned.image_digest);
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

static int check_names(struct manager *manager, char ***problems, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(manager->store, "/names/default/", NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++) {
        const char *name = items.items[i].key + strlen("/names/default/");
        const struct instance *instance = map_get(manager->by_name, name);
        if (!instance || strncmp(instance->assigned.uuid, items.items[i].value, items.items[i].size) != 0)
            r = list_addf(problems, "the name '%s' points to no live instance", name);
    }
    if (r >= 0 && items.count < map_count(manager->by_name))
        r = list_addf(problems, "%zu live instances but only %zu names", map_count(manager->by_name), items.count);
    store_items_done(&items);
    return r;
}

static int check_instances(struct manager *manager, char ***problems) {
    size_t count;
    struct instance *const *sorted = registry_sorted(manager, &count);
    int r = 0;

    for (size_t i = 0; i < count && r >= 0; i++) {
        struct instance *instance = sorted[i];
        if (instance->lock.owner)
            continue; /* in the middle of a change */
        r = check_image(manager, instance, problems);
        if (r >= 0 && (instance->status.state == STATE_RUNNING || instance->status.state == STATE_PAUSED))
            r = check_process(instance, problems);
    }
    return r;
}

static int check_all(struct manager *manager, bool deep, bool repair, char ***problems, struct error *error) {
    int r = check_instances(manager, problems);

    if (r >= 0)
        r = check_shared(manager, problems);
    if (r >= 0)
        r = check_names(manager, problems, error);
    if (r >= 0)
        r = orphans_sweep(manager, repair, problems, error);
    if (r >= 0)
        r = storage_check(manager->storage, deep, problems, error);
    if (r >= 0 && deep)
        r = check_store(manager, problems, error);
    return r;
}

int manager_fsck_emit(struct manager *manager, const struct actor *actor, bool deep, bool repair,
                      struct emitter *emitter, struct error *error) {
    _cleanup_list_ char **problems = NULL;
    int r = authorise(actor, "default", PERMISSION_ADMIN, "fsck", error);

    if (r >= 0)
        r = manager_flush(manager, error);
    if (r >= 0)
        r = check_all(manager, deep, repair, &problems, error);
    if (r < 0)
        return r == -ENOMEM ? error_errno(error, r, "checking") : r;
    audit_note(manager, actor, "fsck", "node", "ok");
    emit_object(emitter);
    emit_key_boolean(emitter, "clean", list_count(problems) == 0);
    emit_key_list(emitter, "problems", problems);
    emit_object_end(emitter);
    return 0;
}
