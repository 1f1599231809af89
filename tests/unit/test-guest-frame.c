// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <string.h>

#include "guest/frame.h"
#include "guest/output.h"

#define NONCE "0123456789abcdef0123456789abcdef"

struct bytes {
    uint8_t data[4096];
    size_t size;
};

static void add_frame(struct bytes *bytes, uint8_t type, uint32_t channel, const char *payload) {
    size_t size = strlen(payload);

    frame_encode_header(bytes->data + bytes->size, type, channel, (uint32_t) size);
    memcpy(bytes->data + bytes->size + GUEST_HEADER_SIZE, payload, size);
    bytes->size += GUEST_HEADER_SIZE + size;
}

static void feed(struct frame_reader *reader, const void *data, size_t size) {
    size_t room;
    uint8_t *space = frame_reader_space(reader, &room);

    assert_true(room >= size);
    memcpy(space, data, size);
    frame_reader_commit(reader, size);
}

static void expect_frame(struct frame_reader *reader, uint8_t type, uint32_t channel, const char *payload) {
    struct frame frame;

    assert_int_equal(frame_reader_next(reader, &frame), 1);
    assert_int_equal(frame.header.type, type);
    assert_int_equal(frame.header.channel, channel);
    assert_int_equal(frame.header.length, strlen(payload));
    assert_memory_equal(frame.payload, payload, strlen(payload));
}

/* Every way of cutting the stream in two gives the same frames. */
static void test_cuts(void **state) {
    struct bytes bytes = { .size = 0 };

    memcpy(bytes.data, "noise", 5);
    bytes.size = 5;
    add_frame(&bytes, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
    add_frame(&bytes, GUEST_STDIN, 17, "hello");
    add_frame(&bytes, GUEST_STDIN, 0xfffffffe, "");
    for (size_t cut = 0; cut <= bytes.size; cut++) {
        struct frame_reader reader;
        struct frame frame;
        unsigned count = 0;

        assert_int_equal(frame_reader_init(&reader), 0);
        feed(&reader, bytes.data, cut);
        while (frame_reader_next(&reader, &frame) == 1)
            count++;
        feed(&reader, bytes.data + cut, bytes.size - cut);
        while (frame_reader_next(&reader, &frame) == 1)
            count++;
        assert_int_equal(count, 3);
        assert_int_equal(frame.header.channel, 0xfffffffe);
        frame_reader_done(&reader);
    }
}

static void test_bad_headers(void **state) {
    static const uint8_t rows[][GUEST_HEADER_SIZE] = {
        { 1, 0, 1, 0, GUEST_STDIN },          /* 65,537 bytes */
        { 0, 0, 0, 0, 0 },                    /* no type */
        { 0, 0, 0, 0, GUEST_ERROR + 1 },      /* unknown type */
        { 0, 0, 0, 0, GUEST_STDIN, 1 },       /* flags */
        { 0, 0, 0, 0, GUEST_STDIN, 0, 0, 1 }, /* reserved */
        { 255, 255, 255, 255, GUEST_STDIN },
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct bytes bytes = { .size = 0 };
        struct frame_reader reader;
        struct frame frame;

        assert_int_equal(frame_reader_init(&reader), 0);
        add_frame(&bytes, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
        feed(&reader, bytes.data, bytes.size);
        expect_frame(&reader, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
        feed(&reader, rows[i], sizeof(rows[i]));
        assert_int_equal(frame_reader_next(&reader, &frame), -EBADMSG);
        assert_int_equal(frame_reader_next(&reader, &frame), 0);
        feed(&reader, bytes.data, bytes.size);
        expect_frame(&reader, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
        frame_reader_done(&reader);
    }
}

static void test_bad_hellos(void **state) {
    static const char *const rows[] = {
        GUEST_MAGIC "0123456789ABCDEF0123456789abcdef",
        "polder-guest/2 " NONCE,
        GUEST_MAGIC "0123456789abcdef",
        GUEST_MAGIC NONCE "0",
        "",
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct bytes bytes = { .size = 0 };
        struct frame_reader reader;
        struct frame frame;

        assert_int_equal(frame_reader_init(&reader), 0);
        add_frame(&bytes, GUEST_HELLO, 0, rows[i]);
        feed(&reader, bytes.data, bytes.size);
        assert_int_equal(frame_reader_next(&reader, &frame), 0);
        assert_false(reader.synced);
        frame_reader_done(&reader);
    }
}

static void test_stray_hello(void **state) {
    struct bytes hello = { .size = 0 }, rest = { .size = 0 };
    struct frame_reader reader;
    struct frame frame;
    uint8_t header[GUEST_HEADER_SIZE];

    assert_int_equal(frame_reader_init(&reader), 0);
    add_frame(&hello, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
    feed(&reader, hello.data, hello.size);
    expect_frame(&reader, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
    frame_encode_header(header, GUEST_STDIN, 20, 5000);
    feed(&reader, header, sizeof(header));
    assert_false(frame_reader_has_stray_hello(&reader));
    feed(&reader, "some input", 10);
    feed(&reader, hello.data, hello.size);
    assert_int_equal(frame_reader_next(&reader, &frame), 0);
    assert_true(frame_reader_has_stray_hello(&reader));
    frame_reader_accept_hello(&reader);
    expect_frame(&reader, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
    add_frame(&rest, GUEST_MEMORY, 0, "");
    feed(&reader, rest.data, rest.size);
    expect_frame(&reader, GUEST_MEMORY, 0, "");
    frame_reader_done(&reader);
}

/* Takes what frames there are; whether one is the hello in `hello`. */
static bool drain(struct frame_reader *reader, const struct bytes *hello) {
    struct frame frame;
    bool found = false;
    int r;

    while ((r = frame_reader_next(reader, &frame)) != 0)
        found = found || (r == 1 && frame_is_hello(&frame) &&
                          memcmp(frame.payload, hello->data + GUEST_HEADER_SIZE, FRAME_HELLO_PAYLOAD) == 0);
    return found;
}

/* Wherever the former sender broke off, and however the bytes come, the new one's hello is found. */
static void test_hello_after_any_break(void **state) {
    struct bytes hello = { .size = 0 }, old = { .size = 0 };

    add_frame(&hello, GUEST_HELLO, 0, GUEST_MAGIC NONCE);
    add_frame(&old, GUEST_HELLO, 0, GUEST_MAGIC "ffffffffffffffffffffffffffffffff");
    add_frame(&old, GUEST_STDIN, 16, "first");
    add_frame(&old, GUEST_STDIN, 16,
              "a payload that is longer than a hello, so that its missing end may be exactly as long as one, "
              "or longer, or shorter");
    add_frame(&old, GUEST_MEMORY, 0, "");
    for (size_t cut = FRAME_HELLO_SIZE; cut <= old.size; cut++) {
        for (size_t split = 0; split <= hello.size; split++) {
            struct frame_reader reader;
            bool found;

            assert_int_equal(frame_reader_init(&reader), 0);
            feed(&reader, old.data, cut);
            assert_false(drain(&reader, &hello));
            feed(&reader, hello.data, split);
            found = drain(&reader, &hello);
            feed(&reader, hello.data + split, hello.size - split);
            found = drain(&reader, &hello) || found;
            if (!found && frame_reader_has_stray_hello(&reader)) {
                frame_reader_accept_hello(&reader);
                found = drain(&reader, &hello);
            }
            if (!found)
                fail_msg("cut at %zu, hello split at %zu", cut, split);
            assert_false(frame_reader_has_stray_hello(&reader));
            frame_reader_done(&reader);
        }
    }
}

static void add_output(struct output *output, uint8_t type, const char *text) {
    assert_int_equal(output_append(output, type, text, strlen(text)), 0);
}

static void expect_output(struct output *output, uint8_t type, const char *text) {
    const uint8_t *data;
    uint8_t got;
    size_t size;

    assert_true(output_next(output, &got, &data, &size));
    assert_int_equal(got, type);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(data, text, size);
}

static void test_output_order(void **state) {
    struct output output = { 0 };
    const uint8_t *data;
    uint8_t type;
    size_t size;

    add_output(&output, GUEST_STDOUT, "one ");
    add_output(&output, GUEST_STDOUT, "two");
    add_output(&output, GUEST_STDERR, "oops");
    add_output(&output, GUEST_STDOUT, "");
    expect_output(&output, GUEST_STDOUT, "one two");
    expect_output(&output, GUEST_STDERR, "oops");
    /* A chunk that was sent does not grow. */
    add_output(&output, GUEST_STDERR, "again");
    expect_output(&output, GUEST_STDOUT, "");
    expect_output(&output, GUEST_STDERR, "again");
    assert_false(output_next(&output, &type, &data, &size));
    assert_int_equal(output_credit(&output, 17), -EBADMSG);
    assert_int_equal(output_credit(&output, 9), 0);
    assert_int_equal(output.offset, 9);
    output_rewind(&output);
    assert_int_equal(output_credit(&output, 1), -EBADMSG);
    expect_output(&output, GUEST_STDERR, "ps");
    expect_output(&output, GUEST_STDOUT, "");
    expect_output(&output, GUEST_STDERR, "again");
    assert_int_equal(output_credit(&output, 7), 0);
    assert_int_equal(output.stored, 0);
    assert_null(output.first);
    output_clear(&output);
}

static void test_output_bounds(void **state) {
    static char block[OUTPUT_CHUNK];
    struct output output = { 0 };
    uint64_t total = 0;

    while (output_room(&output) > 0) {
        size_t room = output_room(&output);
        assert_int_equal(output_append(&output, GUEST_STDOUT, block, room), 0);
        total += room;
    }
    assert_int_equal(total, GUEST_WINDOW);
    for (unsigned i = 0; i < 100000; i++) {
        if (output_room(&output) < 1)
            output_make_room(&output);
        assert_int_equal(output_append(&output, i % 2 ? GUEST_STDOUT : GUEST_STDERR, "x", 1), 0);
        total++;
        assert_true(output.count <= 1024 && output.stored <= GUEST_WINDOW);
    }
    assert_int_equal(output.offset + output.stored, total);
    output_clear(&output);
    assert_int_equal(output.offset, total);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),         cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_bad_hellos),   cmocka_unit_test(test_stray_hello),
        cmocka_unit_test(test_hello_after_any_break),
        cmocka_unit_test(test_output_order), cmocka_unit_test(test_output_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
