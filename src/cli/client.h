// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"

/* HTTP/1.1 to polderd over its socket. Requests are written here; replies are read by http-parser. Everything blocks;
 * SIGINT ends a wait with -EINTR (see interrupt.h). */

struct client;

struct response {
    unsigned status;
    struct buffer body;
    struct json_object *json; /* the body, if it is JSON */
    char *etag;
};
void response_done(struct response *response);
#define RESPONSE_INIT                                                                                        \
    { 0 }
#define _cleanup_response_ _cleanup_(response_done)

/* path NULL: the default. Nothing is connected yet. */
int client_new(const char *path, struct client **ret);
void client_free(struct client *client);
const char *client_path(const struct client *client);

/* One request and its whole reply. body: JSON text or NULL. A problem becomes the error (its "operation" member is
 * dropped). */
int client_request(struct client *client, const char *method, const char *path, const char *body,
                   struct response *ret, struct error *error);
/* With further header lines ("Name: value\r\n"…). */
int client_request_headers(struct client *client, const char *method, const char *path, const char *headers,
                           const char *body, struct response *ret, struct error *error);
/* A problem's members -> error. */
void error_from_problem(struct json_object *problem, struct error *error);

/* A reply read bit by bit: begin, then read until 0. */
int client_stream_begin(struct client *client, const char *path, struct error *error);
long client_stream_read(struct client *client, void *data, size_t size, struct error *error);
/* A request whose body comes in pieces; `end` reads the reply. */
int client_upload_begin(struct client *client, const char *method, const char *path, const char *type,
                        struct error *error);
/* -EPIPE: polderd takes no more; its reply (client_upload_end) says why. */
int client_upload_write(struct client *client, const void *data, size_t size);
int client_upload_end(struct client *client, struct response *ret, struct error *error);

/* Turns the connection into a WebSocket; *ret_fd is the caller's, *early what came already. */
int client_upgrade(struct client *client, const char *path, int *ret_fd, struct buffer *early, struct error *error);

/* "a b/c" -> "a%20b%2Fc". Allocated. */
char *url_encode(const char *text);
/* "?name=value", or "&…" behind another; value NULL: nothing. */
void query_add(struct buffer *path, const char *name, const char *value);

DEFINE_CLEANUP(struct client *, client_free)
#define _cleanup_client_ _cleanup_(client_freep)
