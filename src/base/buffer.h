// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdarg.h>

#include "base/cleanup.h"

/* A growing byte string, always NUL-terminated once something was added. An allocation failure is remembered in
 * `failed`; later additions do nothing, so a builder checks once, at the end. */
struct buffer {
    char *data;
    size_t size;
    size_t allocated;
    bool failed;
};

#define BUFFER_INIT                                                                                          \
    { 0 }

void buffer_done(struct buffer *buffer);
void buffer_reset(struct buffer *buffer); /* keeps the memory */
int buffer_reserve(struct buffer *buffer, size_t more);
void buffer_add(struct buffer *buffer, const void *data, size_t size);
void buffer_add_text(struct buffer *buffer, const char *text);
void buffer_add_char(struct buffer *buffer, char c);
void buffer_addf(struct buffer *buffer, const char *format, ...) _printf_(2, 3);
void buffer_addv(struct buffer *buffer, const char *format, va_list arguments);
/* Drops the first `size` bytes. */
void buffer_consume(struct buffer *buffer, size_t size);
/* Takes the text out (never NULL on success); -ENOMEM if an addition failed. */
int buffer_take(struct buffer *buffer, char **ret_text);

#define _cleanup_buffer_ _cleanup_(buffer_done)
