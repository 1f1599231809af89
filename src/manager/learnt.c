// SPDX-License-Identifier: GPL-2.0-or-later
/* What the engine learnt of run times, and of what giving way takes, outlives the daemon: one record, written at most once in SAVE_EVERY while something new
 * was learnt, and when the daemon stops. The engine bounds it (some 128 bytes for each of 4,096 histories). What is not there,
 * or is of another version, is learnt anew: nothing but forecasts and the order of those that wait depends on it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/json.h"
#include "base/log.h"
#include "manager/internal.h"

#include <json-c/json.h>

#define LEARNT_KEY "/learnt/default/runs"
#define LEARNT_VERSION 1
#define SAVE_EVERY (60 * CLOCK_SECOND)

/* Rises with whatever is learnt. */
static uint64_t moment_of(const struct manager *manager) {
    uint64_t moment = engine_learnt_moment(manager->engine);

    for (enum engine_cost what = ENGINE_COST_PAUSE; what < ENGINE_COST_COUNT; what++) {
        struct engine_measured measured;
        engine_measured(manager->engine, what, &measured);
        moment += measured.count;
    }
    return moment;
}

/* --- in -------------------------------------------------------------------------------------------------------------- */

static int take_histories(struct manager *manager, struct json_object *histories) {
    size_t count = json_object_is_type(histories, json_type_array) ? json_object_array_length(histories) : 0;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < count; i++) {
        struct json_object *row = json_object_array_get_idx(histories, i);
        int64_t values[PREDICTOR_VALUES];
        if (!json_object_is_type(row, json_type_array) || json_object_array_length(row) != PREDICTOR_VALUES)
            return -EINVAL;
        for (size_t j = 0; j < PREDICTOR_VALUES; j++)
            values[j] = json_object_get_int64(json_object_array_get_idx(row, j));
        r = engine_learn_again(manager->engine, values);
    }
    return r;
}

/* Of an earlier polderd there are none. */
static int take_costs(struct manager *manager, struct json_object *costs) {
    int r = 0;

    for (enum engine_cost what = ENGINE_COST_PAUSE; r >= 0 && what < ENGINE_COST_COUNT; what++) {
        struct json_object *cost = json_member(costs, engine_cost_names[what]);
        struct engine_measured measured = { double_of(json_integer(cost, "seconds", 0)), double_of(json_integer(cost, "gib", 0)),
                                            (uint64_t) json_integer(cost, "count", 0) };
        r = cost ? engine_measured_again(manager->engine, what, &measured) : 0;
    }
    return r;
}

int learnt_load(struct manager *manager, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_json_ struct json_object *json = NULL;
    struct store_item item = { 0 };
    int r = store_get(manager->store, LEARNT_KEY, &item, error);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    r = json_parse(item.value, item.size, &json, &trouble);
    if (r >= 0 && json_integer(json, "version", 0) != LEARNT_VERSION)
        r = -EPROTONOSUPPORT;
    if (r >= 0)
        r = take_histories(manager, json_member(json, "histories"));
    if (r >= 0)
        r = take_costs(manager, json_member(json, "costs"));
    if (r < 0)
        log_warning("what was learnt of run times cannot be read, and is learnt anew: %s", strerror(-r));
    manager->learnt_saved = moment_of(manager);
    free(item.key);
    free(item.value);
    return 0;
}

/* --- out ------------------------------------------------------------------------------------------------------------- */

static void emit_costs(struct manager *manager, struct emitter *emitter) {
    emit_key(emitter, "costs");
    emit_object(emitter);
    for (enum engine_cost what = ENGINE_COST_PAUSE; what < ENGINE_COST_COUNT; what++) {
        struct engine_measured measured;
        engine_measured(manager->engine, what, &measured);
        emit_key(emitter, engine_cost_names[what]);
        emit_object(emitter);
        emit_key_integer(emitter, "seconds", bits_of(measured.seconds));
        emit_key_integer(emitter, "gib", bits_of(measured.gib));
        emit_key_integer(emitter, "count", (int64_t) measured.count);
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
}

static void emit_learnt(struct manager *manager, struct emitter *emitter) {
    int64_t values[PREDICTOR_VALUES];
    size_t position = 0;

    emit_object(emitter);
    emit_key_integer(emitter, "version", LEARNT_VERSION);
    emit_key(emitter, "histories");
    emit_array(emitter);
    while (engine_learnt(manager->engine, &position, values)) {
        emit_array(emitter);
        for (size_t i = 0; i < PREDICTOR_VALUES; i++)
            emit_integer(emitter, values[i]);
        emit_array_end(emitter);
    }
    emit_array_end(emitter);
    emit_costs(manager, emitter);
    emit_object_end(emitter);
}

uint64_t learnt_due(const struct manager *manager) {
    return moment_of(manager) == manager->learnt_saved ? DEADLINE_NONE
                                                                         : manager->learnt_saved_at + SAVE_EVERY;
}

void learnt_save(struct manager *manager) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    _cleanup_free_ char *text = NULL;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct store_operation operation = { .type = STORE_PUT, .key = LEARNT_KEY };
    uint64_t moment = moment_of(manager);
    int r;

    if (moment == manager->learnt_saved)
        return;
    manager->learnt_saved_at = clock_now();
    emit_learnt(manager, &emitter);
    r = buffer_take(&buffer, &text);
    if (r >= 0) {
        operation.value = text;
        operation.size = strlen(text);
        r = store_commit(manager->store, &operation, 1, NULL, &trouble);
    }
    if (r >= 0)
        manager->learnt_saved = moment;
    else
        log_debug("what was learnt of run times is not written: %s", strerror(-r));
}
