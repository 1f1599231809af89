// SPDX-License-Identifier: GPL-2.0-or-later
/* events and ops. */
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/terminal.h"

#define LINE_MAX_SIZE (1024 * 1024)

struct operation_options {
    const char *state, *type, *object;
    int64_t limit;
};

struct event_options {
    const char *since, *type;
    int64_t count;
};

/* --- events ----------------------------------------------------------------------------------------------------------- */

static const struct column event_columns[] = {
    { .title = "ID", .path = "id" },         { .title = "TIME", .path = "time" }, { .title = "TYPE", .path = "type" },
    { .title = "OBJECT", .path = "object" }, { .title = "STATE", .path = "state" },
};
static const struct view event_view = { .columns = event_columns, .count = ELEMENTS(event_columns), .name = "object" };

static void print_event(const struct invocation *invocation, const char *type, struct json_object *event) {
    const char *object = json_text(event, "object", ""), *state = json_text(event, "state", "");

    if (invocation->output == OUTPUT_WIDE) /* with what --since takes */
        printf("%lld  ", (long long) json_integer(event, "id", 0));
    printf("%s  %-22s ", json_text(event, "time", ""), json_text(event, "type", type));
    print_escaped(stdout, object, strlen(object), false);
    printf("%s%s\n", *state ? "  " : "", state);
}

/* One after the other, as they happen: lines of JSON, documents of YAML, rows of CSV. */
static void show_event(const struct invocation *invocation, const char *type, const char *text) {
    _cleanup_json_ struct json_object *event = NULL;

    if (invocation->output == OUTPUT_JSON) {
        puts(text);
    } else if (!strcmp(type, "lagged")) {
        show_note("some events were missed");
    } else if (json_parse(text, strlen(text), &event, NULL) < 0) {
        return;
    } else if (invocation->output == OUTPUT_YAML) {
        puts("---");
        (void) output_yaml(event);
    } else if (invocation->output == OUTPUT_CSV) {
        output_csv_row(&event_view, event);
    } else if (invocation->output == OUTPUT_NAME) {
        const char *object = json_text(event, "object", "");
        print_escaped(stdout, object, strlen(object), false);
        putchar('\n');
    } else {
        print_event(invocation, type, event);
    }
    fflush(stdout);
}

struct event_reader {
    char type[64];
    int64_t shown;
};

/* One line of server-sent events. */
static void take_line(const struct invocation *invocation, struct event_reader *reader, const char *line) {
    if (text_starts(line, "event: ")) {
        snprintf(reader->type, sizeof(reader->type), "%s", line + 7);
    } else if (text_starts(line, "data: ")) {
        show_event(invocation, reader->type, line + 6);
        reader->shown++;
    }
}

static int take_lines(const struct invocation *invocation, struct event_reader *reader, struct buffer *lines,
                      struct error *error) {
    const struct event_options *options = invocation->options;
    char *end;

    while (lines->size > 0 && (end = memchr(lines->data, '\n', lines->size))) {
        *end = '\0';
        take_line(invocation, reader, lines->data);
        buffer_consume(lines, (size_t) (end - lines->data) + 1);
        if (options->count > 0 && reader->shown >= options->count)
            return 1;
    }
    return lines->failed || lines->size > LINE_MAX_SIZE ? error_set(error, ERROR_NO_MEMORY, "") : 0;
}

static int run_events(struct invocation *invocation, struct error *error) {
    const struct event_options *options = invocation->options;
    _cleanup_free_ char *since = options->since ? url_encode(options->since) : NULL;
    _cleanup_free_ char *type = options->type ? url_encode(options->type) : NULL;
    _cleanup_free_ char *path = text_format("/v1/events%s%s%s%s", since ? "?since=" : "", since ? since : "",
                                            type ? (since ? "&type=" : "?type=") : "", type ? type : "");
    _cleanup_buffer_ struct buffer lines = BUFFER_INIT;
    struct event_reader reader = { .type = "" };
    struct client *client;
    char data[16 * 1024];
    long n;
    int r = invocation_client(invocation, &client, error);

    if (r == 0)
        r = path ? client_stream_begin(client, path, error) : error_set(error, ERROR_NO_MEMORY, "");
    if (r == 0 && invocation->output == OUTPUT_CSV)
        output_csv_titles(&event_view);
    while (r == 0 && (n = client_stream_read(client, data, sizeof(data), error)) != 0) {
        buffer_add(&lines, data, n > 0 ? (size_t) n : 0);
        r = n < 0 ? (int) n : take_lines(invocation, &reader, &lines, error);
    }
    return r < 0 ? r : 0;
}

/* --- ops ---------------------------------------------------------------------------------------------------------------- */

static char *cell_progress(struct json_object *row) {
    struct json_object *progress = json_member(row, "progress");
    int64_t done = json_integer(progress, "done", 0), total = json_integer(progress, "total", 0);

    return total > 0 && strcmp(json_text(row, "state", ""), "running") == 0 ? text_format("%lld%%", (long long) (done * 100 / total)) : NULL;
}

static const struct column operation_columns[] = {
    { .title = "ID", .path = "id" },       { .title = "TYPE", .path = "type" },
    { .title = "OBJECT", .path = "object" }, { .title = "STATE", .path = "state" },
    { .title = "STEP", .path = "step" },   { .title = "PROGRESS", .cell = cell_progress, .right = true },
    { .title = "ACTOR", .path = "actor", .wide = true }, { .title = "CREATED", .path = "created", .wide = true },
    { .title = "FINISHED", .path = "finished", .wide = true }, { .title = "REASON", .path = "error.detail", .wide = true },
};
static const struct view operation_view = { .columns = operation_columns, .count = ELEMENTS(operation_columns),
                                            .name = "id" };

static int run_ops_ls(struct invocation *invocation, struct error *error) {
    const struct operation_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer path = BUFFER_INIT;
    _cleanup_free_ char *limit = text_format("%lld", (long long) options->limit);
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    buffer_add_text(&path, "/v1/operations");
    query_add(&path, "state", options->state);
    query_add(&path, "type", options->type);
    query_add(&path, "object", options->object);
    query_add(&path, "limit", options->limit ? limit : NULL);
    if (r == 0 && (path.failed || !limit))
        r = error_set(error, ERROR_NO_MEMORY, "");
    if (r == 0)
        r = client_request(client, "GET", path.data, NULL, &response, error);
    return r < 0 ? r : output_list(invocation, &operation_view, json_member(response.json, "operations"),
                                   json_member(response.json, "operations"), error);
}

static int request_operation(struct invocation *invocation, const char *method, const char *id, struct response *ret,
                             struct error *error) {
    _cleanup_free_ char *encoded = url_encode(id);
    _cleanup_free_ char *path = encoded ? text_format("/v1/operations/%s", encoded) : NULL;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    if (r < 0 || !path)
        return r < 0 ? r : error_set(error, ERROR_NO_MEMORY, "");
    return client_request(client, method, path, NULL, ret, error);
}

static int run_ops_show(struct invocation *invocation, struct error *error) {
    int r = 0;

    for (size_t i = 0; r == 0 && i < invocation->count; i++) {
        _cleanup_response_ struct response response = RESPONSE_INIT;
        r = request_operation(invocation, "GET", invocation->arguments[i], &response, error);
        if (r == 0)
            r = output_object(invocation, response.json, "id", error);
    }
    return r;
}

static int run_ops_cancel(struct invocation *invocation, struct error *error) {
    int r = 0;

    for (size_t i = 0; r == 0 && i < invocation->count; i++) {
        _cleanup_response_ struct response response = RESPONSE_INIT;
        r = request_operation(invocation, "DELETE", invocation->arguments[i], &response, error);
        if (r == 0)
            puts(invocation->arguments[i]);
    }
    return r;
}

static int run_ops_wait(struct invocation *invocation, struct error *error) {
    int r = 0;

    for (size_t i = 0; r == 0 && i < invocation->count; i++) {
        _cleanup_response_ struct response response = RESPONSE_INIT;
        r = request_operation(invocation, "GET", invocation->arguments[i], &response, error);
        if (r == 0)
            r = operation_follow(invocation, &response, json_text(response.json, "object", "it"), error);
    }
    return r;
}

static const struct flag event_flags[] = {
    { .name = "since", .type = FLAG_TEXT, .offset = offsetof(struct event_options, since), .value = "ID",
      .help = "Go on after this event; 0 is the oldest that is kept." },
    { .name = "type", .type = FLAG_TEXT, .offset = offsetof(struct event_options, type), .value = "PREFIX",
      .help = "Only types that start with this, such as instance." },
    { .name = "count", .letter = 'n', .type = FLAG_NUMBER, .offset = offsetof(struct event_options, count),
      .value = "NUMBER", .help = "End after so many." },
};
#define OPERATION_TEXT(flag_name, member, value_name, text)                                                 \
    { .name = flag_name, .type = FLAG_TEXT, .offset = offsetof(struct operation_options, member),              \
      .value = value_name, .help = text }
static const char *const operation_states[] = { "running", "done", "failed", "canceled", NULL };
static const struct flag operation_flags[] = {
    { .name = "state", .type = FLAG_TEXT, .offset = offsetof(struct operation_options, state), .value = "STATE",
      .choices = operation_states, .help = "Only those in this state: running, done, failed or canceled." },
    OPERATION_TEXT("type", type, "PREFIX", "Only types that start with this, such as image."),
    OPERATION_TEXT("object", object, "NAME", "Only those of this object, such as web-1."),
    { .name = "limit", .letter = 'n', .type = FLAG_NUMBER, .offset = offsetof(struct operation_options, limit),
      .value = "NUMBER", .help = "At most so many." },
};
static const struct command ops_ls = {
    .name = "ls", .alias = "list", .group = GROUP_NODE, .summary = "List operations, newest first", .usage = "",
    .flags = operation_flags, .flag_count = ELEMENTS(operation_flags), .options_size = sizeof(struct operation_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_ops_ls,
};
static const struct command ops_show = {
    .name = "show", .group = GROUP_NODE, .summary = "Show operations", .usage = "OPERATION...", .common = COMMON_OUTPUT,
    .minimum = 1, .maximum = UINT_MAX, .complete = COMPLETE_OPERATIONS, .run = run_ops_show,
};
static const struct command ops_cancel = {
    .name = "cancel", .group = GROUP_NODE, .summary = "Cancel operations; what they did is undone",
    .usage = "OPERATION...", .minimum = 1, .maximum = UINT_MAX, .complete = COMPLETE_OPERATIONS, .run = run_ops_cancel,
};
static const struct command ops_wait = {
    .name = "wait", .group = GROUP_NODE, .summary = "Follow operations to their end", .usage = "OPERATION...",
    .common = COMMON_QUIET, .minimum = 1, .maximum = UINT_MAX, .complete = COMPLETE_OPERATIONS, .run = run_ops_wait,
};
static const struct command *const ops_commands[] = { &ops_ls, &ops_show, &ops_cancel, &ops_wait, NULL };

const struct command command_events = {
    .name = "events", .group = GROUP_NODE, .summary = "Follow what happens", .usage = "", .flags = event_flags,
    .flag_count = ELEMENTS(event_flags), .options_size = sizeof(struct event_options), .common = COMMON_OUTPUT,
    .run = run_events,
};
const struct command command_ops = {
    .name = "ops", .alias = "operations", .group = GROUP_NODE, .summary = "Operations: ls, show, cancel, wait",
    .children = ops_commands,
};
