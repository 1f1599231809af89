// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/frame.h"
#include "guest/loop.h"

/* The virtio port: frames in, frames out, and whether a daemon listens. The port is watched edge-triggered,
 * because it reports a hang-up for as long as no daemon is connected. What it reports is only a hint: the
 * kernel learns of connections and of data by two queues, so a new daemon's hello may be read before the end
 * of the old connection, or the beginning of the new one, is known. A hello counts at once, a hang-up only if
 * it lasts. */

struct port {
    struct watch watch;
    struct frame_reader reader;
    uint8_t *out;
    size_t out_start, out_end;
    bool greeted; /* a daemon said hello, and its connection has not ended since */
    bool readable, writable;
    /* CLOCK_MONOTONIC ms, 0: none. Since when a hello waits behind an unfinished frame, and when a hang-up
     * that still lasts is believed. */
    uint64_t stray_since, lost_at;
    /* The connection ended. */
    void (*lost)(void *owner);
    void *owner;
};

/* Takes fd, also when it fails. */
int port_init(struct port *port, struct loop *loop, int fd);

/* Reads once if there may be something and the answers sent so far were taken. */
void port_read(struct port *port);

/* The next frame, valid until the next call of port_read. False: none. *ret_error is set to -EBADMSG if the
 * stream turned out to be no frames: everything up to the next hello is skipped. */
bool port_next(struct port *port, struct frame *ret, int *ret_error);

/* Starts a connection: drops what was still to be sent to the former one. */
void port_greet(struct port *port);

/* Queues a frame. Dropped unless a daemon listens. */
void port_send(struct port *port, uint8_t type, uint32_t channel, const void *data, size_t size);
/* True while there is room for frames of channels: it stays small, so that no channel gets far ahead. */
bool port_wants_output(const struct port *port);
void port_write(struct port *port);

/* True if port_read or port_write can go on at once. */
bool port_is_busy(const struct port *port);
/* When to call port_read again at the latest, in CLOCK_MONOTONIC ms; 0: no matter. */
uint64_t port_deadline(const struct port *port);
