// SPDX-License-Identifier: GPL-2.0-or-later
/* The guest connection against fake agents: one that behaves, and those of attacks.md: silent, babbling,
 * lying, endless. The fake listens where QEMU would. */
#include "test.h"

#include <endian.h>
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
#include "base/text.h"
#include "drivers/qemu/guestport.h"
#include "drivers/qemu/socket.h"
#include "guest/frame.h"

#define FAR (20 * CLOCK_SECOND)
#define SHORT (100 * CLOCK_MILLISECOND)

struct fake {
    char path[32];
    int directory, listening, fd;
    struct fiber *fiber;
    int (*script)(struct fake *fake);
    struct frame_reader frames;
    struct guestport *port;
    unsigned ready, exits, connections;
    int code;
    struct buffer output;
    uint32_t channel;
};

static int fake_accept(struct fake *fake) {
    fake->fd = close_fd(fake->fd);
    frame_reader_clear(&fake->frames);
    if (fiber_wait_fd(fake->listening, 1, deadline_in(FAR)) < 0)
        return -ECANCELED;
    fake->fd = accept4(fake->listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    fake->connections++;
    return fake->fd < 0 ? -errno : 0;
}

static int fake_send(struct fake *fake, uint8_t type, uint32_t channel, const void *data, size_t size) {
    uint8_t header[GUEST_HEADER_SIZE];
    int r;

    frame_encode_header(header, type, channel, (uint32_t) size);
    r = fiber_write(fake->fd, header, sizeof(header), deadline_in(FAR));
    return r < 0 ? r : fiber_write(fake->fd, data, size, deadline_in(FAR));
}

static int fake_send_text(struct fake *fake, uint8_t type, uint32_t channel, const char *text) {
    return fake_send(fake, type, channel, text, strlen(text));
}

static int fake_hear(struct fake *fake, struct frame *ret) {
    int r;

    while ((r = frame_reader_next(&fake->frames, ret)) == 0) {
        size_t room;
        uint8_t *space = frame_reader_space(&fake->frames, &room);
        long n = fiber_read(fake->fd, space, room, deadline_in(FAR));

        if (n <= 0)
            return -EPIPE;
        frame_reader_commit(&fake->frames, (size_t) n);
    }
    return r;
}

/* Accepts a connection and answers its hello. */
static int fake_greet(struct fake *fake, const char *state) {
    struct frame frame;

    if (fake_accept(fake) < 0 || fake_hear(fake, &frame) < 0 || frame.header.type != GUEST_HELLO)
        return -EPIPE;
    if (fake_send(fake, GUEST_HELLO, 0, frame.payload, frame.header.length) < 0)
        return -EPIPE;
    return fake_send_text(fake, GUEST_STATE, 0, state);
}

static void on_ready(bool started _unused_, void *userdata) {
    ((struct fake *) userdata)->ready++;
}

static void on_output(enum stream_channel channel _unused_, const void *data, size_t size, void *userdata) {
    buffer_add(&((struct fake *) userdata)->output, data, size);
}

static void on_exited(int code, const char *problem _unused_, void *userdata) {
    struct fake *fake = userdata;

    fake->exits++;
    fake->code = code;
}

static const struct guestport_handlers handlers = { .ready = on_ready,
                                                    .output = on_output,
                                                    .exited = on_exited };

static int fake_main(void *userdata) {
    struct fake *fake = userdata;

    return fake->script(fake);
}

static void fake_start(struct fake *fake, int (*script)(struct fake *fake)) {
    *fake = (struct fake){ .script = script, .fd = -EBADF };
    strcpy(fake->path, "/tmp/polder-port-XXXXXX");
    assert_non_null(mkdtemp(fake->path));
    fake->directory = open(fake->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fake->listening = socket_listen(fake->directory, "guest.sock");
    assert_true(fake->listening >= 0);
    assert_int_equal(frame_reader_init(&fake->frames), 0);
    assert_int_equal(guestport_new(fake->directory, "guest.sock", &handlers, fake, &fake->port), 0);
    assert_int_equal(fiber_start(&fake->fiber, "fake", fake_main, fake), 0);
}

static void fake_end(struct fake *fake) {
    guestport_free(fake->port);
    fiber_cancel_join(fake->fiber);
    fiber_unref(fake->fiber);
    frame_reader_done(&fake->frames);
    buffer_done(&fake->output);
    close_fd(fake->fd);
    close_fd(fake->listening);
    close_fd(fake->directory);
    assert_int_equal(file_remove_tree(AT_FDCWD, fake->path), 0);
}

static int forever(void) {
    return fiber_sleep(60 * CLOCK_SECOND);
}

/* --- behaving ------------------------------------------------------------------------------------------- */

static int script_main(struct fake *fake) {
    struct frame frame;

    if (fake_greet(fake, "{\"started\":false,\"addresses\":[\"10.1.2.3\",\"bad\\u001b[2J\",5]}") < 0)
        return -EPIPE;
    if (fake_hear(fake, &frame) < 0)
        return -EPIPE;
    assert_int_equal(frame.header.type, GUEST_START);
    fake_send_text(fake, GUEST_STDOUT, GUEST_CHANNEL_MAIN, "hello ");
    fake_send_text(fake, GUEST_STDERR, GUEST_CHANNEL_MAIN, "world\n");
    fake_send_text(fake, GUEST_EXIT, GUEST_CHANNEL_MAIN, "{\"code\":5}");
    do {
        if (fake_hear(fake, &frame) < 0)
            return -EPIPE;
    } while (frame.header.type == GUEST_CREDIT);
    assert_int_equal(frame.header.type, GUEST_ACK);
    fake->channel = 99;
    return forever();
}

static void test_main(void) {
    struct stream *stream;
    enum stream_channel channel;
    struct fake fake;
    char data[64];
    int code = -1;

    fake_start(&fake, script_main);
    assert_int_equal(guestport_wait_ready(fake.port, deadline_in(FAR)), 0);
    assert_int_equal(list_count(guestport_addresses(fake.port)),
                     2); /* 10.1.2.3 and 5, not the escape sequence */
    assert_int_equal(guestport_attach(fake.port, &stream, NULL), 0);
    assert_int_equal(guestport_start(fake.port, "{}"), 0);
    assert_int_equal(stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR)), 6);
    assert_int_equal(channel, STREAM_OUTPUT);
    assert_int_equal(stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR)), 6);
    assert_int_equal(channel, STREAM_ERRORS);
    assert_int_equal(stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR)), 0);
    assert_int_equal(stream_result(stream, &code, NULL, deadline_in(FAR)), 0);
    assert_int_equal(code, 5);
    stream_free(stream);
    assert_int_equal(fake.exits, 1);
    assert_string_equal(fake.output.data, "hello world\n");
    assert_int_equal(guestport_acknowledge(fake.port), 0);
    for (uint64_t end = deadline_in(FAR); fake.channel != 99 && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(fake.channel, 99);
    fake_end(&fake);
}

/* An exec echoes its standard input; the window holds: a reader that stops stops the sender at
 * GUEST_WINDOW. */
static int script_flood(struct fake *fake) {
    char block[16384];
    size_t sent = 0, credited = 0;
    struct frame frame;
    uint32_t size;

    memset(block, 'x', sizeof(block));
    if (fake_greet(fake, "{}") < 0 || fake_hear(fake, &frame) < 0)
        return -EPIPE;
    fake->channel = frame.header.channel;
    while (sent < 4 << 20) {
        while (sent - credited + sizeof(block) > GUEST_WINDOW) {
            if (fake_hear(fake, &frame) < 0)
                return -EPIPE;
            if (frame.header.type != GUEST_CREDIT)
                continue;
            memcpy(&size, frame.payload, sizeof(size));
            credited += le32toh(size);
        }
        if (fake_send(fake, GUEST_STDOUT, fake->channel, block, sizeof(block)) < 0)
            return -EPIPE;
        sent += sizeof(block);
    }
    fake_send_text(fake, GUEST_EXIT, fake->channel, "{\"code\":0}");
    return forever();
}

static void test_window(void) {
    struct stream *stream;
    enum stream_channel channel;
    struct fake fake;
    char data[8192];
    size_t total = 0;
    long n;

    fake_start(&fake, script_flood);
    assert_int_equal(guestport_wait_ready(fake.port, deadline_in(FAR)), 0);
    assert_int_equal(guestport_exec(fake.port, "{}", &stream, NULL), 0);
    assert_int_equal(fiber_sleep(SHORT), 0);
    while ((n = stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR))) > 0)
        total += (size_t) n;
    assert_int_equal(n, 0);
    assert_int_equal(total, 4 << 20);
    stream_free(stream);
    fake_end(&fake);
}

/* The connection breaks; what was under way is sent again and taken once; the exit is told twice and
 * known. */
static int script_break(struct fake *fake) {
    if (fake_greet(fake, "{\"started\":true,\"output_offset\":0}") < 0)
        return -EPIPE;
    fake_send_text(fake, GUEST_STDOUT, GUEST_CHANNEL_MAIN, "one two ");
    if (fiber_sleep(SHORT) < 0)
        return -ECANCELED;
    if (fake_greet(fake, "{\"started\":true,\"output_offset\":4}") < 0)
        return -EPIPE;
    fake_send_text(fake, GUEST_STDOUT, GUEST_CHANNEL_MAIN, "two three");
    fake_send_text(fake, GUEST_EXIT, GUEST_CHANNEL_MAIN, "{\"code\":0}");
    return forever();
}

static void wait_exit(struct fake *fake) {
    for (uint64_t end = deadline_in(FAR); fake->exits == 0 && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(fake->exits, 1);
}

static void test_break(void) {
    struct fake fake;

    fake_start(&fake, script_break);
    wait_exit(&fake);
    assert_string_equal(fake.output.data, "one two three");
    assert_int_equal(fake.ready, 2);
    fake_end(&fake);
}

/* --- misbehaving ---------------------------------------------------------------------------------------- */

static int script_silent(struct fake *fake) {
    return fake_accept(fake) < 0 ? -EPIPE : forever();
}

static int babble(struct fake *fake, uint8_t byte) {
    char *block = malloc(65536);
    size_t sent = 0;

    memset(block, byte, 65536);
    if (fake_accept(fake) >= 0)
        while (sent < (1u << 26) && fiber_write(fake->fd, block, 65536, deadline_in(FAR)) >= 0)
            sent += 65536;
    free(block);
    return forever();
}

static int script_zeros(struct fake *fake) {
    return babble(fake, 0);
}

static int script_ones(struct fake *fake) {
    return babble(fake, 0xff);
}

/* Answers with another's nonce. */
static int script_stale(struct fake *fake) {
    char payload[FRAME_HELLO_PAYLOAD + 1];

    if (fake_accept(fake) < 0)
        return -EPIPE;
    snprintf(payload, sizeof(payload), "%s%032d", GUEST_MAGIC, 7);
    fake_send(fake, GUEST_HELLO, 0, payload, FRAME_HELLO_PAYLOAD);
    fake_send_text(fake, GUEST_STATE, 0, "{}");
    fake_send_text(fake, GUEST_EXIT, GUEST_CHANNEL_MAIN, "{\"code\":0}");
    return forever();
}

static void test_never_ready(void) {
    static int (*const scripts[])(struct fake * fake) = { script_silent, script_zeros, script_ones,
                                                          script_stale };

    for (size_t i = 0; i < ELEMENTS(scripts); i++) {
        struct stream *stream;
        struct fake fake;

        fake_start(&fake, scripts[i]);
        assert_int_equal(guestport_wait_ready(fake.port, deadline_in(SHORT)), -ETIMEDOUT);
        assert_int_equal(guestport_start(fake.port, "{}"), -ENOTCONN);
        assert_true(guestport_exec(fake.port, "{}", &stream, NULL) < 0);
        assert_int_equal(fake.exits, 0);
        fake_end(&fake);
    }
}

/* After each of these the connection is dropped and made anew. */
struct lie {
    uint8_t type;
    uint32_t channel;
    const char *text;
    size_t size; /* of zeros, if no text */
    unsigned times;
};

static const struct lie lies[] = {
    { GUEST_STATE, 0, "{\"started\":", 0, 1 },
    { GUEST_EXIT, GUEST_CHANNEL_MAIN, "nonsense", 0, 1 },
    { GUEST_EXIT, GUEST_CHANNEL_MAIN, "{\"code\":4294967296}", 0, 1 },
    { GUEST_CREDIT, GUEST_CHANNEL_MAIN, "12345", 0, 1 },
    { GUEST_START, GUEST_CHANNEL_MAIN, "{}", 0, 1 },
    { GUEST_STDOUT, GUEST_CHANNEL_MAIN, NULL, 65536, 2000 },
};

static const struct lie *lie_told(struct fake *fake) {
    return &lies[fake->channel];
}

static int script_lie(struct fake *fake) {
    const struct lie *lie = lie_told(fake);
    char *zeros = calloc(1, 65536);
    int r = fake_greet(fake, "{}");

    for (unsigned i = 0; r >= 0 && i < lie->times; i++)
        r = lie->text ? fake_send_text(fake, lie->type, lie->channel, lie->text)
                      : fake_send(fake, lie->type, lie->channel, zeros, lie->size);
    free(zeros);
    (void) fake_greet(fake, "{}");
    return forever();
}

static void test_lies(void) {
    for (size_t i = 0; i < ELEMENTS(lies) - 1; i++) {
        struct fake fake;

        fake_start(&fake, script_lie);
        fake.channel = (uint32_t) i;
        for (uint64_t end = deadline_in(FAR); fake.ready < 2 && clock_now() < end;)
            assert_int_equal(fiber_sleep(1000), 0);
        assert_int_equal(fake.ready, 2);
        assert_int_equal(fake.exits, 0);
        fake_end(&fake);
    }
}

/* Output beyond the window, while a reader holds back the credit. */
static void test_overrun(void) {
    struct stream *stream;
    struct fake fake;

    fake_start(&fake, script_lie);
    fake.channel = ELEMENTS(lies) - 1;
    assert_int_equal(guestport_attach(fake.port, &stream, NULL), 0);
    for (uint64_t end = deadline_in(FAR); fake.ready < 2 && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(fake.ready, 2);
    stream_free(stream);
    fake_end(&fake);
}

static void test_freed_while_waiting(void) {
    struct stream *stream;
    enum stream_channel channel;
    struct fake fake;
    char data[64];

    fake_start(&fake, script_silent);
    assert_int_equal(guestport_attach(fake.port, &stream, NULL), 0);
    guestport_free(fake.port);
    fake.port = NULL;
    assert_int_equal(stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR)), 0);
    assert_int_equal(stream_write(stream, "x", 1, deadline_in(FAR)), -EPIPE);
    stream_free(stream);
    fake_end(&fake);
}

/* --- the budget ------------------------------------------------------------------------------------------ */

#define CHATTER 120

static int script_chatter(struct fake *fake) {
    if (fake_greet(fake, "{}") < 0)
        return -EPIPE;
    for (int i = 0; i < CHATTER; i++)
        if (fake_send_text(fake, GUEST_STATE, 0, "{}") < 0)
            return -EPIPE;
    return forever();
}

/* C_m = P_m x R_m: 1.0 x 20 a second, four seconds' worth at once: no more than 80 + 20 x T messages in T seconds. */
static void test_chatter_keeps_to_its_budget(void) {
    struct fake fake;
    uint64_t begun, now = 0;

    fake_start(&fake, script_chatter);
    budget_set(guestport_budget(fake.port), 0, 20);
    begun = clock_now();
    for (uint64_t end = deadline_in(FAR); fake.ready < CHATTER && now < end; now = clock_now()) {
        assert_int_equal(fiber_sleep(1000), 0);
        assert_true(guestport_budget(fake.port)->calls <= 82 + 20 * (clock_now() - begun) / CLOCK_SECOND);
    }
    assert_int_equal(fake.ready, CHATTER);
    assert_true(clock_now() - begun >= 39 * CLOCK_SECOND / 20); /* 119 + our hello's echo, less 80 */
    assert_true(guestport_budget(fake.port)->waits >= 30);
    fake_end(&fake);
}

/* One input changed: ten times the priority's factor, and nobody waits. */
static void test_priority_widens_the_budget(void) {
    struct fake fake;

    fake_start(&fake, script_chatter);
    budget_set(guestport_budget(fake.port), 100, 20);
    for (uint64_t end = deadline_in(FAR); fake.ready <= CHATTER && clock_now() < end;)
        assert_int_equal(fiber_sleep(1000), 0);
    assert_int_equal(fake.ready, CHATTER + 1);
    assert_int_equal(guestport_budget(fake.port)->waits, 0);
    assert_int_equal(guestport_budget(fake.port)->calls, CHATTER + 2);
    fake_end(&fake);
}

/* Output is not messages. */
static void test_output_costs_no_budget(void) {
    struct stream *stream;
    enum stream_channel channel;
    struct fake fake;
    char data[16384];
    long size, sum = 0;

    fake_start(&fake, script_flood);
    budget_set(guestport_budget(fake.port), -100, 10); /* one a second */
    assert_int_equal(guestport_wait_ready(fake.port, deadline_in(FAR)), 0);
    assert_int_equal(guestport_exec(fake.port, "{}", &stream, NULL), 0);
    while ((size = stream_read(stream, &channel, data, sizeof(data), deadline_in(FAR))) > 0)
        sum += size;
    assert_int_equal(sum, 4 << 20);
    assert_true(guestport_budget(fake.port)->calls <= 3);
    stream_free(stream);
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
        FIBER_TEST(test_main),  FIBER_TEST(test_window),  FIBER_TEST(test_break),
        FIBER_TEST(test_never_ready), FIBER_TEST(test_lies), FIBER_TEST(test_overrun),
        FIBER_TEST(test_freed_while_waiting), FIBER_TEST(test_chatter_keeps_to_its_budget),
        FIBER_TEST(test_priority_widens_the_budget), FIBER_TEST(test_output_costs_no_budget),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
