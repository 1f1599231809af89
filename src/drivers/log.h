// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "drivers/stream.h"

/* An instance's log at "STATE_PATH/log" (and "log.1" for the older half), in the CRI line format that conmon writes too:
 * "2026-11-21T08:52:00.123456789+00:00 stdout F text\n", P instead of F for a line that goes on. Never more than
 * `limit` bytes in both files together. */

struct log_file;

/* Opens no file yet. */
int log_file_open(const char *state_path, uint64_t limit, struct log_file **ret);
/* Fiber (or off fibers, where storage that hangs is waited for): adds bytes of one channel; splits at newlines and at 16
 * KiB. Never waits for a reader, and for the storage a second at most; a full disk, or one that hangs, drops bytes. */
void log_file_add(struct log_file *log, enum stream_channel channel, const void *data, size_t size);
void log_file_free(struct log_file *log);

/* Reading, for `polder logs`: both files in order. */
struct log_entry {
    char time[48];
    enum stream_channel channel;
    bool partial;     /* the line goes on in the next entry */
    const char *text; /* size bytes, raw guest bytes */
    size_t size;
};
struct log_reader;
/* Fibers: both may wait for the storage, and so long only their caller waits. tail: the last so many lines (-1: all). */
/* -EAGAIN from either: too much hangs on storage already. */
int log_reader_open(const char *state_path, int64_t tail, struct log_reader **ret);
/* 1: *ret filled, valid until the next call; 0: no more for now (follow: wait and call again; rotation is noticed). */
int log_reader_next(struct log_reader *reader, struct log_entry *ret);
void log_reader_free(struct log_reader *reader);
