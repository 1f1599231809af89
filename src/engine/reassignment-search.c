// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/reassignment-search.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Everything is integer arithmetic, so that compilers agree. A temperature is a mantissa and a power of two; it falls by
 * halves, along straight lines between them. The exponential variate of the Metropolis rule (accept a rise d if
 * d <= T * E with E ~ Exp(1), which is the same as exp(-d / T) > U) comes from a table that is computed here.
 *
 * The first cycle gets most of the steps and begins where an ordinary move is often taken; the later ones begin cooler,
 * from the best that any chain has. A chain remembers its best assignment by noting which processes moved since; it
 * copies only those. */

#define VARIATES 4096
#define VARIATE_BITS 16     /* of fraction */
#define COOLING_STEPS 256   /* moves tried at one temperature */
#define CYCLES 5
#define JOINTS_PER_CYCLE 20
#define FIRST_SHARE 80      /* percent of the steps, for the first cycle */
/* Temperatures, as halvings of the mean change of a move. */
#define START 0             /* where the first cycle begins, */
#define RESTART 5           /* the others; */
#define MIDDLE 14           /* where they come to slowly, */
#define END 20              /* and where they end: below a unit of cost, mostly */
#define SLOW_SHARE 85       /* percent of a cycle's steps that lead to the middle */
#define ROOM_EVERY 2048     /* steps between attempts to make room for a large process */
#define ROOM_DEPTH 8        /* most processes that leave for it */
#define ROOM_DRAWS 8        /* machines looked at for each of these */

/* What is drawn, in percent. */
struct mixture {
    uint32_t shifts;   /* a process goes elsewhere; of these */
    uint32_t homes;    /* home; */
    uint32_t swaps;    /* two change places; of these */
    uint32_t similar;  /* two of similar size; */
    uint32_t homeward; /* one takes the place of another, which goes home; the rest: which goes to a third machine */
};

/* Transient resources stay taken where a process came from, so that those that wander fill the machines up until nothing
 * moves: hence the ways home, where there are any. */
static const struct mixture mixture_plain = { .shifts = 45, .homes = 0, .swaps = 45, .similar = 15, .homeward = 0 };
static const struct mixture mixture_transient = { .shifts = 40, .homes = 20, .swaps = 30, .similar = 15, .homeward = 25 };

struct temperature {
    uint64_t mantissa; /* 32 bits */
    int exponent;
};

struct chain {
    struct reassignment_state *state;
    uint64_t random[4];
    uint32_t *best;
    int64_t best_total;
    uint32_t *noted, count; /* processes moved since the best */
    bool *is_noted;
    int result;
};

struct reassignment_search {
    const struct reassignment *problem;
    struct chain chains[REASSIGNMENT_CHAINS];
    uint64_t share;         /* steps of one chain */
    unsigned joint, joints;
    uint64_t scale;         /* what an ordinary move changes */
    uint32_t *bulk;         /* of a process: its greatest need, in parts of the mean capacity */
    uint32_t *order, *rank; /* processes by what they need of all, and the place of each in it */
    unsigned bits;          /* of the number of processes */
    const struct mixture *mixture;
    uint32_t variates[VARIATES];
};

/* xoshiro256**, by Blackman and Vigna. */
static uint64_t random_next(uint64_t *s) {
    uint64_t x = s[1] * 5, result = ((x << 7) | (x >> 57)) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 45) | (s[3] >> 19);
    return result;
}

static void random_seed(uint64_t *s, uint64_t seed) {
    for (unsigned i = 0; i < 4; i++) { /* splitmix64 */
        uint64_t z = seed += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        s[i] = z ^ (z >> 31);
    }
}

static uint32_t random_below(uint64_t *s, uint32_t limit) {
    return (uint32_t) (((random_next(s) >> 32) * limit) >> 32);
}

/* -ln((index + 1/2) / VARIATES) with 16 bits of fraction; log2 bit by bit, by squaring. */
static uint32_t variate(uint32_t index) {
    uint64_t x = 2 * (uint64_t) index + 1, log = 0; /* of x / (2 * VARIATES) */
    unsigned whole = 63 - (unsigned) __builtin_clzll(x);
    uint64_t mantissa = x << (32 - whole);          /* 1 to 2, 32 bits of fraction */

    for (unsigned bit = 0; bit < 20; bit++) {
        mantissa = (uint64_t) (((unsigned __int128) mantissa * mantissa) >> 32);
        log <<= 1;
        if (mantissa >> 33) {
            log |= 1;
            mantissa >>= 1;
        }
    }
    uint64_t full = 31 - (uint64_t) __builtin_clz(2 * VARIATES);
    uint64_t minus = (full << 20) - (((uint64_t) whole << 20) | log); /* -log2, 20 bits of fraction */
    return (uint32_t) ((minus * 45426) >> 20);                        /* times ln 2 = 45426 / 65536 */
}

static void chain_done(struct chain *chain) {
    reassignment_state_free(chain->state);
    free(chain->best);
    free(chain->noted);
    free(chain->is_noted);
}

void reassignment_search_free(struct reassignment_search *search) {
    if (!search)
        return;
    for (unsigned i = 0; i < REASSIGNMENT_CHAINS; i++)
        chain_done(&search->chains[i]);
    free(search->bulk);
    free(search->order);
    free(search->rank);
    free(search);
}

static int chain_init(struct chain *chain, const struct reassignment *problem, const uint32_t *assignment,
                      uint64_t seed) {
    int r = reassignment_state_new(problem, assignment, &chain->state);

    if (r < 0)
        return r;
    random_seed(chain->random, seed);
    chain->best = calloc(problem->processes + 1, sizeof(*chain->best));
    chain->noted = calloc(problem->processes + 1, sizeof(*chain->noted));
    chain->is_noted = calloc(problem->processes + 1, sizeof(*chain->is_noted));
    if (!chain->best || !chain->noted || !chain->is_noted)
        return -ENOMEM;
    memcpy(chain->best, assignment, problem->processes * sizeof(*assignment));
    chain->best_total = reassignment_state_total(chain->state);
    return 0;
}

/* One of about the same size: how far away in the order of sizes is uniform in its logarithm. */
static uint32_t draw_similar(const struct reassignment_search *search, struct chain *chain, uint32_t process) {
    uint32_t draw = random_below(chain->random, search->bits << 16);
    uint32_t far = 1 + (uint32_t) (((uint64_t) (draw & 0xffff) << (draw >> 16)) >> 15), at = search->rank[process];

    if (random_below(chain->random, 2) ? at >= far : at + far >= search->problem->processes)
        return search->order[at >= far ? at - far : 0];
    return search->order[at + far < search->problem->processes ? at + far : search->problem->processes - 1];
}

/* Makes a move of one of the kinds from random parts; false when what was drawn is none. */
static bool draw(const struct reassignment_search *search, struct chain *chain, struct reassignment_move *move) {
    const struct reassignment *problem = search->problem;
    const uint32_t *assignment = reassignment_state_assignment(chain->state);
    const struct mixture *mixture = search->mixture;
    uint64_t *random = chain->random;
    uint32_t kind = random_below(random, 100);

    move->process = random_below(random, problem->processes);
    move->other = REASSIGNMENT_NONE;
    if (kind < mixture->shifts) {
        move->to = kind < mixture->homes ? problem->home[move->process] : random_below(random, problem->machines);
        return true;
    }
    move->other = kind < mixture->shifts + mixture->similar ? draw_similar(search, chain, move->process)
                                          : random_below(random, problem->processes);
    move->to = assignment[move->other];
    kind -= mixture->shifts;
    if (kind < mixture->swaps)
        move->onward = assignment[move->process];
    else if (kind < mixture->swaps + mixture->homeward)
        move->onward = problem->home[move->other];
    else
        move->onward = random_below(random, problem->machines);
    return move->other != move->process;
}

/* The mean change of a thousand feasible moves from the start, as the measure of temperatures. */
static uint64_t measure(const struct reassignment_search *search, struct chain *chain) {
    uint64_t sum = 0, count = 0;
    struct reassignment_move move;
    int64_t rise;

    for (unsigned i = 0; i < 200000 && count < 1024; i++) {
        if (!draw(search, chain, &move) || !reassignment_state_try(chain->state, &move, &rise))
            continue;
        sum += ((uint64_t) (rise < 0 ? -rise : rise) >> 10) + 1;
        count++;
    }
    return count ? (sum / count << 10) + 1 : 1;
}

static int measure_bulk(struct reassignment_search *search) {
    const struct reassignment *problem = search->problem;
    uint32_t resources = problem->resources;

    search->bulk = calloc(problem->processes + 1, sizeof(*search->bulk));
    if (!search->bulk)
        return -ENOMEM;
    for (uint32_t i = 0; i < resources; i++) {
        unsigned __int128 sum = 0;
        for (uint32_t m = 0; m < problem->machines; m++)
            sum += (uint64_t) problem->capacity[(size_t) m * resources + i];
        for (uint32_t p = 0; p < problem->processes && sum > 0; p++) {
            unsigned __int128 part = (uint64_t) problem->need[(size_t) p * resources + i];
            part = (part << 16) * problem->machines / sum;
            if (part > search->bulk[p])
                search->bulk[p] = part > UINT32_MAX ? UINT32_MAX : (uint32_t) part;
        }
    }
    return 0;
}

struct sized {
    uint64_t size;
    uint32_t process;
};

static int compare_sizes(const void *a, const void *b) {
    const struct sized *x = a, *y = b;

    return x->size != y->size ? (x->size > y->size) - (x->size < y->size)
                              : (x->process > y->process) - (x->process < y->process);
}

static int sort_by_size(struct reassignment_search *search) {
    const struct reassignment *problem = search->problem;
    _cleanup_free_ struct sized *sized = calloc(problem->processes + 1, sizeof(*sized));

    search->order = calloc(problem->processes + 1, sizeof(*search->order));
    search->rank = calloc(problem->processes + 1, sizeof(*search->rank));
    if (!sized || !search->order || !search->rank)
        return -ENOMEM;
    for (uint32_t i = 0; i < problem->resources; i++) {
        unsigned __int128 sum = 1;
        for (uint32_t m = 0; m < problem->machines; m++)
            sum += (uint64_t) problem->capacity[(size_t) m * problem->resources + i];
        for (uint32_t p = 0; p < problem->processes; p++)
            sized[p].size += (uint64_t) (((unsigned __int128) (uint64_t)
                problem->need[(size_t) p * problem->resources + i] << 50) / sum);
    }
    for (uint32_t p = 0; p < problem->processes; p++)
        sized[p].process = p;
    qsort(sized, problem->processes, sizeof(*sized), compare_sizes);
    for (uint32_t i = 0; i < problem->processes; i++) {
        search->order[i] = sized[i].process;
        search->rank[sized[i].process] = i;
    }
    search->bits = 32 - (unsigned) __builtin_clz(problem->processes | 1);
    return 0;
}

int reassignment_search_new(const struct reassignment *problem, const uint32_t *assignment, uint64_t seed,
                            uint64_t steps, struct reassignment_search **ret) {
    _cleanup_reassignment_search_ struct reassignment_search *search = calloc(1, sizeof(*search));
    int r;

    if (!search)
        return -ENOMEM;
    search->problem = problem;
    search->share = problem->processes > 0 && problem->machines > 1 ? steps / REASSIGNMENT_CHAINS : 0;
    search->joints = CYCLES * JOINTS_PER_CYCLE;
    search->mixture = &mixture_plain;
    for (uint32_t i = 0; i < problem->resources; i++)
        if (problem->transient[i])
            search->mixture = &mixture_transient;
    for (uint32_t i = 0; i < VARIATES; i++)
        search->variates[i] = variate(i);
    r = measure_bulk(search);
    if (r >= 0)
        r = sort_by_size(search);
    for (unsigned i = 0; i < REASSIGNMENT_CHAINS && r >= 0; i++)
        r = chain_init(&search->chains[i], problem, assignment, seed * REASSIGNMENT_CHAINS + i);
    if (r < 0)
        return r;
    if (search->share)
        search->scale = measure(search, &search->chains[0]);
    *ret = STEAL_PTR(search);
    return 0;
}

/* Steps of a chain before the joint. */
static uint64_t steps_before(const struct reassignment_search *search, unsigned joint) {
    unsigned first = JOINTS_PER_CYCLE, rest = search->joints - first;
    uint64_t most = search->share / 100 * FIRST_SHARE;

    if (joint <= first)
        return most / first * joint;
    return most + (uint64_t) ((unsigned __int128) (search->share - most) * (joint - first) / rest);
}

/* With 16 bits of fraction. */
static uint64_t halvings_between(uint64_t from, uint64_t to, uint64_t step, uint64_t steps) {
    return (from << 16) + (uint64_t) ((unsigned __int128) ((to - from) << 16) * step / steps);
}

/* The temperature at a step of the cycle that the joint belongs to. */
static struct temperature temperature_at(const struct reassignment_search *search, uint64_t step) {
    unsigned cycle = search->joint / JOINTS_PER_CYCLE;
    uint64_t begin = steps_before(search, cycle * JOINTS_PER_CYCLE);
    uint64_t end = steps_before(search, (cycle + 1) * JOINTS_PER_CYCLE);
    uint64_t middle = begin + (end - begin) / 100 * SLOW_SHARE, hot = cycle == 0 ? START : RESTART;
    uint64_t halvings = step < middle ? halvings_between(hot, MIDDLE, step - begin, middle - begin)
                                      : halvings_between(MIDDLE, END, step - middle, end - middle);
    int up = __builtin_clzll(search->scale);
    uint64_t mantissa = search->scale << up >> 32;

    return (struct temperature){ .mantissa = mantissa * (131072 - (halvings & 0xffff)) >> 17,
                                 .exponent = 32 - up - (int) (halvings >> 16) };
}

static bool accepts(const struct reassignment_search *search, struct chain *chain, struct temperature temperature,
                    int64_t rise) {
    if (rise <= 0)
        return true;
    uint64_t most = temperature.mantissa * search->variates[random_next(chain->random) >> 52];
    int shift = temperature.exponent - VARIATE_BITS;
    if (shift > __builtin_clzll(most | 1) - 2)
        return true;
    if (shift < -63)
        return false;
    return (uint64_t) rise <= (shift >= 0 ? most << shift : most >> -shift);
}

static void note(struct chain *chain, uint32_t process) {
    if (process == REASSIGNMENT_NONE || chain->is_noted[process])
        return;
    chain->is_noted[process] = true;
    chain->noted[chain->count++] = process;
}

/* Copies the assignment if it is the best: to be called before it is left for a worse one. */
static void remember(struct chain *chain) {
    const uint32_t *assignment = reassignment_state_assignment(chain->state);

    if (reassignment_state_total(chain->state) >= chain->best_total)
        return;
    for (uint32_t i = 0; i < chain->count; i++) {
        chain->best[chain->noted[i]] = assignment[chain->noted[i]];
        chain->is_noted[chain->noted[i]] = false;
    }
    chain->count = 0;
    chain->best_total = reassignment_state_total(chain->state);
}

static int apply(struct chain *chain, const struct reassignment_move *move) {
    note(chain, move->process);
    note(chain, move->other);
    return reassignment_state_apply(chain->state, move);
}

/* A random process that stands on the machine goes to the cheapest of some machines that would take it.
 * 1, 0 if none would, or -ENOMEM. */
static int evict(const struct reassignment_search *search, struct chain *chain, uint32_t machine, uint32_t *ret_process) {
    uint32_t count;
    const uint32_t *residents = reassignment_state_residents(chain->state, machine, &count);
    struct reassignment_move move = { .other = REASSIGNMENT_NONE };
    uint32_t best = REASSIGNMENT_NONE;
    int64_t least = 0, rise;

    if (count == 0)
        return 0;
    move.process = residents[random_below(chain->random, count)];
    for (unsigned i = 0; i < ROOM_DRAWS; i++) {
        move.to = random_below(chain->random, search->problem->machines);
        if (!reassignment_state_try(chain->state, &move, &rise) || (best != REASSIGNMENT_NONE && rise >= least))
            continue;
        best = move.to;
        least = rise;
    }
    if (best == REASSIGNMENT_NONE)
        return 0;
    move.to = best;
    *ret_process = move.process;
    int r = apply(chain, &move);
    return r < 0 ? r : 1;
}

/* A large process goes to a machine that others leave until it fits; all of it happens or none. */
static int make_room(const struct reassignment_search *search, struct chain *chain, struct temperature temperature) {
    const struct reassignment *problem = search->problem;
    struct reassignment_move move = { .process = random_below(chain->random, problem->processes),
                                      .to = random_below(chain->random, problem->machines),
                                      .other = REASSIGNMENT_NONE };
    int64_t before = reassignment_state_total(chain->state), rise;
    uint32_t gone[ROOM_DEPTH], count = 0;
    int r = 1;

    for (unsigned i = 0; i < 3; i++) {
        uint32_t rival = random_below(chain->random, problem->processes);
        move.process = search->bulk[rival] > search->bulk[move.process] ? rival : move.process;
    }
    if (reassignment_state_assignment(chain->state)[move.process] == move.to)
        return 0;
    remember(chain);
    while (r > 0 && !reassignment_state_try(chain->state, &move, &rise)) {
        r = count < ROOM_DEPTH ? evict(search, chain, move.to, &gone[count]) : 0;
        count += r > 0;
    }
    if (r > 0 && accepts(search, chain, temperature, reassignment_state_total(chain->state) - before + rise))
        return apply(chain, &move);
    while (r >= 0 && count > 0) {
        struct reassignment_move back = { .process = gone[--count], .to = move.to, .other = REASSIGNMENT_NONE };
        r = apply(chain, &back);
    }
    return r < 0 ? r : 0;
}

static int try_one(const struct reassignment_search *search, struct chain *chain, struct temperature temperature) {
    struct reassignment_move move;
    int64_t rise;

    if (!draw(search, chain, &move) || !reassignment_state_try(chain->state, &move, &rise) ||
        !accepts(search, chain, temperature, rise))
        return 0;
    if (rise > 0)
        remember(chain);
    return apply(chain, &move);
}

int reassignment_search_run(struct reassignment_search *search, unsigned index) {
    struct chain *chain = &search->chains[index];
    uint64_t step = steps_before(search, search->joint), end = steps_before(search, search->joint + 1);
    struct temperature temperature = { 0 };
    int r = 0;

    for (uint64_t i = 0; step < end && r >= 0; i++, step++) {
        if (i % COOLING_STEPS == 0)
            temperature = temperature_at(search, step);
        r = step % ROOM_EVERY == 0 ? make_room(search, chain, temperature) : try_one(search, chain, temperature);
    }
    if (r >= 0)
        remember(chain);
    return r;
}

/* Takes the chain to an assignment by starting its state anew. */
static int chain_restart(struct chain *chain, const struct reassignment *problem, const uint32_t *assignment,
                         int64_t total) {
    struct reassignment_state *state;
    int r = reassignment_state_new(problem, assignment, &state);

    if (r < 0)
        return r;
    reassignment_state_free(chain->state);
    chain->state = state;
    memmove(chain->best, assignment, problem->processes * sizeof(*assignment));
    memset(chain->is_noted, 0, problem->processes * sizeof(*chain->is_noted));
    chain->best_total = total;
    chain->count = 0;
    return 0;
}

static const struct chain *chain_best(const struct reassignment_search *search) {
    const struct chain *best = &search->chains[0];

    for (unsigned i = 1; i < REASSIGNMENT_CHAINS; i++)
        if (search->chains[i].best_total < best->best_total)
            best = &search->chains[i];
    return best;
}

int reassignment_search_join(struct reassignment_search *search) {
    const struct chain *best = chain_best(search);
    int r = 0;

    if (++search->joint >= search->joints)
        return 0;
    if (search->joint % JOINTS_PER_CYCLE == 0)
        for (unsigned i = 0; i < REASSIGNMENT_CHAINS && r >= 0; i++)
            r = chain_restart(&search->chains[i], search->problem, best->best, best->best_total);
    return r < 0 ? r : 1;
}

double reassignment_search_progress(const struct reassignment_search *search) {
    return (double) search->joint / search->joints;
}

const uint32_t *reassignment_search_best(const struct reassignment_search *search, int64_t *ret_total) {
    const struct chain *best = chain_best(search);

    *ret_total = best->best_total;
    return best->best;
}
