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

/* Digits for which the parser has room without asking for memory. */
#define NUMBER_USUAL 24

/* How much a text holds, from one look at it. */
struct extent {
    size_t containers, values;
    bool limited;
};

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

/* Where the piece of a text ends that starts at `from`: behind a string, behind an object, or behind a number that is too
 * long for what the parser has ready. */
static size_t piece_end(const char *text, size_t size, size_t from) {
    size_t number = 0;
    bool quoted = false;

    for (size_t i = from; i < size; i++) {
        if (text[i] == '"' && quoted)
            return i + 1;
        quoted = quoted || text[i] == '"';
        if (quoted) {
            i += text[i] == '\\';
            continue;
        }
        if (text[i] == '}')
            return i + 1;
        if (strchr("0123456789+-.eE", text[i]))
            number++;
        else if (number > NUMBER_USUAL)
            return i;
        else
            number = 0;
    }
    return size;
}

/* json-c does not say when it got no memory. It drops a member, cuts a text short or takes what it has for the whole; a
 * name that it could not copy makes it fall, but not before the member's value is complete. errno tells, and only a number
 * clears it: so each piece ends before a number can follow such a loss, and the first loss ends the parsing. */
static int parse_piece(struct json_tokener *tokener, const char *text, size_t size, struct json_object **ret,
                       enum json_tokener_error *ret_parsed) {
    errno = 0;
    *ret = json_tokener_parse_ex(tokener, text, (int) size);
    *ret_parsed = json_tokener_get_error(tokener);
    if (errno != ENOMEM)
        return 0;
    json_put(STEAL_PTR(*ret));
    return -ENOMEM;
}

static bool is_blank(const char *text, size_t size) {
    while (size > 0 && strchr(" \t\r\n", text[size - 1]))
        size--;
    return size == 0;
}

/* The whole text, which has passed check_characters. */
static int parse_pieces(struct json_tokener *tokener, const char *text, size_t size, struct json_object **ret,
                        struct error *error) {
    enum json_tokener_error parsed = json_tokener_continue;
    size_t start = 0, end = 0;
    int r = 0;

    while (r >= 0 && parsed == json_tokener_continue && end < size) {
        start = end;
        end = piece_end(text, size, start);
        r = parse_piece(tokener, text + start, end - start, ret, &parsed);
    }
    /* A number or literal at the top ends only with the text: the NUL says so. */
    if (r >= 0 && parsed == json_tokener_continue)
        r = parse_piece(tokener, "", 1, ret, &parsed);
    if (r < 0)
        return error_set(error, ERROR_NO_MEMORY);
    if (parsed == json_tokener_continue)
        return refuse(error, "it ends too early", size);
    if (parsed == json_tokener_success && !is_blank(text + end, size - end))
        parsed = json_tokener_error_parse_unexpected;
    if (parsed != json_tokener_success) {
        json_put(STEAL_PTR(*ret));
        return refuse(error, json_tokener_error_desc(parsed), start + json_tokener_get_parse_end(tokener));
    }
    return 0;
}

static int parse(const char *text, size_t size, bool limited, struct json_object **ret, struct error *error) {
    _cleanup_(tokener_freep) struct json_tokener *tokener = NULL;
    _cleanup_json_ struct json_object *object = NULL;
    struct extent extent = { .values = 1, .limited = limited };
    int r;

    if (size > INT_MAX)
        return error_set(error, ERROR_TOO_LARGE, "the JSON text", "2 GiB");
    /* json-c's own check lets overlong forms and surrogates through. */
    if (!text_is_utf8(text, size))
        return refuse(error, "it is not UTF-8", 0);
    r = check_characters(text, size, &extent, error);
    if (r < 0)
        return r;
    tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
    if (!tokener)
        return error_set(error, ERROR_NO_MEMORY);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    r = parse_pieces(tokener, text, size, &object, error);
    if (r < 0)
        return r;
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

const char *json_plain(struct json_object *object) {
    const char *text;

    errno = 0; /* json-c does not say that it had no memory for all of it */
    text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN);
    return errno == ENOMEM ? NULL : text;
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
