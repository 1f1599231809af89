// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/engine.h"

#include <errno.h>
#include <string.h>

#include "base/map.h"
#include "base/text.h"

#define WEIGHT_NORMAL 100
#define WEIGHT_STEP 9 /* of a priority: ten times the weight at 100 */

/* What is taken of the physical capacity is worked out for each kind from the sum of its requests, so that nothing is
 * lost to rounding however small an instance's share is. */

struct entry {
    char *id;
    enum kind kind;
    uint64_t cpus, memory; /* as asked */
    uint64_t since;
    bool admitted;
    void *userdata;
    struct entry *previous, *next; /* in the queue */
};

struct engine {
    struct engine_node node;
    struct map *entries;
    struct entry *first, *last;
    uint64_t cpus[KIND_COUNT], memory[KIND_COUNT]; /* promised, by kind */
    struct engine_totals totals;
};

static void entry_free(struct entry *entry) {
    free(entry->id);
    free(entry);
}

int engine_new(const struct engine_node *node, struct engine **ret) {
    struct engine *engine = calloc(1, sizeof(*engine));
    int r;

    if (!engine)
        return -ENOMEM;
    r = map_new(&engine->entries);
    if (r < 0) {
        free(engine);
        return r;
    }
    engine->node = *node;
    *ret = engine;
    return 0;
}

void engine_free(struct engine *engine) {
    size_t position = 0;
    void *value;

    if (!engine)
        return;
    while (map_next(engine->entries, &position, NULL, &value))
        entry_free(value);
    map_free(engine->entries);
    free(engine);
}

/* Request divided by the ratio, rounded up; no overflow for any 64-bit request and ratio of at least one percent. */
static uint64_t share_of(uint64_t request, uint64_t percent) {
    unsigned __int128 scaled = (unsigned __int128) request * 100;
    uint64_t ratio = percent > 0 ? percent : 100;
    unsigned __int128 share = (scaled + ratio - 1) / ratio;

    return share > UINT64_MAX ? UINT64_MAX : (uint64_t) share;
}

static uint64_t virtual_of(uint64_t physical, uint64_t percent) {
    unsigned __int128 value = (unsigned __int128) physical * (percent > 0 ? percent : 100) / 100;

    return value > UINT64_MAX ? UINT64_MAX : (uint64_t) value;
}

static int impossible(struct error *error, const char *resource, char *wanted, char *most) {
    _cleanup_free_ char *a = wanted, *b = most;

    return error_set(error, ERROR_IMPOSSIBLE, resource, a, b);
}

int engine_check(const struct engine *engine, const struct engine_request *request, struct error *error) {
    uint64_t cpus = virtual_of(engine->node.cpus, engine->node.overcommit_cpu[request->kind]);
    uint64_t memory = virtual_of(engine->node.memory, engine->node.overcommit_memory[request->kind]);

    if (request->cpus > cpus)
        return impossible(error, "cpus", text_format_cpus(request->cpus), text_format_cpus(cpus));
    if (request->memory > memory)
        return impossible(error, "memory", text_format_size(request->memory), text_format_size(memory));
    return 0;
}

/* What would be taken of the physical capacity if the sum of one kind were `sum`. */
static uint64_t taken_with(const uint64_t sums[KIND_COUNT], const uint64_t ratios[KIND_COUNT], enum kind kind,
                           uint64_t sum) {
    uint64_t taken = 0;

    for (int other = 0; other < KIND_COUNT; other++) {
        uint64_t share = share_of(other == (int) kind ? sum : sums[other], ratios[other]);
        taken = share > UINT64_MAX - taken ? UINT64_MAX : taken + share;
    }
    return taken;
}

static int entry_new(struct engine *engine, const struct engine_request *request, struct entry **ret) {
    struct entry *entry = calloc(1, sizeof(*entry));
    int r;

    if (!entry)
        return -ENOMEM;
    entry->id = strdup(request->id);
    entry->kind = request->kind;
    entry->cpus = request->cpus;
    entry->memory = request->memory;
    entry->userdata = request->userdata;
    r = entry->id ? map_put(engine->entries, entry->id, entry) : -ENOMEM;
    if (r < 0) {
        entry_free(entry);
        return r;
    }
    *ret = entry;
    return 0;
}

static void queue_unlink(struct engine *engine, struct entry *entry) {
    if (entry->previous)
        entry->previous->next = entry->next;
    else
        engine->first = entry->next;
    if (entry->next)
        entry->next->previous = entry->previous;
    else
        engine->last = entry->previous;
    entry->previous = entry->next = NULL;
    engine->totals.queued--;
}

static void totals_update(struct engine *engine, enum kind kind) {
    const struct engine_node *node = &engine->node;

    engine->totals.taken_cpus = taken_with(engine->cpus, node->overcommit_cpu, kind, engine->cpus[kind]);
    engine->totals.taken_memory = taken_with(engine->memory, node->overcommit_memory, kind, engine->memory[kind]);
}

static void room_take(struct engine *engine, struct entry *entry) {
    entry->admitted = true;
    engine->totals.admitted++;
    engine->totals.promised_cpus += entry->cpus;
    engine->totals.promised_memory += entry->memory;
    engine->cpus[entry->kind] += entry->cpus;
    engine->memory[entry->kind] += entry->memory;
    totals_update(engine, entry->kind);
}

static void room_give(struct engine *engine, struct entry *entry) {
    engine->totals.admitted--;
    engine->totals.promised_cpus -= entry->cpus;
    engine->totals.promised_memory -= entry->memory;
    engine->cpus[entry->kind] -= entry->cpus;
    engine->memory[entry->kind] -= entry->memory;
    totals_update(engine, entry->kind);
}

int engine_submit(struct engine *engine, const struct engine_request *request, uint64_t now) {
    struct entry *entry = map_get(engine->entries, request->id);
    int r;

    if (entry)
        return 0;
    r = entry_new(engine, request, &entry);
    if (r < 0)
        return r;
    entry->since = now;
    entry->previous = engine->last;
    if (engine->last)
        engine->last->next = entry;
    else
        engine->first = entry;
    engine->last = entry;
    engine->totals.queued++;
    return 0;
}

int engine_occupy(struct engine *engine, const struct engine_request *request) {
    struct entry *entry = map_get(engine->entries, request->id);
    int r = 0;

    if (entry && entry->admitted)
        return 0;
    if (entry)
        queue_unlink(engine, entry);
    else
        r = entry_new(engine, request, &entry);
    if (r >= 0)
        room_take(engine, entry);
    return r;
}

void engine_release(struct engine *engine, const char *id) {
    struct entry *entry = map_remove(engine->entries, id);

    if (!entry)
        return;
    if (entry->admitted)
        room_give(engine, entry);
    else
        queue_unlink(engine, entry);
    entry_free(entry);
}

static uint64_t free_of(uint64_t capacity, uint64_t taken) {
    return capacity > taken ? capacity - taken : 0;
}

/* The resource of which there is not enough for `more` beyond what is promised, NULL if there is. */
static const char *lacking_for(const struct engine *engine, enum kind kind, uint64_t cpus, uint64_t memory) {
    const struct engine_node *node = &engine->node;

    if (cpus && taken_with(engine->cpus, node->overcommit_cpu, kind, engine->cpus[kind] + cpus) > node->cpus)
        return "cpus";
    if (memory && taken_with(engine->memory, node->overcommit_memory, kind, engine->memory[kind] + memory) > node->memory)
        return "memory";
    return NULL;
}

static const char *lacking(const struct engine *engine, const struct entry *entry) {
    return lacking_for(engine, entry->kind, entry->cpus, entry->memory);
}

void *engine_next(struct engine *engine) {
    struct entry *entry = engine->first;

    if (!entry || lacking(engine, entry))
        return NULL;
    queue_unlink(engine, entry);
    room_take(engine, entry);
    return entry->userdata;
}

static int no_room(struct error *error, const char *resource, char *wanted, char *available) {
    _cleanup_free_ char *a = wanted, *b = available;

    return error_set(error, ERROR_NO_ROOM, resource, a, b);
}

/* May the admitted entry grow as far as the request? What it has counts as free for it. */
static int check_growth(const struct engine *engine, const struct entry *entry, const struct engine_request *request,
                        struct error *error) {
    const struct engine_node *node = &engine->node;
    uint64_t cpus = request->cpus > entry->cpus ? request->cpus - entry->cpus : 0;
    uint64_t memory = request->memory > entry->memory ? request->memory - entry->memory : 0;
    const char *resource = lacking_for(engine, entry->kind, cpus, memory);
    uint64_t left;

    if (!resource)
        return 0;
    if (resource[0] == 'c') {
        left = virtual_of(free_of(node->cpus, engine->totals.taken_cpus), node->overcommit_cpu[entry->kind]);
        return no_room(error, resource, text_format_cpus(cpus), text_format_cpus(left));
    }
    left = virtual_of(free_of(node->memory, engine->totals.taken_memory), node->overcommit_memory[entry->kind]);
    return no_room(error, resource, text_format_size(memory), text_format_size(left));
}

int engine_change(struct engine *engine, const struct engine_request *request, struct error *error) {
    struct entry *entry = map_get(engine->entries, request->id);
    int r;

    if (!entry)
        return 0;
    if (entry->admitted) {
        r = check_growth(engine, entry, request, error);
        if (r < 0)
            return r;
        room_give(engine, entry);
    }
    entry->cpus = request->cpus;
    entry->memory = request->memory;
    if (entry->admitted)
        room_take(engine, entry);
    return 0;
}

static void explain(const struct engine *engine, const struct entry *entry, struct engine_explanation *ret) {
    ret->standing = entry->admitted ? ENGINE_ADMITTED : ENGINE_QUEUED;
    ret->since = entry->since;
    if (entry->admitted)
        return;
    ret->resource = lacking(engine, entry);
    if (ret->resource && ret->resource[0] == 'c') {
        ret->wanted = entry->cpus;
        ret->free = virtual_of(free_of(engine->node.cpus, engine->totals.taken_cpus),
                               engine->node.overcommit_cpu[entry->kind]);
    } else if (ret->resource) {
        ret->wanted = entry->memory;
        ret->free = virtual_of(free_of(engine->node.memory, engine->totals.taken_memory),
                               engine->node.overcommit_memory[entry->kind]);
    }
}

void engine_explain(const struct engine *engine, const char *id, struct engine_explanation *ret) {
    const struct entry *entry = map_get(engine->entries, id);

    *ret = (struct engine_explanation){ 0 };
    if (!entry)
        return;
    for (const struct entry *other = entry; other && !entry->admitted; other = other->previous)
        ret->position++;
    explain(engine, entry, ret);
}

bool engine_walk(const struct engine *engine, struct engine_cursor *cursor, void **ret_userdata,
                 struct engine_explanation *ret_why) {
    const struct entry *entry = cursor->entry ? ((const struct entry *) cursor->entry)->next : engine->first;

    if (!entry)
        return false;
    cursor->entry = entry;
    *ret_why = (struct engine_explanation){ .position = ++cursor->position };
    explain(engine, entry, ret_why);
    *ret_userdata = entry->userdata;
    return true;
}

void engine_totals(const struct engine *engine, struct engine_totals *ret) {
    *ret = engine->totals;
}

uint64_t engine_cpu_weight(int64_t priority) {
    uint64_t distance = priority < 0 ? -(uint64_t) priority : (uint64_t) priority, factor;

    factor = WEIGHT_NORMAL + WEIGHT_STEP * (distance > 100 ? 100 : distance);
    return priority < 0 ? WEIGHT_NORMAL * WEIGHT_NORMAL / factor : factor;
}
