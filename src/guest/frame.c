// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/frame.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Taken bytes that are kept, in which a hello may begin. */
#define KEPT FRAME_HELLO_SIZE

/* Room for one whole frame and for as much again, so that reads stay large. */
#define BUFFER_SIZE (KEPT + 2 * (GUEST_HEADER_SIZE + GUEST_FRAME_MAX))

int frame_reader_init(struct frame_reader *reader) {
    *reader = (struct frame_reader){ .buffer = malloc(BUFFER_SIZE) };
    return reader->buffer ? 0 : -ENOMEM;
}

void frame_reader_done(struct frame_reader *reader) {
    free(reader->buffer);
    *reader = (struct frame_reader){ 0 };
}

void frame_reader_clear(struct frame_reader *reader) {
    reader->start = reader->end = reader->hello_end = 0;
    reader->synced = false;
}

uint8_t *frame_reader_space(struct frame_reader *reader, size_t *ret_size) {
    if (reader->start > KEPT) {
        size_t drop = reader->start - KEPT;

        memmove(reader->buffer, reader->buffer + drop, reader->end - drop);
        reader->start -= drop;
        reader->end -= drop;
        reader->hello_end = reader->hello_end > drop ? reader->hello_end - drop : 0;
    }
    *ret_size = BUFFER_SIZE - reader->end;
    return reader->buffer + reader->end;
}

void frame_reader_commit(struct frame_reader *reader, size_t size) {
    reader->end += size;
}

void frame_encode_header(uint8_t ret[GUEST_HEADER_SIZE], uint8_t type, uint32_t channel, uint32_t length) {
    uint32_t little_length = htole32(length), little_channel = htole32(channel);

    memset(ret, 0, GUEST_HEADER_SIZE);
    memcpy(ret, &little_length, sizeof(little_length));
    ret[4] = type;
    memcpy(ret + 8, &little_channel, sizeof(little_channel));
}

int frame_decode_header(const uint8_t data[GUEST_HEADER_SIZE], struct guest_header *ret) {
    uint32_t length, channel;

    memcpy(&length, data, sizeof(length));
    memcpy(&channel, data + 8, sizeof(channel));
    *ret = (struct guest_header){ .length = le32toh(length), .type = data[4], .channel = le32toh(channel) };
    if (data[5] || data[6] || data[7] || ret->length > GUEST_FRAME_MAX)
        return -EBADMSG;
    if (ret->type < GUEST_HELLO || ret->type > GUEST_ERROR)
        return -EBADMSG;
    return 0;
}

bool frame_is_hello(const struct frame *frame) {
    static const char digits[] = "0123456789abcdef";

    if (frame->header.type != GUEST_HELLO || frame->header.channel != 0 ||
        frame->header.length != FRAME_HELLO_PAYLOAD)
        return false;
    if (memcmp(frame->payload, GUEST_MAGIC, sizeof(GUEST_MAGIC) - 1) != 0)
        return false;
    for (size_t i = sizeof(GUEST_MAGIC) - 1; i < FRAME_HELLO_PAYLOAD; i++) {
        if (!memchr(digits, frame->payload[i], sizeof(digits) - 1))
            return false;
    }
    return true;
}

/* Decodes a hello at data, which holds at least FRAME_HELLO_SIZE bytes. */
static bool decode_hello(const uint8_t *data, struct frame *ret) {
    if (frame_decode_header(data, &ret->header) < 0)
        return false;
    ret->payload = data + GUEST_HEADER_SIZE;
    return frame_is_hello(ret);
}

static int hunt(struct frame_reader *reader, struct frame *ret) {
    for (; reader->end - reader->start >= FRAME_HELLO_SIZE; reader->start++) {
        if (decode_hello(reader->buffer + reader->start, ret)) {
            reader->start += FRAME_HELLO_SIZE;
            reader->hello_end = reader->start;
            reader->synced = true;
            return 1;
        }
    }
    return 0;
}

/* Hunts from as far back as a hello can begin that was taken for the end of a frame. */
static void hunt_back(struct frame_reader *reader, size_t from) {
    size_t back = from > FRAME_HELLO_SIZE - 1 ? from - (FRAME_HELLO_SIZE - 1) : 0;

    reader->start = back > reader->hello_end ? back : reader->hello_end;
    reader->synced = false;
}

/* Whether a complete hello lies across the end of a frame. */
static bool is_straddled(const struct frame_reader *reader, size_t frame_end) {
    struct frame frame;

    size_t at = frame_end > FRAME_HELLO_SIZE - 1 ? frame_end - (FRAME_HELLO_SIZE - 1) : 0;

    for (at = at > reader->hello_end ? at : reader->hello_end; at < frame_end; at++) {
        if (at + FRAME_HELLO_SIZE <= reader->end && decode_hello(reader->buffer + at, &frame))
            return true;
    }
    return false;
}

int frame_reader_next(struct frame_reader *reader, struct frame *ret) {
    size_t available = reader->end - reader->start;
    const uint8_t *data = reader->buffer + reader->start;
    size_t frame_end;

    if (!reader->synced)
        return hunt(reader, ret);
    if (available < GUEST_HEADER_SIZE)
        return 0;
    if (frame_decode_header(data, &ret->header) < 0) {
        hunt_back(reader, reader->start);
        return -EBADMSG;
    }
    if (available < GUEST_HEADER_SIZE + ret->header.length)
        return 0;
    frame_end = reader->start + GUEST_HEADER_SIZE + ret->header.length;
    if (is_straddled(reader, frame_end)) {
        hunt_back(reader, frame_end);
        return hunt(reader, ret);
    }
    ret->payload = data + GUEST_HEADER_SIZE;
    reader->start = frame_end;
    if (frame_is_hello(ret))
        reader->hello_end = frame_end;
    return 1;
}

bool frame_reader_has_stray_hello(const struct frame_reader *reader) {
    struct frame frame;

    return reader->synced && reader->end >= reader->hello_end + FRAME_HELLO_SIZE &&
           decode_hello(reader->buffer + reader->end - FRAME_HELLO_SIZE, &frame);
}

void frame_reader_accept_hello(struct frame_reader *reader) {
    reader->start = reader->end - FRAME_HELLO_SIZE;
    reader->synced = false;
}
