// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "guest/loop.h"
#include "guest/output.h"
#include "guest/port.h"
#include "guest/process.h"

/* A channel is one process (the main one, an exec, an archive transfer) with its streams, from the request to
 * the daemon's acknowledgement of its exit. States: running -> ended (its exit is known, output may still
 * come) -> exit ready (all output sent) -> exit sent -> acknowledged, and gone. A new connection takes it
 * from "exit sent" back to "exit ready". */

#define CHANNEL_MAX 64

enum channel_kind {
    CHANNEL_MAIN,
    CHANNEL_EXEC,
    CHANNEL_TRANSFER,
};

/* All channels of the agent. */
struct channels {
    struct loop *loop;
    struct port *port;
    struct channel *first, *last; /* the first is the next to send */
    size_t count;
};

struct channel;

struct channel *channel_find(struct channels *channels, uint32_t id);
/* Opens a channel for a process, which it takes. NULL when out of memory; then the process is left alone. */
struct channel *channel_open(struct channels *channels, uint32_t id, enum channel_kind kind,
                             struct process *process);
/* Opens a channel that only has a result to tell: what was asked for could not be started. */
struct channel *channel_open_failed(struct channels *channels, uint32_t id, enum channel_kind kind, int code,
                                    const char *error);
void channel_free(struct channel *channel);

enum channel_kind channel_kind(const struct channel *channel);
uint32_t channel_id(const struct channel *channel);
pid_t channel_pid(const struct channel *channel); /* -1 once it has ended */
bool channel_has_ended(const struct channel *channel);
/* True once its exit was sent on the present connection. */
bool channel_exit_is_sent(const struct channel *channel);
uint64_t channel_output_offset(const struct channel *channel);
struct channel *channel_next(const struct channel *channel); /* NULL: iterate from channels->first */

/* What the daemon sent. -EBADMSG with a reason if it broke the rules of the window. */
int channel_stdin(struct channel *channel, const void *data, size_t size, struct reason *reason);
int channel_credit(struct channel *channel, size_t size, struct reason *reason);
void channel_resize(struct channel *channel, int64_t rows, int64_t columns);
void channel_signal(struct channel *channel, int signal);

/* The process was reaped with this wait status. */
void channel_ended(struct channel *channel, int status);

/* Queues one frame of a channel, taking turns. False: no channel has anything to send. */
bool channels_send(struct channels *channels);

/* The connection ended: nobody's output stops any more. / A new one began: the main channel and all exits are
 * told again, what execs print from now on is nobody's, transfers are given up. */
void channels_connection_lost(struct channels *channels);
void channels_connection_new(struct channels *channels);
