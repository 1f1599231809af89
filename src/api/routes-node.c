// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "api/internal.h"
#include "api/openapi.h"
#include "api/operations.h"
#include "api/route.h"
#include "base/cleanup.h"
#include "manager/manager.h"
#include "model/lifecycle.h"

static int reply_words(struct request *request, const char *type, const char *text) {
    request->reply.type = type;
    request->reply.text = text;
    request->reply.text_size = strlen(text);
    return 0;
}

static int handle_health(struct request *request, struct error *error _unused_) {
    return reply_words(request, "text/plain; charset=utf-8", "ok\n");
}

static int handle_index(struct request *request, struct error *error _unused_) {
    return reply_words(request, NULL, "{\"version\":\"" POLDER_VERSION "\",\"resources\":[\"/v1/instances\","
        "\"/v1/images\",\"/v1/operations\",\"/v1/events\",\"/v1/node\",\"/v1/networks\",\"/v1/doctor\","
        "\"/v1/advice\",\"/v1/queue\",\"/v1/lifecycle\",\"/v1/audit\",\"/v1/version\",\"/v1/openapi.json\",\"/metrics\"]}");
}

static int handle_version(struct request *request, struct error *error _unused_) {
    return reply_words(request, NULL, "{\"version\":\"" POLDER_VERSION "\",\"api\":\"v1\"}");
}

static int handle_metrics(struct request *request, struct error *error _unused_) {
    const struct api *api = request->api;
    struct buffer *out = &request->reply.body;

    request->reply.type = "text/plain; version=0.0.4; charset=utf-8";
    manager_metrics(request->manager, out);
    buffer_addf(out, "# HELP polder_http_requests_total Requests that were routed.\n"
                     "# TYPE polder_http_requests_total counter\npolder_http_requests_total %llu\n"
                     "# HELP polder_http_connections Open connections.\n"
                     "# TYPE polder_http_connections gauge\npolder_http_connections %u\n"
                     "# HELP polder_http_refused_connections_total Connections refused over the limit.\n"
                     "# TYPE polder_http_refused_connections_total counter\n"
                     "polder_http_refused_connections_total %llu\n",
                (unsigned long long) api->requests, api->connection_count,
                (unsigned long long) api->refused_connections);
    return 0;
}

static int handle_openapi(struct request *request, struct error *error) {
    struct api *api = request->api;

    if (!api->description) {
        _cleanup_buffer_ struct buffer text = BUFFER_INIT;
        if (openapi_build(&text) < 0)
            return error_set(error, ERROR_NO_MEMORY, "");
        api->description_size = text.size;
        if (buffer_take(&text, &api->description) < 0)
            return error_set(error, ERROR_NO_MEMORY, "");
    }
    request->reply.text = api->description;
    request->reply.text_size = api->description_size;
    return 0;
}

static int handle_node(struct request *request, struct error *error _unused_) {
    struct emitter emitter = reply_emitter(request);

    manager_node_emit(request->manager, &emitter);
    return 0;
}

struct node_query {
    bool dry_run;
};
static const struct field node_query_fields[] = {
    { .name = "dry_run", .type = FIELD_BOOLEAN, .offset = offsetof(struct node_query, dry_run), .change = CHANGE_LIVE,
      .help = "Only check it." },
};
static const struct table node_query_table = TABLE("node-query", struct node_query, node_query_fields);

struct node_patch {
    struct queue_settings queue;
    char **labels;
    char **taints;
};
static const struct field node_patch_fields[] = {
    { .name = "queue", .type = FIELD_OBJECT, .offset = offsetof(struct node_patch, queue), .change = CHANGE_LIVE,
      .items = &queue_settings_table, .help = "How those that wait for room are ordered." },
    { .name = "labels", .type = FIELD_MAP, .offset = offsetof(struct node_patch, labels), .change = CHANGE_LIVE,
      .help = "Labels of the node; null takes one away. Its rack and zone say where it lies." },
    { .name = "taints", .type = FIELD_MAP, .offset = offsetof(struct node_patch, taints), .change = CHANGE_LIVE,
      .help = "Taints: who does not tolerate one does not start here; an empty text for one without a value, null takes one away." },
};
static const struct table node_patch_table = TABLE("node", struct node_patch, node_patch_fields);

static int handle_node_patch(struct request *request, struct error *error) {
    const struct node_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    int r = manager_node_patch(request->manager, request->actor, request->json, query->dry_run, error);

    if (r >= 0)
        manager_node_emit(request->manager, &emitter);
    return r;
}

static int handle_doctor(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);

    return manager_doctor_emit(request->manager, &emitter, error);
}

static int handle_lifecycle(struct request *request, struct error *error _unused_) {
    struct emitter emitter = reply_emitter(request);

    lifecycle_emit(&emitter);
    return 0;
}

static int handle_networks(struct request *request, struct error *error _unused_) {
    struct emitter emitter = reply_emitter(request);

    return manager_networks_emit(request->manager, &emitter);
}

static int handle_flows(struct request *request, struct error *error) {
    struct emitter emitter = reply_emitter(request);

    return manager_flows_emit(request->manager, &emitter, error);
}

static int handle_network_reset(struct request *request, struct error *error) {
    int r = manager_network_reset(request->manager, request->actor, error);

    if (r == 0)
        request->reply.status = 204;
    return r;
}

struct audit_query {
    char *after;
    int64_t limit;
};
static const struct field audit_query_fields[] = {
    { .name = "after", .type = FIELD_TEXT, .offset = offsetof(struct audit_query, after), .change = CHANGE_LIVE,
      .maximum = 128, .help = "Go on after the record with this id (towards older ones)." },
    { .name = "limit", .type = FIELD_INTEGER, .offset = offsetof(struct audit_query, limit), .change = CHANGE_LIVE,
      .minimum = 1, .maximum = 1000, .initial = "100", .help = "At most so many." },
};
static const struct table audit_query_table = TABLE("audit-query", struct audit_query, audit_query_fields);

static int handle_audit(struct request *request, struct error *error) {
    const struct audit_query *query = request->query;
    struct emitter emitter = reply_emitter(request);

    return manager_audit_emit(request->manager, request->actor, query->after, (size_t) query->limit, &emitter, error);
}

struct advice_query {
    char *image, *weights;
    uint64_t cpus, memory;
    bool untrusted, own_kernel, graphics;
};
#define ADVICE(row_name, row_type, row_help, ...)                                                            \
    { .name = #row_name, .type = row_type, .offset = offsetof(struct advice_query, row_name), .change = CHANGE_LIVE, \
      .help = row_help, __VA_ARGS__ }
static const struct field advice_query_fields[] = {
    ADVICE(image, FIELD_TEXT, "Image it would start from; none stands for any OCI image.", .maximum = 255),
    ADVICE(cpus, FIELD_CPUS, "Processors it would use; 0 stands for one, the default.", .minimum = 10, .maximum = 1024000,
           .or_zero = true),
    ADVICE(memory, FIELD_SIZE, "Memory it would use; 0 stands for each kind's default.", .or_zero = true,
           .minimum = 4 << 20, .maximum = UINT64_C(64) << 40),
    ADVICE(untrusted, FIELD_BOOLEAN, "It runs code of strangers: security counts at least 8."),
    ADVICE(own_kernel, FIELD_BOOLEAN, "It needs a kernel of its own."),
    ADVICE(graphics, FIELD_BOOLEAN, "It needs a screen."),
    ADVICE(weights, FIELD_TEXT, "What counts how much, 0 to 10: performance, resources, security, compatibility, cost.",
           .maximum = 200),
};
static const struct table advice_query_table = TABLE("advice-query", struct advice_query, advice_query_fields);

static int handle_advice(struct request *request, struct error *error) {
    const struct advice_query *query = request->query;
    struct emitter emitter = reply_emitter(request);
    _cleanup_need_ struct need need = { 0 };
    struct instance_spec spec;
    int r = table_init(&instance_spec_table, &spec);

    if (r < 0)
        return error_errno(error, r, "reading the need");
    need_init(&need);
    spec.cpus = query->cpus ? query->cpus : spec.cpus;
    spec.memory = query->memory ? query->memory : spec.memory;
    spec.graphics = query->graphics;
    r = need_of_spec(&need, &spec, query->cpus > 0, query->memory > 0);
    table_done(&instance_spec_table, &spec);
    if (r < 0)
        return error_errno(error, r, "reading the need");
    need.untrusted = query->untrusted;
    need.own_kernel = query->own_kernel;
    need.disk = !query->image && (query->graphics || query->own_kernel);
    if (query->weights)
        r = need_parse_weights(query->weights, &need, error);
    return r < 0 ? r : manager_advise_emit(request->manager, query->image, &need, &emitter, error);
}

struct fsck_body {
    bool deep, repair, follow;
};
static const struct field fsck_body_fields[] = {
    { .name = "deep", .type = FIELD_BOOLEAN, .offset = offsetof(struct fsck_body, deep), .change = CHANGE_LIVE,
      .help = "Compare contents and host resources too, not records alone." },
    { .name = "repair", .type = FIELD_BOOLEAN, .offset = offsetof(struct fsck_body, repair), .change = CHANGE_LIVE,
      .help = "Remove what belongs to nothing." },
    { .name = "follow", .type = FIELD_BOOLEAN, .offset = offsetof(struct fsck_body, follow), .change = CHANGE_LIVE,
      .help = "Answer an operation (202), which tells how far it is and whose result is the answer." },
};
static const struct table fsck_body_table = TABLE("fsck", struct fsck_body, fsck_body_fields);

static int handle_fsck(struct request *request, struct error *error) {
    const struct fsck_body *body = request->input;
    const struct wait_query *query = request->query;
    _cleanup_operation_ struct operation *operation = NULL;
    struct emitter emitter = reply_emitter(request);
    int r;

    if (body->follow) {
        r = manager_fsck_start(request->manager, request->actor, body->deep, body->repair, &operation, error);
        return r < 0 ? r : reply_operation(request, operation, query->wait, error);
    }
    return manager_fsck_emit(request->manager, request->actor, body->deep, body->repair, &emitter, error);
}

static const struct table empty_body_table = { .name = "empty", .size = 1 };

const struct route node_routes[] = {
    { "GET", "/healthz", handle_health, PERMISSION_VIEW, "Does the daemon answer?", NULL, NULL, "text/plain",
      ROUTE_QUICK },
    { "GET", "/metrics", handle_metrics, PERMISSION_VIEW, "Metrics for Prometheus", NULL, NULL, "text/plain",
      ROUTE_QUICK },
    { "GET", "/v1", handle_index, PERMISSION_VIEW, "What there is", NULL, NULL, "Index", ROUTE_QUICK },
    { "GET", "/v1/version", handle_version, PERMISSION_VIEW, "Version of the daemon", NULL, NULL, "Version",
      ROUTE_QUICK },
    { "GET", "/v1/openapi.json", handle_openapi, PERMISSION_VIEW, "This description", NULL, NULL, "application/json",
      ROUTE_QUICK },
    { "GET", "/v1/node", handle_node, PERMISSION_VIEW, "The node: what is promised and what is real", NULL, NULL,
      "Node", ROUTE_QUICK },
    { "PATCH", "/v1/node", handle_node_patch, PERMISSION_ADMIN, "Set how the node orders those that wait, its labels and its taints (RFC 7396)",
      &node_query_table, &node_patch_table, "Node", ROUTE_RAW | ROUTE_REQUIRED | ROUTE_PATCH },
    { "GET", "/v1/advice", handle_advice, PERMISSION_VIEW, "Which kind suits a need on this node, and why",
      &advice_query_table, NULL, "Advice", ROUTE_QUICK },
    { "GET", "/v1/doctor", handle_doctor, PERMISSION_VIEW, "What this host can do, why not, and what to do", NULL,
      NULL, "Findings", 0 },
    { "GET", "/v1/lifecycle", handle_lifecycle, PERMISSION_VIEW, "The table of states", NULL, NULL, "Lifecycle",
      ROUTE_QUICK },
    { "GET", "/v1/networks", handle_networks, PERMISSION_VIEW, "List networks", NULL, NULL, "NetworkList",
      ROUTE_QUICK },
    { "GET", "/v1/network/flows", handle_flows, PERMISSION_VIEW, "Who sent how much to whom, and who had better stay together",
      NULL, NULL, "FlowList", 0 },
    { "POST", "/v1/network/reset", handle_network_reset, PERMISSION_ADMIN,
      "Remove bridge, rules and name server; nothing may run in the network", NULL, &empty_body_table, NULL, 0 },
    { "GET", "/v1/audit", handle_audit, PERMISSION_AUDIT, "Who changed what, newest first", &audit_query_table, NULL,
      "AuditList", 0 },
    { "POST", "/v1/fsck", handle_fsck, PERMISSION_ADMIN, "Check the invariants, and repair", &wait_query_table, &fsck_body_table,
      "Check", 0 },
    { 0 },
};
