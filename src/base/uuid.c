// SPDX-License-Identifier: GPL-2.0-or-later
#include "base/uuid.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

/* Without random numbers nothing may be named or keyed: getrandom fails only for bad arguments or under a
 * filter that forbids it, so ending the process is the one honest answer. */
void random_bytes(void *data, size_t size) {
    unsigned char *p = data;

    while (size > 0) {
        ssize_t n = getrandom(p, size, 0);

        if (n < 0) {
            if (errno == EINTR)
                continue;
            abort();
        }
        p += n;
        size -= (size_t) n;
    }
}

static char hex_digit(unsigned value) {
    return "0123456789abcdef"[value & 15];
}

void random_hex(char *text, size_t count) {
    unsigned char byte;

    for (size_t i = 0; i < count; i++) {
        random_bytes(&byte, 1);
        *text++ = hex_digit(byte >> 4);
        *text++ = hex_digit(byte);
    }
    *text = '\0';
}

static bool is_dash(unsigned position) {
    return position == 8 || position == 13 || position == 18 || position == 23;
}

void uuid_new(char text[UUID_TEXT_SIZE]) {
    unsigned char bytes[16];
    unsigned nibble = 0;

    random_bytes(bytes, sizeof(bytes));
    bytes[6] = (bytes[6] & 0x0f) | 0x40; /* version 4 */
    bytes[8] = (bytes[8] & 0x3f) | 0x80; /* variant of RFC 9562 */
    for (unsigned i = 0; i < UUID_TEXT_SIZE - 1; i++) {
        if (is_dash(i)) {
            text[i] = '-';
            continue;
        }
        text[i] = hex_digit(bytes[nibble / 2] >> (nibble % 2 ? 0 : 4));
        nibble++;
    }
    text[UUID_TEXT_SIZE - 1] = '\0';
}

bool uuid_is_valid(const char *text) {
    for (unsigned i = 0; i < UUID_TEXT_SIZE - 1; i++) {
        char c = text[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');

        if (is_dash(i) ? c != '-' : !hex)
            return false;
    }
    return text[UUID_TEXT_SIZE - 1] == '\0';
}
