// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/container/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"

#define STARTER_TIME (2 * CLOCK_SECOND)
#define STARTER_STEP (20 * CLOCK_MILLISECOND)

static struct child *child_of(struct stream *stream) {
    return CONTAINER_OF(stream, struct child, stream);
}

/* > 0 bytes, 0 nothing now, -ENODATA at the end. */
static long try_read(int *fd, void *data, size_t size) {
    ssize_t got;

    if (*fd < 0)
        return -ENODATA;
    got = read(*fd, data, size);
    if (got > 0)
        return got;
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    /* A terminal that nobody holds open any more gives EIO. */
    return -ENODATA;
}

/* Both pipes behind one descriptor to wait on. */
static int wait_readable(struct child *child, uint64_t deadline) {
    _cleanup_close_ int set = -EBADF;
    struct epoll_event output = { .events = EPOLLIN }, errors = { .events = EPOLLIN };

    if (child->output < 0 || child->errors < 0)
        return fiber_wait_fd(child->output < 0 ? child->errors : child->output, EPOLLIN, deadline);
    set = epoll_create1(EPOLL_CLOEXEC);
    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, child->output, &output) < 0 ||
        epoll_ctl(set, EPOLL_CTL_ADD, child->errors, &errors) < 0)
        return -errno;
    return fiber_wait_fd(set, EPOLLIN, deadline);
}

/* Whose words are the first? They are held for the moment until that is known: a process that was started is seen at
 * once, a failed start ends. */
static bool is_talk_of_starter(struct child *child) {
    uint64_t deadline = deadline_in(STARTER_TIME);
    int r = -ETIMEDOUT;

    if (child->heard || !child->is_starting)
        return child->mute;
    child->heard = true;
    while (child->status < 0 && r == -ETIMEDOUT && clock_now() < deadline && child->is_starting(child))
        r = process_wait(&child->process, deadline_in(STARTER_STEP), &child->status);
    /* Its words may come in several pieces. */
    child->mute = child->status >= 0 && child->start_failed(child);
    return child->mute;
}

static long child_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                       uint64_t deadline) {
    struct child *child = child_of(stream);

    for (;;) {
        long got = try_read(&child->output, data, size);
        if (got > 0 && child->terminal && is_talk_of_starter(child))
            continue;
        if (got > 0) {
            *ret_channel = STREAM_OUTPUT;
            return got;
        }
        if (got == -ENODATA && !child->terminal)
            child->output = close_fd(child->output);
        if (got == -ENODATA && child->terminal)
            return 0;
        got = try_read(&child->errors, data, size);
        if (got > 0 && is_talk_of_starter(child))
            continue;
        if (got > 0) {
            *ret_channel = STREAM_ERRORS;
            return got;
        }
        if (got == -ENODATA)
            child->errors = close_fd(child->errors);
        if (child->output < 0 && child->errors < 0)
            return 0;
        int r = wait_readable(child, deadline);
        if (r < 0)
            return r;
    }
}

static int child_write(struct stream *stream, const void *data, size_t size, uint64_t deadline) {
    struct child *child = child_of(stream);
    int fd = child->terminal ? child->output : child->input;

    return fd < 0 ? -EPIPE : fiber_write(fd, data, size, deadline);
}

static int child_close_input(struct stream *stream) {
    struct child *child = child_of(stream);

    child->input = close_fd(child->input);
    return 0;
}

static int child_resize(struct stream *stream, uint16_t rows, uint16_t columns) {
    struct child *child = child_of(stream);
    const struct winsize size = { .ws_row = rows, .ws_col = columns };

    if (!child->terminal)
        return -EOPNOTSUPP;
    return ioctl(child->output, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

static int child_signal(struct stream *stream, int number) {
    struct child *child = child_of(stream);

    return child->signal ? child->signal(child, number) : process_signal(&child->process, number);
}

static int child_result(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline) {
    struct child *child = child_of(stream);
    int r = child->status < 0 ? process_wait(&child->process, deadline, &child->status) : 0;

    if (r < 0)
        return error_errno(error, r, "waiting for the process");
    if (child->finish)
        return child->finish(child, ret_code, error);
    *ret_code = child->status;
    return 0;
}

static void child_free(struct stream *stream) {
    struct child *child = child_of(stream);

    if (child->status < 0 && process_is_alive(&child->process)) {
        if (child->signal)
            (void) child->signal(child, SIGKILL);
        (void) process_signal(&child->process, SIGKILL);
    }
    child->input = close_fd(child->input);
    child->output = close_fd(child->output);
    child->errors = close_fd(child->errors);
    if (child->status < 0)
        (void) process_end(&child->process, 0);
    process_done(&child->process);
    child->destroy(child);
}

static const struct stream_operations child_operations = {
    .read = child_read,
    .write = child_write,
    .close_input = child_close_input,
    .resize = child_resize,
    .signal = child_signal,
    .result = child_result,
    .free = child_free,
};

void child_init(struct child *child) {
    child->stream.operations = &child_operations;
    child->process = (struct process) PROCESS_INIT;
    child->input = child->output = child->errors = -EBADF;
    child->status = -1;
}

/* ours: non-blocking. */
static int open_pipe(bool ours_reads, int *ret_ours, int *ret_theirs) {
    int pair[2];

    if (pipe2(pair, O_CLOEXEC) < 0)
        return -errno;
    *ret_ours = pair[ours_reads ? 0 : 1];
    *ret_theirs = pair[ours_reads ? 1 : 0];
    return fcntl(*ret_ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

int child_pipes_open(struct child *child, struct process_spec *spec, bool input, bool errors) {
    int r = input ? open_pipe(false, &child->input, &spec->input) : 0;

    if (r >= 0)
        r = open_pipe(true, &child->output, &spec->output);
    if (r >= 0 && errors)
        r = open_pipe(true, &child->errors, &spec->errors);
    return r;
}

void child_pipes_close(struct process_spec *spec) {
    int *const ends[] = { &spec->input, &spec->output, &spec->errors };

    for (size_t i = 0; i < ELEMENTS(ends); i++) {
        if (*ends[i] > 0)
            close_fd(*ends[i]);
        *ends[i] = 0;
    }
}
