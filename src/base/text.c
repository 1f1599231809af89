// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"

/* Comparing, numbers in and out, suggestions. Lists are in list.c, what needs Unicode in unicode.c. */

#define DISTANCE_MAX 64 /* bytes of the longer word */

char *text_format(const char *format, ...) {
    va_list arguments;
    char *text;
    int length;

    va_start(arguments, format);
    length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return length < 0 ? NULL : text;
}

bool text_equal(const char *a, const char *b) {
    if (!a || !b)
        return a == b;
    return strcmp(a, b) == 0;
}

bool text_starts(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool text_ends(const char *text, const char *suffix) {
    size_t length = strlen(text);
    size_t wanted = strlen(suffix);

    return length >= wanted && strcmp(text + length - wanted, suffix) == 0;
}

bool text_is_empty(const char *text) {
    return !text || text[0] == '\0';
}

/* Takes the digits at *p, at least one. */
static int take_digits(const char **p, uint64_t *ret) {
    uint64_t value = 0;
    int r = 0;

    if (**p < '0' || **p > '9')
        return -EINVAL;
    for (; **p >= '0' && **p <= '9'; (*p)++)
        if (__builtin_mul_overflow(value, UINT64_C(10), &value) ||
            __builtin_add_overflow(value, (uint64_t) (**p - '0'), &value))
            r = -ERANGE;
    *ret = value;
    return r;
}

int text_parse_u64(const char *text, uint64_t *ret) {
    uint64_t value;
    int r = take_digits(&text, &value);

    if (r == -EINVAL || *text != '\0')
        return -EINVAL;
    if (r < 0)
        return r;
    *ret = value;
    return 0;
}

int text_parse_i64(const char *text, int64_t *ret) {
    bool negative = text[0] == '-';
    uint64_t value;
    int r;

    r = text_parse_u64(text + negative, &value);
    if (r < 0)
        return r;
    if (value > (uint64_t) INT64_MAX + negative)
        return -ERANGE;
    *ret = negative ? (int64_t) (0 - value) : (int64_t) value;
    return 0;
}

/* "1.25" at *p -> 1 and 25 with two digits; ".5" has no whole part. At most `most` digits after the point. */
static int take_decimal(const char **p, unsigned most, uint64_t *ret_whole, uint64_t *ret_part,
                        uint64_t *ret_scale) {
    const char *start;
    int r = 0;

    *ret_whole = 0;
    *ret_part = 0;
    *ret_scale = 1;
    if (**p != '.')
        r = take_digits(p, ret_whole);
    if (r == -EINVAL || **p != '.')
        return r;
    start = ++*p;
    if (take_digits(p, ret_part) == -EINVAL || *p - start > (long) most)
        return -EINVAL;
    for (long i = *p - start; i > 0; i--)
        *ret_scale *= 10;
    return r;
}

/* "", "b", "k", "KiB", "MB" -> power of 1024; -EINVAL. */
static int parse_unit(const char *text) {
    static const char units[] = "kmgtp";
    const char *found;

    if (text[0] == '\0')
        return 0;
    if (tolower((unsigned char) text[0]) == 'b')
        return text[1] == '\0' ? 0 : -EINVAL;
    found = strchr(units, tolower((unsigned char) text[0]));
    if (!found)
        return -EINVAL;
    text++;
    if (tolower((unsigned char) *text) == 'i')
        text++;
    if (tolower((unsigned char) *text) == 'b')
        text++;
    return *text == '\0' ? (int) (found - units) + 1 : -EINVAL;
}

int text_parse_size(const char *text, uint64_t *ret_bytes) {
    unsigned __int128 bytes;
    uint64_t whole;
    uint64_t part;
    uint64_t scale;
    int power;
    int r;

    r = take_decimal(&text, 9, &whole, &part, &scale);
    if (r == -EINVAL)
        return r;
    power = parse_unit(text);
    if (power < 0 || (scale > 1 && power == 0))
        return -EINVAL;
    if (r < 0)
        return r;
    bytes = (unsigned __int128) whole << (10 * power);
    bytes += ((unsigned __int128) part << (10 * power)) / scale;
    if (bytes > UINT64_MAX)
        return -ERANGE;
    *ret_bytes = (uint64_t) bytes;
    return 0;
}

int text_parse_cpus(const char *text, uint64_t *ret_milli) {
    uint64_t whole;
    uint64_t part;
    uint64_t scale;
    int r;

    r = take_decimal(&text, 3, &whole, &part, &scale);
    if (r == -EINVAL || *text != '\0')
        return -EINVAL;
    if (r < 0 || __builtin_mul_overflow(whole, UINT64_C(1000), &whole))
        return -ERANGE;
    if (__builtin_add_overflow(whole, part * (1000 / scale), ret_milli))
        return -ERANGE;
    return 0;
}

struct duration_unit {
    const char *name;
    uint64_t ms;
};

/* From the largest to the smallest, the order in which a text may hold them. */
static const struct duration_unit duration_units[] = {
    { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 },
};

/* The index of the unit written at *p, not before `from`; -EINVAL. */
static int take_duration_unit(const char **p, size_t from) {
    size_t length = strspn(*p, "dhms");

    for (size_t i = from; i < ELEMENTS(duration_units); i++) {
        if (strlen(duration_units[i].name) != length || strncmp(*p, duration_units[i].name, length) != 0)
            continue;
        *p += length;
        return (int) i;
    }
    return -EINVAL;
}

int text_parse_duration(const char *text, uint64_t *ret_ms) {
    uint64_t total = 0;
    bool overflow = false;
    size_t next = 0;

    if (text[0] == '\0')
        return -EINVAL;
    if (text[strspn(text, "0123456789")] == '\0') {
        int r = text_parse_u64(text, &total);

        if (r < 0 || __builtin_mul_overflow(total, UINT64_C(1000), &total))
            return -ERANGE;
        *ret_ms = total;
        return 0;
    }
    while (*text) {
        uint64_t value;
        int unit;
        int r = take_digits(&text, &value);

        if (r == -EINVAL)
            return r;
        unit = take_duration_unit(&text, next);
        if (unit < 0)
            return unit;
        next = (size_t) unit + 1;
        if (r < 0 || __builtin_mul_overflow(value, duration_units[unit].ms, &value) ||
            __builtin_add_overflow(total, value, &total))
            overflow = true;
    }
    if (overflow)
        return -ERANGE;
    *ret_ms = total;
    return 0;
}

char *text_format_size(uint64_t bytes) {
    static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    unsigned unit = 0;
    uint64_t scale;
    uint64_t tenths;

    while (unit + 1 < ELEMENTS(names) && bytes >> (10 * (unit + 1)) > 0)
        unit++;
    scale = UINT64_C(1) << (10 * unit);
    if (bytes % scale == 0)
        return text_format("%" PRIu64 "%s", bytes >> (10 * unit), names[unit]);
    tenths = (uint64_t) (((unsigned __int128) bytes * 10 + scale / 2) / scale);
    if (tenths >= 10240 && unit + 1 < ELEMENTS(names)) {
        tenths = 10;
        unit++;
    }
    return text_format("%" PRIu64 ".%" PRIu64 "%s", tenths / 10, tenths % 10, names[unit]);
}

char *text_format_cpus(uint64_t milli) {
    char part[4];

    if (milli % 1000 == 0)
        return text_format("%" PRIu64, milli / 1000);
    snprintf(part, sizeof(part), "%03u", (unsigned) (milli % 1000));
    for (size_t i = 3; part[i - 1] == '0'; i--)
        part[i - 1] = '\0';
    return text_format("%" PRIu64 ".%s", milli / 1000, part);
}

char *text_format_duration(uint64_t ms) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *text = NULL;

    if (ms == 0)
        buffer_add_text(&out, "0s");
    for (size_t i = 0; i < ELEMENTS(duration_units); i++) {
        uint64_t count = ms / duration_units[i].ms;

        if (count > 0)
            buffer_addf(&out, "%" PRIu64 "%s", count, duration_units[i].name);
        ms %= duration_units[i].ms;
    }
    if (buffer_take(&out, &text) < 0)
        return NULL;
    return text;
}

static unsigned least(unsigned a, unsigned b) {
    return a < b ? a : b;
}

/* Wagner and Fischer's table, one row kept. */
unsigned text_distance(const char *a, const char *b, unsigned limit) {
    unsigned row[DISTANCE_MAX + 1];
    size_t size_a = strlen(a);
    size_t size_b = strlen(b);

    if (size_a > DISTANCE_MAX || size_b > DISTANCE_MAX)
        return text_equal(a, b) ? 0 : limit + 1;
    for (unsigned j = 0; j <= size_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= size_a; i++) {
        unsigned diagonal = row[0];
        unsigned best = row[0] = (unsigned) i;

        for (size_t j = 1; j <= size_b; j++) {
            unsigned changed = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            row[j] = least(changed, least(row[j], row[j - 1]) + 1);
            best = least(best, row[j]);
        }
        if (best > limit)
            return limit + 1;
    }
    return least(row[size_b], limit + 1);
}

const char *text_suggest(const char *word, const char *const *words) {
    unsigned limit = (unsigned) (strnlen(word, DISTANCE_MAX) / 3);
    const char *nearest = NULL;

    if (limit == 0)
        limit = 1;
    for (; *words; words++) {
        unsigned distance = text_distance(word, *words, limit);

        if (distance > limit || (nearest && distance == limit && distance > 0))
            continue;
        nearest = *words;
        limit = distance;
        if (distance == 0)
            break;
    }
    return nearest;
}
