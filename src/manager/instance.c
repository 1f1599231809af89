// SPDX-License-Identifier: GPL-2.0-or-later
#include "manager/instance.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

static const char *const power_names[] = { "stopped", "running", "paused", "suspended", "deleted", NULL };

#define CONTROL(member) offsetof(struct instance_control, member)
static const struct field control_fields[] = {
    { .name = "power", .type = FIELD_ENUM, .offset = CONTROL(power), .names = power_names, .initial = "stopped" },
    { .name = "boot_id", .type = FIELD_TEXT, .offset = CONTROL(boot_id) },
    { .name = "since", .type = FIELD_INTEGER, .offset = CONTROL(since), .maximum = INT64_MAX, .initial = "0" },
    { .name = "deleted", .type = FIELD_TIME, .offset = CONTROL(deleted) },
    { .name = "queued", .type = FIELD_TIME, .offset = CONTROL(queued) },
    { .name = "purge", .type = FIELD_BOOLEAN, .offset = CONTROL(purge), .initial = "false" },
    { .name = "restarting", .type = FIELD_BOOLEAN, .offset = CONTROL(restarting), .initial = "false" },
    { .name = "worked", .type = FIELD_INTEGER, .offset = CONTROL(worked), .maximum = INT64_MAX, .initial = "0" },
    { .name = "yielded", .type = FIELD_INTEGER, .offset = CONTROL(yielded), .maximum = INT64_MAX, .initial = "0" },
    { .name = "swapped", .type = FIELD_BOOLEAN, .offset = CONTROL(swapped), .initial = "false" },
    { .name = "memory_most", .type = FIELD_SIZE, .offset = CONTROL(memory_most), .initial = "0" },
    { .name = "memory_left", .type = FIELD_SIZE, .offset = CONTROL(memory_left), .initial = "0" },
    { .name = "memory_run", .type = FIELD_TIME, .offset = CONTROL(memory_run) },
    { .name = "failures", .type = FIELD_INTEGER, .offset = CONTROL(failures), .maximum = INT32_MAX, .initial = "0" },
};
const struct table instance_control_table = TABLE("control", struct instance_control, control_fields);

char *instance_key(const char *uuid) {
    return text_format("/instances/default/%s", uuid);
}

char *instance_name_key(const char *name) {
    return text_format("/names/default/%s", name);
}

int instance_new(struct manager *manager, const char *name, struct instance **ret) {
    _cleanup_instance_ struct instance *instance = calloc(1, sizeof(*instance));
    int r;

    if (!instance)
        return -ENOMEM;
    instance->references = 1;
    instance->manager = manager;
    instance->name = strdup(name);
    r = instance->name ? table_init(&instance_spec_table, &instance->spec) : -ENOMEM;
    if (r >= 0)
        r = table_init(&instance_assigned_table, &instance->assigned);
    if (r >= 0)
        r = table_init(&instance_status_table, &instance->status);
    if (r >= 0)
        r = table_init(&instance_control_table, &instance->control);
    if (r < 0)
        return r;
    instance->status.exit_code = -1;
    *ret = STEAL_PTR(instance);
    return 0;
}

struct instance *instance_ref(struct instance *instance) {
    instance->references++;
    return instance;
}

void process_settings_done(struct process_settings *process) {
    list_free(process->arguments);
    list_free(process->environment);
    free(process->user);
    free(process->working_directory);
    *process = (struct process_settings){ 0 };
}

void instance_unref(struct instance *instance) {
    if (!instance || --instance->references > 0)
        return;
    table_done(&instance_spec_table, &instance->spec);
    table_done(&instance_assigned_table, &instance->assigned);
    table_done(&instance_status_table, &instance->status);
    table_done(&instance_control_table, &instance->control);
    process_settings_done(&instance->view.process);
    instance_share_done(&instance->share);
    instance_use_done(&instance->use);
    cgroup_free(instance->view.cgroup);
    free(instance->state_path);
    free(instance->run_path);
    free(instance->text);
    free(instance->reader_text);
    free(instance->end.reason);
    free(instance->name);
    free(instance);
}

static void emit_part(struct emitter *emitter, const char *key, const struct table *table, const void *object) {
    emit_key(emitter, key);
    emit_object(emitter);
    table_emit(table, object, emitter);
    emit_object_end(emitter);
}

static void emit_instance(const struct instance *instance, const struct instance_spec *spec, bool record,
                          struct emitter *emitter) {
    emit_object(emitter);
    emit_key_text(emitter, "name", instance->name);
    emit_part(emitter, "spec", &instance_spec_table, spec);
    emit_part(emitter, "assigned", &instance_assigned_table, &instance->assigned);
    emit_part(emitter, "status", &instance_status_table, &instance->status);
    if (record)
        emit_part(emitter, "control", &instance_control_table, &instance->control);
    emit_object_end(emitter);
}

int instance_encode(const struct instance *instance, char **ret_text) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);

    emit_instance(instance, &instance->spec, true, &emitter);
    return buffer_take(&buffer, ret_text);
}

static int decode_part(struct json_object *record, const char *key, const struct table *table, void *object,
                       struct error *error) {
    struct json_object *part = json_member(record, key);

    if (!part)
        return error_set(error, ERROR_MISSING_FIELD, key);
    return table_decode(table, part, DECODE_STORED, object, error);
}

int instance_decode(struct manager *manager, const char *text, size_t size, struct instance **ret,
                    struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    _cleanup_json_ struct json_object *record = NULL;
    const char *name;
    int r = json_parse(text, size, &record, error);

    if (r < 0)
        return r;
    name = json_text(record, "name", NULL);
    if (!name || !name_is_valid(name))
        return error_set(error, ERROR_BAD_NAME, name);
    r = instance_new(manager, name, &instance);
    if (r >= 0)
        r = decode_part(record, "spec", &instance_spec_table, &instance->spec, error);
    if (r >= 0)
        r = decode_part(record, "assigned", &instance_assigned_table, &instance->assigned, error);
    if (r >= 0)
        r = decode_part(record, "status", &instance_status_table, &instance->status, error);
    if (r >= 0)
        r = decode_part(record, "control", &instance_control_table, &instance->control, error);
    if (r >= 0)
        r = instance_prepare(instance);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(instance);
    return 0;
}

void instance_touch(struct instance *instance) {
    free(instance->text);
    free(instance->reader_text);
    instance->text = instance->reader_text = NULL;
    instance->changes++;
    fiber_queue_wake_all(&instance->changed);
}

const char *instance_text(struct instance *instance) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);

    if (instance->text)
        return instance->text;
    emit_instance(instance, &instance->spec, false, &emitter);
    instance->text_size = buffer.size;
    if (buffer_take(&buffer, &instance->text) < 0)
        return NULL;
    /* Only the wish counts for If-Match: status changes by themselves and must not make a patch fail. */
    snprintf(instance->etag, sizeof(instance->etag), "\"%" PRIi64 "\"", instance->assigned.generation);
    return instance->text;
}

const char *instance_text_for(struct instance *instance, const struct actor *actor, size_t *ret_size) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct instance_spec shown = instance->spec; /* borrows everything */
    const char *text = instance_text(instance);

    if (!text || (actor && actor->role == ROLE_ADMIN) || (!shown.environment && !shown.user_data)) {
        *ret_size = text ? instance->text_size : 0;
        return text;
    }
    if (!instance->reader_text) {
        shown.environment = NULL;
        shown.user_data = NULL;
        emit_instance(instance, &shown, false, &emitter);
        instance->reader_size = buffer.size;
        if (buffer_take(&buffer, &instance->reader_text) < 0)
            return NULL;
    }
    *ret_size = instance->reader_size;
    return instance->reader_text;
}

int instance_prepare(struct instance *instance) {
    const struct manager_configuration *configuration = manager_configuration(instance->manager);
    struct driver_instance *view = &instance->view;

    free(instance->state_path);
    free(instance->run_path);
    instance->state_path = text_format("%s/instances/%s", configuration->state_path, instance->assigned.uuid);
    instance->run_path = text_format("%s/i/%s", configuration->run_path, instance->assigned.uuid);
    if (!instance->state_path || !instance->run_path)
        return -ENOMEM;
    instance->driver = manager_driver(instance->manager, instance->assigned.kind, &instance->driver_data);
    view->name = instance->name;
    view->spec = &instance->spec;
    view->assigned = &instance->assigned;
    view->state_path = instance->state_path;
    view->run_path = instance->run_path;
    view->driver = instance->driver;
    view->manager_data = instance;
    return 0;
}

static int list_append(char ***list, char *const *more) {
    int r = 0;

    for (; r >= 0 && more && *more; more++)
        r = list_add(list, *more);
    return r;
}

/* Later assignments of a name replace earlier ones. */
static int environment_merge(char *const *base, char *const *more, char ***ret) {
    _cleanup_list_ char **merged = NULL;
    int r = 0;

    for (char *const *entry = base; r >= 0 && entry && *entry; entry++) {
        size_t length = strcspn(*entry, "=") + 1;
        bool replaced = false;
        for (char *const *other = more; other && *other; other++)
            replaced = replaced || strncmp(*other, *entry, length) == 0;
        if (!replaced)
            r = list_add(&merged, *entry);
    }
    if (r >= 0)
        r = list_append(&merged, more);
    if (r >= 0)
        *ret = STEAL_PTR(merged);
    return r;
}

static int process_arguments(const struct instance_spec *spec, const struct image_config *config, char ***ret) {
    _cleanup_list_ char **arguments = NULL;
    int r;

    /* As docker does: a new entrypoint drops the image's command too. */
    r = list_append(&arguments, spec->entrypoint ? spec->entrypoint : config->entrypoint);
    if (r >= 0)
        r = list_append(&arguments, spec->command || spec->entrypoint ? spec->command : config->command);
    if (r >= 0)
        *ret = STEAL_PTR(arguments);
    return r;
}

static int text_choose(char **target, const char *first, const char *second) {
    const char *text = !text_is_empty(first) ? first : !text_is_empty(second) ? second : "";

    *target = strdup(text);
    return *target ? 0 : -ENOMEM;
}

int instance_process(struct instance *instance, const struct image *image, struct error *error) {
    static const struct image_config no_config = { 0 };
    const struct image_config *config = image ? &image->config : &no_config;
    const struct instance_spec *spec = &instance->spec;
    struct process_settings *process = &instance->view.process;
    int r, number;

    process_settings_done(process);
    r = process_arguments(spec, config, &process->arguments);
    if (r >= 0)
        r = environment_merge(config->environment, spec->environment, &process->environment);
    if (r >= 0)
        r = text_choose(&process->user, spec->user, config->user);
    if (r >= 0)
        r = text_choose(&process->working_directory, spec->working_directory, config->working_directory);
    if (r < 0)
        return error_errno(error, r, "preparing the process");
    process->tty = spec->tty;
    process->stdin_open = spec->stdin_open;
    number = signal_from_name(!text_is_empty(spec->stop_signal) ? spec->stop_signal
                              : !text_is_empty(config->stop_signal) ? config->stop_signal : "SIGTERM");
    process->stop_signal = number > 0 ? number : 15;
    instance->view.image = image;
    if (!process->arguments && (instance->assigned.kind == KIND_CONTAINER || instance->assigned.kind == KIND_MICROVM))
        return error_set(error, ERROR_MISSING_FIELD, "command");
    return 0;
}

static void advance_publish(struct instance *instance, enum state before) {
    if ((before == STATE_RUNNING) != (instance->status.state == STATE_RUNNING))
        allocation_changed(instance->manager);
    _cleanup_free_ char *object = text_format("instances/%s", instance->name);
    _cleanup_free_ char *type = text_format("instance.%s", state_name(instance->status.state));
    _cleanup_free_ char *detail = text_format("\"uuid\":\"%s\",\"state\":\"%s\",\"previous\":\"%s\",\"exit_code\":%" PRIi64,
                                              instance->assigned.uuid, state_name(instance->status.state),
                                              state_name(before), instance->status.exit_code);

    if (object && type && detail)
        events_publish(manager_events(instance->manager), type, object, detail);
}

int instance_advance(struct instance *instance, enum lifecycle_event event, struct error *error) {
    enum state before = instance->status.state, after;
    int r = lifecycle_check(before, event, &after, error);

    if (r < 0) {
        log_debug("instance '%s': event %s is not legal in state %s", instance->name, lifecycle_event_name(event),
                  state_name(before));
        return r;
    }
    instance->status.state = after;
    manager_mark_dirty(instance->manager, instance);
    instance_touch(instance);
    if (after != before)
        advance_publish(instance, before);
    return 0;
}

void instance_set_state(struct instance *instance, enum state state) {
    enum state before = instance->status.state;

    if (state == before)
        return;
    instance->status.state = state;
    manager_mark_dirty(instance->manager, instance);
    instance_touch(instance);
    advance_publish(instance, before);
}

void instance_set_vnc(struct instance *instance, const char *path) {
    free(instance->status.vnc);
    instance->status.vnc = path ? strdup(path) : NULL;
}

void instance_set_reason(struct instance *instance, const struct error *error) {
    free(instance->status.reason);
    free(instance->status.message);
    instance->status.reason = instance->status.message = NULL;
    if (error && error_is_set(error)) {
        instance->status.reason = strdup(error_wire(error->code));
        instance->status.message = error_sentence(error, LANGUAGE_ENGLISH);
    }
    instance_touch(instance);
}
