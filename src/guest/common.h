// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

/* The few helpers that all parts of polder-guest share. The agent is one small static program: it takes the
 * macros of base/cleanup.h and links nothing of the daemon's library. */

/* Why something failed, as one English sentence that travels to the daemon. A fixed buffer, so that it can be
 * filled after fork and sent through a pipe as it is. The first cause wins. */
struct reason {
    char text[256];
};

#define REASON_INIT                                                                                          \
    {                                                                                                        \
        { 0 }                                                                                                \
    }

/* Writes the sentence unless one is there already, adds ": strerror" when r is a negative errno other than
 * -EINVAL and -EBADMSG (those two mean that the sentence says it all), and returns r. `reason` may be NULL.
 */
int reason_set(struct reason *reason, int r, const char *format, ...) _printf_(3, 4);

/* One line on the kernel console, "polder-guest: …". */
void guest_log(const char *format, ...) _printf_(1, 2);

/* Writes or reads everything, going on after EINTR and short transfers, on a blocking descriptor.
 * read_full returns the bytes read, fewer only at the end of file. */
int write_full(int fd, const void *data, size_t size);
ssize_t read_full(int fd, void *data, size_t size);

/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t monotonic_ms(void);

/* Opens `path` beneath directory `root_fd`, where absolute links stay inside and magic links are refused. */
int open_in_root(int root_fd, const char *path, int flags, unsigned mode);

/* Makes the directory `path` and its parents (mode 0755) inside root_fd, following links without leaving it.
 * Returns an O_PATH descriptor of the directory. */
int make_directory_in_root(int root_fd, const char *path);

/* Reads at most `limit` bytes of a regular file and adds a NUL. -EINVAL: no regular file; -EFBIG: longer than
 * limit. A FIFO or device in its place cannot block. */
int read_regular_file(int root_fd, const char *path, size_t limit, char **ret_text, size_t *ret_size);

/* Whole string a decimal number of at most `max`. 0, -EINVAL or -ERANGE. */
int parse_number(const char *text, uint64_t max, uint64_t *ret);

/* Releases a NULL-terminated array of strings. */
void texts_free(char **texts);
DEFINE_CLEANUP(char **, texts_free)
