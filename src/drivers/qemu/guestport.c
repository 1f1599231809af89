// SPDX-License-Identifier: GPL-2.0-or-later
/* One fiber holds the connection: connect, hello, read frames until it breaks, pause, again. Sending never
 * waits: frames are appended to `out` and written at once as far as the socket takes them; a second fiber
 * writes the rest and ends when all is written. What may be queued is bounded by the windows of the
 * channels; a guest that stops reading altogether loses the connection at OUT_MAX. */
#include "drivers/qemu/guestport.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/log.h"
#include "base/text.h"
#include "base/uuid.h"
#include "base/base64.h"
#include "drivers/qemu/guestport-internal.h"
#include "drivers/qemu/socket.h"

#define OUT_MAX (4 * 1024 * 1024)
#define PAUSE_FIRST (20 * CLOCK_MILLISECOND)
#define PAUSE_MAX (5 * CLOCK_SECOND)
#define ADDRESSES_MAX 64
#define ADDRESS_SIZE_MAX 64
#define ENTROPY_SIZE 32

struct guestport *guestport_ref(struct guestport *port) {
    port->references++;
    return port;
}

void guestport_unref(struct guestport *port) {
    if (--port->references > 0)
        return;
    close_fd(port->fd);
    close_fd(port->directory);
    frame_reader_done(&port->frames);
    buffer_done(&port->out);
    list_free(port->addresses);
    fiber_unref(port->fiber);
    free(port->name);
    free(port);
}

static void guestport_unrefp(struct guestport **port) {
    if (*port)
        guestport_unref(*port);
}

/* --- sending -------------------------------------------------------------------------------------------- */

static void connection_break(struct guestport *port) {
    if (port->fd >= 0)
        (void) shutdown(port->fd, SHUT_RDWR);
}

/* Writes what the socket takes now. */
static int out_push(struct guestport *port) {
    while (port->fd >= 0 && port->out.size > 0) {
        ssize_t n = send(port->fd, port->out.data, port->out.size, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0)
            return errno == EINTR ? 0 : -errno;
        buffer_consume(&port->out, (size_t) n);
    }
    return 0;
}

static int writer_main(void *userdata) {
    _cleanup_(guestport_unrefp) struct guestport *port = userdata;
    int r = 0;

    while (r >= 0 && port->fd >= 0 && port->out.size > 0) {
        r = fiber_wait_fd(port->fd, EPOLLOUT, DEADLINE_NONE);
        if (r >= 0)
            r = out_push(port);
        if (r == -EAGAIN)
            r = 0;
    }
    fiber_unref(port->writer);
    port->writer = NULL;
    if (r < 0)
        connection_break(port);
    return 0;
}

static int out_flush(struct guestport *port) {
    int r = out_push(port);

    if (r != -EAGAIN) {
        if (r < 0)
            connection_break(port);
        return 0;
    }
    if (port->writer)
        return 0;
    r = fiber_start(&port->writer, "guest-out", writer_main, port);
    if (r >= 0)
        (void) guestport_ref(port);
    return r;
}

static int frame_queue(struct guestport *port, uint8_t type, uint32_t channel, const void *data,
                       size_t size) {
    uint8_t header[GUEST_HEADER_SIZE];

    if (size > GUEST_FRAME_MAX)
        return -E2BIG;
    if (port->out.size > OUT_MAX) {
        connection_break(port);
        return -ENOTCONN;
    }
    frame_encode_header(header, type, channel, (uint32_t) size);
    if (buffer_reserve(&port->out, sizeof(header) + size) < 0)
        return -ENOMEM;
    buffer_add(&port->out, header, sizeof(header));
    buffer_add(&port->out, data, size);
    return out_flush(port);
}

int guestport_send(struct guestport *port, uint8_t type, uint32_t channel, const void *data, size_t size) {
    return port->ready ? frame_queue(port, type, channel, data, size) : -ENOTCONN;
}

int guestport_send_text(struct guestport *port, uint8_t type, uint32_t channel, const char *text) {
    return guestport_send(port, type, channel, text, strlen(text));
}

/* --- receiving ------------------------------------------------------------------------------------------ */

static void addresses_take(struct guestport *port, struct json_object *array) {
    _cleanup_list_ char **list = NULL;
    size_t count = json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;

    for (size_t i = 0; i < count && i < ADDRESSES_MAX; i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(array, i));

        if (text && strlen(text) <= ADDRESS_SIZE_MAX && text_is_plain(text) && list_add(&list, text) < 0)
            return;
    }
    list_free(port->addresses);
    port->addresses = STEAL_PTR(list);
}

static int state_take(struct guestport *port, const struct frame *frame) {
    _cleanup_json_ struct json_object *json = NULL;
    int64_t offset;
    int r = json_parse_foreign((const char *) frame->payload, frame->header.length, &json, NULL);

    if (r < 0)
        return r;
    addresses_take(port, json_member(json, "addresses"));
    offset = json_integer(json, "output_offset", 0);
    /* The guest sends again what was under way; skip what arrived before the break. */
    port->skip = offset >= 0 && (uint64_t) offset < port->main_received
                         ? port->main_received - (uint64_t) offset
                         : 0;
    if (port->skip > GUEST_WINDOW)
        port->skip = 0;
    port->ready = true;
    fiber_queue_wake_all(&port->waiting);
    if (port->handlers && port->handlers->ready)
        port->handlers->ready(json_boolean(json, "started", false), port->userdata);
    return 0;
}

static bool is_our_hello(const struct guestport *port, const struct frame *frame) {
    return frame_is_hello(frame) && memcmp(frame->payload + frame->header.length - FRAME_NONCE_SIZE,
                                           port->nonce, FRAME_NONCE_SIZE) == 0;
}

static int frame_take(struct guestport *port, const struct frame *frame) {
    switch (frame->header.type) {
    case GUEST_STATE:
        return state_take(port, frame);
    case GUEST_STDOUT:
    case GUEST_STDERR:
        return channel_output(port, frame);
    case GUEST_EXIT:
        return channel_exited(port, frame);
    case GUEST_CREDIT:
        return channel_credited(port, frame);
    case GUEST_ERROR:
        channel_refused(port, frame);
        return 0;
    case GUEST_MEMORY:
        return 0;
    default:
        return -EBADMSG;
    }
}

/* Output and credit are bounded by the windows of their channels. */
static bool is_bulk(const struct frame *frame) {
    return frame->header.type == GUEST_STDOUT || frame->header.type == GUEST_STDERR || frame->header.type == GUEST_CREDIT;
}

/* Takes all complete frames. `greeted`: our hello was answered. */
static int frames_take(struct guestport *port, bool *greeted) {
    struct frame frame;
    int r;

    while (!port->freed && (r = frame_reader_next(&port->frames, &frame)) != 0) {
        if (r > 0 && (!*greeted || !is_bulk(&frame)))
            r = budget_take(&port->budget);
        if (r < 0)
            return r;
        if (!*greeted) {
            *greeted = is_our_hello(port, &frame);
            continue;
        }
        r = frame_take(port, &frame);
        if (r < 0)
            return r;
    }
    return 0;
}

static int hello_send(struct guestport *port) {
    char payload[FRAME_HELLO_PAYLOAD + 1];

    random_hex(port->nonce, FRAME_NONCE_SIZE / 2);
    memcpy(payload, GUEST_MAGIC, sizeof(GUEST_MAGIC) - 1);
    memcpy(payload + sizeof(GUEST_MAGIC) - 1, port->nonce, FRAME_NONCE_SIZE);
    return frame_queue(port, GUEST_HELLO, 0, payload, FRAME_HELLO_PAYLOAD);
}

static int session_run(struct guestport *port) {
    bool greeted = false;
    int r = hello_send(port);

    while (r >= 0 && !port->freed) {
        size_t room;
        uint8_t *space = frame_reader_space(&port->frames, &room);
        long n = fiber_read(port->fd, space, room, DEADLINE_NONE);

        if (n <= 0)
            return n < 0 ? (int) n : -ECONNRESET;
        frame_reader_commit(&port->frames, (size_t) n);
        r = frames_take(port, &greeted);
        /* A guest that never stops sending must not keep everybody else waiting. */
        if (r >= 0)
            r = fiber_yield();
    }
    return r;
}

/* It waits on the descriptor that is about to be closed. */
static void writer_end(struct guestport *port) {
    _cleanup_fiber_ struct fiber *writer = port->writer ? fiber_ref(port->writer) : NULL;

    if (writer)
        fiber_cancel_join(writer);
}

static void session_end(struct guestport *port) {
    port->ready = false;
    writer_end(port);
    port->fd = close_fd(port->fd);
    buffer_done(&port->out);
    frame_reader_clear(&port->frames);
    channels_break(port, -ECONNRESET);
}

static int port_main(void *userdata) {
    _cleanup_(guestport_unrefp) struct guestport *port = userdata;
    uint64_t pause = PAUSE_FIRST;

    while (!port->freed) {
        int r = socket_connect(port->directory, port->name);

        if (r >= 0) {
            port->fd = r;
            r = session_run(port);
            if (r == -EBADMSG || r == -EINVAL)
                log_warning("a guest agent broke the protocol; connecting again in %llu ms",
                            (unsigned long long) (pause / CLOCK_MILLISECOND));
            if (port->ready && r == -ECONNRESET)
                pause = PAUSE_FIRST;
            session_end(port);
        }
        if (port->freed || fiber_sleep(pause) < 0)
            break;
        pause = pause * 2 < PAUSE_MAX ? pause * 2 : PAUSE_MAX;
    }
    return 0;
}

/* --- life ----------------------------------------------------------------------------------------------- */

int guestport_new(int directory, const char *name, const struct guestport_handlers *handlers, void *userdata,
                  struct guestport **ret) {
    _cleanup_(guestport_unrefp) struct guestport *port = calloc(1, sizeof(*port));
    int r;

    if (!port)
        return -ENOMEM;
    port->references = 1;
    port->fd = -EBADF;
    port->handlers = handlers;
    port->userdata = userdata;
    port->main.number = GUEST_CHANNEL_MAIN;
    budget_set(&port->budget, 0, BUDGET_RATE);
    /* Execs of an earlier daemon may still have their numbers in the guest. */
    random_bytes(&port->last_number, sizeof(port->last_number));
    port->last_number = (port->last_number & 0x7fffffff) | GUEST_CHANNEL_FIRST;
    port->name = strdup(name);
    port->directory = fcntl(directory, F_DUPFD_CLOEXEC, 3);
    r = port->directory < 0 ? -errno : frame_reader_init(&port->frames);
    if (r < 0 || !port->name)
        return r < 0 ? r : -ENOMEM;
    r = fiber_start(&port->fiber, "guest", port_main, port);
    if (r < 0)
        return r;
    (void) guestport_ref(port); /* the fiber's */
    *ret = STEAL_PTR(port);
    return 0;
}

void guestport_free(struct guestport *port) {
    if (!port)
        return;
    port->freed = true;
    port->handlers = NULL;
    port->ready = false;
    connection_break(port);
    channels_end(port);
    fiber_queue_wake_all(&port->waiting);
    fiber_cancel(port->fiber);
    guestport_unref(port);
}

struct budget *guestport_budget(struct guestport *port) {
    return &port->budget;
}

bool guestport_is_ready(const struct guestport *port) {
    return port && port->ready;
}

int guestport_wait_ready(struct guestport *given, uint64_t deadline) {
    _cleanup_(guestport_unrefp) struct guestport *port = guestport_ref(given);
    int r = 0;

    while (r >= 0 && !port->ready && !port->freed)
        r = fiber_queue_wait(&port->waiting, deadline);
    return r < 0 ? r : port->freed ? -ECONNRESET : 0;
}

char *const *guestport_addresses(const struct guestport *port) {
    return port->addresses;
}

/* --- requests on the main channel ----------------------------------------------------------------------- */

int guestport_start(struct guestport *port, const char *json) {
    int r = guestport_send_text(port, GUEST_START, GUEST_CHANNEL_MAIN, json);

    if (r >= 0)
        port->start_sent = true;
    return r;
}

int guestport_acknowledge(struct guestport *port) {
    return guestport_send(port, GUEST_ACK, GUEST_CHANNEL_MAIN, NULL, 0);
}

int guestport_signal(struct guestport *port, int number) {
    _cleanup_free_ char *json = text_format("{\"signal\":%d}", number);

    return json ? guestport_send_text(port, GUEST_SIGNAL, GUEST_CHANNEL_MAIN, json) : -ENOMEM;
}

int guestport_power_off(struct guestport *port, uint64_t grace_ms) {
    _cleanup_free_ char *json =
            text_format("{\"action\":\"poweroff\",\"grace_ms\":%llu}", (unsigned long long) grace_ms);

    return json ? guestport_send_text(port, GUEST_POWER, 0, json) : -ENOMEM;
}

void guestport_emit_clock(struct emitter *emitter) {
    uint8_t entropy[ENTROPY_SIZE];
    _cleanup_free_ char *text = NULL;

    random_bytes(entropy, sizeof(entropy));
    text = base64_encode(entropy, sizeof(entropy));
    emit_key_unsigned(emitter, "realtime_us", clock_wall());
    if (text)
        emit_key_text(emitter, "entropy", text);
}

int guestport_clock(struct guestport *port) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    guestport_emit_clock(&emitter);
    emit_object_end(&emitter);
    return out.failed ? -ENOMEM : guestport_send(port, GUEST_CLOCK, 0, out.data, out.size);
}
