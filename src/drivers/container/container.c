// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "drivers/container/internal.h"
#include "host/cgroup.h"
#include "network/network.h"
#include "storage/storage.h"

#define FREEZE_TIME (10 * CLOCK_SECOND)
#define KILL_TIME (30 * CLOCK_SECOND)
#define DRAIN_TIME (10 * CLOCK_SECOND) /* for conmon to write the exit code of a container that is gone */
#define ORPHAN_ROUNDS 16
#define OPEN_FILES_MAX 1048576

/* --- one container --------------------------------------------------------------------------------------------- */

struct container *container_ref(struct container *container) {
    container->references++;
    return container;
}

void container_unref(struct container *container) {
    if (--container->references > 0)
        return;
    watch_stop(container);
    logs_unwatch(container);
    process_done(&container->monitor);
    process_done(&container->init);
    close_fd(container->directory);
    close_fd(container->mount_namespace);
    free(container->uuid);
    free(container->run_path);
    free(container->state_path);
    free(container);
}

int container_of_instance(struct container_driver *driver, struct driver_instance *instance, struct container **ret) {
    _cleanup_container_ struct container *container = NULL;

    if (instance->driver_data) {
        *ret = instance->driver_data;
        return 0;
    }
    container = calloc(1, sizeof(*container));
    if (!container)
        return -ENOMEM;
    container->references = 1;
    container->driver = driver;
    container->monitor = container->init = (struct process) PROCESS_INIT;
    container->directory = -EBADF;
    container->log_watch = -1;
    container->mount_namespace = -EBADF;
    container->uuid = strdup(instance->assigned->uuid);
    container->run_path = strdup(instance->run_path);
    container->state_path = strdup(instance->state_path);
    if (!container->uuid || !container->run_path || !container->state_path)
        return -ENOMEM;
    container->instance = instance;
    instance->driver_data = container;
    *ret = STEAL_PTR(container);
    return 0;
}

const char *container_hostname(const struct driver_instance *instance) {
    return text_is_empty(instance->spec->hostname) ? instance->name : instance->spec->hostname;
}

uint64_t container_open_files(void) {
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max > OPEN_FILES_MAX)
        return OPEN_FILES_MAX;
    return limit.rlim_max;
}

int container_user(const char *wanted, int root, struct user *ret, struct error *error) {
    struct reason reason = REASON_INIT;
    int r = user_resolve(root, wanted ? wanted : "", ret, &reason);

    if (r < 0)
        return error_set(error, ERROR_BAD_VALUE, "user", wanted ? wanted : "", reason.text);
    /* The agent knows ids up to 2^31; a container has only so many. */
    bool outside = ret->uid >= CONTAINER_IDS || ret->gid >= CONTAINER_IDS;
    for (size_t i = 0; i < ret->group_count; i++)
        outside = outside || ret->groups[i] >= CONTAINER_IDS;
    if (outside)
        return error_set(error, ERROR_BAD_VALUE, "user", wanted ? wanted : "", "a container's ids end at 65535");
    return 0;
}

/* The container, if it runs. */
static int running(void *data, struct driver_instance *instance, const char *what, struct container **ret,
                   struct error *error) {
    int r = container_of_instance(data, instance, ret);

    if (r < 0)
        return error_errno(error, r, "%s", what);
    if (!(*ret)->active)
        return error_set(error, ERROR_WRONG_STATE, "not running", what, "start");
    return 0;
}

/* --- the driver ------------------------------------------------------------------------------------------------ */

static void container_close(void *data) {
    struct container_driver *driver = data;

    if (!driver)
        return;
    logs_close(driver);
    list_free(driver->mount_roots);
    free(driver->crun_root);
    free(driver->libexec_path);
    free(driver->filter);
    free(driver);
}

static int driver_init(struct container_driver *driver, const struct driver_context *context) {
    driver->context = *context;
    driver->inotify = -EBADF;
    driver->crun_root = text_format("%s/crun", context->run_path);
    driver->libexec_path = strdup(context->libexec_path);
    if (!driver->crun_root || !driver->libexec_path)
        return -ENOMEM;
    int r = list_copy(context->mount_roots, &driver->mount_roots);
    if (r >= 0)
        r = file_make_directories(AT_FDCWD, driver->crun_root, 0700);
    return r < 0 ? r : logs_open(driver);
}

static int container_open(const struct driver_context *context, void **ret_data, struct error *error) {
    struct container_driver *driver = calloc(1, sizeof(*driver));
    int r = driver ? driver_init(driver, context) : -ENOMEM;

    if (r < 0) {
        container_close(driver);
        return error_errno(error, r, "preparing the container driver");
    }
    *ret_data = driver;
    return 0;
}

static int container_available(void *data, enum kind kind, struct error *error) {
    static const char *const programs[][2] = { { CRUN_PROGRAM, "crun" }, { CONMON_PROGRAM, "conmon" } };

    for (size_t i = 0; i < ELEMENTS(programs); i++) {
        if (access(programs[i][0], X_OK) < 0) {
            _cleanup_free_ char *advice = text_format("install the package %s", programs[i][1]);
            return error_set(error, ERROR_HOST_LACKS, programs[i][1], advice);
        }
    }
    return 0;
}

static int container_signal(void *data, struct driver_instance *instance, int number, struct error *error) {
    struct container *container;
    int r = running(data, instance, "signal", &container, error);

    if (r < 0)
        return r;
    r = process_signal(&container->init, number);
    return r < 0 ? error_errno(error, r, "sending signal %d", number) : 0;
}

static int container_pause(void *data, struct driver_instance *instance, struct error *error) {
    struct container *container;
    int r = running(data, instance, "pause", &container, error);

    return r < 0 ? r : cgroup_freeze(instance->cgroup, true, deadline_in(FREEZE_TIME), error);
}

static int container_resume(void *data, struct driver_instance *instance, struct error *error) {
    struct container *container;
    int r = running(data, instance, "resume", &container, error);

    return r < 0 ? r : cgroup_freeze(instance->cgroup, false, deadline_in(FREEZE_TIME), error);
}

/* A paused container takes its signal when it is thawed. */
static int container_stop(void *data, struct driver_instance *instance, uint64_t timeout, struct error *error) {
    struct container *container;
    int number = instance->process.stop_signal > 0 ? instance->process.stop_signal : SIGTERM;
    int r = container_of_instance(data, instance, &container);

    if (r < 0)
        return error_errno(error, r, "stopping the container");
    if (!container->active)
        return 0;
    r = -ETIMEDOUT;
    if (timeout > 0) {
        (void) process_signal(&container->init, number);
        if (instance->cgroup)
            (void) cgroup_freeze(instance->cgroup, false, deadline_in(FREEZE_TIME), NULL);
        r = watch_wait(container, deadline_in(timeout * CLOCK_MILLISECOND));
    }
    if (r == -ETIMEDOUT)
        r = container_kill(container, deadline_in(KILL_TIME));
    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_TIMEOUT, "killing the container", "30s");
    return r < 0 ? error_errno(error, r, "stopping the container") : 0;
}

/* --- finding it again ------------------------------------------------------------------------------------------ */

static void adopt_end(struct container *container, struct driver_exit *ret) {
    int code;

    *ret = (struct driver_exit){ .code = -1, .reason = "it ended while polderd was down, and its exit code is lost" };
    if (state_exit_code(container, &code) >= 0)
        *ret = (struct driver_exit){ .code = code };
    container->active = false;
}

/* Init is gone or never was: conmon, if it lives, is about to write the code. */
static void adopt_dead(struct container *container, bool created, struct driver_exit *ret) {
    if (!created) {
        (void) process_end(&container->monitor, 0);
        (void) container_kill_group(container, deadline_in(KILL_TIME));
        *ret = (struct driver_exit){ .code = -1, .reason = "its start was cut off" };
    } else {
        if (container->monitor.pidfd >= 0 && process_wait(&container->monitor, deadline_in(DRAIN_TIME), NULL) < 0)
            (void) process_end(&container->monitor, 0);
        adopt_end(container, ret);
    }
    process_done(&container->monitor);
    process_done(&container->init);
}


static pid_t parent_of(pid_t pid) {
    char path[40];
    _cleanup_free_ char *text = NULL;
    const char *end;
    int parent;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    if (file_read(AT_FDCWD, path, 4096, &text, NULL) < 0)
        return 0;
    end = strrchr(text, ')');
    return end && sscanf(end, ") %*c %d", &parent) == 1 ? parent : 0;
}

/* Processes of the group whose parent is not in it, other than init: what `crun exec` of a dead daemon left. */
static unsigned end_orphans(struct container *container) {
    _cleanup_free_ int *pids = NULL;
    size_t count;
    unsigned ended = 0;

    if (cgroup_processes(container->instance->cgroup, &pids, &count) < 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        pid_t parent = parent_of(pids[i]);
        bool inside = pids[i] == container->init.pid || parent == 0;
        for (size_t j = 0; j < count && !inside; j++)
            inside = pids[j] == parent;
        if (!inside && kill(pids[i], SIGKILL) == 0)
            ended++;
    }
    return ended;
}

static int adopt_running(struct container *container, bool *ret_paused, struct error *error) {
    int r;

    *ret_paused = cgroup_is_frozen(container->instance->cgroup);
    for (int i = 0; !*ret_paused && i < ORPHAN_ROUNDS && end_orphans(container) > 0; i++)
        if (fiber_sleep(5 * CLOCK_MILLISECOND) < 0)
            break;
    r = watch_start(container);
    if (r < 0)
        return error_errno(error, r, "watching the container");
    logs_watch(container);
    return 0;
}

static bool never_started(const struct container *container) {
    _cleanup_free_ char *path = text_format("%s/%s/exec.fifo", container->driver->crun_root, container->uuid);

    return path && file_exists(AT_FDCWD, path);
}

static int container_adopt(void *data, struct driver_instance *instance, bool *ret_running, bool *ret_paused,
                           struct driver_exit *ret_exit, struct error *error) {
    struct container *container;
    bool created = false;
    int r = container_of_instance(data, instance, &container), held = 1;

    if (r < 0)
        return error_errno(error, r, "finding the container");
    *ret_running = *ret_paused = false;
    *ret_exit = (struct driver_exit){ .code = -1, .reason = "the host was restarted" };
    container->active = false; /* all this is of a try before this one */
    process_done(&container->monitor);
    process_done(&container->init);
    container->directory = close_fd(container->directory);
    container->directory = open(container->run_path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    r = container->directory < 0 ? -errno : state_read(container, &created);
    if (r == -ENOENT)
        (void) container_kill_group(container, deadline_in(KILL_TIME)); /* started, but died before it wrote that down */
    if (r == -ENOENT || r == -ESTALE)
        return 0;
    if (r >= 0 && container->init.pidfd >= 0 && instance->cgroup)
        r = held = cgroup_holds(instance->cgroup, container->init.pid);
    if (r < 0) /* it may well run: asked again later */
        return error_errno(error, r, "finding the container");
    if (container->init.pidfd >= 0 && !instance->cgroup) /* it runs, and we cannot tell that it is ours: asked again later */
        return error_set(error, ERROR_BUSY, "the container", "its control group cannot be reached");
    if (container->init.pidfd >= 0 && held == 0 && !proc_is_ending(container->init.pid)) {
        process_done(&container->init); /* not ours: never touched */
        created = false;
    } else if (container->init.pidfd >= 0 && never_started(container)) {
        (void) process_end(&container->init, 0);
        process_done(&container->init);
        created = false;
    }
    if (container->init.pidfd < 0) {
        adopt_dead(container, created, ret_exit);
        return 0;
    }
    *ret_running = true;
    return adopt_running(container, ret_paused, error);
}

void container_change_begin(struct container *container) {
    container->changing = true;
}

int container_await_copies(struct container *container) {
    uint64_t deadline = deadline_in(DRAIN_TIME);
    int r = 0;

    while (r >= 0 && container->offline_users > 0)
        r = fiber_queue_wait(&container->changed, deadline);
    return r;
}

void container_change_end(struct container *container) {
    container->changing = false;
    fiber_queue_wake_all(&container->changed);
}

/* --- the end --------------------------------------------------------------------------------------------------- */

/* Also what state_read finds, for a release without an adopt before. */
static int end_all(struct container *container, struct error *error) {
    bool created;
    int r = container_kill(container, deadline_in(KILL_TIME));

    if (r < 0)
        return error_errno(error, r, "killing the container");
    if (container->directory >= 0 && container->monitor.pidfd < 0)
        (void) state_read(container, &created);
    (void) process_signal(&container->init, SIGKILL);
    if (container->monitor.pidfd >= 0 && process_wait(&container->monitor, deadline_in(DRAIN_TIME), NULL) < 0)
        (void) process_end(&container->monitor, 0);
    process_done(&container->monitor);
    process_done(&container->init);
    container_close_mounts(container);
    return 0;
}

static int release(struct container_driver *driver, struct container *container, struct driver_instance *instance,
                   struct error *error) {
    _cleanup_free_ char *state = NULL;
    int r;

    (void) container_await_copies(container);
    if (container->directory < 0)
        container->directory = open(container->run_path, O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    r = end_all(container, error);
    if (r >= 0 && driver->context.network && instance->assigned->address)
        r = network_detach(driver->context.network, container->uuid, error);
    if (r < 0)
        return r;
    state = text_format("%s/%s", driver->crun_root, container->uuid);
    r = state ? file_remove_tree(AT_FDCWD, state) : -ENOMEM;
    if (r >= 0)
        r = file_remove_tree(AT_FDCWD, container->run_path);
    if (r < 0)
        return error_errno(error, r, "removing what belongs to the container");
    container->instance = NULL;
    instance->driver_data = NULL;
    return 0;
}

static int container_release(void *data, struct driver_instance *instance, struct error *error) {
    struct container *container;
    int r = container_of_instance(data, instance, &container);

    if (r < 0)
        return error_errno(error, r, "releasing the container");
    container_change_begin(container);
    r = release(data, container, instance, error);
    container_change_end(container);
    if (r >= 0)
        container_unref(container);
    return r;
}

static int container_attach(void *data, struct driver_instance *instance, struct stream **ret, struct error *error) {
    struct container *container;
    int r = running(data, instance, "attach", &container, error);

    return r < 0 ? r : attach_open(container, ret, error);
}

static void container_facts(void *data, const struct driver_instance *instance, struct driver_facts *ret) {
    const struct container *container = instance->driver_data;

    *ret = (struct driver_facts){ .pid = container && container->active ? container->init.pid : 0 };
}

static int container_check(void *data, struct driver_instance *instance, bool resting _unused_, char ***problems,
                           struct error *error) {
    const struct container_driver *driver = data;
    _cleanup_free_ char *path = strdup(instance->state_path);
    int r = path ? storage_ask_instance(driver->context.storage, path, deadline_in(STORAGE_PATIENCE), error) : -ENOMEM;

    if (r >= 0 && !disk_is_there(path))
        r = list_addf(problems, "its writable directories are missing in %s", path);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "checking") : r;
}

const struct driver container_driver = {
    .name = "container",
    .kinds = 1 << KIND_CONTAINER,
    .capabilities = DRIVER_PAUSE | DRIVER_EXEC | DRIVER_ATTACH | DRIVER_FILES | DRIVER_FILES_AT_REST |
                    DRIVER_SIGNAL,
    .open = container_open,
    .close = container_close,
    .available = container_available,
    .start = container_start,
    .adopt = container_adopt,
    .stop = container_stop,
    .signal = container_signal,
    .pause = container_pause,
    .resume = container_resume,
    .release = container_release,
    .check = container_check,
    .exec = container_exec,
    .attach = container_attach,
    .get = container_get,
    .put = container_put,
    .facts = container_facts,
};
