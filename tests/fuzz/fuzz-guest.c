// SPDX-License-Identifier: GPL-2.0-or-later
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "guest/frame.h"
#include "guest/request.h"

/* What a daemon gone mad could send: the byte stream is cut into frames, and their payloads are decoded as
 * the requests that their types stand for. The first byte of the input says in which portions it arrives. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode_payload(const struct frame *frame) {
    static const struct request_schema *const schemas[] = {
        [GUEST_START] = &request_start_schema,
        [GUEST_EXEC] = &request_process_schema,
        [GUEST_SIGNAL] = &request_signal_schema,
        [GUEST_RESIZE] = &request_resize_schema,
        [GUEST_CLOCK] = &request_clock_schema,
        [GUEST_GET] = &request_path_schema,
        [GUEST_PUT] = &request_path_schema,
        [GUEST_POWER] = &request_power_schema,
        [GUEST_ERROR] = NULL,
    };
    struct reason reason = REASON_INIT;
    union {
        struct request_start start;
        struct request_process process;
        struct request_signal signal;
        struct request_resize resize;
        struct request_clock clock;
        struct request_path path;
        struct request_power power;
    } request;
    const struct request_schema *schema = schemas[frame->header.type];

    if (schema && request_decode(schema, frame->payload, frame->header.length, &request, &reason) == 0)
        request_clear(schema, &request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct frame_reader reader;
    size_t portion;

    if (size == 0 || frame_reader_init(&reader) < 0)
        return 0;
    portion = data[0] ? data[0] : size;
    for (size_t at = 1; at < size;) {
        struct frame frame;
        size_t room, part = size - at < portion ? size - at : portion;
        uint8_t *space = frame_reader_space(&reader, &room);

        part = part < room ? part : room;
        memcpy(space, data + at, part);
        frame_reader_commit(&reader, part);
        at += part;
        while (frame_reader_next(&reader, &frame) == 1)
            decode_payload(&frame);
        if (frame_reader_has_stray_hello(&reader))
            frame_reader_accept_hello(&reader);
    }
    frame_reader_done(&reader);
    return 0;
}
