// SPDX-License-Identifier: GPL-2.0-or-later
#include <stddef.h>

#include "api/operations.h"
#include "api/route.h"
#include "base/text.h"
#include "manager/manager.h"

#define DAY_MS UINT64_C(86400000)

static const struct field plan_body_fields[] = {
    { .name = "observe", .type = FIELD_DURATION, .offset = offsetof(struct optimize_request, observe),
      .change = CHANGE_LIVE, .minimum = 1000, .maximum = DAY_MS, .initial = "10m", .help = "Only of those that were measured for so long." },
    { .name = "cooldown", .type = FIELD_DURATION, .offset = offsetof(struct optimize_request, cooldown),
      .change = CHANGE_LIVE, .maximum = DAY_MS, .or_zero = true, .initial = "30m", .help = "Only of those that did not change for so long." },
};
static const struct table plan_body_table = TABLE("optimize-plan", struct optimize_request, plan_body_fields);

struct empty_body {
    char unused;
};
static const struct table empty_body_table = { .name = "empty", .size = sizeof(struct empty_body) };

static int handle_plan(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);

    return manager_optimize_plan_emit(request->manager, request->actor, request->input, &emitter, error);
}

static int handle_show(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);

    return manager_optimize_emit(request->manager, request->parameters[0], &emitter, error);
}

static int handle_apply(struct request *request, struct error *error) {
    const struct wait_query *query = request->query;
    _cleanup_operation_ struct operation *operation = NULL;
    int r = manager_optimize_apply(request->manager, request->actor, request->parameters[0], &operation, error);

    return r < 0 ? r : reply_operation(request, operation, query->wait, error);
}

const struct route optimize_routes[] = {
    { "POST", "/v1/optimize/plans", handle_plan, PERMISSION_OPERATE,
      "Plan what could be better: steps with gain, cost, constraint and reason; nothing changes", NULL, &plan_body_table,
      "Plan", 0 },
    { "GET", "/v1/optimize/plans/{id}", handle_show, PERMISSION_VIEW, "A plan that was made lately, from the ledger if need be: then with the "
      "steps that were done of it", NULL, NULL, "Plan", 0 },
    { "POST", "/v1/optimize/plans/{id}/apply", handle_apply, PERMISSION_ADMIN,
      "Carry a plan out, if the state that it was made for is still the same", &wait_query_table, &empty_body_table,
      "Operation", ROUTE_OPERATION },
    { 0 },
};
