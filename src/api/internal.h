// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "base/fiber.h"
#include "manager/actor.h"

/* What the files of the API share. */

#define SCRATCH_SIZE (64 * 1024)
#define LISTENERS_MAX 8

struct connection;
struct manager;

struct listener {
    struct api *api;
    int fd;
    char *path;      /* to remove at the end; NULL: from socket activation */
    uint64_t inode;  /* of the file there: what somebody else put in its place meanwhile stays */
    enum role role;
    const char *origin;
    sd_event_source *source;
    sd_event_source *pause; /* ends a rest after descriptors ran out */
};

struct api {
    struct manager *manager;
    struct listener listeners[LISTENERS_MAX];
    size_t listener_count;
    struct connection *connections; /* a list */
    unsigned connection_count;
    unsigned connection_limit;
    unsigned busy;            /* connections whose request runs on a fiber */
    struct fiber_queue idle;  /* woken when busy falls to 0 */
    sd_event_source *sweeper; /* once a second while there are connections: deadlines */
    sd_event_source *collector; /* frees closed connections once their callbacks are over */
    bool stopping;
    char *scratch;            /* SCRATCH_SIZE bytes every read goes through */
    char *description;        /* /v1/openapi.json, made at the first request */
    size_t description_size;
    char date[48];            /* of the Date header */
    uint64_t date_second;
    uint64_t requests;        /* handled so far */
    uint64_t refused_connections;
};

/* listener.c */
struct api_options;
int listeners_open(struct api *api, const struct api_options *options, struct error *error);
void listeners_close(struct api *api);

/* api.c: starts or stops the sweep, once the number of connections changed. */
void api_connections_changed(struct api *api);
