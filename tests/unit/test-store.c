// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fiber.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "store-contract.h"
#include "store/fault.h"
#include "store/internal.h"

/* The SQLite store: the contract, then what is its own: files, locks, damage, migrations, faults of the disk.
 */

static char directory[] = "/tmp/polder-store-XXXXXX";
static int counter;

static char *fresh_path(void) {
    return text_format("%s/%d.db", directory, counter++);
}

static int open_fresh(struct store **ret) {
    _cleanup_free_ char *path = fresh_path();

    return store_open_sqlite(path, ret, NULL);
}

static struct store *open_at(const char *path) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct store *store = NULL;

    if (store_open_sqlite(path, &store, &error) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);

        fail_msg("open: %s", sentence);
    }
    return store;
}

static int put(struct store *store, const char *key, const char *value, struct error *error) {
    struct store_operation operation = {
        .type = STORE_PUT, .key = key, .value = value, .size = strlen(value)
    };

    return store_commit(store, &operation, 1, NULL, error);
}

static int delete (struct store *store, const char *key, struct error *error) {
    struct store_operation operation = { .type = STORE_DELETE, .key = key };

    return store_commit(store, &operation, 1, NULL, error);
}

static bool holds(struct store *store, const char *key, const char *value) {
    struct store_item item;
    bool equal;

    if (store_get(store, key, &item, NULL) < 0)
        return !value;
    equal = text_equal(item.value, value);
    store_item_done(&item);
    return equal;
}

static void expect_open_error(const char *path, enum error_code code, const char *part) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;
    struct store *store = NULL;

    assert_true(store_open_sqlite(path, &store, &error) < 0);
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    if (error.code != code || !strstr(sentence, part))
        fail_msg("%s, without '%s': %s", error_wire(error.code), part, sentence);
}

static void test_kept_across_openings(void **state) {
    _cleanup_free_ char *path = fresh_path();
    struct store *store = open_at(path);
    struct stat status;
    uint64_t revision;

    assert_int_equal(put(store, "/a", "1", NULL), 0);
    assert_int_equal(put(store, "/b", "1", NULL), 0);
    assert_int_equal(delete (store, "/b", NULL), 0);
    revision = store_revision(store);
    store_close(store);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    store = open_at(path);
    assert_true(holds(store, "/a", "1"));
    /* Revisions never repeat, though the last changed key is gone. */
    assert_int_equal(store_revision(store), revision);
    assert_int_equal(put(store, "/c", "1", NULL), 0);
    assert_int_equal(store_revision(store), revision + 1);
    store_close(store);
}

static void test_second_daemon(void **state) {
    _cleanup_free_ char *path = fresh_path();
    _cleanup_free_ char *pid = text_format("process %d", (int) getpid());
    struct store *store = open_at(path);

    expect_open_error(path, ERROR_BUSY, pid);
    store_close(store);
    store_close(open_at(path));
}

static void overwrite(const char *path, off_t at, const char *bytes, size_t size) {
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    assert_int_equal(pwrite(fd, bytes, size, at), size);
}

static void test_damage(void **state) {
    _cleanup_free_ char *path = fresh_path();
    struct store *store = open_at(path);
    char key[16];
    char garbage[8192];

    for (int i = 0; i < 200; i++) {
        snprintf(key, sizeof(key), "/k/%d", i);
        assert_int_equal(put(store, key, "some value that takes a little room", NULL), 0);
    }
    store_close(store);
    memset(garbage, 0xa5, sizeof(garbage));
    overwrite(path, 8192, garbage, sizeof(garbage));
    expect_open_error(path, ERROR_CORRUPT_STORE, ".good");
    overwrite(path, 0, garbage, 100);
    expect_open_error(path, ERROR_CORRUPT_STORE, ".good");
    assert_int_equal(truncate(path, 0), 0);
    expect_open_error(path, ERROR_CORRUPT_STORE, ".good");
}

static void test_good_copy_is_good(void **state) {
    _cleanup_free_ char *path = fresh_path();
    _cleanup_free_ char *good = text_format("%s.good", path);
    struct store *store = open_at(path);
    struct stat status;

    assert_int_equal(put(store, "/a", "1", NULL), 0);
    assert_int_equal(store_keep(store, NULL), 0);
    assert_int_equal(stat(good, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(put(store, "/a", "2", NULL), 0);
    assert_int_equal(store_keep(store, NULL), 0);
    store_close(store);
    assert_int_equal(rename(good, path), 0);
    store = open_at(path);
    assert_true(holds(store, "/a", "2"));
    store_close(store);
}

static void test_check_and_copy(void **state) {
    _cleanup_free_ char *path = fresh_path();
    _cleanup_free_ char *copy = fresh_path();
    struct store *store = open_at(path);
    struct store_statistics statistics;
    char *problem = NULL;

    assert_int_equal(put(store, "/a", "1", NULL), 0);
    assert_int_equal(store_check(store, &problem, NULL), 0);
    assert_null(problem);
    assert_int_equal(store_copy(store, copy, NULL), 0);
    store_statistics(store, &statistics);
    assert_int_equal(statistics.commits, 1);
    assert_true(statistics.size > 0);
    store_close(store);
    store = open_at(copy);
    assert_true(holds(store, "/a", "1"));
    store_close(store);
}

static void exec_sql(const char *path, const char *sql) {
    sqlite3 *db;
    char *message = NULL;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void test_newer_and_foreign(void **state) {
    _cleanup_free_ char *newer = fresh_path();
    _cleanup_free_ char *foreign = fresh_path();

    store_close(open_at(newer));
    exec_sql(newer, "PRAGMA user_version=99");
    expect_open_error(newer, ERROR_NEWER_STORE, "99");
    exec_sql(foreign, "CREATE TABLE x (y)");
    expect_open_error(foreign, ERROR_CORRUPT_STORE, "another program");
}

/* The schemas that were ever released, as SQL text: each opens and keeps its data. */
static void test_old_schemas(void **state) {
    for (int schema = 1; schema <= STORE_SCHEMA; schema++) {
        _cleanup_free_ char *fixture =
            text_format("%s/data/store-schema-%d.sql", getenv("POLDER_TEST_SOURCES"), schema);
        _cleanup_free_ char *path = fresh_path();
        _cleanup_free_ char *kept = text_format("%s.schema-%d", path, schema);
        _cleanup_free_ char *sql = NULL;
        struct store *store;

        assert_int_equal(file_read(AT_FDCWD, fixture, 1 << 20, &sql, NULL), 0);
        exec_sql(path, sql);
        store = open_at(path);
        assert_true(
            holds(store, "/instance/default/11111111-1111-4111-8111-111111111111", "{\"name\":\"web-1\"}"));
        assert_int_equal(store_revision(store), 7);
        assert_int_equal(put(store, "/new", "1", NULL), 0);
        assert_int_equal(store_revision(store), 8);
        store_close(store);
        assert_int_equal(file_exists(AT_FDCWD, kept), schema < STORE_SCHEMA);
    }
}

static int prepare(const char *path, const char *const *steps, int count, struct error *error) {
    sqlite3 *db = NULL;
    int r = database_open(path, true, &db, error);

    if (r == 0)
        r = schema_prepare(db, path, steps, count, error);
    database_close(db);
    return r;
}

/* Steps forward: one transaction after a copy, and a step that fails leaves the old schema. */
static void test_migration(void **state) {
    const char *const good[] = { schema_steps[0], "CREATE TABLE extra (x); INSERT INTO extra VALUES (1)",
                                 "ALTER TABLE extra ADD COLUMN y" };
    const char *const bad[] = { schema_steps[0], "CREATE TABLE extra (x)", "INSERT INTO nowhere VALUES (1)" };
    _cleanup_free_ char *path = fresh_path();
    _cleanup_free_ char *kept = text_format("%s.schema-1", path);
    _cleanup_error_ struct error error = ERROR_INIT;
    struct store *store;

    store = open_at(path);
    assert_int_equal(put(store, "/a", "1", NULL), 0);
    store_close(store);
    assert_true(prepare(path, bad, 3, &error) < 0);
    store = open_at(path); /* still schema 1 */
    assert_true(holds(store, "/a", "1"));
    store_close(store);
    assert_int_equal(prepare(path, good, 3, NULL), 0);
    assert_int_equal(prepare(path, good, 3, NULL), 0);
    exec_sql(path, "INSERT INTO extra (x, y) VALUES (2, 3)");
    expect_open_error(path, ERROR_NEWER_STORE, "3");
    store = open_at(kept);
    assert_true(holds(store, "/a", "1"));
    store_close(store);
}

static void test_leases_outlive_a_restart(void **state) {
    _cleanup_free_ char *path = fresh_path();
    struct store_operation operation = { .type = STORE_PUT, .key = "/l", .value = "1", .size = 1 };
    struct store *store = open_at(path);

    assert_int_equal(store_lease_grant(store, 3600 * CLOCK_SECOND, &operation.lease, NULL), 0);
    assert_int_equal(store_commit(store, &operation, 1, NULL, NULL), 0);
    store_close(store);
    store = open_at(path);
    assert_int_equal(store_lease_renew(store, operation.lease), 0);
    assert_int_equal(store_lease_revoke(store, operation.lease, NULL), 0);
    assert_true(holds(store, "/l", NULL));
    store_close(store);
}

/* Kills at any moment lose nothing that was acknowledged. */
static void test_killed(void **state) {
    _cleanup_free_ char *path = fresh_path();
    int pipe_fds[2];
    int acknowledged = 0;
    char byte;
    pid_t pid;
    struct store *store;
    char key[16];

    assert_int_equal(pipe(pipe_fds), 0);
    pid = fork();
    if (pid == 0) {
        close(pipe_fds[0]);
        store = open_at(path);
        for (int i = 0;; i++) {
            snprintf(key, sizeof(key), "/k/%d", i);
            if (put(store, key, "v", NULL) < 0 || write(pipe_fds[1], "x", 1) != 1)
                _exit(1);
        }
    }
    close(pipe_fds[1]);
    while (acknowledged < 50 && read(pipe_fds[0], &byte, 1) == 1)
        acknowledged++;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    while (read(pipe_fds[0], &byte, 1) == 1)
        acknowledged++;
    close(pipe_fds[0]);
    assert_true(acknowledged >= 50);
    store = open_at(path);
    for (int i = 0; i < acknowledged; i++) {
        snprintf(key, sizeof(key), "/k/%d", i);
        assert_true(holds(store, key, "v"));
    }
    store_close(store);
}

/* A failed fsync ends the process with status 70; what was acknowledged before is there. */
static void test_fsync_error(void **state) {
    _cleanup_free_ char *path = fresh_path();
    struct store *store;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        log_set_level((enum log_level) 0);
        store = open_at(path);
        if (put(store, "/a", "1", NULL) < 0)
            _exit(1);
        atomic_store(&fault_now()->sync_error, EIO);
        put(store, "/b", "1", NULL);
        _exit(2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 70);
    store = open_at(path);
    assert_true(holds(store, "/a", "1"));
    store_close(store);
}

static int commit_main(void *userdata) {
    return put(userdata, "/slow", "1", NULL);
}

struct latencies {
    struct store *store;
    uint64_t all[400];
};

static int compare_numbers(const void *a, const void *b) {
    return (*(const uint64_t *) a > *(const uint64_t *) b) - (*(const uint64_t *) a < *(const uint64_t *) b);
}

/* Reads while a commit waits half a second for the disk: none of them waits with it. */
static void measure_reads(void *userdata) {
    struct latencies *latencies = userdata;
    struct fiber *fiber = NULL;
    int result = -1;

    for (size_t i = 0; i < ELEMENTS(latencies->all); i++) {
        uint64_t started;

        if (!fiber || fiber_is_done(fiber)) {
            if (fiber)
                fiber_unref(fiber);
            if (fiber_start(&fiber, "commit", commit_main, latencies->store) < 0)
                abort();
            fiber_yield();
        }
        started = clock_now();
        if (!holds(latencies->store, "/a", "1"))
            abort();
        latencies->all[i] = clock_now() - started;
        fiber_sleep(CLOCK_MILLISECOND);
    }
    fiber_join(fiber, DEADLINE_NONE, &result);
    fiber_unref(fiber);
    if (result < 0)
        abort();
}

/* The bound is the product's own. A host that is busy with other things may miss it by itself, so the best of
 * three rounds counts: a read that waited for the disk would miss it by two orders each time. */
static void test_reads_never_wait_for_fsync(void **state) {
    uint64_t best = UINT64_MAX;

    for (int round = 0; round < 3 && best > 5 * CLOCK_MILLISECOND; round++) {
        struct latencies latencies = { 0 };
        struct store_statistics statistics;

        assert_int_equal(open_fresh(&latencies.store), 0);
        assert_int_equal(put(latencies.store, "/a", "1", NULL), 0);
        atomic_store(&fault_now()->sync_delay_ms, 500);
        on_fiber(measure_reads, &latencies);
        atomic_store(&fault_now()->sync_delay_ms, 0);
        qsort(latencies.all, ELEMENTS(latencies.all), sizeof(latencies.all[0]), compare_numbers);
        if (latencies.all[396] < best)
            best = latencies.all[396];
        store_statistics(latencies.store, &statistics);
        assert_true(statistics.fsync_us_max >= 500000);
        store_close(latencies.store);
    }
    print_message("reads beside a 500 ms fsync: p99 %llu us\n", (unsigned long long) best);
    assert_true(best <= 5 * CLOCK_MILLISECOND);
}

struct group {
    struct store *store;
    int number;
};

static int group_main(void *userdata) {
    struct group *group = userdata;
    char key[16];

    snprintf(key, sizeof(key), "/g/%d", group->number);
    return put(group->store, key, "1", NULL);
}

static void commit_together(void *userdata) {
    struct store *store = userdata;
    struct group groups[100];
    struct fiber *fibers[100];

    for (int i = 0; i < 100; i++) {
        groups[i] = (struct group){ store, i };
        if (fiber_start(&fibers[i], "group", group_main, &groups[i]) < 0)
            abort();
    }
    for (int i = 0; i < 100; i++) {
        int result = -1;

        if (fiber_join(fibers[i], DEADLINE_NONE, &result) < 0 || result < 0)
            abort();
        fiber_unref(fibers[i]);
    }
}

static void test_one_fsync_for_many(void **state) {
    struct store_statistics statistics;
    struct store *store;
    int before;

    assert_int_equal(open_fresh(&store), 0);
    assert_int_equal(put(store, "/first", "1", NULL), 0);
    before = atomic_load(&fault_now()->syncs);
    atomic_store(&fault_now()->sync_delay_ms, 50);
    on_fiber(commit_together, store);
    atomic_store(&fault_now()->sync_delay_ms, 0);
    store_statistics(store, &statistics);
    assert_int_equal(statistics.transactions, 101);
    assert_true(atomic_load(&fault_now()->syncs) - before <= 10);
    store_close(store);
}

/* The n-th write finds no space, for each n: an error, nothing half done, and the next try succeeds. */
static void test_no_space_at_each_write(void **state) {
    for (int n = 1; n <= 6; n++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        struct store *store;
        int r;

        assert_int_equal(open_fresh(&store), 0);
        assert_int_equal(put(store, "/a", "1", NULL), 0);
        atomic_store(&fault_now()->write_from, n);
        atomic_store(&fault_now()->write_error, ENOSPC);
        r = put(store, "/a", "2", &error);
        atomic_store(&fault_now()->write_error, 0);
        assert_true(r == 0 || error.code == ERROR_NO_SPACE);
        assert_true(holds(store, "/a", r == 0 ? "2" : "1"));
        assert_int_equal(put(store, "/a", "3", NULL), 0);
        assert_true(holds(store, "/a", "3"));
        store_close(store);
    }
}

static void test_write_error(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct store *store;

    assert_int_equal(open_fresh(&store), 0);
    assert_int_equal(put(store, "/a", "1", NULL), 0);
    atomic_store(&fault_now()->write_from, 1);
    atomic_store(&fault_now()->write_error, EIO);
    assert_true(put(store, "/a", "2", &error) < 0);
    assert_int_equal(error.code, ERROR_READ_ONLY_STORE);
    atomic_store(&fault_now()->write_error, 0);
    assert_int_equal(put(store, "/a", "2", NULL), 0);
    store_close(store);
}

static void fill_disk(const char *path) {
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    static const char block[4096];

    while (write(fd, block, sizeof(block)) > 0)
        continue;
    assert_int_equal(errno, ENOSPC);
}

/* A real file system with 0 bytes free: creating is refused, stopping and deleting work, and so does a
 * restart. */
static void test_full_disk(void **state) {
    _cleanup_free_ char *mount_point = text_format("%s/full", directory);
    _cleanup_free_ char *path = text_format("%s/full/db", directory);
    _cleanup_free_ char *filler = text_format("%s/full/filler", directory);
    _cleanup_free_ char *large = calloc(1, 100001);
    struct store_operation stop = { .type = STORE_PUT, .key = "/i/1", .value = "stopped", .size = 7 };
    _cleanup_error_ struct error error = ERROR_INIT;
    struct store *store;
    char key[16];

    assert_int_equal(mkdir(mount_point, 0700), 0);
    if (mount("tmpfs", mount_point, "tmpfs", 0, "size=16m") < 0) {
        print_message("skipped: no tmpfs can be mounted here (%s)\n", strerror(errno));
        skip();
    }
    store = open_at(path);
    memset(large, 'x', 100000);
    for (int i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "/i/%d", i);
        assert_int_equal(put(store, key, large, NULL), 0);
    }
    fill_disk(filler);
    assert_true(put(store, "/i/new", large, &error) < 0);
    assert_int_equal(error.code, ERROR_NO_SPACE);
    assert_int_equal(store_commit_urgent(store, &stop, 1, NULL, NULL), 0);
    for (int i = 2; i < 20; i++) {
        snprintf(key, sizeof(key), "/i/%d", i);
        assert_int_equal(delete (store, key, NULL), 0);
    }
    assert_true(holds(store, "/i/1", "stopped"));
    fill_disk(filler);
    store_close(store);
    store = open_at(path);
    assert_true(holds(store, "/i/1", "stopped"));
    assert_true(holds(store, "/i/2", NULL));
    assert_int_equal(unlink(filler), 0);
    assert_int_equal(put(store, "/i/new", large, NULL), 0);
    store_close(store);
    assert_int_equal(umount2(mount_point, MNT_DETACH), 0);
}

/* Somebody else holds the write lock: the change is refused as busy, reads go on, and later it works. */
static void test_locked_by_another(void **state) {
    _cleanup_free_ char *path = fresh_path();
    struct store *store = open_at(path);
    _cleanup_error_ struct error error = ERROR_INIT;
    sqlite3 *db;

    assert_int_equal(put(store, "/a", "1", NULL), 0);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_true(put(store, "/a", "2", &error) < 0);
    assert_int_equal(error.code, ERROR_BUSY);
    assert_true(holds(store, "/a", "1"));
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(put(store, "/a", "2", NULL), 0);
    store_close(store);
}

static int set_up(void **state) {
    return mkdtemp(directory) && loop_init() >= 0 ? 0 : -1;
}

static int tear_down(void **state) {
    loop_done();
    return file_remove_tree(AT_FDCWD, directory);
}

int main(void) {
    static const struct store_contract contract = { .open = open_fresh, .close = store_close };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_across_openings),
        cmocka_unit_test(test_second_daemon),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_good_copy_is_good),
        cmocka_unit_test(test_check_and_copy),
        cmocka_unit_test(test_newer_and_foreign),
        cmocka_unit_test(test_old_schemas),
        cmocka_unit_test(test_migration),
        cmocka_unit_test(test_leases_outlive_a_restart),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_fsync_error),
        cmocka_unit_test(test_reads_never_wait_for_fsync),
        cmocka_unit_test(test_one_fsync_for_many),
        cmocka_unit_test(test_no_space_at_each_write),
        cmocka_unit_test(test_write_error),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_locked_by_another),
    };
    void *state = NULL;
    int failures;

    fault_register();
    if (set_up(&state) < 0)
        return 1;
    failures = store_contract_run(&contract);
    failures += cmocka_run_group_tests_name("store of SQLite", tests, NULL, NULL);
    return tear_down(&state) < 0 || failures > 0;
}
