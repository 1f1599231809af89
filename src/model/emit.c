// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/field.h"

#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "model/field-internal.h"

/* Values to JSON. */

static void emit_map(char *const *map, struct emitter *emitter) {
    emit_object(emitter);
    for (size_t i = 0; map && map[i]; i++) {
        const char *equals = strchr(map[i], '=');
        _cleanup_free_ char *key = equals ? strndup(map[i], (size_t) (equals - map[i])) : NULL;

        if (!key) {
            emitter->out->failed = true;
            continue;
        }
        emit_key_text(emitter, key, equals + 1);
    }
    emit_object_end(emitter);
}

static void emit_items(const struct table *table, const struct field_array *array, struct emitter *emitter) {
    emit_array(emitter);
    for (size_t i = 0; i < array->count; i++) {
        emit_object(emitter);
        table_emit(table, (const char *) array->items + i * table->size, emitter);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

static void emit_list(char *const *list, struct emitter *emitter) {
    emit_array(emitter);
    for (size_t i = 0; list && list[i]; i++)
        emit_text(emitter, list[i]);
    emit_array_end(emitter);
}

/* A text made for this purpose, NULL when there was no memory for it. */
static void emit_made(char *text, bool quoted, struct emitter *emitter) {
    _cleanup_free_ char *owned = text;

    if (!owned)
        emitter->out->failed = true;
    else if (quoted)
        emit_text(emitter, owned);
    else
        emit_raw(emitter, owned);
}

static void emit_time(uint64_t wall, struct emitter *emitter) {
    char text[CLOCK_TEXT_SIZE];

    emit_text(emitter, wall == 0 ? NULL : clock_format(wall, text));
}

static void emit_enum(const struct field *field, int value, struct emitter *emitter) {
    int count = (int) list_count((char *const *) field->names);

    emit_text(emitter, value >= 0 && value < count ? field->names[value] : NULL);
}

static void emit_value(const struct field *field, const void *value, struct emitter *emitter) {
    switch (field->type) {
    case FIELD_BOOLEAN:
        emit_boolean(emitter, *(const bool *) value);
        break;
    case FIELD_TEXT:
        emit_text(emitter, *(char *const *) value);
        break;
    case FIELD_INTEGER:
        emit_integer(emitter, *(const int64_t *) value);
        break;
    case FIELD_SIZE:
        emit_unsigned(emitter, *(const uint64_t *) value);
        break;
    case FIELD_CPUS:
        emit_made(text_format_cpus(*(const uint64_t *) value), false, emitter);
        break;
    case FIELD_DURATION:
        emit_made(text_format_duration(*(const uint64_t *) value), true, emitter);
        break;
    case FIELD_ENUM:
        emit_enum(field, *(const int *) value, emitter);
        break;
    case FIELD_LIST:
        emit_list(*(char **const *) value, emitter);
        break;
    case FIELD_MAP:
        emit_map(*(char **const *) value, emitter);
        break;
    case FIELD_OBJECT:
        emit_object(emitter);
        table_emit(field->items, value, emitter);
        emit_object_end(emitter);
        break;
    case FIELD_OBJECTS:
        emit_items(field->items, value, emitter);
        break;
    case FIELD_TIME:
        emit_time(*(const uint64_t *) value, emitter);
        break;
    }
}

void table_emit(const struct table *table, const void *object, struct emitter *emitter) {
    for (size_t i = 0; i < table->count; i++) {
        const struct field *field = &table->fields[i];
        const void *value = field_at_const(field, object);

        if (field->type == FIELD_TEXT && !*(char *const *) value)
            continue;
        emit_key(emitter, field->name);
        emit_value(field, value, emitter);
    }
}
