// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Standard base64 with padding, strict. */

/* Allocated text; NULL when out of memory. */
char *base64_encode(const void *data, size_t size);
/* At most `limit` decoded bytes. Returns the decoded size or -EINVAL. */
ssize_t base64_decode(const char *text, uint8_t *ret_data, size_t limit);
