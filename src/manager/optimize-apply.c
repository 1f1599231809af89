// SPDX-License-Identifier: GPL-2.0-or-later
/* A plan becomes ordinary requests, one after the other, by whoever applied it: each is authorised,
 * checked and audited as if it had been sent by hand, and only goes through if nobody changed the instance
 * since the plan was made. The first that fails ends it; what was done before stays and is told. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/failpoint.h"
#include "base/text.h"
#include "engine/ledger.h"
#include "manager/internal.h"

#define STEP_DEADLINE (600 * CLOCK_SECOND)

struct apply {
    struct manager *manager;
    struct optimize_plan *plan;
    struct actor actor;
    char *actor_name;
};

static void apply_free(void *userdata) {
    struct apply *apply = userdata;

    optimize_plan_unref(apply->plan);
    free(apply->actor_name);
    free(apply);
}

/* --- is it still the state that was decided on? --------------------------------------------------------- */

static int stale(struct error *error, const struct optimize_plan *plan, const char *format, const char *name) {
    _cleanup_free_ char *reason = text_format("%s%s", name, format);

    return error_set(error, ERROR_STALE, "plan", plan->id, reason ? reason : format);
}

/* Marks are in the order of names, in which all are walked. Who has another name has changed; so marks and those who are
 * not new go side by side. */
static int check_state(struct manager *manager, const struct optimize_plan *plan, struct error *error) {
    size_t count, seen = 0;
    struct instance *const *sorted = registry_sorted(manager, &count);

    if (plan->applied)
        return stale(error, plan, "it was applied already", "");
    if (clock_now() >= plan->expires)
        return stale(error, plan, "it expired", "");
    for (size_t i = 0; i < plan->mark_count; i++) {
        const struct instance *instance = registry_find(manager, plan->marks[i].uuid);
        if (!instance)
            return stale(error, plan, " is gone", plan->marks[i].name);
        if (optimize_hash(instance) != plan->marks[i].hash)
            return stale(error, plan, " has changed since", instance->name);
    }
    for (size_t i = 0; i < count; i++) {
        if (sorted[i]->uncommitted || sorted[i]->status.state == STATE_DELETED)
            continue;
        if (seen == plan->mark_count || !text_equal(plan->marks[seen].uuid, sorted[i]->assigned.uuid))
            return stale(error, plan, " was created since", sorted[i]->name);
        seen++;
    }
    return 0;
}

/* --- steps ---------------------------------------------------------------------------------------------- */

static char *resize_body(const struct optimize_step *step) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    char *text = NULL;

    emit_object(&emitter);
    emit_key(&emitter, "spec");
    emit_object(&emitter);
    if (step->step.cpus != step->cpus) {
        emit_key(&emitter, "cpus");
        emit_double(&emitter, (double) step->step.cpus / 1000);
        emit_key(&emitter, "cpu_limit");
        emit_double(&emitter, (double) step->cpu_limit / 1000);
    }
    if (step->step.memory != step->memory)
        emit_key_unsigned(&emitter, "memory", step->step.memory);
    if (step->step.memory != step->memory && step->memory_limit)
        emit_key_unsigned(&emitter, "memory_limit", step->memory_limit);
    emit_object_end(&emitter);
    emit_object_end(&emitter);
    return buffer_take(&buffer, &text) < 0 ? NULL : text;
}

/* `most`: what counted before this step. */
static void note_memory(struct instance *instance, const struct optimize_step *step, uint64_t most) {
    if (most == 0 && step->step.memory >= step->memory)
        return;
    instance->control.memory_most = most > 0 ? most : step->memory;
    instance->control.memory_left = step->step.memory;
    instance->control.memory_run = instance->status.started;
    manager_mark_dirty(instance->manager, instance);
}

static int do_resize(struct apply *apply, const struct optimize_step *step, const char *etag, struct error *error) {
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_free_ char *body = resize_body(step), *text = NULL;
    _cleanup_json_ struct json_object *json = NULL;
    struct instance *instance = registry_find(apply->manager, step->uuid);
    uint64_t most = instance ? optimize_memory_most(instance) : 0;
    int r = body ? json_parse(body, strlen(body), &json, error) : error_errno(error, -ENOMEM, "resizing");

    if (r >= 0)
        r = manager_instance_patch(apply->manager, &apply->actor, step->uuid, json, etag, false, &operation, &text,
                                   error);
    instance = r >= 0 ? registry_find(apply->manager, step->uuid) : NULL;
    if (instance)
        note_memory(instance, step, most);
    return r;
}

static int do_suspend(struct apply *apply, const struct optimize_step *step, const char *etag, struct error *error) {
    struct action_options options = { .if_match = etag, .timeout_ms = -1 };
    _cleanup_operation_ struct operation *operation = NULL;
    struct instance *instance;
    int r = manager_instance_action(apply->manager, &apply->actor, step->uuid, ACTION_SUSPEND, &options, &operation,
                                    error);

    if (r < 0)
        return r;
    r = operation_wait(operation, UINT64_MAX, deadline_in(STEP_DEADLINE));
    if (r < 0)
        return error_errno(error, r, "suspending %s", step->name);
    if (error_is_set(&operation->error)) {
        error_copy(error, &operation->error);
        return -error_number(operation->error.code);
    }
    instance = registry_find(apply->manager, step->uuid);
    if (instance)
        instance->use.changed = clock_now();
    return 0;
}

/* Is there still somebody for whom it should make room? */
static bool is_wanted(const struct apply *apply) {
    struct engine_explanation why;

    engine_explain(apply->manager->engine, apply->plan->waiter, &why);
    return why.standing == ENGINE_QUEUED && why.resource;
}

/* For `polder why`: which plan, by whom, when, and the step as it was planned. */
static void remember(const struct apply *apply, const struct optimize_step *step) {
    struct instance *instance = registry_find(apply->manager, step->uuid);
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    char time[CLOCK_TEXT_SIZE], *text = NULL;

    emit_object(&emitter);
    emit_key_text(&emitter, "applied", apply->plan->id); /* the ledger's lines are found by their first member */
    emit_key_text(&emitter, "plan", apply->plan->id);
    emit_key_text(&emitter, "id", step->uuid);
    emit_key_text(&emitter, "actor", apply->actor.name);
    emit_key_text(&emitter, "time", clock_format(clock_wall(), time));
    emit_key(&emitter, "step");
    emit_raw(&emitter, step->text);
    emit_object_end(&emitter);
    if (!instance || buffer_take(&buffer, &text) < 0)
        return;
    engine_note(apply->manager->engine, text);
    fiber_queue_wake_all(&apply->manager->scribe_queue);
    free(instance->use.done);
    instance->use.done = text;
}

/* 1: it was not needed any more. */
static int do_step(struct apply *apply, const struct optimize_step *step, struct error *error) {
    char etag[32];

    snprintf(etag, sizeof(etag), "\"%" PRIi64 "\"", step->generation);
    if (step->step.action == OPTIMIZER_RESIZE)
        return do_resize(apply, step, etag, error);
    if (step->step.action == OPTIMIZER_SUSPEND)
        return is_wanted(apply) ? do_suspend(apply, step, etag, error) : 1;
    return error_set(error, ERROR_NOT_SUPPORTED, "a single node", "moves", "there is nowhere to go");
}

static void emit_done(const struct optimize_step *step, int r, const struct error *error, struct emitter *emitter) {
    _cleanup_free_ char *sentence = r < 0 ? error_sentence(error, LANGUAGE_ENGLISH) : NULL;

    emit_object(emitter);
    emit_key_text(emitter, "instance", step->name);
    emit_key_text(emitter, "action", optimizer_actions[step->step.action]);
    emit_key_boolean(emitter, "done", r == 0);
    emit_key_text(emitter, "message", r == 0 ? NULL : r > 0 ? "not needed any more" : sentence);
    emit_object_end(emitter);
}

static int apply_body(struct operation *operation, void *userdata, struct error *error) {
    struct apply *apply = userdata;
    const struct optimize_plan *plan = apply->plan;
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    _cleanup_free_ char *object = text_format("plans/%s", plan->id);
    int r = object ? 0 : -ENOMEM;

    emit_object(&emitter);
    emit_key(&emitter, "steps");
    emit_array(&emitter);
    for (size_t i = 0; r >= 0 && i < plan->count; i++) {
        const struct optimize_step *step = &plan->steps[i];
        _cleanup_free_ char *what = text_format("%s %s", optimizer_actions[step->step.action], step->name);
        operation_progress(operation, what, i, plan->count);
        FAILPOINT("optimize-before-step");
        r = do_step(apply, step, error);
        if (r == 0)
            remember(apply, step);
        emit_done(step, r, error, &emitter);
    }
    emit_array_end(&emitter);
    emit_object_end(&emitter);
    (void) buffer_take(&buffer, &operation->result);
    r = r > 0 ? 0 : r;
    if (r >= 0)
        audit_note(apply->manager, &apply->actor, "optimize.apply", object ? object : "plans", "ok");
    return audit_refusal(apply->manager, &apply->actor, "optimize.apply", object ? object : "plans", r, error);
}

static int apply_new(struct manager *manager, const struct actor *actor, struct optimize_plan *plan, struct apply **ret) {
    struct apply *apply = calloc(1, sizeof(*apply));

    if (!apply)
        return -ENOMEM;
    apply->manager = manager;
    apply->plan = optimize_plan_ref(plan);
    apply->actor_name = strdup(actor->name);
    apply->actor = (struct actor){ .name = apply->actor_name, .origin = actor->origin, .role = actor->role };
    if (!apply->actor_name) {
        apply_free(apply);
        return -ENOMEM;
    }
    *ret = apply;
    return 0;
}

int manager_optimize_apply(struct manager *manager, const struct actor *actor, const char *id, struct operation **ret,
                           struct error *error) {
    struct optimize_plan *plan = optimize_plan_find(manager, id);
    _cleanup_free_ char *object = text_format("plans/%s", id);
    struct apply *apply;
    int r = authorise(actor, "default", PERMISSION_ADMIN, "optimize", error);

    if (r >= 0 && !plan)
        r = error_set(error, ERROR_NOT_FOUND, "plan", id);
    if (r >= 0)
        r = check_state(manager, plan, error);
    if (r >= 0 && !object)
        r = error_errno(error, -ENOMEM, "applying the plan");
    if (r >= 0) {
        r = apply_new(manager, actor, plan, &apply);
        if (r >= 0)
            r = operation_start(manager->operations, "optimize.apply", object, actor->name, apply_body, apply, apply_free,
                                ret);
        if (r < 0)
            return error_errno(error, r, "applying the plan");
        plan->applied = true;
        return 0;
    }
    return audit_refusal(manager, actor, "optimize.apply", object ? object : "plans", r, error);
}
