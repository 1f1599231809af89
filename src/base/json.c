// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* json-c parses. What it lets through and we do not (NUL, other control characters, single quotes, NaN and
 * infinities) is refused here, so that every text of a parsed document is a plain C string of valid UTF-8. */

static int refuse(struct error *error, const char *reason, size_t position) {
    char text[24];

    snprintf(text, sizeof(text), "%zu", position);
    return error_set(error, ERROR_BAD_JSON, reason, text);
}

/* What json-c takes for an empty object or array with its table, and for a value with its place in one, rounded up. */
#define CONTAINER_BYTES 1024
#define VALUE_BYTES 192
#define BASE_BYTES 16384

/* How much a text holds, from one look at it. */
struct extent {
    size_t containers, values;
    bool limited;
};

/* json-c does not look whether it got memory, and then drops members or ends the program. So the most that it could want
 * is taken once, and given back for it to take. */
static bool memory_suffices(const struct extent *extent, size_t size) {
    void *reserve = malloc(BASE_BYTES + 2 * size + CONTAINER_BYTES * extent->containers + VALUE_BYTES * extent->values);
    bool suffices = reserve != NULL;

    free(reserve);
    return suffices;
}

/* Would the run of digits that starts at text overflow 64 bits? json-c would quietly take the largest number.
 */
static bool is_too_long(const char *text, size_t size, bool negative) {
    const char *most = negative ? "9223372036854775808" : "18446744073709551615";
    size_t digits = 0;

    while (digits < size && text[digits] >= '0' && text[digits] <= '9')
        digits++;
    if (digits < size && strchr(".eE", text[digits]))
        return false; /* a fraction has its own range */
    return digits > strlen(most) || (digits == strlen(most) && strncmp(text, most, digits) > 0);
}

/* Does a number without fraction start at text[i]? */
static bool starts_integer(const char *text, size_t i) {
    if (text[i] < '1' || text[i] > '9')
        return false;
    return i == 0 || !strchr("0123456789.eE+", text[i - 1]);
}

/* The parser takes more than JSON is: names in single quotes, raw control characters in strings, NUL. Strings
 * end at a quotation mark without a backslash before it, so one pass finds all. */
static int check_characters(const char *text, size_t size, struct extent *extent, struct error *error) {
    bool quoted = false;

    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char) text[i];

        if (c == '"')
            quoted = !quoted;
        if (c == '\0' || (quoted && c < 0x20))
            return refuse(error, "a control character", i);
        if (!quoted && c == '\'')
            return refuse(error, "a single quotation mark", i);
        if (!quoted && starts_integer(text, i) &&
            is_too_long(text + i, size - i, i > 0 && text[i - 1] == '-'))
            return refuse(error, "a number of more than 64 bits", i);
        if (!quoted) {
            extent->containers += c == '{' || c == '[';
            extent->values += c == '{' || c == '[' || c == ',';
            if (extent->limited && (extent->containers > JSON_CONTAINERS_MAX || extent->values > JSON_VALUES_MAX))
                return refuse(error, "more values than are taken", i);
        }
        if (!quoted || c != '\\')
            continue;
        if (size - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
            return refuse(error, "a NUL character", i);
        i++;
    }
    return 0;
}

/* Numbers that JSON has not. The depth is bounded by the parser. */
static bool has_odd_number(struct json_object *object) {
    if (json_object_is_type(object, json_type_double))
        return !isfinite(json_object_get_double(object));
    if (json_object_is_type(object, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(object); i++)
            if (has_odd_number(json_object_array_get_idx(object, i)))
                return true;
    }
    if (json_object_is_type(object, json_type_object)) {
        json_object_object_foreach(object, key, value) {
            (void) key;
            if (has_odd_number(value))
                return true;
        }
    }
    return false;
}

static void tokener_freep(struct json_tokener **tokener) {
    if (*tokener)
        json_tokener_free(*tokener);
}

static int parse(const char *text, size_t size, bool limited, struct json_object **ret, struct error *error) {
    _cleanup_(tokener_freep) struct json_tokener *tokener = NULL;
    _cleanup_json_ struct json_object *object = NULL;
    struct extent extent = { .values = 1, .limited = limited };
    enum json_tokener_error parsed;
    int r;

    if (size > INT_MAX)
        return error_set(error, ERROR_TOO_LARGE, "the JSON text", "2 GiB");
    /* json-c's own check lets overlong forms and surrogates through. */
    if (!text_is_utf8(text, size))
        return refuse(error, "it is not UTF-8", 0);
    r = check_characters(text, size, &extent, error);
    if (r < 0)
        return r;
    if (!memory_suffices(&extent, size))
        return error_set(error, ERROR_NO_MEMORY);
    tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
    if (!tokener)
        return error_set(error, ERROR_NO_MEMORY);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    object = json_tokener_parse_ex(tokener, text, (int) size);
    parsed = json_tokener_get_error(tokener);
    if (parsed == json_tokener_continue) {
        /* A number or literal at the top ends only with the text: the NUL says so. */
        object = json_tokener_parse_ex(tokener, "", 1);
        parsed = json_tokener_get_error(tokener);
        if (parsed == json_tokener_continue)
            return refuse(error, "it ends too early", size);
    }
    if (parsed != json_tokener_success)
        return refuse(error, json_tokener_error_desc(parsed), json_tokener_get_parse_end(tokener));
    if (has_odd_number(object))
        return refuse(error, "a number that JSON does not have", 0);
    *ret = STEAL_PTR(object);
    return 0;
}

int json_parse(const char *text, size_t size, struct json_object **ret, struct error *error) {
    return parse(text, size, false, ret, error);
}

int json_parse_foreign(const char *text, size_t size, struct json_object **ret, struct error *error) {
    return parse(text, size, true, ret, error);
}

void json_put(struct json_object *object) {
    json_object_put(object);
}

struct json_object *json_member(struct json_object *object, const char *name) {
    struct json_object *member = NULL;

    if (!json_object_is_type(object, json_type_object))
        return NULL;
    json_object_object_get_ex(object, name, &member);
    return member;
}

bool json_has(struct json_object *object, const char *name) {
    return json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, name, NULL);
}

const char *json_text(struct json_object *object, const char *name, const char *fallback) {
    struct json_object *member = json_member(object, name);

    return json_object_is_type(member, json_type_string) ? json_object_get_string(member) : fallback;
}

int64_t json_integer(struct json_object *object, const char *name, int64_t fallback) {
    struct json_object *member = json_member(object, name);

    return json_object_is_type(member, json_type_int) ? json_object_get_int64(member) : fallback;
}

bool json_boolean(struct json_object *object, const char *name, bool fallback) {
    struct json_object *member = json_member(object, name);

    return json_object_is_type(member, json_type_boolean) ? json_object_get_boolean(member) != 0 : fallback;
}

int json_only(struct json_object *object, const char *what, const char *const *names, struct error *error) {
    if (!json_object_is_type(object, json_type_object))
        return error_set(error, ERROR_BAD_TYPE, what, "an object", "something else");
    json_object_object_foreach(object, key, value) {
        bool known = false;
        (void) value;
        for (size_t i = 0; names[i] && !known; i++)
            known = strcmp(names[i], key) == 0;
        if (!known) {
            _cleanup_free_ char *shown = text_escape(key, strnlen(key, 64), false);
            return error_set(error, ERROR_UNKNOWN_FIELD, shown, what);
        }
    }
    return 0;
}
