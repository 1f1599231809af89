// SPDX-License-Identifier: GPL-2.0-or-later
/* start, stop, restart, pause, resume, suspend, rm, undelete, kill, wait: the same verb for each name given. */
#include <errno.h>
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

struct action_options {
    const char *timeout, *signal, *state;
    bool force, purge;
};

static int act(struct invocation *invocation, const char *name, const char *verb, const char *body,
               struct error *error) {
    _cleanup_free_ char *suffix = text_format("/%s", verb), *path = suffix ? instance_path(name, suffix) : NULL;
    int r = path ? change_run(invocation, "POST", path, body, name, NULL, error)
                 : error_set(error, ERROR_NO_MEMORY, "");

    if (r == 0 && !invocation->no_wait && !invocation->quiet)
        puts(name);
    return r;
}

static int act_by_name(struct invocation *invocation, const char *name, struct error *error) {
    return act(invocation, name, invocation->command->name, NULL, error);
}

static int run_plain(struct invocation *invocation, struct error *error) {
    return for_each_name(invocation, act_by_name, error);
}

static int stop_one(struct invocation *invocation, const char *name, struct error *error) {
    const struct action_options *options = invocation->options;
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&body);

    emit_object(&emitter);
    if (options->timeout)
        emit_key_text(&emitter, "timeout", options->timeout);
    emit_key_boolean(&emitter, "force", options->force);
    emit_object_end(&emitter);
    return act(invocation, name, invocation->command->name, body.data, error);
}

static int run_stop(struct invocation *invocation, struct error *error) {
    return for_each_name(invocation, stop_one, error);
}

static int remove_one(struct invocation *invocation, const char *name, struct error *error) {
    const struct action_options *options = invocation->options;
    _cleanup_free_ char *query = text_format("?force=%s&purge=%s", options->force ? "true" : "false",
                                             options->purge ? "true" : "false");
    _cleanup_free_ char *path = query ? instance_path(name, query) : NULL;
    int r = path ? change_run(invocation, "DELETE", path, NULL, name, NULL, error)
                 : error_set(error, ERROR_NO_MEMORY, "");

    if (r == 0 && !invocation->no_wait && !invocation->quiet)
        puts(name);
    return r;
}

static int run_rm(struct invocation *invocation, struct error *error) {
    return for_each_name(invocation, remove_one, error);
}

static int kill_one(struct invocation *invocation, const char *name, struct error *error) {
    const struct action_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *path = instance_path(name, "/signal");
    _cleanup_buffer_ struct buffer body = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&body);
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    emit_object(&emitter);
    emit_key_text(&emitter, "signal", options->signal ? options->signal : "SIGKILL");
    emit_object_end(&emitter);
    if (r < 0 || !path || body.failed)
        return r < 0 ? r : error_set(error, ERROR_NO_MEMORY, "");
    r = client_request(client, "POST", path, body.data, &response, error);
    if (r == 0)
        puts(name);
    return r;
}

static int run_kill(struct invocation *invocation, struct error *error) {
    return for_each_name(invocation, kill_one, error);
}

static int wait_one(struct invocation *invocation, const char *name, struct error *error) {
    const struct action_options *options = invocation->options;
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_free_ char *query = NULL, *path = NULL;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    query = text_format("/wait?for=%s&timeout=%s", options->state ? options->state : "exited",
                        options->timeout ? options->timeout : "24h");
    path = query ? instance_path(name, query) : NULL;
    if (r < 0 || !path)
        return r < 0 ? r : error_set(error, ERROR_NO_MEMORY, "");
    r = client_request(client, "GET", path, NULL, &response, error);
    if (r < 0)
        return r;
    if (invocation->output_given)
        return output_object(invocation, response.json, "name", error);
    puts(json_path_text(response.json, "exit_code", json_path_text(response.json, "state", "")));
    return 0;
}

static int run_wait(struct invocation *invocation, struct error *error) {
    return for_each_name(invocation, wait_one, error);
}

#define ACTION_TEXT(flag_name, short_name, member, value_name, text)                                        \
    { .name = flag_name, .letter = short_name, .type = FLAG_TEXT,                                              \
      .offset = offsetof(struct action_options, member), .value = value_name, .help = text }
static const struct flag stop_flags[] = {
    ACTION_TEXT("time", 't', timeout, "DURATION", "How long it has to end before it is killed; default: its --stop-timeout."),
    { .name = "force", .letter = 'f', .type = FLAG_SWITCH, .offset = offsetof(struct action_options, force),
      .help = "Kill it at once." },
};
static const struct flag rm_flags[] = {
    { .name = "force", .letter = 'f', .type = FLAG_SWITCH, .offset = offsetof(struct action_options, force),
      .help = "Stop it first if it runs." },
    { .name = "purge", .type = FLAG_SWITCH, .offset = offsetof(struct action_options, purge),
      .help = "For good: 'undelete' cannot bring it back." },
};
static const struct flag kill_flags[] = {
    ACTION_TEXT("signal", 's', signal, "SIGNAL", "Signal to send; default SIGKILL."),
};
static const struct flag wait_flags[] = {
    ACTION_TEXT("for", 0, state, "STATE", "A state, exited (default: any ended state) or removed."),
    ACTION_TEXT("time", 't', timeout, "DURATION", "Give up after this long."),
};

#define PLAIN(variable, verb, text)                                                                          \
    const struct command command_##variable = {                                                              \
        .name = verb, .group = GROUP_INSTANCES, .summary = text, .usage = "INSTANCE...",                       \
        .common = COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET, .minimum = 1, .maximum = UINT_MAX,               \
        .complete = COMPLETE_INSTANCES, .run = run_plain,                                                    \
    }
PLAIN(start, "start", "Start instances");
PLAIN(pause, "pause", "Freeze instances; they keep their memory");
PLAIN(resume, "resume", "Let paused or suspended instances go on");
PLAIN(suspend, "suspend", "Save the memory of instances to disk and end their processes");
PLAIN(undelete, "undelete", "Take instances back out of the trash");

#define WITH_FLAGS(variable, verb, text, rows, extra, function)                                              \
    const struct command command_##variable = {                                                              \
        .name = verb, .group = GROUP_INSTANCES, .summary = text, .usage = "INSTANCE...", .flags = rows,         \
        .flag_count = ELEMENTS(rows), .options_size = sizeof(struct action_options), .common = extra,          \
        .minimum = 1, .maximum = UINT_MAX, .complete = COMPLETE_INSTANCES, .run = function,                    \
    }
WITH_FLAGS(stop, "stop", "Stop instances", stop_flags, COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET, run_stop);
WITH_FLAGS(restart, "restart", "Stop instances and start them again", stop_flags,
           COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET, run_stop);
WITH_FLAGS(rm, "rm", "Delete instances; for a while they can be undeleted", rm_flags,
           COMMON_WAIT | COMMON_DRY_RUN | COMMON_QUIET, run_rm);
WITH_FLAGS(kill, "kill", "Send a signal to the main process of instances", kill_flags, 0, run_kill);
WITH_FLAGS(wait, "wait", "Wait until instances ended; prints their exit codes", wait_flags, COMMON_OUTPUT, run_wait);
