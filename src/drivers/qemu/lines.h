// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

#include "base/buffer.h"

/* Cuts a byte stream into lines, for QMP and the guest agent. What does not fit in `limit` bytes is an
 * error, whether its newline came or not: a peer that never sends one cannot make us keep more. */

struct line_reader {
    struct buffer buffer;
    size_t scanned; /* bytes known to hold no newline */
    size_t limit;
};

#define LINE_READER_INIT(bytes)                                                                              \
    { .limit = (bytes) }

void line_reader_done(struct line_reader *reader);
void line_reader_reset(struct line_reader *reader);
/* -EMSGSIZE: the line is too long, -ENOMEM. */
int line_reader_add(struct line_reader *reader, const void *data, size_t size);
/* The next complete line without its end, NUL-terminated, valid until line_reader_drop; NULL if there is
 * none. */
char *line_reader_next(struct line_reader *reader, size_t *ret_size);
/* Drops the line that line_reader_next gave; `size` as it told. */
void line_reader_drop(struct line_reader *reader, size_t size);
