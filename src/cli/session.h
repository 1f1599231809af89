// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "base/error.h"
#include "cli/client.h"

/* A terminal, or pipes, at one end of a WebSocket to a process or console. */

struct session_options {
    const char *path;     /* of the WebSocket */
    const char *first;    /* JSON text sent first, or NULL */
    bool input;           /* standard input is sent */
    bool tty;             /* raw terminal: sizes are sent, detach keys end it */
    bool proxy_signals;   /* SIGINT, SIGTERM, SIGHUP, SIGQUIT go to the process */
    const char *name;     /* of the instance, for notes */
    bool console;         /* detach with ctrl-] */
    bool note;            /* on a terminal: say how a console is left */
};

/* 0: it ended, *ret_code is its exit code, and *error says why a command could not be run; 1: detached. */
int session_run(struct client *client, const struct session_options *options, int *ret_code, struct error *error);
