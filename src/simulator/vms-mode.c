// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate vms`: VMs that come and go, policies side by side. Each policy is one pass over the trace
 * by one worker, so the result is the same for any number of workers. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/text.h"
#include "simulator/mode.h"
#include "simulator/options.h"
#include "simulator/plot.h"
#include "simulator/progress.h"
#include "simulator/vms-simulation.h"
#include "simulator/workers.h"

#define GIB 1073741824.0

struct settings {
    const struct score *scores[OPTION_SCORES_MAX];
    size_t count;
    struct vm_columns columns;
    struct vm_generator generator; /* vms 0: a file */
    const char *path, *report;
    uint64_t cpus, memory, workers;
    bool blind; /* no lives are predicted */
    bool json;
};

struct work {
    const struct settings *settings;
    struct vms_outcome *outcomes;
    struct error error; /* the first that failed */
    int failure;
    size_t next;
    pthread_mutex_t lock;
};

static void show_progress(double share) {
    progress_show("placing", share);
}

static int run_policy(struct work *work, size_t which, struct error *error) {
    const struct settings *settings = work->settings;
    _cleanup_vm_trace_ struct vm_trace *trace = NULL;
    const struct vms_run run = { .score = settings->scores[which],
                                 .cpus = settings->cpus,
                                 .memory = settings->memory,
                                 .lifetimes = settings->scores[which]->adjust && !settings->blind };
    struct vm_columns columns = settings->columns;
    columns.tells = which == 0;
    int r = settings->generator.vms > 0 ? vm_trace_generate(&settings->generator, &trace)
                                        : vm_trace_open(settings->path, &columns, &trace, error);

    if (r == -ENOMEM)
        return error_errno(error, r, "reading VMs");
    if (r < 0)
        return r;
    return vms_simulate(&run, trace, which == 0 ? show_progress : NULL, &work->outcomes[which], error);
}

static void *worker(void *userdata) {
    struct work *work = userdata;

    for (;;) {
        _cleanup_error_ struct error error = ERROR_INIT;
        pthread_mutex_lock(&work->lock);
        size_t which = work->failure < 0 ? work->settings->count : work->next++;
        pthread_mutex_unlock(&work->lock);
        if (which >= work->settings->count)
            return NULL;
        int r = run_policy(work, which, &error);
        if (r >= 0)
            continue;
        pthread_mutex_lock(&work->lock);
        if (work->failure >= 0) { /* all fail alike on a bad file */
            work->error = error;
            error = (struct error) ERROR_INIT;
            work->failure = r;
        }
        pthread_mutex_unlock(&work->lock);
    }
}

static int run_all(struct work *work, struct error *error) {
    pthread_t threads[WORKERS_MAX];
    size_t started = 0;

    pthread_mutex_init(&work->lock, NULL);
    while (started + 1 < work->settings->workers && started + 1 < work->settings->count &&
           pthread_create(&threads[started], NULL, worker, work) == 0)
        started++;
    worker(work);
    while (started > 0)
        pthread_join(threads[--started], NULL);
    pthread_mutex_destroy(&work->lock);
    progress_end();
    if (work->failure < 0)
        *error = work->error;
    return work->failure;
}

/* ---- results ---- */

static void print_repairs(const struct work *work) {
    const struct vms_outcome *outcome = &work->outcomes[0];

    printf("%" PRIu64 " rows", outcome->repairs.rows);
    if (outcome->repairs.endless)
        printf("; %" PRIu64 " without an end, which outlive the trace", outcome->repairs.endless);
    if (outcome->repairs.instant)
        printf("; %" PRIu64 " that ended when they began, left out", outcome->repairs.instant);
    if (outcome->too_large)
        printf("; %" PRIu64 " larger than a node, left out", outcome->too_large);
    putchar('\n');
}

static void print_table(const struct work *work) {
    const struct settings *settings = work->settings;

    print_repairs(work);
    printf("%-16s  %8s  %14s  %9s\n", "POLICY", "NODES", "NODE-HOURS", "PACKING");
    for (size_t i = 0; i < settings->count; i++)
        printf("%-16s  %8" PRIu64 "  %14.1f  %8.2f%%\n", settings->scores[i]->name,
               work->outcomes[i].open_most, work->outcomes[i].node_hours, work->outcomes[i].packing * 100);
    printf("%-16s  %8" PRIu64 "  %14.1f\n", "(lower bound)", work->outcomes[0].bound_most,
           work->outcomes[0].bound_hours);
}

static void emit_decimal(struct emitter *emitter, const char *key, double value) {
    char text[40];

    snprintf(text, sizeof(text), "%.4f", value);
    emit_key(emitter, key);
    emit_raw(emitter, text);
}

static int print_json(const struct work *work, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_array(&emitter);
    for (size_t i = 0; i < work->settings->count; i++) {
        const struct vms_outcome *outcome = &work->outcomes[i];
        emit_object(&emitter);
        emit_key_text(&emitter, "policy", work->settings->scores[i]->name);
        emit_key_unsigned(&emitter, "nodes", outcome->open_most);
        emit_decimal(&emitter, "node_hours", outcome->node_hours);
        emit_decimal(&emitter, "packing", outcome->packing);
        emit_key_unsigned(&emitter, "bound_nodes", outcome->bound_most);
        emit_decimal(&emitter, "bound_node_hours", outcome->bound_hours);
        emit_key_unsigned(&emitter, "rows", outcome->repairs.rows);
        emit_key_unsigned(&emitter, "placed", outcome->placed);
        emit_key_unsigned(&emitter, "too_large", outcome->too_large);
        emit_key_unsigned(&emitter, "endless", outcome->repairs.endless);
        emit_key_unsigned(&emitter, "instant", outcome->repairs.instant);
        emit_object_end(&emitter);
    }
    emit_array_end(&emitter);
    if (text.failed)
        return error_errno(error, -ENOMEM, "printing");
    puts(text.data);
    return 0;
}

static void report_plot(struct buffer *page, const struct work *work, bool packing) {
    struct plot_line lines[OPTION_SCORES_MAX];

    for (size_t i = 0; i < work->settings->count; i++)
        lines[i] = (struct plot_line){ work->settings->scores[i]->name, work->outcomes[i].hours,
                                       packing ? work->outcomes[i].share : work->outcomes[i].open,
                                       work->outcomes[i].samples, .steps = true };
    const struct plot plot = { .title = packing ? "Packing" : "Open nodes",
                               .x_label = "hours since the first VM",
                               .y_label = packing ? "share of open nodes' CPUs promised" : "nodes",
                               .lines = lines,
                               .line_count = work->settings->count,
                               .y_from_zero = true };
    plot_lines(page, &plot);
}

static int write_report(const struct work *work, struct error *error) {
    static const char *const heads[] = { "policy", "nodes", "node-hours", "packing", NULL };
    _cleanup_buffer_ struct buffer page = BUFFER_INIT;

    plot_page_begin(&page, "Placing VMs that come and go",
                    work->settings->path ? work->settings->path : "generated");
    plot_table_begin(&page, heads);
    for (size_t i = 0; i < work->settings->count; i++) {
        char nodes[24], hours[40], packing[24];
        snprintf(nodes, sizeof(nodes), "%" PRIu64, work->outcomes[i].open_most);
        snprintf(hours, sizeof(hours), "%.1f", work->outcomes[i].node_hours);
        snprintf(packing, sizeof(packing), "%.2f %%", work->outcomes[i].packing * 100);
        plot_table_row(&page,
                       (const char *const[]){ work->settings->scores[i]->name, nodes, hours, packing, NULL });
    }
    plot_table_end(&page);
    report_plot(&page, work, false);
    report_plot(&page, work, true);
    return plot_page_write(&page, work->settings->report, error);
}

/* ---- options ---- */

/* NAME=NUMBER,… into the numbers of those names. */
static int take_pairs(const char *option, const char *value, const char *const *names, const uint64_t *most,
                      uint64_t *numbers, struct error *error) {
    _cleanup_list_ char **parts = NULL;
    int r = list_split(value, ",", &parts);

    for (char **part = parts; r >= 0 && part && *part; part++) {
        char *equals = strchr(*part, '=');
        size_t which = 0;
        if (!equals)
            return error_set(error, ERROR_BAD_VALUE, option, *part, "it is not NAME=NUMBER");
        *equals = '\0';
        while (names[which] && !text_equal(names[which], *part))
            which++;
        if (!names[which]) {
            _cleanup_free_ char *all = list_join((char *const *) names, ", ");
            _cleanup_free_ char *problem = text_format("it is one of %s", all ? all : "a list");
            return error_set(error, ERROR_BAD_VALUE, option, *part, problem);
        }
        r = option_number(*part, equals + 1, 1, most[which], &numbers[which], error);
    }
    return r;
}

static int take_unit(const char *option, const char *value, double *ret, struct error *error) {
    static const struct {
        const char *name;
        double unit;
        bool memory;
    } units[] = { { "ms", 0.001, false }, { "s", 1, false },         { "min", 60, false },
                  { "h", 3600, false },   { "d", 86400, false },     { "B", 1, true },
                  { "MiB", 1048576, true }, { "GiB", GIB, true },    { "share", 0, true } };

    for (size_t i = 0; i < ELEMENTS(units); i++)
        if (units[i].memory == text_equal(option, "--memory-unit") && text_equal(units[i].name, value) &&
            units[i].unit > 0) {
            *ret = units[i].unit;
            return 0;
        }
    return error_set(error, ERROR_BAD_VALUE, option, value,
                     text_equal(option, "--memory-unit") ? "it is one of B, MiB, GiB"
                                                         : "it is one of ms, s, min, h, d");
}

static int take_node(struct settings *settings, const char *value, struct error *error) {
    static const char *const names[] = { "cpus", "memory", NULL };
    static const uint64_t most[] = { 100000, 1000000 };
    uint64_t numbers[2] = { settings->cpus / 1000000, settings->memory >> 30 };
    int r = take_pairs("--node", value, names, most, numbers, error);

    settings->cpus = numbers[0] * 1000000;
    settings->memory = numbers[1] << 30;
    return r;
}

static int take_generator(struct settings *settings, const char *value, struct error *error) {
    static const char *const names[] = { "vms", "days", "classes", "seed", NULL };
    static const uint64_t most[] = { 1000000000, 36500, 100000, UINT32_MAX };
    uint64_t numbers[4] = { 100000, 30, 60, 1 };
    int r = take_pairs("--generate", value, names, most, numbers, error);

    settings->generator = (struct vm_generator){ .vms = numbers[0], .days = (double) numbers[1],
                                                 .classes = numbers[2], .seed = numbers[3] };
    return r;
}

static int take_option(struct settings *settings, const char *option, const char *value,
                       struct error *error) {
    if (text_equal(option, "--columns"))
        settings->columns.mapping = value;
    else if (text_equal(option, "--policy"))
        return option_scores(option, "policy", value, settings->scores, &settings->count, error);
    else if (text_equal(option, "--node"))
        return take_node(settings, value, error);
    else if (text_equal(option, "--generate"))
        return take_generator(settings, value, error);
    else if (text_equal(option, "--time-unit"))
        return take_unit(option, value, &settings->columns.time_unit, error);
    else if (text_equal(option, "--memory-unit"))
        return take_unit(option, value, &settings->columns.memory_unit, error);
    else if (text_equal(option, "--workers"))
        return option_number(option, value, 1, WORKERS_MAX, &settings->workers, error);
    else if (text_equal(option, "--report"))
        settings->report = value;
    else if (text_equal(option, "--predict") && (text_equal(value, "yes") || text_equal(value, "no")))
        settings->blind = text_equal(value, "no");
    else if (text_equal(option, "-o") && (text_equal(value, "json") || text_equal(value, "table")))
        settings->json = text_equal(value, "json");
    else {
        _cleanup_free_ char *text = text_format("there is no option '%s %s'", option, value);
        return error_set(error, ERROR_USAGE, text);
    }
    return 0;
}

/* Each policy reads the trace anew, and a pipe can be read but once. */
static int check_readable(const struct settings *settings, struct error *error) {
    struct stat status;

    if (settings->count < 2 || !settings->path || stat(settings->path, &status) < 0 || S_ISREG(status.st_mode))
        return 0;
    return error_set(error, ERROR_BAD_SOURCE, settings->path, "it is no plain file and can be read once: name one --policy");
}

static int read_settings(struct settings *settings, int count, char **words, struct error *error) {
    int r = option_scores("--policy", "policy", "first,best,l1,l2,dot,worst,polder", settings->scores,
                          &settings->count, error);

    for (int i = 0; i < count && r >= 0; i++) {
        if (words[i][0] != '-' && settings->path)
            return error_set(error, ERROR_USAGE, "one trace at a time");
        if (words[i][0] != '-') {
            settings->path = words[i];
            continue;
        }
        if (i + 1 == count) {
            _cleanup_free_ char *text = text_format("'%s' lacks its value", words[i]);
            return error_set(error, ERROR_USAGE, text);
        }
        r = take_option(settings, words[i], words[i + 1], error);
        i++;
    }
    if (r >= 0 && (settings->generator.vms > 0) == (settings->path != NULL))
        return error_set(error, ERROR_USAGE, "a FILE or --generate is needed, and not both");
    return r < 0 ? r : check_readable(settings, error);
}

static int run(int count, char **words, struct error *error) {
    struct settings settings = { .columns = { .time_unit = 1, .memory_unit = GIB },
                                 .cpus = UINT64_C(64000000),
                                 .memory = UINT64_C(256) << 30,
                                 .workers = workers_usual() };
    int r = read_settings(&settings, count, words, error);

    if (r < 0)
        return r;
    _cleanup_free_ struct vms_outcome *outcomes = calloc(settings.count, sizeof(*outcomes));
    if (!outcomes)
        return error_errno(error, -ENOMEM, "placing VMs");
    struct work work = { .settings = &settings, .outcomes = outcomes, .error = ERROR_INIT };
    r = run_all(&work, error);
    if (r >= 0 && settings.report)
        r = write_report(&work, error);
    if (r < 0)
        return r;
    if (settings.json)
        return print_json(&work, error);
    print_table(&work);
    return 0;
}

const struct mode vms_mode = {
    .name = "vms",
    .summary = "VMs that come and go: how many nodes each policy needs, and for how long",
    .help =
        "[OPTIONS] FILE | --generate WHAT\n\n"
        "Places each VM of a CSV file (plain or packed, in order of creation, of any size) when it is "
        "created and\n"
        "takes it away when it is deleted. A node is opened when a VM fits on none that is open, and closes "
        "when it\n"
        "is empty. Time counts until the last creation.\n\n"
        "  --columns MAP        "
        "id=COLUMN,create=COLUMN,delete=COLUMN,cpus=COLUMN,memory=COLUMN,class=COLUMN: names\n"
        "                       in the header, or numbers from 1 where there is no header; id and class may "
        "be\n"
        "                       absent (equal sizes are a class then); an empty 'delete' outlives the trace\n"
        "  --time-unit UNIT     ms, s, min, h, d (s)\n"
        "  --memory-unit UNIT   B, MiB, GiB (GiB)\n"
        "  --generate WHAT      vms=N,days=N,classes=N,seed=N: heavy-tailed lives (100000, 30, 60, 1)\n"
        "  --node WHAT          cpus=N,memory=GIB of each node (64, 256)\n"
        "  --policy P,...       scores of 'polder simulate placement' (first,best,l1,l2,dot,worst,polder)\n"
        "  --predict yes|no     whether polder may predict lives from the history of the class (yes)\n"
        "  --workers N          threads (as many as processors); the result is the same for any number\n"
        "  --report FILE        an HTML page with plots\n"
        "  -o table|json\n",
    .run = run,
};
