// SPDX-License-Identifier: GPL-2.0-or-later
/* exec, attach, console, logs. */
#include <json-c/json.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/operation.h"
#include "cli/session.h"
#include "cli/terminal.h"

struct inside_options {
    bool interactive, tty, follow, timestamps, no_stdin;
    const char *user, *directory, *tail;
    char **environment;
};

/* --- exec --------------------------------------------------------------------------------------------------------- */

static void emit_terminal(struct emitter *emitter) {
    uint16_t rows, columns;

    if (!terminal_size(&rows, &columns))
        return;
    emit_key_integer(emitter, "rows", rows);
    emit_key_integer(emitter, "columns", columns);
}

static int emit_environment(char *const *environment, struct emitter *emitter, struct error *error) {
    if (!environment)
        return 0;
    emit_key(emitter, "environment");
    emit_array(emitter);
    for (size_t i = 0; environment[i]; i++) {
        const char *own = strchr(environment[i], '=') ? NULL : getenv(environment[i]);
        _cleanup_free_ char *pair = own ? text_format("%s=%s", environment[i], own) : NULL;
        if (own || strchr(environment[i], '='))
            emit_text(emitter, own ? pair : environment[i]);
    }
    emit_array_end(emitter);
    return 0;
}

static int exec_request(const struct invocation *invocation, char **ret, struct error *error) {
    const struct inside_options *options = invocation->options;
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    emit_object(&emitter);
    emit_key_list(&emitter, "command", invocation->rest);
    (void) emit_environment(options->environment, &emitter, error);
    if (options->user)
        emit_key_text(&emitter, "user", options->user);
    if (options->directory)
        emit_key_text(&emitter, "working_directory", options->directory);
    emit_key_boolean(&emitter, "tty", options->tty);
    emit_key_boolean(&emitter, "stdin", options->interactive);
    if (options->tty)
        emit_terminal(&emitter);
    emit_object_end(&emitter);
    return buffer_take(&out, ret) < 0 ? error_set(error, ERROR_NO_MEMORY, "") : 0;
}

static int run_session(struct invocation *invocation, struct session_options *session, struct error *error) {
    struct client *client;
    int code = 0, r = invocation_client(invocation, &client, error);

    if (r == 0)
        r = session_run(client, session, &code, error);
    if (r == 0 && error_is_set(error))
        invocation_show_error(invocation, error);
    if (r < 0)
        suggest_instance(invocation, session->name, error);
    return r < 0 ? r : r == 1 ? 0 : code;
}

static int run_exec(struct invocation *invocation, struct error *error) {
    const struct inside_options *options = invocation->options;
    _cleanup_free_ char *path = instance_path(invocation->arguments[0], "/exec"), *first = NULL;
    struct session_options session = { .path = path, .input = options->interactive, .proxy_signals = !options->tty,
                                       .tty = options->tty && isatty(STDIN_FILENO),
                                       .name = invocation->arguments[0] };
    int r;

    if (invocation->rest_count == 0)
        return error_set(error, ERROR_USAGE, "'exec' needs a command; see 'polder exec --help'");
    if (options->tty && options->interactive && !isatty(STDIN_FILENO))
        return error_set(error, ERROR_USAGE, "standard input is no terminal: leave out -t, or -i");
    r = exec_request(invocation, &first, error);
    session.first = first;
    if (r < 0 || !path)
        return r < 0 ? r : error_set(error, ERROR_NO_MEMORY, "");
    return run_session(invocation, &session, error);
}

/* --- attach, console ------------------------------------------------------------------------------------------------ */

static bool has_terminal(struct invocation *invocation, const char *name) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    _cleanup_free_ char *path = instance_path(name, "");
    struct client *client;

    return path && invocation_client(invocation, &client, &ignored) == 0 &&
           client_request(client, "GET", path, NULL, &response, &ignored) == 0 &&
           json_boolean(json_member(response.json, "spec"), "tty", false);
}

static int run_attach(struct invocation *invocation, struct error *error) {
    const struct inside_options *options = invocation->options;
    const char *name = invocation->arguments[0];
    bool tty = has_terminal(invocation, name);
    _cleanup_free_ char *path = instance_path(name, "/attach");
    struct session_options session = { .path = path, .input = !options->no_stdin, .proxy_signals = !tty,
                                       .tty = tty && isatty(STDIN_FILENO), .name = name };

    return path ? run_session(invocation, &session, error) : error_set(error, ERROR_NO_MEMORY, "");
}

static int run_console(struct invocation *invocation, struct error *error) {
    const char *name = invocation->arguments[0];
    _cleanup_free_ char *path = instance_path(name, "/console");
    struct session_options session = { .path = path, .input = true, .tty = isatty(STDIN_FILENO), .console = true,
                                       .note = !invocation->quiet, .name = name };

    return path ? run_session(invocation, &session, error) : error_set(error, ERROR_NO_MEMORY, "");
}

/* --- logs ------------------------------------------------------------------------------------------------------------ */

static void show_entry(const struct inside_options *options, struct json_object *entry) {
    FILE *file = !strcmp(json_text(entry, "stream", ""), "stderr") ? stderr : stdout;
    const char *text = json_text(entry, "text", "");
    bool partial = json_boolean(entry, "partial", false);

    if (options->timestamps)
        fprintf(file, "%s ", json_text(entry, "time", ""));
    /* A terminal must not obey a guest; a file or pipe gets what was printed. */
    if (isatty(fileno(file)))
        print_escaped(file, text, strlen(text), true);
    else
        fputs(text, file);
    if (!partial)
        fputc('\n', file);
    if (options->follow)
        fflush(file);
}

static int show_lines(const struct inside_options *options, struct buffer *lines, struct error *error) {
    size_t taken = 0;
    char *end;
    int r = 0;

    if (lines->failed)
        return error_set(error, ERROR_NO_MEMORY, "");
    while (r == 0 && taken < lines->size && (end = memchr(lines->data + taken, '\n', lines->size - taken))) {
        _cleanup_json_ struct json_object *entry = NULL;
        size_t length = (size_t) (end - lines->data) - taken;

        r = json_parse(lines->data + taken, length, &entry, error);
        if (r == 0)
            show_entry(options, entry);
        taken += length + 1;
    }
    buffer_consume(lines, taken);
    return r;
}

static int run_logs(struct invocation *invocation, struct error *error) {
    const struct inside_options *options = invocation->options;
    const char *tail = options->tail && strcmp(options->tail, "all") ? options->tail : "-1";
    _cleanup_free_ char *encoded = url_encode(tail), *query = NULL, *path = NULL;
    _cleanup_buffer_ struct buffer lines = BUFFER_INIT;
    struct client *client;
    char data[32 * 1024];
    long n;
    int r = invocation_client(invocation, &client, error);

    query = encoded ? text_format("/logs?tail=%s&follow=%s", encoded, options->follow ? "true" : "false") : NULL;
    path = query ? instance_path(invocation->arguments[0], query) : NULL;
    if (r == 0 && !path)
        r = error_set(error, ERROR_NO_MEMORY, "");
    if (r == 0)
        r = client_stream_begin(client, path, error);
    if (r < 0)
        suggest_instance(invocation, invocation->arguments[0], error);
    while (r == 0 && (n = client_stream_read(client, data, sizeof(data), error)) != 0) {
        buffer_add(&lines, data, n > 0 ? (size_t) n : 0);
        r = n < 0 ? (int) n : show_lines(options, &lines, error);
    }
    return r;
}

#define INSIDE_SWITCH(flag_name, short_name, member, text)                                                   \
    { .name = flag_name, .letter = short_name, .type = FLAG_SWITCH,                                            \
      .offset = offsetof(struct inside_options, member), .help = text }
#define INSIDE_TEXT(flag_name, short_name, member, value_name, text)                                        \
    { .name = flag_name, .letter = short_name, .type = FLAG_TEXT,                                              \
      .offset = offsetof(struct inside_options, member), .value = value_name, .help = text }
static const struct flag exec_flags[] = {
    INSIDE_SWITCH("interactive", 'i', interactive, "Send standard input."),
    INSIDE_SWITCH("tty", 't', tty, "Give the command a terminal."),
    INSIDE_TEXT("user", 'u', user, "USER[:GROUP]", "Who it runs as."),
    INSIDE_TEXT("workdir", 'w', directory, "DIRECTORY", "Where it starts."),
    { .name = "env", .letter = 'e', .type = FLAG_LIST, .offset = offsetof(struct inside_options, environment),
      .value = "NAME[=VALUE]", .help = "Environment variables." },
};
static const struct flag attach_flags[] = {
    INSIDE_SWITCH("no-stdin", 0, no_stdin, "Watch only: send nothing."),
};
static const struct flag logs_flags[] = {
    INSIDE_SWITCH("follow", 'f', follow, "Go on with what comes."),
    INSIDE_TEXT("tail", 'n', tail, "LINES", "Only the last so many lines."),
    INSIDE_SWITCH("timestamps", 't', timestamps, "Show when each line was printed."),
};

const struct command command_exec = {
    .name = "exec", .group = GROUP_INSIDE, .summary = "Run a command inside an instance",
    .usage = "INSTANCE [--] COMMAND...",
    .description = "The exit status is the command's; 125 if polder itself failed, 126 if the command cannot be executed, "
                   "127 if it is not found.",
    .examples = "  polder exec web ls -l /\n  polder exec -it web sh\n",
    .flags = exec_flags, .flag_count = ELEMENTS(exec_flags), .options_size = sizeof(struct inside_options),
    .minimum = 1, .maximum = 1, .takes_rest = true, .fail_status = 125, .complete = COMPLETE_INSTANCES,
    .run = run_exec,
};

const struct command command_attach = {
    .name = "attach", .group = GROUP_INSIDE, .summary = "Attach to the main process of an instance",
    .usage = "INSTANCE", .description = "With a terminal, ctrl-p ctrl-q detaches.",
    .flags = attach_flags, .flag_count = ELEMENTS(attach_flags), .options_size = sizeof(struct inside_options),
    .minimum = 1, .maximum = 1, .complete = COMPLETE_INSTANCES, .run = run_attach,
};

const struct command command_console = {
    .name = "console", .group = GROUP_INSIDE, .summary = "Attach to the serial console of an instance",
    .usage = "INSTANCE", .description = "ctrl-] leaves it.", .common = COMMON_QUIET, .minimum = 1, .maximum = 1,
    .complete = COMPLETE_INSTANCES, .run = run_console,
};

const struct command command_logs = {
    .name = "logs", .group = GROUP_INSIDE, .summary = "Show what an instance printed", .usage = "INSTANCE",
    .flags = logs_flags, .flag_count = ELEMENTS(logs_flags), .options_size = sizeof(struct inside_options),
    .minimum = 1, .maximum = 1, .complete = COMPLETE_INSTANCES, .run = run_logs,
    .examples = "  polder logs -f --tail 20 web\n",
};
