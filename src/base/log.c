// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/text.h"

/* Lines of up to PIPE_BUF bytes go into a pipe whole, and fit if poll says that the pipe takes any. */
#define LINE_MAX_BYTES 4096

/* The process has one standard error, hence one level and one count. */
static atomic_int level_now = LOG_LEVEL_INFO;
static atomic_uint dropped;

void log_set_level(enum log_level level) {
    atomic_store(&level_now, level);
}

static bool write_line(const char *data, size_t size) {
    struct pollfd poller = { .fd = STDERR_FILENO, .events = POLLOUT };

    if (poll(&poller, 1, 0) <= 0 || !(poller.revents & POLLOUT))
        return false;
    for (;;) {
        ssize_t n = write(STDERR_FILENO, data, size);

        if (n >= 0 || errno != EINTR)
            return n >= 0;
    }
}

static void add_prefix(struct buffer *line, enum log_level level) {
    if (getenv("JOURNAL_STREAM"))
        buffer_addf(line, "<%d>", level);
}

/* Cuts the line to what a pipe takes whole, not within a character, and ends it. */
static void end_line(struct buffer *line) {
    if (line->size > LINE_MAX_BYTES - 4) {
        size_t size = LINE_MAX_BYTES - 4;

        while (size > 0 && ((unsigned char) line->data[size] & 0xc0) == 0x80)
            size--;
        line->size = size;
        buffer_add_text(line, "…");
    }
    buffer_add_char(line, '\n');
}

static void report_dropped(void) {
    _cleanup_buffer_ struct buffer line = BUFFER_INIT;
    unsigned count = atomic_exchange(&dropped, 0);

    if (count == 0)
        return;
    add_prefix(&line, LOG_LEVEL_WARNING);
    buffer_addf(&line, "%u log lines were dropped while standard error was blocked", count);
    end_line(&line);
    if (line.failed || !write_line(line.data, line.size))
        atomic_fetch_add(&dropped, count);
}

/* Without memory: what fits, on the stack, and without anything that a terminal might obey. */
static bool write_plain(const char *format, va_list arguments) {
    char line[512];
    int length = vsnprintf(line, sizeof(line) - 1, format, arguments);
    size_t size = length < 0 ? 0 : (size_t) length < sizeof(line) - 2 ? (size_t) length : sizeof(line) - 2;

    for (size_t i = 0; i < size; i++)
        if ((unsigned char) line[i] < 0x20 || (unsigned char) line[i] >= 0x7f)
            line[i] = '?';
    line[size] = '\n';
    return write_line(line, size + 1);
}

void log_line(enum log_level level, const char *format, ...) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    _cleanup_buffer_ struct buffer line = BUFFER_INIT;
    _cleanup_free_ char *safe = NULL;
    int saved = errno;
    va_list arguments;

    if ((int) level > atomic_load(&level_now))
        return;
    va_start(arguments, format);
    buffer_addv(&text, format, arguments);
    va_end(arguments);
    safe = text.failed ? NULL : text_escape(text.data, text.size, false);
    add_prefix(&line, level);
    if (safe)
        buffer_add_text(&line, safe);
    end_line(&line);
    report_dropped();
    va_start(arguments, format);
    if (safe && !line.failed ? !write_line(line.data, line.size) : !write_plain(format, arguments))
        atomic_fetch_add(&dropped, 1);
    va_end(arguments);
    errno = saved;
}
