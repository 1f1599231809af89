// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/cleanup.h"
#include "engine/engine.h"

/* The engine's state at one moment, for those who think about it for longer than others should wait for the engine: taken beside
 * the engine, then looked at on any thread, whatever becomes of the engine meanwhile. So that taking it is quick where 10,000 wait,
 * texts are shared with the engine, and the memory is got before, also on any thread: some 400 bytes for each that is in it. */
struct engine_copy;
/* How much memory a copy takes: of all; or, where more than `most` wait in the queue's order, of the first `most` of these and of
 * those that run. */
size_t engine_copy_size(const struct engine *engine, size_t most);
/* An empty one with that much memory. -ENOMEM. */
int engine_copy_prepare(size_t size, struct engine_copy **ret);
/* Fills an empty one. -ENOBUFS: it takes more memory by now. -ENOMEM. */
int engine_copy_take(struct engine_copy *copy, const struct engine *engine, size_t most);
/* All at once. -ENOMEM. */
int engine_copy_new(const struct engine *engine, size_t most, struct engine_copy **ret);
void engine_copy_free(struct engine_copy *copy);
DEFINE_CLEANUP(struct engine_copy *, engine_copy_free)
#define _cleanup_copy_ _cleanup_(engine_copy_freep)
/* As an engine, for engine_foresee, engine_suppose and engine_suppose_place alone. */
const struct engine *engine_copy_view(const struct engine_copy *copy);
