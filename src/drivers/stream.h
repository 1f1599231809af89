// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A two-way connection to a process, a console or an archive transfer. One fiber may read while another writes. */

enum stream_channel {
    STREAM_OUTPUT = 1,
    STREAM_ERRORS = 2,
};

struct stream;

struct stream_operations {
    /* Bytes > 0 and the channel; 0 at the end of everything; negative errno. Waits. */
    long (*read)(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size, uint64_t deadline);
    /* Writes all of it to standard input; waits when the other side does not read. -EPIPE when it is closed. */
    int (*write)(struct stream *stream, const void *data, size_t size, uint64_t deadline);
    int (*close_input)(struct stream *stream);
    int (*resize)(struct stream *stream, uint16_t rows, uint16_t columns);
    int (*signal)(struct stream *stream, int number);
    /* After read returned 0: waits for the end. *ret_code as a shell would give it. NULL: always 0. */
    int (*result)(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline);
    /* Ends the connection; an exec'ed process that still runs is killed, an attached main process is not. */
    void (*free)(struct stream *stream);
};

struct stream {
    const struct stream_operations *operations;
};

/* Accept NULL operations: -EOPNOTSUPP. */
long stream_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size, uint64_t deadline);
int stream_write(struct stream *stream, const void *data, size_t size, uint64_t deadline);
int stream_close_input(struct stream *stream);
int stream_resize(struct stream *stream, uint16_t rows, uint16_t columns);
int stream_signal(struct stream *stream, int number);
int stream_result(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline);
void stream_free(struct stream *stream);
