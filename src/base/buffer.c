// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/buffer.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_FIRST 128

void buffer_done(struct buffer *buffer) {
    free(buffer->data);
    *buffer = (struct buffer) BUFFER_INIT;
}

void buffer_reset(struct buffer *buffer) {
    buffer->size = 0;
    buffer->failed = false;
    if (buffer->data)
        buffer->data[0] = '\0';
}

/* Room for `more` bytes and the NUL. */
int buffer_reserve(struct buffer *buffer, size_t more) {
    size_t allocated = buffer->allocated ? buffer->allocated : BUFFER_FIRST;
    size_t wanted;
    char *data;

    if (buffer->failed)
        return -ENOMEM;
    if (__builtin_add_overflow(buffer->size, more, &wanted) || wanted > SIZE_MAX / 4) {
        buffer->failed = true;
        return -ENOMEM;
    }
    wanted++;
    if (wanted <= buffer->allocated)
        return 0;
    while (allocated < wanted)
        allocated *= 2;
    data = realloc(buffer->data, allocated);
    if (!data) {
        buffer->failed = true;
        return -ENOMEM;
    }
    if (!buffer->data)
        data[0] = '\0';
    buffer->data = data;
    buffer->allocated = allocated;
    return 0;
}

void buffer_add(struct buffer *buffer, const void *data, size_t size) {
    if (buffer_reserve(buffer, size) < 0)
        return;
    if (size > 0)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    buffer->data[buffer->size] = '\0';
}

void buffer_add_text(struct buffer *buffer, const char *text) {
    buffer_add(buffer, text, strlen(text));
}

void buffer_add_char(struct buffer *buffer, char c) {
    buffer_add(buffer, &c, 1);
}

void buffer_addv(struct buffer *buffer, const char *format, va_list arguments) {
    va_list again;
    int length;

    if (buffer_reserve(buffer, BUFFER_FIRST) < 0)
        return;
    va_copy(again, arguments);
    length = vsnprintf(buffer->data + buffer->size, buffer->allocated - buffer->size, format, again);
    va_end(again);
    if (length < 0) {
        buffer->data[buffer->size] = '\0';
        buffer->failed = true;
        return;
    }
    if ((size_t) length >= buffer->allocated - buffer->size) {
        buffer->data[buffer->size] = '\0';
        if (buffer_reserve(buffer, (size_t) length) < 0)
            return;
        vsnprintf(buffer->data + buffer->size, buffer->allocated - buffer->size, format, arguments);
    }
    buffer->size += (size_t) length;
}

void buffer_addf(struct buffer *buffer, const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    buffer_addv(buffer, format, arguments);
    va_end(arguments);
}

void buffer_consume(struct buffer *buffer, size_t size) {
    if (size == 0)
        return;
    if (size >= buffer->size) {
        buffer->size = 0;
    } else {
        buffer->size -= size;
        memmove(buffer->data, buffer->data + size, buffer->size);
    }
    if (buffer->data)
        buffer->data[buffer->size] = '\0';
}

int buffer_take(struct buffer *buffer, char **ret_text) {
    if (buffer_reserve(buffer, 0) < 0) {
        buffer_done(buffer);
        return -ENOMEM;
    }
    *ret_text = STEAL_PTR(buffer->data);
    buffer_done(buffer);
    return 0;
}
