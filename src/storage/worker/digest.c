// SPDX-License-Identifier: GPL-2.0-or-later
#include "digest.h"

#include <string.h>

static const char hex_digits[] = "0123456789abcdef";
static const char prefix[] = "sha256:";

bool digest_is_valid(const char *text) {
    size_t skip = sizeof(prefix) - 1;
    if (strncmp(text, prefix, skip) != 0)
        return false;
    return strlen(text + skip) == 2 * SHA256_DIGEST_SIZE &&
           strspn(text + skip, hex_digits) == 2 * SHA256_DIGEST_SIZE;
}

void digest_finish(struct sha256_ctx *context, char text[DIGEST_TEXT_SIZE]) {
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(context, sizeof(digest), digest);
    memcpy(text, prefix, sizeof(prefix));
    char *end = text + sizeof(prefix) - 1;
    for (size_t i = 0; i < sizeof(digest); i++) {
        *end++ = hex_digits[digest[i] >> 4];
        *end++ = hex_digits[digest[i] & 15];
    }
    *end = 0;
}
