// SPDX-License-Identifier: GPL-2.0-or-later
/* Thinking about the queue for longer than others should wait: on a copy of the engine, on a worker thread. The answer is about the
 * moment when the copy was taken, whatever happens meanwhile. At most AT_ONCE think at a time, each with a copy of some 400 bytes for
 * each that runs or waits and what it needs beside that, so that many questions cost no more memory than these; the others wait
 * in turn. */
#include <errno.h>
#include <stdlib.h>

#include "base/failpoint.h"
#include "engine/copy.h"
#include "manager/internal.h"

#define AT_ONCE 2
#define PATIENCE (30 * CLOCK_SECOND)
#define SMALL 128 /* instances: sooner done than begun on another thread */
#define TRIES 4

/* --- turns ------------------------------------------------------------------------------------------------------------ */

/* First come, first served: only the first of those that wait waits for somebody to end. */
static int turn_take(struct manager *manager, uint64_t deadline) {
    int r = fiber_mutex_lock(&manager->thought_lock, deadline);

    if (r < 0)
        return r;
    while (r >= 0 && manager->thoughts == AT_ONCE)
        r = fiber_queue_wait(&manager->thought_queue, deadline);
    if (r >= 0)
        manager->thoughts++;
    fiber_mutex_unlock(&manager->thought_lock);
    return r;
}

static void turn_give(struct manager *manager) {
    manager->thoughts--;
    fiber_queue_wake_one(&manager->thought_queue);
}

/* --- copies ----------------------------------------------------------------------------------------------------------- */

/* Where so many jobs hang that one more may never run, all waits for this one: it ends. */
static int work(const struct thought *thought, int (*function)(void *userdata), void *userdata) {
    bool here = thought->small || fiber_jobs_stuck() >= FIBER_JOBS_STUCK_MOST;

    return here ? function(userdata) : fiber_job(function, userdata);
}

struct preparation {
    size_t size;
    struct engine_copy *copy;
};

static int prepare_job(void *userdata) {
    struct preparation *preparation = userdata;

    return engine_copy_prepare(preparation->size, &preparation->copy);
}

static int free_job(void *userdata) {
    engine_copy_free(userdata);
    return 0;
}

/* The memory is got elsewhere, since that takes longer than to fill it; the queue may have grown meanwhile. */
static int copy_take(struct thought *thought, size_t most) {
    const struct engine *engine = thought->manager->engine;
    int r = -ENOBUFS;

    for (unsigned i = 0; i < TRIES && r == -ENOBUFS; i++) {
        size_t size = engine_copy_size(engine, most);
        struct preparation preparation = { .size = size + size / 8 };
        (void) work(thought, free_job, STEAL_PTR(thought->copy));
        r = work(thought, prepare_job, &preparation);
        thought->copy = preparation.copy;
        if (r >= 0)
            r = engine_copy_take(thought->copy, engine, most);
    }
    return r;
}

static int begin(struct thought *thought, size_t most) {
    int r;

    if (!thought->small) {
        r = turn_take(thought->manager, deadline_in(PATIENCE));
        if (r < 0)
            return r;
        thought->turn = true;
    }
    return copy_take(thought, most);
}

int thought_begin(struct thought *thought, struct manager *manager, size_t most, size_t more, struct error *error) {
    struct engine_totals totals;
    int r;

    engine_totals(manager->engine, &totals);
    thought->manager = manager;
    thought->small = totals.admitted + (most < totals.queued ? most : totals.queued) + more <= SMALL;
    r = begin(thought, most);
    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_BUSY, "the queue", "others ask about it");
    if (r == -ECANCELED)
        return error_set(error, ERROR_CANCELED, "the question");
    return r < 0 ? error_errno(error, r, "looking at the queue") : 0;
}

struct question {
    int (*function)(void *userdata);
    void *userdata;
};

static int question_job(void *userdata) {
    const struct question *question = userdata;

    FAILPOINT("thought-run");
    return question->function(question->userdata);
}

int thought_run(struct thought *thought, int (*function)(void *userdata), void *userdata) {
    struct question question = { function, userdata };

    return work(thought, question_job, &question);
}

void thought_done(struct thought *thought) {
    if (thought->copy)
        (void) work(thought, free_job, STEAL_PTR(thought->copy));
    if (thought->turn)
        turn_give(thought->manager);
    *thought = (struct thought){ 0 };
}
