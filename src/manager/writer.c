// SPDX-License-Identifier: GPL-2.0-or-later
/* Writing. What a request asks for is committed before it is acknowledged (manager_commit_instance). What was merely
 * observed (states, exit codes, refusals for the audit trail) is marked dirty and written in batches by one background
 * fiber, so that a storm of events costs few fsyncs; whoever must not go on before that is durable calls
 * manager_flush. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

#define WRITER_BATCH 100
#define WRITER_BYTES (512 * 1024)
#define WRITER_PAUSE (20 * CLOCK_MILLISECOND)
#define WRITER_RETRY (1 * CLOCK_SECOND)
#define AUDIT_WAITING_MAX 10000

void manager_mark_dirty(struct manager *manager, struct instance *instance) {
    instance->dirty = true;
    manager->dirty = true;
    fiber_queue_wake_all(&manager->dirty_queue);
}

int audit_build(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                const char *result, char **ret_key, char **ret_value) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    _cleanup_free_ char *key = text_format(AUDIT_PREFIX "%020" PRIu64, ++manager->audit_sequence);
    struct emitter emitter = EMITTER_INIT(&buffer);
    char time[CLOCK_TEXT_SIZE];
    int r;

    emit_object(&emitter);
    emit_key_unsigned(&emitter, "id", manager->audit_sequence);
    emit_key_text(&emitter, "time", clock_format(clock_wall(), time));
    emit_key_text(&emitter, "actor", actor->name);
    emit_key_text(&emitter, "origin", actor->origin);
    emit_key_text(&emitter, "action", action);
    emit_key_text(&emitter, "object", object);
    emit_key_text(&emitter, "result", result);
    emit_object_end(&emitter);
    r = key ? buffer_take(&buffer, ret_value) : -ENOMEM;
    if (r < 0)
        return r;
    *ret_key = STEAL_PTR(key);
    return 0;
}

static void audit_row_free(struct audit_row *row) {
    free(row->key);
    free(row->value);
    free(row);
}

void audit_note(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                const char *result) {
    struct audit_row *row;

    if (manager->audit_waiting >= AUDIT_WAITING_MAX)
        return; /* the store does not take anything: said once by the writer */
    row = calloc(1, sizeof(*row));
    if (!row || audit_build(manager, actor, action, object, result, &row->key, &row->value) < 0) {
        free(row);
        return;
    }
    if (manager->audit_last)
        manager->audit_last->next = row;
    else
        manager->audit_first = row;
    manager->audit_last = row;
    manager->audit_waiting++;
    manager->dirty = true;
    fiber_queue_wake_all(&manager->dirty_queue);
}

int audit_refusal(struct manager *manager, const struct actor *actor, const char *action, const char *object, int r,
                  const struct error *error) {
    if (r < 0 && actor)
        audit_note(manager, actor, action, object,
                   error && error_is_set(error) ? error_wire(error->code) : strerror(-r));
    return r;
}

int manager_commit_instance(struct manager *manager, struct instance *instance, const struct actor *actor,
                            const char *action, bool with_name, const struct store_operation *extra,
                            size_t extra_count, struct error *error) {
    _cleanup_free_ char *key = instance_key(instance->assigned.uuid), *text = NULL;
    _cleanup_free_ char *name_key = instance_name_key(instance->name);
    _cleanup_free_ char *object = text_format("instances/%s", instance->name);
    _cleanup_free_ char *audit_key = NULL, *audit_value = NULL;
    struct store_operation operations[8];
    size_t count = 0;
    int r = key && name_key && object ? instance_encode(instance, &text) : -ENOMEM;

    if (r >= 0)
        r = audit_build(manager, actor, action, object, "ok", &audit_key, &audit_value);
    if (r < 0)
        return error_errno(error, r, "writing instance %s", instance->name);
    operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = key, .value = text, .size = strlen(text) };
    operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = audit_key, .value = audit_value,
                                                    .size = strlen(audit_value) };
    if (with_name) {
        operations[count++] = (struct store_operation){ .type = STORE_CHECK, .key = name_key, .revision = 0 };
        operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = name_key, .value = instance->assigned.uuid,
                                                        .size = strlen(instance->assigned.uuid) };
    }
    for (size_t i = 0; i < extra_count && count < ELEMENTS(operations); i++)
        operations[count++] = extra[i];
    instance->dirty = false;
    r = store_commit(manager->store, operations, count, NULL, error);
    if (r < 0)
        instance->dirty = true;
    return r;
}

/* --- the background writer --------------------------------------------------------------------------------------- */

struct batch {
    struct store_operation operations[WRITER_BATCH + 1];
    char *keys[WRITER_BATCH + 1];
    char *values[WRITER_BATCH + 1];
    struct instance *instances[WRITER_BATCH + 1];
    size_t count, bytes;
};

static bool batch_is_full(const struct batch *batch) {
    return batch->count >= WRITER_BATCH || batch->bytes > WRITER_BYTES;
}

static void batch_put(struct batch *batch, char *key, char *value, struct instance *instance) {
    batch->keys[batch->count] = key;
    batch->values[batch->count] = value;
    batch->instances[batch->count] = instance ? instance_ref(instance) : NULL;
    batch->operations[batch->count] = (struct store_operation){ .type = STORE_PUT, .key = key, .value = value,
                                                                .size = strlen(value) };
    batch->bytes += strlen(value);
    batch->count++;
}

static void batch_collect_instances(struct manager *manager, struct batch *batch) {
    size_t position = 0;
    void *value;

    while (!batch_is_full(batch) && map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        char *key, *text = NULL;

        if (!instance->dirty || instance->removed)
            continue;
        key = instance_key(instance->assigned.uuid);
        if (!key || instance_encode(instance, &text) < 0) {
            free(key);
            continue;
        }
        instance->dirty = false;
        batch_put(batch, key, text, instance);
    }
}

static void batch_collect_audit(struct manager *manager, struct batch *batch) {
    while (!batch_is_full(batch) && manager->audit_first) {
        struct audit_row *row = manager->audit_first;

        manager->audit_first = row->next;
        if (!manager->audit_first)
            manager->audit_last = NULL;
        manager->audit_waiting--;
        batch_put(batch, STEAL_PTR(row->key), STEAL_PTR(row->value), NULL);
        audit_row_free(row);
    }
}

/* A failed batch stays to be written: instances are marked again, audit records go back to the front. */
static void batch_give_back(struct manager *manager, struct batch *batch) {
    for (size_t i = batch->count; i-- > 0;) {
        struct audit_row *row;

        if (batch->instances[i]) {
            batch->instances[i]->dirty = true;
            continue;
        }
        row = calloc(1, sizeof(*row));
        if (!row)
            continue;
        row->key = STEAL_PTR(batch->keys[i]);
        row->value = STEAL_PTR(batch->values[i]);
        row->next = manager->audit_first;
        manager->audit_first = row;
        if (!manager->audit_last)
            manager->audit_last = row;
        manager->audit_waiting++;
    }
}

static void batch_done(struct batch *batch) {
    for (size_t i = 0; i < batch->count; i++) {
        free(batch->keys[i]);
        free(batch->values[i]);
        instance_unref(batch->instances[i]);
    }
}

/* 1: there may be more; 0: all written; negative: it must be tried again later. */
static int writer_round(struct manager *manager) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct batch *batch = calloc(1, sizeof(*batch));
    int r = 0;

    if (!batch)
        return -ENOMEM;
    batch_collect_instances(manager, batch);
    batch_collect_audit(manager, batch);
    if (batch->count > 0) {
        FAILPOINT("writer-before-commit");
        r = store_commit(manager->store, batch->operations, batch->count, NULL, &error);
        FAILPOINT("writer-after-commit");
        if (r < 0) {
            _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
            log_warning("observed state could not be written, will try again: %s", sentence);
            batch_give_back(manager, batch);
        } else {
            r = 1;
        }
    }
    batch_done(batch);
    free(batch);
    return r;
}

static int writer_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r != -ECANCELED) {
        if (!manager->dirty) {
            r = fiber_queue_wait(&manager->dirty_queue, DEADLINE_NONE);
            continue;
        }
        /* Let a storm gather, unless somebody waits. */
        if (!manager->urgent)
            (void) fiber_queue_wait(&manager->urgent_queue, deadline_in(WRITER_PAUSE));
        manager->urgent = false;
        manager->dirty = false;
        manager->writing = true;
        while ((r = writer_round(manager)) > 0)
            ;
        manager->writing = false;
        if (r < 0)
            manager->dirty = true;
        fiber_queue_wake_all(&manager->written_queue);
        if (r < 0 && r != -ECANCELED)
            r = fiber_sleep(WRITER_RETRY);
    }
    return 0;
}

int writer_start(struct manager *manager) {
    return fiber_start(&manager->writer, "writer", writer_main, manager);
}

int manager_flush(struct manager *manager, struct error *error) {
    uint64_t deadline = deadline_in(10 * CLOCK_SECOND);

    while (manager->dirty || manager->writing) {
        int r;
        manager->urgent = true;
        fiber_queue_wake_all(&manager->urgent_queue);
        r = fiber_queue_wait(&manager->written_queue, deadline);
        if (r < 0)
            return error_errno(error, r, "writing the state");
    }
    return 0;
}
