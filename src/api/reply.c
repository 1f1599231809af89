// SPDX-License-Identifier: GPL-2.0-or-later
/* Writing replies: whole ones as the client takes them, streamed ones from the handler's fiber. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "api/connection-internal.h"
#include "api/route.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/log.h"
#include "manager/operation.h"

#define LENGTH_CHUNKED SIZE_MAX
#define LENGTH_NONE (SIZE_MAX - 1)
#define READ_SECONDS 30 /* an upload that brings nothing for so long is dropped */
#define READ_RATE 128   /* bytes that pay for a further second of waiting */

static const char *status_text(unsigned status) {
    static const struct {
        unsigned status;
        const char *text;
    } texts[] = {
        { 101, "Switching Protocols" }, { 200, "OK" }, { 201, "Created" }, { 202, "Accepted" },
        { 204, "No Content" }, { 304, "Not Modified" }, { 400, "Bad Request" }, { 401, "Unauthorized" },
        { 403, "Forbidden" }, { 404, "Not Found" }, { 405, "Method Not Allowed" }, { 408, "Request Timeout" },
        { 409, "Conflict" }, { 412, "Precondition Failed" }, { 413, "Content Too Large" },
        { 415, "Unsupported Media Type" }, { 417, "Expectation Failed" }, { 421, "Misdirected Request" },
        { 422, "Unprocessable Content" }, { 426, "Upgrade Required" },
        { 431, "Request Header Fields Too Large" }, { 500, "Internal Server Error" }, { 502, "Bad Gateway" },
        { 503, "Service Unavailable" }, { 504, "Gateway Timeout" }, { 507, "Insufficient Storage" },
    };

    for (size_t i = 0; i < ELEMENTS(texts); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "Status";
}

static const char *date_now(struct api *api) {
    uint64_t second = clock_wall() / CLOCK_SECOND;

    if (second != api->date_second) {
        time_t time = (time_t) second;
        struct tm tm;
        strftime(api->date, sizeof(api->date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&time, &tm));
        api->date_second = second;
    }
    return api->date;
}

void connection_head(struct connection *connection, size_t length, struct buffer *out) {
    struct request *request = &connection->request;
    struct reply *reply = &request->reply;
    unsigned status = reply->status ? reply->status : 200;

    buffer_addf(out, "HTTP/1.1 %u %s\r\nDate: %s\r\n", status, status_text(status), date_now(connection->api));
    if (status != 101) {
        if (status != 204 && status != 304)
            buffer_addf(out, "Content-Type: %s\r\n", reply->type ? reply->type : "application/json");
        buffer_add_text(out, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n");
        if (length == LENGTH_CHUNKED)
            buffer_add_text(out, "Transfer-Encoding: chunked\r\n");
        else if (length != LENGTH_NONE && status != 204 && status != 304)
            buffer_addf(out, "Content-Length: %zu\r\n", length);
        if (!request->keep_alive)
            buffer_add_text(out, "Connection: close\r\n");
    }
    buffer_add(out, reply->headers.data, reply->headers.size);
    buffer_add_text(out, "\r\n");
}

void connection_flush(struct connection *connection) {
    while (connection->output.size > 0) {
        ssize_t n = send(connection->fd, connection->output.data, connection->output.size,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            connection_arm(connection, EPOLLOUT);
            return;
        }
        if (n < 0) {
            connection_close(connection);
            return;
        }
        buffer_consume(&connection->output, (size_t) n);
        connection->deadline = deadline_in(WRITE_SECONDS * CLOCK_SECOND);
    }
    if (connection->output.allocated > 4096)
        buffer_done(&connection->output);
    connection_finish(connection);
}

/* Head and body in one call; what the socket does not take waits in `output`. */
static void send_reply(struct connection *connection, const char *text, size_t size) {
    struct buffer *output = &connection->output;
    struct iovec parts[2];
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
    ssize_t n;

    buffer_reset(output);
    connection_head(connection, size, output);
    if (output->failed) {
        connection_close(connection);
        return;
    }
    if (connection->request.head_only)
        size = 0;
    parts[0] = (struct iovec){ output->data, output->size };
    parts[1] = (struct iovec){ (void *) text, size };
    n = sendmsg(connection->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        connection_close(connection);
        return;
    }
    if (n < 0)
        n = 0;
    connection->state = CONNECTION_WRITING;
    connection->deadline = deadline_in(WRITE_SECONDS * CLOCK_SECOND);
    if ((size_t) n == output->size + size) {
        buffer_reset(output);
        connection_finish(connection);
        return;
    }
    if ((size_t) n >= output->size) {
        size_t taken = (size_t) n - output->size;
        buffer_reset(output);
        buffer_add(output, text + taken, size - taken);
    } else {
        buffer_consume(output, (size_t) n);
        buffer_add(output, text, size);
    }
    if (output->failed)
        connection_close(connection);
    else
        connection_flush(connection);
}

static void log_failure(const struct request *request, const struct error *error) {
    if (error_http_status(error->code) >= 500 && error->code != ERROR_NO_DAEMON) {
        _cleanup_free_ char *sentence = error_sentence(error, LANGUAGE_ENGLISH);
        log_warning("%s %s: %s", request->method, request->path ? request->path : "", sentence ? sentence : "");
    }
}

void connection_reply(struct connection *connection, int r, struct error *error) {
    struct request *request = &connection->request;
    struct reply *reply = &request->reply;

    if (request->streamed) {
        if (r < 0 && error_is_set(error))
            log_failure(request, error);
        if (r < 0)
            request->stream_ended = false;
        connection_finish(connection);
        return;
    }
    if (connection->gone) {
        connection_close(connection);
        return;
    }
    if (r < 0) {
        if (!error_is_set(error))
            (void) error_errno(error, r, "the request");
        log_failure(request, error);
        reply_problem(request, error, NULL);
    }
    if (!request->complete)
        request->keep_alive = false; /* the rest of its body is in the way of another request */
    if (reply->body.failed || reply->headers.failed) {
        connection_close(connection);
        return;
    }
    if (reply->text)
        send_reply(connection, reply->text, reply->text_size);
    else
        send_reply(connection, reply->body.data ? reply->body.data : "", reply->body.size);
}

/* --- for handlers ------------------------------------------------------------------------------------------------ */

struct emitter reply_emitter(struct request *request) {
    return (struct emitter) EMITTER_INIT(&request->reply.body);
}

void reply_header(struct request *request, const char *name, const char *value) {
    if (strpbrk(value, "\r\n"))
        return;
    buffer_addf(&request->reply.headers, "%s: %s\r\n", name, value);
}

/* "not-found" -> "not found" */
static void emit_title(const char *wire, struct emitter *emitter) {
    char title[64];
    size_t i;

    for (i = 0; wire[i] && i < sizeof(title) - 1; i++)
        title[i] = wire[i] == '-' ? ' ' : wire[i];
    title[i] = '\0';
    emit_key_text(emitter, "title", title);
}

void problem_emit(const struct error *error, const char *path, const struct operation *operation,
                  struct emitter *emitter) {
    _cleanup_free_ char *sentence = error_sentence(error, LANGUAGE_ENGLISH);
    const char *wire = error_wire(error->code);
    char type[96] = "about:polder/";

    strncat(type, wire, sizeof(type) - strlen(type) - 1);
    emit_object(emitter);
    emit_key_text(emitter, "type", type);
    emit_title(wire, emitter);
    emit_key_integer(emitter, "status", error_http_status(error->code));
    emit_key_text(emitter, "code", wire);
    emit_key_text(emitter, "detail", sentence);
    if (error->subject)
        emit_key_text(emitter, "subject", error->subject);
    emit_key(emitter, "parameters");
    emit_array(emitter);
    for (unsigned i = 0; i < ERROR_PARAMETERS && error->parameters[i]; i++)
        emit_text(emitter, error->parameters[i]);
    emit_array_end(emitter);
    if (path)
        emit_key_text(emitter, "instance", path);
    if (operation) {
        emit_key(emitter, "operation");
        operation_emit(operation, NULL, emitter);
    }
    emit_object_end(emitter);
}

void reply_problem(struct request *request, const struct error *error, const struct operation *operation) {
    struct reply *reply = &request->reply;
    struct emitter emitter = reply_emitter(request);

    buffer_reset(&reply->body);
    reply->text = NULL;
    reply->status = (unsigned) error_http_status(error->code);
    reply->type = "application/problem+json";
    problem_emit(error, request->path, operation, &emitter);
}

void request_cancelable(struct request *request, bool cancelable) {
    request->cancelable = cancelable;
    if (cancelable && (request->connection->gone || request->api->stopping))
        fiber_cancel(fiber_current());
}

/* A client that sends a byte now and then would keep its connection, and what it uploads to, for ever: the waits are
 * counted together, and only what comes allows more of them. What the other end of the upload takes costs nothing. */
static uint64_t patience(const struct request *request) {
    uint64_t allowed = (READ_SECONDS + request->body_received / READ_RATE) * CLOCK_SECOND;
    uint64_t left = allowed > request->waited ? allowed - request->waited : 0;

    return left < READ_SECONDS * CLOCK_SECOND ? left : READ_SECONDS * CLOCK_SECOND;
}

long request_read(struct request *request, void *data, size_t size, struct error *error) {
    size_t have;

    while (request->body.size == 0) {
        uint64_t begun = clock_now();
        int r;

        if (request->complete)
            return 0;
        r = connection_read_body(request->connection, deadline_in(patience(request)));
        request->waited += clock_now() - begun;
        if (r == -ETIMEDOUT)
            return error_set(error, ERROR_SLOW_REQUEST, "30s");
        if (r == -ECANCELED || r == -ENOMEM)
            return error_errno(error, r, "reading the request");
        if (r < 0)
            return error_set(error, ERROR_BAD_REQUEST, "its body ends early or is malformed");
    }
    have = request->body.size < size ? request->body.size : size;
    memcpy(data, request->body.data, have);
    buffer_consume(&request->body, have);
    return (long) have;
}

int request_stream_begin(struct request *request, const char *type) {
    _cleanup_buffer_ struct buffer head = BUFFER_INIT;
    size_t length = request->is_old ? LENGTH_NONE : LENGTH_CHUNKED;

    if (!request->complete)
        request->keep_alive = false;
    request->reply.type = type;
    connection_head(request->connection, length, &head);
    if (head.failed)
        return -ENOMEM;
    request->streamed = true;
    return connection_write(request->connection, head.data, head.size);
}

int request_stream_write(struct request *request, const void *data, size_t size) {
    char start[32];
    int r, length;

    if (size == 0)
        return 0;
    if (request->is_old)
        return connection_write(request->connection, data, size);
    length = snprintf(start, sizeof(start), "%zx\r\n", size);
    r = connection_write(request->connection, start, (size_t) length);
    if (r == 0)
        r = connection_write(request->connection, data, size);
    return r < 0 ? r : connection_write(request->connection, "\r\n", 2);
}

int request_stream_end(struct request *request) {
    int r = request->is_old ? 0 : connection_write(request->connection, "0\r\n\r\n", 5);

    request->stream_ended = r == 0;
    return r;
}
