// SPDX-License-Identifier: GPL-2.0-or-later
/* Each policy and each backfilling on a few jobs computed by hand, textbook averages, and queueing theory's closed forms, all
 * through the engine's queue as the simulator drives it. */
#include "test.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/order.h"
#include "simulator/queue-simulation.h"

#define JOBS_MAXIMUM 6

struct job {
    int64_t submitted, run;
    uint32_t processors; /* 0: one */
    int64_t queue;       /* smaller is more important; priority = -queue */
    int64_t user, requested;
};

struct example {
    const char *policy;
    enum backfill backfill;
    uint64_t processors;
    struct job jobs[JOBS_MAXIMUM];
    int64_t ends[JOBS_MAXIMUM];
    const char *set[8]; /* name, value, … */
};

static struct queue_run run_of(const struct example *example, struct swf_job *jobs) {
    struct error error = ERROR_INIT;
    struct queue_run run = { .jobs = jobs, .processors = example->processors ? example->processors : 1,
                             .backfill = example->backfill };

    assert_int_equal(policy_find(example->policy, &run.policy, &error), 0);
    policy_parameters_init(&run.parameters);
    for (size_t i = 0; i < ELEMENTS(example->set) && example->set[i]; i += 2)
        assert_int_equal(policy_parameters_set(&run.parameters, example->set[i], example->set[i + 1], &error), 0);
    for (; run.count < JOBS_MAXIMUM && example->jobs[run.count].run > 0; run.count++) {
        const struct job *job = &example->jobs[run.count];
        jobs[run.count] = (struct swf_job){ .id = (int64_t) run.count, .submitted = job->submitted, .run = job->run,
                                            .requested = job->requested ? job->requested : job->run,
                                            .user = job->user, .queue = job->queue,
                                            .processors = job->processors ? job->processors : 1 };
    }
    return run;
}

static double expect(const struct example *example) {
    struct swf_job jobs[JOBS_MAXIMUM];
    struct queue_run run = run_of(example, jobs);
    _cleanup_outcome_ struct queue_outcome outcome = { 0 };

    assert_int_equal(queue_simulate(&run, &outcome), 0);
    for (size_t i = 0; i < run.count; i++)
        if (outcome.ends[i] != example->ends[i])
            fail_msg("%s, %s: job %zu ends at %lld, by hand at %lld", example->policy,
                     backfill_names[example->backfill], i + 1, (long long) outcome.ends[i],
                     (long long) example->ends[i]);
    return outcome.wait;
}

/* Four jobs on one processor; at 5 the second, third and fourth wait. */
#define FOUR .jobs = { { 0, 5 }, { 1, 3 }, { 2, 1 }, { 3, 4 } }
/* The whole machine is taken until 100,090; then two of different shape, a second apart, are chosen from. */
#define LATE_PAIR(time1, size1, time2, size2) \
    .processors = 4, .jobs = { { 99990, 100, 4 }, { 100000, time1, size1 }, { 100001, time2, size2 } }

static const struct example policies_by_hand[] = {
    { "fcfs", FOUR, .ends = { 5, 8, 9, 13 } },
    { "sjf", FOUR, .ends = { 5, 9, 6, 13 } },
    /* The second has less left at 1, the third at 2; at 5 the first and the fourth have 4 each. */
    { "srtf", FOUR, .ends = { 9, 5, 3, 13 } },
    /* At 10: (10 + 6) / 6 against (1 + 4) / 4. */
    { "xf", .jobs = { { 0, 10 }, { 0, 6 }, { 9, 4 } }, .ends = { 10, 16, 20 } },
    { "sjf:demand", .processors = 4, .jobs = { { 0, 10, 4 }, { 1, 5, 4 }, { 2, 5, 2 } }, .ends = { 10, 20, 15 } },
    /* Areas 12, 16 and 8. */
    { "saf", .processors = 4, .jobs = { { 0, 10, 4 }, { 1, 6, 2 }, { 2, 4, 4 }, { 3, 2, 4 } }, .ends = { 10, 18, 22, 12 } },
    { "priority", .jobs = { { 0, 5, 1, 3 }, { 2, 3, 1, 1 }, { 2, 3, 1, 2 } }, .ends = { 5, 8, 11 } },
    { "priority:preemptive", .jobs = { { 0, 5, 1, 3 }, { 2, 3, 1, 1 }, { 2, 3, 1, 2 } }, .ends = { 11, 5, 8 } },
    /* At 10: 0 + 9 x ageing against 4 + 4 x ageing. */
    { "dynamic", .jobs = { { 0, 10 }, { 1, 5 }, { 6, 5, 1, -4 } }, .ends = { 10, 15, 20 }, { "dynamic.ageing", "1" } },
    { "dynamic", .jobs = { { 0, 10 }, { 1, 5 }, { 6, 5, 1, -4 } }, .ends = { 10, 20, 15 }, { "dynamic.ageing", "0.1" } },
    /* The second's owner used the node for 10 s: 0.9 - 10 against 0.4. */
    { "dynamic", .jobs = { { 0, 10, 1, 0, 7 }, { 1, 5, 1, 0, 7 }, { 6, 5, 1, 0, 8 } }, .ends = { 10, 20, 15 },
      { "dynamic.ageing", "0.1", "dynamic.fairness", "1" } },
    /* But after 8 s of waiting the alarm rings. */
    { "dynamic", .jobs = { { 0, 10, 1, 0, 7 }, { 1, 5, 1, 0, 7 }, { 6, 5, 1, 0, 8 } }, .ends = { 10, 15, 20 },
      { "dynamic.ageing", "0.1", "dynamic.fairness", "1", "alarm", "8" } },
    /* (8 / 4)^3 x 4 = 32 against (6 / 3)^3 x 2 = 16; 8 / (2 x 4) = 1 against 6 / (1 x 3) = 2. */
    { "wfp3", .processors = 4, .jobs = { { 0, 10, 4 }, { 2, 4, 4 }, { 4, 3, 2 } }, .ends = { 10, 14, 17 } },
    { "unicep", .processors = 4, .jobs = { { 0, 10, 4 }, { 2, 4, 4 }, { 4, 3, 2 } }, .ends = { 10, 17, 13 } },
    /* log10(16) x 4 = 4.8 against 2 x 2 = 4; 4 x 4 = 16 against 10 x 2 = 20; the second of submission adds 0.004 and 0.1. */
    { "f1", LATE_PAIR(16, 4, 100, 2), .ends = { 100090, 100206, 100190 } },
    { "f2", LATE_PAIR(16, 4, 100, 2), .ends = { 100090, 100106, 100206 } },
    /* 90 x 4 = 360 against 200 + 30; 90 x 2 = 180 against 200 + 2. */
    { "f3", LATE_PAIR(90, 4, 200, 1), .ends = { 100090, 100380, 100290 } },
    { "f4", LATE_PAIR(90, 4, 200, 1), .ends = { 100090, 100180, 100380 } },
    /* Round robin: the first is put back behind those that came meanwhile. */
    { "rr", .jobs = { { 0, 5 }, { 1, 3 }, { 2, 1 } }, .ends = { 9, 8, 5 }, { "rr.quantum", "2" } },
    /* Waited by time: 8 / 4 against 4 / 1, then the alarm after 8 s. */
    { "polder", .jobs = { { 0, 10 }, { 2, 4 }, { 6, 1 } }, .ends = { 10, 15, 11 },
      { "polder.patience", "0", "polder.floor", "0", "polder.urgency", "0", "polder.drain", "0" } },
    { "polder", .jobs = { { 0, 10 }, { 2, 4 }, { 6, 1 } }, .ends = { 10, 14, 15 }, { "alarm", "8", "polder.drain", "0" } },
};

static const struct example backfills_by_hand[] = {
    { "fcfs", BACKFILL_NONE, 4, .jobs = { { 0, 10, 3 }, { 1, 10, 4 }, { 2, 6, 1 }, { 3, 9, 1 } }, .ends = { 10, 20, 26, 29 } },
    /* The third ends by 10, when the second may start; the fourth would not. */
    { "fcfs", BACKFILL_EASY, 4, .jobs = { { 0, 10, 3 }, { 1, 10, 4 }, { 2, 6, 1 }, { 3, 9, 1 } }, .ends = { 10, 20, 8, 29 } },
    { "fcfs", BACKFILL_GREEDY, 4, .jobs = { { 0, 10, 3 }, { 1, 10, 4 }, { 2, 6, 1 }, { 3, 9, 1 } }, .ends = { 10, 27, 8, 17 } },
    /* The fourth needs no more than the extra processor beside the second, and delays the third, which EASY does not mind. */
    { "fcfs", BACKFILL_EASY, 4, .jobs = { { 0, 10, 2 }, { 1, 10, 3 }, { 2, 10, 4 }, { 3, 30, 1 } }, .ends = { 10, 20, 43, 33 } },
    { "fcfs", BACKFILL_CONSERVATIVE, 4, .jobs = { { 0, 10, 2 }, { 1, 10, 3 }, { 2, 10, 4 }, { 3, 30, 1 } },
      .ends = { 10, 20, 30, 60 } },
    /* Of two that would fit until 10 one goes ahead: the first to come, or the shorter. */
    { "fcfs", BACKFILL_EASY, 4, .jobs = { { 0, 10, 3 }, { 1, 10, 4 }, { 2, 7, 1 }, { 2, 3, 1 } }, .ends = { 10, 20, 9, 23 } },
    { "fcfs", BACKFILL_EASY_SJBF, 4, .jobs = { { 0, 10, 3 }, { 1, 10, 4 }, { 2, 7, 1 }, { 2, 3, 1 } }, .ends = { 10, 20, 27, 5 } },
    /* The first asked for 30 and ends at 10: the reservations move up. */
    { "fcfs", BACKFILL_CONSERVATIVE, 4, .jobs = { { 0, 10, 3, 0, 0, 30 }, { 1, 10, 4 }, { 2, 10, 2 } }, .ends = { 10, 20, 30 } },
};

static void test_each_policy_by_hand(void **state _unused_) {
    for (size_t i = 0; i < ELEMENTS(policies_by_hand); i++)
        expect(&policies_by_hand[i]);
}

static void test_every_policy_has_an_example(void **state _unused_) {
    for (const struct policy *policy = policies; policy->name; policy++) {
        bool found = false;
        for (size_t i = 0; i < ELEMENTS(policies_by_hand); i++)
            found = found || strcmp(policies_by_hand[i].policy, policy->name) == 0;
        if (!found)
            fail_msg("%s has no example", policy->name);
    }
}

static void test_each_backfilling_by_hand(void **state _unused_) {
    for (size_t i = 0; i < ELEMENTS(backfills_by_hand); i++)
        expect(&backfills_by_hand[i]);
}

/* Silberschatz, Galvin, Gagne: Operating System Concepts, the chapter on CPU scheduling: mean waits. */
static void test_textbook_averages(void **state _unused_) {
    static const struct {
        struct example example;
        double wait;
    } cases[] = {
        { { "fcfs", .jobs = { { 0, 24 }, { 0, 3 }, { 0, 3 } }, .ends = { 24, 27, 30 } }, 17 },
        { { "sjf", .jobs = { { 0, 6 }, { 0, 8 }, { 0, 7 }, { 0, 3 } }, .ends = { 9, 24, 16, 3 } }, 7 },
        { { "srtf", .jobs = { { 0, 8 }, { 1, 4 }, { 2, 9 }, { 3, 5 } }, .ends = { 17, 5, 26, 10 } }, 6.5 },
        { { "sjf", .jobs = { { 0, 8 }, { 1, 4 }, { 2, 9 }, { 3, 5 } }, .ends = { 8, 12, 26, 17 } }, 7.75 },
        { { "rr", .jobs = { { 0, 24 }, { 0, 3 }, { 0, 3 } }, .ends = { 30, 7, 10 }, { "rr.quantum", "4" } }, 17. / 3 },
        { { "priority", .jobs = { { 0, 10, 1, 3 }, { 0, 1, 1, 1 }, { 0, 2, 1, 4 }, { 0, 1, 1, 5 }, { 0, 5, 1, 2 } },
            .ends = { 16, 1, 18, 19, 6 } }, 8.2 },
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++)
        assert_float_equal(expect(&cases[i].example), cases[i].wait, 1e-9);
}

/* --- closed forms: one server, Poisson arrivals, mean service 1 --- */

#define UNIT 1000 /* ticks in the mean service */

static uint64_t random_state;

static double random_unit(void) {
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = random_state;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return ((double) ((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
}

static double random_exponential(double mean) {
    return -mean * log(random_unit());
}

/* Balanced hyperexponential with mean 1 and a squared coefficient of variation of 10. */
static double random_hyperexponential(void) {
    double p = (1 + sqrt(9. / 11)) / 2;

    return random_unit() < p ? random_exponential(1 / (2 * p)) : random_exponential(1 / (2 * (1 - p)));
}

struct theory {
    const char *policy;
    bool hyper;
    double load, response[2]; /* of all, or of the two classes, of which the first has 30 % */
    double within;
    size_t count;
};

/* Pollaczek-Khinchine; processor sharing; Cobham's priorities; shortest job and shortest remaining time by numerical
 * integration of the conditional response (Kleinrock, Queueing Systems 2, chapter 3). */
static const struct theory theories[] = {
    { "fcfs", false, .5, { 2 }, .03, 200000 },
    { "fcfs", false, .7, { 10. / 3 }, .04, 200000 },
    { "fcfs", true, .5, { 6.5 }, .06, 400000 },
    { "sjf", false, .5, { 1.7127 }, .03, 200000 },
    { "sjf", false, .7, { 2.3122 }, .03, 200000 },
    { "sjf", true, .5, { 4.3084 }, .06, 400000 },
    { "srtf", false, .5, { 1.4254 }, .03, 200000 },
    { "srtf", false, .7, { 1.8746 }, .03, 200000 },
    { "srtf", false, .9, { 3.5521 }, .05, 400000 },
    { "srtf", true, .7, { 1.7801 }, .05, 400000 },
    { "rr", false, .5, { 2 }, .04, 50000 },
    { "rr", true, .5, { 2 }, .08, 100000 },
    { "priority", false, .7, { 1.8861, 3.9536 }, .04, 200000 },
    { "priority:preemptive", false, .7, { 1.2658, 4.2194 }, .04, 200000 },
    { "priority", true, .5, { 4.2353, 7.4706 }, .06, 400000 },
    { "priority:preemptive", true, .5, { 1.9706, 7.6471 }, .06, 400000 },
};

static void expect_theory(const struct theory *theory) {
    _cleanup_free_ struct swf_job *jobs = calloc(theory->count, sizeof(*jobs));
    _cleanup_outcome_ struct queue_outcome outcome = { 0 };
    struct queue_run run = { .jobs = jobs, .count = theory->count, .processors = 1, .estimate = ESTIMATE_ACTUAL };
    double time = 0, sums[2] = { 0 }, counts[2] = { 0 };
    bool classes = theory->response[1] > 0;
    struct error error = ERROR_INIT;

    random_state = 7;
    for (size_t i = 0; i < theory->count; i++) {
        double service = theory->hyper ? random_hyperexponential() : random_exponential(1);
        int64_t ticks = (int64_t) (service * UNIT + 0.5);
        time += random_exponential(1 / theory->load);
        jobs[i] = (struct swf_job){ .id = (int64_t) i, .submitted = (int64_t) (time * UNIT), .run = ticks > 0 ? ticks : 1,
                                    .processors = 1, .queue = classes && random_unit() >= .3 };
        jobs[i].requested = jobs[i].run;
    }
    assert_int_equal(policy_find(theory->policy, &run.policy, &error), 0);
    policy_parameters_init(&run.parameters);
    run.parameters.quantum = UNIT / 20;
    assert_int_equal(queue_simulate(&run, &outcome), 0);
    for (size_t i = 0; i < theory->count; i++) {
        sums[jobs[i].queue] += (double) (outcome.ends[i] - jobs[i].submitted) / UNIT;
        counts[jobs[i].queue]++;
    }
    for (size_t class = 0; class < (classes ? 2 : 1); class++) {
        double mean = sums[class] / counts[class], expected = theory->response[class];
        if (fabs(mean / expected - 1) > theory->within)
            fail_msg("%s, %s, load %.1f, class %zu: mean response %.4f, in theory %.4f", theory->policy,
                     theory->hyper ? "H2" : "exponential", theory->load, class, mean, expected);
    }
}

static void test_queueing_theory(void **state _unused_) {
    for (size_t i = 0; i < ELEMENTS(theories); i++)
        expect_theory(&theories[i]);
}

/* --- the queue itself --- */

struct turns {
    struct queue *queue;
    uint32_t running;
};

static void note_turn(void *userdata, uint32_t handle, enum queue_state decision) {
    struct turns *turns = userdata;

    if (decision == QUEUE_RUNNING)
        turns->running = handle;
}

static struct queue *queue_of(const char *policy, enum backfill backfill, uint64_t cpus) {
    struct queue_options options = { .backfill = backfill, .capacity = { .cpus = cpus, .memory = 100 }, .second = 1 };
    struct error error = ERROR_INIT;
    struct queue *queue = NULL;

    assert_int_equal(policy_find(policy, &options.policy, &error), 0);
    policy_parameters_init(&options.parameters);
    options.parameters.quantum = 1;
    assert_int_equal(queue_new(&options, &queue), 0);
    return queue;
}

/* T_next = T_current + B_burst / R_remaining: of 400 bursts one with weight 3 has 300, one with weight 1 has 100. */
static void test_round_robin_by_weight(void **state _unused_) {
    _cleanup_queue_ struct queue *queue = queue_of("rr", BACKFILL_NONE, 1);
    struct turns turns = { .queue = queue };
    unsigned bursts[2] = { 0 };
    uint32_t handles[2];

    for (uint64_t i = 0; i < 2; i++) {
        struct queue_request request = { .id = i, .estimate = TIME_FOREVER, .demand = { .cpus = 1 },
                                         .weight = i == 0 ? 3 : 1 };
        assert_int_equal(queue_submit(queue, &request, 0, &handles[i]), 0);
    }
    for (int64_t now = 0; now < 400; now++) {
        assert_int_equal(queue_pass(queue, now, note_turn, &turns), 0);
        bursts[turns.running == handles[0] ? 0 : 1]++;
        assert_int_equal(queue_burst(queue, turns.running, now + 1), 0);
    }
    assert_in_range(bursts[0], 299, 301);
    assert_in_range(bursts[1], 99, 101);
}

/* What is expected of one that waits changes, and with it its place: 30, 20, 10 s, then the first 5 s. */
static void test_new_expectations_move_it(void **state _unused_) {
    _cleanup_queue_ struct queue *queue = queue_of("sjf", BACKFILL_EASY, 1);
    struct queue_forecast forecasts[4];
    struct turns turns = { .queue = queue };
    uint32_t handles[4];

    for (uint64_t i = 0; i < 4; i++) {
        struct queue_request request = { .id = i, .estimate = 40 - 10 * (int64_t) i, .demand = { .cpus = 1 } };
        assert_int_equal(queue_submit(queue, &request, 0, &handles[i]), 0);
        if (i == 0)
            assert_int_equal(queue_pass(queue, 0, note_turn, &turns), 0);
    }
    assert_int_equal(queue_forecast(queue, 0, forecasts, 4), 3);
    assert_int_equal(forecasts[0].handle, handles[3]);
    assert_int_equal(forecasts[0].start, 40);
    assert_int_equal(forecasts[1].start, 50);
    assert_int_equal(forecasts[2].start, 70);
    assert_int_equal(queue_expect(queue, handles[1], 5, 0, 1), 0);
    assert_int_equal(queue_forecast(queue, 1, forecasts, 4), 3);
    assert_int_equal(forecasts[0].handle, handles[1]);
    assert_int_equal(forecasts[1].start, 45);
    assert_int_equal(queue_expect(queue, handles[0], 5, 0, 1), 0); /* it runs: nothing */
    assert_int_equal(queue_forecast(queue, 1, forecasts, 4), 3);
    assert_int_equal(forecasts[0].start, 40);
}

static struct prediction predict(const struct predictor *predictor, uint64_t owner, uint64_t class, int64_t requested) {
    struct run_traits traits = { .owner = owner, .class = class, .cpus = 4, .requested = requested };

    return predictor_predict(predictor, &traits, 0);
}

static void learn(struct predictor *predictor, uint64_t owner, uint64_t class, int64_t requested, int64_t run) {
    struct run_traits traits = { .owner = owner, .class = class, .cpus = 4, .requested = requested };

    assert_int_equal(predictor_learn(predictor, &traits, run), 0);
}

/* Two users: one whose runs of this request end at once, one whose runs take all of it. */
static void test_expectations_from_history(void **state _unused_) {
    _cleanup_predictor_ struct predictor *predictor = NULL;
    struct prediction quick, slow, stranger;

    assert_int_equal(predictor_new(ESTIMATE_HISTORY, 1, &predictor), 0);
    assert_int_equal(predict(predictor, 1, 0, 3600).time, 3600); /* nothing is known */
    for (int i = 0; i < 20; i++) {
        learn(predictor, 1, 0, 3600, 10);
        learn(predictor, 2, 0, 3600, 3600);
    }
    quick = predict(predictor, 1, 0, 3600);
    slow = predict(predictor, 2, 0, 3600);
    stranger = predict(predictor, 3, 0, 3600);
    assert_true(quick.time < 600 && quick.urgency > .08);
    assert_true(slow.time > 3000 && slow.urgency < .02);
    assert_in_range(stranger.time, 1200, 2400); /* half of everybody's */
    assert_true(stranger.urgency > slow.urgency && stranger.urgency < quick.urgency);
}

/* By hand, where a class is named. Without a limit: two runs of 40 s and 20 s make 30 s and (1/40 + 1/20) / 2; one alone is no
 * proof that it ends. With a limit of 100 s each level's share in turn: all (40/100 + 20/100) / 2 = 0.3 over two runs against
 * 1 for 0.2 of one, and so on; the class by its run times, whatever its limits were. */
static void test_expectations_of_a_class(void **state _unused_) {
    _cleanup_predictor_ struct predictor *predictor = NULL;
    double share = 1;

    assert_int_equal(predictor_new(ESTIMATE_LEARNING, 1, &predictor), 0);
    learn(predictor, 1, 7, TIME_FOREVER, 40);
    assert_true(predict(predictor, 1, 7, TIME_FOREVER).time >= TIME_FOREVER);
    learn(predictor, 1, 7, TIME_FOREVER, 20);
    assert_int_equal(predict(predictor, 2, 7, TIME_FOREVER).time, 30);
    assert_true(predict(predictor, 2, 7, TIME_FOREVER).urgency == (1. / 40 + 1. / 20) / 2);
    assert_true(predict(predictor, 1, 8, TIME_FOREVER).time >= TIME_FOREVER);
    /* What had no limit says nothing of shares: the class's 30 s of 100 count for two runs against 3 of what is more general. */
    assert_int_equal(predict(predictor, 1, 7, 100).time, (int64_t) ((1. * 3 + .3 * 2) / 5 * 100));
    learn(predictor, 1, 9, 100, 40);
    learn(predictor, 1, 9, 100, 20);
    share = (share * .2 + .3 * 2) / 2.2;
    share = (share * 17 + .3 * 2) / 19;
    share = (share * 1.75 + .3 * 2) / 3.75;
    assert_int_equal(predict(predictor, 1, 9, 100).time, (int64_t) ((share * 3 + .3 * 2) / 5 * 100));
    predictor_use(predictor, ESTIMATE_TSAFRIR);
    assert_int_equal(predict(predictor, 1, 9, 100).time, 30);
}

/* Of a bounded memory everything comes back, and tells the same. */
static void test_what_was_learnt_comes_back(void **state _unused_) {
    _cleanup_predictor_ struct predictor *predictor = NULL, *again = NULL;
    int64_t values[PREDICTOR_VALUES];
    size_t position = 0, count = 0;
    uint64_t moment;

    assert_int_equal(predictor_new(ESTIMATE_HISTORY, 1, &predictor), 0);
    assert_int_equal(predictor_new(ESTIMATE_HISTORY, 1, &again), 0);
    predictor_bound(predictor, 64);
    predictor_bound(again, 64);
    for (uint64_t i = 0; i < 1000; i++)
        learn(predictor, i % 3, 10 + i / 10, 1000, (int64_t) (i % 700));
    while (predictor_next(predictor, &position, values)) {
        assert_int_equal(predictor_restore(again, values), 0);
        count++;
    }
    assert_in_range(count, 8, 128); /* the smallest table holds 128 */
    assert_int_equal(predictor_moment(again), predictor_moment(predictor));
    moment = predictor_moment(again);
    for (uint64_t i = 0; i < 200; i++) { /* and goes on alike, beyond the bound */
        learn(predictor, i % 3, 200 + i, 1000, 5);
        learn(again, i % 3, 200 + i, 1000, 5);
        assert_int_equal(predict(predictor, 1, 10 + i, 900).time, predict(again, 1, 10 + i, 900).time);
        assert_true(predict(predictor, 1, 10 + i, 900).urgency == predict(again, 1, 10 + i, 900).urgency);
    }
    assert_true(predictor_has_news(again, &(struct run_traits){ .owner = 1, .class = 5000, .requested = 9 }, moment));
    assert_false(predictor_has_news(again, &(struct run_traits){ .owner = 77, .class = 5000, .requested = 9 }, moment));
    values[2] = -5;
    assert_int_equal(predictor_restore(again, values), -EINVAL);
    values[2] = 1;
    values[4] = -1; /* the bits of a number that is none */
    assert_int_equal(predictor_restore(again, values), -EINVAL);
}

/* More owners than are remembered: the last ones are. */
static void test_history_is_bounded(void **state _unused_) {
    _cleanup_predictor_ struct predictor *predictor = NULL;

    assert_int_equal(predictor_new(ESTIMATE_TSAFRIR, 1, &predictor), 0);
    for (uint64_t owner = 0; owner < 300000; owner++)
        for (int i = 0; i < 2; i++)
            learn(predictor, owner, 0, 1000, 100);
    assert_int_equal(predict(predictor, 299999, 0, 1000).time, 100);
    assert_int_equal(predict(predictor, 290000, 0, 1000).time, 100);
    assert_int_equal(predict(predictor, 5, 0, 1000).time, 1000);
}

static void test_impossible_is_refused(void **state _unused_) {
    _cleanup_queue_ struct queue *queue = queue_of("polder", BACKFILL_EASY, 4);
    struct queue_request request = { .estimate = 1, .demand = { .cpus = 5 } };
    uint32_t handle;

    assert_int_equal(queue_submit(queue, &request, 0, &handle), -ENOSPC);
    request.demand = (struct demand){ .cpus = 1, .memory = 101 };
    assert_int_equal(queue_submit(queue, &request, 0, &handle), -ENOSPC);
    assert_int_equal(queue_waiting(queue), 0);
}

/* 100,000 that wait, under a policy whose order changes with time as under others, in less than 200 bytes each. */
static void test_memory_of_those_that_wait(void **state _unused_) {
    static const char *const names[] = { "fcfs", "polder", NULL };

    for (size_t p = 0; names[p]; p++) {
        _cleanup_queue_ struct queue *queue = queue_of(names[p], BACKFILL_EASY, 64);
        struct turns turns = { .queue = queue };
        uint32_t handle;
        random_state = 3;
        for (uint64_t i = 0; i < 100000; i++) {
            struct queue_request request = { .id = i, .submitted = (int64_t) i, .demand = { .cpus = 1 + i % 64 },
                                             .estimate = 1 + (int64_t) (random_unit() * 1e5) };
            assert_int_equal(queue_submit(queue, &request, (int64_t) i, &handle), 0);
        }
        assert_int_equal(queue_pass(queue, 100000, note_turn, &turns), 0);
        assert_true(queue_waiting(queue) > 99900);
        if (queue_size(queue) / queue_waiting(queue) >= 200)
            fail_msg("%s: %zu bytes each", names[p], queue_size(queue) / queue_waiting(queue));
    }
}

/* The list of blocks against a plain array. */
static void test_order_is_a_sorted_list(void **state _unused_) {
    struct order order = { 0 };
    _cleanup_free_ int64_t *keys = calloc(5000, sizeof(*keys));
    size_t waiting = 0;

    random_state = 11;
    for (size_t i = 0; i < 5000; i++) {
        struct order_slot slot = { .key = keys[i] = (int64_t) (random_unit() * 100), .id = i, .handle = (uint32_t) i };
        assert_int_equal(order_add(&order, &slot, (struct demand){ 1, 1 }, 1), 0);
    }
    for (size_t i = 0; i < 5000; i++) {
        if (random_unit() < .5)
            order_remove(&order, keys[i], i), keys[i] = -1;
        else
            waiting++;
    }
    assert_int_equal(order.count, waiting);
    for (size_t i = 0; i < 5000; i += 7) {
        size_t before = 0;
        for (size_t j = 0; j < 5000; j++)
            before += keys[j] >= 0 && (keys[j] < keys[i] || (keys[j] == keys[i] && j < i));
        if (keys[i] >= 0)
            assert_int_equal(order_rank(&order, keys[i], i), before);
    }
    order_done(&order);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_policy_by_hand),
        cmocka_unit_test(test_every_policy_has_an_example),
        cmocka_unit_test(test_each_backfilling_by_hand),
        cmocka_unit_test(test_textbook_averages),
        cmocka_unit_test(test_queueing_theory),
        cmocka_unit_test(test_round_robin_by_weight),
        cmocka_unit_test(test_new_expectations_move_it),
        cmocka_unit_test(test_expectations_from_history),
        cmocka_unit_test(test_expectations_of_a_class), cmocka_unit_test(test_what_was_learnt_comes_back),
        cmocka_unit_test(test_history_is_bounded),
        cmocka_unit_test(test_impossible_is_refused),
        cmocka_unit_test(test_memory_of_those_that_wait),
        cmocka_unit_test(test_order_is_a_sorted_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
