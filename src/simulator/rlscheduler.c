// SPDX-License-Identifier: GPL-2.0-or-later
/* The protocol of RLScheduler (Zhang et al., SC'20), whose numbers are compared with: at a decision point the best of those
 * that wait is chosen, and then it blocks until it fits; with backfilling, others that fit go ahead in order of arrival while
 * now + request < the moment at which the chosen one was expected to start when it was chosen. What arrives at the
 * moment of an end is seen before it; several ends at one moment are seen one by one. */
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "engine/fixed.h"
#include "simulator/queue-simulation.h"

struct running_job {
    int64_t end, expected, predicted; /* really, by the request, as the policy predicted */
    uint32_t job;
};

struct protocol {
    const struct queue_run *run;
    struct queue_outcome *outcome;
    uint32_t *queue; /* in order of arrival */
    size_t queued;
    struct running_job *running, *by_prediction; /* sorted by end; by the prediction */
    struct policy_input *inputs; /* by job */
    int64_t *keys;               /* of those in the queue, at the last decision */
    struct predictor *predictor;
    int64_t drain;
    int failure;
    size_t running_count;
    uint64_t free;
    size_t next;
    int64_t now;
};

static void protocol_done(struct protocol *protocol) {
    free(protocol->queue);
    free(protocol->running);
    free(protocol->by_prediction);
    free(protocol->inputs);
    free(protocol->keys);
    predictor_free(protocol->predictor);
}

/* What is expected of a job now, for what the policy sees of it. */
static void expect(struct protocol *protocol, uint32_t number) {
    const struct queue_run *run = protocol->run;
    const struct swf_job *job = &run->jobs[number];
    struct policy_input *input = &protocol->inputs[number];
    struct run_traits traits = swf_traits(job);
    struct prediction prediction = predictor_predict(protocol->predictor, &traits, job->run);

    if (input->second && input->estimate == prediction.time && input->urgency == prediction.urgency)
        return;
    *input = (struct policy_input){
        .submitted = job->submitted,
        .estimate = prediction.time < 1 ? 1 : prediction.time,
        .urgency = prediction.urgency,
        .demand = { .cpus = job->processors },
        .capacity = { .cpus = run->processors },
        .size = (double) job->processors,
        .priority = -job->queue,
        .second = 1,
    };
    if (run->policy->constant)
        input->constant = run->policy->constant(&run->parameters, input);
}

static struct policy_input *input_at(const struct protocol *protocol, size_t at) {
    return &protocol->inputs[protocol->queue[at]];
}

/* As the queue of the engine does: the longest time that the work at hand would take. */
static void note_drain(struct protocol *protocol) {
    int64_t work = 0;

    for (size_t i = 0; i < protocol->queued; i++)
        work += input_at(protocol, i)->estimate * (int64_t) input_at(protocol, i)->demand.cpus;
    for (size_t i = 0; i < protocol->running_count; i++)
        if (protocol->running[i].predicted > protocol->now)
            work += (protocol->running[i].predicted - protocol->now) *
                    (int64_t) protocol->run->jobs[protocol->running[i].job].processors;
    work /= (int64_t) protocol->run->processors;
    protocol->drain = work > protocol->drain ? work : protocol->drain;
}

/* WFP3 and UNICEP as the protocol's program computes them: from a start that is not there yet (-1), so that what they take for
 * the wait is -1 less the moment of submission. */
static int64_t key_of(const struct protocol *protocol, const struct policy_input *input) {
    const struct policy *policy = protocol->run->policy;
    double wait = -1 - (double) input->submitted, time = (double) input->estimate, ratio = wait / time;

    if (text_equal(policy->name, "wfp3"))
        return fixed_key(-(ratio * ratio * ratio * input->size));
    if (text_equal(policy->name, "unicep"))
        return fixed_key(-((wait + 1e-15) / (fixed_log2(input->size + 1e-15) * time)));
    return policy_key(policy, &protocol->run->parameters, input);
}

static void score(struct protocol *protocol) {
    const struct queue_run *run = protocol->run;

    if (run->policy->constant)
        note_drain(protocol);
    for (size_t i = 0; i < protocol->queued; i++) {
        struct policy_input *input = input_at(protocol, i);
        input->now = protocol->now;
        input->drain = protocol->drain;
        protocol->keys[i] = key_of(protocol, input);
    }
}

static int compare_predicted(const void *a, const void *b) {
    const struct running_job *left = a, *right = b;

    return left->predicted < right->predicted ? -1 : left->predicted > right->predicted;
}

/* When are so many processors expected to be free? */
static int64_t fits_at(const struct protocol *protocol, uint64_t wanted) {
    uint64_t room = protocol->free;
    int64_t time = protocol->now;

    for (size_t i = 0; i < protocol->running_count && room < wanted; i++) {
        const struct running_job *running = &protocol->by_prediction[i];
        time = running->predicted > protocol->now ? running->predicted : protocol->now + 1;
        room += protocol->run->jobs[running->job].processors;
    }
    return time;
}

/* Without backfilling nobody starts while the chosen one waits for room. A policy that sees the room counts that wait as
 * run time, `polder.blocking` times. */
static size_t choose_by_room(struct protocol *protocol) {
    const struct queue_run *run = protocol->run;
    size_t best = 0;
    int64_t least = INT64_MAX;

    memcpy(protocol->by_prediction, protocol->running, protocol->running_count * sizeof(*protocol->running));
    qsort(protocol->by_prediction, protocol->running_count, sizeof(*protocol->running), compare_predicted);
    for (size_t i = 0; i < protocol->queued; i++) {
        struct policy_input input = *input_at(protocol, i);
        int64_t key = protocol->keys[i];
        if (input.demand.cpus > protocol->free) {
            int64_t wait = fits_at(protocol, input.demand.cpus) - protocol->now;
            input.estimate += (int64_t) (run->parameters.blocking * (double) wait);
            input.constant = run->policy->constant(&run->parameters, &input);
            key = policy_key(run->policy, &run->parameters, &input);
        }
        if (i == 0 || key < least) {
            least = key;
            best = i;
        }
    }
    return best;
}

static size_t choose(struct protocol *protocol) {
    size_t best = 0;

    score(protocol);
    for (size_t i = 1; i < protocol->queued; i++)
        if (protocol->keys[i] < protocol->keys[best])
            best = i;
    if (protocol->run->policy->sees_room && protocol->run->backfill == BACKFILL_NONE)
        return choose_by_room(protocol);
    return best;
}

static void start(struct protocol *protocol, uint32_t number) {
    const struct swf_job *job = &protocol->run->jobs[number];
    int64_t end = protocol->now + job->run;
    size_t at = protocol->running_count++;

    for (; at > 0 && protocol->running[at - 1].end > end; at--)
        protocol->running[at] = protocol->running[at - 1];
    protocol->running[at] = (struct running_job){
        .end = end,
        .expected = protocol->now + job->requested,
        .predicted = protocol->now + protocol->inputs[number].estimate,
        .job = number,
    };
    protocol->free -= job->processors;
    protocol->outcome->starts[number] = protocol->now;
    protocol->outcome->ends[number] = end;
}

static void take_out(struct protocol *protocol, size_t at) {
    protocol->queued--;
    memmove(protocol->queue + at, protocol->queue + at + 1, (protocol->queued - at) * sizeof(*protocol->queue));
}

/* One arrival or one end, whichever is first; arrivals first among equals. */
static void move_on(struct protocol *protocol) {
    const struct queue_run *run = protocol->run;
    int64_t end = protocol->running_count > 0 ? protocol->running[0].end : INT64_MAX, time = end;
    bool arrives = protocol->next < run->count && run->jobs[protocol->next].submitted <= end;

    if (arrives)
        time = run->jobs[protocol->next].submitted;
    if (time > protocol->now)
        protocol->now = time;
    if (arrives) {
        expect(protocol, (uint32_t) protocol->next);
        protocol->queue[protocol->queued++] = (uint32_t) protocol->next++;
        return;
    }
    const struct swf_job *job = &run->jobs[protocol->running[0].job];
    struct run_traits traits = swf_traits(job);
    int r = predictor_learn(protocol->predictor, &traits, job->run);
    if (r < 0)
        protocol->failure = r;
    for (size_t i = 0; i < protocol->queued; i++)
        if (run->jobs[protocol->queue[i]].user == job->user)
            expect(protocol, protocol->queue[i]);
    protocol->free += job->processors;
    protocol->running_count--;
    memmove(protocol->running, protocol->running + 1, protocol->running_count * sizeof(*protocol->running));
}

static int compare_expected(const void *a, const void *b) {
    const struct running_job *left = a, *right = b;

    return left->expected < right->expected ? -1 : left->expected > right->expected;
}

static int expected_start(const struct protocol *protocol, uint64_t wanted, int64_t *ret) {
    _cleanup_free_ struct running_job *running = reallocarray(NULL, protocol->running_count + 1, sizeof(*running));
    uint64_t room = protocol->free;

    if (!running)
        return -ENOMEM;
    memcpy(running, protocol->running, protocol->running_count * sizeof(*running));
    qsort(running, protocol->running_count, sizeof(*running), compare_expected);
    *ret = protocol->now;
    for (size_t i = 0; i < protocol->running_count && room < wanted; i++) {
        room += protocol->run->jobs[running[i].job].processors;
        *ret = running[i].expected;
    }
    return 0;
}

static void go_ahead(struct protocol *protocol, int64_t before) {
    for (size_t i = 0; i < protocol->queued;) {
        const struct swf_job *job = &protocol->run->jobs[protocol->queue[i]];
        if (protocol->now + job->requested < before && job->processors <= protocol->free) {
            start(protocol, protocol->queue[i]);
            take_out(protocol, i);
        } else {
            i++;
        }
    }
}

/* Waits until the chosen one fits, which has left the queue. */
static int block(struct protocol *protocol, uint32_t chosen) {
    uint64_t wanted = protocol->run->jobs[chosen].processors;
    int64_t before;
    int r;

    if (wanted <= protocol->free)
        return 0;
    r = expected_start(protocol, wanted, &before);
    while (r >= 0 && wanted > protocol->free) {
        if (protocol->run->backfill != BACKFILL_NONE)
            go_ahead(protocol, before);
        move_on(protocol);
    }
    return r;
}

int rlscheduler_simulate(const struct queue_run *run, struct queue_outcome *outcome) {
    _cleanup_(protocol_done) struct protocol protocol = { .run = run, .outcome = outcome, .free = run->processors };
    int r = 0;

    protocol.queue = reallocarray(NULL, run->count + 1, sizeof(*protocol.queue));
    protocol.running = reallocarray(NULL, run->count + 1, sizeof(*protocol.running));
    protocol.by_prediction = reallocarray(NULL, run->count + 1, sizeof(*protocol.by_prediction));
    protocol.inputs = calloc(run->count + 1, sizeof(*protocol.inputs));
    protocol.keys = reallocarray(NULL, run->count + 1, sizeof(*protocol.keys));
    if (!protocol.queue || !protocol.running || !protocol.by_prediction || !protocol.inputs || !protocol.keys)
        return -ENOMEM;
    r = predictor_new(run->estimate, 1, &protocol.predictor);
    while (r >= 0 && (protocol.queued > 0 || protocol.next < run->count)) {
        if (protocol.queued == 0) {
            move_on(&protocol);
            continue;
        }
        size_t at = choose(&protocol);
        uint32_t chosen = protocol.queue[at];
        take_out(&protocol, at);
        r = block(&protocol, chosen);
        if (r >= 0)
            start(&protocol, chosen);
    }
    return r < 0 ? r : protocol.failure;
}
