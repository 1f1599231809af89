// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "base/uuid.h"

#define PROCESS_EXITING 0x4 /* PF_EXITING of the kernel's sched.h; what is left of a dead process has it too */
#define READ_FIRST 4096
#define COPY_BLOCK (256 * 1024)

static int read_limited(int fd, size_t limit, struct buffer *out) {
    for (;;) {
        size_t room = out->size < READ_FIRST ? READ_FIRST : out->size;
        ssize_t n;

        if (room > limit - out->size)
            room = limit - out->size + 1; /* one more byte tells whether the file is too long */
        if (buffer_reserve(out, room) < 0)
            return -ENOMEM;
        n = read(fd, out->data + out->size, room);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        out->size += (size_t) n;
        if (out->size > limit)
            return -EFBIG;
    }
    out->data[out->size] = '\0';
    return 0;
}

int file_read(int at, const char *path, size_t limit, char **ret, size_t *ret_size) {
    _cleanup_close_ int fd = openat(at, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    size_t size;
    int r;

    if (fd < 0)
        return -errno;
    r = read_limited(fd, limit, &out);
    if (r < 0)
        return r;
    size = out.size;
    r = buffer_take(&out, ret);
    if (r < 0)
        return r;
    if (ret_size)
        *ret_size = size;
    return 0;
}

int file_write_all(int fd, const void *data, size_t size) {
    const char *p = data;

    while (size > 0) {
        ssize_t n = write(fd, p, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        p += n;
        size -= (size_t) n;
    }
    return 0;
}

/* One write: the kernel's interface files take a value whole or not at all. */
int file_write_value(int at, const char *path, const char *value) {
    _cleanup_close_ int fd = openat(at, path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    size_t size = strlen(value);

    if (fd < 0)
        return -errno;
    for (;;) {
        ssize_t n = write(fd, value, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        return (size_t) n == size ? 0 : -EIO;
    }
}

int file_open_parent(int at, const char *path, const char **ret_name) {
    _cleanup_free_ char *directory = NULL;
    const char *slash = strrchr(path, '/');
    int fd;

    *ret_name = slash ? slash + 1 : path;
    if (!slash)
        directory = strdup(".");
    else
        directory = strndup(path, slash == path ? 1 : (size_t) (slash - path));
    if (!directory)
        return -ENOMEM;
    fd = openat(at, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int write_new(int parent, const char *name, const void *data, size_t size, mode_t mode, bool durable) {
    _cleanup_close_ int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    int r;

    if (fd < 0)
        return -errno;
    r = file_write_all(fd, data, size);
    if (r < 0)
        return r;
    if (fchmod(fd, mode) < 0) /* the process's umask has no say */
        return -errno;
    if (durable && fsync(fd) < 0)
        return -errno;
    return 0;
}

int file_write_atomic(int at, const char *path, const void *data, size_t size, mode_t mode, bool durable) {
    _cleanup_close_ int parent = -EBADF;
    _cleanup_free_ char *temporary = NULL;
    const char *name;
    char random[17];
    int r;

    parent = file_open_parent(at, path, &name);
    if (parent < 0)
        return parent;
    random_hex(random, 8);
    temporary = text_format(".%.200s.%s.tmp", name, random);
    if (!temporary)
        return -ENOMEM;
    r = write_new(parent, temporary, data, size, mode, durable);
    if (r == 0 && renameat(parent, temporary, parent, name) < 0)
        r = -errno;
    if (r < 0) {
        if (r != -EEXIST)
            unlinkat(parent, temporary, 0);
        return r;
    }
    if (durable && fsync(parent) < 0)
        return -errno;
    return 0;
}

static int open_how(int at, const char *path, int flags, mode_t mode, uint64_t resolve) {
    struct open_how how = {
        .flags = (uint64_t) (unsigned) (flags | O_CLOEXEC),
        .mode = flags & (O_CREAT | __O_TMPFILE) ? mode : 0,
        .resolve = resolve,
    };

    for (;;) {
        long fd = syscall(SYS_openat2, at, path, &how, sizeof(how));

        /* EAGAIN: a rename kept the kernel from judging ".."; it asks to try again. */
        if (fd < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        return fd < 0 ? -errno : (int) fd;
    }
}

int file_open_beneath(int at, const char *path, int flags, mode_t mode, bool no_links) {
    return open_how(at, path, flags, mode,
                    RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (no_links ? RESOLVE_NO_SYMLINKS : 0));
}

int file_make_directories(int at, const char *path, mode_t mode) {
    _cleanup_free_ char *part = strdup(path);
    struct stat status;

    if (!part)
        return -ENOMEM;
    for (char *slash = strchr(part + (part[0] == '/'), '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdirat(at, part, mode) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    if (mkdirat(at, path, mode) == 0)
        return 0;
    if (errno != EEXIST)
        return -errno;
    if (fstatat(at, path, &status, 0) < 0)
        return -errno;
    return S_ISDIR(status.st_mode) ? 0 : -ENOTDIR;
}

bool file_exists(int at, const char *path) {
    struct stat status;

    return fstatat(at, path, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

int file_size(int at, const char *path, uint64_t *ret) {
    struct stat status;

    if (fstatat(at, path, &status, 0) < 0)
        return -errno;
    *ret = (uint64_t) status.st_size;
    return 0;
}

/* copy_file_range where both ends support it, else through a block of memory. */
static int copy_range(int source, int target, off_t from, off_t to) {
    _cleanup_free_ char *block = NULL;

    while (from < to) {
        off_t in = from;
        off_t out = from;
        size_t size = to - from > COPY_BLOCK * 64 ? COPY_BLOCK * 64 : (size_t) (to - from);
        ssize_t n = block ? -1 : copy_file_range(source, &in, target, &out, size, 0);

        if (n < 0) {
            if (!block && errno != EXDEV && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
                return -errno;
            if (!block && !(block = malloc(COPY_BLOCK)))
                return -ENOMEM;
            n = pread(source, block, size > COPY_BLOCK ? COPY_BLOCK : size, from);
            if (n < 0)
                return -errno;
            if (n > 0 && (n = pwrite(target, block, (size_t) n, from)) < 0)
                return -errno;
        }
        if (n == 0)
            return -EIO; /* the source became shorter under us */
        from += n;
    }
    return 0;
}

int file_copy_sparse(int source, int target) {
    struct stat status;
    off_t at = 0;

    if (fstat(source, &status) < 0)
        return -errno;
    if (ioctl(target, FICLONE, source) == 0)
        return 0;
    if (ftruncate(target, 0) < 0 || ftruncate(target, status.st_size) < 0)
        return -errno;
    while (at < status.st_size) {
        off_t start = lseek(source, at, SEEK_DATA);
        off_t end;
        int r;

        if (start < 0 && errno == ENXIO)
            break; /* a hole up to the end */
        if (start < 0)
            return -errno;
        end = lseek(source, start, SEEK_HOLE);
        if (end < 0)
            return -errno;
        r = copy_range(source, target, start, end > status.st_size ? status.st_size : end);
        if (r < 0)
            return r;
        at = end;
    }
    return 0;
}

/* Points *ret_field at a field of /proc/PID/stat, counted from 1 as in proc(5), inside *ret_text. */
static int stat_field(pid_t pid, int number, char **ret_text, char **ret_field) {
    _cleanup_free_ char *path = text_format("/proc/%d/stat", (int) pid);
    _cleanup_free_ char *text = NULL;
    char *p;
    int r;

    if (!path)
        return -ENOMEM;
    r = file_read(AT_FDCWD, path, 4096, &text, NULL);
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    /* The name in parentheses may hold anything, so count fields from its last parenthesis. */
    p = text ? strrchr(text, ')') : NULL;
    for (int field = 2; p && field < number; field++)
        p = strchr(p + 1, ' ');
    if (!p)
        return -EPROTO;
    p++;
    p[strcspn(p, " \n")] = '\0';
    *ret_field = p;
    *ret_text = STEAL_PTR(text);
    return 0;
}

int proc_start_time(pid_t pid, uint64_t *ret_ticks) {
    _cleanup_free_ char *text = NULL;
    char *field;
    int r = stat_field(pid, 22, &text, &field);

    return r < 0 ? r : text_parse_u64(field, ret_ticks);
}

bool proc_is_ending(pid_t pid) {
    _cleanup_free_ char *text = NULL;
    uint64_t flags;
    char *field;
    int r = stat_field(pid, 9, &text, &field);

    if (r < 0)
        return r == -ESRCH;
    return text_parse_u64(field, &flags) >= 0 && (flags & PROCESS_EXITING) != 0;
}
