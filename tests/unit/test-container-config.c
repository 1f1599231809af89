// SPDX-License-Identifier: GPL-2.0-or-later
/* Specs in, config.json out, compared with tests/golden/container/NAME.json. POLDER_GOLDEN_UPDATE=1 rewrites those. */
#include "test.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/container/config.h"
#include "drivers/container/seccomp.h"

struct fixture {
    struct instance_spec spec;
    struct instance_assigned assigned;
    struct driver_instance instance;
    struct user user;
    struct container_config config;
};

static char *list_true[] = { (char *) "/bin/true", NULL };

static void fixture_init(struct fixture *fixture) {
    *fixture = (struct fixture){ 0 };
    fixture->spec.memory = 512 << 20;
    fixture->assigned.uid_base = 1000 << 16;
    fixture->instance = (struct driver_instance){ .name = "web-1", .spec = &fixture->spec,
                                                  .assigned = &fixture->assigned };
    fixture->instance.process.arguments = list_true;
    strcpy(fixture->user.home, "/root");
    fixture->config = (struct container_config){
        .instance = &fixture->instance, .user = &fixture->user, .hostname = "web-1",
        .files = "/run/polder/i/UUID/s", .filter = "RklMVEVS", .open_files = 4096,
    };
}

static char *golden_path(const char *name) {
    const char *sources = getenv("POLDER_TEST_SOURCES");

    return text_format("%s/../golden/container/%s.json", sources ? sources : "tests/unit", name);
}

/* One line for each value, so that a difference can be read. */
static char *pretty(const char *text, size_t size) {
    struct json_object *object = NULL;
    char *result;

    assert_int_equal(json_parse(text, size, &object, NULL), 0);
    result = text_format("%s\n", json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY |
                                                                            JSON_C_TO_STRING_NOSLASHESCAPE));
    json_put(object);
    return result;
}

static void compare(const char *name, struct buffer *text) {
    _cleanup_free_ char *path = golden_path(name), *shown = pretty(text->data, text->size), *wanted = NULL;

    if (getenv("POLDER_GOLDEN_UPDATE"))
        assert_int_equal(file_write_atomic(AT_FDCWD, path, shown, strlen(shown), 0644, false), 0);
    assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &wanted, NULL), 0);
    assert_string_equal(shown, wanted);
    buffer_done(text);
}

static void check(const char *name, const struct fixture *fixture) {
    struct buffer text = BUFFER_INIT;

    assert_int_equal(config_emit(&fixture->config, &text), 0);
    compare(name, &text);
}

static void test_plain(void **state) {
    struct fixture fixture;

    fixture_init(&fixture);
    check("plain", &fixture);
}

static void test_terminal(void **state) {
    const struct exec_terminal terminal = { .rows = 24, .columns = 80 };
    struct fixture fixture;

    fixture_init(&fixture);
    fixture.instance.process.tty = true;
    fixture.instance.process.stdin_open = true;
    fixture.config.terminal = &terminal;
    fixture.spec.read_only = true;
    fixture.spec.hostname = (char *) "other";
    fixture.config.hostname = "other";
    check("terminal", &fixture);
}

/* Later settings win; what is no "NAME=value" is left out. */
static void test_environment(void **state) {
    char *environment[] = { (char *) "A=1", (char *) "PATH=/bin", (char *) "A=2", (char *) "HOME=/elsewhere",
                            (char *) "LD_PRELOAD=/x.so\nB=2", (char *) "NOVALUE", (char *) "=x", (char *) "EMPTY=",
                            NULL };
    struct fixture fixture;

    fixture_init(&fixture);
    fixture.instance.process.environment = environment;
    fixture.instance.process.working_directory = (char *) "/srv/\"quoted\"";
    check("environment", &fixture);
}

static void test_user(void **state) {
    struct fixture fixture;

    fixture_init(&fixture);
    fixture.user = (struct user){ .uid = 33, .gid = 34, .groups = { 5, 6 }, .group_count = 2, .home = "/var/www" };
    check("user", &fixture);
}

static void test_mounts(void **state) {
    struct instance_mount mounts[] = {
        { .type = MOUNT_BIND, .source = (char *) "/srv/data", .target = (char *) "/data" },
        { .type = MOUNT_TMPFS, .target = (char *) "/scratch", .size = 1 << 20 },
        { .type = MOUNT_BIND, .source = (char *) "/srv/conf", .target = (char *) "/conf", .read_only = true },
        { .type = MOUNT_TMPFS, .target = (char *) "/half" },
    };
    struct fixture fixture;

    fixture_init(&fixture);
    fixture.spec.mounts = (struct field_array){ .items = mounts, .count = ELEMENTS(mounts) };
    check("mounts", &fixture);
}

/* What the image says of runtimes has no way in (A41): there is no field for it but these, and they are not used. */
static void test_labels(void **state) {
    char *labels[] = { (char *) "org.systemd.property.ExecStart=x", (char *) "run.oci.hooks=1",
                       (char *) "io.podman.annotations.x=y", (char *) "run.oci.seccomp_bpf_data=AAAA", NULL };
    struct image image = { .config = { .labels = labels } };
    struct fixture fixture;

    fixture_init(&fixture);
    fixture.spec.labels = labels;
    fixture.instance.image = &image;
    check("plain", &fixture);
}

static void test_exec(void **state) {
    char *arguments[] = { (char *) "sh", (char *) "-c", (char *) "id", NULL }, *extra[] = { (char *) "B=2", NULL };
    char *environment[] = { (char *) "A=1", (char *) "B=1", NULL };
    const struct exec_request request = {
        .arguments = arguments, .environment = extra, .working_directory = "/tmp", .tty = true,
        .terminal = { .rows = 10, .columns = 20 },
    };
    struct buffer text = BUFFER_INIT;
    struct fixture fixture;

    fixture_init(&fixture);
    fixture.instance.process.environment = environment;
    assert_int_equal(config_emit_exec(&fixture.config, &request, &text), 0);
    compare("exec", &text);
}

static void test_filter(void **state) {
    _cleanup_free_ char *first = NULL, *second = NULL;

    assert_int_equal(seccomp_filter_text(&first), 0);
    assert_int_equal(seccomp_filter_text(&second), 0);
    assert_string_equal(first, second);
    assert_int_equal(strlen(first) % 4, 0);
    assert_true(strlen(first) > 4000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),  cmocka_unit_test(test_terminal), cmocka_unit_test(test_environment),
        cmocka_unit_test(test_user),   cmocka_unit_test(test_mounts),   cmocka_unit_test(test_labels),
        cmocka_unit_test(test_exec),   cmocka_unit_test(test_filter),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
