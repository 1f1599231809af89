// SPDX-License-Identifier: GPL-2.0-or-later
/* jail_new makes a detached mount of everything that will be seen inside and computes every string;
 * jail_enter runs in the child, which shares its memory with the daemon (CLONE_VM) and therefore uses raw
 * system calls only: the C library's setresuid, for one, would try to change the other threads of the
 * daemon too.
 *
 * The new root is a tmpfs mounted over /proc: that directory exists on every host, is of no further use to
 * the child and lies in a mount namespace that nobody else sees. */
#include "host/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/text.h"

#ifndef MS_RDONLY
#define MS_RDONLY 1
#define MS_NOSUID 2
#define MS_NODEV 4
#define MS_NOEXEC 8
#define MS_REMOUNT 32
#define MS_BIND 4096
#define MS_REC 16384
#define MS_PRIVATE (1 << 18)
#endif
#define UNMOUNT_DETACH 2
/* Above every number that a child's listed descriptors are placed at, so that none of ours is overwritten. */
#define LIFTED_FD 512
#define OPEN_FILES_DEFAULT 1024

#if defined(__x86_64__)
#define LIBRARY_DIRECTORY "/usr/lib/x86_64-linux-gnu"
#elif defined(__aarch64__)
#define LIBRARY_DIRECTORY "/usr/lib/aarch64-linux-gnu"
#else
#define LIBRARY_DIRECTORY "/usr/lib"
#endif

struct jail_mount {
    int fd;       /* a mount that hangs nowhere yet */
    char *target; /* without the leading slash */
    bool directory;
};

struct jail_link {
    const char *name, *target;
};

/* The loader is named /lib64/ld-linux… in every program; on a merged /usr these are links. */
static const struct jail_link system_links[] = {
    { "lib", "usr/lib" },
    { "lib64", "usr/lib64" },
};

static const struct jail_view system_views[] = {
    { .path = LIBRARY_DIRECTORY },
    { .path = "/usr/lib64", .optional = true },
};

static const struct jail_view device_views[] = {
    { .path = "/dev/null", .writable = true },
    { .path = "/dev/zero", .writable = true },
    { .path = "/dev/urandom", .writable = true },
};

struct jail {
    struct jail_mount *mounts;
    size_t count;
    bool system_libraries;
    uid_t uid;
    gid_t gid;
    struct rlimit files, space;
    unsigned capabilities;
};

void jail_free(struct jail *jail) {
    if (!jail)
        return;
    for (size_t i = 0; i < jail->count; i++) {
        close_fd(jail->mounts[i].fd);
        free(jail->mounts[i].target);
    }
    free(jail->mounts);
    free(jail);
}

static int view_open(const struct jail_view *view) {
    const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    int fd = (int) (view->source_fd > 0 ? syscall(SYS_open_tree, view->source_fd, "", flags | AT_EMPTY_PATH)
                                        : syscall(SYS_open_tree, AT_FDCWD,
                                                  view->source ? view->source : view->path, flags));
    int lifted, r;

    if (fd < 0)
        return -errno;
    lifted = fcntl(fd, F_DUPFD_CLOEXEC, LIFTED_FD);
    r = lifted < 0 ? -errno : lifted;
    close_fd(fd);
    return r;
}

static int jail_add(struct jail *jail, const struct jail_view *view) {
    struct jail_mount *mount = &jail->mounts[jail->count];
    struct mount_attr attributes = { .attr_set =
                                             MOUNT_ATTR_NOSUID | (view->writable ? 0 : MOUNT_ATTR_RDONLY) };
    struct stat status;
    _cleanup_close_ int fd = view_open(view);

    if (fd < 0)
        return fd == -ENOENT && view->optional ? 0 : fd;
    if (fstat(fd, &status) < 0)
        return -errno;
    attributes.attr_set |= S_ISCHR(status.st_mode) ? MOUNT_ATTR_NOEXEC : MOUNT_ATTR_NODEV;
    if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
        return -errno;
    mount->target = strdup(view->path + 1);
    if (!mount->target)
        return -ENOMEM;
    mount->directory = S_ISDIR(status.st_mode);
    mount->fd = STEAL_FD(fd);
    jail->count++;
    return 0;
}

static int jail_add_all(struct jail *jail, const struct jail_view *views, size_t count,
                        const char **ret_missing) {
    for (size_t i = 0; i < count; i++) {
        int r = jail_add(jail, &views[i]);
        if (r >= 0)
            continue;
        if (ret_missing)
            *ret_missing = views[i].path;
        return r;
    }
    return 0;
}

/* Not above what the daemon itself may have: raising that takes a capability that it may not hold. */
static struct rlimit files_limit(uint64_t wanted) {
    struct rlimit own;

    if (getrlimit(RLIMIT_NOFILE, &own) >= 0 && own.rlim_max < wanted)
        wanted = own.rlim_max;
    return (struct rlimit){ wanted, wanted };
}

int jail_new(const struct jail_options *options, struct jail **ret, const char **ret_missing) {
    _cleanup_jail_ struct jail *jail = calloc(1, sizeof(*jail));
    int r;

    if (!jail)
        return -ENOMEM;
    jail->mounts = calloc(options->view_count + ELEMENTS(system_views) + ELEMENTS(device_views),
                          sizeof(*jail->mounts));
    if (!jail->mounts)
        return -ENOMEM;
    jail->system_libraries = options->system_libraries;
    jail->uid = options->uid;
    jail->gid = options->gid;
    jail->files = files_limit(options->open_files ? options->open_files : OPEN_FILES_DEFAULT);
    jail->space = options->address_space ? (struct rlimit){ options->address_space, options->address_space }
                                         : (struct rlimit){ RLIM_INFINITY, RLIM_INFINITY };
    jail->capabilities = options->capabilities;
    r = jail_add_all(jail, device_views, ELEMENTS(device_views), ret_missing);
    if (r >= 0 && options->system_libraries)
        r = jail_add_all(jail, system_views, ELEMENTS(system_views), ret_missing);
    if (r >= 0)
        r = jail_add_all(jail, options->views, options->view_count, ret_missing);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(jail);
    return 0;
}

unsigned jail_namespaces(const struct jail *jail _unused_) {
    return CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
}

/* --- in the child: raw system calls only ---------------------------------------------------------------- */

static int call_mount(const char *source, const char *target, const char *type, unsigned long flags,
                      const char *data) {
    return syscall(SYS_mount, source, target, type, flags, data) < 0 ? -errno : 0;
}

/* Makes the parents of a relative path, then an empty file or directory to mount over. */
static int target_make(const struct jail_mount *mount) {
    char path[512];
    size_t size = strlen(mount->target);

    if (size >= sizeof(path))
        return -ENAMETOOLONG;
    memcpy(path, mount->target, size + 1);
    for (size_t i = 1; i < size; i++) {
        if (path[i] != '/')
            continue;
        path[i] = '\0';
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
            return -errno;
        path[i] = '/';
    }
    if (mount->directory)
        return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int mount_show(const struct jail_mount *mount) {
    int r = target_make(mount);

    if (r < 0)
        return r;
    return syscall(SYS_move_mount, mount->fd, "", AT_FDCWD, mount->target, MOVE_MOUNT_F_EMPTY_PATH) < 0
                   ? -errno
                   : 0;
}

static int links_make(const struct jail *jail) {
    for (size_t i = 0; jail->system_libraries && i < ELEMENTS(system_links); i++)
        if (symlink(system_links[i].target, system_links[i].name) < 0)
            return -errno;
    return 0;
}

static int root_build(const struct jail *jail) {
    int r = call_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);

    if (r >= 0)
        r = call_mount("tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV, "size=256k,nr_inodes=256,mode=0755");
    if (r < 0)
        return r;
    if (chdir("/proc") < 0)
        return -errno;
    for (size_t i = 0; i < jail->count; i++) {
        r = mount_show(&jail->mounts[i]);
        if (r < 0)
            return r;
    }
    if (mkdir("proc", 0555) < 0)
        return -errno;
    r = links_make(jail);
    if (r < 0)
        return r;
    return call_mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2");
}

static int root_change(void) {
    if (syscall(SYS_pivot_root, ".", ".") < 0)
        return -errno;
    /* The old root is stacked on the new one now; "." names it. */
    if (syscall(SYS_umount2, ".", UNMOUNT_DETACH) < 0 || chdir("/") < 0)
        return -errno;
    return call_mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
                      NULL);
}

static int limits_set(const struct jail *jail) {
    const struct rlimit none = { 0, 0 };

    if (syscall(SYS_prlimit64, 0, RLIMIT_CORE, &none, NULL) < 0 ||
        syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &jail->files, NULL) < 0 ||
        syscall(SYS_prlimit64, 0, RLIMIT_AS, &jail->space, NULL) < 0)
        return -errno;
    return 0;
}

static int bounding_drop(unsigned kept) {
    for (unsigned capability = 0; capability < 64; capability++) {
        if (capability < 32 && (kept & (1u << capability)))
            continue;
        /* EINVAL: beyond the last one that this kernel has. */
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return errno == EINVAL && capability > 0 ? 0 : -errno;
    }
    return 0;
}

static int capabilities_set(unsigned kept) {
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    const struct __user_cap_data_struct data[2] = {
        { .effective = kept, .permitted = kept, .inheritable = kept }
    };

    if (syscall(SYS_capset, &header, data) < 0)
        return -errno;
    for (unsigned i = 0; i < 32; i++)
        if ((kept & (1u << i)) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) < 0)
            return -errno;
    return 0;
}

static int privileges_drop(const struct jail *jail) {
    int r = bounding_drop(jail->capabilities);

    if (r < 0)
        return r;
    if (jail->capabilities && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return -errno;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, jail->gid, jail->gid, jail->gid) < 0 ||
        syscall(SYS_setresuid, jail->uid, jail->uid, jail->uid) < 0)
        return -errno;
    r = capabilities_set(jail->capabilities);
    if (r < 0)
        return r;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

int jail_enter(void *userdata) {
    const struct jail *jail = userdata;
    int r = root_build(jail);

    if (r >= 0)
        r = root_change();
    if (r < 0)
        return r;
    if (syscall(SYS_sethostname, "polder", 6) < 0)
        return -errno;
    umask(077);
    r = limits_set(jail);
    return r < 0 ? r : privileges_drop(jail);
}
