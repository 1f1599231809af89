// SPDX-License-Identifier: GPL-2.0-or-later
/* Finding the row for a method and a path. A path is decoded once, piece by piece, after it was split at its raw
 * slashes; a piece that hides a slash, a NUL or dots is refused, so that no two readers see different paths. */
#include "api/route.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define PATH_PIECE_MAX 1024

const struct route *route_next(size_t *position) {
    static const struct route *const tables[] = { instance_routes, stream_routes,    file_routes,
                                                  image_routes,    operation_routes, node_routes,
                                                  queue_routes,    optimize_routes };
    size_t left = *position;

    for (size_t i = 0; i < ELEMENTS(tables); i++) {
        size_t count = 0;
        while (tables[i][count].method)
            count++;
        if (left < count) {
            (*position)++;
            return &tables[i][left];
        }
        left -= count;
    }
    return NULL;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int path_decode(const char *text, size_t size, bool slashes, bool plus, char **ret, struct error *error) {
    _cleanup_free_ char *decoded = NULL;
    size_t length = 0;

    if (size > (plus ? (size_t) HEAD_LINE_MAX : PATH_PIECE_MAX))
        return error_set(error, ERROR_BAD_REQUEST, "a piece of the address is longer than 1024 bytes");
    decoded = malloc(size + 1);
    if (!decoded)
        return error_set(error, ERROR_NO_MEMORY, "");
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < size ? hex_value(text[i + 1]) : -1, low = high < 0 ? -1 : hex_value(text[i + 2]);
            if (low < 0)
                return error_set(error, ERROR_BAD_REQUEST, "a percent sign in the address needs two hex digits");
            c = (char) (high * 16 + low);
            if (c == '/' && !slashes)
                return error_set(error, ERROR_BAD_REQUEST, "the address hides a slash");
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (c == '\0')
            return error_set(error, ERROR_BAD_REQUEST, "the address holds a NUL");
        decoded[length++] = c;
    }
    decoded[length] = '\0';
    if (!text_is_plain(decoded))
        return error_set(error, ERROR_BAD_REQUEST, "the address is not plain UTF-8");
    *ret = STEAL_PTR(decoded);
    return 0;
}

/* "/a//b", "/./", "/../" in any spelling: refused before anything is matched. */
static int check_path(const char *path, struct error *error) {
    const char *piece = path + 1;

    if (!strcmp(path, "/"))
        return 0;
    for (;;) {
        size_t length = strcspn(piece, "/");
        _cleanup_free_ char *decoded = NULL;
        int r = path_decode(piece, length, true, false, &decoded, error);
        if (r < 0)
            return r;
        if (!*decoded || !strcmp(decoded, ".") || !strcmp(decoded, "..") || strstr(decoded, "/../") ||
            text_starts(decoded, "../") || text_ends(decoded, "/.."))
            return error_set(error, ERROR_BAD_REQUEST, "the path holds an empty piece or dots");
        if (!piece[length])
            return 0;
        piece += length + 1;
    }
}

static bool is_greedy(const char *pattern) {
    return text_starts(pattern, "{") && pattern[strcspn(pattern, "/") - 2] == '+';
}

/* How much of `path` a greedy parameter takes: all but what the rest of the pattern names. */
static size_t greedy_length(const char *rest, const char *path) {
    size_t length = strlen(path), tail = strlen(rest);

    if (tail == 0)
        return length;
    return length > tail && strcmp(path + length - tail, rest) == 0 ? length - tail : 0;
}

int route_match(const char *pattern, const char *path, char *parameters[PATH_PARAMETERS_MAX], struct error *error) {
    const char *pieces[PATH_PARAMETERS_MAX];
    size_t lengths[PATH_PARAMETERS_MAX], count = 0;
    bool greedy = false;

    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++)
                return 0;
            continue;
        }
        greedy = is_greedy(pattern);
        pattern += strcspn(pattern, "}") + 1;
        pieces[count] = path;
        lengths[count] = greedy ? greedy_length(pattern, path) : strcspn(path, "/");
        if (lengths[count] == 0)
            return 0;
        path += lengths[count++];
    }
    if (*path)
        return 0;
    for (size_t i = 0; i < count; i++) {
        int r = path_decode(pieces[i], lengths[i], greedy, false, &parameters[i], error);
        if (r < 0)
            return r;
    }
    return 1;
}

static bool method_takes(const struct route *route, const char *method) {
    if (!strcmp(method, "HEAD"))
        return !strcmp(route->method, "GET") && !(route->flags & (ROUTE_STREAM | ROUTE_SOCKET));
    return !strcmp(route->method, method);
}

static void parameters_clear(char *parameters[PATH_PARAMETERS_MAX]) {
    for (size_t i = 0; i < PATH_PARAMETERS_MAX; i++) {
        free(parameters[i]);
        parameters[i] = NULL;
    }
}

int route_find(const char *method, const char *path, char *parameters[PATH_PARAMETERS_MAX],
               const struct route **ret, struct buffer *allow, struct error *error) {
    const struct route *route;
    size_t position = 0;
    int r = check_path(path, error);

    if (r < 0)
        return r;
    /* A greedy pattern may match what a later row with a longer tail means; rows stand in order of preference. */
    while ((route = route_next(&position))) {
        r = route_match(route->pattern, path, parameters, error);
        if (r < 0)
            return r;
        if (r == 0)
            continue;
        if (method_takes(route, method)) {
            *ret = route;
            return 0;
        }
        parameters_clear(parameters);
        buffer_addf(allow, "%s%s", allow->size ? ", " : "", route->method);
    }
    if (allow->size == 0)
        return error_set(error, ERROR_NO_ROUTE, path);
    return error_set(error, ERROR_BAD_METHOD, path, method, allow->failed ? "" : allow->data);
}

static int query_member(const struct table *table, const char *text, size_t size, uint64_t *seen, void *object,
                        struct error *error) {
    _cleanup_free_ char *name = NULL, *value = NULL;
    const char *equals = memchr(text, '=', size);
    size_t length = equals ? (size_t) (equals - text) : size;
    const struct field *field;
    int r = path_decode(text, length, true, true, &name, error);

    if (r == 0 && equals)
        r = path_decode(equals + 1, size - length - 1, true, true, &value, error);
    if (r < 0)
        return r;
    field = table ? table_find(table, name) : NULL;
    if (!field)
        return error_set(error, ERROR_UNKNOWN_FIELD, name, "the query", "");
    if (*seen & (UINT64_C(1) << (field - table->fields)))
        return error_set(error, ERROR_BAD_VALUE, name, value ? value : "", "it is given twice");
    *seen |= UINT64_C(1) << (field - table->fields);
    return table_decode_text(table, name, value ? value : "", object, error);
}

int query_decode(const struct table *table, const char *text, void **ret, struct error *error) {
    _cleanup_free_ void *object = NULL;
    uint64_t seen = 0;
    int r = 0;

    if (table) {
        object = calloc(1, table->size);
        if (!object || table_init(table, object) < 0)
            return error_set(error, ERROR_NO_MEMORY, "");
    }
    while (r == 0 && text && *text) {
        size_t length = strcspn(text, "&");
        if (length > 0)
            r = query_member(table, text, length, &seen, object, error);
        text += length + (text[length] == '&');
    }
    if (r < 0) {
        if (table)
            table_done(table, object);
        return r;
    }
    *ret = STEAL_PTR(object);
    return 0;
}
