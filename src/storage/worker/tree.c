// SPDX-License-Identifier: GPL-2.0-or-later
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static void closedirp(DIR **directory) {
    if (*directory)
        closedir(*directory);
}

void tree_init(struct tree *tree, int root_fd) {
    *tree = (struct tree){ .root_fd = root_fd, .parent_fd = -1 };
}

static void forget_parent(struct tree *tree) {
    worker_closep(&tree->parent_fd);
    tree->parent_fd = -1;
}

void tree_done(struct tree *tree) {
    forget_parent(tree);
}

bool is_whiteout(mode_t mode, dev_t device) {
    return S_ISCHR(mode) && device == makedev(0, 0);
}

/* Opens a directory beneath `fd`, links nowhere on the way. Returns the descriptor or a negative errno. */
static int open_beneath(int fd, const char *path) {
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    int opened = (int) syscall(SYS_openat2, fd, *path ? path : ".", &how, sizeof(how));
    return opened < 0 ? -errno : opened;
}

/* ---- removing ---- */

static int remove_tree(int parent_fd, const char *name, unsigned depth) {
    if (depth > LAYER_DEPTH_MAX)
        return -ELOOP;
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    _cleanup_(closedirp) DIR *directory = fdopendir(fd);
    if (!directory) {
        close(fd);
        return -ENOMEM;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0)
            continue;
        if (errno != EISDIR && errno != EPERM)
            return -errno;
        int r = remove_tree(fd, entry->d_name, depth + 1);
        if (r < 0)
            return r;
    }
    return unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int tree_vacate(int parent_fd, const char *name, struct failure *failure) {
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    int r = errno == EISDIR || errno == EPERM ? remove_tree(parent_fd, name, 0) : -errno;
    return r < 0 ? fail_errno(failure, -r, name, "removing an earlier entry") : 0;
}

/* ---- directories ---- */

int tree_set_opaque(int directory_fd, struct failure *failure) {
    if (fsetxattr(directory_fd, OVERLAY_OPAQUE, "y", 1, 0) < 0)
        return fail_errno(failure, errno, "", "marking a directory as opaque");
    return 0;
}

int tree_directory(int parent_fd, const char *name, int *ret_fd, struct failure *failure) {
    struct stat status;
    bool was_whiteout = false;
    if (mkdirat(parent_fd, name, 0755) < 0) {
        if (errno != EEXIST || fstatat(parent_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            return fail_errno(failure, errno, name, "making a directory");
        was_whiteout = is_whiteout(status.st_mode, status.st_rdev);
        if (!S_ISDIR(status.st_mode)) {
            if (tree_vacate(parent_fd, name, failure) < 0)
                return -EBADMSG;
            if (mkdirat(parent_fd, name, 0755) < 0)
                return fail_errno(failure, errno, name, "making a directory");
        }
    }
    _cleanup_fd_ int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(failure, errno, name, "opening a directory");
    if (was_whiteout && tree_set_opaque(fd, failure) < 0)
        return -EBADMSG;
    *ret_fd = STEAL_FD(fd);
    return 0;
}

/* One level of a path that an entry needs: there, or made, but never a link or a file. */
static int imply_directory(struct tree *tree, int parent_fd, const char *name, int *ret_fd,
                           struct failure *failure) {
    struct stat status;
    bool is_there = fstatat(parent_fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_there && !S_ISDIR(status.st_mode) && !is_whiteout(status.st_mode, status.st_rdev))
        return fail(failure, FAILURE_PATH_UNSAFE, name, "an entry lies beneath a %s",
                    S_ISLNK(status.st_mode) ? "symbolic link" : "file");
    if (!is_there || !S_ISDIR(status.st_mode))
        tree->implied_directories++;
    return tree_directory(parent_fd, name, ret_fd, failure);
}

/* Walks `path` level by level, making what is missing. */
static int imply_path(struct tree *tree, const char *path, struct failure *failure) {
    _cleanup_fd_ int current = open_beneath(tree->root_fd, "");
    if (current < 0)
        return fail_errno(failure, -current, path, "opening a directory");
    for (const char *at = path; *at;) {
        char name[LAYER_NAME_MAX + 1];
        size_t length = strcspn(at, "/");
        memcpy(name, at, length);
        name[length] = 0;
        int next;
        if (imply_directory(tree, current, name, &next, failure) < 0)
            return -EBADMSG;
        close(current);
        current = next;
        at += length + (at[length] == '/');
    }
    return 0;
}

int tree_parent(struct tree *tree, const char *path, int *ret_fd, struct failure *failure) {
    if (tree->parent_fd >= 0 && strcmp(tree->parent, path) == 0) {
        *ret_fd = tree->parent_fd;
        return 0;
    }
    int fd = open_beneath(tree->root_fd, path);
    if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP) {
        if (imply_path(tree, path, failure) < 0)
            return -EBADMSG;
        fd = open_beneath(tree->root_fd, path);
    }
    if (fd < 0)
        return fail_errno(failure, -fd, path, "opening a directory");
    forget_parent(tree);
    snprintf(tree->parent, sizeof(tree->parent), "%s", path);
    *ret_fd = tree->parent_fd = fd;
    return 0;
}

bool tree_has_directory(const struct tree *tree, const char *path) {
    _cleanup_fd_ int fd = open_beneath(tree->root_fd, path);
    return fd >= 0;
}

/* ---- other entries ---- */

int tree_file(int parent_fd, const char *name, int *ret_fd, struct failure *failure) {
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    int fd = openat(parent_fd, name, flags, 0600);
    if (fd < 0 && errno == EEXIST) {
        if (tree_vacate(parent_fd, name, failure) < 0)
            return -EBADMSG;
        fd = openat(parent_fd, name, flags, 0600);
    }
    if (fd < 0)
        return fail_errno(failure, errno, name, "creating a file");
    *ret_fd = fd;
    return 0;
}

int tree_symlink(int parent_fd, const char *name, const char *text, struct failure *failure) {
    if (text[0] == 0)
        return fail(failure, FAILURE_TAR_MALFORMED, name, "a symbolic link to nothing");
    if (symlinkat(text, parent_fd, name) == 0)
        return 0;
    if (errno != EEXIST)
        return fail_errno(failure, errno, name, "making a symbolic link");
    if (tree_vacate(parent_fd, name, failure) < 0)
        return -EBADMSG;
    return symlinkat(text, parent_fd, name) < 0 ? fail_errno(failure, errno, name, "making a symbolic link")
                                                : 0;
}

/* linkat without AT_SYMLINK_FOLLOW: a link's own inode gets the second name. */
static int link_replacing(int from_fd, const char *from, int parent_fd, const char *name,
                          struct failure *failure) {
    if (linkat(from_fd, from, parent_fd, name, 0) == 0)
        return 0;
    if (errno != EEXIST)
        return fail_errno(failure, errno, name, "making a hard link");
    if (tree_vacate(parent_fd, name, failure) < 0)
        return -EBADMSG;
    return linkat(from_fd, from, parent_fd, name, 0) < 0
               ? fail_errno(failure, errno, name, "making a hard link")
               : 0;
}

int tree_hardlink(struct tree *tree, int parent_fd, const char *name, const struct layer_path *target,
                  struct failure *failure) {
    struct stat status, there;
    if (target->kind != LAYER_PATH_ENTRY)
        return fail(failure, FAILURE_LINK_UNSAFE, name, "a hard link to something that is no file");
    _cleanup_fd_ int from_fd = open_beneath(tree->root_fd, target->parent);
    if (from_fd < 0 || fstatat(from_fd, target->name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return fail(failure, FAILURE_LINK_UNSAFE, name,
                    "a hard link to '%s/%s', which this layer does not hold", target->parent, target->name);
    if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))
        return fail(failure, FAILURE_LINK_UNSAFE, name, "a hard link to '%s/%s', which is no file",
                    target->parent, target->name);
    bool is_same =
        fstatat(parent_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_ino == status.st_ino;
    if (is_same) /* it has the name already, and replacing it could remove the only one */
        return 0;
    return link_replacing(from_fd, target->name, parent_fd, name, failure);
}

int tree_whiteout(int parent_fd, const char *name, struct failure *failure) {
    struct stat status;
    if (mknodat(parent_fd, name, S_IFCHR, makedev(0, 0)) == 0)
        return 0;
    if (errno != EEXIST || fstatat(parent_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno(failure, errno, name, "making a whiteout");
    if (!S_ISDIR(status.st_mode))
        return 0;
    _cleanup_fd_ int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? fail_errno(failure, errno, name, "opening a directory") : tree_set_opaque(fd, failure);
}

/* ---- measuring ---- */

static int measure(int directory_fd, struct tree_usage *usage, unsigned depth) {
    _cleanup_(closedirp) DIR *directory = fdopendir(directory_fd);
    if (!directory) {
        close(directory_fd);
        return -ENOMEM;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (fstatat(directory_fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            return -errno;
        usage->entries++;
        usage->bytes += (uint64_t) status.st_blocks * 512 / (S_ISDIR(status.st_mode) ? 1 : status.st_nlink);
        if (!S_ISDIR(status.st_mode))
            continue;
        int fd = openat(directory_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int r = fd < 0                    ? -errno
                : depth > LAYER_DEPTH_MAX ? (close(fd), -ELOOP)
                                          : measure(fd, usage, depth + 1);
        if (r < 0)
            return r;
    }
    return 0;
}

int tree_measure(int root_fd, struct tree_usage *ret, struct failure *failure) {
    struct tree_usage usage = { 0 };
    int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -errno : measure(fd, &usage, 0);
    if (r < 0)
        return fail_errno(failure, -r, "", "measuring the unpacked layer");
    *ret = usage;
    return 0;
}
