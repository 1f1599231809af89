// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "model/field.h"

/* How a node orders those that wait for room; set by the configuration, and at any time by PATCH /v1/node. The names of
 * policies and parameters are the engine's, which judges them. */
struct queue_settings {
    char *policy;
    char *backfill;
    char *estimates;
    char **parameters;  /* "NAME=VALUE" */
    uint64_t residency; /* ms */
};
extern const struct table queue_settings_table;
