// SPDX-License-Identifier: GPL-2.0-or-later
#include "guest/boot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "guest/protocol.h"

#define DEVICE_WAIT_MS 30000
#define DISK_ROOT "/dev/vda"
#define DISK_CHANGES "/dev/vdb"

/* A kernel file system of the running instance. `needed`: without it the boot fails. */
struct system_mount {
    const char *type, *target, *options;
    unsigned long flags;
    bool needed;
};

static const struct system_mount system_mounts[] = {
    { "proc", "/proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true },
    { "sysfs", "/sys", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, true },
    { "devtmpfs", "/dev", "mode=0755", MS_NOSUID, true },
    { "devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620,gid=5", MS_NOSUID | MS_NOEXEC, true },
    { "tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV, false },
    { "mqueue", "/dev/mqueue", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC, false },
    { "cgroup2", "/sys/fs/cgroup", "nsdelegate", MS_NOSUID | MS_NODEV | MS_NOEXEC, false },
};

static void pause_shortly(void) {
    const struct timespec pause = { .tv_nsec = 2000000 };

    nanosleep(&pause, NULL);
}

/* Each module is removed from memory's file system as soon as the kernel has it. */
static void module_load(const char *path) {
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        guest_log("module %s: %m", path);
    else if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
        guest_log("module %s: %m", path);
    (void) unlink(path);
}

static void modules_load(void) {
    FILE *list = fopen("/modules.list", "re");
    char line[512];

    if (!list)
        return;
    while (fgets(line, sizeof(line), list)) {
        line[strcspn(line, "\n")] = '\0';
        if (*line)
            module_load(line);
    }
    fclose(list);
    (void) unlink("/modules.list");
}

static int device_wait(const char *path, struct reason *reason) {
    uint64_t deadline = monotonic_ms() + DEVICE_WAIT_MS;
    struct stat status;

    while (stat(path, &status) < 0 || !S_ISBLK(status.st_mode)) {
        if (monotonic_ms() > deadline)
            return reason_set(reason, -ETIMEDOUT, "%s did not appear", path);
        pause_shortly();
    }
    return 0;
}

static int directory_make(const char *path) {
    return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* Lets the file system grow into a disk that was enlarged since. */
static void changes_grow(const char *path) {
    _cleanup_close_ int disk = open(DISK_CHANGES, O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct statfs status;
    uint64_t bytes, blocks;
    /* EXT4_IOC_RESIZE_FS, which no exported header has. */
    const unsigned long resize = _IOW('f', 16, uint64_t);

    if (disk < 0 || fd < 0 || ioctl(disk, BLKGETSIZE64, &bytes) < 0 || fstatfs(fd, &status) < 0)
        return;
    blocks = bytes / (uint64_t) status.f_bsize;
    if (ioctl(fd, resize, &blocks) < 0)
        guest_log("cannot grow the file system of " DISK_CHANGES ": %m");
}

/* Mounts what takes the changes at /changes and returns whether that is a disk. */
static int changes_mount(bool *ret_is_disk, struct reason *reason) {
    struct stat status;
    bool is_disk = stat(DISK_CHANGES, &status) == 0;

    if (directory_make("/changes") < 0)
        return reason_set(reason, -errno, "cannot make /changes");
    if (is_disk ? mount(DISK_CHANGES, "/changes", "ext4", MS_NOATIME, NULL) < 0
                : mount("tmpfs", "/changes", "tmpfs", 0, "mode=0755") < 0)
        return reason_set(reason, -errno, "cannot mount %s", is_disk ? DISK_CHANGES : "a tmpfs for changes");
    if (is_disk)
        changes_grow("/changes");
    *ret_is_disk = is_disk;
    return 0;
}

/* The overlay's top directory shows the owner and mode of the upper one, so that gets the image's when it is
 * new. */
static int upper_make(struct reason *reason) {
    struct stat lower;

    if (stat("/image", &lower) < 0)
        return reason_set(reason, -errno, "cannot read the image");
    if (directory_make("/changes/work") < 0)
        return reason_set(reason, -errno, "cannot prepare the disk");
    if (mkdir("/changes/upper", 0755) < 0)
        return errno == EEXIST ? 0 : reason_set(reason, -errno, "cannot prepare the disk");
    if (chown("/changes/upper", lower.st_uid, lower.st_gid) < 0 ||
        chmod("/changes/upper", lower.st_mode & 07777) < 0)
        return reason_set(reason, -errno, "cannot prepare the disk");
    return 0;
}

static int overlay_mount(int *ret_disk_fd, struct reason *reason) {
    bool is_disk = false;
    int r = device_wait(DISK_ROOT, reason);

    if (r < 0)
        return r;
    if (directory_make("/image") < 0 || directory_make("/root") < 0)
        return reason_set(reason, -errno, "cannot make the mount points");
    if (mount(DISK_ROOT, "/image", "erofs", MS_RDONLY, NULL) < 0)
        return reason_set(reason, -errno, "cannot mount the image on " DISK_ROOT);
    r = changes_mount(&is_disk, reason);
    if (r == 0)
        r = upper_make(reason);
    if (r < 0)
        return r;
    if (mount("overlay", "/root", "overlay", 0,
              "lowerdir=/image,upperdir=/changes/upper,workdir=/changes/work") < 0)
        return reason_set(reason, -errno, "cannot mount the overlay");
    if (is_disk)
        *ret_disk_fd = open("/changes", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return 0;
}

static int root_switch(struct reason *reason) {
    (void) umount2("/dev", MNT_DETACH);
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return reason_set(reason, -errno, "cannot switch to the instance's root");
    return 0;
}

static int system_mounts_make(struct reason *reason) {
    for (size_t i = 0; i < ELEMENTS(system_mounts); i++) {
        const struct system_mount *row = &system_mounts[i];
        (void) directory_make(row->target);
        if (mount(row->type, row->target, row->type, row->flags, row->options) == 0)
            continue;
        if (row->needed)
            return reason_set(reason, -errno, "cannot mount %s", row->target);
        guest_log("cannot mount %s: %m", row->target);
    }
    return 0;
}

/* What programs expect besides the kernel's own device nodes. */
static void devices_finish(void) {
    static const char *const links[][2] = {
        { "/proc/self/fd", "/dev/fd" },       { "/proc/self/fd/0", "/dev/stdin" },
        { "/proc/self/fd/1", "/dev/stdout" }, { "/proc/self/fd/2", "/dev/stderr" },
        { "pts/ptmx", "/dev/ptmx" },
    };

    (void) unlink("/dev/ptmx");
    for (size_t i = 0; i < ELEMENTS(links); i++) {
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            guest_log("cannot make %s: %m", links[i][1]);
    }
    (void) mkdir("/run", 0755);
    if (mkdir("/tmp", 01777) == 0)
        (void) chmod("/tmp", 01777);
}

int boot_root(int *ret_disk_fd, struct reason *reason) {
    int r;

    (void) directory_make("/dev");
    if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") < 0 && errno != EBUSY)
        return reason_set(reason, -errno, "cannot mount /dev");
    modules_load();
    r = overlay_mount(ret_disk_fd, reason);
    if (r == 0)
        r = root_switch(reason);
    if (r == 0)
        r = system_mounts_make(reason);
    if (r == 0)
        devices_finish();
    return r;
}

static bool port_has_name(const char *port) {
    char path[320], name[sizeof(GUEST_PORT_NAME) + 1] = { 0 };
    _cleanup_close_ int fd = -EBADF;
    ssize_t size;

    snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", port);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    size = fd < 0 ? -1 : read_full(fd, name, sizeof(name) - 1);
    if (size <= 0)
        return false;
    name[strcspn(name, "\n")] = '\0';
    return strcmp(name, GUEST_PORT_NAME) == 0;
}

static int port_find(char *ret_path, size_t size) {
    DIR *directory = opendir("/sys/class/virtio-ports");
    struct dirent *entry;
    int r = -ENOENT;

    if (!directory)
        return -errno;
    while (r < 0 && (entry = readdir(directory))) {
        if (entry->d_name[0] == '.' || !port_has_name(entry->d_name))
            continue;
        snprintf(ret_path, size, "/dev/%.64s", entry->d_name);
        r = 0;
    }
    closedir(directory);
    return r;
}

int boot_open_port(struct reason *reason) {
    uint64_t deadline = monotonic_ms() + DEVICE_WAIT_MS;
    char path[80];
    int fd;

    for (;;) {
        if (port_find(path, sizeof(path)) == 0) {
            fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
            if (fd >= 0)
                return fd;
            if (errno != ENOENT)
                return reason_set(reason, -errno, "cannot open %s", path);
        }
        if (monotonic_ms() > deadline)
            return reason_set(reason, -ETIMEDOUT, "the port " GUEST_PORT_NAME " did not appear");
        pause_shortly();
    }
}
