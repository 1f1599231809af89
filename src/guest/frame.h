// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/protocol.h"

/* Cuts the byte stream of the port into frames. It hunts for a hello first (and again after anything that
 * cannot be a frame), as protocol.h says; nothing it is fed can make it read or write out of bounds. */

#define FRAME_NONCE_SIZE 32
#define FRAME_HELLO_PAYLOAD (sizeof(GUEST_MAGIC) - 1 + FRAME_NONCE_SIZE)
#define FRAME_HELLO_SIZE (GUEST_HEADER_SIZE + FRAME_HELLO_PAYLOAD)

struct frame {
    struct guest_header header;
    const uint8_t *payload; /* borrowed from the reader, valid until its next call */
};

struct frame_reader {
    uint8_t *buffer;
    size_t start, end; /* the bytes not yet taken; some taken ones are kept before them */
    size_t hello_end;  /* where the last hello ended; 0: long ago */
    bool synced;       /* false: hunting for a hello */
};

/* -ENOMEM, or 0. */
int frame_reader_init(struct frame_reader *reader);
void frame_reader_done(struct frame_reader *reader);

/* Forgets everything and hunts again: the other side went away. */
void frame_reader_clear(struct frame_reader *reader);

/* Where to put new bytes and how many fit (never 0 after frame_reader_next returned 0); then say how many
 * came. */
uint8_t *frame_reader_space(struct frame_reader *reader, size_t *ret_size);
void frame_reader_commit(struct frame_reader *reader, size_t size);

/* 1: *ret is the next frame. 0: more bytes are needed. -EBADMSG: the stream is no sequence of frames; the
 * reader hunts for the next hello from now on. */
int frame_reader_next(struct frame_reader *reader, struct frame *ret);

/* True if the last bytes that came are a complete hello which is no frame of its own: its sender's
 * predecessor vanished half-way through a frame, and the hello lies in what that frame still lacked. As data
 * may look like this too, the caller waits whether more comes; frame_reader_accept_hello then drops what
 * precedes the hello. (A hello across the end of a frame cannot be data: frame_reader_next finds it by itself
 * and drops the broken frame.) */
bool frame_reader_has_stray_hello(const struct frame_reader *reader);
void frame_reader_accept_hello(struct frame_reader *reader);

void frame_encode_header(uint8_t ret[GUEST_HEADER_SIZE], uint8_t type, uint32_t channel, uint32_t length);
/* -EBADMSG unless the reserved bytes are zero, the type is known and the length is at most GUEST_FRAME_MAX.
 */
int frame_decode_header(const uint8_t data[GUEST_HEADER_SIZE], struct guest_header *ret);

/* True if the payload of a hello is well-formed; its nonce is the last FRAME_NONCE_SIZE bytes. */
bool frame_is_hello(const struct frame *frame);
