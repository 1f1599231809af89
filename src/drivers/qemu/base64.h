// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Standard base64 with padding. */

/* Allocated text; NULL when out of memory. */
char *base64_encode(const void *data, size_t size);
/* Decodes into ret, which holds at least 3 bytes for every 4 characters; the decoded size or -EINVAL. */
long base64_decode(const char *text, size_t size, void *ret);
