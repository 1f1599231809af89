// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "api/request.h"
#include "model/field.h"

/* Answering with operations. */

struct operation;

/* Query of every change: ?wait=SECONDS. */
struct wait_query {
    uint64_t wait; /* ms */
};
extern const struct table wait_query_table;

/* Fiber: waits at most wait_ms for the end, then answers 200 with the finished operation, the status of its error with
 * the problem, or 202 with the running one and its Location. */
int reply_operation(struct request *request, struct operation *operation, uint64_t wait_ms, struct error *error);
