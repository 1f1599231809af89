// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/* A text that somebody else wrote, read line by line and never held whole: plain, or packed by gzip, xz, bzip2 or zstd;
 * also the members of a tar. Errors name the file and the line. */

struct input;

/* Longest line taken. */
#define INPUT_LINE_LIMIT (1 << 20)

/* NOT_FOUND, INTERNAL; BAD_INPUT for what is packed badly. */
int input_open(const char *path, struct input **ret, struct error *error);
/* As input_open, for a tar of texts: nothing can be read before input_member. */
int input_open_archive(const char *path, struct input **ret, struct error *error);
void input_free(struct input *input);
DEFINE_CLEANUP(struct input *, input_free)
#define _cleanup_input_ _cleanup_(input_freep)

/* The next regular file of an archive: 1 and its name (valid until the next call), 0 after the last. Line numbers start
 * again. BAD_INPUT. */
int input_member(struct input *input, const char **ret_name, struct error *error);

/* The next line without its end: 1 and the line (NUL-terminated, may be written to, valid until the next call), 0 at the
 * end. BAD_INPUT for lines above the limit, NUL bytes, a truncated or damaged packing. */
int input_line(struct input *input, char **ret, struct error *error);

/* The first character of the next line that is no blank, which stays unread; 0 at the end or for an empty line. BAD_INPUT. */
int input_look(struct input *input, char *ret, struct error *error);

/* Share of the file read, 0 to 1, for progress bars. */
double input_progress(const struct input *input);
uint64_t input_line_number(const struct input *input);

/* Sets BAD_INPUT with the file, the current line, the field's name and what is wrong with it; returns -EBADMSG. */
int input_refuse(const struct input *input, struct error *error, const char *field, const char *problem, ...)
    _printf_(4, 5);

/* Splits in place at each separator, or, where the separator is ' ', at runs of blanks and tabs. Returns how many fields
 * the line has; only the first `maximum` are stored. No quoting: a field that begins with '"' is refused by
 * those that read CSV. */
size_t input_split(char *line, char separator, char **fields, size_t maximum);

/* Says once, on standard error, which columns of a header nothing asks for: "FILE: columns not used: a, b and 3 more". */
void input_tell_unused(const struct input *input, char *const *fields, const bool *used, size_t count);

/* Numbers of a field: BAD_INPUT when it is empty, no number, not finite or out of [minimum, maximum]. */
int input_integer(const struct input *input, const char *name, const char *text, int64_t minimum, int64_t maximum,
                  int64_t *ret, struct error *error);
int input_decimal(const struct input *input, const char *name, const char *text, double minimum, double maximum,
                  double *ret, struct error *error);
