// SPDX-License-Identifier: GPL-2.0-or-later
/* version, completion, man, help: what the program tells about itself. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/operation.h"
#include "cli/output.h"

static int run_version(struct invocation *invocation, struct error *error) {
    _cleanup_response_ struct response response = RESPONSE_INIT;
    _cleanup_error_ struct error ignored = ERROR_INIT;
    struct client *client;
    int r = invocation_client(invocation, &client, error);

    if (r < 0)
        return r;
    /* The command's own version is known whether the daemon runs or not. */
    (void) client_request(client, "GET", "/v1/version", NULL, &response, &ignored);
    if (invocation->output == OUTPUT_JSON)
        printf("{ \"client\": \"%s\", \"server\": \"%s\" }\n", POLDER_VERSION, json_text(response.json, "version", ""));
    else
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
