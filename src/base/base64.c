// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/base64.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *base64_encode(const void *data, size_t size) {
    const uint8_t *bytes = data;
    char *text = malloc((size + 2) / 3 * 4 + 1), *out = text;

    if (!text)
        return NULL;
    for (size_t i = 0; i < size; i += 3) {
        size_t there = size - i < 3 ? size - i : 3;
        uint32_t word = (uint32_t) bytes[i] << 16;

        word |= there > 1 ? (uint32_t) bytes[i + 1] << 8 : 0;
        word |= there > 2 ? (uint32_t) bytes[i + 2] : 0;
        *out++ = alphabet[word >> 18];
        *out++ = alphabet[(word >> 12) & 63];
        *out++ = there > 1 ? alphabet[(word >> 6) & 63] : '=';
        *out++ = there > 2 ? alphabet[word & 63] : '=';
    }
    *out = '\0';
    return text;
}

static int base64_digit(char c) {
    const char *found = c ? strchr(alphabet, c) : NULL;

    return found ? (int) (found - alphabet) : -1;
}

ssize_t base64_decode(const char *text, uint8_t *ret_data, size_t limit) {
    size_t length = strlen(text), size = 0;

    if (length % 4 != 0)
        return -EINVAL;
    for (size_t i = 0; i < length; i += 4) {
        bool last = i + 4 == length;
        size_t padding =
            last ? (size_t) (text[i + 3] == '=') + (text[i + 2] == '=' && text[i + 3] == '=') : 0;
        uint32_t group = 0;

        for (size_t j = 0; j < 4; j++) {
            int digit = j >= 4 - padding ? 0 : base64_digit(text[i + j]);
            if (digit < 0)
                return -EINVAL;
            group = group << 6 | (uint32_t) digit;
        }
        for (size_t j = 0; j < 3 - padding; j++) {
            if (size == limit)
                return -EINVAL;
            ret_data[size++] = (uint8_t) (group >> (16 - 8 * j));
        }
    }
    return (ssize_t) size;
}
