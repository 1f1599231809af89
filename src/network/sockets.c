// SPDX-License-Identifier: GPL-2.0-or-later
#include "network/sockets.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/text.h"

#define STATE_LISTEN 0x0a
#define STATE_UNCONNECTED 0x07

/* "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 …" */
bool socket_parse(const char *line, bool version6, struct socket_entry *ret) {
    char local[33];
    unsigned port, state, words[4] = { 0 };
    uint64_t inode;

    if (sscanf(line, " %*u: %32[0-9A-F]:%4x %*[0-9A-F]:%*x %2x %*x:%*x %*x:%*x %*x %*u %*u %" SCNu64, local,
               &port, &state, &inode) != 4 ||
        strlen(local) != (version6 ? 32 : 8))
        return false;
    for (unsigned i = 0; i < (version6 ? 4U : 1U); i++)
        if (sscanf(local + 8 * i, "%8x", &words[i]) != 1)
            return false;
    *ret = (struct socket_entry){ .listening = state == STATE_LISTEN || state == STATE_UNCONNECTED,
                                  .version6 = version6,
                                  .wildcard = !(words[0] | words[1] | words[2] | words[3]),
                                  .port = (uint16_t) port,
                                  .inode = inode };
    if (!version6)
        ret->address = ntohl(words[0]);
    else if (words[0] == 0 && words[1] == 0 && words[2] == htonl(0xffff))
        ret->address = ntohl(words[3]);
    return true;
}

/* May one listen there? 0, or -EADDRINUSE, -EADDRNOTAVAIL, … Takes some microseconds, where reading /proc
 * takes milliseconds. */
static int try_listen(const struct publish *publish, uint32_t at) {
    int type = publish->protocol == IPPROTO_UDP ? SOCK_DGRAM : SOCK_STREAM, on = 1;
    _cleanup_close_ int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(publish->host_port),
                                   .sin_addr.s_addr = htonl(at) };

    if (fd < 0)
        return -errno;
    if (type == SOCK_STREAM)
        (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    return bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
}

static bool socket_conflicts(const struct socket_entry *entry, const struct publish *publish,
                             uint32_t except) {
    if (!entry->listening || entry->port != publish->host_port)
        return false;
    /* A listener on all of IPv6 usually takes IPv4 too, unless it said otherwise: asked by trying. */
    if (entry->wildcard)
        return !entry->version6 || try_listen(publish, INADDR_LOOPBACK) < 0;
    if (entry->address == 0 || (except && entry->address == except))
        return false;
    return publish->host_address == 0 || publish->host_address == entry->address;
}

static bool holds_socket(int proc, const char *pid, const char *wanted) {
    _cleanup_free_ char *path = text_format("%s/fd", pid);
    char target[64];
    DIR *directory;
    int fd = path ? openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -EBADF;
    const struct dirent *entry;
    bool found = false;

    if (fd < 0)
        return false;
    directory = fdopendir(fd);
    if (!directory) {
        close(fd);
        return false;
    }
    while (!found && (entry = readdir(directory))) {
        ssize_t size = readlinkat(fd, entry->d_name, target, sizeof(target) - 1);
        if (size > 0) {
            target[size] = '\0';
            found = text_equal(target, wanted);
        }
    }
    closedir(directory);
    return found;
}

/* "nginx (pid 812)", or "a process of this host" when it cannot be told (another pid namespace, say). */
static char *owner_find(uint64_t inode) {
    _cleanup_free_ char *wanted = text_format("socket:[%" PRIu64 "]", inode);
    DIR *proc = opendir("/proc");
    const struct dirent *entry;
    char *owner = NULL;

    while (wanted && proc && !owner && (entry = readdir(proc))) {
        _cleanup_free_ char *path = NULL, *name = NULL, *shown = NULL;

        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
            !holds_socket(dirfd(proc), entry->d_name, wanted))
            continue;
        path = text_format("%s/comm", entry->d_name);
        if (!path || file_read(dirfd(proc), path, 64, &name, NULL) < 0)
            continue;
        name[strcspn(name, "\n")] = '\0';
        shown = text_escape(name, strlen(name), false);
        owner = shown ? text_format("%s (pid %s)", shown, entry->d_name) : NULL;
    }
    if (proc)
        closedir(proc);
    return owner ? owner : strdup("a process of this host");
}

static int table_search(const char *path, bool version6, const struct publish *publish, uint32_t except,
                        uint64_t *ret_inode) {
    _cleanup_(fclosep) FILE *file = fopen(path, "re");
    struct socket_entry entry;
    char line[512];

    while (file && fgets(line, sizeof(line), file))
        if (socket_parse(line, version6, &entry) && socket_conflicts(&entry, publish, except)) {
            *ret_inode = entry.inode;
            return 1;
        }
    return 0;
}

int sockets_find_listener(const struct publish *publish, uint32_t except, char **ret_owner) {
    bool udp = publish->protocol == IPPROTO_UDP;
    int r = try_listen(publish, publish->host_address);
    uint64_t inode;

    if (r != -EADDRINUSE)
        return r;
    if (!table_search(udp ? "/proc/thread-self/net/udp" : "/proc/thread-self/net/tcp", false, publish, except,
                      &inode) &&
        !table_search(udp ? "/proc/thread-self/net/udp6" : "/proc/thread-self/net/tcp6", true, publish,
                      except, &inode))
        return 0;
    *ret_owner = owner_find(inode);
    return *ret_owner ? 1 : -ENOMEM;
}
