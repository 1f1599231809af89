// SPDX-License-Identifier: GPL-2.0-or-later
/* A jailed process, looked at from outside through /proc. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "host/jail.h"

#define JAIL_UID 1234567

static const struct jail_view sleep_view[] = { { .path = "/usr/bin/sleep" } };

static char *proc_file(pid_t pid, const char *name) {
    _cleanup_free_ char *path = text_format("/proc/%d/%s", (int) pid, name);
    char *text = NULL;

    assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
    return text;
}

static void namespace_differs(pid_t pid, const char *name) {
    _cleanup_free_ char *theirs = text_format("/proc/%d/ns/%s", (int) pid, name);
    _cleanup_free_ char *ours = text_format("/proc/self/ns/%s", name);
    char a[64] = { 0 }, b[64] = { 0 };

    assert_true(readlink(theirs, a, sizeof(a) - 1) > 0);
    assert_true(readlink(ours, b, sizeof(b) - 1) > 0);
    assert_string_not_equal(a, b);
}

static void jail_start(const struct jail_options *options, char *const *arguments,
                       const struct process_fd *fds, size_t fd_count, struct process *ret) {
    _cleanup_jail_ struct jail *jail = NULL;
    struct process_spec spec = {
        .program = arguments[0], .arguments = arguments, .setup = jail_enter, .fds = fds, .fd_count = fd_count
    };

    assert_int_equal(jail_new(options, &jail, NULL), 0);
    spec.userdata = jail;
    spec.namespaces = jail_namespaces(jail);
    assert_int_equal(process_start(&spec, ret), 0);
}

static void process_kill(struct process *process) {
    (void) process_signal(process, SIGKILL);
    (void) waitpid(process->pid, NULL, 0);
    process_done(process);
}

static void test_proc(void **state _unused_) {
    const struct jail_options options = { .views = sleep_view, .view_count = 1, .system_libraries = true,
                                          .uid = JAIL_UID, .gid = JAIL_UID };
    char *const arguments[] = { (char *) "/usr/bin/sleep", (char *) "60", NULL };
    struct process process = PROCESS_INIT;

    if (getuid() != 0)
        skip();
    jail_start(&options, arguments, NULL, 0, &process);

    _cleanup_free_ char *status = proc_file(process.pid, "status");
    assert_non_null(strstr(status, "Uid:\t1234567\t1234567\t1234567\t1234567"));
    assert_non_null(strstr(status, "Gid:\t1234567\t1234567\t1234567\t1234567"));
    assert_non_null(strstr(status, "CapInh:\t0000000000000000"));
    assert_non_null(strstr(status, "CapPrm:\t0000000000000000"));
    assert_non_null(strstr(status, "CapEff:\t0000000000000000"));
    assert_non_null(strstr(status, "CapBnd:\t0000000000000000"));
    assert_non_null(strstr(status, "CapAmb:\t0000000000000000"));
    assert_non_null(strstr(status, "NoNewPrivs:\t1"));
    assert_null(strstr(status, "Groups:\t0"));

    static const char *const namespaces[] = { "mnt", "pid", "net", "ipc", "uts" };
    for (size_t i = 0; i < ELEMENTS(namespaces); i++)
        namespace_differs(process.pid, namespaces[i]);

    /* Nothing of the host but what was listed, all of it read-only but the devices. */
    _cleanup_free_ char *mounts = proc_file(process.pid, "mountinfo");
    unsigned lines = 0;
    for (char *line = strtok(mounts, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        char point[256], flags[256];
        assert_int_equal(sscanf(line, "%*s %*s %*s %*s %255s %255s", point, flags), 2);
        if (!text_starts(point, "/dev/") && !text_equal(point, "/proc"))
            assert_true(text_starts(flags, "ro,"));
        assert_non_null(strstr(flags, "nosuid"));
    }
    assert_int_equal(lines, 1 + 3 + 2 + 1 + 1);

    _cleanup_free_ char *directory = text_format("/proc/%d/root", (int) process.pid);
    int root = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    assert_true(root >= 0);
    assert_int_equal(faccessat(root, "etc", F_OK, 0), -1);
    assert_int_equal(faccessat(root, "home", F_OK, 0), -1);
    assert_int_equal(faccessat(root, "usr/bin/sleep", X_OK, 0), 0);
    assert_int_equal(faccessat(root, "usr/bin/env", F_OK, 0), -1);
    close(root);
    process_kill(&process);
}

static void test_descriptors(void **state _unused_) {
    const struct jail_options options = { .views = sleep_view, .view_count = 1, .system_libraries = true,
                                          .uid = JAIL_UID, .gid = JAIL_UID };
    char *const arguments[] = { (char *) "/usr/bin/sleep", (char *) "60", NULL };
    struct process process = PROCESS_INIT;
    struct process_fd fd = { .target = 10 };
    unsigned count = 0;
    struct dirent *entry;

    if (getuid() != 0)
        skip();
    fd.source = open("/etc/hostname", O_RDONLY); /* not close-on-exec on purpose, nor is the next */
    int other = open("/etc/passwd", O_RDONLY);
    jail_start(&options, arguments, &fd, 1, &process);

    _cleanup_free_ char *path = text_format("/proc/%d/fd", (int) process.pid);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    while ((entry = readdir(directory)))
        if (entry->d_name[0] != '.') {
            assert_true(text_equal(entry->d_name, "0") || text_equal(entry->d_name, "1") ||
                        text_equal(entry->d_name, "2") || text_equal(entry->d_name, "10"));
            count++;
        }
    closedir(directory);
    assert_int_equal(count, 4);
    close(fd.source);
    close(other);
    process_kill(&process);
}

static void test_missing(void **state _unused_) {
    const struct jail_view views[] = { { .path = "/usr/bin/sleep" }, { .path = "/does/not/exist" } };
    const struct jail_view optional[] = { { .path = "/does/not/exist", .optional = true } };
    struct jail_options options = { .views = views, .view_count = 2 };
    const char *missing = NULL;
    struct jail *jail = NULL;

    if (getuid() != 0)
        skip();
    assert_int_equal(jail_new(&options, &jail, &missing), -ENOENT);
    assert_string_equal(missing, "/does/not/exist");
    options = (struct jail_options){ .views = optional, .view_count = 1 };
    assert_int_equal(jail_new(&options, &jail, NULL), 0);
    jail_free(jail);
    jail_free(NULL);
}

static void test_kept_capability(void **state _unused_) {
    const struct jail_options options = { .views = sleep_view, .view_count = 1, .system_libraries = true,
                                          .uid = JAIL_UID, .gid = JAIL_UID, .capabilities = 1 << 1 };
    char *const arguments[] = { (char *) "/usr/bin/sleep", (char *) "60", NULL };
    struct process process = PROCESS_INIT;

    if (getuid() != 0)
        skip();
    jail_start(&options, arguments, NULL, 0, &process);
    _cleanup_free_ char *status = proc_file(process.pid, "status");
    assert_non_null(strstr(status, "CapEff:\t0000000000000002"));
    assert_non_null(strstr(status, "CapBnd:\t0000000000000002"));
    process_kill(&process);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proc),
        cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_kept_capability),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
