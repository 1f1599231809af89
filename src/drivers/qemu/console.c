// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/fiber.h"
#include "base/text.h"
#include "drivers/qemu/queue.h"

#define OUTPUT_NAME "console.out"
#define INPUT_NAME "console.in"
#define READ_SIZE 16384
#define GATHER (10 * CLOCK_MILLISECOND) /* what comes meanwhile waits in the pipe */
#define LINE_SHOWN 200

struct viewer {
    struct stream stream;
    struct viewer *next;
    struct console *console;
    struct byte_queue queue;
};

struct console {
    unsigned references; /* the owner, the fiber, each viewer */
    int output;          /* read end */
    int input;           /* write end */
    bool freed;
    void (*handler)(const void *data, size_t size, void *userdata);
    void *userdata;
    struct fiber *fiber;
    struct viewer *viewers;
    struct buffer tail;
};

static void console_unref(struct console *console) {
    if (--console->references > 0)
        return;
    close_fd(console->output);
    close_fd(console->input);
    buffer_done(&console->tail);
    fiber_unref(console->fiber);
    free(console);
}

static void console_unrefp(struct console **console) {
    if (*console)
        console_unref(*console);
}

/* --- the FIFOs ------------------------------------------------------------------------------------------ */

static int fifo_make(int directory, const char *name) {
    if (unlinkat(directory, name, 0) < 0 && errno != ENOENT)
        return -errno;
    return mkfifoat(directory, name, 0600) < 0 ? -errno : 0;
}

static int fifo_open(int directory, const char *name, int flags) {
    int fd = openat(directory, name, flags | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);

    return fd < 0 ? -errno : fd;
}

static void ends_close(struct console_ends *ends) {
    close_fd(ends->output);
    close_fd(ends->input);
    close_fd(ends->keep[0]);
    close_fd(ends->keep[1]);
}

int console_make(int directory, struct console_ends *ret) {
    struct console_ends ends = { -EBADF, -EBADF, { -EBADF, -EBADF } };
    int r = fifo_make(directory, OUTPUT_NAME);

    if (r >= 0)
        r = fifo_make(directory, INPUT_NAME);
    /* Both ends at once first: the others then open without waiting. */
    if (r >= 0)
        r = ends.keep[0] = fifo_open(directory, OUTPUT_NAME, O_RDWR);
    if (r >= 0)
        r = ends.keep[1] = fifo_open(directory, INPUT_NAME, O_RDWR);
    if (r >= 0)
        r = ends.output = fifo_open(directory, OUTPUT_NAME, O_WRONLY);
    if (r >= 0)
        r = ends.input = fifo_open(directory, INPUT_NAME, O_RDONLY);
    if (r < 0) {
        ends_close(&ends);
        return r;
    }
    /* Only less is kept if this is refused. */
    (void) fcntl(ends.output, F_SETPIPE_SZ, CONSOLE_PIPE);
    *ret = ends;
    return 0;
}

/* --- reading -------------------------------------------------------------------------------------------- */

static void console_take(struct console *console, const char *data, size_t size) {
    for (struct viewer *viewer = console->viewers; viewer; viewer = viewer->next) {
        (void) byte_queue_add(&viewer->queue, STREAM_OUTPUT, data, size);
        byte_queue_trim(&viewer->queue, CONSOLE_QUEUE);
    }
    buffer_add(&console->tail, data, size);
    if (console->tail.failed)
        buffer_done(&console->tail);
    else if (console->tail.size > 2 * CONSOLE_TAIL)
        buffer_consume(&console->tail, console->tail.size - CONSOLE_TAIL);
    /* Last: it may wait. */
    if (!console->freed && console->handler)
        console->handler(data, size, console->userdata);
}

/* An emulated port writes byte by byte: each would wake polderd and be an entry of its own in the log. What came first
 * is seen at once; unless somebody looks or there is plenty, the rest is left to gather. */
static int console_rest(const struct console *console, bool plenty) {
    return console->viewers || plenty ? fiber_yield() : fiber_sleep(GATHER);
}

static int console_main(void *userdata) {
    _cleanup_(console_unrefp) struct console *console = userdata;
    _cleanup_free_ char *data = malloc(READ_SIZE);
    long size = 0;

    while (data && !console->freed &&
           (size = fiber_read(console->output, data, READ_SIZE, DEADLINE_NONE)) > 0) {
        console_take(console, data, (size_t) size);
        if (console_rest(console, size == READ_SIZE) < 0)
            break;
    }
    return 0;
}

void console_drain(struct console *given) {
    _cleanup_(console_unrefp) struct console *console = given;
    char data[4096];
    ssize_t size;

    console->references++;
    for (size_t total = 0; total < CONSOLE_PIPE && !console->freed; total += (size_t) size) {
        size = read(console->output, data, sizeof(data));
        if (size <= 0)
            return;
        console_take(console, data, (size_t) size);
    }
}

char *console_last_line(const struct console *console) {
    const char *text = console->tail.data;
    size_t end = console->tail.size, start;

    while (end > 0 && strchr("\r\n ", text[end - 1]))
        end--;
    if (end == 0)
        return NULL;
    for (start = end; start > 0 && text[start - 1] != '\n' && end - start < LINE_SHOWN; start--)
        ;
    return text_escape(text + start, end - start, false);
}

/* --- viewers -------------------------------------------------------------------------------------------- */

static struct viewer *viewer_of(struct stream *stream) {
    return CONTAINER_OF(stream, struct viewer, stream);
}

static long viewer_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                        uint64_t deadline) {
    return byte_queue_read(&viewer_of(stream)->queue, ret_channel, data, size, deadline);
}

static int viewer_write(struct stream *stream, const void *data, size_t size, uint64_t deadline) {
    struct console *console = viewer_of(stream)->console;

    return console->freed ? -EPIPE : fiber_write(console->input, data, size, deadline);
}

static void viewer_free(struct stream *stream) {
    struct viewer *viewer = viewer_of(stream);

    for (struct viewer **link = &viewer->console->viewers; *link; link = &(*link)->next)
        if (*link == viewer) {
            *link = viewer->next;
            break;
        }
    byte_queue_done(&viewer->queue);
    console_unref(viewer->console);
    free(viewer);
}

static const struct stream_operations viewer_operations = {
    .read = viewer_read,
    .write = viewer_write,
    .free = viewer_free,
};

int console_view(struct console *console, struct stream **ret, struct error *error) {
    struct viewer *viewer;

    if (!console)
        return error_set(error, ERROR_GUEST, "its console is not there");
    viewer = calloc(1, sizeof(*viewer));
    if (!viewer)
        return error_errno(error, -ENOMEM, "opening the console");
    viewer->stream.operations = &viewer_operations;
    viewer->console = console;
    viewer->next = console->viewers;
    console->viewers = viewer;
    console->references++;
    *ret = &viewer->stream;
    return 0;
}

/* --- life ----------------------------------------------------------------------------------------------- */

int console_open(int directory, void (*output)(const void *data, size_t size, void *userdata), void *userdata,
                 struct console **ret) {
    _cleanup_(console_unrefp) struct console *console = calloc(1, sizeof(*console));
    int r;

    if (!console)
        return -ENOMEM;
    console->references = 1;
    console->handler = output;
    console->userdata = userdata;
    console->input = -EBADF;
    r = console->output = fifo_open(directory, OUTPUT_NAME, O_RDONLY);
    if (r >= 0)
        r = console->input = fifo_open(directory, INPUT_NAME, O_WRONLY);
    if (r >= 0)
        r = fiber_start(&console->fiber, "console", console_main, console);
    if (r < 0)
        return r;
    console->references++;
    *ret = STEAL_PTR(console);
    return 0;
}

void console_free(struct console *console) {
    if (!console)
        return;
    console->freed = true;
    fiber_cancel(console->fiber);
    for (struct viewer *viewer = console->viewers; viewer; viewer = viewer->next)
        byte_queue_close(&viewer->queue, 0);
    console_unref(console);
}
