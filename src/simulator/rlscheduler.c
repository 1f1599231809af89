// SPDX-License-Identifier: GPL-2.0-or-later
/* The protocol of RLScheduler (Zhang et al., SC'20), whose numbers are compared with: at a decision point the best of those
 * that wait is chosen, and then it blocks until it fits; with backfilling, others that fit go ahead in order of arrival while
 * now + request < the moment at which the chosen one was expected to start when it was chosen. What arrives at the
 * moment of an end is seen before it; several ends at one moment are seen one by one. */
#include <errno.h>
#include <string.h>

#include "simulator/queue-simulation.h"

struct running_job {
    int64_t end, expected;
    uint32_t job;
};

struct protocol {
    const struct queue_run *run;
    struct queue_outcome *outcome;
    uint32_t *queue; /* in order of arrival */
    size_t queued;
    struct running_job *running; /* sorted by end */
    size_t running_count;
    uint64_t free;
    size_t next;
    int64_t now;
};

static void protocol_done(struct protocol *protocol) {
    free(protocol->queue);
    free(protocol->running);
}

/* What this policy sees of a job; UNICEP and WFP3 upstream take the wait from a start that is not there yet (-1). */
static int64_t key_of(const struct protocol *protocol, uint32_t number) {
    const struct queue_run *run = protocol->run;
    const struct swf_job *job = &run->jobs[number];
    struct policy_input input = {
        .now = protocol->now,
        .submitted = job->submitted,
        .estimate = run->estimate == ESTIMATE_ACTUAL ? job->run : job->requested,
        .demand = { .cpus = job->processors },
        .capacity = { .cpus = run->processors },
        .size = (double) job->processors,
        .priority = -job->queue,
        .second = 1,
    };
    input.estimate = input.estimate < 1 ? 1 : input.estimate;
    return policy_key(run->policy, &run->parameters, &input);
}

static size_t choose(const struct protocol *protocol) {
    size_t best = 0;
    int64_t least = INT64_MAX;

    for (size_t i = 0; i < protocol->queued; i++) {
        int64_t key = key_of(protocol, protocol->queue[i]);
        if (i == 0 || key < least) {
            least = key;
            best = i;
        }
    }
    return best;
}

static void start(struct protocol *protocol, uint32_t number) {
    const struct swf_job *job = &protocol->run->jobs[number];
    int64_t end = protocol->now + job->run;
    size_t at = protocol->running_count++;

    for (; at > 0 && protocol->running[at - 1].end > end; at--)
        protocol->running[at] = protocol->running[at - 1];
    protocol->running[at] = (struct running_job){ end, protocol->now + job->requested, number };
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
        protocol->queue[protocol->queued++] = (uint32_t) protocol->next++;
        return;
    }
    protocol->free += run->jobs[protocol->running[0].job].processors;
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
    if (!protocol.queue || !protocol.running)
        return -ENOMEM;
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
    return r;
}
