// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/field.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "model/field-internal.h"

/* Values as the table describes them: made, freed, copied, compared. decode.c fills them from JSON, check.c
 * holds the limits and the text forms, emit.c and schema.c write. */

static size_t field_size(const struct field *field) {
    switch (field->type) {
    case FIELD_BOOLEAN:
        return sizeof(bool);
    case FIELD_TEXT:
    case FIELD_LIST:
    case FIELD_MAP:
        return sizeof(void *);
    case FIELD_INTEGER:
    case FIELD_SIZE:
    case FIELD_CPUS:
    case FIELD_DURATION:
    case FIELD_TIME:
        return sizeof(uint64_t);
    case FIELD_ENUM:
        return sizeof(int);
    case FIELD_OBJECT:
        return field->items->size;
    case FIELD_OBJECTS:
        return sizeof(struct field_array);
    }
    return 0;
}

static void field_array_done(const struct table *table, struct field_array *array) {
    for (size_t i = 0; i < array->count; i++)
        table_done(table, (char *) array->items + i * table->size);
    free(array->items);
    *array = (struct field_array){ 0 };
}

void field_done(const struct field *field, void *value) {
    switch (field->type) {
    case FIELD_TEXT:
        free(*(char **) value);
        break;
    case FIELD_LIST:
    case FIELD_MAP:
        list_free(*(char ***) value);
        break;
    case FIELD_OBJECT:
        table_done(field->items, value);
        break;
    case FIELD_OBJECTS:
        field_array_done(field->items, value);
        break;
    default:
        break;
    }
    memset(value, 0, field_size(field));
}

int field_init(const struct field *field, void *value) {
    if (field->type == FIELD_OBJECT)
        return table_init(field->items, value);
    memset(value, 0, field_size(field));
    if (!field->initial)
        return 0;
    return field_set_text(field, NULL, field->initial, false, value, NULL);
}

int table_init(const struct table *table, void *object) {
    memset(object, 0, table->size);
    for (size_t i = 0; i < table->count; i++) {
        int r = field_init(&table->fields[i], field_at(&table->fields[i], object));

        if (r < 0) {
            table_done(table, object);
            return r;
        }
    }
    return 0;
}

void table_done(const struct table *table, void *object) {
    for (size_t i = 0; i < table->count; i++)
        field_done(&table->fields[i], field_at(&table->fields[i], object));
    memset(object, 0, table->size);
}

int field_array_add(struct field_array *array, size_t size, void **ret) {
    char *items = reallocarray(array->items, array->count + 1, size);

    if (!items)
        return -ENOMEM;
    array->items = items;
    *ret = items + array->count * size;
    memset(*ret, 0, size);
    array->count++;
    return 0;
}

static int field_array_copy(const struct table *table, const struct field_array *source,
                            struct field_array *target) {
    *target = (struct field_array){ 0 };
    for (size_t i = 0; i < source->count; i++) {
        void *item;
        int r = field_array_add(target, table->size, &item);

        if (r == 0)
            r = table_copy(table, (const char *) source->items + i * table->size, item);
        if (r < 0) {
            field_array_done(table, target);
            return r;
        }
    }
    return 0;
}

/* target is zeroed memory. */
int field_copy(const struct field *field, const void *source, void *target) {
    switch (field->type) {
    case FIELD_TEXT:
        if (!*(char *const *) source)
            return 0;
        *(char **) target = strdup(*(char *const *) source);
        return *(char **) target ? 0 : -ENOMEM;
    case FIELD_LIST:
    case FIELD_MAP:
        return list_copy(*(char **const *) source, target);
    case FIELD_OBJECT:
        return table_copy(field->items, source, target);
    case FIELD_OBJECTS:
        return field_array_copy(field->items, source, target);
    default:
        memcpy(target, source, field_size(field));
        return 0;
    }
}

int table_copy(const struct table *table, const void *source, void *target) {
    memset(target, 0, table->size);
    for (size_t i = 0; i < table->count; i++) {
        const struct field *field = &table->fields[i];
        int r = field_copy(field, field_at_const(field, source), field_at(field, target));

        if (r < 0) {
            table_done(table, target);
            return r;
        }
    }
    return 0;
}

static bool field_array_equal(const struct table *table, const struct field_array *a,
                              const struct field_array *b) {
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++)
        if (!table_equal(table, (const char *) a->items + i * table->size,
                         (const char *) b->items + i * table->size))
            return false;
    return true;
}

bool field_equal(const struct field *field, const void *a, const void *b) {
    switch (field->type) {
    case FIELD_TEXT:
        return text_equal(*(char *const *) a, *(char *const *) b);
    case FIELD_LIST:
    case FIELD_MAP:
        return list_equal(*(char **const *) a, *(char **const *) b);
    case FIELD_OBJECT:
        return table_equal(field->items, a, b);
    case FIELD_OBJECTS:
        return field_array_equal(field->items, a, b);
    default:
        return memcmp(a, b, field_size(field)) == 0;
    }
}

bool table_equal(const struct table *table, const void *a, const void *b) {
    for (size_t i = 0; i < table->count; i++)
        if (!field_equal(&table->fields[i], field_at_const(&table->fields[i], a),
                         field_at_const(&table->fields[i], b)))
            return false;
    return true;
}

static bool table_is_default(const struct table *table, const void *object) {
    for (size_t i = 0; i < table->count; i++)
        if (!field_is_default(&table->fields[i], object))
            return false;
    return true;
}

bool field_is_default(const struct field *field, const void *object) {
    const void *value = field_at_const(field, object);
    struct field_array none = { 0 };
    uint64_t number = 0;
    bool equal;
    char *text = NULL;

    switch (field->type) {
    case FIELD_OBJECT:
        return table_is_default(field->items, value);
    case FIELD_OBJECTS:
        return field_equal(field, value, &none);
    case FIELD_TEXT:
        return text_equal(*(char *const *) value, field->initial);
    case FIELD_LIST:
    case FIELD_MAP:
        return field_equal(field, value, &text);
    default:
        equal = field_init(field, &number) == 0 && field_equal(field, value, &number);
        return equal;
    }
}

const struct field *table_first_frozen(const struct table *table, const void *before, const void *after,
                                       bool running) {
    for (size_t i = 0; i < table->count; i++) {
        const struct field *field = &table->fields[i];

        if (field->change != CHANGE_NEVER && !(field->change == CHANGE_STOPPED && running))
            continue;
        if (!field_equal(field, field_at_const(field, before), field_at_const(field, after)))
            return field;
    }
    return NULL;
}

const struct field *table_find(const struct table *table, const char *name) {
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->fields[i].name, name) == 0)
            return &table->fields[i];
    return NULL;
}
