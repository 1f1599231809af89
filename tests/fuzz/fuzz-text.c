// SPDX-License-Identifier: GPL-2.0-or-later
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "base/uuid.h"
#include "model/image.h"
#include "model/instance.h"

/* The small parsers: of numbers, names, ports, mounts. What is taken keeps its promises, and what is escaped
 * is plain. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_numbers(const char *text) {
    char time[CLOCK_TEXT_SIZE];
    uint64_t value;
    uint64_t again;
    int64_t integer;

    (void) text_parse_u64(text, &value);
    (void) text_parse_i64(text, &integer);
    (void) text_parse_size(text, &value);
    if (text_parse_cpus(text, &value) == 0) {
        _cleanup_free_ char *written = text_format_cpus(value);

        if (text_parse_cpus(written, &again) < 0 || again != value)
            abort();
    }
    if (text_parse_duration(text, &value) == 0) {
        _cleanup_free_ char *written = text_format_duration(value);

        if (text_parse_duration(written, &again) < 0 || again != value)
            abort();
    }
    if (clock_parse(text, &value) == 0 &&
        (clock_parse(clock_format(value, time), &again) < 0 || again / 1000 != value / 1000))
        abort();
}

static void check_escapes(const char *text, size_t size) {
    _cleanup_free_ char *flat = text_escape(text, size, false);
    _cleanup_free_ char *lines = text_escape(text, size, true);

    if (!flat || !lines || !text_is_plain(flat) || !text_is_utf8(lines, strlen(lines)))
        abort();
    if (strlen(text) == size && text_is_plain(text) && strcmp(text, flat) != 0)
        abort();
    (void) text_width(text);
}

static void check_names(const char *text) {
    static const char *const words[] = { "memory", "mounts", "container", NULL };

    if (name_is_valid(text) && (strchr(text, '/') || strlen(text) > 63))
        abort();
    if (image_alias_is_valid(text) && (strstr(text, "..") || text[0] == '-'))
        abort();
    (void) uuid_is_valid(text);
    (void) image_digest_is_valid(text);
    (void) signal_from_name(text);
    (void) text_suggest(text, words);
}

static void check_spec_forms(const char *text) {
    static const char *const fields[] = { "mounts", "publish", "restart", "environment", "user", "hostname" };
    struct instance_spec spec;

    if (table_init(&instance_spec_table, &spec) < 0)
        abort();
    for (size_t i = 0; i < ELEMENTS(fields); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;

        if (table_decode_text(&instance_spec_table, fields[i], text, &spec, &error) < 0 &&
            !error_is_set(&error))
            abort();
    }
    table_done(&instance_spec_table, &spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_free_ char *text = malloc(size + 1);

    memcpy(text, data, size);
    text[size] = '\0';
    check_numbers(text);
    check_escapes(text, size);
    check_names(text);
    check_spec_forms(text);
    return 0;
}
