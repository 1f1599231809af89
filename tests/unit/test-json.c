// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>

#include "base/json.h"
#include "base/uuid.h"
#include "shortage.h"

#ifndef OWN_ALLOCATOR
/* Whatever allocation fails, the document is read whole or not at all; and written whole. */
static void check_short(const char *text, long many) {
    _cleanup_json_ struct json_object *whole = NULL;
    _cleanup_free_ char *expected = NULL;
    bool failed = true;

    assert_int_equal(json_parse(text, strlen(text), &whole, NULL), 0);
    expected = strdup(json_plain(whole));
    for (long i = 1; failed; i++) {
        _cleanup_json_ struct json_object *object = NULL;
        const char *plain = NULL;
        int r;

        left_until = i;
        left_failing = many;
        r = json_parse(text, strlen(text), &object, NULL);
        if (r >= 0)
            plain = json_plain(object);
        failed = left_failing < many;
        left_failing = 0;
        if (r < 0)
            assert_int_equal(r, -ENOMEM);
        else if (plain)
            assert_string_equal(plain, expected);
        assert_true(failed || plain);
    }
}

static void test_no_memory(void **state) {
    static const char *const rows[] = {
        "{}",
        "[]",
        " [1, 2.5, true, null, \"text\"] ",
        "{\"a\":1,\"b\":{\"c\":[{\"d\":1},2,{\"e\":\"f\"},3]},\"g\":[[1],[2,[3]]],\"h\":-7}",
        "\"a text that is longer than what the parser has ready, with \\u00e9 and \\ud83d\\ude00 in it, and \\n and \\\"\"",
        "[1234567890123456789012345678901234567890.5,0.1234567890123456789012345678901234567890,1e5]",
        "1234567890123456789012345678901234567890.25",
        ("{\"a1\":1,\"a2\":2,\"a3\":3,\"a4\":4,\"a5\":5,\"a6\":6,\"a7\":7,\"a8\":8,\"a9\":9,\"b1\":1,\"b2\":2,"
         "\"b3\":{},\"b4\":[],\"b5\":5,\"b6\":6,\"b7\":7,\"b8\":8,\"b9\":9,\"a name that is longer than usual names are\":1}"),
        "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38]",
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++)
        for (long many = 1; many < 100; many *= 3)
            check_short(rows[i], many);
}
#else
static void test_no_memory(void **state) {
    skip();
}
#endif

static void check_bad(const char *text, size_t size) {
    _cleanup_json_ struct json_object *object = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;

    if (json_parse(text, size, &object, &error) != -EINVAL || error.code != ERROR_BAD_JSON)
        fail_msg("'%.40s' was taken", text);
}

static void test_bad_texts(void **state) {
    static const char *const rows[] = { "",
                                        " ",
                                        "{",
                                        "{\"a\":1",
                                        "{\"a\":1}}",
                                        "{\"a\":1} {\"b\":2}",
                                        "{a:1}",
                                        "{'a':1}",
                                        "[1,]",
                                        "{\"a\":1,}",
                                        "/* x */ 1",
                                        "NaN",
                                        "[Infinity]",
                                        "{\"a\":-Infinity}",
                                        "\"\xff\"",
                                        "\"\xc0\x80\"",
                                        "{\"\xed\xa0\x80\":1}",
                                        "\"a\\u0000b\"",
                                        "{\"a\\u0000b\":1}",
                                        "\"\\\\\\u0000\"",
                                        "99999999999999999999",
                                        "[-9223372036854775809]",
                                        "{\"a\":18446744073709551616}",
                                        "\"a",
                                        "tru",
                                        "\"a\nb\"",
                                        "\"a\x1f\"",
                                        "['a']",
                                        "1 2" };

    for (size_t i = 0; i < ELEMENTS(rows); i++)
        check_bad(rows[i], strlen(rows[i]));
    check_bad("{}\0", 3);
    check_bad("{\"a\0\":1}", 8);
}

static void test_good_texts(void **state) {
    static const char *const rows[] = {
        "{}",
        "[]",
        " { } ",
        "1",
        "-1.5e3",
        "true",
        "null",
        "\"x\"",
        "\"\\\\u0000\"",
        "18446744073709551615",
        "[-9223372036854775808,1.00000000000000000000001,1e5,100000000000000000000000.5]",
        "{\"a\":{\"b\":[1,2,{\"c\":null}]}}\n",
    };

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        _cleanup_json_ struct json_object *object = NULL;
        _cleanup_error_ struct error error = ERROR_INIT;

        if (json_parse(rows[i], strlen(rows[i]), &object, &error) < 0)
            fail_msg("'%s' was refused", rows[i]);
    }
}

static char *nested(size_t depth) {
    char *text = malloc(2 * depth + 1);

    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    text[2 * depth] = '\0';
    return text;
}

static void test_depth(void **state) {
    _cleanup_free_ char *allowed = nested(JSON_DEPTH_MAX);
    _cleanup_free_ char *more = nested(JSON_DEPTH_MAX + 1);
    _cleanup_free_ char *absurd = nested(100000);
    _cleanup_json_ struct json_object *object = NULL;

    assert_int_equal(json_parse(allowed, strlen(allowed), &object, NULL), 0);
    check_bad(more, strlen(more));
    check_bad(absurd, strlen(absurd));
    check_bad(absurd, 100000);
}

static void test_members(void **state) {
    static const char text[] = "{\"t\":\"x\",\"n\":5,\"b\":true,\"z\":null}";
    _cleanup_json_ struct json_object *object = NULL;

    assert_int_equal(json_parse(text, strlen(text), &object, NULL), 0);
    assert_string_equal(json_text(object, "t", "?"), "x");
    assert_string_equal(json_text(object, "n", "?"), "?");
    assert_int_equal(json_integer(object, "n", 0), 5);
    assert_int_equal(json_integer(object, "t", -1), -1);
    assert_true(json_boolean(object, "b", false));
    assert_true(json_has(object, "z"));
    assert_null(json_member(object, "z"));
    assert_false(json_has(object, "q"));
    assert_null(json_member(NULL, "t"));
    assert_false(json_has(NULL, "t"));
}

static void fill(struct emitter *emitter) {
    emit_object(emitter);
    emit_key_text(emitter, "a", "q\"\\\n\x01\xff");
    emit_key_integer(emitter, "b", INT64_MIN);
    emit_key_unsigned(emitter, "c", UINT64_MAX);
    emit_key(emitter, "d");
    emit_array(emitter);
    emit_double(emitter, 0.1);
    emit_double(emitter, INFINITY);
    emit_null(emitter);
    emit_object(emitter);
    emit_object_end(emitter);
    emit_array_end(emitter);
    emit_key_boolean(emitter, "e", false);
    emit_key_list(emitter, "f", NULL);
    emit_key_text(emitter, "g", NULL);
    emit_object_end(emitter);
}

static void test_emitter(void **state) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);

    fill(&emitter);
    assert_string_equal(
        out.data, "{\"a\":\"q\\\"\\\\\\n\\u0001\xef\xbf\xbd\",\"b\":-9223372036854775808,"
                  "\"c\":18446744073709551615,\"d\":[0.1,null,null,{}],\"e\":false,\"f\":[],\"g\":null}");
}

static void test_pretty(void **state) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = { .out = &out, .pretty = true };
    _cleanup_json_ struct json_object *object = NULL;

    emit_object(&emitter);
    emit_key(&emitter, "a");
    emit_array(&emitter);
    emit_integer(&emitter, 1);
    emit_integer(&emitter, 2);
    emit_array_end(&emitter);
    emit_key_text(&emitter, "b", "x");
    emit_object_end(&emitter);
    assert_string_equal(out.data, "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": \"x\"\n}");
    assert_int_equal(json_parse(out.data, out.size, &object, NULL), 0);
}

/* Whatever bytes a text holds, what is written parses. */
static void test_any_text_parses(void **state) {
    for (unsigned i = 0; i < 5000; i++) {
        _cleanup_buffer_ struct buffer out = BUFFER_INIT;
        struct emitter emitter = EMITTER_INIT(&out);
        _cleanup_json_ struct json_object *object = NULL;
        char bytes[24];

        random_bytes(bytes, sizeof(bytes));
        for (unsigned j = 0; j < sizeof(bytes); j++)
            if (!bytes[j])
                bytes[j] = 'x';
        emit_text_sized(&emitter, bytes, sizeof(bytes));
        assert_int_equal(json_parse(out.data, out.size, &object, NULL), 0);
    }
}

static void test_doubles_read_back(void **state) {
    for (unsigned i = 0; i < 5000; i++) {
        _cleanup_buffer_ struct buffer out = BUFFER_INIT;
        struct emitter emitter = EMITTER_INIT(&out);
        double value;

        random_bytes(&value, sizeof(value));
        if (!isfinite(value))
            continue;
        emit_double(&emitter, value);
        assert_true(strtod(out.data, NULL) == value);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_texts),       cmocka_unit_test(test_good_texts),
        cmocka_unit_test(test_depth),           cmocka_unit_test(test_members),
        cmocka_unit_test(test_emitter),         cmocka_unit_test(test_pretty),
        cmocka_unit_test(test_any_text_parses), cmocka_unit_test(test_doubles_read_back),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
