// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "report.h"

/* Bits of enum-like command sets: which options a subcommand takes and which it needs. */
#define COMMAND_UNPACK (1u << 0)
#define COMMAND_IMPORT (1u << 1)
#define COMMAND_VERIFY (1u << 2)
#define COMMAND_PROBE (1u << 3)
#define COMMAND_CONVERT (1u << 4)
#define COMMAND_CHECK (1u << 5)
#define COMMAND_ALL 63u

struct options {
    int input_fd, output_fd, root_fd; /* -1 if not given */
    const char *digest, *diff_id;     /* "sha256:…", checked for form */
    const char *media_type;
    const char *declared; /* disk format that the user named, NULL = whatever it is */
    uint64_t max_bytes;   /* of output: unpacked stream, copied blob, converted file */
    uint64_t max_entries;
    uint64_t max_ratio;   /* unpacked : packed, looked at after 256 MiB of output */
    uint64_t max_virtual; /* bytes of virtual disk */
    uint64_t limit_memory, limit_cpu_seconds, limit_files;
    bool sync;        /* make the output durable before the result line */
    int parent_pidfd; /* of the process that must outlive this one; set by jail_run and expander_start */
};

/* Reads `--name value` pairs for one command. An unknown, foreign, repeated or missing option and a value of
 * the wrong form fail with "usage" and the option as field. Descriptors are checked to be open. */
int options_parse(struct options *options, unsigned command, int count, char **words,
                  struct failure *failure);
