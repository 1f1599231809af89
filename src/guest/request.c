// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/request.h"

#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <string.h>

#include "guest/protocol.h"

#define DEPTH_MAX 32

enum field_type {
    FIELD_TEXT,    /* char *, at most `limit` bytes */
    FIELD_PLAIN,   /* likewise, without control characters */
    FIELD_FLAG,    /* bool */
    FIELD_NUMBER,  /* int64_t, 0 to `limit` */
    FIELD_TEXTS,   /* char **, NULL-terminated, at most `limit` elements */
    FIELD_OBJECT,  /* struct of `schema` in place */
    FIELD_OBJECTS, /* struct request_list of `schema`, at most `limit` */
};

struct field {
    const char *name;
    enum field_type type;
    bool required;
    size_t offset;
    int64_t limit;
    const struct request_schema *schema;
};

struct request_schema {
    const char *name;
    size_t size;
    const struct field *fields;
    size_t count;
};

#define SCHEMA(type, table)                                                                                  \
    { .name = #type, .size = sizeof(struct type), .fields = table, .count = ELEMENTS(table) }

static const struct field process_fields[] = {
    { "args", FIELD_TEXTS, true, offsetof(struct request_process, args), 16384, NULL },
    { "env", FIELD_TEXTS, false, offsetof(struct request_process, env), 16384, NULL },
    { "user", FIELD_PLAIN, false, offsetof(struct request_process, user), 256, NULL },
    { "cwd", FIELD_PLAIN, false, offsetof(struct request_process, cwd), PATH_MAX - 1, NULL },
    { "tty", FIELD_FLAG, false, offsetof(struct request_process, tty), 0, NULL },
    { "stdin", FIELD_FLAG, false, offsetof(struct request_process, stdin), 0, NULL },
    { "rows", FIELD_NUMBER, false, offsetof(struct request_process, rows), UINT16_MAX, NULL },
    { "columns", FIELD_NUMBER, false, offsetof(struct request_process, columns), UINT16_MAX, NULL },
};
const struct request_schema request_process_schema = SCHEMA(request_process, process_fields);

static const struct field network_fields[] = {
    { "mac", FIELD_PLAIN, true, offsetof(struct request_network, mac), 17, NULL },
    { "address", FIELD_PLAIN, false, offsetof(struct request_network, address), 64, NULL },
    { "gateway", FIELD_PLAIN, false, offsetof(struct request_network, gateway), 64, NULL },
    { "mtu", FIELD_NUMBER, false, offsetof(struct request_network, mtu), 65535, NULL },
};
static const struct request_schema network_schema = SCHEMA(request_network, network_fields);

static const struct field host_fields[] = {
    { "address", FIELD_PLAIN, true, offsetof(struct request_host, address), 64, NULL },
    { "name", FIELD_PLAIN, true, offsetof(struct request_host, name), 1024, NULL },
};
static const struct request_schema host_schema = SCHEMA(request_host, host_fields);

static const struct field mount_fields[] = {
    { "type", FIELD_PLAIN, true, offsetof(struct request_mount, type), 16, NULL },
    { "tag", FIELD_PLAIN, false, offsetof(struct request_mount, tag), 36, NULL },
    { "target", FIELD_PLAIN, true, offsetof(struct request_mount, target), PATH_MAX - 1, NULL },
    { "readonly", FIELD_FLAG, false, offsetof(struct request_mount, readonly), 0, NULL },
    { "size", FIELD_NUMBER, false, offsetof(struct request_mount, size), INT64_MAX, NULL },
};
static const struct request_schema mount_schema = SCHEMA(request_mount, mount_fields);

static const struct field start_fields[] = {
    { "process", FIELD_OBJECT, true, offsetof(struct request_start, process), 0, &request_process_schema },
    { "hostname", FIELD_PLAIN, false, offsetof(struct request_start, hostname), 64, NULL },
    { "stop_signal", FIELD_NUMBER, false, offsetof(struct request_start, stop_signal), 64, NULL },
    { "network", FIELD_OBJECTS, false, offsetof(struct request_start, network), 64, &network_schema },
    { "dns", FIELD_TEXTS, false, offsetof(struct request_start, dns), 16, NULL },
    { "search", FIELD_PLAIN, false, offsetof(struct request_start, search), 1024, NULL },
    { "hosts", FIELD_OBJECTS, false, offsetof(struct request_start, hosts), 1024, &host_schema },
    { "mounts", FIELD_OBJECTS, false, offsetof(struct request_start, mounts), 128, &mount_schema },
    { "readonly_root", FIELD_FLAG, false, offsetof(struct request_start, readonly_root), 0, NULL },
    { "realtime_us", FIELD_NUMBER, false, offsetof(struct request_start, realtime_us), INT64_MAX, NULL },
    { "entropy", FIELD_PLAIN, false, offsetof(struct request_start, entropy), 128, NULL },
};
const struct request_schema request_start_schema = SCHEMA(request_start, start_fields);

static const struct field signal_fields[] = {
    { "signal", FIELD_NUMBER, true, offsetof(struct request_signal, signal), 64, NULL },
};
const struct request_schema request_signal_schema = SCHEMA(request_signal, signal_fields);

static const struct field resize_fields[] = {
    { "rows", FIELD_NUMBER, true, offsetof(struct request_resize, rows), UINT16_MAX, NULL },
    { "columns", FIELD_NUMBER, true, offsetof(struct request_resize, columns), UINT16_MAX, NULL },
};
const struct request_schema request_resize_schema = SCHEMA(request_resize, resize_fields);

static const struct field clock_fields[] = {
    { "realtime_us", FIELD_NUMBER, false, offsetof(struct request_clock, realtime_us), INT64_MAX, NULL },
    { "entropy", FIELD_PLAIN, false, offsetof(struct request_clock, entropy), 128, NULL },
};
const struct request_schema request_clock_schema = SCHEMA(request_clock, clock_fields);

static const struct field path_fields[] = {
    { "path", FIELD_TEXT, true, offsetof(struct request_path, path), PATH_MAX - 1, NULL },
};
const struct request_schema request_path_schema = SCHEMA(request_path, path_fields);

static const struct field power_fields[] = {
    { "action", FIELD_PLAIN, true, offsetof(struct request_power, action), 16, NULL },
    { "grace_ms", FIELD_NUMBER, false, offsetof(struct request_power, grace_ms), 86400000, NULL },
};
const struct request_schema request_power_schema = SCHEMA(request_power, power_fields);

static int decode_object(const struct request_schema *schema, struct json_object *object, void *ret,
                         struct reason *reason);

static bool has_control(const char *text) {
    for (; *text; text++) {
        if ((unsigned char) *text < 0x20 || *text == 0x7f)
            return true;
    }
    return false;
}

static int decode_text(const struct field *field, size_t limit, struct json_object *value, char **ret,
                       struct reason *reason) {
    const char *text;
    size_t length;

    if (!json_object_is_type(value, json_type_string))
        return reason_set(reason, -EINVAL, "'%s' must be a text", field->name);
    text = json_object_get_string(value);
    length = (size_t) json_object_get_string_len(value);
    if (length > limit)
        return reason_set(reason, -EINVAL, "'%s' is longer than %zu bytes", field->name, limit);
    if (strlen(text) != length || (field->type == FIELD_PLAIN && has_control(text)))
        return reason_set(reason, -EINVAL, "'%s' has a control character", field->name);
    *ret = strdup(text);
    return *ret ? 0 : -ENOMEM;
}

static int decode_number(const struct field *field, struct json_object *value, int64_t *ret,
                         struct reason *reason) {
    int64_t number;

    if (!json_object_is_type(value, json_type_int))
        return reason_set(reason, -EINVAL, "'%s' must be a whole number", field->name);
    number = json_object_get_int64(value);
    if (number < 0 || number > field->limit)
        return reason_set(reason, -EINVAL, "'%s' must be between 0 and %lld", field->name,
                          (long long) field->limit);
    *ret = number;
    return 0;
}

static int decode_flag(const struct field *field, struct json_object *value, bool *ret,
                       struct reason *reason) {
    if (!json_object_is_type(value, json_type_boolean))
        return reason_set(reason, -EINVAL, "'%s' must be true or false", field->name);
    *ret = json_object_get_boolean(value);
    return 0;
}

/* The number of elements, or -EINVAL. */
static ssize_t array_length(const struct field *field, struct json_object *value, struct reason *reason) {
    if (!json_object_is_type(value, json_type_array))
        return reason_set(reason, -EINVAL, "'%s' must be a list", field->name);
    if (json_object_array_length(value) > (size_t) field->limit)
        return reason_set(reason, -EINVAL, "'%s' has more than %lld elements", field->name,
                          (long long) field->limit);
    return (ssize_t) json_object_array_length(value);
}

static int decode_texts(const struct field *field, struct json_object *value, char ***ret,
                        struct reason *reason) {
    _cleanup_(texts_freep) char **texts = NULL;
    ssize_t count = array_length(field, value, reason);

    if (count < 0)
        return (int) count;
    texts = calloc((size_t) count + 1, sizeof(char *));
    if (!texts)
        return -ENOMEM;
    for (ssize_t i = 0; i < count; i++) {
        int r = decode_text(field, GUEST_FRAME_MAX, json_object_array_get_idx(value, (size_t) i), &texts[i],
                            reason);
        if (r < 0)
            return r;
    }
    *ret = STEAL_PTR(texts);
    return 0;
}

static int decode_objects(const struct field *field, struct json_object *value, struct request_list *ret,
                          struct reason *reason) {
    ssize_t count = array_length(field, value, reason);

    if (count <= 0)
        return (int) count;
    ret->items = calloc((size_t) count, field->schema->size);
    if (!ret->items)
        return -ENOMEM;
    for (ssize_t i = 0; i < count; i++) {
        int r = decode_object(field->schema, json_object_array_get_idx(value, (size_t) i),
                              (char *) ret->items + (size_t) i * field->schema->size, reason);
        if (r < 0)
            return r;
        ret->count++;
    }
    return 0;
}

static int decode_field(const struct field *field, struct json_object *value, void *ret,
                        struct reason *reason) {
    void *target = (char *) ret + field->offset;

    switch (field->type) {
    case FIELD_TEXT:
    case FIELD_PLAIN:
        return decode_text(field, (size_t) field->limit, value, target, reason);
    case FIELD_FLAG:
        return decode_flag(field, value, target, reason);
    case FIELD_NUMBER:
        return decode_number(field, value, target, reason);
    case FIELD_TEXTS:
        return decode_texts(field, value, target, reason);
    case FIELD_OBJECT:
        return decode_object(field->schema, value, target, reason);
    case FIELD_OBJECTS:
        return decode_objects(field, value, target, reason);
    }
    return -EINVAL;
}

static const struct field *field_find(const struct request_schema *schema, const char *name) {
    for (size_t i = 0; i < schema->count; i++) {
        if (strcmp(schema->fields[i].name, name) == 0)
            return &schema->fields[i];
    }
    return NULL;
}

/* Clears what it decoded if it fails. json-c keeps one value per name, so no field is decoded twice. */
static int decode_object(const struct request_schema *schema, struct json_object *object, void *ret,
                         struct reason *reason) {
    int r = 0;

    if (!json_object_is_type(object, json_type_object))
        return reason_set(reason, -EINVAL, "%s must be an object", schema->name);
    json_object_object_foreach(object, name, value) {
        const struct field *field = field_find(schema, name);
        if (!field)
            r = reason_set(reason, -EINVAL, "%s has no field '%.64s'", schema->name, name);
        else if (value)
            r = decode_field(field, value, ret, reason);
        if (r < 0)
            break;
    }
    for (size_t i = 0; r == 0 && i < schema->count; i++) {
        if (schema->fields[i].required && !json_object_object_get(object, schema->fields[i].name))
            r = reason_set(reason, -EINVAL, "'%s' is missing", schema->fields[i].name);
    }
    if (r < 0)
        request_clear(schema, ret);
    return r;
}

int request_decode(const struct request_schema *schema, const void *json, size_t size, void *ret,
                   struct reason *reason) {
    struct json_tokener *tokener = json_tokener_new_ex(DEPTH_MAX);
    struct json_object *object;
    int r;

    memset(ret, 0, schema->size);
    if (!tokener)
        return -ENOMEM;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    object = json_tokener_parse_ex(tokener, json, (int) size);
    if (!object || json_tokener_get_parse_end(tokener) != size)
        r = reason_set(reason, -EINVAL, "malformed JSON: %s",
                       object ? "trailing bytes" : json_tokener_error_desc(json_tokener_get_error(tokener)));
    else
        r = decode_object(schema, object, ret, reason);
    json_object_put(object);
    json_tokener_free(tokener);
    return r;
}

void request_clear(const struct request_schema *schema, void *request) {
    for (size_t i = 0; i < schema->count; i++) {
        const struct field *field = &schema->fields[i];
        void *target = (char *) request + field->offset;

        if (field->type == FIELD_TEXT || field->type == FIELD_PLAIN)
            freep(target);
        else if (field->type == FIELD_TEXTS)
            texts_free(*(char ***) target);
        else if (field->type == FIELD_OBJECT)
            request_clear(field->schema, target);
        else if (field->type == FIELD_OBJECTS) {
            struct request_list *list = target;
            for (size_t j = 0; j < list->count; j++)
                request_clear(field->schema, (char *) list->items + j * field->schema->size);
            free(list->items);
        }
    }
    memset(request, 0, schema->size);
}
