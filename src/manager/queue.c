// SPDX-License-Identifier: GPL-2.0-or-later
/* What the engine says of the queue, for people. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

/* --- why one waits --------------------------------------------------------------------------------------------------- */

char *queue_sentence(const struct engine_explanation *why, struct error *reason) {
    bool cpus = why->resource && why->resource[0] == 'c';
    _cleanup_free_ char *wanted = NULL, *available = NULL;

    if (!why->resource) {
        (void) error_set(reason, ERROR_BUSY, "the queue", "others wait before it");
        return error_sentence(reason, LANGUAGE_ENGLISH);
    }
    wanted = cpus ? text_format_cpus(why->wanted) : text_format_size(why->wanted);
    available = cpus ? text_format_cpus(why->free) : text_format_size(why->free);
    (void) error_set(reason, ERROR_NO_ROOM, why->resource, wanted, available);
    return error_sentence(reason, LANGUAGE_ENGLISH);
}

/* --- the queue ------------------------------------------------------------------------------------------------------- */

static void emit_seconds(struct emitter *emitter, const char *key, uint64_t microseconds) {
    emit_key(emitter, key);
    if (microseconds == UINT64_MAX)
        emit_null(emitter);
    else
        emit_double(emitter, (double) (microseconds / CLOCK_MILLISECOND) / 1000);
}

void queue_emit_start(struct emitter *emitter, uint64_t start, uint64_t now) {
    char time[CLOCK_TEXT_SIZE];

    emit_key_text(emitter, "start", start == UINT64_MAX ? NULL : clock_format(clock_wall() + (start - now), time));
    emit_seconds(emitter, "starts_in", start == UINT64_MAX ? UINT64_MAX : start - now);
}

static void emit_waiting(struct emitter *emitter, const struct engine_forecast *forecast, uint64_t now) {
    const struct instance *instance = forecast->userdata;
    const struct engine_explanation *why = &forecast->why;
    _cleanup_error_ struct error reason = ERROR_INIT;
    _cleanup_free_ char *sentence = queue_sentence(why, &reason);

    emit_object(emitter);
    emit_key_unsigned(emitter, "position", why->position);
    emit_key_text(emitter, "name", instance->name);
    emit_key_text(emitter, "uuid", instance->assigned.uuid);
    emit_key_text(emitter, "kind", kind_name(instance->assigned.kind));
    emit_key(emitter, "cpus");
    emit_double(emitter, (double) instance->spec.cpus / 1000);
    emit_key_unsigned(emitter, "memory", instance->spec.memory);
    emit_key_integer(emitter, "priority", instance->spec.priority);
    emit_key_boolean(emitter, "paused", instance->status.state == STATE_PAUSED);
    emit_seconds(emitter, "waited", now - why->since);
    emit_seconds(emitter, "expected", why->expected);
    queue_emit_start(emitter, forecast->start, now);
    emit_key_text(emitter, "reason", why->resource ? why->resource : "order");
    emit_key_text(emitter, "message", sentence);
    emit_object_end(emitter);
}

int manager_queue_emit(struct manager *manager, size_t limit, struct emitter *emitter, struct error *error) {
    _cleanup_free_ struct engine_forecast *forecasts = NULL;
    struct engine_totals totals;
    uint64_t now = clock_now();
    ssize_t count;

    engine_totals(manager->engine, &totals);
    limit = limit < totals.queued ? limit : totals.queued;
    forecasts = calloc(limit + 1, sizeof(*forecasts));
    count = forecasts ? engine_foresee(manager->engine, now, forecasts, limit) : -ENOMEM;
    if (count < 0)
        return error_errno(error, (int) count, "looking at the queue");
    emit_object(emitter);
    emit_key_text(emitter, "policy", manager->queue_settings.policy);
    emit_key_text(emitter, "backfill", manager->queue_settings.backfill);
    emit_key_text(emitter, "estimates", manager->queue_settings.estimates);
    emit_key_unsigned(emitter, "admitted", totals.admitted);
    emit_key_unsigned(emitter, "waiting", totals.queued);
    emit_key(emitter, "queue");
    emit_array(emitter);
    for (ssize_t i = 0; i < count; i++)
        emit_waiting(emitter, &forecasts[i], now);
    emit_array_end(emitter);
    emit_object_end(emitter);
    return 0;
}
