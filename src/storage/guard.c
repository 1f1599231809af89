// SPDX-License-Identifier: GPL-2.0-or-later
/* A registry says where to go next: the realm of a token, a redirect, the place of a layer. skopeo follows, and it is on
 * the host's network, so a lying registry could have it ask the host's own services. Therefore each connect() of it waits
 * for a word of ours (seccomp's user notification): what only this host may speak to (itself, its link, multicast) is
 * refused, except for the very address and port that the person who pulls wrote down.
 *
 * skopeo is led, not hostile: that its memory could change between our look and the kernel's is of no use to the one who
 * leads it. The listener comes from the child by a socket, because the filter can only be set in the child. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "storage/internal.h"

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "name this machine's AUDIT_ARCH"
#endif

#define DNS_PORT 53
#define RECEIVE_DEADLINE (30 * CLOCK_SECOND)

/* Kernels to come may write more than this header knows. */
union notification {
    struct seccomp_notif value;
    char room[512];
};
union answer {
    struct seccomp_notif_resp value;
    char room[512];
};

/* --- what was asked for ------------------------------------------------------------------------------------------------ */

/* "docker://HOST[:PORT]/…": only an address or "localhost" names a place of this host; every other name is somebody's word
 * for where it leads. */
static int place_asked(const char *reference, struct guard *guard) {
    const char *text = reference + strlen("docker://");
    size_t length = strcspn(text, "/"), host = length;
    const char *start = text, *port = NULL;

    if (text[length] != '/')
        return 0; /* a repository of the default registry */
    if (*text == '[') {
        start = text + 1;
        host = strcspn(start, "]/");
        port = start[host] == ']' && start[host + 1] == ':' ? start + host + 2 : NULL;
    } else {
        host = strcspn(text, ":/");
        port = text[host] == ':' ? text + host + 1 : NULL;
    }
    guard->port = port ? (uint16_t) strtoul(port, NULL, 10) : 0;
    guard->host = strndup(start, host);
    return guard->host ? 0 : -ENOMEM;
}

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr) >> 24 == 127;
    return address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *) address)->sin6_addr);
}

static bool is_asked(const struct guard *guard, const struct sockaddr *address, const char *text, uint16_t port) {
    if (!guard->host || (guard->port ? port != guard->port : port != 443 && port != 80))
        return false;
    return text_equal(guard->host, text) || (text_equal(guard->host, "localhost") && is_loopback(address));
}

static bool is_allowed(struct guard *guard, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    uint16_t port;

    if (address->sa_family != AF_INET && address->sa_family != AF_INET6)
        return true; /* what else there is leads nowhere from inside the jail */
    if (!address_is_own(address))
        return true;
    if (address->sa_family == AF_INET) {
        port = ntohs(((const struct sockaddr_in *) address)->sin_port);
        (void) inet_ntop(AF_INET, &((const struct sockaddr_in *) address)->sin_addr, text, sizeof(text));
    } else {
        port = ntohs(((const struct sockaddr_in6 *) address)->sin6_port);
        (void) inet_ntop(AF_INET6, &((const struct sockaddr_in6 *) address)->sin6_addr, text, sizeof(text));
    }
    /* Names are often resolved by a server on this host. */
    if (port == DNS_PORT || is_asked(guard, address, text, port))
        return true;
    snprintf(guard->refused, sizeof(guard->refused), "%s port %u", text, (unsigned) port);
    return false;
}

/* --- the answers ------------------------------------------------------------------------------------------------------- */

static bool may_connect(struct guard *guard, const struct seccomp_notif *call) {
    struct sockaddr_storage address = { 0 };
    size_t size = call->data.args[2] < sizeof(address) ? (size_t) call->data.args[2] : sizeof(address);
    struct iovec here = { &address, size };
    struct iovec there = { (void *) (uintptr_t) call->data.args[1], size };

    if (process_vm_readv((pid_t) call->pid, &here, 1, &there, 1, 0) != (ssize_t) size)
        return false;
    return is_allowed(guard, (const struct sockaddr *) &address);
}

static void answer_one(struct guard *guard, int listener) {
    union notification call = { 0 };
    union answer answer = { 0 };

    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call.value) < 0)
        return; /* it ended meanwhile */
    answer.value.id = call.value.id;
    if (may_connect(guard, &call.value))
        answer.value.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    else
        answer.value.error = -EACCES;
    (void) ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer.value);
}

static int listener_receive(int fd) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    char byte;
    struct iovec data = { &byte, 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    const struct cmsghdr *part;
    int listener = -EBADF;

    if (recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
        return -EIO;
    part = CMSG_FIRSTHDR(&message);
    if (!part || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS || part->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EIO;
    memcpy(&listener, CMSG_DATA(part), sizeof(listener));
    return listener;
}

static int guard_main(void *userdata) {
    struct guard *guard = userdata;
    _cleanup_close_ int listener = -EBADF;
    int r = fiber_wait_fd(guard->ours, EPOLLIN, deadline_in(RECEIVE_DEADLINE));

    if (r >= 0)
        listener = listener_receive(guard->ours);
    while (r >= 0 && listener >= 0) {
        r = fiber_wait_fd(listener, EPOLLIN, DEADLINE_NONE);
        if (r < 0 || !(r & EPOLLIN))
            break; /* canceled, or all that it watched has ended */
        if (guard->before)
            guard->before(guard->userdata);
        answer_one(guard, listener);
    }
    return r;
}

int guard_open(struct guard *guard, const char *reference, struct error *error) {
    int pair[2], r = place_asked(reference, guard);

    if (r >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        r = -errno;
    if (r < 0)
        return error_errno(error, r, "watching where skopeo goes");
    guard->ours = pair[0];
    guard->theirs = pair[1];
    r = fiber_start(&guard->fiber, "guard", guard_main, guard);
    return r < 0 ? error_errno(error, r, "watching where skopeo goes") : 0;
}

void guard_close(struct guard *guard) {
    if (guard->fiber) {
        fiber_cancel_join(guard->fiber);
        fiber_unref(guard->fiber);
    }
    guard->fiber = NULL;
    guard->ours = close_fd(guard->ours);
    guard->theirs = close_fd(guard->theirs);
    free(guard->host);
    guard->host = NULL;
}

/* --- in the child ------------------------------------------------------------------------------------------------------ */

static int listener_send(int fd, int listener) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    char byte = 0;
    struct iovec data = { &byte, 1 };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);

    *part = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
    memcpy(CMSG_DATA(part), &listener, sizeof(listener));
    return syscall(SYS_sendmsg, fd, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int guard_enter(const struct guard *guard) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCHITECTURE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS), /* another way to say connect */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = ELEMENTS(code), .filter = code };
    int listener = (int) syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);

    return listener < 0 ? -errno : listener_send(guard->theirs, listener);
}
