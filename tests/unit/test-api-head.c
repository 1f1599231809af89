// SPDX-License-Identifier: GPL-2.0-or-later
/* Request heads that two readers could understand differently (attacks A01, A04). */
#include "test.h"

#include <stdlib.h>
#include <string.h>

#include "api/head.h"
#include "base/buffer.h"

#define GET "GET / HTTP/1.1\r\n"

static long check(const char *data, size_t size, enum error_code *ret_code) {
    struct head head = { 0 };
    _cleanup_error_ struct error error = ERROR_INIT;
    long length = head_check(&head, data, size, &error);

    *ret_code = error.code;
    return length;
}

static void test_good(void **state) {
    static const char *const heads[] = {
        GET "\r\n",
        GET "Host: x\r\n\r\n",
        GET "Host:x\r\nAccept:\t*/*  \r\n\r\n",
        GET "X-Empty:\r\n\r\n",
        "POST /v1/x?a=%20 HTTP/1.1\r\nContent-Length: 12\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "GET / HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
        GET "X: \xc3\xa4\r\n\r\n",
    };

    for (size_t i = 0; i < ELEMENTS(heads); i++) {
        enum error_code code;
        assert_int_equal(check(heads[i], strlen(heads[i]), &code), strlen(heads[i]));
        assert_int_equal(code, ERROR_NONE);
    }
}

static void test_refused(void **state) {
    static const char *const heads[] = {
        "GET / HTTP/1.1\nHost: x\n\n",
        GET "Host: x\n\r\n",
        GET "A: b\rX: c\r\n\r\n",
        GET "A: b\r\n folded\r\n\r\n",
        GET "A: b\r\n\tfolded\r\n\r\n",
        GET "Name : x\r\n\r\n",
        GET "Na me: x\r\n\r\n",
        GET ": x\r\n\r\n",
        GET "no colon\r\n\r\n",
        GET "A: \x01\r\n\r\n",
        GET "A: \x7f\r\n\r\n",
        "\r\n" GET "\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET /\xff HTTP/1.1\r\n\r\n",
        "GET /\t HTTP/1.1\r\n\r\n",
        GET "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        GET "Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
        GET "Content-Length: 3\r\ncontent-length: 4\r\n\r\n",
        GET "Content-Length: +3\r\n\r\n",
        GET "Content-Length: 3, 3\r\n\r\n",
        GET "Content-Length: 0x3\r\n\r\n",
        GET "Content-Length:\r\n\r\n",
        GET "Content-Length: 9999999999999999999\r\n\r\n",
        GET "Transfer-Encoding: chunked, chunked\r\n\r\n",
        GET "Transfer-Encoding: identity\r\n\r\n",
        GET "Transfer-Encoding: xchunked\r\n\r\n",
        GET "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET "Host: a\r\nHost: a\r\n\r\n",
    };

    for (size_t i = 0; i < ELEMENTS(heads); i++) {
        enum error_code code;
        if (check(heads[i], strlen(heads[i]), &code) >= 0)
            fail_msg("taken: %s", heads[i]);
        assert_int_equal(code, ERROR_BAD_REQUEST);
    }
}

static void test_nul(void **state) {
    static const char head[] = GET "A: b\0c\r\n\r\n";
    enum error_code code;

    assert_true(check(head, sizeof(head) - 1, &code) < 0);
}

/* The verdict does not depend on how the bytes come. */
static void test_byte_by_byte(void **state) {
    static const char text[] = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    struct head head = { 0 };
    size_t end = sizeof(text) - 1 - 3;

    for (size_t size = 1; size < end; size++)
        assert_int_equal(head_check(&head, text, size, NULL), 0);
    assert_int_equal(head_check(&head, text, end, NULL), end);
}

static void test_limits(void **state) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    enum error_code code;

    buffer_add_text(&text, GET "A: ");
    for (unsigned i = 0; i < HEAD_LINE_MAX; i++)
        buffer_add_char(&text, 'x');
    assert_true(check(text.data, text.size, &code) < 0);
    assert_int_equal(code, ERROR_HEADERS_TOO_LARGE);

    buffer_reset(&text);
    buffer_add_text(&text, GET);
    for (unsigned i = 0; i <= HEAD_HEADERS_MAX; i++)
        buffer_addf(&text, "H%u: x\r\n", i);
    assert_true(check(text.data, text.size, &code) < 0);
    assert_int_equal(code, ERROR_HEADERS_TOO_LARGE);

    buffer_reset(&text);
    buffer_add_text(&text, GET);
    for (unsigned i = 0; i < 20; i++)
        buffer_addf(&text, "H%u: %04000u\r\n", i, i);
    assert_true(check(text.data, text.size, &code) < 0);
    assert_int_equal(code, ERROR_HEADERS_TOO_LARGE);

    buffer_reset(&text);
    buffer_add_text(&text, GET);
    for (unsigned i = 0; i < HEAD_HEADERS_MAX; i++)
        buffer_addf(&text, "H%u: x\r\n", i);
    buffer_add_text(&text, "\r\n");
    assert_int_equal(check(text.data, text.size, &code), text.size);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),         cmocka_unit_test(test_refused), cmocka_unit_test(test_nul),
        cmocka_unit_test(test_byte_by_byte), cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
