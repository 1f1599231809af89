// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/websocket.h"

#define LIMIT (64 * 1024)

/* What one side has to write, into the other. */
static int carry(struct websocket *from, struct websocket *to, size_t piece) {
    struct buffer *output = websocket_output(from);
    int r = 0;

    while (output->size > 0 && r == 0) {
        size_t size = output->size < piece ? output->size : piece;
        r = websocket_feed(to, output->data, size);
        buffer_consume(output, size);
        if (websocket_output(to)->size == 0 && piece < 64)
            continue;
    }
    return r;
}

static void pair(struct websocket **ret_client, struct websocket **ret_server) {
    assert_int_equal(websocket_new(true, LIMIT, ret_client), 0);
    assert_int_equal(websocket_new(false, LIMIT, ret_server), 0);
}

static void test_messages(void **state) {
    _cleanup_websocket_ struct websocket *client = NULL, *server = NULL;
    struct websocket_message message;

    pair(&client, &server);
    assert_int_equal(websocket_send(client, true, "{}", 2), 0);
    assert_int_equal(websocket_send(client, false, "\0abc", 4), 0);
    assert_int_equal(carry(client, server, 1 << 20), 0);
    assert_int_equal(websocket_next(server, &message), 1);
    assert_true(message.text);
    assert_string_equal(message.data, "{}");
    assert_int_equal(websocket_next(server, &message), 1);
    assert_false(message.text);
    assert_int_equal(message.size, 4);
    assert_memory_equal(message.data, "\0abc", 4);
    assert_int_equal(websocket_next(server, &message), 0);
}

static void test_any_cut(void **state) {
    _cleanup_websocket_ struct websocket *client = NULL, *server = NULL;
    struct websocket_message message;
    struct buffer *output;

    pair(&client, &server);
    assert_int_equal(websocket_send(client, false, "hello world", 11), 0);
    output = websocket_output(client);
    while (output->size > 0) {
        assert_int_equal(websocket_next(server, &message), 0);
        assert_int_equal(websocket_feed(server, output->data, 1), 0);
        buffer_consume(output, 1);
    }
    assert_int_equal(websocket_next(server, &message), 1);
    assert_int_equal(message.size, 11);
}

static void test_close(void **state) {
    _cleanup_websocket_ struct websocket *client = NULL, *server = NULL;

    pair(&client, &server);
    assert_int_equal(websocket_close(server, 1000), 0);
    assert_int_equal(websocket_send(server, true, "x", 1), -EPIPE);
    assert_int_equal(carry(server, client, 1 << 20), 0);
    assert_true(websocket_is_closed(client));
    assert_int_equal(carry(client, server, 1 << 20), 0); /* the answer */
    assert_true(websocket_is_closed(server));
}

static void test_too_large(void **state) {
    _cleanup_websocket_ struct websocket *client = NULL, *server = NULL;
    _cleanup_free_ char *data = calloc(1, LIMIT + 1);
    struct websocket_message message;

    pair(&client, &server);
    assert_int_equal(websocket_send(client, false, data, LIMIT + 1), 0);
    (void) carry(client, server, 4096);
    assert_true(websocket_is_closed(server));
    assert_int_equal(websocket_next(server, &message), 0);
}

/* What a client must not send: unmasked, reserved bits, unknown opcodes, broken text, control frames that are cut. */
static void test_broken(void **state) {
    static const struct {
        const char *data;
        size_t size;
    } broken[] = {
        { "\x81\x02hi", 4 },
        { "\xc1\x80\0\0\0\0", 6 },
        { "\x83\x80\0\0\0\0", 6 },
        { "\x81\x82\0\0\0\0\xff\xff", 8 },
        { "\x09\x80\0\0\0\0", 6 },
        { "\x80\x80\0\0\0\0", 6 },
        { "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 14 },
    };

    for (size_t i = 0; i < ELEMENTS(broken); i++) {
        _cleanup_websocket_ struct websocket *server = NULL;
        struct websocket_message message;
        assert_int_equal(websocket_new(false, LIMIT, &server), 0);
        (void) websocket_feed(server, broken[i].data, broken[i].size);
        if (!websocket_is_closed(server))
            fail_msg("case %zu was taken", i);
        assert_int_equal(websocket_next(server, &message), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),  cmocka_unit_test(test_any_cut), cmocka_unit_test(test_close),
        cmocka_unit_test(test_too_large), cmocka_unit_test(test_broken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
