// SPDX-License-Identifier: GPL-2.0-or-later
/* What the engine says of the queue, for people. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "engine/copy.h"
#include "engine/ledger.h"
#include "engine/trial.h"
#include "manager/internal.h"

/* --- why one waits --------------------------------------------------------------------------------------------------- */

char *queue_sentence(const struct manager *manager, const struct engine_explanation *why, struct error *reason) {
    bool cpus = why->resource && why->resource[0] == 'c';
    _cleanup_free_ char *wanted = NULL, *available = NULL;

    if (why->barred) {
        wanted = placement_reason(manager, &why->refusal);
        (void) error_set(reason, ERROR_UNPLACED, wanted ? wanted : "");
        return error_sentence(reason, LANGUAGE_ENGLISH);
    }
    if (!why->resource) {
        (void) error_set(reason, ERROR_BUSY, "the queue", "others wait before it");
        return error_sentence(reason, LANGUAGE_ENGLISH);
    }
    wanted = cpus ? text_format_cpus(why->wanted) : text_format_size(why->wanted);
    available = cpus ? text_format_cpus(why->free) : text_format_size(why->free);
    (void) error_set(reason, ERROR_NO_ROOM, why->resource, wanted, available);
    return error_sentence(reason, LANGUAGE_ENGLISH);
}

/* --- the queue ------------------------------------------------------------------------------------------------------- */

static const char *reason_of(const struct engine_explanation *why) {
    if (why->barred && why->refusal.filter < FILTER_PASSED)
        return filter_name(why->refusal.filter);
    return why->resource ? why->resource : "order";
}

static void emit_seconds(struct emitter *emitter, const char *key, uint64_t microseconds) {
    emit_key(emitter, key);
    if (microseconds == UINT64_MAX)
        emit_null(emitter);
    else
        emit_double(emitter, (double) (microseconds / CLOCK_MILLISECOND) / 1000);
}

void queue_emit_start(struct emitter *emitter, uint64_t start, uint64_t now) {
    char time[CLOCK_TEXT_SIZE];

    emit_key_text(emitter, "start", start == UINT64_MAX ? NULL : clock_format(clock_wall() + (start - clock_now()), time));
    emit_seconds(emitter, "starts_in", start == UINT64_MAX ? UINT64_MAX : start - now);
}

/* What is told of one that waits and may change while its start is worked out. */
struct waiting {
    char *name, *uuid;
    enum kind kind;
    uint64_t cpus, memory;
    int64_t priority;
    bool paused;
};

struct outlook {
    const struct manager *manager;
    const struct engine *engine; /* of a copy */
    struct waiting *waiting;
    size_t count;
    uint64_t now;
    struct emitter *emitter;
};

static void outlook_done(struct outlook *outlook) {
    for (size_t i = 0; i < outlook->count; i++) {
        free(outlook->waiting[i].name);
        free(outlook->waiting[i].uuid);
    }
    free(outlook->waiting);
}

static int waiting_note(const struct instance *instance, struct waiting *ret) {
    *ret = (struct waiting){
        .name = strdup(instance->name),
        .uuid = strdup(instance->assigned.uuid),
        .kind = (enum kind) instance->assigned.kind,
        .cpus = instance->spec.cpus,
        .memory = instance->spec.memory,
        .priority = instance->spec.priority,
        .paused = instance->status.state == STATE_PAUSED,
    };
    return ret->name && ret->uuid ? 0 : -ENOMEM;
}

/* The first of those that wait, as they are: in the order of engine_foresee. */
static int outlook_make(struct manager *manager, size_t limit, struct outlook *ret) {
    struct engine_cursor cursor = { 0 };
    void *instance;
    int r = 0;

    ret->waiting = calloc(limit + 1, sizeof(*ret->waiting));
    if (!ret->waiting)
        return -ENOMEM;
    while (r >= 0 && ret->count < limit && engine_walk(manager->engine, &cursor, &instance, NULL))
        r = waiting_note(instance, &ret->waiting[ret->count++]);
    return r;
}

static void emit_waiting(const struct manager *manager, struct emitter *emitter, const struct waiting *waiting,
                         const struct engine_forecast *forecast, uint64_t now) {
    const struct engine_explanation *why = &forecast->why;
    _cleanup_error_ struct error reason = ERROR_INIT;
    _cleanup_free_ char *sentence = queue_sentence(manager, why, &reason);

    emit_object(emitter);
    emit_key_unsigned(emitter, "position", why->position);
    emit_key_text(emitter, "name", waiting->name);
    emit_key_text(emitter, "uuid", waiting->uuid);
    emit_key_text(emitter, "kind", kind_name(waiting->kind));
    emit_key(emitter, "cpus");
    emit_double(emitter, (double) waiting->cpus / 1000);
    emit_key_unsigned(emitter, "memory", waiting->memory);
    emit_key_integer(emitter, "priority", waiting->priority);
    emit_key_boolean(emitter, "paused", waiting->paused);
    emit_seconds(emitter, "waited", now - why->since);
    emit_seconds(emitter, "expected", why->expected);
    queue_emit_start(emitter, forecast->start, now);
    emit_key_text(emitter, "reason", reason_of(why));
    emit_key_text(emitter, "message", sentence);
    emit_object_end(emitter);
}

/* On a worker thread. */
static int outlook_job(void *userdata) {
    struct outlook *outlook = userdata;
    _cleanup_free_ struct engine_forecast *forecasts = calloc(outlook->count + 1, sizeof(*forecasts));
    ssize_t count = forecasts ? engine_foresee(outlook->engine, outlook->now, forecasts, outlook->count) : -ENOMEM;

    emit_key(outlook->emitter, "queue");
    emit_array(outlook->emitter);
    for (ssize_t i = 0; i < count; i++)
        emit_waiting(outlook->manager, outlook->emitter, &outlook->waiting[i], &forecasts[i], outlook->now);
    emit_array_end(outlook->emitter);
    return count < 0 ? (int) count : 0;
}

static void emit_rules(const struct manager *manager, struct emitter *emitter) {
    emit_key_text(emitter, "policy", manager->queue_settings.policy);
    emit_key_text(emitter, "backfill", manager->queue_settings.backfill);
    emit_key_text(emitter, "estimates", manager->queue_settings.estimates);
}

int manager_queue_emit(struct manager *manager, size_t limit, struct emitter *emitter, struct error *error) {
    _cleanup_thought_ struct thought thought = { 0 };
    _cleanup_(outlook_done) struct outlook outlook = { .manager = manager, .emitter = emitter };
    struct engine_totals totals;
    int r = thought_begin(&thought, manager, limit, 0, error);

    if (r < 0)
        return r;
    outlook.engine = engine_copy_view(thought.copy);
    outlook.now = clock_now();
    r = outlook_make(manager, limit, &outlook);
    engine_totals(manager->engine, &totals);
    emit_object(emitter);
    emit_rules(manager, emitter);
    emit_key_unsigned(emitter, "admitted", totals.admitted);
    emit_key_unsigned(emitter, "waiting", totals.queued);
    if (r >= 0)
        r = thought_run(&thought, outlook_job, &outlook);
    emit_object_end(emitter);
    return r < 0 ? error_errno(error, r, "looking at the queue") : 0;
}

/* --- what if --------------------------------------------------------------------------------------------------------- */

static int what_if_rules(struct manager *manager, const struct what_if *what_if, struct engine_options *ret,
                         struct error *error) {
    struct queue_settings settings = manager->queue_settings; /* borrowed */

    if (what_if->policy)
        settings.policy = what_if->policy;
    if (what_if->backfill)
        settings.backfill = what_if->backfill;
    return settings_rules(&settings, ret, error);
}

static void what_if_request(const struct what_if *what_if, struct engine_request *ret) {
    *ret = (struct engine_request){
        .id = "",
        .kind = what_if->kind == KIND_AUTO ? KIND_CONTAINER : (enum kind) what_if->kind,
        .cpus = what_if->cpus,
        .memory = what_if->memory,
        .priority = what_if->priority,
        .owner = engine_hash("default"),
        .expected = what_if->duration * CLOCK_MILLISECOND,
    };
}

static void emit_prospect(const struct engine_prospect *prospect, size_t number, uint64_t now, struct emitter *emitter) {
    _cleanup_free_ char *name = prospect->name ? strdup(prospect->name) : text_format("new %zu", number);

    emit_object(emitter);
    emit_key_text(emitter, "name", name);
    emit_key_boolean(emitter, "new", !prospect->name);
    emit_key_unsigned(emitter, "position_before", prospect->position_before);
    emit_key_unsigned(emitter, "position_after", prospect->position_after);
    emit_seconds(emitter, "starts_in_before", prospect->before == UINT64_MAX ? UINT64_MAX : prospect->before - now);
    emit_seconds(emitter, "starts_in_after", prospect->after == UINT64_MAX ? UINT64_MAX : prospect->after - now);
    emit_object_end(emitter);
}

struct supposing {
    const struct manager *manager;
    const struct engine *engine; /* of a copy */
    const struct engine_supposition *supposition;
    const struct supposed_node *node;
    uint64_t now;
    struct emitter *emitter;
};

static void emit_prospects(const struct supposing *supposing, const struct engine_prospect *prospects, size_t count) {
    const struct engine_options *rules = supposing->supposition->options;
    struct emitter *emitter = supposing->emitter;
    uint64_t now = supposing->now;
    double before = 0, after = 0;
    size_t compared = 0, added = 0;

    emit_object(emitter);
    emit_key_text(emitter, "policy", rules->policy->name);
    emit_key_text(emitter, "backfill", backfill_names[rules->backfill]);
    emit_key(emitter, "queue");
    emit_array(emitter);
    for (size_t i = 0; i < count; i++) {
        added += !prospects[i].name;
        emit_prospect(&prospects[i], added, now, emitter);
        if (prospects[i].before == UINT64_MAX || prospects[i].after == UINT64_MAX)
            continue;
        before += (double) (prospects[i].before - now) / (double) CLOCK_SECOND;
        after += (double) (prospects[i].after - now) / (double) CLOCK_SECOND;
        compared++;
    }
    emit_array_end(emitter);
    emit_key_unsigned(emitter, "compared", compared);
    emit_key(emitter, "mean_before");
    emit_double(emitter, compared ? before / (double) compared : 0);
    emit_key(emitter, "mean_after");
    emit_double(emitter, compared ? after / (double) compared : 0);
    supposed_node_emit(supposing->manager, supposing->engine, supposing->node, emitter);
    emit_object_end(emitter);
}

/* On a worker thread. */
static int suppose_job(void *userdata) {
    const struct supposing *supposing = userdata;
    _cleanup_free_ struct engine_prospect *prospects = NULL;
    ssize_t count = engine_suppose(supposing->engine, supposing->supposition, supposing->now, &prospects);

    if (count < 0)
        return (int) count;
    emit_prospects(supposing, prospects, (size_t) count);
    return 0;
}

static int suppose(struct manager *manager, struct engine_supposition *supposition, const struct supposed_node *node,
                   struct emitter *emitter, struct error *error) {
    _cleanup_thought_ struct thought thought = { 0 };
    struct supposing supposing = { .manager = manager, .supposition = supposition, .node = node, .emitter = emitter };
    int r = thought_begin(&thought, manager, SIZE_MAX, supposition->add, error);

    if (r < 0)
        return r;
    supposing.engine = engine_copy_view(thought.copy);
    supposing.now = clock_now();
    engine_supposition_predict(supposition, manager->engine);
    r = thought_run(&thought, suppose_job, &supposing);
    if (r == -ENOSPC)
        return error_set(error, ERROR_BAD_VALUE, "add", "", "what is added could never run on that node");
    return r < 0 ? error_errno(error, r, "supposing") : 0;
}

int manager_what_if_emit(struct manager *manager, const struct what_if *what_if, struct emitter *emitter,
                         struct error *error) {
    struct engine_options rules;
    _cleanup_(supposed_node_done) struct supposed_node node = { 0 };
    struct engine_request request;
    struct engine_supposition supposition = { .request = &request, .options = &rules, .cpus = what_if->node_cpus };
    uint64_t reserve = manager->configuration.memory_reserve;
    int r = what_if_rules(manager, what_if, &rules, error);

    what_if_request(what_if, &request);
    if (r >= 0)
        r = supposed_node_make(manager, what_if, &node, error);
    if (r >= 0 && what_if->node_memory && what_if->node_memory <= reserve)
        r = error_set(error, ERROR_BAD_VALUE, "node_memory", "", "it is no more than what is kept for the host");
    if (r < 0)
        return r;
    supposition.add = (size_t) what_if->add;
    supposition.gone = node.gone;
    supposition.otherwise = node.asked;
    supposition.traits = node.traits;
    supposition.taints = node.taints;
    supposition.memory = what_if->node_memory ? what_if->node_memory - reserve : 0;
    if (what_if->add && !supposition.cpus && !supposition.memory)
        r = engine_check(manager->engine, &request, error);
    return r < 0 ? r : suppose(manager, &supposition, &node, emitter, error);
}

/* --- why ------------------------------------------------------------------------------------------------------------- */

/* "starts now if memory were 1.2GiB less, or if batch-7 were suspended" */
static char *flip_sentence(const struct engine_flip *flip) {
    _cleanup_list_ char **ways = NULL;
    _cleanup_free_ char *cpus = text_format_cpus(flip->fewer_cpus), *memory = text_format_size(flip->less_memory);
    _cleanup_free_ char *joined = NULL;
    int r = cpus && memory ? 0 : -ENOMEM;

    if (r >= 0 && flip->fewer_cpus && flip->less_memory)
        r = list_addf(&ways, "if it asked for %s cpus and %s memory less", cpus, memory);
    else if (r >= 0 && flip->fewer_cpus)
        r = list_addf(&ways, "if cpus were %s less", cpus);
    else if (r >= 0 && flip->less_memory)
        r = list_addf(&ways, "if memory were %s less", memory);
    if (r >= 0 && flip->gone)
        r = list_addf(&ways, "if %s were suspended", flip->gone);
    if (r >= 0 && flip->ahead)
        r = list_addf(&ways, "if %s did not wait before it", flip->ahead);
    if (r < 0)
        return NULL;
    if (!ways)
        return strdup("no single change would let it start now");
    joined = list_join(ways, ", or ");
    return joined ? text_format("starts now %s", joined) : NULL;
}

static void emit_flip(const struct manager *manager, const struct engine_explanation *why, const struct engine_flip *flip,
                      struct emitter *emitter) {
    _cleanup_free_ char *sentence = why->barred ? placement_change(manager, &why->refusal) : flip_sentence(flip);

    emit_key(emitter, "if");
    emit_object(emitter);
    emit_key(emitter, "fewer_cpus");
    emit_double(emitter, (double) flip->fewer_cpus / 1000);
    emit_key_unsigned(emitter, "less_memory", flip->less_memory);
    emit_key_text(emitter, "suspended", flip->gone);
    emit_key_text(emitter, "ahead", flip->ahead);
    emit_key_text(emitter, "sentence", sentence);
    emit_object_end(emitter);
}

/* --- who could give way ---------------------------------------------------------------------------------------------- */

static const char *const refrain_names[] = { "asks", "asking", "room", "policy", "alarm", "order", "not_yet", "too_little" };
static const char *const obstacle_names[] = { "none", "asked", "residency", "cost", "order", "service", "memory", "cannot" };

static char *refrain_sentence(const struct manager *manager, const struct engine_yielders *yielders) {
    const char *policy = manager->queue_settings.policy;
    _cleanup_free_ char *alarm = NULL;

    switch (yielders->refrain) {
    case ENGINE_ASKS:
        return strdup("room is made for it by those that may be asked");
    case ENGINE_IS_ASKING:
        return strdup("those that were asked make enough room");
    case ENGINE_HAS_ROOM:
        return strdup("there is room for it: nobody has to give way");
    case ENGINE_NEVER_ASKS:
        return text_format("under %s nobody is asked to give way", policy);
    case ENGINE_ASKS_ON_ALARM:
        alarm = text_format_duration(yielders->alarm_in / CLOCK_MILLISECOND);
        return alarm ? text_format("under %s nobody is asked before its alarm rings, in %s", policy, alarm) : NULL;
    case ENGINE_ASKS_FOR_FIRST:
        return strdup("others are asked for the first in the queue alone");
    case ENGINE_TOO_LITTLE_YET:
        return strdup("those that may be asked now would not make enough room, so that nobody is");
    case ENGINE_TOO_LITTLE:
        return strdup("all that could be asked would not make enough room, so that nobody is");
    }
    return NULL;
}

static bool is_about_time(const struct engine_yielder *yielder) {
    return yielder->obstacle == QUEUE_MAY_BE_ASKED || yielder->obstacle == QUEUE_RUNS_TOO_SHORT ||
           yielder->obstacle == QUEUE_IS_SPARED || yielder->obstacle == QUEUE_COMES_FIRST;
}

static char *obstacle_sentence(const struct manager *manager, const struct instance *waiting,
                               const struct engine_yielder *yielder) {
    switch (yielder->obstacle) {
    case QUEUE_MAY_BE_ASKED:
        return strdup("it may be asked");
    case QUEUE_IS_ASKED:
        return strdup("it was asked, and is giving way");
    case QUEUE_RUNS_TOO_SHORT:
    case QUEUE_IS_SPARED:
        if (yielder->ends_before)
            return strdup("it is expected to end sooner than it could be moved");
        if (yielder->obstacle == QUEUE_RUNS_TOO_SHORT)
            return strdup("nobody has to give way who has not run for the residency");
        return strdup("to move it is not worth what that takes until it has worked for longer");
    case QUEUE_COMES_FIRST:
        return text_format("under %s it comes before %s", manager->queue_settings.policy, waiting->name);
    case QUEUE_IS_SERVICE:
        return strdup("it has no known end, and an alarm leaves such in peace");
    case QUEUE_FREES_NOTHING:
        return strdup("a pause frees no memory, and it cannot go to disk");
    case QUEUE_CANNOT_YIELD:
        return strdup(preempt_ways(yielder->userdata) ? "it could not when it was asked"
                                                      : "it can neither be paused nor go to disk");
    }
    return NULL;
}

static void emit_yielder(const struct manager *manager, const struct instance *waiting, const struct engine_yielder *yielder,
                         bool never, struct emitter *emitter) {
    const struct instance *instance = yielder->userdata;
    bool suspend = yielder->way & QUEUE_YIELD_SUSPEND, swaps = !(instance->driver && instance->driver->capabilities & DRIVER_SUSPEND);
    bool by_policy = never && is_about_time(yielder);
    _cleanup_free_ char *sentence = by_policy ? strdup("its policy asks nobody")
                                              : obstacle_sentence(manager, waiting, yielder);

    emit_object(emitter);
    emit_key_text(emitter, "name", yielder->name);
    emit_key_text(emitter, "way", yielder->way ? (!suspend ? "pause" : swaps ? "swap" : "suspend") : NULL);
    emit_key_text(emitter, "frees", yielder->way ? (suspend ? "cpus and memory" : "cpus") : NULL);
    emit_seconds(emitter, "cost", yielder->way ? yielder->cost : UINT64_MAX);
    emit_seconds(emitter, "asked_in", by_policy ? UINT64_MAX : yielder->asked_in);
    emit_key_text(emitter, "reason", by_policy ? "policy" : yielder->ends_before ? "ends" : obstacle_names[yielder->obstacle]);
    emit_key_text(emitter, "message", sentence);
    emit_object_end(emitter);
}

static void emit_yielders(struct manager *manager, const struct instance *waiting, struct emitter *emitter) {
    _cleanup_free_ char *sentence = NULL;
    struct engine_yielders yielders;

    emit_key(emitter, "could_give_way");
    if (engine_find_yielders(manager->engine, waiting->assigned.uuid, clock_now(), &yielders) < 0) {
        emit_null(emitter);
        return;
    }
    sentence = refrain_sentence(manager, &yielders);
    emit_object(emitter);
    emit_key_text(emitter, "reason", refrain_names[yielders.refrain]);
    emit_key_text(emitter, "message", sentence);
    emit_key(emitter, "who");
    emit_array(emitter);
    for (size_t i = 0; i < yielders.count; i++)
        emit_yielder(manager, waiting, &yielders.who[i], yielders.refrain == ENGINE_NEVER_ASKS, emitter);
    emit_array_end(emitter);
    emit_key_unsigned(emitter, "more", yielders.more);
    emit_object_end(emitter);
}

static void emit_queued(struct manager *manager, const struct instance *instance, const struct engine_explanation *why,
                        const struct engine_flip *flip, struct emitter *emitter) {
    _cleanup_error_ struct error reason = ERROR_INIT;
    _cleanup_free_ char *sentence = queue_sentence(manager, why, &reason);
    uint64_t now = clock_now();

    emit_key_unsigned(emitter, "position", why->position);
    emit_seconds(emitter, "waited", now - why->since);
    emit_seconds(emitter, "expected", why->expected);
    queue_emit_start(emitter, flip->start != UINT64_MAX && flip->start < now ? now : flip->start, now);
    emit_key_text(emitter, "reason", reason_of(why));
    emit_key_text(emitter, "message", sentence);
    engine_emit_score(manager->engine, instance->assigned.uuid, now, emitter);
    emit_yielders(manager, instance, emitter);
    emit_flip(manager, why, flip, emitter);
}

static int trial_job(void *userdata) {
    return engine_trial_run(userdata);
}

/* Tries on a worker thread: nobody else shall wait for that. What it finds is as of the moment when it began, and nothing if the
 * instance does not wait for room. The names are borrowed from the engine. */
static int try_flip(struct manager *manager, const char *name, struct thought *thought, struct engine_flip *ret,
                    struct error *error) {
    _cleanup_trial_ struct engine_trial *trial = NULL;
    struct instance *instance;
    int r = registry_lookup(manager, name, false, &instance, error);

    *ret = (struct engine_flip){ .start = UINT64_MAX };
    if (r < 0 || !engine_waits_for_room(manager->engine, instance->assigned.uuid))
        return r;
    r = thought_begin(thought, manager, SIZE_MAX, 0, error);
    if (r >= 0)
        r = registry_lookup(manager, name, false, &instance, error); /* it may have gone while others thought */
    if (r < 0)
        return r;
    r = engine_trial_new(thought->copy, manager->engine, instance->assigned.uuid, clock_now(), &trial);
    if (r == -ENOENT)
        return 0;
    if (r >= 0)
        r = thought_run(thought, trial_job, trial);
    if (r < 0)
        return error_errno(error, r, "trying what would let it start");
    engine_trial_flip(trial, manager->engine, ret);
    return 0;
}

/* --- of one ---------------------------------------------------------------------------------------------------------- */

int manager_why_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error) {
    _cleanup_thought_ struct thought thought = { 0 };
    struct engine_explanation why;
    struct engine_flip flip;
    struct instance *instance;
    uint64_t number;
    int r = registry_lookup(manager, name, false, &instance, error);

    if (r < 0)
        return r;
    if (!instance->use.done && !instance->use.looked) {
        instance_ref(instance);
        optimize_recall(instance);
        instance_unref(instance);
    }
    r = try_flip(manager, name, &thought, &flip, error); /* what it names is borrowed: from here on nothing yields */
    if (r >= 0)
        r = registry_lookup(manager, name, false, &instance, error); /* it may have gone meanwhile */
    if (r < 0)
        return r;
    engine_explain(manager->engine, instance->assigned.uuid, &why);
    emit_object(emitter);
    emit_key_text(emitter, "name", instance->name);
    emit_key_text(emitter, "state", state_name(instance->status.state));
    emit_key_text(emitter, "policy", manager->queue_settings.policy);
    emit_key_text(emitter, "backfill", manager->queue_settings.backfill);
    emit_key_text(emitter, "kind", kind_name(instance->assigned.kind));
    emit_key_text(emitter, "why_kind", instance->assigned.why_kind);
    emit_key_boolean(emitter, "waits", why.standing == ENGINE_QUEUED);
    if (why.standing == ENGINE_QUEUED)
        emit_queued(manager, instance, &why, &flip, emitter);
    else
        emit_key_text(emitter, "message", instance->status.message);
    engine_emit_yield(manager->engine, instance->assigned.uuid, clock_now(), emitter);
    allocation_emit_weight(instance, emitter);
    allocation_emit_score(instance, emitter);
    placement_emit(instance, emitter);
    optimize_emit_done(instance, emitter);
    number = engine_decision_about(manager->engine, instance->assigned.uuid);
    emit_key(emitter, "decision");
    if (number && engine_decision(manager->engine, number))
        emit_raw(emitter, engine_decision(manager->engine, number));
    else
        emit_null(emitter);
    emit_object_end(emitter);
    return 0;
}
