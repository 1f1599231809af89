// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/head.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "manager/actor.h"

/* One request as its handler sees it, and the reply that the handler builds. */

#define BODY_JSON_MAX (1024 * 1024)
#define PATH_PARAMETERS_MAX 2

struct api;
struct connection;
struct manager;
struct operation;
struct route;

struct header {
    const char *name;
    const char *value;
};

struct reply {
    unsigned status;       /* 200 unless set */
    const char *type;      /* NULL: application/json */
    struct buffer headers; /* further header lines */
    struct buffer body;
    const char *text;      /* borrowed body in place of `body`; must stay valid until the handler returns */
    size_t text_size;
};

struct request {
    struct manager *manager;
    struct api *api;
    struct connection *connection;
    const struct actor *actor;
    const struct route *route;
    const char *method;
    struct buffer head;       /* the raw head; the texts below point into it */
    char *path;               /* without the query, as received */
    char *query_text;         /* NULL if there is none */
    struct header headers[HEAD_HEADERS_MAX];
    size_t header_count;
    char *parameters[PATH_PARAMETERS_MAX]; /* what stood for {…} in the pattern, decoded */
    void *query;              /* decoded by route->query */
    struct json_object *json; /* the body */
    void *input;              /* decoded by route->body */
    struct buffer body;       /* bytes of the body that nobody consumed yet */
    uint64_t body_received;
    uint64_t waited;          /* microseconds, for what an upload brings */
    bool has_body;
    bool complete;            /* the whole body has arrived */
    bool head_only;           /* HEAD */
    bool expects_continue;
    bool keep_alive;
    bool is_old;              /* HTTP/1.0: no chunks */
    bool upgrade;             /* asks for a WebSocket */
    bool cancelable;          /* the handler ends early when the client is gone */
    bool streamed;            /* the reply's head is sent; the handler writes the rest */
    bool stream_ended;
    struct reply reply;
};

void request_done(struct request *request); /* ready for the next one */
/* Fills method, path, headers from the checked head. */
const char *request_header(const struct request *request, const char *name); /* NULL if absent */

/* Routing: finds the route, checks where the request comes from, what it may and how it is written, and decodes path
 * and query. Errors are the reply. */
int request_route(struct request *request, struct error *error);
/* Decodes the complete body as the route wants it. */
int request_decode_body(struct request *request, struct error *error);

/* --- for handlers -------------------------------------------------------------------------------------------- */

/* An emitter into the reply's body. */
struct emitter reply_emitter(struct request *request);
/* Refuses line breaks: bytes from outside cannot split the head. */
void reply_header(struct request *request, const char *name, const char *value);
/* Replaces the reply by the problem; operation (may be NULL) is shown with it. */
void reply_problem(struct request *request, const struct error *error, const struct operation *operation);
/* Body of a problem as one JSON object. */
void problem_emit(const struct error *error, const char *path, const struct operation *operation,
                  struct emitter *emitter);

/* Fiber: from here on, until `false`, the handler's waits are cancelled when the client is gone. */
void request_cancelable(struct request *request, bool cancelable);
/* Fiber: bytes of the body; 0 at its end. Errors: SLOW_REQUEST, BAD_REQUEST (cut off). */
long request_read(struct request *request, void *data, size_t size, struct error *error);
/* Fiber: a reply of unknown length. After begin an error can only cut the connection. */
int request_stream_begin(struct request *request, const char *type);
int request_stream_write(struct request *request, const void *data, size_t size);
int request_stream_end(struct request *request);
