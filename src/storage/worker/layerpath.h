// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "report.h"
#include "tarcheck.h"

/* What the name of a layer's entry means. */
enum layer_path_kind {
    LAYER_PATH_ROOT,     /* "." or "./": the layer's own directory */
    LAYER_PATH_ENTRY,    /* an ordinary entry */
    LAYER_PATH_WHITEOUT, /* DIR/.wh.NAME: `name` is NAME, which lower layers lose */
    LAYER_PATH_OPAQUE,   /* DIR/.wh..wh..opq: DIR hides what lower layers hold in it; name is "" */
    LAYER_PATH_SKIP,     /* other .wh..wh. files: bookkeeping of AUFS */
};

#define LAYER_DEPTH_MAX 256
#define LAYER_NAME_MAX 255

struct layer_path {
    enum layer_path_kind kind;
    char parent[TAR_PATH_MAX +
                1]; /* clean: no "", ".", "..", no slash at either end; "" = the layer's directory */
    char name[LAYER_NAME_MAX + 1];
};

/* Takes a path from an archive apart. Refuses absolute paths, "..", too long names and too many levels. */
int layer_path_parse(const char *text, struct layer_path *ret, struct failure *failure);
