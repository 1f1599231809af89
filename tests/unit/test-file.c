// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/map.h"
#include "base/text.h"
#include "base/uuid.h"

/* Files, maps and buffers. */

static int make_directory(void **state) {
    char path[] = "/tmp/polder-test-XXXXXX";
    int *fd = malloc(sizeof(*fd));

    *fd = open(mkdtemp(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *state = fd;
    return *fd < 0;
}

static int remove_directory(void **state) {
    _cleanup_free_ char *link = text_format("/proc/self/fd/%d", *(int *) *state);
    char path[256] = "";
    int r;

    if (readlink(link, path, sizeof(path) - 1) < 0)
        return -1;
    r = file_remove_tree(AT_FDCWD, path);
    close(*(int *) *state);
    free(*state);
    return r;
}

static void test_read_and_write(void **state) {
    _cleanup_free_ char *text = NULL;
    int at = *(int *) *state;
    struct stat status;
    size_t size;

    assert_int_equal(file_write_atomic(at, "a", "hello", 5, 0640, true), 0);
    assert_int_equal(file_write_atomic(at, "a", "world", 5, 0640, true), 0);
    assert_int_equal(file_read(at, "a", 5, &text, &size), 0);
    assert_string_equal(text, "world");
    assert_int_equal(size, 5);
    assert_int_equal(fstatat(at, "a", &status, 0), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
    free(text);
    text = NULL;
    assert_int_equal(file_read(at, "a", 4, &text, NULL), -EFBIG);
    assert_int_equal(file_read(at, "absent", 4, &text, NULL), -ENOENT);
    assert_int_equal(file_write_value(at, "absent", "x"), -ENOENT);
    assert_int_equal(file_write_atomic(at, "no/such", "x", 1, 0600, false), -ENOENT);
    assert_int_equal(file_read(AT_FDCWD, "/proc/self/stat", 65536, &text, &size), 0);
    assert_true(size > 0);
}

static void test_beneath(void **state) {
    int at = *(int *) *state;

    assert_int_equal(file_make_directories(at, "in/side", 0755), 0);
    assert_int_equal(symlinkat("/etc", at, "in/out"), 0);
    assert_int_equal(symlinkat("side", at, "in/near"), 0);
    assert_int_equal(file_open_beneath(at, "../etc", O_RDONLY, 0, false), -EXDEV);
    assert_int_equal(file_open_beneath(at, "/etc", O_RDONLY, 0, false), -EXDEV);
    assert_int_equal(file_open_beneath(at, "in/out/passwd", O_RDONLY, 0, false), -EXDEV);
    assert_int_equal(file_open_beneath(at, "in/near", O_RDONLY, 0, true), -ELOOP);
    close_fd(file_open_beneath(at, "in/near", O_RDONLY, 0, false));
}

static void test_directories(void **state) {
    int at = *(int *) *state;

    assert_int_equal(file_make_directories(at, "x/y/z", 0700), 0);
    assert_int_equal(file_make_directories(at, "x/y/z", 0700), 0);
    assert_int_equal(file_write_atomic(at, "x/f", "", 0, 0600, false), 0);
    assert_int_equal(file_make_directories(at, "x/f", 0700), -ENOTDIR);
    assert_true(file_exists(at, "x/y"));
    assert_int_equal(file_remove_tree(at, "x"), 0);
    assert_false(file_exists(at, "x"));
    assert_int_equal(file_remove_tree(at, "x"), 0);
    assert_int_equal(file_remove_tree(at, "no/such/path"), 0);
    assert_int_equal(file_remove_tree(at, "."), -EINVAL);
    assert_int_equal(file_remove_tree(at, ""), -EINVAL);
}

/* A guest may nest as deep as it likes. */
static void test_remove_deep(void **state) {
    int at = *(int *) *state;
    int fd = dup(at);

    for (int i = 0; i < 3000; i++) {
        int next;

        assert_int_equal(mkdirat(fd, "d", 0755), 0);
        if (i % 100 == 0)
            assert_int_equal(symlinkat("/etc", fd, "link"), 0);
        next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(fd);
        fd = next;
    }
    close(fd);
    assert_int_equal(unlinkat(at, "link", 0), 0);
    assert_int_equal(file_remove_tree(at, "d"), 0);
    assert_false(file_exists(at, "d"));
    assert_true(file_exists(AT_FDCWD, "/etc/passwd"));
}

static void test_copy_sparse(void **state) {
    int at = *(int *) *state;
    _cleanup_close_ int source = openat(at, "source", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    _cleanup_close_ int target = openat(at, "target", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct stat status;
    char byte;

    assert_int_equal(pwrite(source, "x", 1, 10 << 20), 1);
    assert_int_equal(ftruncate(source, 64 << 20), 0);
    assert_int_equal(file_copy_sparse(source, target), 0);
    assert_int_equal(fstat(target, &status), 0);
    assert_int_equal(status.st_size, 64 << 20);
    assert_true(status.st_blocks * 512 < 4 << 20);
    assert_int_equal(pread(target, &byte, 1, 10 << 20), 1);
    assert_int_equal(byte, 'x');
}

static void test_start_time(void **state) {
    uint64_t ticks;

    assert_int_equal(proc_start_time(getpid(), &ticks), 0);
    assert_true(ticks > 0);
    assert_int_equal(proc_start_time(0x3fffffff, &ticks), -ESRCH);
}

static void test_ending(void **state) {
    siginfo_t info;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(0);
    assert_false(proc_is_ending(getpid()));
    assert_int_equal(waitid(P_PID, (id_t) pid, &info, WEXITED | WNOWAIT), 0);
    assert_true(proc_is_ending(pid)); /* dead, not yet reaped */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(proc_is_ending(pid));
}

static void test_map(void **state) {
    _cleanup_map_ struct map *map = NULL;
    static char keys[2000][12];
    size_t position = 0;
    size_t seen = 0;

    assert_int_equal(map_new(&map), 0);
    assert_null(map_get(map, "x"));
    assert_null(map_remove(map, "x"));
    for (int i = 0; i < 2000; i++) {
        snprintf(keys[i], sizeof(keys[i]), "key-%d", i);
        assert_int_equal(map_put(map, keys[i], keys[i]), 0);
    }
    assert_int_equal(map_put(map, "key-7", map), -EEXIST);
    for (int i = 0; i < 2000; i += 2)
        assert_ptr_equal(map_remove(map, keys[i]), keys[i]);
    for (int i = 0; i < 2000; i++)
        assert_ptr_equal(map_get(map, keys[i]), i % 2 ? keys[i] : NULL);
    assert_int_equal(map_count(map), 1000);
    while (map_next(map, &position, NULL, NULL))
        seen++;
    assert_int_equal(seen, 1000);
}

static void test_buffer(void **state) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    char *text;

    assert_int_equal(buffer_take(&buffer, &text), 0);
    assert_string_equal(text, "");
    free(text);
    for (int i = 0; i < 1000; i++)
        buffer_addf(&buffer, "%d%s", i, "................................................................");
    buffer_consume(&buffer, 65);
    assert_int_equal(strncmp(buffer.data, "1....", 5), 0);
    buffer_consume(&buffer, 1 << 30);
    assert_int_equal(buffer.size, 0);
    buffer_reserve(&buffer, SIZE_MAX - 10);
    assert_true(buffer.failed);
    buffer_add_text(&buffer, "x");
    assert_int_equal(buffer_take(&buffer, &text), -ENOMEM);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read_and_write, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_beneath, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_directories, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_remove_deep, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_copy_sparse, make_directory, remove_directory),
        cmocka_unit_test(test_start_time),
        cmocka_unit_test(test_ending),
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
