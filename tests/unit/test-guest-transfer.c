// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/transfer.h"

/* One entry of a test archive. `link`: the target of a symbolic or hard link. */
struct entry {
    const char *name;
    unsigned type; /* AE_IF…, 0: hard link */
    const char *link;
};

struct place {
    char path[32];
    int root;   /* what the transfer may touch: PATH/root */
    int target; /* PATH/root/target */
};

static int set_up(void **state) {
    struct place *place = calloc(1, sizeof(*place));
    char path[64];

    strcpy(place->path, "/tmp/test-transfer-XXXXXX");
    if (!mkdtemp(place->path))
        return -1;
    snprintf(path, sizeof(path), "%s/root", place->path);
    mkdir(path, 0755);
    place->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mkdirat(place->root, "target", 0755);
    place->target = openat(place->root, "target", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    close(openat(place->root, "canary", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    *state = place;
    return place->target < 0 ? -1 : 0;
}

static int tear_down(void **state) {
    struct place *place = *state;
    char command[128];

    snprintf(command, sizeof(command), "rm -rf '%s'", place->path);
    close(place->root);
    close(place->target);
    free(place);
    return system(command) == 0 ? 0 : -1;
}

/* Writes the entries as they are into an unnamed file and rewinds it. Files hold their own name. */
static int make_archive(const struct entry *entries, size_t count) {
    int fd = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    struct archive *archive = archive_write_new();

    assert_true(fd >= 0);
    archive_write_set_format_pax_restricted(archive);
    archive_write_open_fd(archive, fd);
    for (size_t i = 0; i < count; i++) {
        struct archive_entry *entry = archive_entry_new();
        bool is_file = entries[i].type == AE_IFREG;

        archive_entry_set_pathname(entry, entries[i].name);
        archive_entry_set_filetype(entry, entries[i].type ? entries[i].type : AE_IFREG);
        archive_entry_set_perm(entry, 0750);
        archive_entry_set_uid(entry, getuid());
        archive_entry_set_gid(entry, getgid());
        archive_entry_set_mtime(entry, 1000000000, 0);
        archive_entry_set_size(entry, is_file ? (la_int64_t) strlen(entries[i].name) : 0);
        if (entries[i].type == AE_IFLNK)
            archive_entry_set_symlink(entry, entries[i].link);
        else if (entries[i].link)
            archive_entry_set_hardlink(entry, entries[i].link);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        if (is_file)
            archive_write_data(archive, entries[i].name, strlen(entries[i].name));
        archive_entry_free(entry);
    }
    archive_write_close(archive);
    archive_write_free(archive);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int put(struct place *place, const struct entry *entries, size_t count, struct reason *reason) {
    _cleanup_close_ int fd = make_archive(entries, count);

    return transfer_put(place->root, "/target", fd, reason);
}

static bool exists(int fd, const char *path) {
    return faccessat(fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void test_plain(void **state) {
    static const struct entry entries[] = {
        { "./", AE_IFDIR, NULL },
        { "./a/", AE_IFDIR, NULL },
        { "a/file", AE_IFREG, NULL },
        { "a/hard", 0, "./a/file" },
        { "link", AE_IFLNK, "/etc/passwd" },
        { "new/parents/f", AE_IFREG, NULL },
        { "a/fifo", AE_IFIFO, NULL },
        { "a/file2", AE_IFREG, NULL },
        { "a/file2", AE_IFREG, NULL },
    };
    struct reason reason = REASON_INIT;
    struct place *place = *state;
    struct stat status;
    char target[32] = { 0 };

    if (put(place, entries, ELEMENTS(entries), &reason) < 0)
        fail_msg("%s", reason.text);
    assert_int_equal(fstatat(place->target, "a/file", &status, 0), 0);
    assert_int_equal(status.st_mode, S_IFREG | 0750);
    assert_int_equal(status.st_nlink, 2);
    assert_int_equal(status.st_mtime, 1000000000);
    assert_int_equal(fstatat(place->target, "a", &status, 0), 0);
    assert_int_equal(status.st_mtime, 1000000000);
    assert_true(readlinkat(place->target, "link", target, sizeof(target) - 1) > 0);
    assert_string_equal(target, "/etc/passwd");
    assert_true(exists(place->target, "new/parents/f"));
    assert_int_equal(fstatat(place->target, "a/fifo", &status, 0), 0);
    assert_true(S_ISFIFO(status.st_mode));
}

static void clear_target(struct place *place) {
    char command[128];

    snprintf(command, sizeof(command), "find '%s/root/target' -mindepth 1 -delete", place->path);
    assert_int_equal(system(command), 0);
}

/* Each attack is refused, and nothing appears outside the target. */
static void test_attacks(void **state) {
    static const struct {
        struct entry entries[3];
        size_t count;
    } rows[] = {
        { { { "../evil", AE_IFREG, NULL } }, 1 },
        { { { "a/../../evil", AE_IFREG, NULL } }, 1 },
        { { { "..", AE_IFDIR, NULL } }, 1 },
        { { { "a/..", AE_IFDIR, NULL } }, 1 },
        { { { "/evil", AE_IFREG, NULL } }, 1 },
        { { { "//evil", AE_IFREG, NULL } }, 1 },
        { { { "in", AE_IFLNK, ".." }, { "in/evil", AE_IFREG, NULL } }, 2 },
        { { { "in", AE_IFLNK, "/" }, { "in/evil", AE_IFREG, NULL } }, 2 },
        { { { "in", AE_IFLNK, "." }, { "in/sub/evil", AE_IFREG, NULL } }, 2 },
        { { { "in", AE_IFLNK, ".." }, { "in", AE_IFDIR, NULL } }, 2 },
        { { { "a", AE_IFLNK, "b" }, { "b", AE_IFLNK, ".." }, { "a/evil", AE_IFREG, NULL } }, 3 },
        { { { "evil", 0, "../canary" } }, 1 },
        { { { "evil", 0, "/canary" } }, 1 },
        { { { "in", AE_IFLNK, ".." }, { "evil", 0, "in/canary" } }, 2 },
        { { { "in", AE_IFLNK, "../canary" }, { "evil", 0, "in" } }, 2 },
        { { { "null", AE_IFCHR, NULL } }, 1 },
        { { { "disk", AE_IFBLK, NULL } }, 1 },
        { { { ".", AE_IFREG, NULL } }, 1 },
        { { { ".", AE_IFLNK, "/" } }, 1 },
        { { { "d/x", AE_IFREG, NULL }, { "d", AE_IFREG, NULL } }, 2 },
        { { { "f", AE_IFREG, NULL }, { "f", AE_IFDIR, NULL } }, 2 },
        { { { "f", AE_IFREG, NULL }, { "f/x", AE_IFREG, NULL } }, 2 },
    };
    struct place *place = *state;

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct reason reason = REASON_INIT;
        struct stat status;

        if (put(place, rows[i].entries, rows[i].count, &reason) != -EINVAL)
            fail_msg("attack %zu gave '%s'", i, reason.text);
        clear_target(place);
        assert_false(exists(place->root, "evil"));
        assert_false(exists(place->root, "sub"));
        assert_int_equal(fstatat(place->root, "canary", &status, 0), 0);
        assert_int_equal(status.st_nlink, 1);
        assert_int_equal(status.st_mode, S_IFREG | 0600);
        assert_int_equal(fstat(place->root, &status), 0);
        assert_int_equal(status.st_mode & 07777, 0755);
    }
}

/* A file that replaces a link does not write through it. */
static void test_replace_link(void **state) {
    static const struct entry entries[] = { { "in", AE_IFLNK, "../canary" }, { "in", AE_IFREG, NULL } };
    struct place *place = *state;
    struct stat status;

    assert_int_equal(put(place, entries, ELEMENTS(entries), NULL), 0);
    assert_int_equal(fstatat(place->root, "canary", &status, 0), 0);
    assert_int_equal(status.st_size, 0);
    assert_int_equal(fstatat(place->target, "in", &status, AT_SYMLINK_NOFOLLOW), 0);
    assert_true(S_ISREG(status.st_mode));
}

static void test_long_names(void **state) {
    struct place *place = *state;
    struct reason reason = REASON_INIT;
    char name[5000];
    struct entry entry = { name, AE_IFREG, NULL };

    memset(name, 'x', sizeof(name));
    name[256] = '\0';
    assert_int_equal(put(place, &entry, 1, &reason), -EINVAL);
    for (size_t i = 1; i < sizeof(name); i += 2)
        name[i - 1] = 'x', name[i] = '/';
    name[sizeof(name) - 1] = '\0';
    reason = (struct reason) REASON_INIT;
    assert_int_equal(put(place, &entry, 1, &reason), -EINVAL);
    assert_non_null(strstr(reason.text, "too long"));
}

static void test_damaged(void **state) {
    static const struct entry entries[] = { { "file", AE_IFREG, NULL }, { "other", AE_IFREG, NULL } };
    struct place *place = *state;
    _cleanup_close_ int cut = make_archive(entries, 2);
    _cleanup_close_ int text = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

    assert_int_equal(ftruncate(cut, 700), 0);
    assert_int_equal(transfer_put(place->root, "/target", cut, NULL), -EINVAL);
    assert_int_equal(transfer_put(place->root, "/target", text, NULL), -EINVAL);
    assert_int_equal(transfer_put(place->root, "/nowhere", text, NULL), -ENOENT);
    assert_int_equal(transfer_put(place->root, "/canary", text, NULL), -ENOTDIR);
}

/* The names in what transfer_get writes, each followed by a newline; -errno in *ret_r. */
static void get(struct place *place, const char *path, int *ret_r, char *ret_names, size_t size) {
    _cleanup_close_ int fd = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    struct archive *archive = archive_read_new();
    struct archive_entry *entry;

    *ret_names = '\0';
    *ret_r = transfer_get(place->root, path, fd, NULL);
    lseek(fd, 0, SEEK_SET);
    archive_read_support_format_tar(archive);
    if (*ret_r == 0 && archive_read_open_fd(archive, fd, 4096) == ARCHIVE_OK) {
        while (archive_read_next_header(archive, &entry) == ARCHIVE_OK) {
            const char *link =
                archive_entry_hardlink(entry) ? archive_entry_hardlink(entry) : archive_entry_symlink(entry);
            size_t used = strlen(ret_names);
            snprintf(ret_names + used, size - used, "%s%s%s\n", archive_entry_pathname(entry),
                     link ? " -> " : "", link ? link : "");
        }
    }
    archive_read_free(archive);
}

static void test_get(void **state) {
    static const struct entry entries[] = {
        { "b", AE_IFDIR, NULL },
        { "b/link", AE_IFLNK, "/canary" },
        { "out", AE_IFLNK, "/target/b" },
        { "up", AE_IFLNK, "../../../../canary" },
    };
    static const struct {
        const char *path, *names;
        int r;
    } rows[] = {
        { "/target/b", "b/\nb/link -> /canary\n", 0 },
        { "target/b/", "b/\nb/link -> /canary\n", 0 },
        { "/target/b/.", "./\n./link -> /canary\n", 0 },
        { "/target/out", "out -> /target/b\n", 0 },
        { "/target/out/", "out/\nout/link -> /canary\n", 0 },
        { "/target/out/link", "link -> /canary\n", 0 },
        { "/../../canary", "canary\n", 0 },
        { "/target/nothing", "", -ENOENT },
        { "/canary/", "", -ENOTDIR },
    };
    struct place *place = *state;

    assert_int_equal(put(place, entries, ELEMENTS(entries), NULL), 0);
    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        char names[512];
        int r;

        get(place, rows[i].path, &r, names, sizeof(names));
        if (r != rows[i].r || strcmp(names, rows[i].names) != 0)
            fail_msg("'%s' gave %d and '%s'", rows[i].path, r, names);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_plain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_attacks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_replace_link, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_long_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_get, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
