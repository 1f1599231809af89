// SPDX-License-Identifier: GPL-2.0-or-later
/* The main process's standard streams through conmon's socket: packets, of which those to us start with a byte that
 * names the channel. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "drivers/container/internal.h"

#define PACKET_MAX (8 * 1024)
/* conmon's numbers. */
#define CHANNEL_OUTPUT 2
#define CHANNEL_ERRORS 3

struct attach {
    struct stream stream;
    struct container *container;
    int fd;
    unsigned char packet[1 + PACKET_MAX];
    size_t size, taken; /* of the packet; its first byte is the channel */
};

static int receive(struct attach *attach, uint64_t deadline) {
    for (;;) {
        ssize_t size = recv(attach->fd, attach->packet, sizeof(attach->packet), MSG_DONTWAIT);
        int r;
        if (size > 1 || size == 0) {
            attach->size = (size_t) size;
            attach->taken = 1;
            return 0;
        }
        if (size == 1 || errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return errno == ECONNRESET || errno == EPIPE ? (int) (attach->size = 0) : -errno;
        r = fiber_wait_fd(attach->fd, EPOLLIN, deadline);
        if (r < 0)
            return r;
    }
}

static long attach_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                        uint64_t deadline) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);

    if (attach->taken >= attach->size) {
        int r = receive(attach, deadline);
        if (r < 0 || attach->size == 0)
            return r;
    }
    if (size > attach->size - attach->taken)
        size = attach->size - attach->taken;
    memcpy(data, attach->packet + attach->taken, size);
    attach->taken += size;
    *ret_channel = attach->packet[0] == CHANNEL_ERRORS ? STREAM_ERRORS : STREAM_OUTPUT;
    return (long) size;
}

static int attach_write(struct stream *stream, const void *data, size_t size, uint64_t deadline) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);
    const char *at = data;

    if (!attach->container->input_open)
        return -EPIPE;
    while (size > 0) {
        ssize_t written = send(attach->fd, at, size < PACKET_MAX ? size : PACKET_MAX, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (written >= 0) {
            at += written;
            size -= (size_t) written;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            int r = fiber_wait_fd(attach->fd, EPOLLOUT, deadline);
            if (r < 0)
                return r;
        } else if (errno != EINTR) {
            return errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
        }
    }
    return 0;
}

/* Standard input of a container that was not started with this stream is kept open for others, as Docker does. */
static int attach_close_input(struct stream *stream) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);

    if (!attach->container->input_once)
        return -EOPNOTSUPP;
    return shutdown(attach->fd, SHUT_WR) < 0 ? -errno : 0;
}

static int attach_resize(struct stream *stream, uint16_t rows, uint16_t columns) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);

    return attach->container->tty ? monitor_resize(attach->container, rows, columns) : -EOPNOTSUPP;
}

static int attach_signal(struct stream *stream, int number) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);

    return process_signal(&attach->container->init, number);
}

static int attach_result(struct stream *stream, int *ret_code, struct error *error, uint64_t deadline) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);
    int r = watch_wait(attach->container, deadline);

    if (r < 0)
        return error_errno(error, r, "waiting for the container");
    *ret_code = attach->container->exit.code;
    return 0;
}

static void attach_free(struct stream *stream) {
    struct attach *attach = CONTAINER_OF(stream, struct attach, stream);

    close_fd(attach->fd);
    container_unref(attach->container);
    free(attach);
}

static const struct stream_operations attach_operations = {
    .read = attach_read,
    .write = attach_write,
    .close_input = attach_close_input,
    .resize = attach_resize,
    .signal = attach_signal,
    .result = attach_result,
    .free = attach_free,
};

int attach_open(struct container *container, struct stream **ret, struct error *error) {
    struct attach *attach;
    int fd = monitor_connect(container);

    if (fd < 0)
        return error_errno(error, fd, "connecting to conmon");
    attach = calloc(1, sizeof(*attach));
    if (!attach) {
        close_fd(fd);
        return error_errno(error, -ENOMEM, "connecting to conmon");
    }
    attach->stream.operations = &attach_operations;
    attach->container = container_ref(container);
    attach->fd = fd;
    *ret = &attach->stream;
    return 0;
}
