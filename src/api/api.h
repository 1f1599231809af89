// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The HTTP server: RUN/polder.sock (0660 root:group, whoever may open it is an administrator) and RUN/polder-ro.sock
 * (0666, everybody on the host, reader). One thread, on the loop. */

struct api;
struct manager;

struct api_options {
    struct manager *manager; /* must outlive the api */
    const char *run_path;    /* the sockets' directory; exists */
    const char *group;       /* of the admin socket; NULL: "polder". Without such a group: root's alone */
    bool no_reader_socket;
    const int *fds;          /* listening sockets from socket activation, taken over; told apart by their address */
    size_t fd_count;
    unsigned connections;    /* most at a time; 0: 1,024 */
};

/* Off or on fibers. Replaces a socket file only if nobody answers there and it is ours. Errors: BUSY, EXISTS, TOO_LARGE,
 * INTERNAL. */
int api_new(const struct api_options *options, struct api **ret, struct error *error);
/* Fiber: takes no more connections, ends streams and waits, lets changes under way be answered until the deadline. */
void api_stop(struct api *api, uint64_t deadline);
/* After api_stop (or before the loop ran). Removes the socket files that it made. */
void api_free(struct api *api);
