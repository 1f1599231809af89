// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdio.h>

#include "cli/command.h"

/* Everything that is printed about commands comes from their rows. */

void help_overview(FILE *file);
void help_command(const struct command *command, FILE *file);
/* "polder image pull": the words before it. Into text. */
void command_words(const struct command *command, char *text, size_t size);
/* docs/reference/cli.md */
void reference_write(FILE *file);
/* polder.1, polder-run.1, … into a directory. Returns 0 or negative errno. */
int man_write(const char *directory);
/* shell: "bash", "zsh", "fish". */
void completion_write(const char *shell, FILE *file);
