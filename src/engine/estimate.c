// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/estimate.h"

#include <errno.h>
#include <string.h>

#define SHARE_ONE 65536 /* of a request, as a fraction of 2^16 */

const char *const estimate_names[ESTIMATE_COUNT + 1] = { "requested", "actual", "predicted", "history", NULL };

/* What is known of an owner (class 0), or of an owner's runs of one request (class = a digest of the request). */
struct history {
    uint64_t owner, class;
    int64_t last, before; /* -1: none yet */
    int64_t share;        /* moving mean of run / request, in 2^-16; -1: none yet */
    uint32_t count;
};

struct predictor {
    enum estimate kind;
    struct history *table; /* open addressing; count 0 and owner/class 0 marks an empty place by `last` == -2 */
    size_t count, size;
};

int predictor_new(enum estimate kind, struct predictor **ret) {
    struct predictor *predictor = calloc(1, sizeof(*predictor));

    if (!predictor)
        return -ENOMEM;
    predictor->kind = kind;
    *ret = predictor;
    return 0;
}

void predictor_free(struct predictor *predictor) {
    if (!predictor)
        return;
    free(predictor->table);
    free(predictor);
}

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
    return value ^ value >> 31;
}

static uint64_t class_of(uint64_t cpus, int64_t requested) {
    return mix(mix((uint64_t) requested) + cpus) | 1;
}

static struct history *place(const struct predictor *predictor, uint64_t owner, uint64_t class) {
    size_t mask = predictor->size - 1, at = mix(owner * 3 + class) & mask;

    while (predictor->table[at].last != -2 &&
           (predictor->table[at].owner != owner || predictor->table[at].class != class))
        at = (at + 1) & mask;
    return &predictor->table[at];
}

static const struct history *find(const struct predictor *predictor, uint64_t owner, uint64_t class) {
    const struct history *history;

    if (predictor->size == 0)
        return NULL;
    history = place(predictor, owner, class);
    return history->last == -2 ? NULL : history;
}

static int grow(struct predictor *predictor) {
    struct predictor old = *predictor;
    size_t size = old.size ? old.size * 2 : 256;
    struct history *table = malloc(size * sizeof(*table));

    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i < size; i++)
        table[i].last = -2;
    predictor->table = table;
    predictor->size = size;
    for (size_t i = 0; i < old.size; i++)
        if (old.table[i].last != -2)
            *place(predictor, old.table[i].owner, old.table[i].class) = old.table[i];
    free(old.table);
    return 0;
}

static int note(struct predictor *predictor, uint64_t owner, uint64_t class, int64_t requested, int64_t run) {
    struct history *history;
    int64_t share = requested > 0 ? run * SHARE_ONE / requested : SHARE_ONE;

    if (predictor->count * 2 >= predictor->size && grow(predictor) < 0)
        return -ENOMEM;
    history = place(predictor, owner, class);
    if (history->last == -2) {
        *history = (struct history){ .owner = owner, .class = class, .last = -1, .before = -1, .share = share };
        predictor->count++;
    }
    history->before = history->last;
    history->last = run;
    history->share += (share - history->share) / (history->count < 3 ? (int64_t) history->count + 1 : 4);
    history->count++;
    return 0;
}

int predictor_learn(struct predictor *predictor, uint64_t owner, uint64_t cpus, int64_t requested, int64_t run) {
    int r;

    if (predictor->kind < ESTIMATE_TSAFRIR)
        return 0;
    r = note(predictor, owner, 0, requested, run);
    if (r >= 0 && predictor->kind == ESTIMATE_HISTORY)
        r = note(predictor, owner, class_of(cpus, requested), requested, run);
    return r;
}

static int64_t clamp(int64_t value, int64_t requested) {
    if (value > requested)
        value = requested;
    return value < 1 ? 1 : value;
}

int64_t predictor_guess(const struct predictor *predictor, uint64_t owner, uint64_t cpus, int64_t requested,
                        int64_t actual) {
    const struct history *history;

    if (predictor->kind == ESTIMATE_REQUESTED)
        return requested;
    if (predictor->kind == ESTIMATE_ACTUAL)
        return clamp(actual, requested);
    if (predictor->kind == ESTIMATE_HISTORY) {
        history = find(predictor, owner, class_of(cpus, requested));
        if (history && history->count >= 2)
            return clamp(history->share * (requested / SHARE_ONE) + history->share * (requested % SHARE_ONE) / SHARE_ONE,
                         requested);
    }
    history = find(predictor, owner, 0);
    if (!history || history->before < 0)
        return requested;
    return clamp(history->last / 2 + history->before / 2 + (history->last % 2 + history->before % 2) / 2, requested);
}

int64_t estimate_correct(int64_t first, unsigned *corrections, int64_t requested, int64_t second) {
    static const int64_t steps[] = { 60,        5 * 60,    15 * 60,    30 * 60,    3600,       2 * 3600,
                                     5 * 3600, 10 * 3600, 20 * 3600, 50 * 3600, 100 * 3600 };
    int64_t next;

    if (*corrections >= ELEMENTS(steps))
        return requested;
    next = first + steps[(*corrections)++] * second;
    return next < requested ? next : requested;
}
