// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"

static void test_first_cause_wins(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;

    assert_int_equal(error_set(&error, ERROR_NOT_FOUND, "image", "busybox"), -ENOENT);
    assert_int_equal(error_set(&error, ERROR_NO_MEMORY), -ENOMEM);
    assert_int_equal(error.code, ERROR_NOT_FOUND);
    assert_int_equal(error_set(NULL, ERROR_EXISTS, "a", "b"), -EEXIST);
}

static void test_sentences(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *english = NULL;
    _cleanup_free_ char *chinese = NULL;

    error_set(&error, ERROR_NOT_FOUND, "image", "busybox");
    error_subject(&error, "instance", "web-1");
    error_subject(&error, "node", "outer"); /* an inner subject stays */
    english = error_sentence(&error, LANGUAGE_ENGLISH);
    chinese = error_sentence(&error, LANGUAGE_CHINESE);
    assert_string_equal(english, "instance 'web-1': there is no image 'busybox'");
    assert_string_equal(chinese, "instance 'web-1'：没有 image “busybox”");
}

static void test_parameters_are_escaped_and_cut(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;
    char large[5000];

    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    error_set(&error, ERROR_NOT_FOUND, "a\x1b[2Jb\n", large);
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_non_null(strstr(sentence, "a\\x1b[2Jb\\x0a"));
    assert_true(strlen(sentence) < 1200);
}

static void test_null_parameters(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;

    error_set(&error, ERROR_NOT_FOUND, NULL, NULL);
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_string_equal(sentence, "there is no  ''");
}

static void test_errno(void **state) {
    const struct {
        int number;
        enum error_code code;
    } rows[] = { { ENOSPC, ERROR_NO_SPACE },    { EDQUOT, ERROR_NO_SPACE },   { ENOMEM, ERROR_NO_MEMORY },
                 { ECANCELED, ERROR_CANCELED }, { ETIMEDOUT, ERROR_TIMEOUT }, { EACCES, ERROR_INTERNAL } };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;

        assert_int_equal(error_errno(&error, -rows[i].number, "creating %s", "/x"), -rows[i].number);
        assert_int_equal(error.code, rows[i].code);
    }
}

static void test_move_and_copy(void **state) {
    _cleanup_error_ struct error a = ERROR_INIT;
    _cleanup_error_ struct error b = ERROR_INIT;

    error_set(&a, ERROR_EXISTS, "image", "x");
    error_copy(&b, &a);
    assert_string_equal(b.parameters[1], "x");
    error_clear(&b);
    error_move(&b, &a);
    assert_false(error_is_set(&a));
    assert_int_equal(b.code, ERROR_EXISTS);
    error_move(NULL, &b);
    assert_false(error_is_set(&b));
}

/* Wire names are an interface: unique, found again, with statuses of their kind. */
static void test_every_row(void **state) {
    for (int i = ERROR_NONE + 1; i < ERROR_CODE_COUNT; i++) {
        enum error_code code = (enum error_code) i;

        assert_int_equal(error_from_wire(error_wire(code)), code);
        assert_true(error_number(code) > 0);
        assert_in_range(error_http_status(code), 400, 599);
        assert_in_range(error_exit_status(code), 1, 127);
    }
    assert_int_equal(error_from_wire("no-such-thing"), ERROR_NONE);
    assert_int_equal(error_from_wire(NULL), ERROR_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_cause_wins),
        cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_parameters_are_escaped_and_cut),
        cmocka_unit_test(test_null_parameters),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_move_and_copy),
        cmocka_unit_test(test_every_row),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
