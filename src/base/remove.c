// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/* file_remove_tree. What it removes was often made by a guest, which can nest a million directories: so it
 * descends DEPTH_MAX levels at most, and what lies deeper is first moved up into the top directory.
 * Directories are opened without following links and without crossing mounts; a mount point in the tree makes
 * it fail with -EXDEV. */

#define DEPTH_MAX 24

struct removal {
    int top;               /* directory that takes what lies too deep */
    unsigned long counter; /* of moved directories */
};

static int open_directory(int at, const char *name) {
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    long fd;

    do
        fd = syscall(SYS_openat2, at, name, &how, sizeof(how));
    while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    return fd < 0 ? -errno : (int) fd;
}

static void closedirp(DIR **directory) {
    if (*directory)
        closedir(*directory);
}

static int move_up(struct removal *removal, int at, const char *name) {
    char target[40];

    for (;;) {
        snprintf(target, sizeof(target), ".polder-remove-%lu", removal->counter++);
        if (renameat2(at, name, removal->top, target, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return -errno;
    }
}

static int remove_contents(struct removal *removal, int fd, unsigned depth);

/* Nothing moves out of a btrfs subvolume: this directory takes what lies too deep beneath it. */
static int remove_volume(int at, const char *name, int fd) {
    struct removal removal = { .top = fd };
    int r = remove_contents(&removal, fd, 1);

    if (r < 0)
        return r;
    return unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

static int remove_entry(struct removal *removal, int at, const char *name, unsigned depth) {
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    if (unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    if (errno != ENOTEMPTY && errno != EEXIST)
        return -errno;
    if (depth >= DEPTH_MAX) {
        r = move_up(removal, at, name);
        if (r != -EXDEV)
            return r;
    }
    fd = open_directory(at, name);
    if (fd < 0)
        return fd;
    if (depth >= DEPTH_MAX)
        return remove_volume(at, name, fd);
    if (removal->top < 0)
        removal->top = fd;
    r = remove_contents(removal, fd, depth + 1);
    if (removal->top == fd)
        removal->top = -EBADF;
    if (r < 0)
        return r;
    return unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

/* One pass over the directory; *ret_count gets how many entries it saw. */
static int remove_pass(struct removal *removal, int fd, unsigned depth, size_t *ret_count) {
    _cleanup_(closedirp) DIR *directory = NULL;
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct dirent *entry;

    *ret_count = 0;
    if (copy < 0)
        return -errno;
    directory = fdopendir(copy);
    if (!directory) {
        int r = -errno;

        close_fd(copy);
        return r;
    }
    while (errno = 0, (entry = readdir(directory))) {
        int r;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        r = remove_entry(removal, fd, entry->d_name, depth);
        if (r < 0)
            return r;
        ++*ret_count;
    }
    return -errno;
}

/* A pass over the top may miss entries that are moved up meanwhile, so passes go on until one sees none. */
static int remove_contents(struct removal *removal, int fd, unsigned depth) {
    size_t count = 1;
    int r = 0;

    while (r == 0 && count > 0)
        r = remove_pass(removal, fd, depth, &count);
    return r;
}

int file_remove_tree(int at, const char *path) {
    struct removal removal = { .top = -EBADF };
    _cleanup_close_ int parent = -EBADF;
    const char *name;

    parent = file_open_parent(at, path, &name);
    if (parent < 0)
        return parent == -ENOENT ? 0 : parent;
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    return remove_entry(&removal, parent, name, 0);
}
