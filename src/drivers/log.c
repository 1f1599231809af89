// SPDX-License-Identifier: GPL-2.0-or-later
/* Files in the state directory, oldest first:
 *   log.1     the older part
 *   log.keep  only with conmon: another name of the file that "log" was when conmon started it (see container/logs.c);
 *             the same inode as "log" until conmon rotates
 *   log       the newest lines
 * A writer of ours keeps each of two files within half of the limit. Lines that were cut by a crash or a full disk are
 * left out by the reader. */
#include "drivers/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/text.h"

#define LINE_MAX_BYTES (16 * 1024)
#define PREFIX_MAX 64 /* time, channel, flag */
#define READ_CHUNK (64 * 1024)

/* --- writing --------------------------------------------------------------------------------------------------- */

struct log_file {
    int directory;
    int fd;
    uint64_t half;
    uint64_t size;
    bool torn; /* the last write was cut short: the next line starts with a newline */
};

DEFINE_CLEANUP(struct log_file *, log_file_free)

int log_file_open(const char *state_path, uint64_t limit, struct log_file **ret) {
    _cleanup_(log_file_freep) struct log_file *log = calloc(1, sizeof(*log));
    struct stat status;

    if (!log)
        return -ENOMEM;
    log->half = limit / 2;
    log->fd = -EBADF;
    log->directory = open(state_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (log->directory < 0)
        return -errno;
    log->fd = openat(log->directory, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (log->fd < 0 || fstat(log->fd, &status) < 0)
        return -errno;
    log->size = (uint64_t) status.st_size;
    log->torn = log->size > 0; /* an empty line does no harm */
    *ret = STEAL_PTR(log);
    return 0;
}

static void log_rotate(struct log_file *log) {
    int fd;

    (void) renameat(log->directory, "log", log->directory, "log.1");
    fd = openat(log->directory, "log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        /* No room for a new file: the old one starts again. */
        (void) renameat(log->directory, "log.1", log->directory, "log");
        (void) ftruncate(log->fd, 0);
    } else {
        close_fd(log->fd);
        log->fd = fd;
    }
    log->size = 0;
    log->torn = false;
}

static size_t log_prefix(char *text, size_t size, enum stream_channel channel, bool partial) {
    struct timespec now;
    struct tm parts;
    char seconds[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &parts);
    return (size_t) snprintf(text, size, "%s.%09ld+00:00 %s %c ", seconds, now.tv_nsec,
                             channel == STREAM_ERRORS ? "stderr" : "stdout", partial ? 'P' : 'F');
}

static void log_write(struct log_file *log, enum stream_channel channel, const char *data, size_t size,
                      bool partial) {
    char line[1 + PREFIX_MAX + LINE_MAX_BYTES + 1];
    size_t length = 0;
    ssize_t written;

    if (log->torn)
        line[length++] = '\n';
    length += log_prefix(line + length, PREFIX_MAX, channel, partial);
    memcpy(line + length, data, size);
    length += size;
    line[length++] = '\n';
    if (length > log->half)
        return;
    if (log->size + length > log->half)
        log_rotate(log);
    written = write(log->fd, line, length);
    if (written > 0)
        log->size += (uint64_t) written;
    if (written != 0)
        log->torn = written != (ssize_t) length && (log->torn || written > 0);
}

/* What has no newline yet is not held back: a prompt is seen at once. */
void log_file_add(struct log_file *log, enum stream_channel channel, const void *data, size_t size) {
    const char *at = data;

    while (size > 0) {
        size_t part = size < LINE_MAX_BYTES ? size : LINE_MAX_BYTES;
        const char *end = memchr(at, '\n', part);

        if (end)
            part = (size_t) (end - at);
        log_write(log, channel, at, part, !end);
        part += end ? 1 : 0;
        at += part;
        size -= part;
    }
}

void log_file_free(struct log_file *log) {
    if (!log)
        return;
    close_fd(log->fd);
    close_fd(log->directory);
    free(log);
}

/* --- reading --------------------------------------------------------------------------------------------------- */

struct log_reader {
    int directory;
    int fds[3]; /* what is read, one after the other; the last is "log" and may grow */
    size_t count, current;
    struct buffer data;
    size_t taken; /* of data, by the entry given out last */
    int64_t skip; /* lines still to pass over */
};

DEFINE_CLEANUP(struct log_reader *, log_reader_free)

static bool same_file(int a, int b) {
    struct stat first, second;

    return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_ino == second.st_ino &&
           first.st_dev == second.st_dev;
}

static int reader_open_files(struct log_reader *reader) {
    static const char *const names[] = { "log.1", "log.keep", "log" };

    for (size_t i = 0; i < ELEMENTS(names); i++) {
        int fd = openat(reader->directory, names[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 && errno != ENOENT)
            return -errno;
        if (fd < 0)
            continue;
        /* Two names of one file are read once, and as the newest of the two. */
        if (reader->count > 0 && same_file(reader->fds[reader->count - 1], fd))
            close_fd(reader->fds[--reader->count]);
        reader->fds[reader->count++] = fd;
    }
    return 0;
}

/* An entry counts as a line unless it goes on: "… P …" is followed by more of the same line. */
static int64_t count_lines(struct log_reader *reader) {
    struct log_entry entry;
    int64_t lines = 0;

    while (log_reader_next(reader, &entry) > 0)
        lines += entry.partial ? 0 : 1;
    return lines;
}

static void reader_rewind(struct log_reader *reader) {
    for (size_t i = 0; i < reader->count; i++)
        (void) lseek(reader->fds[i], 0, SEEK_SET);
    reader->current = 0;
    reader->taken = 0;
    buffer_reset(&reader->data);
}

int log_reader_open(const char *state_path, int64_t tail, struct log_reader **ret) {
    _cleanup_(log_reader_freep) struct log_reader *reader = calloc(1, sizeof(*reader));
    int64_t lines;
    int r;

    if (!reader)
        return -ENOMEM;
    reader->directory = open(state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (reader->directory < 0)
        return -errno;
    r = reader_open_files(reader);
    if (r < 0)
        return r;
    if (tail >= 0) {
        lines = count_lines(reader);
        reader->skip = lines > tail ? lines - tail : 0;
        reader_rewind(reader);
    }
    *ret = STEAL_PTR(reader);
    return 0;
}

void log_reader_free(struct log_reader *reader) {
    if (!reader)
        return;
    for (size_t i = 0; i < reader->count; i++)
        close_fd(reader->fds[i]);
    close_fd(reader->directory);
    buffer_done(&reader->data);
    free(reader);
}

/* "2026-11-21T08:52:00.123456789+00:00 stdout F text". False: not a line of this format, left out. */
static bool entry_parse(const char *line, size_t size, struct log_entry *ret) {
    const char *space = memchr(line, ' ', size < sizeof(ret->time) ? size : sizeof(ret->time) - 1);
    size_t length = space ? (size_t) (space - line) : 0;

    if (length < 20 || size < length + 10)
        return false;
    memcpy(ret->time, line, length);
    ret->time[length] = '\0';
    if (memcmp(space, " stdout ", 8) == 0)
        ret->channel = STREAM_OUTPUT;
    else if (memcmp(space, " stderr ", 8) == 0)
        ret->channel = STREAM_ERRORS;
    else
        return false;
    if ((space[8] != 'F' && space[8] != 'P') || space[9] != ' ')
        return false;
    ret->partial = space[8] == 'P';
    ret->text = space + 10;
    ret->size = size - length - 10;
    return true;
}

/* One more complete line from what is buffered: 1, or 0. */
static int reader_take(struct log_reader *reader, struct log_entry *ret) {
    char *start, *end;

    for (;;) {
        start = reader->data.data + reader->taken;
        end = reader->data.size > reader->taken ? memchr(start, '\n', reader->data.size - reader->taken) : NULL;
        if (!end)
            return 0;
        reader->taken += (size_t) (end - start) + 1;
        if (!entry_parse(start, (size_t) (end - start), ret))
            continue;
        if (reader->skip == 0)
            return 1;
        reader->skip -= ret->partial ? 0 : 1;
    }
}

/* More bytes: > 0; 0 at the end of all there is now. */
static int reader_fill(struct log_reader *reader) {
    ssize_t size;
    int r;

    buffer_consume(&reader->data, reader->taken);
    reader->taken = 0;
    if (reader->data.size > 2 * READ_CHUNK)
        buffer_reset(&reader->data); /* a "line" that long is none of ours */
    r = buffer_reserve(&reader->data, READ_CHUNK);
    if (r < 0)
        return r;
    size = read(reader->fds[reader->current], reader->data.data + reader->data.size, READ_CHUNK);
    if (size < 0)
        return -errno;
    reader->data.size += (size_t) size;
    return size > 0;
}

/* At the end of the last file: has "log" become another file? Then that one is next, after one more look at the old. */
static bool reader_follow(struct log_reader *reader) {
    int fd = openat(reader->directory, "log", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0)
        return false;
    if (reader->count > 0 && same_file(fd, reader->fds[reader->count - 1])) {
        close_fd(fd);
        return false;
    }
    for (size_t i = 0; i + 1 < reader->count; i++)
        reader->fds[i] = close_fd(reader->fds[i]);
    if (reader->count > 0)
        reader->fds[0] = reader->fds[reader->count - 1];
    reader->current = 0;
    reader->fds[reader->count > 0 ? 1 : 0] = fd;
    reader->count = reader->count > 0 ? 2 : 1;
    return true;
}

int log_reader_next(struct log_reader *reader, struct log_entry *ret) {
    for (;;) {
        int r = reader_take(reader, ret);
        if (r != 0)
            return r;
        r = reader->count > 0 ? reader_fill(reader) : 0;
        if (r < 0)
            return r;
        if (r > 0)
            continue;
        if (reader->current + 1 < reader->count) {
            /* A line cut at the end of a file that was rotated is complete nowhere. */
            buffer_reset(&reader->data);
            reader->current++;
        } else if (!reader_follow(reader)) {
            return 0;
        }
    }
}
