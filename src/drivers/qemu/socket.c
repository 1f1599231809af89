// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fiber.h"

static int address_make(int directory, const char *name, struct sockaddr_un *ret) {
    int size;

    *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
    size = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/%s", directory, name);
    return size < 0 || (size_t) size >= sizeof(ret->sun_path) ? -ENAMETOOLONG : 0;
}

static int socket_make(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd < 0 ? -errno : fd;
}

int socket_listen(int directory, const char *name) {
    _cleanup_close_ int fd = socket_make();
    struct sockaddr_un address;
    int r = address_make(directory, name, &address);

    if (r < 0 || fd < 0)
        return r < 0 ? r : fd;
    (void) unlinkat(directory, name, 0);
    /* The mode of the new socket; the directory is root's alone besides. */
    if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
        listen(fd, 4) < 0)
        return -errno;
    return STEAL_FD(fd);
}

int socket_connect(int directory, const char *name) {
    _cleanup_close_ int fd = socket_make();
    struct sockaddr_un address;
    int r = address_make(directory, name, &address);

    if (r < 0 || fd < 0)
        return r < 0 ? r : fd;
    if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
        return -errno;
    return STEAL_FD(fd);
}

static ssize_t send_some(int fd, const char *data, size_t size, int passed) {
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec part = { .iov_base = (char *) data, .iov_len = size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

    if (passed >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.space);
        control.head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                                         .cmsg_len = CMSG_LEN(sizeof(int)) };
        memcpy(CMSG_DATA(&control.head), &passed, sizeof(passed));
    }
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

int socket_send(int fd, const void *data, size_t size, int passed, uint64_t deadline) {
    const char *position = data;

    while (size > 0) {
        ssize_t sent = send_some(fd, position, size, passed);
        int r;

        if (sent >= 0) {
            position += sent;
            size -= (size_t) sent;
            passed = -1;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        r = fiber_wait_fd(fd, EPOLLOUT, deadline);
        if (r < 0)
            return r;
    }
    return 0;
}
