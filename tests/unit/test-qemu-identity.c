// SPDX-License-Identifier: GPL-2.0-or-later
/* The record of which process is an instance's QEMU: only the very same one is ever found again. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/process.h"
#include "base/text.h"
#include "drivers/qemu/identity.h"
#include "shortage.h"

#define UUID "6ed3ad22-3f11-4459-9b95-0ba89175bc98"

struct bench {
    char path[40];
    int directory;
    struct process process;
};

static int bench_init(void **state) {
    static char *const arguments[] = { (char *) "sleep", (char *) "1000", NULL };
    const struct process_spec spec = { .program = "/bin/sleep", .arguments = arguments };
    struct bench *bench = calloc(1, sizeof(*bench));

    strcpy(bench->path, "/tmp/polder-identity-XXXXXX");
    assert_non_null(mkdtemp(bench->path));
    bench->directory = open(bench->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(process_start(&spec, &bench->process), 0);
    assert_int_equal(identity_write(bench->directory, UUID, &bench->process), 0);
    *state = bench;
    return 0;
}

static int bench_done(void **state) {
    struct bench *bench = *state;

    (void) process_signal(&bench->process, SIGKILL);
    (void) waitpid(bench->process.pid, NULL, 0);
    process_done(&bench->process);
    close(bench->directory);
    assert_int_equal(file_remove_tree(AT_FDCWD, bench->path), 0);
    free(bench);
    return 0;
}

static int find(struct bench *bench, const char *uuid) {
    _cleanup_process_ struct process found = PROCESS_INIT;
    int r = identity_find(bench->directory, uuid, NULL, &found);

    if (r >= 0)
        assert_int_equal(found.pid, bench->process.pid);
    return r;
}

static void record(struct bench *bench, const char *format, ...) _printf_(2, 3);
static void record(struct bench *bench, const char *format, ...) {
    va_list arguments;
    char text[512];

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    assert_int_equal(file_write_atomic(bench->directory, "qemu.json", text, strlen(text), 0600, false), 0);
}

static void test_found(void **state) {
    struct bench *bench = *state;

    assert_int_equal(find(bench, UUID), 0);
    assert_int_equal(find(bench, "6ed3ad22-3f11-4459-9b95-0ba89175bc99"), -ESRCH);
    assert_int_equal(identity_remove(bench->directory), 0);
    assert_int_equal(identity_remove(bench->directory), 0);
    assert_int_equal(find(bench, UUID), -ESRCH);
}

/* The pid was given to another process, or the host was restarted. */
static void test_stale(void **state) {
    struct bench *bench = *state;

    record(bench, "{\"pid\":%d,\"start_ticks\":%llu,\"boot_id\":\"%s\",\"uuid\":\"%s\"}",
           (int) bench->process.pid, (unsigned long long) bench->process.start_ticks + 1, clock_boot_id(),
           UUID);
    assert_int_equal(find(bench, UUID), -ESRCH);
    record(bench, "{\"pid\":%d,\"start_ticks\":%llu,\"boot_id\":\"%s\",\"uuid\":\"%s\"}",
           (int) bench->process.pid, (unsigned long long) bench->process.start_ticks, UUID, UUID);
    assert_int_equal(find(bench, UUID), -ESRCH);
    record(bench, "{\"pid\":1,\"start_ticks\":0,\"boot_id\":\"%s\",\"uuid\":\"%s\"}", clock_boot_id(), UUID);
    assert_int_equal(find(bench, UUID), -ESRCH);
    record(bench, "{\"pid\":-1,\"start_ticks\":0,\"boot_id\":\"%s\",\"uuid\":\"%s\"}", clock_boot_id(), UUID);
    assert_int_equal(find(bench, UUID), -ESRCH);
    record(bench, "half a fil");
    assert_int_equal(find(bench, UUID), -ESRCH);
}

static void test_ended(void **state) {
    struct bench *bench = *state;

    assert_int_equal(process_signal(&bench->process, SIGKILL), 0);
    assert_int_equal(waitpid(bench->process.pid, NULL, 0), bench->process.pid);
    assert_int_equal(find(bench, UUID), -ESRCH);
}

/* One that cannot be looked at for want of descriptors or memory is never taken for gone. */
static void test_shortage(void **state) {
    struct bench *bench = *state;
    struct rlimit before, limit;
    bool failed = false;
    int spare = fcntl(0, F_DUPFD_CLOEXEC, 3), r = -1;

    assert_true(spare >= 3);
    close(spare);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    (void) clock_boot_id();
    for (limit.rlim_cur = (rlim_t) spare; r < 0; limit.rlim_cur++) {
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        r = find(bench, UUID);
        assert_true(r == 0 || r == -EMFILE);
        failed = failed || r < 0;
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_true(failed);
#ifndef OWN_ALLOCATOR
    r = -1;
    for (long i = 1; r < 0; i++) {
        left_until = i;
        left_failing = 1;
        r = find(bench, UUID);
        left_failing = 0;
        assert_true(r == 0 || r == -ENOMEM);
        assert_true(r == -ENOMEM || i > 1);
    }
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_found, bench_init, bench_done),
        cmocka_unit_test_setup_teardown(test_stale, bench_init, bench_done),
        cmocka_unit_test_setup_teardown(test_ended, bench_init, bench_done),
        cmocka_unit_test_setup_teardown(test_shortage, bench_init, bench_done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
