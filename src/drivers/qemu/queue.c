// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/queue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_SIZE 4000 /* small writes share a chunk of this size */

struct queue_chunk {
    struct queue_chunk *next;
    enum stream_channel channel;
    size_t start, end, capacity;
    char data[];
};

static void chunk_drop(struct byte_queue *queue) {
    struct queue_chunk *chunk = queue->first;

    queue->first = chunk->next;
    if (!queue->first)
        queue->last = NULL;
    free(chunk);
}

void byte_queue_done(struct byte_queue *queue) {
    while (queue->first)
        chunk_drop(queue);
    queue->size = 0;
    byte_queue_close(queue, -ECANCELED);
}

int byte_queue_add(struct byte_queue *queue, enum stream_channel channel, const void *data, size_t size) {
    struct queue_chunk *chunk = queue->last;

    if (size == 0 || queue->closed)
        return 0;
    if (!chunk || chunk->channel != channel || chunk->capacity - chunk->end < size) {
        size_t capacity = size > CHUNK_SIZE ? size : CHUNK_SIZE;

        chunk = malloc(sizeof(*chunk) + capacity);
        if (!chunk)
            return -ENOMEM;
        *chunk = (struct queue_chunk){ .channel = channel, .capacity = capacity };
        if (queue->last)
            queue->last->next = chunk;
        else
            queue->first = chunk;
        queue->last = chunk;
    }
    memcpy(chunk->data + chunk->end, data, size);
    chunk->end += size;
    queue->size += size;
    fiber_queue_wake_all(&queue->readers);
    return 0;
}

size_t byte_queue_take(struct byte_queue *queue, enum stream_channel *ret_channel, void *data, size_t size) {
    struct queue_chunk *chunk = queue->first;
    size_t there;

    if (!chunk)
        return 0;
    there = chunk->end - chunk->start;
    if (size > there)
        size = there;
    memcpy(data, chunk->data + chunk->start, size);
    *ret_channel = chunk->channel;
    chunk->start += size;
    queue->size -= size;
    if (chunk->start == chunk->end)
        chunk_drop(queue);
    return size;
}

void byte_queue_trim(struct byte_queue *queue, size_t limit) {
    while (queue->size > limit) {
        struct queue_chunk *chunk = queue->first;
        size_t there = chunk->end - chunk->start, over = queue->size - limit;

        if (over < there) {
            chunk->start += over;
            queue->size -= over;
            return;
        }
        queue->size -= there;
        chunk_drop(queue);
    }
}

void byte_queue_close(struct byte_queue *queue, int result) {
    if (queue->closed)
        return;
    queue->closed = true;
    queue->result = result;
    fiber_queue_wake_all(&queue->readers);
}

long byte_queue_read(struct byte_queue *queue, enum stream_channel *ret_channel, void *data, size_t size,
                     uint64_t deadline) {
    int r = 0;

    while (r >= 0) {
        size_t taken = byte_queue_take(queue, ret_channel, data, size);

        if (taken > 0)
            return (long) taken;
        if (queue->closed)
            return queue->result;
        r = fiber_queue_wait(&queue->readers, deadline);
    }
    return r;
}
