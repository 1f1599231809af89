// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate placement`: the protocol of FGD's evaluation. Nodes in one random order, which is their
 * rank; pods shuffled, then more drawn with replacement until their requests reach the share of the GPUs that
 * was asked for; each pod is placed at once or dropped, none leaves. Random numbers are splitmix64, so a seed
 * means the same everywhere. Runs (a score with a seed) are independent: any number of workers gives the same
 * table. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "simulator/draw.h"
#include "simulator/mode.h"
#include "simulator/openb.h"
#include "simulator/options.h"
#include "simulator/placement-record.h"
#include "simulator/plot.h"
#include "simulator/workers.h"

#define ARRIVALS_MAX 8
#define SEEDS_MAX 1000

struct settings {
    const char *nodes, *pods, *report, *ledger, *replay;
    const struct score *scores[OPTION_SCORES_MAX];
    size_t score_count;
    uint64_t arrivals[ARRIVALS_MAX]; /* percent, rising */
    size_t arrival_count;
    uint64_t seeds, first_seed, workers, why;
    bool json;
};

/* How it went, arrivals in steps of a percent: for the report, of the first seed. */
#define SAMPLES_MAX 1001
struct course {
    size_t count;
    double arrivals[SAMPLES_MAX];  /* percent of the GPUs asked for */
    double allocated[SAMPLES_MAX]; /* percent of the GPUs */
    double packing[SAMPLES_MAX];   /* percent of the GPUs of nodes that hold anything */
    double fragments[SAMPLES_MAX]; /* percent of the GPUs: idle, and of no use to a usual request */
};

/* Of one run: thousandths of GPU promised when arrivals reached each of the settings, pods placed and
 * dropped. */
struct result {
    uint64_t allocated[ARRIVALS_MAX];
    uint64_t placed, dropped;
};

/* One run, of which the decisions are recorded; NULL: none is. */
struct record {
    FILE *file;
    const struct placement_request *first;
};

struct work {
    const struct settings *settings;
    const struct openb *openb;
    struct result *results; /* [score][seed] */
    struct course *courses; /* [score], or NULL */
};

static void shuffle(uint64_t *state, uint32_t *order, size_t count) {
    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t) i;
    for (size_t i = count; i > 1; i--) {
        size_t other = draw_below(state, i);
        uint32_t swap = order[i - 1];
        order[i - 1] = order[other];
        order[other] = swap;
    }
}

static int add_nodes(const struct openb *openb, uint64_t *state, struct nodes *nodes) {
    _cleanup_free_ uint32_t *order = calloc(openb->node_count, sizeof(*order));
    int r = order ? 0 : -ENOMEM;

    if (order)
        shuffle(state, order, openb->node_count);
    for (size_t i = 0; i < openb->node_count && r >= 0; i++) {
        const struct openb_node *node = &openb->nodes[order[i]];
        const struct node_description description = { .name = node->name,
                                                      .cpus = node->cpus,
                                                      .memory = node->memory,
                                                      .gpus = node->gpus,
                                                      .gpu_model = node->model };
        r = nodes_add(nodes, &description, NULL);
    }
    return r;
}

struct arrivals {
    uint64_t capacity, asked, allocated; /* thousandths of GPU */
    size_t reached;
};

static void note_course(const struct placement *placement, const struct arrivals *arrivals,
                        struct course *course) {
    uint64_t percent = arrivals->asked * 100 / arrivals->capacity, used = 0;
    int64_t lost = 0;

    if (percent < course->count || course->count == SAMPLES_MAX)
        return;
    for (uint32_t i = 0; i < nodes_count(placement->nodes); i++) {
        const struct node *node = nodes_get(placement->nodes, i);
        struct fragment_state state;
        fragment_state_of(node, &state);
        lost += fragments_amount(placement->options.fragments, &state);
        used += node->instances ? node->gpus * (uint64_t) GPU_WHOLE : 0;
    }
    double whole = (double) arrivals->capacity;
    course->arrivals[course->count] = (double) arrivals->asked * 100 / whole;
    course->allocated[course->count] = (double) arrivals->allocated * 100 / whole;
    course->packing[course->count] = used ? (double) arrivals->allocated * 100 / (double) used : 0;
    course->fragments[course->count++] =
        (double) lost * 100 / (double) placement->options.fragments->weight / whole;
}

static int arrive(struct placement *placement, const struct settings *settings, struct arrivals *arrivals,
                  const struct placement_request *request, const struct record *record, struct result *result,
                  struct course *course) {
    uint64_t wanted = (uint64_t) request->shape.gpus * request->shape.gpu_milli;
    struct placement_decision decision;
    uint32_t slot;
    int r = placement_place(placement, request, 0, record, &decision, &slot);

    if (r >= 0 && record)
        r = placement_record_write(record->file, placement->nodes, (size_t) (request - record->first), &decision);
    if (r < 0)
        return r;
    arrivals->asked += wanted;
    arrivals->allocated += slot == NODE_NONE ? 0 : wanted;
    result->placed += slot != NODE_NONE;
    result->dropped += slot == NODE_NONE;
    if (course)
        note_course(placement, arrivals, course);
    while (arrivals->reached < settings->arrival_count &&
           arrivals->asked * 100 >= arrivals->capacity * settings->arrivals[arrivals->reached])
        result->allocated[arrivals->reached++] = arrivals->allocated;
    return 0;
}

static int simulate(const struct work *work, struct placement *placement,
                    const struct placement_request *requests, uint64_t *state, const struct record *record,
                    struct result *result, struct course *course) {
    const struct settings *settings = work->settings;
    size_t count = work->openb->pod_count;
    _cleanup_free_ uint32_t *order = calloc(count, sizeof(*order));
    struct arrivals arrivals = { 0 };
    uint64_t most;
    int r = order ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    for (size_t i = 0; i < work->openb->node_count; i++)
        arrivals.capacity += work->openb->nodes[i].gpus * (uint64_t) GPU_WHOLE;
    most = settings->arrivals[settings->arrival_count - 1] * arrivals.capacity;
    shuffle(state, order, count);
    for (size_t i = 0; i < count && r >= 0; i++)
        r = arrive(placement, settings, &arrivals, &requests[order[i]], record, result, course);
    while (r >= 0 && arrivals.reached < settings->arrival_count) {
        const struct placement_request *request = &requests[draw_below(state, count)];
        if ((arrivals.asked + request->shape.gpu_milli) * 100 > most)
            break;
        r = arrive(placement, settings, &arrivals, request, record, result, course);
    }
    for (; arrivals.reached < settings->arrival_count; arrivals.reached++)
        result->allocated[arrivals.reached] = arrivals.allocated;
    return r;
}

/* There is one run alone then. */
static int run_recorded(const struct work *work, struct placement *placement, const struct placement_request *requests,
                        uint64_t *state, struct result *result, struct course *course) {
    _cleanup_error_ struct error error = ERROR_INIT;
    struct record record = { .first = requests };
    int r = placement_record_begin(work->settings->ledger, placement->options.score, placement->options.seed, placement->nodes,
                                   work->openb, &record.file, &error);

    if (r < 0)
        return r;
    r = simulate(work, placement, requests, state, &record, result, course);
    if (fclose(record.file) != 0 && r >= 0)
        r = -errno;
    return r;
}

static int run_one(struct workers *workers, void *userdata, size_t which) {
    const struct work *work = userdata;
    uint64_t seed = which % work->settings->seeds + work->settings->first_seed, state = seed;
    _cleanup_free_ struct placement_request *requests = calloc(work->openb->pod_count, sizeof(*requests));
    _cleanup_fragments_ struct fragments fragments = { 0 };
    _cleanup_placement_ struct placement placement = { 0 };
    _cleanup_nodes_ struct nodes *nodes = NULL;
    int r = requests ? nodes_new(&nodes) : -ENOMEM;

    draw(&state);
    if (r >= 0)
        r = add_nodes(work->openb, &state, nodes);
    if (r >= 0)
        r = placement_requests(work->openb, nodes, requests, &fragments);
    if (r < 0)
        return r;
    const struct placement_options options = { .score = work->settings->scores[which / work->settings->seeds],
                                               .seed = seed, .fragments = &fragments };
    placement_init(&placement, nodes, &options);
    struct course *course = work->courses && which % work->settings->seeds == 0
                                ? &work->courses[which / work->settings->seeds]
                                : NULL;
    if (!work->settings->ledger)
        return simulate(work, &placement, requests, &state, NULL, &work->results[which], course);
    return run_recorded(work, &placement, requests, &state, &work->results[which], course);
}

/* Percent of all GPUs, the mean over the seeds. */
static double mean_share(const struct work *work, size_t score, size_t arrival) {
    uint64_t sum = 0, capacity = 0;

    for (uint64_t seed = 0; seed < work->settings->seeds; seed++)
        sum += work->results[score * work->settings->seeds + seed].allocated[arrival];
    for (size_t i = 0; i < work->openb->node_count; i++)
        capacity += work->openb->nodes[i].gpus * (uint64_t) GPU_WHOLE;
    return 100.0 * (double) sum / ((double) capacity * (double) work->settings->seeds);
}

static void print_table(const struct work *work) {
    printf("%-16s", "SCORE");
    for (size_t i = 0; i < work->settings->arrival_count; i++)
        printf("  AT %" PRIu64 "%%", work->settings->arrivals[i]);
    putchar('\n');
    for (size_t score = 0; score < work->settings->score_count; score++) {
        printf("%-16s", work->settings->scores[score]->name);
        for (size_t i = 0; i < work->settings->arrival_count; i++)
            printf("  %7.2f", mean_share(work, score, i));
        putchar('\n');
    }
}

static int print_json(const struct work *work, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_array(&emitter);
    for (size_t score = 0; score < work->settings->score_count; score++)
        for (size_t i = 0; i < work->settings->arrival_count; i++) {
            char share[32];
            snprintf(share, sizeof(share), "%.4f", mean_share(work, score, i));
            emit_object(&emitter);
            emit_key_text(&emitter, "score", work->settings->scores[score]->name);
            emit_key_unsigned(&emitter, "arrivals", work->settings->arrivals[i]);
            emit_key_unsigned(&emitter, "seeds", work->settings->seeds);
            emit_key(&emitter, "allocated");
            emit_raw(&emitter, share);
            emit_object_end(&emitter);
        }
    emit_array_end(&emitter);
    if (text.failed)
        return error_errno(error, -ENOMEM, "printing");
    puts(text.data);
    return 0;
}

static void report_plot(struct buffer *page, const struct work *work, const char *title, const char *label,
                        const double *(*values)(const struct course *course)) {
    struct plot_line lines[OPTION_SCORES_MAX];

    for (size_t i = 0; i < work->settings->score_count; i++)
        lines[i] = (struct plot_line){ work->settings->scores[i]->name, work->courses[i].arrivals,
                                       values(&work->courses[i]), work->courses[i].count };
    const struct plot plot = { .title = title,
                               .x_label = "arrivals, percent of the GPUs asked for",
                               .y_label = label,
                               .lines = lines,
                               .line_count = work->settings->score_count };
    plot_lines(page, &plot);
}

static const double *course_allocated(const struct course *course) {
    return course->allocated;
}

static const double *course_packing(const struct course *course) {
    return course->packing;
}

static const double *course_fragments(const struct course *course) {
    return course->fragments;
}

static void report_table(struct buffer *page, const struct work *work) {
    const struct settings *settings = work->settings;
    char texts[ARRIVALS_MAX][32];
    const char *cells[ARRIVALS_MAX + 2] = { "score" };

    for (size_t i = 0; i < settings->arrival_count; i++) {
        snprintf(texts[i], sizeof(texts[i]), "at %" PRIu64 " %%", settings->arrivals[i]);
        cells[i + 1] = texts[i];
    }
    plot_table_begin(page, cells);
    for (size_t score = 0; score < settings->score_count; score++) {
        cells[0] = settings->scores[score]->name;
        for (size_t i = 0; i < settings->arrival_count; i++)
            snprintf(texts[i], sizeof(texts[i]), "%.2f", mean_share(work, score, i));
        plot_table_row(page, cells);
    }
    plot_table_end(page);
}

static int write_report(const struct work *work, struct error *error) {
    _cleanup_buffer_ struct buffer page = BUFFER_INIT;
    _cleanup_free_ char *summary = text_format(
        "Nodes: %s. Pods: %s. Percentage of GPUs allocated, mean of %" PRIu64 " seeds; plots of the first.",
        work->settings->nodes, work->settings->pods, work->settings->seeds);

    if (!summary)
        return error_errno(error, -ENOMEM, "writing the report");
    plot_page_begin(&page, "Placing on GPU nodes", summary);
    report_table(&page, work);
    report_plot(&page, work, "Allocation", "percent of the GPUs", course_allocated);
    report_plot(&page, work, "Packing of the nodes in use", "percent of their GPUs", course_packing);
    report_plot(&page, work, "Fragmentation: idle, and of no use to a usual request", "percent of the GPUs",
                course_fragments);
    return plot_page_write(&page, work->settings->report, error);
}

static int take_arrivals(struct settings *settings, const char *value, struct error *error) {
    _cleanup_list_ char **parts = NULL;
    int r = list_split(value, ",", &parts);

    if (r < 0)
        return error_errno(error, r, "reading --arrivals");
    settings->arrival_count = 0;
    for (char **part = parts; part && *part; part++) {
        size_t at = settings->arrival_count;
        if (at == ARRIVALS_MAX)
            return error_set(error, ERROR_TOO_LARGE, "--arrivals", "8 numbers");
        r = option_number("--arrivals", *part, 1, 1000, &settings->arrivals[at], error);
        if (r < 0)
            return r;
        if (at > 0 && settings->arrivals[at] <= settings->arrivals[at - 1])
            return error_set(error, ERROR_BAD_VALUE, "--arrivals", value, "the numbers must rise");
        settings->arrival_count++;
    }
    return settings->arrival_count ? 0 : error_set(error, ERROR_USAGE, "--arrivals names no percentage");
}

static int take_option(struct settings *settings, const char *option, const char *value,
                       struct error *error) {
    if (text_equal(option, "--nodes"))
        settings->nodes = value;
    else if (text_equal(option, "--pods"))
        settings->pods = value;
    else if (text_equal(option, "--report"))
        settings->report = value;
    else if (text_equal(option, "--ledger"))
        settings->ledger = value;
    else if (text_equal(option, "--replay"))
        settings->replay = value;
    else if (text_equal(option, "--why"))
        return option_number(option, value, 0, UINT32_MAX, &settings->why, error);
    else if (text_equal(option, "--score"))
        return option_scores(option, "score", value, settings->scores, &settings->score_count, error);
    else if (text_equal(option, "--arrivals"))
        return take_arrivals(settings, value, error);
    else if (text_equal(option, "--seeds"))
        return option_number(option, value, 1, SEEDS_MAX, &settings->seeds, error);
    else if (text_equal(option, "--first-seed"))
        return option_number(option, value, 1, UINT32_MAX, &settings->first_seed, error);
    else if (text_equal(option, "--workers") || text_equal(option, "--jobs"))
        return option_number(option, value, 1, WORKERS_MAX, &settings->workers, error);
    else if (text_equal(option, "-o") && (text_equal(value, "json") || text_equal(value, "table")))
        settings->json = text_equal(value, "json");
    else {
        _cleanup_free_ char *text = text_format("there is no option '%s %s'", option, value);
        return error_set(error, ERROR_USAGE, text);
    }
    return 0;
}

static int read_settings(struct settings *settings, int count, char **words, struct error *error) {
    int r;

    for (int i = 0; i < count; i += 2) {
        if (i + 1 == count) {
            _cleanup_free_ char *text = text_format("'%s' lacks its value", words[i]);
            return error_set(error, ERROR_USAGE, text);
        }
        r = take_option(settings, words[i], words[i + 1], error);
        if (r < 0)
            return r;
    }
    if (settings->replay)
        return settings->nodes || settings->pods || settings->ledger
                   ? error_set(error, ERROR_USAGE, "--replay takes all that it needs from its file")
                   : 0;
    if (settings->why != UINT64_MAX)
        return error_set(error, ERROR_USAGE, "--why goes with --replay");
    if (settings->ledger && (settings->score_count != 1 || settings->seeds != 1))
        return error_set(error, ERROR_USAGE, "--ledger records one run: give one --score, and --seeds 1");
    if (!settings->nodes || !settings->pods)
        return error_set(error, ERROR_USAGE, "--nodes FILE and --pods FILE are needed");
    if (settings->score_count == 0)
        for (size_t i = 0; i < scores_count && i < OPTION_SCORES_MAX; i++)
            settings->scores[settings->score_count++] = &scores[i];
    return 0;
}

static int run(int count, char **words, struct error *error) {
    struct settings settings = { .arrivals = { 100, 130 }, .arrival_count = 2, .seeds = 10, .workers = workers_usual(),
                                 .why = UINT64_MAX };
    _cleanup_openb_ struct openb openb = { 0 };
    int r;

    r = read_settings(&settings, count, words, error);
    if (r >= 0 && settings.replay)
        return placement_replay(settings.replay, settings.why, settings.json, error);
    if (r >= 0)
        r = openb_read_nodes(&openb, settings.nodes, error);
    if (r >= 0)
        r = openb_read_pods(&openb, settings.pods, error);
    if (r < 0)
        return r;
    uint64_t gpus = 0;
    for (size_t i = 0; i < openb.node_count; i++)
        gpus += openb.nodes[i].gpus;
    uint64_t asked = 0;
    for (size_t i = 0; i < openb.pod_count; i++)
        asked += (uint64_t) openb.pods[i].gpus * openb.pods[i].gpu_milli;
    if (gpus == 0 || asked == 0)
        return error_set(error, ERROR_BAD_SOURCE, gpus ? settings.pods : settings.nodes,
                         "nothing in it has a GPU");
    struct work work = { .settings = &settings, .openb = &openb };
    size_t runs = settings.score_count * settings.seeds;
    _cleanup_free_ struct result *results = calloc(runs, sizeof(*results));
    if (!results)
        return error_errno(error, -ENOMEM, "placing");
    work.results = results;
    _cleanup_free_ struct course *courses = calloc(settings.score_count, sizeof(*courses));
    if (!courses)
        return error_errno(error, -ENOMEM, "placing");
    work.courses = settings.report ? courses : NULL;
    r = workers_run("placing", settings.workers, runs, run_one, &work, NULL);
    if (r < 0)
        return error_errno(error, r, "placing");
    if (settings.report)
        r = write_report(&work, error);
    if (r < 0)
        return r;
    if (settings.json)
        return print_json(&work, error);
    print_table(&work);
    return 0;
}

const struct mode placement_mode = {
    .name = "placement",
    .summary = "where instances would be placed: GPU-cluster traces, scores side by side",
    .help = "--nodes FILE --pods FILE [OPTIONS]\n\n"
            "Fills the nodes with the pods (openb CSV, plain or packed) and prints the percentage of GPUs "
            "allocated.\n\n"
            "  --score S,...        first, best, worst, dot, l1, l2, pack, spread, random, gpu-clustering, "
            "gpu-packing,\n"
            "                       fgd, polder (default: all)\n"
            "  --arrivals P,...     percentages of the GPUs asked for at which to look (100,130)\n"
            "  --seeds N            how many random orders to average (10)\n"
            "  --workers N          threads (as many as processors), also --jobs; the result is the same for any number\n"
            "  --first-seed N       the first of them, at least 1 (0)\n"
            "  --report FILE        an HTML page with plots: allocation, packing, fragmentation\n"
            "  --ledger FILE        record each decision of one score and --seeds 1\n"
            "  --replay FILE        make the decisions of such a file again, and compare: the same bytes\n"
            "  --why N              with --replay: the best eight nodes of decision N, and what the others fail\n"
            "  -o table|json\n",
    .run = run,
};
