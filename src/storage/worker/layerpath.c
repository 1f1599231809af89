// SPDX-License-Identifier: GPL-2.0-or-later
#include "layerpath.h"

#include <errno.h>
#include <string.h>

#define WHITEOUT ".wh."
#define WHITEOUT_META ".wh..wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"

static bool has_prefix(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* `name` becomes part of parent; the component after it is the entry's name. */
static void push_parent(struct layer_path *path, size_t *used) {
    if (path->name[0] == 0)
        return;
    size_t length = strlen(path->name);
    if (*used > 0)
        path->parent[(*used)++] = '/';
    memcpy(path->parent + *used, path->name, length + 1);
    *used += length;
}

static int check_component(const char *text, const char *component, size_t length, struct failure *failure) {
    if (length == 2 && memcmp(component, "..", 2) == 0)
        return fail(failure, FAILURE_PATH_UNSAFE, text, "the path leaves the image through '..'");
    if (length > LAYER_NAME_MAX)
        return fail(failure, FAILURE_PATH_TOO_LONG, text, "a name of %zu bytes is longer than %d", length,
                    LAYER_NAME_MAX);
    return 0;
}

static int classify(const char *text, struct layer_path *path, struct failure *failure) {
    path->kind = path->name[0] ? LAYER_PATH_ENTRY : LAYER_PATH_ROOT;
    if (has_prefix(path->parent, WHITEOUT) || strstr(path->parent, "/" WHITEOUT))
        return fail(failure, FAILURE_WHITEOUT_INVALID, text, "an entry beneath a whiteout");
    if (!has_prefix(path->name, WHITEOUT))
        return 0;
    if (has_prefix(path->name, WHITEOUT_META)) {
        bool is_opaque = strcmp(path->name, WHITEOUT_OPAQUE) == 0;
        path->kind = is_opaque ? LAYER_PATH_OPAQUE : LAYER_PATH_SKIP;
        path->name[0] = 0;
        return 0;
    }
    memmove(path->name, path->name + strlen(WHITEOUT), strlen(path->name) - strlen(WHITEOUT) + 1);
    path->kind = LAYER_PATH_WHITEOUT;
    if (!path->name[0] || strcmp(path->name, ".") == 0 || strcmp(path->name, "..") == 0)
        return fail(failure, FAILURE_WHITEOUT_INVALID, text, "a whiteout of no name");
    return 0;
}

int layer_path_parse(const char *text, struct layer_path *ret, struct failure *failure) {
    size_t used = 0, depth = 0;
    ret->kind = LAYER_PATH_ENTRY;
    ret->parent[0] = ret->name[0] = 0;
    if (strlen(text) > TAR_PATH_MAX)
        return fail(failure, FAILURE_PATH_TOO_LONG, text, "longer than %d bytes", TAR_PATH_MAX);
    if (text[0] == 0)
        return fail(failure, FAILURE_PATH_UNSAFE, text, "an entry without a name");
    if (text[0] == '/')
        return fail(failure, FAILURE_PATH_UNSAFE, text, "the path is absolute");
    for (const char *at = text; *at;) {
        size_t length = strcspn(at, "/");
        bool is_named = length > 0 && !(length == 1 && at[0] == '.');
        if (check_component(text, at, length, failure) < 0)
            return -EBADMSG;
        if (is_named) {
            if (++depth > LAYER_DEPTH_MAX)
                return fail(failure, FAILURE_PATH_TOO_LONG, text, "more than %d levels", LAYER_DEPTH_MAX);
            push_parent(ret, &used);
            memcpy(ret->name, at, length);
            ret->name[length] = 0;
        }
        at += length;
        at += strspn(at, "/");
    }
    return classify(text, ret, failure);
}
