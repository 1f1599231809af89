// SPDX-License-Identifier: GPL-2.0-or-later
/* bench-queue [REPORT.html], as JSON: how fast the engine's queue is: an arrival among 100,000 that wait, a log of 300,000 jobs under
 * EASY, and bytes for each that waits. The report shows how these grow with the number that wait, and with that of jobs. Random numbers: splitmix64 with a fixed seed. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "simulator/plot.h"
#include "simulator/queue-simulation.h"

#define WAITING 100000
#define ARRIVALS 20000
#define JOBS 300000

static uint64_t state;

static uint64_t number(uint64_t below) {
    state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = state;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % below;
}

static double now(void) {
    struct timespec time;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double) time.tv_sec + (double) time.tv_nsec * 1e-9;
}

static void ignore(void *userdata, uint32_t handle, enum queue_state decision) {
}

static int compare(const void *a, const void *b) {
    const double *left = a, *right = b;

    return *left < *right ? -1 : *left > *right;
}

static struct queue_request request_of(uint64_t id, int64_t time) {
    return (struct queue_request){ .id = id, .owner = number(200), .submitted = time, .urgency = 1. / (double) (10 + number(5000)),
                                   .estimate = 1 + (int64_t) number(86400), .demand = { .cpus = 1 + number(64) } };
}

struct arrival {
    double median, p99; /* microseconds */
    double pass;        /* seconds */
    size_t bytes;       /* for each that waits */
};

static int arrivals(const char *name, int64_t refresh, uint64_t waiting, struct arrival *ret) {
    static double times[ARRIVALS];
    struct queue_options options = { .backfill = BACKFILL_EASY, .capacity = { .cpus = 64 }, .second = 1, .refresh = refresh };
    struct queue *queue;
    uint32_t handle;
    int64_t time = 0;

    state = 1;
    policy_parameters_init(&options.parameters);
    if (policy_find(name, &options.policy, NULL) < 0 || queue_new(&options, &queue) < 0)
        return 1;
    for (uint64_t i = 0; i < waiting; i++) {
        struct queue_request request = request_of(i, time);
        if (queue_submit(queue, &request, time, &handle) < 0)
            return 1;
        if (i % 100 == 0)
            time++;
    }
    double begin = now();
    if (queue_pass(queue, time, ignore, NULL) < 0)
        return 1;
    double pass = now() - begin;
    for (uint64_t i = 0; i < ARRIVALS; i++) {
        struct queue_request request = request_of(waiting + i, time);
        begin = now();
        if (queue_submit(queue, &request, time, &handle) < 0)
            return 1;
        times[i] = (now() - begin) * 1e6;
        if (queue_remove(queue, handle, time) < 0)
            return 1;
    }
    qsort(times, ARRIVALS, sizeof(*times), compare);
    *ret = (struct arrival){ times[ARRIVALS / 2], times[ARRIVALS * 99 / 100], pass, queue_size(queue) / queue_waiting(queue) };
    queue_free(queue);
    return 0;
}

static int print_arrivals(const char *name, int64_t refresh) {
    struct arrival found;

    if (arrivals(name, refresh, WAITING, &found) != 0)
        return 1;
    printf(" \"arrival_%s\": {\"median_us\": %.2f, \"p99_us\": %.2f, \"pass_ms\": %.2f, \"bytes\": %zu},\n", name, found.median,
           found.p99, found.pass * 1e3, found.bytes);
    return 0;
}

/* A load of 85 % on 256 processors. */
static int replay(const char *name, enum estimate estimate, size_t count, double *ret_seconds) {
    struct swf_job *jobs = calloc(count, sizeof(*jobs));
    struct queue_run run = { .jobs = jobs, .count = count, .processors = 256, .backfill = BACKFILL_EASY, .estimate = estimate };
    struct queue_outcome outcome = { 0 };
    int64_t time = 0;

    state = 2;
    policy_parameters_init(&run.parameters);
    if (!jobs || policy_find(name, &run.policy, NULL) < 0)
        return 1;
    for (size_t i = 0; i < count; i++) {
        uint64_t size = UINT64_C(1) << number(6), time_scale = UINT64_C(1) << number(13);
        int64_t length = 1 + (int64_t) number(time_scale * 4);
        jobs[i] = (struct swf_job){ .id = (int64_t) i, .submitted = time, .run = length, .user = (int64_t) number(100),
                                    .requested = length * (1 + (int64_t) number(8)), .processors = (uint32_t) size };
        time += (int64_t) number(2 * 62);
    }
    double begin = now();
    if (queue_simulate(&run, &outcome) < 0)
        return 1;
    *ret_seconds = now() - begin;
    printf(" \"replay_%s_%s_%zu\": {\"seconds\": %.3f, \"used\": %.2f, \"waiting\": %zu},\n", name, estimate_names[estimate],
           count, *ret_seconds, outcome.utilisation, outcome.waiting_maximum);
    queue_outcome_done(&outcome);
    free(jobs);
    return 0;
}

#define REPLAYS 5
static const char *const policy_names[] = { "fcfs", "sjf", "polder" };
static const uint64_t lengths[] = { 1000, 3000, 10000, 30000, 100000, 300000, 1000000 };

struct growth {
    double jobs[REPLAYS], seconds[REPLAYS];
    double waiting[ELEMENTS(lengths)], arrival[ELEMENTS(policy_names)][ELEMENTS(lengths)],
            pass[ELEMENTS(policy_names)][ELEMENTS(lengths)];
};

static void draw(struct buffer *page, const char *title, const char *label, const struct growth *growth,
                 const double (*values)[ELEMENTS(lengths)]) {
    struct plot_line lines[ELEMENTS(policy_names)];

    for (size_t i = 0; i < ELEMENTS(policy_names); i++)
        lines[i] = (struct plot_line){ policy_names[i], growth->waiting, values[i], ELEMENTS(lengths) };
    plot_lines(page, &(struct plot){ .title = title, .x_label = "instances that wait", .y_label = label, .lines = lines,
                                     .line_count = ELEMENTS(policy_names), .x_logarithmic = true, .y_logarithmic = true });
}

static void print_growth(const char *name, const struct growth *growth, const double (*values)[ELEMENTS(lengths)]) {
    printf(" \"growth_%s\": [", name);
    for (size_t i = 0; i < ELEMENTS(lengths); i++)
        printf("%s[%.0f, %.3f, %.3f, %.3f]", i ? ", " : "", growth->waiting[i], values[0][i], values[1][i], values[2][i]);
    printf("],\n");
}

static int write_report(const char *path, struct growth *growth) {
    _cleanup_buffer_ struct buffer page = BUFFER_INIT;
    struct arrival found;

    for (size_t i = 0; i < ELEMENTS(lengths); i++)
        for (size_t j = 0; j < ELEMENTS(policy_names); j++) {
            if (arrivals(policy_names[j], 60, lengths[i], &found) != 0)
                return 1;
            growth->waiting[i] = (double) lengths[i];
            growth->arrival[j][i] = found.median;
            growth->pass[j][i] = found.pass * 1e3;
        }
    plot_page_begin(&page, "Cost of the queue", "CPU time on one core.");
    draw(&page, "An arrival (median)", "microseconds", growth, growth->arrival);
    draw(&page, "A pass over all, with scores made anew where they change", "milliseconds", growth, growth->pass);
    const struct plot_line line = { "fcfs", growth->jobs, growth->seconds, REPLAYS };
    plot_lines(&page, &(struct plot){ .title = "A log under EASY", .x_label = "jobs", .y_label = "seconds", .lines = &line,
                                      .line_count = 1, .y_from_zero = true });
    print_growth("arrival_us", growth, growth->arrival);
    print_growth("pass_ms", growth, growth->pass);
    return plot_page_write(&page, path, NULL) < 0;
}

int main(int count, char **words) {
    struct growth growth = { 0 };
    double seconds;
    int r = 0;

    puts("{");
    r += print_arrivals("fcfs", 0) + print_arrivals("sjf", 0) + print_arrivals("polder", 60);
    for (size_t i = 0; i < REPLAYS; i++) {
        growth.jobs[i] = JOBS / 8. * (double) (1 << i);
        r += replay("fcfs", ESTIMATE_REQUESTED, (size_t) growth.jobs[i], &growth.seconds[i]);
    }
    r += replay("polder", ESTIMATE_REQUESTED, JOBS, &seconds);
    r += replay("polder", ESTIMATE_LEARNING, JOBS, &seconds);
    if (count > 1)
        r += write_report(words[1], &growth);
    printf(" \"waiting\": %d\n}\n", WAITING);
    return r > 0;
}
