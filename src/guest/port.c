// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/port.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "guest/common.h"

/* Frames of channels are added while less than OUT_LOW is queued, requests are read while less than OUT_HIGH
 * is; what one read of requests can cause in answers fits above. */
#define OUT_LOW (32 * 1024)
#define OUT_HIGH (128 * 1024)
#define OUT_SIZE (1024 * 1024)

/* How long a hello behind an unfinished frame must be the last thing that came before it is believed. */
#define STRAY_MS 250

/* How long a hang-up must last; and how long after a hello, whose connection the kernel may not know yet. */
#define LOST_MS 1000
#define LOST_GREETED_MS 5000

static void connection_lost(struct port *port) {
    bool was_greeted = port->greeted;

    port->greeted = false;
    port->out_start = port->out_end = 0;
    port->stray_since = 0;
    frame_reader_clear(&port->reader);
    if (was_greeted)
        port->lost(port->owner);
}

static void connection_doubt(struct port *port) {
    if (!port->lost_at && (port->greeted || port->reader.end > port->reader.start))
        port->lost_at = monotonic_ms() + LOST_MS;
}

static void connection_check(struct port *port) {
    struct pollfd state = { .fd = port->watch.fd };

    if (!port->lost_at || monotonic_ms() < port->lost_at)
        return;
    port->lost_at = 0;
    if (poll(&state, 1, 0) > 0 && state.revents & POLLHUP)
        connection_lost(port);
}

static void port_ready(struct watch *watch, uint32_t events) {
    struct port *port = watch->owner;

    if (events & EPOLLHUP)
        connection_doubt(port);
    else
        port->lost_at = 0;
    port->readable = true;
    port->writable = true;
}

int port_init(struct port *port, struct loop *loop, int fd) {
    port->watch = (struct watch){
        .loop = loop,
        .fd = fd,
        .events = EPOLLIN | EPOLLOUT | EPOLLET,
        .ready = port_ready,
        .owner = port,
    };
    port->readable = true;
    port->out = malloc(OUT_SIZE);
    if (!port->out)
        return -ENOMEM;
    watch_on(&port->watch);
    return frame_reader_init(&port->reader);
}

static size_t out_pending(const struct port *port) {
    return port->out_end - port->out_start;
}

static bool can_read(const struct port *port) {
    return port->readable && out_pending(port) < OUT_HIGH;
}

void port_read(struct port *port) {
    size_t size;
    uint8_t *space;
    ssize_t n;

    connection_check(port);
    if (can_read(port)) {
        space = frame_reader_space(&port->reader, &size);
        n = read(port->watch.fd, space, size);
        if (n > 0) {
            frame_reader_commit(&port->reader, (size_t) n);
            port->stray_since = 0;
        } else {
            port->readable = n < 0 && errno == EINTR;
            if (n == 0)
                connection_doubt(port);
        }
    }
    if (!frame_reader_has_stray_hello(&port->reader))
        port->stray_since = 0;
    else if (port->stray_since == 0)
        port->stray_since = monotonic_ms();
    else if (monotonic_ms() >= port->stray_since + STRAY_MS) {
        frame_reader_accept_hello(&port->reader);
        port->stray_since = 0;
    }
}

bool port_next(struct port *port, struct frame *ret, int *ret_error) {
    int r = frame_reader_next(&port->reader, ret);

    *ret_error = r < 0 ? r : 0;
    return r > 0;
}

void port_greet(struct port *port) {
    port->out_start = port->out_end = 0;
    port->greeted = true;
    port->writable = true;
    if (port->lost_at)
        port->lost_at = monotonic_ms() + LOST_GREETED_MS;
}

void port_send(struct port *port, uint8_t type, uint32_t channel, const void *data, size_t size) {
    if (!port->greeted)
        return;
    if (OUT_SIZE - port->out_end < GUEST_HEADER_SIZE + size) {
        memmove(port->out, port->out + port->out_start, out_pending(port));
        port->out_end -= port->out_start;
        port->out_start = 0;
    }
    if (OUT_SIZE - port->out_end < GUEST_HEADER_SIZE + size) {
        guest_log("the send queue is full, a frame of type %u is lost", type);
        return;
    }
    frame_encode_header(port->out + port->out_end, type, channel, (uint32_t) size);
    if (size > 0)
        memcpy(port->out + port->out_end + GUEST_HEADER_SIZE, data, size);
    port->out_end += GUEST_HEADER_SIZE + size;
}

bool port_wants_output(const struct port *port) {
    return port->greeted && out_pending(port) < OUT_LOW;
}

void port_write(struct port *port) {
    while (port->writable && out_pending(port) > 0) {
        ssize_t n = write(port->watch.fd, port->out + port->out_start, out_pending(port));
        if (n > 0)
            port->out_start += (size_t) n;
        else if (n == 0 || errno != EINTR)
            port->writable = false;
    }
    if (out_pending(port) == 0)
        port->out_start = port->out_end = 0;
}

bool port_is_busy(const struct port *port) {
    return can_read(port) || (port->writable && out_pending(port) > 0);
}

uint64_t port_deadline(const struct port *port) {
    uint64_t stray = port->stray_since ? port->stray_since + STRAY_MS : 0;

    if (!stray || !port->lost_at)
        return stray ? stray : port->lost_at;
    return stray < port->lost_at ? stray : port->lost_at;
}
