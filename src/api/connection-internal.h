// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <http_parser.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/connection.h"
#include "api/head.h"
#include "api/internal.h"
#include "api/request.h"
#include "base/buffer.h"

/* The two halves of a connection: connection.c reads requests and tells when things end, reply.c writes. */

enum connection_state {
    CONNECTION_HEAD,    /* waits for, or reads, a head */
    CONNECTION_BODY,    /* collects a body */
    CONNECTION_BUSY,    /* the request's fiber runs */
    CONNECTION_WRITING, /* the reply goes out as the client takes it */
    CONNECTION_DRAIN,   /* an early reply is out; what the client still sends is dropped */
    CONNECTION_CLOSED,  /* waits to be freed */
};

struct connection {
    struct api *api;
    struct connection *next, *previous;
    int fd;
    sd_event_source *source;
    uint32_t armed; /* epoll events that the source watches now */
    enum connection_state state;
    bool gone;      /* the client closed both directions */
    bool fresh;     /* no request yet */
    bool in_process; /* connection_process is on the stack */
    uint64_t deadline;
    struct buffer input;  /* received, not consumed */
    struct buffer output; /* not written yet */
    size_t drained;
    struct head head;
    struct http_parser parser;
    struct request request;
    struct fiber *fiber;
    struct fiber_queue readers, writers;
    struct actor actor;
    char actor_name[32];
    uid_t uid;
};

void connection_arm(struct connection *connection, uint32_t events);
void connection_close(struct connection *connection);
/* After the reply is out: the next request, or the end. */
void connection_finish(struct connection *connection);
void connection_process(struct connection *connection);
/* Sends the reply that the handler built (or the problem, if r is negative). */
void connection_reply(struct connection *connection, int r, struct error *error);
/* Writes what is left of the output. */
void connection_flush(struct connection *connection);
