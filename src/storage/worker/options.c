// SPDX-License-Identifier: GPL-2.0-or-later
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "digest.h"

enum option_type {
    OPTION_FD,
    OPTION_NUMBER,
    OPTION_DIGEST,
    OPTION_TEXT,
    OPTION_FLAG,
};

struct option_row {
    const char *name;
    enum option_type type;
    size_t offset;
    unsigned takes, needs; /* sets of commands */
};

#define COMMAND_TAR (COMMAND_UNPACK | COMMAND_IMPORT)
#define FIELD(name) offsetof(struct options, name)

static const struct option_row option_rows[] = {
    { "--input-fd", OPTION_FD, FIELD(input_fd), COMMAND_ALL, COMMAND_ALL },
    { "--root-fd", OPTION_FD, FIELD(root_fd), COMMAND_TAR, COMMAND_TAR },
    { "--output-fd", OPTION_FD, FIELD(output_fd), COMMAND_VERIFY | COMMAND_CONVERT,
      COMMAND_VERIFY | COMMAND_CONVERT },
    { "--digest", OPTION_DIGEST, FIELD(digest), COMMAND_UNPACK | COMMAND_VERIFY, COMMAND_UNPACK },
    { "--diff-id", OPTION_DIGEST, FIELD(diff_id), COMMAND_UNPACK, COMMAND_UNPACK },
    { "--media-type", OPTION_TEXT, FIELD(media_type), COMMAND_UNPACK, COMMAND_UNPACK },
    { "--declared", OPTION_TEXT, FIELD(declared), COMMAND_PROBE | COMMAND_CONVERT, 0 },
    { "--max-bytes", OPTION_NUMBER, FIELD(max_bytes), COMMAND_TAR | COMMAND_VERIFY | COMMAND_CONVERT, 0 },
    { "--max-entries", OPTION_NUMBER, FIELD(max_entries), COMMAND_TAR, 0 },
    { "--max-ratio", OPTION_NUMBER, FIELD(max_ratio), COMMAND_TAR, 0 },
    { "--max-virtual", OPTION_NUMBER, FIELD(max_virtual), COMMAND_PROBE | COMMAND_CONVERT, 0 },
    { "--limit-memory", OPTION_NUMBER, FIELD(limit_memory), COMMAND_ALL, 0 },
    { "--limit-cpu", OPTION_NUMBER, FIELD(limit_cpu_seconds), COMMAND_ALL, 0 },
    { "--limit-files", OPTION_NUMBER, FIELD(limit_files), COMMAND_ALL, 0 },
    { "--sync", OPTION_FLAG, FIELD(sync), COMMAND_TAR | COMMAND_VERIFY | COMMAND_CONVERT, 0 },
};

static int parse_number(const char *text, uint64_t *ret) {
    if (!*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 20)
        return -EINVAL;
    errno = 0;
    *ret = strtoull(text, NULL, 10);
    return errno || *ret > INT64_MAX ? -ERANGE : 0;
}

static int parse_fd(const char *text, int *ret) {
    uint64_t number;
    if (parse_number(text, &number) < 0 || number < 3 || number > 1 << 20)
        return -EINVAL;
    if (fcntl((int) number, F_GETFD) < 0)
        return -errno;
    *ret = (int) number;
    return 0;
}

static int option_set(struct options *options, const struct option_row *row, const char *value,
                      struct failure *failure) {
    void *field = (char *) options + row->offset;
    int r = 0;
    switch (row->type) {
    case OPTION_FD:
        r = parse_fd(value, field);
        break;
    case OPTION_NUMBER:
        r = parse_number(value, field);
        if (r == 0 && *(uint64_t *) field == 0)
            r = -ERANGE;
        break;
    case OPTION_DIGEST:
        *(const char **) field = value;
        r = digest_is_valid(value) ? 0 : -EINVAL;
        break;
    case OPTION_TEXT:
        *(const char **) field = value;
        break;
    case OPTION_FLAG:
        *(bool *) field = true;
        break;
    }
    return r < 0 ? fail(failure, FAILURE_USAGE, row->name, "'%s' is not a value for it: %s", value,
                        strerror(-r))
                 : 0;
}

static const struct option_row *option_find(const char *name, unsigned command) {
    for (size_t i = 0; i < ELEMENTS(option_rows); i++)
        if (strcmp(option_rows[i].name, name) == 0 && (option_rows[i].takes & command))
            return &option_rows[i];
    return NULL;
}

static void options_init(struct options *options, unsigned command) {
    *options = (struct options){
        .input_fd = -1,
        .output_fd = -1,
        .root_fd = -1,
        .max_bytes = command & COMMAND_TAR ? 64ULL << 30 : 16ULL << 40,
        .max_entries = 2000000,
        .max_ratio = 500,
        .max_virtual = 16ULL << 40,
        .parent_pidfd = -1,
        /* qemu-img reserves stacks and arenas for its threads, most of which it never touches. */
        .limit_memory = (command & (COMMAND_CONVERT | COMMAND_CHECK) ? 3072ULL : 768ULL) << 20,
        .limit_cpu_seconds = 1800,
        .limit_files = 1024,
    };
}

int options_parse(struct options *options, unsigned command, int count, char **words,
                  struct failure *failure) {
    unsigned seen = 0;
    options_init(options, command);
    for (int i = 0; i < count; i++) {
        const struct option_row *row = option_find(words[i], command);
        if (!row)
            return fail(failure, FAILURE_USAGE, words[i], "not an option of this command");
        unsigned bit = 1u << (row - option_rows);
        if (seen & bit)
            return fail(failure, FAILURE_USAGE, words[i], "given twice");
        seen |= bit;
        if (row->type != OPTION_FLAG && ++i == count)
            return fail(failure, FAILURE_USAGE, row->name, "its value is missing");
        if (option_set(options, row, words[i], failure) < 0)
            return -EBADMSG;
    }
    for (size_t i = 0; i < ELEMENTS(option_rows); i++)
        if ((option_rows[i].needs & command) && !(seen & 1u << i))
            return fail(failure, FAILURE_USAGE, option_rows[i].name, "it is required");
    return 0;
}
