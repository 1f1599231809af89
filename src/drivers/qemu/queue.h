// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/fiber.h"
#include "drivers/stream.h"

/* Bytes of one or two channels on their way to one reader, in order. The writer watches `size` and decides
 * what is too much; the reader waits. */

struct queue_chunk;

struct byte_queue {
    struct queue_chunk *first, *last;
    size_t size;
    bool closed; /* nothing will be added: the reader gets what is left, then `result` */
    int result;  /* 0 or negative errno */
    struct fiber_queue readers;
};

void byte_queue_done(struct byte_queue *queue);
/* -ENOMEM. Wakes the reader. */
int byte_queue_add(struct byte_queue *queue, enum stream_channel channel, const void *data, size_t size);
/* Takes at most `size` bytes of one channel without waiting; 0 if there are none. */
size_t byte_queue_take(struct byte_queue *queue, enum stream_channel *ret_channel, void *data, size_t size);
/* Drops the oldest bytes until at most `limit` are left. */
void byte_queue_trim(struct byte_queue *queue, size_t limit);
void byte_queue_close(struct byte_queue *queue, int result);
/* Fiber: as stream_operations.read. */
long byte_queue_read(struct byte_queue *queue, enum stream_channel *ret_channel, void *data, size_t size,
                     uint64_t deadline);
