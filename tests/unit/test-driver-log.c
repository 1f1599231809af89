// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include "drivers/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"

struct place {
    char path[32];
};

static int setup(void **state) {
    struct place *place = calloc(1, sizeof(*place));

    strcpy(place->path, "/tmp/polder-log.XXXXXX");
    *state = place;
    return mkdtemp(place->path) ? 0 : -1;
}

static int teardown(void **state) {
    struct place *place = *state;

    file_remove_tree(AT_FDCWD, place->path);
    free(place);
    return 0;
}

static uint64_t bytes_used(const struct place *place) {
    static const char *const names[] = { "log", "log.1", "log.keep" };
    uint64_t sum = 0;

    for (size_t i = 0; i < ELEMENTS(names); i++) {
        _cleanup_free_ char *path = text_format("%s/%s", place->path, names[i]);
        struct stat status;
        if (stat(path, &status) == 0)
            sum += (uint64_t) status.st_size;
    }
    return sum;
}

static void put(const struct place *place, const char *name, const char *text) {
    _cleanup_free_ char *path = text_format("%s/%s", place->path, name);
    FILE *file = fopen(path, "a");

    fputs(text, file);
    fclose(file);
}

static void expect(struct log_reader *reader, const char *text, bool partial, enum stream_channel channel) {
    struct log_entry entry;

    assert_int_equal(log_reader_next(reader, &entry), 1);
    assert_int_equal(entry.size, strlen(text));
    assert_memory_equal(entry.text, text, entry.size);
    assert_int_equal(entry.partial, partial);
    assert_int_equal(entry.channel, channel);
    assert_int_equal(entry.time[10], 'T');
}

static void expect_end(struct log_reader *reader) {
    struct log_entry entry;

    assert_int_equal(log_reader_next(reader, &entry), 0);
}

static void test_lines(void **state) {
    struct place *place = *state;
    struct log_file *log;
    struct log_reader *reader;

    assert_int_equal(log_file_open(place->path, 1 << 20, &log), 0);
    log_file_add(log, STREAM_OUTPUT, "one\ntwo\nthr", 11);
    log_file_add(log, STREAM_ERRORS, "bad\n", 4);
    log_file_add(log, STREAM_OUTPUT, "ee\n\n", 4);
    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    expect(reader, "one", false, STREAM_OUTPUT);
    expect(reader, "two", false, STREAM_OUTPUT);
    expect(reader, "thr", true, STREAM_OUTPUT);
    expect(reader, "bad", false, STREAM_ERRORS);
    expect(reader, "ee", false, STREAM_OUTPUT);
    expect(reader, "", false, STREAM_OUTPUT);
    expect_end(reader);
    log_file_add(log, STREAM_OUTPUT, "more\n", 5);
    expect(reader, "more", false, STREAM_OUTPUT);
    expect_end(reader);
    log_reader_free(reader);
    assert_int_equal(log_reader_open(place->path, 2, &reader), 0);
    expect(reader, "", false, STREAM_OUTPUT);
    expect(reader, "more", false, STREAM_OUTPUT);
    expect_end(reader);
    log_reader_free(reader);
    log_file_free(log);
}

/* The kernel copies the lower ones for who asks whether storage answers, and closing such a copy may hang. */
static void test_descriptors(void **state) {
    struct place *place = *state;
    struct log_file *log;
    struct stat status, wanted;
    _cleanup_free_ char *path = text_format("%s/log", place->path);

    assert_int_equal(log_file_open(place->path, 1000, &log), 0);
    for (int i = 0; i < 50; i++) /* rotated meanwhile */
        log_file_add(log, STREAM_OUTPUT, "line\n", 5);
    assert_int_equal(stat(path, &wanted), 0);
    for (int fd = 0; fd < 64; fd++)
        assert_true(fstat(fd, &status) < 0 || status.st_ino != wanted.st_ino || status.st_dev != wanted.st_dev);
    log_file_free(log);
}

static void test_bound(void **state) {
    struct place *place = *state;
    struct log_file *log;
    struct log_reader *reader;
    struct log_entry entry;
    char text[100], last[100] = "";
    int lines = 0;

    assert_int_equal(log_file_open(place->path, 64 * 1024, &log), 0);
    for (int i = 0; i < 5000; i++) {
        log_file_add(log, STREAM_OUTPUT, text, (size_t) snprintf(text, sizeof(text), "line %d\n", i));
        assert_true(bytes_used(place) <= 64 * 1024);
    }
    log_file_free(log);
    /* Opening again counts what is there. */
    assert_int_equal(log_file_open(place->path, 64 * 1024, &log), 0);
    for (int i = 5000; i < 6000; i++)
        log_file_add(log, STREAM_OUTPUT, text, (size_t) snprintf(text, sizeof(text), "line %d\n", i));
    assert_true(bytes_used(place) <= 64 * 1024);
    log_file_free(log);
    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    while (log_reader_next(reader, &entry) == 1) {
        snprintf(last, sizeof(last), "%.*s", (int) entry.size, entry.text);
        lines++;
    }
    assert_string_equal(last, "line 5999");
    assert_true(lines > 500);
    log_reader_free(reader);
}

static void test_long_line(void **state) {
    struct place *place = *state;
    struct log_file *log;
    struct log_reader *reader;
    struct log_entry entry;
    size_t size = 100 * 1000, total = 0;
    char *text = malloc(size + 1);
    bool whole = false;

    memset(text, 'x', size);
    text[size] = '\n';
    assert_int_equal(log_file_open(place->path, 1 << 20, &log), 0);
    log_file_add(log, STREAM_OUTPUT, text, size + 1);
    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    while (log_reader_next(reader, &entry) == 1) {
        total += entry.size;
        whole = !entry.partial;
    }
    assert_int_equal(total, size);
    assert_true(whole);
    log_reader_free(reader);
    log_file_free(log);
    free(text);
}

static void test_follow_rotation(void **state) {
    struct place *place = *state;
    struct log_file *log;
    struct log_reader *reader;
    struct log_entry entry;
    char text[100];
    int seen = 0;

    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    expect_end(reader);
    assert_int_equal(log_file_open(place->path, 8 * 1024, &log), 0);
    for (int i = 0; i < 1000; i++) {
        log_file_add(log, STREAM_OUTPUT, text, (size_t) snprintf(text, sizeof(text), "line %d\n", i));
        while (log_reader_next(reader, &entry) == 1) {
            snprintf(text, sizeof(text), "line %d", seen++);
            assert_memory_equal(entry.text, text, entry.size);
        }
    }
    assert_int_equal(seen, 1000);
    log_file_free(log);
    log_reader_free(reader);
}

/* What conmon leaves: "log" with a second name "log.keep", and after a rotation the two apart. */
static void test_kept_name(void **state) {
    struct place *place = *state;
    struct log_reader *reader;
    _cleanup_free_ char *log = text_format("%s/log", place->path), *keep = text_format("%s/log.keep", place->path);

    put(place, "log.1", "2026-11-21T08:52:00.1+00:00 stdout F a\n");
    put(place, "log", "2026-11-21T08:52:00.1+00:00 stdout F b\n");
    assert_int_equal(link(log, keep), 0);
    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    expect(reader, "a", false, STREAM_OUTPUT);
    expect(reader, "b", false, STREAM_OUTPUT);
    expect_end(reader);
    unlink(log);
    put(place, "log", "2026-11-21T08:52:00.1+00:00 stdout F c\n");
    expect(reader, "c", false, STREAM_OUTPUT);
    expect_end(reader);
    log_reader_free(reader);
    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    expect(reader, "a", false, STREAM_OUTPUT);
    expect(reader, "b", false, STREAM_OUTPUT);
    expect(reader, "c", false, STREAM_OUTPUT);
    expect_end(reader);
    log_reader_free(reader);
}

static void test_damage(void **state) {
    struct place *place = *state;
    struct log_reader *reader;
    struct log_file *log;

    put(place, "log", "rubbish\n\n \n2026\n2026-11-21T08:52:00.1+00:00 stdin F b\n2026-11-21T08:52:00.1+00:00 stdout X b\n"
                      "2026-11-21T08:52:00.1+00:00 stdout F good\n2026-11-21T08:52:00.1+00:00 stdout F cut");
    assert_int_equal(log_file_open(place->path, 1 << 20, &log), 0);
    log_file_add(log, STREAM_OUTPUT, "next\n", 5);
    log_file_free(log);
    assert_int_equal(log_reader_open(place->path, -1, &reader), 0);
    expect(reader, "good", false, STREAM_OUTPUT);
    expect(reader, "cut", false, STREAM_OUTPUT);
    expect(reader, "next", false, STREAM_OUTPUT);
    expect_end(reader);
    log_reader_free(reader);
    assert_int_equal(log_reader_open("/nonexistent", -1, &reader), -ENOENT);
}

static void test_link_refused(void **state) {
    struct place *place = *state;
    _cleanup_free_ char *path = text_format("%s/log", place->path), *other = text_format("%s/other", place->path);
    struct log_file *log;
    struct stat status;

    put(place, "other", "somebody else's\n");
    assert_int_equal(symlink(other, path), 0);
    assert_int_equal(log_file_open(place->path, 1 << 20, &log), 0);
    log_file_add(log, STREAM_OUTPUT, "never written\n", 14);
    log_file_free(log);
    assert_int_equal(stat(other, &status), 0);
    assert_int_equal(status.st_size, 16);
}

/* A pipe in the log's place that nobody reads: who opens it to write waits, as for storage that hangs. */
static int hanging_main(void *userdata) {
    struct place *place = userdata;
    _cleanup_free_ char *path = text_format("%s/log", place->path);
    struct log_file *log;
    char text[512] = "";
    uint64_t begun = clock_now();
    size_t size = 0;
    long n;
    int fd;

    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(log_file_open(place->path, 1 << 20, &log), 0);
    log_file_add(log, STREAM_OUTPUT, "one\n", 4);
    assert_true(clock_now() - begun >= CLOCK_SECOND / 2);
    begun = clock_now();
    for (int i = 0; i < 1000; i++)
        log_file_add(log, STREAM_OUTPUT, "two\n", 4);
    assert_true(clock_now() - begun < 30 * CLOCK_SECOND);
    log_file_free(log); /* what is under way goes on */
    fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    assert_true(fd >= 0);
    while (size < sizeof(text) - 1 && (n = fiber_read(fd, text + size, sizeof(text) - 1 - size, deadline_in(30 * CLOCK_SECOND))) > 0)
        size += (size_t) n;
    assert_non_null(strstr(text, " F one\n"));
    assert_non_null(strstr(text, " F two\n"));
    while (fiber_read(fd, text, sizeof(text), deadline_in(30 * CLOCK_SECOND)) > 0)
        ;
    close(fd);
    loop_exit(0);
    return 0;
}

static void test_hanging_storage(void **state) {
    assert_int_equal(loop_init(), 0);
    assert_int_equal(fiber_start(NULL, "hanging", hanging_main, *state), 0);
    assert_int_equal(loop_run(), 0);
    loop_done();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bound, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_follow_rotation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kept_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_link_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hanging_storage, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
