// SPDX-License-Identifier: GPL-2.0-or-later
#include "api/request.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/internal.h"
#include "api/route.h"
#include "base/text.h"
#include "manager/manager.h"

void request_done(struct request *request) {
    struct buffer head = request->head;

    if (request->query) {
        table_done(request->route->query, request->query);
        free(request->query);
    }
    if (request->input) {
        table_done(request->route->body, request->input);
        free(request->input);
    }
    for (size_t i = 0; i < PATH_PARAMETERS_MAX; i++)
        free(request->parameters[i]);
    json_put(request->json);
    buffer_done(&request->body);
    buffer_done(&request->reply.headers);
    buffer_done(&request->reply.body);
    memset(request, 0, sizeof(*request));
    /* The next head fits most likely; a connection that rests does not keep much. */
    if (head.allocated > 4096)
        buffer_done(&head);
    else
        request->head = head;
}

const char *request_header(const struct request *request, const char *name) {
    for (size_t i = 0; i < request->header_count; i++)
        if (strcasecmp(request->headers[i].name, name) == 0)
            return request->headers[i].value;
    return NULL;
}

/* A page in somebody's browser must not reach the API through that browser: on these sockets no page has any business,
 * so everything that carries a page's mark is refused. */
static int check_origin(const struct request *request, struct error *error) {
    const char *origin = request_header(request, "Origin");
    const char *site = request_header(request, "Sec-Fetch-Site");

    if (origin)
        return error_set(error, ERROR_CROSS_SITE, origin);
    if (site && strcmp(site, "none") != 0)
        return error_set(error, ERROR_CROSS_SITE, "of another site");
    return 0;
}

static int check_expectation(struct request *request, struct error *error) {
    const char *expect = request_header(request, "Expect");

    if (!expect)
        return 0;
    if (strcasecmp(expect, "100-continue") != 0)
        return error_set(error, ERROR_BAD_REQUEST, "only 'Expect: 100-continue' is known");
    request->expects_continue = request->has_body && !request->is_old;
    return 0;
}

/* "application/json; charset=utf-8" is application/json. */
static bool media_type_is(const char *value, const char *type) {
    size_t length = strlen(type);

    if (strncasecmp(value, type, length) != 0)
        return false;
    value += length;
    value += strspn(value, " \t");
    return *value == '\0' || *value == ';';
}

static int check_media_type(const struct request *request, struct error *error) {
    const char *type = request_header(request, "Content-Type");

    if (!request->has_body)
        return 0;
    if (request->route->flags & ROUTE_UPLOAD) {
        /* Nothing that an HTML form can send. */
        if (type && !media_type_is(type, "text/plain") && !media_type_is(type, "multipart/form-data") &&
            !media_type_is(type, "application/x-www-form-urlencoded"))
            return 0;
        return error_set(error, ERROR_BAD_MEDIA_TYPE, type ? type : "");
    }
    if (type && media_type_is(type, "application/json"))
        return 0;
    if (type && (request->route->flags & ROUTE_PATCH) && media_type_is(type, "application/merge-patch+json"))
        return 0;
    return error_set(error, ERROR_BAD_MEDIA_TYPE, type ? type : "");
}

static int check_upgrade(const struct request *request, struct error *error) {
    const char *upgrade = request_header(request, "Upgrade");

    if (!(request->route->flags & ROUTE_SOCKET))
        return 0;
    if (!request->upgrade || !upgrade || strcasecmp(upgrade, "websocket") != 0 || request->has_body)
        return error_set(error, ERROR_BAD_REQUEST, "this address takes WebSockets only");
    return 0;
}

/* "instances/web-1", for the one who authorises. */
static int check_permission(const struct request *request, struct error *error) {
    _cleanup_free_ char *object = NULL;
    int r;
    const char *type = request->route->pattern + (text_starts(request->route->pattern, "/v1/") ? 4 : 1);

    if (request->parameters[0]) {
        object = text_format("%.*s/%s", (int) strcspn(type, "/"), type, request->parameters[0]);
        if (!object)
            return error_set(error, ERROR_NO_MEMORY, "");
    }
    r = authorise(request->actor, "default", request->route->permission, object, error);
    if (r < 0) {
        /* "POST instances": what the manager's own refusals call by name never got that far. */
        _cleanup_free_ char *action = text_format("%s %s", request->method, type);
        manager_audit_refused(request->manager, request->actor, action ? action : request->method,
                              object ? object : type, error);
    }
    return r;
}

int request_route(struct request *request, struct error *error) {
    _cleanup_buffer_ struct buffer allow = BUFFER_INIT;
    int r;

    if (!request->path || request->path[0] != '/')
        return error_set(error, ERROR_NO_ROUTE, request->path ? request->path : "");
    request->query_text = strchr(request->path, '?');
    if (request->query_text)
        *request->query_text++ = '\0';
    r = check_origin(request, error);
    if (r == 0)
        r = check_expectation(request, error);
    if (r < 0)
        return r;
    r = route_find(request->method, request->path, request->parameters, &request->route, &allow, error);
    if (r < 0) {
        if (allow.size > 0)
            reply_header(request, "Allow", allow.data);
        return r;
    }
    r = check_permission(request, error);
    if (r == 0)
        r = check_upgrade(request, error);
    if (r == 0)
        r = check_media_type(request, error);
    if (r == 0)
        r = query_decode(request->route->query, request->query_text, &request->query, error);
    return r;
}

int request_decode_body(struct request *request, struct error *error) {
    const struct route *route = request->route;
    int r;

    if (!route->body || (route->flags & (ROUTE_UPLOAD | ROUTE_SOCKET)))
        return 0;
    if (request->body.size == 0 && (route->flags & ROUTE_REQUIRED))
        return error_set(error, ERROR_BAD_REQUEST, "its body is missing");
    if (request->body.size > 0) {
        r = json_parse_foreign(request->body.data, request->body.size, &request->json, error);
        if (r < 0)
            return r;
        buffer_done(&request->body);
    }
    if (route->flags & ROUTE_RAW)
        return 0;
    request->input = calloc(1, route->body->size);
    if (!request->input || table_init(route->body, request->input) < 0)
        return error_set(error, ERROR_NO_MEMORY, "");
    return request->json ? table_decode(route->body, request->json, DECODE_REPLACE, request->input, error) : 0;
}
