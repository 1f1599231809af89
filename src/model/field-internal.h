// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "model/field.h"

/* What field.c, decode.c, emit.c and schema.c share; nobody else includes it. */

/* Where a value stands, for error messages: "publish[0].port". Lives on the stack of the decoder. */
struct path {
    const struct path *parent;
    const char *name; /* NULL: an element, see index */
    size_t index;
};

static inline void *field_at(const struct field *field, void *object) {
    return (char *) object + field->offset;
}

static inline const void *field_at_const(const struct field *field, const void *object) {
    return (const char *) object + field->offset;
}

/* Frees one value and zeroes it. */
void field_done(const struct field *field, void *value);
/* Its default into zeroed memory. */
int field_init(const struct field *field, void *value);
int field_copy(const struct field *field, const void *source, void *target);
bool field_equal(const struct field *field, const void *a, const void *b);
/* Appends the zeroed memory of one item and returns it in *ret. */
int field_array_add(struct field_array *array, size_t size, void **ret);

/* Sets a value from its text form (BOOLEAN, TEXT, INTEGER, SIZE, CPUS, DURATION, ENUM, TIME), checked unless
 * `checked` is false. */
int field_set_text(const struct field *field, const struct path *path, const char *text, bool checked,
                   void *value, struct error *error);
/* Sets the pair "KEY=value" of a MAP, keeping the order of keys; a NULL value removes the key. */
int map_field_set(char ***map, const char *key, const char *value);

/* Checks that stand in one place for JSON and for text. */
int check_number(const struct field *field, const struct path *path, uint64_t value, struct error *error);
int check_integer(const struct field *field, const struct path *path, int64_t value, struct error *error);
int check_text(const struct field *field, const struct path *path, const char *text, size_t limit,
               struct error *error);
int check_list(const struct field *field, const struct path *path, char *const *list, struct error *error);
int refuse_value(const struct path *path, const char *value, const char *reason, struct error *error);
/* BAD_VALUE for an ENUM, with the choices. */
int refuse_choice(const struct field *field, const struct path *path, const char *value, struct error *error);
int refuse_range(const struct field *field, const struct path *path, const char *value, struct error *error);

/* A number of this field for people: "256MiB", "1.5". Allocated. */
char *field_format_number(const struct field *field, uint64_t value);
/* "publish[0].port", allocated; NULL when out of memory. */
char *path_text(const struct path *path);
uint64_t field_maximum(const struct field *field);
