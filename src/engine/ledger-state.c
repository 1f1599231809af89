// SPDX-License-Identifier: GPL-2.0-or-later
/* The whole state as one line of JSON, an engine from such a line, and events done again. Numbers are written as integers;
 * those that have parts as their bits, so that nothing is rounded. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "base/bits.h"
#include "base/text.h"
#include "engine/copy-internal.h"
#include "engine/ledger-internal.h"
#include "engine/queue-internal.h"

#define TEXT_OF_IT(value) #value
#define TEXT_OF(value) TEXT_OF_IT(value)

/* --- out -------------------------------------------------------------------------------------------------------------- */

static void emit_integers(struct emitter *emitter, const int64_t *values, size_t count) {
    emit_array(emitter);
    for (size_t i = 0; i < count; i++)
        emit_integer(emitter, values[i]);
    emit_array_end(emitter);
}

static void emit_key_integers(struct emitter *emitter, const char *key, const uint64_t *values, size_t count) {
    emit_key(emitter, key);
    emit_integers(emitter, (const int64_t *) values, count);
}

static void emit_node(const struct engine *engine, struct emitter *emitter) {
    const struct engine_node *node = &engine->node;

    emit_key(emitter, "node");
    emit_object(emitter);
    emit_key_integer(emitter, "cpus", (int64_t) node->cpus);
    emit_key_integer(emitter, "memory", (int64_t) node->memory);
    emit_key_integers(emitter, "overcommit_cpu", node->overcommit_cpu, KIND_COUNT);
    emit_key_integers(emitter, "overcommit_memory", node->overcommit_memory, KIND_COUNT);
    emit_key_list(emitter, "traits", engine->place.traits);
    emit_key_list(emitter, "taints", engine->place.taints);
    emit_object_end(emitter);
}

static void emit_queue(const struct queue *queue, struct emitter *emitter) {
    emit_key(emitter, "queue");
    emit_object(emitter);
    emit_key_integer(emitter, "scored_at", queue->scored_at);
    emit_key_integer(emitter, "drain", queue->drain);
    emit_key_integer(emitter, "virtual_time", bits_of(queue->virtual_time));
    emit_key_integer(emitter, "sequence", (int64_t) queue->sequence);
    emit_key_integer(emitter, "handles", (int64_t) queue->entry_count);
    emit_key(emitter, "vacant");
    emit_array(emitter);
    for (size_t i = 0; i < queue->vacant_count; i++)
        emit_integer(emitter, queue->vacant[i]);
    emit_array_end(emitter);
    emit_key(emitter, "usage");
    emit_array(emitter);
    for (size_t i = 0; i < queue->usage.size; i++) {
        const struct usage_account *account = &queue->usage.accounts[i];
        if (account->updated != INT64_MIN)
            emit_integers(emitter, (const int64_t[]){ (int64_t) account->owner, account->updated, bits_of(account->amount) }, 3);
    }
    emit_array_end(emitter);
    emit_object_end(emitter);
}

/* 12 numbers of the entry, 20 of its place in the queue, 2 of what it is guaranteed; then its wishes, if it has any. */
static void emit_entry(const struct engine *engine, const struct engine_entry *entry, struct emitter *emitter) {
    const struct queue_entry *queued = &engine->queue->entries[entry->handle];
    const struct order_least *want = &engine->queue->wants[entry->handle];
    struct engine_wishes wishes;
    const int64_t values[] = {
        entry->kind, (int64_t) entry->cpus, (int64_t) entry->memory, (int64_t) entry->class, (int64_t) entry->limit,
        (int64_t) entry->owner, (int64_t) entry->expected, (int64_t) entry->learnt,
        entry->since, entry->first, entry->corrections, (entry->service ? 1 : 0) | (entry->admitted ? 2 : 0) | (entry->paused ? 4 : 0) |
            (queued->state == QUEUE_BARRED ? 8 : 0) | (entry->guarantee.owned ? 16 : 0),
        entry->handle, (int64_t) queued->id, (int64_t) queued->owner, (int64_t) queued->rank, queued->submitted,
        queued->started, queued->expected_end, queued->done, queued->key, queued->priority, bits_of(queued->tag),
        bits_of(queued->weight), (int64_t) queued->held, queued->yields, queued->yielding,
        (int64_t) want->demand.cpus, (int64_t) want->demand.memory, want->time, bits_of(queued->constant),
        bits_of(queued->urgency), (int64_t) entry->guarantee.cpus, (int64_t) entry->guarantee.memory,
    };

    for (int i = 0; i < WISH_COUNT; i++)
        wishes.lists[i] = entry->wishes[i];
    emit_array(emitter);
    emit_text(emitter, entry->id);
    emit_text(emitter, entry->name);
    emit_integers(emitter, values, ELEMENTS(values));
    if (ledger_has_wishes(&wishes)) {
        emit_object(emitter);
        ledger_emit_wishes(&wishes, emitter);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

#define ENTRY_VALUES 34
#define ENTRY_FLAGS 11
#define ENTRY_HANDLE 12
#define ENTRY_GUARANTEE 32

/* In the order of their handles: a hash map has none. */
static void emit_entries(const struct engine *engine, struct emitter *emitter) {
    emit_key(emitter, "entries");
    emit_array(emitter);
    for (size_t handle = 0; handle < engine->queue->entry_count; handle++)
        if (engine->queue->entries[handle].state != QUEUE_ABSENT)
            emit_entry(engine, engine_entry_at(engine, (uint32_t) handle), emitter);
    emit_array_end(emitter);
}

static void emit_measured(const struct engine *engine, struct emitter *emitter) {
    emit_key(emitter, "measured");
    emit_array(emitter);
    for (size_t i = 0; i < ENGINE_COST_COUNT; i++) {
        const struct engine_measured *measured = &engine->measured[i];
        emit_integers(emitter, (const int64_t[]){ bits_of(measured->seconds), bits_of(measured->gib), (int64_t) measured->count }, 3);
    }
    emit_array_end(emitter);
}

struct engine_snapshot {
    struct engine_copy *copy;
    int64_t (*histories)[PREDICTOR_VALUES];
    size_t history_count;
    uint64_t next; /* decision */
};

static void emit_histories(const struct engine_snapshot *snapshot, struct emitter *emitter) {
    emit_key(emitter, "history");
    emit_array(emitter);
    for (size_t i = 0; i < snapshot->history_count; i++)
        emit_integers(emitter, snapshot->histories[i], PREDICTOR_VALUES);
    emit_array_end(emitter);
}

int engine_snapshot_write(const struct engine_snapshot *snapshot, struct buffer *out) {
    const struct engine *engine = &snapshot->copy->engine;
    struct emitter emitter = EMITTER_INIT(out);

    emit_object(&emitter);
    emit_key_integer(&emitter, "checkpoint", ENGINE_VERSION);
    emit_key_unsigned(&emitter, "next", snapshot->next);
    emit_key_integer(&emitter, "sequence", (int64_t) engine->sequence);
    emit_node(engine, &emitter);
    emit_key(&emitter, "options");
    emit_object(&emitter);
    ledger_emit_options(&emitter, &engine->options);
    emit_object_end(&emitter);
    emit_queue(engine->queue, &emitter);
    emit_entries(engine, &emitter);
    emit_histories(snapshot, &emitter);
    emit_measured(engine, &emitter);
    emit_key_boolean(&emitter, "learning", engine->learning);
    emit_key_integer(&emitter, "expected_at", engine->expected_at);
    emit_object_end(&emitter);
    buffer_add_text(out, "\n");
    return out->failed ? -ENOMEM : 0;
}

/* --- at one moment ---------------------------------------------------------------------------------------------------- */

static int copy_histories(const struct engine *engine, struct engine_snapshot *snapshot) {
    int64_t values[PREDICTOR_VALUES];
    size_t position = 0;

    while (predictor_next(engine->predictor, &position, values))
        snapshot->history_count++;
    snapshot->histories = calloc(snapshot->history_count + 1, sizeof(*snapshot->histories));
    if (!snapshot->histories)
        return -ENOMEM;
    position = 0;
    for (size_t i = 0; i < snapshot->history_count; i++)
        (void) predictor_next(engine->predictor, &position, snapshot->histories[i]);
    return 0;
}

int engine_snapshot_take(struct engine *engine, struct engine_snapshot **ret) {
    _cleanup_snapshot_ struct engine_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    int r;

    if (!snapshot)
        return -ENOMEM;
    engine->queue->plan_lost = true; /* reservations are made anew here and there alike */
    snapshot->next = engine->ledger ? engine->ledger->next : 1;
    r = engine_copy_new(engine, SIZE_MAX, &snapshot->copy);
    if (r >= 0)
        r = copy_histories(engine, snapshot);
    if (r < 0)
        return r;
    if (engine->ledger)
        ledger_cut(engine->ledger, 0);
    *ret = STEAL_PTR(snapshot);
    return 0;
}

void engine_snapshot_free(struct engine_snapshot *snapshot) {
    if (!snapshot)
        return;
    engine_copy_free(snapshot->copy);
    free(snapshot->histories);
    free(snapshot);
}

int engine_checkpoint(struct engine *engine, struct buffer *out) {
    _cleanup_snapshot_ struct engine_snapshot *snapshot = NULL;
    int r = engine_snapshot_take(engine, &snapshot);

    return r < 0 ? r : engine_snapshot_write(snapshot, out);
}

/* --- in --------------------------------------------------------------------------------------------------------------- */

static int bad(struct error *error, const char *what) {
    return error_set(error, ERROR_BAD_VALUE, "ledger", what, "it is no state of this engine");
}

static size_t length_of(struct json_object *array) {
    return json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

static int read_texts(struct json_object *array, char ***ret) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < length_of(array); i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(array, i));
        r = text ? list_add(ret, text) : -EINVAL;
    }
    return r;
}

struct wishes {
    char **lists[WISH_COUNT];
};

static void wishes_done(struct wishes *wishes) {
    for (int i = 0; i < WISH_COUNT; i++)
        list_free(wishes->lists[i]);
}

/* From an object, or NULL. */
static int read_wishes(struct json_object *json, struct wishes *ret) {
    int r = 0;

    for (int i = 0; r >= 0 && i < WISH_COUNT; i++)
        r = read_texts(json_member(json, engine_wish_names[i]), &ret->lists[i]);
    return r;
}

static int64_t number_at(struct json_object *array, size_t index) {
    return index < length_of(array) ? json_object_get_int64(json_object_array_get_idx(array, index)) : 0;
}

static void read_ratios(struct json_object *node, const char *key, uint64_t ret[KIND_COUNT]) {
    for (size_t i = 0; i < KIND_COUNT; i++)
        ret[i] = (uint64_t) number_at(json_member(node, key), i);
}

static int read_options(struct json_object *json, struct engine_options *ret, struct error *error) {
    struct json_object *parameters = json_member(json, "parameters");
    int64_t backfill = json_integer(json, "backfill", -1), estimate = json_integer(json, "estimate", -1);
    int r;

    engine_options_init(ret);
    r = policy_find(json_text(json, "policy", ""), &ret->policy, error);
    if (r >= 0 && (backfill < 0 || backfill >= BACKFILL_COUNT))
        r = bad(error, "backfill");
    if (r < 0)
        return r;
    ret->backfill = (enum backfill) backfill;
    if (estimate < 0 || estimate >= ESTIMATE_COUNT)
        return bad(error, "estimate");
    ret->estimate = (enum estimate) estimate;
    ret->residency = (uint64_t) json_integer(json, "residency", 0);
    for (const struct policy_parameter_row *row = policy_parameter_rows; row->name; row++)
        *(double *) ((char *) &ret->parameters + row->offset) = double_of(json_integer(parameters, row->name, 0));
    return 0;
}

static int restore_queue(struct queue *queue, struct json_object *json) {
    size_t handles = (size_t) json_integer(json, "handles", 0);
    struct json_object *vacant = json_member(json, "vacant"), *usage = json_member(json, "usage");

    queue->entries = calloc(handles + 1, sizeof(*queue->entries));
    queue->wants = calloc(handles + 1, sizeof(*queue->wants));
    queue->vacant = calloc(handles + 1, sizeof(*queue->vacant));
    if (!queue->entries || !queue->wants || !queue->vacant)
        return -ENOMEM;
    queue->entry_count = handles;
    queue->entry_room = handles + 1;
    for (size_t i = 0; i < length_of(vacant) && i < handles; i++)
        queue->vacant[queue->vacant_count++] = (uint32_t) number_at(vacant, i);
    queue->scored_at = json_integer(json, "scored_at", 0);
    queue->drain = json_integer(json, "drain", 0);
    queue->virtual_time = double_of(json_integer(json, "virtual_time", 0));
    queue->sequence = (uint64_t) json_integer(json, "sequence", 0);
    for (size_t i = 0; i < length_of(usage); i++) {
        struct json_object *account = json_object_array_get_idx(usage, i);
        if (usage_add(&queue->usage, (uint64_t) number_at(account, 0), number_at(account, 1),
                      double_of(number_at(account, 2))) < 0)
            return -ENOMEM;
    }
    return 0;
}

static void read_entry(struct json_object *values, struct engine_entry *entry, struct queue_entry *queued,
                       struct order_least *want) {
    size_t at = 0;
    int64_t flags;

    entry->kind = (enum kind) number_at(values, at++);
    entry->cpus = (uint64_t) number_at(values, at++);
    entry->memory = (uint64_t) number_at(values, at++);
    entry->class = (uint64_t) number_at(values, at++);
    entry->limit = (uint64_t) number_at(values, at++);
    entry->owner = (uint64_t) number_at(values, at++);
    entry->expected = (uint64_t) number_at(values, at++);
    entry->learnt = (uint64_t) number_at(values, at++);
    entry->since = number_at(values, at++);
    entry->first = number_at(values, at++);
    entry->corrections = (unsigned) number_at(values, at++);
    flags = number_at(values, at++);
    entry->service = flags & 1;
    entry->admitted = flags & 2;
    entry->paused = flags & 4;
    queued->state = flags & 8 ? QUEUE_BARRED : QUEUE_ABSENT;
    entry->handle = (uint32_t) number_at(values, at++);
    queued->id = (uint64_t) number_at(values, at++);
    queued->owner = (uint64_t) number_at(values, at++);
    queued->rank = (uint64_t) number_at(values, at++);
    queued->submitted = number_at(values, at++);
    queued->started = number_at(values, at++);
    queued->expected_end = number_at(values, at++);
    queued->done = number_at(values, at++);
    queued->key = number_at(values, at++);
    queued->priority = (int32_t) number_at(values, at++);
    queued->tag = double_of(number_at(values, at++));
    queued->weight = (float) double_of(number_at(values, at++));
    queued->held = (uint64_t) number_at(values, at++);
    queued->yields = (uint8_t) number_at(values, at++);
    queued->yielding = (uint8_t) number_at(values, at++);
    want->demand.cpus = (uint64_t) number_at(values, at++);
    want->demand.memory = (uint64_t) number_at(values, at++);
    want->time = number_at(values, at++);
    queued->constant = double_of(number_at(values, at++));
    queued->urgency = (float) double_of(number_at(values, at));
    queued->planned = TIME_FOREVER;
    queued->userdata = entry;
}

int engine_read_entry(struct json_object *json, struct engine_request *ret_request, struct engine_recorded *ret) {
    struct json_object *values = length_of(json) >= 3 ? json_object_array_get_idx(json, 2) : NULL;
    struct engine_entry entry = { 0 };
    struct queue_entry queued = { 0 };
    struct order_least want = { 0 };

    if (length_of(values) != ENTRY_VALUES)
        return -EINVAL;
    read_entry(values, &entry, &queued, &want);
    *ret_request = (struct engine_request){ .id = json_object_get_string(json_object_array_get_idx(json, 0)),
                                            .kind = entry.kind, .cpus = entry.cpus, .memory = entry.memory,
                                            .priority = queued.priority, .owner = entry.owner, .class = entry.class,
                                            .expected = entry.expected, .limit = entry.limit, .service = entry.service };
    *ret = (struct engine_recorded){ .submitted = queued.submitted, .admitted = entry.admitted };
    return ret_request->id ? 0 : -EINVAL;
}

/* Where it belongs: among the waiting or the running. */
static int place_entry(struct engine *engine, struct engine_entry *entry) {
    struct queue *queue = engine->queue;
    struct queue_entry *queued = &queue->entries[entry->handle];

    if (queued->state == QUEUE_BARRED) {
        queue->barred_count++;
        return 0;
    }
    if (!entry->admitted) {
        queue->held += queued->held;
        queue->free.memory -= queued->held;
        return queue_join(queue, entry->handle);
    }
    engine->promised_cpus += entry->cpus;
    engine->promised_memory += entry->memory;
    queued->state = QUEUE_RUNNING;
    queue->free = demand_difference(queue->free, queue->wants[entry->handle].demand);
    queue->coming = demand_sum(queue->coming, queue_gift(queue, entry->handle, queued->yielding));
    return queue_running_add(queue, entry->handle);
}

static struct engine_guarantee guarantee_of(struct json_object *values) {
    return (struct engine_guarantee){ (uint64_t) number_at(values, ENTRY_GUARANTEE), (uint64_t) number_at(values, ENTRY_GUARANTEE + 1),
                                      number_at(values, ENTRY_FLAGS) & 16 };
}

static int restore_entry(struct engine *engine, struct json_object *json, struct error *error) {
    struct json_object *values = length_of(json) >= 3 ? json_object_array_get_idx(json, 2) : NULL;
    struct engine_request request = { .guarantee = guarantee_of(values) };
    struct wishes wishes = { 0 };
    struct engine_entry *entry;
    int64_t handle = number_at(values, ENTRY_HANDLE);
    int r;

    if (length_of(values) != ENTRY_VALUES || handle < 0 || (size_t) handle >= engine->queue->entry_count ||
        number_at(values, 0) < 0 || number_at(values, 0) >= KIND_COUNT)
        return bad(error, "entry");
    request.id = json_object_get_string(json_object_array_get_idx(json, 0));
    request.name = json_object_get_string(json_object_array_get_idx(json, 1));
    if (!request.id || map_get(engine->entries, request.id))
        return bad(error, "entry");
    r = read_wishes(json_object_array_get_idx(json, 3), &wishes);
    for (int i = 0; i < WISH_COUNT; i++)
        request.wishes.lists[i] = wishes.lists[i];
    if (r >= 0)
        r = engine_entry_new(engine, &request, &entry);
    wishes_done(&wishes);
    if (r < 0)
        return r;
    read_entry(values, entry, &engine->queue->entries[handle], &engine->queue->wants[handle]);
    return place_entry(engine, entry);
}

static int read_place(struct engine *engine, struct json_object *json, uint64_t now) {
    _cleanup_list_ char **traits = NULL, **taints = NULL;
    int r = read_texts(json_member(json, "traits"), &traits);

    if (r >= 0)
        r = read_texts(json_member(json, "taints"), &taints);
    return r < 0 ? r : engine_set_place(engine, traits, taints, now);
}

static int restore_measured(struct engine *engine, struct json_object *json) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ENGINE_COST_COUNT && i < length_of(json); i++) {
        struct json_object *row = json_object_array_get_idx(json, i);
        struct engine_measured measured = { double_of(number_at(row, 0)), double_of(number_at(row, 1)),
                                            (uint64_t) number_at(row, 2) };
        r = engine_measured_again(engine, (enum engine_cost) i, &measured);
    }
    return r;
}

static int restore_all(struct engine *engine, struct json_object *json, struct error *error) {
    struct json_object *entries = json_member(json, "entries"), *history = json_member(json, "history");
    int r = restore_queue(engine->queue, json_member(json, "queue"));

    for (size_t i = 0; r >= 0 && i < length_of(entries); i++)
        r = restore_entry(engine, json_object_array_get_idx(entries, i), error);
    for (size_t i = 0; r >= 0 && i < length_of(history); i++) {
        int64_t values[PREDICTOR_VALUES];
        for (size_t j = 0; j < PREDICTOR_VALUES; j++)
            values[j] = number_at(json_object_array_get_idx(history, i), j);
        r = predictor_restore(engine->predictor, values);
    }
    if (r >= 0)
        r = restore_measured(engine, json_member(json, "measured"));
    engine->learning = json_boolean(json, "learning", false);
    engine->expected_at = json_integer(json, "expected_at", 0);
    engine->sequence = (uint64_t) json_integer(json, "sequence", 0);
    return r < 0 ? r : engine_record(engine, (uint64_t) json_integer(json, "next", 1));
}

int engine_restore(struct json_object *json, struct engine **ret, struct error *error) {
    struct json_object *node = json_member(json, "node");
    int64_t version = json_integer(json, "checkpoint", 0);
    struct engine_node room = { .cpus = (uint64_t) json_integer(node, "cpus", 0),
                                .memory = (uint64_t) json_integer(node, "memory", 0) };
    struct engine_options options;
    struct engine *engine = NULL;
    int r;

    if (version != ENGINE_VERSION) {
        _cleanup_free_ char *was = text_format("decisions of engine version %lld", (long long) version);
        return error_set(error, ERROR_NOT_SUPPORTED, "this engine (version " TEXT_OF(ENGINE_VERSION) ")", was,
                         "a version replays its own alone");
    }
    read_ratios(node, "overcommit_cpu", room.overcommit_cpu);
    read_ratios(node, "overcommit_memory", room.overcommit_memory);
    r = read_options(json_member(json, "options"), &options, error);
    if (r >= 0)
        r = engine_new(&room, &options, &engine);
    if (r >= 0)
        r = read_place(engine, node, 0);
    if (r >= 0)
        r = restore_all(engine, json, error);
    if (r < 0) {
        engine_free(engine);
        return error_is_set(error) ? r : error_errno(error, r, "restoring the engine");
    }
    *ret = engine;
    return 0;
}

/* --- once more -------------------------------------------------------------------------------------------------------- */

void engine_read_request(struct json_object *line, struct engine_request *ret) {
    *ret = (struct engine_request){
        .id = json_text(line, "id", ""),
        .name = json_text(line, "name", ""),
        .kind = (enum kind) json_integer(line, "kind", 0),
        .cpus = (uint64_t) json_integer(line, "cpus", 0),
        .memory = (uint64_t) json_integer(line, "memory", 0),
        .priority = json_integer(line, "priority", 0),
        .owner = (uint64_t) json_integer(line, "owner", 0),
        .class = (uint64_t) json_integer(line, "class", 0),
        .waited = (uint64_t) json_integer(line, "waited", 0),
        .expected = (uint64_t) json_integer(line, "expected", 0),
        .limit = (uint64_t) json_integer(line, "limit", 0),
        .service = json_boolean(line, "service", false),
        .done = (uint64_t) json_integer(line, "done", 0),
        .yields = (unsigned) json_integer(line, "yields", 0),
        .guarantee = { (uint64_t) json_integer(line, "guarantee_cpus", 0), (uint64_t) json_integer(line, "guarantee_memory", 0),
                       json_boolean(line, "guarantee_owned", false) },
    };
}

static int repeat_request(struct engine *engine, const char *what, struct json_object *line, uint64_t now,
                          struct error *error) {
    _cleanup_error_ struct error refused = ERROR_INIT;
    _cleanup_(wishes_done) struct wishes wishes = { 0 };
    struct engine_request request;
    int r = read_wishes(json_member(line, "wishes"), &wishes);

    engine_read_request(line, &request);
    if ((int) request.kind < 0 || request.kind >= KIND_COUNT || r == -EINVAL)
        return bad(error, r < 0 ? "wishes" : "kind");
    if (r < 0)
        return r;
    for (int i = 0; i < WISH_COUNT; i++)
        request.wishes.lists[i] = wishes.lists[i];
    if (text_equal(what, "submit"))
        r = engine_submit(engine, &request, now);
    else if (text_equal(what, "occupy"))
        r = engine_occupy(engine, &request, now);
    else
        r = engine_change(engine, &request, now, &refused); /* refused then, refused now */
    return r == -ENOMEM ? r : 0;
}

static int repeat_measure(struct engine *engine, struct json_object *line, uint64_t now, struct error *error) {
    const char *what = json_text(line, "what", "");

    for (enum engine_cost cost = ENGINE_COST_PAUSE; cost < ENGINE_COST_COUNT; cost++)
        if (text_equal(engine_cost_names[cost], what)) {
            engine_measure(engine, cost, (uint64_t) json_integer(line, "memory", 0),
                           (uint64_t) json_integer(line, "duration", 0), now);
            return 0;
        }
    return bad(error, "measure");
}

static int repeat_run(struct engine *engine, uint64_t now) {
    struct engine_decision decision;
    int r = engine_run(engine, now);

    while (engine_next(engine, &decision))
        ;
    return r;
}

int engine_repeat(struct engine *engine, struct json_object *line, struct error *error) {
    const char *what = json_text(line, "do", NULL), *id = json_text(line, "id", "");
    uint64_t now = (uint64_t) json_integer(line, "now", 0);
    struct engine_options options;
    int r = 0;

    if (!what)
        return json_has(line, "decision") || json_has(line, "placement") || json_has(line, "plan") || json_has(line, "applied")
                   ? 0
                   : bad(error, "line");
    if (text_equal(what, "run"))
        r = repeat_run(engine, now);
    else if (text_equal(what, "submit") || text_equal(what, "occupy") || text_equal(what, "change"))
        r = repeat_request(engine, what, line, now, error);
    else if (text_equal(what, "release"))
        engine_release(engine, id, json_boolean(line, "ended", false), now);
    else if (text_equal(what, "paused") || text_equal(what, "swapped"))
        r = engine_paused(engine, id, text_equal(what, "swapped"), now);
    else if (text_equal(what, "refused"))
        engine_refused(engine, id, now);
    else if (text_equal(what, "measure"))
        r = repeat_measure(engine, line, now, error);
    else if (text_equal(what, "place"))
        r = read_place(engine, line, now);
    else if (text_equal(what, "configure"))
        r = read_options(line, &options, error) < 0 ? -EINVAL : engine_configure(engine, &options, now);
    else
        r = error_set(error, ERROR_BAD_VALUE, "ledger", what, "it is no event of this engine");
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "replaying") : r;
}
