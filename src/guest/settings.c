// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/settings.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define TEMPORARY ".polder-new"

int settings_write(int root_fd, const char *directory, const char *name, const char *text) {
    _cleanup_close_ int parent = make_directory_in_root(root_fd, directory);
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (parent < 0)
        return parent;
    (void) unlinkat(parent, TEMPORARY, 0);
    fd = openat(parent, TEMPORARY, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    r = fchmod(fd, 0644) < 0 ? -errno : write_full(fd, text, strlen(text));
    if (r == 0 && renameat(parent, TEMPORARY, parent, name) < 0)
        r = -errno;
    if (r < 0)
        (void) unlinkat(parent, TEMPORARY, 0);
    return r;
}

static bool is_address(const char *text) {
    uint8_t bytes[16];

    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1;
}

/* One or more names, parted by single spaces. */
static bool is_name_list(const char *text) {
    for (const char *p = text; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                     strchr("-_.", *p) || (*p == ' ' && p > text && p[1] && p[1] != ' ');
        if (!plain)
            return false;
    }
    return *text != '\0';
}

static void own_lines(const struct request_start *request, FILE *file) {
    const struct request_network *networks = request->network.items;
    size_t count = 0;

    if (!request->hostname || !*request->hostname)
        return;
    for (size_t i = 0; i < request->network.count; i++) {
        const char *address = networks[i].address;
        if (!address)
            continue;
        fprintf(file, "%.*s\t%s\n", (int) strcspn(address, "/"), address, request->hostname);
        count++;
    }
    if (count == 0)
        fprintf(file, "127.0.1.1\t%s\n", request->hostname);
}

int settings_hosts(const struct request_start *request, char **ret, struct reason *reason) {
    const struct request_host *hosts = request->hosts.items;
    _cleanup_free_ char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    int r = 0;

    if (!file)
        return -ENOMEM;
    fputs("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\n"
          "ff02::2\tip6-allrouters\n",
          file);
    own_lines(request, file);
    for (size_t i = 0; r == 0 && i < request->hosts.count; i++) {
        if (!is_address(hosts[i].address) || !is_name_list(hosts[i].name))
            r = reason_set(reason, -EINVAL, "the host entry '%.64s %.64s' is not valid", hosts[i].address,
                           hosts[i].name);
        else
            fprintf(file, "%s\t%s\n", hosts[i].address, hosts[i].name);
    }
    if (fclose(file) != 0)
        return -ENOMEM;
    if (r == 0)
        *ret = STEAL_PTR(text);
    return r;
}

int settings_resolver(const struct request_start *request, char **ret, struct reason *reason) {
    _cleanup_free_ char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    int r = 0;

    if (!file)
        return -ENOMEM;
    if (request->search && *request->search) {
        if (!is_name_list(request->search))
            r = reason_set(reason, -EINVAL, "the search list '%.64s' is not valid", request->search);
        else
            fprintf(file, "search %s\n", request->search);
    }
    for (size_t i = 0; r == 0 && request->dns && request->dns[i]; i++) {
        if (!is_address(request->dns[i]))
            r = reason_set(reason, -EINVAL, "the name server '%.64s' is no address", request->dns[i]);
        else
            fprintf(file, "nameserver %s\n", request->dns[i]);
    }
    if (fclose(file) != 0)
        return -ENOMEM;
    if (r == 0)
        *ret = STEAL_PTR(text);
    return r;
}

static int hostname_apply(int root_fd, const char *hostname, struct reason *reason) {
    char line[72];
    int r;

    if (!is_name_list(hostname) || strchr(hostname, ' '))
        return reason_set(reason, -EINVAL, "'%s' is no host name", hostname);
    if (sethostname(hostname, strlen(hostname)) < 0)
        return reason_set(reason, -errno, "cannot set the host name");
    snprintf(line, sizeof(line), "%s\n", hostname);
    r = settings_write(root_fd, "/etc", "hostname", line);
    return r < 0 ? reason_set(reason, r, "cannot write /etc/hostname") : 0;
}

int settings_apply(int root_fd, const struct request_start *request, struct reason *reason) {
    _cleanup_free_ char *hosts = NULL, *resolver = NULL;
    int r = settings_hosts(request, &hosts, reason);

    if (r == 0)
        r = settings_resolver(request, &resolver, reason);
    if (r == 0 && request->hostname && *request->hostname)
        r = hostname_apply(root_fd, request->hostname, reason);
    if (r < 0)
        return r;
    r = settings_write(root_fd, "/etc", "hosts", hosts);
    if (r < 0)
        return reason_set(reason, r, "cannot write /etc/hosts");
    r = *resolver ? settings_write(root_fd, "/etc", "resolv.conf", resolver) : 0;
    return r < 0 ? reason_set(reason, r, "cannot write /etc/resolv.conf") : 0;
}
