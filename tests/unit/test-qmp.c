// SPDX-License-Identifier: GPL-2.0-or-later
/* The QMP client against a scripted monitor: a thread-free fake on the other end of a socket pair. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/text.h"
#include "drivers/qemu/lines.h"
#include "drivers/qemu/qmp.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"
#define FAR (20 * CLOCK_SECOND)
#define SHORT (50 * CLOCK_MILLISECOND)

struct fake {
    int fd, peer;
    struct fiber *fiber;
    int (*script)(struct fake *fake);
    struct line_reader lines;
    unsigned events, closed;
    char last_event[64];
};

static void fake_say(struct fake *fake, const char *format, ...) _printf_(2, 3);
static void fake_say(struct fake *fake, const char *format, ...) {
    va_list arguments;
    char text[1024];

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    (void) fiber_write(fake->fd, text, strlen(text), deadline_in(FAR));
}

/* The next command; its id in *ret_id. */
static int fake_hear(struct fake *fake, char *command, uint64_t *ret_id) {
    char data[1024], *line;
    size_t size;
    long n;

    while (!(line = line_reader_next(&fake->lines, &size))) {
        n = fiber_read(fake->fd, data, sizeof(data), deadline_in(FAR));
        if (n <= 0)
            return -EPIPE;
        assert_int_equal(line_reader_add(&fake->lines, data, (size_t) n), 0);
    }
    _cleanup_json_ struct json_object *json = NULL;
    assert_int_equal(json_parse(line, size, &json, NULL), 0);
    snprintf(command, 64, "%s", json_text(json, "execute", ""));
    *ret_id = (uint64_t) json_integer(json, "id", -1);
    line_reader_drop(&fake->lines, size);
    return 0;
}

static int fake_greet(struct fake *fake) {
    char command[64];
    uint64_t id;

    fake_say(fake, GREETING);
    if (fake_hear(fake, command, &id) < 0)
        return -EPIPE;
    assert_string_equal(command, "qmp_capabilities");
    fake_say(fake, "{\"return\": {}, \"id\": %llu}\r\n", (unsigned long long) id);
    return 0;
}

static int fake_main(void *userdata) {
    struct fake *fake = userdata;

    return fake->script(fake);
}

static void on_event(const char *name, struct json_object *data _unused_, void *userdata) {
    struct fake *fake = userdata;

    fake->events++;
    snprintf(fake->last_event, sizeof(fake->last_event), "%s", name);
}

static void on_closed(void *userdata) {
    struct fake *fake = userdata;

    fake->closed++;
}

static const struct qmp_handlers handlers = { .event = on_event, .closed = on_closed };

static void fake_start(struct fake *fake, int (*script)(struct fake *fake)) {
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    *fake = (struct fake){
        .fd = pair[0], .peer = pair[1], .script = script, .lines = LINE_READER_INIT(1 << 20)
    };
    assert_int_equal(fiber_start(&fake->fiber, "fake", fake_main, fake), 0);
}

static void fake_end(struct fake *fake) {
    fiber_cancel_join(fake->fiber);
    fiber_unref(fake->fiber);
    line_reader_done(&fake->lines);
    close_fd(fake->fd);
}

static int fake_open(struct fake *fake, uint64_t wait, struct qmp **ret, struct error *error) {
    return qmp_open_take(fake->peer, &handlers, fake, deadline_in(wait), ret, error);
}

/* --- scripts and their tests ---------------------------------------------------------------------------- */

static int script_silent(struct fake *fake _unused_) {
    return fiber_sleep(60 * CLOCK_SECOND);
}

static void test_no_greeting(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    struct fake fake;

    fake_start(&fake, script_silent);
    assert_int_equal(fake_open(&fake, SHORT, &qmp, &error), -ETIMEDOUT);
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_null(qmp);
    fake_end(&fake);
}

static int script_slow(struct fake *fake) {
    char command[64];
    uint64_t id = 0;

    for (const char *c = GREETING; *c; c++) {
        if (fiber_sleep(1000) < 0 || fiber_write(fake->fd, c, 1, deadline_in(FAR)) < 0)
            return -EPIPE;
    }
    while (fake_hear(fake, command, &id) >= 0)
        fake_say(fake, "{\"return\": {\"status\": \"running\"}, \"id\": %llu}\r\n", (unsigned long long) id);
    return 0;
}

static void test_slow_bytes(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    _cleanup_json_ struct json_object *reply = NULL;
    struct fake fake;

    fake_start(&fake, script_slow);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    assert_int_equal(qmp_call(qmp, "query-status", NULL, -1, deadline_in(FAR), &reply, NULL), 0);
    assert_string_equal(json_text(reply, "status", ""), "running");
    fake_end(&fake);
}

/* Three calls answered backwards, with events between, one of them twice, a reply nobody asked for, and a
 * late one. */
static int script_disorder(struct fake *fake) {
    uint64_t ids[3];
    char commands[3][64];

    if (fake_greet(fake) < 0)
        return -EPIPE;
    for (int i = 0; i < 3; i++)
        if (fake_hear(fake, commands[i], &ids[i]) < 0)
            return -EPIPE;
    fake_say(fake,
             "{\"event\": \"STOP\", \"timestamp\": {}}\r\n{\"event\": \"STOP\", \"timestamp\": {}}\r\n");
    fake_say(fake, "{\"return\": {}, \"id\": 999999}\r\n{\"return\": {}}\r\n\r\n");
    for (int i = 2; i >= 0; i--)
        fake_say(fake, "{\"return\": {\"name\": \"%s\"}, \"id\": %llu}\r\n", commands[i],
                 (unsigned long long) ids[i]);
    fake_say(fake, "{\"event\": \"RESUME\", \"data\": {\"x\": 1}}\r\n");
    return fiber_sleep(60 * CLOCK_SECOND);
}

struct caller {
    struct qmp *qmp;
    const char *command;
    struct fiber *fiber;
};

static int caller_main(void *userdata) {
    struct caller *caller = userdata;
    _cleanup_json_ struct json_object *reply = NULL;
    int r = qmp_call(caller->qmp, caller->command, NULL, -1, deadline_in(FAR), &reply, NULL);

    if (r >= 0)
        assert_string_equal(json_text(reply, "name", ""), caller->command);
    return r;
}

static void test_disorder(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    struct caller callers[] = { { .command = "one" }, { .command = "two" }, { .command = "three" } };
    struct fake fake;
    int r;

    fake_start(&fake, script_disorder);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    for (size_t i = 0; i < ELEMENTS(callers); i++) {
        callers[i].qmp = qmp;
        assert_int_equal(fiber_start(&callers[i].fiber, "caller", caller_main, &callers[i]), 0);
    }
    for (size_t i = 0; i < ELEMENTS(callers); i++) {
        assert_int_equal(fiber_join(callers[i].fiber, deadline_in(FAR), &r), 0);
        assert_int_equal(r, 0);
        fiber_unref(callers[i].fiber);
    }
    for (uint64_t end = deadline_in(FAR); fake.events < 3 && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(fake.events, 3);
    assert_string_equal(fake.last_event, "RESUME");
    fake_end(&fake);
}

static int script_error(struct fake *fake) {
    char command[64];
    uint64_t id;

    if (fake_greet(fake) < 0 || fake_hear(fake, command, &id) < 0)
        return -EPIPE;
    fake_say(fake,
             "{\"id\": %llu, \"error\": {\"class\": \"GenericError\", \"desc\": \"no \\u001b[2J way\"}}\r\n",
             (unsigned long long) id);
    return fiber_sleep(60 * CLOCK_SECOND);
}

static void test_error(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    struct fake fake;

    fake_start(&fake, script_error);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    assert_int_equal(qmp_call(qmp, "cont", NULL, -1, deadline_in(FAR), NULL, &error), -EIO);
    assert_string_equal(error.parameters[0], "QEMU's cont");
    assert_string_equal(error.parameters[1], "no \\x1b[2J way");
    fake_end(&fake);
}

/* A call that times out leaves the connection usable, and its late answer disturbs nobody. */
static int script_late(struct fake *fake) {
    char command[64];
    uint64_t first, second;

    if (fake_greet(fake) < 0 || fake_hear(fake, command, &first) < 0 || fake_hear(fake, command, &second) < 0)
        return -EPIPE;
    fake_say(fake, "{\"return\": {\"late\": true}, \"id\": %llu}\r\n", (unsigned long long) first);
    fake_say(fake, "{\"return\": {\"late\": false}, \"id\": %llu}\r\n", (unsigned long long) second);
    return fiber_sleep(60 * CLOCK_SECOND);
}

static void test_late(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    _cleanup_json_ struct json_object *reply = NULL;
    struct fake fake;

    fake_start(&fake, script_late);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    assert_int_equal(qmp_call(qmp, "a", NULL, -1, deadline_in(SHORT), NULL, NULL), -ETIMEDOUT);
    assert_int_equal(qmp_call(qmp, "b", NULL, -1, deadline_in(FAR), &reply, NULL), 0);
    assert_false(json_boolean(reply, "late", true));
    fake_end(&fake);
}

/* A sign of life is asked for once until it came, and nothing waits for it, nor for what is only posted. */
static int script_ping(struct fake *fake) {
    char command[64];
    uint64_t ping, other;

    if (fake_greet(fake) < 0 || fake_hear(fake, command, &ping) < 0)
        return -EPIPE;
    assert_string_equal(command, "query-status");
    if (fake_hear(fake, command, &other) < 0)
        return -EPIPE;
    assert_string_equal(command, "cont");
    fake_say(fake, "{\"return\": {}, \"id\": %llu}\r\n", (unsigned long long) other);
    fake->events = 100; /* both have come */
    if (fiber_sleep(SHORT) < 0)
        return -ECANCELED;
    fake_say(fake, "{\"return\": {\"status\": \"running\"}, \"id\": %llu}\r\n", (unsigned long long) ping);
    return fake_hear(fake, command, &ping);
}

static void test_ping(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    struct fake fake;

    fake_start(&fake, script_ping);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    assert_false(qmp_is_silent(qmp));
    for (int i = 0; i < 3; i++)
        assert_int_equal(qmp_ping(qmp), 0);
    assert_int_equal(qmp_post(qmp, "cont"), 0);
    for (uint64_t end = deadline_in(FAR); fake.events < 100 && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_true(qmp_is_silent(qmp));
    for (uint64_t end = deadline_in(FAR); qmp_is_silent(qmp) && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_false(qmp_is_silent(qmp));
    fake_end(&fake);
    while (qmp_is_open(qmp))
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(qmp_ping(qmp), -ECONNRESET);
}

static int garbage(struct fake *fake, const char *text) {
    if (fake_greet(fake) < 0)
        return -EPIPE;
    fake_say(fake, "%s", text);
    return fiber_sleep(60 * CLOCK_SECOND);
}

static int script_text(struct fake *fake) {
    return garbage(fake, "hello there\n");
}

static int script_array(struct fake *fake) {
    return garbage(fake, "[1,2,3]\n");
}

static int script_unknown(struct fake *fake) {
    return garbage(fake, "{\"surprise\": 1}\n");
}

static int script_hangup(struct fake *fake) {
    int r = fake_greet(fake);

    (void) shutdown(fake->fd, SHUT_RDWR);
    return r;
}

/* A line without an end: the client must give up at 4 MiB, long before the gigabyte is through. */
static int script_endless(struct fake *fake) {
    char *block = malloc(65536);
    size_t sent = 0;

    memset(block, 'x', 65536);
    if (fake_greet(fake) >= 0)
        while (sent < (1u << 30) && fiber_write(fake->fd, block, 65536, deadline_in(FAR)) >= 0)
            sent += 65536;
    free(block);
    assert_true(sent <= QMP_LINE_MAX + 2 * 1024 * 1024);
    return 0;
}

static void test_garbage(void) {
    static int (*const scripts[])(struct fake * fake) = { script_text, script_array, script_unknown,
                                                          script_hangup, script_endless };

    for (size_t i = 0; i < ELEMENTS(scripts); i++) {
        _cleanup_qmp_ struct qmp *qmp = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;
        struct fake fake;

        fake_start(&fake, scripts[i]);
        assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
        assert_int_equal(qmp_call(qmp, "query-status", NULL, -1, deadline_in(FAR), NULL, &error),
                         -ECONNRESET);
        assert_int_equal(fake.closed, 1);
        assert_false(qmp_is_open(qmp));
        assert_int_equal(qmp_call(qmp, "again", NULL, -1, deadline_in(FAR), NULL, NULL), -ECONNRESET);
        fake_end(&fake);
    }
}

static int script_descriptor(struct fake *fake) {
    char data[1024], control[256];
    struct iovec part = { .iov_base = data, .iov_len = sizeof(data) };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                              .msg_controllen = sizeof(control) };
    struct cmsghdr *head;
    int fd;

    if (fake_greet(fake) < 0 || fiber_wait_fd(fake->fd, 1, deadline_in(FAR)) < 0)
        return -EPIPE;
    assert_true(recvmsg(fake->fd, &message, 0) > 0);
    head = CMSG_FIRSTHDR(&message);
    assert_non_null(head);
    assert_int_equal(head->cmsg_type, SCM_RIGHTS);
    memcpy(&fd, CMSG_DATA(head), sizeof(fd));
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    fake_say(fake, "{\"return\": {}, \"id\": 2}\r\n");
    return fiber_sleep(60 * CLOCK_SECOND);
}

static void test_descriptor(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    struct fake fake;
    int ends[2];
    char byte = 0;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    fake_start(&fake, script_descriptor);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    assert_int_equal(qmp_call(qmp, "getfd", "{\"fdname\":\"x\"}", ends[1], deadline_in(FAR), NULL, NULL), 0);
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_int_equal(byte, 'x');
    close(ends[0]);
    fake_end(&fake);
}

/* Freed while a call waits: the call returns, nothing is used after. */
static void test_free_during_call(void) {
    struct caller caller = { .command = "hang" };
    struct qmp *qmp = NULL;
    struct fake fake;
    int r = 0;

    fake_start(&fake, script_late);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    caller.qmp = qmp;
    assert_int_equal(fiber_start(&caller.fiber, "caller", caller_main, &caller), 0);
    assert_int_equal(fiber_sleep(5000), 0);
    qmp_free(qmp);
    assert_int_equal(fiber_join(caller.fiber, deadline_in(FAR), &r), 0);
    assert_int_equal(r, -ECONNRESET);
    assert_int_equal(fake.closed, 0);
    fiber_unref(caller.fiber);
    fake_end(&fake);
}

static void test_cancel(void) {
    _cleanup_qmp_ struct qmp *qmp = NULL;
    struct caller caller = { .command = "hang" };
    struct fake fake;
    int r = 0;

    fake_start(&fake, script_late);
    assert_int_equal(fake_open(&fake, FAR, &qmp, NULL), 0);
    caller.qmp = qmp;
    assert_int_equal(fiber_start(&caller.fiber, "caller", caller_main, &caller), 0);
    assert_int_equal(fiber_sleep(5000), 0);
    fiber_cancel(caller.fiber);
    assert_int_equal(fiber_join(caller.fiber, deadline_in(FAR), &r), 0);
    assert_int_equal(r, -ECANCELED);
    assert_true(qmp_is_open(qmp));
    fiber_unref(caller.fiber);
    fake_end(&fake);
}

/* --- running tests on a fiber --------------------------------------------------------------------------- */

static int on_fiber(void *userdata) {
    void (*test)(void) = *(void (**)(void)) userdata;

    test();
    /* Canceled fibers run to their ends. */
    for (int i = 0; i < 10; i++)
        (void) fiber_yield();
    loop_exit(0);
    return 0;
}

static void run(void **state) {
    void (*test)(void) = (void (*)(void)) (uintptr_t) *state;

    assert_int_equal(loop_init(), 0);
    assert_int_equal(fiber_start(NULL, "test", on_fiber, &test), 0);
    assert_int_equal(loop_run(), 0);
    loop_done();
}

#define FIBER_TEST(function)                                                                                 \
    { .name = #function, .test_func = run, .initial_state = (void *) (uintptr_t) (function) }

static void test_lines(void **state _unused_) {
    struct line_reader reader = LINE_READER_INIT(8);
    size_t size;

    assert_null(line_reader_next(&reader, &size));
    assert_int_equal(line_reader_add(&reader, "ab\ncd", 5), 0);
    assert_string_equal(line_reader_next(&reader, &size), "ab");
    line_reader_drop(&reader, size);
    assert_null(line_reader_next(&reader, &size));
    assert_int_equal(line_reader_add(&reader, "\n12345678\n", 10), 0);
    assert_string_equal(line_reader_next(&reader, &size), "cd");
    line_reader_drop(&reader, size);
    assert_string_equal(line_reader_next(&reader, &size), "12345678");
    line_reader_drop(&reader, size);
    assert_int_equal(line_reader_add(&reader, "123456789", 9), -EMSGSIZE);
    line_reader_done(&reader);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines), FIBER_TEST(test_no_greeting), FIBER_TEST(test_slow_bytes),
        FIBER_TEST(test_disorder),    FIBER_TEST(test_error),       FIBER_TEST(test_late),
        FIBER_TEST(test_garbage),     FIBER_TEST(test_descriptor),  FIBER_TEST(test_free_during_call),
        FIBER_TEST(test_cancel),      FIBER_TEST(test_ping),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
