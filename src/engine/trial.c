// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/trial.h"

#include <errno.h>
#include <string.h>

#include "engine/engine-internal.h"

#define TRIES 8 /* running ones that are supposed away, one after another */
#define ADDED_MAX 10000

/* --- what would let it start ------------------------------------------------------------------------------------------ */

struct engine_trial {
    const struct engine *engine; /* of the copy */
    const struct engine_entry *entry;
    int64_t now;
    struct engine_flip flip;     /* without the names */
    uint32_t gone, ahead;        /* handles; UINT32_MAX: none */
};

struct watch {
    uint32_t handle;
    bool started;
};

static void watch_decided(void *userdata, uint32_t handle, enum queue_state state) {
    struct watch *watch = userdata;

    if (handle == watch->handle && state == QUEUE_RUNNING)
        watch->started = true;
}

/* Does it start, when `change` is made to a copy? */
struct change {
    const struct queue_request *request; /* it asks for this instead */
    uint32_t removed;                    /* this one is not there; UINT32_MAX: nobody */
};

static int would_start(const struct engine *engine, uint32_t handle, const struct change *change, int64_t now) {
    _cleanup_queue_ struct queue *copy = NULL;
    struct watch watch = { .handle = handle };
    int r = queue_copy(engine->queue, &copy);

    if (r >= 0 && change->request)
        r = queue_change(copy, handle, change->request, now);
    if (r >= 0 && change->removed != UINT32_MAX)
        r = queue_remove(copy, change->removed, now);
    if (r >= 0)
        r = queue_pass(copy, now, watch_decided, &watch);
    return r < 0 ? r : watch.started;
}

/* It asks for what is free and no more. */
static int try_less(const struct engine *engine, const struct engine_entry *entry, int64_t now, struct engine_flip *ret) {
    const struct queue_entry *queued = queue_entry(engine->queue, entry->handle);
    struct demand room = queue_free_room(engine->queue, now);
    uint64_t cpus = engine_free_cpus(engine, entry->kind, room.cpus);
    uint64_t memory = queued->held ? entry->memory : engine_free_memory(engine, entry->kind, room.memory);
    struct queue_request request = { .estimate = queue_estimate(engine->queue, entry->handle),
                                     .priority = queued->priority, .weight = queued->weight, .yields = queued->yields };
    struct change change = { &request, UINT32_MAX };
    int r;

    cpus = cpus < entry->cpus ? cpus : entry->cpus;
    memory = memory < entry->memory ? memory : entry->memory;
    if (cpus == 0 || memory == 0 || (cpus == entry->cpus && memory == entry->memory))
        return 0;
    request.demand = engine_take(engine, entry->kind, cpus, memory);
    r = would_start(engine, entry->handle, &change, now);
    if (r > 0) {
        ret->fewer_cpus = entry->cpus - cpus;
        ret->less_memory = entry->memory - memory;
    }
    return r;
}

/* The larger of its shares of the node, in millionths. */
static uint64_t share_of(const struct engine *engine, uint32_t handle) {
    struct demand demand = queue_demand(engine->queue, handle);
    uint64_t cpus = engine->node.cpus * engine->scale_cpus, memory = engine->node.memory * engine->scale_memory;
    uint64_t a = cpus ? (uint64_t) ((unsigned __int128) demand.cpus * 1000000 / cpus) : 0;
    uint64_t b = memory ? (uint64_t) ((unsigned __int128) demand.memory * 1000000 / memory) : 0;

    return a > b ? a : b;
}

/* The smallest running one whose room would do and that is larger than `above` (a share and a handle); UINT32_MAX: none. */
static uint32_t next_larger(const struct engine *engine, struct demand lacking, uint64_t *share, uint32_t *last) {
    uint32_t best = UINT32_MAX, handle;
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; queue_running_at(engine->queue, i, &handle); i++) {
        uint64_t other = share_of(engine, handle);
        bool is_later = other > *share || (other == *share && (*last == UINT32_MAX || handle > *last));
        if (!demand_fits(lacking, queue_demand(engine->queue, handle)) || !is_later)
            continue;
        if (other < least || (other == least && handle < best)) {
            least = other;
            best = handle;
        }
    }
    *share = least;
    *last = best;
    return best;
}

static int try_without(struct engine_trial *trial) {
    const struct engine *engine = trial->engine;
    struct demand wanted = queue_demand(engine->queue, trial->entry->handle), room = queue_free_room(engine->queue, trial->now);
    struct demand lacking = { wanted.cpus - room.cpus, wanted.memory - room.memory };
    uint64_t share = 0;
    uint32_t last = UINT32_MAX;
    int r = 0;

    for (int i = 0; i < TRIES && r == 0; i++) {
        struct change change = { NULL, next_larger(engine, lacking, &share, &last) };
        if (change.removed == UINT32_MAX)
            return 0;
        r = would_start(engine, trial->entry->handle, &change, trial->now);
        if (r > 0)
            trial->gone = change.removed;
    }
    return r;
}

static int try_ahead(struct engine_trial *trial) {
    struct queue_cursor cursor = { 0 };
    struct change change = { NULL, UINT32_MAX };
    int r;

    if (!queue_next_waiting(trial->engine->queue, &cursor, &change.removed) || change.removed == trial->entry->handle)
        return 0;
    r = would_start(trial->engine, trial->entry->handle, &change, trial->now);
    if (r > 0)
        trial->ahead = change.removed;
    return r;
}

/* Further back than ENGINE_FORESEEN nobody can tell cheaply. */
static int foresee(struct engine_trial *trial) {
    size_t wanted = queue_position(trial->engine->queue, trial->entry->handle);
    _cleanup_free_ struct queue_forecast *forecasts = NULL;
    ssize_t count;

    if (wanted > ENGINE_FORESEEN)
        return 0;
    forecasts = calloc(wanted + 1, sizeof(*forecasts));
    count = forecasts ? queue_forecast(trial->engine->queue, trial->now, forecasts, wanted) : -ENOMEM;
    if (count == (ssize_t) wanted && forecasts[wanted - 1].start < TIME_FOREVER)
        trial->flip.start = (uint64_t) forecasts[wanted - 1].start;
    return count < 0 ? (int) count : 0;
}

int engine_trial_new(const struct engine_copy *copy, const struct engine *engine, const char *id, uint64_t now,
                     struct engine_trial **ret) {
    const struct engine_entry *entry = map_get(engine->entries, id);
    struct engine_trial *trial;

    if (!engine_waits_for_room(engine, id))
        return -ENOENT;
    trial = calloc(1, sizeof(*trial));
    if (!trial)
        return -ENOMEM;
    trial->engine = engine_copy_view(copy);
    trial->entry = engine_entry_at(trial->engine, entry->handle);
    trial->now = (int64_t) now;
    trial->gone = trial->ahead = UINT32_MAX;
    trial->flip.start = UINT64_MAX;
    *ret = trial;
    return 0;
}

void engine_trial_free(struct engine_trial *trial) {
    free(trial);
}

int engine_trial_run(struct engine_trial *trial) {
    int r = foresee(trial);

    if (r >= 0)
        r = try_less(trial->engine, trial->entry, trial->now, &trial->flip);
    if (r >= 0)
        r = try_without(trial);
    if (r >= 0)
        r = try_ahead(trial);
    return r < 0 ? r : 0;
}

/* The name of one of the copy's, if it still is what it was: handles are used again, ids never. */
static const char *name_of(const struct engine_trial *trial, const struct engine *engine, uint32_t handle) {
    if (handle == UINT32_MAX || !queue_is_same(engine->queue, trial->engine->queue, handle))
        return NULL;
    return engine_entry_at(engine, handle)->name;
}

void engine_trial_flip(const struct engine_trial *trial, const struct engine *engine, struct engine_flip *ret) {
    *ret = trial->flip;
    ret->gone = name_of(trial, engine, trial->gone);
    ret->ahead = name_of(trial, engine, trial->ahead);
}

int engine_find_flip(const struct engine *engine, const char *id, uint64_t now, struct engine_flip *ret) {
    _cleanup_copy_ struct engine_copy *copy = NULL;
    _cleanup_trial_ struct engine_trial *trial = NULL;
    int r = engine_copy_new(engine, SIZE_MAX, &copy);

    if (r >= 0)
        r = engine_trial_new(copy, engine, id, now, &trial);
    *ret = (struct engine_flip){ .start = UINT64_MAX };
    if (r >= 0)
        r = engine_trial_run(trial);
    if (r >= 0)
        engine_trial_flip(trial, engine, ret);
    return r;
}

/* --- what if ---------------------------------------------------------------------------------------------------------- */

struct supposed {
    struct engine engine;        /* a view of the real one, with a queue of its own */
    struct engine_entry *added;
    size_t count;
};

static void supposed_done(struct supposed *supposed) {
    queue_free(supposed->engine.queue);
    free(supposed->added);
}

static int supposed_add(struct supposed *supposed, const struct engine_supposition *supposition, uint64_t now) {
    const struct engine_request *request = supposition->request;
    struct engine *engine = &supposed->engine;
    struct queue_request queued;
    int r = 0;

    engine_queue_predicted(engine, request, &supposition->prediction, now, &queued);
    for (size_t i = 0; r >= 0 && i < supposed->count; i++) {
        struct engine_entry *entry = &supposed->added[i];
        *entry = (struct engine_entry){ .name = "", .kind = request->kind, .cpus = request->cpus, .memory = request->memory };
        queued.id = engine->sequence++;
        queued.userdata = entry;
        r = queue_submit(engine->queue, &queued, (int64_t) now, &entry->handle);
    }
    return r;
}

static int supposed_make(const struct engine *engine, const struct engine_supposition *supposition, uint64_t now,
                         struct supposed *ret) {
    struct queue_options queue;
    int r;

    ret->engine = *engine;
    ret->engine.queue = NULL;
    ret->count = supposition->add;
    ret->added = calloc(ret->count + 1, sizeof(*ret->added));
    r = ret->added ? queue_copy(engine->queue, &ret->engine.queue) : -ENOMEM;
    if (supposition->options)
        ret->engine.options = *supposition->options;
    if (supposition->cpus)
        ret->engine.node.cpus = supposition->cpus;
    if (supposition->memory)
        ret->engine.node.memory = supposition->memory;
    if (r >= 0 && (supposition->options || supposition->cpus || supposition->memory)) {
        engine_queue_options(&ret->engine, &ret->engine.options, &queue);
        r = queue_configure(ret->engine.queue, &queue, (int64_t) now);
    }
    if (supposition->otherwise) /* borrowed, and only read */
        ret->engine.place = (struct engine_place){ (char **) supposition->traits, (char **) supposition->taints };
    if (r >= 0 && ret->count > 0)
        r = supposed_add(ret, supposition, now);
    if (r >= 0)
        r = constraints_bar(&ret->engine, (int64_t) now);
    return r < 0 ? r : 0;
}

/* Index of a forecast by its entry. */
static struct engine_prospect *prospect_of(struct engine_prospect *prospects, size_t waiting, const struct map *places,
                                           const struct supposed *supposed, const struct engine_forecast *forecast) {
    if (!forecast->id)
        return &prospects[waiting + (size_t) (engine_entry_at(&supposed->engine, forecast->handle) - supposed->added)];
    return map_get(places, forecast->id);
}

static int compare(const struct engine *engine, struct supposed *supposed, bool gone, uint64_t now, size_t waiting,
                   struct engine_prospect *prospects) {
    size_t all = waiting + supposed->count;
    _cleanup_free_ struct engine_forecast *forecasts = calloc(all + 1, sizeof(*forecasts));
    _cleanup_map_ struct map *places = NULL;
    ssize_t count = forecasts ? map_new(&places) : -ENOMEM;

    if (count >= 0)
        count = engine_foresee(engine, now, forecasts, waiting);
    for (ssize_t i = 0; i < count; i++) {
        prospects[i] = (struct engine_prospect){ forecasts[i].name, forecasts[i].start, UINT64_MAX,
                                                 forecasts[i].why.position, 0 };
        if (map_put(places, forecasts[i].id, &prospects[i]) < 0)
            return -ENOMEM;
    }
    for (size_t i = waiting; i < all; i++)
        prospects[i] = (struct engine_prospect){ .before = UINT64_MAX, .after = UINT64_MAX };
    if (count >= 0 && gone)
        count = 0; /* nobody starts */
    else if (count >= 0)
        count = engine_foresee(&supposed->engine, now, forecasts, all < ENGINE_FORESEEN ? all : ENGINE_FORESEEN);
    for (ssize_t i = 0; i < count; i++) {
        struct engine_prospect *prospect = prospect_of(prospects, waiting, places, supposed, &forecasts[i]);
        if (!prospect)
            continue; /* it came from far behind */
        prospect->after = forecasts[i].start;
        prospect->position_after = forecasts[i].why.position;
    }
    return count < 0 ? (int) count : 0;
}

void engine_supposition_predict(struct engine_supposition *supposition, const struct engine *engine) {
    struct queue_request queued = { 0 };

    if (supposition->add > 0)
        engine_queue_request(engine, supposition->request, 0, &queued);
    supposition->prediction = (struct prediction){ queued.estimate, queued.urgency };
}

ssize_t engine_suppose(const struct engine *engine, const struct engine_supposition *supposition, uint64_t now,
                       struct engine_prospect **ret) {
    _cleanup_(supposed_done) struct supposed supposed = { 0 };
    size_t queued = queue_waiting(engine->queue) + queue_barred(engine->queue), waiting = queued < ENGINE_FORESEEN ? queued : ENGINE_FORESEEN;
    size_t all = waiting + supposition->add;
    _cleanup_free_ struct engine_prospect *prospects = calloc(all + 1, sizeof(*prospects));
    int r = prospects && supposition->add <= ADDED_MAX ? 0 : -ENOMEM;

    if (r >= 0)
        r = supposed_make(engine, supposition, now, &supposed);
    if (r >= 0)
        r = compare(engine, &supposed, supposition->gone, now, waiting, prospects);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(prospects);
    return (ssize_t) all;
}
