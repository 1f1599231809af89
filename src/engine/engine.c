// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests become demands on the queue's two resources. What an instance takes of the physical capacity is its request
 * divided by its kind's ratio; so that nothing is lost to rounding however small that is, the queue counts in parts of a
 * thousandth of a CPU and of a byte: the least common multiple of the ratios, where that fits, else a power of two.
 *
 * An entry waits in the queue, or is admitted (it runs there). One that gave way by a pause waits too, and its memory
 * stays taken. */
#include "engine/engine.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "engine/engine-internal.h"
#include "engine/ledger-internal.h"

#define WEIGHT_NORMAL 100
#define WEIGHT_STEP 9 /* of a priority: ten times the weight at 100 */

#define SECOND INT64_C(1000000)
#define DEMAND_MAX (UINT64_C(1) << 60)
#define REFRESH SECOND /* scores that change with time, and what is expected of those that wait, are made anew that often:
                          with 10,000 waiting that is not for free */
#define HISTORIES 4096 /* a checkpoint of the ledger holds all of them */
#define RESIDENCY (30 * SECOND)
#define OVERDUE_STEP (10 * SECOND)

/* --- rules -------------------------------------------------------------------------------------------------------- */

void engine_options_init(struct engine_options *options) {
    *options = (struct engine_options){ .backfill = BACKFILL_EASY, .estimate = ESTIMATE_LEARNING, .residency = RESIDENCY };
    (void) policy_find("polder", &options->policy, NULL);
    policy_parameters_init(&options->parameters);
}

int engine_options_check(const struct engine_options *options, struct error *error) {
    if (options->policy->by_arrival && options->backfill == BACKFILL_CONSERVATIVE)
        return error_set(error, ERROR_BAD_VALUE, "backfill", "conservative",
                         "round robin takes everybody off again, so that nobody's reservation could hold");
    return policy_parameters_check(&options->parameters, error);
}

void engine_queue_options(const struct engine *engine, const struct engine_options *options, struct queue_options *ret) {
    *ret = (struct queue_options){
        .policy = options->policy,
        .parameters = options->parameters,
        .backfill = options->backfill,
        .capacity = { engine->node.cpus * engine->scale_cpus, engine->node.memory * engine->scale_memory },
        .second = SECOND,
        .refresh = REFRESH,
        .processor = 1000 * (double) engine->scale_cpus,
        .services_first = !text_equal(options->policy->name, "fcfs"),
        .deferred = true,
        .residency = (int64_t) options->residency,
    };
    engine_costs(engine, &ret->costs);
}

/* --- units -------------------------------------------------------------------------------------------------------- */

static uint64_t divisor_of(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static uint64_t percent_of(uint64_t percent) {
    return percent > 0 ? percent : 100;
}

/* Units in which every kind's share of one is whole. */
static uint64_t scale_of(uint64_t capacity, const uint64_t percents[KIND_COUNT]) {
    uint64_t most = DEMAND_MAX / (capacity ? capacity : 1), scale = 1;

    for (int kind = 0; kind < KIND_COUNT; kind++) {
        uint64_t percent = percent_of(percents[kind]), part = percent / divisor_of(percent, 100);
        unsigned __int128 common = (unsigned __int128) scale / divisor_of(scale, part) * part;
        if (common > most) {
            for (scale = 1; scale <= most / 2; scale *= 2)
                ;
            return scale;
        }
        scale = (uint64_t) common;
    }
    return scale;
}

static uint64_t share_of(uint64_t request, uint64_t percent, uint64_t scale) {
    unsigned __int128 limit = (unsigned __int128) DEMAND_MAX * percent_of(percent) / 100 / scale;

    if (request >= limit)
        return DEMAND_MAX;
    return (uint64_t) ((unsigned __int128) request * scale * 100 / percent_of(percent));
}

struct demand engine_take(const struct engine *engine, enum kind kind, uint64_t cpus, uint64_t memory) {
    return (struct demand){ share_of(cpus, engine->node.overcommit_cpu[kind], engine->scale_cpus),
                            share_of(memory, engine->node.overcommit_memory[kind], engine->scale_memory) };
}

static uint64_t virtual_of(uint64_t physical, uint64_t percent) {
    unsigned __int128 value = (unsigned __int128) physical * percent_of(percent) / 100;

    return value > UINT64_MAX ? UINT64_MAX : (uint64_t) value;
}

static uint64_t request_of(uint64_t room, uint64_t percent, uint64_t scale) {
    if ((int64_t) room <= 0)
        return 0;
    return (uint64_t) ((unsigned __int128) room * percent_of(percent) / 100 / scale);
}

uint64_t engine_free_cpus(const struct engine *engine, enum kind kind, uint64_t room) {
    return request_of(room, engine->node.overcommit_cpu[kind], engine->scale_cpus);
}

uint64_t engine_free_memory(const struct engine *engine, enum kind kind, uint64_t room) {
    return request_of(room, engine->node.overcommit_memory[kind], engine->scale_memory);
}

uint64_t engine_hash(const char *text) {
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

    for (; text && *text; text++)
        hash = (hash ^ (uint8_t) *text) * UINT64_C(1099511628211);
    return hash;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void entry_free(struct engine *engine, struct engine_entry *entry) {
    constraints_forget(engine, entry);
    entry_done(entry);
    free(entry);
}

int engine_new(const struct engine_node *node, const struct engine_options *options, struct engine **ret) {
    struct engine *engine = calloc(1, sizeof(*engine));
    struct queue_options queue;
    int r;

    if (!engine)
        return -ENOMEM;
    engine->node = *node;
    engine_options_init(&engine->options);
    if (options) {
        engine->options = *options;
    } else {
        (void) policy_find("fcfs", &engine->options.policy, NULL);
        engine->options.backfill = BACKFILL_NONE;
    }
    engine->scale_cpus = scale_of(node->cpus, node->overcommit_cpu);
    engine->scale_memory = scale_of(node->memory, node->overcommit_memory);
    engine_queue_options(engine, &engine->options, &queue);
    r = map_new(&engine->entries);
    if (r >= 0)
        r = queue_new(&queue, &engine->queue);
    if (r >= 0)
        r = predictor_new(engine->options.estimate, SECOND, &engine->predictor);
    if (r >= 0)
        predictor_bound(engine->predictor, HISTORIES);
    if (r < 0) {
        engine_free(engine);
        return r;
    }
    *ret = engine;
    return 0;
}

void engine_free(struct engine *engine) {
    size_t position = 0;
    void *value;

    if (!engine)
        return;
    while (engine->entries && map_next(engine->entries, &position, NULL, &value))
        entry_free(engine, value);
    map_free(engine->entries);
    queue_free(engine->queue);
    predictor_free(engine->predictor);
    ledger_free(engine->ledger);
    list_free(engine->place.traits);
    list_free(engine->place.taints);
    free(engine->pending);
    free(engine);
}

const struct engine_options *engine_options(const struct engine *engine) {
    return &engine->options;
}

int engine_configure(struct engine *engine, const struct engine_options *options, uint64_t now) {
    struct engine_options before = engine->options;
    struct queue_options queue;
    int r;

    engine->options = *options; /* what giving way costs is told from them */
    engine_queue_options(engine, options, &queue);
    r = queue_configure(engine->queue, &queue, (int64_t) now);
    if (r < 0) {
        engine->options = before;
        return r;
    }
    ledger_note_options(engine, options, now);
    predictor_use(engine->predictor, options->estimate);
    return 0;
}

bool engine_learnt(const struct engine *engine, size_t *position, int64_t ret[PREDICTOR_VALUES]) {
    return predictor_next(engine->predictor, position, ret);
}

int engine_learn_again(struct engine *engine, const int64_t values[PREDICTOR_VALUES]) {
    return predictor_restore(engine->predictor, values);
}

uint64_t engine_learnt_moment(const struct engine *engine) {
    return predictor_moment(engine->predictor);
}

struct engine_entry *engine_entry_at(const struct engine *engine, uint32_t handle) {
    return queue_entry(engine->queue, handle)->userdata;
}

/* --- requests ------------------------------------------------------------------------------------------------------- */

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
    return constraints_check(engine, &request->wishes, error);
}

/* The predictor takes class 0 for none named, and would then tell by the owner alone. */
static struct run_traits traits_of(uint64_t owner, uint64_t class, uint64_t limit) {
    return (struct run_traits){ .owner = owner, .class = class ? class : 1,
                                .requested = limit && limit < TIME_FOREVER ? (int64_t) limit : TIME_FOREVER };
}

/* Declared, else predicted from what its class did, else without end. Urgency 0: from the time. */
static struct prediction predict(const struct engine *engine, const struct run_traits *traits, uint64_t expected,
                                 bool service) {
    int64_t limit = traits->requested;

    if (expected)
        return (struct prediction){ expected < (uint64_t) limit ? (int64_t) expected : limit, 0 };
    if (service || engine->options.estimate == ESTIMATE_REQUESTED)
        return (struct prediction){ limit, 0 };
    return predictor_predict(engine->predictor, traits, limit);
}

void engine_queue_request(const struct engine *engine, const struct engine_request *request, uint64_t now,
                          struct queue_request *ret) {
    struct run_traits traits = traits_of(request->owner, request->class, request->limit);
    struct prediction prediction = predict(engine, &traits, request->expected, request->service);

    engine_queue_predicted(engine, request, &prediction, now, ret);
}

void engine_queue_predicted(const struct engine *engine, const struct engine_request *request,
                            const struct prediction *prediction, uint64_t now, struct queue_request *ret) {
    *ret = (struct queue_request){
        .owner = request->owner,
        .submitted = (int64_t) (now - request->waited),
        .estimate = prediction->time,
        .urgency = prediction->urgency,
        .demand = engine_take(engine, request->kind, request->cpus, request->memory),
        .priority = request->priority,
        .weight = (double) engine_cpu_weight(request->priority) / WEIGHT_NORMAL * engine->options.parameters.weight,
        .done = (int64_t) request->done,
        .yields = request->yields,
    };
}

int engine_entry_new(struct engine *engine, const struct engine_request *request, struct engine_entry **ret) {
    const char *name = request->name ? request->name : request->id;
    struct engine_entry *entry = calloc(1, sizeof(*entry));
    int r;

    if (!entry)
        return -ENOMEM;
    entry->kind = request->kind;
    entry->cpus = request->cpus;
    entry->memory = request->memory;
    entry->owner = request->owner;
    entry->class = request->class;
    entry->expected = request->expected;
    entry->limit = request->limit;
    entry->service = request->service;
    entry->userdata = request->userdata;
    r = entry_set_texts(entry, request->id, name);
    if (r >= 0)
        r = constraints_note(engine, entry, request);
    if (r >= 0)
        r = map_put(engine->entries, entry->id, entry);
    if (r < 0) {
        entry_free(engine, entry);
        return r;
    }
    *ret = entry;
    return 0;
}

static void promise(struct engine *engine, const struct engine_entry *entry) {
    engine->promised_cpus += entry->cpus;
    engine->promised_memory += entry->memory;
    engine->promises++;
}

static void promise_back(struct engine *engine, const struct engine_entry *entry) {
    engine->promised_cpus -= entry->cpus;
    engine->promised_memory -= entry->memory;
}

static int entry_add(struct engine *engine, const struct engine_request *request, bool admitted, uint64_t now) {
    struct queue_request queued;
    struct engine_entry *entry;
    int r = engine_entry_new(engine, request, &entry);

    if (r < 0)
        return r;
    engine_queue_request(engine, request, now, &queued);
    queued.id = engine->sequence++;
    queued.userdata = entry;
    entry->first = queued.estimate;
    entry->learnt = predictor_moment(engine->predictor);
    entry->admitted = admitted;
    entry->since = (int64_t) now;
    r = admitted ? queue_occupy(engine->queue, &queued, (int64_t) now, &entry->handle)
                 : queue_submit(engine->queue, &queued, (int64_t) now, &entry->handle);
    if (r < 0) {
        (void) map_remove(engine->entries, entry->id);
        entry_free(engine, entry);
        return r;
    }
    if (admitted)
        promise(engine, entry);
    return 0;
}

int engine_submit(struct engine *engine, const struct engine_request *request, uint64_t now) {
    if (map_get(engine->entries, request->id))
        return 0;
    ledger_note_request(engine, "submit", request, now);
    return ledger_outcome(engine, entry_add(engine, request, false, now));
}

/* A decision about it that nobody took yet is void. */
static void pending_drop(struct engine *engine, const struct engine_entry *entry) {
    for (size_t i = engine->pending_first; i < engine->pending_count; i++)
        if (engine->pending[i].entry == entry)
            engine->pending[i].entry = NULL;
}

static void entry_remove(struct engine *engine, struct engine_entry *entry, uint64_t now) {
    (void) map_remove(engine->entries, entry->id);
    pending_drop(engine, entry);
    if (entry->admitted)
        promise_back(engine, entry);
    (void) ledger_outcome(engine, queue_remove(engine->queue, entry->handle, (int64_t) now));
    entry_free(engine, entry);
}

int engine_occupy(struct engine *engine, const struct engine_request *request, uint64_t now) {
    struct engine_entry *entry = map_get(engine->entries, request->id);
    struct engine_request again = *request;

    if (entry && entry->admitted)
        return 0;
    ledger_note_request(engine, "occupy", request, now);
    if (entry) { /* it gave way by a pause, and its user does not want that: what it did until then is done */
        int64_t done = queue_entry(engine->queue, entry->handle)->done;
        again.done = done > (int64_t) again.done ? (uint64_t) done : again.done;
        entry_remove(engine, entry, now);
    }
    return ledger_outcome(engine, entry_add(engine, &again, true, now));
}

void engine_release(struct engine *engine, const char *id, bool ended, uint64_t now) {
    struct engine_entry *entry = map_get(engine->entries, id);
    const struct queue_entry *queued;
    int64_t ran;

    if (!entry)
        return;
    ledger_note_id(engine, "release", id, ended, now);
    queued = queue_entry(engine->queue, entry->handle);
    ran = queued->done + (int64_t) now - queued->started;
    if (ended && entry->admitted && !entry->service) {
        struct run_traits traits = traits_of(entry->owner, entry->class, entry->limit);
        (void) ledger_outcome(engine, predictor_learn(engine->predictor, &traits, ran));
        engine->learning = true;
    }
    entry_remove(engine, entry, now);
}

int engine_paused(struct engine *engine, const char *id, bool swapped, uint64_t now) {
    struct engine_entry *entry = map_get(engine->entries, id);
    int r;

    if (!entry || !entry->admitted)
        return 0;
    ledger_note_id(engine, swapped ? "swapped" : "paused", id, false, now);
    r = queue_yield(engine->queue, entry->handle, swapped ? QUEUE_YIELD_SUSPEND : QUEUE_YIELD_PAUSE, (int64_t) now);
    if (r < 0)
        return ledger_outcome(engine, r);
    promise_back(engine, entry);
    entry->admitted = false;
    entry->paused = true;
    return 0;
}

void engine_refused(struct engine *engine, const char *id, uint64_t now) {
    struct engine_entry *entry = map_get(engine->entries, id);

    if (!entry || !entry->admitted)
        return;
    ledger_note_id(engine, "refused", id, false, now);
    queue_refuse(engine->queue, entry->handle);
}

/* --- changes ------------------------------------------------------------------------------------------------------ */

static int no_room(struct error *error, const char *resource, char *wanted, char *available) {
    _cleanup_free_ char *a = wanted, *b = available;

    return error_set(error, ERROR_NO_ROOM, resource, a, b);
}

/* May the admitted entry grow as far as the request? What it has counts as free for it. */
static int check_growth(const struct engine *engine, const struct engine_entry *entry,
                        const struct engine_request *request, uint64_t now, struct error *error) {
    uint64_t cpus = request->cpus > entry->cpus ? request->cpus - entry->cpus : 0;
    uint64_t memory = request->memory > entry->memory ? request->memory - entry->memory : 0;
    struct demand wanted = engine_take(engine, entry->kind, request->cpus, request->memory);
    struct demand has = engine_take(engine, entry->kind, entry->cpus, entry->memory);
    struct demand room = queue_free_room(engine->queue, (int64_t) now);

    if (cpus && (int64_t) (wanted.cpus - has.cpus) > (int64_t) room.cpus)
        return no_room(error, "cpus", text_format_cpus(cpus),
                       text_format_cpus(engine_free_cpus(engine, entry->kind, room.cpus)));
    if (memory && (int64_t) (wanted.memory - has.memory) > (int64_t) room.memory)
        return no_room(error, "memory", text_format_size(memory),
                       text_format_size(engine_free_memory(engine, entry->kind, room.memory)));
    return 0;
}

int engine_change(struct engine *engine, const struct engine_request *request, uint64_t now, struct error *error) {
    struct engine_entry *entry = map_get(engine->entries, request->id);
    struct queue_request queued;
    int r;

    if (!entry)
        return 0;
    ledger_note_request(engine, "change", request, now);
    if (entry->admitted) {
        r = check_growth(engine, entry, request, now, error);
        if (r < 0)
            return r;
    }
    engine_queue_request(engine, request, now, &queued);
    r = constraints_note(engine, entry, request);
    if (r >= 0)
        r = queue_change(engine->queue, entry->handle, &queued, (int64_t) now);
    r = ledger_outcome(engine, r);
    if (r < 0)
        return error_errno(error, r, "changing its place");
    if (entry->admitted)
        promise_back(engine, entry);
    entry->cpus = request->cpus;
    entry->memory = request->memory;
    entry->expected = request->expected;
    entry->limit = request->limit;
    entry->service = request->service;
    if (entry->admitted)
        promise(engine, entry);
    entry->first = queued.estimate;
    entry->learnt = predictor_moment(engine->predictor);
    entry->corrections = 0;
    return 0;
}

/* --- decisions ---------------------------------------------------------------------------------------------------- */

static void decided(void *userdata, uint32_t handle, enum queue_state state) {
    struct engine *engine = userdata;
    struct engine_entry *entry = engine_entry_at(engine, handle);
    struct engine_pending *pending = &engine->pending[engine->pending_count++]; /* engine_run made room for it */

    *pending = (struct engine_pending){ .entry = entry };
    if (state == QUEUE_WAITING) {
        pending->verdict = queue_entry(engine->queue, handle)->yielding & QUEUE_YIELD_SUSPEND ? ENGINE_SUSPEND : ENGINE_PAUSE;
        ledger_decided(engine, entry, pending->verdict);
        return;
    }
    entry->admitted = true;
    entry->paused = false;
    entry->since = engine->now;
    promise(engine, entry);
    ledger_decided(engine, entry, ENGINE_START);
}

/* A pass starts each at most once, and asks each to give way at most once. */
static int pending_reserve(struct engine *engine) {
    size_t waiting = queue_waiting(engine->queue) + queue_barred(engine->queue);
    size_t wanted = engine->pending_count + 2 * (waiting + queue_running(engine->queue)) + 1;
    struct engine_pending *pending;

    if (engine->pending_first == engine->pending_count)
        engine->pending_first = engine->pending_count = 0;
    if (wanted <= engine->pending_room)
        return 0;
    pending = reallocarray(engine->pending, wanted * 2, sizeof(*pending));
    if (!pending)
        return -ENOMEM;
    engine->pending = pending;
    engine->pending_room = wanted * 2;
    return 0;
}

/* What outlived its estimate gets a longer one. */
static int correct_estimates(struct engine *engine, int64_t now) {
    uint32_t handle;
    int r = 0;

    while (r >= 0 && queue_running_at(engine->queue, 0, &handle) && queue_entry(engine->queue, handle)->expected_end <= now) {
        const struct queue_entry *queued = queue_entry(engine->queue, handle);
        struct engine_entry *entry = queued->userdata;
        int64_t ran = queued->done + now - queued->started, limit = entry->limit ? (int64_t) entry->limit : TIME_FOREVER;
        int64_t next = estimate_correct(entry->first, &entry->corrections, limit, SECOND);
        r = queue_extend(engine->queue, handle, next > ran ? next : ran + OVERDUE_STEP, now);
    }
    return r;
}

/* What is expected of one that waits now, if something of its owner or class ended since that was last asked. One that outlived
 * its estimate keeps what it was corrected to. */
static int expect_anew(struct engine *engine, struct engine_entry *entry, int64_t now) {
    struct run_traits traits = traits_of(entry->owner, entry->class, entry->limit);
    struct prediction prediction;
    float urgency;

    if (entry->service || entry->expected || entry->corrections > 0 ||
        !predictor_has_news(engine->predictor, &traits, entry->learnt))
        return 0;
    entry->learnt = predictor_moment(engine->predictor);
    prediction = predict(engine, &traits, 0, false);
    urgency = (float) prediction.urgency; /* as the queue keeps it */
    if (prediction.time == queue_estimate(engine->queue, entry->handle) &&
        !(urgency < queue_entry(engine->queue, entry->handle)->urgency) &&
        !(urgency > queue_entry(engine->queue, entry->handle)->urgency))
        return 0;
    entry->first = prediction.time;
    return queue_expect(engine->queue, entry->handle, prediction.time, prediction.urgency, now);
}

static int expect_all_anew(struct engine *engine, int64_t now) {
    size_t waiting = queue_waiting(engine->queue), count = 0;
    struct queue_cursor cursor = { 0 };
    int r = 0;

    if (engine->options.estimate != ESTIMATE_LEARNING || !engine->learning || now - engine->expected_at < REFRESH)
        return 0;
    _cleanup_free_ uint32_t *handles = reallocarray(NULL, waiting + 1, sizeof(*handles));
    if (!handles)
        return -ENOMEM;
    while (count < waiting && queue_next_waiting(engine->queue, &cursor, &handles[count]))
        count++;
    for (size_t i = 0; r >= 0 && i < count; i++) /* apart: this moves them */
        r = expect_anew(engine, engine_entry_at(engine, handles[i]), now);
    engine->learning = false;
    engine->expected_at = now;
    return r;
}

/* Round robin: whose burst is over goes behind the others. */
static int end_bursts(struct engine *engine, int64_t now) {
    int64_t quantum = (int64_t) (engine->options.parameters.quantum * (double) SECOND);
    uint32_t handle;
    int r = 0;

    if (!engine->options.policy->by_arrival || queue_waiting(engine->queue) == 0)
        return 0;
    quantum = quantum > (int64_t) engine->options.residency ? quantum : (int64_t) engine->options.residency;
    for (size_t i = 0; r >= 0 && queue_running_at(engine->queue, i, &handle); i++)
        if (now - queue_entry(engine->queue, handle)->started >= quantum)
            r = queue_burst(engine->queue, handle, now);
    return r;
}

/* One look at all that wait; 1: somebody could be barred, and somebody started. */
static int run_once(struct engine *engine, uint64_t now) {
    size_t before = engine->promises;
    int r = pending_reserve(engine), barring;

    if (r >= 0)
        r = constraints_bar(engine, (int64_t) now);
    barring = r;
    if (r >= 0) {
        engine_spare(engine, (int64_t) now);
        ledger_begin(engine, now);
        r = queue_pass(engine->queue, (int64_t) now, decided, engine);
    }
    return r < 0 ? r : barring > 0 && engine->promises > before;
}

/* Whoever started may be who another had to be near, or keep away from: then once more. */
int engine_run(struct engine *engine, uint64_t now) {
    int r;

    ledger_note_run(engine, now);
    engine->now = (int64_t) now;
    r = correct_estimates(engine, (int64_t) now);
    if (r >= 0)
        r = expect_all_anew(engine, (int64_t) now);
    if (r >= 0)
        r = end_bursts(engine, (int64_t) now);
    if (r >= 0)
        do
            r = run_once(engine, now);
        while (r > 0);
    return ledger_outcome(engine, r);
}

bool engine_next(struct engine *engine, struct engine_decision *ret) {
    while (engine->pending_first < engine->pending_count) {
        const struct engine_pending *pending = &engine->pending[engine->pending_first++];
        if (!pending->entry)
            continue;
        *ret = (struct engine_decision){ pending->verdict, pending->entry->userdata };
        return true;
    }
    return false;
}

bool engine_is_restless(const struct engine *engine) {
    return queue_waiting(engine->queue) > 0;
}

/* --- explanations ------------------------------------------------------------------------------------------------- */

/* Those that wait apart come after the others. */
static size_t position_of(const struct engine *engine, const struct engine_entry *entry) {
    size_t position = queue_waiting(engine->queue) + 1;

    if (queue_entry(engine->queue, entry->handle)->state != QUEUE_BARRED)
        return queue_position(engine->queue, entry->handle);
    for (uint32_t handle = 0; handle < entry->handle; handle++)
        position += queue_entry(engine->queue, handle)->state == QUEUE_BARRED;
    return position;
}

/* The next of them from a handle on. */
static bool next_apart(const struct engine *engine, uint32_t *handle, const struct engine_entry **ret) {
    size_t count = queue_barred(engine->queue) > 0 ? queue_handles(engine->queue) : 0;

    for (; *handle < count; (*handle)++)
        if (queue_entry(engine->queue, *handle)->state == QUEUE_BARRED) {
            *ret = engine_entry_at(engine, (*handle)++);
            return true;
        }
    return false;
}

static void explain(const struct engine *engine, const struct engine_entry *entry, struct engine_explanation *ret) {
    const struct queue_entry *queued = queue_entry(engine->queue, entry->handle);
    struct demand wanted = queue_demand(engine->queue, entry->handle), room = queue_free_room(engine->queue, 0);
    int64_t estimate = queue_estimate(engine->queue, entry->handle);

    ret->standing = entry->admitted ? ENGINE_ADMITTED : ENGINE_QUEUED;
    ret->since = (uint64_t) queued->submitted;
    ret->expected = estimate >= TIME_FOREVER ? UINT64_MAX : (uint64_t) estimate;
    if (entry->admitted)
        return;
    ret->barred = queued->state == QUEUE_BARRED;
    if (ret->barred) {
        constraints_explain(engine, entry, &ret->refusal);
        return;
    }
    if ((int64_t) wanted.cpus > (int64_t) room.cpus) {
        ret->resource = "cpus";
        ret->wanted = entry->cpus;
        ret->free = engine_free_cpus(engine, entry->kind, room.cpus);
    } else if ((int64_t) wanted.memory > (int64_t) room.memory) {
        ret->resource = "memory";
        ret->wanted = entry->memory;
        ret->free = engine_free_memory(engine, entry->kind, room.memory);
    }
}

void engine_explain(const struct engine *engine, const char *id, struct engine_explanation *ret) {
    const struct engine_entry *entry = map_get(engine->entries, id);

    *ret = (struct engine_explanation){ 0 };
    if (!entry)
        return;
    if (!entry->admitted)
        ret->position = position_of(engine, entry);
    explain(engine, entry, ret);
}

bool engine_waits_for_room(const struct engine *engine, const char *id) {
    const struct engine_entry *entry = map_get(engine->entries, id);

    return entry && !entry->admitted && queue_entry(engine->queue, entry->handle)->state != QUEUE_BARRED;
}

bool engine_walk(const struct engine *engine, struct engine_cursor *cursor, void **ret_userdata,
                 struct engine_explanation *ret_why) {
    const struct engine_entry *entry;
    uint32_t handle = 0;
    size_t apart = 0;

    if (queue_next_waiting(engine->queue, &cursor->cursor, &handle))
        entry = engine_entry_at(engine, handle);
    else if (!next_apart(engine, &cursor->apart, &entry))
        return false;
    else
        apart = ++cursor->apart_count;
    *ret_userdata = entry->userdata;
    if (!ret_why)
        return true;
    *ret_why = (struct engine_explanation){ .position = apart ? queue_waiting(engine->queue) + apart
                                                              : queue_position(engine->queue, handle) };
    explain(engine, entry, ret_why);
    return true;
}

static void foresee(const struct engine *engine, const struct engine_entry *entry, size_t position, uint64_t start,
                    struct engine_forecast *ret) {
    *ret = (struct engine_forecast){ .userdata = entry->userdata, .id = entry->id, .name = entry->name,
                                     .handle = entry->handle, .why.position = position, .start = start };
    explain(engine, entry, &ret->why);
}

ssize_t engine_foresee(const struct engine *engine, uint64_t now, struct engine_forecast *ret, size_t limit) {
    size_t waiting = queue_waiting(engine->queue);
    size_t most = limit < waiting ? limit : waiting;
    _cleanup_free_ struct queue_forecast *forecasts = calloc(most + 1, sizeof(*forecasts));
    ssize_t count = forecasts ? queue_forecast(engine->queue, (int64_t) now, forecasts, most) : -ENOMEM;
    const struct engine_entry *apart;
    uint32_t handle = 0;

    for (ssize_t i = 0; i < count; i++)
        foresee(engine, engine_entry_at(engine, forecasts[i].handle), forecasts[i].position,
                forecasts[i].start >= TIME_FOREVER ? UINT64_MAX : (uint64_t) forecasts[i].start, &ret[i]);
    for (; count >= 0 && (size_t) count < limit && next_apart(engine, &handle, &apart); count++)
        foresee(engine, apart, (size_t) count + 1, UINT64_MAX, &ret[count]);
    return count;
}

void engine_totals(const struct engine *engine, struct engine_totals *ret) {
    struct demand room = queue_free_room(engine->queue, 0);
    uint64_t cpus = engine->node.cpus * engine->scale_cpus - room.cpus;
    uint64_t memory = engine->node.memory * engine->scale_memory - room.memory;

    *ret = (struct engine_totals){
        .promised_cpus = engine->promised_cpus,
        .promised_memory = engine->promised_memory,
        .taken_cpus = (cpus + engine->scale_cpus - 1) / engine->scale_cpus,
        .taken_memory = (memory + engine->scale_memory - 1) / engine->scale_memory,
        .admitted = queue_running(engine->queue),
        .queued = queue_waiting(engine->queue) + queue_barred(engine->queue),
    };
}

uint64_t engine_cpu_weight(int64_t priority) {
    uint64_t distance = priority < 0 ? -(uint64_t) priority : (uint64_t) priority, factor;

    factor = WEIGHT_NORMAL + WEIGHT_STEP * (distance > 100 ? 100 : distance);
    return priority < 0 ? WEIGHT_NORMAL * WEIGHT_NORMAL / factor : factor;
}
