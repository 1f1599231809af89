// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
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

#define PLAN_ID 12 /* letters of a plan's id */

struct why_options {
    bool replay;
};

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

/* "wait 12, patience 20000, ..."; NULL: the policy has no terms of its own. */
static char *terms_text(struct json_object *object) {
    struct json_object *terms = json_member(object, "terms");
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *text = NULL;

    if (!json_object_is_type(terms, json_type_object))
        return NULL;
    json_object_object_foreach(terms, name, value)
        buffer_addf(&out, "%s%s %.6g", out.size > 0 ? ", " : "", name, json_object_get_double(value));
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

static void show_score(struct json_object *why) {
    _cleanup_free_ char *terms = terms_text(why);

    if (!json_has(why, "score"))
        return;
    printf("score %.6g%s%s\n  = ", json_object_get_double(json_member(why, "score")), terms ? ": " : "", terms ? terms : "");
    show_text(json_text(why, "formula", ""));
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
    show_score(why);
}

static char *cell_cost(struct json_object *object) {
    return seconds_text(object, "cost");
}

static char *cell_asked(struct json_object *object) {
    return seconds_text(object, "asked_in");
}

static const struct column yielder_columns[] = {
    { .title = "NAME", .path = "name" },
    { .title = "WAY", .path = "way" },
    { .title = "FREES", .path = "frees" },
    { .title = "TAKES", .cell = cell_cost, .right = true },
    { .title = "ASKED-IN", .cell = cell_asked, .right = true },
    { .title = "WHY", .path = "message" },
};
static const struct view yielder_view = { yielder_columns, ELEMENTS(yielder_columns), "name" };

/* Who could give way for one that waits, and why each is not asked yet. */
static int show_yielders(const struct invocation *invocation, struct json_object *why, struct error *error) {
    struct json_object *yielders = json_member(why, "could_give_way"), *who = json_member(yielders, "who");
    int64_t more = json_integer(yielders, "more", 0);
    int r;

    if (!json_object_is_type(who, json_type_array) || json_object_array_length(who) == 0)
        return 0;
    fputs("who could give way: ", stdout);
    show_text(json_text(yielders, "message", ""));
    r = output_list(invocation, &yielder_view, who, NULL, error);
    if (r >= 0 && more > 0)
        printf("and %lld more\n", (long long) more);
    return r;
}

static void show_way(struct json_object *gives_way, const char *way) {
    struct json_object *told = json_member(gives_way, way), *asked = json_member(told, "asked_in");

    if (!told)
        return;
    printf("  to %s takes %.3g s and frees %s; ", way, json_object_get_double(json_member(told, "cost")),
           json_text(told, "frees", ""));
    if (!asked)
        puts("it is not asked to: it is expected to end sooner");
    else if (json_object_get_double(asked) > 0)
        printf("it is not asked to for another %.3g s\n", json_object_get_double(asked));
    else
        puts("it may be asked to");
}

/* How it gives way, or gave: each way with what it takes, and what that rests on. */
static void show_giving_way(struct json_object *object) {
    struct json_object *gives_way = json_member(object, "gives_way");
    struct json_object *measured = json_member(gives_way, "measured");

    if (!gives_way)
        return;
    if (json_text(gives_way, "for", NULL)) {
        _cleanup_free_ char *line = text_format("  for %s", json_text(gives_way, "for", ""));
        show_text(line ? line : "");
    }
    show_way(gives_way, "pause");
    show_way(gives_way, "suspend");
    if (json_has(gives_way, "suspend"))
        printf("  a GiB takes %.3g s to disk (measured %s times) and %.3g s back (%s times)\n",
               json_object_get_double(json_path(measured, "suspend.seconds_per_gib")), json_path_text(measured, "suspend.times", "0"),
               json_object_get_double(json_path(measured, "restore.seconds_per_gib")), json_path_text(measured, "restore.times", "0"));
}

static void show_running(struct json_object *why) {
    const char *message = json_text(why, "message", NULL), *kind = json_text(why, "why_kind", NULL);
    _cleanup_free_ char *line = text_format("%s is %s%s%s", json_text(why, "name", ""), json_text(why, "state", ""),
                                            message ? ": " : "", message ? message : "");

    show_text(line ? line : "");
    if (kind)
        show_text(kind);
    if (json_has(why, "gives_way"))
        puts("if it has to give way:");
    show_giving_way(why);
}

static void show_weight(struct json_object *why) {
    printf("weight %s beside the others: alpha %g x %s for its priority + beta %s x %.2f h of running\n",
           json_path_text(why, "weight.in_force", "?"),
           json_object_get_double(json_path(why, "weight.alpha_milli")) / 1000,
           json_path_text(why, "weight.priority_share", "?"), json_path_text(why, "weight.beta_per_hour", "?"),
           json_object_get_double(json_path(why, "weight.running_seconds")) / 3600);
}

static void show_decision(struct json_object *decision) {
    struct json_object *candidates = json_member(decision, "candidates");
    _cleanup_free_ char *line = text_format("decision %s: %s %s, by %s with backfilling %s (engine %s)",
                                            json_path_text(decision, "decision", "?"), json_text(decision, "verdict", ""),
                                            json_text(decision, "name", ""), json_text(decision, "policy", ""),
                                            json_text(decision, "backfill", ""), json_path_text(decision, "engine", "?"));

    show_text(line ? line : "");
    printf("  %s waited; of them %s lacked cpus, %s memory, %s fitted\n", json_path_text(decision, "waiting", "?"),
           json_path_text(decision, "counts.cpus", "?"), json_path_text(decision, "counts.memory", "?"),
           json_path_text(decision, "counts.order", "?"));
    for (size_t i = 0; json_object_is_type(candidates, json_type_array) && i < json_object_array_length(candidates); i++) {
        struct json_object *candidate = json_object_array_get_idx(candidates, i);
        const char *lacks = json_text(candidate, "lacks", NULL);
        _cleanup_free_ char *row =
            text_format("  %zu. %s: score %.6g (waited %.0f s, expected %s s, size %.4g, priority %lld)%s%s", i + 1,
                        json_text(candidate, "name", ""), json_object_get_double(json_member(candidate, "score")),
                        json_object_get_double(json_member(candidate, "waited")), json_path_text(candidate, "expected", "?"),
                        json_object_get_double(json_member(candidate, "size")),
                        (long long) json_integer(candidate, "priority", 0), lacks ? ", lacks " : "", lacks ? lacks : "");
        _cleanup_free_ char *terms = terms_text(candidate);
        show_text(row ? row : "");
        if (terms)
            printf("     %s\n", terms);
    }
    show_giving_way(decision);
    if (json_path(decision, "flip.sentence")) {
        fputs("  ", stdout);
        show_text(json_path_text(decision, "flip.sentence", ""));
    }
}

static int why_decision(struct invocation *invocation, const char *number, struct error *error) {
    const struct why_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = text_format("/v1/decisions/%s%s", number, options->replay ? "?replay=true" : "");
    struct client *client;
    bool same;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0)
        return r;
    if (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE)
        return output_object(invocation, response.json, "decision.decision", error);
    show_decision(json_member(response.json, "decision"));
    show_placement(json_member(response.json, "placement"));
    if (!options->replay)
        return 0;
    same = json_boolean(response.json, "same", false) && json_boolean(response.json, "placement_same", true);
    puts(same ? "made again: the same" : "made again: NOT the same");
    return same ? 0 : 1;
}

/* 0: it is no plan's. */
static int why_plan(struct invocation *invocation, const char *id, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = text_format("/v1/optimize/plans/%s", id);
    struct client *client;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0 && error->code == ERROR_NOT_FOUND) {
        error_clear(error);
        return 0;
    }
    return r < 0 ? r : show_plan(invocation, response.json, error) < 0 ? -EINVAL : 1;
}

static double milli(struct json_object *why, const char *path) {
    return json_object_get_double(json_path(why, path)) / 1000;
}

static void show_share(struct json_object *why) {
    printf("score %s: %g CPUs asked for x %g for its priority x %g for its weight\n", json_path_text(why, "allocation.score", "?"),
           milli(why, "allocation.requested_milli"), milli(why, "allocation.priority_factor_milli"),
           milli(why, "allocation.weight_factor_milli"));
    if (json_path(why, "control"))
        printf("control channel: %g messages a second: %g for its priority x %s\n", milli(why, "control.control_budget_milli"),
               milli(why, "control.control_priority_factor_milli"), json_path_text(why, "control.control_rate", "?"));
}

static int run_why(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    const char *name = invocation->arguments[0];
    _cleanup_free_ char *path = instance_path(name, "/why");
    struct client *client;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (strlen(name) == PLAN_ID && name[strspn(name, "0123456789abcdef")] == '\0') {
        int told = why_plan(invocation, name, error);
        if (told != 0)
            return told < 0 ? told : 0;
    }
    if (name[strspn(name, "0123456789")] == '\0')
        return why_decision(invocation, name, error);
    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0) {
        suggest_instance(invocation, name, error);
        return r;
    }
    if (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE)
        return output_object(invocation, response.json, "name", error);
    if (json_boolean(response.json, "waits", false)) {
        show_waiting(response.json);
        r = show_yielders(invocation, response.json, error);
        if (r < 0)
            return r;
    } else {
        show_running(response.json);
    }
    if (json_path(response.json, "weight"))
        show_weight(response.json);
    if (json_path(response.json, "allocation"))
        show_share(response.json);
    show_placement(json_member(response.json, "placement"));
    show_optimized(json_member(response.json, "optimizer"));
    if (json_object_is_type(json_member(response.json, "decision"), json_type_object))
        show_decision(json_member(response.json, "decision"));
    printf("policy %s, backfilling %s\n", json_text(response.json, "policy", ""), json_text(response.json, "backfill", ""));
    return 0;
}

static const struct flag why_flags[] = {
    { .name = "replay", .type = FLAG_SWITCH, .offset = offsetof(struct why_options, replay),
      .help = "Make the decision again from the ledger, and tell whether it comes out the same." },
};

const struct command command_why = {
    .name = "why", .group = GROUP_NODE, .summary = "Tell why an instance waits, or why a decision was made",
    .usage = "INSTANCE|DECISION|PLAN",
    .flags = why_flags, .flag_count = ELEMENTS(why_flags), .options_size = sizeof(struct why_options),
    .description = "PLAN is one of the optimiser's, also of before polderd was started. A number is that of a decision (the last one about an instance is told with it): the first eight "
                   "candidates with the terms of their scores, how many lacked what, and what would have changed it. What would let it start is found by trying on a copy of the queue: that it asks for less, that one "
                   "that runs were suspended, that the first of the queue were not there.",
    .minimum = 1, .maximum = 1, .complete = COMPLETE_INSTANCES, .common = COMMON_OUTPUT, .run = run_why,
};
