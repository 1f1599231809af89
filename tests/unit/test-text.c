// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/cpulist.h"
#include "base/text.h"
#include "base/uuid.h"

struct number_row {
    const char *text;
    int result;
    uint64_t value;
};

static void check_rows(int (*parse)(const char *, uint64_t *), const struct number_row *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint64_t value = 0;
        int r = parse(rows[i].text, &value);

        if (r != rows[i].result || value != rows[i].value)
            fail_msg("'%s' gave %d and %llu", rows[i].text, r, (unsigned long long) value);
    }
}

static void test_sizes(void **state) {
    const struct number_row rows[] = {
        { "0", 0, 0 },
        { "256M", 0, 256 << 20 },
        { "256MiB", 0, 256 << 20 },
        { "256mb", 0, 256 << 20 },
        { "1.5G", 0, 1536ULL << 20 },
        { ".5k", 0, 512 },
        { "1k", 0, 1024 },
        { "12b", 0, 12 },
        { "16777215T", 0, 16777215ULL << 40 },
        { "18446744073709551615", 0, UINT64_MAX },
        { "18446744073709551616", -ERANGE, 0 },
        { "16777216T", -ERANGE, 0 },
        { "99999999999999999999P", -ERANGE, 0 },
        { "", -EINVAL, 0 },
        { "M", -EINVAL, 0 },
        { "-1", -EINVAL, 0 },
        { "+1", -EINVAL, 0 },
        { " 1", -EINVAL, 0 },
        { "1 ", -EINVAL, 0 },
        { "1.5", -EINVAL, 0 },
        { "1.M", -EINVAL, 0 },
        { "1e3GiB", -EINVAL, 0 },
        { "0x10", -EINVAL, 0 },
        { "1MM", -EINVAL, 0 },
        { "1i", -EINVAL, 0 },
        { "1.0000000001G", -EINVAL, 0 },
    };

    check_rows(text_parse_size, rows, ELEMENTS(rows));
}

static void test_cpus(void **state) {
    const struct number_row rows[] = {
        { "1", 0, 1000 },
        { "1.5", 0, 1500 },
        { ".25", 0, 250 },
        { "0.001", 0, 1 },
        { "1024", 0, 1024000 },
        { "1.0001", -EINVAL, 0 },
        { "1.", -EINVAL, 0 },
        { "", -EINVAL, 0 },
        { "-1", -EINVAL, 0 },
        { "1e3", -EINVAL, 0 },
        { "99999999999999999999", -ERANGE, 0 },
        { "18446744073709552", -ERANGE, 0 },
    };

    check_rows(text_parse_cpus, rows, ELEMENTS(rows));
}

static void test_cpu_lists(void **state) {
    static const char *const good[][2] = { { "", "" }, { "0", "0" }, { "0-3,8\n", "0-3,8" }, { "8,1,2,0", "0-2,8" },
                                           { "1023", "1023" }, { "5-5", "5" } };
    static const char *const bad[] = { "a", "1-", "-1", "1,", ",1", "1--2", "1-2-3", "1;2", "0 1" };
    struct cpu_list list, other = { 0 };

    for (size_t i = 0; i < ELEMENTS(good); i++) {
        assert_int_equal(cpu_list_parse(good[i][0], &list), 0);
        _cleanup_free_ char *text = cpu_list_format(&list);
        assert_string_equal(text, good[i][1]);
    }
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_int_equal(cpu_list_parse(bad[i], &list), -EINVAL);
    assert_int_equal(cpu_list_parse("1024", &list), -ERANGE);
    assert_int_equal(cpu_list_parse("3-2", &list), -ERANGE);
    assert_int_equal(cpu_list_parse("0-3", &list), 0);
    cpu_list_add(&other, 2);
    cpu_list_add(&other, CPU_LIST_MAX); /* no such one */
    assert_int_equal(cpu_list_count(&other), 1);
    assert_true(cpu_list_overlap(&list, &other));
    list = cpu_list_without(&list, &other);
    assert_int_equal(cpu_list_count(&list), 3);
    assert_false(cpu_list_has(&list, 2));
    list = cpu_list_union(&list, &other);
    assert_int_equal(cpu_list_count(&list), 4);
}

static void test_durations(void **state) {
    const struct number_row rows[] = {
        { "90", 0, 90000 },
        { "10s", 0, 10000 },
        { "1m30s", 0, 90000 },
        { "500ms", 0, 500 },
        { "2h", 0, 7200000 },
        { "1d", 0, 86400000 },
        { "1d1h1m1s1ms", 0, 90061001 },
        { "0", 0, 0 },
        { "0s", 0, 0 },
        { "", -EINVAL, 0 },
        { "s", -EINVAL, 0 },
        { "1s1m", -EINVAL, 0 },
        { "1s1s", -EINVAL, 0 },
        { "1.5s", -EINVAL, 0 },
        { "-1s", -EINVAL, 0 },
        { "1w", -EINVAL, 0 },
        { "10 s", -EINVAL, 0 },
        { "99999999999999999999s", -ERANGE, 0 },
        { "18446744073709551615", -ERANGE, 0 },
    };

    check_rows(text_parse_duration, rows, ELEMENTS(rows));
}

static void test_integers(void **state) {
    int64_t value;

    assert_int_equal(text_parse_i64("-9223372036854775808", &value), 0);
    assert_true(value == INT64_MIN);
    assert_int_equal(text_parse_i64("9223372036854775807", &value), 0);
    assert_true(value == INT64_MAX);
    assert_int_equal(text_parse_i64("9223372036854775808", &value), -ERANGE);
    assert_int_equal(text_parse_i64("-9223372036854775809", &value), -ERANGE);
    assert_int_equal(text_parse_i64("-", &value), -EINVAL);
    assert_int_equal(text_parse_i64("--1", &value), -EINVAL);
}

static void check_format(char *text, const char *expected) {
    assert_string_equal(text, expected);
    free(text);
}

static void test_formats(void **state) {
    check_format(text_format_size(0), "0B");
    check_format(text_format_size(1023), "1023B");
    check_format(text_format_size(256 << 20), "256MiB");
    check_format(text_format_size(1536ULL << 20), "1.5GiB");
    check_format(text_format_size((1ULL << 30) - 1), "1.0GiB");
    check_format(text_format_size(UINT64_MAX), "16.0EiB");
    check_format(text_format_cpus(1500), "1.5");
    check_format(text_format_cpus(2000), "2");
    check_format(text_format_cpus(10), "0.01");
    check_format(text_format_duration(0), "0s");
    check_format(text_format_duration(192000), "3m12s");
    check_format(text_format_duration(90061001), "1d1h1m1s1ms");
}

/* What is formatted reads back as the same. */
static void test_round_trips(void **state) {
    for (unsigned i = 0; i < 2000; i++) {
        _cleanup_free_ char *cpus = NULL;
        _cleanup_free_ char *duration = NULL;
        uint64_t value;
        uint64_t back;

        random_bytes(&value, sizeof(value));
        value >>= i % 64;
        duration = text_format_duration(value);
        assert_int_equal(text_parse_duration(duration, &back), 0);
        assert_true(back == value);
        value >>= 12;
        cpus = text_format_cpus(value);
        assert_int_equal(text_parse_cpus(cpus, &back), 0);
        assert_true(back == value);
    }
}

static void test_plain(void **state) {
    static const char *const bad[] = { "a\nb",         "a\tb",         "\x1b[31m",
                                       "\x7f",         "\xc2\x9b",     "\xff",
                                       "\xc0\x80",     "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                       "\xe2\x80\xae", "\xe2\x81\xa6", "\xe2\x80\xa8",
                                       "\xe4\xb8" };
    static const char *const good[] = { "", "abc", "héllo", "世界", "😀", "a b" };

    for (size_t i = 0; i < ELEMENTS(bad); i++)
        if (text_is_plain(bad[i]))
            fail_msg("row %zu is plain", i);
    for (size_t i = 0; i < ELEMENTS(good); i++)
        assert_true(text_is_plain(good[i]));
}

static void test_width(void **state) {
    assert_int_equal(text_width("abc"), 3);
    assert_int_equal(text_width("世界"), 4);
    assert_int_equal(text_width("e\xcc\x81"), 1);
    assert_int_equal(text_width("😀"), 2);
    assert_int_equal(text_width("a\x1b"
                                "b"),
                     2);
    assert_int_equal(text_width("가"), 2);
    assert_int_equal(text_width(""), 0);
}

static void test_escape(void **state) {
    check_format(text_escape("a\x1b]52;c\x07z", 9, false), "a\\x1b]52;c\\x07z");
    check_format(text_escape("a\nb\tc\r", 6, true), "a\nb\tc\\x0d");
    check_format(text_escape("a\nb", 3, false), "a\\x0ab");
    check_format(text_escape("a\0b", 3, false), "a\\x00b");
    check_format(text_escape("\xe2\x80\xae", 3, false), "\\u{202e}");
    check_format(text_escape("\xc2\x9b"
                             "1m",
                             4, false),
                 "\\u{9b}1m");
    check_format(text_escape("\xff\xfe", 2, false), "\\xff\\xfe");
    check_format(text_escape("世界", 6, false), "世界");
    check_format(text_escape("", 0, false), "");
}

/* Whatever goes in, what comes out is plain. */
static void test_escape_any_bytes(void **state) {
    for (unsigned i = 0; i < 5000; i++) {
        char bytes[24];
        _cleanup_free_ char *safe = NULL;

        random_bytes(bytes, sizeof(bytes));
        safe = text_escape(bytes, sizeof(bytes), false);
        assert_true(text_is_plain(safe));
    }
}

static void test_lists(void **state) {
    _cleanup_list_ char **list = NULL;
    _cleanup_list_ char **copy = NULL;
    _cleanup_list_ char **none = NULL;
    _cleanup_free_ char *joined = NULL;

    assert_int_equal(list_count(NULL), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(list_addf(&list, "item %d", i), 0);
    assert_int_equal(list_count(list), 100);
    assert_true(list_has(list, "item 99"));
    assert_int_equal(list_copy(list, &copy), 0);
    assert_true(list_equal(list, copy));
    assert_int_equal(list_add_take(&copy, NULL), -ENOMEM);
    assert_int_equal(list_add(&copy, ""), 0);
    assert_false(list_equal(list, copy));
    assert_int_equal(list_split(",a,,b c,", ", ", &none), 0);
    joined = list_join(none, "|");
    assert_string_equal(joined, "a|b|c");
    list_free(none);
    none = NULL;
    assert_int_equal(list_split(",,", ",", &none), 0);
    assert_null(none);
    assert_true(list_equal(NULL, none));
}

static void test_suggestions(void **state) {
    static const char *const words[] = { "memory", "mounts", "cpus", "ls", NULL };

    assert_string_equal(text_suggest("memroy", words), "memory");
    assert_string_equal(text_suggest("cpu", words), "cpus");
    assert_string_equal(text_suggest("l", words), "ls");
    assert_null(text_suggest("elephant", words));
    assert_null(text_suggest("", words));
    assert_int_equal(text_distance("kitten", "sitting", 10), 3);
    assert_int_equal(text_distance("kitten", "sitting", 2), 3);
    assert_int_equal(text_distance("", "", 2), 0);
}

static void test_clock(void **state) {
    static const char *const bad[] = { "",
                                       "2026-11-21",
                                       "2026-11-21T08:52:00",
                                       "2026-02-30T08:52:00Z",
                                       "2026-11-21T25:00:00Z",
                                       "2026-11-21T08:52:00.Z",
                                       "2026-11-21T08:52:00Zx",
                                       "2026-11-21 08:52:00Z",
                                       "2026-11-21T08:52:00+0800",
                                       "-026-11-21T08:52:00Z" };
    char text[CLOCK_TEXT_SIZE];
    uint64_t wall;

    assert_int_equal(clock_parse("2026-11-21T08:52:00.123Z", &wall), 0);
    assert_string_equal(clock_format(wall, text), "2026-11-21T08:52:00.123Z");
    assert_int_equal(clock_parse("2026-11-21T10:52:00.123+02:00", &wall), 0);
    assert_string_equal(clock_format(wall, text), "2026-11-21T08:52:00.123Z");
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        if (clock_parse(bad[i], &wall) == 0)
            fail_msg("'%s' is no time", bad[i]);
    assert_int_equal(clock_parse("1969-12-31T23:59:59Z", &wall), -ERANGE);
    assert_true(strlen(clock_format(UINT64_MAX, text)) < CLOCK_TEXT_SIZE);
    assert_true(deadline_in(UINT64_MAX) == DEADLINE_NONE);
    assert_true(deadline_in(CLOCK_SECOND) > clock_now());
}

static void test_uuid(void **state) {
    char a[UUID_TEXT_SIZE];
    char b[UUID_TEXT_SIZE];

    uuid_new(a);
    uuid_new(b);
    assert_true(uuid_is_valid(a));
    assert_string_not_equal(a, b);
    assert_int_equal(a[14], '4');
    assert_false(uuid_is_valid(""));
    assert_false(uuid_is_valid("123e4567-e89b-42d3-a456-42661417400"));
    assert_false(uuid_is_valid("123e4567-e89b-42d3-a456-4266141740000"));
    assert_false(uuid_is_valid("123E4567-e89b-42d3-a456-426614174000"));
    assert_false(uuid_is_valid("../e4567-e89b-42d3-a456-426614174000"));
    assert_true(uuid_is_valid(clock_boot_id()));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),     cmocka_unit_test(test_cpus), cmocka_unit_test(test_cpu_lists),
        cmocka_unit_test(test_durations), cmocka_unit_test(test_integers),
        cmocka_unit_test(test_formats),   cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_width),
        cmocka_unit_test(test_escape),    cmocka_unit_test(test_escape_any_bytes),
        cmocka_unit_test(test_lists),     cmocka_unit_test(test_suggestions),
        cmocka_unit_test(test_clock),     cmocka_unit_test(test_uuid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
