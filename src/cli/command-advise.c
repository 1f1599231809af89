// SPDX-License-Identifier: GPL-2.0-or-later
/* advise and simulate. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/program.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/placement.h"
#include "cli/terminal.h"

struct advise_options {
    const char *cpus, *memory, *weights;
    bool untrusted, own_kernel, graphics;
};

static int add_text(char **query, const char *name, const char *value) {
    _cleanup_free_ char *before = *query, *encoded = NULL;

    if (!value)
        return (*query = STEAL_PTR(before)) ? 0 : -ENOMEM;
    encoded = url_encode(value);
    *query = encoded && before ? text_format("%s%s%s=%s", before, strchr(before, '?') ? "&" : "?", name, encoded) : NULL;
    return *query ? 0 : -ENOMEM;
}

static char *advice_path(const struct invocation *invocation) {
    const struct advise_options *options = invocation->options;
    char *path = strdup("/v1/advice");

    if (!path || add_text(&path, "image", invocation->count > 0 ? invocation->arguments[0] : NULL) < 0 ||
        add_text(&path, "cpus", options->cpus) < 0 || add_text(&path, "memory", options->memory) < 0 ||
        add_text(&path, "weights", options->weights) < 0 ||
        add_text(&path, "untrusted", options->untrusted ? "true" : NULL) < 0 ||
        add_text(&path, "own_kernel", options->own_kernel ? "true" : NULL) < 0 ||
        add_text(&path, "graphics", options->graphics ? "true" : NULL) < 0)
        return NULL;
    return path;
}

static const struct column advice_columns[] = {
    { .title = "KIND", .path = "kind" },
    { .title = "SCORE", .path = "total", .right = true },
    { .title = "PERFORMANCE", .path = "scores.performance", .right = true },
    { .title = "RESOURCES", .path = "scores.resources", .right = true },
    { .title = "SECURITY", .path = "scores.security", .right = true },
    { .title = "COMPATIBILITY", .path = "scores.compatibility", .right = true },
    { .title = "COST", .path = "scores.cost", .right = true },
    { .title = "FIT", .path = "node_holds", .right = true },
    { .title = "SIZE", .path = "size.message" },
    { .title = "EXCLUDED", .path = "excluded" },
};
static const struct view advice_view = { .columns = advice_columns, .count = ELEMENTS(advice_columns), .name = "kind" };

static int show_advice(struct invocation *invocation, struct json_object *advice, struct error *error) {
    const char *why = json_text(advice, "why", "");
    int r;

    print_escaped(stdout, why, strlen(why), false);
    puts("\n");
    r = output_list(invocation, &advice_view, json_member(advice, "kinds"), json_member(advice, "kinds"), error);
    if (r < 0)
        return r;
    if (invocation->output == OUTPUT_TABLE || invocation->output == OUTPUT_WIDE) {
        puts("");
        show_placement(json_member(advice, "placement"));
    }
    printf("\nweights: performance %s, resources %s, security %s, compatibility %s, cost %s (--weigh changes them)\n",
           json_path_text(advice, "weights.performance", "?"), json_path_text(advice, "weights.resources", "?"),
           json_path_text(advice, "weights.security", "?"), json_path_text(advice, "weights.compatibility", "?"),
           json_path_text(advice, "weights.cost", "?"));
    return r;
}

static int run_advise(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = advice_path(invocation);
    struct client *client;
    int r = path ? invocation_client(invocation, &client, error) : error_set(error, ERROR_NO_MEMORY, "");

    if (r >= 0)
        r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0)
        return r;
    if (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE)
        return output_object(invocation, response.json, "kind", error);
    return show_advice(invocation, response.json, error);
}

static const struct flag advise_flags[] = {
    { .name = "cpus", .type = FLAG_TEXT, .offset = offsetof(struct advise_options, cpus), .value = "NUMBER",
      .help = "Processors it would use." },
    { .name = "memory", .letter = 'm', .type = FLAG_TEXT, .offset = offsetof(struct advise_options, memory),
      .value = "SIZE", .help = "Memory it would use." },
    { .name = "weigh", .alias = "weights", .type = FLAG_TEXT, .offset = offsetof(struct advise_options, weights),
      .value = "CRITERION=0..10,...", .help = "What counts how much: performance, resources, security, compatibility, cost." },
    { .name = "untrusted", .type = FLAG_SWITCH, .offset = offsetof(struct advise_options, untrusted),
      .help = "It runs code of strangers: security counts at least 8." },
    { .name = "own-kernel", .type = FLAG_SWITCH, .offset = offsetof(struct advise_options, own_kernel),
      .help = "It loads modules, or runs another system than Linux." },
    { .name = "graphics", .type = FLAG_SWITCH, .offset = offsetof(struct advise_options, graphics),
      .help = "It needs a screen." },
};

const struct command command_advise = {
    .name = "advise", .group = GROUP_NODE, .summary = "Tell which kind suits a need on this node, and why",
    .usage = "[IMAGE]",
    .description = "Scores each kind from 0 to 1000 for performance, resources, security, compatibility and cost, from "
                   "what the host's probes found and measured, and says what would change the answer, and which size to ask "
                   "for and whether that is what was asked for, the default, or what such instances were seen to use. "
                   "--kind auto asks the same advisor.",
    .examples = "  polder advise debian:bookworm\n  polder advise --untrusted --weigh security=10,cost=0 busybox\n",
    .flags = advise_flags, .flag_count = ELEMENTS(advise_flags), .options_size = sizeof(struct advise_options),
    .maximum = 1, .complete = COMPLETE_IMAGES, .common = COMMON_OUTPUT, .run = run_advise,
};

/* --- simulate --------------------------------------------------------------------------------------------------------- */

/* Where the simulator lies: beside an installed polder, or in the tree it was built in. */
static char *simulator_path(void) {
    static const char *const places[] = { "../lib/polder/polder-simulate", "../simulator/polder-simulate" };

    return program_beside(places, ELEMENTS(places));
}

static int run_simulate(struct invocation *invocation, struct error *error) {
    _cleanup_free_ char *path = simulator_path();
    _cleanup_free_ char **words = calloc(invocation->rest_count + 2, sizeof(char *));
    size_t count = 0;

    if (!words)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (!path)
        return error_set(error, ERROR_HOST_LACKS, "polder-simulate", "it is installed with polder: install Polder again");
    if (invocation->socket) /* for what asks polderd in its turn: queue --tune --apply */
        (void) setenv("POLDER_SOCKET", invocation->socket, 1);
    words[count++] = (char *) "polder-simulate";
    for (size_t i = 0; i < invocation->rest_count; i++)
        words[count++] = invocation->rest[i];
    execv(path, words);
    return error_errno(error, -errno, "starting %s", path);
}

const struct command command_simulate = {
    .name = "simulate", .group = GROUP_MORE, .summary = "Replay traces through the engine, and compare policies",
    .usage = "[MODE] [OPTIONS] FILE...",
    .description = "Runs the engine on virtual time, without a daemon: queues of jobs (Standard Workload Format), "
                   "placement, machine reassignment, consolidation. 'polder simulate help' names the modes, 'polder "
                   "simulate MODE --help' their options.",
    .examples = "  polder simulate help\n  polder simulate queue --policy fcfs,sjf --backfill easy log.swf.gz\n"
                "  polder queue --ledger record && polder simulate queue --tune p95 --apply record\n",
    .takes_rest = true, .passes_flags = true, .run = run_simulate,
};
