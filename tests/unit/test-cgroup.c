// SPDX-License-Identifier: GPL-2.0-or-later
/* Against the real host: its own layout, and then the v2 tree alone in a mount namespace of the test's own. */
#include "test.h"

#include "host/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "host/cgroup-internal.h"

#define SOON (20 * CLOCK_SECOND)
#define HOARD (24u << 20) /* bytes */
#define SLACK (4u << 20)

struct test {
    struct cgroup_host *host;
    struct cgroup *group;
    char uuid[UUID_TEXT_SIZE];
};

static void test_open(struct test *test) {
    struct error error = ERROR_INIT;

    *test = (struct test){ 0 };
    uuid_new(test->uuid);
    assert_int_equal(cgroup_host_open("polder-test", &test->host, &error), 0);
    assert_int_equal(cgroup_ensure(test->host, test->uuid, &test->group, &error), 0);
}

static void test_close(struct test *test) {
    struct error error = ERROR_INIT;
    char **left = NULL;

    assert_int_equal(cgroup_remove(test->host, test->uuid, deadline_in(SOON), &error), 0);
    assert_int_equal(cgroup_remove(test->host, test->uuid, deadline_in(SOON), &error), 0);
    assert_int_equal(cgroup_list(test->host, &left), 0);
    assert_false(list_has(left, test->uuid));
    list_free(left);
    cgroup_free(test->group);
    cgroup_host_free(test->host);
}

/* A child in the group that forks once more and sleeps. */
static pid_t test_child_of(struct cgroup_entry *entry) {
    int ready[2];
    char byte;
    pid_t pid;

    assert_true(entry->count > 0);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < entry->count; i++)
            if (write(entry->fds[i], "0", 1) != 1)
                _exit(1);
        if (write(ready[1], "x", 1) != 1 || fork() < 0)
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    cgroup_entry_close(entry);
    return pid;
}

static pid_t test_child(struct test *test) {
    struct cgroup_entry entry;

    assert_int_equal(cgroup_entry_open(test->group, &entry), 0);
    return test_child_of(&entry);
}

static int members_main(void *userdata) {
    struct test test;
    struct cgroup *again = NULL;
    struct error error = ERROR_INIT;
    char **list = NULL;
    struct cgroup_entry entry;
    pid_t pid, other;

    test_open(&test);
    assert_true(cgroup_is_empty(test.group));
    pid = test_child(&test);
    assert_false(cgroup_is_empty(test.group));
    assert_true(cgroup_holds(test.group, pid));
    assert_false(cgroup_holds(test.group, getpid()));
    assert_false(cgroup_holds(test.group, -1));
    assert_int_equal(cgroup_ensure(test.host, test.uuid, &again, &error), 0);
    assert_true(cgroup_holds(again, pid));
    cgroup_free(again);
    assert_int_equal(cgroup_list(test.host, &list), 0);
    assert_true(list_has(list, test.uuid));
    list_free(list);
    assert_int_equal(cgroup_watcher_open(test.group, &entry), 0);
    other = test_child_of(&entry);
    assert_true(cgroup_holds(test.group, other));
    assert_int_equal(cgroup_kill(test.group), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(waitpid(other, NULL, WNOHANG), 0);
    test_close(&test);
    assert_int_equal(waitpid(other, NULL, 0), other);
    return 0;
}

/* Who starts a process owns its way in, whatever others do with theirs, and with the handle. */
static int entries_main(void *userdata) {
    struct cgroup_entry first, second;
    struct cgroup *again = NULL;
    struct error error = ERROR_INIT;
    struct test test;
    pid_t pid;

    test_open(&test);
    assert_int_equal(cgroup_ensure(test.host, test.uuid, &again, &error), 0);
    assert_int_equal(cgroup_entry_open(again, &first), 0);
    assert_int_equal(cgroup_entry_open(again, &second), 0);
    cgroup_entry_close(&first);
    cgroup_free(again);
    pid = test_child_of(&second);
    assert_true(cgroup_holds(test.group, pid));
    assert_int_equal(cgroup_kill(test.group), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(cgroup_remove(test.host, test.uuid, deadline_in(10 * CLOCK_SECOND), &error), 0);
    assert_int_equal(cgroup_entry_open(test.group, &first), -ENOENT);
    test_close(&test);
    return 0;
}

static int freeze_main(void *userdata) {
    struct test test;
    struct error error = ERROR_INIT;
    pid_t pid;

    test_open(&test);
    pid = test_child(&test);
    assert_int_equal(cgroup_freeze(test.group, true, deadline_in(SOON), &error), 0);
    assert_int_equal(cgroup_freeze(test.group, true, deadline_in(SOON), &error), 0);
    assert_true(cgroup_is_frozen(test.group));
    assert_int_equal(kill(pid, SIGTERM), 0);
    /* v1 holds even a deadly signal back until the thaw. */
    if (cgroup_host_layout(test.host) != CGROUP_V2)
        assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    assert_int_equal(cgroup_freeze(test.group, false, deadline_in(SOON), &error), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    /* A frozen group can still be killed and removed. */
    pid = test_child(&test);
    assert_int_equal(cgroup_freeze(test.group, true, deadline_in(SOON), &error), 0);
    test_close(&test);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    return 0;
}

static int limits_main(void *userdata) {
    struct stat status;
    struct test test;
    struct error error = ERROR_INIT;
    struct cgroup_usage usage;
    struct cgroup_limits limits = { .cpu_milli = 1500, .cpu_weight = 250, .memory = 64 << 20, .memory_low = 16 << 20,
                                    .pids = 20, .io_read = 1 << 20, .io_write = 2 << 20, .cpus = "0" };

    test_open(&test);
    assert_int_equal(stat("/", &status), 0);
    limits.io_device = status.st_dev;
    if (major(status.st_dev) == 0)
        limits.io_read = limits.io_write = 0;
    assert_int_equal(cgroup_set_limits(test.group, &limits, &error), 0);
    limits.memory *= 2;
    assert_int_equal(cgroup_set_limits(test.group, &limits, &error), 0);
    limits.memory /= 4;
    assert_int_equal(cgroup_set_limits(test.group, &limits, &error), 0);
    limits = (struct cgroup_limits){ .io_device = status.st_dev };
    assert_int_equal(cgroup_set_limits(test.group, &limits, &error), 0);
    assert_int_equal(cgroup_usage(test.group, &usage), 0);
    assert_int_equal(usage.pids, 0);
    /* The process limit is real: a fork beyond it fails. */
    if (cgroup_host_has(test.host, "pids")) {
        limits.pids = 2;
        assert_int_equal(cgroup_set_limits(test.group, &limits, &error), 0);
        pid_t pid = test_child(&test);
        assert_int_equal(cgroup_usage(test.group, &usage), 0);
        assert_true(usage.pids <= 2);
        assert_int_equal(cgroup_kill(test.group), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
    test_close(&test);
    return 0;
}

static int memory_main(void *userdata) {
    struct test test;
    struct error error = ERROR_INIT;
    struct cgroup_usage usage;
    struct cgroup_limits limits = { .memory = 16 << 20 };
    struct cgroup_entry entry;
    int status;
    pid_t pid;

    test_open(&test);
    if (!cgroup_host_has(test.host, "memory")) {
        assert_int_equal(cgroup_set_limits(test.group, &limits, &error), -EOPNOTSUPP);
        assert_int_equal(error.code, ERROR_HOST_LACKS);
        error_clear(&error);
        test_close(&test);
        return 0;
    }
    assert_int_equal(cgroup_set_limits(test.group, &limits, &error), 0);
    assert_int_equal(cgroup_entry_open(test.group, &entry), 0);
    pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < entry.count; i++)
            if (write(entry.fds[i], "0", 1) != 1)
                _exit(1);
        /* Volatile: the compiler must not see that nobody reads it. */
        volatile char *memory = malloc(64 << 20);
        for (size_t i = 0; i < 64 << 20; i += 4096)
            memory[i] = 1;
        _exit(2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(cgroup_usage(test.group, &usage), 0);
    assert_true(usage.oom_kills >= 1);
    test_close(&test);
    return 0;
}

/* The kernel adds its counters up every two seconds or so. Waits until page cache and the rest are within the bounds. */
static void await_memory(const struct test *test, uint64_t least_own, uint64_t least_cache, uint64_t most_cache,
                         uint64_t *ret_own, uint64_t *ret_cache) {
    uint64_t deadline = deadline_in(SOON), held = 0, cache = 0;

    while (clock_now() < deadline) {
        assert_int_equal(cgroup_memory(test->group, &held, &cache), 0);
        if (held >= cache + least_own && cache >= least_cache && cache <= most_cache) {
            *ret_own = held - cache;
            *ret_cache = cache;
            return;
        }
        assert_int_equal(fiber_sleep(50 * CLOCK_MILLISECOND), 0);
    }
    print_error("%" PRIu64 " bytes are held, %" PRIu64 " of them page cache\n", held, cache);
    fail();
}

/* In the group, with memory of its own and pages of a file; says when it has them, and sleeps. Ends with the test. */
static void hoard(const struct cgroup_entry *entry, int ready) {
    char block[65536] = { 1 };
    volatile char *memory = malloc(HOARD);
    int file = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        _exit(1);
    for (size_t i = 0; i < entry->count; i++)
        if (write(entry->fds[i], "0", 1) != 1)
            _exit(1);
    for (size_t i = 0; memory && i < HOARD; i += 4096)
        memory[i] = 1;
    for (size_t i = 0; i < HOARD; i += sizeof(block))
        if (write(file, block, sizeof(block)) != sizeof(block))
            _exit(1);
    if (fsync(file) < 0 || write(ready, "", 1) != 1)
        _exit(1);
    for (;;)
        pause();
}

static char *swappiness_of(const struct test *test) {
    char *text = NULL;

    assert_int_equal(cgroup_read(test->group, cgroup_find_hierarchy(test->host, "memory"), "memory.swappiness", &text), 0);
    return text;
}

/* v1 has no mark to reclaim down to: what is kept of files goes at once, and nothing else does, nor stays changed. */
static int squeeze_main(void *userdata) {
    uint64_t own, own_after, cache, cache_after;
    struct test test;
    int ready[2];
    struct cgroup_entry entry;
    pid_t pid;
    char told;

    test_open(&test);
    if (cgroup_host_layout(test.host) == CGROUP_V2 || !cgroup_host_has(test.host, "memory")) {
        test_close(&test);
        return 0;
    }
    _cleanup_free_ char *before = swappiness_of(&test);
    assert_int_equal(cgroup_entry_open(test.group, &entry), 0);
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0)
        hoard(&entry, ready[1]);
    close(ready[1]);
    assert_int_equal(read(ready[0], &told, 1), 1);
    close(ready[0]);
    /* Beside other tests part of it was seen to be charged elsewhere: what counts is what the group has, before and after. */
    await_memory(&test, 0, HOARD / 4, UINT64_MAX, &own, &cache);
    assert_int_equal(cgroup_squeeze(test.group, HOARD / 8, 2 * HOARD), 0); /* below its floor without them */
    assert_int_equal(cgroup_squeeze(test.group, HOARD / 8, 0), 1);
    await_memory(&test, own > SLACK ? own - SLACK : 0, 0, cache / 4, &own_after, &cache_after);
    _cleanup_free_ char *after = swappiness_of(&test);
    assert_string_equal(before, after);
    assert_int_equal(cgroup_kill(test.group), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    test_close(&test);
    return 0;
}

static int bad_main(void *userdata) {
    struct cgroup_host *host = NULL;
    struct cgroup *group = NULL;
    struct error error = ERROR_INIT;

    assert_int_equal(cgroup_host_open("polder-test", &host, &error), 0);
    assert_true(cgroup_ensure(host, "../../x", &group, &error) < 0);
    error_clear(&error);
    assert_true(cgroup_remove(host, "", deadline_in(SOON), &error) < 0);
    error_clear(&error);
    assert_int_equal(cgroup_remove(host, "00000000-0000-4000-8000-000000000000", deadline_in(SOON), &error), 0);
    cgroup_host_free(host);
    return 0;
}

static int exiting_main(void *userdata) {
    fiber_function function = userdata;
    int r = function(NULL);

    loop_exit(r);
    return r;
}

static void on_fiber(fiber_function function) {
    assert_int_equal(loop_init(), 0);
    assert_int_equal(fiber_start(NULL, "test", exiting_main, function), 0);
    assert_int_equal(loop_run(), 0);
    loop_done();
}

static void test_members(void **state) {
    on_fiber(members_main);
}

static void test_entries(void **state) {
    on_fiber(entries_main);
}

static void test_freeze(void **state) {
    on_fiber(freeze_main);
}

static void test_limits(void **state) {
    on_fiber(limits_main);
}

static void test_memory(void **state) {
    on_fiber(memory_main);
}

static void test_squeeze(void **state) {
    on_fiber(squeeze_main);
}

static void test_bad(void **state) {
    on_fiber(bad_main);
}

/* A child that sees the v2 tree alone. Without controllers there (hybrid host) it still has freezing and killing. */
static void test_unified(void **state) {
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
            _exit(77);
        while (umount2("/sys/fs/cgroup", MNT_DETACH) == 0)
            ;
        if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL) < 0)
            _exit(77);
        on_fiber(members_main);
        on_fiber(entries_main);
        on_fiber(freeze_main);
        on_fiber(memory_main);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members), cmocka_unit_test(test_entries), cmocka_unit_test(test_freeze),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_memory), cmocka_unit_test(test_squeeze),
        cmocka_unit_test(test_bad), cmocka_unit_test(test_unified),
    };

    if (geteuid() != 0) {
        print_message("skipped: cgroups need root\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
