// SPDX-License-Identifier: GPL-2.0-or-later
/* ls and show. */
#include <json-c/json.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"

struct list_options {
    bool all;
    const char *kind, *state, *label, *name;
    bool deleted;
};

static const char *state_of(struct json_object *row) {
    return json_path_text(row, "status.state", "");
}

static bool is_up(struct json_object *row) {
    int state = state_from_name(state_of(row));

    return state >= 0 && state_is_active((enum state) state);
}

static char *cell_state(struct json_object *row) {
    bool unresponsive = json_boolean(json_member(row, "status"), "unresponsive", false);

    return strdup(unresponsive && is_up(row) ? "unresponsive" : state_of(row));
}

static char *cell_kind(struct json_object *row) {
    return strdup(json_path_text(row, "assigned.kind", json_path_text(row, "spec.kind", "")));
}

static char *cell_cpus(struct json_object *row) {
    return strdup(json_path_text(row, "spec.cpus", ""));
}

static char *cell_memory(struct json_object *row) {
    return text_format_size((uint64_t) json_integer(json_member(row, "spec"), "memory", 0));
}

static char *since(struct json_object *row, const char *path) {
    const char *text = json_path_text(row, path, NULL);
    uint64_t then, now = clock_wall();

    if (!text || clock_parse(text, &then) < 0 || then > now)
        return NULL;
    /* Seconds are enough. */
    return text_format_duration((now - then) / CLOCK_SECOND * 1000);
}

static char *cell_uptime(struct json_object *row) {
    return is_up(row) ? since(row, "status.started") : NULL;
}

static char *cell_created(struct json_object *row) {
    return since(row, "assigned.created");
}

static char *cell_address(struct json_object *row) {
    struct json_object *addresses = json_path(row, "status.addresses");

    if (json_path_text(row, "assigned.address", NULL))
        return strdup(json_path_text(row, "assigned.address", ""));
    if (json_object_is_type(addresses, json_type_array) && json_object_array_length(addresses) > 0)
        return strdup(json_object_get_string(json_object_array_get_idx(addresses, 0)));
    return NULL;
}

/* "exited (3)" tells more than "stopped" alone: the code stands in REASON. */
static char *cell_reason(struct json_object *row) {
    const char *message = json_path_text(row, "status.message", NULL);
    int64_t code = json_integer(json_member(row, "status"), "exit_code", -1);

    if (message)
        return strdup(message);
    if (!is_up(row) && code >= 0)
        return text_format("exit code %lld", (long long) code);
    return NULL;
}

static const char *colour_state(const char *text) {
    if (text_equal(text, "unresponsive"))
        return "red";
    switch (state_from_name(text)) {
    case STATE_RUNNING:
        return "green";
    case STATE_FAILED:
        return "red";
    case STATE_QUEUED:
    case STATE_STARTING:
    case STATE_STOPPING:
    case STATE_SUSPENDING:
        return "yellow";
    default:
        return NULL;
    }
}

static const struct column instance_columns[] = {
    { .title = "NAME", .path = "name" },
    { .title = "KIND", .cell = cell_kind },
    { .title = "STATE", .cell = cell_state, .colour = colour_state },
    { .title = "NODE", .path = "assigned.node" },
    { .title = "IP", .cell = cell_address },
    { .title = "CPU", .cell = cell_cpus, .right = true },
    { .title = "MEMORY", .cell = cell_memory, .right = true },
    { .title = "UPTIME", .cell = cell_uptime, .right = true },
    { .title = "IMAGE", .path = "spec.image" },
    { .title = "PRIORITY", .path = "spec.priority", .wide = true, .right = true },
    { .title = "CREATED", .cell = cell_created, .wide = true, .right = true },
    { .title = "UUID", .path = "assigned.uuid", .wide = true },
    { .title = "REASON", .cell = cell_reason, .wide = true },
};
static const struct view instance_view = { .columns = instance_columns, .count = ELEMENTS(instance_columns),
                                           .name = "name" };

static int run_ls(struct invocation *invocation, struct error *error) {
    const struct list_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer path = BUFFER_INIT;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    buffer_add_text(&path, "/v1/instances");
    query_add(&path, "kind", options->kind);
    query_add(&path, "state", options->state);
    query_add(&path, "label", options->label);
    query_add(&path, "name", invocation->count > 0 ? invocation->arguments[0] : options->name);
    query_add(&path, "deleted", options->deleted ? "true" : NULL);
    if (r == 0)
        r = client_request(client, "GET", path.data, NULL, &response, error);
    if (r < 0)
        return r;
    return output_list(invocation, &instance_view, json_member(response.json, "instances"),
                       json_member(response.json, "instances"), error);
}

static int run_show(struct invocation *invocation, struct error *error) {
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    for (size_t i = 0; r == 0 && i < invocation->count; i++) {
        _cleanup_response_ struct response response = RESPONSE_INIT;
        _cleanup_free_ char *path = instance_path(invocation->arguments[i], "");
        r = path ? client_request(client, "GET", path, NULL, &response, error) : error_set(error, ERROR_NO_MEMORY, "");
        if (r == 0)
            r = output_object(invocation, response.json, "name", error);
        if (r < 0)
            suggest_instance(invocation, invocation->arguments[i], error);
    }
    return r;
}

#define LIST_FLAG(flag_name, member, value_name, text)                                                      \
    { .name = flag_name, .type = FLAG_TEXT, .offset = offsetof(struct list_options, member),                   \
      .value = value_name, .help = text }
static const char *const kinds[] = { "container", "microvm", "vm", "fake", NULL };
static const char *const states[] = { "created",   "queued",   "starting", "running",   "paused", "suspending",
                                      "suspended", "stopping", "stopped",  "migrating", "failed", "deleted", NULL };
static const struct flag ls_flags[] = {
    { .name = "all", .letter = 'a', .type = FLAG_SWITCH, .offset = offsetof(struct list_options, all),
      .help = "All states; that is what is shown anyway (for docker's habit)." },
    { .name = "kind", .type = FLAG_TEXT, .offset = offsetof(struct list_options, kind), .value = "KIND",
      .choices = kinds, .help = "Only this kind: container, microvm, vm or fake." },
    { .name = "state", .type = FLAG_TEXT, .offset = offsetof(struct list_options, state), .value = "STATE",
      .choices = states, .help = "Only those in this state, such as running; 'polder lifecycle' has them all." },
    { .name = "label", .letter = 'l', .type = FLAG_TEXT, .offset = offsetof(struct list_options, label),
      .value = "KEY[=VALUE]", .help = "Only those with this label." },
    LIST_FLAG("name", name, "PREFIX", "Only names that start with this."),
    { .name = "deleted", .type = FLAG_SWITCH, .offset = offsetof(struct list_options, deleted),
      .help = "Those in the trash too." },
};

const struct command command_ls = {
    .name = "ls", .alias = "list ps", .group = GROUP_INSTANCES, .summary = "List instances", .usage = "[PREFIX]",
    .flags = ls_flags, .flag_count = ELEMENTS(ls_flags), .options_size = sizeof(struct list_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .maximum = 1, .complete = COMPLETE_INSTANCES, .run = run_ls,
    .examples = "  polder ls -o wide\n  polder ls --label tier=web -q\n",
};

const struct command command_show = {
    .name = "show", .alias = "inspect", .group = GROUP_INSTANCES, .summary = "Show everything about instances",
    .usage = "INSTANCE...", .common = COMMON_OUTPUT, .minimum = 1, .maximum = UINT_MAX,
    .complete = COMPLETE_INSTANCES, .run = run_show,
};
