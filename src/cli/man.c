// SPDX-License-Identifier: GPL-2.0-or-later
/* Man pages, and the reference page in Markdown, from the rows. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "cli/help.h"

/* troff takes a leading dot or quote, and backslashes and hyphens, for its own. */
static void troff(FILE *file, const char *text) {
    bool start = true;

    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\''))
            fputs("\\&", file);
        if (*text == '\\')
            fputs("\\e", file);
        else if (*text == '-')
            fputs("\\-", file);
        else
            fputc(*text, file);
        start = *text == '\n';
    }
}

static void man_flag(const struct flag_view *view, FILE *file) {
    fputs(".TP\n", file);
    if (view->letter)
        fprintf(file, "\\fB\\-%c\\fR, ", view->letter);
    fputs("\\fB\\-\\-", file);
    troff(file, view->negatable ? "[no-]" : "");
    troff(file, view->name);
    fputs("\\fR", file);
    if (view->alias) {
        fputs(", \\fB\\-\\-", file);
        troff(file, view->alias);
        fputs("\\fR", file);
    }
    if (view->value) {
        fputs(" \\fI", file);
        troff(file, view->value);
        fputs("\\fR", file);
    }
    fputc('\n', file);
    troff(file, view->help);
    fputc('\n', file);
}

/* "polder image pull" -> "polder-image-pull" */
static void page_name(const struct command *command, char *text, size_t size) {
    command_words(command, text, size);
    for (char *c = text; *c; c++)
        if (*c == ' ')
            *c = '-';
}

static void man_section(FILE *file, const char *title, const char *text) {
    if (!text)
        return;
    fprintf(file, ".SH %s\n", title);
    troff(file, text);
    fputc('\n', file);
}

static void man_children(const struct command *command, FILE *file) {
    fputs(".SH COMMANDS\n", file);
    for (size_t i = 0; command->children[i]; i++) {
        char name[96];
        page_name(command->children[i], name, sizeof(name));
        fputs(".TP\n\\fB", file);
        troff(file, name);
        fputs("\\fR(1)\n", file);
        troff(file, command->children[i]->summary);
        fputc('\n', file);
    }
}

static void man_page(const struct command *command, FILE *file) {
    struct flag_view view;
    size_t position = 0;
    char name[96], words[96];

    page_name(command, name, sizeof(name));
    command_words(command, words, sizeof(words));
    fprintf(file, ".\\\" Made by 'polder man' from the command table.\n.TH \"%s\" 1 \"\" \"polder %s\" \"Polder\"\n"
                  ".SH NAME\n", name, POLDER_VERSION);
    troff(file, name);
    fputs(" \\- ", file);
    troff(file, command->summary);
    fputs("\n.SH SYNOPSIS\n\\fB", file);
    troff(file, words);
    fputs("\\fR [\\fIFLAGS\\fR] ", file);
    troff(file, command->children ? "COMMAND" : command->usage ? command->usage : "");
    fputc('\n', file);
    man_section(file, "DESCRIPTION", command->description ? command->description : command->summary);
    if (command->children)
        man_children(command, file);
    fputs(".SH FLAGS\n", file);
    while (command_flag_next(command, &position, &view))
        man_flag(&view, file);
    if (command->examples) {
        fputs(".SH EXAMPLES\n.nf\n", file);
        troff(file, command->examples);
        fputs(".fi\n", file);
    }
    fputs(".SH SEE ALSO\n\\fBpolder\\fR(1)\n", file);
}

static void man_overview(FILE *file) {
    fprintf(file, ".\\\" Made by 'polder man' from the command table.\n.TH \"polder\" 1 \"\" \"polder %s\" \"Polder\"\n"
                  ".SH NAME\npolder \\- run virtual machines, microVMs and containers\n"
                  ".SH SYNOPSIS\n\\fBpolder\\fR \\fICOMMAND\\fR [\\fIFLAGS\\fR] [\\fIARGUMENTS\\fR]\n.SH COMMANDS\n",
            POLDER_VERSION);
    for (size_t i = 0; commands[i]; i++) {
        fprintf(file, ".TP\n\\fBpolder\\-%s\\fR(1)\n", commands[i]->name);
        troff(file, commands[i]->summary);
        fputc('\n', file);
    }
    fputs(".SH ENVIRONMENT\n.TP\n\\fBPOLDER_SOCKET\\fR\nSocket of polderd.\n.TP\n\\fBNO_COLOR\\fR\nNo colours.\n.TP\n"
          "\\fBLANG\\fR\nErrors are told in Chinese where it starts with zh.\n.SH EXIT STATUS\n"
          "0 on success, 1 on failure, 2 on wrong usage, 125 if polderd does not answer; run and exec give the command's "
          "own status, or 125, 126 and 127 as docker does.\n", file);
}

static int write_page(const char *directory, const struct command *command) {
    _cleanup_free_ char *path = NULL;
    _cleanup_(fclosep) FILE *file = NULL;
    char name[96] = "polder";

    if (command)
        page_name(command, name, sizeof(name));
    path = text_format("%s/%s.1", directory, name);
    if (!path)
        return -ENOMEM;
    file = fopen(path, "we");
    if (!file)
        return -errno;
    if (command)
        man_page(command, file);
    else
        man_overview(file);
    return fflush(file) == 0 ? 0 : -errno;
}

static int write_pages(const char *directory, const struct command *const *list) {
    int r = 0;

    for (size_t i = 0; list[i] && r == 0; i++) {
        r = write_page(directory, list[i]);
        if (r == 0 && list[i]->children)
            r = write_pages(directory, list[i]->children);
    }
    return r;
}

int man_write(const char *directory) {
    int r = write_page(directory, NULL);

    return r < 0 ? r : write_pages(directory, commands);
}

/* --- the reference page ----------------------------------------------------------------------------------------------- */

static void reference_flags(const struct command *command, FILE *file) {
    struct flag_view view;
    size_t position = 0;

    fputs("\n| flag | meaning |\n|---|---|\n", file);
    while (command_flag_next(command, &position, &view)) {
        char letter[8] = "";
        if (view.letter)
            snprintf(letter, sizeof(letter), "-%c, ", view.letter);
        fprintf(file, "| `%s--%s%s%s%s%s%s` | %s |\n", letter, view.negatable ? "[no-]" : "", view.name,
                view.alias ? ", --" : "", view.alias ? view.alias : "", view.value ? " " : "",
                view.value ? view.value : "", view.help);
    }
}

static void reference_command(const struct command *command, FILE *file) {
    char words[96];

    command_words(command, words, sizeof(words));
    if (!command->children) {
        fprintf(file, "\n## %s\n\n%s.\n\n    %s %s\n", words, command->summary, words, command->usage);
        if (command->alias)
            fprintf(file, "\nAlso called: %s.\n", command->alias);
        if (command->description)
            fprintf(file, "\n%s\n", command->description);
        reference_flags(command, file);
        if (command->examples)
            fprintf(file, "\nExamples:\n\n```\n%s```\n", command->examples);
    }
    for (size_t i = 0; command->children && command->children[i]; i++)
        reference_command(command->children[i], file);
}

void reference_write(FILE *file) {
    fputs("# The polder command\n\nMade by `polder man -` from the command table; a test compares this page with it.\n",
          file);
    for (size_t i = 0; commands[i]; i++)
        reference_command(commands[i], file);
}
