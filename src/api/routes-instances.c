// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "api/operations.h"
#include "api/route.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/text.h"
#include "manager/manager.h"

#define WAIT_MAX_MS (3600 * 1000)
#define LIST_MAX 10000

/* --- what requests carry --------------------------------------------------------------------------------------------- */

struct list_query {
    char *kind, *state, *label, *name, *fields, *after;
    bool deleted;
    int64_t limit;
};

static const char *check_cursor(const char *text) {
    return name_is_valid(text) ? NULL : "it is not what a page before gave";
}

#define LIST_TEXT(wire, member, most, sentence)                                                              \
    { .name = wire, .type = FIELD_TEXT, .offset = offsetof(struct list_query, member), .change = CHANGE_LIVE,   \
      .maximum = (most), .help = (sentence) }
static const struct field list_query_fields[] = {
    LIST_TEXT("kind", kind, 16, "Only this kind: container, microvm, vm."),
    LIST_TEXT("state", state, 16, "Only those in this state."),
    LIST_TEXT("label", label, 512, "Only those with this label: key, or key=value; taken literally."),
    LIST_TEXT("name", name, 63, "Only names that start with this; taken literally."),
    LIST_TEXT("fields", fields, 1024, "Only these members, separated by commas: name,status.state."),
    { .name = "continue", .type = FIELD_TEXT, .offset = offsetof(struct list_query, after), .change = CHANGE_LIVE,
      .check = check_cursor, .help = "Go on after this name: `continue` of the page before." },
    { .name = "deleted", .type = FIELD_BOOLEAN, .offset = offsetof(struct list_query, deleted), .change = CHANGE_LIVE,
      .help = "Those in the trash too." },
    { .name = "limit", .type = FIELD_INTEGER, .offset = offsetof(struct list_query, limit), .change = CHANGE_LIVE,
      .minimum = 0, .maximum = LIST_MAX, .initial = "0", .help = "At most so many; 0: all." },
};
static const struct table list_query_table = TABLE("instances-query", struct list_query, list_query_fields);

struct create_query {
    bool start, dry_run;
    uint64_t wait;
};
static const struct field create_query_fields[] = {
    { .name = "start", .type = FIELD_BOOLEAN, .offset = offsetof(struct create_query, start), .change = CHANGE_LIVE,
      .help = "Start it too." },
    { .name = "dry_run", .type = FIELD_BOOLEAN, .offset = offsetof(struct create_query, dry_run),
      .change = CHANGE_LIVE, .help = "Check and decide only: answer the instance as it would be." },
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct create_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when the operation is over, or after this long." },
};
static const struct table create_query_table = TABLE("create-query", struct create_query, create_query_fields);

/* Describes the body; the manager decodes the spec itself, once, where it is authorised and committed. */
struct instance_body {
    char *name;
    struct instance_spec spec;
};
static const struct field instance_body_fields[] = {
    { .name = "name", .type = FIELD_TEXT, .offset = offsetof(struct instance_body, name), .change = CHANGE_LIVE,
      .maximum = 63, .help = "Its name; without one it is invented." },
    { .name = "spec", .type = FIELD_OBJECT, .offset = offsetof(struct instance_body, spec), .change = CHANGE_LIVE,
      .items = &instance_spec_table, .help = "What is wished." },
};
static const struct table instance_create_table = TABLE("instance", struct instance_body, instance_body_fields);

struct change_query {
    bool dry_run, force, purge;
    uint64_t wait;
};
static const struct field patch_query_fields[] = {
    { .name = "dry_run", .type = FIELD_BOOLEAN, .offset = offsetof(struct change_query, dry_run),
      .change = CHANGE_LIVE, .help = "Check only: answer the instance as it would be." },
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct change_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when the operation is over, or after this long." },
};
static const struct table patch_query_table = TABLE("patch-query", struct change_query, patch_query_fields);
static const struct field delete_query_fields[] = {
    { .name = "force", .type = FIELD_BOOLEAN, .offset = offsetof(struct change_query, force), .change = CHANGE_LIVE,
      .help = "Stop it first if it runs." },
    { .name = "purge", .type = FIELD_BOOLEAN, .offset = offsetof(struct change_query, purge), .change = CHANGE_LIVE,
      .help = "For good: not into the trash." },
    { .name = "dry_run", .type = FIELD_BOOLEAN, .offset = offsetof(struct change_query, dry_run),
      .change = CHANGE_LIVE, .help = "Check only." },
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct change_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when the operation is over, or after this long." },
};
static const struct table delete_query_table = TABLE("delete-query", struct change_query, delete_query_fields);

struct action_body {
    char *timeout;
    bool force;
};
static const struct field action_body_fields[] = {
    { .name = "timeout", .type = FIELD_TEXT, .offset = offsetof(struct action_body, timeout), .change = CHANGE_LIVE,
      .maximum = 32, .help = "Time between the stop signal and the kill, \"10s\"; default: the instance's own." },
    { .name = "force", .type = FIELD_BOOLEAN, .offset = offsetof(struct action_body, force), .change = CHANGE_LIVE,
      .help = "Kill at once." },
};
static const struct table stop_body_table = TABLE("stop", struct action_body, action_body_fields);
struct empty_body {
    char unused;
};
static const struct table empty_body_table = { .name = "empty", .size = sizeof(struct empty_body) };

struct action_query {
    bool dry_run;
    uint64_t wait;
};
static const struct field action_query_fields[] = {
    { .name = "dry_run", .type = FIELD_BOOLEAN, .offset = offsetof(struct action_query, dry_run),
      .change = CHANGE_LIVE, .help = "Check only whether it could be done." },
    { .name = "wait", .type = FIELD_DURATION, .offset = offsetof(struct action_query, wait), .change = CHANGE_LIVE,
      .maximum = WAIT_MAX_MS, .help = "Answer when the operation is over, or after this long." },
};
static const struct table action_query_table = TABLE("action-query", struct action_query, action_query_fields);

struct signal_body {
    char *signal;
};
static const struct field signal_body_fields[] = {
    { .name = "signal", .type = FIELD_TEXT, .offset = offsetof(struct signal_body, signal), .change = CHANGE_LIVE,
      .maximum = 16, .required = true, .help = "Name or number: SIGTERM, TERM, 15." },
};
static const struct table signal_body_table = TABLE("signal", struct signal_body, signal_body_fields);

struct state_query {
    char *target;
    uint64_t timeout;
};
static const struct field state_query_fields[] = {
    { .name = "for", .type = FIELD_TEXT, .offset = offsetof(struct state_query, target), .change = CHANGE_LIVE,
      .maximum = 16, .initial = "exited", .help = "A state, or `exited` (any ended state), or `removed`." },
    { .name = "timeout", .type = FIELD_DURATION, .offset = offsetof(struct state_query, timeout), .change = CHANGE_LIVE,
      .maximum = 24 * WAIT_MAX_MS, .initial = "3600s", .help = "Give up after this long." },
};
static const struct table state_query_table = TABLE("wait-query", struct state_query, state_query_fields);

/* --- reads --------------------------------------------------------------------------------------------------------- */

static int handle_list(struct request *request, struct error *error) {
    const struct list_query *query = request->query;
    _cleanup_list_ char **fields = NULL;
    struct emitter emitter = reply_emitter(request);
    struct instance_filter filter = {
        .actor = request->actor, .kind = query->kind, .state = query->state, .label = query->label, .name = query->name,
        .deleted = query->deleted, .after = query->after, .limit = (size_t) query->limit,
    };

    if (query->fields && list_split(query->fields, ",", &fields) < 0)
        return error_set(error, ERROR_NO_MEMORY, "");
    filter.fields = fields;
    return manager_instances_emit(request->manager, &filter, &emitter, error);
}

static int handle_show(struct request *request, struct error *error) {
    const char *etag = NULL, *known = request_header(request, "If-None-Match");
    size_t size = 0;
    const char *text = manager_instance_text(request->manager, request->actor, request->parameters[0], &size, &etag);

    if (!text)
        return error_set(error, ERROR_NOT_FOUND, "instance", request->parameters[0]);
    reply_header(request, "ETag", etag);
    if (known && !strcmp(known, etag)) {
        request->reply.status = 304;
        return 0;
    }
    request->reply.text = text;
    request->reply.text_size = size;
    return 0;
}

static int handle_allocation(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);

    return manager_allocation_emit(request->manager, request->parameters[0], &emitter, error);
}

static int handle_wait(struct request *request, struct error *error) {
    const struct state_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    int r;

    request_cancelable(request, true);
    r = manager_instance_wait(request->manager, request->actor, request->parameters[0], query->target,
                              deadline_in(query->timeout * CLOCK_MILLISECOND), &emitter, error);
    request_cancelable(request, false);
    return r;
}

/* --- changes --------------------------------------------------------------------------------------------------------- */

/* The instance as it would be, or the operation. */
static int reply_change(struct request *request, struct operation *operation, const char *text, uint64_t wait_ms,
                        struct error *error) {
    if (operation)
        return reply_operation(request, operation, wait_ms, error);
    buffer_add_text(&request->reply.body, text ? text : "{}");
    return 0;
}

static int handle_create(struct request *request, struct error *error) {
    static const char *const members[] = { "name", "spec", NULL };
    const struct create_query *query = request->query;
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_free_ char *text = NULL;
    struct instance_create create = {
        .name = json_text(request->json, "name", NULL), .spec = json_member(request->json, "spec"),
        .start = query->start, .dry_run = query->dry_run,
        .idempotency_key = request_header(request, "Idempotency-Key"),
    };
    int r = json_only(request->json, "an instance", members, error);

    if (r < 0)
        return r;
    if (json_has(request->json, "name") && !create.name)
        return error_set(error, ERROR_BAD_TYPE, "name", "a text", "something else");
    if (!create.spec)
        return error_set(error, ERROR_MISSING_FIELD, "spec");
    if (create.idempotency_key && (!*create.idempotency_key || strlen(create.idempotency_key) > 128 ||
                                   !text_is_plain(create.idempotency_key)))
        return error_set(error, ERROR_BAD_VALUE, "Idempotency-Key", "", "it has 1 to 128 plain characters");
    r = manager_instance_create(request->manager, request->actor, &create, &operation, &text, error);
    return r < 0 ? r : reply_change(request, operation, text, query->wait, error);
}

static int handle_patch(struct request *request, struct error *error) {
    const struct change_query *query = request->query;
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_free_ char *text = NULL;
    int r = manager_instance_patch(request->manager, request->actor, request->parameters[0], request->json,
                                   request_header(request, "If-Match"), query->dry_run, &operation, &text, error);

    return r < 0 ? r : reply_change(request, operation, text, query->wait, error);
}

static int act(struct request *request, enum instance_action action, struct action_options *options,
               uint64_t wait_ms, struct error *error) {
    _cleanup_operation_ struct operation *operation = NULL;
    int r;

    options->if_match = request_header(request, "If-Match");
    r = manager_instance_action(request->manager, request->actor, request->parameters[0], action, options,
                                &operation, error);
    return r < 0 ? r : reply_change(request, operation, NULL, wait_ms, error);
}

static int handle_delete(struct request *request, struct error *error) {
    const struct change_query *query = request->query;
    struct action_options options = { .force = query->force, .purge = query->purge, .dry_run = query->dry_run,
                                      .timeout_ms = -1 };

    return act(request, ACTION_DELETE, &options, query->wait, error);
}

static int act_plain(struct request *request, enum instance_action action, struct error *error) {
    const struct action_query *query = request->query;
    struct action_options options = { .dry_run = query->dry_run, .timeout_ms = -1 };

    return act(request, action, &options, query->wait, error);
}

static int act_timed(struct request *request, enum instance_action action, struct error *error) {
    const struct action_query *query = request->query;
    const struct action_body *body = request->input;
    struct action_options options = { .dry_run = query->dry_run, .force = body->force, .timeout_ms = -1 };
    uint64_t timeout;

    if (body->timeout) {
        if (text_parse_duration(body->timeout, &timeout) < 0 || timeout > 24 * WAIT_MAX_MS)
            return error_set(error, ERROR_BAD_VALUE, "timeout", body->timeout, "it is no time up to 24h");
        options.timeout_ms = (int64_t) timeout;
    }
    return act(request, action, &options, query->wait, error);
}

static int handle_start(struct request *request, struct error *error) {
    return act_plain(request, ACTION_START, error);
}

static int handle_stop(struct request *request, struct error *error) {
    return act_timed(request, ACTION_STOP, error);
}

static int handle_restart(struct request *request, struct error *error) {
    return act_timed(request, ACTION_RESTART, error);
}

static int handle_pause(struct request *request, struct error *error) {
    return act_plain(request, ACTION_PAUSE, error);
}

static int handle_resume(struct request *request, struct error *error) {
    return act_plain(request, ACTION_RESUME, error);
}

static int handle_suspend(struct request *request, struct error *error) {
    return act_plain(request, ACTION_SUSPEND, error);
}

static int handle_undelete(struct request *request, struct error *error) {
    return act_plain(request, ACTION_UNDELETE, error);
}

static int handle_signal(struct request *request, struct error *error) {
    const struct signal_body *body = request->input;
    int number = signal_from_name(body->signal ? body->signal : ""), r;

    if (number < 0)
        return error_set(error, ERROR_BAD_VALUE, "signal", body->signal ? body->signal : "", "there is no such signal");
    r = manager_instance_signal(request->manager, request->actor, request->parameters[0], number, error);
    if (r == 0)
        request->reply.status = 204;
    return r;
}

#define CHANGE_ROUTE(verb, handler, summary, query, body, flags)                                              \
    { "POST", "/v1/instances/{name}/" verb, handler, PERMISSION_OPERATE, summary, &query, &body, "Operation",   \
      ROUTE_OPERATION | (flags) }

const struct route instance_routes[] = {
    { "GET", "/v1/instances", handle_list, PERMISSION_VIEW, "List instances", &list_query_table, NULL,
      "InstanceList", ROUTE_QUICK },
    { "POST", "/v1/instances", handle_create, PERMISSION_CREATE, "Create an instance", &create_query_table,
      &instance_create_table, "Operation", ROUTE_OPERATION | ROUTE_RAW | ROUTE_REQUIRED },
    { "GET", "/v1/instances/{name}", handle_show, PERMISSION_VIEW, "Show an instance", NULL, NULL, "Instance",
      ROUTE_QUICK },
    { "PATCH", "/v1/instances/{name}", handle_patch, PERMISSION_CREATE, "Change an instance (RFC 7396)",
      &patch_query_table, &instance_create_table, "Operation",
      ROUTE_OPERATION | ROUTE_RAW | ROUTE_REQUIRED | ROUTE_PATCH },
    { "DELETE", "/v1/instances/{name}", handle_delete, PERMISSION_CREATE, "Delete an instance", &delete_query_table,
      NULL, "Operation", ROUTE_OPERATION },
    CHANGE_ROUTE("start", handle_start, "Start an instance", action_query_table, empty_body_table, 0),
    CHANGE_ROUTE("stop", handle_stop, "Stop an instance", action_query_table, stop_body_table, 0),
    CHANGE_ROUTE("restart", handle_restart, "Stop and start an instance", action_query_table, stop_body_table, 0),
    CHANGE_ROUTE("pause", handle_pause, "Freeze an instance; it keeps its memory", action_query_table,
                 empty_body_table, 0),
    CHANGE_ROUTE("resume", handle_resume, "Let a paused or suspended instance go on", action_query_table,
                 empty_body_table, 0),
    CHANGE_ROUTE("suspend", handle_suspend, "Save an instance's memory to disk and end its processes",
                 action_query_table, empty_body_table, 0),
    { "POST", "/v1/instances/{name}/undelete", handle_undelete, PERMISSION_CREATE,
      "Take an instance back out of the trash", &action_query_table, &empty_body_table, "Operation", ROUTE_OPERATION },
    { "POST", "/v1/instances/{name}/signal", handle_signal, PERMISSION_OPERATE, "Send a signal to the main process", NULL,
      &signal_body_table, NULL, ROUTE_REQUIRED },
    { "GET", "/v1/instances/{name}/allocation", handle_allocation, PERMISSION_VIEW,
      "What an instance has of processors and memory, and why", NULL, NULL, "Allocation", 0 },
    { "GET", "/v1/instances/{name}/wait", handle_wait, PERMISSION_VIEW, "Wait until an instance is in a state",
      &state_query_table, NULL, "InstanceWait", 0 },
    { 0 },
};
