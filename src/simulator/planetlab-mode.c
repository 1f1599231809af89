// SPDX-License-Identifier: GPL-2.0-or-later
/* `polder simulate planetlab`: a day of VMs' CPU use on 800 hosts under consolidation policies side by side: CloudSim's
 * published ones, and the planner of the engine. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/text.h"
#include "engine/consolidation.h"
#include "simulator/cloud-policy.h"
#include "simulator/mode.h"
#include "simulator/options.h"
#include "simulator/planetlab.h"
#include "simulator/workers.h"

#define POLICIES_MAXIMUM 32
#define STEPS 287 /* the day's end comes before the 288th */
#define PLAIN_THRESHOLD 0.7
#define POLDER "polder"
#define NO_POLICY "NPA"
#define DAY 86400.0
#define KWH 3.6e6

struct run {
    const char *name;
    bool own; /* the engine's planner */
    bool idle; /* none: all hosts at full power all day */
    struct cloud_policy policy;
    struct cloud_result outcome;
};

struct work {
    const char *path;
    const char *names; /* of policies */
    const double *use;
    size_t vm_count;
    uint64_t hosts, workers;
    bool json;
    struct consolidation_parameters parameters;
    struct run runs[POLICIES_MAXIMUM];
    size_t count;
};

/* To tell how far a run is. */
struct bar {
    struct workers *workers;
    size_t which;
};

static void bar_step(const struct bar *bar, unsigned step) {
    workers_tell(bar->workers, bar->which, (double) step / STEPS);
}

static int run_policy(const struct run *run, struct cloud *cloud, const struct bar *bar) {
    int r = 0;

    for (unsigned step = 0; step < STEPS && r >= 0; step++) {
        _cleanup_free_ struct cloud_move *moves = NULL;
        size_t count = 0;
        bar_step(bar, step);
        cloud_step(cloud);
        r = cloud_policy_plan(&run->policy, cloud, &moves, &count);
        if (r >= 0)
            r = cloud_migrate(cloud, moves, count);
    }
    return r;
}

/* --- the engine's planner -------------------------------------------------------------------------------------------- */

struct planner {
    const struct consolidation_parameters *parameters;
    struct consolidation_host *hosts;
    struct consolidation_instance *instances; /* those that have not finished */
    uint32_t *vms;                            /* of the instances */
    struct trend *demands;                   /* of the VMs */
    uint64_t *moved;
    bool *on;
    size_t count;
};

static void planner_done(struct planner *planner) {
    free(planner->hosts);
    free(planner->instances);
    free(planner->vms);
    free(planner->demands);
    free(planner->moved);
    free(planner->on);
}

static int planner_init(struct planner *planner, const struct cloud *cloud) {
    size_t hosts = cloud->host_count + 1, vms = cloud->vm_count + 1;

    planner->hosts = calloc(hosts, sizeof(*planner->hosts));
    planner->instances = calloc(vms, sizeof(*planner->instances));
    planner->vms = calloc(vms, sizeof(*planner->vms));
    planner->demands = calloc(vms, sizeof(*planner->demands));
    planner->moved = calloc(vms, sizeof(*planner->moved));
    planner->on = calloc(hosts, sizeof(*planner->on));
    if (!planner->hosts || !planner->instances || !planner->vms || !planner->demands || !planner->moved || !planner->on)
        return -ENOMEM;
    for (size_t i = 0; i < cloud->host_count; i++) {
        const struct cloud_host *host = &cloud->hosts[i];
        planner->hosts[i] = (struct consolidation_host){ .cpu = host->mips, .cpu_largest = host->core_mips,
                                                         .memory = UINT64_MAX, .power = host->power };
        planner->on[i] = host->count > 0;
    }
    return 0;
}

/* What the planner sees now. Memory is not counted, as CloudSim does not. */
static void planner_look(struct planner *planner, const struct cloud *cloud) {
    planner->count = 0;
    for (size_t i = 0; i < cloud->host_count; i++) {
        bool on = cloud->hosts[i].count > 0;
        if (on && !planner->on[i])
            planner->hosts[i].started = (uint64_t) cloud->now;
        planner->on[i] = on;
    }
    for (uint32_t i = 0; i < cloud->vm_count; i++) {
        const struct cloud_vm *vm = &cloud->vms[i];
        if (vm->finished)
            continue;
        trend_observe(&planner->demands[i], vm->request, planner->parameters);
        planner->vms[planner->count] = i;
        planner->instances[planner->count++] = (struct consolidation_instance){
            .host = vm->host, .move_time = vm->memory / CLOUD_COPY_RATE, .moved = planner->moved[i],
            .demand = planner->demands[i],
        };
    }
}

static int planner_plan(struct planner *planner, const struct cloud *cloud, struct cloud_move **ret, size_t *ret_count) {
    _cleanup_free_ struct consolidation_move *moves = NULL;
    size_t count;
    int r;

    planner_look(planner, cloud);
    r = consolidation_plan(planner->parameters, planner->hosts, cloud->host_count, planner->instances, planner->count,
                           (uint64_t) cloud->now, &moves, &count);
    if (r < 0)
        return r;
    *ret = calloc(count + 1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        uint32_t vm = planner->vms[moves[i].instance];
        planner->moved[vm] = (uint64_t) cloud->now;
        (*ret)[i] = (struct cloud_move){ .vm = vm, .host = moves[i].to };
    }
    *ret_count = count;
    return 0;
}

static int run_planner(const struct work *work, struct cloud *cloud, const struct bar *bar) {
    _cleanup_(planner_done) struct planner planner = { .parameters = &work->parameters };
    int r = planner_init(&planner, cloud);

    for (unsigned step = 0; step < STEPS && r >= 0; step++) {
        _cleanup_free_ struct cloud_move *moves = NULL;
        size_t count = 0;
        bar_step(bar, step);
        cloud_step(cloud);
        r = planner_plan(&planner, cloud, &moves, &count);
        if (r >= 0)
            r = cloud_migrate(cloud, moves, count);
    }
    return r;
}

/* --- all runs -------------------------------------------------------------------------------------------------------- */

/* Non-power-aware, by the definition rather than by steps. */
static struct cloud_result all_on(const struct cloud *cloud) {
    double watts = 0;

    for (size_t i = 0; i < cloud->host_count; i++)
        watts += cloud_power(&cloud->hosts[i], 1);
    return (struct cloud_result){ .energy = watts * DAY / KWH };
}

static int run_one(struct workers *workers, void *userdata, size_t which) {
    struct work *work = userdata;
    struct run *run = &work->runs[which];
    const struct bar bar = { workers, which };
    _cleanup_cloud_ struct cloud *cloud = NULL;
    double threshold = !run->own && !run->idle && run->policy.overload == OVERLOAD_THR ? run->policy.parameter : PLAIN_THRESHOLD;
    int r = cloud_new(work->use, work->vm_count, work->hosts, threshold, &cloud);

    if (r >= 0 && run->idle) {
        run->outcome = all_on(cloud);
        return 0;
    }
    if (r >= 0)
        r = run->own ? run_planner(work, cloud, &bar) : run_policy(run, cloud, &bar);
    if (r >= 0)
        run->outcome = cloud_finish(cloud);
    return r;
}

static int run_all(struct work *work, struct error *error) {
    size_t failed = 0;
    int r = workers_run("simulating", work->workers, work->count, run_one, work, &failed);

    if (r == -ENOSPC)
        return error_set(error, ERROR_BAD_VALUE, "--hosts", "this number", "the VMs do not fit on so few hosts");
    return r < 0 ? error_errno(error, r, "simulating %s", work->runs[failed].name) : 0;
}

static void print_table(const struct work *work) {
    printf("%-16s %12s %11s %9s %9s %9s %7s\n", "POLICY", "ENERGY KWH", "MIGRATIONS", "SLATAH %", "PDM %", "ESV", "STOPS");
    for (size_t i = 0; i < work->count; i++) {
        const struct cloud_result *outcome = &work->runs[i].outcome;
        printf("%-16s %12.2f %11" PRIu64 " %9.2f %9.3f %9.5f %7" PRIu64 "\n", work->runs[i].name, outcome->energy,
               outcome->migrations, outcome->slatah * 100, outcome->pdm * 100, outcome->esv, outcome->stops);
    }
}

static void emit_fixed(struct emitter *emitter, const char *key, const char *format, double value) {
    char text[32];

    snprintf(text, sizeof(text), format, value);
    emit_key(emitter, key);
    emit_raw(emitter, text);
}

static int print_json(const struct work *work, struct error *error) {
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);

    emit_array(&emitter);
    for (size_t i = 0; i < work->count; i++) {
        const struct cloud_result *outcome = &work->runs[i].outcome;
        emit_object(&emitter);
        emit_key_text(&emitter, "policy", work->runs[i].name);
        emit_key_unsigned(&emitter, "vms", work->vm_count);
        emit_fixed(&emitter, "energy_kwh", "%.2f", outcome->energy);
        emit_key_unsigned(&emitter, "migrations", outcome->migrations);
        emit_key_unsigned(&emitter, "stops", outcome->stops);
        emit_fixed(&emitter, "slatah", "%.6f", outcome->slatah);
        emit_fixed(&emitter, "pdm", "%.6f", outcome->pdm);
        emit_fixed(&emitter, "esv", "%.8f", outcome->esv);
        emit_object_end(&emitter);
    }
    emit_array_end(&emitter);
    if (text.failed)
        return error_errno(error, -ENOMEM, "printing");
    puts(text.data);
    return 0;
}

static int set_parameter(struct work *work, const char *word, struct error *error) {
    const char *equals = strchr(word, '=');

    if (!equals)
        return error_set(error, ERROR_BAD_VALUE, "--set", word, "it is not NAME=VALUE");
    _cleanup_free_ char *name = strndup(word, (size_t) (equals - word));
    if (!name)
        return error_errno(error, -ENOMEM, "reading --set");
    return consolidation_parameters_set(&work->parameters, name, equals + 1, error);
}

static int take_option(struct work *work, const char *option, const char *value, struct error *error) {
    if (text_equal(option, "--policy"))
        work->names = value;
    else if (text_equal(option, "--set"))
        return set_parameter(work, value, error);
    else if (text_equal(option, "--hosts"))
        return option_number(option, value, 1, 100000, &work->hosts, error);
    else if (text_equal(option, "--workers"))
        return option_number(option, value, 1, WORKERS_MAX, &work->workers, error);
    else if (text_equal(option, "-o") && (text_equal(value, "json") || text_equal(value, "table")))
        work->json = text_equal(value, "json");
    else {
        _cleanup_free_ char *text = text_format("there is no option '%s %s'", option, value);
        return error_set(error, ERROR_USAGE, text);
    }
    return 0;
}

static int read_settings(struct work *work, int count, char **words, struct error *error) {
    for (int i = 0; i < count; i++) {
        if (words[i][0] != '-') {
            if (work->path)
                return error_set(error, ERROR_USAGE, "name one trace");
            work->path = words[i];
            continue;
        }
        if (i + 1 == count) {
            _cleanup_free_ char *text = text_format("'%s' lacks its value", words[i]);
            return error_set(error, ERROR_USAGE, text);
        }
        int r = take_option(work, words[i], words[i + 1], error);
        if (r < 0)
            return r;
        i++;
    }
    return work->path ? 0 : error_set(error, ERROR_USAGE, "name a trace");
}

static int add_runs(struct work *work, char **names, struct error *error) {
    int r = 0;

    for (char **name = names; name && *name && r >= 0; name++) {
        struct run *run = &work->runs[work->count++];
        if (work->count == POLICIES_MAXIMUM)
            return error_set(error, ERROR_TOO_LARGE, "--policy", "31 names");
        run->name = *name;
        run->own = text_equal(*name, POLDER);
        run->idle = text_equal(*name, NO_POLICY);
        if (!run->own && !run->idle)
            r = cloud_policy_find(*name, &run->policy, error);
    }
    return r;
}

static int run(int count, char **words, struct error *error) {
    struct work work = { .hosts = 800, .workers = workers_usual(),
                         .names = "THR-MMT-0.8,IQR-MMT-1.5,MAD-MMT-2.5,LR-MMT-1.2,THR-MMT-1.0," POLDER };
    _cleanup_list_ char **names = NULL;
    _cleanup_free_ double *use = NULL;
    int r;

    consolidation_parameters_init(&work.parameters);
    r = read_settings(&work, count, words, error);
    if (r >= 0)
        r = consolidation_parameters_check(&work.parameters, error);
    if (r >= 0 && list_split(work.names, ",", &names) < 0)
        r = error_errno(error, -ENOMEM, "reading --policy");
    if (r >= 0)
        r = add_runs(&work, names, error);
    if (r >= 0)
        r = planetlab_read(work.path, &use, &work.vm_count, error);
    if (r < 0)
        return r;
    work.use = use;
    r = run_all(&work, error);
    if (r < 0)
        return r;
    if (work.json)
        return print_json(&work, error);
    print_table(&work);
    return 0;
}

const struct mode planetlab_mode = {
    .name = "planetlab",
    .summary = "consolidation of a day of VMs: energy, migrations, violations; policies side by side",
    .help = "TRACE [OPTIONS]\n\n"
            "TRACE is a tar with a file of 288 percentages per VM. The hosts and the measures are CloudSim's.\n\n"
            "  --policy P,...  THR-MMT-N, IQR-MMT-N, MAD-MMT-N, LR-MMT-N with a number N (for MMT also MU, MC or RS: who\n"
            "                  leaves is who uses least, whose use the others' tell most of, or anybody), NPA\n"
            "                  (all hosts at full power), polder\n"
            "  --set NAME=VALUE  a parameter of polder: relieve, fill, pack, margin, weight, rest, dwell, payback,\n"
            "                  move-power\n"
            "  --hosts N       (800)\n"
            "  --workers N     threads (as many as processors); the result is the same for any number\n"
            "  -o table|json\n",
    .run = run,
};
