// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/common.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

int reason_set(struct reason *reason, int r, const char *format, ...) {
    va_list list;
    size_t used;

    if (!reason || reason->text[0])
        return r;
    va_start(list, format);
    vsnprintf(reason->text, sizeof(reason->text), format, list);
    va_end(list);
    used = strlen(reason->text);
    if (r < 0 && r != -EINVAL && r != -EBADMSG)
        snprintf(reason->text + used, sizeof(reason->text) - used, ": %s", strerror(-r));
    return r;
}

void guest_log(const char *format, ...) {
    char line[512];
    va_list list;
    size_t used;

    va_start(list, format);
    vsnprintf(line, sizeof(line) - 1, format, list);
    va_end(list);
    used = strlen(line);
    line[used] = '\n';
    dprintf(STDERR_FILENO, "polder-guest: %.*s", (int) used + 1, line);
}

int write_full(int fd, const void *data, size_t size) {
    const uint8_t *bytes = data;

    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        size -= (size_t) n;
    }
    return 0;
}

ssize_t read_full(int fd, void *data, size_t size) {
    size_t got = 0;

    while (got < size) {
        ssize_t n = read(fd, (uint8_t *) data + got, size - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t) n;
    }
    return (ssize_t) got;
}

uint64_t monotonic_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
}

int open_in_root(int root_fd, const char *path, int flags, unsigned mode) {
    struct open_how how = {
        .flags = (uint64_t) (flags | O_CLOEXEC),
        .mode = mode,
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    int fd = (int) syscall(SYS_openat2, root_fd, path, &how, sizeof(how));

    return fd < 0 ? -errno : fd;
}

int make_directory_in_root(int root_fd, const char *path) {
    _cleanup_close_ int directory = open_in_root(root_fd, "/", O_PATH | O_DIRECTORY, 0);
    char prefix[PATH_MAX];
    size_t length = strlen(path);

    if (directory < 0 || length >= sizeof(prefix))
        return directory < 0 ? directory : -ENAMETOOLONG;
    memcpy(prefix, path, length + 1);
    for (size_t i = 0; i <= length;) {
        size_t start = i + strspn(path + i, "/");
        size_t end = start + strcspn(path + start, "/");
        int next;

        if (start == length)
            break;
        prefix[end] = '\0';
        next = open_in_root(root_fd, prefix, O_PATH | O_DIRECTORY, 0);
        if (next == -ENOENT) {
            if (mkdirat(directory, prefix + start, 0755) < 0 && errno != EEXIST)
                return -errno;
            next = open_in_root(root_fd, prefix, O_PATH | O_DIRECTORY, 0);
        }
        if (next < 0)
            return next;
        close_fd(directory);
        directory = next;
        prefix[end] = path[end];
        i = end;
    }
    return STEAL_FD(directory);
}

int read_regular_file(int root_fd, const char *path, size_t limit, char **ret_text, size_t *ret_size) {
    _cleanup_close_ int fd = open_in_root(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    _cleanup_free_ char *text = NULL;
    struct stat status;
    ssize_t size;

    if (fd < 0)
        return fd;
    if (fstat(fd, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -EINVAL;
    if (status.st_size > (off_t) limit)
        return -EFBIG;
    text = malloc(limit + 2);
    if (!text)
        return -ENOMEM;
    size = read_full(fd, text, limit + 1);
    if (size < 0)
        return (int) size;
    if ((size_t) size > limit)
        return -EFBIG;
    text[size] = '\0';
    *ret_text = STEAL_PTR(text);
    *ret_size = (size_t) size;
    return 0;
}

int parse_number(const char *text, uint64_t max, uint64_t *ret) {
    uint64_t value = 0;

    if (!*text)
        return -EINVAL;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9')
            return -EINVAL;
    }
    for (const char *p = text; *p; p++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t) (*p - '0'), &value))
            return -ERANGE;
    }
    if (value > max)
        return -ERANGE;
    *ret = value;
    return 0;
}

void texts_free(char **texts) {
    for (size_t i = 0; texts && texts[i]; i++)
        free(texts[i]);
    free(texts);
}
