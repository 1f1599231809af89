// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/placement-ledger.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int placement_ledger_init(struct placement_ledger *ledger, size_t decisions, struct nodes *nodes) {
    size_t room = 1;
    int r;

    while (room < decisions)
        room *= 2;
    *ledger = (struct placement_ledger){ 0 };
    r = nodes_remember(nodes, room * LEDGER_CHANGES);
    if (r < 0)
        return r;
    ledger->records = calloc(room, sizeof(*ledger->records));
    ledger->room = room;
    return ledger->records ? 0 : -ENOMEM;
}

void placement_ledger_done(struct placement_ledger *ledger) {
    free(ledger->records);
    *ledger = (struct placement_ledger){ 0 };
}

/* Is the decision made from the nodes and the request alone? */
static bool can_be_made_again(const struct placement *placement, const struct placement_request *request) {
    return !placement->options.mixture && !placement->options.fragments &&
           !(placement->options.score->adjust && request->until > 0);
}

/* Most have none of these sets. */
static bool has_sets(const struct shape *shape) {
    uint64_t any = shape->tolerated | shape->gpu_models;

    for (unsigned i = 0; i < TRAIT_WORDS; i++)
        any |= shape->traits[i] | shape->refused[i];
    return any != 0;
}

/* What is not there is not written: this is on the way of every decision. */
static void write_request(struct ledger_record *record, const struct placement_request *request) {
    const struct shape *shape = &request->shape;

    record->until = request->until;
    record->group = request->group;
    record->cpus = shape->cpus;
    record->memory = shape->memory;
    record->gpus_wanted = shape->gpus;
    record->gpu_milli = shape->gpu_milli;
    record->kind = shape->kind;
    record->has_sets = has_sets(shape);
    if (record->has_sets) {
        memcpy(record->sets, shape->traits, sizeof(shape->traits));
        memcpy(record->sets + TRAIT_WORDS, shape->refused, sizeof(shape->refused));
        record->sets[2 * TRAIT_WORDS] = shape->tolerated;
        record->sets[2 * TRAIT_WORDS + 1] = shape->gpu_models;
    }
    record->constraint_count = (uint16_t) request->constraint_count;
    for (unsigned i = 0; i < request->constraint_count; i++)
        record->constraints[i] = request->constraints[i];
}

static void read_request(const struct ledger_record *record, struct placement_request *ret) {
    placement_request_init(ret, NULL);
    ret->until = record->until;
    ret->group = record->group;
    ret->shape.cpus = record->cpus;
    ret->shape.memory = record->memory;
    ret->shape.gpus = record->gpus_wanted;
    ret->shape.gpu_milli = record->gpu_milli;
    ret->shape.kind = record->kind;
    if (record->has_sets) {
        memcpy(ret->shape.traits, record->sets, sizeof(ret->shape.traits));
        memcpy(ret->shape.refused, record->sets + TRAIT_WORDS, sizeof(ret->shape.refused));
        ret->shape.tolerated = record->sets[2 * TRAIT_WORDS];
        ret->shape.gpu_models = record->sets[2 * TRAIT_WORDS + 1];
    }
    ret->constraint_count = record->constraint_count;
    memcpy(ret->constraints, record->constraints, ret->constraint_count * sizeof(*ret->constraints));
}

static void write_record(struct placement_ledger *ledger, const struct placement_request *request, uint64_t now, bool full,
                         const struct placement_decision *decision) {
    struct ledger_record *record = &ledger->records[ledger->written++ & (ledger->room - 1)];

    record->number = decision->number;
    record->position = decision->position;
    record->shape = decision->shape;
    record->now = now;
    record->node = decision->node;
    record->score = decision->score;
    record->gpus = decision->gpus;
    record->candidate_count = decision->candidate_count;
    memcpy(record->refused, decision->refused, sizeof(record->refused));
    record->has_candidates = full;
    if (full)
        memcpy(record->candidates, decision->candidates, sizeof(record->candidates));
    else
        write_request(record, request);
}

int placement_ledger_place(struct placement_ledger *ledger, struct placement *placement,
                           const struct placement_request *request, uint64_t now, struct placement_decision *ret,
                           uint32_t *ret_slot) {
    bool full = !can_be_made_again(placement, request);
    int r = placement_place(placement, request, now, full, ret, ret_slot);

    if (r >= 0)
        write_record(ledger, request, now, full, ret);
    return r;
}

const struct ledger_record *placement_ledger_find(const struct placement_ledger *ledger, uint64_t number) {
    uint64_t kept = ledger->written < ledger->room ? ledger->written : ledger->room;

    /* Numbers rise, but not each decision need be written. */
    for (uint64_t i = 1; i <= kept; i++) {
        const struct ledger_record *record = &ledger->records[(ledger->written - i) & (ledger->room - 1)];
        if (record->number == number)
            return record;
        if (record->number < number)
            break;
    }
    return NULL;
}

static int make_again(const struct placement *placement, const struct ledger_record *record, struct placement_decision *ret) {
    _cleanup_nodes_ struct nodes *past = NULL;
    _cleanup_placement_ struct placement again = { 0 };
    struct placement_request request;
    int r = nodes_past(placement->nodes, record->position, &past);

    if (r < 0)
        return r;
    read_request(record, &request);
    placement_init(&again, past, &placement->options);
    again.decisions = record->number;
    r = placement_decide(&again, &request, record->now, true, ret);
    if (r < 0)
        return r;
    return ret->node == record->node && ret->score == record->score && ret->gpus == record->gpus && ret->shape == record->shape
               ? 0
               : -EBADMSG;
}

int placement_ledger_explain(const struct placement_ledger *ledger, const struct placement *placement, uint64_t number,
                             struct placement_decision *ret) {
    const struct ledger_record *record = placement_ledger_find(ledger, number);

    if (!record)
        return -ENOENT;
    if (!record->has_candidates)
        return make_again(placement, record, ret);
    *ret = (struct placement_decision){ .node = record->node, .score = record->score, .gpus = record->gpus,
                                        .candidate_count = record->candidate_count, .number = record->number,
                                        .shape = record->shape, .position = record->position };
    memcpy(ret->candidates, record->candidates, sizeof(ret->candidates));
    memcpy(ret->refused, record->refused, sizeof(ret->refused));
    return 0;
}
