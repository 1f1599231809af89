// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

#include "api/request.h"
#include "manager/actor.h"
#include "model/field.h"

/* One row per route: from it come dispatch, permission, decoding and the OpenAPI description. */

enum route_flag {
    ROUTE_QUICK = 1 << 0,     /* answers from memory, without a fiber */
    ROUTE_STREAM = 1 << 1,    /* writes its reply bit by bit */
    ROUTE_SOCKET = 1 << 2,    /* a WebSocket */
    ROUTE_UPLOAD = 1 << 3,    /* reads its body itself, any size */
    ROUTE_PATCH = 1 << 4,     /* takes application/merge-patch+json too */
    ROUTE_RAW = 1 << 5,       /* the handler decodes the JSON; `body` only describes it */
    ROUTE_REQUIRED = 1 << 6,  /* the body may not be absent */
    ROUTE_OPERATION = 1 << 7, /* answers 202 with an operation, or 200 when it waited */
};

struct route {
    const char *method;
    const char *pattern; /* "/v1/instances/{name}"; "{name+}" takes slashes too */
    int (*handle)(struct request *request, struct error *error);
    enum permission permission;
    const char *summary;       /* one sentence */
    const struct table *query; /* NULL: none */
    const struct table *body;  /* NULL: none */
    const char *reply;         /* name of the schema, or a media type */
    unsigned flags;
};

/* All rows; NULL at the end. */
const struct route *route_next(size_t *position);
/* Matches path against pattern; the decoded {…} go to `parameters` (allocated). 1: matches; 0: does not. */
int route_match(const char *pattern, const char *path, char *parameters[PATH_PARAMETERS_MAX], struct error *error);
/* Finds the row; NO_ROUTE, BAD_METHOD (`allow` gets the methods that the path takes). */
int route_find(const char *method, const char *path, char *parameters[PATH_PARAMETERS_MAX],
               const struct route **ret, struct buffer *allow, struct error *error);
/* Percent-decoding of one piece, which must be valid UTF-8 without control characters; slashes only if allowed. */
int path_decode(const char *text, size_t size, bool slashes, bool plus, char **ret, struct error *error);
/* "a=b&c=d" by the table into a new object. NULL table: the query must be absent. */
int query_decode(const struct table *table, const char *text, void **ret, struct error *error);

extern const struct route instance_routes[];
extern const struct route stream_routes[];
extern const struct route file_routes[];
extern const struct route image_routes[];
extern const struct route operation_routes[];
extern const struct route node_routes[];
extern const struct route queue_routes[];
extern const struct route optimize_routes[];
