// SPDX-License-Identifier: GPL-2.0-or-later
/* The end of a container is the end of conmon, which has then written the exit code. If conmon itself was killed, the
 * container goes on until its first process ends, and its exit code is lost with conmon. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "drivers/container/internal.h"
#include "host/cgroup.h"

static bool memory_ran_out(const struct container *container) {
    struct cgroup_usage usage;
    const struct driver_instance *instance = container->instance;

    if (!instance || !instance->cgroup || cgroup_usage(instance->cgroup, &usage) < 0)
        return false;
    return usage.oom_kills > container->oom_kills;
}

static void take_end(struct container *container) {
    int code;
    bool known = state_exit_code(container, &code) >= 0;

    container->exit = (struct driver_exit){
        .code = known ? code : -1,
        .out_of_memory = memory_ran_out(container),
        .reason = known ? NULL : "conmon was killed, and the exit code is lost with it",
    };
    if (container->exit.out_of_memory && container->exit.code != 0)
        container->exit.reason = "it was killed because it used more memory than it may";
    logs_unwatch(container);
    process_done(&container->init);
    process_done(&container->monitor);
    container->active = false;
    container->ended = true;
}

static int close_job(void *userdata) {
    close_fd(*(int *) userdata);
    return 0;
}

/* One fiber closes; others wait until it has. */
void container_close_mounts(struct container *container) {
    int fd = STEAL_FD(container->mount_namespace);

    fiber_shield();
    if (fd >= 0) {
        container->closing = true;
        (void) fiber_job(close_job, &fd);
        container->closing = false;
        fiber_queue_wake_all(&container->changed);
    }
    while (container->closing)
        (void) fiber_queue_wait(&container->changed, DEADLINE_NONE);
    fiber_unshield();
}

/* Reaps conmon; then, if it did not see the end, waits for init. */
static int end_main(void *userdata) {
    _cleanup_container_ struct container *container = userdata;
    const struct driver_events *events = container->driver->context.events;
    int code;

    (void) process_wait(&container->monitor, DEADLINE_NONE, NULL);
    if (state_exit_code(container, &code) < 0 && process_is_alive(&container->init)) {
        log_warning("container %s: conmon is gone but the container runs on", container->uuid);
        (void) process_wait(&container->init, DEADLINE_NONE, NULL);
    }
    if (!container->active)
        return 0;
    take_end(container);
    fiber_queue_wake_all(&container->changed);
    if (container->instance && events && events->exited)
        events->exited(container->instance, &container->exit);
    container_close_mounts(container);
    return 0;
}

static int on_monitor_end(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
    struct container *container = userdata;
    int r = fiber_start(NULL, "container-end", end_main, container_ref(container));

    if (r >= 0) {
        watch_stop(container);
        return 0;
    }
    /* We are called again and again until there is memory for it. */
    if (!container->end_late)
        log_error("container %s: its end cannot be taken yet: %s", container->uuid, strerror(-r));
    container->end_late = true;
    container_unref(container);
    return 0;
}

int watch_start(struct container *container) {
    int r;

    container->active = true;
    container->ended = container->end_late = false;
    /* An adopted container may have lost its conmon before: then there is init alone. */
    if (container->monitor.pidfd < 0) {
        r = fiber_start(NULL, "container-end", end_main, container_ref(container));
        if (r < 0)
            container_unref(container);
        return r;
    }
    return sd_event_add_io(loop_event(), &container->watch, container->monitor.pidfd, EPOLLIN, on_monitor_end,
                           container);
}

void watch_stop(struct container *container) {
    sd_event_source_disable_unref(container->watch);
    container->watch = NULL;
}

int watch_wait(struct container *container, uint64_t deadline) {
    while (container->active) {
        int r = fiber_queue_wait(&container->changed, deadline);
        if (r < 0)
            return r;
    }
    return 0;
}

/* A killed process leaves its group a moment later, which cannot be waited for on v1. */
int container_kill_group(struct container *container, uint64_t deadline) {
    struct cgroup *cgroup = container->instance ? container->instance->cgroup : NULL;
    int r = 0;

    while (cgroup && !cgroup_is_empty(cgroup)) {
        (void) cgroup_kill(cgroup);
        r = clock_now() > deadline ? -ETIMEDOUT : fiber_sleep(CLOCK_MILLISECOND);
        if (r < 0)
            break;
    }
    return r;
}

int container_kill(struct container *container, uint64_t deadline) {
    int r;

    (void) process_signal(&container->init, SIGKILL);
    r = container_kill_group(container, deadline);
    return r < 0 ? r : watch_wait(container, deadline);
}
