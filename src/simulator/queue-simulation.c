// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/queue-simulation.h"

#include <errno.h>
#include <string.h>

#include "engine/fixed.h"

const char *const semantics_names[SEMANTICS_COUNT + 1] = { "batch", "pyss", "rlscheduler", NULL };

#define BSLD_BOUND 10 /* s */
#define DIGIT_BITS 11 /* of a wait, see wait_of_rank */
#define DIGITS (1 << DIGIT_BITS)

enum event_kind { /* in the order of what happens at one moment */
    EVENT_CORRECTION,
    EVENT_END,
    EVENT_BURST,
};

struct event {
    int64_t time;
    uint64_t sequence;
    uint32_t job, epoch; /* of the job's start: later starts make it void */
    enum event_kind kind;
};

struct job_state {
    uint32_t handle, epoch;
    int64_t started, left;    /* since its last start; run time left then */
    int64_t first, estimate;  /* first and present estimate */
    uint32_t before, after;   /* in the ring of those that wait for their first start; the last number + 1 is its anchor */
    unsigned corrections;
};

struct simulation {
    const struct queue_run *run;
    struct queue *queue;
    struct predictor *predictor;
    struct job_state *states; /* of `storage`; one more than there are jobs, the ring's anchor */
    struct array storage;
    struct event *heap;
    size_t heap_count, heap_room;
    uint64_t sequence;
    size_t next; /* to be submitted */
    int64_t now;
    struct queue_outcome *outcome;
    int failure;
};

static void simulation_done(struct simulation *simulation) {
    queue_free(simulation->queue);
    predictor_free(simulation->predictor);
    array_done(&simulation->storage);
    free(simulation->heap);
}

static bool event_is_before(const struct event *a, const struct event *b) {
    if (a->time != b->time)
        return a->time < b->time;
    if (a->kind != b->kind)
        return a->kind < b->kind;
    return a->sequence < b->sequence;
}

static int heap_push(struct simulation *simulation, struct event event) {
    struct event *heap = simulation->heap;
    size_t at = simulation->heap_count;

    if (at == simulation->heap_room) {
        size_t room = at ? at * 2 : 256;
        heap = reallocarray(heap, room, sizeof(*heap));
        if (!heap)
            return -ENOMEM;
        simulation->heap = heap;
        simulation->heap_room = room;
    }
    event.sequence = simulation->sequence++;
    simulation->heap_count++;
    for (; at > 0 && event_is_before(&event, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = event;
    return 0;
}

static struct event heap_pop(struct simulation *simulation) {
    struct event *heap = simulation->heap, first = heap[0], last = heap[--simulation->heap_count];
    size_t at = 0, child;

    while ((child = at * 2 + 1) < simulation->heap_count) {
        if (child + 1 < simulation->heap_count && event_is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!event_is_before(&heap[child], &last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

static bool event_is_void(const struct simulation *simulation, const struct event *event) {
    return simulation->states[event->job].epoch != event->epoch;
}

static int push_correction(struct simulation *simulation, uint32_t job) {
    struct job_state *state = &simulation->states[job];
    int64_t done = simulation->run->jobs[job].run - state->left;

    if (state->estimate >= simulation->run->jobs[job].run)
        return 0;
    return heap_push(simulation, (struct event){ .time = state->started + (state->estimate - done),
                                                 .job = job, .epoch = state->epoch, .kind = EVENT_CORRECTION });
}

static int push_burst(struct simulation *simulation, uint32_t job) {
    const struct queue_run *run = simulation->run;

    if (!run->policy->by_arrival)
        return 0;
    int64_t quantum = (int64_t) run->parameters.quantum;
    return heap_push(simulation, (struct event){ .time = simulation->now + (quantum > 0 ? quantum : 1), .job = job,
                                                 .epoch = simulation->states[job].epoch, .kind = EVENT_BURST });
}

static void ring_join(struct simulation *simulation, uint32_t job) {
    struct job_state *states = simulation->states;
    uint32_t anchor = (uint32_t) simulation->run->count;

    states[job].after = anchor;
    states[job].before = states[anchor].before;
    states[states[anchor].before].after = job;
    states[anchor].before = job;
}

static void ring_leave(struct simulation *simulation, uint32_t job) {
    struct job_state *states = simulation->states;

    states[states[job].before].after = states[job].after;
    states[states[job].after].before = states[job].before;
}

static int note_stretch(struct simulation *simulation, uint32_t job) {
    struct queue_outcome *outcome = simulation->outcome;

    if (!simulation->run->stretches)
        return 0;
    if (outcome->stretch_count == outcome->stretch_room) {
        size_t room = outcome->stretch_room ? outcome->stretch_room * 2 : 256;
        struct queue_stretch *larger = reallocarray(outcome->stretches, room, sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        outcome->stretches = larger;
        outcome->stretch_room = room;
    }
    outcome->stretches[outcome->stretch_count++] =
        (struct queue_stretch){ job, simulation->states[job].started, simulation->now };
    return 0;
}

static void decided(void *userdata, uint32_t handle, enum queue_state decision) {
    struct simulation *simulation = userdata;
    uint32_t job = (uint32_t) (uintptr_t) queue_entry(simulation->queue, handle)->userdata;
    struct job_state *state = &simulation->states[job];
    int r;

    state->epoch++;
    if (decision == QUEUE_WAITING) {
        state->left -= simulation->now - state->started;
        simulation->outcome->preemptions++;
        r = note_stretch(simulation, job);
        if (r < 0)
            simulation->failure = r;
        return;
    }
    state->started = simulation->now;
    if (simulation->outcome->starts[job] < 0) {
        simulation->outcome->starts[job] = simulation->now;
        ring_leave(simulation, job);
    }
    r = heap_push(simulation, (struct event){ .time = simulation->now + state->left, .job = job,
                                              .epoch = state->epoch, .kind = EVENT_END });
    if (r >= 0)
        r = push_correction(simulation, job);
    if (r >= 0)
        r = push_burst(simulation, job);
    if (r < 0)
        simulation->failure = r;
}

static int pass(struct simulation *simulation) {
    int r = queue_pass(simulation->queue, simulation->now, decided, simulation);

    if (queue_waiting(simulation->queue) > simulation->outcome->waiting_maximum)
        simulation->outcome->waiting_maximum = queue_waiting(simulation->queue);
    return r < 0 ? r : simulation->failure;
}

static int submit(struct simulation *simulation) {
    uint32_t number = (uint32_t) simulation->next++;
    const struct swf_job *job = &simulation->run->jobs[number];
    struct job_state *state = &simulation->states[number];

    state->left = job->run;
    struct run_traits traits = swf_traits(job);
    struct prediction prediction = predictor_predict(simulation->predictor, &traits, job->run);
    state->first = state->estimate = prediction.time;
    ring_join(simulation, number);
    struct queue_request request = {
        .id = number,
        .owner = (uint64_t) job->user,
        .submitted = job->submitted,
        .estimate = state->estimate,
        .demand = { .cpus = job->processors, .memory = simulation->run->memory ? job->memory : 0 },
        .priority = -job->queue,
        .urgency = prediction.urgency,
        .userdata = (void *) (uintptr_t) number,
    };
    return queue_submit(simulation->queue, &request, simulation->now, &state->handle);
}

/* What is expected of those of this owner that wait. */
static int learn(struct simulation *simulation, int64_t user) {
    struct job_state *states = simulation->states;
    uint32_t anchor = (uint32_t) simulation->run->count;
    int r = 0;

    if (simulation->run->estimate != ESTIMATE_LEARNING)
        return 0;
    for (uint32_t number = states[anchor].after; r >= 0 && number != anchor; number = states[number].after) {
        const struct swf_job *job = &simulation->run->jobs[number];
        if (job->user != user)
            continue;
        struct run_traits traits = swf_traits(job);
        struct prediction prediction = predictor_predict(simulation->predictor, &traits, job->run);
        states[number].first = states[number].estimate = prediction.time;
        r = queue_expect(simulation->queue, states[number].handle, prediction.time, prediction.urgency,
                         simulation->now);
    }
    return r;
}

static int end(struct simulation *simulation, uint32_t number) {
    const struct swf_job *job = &simulation->run->jobs[number];

    simulation->outcome->ends[number] = simulation->now;
    simulation->states[number].epoch++;
    struct run_traits traits = swf_traits(job);
    int r = predictor_learn(simulation->predictor, &traits, job->run);
    if (r >= 0)
        r = learn(simulation, job->user);
    if (r >= 0)
        r = note_stretch(simulation, number);
    return r < 0 ? r : queue_remove(simulation->queue, simulation->states[number].handle, simulation->now);
}

static int correct(struct simulation *simulation, uint32_t number) {
    struct job_state *state = &simulation->states[number];

    state->estimate = estimate_correct(state->first, &state->corrections, simulation->run->jobs[number].requested, 1);
    simulation->outcome->corrections++;
    int r = queue_extend(simulation->queue, state->handle, state->estimate, simulation->now);
    return r < 0 ? r : push_correction(simulation, number);
}

static int burst(struct simulation *simulation, uint32_t number) {
    struct job_state *state = &simulation->states[number];
    int r = queue_burst(simulation->queue, state->handle, simulation->now);

    return r < 0 ? r : push_burst(simulation, number);
}

static int handle_event(struct simulation *simulation, const struct event *event) {
    switch (event->kind) {
    case EVENT_CORRECTION:
        return correct(simulation, event->job);
    case EVENT_END:
        return end(simulation, event->job);
    case EVENT_BURST:
        return burst(simulation, event->job);
    }
    return 0;
}

/* Moves the clock to what comes next. False: nothing does. */
static bool advance(struct simulation *simulation) {
    const struct queue_run *run = simulation->run;

    while (simulation->heap_count > 0 && event_is_void(simulation, &simulation->heap[0]))
        heap_pop(simulation);
    if (simulation->next >= run->count && simulation->heap_count == 0)
        return false;
    simulation->now = INT64_MAX;
    if (simulation->next < run->count)
        simulation->now = run->jobs[simulation->next].submitted;
    if (simulation->heap_count > 0 && simulation->heap[0].time < simulation->now)
        simulation->now = simulation->heap[0].time;
    return true;
}

/* Bursts that end come after what arrives, and so go behind it. */
static int batch_moment(struct simulation *simulation) {
    const struct queue_run *run = simulation->run;
    bool submitted = false;
    int r = 0;

    while (r >= 0 && simulation->heap_count > 0 && simulation->heap[0].time == simulation->now) {
        if (!submitted && simulation->heap[0].kind == EVENT_BURST)
            break;
        struct event event = heap_pop(simulation);
        if (!event_is_void(simulation, &event))
            r = handle_event(simulation, &event);
    }
    while (r >= 0 && simulation->next < run->count && run->jobs[simulation->next].submitted == simulation->now)
        r = submit(simulation);
    while (r >= 0 && simulation->heap_count > 0 && simulation->heap[0].time == simulation->now) {
        struct event event = heap_pop(simulation);
        if (!event_is_void(simulation, &event))
            r = handle_event(simulation, &event);
    }
    return r < 0 ? r : pass(simulation);
}

static int pyss_submission(struct simulation *simulation) {
    const struct queue_run *run = simulation->run;
    uint64_t wanted = run->jobs[simulation->next].processors;
    bool skips = run->backfill == BACKFILL_EASY && wanted > queue_free_room(simulation->queue, simulation->now).cpus;
    int r = submit(simulation);

    return r < 0 || skips ? r : pass(simulation);
}

static int pyss_moment(struct simulation *simulation) {
    const struct queue_run *run = simulation->run;
    int r = 0;

    while (r >= 0 && simulation->heap_count > 0 && simulation->heap[0].time == simulation->now &&
           simulation->heap[0].kind == EVENT_CORRECTION) {
        struct event event = heap_pop(simulation);
        r = event_is_void(simulation, &event) ? 0 : correct(simulation, event.job);
    }
    while (r >= 0 && simulation->next < run->count && run->jobs[simulation->next].submitted == simulation->now)
        r = pyss_submission(simulation);
    while (r >= 0 && simulation->heap_count > 0 && simulation->heap[0].time == simulation->now) {
        struct event event = heap_pop(simulation);
        if (event_is_void(simulation, &event))
            continue;
        r = handle_event(simulation, &event);
        if (r >= 0)
            r = pass(simulation);
    }
    return r;
}

static int loop(struct simulation *simulation) {
    const struct queue_run *run = simulation->run;
    struct queue_options options = {
        .policy = run->policy,
        .parameters = run->parameters,
        .backfill = run->backfill,
        .capacity = { .cpus = run->processors, .memory = run->memory },
        .processor = (double) run->part,
        .second = 1,
        .expires = run->semantics == SEMANTICS_PYSS,
    };
    int r = queue_new(&options, &simulation->queue);

    if (r >= 0)
        r = predictor_new(run->estimate, 1, &simulation->predictor);
    while (r >= 0 && advance(simulation))
        r = run->semantics == SEMANTICS_PYSS ? pyss_moment(simulation) : batch_moment(simulation);
    return r;
}

static int64_t wait_of(const struct queue_run *run, const struct queue_outcome *outcome, size_t job) {
    return outcome->ends[job] - run->jobs[job].submitted - run->jobs[job].run;
}

/* The wait that so many others are not above (0: the shortest), digit by digit from the highest: no copy of them all, which
 * may be more than the memory. */
static int64_t wait_of_rank(const struct queue_run *run, const struct queue_outcome *outcome, size_t rank) {
    uint64_t prefix = 0, known = 0; /* bits of the answer */

    for (int shift = 64 - 64 % DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        size_t counts[DIGITS] = { 0 };
        for (size_t i = 0; i < run->count; i++) {
            uint64_t wait = (uint64_t) wait_of(run, outcome, i) ^ (UINT64_C(1) << 63);
            if ((wait & known) == prefix)
                counts[wait >> shift & (DIGITS - 1)]++;
        }
        uint64_t digit = 0;
        for (; rank >= counts[digit]; digit++)
            rank -= counts[digit];
        prefix |= digit << shift;
        known |= (uint64_t) (DIGITS - 1) << shift;
    }
    return (int64_t) (prefix ^ (UINT64_C(1) << 63));
}

/* The sums of the definitions, over all jobs, in their order. */
static void measure(const struct queue_run *run, struct queue_outcome *outcome) {
    double bsld = 0, squares = 0, wait = 0, flow = 0, work = 0, count = (double) run->count;
    int64_t first = INT64_MAX, last = INT64_MIN;

    for (size_t i = 0; i < run->count; i++) {
        const struct swf_job *job = &run->jobs[i];
        int64_t time = outcome->ends[i] - job->submitted, waited = wait_of(run, outcome, i);
        double slowdown = (double) time / (double) (job->run > BSLD_BOUND ? job->run : BSLD_BOUND);
        slowdown = slowdown < 1 ? 1 : slowdown;
        bsld += slowdown;
        squares += slowdown * slowdown;
        wait += (double) waited;
        flow += (double) time;
        work += (double) job->processors * (double) job->run;
        outcome->wait_maximum = i == 0 || waited > outcome->wait_maximum ? waited : outcome->wait_maximum;
        first = job->submitted < first ? job->submitted : first;
        last = outcome->ends[i] > last ? outcome->ends[i] : last;
    }
    outcome->bsld = bsld / count;
    outcome->root_square_bsld = fixed_square_root(squares / count);
    outcome->wait = wait / count;
    outcome->flow = flow / count;
    outcome->wait_95 = wait_of_rank(run, outcome, (run->count * 95 + 99) / 100 - 1);
    outcome->utilisation = work / ((double) run->processors * (double) (last - first));
}

void queue_outcome_done(struct queue_outcome *outcome) {
    array_done(&outcome->storage);
    free(outcome->stretches);
    outcome->starts = outcome->ends = NULL;
    outcome->stretches = NULL;
}

int queue_simulate(const struct queue_run *run, struct queue_outcome *ret) {
    _cleanup_outcome_ struct queue_outcome outcome = { 0 };
    _cleanup_(simulation_done) struct simulation simulation = { .run = run, .outcome = &outcome };
    int r = array_grow(&simulation.storage, (run->count + 1) * sizeof(*simulation.states));

    if (r >= 0)
        r = array_grow(&outcome.storage, (run->count + 1) * 2 * sizeof(*outcome.starts));
    if (r < 0)
        return r;
    simulation.states = simulation.storage.data;
    outcome.starts = outcome.storage.data;
    outcome.ends = outcome.starts + run->count + 1;
    simulation.states[run->count].before = simulation.states[run->count].after = (uint32_t) run->count;
    for (size_t i = 0; i < run->count; i++)
        outcome.starts[i] = outcome.ends[i] = -1;
    r = run->semantics == SEMANTICS_RLSCHEDULER ? rlscheduler_simulate(run, &outcome) : loop(&simulation);
    if (r < 0)
        return r;
    measure(run, &outcome);
    *ret = outcome;
    outcome = (struct queue_outcome){ 0 };
    return 0;
}
