// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/mixture.h"

#define FIRST_CHOICE 64 /* requests */
#define WHOLE 1024
#define MILLION UINT64_C(1000000)

/* The most frequent, first seen first among equals. */
static void choose_usual(struct mixture *mixture) {
    bool taken[MIXTURE_TRACKED] = { false };

    mixture->usual_count = 0;
    mixture->weight = mixture->cpus = mixture->memory = 0;
    while (mixture->usual_count < MIXTURE_USUAL) {
        unsigned best = MIXTURE_TRACKED;
        for (unsigned i = 0; i < mixture->tracked_count; i++)
            if (!taken[i] &&
                (best == MIXTURE_TRACKED || mixture->tracked[i].count > mixture->tracked[best].count))
                best = i;
        if (best == MIXTURE_TRACKED)
            break;
        taken[best] = true;
        struct mixture_size *usual = &mixture->usual[mixture->usual_count++];
        *usual = mixture->tracked[best];
        usual->count = usual->count * WHOLE / (mixture->held ? mixture->held : 1);
        mixture->weight += usual->count;
        mixture->cpus += usual->count * usual->cpus;
        mixture->memory += usual->count * usual->memory;
    }
    mixture->learnt = mixture->seen;
    mixture->version++;
}

static struct mixture_size *find_size(struct mixture *mixture, const struct shape *shape, bool add) {
    uint64_t cpus = shape->cpus / 1000, memory = shape->memory >> 20;
    unsigned at = 0;

    cpus += cpus == 0;
    memory += memory == 0;
    while (at < mixture->tracked_count &&
           (mixture->tracked[at].cpus != cpus || mixture->tracked[at].memory != memory))
        at++;
    if (at == mixture->tracked_count) {
        if (!add || at == MIXTURE_TRACKED)
            return NULL;
        mixture->tracked[mixture->tracked_count++] = (struct mixture_size){ .cpus = cpus, .memory = memory };
    }
    return &mixture->tracked[at];
}

void mixture_add(struct mixture *mixture, const struct shape *shape) {
    struct mixture_size *size = find_size(mixture, shape, true);

    mixture->seen++;
    if (size) {
        size->count++;
        mixture->held++;
    }
    if (mixture->seen >= FIRST_CHOICE && mixture->seen >= 2 * mixture->learnt)
        choose_usual(mixture);
}

void mixture_remove(struct mixture *mixture, const struct shape *shape) {
    struct mixture_size *size = find_size(mixture, shape, false);

    if (!size || size->count == 0)
        return;
    size->count--;
    mixture->held--;
}

void mixture_need(const struct mixture *mixture, const struct node *node, uint64_t *ret_need) {
    uint64_t cpus = mixture->cpus * 1000 / (node->cpus / 1000 + 1) + 1;
    uint64_t memory = mixture->memory * 1000 / ((node->memory >> 20) + 1) + 1;

    ret_need[0] = MIXTURE_NEED * cpus / (cpus + memory);
    ret_need[1] = MIXTURE_NEED - ret_need[0];
}

uint64_t mixture_unused(const struct mixture *mixture, const struct node *node, uint64_t free_cpus,
                        uint64_t free_memory) {
    uint64_t cpus = free_cpus / 1000, memory = free_memory >> 20, used_cpus = 0, used_memory = 0;
    uint64_t all_cpus = node->cpus / 1000 + 1, all_memory = (node->memory >> 20) + 1;

    if (mixture->weight == 0)
        return 0;
    for (unsigned i = 0; i < mixture->usual_count; i++) {
        const struct mixture_size *size = &mixture->usual[i];
        uint64_t fit = cpus / size->cpus, most = memory / size->memory;
        fit = (most < fit ? most : fit) * size->count;
        used_cpus += fit * size->cpus;
        used_memory += fit * size->memory;
    }
    uint64_t need[2];
    mixture_need(mixture, node, need);
    return ((cpus * mixture->weight - used_cpus) * MILLION / all_cpus * need[0] +
            (memory * mixture->weight - used_memory) * MILLION / all_memory * need[1]) /
           (MIXTURE_NEED * mixture->weight);
}
