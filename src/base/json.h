// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

/* Reading is json-c behind limits; writing is a small emitter into a buffer. */

struct json_object;

#define JSON_DEPTH_MAX 32
/* A parsed value takes far more memory than its text: "{}," makes 800 bytes of 3. */
#define JSON_CONTAINERS_MAX 32768
#define JSON_VALUES_MAX 131072

/* Parses exactly one JSON value of `size` bytes (strict, UTF-8, depth at most JSON_DEPTH_MAX, nothing after it;
 * NUL in texts, NaN, infinities and integers beyond 64 bits are refused; of a repeated key the last value counts).
 * The caller owns *ret (json_put). Errors: BAD_JSON, NO_MEMORY. The caller limits `size`. */
int json_parse(const char *text, size_t size, struct json_object **ret, struct error *error);
/* The same for what others send: at most JSON_CONTAINERS_MAX objects and arrays and JSON_VALUES_MAX values, so that
 * memory is bounded as well as size. */
int json_parse_foreign(const char *text, size_t size, struct json_object **ret, struct error *error);
/* Its text without blanks; borrowed from it until it changes. NULL without memory. */
const char *json_plain(struct json_object *object);
void json_put(struct json_object *object);
/* The member, or NULL; `object` may be NULL or no object. Borrowed. */
struct json_object *json_member(struct json_object *object, const char *name);
/* Is the member there, null included? */
bool json_has(struct json_object *object, const char *name);
/* Member of the right type or the fallback. Borrowed. */
const char *json_text(struct json_object *object, const char *name, const char *fallback);
int64_t json_integer(struct json_object *object, const char *name, int64_t fallback);
bool json_boolean(struct json_object *object, const char *name, bool fallback);

/* Refuses members of an object that are not in `names` (NULL-terminated), and what is no object. UNKNOWN_FIELD names
 * `what` and the member. */
int json_only(struct json_object *object, const char *what, const char *const *names, struct error *error);

/* The emitter places commas itself. Object and array calls must balance. */
struct emitter {
    struct buffer *out;
    bool pretty;
    bool comma;   /* a value stands before */
    bool keyed;   /* a key stands before, its value follows */
    unsigned depth;
};

#define EMITTER_INIT(buffer)                                                                                 \
    { .out = (buffer) }

void emit_object(struct emitter *emitter);
void emit_object_end(struct emitter *emitter);
void emit_array(struct emitter *emitter);
void emit_array_end(struct emitter *emitter);
void emit_key(struct emitter *emitter, const char *key);
void emit_text(struct emitter *emitter, const char *text); /* NULL -> null; invalid UTF-8 -> U+FFFD */
void emit_text_sized(struct emitter *emitter, const char *text, size_t size);
void emit_integer(struct emitter *emitter, int64_t value);
void emit_unsigned(struct emitter *emitter, uint64_t value);
void emit_double(struct emitter *emitter, double value); /* not finite -> null */
void emit_boolean(struct emitter *emitter, bool value);
void emit_null(struct emitter *emitter);
void emit_raw(struct emitter *emitter, const char *json); /* one complete value that is JSON already */
/* key and value in one. */
void emit_key_text(struct emitter *emitter, const char *key, const char *text);
void emit_key_integer(struct emitter *emitter, const char *key, int64_t value);
void emit_key_unsigned(struct emitter *emitter, const char *key, uint64_t value);
void emit_key_boolean(struct emitter *emitter, const char *key, bool value);
void emit_key_list(struct emitter *emitter, const char *key, char *const *list);

/* An error as an RFC 9457 problem object: code, status, detail, subject, parameters. */
void emit_error(struct emitter *emitter, const struct error *problem);

DEFINE_CLEANUP(struct json_object *, json_put)
#define _cleanup_json_ _cleanup_(json_putp)
