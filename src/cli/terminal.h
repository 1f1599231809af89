// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
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
