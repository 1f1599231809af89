// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "api/request.h"
#include "base/websocket.h"

/* A request that became a WebSocket, with a struct stream at its other end. All calls are fibers. */

#define SOCKET_MESSAGE_MAX (64 * 1024)
#define SOCKET_PROTOCOL "polder.stream.v1"
#define SOCKET_PROTOCOL_BINARY "binary"

struct stream;

struct socket {
    struct request *request;
    struct websocket *websocket;
    bool binary; /* plain bytes both ways, no channels, no control messages */
};

/* Answers 101. BAD_REQUEST when the handshake is not right; nothing was sent then. */
int socket_open(struct socket *socket, struct request *request, const char *protocol, struct error *error);
void socket_done(struct socket *socket);
/* The first message, which must be a JSON object of `size` at most; *ret is the caller's. */
int socket_receive_json(struct socket *socket, struct json_object **ret, struct error *error);
/* Moves bytes both ways until the stream ends (0: *ret_code is the result), it fails, or the client left (-ECANCELED).
 * The stream stays the caller's. */
int socket_pump(struct socket *socket, struct stream *stream, int *ret_code, struct error *error);
/* The last words: {"exit":{"code":N}}, or {"error":…} if r is negative; then close. */
void socket_finish(struct socket *socket, int r, int code, const struct error *error);

#define _cleanup_socket_ _cleanup_(socket_done)
