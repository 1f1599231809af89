// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/output.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guest/protocol.h"

/* Chunks are at least this large, so that single lines share one; their number bounds what two streams that
 * alternate byte by byte can cost. */
#define CHUNK_MIN 512
#define CHUNKS_MAX 1024

void output_clear(struct output *output) {
    uint64_t offset = output->offset + output->stored;

    while (output->first) {
        struct output_chunk *chunk = output->first;
        output->first = chunk->next;
        free(chunk);
    }
    *output = (struct output){ .offset = offset };
}

size_t output_room(const struct output *output) {
    size_t room = GUEST_WINDOW - output->stored;

    if (output->count >= CHUNKS_MAX)
        return 0;
    return room < OUTPUT_CHUNK ? room : OUTPUT_CHUNK;
}

static void first_drop(struct output *output) {
    struct output_chunk *chunk = output->first;

    if (output->unsent == chunk)
        output->unsent = chunk->next;
    output->first = chunk->next;
    if (!output->first)
        output->last = NULL;
    output->released = 0;
    output->count--;
    free(chunk);
}

/* Takes `size` stored bytes away from the front, and the ends of streams behind them that were sent. */
static void release(struct output *output, size_t size) {
    output->offset += size;
    output->stored -= size;
    while (output->first) {
        struct output_chunk *chunk = output->first;
        size_t left = chunk->size - output->released;

        if (left > size) {
            output->released += size;
            return;
        }
        /* A wholly credited chunk stays while it may still grow, or, being an end of stream, was not sent. */
        if (chunk == output->unsent && size == 0)
            return;
        size -= left;
        first_drop(output);
    }
}

void output_make_room(struct output *output) {
    while (output->first && output_room(output) < OUTPUT_CHUNK) {
        size_t size = output->first->size - output->released;
        size_t sent = size < output->in_flight ? size : output->in_flight;

        output->in_flight -= sent;
        output->offset += size;
        output->stored -= size;
        first_drop(output);
    }
}

static bool last_can_take(const struct output *output, uint8_t type, size_t size) {
    const struct output_chunk *last = output->last;

    return last && output->unsent && last->type == type && size > 0 && last->size > 0 &&
           last->capacity - last->size >= size;
}

int output_append(struct output *output, uint8_t type, const void *data, size_t size) {
    struct output_chunk *chunk = output->last;
    size_t capacity = size == 0 ? 0 : size < CHUNK_MIN ? CHUNK_MIN : size;

    if (!last_can_take(output, type, size)) {
        chunk = malloc(sizeof(*chunk) + capacity);
        if (!chunk)
            return -ENOMEM;
        *chunk = (struct output_chunk){ .type = type, .capacity = capacity };
        if (output->last)
            output->last->next = chunk;
        else
            output->first = chunk;
        output->last = chunk;
        output->count++;
        if (!output->unsent)
            output->unsent = chunk;
    }
    if (size > 0)
        memcpy(chunk->data + chunk->size, data, size);
    chunk->size += size;
    output->stored += size;
    return 0;
}

bool output_next(struct output *output, uint8_t *ret_type, const uint8_t **ret_data, size_t *ret_size) {
    struct output_chunk *chunk = output->unsent;
    size_t skip;

    if (!chunk)
        return false;
    skip = chunk == output->first ? output->released : 0;
    *ret_type = chunk->type;
    *ret_data = chunk->data + skip;
    *ret_size = chunk->size - skip;
    output->in_flight += *ret_size;
    output->unsent = chunk->next;
    return true;
}

bool output_is_sent(const struct output *output) {
    return !output->unsent;
}

int output_credit(struct output *output, size_t size) {
    if (size > output->in_flight)
        return -EBADMSG;
    output->in_flight -= size;
    release(output, size);
    return 0;
}

void output_rewind(struct output *output) {
    output->unsent = output->first;
    output->in_flight = 0;
}
