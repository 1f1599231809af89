// SPDX-License-Identifier: GPL-2.0-or-later
#include "api/operations.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "api/route.h"
#include "base/fiber.h"
#include "base/text.h"
#include "manager/events.h"
#include "manager/manager.h"

#define WAIT_MAX_MS (3600 * 1000)
#define LIST_MAX 10000
#define HEARTBEAT_SECONDS 15
#define EVENTS_BATCH (32 * 1024)

static const struct field wait_query_fields[] = {
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct wait_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when the operation is over, or after this long (\"30s\", or seconds)." },
};
const struct table wait_query_table = TABLE("wait", struct wait_query, wait_query_fields);

/* Waits in which a client that leaves ends the wait, and nothing else. */
static int wait_for(struct request *request, struct operation *operation, uint64_t revision, uint64_t wait_ms) {
    int r;

    request_cancelable(request, true);
    r = operation_wait(operation, revision, deadline_in(wait_ms * CLOCK_MILLISECOND));
    request_cancelable(request, false);
    return r;
}

int reply_operation(struct request *request, struct operation *operation, uint64_t wait_ms, struct error *error) {
    struct emitter emitter = reply_emitter(request);
    char location[96];
    int r;

    if (wait_ms > 0 && operation->state == OPERATION_RUNNING) {
        r = wait_for(request, operation, UINT64_MAX, wait_ms);
        if (r < 0 && r != -ETIMEDOUT)
            return r;
    }
    if (wait_ms > 0 && operation->state == OPERATION_CANCELED && !error_is_set(&operation->error))
        return error_set(error, ERROR_CANCELED, operation->type);
    if (wait_ms > 0 && error_is_set(&operation->error)) {
        reply_problem(request, &operation->error, operation);
        return 0;
    }
    snprintf(location, sizeof(location), "/v1/operations/%s", operation->id);
    reply_header(request, "Location", location);
    request->reply.status = operation->state == OPERATION_RUNNING || wait_ms == 0 ? 202 : 200;
    operation_emit(operation, request->actor, &emitter);
    return 0;
}

/* --- /v1/operations ------------------------------------------------------------------------------------------------ */

struct operation_query {
    uint64_t wait;
    int64_t revision;
};
static const struct field operation_query_fields[] = {
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct operation_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when it is over or has changed, or after this long." },
    { .name = "revision", .type = FIELD_INTEGER, .offset = offsetof(struct operation_query, revision),
      .change = CHANGE_LIVE, .minimum = 0, .maximum = INT64_MAX, .initial = "0",
      .help = "With wait: answer as soon as its revision is greater than this; 0 waits for the end." },
};
static const struct table operation_query_table = TABLE("operation-query", struct operation_query,
                                                        operation_query_fields);

struct operations_query {
    int state;
    char *type, *object, *after;
    int64_t limit;
};
static const char *const list_states[] = { "all", "running", "done", "failed", "canceled", NULL };
#define LIST_TEXT(wire, member, most, sentence)                                                              \
    { .name = wire, .type = FIELD_TEXT, .offset = offsetof(struct operations_query, member), .change = CHANGE_LIVE, \
      .maximum = (most), .help = (sentence) }
static const struct field operations_query_fields[] = {
    { .name = "state", .type = FIELD_ENUM, .offset = offsetof(struct operations_query, state), .change = CHANGE_LIVE,
      .names = list_states, .initial = "all", .help = "Only those in this state." },
    LIST_TEXT("type", type, 64, "Only those whose type starts with this: instance, instance.start, image."),
    LIST_TEXT("object", object, 255, "Only those of this object: instances/web-1, or web-1."),
    LIST_TEXT("continue", after, 64, "Go on after this operation: `continue` of the page before."),
    { .name = "limit", .type = FIELD_INTEGER, .offset = offsetof(struct operations_query, limit), .change = CHANGE_LIVE,
      .minimum = 0, .maximum = LIST_MAX, .initial = "0", .help = "At most so many; 0: all." },
};
static const struct table operations_query_table = TABLE("operations-query", struct operations_query,
                                                         operations_query_fields);

static bool is_of(const struct operation *operation, const char *object) {
    const char *slash = operation->object ? strchr(operation->object, '/') : NULL;

    return text_equal(operation->object, object) || (slash && text_equal(slash + 1, object));
}

static bool is_wanted(const struct operation *operation, const struct operations_query *query) {
    if (query->state > 0 && !text_equal(list_states[query->state], operation_state_name(operation->state)))
        return false;
    if (query->type && !text_starts(operation->type, query->type))
        return false;
    return !query->object || is_of(operation, query->object);
}

/* The place behind the last operation of the page before. */
static int list_position(struct operations *operations, const char *after, uint64_t *ret, struct error *error) {
    const struct operation *operation;

    *ret = 0;
    while (after && (operation = operations_next(operations, ret)))
        if (text_equal(operation->id, after))
            return 0;
    return after ? error_set(error, ERROR_BAD_VALUE, "continue", after,
                             "it is not what a page before gave, or that operation is forgotten by now")
                 : 0;
}

static int handle_operations(struct request *request, struct error *error) {
    struct operations *operations = manager_operations(request->manager);
    const struct operations_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    const struct operation *operation;
    const char *last = NULL;
    int64_t shown = 0;
    uint64_t position;
    int r = list_position(operations, query->after, &position, error);

    if (r < 0)
        return r;
    emit_object(&emitter);
    emit_key(&emitter, "operations");
    emit_array(&emitter);
    while ((operation = operations_next(operations, &position))) {
        if (!is_wanted(operation, query))
            continue;
        if (query->limit > 0 && shown == query->limit)
            break;
        operation_emit(operation, request->actor, &emitter);
        last = operation->id;
        shown++;
    }
    emit_array_end(&emitter);
    emit_key_text(&emitter, "continue", operation ? last : NULL);
    emit_object_end(&emitter);
    return 0;
}

static struct operation *find_operation(struct request *request, struct error *error) {
    const char *id = request->parameters[0];
    struct operation *operation = uuid_is_valid(id) ? operations_find(manager_operations(request->manager), id) : NULL;

    if (!operation)
        (void) error_set(error, ERROR_NOT_FOUND, "operation", id);
    return operation ? operation_ref(operation) : NULL;
}

static int handle_operation(struct request *request, struct error *error) {
    const struct operation_query *query = request->query;
    _cleanup_operation_ struct operation *operation = find_operation(request, error);
    struct emitter emitter = reply_emitter(request);
    uint64_t revision = query->revision > 0 ? (uint64_t) query->revision : UINT64_MAX;

    if (!operation)
        return -ENOENT;
    if (query->wait > 0 && operation->state == OPERATION_RUNNING) {
        int r = wait_for(request, operation, revision, query->wait);
        if (r < 0 && r != -ETIMEDOUT)
            return r;
    }
    operation_emit(operation, request->actor, &emitter);
    return 0;
}

static int handle_operation_cancel(struct request *request, struct error *error) {
    const struct wait_query *query = request->query;
    _cleanup_operation_ struct operation *operation = find_operation(request, error);
    struct emitter emitter = reply_emitter(request);

    if (!operation)
        return -ENOENT;
    operation_cancel(operation);
    if (query->wait > 0) {
        int r = wait_for(request, operation, UINT64_MAX, query->wait);
        if (r < 0 && r != -ETIMEDOUT)
            return r;
    }
    request->reply.status = operation->state == OPERATION_RUNNING ? 202 : 200;
    operation_emit(operation, request->actor, &emitter);
    return 0;
}

/* --- /v1/events ---------------------------------------------------------------------------------------------------- */

struct events_query {
    char *since;
    char *type;
};
static const struct field events_query_fields[] = {
    { .name = "since", .type = FIELD_TEXT, .offset = offsetof(struct events_query, since), .change = CHANGE_LIVE,
      .help = "Resume after the event with this id; 0 is the oldest that is kept. Default: only new ones." },
    { .name = "type", .type = FIELD_TEXT, .offset = offsetof(struct events_query, type), .change = CHANGE_LIVE,
      .maximum = 64, .help = "Only events whose type starts with this." },
};
static const struct table events_query_table = TABLE("events-query", struct events_query, events_query_fields);

/* Where the reader wants to go on: the query, or what a browser's EventSource sends after a break. */
static int events_start(struct request *request, uint64_t *ret, struct error *error) {
    const struct events_query *query = request->query;
    const char *since = query->since ? query->since : request_header(request, "Last-Event-ID");

    if (!since) {
        *ret = events_last(manager_events(request->manager));
        return 0;
    }
    if (text_parse_u64(since, ret) < 0)
        return error_set(error, ERROR_BAD_VALUE, "since", since, "it must be the id of an event");
    return 0;
}

/* Everything that is there now, up to a batch, as server-sent events. */
static void events_collect(struct events *events, const char *prefix, uint64_t *after, struct buffer *out) {
    const char *type, *text;
    uint64_t id, missed;

    while (out->size < EVENTS_BATCH && events_next(events, *after, &id, &type, &text, &missed) > 0) {
        if (missed > 0 && *after > 0) /* 0 asks for what there is */
            buffer_addf(out, "event: lagged\ndata: {\"missed\":%llu}\n\n", (unsigned long long) missed);
        if (!prefix || text_starts(type, prefix))
            buffer_addf(out, "id: %llu\nevent: %s\ndata: %s\n\n", (unsigned long long) id, type, text);
        *after = id;
    }
}

/* The ring in the manager is the bound: a client that does not read makes this fiber wait, and on its return it learns
 * how many events it missed. */
static int handle_events(struct request *request, struct error *error) {
    const struct events_query *query = request->query;
    struct events *events = manager_events(request->manager);
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    uint64_t after = 0;
    int r = events_start(request, &after, error);

    if (r < 0)
        return r;
    request_cancelable(request, true);
    r = request_stream_begin(request, "text/event-stream");
    buffer_add_text(&out, ": events\n\n");
    while (r == 0) {
        events_collect(events, query->type, &after, &out);
        if (out.failed)
            return -ENOMEM;
        if (out.size > 0) {
            r = request_stream_write(request, out.data, out.size);
            buffer_reset(&out);
            continue;
        }
        r = events_wait(events, after, deadline_in(HEARTBEAT_SECONDS * CLOCK_SECOND));
        if (r == -ETIMEDOUT) {
            buffer_add_text(&out, ": heartbeat\n\n");
            r = 0;
        }
    }
    return r;
}

const struct route operation_routes[] = {
    { "GET", "/v1/operations", handle_operations, PERMISSION_VIEW, "List operations, newest first", &operations_query_table,
      NULL, "OperationList", ROUTE_QUICK },
    { "GET", "/v1/operations/{id}", handle_operation, PERMISSION_VIEW, "Show an operation, or wait for it",
      &operation_query_table, NULL, "Operation", 0 },
    { "DELETE", "/v1/operations/{id}", handle_operation_cancel, PERMISSION_OPERATE, "Cancel an operation",
      &wait_query_table, NULL, "Operation", ROUTE_OPERATION },
    { "GET", "/v1/events", handle_events, PERMISSION_VIEW, "Follow what happens, as server-sent events",
      &events_query_table, NULL, "text/event-stream", ROUTE_STREAM },
    { 0 },
};
