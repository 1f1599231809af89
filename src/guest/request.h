// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest/common.h"

/* What the daemon asks for, decoded from JSON through one table per object (see request.c). Every text is
 * NUL-terminated and length-limited, unknown fields are refused by name. */

#define REQUEST_ENTROPY_MAX 64

struct request_process {
    char **args;
    char **env;
    char *user;
    char *cwd;
    bool tty;
    bool stdin;
    int64_t rows, columns;
};

struct request_network {
    char *mac;
    char *address; /* "10.1.2.3/24" */
    char *gateway;
    int64_t mtu;
};

struct request_host {
    char *address;
    char *name;
};

struct request_mount {
    char *type;
    char *tag;
    char *target;
    bool readonly;
    int64_t size;
};

/* An array of objects. */
struct request_list {
    void *items;
    size_t count;
};

struct request_start {
    struct request_process process;
    char *hostname;
    int64_t stop_signal;
    struct request_list network; /* of struct request_network */
    char **dns;
    char *search;
    struct request_list hosts;  /* of struct request_host */
    struct request_list mounts; /* of struct request_mount */
    bool readonly_root;
    int64_t realtime_us;
    char *entropy; /* base64 */
};

struct request_signal {
    int64_t signal;
};

struct request_resize {
    int64_t rows, columns;
};

struct request_clock {
    int64_t realtime_us;
    char *entropy;
};

struct request_path {
    char *path;
};

struct request_power {
    char *action;
    int64_t grace_ms;
};

struct request_schema;
extern const struct request_schema request_start_schema, request_process_schema, request_signal_schema,
    request_resize_schema, request_clock_schema, request_path_schema, request_power_schema;

/* Decodes `size` bytes of JSON into *ret, a struct of the schema's type, which is cleared first. -EINVAL with
 * a reason, or -ENOMEM; then *ret holds nothing. */
int request_decode(const struct request_schema *schema, const void *json, size_t size, void *ret,
                   struct reason *reason);
void request_clear(const struct request_schema *schema, void *request);
