// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate queue`: policies side by side on logs. Each combination of log, policy, backfilling and estimates is a
 * cell; workers take cells in turn, each cell is computed by one of them, and so the result is the same for any number. */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/text.h"
#include "engine/engine.h"
#include "simulator/ledger-log.h"
#include "simulator/mode.h"
#include "simulator/queue-apply.h"
#include "simulator/queue-report.h"
#include "simulator/queue-simulation.h"
#include "simulator/queue-tune.h"
#include "simulator/workers.h"

#define WORKERS_MAXIMUM 256
#define BAR_WIDTH 40

struct cell {
    const char *path;
    struct queue_run run;
    char **sequences; /* START:COUNT texts, or none: all jobs */
    struct queue_outcome outcome; /* means over the sequences; starts and ends of the last */
    int result;
};

struct request {
    char **policies, **backfills, **estimates, **sequences, **paths;
    struct policy_parameters parameters;
    enum semantics semantics;
    uint64_t processors, workers;
    bool json, jobs;
    const char *part, *report;
    bool tunes, applies;
    enum tune_goal goal;
    uint64_t steps;
    struct swf_log *logs;
    struct cell *cells;
    size_t cell_count, cells_taken, cells_done;
    pthread_mutex_t lock;
};

static void request_done(struct request *request) {
    for (size_t i = 0; request->logs && i < list_count(request->paths); i++)
        swf_done(&request->logs[i]);
    for (size_t i = 0; i < request->cell_count; i++)
        queue_outcome_done(&request->cells[i].outcome);
    free(request->logs);
    free(request->cells);
    list_free(request->policies);
    list_free(request->backfills);
    list_free(request->estimates);
    list_free(request->sequences);
    list_free(request->paths);
    pthread_mutex_destroy(&request->lock);
}

static void show_progress(const char *what, double share) {
    int full = (int) (share * BAR_WIDTH);

    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f%%", what, full, "########################################",
            BAR_WIDTH - full, "", share * 100);
    if (share >= 1)
        fputs("\r\033[K", stderr);
    fflush(stderr);
}

static void show_reading(double share) {
    show_progress("reading", share);
}

static int word_index(const char *option, const char *const *words, const char *word, struct error *error) {
    for (int i = 0; words[i]; i++)
        if (text_equal(words[i], word))
            return i;
    _cleanup_free_ char *all = list_join((char *const *) words, ", ");
    _cleanup_free_ char *problem = text_format("it is one of %s", all ? all : "a list");
    return error_set(error, ERROR_BAD_VALUE, option, word, problem);
}

static int set_parameter(struct request *request, const char *word, struct error *error) {
    const char *equals = strchr(word, '=');

    if (!equals)
        return error_set(error, ERROR_BAD_VALUE, "--set", word, "it is not NAME=VALUE");
    _cleanup_free_ char *name = strndup(word, (size_t) (equals - word));
    return name ? policy_parameters_set(&request->parameters, name, equals + 1, error) : -ENOMEM;
}

static int set_number(const char *option, const char *text, uint64_t maximum, uint64_t *ret, struct error *error) {
    _cleanup_free_ char *limit = text_format("%llu", (unsigned long long) maximum);

    if (text_parse_u64(text, ret) < 0 || *ret < 1 || *ret > maximum)
        return error_set(error, ERROR_OUT_OF_RANGE, option, "1", limit, text);
    return 0;
}

static int set_option(struct request *request, const char *option, const char *value, struct error *error) {
    static const char *const outputs[] = { "table", "json", NULL }, *const parts[] = { "whole", "first", "second", NULL };
    const struct {
        const char *name;
        char ***list;
    } lists[] = { { "--policy", &request->policies },
                  { "--backfill", &request->backfills },
                  { "--estimates", &request->estimates } };
    int r;

    for (size_t i = 0; i < ELEMENTS(lists); i++)
        if (text_equal(option, lists[i].name)) {
            list_free(*lists[i].list);
            *lists[i].list = NULL;
            return list_split(value, ",", lists[i].list);
        }
    if (text_equal(option, "--sequence"))
        return list_add(&request->sequences, value);
    if (text_equal(option, "--report")) {
        request->report = value;
        return 0;
    }
    if (text_equal(option, "--set"))
        return set_parameter(request, value, error);
    if (text_equal(option, "--processors"))
        return set_number(option, value, INT32_MAX, &request->processors, error);
    if (text_equal(option, "--workers"))
        return set_number(option, value, WORKERS_MAXIMUM, &request->workers, error);
    if (text_equal(option, "--tune-steps"))
        return set_number(option, value, 100000, &request->steps, error);
    if (text_equal(option, "--tune")) {
        r = word_index(option, tune_goals, value, error);
        request->tunes = true;
        request->goal = r < 0 ? 0 : (enum tune_goal) r;
        return r;
    }
    if (text_equal(option, "--semantics")) {
        r = word_index(option, semantics_names, value, error);
        request->semantics = r < 0 ? 0 : (enum semantics) r;
        return r;
    }
    if (text_equal(option, "--part")) {
        r = word_index(option, parts, value, error);
        request->part = value;
        return r;
    }
    if (text_equal(option, "-o")) {
        r = word_index(option, outputs, value, error);
        request->json = r == 1;
        return r;
    }
    return error_set(error, ERROR_USAGE, "unknown option; 'polder simulate queue --help' lists them");
}

static int parse(struct request *request, int count, char **words, struct error *error) {
    int r = 0;

    for (int i = 0; r >= 0 && i < count; i++) {
        if (words[i][0] != '-') {
            r = list_add(&request->paths, words[i]);
        } else if (text_equal(words[i], "--per-job")) {
            request->jobs = true;
        } else if (text_equal(words[i], "--apply")) {
            request->applies = true;
        } else if (i + 1 >= count) {
            _cleanup_free_ char *sentence = text_format("%s wants a value", words[i]);
            return error_set(error, ERROR_USAGE, sentence);
        } else {
            r = set_option(request, words[i], words[i + 1], error);
            i++;
        }
    }
    if (r >= 0 && !request->paths)
        return error_set(error, ERROR_USAGE, "name a log in the Standard Workload Format, or a record of polderd");
    if (r >= 0 && request->applies && !request->tunes)
        return error_set(error, ERROR_USAGE, "--apply goes with --tune: it applies what that proposes");
    if (r >= 0 && request->report && (request->sequences || request->tunes))
        return error_set(error, ERROR_USAGE, "--report shows whole logs: it does not go with --sequence and --tune");
    if (r >= 0)
        r = policy_parameters_check(&request->parameters, error);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "reading the options") : r;
}

/* START:COUNT within a log of `total` jobs. */
static int parse_sequence(const char *text, size_t total, size_t *ret_start, size_t *ret_count, struct error *error) {
    const char *colon = strchr(text, ':');
    uint64_t start = 0, count = 0;

    if (!colon)
        return error_set(error, ERROR_BAD_VALUE, "--sequence", text, "it is not START:COUNT");
    _cleanup_free_ char *first = strndup(text, (size_t) (colon - text));
    if (text_parse_u64(first, &start) < 0 || text_parse_u64(colon + 1, &count) < 0 || count == 0)
        return error_set(error, ERROR_BAD_VALUE, "--sequence", text, "it is not START:COUNT");
    if (start >= total || count > total - start)
        return error_set(error, ERROR_BAD_VALUE, "--sequence", text, "the log has fewer jobs");
    *ret_start = start;
    *ret_count = count;
    return 0;
}

static void choose_part(const struct request *request, const struct swf_log *log, struct queue_run *run) {
    size_t half = log->count / 2;

    run->jobs = log->jobs;
    run->count = log->count;
    if (text_equal(request->part, "first")) {
        run->count = half;
    } else if (text_equal(request->part, "second")) {
        run->jobs += half;
        run->count -= half;
    }
}

/* What polderd refuses is refused here as well. */
static int check_rules(const struct queue_run *run, struct error *error) {
    struct engine_options options;

    engine_options_init(&options);
    options.policy = run->policy;
    options.parameters = run->parameters;
    options.backfill = run->backfill;
    return engine_options_check(&options, error);
}

static int add_cell(struct request *request, size_t log, const char *policy, const char *backfill,
                    const char *estimates, struct error *error) {
    struct cell *cell = &request->cells[request->cell_count];
    size_t start, count;
    int r = policy_find(policy, &cell->run.policy, error);

    if (r < 0)
        return r;
    r = word_index("--backfill", backfill_names, backfill, error);
    if (r < 0)
        return r;
    cell->run.backfill = (enum backfill) r;
    r = word_index("--estimates", estimate_names, estimates, error);
    if (r < 0)
        return r;
    cell->run.estimate = (enum estimate) r;
    cell->run.semantics = request->semantics;
    cell->run.parameters = request->parameters;
    cell->run.stretches = request->jobs && !request->sequences;
    r = check_rules(&cell->run, error);
    if (r < 0)
        return r;
    queue_run_on(&cell->run, &request->logs[log]);
    choose_part(request, &request->logs[log], &cell->run);
    if (cell->run.count == 0)
        return error_set(error, ERROR_BAD_VALUE, "--part", request->part, "the log has a single job, and none in that half");
    cell->path = request->paths[log];
    cell->sequences = request->sequences;
    for (size_t i = 0; i < list_count(request->sequences); i++) {
        r = parse_sequence(request->sequences[i], cell->run.count, &start, &count, error);
        if (r < 0)
            return r;
    }
    request->cell_count++;
    return 0;
}

static int make_cells(struct request *request, struct error *error) {
    size_t total = list_count(request->paths) * list_count(request->policies) * list_count(request->backfills) *
                   list_count(request->estimates);
    int r = 0;

    request->cells = calloc(total + 1, sizeof(*request->cells));
    if (!request->cells)
        return error_errno(error, -ENOMEM, "preparing the simulation");
    for (size_t log = 0; log < list_count(request->paths); log++)
        for (char **policy = request->policies; policy && *policy; policy++)
            for (char **backfill = request->backfills; backfill && *backfill; backfill++)
                for (char **estimates = request->estimates; r >= 0 && estimates && *estimates; estimates++)
                    r = add_cell(request, log, *policy, *backfill, *estimates, error);
    return r;
}

static void add_outcome(struct queue_outcome *sum, const struct queue_outcome *one) {
    sum->bsld += one->bsld;
    sum->root_square_bsld += one->root_square_bsld;
    sum->wait += one->wait;
    sum->flow += one->flow;
    sum->utilisation += one->utilisation;
    sum->preemptions += one->preemptions;
    sum->corrections += one->corrections;
    sum->wait_95 = one->wait_95 > sum->wait_95 ? one->wait_95 : sum->wait_95;
    sum->wait_maximum = one->wait_maximum > sum->wait_maximum ? one->wait_maximum : sum->wait_maximum;
}

/* Each sequence on an empty machine; the means of their means. */
static int run_sequences(struct cell *cell) {
    double count = (double) list_count(cell->sequences);
    struct queue_outcome *sum = &cell->outcome;

    for (char **text = cell->sequences; *text; text++) {
        _cleanup_outcome_ struct queue_outcome one = { 0 };
        struct queue_run run = cell->run;
        size_t start = 0;
        int r = parse_sequence(*text, cell->run.count, &start, &run.count, NULL);
        run.jobs += start;
        if (r >= 0)
            r = queue_simulate(&run, &one);
        if (r < 0)
            return r;
        add_outcome(sum, &one);
    }
    sum->bsld /= count;
    sum->root_square_bsld /= count;
    sum->wait /= count;
    sum->flow /= count;
    sum->utilisation /= count;
    return 0;
}

static void *work(void *userdata) {
    struct request *request = userdata;

    for (;;) {
        pthread_mutex_lock(&request->lock);
        struct cell *cell = request->cells_taken < request->cell_count ? &request->cells[request->cells_taken++] : NULL;
        pthread_mutex_unlock(&request->lock);
        if (!cell)
            return NULL;
        cell->result = cell->sequences ? run_sequences(cell) : queue_simulate(&cell->run, &cell->outcome);
        if (!request->jobs && !request->report)
            queue_outcome_done(&cell->outcome); /* the figures stay */
        pthread_mutex_lock(&request->lock);
        show_progress("simulating", (double) ++request->cells_done / (double) request->cell_count);
        pthread_mutex_unlock(&request->lock);
    }
}

static int run_cells(struct request *request, struct error *error) {
    pthread_t threads[WORKERS_MAXIMUM];
    size_t started = 0;

    while (started + 1 < request->workers && started + 1 < request->cell_count &&
           pthread_create(&threads[started], NULL, work, request) == 0)
        started++;
    work(request);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < request->cell_count; i++)
        if (request->cells[i].result < 0)
            return error_errno(error, request->cells[i].result, "simulating %s%s", request->cells[i].path,
                               request->cells[i].result == -ENOSPC ? " (in " ARRAY_PLACE ")" : "");
    return 0;
}

static void print_table(const struct request *request) {
    for (size_t log = 0; log < list_count(request->paths); log++) {
        const struct swf_log *read = &request->logs[log];
        printf("%s: %zu jobs, %.6g processors, semantics %s\n", request->paths[log], read->count,
               (double) read->processors / (double) (read->part ? read->part : 1), semantics_names[request->semantics]);
        if (read->part)
            printf("  as it was: mean wait %.2f s\n", read->recorded_wait);
        for (size_t i = 0; i < SWF_REPAIR_COUNT; i++)
            if (read->repairs[i])
                printf("  %llu jobs %s\n", (unsigned long long) read->repairs[i], swf_repairs[i]);
        printf("%-20s %-13s %-10s %12s %12s %12s %10s %10s %7s\n", "POLICY", "BACKFILL", "ESTIMATES", "BSLD", "RMSBSLD",
               "WAIT", "P95WAIT", "MAXWAIT", "USED");
        for (size_t i = 0; i < request->cell_count; i++) {
            const struct cell *cell = &request->cells[i];
            const struct queue_outcome *outcome = &cell->outcome;
            if (cell->path == request->paths[log])
                printf("%-20s %-13s %-10s %12.4f %12.2f %12.2f %10lld %10lld %7.4f\n", cell->run.policy->name,
                       backfill_names[cell->run.backfill], estimate_names[cell->run.estimate], outcome->bsld,
                       outcome->root_square_bsld, outcome->wait, (long long) outcome->wait_95,
                       (long long) outcome->wait_maximum, outcome->utilisation);
        }
    }
}

static void emit_number(struct emitter *emitter, const char *key, double value) {
    emit_key(emitter, key);
    emit_double(emitter, value);
}

static void emit_jobs(struct emitter *emitter, const struct cell *cell) {
    emit_key(emitter, "jobs");
    emit_array(emitter);
    for (size_t i = 0; cell->outcome.starts && i < cell->run.count; i++) {
        emit_array(emitter);
        emit_integer(emitter, cell->run.jobs[i].id);
        emit_integer(emitter, cell->outcome.starts[i]);
        emit_integer(emitter, cell->outcome.ends[i]);
        emit_array_end(emitter);
    }
    emit_array_end(emitter);
}

/* When each ran, where some were taken off and went on later. */
static void emit_stretches(struct emitter *emitter, const struct cell *cell) {
    emit_key(emitter, "stretches");
    emit_array(emitter);
    for (size_t i = 0; i < cell->outcome.stretch_count; i++) {
        const struct queue_stretch *stretch = &cell->outcome.stretches[i];
        emit_array(emitter);
        emit_integer(emitter, cell->run.jobs[stretch->job].id);
        emit_integer(emitter, stretch->from);
        emit_integer(emitter, stretch->to);
        emit_array_end(emitter);
    }
    emit_array_end(emitter);
}

static void emit_cell(struct emitter *emitter, const struct cell *cell, bool jobs) {
    const struct queue_outcome *outcome = &cell->outcome;

    emit_object(emitter);
    emit_key_text(emitter, "log", cell->path);
    emit_key_text(emitter, "policy", cell->run.policy->name);
    emit_key_text(emitter, "backfill", backfill_names[cell->run.backfill]);
    emit_key_text(emitter, "estimates", estimate_names[cell->run.estimate]);
    emit_key_text(emitter, "semantics", semantics_names[cell->run.semantics]);
    emit_number(emitter, "processors", queue_run_machine(&cell->run));
    emit_key_unsigned(emitter, "count", cell->run.count);
    emit_number(emitter, "bsld", outcome->bsld);
    emit_number(emitter, "rmsbsld", outcome->root_square_bsld);
    emit_number(emitter, "wait", outcome->wait);
    emit_key_integer(emitter, "wait_p95", outcome->wait_95);
    emit_key_integer(emitter, "wait_max", outcome->wait_maximum);
    emit_number(emitter, "flow", outcome->flow);
    emit_number(emitter, "utilisation", outcome->utilisation);
    emit_key_unsigned(emitter, "preemptions", outcome->preemptions);
    if (jobs)
        emit_jobs(emitter, cell);
    if (jobs && outcome->preemptions)
        emit_stretches(emitter, cell);
    emit_object_end(emitter);
}

static int print_json(const struct request *request) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);

    emit_array(&emitter);
    for (size_t i = 0; i < request->cell_count; i++)
        emit_cell(&emitter, &request->cells[i], request->jobs);
    emit_array_end(&emitter);
    if (buffer.failed)
        return -ENOMEM;
    printf("%s\n", buffer.data);
    return 0;
}

/* The cells of the first log are what the tuner chooses from. */
static int run_tuner(const struct request *request, struct error *error) {
    size_t logs = list_count(request->paths), count = request->cell_count / logs;
    _cleanup_free_ struct queue_run *candidates = reallocarray(NULL, count, sizeof(*candidates));
    struct tune tune = { request->logs, request->paths, logs, candidates, count, request->goal, request->steps,
                         request->workers };
    struct queue_run best;
    int r = -ENOMEM;

    for (size_t i = 0; i < logs; i++)
        if (request->logs[i].count < 2)
            return error_set(error, ERROR_BAD_VALUE, "--tune", request->paths[i], "the log is too short to be halved");
    for (size_t i = 0; candidates && i < count; i++)
        candidates[i] = request->cells[i].run;
    if (candidates)
        r = queue_tune(&tune, &best);
    return r < 0 ? error_errno(error, r, "tuning") : queue_apply(&best, request->applies, error);
}

/* What tells cells of one log apart. */
static char *cell_name(const struct request *request, const struct cell *cell) {
    bool backfills = list_count(request->backfills) > 1, estimates = list_count(request->estimates) > 1;

    return text_format("%s%s%s%s%s", cell->run.policy->name, backfills ? ", " : "", backfills ? backfill_names[cell->run.backfill] : "",
                       estimates ? ", " : "", estimates ? estimate_names[cell->run.estimate] : "");
}

static int write_report(const struct request *request, struct error *error) {
    _cleanup_free_ struct queue_report_cell *cells = calloc(request->cell_count, sizeof(*cells));
    _cleanup_list_ char **names = NULL;
    int r = cells ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < request->cell_count; i++) {
        const struct cell *cell = &request->cells[i];
        _cleanup_free_ char *name = cell_name(request, cell);
        r = name ? list_add(&names, name) : -ENOMEM;
        if (r >= 0)
            cells[i] = (struct queue_report_cell){ cell->path, names[i], &cell->run, &cell->outcome };
    }
    return r < 0 ? error_errno(error, r, "writing the report")
                 : queue_report_write(request->report, cells, request->cell_count, error);
}

/* A log of the archive, or a record of Polder's own. */
static int read_log(const struct request *request, const char *path, enum swf_rules rules, struct swf_log *ret,
                    struct error *error) {
    _cleanup_input_ struct input *input = NULL;
    int r = input_open(path, &input, error);

    if (r >= 0)
        r = ledger_log_is(input, error);
    if (r == 0)
        r = swf_read(input, rules, request->processors, show_reading, ret, error);
    else if (r > 0 && request->semantics != SEMANTICS_BATCH)
        r = error_set(error, ERROR_BAD_VALUE, "--semantics", semantics_names[request->semantics],
                      "Polder's own record is replayed as polderd decides: batch");
    else if (r > 0)
        r = ledger_log_read(input, request->processors, show_reading, ret, error);
    return r;
}

static int run(int count, char **words, struct error *error) {
    _cleanup_(request_done) struct request request = { .workers = workers_usual(), .part = "whole", .steps = 100 };
    int r;

    pthread_mutex_init(&request.lock, NULL);
    policy_parameters_init(&request.parameters);
    if (list_add(&request.policies, "polder") < 0 || list_add(&request.backfills, "easy") < 0 ||
        list_add(&request.estimates, "requested") < 0)
        return error_errno(error, -ENOMEM, "reading the options");
    r = parse(&request, count, words, error);
    if (r < 0)
        return r;
    request.logs = calloc(list_count(request.paths), sizeof(*request.logs));
    if (!request.logs)
        return error_errno(error, -ENOMEM, "reading the logs");
    enum swf_rules rules = request.semantics == SEMANTICS_RLSCHEDULER ? SWF_RLSCHEDULER : SWF_STRONG;
    for (size_t i = 0; r >= 0 && i < list_count(request.paths); i++)
        r = read_log(&request, request.paths[i], rules, &request.logs[i], error);
    show_progress("reading", 1);
    if (r >= 0)
        r = make_cells(&request, error);
    if (r >= 0 && request.tunes)
        return run_tuner(&request, error);
    if (r >= 0)
        r = run_cells(&request, error);
    if (r >= 0 && request.report)
        r = write_report(&request, error);
    if (r < 0)
        return r;
    if (!request.json)
        print_table(&request);
    return request.json && print_json(&request) < 0 ? error_errno(error, -ENOMEM, "printing the result") : 0;
}

const struct mode queue_mode = {
    .name = "queue",
    .summary = "policies side by side on logs in the Standard Workload Format, or on what polderd recorded",
    .help = "[OPTIONS] LOG...\n\n"
            "A LOG is in the Standard Workload Format, or polderd's own: 'polder queue --ledger FILE'.\n\n"
            "  --policy P,...       polder, fcfs, sjf, sjf:demand, saf, srtf, rr, priority, priority:preemptive,\n"
            "                       dynamic, wfp3, unicep, f1, f2, f3, f4, xf\n"
            "  --backfill B,...     none, easy, easy-sjbf, conservative, greedy\n"
            "  --estimates E,...    requested, actual, predicted, history, learning (best for polder)\n"
            "  --semantics S        batch, pyss, rlscheduler\n"
            "  --sequence START:COUNT  these jobs alone, on an empty machine; repeat it for the mean of several\n"
            "  --part PART          whole, first, second half of the jobs\n"
            "  --processors N       of the machine, instead of the log's header\n"
            "  --set NAME=VALUE     a parameter of a policy: rr.quantum, alarm, polder.time, ...\n"
            "  --tune GOAL          bsld, wait, p95, fairness, moves (how often somebody is taken off): choose among these and\n"
            "                       search for parameters on first halves\n"
            "  --tune-steps N       of that search (100)\n"
            "  --apply              what --tune proposes becomes the rules of the node, by 'polder node set'\n"
            "  --workers N          threads (as many as processors); the result is the same for any number\n"
            "  --per-job            with -o json: number, start and end of each job; where some were taken off, also when\n"
            "                       each ran\n"
            "  --report FILE        an HTML page: wait, slowdown and use over time, and who ran where\n"
            "  -o table|json\n",
    .run = run,
};
