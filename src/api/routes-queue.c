// SPDX-License-Identifier: GPL-2.0-or-later
#include <stddef.h>

#include "api/route.h"
#include "manager/manager.h"

#define LIST_MAX 10000

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

    return manager_queue_emit(request->manager, (size_t) query->limit, &emitter, error);
}

const struct route queue_routes[] = {
    { "GET", "/v1/queue", handle_queue, PERMISSION_VIEW, "Who waits for room: order, expected start, reason",
      &queue_query_table, NULL, "Queue", ROUTE_QUICK },
    { 0 },
};
