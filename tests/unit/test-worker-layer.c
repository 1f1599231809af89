// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"
#undef fail /* cmocka's; the worker has a function of that name */

#include <string.h>

#include "storage/worker/digest.h"
#include "storage/worker/layerpath.h"
#include "storage/worker/tarcheck.h"

struct path_row {
    const char *text;
    enum layer_path_kind kind;
    const char *parent, *name;
};

static void test_accepted_paths(void **state) {
    static const struct path_row rows[] = {
        { "a", LAYER_PATH_ENTRY, "", "a" },          { "./a//b/", LAYER_PATH_ENTRY, "a", "b" },
        { "a/./b/c", LAYER_PATH_ENTRY, "a/b", "c" }, { "...", LAYER_PATH_ENTRY, "", "..." },
        { "a/..b", LAYER_PATH_ENTRY, "a", "..b" },   { ".", LAYER_PATH_ROOT, "", "" },
        { "./", LAYER_PATH_ROOT, "", "" },           { "a/.wh.b", LAYER_PATH_WHITEOUT, "a", "b" },
        { ".wh.b", LAYER_PATH_WHITEOUT, "", "b" },   { "a/b/.wh..wh..opq", LAYER_PATH_OPAQUE, "a/b", "" },
        { ".wh..wh.orph", LAYER_PATH_SKIP, "", "" }, { "a.wh.b/c", LAYER_PATH_ENTRY, "a.wh.b", "c" },
    };
    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct layer_path path;
        struct failure failure = { 0 };
        assert_int_equal(layer_path_parse(rows[i].text, &path, &failure), 0);
        assert_int_equal(path.kind, rows[i].kind);
        assert_string_equal(path.parent, rows[i].parent);
        assert_string_equal(path.name, rows[i].name);
    }
}

static void test_refused_paths(void **state) {
    static const char *const rows[] = {
        "",       "/",    "/a",     "..",    "a/..",    "../a",      "a/../b",
        "./../a", ".wh.", ".wh...", ".wh..", ".wh.a/b", "a/.wh.b/c", ".wh..wh.plnk/1"
    };
    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        struct layer_path path;
        struct failure failure = { 0 };
        assert_true(layer_path_parse(rows[i], &path, &failure) < 0);
        assert_int_not_equal(failure.code, FAILURE_NONE);
    }
}

static void test_long_paths(void **state) {
    struct layer_path path;
    struct failure failure = { 0 };
    char text[TAR_PATH_MAX + 2];
    memset(text, 'a', sizeof(text));
    text[255] = 0;
    assert_int_equal(layer_path_parse(text, &path, &failure), 0);
    text[255] = 'a';
    text[256] = 0;
    assert_true(layer_path_parse(text, &path, &failure) < 0);
    assert_int_equal(failure.code, FAILURE_PATH_TOO_LONG);
}

/* ---- the gate ---- */

static void make_header(uint8_t *block, const char *name, char type, unsigned size) {
    memset(block, 0, 512);
    snprintf((char *) block, 100, "%s", name);
    memcpy(block + 100, "0000644\0000000000\0000000000", 24);
    snprintf((char *) block + 124, 12, "%011o", size);
    memcpy(block + 136, "00000000000", 12);
    block[156] = (uint8_t) type;
    memcpy(block + 257, "ustar\00000", 8);
    unsigned sum = 8 * ' ';
    for (size_t i = 0; i < 512; i++)
        sum += block[i];
    snprintf((char *) block + 148, 8, "%06o", sum);
    block[155] = ' ';
}

static void test_facts(void **state) {
    uint8_t data[5 * 512] = { 0 };
    struct tarcheck check;
    struct tar_fact fact;
    struct failure failure = { 0 };
    make_header(data, "dir/file", '0', 5);
    make_header(data + 1024, "dir/", '5', 0);
    tarcheck_init(&check);
    for (size_t i = 0; i < sizeof(data); i++)
        assert_int_equal(tarcheck_feed(&check, data + i, 1, &failure), 0);
    assert_int_equal(tarcheck_finish(&check, true, &failure), 0);
    assert_true(tarcheck_take_fact(&check, &fact));
    assert_string_equal(fact.path, "dir/file");
    assert_int_equal(fact.size, 5);
    tar_fact_done(&fact);
    assert_true(tarcheck_take_fact(&check, &fact));
    assert_int_equal(fact.type, '5');
    tar_fact_done(&fact);
    assert_false(tarcheck_take_fact(&check, &fact));
    tarcheck_done(&check);
}

static void test_cuts(void **state) {
    uint8_t data[4 * 512] = { 0 };
    make_header(data, "f", '0', 5);
    for (size_t cut = 0; cut < sizeof(data); cut++) {
        struct tarcheck check;
        struct failure failure = { 0 };
        tarcheck_init(&check);
        assert_int_equal(tarcheck_feed(&check, data, cut, &failure), 0);
        assert_true(tarcheck_finish(&check, true, &failure) < 0);
        assert_int_equal(failure.code, FAILURE_TRUNCATED);
        tarcheck_done(&check);
    }
}

/* ---- digests and words ---- */

static void test_digests(void **state) {
    struct sha256_ctx context;
    char text[DIGEST_TEXT_SIZE];
    sha256_init(&context);
    sha256_update(&context, 3, (const uint8_t *) "abc");
    digest_finish(&context, text);
    assert_string_equal(text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(digest_is_valid(text));
    text[10] = 'A';
    assert_false(digest_is_valid(text));
    text[10] = 0;
    assert_false(digest_is_valid(text));
    assert_false(digest_is_valid("sha512:00"));
}

static void test_safe_text(void **state) {
    char safe[64];
    text_make_safe("a\x1b[1m\xff\xc3\xa9\xc2\x9b\xe2\x82", safe, sizeof(safe));
    assert_string_equal(safe, "a\\x1b[1m\\xff\xc3\xa9\\xc2\\x9b\\xe2\\x82");
    text_make_safe("aaaaaaaaaaaaaaaa", safe, 8);
    assert_true(strlen(safe) < 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted_paths), cmocka_unit_test(test_refused_paths),
        cmocka_unit_test(test_long_paths),     cmocka_unit_test(test_facts),
        cmocka_unit_test(test_cuts),           cmocka_unit_test(test_digests),
        cmocka_unit_test(test_safe_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
