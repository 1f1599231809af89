// SPDX-License-Identifier: GPL-2.0-or-later
/* How fast the engine places: bench-placement [REPORT.html]. One core. A cluster is filled to about 70 %,
 * then instances come and go. Rates are by CPU time and include the departures; latencies are of arrivals:
 * decision, ledger record and promise. Prints JSON. The report shows how the cost of a decision grows with
 * nodes and with instances; its figures are printed as well. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/placement-ledger.h"
#include "simulator/draw.h"
#include "simulator/plot.h"

#define GIB (UINT64_C(1) << 30)
#define CPU UINT64_C(1000000)
#define SHAPES 24
#define GROUPS 200
#define LEDGER 4096
#define MOST_HELD 4000000
#define ROUND 100 /* arrivals, then as many departures */

struct bench {
    struct nodes *nodes;
    struct placement placement;
    struct placement_ledger ledger;
    struct placement_request requests[SHAPES * 4];
    size_t request_count;
    uint32_t *held;
    size_t held_count;
    uint64_t state;
    bool constrained, recorded;
};

static uint64_t now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

/* Of this thread: what else runs on the machine does not count. */
static uint64_t cpu_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
}

static void need(int r) {
    if (r >= 0)
        return;
    fprintf(stderr, "bench-placement: %s\n", strerror(-r));
    exit(1);
}

static void add_nodes(struct bench *bench, size_t count) {
    char *fast[] = { (char *) "avx512", NULL }, *kept[] = { (char *) "batch-only", NULL };

    for (size_t i = 0; i < count; i++) {
        char name[32], rack[32], zone[32];
        snprintf(name, sizeof(name), "node-%zu", i);
        snprintf(rack, sizeof(rack), "rack-%zu", i / 20);
        snprintf(zone, sizeof(zone), "zone-%zu", i * 4 / count);
        const struct node_description description = { .name = name, .cpus = (32 + 32 * (i % 3)) * CPU,
                                                      .memory = (128 + 128 * (i % 3)) * GIB, .rack = rack,
                                                      .zone = zone, .traits = i % 2 ? fast : NULL,
                                                      .taints = i % 10 == 0 ? kept : NULL };
        need(nodes_add(bench->nodes, &description, NULL));
    }
}

/* Sizes of 1 to 16 CPUs; with constraints, a quarter each: a label, a toleration, apart on nodes, spread over
 * racks. */
static void make_requests(struct bench *bench) {
    for (unsigned i = 0; i < SHAPES; i++) {
        struct placement_request *request = &bench->requests[bench->request_count++];
        placement_request_init(request, "bench");
        request->shape.cpus = (UINT64_C(1) << i % 5) * CPU;
        request->shape.memory = request->shape.cpus / CPU * (UINT64_C(2) << i / 5 % 3) * GIB + (i / 15) * GIB;
        if (bench->constrained && i % 4 == 1)
            need(placement_require(bench->nodes, request, "avx512", NULL));
        if (bench->constrained && i % 4 == 2)
            need(placement_tolerate(bench->nodes, request, "batch-only", NULL));
    }
}

static void constrain(struct bench *bench, struct placement_request *request) {
    size_t kind = draw_below(&bench->state, 4);
    char group[32];

    if (kind < 2)
        return;
    snprintf(group, sizeof(group), "group-%zu", draw_below(&bench->state, GROUPS));
    need(placement_join(bench->nodes, request, group, NULL));
    need(placement_constrain(bench->nodes, request, kind == 2 ? CONSTRAINT_ANTI_AFFINITY : CONSTRAINT_SPREAD,
                             group, kind == 2 ? LEVEL_NODE : LEVEL_RACK, 2, NULL));
}

static void depart(struct bench *bench) {
    size_t which = draw_below(&bench->state, bench->held_count);

    nodes_give(bench->nodes, bench->held[which]);
    bench->held[which] = bench->held[--bench->held_count];
}

/* Nanoseconds; what was refused counts as well. */
static uint64_t arrive(struct bench *bench) {
    struct placement_request request = bench->requests[draw_below(&bench->state, bench->request_count)];
    struct placement_decision decision;
    uint32_t slot;

    if (bench->constrained)
        constrain(bench, &request);
    uint64_t begin = now_ns();
    if (bench->recorded)
        need(placement_ledger_place(&bench->ledger, &bench->placement, &request, 0, &decision, &slot));
    else
        need(placement_place(&bench->placement, &request, 0, false, &decision, &slot));
    uint64_t taken = now_ns() - begin;
    if (slot != NODE_NONE)
        bench->held[bench->held_count++] = slot;
    return taken;
}

static void bench_open(struct bench *bench, size_t nodes, bool constrained, bool recorded) {
    const struct placement_options options = { .score = score_find("polder") };

    *bench = (struct bench){ .state = 1, .constrained = constrained, .recorded = recorded };
    need(nodes_new(&bench->nodes));
    add_nodes(bench, nodes);
    make_requests(bench);
    if (recorded)
        need(placement_ledger_init(&bench->ledger, LEDGER, bench->nodes));
    placement_init(&bench->placement, bench->nodes, &options);
    bench->held = calloc(MOST_HELD, sizeof(*bench->held));
    need(bench->held ? 0 : -ENOMEM);
}

static void bench_close(struct bench *bench) {
    placement_done(&bench->placement);
    placement_ledger_done(&bench->ledger);
    nodes_free(bench->nodes);
    free(bench->held);
}

static int compare_times(const void *a, const void *b) {
    uint64_t first = *(const uint64_t *) a, second = *(const uint64_t *) b;

    return first < second ? -1 : first > second;
}

struct figures {
    double rate;               /* arrivals per second of CPU time */
    double median, p99, worst; /* microseconds */
    size_t instances;
};

/* Fills to so many instances per node, then measures `count` arrivals, a multiple of ROUND. */
static struct figures measure(size_t nodes, double per_node, bool constrained, bool recorded, size_t count) {
    struct bench bench;
    struct figures figures = { 0 };
    uint64_t *times = calloc(count, sizeof(*times)), total = 0;
    size_t wanted = (size_t) ((double) nodes * per_node);

    need(times ? 0 : -ENOMEM);
    bench_open(&bench, nodes, constrained, recorded);
    for (size_t i = 0; bench.held_count < wanted && i < 2 * wanted; i++)
        arrive(&bench);
    figures.instances = bench.held_count;
    for (size_t i = 0; i < count; i += ROUND) {
        uint64_t begin = cpu_ns();
        for (size_t j = i; j < i + ROUND; j++)
            times[j] = arrive(&bench);
        total += cpu_ns() - begin;
        while (bench.held_count > wanted)
            depart(&bench);
    }
    qsort(times, count, sizeof(*times), compare_times);
    figures.rate = (double) count * 1e9 / (double) total;
    figures.median = (double) times[count / 2] / 1000;
    figures.p99 = (double) times[count * 99 / 100] / 1000;
    figures.worst = (double) times[count - 1] / 1000;
    bench_close(&bench);
    free(times);
    return figures;
}

/* Everything that is allocated for the nodes and for as many views as there may be, without instances, per
 * node. */
static double memory_per_node(size_t nodes) {
    struct mallinfo2 before = mallinfo2();
    struct bench bench;

    bench_open(&bench, nodes, true, false);
    struct placement_decision decision;
    for (size_t i = 0; i < VIEWS_MAX; i++) {
        struct placement_request request = bench.requests[0];
        request.shape.cpus += i;
        need(placement_decide(&bench.placement, &request, 0, false, &decision));
    }
    struct mallinfo2 after = mallinfo2();
    double used = (double) (after.uordblks + after.hblkhd) - (double) (before.uordblks + before.hblkhd) -
                  MOST_HELD * sizeof(*bench.held);
    bench_close(&bench);
    return used / (double) nodes;
}

static void print_figures(const char *name, const struct figures *figures) {
    printf("\"%s\": {\"rate\": %.0f, \"median_us\": %.2f, \"p99_us\": %.2f, \"worst_us\": %.1f}", name,
           figures->rate, figures->median, figures->p99, figures->worst);
}

/* The better of three, in turn: what disturbs only makes slower. */
static void compare_ledger(size_t nodes, bool constrained, size_t count, struct figures *ret_off,
                           struct figures *ret_on) {
    *ret_off = *ret_on = (struct figures){ 0 };
    for (int i = 0; i < 3; i++) {
        struct figures off = measure(nodes, 5, constrained, false, count);
        struct figures on = measure(nodes, 5, constrained, true, count);
        *ret_off = off.rate > ret_off->rate ? off : *ret_off;
        *ret_on = on.rate > ret_on->rate ? on : *ret_on;
    }
}

static void write_report(const char *path) {
    static const size_t sizes[] = { 100, 300, 1000, 3000, 10000, 30000, 100000 };
    static const double loads[] = { 0.5, 1, 2, 4, 5, 6, 7 };
    _cleanup_buffer_ struct buffer page = BUFFER_INIT;
    double x[2][ELEMENTS(sizes)], y[4][ELEMENTS(sizes)];

    for (size_t i = 0; i < ELEMENTS(sizes); i++) {
        struct figures plain = measure(sizes[i], 5, false, true, 20000),
                       bound = measure(sizes[i], 5, true, true, 20000);
        x[0][i] = (double) sizes[i];
        y[0][i] = 1e6 / plain.rate;
        y[1][i] = 1e6 / bound.rate;
        plain = measure(3000, loads[i], false, true, 20000);
        bound = measure(3000, loads[i], true, true, 20000);
        x[1][i] = (double) plain.instances;
        y[2][i] = 1e6 / plain.rate;
        y[3][i] = 1e6 / bound.rate;
    }
    plot_page_begin(&page, "Cost of placing",
                    "Mean CPU time of an arrival on one core, ledger on.");
    const char *titles[] = { "With the number of nodes, 5 instances each",
                             "With the number of instances, 3,000 nodes" };
    for (unsigned i = 0; i < 2; i++) {
        const struct plot_line lines[] = { { "without constraints", x[i], y[2 * i], ELEMENTS(sizes) },
                                           { "with constraints", x[i], y[2 * i + 1], ELEMENTS(sizes) } };
        const struct plot plot = { .title = titles[i],
                                   .x_label = i ? "instances" : "nodes",
                                   .y_label = "microseconds",
                                   .lines = lines,
                                   .line_count = 2,
                                   .x_logarithmic = i == 0,
                                   .y_logarithmic = i == 0,
                                   .y_from_zero = true };
        plot_lines(&page, &plot);
    }
    need(plot_page_write(&page, path, NULL));
    for (unsigned i = 0; i < 2; i++) {
        printf(",\n \"growth_%s\": [", i ? "instances" : "nodes");
        for (size_t j = 0; j < ELEMENTS(sizes); j++)
            printf("%s[%.0f, %.2f, %.2f]", j ? ", " : "", x[i][j], y[2 * i][j], y[2 * i + 1][j]);
        printf("]");
    }
}

int main(int count, char **words) {
    struct figures small[2], large[2];

    compare_ledger(1000, false, 100000, &small[0], &small[1]);
    compare_ledger(10000, true, 30000, &large[0], &large[1]);
    printf("{");
    print_figures("plain_1000_without_ledger", &small[0]);
    printf(",\n ");
    print_figures("plain_1000", &small[1]);
    printf(",\n ");
    print_figures("constrained_10000_without_ledger", &large[0]);
    printf(",\n ");
    print_figures("constrained_10000", &large[1]);
    printf(",\n \"bytes_per_node\": %.0f", memory_per_node(10000));
    if (count > 1)
        write_report(words[1]);
    puts("}");
    return 0;
}
