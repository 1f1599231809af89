// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/fiber.h"
#include "manager/actor.h"

/* One client: reads requests one after the other, has them handled, writes replies. */

struct api;
struct connection;
struct request;

#define WRITE_SECONDS 60 /* a client that takes nothing of a whole reply for so long is dropped */

/* fd is consumed even on failure. */
int connection_new(struct api *api, int fd, uid_t uid, enum role role, const char *origin);
/* Closes it now unless its request runs; then its waits are cancelled. */
void connection_end(struct connection *connection);
/* Frees those that are closed. */
void connections_collect(struct api *api);
/* Closes those whose deadline has passed. */
void connections_sweep(struct api *api, uint64_t now);
unsigned connections_of(const struct api *api, uid_t uid);

/* Fiber of its request. read: what is there, 0 at the end. write: all of it, however long
 * the client takes (a pager may rest); -EPIPE when it is gone. */
long connection_read(struct connection *connection, void *data, size_t size, uint64_t deadline);
int connection_write(struct connection *connection, const void *data, size_t size);
/* Fiber: reads more bytes of the request's body. 0: there may be more in request->body now. */
int connection_read_body(struct connection *connection, uint64_t deadline);
/* The head of the reply to `request` as text: length SIZE_MAX writes chunks, SIZE_MAX - 1 neither. */
struct buffer;
void connection_head(struct connection *connection, size_t length, struct buffer *out);
struct fiber *connection_fiber(const struct connection *connection);
struct connection *connection_next(const struct connection *connection);
