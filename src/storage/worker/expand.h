// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "digest.h"
#include "options.h"
#include "report.h"

/* Decompression happens in a process of its own that can do nothing but read the blob and write to a pipe
 * (JAIL_PURE), so that the process that makes files never sees compressed bytes; both run at the same time.
 */

enum compression {
    COMPRESSION_NONE,
    COMPRESSION_GZIP,
    COMPRESSION_ZSTD,
    COMPRESSION_XZ,
    COMPRESSION_BZIP2,
    COMPRESSION_LZ4,
    COMPRESSION_DETECT, /* by the first bytes */
};

/* What the expander says at its end. */
struct expand_report {
    struct failure failure;
    uint64_t packed, unpacked;     /* bytes */
    char digest[DIGEST_TEXT_SIZE]; /* of the packed bytes */
};

struct expander {
    pid_t pid;
    int stream_fd; /* the unpacked bytes */
    int report_fd;
};

#define EXPANDER_INIT ((struct expander){ .pid = -1, .stream_fd = -1, .report_fd = -1 })

/* The compression that a layer of this media type must have; foreign (non-distributable) layers and unknown
 * types are refused. */
int compression_from_media_type(const char *media_type, enum compression *ret, struct failure *failure);

/* Starts the process on options->input_fd. Progress lines come from it. */
int expander_start(struct expander *expander, const struct options *options, enum compression compression,
                   struct failure *failure);

/* After the end of stream_fd: takes the report and the process. */
int expander_finish(struct expander *expander, struct expand_report *ret, struct failure *failure);

/* Ends it, at whatever point it is. */
void expander_done(struct expander *expander);
