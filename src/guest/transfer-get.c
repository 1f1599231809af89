// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/transfer.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>

/* Where the archive goes. Once something failed the rest is swallowed: closing an archive writes an end mark,
 * without which the receiver sees that it broke off. */
struct sink {
    int fd;
    bool failed;
};

/* Directories are walked by descriptor, each child opened by name in its parent without following links. */
struct walk {
    struct archive *archive;
    struct archive_entry_linkresolver *links; /* finds hard links among what was written */
    struct reason *reason;
    char name[TRANSFER_PATH_MAX]; /* of the entry at hand, inside the archive */
    unsigned depth;
    uint8_t *copy_buffer;
};

#define COPY_SIZE (64 * 1024)

DEFINE_CLEANUP(DIR *, closedir)
DEFINE_CLEANUP(struct archive *, archive_write_free)
DEFINE_CLEANUP(struct archive_entry *, archive_entry_free)
DEFINE_CLEANUP(struct archive_entry_linkresolver *, archive_entry_linkresolver_free)

static int walk_child(struct walk *walk, int parent_fd, const char *name, dev_t device);

static int archive_failed(struct walk *walk) {
    int number = archive_errno(walk->archive);

    return reason_set(walk->reason, number > 0 ? -number : -EIO, "cannot write the archive at %s",
                      walk->name);
}

/* A file that grew or shrank since its header was written is cut or padded with zeros by libarchive. */
static int copy_data(struct walk *walk, int fd) {
    ssize_t size;

    while ((size = read(fd, walk->copy_buffer, COPY_SIZE)) != 0) {
        la_ssize_t taken;
        if (size < 0 && errno == EINTR)
            continue;
        if (size < 0)
            return reason_set(walk->reason, -errno, "cannot read %s", walk->name);
        taken = archive_write_data(walk->archive, walk->copy_buffer, (size_t) size);
        if (taken < 0)
            return archive_failed(walk);
        if (taken < size)
            break;
    }
    return 0;
}

/* Opens the regular file for reading and makes sure that it is still the one that `status` describes. */
static int open_data(int parent_fd, const char *name, const struct stat *status) {
    _cleanup_close_ int fd =
        openat(parent_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat now;

    if (fd < 0)
        return errno == ELOOP ? -ENOENT : -errno;
    if (fstat(fd, &now) < 0)
        return -errno;
    if (now.st_dev != status->st_dev || now.st_ino != status->st_ino || !S_ISREG(now.st_mode))
        return -ENOENT;
    return STEAL_FD(fd);
}

static int write_entry(struct walk *walk, int path_fd, const struct stat *status, int data_fd) {
    _cleanup_(archive_entry_freep) struct archive_entry *entry = archive_entry_new();
    struct archive_entry *sparse = NULL;
    char target[PATH_MAX];

    if (!entry)
        return -ENOMEM;
    archive_entry_copy_stat(entry, status);
    archive_entry_unset_atime(entry);
    archive_entry_unset_ctime(entry);
    archive_entry_copy_pathname(entry, walk->name);
    if (!S_ISREG(status->st_mode))
        archive_entry_set_size(entry, 0);
    if (S_ISLNK(status->st_mode)) {
        ssize_t length = readlinkat(path_fd, "", target, sizeof(target) - 1);
        if (length < 0)
            return reason_set(walk->reason, -errno, "cannot read the link %s", walk->name);
        target[length] = '\0';
        archive_entry_copy_symlink(entry, target);
    }
    if (S_ISREG(status->st_mode))
        archive_entry_linkify(walk->links, &entry, &sparse);
    if (archive_write_header(walk->archive, entry) < ARCHIVE_WARN)
        return archive_failed(walk);
    if (data_fd >= 0 && archive_entry_size(entry) > 0)
        return copy_data(walk, data_fd);
    return 0;
}

static bool is_kernel_made(int fd) {
    static const unsigned long kinds[] = { PROC_SUPER_MAGIC,    SYSFS_MAGIC,        CGROUP_SUPER_MAGIC,
                                           CGROUP2_SUPER_MAGIC, DEVPTS_SUPER_MAGIC, DEBUGFS_MAGIC,
                                           TRACEFS_MAGIC,       SECURITYFS_MAGIC };
    struct statfs status;

    if (fstatfs(fd, &status) < 0)
        return false;
    for (size_t i = 0; i < ELEMENTS(kinds); i++) {
        if ((unsigned long) status.f_type == kinds[i])
            return true;
    }
    return false;
}

static int walk_directory(struct walk *walk, int parent_fd, const char *name, const struct stat *status) {
    _cleanup_(closedirp) DIR *directory = NULL;
    _cleanup_close_ int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat now;
    struct dirent *child;

    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
                   ? 0
                   : reason_set(walk->reason, -errno, "cannot open %s", walk->name);
    if (fstat(fd, &now) < 0 || now.st_dev != status->st_dev || now.st_ino != status->st_ino)
        return 0;
    if (walk->depth == TRANSFER_DEPTH_MAX)
        return reason_set(walk->reason, -EINVAL, "%.100s… is nested too deeply", walk->name);
    directory = fdopendir(fd);
    if (!directory)
        return -errno;
    fd = -EBADF;
    walk->depth++;
    for (errno = 0; (child = readdir(directory)); errno = 0) {
        int r;
        if (strcmp(child->d_name, ".") == 0 || strcmp(child->d_name, "..") == 0)
            continue;
        r = walk_child(walk, dirfd(directory), child->d_name, status->st_dev);
        if (r < 0)
            return r;
    }
    walk->depth--;
    return errno > 0 ? reason_set(walk->reason, -errno, "cannot list %s", walk->name) : 0;
}

/* Writes `name` of parent_fd and all beneath it; walk->name is its archive name. What vanished is left out.
 */
static int walk_node(struct walk *walk, int parent_fd, const char *name, dev_t device) {
    _cleanup_close_ int fd = openat(parent_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_close_ int data_fd = -EBADF;
    struct stat status;
    int r;

    if (fd < 0)
        return errno == ENOENT ? 0 : reason_set(walk->reason, -errno, "cannot open %s", walk->name);
    if (fstat(fd, &status) < 0)
        return -errno;
    if (S_ISSOCK(status.st_mode))
        return 0;
    if (S_ISREG(status.st_mode)) {
        data_fd = open_data(parent_fd, name, &status);
        if (data_fd == -ENOENT)
            return 0;
        if (data_fd < 0)
            return reason_set(walk->reason, data_fd, "cannot read %s", walk->name);
    }
    r = write_entry(walk, fd, &status, data_fd);
    if (r < 0 || !S_ISDIR(status.st_mode))
        return r;
    if (status.st_dev != device && walk->depth > 0 && is_kernel_made(fd))
        return 0;
    return walk_directory(walk, parent_fd, name, &status);
}

static int walk_child(struct walk *walk, int parent_fd, const char *name, dev_t device) {
    size_t length = strlen(walk->name), added = strlen(name);
    int r;

    if (length + added + 2 > sizeof(walk->name))
        return reason_set(walk->reason, -ENAMETOOLONG, "%.100s…", walk->name);
    walk->name[length] = '/';
    memcpy(walk->name + length + 1, name, added + 1);
    r = walk_node(walk, parent_fd, name, device);
    if (r >= 0)
        walk->name[length] = '\0';
    return r;
}

/* Opens the directory that holds the last component of `path` and copies that component; for the root itself,
 * and for a path whose end is "." or "..", the directory meant and ".". */
static int open_parent(int root_fd, const char *path, char ret_name[NAME_MAX + 1], struct reason *reason) {
    char parent[PATH_MAX];
    size_t end = strlen(path), start;
    int fd;

    if (end >= sizeof(parent))
        return reason_set(reason, -ENAMETOOLONG, "%.64s…", path);
    while (end > 0 && path[end - 1] == '/')
        end--;
    for (start = end; start > 0 && path[start - 1] != '/';)
        start--;
    if (end - start > NAME_MAX)
        return reason_set(reason, -ENAMETOOLONG, "%.64s…", path);
    memcpy(ret_name, path + start, end - start);
    ret_name[end - start] = '\0';
    if (!*ret_name || strcmp(ret_name, ".") == 0 || strcmp(ret_name, "..") == 0) {
        strcpy(ret_name, ".");
        start = end;
    }
    memcpy(parent, path, start);
    parent[start] = '\0';
    fd = open_in_root(root_fd, *parent ? parent : "/", O_PATH | O_DIRECTORY, 0);
    return fd < 0 ? reason_set(reason, fd, "%.128s", path) : fd;
}

/* The archive name of a path is its last component, also where that is a link with a slash behind it, which
 * stands for the directory it points to. */
static int walk_start(struct walk *walk, int root_fd, const char *path) {
    char name[NAME_MAX + 1];
    _cleanup_close_ int parent = open_parent(root_fd, path, name, walk->reason);
    _cleanup_close_ int target = -EBADF;
    struct stat status;
    bool wants_directory = path[0] && path[strlen(path) - 1] == '/';

    if (parent < 0)
        return parent;
    if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return reason_set(walk->reason, -errno, "%.128s", path);
    if (S_ISSOCK(status.st_mode))
        return reason_set(walk->reason, -EINVAL, "%.128s is a socket", path);
    strcpy(walk->name, name);
    if (!wants_directory || S_ISDIR(status.st_mode))
        return walk_node(walk, parent, name, status.st_dev);
    target = open_in_root(root_fd, path, O_PATH | O_DIRECTORY, 0);
    if (target < 0 || fstat(target, &status) < 0)
        return reason_set(walk->reason, target < 0 ? target : -errno, "%.128s", path);
    return walk_node(walk, target, ".", status.st_dev);
}

static la_ssize_t sink_write(struct archive *archive, void *userdata, const void *data, size_t size) {
    struct sink *sink = userdata;
    int r = sink->failed ? 0 : write_full(sink->fd, data, size);

    if (r < 0) {
        sink->failed = true;
        archive_set_error(archive, -r, "cannot write");
        return -1;
    }
    return (la_ssize_t) size;
}

int transfer_get(int root_fd, const char *path, int fd, struct reason *reason) {
    struct sink sink = { .fd = fd };
    _cleanup_(archive_write_freep) struct archive *archive = archive_write_new();
    _cleanup_(archive_entry_linkresolver_freep) struct archive_entry_linkresolver *links =
        archive_entry_linkresolver_new();
    _cleanup_free_ uint8_t *copy_buffer = malloc(COPY_SIZE);
    _cleanup_free_ struct walk *walk = calloc(1, sizeof(*walk));
    int r;

    if (!archive || !links || !walk || !copy_buffer)
        return -ENOMEM;
    *walk = (struct walk){ .archive = archive, .links = links, .reason = reason, .copy_buffer = copy_buffer };
    /* Names are bytes, not text in some character set. */
    if (archive_write_set_format_pax_restricted(archive) != ARCHIVE_OK ||
        archive_write_set_format_option(archive, "pax", "hdrcharset", "BINARY") != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(archive, 1) != ARCHIVE_OK ||
        archive_write_open(archive, &sink, NULL, sink_write, NULL) != ARCHIVE_OK)
        return archive_failed(walk);
    archive_entry_linkresolver_set_strategy(links, ARCHIVE_FORMAT_TAR_PAX_RESTRICTED);
    r = walk_start(walk, root_fd, path);
    sink.failed = r < 0;
    if (r < 0)
        return r;
    return archive_write_close(archive) == ARCHIVE_OK ? 0 : archive_failed(walk);
}
