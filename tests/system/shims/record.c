// SPDX-License-Identifier: GPL-2.0-or-later
/* Preloaded into polderd by test_crash_faults.py: appends to $RECORD what is written to the files of the store, which are
 * those whose path starts with $PLACE, and when it is synced. Each entry goes out in one write, in the order of the
 * calls: a write before it is done, a sync when it is through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct entry {
    char operation; /* W rite, T runcate, S ync, U nlink */
    char reserved[3];
    uint32_t name, size;
    uint64_t offset;
} __attribute__((packed));

static int record_fd = -1;
static const char *place;

__attribute__((constructor)) static void begin(void) {
    const char *record = getenv("RECORD");

    place = getenv("PLACE");
    if (record && place)
        record_fd = open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void note(char operation, const char *path, uint64_t offset, const void *data, size_t size) {
    size_t length = place ? strlen(place) : 0;
    struct entry entry = { .operation = operation, .size = (uint32_t) size, .offset = offset };
    struct iovec parts[3];

    if (record_fd < 0)
        return;
    if (strncmp(path, place, length) == 0)
        path += length;
    else if (strlen(path) + 1 == length && strncmp(path, place, length - 1) == 0)
        path = ""; /* the directory itself */
    else
        return;
    entry.name = (uint32_t) strlen(path);
    parts[0] = (struct iovec){ &entry, sizeof(entry) };
    parts[1] = (struct iovec){ (void *) path, entry.name };
    parts[2] = (struct iovec){ (void *) data, data ? size : 0 };
    if (!data)
        entry.size = 0;
    if (writev(record_fd, parts, 3) < 0)
        abort();
}

static void note_fd(char operation, int fd, uint64_t offset, const void *data, size_t size) {
    char link[64], path[PATH_MAX];
    ssize_t length;

    if (record_fd < 0)
        return;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof(path) - 1);
    if (length <= 0)
        return;
    path[length] = '\0';
    note(operation, path, offset, data, size);
}

#define NEXT(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    note_fd('W', fd, (uint64_t) offset, data, size);
    return NEXT(pwrite64)(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    note_fd('W', fd, (uint64_t) offset, data, size);
    return NEXT(pwrite)(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t size) {
    note_fd('T', fd, (uint64_t) size, NULL, 0);
    return NEXT(ftruncate64)(fd, size);
}

int ftruncate(int fd, off_t size) {
    note_fd('T', fd, (uint64_t) size, NULL, 0);
    return NEXT(ftruncate)(fd, size);
}

int fsync(int fd) {
    int r = NEXT(fsync)(fd);

    note_fd('S', fd, 0, NULL, 0);
    return r;
}

int fdatasync(int fd) {
    int r = NEXT(fdatasync)(fd);

    note_fd('S', fd, 0, NULL, 0);
    return r;
}

int unlink(const char *path) {
    note('U', path, 0, NULL, 0);
    return NEXT(unlink)(path);
}
