// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "guest/request.h"
#include "guest/settings.h"
#include "guest/user.h"

static int decode(const char *json, struct request_start *ret, struct reason *reason) {
    return request_decode(&request_start_schema, json, strlen(json), ret, reason);
}

static void test_start(void **state) {
    struct reason reason = REASON_INIT;
    struct request_start request;
    const struct request_network *network;
    const struct request_mount *mounts;

    assert_int_equal(
        decode("{\"process\":{\"args\":[\"sh\",\"-c\",\"a\\nb\"],\"env\":[],\"tty\":true,\"rows\":24},"
               "\"hostname\":\"h\",\"network\":[{\"mac\":\"52:54:00:00:00:01\",\"mtu\":1400}],"
               "\"mounts\":[{\"type\":\"tmpfs\",\"target\":\"/x\",\"size\":5},"
               "{\"type\":\"virtiofs\",\"tag\":\"m0\",\"target\":\"/y\",\"readonly\":true}],"
               "\"dns\":[\"1.2.3.4\"],\"realtime_us\":1700000000000000,\"search\":null}",
               &request, &reason),
        0);
    network = request.network.items;
    mounts = request.mounts.items;
    assert_string_equal(request.process.args[2], "a\nb");
    assert_null(request.process.args[3]);
    assert_true(request.process.tty && !request.process.stdin && request.process.rows == 24);
    assert_int_equal(request.network.count, 1);
    assert_int_equal(network[0].mtu, 1400);
    assert_int_equal(request.mounts.count, 2);
    assert_true(mounts[0].size == 5 && mounts[1].readonly);
    assert_true(request.realtime_us == 1700000000000000);
    assert_null(request.search);
    request_clear(&request_start_schema, &request);
    assert_null(request.hostname);
}

static void test_refused(void **state) {
    static const struct {
        const char *json, *word;
    } rows[] = {
        { "", "malformed" },
        { "{", "malformed" },
        { "{}x", "malformed" },
        { "[]", "object" },
        { "{}", "process" },
        { "{\"process\":{}}", "args" },
        { "{\"process\":{\"args\":[1]}}", "text" },
        { "{\"process\":{\"args\":[\"a\\u0000b\"]}}", "control" },
        { "{\"process\":{\"args\":[]},\"hostname\":\"a\\nb\"}", "control" },
        { "{\"process\":{\"args\":[]},\"hostname\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
          "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}",
          "longer" },
        { "{\"process\":{\"args\":[]},\"stop_signal\":-1}", "between" },
        { "{\"process\":{\"args\":[]},\"stop_signal\":65}", "between" },
        { "{\"process\":{\"args\":[]},\"stop_signal\":1.5}", "whole" },
        { "{\"process\":{\"args\":[]},\"readonly_root\":1}", "true or false" },
        { "{\"process\":{\"args\":[]},\"mounts\":[{\"type\":\"tmpfs\"}]}", "target" },
        { "{\"process\":{\"args\":[]},\"mounts\":[{\"target\":\"/x\",\"type\":\"tmpfs\",\"size\":9e30}]}",
          "whole" },
        { "{\"process\":{\"args\":[]},\"nonsense\":1}", "nonsense" },
        { "{\"process\":{\"args\":[],\"cwd\":{}}}", "text" },
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct reason reason = REASON_INIT;
        struct request_start request;

        if (decode(rows[i].json, &request, &reason) != -EINVAL || !strstr(reason.text, rows[i].word))
            fail_msg("%s gave '%s'", rows[i].json, reason.text);
    }
}

static int make_root(void **state) {
    static char path[] = "/tmp/test-guest-XXXXXX";

    strcpy(path + sizeof(path) - 7, "XXXXXX");
    if (!mkdtemp(path))
        return -1;
    *state = path;
    return 0;
}

static int remove_root(void **state) {
    char command[128];

    snprintf(command, sizeof(command), "rm -rf '%s'", (char *) *state);
    return system(command) == 0 ? 0 : -1;
}

static int open_root(void **state) {
    int fd = open(*state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void put_file(int root, const char *path, const char *text, size_t size) {
    _cleanup_close_ int fd = -EBADF;

    (void) mkdirat(root, "etc", 0755);
    fd = openat(root, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, size), size);
}

static void test_users(void **state) {
    static const char passwd[] =
        "# comment\n\nroot:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:Web:/home/web:/bin/sh\n"
        "7:x:1007:1007::/seven:/bin/sh\nbroken\nlate:x:nonsense:1:::\nnohome:x:9:9::\n";
    static const char group[] =
        "root:x:0:\nweb:x:1001:\nextra:x:2000:a,web,b\nmore:x:2001:web\nodd:x:2002:webx,xweb\n";
    static const struct {
        const char *user;
        uid_t uid;
        gid_t gid;
        size_t groups;
        const char *home;
    } rows[] = {
        { NULL, 0, 0, 0, "/root" },
        { "", 0, 0, 0, "/root" },
        { "web", 1000, 1001, 2, "/home/web" },
        { "1000", 1000, 1001, 2, "/home/web" },
        { "web:extra", 1000, 2000, 0, "/home/web" },
        { "web:5", 1000, 5, 0, "/home/web" },
        { "7", 7, 0, 0, "/" },
        { "7:8", 7, 8, 0, "/" },
        { "2147483646:2147483646", 2147483646, 2147483646, 0, "/" },
        { ":extra", 0, 2000, 0, "/root" },
        { "nohome", 9, 9, 0, "/" },
    };
    static const char *const refused[] = { "nobody",       "web:nobody", "2147483647",
                                           "0:2147483647", "4294967296", "18446744073709551616",
                                           "-1",           "+1",         " 1",
                                           "0:0\n",        "late",       "1000 " };
    _cleanup_close_ int root = open_root(state);
    struct user user;

    put_file(root, "etc/passwd", passwd, strlen(passwd));
    put_file(root, "etc/group", group, strlen(group));
    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct reason reason = REASON_INIT;
        if (user_resolve(root, rows[i].user, &user, &reason) != 0)
            fail_msg("%s: %s", rows[i].user, reason.text);
        assert_int_equal(user.uid, rows[i].uid);
        assert_int_equal(user.gid, rows[i].gid);
        assert_int_equal(user.group_count, rows[i].groups);
        assert_string_equal(user.home, rows[i].home);
    }
    for (size_t i = 0; i < ELEMENTS(refused); i++) {
        struct reason reason = REASON_INIT;
        assert_int_equal(user_resolve(root, refused[i], &user, &reason), -EINVAL);
        assert_true(strlen(reason.text) > 0);
    }
}

/* passwd may be anything in an untrusted image. */
static void test_user_files(void **state) {
    _cleanup_close_ int root = open_root(state);
    struct reason reason = REASON_INIT;
    struct user user;
    char secret[64];

    assert_int_equal(user_resolve(root, "5", &user, &reason), 0); /* no file at all */
    assert_int_equal(mkdirat(root, "etc", 0755), 0);
    assert_int_equal(mkfifoat(root, "etc/passwd", 0644), 0);
    assert_int_equal(user_resolve(root, "root", &user, &reason), -EINVAL);
    assert_non_null(strstr(reason.text, "regular"));
    assert_int_equal(unlinkat(root, "etc/passwd", 0), 0);

    put_file(root, "etc/passwd", "x", 1);
    assert_int_equal(truncate((snprintf(secret, sizeof(secret), "%s/etc/passwd", (char *) *state), secret),
                              USER_FILE_MAX + 1),
                     0);
    assert_int_equal(user_resolve(root, "5", &user, NULL), -EFBIG);
    assert_int_equal(unlinkat(root, "etc/passwd", 0), 0);

    /* An absolute link stays inside the root: the host's file is never read. */
    assert_int_equal(symlinkat("/etc/passwd", root, "etc/passwd"), 0);
    assert_true(user_resolve(root, "root", &user, NULL) < 0);
}

static void read_back(int root, const char *path, char *ret, size_t size) {
    _cleanup_close_ int fd = openat(root, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);

    assert_true(n >= 0);
    ret[n] = '\0';
}

static void test_settings_write(void **state) {
    _cleanup_close_ int root = open_root(state);
    char text[64];

    put_file(root, "victim", "untouched", 9);
    assert_int_equal(symlinkat("../victim", root, "etc/hosts"), 0);
    assert_int_equal(settings_write(root, "/etc", "hosts", "mine\n"), 0);
    read_back(root, "etc/hosts", text, sizeof(text));
    assert_string_equal(text, "mine\n");
    read_back(root, "victim", text, sizeof(text));
    assert_string_equal(text, "untouched");
}

/* /etc itself leads out of the root: it must lead to the same name inside. */
static void test_settings_escape(void **state) {
    _cleanup_close_ int root = open_root(state);
    char text[64];

    assert_int_equal(mkdirat(root, "real", 0755), 0);
    assert_int_equal(unlinkat(root, "etc", AT_REMOVEDIR) < 0 ? errno : 0, ENOENT);
    assert_int_equal(symlinkat("/../../real", root, "etc"), 0);
    assert_int_equal(settings_write(root, "/etc", "hosts", "mine\n"), 0);
    read_back(root, "real/hosts", text, sizeof(text));
    assert_string_equal(text, "mine\n");
}

static void test_settings_text(void **state) {
    struct reason reason = REASON_INIT;
    _cleanup_free_ char *hosts = NULL, *resolver = NULL;
    struct request_start request;

    assert_int_equal(
        decode("{\"process\":{\"args\":[]},\"hostname\":\"web\",\"network\":[{\"mac\":\"m\","
               "\"address\":\"10.0.0.2/24\"}],\"hosts\":[{\"address\":\"fd00::1\",\"name\":\"a b.c\"}],"
               "\"dns\":[\"10.0.0.1\",\"::1\"],\"search\":\"x.y z\"}",
               &request, &reason),
        0);
    assert_int_equal(settings_hosts(&request, &hosts, &reason), 0);
    assert_non_null(strstr(hosts, "\n10.0.0.2\tweb\nfd00::1\ta b.c\n"));
    assert_int_equal(settings_resolver(&request, &resolver, &reason), 0);
    assert_string_equal(resolver, "search x.y z\nnameserver 10.0.0.1\nnameserver ::1\n");
    request_clear(&request_start_schema, &request);
}

static void test_settings_refused(void **state) {
    static const char *const rows[] = {
        "\"hosts\":[{\"address\":\"10.0.0\",\"name\":\"a\"}]",
        "\"hosts\":[{\"address\":\"10.0.0.1\",\"name\":\"\"}]",
        "\"hosts\":[{\"address\":\"10.0.0.1\",\"name\":\" a\"}]",
        "\"hosts\":[{\"address\":\"10.0.0.1\",\"name\":\"a#b\"}]",
        "\"dns\":[\"a\"]",
        "\"dns\":[\"1.1.1.1\\nnameserver 2.2.2.2\"]",
        "\"search\":\"a;b\"",
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct reason reason = REASON_INIT;
        _cleanup_free_ char *hosts = NULL, *resolver = NULL;
        struct request_start request;
        char json[256];

        snprintf(json, sizeof(json), "{\"process\":{\"args\":[]},%s}", rows[i]);
        assert_int_equal(decode(json, &request, &reason), 0);
        assert_true(settings_hosts(&request, &hosts, &reason) < 0 ||
                    settings_resolver(&request, &resolver, &reason) < 0);
        request_clear(&request_start_schema, &request);
    }
}

static void test_base64(void **state) {
    static const char *const refused[] = { "=", "a", "ab=c", "a===", "ab==cd==", "????", "QUJDREU=" };
    uint8_t data[4];

    assert_int_equal(base64_decode("", data, sizeof(data)), 0);
    assert_int_equal(base64_decode("QUJD", data, sizeof(data)), 3);
    assert_memory_equal(data, "ABC", 3);
    assert_int_equal(base64_decode("QUI=", data, sizeof(data)), 2);
    assert_int_equal(base64_decode("QQ==", data, sizeof(data)), 1);
    for (size_t i = 0; i < ELEMENTS(refused); i++)
        assert_int_equal(base64_decode(refused[i], data, sizeof(data)), -EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_base64),
        cmocka_unit_test_setup_teardown(test_users, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_user_files, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_settings_write, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_settings_escape, make_root, remove_root),
        cmocka_unit_test(test_settings_text),
        cmocka_unit_test(test_settings_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
