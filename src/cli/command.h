// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/instance.h"

/* One command = one row: parsing, help, completion, man page and reference page come from it. */

struct client;

enum flag_type {
    FLAG_SWITCH,    /* bool */
    FLAG_NEGATABLE, /* bool with --no-NAME beside it */
    FLAG_TEXT,      /* const char *, borrowed from argv */
    FLAG_LIST,      /* char **, owned */
    FLAG_NUMBER,    /* int64_t */
};

/* What a word stands for, for completion. */
enum complete {
    COMPLETE_NOTHING,
    COMPLETE_FILES,
    COMPLETE_INSTANCES,
    COMPLETE_IMAGES,
    COMPLETE_OPERATIONS,
};

struct flag {
    const char *name;  /* without dashes */
    const char *alias; /* a second name, or NULL */
    char letter;
    enum flag_type type;
    size_t offset;     /* in the command's options */
    const char *value; /* name of the value, as in help; NULL for switches */
    const char *const *choices; /* NULL-terminated, or NULL */
    enum complete complete;
    const char *help;
};

/* Flags that many commands share; their values are members of struct invocation. */
enum common {
    COMMON_OUTPUT = 1 << 0, /* -o/--output/--format */
    COMMON_QUIET = 1 << 1,
    COMMON_WAIT = 1 << 2,   /* --wait/--no-wait */
    COMMON_DRY_RUN = 1 << 3,
    COMMON_SPEC = 1 << 4,   /* the fields of instance_spec_table that have a flag */
};

enum output_format {
    OUTPUT_TABLE,
    OUTPUT_WIDE,
    OUTPUT_JSON,
    OUTPUT_YAML,
    OUTPUT_CSV,
    OUTPUT_NAME,
};

struct invocation {
    const struct command *command;
    void *options;           /* of command->options_size bytes */
    char **arguments;        /* positional ones, borrowed from argv, NULL-terminated */
    size_t count;
    char **rest;             /* what follows for the command inside; NULL-terminated */
    size_t rest_count;
    /* common flags */
    const char *socket;      /* NULL: default */
    enum language language;
    enum output_format output;
    bool output_given;
    bool quiet, no_wait, dry_run, help;
    /* COMMON_SPEC */
    struct instance_spec spec;
    uint64_t spec_given;     /* bit per row of instance_spec_table */
    struct client *client;   /* made at the first request */
    char *suggestion;        /* told after the error: the name that was meant, perhaps, or what to do */
};

struct command {
    const char *name;
    const char *alias;      /* second name, or NULL; several are separated by blanks */
    const char *group;      /* heading in the help: "Instances" */
    const char *summary;    /* one line */
    const char *description; /* paragraphs for the man page, or NULL */
    const char *usage;      /* what follows name and flags: "INSTANCE..." */
    const char *examples;   /* lines, or NULL */
    const struct flag *flags;
    size_t flag_count;
    size_t options_size;
    unsigned common;
    unsigned minimum, maximum; /* positional arguments; maximum UINT_MAX: any number */
    bool takes_rest;        /* after `maximum` arguments: a command line for inside */
    bool passes_flags;      /* the rest may begin with a flag; --help alone is ours */
    int fail_status;        /* exit status of errors that have none of their own; 0: 1 */
    enum complete complete; /* of the arguments */
    const struct command *const *children; /* NULL-terminated: a noun with verbs */
    /* Exit status, or negative errno with the error set. */
    int (*run)(struct invocation *invocation, struct error *error);
};

extern const struct command *const commands[]; /* NULL-terminated */

/* Words are a command line without the program's name. Sets up the invocation; USAGE errors. */
int command_parse(int count, char **words, struct invocation *ret, struct error *error);
void invocation_done(struct invocation *invocation);
/* The error, and what was perhaps meant or can be done. */
void invocation_show_error(struct invocation *invocation, const struct error *error);
const struct command *command_find(const struct command *const *list, const char *name);

/* All flags of a command in one view: its own, the common ones, the spec's, and those of every command. */
struct flag_view {
    const char *name, *alias, *value, *help;
    char letter;
    bool negatable;
    const char *const *choices;
    enum complete complete;
};
bool command_flag_next(const struct command *command, size_t *position, struct flag_view *ret);

/* The members of the spec that were given, as a JSON object's members (no braces). */
struct emitter;
void invocation_emit_spec(const struct invocation *invocation, struct emitter *emitter);
