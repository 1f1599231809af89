// SPDX-License-Identifier: GPL-2.0-or-later
#include <stddef.h>

#include "api/route.h"
#include "base/text.h"
#include "manager/manager.h"

#define LIST_MAX 1000 /* ENGINE_FORESEEN */

struct queue_query {
    int64_t limit;
};
static const struct field queue_query_fields[] = {
    { .name = "limit", .type = FIELD_INTEGER, .offset = offsetof(struct queue_query, limit), .change = CHANGE_LIVE,
      .minimum = 1, .maximum = LIST_MAX, .initial = "100", .help = "At most so many, from the first on." },
};
static const struct table queue_query_table = TABLE("queue-query", struct queue_query, queue_query_fields);

static int handle_queue(struct request *request, struct error *error) {
    const struct queue_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    int r;

    request_cancelable(request, true); /* who is gone need not wait for his turn */
    r = manager_queue_emit(request->manager, (size_t) query->limit, &emitter, error);
    request_cancelable(request, false);
    return r;
}

#define WHAT_IF(row_name, row_type, row_help, ...)                                                           \
    { .name = #row_name, .type = row_type, .offset = offsetof(struct what_if, row_name), .change = CHANGE_LIVE, \
      .help = row_help, __VA_ARGS__ }
static const char *const kinds[] = { "auto", "container", "microvm", "vm", "fake", NULL };
static const struct field what_if_fields[] = {
    WHAT_IF(add, FIELD_INTEGER, "So many more instances of this kind and size.", .maximum = 10000, .initial = "0"),
    WHAT_IF(kind, FIELD_ENUM, "Kind of those added.", .names = kinds, .initial = "container"),
    WHAT_IF(cpus, FIELD_CPUS, "Processors of each added.", .minimum = 10, .maximum = 1024000, .initial = "1"),
    WHAT_IF(memory, FIELD_SIZE, "Memory of each added.", .minimum = 4 << 20, .maximum = UINT64_C(64) << 40,
            .initial = "256M"),
    WHAT_IF(duration, FIELD_DURATION, "How long each added will run; 0: without a known end.",
            .maximum = UINT64_C(315360000000), .initial = "0"),
    WHAT_IF(priority, FIELD_INTEGER, "Priority of those added.", .minimum = (uint64_t) -100, .maximum = 100),
    WHAT_IF(policy, FIELD_TEXT, "Another policy.", .maximum = 32),
    WHAT_IF(backfill, FIELD_TEXT, "Other backfilling.", .maximum = 32),
    WHAT_IF(node_cpus, FIELD_CPUS, "So many processors on the node.", .maximum = 1024000, .or_zero = true),
    WHAT_IF(node_memory, FIELD_SIZE, "So much memory on the node.", .maximum = UINT64_C(64) << 40, .or_zero = true),
    WHAT_IF(without_node, FIELD_TEXT, "This node were gone.", .maximum = 255),
    WHAT_IF(node_labels, FIELD_TEXT, "Labels that were set on the node, KEY=VALUE, or taken away, KEY-; with commas between.",
            .maximum = 4096),
    WHAT_IF(taints, FIELD_TEXT, "Taints, likewise.", .maximum = 4096),
};
static const struct table what_if_table = TABLE("what-if", struct what_if, what_if_fields);

static int handle_what_if(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);
    int r;

    request_cancelable(request, true);
    r = manager_what_if_emit(request->manager, request->query, &emitter, error);
    request_cancelable(request, false);
    return r;
}

static int handle_ledger(struct request *request, struct error *error) {
    request->reply.type = "application/x-ndjson";
    return manager_ledger_write(request->manager, &request->reply.body, error);
}

struct decision_query {
    bool replay;
};
static const struct field decision_query_fields[] = {
    { .name = "replay", .type = FIELD_BOOLEAN, .offset = offsetof(struct decision_query, replay), .change = CHANGE_LIVE,
      .help = "Make it again from the ledger, and tell whether it comes out the same." },
};
static const struct table decision_query_table = TABLE("decision-query", struct decision_query, decision_query_fields);

static int handle_decision(struct request *request, struct error *error) {
    const struct decision_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    uint64_t number;

    if (text_parse_u64(request->parameters[0], &number) < 0)
        return error_set(error, ERROR_BAD_VALUE, "decision", request->parameters[0], "it is no number");
    return manager_decision_emit(request->manager, number, query->replay, &emitter, error);
}

static int handle_why(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);
    int r;

    request_cancelable(request, true);
    r = manager_why_emit(request->manager, request->parameters[0], &emitter, error);
    request_cancelable(request, false);
    return r;
}

const struct route queue_routes[] = {
    { "GET", "/v1/queue", handle_queue, PERMISSION_VIEW, "Who waits for room: order, expected start, reason",
      &queue_query_table, NULL, "Queue", 0 },
    { "GET", "/v1/what-if", handle_what_if, PERMISSION_VIEW, "Expected starts if it were otherwise: more instances, another policy, another node",
      &what_if_table, NULL, "WhatIf", 0 },
    { "GET", "/v1/instances/{name}/why", handle_why, PERMISSION_VIEW, "Why it waits or runs, and what would let it start now",
      NULL, NULL, "Why", 0 },
    { "GET", "/v1/ledger", handle_ledger, PERMISSION_VIEW, "What the engine was told and decided, as far as it is kept: lines of JSON, "
      "which 'polder simulate queue' replays", NULL, NULL, "application/x-ndjson", 0 },
    { "GET", "/v1/decisions/{number}", handle_decision, PERMISSION_VIEW, "A decision of the queue: candidates, scores, what would have changed it",
      &decision_query_table, NULL, "Decision", 0 },
    { 0 },
};
