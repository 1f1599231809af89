// SPDX-License-Identifier: GPL-2.0-or-later
/* node, network, doctor, lifecycle, fsck, audit. */
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
#include "cli/operation.h"
#include "cli/output.h"
#include "cli/terminal.h"

struct node_options {
    bool deep, repair;
    const char *policy, *backfill, *estimates, *residency;
    char **parameters, **labels, **taints;
    int64_t limit;
    const char *after;
};

static int get(struct invocation *invocation, const char *path, struct response *ret, struct error *error) {
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    return r < 0 ? r : client_request(client, "GET", path, NULL, ret, error);
}

static bool wants_table(const struct invocation *invocation) {
    return invocation->output == OUTPUT_TABLE || invocation->output == OUTPUT_WIDE;
}

/* --- node ----------------------------------------------------------------------------------------------------------- */

static void show_line(const char *title, char *value_take) {
    printf("%-14s ", title);
    print_escaped(stdout, value_take ? value_take : "-", value_take ? strlen(value_take) : 1, false);
    putchar('\n');
    free(value_take);
}

static char *number_of(struct json_object *node, const char *path, bool milli) {
    struct json_object *value = json_path(node, path);
    uint64_t number = value ? (uint64_t) json_object_get_int64(value) : 0;

    return milli ? text_format_cpus(number) : text_format_size(number);
}

static char *promised_text(struct json_object *node, const char *part, const char *real, bool milli) {
    char path[64];
    _cleanup_free_ char *has = NULL, *promised = NULL, *taken = NULL;

    snprintf(path, sizeof(path), "%s.%s", part, real);
    has = number_of(node, path, milli);
    snprintf(path, sizeof(path), "%s.promised%s", part, milli ? "_milli" : "");
    promised = number_of(node, path, milli);
    snprintf(path, sizeof(path), "%s.taken%s", part, milli ? "_milli" : "");
    taken = number_of(node, path, milli);
    return text_format("%s real, %s promised, %s of the real taken", has ? has : "", promised ? promised : "",
                       taken ? taken : "");
}

/* What may be promised to one kind alone: real x ratio. */
static char *virtual_text(struct json_object *node, const char *part, const char *member, bool milli) {
    static const char *const kinds[] = { "container", "microvm", "vm" };
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *text = NULL, path[96];

    for (size_t i = 0; i < ELEMENTS(kinds); i++) {
        snprintf(path, sizeof(path), "%s.%s.%s", part, member, kinds[i]);
        _cleanup_free_ char *amount = number_of(node, path, milli);
        snprintf(path, sizeof(path), "%s.overcommit_percent.%s", part, kinds[i]);
        buffer_addf(&out, "%s%s to %ss (x %s %%)", i > 0 ? ", " : "", amount ? amount : "", kinds[i],
                    json_path_text(node, path, "100"));
    }
    return buffer_take(&out, &text) < 0 ? NULL : text;
}

static void show_kinds(struct json_object *kinds) {
    if (!json_object_is_type(kinds, json_type_object))
        return;
    json_object_object_foreach(kinds, kind, value) {
        const char *reason = json_text(value, "reason", NULL);
        show_line(kind, text_format("%s%s%s", json_boolean(value, "available", false) ? "can run" : "cannot run",
                                    reason ? ": " : "", reason ? reason : ""));
    }
}

/* "a=b, c"; NULL: none. */
static char *pairs_text(struct json_object *node, const char *member) {
    struct json_object *pairs = json_member(node, member);
    _cleanup_list_ char **texts = NULL;

    if (!json_object_is_type(pairs, json_type_object))
        return NULL;
    json_object_object_foreach(pairs, key, value) {
        const char *text = json_object_get_string(value);
        (void) list_addf(&texts, "%s%s%s", key, text_is_empty(text) ? "" : "=", text ? text : "");
    }
    return texts ? list_join(texts, ", ") : NULL;
}

static char *list_text(struct json_object *node, const char *member) {
    struct json_object *array = json_member(node, member);
    _cleanup_list_ char **texts = NULL;

    for (size_t i = 0; json_object_is_type(array, json_type_array) && i < json_object_array_length(array); i++)
        (void) list_add(&texts, json_object_get_string(json_object_array_get_idx(array, i)));
    return texts ? list_join(texts, ", ") : NULL;
}

static int run_node_show(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    int r = get(invocation, "/v1/node", &response, error);
    struct json_object *node = response.json;
    _cleanup_free_ char *size = NULL, *available = NULL;

    if (r < 0 || !wants_table(invocation))
        return r < 0 ? r : output_object(invocation, node, "name", error);
    show_line("Name", text_format("%s", json_text(node, "name", "")));
    show_line("Version", text_format("%s", json_text(node, "version", "")));
    show_line("Kernel", text_format("%s %s", json_text(node, "kernel", ""), json_text(node, "machine", "")));
    show_line("Acceleration", text_format("%s (%s)", json_text(node, "acceleration", ""),
                                          json_text(node, "acceleration_reason", "")));
    show_line("Cgroups", text_format("%s", json_text(node, "cgroups", "")));
    show_line("Labels", pairs_text(node, "labels"));
    show_line("Taints", pairs_text(node, "taints"));
    show_line("Measured", list_text(node, "measured"));
    show_line("CPUs", promised_text(node, "cpus", "physical_milli", true));
    show_line("  may promise", virtual_text(node, "cpus", "virtual_milli", true));
    show_line("Memory", promised_text(node, "memory", "physical", false));
    show_line("  may promise", virtual_text(node, "memory", "virtual", false));
    size = number_of(node, "disk.size", false);
    available = number_of(node, "disk.free", false);
    show_line("Disk", text_format("%s, %s free", size ? size : "", available ? available : ""));
    show_line("Instances", text_format("%s, %s admitted, %s queued", json_path_text(node, "instances.total", "0"),
                                       json_path_text(node, "instances.admitted", "0"),
                                       json_path_text(node, "instances.queued", "0")));
    show_line("Queue", text_format("%s, backfilling %s, estimates %s", json_path_text(node, "queue.policy", ""),
                                   json_path_text(node, "queue.backfill", ""),
                                   json_path_text(node, "queue.estimates", "")));
    show_kinds(json_member(node, "kinds"));
    return 0;
}

static const struct flag set_flags[] = {
    { .name = "policy", .type = FLAG_TEXT, .offset = offsetof(struct node_options, policy), .value = "POLICY",
      .help = "Who comes first among those that wait: polder, fcfs, sjf, srtf, rr, priority, dynamic, ..." },
    { .name = "backfill", .type = FLAG_TEXT, .offset = offsetof(struct node_options, backfill), .value = "KIND",
      .help = "Who may go ahead of the first that does not fit: none, easy, easy-sjbf, conservative or greedy." },
    { .name = "estimates", .type = FLAG_TEXT, .offset = offsetof(struct node_options, estimates), .value = "KIND",
      .help = "How long a run is taken to last: requested, predicted (its class's last two), history, or learning." },
    { .name = "parameter", .type = FLAG_LIST, .offset = offsetof(struct node_options, parameters), .value = "NAME=VALUE",
      .help = "Parameter of a policy, such as rr.quantum=30; NAME= sets it back to its default." },
    { .name = "residency", .type = FLAG_TEXT, .offset = offsetof(struct node_options, residency), .value = "DURATION",
      .help = "How long nobody who started has to give way." },
    { .name = "label", .type = FLAG_LIST, .offset = offsetof(struct node_options, labels), .value = "KEY=VALUE",
      .help = "Label that instances can ask for (--node-label), such as zone=a; KEY- takes it away." },
    { .name = "taint", .type = FLAG_LIST, .offset = offsetof(struct node_options, taints), .value = "KEY[=VALUE][:NoSchedule]",
      .help = "Taint: instances that do not tolerate it (--toleration) do not start here; KEY- takes it away." },
};

/* "KEY=VALUE", "KEY" and "KEY-" as a merge patch of a map. An effect that is understood is dropped; others are the server's to
 * refuse. */
static void emit_pairs(const char *name, char *const *pairs, struct emitter *emitter) {
    if (!pairs)
        return;
    emit_key(emitter, name);
    emit_object(emitter);
    for (char *const *pair = pairs; *pair; pair++) {
        size_t length = strlen(*pair) - (text_ends(*pair, ":NoSchedule") ? strlen(":NoSchedule") : 0);
        size_t key = strcspn(*pair, "=:");
        bool gone = key == length && key > 0 && (*pair)[key - 1] == '-';
        _cleanup_free_ char *name_of = strndup(*pair, gone ? key - 1 : key < length ? key : length);
        size_t from = key + ((*pair)[key] == '=');
        _cleanup_free_ char *value = from < length ? strndup(*pair + from, length - from) : strdup("");
        emit_key_text(emitter, name_of ? name_of : "", gone ? NULL : value);
    }
    emit_object_end(emitter);
}

static void emit_set(const struct node_options *options, struct emitter *emitter) {
    const char *const names[] = { "policy", "backfill", "estimates", "residency" };
    const char *const values[] = { options->policy, options->backfill, options->estimates, options->residency };

    emit_object(emitter);
    emit_pairs("labels", options->labels, emitter);
    emit_pairs("taints", options->taints, emitter);
    if ((options->labels || options->taints) && !options->parameters && !options->policy && !options->backfill &&
        !options->estimates && !options->residency) {
        emit_object_end(emitter);
        return;
    }
    emit_key(emitter, "queue");
    emit_object(emitter);
    for (size_t i = 0; i < ELEMENTS(names); i++)
        if (values[i])
            emit_key_text(emitter, names[i], values[i]);
    if (options->parameters) {
        emit_key(emitter, "parameters");
        emit_object(emitter);
        for (char **pair = options->parameters; *pair; pair++) {
            const char *value = strchr(*pair, '=');
            _cleanup_free_ char *name = strndup(*pair, value ? (size_t) (value - *pair) : strlen(*pair));
            emit_key_text(emitter, name ? name : "", value && value[1] ? value + 1 : NULL);
        }
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
    emit_object_end(emitter);
}

static int run_node_set(struct invocation *invocation, struct error *error) {
    const struct node_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    _cleanup_free_ char *body = NULL;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct client *client;
    int r;

    emit_set(options, &emitter);
    r = buffer_take(&buffer, &body) < 0 ? error_set(error, ERROR_NO_MEMORY, "") : 0;
    if (r >= 0)
        r = invocation_client(invocation, &client, error);
    if (r >= 0)
        r = client_request(client, "PATCH", invocation->dry_run ? "/v1/node?dry_run=true" : "/v1/node", body, &response,
                           error);
    if (r < 0 || invocation->quiet)
        return r;
    if (wants_table(invocation) && (options->labels || options->taints)) {
        show_line("Labels", pairs_text(response.json, "labels"));
        show_line("Taints", pairs_text(response.json, "taints"));
        return 0;
    }
    return output_object(invocation, json_member(response.json, "queue"), "policy", error);
}

/* --- network --------------------------------------------------------------------------------------------------------- */

static const struct column network_columns[] = {
    { .title = "NAME", .path = "name" },       { .title = "BRIDGE", .path = "bridge" },
    { .title = "SUBNET", .path = "subnet" },   { .title = "GATEWAY", .path = "gateway" },
    { .title = "DOMAIN", .path = "domain" },   { .title = "MEMBERS", .path = "members", .right = true },
    { .title = "MTU", .path = "mtu", .wide = true, .right = true },
};
static const struct view network_view = { .columns = network_columns, .count = ELEMENTS(network_columns),
                                          .name = "name" };

static int run_network_show(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    int r = get(invocation, "/v1/networks", &response, error);

    return r < 0 ? r : output_list(invocation, &network_view, json_member(response.json, "networks"),
                                   json_member(response.json, "networks"), error);
}

static int post(struct invocation *invocation, const char *path, const char *body, struct response *ret,
                struct error *error) {
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    return r < 0 ? r : client_request(client, "POST", path, body, ret, error);
}

static const struct column flow_columns[] = {
    { .title = "FROM", .path = "from" },
    { .title = "TO", .path = "to" },
    { .title = "PACKETS", .path = "packets", .right = true },
    { .title = "BYTES/PACKET", .path = "bytes_per_packet", .right = true },
    { .title = "BYTES", .path = "bytes", .right = true },
};
static const struct view flow_view = { .columns = flow_columns, .count = ELEMENTS(flow_columns), .name = "from",
                                       .empty = "no traffic between instances was seen lately" };

static int run_network_flows(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    int r = get(invocation, "/v1/network/flows", &response, error);
    struct json_object *together;

    if (r >= 0)
        r = output_list(invocation, &flow_view, json_member(response.json, "flows"), response.json, error);
    if (r < 0 || invocation->quiet || (invocation->output != OUTPUT_TABLE && invocation->output != OUTPUT_WIDE))
        return r;
    together = json_member(response.json, "together");
    for (size_t i = 0; json_object_is_type(together, json_type_array) && i < json_object_array_length(together); i++) {
        struct json_object *hint = json_object_array_get_idx(together, i);
        printf("%s had better stay on one node with %s: %s %% of its traffic\n", json_text(hint, "name", ""),
               json_text(hint, "with", ""), json_path_text(hint, "percent", "?"));
    }
    return r;
}

static int run_network_reset(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;

    return post(invocation, "/v1/network/reset", NULL, &response, error);
}

/* --- doctor --------------------------------------------------------------------------------------------------------- */

static const char *mark_of(const char *level) {
    static const struct {
        const char *level, *mark, *colour;
    } marks[] = { { "ok", "ok     ", "32" }, { "note", "note   ", "36" }, { "warning", "warning", "33" },
                  { "error", "ERROR  ", "31" } };
    static char text[32];

    for (size_t i = 0; i < ELEMENTS(marks); i++)
        if (!strcmp(level, marks[i].level)) {
            if (!terminal_has_colours(stdout))
                return marks[i].mark;
            snprintf(text, sizeof(text), "\033[%sm%s\033[0m", marks[i].colour, marks[i].mark);
            return text;
        }
    return level;
}

static void show_part(const char *label, const char *text) {
    if (!text || !*text)
        return;
    printf("         %s", label);
    print_escaped(stdout, text, strlen(text), false);
    putchar('\n');
}

static void show_finding(struct json_object *finding) {
    const char *text = json_text(finding, "text", ""), *topic = json_text(finding, "topic", "");

    printf("%s  ", mark_of(json_text(finding, "level", "")));
    print_escaped(stdout, topic, strlen(topic), false);
    fputs(": ", stdout);
    print_escaped(stdout, text, strlen(text), false);
    putchar('\n');
    show_part("", json_text(finding, "reason", NULL));
    show_part("-> ", json_text(finding, "advice", NULL));
}

static const struct column finding_columns[] = {
    { .title = "LEVEL", .path = "level" },   { .title = "TOPIC", .path = "topic" }, { .title = "TEXT", .path = "text" },
    { .title = "REASON", .path = "reason" }, { .title = "ADVICE", .path = "advice" },
};
static const struct view finding_view = { .columns = finding_columns, .count = ELEMENTS(finding_columns),
                                          .name = "topic" };

/* Exit status 1 when something that Polder needs is missing. */
static int run_doctor(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    int r = get(invocation, "/v1/doctor", &response, error), status = 0;
    struct json_object *findings = response.json;

    if (r < 0)
        return r;
    for (size_t i = 0; json_object_is_type(findings, json_type_array) && i < json_object_array_length(findings); i++) {
        struct json_object *finding = json_object_array_get_idx(findings, i);
        if (!strcmp(json_text(finding, "level", ""), "error"))
            status = 1;
        if (wants_table(invocation))
            show_finding(finding);
    }
    if (!wants_table(invocation))
        r = output_list(invocation, &finding_view, findings, findings, error);
    return r < 0 ? r : status;
}

/* --- lifecycle, fsck, audit ------------------------------------------------------------------------------------------- */

static const struct column transition_columns[] = {
    { .title = "STATE", .path = "from" },
    { .title = "EVENT", .path = "event" },
    { .title = "NEXT", .path = "to" },
};
static const struct view transition_view = { .columns = transition_columns, .count = ELEMENTS(transition_columns),
                                             .name = "event" };

static int run_lifecycle(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    int r = get(invocation, "/v1/lifecycle", &response, error);

    return r < 0 ? r : output_list(invocation, &transition_view, json_member(response.json, "transitions"),
                                   response.json, error);
}

static int run_fsck(struct invocation *invocation, struct error *error) {
    const struct node_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    struct json_object *result, *problems;
    char body[64];
    int r;

    snprintf(body, sizeof(body), "{\"deep\":%s,\"repair\":%s,\"follow\":true}", options->deep ? "true" : "false",
             options->repair ? "true" : "false");
    r = change_run(invocation, "POST", "/v1/fsck", body, "fsck", &response, error);
    if (r < 0)
        return r;
    result = json_member(response.json, "result");
    problems = json_member(result, "problems");
    if (invocation->output_given && !wants_table(invocation)) {
        r = output_object(invocation, result, "clean", error);
    } else {
        for (size_t i = 0; json_object_is_type(problems, json_type_array) && i < json_object_array_length(problems); i++) {
            const char *text = json_object_get_string(json_object_array_get_idx(problems, i));
            print_escaped(stdout, text, strlen(text), false);
            putchar('\n');
        }
        if (json_boolean(result, "clean", false) && !invocation->quiet)
            puts("clean");
    }
    return r < 0 ? r : !json_boolean(result, "clean", false);
}

static const struct column audit_columns[] = {
    { .title = "ID", .path = "id", .right = true }, { .title = "TIME", .path = "time" },
    { .title = "ACTOR", .path = "actor" },          { .title = "ORIGIN", .path = "origin" },
    { .title = "ACTION", .path = "action" },        { .title = "OBJECT", .path = "object" },
    { .title = "RESULT", .path = "result" },
};
static const struct view audit_view = { .columns = audit_columns, .count = ELEMENTS(audit_columns), .name = "id" };

static int run_audit(struct invocation *invocation, struct error *error) {
    const struct node_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *after = options->after ? url_encode(options->after) : NULL;
    _cleanup_free_ char *path = text_format("/v1/audit?limit=%lld%s%s",
                                            (long long) (options->limit ? options->limit : 100), after ? "&after=" : "",
                                            after ? after : "");
    int r = path ? get(invocation, path, &response, error) : error_set(error, ERROR_NO_MEMORY, "");

    return r < 0 ? r : output_list(invocation, &audit_view, json_member(response.json, "audit"),
                                   json_member(response.json, "audit"), error);
}

/* --- rows -------------------------------------------------------------------------------------------------------------- */

static const struct flag fsck_flags[] = {
    { .name = "deep", .type = FLAG_SWITCH, .offset = offsetof(struct node_options, deep),
      .help = "Compare contents and host resources too." },
    { .name = "repair", .type = FLAG_SWITCH, .offset = offsetof(struct node_options, repair),
      .help = "Remove what belongs to nothing." },
};
static const struct flag audit_flags[] = {
    { .name = "limit", .letter = 'n', .type = FLAG_NUMBER, .offset = offsetof(struct node_options, limit),
      .value = "NUMBER", .help = "At most so many; default 100." },
    { .name = "after", .type = FLAG_TEXT, .offset = offsetof(struct node_options, after), .value = "ID",
      .help = "Only older ones than this." },
};
static const struct command node_show = {
    .name = "show", .group = GROUP_NODE, .summary = "Show the node: what is promised and what is real", .usage = "",
    .common = COMMON_OUTPUT, .run = run_node_show,
};
static const struct command node_set = {
    .name = "set", .group = GROUP_NODE, .summary = "Set how those that wait for room are ordered, from now on", .usage = "",
    .examples = "  polder node set --policy srtf --backfill easy\n  polder node set --policy rr --parameter rr.quantum=60\n",
    .flags = set_flags, .flag_count = ELEMENTS(set_flags), .options_size = sizeof(struct node_options),
    .common = COMMON_OUTPUT | COMMON_QUIET | COMMON_DRY_RUN, .run = run_node_set,
};
static const struct command network_show = {
    .name = "show", .alias = "ls list", .group = GROUP_NODE, .summary = "Show the networks", .usage = "",
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_network_show,
};
static const struct command network_flows = {
    .name = "flows", .group = GROUP_NODE, .summary = "Show who sent how much to whom, and who had better stay together", .usage = "",
    .description = "What the bridge counted between instances since the daemon started, IP only: packets, times their mean size, is "
                   "bytes. Pairs that are silent for ten minutes are forgotten.",
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_network_flows,
};
static const struct command network_reset = {
    .name = "reset", .group = GROUP_NODE, .summary = "Remove bridge, rules and name server", .usage = "",
    .run = run_network_reset,
};
static const struct command *const node_commands[] = { &node_show, &node_set, NULL };
static const struct command *const network_commands[] = { &network_show, &network_flows, &network_reset, NULL };

const struct command command_node = {
    .name = "node", .group = GROUP_NODE, .summary = "The node: show, set", .children = node_commands,
};
const struct command command_network = {
    .name = "network", .group = GROUP_NODE, .summary = "Networks: show, flows, reset", .children = network_commands,
};
const struct command command_doctor = {
    .name = "doctor", .group = GROUP_NODE, .summary = "Tell what this host can do, why not, and what to do", .usage = "",
    .common = COMMON_OUTPUT, .run = run_doctor,
};
const struct command command_lifecycle = {
    .name = "lifecycle", .group = GROUP_MORE, .summary = "Print the table of states", .usage = "",
    .common = COMMON_OUTPUT, .run = run_lifecycle,
};
const struct command command_fsck = {
    .name = "fsck", .group = GROUP_NODE, .summary = "Check that records and host agree", .usage = "",
    .flags = fsck_flags, .flag_count = ELEMENTS(fsck_flags), .options_size = sizeof(struct node_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_fsck,
};
const struct command command_audit = {
    .name = "audit", .group = GROUP_NODE, .summary = "Show who changed what, newest first", .usage = "",
    .flags = audit_flags, .flag_count = ELEMENTS(audit_flags), .options_size = sizeof(struct node_options),
    .common = COMMON_OUTPUT | COMMON_QUIET, .run = run_audit,
};
