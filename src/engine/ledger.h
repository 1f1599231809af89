// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/cleanup.h"
#include "base/json.h"
#include "engine/engine.h"

/* What the engine was told, and what it decided, so that each decision can be explained and made again. The journal is lines
 * of JSON: a checkpoint (the whole state), events (the calls that change the state, with their time), and decisions. The
 * engine being pure, a checkpoint and the events after it give the decisions again, byte by byte. */

#define ENGINE_VERSION 4 /* raised when the same events would give other decisions, or other words about them */
#define LEDGER_KEPT 512  /* decisions in memory, each below 8 KiB */

/* Records from now on; decisions are numbered from `next`. -ENOMEM. */
int engine_record(struct engine *engine, uint64_t next);
/* What was recorded since the last take; *ret is allocated, NULL when there is nothing. -ENOMEM: what was recorded is lost, so
 * that a checkpoint must follow. */
int engine_take_journal(struct engine *engine, char **ret, size_t *ret_size);
/* The whole state at this moment, apart from the engine, which may go on: nothing of what was recorded before counts after it.
 * No decision may be untaken (engine_next). -ENOMEM. */
struct engine_snapshot;
int engine_snapshot_take(struct engine *engine, struct engine_snapshot **ret);
void engine_snapshot_free(struct engine_snapshot *snapshot);
DEFINE_CLEANUP(struct engine_snapshot *, engine_snapshot_free)
#define _cleanup_snapshot_ _cleanup_(engine_snapshot_freep)
/* It as one line, and a newline; on any thread, for with 10,000 instances that takes a while. -ENOMEM. */
int engine_snapshot_write(const struct engine_snapshot *snapshot, struct buffer *out);
/* Both in one. */
int engine_checkpoint(struct engine *engine, struct buffer *out);

/* Members "score", "formula" and "terms" of an object: what the policy makes of one that waits, as computed. Nothing for who
 * does not wait. */
void engine_emit_score(const struct engine *engine, const char *id, uint64_t now, struct emitter *emitter);

/* A line of somebody else's beside the events, that making decisions again passes over: one object, whose first member is no
 * "do". Without effect while nothing is recorded. */
void engine_note(struct engine *engine, const char *line);
/* The recorded text of a decision, borrowed until the next pass; NULL: not in memory any more. */
const char *engine_decision(const struct engine *engine, uint64_t number);
/* Of the last decision about an instance; 0: none in memory. */
uint64_t engine_decision_about(const struct engine *engine, const char *id);
uint64_t engine_decision_last(const struct engine *engine); /* 0: none yet */

/* For those that read a journal without doing it again. The request of a "submit", "occupy" or "change", its texts borrowed. */
void engine_read_request(struct json_object *line, struct engine_request *ret);
/* One of a checkpoint's "entries": its request likewise, and where it stands. -EINVAL: it is none. */
struct engine_recorded {
    int64_t submitted;
    bool admitted;
};
int engine_read_entry(struct json_object *entry, struct engine_request *ret_request, struct engine_recorded *ret);

/* A new engine as the checkpoint has it, which records. NOT_SUPPORTED names another version; BAD_JSON. */
int engine_restore(struct json_object *checkpoint, struct engine **ret, struct error *error);
/* Does what a line of the journal says; a decision does nothing. BAD_VALUE: an unknown event. */
int engine_repeat(struct engine *engine, struct json_object *line, struct error *error);
