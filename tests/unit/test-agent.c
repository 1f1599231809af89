// SPDX-License-Identifier: GPL-2.0-or-later
/* The client of qemu-guest-agent against fake agents of attacks.md A81 and A82. The fake listens where QEMU
 * would. */
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "drivers/qemu/agent-internal.h"
#include "drivers/qemu/lines.h"
#include "drivers/qemu/socket.h"

#define FAR (20 * CLOCK_SECOND)

struct fake {
    char path[32];
    int directory, listening, fd;
    struct fiber *fiber;
    const char *answer; /* to every command but the sync, "%s" of addresses … ; NULL: silence */
    bool endless;
    bool early; /* garbage before the sync's answer */
    unsigned syncs;
    unsigned clocks;       /* how often it was told the time */
    unsigned clocks_spoilt; /* so many of them end the connection */
    struct agent *agent;
    struct line_reader lines;
};

static void say(struct fake *fake, const char *text) {
    (void) fiber_write(fake->fd, text, strlen(text), deadline_in(FAR));
}

static int say_endless(struct fake *fake) {
    char block[65536];
    size_t sent = 0;

    memset(block, 'x', sizeof(block));
    while (sent < (64u << 20) && fiber_write(fake->fd, block, sizeof(block), deadline_in(FAR)) >= 0)
        sent += sizeof(block);
    assert_true(sent < 16u << 20);
    return -EPIPE;
}

static int fake_answer(struct fake *fake, const char *line, size_t size) {
    _cleanup_json_ struct json_object *json = NULL;
    const char *command;
    char text[256];

    while (size > 0 && *line == '\xff') {
        line++;
        size--;
    }
    assert_int_equal(json_parse(line, size, &json, NULL), 0);
    command = json_text(json, "execute", "");
    if (text_equal(command, "guest-sync-delimited")) {
        fake->syncs++;
        if (fake->early)
            say(fake, "junk\n{\"return\":1}\n\xff{\"return\":12}\n");
        snprintf(text, sizeof(text), "\xff{\"return\":%lld}\n",
                 (long long) json_integer(json_member(json, "arguments"), "id", 0));
        say(fake, text);
        return 0;
    }
    if (text_equal(command, "guest-set-time")) {
        fake->clocks++;
        if (fake->clocks_spoilt > 0) {
            fake->clocks_spoilt--;
            return -ECONNRESET;
        }
    }
    if (fake->endless)
        return say_endless(fake);
    if (fake->answer)
        say(fake, fake->answer);
    return 0;
}

static int fake_session(struct fake *fake) {
    char data[4096], *line;
    size_t size;
    int r = 0;

    line_reader_reset(&fake->lines);
    while (r >= 0) {
        long n = fiber_read(fake->fd, data, sizeof(data), DEADLINE_NONE);

        if (n <= 0)
            return n < 0 ? (int) n : 0;
        assert_int_equal(line_reader_add(&fake->lines, data, (size_t) n), 0);
        while (r >= 0 && (line = line_reader_next(&fake->lines, &size))) {
            r = fake_answer(fake, line, size);
            line_reader_drop(&fake->lines, size);
        }
    }
    return 0;
}

static int fake_main(void *userdata) {
    struct fake *fake = userdata;

    while (fiber_wait_fd(fake->listening, 1, DEADLINE_NONE) > 0) {
        fake->fd = accept4(fake->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fake->fd < 0 || fake_session(fake) == -ECANCELED)
            return 0;
        fake->fd = close_fd(fake->fd);
    }
    return 0;
}

static void fake_start(struct fake *fake) {
    strcpy(fake->path, "/tmp/polder-agent-XXXXXX");
    assert_non_null(mkdtemp(fake->path));
    fake->fd = -EBADF;
    fake->lines = (struct line_reader) LINE_READER_INIT(1 << 20);
    fake->directory = open(fake->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fake->listening = socket_listen(fake->directory, "guest.sock");
    assert_true(fake->listening >= 0);
    assert_int_equal(fiber_start(&fake->fiber, "fake", fake_main, fake), 0);
    assert_int_equal(agent_new(fake->directory, "guest.sock", NULL, NULL, &fake->agent), 0);
}

static void fake_end(struct fake *fake) {
    agent_free(fake->agent);
    fiber_cancel_join(fake->fiber);
    fiber_unref(fake->fiber);
    line_reader_done(&fake->lines);
    close_fd(fake->fd);
    close_fd(fake->listening);
    close_fd(fake->directory);
    assert_int_equal(file_remove_tree(AT_FDCWD, fake->path), 0);
}

static void test_plain(void) {
    struct fake fake = { .answer = "{\"return\":{\"host-name\":\"web\\u001b[2J\"}}\n", .early = true };

    fake_start(&fake);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    for (uint64_t end = deadline_in(FAR); !agent_hostname(fake.agent) && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    /* As the guest says it: whoever shows it escapes it. */
    assert_string_equal(agent_hostname(fake.agent), "web\x1b[2J");
    assert_int_equal(list_count(agent_addresses(fake.agent)), 0);
    fake_end(&fake);
}

static void test_error(void) {
    struct fake fake = { .answer = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no \\u001b[2J\"}}\n" };
    _cleanup_error_ struct error error = ERROR_INIT;

    fake_start(&fake);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    assert_int_equal(agent_call(fake.agent, "guest-exec", "{}", NULL, &error), -EPROTO);
    assert_string_equal(error.parameters[0], "no \\x1b[2J");
    assert_true(agent_is_up(fake.agent));
    fake_end(&fake);
}

static void test_addresses(void) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct fake fake = { 0 };

    buffer_add_text(&text, "{\"return\":[");
    for (int i = 0; i < 5000; i++)
        buffer_addf(&text,
                    "%s{\"name\":\"e\",\"ip-addresses\":[{\"ip-address\":\"10.0.%d.%d\"},{\"ip-address\":"
                    "\"\\u202e\"},"
                    "{\"ip-address\":\"127.0.0.1\"}]}",
                    i ? "," : "", i / 250, i % 250);
    buffer_add_text(&text, "]}\n");
    fake.answer = text.data;
    fake_start(&fake);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    for (uint64_t end = deadline_in(FAR); !agent_addresses(fake.agent) && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(list_count(agent_addresses(fake.agent)), 64);
    assert_true(list_has(agent_addresses(fake.agent), "10.0.0.0"));
    fake_end(&fake);
}

/* After any of these a new synchronisation is made, and the caller has got an error. */
static void misbehave(struct fake fake) {
    _cleanup_error_ struct error error = ERROR_INIT;

    fake_start(&fake);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    assert_int_equal(agent_call(fake.agent, "guest-info", NULL, NULL, &error), -EPROTO);
    for (uint64_t end = deadline_in(FAR); fake.syncs < 2 && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_true(fake.syncs >= 2);
    fake_end(&fake);
}

static void test_garbage(void) {
    misbehave((struct fake){ .answer = "what?\n" });
    misbehave((struct fake){ .answer = "[1]\n" });
}

static void test_endless(void) {
    misbehave((struct fake){ .endless = true });
}

static void test_silent(void) {
    misbehave((struct fake){ .answer = NULL });
}

static void wait_syncs(const struct fake *fake, unsigned number) {
    for (uint64_t end = deadline_in(FAR); (fake->syncs < number || !agent_is_up(fake->agent)) && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(fake->syncs, number);
}

/* A connection that is lost over the clock does not leave it wrong, and a guest that never sets it is asked for other things
 * in the end. */
static void test_clock_is_set_again(void) {
    struct fake fake = { .answer = "{\"return\":{}}\n", .clocks_spoilt = 1 };

    fake_start(&fake);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    agent_set_clock(fake.agent);
    wait_syncs(&fake, 2);
    assert_int_equal(agent_call(fake.agent, "guest-ping", NULL, NULL, NULL), 0);
    assert_int_equal(fake.clocks, 2);
    fake.clocks_spoilt = 10;
    agent_set_clock(fake.agent);
    wait_syncs(&fake, 5);
    assert_int_equal(agent_call(fake.agent, "guest-ping", NULL, NULL, NULL), 0);
    assert_int_equal(fake.clocks, 5);
    fake_end(&fake);
}

/* Nobody was free to set it when it had to be. */
static void test_clock_comes_before_what_is_asked(void) {
    struct fake fake = { .answer = "{\"return\":{}}\n" };

    fake_start(&fake);
    agent_set_clock(fake.agent);
    assert_int_equal(fake.clocks, 0);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    assert_int_equal(agent_call(fake.agent, "guest-ping", NULL, NULL, NULL), 0);
    assert_int_equal(fake.clocks, 1);
    fake_end(&fake);
}

/* C_m = P_m x R_m: 1.0 x 10 a second, 40 at once; a command and its answer are two. */
static void test_commands_keep_to_their_budget(void) {
    struct fake fake = { .answer = "{\"return\":{}}\n" };
    uint64_t begun;

    fake_start(&fake);
    assert_int_equal(agent_wait_up(fake.agent, NULL), 0);
    budget_set(agent_budget(fake.agent), 0, 10);
    begun = clock_now();
    for (int i = 0; i < 30; i++)
        assert_int_equal(agent_call(fake.agent, "guest-ping", NULL, NULL, NULL), 0);
    assert_true(clock_now() - begun >= 19 * CLOCK_SECOND / 10); /* 60 messages, 40 of them at once */
    assert_true(agent_budget(fake.agent)->waits >= 10);
    assert_true(agent_is_up(fake.agent));
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

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        FIBER_TEST(test_plain),   FIBER_TEST(test_error),   FIBER_TEST(test_addresses),
        FIBER_TEST(test_garbage), FIBER_TEST(test_endless), FIBER_TEST(test_silent),
        FIBER_TEST(test_commands_keep_to_their_budget), FIBER_TEST(test_clock_is_set_again),
        FIBER_TEST(test_clock_comes_before_what_is_asked),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
