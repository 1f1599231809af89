// SPDX-License-Identifier: GPL-2.0-or-later
/* Flags as GNU has them: --name value, --name=value, -n value, -nvalue, -abc; "--" ends them. Where a command line for
 * inside follows (run, exec), the first word after the arguments that is no flag begins it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "model/field.h"

#define FILE_MAX (128 * 1024)

static const char *const output_names[] = { "table", "wide", "json", "yaml", "csv", "name", NULL };

enum shared {
    SHARED_HELP,
    SHARED_SOCKET,
    SHARED_LANGUAGE,
    SHARED_OUTPUT,
    SHARED_QUIET,
    SHARED_WAIT,
    SHARED_DRY_RUN,
};

static const char *const languages[] = { "en", "zh", NULL };

static const struct {
    unsigned common; /* 0: every command has it */
    struct flag flag;
} shared_flags[] = {
    [SHARED_HELP] = { 0, { .name = "help", .letter = 'h', .type = FLAG_SWITCH, .help = "Show this help." } },
    [SHARED_SOCKET] = { 0, { .name = "socket", .type = FLAG_TEXT, .value = "PATH", .complete = COMPLETE_FILES,
        .help = "Socket of polderd; default: POLDER_SOCKET, or /run/polder/polder.sock." } },
    [SHARED_LANGUAGE] = { 0, { .name = "language", .type = FLAG_TEXT, .value = "LANGUAGE", .choices = languages,
        .help = "Language of errors: en or zh; default: by LANG." } },
    [SHARED_OUTPUT] = { COMMON_OUTPUT, { .name = "output", .alias = "format", .letter = 'o', .type = FLAG_TEXT,
        .value = "FORMAT", .choices = output_names, .help = "How it is printed: table, wide, json, yaml, csv or name." } },
    [SHARED_QUIET] = { COMMON_QUIET, { .name = "quiet", .letter = 'q', .type = FLAG_SWITCH,
        .help = "Print names only, no progress." } },
    [SHARED_WAIT] = { COMMON_WAIT, { .name = "wait", .type = FLAG_NEGATABLE,
        .help = "Wait until it is done (default); --no-wait prints the operation and returns." } },
    [SHARED_DRY_RUN] = { COMMON_DRY_RUN, { .name = "dry-run", .type = FLAG_SWITCH,
        .help = "Let the server check it without doing it." } },
};

static int usage(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int usage(struct error *error, const char *format, ...) {
    _cleanup_free_ char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    return error_set(error, ERROR_USAGE, text);
}

/* --- one view of all flags ---------------------------------------------------------------------------------------- */

static bool has_shared(const struct command *command, size_t i) {
    return shared_flags[i].common == 0 || (command->common & shared_flags[i].common);
}

static struct flag_view view_of(const struct flag *flag) {
    return (struct flag_view){ .name = flag->name, .alias = flag->alias, .value = flag->value, .help = flag->help,
                               .letter = flag->letter, .negatable = flag->type == FLAG_NEGATABLE,
                               .choices = flag->choices, .complete = flag->complete };
}

bool command_flag_next(const struct command *command, size_t *position, struct flag_view *ret) {
    const struct table *table = &instance_spec_table;

    for (;; (*position)++) {
        size_t i = *position;
        if (i < command->flag_count) {
            *ret = view_of(&command->flags[i]);
            break;
        }
        i -= command->flag_count;
        if (i < table->count) {
            const struct field *field = &table->fields[i];
            if (!(command->common & COMMON_SPEC) || !field->flag)
                continue;
            *ret = (struct flag_view){ .name = field->flag, .alias = field->alias, .value = field->value,
                                       .help = field->help, .letter = field->short_flag,
                                       .choices = field->type == FIELD_ENUM && !field->parse ? field->names : NULL };
            break;
        }
        i -= table->count;
        if (i >= ELEMENTS(shared_flags))
            return false;
        if (has_shared(command, i)) {
            *ret = view_of(&shared_flags[i].flag);
            break;
        }
    }
    (*position)++;
    return true;
}

/* --- values --------------------------------------------------------------------------------------------------------- */

static int check_choice(const char *name, const char *const *choices, const char *value, struct error *error) {
    _cleanup_free_ char *list = NULL;

    for (size_t i = 0; choices[i]; i++)
        if (text_equal(choices[i], value))
            return (int) i;
    list = list_join((char *const *) choices, ", ");
    return usage(error, "--%s takes one of %s, not '%s'", name, list ? list : "", value);
}

static int set_shared(struct invocation *invocation, enum shared which, const char *value, bool on,
                      struct error *error) {
    int r = 0;

    switch (which) {
    case SHARED_HELP:
        invocation->help = true;
        break;
    case SHARED_SOCKET:
        invocation->socket = value;
        break;
    case SHARED_LANGUAGE:
        r = check_choice("language", languages, value, error);
        invocation->language = r == 1 ? LANGUAGE_CHINESE : LANGUAGE_ENGLISH;
        break;
    case SHARED_OUTPUT:
        r = check_choice("output", output_names, value, error);
        invocation->output = r < 0 ? OUTPUT_TABLE : (enum output_format) r;
        invocation->output_given = true;
        break;
    case SHARED_QUIET:
        invocation->quiet = on;
        break;
    case SHARED_WAIT:
        invocation->no_wait = !on;
        break;
    case SHARED_DRY_RUN:
        invocation->dry_run = on;
        break;
    }
    return r < 0 ? r : 0;
}

static int set_own(struct invocation *invocation, const struct flag *flag, const char *value, bool on,
                   struct error *error) {
    char *member = (char *) invocation->options + flag->offset;

    if (flag->choices && check_choice(flag->name, flag->choices, value, error) < 0)
        return -EINVAL;
    switch (flag->type) {
    case FLAG_SWITCH:
    case FLAG_NEGATABLE:
        *(bool *) member = on;
        return 0;
    case FLAG_TEXT:
        *(const char **) member = value;
        return 0;
    case FLAG_LIST:
        return list_add((char ***) member, value) < 0 ? error_set(error, ERROR_NO_MEMORY, "") : 0;
    case FLAG_NUMBER:
        if (text_parse_i64(value, (int64_t *) member) < 0)
            return usage(error, "--%s takes a number, not '%s'", flag->name, value);
        return 0;
    }
    return 0;
}

/* "-e NAME" hands on our own variable; "@FILE" stands for a file's contents where texts are long. */
static int spec_value(const struct field *field, const char *value, char **ret_owned, const char **ret,
                      struct error *error) {
    *ret = value;
    if (!strcmp(field->name, "environment") && !strchr(value, '=')) {
        const char *own = getenv(value);
        if (!own) {
            *ret = NULL;
            return 0;
        }
        *ret_owned = text_format("%s=%s", value, own);
        *ret = *ret_owned;
        return *ret ? 0 : error_set(error, ERROR_NO_MEMORY, "");
    }
    if ((!strcmp(field->name, "user_data") || !strcmp(field->name, "ssh_keys")) && value[0] == '@') {
        int r = file_read(AT_FDCWD, value + 1, FILE_MAX, ret_owned, NULL);
        if (r < 0)
            return usage(error, "cannot read '%s': %s", value + 1, strerror(-r));
        if (!strcmp(field->name, "ssh_keys"))
            (*ret_owned)[strcspn(*ret_owned, "\n")] = '\0';
        *ret = *ret_owned;
    } else if ((!strcmp(field->name, "user_data") || !strcmp(field->name, "ssh_keys")) && file_exists(AT_FDCWD, value)) {
        return usage(error, "'--%s' takes the text itself: give '@%s' for what is in that file", field->flag, value);
    }
    return 0;
}

static int set_spec(struct invocation *invocation, const struct field *field, const char *text,
                    struct error *error) {
    _cleanup_free_ char *owned = NULL;
    const char *value = NULL;
    int r = spec_value(field, text, &owned, &value, error);

    if (r < 0 || !value)
        return r;
    invocation->spec_given |= UINT64_C(1) << (field - instance_spec_table.fields);
    return table_decode_text(&instance_spec_table, field->name, value, &invocation->spec, error);
}

void invocation_emit_spec(const struct invocation *invocation, struct emitter *emitter) {
    const struct table *table = &instance_spec_table;

    for (size_t i = 0; i < table->count; i++) {
        struct table row = { .name = table->name, .size = table->size, .fields = &table->fields[i], .count = 1 };
        /* Some flags set two fields. */
        if ((invocation->spec_given & (UINT64_C(1) << i)) || !field_is_default(&table->fields[i], &invocation->spec))
            table_emit(&row, &invocation->spec, emitter);
    }
}

/* --- finding --------------------------------------------------------------------------------------------------------- */

struct found {
    const struct flag *own;
    const struct field *field;
    int shared;       /* -1: none */
    bool takes_value;
    bool on;          /* false: --no-NAME */
};

static bool flag_is(const struct flag *flag, const char *name, char letter, bool *ret_on) {
    *ret_on = true;
    if (letter)
        return flag->letter == letter;
    if (!strcmp(flag->name, name) || (flag->alias && !strcmp(flag->alias, name)))
        return true;
    *ret_on = false;
    return flag->type == FLAG_NEGATABLE && text_starts(name, "no-") && !strcmp(flag->name, name + 3);
}

static bool is_switch(const struct flag *flag) {
    return flag->type == FLAG_SWITCH || flag->type == FLAG_NEGATABLE;
}

static bool find_flag(const struct command *command, const char *name, char letter, struct found *ret) {
    const struct table *table = &instance_spec_table;

    *ret = (struct found){ .shared = -1, .on = true };
    for (size_t i = 0; i < command->flag_count; i++)
        if (flag_is(&command->flags[i], name, letter, &ret->on)) {
            ret->own = &command->flags[i];
            ret->takes_value = !is_switch(ret->own);
            return true;
        }
    for (size_t i = 0; i < ELEMENTS(shared_flags); i++)
        if (has_shared(command, i) && flag_is(&shared_flags[i].flag, name, letter, &ret->on)) {
            ret->shared = (int) i;
            ret->takes_value = !is_switch(&shared_flags[i].flag);
            return true;
        }
    ret->on = true;
    for (size_t i = 0; (command->common & COMMON_SPEC) && i < table->count; i++) {
        const struct field *field = &table->fields[i];
        if (!field->flag || (letter ? field->short_flag != letter
                                    : strcmp(field->flag, name) && (!field->alias || strcmp(field->alias, name))))
            continue;
        ret->field = field;
        ret->takes_value = field->type != FIELD_BOOLEAN;
        return true;
    }
    return false;
}

/* "image pull": as one types it. `space` is the caller's. */
static const char *full_name(const struct command *command, char *space, size_t size) {
    for (size_t i = 0; commands[i]; i++)
        for (size_t j = 0; commands[i]->children && commands[i]->children[j]; j++)
            if (commands[i]->children[j] == command) {
                snprintf(space, size, "%s %s", commands[i]->name, command->name);
                return space;
            }
    return command->name;
}

static int unknown_flag(const struct command *command, const char *word, const char *name, struct error *error) {
    const char *words[256], *near = NULL, *own;
    struct flag_view view;
    char space[64];
    size_t count = 0, position = 0;

    while (count < ELEMENTS(words) - 2 && command_flag_next(command, &position, &view)) {
        words[count++] = view.name;
        if (view.alias)
            words[count++] = view.alias;
    }
    words[count] = NULL;
    if (name)
        near = text_suggest(name, words);
    own = full_name(command, space, sizeof(space));
    if (near)
        return usage(error, "'%s' has no flag '%s'; did you mean '--%s'?", own, word, near);
    if (!command->run)
        return usage(error, "there is no flag '%s' for all commands; see 'polder --help'", word);
    return usage(error, "'%s' has no flag '%s'; see 'polder %s --help'", own, word, own);
}

static int apply(struct invocation *invocation, const struct found *found, const char *value, struct error *error) {
    if (found->own)
        return set_own(invocation, found->own, value, found->on, error);
    if (found->field)
        return set_spec(invocation, found->field, value ? value : "", error);
    return set_shared(invocation, (enum shared) found->shared, value, found->on, error);
}

/* --- the line -------------------------------------------------------------------------------------------------------- */

struct line {
    char **words;
    int count;
    int next;
};

static int take_long(struct invocation *invocation, struct line *line, char *word, struct error *error) {
    const struct command *command = invocation->command;
    char *equals = strchr(word, '=');
    _cleanup_free_ char *name = strndup(word + 2, equals ? (size_t) (equals - word - 2) : strlen(word) - 2);
    const char *value = equals ? equals + 1 : NULL;
    struct found found;

    if (!name)
        return error_set(error, ERROR_NO_MEMORY, "");
    if (!find_flag(command, name, 0, &found))
        return unknown_flag(command, word, name, error);
    if (!found.takes_value && value && !found.field) {
        bool off = !strcmp(value, "false");
        if (!off && strcmp(value, "true") != 0)
            return usage(error, "--%s takes no value", name);
        found.on ^= off;
    }
    if (found.takes_value && !value) {
        if (line->next >= line->count)
            return usage(error, "--%s needs a value", name);
        value = line->words[line->next++];
    }
    return apply(invocation, &found, value, error);
}

static int take_short(struct invocation *invocation, struct line *line, char *word, struct error *error) {
    for (char *letter = word + 1; *letter; letter++) {
        const char *value = NULL;
        struct found found;
        int r;

        if (!find_flag(invocation->command, "", *letter, &found))
            return unknown_flag(invocation->command, word, NULL, error);
        if (found.takes_value) {
            value = letter[1] == '=' ? letter + 2 : letter + 1;
            if (!letter[1]) {
                if (line->next >= line->count)
                    return usage(error, "-%c needs a value", *letter);
                value = line->words[line->next++];
            }
        }
        r = apply(invocation, &found, value, error);
        if (r < 0 || found.takes_value)
            return r;
    }
    return 0;
}

static bool is_passed_flag(const struct command *command, const char *word) {
    return command->passes_flags && word[0] == '-' && strcmp(word, "--") != 0 && strcmp(word, "--help") != 0 &&
           strcmp(word, "-h") != 0;
}

static int take_words(struct invocation *invocation, struct line *line, struct error *error) {
    const struct command *command = invocation->command;
    bool flags = true;

    while (line->next < line->count) {
        char *word = line->words[line->next++];
        int r = 0;

        if (flags && !strcmp(word, "--")) {
            flags = false;
            if (command->takes_rest && invocation->count >= command->maximum)
                break;
        } else if (flags && is_passed_flag(command, word)) {
            line->next--;
            break;
        } else if (flags && word[0] == '-' && word[1] == '-') {
            r = take_long(invocation, line, word, error);
        } else if (flags && word[0] == '-' && word[1]) {
            r = take_short(invocation, line, word, error);
        } else if (command->takes_rest && invocation->count >= command->maximum) {
            line->next--;
            break;
        } else {
            invocation->arguments[invocation->count++] = word;
        }
        if (r < 0)
            return r;
    }
    invocation->rest = line->words + line->next;
    invocation->rest_count = (size_t) (line->count - line->next);
    return 0;
}

static bool name_matches(const struct command *command, const char *name) {
    const char *alias = command->alias;
    size_t length = strlen(name);

    if (!strcmp(command->name, name))
        return true;
    while (alias && *alias) {
        size_t word = strcspn(alias, " ");
        if (word == length && !strncmp(alias, name, length))
            return true;
        alias += word + strspn(alias + word, " ");
    }
    return false;
}

const struct command *command_find(const struct command *const *list, const char *name) {
    for (size_t i = 0; list[i]; i++)
        if (name_matches(list[i], name))
            return list[i];
    return NULL;
}

static int unknown_command(const struct command *const *list, const char *prefix, const char *word,
                           struct error *error) {
    const char *words[96], *near;
    size_t count = 0;

    for (size_t i = 0; list[i] && count < ELEMENTS(words) - 1; i++)
        words[count++] = list[i]->name;
    words[count] = NULL;
    near = text_suggest(word, words);
    if (near)
        return usage(error, "there is no command '%s%s'; did you mean '%s%s'?", prefix, word, prefix, near);
    return usage(error, "there is no command '%s%s'; see 'polder --help'", prefix, word);
}

/* Flags of every command may stand before its name. */
static int take_leading(struct invocation *invocation, struct line *line, struct error *error) {
    static const struct command program = { .name = "polder" };

    invocation->command = &program;
    while (line->next < line->count && line->words[line->next][0] == '-' && line->words[line->next][1]) {
        char *word = line->words[line->next++];
        int r = word[1] == '-' ? take_long(invocation, line, word, error) : take_short(invocation, line, word, error);
        if (r < 0)
            return r;
    }
    invocation->command = NULL;
    return 0;
}

static int take_command(struct invocation *invocation, struct line *line, struct error *error) {
    const struct command *const *list = commands;
    char prefix[64] = "";

    while (list && line->next < line->count) {
        const char *word = line->words[line->next];
        const struct command *command;

        if (invocation->command && word[0] == '-')
            return 0;
        command = command_find(list, word);
        if (!command)
            return unknown_command(list, prefix, word, error);
        line->next++;
        invocation->command = command;
        list = command->children;
        snprintf(prefix, sizeof(prefix), "%s ", command->name);
    }
    return 0;
}

static int check_count(const struct invocation *invocation, struct error *error) {
    const struct command *command = invocation->command;
    const char *own;
    char space[64];

    if (invocation->help || command->children)
        return 0;
    own = full_name(command, space, sizeof(space));
    if (invocation->count < command->minimum)
        return usage(error, "'%s' needs %s; see 'polder %s --help'", own, command->usage, own);
    if (invocation->count > command->maximum)
        return usage(error, "'%s' does not take '%s'; see 'polder %s --help'", own,
                     invocation->arguments[command->maximum], own);
    return 0;
}

int command_parse(int count, char **words, struct invocation *ret, struct error *error) {
    struct line line = { .words = words, .count = count };
    int r;

    ret->arguments = calloc((size_t) count + 1, sizeof(char *));
    if (!ret->arguments || table_init(&instance_spec_table, &ret->spec) < 0)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = take_leading(ret, &line, error);
    if (r == 0)
        r = take_command(ret, &line, error);
    if (r < 0 || !ret->command)
        return r;
    if (ret->command->options_size > 0) {
        ret->options = calloc(1, ret->command->options_size);
        if (!ret->options)
            return error_set(error, ERROR_NO_MEMORY, "");
    }
    r = take_words(ret, &line, error);
    return r < 0 ? r : check_count(ret, error);
}

void invocation_done(struct invocation *invocation) {
    const struct command *command = invocation->command;

    for (size_t i = 0; command && invocation->options && i < command->flag_count; i++)
        if (command->flags[i].type == FLAG_LIST)
            list_free(*(char ***) ((char *) invocation->options + command->flags[i].offset));
    free(invocation->options);
    free(invocation->arguments);
    free(invocation->suggestion);
    table_done(&instance_spec_table, &invocation->spec);
}
