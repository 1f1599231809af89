// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/websocket.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <wslay/wslay.h>

#include "base/uuid.h"

/* A received message in the queue: this, then its bytes and a NUL. */
struct record {
    uint32_t size;
    uint32_t text;
};

struct websocket {
    wslay_event_context_ptr context;
    const uint8_t *input; /* what feed was given and wslay has not taken */
    size_t input_size;
    struct buffer messages; /* records, oldest first */
    size_t taken;           /* bytes of `messages` that were handed out */
    struct buffer output;
    bool broken;
};

static ssize_t on_receive(wslay_event_context_ptr context, uint8_t *data, size_t size, int flags _unused_,
                          void *userdata) {
    struct websocket *websocket = userdata;
    size_t have = websocket->input_size < size ? websocket->input_size : size;

    if (have == 0) {
        wslay_event_set_error(context, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    memcpy(data, websocket->input, have);
    websocket->input += have;
    websocket->input_size -= have;
    return (ssize_t) have;
}

static ssize_t on_send(wslay_event_context_ptr context, const uint8_t *data, size_t size, int flags _unused_,
                       void *userdata) {
    struct websocket *websocket = userdata;

    buffer_add(&websocket->output, data, size);
    if (websocket->output.failed) {
        wslay_event_set_error(context, WSLAY_ERR_CALLBACK_FAILURE);
        return -1;
    }
    return (ssize_t) size;
}

static int on_mask(wslay_event_context_ptr context _unused_, uint8_t *data, size_t size, void *userdata _unused_) {
    random_bytes(data, size);
    return 0;
}

static void on_message(wslay_event_context_ptr context _unused_, const struct wslay_event_on_msg_recv_arg *message,
                       void *userdata) {
    struct websocket *websocket = userdata;
    struct record record = { .size = (uint32_t) message->msg_length, .text = message->opcode == WSLAY_TEXT_FRAME };

    if (wslay_is_ctrl_frame(message->opcode))
        return;
    buffer_add(&websocket->messages, &record, sizeof(record));
    buffer_add(&websocket->messages, message->msg, message->msg_length);
    buffer_add(&websocket->messages, "", 1);
}

int websocket_new(bool client, size_t limit, struct websocket **ret) {
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_receive, .send_callback = on_send, .genmask_callback = on_mask,
        .on_msg_recv_callback = on_message,
    };
    struct websocket *websocket = calloc(1, sizeof(*websocket));
    int r;

    if (!websocket)
        return -ENOMEM;
    r = client ? wslay_event_context_client_init(&websocket->context, &callbacks, websocket)
               : wslay_event_context_server_init(&websocket->context, &callbacks, websocket);
    if (r != 0) {
        free(websocket);
        return -ENOMEM;
    }
    wslay_event_config_set_max_recv_msg_length(websocket->context, limit);
    *ret = websocket;
    return 0;
}

void websocket_free(struct websocket *websocket) {
    if (!websocket)
        return;
    wslay_event_context_free(websocket->context);
    buffer_done(&websocket->messages);
    buffer_done(&websocket->output);
    free(websocket);
}

/* Everything that is queued, into the output. */
static int websocket_flush(struct websocket *websocket) {
    if (wslay_event_want_write(websocket->context) && wslay_event_send(websocket->context) != 0) {
        websocket->broken = true;
        return websocket->output.failed ? -ENOMEM : -EPROTO;
    }
    return 0;
}

int websocket_feed(struct websocket *websocket, const void *data, size_t size) {
    int r = 0;

    buffer_consume(&websocket->messages, websocket->taken);
    websocket->taken = 0;
    websocket->input = data;
    websocket->input_size = size;
    if (websocket_is_closed(websocket))
        return 0;
    if (wslay_event_recv(websocket->context) != 0) {
        websocket->broken = true;
        r = -EPROTO;
    }
    if (websocket->messages.failed)
        r = -ENOMEM;
    (void) websocket_flush(websocket);
    return r;
}

int websocket_next(struct websocket *websocket, struct websocket_message *ret) {
    struct record record;
    const char *data;

    if (websocket->messages.failed || websocket->messages.size - websocket->taken < sizeof(record))
        return 0;
    memcpy(&record, websocket->messages.data + websocket->taken, sizeof(record));
    data = websocket->messages.data + websocket->taken + sizeof(record);
    *ret = (struct websocket_message){ .text = record.text, .data = data, .size = record.size };
    websocket->taken += sizeof(record) + record.size + 1;
    return 1;
}

bool websocket_is_closed(const struct websocket *websocket) {
    return websocket->broken || !wslay_event_get_read_enabled(websocket->context);
}

int websocket_send(struct websocket *websocket, bool text, const void *data, size_t size) {
    struct wslay_event_msg message = { .opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME, .msg = data,
                                       .msg_length = size };
    int r = wslay_event_queue_msg(websocket->context, &message);

    if (r != 0)
        return r == WSLAY_ERR_NOMEM ? -ENOMEM : -EPIPE;
    return websocket_flush(websocket);
}

int websocket_close(struct websocket *websocket, unsigned code) {
    int r = wslay_event_queue_close(websocket->context, (uint16_t) code, NULL, 0);

    if (r != 0)
        return r == WSLAY_ERR_NOMEM ? -ENOMEM : -EPIPE;
    return websocket_flush(websocket);
}

struct buffer *websocket_output(struct websocket *websocket) {
    return &websocket->output;
}
