// SPDX-License-Identifier: GPL-2.0-or-later
/* The listening sockets: who may connect is the file's mode, who connected is what the kernel says. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/api.h"
#include "api/connection.h"
#include "api/internal.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/text.h"

#define BACKLOG 512
#define ACCEPT_ROUND 64
#define PAUSE_US (200 * CLOCK_MILLISECOND)
#define RESERVE 16 /* connections above the limit that root may still make */

static int on_pause_over(sd_event_source *source, uint64_t now _unused_, void *userdata) {
    struct listener *listener = userdata;

    (void) sd_event_source_set_enabled(source, SD_EVENT_OFF);
    (void) sd_event_source_set_enabled(listener->source, SD_EVENT_ON);
    return 0;
}

/* Out of descriptors: the pending connection stays pending, so the loop would spin on it. Rest a moment. */
static void listener_pause(struct listener *listener) {
    uint64_t when = clock_now() + PAUSE_US;
    int r;

    (void) sd_event_source_set_enabled(listener->source, SD_EVENT_OFF);
    if (listener->pause) {
        (void) sd_event_source_set_time(listener->pause, when);
        r = sd_event_source_set_enabled(listener->pause, SD_EVENT_ONESHOT);
    } else {
        r = sd_event_add_time(loop_event(), &listener->pause, CLOCK_BOOTTIME, when, 1000, on_pause_over, listener);
    }
    if (r < 0)
        (void) sd_event_source_set_enabled(listener->source, SD_EVENT_ON);
    log_warning("no descriptors left for new connections; trying again shortly");
}

static bool has_room(const struct listener *listener, uid_t uid) {
    const struct api *api = listener->api;
    unsigned limit = api->connection_limit;

    if (uid == 0 && listener->role == ROLE_ADMIN)
        return api->connection_count < limit + RESERVE;
    /* One user alone cannot take all. */
    return api->connection_count < limit && (uid == 0 || connections_of(api, uid) < limit / 2);
}

static void listener_take(struct listener *listener, int fd) {
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    _cleanup_close_ int owned = fd;
    struct ucred peer;
    socklen_t size = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        return;
    if (!has_room(listener, peer.uid)) {
        listener->api->refused_connections++;
        (void) send(fd, full, sizeof(full) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        return;
    }
    (void) connection_new(listener->api, STEAL_FD(owned), peer.uid, listener->role, listener->origin);
}

static int on_accept(sd_event_source *source _unused_, int fd, uint32_t events _unused_, void *userdata) {
    struct listener *listener = userdata;

    for (unsigned i = 0; i < ACCEPT_ROUND; i++) {
        int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (client >= 0) {
            listener_take(listener, client);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN)
            listener_pause(listener);
        return 0;
    }
    return 0;
}

static uint64_t inode_of(const char *path) {
    struct stat status;

    return lstat(path, &status) < 0 ? 0 : status.st_ino;
}

static int listener_add(struct api *api, int fd, enum role role, const char *path, struct error *error) {
    struct listener *listener = &api->listeners[api->listener_count];
    int r;

    if (api->listener_count == LISTENERS_MAX) {
        close_fd(fd);
        return error_set(error, ERROR_TOO_LARGE, "the number of listening sockets", "8");
    }
    *listener = (struct listener){ .api = api, .fd = fd, .role = role,
                                   .origin = role == ROLE_ADMIN ? "unix" : "unix-ro" };
    api->listener_count++;
    if (path) {
        listener->inode = inode_of(path);
        listener->path = strdup(path);
        if (!listener->path)
            return error_set(error, ERROR_NO_MEMORY, "");
    }
    r = sd_event_add_io(loop_event(), &listener->source, fd, EPOLLIN, on_accept, listener);
    return r < 0 ? error_errno(error, r, "watching a listening socket") : 0;
}

/* Removes the file of a socket that nobody listens on and that is ours. */
static int remove_stale(const char *path, const struct sockaddr_un *address, struct error *error) {
    _cleanup_close_ int fd = -EBADF;
    struct stat status;

    if (lstat(path, &status) < 0)
        return errno == ENOENT ? 0 : error_errno(error, -errno, "looking at %s", path);
    if (!S_ISSOCK(status.st_mode) || status.st_uid != geteuid())
        return error_set(error, ERROR_EXISTS, "something that is no socket of ours at", path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(error, -errno, "making a socket");
    if (connect(fd, (const struct sockaddr *) address, sizeof(*address)) == 0 || errno == EAGAIN)
        return error_set(error, ERROR_BUSY, path, "another polderd answers there");
    if (unlink(path) < 0 && errno != ENOENT)
        return error_errno(error, -errno, "removing the old socket %s", path);
    return 0;
}

/* Bound, with its final mode, before it listens: nobody slips in between. */
static int listener_bind(struct api *api, const char *path, enum role role, gid_t group, struct error *error) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (strlen(path) >= sizeof(address.sun_path))
        return error_set(error, ERROR_TOO_LARGE, "the socket's path", "107 bytes");
    memcpy(address.sun_path, path, strlen(path) + 1);
    r = remove_stale(path, &address, error);
    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_errno(error, -errno, "making a socket");
    if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
        return error_errno(error, -errno, "binding %s", path);
    if (lchown(path, (uid_t) -1, group) < 0 || chmod(path, role == ROLE_ADMIN ? 0660 : 0666) < 0)
        return error_errno(error, -errno, "setting the mode of %s", path);
    if (listen(fd, BACKLOG) < 0)
        return error_errno(error, -errno, "listening at %s", path);
    return listener_add(api, STEAL_FD(fd), role, path, error);
}

/* First in the file, by hand: where groups may come from elsewhere, the C library falls when it has no memory. */
static gid_t group_find(const char *name) {
    _cleanup_(fclosep) FILE *file = fopen("/etc/group", "re");
    char line[16384];
    struct group group, *found = NULL;
    int r = file ? 0 : errno;

    name = name ? name : "polder";
    while (r == 0 && (r = fgetgrent_r(file, &group, line, sizeof(line), &found)) == 0)
        if (strcmp(group.gr_name, name) == 0)
            return group.gr_gid;
    found = r == ENOMEM ? NULL : getgrnam(name);
    return found ? found->gr_gid : 0;
}

static int listener_adopt(struct api *api, int fd, struct error *error) {
    struct sockaddr_un address = { 0 };
    socklen_t size = sizeof(address) - 1;
    bool reader;
    int r;

    r = getsockname(fd, (struct sockaddr *) &address, &size) < 0 ? -errno : 0;
    if (r < 0 || address.sun_family != AF_UNIX) {
        close_fd(fd);
        return error_errno(error, r < 0 ? r : -EAFNOSUPPORT, "taking over a socket");
    }
    reader = text_ends(address.sun_path, "polder-ro.sock");
    (void) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    (void) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return listener_add(api, fd, reader ? ROLE_READER : ROLE_ADMIN, NULL, error);
}

int listeners_open(struct api *api, const struct api_options *options, struct error *error) {
    _cleanup_free_ char *admin = text_format("%s/polder.sock", options->run_path);
    _cleanup_free_ char *reader = text_format("%s/polder-ro.sock", options->run_path);
    bool has_admin = false, has_reader = options->no_reader_socket;
    int r = 0;

    if (!admin || !reader)
        return error_set(error, ERROR_NO_MEMORY, "");
    for (size_t i = 0; r == 0 && i < options->fd_count; i++) {
        r = listener_adopt(api, options->fds[i], error);
        if (r == 0 && api->listeners[api->listener_count - 1].role == ROLE_ADMIN)
            has_admin = true;
        else
            has_reader = true;
    }
    if (r == 0 && !has_admin)
        r = listener_bind(api, admin, ROLE_ADMIN, group_find(options->group), error);
    if (r == 0 && !has_reader)
        r = listener_bind(api, reader, ROLE_READER, 0, error);
    return r;
}

void listeners_close(struct api *api) {
    for (size_t i = 0; i < api->listener_count; i++) {
        struct listener *listener = &api->listeners[i];

        listener->source = sd_event_source_disable_unref(listener->source);
        listener->pause = sd_event_source_disable_unref(listener->pause);
        listener->fd = close_fd(listener->fd);
        if (listener->path && inode_of(listener->path) == listener->inode)
            (void) unlink(listener->path);
        free(listener->path);
    }
    api->listener_count = 0;
}
