// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a channel has to tell the daemon, in order: bytes of stdout and stderr, kept until the daemon's credit
 * says that it has them. At most GUEST_WINDOW bytes are stored, so all that is stored may always be under
 * way; a full store stops the process, or, while nobody listens, drops its oldest bytes. */

/* Payload of one frame, such that frame and header fit one write to a virtio port (32 KiB). */
#define OUTPUT_CHUNK (32 * 1024 - 12)

struct output_chunk {
    struct output_chunk *next;
    uint8_t type;
    size_t size, capacity;
    uint8_t data[];
};

struct output {
    struct output_chunk *first, *last;
    struct output_chunk *unsent; /* the first that was not sent yet; NULL: all were */
    size_t released;             /* bytes of `first` that were credited or dropped */
    size_t stored;               /* bytes not credited yet */
    size_t in_flight;            /* of these, sent */
    size_t count;                /* chunks */
    uint64_t offset;             /* bytes credited or dropped since the process began */
};

void output_clear(struct output *output);

/* How many bytes may be appended now, at most OUTPUT_CHUNK. */
size_t output_room(const struct output *output);
/* Drops the oldest until there is room for a whole chunk. */
void output_make_room(struct output *output);

/* Appends at most output_room() bytes; size 0 is the end of that stream. -ENOMEM. */
int output_append(struct output *output, uint8_t type, const void *data, size_t size);

/* The next frame to send; false if there is none. It counts as sent. *ret_data is valid until the next call.
 */
bool output_next(struct output *output, uint8_t *ret_type, const uint8_t **ret_data, size_t *ret_size);
bool output_is_sent(const struct output *output);

/* The daemon has taken `size` bytes. -EBADMSG if that is more than was sent. */
int output_credit(struct output *output, size_t size);

/* A new daemon listens: all that is stored has to be sent again. */
void output_rewind(struct output *output);
