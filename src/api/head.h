// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* The raw bytes of a request head, checked strictly before the HTTP parser sees them. The parser is lenient where
 * servers and proxies are known to disagree (bare LF, folded lines, a blank before the colon, repeated lengths), so what
 * two readers could understand differently is refused here. */

#define HEAD_LINE_MAX (8 * 1024)
#define HEAD_SIZE_MAX (64 * 1024)
#define HEAD_HEADERS_MAX 100

/* Where the check stands; zeroed at the start of each request. */
struct head {
    size_t offset;       /* of the line that is not complete yet */
    unsigned lines;      /* complete lines so far */
    bool has_length;     /* Content-Length was seen */
    bool has_encoding;   /* Transfer-Encoding was seen */
    bool is_old;         /* HTTP/1.0 */
    unsigned seen;       /* bits of the headers that may stand only once */
};

/* data: all bytes of the head so far. Returns the length of the head with its empty line, 0 if more bytes are needed,
 * or negative errno. Errors: BAD_REQUEST, HEADERS_TOO_LARGE. */
long head_check(struct head *head, const char *data, size_t size, struct error *error);
