// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/fragments.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void fragments_done(struct fragments *fragments) {
    free(fragments->specs);
    *fragments = (struct fragments){ 0 };
}

int fragments_add(struct fragments *fragments, const struct shape *shape) {
    struct fragment_spec *spec;

    for (spec = fragments->specs; spec < fragments->specs + fragments->count; spec++)
        if (spec->cpus == shape->cpus && spec->gpus == shape->gpus && spec->gpu_milli == shape->gpu_milli &&
            spec->gpu_models == shape->gpu_models)
            break;
    if (spec == fragments->specs + fragments->count) {
        if (fragments->count == fragments->room) {
            unsigned room = fragments->room ? fragments->room * 2 : 64;
            struct fragment_spec *specs = reallocarray(fragments->specs, room, sizeof(*specs));
            if (!specs)
                return -ENOMEM;
            fragments->specs = specs;
            fragments->room = room;
        }
        spec = &fragments->specs[fragments->count++];
        *spec = (struct fragment_spec){ .cpus = shape->cpus,
                                        .memory = shape->memory,
                                        .gpus = shape->gpus,
                                        .gpu_milli = shape->gpu_milli,
                                        .gpu_models = shape->gpu_models };
    }
    spec->weight++;
    fragments->weight++;
    return 0;
}

void fragments_keep(struct fragments *fragments, unsigned percent) {
    uint64_t kept = 0, wanted = fragments->weight * percent;
    unsigned count = 0;

    /* Insertion keeps equals in order; there are hundreds. */
    for (unsigned i = 1; i < fragments->count; i++) {
        struct fragment_spec spec = fragments->specs[i];
        unsigned at = i;
        for (; at > 0 && fragments->specs[at - 1].weight < spec.weight; at--)
            fragments->specs[at] = fragments->specs[at - 1];
        fragments->specs[at] = spec;
    }
    while (count < fragments->count && kept * 100 < wanted)
        kept += fragments->specs[count++].weight;
    fragments->count = count;
    fragments->weight = kept;
}

void fragment_state_of(const struct node *node, struct fragment_state *ret) {
    ret->cpus = node->free_cpus;
    memcpy(ret->gpu_free, node->gpu_free, sizeof(ret->gpu_free));
    ret->gpu_free_total = node->gpu_free_total;
    ret->gpus = node->gpus;
    ret->gpu_model = node->gpu_model;
}

int64_t fragments_amount(const struct fragments *fragments, const struct fragment_state *state) {
    int64_t amount = 0;

    if (state->gpu_free_total == 0)
        return 0;
    for (unsigned i = 0; i < fragments->count; i++) {
        const struct fragment_spec *spec = &fragments->specs[i];
        uint32_t lost = state->gpu_free_total;

        if (spec->gpus > 0 && spec->cpus <= state->cpus &&
            (spec->gpu_models == 0 || (spec->gpu_models >> state->gpu_model & 1))) {
            uint32_t enough = 0, small = 0;
            for (unsigned gpu = 0; gpu < state->gpus; gpu++) {
                bool fits = state->gpu_free[gpu] >= spec->gpu_milli;
                enough += fits;
                small += fits ? 0 : state->gpu_free[gpu];
            }
            if (enough >= spec->gpus)
                lost = small;
        }
        amount += (int64_t) spec->weight * lost;
    }
    return amount;
}
