// SPDX-License-Identifier: GPL-2.0-or-later
/* The description is made from the route rows and the field tables; only replies that no table describes are written
 * here. */
#include "api/openapi.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "api/route.h"
#include "base/json.h"
#include "base/text.h"
#include "model/image.h"
#include "model/instance.h"

#define TABLES_MAX 64

/* Replies that are put together by hand in the manager. */
static const struct {
    const char *name;
    const char *schema;
} replies[] = {
    { "Problem",
      "{\"type\":\"object\",\"description\":\"RFC 9457\",\"required\":[\"type\",\"title\",\"status\",\"code\",\"detail\"],"
      "\"properties\":{\"type\":{\"type\":\"string\"},\"title\":{\"type\":\"string\"},\"status\":{\"type\":\"integer\"},"
      "\"code\":{\"type\":\"string\",\"description\":\"stable\"},\"detail\":{\"type\":\"string\"},"
      "\"subject\":{\"type\":\"string\"},\"parameters\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
      "\"instance\":{\"type\":\"string\"},\"operation\":{\"$ref\":\"#/components/schemas/Operation\"}}}" },
    { "Operation",
      "{\"type\":\"object\",\"required\":[\"id\",\"type\",\"state\"],\"properties\":{"
      "\"id\":{\"type\":\"string\",\"format\":\"uuid\"},\"type\":{\"type\":\"string\"},"
      "\"object\":{\"type\":[\"string\",\"null\"]},\"actor\":{\"type\":[\"string\",\"null\"]},"
      "\"state\":{\"type\":\"string\",\"enum\":[\"running\",\"done\",\"failed\",\"canceled\"]},"
      "\"step\":{\"type\":[\"string\",\"null\"]},\"progress\":{\"type\":\"object\",\"properties\":{"
      "\"done\":{\"type\":\"integer\"},\"total\":{\"type\":\"integer\",\"description\":\"0: unknown\"}}},"
      "\"revision\":{\"type\":\"integer\"},\"error\":{\"type\":[\"object\",\"null\"]},\"result\":{},"
      "\"created\":{\"type\":\"string\",\"format\":\"date-time\"},"
      "\"finished\":{\"type\":[\"string\",\"null\"],\"format\":\"date-time\"}}}" },
    { "OperationList", "{\"type\":\"object\",\"required\":[\"operations\"],\"properties\":{\"operations\":"
                       "{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Operation\"}},"
                       "\"continue\":{\"type\":[\"string\",\"null\"]}}}" },
    { "Instance",
      "{\"type\":\"object\",\"required\":[\"name\",\"spec\",\"assigned\",\"status\"],\"properties\":{"
      "\"name\":{\"type\":\"string\"},\"spec\":{\"$ref\":\"#/components/schemas/InstanceSpec\"},"
      "\"assigned\":{\"$ref\":\"#/components/schemas/InstanceAssigned\"},"
      "\"status\":{\"$ref\":\"#/components/schemas/InstanceStatus\"}}}" },
    { "InstanceList",
      "{\"type\":\"object\",\"required\":[\"instances\"],\"properties\":{\"instances\":{\"type\":\"array\","
      "\"items\":{\"$ref\":\"#/components/schemas/Instance\"}},\"continue\":{\"type\":[\"string\",\"null\"]},"
      "\"revision\":{\"type\":\"integer\"}}}" },
    { "InstanceWait",
      "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"state\":{\"type\":\"string\"},"
      "\"exit_code\":{\"type\":[\"integer\",\"null\"]}}}" },
    { "Allocation", "{\"type\":\"object\",\"description\":\"every term of the formulas: the weight, the score, floor and limit, "
                    "what is granted, and the value in the control group\"}" },
    { "Queue",
      "{\"type\":\"object\",\"required\":[\"policy\",\"backfill\",\"admitted\",\"waiting\",\"queue\"],\"properties\":{"
      "\"policy\":{\"type\":\"string\"},\"backfill\":{\"type\":\"string\"},\"estimates\":{\"type\":\"string\"},"
      "\"admitted\":{\"type\":\"integer\"},\"waiting\":{\"type\":\"integer\"},\"queue\":{\"type\":\"array\","
      "\"items\":{\"type\":\"object\",\"description\":\"one that waits: position, what it asks for, expected start, "
      "reason\"}}}}" },
    { "WhatIf",
      "{\"type\":\"object\",\"required\":[\"policy\",\"backfill\",\"queue\"],\"properties\":{\"policy\":{\"type\":\"string\"},"
      "\"backfill\":{\"type\":\"string\"},\"queue\":{\"type\":\"array\",\"items\":{\"type\":\"object\","
      "\"description\":\"one that waits: its position and expected start now, and then\"}},"
      "\"compared\":{\"type\":\"integer\"},\"placement\":{\"type\":[\"object\",\"null\"],"
      "\"description\":\"if the node is supposed otherwise: who could not start there, now and then\"}}}" },
    { "Why", "{\"type\":\"object\",\"required\":[\"name\",\"state\"],\"description\":\"why it waits or runs, the decision "
             "that started it, and what would let it start now\",\"properties\":{\"could_give_way\":{\"type\":"
             "[\"object\",\"null\"],\"description\":\"of one that waits: why nobody is asked to give way for it, and who "
             "could\",\"properties\":{\"reason\":{\"type\":\"string\"},\"message\":{\"type\":\"string\"},\"who\":{"
             "\"type\":\"array\",\"maxItems\":8,\"items\":{\"type\":\"object\",\"description\":\"way, what it frees, "
             "what it takes and when it may be asked (seconds), and what is in the way\"}},\"more\":{\"type\":"
             "\"integer\"}}}}}" },
    { "Plan",
      "{\"type\":\"object\",\"required\":[\"id\",\"state\",\"plan\"],\"properties\":{\"id\":{\"type\":\"string\"},"
      "\"state\":{\"type\":\"string\",\"enum\":[\"open\",\"applied\",\"expired\",\"recorded\"]},\"made\":{\"type\":\"string\","
      "\"format\":\"date-time\"},\"valid_seconds\":{\"type\":\"integer\"},\"plan\":{\"type\":\"object\",\"properties\":{"
      "\"steps\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"description\":\"instance, action, reason, "
      "constraint, before, after, gain, cost, and the use that was measured\"}},\"kept\":{\"type\":\"array\",\"items\":"
      "{\"type\":\"object\",\"description\":\"an instance without a step, and why\"}},\"gain\":{\"type\":\"object\"},"
      "\"waiting\":{\"type\":[\"object\",\"null\"]},\"parameters\":{\"type\":\"object\"}}}}}" },
    { "Decision", "{\"type\":\"object\",\"description\":\"input, winner, candidates with the terms of their scores, what "
                  "would have changed it, and whether making it again gives the same\"}" },
    { "ImageList", "{\"type\":\"object\",\"required\":[\"images\"],\"properties\":{\"images\":"
                   "{\"type\":\"array\",\"items\":{\"$ref\":\"#/components/schemas/Image\"}},"
                   "\"continue\":{\"type\":[\"string\",\"null\"]}}}" },
    { "Prune", "{\"type\":\"object\",\"properties\":{\"bytes\":{\"type\":\"integer\"},"
               "\"removed\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}" },
    { "Index", "{\"type\":\"object\",\"properties\":{\"version\":{\"type\":\"string\"},"
               "\"resources\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}" },
    { "Version", "{\"type\":\"object\",\"properties\":{\"version\":{\"type\":\"string\"},"
                 "\"api\":{\"type\":\"string\"}}}" },
    { "Advice", "{\"type\":\"object\",\"description\":\"the kind, why, a score per kind and criterion, and what would "
                "change the answer\"}" },
    { "Node", "{\"type\":\"object\",\"description\":\"host, capacity, what is promised and what is real\"}" },
    { "Findings", "{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{"
                  "\"level\":{\"type\":\"string\",\"enum\":[\"ok\",\"note\",\"warning\",\"error\"]},"
                  "\"topic\":{\"type\":\"string\"},\"text\":{\"type\":\"string\"},"
                  "\"reason\":{\"type\":[\"string\",\"null\"]},\"advice\":{\"type\":[\"string\",\"null\"]}}}}" },
    { "Lifecycle", "{\"type\":\"object\",\"description\":\"states, events and every legal transition\"}" },
    { "AuditList", "{\"type\":\"object\",\"properties\":{\"audit\":{\"type\":\"array\","
                   "\"items\":{\"type\":\"object\"}}}}" },
    { "NetworkList", "{\"type\":\"object\",\"properties\":{\"networks\":{\"type\":\"array\","
                     "\"items\":{\"type\":\"object\"}}}}" },
    { "FlowList", "{\"type\":\"object\",\"required\":[\"flows\",\"together\"],\"properties\":{\"flows\":{\"type\":\"array\","
                  "\"items\":{\"type\":\"object\"}},\"together\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}}}}" },
    { "Check", "{\"type\":\"object\",\"required\":[\"clean\",\"problems\"],\"properties\":{\"clean\":"
               "{\"type\":\"boolean\"},\"problems\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}" },
};

static const struct {
    const char *name;
    const struct table *table;
} models[] = {
    { "InstanceSpec", &instance_spec_table },
    { "InstanceAssigned", &instance_assigned_table },
    { "InstanceStatus", &instance_status_table },
    { "Image", &image_table },
};

static void emit_reference(const char *name, const char *suffix, struct emitter *emitter) {
    char reference[160];

    snprintf(reference, sizeof(reference), "#/components/schemas/%s%s", name, suffix);
    emit_object(emitter);
    emit_key_text(emitter, "$ref", reference);
    emit_object_end(emitter);
}

/* "/v1/images/{name+}" is written "/v1/images/{name}". */
static void template_of(const char *pattern, char *text, size_t size) {
    size_t length = 0;

    for (; *pattern && length + 1 < size; pattern++)
        if (*pattern != '+')
            text[length++] = *pattern;
    text[length] = '\0';
}

/* "get_instances_name_logs" */
static void operation_id(const struct route *route, char *text, size_t size) {
    size_t length = 0;
    const char *path = route->pattern + (text_starts(route->pattern, "/v1/") ? 3 : 0);

    for (const char *c = route->method; *c && length + 2 < size; c++)
        text[length++] = (char) tolower(*c);
    for (; *path && length + 1 < size; path++)
        if (isalnum((unsigned char) *path) || (*path == '.'))
            text[length++] = *path == '.' ? '_' : *path;
        else if (*path == '/')
            text[length++] = '_';
    text[length] = '\0';
}

static void emit_path_parameter(const char *start, struct emitter *emitter) {
    size_t length = strcspn(start, "+}");

    emit_object(emitter);
    emit_key(emitter, "name");
    emit_text_sized(emitter, start, length);
    emit_key_text(emitter, "in", "path");
    emit_key_boolean(emitter, "required", true);
    emit_key(emitter, "schema");
    emit_raw(emitter, "{\"type\":\"string\"}");
    emit_object_end(emitter);
}

static void emit_query_parameter(const struct table *table, const struct field *field, struct emitter *emitter) {
    char suffix[96];

    emit_object(emitter);
    emit_key_text(emitter, "name", field->name);
    emit_key_text(emitter, "in", "query");
    emit_key_text(emitter, "description", field->help);
    emit_key_boolean(emitter, "required", field->required);
    emit_key(emitter, "schema");
    snprintf(suffix, sizeof(suffix), "/properties/%s", field->name);
    emit_reference(table->name, suffix, emitter);
    emit_object_end(emitter);
}

static void emit_header_parameter(const char *name, const char *help, struct emitter *emitter) {
    emit_object(emitter);
    emit_key_text(emitter, "name", name);
    emit_key_text(emitter, "in", "header");
    emit_key_text(emitter, "description", help);
    emit_key(emitter, "schema");
    emit_raw(emitter, "{\"type\":\"string\"}");
    emit_object_end(emitter);
}

static void emit_parameters(const struct route *route, struct emitter *emitter) {
    emit_key(emitter, "parameters");
    emit_array(emitter);
    for (const char *c = route->pattern; (c = strchr(c, '{')); c++)
        emit_path_parameter(c + 1, emitter);
    for (size_t i = 0; route->query && i < route->query->count; i++)
        emit_query_parameter(route->query, &route->query->fields[i], emitter);
    if (!strcmp(route->pattern, "/v1/instances") && !strcmp(route->method, "POST"))
        emit_header_parameter("Idempotency-Key", "The same key gives the same operation for a day.", emitter);
    if (text_starts(route->pattern, "/v1/instances/{name}") && (route->flags & ROUTE_OPERATION))
        emit_header_parameter("If-Match", "Only if the instance still has this entity tag.", emitter);
    emit_array_end(emitter);
}

static void emit_content(const char *media_type, const char *schema, const char *suffix, struct emitter *emitter) {
    emit_key(emitter, media_type);
    emit_object(emitter);
    if (schema) {
        emit_key(emitter, "schema");
        emit_reference(schema, suffix, emitter);
    }
    emit_object_end(emitter);
}

static void emit_body(const struct route *route, struct emitter *emitter) {
    if (!(route->flags & ROUTE_UPLOAD) && (!route->body || (route->flags & ROUTE_SOCKET)))
        return;
    emit_key(emitter, "requestBody");
    emit_object(emitter);
    emit_key_boolean(emitter, "required", route->flags & (ROUTE_REQUIRED | ROUTE_UPLOAD));
    emit_key(emitter, "content");
    emit_object(emitter);
    if (route->flags & ROUTE_UPLOAD)
        emit_content(!strcmp(route->method, "PUT") ? "application/x-tar" : "application/octet-stream", NULL, "",
                     emitter);
    else
        emit_content("application/json", route->body->name, "-request", emitter);
    if (route->flags & ROUTE_PATCH)
        emit_content("application/merge-patch+json", route->body->name, "-request", emitter);
    emit_object_end(emitter);
    emit_object_end(emitter);
}

static void emit_response(const char *status, const char *description, const struct route *route,
                          struct emitter *emitter) {
    emit_key(emitter, status);
    emit_object(emitter);
    emit_key_text(emitter, "description", description);
    if (route->reply) {
        emit_key(emitter, "content");
        emit_object(emitter);
        if (strchr(route->reply, '/'))
            emit_content(route->reply, NULL, "", emitter);
        else
            emit_content("application/json", route->reply, "", emitter);
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
}

static void emit_responses(const struct route *route, struct emitter *emitter) {
    emit_key(emitter, "responses");
    emit_object(emitter);
    if (route->flags & ROUTE_SOCKET)
        emit_response("101", "the connection becomes a WebSocket", route, emitter);
    else if (route->reply)
        emit_response("200", route->flags & ROUTE_OPERATION ? "it is over" : "the answer", route, emitter);
    else
        emit_response("204", "done", route, emitter);
    if (route->flags & ROUTE_OPERATION)
        emit_response("202", "it goes on; see Location", route, emitter);
    emit_key(emitter, "default");
    emit_object(emitter);
    emit_key_text(emitter, "description", "what went wrong");
    emit_key(emitter, "content");
    emit_object(emitter);
    emit_content("application/problem+json", "Problem", "", emitter);
    emit_object_end(emitter);
    emit_object_end(emitter);
    emit_object_end(emitter);
}

static void emit_operation(const struct route *route, struct emitter *emitter) {
    char text[128];
    size_t i;

    for (i = 0; route->method[i] && i < sizeof(text) - 1; i++)
        text[i] = (char) tolower(route->method[i]);
    text[i] = '\0';
    emit_key(emitter, text);
    emit_object(emitter);
    operation_id(route, text, sizeof(text));
    emit_key_text(emitter, "operationId", text);
    emit_key_text(emitter, "summary", route->summary);
    emit_key_text(emitter, "x-permission", permission_name(route->permission));
    emit_parameters(route, emitter);
    emit_body(route, emitter);
    emit_responses(route, emitter);
    emit_object_end(emitter);
}

static bool is_first_of_pattern(size_t index) {
    size_t position = index, other = 0;
    const char *pattern = route_next(&position)->pattern;

    while (other < index)
        if (!strcmp(route_next(&other)->pattern, pattern))
            return false;
    return true;
}

static void emit_paths(struct emitter *emitter) {
    const struct route *route, *other;
    size_t position = 0;

    emit_key(emitter, "paths");
    emit_object(emitter);
    while ((route = route_next(&position))) {
        char path[128];
        size_t next = 0;

        if (!is_first_of_pattern(position - 1))
            continue;
        template_of(route->pattern, path, sizeof(path));
        emit_key(emitter, path);
        emit_object(emitter);
        while ((other = route_next(&next)))
            if (!strcmp(other->pattern, route->pattern))
                emit_operation(other, emitter);
        emit_object_end(emitter);
    }
    emit_object_end(emitter);
}

/* The schema of a request's table, once, however many routes share it. */
static void emit_table(const struct table *table, const char *suffix, const struct table **done, size_t *count,
                       struct emitter *emitter) {
    char name[96];

    for (size_t i = 0; i < *count; i++)
        if (done[i] == table)
            return;
    if (!table || *count == TABLES_MAX)
        return;
    done[(*count)++] = table;
    snprintf(name, sizeof(name), "%s%s", table->name, suffix);
    emit_key(emitter, name);
    table_emit_schema(table, false, emitter);
}

static void emit_schemas(struct emitter *emitter) {
    const struct table *done[TABLES_MAX];
    const struct route *route;
    size_t count = 0, position = 0;

    emit_key(emitter, "schemas");
    emit_object(emitter);
    while ((route = route_next(&position))) {
        emit_table(route->query, "", done, &count, emitter);
        emit_table(route->body, "-request", done, &count, emitter);
    }
    for (size_t i = 0; i < ELEMENTS(models); i++) {
        emit_key(emitter, models[i].name);
        table_emit_schema(models[i].table, true, emitter);
    }
    for (size_t i = 0; i < ELEMENTS(replies); i++) {
        emit_key(emitter, replies[i].name);
        emit_raw(emitter, replies[i].schema);
    }
    emit_object_end(emitter);
}

int openapi_build(struct buffer *out) {
    struct emitter emitter = EMITTER_INIT(out);

    emit_object(&emitter);
    emit_key_text(&emitter, "openapi", "3.1.0");
    emit_key(&emitter, "info");
    emit_object(&emitter);
    emit_key_text(&emitter, "title", "Polder");
    emit_key_text(&emitter, "version", POLDER_VERSION);
    emit_key_text(&emitter, "summary", "Virtual machines, microVMs and containers of one host");
    emit_key(&emitter, "license");
    emit_raw(&emitter, "{\"name\":\"GPL-2.0-or-later\",\"identifier\":\"GPL-2.0-or-later\"}");
    emit_object_end(&emitter);
    emit_key(&emitter, "servers");
    emit_raw(&emitter, "[{\"url\":\"http://localhost/\",\"description\":\"over the socket /run/polder/polder.sock\"}]");
    emit_paths(&emitter);
    emit_key(&emitter, "components");
    emit_object(&emitter);
    emit_schemas(&emitter);
    emit_object_end(&emitter);
    emit_object_end(&emitter);
    return out->failed ? -ENOMEM : 0;
}
