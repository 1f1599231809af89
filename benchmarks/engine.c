// SPDX-License-Identifier: GPL-2.0-or-later
/* How long polderd's loop stands still for each thing that the engine does with 10,000 that wait: bench-engine. Milliseconds of
 * CPU time of one core, the worst of 20 turns; prints JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/ledger.h"
#include "engine/trial.h"
#include "engine/yielding.h"
#include "simulator/draw.h"

#define GIB (UINT64_C(1) << 30)
#define SECOND UINT64_C(1000000)
#define WAITING 10000
#define RUNNING 1000
#define TURNS 20

static double cpu_ms(void) {
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double) now.tv_sec * 1000 + (double) now.tv_nsec / 1e6;
}

static void need(int r) {
    if (r >= 0)
        return;
    fprintf(stderr, "bench-engine: %s\n", strerror(-r));
    exit(1);
}

struct times {
    double run, walk, yielders, copy, excerpt, trial, foresee, suppose, snapshot, write;
};

static void longest(double *worst, double since) {
    double taken = cpu_ms() - since;

    *worst = taken > *worst ? taken : *worst;
}

static void add(struct engine *engine, unsigned number, uint64_t *state) {
    char id[40];
    struct engine_request request = { .id = id, .kind = KIND_CONTAINER, .cpus = 100 + draw_below(state, 4000),
                                      .memory = (1 + draw_below(state, 64)) << 26, .priority = (int64_t) draw_below(state, 5),
                                      .owner = draw_below(state, 50), .class = 1 + draw_below(state, 500), .yields = number % 4,
                                      .limit = (60 + draw_below(state, 7200)) * SECOND };

    snprintf(id, sizeof(id), "%08x-0000-4000-8000-000000000000", number);
    need(number < RUNNING ? engine_occupy(engine, &request, number) : engine_submit(engine, &request, number));
}

static struct engine *fill(uint64_t *state) {
    struct engine_node node = { .cpus = 64000, .memory = 256 * GIB };
    struct engine_options options;
    struct engine *engine;

    for (int kind = 0; kind < KIND_COUNT; kind++)
        node.overcommit_cpu[kind] = node.overcommit_memory[kind] = 100;
    engine_options_init(&options);
    need(policy_find("dynamic", &options.policy, NULL)); /* scores all anew, and may ask others to give way */
    need(engine_new(&node, &options, &engine));
    need(engine_record(engine, 1));
    for (unsigned i = 0; i < RUNNING + WAITING; i++)
        add(engine, i, state);
    return engine;
}

static void drain(struct engine *engine, uint64_t now) {
    struct engine_decision decision;

    need(engine_run(engine, now));
    while (engine_next(engine, &decision))
        ;
}

/* The memory is got on another thread. */
static struct engine_copy *take(struct engine *engine, size_t most, double *worst) {
    struct engine_copy *copy = NULL;
    double since;

    need(engine_copy_prepare(engine_copy_size(engine, most), &copy));
    since = cpu_ms();
    need(engine_copy_take(copy, engine, most));
    longest(worst, since);
    return copy;
}

static void measure_walk(struct engine *engine, struct times *worst) {
    struct engine_cursor cursor = { 0 };
    struct engine_explanation why;
    double since = cpu_ms();
    void *userdata;

    while (engine_walk(engine, &cursor, &userdata, &why))
        ;
    longest(&worst->walk, since);
}

static void measure_why(struct engine *engine, const char *id, uint64_t now, struct times *worst) {
    _cleanup_copy_ struct engine_copy *copy = NULL;
    _cleanup_trial_ struct engine_trial *trial = NULL;
    struct engine_yielders yielders;
    double since = cpu_ms();

    need(engine_find_yielders(engine, id, now, &yielders));
    longest(&worst->yielders, since);
    copy = take(engine, SIZE_MAX, &worst->copy);
    need(engine_trial_new(copy, engine, id, now, &trial));
    since = cpu_ms();
    need(engine_trial_run(trial));
    longest(&worst->trial, since);
}

/* What is asked of a copy: a forecast of the first, and of all under another policy. */
static void measure_questions(struct engine *engine, uint64_t now, struct times *worst) {
    _cleanup_copy_ struct engine_copy *some = take(engine, ENGINE_FORESEEN, &worst->excerpt);
    _cleanup_copy_ struct engine_copy *all = take(engine, SIZE_MAX, &worst->copy);
    _cleanup_free_ struct engine_prospect *prospects = NULL;
    struct engine_options options = *engine_options(engine);
    struct engine_supposition supposition = { .options = &options };
    struct engine_forecast first[ENGINE_FORESEEN];
    double since = cpu_ms();

    need(engine_foresee(engine_copy_view(some), now, first, ENGINE_FORESEEN) == ENGINE_FORESEEN ? 0 : -1);
    longest(&worst->foresee, since);
    need(policy_find("sjf", &options.policy, NULL));
    since = cpu_ms();
    need((int) engine_suppose(engine_copy_view(all), &supposition, now, &prospects));
    longest(&worst->suppose, since);
}

static void measure_checkpoint(struct engine *engine, struct times *worst) {
    _cleanup_snapshot_ struct engine_snapshot *snapshot = NULL;
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    double since = cpu_ms();

    need(engine_snapshot_take(engine, &snapshot));
    longest(&worst->snapshot, since);
    since = cpu_ms();
    need(engine_snapshot_write(snapshot, &text));
    longest(&worst->write, since);
}

int main(void) {
    struct times worst = { 0 };
    uint64_t state = 1, now = 100 * SECOND;
    struct engine *engine = fill(&state);
    struct engine_forecast first[ENGINE_FORESEEN];

    drain(engine, now);
    for (int turn = 0; turn < TURNS; turn++, now += 2 * SECOND) {
        double since = cpu_ms();
        drain(engine, now);
        longest(&worst.run, since);
        measure_walk(engine, &worst);
        need(engine_foresee(engine, now, first, ENGINE_FORESEEN) == ENGINE_FORESEEN ? 0 : -1);
        measure_why(engine, first[ENGINE_FORESEEN - 1].id, now, &worst);
        measure_questions(engine, now, &worst);
        measure_checkpoint(engine, &worst);
    }
    printf("{\"waiting\": %d, \"running\": %d, \"run\": %.2f, \"walk\": %.2f, \"yielders\": %.2f, \"copy\": %.2f, \"excerpt\": %.2f,\n"
           " \"trial\": %.2f, \"foresee\": %.2f, \"suppose\": %.2f, \"snapshot\": %.2f, \"write\": %.2f}\n", WAITING, RUNNING, worst.run,
           worst.walk, worst.yielders, worst.copy, worst.excerpt, worst.trial, worst.foresee, worst.suppose, worst.snapshot, worst.write);
    engine_free(engine);
    return 0;
}
