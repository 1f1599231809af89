// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <string.h>

#include <json-c/json.h>

#include "base/text.h"
#include "model/field.h"

/* A table with a field of every type. */
struct part {
    char *name;
    int64_t number;
};

struct thing {
    bool flag;
    char *text;
    char *document;
    int64_t integer;
    uint64_t size;
    uint64_t cpus;
    uint64_t duration;
    int choice;
    char **list;
    char **map;
    struct part part;
    struct field_array parts;
    uint64_t time;
    char *must;
    int64_t seen;
};

static const char *check_no_x(const char *text) {
    return strchr(text, 'X') ? "it holds an X" : NULL;
}

static int parse_part(const char *text, void *target, struct error *error) {
    struct part *part = target;

    if (text[0] == '!')
        return error_set(error, ERROR_BAD_VALUE, "parts", text, "it starts with '!'");
    part->name = strdup(text);
    return part->name ? 0 : error_set(error, ERROR_NO_MEMORY);
}

static const char *const choices[] = { "red", "green", NULL };
static const struct field part_fields[] = {
    { .name = "name", .type = FIELD_TEXT, .offset = offsetof(struct part, name) },
    { .name = "number",
      .type = FIELD_INTEGER,
      .offset = offsetof(struct part, number),
      .minimum = 1,
      .maximum = 9,
      .initial = "3" },
};
static const struct table part_table = TABLE("part", struct part, part_fields);

#define ROW(row_name, row_type, ...)                                                                         \
    {                                                                                                        \
        .name = #row_name, .type = row_type, .offset = offsetof(struct thing, row_name),                     \
        .change = CHANGE_LIVE, __VA_ARGS__                                                                   \
    }
static const struct field thing_fields[] = {
    ROW(flag, FIELD_BOOLEAN, .initial = "true"),
    ROW(text, FIELD_TEXT, .maximum = 8, .check = check_no_x),
    ROW(document, FIELD_TEXT, .lines = true),
    ROW(integer, FIELD_INTEGER, .minimum = (uint64_t) -5, .maximum = 5),
    ROW(size, FIELD_SIZE, .minimum = 1024, .maximum = 1 << 20, .or_zero = true, .initial = "4k"),
    ROW(cpus, FIELD_CPUS, .minimum = 10, .maximum = 4000, .initial = "1"),
    ROW(duration, FIELD_DURATION, .maximum = 60000),
    ROW(choice, FIELD_ENUM, .names = choices, .initial = "green"),
    ROW(list, FIELD_LIST, .maximum = 3, .check = check_no_x),
    ROW(map, FIELD_MAP, .maximum = 3),
    ROW(part, FIELD_OBJECT, .items = &part_table),
    ROW(parts, FIELD_OBJECTS, .maximum = 2, .items = &part_table, .parse = parse_part),
    ROW(time, FIELD_TIME),
    { .name = "must",
      .type = FIELD_TEXT,
      .offset = offsetof(struct thing, must),
      .change = CHANGE_NEVER,
      .required = true },
    { .name = "seen",
      .type = FIELD_INTEGER,
      .offset = offsetof(struct thing, seen),
      .change = CHANGE_OUTPUT },
};
static const struct table thing_table = TABLE("thing", struct thing, thing_fields);

static int decode(const char *text, unsigned flags, struct thing *thing, struct error *error) {
    _cleanup_json_ struct json_object *json = NULL;

    assert_int_equal(json_parse(text, strlen(text), &json, NULL), 0);
    return table_decode(&thing_table, json, flags, thing, error);
}

static char *emit(const struct thing *thing) {
    struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    char *text;

    emit_object(&emitter);
    table_emit(&thing_table, thing, &emitter);
    emit_object_end(&emitter);
    assert_int_equal(buffer_take(&out, &text), 0);
    return text;
}

static void check_emitted(const struct thing *thing, const char *expected) {
    _cleanup_free_ char *text = emit(thing);

    assert_string_equal(text, expected);
}

static void test_defaults(void **state) {
    struct thing thing;

    assert_int_equal(table_init(&thing_table, &thing), 0);
    check_emitted(
        &thing,
        "{\"flag\":true,\"integer\":0,\"size\":4096,\"cpus\":1,\"duration\":\"0s\",\"choice\":\"green\","
        "\"list\":[],\"map\":{},\"part\":{\"number\":3},\"parts\":[],\"time\":null,\"seen\":0}");
    table_done(&thing_table, &thing);
    table_done(&thing_table, &thing);
}

static const char full[] =
    "{\"flag\":false,\"text\":\"hé\",\"document\":\"a\\nb\",\"integer\":-5,\"size\":2048,\"cpus\":1.5,"
    "\"duration\":\"1m\",\"choice\":\"red\",\"list\":[\"a\",\"\"],\"map\":{\"k\":\"v=w\",\"l\":\"\"},"
    "\"part\":{\"name\":\"p\",\"number\":9},\"parts\":[{\"name\":\"q\",\"number\":1},{\"number\":3}],"
    "\"time\":\"2026-11-21T08:52:00.123Z\",\"must\":\"yes\",\"seen\":0}";

static void test_round_trip(void **state) {
    struct thing thing = { 0 };
    struct thing copy;

    assert_int_equal(decode(full, DECODE_STORED, &thing, NULL), 0);
    check_emitted(&thing, full);
    assert_int_equal(table_copy(&thing_table, &thing, &copy), 0);
    assert_true(table_equal(&thing_table, &thing, &copy));
    copy.integer++;
    assert_false(table_equal(&thing_table, &thing, &copy));
    table_done(&thing_table, &copy);
    table_done(&thing_table, &thing);
}

static void test_other_forms(void **state) {
    struct thing thing = { 0 };

    assert_int_equal(
        decode("{\"must\":\"x\",\"size\":\"8k\",\"cpus\":\"0.25\",\"duration\":1.5,\"text\":\"\","
               "\"time\":null,\"flag\":null}",
               DECODE_REPLACE, &thing, NULL),
        0);
    assert_int_equal(thing.size, 8192);
    assert_int_equal(thing.cpus, 250);
    assert_int_equal(thing.duration, 1500);
    assert_null(thing.text);
    assert_true(thing.flag);
    table_done(&thing_table, &thing);
}

struct refusal {
    const char *json; /* goes with "must" */
    enum error_code code;
    const char *path; /* in the first parameter */
};

static void check_refusals(const struct refusal *rows, size_t count, unsigned flags) {
    for (size_t i = 0; i < count; i++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_free_ char *before = NULL;
        _cleanup_free_ char *after = NULL;
        struct thing thing = { 0 };

        assert_int_equal(decode(full, DECODE_STORED, &thing, NULL), 0);
        before = emit(&thing);
        if (decode(rows[i].json, flags, &thing, &error) >= 0)
            fail_msg("%s was taken", rows[i].json);
        if (error.code != rows[i].code || !text_equal(error.parameters[0], rows[i].path))
            fail_msg("%s gave %s for '%s'", rows[i].json, error_wire(error.code), error.parameters[0]);
        after = emit(&thing);
        assert_string_equal(before, after);
        table_done(&thing_table, &thing);
    }
}

static void test_refusals(void **state) {
    static const struct refusal rows[] = {
        { "[]", ERROR_BAD_TYPE, "thing" },
        { "{}", ERROR_MISSING_FIELD, "must" },
        { "{\"must\":null}", ERROR_MISSING_FIELD, "must" },
        { "{\"must\":\"\"}", ERROR_MISSING_FIELD, "must" },
        { "{\"must\":\"x\",\"sise\":1}", ERROR_UNKNOWN_FIELD, "sise" },
        { "{\"must\":\"x\",\"\":1}", ERROR_UNKNOWN_FIELD, "" },
        { "{\"must\":\"x\",\"part\":{\"nam\":1}}", ERROR_UNKNOWN_FIELD, "part.nam" },
        { "{\"must\":\"x\",\"parts\":[{},{\"x\":1}]}", ERROR_UNKNOWN_FIELD, "parts[1].x" },
        { "{\"must\":\"x\",\"seen\":1}", ERROR_READ_ONLY_FIELD, "seen" },
        { "{\"must\":\"x\",\"flag\":1}", ERROR_BAD_TYPE, "flag" },
        { "{\"must\":\"x\",\"flag\":\"true\"}", ERROR_BAD_TYPE, "flag" },
        { "{\"must\":\"x\",\"text\":1}", ERROR_BAD_TYPE, "text" },
        { "{\"must\":\"x\",\"text\":\"123456789\"}", ERROR_TOO_LARGE, "text" },
        { "{\"must\":\"x\",\"text\":\"aX\"}", ERROR_BAD_VALUE, "text" },
        { "{\"must\":\"x\",\"text\":\"a\\nb\"}", ERROR_BAD_VALUE, "text" },
        { "{\"must\":\"x\",\"text\":\"\\u001b\"}", ERROR_BAD_VALUE, "text" },
        { "{\"must\":\"x\",\"text\":\"\\u202e\"}", ERROR_BAD_VALUE, "text" },
        { "{\"must\":\"x\",\"document\":\"a\\u001bb\"}", ERROR_BAD_VALUE, "document" },
        { "{\"must\":\"x\",\"integer\":1.5}", ERROR_BAD_TYPE, "integer" },
        { "{\"must\":\"x\",\"integer\":\"1\"}", ERROR_BAD_TYPE, "integer" },
        { "{\"must\":\"x\",\"integer\":6}", ERROR_OUT_OF_RANGE, "integer" },
        { "{\"must\":\"x\",\"integer\":-6}", ERROR_OUT_OF_RANGE, "integer" },
        { "{\"must\":\"x\",\"integer\":18446744073709551615}", ERROR_OUT_OF_RANGE, "integer" },
        { "{\"must\":\"x\",\"size\":-1}", ERROR_OUT_OF_RANGE, "size" },
        { "{\"must\":\"x\",\"size\":1}", ERROR_OUT_OF_RANGE, "size" },
        { "{\"must\":\"x\",\"size\":18446744073709551615}", ERROR_OUT_OF_RANGE, "size" },
        { "{\"must\":\"x\",\"size\":1.5}", ERROR_BAD_TYPE, "size" },
        { "{\"must\":\"x\",\"size\":\"1e3GiB\"}", ERROR_BAD_VALUE, "size" },
        { "{\"must\":\"x\",\"size\":\"-1\"}", ERROR_OUT_OF_RANGE, "size" },
        { "{\"must\":\"x\",\"size\":\"99999999999999999999\"}", ERROR_OUT_OF_RANGE, "size" },
        { "{\"must\":\"x\",\"size\":[]}", ERROR_BAD_TYPE, "size" },
        { "{\"must\":\"x\",\"cpus\":0}", ERROR_OUT_OF_RANGE, "cpus" },
        { "{\"must\":\"x\",\"cpus\":4.001}", ERROR_OUT_OF_RANGE, "cpus" },
        { "{\"must\":\"x\",\"cpus\":1e300}", ERROR_OUT_OF_RANGE, "cpus" },
        { "{\"must\":\"x\",\"cpus\":1.00001}", ERROR_BAD_VALUE, "cpus" },
        { "{\"must\":\"x\",\"cpus\":true}", ERROR_BAD_TYPE, "cpus" },
        { "{\"must\":\"x\",\"duration\":\"61s\"}", ERROR_OUT_OF_RANGE, "duration" },
        { "{\"must\":\"x\",\"duration\":61}", ERROR_OUT_OF_RANGE, "duration" },
        { "{\"must\":\"x\",\"duration\":-1}", ERROR_OUT_OF_RANGE, "duration" },
        { "{\"must\":\"x\",\"duration\":\"soon\"}", ERROR_BAD_VALUE, "duration" },
        { "{\"must\":\"x\",\"choice\":\"gren\"}", ERROR_BAD_VALUE, "choice" },
        { "{\"must\":\"x\",\"choice\":1}", ERROR_BAD_TYPE, "choice" },
        { "{\"must\":\"x\",\"list\":\"a\"}", ERROR_BAD_TYPE, "list" },
        { "{\"must\":\"x\",\"list\":[1]}", ERROR_BAD_TYPE, "list[0]" },
        { "{\"must\":\"x\",\"list\":[null]}", ERROR_BAD_TYPE, "list[0]" },
        { "{\"must\":\"x\",\"list\":[\"a\",\"b\\n\"]}", ERROR_BAD_VALUE, "list[1]" },
        { "{\"must\":\"x\",\"list\":[\"a\",\"X\"]}", ERROR_BAD_VALUE, "list[1]" },
        { "{\"must\":\"x\",\"list\":[\"\",\"\",\"\",\"\"]}", ERROR_TOO_LARGE, "list" },
        { "{\"must\":\"x\",\"map\":[]}", ERROR_BAD_TYPE, "map" },
        { "{\"must\":\"x\",\"map\":{\"a\":1}}", ERROR_BAD_TYPE, "map.a" },
        { "{\"must\":\"x\",\"map\":{\"a\":null}}", ERROR_BAD_TYPE, "map.a" },
        { "{\"must\":\"x\",\"map\":{\"a=b\":\"\"}}", ERROR_BAD_VALUE, "map.a=b" },
        { "{\"must\":\"x\",\"map\":{\"\":\"\"}}", ERROR_BAD_VALUE, "map." },
        { "{\"must\":\"x\",\"map\":{\"a\":\"b\\nc\"}}", ERROR_BAD_VALUE, "map.a" },
        { "{\"must\":\"x\",\"map\":{\"a\\n\":\"b\"}}", ERROR_BAD_VALUE, "map.a\n" },
        { "{\"must\":\"x\",\"map\":{\"a\":\"\",\"b\":\"\",\"c\":\"\",\"d\":\"\"}}", ERROR_TOO_LARGE, "map" },
        { "{\"must\":\"x\",\"part\":1}", ERROR_BAD_TYPE, "part" },
        { "{\"must\":\"x\",\"part\":{\"number\":10}}", ERROR_OUT_OF_RANGE, "part.number" },
        { "{\"must\":\"x\",\"parts\":{}}", ERROR_BAD_TYPE, "parts" },
        { "{\"must\":\"x\",\"parts\":[1]}", ERROR_BAD_TYPE, "parts[0]" },
        { "{\"must\":\"x\",\"parts\":[{\"name\":\"a\"},{\"number\":0}]}", ERROR_OUT_OF_RANGE,
          "parts[1].number" },
        { "{\"must\":\"x\",\"parts\":[{},{},{}]}", ERROR_TOO_LARGE, "parts" },
        { "{\"must\":\"x\",\"time\":1}", ERROR_BAD_TYPE, "time" },
        { "{\"must\":\"x\",\"time\":\"yesterday\"}", ERROR_BAD_VALUE, "time" },
    };
    static const struct refusal merges[] = {
        { "{\"must\":null}", ERROR_MISSING_FIELD, "must" },
        { "{\"seen\":2}", ERROR_READ_ONLY_FIELD, "seen" },
        { "{\"seen\":null}", ERROR_READ_ONLY_FIELD, "seen" },
        { "{\"map\":{\"x\":\"\",\"y\":\"\"}}", ERROR_TOO_LARGE, "map" },
        { "{\"part\":{\"number\":0}}", ERROR_OUT_OF_RANGE, "part.number" },
    };

    check_refusals(rows, ELEMENTS(rows), DECODE_REPLACE);
    check_refusals(merges, ELEMENTS(merges), DECODE_MERGE);
}

static void test_suggestion(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;
    struct thing thing = { 0 };

    decode("{\"must\":\"x\",\"integr\":1}", DECODE_REPLACE, &thing, &error);
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_string_equal(sentence, "'integr' is not a field of thing (integer?)");
    table_done(&thing_table, &thing);
}

/* Values of maps are secrets more often than not. */
static void test_errors_do_not_repeat_secrets(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_free_ char *sentence = NULL;
    struct thing thing = { 0 };

    decode("{\"must\":\"x\",\"map\":{\"PASSWORD\":\"hunter2\\u0007\"}}", DECODE_REPLACE, &thing, &error);
    sentence = error_sentence(&error, LANGUAGE_ENGLISH);
    assert_null(strstr(sentence, "hunter2"));
    assert_non_null(strstr(sentence, "PASSWORD"));
    table_done(&thing_table, &thing);
}

static void test_merge(void **state) {
    struct thing thing = { 0 };

    assert_int_equal(decode(full, DECODE_STORED, &thing, NULL), 0);
    assert_int_equal(
        decode("{\"integer\":2,\"cpus\":null,\"map\":{\"k\":null,\"a\":\"b\"},\"part\":{\"name\":null},"
               "\"parts\":[{\"name\":\"z\"}],\"list\":[]}",
               DECODE_MERGE, &thing, NULL),
        0);
    check_emitted(
        &thing,
        "{\"flag\":false,\"text\":\"hé\",\"document\":\"a\\nb\",\"integer\":2,\"size\":2048,\"cpus\":1,"
        "\"duration\":\"1m\",\"choice\":\"red\",\"list\":[],\"map\":{\"a\":\"b\",\"l\":\"\"},"
        "\"part\":{\"number\":9},\"parts\":[{\"name\":\"z\",\"number\":3}],"
        "\"time\":\"2026-11-21T08:52:00.123Z\",\"must\":\"yes\",\"seen\":0}");
    table_done(&thing_table, &thing);
}

static void test_stored(void **state) {
    struct thing thing = { 0 };

    assert_int_equal(decode("{\"seen\":7,\"gone\":{\"x\":1},\"integer\":1000,\"part\":{\"old\":1}}",
                            DECODE_STORED, &thing, NULL),
                     0);
    assert_int_equal(thing.seen, 7);
    assert_int_equal(thing.integer, 1000);
    assert_null(thing.must);
    table_done(&thing_table, &thing);
}

static void test_text_forms(void **state) {
    static const char *const bad[][2] = {
        { "flag", "maybe" }, { "integer", "6" },   { "integer", "x" }, { "size", "1" }, { "cpus", "9" },
        { "map", "=x" },     { "text", "a\x1b" },  { "seen", "1" },    { "nope", "1" }, { "parts", "!" },
        { "part", "x" },     { "choice", "blue" }, { "list", "X" },
    };
    struct thing thing;

    assert_int_equal(table_init(&thing_table, &thing), 0);
    assert_int_equal(table_decode_text(&thing_table, "flag", "no", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "integer", "-5", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "list", "one", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "list", "two", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "map", "b=2", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "map", "a=1=1", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "map", "b=3", &thing, NULL), 0);
    assert_int_equal(table_decode_text(&thing_table, "parts", "p", &thing, NULL), 0);
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;

        if (table_decode_text(&thing_table, bad[i][0], bad[i][1], &thing, &error) >= 0 ||
            !error_is_set(&error))
            fail_msg("%s took '%s'", bad[i][0], bad[i][1]);
    }
    check_emitted(
        &thing,
        "{\"flag\":false,\"integer\":-5,\"size\":4096,\"cpus\":1,\"duration\":\"0s\",\"choice\":\"green\","
        "\"list\":[\"one\",\"two\"],\"map\":{\"a\":\"1=1\",\"b\":\"3\"},\"part\":{\"number\":3},"
        "\"parts\":[{\"name\":\"p\",\"number\":3}],\"time\":null,\"seen\":0}");
    table_done(&thing_table, &thing);
}

static void test_frozen(void **state) {
    struct thing a = { .must = strdup("a") };
    struct thing b = { .must = strdup("b") };

    assert_string_equal(table_first_frozen(&thing_table, &a, &b, false)->name, "must");
    b.must[0] = 'a';
    b.integer = 3;
    assert_null(table_first_frozen(&thing_table, &a, &b, true));
    table_done(&thing_table, &a);
    table_done(&thing_table, &b);
}

static void test_large_list(void **state) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct thing thing = { 0 };

    buffer_add_text(&text, "{\"must\":\"x\",\"list\":[\"");
    for (int i = 0; i < FIELD_BYTES_MAX; i++)
        buffer_add_char(&text, 'a');
    buffer_add_text(&text, "\",\"b\"]}");
    assert_int_equal(decode(text.data, DECODE_REPLACE, &thing, &error), -E2BIG);
    assert_int_equal(error.code, ERROR_TOO_LARGE);
    table_done(&thing_table, &thing);
}

static void test_schema(void **state) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    _cleanup_json_ struct json_object *json = NULL;
    struct json_object *properties;

    table_emit_schema(&thing_table, false, &emitter);
    assert_int_equal(json_parse(out.data, out.size, &json, NULL), 0);
    properties = json_member(json, "properties");
    assert_int_equal(json_object_object_length(properties), (int) ELEMENTS(thing_fields) - 1);
    assert_false(json_has(properties, "seen"));
    assert_int_equal(json_object_array_length(json_member(json, "required")), 1);
    assert_false(json_boolean(json, "additionalProperties", true));
    assert_int_equal(json_integer(json_member(properties, "integer"), "minimum", 0), -5);
    assert_int_equal(json_integer(json_member(properties, "size"), "minimum", 1), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_other_forms), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_suggestion),  cmocka_unit_test(test_errors_do_not_repeat_secrets),
        cmocka_unit_test(test_merge),       cmocka_unit_test(test_stored),
        cmocka_unit_test(test_text_forms),  cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_large_list),  cmocka_unit_test(test_schema),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
