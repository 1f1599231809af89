// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/copy.h"
#include "engine/engine-internal.h"
#include "engine/queue.h"

struct engine_copy {
    struct engine engine; /* with an image of the queue and a place of its own; no map, predictor, decisions or ledger */
    struct engine_entry *entries;
    size_t entry_count, size;
    _Alignas(QUEUE_IMAGE_ALIGN) char memory[]; /* entries, then the queue */
};
