// SPDX-License-Identifier: GPL-2.0-or-later
/* Request heads, paths and queries. The first byte says where the bytes are cut, since the verdict must not depend on
 * how they come. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/head.h"
#include "api/route.h"
#include "base/buffer.h"
#include "base/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static long check_in_pieces(const char *text, size_t size, size_t piece) {
    struct head head = { 0 };
    long length = 0;

    for (size_t end = piece; length == 0; end += piece) {
        if (end > size)
            end = size;
        length = head_check(&head, text, end, NULL);
        if (end == size)
            break;
    }
    return length;
}

static void try_address(const char *text) {
    _cleanup_free_ char *path = strdup(text);
    _cleanup_buffer_ struct buffer allow = BUFFER_INIT;
    _cleanup_error_ struct error error = ERROR_INIT;
    char *parameters[PATH_PARAMETERS_MAX] = { 0 };
    const struct route *route = NULL;
    char *query = strchr(path, '?');
    void *decoded = NULL;

    if (query)
        *query++ = '\0';
    if (path[0] == '/' && route_find("GET", path, parameters, &route, &allow, &error) == 0 &&
        query_decode(route->query, query, &decoded, &error) == 0 && decoded)
        table_done(route->query, decoded);
    free(decoded);
    for (size_t i = 0; i < PATH_PARAMETERS_MAX; i++)
        free(parameters[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    _cleanup_free_ char *text = NULL, *target = NULL;
    long whole, pieces;
    char *blank;

    if (size < 2)
        return 0;
    text = malloc(size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    whole = check_in_pieces(text, size - 1, size);
    pieces = check_in_pieces(text, size - 1, (size_t) data[0] + 1);
    if ((whole < 0) != (pieces < 0) || (whole > 0 && whole != pieces))
        abort();
    blank = strchr(text, ' ');
    target = strndup(blank ? blank + 1 : text, blank ? strcspn(blank + 1, " \r\n") : size);
    if (target)
        try_address(target);
    return 0;
}
