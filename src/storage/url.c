// SPDX-License-Identifier: GPL-2.0-or-later
/* Fetching a URL with curl, in a jail with the host's network. The address is chosen and checked here before any packet goes to it, and curl is
 * told to connect to that very address; each redirect is a new URL that is checked the same way. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "storage/internal.h"

#define REDIRECTS_MAX 5
#define URL_MAX 2048

struct url {
    char *host, *port;
};

static void url_done(struct url *url) {
    free(url->host);
    free(url->port);
}

static int refuse(struct error *error, const char *url, const char *reason) {
    return error_set(error, ERROR_BAD_SOURCE, url, reason);
}

static bool host_is_odd_number(const char *host) {
    const char *dot = strrchr(host, '.'), *last = dot ? dot + 1 : host;
    struct in_addr address;

    if (!*last)
        return true;
    if (strspn(last, "0123456789") != strlen(last) && !text_starts(last, "0x") && !text_starts(last, "0X"))
        return false;
    return inet_pton(AF_INET, host, &address) != 1;
}

/* Takes scheme://host[:port]/… apart. Users, brackets and odd hosts are refused rather than understood. */
static int url_parse(const char *text, struct url *ret, struct error *error) {
    const char *rest = text_starts(text, "https://") ? text + 8 : text_starts(text, "http://") ? text + 7 : NULL;
    size_t length, host_length;
    const char *colon;

    if (!rest)
        return refuse(error, text, "only http:// and https:// are fetched");
    if (strlen(text) > URL_MAX || !text_is_plain(text) || strpbrk(text, " \"'\\<>{}|^`"))
        return refuse(error, "the URL", "it is too long or holds characters that must be escaped");
    length = strcspn(rest, "/?#");
    colon = memchr(rest, ':', length);
    host_length = colon ? (size_t) (colon - rest) : length;
    if (host_length == 0 || host_length > 253 || memchr(rest, '@', length) ||
        strspn(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") < host_length)
        return refuse(error, text, "its host must be a plain name or IPv4 address");
    ret->host = strndup(rest, host_length);
    ret->port = colon ? strndup(colon + 1, length - host_length - 1) : strdup(rest == text + 8 ? "443" : "80");
    if (!ret->host || !ret->port)
        return error_errno(error, -ENOMEM, "fetching");
    /* 2130706433, 0x7f.1 and 010.0.0.1 are addresses to some programs and names, or others, to the next. */
    if (host_is_odd_number(ret->host))
        return refuse(error, text, "its host is a number: write an address as four decimal numbers");
    if (strlen(ret->port) > 5 || strspn(ret->port, "0123456789") != strlen(ret->port) || !*ret->port)
        return refuse(error, text, "its port is no number");
    return 0;
}

bool address_is_own(const struct sockaddr *address) {
    if (address->sa_family == AF_INET) {
        uint32_t ip = ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr);
        return ip >> 24 == 127 || ip >> 24 == 0 || ip >> 16 == 0xa9fe || ip >> 28 >= 0xe;
    }
    if (address->sa_family == AF_INET6) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *) address)->sin6_addr;
        return IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_UNSPECIFIED(ip) || IN6_IS_ADDR_LINKLOCAL(ip) ||
               IN6_IS_ADDR_MULTICAST(ip) || IN6_IS_ADDR_V4MAPPED(ip) || IN6_IS_ADDR_V4COMPAT(ip);
    }
    return true;
}

struct resolve {
    const struct url *url;
    char address[INET6_ADDRSTRLEN];
    bool own;
};

static int resolve_job(void *userdata) {
    struct resolve *resolve = userdata;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *list = NULL;
    int r = getaddrinfo(resolve->url->host, resolve->url->port, &hints, &list);

    if (r != 0)
        return r == EAI_MEMORY ? -ENOMEM : -ENOENT;
    resolve->own = address_is_own(list->ai_addr);
    r = getnameinfo(list->ai_addr, list->ai_addrlen, resolve->address, sizeof(resolve->address), NULL, 0, NI_NUMERICHOST);
    freeaddrinfo(list);
    return r == 0 ? 0 : -ENOENT;
}

/* What curl says on failure, after "curl: (NUMBER) ". */
static int fetch_failed(const char *text, int status, struct error *failed, struct error *error) {
    const char *message = failed->parameters[1] ? failed->parameters[1] : "", *sentence = strstr(message, ") ");

    if (failed->code != ERROR_PROGRAM_FAILED) {
        error_move(error, failed);
        return -error_number(error->code);
    }
    if (status == 23)
        return error_set(error, ERROR_NO_SPACE, "downloading (or it is larger than allowed)");
    return refuse(error, text, sentence ? sentence + 2 : message);
}

/* One request. *ret_redirect is where it points, or NULL when the body has come. */
static int fetch_once(const char *text, const char *directory, uint64_t maximum, char **ret_redirect,
                      struct error *error) {
    __attribute__((cleanup(url_done))) struct url url = { 0 };
    _cleanup_tool_jail_ struct tool_jail tool = { .file_maximum = maximum };
    _cleanup_error_ struct error failed = ERROR_INIT;
    struct resolve resolve = { .url = &url };
    _cleanup_free_ char *pinned = NULL;
    _cleanup_buffer_ struct buffer where = BUFFER_INIT;
    struct process_spec spec = { 0 };
    int r = url_parse(text, &url, error), status = 0;

    if (r < 0)
        return r;
    r = fiber_job(resolve_job, &resolve);
    if (r < 0)
        return refuse(error, text, "its host is not known");
    if (resolve.own)
        return refuse(error, text, "its host is this host or its link");
    pinned = text_format(strchr(resolve.address, ':') ? "%s:%s:[%s]" : "%s:%s:%s", url.host, url.port, resolve.address);
    if (!pinned)
        return error_errno(error, -ENOMEM, "fetching");
    char *arguments[] = { "curl", "--disable", "--silent", "--show-error", "--fail", "--globoff", "--proto", "=http,https",
                          "--max-redirs", "0", "--connect-timeout", "20", "--speed-limit", "1024", "--speed-time", "60",
                          "--noproxy", "*", "--resolve", pinned, "--output", "/work/download", "--write-out",
                          "%{redirect_url}", "--", (char *) text, NULL };
    struct process_run run = { .output = &where, .limit = URL_MAX + 1, .deadline = deadline_in(TOOL_DEADLINE),
                               .ret_status = &status };
    r = tool_jail_open(&tool, "/usr/bin/curl", directory, NULL, &spec, error);
    if (r < 0)
        return r;
    spec.arguments = arguments;
    r = process_run(&spec, &run, &failed);
    if (r < 0)
        return fetch_failed(text, status, &failed, error);
    if (where.size > 0)
        r = buffer_take(&where, ret_redirect);
    return r;
}

/* Ours from here on: curl has ended, so what is checked stays. */
static int take_download(const char *directory, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/download", directory);
    struct stat status;

    if (!path)
        return error_errno(error, -ENOMEM, "fetching");
    if (lstat(path, &status) < 0 && errno == ENOENT)
        return error_set(error, ERROR_BAD_IMAGE, "the download is empty");
    if (lstat(path, &status) < 0 || !S_ISREG(status.st_mode) || chown(directory, 0, 0) < 0 || lchown(path, 0, 0) < 0)
        return error_errno(error, -EIO, "taking the download");
    return 0;
}

int url_fetch(struct storage *storage, const char *text, const char *directory, uint64_t maximum,
              const struct storage_progress *progress, struct error *error) {
    _cleanup_free_ char *current = strdup(text);
    bool secure = text_starts(text, "https://");

    (void) storage;
    progress_step(progress, "downloading", 0, 0);
    for (int i = 0; current && i <= REDIRECTS_MAX; i++) {
        char *next = NULL;
        int r = fetch_once(current, directory, maximum, &next, error);
        if (r < 0)
            return r;
        if (!next)
            return take_download(directory, error);
        free(current);
        current = next;
        if (secure && !text_starts(current, "https://"))
            return refuse(error, text, "it leads from https to another scheme");
    }
    return current ? refuse(error, text, "it leads from one place to another too often") : error_errno(error, -ENOMEM, "fetching");
}
