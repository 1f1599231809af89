// SPDX-License-Identifier: GPL-2.0-or-later
#include "manager/optimize.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "base/uuid.h"
#include "engine/ledger.h"
#include "manager/internal.h"

#define VALID (10 * 60 * CLOCK_SECOND) /* for which a plan may be applied */
#define READS_IN_A_ROW 16
#define RECORDED_MOST (256 << 10) /* of a plan in the ledger */

/* --- measuring ------------------------------------------------------------------------------------------ */

void optimize_note(struct instance *instance, uint64_t cpu_us, uint64_t memory, uint64_t least) {
    struct instance_use *use = &instance->use;
    uint64_t now = clock_now();

    if (use->use.since && use->use.since < instance->ran_since) /* another run, or it was paused for others */
        use->use = (struct optimizer_use){ 0 };
    if (use->generation && use->generation != instance->assigned.generation) {
        use->use = (struct optimizer_use){ 0 };
        use->changed = now;
    }
    use->generation = instance->assigned.generation;
    optimizer_observe(&use->use, cpu_us, memory, least, now);
}

void optimize_measure(struct instance *instance, uint64_t least) {
    struct cgroup_usage usage;
    struct driver_facts facts = { 0 };

    if (instance->status.state != STATE_RUNNING)
        return;
    if (instance->view.cgroup && cgroup_usage(instance->view.cgroup, &usage) >= 0) {
        optimize_note(instance, usage.cpu_us, usage.memory, least);
    } else if (instance->driver && instance->driver->facts) {
        instance->driver->facts(instance->driver_data, &instance->view, &facts);
        if (facts.measured)
            optimize_note(instance, facts.cpu_us, facts.memory, least);
        free(facts.hostname);
        list_free(facts.addresses);
    }
}

uint64_t optimize_memory_most(const struct instance *instance) {
    const struct instance_control *control = &instance->control;
    bool holds = control->memory_left == instance->spec.memory && control->memory_run == instance->status.started;

    return holds ? control->memory_most : 0;
}

void instance_use_done(struct instance_use *use) {
    free(use->done);
    *use = (struct instance_use){ 0 };
}

void optimize_emit_done(const struct instance *instance, struct emitter *emitter) {
    emit_key(emitter, "optimizer");
    if (instance->use.done)
        emit_raw(emitter, instance->use.done);
    else
        emit_null(emitter);
}

/* --- plans that are kept -------------------------------------------------------------------------------- */

struct optimize_plan *optimize_plan_ref(struct optimize_plan *plan) {
    plan->references++;
    return plan;
}

void optimize_plan_unref(struct optimize_plan *plan) {
    if (!plan || --plan->references > 0)
        return;
    for (size_t i = 0; i < plan->count; i++) {
        free(plan->steps[i].uuid);
        free(plan->steps[i].name);
        free(plan->steps[i].text);
    }
    for (size_t i = 0; i < plan->mark_count; i++) {
        free(plan->marks[i].uuid);
        free(plan->marks[i].name);
    }
    free(plan->steps);
    free(plan->marks);
    free(plan->waiter);
    free(plan->text);
    free(plan);
}
DEFINE_CLEANUP(struct optimize_plan *, optimize_plan_unref)

void optimize_done(struct optimize_state *state) {
    for (size_t i = 0; i < state->count; i++)
        optimize_plan_unref(state->plans[i]);
    *state = (struct optimize_state){ 0 };
}

struct optimize_plan *optimize_plan_find(struct manager *manager, const char *id) {
    struct optimize_state *state = &manager->optimize;

    for (size_t i = 0; i < state->count; i++)
        if (text_equal(state->plans[i]->id, id))
            return state->plans[i];
    return NULL;
}

static void keep(struct optimize_state *state, struct optimize_plan *plan) {
    if (state->count == OPTIMIZE_PLANS) {
        optimize_plan_unref(state->plans[0]);
        memmove(state->plans, state->plans + 1, --state->count * sizeof(state->plans[0]));
    }
    state->plans[state->count++] = optimize_plan_ref(plan);
}

/* FNV-1a over the numbers. */
uint64_t optimize_hash(const struct instance *instance) {
    const uint64_t parts[] = { (uint64_t) instance->assigned.generation, (uint64_t) instance->status.state,
                               (uint64_t) instance->control.power, instance->yielded };
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < ELEMENTS(parts); i++)
        hash = (hash ^ parts[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* --- what the planner sees ------------------------------------------------------------------------------ */

/* One node and everybody on it, in the order of their names. */
struct scene {
    struct optimizer_parameters parameters;
    struct optimizer_node node;
    struct optimizer_waiter waiter;
    struct optimizer_input input;
    struct instance **instances; /* a reference each */
    struct optimizer_instance *items;
    size_t count;
    struct instance *waiting;    /* borrowed */
};

static void scene_done(struct scene *scene) {
    for (size_t i = 0; i < scene->count; i++)
        instance_unref(scene->instances[i]);
    free(scene->instances);
    free(scene->items);
}
#define _cleanup_scene_ _cleanup_(scene_done)

static bool is_pinned(const struct instance *instance) {
    return list_has(instance->spec.labels, "polder.optimize=off");
}

static void scene_add(struct manager *manager, struct scene *scene, struct instance *instance) {
    const struct instance_spec *spec = &instance->spec;
    enum kind kind = (enum kind) instance->assigned.kind;
    struct optimizer_instance *item = &scene->items[scene->count];
    uint64_t memory_most = kind == KIND_CONTAINER ? instance_memory_limit(spec) : optimize_memory_most(instance);

    scene->instances[scene->count++] = instance_ref(instance);
    *item = (struct optimizer_instance){
        .priority = spec->priority, .pinned = is_pinned(instance),
        .running = instance->status.state == STATE_RUNNING && !instance->operation,
        .changed = instance->use.changed, .use = instance->use.use,
        .cpus = { spec->cpus, spec->cpu_reservation, instance_cpu_limit(spec),
                  (uint32_t) manager->configuration.overcommit_cpu[kind] },
        .memory = { spec->memory, spec->memory_reservation, memory_most > spec->memory ? memory_most : spec->memory,
                    (uint32_t) manager->configuration.overcommit_memory[kind] },
    };
    if (spec->allocation == INSTANCE_FIXED)
        return;
    item->ways = OPTIMIZER_MAY_RESIZE;
    if (instance->driver && instance->driver->capabilities & DRIVER_SUSPEND)
        item->ways |= OPTIMIZER_MAY_SUSPEND;
}

static uint64_t missing(uint64_t wanted, uint64_t percent, uint64_t capacity, uint64_t taken) {
    uint64_t need = (uint64_t) ((unsigned __int128) wanted * 100 / (percent ? percent : 100));

    return taken + need > capacity ? taken + need - capacity : 0;
}

/* The first in the queue, if it is room that it waits for. */
static void scene_find_waiter(struct manager *manager, struct scene *scene, const struct engine_totals *totals) {
    struct engine_cursor cursor = { 0 };
    struct engine_explanation why;
    void *first;

    if (!engine_walk(manager->engine, &cursor, &first, &why) || !why.resource)
        return;
    scene->waiting = first;
    const struct instance_spec *spec = &scene->waiting->spec;
    int kind = scene->waiting->assigned.kind;
    uint64_t memory = missing(spec->memory, manager->configuration.overcommit_memory[kind], scene->node.memory,
                              totals->taken_memory);
    scene->waiter = (struct optimizer_waiter){
        .priority = spec->priority,
        .cpus = missing(spec->cpus, manager->configuration.overcommit_cpu[kind], scene->node.cpus, totals->taken_cpus),
        .memory = scene->waiting->yielded && !scene->waiting->swapped ? 0 : memory, /* who is paused has kept it */
    };
    scene->input.waiter = &scene->waiter;
}

static void scene_set_node(struct manager *manager, struct scene *scene) {
    uint64_t reserve = manager->configuration.memory_reserve;
    struct engine_totals totals;

    engine_totals(manager->engine, &totals);
    scene->node.cpus = manager->facts.cpus * 1000;
    scene->node.memory = manager->facts.memory > reserve ? manager->facts.memory - reserve : 0;
    if (scene->node.cpus > totals.taken_cpus)
        scene->node.free_cpus = scene->node.cpus - totals.taken_cpus;
    if (scene->node.memory > totals.taken_memory)
        scene->node.free_memory = scene->node.memory - totals.taken_memory;
    scene_find_waiter(manager, scene, &totals);
}

/* Fiber: reading what they use may take a while, so that whoever came or went is looked at again after it. */
static int measure_all(struct manager *manager, uint64_t least) {
    size_t count, read = 0;
    struct instance *const *sorted = registry_sorted(manager, &count);
    _cleanup_free_ struct instance **copy = calloc(count + 1, sizeof(*copy));
    int r = copy ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < count; i++)
        copy[i] = instance_ref(sorted[i]);
    for (size_t i = 0; copy && i < count; i++) {
        if (r >= 0)
            optimize_measure(copy[i], least);
        if (r >= 0 && ++read % READS_IN_A_ROW == 0)
            r = fiber_yield();
        instance_unref(copy[i]);
    }
    return r;
}

static int scene_make(struct manager *manager, const struct optimize_request *request, struct scene *scene,
                      struct error *error) {
    struct optimizer_parameters *parameters = &scene->parameters;
    struct instance *const *sorted;
    size_t count;
    int r;

    optimizer_parameters_init(parameters);
    parameters->observe = request->observe / 1000;
    parameters->cooldown = request->cooldown / 1000;
    r = optimizer_parameters_check(parameters, error);
    if (r < 0)
        return r;
    r = measure_all(manager, request->observe < 20000 ? request->observe * 500 : OPTIMIZE_LEAST);
    if (r < 0)
        return r;
    sorted = registry_sorted(manager, &count);
    scene->instances = calloc(count + 1, sizeof(struct instance *));
    scene->items = calloc(count + 1, sizeof(*scene->items));
    if (!scene->instances || !scene->items)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        if (!sorted[i]->uncommitted && sorted[i]->status.state != STATE_DELETED)
            scene_add(manager, scene, sorted[i]);
    scene->input = (struct optimizer_input){ .parameters = parameters, .nodes = &scene->node, .node_count = 1,
                                             .instances = scene->items, .instance_count = scene->count,
                                             .now = clock_now() };
    scene_set_node(manager, scene);
    return 0;
}

/* --- telling -------------------------------------------------------------------------------------------- */

static void emit_amounts(struct emitter *emitter, const char *key, uint64_t cpus, uint64_t memory) {
    emit_key(emitter, key);
    emit_object(emitter);
    emit_key_unsigned(emitter, "cpus_milli", cpus);
    emit_key_unsigned(emitter, "memory", memory);
    emit_object_end(emitter);
}

static uint64_t most(const double *peaks) {
    return (uint64_t) (peaks[0] > peaks[1] ? peaks[0] : peaks[1]);
}

static void emit_use(struct emitter *emitter, const struct optimizer_use *use) {
    emit_key(emitter, "used");
    emit_object(emitter);
    emit_key_unsigned(emitter, "seconds", (use->last - use->since) / CLOCK_SECOND);
    emit_key_unsigned(emitter, "cpus_milli_mean", (uint64_t) use->cpu.mean);
    emit_key_unsigned(emitter, "cpus_milli_peak", most(use->cpu_peak));
    emit_key_unsigned(emitter, "memory", use->memory);
    emit_key_unsigned(emitter, "memory_peak",
                      use->memory_peak[0] > use->memory_peak[1] ? use->memory_peak[0] : use->memory_peak[1]);
    emit_object_end(emitter);
}

static char *why_step(const struct scene *scene, const struct optimizer_step *step) {
    const struct optimizer_instance *item = &scene->items[step->instance];
    const struct optimizer_use *use = &item->use;
    _cleanup_free_ char *cpus = text_format_cpus(most(use->cpu_peak)), *promised = text_format_cpus(item->cpus.promised);
    _cleanup_free_ char *used = text_format_size(use->memory_peak[0] > use->memory_peak[1] ? use->memory_peak[0]
                                                                                           : use->memory_peak[1]);
    _cleanup_free_ char *memory = text_format_size(item->memory.promised);
    _cleanup_free_ char *time = text_format_duration((use->last - use->since) / CLOCK_SECOND * 1000);

    if (!cpus || !promised || !used || !memory || !time)
        return NULL;
    if (step->reason == OPTIMIZER_IDLES)
        return text_format("%s waits for room; this one used at most %s cpus in %s", scene->waiting->name, cpus, time);
    return text_format("in %s it used at most %s of %s cpus and %s of %s", time, cpus, promised, used, memory);
}

/* What holds of the step whatever it gains. */
static char *constraint_of(const struct scene *scene, const struct optimizer_step *step) {
    const struct instance *instance = scene->instances[step->instance];
    _cleanup_free_ char *limit = text_format_cpus(instance_cpu_limit(&instance->spec));

    if (step->action == OPTIMIZER_SUSPEND)
        return text_format("its priority %" PRIi64 " is not above that of %s; it answers nobody until it is resumed",
                           instance->spec.priority, scene->waiting->name);
    if (!limit)
        return NULL;
    return instance->assigned.kind == KIND_CONTAINER
               ? text_format("its limits stay (%s cpus), its reservation too; only its share while all are busy changes",
                             limit)
               : text_format("its limit of %s cpus stays, its reservation too; its memory is what is promised", limit);
}

static int emit_step(const struct scene *scene, const struct optimizer_step *step, struct emitter *emitter) {
    const struct optimizer_instance *item = &scene->items[step->instance];
    _cleanup_free_ char *why = why_step(scene, step), *constraint = constraint_of(scene, step);
    bool gone = step->action == OPTIMIZER_SUSPEND;

    emit_object(emitter);
    emit_key_text(emitter, "instance", scene->instances[step->instance]->name);
    emit_key_text(emitter, "action", optimizer_actions[step->action]);
    emit_key_text(emitter, "reason", optimizer_reasons[step->reason]);
    emit_key_text(emitter, "message", why);
    emit_key_text(emitter, "constraint", constraint);
    emit_amounts(emitter, "before", item->cpus.promised, item->memory.promised);
    emit_amounts(emitter, "after", gone ? 0 : step->cpus, gone ? 0 : step->memory);
    emit_key(emitter, "gain");
    emit_object(emitter);
    emit_key_integer(emitter, "cpus_milli", step->cpus_gain);
    emit_key_integer(emitter, "memory", step->memory_gain);
    emit_object_end(emitter);
    emit_key(emitter, "cost");
    emit_object(emitter);
    emit_key(emitter, "seconds");
    emit_double(emitter, (double) (uint64_t) (step->cost_seconds * 10) / 10);
    emit_key_unsigned(emitter, "bytes", step->cost_bytes);
    emit_object_end(emitter);
    emit_use(emitter, &item->use);
    emit_object_end(emitter);
    return why && constraint ? 0 : -ENOMEM;
}

static void emit_kept(const struct scene *scene, const struct optimizer_plan *plan, struct emitter *emitter) {
    emit_key(emitter, "kept");
    emit_array(emitter);
    for (size_t i = 0; i < scene->count; i++) {
        if (plan->holds[i] == OPTIMIZER_HAS_STEP)
            continue;
        emit_object(emitter);
        emit_key_text(emitter, "instance", scene->instances[i]->name);
        emit_key_text(emitter, "why", optimizer_holds[plan->holds[i]]);
        emit_key_text(emitter, "message", optimizer_hold_sentence(plan->holds[i]));
        emit_use(emitter, &scene->items[i].use);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
}

static void emit_waiting(const struct scene *scene, const struct optimizer_plan *plan, struct emitter *emitter) {
    emit_key(emitter, "waiting");
    if (!scene->waiting) {
        emit_null(emitter);
        return;
    }
    emit_object(emitter);
    emit_key_text(emitter, "instance", scene->waiting->name);
    emit_amounts(emitter, "lacks", scene->waiter.cpus, scene->waiter.memory);
    emit_key_boolean(emitter, "fits_afterwards", plan->waiter_fits);
    emit_object_end(emitter);
}

static void emit_parameters(const struct optimizer_parameters *parameters, struct emitter *emitter) {
    emit_key(emitter, "parameters");
    emit_object(emitter);
    emit_key_unsigned(emitter, "observe_seconds", parameters->observe);
    emit_key_unsigned(emitter, "cooldown_seconds", parameters->cooldown);
    emit_key(emitter, "headroom");
    emit_double(emitter, parameters->headroom);
    emit_key(emitter, "shrink");
    emit_double(emitter, parameters->shrink);
    emit_key(emitter, "full");
    emit_double(emitter, parameters->full);
    emit_key(emitter, "idle");
    emit_double(emitter, parameters->idle);
    emit_object_end(emitter);
}

/* An object: its braces are cut off by whoever shows it with more. */
static int plan_text(const struct scene *scene, const struct optimizer_plan *plan, char **ret) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    int64_t cpus = 0, memory = 0;
    int r = 0;

    emit_object(&emitter);
    emit_parameters(&scene->parameters, &emitter);
    emit_waiting(scene, plan, &emitter);
    emit_key(&emitter, "steps");
    emit_array(&emitter);
    for (size_t i = 0; r >= 0 && i < plan->count; i++) {
        r = emit_step(scene, &plan->steps[i], &emitter);
        cpus += plan->steps[i].cpus_gain;
        memory += plan->steps[i].memory_gain;
    }
    emit_array_end(&emitter);
    emit_key(&emitter, "gain");
    emit_object(&emitter);
    emit_key_integer(&emitter, "cpus_milli", cpus);
    emit_key_integer(&emitter, "memory", memory);
    emit_object_end(&emitter);
    emit_kept(scene, plan, &emitter);
    emit_object_end(&emitter);
    return r < 0 ? r : buffer_take(&buffer, ret);
}

/* --- keeping -------------------------------------------------------------------------------------------- */

static int record_step(const struct scene *scene, const struct optimizer_step *step, struct optimize_step *ret) {
    const struct instance *instance = scene->instances[step->instance];
    bool container = instance->assigned.kind == KIND_CONTAINER;
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    int r = emit_step(scene, step, &emitter);

    *ret = (struct optimize_step){
        .step = *step, .uuid = strdup(instance->assigned.uuid), .name = strdup(instance->name),
        .generation = instance->assigned.generation, .cpus = instance->spec.cpus, .memory = instance->spec.memory,
        .cpu_limit = instance_cpu_limit(&instance->spec),
        .memory_limit = container ? instance_memory_limit(&instance->spec) : 0,
    };
    if (r >= 0)
        r = buffer_take(&buffer, &ret->text);
    return r >= 0 && (!ret->uuid || !ret->name) ? -ENOMEM : r;
}

static int record_marks(const struct scene *scene, struct optimize_plan *plan) {
    for (size_t i = 0; i < scene->count; i++) {
        const struct instance *instance = scene->instances[i];
        struct optimize_mark *mark = &plan->marks[plan->mark_count++];
        *mark = (struct optimize_mark){ strdup(instance->assigned.uuid), strdup(instance->name),
                                        optimize_hash(instance) };
        if (!mark->uuid || !mark->name)
            return -ENOMEM;
    }
    return 0;
}

static int record(const struct scene *scene, const struct optimizer_plan *made, struct optimize_plan **ret) {
    _cleanup_(optimize_plan_unrefp) struct optimize_plan *plan = calloc(1, sizeof(*plan));
    int r = 0;

    if (!plan)
        return -ENOMEM;
    plan->references = 1;
    random_hex(plan->id, 6);
    plan->made = clock_wall();
    plan->expires = deadline_in(VALID);
    plan->steps = calloc(made->count + 1, sizeof(*plan->steps));
    plan->marks = calloc(scene->count + 1, sizeof(*plan->marks));
    plan->waiter = scene->waiting ? strdup(scene->waiting->assigned.uuid) : NULL;
    if (!plan->steps || !plan->marks || (scene->waiting && !plan->waiter))
        return -ENOMEM;
    while (r >= 0 && plan->count < made->count) {
        r = record_step(scene, &made->steps[plan->count], &plan->steps[plan->count]);
        plan->count++;
    }
    if (r >= 0)
        r = record_marks(scene, plan);
    if (r >= 0)
        r = plan_text(scene, made, &plan->text);
    if (r >= 0)
        *ret = STEAL_PTR(plan);
    return r;
}

static void plan_emit(const struct optimize_plan *plan, struct emitter *emitter) {
    uint64_t now = clock_now();
    char time[CLOCK_TEXT_SIZE];

    emit_object(emitter);
    emit_key_text(emitter, "id", plan->id);
    emit_key_text(emitter, "state", plan->applied ? "applied" : now >= plan->expires ? "expired" : "open");
    emit_key_text(emitter, "made", clock_format(plan->made, time));
    emit_key_unsigned(emitter, "valid_seconds", now < plan->expires ? (plan->expires - now) / CLOCK_SECOND : 0);
    emit_key(emitter, "plan");
    emit_raw(emitter, plan->text);
    emit_object_end(emitter);
}

/* So that it can still be told after a restart. */
static void note_plan(struct manager *manager, const struct actor *actor, const struct optimize_plan *plan) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    _cleanup_free_ char *line = NULL;
    char time[CLOCK_TEXT_SIZE];

    if (strlen(plan->text) > RECORDED_MOST)
        return;
    emit_object(&emitter);
    emit_key_text(&emitter, "plan", plan->id);
    emit_key_text(&emitter, "made", clock_format(plan->made, time));
    emit_key_text(&emitter, "actor", actor->name);
    emit_key(&emitter, "decided");
    emit_raw(&emitter, plan->text);
    emit_object_end(&emitter);
    if (buffer_take(&buffer, &line) < 0)
        return;
    engine_note(manager->engine, line);
    fiber_queue_wake_all(&manager->scribe_queue);
}

int manager_optimize_plan_emit(struct manager *manager, const struct actor *actor, const struct optimize_request *request,
                               struct emitter *emitter, struct error *error) {
    _cleanup_scene_ struct scene scene = { 0 };
    _cleanup_optimizer_plan_ struct optimizer_plan made = { 0 };
    _cleanup_(optimize_plan_unrefp) struct optimize_plan *plan = NULL;
    int r = authorise(actor, "default", PERMISSION_OPERATE, "optimize", error);

    if (r >= 0)
        r = scene_make(manager, request, &scene, error);
    if (r >= 0)
        r = optimizer_plan_make(&scene.input, &made);
    if (r >= 0)
        r = record(&scene, &made, &plan);
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "planning");
    keep(&manager->optimize, plan);
    note_plan(manager, actor, plan);
    plan_emit(plan, emitter);
    return 0;
}

/* From the ledger: what was planned, and what was done of it. */
static int recorded_emit(struct manager *manager, const char *id, struct emitter *emitter, struct error *error) {
    _cleanup_free_ char *head = text_format("{\"plan\":\"%s\",", id), *line = NULL, *steps = NULL;
    _cleanup_free_ char *step_head = text_format("{\"applied\":\"%s\",", id);
    _cleanup_json_ struct json_object *json = NULL;
    const char *decided;
    int r = head && step_head ? 0 : -ENOMEM;

    if (r >= 0 && id[strspn(id, "0123456789abcdef")] == '\0')
        r = ledger_find_lines(manager, head, NULL, true, &line);
    if (r >= 0 && line)
        r = ledger_find_lines(manager, step_head, NULL, false, &steps);
    if (r < 0)
        return error_errno(error, r, "looking into the ledger");
    if (!line)
        return error_set(error, ERROR_NOT_FOUND, "plan", id);
    r = json_parse(line, strlen(line), &json, error);
    if (r < 0)
        return r;
    decided = json_plain(json_member(json, "decided"));
    if (!decided)
        return error_errno(error, -ENOMEM, "looking into the ledger");
    emit_object(emitter);
    emit_key_text(emitter, "id", id);
    emit_key_text(emitter, "state", "recorded");
    emit_key_text(emitter, "made", json_text(json, "made", NULL));
    emit_key_unsigned(emitter, "valid_seconds", 0);
    emit_key_text(emitter, "actor", json_text(json, "actor", NULL));
    emit_key(emitter, "plan");
    emit_raw(emitter, decided);
    emit_key(emitter, "applied");
    emit_array(emitter);
    if (steps)
        emit_raw(emitter, steps);
    emit_array_end(emitter);
    emit_object_end(emitter);
    return 0;
}

void optimize_recall(struct instance *instance) {
    _cleanup_free_ char *part = text_format("\"id\":\"%s\"", instance->assigned.uuid);
    char *line = NULL;
    int r;

    if (!part || instance->use.done || instance->use.looked)
        return;
    instance->use.looked = true;
    r = ledger_find_lines(instance->manager, "{\"applied\":", part, true, &line);
    if (r < 0)
        instance->use.looked = false;
    if (r < 0 || instance->use.done)
        free(line);
    else
        instance->use.done = line;
}

int manager_optimize_emit(struct manager *manager, const char *id, struct emitter *emitter, struct error *error) {
    const struct optimize_plan *plan = optimize_plan_find(manager, id);

    if (!plan)
        return recorded_emit(manager, id, emitter, error);
    plan_emit(plan, emitter);
    return 0;
}
