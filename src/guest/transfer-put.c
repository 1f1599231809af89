// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/transfer.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

/* Each entry is placed through a descriptor of its parent directory, which was opened beneath the target with
 * RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and all that follows (chown, chmod, times) goes through
 * descriptors or names that are not followed. So neither an archive nor a process that swaps directories
 * meanwhile leads out. */

#define DIRECTORY_TIMES_MAX 65536

struct directory_time {
    char *name;
    struct timespec mtime;
};

struct unpack {
    struct archive *archive;
    int target_fd;
    struct reason *reason;
    struct directory_time *times; /* set at the end: filling a directory changes its time */
    size_t time_count, time_capacity;
};

DEFINE_CLEANUP(struct archive *, archive_read_free)

/* An entry's name without a leading "./" and trailing slashes, and cut into parent and last component. */
struct place {
    char name[TRANSFER_PATH_MAX];
    const char *last;
    int parent_fd;
};

static void place_done(struct place *place) {
    place->parent_fd = close_fd(place->parent_fd);
}

static int open_beneath(int fd, const char *path, int flags) {
    struct open_how how = {
        .flags = (uint64_t) (flags | O_CLOEXEC),
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    int opened = (int) syscall(SYS_openat2, fd, path, &how, sizeof(how));

    return opened < 0 ? -errno : opened;
}

/* Copies `name` in canonical form: components separated by one slash, no ".". "" is the target itself. */
static int name_normalize(const char *name, char ret[TRANSFER_PATH_MAX], struct reason *reason) {
    size_t used = 0;

    if (!name)
        return reason_set(reason, -EINVAL, "an entry of the archive has no usable name");
    if (*name == '/')
        return reason_set(reason, -EINVAL, "refused: '%.128s' is absolute", name);
    for (const char *part = name; *part;) {
        size_t size = strcspn(part, "/");
        if (size == 2 && memcmp(part, "..", 2) == 0)
            return reason_set(reason, -EINVAL, "refused: '%.128s' has a '..'", name);
        if (size > NAME_MAX || used + size + 2 > TRANSFER_PATH_MAX)
            return reason_set(reason, -EINVAL, "refused: the name '%.64s…' is too long", name);
        if (size > 0 && !(size == 1 && *part == '.')) {
            if (used > 0)
                ret[used++] = '/';
            memcpy(ret + used, part, size);
            used += size;
        }
        part += size + (part[size] == '/');
    }
    ret[used] = '\0';
    return 0;
}

/* Makes the missing directories on the way to the last component. */
static int parents_make(struct unpack *unpack, char *parent) {
    _cleanup_close_ int fd = fcntl(unpack->target_fd, F_DUPFD_CLOEXEC, 0);
    char *part = parent;

    while (fd >= 0 && *part) {
        char *slash = strchrnul(part, '/');
        char saved = *slash;
        int next;

        *slash = '\0';
        if (mkdirat(fd, part, 0755) < 0 && errno != EEXIST)
            return -errno;
        next = open_beneath(fd, part, O_PATH | O_DIRECTORY);
        *slash = saved;
        close_fd(fd);
        fd = next;
        part = slash + (saved == '/');
    }
    return fd < 0 ? (fd == -1 ? -errno : fd) : STEAL_FD(fd);
}

static int place_find(struct unpack *unpack, const char *name, bool make_parents, struct place *ret) {
    char *slash;
    int r = name_normalize(name, ret->name, unpack->reason);

    if (r < 0)
        return r;
    slash = strrchr(ret->name, '/');
    ret->last = slash ? slash + 1 : ret->name;
    if (!slash) {
        ret->parent_fd = open_beneath(unpack->target_fd, ".", O_PATH | O_DIRECTORY);
    } else {
        *slash = '\0';
        ret->parent_fd = open_beneath(unpack->target_fd, ret->name, O_PATH | O_DIRECTORY);
        if (ret->parent_fd == -ENOENT && make_parents)
            ret->parent_fd = parents_make(unpack, ret->name);
        *slash = '/';
    }
    if (ret->parent_fd == -ELOOP || ret->parent_fd == -ENOTDIR)
        return reason_set(unpack->reason, -EINVAL, "refused: the way to '%.128s' is no plain directory",
                          name);
    if (ret->parent_fd < 0)
        return reason_set(unpack->reason, ret->parent_fd, "cannot reach '%.128s'", name);
    return 0;
}

static int failed(struct unpack *unpack, const struct place *place, const char *what) {
    return reason_set(unpack->reason, -errno, "cannot %s '%.128s'", what, place->name);
}

/* A file in the way is removed, a directory is not. */
static int make_room(struct unpack *unpack, const struct place *place) {
    struct stat status;

    if (fstatat(place->parent_fd, place->last, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : failed(unpack, place, "inspect");
    if (S_ISDIR(status.st_mode))
        return reason_set(unpack->reason, -EINVAL,
                          "refused: '%.128s' is a directory, the archive has a file there", place->name);
    if (unlinkat(place->parent_fd, place->last, 0) < 0 && errno != ENOENT)
        return failed(unpack, place, "replace");
    return 0;
}

static struct timespec entry_mtime(struct archive_entry *entry) {
    if (!archive_entry_mtime_is_set(entry))
        return (struct timespec){ .tv_nsec = UTIME_NOW };
    return (struct timespec){ .tv_sec = archive_entry_mtime(entry),
                              .tv_nsec = archive_entry_mtime_nsec(entry) };
}

/* Owner before mode: chown takes the set-id bits away. */
static int dress_file(struct unpack *unpack, const struct place *place, struct archive_entry *entry, int fd) {
    struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, entry_mtime(entry) };

    if (fchown(fd, (uid_t) archive_entry_uid(entry), (gid_t) archive_entry_gid(entry)) < 0)
        return failed(unpack, place, "set the owner of");
    if (fchmod(fd, archive_entry_perm(entry)) < 0)
        return failed(unpack, place, "set the mode of");
    if (futimens(fd, times) < 0)
        return failed(unpack, place, "set the time of");
    return 0;
}

static int copy_data(struct unpack *unpack, const struct place *place, int fd) {
    const void *data;
    size_t size;
    la_int64_t offset;
    int r;

    while ((r = archive_read_data_block(unpack->archive, &data, &size, &offset)) == ARCHIVE_OK) {
        for (size_t done = 0; done < size;) {
            ssize_t n = pwrite(fd, (const uint8_t *) data + done, size - done, offset + (off_t) done);
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                return failed(unpack, place, "write");
            done += (size_t) n;
        }
    }
    if (r != ARCHIVE_EOF)
        return reason_set(unpack->reason, -EINVAL, "the archive is damaged at '%.64s': %.128s", place->name,
                          archive_error_string(unpack->archive));
    return 0;
}

static int unpack_file(struct unpack *unpack, const struct place *place, struct archive_entry *entry) {
    _cleanup_close_ int fd = -EBADF;
    int r = make_room(unpack, place);

    if (r < 0)
        return r;
    fd = openat(place->parent_fd, place->last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return failed(unpack, place, "create");
    r = copy_data(unpack, place, fd);
    if (r < 0)
        return r;
    /* A sparse file may end in a hole. */
    if (archive_entry_size_is_set(entry) && ftruncate(fd, archive_entry_size(entry)) < 0)
        return failed(unpack, place, "set the size of");
    return dress_file(unpack, place, entry, fd);
}

static int remember_time(struct unpack *unpack, const char *name, struct timespec mtime) {
    if (unpack->time_count == DIRECTORY_TIMES_MAX)
        return 0;
    if (unpack->time_count == unpack->time_capacity) {
        size_t capacity = unpack->time_capacity ? 2 * unpack->time_capacity : 64;
        void *grown = reallocarray(unpack->times, capacity, sizeof(*unpack->times));
        if (!grown)
            return -ENOMEM;
        unpack->times = grown;
        unpack->time_capacity = capacity;
    }
    unpack->times[unpack->time_count].name = strdup(name);
    if (!unpack->times[unpack->time_count].name)
        return -ENOMEM;
    unpack->times[unpack->time_count++].mtime = mtime;
    return 0;
}

static int unpack_directory(struct unpack *unpack, const struct place *place, struct archive_entry *entry) {
    _cleanup_close_ int fd = -EBADF;
    int r;

    if (mkdirat(place->parent_fd, place->last, 0700) < 0 && errno != EEXIST)
        return failed(unpack, place, "create");
    fd = openat(place->parent_fd, place->last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        return reason_set(unpack->reason, -EINVAL, "refused: '%.128s' exists and is no directory",
                          place->name);
    if (fd < 0)
        return failed(unpack, place, "open");
    r = dress_file(unpack, place, entry, fd);
    return r < 0 ? r : remember_time(unpack, place->name, entry_mtime(entry));
}

static int unpack_symlink(struct unpack *unpack, const struct place *place, struct archive_entry *entry) {
    struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, entry_mtime(entry) };
    const char *target = archive_entry_symlink(entry);
    int r;

    if (!target)
        return reason_set(unpack->reason, -EINVAL, "the link '%.128s' has no usable target", place->name);
    r = make_room(unpack, place);
    if (r < 0)
        return r;
    if (symlinkat(target, place->parent_fd, place->last) < 0)
        return failed(unpack, place, "create");
    if (fchownat(place->parent_fd, place->last, (uid_t) archive_entry_uid(entry),
                 (gid_t) archive_entry_gid(entry), AT_SYMLINK_NOFOLLOW) < 0)
        return failed(unpack, place, "set the owner of");
    if (utimensat(place->parent_fd, place->last, times, AT_SYMLINK_NOFOLLOW) < 0)
        return failed(unpack, place, "set the time of");
    return 0;
}

/* The other name must lie beneath the target as well and be a regular file: a hard link to a symbolic link
 * could be opened through later. */
static int unpack_hardlink(struct unpack *unpack, const struct place *place, const char *other) {
    _cleanup_(place_done) struct place source = { .parent_fd = -EBADF };
    struct stat status;
    int r = place_find(unpack, other, false, &source);

    if (r < 0)
        return r;
    if (fstatat(source.parent_fd, source.last, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return failed(unpack, &source, "find the hard link's target");
    if (!S_ISREG(status.st_mode))
        return reason_set(unpack->reason, -EINVAL,
                          "refused: '%.64s' is a hard link to something other than a file", place->name);
    if (strcmp(source.name, place->name) == 0)
        return 0;
    r = make_room(unpack, place);
    if (r < 0)
        return r;
    if (linkat(source.parent_fd, source.last, place->parent_fd, place->last, 0) < 0)
        return failed(unpack, place, "link");
    return 0;
}

static int unpack_fifo(struct unpack *unpack, const struct place *place, struct archive_entry *entry) {
    int r = make_room(unpack, place);

    if (r < 0)
        return r;
    if (mkfifoat(place->parent_fd, place->last, archive_entry_perm(entry) & 0777) < 0)
        return failed(unpack, place, "create");
    if (fchownat(place->parent_fd, place->last, (uid_t) archive_entry_uid(entry),
                 (gid_t) archive_entry_gid(entry), AT_SYMLINK_NOFOLLOW) < 0)
        return failed(unpack, place, "set the owner of");
    return 0;
}

static int unpack_entry(struct unpack *unpack, struct archive_entry *entry) {
    _cleanup_(place_done) struct place place = { .parent_fd = -EBADF };
    const char *hardlink = archive_entry_hardlink(entry);
    int r = place_find(unpack, archive_entry_pathname(entry), true, &place);

    if (r < 0)
        return r;
    if (archive_entry_uid(entry) < 0 || archive_entry_uid(entry) >= UINT32_MAX ||
        archive_entry_gid(entry) < 0 || archive_entry_gid(entry) >= UINT32_MAX)
        return reason_set(unpack->reason, -EINVAL, "refused: the owner of '%.128s' is out of range",
                          place.name);
    if (!*place.name)
        return archive_entry_filetype(entry) == AE_IFDIR && !hardlink
                   ? 0 /* the target directory itself keeps its owner and mode */
                   : reason_set(unpack->reason, -EINVAL, "refused: an entry stands for the target itself");
    if (hardlink)
        return unpack_hardlink(unpack, &place, hardlink);
    switch (archive_entry_filetype(entry)) {
    case AE_IFREG:
        return unpack_file(unpack, &place, entry);
    case AE_IFDIR:
        return unpack_directory(unpack, &place, entry);
    case AE_IFLNK:
        return unpack_symlink(unpack, &place, entry);
    case AE_IFIFO:
        return unpack_fifo(unpack, &place, entry);
    default:
        return reason_set(unpack->reason, -EINVAL, "refused: '%.128s' is a device node", place.name);
    }
}

static int unpack_all(struct unpack *unpack) {
    struct archive_entry *entry;
    int r;

    while ((r = archive_read_next_header(unpack->archive, &entry)) == ARCHIVE_OK) {
        r = unpack_entry(unpack, entry);
        if (r < 0)
            return r;
    }
    if (r != ARCHIVE_EOF)
        return reason_set(unpack->reason, -EINVAL, "the archive is damaged: %.160s",
                          archive_error_string(unpack->archive));
    return 0;
}

/* Last to first, so that a parent comes after what lies in it. */
static void times_apply(struct unpack *unpack) {
    while (unpack->time_count > 0) {
        struct directory_time *time = &unpack->times[--unpack->time_count];
        _cleanup_close_ int fd = open_beneath(unpack->target_fd, time->name, O_RDONLY | O_DIRECTORY);
        struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, time->mtime };

        if (fd >= 0)
            (void) futimens(fd, times);
        free(time->name);
    }
    free(unpack->times);
}

/* Takes what the sender still has, so that it is not killed by a closed pipe before it hears the reason. */
static void drain(int fd) {
    char scratch[4096];

    while (read_full(fd, scratch, sizeof(scratch)) == (ssize_t) sizeof(scratch))
        ;
}

int transfer_put(int root_fd, const char *path, int fd, struct reason *reason) {
    _cleanup_(archive_read_freep) struct archive *archive = archive_read_new();
    _cleanup_close_ int target = open_in_root(root_fd, path, O_PATH | O_DIRECTORY, 0);
    struct unpack unpack = { .archive = archive, .target_fd = target, .reason = reason };
    int r;

    if (!archive)
        return -ENOMEM;
    if (target < 0)
        r = reason_set(reason, target, "%.128s", path);
    else if (archive_read_support_format_tar(archive) != ARCHIVE_OK ||
             archive_read_open_fd(archive, fd, 64 * 1024) != ARCHIVE_OK)
        r = reason_set(reason, -EINVAL, "this is no tar archive: %.128s", archive_error_string(archive));
    else
        r = unpack_all(&unpack);
    times_apply(&unpack);
    drain(fd);
    return r;
}
