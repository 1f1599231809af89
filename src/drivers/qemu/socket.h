// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Unix stream sockets in a directory given by descriptor, so that a path may be longer than a socket
 * address holds. All return a non-blocking, close-on-exec descriptor or negative errno. */

/* Replaces what is there. Nobody but root may connect. */
int socket_listen(int directory, const char *name);
int socket_connect(int directory, const char *name);

/* Fiber: one message; with fd >= 0 the descriptor goes with its first byte. */
int socket_send(int fd, const void *data, size_t size, int passed, uint64_t deadline);
