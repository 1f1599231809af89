// SPDX-License-Identifier: GPL-2.0-or-later
/* In order of preference: a project quota (xfs and ext4 where the administrator switched them on), a btrfs subvolume
 * with a qgroup limit (where quotas are on), an ext4 image on a loop device. The first two cost nothing at a start.
 *
 * A project is given to "upper" and "work" when they are made, limit or not: what is written later inherits it, so that
 * a limit set another day counts everything. */
#include "drivers/container/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/quota.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "storage/storage.h"

#define IMAGE_NAME "disk.ext4"
#define VOLUME_NAME "disk"
#define LOOP_TRIES 64
#define RESIZE_TIME (120 * CLOCK_SECOND)
#define QUOTA_BLOCK 1024

static int quota_command(int fd, int command, uint32_t project, void *data) {
    return syscall(SYS_quotactl_fd, fd, (unsigned) command << SUBCMDSHIFT | PRJQUOTA, project, data) < 0 ? -errno : 0;
}

/* Are limits of projects enforced here? Q_GETINFO would not tell: it answers where usage is only counted, too, as on an
 * ext4 with the feature "project" that is mounted without prjquota. */
static bool has_project_quota(int fd) {
    struct fs_quota_statv state = { .qs_version = FS_QSTATV_VERSION1 };

    return quota_command(fd, Q_XGETQSTATV, 0, &state) == 0 && (state.qs_flags & FS_QUOTA_PDQ_ENFD);
}

static int open_directory(int directory, const char *name) {
    int fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

/* 1, 0 or -errno. */
static int has_project(int directory, const char *name, uint32_t project) {
    _cleanup_close_ int fd = open_directory(directory, name);
    struct fsxattr attributes;

    if (fd < 0)
        return fd;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) < 0)
        return -errno;
    return attributes.fsx_projid == project && (attributes.fsx_xflags & FS_XFLAG_PROJINHERIT);
}

/* New files inherit the project of their directory. */
static int set_project(int directory, const char *name, uint32_t project) {
    _cleanup_close_ int fd = open_directory(directory, name);
    struct fsxattr attributes;

    if (fd < 0)
        return fd;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) < 0)
        return -errno;
    attributes.fsx_projid = project;
    attributes.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    return ioctl(fd, FS_IOC_FSSETXATTR, &attributes) < 0 ? -errno : 0;
}

static int make_directories(int directory) {
    if (mkdirat(directory, "upper", 0755) < 0 && errno != EEXIST)
        return -errno;
    return mkdirat(directory, "work", 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* "upper" comes last and under its name only with its project: if it is there without, it was made when there were no
 * quotas, and holds files that do not count. */
static int make_project_directories(int directory, uint32_t project) {
    static const char fresh[] = "upper.new";
    int r;

    if (mkdirat(directory, "work", 0700) < 0 && errno != EEXIST)
        return -errno;
    if (mkdirat(directory, fresh, 0755) < 0 && errno != EEXIST)
        return -errno;
    r = set_project(directory, "work", project);
    if (r >= 0)
        r = set_project(directory, fresh, project);
    return r < 0 ? r : renameat(directory, fresh, directory, "upper") < 0 ? -errno : 0;
}

static int set_project_limit(int directory, uint64_t limit, uint32_t project) {
    struct if_dqblk quota = {
        .dqb_bhardlimit = limit / QUOTA_BLOCK,
        .dqb_bsoftlimit = 0,
        .dqb_valid = QIF_BLIMITS,
    };

    return quota_command(directory, Q_SETQUOTA, project, &quota);
}

/* A plain directory with data in it cannot be bounded afterwards. */
static int refuse_used(struct error *error) {
    return error_set(error, ERROR_NOT_SUPPORTED, "a container", "a disk size after it ran without one",
                     "it ran when the file system of the state directory had no quotas");
}

static int apply_project_quota(const char *state_path, int directory, uint64_t limit, uint32_t project, struct error *error) {
    int r;

    if (!file_exists(directory, "upper")) {
        r = make_project_directories(directory, project);
    } else {
        r = has_project(directory, "upper", project);
        if (r == 0)
            return refuse_used(error);
    }
    if (r >= 0)
        r = set_project_limit(directory, limit, project);
    return r < 0 ? error_errno(error, r, "setting the project quota of %s", state_path) : 0;
}

/* -ENOTCONN and its like: quotas are not enabled on this btrfs. */
static int apply_subvolume(int directory, uint64_t limit) {
    struct btrfs_ioctl_vol_args create = { .name = VOLUME_NAME };
    struct btrfs_ioctl_qgroup_limit_args bound = { .lim = { .flags = BTRFS_QGROUP_LIMIT_MAX_RFER } };
    _cleanup_close_ int volume = -EBADF;
    bool made = ioctl(directory, BTRFS_IOC_SUBVOL_CREATE, &create) == 0;

    if (!made && errno != EEXIST)
        return -errno;
    volume = openat(directory, VOLUME_NAME, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (volume < 0)
        return -errno;
    bound.lim.max_rfer = limit ? limit : UINT64_MAX;
    if (ioctl(volume, BTRFS_IOC_QGROUP_LIMIT, &bound) < 0) {
        int r = -errno;
        if (made)
            (void) unlinkat(directory, VOLUME_NAME, AT_REMOVEDIR);
        return r;
    }
    return make_directories(volume);
}

static int grow_image(const char *path, uint64_t limit, struct error *error) {
    const char *arguments[] = { "resize2fs", "-f", path, NULL };
    const struct process_spec spec = { .program = "/sbin/resize2fs", .arguments = (char *const *) arguments };
    const struct process_run run = { .deadline = deadline_in(RESIZE_TIME) };

    if (truncate(path, (off_t) limit) < 0)
        return error_errno(error, -errno, "growing %s", path);
    return process_run(&spec, &run, error);
}

static int prepare_image(struct storage *storage, const char *path, uint64_t limit, struct error *error) {
    uint64_t size;
    int r = file_size(AT_FDCWD, path, &size);

    if (r == -ENOENT)
        return storage_make_ext4(storage, limit, path, error);
    if (r < 0)
        return error_errno(error, r, "looking at %s", path);
    if (limit > size)
        return grow_image(path, limit, error);
    if (limit < size)
        return error_set(error, ERROR_NOT_SUPPORTED, "a container", "a smaller disk",
                         "its disk image can only grow; make a new instance");
    return 0;
}

static int prepare_new_image(struct storage *storage, const char *state_path, int directory, uint64_t limit,
                             struct disk *ret, struct error *error) {
    if (file_exists(directory, "upper"))
        return refuse_used(error);
    ret->path = text_format("%s/" IMAGE_NAME, state_path);
    ret->type = DISK_IMAGE;
    return ret->path ? prepare_image(storage, ret->path, limit, error) : error_errno(error, -ENOMEM, "making a disk");
}

static int prepare_limited(struct storage *storage, const char *state_path, int directory, uint64_t limit,
                           uint32_t project, struct disk *ret, struct error *error) {
    struct statfs status;
    int r = fstatfs(directory, &status) < 0 ? -errno : 0;

    if (r < 0)
        return error_errno(error, r, "looking at %s", state_path);
    if ((status.f_type == EXT4_SUPER_MAGIC || status.f_type == XFS_SUPER_MAGIC) && has_project_quota(directory)) {
        r = apply_project_quota(state_path, directory, limit, project, error);
        if (r < 0)
            return r;
        ret->path = strdup(state_path);
    } else if (status.f_type == BTRFS_SUPER_MAGIC && !file_exists(directory, "upper") &&
               apply_subvolume(directory, limit) == 0) {
        ret->path = text_format("%s/" VOLUME_NAME, state_path);
    } else {
        return prepare_new_image(storage, state_path, directory, limit, ret, error);
    }
    return ret->path ? 0 : error_errno(error, -ENOMEM, "making a disk");
}

static bool is_on(int directory, long file_system) {
    struct statfs status;

    return fstatfs(directory, &status) == 0 && status.f_type == file_system;
}

/* A new one without a limit, where one can be set later if quotas are on. */
static int prepare_plain(int directory, uint32_t project, bool *ret_volume) {
    int r;

    *ret_volume = false;
    if (file_exists(directory, "upper") || !(is_on(directory, BTRFS_SUPER_MAGIC) || has_project_quota(directory))) {
        r = make_directories(directory);
    } else if (is_on(directory, BTRFS_SUPER_MAGIC)) {
        *ret_volume = apply_subvolume(directory, 0) == 0;
        r = *ret_volume ? 0 : make_directories(directory);
    } else {
        r = make_project_directories(directory, project);
    }
    /* The ids may have been another instance's before, whose limit is still there. */
    if (!*ret_volume)
        (void) set_project_limit(directory, 0, project);
    return r;
}

/* What bounded it before keeps doing so, but for a limit that was taken away where that is possible. */
static int prepare_unlimited(const char *state_path, int directory, uint32_t project, struct disk *ret,
                             struct error *error) {
    bool volume = false;
    int r = 0;

    if (file_exists(directory, IMAGE_NAME)) {
        ret->type = DISK_IMAGE;
        ret->path = text_format("%s/" IMAGE_NAME, state_path);
    } else if (file_exists(directory, VOLUME_NAME)) {
        (void) apply_subvolume(directory, 0);
        ret->path = text_format("%s/" VOLUME_NAME, state_path);
    } else {
        r = prepare_plain(directory, project, &volume);
        ret->path = volume ? text_format("%s/" VOLUME_NAME, state_path) : strdup(state_path);
    }
    r = ret->path ? r : -ENOMEM;
    return r < 0 ? error_errno(error, r, "making the writable directories in %s", state_path) : 0;
}

bool disk_is_there(const char *state_path) {
    static const char *const names[] = { "upper", VOLUME_NAME "/upper", IMAGE_NAME };
    _cleanup_close_ int directory = open(state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    for (size_t i = 0; directory >= 0 && i < ELEMENTS(names); i++)
        if (file_exists(directory, names[i]))
            return true;
    return false;
}

int disk_prepare(struct storage *storage, const char *state_path, uint64_t limit, uint32_t project, struct disk *ret,
                 struct error *error) {
    _cleanup_close_ int directory = open(state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r;

    *ret = (struct disk){ .type = DISK_PLAIN };
    if (directory < 0)
        return error_errno(error, -errno, "opening %s", state_path);
    if (limit == 0) {
        r = prepare_unlimited(state_path, directory, project, ret, error);
    } else if (file_exists(directory, IMAGE_NAME)) {
        ret->type = DISK_IMAGE;
        ret->path = text_format("%s/" IMAGE_NAME, state_path);
        r = ret->path ? prepare_image(storage, ret->path, limit, error) : error_errno(error, -ENOMEM, "making a disk");
    } else {
        r = prepare_limited(storage, state_path, directory, limit, project, ret, error);
    }
    if (r < 0)
        disk_done(ret);
    return r;
}

void disk_done(struct disk *disk) {
    free(STEAL_PTR(disk->path));
}

/* Another process may take the free loop device first: then the next one. */
static int loop_open(int image, int *ret_number) {
    _cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    struct loop_config config = { .fd = (unsigned) image, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };

    if (control < 0)
        return -errno;
    for (int i = 0; i < LOOP_TRIES; i++) {
        char path[32];
        int number = ioctl(control, LOOP_CTL_GET_FREE), fd;
        if (number < 0)
            return -errno;
        snprintf(path, sizeof(path), "/dev/loop%d", number);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            *ret_number = number;
            return fd;
        }
        close_fd(fd);
        if (errno != EBUSY)
            return -errno;
    }
    return -EBUSY;
}

static int mount_image(const char *image_path, const char *target) {
    _cleanup_close_ int image = open(image_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW), device = -EBADF, directory = -EBADF;
    char path[32];
    int number = -1;

    if (image < 0)
        return -errno;
    device = loop_open(image, &number);
    if (device < 0)
        return -ENXIO;
    snprintf(path, sizeof(path), "/dev/loop%d", number);
    if (mount(path, target, "ext4", MS_NODEV | MS_NOATIME, "errors=remount-ro") < 0)
        return -errno;
    directory = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return directory < 0 ? -errno : make_directories(directory);
}

int disk_mount(const struct disk *disk, const char *target) {
    if (disk->type == DISK_IMAGE)
        return mount_image(disk->path, target);
    return mount(disk->path, target, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}
