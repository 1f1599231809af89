// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/consolidation.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "engine/fixed.h"

/* While a plan is made, each host has the sums of those that would be there: a place. Instances of one place are a list
 * through `next`. */

#define NOWHERE UINT32_MAX

struct place {
    double now, mean, variance;
    uint64_t memory;
    uint32_t first;     /* instance, or NOWHERE */
    double efficiency;  /* W per unit of CPU when full: less is better */
    bool was_on;
    bool source, target; /* of moves in this plan */
    bool relieved;
};

struct planner {
    const struct consolidation_parameters *parameters;
    const struct consolidation_host *hosts;
    size_t host_count;
    const struct consolidation_instance *instances;
    size_t instance_count;
    uint64_t now;
    struct place *places;
    uint32_t *next, *at;
    bool *moving;
    struct consolidation_move *moves;
    size_t count;
};

const char *const consolidation_reasons[] = { "relieve", "large", "empty", NULL };

void consolidation_parameters_init(struct consolidation_parameters *parameters) {
    *parameters = (struct consolidation_parameters){
        .relieve = 1, .fill = 0.95, .pack = 0.85, .margin = 1, .weight = 0.3, .rest = 1800, .dwell = 1800,
        .payback = 3600, .move_power = 100,
    };
}

static const struct {
    const char *name;
    size_t offset;
    bool whole;
    double least, most;
} parameter_rows[] = {
    { "relieve", offsetof(struct consolidation_parameters, relieve), false, 0.1, 2 },
    { "fill", offsetof(struct consolidation_parameters, fill), false, 0.05, 2 },
    { "pack", offsetof(struct consolidation_parameters, pack), false, 0, 2 },
    { "margin", offsetof(struct consolidation_parameters, margin), false, 0, 10 },
    { "weight", offsetof(struct consolidation_parameters, weight), false, 0.001, 1 },
    { "rest", offsetof(struct consolidation_parameters, rest), true, 0, 1e9 },
    { "dwell", offsetof(struct consolidation_parameters, dwell), true, 0, 1e9 },
    { "payback", offsetof(struct consolidation_parameters, payback), true, 0, 1e9 },
    { "move-power", offsetof(struct consolidation_parameters, move_power), false, 0, 1e6 },
};

int consolidation_parameters_set(struct consolidation_parameters *parameters, const char *name, const char *value,
                                 struct error *error) {
    for (size_t i = 0; i < ELEMENTS(parameter_rows); i++) {
        if (!text_equal(parameter_rows[i].name, name))
            continue;
        char *end, *field = (char *) parameters + parameter_rows[i].offset;
        double number = strtod(value, &end);
        if (end == value || *end != '\0' || !(number >= parameter_rows[i].least && number <= parameter_rows[i].most)) {
            _cleanup_free_ char *problem = text_format("it is a number of %g to %g", parameter_rows[i].least,
                                                       parameter_rows[i].most);
            return error_set(error, ERROR_BAD_VALUE, name, value, problem);
        }
        if (parameter_rows[i].whole)
            *(uint64_t *) field = (uint64_t) number;
        else
            *(double *) field = number;
        return 0;
    }
    return error_set(error, ERROR_NOT_FOUND, "parameter", name);
}

int consolidation_parameters_check(const struct consolidation_parameters *parameters, struct error *error) {
    if (parameters->fill > parameters->relieve)
        return error_set(error, ERROR_BAD_VALUE, "fill", "this share", "it is above 'relieve': relief would never end");
    if (parameters->pack > parameters->fill)
        return error_set(error, ERROR_BAD_VALUE, "pack", "this share", "it is above 'fill': hosts would swing");
    return 0;
}

/* Variance of the exponentially weighted mean (Finch 2009): v' = (1 - w)(v + w d^2). The first value stands for a
 * spread of half of itself. */
void trend_observe(struct trend *demand, double value, const struct consolidation_parameters *parameters) {
    double weight = parameters->weight, distance = value - demand->mean;

    demand->now = value;
    if (demand->seen++ == 0) {
        demand->mean = value;
        demand->variance = value * value / 4;
        return;
    }
    demand->mean += weight * distance;
    demand->variance = (1 - weight) * (demand->variance + weight * distance * distance);
}

static double expected(const struct planner *planner, double mean, double variance) {
    return mean + planner->parameters->margin * fixed_square_root(variance > 0 ? variance : 0);
}

static double share(const struct planner *planner, uint32_t host) {
    const struct place *place = &planner->places[host];
    double wanted = expected(planner, place->mean, place->variance);

    return (wanted > place->now ? wanted : place->now) / planner->hosts[host].cpu;
}

static void join(struct planner *planner, uint32_t instance, uint32_t host) {
    const struct consolidation_instance *item = &planner->instances[instance];
    struct place *place = &planner->places[host];

    place->now += item->demand.now;
    place->mean += item->demand.mean;
    place->variance += item->demand.variance;
    place->memory += item->memory;
    planner->next[instance] = place->first;
    place->first = instance;
    planner->at[instance] = host;
}

static void leave(struct planner *planner, uint32_t instance) {
    const struct consolidation_instance *item = &planner->instances[instance];
    struct place *place = &planner->places[planner->at[instance]];
    uint32_t *link = &place->first;

    while (*link != instance)
        link = &planner->next[*link];
    *link = planner->next[instance];
    place->now -= item->demand.now;
    place->mean -= item->demand.mean;
    place->variance -= item->demand.variance;
    place->memory -= item->memory;
}

static bool may_move(const struct planner *planner, uint32_t instance) {
    const struct consolidation_instance *item = &planner->instances[instance];

    return !item->pinned && !planner->moving[instance] &&
           (item->moved == 0 || planner->now >= item->moved + planner->parameters->rest);
}

/* The share of the host with the instance, or more than any mark if it cannot go there. */
static double share_with(const struct planner *planner, uint32_t instance, uint32_t host) {
    const struct consolidation_instance *item = &planner->instances[instance];
    const struct consolidation_host *machine = &planner->hosts[host];
    const struct place *place = &planner->places[host];
    double own = expected(planner, item->demand.mean, item->demand.variance);
    double wanted = expected(planner, place->mean + item->demand.mean, place->variance + item->demand.variance);
    double now = place->now + item->demand.now;

    if (machine->closed || place->relieved || place->memory + item->memory > machine->memory ||
        own > machine->cpu_largest || item->demand.now > machine->cpu_largest)
        return INFINITY;
    return (wanted > now ? wanted : now) / machine->cpu;
}

static void move(struct planner *planner, uint32_t instance, uint32_t to, enum consolidation_reason reason) {
    uint32_t from = planner->at[instance];
    struct consolidation_move *noted = &planner->moves[planner->count++];

    *noted = (struct consolidation_move){ .instance = instance, .from = from, .to = to, .reason = reason,
                                          .from_share = share(planner, from) };
    leave(planner, instance);
    join(planner, instance, to);
    noted->to_share = share(planner, to);
    planner->moving[instance] = true;
    planner->places[from].source = true;
}

/* --- relief ---------------------------------------------------------------------------------------------------------- */

/* Among hosts that are on, the one that stays emptiest; else the most efficient of the resting ones. */
static uint32_t find_relief(const struct planner *planner, uint32_t instance) {
    uint32_t found = NOWHERE, resting = NOWHERE;
    double least = planner->parameters->fill;

    for (uint32_t i = 0; i < planner->host_count; i++) {
        const struct place *place = &planner->places[i];
        double result;
        if (i == planner->at[instance])
            continue;
        result = share_with(planner, instance, i);
        if (place->first != NOWHERE && result < least) {
            found = i;
            least = result;
        }
        if (place->first == NOWHERE && result <= planner->parameters->fill &&
            (resting == NOWHERE || place->efficiency < planner->places[resting].efficiency))
            resting = i;
    }
    return found != NOWHERE ? found : resting;
}

/* Who leaves: the one that is moved fastest among those that cure the excess alone; else the one with the most demand. */
static uint32_t choose_leaver(const struct planner *planner, uint32_t host, double excess) {
    uint32_t cure = NOWHERE, most = NOWHERE;

    for (uint32_t i = planner->places[host].first; i != NOWHERE; i = planner->next[i]) {
        const struct consolidation_instance *item = &planner->instances[i];
        if (!may_move(planner, i))
            continue;
        if (most == NOWHERE || item->demand.now > planner->instances[most].demand.now)
            most = i;
        if (item->demand.now < excess)
            continue;
        if (cure == NOWHERE || item->move_time < planner->instances[cure].move_time ||
            (item->move_time <= planner->instances[cure].move_time &&
             item->demand.now < planner->instances[cure].demand.now))
            cure = i;
    }
    return cure != NOWHERE ? cure : most;
}

static void relieve(struct planner *planner, uint32_t host) {
    struct place *place = &planner->places[host];
    double limit = planner->parameters->relieve * planner->hosts[host].cpu;

    while (place->now > limit || place->mean > limit) {
        double excess = (place->now > place->mean ? place->now : place->mean) - limit;
        uint32_t leaver = choose_leaver(planner, host, excess), to;
        place->relieved = true;
        to = leaver == NOWHERE ? NOWHERE : find_relief(planner, leaver);
        if (to == NOWHERE)
            return;
        move(planner, leaver, to, CONSOLIDATION_RELIEVE);
        planner->places[to].target = true;
    }
}

/* Those that ask for more than one instance can get where they are. */
static void move_large(struct planner *planner) {
    for (uint32_t i = 0; i < planner->instance_count; i++) {
        const struct consolidation_host *host = &planner->hosts[planner->at[i]];
        if (planner->instances[i].demand.now <= host->cpu_largest || !may_move(planner, i))
            continue;
        uint32_t to = find_relief(planner, i);
        if (to == NOWHERE)
            continue;
        move(planner, i, to, CONSOLIDATION_LARGE);
        planner->places[to].target = true;
    }
}

/* --- emptying -------------------------------------------------------------------------------------------------------- */

static double power_at(const struct consolidation_host *host, double used) {
    double tenths = used / host->cpu * 10;
    unsigned low = tenths >= 10 ? 9 : (unsigned) (tenths > 0 ? tenths : 0);
    double part = tenths >= 10 ? 1 : tenths - low;

    return host->power[low] + (host->power[low + 1] - host->power[low]) * part;
}

/* The fullest host that takes the instance and stays below the mark; the more efficient of equals. */
static uint32_t find_packing(const struct planner *planner, uint32_t instance) {
    uint32_t found = NOWHERE;
    double most = -1;

    for (uint32_t i = 0; i < planner->host_count; i++) {
        const struct place *place = &planner->places[i];
        if (place->first == NOWHERE || place->source || i == planner->at[instance])
            continue;
        double result = share_with(planner, instance, i);
        if (result > planner->parameters->pack)
            continue;
        if (found != NOWHERE && place->efficiency > planner->places[found].efficiency)
            continue;
        if (found != NOWHERE && place->efficiency >= planner->places[found].efficiency && result <= most)
            continue;
        found = i;
        most = result;
    }
    return found;
}

/* Greatest expected demand first. */
static size_t list_by_demand(const struct planner *planner, uint32_t host, uint32_t *list) {
    size_t count = 0;

    for (uint32_t i = planner->places[host].first; i != NOWHERE; i = planner->next[i]) {
        size_t at = count++;
        for (; at > 0; at--) {
            double other = planner->instances[list[at - 1]].demand.mean, own = planner->instances[i].demand.mean;
            if (other > own || (other >= own && list[at - 1] < i))
                break;
            list[at] = list[at - 1];
        }
        list[at] = i;
    }
    return count;
}

static bool may_empty(const struct planner *planner, uint32_t host) {
    const struct place *place = &planner->places[host];
    double cost = 0, saving;

    if (place->first == NOWHERE || place->target || place->relieved || !place->was_on ||
        (planner->hosts[host].started && planner->now < planner->hosts[host].started + planner->parameters->dwell))
        return false;
    for (uint32_t i = place->first; i != NOWHERE; i = planner->next[i]) {
        if (!may_move(planner, i))
            return false;
        cost += planner->instances[i].move_time * planner->parameters->move_power;
    }
    /* What it takes at rest is saved; what its instances take above that, they take elsewhere. */
    saving = power_at(&planner->hosts[host], 0) * (double) planner->parameters->payback;
    return saving > cost;
}

static void undo(struct planner *planner, size_t count) {
    while (planner->count > count) {
        const struct consolidation_move *last = &planner->moves[--planner->count];
        leave(planner, last->instance);
        join(planner, last->instance, last->from);
        planner->moving[last->instance] = false;
    }
}

/* Everyone elsewhere, or nobody. */
static void empty(struct planner *planner, uint32_t host, uint32_t *list) {
    size_t count = list_by_demand(planner, host, list), before = planner->count;

    for (size_t i = 0; i < count; i++) {
        uint32_t to = find_packing(planner, list[i]);
        if (to == NOWHERE) {
            undo(planner, before);
            planner->places[host].source = false;
            return;
        }
        move(planner, list[i], to, CONSOLIDATION_EMPTY);
    }
    for (size_t i = before; i < planner->count; i++)
        planner->places[planner->moves[i].to].target = true;
}

struct candidate {
    uint32_t host;
    double efficiency, mean;
};

/* The least efficient first, of these the least used. */
static int compare(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;

    if (x->efficiency > y->efficiency || x->efficiency < y->efficiency)
        return x->efficiency > y->efficiency ? -1 : 1;
    if (x->mean > y->mean || x->mean < y->mean)
        return x->mean < y->mean ? -1 : 1;
    return (x->host > y->host) - (x->host < y->host);
}

static int empty_all(struct planner *planner) {
    _cleanup_free_ struct candidate *candidates = calloc(planner->host_count + 1, sizeof(*candidates));
    _cleanup_free_ uint32_t *list = calloc(planner->instance_count + 1, sizeof(*list));
    size_t count = 0;

    if (!candidates || !list)
        return -ENOMEM;
    for (uint32_t i = 0; i < planner->host_count; i++)
        if (planner->places[i].first != NOWHERE)
            candidates[count++] = (struct candidate){ .host = i, .efficiency = planner->places[i].efficiency,
                                                      .mean = planner->places[i].mean };
    qsort(candidates, count, sizeof(*candidates), compare);
    for (size_t i = 0; i < count; i++)
        if (may_empty(planner, candidates[i].host))
            empty(planner, candidates[i].host, list);
    return 0;
}

static void fill_places(struct planner *planner) {
    for (uint32_t i = 0; i < planner->host_count; i++) {
        planner->places[i].first = NOWHERE;
        planner->places[i].efficiency = planner->hosts[i].power[CONSOLIDATION_POWERS - 1] / planner->hosts[i].cpu;
    }
    for (uint32_t i = (uint32_t) planner->instance_count; i-- > 0;) {
        join(planner, i, planner->instances[i].host);
        planner->places[planner->instances[i].host].was_on = true;
    }
}

int consolidation_plan(const struct consolidation_parameters *parameters, const struct consolidation_host *hosts,
                       size_t host_count, const struct consolidation_instance *instances, size_t instance_count,
                       uint64_t now, struct consolidation_move **ret, size_t *ret_count) {
    _cleanup_free_ struct place *places = calloc(host_count + 1, sizeof(*places));
    _cleanup_free_ uint32_t *next = calloc(instance_count + 1, sizeof(*next));
    _cleanup_free_ uint32_t *at = calloc(instance_count + 1, sizeof(*at));
    _cleanup_free_ bool *moving = calloc(instance_count + 1, sizeof(*moving));
    _cleanup_free_ struct consolidation_move *moves = calloc(instance_count + 1, sizeof(*moves));
    struct planner planner = { .parameters = parameters, .hosts = hosts, .host_count = host_count,
                               .instances = instances, .instance_count = instance_count, .now = now, .places = places,
                               .next = next, .at = at, .moving = moving, .moves = moves };
    int r;

    if (!places || !next || !at || !moving || !moves)
        return -ENOMEM;
    fill_places(&planner);
    move_large(&planner);
    for (uint32_t i = 0; i < host_count; i++)
        relieve(&planner, i);
    r = empty_all(&planner);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(moves);
    *ret_count = planner.count;
    return 0;
}
