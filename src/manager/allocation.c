// SPDX-License-Identifier: GPL-2.0-or-later
/* Shares of the processors. A pass works out the weight of everybody who runs (engine/weight.h: R_i = alpha x P + beta x T;
 * engine/allocator.h: R x C x S, lifted where a floor demands it) and the processors it may use, and writes what differs
 * from what is in force. Passes follow changes, coalesced so that they take little of the time whatever happens, and a
 * slow tick, because weights move with age. Those who share processors form a pool: all without a cpuset of their own one,
 * each cpuset another, and each fixed instance its own; fake instances have pools apart. */
#include "manager/allocation.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/internal.h"

/* Weights move within hours, and memory that is looked at rarely may have to come back from swap: so not often. */
#define TICK (20 * CLOCK_SECOND)
#define PASS_PAUSE (50 * CLOCK_MILLISECOND)
#define PASS_SHARE 20    /* one part in so many of the time goes into passes */
#define WRITES_IN_A_ROW 32
#define READS_IN_A_ROW 16
#define WEIGHT_CEILING 10000 /* of a control group of version 2 */
#define SHIFT_MAX 40

void instance_share_done(struct instance_share *share) {
    free(share->cpus);
    free(share->pinned);
    *share = (struct instance_share){ 0 };
}

void allocation_done(struct allocator_state *state) {
    fiber_unref(state->fiber);
    fiber_unref(state->keeper);
    free(state->shared);
    *state = (struct allocator_state){ 0 };
}

static bool is_fake(const struct instance *instance) {
    return instance->assigned.kind == KIND_FAKE;
}

/* --- terms ------------------------------------------------------------------------------------------------------- */

static struct weight_rule rule_of(const struct instance_spec *spec) {
    return (struct weight_rule){ .alpha = (int64_t) spec->weight_alpha, .beta = spec->weight_beta * 1000 };
}

uint64_t allocation_age(const struct instance *instance) {
    enum state state = instance->status.state;
    uint64_t now = clock_now();

    if (!state_is_active(state) || state == STATE_STARTING || !instance->ran_since || now < instance->ran_since)
        return 0;
    return now - instance->ran_since;
}

uint64_t allocation_wished(const struct instance *instance) {
    struct weight_rule rule = rule_of(&instance->spec);

    return weight_of(&rule, instance->spec.priority, allocation_age(instance));
}

/* R_i moves only by a tenth or more, unless somebody changed what it is made from. */
void allocation_settle(struct instance *instance) {
    struct instance_share *share = &instance->share;
    const struct instance_spec *spec = &instance->spec;
    struct weight_rule rule = rule_of(spec);
    uint64_t wished = allocation_wished(instance);

    if (rule.alpha != share->rule.alpha || rule.beta != share->rule.beta || spec->priority != share->priority)
        share->dynamic = 0;
    share->rule = rule;
    share->priority = spec->priority;
    share->dynamic = share->dynamic ? weight_settle(share->dynamic, wished) : wished;
}

struct allocation allocation_terms(const struct instance *instance) {
    const struct instance_spec *spec = &instance->spec;
    uint64_t dynamic = instance->share.dynamic ? instance->share.dynamic : allocation_wished(instance);

    return (struct allocation){
        .requested = spec->cpus,
        .reservation = spec->allocation == INSTANCE_FIXED ? spec->cpus : spec->cpu_reservation,
        .limit = instance_cpu_limit(spec),
        .priority = priority_factor(spec->priority),
        .weight = weight_factor(dynamic, spec->priority),
    };
}

static uint64_t fitted(const struct allocator_state *state, uint64_t weight) {
    weight >>= state->shift;
    return weight < 1 ? 1 : weight > WEIGHT_CEILING ? WEIGHT_CEILING : weight;
}

/* NULL: all there are. */
static const char *cpus_of(const struct instance *instance) {
    if (instance->spec.allocation == INSTANCE_FIXED && instance->share.pinned)
        return instance->share.pinned;
    return text_is_empty(instance->spec.cpuset) ? instance->manager->allocator.shared : instance->spec.cpuset;
}

void allocation_limits(struct instance *instance, struct cgroup_limits *limits) {
    const struct instance_spec *spec = &instance->spec;
    struct allocation terms = allocation_terms(instance);

    limits->cpu_milli = terms.limit;
    limits->cpu_weight = fitted(&instance->manager->allocator, instance->share.scheduler ? instance->share.scheduler
                                                                                         : allocation_weight(&terms));
    limits->io_weight = instance->share.dynamic;
    limits->memory_min = spec->allocation == INSTANCE_DYNAMIC ? 0 : reservation_floor(instance);
    limits->memory_low = limits->memory_min;
    limits->cpus = cpus_of(instance);
}

void allocation_applied(struct instance *instance, const struct cgroup_limits *limits) {
    struct instance_share *share = &instance->share;

    share->weight = limits->cpu_weight;
    free(share->cpus);
    share->cpus = limits->cpus ? strdup(limits->cpus) : NULL;
}

/* --- pools ------------------------------------------------------------------------------------------------------- */

static bool same_pool(const struct instance *a, const struct instance *b) {
    const char *first = a->spec.cpuset, *second = b->spec.cpuset;

    if (a == b)
        return true;
    if (is_fake(a) != is_fake(b) || a->spec.allocation == INSTANCE_FIXED || b->spec.allocation == INSTANCE_FIXED)
        return false;
    return text_equal(text_is_empty(first) ? NULL : first, text_is_empty(second) ? NULL : second);
}

static uint64_t pool_capacity(const struct instance *instance) {
    struct manager *manager = instance->manager;
    struct cpu_list fixed = reservation_fixed(manager, is_fake(instance)), cpus = manager->allocator.all, named;

    if (instance->spec.allocation == INSTANCE_FIXED)
        return instance->spec.cpus;
    if (!text_is_empty(instance->spec.cpuset) && cpu_list_parse(instance->spec.cpuset, &named) >= 0)
        cpus = named;
    cpus = cpu_list_without(&cpus, &fixed);
    return cpu_list_count(&cpus) * 1000;
}

static bool runs(const struct instance *instance) {
    return instance->status.state == STATE_RUNNING;
}

int allocation_pool(struct instance *instance, struct allocation **ret, size_t *ret_count, size_t *ret_self,
                    uint64_t *ret_capacity) {
    struct manager *manager = instance->manager;
    size_t position = 0, count = 0;
    struct allocation *items = calloc(map_count(manager->by_uuid) + 1, sizeof(*items));
    void *value;

    if (!items)
        return -ENOMEM;
    *ret_self = SIZE_MAX;
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *other = value;
        if (other != instance && (!runs(other) || !same_pool(instance, other)))
            continue;
        if (other == instance)
            *ret_self = count;
        items[count++] = allocation_terms(other);
    }
    if (*ret_self == SIZE_MAX) {
        *ret_self = count;
        items[count++] = allocation_terms(instance);
    }
    *ret = items;
    *ret_count = count;
    *ret_capacity = pool_capacity(instance);
    return 0;
}

/* --- a pass ------------------------------------------------------------------------------------------------------ */

struct pass {
    struct instance **members; /* those who run, with a reference each */
    struct allocation *terms;
    size_t count;
    bool simple;  /* nobody has a floor or a limit above its request: weights are scores */
    uint64_t floor;
};

static void pass_done(struct pass *pass) {
    for (size_t i = 0; i < pass->count; i++)
        instance_unref(pass->members[i]);
    free(pass->members);
    free(pass->terms);
}

static void pass_add(struct pass *pass, struct instance *instance) {
    struct allocation *terms = &pass->terms[pass->count];

    allocation_settle(instance);
    *terms = allocation_terms(instance);
    terms->scheduler = allocation_weight(terms);
    if (instance->spec.allocation != INSTANCE_FIXED && (terms->reservation > 0 || terms->limit > terms->requested))
        pass->simple = false;
    pass->members[pass->count++] = instance_ref(instance);
}

static int pass_gather(struct manager *manager, struct pass *pass) {
    size_t position = 0, most = map_count(manager->by_uuid);
    void *value;

    *pass = (struct pass){ .simple = true };
    pass->members = calloc(most ? most : 1, sizeof(struct instance *));
    pass->terms = calloc(most ? most : 1, sizeof(*pass->terms));
    if (!pass->members || !pass->terms)
        return -ENOMEM;
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        if (!is_fake(instance) && state_is_active(instance->status.state))
            pass->floor += reservation_floor(instance);
        if (runs(instance))
            pass_add(pass, instance);
    }
    return 0;
}

/* The weights of one pool, that of member `first`; `done` marks who has been looked at. */
static int pool_weigh(struct pass *pass, size_t first, bool *done, struct allocation *items, size_t *places) {
    size_t count = 0;
    int r;

    for (size_t i = first; i < pass->count; i++)
        if (!done[i] && same_pool(pass->members[first], pass->members[i])) {
            done[i] = true;
            places[count] = i;
            items[count++] = pass->terms[i];
        }
    /* Reservations beyond a cpuset's processors: scores are what is left to go by. */
    r = allocator_weigh(pool_capacity(pass->members[first]), items, count, NULL);
    for (size_t i = 0; r >= 0 && i < count; i++)
        pass->terms[places[i]] = items[i];
    return r == -ENOMEM ? r : 0;
}

static int pass_weigh(struct pass *pass) {
    _cleanup_free_ bool *done = calloc(pass->count + 1, sizeof(bool));
    _cleanup_free_ struct allocation *items = calloc(pass->count + 1, sizeof(*items));
    _cleanup_free_ size_t *places = calloc(pass->count + 1, sizeof(size_t));
    int r = done && items && places ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && !pass->simple && i < pass->count; i++)
        if (!done[i] && pass->members[i]->spec.allocation != INSTANCE_FIXED)
            r = pool_weigh(pass, i, done, items, places);
    return r;
}

static void pass_fit(struct manager *manager, const struct pass *pass) {
    uint64_t most = 0;

    for (size_t i = 0; i < pass->count; i++)
        if (pass->terms[i].scheduler > most)
            most = pass->terms[i].scheduler;
    manager->allocator.shift = 0;
    while (manager->allocator.shift < SHIFT_MAX && most >> manager->allocator.shift > WEIGHT_CEILING)
        manager->allocator.shift++;
}

static int pass_share_processors(struct manager *manager) {
    struct cpu_list fixed = reservation_fixed(manager, false), rest = cpu_list_without(&manager->allocator.all, &fixed);
    char *text = cpu_list_count(&fixed) > 0 ? cpu_list_format(&rest) : NULL;

    if (!text && cpu_list_count(&fixed) > 0)
        return -ENOMEM;
    free(manager->allocator.shared);
    manager->allocator.shared = text;
    return 0;
}

/* Writes what differs. False: everything was as it should be. */
static bool share_apply(struct instance *instance) {
    struct allocator_state *state = &instance->manager->allocator;
    struct instance_share *share = &instance->share;
    struct cgroup_limits limits = { 0 };
    bool weighs, moves;

    if (!runs(instance) || !instance->view.cgroup)
        return false;
    allocation_limits(instance, &limits);
    weighs = limits.cpu_weight != share->weight;
    moves = share->weight == 0 || !text_equal(limits.cpus, share->cpus);
    if (weighs && cgroup_set_weights(instance->view.cgroup, limits.cpu_weight, limits.io_weight, NULL) < 0)
        log_debug("instance '%s': its weight cannot be set", instance->name);
    if (moves && cgroup_set_cpus(instance->view.cgroup, limits.cpus, NULL) < 0)
        log_debug("instance '%s': its processors cannot be set", instance->name);
    state->writes += weighs + moves;
    if (weighs || moves)
        allocation_applied(instance, &limits);
    return weighs || moves;
}

static void floor_apply(struct manager *manager, uint64_t floor) {
    int r = floor != manager->allocator.floor && manager->cgroups ? cgroup_host_set_floor(manager->cgroups, floor) : 0;

    if (r < 0)
        log_debug("the memory that control groups are guaranteed cannot be set");
    else
        manager->allocator.floor = floor;
    manager->allocator.writes += r > 0;
}

static int pass_apply(struct manager *manager, struct pass *pass) {
    size_t written = 0;
    int r = 0;

    for (size_t i = 0; i < pass->count; i++)
        pass->members[i]->share.scheduler = pass->terms[i].scheduler;
    for (size_t i = 0; r >= 0 && i < pass->count; i++)
        if (share_apply(pass->members[i]) && ++written % WRITES_IN_A_ROW == 0)
            r = fiber_yield();
    if (r >= 0)
        floor_apply(manager, pass->floor);
    return r;
}

static int allocate(struct manager *manager) {
    struct pass pass;
    uint64_t begun = clock_now();
    int r = pass_gather(manager, &pass);

    if (r >= 0)
        r = pass_share_processors(manager);
    if (r >= 0)
        r = pass_weigh(&pass);
    if (r >= 0) {
        pass_fit(manager, &pass);
        manager->allocator.passes++;
        manager->allocator.members = pass.count;
        manager->allocator.pass_time = clock_now() - begun;
        r = pass_apply(manager, &pass);
    }
    pass_done(&pass);
    return r;
}

/* --- counters of requests ------------------------------------------------------------------------------------------ */

/* V_i = V_i + D_i. */
static bool count_more(int64_t *total, uint64_t before, uint64_t now) {
    *total += now > before ? (int64_t) (now - before) : 0;
    return now > before;
}

/* After a restart of polderd the first look only tells where counting goes on: what came before is in the status. */
static bool count_io(struct instance *instance) {
    struct instance_status *status = &instance->status;
    struct instance_share *share = &instance->share;
    struct cgroup_usage usage, *before = &share->counted;
    bool changed = false;

    if (!instance->view.cgroup || cgroup_usage(instance->view.cgroup, &usage) < 0)
        return false;
    optimize_note(instance, usage.cpu_us, usage.memory, OPTIMIZE_LEAST);
    if (share->counting) {
        changed |= count_more(&status->io_reads, before->io_reads, usage.io_reads);
        changed |= count_more(&status->io_writes, before->io_writes, usage.io_writes);
        changed |= count_more(&status->io_read_bytes, before->io_read_bytes, usage.io_read_bytes);
        changed |= count_more(&status->io_write_bytes, before->io_write_bytes, usage.io_write_bytes);
    }
    share->counting = true;
    share->counted = usage;
    return changed;
}

static void count_requests(struct instance *instance) {
    struct instance_status *status = &instance->status;
    struct instance_share *share = &instance->share;
    struct driver_facts facts = { 0 };
    bool changed = count_io(instance);

    if (instance->driver && instance->driver->facts && !is_fake(instance)) {
        instance->driver->facts(instance->driver_data, &instance->view, &facts);
        changed |= count_more(&status->control_calls, share->control_counted, facts.control_calls);
        share->control_counted = facts.control_calls;
        changed |= status->control_waits != (int64_t) facts.control_waits;
        status->control_waits = (int64_t) facts.control_waits;
        free(facts.hostname);
        list_free(facts.addresses);
    }
    if (changed)
        instance_touch(instance);
}

void allocation_begin(struct instance *instance) {
    struct instance_share *share = &instance->share;

    share->counted = (struct cgroup_usage){ 0 };
    share->counting = true;
    share->control_counted = 0;
    share->memory_whole = false;
}

void allocation_forget(struct instance *instance) {
    struct instance_share *share = &instance->share;

    if (share->weight != 0)
        count_requests(instance);
    share->scheduler = share->dynamic = share->weight = 0;
    share->memory_granted = 0;
    reservation_give_back(instance);
}

static int count_all(struct manager *manager) {
    struct pass pass;
    size_t counted = 0;
    int r = pass_gather(manager, &pass);

    for (size_t i = 0; r >= 0 && i < pass.count; i++) {
        if (is_fake(pass.members[i]) || !runs(pass.members[i]))
            continue;
        count_requests(pass.members[i]);
        if (++counted % READS_IN_A_ROW == 0)
            r = fiber_yield();
    }
    pass_done(&pass);
    return r;
}

/* --- the fiber ------------------------------------------------------------------------------------------------------ */

void allocation_changed(struct manager *manager) {
    manager->allocator.stale = true;
    fiber_queue_wake_all(&manager->allocator.waiting);
}

static int allocator_main(void *userdata) {
    struct manager *manager = userdata;
    struct allocator_state *state = &manager->allocator;
    uint64_t tick = deadline_in(TICK);
    int r = 0;

    while (r != -ECANCELED) {
        uint64_t begun, pause;
        bool due = state->members > 0 && clock_now() >= tick;
        if (!state->stale && !due) {
            r = fiber_queue_wait(&state->waiting, state->members > 0 ? tick : DEADLINE_NONE);
            continue;
        }
        state->stale = false;
        begun = clock_now();
        r = allocate(manager);
        if (due && r != -ECANCELED) {
            r = count_all(manager);
            tick = deadline_in(TICK);
        }
        pause = (clock_now() - begun) * PASS_SHARE;
        if (r != -ECANCELED)
            r = fiber_sleep(pause > PASS_PAUSE ? pause : PASS_PAUSE);
    }
    return 0;
}

static void processors_find(struct cpu_list *ret) {
    cpu_set_t set;

    *ret = (struct cpu_list){ 0 };
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        CPU_SET(0, &set);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set))
            cpu_list_add(ret, cpu);
}

void allocation_init(struct allocator_state *state) {
    processors_find(&state->all);
    state->floor = UINT64_MAX; /* not known */
}

int allocation_start(struct manager *manager) {
    manager->allocator.stale = true;
    int r = fiber_start(&manager->allocator.fiber, "allocator", allocator_main, manager);

    return r < 0 ? r : memory_start(manager);
}
