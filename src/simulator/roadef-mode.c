// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate roadef`: the optimiser on the machine reassignment problem. The search stops by its number of steps; a
 * time only chooses that number beforehand, from a short measurement, and the result says it: the same number gives the
 * same result everywhere, with any number of workers. What is printed was checked by the definition, not by the search. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "base/text.h"
#include "engine/reassignment-search.h"
#include "simulator/mode.h"
#include "simulator/options.h"
#include "simulator/roadef.h"
#include "simulator/workers.h"

#define STEPS_DEFAULT 100000000
#define STEPS_MAXIMUM UINT64_C(1000000000000000)
#define SECONDS_MAXIMUM 86400
#define SAMPLE_STEPS 2000000
#define BAR_WIDTH 40

struct settings {
    const char *model, *assignment, *check, *save;
    uint64_t steps, seconds, workers, seed;
    bool json;
};

struct outcome {
    struct reassignment_cost before, after;
    uint64_t steps;
};

static void show_progress(double share) {
    int full = (int) (share * BAR_WIDTH);

    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\rsearching [%.*s%*s] %3.0f%%", full, "########################################",
            BAR_WIDTH - full, "", share * 100);
    if (share >= 1)
        fputs("\r\033[K", stderr);
    fflush(stderr);
}

struct runner {
    struct reassignment_search *search;
    unsigned first, stride; /* its chains */
    int result;
};

static void *run_chains(void *userdata) {
    struct runner *runner = userdata;

    for (unsigned i = runner->first; i < REASSIGNMENT_CHAINS && runner->result >= 0; i += runner->stride)
        runner->result = reassignment_search_run(runner->search, i);
    return NULL;
}

/* All chains to the next joint. */
static int run_joint(struct reassignment_search *search, unsigned workers) {
    struct runner runners[REASSIGNMENT_CHAINS];
    pthread_t threads[REASSIGNMENT_CHAINS];
    bool started[REASSIGNMENT_CHAINS] = { false };
    int r = 0;

    for (unsigned i = 0; i < workers; i++) {
        runners[i] = (struct runner){ .search = search, .first = i, .stride = workers };
        started[i] = i > 0 && pthread_create(&threads[i], NULL, run_chains, &runners[i]) == 0;
    }
    for (unsigned i = 0; i < workers; i++)
        if (!started[i])
            run_chains(&runners[i]);
    for (unsigned i = 0; i < workers; i++) {
        if (started[i])
            pthread_join(threads[i], NULL);
        r = r < 0 ? r : runners[i].result;
    }
    return r;
}

static int search(const struct reassignment *problem, const struct settings *settings, uint64_t steps, bool silent,
                  uint32_t *assignment) {
    _cleanup_reassignment_search_ struct reassignment_search *search = NULL;
    int64_t total;
    int r = reassignment_search_new(problem, assignment, settings->seed, steps, &search);

    while (r >= 0) {
        r = run_joint(search, (unsigned) settings->workers);
        if (r >= 0)
            r = reassignment_search_join(search);
        if (!silent)
            show_progress(reassignment_search_progress(search));
        if (r == 0)
            break;
    }
    if (r >= 0)
        memcpy(assignment, reassignment_search_best(search, &total), problem->processes * sizeof(*assignment));
    return r;
}

/* How many steps the time allows, by the measure of a short search. */
static int choose_steps(const struct reassignment *problem, const struct settings *settings, uint64_t *ret) {
    _cleanup_free_ uint32_t *scratch = calloc((size_t) problem->processes + 1, sizeof(*scratch));
    struct timespec begin, end;
    int r;

    if (!scratch)
        return -ENOMEM;
    memcpy(scratch, problem->home, problem->processes * sizeof(*scratch));
    clock_gettime(CLOCK_MONOTONIC, &begin);
    r = search(problem, settings, SAMPLE_STEPS, true, scratch);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double taken = (double) (end.tv_sec - begin.tv_sec) + (double) (end.tv_nsec - begin.tv_nsec) / 1e9;
    double steps = (double) settings->seconds * SAMPLE_STEPS / (taken > 1e-6 ? taken : 1e-6);
    *ret = steps < (double) STEPS_MAXIMUM ? (uint64_t) steps : STEPS_MAXIMUM;
    return r;
}

/* The costs of an assignment that must keep the rules. */
static int evaluate(const struct reassignment *problem, const char *path, const uint32_t *assignment,
                    struct reassignment_cost *ret, struct error *error) {
    enum reassignment_rule rule;
    int r = reassignment_evaluate(problem, assignment, &rule, ret);

    if (r < 0)
        return error_errno(error, r, "evaluating %s", path);
    if (rule == REASSIGNMENT_FEASIBLE)
        return 0;
    _cleanup_free_ char *problem_text = text_format("it breaks the rule: %s", reassignment_rule_name(rule));
    return error_set(error, ERROR_BAD_SOURCE, path, problem_text);
}

static int save(const char *path, const uint32_t *assignment, uint32_t count, struct error *error) {
    _cleanup_(fclosep) FILE *file = fopen(path, "we");

    if (!file)
        return error_errno(error, -errno, "writing %s", path);
    for (uint32_t p = 0; p < count; p++)
        fprintf(file, "%s%" PRIu32, p ? " " : "", assignment[p]);
    fputc('\n', file);
    return fflush(file) == 0 ? 0 : error_errno(error, -errno, "writing %s", path);
}

static void print_table(const struct settings *settings, const struct outcome *outcome) {
    const struct reassignment_cost *before = &outcome->before, *after = &outcome->after;

    printf("%-12s %20s %20s\n", "COST", "START", settings->check ? "CHECKED" : "FOUND");
    printf("%-12s %20" PRId64 " %20" PRId64 "\n", "load", before->load, after->load);
    printf("%-12s %20" PRId64 " %20" PRId64 "\n", "balance", before->balance, after->balance);
    printf("%-12s %20" PRId64 " %20" PRId64 "\n", "process", before->process, after->process);
    printf("%-12s %20" PRId64 " %20" PRId64 "\n", "service", before->service, after->service);
    printf("%-12s %20" PRId64 " %20" PRId64 "\n", "machine", before->machine, after->machine);
    printf("%-12s %20" PRId64 " %20" PRId64 "\n", "total", before->total, after->total);
    printf("%" PRIu32 " processes moved", after->moved);
    if (!settings->check)
        printf("; %" PRIu64 " steps, seed %" PRIu64, outcome->steps, settings->seed);
    putchar('\n');
}

static void emit_cost(struct emitter *emitter, const char *key, const struct reassignment_cost *cost) {
    emit_key(emitter, key);
    emit_object(emitter);
    emit_key_integer(emitter, "load", cost->load);
    emit_key_integer(emitter, "balance", cost->balance);
    emit_key_integer(emitter, "process", cost->process);
    emit_key_integer(emitter, "service", cost->service);
    emit_key_integer(emitter, "machine", cost->machine);
    emit_key_integer(emitter, "total", cost->total);
    emit_key_unsigned(emitter, "moved", cost->moved);
    emit_object_end(emitter);
}

static int print_json(const struct settings *settings, const struct outcome *outcome, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_object(&emitter);
    emit_cost(&emitter, "start", &outcome->before);
    emit_cost(&emitter, settings->check ? "checked" : "found", &outcome->after);
    if (!settings->check) {
        emit_key_unsigned(&emitter, "steps", outcome->steps);
        emit_key_unsigned(&emitter, "seed", settings->seed);
        emit_key_unsigned(&emitter, "chains", REASSIGNMENT_CHAINS);
    }
    emit_object_end(&emitter);
    if (text.failed)
        return error_errno(error, -ENOMEM, "printing");
    puts(text.data);
    return 0;
}

static int take_option(struct settings *settings, const char *option, const char *value, struct error *error) {
    int r = 0;

    if (text_equal(option, "--steps"))
        return option_number(option, value, 0, STEPS_MAXIMUM, &settings->steps, error);
    if (text_equal(option, "--time"))
        return option_number(option, value, 1, SECONDS_MAXIMUM, &settings->seconds, error);
    if (text_equal(option, "--seed"))
        return option_number(option, value, 0, UINT32_MAX, &settings->seed, error);
    if (text_equal(option, "--workers")) {
        r = option_number(option, value, 1, 1024, &settings->workers, error);
        settings->workers = settings->workers > REASSIGNMENT_CHAINS ? REASSIGNMENT_CHAINS : settings->workers;
        return r;
    }
    if (text_equal(option, "--check")) {
        settings->check = value;
    } else if (text_equal(option, "--save")) {
        settings->save = value;
    } else if (text_equal(option, "-o") && (text_equal(value, "json") || text_equal(value, "table"))) {
        settings->json = text_equal(value, "json");
    } else {
        _cleanup_free_ char *text = text_format("there is no option '%s %s'", option, value);
        return error_set(error, ERROR_USAGE, text);
    }
    return 0;
}

static int read_settings(struct settings *settings, int count, char **words, struct error *error) {
    for (int i = 0; i < count; i++) {
        if (words[i][0] != '-') {
            if (settings->assignment)
                return error_set(error, ERROR_USAGE, "name one model and one assignment");
            *(settings->model ? &settings->assignment : &settings->model) = words[i];
            continue;
        }
        if (i + 1 == count) {
            _cleanup_free_ char *text = text_format("'%s' lacks its value", words[i]);
            return error_set(error, ERROR_USAGE, text);
        }
        int r = take_option(settings, words[i], words[i + 1], error);
        if (r < 0)
            return r;
        i++;
    }
    if (!settings->assignment)
        return error_set(error, ERROR_USAGE, "name a model and an assignment");
    if (settings->steps != UINT64_MAX && settings->seconds)
        return error_set(error, ERROR_USAGE, "--steps and --time exclude each other");
    return 0;
}

static int solve(const struct settings *settings, struct reassignment *problem, struct error *error) {
    _cleanup_free_ uint32_t *assignment = NULL;
    struct outcome outcome = { .steps = settings->steps == UINT64_MAX ? STEPS_DEFAULT : settings->steps };
    const char *path = settings->check ? settings->check : settings->assignment;
    int r = roadef_read_assignment(path, problem, &assignment, error);

    if (r >= 0)
        r = evaluate(problem, settings->assignment, problem->home, &outcome.before, error);
    if (r < 0)
        return r;
    if (!settings->check) {
        r = settings->seconds ? choose_steps(problem, settings, &outcome.steps) : 0;
        if (r >= 0)
            r = search(problem, settings, outcome.steps, false, assignment);
        if (r < 0)
            return error_errno(error, r, "searching");
    }
    r = evaluate(problem, path, assignment, &outcome.after, error);
    if (r >= 0 && settings->save)
        r = save(settings->save, assignment, problem->processes, error);
    if (r < 0)
        return r;
    if (settings->json)
        return print_json(settings, &outcome, error);
    print_table(settings, &outcome);
    return 0;
}

static int run(int count, char **words, struct error *error) {
    uint64_t usual = workers_usual();
    struct settings settings = { .steps = UINT64_MAX, .seed = 1,
                                 .workers = usual < REASSIGNMENT_CHAINS ? usual : REASSIGNMENT_CHAINS };
    _cleanup_reassignment_ struct reassignment *problem = NULL;
    int r = read_settings(&settings, count, words, error);

    if (r >= 0)
        r = roadef_read_model(settings.model, &problem, error);
    if (r >= 0)
        r = roadef_read_assignment(settings.assignment, problem, &problem->home, error);
    return r < 0 ? r : solve(&settings, problem, error);
}

const struct mode roadef_mode = {
    .name = "roadef",
    .summary = "the optimiser on machine reassignment problems (ROADEF/EURO 2012)",
    .help = "MODEL ASSIGNMENT [OPTIONS]\n\n"
            "Moves processes between machines so that the cost falls; no rule is ever broken.\n\n"
            "  --steps N      moves tried (100000000); the result depends on it, the seed and the files alone\n"
            "  --time S       as many steps as S seconds allow by a short measurement; the result says how many\n"
            "  --seed N       of the random numbers (1)\n"
            "  --workers N    threads (as many as processors), two at most are of use; the result is the same for any number\n"
            "  --save FILE    writes the assignment found\n"
            "  --check FILE   searches nothing: the cost of this assignment\n"
            "  -o table|json\n",
    .run = run,
};
