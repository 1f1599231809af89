// SPDX-License-Identifier: GPL-2.0-or-later
/* Requests that change an existing instance. A request sets the wish (power) and commits it; its operation then brings
 * the fact there under the instance's lock. A newer wish cancels an operation that merely waits for room. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/text.h"
#include "manager/internal.h"

struct action {
    struct manager *manager;
    struct instance *instance;
    struct actor actor;
    char *actor_name;
    enum instance_action action;
    struct action_options options;
};

static const struct {
    const char *name; /* operation type */
    enum permission permission;
    enum power power;
} actions[] = {
    [ACTION_START] = { "instance.start", PERMISSION_OPERATE, POWER_RUNNING },
    [ACTION_STOP] = { "instance.stop", PERMISSION_OPERATE, POWER_STOPPED },
    [ACTION_RESTART] = { "instance.restart", PERMISSION_OPERATE, POWER_RUNNING },
    [ACTION_PAUSE] = { "instance.pause", PERMISSION_OPERATE, POWER_PAUSED },
    [ACTION_RESUME] = { "instance.resume", PERMISSION_OPERATE, POWER_RUNNING },
    [ACTION_SUSPEND] = { "instance.suspend", PERMISSION_OPERATE, POWER_SUSPENDED },
    [ACTION_DELETE] = { "instance.delete", PERMISSION_CREATE, POWER_DELETED },
    [ACTION_UNDELETE] = { "instance.undelete", PERMISSION_CREATE, POWER_STOPPED },
};

static void action_free(void *userdata) {
    struct action *action = userdata;

    instance_unref(action->instance);
    free(action->actor_name);
    free(action);
}

static uint64_t stop_timeout(const struct action *action) {
    if (action->options.force)
        return 0;
    return action->options.timeout_ms >= 0 ? (uint64_t) action->options.timeout_ms : action->instance->spec.stop_timeout;
}

/* Repeating a request whose goal is reached is no error. */
static bool is_reached(const struct action *action) {
    enum state state = action->instance->status.state;

    switch (action->action) {
    case ACTION_START:
        return state == STATE_RUNNING || state == STATE_STARTING;
    case ACTION_STOP:
        return state == STATE_STOPPED || state == STATE_CREATED;
    case ACTION_PAUSE:
        return state == STATE_PAUSED;
    case ACTION_RESUME:
        return state == STATE_RUNNING;
    case ACTION_SUSPEND:
        return state == STATE_SUSPENDED;
    case ACTION_UNDELETE:
        return state != STATE_DELETED;
    default:
        return false;
    }
}

static int commit_power(struct action *action, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power;
    int r;

    instance->control.power = actions[action->action].power;
    r = manager_commit_instance(action->manager, instance, &action->actor, actions[action->action].name, false, NULL, 0,
                                error);
    if (r < 0)
        instance->control.power = before;
    return r;
}

/* --- what each action does; the lock is held ------------------------------------------------------------------------ */

static int do_start(struct action *action, struct operation *operation, struct error *error) {
    struct driver_start start = { .ret_stream = action->options.ret_stream, .terminal = action->options.terminal };
    int r;

    if (action->instance->status.state == STATE_PAUSED)
        return error_set(error, ERROR_WRONG_STATE, "paused", "start", "resume, stop");
    r = commit_power(action, error);
    if (r < 0)
        return r;
    action->instance->status.restarts = 0;
    action->instance->control.failures = 0;
    return run_start(action->instance, operation, &start, error);
}

static int do_stop(struct action *action, struct error *error) {
    int r = lifecycle_check(action->instance->status.state, EVENT_STOP, &(enum state){ 0 }, error);

    if (r >= 0)
        r = commit_power(action, error);
    return r < 0 ? r : run_stop_and_wait(action->instance, stop_timeout(action), error);
}

static int do_restart(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    int r = 0;

    if (state_is_active(instance->status.state)) {
        /* Wished stopped meanwhile, so that the end is not taken for a crash; the commit below is the wish. */
        instance->control.power = POWER_STOPPED;
        r = run_stop_and_wait(instance, stop_timeout(action), error);
    }
    if (r >= 0)
        r = do_start(action, operation, error);
    return r;
}

static int do_power(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power;
    int r = commit_power(action, error);

    if (r < 0)
        return r;
    if (action->action == ACTION_PAUSE)
        r = run_pause(instance, error);
    else if (action->action == ACTION_SUSPEND)
        r = run_suspend(instance, error);
    else
        r = run_resume(instance, operation, error);
    if (r < 0 && r != -ECANCELED) {
        instance->control.power = before;
        manager_mark_dirty(action->manager, instance);
    }
    return r;
}

static int to_trash(struct action *action, struct error *error) {
    struct manager *manager = action->manager;
    struct instance *instance = action->instance;
    _cleanup_free_ char *name_key = instance_name_key(instance->name);
    struct store_operation extra = { .type = STORE_DELETE, .key = name_key };
    enum state before = instance->status.state;
    int r;

    if (!name_key)
        return error_errno(error, -ENOMEM, "deleting");
    r = lifecycle_check(before, EVENT_DELETE, &(enum state){ 0 }, error);
    if (r < 0)
        return r;
    run_timer_cancel(instance);
    instance->control.power = POWER_DELETED;
    instance->control.deleted = clock_wall();
    instance->status.state = STATE_DELETED;
    FAILPOINT("delete-before-commit");
    r = manager_commit_instance(manager, instance, &action->actor, "instance.delete", false, &extra, 1, error);
    FAILPOINT("delete-after-commit");
    if (r < 0) {
        instance->status.state = before;
        instance->control.deleted = 0;
        instance->control.power = POWER_STOPPED;
        return r;
    }
    registry_hide(manager, instance);
    instance_touch(instance);
    events_publish(manager->events, "instance.deleted", instance->name, NULL);
    return run_release(instance, error);
}

static int do_delete(struct action *action, struct error *error) {
    struct instance *instance = action->instance;
    bool active = state_is_active(instance->status.state) || instance->status.state == STATE_QUEUED;
    int r = 0;

    if (active && !action->options.force)
        return error_set(error, ERROR_WRONG_STATE, state_name(instance->status.state), "delete",
                         "stop, or delete with force");
    if (active) {
        instance->control.power = POWER_DELETED;
        r = run_stop_and_wait(instance, 0, error);
    }
    if (r < 0 || instance->removed) /* --rm: its end has removed it already */
        return instance->removed ? 0 : r;
    if (action->options.purge || instance->spec.remove || action->manager->configuration.trash_seconds == 0)
        return run_purge(instance, &action->actor, error);
    return to_trash(action, error);
}

static int do_undelete(struct action *action, struct error *error) {
    struct manager *manager = action->manager;
    struct instance *instance = action->instance;
    int64_t deleted = (int64_t) instance->control.deleted;
    int r;

    if (map_get(manager->by_name, instance->name))
        return error_set(error, ERROR_EXISTS, "instance", instance->name);
    r = registry_show(manager, instance);
    if (r < 0)
        return error_errno(error, r, "undeleting");
    instance->status.state = STATE_STOPPED;
    instance->control.power = POWER_STOPPED;
    instance->control.deleted = 0;
    r = manager_commit_instance(manager, instance, &action->actor, "instance.undelete", true, NULL, 0, error);
    if (r < 0) {
        registry_hide(manager, instance);
        instance->status.state = STATE_DELETED;
        instance->control.power = POWER_DELETED;
        instance->control.deleted = (uint64_t) deleted;
        return r;
    }
    instance_touch(instance);
    events_publish(manager->events, "instance.undeleted", instance->name, NULL);
    return 0;
}

static int act(struct action *action, struct operation *operation, struct error *error) {
    if (is_reached(action))
        return action->options.ret_stream
                   ? action->instance->driver->attach(action->instance->driver_data, &action->instance->view,
                                                      action->options.ret_stream, error)
                   : 0;
    switch (action->action) {
    case ACTION_START:
        return do_start(action, operation, error);
    case ACTION_STOP:
        return do_stop(action, error);
    case ACTION_RESTART:
        return do_restart(action, operation, error);
    case ACTION_DELETE:
        return do_delete(action, error);
    case ACTION_UNDELETE:
        return do_undelete(action, error);
    default:
        return do_power(action, operation, error);
    }
}

static int action_body(struct operation *operation, void *userdata, struct error *error) {
    struct action *action = userdata;
    struct instance *instance = action->instance;
    int r = fiber_mutex_lock(&instance->lock, DEADLINE_NONE);

    if (r < 0)
        return r;
    if (instance->removed)
        r = action->action == ACTION_DELETE ? 0 : error_set(error, ERROR_NOT_FOUND, "instance", instance->name);
    else {
        instance->operation = operation;
        r = act(action, operation, error);
        if (instance->operation == operation)
            instance->operation = NULL;
    }
    fiber_mutex_unlock(&instance->lock);
    if (r < 0)
        (void) error_subject(error, "instance", instance->name);
    return audit_refusal(action->manager, &action->actor, actions[action->action].name, instance->name, r, error);
}

/* A wish that takes back one that is still waiting or starting cancels it, so that the lock comes free. */
static void supersede(struct instance *instance, enum instance_action action) {
    bool ends = action == ACTION_STOP || action == ACTION_DELETE;
    enum state state = instance->status.state;

    if (!ends || !instance->operation || (state != STATE_QUEUED && state != STATE_STARTING))
        return;
    instance->control.power = actions[action].power;
    operation_cancel(instance->operation);
}

static int check_match(const struct instance *instance, const char *if_match, struct error *error) {
    char etag[32];

    if (!if_match || text_equal(if_match, "*"))
        return 0;
    snprintf(etag, sizeof(etag), "\"%" PRIi64 "\"", instance->assigned.generation);
    if (text_equal(if_match, etag))
        return 0;
    return error_set(error, ERROR_CHANGED, "instance", instance->name);
}

static int action_new(struct manager *manager, const struct actor *actor, struct instance *instance,
                      enum instance_action kind, const struct action_options *options, struct action **ret) {
    struct action *action = calloc(1, sizeof(*action));

    if (!action)
        return -ENOMEM;
    action->manager = manager;
    action->instance = instance_ref(instance);
    action->actor_name = strdup(actor->name);
    action->actor = (struct actor){ .name = action->actor_name, .origin = actor->origin, .role = actor->role };
    action->action = kind;
    action->options = *options;
    if (!action->actor_name) {
        action_free(action);
        return -ENOMEM;
    }
    *ret = action;
    return 0;
}

static int action_submit(struct manager *manager, const struct actor *actor, const char *name,
                         enum instance_action kind, const struct action_options *options, struct operation **ret,
                         struct error *error) {
    bool trash = kind == ACTION_UNDELETE || (kind == ACTION_DELETE && options->purge);
    struct instance *instance;
    struct action *action;
    _cleanup_free_ char *object = NULL;
    int r = authorise(actor, "default", actions[kind].permission, name, error);

    if (r >= 0)
        r = registry_lookup(manager, name, trash, &instance, error);
    if (r >= 0)
        r = check_match(instance, options->if_match, error);
    if (r < 0)
        return r;
    if (options->dry_run)
        return 0;
    object = text_format("instances/%s", instance->name);
    r = object ? action_new(manager, actor, instance, kind, options, &action) : -ENOMEM;
    if (r < 0)
        return error_errno(error, r, "%s", actions[kind].name);
    supersede(instance, kind);
    r = operation_start(manager->operations, actions[kind].name, object, actor->name, action_body, action, action_free,
                        ret);
    return r < 0 ? error_errno(error, r, "%s", actions[kind].name) : 0;
}

int manager_instance_action(struct manager *manager, const struct actor *actor, const char *name,
                            enum instance_action kind, const struct action_options *options, struct operation **ret,
                            struct error *error) {
    int r = action_submit(manager, actor, name, kind, options, ret, error);

    if (r < 0)
        return audit_refusal(manager, actor, actions[kind].name, name, r, error);
    if (!options->ret_stream || options->dry_run)
        return 0;
    /* The stream belongs to this caller's stack: it must stay until the operation is over. */
    r = operation_wait(*ret, UINT64_MAX, DEADLINE_NONE);
    if (r < 0) {
        operation_cancel(*ret);
        fiber_shield();
        (void) operation_wait(*ret, UINT64_MAX, DEADLINE_NONE);
        fiber_unshield();
    }
    if (error_is_set(&(*ret)->error)) {
        error_copy(error, &(*ret)->error);
        return -error_number((*ret)->error.code);
    }
    return r;
}

/* --- change of the spec ---------------------------------------------------------------------------------------------- */

struct patch {
    struct instance_spec after; /* the whole new spec */
    char *name;                 /* new name or NULL */
    char *old_name_key;
};

static void patch_done(struct patch *patch) {
    table_done(&instance_spec_table, &patch->after);
    free(patch->name);
    free(patch->old_name_key);
}

/* Takes {"spec":{…}} and/or {"name":"…"}; anything else in the body is refused by name. */
static int patch_decode(struct instance *instance, struct json_object *body, struct patch *ret, struct error *error) {
    static const char *const parts[] = { "name", "spec", NULL };
    struct json_object *spec = json_member(body, "spec");
    const char *name = json_text(body, "name", NULL);
    int r = json_only(body, "instance", parts, error);

    if (r >= 0 && name && !text_equal(name, instance->name)) {
        r = name_check(name, error);
        if (r >= 0 && map_get(instance->manager->by_name, name))
            r = error_set(error, ERROR_EXISTS, "instance", name);
        if (r >= 0) {
            ret->name = strdup(name);
            r = ret->name ? 0 : -ENOMEM;
        }
    }
    if (r >= 0)
        r = table_copy(&instance_spec_table, &instance->spec, &ret->after);
    if (r >= 0 && spec)
        r = table_decode(&instance_spec_table, spec, DECODE_MERGE, &ret->after, error);
    if (r >= 0 && spec)
        instance_spec_complete(&ret->after, instance->assigned.kind, spec, DECODE_MERGE);
    return r;
}

static int patch_check(struct instance *instance, const struct patch *patch, struct error *error) {
    enum state state = instance->status.state;
    bool running = state_is_active(state) || state == STATE_SUSPENDED || state == STATE_QUEUED;
    const struct field *frozen = table_first_frozen(&instance_spec_table, &instance->spec, &patch->after, running);

    if (frozen)
        return error_set(error, ERROR_FROZEN_FIELD, frozen->name,
                         frozen->change == CHANGE_STOPPED ? "while the instance runs" : "after the instance was created");
    if (patch->name && running)
        return error_set(error, ERROR_FROZEN_FIELD, "name", "while the instance runs");
    return 0;
}

static int apply_live(struct instance *instance, const struct instance_spec *before, struct error *error) {
    struct cgroup_limits limits;
    int r = 0;

    if (!state_is_active(instance->status.state))
        return 0;
    if (instance->view.cgroup) {
        run_limits(instance, &limits);
        r = cgroup_set_limits(instance->view.cgroup, &limits, error);
    }
    if (r >= 0 && instance->driver->change)
        r = instance->driver->change(instance->driver_data, &instance->view, before, error);
    if (r >= 0 && before->timeout != instance->spec.timeout) {
        run_timer_cancel(instance);
        r = run_arm_timeout(instance);
    }
    if (r >= 0) { /* more or less room is held now */
        engine_release(instance->manager->engine, instance->assigned.uuid);
        run_occupy(instance);
        admission_run(instance->manager);
    }
    return r;
}

static int patch_store(struct instance *instance, const struct actor *actor, const struct patch *patch,
                       struct error *error) {
    struct store_operation extra = { .type = STORE_DELETE, .key = patch->old_name_key };

    return manager_commit_instance(instance->manager, instance, actor, "instance.change", patch->name != NULL, &extra,
                                   patch->name ? 1 : 0, error);
}

/* The new spec is in place while it is checked and committed, and the old one comes back if that fails. */
static int patch_commit(struct instance *instance, const struct actor *actor, struct patch *patch, bool dry_run,
                        char **ret_text, struct error *error) {
    struct instance_spec before = instance->spec;
    _cleanup_free_ char *old_name = strdup(instance->name);
    int r;

    patch->old_name_key = instance_name_key(instance->name);
    if (!old_name || !patch->old_name_key)
        return error_errno(error, -ENOMEM, "changing");
    instance->spec = patch->after;
    instance->assigned.generation++;
    r = instance_admissible(instance->manager, instance, error);
    if (r >= 0 && dry_run) {
        instance_touch(instance);
        *ret_text = strdup(instance_text(instance));
    }
    if (r >= 0 && !dry_run && patch->name)
        r = registry_rename(instance->manager, instance, patch->name);
    if (r >= 0 && !dry_run)
        r = patch_store(instance, actor, patch, error);
    if (r >= 0 && !dry_run)
        r = apply_live(instance, &before, error);
    if (r < 0 || dry_run) {
        if (!text_equal(old_name, instance->name))
            (void) registry_rename(instance->manager, instance, old_name);
        instance->spec = before;
        instance->assigned.generation--;
        manager_mark_dirty(instance->manager, instance);
    } else {
        patch->after = before; /* patch_done frees the old one */
    }
    instance_touch(instance);
    return r;
}

static int patch_run(struct manager *manager, const struct actor *actor, struct instance *instance,
                     struct json_object *body, const char *if_match, bool dry_run, char **ret_text,
                     struct error *error) {
    struct patch patch = { 0 };
    int r = fiber_mutex_lock(&instance->lock, deadline_in(60 * CLOCK_SECOND));

    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_BUSY, "the instance", "another operation is under way");
    if (r < 0)
        return r;
    if (instance->removed)
        r = error_set(error, ERROR_NOT_FOUND, "instance", instance->name);
    if (r >= 0)
        r = check_match(instance, if_match, error);
    if (r >= 0)
        r = patch_decode(instance, body, &patch, error);
    if (r >= 0)
        r = patch_check(instance, &patch, error);
    if (r >= 0)
        r = patch_commit(instance, actor, &patch, dry_run, ret_text, error);
    patch_done(&patch);
    fiber_mutex_unlock(&instance->lock);
    if (r >= 0 && !dry_run) {
        const char *text = instance_text(instance);
        *ret_text = text ? strdup(text) : NULL;
        events_publish(manager->events, "instance.changed", instance->name, NULL);
    }
    return r;
}

static int changed_body(struct operation *operation _unused_, void *userdata _unused_, struct error *error _unused_) {
    return 0;
}

int manager_instance_patch(struct manager *manager, const struct actor *actor, const char *name,
                           struct json_object *body, const char *if_match, bool dry_run, struct operation **ret,
                           char **ret_text, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    struct instance *found;
    _cleanup_free_ char *object = text_format("instances/%s", name);
    int r = authorise(actor, "default", PERMISSION_CREATE, name, error);

    *ret_text = NULL;
    if (r >= 0)
        r = registry_lookup(manager, name, false, &found, error);
    if (r >= 0) {
        instance = instance_ref(found);
        r = patch_run(manager, actor, instance, body, if_match, dry_run, ret_text, error);
        if (r < 0)
            (void) error_subject(error, "instance", instance->name);
    }
    if (r >= 0 && !dry_run)
        r = object ? operation_start(manager->operations, "instance.change", object, actor->name, changed_body, NULL, NULL,
                                     ret)
                   : -ENOMEM;
    return audit_refusal(manager, actor, "instance.change", name, r, error);
}
