// SPDX-License-Identifier: GPL-2.0-or-later
#include "api/head.h"

#include <string.h>
#include <strings.h>

#include "base/cleanup.h"

/* Headers that may stand only once: two of them would let two readers see two requests. */
static const char *const single_headers[] = {
    "Content-Length", "Transfer-Encoding", "Host",     "Content-Type",    "Connection",
    "Upgrade",        "Authorization",     "If-Match", "Idempotency-Key", "Expect",
    "Origin",         "Sec-Fetch-Site",    "Sec-WebSocket-Key",
};

static bool is_token(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int refuse(struct error *error, const char *why) {
    return error_set(error, ERROR_BAD_REQUEST, why);
}

static int too_large(struct error *error, const char *what) {
    return error_set(error, ERROR_HEADERS_TOO_LARGE, what);
}

/* "METHOD SP target SP HTTP/1.x", printable ASCII, single blanks. */
static int check_request_line(struct head *head, const char *line, size_t length, struct error *error) {
    unsigned blanks = 0;

    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char) line[i];
        if (c == ' ')
            blanks++;
        else if (c < 0x21 || c > 0x7e)
            return refuse(error, "the request line holds a byte that must be percent-encoded");
    }
    if (blanks != 2 || line[0] == ' ')
        return refuse(error, "the request line is not 'METHOD path HTTP/1.1'");
    if (length < 9 || (memcmp(line + length - 9, " HTTP/1.1", 9) != 0 && memcmp(line + length - 9, " HTTP/1.0", 9) != 0))
        return refuse(error, "only HTTP/1.1 is spoken here");
    head->is_old = line[length - 1] == '0';
    return 0;
}

static int check_single(struct head *head, const char *name, size_t length, struct error *error) {
    for (unsigned i = 0; i < ELEMENTS(single_headers); i++) {
        if (strlen(single_headers[i]) != length || strncasecmp(single_headers[i], name, length) != 0)
            continue;
        if (head->seen & (1U << i))
            return refuse(error, "a header that may stand only once is repeated");
        head->seen |= 1U << i;
        head->has_length |= i == 0;
        head->has_encoding |= i == 1;
        return 0;
    }
    return 0;
}

static int check_framing(const struct head *head, const char *value, size_t length, bool is_length,
                         struct error *error) {
    if (!is_length) {
        if (head->is_old)
            return refuse(error, "HTTP/1.0 has no Transfer-Encoding");
        return length == 7 && strncasecmp(value, "chunked", 7) == 0
                   ? 0 : refuse(error, "the only Transfer-Encoding is chunked");
    }
    if (length == 0 || length > 18)
        return refuse(error, "Content-Length is not a number");
    for (size_t i = 0; i < length; i++)
        if (value[i] < '0' || value[i] > '9')
            return refuse(error, "Content-Length is not a number");
    return 0;
}

static int check_header(struct head *head, const char *line, size_t length, struct error *error) {
    const char *colon = memchr(line, ':', length), *value;
    size_t name;
    int r;

    if (!colon || colon == line)
        return refuse(error, "a header line has no name");
    name = (size_t) (colon - line);
    for (size_t i = 0; i < name; i++)
        if (!is_token((unsigned char) line[i]))
            return refuse(error, "a header name holds a character that names do not have");
    value = colon + 1;
    length -= name + 1;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char) value[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return refuse(error, "a header value holds a control character");
    }
    while (length > 0 && (*value == ' ' || *value == '\t'))
        value++, length--;
    while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t'))
        length--;
    r = check_single(head, line, name, error);
    if (r < 0)
        return r;
    if (name == 14 && strncasecmp(line, "Content-Length", name) == 0)
        return check_framing(head, value, length, true, error);
    if (name == 17 && strncasecmp(line, "Transfer-Encoding", name) == 0)
        return check_framing(head, value, length, false, error);
    return 0;
}

static int check_line(struct head *head, const char *line, size_t length, struct error *error) {
    if (head->lines == 0)
        return check_request_line(head, line, length, error);
    if (head->lines > HEAD_HEADERS_MAX)
        return too_large(error, "at most 100 headers");
    return check_header(head, line, length, error);
}

long head_check(struct head *head, const char *data, size_t size, struct error *error) {
    while (head->offset < size) {
        const char *line = data + head->offset;
        const char *end = memchr(line, '\n', size - head->offset);
        size_t length = end ? (size_t) (end - line) : size - head->offset;
        int r;

        if (length > HEAD_LINE_MAX)
            return too_large(error, "a line has at most 8 KiB");
        if (head->offset + length > HEAD_SIZE_MAX)
            return too_large(error, "at most 64 KiB together");
        if (!end)
            return 0;
        if (length == 0 || line[length - 1] != '\r')
            return refuse(error, "a header line does not end with CR LF");
        head->offset += length + 1;
        length--;
        if (length == 0 && head->lines > 0) {
            if (head->has_length && head->has_encoding)
                return refuse(error, "Content-Length and Transfer-Encoding exclude each other");
            return (long) head->offset;
        }
        r = check_line(head, line, length, error);
        if (r < 0)
            return r;
        head->lines++;
    }
    return 0;
}
