// SPDX-License-Identifier: GPL-2.0-or-later
#include "golden.h"

#include "test.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"

void golden_compare(const char *path, const char *text) {
    const char *sources = getenv("POLDER_TEST_SOURCES");
    _cleanup_free_ char *full = text_format("%s/../golden/%s", sources ? sources : "tests/unit", path), *wanted = NULL;

    assert_non_null(full);
    if (getenv("POLDER_GOLDEN_UPDATE"))
        assert_int_equal(file_write_atomic(AT_FDCWD, full, text, strlen(text), 0644, false), 0);
    assert_int_equal(file_read(AT_FDCWD, full, 1 << 20, &wanted, NULL), 0);
    assert_string_equal(text, wanted);
}

void golden_compare_json(const char *path, struct json_object *json) {
    _cleanup_free_ char *text = text_format(
        "%s\n", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));

    assert_non_null(text);
    golden_compare(path, text);
    json_put(json);
}
