// SPDX-License-Identifier: GPL-2.0-or-later
/* The container driver with real crun and conmon, as root, in a mount namespace of the test's own. The image is a
 * busybox root file system. Storage and network are stood in for by the functions below. */
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "drivers/driver.h"
#include "drivers/log.h"
#include "host/cgroup.h"
#include "network/network.h"
#include "storage/storage.h"

#define SOON soon()
#define MILLISECONDS(duration) ((double) (duration) / 1000)

/* What takes longer counts as hung: a minute, or POLDER_TEST_DEADLINE seconds where that says that the host is slow. */
static uint64_t soon(void) {
    const char *seconds = getenv("POLDER_TEST_DEADLINE");

    return deadline_in((seconds ? strtoull(seconds, NULL, 10) : 60) * CLOCK_SECOND);
}

/* --- the world ------------------------------------------------------------------------------------------------- */

struct world {
    char work[64];  /* layers and state */
    char run[64];
    char layers[4][96];
    size_t layer_count;
    char libexec[600];
    struct cgroup_host *cgroups;
    bool has_guest;
    bool many_layers; /* 127 more than the first */
};

static struct world world;

struct end {
    bool seen;
    struct driver_exit exit;
    struct fiber_queue queue;
};

struct test {
    void *driver;
    struct instance_spec spec;
    struct instance_assigned assigned;
    struct driver_instance instance;
    struct image image;
    char uuid[UUID_TEXT_SIZE], state[160], path[160];
    struct instance_mount mounts[2];
    struct end end;
};

int storage_layer_paths(struct storage *storage, const struct image *image, char ***ret, struct error *error) {
    char **list = NULL;

    for (size_t i = 0; i < world.layer_count; i++)
        if (list_add(&list, world.layers[i]) < 0)
            return -ENOMEM;
    for (int i = 1; world.many_layers && i <= 127; i++) {
        _cleanup_free_ char *path = text_format("%s/many/%d", world.work, i);
        _cleanup_free_ char *command = text_format("mkdir -p %s/layers && touch %s/layers/%d && echo %d > %s/top", path,
                                                   path, i, i, path);
        if (system(command) != 0 || list_add(&list, path) < 0)
            return -ENOMEM;
    }
    *ret = list;
    return 0;
}

int storage_ask_instance(struct storage *storage, const char *path, uint64_t deadline, struct error *error) {
    return 0;
}

int storage_make_ext4(struct storage *storage, uint64_t size, const char *path, struct error *error) {
    _cleanup_free_ char *command =
        text_format("truncate -s %llu %s && mkfs.ext4 -q -F %s", (unsigned long long) size, path, path);

    return system(command) == 0 ? 0 : -EIO;
}

int network_attach_container(struct network *network, const struct network_member *member, int netns_fd,
                             struct error *error) {
    return 0;
}

int network_detach(struct network *network, const char *uuid, struct error *error) {
    return 0;
}

const char *network_gateway(const struct network *network) {
    return "10.1.2.1";
}

const char *network_domain(const struct network *network) {
    return "polder.internal";
}

static void on_exited(struct driver_instance *instance, const struct driver_exit *exit) {
    struct test *test = instance->manager_data;

    assert_false(test->end.seen);
    test->end.seen = true;
    test->end.exit = *exit;
    fiber_queue_wake_all(&test->end.queue);
}

static char *roots[] = { NULL, NULL };
static const struct driver_events events = { .exited = on_exited };

static void open_driver(struct test *test) {
    struct error error = ERROR_INIT;
    const struct driver_context context = {
        .events = &events, .run_path = world.run, .libexec_path = world.libexec, .mount_roots = roots,
    };

    assert_int_equal(container_driver.open(&context, &test->driver, &error), 0);
    assert_int_equal(container_driver.available(test->driver, KIND_CONTAINER, &error), 0);
}

static void test_init_named(struct test *test, const char *uuid) {
    *test = (struct test){ 0 };
    strcpy(test->uuid, uuid);
    snprintf(test->state, sizeof(test->state), "%s/%s", world.work, uuid);
    snprintf(test->path, sizeof(test->path), "%s/i/%s", world.run, uuid);
    assert_int_equal(file_make_directories(AT_FDCWD, test->state, 0700), 0);
    test->spec = (struct instance_spec){ .memory = 64 << 20, .log_size = 96 * 1024, .network = (char *) "none" };
    test->assigned = (struct instance_assigned){ .uuid = test->uuid, .uid_base = 1 << 20 };
    test->instance = (struct driver_instance){
        .name = "box", .spec = &test->spec, .assigned = &test->assigned, .image = &test->image,
        .state_path = test->state, .run_path = test->path, .driver = &container_driver, .manager_data = test,
    };
    test->instance.process.stop_signal = SIGTERM;
    open_driver(test);
}

static void test_init(struct test *test) {
    char uuid[UUID_TEXT_SIZE];

    uuid_new(uuid);
    test_init_named(test, uuid);
}

static void ensure_group(struct test *test) {
    struct error error = ERROR_INIT;
    struct cgroup_limits limits = { .memory = 64 << 20, .pids = 50 };

    if (!test->instance.cgroup)
        assert_int_equal(cgroup_ensure(world.cgroups, test->uuid, &test->instance.cgroup, &error), 0);
    assert_int_equal(cgroup_set_limits(test->instance.cgroup, &limits, &error), 0);
}

static void explain(struct error *error) {
    _cleanup_free_ char *text = error_is_set(error) ? error_sentence(error, LANGUAGE_ENGLISH) : NULL;

    if (text)
        print_message("%s\n", text);
    error_clear(error);
}

static int start_with(struct test *test, char **arguments, struct stream **ret_stream, struct error *error) {
    const struct exec_terminal terminal = { .rows = 31, .columns = 97 };
    const struct driver_start start = { .ret_stream = ret_stream, .terminal = &terminal };

    ensure_group(test);
    test->instance.process.arguments = arguments;
    test->end.seen = false;
    return container_driver.start(test->driver, &test->instance, &start, error);
}

static void start(struct test *test, char **arguments, struct stream **ret_stream) {
    struct error error = ERROR_INIT;
    int r = start_with(test, arguments, ret_stream, &error);

    explain(&error);
    assert_int_equal(r, 0);
}

#define START(test, ret_stream, ...) start(test, (char *[]){ __VA_ARGS__, NULL }, ret_stream)
#define SHELL(test, ret_stream, script) START(test, ret_stream, (char *) "sh", (char *) "-c", (char *) (script))

static int wait_end(struct test *test) {
    while (!test->end.seen)
        assert_int_equal(fiber_queue_wait(&test->end.queue, SOON), 0);
    return test->end.exit.code;
}

static void test_done(struct test *test) {
    struct error error = ERROR_INIT;
    _cleanup_free_ char *crun = text_format("%s/crun/%s", world.run, test->uuid);

    assert_int_equal(container_driver.release(test->driver, &test->instance, &error), 0);
    assert_int_equal(container_driver.release(test->driver, &test->instance, &error), 0);
    assert_false(file_exists(AT_FDCWD, test->path));
    assert_false(file_exists(AT_FDCWD, crun));
    if (test->instance.cgroup) {
        assert_true(cgroup_is_empty(test->instance.cgroup));
        assert_int_equal(cgroup_remove(world.cgroups, test->uuid, SOON, &error), 0);
        cgroup_free(test->instance.cgroup);
    }
    assert_int_equal(file_remove_tree(AT_FDCWD, test->state), 0);
    container_driver.close(test->driver);
}

/* Everything of both channels until the end. */
static char *read_all(struct stream *stream) {
    struct buffer text = BUFFER_INIT;
    enum stream_channel channel;
    char data[4096];
    long size;

    buffer_add(&text, "", 0);
    while ((size = stream_read(stream, &channel, data, sizeof(data), SOON)) > 0)
        buffer_add(&text, data, (size_t) size);
    assert_int_equal(size, 0);
    return text.data ? text.data : strdup("");
}

/* Until the text has come. */
static void read_until(struct stream *stream, const char *wanted) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    enum stream_channel channel;
    char data[4096];

    while (!text.data || !strstr(text.data, wanted)) {
        long size = stream_read(stream, &channel, data, sizeof(data), SOON);
        if (size <= 0)
            print_message("wanted '%s', have '%s'\n", wanted, text.data ? text.data : "");
        assert_true(size > 0);
        buffer_add(&text, data, (size_t) size);
    }
}

static struct stream *exec_open(struct test *test, const struct exec_request *request) {
    struct error error = ERROR_INIT;
    struct stream *stream = NULL;
    int r = container_driver.exec(test->driver, &test->instance, request, &stream, &error);

    explain(&error);
    assert_int_equal(r, 0);
    return stream;
}

static int exec_result(struct stream *stream, enum error_code *ret_error) {
    struct error error = ERROR_INIT;
    int code = -1, r = stream_result(stream, &code, &error, SOON);

    if (ret_error)
        *ret_error = error.code;
    else
        assert_int_equal(r, 0);
    error_clear(&error);
    return code;
}

/* Runs a shell script inside; its output. */
static char *run_inside(struct test *test, const char *script, int *ret_code) {
    char *arguments[] = { (char *) "sh", (char *) "-c", (char *) script, NULL };
    const struct exec_request request = { .arguments = arguments };
    struct stream *stream = exec_open(test, &request);
    char *text = read_all(stream);

    *ret_code = exec_result(stream, NULL);
    stream_free(stream);
    return text;
}

static char *command_output(const char *command) {
    struct buffer text = BUFFER_INIT;
    FILE *pipe = popen(command, "r");
    char data[4096];
    size_t size;

    while ((size = fread(data, 1, sizeof(data), pipe)) > 0)
        buffer_add(&text, data, size);
    pclose(pipe);
    return text.data ? text.data : strdup("");
}

static bool contains(const char *text, const char *part) {
    if (strstr(text, part))
        return true;
    /* cmocka cuts long messages. */
    fprintf(stderr, "'%s' is not in:\n%s\n", part, text);
    return false;
}

/* --- cases ----------------------------------------------------------------------------------------------------- */

static int case_exit_codes(void *userdata) {
    struct test test;
    struct stream *stream = NULL;

    test_init(&test);
    START(&test, NULL, (char *) "/bin/true");
    assert_int_equal(wait_end(&test), 0);
    assert_null(test.end.exit.reason);
    /* Again, with output and another code. */
    SHELL(&test, &stream, "echo to-output; echo to-errors >&2; exit 42");
    _cleanup_free_ char *text = read_all(stream);
    assert_true(contains(text, "to-output\n"));
    assert_true(contains(text, "to-errors\n"));
    assert_int_equal(exec_result(stream, NULL), 42);
    stream_free(stream);
    assert_int_equal(wait_end(&test), 42);
    SHELL(&test, NULL, "kill -9 $$; sleep 1; kill -SEGV $$; exit 3");
    assert_int_equal(wait_end(&test), 3); /* the first process of a pid namespace does not hear its own signals */
    /* Everything it wrote is in the log. */
    struct log_reader *reader;
    struct log_entry entry;
    assert_int_equal(log_reader_open(test.state, -1, &reader), 0);
    assert_int_equal(log_reader_next(reader, &entry), 1);
    assert_memory_equal(entry.text, "to-", 3);
    log_reader_free(reader);
    test_done(&test);
    return 0;
}

static int case_inside(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    char *environment[] = { (char *) "COLOUR=red", (char *) "PATH=/bin:/sbin", NULL };

    test_init(&test);
    test.instance.process.environment = environment;
    test.instance.process.working_directory = (char *) "/some/new/place";
    test.spec.hostname = (char *) "inner";
    SHELL(&test, &stream, "id; hostname; env; pwd; cat /proc/self/status /proc/self/uid_map /proc/self/mountinfo; "
                          "cat /etc/hosts /etc/hostname; ls -ln / /dev; ls /proc/1/ns; ulimit -n; "
                          "echo x > /etc/new && ls -ln /etc/new; mount -t tmpfs x /tmp && echo MOUNTED; "
                          "unshare -U true && echo UNSHARED; chmod 600 /dev/null && echo CHANGED; echo x > /dev/null;  mknod /x c 1 3 && echo MADE; "
                          "cat /proc/kcore | wc -c; echo 1 > /proc/sys/kernel/panic && echo WROTE; echo; echo done");
    _cleanup_free_ char *text = read_all(stream);
    stream_free(stream);
    assert_int_equal(wait_end(&test), 0);
    assert_true(contains(text, "uid=0(root) gid=0(root)"));
    assert_true(contains(text, "\ninner\n"));
    assert_true(contains(text, "COLOUR=red\n"));
    assert_true(contains(text, "PATH=/bin:/sbin\n"));
    assert_true(contains(text, "HOME=/root\n"));
    assert_true(contains(text, "HOSTNAME=inner\n"));
    assert_true(contains(text, "\n/some/new/place\n"));
    assert_true(contains(text, "CapBnd:\t00000000a80425fb\n"));
    assert_true(contains(text, "CapEff:\t00000000a80425fb\n"));
    assert_true(contains(text, "Seccomp:\t2\n"));
    assert_true(contains(text, "NoNewPrivs:\t0\n"));
    assert_true(contains(text, "1048576      65536\n"));
    assert_true(contains(text, "localhost"));
    assert_true(contains(text, " /dev rw,nosuid"));
    assert_true(contains(text, "drwxr-xr-x"));
    assert_true(contains(text, "\ndone\n"));
    assert_null(strstr(text, "MOUNTED"));
    assert_null(strstr(text, "UNSHARED"));
    assert_null(strstr(text, "CHANGED"));
    assert_null(strstr(text, "MADE"));
    assert_null(strstr(text, "WROTE"));
    assert_null(strstr(text, "/polder"));
    /* The host's devices are not its own, neither by the hand of crun nor by its own. */
    struct stat status;
    assert_int_equal(stat("/dev/null", &status), 0);
    assert_int_not_equal(status.st_uid, test.assigned.uid_base);
    assert_int_equal(status.st_mode & 07777, 0666);
    /* A file it made belongs to its range. */
    _cleanup_free_ char *file = text_format("%s/upper/etc/new", test.state);
    assert_int_equal(stat(file, &status), 0);
    assert_int_equal(status.st_uid, test.assigned.uid_base);
    test_done(&test);
    return 0;
}

static int case_user(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    struct error error = ERROR_INIT;
    static const char *const bad[] = { "nobody-there", "4294967296", "-1", "0:0\n", "1:missing" };

    test_init(&test);
    test.instance.process.user = (char *) "www-data";
    SHELL(&test, &stream, "id; cat /proc/self/status");
    _cleanup_free_ char *text = read_all(stream);
    stream_free(stream);
    assert_true(contains(text, "uid=33(www-data) gid=33(www-data)"));
    assert_true(contains(text, "CapEff:\t0000000000000000\n"));
    wait_end(&test);
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        test.instance.process.user = (char *) bad[i];
        assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
        assert_int_equal(error.code, ERROR_BAD_VALUE);
        error_clear(&error);
    }
    test_done(&test);
    return 0;
}

static int case_bad_command(void *userdata) {
    struct test test;
    struct error error = ERROR_INIT;

    test_init(&test);
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "no-such-program", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_NO_COMMAND);
    error_clear(&error);
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "/etc/passwd", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_NOT_EXECUTABLE);
    error_clear(&error);
    assert_false(test.end.seen);
    START(&test, NULL, (char *) "true");
    assert_int_equal(wait_end(&test), 0);
    test_done(&test);
    return 0;
}

static int case_exec(void *userdata) {
    struct test test;
    struct stream *stream;
    struct error error = ERROR_INIT;
    enum error_code problem;
    int code;

    test_init(&test);
    SHELL(&test, NULL, "sleep 1000");
    free(run_inside(&test, "exit 17", &code));
    assert_int_equal(code, 17);
    _cleanup_free_ char *own = run_inside(&test, "echo $$; echo e >&2; cat /proc/self/cgroup; cat /proc/self/status", &code);
    assert_int_equal(code, 0);
    assert_true(contains(own, "e\n"));
    assert_true(contains(own, "Seccomp:\t2\n"));
    assert_true(contains(own, "CapBnd:\t00000000a80425fb\n"));
    assert_null(strstr(own, "/polder"));
    free(run_inside(&test, "kill -9 $$", &code));
    assert_int_equal(code, 137);
    /* Standard input and its end. */
    char *cat[] = { (char *) "cat", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = cat, .stdin_open = true });
    assert_int_equal(stream_write(stream, "hello\n", 6, SOON), 0);
    read_until(stream, "hello\n");
    assert_int_equal(stream_close_input(stream), 0);
    free(read_all(stream));
    assert_int_equal(exec_result(stream, NULL), 0);
    stream_free(stream);
    /* User, directory and environment of its own. */
    char *show[] = { (char *) "sh", (char *) "-c", (char *) "id -u; pwd; echo $EXTRA", NULL };
    char *extra[] = { (char *) "EXTRA=more", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = show, .environment = extra, .user = "33",
                                                      .working_directory = "/tmp" });
    _cleanup_free_ char *shown = read_all(stream);
    assert_string_equal(shown, "33\n/tmp\nmore\n");
    stream_free(stream);
    /* Signals, among them the one that cannot be passed on. */
    static const int signals[] = { SIGTERM, SIGKILL };
    for (size_t i = 0; i < ELEMENTS(signals); i++) {
        char *sleep[] = { (char *) "sh", (char *) "-c", (char *) "echo ready; exec sleep 1000", NULL };
        stream = exec_open(&test, &(struct exec_request){ .arguments = sleep });
        read_until(stream, "ready\n");
        assert_int_equal(stream_signal(stream, signals[i]), 0);
        free(read_all(stream));
        assert_int_equal(exec_result(stream, NULL), 128 + signals[i]);
        stream_free(stream);
    }
    /* What cannot run. */
    char *missing[] = { (char *) "no-such-program", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = missing });
    free(read_all(stream));
    assert_int_equal(exec_result(stream, &problem), 127);
    assert_int_equal(problem, ERROR_NO_COMMAND);
    stream_free(stream);
    char *unusable[] = { (char *) "/etc/passwd", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = unusable });
    free(read_all(stream));
    assert_int_equal(exec_result(stream, &problem), 126);
    assert_int_equal(problem, ERROR_NOT_EXECUTABLE);
    stream_free(stream);
    /* Given up while it runs: it is killed. */
    char *forever[] = { (char *) "sh", (char *) "-c", (char *) "echo ready; exec sleep 4242", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = forever });
    read_until(stream, "ready\n");
    stream_free(stream);
    _cleanup_free_ char *left = run_inside(&test, "ps | grep '[4]242'", &code);
    assert_string_equal(left, "");
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 0, &error), 0);
    assert_int_equal(wait_end(&test), 137);
    assert_int_not_equal(container_driver.exec(test.driver, &test.instance,
                                               &(struct exec_request){ .arguments = cat }, &stream, &error), 0);
    assert_int_equal(error.code, ERROR_WRONG_STATE);
    error_clear(&error);
    test_done(&test);
    return 0;
}

static int case_terminal(void *userdata) {
    struct test test;
    struct stream *stream = NULL, *second = NULL;
    struct error error = ERROR_INIT;
    enum error_code problem;

    test_init(&test);
    test.instance.process.tty = test.instance.process.stdin_open = true;
    START(&test, &stream, (char *) "sh");
    assert_int_equal(stream_write(stream, "stty size\n", 10, SOON), 0);
    read_until(stream, "31 97\r\n");
    /* Asked for separately: read_until drops what comes in one piece with its text. */
    assert_int_equal(stream_write(stream, "tty; echo $TERM\n", 16, SOON), 0);
    read_until(stream, "xterm\r\n");
    assert_int_equal(stream_resize(stream, 50, 132), 0);
    assert_int_equal(stream_write(stream, "sleep 1; stty size\n", 19, SOON), 0);
    read_until(stream, "50 132\r\n");
    /* A detached client ends nothing, and another one goes on. */
    stream_free(stream);
    assert_int_equal(container_driver.attach(test.driver, &test.instance, &second, &error), 0);
    assert_int_equal(stream_write(second, "echo a''gain\n", 13, SOON), 0);
    read_until(second, "again\r\n");
    /* exec on a terminal. */
    char *shell[] = { (char *) "sh", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = shell, .tty = true, .stdin_open = true,
                                                      .terminal = { .rows = 12, .columns = 34 } });
    assert_int_equal(stream_write(stream, "stty size; exit 9\n", 18, SOON), 0);
    read_until(stream, "12 34\r\n");
    free(read_all(stream));
    assert_int_equal(exec_result(stream, NULL), 9);
    stream_free(stream);
    char *missing[] = { (char *) "no-such-program", NULL };
    stream = exec_open(&test, &(struct exec_request){ .arguments = missing, .tty = true });
    free(read_all(stream));
    assert_int_equal(exec_result(stream, &problem), 127);
    stream_free(stream);
    assert_int_equal(stream_write(second, "exit 4\n", 7, SOON), 0);
    free(read_all(second));
    assert_int_equal(exec_result(second, NULL), 4);
    stream_free(second);
    assert_int_equal(wait_end(&test), 4);
    test_done(&test);
    return 0;
}

static int case_input(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    struct error error = ERROR_INIT;
    size_t total = 0;
    char data[8192], back[8192];

    test_init(&test);
    test.instance.process.stdin_open = true;
    START(&test, &stream, (char *) "cat");
    memset(data, 'x', sizeof(data));
    for (int i = 0; i < 100; i++) {
        enum stream_channel channel;
        assert_int_equal(stream_write(stream, data, sizeof(data), SOON), 0);
        for (size_t got = 0; got < sizeof(data);) {
            long size = stream_read(stream, &channel, back, sizeof(back), SOON);
            assert_true(size > 0);
            got += (size_t) size;
            total += (size_t) size;
        }
    }
    assert_int_equal(total, 100 * sizeof(data));
    assert_int_equal(stream_close_input(stream), 0);
    free(read_all(stream));
    assert_int_equal(exec_result(stream, NULL), 0);
    stream_free(stream);
    assert_int_equal(wait_end(&test), 0);
    /* Started detached: clients come and go, the input stays open. */
    START(&test, NULL, (char *) "cat");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(container_driver.attach(test.driver, &test.instance, &stream, &error), 0);
        assert_int_equal(stream_write(stream, "ping\n", 5, SOON), 0);
        read_until(stream, "ping\n");
        assert_int_equal(stream_close_input(stream), -EOPNOTSUPP);
        stream_free(stream);
    }
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 0, &error), 0);
    test_done(&test);
    return 0;
}

static int case_stop(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    struct error error = ERROR_INIT;
    bool running, paused;
    struct driver_exit exit;

    test_init(&test);
    SHELL(&test, &stream, "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    read_until(stream, "ready\n");
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 30000, &error), 0);
    assert_true(test.end.seen);
    assert_int_equal(test.end.exit.code, 5);
    stream_free(stream);
    /* Deaf to the signal, and paused besides. */
    SHELL(&test, &stream, "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    read_until(stream, "ready\n");
    assert_int_equal(container_driver.pause(test.driver, &test.instance, &error), 0);
    assert_true(cgroup_is_frozen(test.instance.cgroup));
    assert_int_equal(container_driver.resume(test.driver, &test.instance, &error), 0);
    assert_int_equal(container_driver.pause(test.driver, &test.instance, &error), 0);
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 200, &error), 0);
    assert_int_equal(test.end.exit.code, 137);
    stream_free(stream);
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 200, &error), 0);
    assert_int_equal(container_driver.adopt(test.driver, &test.instance, &running, &paused, &exit, &error), 0);
    assert_false(running);
    assert_int_equal(exit.code, 137);
    test_done(&test);
    return 0;
}

static int case_limits(void *userdata) {
    struct test test;
    struct stream *stream = NULL;

    test_init(&test);
    SHELL(&test, &stream, "head -c 200000000 /dev/zero | tail > /dev/null; echo $?; cat /dev/zero | head -c 200m | tail | wc -c");
    free(read_all(stream));
    stream_free(stream);
    wait_end(&test);
    assert_true(test.end.exit.out_of_memory);
    /* A guest that prints for ever stays within its log. */
    SHELL(&test, NULL, "i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done");
    assert_int_equal(wait_end(&test), 0);
    _cleanup_free_ char *command = text_format("cat %s/log* | wc -c", test.state);
    _cleanup_free_ char *size = command_output(command);
    assert_true(atoi(size) <= 96 * 1024);
    struct log_reader *reader;
    struct log_entry entry;
    char last[64] = "";
    assert_int_equal(log_reader_open(test.state, -1, &reader), 0);
    while (log_reader_next(reader, &entry) == 1)
        snprintf(last, sizeof(last), "%.*s", (int) entry.size, entry.text);
    assert_string_equal(last, "line number 19999");
    log_reader_free(reader);
    test_done(&test);
    return 0;
}

static int case_disk(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    struct error error = ERROR_INIT;

    test_init(&test);
    test.spec.disk = 16 << 20;
    SHELL(&test, &stream, "dd if=/dev/zero of=/big bs=1M count=64; ls -l /big; echo kept > /kept");
    _cleanup_free_ char *text = read_all(stream);
    stream_free(stream);
    /* A full image, or a quota. */
    assert_true(strstr(text, "quota exceeded") || contains(text, "No space left"));
    wait_end(&test);
    test.spec.disk = 32 << 20;
    SHELL(&test, &stream, "rm /big; dd if=/dev/zero of=/more bs=1M count=10 && echo room");
    _cleanup_free_ char *more = read_all(stream);
    stream_free(stream);
    assert_true(contains(more, "room"));
    wait_end(&test);
    test.spec.disk = 8 << 20;
    _cleanup_free_ char *image = text_format("%s/disk.ext4", test.state);
    if (!file_exists(AT_FDCWD, image)) {
        test_done(&test); /* a quota may shrink */
        return 0;
    }
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_NOT_SUPPORTED);
    error_clear(&error);
    test_done(&test);
    _cleanup_free_ char *loops = command_output("losetup -a");
    assert_null(strstr(loops, "disk.ext4"));
    return 0;
}

static int case_mounts(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    struct error error = ERROR_INIT;
    _cleanup_free_ char *shared = text_format("%s/shared", world.work), *file = text_format("%s/file", shared);
    _cleanup_free_ char *link = text_format("%s/link", world.work);
    struct stat status;

    test_init(&test);
    assert_int_equal(mkdir(shared, 0755), 0);
    test.mounts[0] = (struct instance_mount){ .type = MOUNT_BIND, .source = shared, .target = (char *) "/data" };
    test.mounts[1] = (struct instance_mount){ .type = MOUNT_TMPFS, .target = (char *) "/scratch", .size = 1 << 20 };
    test.spec.mounts = (struct field_array){ .items = test.mounts, .count = 2 };
    SHELL(&test, &stream, "echo hi > /data/file; chown 7:8 /data/file; ls -ln /data; "
                          "dd if=/dev/zero of=/scratch/x bs=1M count=3; mount | grep scratch");
    _cleanup_free_ char *text = read_all(stream);
    stream_free(stream);
    assert_int_equal(wait_end(&test), 0);
    assert_true(contains(text, "No space left"));
    assert_true(contains(text, "size=1024k"));
    /* Idmapped: the ids inside are the ids outside. */
    assert_int_equal(stat(file, &status), 0);
    assert_int_equal(status.st_uid, 7);
    assert_int_equal(status.st_gid, 8);
    test.mounts[0].read_only = true;
    SHELL(&test, &stream, "cat /data/file; echo no > /data/file");
    _cleanup_free_ char *again = read_all(stream);
    stream_free(stream);
    assert_true(contains(again, "hi\n"));
    assert_true(contains(again, "Read-only"));
    wait_end(&test);
    /* Not beneath an allowed directory, itself or through a link. */
    test.mounts[0].source = (char *) "/etc";
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_NOT_ALLOWED_PATH);
    error_clear(&error);
    assert_int_equal(symlink("/etc", link), 0);
    test.mounts[0].source = link;
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_NOT_ALLOWED_PATH);
    error_clear(&error);
    unlink(link);
    test.mounts[0].source = link;
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    error_clear(&error);
    test_done(&test);
    file_remove_tree(AT_FDCWD, shared);
    return 0;
}

/* Layers on top of the image that try to lead the runtime out (A65). */
static int case_hostile_layers(void *userdata) {
    static const char *const scripts[] = {
        "rm -rf dev && ln -s /dev dev", "rm -rf proc && ln -s /tmp proc", "rm -rf etc && ln -s /etc etc",
        "rm -rf sys && ln -s /sys sys",
    };
    struct error error = ERROR_INIT;
    struct stream *stream = NULL;
    struct test test;

    for (size_t i = 0; i < ELEMENTS(scripts); i++) {
        _cleanup_free_ char *command = NULL;
        snprintf(world.layers[1], sizeof(world.layers[1]), "%s/hostile", world.work);
        command = text_format("rm -rf %s && mkdir %s && cd %s && %s", world.layers[1], world.layers[1],
                              world.layers[1], scripts[i]);
        assert_int_equal(system(command), 0);
        world.layer_count = 2;
        test_init(&test);
        assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
        assert_int_equal(error.code, ERROR_BAD_IMAGE);
        error_clear(&error);
        test_done(&test);
    }
    /* Links in the places of the files that are mounted stay inside. */
    _cleanup_free_ char *command =
        text_format("rm -rf %s && mkdir -p %s/etc && cd %s/etc && ln -s /../../../etc/shadow hosts && "
                    "ln -s /proc/self/fd/7 resolv.conf && ln -s ../run/x hostname && mkfifo group",
                    world.layers[1], world.layers[1], world.layers[1]);
    assert_int_equal(system(command), 0);
    _cleanup_free_ char *before = command_output("md5sum /etc/shadow /etc/hosts; ls /run");
    test_init(&test);
    test.instance.process.user = (char *) "root:users";
    assert_int_not_equal(start_with(&test, (char *[]){ (char *) "true", NULL }, NULL, &error), 0);
    assert_int_equal(error.code, ERROR_BAD_VALUE);
    error_clear(&error);
    _cleanup_free_ char *fix = text_format("rm %s/etc/group", world.layers[1]);
    assert_int_equal(system(fix), 0);
    test.instance.process.user = NULL;
    if (start_with(&test, (char *[]){ (char *) "true", NULL }, &stream, &error) == 0) {
        free(read_all(stream));
        stream_free(stream);
        wait_end(&test);
    }
    error_clear(&error);
    test_done(&test);
    _cleanup_free_ char *after = command_output("md5sum /etc/shadow /etc/hosts; ls /run");
    assert_string_equal(before, after);
    world.layer_count = 1;
    return 0;
}

/* What the unpacker writes for ".wh.NAME" and ".wh..wh..opq". */
static int case_whiteouts(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    _cleanup_free_ char *command = NULL, *opaque = NULL, *gone = NULL;

    snprintf(world.layers[1], sizeof(world.layers[1]), "%s/second", world.work);
    snprintf(world.layers[2], sizeof(world.layers[2]), "%s/third", world.work);
    command = text_format("mkdir -p %s/hidden %s/kept %s/hidden && touch %s/hidden/below %s/kept/below %s/hidden/above "
                          "%s/gone && chown 33:44 %s/kept/below",
                          world.layers[1], world.layers[1], world.layers[2], world.layers[1], world.layers[1],
                          world.layers[2], world.layers[1], world.layers[1]);
    assert_int_equal(system(command), 0);
    opaque = text_format("%s/hidden", world.layers[2]);
    gone = text_format("%s/gone", world.layers[2]);
    assert_int_equal(setxattr(opaque, "user.overlay.opaque", "y", 1, 0), 0);
    assert_int_equal(mknod(gone, S_IFCHR | 0600, makedev(0, 0)), 0);
    world.layer_count = 3;
    test_init(&test);
    SHELL(&test, &stream, "ls /hidden; ls -ln /kept; ls /gone; rm -r /kept; mkdir /kept; ls /kept; mv /hidden /moved && ls /moved");
    _cleanup_free_ char *text = read_all(stream);
    stream_free(stream);
    wait_end(&test);
    assert_true(contains(text, "above\n"));
    assert_null(strstr(text, "above\nbelow"));
    assert_true(contains(text, " 33       44 "));
    assert_true(contains(text, "/gone: No such file"));
    /* The change is still there at the next start, and the image is as it was. */
    SHELL(&test, &stream, "ls -d /moved /kept /hidden");
    _cleanup_free_ char *again = read_all(stream);
    stream_free(stream);
    wait_end(&test);
    assert_true(contains(again, "/kept\n/moved\n"));
    test_done(&test);
    world.layer_count = 1;
    return 0;
}

/* As many layers as an image may have. */
static int case_many_layers(void *userdata) {
    struct test test;
    struct stream *stream = NULL;

    world.many_layers = true;
    test_init(&test);
    SHELL(&test, &stream, "ls /layers | wc -l; cat /top");
    _cleanup_free_ char *text = read_all(stream);
    stream_free(stream);
    wait_end(&test);
    assert_string_equal(text, "127\n127\n");
    test_done(&test);
    world.many_layers = false;
    return 0;
}

/* A container that is started in a process that then dies as by kill -9. */
struct dying {
    const char *uuid;
    const char *script;
    bool exec_too;
};

static int dying_main(void *userdata) {
    const struct dying *dying = userdata;
    struct stream *stream = NULL;
    struct test test;

    test_init_named(&test, dying->uuid);
    SHELL(&test, &stream, dying->script);
    read_until(stream, "ready\n");
    if (dying->exec_too) {
        char *arguments[] = { (char *) "sh", (char *) "-c", (char *) "echo ready; exec sleep 4343", NULL };
        read_until(exec_open(&test, &(struct exec_request){ .arguments = arguments }), "ready\n");
    }
    kill(getpid(), SIGKILL);
    return 0;
}

static void loop_with(fiber_function function, void *userdata);

static void die(const struct dying *dying) {
    int status;
    pid_t pid;

    loop_done();
    pid = fork();
    if (pid == 0) {
        loop_with(dying_main, (void *) dying);
        _exit(1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(loop_init(), 0);
}

struct adopting {
    const char *uuid;
    int expected;     /* code of the end that is reported, or -2: it runs */
    bool kill_conmon;
};

static int adopting_main(void *userdata) {
    const struct adopting *adopting = userdata;
    struct stream *stream = NULL;
    struct driver_exit exit;
    struct error error = ERROR_INIT;
    bool running, paused;
    struct test test;
    int code;

    test_init_named(&test, adopting->uuid);
    assert_int_equal(cgroup_ensure(world.cgroups, test.uuid, &test.instance.cgroup, &error), 0);
    assert_int_equal(container_driver.adopt(test.driver, &test.instance, &running, &paused, &exit, &error), 0);
    assert_int_equal(running, adopting->expected == -2);
    if (!running) {
        assert_int_equal(exit.code, adopting->expected);
        test_done(&test);
        return 0;
    }
    _cleanup_free_ char *left = run_inside(&test, "ps | grep '[4]343'", &code);
    assert_string_equal(left, "");
    if (adopting->kill_conmon) {
        _cleanup_free_ char *command = text_format("pkill -KILL -f -- '^conmon .*--cid=%s'", test.uuid);
        assert_int_equal(system(command), 0);
        free(run_inside(&test, "exit 3", &code));
        assert_int_equal(code, 3);
        assert_false(test.end.seen);
        assert_int_equal(container_driver.stop(test.driver, &test.instance, 0, &error), 0);
        assert_int_equal(wait_end(&test), -1);
        assert_non_null(test.end.exit.reason);
    } else {
        assert_int_equal(container_driver.attach(test.driver, &test.instance, &stream, &error), 0);
        read_until(stream, "tick\n");
        stream_free(stream);
        assert_int_equal(container_driver.stop(test.driver, &test.instance, 30000, &error), 0);
        assert_int_equal(wait_end(&test), 6);
    }
    test_done(&test);
    return 0;
}

static void run_on_fiber(fiber_function function, void *userdata);

static void adopt_case(const char *script, bool exec_too, int expected, bool kill_conmon, unsigned wait) {
    char uuid[UUID_TEXT_SIZE];

    uuid_new(uuid);
    die(&(struct dying){ .uuid = uuid, .script = script, .exec_too = exec_too });
    usleep(wait * 1000);
    run_on_fiber(adopting_main, &(struct adopting){ .uuid = uuid, .expected = expected, .kill_conmon = kill_conmon });
}

static void test_adopt(void **state) {
    static const char *const ticking =
        "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; echo tick; done";

    assert_int_equal(loop_init(), 0);
    adopt_case(ticking, true, -2, false, 0);
    adopt_case(ticking, false, -2, true, 0);
    adopt_case("echo ready; sleep 0.1; exit 7", false, 7, false, 1000);
    loop_done();
}

/* Without descriptors it is left as it is, and taken over when there are some: with no more than one try needs. */
static int adopting_short_main(void *userdata) {
    struct rlimit before, limit;
    struct driver_exit exit;
    struct error error = ERROR_INIT;
    bool running = false, paused;
    struct test test;
    int spare, r = -1, tries = 0, code;

    (void) clock_boot_id();
    test_init_named(&test, userdata);
    assert_int_equal(cgroup_ensure(world.cgroups, test.uuid, &test.instance.cgroup, &error), 0);
    spare = fcntl(0, F_DUPFD_CLOEXEC, 3);
    assert_true(spare >= 3);
    close(spare);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    limit = before;
    for (limit.rlim_cur = (rlim_t) spare; r < 0 && tries < 8; limit.rlim_cur++, tries++) {
        error_clear(&error);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        r = container_driver.adopt(test.driver, &test.instance, &running, &paused, &exit, &error);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    }
    error_clear(&error);
    assert_int_equal(r, 0);
    assert_true(running);
    assert_in_range(tries, 4, 6);
    free(run_inside(&test, "exit 3", &code));
    assert_int_equal(code, 3);
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 30000, &error), 0);
    assert_int_equal(wait_end(&test), 6);
    test_done(&test);
    return 0;
}

static void test_adopt_short(void **state) {
    char uuid[UUID_TEXT_SIZE];

    assert_int_equal(loop_init(), 0);
    uuid_new(uuid);
    die(&(struct dying){ .uuid = uuid, .script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done" });
    run_on_fiber(adopting_short_main, uuid);
    loop_done();
}

static int starting_main(void *userdata) {
    struct stream *stream = NULL;
    struct test test;

    test_init_named(&test, userdata);
    SHELL(&test, &stream, "echo ready; sleep 1000");
    read_until(stream, "ready\n");
    (void) fiber_sleep(60 * CLOCK_SECOND);
    return 0;
}

/* What a start that was cut off at any moment left is found and removed. */
static int cleaning_main(void *userdata) {
    struct driver_exit exit;
    struct error error = ERROR_INIT;
    bool running, paused;
    struct test test;

    test_init_named(&test, userdata);
    assert_int_equal(cgroup_ensure(world.cgroups, test.uuid, &test.instance.cgroup, &error), 0);
    assert_int_equal(container_driver.adopt(test.driver, &test.instance, &running, &paused, &exit, &error), 0);
    if (running) {
        int code;
        free(run_inside(&test, "exit 5", &code));
        assert_int_equal(code, 5);
    }
    test_done(&test);
    _cleanup_free_ char *command = text_format("pgrep -f -- '[-]-cid=%s'", (char *) userdata);
    _cleanup_free_ char *left = command_output(command);
    assert_string_equal(left, "");
    return 0;
}

/* How many other processes run this program: what a killed one left behind, which a signal may still have to reach. */
static int others_of_us(void) {
    char own[4096] = "", other[4096], path[64];
    int count = 0;
    DIR *processes = opendir("/proc");

    assert_non_null(processes);
    assert_true(readlink("/proc/self/exe", own, sizeof(own) - 1) > 0);
    for (struct dirent *entry; (entry = readdir(processes));) {
        long pid = strtol(entry->d_name, NULL, 10);
        snprintf(path, sizeof(path), "/proc/%ld/exe", pid);
        ssize_t size = pid > 0 && pid != getpid() ? readlink(path, other, sizeof(other) - 1) : -1;
        count += size > 0 && (size_t) size == strlen(own) && !memcmp(own, other, (size_t) size);
    }
    closedir(processes);
    return count;
}

static void test_crash_anywhere(void **state) {
    for (unsigned delay = 0; delay < 40000; delay += 1000) {
        char uuid[UUID_TEXT_SIZE];
        pid_t pid;

        uuid_new(uuid);
        pid = fork();
        if (pid == 0) {
            loop_with(starting_main, uuid);
            _exit(1);
        }
        usleep(delay);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        loop_with(cleaning_main, uuid);
        for (int tries = 0; others_of_us() > 0 && tries < 500; tries++)
            usleep(10000);
        assert_int_equal(others_of_us(), 0);
    }
}

static int case_files(void *userdata) {
    struct test test;
    struct stream *stream = NULL;
    struct error error = ERROR_INIT;
    enum stream_channel channel;
    char data[4096];
    long size;

    if (!world.has_guest)
        return 0;
    test_init(&test);
    for (int round = 0; round < 2; round++) {
        _cleanup_buffer_ struct buffer text = BUFFER_INIT;
        if (round == 1)
            START(&test, NULL, (char *) "sleep", (char *) "1000");
        assert_int_equal(container_driver.put(test.driver, &test.instance, round ? "/root" : "/tmp", &stream, &error), 0);
        _cleanup_free_ char *command = text_format("tar -c --format=pax -C %s file-%d", world.work, round);
        _cleanup_free_ char *make = text_format("echo content-%d > %s/file-%d", round, world.work, round);
        assert_int_equal(system(make), 0);
        FILE *tar = popen(command, "r");
        while ((size = (long) fread(data, 1, sizeof(data), tar)) > 0)
            assert_int_equal(stream_write(stream, data, (size_t) size, SOON), 0);
        pclose(tar);
        assert_int_equal(stream_close_input(stream), 0);
        free(read_all(stream));
        assert_int_equal(exec_result(stream, NULL), 0);
        stream_free(stream);
        assert_int_equal(container_driver.get(test.driver, &test.instance, round ? "/root/file-1" : "/tmp/file-0",
                                              &stream, &error), 0);
        while ((size = stream_read(stream, &channel, data, sizeof(data), SOON)) > 0)
            buffer_add(&text, data, (size_t) size);
        assert_int_equal(exec_result(stream, NULL), 0);
        stream_free(stream);
        assert_non_null(memmem(text.data, text.size, round ? "content-1" : "content-0", 9));
        assert_int_equal(container_driver.get(test.driver, &test.instance, "/not/there", &stream, &error), 0);
        free(read_all(stream));
        enum error_code problem;
        exec_result(stream, &problem);
        assert_int_equal(problem, ERROR_NOT_FOUND);
        stream_free(stream);
    }
    int code;
    _cleanup_free_ char *listing = run_inside(&test, "cat /root/file-1 /tmp/file-0; ls -ln /root/file-1", &code);
    assert_true(contains(listing, "content-1\ncontent-0\n"));
    assert_true(contains(listing, " 0        0 "));
    assert_int_equal(container_driver.stop(test.driver, &test.instance, 0, &error), 0);
    test_done(&test);
    return 0;
}

static int compare(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Not a test: the figures to compare with bare crun. */
static int case_times(void *userdata) {
    uint64_t times[3][30], before;
    struct error error = ERROR_INIT;

    struct test keeper; /* its driver has the system call filter ready */
    test_init(&keeper);
    START(&keeper, NULL, (char *) "true");
    wait_end(&keeper);
    for (int i = 0; i < 30; i++) {
        struct test test;
        test_init(&test);
        void *own = test.driver;
        test.driver = keeper.driver;
        ensure_group(&test);
        before = clock_now();
        START(&test, NULL, (char *) "/bin/true");
        times[0][i] = clock_now() - before;
        wait_end(&test);
        times[1][i] = clock_now() - before;
        assert_int_equal(container_driver.release(test.driver, &test.instance, &error), 0);
        assert_int_equal(cgroup_remove(world.cgroups, test.uuid, SOON, &error), 0);
        times[2][i] = clock_now() - before;
        cgroup_free(STEAL_PTR(test.instance.cgroup));
        test.driver = own;
        test_done(&test);
    }
    test_done(&keeper);
    for (int i = 0; i < 3; i++)
        qsort(times[i], 30, sizeof(uint64_t), compare);
    print_message("least: started %.1f ms, ended %.1f ms, released %.1f ms\n", MILLISECONDS(times[0][0]),
                  MILLISECONDS(times[1][0]), MILLISECONDS(times[2][0]));
    print_message("median: started %.1f ms, ended %.1f ms, released %.1f ms\n", MILLISECONDS(times[0][15]),
                  MILLISECONDS(times[1][15]), MILLISECONDS(times[2][15]));
    return 0;
}

/* --- running --------------------------------------------------------------------------------------------------- */

struct run {
    fiber_function function;
    void *userdata;
};

static int run_main(void *userdata) {
    struct run *run = userdata;
    int r = run->function(run->userdata);

    loop_exit(r);
    return r;
}

static void run_on_fiber(fiber_function function, void *userdata) {
    struct run run = { function, userdata };

    assert_int_equal(fiber_start(NULL, "test", run_main, &run), 0);
    assert_int_equal(loop_run(), 0);
}

static void loop_with(fiber_function function, void *userdata) {
    assert_int_equal(loop_init(), 0);
    run_on_fiber(function, userdata);
    loop_done();
}

/* Nothing is left in our namespace, whatever a case did. */
static void run_case(fiber_function function) {
    _cleanup_free_ char *before = command_output("cat /proc/self/mountinfo"), *after = NULL;

    loop_with(function, NULL);
    after = command_output("cat /proc/self/mountinfo");
    if (strcmp(before, after) != 0) /* cmocka shows but the beginning */
        fprintf(stderr, "before:\n%s\nafter:\n%s\n", before, after);
    assert_string_equal(before, after);
}

#define CASE(name)                                                                                           \
    static void test_##name(void **state) {                                                                  \
        run_case(case_##name);                                                                               \
    }

CASE(exit_codes)
CASE(inside)
CASE(user)
CASE(bad_command)
CASE(exec)
CASE(terminal)
CASE(input)
CASE(stop)
CASE(limits)
CASE(disk)
CASE(mounts)
CASE(hostile_layers)
CASE(whiteouts)
CASE(many_layers)
CASE(files)
CASE(times)

static int prepare_world(void) {
    const char *sources = getenv("POLDER_TEST_SOURCES");
    _cleanup_free_ char *command = NULL, *guest = NULL, *programs = NULL;
    char own[512];
    ssize_t size = readlink("/proc/self/exe", own, sizeof(own) - 1);
    struct error error = ERROR_INIT;

    strcpy(world.work, "/var/tmp/polder-test.XXXXXX");
    strcpy(world.run, "/run/polder-test.XXXXXX");
    if (!mkdtemp(world.work) || !mkdtemp(world.run) || chmod(world.run, 0711) < 0 || chmod(world.work, 0700) < 0)
        return -1;
    roots[0] = world.work;
    snprintf(world.layers[0], sizeof(world.layers[0]), "%s/layer", world.work);
    world.layer_count = 1;
    if (size < 0)
        return -1;
    own[size] = '\0';
    *strrchr(own, '/') = '\0';
    snprintf(world.libexec, sizeof(world.libexec), "%s/libexec", world.work);
    programs = text_format("mkdir %s && ln -s %s/../../src/guest/polder-guest %s/../../src/host/polder-enter %s", world.libexec,
                           own, own, world.libexec);
    if (!programs || system(programs) != 0)
        return -1;
    guest = text_format("%s/polder-guest", world.libexec);
    world.has_guest = file_exists(AT_FDCWD, guest);
    command = text_format("%s/../../libexec/polder-build-busybox --output %s >/dev/null && mkdir -m 755 %s && tar -C %s -xpf %s/rootfs.tar && "
                          "mkdir -m 711 %s/i",
                          sources ? sources : "tests/unit", world.work, world.layers[0],
                          world.layers[0], world.work, world.run);
    if (system(command) != 0 || cgroup_host_open("polder-test-driver", &world.cgroups, &error) < 0)
        return -1;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -1;
    if (cgroup_host_layout(world.cgroups) == CGROUP_HYBRID)
        (void) umount2("/sys/fs/cgroup/unified", MNT_DETACH);
    return 0;
}

static void remove_world(void) {
    cgroup_host_free(world.cgroups);
    file_remove_tree(AT_FDCWD, world.work);
    file_remove_tree(AT_FDCWD, world.run);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes), cmocka_unit_test(test_inside),   cmocka_unit_test(test_user),
        cmocka_unit_test(test_bad_command), cmocka_unit_test(test_exec),    cmocka_unit_test(test_terminal),
        cmocka_unit_test(test_input),      cmocka_unit_test(test_stop),     cmocka_unit_test(test_limits),
        cmocka_unit_test(test_disk),       cmocka_unit_test(test_mounts),   cmocka_unit_test(test_hostile_layers),
        cmocka_unit_test(test_whiteouts),  cmocka_unit_test(test_many_layers),
        cmocka_unit_test(test_files),      cmocka_unit_test(test_adopt),    cmocka_unit_test(test_adopt_short), cmocka_unit_test(test_crash_anywhere), cmocka_unit_test(test_times),
    };
    int failed;

    if (geteuid() != 0) {
        print_message("skipped: containers need root\n");
        return 77;
    }
    if (prepare_world() < 0) {
        print_message("the test cannot prepare its files\n");
        return 1;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    remove_world();
    return failed;
}
