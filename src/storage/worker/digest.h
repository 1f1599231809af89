// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <nettle/sha2.h>
#include <stdbool.h>
#include <stddef.h>

/* "sha256:" + 64 hex digits + NUL */
#define DIGEST_TEXT_SIZE 72

/* True for "sha256:" followed by exactly 64 lower-case hex digits. */
bool digest_is_valid(const char *text);
/* Ends the computation and resets the context. */
void digest_finish(struct sha256_ctx *context, char text[DIGEST_TEXT_SIZE]);
