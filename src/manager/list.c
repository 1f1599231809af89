// SPDX-License-Identifier: GPL-2.0-or-later
/* Reads that answer from memory: they wait for nothing and never ask a driver or a guest. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

const char *manager_instance_text(struct manager *manager, const struct actor *actor, const char *name, size_t *ret_size,
                                  const char **ret_etag) {
    struct instance *instance = registry_find(manager, name);
    size_t size = 0;
    const char *text = instance ? instance_text_for(instance, actor, &size) : NULL;

    if (!text)
        return NULL;
    if (ret_size)
        *ret_size = size;
    if (ret_etag)
        *ret_etag = instance->etag;
    return text;
}

/* "key" or "key=value", compared literally. */
static bool label_matches(char *const *labels, const char *wanted) {
    size_t length = strlen(wanted);
    bool with_value = strchr(wanted, '=') != NULL;

    for (char *const *label = labels; label && *label; label++) {
        if (with_value ? strcmp(*label, wanted) == 0
                       : strncmp(*label, wanted, length) == 0 && (*label)[length] == '=')
            return true;
    }
    return false;
}

static bool is_wanted(const struct instance *instance, const struct instance_filter *filter) {
    enum state state = instance->status.state;

    if (instance->uncommitted || (state == STATE_DELETED && !filter->deleted))
        return false;
    if (filter->after && strcmp(instance->name, filter->after) <= 0)
        return false;
    if (filter->kind && !text_equal(filter->kind, kind_name(instance->assigned.kind)))
        return false;
    if (filter->state && !text_equal(filter->state, state_name(state)))
        return false;
    if (filter->name && !text_starts(instance->name, filter->name))
        return false;
    return !filter->label || label_matches(instance->spec.labels, filter->label);
}

/* --- only some fields ------------------------------------------------------------------------------------------------- */

static void emit_field(struct json_object *object, const char *path, struct emitter *emitter) {
    _cleanup_free_ char *copy = strdup(path);
    char *position = copy, *part;
    struct json_object *value = object;
    const char *text;

    while (value && position && (part = strsep(&position, ".")))
        value = json_member(value, part);
    if (!copy)
        emitter->out->failed = true;
    if (!copy || !value)
        return;
    emit_key(emitter, path);
    text = json_plain(value);
    if (text)
        emit_raw(emitter, text);
    else
        emitter->out->failed = true;
}

static void emit_fields(struct instance *instance, const struct instance_filter *filter, struct emitter *emitter) {
    _cleanup_json_ struct json_object *object = NULL;
    size_t size;
    const char *text = instance_text_for(instance, filter->actor, &size);

    if (!text || json_parse(text, size, &object, NULL) < 0)
        return;
    emit_object(emitter);
    emit_key_text(emitter, "name", instance->name);
    for (char *const *fields = filter->fields; *fields; fields++)
        if (!text_equal(*fields, "name"))
            emit_field(object, *fields, emitter);
    emit_object_end(emitter);
}

int manager_instances_emit(struct manager *manager, const struct instance_filter *filter, struct emitter *emitter,
                           struct error *error) {
    size_t count, shown = 0;
    struct instance *const *sorted = registry_sorted(manager, &count);
    const char *last = NULL;
    bool more = false;

    (void) error;
    emit_object(emitter);
    emit_key(emitter, "instances");
    emit_array(emitter);
    for (size_t i = 0; i < count; i++) {
        const char *text;
        size_t size;
        if (!is_wanted(sorted[i], filter))
            continue;
        if (filter->limit && shown == filter->limit) {
            more = true;
            break;
        }
        text = filter->fields ? NULL : instance_text_for(sorted[i], filter->actor, &size);
        if (text)
            emit_raw(emitter, text);
        else if (filter->fields)
            emit_fields(sorted[i], filter, emitter);
        last = sorted[i]->name;
        shown++;
    }
    emit_array_end(emitter);
    /* `continue` is the last name shown: the next page starts after it. */
    emit_key_text(emitter, "continue", more ? last : NULL);
    emit_key_unsigned(emitter, "revision", events_last(manager->events));
    emit_object_end(emitter);
    return emitter->out->failed ? -ENOMEM : 0;
}
