// SPDX-License-Identifier: GPL-2.0-or-later
#include <json-c/json.h>
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

static void show_text(const char *text) {
    print_escaped(stdout, text, strlen(text), false);
    putchar('\n');
}

static char *seconds_text(struct json_object *object, const char *key) {
    struct json_object *value = json_member(object, key);
    double seconds = value ? json_object_get_double(value) : -1;

    if (seconds < 0)
        return NULL;
    return text_format_duration(seconds < 1 ? (uint64_t) (seconds * 1000) : (uint64_t) seconds * 1000);
}

static void show_waiting(struct json_object *why) {
    _cleanup_free_ char *waited = seconds_text(why, "waited"), *starts = seconds_text(why, "starts_in");
    _cleanup_free_ char *expected = seconds_text(why, "expected");
    _cleanup_free_ char *line = text_format("%s waits at position %s since %s: %s", json_text(why, "name", ""),
                                            json_path_text(why, "position", "?"), waited ? waited : "?",
                                            json_text(why, "message", ""));
    show_text(line ? line : "");
    printf("expected to start %s%s, and to run %s\n", starts ? "in " : "at a time that is not known", starts ? starts : "",
           expected ? expected : "without a known end");
    show_text(json_path_text(why, "if.sentence", ""));
}

static void show_running(struct json_object *why) {
    const char *message = json_text(why, "message", NULL), *kind = json_text(why, "why_kind", NULL);
    _cleanup_free_ char *line = text_format("%s is %s%s%s", json_text(why, "name", ""), json_text(why, "state", ""),
                                            message ? ": " : "", message ? message : "");

    show_text(line ? line : "");
    if (kind)
        show_text(kind);
}

static int run_why(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    const char *name = invocation->arguments[0];
    _cleanup_free_ char *path = instance_path(name, "/why");
    struct client *client;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0) {
        suggest_instance(invocation, name, error);
        return r;
    }
    if (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE)
        return output_object(invocation, response.json, "name", error);
    if (json_boolean(response.json, "waits", false))
        show_waiting(response.json);
    else
        show_running(response.json);
    printf("policy %s, backfilling %s\n", json_text(response.json, "policy", ""), json_text(response.json, "backfill", ""));
    return 0;
}

const struct command command_why = {
    .name = "why", .group = GROUP_NODE, .summary = "Tell why an instance waits, and what would let it start now",
    .usage = "INSTANCE",
    .description = "What would let it start is found by trying on a copy of the queue: that it asks for less, that one "
                   "that runs were suspended, that the first of the queue were not there.",
    .minimum = 1, .maximum = 1, .complete = COMPLETE_INSTANCES, .common = COMMON_OUTPUT, .run = run_why,
};
