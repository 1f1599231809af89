// SPDX-License-Identifier: GPL-2.0-or-later
/* Frames from a client, cut anywhere: no message is larger than the limit, and nothing comes after the end. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/websocket.h"

#define LIMIT 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_websocket_ struct websocket *websocket = NULL;
    struct websocket_message message;
    size_t piece;

    if (size < 1 || websocket_new(data[0] & 1, LIMIT, &websocket) < 0)
        return 0;
    piece = (data[0] >> 1) + 1;
    for (size_t at = 1; at < size; at += piece) {
        int r = websocket_feed(websocket, data + at, piece < size - at ? piece : size - at);
        while (websocket_next(websocket, &message))
            if (message.size > LIMIT || message.data[message.size] != '\0')
                abort();
        if (r < 0)
            break;
    }
    (void) websocket_send(websocket, true, "{}", 2);
    (void) websocket_close(websocket, 1000);
    return 0;
}
