// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "drivers/qemu/guestport.h"
#include "drivers/qemu/queue.h"
#include "guest/frame.h"

/* Shared by guestport.c (the connection) and guestchannel.c (channels and the streams on them). */

struct port_stream;

struct channel {
    struct channel *next;
    uint32_t number;
    struct port_stream *streams; /* those that read it: any number for the main one, at most one for others */
    size_t uncredited;           /* bytes the guest sent and was not credited for */
    size_t in_flight;            /* bytes of standard input sent and not credited to us */
    bool input_closed;
    struct fiber_queue writers;
};

struct guestport {
    unsigned references;
    int directory;
    char *name;
    const struct guestport_handlers *handlers; /* NULL once freed */
    void *userdata;
    struct fiber *fiber;
    struct fiber *writer; /* exists while output waits */
    int fd;               /* -EBADF without a connection */
    bool ready;
    bool freed;
    bool start_sent;
    char nonce[FRAME_NONCE_SIZE + 1];
    struct frame_reader frames;
    struct budget budget;
    struct buffer out;
    struct fiber_queue waiting; /* for ready */
    char **addresses;
    struct channel *channels;
    struct channel main;
    bool main_ended;
    uint64_t main_received; /* bytes of main output, over all connections */
    uint64_t skip;          /* bytes the guest sends again after a break */
    uint32_t last_number;
};

struct guestport *guestport_ref(struct guestport *port);
void guestport_unref(struct guestport *port);

/* Queues a frame; -ENOTCONN, -E2BIG, -ENOMEM. Never waits. */
int guestport_send(struct guestport *port, uint8_t type, uint32_t channel, const void *data, size_t size);
int guestport_send_text(struct guestport *port, uint8_t type, uint32_t channel, const char *text);

/* From the connection to the channels. Negative errno: the guest broke the rules. */
int channel_output(struct guestport *port, const struct frame *frame);
int channel_credited(struct guestport *port, const struct frame *frame);
int channel_exited(struct guestport *port, const struct frame *frame);
void channel_refused(struct guestport *port, const struct frame *frame);
/* The connection broke: all but the main channel end with `result`. */
void channels_break(struct guestport *port, int result);
/* The machine is gone. */
void channels_end(struct guestport *port);
