// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/text.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/buffer.h"

/* The Unicode half of text.h: validity, columns, and making foreign bytes safe to show. */

struct range {
    uint32_t first;
    uint32_t last;
};

static const struct range zero_width[] = {
#define UNICODE_ZERO(first, last) { first, last },
#include "base/unicode-tables.def"
#undef UNICODE_ZERO
};

static const struct range wide[] = {
#define UNICODE_WIDE(first, last) { first, last },
#include "base/unicode-tables.def"
#undef UNICODE_WIDE
};

static bool in_ranges(const struct range *ranges, size_t count, uint32_t code) {
    size_t low = 0;
    size_t high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (code > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && code >= ranges[low].first;
}

/* The bytes of a sequence that starts with `lead`, and the least code point it may stand for; 0 if none. */
static unsigned sequence_size(unsigned char lead, uint32_t *ret_bits, uint32_t *ret_least) {
    if (lead >= 0xc2 && lead <= 0xdf) {
        *ret_bits = lead & 0x1f;
        *ret_least = 0x80;
        return 2;
    }
    if ((lead & 0xf0) == 0xe0) {
        *ret_bits = lead & 0x0f;
        *ret_least = 0x800;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        *ret_bits = lead & 0x07;
        *ret_least = 0x10000;
        return 4;
    }
    return 0;
}

/* Decodes one character (size > 0). Returns its bytes, or 0 if they are not valid UTF-8. */
static size_t decode(const char *text, size_t size, uint32_t *ret_code) {
    const unsigned char *p = (const unsigned char *) text;
    uint32_t least;
    uint32_t code;
    unsigned length;

    if (p[0] < 0x80) {
        *ret_code = p[0];
        return 1;
    }
    length = sequence_size(p[0], &code, &least);
    if (length == 0 || length > size)
        return 0;
    for (unsigned i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        code = (code << 6) | (p[i] & 0x3f);
    }
    if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    *ret_code = code;
    return length;
}

static bool is_control(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code <= 0x9f);
}

/* Characters that reorder or break what stands around them: overrides, embeddings, isolates, line and
 * paragraph separators. */
static bool is_misleading(uint32_t code) {
    return (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

bool text_is_utf8(const char *text, size_t size) {
    uint32_t code;

    for (size_t at = 0; at < size;) {
        size_t length = (unsigned char) text[at] < 0x80 ? 1 : decode(text + at, size - at, &code);

        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

bool text_is_plain(const char *text) {
    size_t size = strlen(text);
    uint32_t code;

    for (size_t at = 0; at < size;) {
        size_t length = decode(text + at, size - at, &code);

        if (length == 0 || is_control(code) || is_misleading(code))
            return false;
        at += length;
    }
    return true;
}

size_t text_width(const char *text) {
    size_t size = strlen(text);
    size_t width = 0;
    uint32_t code;

    for (size_t at = 0; at < size;) {
        size_t length = decode(text + at, size - at, &code);

        if (length == 0) {
            /* A stray byte shows as one replacement character. */
            width++;
            at++;
            continue;
        }
        at += length;
        if (is_control(code) || in_ranges(zero_width, ELEMENTS(zero_width), code))
            continue;
        width += in_ranges(wide, ELEMENTS(wide), code) ? 2 : 1;
    }
    return width;
}

char *text_escape(const char *data, size_t size, bool lines) {
    _cleanup_buffer_ struct buffer safe = BUFFER_INIT;
    char *text = NULL;
    uint32_t code;

    for (size_t at = 0; at < size;) {
        size_t length = decode(data + at, size - at, &code);

        if (length == 0 || (code < 0x80 && is_control(code) && !(lines && (code == '\n' || code == '\t')))) {
            buffer_addf(&safe, "\\x%02x", (unsigned) (unsigned char) data[at]);
            length = 1;
        } else if (code >= 0x80 && (is_control(code) || is_misleading(code))) {
            buffer_addf(&safe, "\\u{%x}", (unsigned) code);
        } else {
            buffer_add(&safe, data + at, length);
        }
        at += length;
    }
    if (buffer_take(&safe, &text) < 0)
        return NULL;
    return text;
}
