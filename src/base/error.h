// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

/* What a caller or a user can act on: a code and its parameters. Sentences are made at the edge from errors.def,
 * so that they exist in each language. */

enum error_code {
    ERROR_NONE,
#define ERROR_ROW(code, wire, number, http, status, english, chinese) ERROR_##code,
#include "base/errors.def"
#undef ERROR_ROW
    ERROR_CODE_COUNT,
};

#define ERROR_PARAMETERS 4

struct error {
    enum error_code code;
    char *subject; /* the object concerned, "instance 'web-1'", or NULL */
    char *parameters[ERROR_PARAMETERS];
};

#define ERROR_INIT                                                                                           \
    { 0 }

enum language {
    LANGUAGE_ENGLISH,
    LANGUAGE_CHINESE,
};

/* Fills *error (unless it is NULL or already filled: the first cause wins) and returns the negative errno of code.
 * The parameters are strings, copied; NULL stands for "". Use as `return error_set(error, ERROR_NOT_FOUND, "image", x);` */
#define error_set(error, code, ...)                                                                          \
    error_set_parameters(error, code, (const char *const[]){ __VA_ARGS__ },                                  \
                         sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))
int error_set_parameters(struct error *error, enum error_code code, const char *const *parameters,
                         unsigned count);

/* Translates a negative errno `r` of a failed call: ENOSPC, ENOMEM, ECANCELED, ETIMEDOUT get their own codes, the
 * rest becomes ERROR_INTERNAL(what, strerror). `what` is a printf sentence part such as "creating %s". Returns r. */
int error_errno(struct error *error, int r, const char *what, ...) __attribute__((format(printf, 3, 4)));

/* Names the object an error is about, "instance 'web-1'"; an inner subject stays. Returns -errno of the error's
 * code, or 0 if nothing is set. */
int error_subject(struct error *error, const char *type, const char *name);

bool error_is_set(const struct error *error);
void error_clear(struct error *error);
void error_move(struct error *target, struct error *source);
void error_copy(struct error *target, const struct error *source);

/* The sentence, with its subject first. Allocated. */
char *error_sentence(const struct error *error, enum language language);

const char *error_wire(enum error_code code);
int error_http_status(enum error_code code);
int error_exit_status(enum error_code code);
int error_number(enum error_code code); /* positive errno */
/* ERROR_NONE if unknown. */
enum error_code error_from_wire(const char *wire);

#define _cleanup_error_ __attribute__((cleanup(error_clear)))
