// SPDX-License-Identifier: GPL-2.0-or-later
/* The host's memory. While less is available than the host keeps for itself (memory_reserve), it is short: then all who
 * run and can do with less (guests with a balloon, containers; never fixed ones) get what engine/memory.h grants them, looked
 * at anew every second. Nobody is brought below its reservation or what it uses. When memory is not short any more all get
 * everything back. Guests are told and heard through QEMU and never waited for; whoever is being changed by somebody else is
 * left alone in that look. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "engine/memory.h"
#include "manager/internal.h"

#define LOOK (5 * CLOCK_SECOND)
#define SHORT_LOOK (1 * CLOCK_SECOND)
#define STEP (UINT64_C(16) << 20) /* a grant is not worth telling for less */
#define SLACK (UINT64_C(8) << 20)
#define LOCK_DEADLINE CLOCK_SECOND

struct look {
    struct instance **members; /* with a reference each */
    struct memory_item *items;
    size_t count;
};

static void look_done(struct look *look) {
    for (size_t i = 0; i < look->count; i++)
        instance_unref(look->members[i]);
    free(look->members);
    free(look->items);
}

static bool is_machine(const struct instance *instance) {
    return instance->assigned.kind == KIND_VM || instance->assigned.kind == KIND_MICROVM;
}

static bool is_elastic(const struct instance *instance) {
    if (instance->status.state != STATE_RUNNING || instance->spec.allocation == INSTANCE_FIXED || !instance->driver)
        return false;
    return is_machine(instance) ? instance->driver->balloon != NULL
                                : instance->assigned.kind == KIND_CONTAINER && instance->view.cgroup;
}

static uint64_t most_of(const struct instance *instance) {
    return is_machine(instance) ? instance->spec.memory : instance_memory_limit(&instance->spec);
}

static int look_gather(struct manager *manager, bool all, struct look *look) {
    size_t position = 0, most = map_count(manager->by_uuid);
    void *value;

    *look = (struct look){ .members = calloc(most + 1, sizeof(struct instance *)),
                           .items = calloc(most + 1, sizeof(struct memory_item)) };
    if (!look->members || !look->items)
        return -ENOMEM;
    while (map_next(manager->by_uuid, &position, NULL, &value)) {
        struct instance *instance = value;
        if (is_elastic(instance) && (all || !instance->share.memory_whole))
            look->members[look->count++] = instance_ref(instance);
    }
    return 0;
}

/* --- one instance ---------------------------------------------------------------------------------------------------- */

/* Nobody works on it now, and it still runs. */
static bool take(struct instance *instance) {
    if (instance->lock.owner || fiber_mutex_lock(&instance->lock, deadline_in(LOCK_DEADLINE)) < 0)
        return false;
    if (is_elastic(instance) && !instance->removed)
        return true;
    fiber_mutex_unlock(&instance->lock);
    return false;
}

static uint64_t resident(int64_t pid) {
    _cleanup_free_ char *path = text_format("/proc/%lld/statm", (long long) pid), *text = NULL;
    unsigned long long pages = 0;

    if (pid <= 0 || !path || file_read(AT_FDCWD, path, 256, &text, NULL) < 0 || sscanf(text, "%*u %llu", &pages) != 1)
        return 0;
    return pages * (uint64_t) sysconf(_SC_PAGESIZE);
}

/* One that hangs would hold everybody up until a deadline, with its lock held. */
static bool answers(const struct instance *instance, int64_t *ret_pid) {
    struct driver_facts facts = { 0 };

    instance->driver->facts(instance->driver_data, &instance->view, &facts);
    free(facts.hostname);
    list_free(facts.addresses);
    *ret_pid = facts.pid;
    return !facts.trouble && !instance->status.unresponsive;
}

static bool measure_machine(struct instance *instance, struct memory_item *item) {
    struct driver_balloon balloon = { .listen = true };
    int64_t pid;
    uint64_t held;

    if (!answers(instance, &pid))
        return false;
    instance->share.memory_whole = false; /* that it shall listen no more is told when all is given back */
    if (instance->driver->balloon(instance->driver_data, &instance->view, &balloon, NULL) < 0 || balloon.used == 0)
        return false;
    held = resident(pid);
    item->held = held < balloon.size ? held : balloon.size;
    item->used = balloon.used;
    instance->share.memory_granted = balloon.size + SLACK < item->most ? balloon.size : 0;
    return true;
}

static bool measure_container(struct instance *instance, struct memory_item *item) {
    uint64_t cache;

    if (cgroup_memory(instance->view.cgroup, &item->held, &cache) < 0)
        return false;
    item->used = item->held > cache ? item->held - cache : 0;
    return true;
}

static bool measure(struct instance *instance, struct memory_item *item) {
    struct allocation terms = allocation_terms(instance);
    bool known = false;

    *item = (struct memory_item){
        .floor = reservation_floor(instance),
        .most = most_of(instance),
        .priority = terms.priority,
        .weight = terms.weight,
    };
    if (take(instance)) {
        known = is_machine(instance) ? measure_machine(instance, item) : measure_container(instance, item);
        fiber_mutex_unlock(&instance->lock);
    }
    instance->share.memory_held = known ? item->held : 0;
    instance->share.memory_used = known ? item->used : 0;
    instance->share.memory_need = known ? memory_need(item) : 0;
    return known;
}

struct squeeze {
    struct cgroup *cgroup;
    uint64_t bytes, floor;
};

static int squeeze_job(void *userdata) {
    const struct squeeze *squeeze = userdata;

    return cgroup_squeeze(squeeze->cgroup, squeeze->bytes, squeeze->floor);
}

static int grant_machine(struct instance *instance, uint64_t granted) {
    struct driver_balloon balloon = { .target = granted ? granted : most_of(instance), .listen = granted != 0 };
    int64_t pid;
    int r;

    if (!answers(instance, &pid))
        return -EHOSTDOWN;
    r = instance->driver->balloon(instance->driver_data, &instance->view, &balloon, NULL);
    return r < 0 ? r : balloon.size != balloon.target;
}

/* `granted` is 0 for all that it may have. Who could not be told is told in a later look. */
static void grant(struct instance *instance, uint64_t granted) {
    struct squeeze squeeze = { instance->view.cgroup, granted, reservation_floor(instance) };
    int r;

    if (!take(instance))
        return;
    if (is_machine(instance)) {
        r = grant_machine(instance, granted);
    } else {
        r = fiber_job(squeeze_job, &squeeze);
    }
    fiber_mutex_unlock(&instance->lock);
    if (r < 0)
        return;
    instance->manager->allocator.writes += (uint64_t) r;
    instance->share.memory_granted = granted;
    instance->share.memory_whole = granted == 0;
}

/* --- a look ------------------------------------------------------------------------------------------------------------ */

/* A container of version 1 is asked once for what it took since; the others know what they were told. */
static bool is_due(const struct instance *instance, const struct memory_item *item) {
    uint64_t had = instance->share.memory_granted ? instance->share.memory_granted : item->most;
    uint64_t distance = item->granted > had ? item->granted - had : had - item->granted;

    if (!is_machine(instance) && item->granted < item->most && item->held > item->granted + STEP)
        return true;
    return distance >= STEP || (distance > 0 && item->granted == item->most);
}

static int share_out(struct manager *manager, uint64_t available) {
    _cleanup_(look_done) struct look look = { 0 };
    size_t known = 0;
    int r = look_gather(manager, true, &look);

    for (size_t i = 0; r >= 0 && i < look.count; i++) {
        if (measure(look.members[i], &look.items[known])) {
            struct instance *member = look.members[i];
            look.members[i] = look.members[known];
            look.members[known++] = member;
        }
        r = fiber_yield();
    }
    if (r >= 0)
        r = memory_share(available, manager->configuration.memory_reserve, look.items, known);
    manager->allocator.memory_taken = 0;
    for (size_t i = 0; r >= 0 && i < known; i++) {
        const struct memory_item *item = &look.items[i];
        manager->allocator.memory_taken += item->most - item->granted;
        if (is_due(look.members[i], item))
            grant(look.members[i], item->granted < item->most ? item->granted : 0);
        r = fiber_yield();
    }
    return r;
}

/* Those who lack something, or may have been told something by an earlier daemon. */
static int give_back(struct manager *manager) {
    _cleanup_(look_done) struct look look = { 0 };
    int r = look_gather(manager, false, &look);

    for (size_t i = 0; r >= 0 && i < look.count; i++) {
        grant(look.members[i], 0);
        r = fiber_yield();
    }
    manager->allocator.memory_taken = 0;
    return r;
}

static int look(struct manager *manager) {
    struct allocator_state *state = &manager->allocator;
    uint64_t available = memory_available(), reserve = manager->configuration.memory_reserve;
    bool before = state->memory_short;

    state->memory_available = available;
    state->memory_short = available > 0 && memory_is_short(before, available, reserve, state->memory_taken);
    if (state->memory_short != before)
        log_notice(before ? "memory is not short any more" : "memory is short: those who can are asked to do with less");
    return state->memory_short ? share_out(manager, available) : give_back(manager);
}

static bool somebody_runs(const struct manager *manager) {
    size_t position = 0;
    void *value;

    while (map_next(manager->by_uuid, &position, NULL, &value))
        if (is_elastic(value))
            return true;
    return false;
}

static int keeper_main(void *userdata) {
    struct manager *manager = userdata;
    struct allocator_state *state = &manager->allocator;
    int r = 0;

    while (r != -ECANCELED) {
        if (!somebody_runs(manager)) {
            r = fiber_queue_wait(&state->waiting, DEADLINE_NONE);
            continue;
        }
        r = look(manager);
        if (r != -ECANCELED)
            r = fiber_sleep(state->memory_short ? SHORT_LOOK : LOOK);
    }
    return 0;
}

int memory_start(struct manager *manager) {
    return fiber_start(&manager->allocator.keeper, "memory", keeper_main, manager);
}
