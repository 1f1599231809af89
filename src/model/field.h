// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

/* Fields live in tables: one row per field gives initial value, JSON in and out, validation, CLI flag and
 * help, OpenAPI schema and the reference page. */

enum field_type {
    FIELD_BOOLEAN, /* bool */
    FIELD_TEXT,    /* char *, allocated or NULL */
    FIELD_INTEGER, /* int64_t */
    FIELD_SIZE,    /* uint64_t bytes; JSON number, or text such as "256M"; written as a number */
    FIELD_CPUS,    /* uint64_t thousandths of a CPU; JSON number 1.5 or text "1.5"; written as a number 1.5 */
    FIELD_DURATION, /* uint64_t milliseconds; JSON text "90s" or a number of seconds; written as text */
    FIELD_ENUM,     /* int, an index into names */
    FIELD_LIST,     /* char **, list of texts */
    FIELD_MAP,      /* char **, list of "KEY=value" sorted by key; JSON object of texts */
    FIELD_OBJECT,   /* nested struct described by items */
    FIELD_OBJECTS,  /* struct field_array of structs described by items */
    FIELD_TIME,     /* uint64_t wall microseconds; RFC 3339 text; 0 is null */
};

/* What FIELD_OBJECTS points at. */
struct field_array {
    void *items; /* count structs of the table's size */
    size_t count;
};

enum field_change {
    CHANGE_NEVER,   /* fixed at creation */
    CHANGE_STOPPED, /* while the instance does not run */
    CHANGE_LIVE,    /* at any time */
    CHANGE_OUTPUT,  /* written by polderd only: refused in requests */
};

struct table;

struct field {
    const char *name;
    enum field_type type;
    size_t offset;
    enum field_change change;
    uint64_t minimum; /* INTEGER (as int64_t), SIZE, CPUS, DURATION; TEXT/LIST/MAP/OBJECTS: 0 */
    uint64_t maximum; /* numbers; TEXT: bytes; LIST/MAP/OBJECTS: elements. 0 means the type's own limit */
    bool or_zero; /* SIZE, CPUS, DURATION, INTEGER: 0 is taken although it lies below minimum ("no limit") */
    bool lines;   /* TEXT, LIST, MAP: newlines and tabs are taken; other control characters never are */
    const char *initial;      /* default as text in the JSON input form, NULL for none */
    const char *const *names; /* FIELD_ENUM, NULL-terminated */
    unsigned kinds;           /* bits 1 << enum kind that take it; 0 means all */
    bool required;
    /* Extra check of one text (TEXT, each LIST element, each MAP pair). Returns NULL or the reason in
     * English. */
    const char *(*check)(const char *text);
    /* CLI form where the type's own does not do: OBJECTS: into one initialised item, which is then appended;
     * else into the whole object of the table (it may set several fields). */
    int (*parse)(const char *text, void *target, struct error *error);
    const struct table *items; /* OBJECT, OBJECTS */
    const char *flag;          /* CLI long flag without dashes, NULL for none */
    const char *alias;         /* a second long flag with the same meaning */
    char short_flag;
    const char *value; /* its name in help: "SIZE" */
    const char *help;  /* one sentence */
};

struct table {
    const char *name; /* "instance" */
    size_t size;
    const struct field *fields;
    size_t count;
};

#define TABLE(table_name, type, rows)                                                                        \
    {                                                                                                        \
        .name = (table_name), .size = sizeof(type), .fields = (rows),                                        \
        .count = sizeof(rows) / sizeof((rows)[0])                                                            \
    }

/* The type's own limits: bytes of one TEXT, elements of a LIST, MAP or OBJECTS, bytes of a whole LIST or MAP.
 */
#define FIELD_TEXT_MAX 4096
#define FIELD_ELEMENTS_MAX 1000
#define FIELD_BYTES_MAX (128 * 1024)

/* Default values into zeroed or done memory. -ENOMEM. */
int table_init(const struct table *table, void *object);
void table_done(const struct table *table, void *object);                    /* frees and zeroes */
int table_copy(const struct table *table, const void *source, void *target); /* target uninitialised */
bool table_equal(const struct table *table, const void *a, const void *b);

enum decode_flag {
    DECODE_REPLACE = 0, /* starts from the defaults: absent fields get them */
    DECODE_MERGE =
        1 << 0, /* merge-patch: absent fields stay, null resets to the default; maps merge by key */
    /* From our own store: output fields are taken, unknown fields are ignored, absent fields get their
     * defaults; types are checked, limits are not, since a later version may draw them closer. */
    DECODE_STORED = 1 << 1,
};
/* Decodes a JSON object into an initialised object. Unknown fields are refused with their path and a
 * suggestion, wrong types and ranges by name. On failure the object is unchanged. Errors: UNKNOWN_FIELD,
 * BAD_TYPE, BAD_VALUE, OUT_OF_RANGE, MISSING_FIELD, READ_ONLY_FIELD, TOO_LARGE. null stands for the default,
 * and an empty text for none. Texts are valid UTF-8 without control characters (`lines` excepted). */
int table_decode(const struct table *table, struct json_object *json, unsigned flags, void *object,
                 struct error *error);
/* Decodes one field from its CLI text form: lists append, maps set one "KEY=value", booleans take "" for
 * true. Output fields are refused. On failure the object is unchanged. */
int table_decode_text(const struct table *table, const char *field_name, const char *text, void *object,
                      struct error *error);
/* Writes the members (not the braces). Defaults are written too; NULL texts are omitted, a time of 0 is null.
 */
void table_emit(const struct table *table, const void *object, struct emitter *emitter);
/* The first field that differs although it must not: CHANGE_NEVER, or CHANGE_STOPPED when `running`; or NULL.
 */
const struct field *table_first_frozen(const struct table *table, const void *before, const void *after,
                                       bool running);
const struct field *table_find(const struct table *table, const char *name);
/* Does the field have its default value? */
bool field_is_default(const struct field *field, const void *object);
/* JSON schema (OpenAPI 3.1) of the table, as one object value; without output fields it describes a request.
 */
void table_emit_schema(const struct table *table, bool with_output, struct emitter *emitter);
