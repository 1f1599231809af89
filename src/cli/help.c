// SPDX-License-Identifier: GPL-2.0-or-later
#include "cli/help.h"

#include <limits.h>
#include <string.h>

#include "base/text.h"

#define FLAG_COLUMN 34
#define LINE_WIDTH 110

static bool words_of(const struct command *const *list, const struct command *command, const char *prefix, char *text,
                     size_t size) {
    for (size_t i = 0; list[i]; i++) {
        char longer[96];

        snprintf(longer, sizeof(longer), "%s %s", prefix, list[i]->name);
        if (list[i] == command) {
            snprintf(text, size, "%s", longer);
            return true;
        }
        if (list[i]->children && words_of(list[i]->children, command, longer, text, size))
            return true;
    }
    return false;
}

void command_words(const struct command *command, char *text, size_t size) {
    if (!words_of(commands, command, "polder", text, size))
        snprintf(text, size, "polder");
}

void help_overview(FILE *file) {
    const char *group = NULL;

    fputs("polder runs virtual machines, microVMs and containers.\n\nUsage: polder COMMAND [FLAGS] [ARGUMENTS]\n", file);
    for (size_t i = 0; commands[i]; i++) {
        if (!text_equal(group, commands[i]->group)) {
            group = commands[i]->group;
            fprintf(file, "\n%s:\n", group);
        }
        fprintf(file, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    }
    fputs("\n'polder COMMAND --help' tells more. Start with: polder image build busybox && polder run busybox\n", file);
}

/* Words within LINE_WIDTH; each further line starts `indent` blanks in. The first one begins at `column`. */
static void wrap(const char *text, int column, int indent, FILE *file) {
    bool blank = false;

    while (*text) {
        int length = (int) strcspn(text, " \n");

        if (column > indent && column + blank + length > LINE_WIDTH) {
            fprintf(file, "\n%*s", indent, "");
            column = indent;
            blank = false;
        }
        fprintf(file, "%s%.*s", blank ? " " : "", length, text);
        column += blank + length;
        text += length;
        blank = *text == ' ';
        if (*text == '\n') {
            fprintf(file, "\n%*s", indent, "");
            column = indent;
        }
        text += *text != '\0';
    }
    fputc('\n', file);
}

static void help_flag(const struct flag_view *view, FILE *file) {
    char names[128];
    int length = 0;

    length += snprintf(names + length, sizeof(names) - (size_t) length, view->letter ? "-%c, " : "    ", view->letter);
    length += snprintf(names + length, sizeof(names) - (size_t) length, view->negatable ? "--[no-]%s" : "--%s",
                       view->name);
    if (view->alias)
        length += snprintf(names + length, sizeof(names) - (size_t) length, ", --%s", view->alias);
    if (view->value)
        snprintf(names + length, sizeof(names) - (size_t) length, " %s", view->value);
    if (strlen(names) > FLAG_COLUMN)
        fprintf(file, "  %s\n%*s", names, FLAG_COLUMN + 3, "");
    else
        fprintf(file, "  %-*s ", FLAG_COLUMN, names);
    wrap(view->help, FLAG_COLUMN + 3, FLAG_COLUMN + 3, file);
}

static void help_usage(const struct command *command, const char *words, FILE *file) {
    const char *usage = command->children ? "COMMAND" : command->usage ? command->usage : "";

    fprintf(file, "%s.\n\nUsage: %s%s%s%s\n", command->summary, words, command->children ? "" : " [FLAGS]", *usage ? " " : "",
            usage);
    if (command->alias) {
        fputs("Also called: ", file);
        for (const char *c = command->alias; *c; c++)
            fputs(*c == ' ' ? ", " : (char[]){ *c, '\0' }, file);
        fputc('\n', file);
    }
}

void help_command(const struct command *command, FILE *file) {
    struct flag_view view;
    size_t position = 0;
    char words[96];

    command_words(command, words, sizeof(words));
    help_usage(command, words, file);
    if (command->description) {
        fputc('\n', file);
        wrap(command->description, 0, 0, file);
    }
    if (command->children) {
        fputs("\nCommands:\n", file);
        for (size_t i = 0; command->children[i]; i++)
            fprintf(file, "  %-12s %s\n", command->children[i]->name, command->children[i]->summary);
    }
    fputs("\nFlags:\n", file);
    while (command_flag_next(command, &position, &view))
        help_flag(&view, file);
    if (command->examples)
        fprintf(file, "\nExamples:\n%s", command->examples);
}
