// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/base64.h"

#include <errno.h>
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

static int digit_value(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

long base64_decode(const char *text, size_t size, void *ret) {
    uint8_t *out = ret;
    size_t padding = 0;

    if (size % 4 != 0)
        return -EINVAL;
    while (padding < 2 && size > 0 && text[size - 1 - padding] == '=')
        padding++;
    for (size_t i = 0; i < size; i += 4) {
        uint32_t word = 0;
        size_t digits = i + 4 == size ? 4 - padding : 4;

        for (size_t k = 0; k < 4; k++) {
            int value = k < digits ? digit_value(text[i + k]) : 0;
            if (value < 0)
                return -EINVAL;
            word = word << 6 | (uint32_t) value;
        }
        *out++ = (uint8_t) (word >> 16);
        if (digits > 2)
            *out++ = (uint8_t) (word >> 8);
        if (digits > 3)
            *out++ = (uint8_t) word;
    }
    return out - (uint8_t *) ret;
}
