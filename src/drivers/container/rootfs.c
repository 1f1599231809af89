// SPDX-License-Identifier: GPL-2.0-or-later
/* A thread of its own unshares its mount namespace, mounts everything there, and leaves with a descriptor of the
 * namespace, which conmon's process enters by setns. The thread shares memory and descriptors with the daemon, so
 * this code is ordinary code; only its working directory and mounts are private.
 *
 * Layers hold the ids of the image. Each is cloned as a detached mount, idmapped to the container's range, made
 * read-only and attached for a moment at "l/N" (overlayfs takes lower directories only from the current namespace; short
 * relative names keep 128 of them within the one page of mount options). The writable directories are plain and owned by
 * the range: overlayfs turns read-only on an idmapped one. */
#include "drivers/container/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/mount.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "drivers/container/config.h"

#define CHILD_STACK (16 * 1024)
#define KILL_ATTEMPTS 3
#define THREAD_STACK (128 * 1024)
#define OPTIONS_MAX 4095 /* what mount(2) takes */
#define SCRATCH_OPTIONS "mode=711,size=1m,nr_inodes=2048"

/* --- the user namespace ---------------------------------------------------------------------------------------- */

/* Ends with whoever made it, also when that is killed in the middle. */
static int wait_main(void *userdata) {
    const pid_t *maker = userdata;

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != *maker)
        return 1;
    for (;;)
        pause();
    return 0;
}

static int write_map(pid_t pid, const char *file, int64_t base) {
    char path[40], value[48];

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    snprintf(value, sizeof(value), "0 %lld %d", (long long) base, CONTAINER_IDS);
    return file_write_value(AT_FDCWD, path, value);
}

/* The stack goes with it. One that cannot be ended ends with us: to wait for it would be for ever. */
static int holder_end(pid_t pid, char *stack) {
    int r = -1;

    for (int i = 0; r < 0 && i < KILL_ATTEMPTS; i++)
        r = kill(pid, SIGKILL);
    if (r < 0)
        return -errno;
    (void) waitpid(pid, NULL, __WALL);
    munmap(stack, CHILD_STACK);
    return 0;
}

/* A namespace is made with a process in it; here one that waits until its descriptor is taken. It shares our memory, so
 * that no page table is copied, and touches none of it but what it is told. */
static int user_namespace_open(int64_t base) {
    char *stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    char path[40];
    int fd, ended, r;
    pid_t pid, maker = getpid();

    if (stack == MAP_FAILED)
        return -errno;
    pid = clone(wait_main, stack + CHILD_STACK, CLONE_VM | CLONE_NEWUSER | SIGCHLD, &maker);
    r = pid < 0 ? -errno : write_map(pid, "uid_map", base);
    if (r >= 0)
        r = write_map(pid, "gid_map", base);
    snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
    fd = r < 0 ? r : open(path, O_RDONLY | O_CLOEXEC);
    r = fd < 0 && r >= 0 ? -errno : r;
    ended = pid < 0 ? munmap(stack, CHILD_STACK) : holder_end(pid, stack);
    r = r < 0 ? r : ended;
    if (r < 0)
        close_fd(fd);
    return r < 0 ? r : fd;
}

/* --- inside the private namespace ------------------------------------------------------------------------------ */

struct work {
    const struct rootfs_request *request;
    struct rootfs *rootfs;
    struct error *error;
    int *trees; /* detached copies of the mounts' sources */
    int result;
};

static int fail(struct work *w, int r, const char *what, const char *name) {
    return error_errno(w->error, r, "%s%s%s", what, name ? " " : "", name ? name : "");
}

/* A detached copy of a mount; idmapped unless user_namespace is negative. */
static int clone_mount(int at, const char *path, unsigned flags, unsigned attributes, int user_namespace) {
    struct mount_attr attr = { .attr_set = attributes };
    unsigned at_flags = flags & (AT_EMPTY_PATH | AT_RECURSIVE);
    int fd = (int) syscall(SYS_open_tree, at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT | flags);

    if (fd < 0)
        return -errno;
    if (user_namespace >= 0) {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = (unsigned) user_namespace;
    }
    if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | (at_flags & AT_RECURSIVE), &attr, sizeof(attr)) < 0) {
        int r = -errno;
        close_fd(fd);
        return r;
    }
    return fd;
}

int rootfs_open_program(const char *path) {
    return clone_mount(AT_FDCWD, path, 0, MOUNT_ATTR_RDONLY, -1);
}

static int attach_mount(int fd, const char *target) {
    return syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

/* Everything lands on a tmpfs that only this namespace has: nothing of it can stay behind. */
static int enter_scratch(struct work *w) {
    static const char *const directories[] = { "l", "m", "etc", "disk", "rootfs" };

    if (unshare(CLONE_FS | CLONE_NEWNS) < 0)
        return fail(w, -errno, "making a mount namespace", NULL);
    /* The host's unmounts still reach us, so we pin nothing; ours do not reach the host. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return fail(w, -errno, "making the mounts private", NULL);
    umask(0);
    if (chdir(w->request->run_path) < 0)
        return fail(w, -errno, "entering", w->request->run_path);
    if (mkdir("s", 0711) < 0 && errno != EEXIST)
        return fail(w, -errno, "creating a directory in", w->request->run_path);
    if (mount("polder", "s", "tmpfs", MS_NOSUID | MS_NODEV, SCRATCH_OPTIONS) < 0)
        return fail(w, -errno, "mounting a tmpfs in", w->request->run_path);
    if (chdir("s") < 0)
        return fail(w, -errno, "entering", w->request->run_path);
    for (size_t i = 0; i < ELEMENTS(directories); i++)
        if (mkdir(directories[i], 0711) < 0)
            return fail(w, -errno, "creating a directory in", w->request->run_path);
    return 0;
}

static int attach_layer(struct work *w, size_t index) {
    const char *layer = w->request->layers[index];
    _cleanup_close_ int fd = -EBADF;
    char target[24];
    int r;

    fd = clone_mount(AT_FDCWD, layer, AT_SYMLINK_NOFOLLOW, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV,
                     w->rootfs->user_namespace);
    if (fd == -EINVAL || fd == -EPERM)
        return error_set(w->error, ERROR_HOST_LACKS, "idmapped mounts",
                         "the file system of the images cannot be shown with other ids");
    if (fd < 0)
        return fail(w, fd, "opening the layer", layer);
    snprintf(target, sizeof(target), "l/%zu", index);
    r = mkdir(target, 0700) < 0 ? -errno : attach_mount(fd, target);
    return r < 0 ? fail(w, r, "attaching the layer", layer) : 0;
}

/* The root directory itself is the upper one: it gets owner and mode of the image's. */
static int adopt_root_mode(struct work *w, const char *top) {
    struct stat image, own;

    if (stat(top, &image) < 0 || stat("disk/upper", &own) < 0)
        return fail(w, -errno, "looking at the disk", w->request->disk.path);
    if (own.st_uid != 0 || (own.st_mode & 07777) != 0755)
        return 0; /* not new */
    if (chmod("disk/upper", image.st_mode & 07777) < 0 || chown("disk/upper", image.st_uid, image.st_gid) < 0)
        return fail(w, -errno, "giving away the disk", w->request->disk.path);
    return 0;
}

/* No path of the host is in the options: the container can read them. userxattr: the worker that unpacks layers has no
 * capability and so marks opaque directories in user.overlay.opaque; redirects and metacopy are off with it. */
static int mount_overlay(struct work *w, size_t count) {
    static const char fixed[] = ",upperdir=disk/upper,workdir=disk/work,userxattr,index=off";
    _cleanup_buffer_ struct buffer options = BUFFER_INIT;
    char top[24];
    int r = disk_mount(&w->request->disk, "disk");

    if (r == -ENXIO)
        return error_set(w->error, ERROR_EXHAUSTED, "loop device for its disk");
    if (r < 0)
        return fail(w, r, "mounting the disk", NULL);
    snprintf(top, sizeof(top), "l/%zu", count - 1);
    r = adopt_root_mode(w, top);
    if (r < 0)
        return r;
    for (size_t i = count; i > 0; i--)
        buffer_addf(&options, "%sl/%zu", i == count ? "lowerdir=" : ":", i - 1);
    buffer_add_text(&options, fixed);
    if (options.failed || options.size > OPTIONS_MAX)
        return fail(w, options.failed ? -ENOMEM : -E2BIG, "mounting the root file system", NULL);
    if (mount("overlay", "rootfs", "overlay", MS_NODEV, options.data) < 0)
        return fail(w, -errno, "mounting the root file system", NULL);
    return 0;
}

/* crun mounts on these and is made to follow no link there. */
static int check_root(struct work *w) {
    static const char *const names[] = { "dev", "proc", "sys", "etc", "run", "tmp", "var" };

    for (size_t i = 0; i < ELEMENTS(names); i++) {
        struct stat status;
        bool link_allowed = i >= 4;
        if (fstatat(w->rootfs->root, names[i], &status, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(status.st_mode))
            continue;
        if (link_allowed && S_ISLNK(status.st_mode))
            continue;
        _cleanup_free_ char *reason = text_format("/%s is not a directory", names[i]);
        return error_set(w->error, ERROR_BAD_IMAGE, reason);
    }
    return 0;
}

static int make_root(struct work *w) {
    size_t count = list_count(w->request->layers);
    char target[24];
    int r = count == 0 ? error_set(w->error, ERROR_BAD_IMAGE, "it has no layers") : 0;

    for (size_t i = 0; r >= 0 && i < count; i++)
        r = attach_layer(w, i);
    if (r >= 0)
        r = mount_overlay(w, count);
    if (r < 0)
        return r;
    /* overlayfs holds clones of its own: the namespace stays small, and so does the copy that the container gets. */
    for (size_t i = 0; i < count; i++) {
        snprintf(target, sizeof(target), "l/%zu", i);
        (void) umount2(target, MNT_DETACH);
    }
    (void) umount2("disk", MNT_DETACH);
    w->rootfs->root = open("rootfs", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return w->rootfs->root < 0 ? fail(w, -errno, "opening the root file system", NULL) : check_root(w);
}

static int make_file(struct work *w, const char *path, const char *text) {
    _cleanup_close_ int fd = -EBADF;
    uid_t owner = (uid_t) w->request->uid_base;
    int r;

    if (!text)
        return 0;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return fail(w, -errno, "creating", path);
    r = file_write_all(fd, text, strlen(text));
    if (r >= 0 && fchown(fd, owner, owner) < 0)
        r = -errno;
    return r < 0 ? fail(w, r, "writing", path) : 0;
}

static int attach_bind(struct work *w, size_t index) {
    const struct rootfs_mount *mount = &w->request->mounts[index];
    _cleanup_close_ int file = -EBADF;
    char target[24];
    int r;

    if (w->trees[index] < 0)
        return 0;
    snprintf(target, sizeof(target), "m/%zu", index);
    if (mount->directory)
        r = mkdir(target, 0700) < 0 ? -errno : 0;
    else
        r = (file = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0 ? -errno : 0;
    if (r >= 0)
        r = attach_mount(w->trees[index], target);
    return r < 0 ? fail(w, r, "attaching the mount", mount->name) : 0;
}

static int make_read_only(struct work *w, const char *path) {
    _cleanup_close_ int fd = rootfs_open_program(path);
    int r = fd < 0 ? fd : attach_mount(fd, path);

    return r < 0 ? fail(w, r, "protecting", path) : 0;
}

/* crun gives its standard streams to the container's root, even when they are the host's /dev/null, and the container
 * sees that very device: its root could then take it from everybody. Neither works through a read-only mount. For the
 * program see rootfs_open_program. */
static int protect_host(struct work *w) {
    int r = make_read_only(w, "/dev/null");

    return r < 0 || !w->request->program ? r : make_read_only(w, w->request->program);
}

static int build(struct work *w) {
    int r = enter_scratch(w);

    if (r >= 0)
        r = protect_host(w);
    if (r >= 0)
        r = make_root(w);
    if (r >= 0)
        r = make_file(w, "etc/hosts", w->request->hosts);
    if (r >= 0)
        r = make_file(w, "etc/hostname", w->request->hostname);
    if (r >= 0)
        r = make_file(w, "etc/resolv.conf", w->request->resolver);
    for (size_t i = 0; r >= 0 && i < w->request->mount_count; i++)
        r = attach_bind(w, i);
    if (r < 0)
        return r;
    w->rootfs->mount_namespace = open("/proc/thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
    return w->rootfs->mount_namespace < 0 ? fail(w, -errno, "opening the mount namespace", NULL) : 0;
}

static void *thread_main(void *userdata) {
    struct work *w = userdata;

    w->result = build(w);
    return NULL;
}

static int run_thread(struct work *w) {
    pthread_attr_t attributes;
    pthread_t thread;
    int r;

    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK);
    r = -pthread_create(&thread, &attributes, thread_main, w);
    pthread_attr_destroy(&attributes);
    if (r < 0)
        return fail(w, r, "starting a thread", NULL);
    pthread_join(thread, NULL);
    return w->result;
}

/* Still in the daemon's namespace, to which the descriptors of the sources belong. */
static int clone_sources(struct work *w) {
    for (size_t i = 0; i < w->request->mount_count; i++) {
        const struct rootfs_mount *mount = &w->request->mounts[i];
        unsigned attributes = MOUNT_ATTR_NODEV | (mount->read_only ? MOUNT_ATTR_RDONLY : 0);
        if (mount->fd < 0)
            continue;
        w->trees[i] =
            clone_mount(mount->fd, "", AT_EMPTY_PATH | AT_RECURSIVE, attributes, w->rootfs->user_namespace);
        if (w->trees[i] == -EINVAL || w->trees[i] == -EPERM)
            return error_set(w->error, ERROR_NOT_SUPPORTED, "the file system", "showing its files with other ids",
                             mount->name);
        if (w->trees[i] < 0)
            return fail(w, w->trees[i], "opening the mount", mount->name);
    }
    return 0;
}

static int job_main(void *userdata) {
    struct work *w = userdata;
    int r;

    w->rootfs->user_namespace = user_namespace_open(w->request->uid_base);
    if (w->rootfs->user_namespace < 0)
        return fail(w, w->rootfs->user_namespace, "making a user namespace", NULL);
    w->trees = calloc(w->request->mount_count + 1, sizeof(*w->trees));
    if (!w->trees)
        return fail(w, -ENOMEM, "making the root file system", NULL);
    for (size_t i = 0; i < w->request->mount_count; i++)
        w->trees[i] = -EBADF;
    r = clone_sources(w);
    if (r >= 0)
        r = run_thread(w);
    for (size_t i = 0; i < w->request->mount_count; i++)
        close_fd(w->trees[i]);
    free(w->trees);
    return r;
}

int rootfs_make(const struct rootfs_request *request, struct rootfs *ret, struct error *error) {
    _cleanup_rootfs_ struct rootfs rootfs = ROOTFS_INIT;
    struct work work = { .request = request, .rootfs = &rootfs, .error = error };
    int r = fiber_job(job_main, &work);

    if (r < 0)
        return r;
    *ret = rootfs;
    rootfs = (struct rootfs) ROOTFS_INIT;
    return 0;
}

void rootfs_done(struct rootfs *rootfs) {
    rootfs->mount_namespace = close_fd(rootfs->mount_namespace);
    rootfs->user_namespace = close_fd(rootfs->user_namespace);
    rootfs->root = close_fd(rootfs->root);
}
