// SPDX-License-Identifier: GPL-2.0-or-later
/* Steps are found in this order: who is promised more than it uses; who could go to disk for the one that
 * waits; who should be promised more, if nobody waits; moves. What the steps so far give back or take is
 * kept per node. */
#include "engine/optimizer.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/text.h"

#define CPU_STEP UINT64_C(50)                  /* thousandths: promises are multiples of it */
#define CPU_LEAST UINT64_C(100)
#define MEMORY_STEP (UINT64_C(4) << 20)
#define MEMORY_LEAST (UINT64_C(16) << 20)
#define SECOND UINT64_C(1000000)               /* µs */

const char *const optimizer_actions[] = { "resize", "suspend", "move", NULL };
const char *const optimizer_reasons[] = { "uses-less", "uses-more", "idles", "relieves", "too-large", "empties", NULL };
const char *const optimizer_holds[] = { "has-step", "fits", "rests", "pinned", "reserved", "measuring", "cools", "no-room",
                                        "at-limit", NULL };

const char *optimizer_hold_sentence(enum optimizer_hold hold) {
    static const char *const sentences[OPTIMIZER_HOLD_COUNT] = {
        [OPTIMIZER_HAS_STEP] = "it has a step",
        [OPTIMIZER_FITS] = "what is promised fits what it uses",
        [OPTIMIZER_RESTS] = "it does not run",
        [OPTIMIZER_PINNED] = "its label polder.optimize says off",
        [OPTIMIZER_RESERVED] = "what it has is reserved for it",
        [OPTIMIZER_MEASURING] = "it was not measured for long enough",
        [OPTIMIZER_COOLS] = "it changed not long ago",
        [OPTIMIZER_NO_ROOM] = "it uses more than is promised, and there is no room for more",
        [OPTIMIZER_AT_LIMIT] = "it uses all that it may: only a higher limit would give it more",
    };

    return sentences[hold];
}

/* --- measuring ------------------------------------------------------------------------------------------ */

static void window_turn(struct optimizer_use *use, uint64_t now) {
    uint64_t passed = (now - use->window) / OPTIMIZER_WINDOW;

    if (passed == 0)
        return;
    use->cpu_peak[1] = passed == 1 ? use->cpu_peak[0] : 0;
    use->memory_peak[1] = passed == 1 ? use->memory_peak[0] : 0;
    use->cpu_peak[0] = 0;
    use->memory_peak[0] = 0;
    use->window += passed * OPTIMIZER_WINDOW;
}

void optimizer_observe(struct optimizer_use *use, uint64_t cpu_us, uint64_t memory, uint64_t least, uint64_t now) {
    struct consolidation_parameters weights;
    double rate;

    if (use->since == 0 || cpu_us < use->counter || now < use->last)
        *use = (struct optimizer_use){ .since = now, .counted = now, .counter = cpu_us, .window = now };
    use->last = now;
    window_turn(use, now);
    use->memory = memory;
    use->memory_peak[0] = memory > use->memory_peak[0] ? memory : use->memory_peak[0];
    if (now == use->counted || now - use->counted < least)
        return;
    rate = (double) (cpu_us - use->counter) * 1000 / (double) (now - use->counted);
    consolidation_parameters_init(&weights);
    trend_observe(&use->cpu, rate, &weights);
    use->cpu_peak[0] = rate > use->cpu_peak[0] ? rate : use->cpu_peak[0];
    use->counter = cpu_us;
    use->counted = now;
}

static uint64_t peak_cpu(const struct optimizer_use *use) {
    double most = use->cpu_peak[0] > use->cpu_peak[1] ? use->cpu_peak[0] : use->cpu_peak[1];

    return (uint64_t) most;
}

static uint64_t peak_memory(const struct optimizer_use *use) {
    return use->memory_peak[0] > use->memory_peak[1] ? use->memory_peak[0] : use->memory_peak[1];
}

/* --- parameters ----------------------------------------------------------------------------------------- */

void optimizer_parameters_init(struct optimizer_parameters *parameters) {
    *parameters = (struct optimizer_parameters){
        .observe = 600, .cooldown = 1800, .headroom = 0.25, .shrink = 0.75, .full = 0.95, .idle = 0.05,
        .disk_rate = 100e6, .wire_rate = 100e6,
    };
    consolidation_parameters_init(&parameters->moves);
}

static int check_range(const char *name, double value, double least, double most, struct error *error) {
    _cleanup_free_ char *low = NULL, *high = NULL, *text = NULL;

    if (value >= least && value <= most)
        return 0;
    low = text_format("%g", least);
    high = text_format("%g", most);
    text = text_format("%g", value);
    return error_set(error, ERROR_OUT_OF_RANGE, name, low, high, text);
}

int optimizer_parameters_check(const struct optimizer_parameters *parameters, struct error *error) {
    int r = check_range("headroom", parameters->headroom, 0.01, 10, error);

    if (r >= 0)
        r = check_range("shrink", parameters->shrink, 0.01, 0.99, error);
    if (r >= 0)
        r = check_range("full", parameters->full, 0.01, 1, error);
    if (r >= 0)
        r = check_range("idle", parameters->idle, 0, 1, error);
    if (r >= 0 && parameters->full * (1 + parameters->headroom) <= 1)
        r = error_set(error, ERROR_BAD_VALUE, "full", "this share",
                      "with the headroom it is no more than what is promised: nothing would come of it");
    return r < 0 ? r : consolidation_parameters_check(&parameters->moves, error);
}

/* --- a plan under way ----------------------------------------------------------------------------------- */

struct room {
    int64_t cpus, memory; /* physical; below 0 where more is promised than there is */
};

struct maker {
    const struct optimizer_input *input;
    const struct optimizer_parameters *parameters;
    struct optimizer_plan *plan;
    struct room *rooms; /* per node: what is free */
    size_t *resized;    /* of each instance: the number of its step, from 1 on, until steps are dropped; 0: it has none */
};

static uint64_t physical(const struct optimizer_amount *amount, uint64_t promised) {
    return (uint64_t) ((unsigned __int128) promised * 100 / (amount->ratio ? amount->ratio : 100));
}

static void add_step(struct maker *maker, const struct optimizer_step *step) {
    struct room *room = &maker->rooms[maker->input->instances[step->instance].node];

    maker->plan->steps[maker->plan->count++] = *step;
    maker->resized[step->instance] = step->action == OPTIMIZER_RESIZE ? maker->plan->count : 0;
    maker->plan->holds[step->instance] = OPTIMIZER_HAS_STEP;
    room->cpus += step->cpus_gain;
    room->memory += step->memory_gain;
}

/* What keeps it as it is whatever it uses; OPTIMIZER_FITS: nothing. */
static enum optimizer_hold held(const struct maker *maker, const struct optimizer_instance *item) {
    uint64_t now = maker->input->now;

    if (!item->running)
        return OPTIMIZER_RESTS;
    if (item->pinned)
        return OPTIMIZER_PINNED;
    if (!item->ways)
        return OPTIMIZER_RESERVED;
    if (item->changed && now < item->changed + maker->parameters->cooldown * SECOND)
        return OPTIMIZER_COOLS;
    if (item->use.cpu.seen == 0 || item->use.last - item->use.since < maker->parameters->observe * SECOND)
        return OPTIMIZER_MEASURING;
    return OPTIMIZER_FITS;
}

/* --- resizing ------------------------------------------------------------------------------------------- */

static uint64_t fitting(const struct maker *maker, const struct optimizer_amount *amount, uint64_t peak, uint64_t step,
                        uint64_t least) {
    double wanted = (double) peak * (1 + maker->parameters->headroom);
    uint64_t target = ((uint64_t) wanted + step - 1) / step * step;

    target = target > least ? target : least;
    target = target > amount->floor ? target : amount->floor;
    return target < amount->most ? target : amount->most;
}

static uint64_t fitting_cpus(const struct maker *maker, const struct optimizer_instance *item) {
    return fitting(maker, &item->cpus, peak_cpu(&item->use), CPU_STEP, CPU_LEAST);
}

static uint64_t fitting_memory(const struct maker *maker, const struct optimizer_instance *item) {
    return fitting(maker, &item->memory, peak_memory(&item->use), MEMORY_STEP, MEMORY_LEAST);
}

static bool well_below(const struct maker *maker, uint64_t target, uint64_t promised) {
    return (double) target <= maker->parameters->shrink * (double) promised;
}

static bool is_full(const struct maker *maker, uint64_t peak, const struct optimizer_amount *amount) {
    return (double) peak > maker->parameters->full * (double) amount->promised;
}

static struct optimizer_step resize(const struct optimizer_instance *item, uint32_t index, uint64_t cpus, uint64_t memory,
                                    enum optimizer_reason reason) {
    return (struct optimizer_step){
        .instance = index, .action = OPTIMIZER_RESIZE, .reason = reason, .cpus = cpus, .memory = memory,
        .cpus_gain = (int64_t) physical(&item->cpus, item->cpus.promised) - (int64_t) physical(&item->cpus, cpus),
        .memory_gain = (int64_t) physical(&item->memory, item->memory.promised) -
                       (int64_t) physical(&item->memory, memory),
    };
}

static void shrink_all(struct maker *maker) {
    for (uint32_t i = 0; i < maker->input->instance_count; i++) {
        const struct optimizer_instance *item = &maker->input->instances[i];
        uint64_t cpus = item->cpus.promised, memory = item->memory.promised, wanted;
        if (maker->plan->holds[i] != OPTIMIZER_FITS || !(item->ways & OPTIMIZER_MAY_RESIZE))
            continue;
        wanted = fitting_cpus(maker, item);
        cpus = well_below(maker, wanted, cpus) ? wanted : cpus;
        wanted = fitting_memory(maker, item);
        memory = well_below(maker, wanted, memory) ? wanted : memory;
        if (cpus == item->cpus.promised && memory == item->memory.promised)
            continue;
        struct optimizer_step step = resize(item, i, cpus, memory, OPTIMIZER_USES_LESS);
        add_step(maker, &step);
    }
}

/* Who uses more than is promised gets the promise, where there is room and nobody waits for it. */
static void grow(struct maker *maker, uint32_t index) {
    const struct optimizer_instance *item = &maker->input->instances[index];
    const struct room *room = &maker->rooms[item->node];
    bool cpus_full = is_full(maker, peak_cpu(&item->use), &item->cpus);
    bool memory_full = is_full(maker, peak_memory(&item->use), &item->memory);
    uint64_t cpus = cpus_full ? fitting_cpus(maker, item) : 0, memory = memory_full ? fitting_memory(maker, item) : 0;

    cpus = cpus > item->cpus.promised ? cpus : item->cpus.promised;
    memory = memory > item->memory.promised ? memory : item->memory.promised;
    if (cpus == item->cpus.promised && memory == item->memory.promised) {
        if (cpus_full || memory_full)
            maker->plan->holds[index] = OPTIMIZER_AT_LIMIT;
        return;
    }
    struct optimizer_step step = resize(item, index, cpus, memory, OPTIMIZER_USES_MORE);
    if (maker->input->waiter || room->cpus + (step.cpus_gain < 0 ? step.cpus_gain : 0) < 0 ||
        room->memory + (step.memory_gain < 0 ? step.memory_gain : 0) < 0)
        maker->plan->holds[index] = OPTIMIZER_NO_ROOM;
    else
        add_step(maker, &step);
}

static void grow_all(struct maker *maker) {
    for (uint32_t i = 0; i < maker->input->instance_count; i++)
        if (maker->plan->holds[i] == OPTIMIZER_FITS && maker->input->instances[i].ways & OPTIMIZER_MAY_RESIZE)
            grow(maker, i);
}

/* --- to disk -------------------------------------------------------------------------------------------- */

static bool idles(const struct maker *maker, const struct optimizer_instance *item) {
    return (double) peak_cpu(&item->use) <= maker->parameters->idle * (double) item->cpus.most;
}

static struct optimizer_step suspension(const struct maker *maker, uint32_t index) {
    const struct optimizer_instance *item = &maker->input->instances[index];
    uint64_t cpus = item->cpus.promised, memory = item->memory.promised;

    if (maker->resized[index]) { /* what that gives is counted already */
        cpus = maker->plan->steps[maker->resized[index] - 1].cpus;
        memory = maker->plan->steps[maker->resized[index] - 1].memory;
    }
    return (struct optimizer_step){
        .instance = index, .action = OPTIMIZER_SUSPEND, .reason = OPTIMIZER_IDLES,
        .cpus = cpus, .memory = memory,
        .cpus_gain = (int64_t) physical(&item->cpus, cpus), .memory_gain = (int64_t) physical(&item->memory, memory),
        .cost_bytes = item->use.memory, .cost_seconds = (double) item->use.memory / maker->parameters->disk_rate,
    };
}

struct candidate {
    struct optimizer_step step;
    int64_t priority;
};

/* The least important first, of equals what is written fastest. */
static int compare_candidates(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;

    if (x->priority != y->priority)
        return x->priority < y->priority ? -1 : 1;
    if (x->step.cost_bytes != y->step.cost_bytes)
        return x->step.cost_bytes < y->step.cost_bytes ? -1 : 1;
    return (x->step.instance > y->step.instance) - (x->step.instance < y->step.instance);
}

static size_t list_idle(const struct maker *maker, struct candidate *list) {
    const struct optimizer_waiter *waiter = maker->input->waiter;
    size_t count = 0;

    for (uint32_t i = 0; i < maker->input->instance_count; i++) {
        const struct optimizer_instance *item = &maker->input->instances[i];
        enum optimizer_hold hold = maker->plan->holds[i];
        if ((hold == OPTIMIZER_FITS || hold == OPTIMIZER_HAS_STEP) && item->ways & OPTIMIZER_MAY_SUSPEND &&
            item->node == waiter->node && item->priority <= waiter->priority && idles(maker, item))
            list[count++] = (struct candidate){ suspension(maker, i), item->priority };
    }
    qsort(list, count, sizeof(*list), compare_candidates);
    return count;
}

static bool enough(const struct room *missing) {
    return missing->cpus <= 0 && missing->memory <= 0;
}

static void subtract(struct room *missing, const struct optimizer_step *step, int sign) {
    missing->cpus -= sign * step->cpus_gain;
    missing->memory -= sign * step->memory_gain;
}

/* Drops the resizes of those that go to disk instead: one plan has one step for each. */
static void drop_resizes(struct maker *maker, const struct candidate *list, size_t count) {
    struct optimizer_plan *plan = maker->plan;
    size_t steps = plan->count;

    for (size_t i = 0; i < count; i++)
        plan->holds[list[i].step.instance] = OPTIMIZER_FITS;
    plan->count = 0;
    for (size_t i = 0; i < steps; i++) {
        struct optimizer_step *step = &plan->steps[i];
        struct room *room = &maker->rooms[maker->input->instances[step->instance].node];
        if (plan->holds[step->instance] == OPTIMIZER_HAS_STEP) {
            plan->steps[plan->count++] = *step;
            continue;
        }
        room->cpus -= step->cpus_gain;
        room->memory -= step->memory_gain;
    }
}

static void suspend_one(struct maker *maker, struct optimizer_step step) {
    const struct optimizer_instance *item = &maker->input->instances[step.instance];

    step.cpus = item->cpus.promised;
    step.memory = item->memory.promised;
    step.cpus_gain = (int64_t) physical(&item->cpus, step.cpus);
    step.memory_gain = (int64_t) physical(&item->memory, step.memory);
    add_step(maker, &step);
}

/* As few as give the waiter its room, or nobody. */
static int suspend_idle(struct maker *maker) {
    const struct optimizer_waiter *waiter = maker->input->waiter;
    const struct optimizer_node *node = &maker->input->nodes[waiter->node];
    const struct room *room = &maker->rooms[waiter->node];
    struct room missing = { (int64_t) (waiter->cpus + node->free_cpus) - room->cpus,
                            (int64_t) (waiter->memory + node->free_memory) - room->memory };
    _cleanup_free_ struct candidate *list = calloc(maker->input->instance_count + 1, sizeof(*list));
    size_t count = 0, taken = 0, kept = 0;

    if (!list)
        return -ENOMEM;
    if (!enough(&missing))
        count = list_idle(maker, list);
    while (taken < count && !enough(&missing))
        subtract(&missing, &list[taken++].step, 1);
    maker->plan->waiter_fits = enough(&missing);
    if (!enough(&missing))
        return 0;
    for (size_t i = 0; i < taken; i++) { /* whom it does without */
        subtract(&missing, &list[i].step, -1);
        if (enough(&missing))
            continue;
        subtract(&missing, &list[i].step, 1);
        list[kept++] = list[i];
    }
    drop_resizes(maker, list, kept);
    for (size_t i = 0; i < kept; i++)
        suspend_one(maker, list[i].step);
    return 0;
}

/* --- moves ---------------------------------------------------------------------------------------------- */

static const double power_usual[CONSOLIDATION_POWERS] = { 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200 };

static void fill_hosts(const struct maker *maker, struct consolidation_host *hosts) {
    for (size_t i = 0; i < maker->input->node_count; i++) {
        const struct optimizer_node *node = &maker->input->nodes[i];
        hosts[i] = (struct consolidation_host){ .cpu = (double) node->cpus, .cpu_largest = (double) node->cpus,
                                                .memory = node->memory, .closed = node->closed,
                                                .power = node->power ? node->power : power_usual };
    }
}

static void fill_instances(const struct maker *maker, struct consolidation_instance *instances) {
    for (size_t i = 0; i < maker->input->instance_count; i++) {
        const struct optimizer_instance *item = &maker->input->instances[i];
        instances[i] = (struct consolidation_instance){
            .host = item->node, .memory = physical(&item->memory, item->memory.promised),
            .move_time = (double) item->use.memory / maker->parameters->wire_rate,
            .pinned = !(item->ways & OPTIMIZER_MAY_MOVE) || maker->plan->holds[i] == OPTIMIZER_HAS_STEP ||
                      (maker->plan->holds[i] != OPTIMIZER_FITS && maker->plan->holds[i] != OPTIMIZER_NO_ROOM &&
                       maker->plan->holds[i] != OPTIMIZER_AT_LIMIT),
            .demand = item->use.cpu,
        };
    }
}

static void add_move(struct maker *maker, const struct consolidation_move *move) {
    static const enum optimizer_reason reasons[] = { [CONSOLIDATION_RELIEVE] = OPTIMIZER_RELIEVES,
                                                     [CONSOLIDATION_LARGE] = OPTIMIZER_TOO_LARGE,
                                                     [CONSOLIDATION_EMPTY] = OPTIMIZER_EMPTIES };
    const struct optimizer_instance *item = &maker->input->instances[move->instance];
    const struct optimizer_step step = {
        .instance = move->instance, .action = OPTIMIZER_MOVE, .reason = reasons[move->reason], .to = move->to,
        .cpus = item->cpus.promised, .memory = item->memory.promised,
        .cpus_gain = (int64_t) physical(&item->cpus, item->cpus.promised),
        .memory_gain = (int64_t) physical(&item->memory, item->memory.promised),
        .cost_bytes = item->use.memory, .cost_seconds = (double) item->use.memory / maker->parameters->wire_rate,
    };

    add_step(maker, &step);
    maker->rooms[move->to].cpus -= step.cpus_gain;
    maker->rooms[move->to].memory -= step.memory_gain;
}

static int move_some(struct maker *maker) {
    const struct optimizer_input *input = maker->input;
    _cleanup_free_ struct consolidation_host *hosts = calloc(input->node_count + 1, sizeof(*hosts));
    _cleanup_free_ struct consolidation_instance *instances = calloc(input->instance_count + 1, sizeof(*instances));
    _cleanup_free_ struct consolidation_move *moves = NULL;
    size_t count = 0;
    int r;

    if (!hosts || !instances)
        return -ENOMEM;
    fill_hosts(maker, hosts);
    fill_instances(maker, instances);
    r = consolidation_plan(&maker->parameters->moves, hosts, input->node_count, instances, input->instance_count,
                           input->now / SECOND, &moves, &count);
    for (size_t i = 0; r >= 0 && i < count; i++)
        add_move(maker, &moves[i]);
    return r;
}

/* --- all ------------------------------------------------------------------------------------------------ */

void optimizer_plan_done(struct optimizer_plan *plan) {
    free(plan->steps);
    free(plan->holds);
    *plan = (struct optimizer_plan){ 0 };
}

int optimizer_plan_make(const struct optimizer_input *input, struct optimizer_plan *ret) {
    _cleanup_optimizer_plan_ struct optimizer_plan plan = {
        .steps = calloc(input->instance_count + 1, sizeof(*plan.steps)),
        .holds = calloc(input->instance_count + 1, sizeof(*plan.holds)),
    };
    _cleanup_free_ struct room *rooms = calloc(input->node_count + 1, sizeof(*rooms));
    _cleanup_free_ size_t *resized = calloc(input->instance_count + 1, sizeof(*resized));
    struct maker maker = { input, input->parameters, &plan, rooms, resized };
    int r = 0;

    if (!plan.steps || !plan.holds || !rooms || !resized)
        return -ENOMEM;
    for (size_t i = 0; i < input->node_count; i++)
        rooms[i] = (struct room){ (int64_t) input->nodes[i].free_cpus, (int64_t) input->nodes[i].free_memory };
    for (size_t i = 0; i < input->instance_count; i++)
        plan.holds[i] = held(&maker, &input->instances[i]);
    shrink_all(&maker);
    if (input->waiter)
        r = suspend_idle(&maker);
    grow_all(&maker);
    if (r >= 0 && input->node_count > 1)
        r = move_some(&maker);
    if (r < 0)
        return r;
    *ret = plan;
    plan = (struct optimizer_plan){ 0 };
    return 0;
}
