// SPDX-License-Identifier: GPL-2.0-or-later
#include "api/api.h"

#include <errno.h>
#include <stdlib.h>

#include "api/connection.h"
#include "api/internal.h"
#include "base/cleanup.h"

#define CONNECTIONS_DEFAULT 1024

static int on_sweep(sd_event_source *source, uint64_t now _unused_, void *userdata) {
    struct api *api = userdata;

    connections_sweep(api, clock_now());
    connections_collect(api);
    if (api->connection_count > 0) {
        (void) sd_event_source_set_time(source, clock_now() + CLOCK_SECOND);
        (void) sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
    }
    return 0;
}

static int on_collect(sd_event_source *source _unused_, void *userdata) {
    connections_collect(userdata);
    return 0;
}

void api_connections_changed(struct api *api) {
    int enabled = SD_EVENT_OFF;

    if (api->connection_count == 0 || !api->sweeper)
        return;
    (void) sd_event_source_get_enabled(api->sweeper, &enabled);
    if (enabled != SD_EVENT_OFF)
        return;
    (void) sd_event_source_set_time(api->sweeper, clock_now() + CLOCK_SECOND);
    (void) sd_event_source_set_enabled(api->sweeper, SD_EVENT_ONESHOT);
}

DEFINE_CLEANUP(struct api *, api_free)

int api_new(const struct api_options *options, struct api **ret, struct error *error) {
    _cleanup_(api_freep) struct api *api = calloc(1, sizeof(*api));
    int r;

    if (!api)
        return error_set(error, ERROR_NO_MEMORY, "");
    api->manager = options->manager;
    api->connection_limit = options->connections ? options->connections : CONNECTIONS_DEFAULT;
    api->scratch = malloc(SCRATCH_SIZE);
    if (!api->scratch)
        return error_set(error, ERROR_NO_MEMORY, "");
    r = sd_event_add_time(loop_event(), &api->sweeper, CLOCK_BOOTTIME, 0, 100 * CLOCK_MILLISECOND, on_sweep, api);
    if (r < 0)
        return error_errno(error, r, "making a timer");
    (void) sd_event_source_set_enabled(api->sweeper, SD_EVENT_OFF);
    r = sd_event_add_defer(loop_event(), &api->collector, on_collect, api);
    if (r < 0)
        return error_errno(error, r, "making an event source");
    (void) sd_event_source_set_enabled(api->collector, SD_EVENT_OFF);
    r = listeners_open(api, options, error);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(api);
    return 0;
}

static void end_connections(struct api *api, bool force) {
    struct connection *next;

    for (struct connection *connection = api->connections; connection; connection = next) {
        next = connection_next(connection);
        if (force && connection_fiber(connection))
            fiber_cancel(connection_fiber(connection));
        else
            connection_end(connection);
    }
}

void api_stop(struct api *api, uint64_t deadline) {
    api->stopping = true;
    listeners_close(api);
    end_connections(api, false);
    while (api->busy > 0 && fiber_queue_wait(&api->idle, deadline) == 0)
        ;
    fiber_shield();
    for (unsigned i = 0; api->busy > 0; i++) {
        end_connections(api, true);
        (void) fiber_queue_wait(&api->idle, deadline_in(CLOCK_SECOND));
    }
    fiber_unshield();
}

void api_free(struct api *api) {
    if (!api)
        return;
    listeners_close(api);
    end_connections(api, false);
    connections_collect(api);
    api->sweeper = sd_event_source_disable_unref(api->sweeper);
    api->collector = sd_event_source_disable_unref(api->collector);
    free(api->scratch);
    free(api->description);
    free(api);
}
