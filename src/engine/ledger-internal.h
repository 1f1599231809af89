// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/engine-internal.h"
#include "engine/ledger.h"

#define LEDGER_CANDIDATES 8
#define LEDGER_DELTA 16    /* events named in a decision */
#define LEDGER_COUNTED 1000 /* of the queue, for the count of each reason */

struct ledger_candidate {
    struct engine_entry *entry;
    struct policy_input input;
    double score;
    const char *lacks; /* "cpus", "memory" or NULL */
};

struct ledger_decision {
    uint64_t number;
    char *id; /* of the instance */
    char *text;
};

struct ledger {
    struct buffer journal;
    bool lost; /* some of it was dropped: whoever takes it is told */
    uint64_t next, digest;
    size_t events, delta_count; /* since the last decision */
    char *delta[LEDGER_DELTA];
    struct ledger_decision kept[LEDGER_KEPT]; /* by number */
    /* Of the pass under way: */
    struct ledger_candidate candidates[LEDGER_CANDIDATES];
    size_t candidate_count, waiting, barred, counted, counts[3]; /* cpus, memory, order */
    struct demand room;
    int64_t now;
};

void ledger_free(struct ledger *ledger);
/* Each does nothing while nothing is recorded. */
void ledger_note_request(struct engine *engine, const char *what, const struct engine_request *request, uint64_t now);
void ledger_note_id(struct engine *engine, const char *what, const char *id, bool ended, uint64_t now);
void ledger_note_options(struct engine *engine, const struct engine_options *options, uint64_t now);
void ledger_note_measure(struct engine *engine, enum engine_cost what, uint64_t memory, uint64_t duration, uint64_t now);
void ledger_note_place(struct engine *engine, uint64_t now);
void ledger_note_run(struct engine *engine, uint64_t now);
/* How what was noted came out; returns it. What there was no memory for did not happen, or by halves: the journal is lost. */
int ledger_outcome(struct engine *engine, int r);
/* Before a pass, and at each of its decisions. */
void ledger_begin(struct engine *engine, uint64_t now);
void ledger_decided(struct engine *engine, struct engine_entry *entry, enum engine_verdict verdict);

/* What was before does not count any more. */
void ledger_cut(struct ledger *ledger, uint64_t digest);
/* The lists that are not empty, as members. */
bool ledger_has_wishes(const struct engine_wishes *wishes);
void ledger_emit_wishes(const struct engine_wishes *wishes, struct emitter *emitter);
void ledger_emit_options(struct emitter *emitter, const struct engine_options *options);
