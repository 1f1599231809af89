// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/field.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <math.h>
#include <string.h>

#include "base/text.h"
#include "model/field-internal.h"

/* JSON into values. Everything foreign enters here, so: the number of members is checked before they are
 * walked, each value is built aside and swapped in when it is whole, and the object itself is a copy until
 * the end.
 *
 *     table_decode           copy, decode_members, swap
 *       decode_members       each member: find its row, may it be set, decode_value; then what is missing
 *         decode_value       by the row's type; OBJECT and OBJECTS come back to decode_members
 */

static int decode_members(const struct table *table, const struct path *parent, struct json_object *json,
                          unsigned flags, void *object, struct error *error);

static const char *json_kind(struct json_object *json) {
    switch (json_object_get_type(json)) {
    case json_type_null:
        return "null";
    case json_type_boolean:
        return "a boolean";
    case json_type_double:
        return "a fraction";
    case json_type_int:
        return "a number";
    case json_type_object:
        return "an object";
    case json_type_array:
        return "an array";
    case json_type_string:
        return "a text";
    }
    return "something else";
}

static const char *wanted_kind(enum field_type type) {
    switch (type) {
    case FIELD_BOOLEAN:
        return "true or false";
    case FIELD_TEXT:
    case FIELD_ENUM:
        return "a text";
    case FIELD_INTEGER:
        return "a whole number";
    case FIELD_SIZE:
        return "a number of bytes or a text such as \"256M\"";
    case FIELD_CPUS:
        return "a number such as 1.5";
    case FIELD_DURATION:
        return "a text such as \"90s\" or a number of seconds";
    case FIELD_LIST:
        return "an array of texts";
    case FIELD_MAP:
        return "an object of texts";
    case FIELD_OBJECT:
        return "an object";
    case FIELD_OBJECTS:
        return "an array of objects";
    case FIELD_TIME:
        return "a text such as \"2026-11-21T08:52:00Z\"";
    }
    return "something else";
}

static int refuse_type(const struct path *path, const char *wanted, struct json_object *json,
                       struct error *error) {
    _cleanup_free_ char *where = path_text(path);

    return error_set(error, ERROR_BAD_TYPE, where, wanted, json_kind(json));
}

static int refuse_size(const struct path *path, uint64_t limit, const char *unit, struct error *error) {
    _cleanup_free_ char *where = path_text(path);
    _cleanup_free_ char *most = text_format("%" PRIu64 " %s", limit, unit);

    return error_set(error, ERROR_TOO_LARGE, where, most);
}

/* Whole numbers as they are; for CPUS and DURATION the thousandths of what is written, fractions included. */
static int number_of(const struct field *field, const struct path *path, struct json_object *json,
                     uint64_t *ret, struct error *error) {
    bool thousandths = field->type == FIELD_CPUS || field->type == FIELD_DURATION;
    double value = json_object_get_double(json);

    if (json_object_is_type(json, json_type_double) && !thousandths)
        return refuse_type(path, wanted_kind(field->type), json, error);
    if (value < 0 || (thousandths && value > 1e12))
        return refuse_range(field, path, json_object_get_string(json), error);
    if (!thousandths) {
        *ret = json_object_get_uint64(json);
        return 0;
    }
    *ret = (uint64_t) llround(value * 1000);
    if (fabs(value * 1000 - (double) *ret) > 1e-6 * (1 + value))
        return refuse_value(path, json_object_get_string(json), "it may have at most three decimals", error);
    return 0;
}

static int decode_integer(const struct field *field, const struct path *path, struct json_object *json,
                          bool checked, int64_t *value, struct error *error) {
    int r = 0;

    if (!json_object_is_type(json, json_type_int))
        return refuse_type(path, wanted_kind(field->type), json, error);
    /* json-c saturates what is beyond int64_t; the text tells. */
    if (json_object_get_int64(json) == INT64_MAX &&
        !text_equal(json_object_get_string(json), "9223372036854775807"))
        return refuse_range(field, path, json_object_get_string(json), error);
    if (checked)
        r = check_integer(field, path, json_object_get_int64(json), error);
    if (r == 0)
        *value = json_object_get_int64(json);
    return r;
}

static int decode_number(const struct field *field, const struct path *path, struct json_object *json,
                         bool checked, uint64_t *value, struct error *error) {
    uint64_t number = 0;
    int r;

    if (json_object_is_type(json, json_type_string))
        return field_set_text(field, path, json_object_get_string(json), checked, value, error);
    if (!json_object_is_type(json, json_type_int) && !json_object_is_type(json, json_type_double))
        return refuse_type(path, wanted_kind(field->type), json, error);
    r = number_of(field, path, json, &number, error);
    if (r == 0 && checked)
        r = check_number(field, path, number, error);
    if (r == 0)
        *value = number;
    return r;
}

/* BOOLEAN, TEXT, ENUM, TIME: one JSON type each. */
static int decode_single(const struct field *field, const struct path *path, struct json_object *json,
                         bool checked, void *value, struct error *error) {
    if (field->type == FIELD_BOOLEAN) {
        if (!json_object_is_type(json, json_type_boolean))
            return refuse_type(path, wanted_kind(field->type), json, error);
        *(bool *) value = json_object_get_boolean(json);
        return 0;
    }
    if (!json_object_is_type(json, json_type_string))
        return refuse_type(path, wanted_kind(field->type), json, error);
    return field_set_text(field, path, json_object_get_string(json), checked, value, error);
}

static int decode_list(const struct field *field, const struct path *path, struct json_object *json,
                       bool checked, char ***value, struct error *error) {
    _cleanup_list_ char **list = NULL;
    size_t count;
    int r;

    if (!json_object_is_type(json, json_type_array))
        return refuse_type(path, wanted_kind(field->type), json, error);
    count = json_object_array_length(json);
    if (checked && count > field_maximum(field))
        return refuse_size(path, field_maximum(field), "elements", error);
    for (size_t i = 0; i < count; i++) {
        struct path here = { .parent = path, .index = i };
        struct json_object *item = json_object_array_get_idx(json, i);

        if (!json_object_is_type(item, json_type_string))
            return refuse_type(&here, "a text", item, error);
        r = checked ? check_text(field, &here, json_object_get_string(item), FIELD_BYTES_MAX, error) : 0;
        if (r == 0 && list_add(&list, json_object_get_string(item)) < 0)
            r = error_set(error, ERROR_NO_MEMORY);
        if (r < 0)
            return r;
    }
    r = checked ? check_list(field, path, list, error) : 0;
    if (r < 0)
        return r;
    list_free(*value);
    *value = STEAL_PTR(list);
    return 0;
}

static int decode_pair(const struct field *field, const struct path *path, struct json_object *json,
                       bool checked, char ***map, struct error *error) {
    _cleanup_free_ char *pair = NULL;
    int r;

    if (!json_object_is_type(json, json_type_string))
        return refuse_type(path, "a text", json, error);
    if (path->name[0] == '\0' || strchr(path->name, '='))
        return refuse_value(path, path->name, "a key is not empty and holds no '='", error);
    pair = text_format("%s=%s", path->name, json_object_get_string(json));
    if (!pair)
        return error_set(error, ERROR_NO_MEMORY);
    r = checked ? check_text(field, path, pair, FIELD_BYTES_MAX, error) : 0;
    if (r == 0 && map_field_set(map, path->name, json_object_get_string(json)) < 0)
        r = error_set(error, ERROR_NO_MEMORY);
    return r;
}

static int decode_map(const struct field *field, const struct path *path, struct json_object *json,
                      unsigned flags, char ***value, struct error *error) {
    bool checked = !(flags & DECODE_STORED);
    _cleanup_list_ char **map = NULL;
    int r;

    if (!json_object_is_type(json, json_type_object))
        return refuse_type(path, wanted_kind(field->type), json, error);
    if (checked && (uint64_t) json_object_object_length(json) > field_maximum(field))
        return refuse_size(path, field_maximum(field), "elements", error);
    if ((flags & DECODE_MERGE) && list_copy(*value, &map) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    json_object_object_foreach(json, key, item) {
        struct path here = { .parent = path, .name = key };

        if (!item && (flags & DECODE_MERGE))
            map_field_set(&map, key, NULL);
        else if ((r = decode_pair(field, &here, item, checked, &map, error)) < 0)
            return r;
    }
    r = checked ? check_list(field, path, map, error) : 0;
    if (r < 0)
        return r;
    list_free(*value);
    *value = STEAL_PTR(map);
    return 0;
}

static int decode_item(const struct field *field, const struct path *path, struct json_object *json,
                       unsigned flags, struct field_array *array, struct error *error) {
    void *item;

    if (!json_object_is_type(json, json_type_object))
        return refuse_type(path, "an object", json, error);
    if (field_array_add(array, field->items->size, &item) < 0 || table_init(field->items, item) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    /* An array is replaced whole, so its items never merge. */
    return decode_members(field->items, path, json, flags & ~(unsigned) DECODE_MERGE, item, error);
}

static int decode_objects(const struct field *field, const struct path *path, struct json_object *json,
                          unsigned flags, struct field_array *value, struct error *error) {
    struct field_array array = { 0 };
    size_t count;
    int r = 0;

    if (!json_object_is_type(json, json_type_array))
        return refuse_type(path, wanted_kind(field->type), json, error);
    count = json_object_array_length(json);
    if (!(flags & DECODE_STORED) && count > field_maximum(field))
        return refuse_size(path, field_maximum(field), "elements", error);
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct path here = { .parent = path, .index = i };

        r = decode_item(field, &here, json_object_array_get_idx(json, i), flags, &array, error);
    }
    field_done(field, r < 0 ? &array : value);
    if (r == 0)
        *value = array;
    return r;
}

static int decode_object(const struct field *field, const struct path *path, struct json_object *json,
                         unsigned flags, void *value, struct error *error) {
    if (!json_object_is_type(json, json_type_object))
        return refuse_type(path, wanted_kind(field->type), json, error);
    return decode_members(field->items, path, json, flags, value, error);
}

static int decode_value(const struct field *field, const struct path *path, struct json_object *json,
                        unsigned flags, void *value, struct error *error) {
    bool checked = !(flags & DECODE_STORED);

    switch (field->type) {
    case FIELD_INTEGER:
        return decode_integer(field, path, json, checked, value, error);
    case FIELD_SIZE:
    case FIELD_CPUS:
    case FIELD_DURATION:
        return decode_number(field, path, json, checked, value, error);
    case FIELD_LIST:
        return decode_list(field, path, json, checked, value, error);
    case FIELD_MAP:
        return decode_map(field, path, json, flags, value, error);
    case FIELD_OBJECT:
        return decode_object(field, path, json, flags, value, error);
    case FIELD_OBJECTS:
        return decode_objects(field, path, json, flags, value, error);
    default:
        return decode_single(field, path, json, checked, value, error);
    }
}

static int refuse_unknown(const struct table *table, const struct path *path, struct error *error) {
    _cleanup_free_ const char **names = calloc(table->count + 1, sizeof(*names));
    _cleanup_free_ char *where = path_text(path);
    _cleanup_free_ char *suggestion = NULL;
    const char *nearest;
    size_t count = 0;

    for (size_t i = 0; names && i < table->count; i++)
        if (table->fields[i].change != CHANGE_OUTPUT)
            names[count++] = table->fields[i].name;
    nearest = names ? text_suggest(path->name, names) : NULL;
    if (nearest)
        suggestion = text_format(" (%s?)", nearest);
    return error_set(error, ERROR_UNKNOWN_FIELD, where, table->name, suggestion);
}

static int decode_member(const struct table *table, const struct path *path, struct json_object *json,
                         unsigned flags, void *object, struct error *error) {
    const struct field *field = table_find(table, path->name);
    void *value;

    if (!field)
        return flags & DECODE_STORED ? 0 : refuse_unknown(table, path, error);
    if (field->change == CHANGE_OUTPUT && !(flags & DECODE_STORED)) {
        _cleanup_free_ char *where = path_text(path);

        return error_set(error, ERROR_READ_ONLY_FIELD, where);
    }
    value = field_at(field, object);
    if (json)
        return decode_value(field, path, json, flags, value, error);
    field_done(field, value);
    return field_init(field, value) < 0 ? error_set(error, ERROR_NO_MEMORY) : 0;
}

static int check_required(const struct table *table, const struct path *parent, const void *object,
                          struct error *error) {
    for (size_t i = 0; i < table->count; i++) {
        const struct field *field = &table->fields[i];
        struct path here = { .parent = parent, .name = field->name };

        if (field->required && field_is_default(field, object)) {
            _cleanup_free_ char *where = path_text(&here);

            return error_set(error, ERROR_MISSING_FIELD, where);
        }
    }
    return 0;
}

static int decode_members(const struct table *table, const struct path *parent, struct json_object *json,
                          unsigned flags, void *object, struct error *error) {
    json_object_object_foreach(json, key, member) {
        struct path here = { .parent = parent, .name = key };
        int r = decode_member(table, &here, member, flags, object, error);

        if (r < 0)
            return r;
    }
    return flags & DECODE_STORED ? 0 : check_required(table, parent, object, error);
}

int table_decode(const struct table *table, struct json_object *json, unsigned flags, void *object,
                 struct error *error) {
    _cleanup_free_ void *work = calloc(1, table->size);
    int r;

    if (!work)
        return error_set(error, ERROR_NO_MEMORY);
    if (!json_object_is_type(json, json_type_object))
        return error_set(error, ERROR_BAD_TYPE, table->name, "an object", json_kind(json));
    r = flags & DECODE_MERGE ? table_copy(table, object, work) : table_init(table, work);
    if (r < 0)
        return error_set(error, ERROR_NO_MEMORY);
    r = decode_members(table, NULL, json, flags, work, error);
    if (r < 0) {
        table_done(table, work);
        return r;
    }
    table_done(table, object);
    memcpy(object, work, table->size);
    return 0;
}

static int add_text_item(const struct field *field, const struct path *path, const char *text, char ***value,
                         struct error *error) {
    _cleanup_list_ char **list = NULL;
    int r = check_text(field, path, text, FIELD_BYTES_MAX, error);

    if (r < 0)
        return r;
    if (list_copy(*value, &list) < 0 || list_add(&list, text) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    r = check_list(field, path, list, error);
    if (r < 0)
        return r;
    list_free(*value);
    *value = STEAL_PTR(list);
    return 0;
}

static int add_text_pair(const struct field *field, const struct path *path, const char *text, char ***value,
                         struct error *error) {
    _cleanup_free_ char *key = strndup(text, strcspn(text, "="));
    const char *equals = strchr(text, '=');
    _cleanup_list_ char **map = NULL;
    int r;

    if (!key || list_copy(*value, &map) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    if (key[0] == '\0')
        return refuse_value(path, "…", "a key is not empty: give KEY=VALUE", error);
    r = check_text(field, path, text, FIELD_BYTES_MAX, error);
    if (r < 0)
        return r;
    if (map_field_set(&map, key, equals ? equals + 1 : "") < 0)
        return error_set(error, ERROR_NO_MEMORY);
    r = check_list(field, path, map, error);
    if (r < 0)
        return r;
    list_free(*value);
    *value = STEAL_PTR(map);
    return 0;
}

static int add_parsed_item(const struct field *field, const struct path *path, const char *text,
                           struct field_array *array, struct error *error) {
    void *item;
    int r;

    if (array->count >= field_maximum(field))
        return refuse_size(path, field_maximum(field), "elements", error);
    if (field_array_add(array, field->items->size, &item) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    r = table_init(field->items, item);
    r = r < 0 ? error_set(error, ERROR_NO_MEMORY) : field->parse(text, item, error);
    if (r < 0) {
        table_done(field->items, item);
        array->count--;
    }
    return r;
}

int table_decode_text(const struct table *table, const char *field_name, const char *text, void *object,
                      struct error *error) {
    const struct field *field = table_find(table, field_name);
    struct path path = { .name = field_name };
    void *value;

    if (!field)
        return refuse_unknown(table, &path, error);
    if (field->change == CHANGE_OUTPUT)
        return error_set(error, ERROR_READ_ONLY_FIELD, field_name);
    value = field_at(field, object);
    if (field->type == FIELD_OBJECTS && field->parse)
        return add_parsed_item(field, &path, text, value, error);
    if (field->parse)
        return field->parse(text, object, error);
    if (field->type == FIELD_LIST)
        return add_text_item(field, &path, text, value, error);
    if (field->type == FIELD_MAP)
        return add_text_pair(field, &path, text, value, error);
    return field_set_text(field, &path, text, true, value, error);
}
