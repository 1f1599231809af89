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
#include "cli/placement.h"
#include "cli/terminal.h"

struct optimize_options {
    const char *observe, *cooldown;
};

/* --- a plan as a table ---------------------------------------------------------------------------------- */

static char *amounts(struct json_object *object, const char *key) {
    struct json_object *part = json_member(object, key);
    _cleanup_free_ char *cpus = text_format_cpus((uint64_t) json_integer(part, "cpus_milli", 0));
    _cleanup_free_ char *memory = text_format_size((uint64_t) json_integer(part, "memory", 0));

    return text_format("%s cpus, %s", cpus ? cpus : "?", memory ? memory : "?");
}

static char *cell_before(struct json_object *object) {
    return amounts(object, "before");
}

static char *cell_after(struct json_object *object) {
    return text_equal(json_text(object, "action", ""), "suspend") ? strdup("on disk") : amounts(object, "after");
}

/* What is taken has a sign. */
static char *cell_gain(struct json_object *object) {
    struct json_object *gain = json_member(object, "gain");
    int64_t milli = json_integer(gain, "cpus_milli", 0), bytes = json_integer(gain, "memory", 0);
    _cleanup_free_ char *cpus = text_format_cpus((uint64_t) (milli < 0 ? -milli : milli));
    _cleanup_free_ char *memory = text_format_size((uint64_t) (bytes < 0 ? -bytes : bytes));

    return text_format("%s%s cpus, %s%s", milli < 0 ? "-" : "", cpus ? cpus : "?", bytes < 0 ? "-" : "",
                       memory ? memory : "?");
}

static char *cell_cost(struct json_object *object) {
    struct json_object *cost = json_member(object, "cost");
    int64_t bytes = json_integer(cost, "bytes", 0);
    _cleanup_free_ char *size = text_format_size((uint64_t) bytes);

    if (bytes == 0)
        return strdup("none");
    return text_format("%.1f s, %s written", json_object_get_double(json_member(cost, "seconds")), size ? size : "?");
}

static const struct column step_columns[] = {
    { .title = "INSTANCE", .path = "instance" }, { .title = "ACTION", .path = "action" },
    { .title = "BEFORE", .cell = cell_before },  { .title = "AFTER", .cell = cell_after },
    { .title = "GAIN", .cell = cell_gain },      { .title = "COST", .cell = cell_cost },
    { .title = "WHY", .path = "message" },       { .title = "CONSTRAINT", .path = "constraint", .wide = true },
};
static const struct view step_view = { .columns = step_columns, .count = ELEMENTS(step_columns), .name = "instance",
                                       .empty = "nothing to do: no change that would help was found" };

static void show_line(char *line) {
    if (line)
        print_escaped(stdout, line, strlen(line), false);
    putchar('\n');
    free(line);
}

static void show_waiting(struct json_object *waiting) {
    bool fits = json_boolean(waiting, "fits_afterwards", false);

    if (json_object_is_type(waiting, json_type_object))
        show_line(text_format("%s waits for room; afterwards it %s", json_text(waiting, "instance", ""),
                              fits ? "fits" : "still does not fit"));
}

static void show_kept(struct json_object *kept, bool wide, bool others) {
    size_t count = json_object_is_type(kept, json_type_array) ? json_object_array_length(kept) : 0;

    if (count > 0 && !wide)
        printf("%zu%s stay%s as %s (-o wide says why)\n", count, others ? " more" : "", count > 1 ? "" : "s",
               count > 1 ? "they are" : "it is");
    for (size_t i = 0; wide && i < count; i++) {
        struct json_object *one = json_object_array_get_idx(kept, i);
        show_line(text_format("%s stays as it is: %s", json_text(one, "instance", ""), json_text(one, "message", "")));
    }
}

/* Of one that comes from the ledger. */
static void show_applied(struct json_object *applied) {
    for (size_t i = 0; json_object_is_type(applied, json_type_array) && i < json_object_array_length(applied); i++)
        show_optimized(json_object_array_get_idx(applied, i));
}

int show_plan(struct invocation *invocation, struct json_object *plan, struct error *error) {
    struct json_object *inner = json_member(plan, "plan"), *steps = json_member(inner, "steps");
    const char *state = json_text(plan, "state", "");
    bool table = invocation->output == OUTPUT_TABLE || invocation->output == OUTPUT_WIDE;
    bool any = json_object_is_type(steps, json_type_array) && json_object_array_length(steps) > 0;
    _cleanup_free_ char *gain = NULL, *left = NULL;
    int r = output_list(invocation, &step_view, steps, plan, error);

    if (r < 0 || !table || invocation->quiet)
        return r;
    gain = cell_gain(inner);
    left = text_format_duration((uint64_t) json_integer(plan, "valid_seconds", 0) * 1000);
    show_waiting(json_member(inner, "waiting"));
    show_kept(json_member(inner, "kept"), invocation->output == OUTPUT_WIDE, any);
    if (any && text_equal(state, "open"))
        printf("plan %s, in all %s: polder optimize apply %s (within %s)\n", json_text(plan, "id", ""), gain ? gain : "",
               json_text(plan, "id", ""), left ? left : "");
    else if (any)
        printf("plan %s: %s\n", json_text(plan, "id", ""), state);
    show_applied(json_member(plan, "applied"));
    return 0;
}

/* --- commands ------------------------------------------------------------------------------------------- */

static int run_plan(struct invocation *invocation, struct error *error) {
    const struct optimize_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&body);
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    emit_object(&emitter);
    if (options->observe)
        emit_key_text(&emitter, "observe", options->observe);
    if (options->cooldown)
        emit_key_text(&emitter, "cooldown", options->cooldown);
    emit_object_end(&emitter);
    if (r >= 0)
        r = client_request(client, "POST", "/v1/optimize/plans", body.data, &response, error);
    return r < 0 ? r : show_plan(invocation, response.json, error);
}

static char *plan_path(const char *id, const char *suffix) {
    _cleanup_free_ char *encoded = url_encode(id);

    return encoded ? text_format("/v1/optimize/plans/%s%s", encoded, suffix) : NULL;
}

static int run_show(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = plan_path(invocation->arguments[0], "");
    struct client *client = NULL;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    return r < 0 ? r : show_plan(invocation, response.json, error);
}

static void show_done(struct json_object *steps) {
    for (size_t i = 0; json_object_is_type(steps, json_type_array) && i < json_object_array_length(steps); i++) {
        struct json_object *step = json_object_array_get_idx(steps, i);
        const char *message = json_text(step, "message", NULL);
        show_line(text_format("%s %s%s%s", json_text(step, "action", ""), json_text(step, "instance", ""),
                              message ? ": " : "", message ? message : ""));
    }
}

static int run_apply(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    const char *id = invocation->arguments[0];
    _cleanup_free_ char *path = plan_path(id, "/apply");
    int r = path ? change_run(invocation, "POST", path, NULL, id, &response, error)
                 : error_set(error, ERROR_NO_MEMORY, "");

    if (r < 0 || invocation->no_wait || invocation->quiet)
        return r;
    if (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE)
        return output_object(invocation, response.json, "id", error);
    show_done(json_path(response.json, "result.steps"));
    return 0;
}

static const struct flag plan_flags[] = {
    { .name = "observe", .type = FLAG_TEXT, .offset = offsetof(struct optimize_options, observe), .value = "DURATION",
      .help = "Only of those that were measured for so long; 10m if not told." },
    { .name = "cooldown", .type = FLAG_TEXT, .offset = offsetof(struct optimize_options, cooldown), .value = "DURATION",
      .help = "Only of those that did not change for so long; 30m if not told." },
};

static const struct command optimize_plan = {
    .name = "plan", .group = GROUP_NODE, .summary = "Show what could be better, and change nothing", .usage = "",
    .description = "Promises follow what was measured: less for who never used what it asked for, more for who uses more and "
                   "has the limit for it. While somebody waits for room that this does not give, machines that idle and are "
                   "not more important go to disk, as few as it takes. The label polder.optimize=off keeps an instance as "
                   "it is.",
    .examples = "  polder optimize plan\n  polder optimize plan --observe 1h -o wide\n",
    .flags = plan_flags, .flag_count = ELEMENTS(plan_flags), .options_size = sizeof(struct optimize_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_plan,
};
static const struct command optimize_show = {
    .name = "show", .group = GROUP_NODE, .summary = "Show a plan that was made lately", .usage = "PLAN",
    .minimum = 1, .maximum = 1, .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_show,
};
static const struct command optimize_apply = {
    .name = "apply", .group = GROUP_NODE, .summary = "Carry a plan out", .usage = "PLAN",
    .description = "It is refused if any instance came, went or changed since the plan was made. The steps are ordinary "
                   "changes, one after the other; the first that fails ends it.",
    .minimum = 1, .maximum = 1, .common = COMMON_OUTPUT | COMMON_QUIET | COMMON_WAIT, .run = run_apply,
};
static const struct command *const optimize_commands[] = { &optimize_plan, &optimize_show, &optimize_apply, NULL };

const struct command command_optimize = {
    .name = "optimize", .group = GROUP_NODE, .summary = "Plans that make room: plan, show, apply",
    .children = optimize_commands,
};
