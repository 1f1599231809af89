// SPDX-License-Identifier: GPL-2.0-or-later
/* version, completion, man, help: what the program tells about itself. */
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/operation.h"
#include "cli/output.h"

static const struct column version_columns[] = {
    { .title = "PROGRAM", .path = "program" },
    { .title = "VERSION", .path = "version" },
};
static const struct view version_view = { .columns = version_columns, .count = ELEMENTS(version_columns),
                                          .name = "version" };

static int show_versions(const struct invocation *invocation, const char *server, struct error *error) {
    _cleanup_json_ struct json_object *document = json_object_new_object(), *rows = json_object_new_array();
    const char *const programs[][2] = { { "polder", POLDER_VERSION }, { "polderd", server } };
    bool failed = !document || !rows ||
                  json_object_object_add(document, "client", json_object_new_string(POLDER_VERSION)) < 0 ||
                  json_object_object_add(document, "server", json_object_new_string(server)) < 0;

    for (size_t i = 0; !failed && i < ELEMENTS(programs); i++) {
        struct json_object *row = json_object_new_object();
        failed = !row || json_object_array_add(rows, row) < 0 ||
                 json_object_object_add(row, "program", json_object_new_string(programs[i][0])) < 0 ||
                 json_object_object_add(row, "version", json_object_new_string(programs[i][1])) < 0;
    }
    return failed ? error_set(error, ERROR_NO_MEMORY, "") : output_list(invocation, &version_view, rows, document, error);
}

static int run_version(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    if (r < 0)
        return r;
    /* The command's own version is known whether the daemon runs or not. */
    (void) client_request(client, "GET", "/v1/version", NULL, &response, &ignored);
    if (invocation->output != OUTPUT_TABLE)
        return show_versions(invocation, json_text(response.json, "version", ""), error);
    printf("polder %s\npolderd %s\n", POLDER_VERSION, json_text(response.json, "version", "does not answer"));
    return 0;
}

static int run_completion(struct invocation *invocation, struct error *error) {
    const char *shell = invocation->arguments[0];

    if (strcmp(shell, "bash") && strcmp(shell, "zsh") && strcmp(shell, "fish"))
        return error_set(error, ERROR_USAGE, "completion is there for bash, zsh and fish");
    completion_write(shell, stdout);
    return 0;
}

static int run_man(struct invocation *invocation, struct error *error) {
    int r;

    if (!strcmp(invocation->arguments[0], "-")) {
        reference_write(stdout);
        return 0;
    }
    r = man_write(invocation->arguments[0]);
    return r < 0 ? error_errno(error, r, "writing man pages into %s", invocation->arguments[0]) : 0;
}

static int run_help(struct invocation *invocation, struct error *error) {
    const struct command *const *list = commands;
    const struct command *command = NULL;

    for (size_t i = 0; list && i < invocation->count; i++) {
        command = command_find(list, invocation->arguments[i]);
        if (!command)
            return error_set(error, ERROR_USAGE, "there is no such command; see 'polder --help'");
        list = command->children;
    }
    if (command)
        help_command(command, stdout);
    else
        help_overview(stdout);
    return 0;
}

const struct command command_version = {
    .name = "version", .group = GROUP_MORE, .summary = "Print the versions of command and daemon", .usage = "",
    .common = COMMON_OUTPUT, .run = run_version,
};
const struct command command_completion = {
    .name = "completion", .group = GROUP_MORE, .summary = "Print completion for bash, zsh or fish",
    .usage = "bash|zsh|fish", .minimum = 1, .maximum = 1, .run = run_completion,
    .examples = "  . <(polder completion bash)\n  polder completion zsh > ~/.zfunc/_polder\n"
                "  polder completion fish > ~/.config/fish/completions/polder.fish\n",
};
const struct command command_man = {
    .name = "man", .group = GROUP_MORE, .summary = "Write man pages into a directory", .usage = "DIRECTORY",
    .description = "'-' prints the reference of all commands instead, as one Markdown page.", .minimum = 1, .maximum = 1,
    .complete = COMPLETE_FILES, .run = run_man,
};
const struct command command_help = {
    .name = "help", .group = GROUP_MORE, .summary = "Tell about a command", .usage = "[COMMAND...]",
    .maximum = UINT_MAX, .run = run_help,
};
