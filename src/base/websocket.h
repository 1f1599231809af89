// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"

/* WebSocket frames (RFC 6455, wslay) without any I/O: bytes go in, messages come out, and the other way round. Pings are
 * answered by themselves. A library of its own beside base, for the API and the command. */

struct websocket;

struct websocket_message {
    bool text;        /* valid UTF-8; else binary */
    const char *data; /* NUL-terminated */
    size_t size;
};

/* client: masks what it sends. limit: bytes of one received message; a longer one ends the connection. */
int websocket_new(bool client, size_t limit, struct websocket **ret);
void websocket_free(struct websocket *websocket);
/* Takes bytes that were received. -EPROTO when they are no frames, -ENOMEM. */
int websocket_feed(struct websocket *websocket, const void *data, size_t size);
/* 1: a message, valid until the next feed; 0: none is complete. */
int websocket_next(struct websocket *websocket, struct websocket_message *ret);
/* The other side sent its close frame, or broke the protocol: nothing more will come. */
bool websocket_is_closed(const struct websocket *websocket);
int websocket_send(struct websocket *websocket, bool text, const void *data, size_t size);
int websocket_close(struct websocket *websocket, unsigned code);
/* What has to be written; the caller consumes it. */
struct buffer *websocket_output(struct websocket *websocket);

DEFINE_CLEANUP(struct websocket *, websocket_free)
#define _cleanup_websocket_ _cleanup_(websocket_freep)
