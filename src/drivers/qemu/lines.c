// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/lines.h"

#include <errno.h>
#include <string.h>

/* Memory that a single long line took is given back once it is through. */
#define KEEP_MAX 16384

void line_reader_done(struct line_reader *reader) {
    buffer_done(&reader->buffer);
    reader->scanned = 0;
}

void line_reader_reset(struct line_reader *reader) {
    buffer_reset(&reader->buffer);
    reader->scanned = 0;
}

int line_reader_add(struct line_reader *reader, const void *data, size_t size) {
    struct buffer *buffer = &reader->buffer;

    buffer_add(buffer, data, size);
    if (buffer->failed)
        return -ENOMEM;
    if (buffer->size <= reader->limit)
        return 0;
    /* Several short lines may wait; only an unfinished or a finished long one is too much. */
    const char *end = memchr(buffer->data + reader->scanned, '\n', buffer->size - reader->scanned);
    return end && (size_t) (end - buffer->data) <= reader->limit ? 0 : -EMSGSIZE;
}

char *line_reader_next(struct line_reader *reader, size_t *ret_size) {
    struct buffer *buffer = &reader->buffer;
    char *end;

    if (buffer->size == reader->scanned)
        return NULL;
    end = memchr(buffer->data + reader->scanned, '\n', buffer->size - reader->scanned);
    if (!end) {
        reader->scanned = buffer->size;
        return NULL;
    }
    *end = '\0';
    *ret_size = (size_t) (end - buffer->data);
    return buffer->data;
}

void line_reader_drop(struct line_reader *reader, size_t size) {
    struct buffer *buffer = &reader->buffer;

    buffer_consume(buffer, size + 1);
    reader->scanned = 0;
    if (buffer->size == 0 && buffer->allocated > KEEP_MAX)
        buffer_done(buffer);
}
