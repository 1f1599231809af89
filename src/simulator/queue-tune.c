// SPDX-License-Identifier: GPL-2.0-or-later
/* The value of a choice on a log is the logarithm of its goal over that of EASY in the order of arrival with requested
 * times, so that logs of any scale count alike; a maximum wait above 1.5 times that one's costs ten times its excess. Equal values go to the smaller bounded slowdown: under a
 * policy that takes nobody off all moves are 0, and the cheapest would otherwise be whoever stands first. */
#include "simulator/queue-tune.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "engine/fixed.h"
#include "simulator/workers.h"

#define WAIT_FACTOR 1.5
#define EXCESS_COST 10

const char *const tune_goals[TUNE_GOAL_COUNT + 1] = { "bsld", "wait", "p95", "fairness", "moves", NULL };

enum part { PART_FIRST, PART_SECOND, PART_WHOLE, PART_COUNT };
static const char *const part_names[PART_COUNT] = { "first", "second", "whole" };

struct measure {
    double goal, longest, slowdown;
};

/* The smaller the better. */
struct value {
    double goal, slowdown;
};

static bool is_better(struct value a, struct value b) {
    return a.goal != b.goal ? a.goal < b.goal : a.slowdown < b.slowdown;
}

static double goal_of(const struct queue_outcome *outcome, enum tune_goal goal) {
    switch (goal) {
    case TUNE_WAIT:
        return outcome->wait;
    case TUNE_P95:
        return (double) outcome->wait_95;
    case TUNE_FAIRNESS:
        return outcome->root_square_bsld;
    case TUNE_MOVES:
        return (double) outcome->preemptions;
    default:
        return outcome->bsld;
    }
}

static int simulate(const struct tune *tune, const struct queue_run *choice, size_t log, enum part part,
                    struct measure *ret) {
    _cleanup_outcome_ struct queue_outcome outcome = { 0 };
    struct queue_run run = *choice;
    size_t count = tune->logs[log].count, half = count / 2;

    run.jobs = tune->logs[log].jobs + (part == PART_SECOND ? half : 0);
    run.count = part == PART_FIRST ? half : part == PART_SECOND ? count - half : count;
    queue_run_on(&run, &tune->logs[log]);
    if (run.count == 0)
        return -ENOMEM;
    int r = queue_simulate(&run, &outcome);
    *ret = (struct measure){ goal_of(&outcome, tune->goal), (double) outcome.wait_maximum, outcome.bsld };
    return r;
}

static struct queue_run baseline_of(const struct queue_run *choice) {
    struct queue_run run = *choice;

    (void) policy_find("fcfs", &run.policy, NULL);
    run.backfill = BACKFILL_EASY;
    run.estimate = ESTIMATE_REQUESTED;
    return run;
}

static double logarithm(double value, double base) {
    return fixed_log2((value + 1e-3) / (base + 1e-3));
}

/* The first halves of all logs under each of some choices, by threads. */
struct measuring {
    const struct tune *tune;
    const struct queue_run *choices;
    struct measure *measures; /* [choice][log] */
};

static int measure_one(struct workers *workers, void *userdata, size_t which) {
    const struct measuring *measuring = userdata;
    size_t logs = measuring->tune->log_count;

    return simulate(measuring->tune, &measuring->choices[which / logs], which % logs, PART_FIRST, &measuring->measures[which]);
}

static int measure_all(const struct tune *tune, const struct queue_run *choices, size_t count, const char *what,
                       struct measure *ret) {
    struct measuring measuring = { tune, choices, ret };

    return workers_run(what, tune->workers, count * tune->log_count, measure_one, &measuring, NULL);
}

/* Both of the first halves of the logs. */
static struct value value_of(const struct tune *tune, const struct measure *measures, const struct measure *baselines) {
    struct value sum = { 0 };

    for (size_t log = 0; log < tune->log_count; log++) {
        const struct measure *measure = &measures[log];
        double excess = logarithm(measure->longest, baselines[log].longest * WAIT_FACTOR);
        sum.goal += logarithm(measure->goal, baselines[log].goal) + (excess > 0 ? EXCESS_COST * excess : 0);
        sum.slowdown += logarithm(measure->slowdown, baselines[log].slowdown);
    }
    return (struct value){ sum.goal / (double) tune->log_count, sum.slowdown / (double) tune->log_count };
}

static int compare(const struct tune *tune, const struct measure *baselines, struct queue_run *best,
                   struct value *ret) {
    _cleanup_free_ struct measure *measures = calloc(tune->candidate_count * tune->log_count, sizeof(*measures));
    int r = measures ? measure_all(tune, tune->candidates, tune->candidate_count, "comparing", measures) : -ENOMEM;

    if (r < 0)
        return r;
    *ret = (struct value){ INFINITY, INFINITY };
    printf("%-20s %-13s %-10s %10s\n", "POLICY", "BACKFILL", "ESTIMATES", "VALUE");
    for (size_t i = 0; i < tune->candidate_count; i++) {
        const struct queue_run *choice = &tune->candidates[i];
        struct value value = value_of(tune, &measures[i * tune->log_count], baselines);
        printf("%-20s %-13s %-10s %10.4f\n", choice->policy->name, backfill_names[choice->backfill],
               estimate_names[choice->estimate], value.goal);
        if (is_better(value, *ret)) {
            *best = *choice;
            *ret = value;
        }
    }
    return 0;
}

/* Has this policy this parameter? "polder.time" and, where there is one, the alarm. */
bool queue_tune_has(const struct queue_run *choice, const struct policy_parameter_row *row) {
    const struct policy *policy = choice->policy;
    size_t length = strcspn(row->name, ".");

    if (row->name[length] == '\0')
        return policy->alarms;
    return strlen(policy->name) == length && strncmp(row->name, policy->name, length) == 0;
}

static double *parameter_of(struct policy_parameters *parameters, const struct policy_parameter_row *row) {
    return (double *) ((char *) parameters + row->offset);
}

/* Pattern search: each parameter in turn up and down by a factor, which shrinks when a whole round found nothing better. */
static int search(const struct tune *tune, const struct measure *baselines, struct queue_run *best,
                  struct value *value) {
    _cleanup_free_ struct measure *measures = calloc(tune->log_count, sizeof(*measures));
    double factor = 2;
    uint64_t step = 0;

    if (!measures)
        return -ENOMEM;
    while (step < tune->steps && factor > 1.02) {
        uint64_t before = step;
        bool better = false;
        for (const struct policy_parameter_row *row = policy_parameter_rows; row->name; row++)
            for (int direction = 0; direction < 2 && queue_tune_has(best, row) && step < tune->steps; direction++) {
                struct queue_run choice = *best;
                double *parameter = parameter_of(&choice.parameters, row);
                *parameter = *parameter == 0 ? (direction ? -.1 : .1) : direction ? *parameter / factor : *parameter * factor;
                if (*parameter < row->minimum || *parameter > row->maximum)
                    continue;
                step++;
                int r = measure_all(tune, &choice, 1, NULL, measures);
                if (r < 0)
                    return r;
                struct value found = value_of(tune, measures, baselines);
                if (is_better(found, *value)) {
                    *value = found;
                    *best = choice;
                    better = true;
                    break;
                }
            }
        if (step == before)
            break;
        if (!better)
            factor = fixed_square_root(factor);
    }
    return 0;
}

static int report(const struct tune *tune, const struct queue_run *best, double value) {
    const struct queue_run baseline = baseline_of(best);

    printf("\nproposed: --policy %s --backfill %s --estimates %s", best->policy->name, backfill_names[best->backfill],
           estimate_names[best->estimate]);
    for (const struct policy_parameter_row *row = policy_parameter_rows; row->name; row++)
        if (queue_tune_has(best, row))
            printf(" --set %s=%.6g", row->name, *(const double *) ((const char *) &best->parameters + row->offset));
    printf("\nvalue on first halves %.4f\n\n%-40s %-7s %12s %12s %12s %12s\n", value, "LOG", "PART", tune_goals[tune->goal],
           "easy fcfs", "longest wait", "easy fcfs");
    for (size_t log = 0; log < tune->log_count; log++)
        for (enum part part = PART_FIRST; part < PART_COUNT; part++) {
            struct measure ours, theirs;
            int r = simulate(tune, best, log, part, &ours);
            if (r >= 0)
                r = simulate(tune, &baseline, log, part, &theirs);
            if (r < 0)
                return r;
            printf("%-40s %-7s %12.4f %12.4f %12.0f %12.0f\n", tune->paths[log], part_names[part], ours.goal, theirs.goal,
                   ours.longest, theirs.longest);
        }
    return 0;
}

int queue_tune(const struct tune *tune, struct queue_run *ret) {
    _cleanup_free_ struct measure *baselines = calloc(tune->log_count, sizeof(*baselines));
    struct queue_run best = tune->candidates[0], baseline = baseline_of(&tune->candidates[0]);
    struct value value;
    int r = baselines ? measure_all(tune, &baseline, 1, NULL, baselines) : -ENOMEM;

    if (r >= 0)
        r = compare(tune, baselines, &best, &value);
    if (r >= 0)
        r = search(tune, baselines, &best, &value);
    if (r >= 0)
        r = report(tune, &best, value.goal);
    if (r >= 0)
        *ret = best;
    return r;
}
