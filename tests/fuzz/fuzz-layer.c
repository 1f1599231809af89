// SPDX-License-Identifier: GPL-2.0-or-later
/* Any bytes as the stream of a layer: the gate must not depend on how the stream is cut into pieces, and no
 * path that it lets through may leave the layer's directory. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "storage/worker/layerpath.h"
#include "storage/worker/tarcheck.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
    int code;
    uint64_t entries;
};

static void check_component(const char *at, size_t length) {
    assert(length > 0 && length <= LAYER_NAME_MAX);
    assert(!(length == 1 && at[0] == '.'));
    assert(!(length == 2 && memcmp(at, "..", 2) == 0));
}

static void check_path(const char *text) {
    struct layer_path path;
    struct failure failure = { 0 };
    if (layer_path_parse(text, &path, &failure) < 0)
        return;
    for (const char *at = path.parent; *at;) {
        size_t length = strcspn(at, "/");
        check_component(at, length);
        at += length;
        if (*at)
            assert(*++at);
    }
    assert(!strchr(path.name, '/'));
    if (path.kind == LAYER_PATH_ENTRY || path.kind == LAYER_PATH_WHITEOUT)
        check_component(path.name, strlen(path.name));
    else
        assert(path.name[0] == 0);
}

static struct outcome run(const uint8_t *data, size_t size, size_t piece) {
    struct tarcheck check;
    struct tar_fact fact;
    struct failure failure = { 0 };
    int r = 0;
    tarcheck_init(&check);
    for (size_t at = 0; at < size && r == 0; at += piece)
        r = tarcheck_feed(&check, data + at, size - at < piece ? size - at : piece, &failure);
    if (r == 0)
        tarcheck_finish(&check, true, &failure);
    struct outcome outcome = { failure.code, check.entries };
    while (tarcheck_take_fact(&check, &fact)) {
        assert(strlen(fact.path) <= TAR_PATH_MAX && fact.size <= TAR_SIZE_MAX);
        check_path(fact.path);
        check_path(fact.link);
        tar_fact_done(&fact);
    }
    tarcheck_done(&check);
    return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct outcome whole = run(data, size, size ? size : 1);
    struct outcome pieces = run(data, size, 7);
    assert(whole.code == pieces.code && whole.entries == pieces.entries);
    if (size < TAR_PATH_MAX && !memchr(data, 0, size)) {
        char text[TAR_PATH_MAX + 1];
        memcpy(text, data, size);
        text[size] = 0;
        check_path(text);
    }
    return 0;
}
