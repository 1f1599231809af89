// SPDX-License-Identifier: GPL-2.0-or-later
#include "fake-manager.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "drivers/log.h"

struct manager {
    struct events *events;
    struct operations *operations;
    unsigned instances, calls, streams;
    char *text;
};

struct manager *fake_manager_new(unsigned instances) {
    struct manager *manager = calloc(1, sizeof(*manager));

    if (!manager || events_new(16, &manager->events) < 0 || operations_new(&manager->operations) < 0)
        abort();
    manager->instances = instances;
    manager->text = text_format("{\"name\":\"web-1\",\"spec\":{\"image\":\"busybox\",\"padding\":\"%0900d\"},"
                                "\"assigned\":{\"uuid\":\"0\"},\"status\":{\"state\":\"running\"}}", 0);
    return manager;
}

void fake_manager_free(struct manager *manager) {
    operations_free(manager->operations);
    events_free(manager->events);
    free(manager->text);
    free(manager);
}

unsigned fake_manager_calls(const struct manager *manager) {
    return manager->calls;
}

unsigned fake_manager_streams(const struct manager *manager) {
    return manager->streams;
}

/* --- instances -------------------------------------------------------------------------------------------------- */

const char *manager_instance_text(struct manager *manager, const struct actor *actor, const char *name, size_t *ret_size,
                                  const char **ret_etag) {
    if (strcmp(name, "web-1") != 0)
        return NULL;
    if (ret_size)
        *ret_size = strlen(manager->text);
    if (ret_etag)
        *ret_etag = "\"1\"";
    return manager->text;
}

int manager_instances_emit(struct manager *manager, const struct instance_filter *filter, struct emitter *emitter,
                           struct error *error) {
    emit_object(emitter);
    emit_key(emitter, "instances");
    emit_array(emitter);
    for (unsigned i = 0; i < manager->instances && (filter->limit == 0 || i < filter->limit); i++)
        emit_raw(emitter, manager->text);
    emit_array_end(emitter);
    emit_key_text(emitter, "continue", NULL);
    emit_object_end(emitter);
    return 0;
}

static int fake_body(struct operation *operation, void *userdata, struct error *error) {
    operation_progress(operation, "working", 1, 2);
    if (userdata)
        return error_set(error, ERROR_NO_ROOM, "memory", "1GiB", "1MiB");
    return fiber_sleep(20000);
}

static int change(struct manager *manager, const char *type, bool fails, struct operation **ret) {
    manager->calls++;
    events_publish(manager->events, type, "instances/web-1", NULL);
    return operation_start(manager->operations, type, "instances/web-1", "root", fake_body,
                           fails ? manager : NULL, NULL, ret);
}

int manager_instance_create(struct manager *manager, const struct actor *actor, const struct instance_create *create,
                            struct operation **ret, char **ret_text, struct error *error) {
    if (create->name && name_check(create->name, error) < 0)
        return -EINVAL;
    if (create->dry_run) {
        *ret_text = strdup(manager->text);
        return 0;
    }
    return change(manager, "instance.create", false, ret);
}

int manager_instance_patch(struct manager *manager, const struct actor *actor, const char *name,
                           struct json_object *patch, const char *if_match, bool dry_run, struct operation **ret,
                           char **ret_text, struct error *error) {
    if (if_match && strcmp(if_match, "\"1\"") != 0)
        return error_set(error, ERROR_CHANGED, "instance", name);
    return change(manager, "instance.change", false, ret);
}

int manager_instance_action(struct manager *manager, const struct actor *actor, const char *name,
                            enum instance_action action, const struct action_options *options,
                            struct operation **ret, struct error *error) {
    if (options->ret_stream) {
        int r = manager_instance_attach(manager, actor, name, options->ret_stream, error);
        if (r >= 0)
            r = change(manager, "instance.start", false, ret);
        /* As the real one: the stream is there when the start is over. */
        return r < 0 ? r : operation_wait(*ret, UINT64_MAX, DEADLINE_NONE);
    }
    return change(manager, "instance.action", action == ACTION_SUSPEND, ret);
}

int manager_instance_signal(struct manager *manager, const struct actor *actor, const char *name, int number,
                            struct error *error) {
    manager->calls++;
    return 0;
}

int manager_instance_wait(struct manager *manager, const struct actor *actor, const char *name, const char *state,
                          uint64_t deadline, struct emitter *emitter, struct error *error) {
    int r = fiber_sleep(10000);

    if (r < 0)
        return r;
    emit_object(emitter);
    emit_key_text(emitter, "name", name);
    emit_key_text(emitter, "state", state);
    emit_object_end(emitter);
    return 0;
}

/* --- streams: what is written comes back; "yes" never ends; "exit N" ends at once ---------------------------------- */

struct fake_stream {
    struct stream stream;
    struct manager *manager;
    struct buffer bytes;
    struct fiber_queue changed;
    bool closed, endless;
    int code;
};

static long fake_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                      uint64_t deadline) {
    struct fake_stream *fake = CONTAINER_OF(stream, struct fake_stream, stream);

    *ret_channel = STREAM_OUTPUT;
    if (fake->endless) {
        int r = fiber_yield();
        memset(data, 'y', size);
        return r < 0 ? r : (long) size;
    }
    while (fake->bytes.size == 0 && !fake->closed) {
        int r = fiber_queue_wait(&fake->changed, deadline);
        if (r < 0)
            return r;
    }
    if (size > fake->bytes.size)
        size = fake->bytes.size;
    memcpy(data, fake->bytes.data ? fake->bytes.data : "", size);
    buffer_consume(&fake->bytes, size);
    fiber_queue_wake_all(&fake->changed);
    return (long) size;
}

static int fake_write(struct stream *stream, const void *data, size_t size, uint64_t deadline) {
    struct fake_stream *fake = CONTAINER_OF(stream, struct fake_stream, stream);

    while (fake->bytes.size > 256 * 1024) {
        int r = fiber_queue_wait(&fake->changed, deadline);
        if (r < 0)
            return r;
    }
    buffer_add(&fake->bytes, data, size);
    fiber_queue_wake_all(&fake->changed);
    return 0;
}

static int fake_close_input(struct stream *stream) {
    struct fake_stream *fake = CONTAINER_OF(stream, struct fake_stream, stream);

    fake->closed = true;
    fiber_queue_wake_all(&fake->changed);
    return 0;
}

static int fake_resize(struct stream *stream, uint16_t rows, uint16_t columns) {
    char text[64];

    snprintf(text, sizeof(text), "size %ux%u\n", rows, columns);
    return fake_write(stream, text, strlen(text), DEADLINE_NONE);
}

static int fake_result(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline) {
    *ret_code = CONTAINER_OF(stream, struct fake_stream, stream)->code;
    return 0;
}

static void fake_free(struct stream *stream) {
    struct fake_stream *fake = CONTAINER_OF(stream, struct fake_stream, stream);

    fake->manager->streams--;
    buffer_done(&fake->bytes);
    free(fake);
}

static int stream_new(struct manager *manager, struct stream **ret) {
    static const struct stream_operations operations = {
        .read = fake_read, .write = fake_write, .close_input = fake_close_input, .resize = fake_resize,
        .result = fake_result, .free = fake_free,
    };
    struct fake_stream *fake = calloc(1, sizeof(*fake));

    if (!fake)
        return -ENOMEM;
    fake->stream.operations = &operations;
    fake->manager = manager;
    manager->streams++;
    *ret = &fake->stream;
    return 0;
}

int manager_instance_exec(struct manager *manager, const struct actor *actor, const char *name,
                          const struct exec_request *request, struct stream **ret, struct error *error) {
    struct fake_stream *fake;
    int r;

    if (!strcmp(request->arguments[0], "missing"))
        return error_set(error, ERROR_NO_COMMAND, "missing");
    r = stream_new(manager, ret);
    if (r < 0)
        return r;
    fake = CONTAINER_OF(*ret, struct fake_stream, stream);
    fake->endless = !strcmp(request->arguments[0], "yes");
    if (!strcmp(request->arguments[0], "exit")) {
        fake->closed = true;
        fake->code = request->arguments[1] ? atoi(request->arguments[1]) : 0;
    }
    return 0;
}

int manager_instance_attach(struct manager *manager, const struct actor *actor, const char *name, struct stream **ret,
                            struct error *error) {
    return stream_new(manager, ret);
}

int manager_instance_console(struct manager *manager, const struct actor *actor, const char *name,
                             struct stream **ret, struct error *error) {
    return stream_new(manager, ret);
}

int manager_instance_vnc(struct manager *manager, const struct actor *actor, const char *name, int *ret_fd,
                         struct error *error) {
    return error_set(error, ERROR_NOT_SUPPORTED, "fake", "vnc", "it has no screen");
}

int manager_instance_get(struct manager *manager, const struct actor *actor, const char *name, const char *path,
                         struct stream **ret, struct error *error) {
    int r;

    if (!strcmp(path, "/missing"))
        return error_set(error, ERROR_NOT_FOUND, "file", path);
    r = stream_new(manager, ret);
    if (r == 0) {
        struct fake_stream *fake = CONTAINER_OF(*ret, struct fake_stream, stream);
        for (unsigned i = 0; i < 300000; i++)
            buffer_add(&fake->bytes, "tar", 3);
        fake->closed = true;
    }
    return r;
}

int manager_instance_put(struct manager *manager, const struct actor *actor, const char *name, const char *path,
                         struct stream **ret, struct error *error) {
    return stream_new(manager, ret);
}

int manager_instance_log(struct manager *manager, const struct actor *actor, const char *name, char **ret_state_path,
                         struct error *error) {
    return error_set(error, ERROR_NOT_FOUND, "log", name);
}

bool manager_instance_is_active(struct manager *manager, const char *name) {
    return false;
}

/* --- the rest ------------------------------------------------------------------------------------------------------- */

int manager_image_add(struct manager *manager, const struct actor *actor, const struct image_request *request,
                      struct operation **ret, struct error *error) {
    return change(manager, "image.add", false, ret);
}

int manager_image_remove(struct manager *manager, const struct actor *actor, const char *name, struct error *error) {
    manager->calls++;
    return error_set(error, ERROR_NOT_FOUND, "image", name);
}

int manager_image_tag(struct manager *manager, const struct actor *actor, const char *name, const char *alias,
                      struct error *error) {
    manager->calls++;
    return error_set(error, ERROR_NOT_FOUND, "image", name);
}

static int emit_nothing(struct emitter *emitter) {
    emit_object(emitter);
    emit_object_end(emitter);
    return 0;
}

int manager_image_prune(struct manager *manager, const struct actor *actor, bool all, struct emitter *emitter,
                        struct error *error) {
    manager->calls++;
    return emit_nothing(emitter);
}

const char *image_cursor_check(const char *text) {
    return NULL;
}

int manager_images_emit(struct manager *manager, const struct image_filter *filter, struct emitter *emitter) {
    return emit_nothing(emitter);
}

int manager_image_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error) {
    return error_set(error, ERROR_NOT_FOUND, "image", name);
}

void manager_node_emit(struct manager *manager, struct emitter *emitter) {
    (void) emit_nothing(emitter);
}

int manager_node_patch(struct manager *manager, const struct actor *actor, struct json_object *patch, bool dry_run,
                       struct error *error) {
    return 0;
}

int manager_queue_emit(struct manager *manager, size_t limit, struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_what_if_emit(struct manager *manager, const struct what_if *what_if, struct emitter *emitter,
                         struct error *error) {
    return emit_nothing(emitter);
}

int manager_why_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_ledger_write(struct manager *manager, struct buffer *out, struct error *error) {
    return 0;
}

int manager_decision_emit(struct manager *manager, uint64_t number, bool again, struct emitter *emitter,
                          struct error *error) {
    return emit_nothing(emitter);
}

int manager_optimize_plan_emit(struct manager *manager, const struct actor *actor, const struct optimize_request *request,
                               struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_optimize_emit(struct manager *manager, const char *id, struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_optimize_apply(struct manager *manager, const struct actor *actor, const char *id, struct operation **ret,
                           struct error *error) {
    return change(manager, "optimize.apply", false, ret);
}

int manager_advise_emit(struct manager *manager, const char *image, struct need *need, struct emitter *emitter,
                        struct error *error) {
    return emit_nothing(emitter);
}

int manager_allocation_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_doctor_emit(struct manager *manager, struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_fsck_emit(struct manager *manager, const struct actor *actor, bool deep, bool repair,
                      struct emitter *emitter, struct error *error) {
    manager->calls++;
    return emit_nothing(emitter);
}

int manager_fsck_start(struct manager *manager, const struct actor *actor, bool deep, bool repair, struct operation **ret,
                       struct error *error) {
    manager->calls++;
    return error_set(error, ERROR_NOT_SUPPORTED, "this manager", "checks", "it is a fake");
}

int manager_audit_emit(struct manager *manager, const struct actor *actor, const char *after, size_t limit,
                       struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_flows_emit(struct manager *manager, struct emitter *emitter, struct error *error) {
    return emit_nothing(emitter);
}

int manager_networks_emit(struct manager *manager, struct emitter *emitter) {
    return emit_nothing(emitter);
}

int manager_network_reset(struct manager *manager, const struct actor *actor, struct error *error) {
    manager->calls++;
    return 0;
}

struct events *manager_events(struct manager *manager) {
    return manager->events;
}

struct operations *manager_operations(struct manager *manager) {
    return manager->operations;
}

struct storage *manager_storage(struct manager *manager) {
    return NULL;
}

void manager_audit_refused(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                           const struct error *error) {
}

void manager_metrics(struct manager *manager, struct buffer *out) {
}

int storage_image_check(const struct image_request *request _unused_, struct error *error _unused_) {
    return 0;
}

int storage_upload_path(struct storage *storage, char **ret_path, struct error *error _unused_) {
    static unsigned count;

    *ret_path = text_format("/tmp/polder-upload-%d-%u", (int) getpid(), count++);
    return *ret_path ? 0 : -ENOMEM;
}

int log_reader_open(const char *state_path, int64_t tail, struct log_reader **ret) {
    return -ENOENT;
}

int log_reader_next(struct log_reader *reader, struct log_entry *ret) {
    return 0;
}

void log_reader_free(struct log_reader *reader) {
}
