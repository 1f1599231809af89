// SPDX-License-Identifier: GPL-2.0-or-later
/* Two fibers move the bytes: the request's own reads the stream and writes frames, a second one reads frames and writes
 * the stream. Each waits for the slower side, which is the backpressure both ways; what a side holds meanwhile is one
 * read. The second one cancels the first when the client closes or vanishes, and the first one ends the second. */
#include "api/socket.h"

#include <errno.h>
#include <nettle/base64.h>
#include <nettle/sha1.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/connection.h"
#include "base/fiber.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/stream.h"
#include "model/instance.h"

#define FIRST_MESSAGE_SECONDS 10
#define PIECE_SIZE (32 * 1024)

struct pump {
    struct socket *socket;
    struct stream *stream;
    struct fiber_mutex writing; /* both fibers write frames */
    struct fiber *main;
    struct error error; /* what the client did wrong */
};

/* Sec-WebSocket-Accept of RFC 6455, section 4.2.2. */
static void accept_key(const char *key, char accept[BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) + 1]) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t digest[SHA1_DIGEST_SIZE];
    struct sha1_ctx context;

    sha1_init(&context);
    sha1_update(&context, strlen(key), (const uint8_t *) key);
    sha1_update(&context, strlen(guid), (const uint8_t *) guid);
    sha1_digest(&context, sizeof(digest), digest);
    base64_encode_raw(accept, sizeof(digest), digest);
    accept[BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE)] = '\0';
}

static bool key_is_valid(const char *key) {
    struct base64_decode_ctx context;
    uint8_t bytes[BASE64_DECODE_LENGTH(24)];
    size_t size = sizeof(bytes);

    if (!key || strlen(key) != 24)
        return false;
    base64_decode_init(&context);
    return base64_decode_update(&context, &size, bytes, 24, key) && base64_decode_final(&context) && size == 16;
}

static bool offers_protocol(const char *offer, const char *protocol) {
    _cleanup_list_ char **names = NULL;

    return offer && list_split(offer, ", \t", &names) == 0 && list_has(names, protocol);
}

int socket_open(struct socket *socket, struct request *request, const char *protocol, struct error *error) {
    const char *key = request_header(request, "Sec-WebSocket-Key");
    const char *version = request_header(request, "Sec-WebSocket-Version");
    char accept[BASE64_ENCODE_RAW_LENGTH(SHA1_DIGEST_SIZE) + 1];
    _cleanup_buffer_ struct buffer head = BUFFER_INIT;
    int r;

    if (!version || strcmp(version, "13") != 0 || !key_is_valid(key))
        return error_set(error, ERROR_BAD_REQUEST, "the WebSocket handshake is not that of version 13");
    if (!offers_protocol(request_header(request, "Sec-WebSocket-Protocol"), protocol))
        return error_set(error, ERROR_BAD_REQUEST, "Sec-WebSocket-Protocol does not offer what is spoken here");
    *socket = (struct socket){ .request = request };
    r = websocket_new(false, SOCKET_MESSAGE_MAX, &socket->websocket);
    if (r < 0)
        return error_errno(error, r, "the WebSocket");
    accept_key(key, accept);
    request->reply.status = 101;
    reply_header(request, "Upgrade", "websocket");
    reply_header(request, "Connection", "Upgrade");
    reply_header(request, "Sec-WebSocket-Accept", accept);
    reply_header(request, "Sec-WebSocket-Protocol", protocol);
    connection_head(request->connection, 0, &head);
    if (head.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    request->streamed = true;
    request_cancelable(request, true);
    return connection_write(request->connection, head.data, head.size);
}

void socket_done(struct socket *socket) {
    websocket_free(socket->websocket);
    socket->websocket = NULL;
}

/* Writes what is queued; takes it out first, since the other fiber may queue more meanwhile. */
static int socket_flush(struct socket *socket) {
    struct buffer *output = websocket_output(socket->websocket);

    while (output->size > 0) {
        _cleanup_buffer_ struct buffer taken = *output;
        int r;

        *output = (struct buffer) BUFFER_INIT;
        r = connection_write(socket->request->connection, taken.data, taken.size);
        if (r < 0)
            return r;
    }
    return 0;
}

int socket_receive_json(struct socket *socket, struct json_object **ret, struct error *error) {
    uint64_t deadline = deadline_in(FIRST_MESSAGE_SECONDS * CLOCK_SECOND);
    struct websocket_message message;
    char data[4096];

    while (!websocket_next(socket->websocket, &message)) {
        long n = connection_read(socket->request->connection, data, sizeof(data), deadline);
        if (n == -ETIMEDOUT)
            return error_set(error, ERROR_SLOW_REQUEST, "10s");
        if (n <= 0)
            return n < 0 ? (int) n : -ECANCELED;
        if (websocket_feed(socket->websocket, data, (size_t) n) < 0 || websocket_is_closed(socket->websocket))
            return error_set(error, ERROR_BAD_REQUEST, "the first WebSocket message is missing");
    }
    if (!message.text)
        return error_set(error, ERROR_BAD_REQUEST, "the first WebSocket message must be JSON text");
    return json_parse_foreign(message.data, message.size, ret, error);
}

/* --- from the client -------------------------------------------------------------------------------------------- */

static int control_resize(struct pump *pump, struct json_object *resize) {
    int64_t rows = json_integer(resize, "rows", 0), columns = json_integer(resize, "columns", 0);

    if (rows < 1 || rows > UINT16_MAX || columns < 1 || columns > UINT16_MAX)
        return error_set(&pump->error, ERROR_BAD_REQUEST, "resize needs rows and columns from 1 to 65535");
    return stream_resize(pump->stream, (uint16_t) rows, (uint16_t) columns);
}

static int take_control(struct pump *pump, const struct websocket_message *message) {
    static const char *const members[] = { "resize", "signal", "stdin", NULL };
    _cleanup_json_ struct json_object *json = NULL;
    const char *name;
    int r = json_parse_foreign(message->data, message->size, &json, &pump->error);

    if (r == 0)
        r = json_only(json, "a control message", members, &pump->error);
    if (r < 0)
        return r;
    if (json_has(json, "resize"))
        return control_resize(pump, json_member(json, "resize"));
    if (json_has(json, "stdin"))
        return stream_close_input(pump->stream);
    name = json_text(json, "signal", "");
    if (signal_from_name(name) < 0)
        return error_set(&pump->error, ERROR_BAD_VALUE, "signal", name, "there is no such signal");
    return stream_signal(pump->stream, signal_from_name(name));
}

static int take_message(struct pump *pump, const struct websocket_message *message) {
    if (pump->socket->binary && !message->text)
        return stream_write(pump->stream, message->data, message->size, DEADLINE_NONE);
    if (message->text)
        return take_control(pump, message);
    if (message->size < 1 || message->data[0] != 0)
        return error_set(&pump->error, ERROR_BAD_REQUEST, "a client writes to channel 0 only");
    return stream_write(pump->stream, message->data + 1, message->size - 1, DEADLINE_NONE);
}

static int pump_flush(struct pump *pump) {
    int r = fiber_mutex_lock(&pump->writing, DEADLINE_NONE);

    if (r < 0)
        return r;
    r = socket_flush(pump->socket);
    fiber_mutex_unlock(&pump->writing);
    return r;
}

static int take_bytes(struct pump *pump, const char *data, size_t size) {
    struct websocket *websocket = pump->socket->websocket;
    struct websocket_message message;
    int r = websocket_feed(websocket, data, size);

    (void) pump_flush(pump);
    while (r == 0 && websocket_next(websocket, &message)) {
        r = take_message(pump, &message);
        /* The other end took no more input, or cannot do what was asked: its output goes on. */
        if (r < 0 && r != -ECANCELED && !error_is_set(&pump->error))
            r = 0;
    }
    return r;
}

static int client_fiber(void *userdata) {
    struct pump *pump = userdata;
    char data[16 * 1024];
    int r = take_bytes(pump, "", 0); /* what came together with the first message */

    while (r == 0 && !websocket_is_closed(pump->socket->websocket)) {
        long n = connection_read(pump->socket->request->connection, data, sizeof(data), DEADLINE_NONE);
        if (n == -ECANCELED)
            return 0; /* the pump is over */
        r = n > 0 ? take_bytes(pump, data, (size_t) n) : -EPIPE;
    }
    if (!fiber_is_canceled())
        fiber_cancel(pump->main);
    return 0;
}

/* --- to the client ----------------------------------------------------------------------------------------------- */

static int send_output(struct pump *pump) {
    _cleanup_free_ char *data = malloc(PIECE_SIZE + 1);
    bool binary = pump->socket->binary;
    enum stream_channel channel = STREAM_OUTPUT;

    if (!data)
        return -ENOMEM;
    for (;;) {
        long n = stream_read(pump->stream, &channel, data + 1, PIECE_SIZE, DEADLINE_NONE);
        int r;

        if (n <= 0)
            return (int) n;
        data[0] = (char) channel;
        r = websocket_send(pump->socket->websocket, false, binary ? data + 1 : data, (size_t) n + !binary);
        if (r == 0)
            r = pump_flush(pump);
        if (r < 0)
            return r;
    }
}

int socket_pump(struct socket *socket, struct stream *stream, int *ret_code, struct error *error) {
    struct pump pump = { .socket = socket, .stream = stream, .main = fiber_current() };
    _cleanup_fiber_ struct fiber *client = NULL;
    int r = fiber_start(&client, "websocket", client_fiber, &pump);

    if (r < 0)
        return error_errno(error, r, "the WebSocket");
    r = send_output(&pump);
    if (r == 0)
        r = stream_result(stream, ret_code, error, DEADLINE_NONE);
    fiber_cancel_join(client);
    if (error_is_set(&pump.error)) {
        error_clear(error);
        error_move(error, &pump.error);
        return -error_number(error->code);
    }
    if (r < 0 && r != -ECANCELED && r != -EPIPE && !error_is_set(error))
        return error_errno(error, r, "the stream");
    return r;
}

void socket_finish(struct socket *socket, int r, int code, const struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    if (r < 0 && !error_is_set(error))
        return; /* the client left */
    emit_object(&emitter);
    if (r < 0) {
        emit_key(&emitter, "error");
        problem_emit(error, socket->request->path, NULL, &emitter);
    } else {
        emit_key(&emitter, "exit");
        emit_object(&emitter);
        emit_key_integer(&emitter, "code", code);
        if (error_is_set(error)) { /* a command that could not be run: its code, and why */
            emit_key(&emitter, "error");
            problem_emit(error, socket->request->path, NULL, &emitter);
        }
        emit_object_end(&emitter);
    }
    emit_object_end(&emitter);
    fiber_shield();
    if (!text.failed && (socket->binary || websocket_send(socket->websocket, true, text.data, text.size) == 0)) {
        (void) websocket_close(socket->websocket, r < 0 ? 1011 : 1000);
        (void) socket_flush(socket);
    }
    fiber_unshield();
}
