// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* The terminal, if there is one. */

bool terminal_has_colours(FILE *file); /* a terminal, and NO_COLOR is not set */
bool terminal_size(uint16_t *ret_rows, uint16_t *ret_columns); /* of any of 0, 1, 2 */
/* Raw mode for standard input until terminal_restore; false if it is no terminal. */
bool terminal_raw(void);
void terminal_restore(void);

/* "polder: sentence" to standard error, foreign bytes escaped. */
void show_error(const struct error *error, enum language language);
void show_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Writes foreign text escaped; lines: newlines and tabs stay. */
void print_escaped(FILE *file, const char *text, size_t size, bool lines);

/* One line on standard error that is drawn over and over: "web: copying [====    ] 50%". total 0: unknown. bytes: the counts are
 * told too. */
void show_bar(const char *subject, const char *step, uint64_t done, uint64_t total, bool bytes);
void clear_bar(void);

/* Bytes that this program itself sends or receives, as such a line, once that has taken a second and on a terminal alone. Texts
 * are borrowed. */
struct transfer {
    const char *subject, *step;
    uint64_t done, total; /* bytes; total 0: unknown */
    uint64_t next;        /* when it is drawn next */
    bool shown, drawn;
};
void transfer_begin(struct transfer *transfer, bool quiet, const char *subject, const char *step, uint64_t total);
void transfer_add(struct transfer *transfer, size_t bytes);
void transfer_end(struct transfer *transfer); /* the line goes */
