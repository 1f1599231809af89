// SPDX-License-Identifier: GPL-2.0-or-later
/* One client's connection, as a small machine (enum connection_state):
 *
 *   HEAD -> BODY -> BUSY -> WRITING -> HEAD …      a request on a fiber
 *   HEAD -> WRITING -> HEAD …                      a quick one, answered in the io callback
 *   any  -> WRITING -> DRAIN -> CLOSED             an early refusal: the rest of the body is dropped first, because
 *                                                  closing over unread bytes would take the reply from the client
 *
 * One io source per connection watches only what somebody wants: nothing is read while a request runs, which is the
 * backpressure. A fiber that reads or writes parks in `readers` or `writers` and the source wakes it. A vanished client
 * (EPOLLHUP) cancels the request's fiber only where the handler said so; a change that was accepted goes on. Deadlines
 * are kept per connection and looked at once a second. */
#include "api/connection.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/connection-internal.h"
#include "api/route.h"
#include "base/cleanup.h"
#include "base/log.h"

#define FRESH_SECONDS 10 /* from connecting to the first byte */
#define HEAD_SECONDS 10  /* from the first byte of a head to its last */
#define BODY_SECONDS 15 /* of JSON: a mebibyte at most */
#define IDLE_SECONDS 75
#define DRAIN_SECONDS 5
#define DRAIN_MAX (64 * 1024 * 1024)

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata);

/* --- life ------------------------------------------------------------------------------------------------------ */

static void connection_link(struct api *api, struct connection *connection) {
    connection->next = api->connections;
    if (connection->next)
        connection->next->previous = connection;
    api->connections = connection;
    api->connection_count++;
    api_connections_changed(api);
}

static void connection_free(struct connection *connection) {
    struct api *api = connection->api;

    if (connection->previous)
        connection->previous->next = connection->next;
    else
        api->connections = connection->next;
    if (connection->next)
        connection->next->previous = connection->previous;
    api->connection_count--;
    request_done(&connection->request);
    buffer_done(&connection->request.head); /* request_done keeps it for the next one */
    buffer_done(&connection->input);
    buffer_done(&connection->output);
    free(connection);
    api_connections_changed(api);
}

static void actor_init(struct connection *connection, enum role role, const char *origin) {
    if (connection->uid == 0)
        snprintf(connection->actor_name, sizeof(connection->actor_name), "root");
    else
        snprintf(connection->actor_name, sizeof(connection->actor_name), "user:%u", (unsigned) connection->uid);
    connection->actor = (struct actor){ .name = connection->actor_name, .origin = origin, .role = role };
}

int connection_new(struct api *api, int fd, uid_t uid, enum role role, const char *origin) {
    _cleanup_close_ int owned = fd;
    struct connection *connection = calloc(1, sizeof(*connection));
    int r;

    if (!connection)
        return -ENOMEM;
    connection->api = api;
    connection->uid = uid;
    connection->fresh = true;
    connection->fd = fd;
    connection->deadline = deadline_in(FRESH_SECONDS * CLOCK_SECOND);
    connection->armed = EPOLLIN;
    actor_init(connection, role, origin);
    r = sd_event_add_io(loop_event(), &connection->source, fd, EPOLLIN, on_io, connection);
    if (r < 0) {
        free(connection);
        return r;
    }
    connection_link(api, connection);
    STEAL_FD(owned);
    return 0;
}

void connection_close(struct connection *connection) {
    struct api *api = connection->api;

    if (connection->state == CONNECTION_CLOSED)
        return;
    connection->state = CONNECTION_CLOSED;
    connection->source = sd_event_source_disable_unref(connection->source);
    connection->fd = close_fd(connection->fd);
    (void) sd_event_source_set_enabled(api->collector, SD_EVENT_ONESHOT);
}

void connections_collect(struct api *api) {
    struct connection *next;

    for (struct connection *connection = api->connections; connection; connection = next) {
        next = connection->next;
        if (connection->state == CONNECTION_CLOSED && !connection->in_process)
            connection_free(connection);
    }
}

unsigned connections_of(const struct api *api, uid_t uid) {
    unsigned count = 0;

    for (const struct connection *connection = api->connections; connection; connection = connection->next)
        count += connection->uid == uid && connection->state != CONNECTION_CLOSED;
    return count;
}

struct fiber *connection_fiber(const struct connection *connection) {
    return connection->fiber;
}

struct connection *connection_next(const struct connection *connection) {
    return connection->next;
}

/* --- waiting ---------------------------------------------------------------------------------------------------- */

void connection_arm(struct connection *connection, uint32_t events) {
    if (connection->armed == events || !connection->source)
        return;
    if (sd_event_source_set_io_events(connection->source, events) >= 0)
        connection->armed = events;
}

static void client_vanished(struct connection *connection) {
    connection->gone = true;
    (void) sd_event_source_set_enabled(connection->source, SD_EVENT_OFF);
    fiber_queue_wake_all(&connection->readers);
    fiber_queue_wake_all(&connection->writers);
    if (connection->request.cancelable && connection->fiber)
        fiber_cancel(connection->fiber);
}

static int connection_wait(struct connection *connection, uint32_t event, uint64_t deadline) {
    struct fiber_queue *queue = event == EPOLLIN ? &connection->readers : &connection->writers;

    if (connection->gone || connection->fd < 0)
        return -EPIPE;
    connection_arm(connection, connection->armed | event);
    return fiber_queue_wait(queue, deadline);
}

long connection_read(struct connection *connection, void *data, size_t size, uint64_t deadline) {
    if (connection->input.size > 0) {
        size_t have = connection->input.size < size ? connection->input.size : size;
        memcpy(data, connection->input.data, have);
        buffer_consume(&connection->input, have);
        return (long) have;
    }
    for (;;) {
        ssize_t n = recv(connection->fd, data, size, MSG_DONTWAIT);
        int r;

        if (n >= 0)
            return n;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return errno == ECONNRESET ? 0 : -errno;
        r = connection_wait(connection, EPOLLIN, deadline);
        if (r < 0)
            return r == -EPIPE ? 0 : r;
    }
}

int connection_write(struct connection *connection, const void *data, size_t size) {
    const char *position = data;

    while (size > 0) {
        ssize_t n = send(connection->fd, position, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        int r;

        if (n > 0) {
            position += n;
            size -= (size_t) n;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return errno == ECONNRESET ? -EPIPE : -errno;
        r = connection_wait(connection, EPOLLOUT, DEADLINE_NONE);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- the parser ------------------------------------------------------------------------------------------------- */

static struct request *request_of(http_parser *parser) {
    return &((struct connection *) parser->data)->request;
}

static int on_url(http_parser *parser, const char *at, size_t length) {
    struct request *request = request_of(parser);

    if (!request->path)
        request->path = request->head.data + (at - request->head.data);
    request->path[length] = '\0'; /* the blank before "HTTP/1.1", already parsed by the time this is read */
    return 0;
}

static int on_header_field(http_parser *parser, const char *at, size_t length) {
    struct request *request = request_of(parser);

    if (request->complete || request->body_received > 0 || request->header_count >= HEAD_HEADERS_MAX)
        return 0; /* trailers are read over */
    request->headers[request->header_count++] = (struct header){ .name = at, .value = NULL };
    return 0;
}

static int on_header_value(http_parser *parser, const char *at, size_t length) {
    struct request *request = request_of(parser);

    if (length > 0 && request->header_count > 0 && !request->headers[request->header_count - 1].value)
        request->headers[request->header_count - 1].value = at;
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t length) {
    struct request *request = request_of(parser);

    request->body_received += length;
    buffer_add(&request->body, at, length);
    return request->body.failed ? -1 : 0;
}

static int on_complete(http_parser *parser) {
    request_of(parser)->complete = true;
    http_parser_pause(parser, 1); /* what follows is the next request's */
    return 0;
}

static const http_parser_settings head_settings = {
    .on_url = on_url, .on_header_field = on_header_field, .on_header_value = on_header_value,
    .on_message_complete = on_complete,
};
/* Separate, since the texts of trailers do not live in the head. */
static const http_parser_settings body_settings = { .on_body = on_body, .on_message_complete = on_complete };

/* Ends each name and value with a NUL, in place of the colon and of what follows the value. */
static void terminate_headers(struct request *request) {
    for (size_t i = 0; i < request->header_count; i++) {
        char *name = (char *) request->headers[i].name, *value = (char *) request->headers[i].value;
        name[strcspn(name, ":")] = '\0';
        if (!value) {
            request->headers[i].value = "";
            continue;
        }
        size_t length = strcspn(value, "\r\n");
        while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t'))
            length--;
        value[length] = '\0';
    }
}

/* The bytes of one checked head, through the parser, into the request. */
static int parse_head(struct connection *connection, size_t length, struct error *error) {
    struct request *request = &connection->request;
    http_parser *parser = &connection->parser;

    buffer_reset(&request->head);
    buffer_add(&request->head, connection->input.data, length);
    if (request->head.failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    buffer_consume(&connection->input, length);
    http_parser_init(parser, HTTP_REQUEST);
    parser->data = connection;
    (void) http_parser_execute(parser, &head_settings, request->head.data, length);
    if (parser->http_errno != HPE_OK && parser->http_errno != HPE_PAUSED)
        return error_set(error, ERROR_BAD_REQUEST, http_errno_description(parser->http_errno));
    request->upgrade = parser->upgrade;
    request->has_body = !request->complete;
    http_parser_pause(parser, 0);
    request->method = http_method_str(parser->method);
    request->head_only = parser->method == HTTP_HEAD;
    request->is_old = parser->http_minor == 0;
    /* After a body that the handler leaves unread the connection ends; that is seen when it is over. */
    request->keep_alive = !request->is_old && http_should_keep_alive(parser) && !request->upgrade;
    terminate_headers(request);
    return 0;
}

/* Gives the parser what has come of the body. -EBADMSG when it is malformed, -ENOMEM. */
static int feed_body(struct connection *connection) {
    struct request *request = &connection->request;
    http_parser *parser = &connection->parser;
    size_t taken;

    if (request->complete || connection->input.size == 0)
        return 0;
    taken = http_parser_execute(parser, &body_settings, connection->input.data, connection->input.size);
    if (parser->http_errno == HPE_PAUSED)
        http_parser_pause(parser, 0);
    else if (parser->http_errno != HPE_OK)
        return request->body.failed ? -ENOMEM : -EBADMSG;
    buffer_consume(&connection->input, taken);
    return 0;
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static int request_fiber(void *userdata) {
    struct connection *connection = userdata;
    struct request *request = &connection->request;
    struct api *api = connection->api;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = request->route->handle(request, &error);

    request->cancelable = false;
    connection->fiber = NULL;
    if (--api->busy == 0)
        fiber_queue_wake_all(&api->idle);
    connection_reply(connection, r, &error);
    connection_process(connection);
    return 0;
}

static void request_dispatch(struct connection *connection) {
    struct request *request = &connection->request;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r;

    connection->api->requests++;
    if (request->route->flags & ROUTE_QUICK) {
        r = request->route->handle(request, &error);
        connection_reply(connection, r, &error);
        return;
    }
    connection->state = CONNECTION_BUSY;
    connection->deadline = DEADLINE_NONE;
    connection_arm(connection, 0);
    r = fiber_start(&connection->fiber, request->route->pattern, request_fiber, connection);
    if (r < 0) {
        connection_reply(connection, error_errno(&error, r, "starting the request"), &error);
        return;
    }
    fiber_unref(connection->fiber); /* it lives until its function returns, and the pointer is cleared there */
    connection->api->busy++;
}

/* What is over is refused before its body comes. */
static int check_length(const struct connection *connection, struct error *error) {
    const struct request *request = &connection->request;

    if (!request->has_body || (request->route->flags & ROUTE_UPLOAD))
        return 0;
    if (!request->route->body)
        return error_set(error, ERROR_BAD_REQUEST, "this request takes no body");
    if (connection->parser.content_length != UINT64_MAX && connection->parser.content_length > BODY_JSON_MAX)
        return error_set(error, ERROR_TOO_LARGE, "the body", "1MiB");
    return 0;
}

static int take_head(struct connection *connection) {
    struct request *request = &connection->request;
    _cleanup_error_ struct error error = ERROR_INIT;
    long length = head_check(&connection->head, connection->input.data, connection->input.size, &error);
    int r = length < 0 ? (int) length : 0;

    if (length == 0) {
        if (connection->input.size > 0 && connection->deadline == DEADLINE_NONE)
            connection->deadline = deadline_in(HEAD_SECONDS * CLOCK_SECOND);
        return 0;
    }
    request->api = connection->api;
    request->manager = connection->api->manager;
    request->connection = connection;
    request->actor = &connection->actor;
    request->method = "";
    if (r == 0)
        r = parse_head(connection, (size_t) length, &error);
    if (r < 0)
        request->keep_alive = false;
    if (r == 0)
        r = request_route(request, &error);
    if (r == 0)
        r = check_length(connection, &error);
    if (r < 0) {
        connection_reply(connection, r, &error);
        return 1;
    }
    if (!request->has_body || (request->route->flags & ROUTE_UPLOAD)) {
        r = request->has_body ? 0 : request_decode_body(request, &error);
        if (r < 0)
            connection_reply(connection, r, &error);
        else
            request_dispatch(connection);
        return 1;
    }
    if (request->expects_continue)
        (void) send(connection->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_DONTWAIT | MSG_NOSIGNAL);
    connection->state = CONNECTION_BODY;
    connection->deadline = deadline_in(BODY_SECONDS * CLOCK_SECOND);
    return 1;
}

static int take_body(struct connection *connection) {
    struct request *request = &connection->request;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = feed_body(connection);

    if (r == -ENOMEM)
        r = error_set(&error, ERROR_NO_MEMORY);
    else if (r < 0)
        r = error_set(&error, ERROR_BAD_REQUEST, "the body's chunks are malformed");
    else if (request->body.size > BODY_JSON_MAX)
        r = error_set(&error, ERROR_TOO_LARGE, "the body", "1MiB");
    else if (!request->complete)
        return 0;
    if (r == 0)
        r = request_decode_body(request, &error);
    if (r < 0)
        connection_reply(connection, r, &error);
    else
        request_dispatch(connection);
    return 1;
}

void connection_process(struct connection *connection) {
    if (connection->in_process)
        return;
    connection->in_process = true;
    for (;;) {
        int r = 0;

        if (connection->state == CONNECTION_HEAD)
            r = connection->input.size > 0 ? take_head(connection) : 0;
        else if (connection->state == CONNECTION_BODY)
            r = take_body(connection);
        if (r == 0)
            break;
    }
    connection->in_process = false;
    if (connection->state == CONNECTION_HEAD || connection->state == CONNECTION_BODY)
        connection_arm(connection, EPOLLIN);
}

void connection_finish(struct connection *connection) {
    struct request *request = &connection->request;
    bool next = request->keep_alive && request->complete && !connection->gone && !connection->api->stopping &&
                (!request->streamed || request->stream_ended);
    bool drain = !request->complete && !request->streamed && !connection->gone;

    request_done(request);
    if (next) {
        connection->state = CONNECTION_HEAD;
        connection->head = (struct head){ 0 };
        connection->fresh = false;
        connection->deadline = DEADLINE_NONE;
        if (connection->input.size == 0) {
            connection->deadline = deadline_in(IDLE_SECONDS * CLOCK_SECOND);
            if (connection->input.allocated > 4096)
                buffer_done(&connection->input);
        }
        return;
    }
    if (!drain) {
        connection_close(connection);
        return;
    }
    (void) shutdown(connection->fd, SHUT_WR);
    connection->state = CONNECTION_DRAIN;
    connection->deadline = deadline_in(DRAIN_SECONDS * CLOCK_SECOND);
    buffer_done(&connection->input);
    connection_arm(connection, EPOLLIN);
}

/* --- events ----------------------------------------------------------------------------------------------------- */

static void client_drain(struct connection *connection) {
    for (unsigned i = 0; i < 16; i++) {
        ssize_t n = recv(connection->fd, connection->api->scratch, SCRATCH_SIZE, MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0 || (connection->drained += (size_t) n) > DRAIN_MAX) {
            connection_close(connection);
            return;
        }
    }
}

static void client_input(struct connection *connection) {
    ssize_t n = recv(connection->fd, connection->api->scratch, SCRATCH_SIZE, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        connection_close(connection);
        return;
    }
    if (connection->state == CONNECTION_HEAD && connection->input.size == 0)
        connection->deadline = DEADLINE_NONE; /* set again if the head is not complete */
    buffer_add(&connection->input, connection->api->scratch, (size_t) n);
    if (connection->input.failed)
        connection_close(connection);
    else
        connection_process(connection);
}

static int on_io(sd_event_source *source _unused_, int fd _unused_, uint32_t events, void *userdata) {
    struct connection *connection = userdata;

    switch (connection->state) {
    case CONNECTION_HEAD:
    case CONNECTION_BODY:
        client_input(connection);
        break;
    case CONNECTION_DRAIN:
        client_drain(connection);
        break;
    case CONNECTION_WRITING:
        if (events & (EPOLLHUP | EPOLLERR)) {
            connection_close(connection);
            break;
        }
        connection_flush(connection);
        connection_process(connection);
        break;
    case CONNECTION_BUSY:
        connection_arm(connection, connection->armed & ~events & (EPOLLIN | EPOLLOUT));
        if (events & EPOLLIN)
            fiber_queue_wake_all(&connection->readers);
        if (events & EPOLLOUT)
            fiber_queue_wake_all(&connection->writers);
        if (events & (EPOLLHUP | EPOLLERR))
            client_vanished(connection);
        break;
    case CONNECTION_CLOSED:
        break;
    }
    return 0;
}

int connection_read_body(struct connection *connection, uint64_t deadline) {
    struct request *request = &connection->request;

    if (request->expects_continue) {
        int r = connection_write(connection, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        if (r < 0)
            return r;
        request->expects_continue = false;
    }
    while (connection->input.size == 0) {
        ssize_t n = recv(connection->fd, connection->api->scratch, SCRATCH_SIZE, MSG_DONTWAIT);
        int r;

        if (n == 0)
            return -ECONNRESET;
        if (n > 0) {
            buffer_add(&connection->input, connection->api->scratch, (size_t) n);
            if (connection->input.failed)
                return -ENOMEM;
            break;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        r = connection_wait(connection, EPOLLIN, deadline);
        if (r < 0)
            return r == -EPIPE ? -ECONNRESET : r;
    }
    return feed_body(connection);
}

void connection_end(struct connection *connection) {
    if (connection->state == CONNECTION_CLOSED)
        return;
    connection->request.keep_alive = false;
    if (connection->state != CONNECTION_BUSY)
        connection_close(connection);
    else if (connection->request.cancelable && connection->fiber)
        fiber_cancel(connection->fiber);
}

static void connection_expire(struct connection *connection) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct request *request = &connection->request;

    connection->deadline = DEADLINE_NONE;
    if (connection->state == CONNECTION_BODY ||
        (connection->state == CONNECTION_HEAD && connection->input.size > 0)) {
        request->api = connection->api;
        request->connection = connection;
        request->keep_alive = false;
        if (!request->method)
            request->method = "";
        (void) error_set(&error, ERROR_SLOW_REQUEST, connection->state == CONNECTION_BODY ? "15s" : "10s");
        connection_reply(connection, -ETIMEDOUT, &error);
        if (connection->state == CONNECTION_DRAIN)
            connection_close(connection);
        return;
    }
    connection_close(connection);
}

void connections_sweep(struct api *api, uint64_t now) {
    struct connection *next;

    for (struct connection *connection = api->connections; connection; connection = next) {
        next = connection->next;
        if (connection->state != CONNECTION_CLOSED && connection->deadline <= now)
            connection_expire(connection);
    }
}
