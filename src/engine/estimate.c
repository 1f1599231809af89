// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/estimate.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/bits.h"
#include "engine/profile.h"

#define RUN_BOUND 10          /* s; of the bounded slowdown */
#define HISTORY_LIMIT 65536   /* what is remembered unless told */
#define CLASS_RUNS 2          /* of a class without limit before it counts as something that ends */

const char *const estimate_names[ESTIMATE_COUNT + 1] = { "requested", "actual", "predicted", "history", "learning", NULL };

/* What is known of an owner (class 0), of an owner's runs of one request (class = a digest of the request) or of a named
 * class, of everybody's runs of one request, of everybody's runs. */
struct history {
    uint64_t owner, class;
    int64_t last, before; /* -1: none yet; last == -2 marks an empty place */
    double share, urgency, run; /* moving means of run / request, of 1 / max(run, 10 s), of the run time */
    uint32_t count;
    uint64_t touched;
};

struct predictor {
    enum estimate kind;
    int64_t second;
    struct history *table; /* open addressing */
    size_t count, size, most;
    uint64_t sequence;
};

/* For how many runs what is more general counts, and how many runs back each level's means remember. */
static const double predictor_strength[] = { .2, 17, 1.75, 3 }, predictor_memory[] = { 105, 80, 4, 7 };

int predictor_new(enum estimate kind, int64_t second, struct predictor **ret) {
    struct predictor *predictor = calloc(1, sizeof(*predictor));

    if (!predictor)
        return -ENOMEM;
    predictor->kind = kind;
    predictor->second = second;
    predictor->most = HISTORY_LIMIT;
    *ret = predictor;
    return 0;
}

void predictor_use(struct predictor *predictor, enum estimate kind) {
    predictor->kind = kind;
}

void predictor_bound(struct predictor *predictor, size_t most) {
    predictor->most = most;
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

enum level { LEVEL_ALL, LEVEL_REQUEST, LEVEL_OWNER, LEVEL_CLASS, LEVEL_COUNT };

struct history_key {
    uint64_t owner, class;
};

static struct history_key key_of(enum level level, const struct run_traits *traits) {
    const uint64_t request = mix((uint64_t) traits->requested);

    switch (level) {
    case LEVEL_ALL:
        return (struct history_key){ 0, 2 };
    case LEVEL_REQUEST:
        return (struct history_key){ 0, request << 2 };
    case LEVEL_OWNER:
        return (struct history_key){ traits->owner, 0 };
    default:
        return traits->class ? (struct history_key){ traits->class, 1 }
                             : (struct history_key){ traits->owner, mix(request + traits->cpus) | 1 };
    }
}

static struct history *place(const struct predictor *predictor, uint64_t owner, uint64_t class) {
    size_t mask = predictor->size - 1, at = mix(owner * 3 + class) & mask;

    while (predictor->table[at].last != -2 &&
           (predictor->table[at].owner != owner || predictor->table[at].class != class))
        at = (at + 1) & mask;
    return &predictor->table[at];
}

static const struct history *find(const struct predictor *predictor, struct history_key key) {
    const struct history *history;

    if (predictor->size == 0)
        return NULL;
    history = place(predictor, key.owner, key.class);
    return history->last == -2 ? NULL : history;
}

static int grow(struct predictor *predictor) {
    struct predictor old = *predictor;
    bool full = old.size >= 2 * old.most;
    size_t size = full ? old.size : old.size ? old.size * 2 : 256;
    struct history *table = malloc(size * sizeof(*table));

    if (!table)
        return -ENOMEM;
    for (size_t i = 0; i < size; i++)
        table[i].last = -2;
    predictor->table = table;
    predictor->size = size;
    predictor->count = 0;
    for (size_t i = 0; i < old.size; i++) {
        const struct history *history = &old.table[i];
        if (history->last == -2 || (full && history->touched + old.most / 2 < old.sequence))
            continue;
        *place(predictor, history->owner, history->class) = *history;
        predictor->count++;
    }
    free(old.table);
    return 0;
}

static double urgency_of(const struct predictor *predictor, int64_t run) {
    double seconds = (double) run / (double) predictor->second;

    return 1 / (seconds > RUN_BOUND ? seconds : RUN_BOUND);
}

static int note(struct predictor *predictor, enum level level, const struct run_traits *traits, int64_t run) {
    struct history_key key = key_of(level, traits);
    struct history *history;
    double share = traits->requested > 0 ? (double) run / (double) traits->requested : 1, weight;

    if (predictor->count * 2 >= predictor->size && grow(predictor) < 0)
        return -ENOMEM;
    history = place(predictor, key.owner, key.class);
    if (history->last == -2) {
        *history = (struct history){ .owner = key.owner, .class = key.class, .last = -1 };
        predictor->count++;
    }
    history->touched = ++predictor->sequence;
    history->before = history->last;
    history->last = run;
    history->count++;
    weight = history->count < predictor_memory[level] ? 1. / history->count : 1 / predictor_memory[level];
    history->share += ((share < 1 ? share : 1) - history->share) * weight;
    history->urgency += (urgency_of(predictor, run) - history->urgency) * weight;
    history->run += ((double) run - history->run) * weight;
    return 0;
}

/* Of what had no limit there is no share of the request: it tells of its class alone. */
static bool learns(const struct predictor *predictor, const struct run_traits *traits, enum level level) {
    if (traits->requested >= TIME_FOREVER)
        return level == LEVEL_CLASS && traits->class;
    return traits->class || predictor->kind >= ESTIMATE_HISTORY ||
           (predictor->kind == ESTIMATE_TSAFRIR && level == LEVEL_OWNER);
}

int predictor_learn(struct predictor *predictor, const struct run_traits *traits, int64_t run) {
    int r = 0;

    for (enum level level = LEVEL_ALL; r >= 0 && level < LEVEL_COUNT; level++)
        if (learns(predictor, traits, level))
            r = note(predictor, level, traits, run);
    return r;
}

uint64_t predictor_moment(const struct predictor *predictor) {
    return predictor->sequence;
}

bool predictor_has_news(const struct predictor *predictor, const struct run_traits *traits, uint64_t since) {
    for (enum level level = LEVEL_OWNER; level < LEVEL_COUNT; level++) {
        const struct history *history = find(predictor, key_of(level, traits));
        if (history && history->touched > since)
            return true;
    }
    return false;
}

static int64_t clamp(int64_t value, int64_t requested) {
    if (value > requested)
        value = requested;
    return value < 1 ? 1 : value;
}

/* The mean of the owner's, or the class's, last two. */
static int64_t guess_from_last(const struct predictor *predictor, const struct run_traits *traits) {
    const struct history *history = find(predictor, key_of(traits->class ? LEVEL_CLASS : LEVEL_OWNER, traits));

    if (!history || history->before < 0)
        return traits->requested;
    return clamp(history->last / 2 + history->before / 2 + (history->last % 2 + history->before % 2) / 2,
                 traits->requested);
}

/* Without a limit there is nothing of which a share could be expected: what its class took on average. */
static struct prediction predict_without_limit(const struct predictor *predictor, const struct run_traits *traits) {
    const struct history *history = traits->class ? find(predictor, key_of(LEVEL_CLASS, traits)) : NULL;

    if (!history || history->count < CLASS_RUNS)
        return (struct prediction){ traits->requested, urgency_of(predictor, traits->requested) };
    return (struct prediction){ clamp((int64_t) history->run, traits->requested), history->urgency };
}

/* A named class may have run under other limits: its run times count, not their shares. */
static double share_of(const struct history *history, enum level level, const struct run_traits *traits) {
    double share;

    if (level != LEVEL_CLASS || !traits->class)
        return history->share;
    share = history->run / (double) traits->requested;
    return share < 1 ? share : 1;
}

/* From the general to the particular: each level's mean counts for as many runs as it has seen, what is more general for
 * `strength` of them. */
static struct prediction predict_from_history(const struct predictor *predictor, const struct run_traits *traits) {
    int64_t requested = traits->requested;
    double share = 1, urgency = urgency_of(predictor, requested);

    for (enum level level = LEVEL_ALL; level < LEVEL_COUNT; level++) {
        const struct history *history = find(predictor, key_of(level, traits));
        if (!history)
            continue;
        double count = history->count < predictor_memory[level] ? history->count : predictor_memory[level];
        double general = predictor_strength[level];
        share = (share * general + share_of(history, level, traits) * count) / (general + count);
        urgency = (urgency * general + history->urgency * count) / (general + count);
    }
    return (struct prediction){ clamp((int64_t) (share * (double) requested), requested), urgency };
}

struct prediction predictor_predict(const struct predictor *predictor, const struct run_traits *traits, int64_t actual) {
    int64_t time = traits->requested;

    if (predictor->kind >= ESTIMATE_HISTORY)
        return time < TIME_FOREVER ? predict_from_history(predictor, traits) : predict_without_limit(predictor, traits);
    if (predictor->kind == ESTIMATE_ACTUAL)
        time = clamp(actual, time);
    if (predictor->kind == ESTIMATE_TSAFRIR)
        time = guess_from_last(predictor, traits);
    return (struct prediction){ time, urgency_of(predictor, time) };
}

bool predictor_next(const struct predictor *predictor, size_t *position, int64_t ret[PREDICTOR_VALUES]) {
    while (*position < predictor->size) {
        const struct history *history = &predictor->table[(*position)++];
        if (history->last == -2)
            continue;
        ret[0] = (int64_t) history->owner;
        ret[1] = (int64_t) history->class;
        ret[2] = history->last;
        ret[3] = history->before;
        ret[4] = bits_of(history->share);
        ret[5] = bits_of(history->urgency);
        ret[6] = bits_of(history->run);
        ret[7] = history->count;
        ret[8] = (int64_t) history->touched;
        return true;
    }
    return false;
}

static bool is_finite_share(double value, double most) {
    return value >= 0 && value <= most; /* no NaN is */
}

int predictor_restore(struct predictor *predictor, const int64_t values[PREDICTOR_VALUES]) {
    double share = double_of(values[4]), urgency = double_of(values[5]), run = double_of(values[6]);
    struct history *history;

    if (values[2] < 0 || values[3] < -1 || values[7] < 1 || values[7] > UINT32_MAX || values[8] < 0 ||
        !is_finite_share(share, 1) || !is_finite_share(urgency, 1) || !is_finite_share(run, (double) TIME_FOREVER))
        return -EINVAL;
    if (predictor->count * 2 >= predictor->size && grow(predictor) < 0)
        return -ENOMEM;
    history = place(predictor, (uint64_t) values[0], (uint64_t) values[1]);
    predictor->count += history->last == -2;
    *history = (struct history){ (uint64_t) values[0], (uint64_t) values[1], values[2], values[3], share, urgency, run,
                                 (uint32_t) values[7], (uint64_t) values[8] };
    if (history->touched > predictor->sequence)
        predictor->sequence = history->touched;
    return 0;
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
