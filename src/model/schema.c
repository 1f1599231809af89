// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/field.h"

#include <string.h>

#include "model/field-internal.h"

/* JSON Schema (2020-12, as OpenAPI 3.1 takes it) from the tables. null is taken for every field that is not
 * required, so each type is a list of types. */

static void emit_types(const char *first, const char *second, bool nullable, struct emitter *emitter) {
    emit_key(emitter, "type");
    emit_array(emitter);
    emit_text(emitter, first);
    if (second)
        emit_text(emitter, second);
    if (nullable)
        emit_text(emitter, "null");
    emit_array_end(emitter);
}

static void emit_limits(const struct field *field, struct emitter *emitter) {
    double scale = field->type == FIELD_CPUS ? 1000 : 1;

    if (field->minimum == 0 && field->maximum == 0)
        return;
    emit_key(emitter, "minimum");
    if (field->or_zero && (int64_t) field->minimum > 0)
        emit_integer(emitter, 0);
    else
        emit_double(emitter, (double) (int64_t) field->minimum / scale);
    emit_key(emitter, "maximum");
    emit_double(emitter, (double) (int64_t) field_maximum(field) / scale);
}

static void emit_text_schema(const struct field *field, struct emitter *emitter) {
    emit_types("string", NULL, !field->required, emitter);
    emit_key_unsigned(emitter, "maxLength", field_maximum(field));
}

static void emit_enum_schema(const struct field *field, struct emitter *emitter) {
    emit_types("string", NULL, !field->required, emitter);
    emit_key(emitter, "enum");
    emit_array(emitter);
    for (size_t i = 0; field->names[i]; i++)
        emit_text(emitter, field->names[i]);
    if (!field->required)
        emit_null(emitter);
    emit_array_end(emitter);
}

static void emit_list_schema(const struct field *field, bool with_output, struct emitter *emitter) {
    emit_types("array", NULL, !field->required, emitter);
    emit_key_unsigned(emitter, "maxItems", field_maximum(field));
    emit_key(emitter, "items");
    if (field->type == FIELD_OBJECTS) {
        table_emit_schema(field->items, with_output, emitter);
        return;
    }
    emit_object(emitter);
    emit_key_text(emitter, "type", "string");
    emit_object_end(emitter);
}

static void emit_map_schema(const struct field *field, struct emitter *emitter) {
    emit_types("object", NULL, !field->required, emitter);
    emit_key_unsigned(emitter, "maxProperties", field_maximum(field));
    emit_key(emitter, "additionalProperties");
    emit_object(emitter);
    emit_types("string", NULL, true, emitter); /* null removes a key in a merge */
    emit_object_end(emitter);
}

static void emit_type_schema(const struct field *field, bool with_output, struct emitter *emitter) {
    bool nullable = !field->required;

    switch (field->type) {
    case FIELD_BOOLEAN:
        emit_types("boolean", NULL, nullable, emitter);
        break;
    case FIELD_TEXT:
        emit_text_schema(field, emitter);
        break;
    case FIELD_INTEGER:
        emit_types("integer", NULL, nullable, emitter);
        emit_limits(field, emitter);
        break;
    case FIELD_SIZE:
        emit_types("integer", "string", nullable, emitter);
        emit_limits(field, emitter);
        break;
    case FIELD_CPUS:
        emit_types("number", "string", nullable, emitter);
        emit_limits(field, emitter);
        break;
    case FIELD_DURATION:
        emit_types("string", "number", nullable, emitter);
        break;
    case FIELD_ENUM:
        emit_enum_schema(field, emitter);
        break;
    case FIELD_LIST:
    case FIELD_OBJECTS:
        emit_list_schema(field, with_output, emitter);
        break;
    case FIELD_MAP:
        emit_map_schema(field, emitter);
        break;
    case FIELD_TIME:
        emit_types("string", NULL, nullable, emitter);
        emit_key_text(emitter, "format", "date-time");
        break;
    case FIELD_OBJECT:
        break;
    }
}

static void emit_default(const struct field *field, struct emitter *emitter) {
    if (!field->initial)
        return;
    emit_key(emitter, "default");
    if (field->type == FIELD_BOOLEAN || field->type == FIELD_INTEGER)
        emit_raw(emitter, field->initial);
    else
        emit_text(emitter, field->initial);
}

static void emit_field_schema(const struct field *field, bool with_output, struct emitter *emitter) {
    emit_key(emitter, field->name);
    if (field->type == FIELD_OBJECT) {
        table_emit_schema(field->items, with_output, emitter);
        return;
    }
    emit_object(emitter);
    emit_type_schema(field, with_output, emitter);
    if (field->help)
        emit_key_text(emitter, "description", field->help);
    if (field->change == CHANGE_OUTPUT)
        emit_key_boolean(emitter, "readOnly", true);
    emit_default(field, emitter);
    emit_object_end(emitter);
}

static bool is_shown(const struct field *field, bool with_output) {
    return with_output || field->change != CHANGE_OUTPUT;
}

void table_emit_schema(const struct table *table, bool with_output, struct emitter *emitter) {
    bool required = false;

    emit_object(emitter);
    emit_key_text(emitter, "type", "object");
    emit_key(emitter, "properties");
    emit_object(emitter);
    for (size_t i = 0; i < table->count; i++)
        if (is_shown(&table->fields[i], with_output))
            emit_field_schema(&table->fields[i], with_output, emitter);
    emit_object_end(emitter);
    for (size_t i = 0; i < table->count; i++) {
        if (!table->fields[i].required || !is_shown(&table->fields[i], with_output))
            continue;
        if (!required) {
            emit_key(emitter, "required");
            emit_array(emitter);
            required = true;
        }
        emit_text(emitter, table->fields[i].name);
    }
    if (required)
        emit_array_end(emitter);
    emit_key_boolean(emitter, "additionalProperties", false);
    emit_object_end(emitter);
}
