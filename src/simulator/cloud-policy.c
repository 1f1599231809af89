// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/cloud-policy.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "simulator/cloud-correlation.h"
#include "simulator/draw.h"

/* While a plan is made, hosts have the guests that they would have: `lists`. Sums over them are kept until they change. */

#define LINE 10            /* values that the line is drawn through */
#define HISTORY_LEAST 12   /* values that deviations want */
#define FALLBACK 0.7       /* threshold while there are fewer */
#define NOWHERE UINT32_MAX

const char *const overload_names[] = { "THR", "IQR", "MAD", "LR", NULL };
const char *const selection_names[] = { "MMT", "MU", "MC", "RS", NULL };

struct sketch {
    uint32_t *vms;
    size_t count, room;
    double requested;               /* MIPS, as asked */
    double allocated, available;    /* MIPS, as the host would share */
    double history[CLOUD_HISTORY];  /* share of the host */
    size_t history_count;
    unsigned memory;                /* of the largest */
    bool stale;                     /* history and memory */
};

struct plan {
    const struct cloud_policy *policy;
    const struct cloud *cloud;
    struct sketch *sketches;
    bool *no_target, *no_source;
    struct cloud_move *moves;
    size_t count, room;
};

int cloud_policy_find(const char *name, struct cloud_policy *ret, struct error *error) {
    for (unsigned i = 0; i < OVERLOAD_COUNT * SELECTION_COUNT; i++) {
        unsigned overload = i / SELECTION_COUNT, selection = i % SELECTION_COUNT;
        _cleanup_free_ char *prefix = text_format("%s-%s-", overload_names[overload], selection_names[selection]);
        if (!prefix)
            return error_errno(error, -ENOMEM, "reading a policy");
        if (!text_starts(name, prefix))
            continue;
        char *end;
        double parameter = strtod(name + strlen(prefix), &end);
        if (*end != '\0' || end == name + strlen(prefix) || !(parameter >= 0 && parameter <= 100))
            return error_set(error, ERROR_BAD_VALUE, "--policy", name, "its parameter is a number of 0 to 100");
        *ret = (struct cloud_policy){ .overload = overload, .selection = selection, .parameter = parameter };
        return 0;
    }
    return error_set(error, ERROR_NOT_FOUND, "policy", name);
}

/* Sums over the guests of a sketch. */
static void measure(const struct plan *plan, uint32_t number) {
    const struct cloud_host *host = &plan->cloud->hosts[number];
    struct sketch *sketch = &plan->sketches[number];
    double capped = 0, floored = 0;

    sketch->requested = 0;
    for (size_t i = 0; i < sketch->count; i++) {
        const struct cloud_vm *vm = &plan->cloud->vms[sketch->vms[i]];
        sketch->requested += vm->request;
        capped += cloud_capped(host, vm);
    }
    for (size_t i = 0; i < sketch->count && capped > host->mips; i++)
        floored += floor(cloud_capped(host, &plan->cloud->vms[sketch->vms[i]]) * (host->mips / capped));
    sketch->allocated = capped > host->mips ? floored : capped;
    sketch->available = capped > host->mips ? 0 : host->mips - capped;
    sketch->stale = true;
}

static void measure_history(const struct plan *plan, uint32_t number) {
    const struct cloud_host *host = &plan->cloud->hosts[number];
    struct sketch *sketch = &plan->sketches[number];

    if (!sketch->stale)
        return;
    memset(sketch->history, 0, sizeof(sketch->history));
    sketch->memory = 0;
    for (size_t i = 0; i < sketch->count; i++) {
        const struct cloud_vm *vm = &plan->cloud->vms[sketch->vms[i]];
        for (size_t k = 0; k < vm->history_count; k++)
            sketch->history[k] += vm->history[k] * vm->mips / host->mips;
        sketch->memory = vm->memory > sketch->memory ? vm->memory : sketch->memory;
    }
    sketch->history_count = CLOUD_HISTORY;
    while (sketch->history_count > 0 && sketch->history[sketch->history_count - 1] == 0)
        sketch->history_count--;
    sketch->stale = false;
}

static int sketch_add(const struct plan *plan, uint32_t host, uint32_t vm) {
    struct sketch *sketch = &plan->sketches[host];

    if (sketch->count == sketch->room) {
        size_t room = sketch->room ? sketch->room * 2 : 8;
        uint32_t *vms = realloc(sketch->vms, room * sizeof(*vms));
        if (!vms)
            return -ENOMEM;
        sketch->vms = vms;
        sketch->room = room;
    }
    sketch->vms[sketch->count++] = vm;
    measure(plan, host);
    return 0;
}

static void sketch_remove(const struct plan *plan, uint32_t host, uint32_t vm) {
    struct sketch *sketch = &plan->sketches[host];

    for (size_t i = 0; i < sketch->count; i++)
        if (sketch->vms[i] == vm) {
            memmove(&sketch->vms[i], &sketch->vms[i + 1], (sketch->count - i - 1) * sizeof(*sketch->vms));
            sketch->count--;
            break;
        }
    measure(plan, host);
}

/* --- when a host is overloaded --------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    double x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}

static double median(const double *values, size_t count) {
    double sorted[CLOUD_HISTORY];

    memcpy(sorted, values, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static double absolute_deviation(const double *values, size_t count) {
    double deviations[CLOUD_HISTORY], middle = median(values, count);

    for (size_t i = 0; i < count; i++)
        deviations[i] = fabs(middle - values[i]);
    return median(deviations, count);
}

static double quartile_range(const double *values, size_t count) {
    double sorted[CLOUD_HISTORY];

    memcpy(sorted, values, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), compare);
    return sorted[(size_t) floor(0.75 * (double) (count + 1) + 0.5) - 1] -
           sorted[(size_t) floor(0.25 * (double) (count + 1) + 0.5) - 1];
}

/* The value at LINE + ahead of the least squares line through the newest values. */
static double predict(const double *newest_first, double ahead) {
    double mean_x = (LINE + 1) / 2.0, mean_y = 0, slope = 0, squares = 0;

    for (unsigned i = 0; i < LINE; i++)
        mean_y += newest_first[i] / LINE;
    for (unsigned i = 0; i < LINE; i++) {
        double x = LINE - i - mean_x;
        slope += x * (newest_first[i] - mean_y);
        squares += x * x;
    }
    slope /= squares;
    return mean_y + slope * (LINE + ahead - mean_x);
}

static bool is_overloaded(const struct plan *plan, uint32_t number) {
    struct sketch *sketch = &plan->sketches[number];
    double use = sketch->requested / plan->cloud->hosts[number].mips, parameter = plan->policy->parameter;
    enum overload overload = plan->policy->overload;

    if (overload == OVERLOAD_THR)
        return use > parameter;
    measure_history(plan, number);
    if (sketch->history_count < (overload == OVERLOAD_LR ? LINE : HISTORY_LEAST))
        return use > FALLBACK;
    if (overload == OVERLOAD_LR)
        return parameter * predict(sketch->history, ceil(sketch->memory / CLOUD_COPY_RATE / CLOUD_INTERVAL)) >= 1;
    double spread = overload == OVERLOAD_IQR ? quartile_range(sketch->history, sketch->history_count)
                                             : absolute_deviation(sketch->history, sketch->history_count);
    return use > 1 - parameter * spread;
}

/* --- where to ---------------------------------------------------------------------------------------------------------- */

static int would_overload(const struct plan *plan, uint32_t host, uint32_t vm) {
    int r = sketch_add(plan, host, vm);
    bool result;

    if (r < 0)
        return r;
    result = is_overloaded(plan, host);
    sketch_remove(plan, host, vm);
    return result;
}

static int find_host(const struct plan *plan, uint32_t number, uint32_t *ret) {
    const struct cloud_vm *vm = &plan->cloud->vms[number];
    double least = INFINITY;

    *ret = NOWHERE;
    for (uint32_t i = 0; i < plan->cloud->host_count; i++) {
        const struct cloud_host *host = &plan->cloud->hosts[i];
        const struct sketch *sketch = &plan->sketches[i];
        if (plan->no_target[i] || host->core_mips < vm->request || sketch->available < vm->request)
            continue;
        double rise = cloud_power(host, (sketch->allocated + vm->request) / host->mips) -
                      cloud_power(host, host->used / host->mips > 1 ? 1 : host->used / host->mips);
        if (rise >= least)
            continue;
        int r = sketch->allocated != 0 ? would_overload(plan, i, number) : 0;
        if (r < 0)
            return r;
        if (r > 0)
            continue;
        least = rise;
        *ret = i;
    }
    return 0;
}

static int note_move(struct plan *plan, uint32_t vm, uint32_t host) {
    if (plan->count == plan->room) {
        size_t room = plan->room ? plan->room * 2 : 64;
        struct cloud_move *moves = realloc(plan->moves, room * sizeof(*moves));
        if (!moves)
            return -ENOMEM;
        plan->moves = moves;
        plan->room = room;
    }
    plan->moves[plan->count++] = (struct cloud_move){ .vm = vm, .host = host };
    return 0;
}

/* The greatest request first; equal ones stay in order. */
static void sort_by_request(const struct plan *plan, uint32_t *vms, size_t count) {
    for (size_t i = 1; i < count; i++) {
        uint32_t vm = vms[i];
        size_t at = i;
        for (; at > 0 && plan->cloud->vms[vms[at - 1]].request < plan->cloud->vms[vm].request; at--)
            vms[at] = vms[at - 1];
        vms[at] = vm;
    }
}

/* --- relieving ------------------------------------------------------------------------------------------------------- */

static double reluctance(const struct plan *plan, uint32_t number) {
    const struct cloud_vm *vm = &plan->cloud->vms[number];

    return plan->policy->selection == SELECTION_MU ? vm->request / vm->mips : vm->memory;
}

static uint32_t least_reluctant(const struct plan *plan, const struct sketch *sketch) {
    uint32_t chosen = NOWHERE;

    for (size_t i = 0; i < sketch->count; i++)
        if (chosen == NOWHERE || reluctance(plan, sketch->vms[i]) < reluctance(plan, chosen))
            chosen = sketch->vms[i];
    return chosen;
}

static uint32_t most_correlated(const struct plan *plan, const struct sketch *sketch) {
    const double *series[CORRELATION_MAX];
    size_t length = CLOUD_HISTORY, most;

    for (size_t i = 0; i < sketch->count && i < CORRELATION_MAX; i++) {
        const struct cloud_vm *vm = &plan->cloud->vms[sketch->vms[i]];
        series[i] = vm->history;
        length = vm->history_count < length ? vm->history_count : length;
    }
    return sketch->count <= CORRELATION_MAX && correlation_most(series, sketch->count, length, &most) == 0
               ? sketch->vms[most]
               : least_reluctant(plan, sketch);
}

static uint32_t anybody(const struct plan *plan, uint32_t host) {
    const struct sketch *sketch = &plan->sketches[host];
    uint64_t state = (uint64_t) plan->cloud->now << 32 | (uint64_t) host << 8 | sketch->count;

    return sketch->count ? sketch->vms[draw_below(&state, sketch->count)] : NOWHERE;
}

static uint32_t leaver(const struct plan *plan, uint32_t host) {
    switch (plan->policy->selection) {
    case SELECTION_MC:
        return most_correlated(plan, &plan->sketches[host]);
    case SELECTION_RS:
        return anybody(plan, host);
    default:
        return least_reluctant(plan, &plan->sketches[host]);
    }
}

/* Takes those who leave most readily from the host until it is no longer overloaded. */
static void choose_leavers(const struct plan *plan, uint32_t host, uint32_t *leavers, size_t *count) {
    do {
        uint32_t chosen = leaver(plan, host);
        if (chosen == NOWHERE)
            return;
        leavers[(*count)++] = chosen;
        sketch_remove(plan, host, chosen);
    } while (is_overloaded(plan, host));
}

static int relieve(struct plan *plan) {
    _cleanup_free_ uint32_t *leavers = calloc(plan->cloud->vm_count + 1, sizeof(*leavers));
    size_t count = 0;
    int r = leavers ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < plan->cloud->host_count; i++)
        plan->no_target[i] = is_overloaded(plan, i);
    for (uint32_t i = 0; i < plan->cloud->host_count && r >= 0; i++)
        if (plan->no_target[i])
            choose_leavers(plan, i, leavers, &count);
    if (r >= 0)
        sort_by_request(plan, leavers, count);
    for (size_t i = 0; i < count && r >= 0; i++) {
        uint32_t host;
        r = find_host(plan, leavers[i], &host);
        if (r >= 0 && host != NOWHERE)
            r = sketch_add(plan, host, leavers[i]);
        if (r >= 0 && host != NOWHERE)
            r = note_move(plan, leavers[i], host);
    }
    return r;
}

/* --- emptying -------------------------------------------------------------------------------------------------------- */

static uint32_t least_used(const struct plan *plan) {
    uint32_t found = NOWHERE;
    double least = 1;

    for (uint32_t i = 0; i < plan->cloud->host_count; i++) {
        const struct cloud_host *host = &plan->cloud->hosts[i];
        double use = host->used / host->mips;
        if (plan->no_source[i] || use <= 0 || use >= least || host->count == 0)
            continue;
        least = use;
        found = i;
    }
    return found;
}

/* All guests of a host elsewhere, or none. */
static int empty(struct plan *plan, uint32_t source) {
    size_t count = plan->sketches[source].count, first = plan->count;
    _cleanup_free_ uint32_t *vms = calloc(count + 1, sizeof(*vms));
    int r = vms ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    memcpy(vms, plan->sketches[source].vms, count * sizeof(*vms));
    sort_by_request(plan, vms, count);
    for (size_t i = 0; i < count && r >= 0; i++) {
        uint32_t host;
        r = find_host(plan, vms[i], &host);
        if (r >= 0 && host == NOWHERE) {
            while (plan->count > first) {
                const struct cloud_move *move = &plan->moves[--plan->count];
                sketch_remove(plan, move->host, move->vm);
            }
            return 0;
        }
        if (r >= 0)
            r = sketch_add(plan, host, vms[i]);
        if (r >= 0)
            r = note_move(plan, vms[i], host);
    }
    for (size_t i = first; i < plan->count; i++)
        plan->no_source[plan->moves[i].host] = true;
    return r;
}

static int empty_all(struct plan *plan) {
    int r = 0;

    for (uint32_t i = 0; i < plan->cloud->host_count; i++) {
        plan->no_target[i] = plan->no_target[i] || plan->cloud->hosts[i].used == 0;
        plan->no_source[i] = plan->no_target[i];
    }
    while (r >= 0) {
        uint32_t source = least_used(plan);
        if (source == NOWHERE)
            break;
        plan->no_source[source] = plan->no_target[source] = true;
        r = empty(plan, source);
    }
    return r;
}

static int sketch_all(struct plan *plan) {
    const struct cloud *cloud = plan->cloud;
    int r = 0;

    for (uint32_t i = 0; i < cloud->host_count && r >= 0; i++) {
        measure(plan, i);
        for (size_t k = 0; k < cloud->hosts[i].count && r >= 0; k++)
            r = sketch_add(plan, i, cloud->hosts[i].guests[k].vm);
    }
    return r;
}

int cloud_policy_plan(const struct cloud_policy *policy, const struct cloud *cloud, struct cloud_move **ret, size_t *ret_count) {
    _cleanup_free_ struct sketch *sketches = calloc(cloud->host_count + 1, sizeof(*sketches));
    _cleanup_free_ bool *no_target = calloc(cloud->host_count + 1, sizeof(*no_target));
    _cleanup_free_ bool *no_source = calloc(cloud->host_count + 1, sizeof(*no_source));
    struct plan plan = { .policy = policy, .cloud = cloud, .sketches = sketches, .no_target = no_target,
                         .no_source = no_source };
    int r = sketches && no_target && no_source ? sketch_all(&plan) : -ENOMEM;

    if (r >= 0)
        r = relieve(&plan);
    if (r >= 0)
        r = empty_all(&plan);
    for (size_t i = 0; sketches && i < cloud->host_count; i++)
        free(sketches[i].vms);
    if (r < 0) {
        free(plan.moves);
        return r;
    }
    *ret = plan.moves;
    *ret_count = plan.count;
    return 0;
}
