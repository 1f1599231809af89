// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

struct instance *registry_find(struct manager *manager, const char *name) {
    struct instance *instance = map_get(manager->by_name, name);

    if (!instance && uuid_is_valid(name)) {
        instance = map_get(manager->by_uuid, name);
        if (instance && instance->status.state == STATE_DELETED)
            instance = NULL;
    }
    return instance && !instance->uncommitted ? instance : NULL;
}

/* The one in the trash that was deleted last under this name, or by uuid. */
struct instance *registry_find_in_trash(struct manager *manager, const char *name) {
    struct instance *found = NULL;
    size_t position = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        if (instance->status.state != STATE_DELETED)
            continue;
        if (!text_equal(instance->name, name) && !text_equal(instance->assigned.uuid, name))
            continue;
        if (!found || found->control.deleted < instance->control.deleted)
            found = instance;
    }
    return found;
}

int registry_lookup(struct manager *manager, const char *name, bool trash, struct instance **ret,
                    struct error *error) {
    struct instance *instance = registry_find(manager, name);

    if (!instance && trash)
        instance = registry_find_in_trash(manager, name);
    if (!instance)
        return error_set(error, ERROR_NOT_FOUND, "instance", name);
    *ret = instance;
    return 0;
}

int registry_show(struct manager *manager, struct instance *instance) {
    manager->sorted_stale = true;
    return map_put(manager->by_name, instance->name, instance);
}

void registry_hide(struct manager *manager, struct instance *instance) {
    manager->sorted_stale = true;
    if (map_get(manager->by_name, instance->name) == instance)
        (void) map_remove(manager->by_name, instance->name);
}

int registry_add(struct manager *manager, struct instance *instance) {
    int r = map_put(manager->by_uuid, instance->assigned.uuid, instance);

    manager->sorted_stale = true;
    if (r >= 0 && instance->status.state != STATE_DELETED) {
        r = registry_show(manager, instance);
        if (r < 0)
            (void) map_remove(manager->by_uuid, instance->assigned.uuid);
    }
    if (r >= 0)
        (void) instance_ref(instance);
    return r;
}

void registry_remove(struct manager *manager, struct instance *instance) {
    registry_hide(manager, instance);
    if (map_remove(manager->by_uuid, instance->assigned.uuid))
        instance_unref(instance);
}

int registry_rename(struct manager *manager, struct instance *instance, const char *name) {
    char *copy = strdup(name);
    int r = copy ? 0 : -ENOMEM;

    if (r >= 0)
        r = map_put(manager->by_name, copy, instance);
    if (r < 0) {
        free(copy);
        return r;
    }
    (void) map_remove(manager->by_name, instance->name);
    free(instance->name);
    instance->name = copy;
    instance->view.name = copy;
    manager->sorted_stale = true;
    instance_touch(instance);
    return 0;
}

static int compare_names(const void *a, const void *b) {
    const struct instance *const *first = a, *const *second = b;
    int order = strcmp((*first)->name, (*second)->name);

    return order ? order : strcmp((*first)->assigned.uuid, (*second)->assigned.uuid);
}

struct instance *const *registry_sorted(struct manager *manager, size_t *ret_count) {
    size_t position = 0, count = map_count(manager->by_uuid);
    void *value;

    if (manager->sorted_stale || !manager->sorted) {
        struct instance **sorted = calloc(count + 1, sizeof(*sorted));
        if (!sorted) {
            *ret_count = 0;
            return manager->sorted;
        }
        count = 0;
        while (map_next(manager->by_uuid, &position, NULL, &value))
            sorted[count++] = value;
        qsort(sorted, count, sizeof(*sorted), compare_names);
        free(manager->sorted);
        manager->sorted = sorted;
        manager->sorted_count = count;
        manager->sorted_stale = false;
    }
    *ret_count = manager->sorted_count;
    return manager->sorted;
}

struct instance **registry_hold(struct manager *manager, size_t *ret_count) {
    struct instance *const *sorted = registry_sorted(manager, ret_count);
    struct instance **held = calloc(*ret_count + 1, sizeof(*held));

    for (size_t i = 0; held && i < *ret_count; i++)
        held[i] = instance_ref(sorted[i]);
    return held;
}

void registry_release(struct instance **held, size_t count) {
    for (size_t i = 0; held && i < count; i++)
        instance_unref(held[i]);
    free(held);
}
