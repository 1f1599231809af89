// SPDX-License-Identifier: GPL-2.0-or-later
/* What reaches into a running instance: signals, exec, attach, console, files, VNC, logs, and waiting for a state. None
 * of these holds the instance's lock while it waits for a guest. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

struct reach {
    const char *verb;
    enum permission permission;
    unsigned capability;
    unsigned at_rest; /* capability that lets it reach instances that do not run; 0: none */
    const char *lacking; /* why a driver may not do it, and what to do instead */
};

static const struct reach reach_signal = { "signal", PERMISSION_OPERATE, DRIVER_SIGNAL, 0, NULL };
static const struct reach reach_exec = { "exec", PERMISSION_EXEC, DRIVER_EXEC, 0, NULL };
static const struct reach reach_attach = { "attach", PERMISSION_EXEC, DRIVER_ATTACH, 0, NULL };
static const struct reach reach_console = { "console", PERMISSION_EXEC, DRIVER_CONSOLE, 0,
                                            "it has no serial port; 'polder attach' reaches its terminal" };
static const struct reach reach_vnc = { "vnc", PERMISSION_EXEC, DRIVER_VNC, 0, NULL };
static const struct reach reach_get = { "cp from", PERMISSION_EXEC, DRIVER_FILES, DRIVER_FILES_AT_REST, NULL };
static const struct reach reach_put = { "cp to", PERMISSION_EXEC, DRIVER_FILES, DRIVER_FILES_AT_REST, NULL };

static int reach_check(const struct reach *reach, struct instance *instance, struct error *error) {
    enum state state = instance->status.state;

    if (!instance->driver || !(instance->driver->capabilities & reach->capability))
        return error_set(error, ERROR_NOT_SUPPORTED, kind_name(instance->assigned.kind), reach->verb,
                         reach->lacking ? reach->lacking : "its driver cannot do that");
    /* It may run, whatever its driver knows: files of one that stands are reached through a mount of their own. */
    if (instance->unreachable)
        return error_set(error, ERROR_BUSY, "the instance", "it could not be taken over yet");
    if (state == STATE_RUNNING || (instance->driver->capabilities & reach->at_rest))
        return 0;
    if (state == STATE_PAUSED)
        return error_set(error, ERROR_WRONG_STATE, "paused", reach->verb, "resume, stop");
    if (state_is_active(state))
        return error_set(error, ERROR_WRONG_STATE, state_name(state), reach->verb, "stop");
    return error_set(error, ERROR_WRONG_STATE, state_name(state), reach->verb,
                     state == STATE_DELETED ? "undelete" : state == STATE_SUSPENDED ? "resume" : "start");
}

static int reach_begin(struct manager *manager, const struct actor *actor, const struct reach *reach, const char *name,
                       struct instance **ret, struct error *error) {
    struct instance *instance;
    int r = authorise(actor, "default", reach->permission, name, error);

    if (r >= 0)
        r = registry_lookup(manager, name, false, &instance, error);
    if (r < 0)
        return r;
    r = reach_check(reach, instance, error);
    if (r < 0) {
        (void) error_subject(error, "instance", instance->name);
        return r;
    }
    *ret = instance_ref(instance);
    return 0;
}

static int reach_end(struct manager *manager, const struct actor *actor, const struct reach *reach, const char *name,
                     int r, struct error *error) {
    _cleanup_free_ char *action = text_format("instance.%s", reach->verb);

    /* That there is no such instance says enough. */
    if (r < 0 && !(error && error->code == ERROR_NOT_FOUND && text_equal(error->parameters[0], "instance")))
        (void) error_subject(error, "instance", name);
    audit_instance(manager, actor, action ? action : reach->verb, name, r, error);
    return r;
}

int manager_instance_signal(struct manager *manager, const struct actor *actor, const char *name, int number,
                            struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_signal, name, &instance, error);

    if (r >= 0)
        r = instance->driver->signal(instance->driver_data, &instance->view, number, error);
    return reach_end(manager, actor, &reach_signal, name, r, error);
}

int manager_instance_exec(struct manager *manager, const struct actor *actor, const char *name,
                          const struct exec_request *request, struct stream **ret, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_exec, name, &instance, error);

    if (r >= 0 && (!request->arguments || !request->arguments[0]))
        r = error_set(error, ERROR_MISSING_FIELD, "command");
    if (r >= 0)
        r = instance->driver->exec(instance->driver_data, &instance->view, request, ret, error);
    return reach_end(manager, actor, &reach_exec, name, r, error);
}

int manager_instance_attach(struct manager *manager, const struct actor *actor, const char *name, struct stream **ret,
                            struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_attach, name, &instance, error);

    if (r >= 0)
        r = instance->driver->attach(instance->driver_data, &instance->view, ret, error);
    return reach_end(manager, actor, &reach_attach, name, r, error);
}

int manager_instance_console(struct manager *manager, const struct actor *actor, const char *name, struct stream **ret,
                             struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_console, name, &instance, error);

    if (r >= 0)
        r = instance->driver->console(instance->driver_data, &instance->view, ret, error);
    return reach_end(manager, actor, &reach_console, name, r, error);
}

int manager_instance_vnc(struct manager *manager, const struct actor *actor, const char *name, int *ret_fd,
                         struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_vnc, name, &instance, error);

    if (r >= 0 && !instance->spec.graphics)
        r = error_set(error, ERROR_NOT_SUPPORTED, "this instance", "vnc", "it was created without graphics");
    if (r >= 0)
        r = instance->driver->vnc(instance->driver_data, &instance->view, ret_fd, error);
    return reach_end(manager, actor, &reach_vnc, name, r, error);
}

static int check_path(const char *path, struct error *error) {
    if (!path || path[0] != '/')
        return error_set(error, ERROR_BAD_VALUE, "path", path, "it must be absolute");
    if (strlen(path) > 4096 || !text_is_plain(path))
        return error_set(error, ERROR_BAD_VALUE, "path", "this path", "it is too long or holds control characters");
    return 0;
}

int manager_instance_get(struct manager *manager, const struct actor *actor, const char *name, const char *path,
                         struct stream **ret, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_get, name, &instance, error);

    if (r >= 0)
        r = check_path(path, error);
    if (r >= 0)
        r = instance->driver->get(instance->driver_data, &instance->view, path, ret, error);
    return reach_end(manager, actor, &reach_get, name, r, error);
}

int manager_instance_put(struct manager *manager, const struct actor *actor, const char *name, const char *path,
                         struct stream **ret, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    int r = reach_begin(manager, actor, &reach_put, name, &instance, error);

    if (r >= 0)
        r = check_path(path, error);
    if (r >= 0)
        r = instance->driver->put(instance->driver_data, &instance->view, path, ret, error);
    return reach_end(manager, actor, &reach_put, name, r, error);
}

int manager_instance_log(struct manager *manager, const struct actor *actor, const char *name, char **ret_state_path,
                         struct error *error) {
    struct instance *instance;
    int r = authorise(actor, "default", PERMISSION_LOGS, name, error);

    if (r >= 0)
        r = registry_lookup(manager, name, true, &instance, error);
    if (r < 0)
        return r;
    *ret_state_path = strdup(instance->state_path);
    return *ret_state_path ? 0 : error_errno(error, -ENOMEM, "reading the log");
}

bool manager_instance_is_active(struct manager *manager, const char *name) {
    const struct instance *instance = registry_find(manager, name);

    return instance && state_is_active(instance->status.state);
}

/* --- waiting for a state ---------------------------------------------------------------------------------------------- */

static bool wait_is_over(const struct instance *instance, const char *goal) {
    enum state state = instance->status.state;

    /* In the trash it is gone for those who wait; otherwise when all it had on the host is gone too. */
    if (text_equal(goal, "removed"))
        return state == STATE_DELETED;
    if (instance->removed)
        return true;
    if (text_equal(goal, "exited"))
        return state == STATE_STOPPED || state == STATE_FAILED || state == STATE_DELETED || state == STATE_SUSPENDED;
    return text_equal(goal, state_name(state));
}

int manager_instance_wait(struct manager *manager, const struct actor *actor, const char *name, const char *goal,
                          uint64_t deadline, struct emitter *emitter, struct error *error) {
    _cleanup_instance_ struct instance *instance = NULL;
    struct instance *found;
    int r = authorise(actor, "default", PERMISSION_VIEW, name, error);

    if (r >= 0 && !text_equal(goal, "exited") && !text_equal(goal, "removed") && state_from_name(goal) < 0)
        r = error_set(error, ERROR_BAD_VALUE, "for", goal, "it is no state");
    if (r >= 0)
        r = registry_lookup(manager, name, true, &found, error);
    if (r < 0)
        return r;
    instance = instance_ref(found);
    while (r >= 0 && !wait_is_over(instance, goal))
        r = fiber_queue_wait(&instance->changed, deadline);
    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_TIMEOUT, "waiting", "the time given");
    if (r < 0)
        return error_errno(error, r, "waiting");
    emit_object(emitter);
    emit_key_text(emitter, "name", instance->name);
    emit_key_text(emitter, "state", instance->removed ? "removed" : state_name(instance->status.state));
    emit_key_integer(emitter, "exit_code", instance->status.exit_code);
    emit_object_end(emitter);
    return 0;
}
