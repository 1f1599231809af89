// SPDX-License-Identifier: GPL-2.0-or-later
/* exec, attach, console and vnc: WebSockets; logs: lines of JSON. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "api/route.h"
#include "api/socket.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/text.h"
#include "drivers/log.h"
#include "drivers/stream.h"
#include "manager/manager.h"
#include "manager/operation.h"

#define REMOVE_SECONDS 60
#define FOLLOW_MS 100
#define LOG_BATCH (32 * 1024)

static inline void stream_freep(struct stream **stream) {
    if (*stream)
        stream_free(*stream);
}
#define _cleanup_stream_ _cleanup_(stream_freep)

/* A missing instance is an ordinary 404, told before the connection changes its protocol. */
static int check_instance(struct request *request, struct error *error) {
    if (manager_instance_text(request->manager, request->actor, request->parameters[0], NULL, NULL))
        return 0;
    return error_set(error, ERROR_NOT_FOUND, "instance", request->parameters[0]);
}

static int finish_stream(struct socket *socket, struct stream *stream, struct error *error) {
    int code = 0;
    int r = socket_pump(socket, stream, &code, error);

    socket_finish(socket, r, code, error);
    return r;
}

/* --- exec --------------------------------------------------------------------------------------------------------- */

struct exec_body {
    char **command, **environment;
    char *user, *working_directory;
    bool tty, stdin_open;
    int64_t rows, columns;
};
#define EXEC_FIELD(wire, kind, member, most, sentence)                                                       \
    { .name = wire, .type = kind, .offset = offsetof(struct exec_body, member), .change = CHANGE_LIVE,          \
      .maximum = (most), .help = (sentence) }
static const struct field exec_body_fields[] = {
    { .name = "command", .type = FIELD_LIST, .offset = offsetof(struct exec_body, command), .change = CHANGE_LIVE,
      .lines = true, .required = true, .help = "Program and arguments." },
    { .name = "environment", .type = FIELD_LIST, .offset = offsetof(struct exec_body, environment),
      .change = CHANGE_LIVE, .lines = true, .help = "Added to the instance's: \"A=b\"." },
    EXEC_FIELD("user", FIELD_TEXT, user, 256, "User, with an optional group: name, uid, uid:gid."),
    EXEC_FIELD("working_directory", FIELD_TEXT, working_directory, 4096, "Where it starts."),
    EXEC_FIELD("tty", FIELD_BOOLEAN, tty, 0, "Give it a terminal."),
    EXEC_FIELD("stdin", FIELD_BOOLEAN, stdin_open, 0, "Standard input is sent."),
    EXEC_FIELD("rows", FIELD_INTEGER, rows, 65535, "First height of the terminal."),
    EXEC_FIELD("columns", FIELD_INTEGER, columns, 65535, "First width of the terminal."),
};
static const struct table exec_body_table = TABLE("exec", struct exec_body, exec_body_fields);

/* What has no name, or no value, is a program's argument to some of those who set it. It is not told: it may be secret. */
static int check_environment(char *const *environment, struct error *error) {
    for (char *const *pair = environment; pair && *pair; pair++)
        if (**pair == '=' || !strchr(*pair, '='))
            return error_set(error, ERROR_BAD_VALUE, "environment", "one of its entries", "each is NAME=VALUE");
    return 0;
}

static int exec_decode(struct socket *socket, struct exec_body *body, struct error *error) {
    _cleanup_json_ struct json_object *json = NULL;
    int r = socket_receive_json(socket, &json, error);

    if (r == 0)
        r = table_decode(&exec_body_table, json, DECODE_REPLACE, body, error);
    if (r == 0 && list_count(body->command) == 0)
        r = error_set(error, ERROR_MISSING_FIELD, "command");
    return r == 0 ? check_environment(body->environment, error) : r;
}

static int exec_start(struct request *request, const struct exec_body *body, struct stream **ret,
                      struct error *error) {
    struct exec_request exec = {
        .arguments = body->command, .environment = body->environment, .user = body->user,
        .working_directory = body->working_directory, .tty = body->tty, .stdin_open = body->stdin_open,
        .terminal = { .rows = (uint16_t) body->rows, .columns = (uint16_t) body->columns },
    };

    return manager_instance_exec(request->manager, request->actor, request->parameters[0], &exec, ret, error);
}

static int handle_exec(struct request *request, struct error *error) {
    _cleanup_socket_ struct socket socket = { 0 };
    _cleanup_stream_ struct stream *stream = NULL;
    struct exec_body body = { 0 };
    int r = check_instance(request, error);

    if (r == 0)
        r = socket_open(&socket, request, SOCKET_PROTOCOL, error);
    if (r < 0)
        return r;
    r = table_init(&exec_body_table, &body) < 0 ? error_set(error, ERROR_NO_MEMORY, "") : 0;
    if (r == 0)
        r = exec_decode(&socket, &body, error);
    if (r == 0)
        r = exec_start(request, &body, &stream, error);
    table_done(&exec_body_table, &body);
    if (r < 0)
        socket_finish(&socket, r, 0, error);
    return r < 0 ? r : finish_stream(&socket, stream, error);
}

/* --- attach, console, vnc -------------------------------------------------------------------------------------- */

struct attach_query {
    bool start;
};
static const struct field attach_query_fields[] = {
    { .name = "start", .type = FIELD_BOOLEAN, .offset = offsetof(struct attach_query, start), .change = CHANGE_LIVE,
      .help = "Attach, then start it: no output is missed. The first message is then {\"rows\",\"columns\"} or {}." },
};
static const struct table attach_query_table = TABLE("attach-query", struct attach_query, attach_query_fields);

/* Does its spec say that it goes when it ends? */
static bool is_removed_at_end(struct request *request) {
    _cleanup_json_ struct json_object *json = NULL;
    size_t size = 0;
    const char *text = manager_instance_text(request->manager, request->actor, request->parameters[0], &size, NULL);

    return text && json_parse(text, size, &json, NULL) == 0 && json_boolean(json_member(json, "spec"), "remove", false);
}

static int attach_start(struct socket *socket, struct stream **ret, struct error *error) {
    static const char *const members[] = { "rows", "columns", NULL };
    struct request *request = socket->request;
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_operation_ struct operation *operation = NULL;
    struct exec_terminal terminal = { 0 };
    struct action_options options = { .timeout_ms = -1, .ret_stream = ret };
    int r = socket_receive_json(socket, &json, error);

    if (r == 0)
        r = json_only(json, "the first message", members, error);
    if (r < 0)
        return r;
    if (json_has(json, "rows")) {
        terminal.rows = (uint16_t) json_integer(json, "rows", 24);
        terminal.columns = (uint16_t) json_integer(json, "columns", 80);
        options.terminal = &terminal;
    }
    return manager_instance_action(request->manager, request->actor, request->parameters[0], ACTION_START, &options,
                                   &operation, error);
}

/* `run --rm` sees its instance gone when it ends. */
static void wait_removed(struct request *request) {
    _cleanup_buffer_ struct buffer ignored = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&ignored);

    (void) manager_instance_wait(request->manager, request->actor, request->parameters[0], "removed",
                                 deadline_in(REMOVE_SECONDS * CLOCK_SECOND), &emitter, NULL);
}

static int handle_attach(struct request *request, struct error *error) {
    const struct attach_query *query = request->query;
    _cleanup_socket_ struct socket socket = { 0 };
    _cleanup_stream_ struct stream *stream = NULL;
    bool removed = false;
    int code = 0, r = check_instance(request, error);

    if (r == 0)
        r = socket_open(&socket, request, SOCKET_PROTOCOL, error);
    if (r < 0)
        return r;
    if (query->start) {
        removed = is_removed_at_end(request);
        r = attach_start(&socket, &stream, error);
    } else {
        r = manager_instance_attach(request->manager, request->actor, request->parameters[0], &stream, error);
    }
    if (r == 0)
        r = socket_pump(&socket, stream, &code, error);
    if (r == 0 && removed)
        wait_removed(request);
    socket_finish(&socket, r, code, error);
    return r;
}

static int handle_console(struct request *request, struct error *error) {
    _cleanup_socket_ struct socket socket = { 0 };
    _cleanup_stream_ struct stream *stream = NULL;
    int r = manager_instance_console(request->manager, request->actor, request->parameters[0], &stream, error);

    if (r == 0)
        r = socket_open(&socket, request, SOCKET_PROTOCOL, error);
    return r < 0 ? r : finish_stream(&socket, stream, error);
}

/* A descriptor as a stream: VNC. */
struct fd_stream {
    struct stream stream;
    int fd, write_fd; /* two numbers, since one fiber may wait to read and another to write */
};

static long fd_stream_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                           uint64_t deadline) {
    *ret_channel = STREAM_OUTPUT;
    return fiber_read(CONTAINER_OF(stream, struct fd_stream, stream)->fd, data, size, deadline);
}

static int fd_stream_write(struct stream *stream, const void *data, size_t size, uint64_t deadline) {
    return fiber_write(CONTAINER_OF(stream, struct fd_stream, stream)->write_fd, data, size, deadline);
}

static void fd_stream_free(struct stream *stream) {
    struct fd_stream *fd_stream = CONTAINER_OF(stream, struct fd_stream, stream);

    close_fd(fd_stream->fd);
    close_fd(fd_stream->write_fd);
    free(fd_stream);
}

static int fd_stream_new(int fd_take, struct stream **ret) {
    static const struct stream_operations operations = { .read = fd_stream_read, .write = fd_stream_write,
                                                         .free = fd_stream_free };
    _cleanup_close_ int fd = fd_take;
    struct fd_stream *stream = calloc(1, sizeof(*stream));

    if (!stream)
        return -ENOMEM;
    stream->stream.operations = &operations;
    stream->write_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (stream->write_fd < 0) {
        free(stream);
        return -errno;
    }
    stream->fd = STEAL_FD(fd);
    *ret = &stream->stream;
    return 0;
}

static int handle_vnc(struct request *request, struct error *error) {
    _cleanup_socket_ struct socket socket = { 0 };
    _cleanup_stream_ struct stream *stream = NULL;
    int fd = -EBADF;
    int r = manager_instance_vnc(request->manager, request->actor, request->parameters[0], &fd, error);

    if (r == 0) {
        r = fd_stream_new(fd, &stream);
        if (r < 0)
            return error_errno(error, r, "the VNC connection");
        r = socket_open(&socket, request, SOCKET_PROTOCOL_BINARY, error);
        socket.binary = true;
    }
    return r < 0 ? r : finish_stream(&socket, stream, error);
}

/* --- logs -------------------------------------------------------------------------------------------------------- */

struct logs_query {
    int64_t tail;
    bool follow;
};
static const struct field logs_query_fields[] = {
    { .name = "tail", .type = FIELD_INTEGER, .offset = offsetof(struct logs_query, tail), .change = CHANGE_LIVE,
      .minimum = (uint64_t) -1, .maximum = 1000000000, .initial = "-1", .help = "Only the last so many lines; -1: all." },
    { .name = "follow", .type = FIELD_BOOLEAN, .offset = offsetof(struct logs_query, follow), .change = CHANGE_LIVE,
      .help = "Go on with what comes, until the instance ends." },
};
static const struct table logs_query_table = TABLE("logs-query", struct logs_query, logs_query_fields);

static inline void log_reader_freep(struct log_reader **reader) {
    if (*reader)
        log_reader_free(*reader);
}

static void log_emit(const struct log_entry *entry, struct buffer *out) {
    struct emitter emitter = EMITTER_INIT(out);

    emit_object(&emitter);
    emit_key_text(&emitter, "time", entry->time);
    emit_key_text(&emitter, "stream", entry->channel == STREAM_ERRORS ? "stderr" : "stdout");
    emit_key(&emitter, "text");
    emit_text_sized(&emitter, entry->text, entry->size);
    emit_key_boolean(&emitter, "partial", entry->partial);
    emit_object_end(&emitter);
    buffer_add_char(out, '\n');
}

/* All that is there now. */
static int send_log(struct request *request, struct log_reader *reader) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct log_entry entry;
    int r = 0, more;

    do {
        while ((more = log_reader_next(reader, &entry)) > 0 && out.size < LOG_BATCH)
            log_emit(&entry, &out);
        if (more > 0)
            log_emit(&entry, &out);
        if (out.failed)
            return -ENOMEM;
        r = request_stream_write(request, out.data, out.size);
        buffer_reset(&out);
    } while (r == 0 && more > 0);
    return r < 0 ? r : more;
}

static int handle_logs(struct request *request, struct error *error) {
    const struct logs_query *query = request->query;
    _cleanup_(log_reader_freep) struct log_reader *reader = NULL;
    _cleanup_free_ char *path = NULL;
    int r = manager_instance_log(request->manager, request->actor, request->parameters[0], &path, error);

    if (r < 0)
        return r;
    r = log_reader_open(path, query->tail, &reader);
    if (r == -EAGAIN)
        return error_set(error, ERROR_BUSY, "the storage", "too much waits for it already");
    if (r < 0)
        return error_errno(error, r, "opening the log");
    request_cancelable(request, true);
    r = request_stream_begin(request, "application/x-ndjson");
    for (bool active = query->follow; r == 0;) {
        /* Asked before reading: what came before the end is not missed. */
        active = active && manager_instance_is_active(request->manager, request->parameters[0]);
        r = send_log(request, reader);
        if (r == 0 && !active)
            return request_stream_end(request);
        if (r == 0)
            r = fiber_sleep(FOLLOW_MS * CLOCK_MILLISECOND);
    }
    return r;
}

const struct route stream_routes[] = {
    { "GET", "/v1/instances/{name}/exec", handle_exec, PERMISSION_EXEC,
      "Run a command inside; the first message is its description", NULL, &exec_body_table, NULL, ROUTE_SOCKET },
    { "GET", "/v1/instances/{name}/attach", handle_attach, PERMISSION_EXEC, "Attach to the main process",
      &attach_query_table, NULL, NULL, ROUTE_SOCKET },
    { "GET", "/v1/instances/{name}/console", handle_console, PERMISSION_EXEC, "Attach to the serial console", NULL,
      NULL, NULL, ROUTE_SOCKET },
    { "GET", "/v1/instances/{name}/vnc", handle_vnc, PERMISSION_EXEC, "The graphical console, as raw RFB bytes", NULL,
      NULL, NULL, ROUTE_SOCKET },
    { "GET", "/v1/instances/{name}/logs", handle_logs, PERMISSION_LOGS, "Read the log, one JSON object a line",
      &logs_query_table, NULL, "application/x-ndjson", ROUTE_STREAM },
    { 0 },
};
