// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/field-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/text.h"

/* Limits of values, the text forms of single values, and the errors about both. */

/* How much of a refused value an error repeats. */
#define SHOWN_MAX 64

static void path_add(struct buffer *out, const struct path *path) {
    if (path->parent)
        path_add(out, path->parent);
    if (!path->name) {
        buffer_addf(out, "[%zu]", path->index);
        return;
    }
    if (path->parent)
        buffer_add_char(out, '.');
    buffer_addf(out, "%.*s", SHOWN_MAX, path->name);
}

char *path_text(const struct path *path) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *text = NULL;

    if (path)
        path_add(&out, path);
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

/* The start of a value for an error, cut between characters. Allocated. */
static char *shown(const char *value) {
    size_t length = strnlen(value, SHOWN_MAX + 1);

    if (length <= SHOWN_MAX)
        return strdup(value);
    length = SHOWN_MAX;
    while (length > 0 && ((unsigned char) value[length] & 0xc0) == 0x80)
        length--;
    return text_format("%.*s…", (int) length, value);
}

int refuse_value(const struct path *path, const char *value, const char *reason, struct error *error) {
    _cleanup_free_ char *where = path_text(path);
    _cleanup_free_ char *what = shown(value);

    return error_set(error, ERROR_BAD_VALUE, where, what, reason);
}

int refuse_choice(const struct field *field, const struct path *path, const char *value,
                  struct error *error) {
    const char *suggestion = text_suggest(value, field->names);
    _cleanup_free_ char *choices = list_join((char *const *) field->names, ", ");
    _cleanup_free_ char *reason = NULL;

    if (!choices)
        return error_set(error, ERROR_NO_MEMORY);
    if (suggestion)
        reason = text_format("choose one of %s (%s?)", choices, suggestion);
    else
        reason = text_format("choose one of %s", choices);
    return refuse_value(path, value, reason, error);
}

uint64_t field_maximum(const struct field *field) {
    if (field->maximum > 0)
        return field->maximum;
    switch (field->type) {
    case FIELD_TEXT:
        return FIELD_TEXT_MAX;
    case FIELD_LIST:
    case FIELD_MAP:
    case FIELD_OBJECTS:
        return FIELD_ELEMENTS_MAX;
    default:
        return INT64_MAX;
    }
}

char *field_format_number(const struct field *field, uint64_t value) {
    switch (field->type) {
    case FIELD_SIZE:
        return text_format_size(value);
    case FIELD_CPUS:
        return text_format_cpus(value);
    case FIELD_DURATION:
        return text_format_duration(value);
    default:
        return text_format("%" PRId64, (int64_t) value);
    }
}

int refuse_range(const struct field *field, const struct path *path, const char *value, struct error *error) {
    _cleanup_free_ char *where = path_text(path);
    _cleanup_free_ char *least = field_format_number(field, field->minimum);
    _cleanup_free_ char *most = field_format_number(field, field_maximum(field));
    _cleanup_free_ char *what = shown(value);

    return error_set(error, ERROR_OUT_OF_RANGE, where, least, most, what);
}

int check_number(const struct field *field, const struct path *path, uint64_t value, struct error *error) {
    _cleanup_free_ char *text = NULL;

    if (field->or_zero && value == 0)
        return 0;
    if (value >= field->minimum && value <= field_maximum(field))
        return 0;
    text = field_format_number(field, value);
    return refuse_range(field, path, text ? text : "", error);
}

/* The row's limits are written as uint64_t and mean int64_t here; both 0 means no limit of its own. */
int check_integer(const struct field *field, const struct path *path, int64_t value, struct error *error) {
    _cleanup_free_ char *text = NULL;

    if (field->or_zero && value == 0)
        return 0;
    if (field->minimum == 0 && field->maximum == 0)
        return 0;
    if (value >= (int64_t) field->minimum && value <= (int64_t) field->maximum)
        return 0;
    text = text_format("%" PRId64, value);
    return refuse_range(field, path, text ? text : "", error);
}

static bool is_clean(const char *text, bool lines) {
    _cleanup_free_ char *flat = NULL;

    if (!lines)
        return text_is_plain(text);
    flat = strdup(text);
    for (char *p = flat; p && *p; p++)
        if (*p == '\n' || *p == '\t' || (*p == '\r' && p[1] == '\n'))
            *p = ' ';
    return flat && text_is_plain(flat);
}

/* The values of maps and whole documents often hold secrets: errors name their place and repeat nothing. */
int check_text(const struct field *field, const struct path *path, const char *text, size_t limit,
               struct error *error) {
    const char *value = field->type == FIELD_MAP || field->lines ? "…" : text;
    const char *reason;

    if (strlen(text) > limit) {
        _cleanup_free_ char *where = path_text(path);
        _cleanup_free_ char *most = text_format("%zu bytes", limit);

        return error_set(error, ERROR_TOO_LARGE, where, most);
    }
    if (!is_clean(text, field->lines))
        return refuse_value(path, value, "it holds control characters or is not valid UTF-8", error);
    reason = field->check ? field->check(text) : NULL;
    if (reason)
        return refuse_value(path, value, reason, error);
    return 0;
}

int check_list(const struct field *field, const struct path *path, char *const *list, struct error *error) {
    uint64_t count = 0;
    size_t bytes = 0;
    _cleanup_free_ char *where = NULL;
    _cleanup_free_ char *most = NULL;

    for (; list && list[count]; count++)
        bytes += strlen(list[count]) + 1;
    if (count > field_maximum(field))
        most = text_format("%" PRIu64 " elements", field_maximum(field));
    else if (bytes > FIELD_BYTES_MAX)
        most = text_format("%d bytes", FIELD_BYTES_MAX);
    else
        return 0;
    where = path_text(path);
    return error_set(error, ERROR_TOO_LARGE, where, most);
}

static int parse_boolean(const char *text, bool *ret) {
    static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };

    for (unsigned i = 0; i < ELEMENTS(words); i++)
        if (strcmp(text, words[i]) == 0) {
            *ret = i % 2 == 1;
            return 0;
        }
    if (text[0] != '\0')
        return -EINVAL;
    *ret = true;
    return 0;
}

static const char *form_of(enum field_type type) {
    switch (type) {
    case FIELD_BOOLEAN:
        return "give true or false";
    case FIELD_INTEGER:
        return "give a whole number";
    case FIELD_SIZE:
        return "give bytes, or a size such as 256M or 1.5G";
    case FIELD_CPUS:
        return "give a number such as 2 or 1.5, with at most three decimals";
    case FIELD_DURATION:
        return "give a duration such as 90s, 1m30s or 2h";
    case FIELD_TIME:
        return "give a time such as 2026-11-21T08:52:00Z";
    default:
        return "it is no such value";
    }
}

static int parse_number(enum field_type type, const char *text, uint64_t *ret) {
    switch (type) {
    case FIELD_INTEGER:
        return text_parse_i64(text, (int64_t *) ret);
    case FIELD_SIZE:
        return text_parse_size(text, ret);
    case FIELD_CPUS:
        return text_parse_cpus(text, ret);
    case FIELD_DURATION:
        return text_parse_duration(text, ret);
    case FIELD_TIME:
        return clock_parse(text, ret);
    default:
        return -EINVAL;
    }
}

static int set_number(const struct field *field, const struct path *path, const char *text, bool checked,
                      uint64_t *value, struct error *error) {
    bool is_signed = field->type == FIELD_INTEGER;
    uint64_t number;
    int r;

    r = parse_number(field->type, text, &number);
    /* "-1" has no form of the unsigned types, but what is wrong with it is its range. */
    if (r == -EINVAL && !is_signed && text[0] == '-' && parse_number(field->type, text + 1, &number) == 0)
        r = -ERANGE;
    if (r == -ERANGE)
        return refuse_range(field, path, text, error);
    if (r < 0)
        return refuse_value(path, text, form_of(field->type), error);
    if (checked && field->type != FIELD_TIME) {
        r = is_signed ? check_integer(field, path, (int64_t) number, error)
                      : check_number(field, path, number, error);
        if (r < 0)
            return r;
    }
    *value = number;
    return 0;
}

static int set_enum(const struct field *field, const struct path *path, const char *text, int *value,
                    struct error *error) {
    for (int i = 0; field->names[i]; i++)
        if (strcmp(field->names[i], text) == 0) {
            *value = i;
            return 0;
        }
    return refuse_choice(field, path, text, error);
}

static int set_text(const struct field *field, const struct path *path, const char *text, bool checked,
                    char **value, struct error *error) {
    char *copy = NULL;
    int r;

    if (text[0] != '\0') {
        r = checked ? check_text(field, path, text, field_maximum(field), error) : 0;
        if (r < 0)
            return r;
        copy = strdup(text);
        if (!copy)
            return error_set(error, ERROR_NO_MEMORY);
    }
    free(*value);
    *value = copy;
    return 0;
}

int field_set_text(const struct field *field, const struct path *path, const char *text, bool checked,
                   void *value, struct error *error) {
    switch (field->type) {
    case FIELD_BOOLEAN:
        if (parse_boolean(text, value) < 0)
            return refuse_value(path, text, form_of(field->type), error);
        return 0;
    case FIELD_ENUM:
        return set_enum(field, path, text, value, error);
    case FIELD_TEXT:
        return set_text(field, path, text, checked, value, error);
    case FIELD_INTEGER:
    case FIELD_SIZE:
    case FIELD_CPUS:
    case FIELD_DURATION:
    case FIELD_TIME:
        return set_number(field, path, text, checked, value, error);
    default:
        return refuse_value(path, text, form_of(field->type), error);
    }
}

/* Does the pair "KEY=value" have this key? */
static int compare_key(const char *pair, const char *key) {
    size_t length = strlen(key);
    int order = strncmp(pair, key, length);

    return order != 0 ? order : (unsigned char) pair[length] - '=';
}

static void list_remove_at(char **list, size_t at) {
    free(list[at]);
    for (; list[at]; at++)
        list[at] = list[at + 1];
}

int map_field_set(char ***map, const char *key, const char *value) {
    size_t count = list_count(*map);
    char *pair;
    int r;

    for (size_t i = 0; i < count; i++)
        if (compare_key((*map)[i], key) == 0) {
            list_remove_at(*map, i);
            count--;
            break;
        }
    if (!value)
        return 0;
    r = list_addf(map, "%s=%s", key, value);
    if (r < 0)
        return r;
    pair = (*map)[count];
    while (count > 0 && strcmp((*map)[count - 1], pair) > 0) {
        (*map)[count] = (*map)[count - 1];
        count--;
    }
    (*map)[count] = pair;
    return 0;
}
