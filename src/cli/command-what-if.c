// SPDX-License-Identifier: GPL-2.0-or-later
#include <json-c/json.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/terminal.h"

struct what_if_options {
    int64_t add;
    const char *values[10];
    char **labels, **taints;
};

/* Flag and member of the query, by place in `values`. */
static const char *const members[] = { "kind",   "cpus",     "memory",    "duration",   "priority",
                                       "policy", "backfill", "node_cpus", "node_memory", "without_node" };

static char *add_list(char *path_take, const char *member, char *const *list) {
    _cleanup_free_ char *path = path_take, *joined = NULL, *value = NULL;

    if (!list)
        return STEAL_PTR(path);
    joined = list_join(list, ",");
    value = joined ? url_encode(joined) : NULL;
    return path && value ? text_format("%s&%s=%s", path, member, value) : NULL;
}

static char *build_path(const struct what_if_options *options) {
    char *path = text_format("/v1/what-if?add=%lld", (long long) options->add);

    for (size_t i = 0; path && i < ELEMENTS(members); i++) {
        _cleanup_free_ char *before = path, *value = options->values[i] ? url_encode(options->values[i]) : NULL;
        path = options->values[i] ? text_format("%s&%s=%s", before, members[i], value ? value : "") : STEAL_PTR(before);
    }
    path = add_list(path, "node_labels", options->labels);
    return path ? add_list(path, "taints", options->taints) : NULL;
}

/* Who could not start there then, and who could. */
static void show_placement_then(struct json_object *placement) {
    struct json_object *instances = json_member(placement, "instances");

    if (!json_object_is_type(placement, json_type_object))
        return;
    putchar('\n');
    puts(json_text(placement, "message", ""));
    for (size_t i = 0; json_object_is_type(instances, json_type_array) && i < json_object_array_length(instances); i++) {
        struct json_object *one = json_object_array_get_idx(instances, i);
        bool then = json_text(one, "then", NULL), now = json_text(one, "now", NULL);
        _cleanup_free_ char *line = text_format("  %s could%s start%s: %s", json_text(one, "name", ""), then ? " not" : "",
                                                then && now ? ", as now" : "", json_text(one, "message", ""));
        if (line)
            print_escaped(stdout, line, strlen(line), false);
        putchar('\n');
    }
}

static char *starts_cell(struct json_object *object, const char *key) {
    struct json_object *value = json_member(object, key);
    double seconds = value ? json_object_get_double(value) : -1;

    if (seconds < 0)
        return strdup("not known");
    return seconds < 1 ? strdup("now") : text_format_duration((uint64_t) seconds * 1000);
}

static char *cell_before(struct json_object *object) {
    return json_boolean(object, "new", false) ? strdup("-") : starts_cell(object, "starts_in_before");
}

static char *cell_after(struct json_object *object) {
    return starts_cell(object, "starts_in_after");
}

static char *cell_position(struct json_object *object) {
    int64_t position = json_integer(object, "position_before", 0);

    return position > 0 ? text_format("%lld", (long long) position) : NULL;
}

static const struct column columns[] = {
    { .title = "NAME", .path = "name" },
    { .title = "POSITION", .cell = cell_position, .right = true },
    { .title = "STARTS IN", .cell = cell_before, .right = true },
    { .title = "POSITION THEN", .path = "position_after", .right = true },
    { .title = "STARTS IN THEN", .cell = cell_after, .right = true },
};
static const struct view view = { .columns = columns, .count = ELEMENTS(columns), .name = "name",
                                  .empty = "nobody waits, and nobody would" };

static int run_what_if(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = build_path(invocation->options);
    struct client *client = NULL;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r >= 0)
        r = output_list(invocation, &view, json_member(response.json, "queue"), response.json, error);
    if (r >= 0 && (invocation->output == OUTPUT_TABLE || invocation->output == OUTPUT_WIDE) && !invocation->quiet)
        printf("\nmean of those known: %.0f s, then %.0f s; policy %s, backfilling %s\n",
               json_object_get_double(json_member(response.json, "mean_before")),
               json_object_get_double(json_member(response.json, "mean_after")), json_text(response.json, "policy", ""),
               json_text(response.json, "backfill", ""));
    if (r >= 0 && (invocation->output == OUTPUT_TABLE || invocation->output == OUTPUT_WIDE) && !invocation->quiet)
        show_placement_then(json_member(response.json, "placement"));
    return r;
}

#define VALUE(index) offsetof(struct what_if_options, values[index])
static const struct flag flags[] = {
    { .name = "add", .type = FLAG_NUMBER, .offset = offsetof(struct what_if_options, add), .value = "NUMBER",
      .help = "So many more instances of the kind and size that the next flags tell." },
    { .name = "kind", .type = FLAG_TEXT, .offset = VALUE(0), .value = "KIND", .help = "Kind of those added." },
    { .name = "cpus", .type = FLAG_TEXT, .offset = VALUE(1), .value = "NUMBER", .help = "Processors of each; 1 if not told." },
    { .name = "memory", .letter = 'm', .type = FLAG_TEXT, .offset = VALUE(2), .value = "SIZE",
      .help = "Memory of each; 256M if not told." },
    { .name = "duration", .type = FLAG_TEXT, .offset = VALUE(3), .value = "DURATION",
      .help = "How long each will run; without a known end if not told." },
    { .name = "priority", .type = FLAG_TEXT, .offset = VALUE(4), .value = "NUMBER", .help = "Priority of each." },
    { .name = "policy", .type = FLAG_TEXT, .offset = VALUE(5), .value = "POLICY", .help = "Another policy." },
    { .name = "backfill", .type = FLAG_TEXT, .offset = VALUE(6), .value = "KIND", .help = "Other backfilling." },
    { .name = "node-cpus", .type = FLAG_TEXT, .offset = VALUE(7), .value = "NUMBER", .help = "So many processors on the node." },
    { .name = "node-memory", .type = FLAG_TEXT, .offset = VALUE(8), .value = "SIZE", .help = "So much memory on the node." },
    { .name = "without-node", .type = FLAG_TEXT, .offset = VALUE(9), .value = "NODE", .help = "This node were gone." },
    { .name = "node-label", .type = FLAG_LIST, .offset = offsetof(struct what_if_options, labels), .value = "KEY=VALUE",
      .help = "The node had this label; KEY-: it had it not." },
    { .name = "taint", .type = FLAG_LIST, .offset = offsetof(struct what_if_options, taints), .value = "KEY[=VALUE]",
      .help = "The node had this taint; KEY-: it had it not." },
};

const struct command command_what_if = {
    .name = "what-if", .group = GROUP_NODE, .summary = "Tell when those that wait would start if it were otherwise", .usage = "",
    .description = "Nothing changes: the engine decides on a copy of its state.",
    .examples = "  polder what-if --policy srtf\n  polder what-if --add 20 --cpus 2 --memory 1G --duration 30m\n"
                "  polder what-if --node-memory 64G\n  polder what-if --taint maintenance\n",
    .flags = flags, .flag_count = ELEMENTS(flags), .options_size = sizeof(struct what_if_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_what_if,
};
