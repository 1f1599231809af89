// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/scarcity.h"

#include <string.h>

static void learn_models(struct scarcity *scarcity, uint64_t models, uint64_t gpu) {
    unsigned at = 0;

    while (at < scarcity->mask_count && scarcity->masks[at].models != models)
        at++;
    if (at == SCARCITY_MASKS)
        return;
    if (at == scarcity->mask_count)
        scarcity->mask_count++;
    scarcity->masks[at].models = models;
    scarcity->masks[at].gpu += gpu;
    scarcity->models |= models;
}

void scarcity_learn(struct scarcity *scarcity, const struct fragments *fragments) {
    *scarcity = (struct scarcity){ .version = scarcity->version + 1 };
    for (unsigned i = 0; i < fragments->count; i++) {
        const struct fragment_spec *spec = &fragments->specs[i];
        uint64_t gpu = (uint64_t) spec->weight * spec->gpus * spec->gpu_milli;
        if (gpu == 0)
            continue;
        scarcity->gpu += gpu;
        scarcity->cpus += spec->weight * spec->cpus;
        scarcity->memory += spec->weight * spec->memory;
        if (spec->gpu_models)
            learn_models(scarcity, spec->gpu_models, gpu);
    }
}

/* The sums are exact (below 2^53); additions and divisions are rounded alike everywhere. */
void scarcity_update(struct scarcity *scarcity, const struct nodes *nodes) {
    double pressure[GPU_MODELS_MAX] = { 0 }, idle = 0;
    uint8_t price[GPU_MODELS_MAX] = { 0 };

    if (scarcity->mask_count == 0)
        return;
    for (unsigned model = 0; model < GPU_MODELS_MAX; model++)
        idle += (double) nodes_model_free(nodes, model);
    for (unsigned i = 0; i < scarcity->mask_count; i++) {
        uint64_t models = scarcity->masks[i].models;
        double free = 0;
        for (uint64_t rest = models; rest; rest &= rest - 1)
            free += (double) nodes_model_free(nodes, (unsigned) __builtin_ctzll(rest));
        for (uint64_t rest = models; rest && free > 0; rest &= rest - 1)
            pressure[__builtin_ctzll(rest)] += (double) scarcity->masks[i].gpu / free;
    }
    for (uint64_t rest = scarcity->models; rest; rest &= rest - 1) {
        unsigned model = (unsigned) __builtin_ctzll(rest);
        double share = pressure[model] * idle / (double) scarcity->gpu;
        share = share > 1 ? 1 : share * share;
        price[model] = (uint8_t) (share * SCARCITY_WHOLE + 0.5);
    }
    if (memcmp(price, scarcity->price, sizeof(price)) == 0)
        return;
    memcpy(scarcity->price, price, sizeof(price));
    scarcity->version++;
}
