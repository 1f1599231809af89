// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "model/image.h"
#include "model/instance.h"

/* A request's body against the tables: refused with an error and nothing changed, or taken; what is taken is
 * written and read back as the same. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct json_object *emitted(const struct table *table, const void *object) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    struct json_object *json = NULL;

    emit_object(&emitter);
    table_emit(table, object, &emitter);
    emit_object_end(&emitter);
    if (json_parse(out.data, out.size, &json, NULL) < 0)
        abort();
    return json;
}

static void check_table(const struct table *table, struct json_object *json, unsigned flags, unsigned again) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ void *object = malloc(table->size);
    _cleanup_free_ void *before = malloc(table->size);
    _cleanup_free_ void *copy = calloc(1, table->size);
    _cleanup_json_ struct json_object *written = NULL;

    if (table_init(table, object) < 0 || table_init(table, before) < 0)
        abort();
    if (table_decode(table, json, flags, object, &error) < 0) {
        if (!error_is_set(&error) || !table_equal(table, object, before))
            abort();
    } else {
        written = emitted(table, object);
        if (table_decode(table, written, again, copy, NULL) < 0 || !table_equal(table, object, copy))
            abort();
    }
    table_done(table, object);
    table_done(table, before);
    table_done(table, copy);
}

static void check_valid(struct json_object *json) {
    struct instance_spec spec = { 0 };

    if (table_decode(&instance_spec_table, json, DECODE_REPLACE, &spec, NULL) < 0)
        return;
    for (int kind = KIND_AUTO; kind < KIND_COUNT; kind++) {
        _cleanup_error_ struct error error = ERROR_INIT;

        if (instance_spec_validate(&spec, (enum kind) kind, &error) < 0 && !error_is_set(&error))
            abort();
    }
    table_done(&instance_spec_table, &spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_json_ struct json_object *json = NULL;

    if (json_parse((const char *) data, size, &json, NULL) < 0)
        return 0;
    check_table(&instance_spec_table, json, DECODE_REPLACE, DECODE_REPLACE);
    check_table(&instance_spec_table, json, DECODE_MERGE, DECODE_STORED);
    check_table(&instance_spec_table, json, DECODE_STORED, DECODE_STORED);
    check_table(&instance_status_table, json, DECODE_STORED, DECODE_STORED);
    check_table(&instance_assigned_table, json, DECODE_STORED, DECODE_STORED);
    check_table(&image_table, json, DECODE_STORED, DECODE_STORED);
    check_valid(json);
    return 0;
}
