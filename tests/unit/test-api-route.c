// SPDX-License-Identifier: GPL-2.0-or-later
/* The route table: every row is documented, takes a permission, and refuses who lacks it; paths and queries are decoded
 * once and strictly (attacks A09, A10, A12, A14, A28). */
#include "test.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/openapi.h"
#include "api/route.h"
#include "base/json.h"
#include "base/text.h"

static const struct actor nobody = { .name = "nobody", .origin = "test", .role = ROLE_NONE };
static const struct actor reader = { .name = "reader", .origin = "test", .role = ROLE_READER };
static const struct actor admin = { .name = "admin", .origin = "test", .role = ROLE_ADMIN };

/* "/v1/instances/{name}/logs" -> "/v1/instances/x/logs" */
static void example_path(const char *pattern, char *text, size_t size) {
    size_t length = 0;

    while (*pattern && length + 1 < size) {
        if (*pattern == '{') {
            text[length++] = 'x';
            pattern += strcspn(pattern, "}") + 1;
        } else {
            text[length++] = *pattern++;
        }
    }
    text[length] = '\0';
}

static void test_rows(void **state) {
    const struct route *route;
    size_t position = 0;

    while ((route = route_next(&position))) {
        assert_non_null(route->handle);
        assert_true(route->pattern[0] == '/');
        assert_true(route->permission >= 0 && route->permission < PERMISSION_COUNT);
        assert_non_null(route->summary);
        assert_true(strlen(route->summary) > 8);
        /* What changes something must not be a reader's, and must be documented by its body. */
        if (strcmp(route->method, "GET") != 0)
            assert_true(route->permission != PERMISSION_VIEW);
        if (!strcmp(route->method, "POST") || !strcmp(route->method, "PATCH"))
            assert_true(route->body || (route->flags & ROUTE_UPLOAD));
        /* Quick handlers run in the io callback: they cannot stream. */
        if (route->flags & ROUTE_QUICK)
            assert_false(route->flags & (ROUTE_STREAM | ROUTE_SOCKET | ROUTE_UPLOAD));
        for (size_t i = 0; route->query && i < route->query->count; i++)
            assert_non_null(route->query->fields[i].help);
    }
    assert_true(position > 35);
}

static enum error_code ask(const struct route *row, const struct actor *actor, const char *header, const char *value) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct request request = { .actor = actor, .method = row->method };
    char path[256];
    enum error_code code;

    example_path(row->pattern, path, sizeof(path));
    request.path = path;
    if (header)
        request.headers[request.header_count++] = (struct header){ header, value };
    (void) request_route(&request, &error);
    code = error.code;
    if (code == ERROR_NONE)
        assert_ptr_equal(request.route, row);
    request_done(&request);
    return code;
}

static void test_permissions(void **state) {
    const struct route *row;
    size_t position = 0;

    while ((row = route_next(&position))) {
        enum error_code code;

        assert_int_equal(ask(row, &nobody, NULL, NULL), ERROR_UNAUTHENTICATED);
        code = ask(row, &reader, NULL, NULL);
        if (row->permission == PERMISSION_VIEW)
            assert_int_not_equal(code, ERROR_FORBIDDEN);
        else
            assert_int_equal(code, ERROR_FORBIDDEN);
        code = ask(row, &admin, NULL, NULL);
        assert_true(code != ERROR_FORBIDDEN && code != ERROR_UNAUTHENTICATED);
        /* A page in a browser gets nowhere. */
        assert_int_equal(ask(row, &admin, "Origin", "https://evil.example"), ERROR_CROSS_SITE);
        assert_int_equal(ask(row, &admin, "Origin", "null"), ERROR_CROSS_SITE);
        assert_int_equal(ask(row, &admin, "Sec-Fetch-Site", "cross-site"), ERROR_CROSS_SITE);
        assert_int_equal(ask(row, &admin, "Sec-Fetch-Site", "same-origin"), ERROR_CROSS_SITE);
    }
}

static enum error_code find(const char *method, const char *path, char *ret_first, size_t size) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_buffer_ struct buffer allow = BUFFER_INIT;
    char *parameters[PATH_PARAMETERS_MAX] = { 0 };
    const struct route *route = NULL;

    (void) route_find(method, path, parameters, &route, &allow, &error);
    if (ret_first)
        snprintf(ret_first, size, "%s", parameters[0] ? parameters[0] : "");
    for (size_t i = 0; i < PATH_PARAMETERS_MAX; i++)
        free(parameters[i]);
    return error.code;
}

static void test_paths(void **state) {
    char name[128];

    assert_int_equal(find("GET", "/v1/instances/web-1", name, sizeof(name)), ERROR_NONE);
    assert_string_equal(name, "web-1");
    assert_int_equal(find("GET", "/v1/instances/w%65b", name, sizeof(name)), ERROR_NONE);
    assert_string_equal(name, "web");
    assert_int_equal(find("GET", "/v1/images/docker.io/library/x:1", name, sizeof(name)), ERROR_NONE);
    assert_string_equal(name, "docker.io/library/x:1");
    assert_int_equal(find("GET", "/v1/images/a%2Fb", name, sizeof(name)), ERROR_NONE);
    assert_string_equal(name, "a/b");
    assert_int_equal(find("POST", "/v1/images/a/b/tag", name, sizeof(name)), ERROR_NONE);
    assert_string_equal(name, "a/b");
    assert_int_equal(find("HEAD", "/v1/instances/x", NULL, 0), ERROR_NONE);
    assert_int_equal(find("HEAD", "/v1/events", NULL, 0), ERROR_BAD_METHOD);
    assert_int_equal(find("PUT", "/v1/instances", NULL, 0), ERROR_BAD_METHOD);
    assert_int_equal(find("OPTIONS", "/v1/instances", NULL, 0), ERROR_BAD_METHOD);
    assert_int_equal(find("GET", "/v2/instances", NULL, 0), ERROR_NO_ROUTE);
    assert_int_equal(find("GET", "/v1/instancesx", NULL, 0), ERROR_NO_ROUTE);
    assert_int_equal(find("GET", "/", NULL, 0), ERROR_NO_ROUTE);
}

static void test_hostile_paths(void **state) {
    static const char *const paths[] = {
        "/v1/instances/..%2f..%2fetc", "/v1/instances/a%2fb", "/v1/instances/%00", "/v1/instances/a%00b",
        "/v1//instances", "/v1/./instances", "/v1/../v1/instances", "/v1/instances/", "//v1/instances",
        "/v1/instances/%2e%2e", "/v1/instances/%2e", "/v1/instances/%c0%af", "/v1/instances/%ff",
        "/v1/instances/%e2%80%ae", "/v1/instances/%", "/v1/instances/%2", "/v1/instances/%zz", "/v1/instances/a%0d%0ab",
        "/v1/instances/%1b[2J", "/v1/images/..%2f..%2fetc%2fpasswd", "/v1/images/a%2f..%2fb", "/v1/images/a//b",
        "/v1/images/%2e%2e",
    };
    char longest[2048] = "/v1/instances/";

    for (size_t i = 0; i < ELEMENTS(paths); i++)
        if (find("GET", paths[i], NULL, 0) != ERROR_BAD_REQUEST)
            fail_msg("taken: %s", paths[i]);
    memset(longest + strlen(longest), 'x', 1500);
    assert_int_equal(find("GET", longest, NULL, 0), ERROR_BAD_REQUEST);
    /* Decoded once only: a name that holds a percent sign is no name. */
    assert_int_equal(find("GET", "/v1/instances/%252e", NULL, 0), ERROR_NONE);
}

static const struct table *query_of(const char *method, const char *pattern) {
    const struct route *route;
    size_t position = 0;

    while ((route = route_next(&position)))
        if (!strcmp(route->method, method) && !strcmp(route->pattern, pattern))
            return route->query;
    return NULL;
}

static void test_queries(void **state) {
    static const struct {
        const char *text;
        enum error_code code;
    } queries[] = {
        { NULL, ERROR_NONE },
        { "", ERROR_NONE },
        { "limit=5&name=we%62&deleted=true", ERROR_NONE },
        { "deleted", ERROR_NONE },
        { "limit=-1", ERROR_OUT_OF_RANGE },
        { "limit=999999999999", ERROR_OUT_OF_RANGE },
        { "limit=x", ERROR_BAD_VALUE },
        { "limit=1&limit=2", ERROR_BAD_VALUE },
        { "limits=1", ERROR_UNKNOWN_FIELD },
        { "name=%00", ERROR_BAD_REQUEST },
        { "name=%0a", ERROR_BAD_REQUEST },
        { "name=%e2%80%ae", ERROR_BAD_REQUEST },
        { "=x", ERROR_UNKNOWN_FIELD },
        { "label=%25%27%20OR%201%3D1--", ERROR_NONE },
    };
    const struct table *table = query_of("GET", "/v1/instances");

    assert_non_null(table);
    for (size_t i = 0; i < ELEMENTS(queries); i++) {
        _cleanup_error_ struct error error = ERROR_INIT;
        void *query = NULL;
        (void) query_decode(table, queries[i].text, &query, &error);
        if (error.code != queries[i].code)
            fail_msg("%s: %s", queries[i].text, error_wire(error.code));
        if (query) {
            table_done(table, query);
            free(query);
        }
    }
}

static void test_description(void **state) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    _cleanup_json_ struct json_object *json = NULL;
    const struct route *route;
    size_t position = 0;

    assert_int_equal(openapi_build(&text), 0);
    assert_int_equal(json_parse(text.data, text.size, &json, NULL), 0);
    assert_string_equal(json_text(json, "openapi", ""), "3.1.0");
    /* Every row is in it. */
    while ((route = route_next(&position))) {
        _cleanup_free_ char *path = strdup(route->pattern), *method = strdup(route->method);
        char *plus = strchr(path, '+');
        if (plus)
            memmove(plus, plus + 1, strlen(plus));
        for (char *c = method; *c; c++)
            *c = (char) (*c | 0x20);
        assert_non_null(json_member(json_member(json_member(json, "paths"), path), method));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),  cmocka_unit_test(test_permissions),   cmocka_unit_test(test_paths),
        cmocka_unit_test(test_hostile_paths), cmocka_unit_test(test_queries), cmocka_unit_test(test_description),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
