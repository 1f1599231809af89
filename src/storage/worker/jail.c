// SPDX-License-Identifier: GPL-2.0-or-later
#include "jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "syscalls.h"

#if defined(__SANITIZE_ADDRESS__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

#if IS_SANITIZED
/* The leak checker traces its own process, which the jail forbids; a worker ends at once anyway. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=0";
}
#endif

static int jail_fail(struct failure *failure, const char *what) {
    return fail(failure, FAILURE_JAIL, "", "%s: %s", what, strerror(errno));
}

/* ---- descriptors and parents ---- */

static int compare_fds(const void *a, const void *b) {
    return *(const int *) a - *(const int *) b;
}

/* Closes all descriptors but the standard ones and those given. */
static int close_others(const struct options *options) {
    int keep[] = { 2, options->input_fd, options->output_fd, options->root_fd };
    qsort(keep, ELEMENTS(keep), sizeof(int), compare_fds);
    unsigned from = 3;
    for (size_t i = 0; i < ELEMENTS(keep); i++) {
        if (keep[i] < (int) from)
            continue;
        if ((unsigned) keep[i] > from && close_range(from, (unsigned) keep[i] - 1, 0) < 0)
            return -errno;
        from = (unsigned) keep[i] + 1;
        if (keep[i] > 2 && fcntl(keep[i], F_SETFD, FD_CLOEXEC) < 0)
            return -errno;
    }
    return close_range(from, ~0u, 0) < 0 ? -errno : 0;
}

static bool is_directory(int fd) {
    struct stat status;
    return fd >= 0 && (fstat(fd, &status) < 0 || S_ISDIR(status.st_mode));
}

static int null_stdin(void) {
    _cleanup_fd_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd < 0 || dup2(fd, STDIN_FILENO) < 0 ? -errno : 0;
}

int jail_die_with_parent(int parent_pidfd) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return -errno;
    struct pollfd parent = { .fd = parent_pidfd, .events = POLLIN };
    return poll(&parent, 1, 0) > 0 ? -EOWNERDEAD : 0;
}

/* ---- the mount view ---- */

/* A mount of one directory or file of its own: '..' at its top stays there, unlike at a descriptor into the
 * host. */
static int clone_mount(int fd, const char *path, uint64_t flags) {
    unsigned how = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (*path ? 0 : AT_EMPTY_PATH);
    _cleanup_fd_ int mount_fd = open_tree(fd, path, how);
    struct mount_attr attributes = { .attr_set = flags, .propagation = MS_PRIVATE };
    if (mount_fd < 0 || mount_setattr(mount_fd, "", AT_EMPTY_PATH, &attributes, sizeof(attributes)) < 0)
        return -errno;
    return STEAL_FD(mount_fd);
}

static int attach_mount(int mount_fd, const char *target) {
    return move_mount(mount_fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

static int make_file(const char *path) {
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : 0;
}

static int make_tmpfs(void) {
    _cleanup_fd_ int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0 || fsconfig(context, FSCONFIG_SET_STRING, "size", "64k", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_STRING, "nr_inodes", "64", 0) < 0 ||
        fsconfig(context, FSCONFIG_SET_STRING, "mode", "0755", 0) < 0 ||
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -errno;
    int fd = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    return fd < 0 ? -errno : fd;
}

/* Mounts that are not attached anywhere yet. Those of descriptors must be made while still in the mount
 * namespace that the descriptors were opened in. */
struct jail_mounts {
    int layer, input, output;
};

#define JAIL_MOUNTS_INIT ((struct jail_mounts){ -1, -1, -1 })

static void jail_mounts_done(struct jail_mounts *mounts) {
    worker_closep(&mounts->layer);
    worker_closep(&mounts->input);
    worker_closep(&mounts->output);
    *mounts = JAIL_MOUNTS_INIT;
}

#define NO_EXTRAS (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

static int clone_descriptors(const struct options *options, enum jail_profile profile,
                             struct jail_mounts *mounts) {
    if (profile == JAIL_UNPACK && (mounts->layer = clone_mount(options->root_fd, "", NO_EXTRAS)) < 0)
        return mounts->layer;
    if (profile != JAIL_CONVERT)
        return 0;
    mounts->input = clone_mount(options->input_fd, "", NO_EXTRAS | MOUNT_ATTR_RDONLY);
    if (mounts->input < 0 || options->output_fd < 0)
        return mounts->input < 0 ? mounts->input : 0;
    mounts->output = clone_mount(options->output_fd, "", NO_EXTRAS);
    return mounts->output < 0 ? mounts->output : 0;
}

static int attach_file(int host_fd, const char *name, uint64_t flags) {
    _cleanup_fd_ int fd = clone_mount(host_fd, name, flags);
    int r = fd < 0 ? fd : make_file(name);
    return r < 0 ? r : attach_mount(fd, name);
}

/* /usr, and on a host without merged /usr the library directories, read-only; links as on the host. */
static int bind_program_directory(int host_fd, const char *name) {
    struct stat status;
    char link[64];
    if (fstatat(host_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (S_ISLNK(status.st_mode)) {
        ssize_t length = readlinkat(host_fd, name, link, sizeof(link) - 1);
        if (length < 0)
            return -errno;
        link[length] = 0;
        return symlinkat(link, AT_FDCWD, name) < 0 ? -errno : 0;
    }
    _cleanup_fd_ int fd =
        clone_mount(host_fd, name, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_RDONLY);
    if (fd < 0)
        return fd;
    return mkdir(name, 0755) < 0 ? -errno : attach_mount(fd, name);
}

/* The working directory is the new root. host_fd is the old one. */
static int bind_program(int host_fd) {
    static const char *const names[] = { "usr", "lib", "lib32", "lib64", "libx32" };
    for (size_t i = 0; i < ELEMENTS(names); i++) {
        int r = bind_program_directory(host_fd, names[i]);
        if (r < 0)
            return r;
    }
    if (mkdir("etc", 0755) < 0 || mkdir("dev", 0755) < 0)
        return -errno;
    int r = attach_file(host_fd, "etc/ld.so.cache", NO_EXTRAS | MOUNT_ATTR_RDONLY);
    /* qemu-img tries out on /dev/null which kind of file locks there is. */
    return r < 0 && r != -ENOENT ? r
                                 : attach_file(host_fd, "dev/null", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
}

/* Names without their leading slash: the working directory is the new root, the root still the host's. */
static int attach_mounts(const struct jail_mounts *mounts, enum jail_profile profile, int host_fd) {
    int r = 0;
    if (profile == JAIL_UNPACK)
        r = mkdir(&JAIL_ROOT[1], 0700) < 0 ? -errno : attach_mount(mounts->layer, &JAIL_ROOT[1]);
    if (profile != JAIL_CONVERT)
        return r;
    if ((r = make_file(&JAIL_INPUT[1])) < 0 || (r = attach_mount(mounts->input, &JAIL_INPUT[1])) < 0)
        return r;
    if (mounts->output >= 0 &&
        ((r = make_file(&JAIL_OUTPUT[1])) < 0 || (r = attach_mount(mounts->output, &JAIL_OUTPUT[1])) < 0))
        return r;
    return bind_program(host_fd);
}

static int enter_mounts(const struct jail_mounts *mounts, enum jail_profile profile,
                        struct failure *failure) {
    _cleanup_fd_ int host_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return jail_fail(failure, "making mounts private");
    _cleanup_fd_ int root_fd = make_tmpfs();
    int r = root_fd < 0 ? root_fd : attach_mount(root_fd, "/tmp");
    if (r < 0 || fchdir(root_fd) < 0)
        return errno = r < 0 ? -r : errno, jail_fail(failure, "mounting the jail");
    if ((r = attach_mounts(mounts, profile, host_fd)) < 0)
        return errno = -r, jail_fail(failure, "mounting what the jail needs");
    if (syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return jail_fail(failure, "leaving the host's file system");
    struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };
    if (mount_setattr(AT_FDCWD, "/", 0, &read_only, sizeof(read_only)) < 0)
        return jail_fail(failure, "making the jail read-only");
    return 0;
}

/* From here on the layer is reached through its own mount alone. */
static int replace_root_fd(struct options *options, struct failure *failure) {
    int fd = open(JAIL_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return jail_fail(failure, "opening the layer's directory");
    close(options->root_fd);
    options->root_fd = fd;
    return 0;
}

/* ---- limits and privileges ---- */

static int set_limit(int resource, uint64_t soft, uint64_t hard) {
    struct rlimit limit = { .rlim_cur = soft, .rlim_max = hard };
    return setrlimit(resource, &limit) < 0 ? -errno : 0;
}

static void cpu_is_spent(int signal) {
    (void) signal;
    _exit(JAIL_EXIT_CPU);
}

static int set_limits(const struct options *options, uint64_t max_file) {
    struct sigaction spent = { .sa_handler = cpu_is_spent };
    sigaction(SIGXCPU, &spent, NULL);
    /* An address sanitizer maps terabytes of shadow. */
    uint64_t memory = IS_SANITIZED ? RLIM_INFINITY : options->limit_memory;
    if (set_limit(RLIMIT_CORE, 0, 0) < 0 || set_limit(RLIMIT_AS, memory, memory) < 0 ||
        set_limit(RLIMIT_CPU, options->limit_cpu_seconds, options->limit_cpu_seconds + 2) < 0 ||
        set_limit(RLIMIT_NOFILE, options->limit_files, options->limit_files) < 0 ||
        set_limit(RLIMIT_FSIZE, max_file, max_file) < 0)
        return -errno;
    return 0;
}

/* Unpacking gives files away, works in directories that it gave away, keeps setuid bits, sets file
 * capabilities and ends the expander, which has another uid and is the only other process of the namespace.
 * CAP_MKNOD is not among them: the kernel lets anybody make a 0:0 character device. */
static int drop_to_unpack(void) {
    capng_clear(CAPNG_SELECT_ALL);
    capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, CAP_CHOWN,
                  CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_KILL, CAP_SETFCAP, -1);
    return capng_apply(CAPNG_SELECT_ALL);
}

static int drop_all(void) {
    capng_clear(CAPNG_SELECT_ALL);
    return capng_apply(CAPNG_SELECT_ALL);
}

static int drop_privileges(enum jail_profile profile) {
    if (setgroups(0, NULL) < 0)
        return -errno;
    if (profile == JAIL_UNPACK)
        return drop_to_unpack();
    if (profile == JAIL_CONVERT)
        return drop_all();
    capng_clear(CAPNG_SELECT_ALL);
    return capng_change_id(JAIL_NOBODY, JAIL_NOBODY, CAPNG_CLEAR_BOUNDING | CAPNG_CLEAR_AMBIENT);
}

int jail_confine(enum jail_profile profile, const struct options *options, uint64_t max_file,
                 struct failure *failure) {
    int r = set_limits(options, max_file);
    if (r < 0)
        return errno = -r, jail_fail(failure, "setting limits");
    r = drop_privileges(profile);
    if (r != 0)
        return fail(failure, FAILURE_JAIL, "", "dropping privileges failed with %d", r);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return jail_fail(failure, "forbidding new privileges");
    /* A change of uid took the death signal away. */
    r = jail_die_with_parent(options->parent_pidfd);
    if (r < 0)
        return errno = -r, jail_fail(failure, "watching the parent");
    close(options->parent_pidfd);
    if (IS_SANITIZED) /* its run time makes calls of its own, also while it reports */
        return 0;
    r = syscalls_confine(profile);
    return r < 0 ? (errno = -r, jail_fail(failure, "filtering system calls")) : 0;
}

/* ---- processes ---- */

static _noreturn_ void run_inner(struct options *options, enum jail_profile profile, jail_function inside,
                                 struct jail_mounts *mounts) {
    struct failure failure = { 0 };
    int r = jail_die_with_parent(options->parent_pidfd);
    if (r < 0)
        fail_errno(&failure, -r, "", "watching the parent");
    else
        r = enter_mounts(mounts, profile, &failure);
    jail_mounts_done(mounts);
    if (r == 0 && profile == JAIL_UNPACK)
        r = replace_root_fd(options, &failure);
    int status = r == 0 ? inside(options, &failure) : -EBADMSG;
    if (status < 0)
        status = report_failure(&failure);
    exit(status);
}

static int report_killed(int signal) {
    struct failure failure = { 0 };
    if (signal == SIGSYS)
        fail(&failure, FAILURE_JAIL_VIOLATION, "", "the worker tried a system call that its jail forbids");
    else if (signal == SIGXCPU)
        fail(&failure, FAILURE_LIMIT_CPU, "", "it needs more processor time than allowed");
    else
        fail(&failure, FAILURE_KILLED, "", "the worker was killed by signal %d (%s)", signal,
             strsignal(signal));
    return report_failure(&failure);
}

/* The outer process only waits. The kernel sends the death signal in its name, and the inner one has another
 * uid. */
static int wait_inner(pid_t pid) {
    int status;
    capng_clear(CAPNG_SELECT_ALL);
    capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_KILL);
    capng_apply(CAPNG_SELECT_ALL);
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return report_killed(SIGKILL);
    if (!WIFEXITED(status))
        return report_killed(WTERMSIG(status));
    return WEXITSTATUS(status) == JAIL_EXIT_CPU ? report_killed(SIGXCPU) : WEXITSTATUS(status);
}

static int prepare_process(struct failure *failure) {
    struct pollfd out = { .fd = STDOUT_FILENO };
    umask(0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || prctl(PR_SET_DUMPABLE, 0) < 0)
        return jail_fail(failure, "preparing");
    if (poll(&out, 1, 0) > 0 && (out.revents & POLLERR)) /* the parent is gone already: nobody reads */
        return fail(failure, FAILURE_JAIL, "", "nobody reads the output");
    return 0;
}

static int prepare_outer(const struct options *options, enum jail_profile profile, struct jail_mounts *mounts,
                         struct failure *failure) {
    if (prepare_process(failure) < 0)
        return -EBADMSG;
    if (is_directory(options->input_fd) || is_directory(options->output_fd)) /* a way up to the host */
        return fail(failure, FAILURE_USAGE, "", "a directory where a file belongs");
    int r = null_stdin();
    if (r == 0)
        r = close_others(options);
    if (r < 0)
        return errno = -r, jail_fail(failure, "closing descriptors");
    if ((r = clone_descriptors(options, profile, mounts)) < 0)
        return errno = -r, jail_fail(failure, "mounting what it works on");
    if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) <
        0)
        return jail_fail(failure, "making namespaces");
    return 0;
}

int jail_run(struct options *options, enum jail_profile profile, jail_function inside) {
    struct failure failure = { 0 };
    _cleanup_(jail_mounts_done) struct jail_mounts mounts = JAIL_MOUNTS_INIT;
    if (prepare_outer(options, profile, &mounts, &failure) < 0)
        return report_failure(&failure);
    options->parent_pidfd = pidfd_open(getpid(), 0);
    pid_t pid = options->parent_pidfd < 0 ? -1 : fork();
    if (pid < 0) {
        fail_errno(&failure, errno, "", "starting the worker");
        return report_failure(&failure);
    }
    if (pid == 0)
        run_inner(options, profile, inside, &mounts);
    close(options->parent_pidfd);
    jail_mounts_done(&mounts);
    return wait_inner(pid);
}
