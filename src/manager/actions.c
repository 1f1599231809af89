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

#define END_DEADLINE (60 * CLOCK_SECOND) /* to work off an end that the driver told of */

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
    enum lifecycle_event event;
} actions[] = {
    [ACTION_START] = { "instance.start", PERMISSION_OPERATE, POWER_RUNNING, EVENT_START },
    [ACTION_STOP] = { "instance.stop", PERMISSION_OPERATE, POWER_STOPPED, EVENT_STOP },
    [ACTION_RESTART] = { "instance.restart", PERMISSION_OPERATE, POWER_RUNNING, EVENT_START },
    [ACTION_PAUSE] = { "instance.pause", PERMISSION_OPERATE, POWER_PAUSED, EVENT_PAUSE },
    [ACTION_RESUME] = { "instance.resume", PERMISSION_OPERATE, POWER_RUNNING, EVENT_RESUME },
    [ACTION_SUSPEND] = { "instance.suspend", PERMISSION_OPERATE, POWER_SUSPENDED, EVENT_SUSPEND },
    [ACTION_DELETE] = { "instance.delete", PERMISSION_CREATE, POWER_DELETED, EVENT_DELETE },
    [ACTION_UNDELETE] = { "instance.undelete", PERMISSION_CREATE, POWER_STOPPED, EVENT_UNDELETE },
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

/* Repeating a request whose goal is reached is no error. Both count: the fact, and that the wish is durable. */
static bool is_reached(const struct action *action) {
    const struct instance *instance = action->instance;
    enum state state = instance->status.state;

    if (action->action == ACTION_UNDELETE)
        return state != STATE_DELETED;
    if (action->action == ACTION_RESTART || instance->control.power != (int) actions[action->action].power ||
        instance->dirty || instance->in_flight)
        return false;
    switch (action->action) {
    case ACTION_START:
    case ACTION_RESUME:
        return state == STATE_RUNNING;
    case ACTION_STOP:
        return (state == STATE_STOPPED || state == STATE_CREATED) && !instance->timer;
    case ACTION_PAUSE:
        return state == STATE_PAUSED;
    case ACTION_SUSPEND:
        return state == STATE_SUSPENDED;
    case ACTION_DELETE:
        return state == STATE_DELETED && !action->options.purge;
    default:
        return false;
    }
}

/* May this be asked for in this state? WRONG_STATE tells what may. */
static int check_state(const struct instance *instance, enum instance_action action,
                       const struct action_options *options, struct error *error) {
    enum state state = instance->status.state;

    if (action == ACTION_RESTART && state_is_active(state))
        return 0;
    if (action == ACTION_RESUME && state == STATE_RUNNING)
        return 0; /* as it is wished */
    if (action == ACTION_DELETE && state_is_active(state))
        return options->force ? 0 : error_set(error, ERROR_WRONG_STATE, state_name(state), "delete",
                                              "stop, or delete with force");
    return lifecycle_check(state, actions[action].event, &(enum state){ 0 }, error);
}

static int check_action(const struct instance *instance, enum instance_action action,
                        const struct action_options *options, struct error *error) {
    int r = check_state(instance, action, options, error);

    if (r >= 0 && action == ACTION_PAUSE)
        r = run_require(instance, DRIVER_PAUSE, "pause", error);
    if (r >= 0 && action == ACTION_SUSPEND)
        r = run_require(instance, DRIVER_SUSPEND, "suspend", error);
    if (r >= 0 && (action == ACTION_START || action == ACTION_RESTART || action == ACTION_RESUME))
        r = manager_driver_available(instance->manager, instance->assigned.kind, error);
    return r;
}

/* The wish becomes durable, with its audit record. What frees room may use the reserve of a full disk. */
static int commit_wish(struct action *action, enum power power, const char *name, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power;
    bool urgent = power == POWER_STOPPED || power == POWER_DELETED;
    int r;

    instance->control.power = power;
    r = manager_commit_instance(action->manager, instance, &action->actor, name, urgent ? COMMIT_URGENT : 0, NULL, 0,
                                error);
    if (r < 0)
        instance->control.power = before;
    return r;
}

static int commit_power(struct action *action, struct error *error) {
    return commit_wish(action, actions[action->action].power, actions[action->action].name, error);
}

/* The request failed: the wish goes back, unless a newer request has set it. */
static void wish_back(struct action *action, enum power wished, enum power before) {
    struct instance *instance = action->instance;

    if (instance->removed || instance->control.power != (int) wished)
        return;
    instance->control.power = before;
    manager_mark_dirty(action->manager, instance);
}

/* --- what each action does; the lock is held ------------------------------------------------------------------------ */

static int do_start(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    struct driver_start start = { .ret_stream = action->options.ret_stream, .terminal = action->options.terminal };
    enum power before = instance->control.power;
    int r = commit_power(action, error);

    if (r < 0)
        return r;
    if (instance->status.state == STATE_RUNNING)
        return 0;
    instance->status.restarts = 0;
    instance->control.failures = 0;
    FAILPOINT("start-after-commit");
    return run_start_wished(instance, operation, &start, before, error);
}

/* It did not end in time, but it was killed: it ends as soon as the host's storage lets it, and as it was wished. */
static bool is_killed(int r) {
    return r == -ETIMEDOUT;
}

/* A guest may take its time to shut down: who waits is told until when. */
static void tell_shutdown(const struct action *action, struct operation *operation) {
    _cleanup_free_ char *time = NULL, *step = NULL;

    if (action->instance->assigned.kind != KIND_VM || !state_is_active(action->instance->status.state) ||
        stop_timeout(action) == 0)
        return;
    time = text_format_duration(stop_timeout(action));
    step = time ? text_format("the guest shuts down; after %s its power is cut", time) : NULL;
    if (step)
        operation_progress(operation, step, 0, 0);
}

static int do_stop(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power;
    int r = commit_power(action, error);

    FAILPOINT("stop-after-commit");
    if (r < 0)
        return r;
    tell_shutdown(action, operation);
    r = run_stop_and_wait(instance, stop_timeout(action), error);
    if (r < 0 && !is_killed(r) && state_is_active(instance->status.state))
        wish_back(action, POWER_STOPPED, before);
    return r;
}

static int restart_stop(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    int r;

    tell_shutdown(action, operation);
    instance->handover = true;
    r = run_stop_and_wait(instance, stop_timeout(action), error);
    instance->handover = false;
    FAILPOINT("restart-after-stop");
    if (r >= 0 && (instance->removed || instance->control.power != POWER_RUNNING))
        r = error_set(error, ERROR_CANCELED, "the restart");
    return r;
}

/* The wish is "running" all the time: if we die after the stop, the next start of polderd starts it. */
static int do_restart(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power;
    int r;

    instance->control.restarting = state_is_active(instance->status.state);
    r = commit_power(action, error);
    FAILPOINT("restart-after-commit");
    if (r >= 0 && instance->control.restarting) {
        r = restart_stop(action, operation, error);
        if (r < 0)
            wish_back(action, POWER_RUNNING, state_is_active(instance->status.state) ? before : POWER_STOPPED);
    }
    if (r >= 0 && !state_is_active(instance->status.state))
        r = run_start_wished(instance, operation, NULL, before == POWER_RUNNING ? POWER_RUNNING : POWER_STOPPED, error);
    if (instance->control.restarting) {
        instance->control.restarting = false;
        manager_mark_dirty(action->manager, instance);
    }
    return r;
}

static int removed(const struct action *action, struct error *error) {
    return action->action == ACTION_DELETE ? 0 : error_set(error, ERROR_NOT_FOUND, "instance", action->instance->name);
}

/* It ended by itself while it was to be paused: then that is the reason, whatever the driver said. It may be gone by
 * now, or run again. */
static int end_came(struct action *action, int r, struct error *error) {
    struct instance *instance = action->instance;
    int waited = instance->ends > 0 ? run_wait_rest(instance, deadline_in(END_DEADLINE)) : -ENOENT;

    if (waited < 0 && waited != -ECANCELED)
        return r;
    error_clear(error);
    if (waited == -ECANCELED)
        return error_set(error, ERROR_CANCELED, "the request");
    if (instance->removed)
        return removed(action, error);
    if (check_state(instance, action->action, &action->options, error) >= 0)
        (void) lifecycle_check(STATE_STOPPED, actions[action->action].event, &(enum state){ 0 }, error);
    return -error_number(error->code);
}

static int do_power(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power, wished = actions[action->action].power;
    int r = commit_power(action, error);

    if (r < 0)
        return r;
    FAILPOINT("power-after-commit");
    if (action->action == ACTION_PAUSE)
        r = run_pause(instance, error);
    else if (action->action == ACTION_SUSPEND)
        r = run_suspend(instance, error);
    else if (instance->status.state != STATE_RUNNING)
        r = run_resume(instance, operation, before, error);
    if (r < 0 && instance->status.state != STATE_SUSPENDED)
        wish_back(action, wished, before);
    return r < 0 ? end_came(action, r, error) : r;
}

static int do_delete(struct action *action, struct error *error) {
    struct instance *instance = action->instance;
    enum power before = instance->control.power;
    bool purge = action->options.purge;
    int r = 0;

    if (state_is_active(instance->status.state) || instance->status.state == STATE_QUEUED) {
        instance->control.purge = purge;
        r = commit_wish(action, POWER_DELETED, "instance.stop", error);
        FAILPOINT("delete-after-wish");
        if (r < 0)
            return r;
        instance->handover = true;
        r = run_stop_and_wait(instance, 0, error);
        instance->handover = false;
        if (instance->removed)
            return 0;
        if (r < 0) {
            if (!is_killed(r))
                wish_back(action, POWER_DELETED, before);
            return r;
        }
        if (instance->control.power != POWER_DELETED) /* a newer wish came while it stopped */
            return error_set(error, ERROR_CANCELED, "the delete");
    }
    return instance_discard(instance, &action->actor, purge, error);
}

static int do_undelete(struct action *action, struct error *error) {
    struct manager *manager = action->manager;
    struct instance *instance = action->instance;
    _cleanup_free_ char *object = instance_object(instance->name);
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
    FAILPOINT("undelete-before-commit");
    r = manager_commit_instance(manager, instance, &action->actor, "instance.undelete", COMMIT_NAME, NULL, 0, error);
    FAILPOINT("undelete-after-commit");
    if (r < 0) {
        registry_hide(manager, instance);
        instance->status.state = STATE_DELETED;
        instance->control.power = POWER_DELETED;
        instance->control.deleted = (uint64_t) deleted;
        return r;
    }
    instance_touch(instance);
    events_publish(manager->events, "instance.undeleted", object ? object : "instances", NULL);
    return 0;
}

static int reached(struct action *action, struct error *error) {
    struct instance *instance = action->instance;
    int r = 0;

    if (action->options.ret_stream)
        r = instance->driver && instance->driver->attach
                ? instance->driver->attach(instance->driver_data, &instance->view, action->options.ret_stream, error)
                : run_require(instance, DRIVER_ATTACH, "attach", error);
    if (r >= 0)
        audit_instance(action->manager, &action->actor, actions[action->action].name, instance->name, 0, NULL);
    return r;
}

static int act(struct action *action, struct operation *operation, struct error *error) {
    struct instance *instance = action->instance;
    int r = instance->ends > 0 ? run_wait_rest(instance, deadline_in(END_DEADLINE)) : 0;

    if (r < 0)
        return error_errno(error, r, "waiting for its end");
    if (instance->removed)
        return removed(action, error);
    if (is_reached(action))
        return reached(action, error);
    r = check_action(action->instance, action->action, &action->options, error);
    if (r < 0)
        return r;
    switch (action->action) {
    case ACTION_START:
        return do_start(action, operation, error);
    case ACTION_STOP:
        return do_stop(action, operation, error);
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
    if (instance->removed) {
        r = removed(action, error);
    } else {
        instance->operation = operation;
        r = adopt_reach(instance, error);
        if (r >= 0 && instance->removed)
            r = removed(action, error);
        else if (r >= 0)
            r = act(action, operation, error);
        if (instance->operation == operation)
            instance->operation = NULL;
    }
    fiber_mutex_unlock(&instance->lock);
    if (r < 0) {
        (void) error_subject(error, "instance", instance->name);
        audit_instance(action->manager, &action->actor, actions[action->action].name, instance->name, r, error);
        instance_settle(instance);
    }
    return r;
}

/* A wish that takes back one that is still waiting, starting or being suspended cancels it, so that the lock comes
 * free; one by force waits for nothing that is under way, a gentle stop neither. */
static void supersede(struct instance *instance, enum instance_action action, const struct action_options *options) {
    enum state state = instance->status.state;
    bool stop = action == ACTION_STOP || options->force;

    if (action != ACTION_STOP && action != ACTION_DELETE)
        return;
    if (instance->starter && (state == STATE_QUEUED || (state == STATE_STARTING && stop))) {
        instance->control.power = actions[action].power;
        fiber_cancel(instance->starter);
    } else if (instance->operation && (options->force || (state == STATE_SUSPENDING && stop))) {
        operation_cancel(instance->operation);
    }
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

/* A name in the trash means the one there for undelete; else the living come first. */
static int action_find(struct manager *manager, const char *name, enum instance_action kind,
                       const struct action_options *options, struct instance **ret, struct error *error) {
    if (kind == ACTION_UNDELETE) {
        *ret = registry_find_in_trash(manager, name);
        if (*ret)
            return 0;
    }
    return registry_lookup(manager, name, kind == ACTION_DELETE && options->purge, ret, error);
}

static int action_submit(struct manager *manager, const struct actor *actor, const char *name,
                         enum instance_action kind, const struct action_options *options, struct operation **ret,
                         struct error *error) {
    struct instance *instance;
    struct action *action;
    _cleanup_free_ char *object = NULL;
    int r = authorise(actor, "default", actions[kind].permission, name, error);

    if (r >= 0)
        r = action_find(manager, name, kind, options, &instance, error);
    if (r >= 0)
        r = check_match(instance, options->if_match, error);
    if (r < 0)
        return r;
    object = instance_object(instance->name);
    r = object ? action_new(manager, actor, instance, kind, options, &action) : -ENOMEM;
    if (r < 0)
        return error_errno(error, r, "%s", actions[kind].name);
    /* Where nothing is under way, what cannot be done is refused at once; else it is judged when its turn comes. */
    if (options->dry_run || (!instance->lock.owner && instance->ends == 0)) {
        r = is_reached(action) ? 0 : check_action(instance, kind, options, error);
        if (r < 0)
            (void) error_subject(error, "instance", instance->name);
    }
    if (r < 0 || options->dry_run) {
        action_free(action);
        return r;
    }
    supersede(instance, kind, options);
    r = operation_start(manager->operations, actions[kind].name, object, actor->name, action_body, action, action_free,
                        ret);
    return r < 0 ? error_errno(error, r, "%s", actions[kind].name) : 0;
}

int manager_instance_action(struct manager *manager, const struct actor *actor, const char *name,
                            enum instance_action kind, const struct action_options *options, struct operation **ret,
                            struct error *error) {
    int r = action_submit(manager, actor, name, kind, options, ret, error);

    if (r < 0) {
        audit_instance(manager, actor, actions[kind].name, name, r, error);
        return r;
    }
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
    char *medium;               /* digest of the medium it had; after a failure, of the one it did not get */
    char *old_name_key;
};

static void patch_done(struct patch *patch) {
    table_done(&instance_spec_table, &patch->after);
    free(patch->name);
    free(patch->medium);
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
    static const char stop_first[] = "while the instance runs: stop it first";
    enum state state = instance->status.state;
    bool running = state_is_active(state) || state == STATE_SUSPENDED || state == STATE_QUEUED;
    const struct field *frozen = table_first_frozen(&instance_spec_table, &instance->spec, &patch->after, running);

    if (state == STATE_DELETED)
        return error_set(error, ERROR_WRONG_STATE, state_name(state), "change", "undelete, delete");
    if (frozen)
        return error_set(error, ERROR_FROZEN_FIELD, frozen->name,
                         frozen->change == CHANGE_STOPPED ? stop_first : "after the instance was created");
    if (patch->name && running)
        return error_set(error, ERROR_FROZEN_FIELD, "name", stop_first);
    return 0;
}

static int limits_apply(struct instance *instance, struct error *error) {
    struct cgroup_limits limits;
    int r;

    if (!instance->view.cgroup)
        return 0;
    allocation_settle(instance);
    instance->share.scheduler = 0; /* the next pass looks at it beside the others */
    run_limits(instance, &limits);
    r = cgroup_set_limits(instance->view.cgroup, &limits, error);
    if (r >= 0)
        allocation_applied(instance, &limits);
    allocation_changed(instance->manager);
    return r;
}

/* From what the network was told of one that runs to what its spec says now. */
static int rates_apply(struct instance *instance, const struct instance_spec *before, struct error *error) {
    const struct instance_spec *spec = &instance->spec;
    struct network *network = instance->manager->network;
    struct network_member member;

    if (!network || !instance->assigned.address ||
        (before->network_in == spec->network_in && before->network_out == spec->network_out))
        return 0;
    member = network_member_of(instance->name, &instance->assigned, spec);
    return network_update(network, &member, error);
}

/* The new spec is in place. Room is taken before anything on the host changes. The driver comes before the limits: a
 * machine has to give memory back before its group may hold less. What its driver did would stay if a rate were
 * refused after it, so the rates come first. */
static int apply_live(struct instance *instance, const struct instance_spec *before, struct error *error) {
    int r = room_change(instance, error);

    if (r < 0 || !state_is_active(instance->status.state))
        return r;
    r = rates_apply(instance, before, error);
    if (r >= 0 && instance->driver && instance->driver->change)
        r = instance->driver->change(instance->driver_data, &instance->view, before, error);
    if (r >= 0)
        r = limits_apply(instance, error);
    if (r >= 0 && before->timeout != instance->spec.timeout)
        r = run_arm_timeout(instance);
    return r;
}

/* The old spec is in place again. */
static void apply_back(struct instance *instance, const struct instance_spec *tried) {
    (void) room_change(instance, NULL);
    if (!state_is_active(instance->status.state))
        return;
    fiber_shield();
    (void) rates_apply(instance, tried, NULL);
    fiber_unshield();
    (void) reservation_take(instance, NULL);
    (void) limits_apply(instance, NULL);
}

static int patch_store(struct instance *instance, const struct actor *actor, const struct patch *patch,
                       struct error *error) {
    struct store_operation extra = { .type = STORE_DELETE, .key = patch->old_name_key };
    int r;

    FAILPOINT("change-before-commit");
    r = manager_commit_instance(instance->manager, instance, actor, "instance.change", patch->name ? COMMIT_NAME : 0,
                                &extra, patch->name ? 1 : 0, error);
    FAILPOINT("change-after-commit");
    return r;
}

/* Room first, since that may be refused; then the record; then the host. What fails on the host takes the record back.
 * A generation that others may have seen is not used again. */
static int patch_apply(struct instance *instance, const struct actor *actor, struct patch *patch,
                       const struct instance_spec *before, struct error *error) {
    _cleanup_free_ char *old_name = strdup(instance->name);
    int r = old_name ? room_change(instance, error) : error_errno(error, -ENOMEM, "changing");

    if (r >= 0 && state_is_active(instance->status.state))
        r = reservation_take(instance, error);
    if (r >= 0 && patch->name)
        r = registry_rename(instance->manager, instance, patch->name);
    if (r >= 0) {
        r = patch_store(instance, actor, patch, error);
        if (r < 0 && patch->name)
            (void) registry_rename(instance->manager, instance, old_name);
    }
    return r < 0 ? r : apply_live(instance, before, error);
}

/* Only another name brings another medium: a tag that moved meanwhile does not. */
static int patch_medium(struct instance *instance, struct patch *patch, const struct instance_spec *before, bool *ret_changed,
                        struct error *error) {
    int r;

    if (text_equal(instance->spec.cdrom ? instance->spec.cdrom : "", before->cdrom ? before->cdrom : ""))
        return 0;
    r = medium_insert(instance, &patch->medium, error);
    if (r < 0)
        return r;
    *ret_changed = true;
    r = instance_pin(instance);
    return r < 0 ? error_errno(error, r, "keeping the medium") : 0;
}

/* The new spec is in place while it is checked and committed, and the old one comes back if that fails. */
static int patch_commit(struct instance *instance, const struct actor *actor, struct patch *patch, bool dry_run,
                        char **ret_text, struct error *error) {
    struct instance_spec before = instance->spec;
    bool reinserted = false;
    int r;

    patch->old_name_key = instance_name_key(instance->name);
    if (!patch->old_name_key)
        return error_errno(error, -ENOMEM, "changing");
    instance->spec = patch->after;
    instance->assigned.generation++;
    r = instance_admissible(instance->manager, instance, patch->name ? patch->name : instance->name, error);
    /* A circle that others closed since is no reason to refuse what has nothing to do with it. */
    if (r >= 0 && !(list_equal(before.labels, instance->spec.labels) && list_equal(before.affinity, instance->spec.affinity)))
        r = affinity_check(instance->manager, instance, error);
    if (r >= 0)
        r = placement_possible(instance->manager, instance, &before, error);
    if (r >= 0)
        r = patch_medium(instance, patch, &before, &reinserted, error);
    if (r >= 0 && dry_run) {
        const char *text;
        instance_touch(instance);
        text = instance_text(instance);
        *ret_text = text ? strdup(text) : NULL;
    }
    if (r < 0 || dry_run)
        instance->assigned.generation--;
    else
        r = patch_apply(instance, actor, patch, &before, error);
    if (r >= 0 && !dry_run) {
        patch->after = before; /* patch_done frees the old one */
    } else {
        char *tried = instance->assigned.cdrom_digest;
        instance->spec = before;
        if (reinserted) {
            instance->assigned.cdrom_digest = patch->medium;
            patch->medium = tried;
        }
        if (!dry_run) {
            apply_back(instance, &patch->after);
            manager_mark_dirty(instance->manager, instance);
        }
    }
    medium_let_go(instance, patch->medium);
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
        _cleanup_free_ char *object = instance_object(instance->name);
        *ret_text = text ? strdup(text) : NULL;
        events_publish(manager->events, "instance.changed", object ? object : "instances", NULL);
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
    _cleanup_free_ char *object = instance_object(name);
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
    if (r < 0)
        audit_instance(manager, actor, "instance.change", name, r, error);
    return r;
}
