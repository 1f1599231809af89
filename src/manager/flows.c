// SPDX-License-Identifier: GPL-2.0-or-later
/* C_c = P_c x R_c: what instances send to each other is the number of packets times the mean size of one. Who exchanges
 * most of what it exchanges with one other is better off on the same node as that. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "manager/internal.h"

#define TOGETHER_LEAST 65536 /* bytes; less says nothing */

struct flow {
    const char *from, *to; /* names */
    uint64_t packets, bytes;
};

static int flow_compare(const void *first, const void *second) {
    const struct flow *a = first, *b = second;
    int order = strcmp(a->from, b->from);

    if (a->bytes != b->bytes)
        return a->bytes > b->bytes ? -1 : 1;
    return order ? order : strcmp(a->to, b->to);
}

static void emit_flow(const struct flow *flow, struct emitter *emitter) {
    emit_object(emitter);
    emit_key_text(emitter, "from", flow->from);
    emit_key_text(emitter, "to", flow->to);
    emit_key_unsigned(emitter, "packets", flow->packets);
    emit_key(emitter, "bytes_per_packet");
    emit_double(emitter, (double) flow->bytes / (double) flow->packets);
    emit_key_unsigned(emitter, "bytes", flow->bytes);
    emit_object_end(emitter);
}

/* What one exchanges with another, both ways. */
static uint64_t exchanged(const struct flow *flows, size_t count, const char *name, const char *other) {
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        if ((strcmp(flows[i].from, name) == 0 && (!other || strcmp(flows[i].to, other) == 0)) ||
            (strcmp(flows[i].to, name) == 0 && (!other || strcmp(flows[i].from, other) == 0)))
            sum += flows[i].bytes;
    return sum;
}

static bool is_named_before(const struct flow *flows, size_t before, const char *name) {
    for (size_t i = 0; i < before; i++)
        if (strcmp(flows[i].from, name) == 0)
            return true;
    return false;
}

/* The largest flow from it leads to whom it exchanges most with, or somebody else does: all are looked at. */
static void emit_hint(const struct flow *flows, size_t count, const char *name, struct emitter *emitter) {
    uint64_t all = exchanged(flows, count, name, NULL), most = 0;
    const char *with = NULL;

    for (size_t i = 0; i < count; i++) {
        bool sends = strcmp(flows[i].from, name) == 0, receives = strcmp(flows[i].to, name) == 0;
        const char *other = sends ? flows[i].to : flows[i].from;
        uint64_t bytes = sends || receives ? exchanged(flows, count, name, other) : 0;
        if (bytes > most) {
            most = bytes;
            with = other;
        }
    }
    if (most < TOGETHER_LEAST || 2 * most < all)
        return;
    emit_object(emitter);
    emit_key_text(emitter, "name", name);
    emit_key_text(emitter, "with", with);
    emit_key_unsigned(emitter, "bytes", most);
    emit_key_unsigned(emitter, "percent", most * 100 / all);
    emit_object_end(emitter);
}

#define HINTED_FLOWS 128 /* of the largest: hints look at each pair of pairs for each name */

static void emit_flows(const struct flow *flows, size_t count, struct emitter *emitter) {
    size_t looked = count < HINTED_FLOWS ? count : HINTED_FLOWS;

    emit_object(emitter);
    emit_key(emitter, "flows");
    emit_array(emitter);
    for (size_t i = 0; i < count; i++)
        emit_flow(&flows[i], emitter);
    emit_array_end(emitter);
    emit_key(emitter, "together");
    emit_array(emitter);
    for (size_t i = 0; i < looked; i++)
        if (!is_named_before(flows, i, flows[i].from))
            emit_hint(flows, looked, flows[i].from, emitter);
    emit_array_end(emitter);
    emit_object_end(emitter);
}

/* Those between instances that are there, the largest first; names are borrowed. Allocated, NULL without memory. */
static struct flow *named_flows(struct manager *manager, const struct network_flow *found, size_t count, size_t *ret_count) {
    struct flow *flows = calloc(count + 1, sizeof(*flows));
    size_t named = 0;

    for (size_t i = 0; flows && i < count; i++) {
        const struct instance *from = registry_find(manager, found[i].from), *to = registry_find(manager, found[i].to);
        if (from && to)
            flows[named++] = (struct flow){ from->name, to->name, found[i].packets, found[i].bytes };
    }
    if (flows)
        qsort(flows, named, sizeof(*flows), flow_compare);
    *ret_count = named;
    return flows;
}

int manager_flows_emit(struct manager *manager, struct emitter *emitter, struct error *error) {
    _cleanup_free_ struct network_flow *found = NULL;
    _cleanup_free_ struct flow *flows = NULL;
    size_t count = 0, named;
    int r = manager->network ? network_flows(manager->network, &found, &count, error) : 0;

    if (r < 0)
        return r;
    flows = named_flows(manager, found, count, &named);
    if (!flows)
        return error_errno(error, -ENOMEM, "sorting what instances sent");
    emit_flows(flows, named, emitter);
    return 0;
}

/* --- metrics --------------------------------------------------------------------------------------------------------- */

#define METRIC_FLOWS 1000 /* the largest: pairs are many */

void flows_done(struct flows_state *state) {
    fiber_unref(state->reader);
    free(state->found);
    *state = (struct flows_state){ 0 };
}

static int read_main(void *userdata) {
    _cleanup_error_ struct error ignored = ERROR_INIT;
    struct manager *manager = userdata;
    struct network_flow *found = NULL;
    size_t count = 0;

    if (network_flows(manager->network, &found, &count, &ignored) < 0)
        return 0; /* the next may; what is known stays */
    free(manager->flows.found);
    manager->flows.found = found;
    manager->flows.count = count;
    return 0;
}

static void begin_reading(struct manager *manager) {
    struct flows_state *state = &manager->flows;

    if (!manager->network || manager->stopping || (state->reader && !fiber_is_done(state->reader)))
        return;
    fiber_unref(STEAL_PTR(state->reader));
    (void) fiber_start(&state->reader, "flows", read_main, manager);
}

static void add_flows(const struct manager *manager, const char *name, const char *help, const struct flow *flows, size_t count,
                      bool bytes, struct buffer *out) {
    buffer_addf(out, "# TYPE %s counter\n# HELP %s %s\n", name, name, help);
    for (size_t i = 0; i < count && i < METRIC_FLOWS; i++)
        buffer_addf(out, "%s{from=\"%s\",to=\"%s\",node=\"%s\"} %llu\n", name, flows[i].from, flows[i].to,
                    manager->facts.hostname, (unsigned long long) (bytes ? flows[i].bytes : flows[i].packets));
}

void flows_metrics(struct manager *manager, struct buffer *out) {
    _cleanup_free_ struct flow *flows = NULL;
    size_t count;

    begin_reading(manager);
    flows = named_flows(manager, manager->flows.found, manager->flows.count, &count);
    if (!flows)
        return;
    add_flows(manager, "polder_flow_packets_total", "Packets that an instance sent to another.", flows, count, false, out);
    add_flows(manager, "polder_flow_bytes_total", "Bytes that an instance sent to another: packets x their mean size.", flows, count,
              true, out);
}
