// SPDX-License-Identifier: GPL-2.0-or-later
/* Files in the state directory, oldest first:
 *   log.1     the older part
 *   log.keep  only with conmon: another name of the file that "log" was when conmon started it (see container/logs.c);
 *             the same inode as "log" until conmon rotates
 *   log       the newest lines
 * A writer of ours keeps each of two files within half of the limit. Lines that were cut by a crash or a full disk are
 * left out by the reader.
 *
 * The files are opened, written and read by worker threads, because the storage below them may hang. Who adds lines
 * waits until they are written, but not for long: then they are kept here, as far as there is room. */
#include "drivers/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/process.h"
#include "base/text.h"

#define LINE_MAX_BYTES (16 * 1024)
#define PREFIX_MAX 64 /* time, channel, flag */
#define READ_CHUNK (64 * 1024)
#define PENDING_MAX (256 * 1024)
#define WRITE_WAIT (1 * CLOCK_SECOND)
#define FD_ABOVE 64

/* --- writing --------------------------------------------------------------------------------------------------- */

struct log_file {
    unsigned references;
    struct buffer pending; /* whole lines that no worker has taken yet */
    bool writing;          /* a fiber has lines written */
    bool late;             /* for so long that nobody waits for it any more */
    struct fiber_queue written;
    /* Of the worker while `writing`: */
    char *path;
    int directory;
    int fd; /* opened with the first line */
    uint64_t half;
    uint64_t size;
    bool torn; /* the last write was cut short: the next line starts with a newline */
};

static struct log_file *log_file_ref(struct log_file *log) {
    log->references++;
    return log;
}

void log_file_free(struct log_file *log) {
    if (!log || --log->references > 0)
        return;
    buffer_done(&log->pending);
    close_fd(log->fd);
    close_fd(log->directory);
    free(log->path);
    free(log);
}

DEFINE_CLEANUP(struct log_file *, log_file_free)

int log_file_open(const char *state_path, uint64_t limit, struct log_file **ret) {
    _cleanup_(log_file_freep) struct log_file *log = calloc(1, sizeof(*log));

    if (!log)
        return -ENOMEM;
    log->references = 1;
    log->half = limit / 2;
    log->fd = log->directory = -EBADF;
    log->path = strdup(state_path);
    if (!log->path)
        return -ENOMEM;
    *ret = STEAL_PTR(log);
    return 0;
}

/* A close of these may hang as a write does. Who asks whether storage answers gets copies of what is below 64, and closes
 * them (base/process.c): it would then wait for storage that it did not ask about. */
static int log_open(int directory, const char *name, int flags) {
    int fd = openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600), above;

    if (fd < 0 || fd >= FD_ABOVE)
        return fd;
    above = fcntl(fd, F_DUPFD_CLOEXEC, FD_ABOVE);
    if (above < 0)
        return fd;
    close(fd);
    return above;
}

static int files_open(struct log_file *log) {
    struct stat status;

    if (log->fd >= 0)
        return 0;
    if (log->directory < 0)
        log->directory = open(log->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (log->directory < 0)
        return -errno;
    log->fd = log_open(log->directory, "log", O_WRONLY | O_CREAT | O_APPEND);
    if (log->fd < 0 || fstat(log->fd, &status) < 0)
        return -errno;
    log->size = (uint64_t) status.st_size;
    log->torn = log->size > 0; /* an empty line does no harm */
    return 0;
}

static void log_rotate(struct log_file *log) {
    int fd;

    (void) renameat(log->directory, "log", log->directory, "log.1");
    fd = log_open(log->directory, "log", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND);
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

/* One line with its newline. */
static void line_write(struct log_file *log, const char *line, size_t size) {
    struct iovec parts[] = { { .iov_base = (char[]){ '\n' }, .iov_len = 1 },
                             { .iov_base = (void *) (uintptr_t) line, .iov_len = size } };
    size_t length = size + (log->torn ? 1 : 0);
    ssize_t written;

    if (length > log->half)
        return;
    if (log->size + length > log->half)
        log_rotate(log);
    length = size + (log->torn ? 1 : 0);
    written = writev(log->fd, log->torn ? parts : parts + 1, log->torn ? 2 : 1);
    if (written > 0)
        log->size += (uint64_t) written;
    if (written != 0)
        log->torn = written != (ssize_t) length && (log->torn || written > 0);
}

struct write_job {
    struct log_file *log;
    struct buffer lines;
};

static int write_job_run(void *userdata) {
    struct write_job *job = userdata;
    const char *at = job->lines.data, *end;
    size_t left = job->lines.size;

    /* A thread that hangs in opening them would keep polderd from ending; one that waits for another process does not. */
    if (job->log->fd < 0)
        (void) process_await_storage(job->log->path);
    if (files_open(job->log) < 0)
        return 0;
    while (left > 0 && (end = memchr(at, '\n', left))) {
        line_write(job->log, at, (size_t) (end - at) + 1);
        left -= (size_t) (end - at) + 1;
        at = end + 1;
    }
    return 0;
}

static int writer_main(void *userdata) {
    _cleanup_(log_file_freep) struct log_file *log = userdata;

    while (log->pending.size > 0) {
        struct write_job job = { .log = log, .lines = log->pending };

        log->pending = (struct buffer) BUFFER_INIT;
        (void) fiber_job(write_job_run, &job);
        buffer_done(&job.lines);
    }
    log->writing = log->late = false;
    fiber_queue_wake_all(&log->written);
    return 0;
}

/* Waits too, unless off fibers: there it is done in place. */
static void pending_write(struct log_file *given) {
    _cleanup_(log_file_freep) struct log_file *log = log_file_ref(given);
    struct log_file *writers;
    uint64_t deadline = deadline_in(WRITE_WAIT);
    int r = 0;

    if (!log->writing) {
        log->writing = true;
        writers = log_file_ref(log);
        if (!fiber_current() || fiber_start(NULL, "log", writer_main, writers) < 0)
            (void) writer_main(writers);
    }
    while (r >= 0 && log->writing && !log->late)
        r = fiber_queue_wait(&log->written, deadline);
    if (r == -ETIMEDOUT && log->writing)
        log->late = true;
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

static void line_add(struct log_file *log, enum stream_channel channel, const char *data, size_t size, bool partial) {
    char prefix[PREFIX_MAX];
    size_t length = log_prefix(prefix, sizeof(prefix), channel, partial);

    if (log->pending.size > PENDING_MAX || buffer_reserve(&log->pending, length + size + 1) < 0)
        return;
    buffer_add(&log->pending, prefix, length);
    buffer_add(&log->pending, data, size);
    buffer_add_char(&log->pending, '\n');
}

/* What has no newline yet is not held back: a prompt is seen at once. */
void log_file_add(struct log_file *log, enum stream_channel channel, const void *data, size_t size) {
    const char *at = data;

    while (size > 0) {
        size_t part = size < LINE_MAX_BYTES ? size : LINE_MAX_BYTES;
        const char *end = memchr(at, '\n', part);

        if (end)
            part = (size_t) (end - at);
        line_add(log, channel, at, part, !end);
        part += end ? 1 : 0;
        at += part;
        size -= part;
    }
    if (log->pending.size > 0)
        pending_write(log);
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
        int fd = log_open(reader->directory, names[i], O_RDONLY | O_NONBLOCK);
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

static int entry_next(struct log_reader *reader, struct log_entry *ret);

/* An entry counts as a line unless it goes on: "… P …" is followed by more of the same line. */
static int64_t count_lines(struct log_reader *reader) {
    struct log_entry entry;
    int64_t lines = 0;

    while (entry_next(reader, &entry) > 0)
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

struct open_job {
    const char *state_path;
    int64_t tail;
    struct log_reader *reader;
};

static int open_job_run(void *userdata) {
    struct open_job *job = userdata;
    struct log_reader *reader = job->reader;
    int64_t lines;
    int r;

    reader->directory = open(job->state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (reader->directory < 0)
        return -errno;
    r = reader_open_files(reader);
    if (r >= 0 && job->tail >= 0) {
        lines = count_lines(reader);
        reader->skip = lines > job->tail ? lines - job->tail : 0;
        reader_rewind(reader);
    }
    return r;
}

int log_reader_open(const char *state_path, int64_t tail, struct log_reader **ret) {
    _cleanup_(log_reader_freep) struct log_reader *reader = calloc(1, sizeof(*reader));
    struct open_job job = { .state_path = state_path, .tail = tail, .reader = reader };
    int r;

    if (!reader)
        return -ENOMEM;
    reader->directory = -EBADF;
    if (fiber_jobs_stuck() >= FIBER_JOBS_STUCK_MOST)
        return -EAGAIN;
    r = fiber_job(open_job_run, &job);
    if (r < 0)
        return r;
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
    int fd = log_open(reader->directory, "log", O_RDONLY | O_NONBLOCK);

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

static int entry_next(struct log_reader *reader, struct log_entry *ret) {
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

struct next_job {
    struct log_reader *reader;
    struct log_entry *entry;
};

static int next_job_run(void *userdata) {
    const struct next_job *job = userdata;

    return entry_next(job->reader, job->entry);
}

int log_reader_next(struct log_reader *reader, struct log_entry *ret) {
    struct next_job job = { .reader = reader, .entry = ret };
    int r = reader_take(reader, ret); /* most are in memory */

    if (r == 0 && fiber_jobs_stuck() >= FIBER_JOBS_STUCK_MOST)
        return -EAGAIN;
    return r != 0 ? r : fiber_job(next_job_run, &job);
}
