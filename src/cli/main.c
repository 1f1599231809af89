// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/terminal.h"

static enum language language_default(void) {
    static const char *const names[] = { "LC_ALL", "LC_MESSAGES", "LANG" };

    for (size_t i = 0; i < ELEMENTS(names); i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return text_starts(value, "zh") ? LANGUAGE_CHINESE : LANGUAGE_ENGLISH;
    }
    return LANGUAGE_ENGLISH;
}

static int run(struct invocation *invocation, struct error *error) {
    const struct command *command = invocation->command;

    if (!command) {
        help_overview(stdout);
        return 0;
    }
    if (invocation->help || !command->run) {
        help_command(command, invocation->help ? stdout : stderr);
        return invocation->help ? 0 : 2;
    }
    return command->run(invocation, error);
}

/* What a failure looks like to the shell. */
static int exit_status(const struct invocation *invocation, int r, const struct error *error) {
    int status = error_exit_status(error->code);

    if (r == -EINTR && interrupt_came())
        return 130;
    if (!error_is_set(error))
        return 1;
    if (invocation->command && invocation->command->fail_status && status != 126 && status != 127)
        return invocation->command->fail_status;
    return status;
}

int main(int count, char **arguments) {
    struct invocation invocation = { .language = language_default() };
    _cleanup_error_ struct error error = ERROR_INIT;
    int r;

    /* As every other program is asked. */
    if (count > 1 && (text_equal(arguments[1], "--version") || text_equal(arguments[1], "-V")))
        arguments[1] = (char *) "version";
    r = command_parse(count - 1, arguments + 1, &invocation, &error);
    if (r == 0)
        r = run(&invocation, &error);
    if (fflush(stdout) != 0 && r == 0 && errno != EPIPE)
        r = error_errno(&error, -errno, "writing");
    if (r < 0) {
        if (error_is_set(&error))
            invocation_show_error(&invocation, &error);
        r = exit_status(&invocation, r, &error);
    }
    client_free(invocation.client);
    invocation_done(&invocation);
    return r;
}
