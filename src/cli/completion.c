// SPDX-License-Identifier: GPL-2.0-or-later
/* Completion scripts. Each holds the words of every command; names of instances, images and operations are asked of
 * polderd when they are needed. */
#include <stdio.h>
#include <string.h>

#include "cli/help.h"

static const char *list_command(enum complete complete) {
    switch (complete) {
    case COMPLETE_INSTANCES:
        return "polder ls -q 2>/dev/null";
    case COMPLETE_IMAGES:
        return "polder image ls -o csv 2>/dev/null | tail -n +2 | cut -d, -f1";
    case COMPLETE_OPERATIONS:
        return "polder ops ls -q 2>/dev/null";
    case COMPLETE_FILES:
    case COMPLETE_NOTHING:
        break;
    }
    return NULL;
}

static void print_flags(const struct command *command, FILE *file) {
    struct flag_view view;
    size_t position = 0;

    while (command_flag_next(command, &position, &view)) {
        fprintf(file, "--%s ", view.name);
        if (view.alias)
            fprintf(file, "--%s ", view.alias);
        if (view.negatable)
            fprintf(file, "--no-%s ", view.name);
    }
}

static void print_children(const struct command *const *list, FILE *file) {
    for (size_t i = 0; list[i]; i++)
        fprintf(file, "%s ", list[i]->name);
}

/* "run|create)" with its aliases. */
static void bash_label(const struct command *command, const char *prefix, FILE *file) {
    const char *alias = command->alias;

    fprintf(file, "    '%s%s'", prefix, command->name);
    while (alias && *alias) {
        size_t length = strcspn(alias, " ");
        fprintf(file, "|'%s%.*s'", prefix, (int) length, alias);
        alias += length + strspn(alias + length, " ");
    }
    fputs(")\n", file);
}

static void bash_choices(const struct command *command, FILE *file) {
    struct flag_view view;
    size_t position = 0;

    fputs("        case $previous in\n", file);
    while (command_flag_next(command, &position, &view)) {
        if (!view.value)
            continue;
        fprintf(file, "        --%s", view.name);
        if (view.alias)
            fprintf(file, "|--%s", view.alias);
        if (view.letter)
            fprintf(file, "|-%c", view.letter);
        fputs(") ", file);
        if (view.choices) {
            fputs("words='", file);
            for (size_t i = 0; view.choices[i]; i++)
                fprintf(file, "%s ", view.choices[i]);
            fputs("'", file);
        } else {
            fprintf(file, view.complete == COMPLETE_FILES ? "files=1" : "words=");
        }
        fputs(" flags=;;\n", file);
    }
    fputs("        esac\n", file);
}

static void bash_command(const struct command *command, const char *prefix, FILE *file) {
    const char *list = list_command(command->complete);

    bash_label(command, prefix, file);
    fputs("        flags='", file);
    print_flags(command, file);
    fputs("'\n        words='", file);
    if (command->children)
        print_children(command->children, file);
    fputs("'\n", file);
    if (list)
        fprintf(file, "        [[ $current == -* ]] || words=$(%s)\n", list);
    if (command->complete == COMPLETE_FILES)
        fputs("        files=1\n", file);
    bash_choices(command, file);
    fputs("        ;;\n", file);
    for (size_t i = 0; command->children && command->children[i]; i++) {
        char longer[64];
        snprintf(longer, sizeof(longer), "%s ", command->name);
        bash_command(command->children[i], longer, file);
    }
}

static void bash_write(FILE *file) {
    fputs("# bash completion for polder; made by 'polder completion bash'\n"
          "_polder() {\n"
          "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
          "    local command= words= flags= files= word i\n"
          "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
          "        word=${COMP_WORDS[i]}\n"
          "        [[ $word == -* ]] && continue\n"
          "        if [[ -z $command ]]; then command=$word\n"
          "        elif [[ \" ", file);
    for (size_t i = 0; commands[i]; i++)
        if (commands[i]->children)
            fprintf(file, "%s ", commands[i]->name);
    fputs("\" == *\" $command \"* ]]; then command=\"$command $word\"; break\n"
          "        else break\n"
          "        fi\n"
          "    done\n"
          "    case $command in\n"
          "    '')\n        words='", file);
    print_children(commands, file);
    fputs("'\n        flags='--help --socket --language'\n        ;;\n", file);
    for (size_t i = 0; commands[i]; i++)
        bash_command(commands[i], "", file);
    fputs("    esac\n"
          "    [[ $current == -* ]] && words=$flags\n"
          "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
          "    [[ -n $files && $current != -* ]] && mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- \"$current\")\n"
          "}\n"
          "complete -F _polder polder\n", file);
}

/* zsh reads bash's own way of completion. */
static void zsh_write(FILE *file) {
    fputs("#compdef polder\n# zsh completion for polder; made by 'polder completion zsh'\n"
          "autoload -U +X bashcompinit && bashcompinit\n"
          "mapfile() {\n"
          "    local base=0 line\n"
          "    while [[ $1 == -* ]]; do [[ $1 == -O ]] && { base=$2; shift; }; shift; done\n"
          "    (( base )) || eval \"$1=()\"\n"
          "    while IFS= read -r line; do eval \"$1+=(\\\"\\$line\\\")\"; done\n"
          "}\n", file);
    bash_write(file);
}

/* Single quotes inside single quotes. */
static void fish_quoted(const char *text, FILE *file) {
    fputc('\'', file);
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            fputc('\\', file);
        fputc(*text, file);
    }
    fputc('\'', file);
}

static void fish_flags(const struct command *command, const char *condition, FILE *file) {
    struct flag_view view;
    size_t position = 0;

    while (command_flag_next(command, &position, &view)) {
        fprintf(file, "complete -c polder -n '%s' -l %s", condition, view.name);
        if (view.letter)
            fprintf(file, " -s %c", view.letter);
        if (view.value)
            fprintf(file, view.complete == COMPLETE_FILES ? " -rF" : " -x");
        if (view.choices) {
            fputs(" -a '", file);
            for (size_t i = 0; view.choices[i]; i++)
                fprintf(file, "%s ", view.choices[i]);
            fputs("'", file);
        }
        fputs(" -d ", file);
        fish_quoted(view.help, file);
        fputc('\n', file);
    }
}

static void fish_command(const struct command *command, const char *parent, FILE *file) {
    const char *list = list_command(command->complete);
    char condition[256], before[160];

    if (parent)
        snprintf(before, sizeof(before), "__fish_seen_subcommand_from %s", parent);
    else
        snprintf(before, sizeof(before), "__fish_use_subcommand");
    fprintf(file, "complete -c polder -n '%s' -a %s -d ", before, command->name);
    fish_quoted(command->summary, file);
    fputc('\n', file);
    snprintf(condition, sizeof(condition), "%s%s__fish_seen_subcommand_from %s", parent ? before : "",
             parent ? "; and " : "", command->name);
    fish_flags(command, condition, file);
    if (list)
        fprintf(file, "complete -c polder -n '%s' -a '(%s)'\n", condition, list);
    if (command->complete == COMPLETE_FILES)
        fprintf(file, "complete -c polder -n '%s' -F\n", condition);
    for (size_t i = 0; command->children && command->children[i]; i++)
        fish_command(command->children[i], command->name, file);
}

static void fish_write(FILE *file) {
    fputs("# fish completion for polder; made by 'polder completion fish'\ncomplete -c polder -f\n", file);
    for (size_t i = 0; commands[i]; i++)
        fish_command(commands[i], NULL, file);
}

void completion_write(const char *shell, FILE *file) {
    if (!strcmp(shell, "bash"))
        bash_write(file);
    else if (!strcmp(shell, "zsh"))
        zsh_write(file);
    else
        fish_write(file);
}
