// SPDX-License-Identifier: GPL-2.0-or-later
/* Writing. What a request asks for is committed before it is acknowledged (manager_commit_instance). What was merely
 * observed (states, exit codes, refusals for the audit trail) is marked dirty and written in batches by one background
 * fiber, so that a storm of events costs few fsyncs; whoever must not go on before that is durable calls
 * instance_flush. Once the store has failed, it is tried again every second; what waits stays marked. */
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
#define FLUSH_DEADLINE (30 * CLOCK_SECOND)

static void dirty_append(struct manager *manager, struct instance *instance) {
    instance->linked = true;
    instance->dirty_next = NULL;
    if (manager->dirty_last)
        manager->dirty_last->dirty_next = instance_ref(instance);
    else
        manager->dirty_first = instance_ref(instance);
    manager->dirty_last = instance;
}

/* The first one; the caller owns the list's reference. */
static struct instance *dirty_pop(struct manager *manager) {
    struct instance *instance = manager->dirty_first;

    if (!instance)
        return NULL;
    manager->dirty_first = instance->dirty_next;
    if (!manager->dirty_first)
        manager->dirty_last = NULL;
    instance->dirty_next = NULL;
    instance->linked = false;
    return instance;
}

void manager_mark_dirty(struct manager *manager, struct instance *instance) {
    instance->dirty = true;
    if (!instance->linked)
        dirty_append(manager, instance);
    fiber_queue_wake_all(&manager->dirty_queue);
}

static bool is_pending(const struct manager *manager) {
    return manager->dirty_first || manager->audit_first || manager->writing;
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

static void audit_append(struct manager *manager, struct audit_row *row) {
    if (manager->audit_last)
        manager->audit_last->next = row;
    else
        manager->audit_first = row;
    manager->audit_last = row;
    manager->audit_waiting++;
}

void audit_note(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                const char *result) {
    struct audit_row *row = NULL;

    if (manager->audit_waiting < AUDIT_WAITING_MAX)
        row = calloc(1, sizeof(*row));
    if (!row || audit_build(manager, actor, action, object, result, &row->key, &row->value) < 0) {
        /* The store takes nothing: the first record that it takes again tells how many are lost. */
        if (manager->audit_lost++ == 0)
            log_warning("audit records are lost: the store cannot be written");
        free(row);
        return;
    }
    audit_append(manager, row);
    fiber_queue_wake_all(&manager->dirty_queue);
}

static void audit_tell_lost(struct manager *manager) {
    _cleanup_free_ char *text = NULL;
    uint64_t lost = manager->audit_lost;

    if (lost == 0)
        return;
    manager->audit_lost = 0;
    text = text_format("%" PRIu64 " records lost", lost);
    audit_note(manager, &actor_daemon, "audit.lost", "node", text ? text : "records lost");
}

int audit_refusal(struct manager *manager, const struct actor *actor, const char *action, const char *object, int r,
                  const struct error *error) {
    if (r < 0 && actor)
        audit_note(manager, actor, action, object,
                   error && error_is_set(error) ? error_wire(error->code) : strerror(-r));
    return r;
}

void manager_audit_refused(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                           const struct error *error) {
    if (manager) /* a table of routes can be tried without one */
        audit_note(manager, actor, action, object, error_wire(error->code));
}

char *instance_object(const char *name) {
    return text_format("instances/%s", name);
}

void audit_instance(struct manager *manager, const struct actor *actor, const char *action, const char *name, int r,
                    const struct error *error) {
    _cleanup_free_ char *object = instance_object(name);

    if (r >= 0)
        audit_note(manager, actor, action, object ? object : "instances", "ok");
    else
        (void) audit_refusal(manager, actor, action, object ? object : "instances", r, error);
}

int manager_commit_instance(struct manager *manager, struct instance *instance, const struct actor *actor,
                            const char *action, unsigned flags, const struct store_operation *extra,
                            size_t extra_count, struct error *error) {
    _cleanup_free_ char *key = instance_key(instance->assigned.uuid), *text = NULL;
    _cleanup_free_ char *name_key = instance_name_key(instance->name), *object = instance_object(instance->name);
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
    if (flags & COMMIT_NAME) {
        operations[count++] = (struct store_operation){ .type = STORE_CHECK, .key = name_key, .revision = 0 };
        operations[count++] = (struct store_operation){ .type = STORE_PUT, .key = name_key, .value = instance->assigned.uuid,
                                                        .size = strlen(instance->assigned.uuid) };
    }
    for (size_t i = 0; i < extra_count && count < ELEMENTS(operations); i++)
        operations[count++] = extra[i];
    instance->dirty = false; /* what is marked from here on is written after this */
    r = (flags & COMMIT_URGENT ? store_commit_urgent : store_commit)(manager->store, operations, count, NULL, error);
    if (r == -ESTALE && !error_is_set(error))
        r = error_set(error, ERROR_EXISTS, "instance", instance->name);
    if (r < 0 && !instance->uncommitted)
        manager_mark_dirty(manager, instance);
    return r;
}

/* --- the background writer --------------------------------------------------------------------------------------- */

struct batch {
    struct store_operation operations[WRITER_BATCH + 1];
    char *keys[WRITER_BATCH + 1];
    char *values[WRITER_BATCH + 1];
    struct instance *instances[WRITER_BATCH + 1];
    size_t count, bytes;
    size_t instance_count; /* those come first */
};

static bool batch_is_full(const struct batch *batch) {
    return batch->count >= WRITER_BATCH || batch->bytes > WRITER_BYTES;
}

static void batch_put(struct batch *batch, char *key, char *value, struct instance *instance) {
    batch->keys[batch->count] = key;
    batch->values[batch->count] = value;
    batch->instances[batch->count] = instance;
    batch->operations[batch->count] = (struct store_operation){ .type = STORE_PUT, .key = key, .value = value,
                                                                .size = strlen(value) };
    batch->bytes += strlen(value);
    batch->count++;
}

/* In the order in which they were marked, so that nobody waits for ever. Returns what failed; that one stays marked. */
static int batch_collect_instances(struct manager *manager, struct batch *batch) {
    struct instance *instance;

    while (!batch_is_full(batch) && (instance = dirty_pop(manager))) {
        char *key = NULL, *text = NULL;

        if (!instance->dirty || instance->removed || instance->purging || instance->uncommitted) {
            instance_unref(instance);
            continue;
        }
        key = instance_key(instance->assigned.uuid);
        if (!key || instance_encode(instance, &text) < 0) {
            free(key);
            dirty_append(manager, instance);
            instance_unref(instance);
            return -ENOMEM;
        }
        instance->dirty = false;
        instance->in_flight = true;
        batch_put(batch, key, text, instance);
    }
    batch->instance_count = batch->count;
    return 0;
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

static void audit_give_back(struct manager *manager, struct batch *batch, size_t index) {
    struct audit_row *row = calloc(1, sizeof(*row));

    if (!row) {
        manager->audit_lost++;
        return;
    }
    row->key = STEAL_PTR(batch->keys[index]);
    row->value = STEAL_PTR(batch->values[index]);
    row->next = manager->audit_first;
    manager->audit_first = row;
    if (!manager->audit_last)
        manager->audit_last = row;
    manager->audit_waiting++;
}

/* What was not written stays to be written: instances are marked again and encoded anew, since a request may have
 * committed a newer record meanwhile; audit records go back to the front. */
static void batch_settle(struct manager *manager, struct batch *batch, bool written) {
    for (size_t i = batch->count; !written && i-- > batch->instance_count;)
        audit_give_back(manager, batch, i);
    for (size_t i = 0; i < batch->instance_count; i++) {
        batch->instances[i]->in_flight = false;
        if (!written)
            manager_mark_dirty(manager, batch->instances[i]);
    }
}

static void batch_done(struct batch *batch) {
    for (size_t i = 0; i < batch->count; i++) {
        free(batch->keys[i]);
        free(batch->values[i]);
        instance_unref(batch->instances[i]);
    }
}

static void round_failed(struct manager *manager, struct error *error, int r) {
    _cleanup_free_ char *sentence = NULL;

    if (!error_is_set(error))
        (void) error_errno(error, r, "writing the state");
    sentence = error_sentence(error, LANGUAGE_ENGLISH);
    log_warning("observed state could not be written, will try again: %s", sentence);
    error_clear(&manager->write_error);
    error_move(&manager->write_error, error);
    manager->write_failures++;
}

/* Writes one batch. On a full disk what happened to instances may use the reserve; what was refused may not, or
 * refusals would eat it up. */
static int writer_try(struct manager *manager, bool urgent, struct error *error) {
    struct batch *batch = calloc(1, sizeof(*batch));
    int r = batch ? batch_collect_instances(manager, batch) : -ENOMEM;

    if (batch && !urgent)
        batch_collect_audit(manager, batch);
    if (batch && batch->count > 0) {
        int committed;
        FAILPOINT("writer-before-commit");
        committed = (urgent ? store_commit_urgent : store_commit)(manager->store, batch->operations, batch->count, NULL,
                                                                  error);
        FAILPOINT("writer-after-commit");
        batch_settle(manager, batch, committed >= 0);
        r = committed < 0 ? committed : r;
    }
    if (batch)
        batch_done(batch);
    free(batch);
    return r;
}

static int writer_round(struct manager *manager) {
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = writer_try(manager, false, &error);

    if (r == -ENOSPC && manager->dirty_first) {
        error_clear(&error);
        r = writer_try(manager, true, &error);
    }
    if (r < 0)
        round_failed(manager, &error, r);
    else
        audit_tell_lost(manager);
    return r;
}

static int writer_main(void *userdata) {
    struct manager *manager = userdata;
    int r = 0;

    while (r != -ECANCELED) {
        if (!is_pending(manager)) {
            r = fiber_queue_wait(&manager->dirty_queue, DEADLINE_NONE);
            continue;
        }
        /* Let a storm gather, unless somebody waits. */
        if (!manager->urgent && fiber_queue_wait(&manager->urgent_queue, deadline_in(WRITER_PAUSE)) == -ECANCELED)
            break;
        manager->urgent = false;
        manager->writing = true;
        r = writer_round(manager);
        manager->writing = false;
        fiber_queue_wake_all(&manager->written_queue);
        if (r < 0 && r != -ECANCELED)
            r = fiber_sleep(WRITER_RETRY);
    }
    return 0;
}

int writer_start(struct manager *manager) {
    return fiber_start(&manager->writer, "writer", writer_main, manager);
}

static int written_wait(struct manager *manager, uint64_t deadline, struct error *error) {
    uint64_t failures = manager->write_failures;
    int r;

    manager->urgent = true;
    fiber_queue_wake_all(&manager->urgent_queue);
    r = fiber_queue_wait(&manager->written_queue, deadline);
    if (r < 0)
        return error_errno(error, r, "writing the state");
    if (manager->write_failures == failures)
        return 0;
    error_copy(error, &manager->write_error);
    return -error_number(manager->write_error.code);
}

int instance_flush(struct instance *instance, struct error *error) {
    uint64_t deadline = deadline_in(FLUSH_DEADLINE);
    int r = 0;

    while (r >= 0 && (instance->dirty || instance->in_flight) && !instance->removed)
        r = written_wait(instance->manager, deadline, error);
    return r;
}

void instance_settle(struct instance *instance) {
    _cleanup_error_ struct error ignored = ERROR_INIT;

    fiber_shield();
    (void) instance_flush(instance, &ignored);
    fiber_unshield();
}

int manager_flush(struct manager *manager, uint64_t deadline, struct error *error) {
    int r = 0;

    while (r >= 0 && is_pending(manager) && manager->writer)
        r = written_wait(manager, deadline, error);
    return r;
}
