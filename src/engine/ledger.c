// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/ledger.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/text.h"
#include "engine/ledger-internal.h"
#include "engine/queue-internal.h"

#define JOURNAL_MAX (8 << 20) /* a taker that stays away for so much is told that it is lost, and makes a checkpoint */

static const char *const verdict_names[] = { "start", "pause", "suspend" };

void ledger_free(struct ledger *ledger) {
    if (!ledger)
        return;
    buffer_done(&ledger->journal);
    for (size_t i = 0; i < LEDGER_DELTA; i++)
        free(ledger->delta[i]);
    for (size_t i = 0; i < LEDGER_KEPT; i++) {
        free(ledger->kept[i].id);
        free(ledger->kept[i].text);
    }
    free(ledger);
}

int engine_record(struct engine *engine, uint64_t next) {
    if (!engine->ledger)
        engine->ledger = calloc(1, sizeof(*engine->ledger));
    if (!engine->ledger)
        return -ENOMEM;
    engine->ledger->next = next;
    return 0;
}

int engine_take_journal(struct engine *engine, char **ret, size_t *ret_size) {
    struct ledger *ledger = engine->ledger;

    *ret = NULL;
    *ret_size = 0;
    if (!ledger || (ledger->journal.size == 0 && !ledger->journal.failed && !ledger->lost))
        return 0;
    if (ledger->lost || ledger->journal.failed) {
        ledger->lost = false;
        buffer_reset(&ledger->journal);
        return -ENOMEM;
    }
    *ret_size = ledger->journal.size;
    return buffer_take(&ledger->journal, ret);
}

/* --- events ----------------------------------------------------------------------------------------------------------- */

/* A delta that could not be kept is only missing in words: its digest is there. */
static void note_delta(struct ledger *ledger, const char *what, const char *name) {
    ledger->events++;
    if (ledger->delta_count < LEDGER_DELTA)
        ledger->delta[ledger->delta_count++] = text_format("%s%s%s", what, *name ? " " : "", name);
}

static void delta_clear(struct ledger *ledger) {
    for (size_t i = 0; i < ledger->delta_count; i++) {
        free(ledger->delta[i]);
        ledger->delta[i] = NULL;
    }
    ledger->delta_count = ledger->events = 0;
}

static uint64_t digest_add(uint64_t digest, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ (uint8_t) text[i]) * UINT64_C(1099511628211); /* FNV-1a */
    return digest;
}

/* An event's line under way. */
struct line {
    struct ledger *ledger;
    struct emitter emitter;
    size_t from; /* where it begins in the journal */
};

/* False: nothing is recorded. */
static bool line_begin(const struct engine *engine, const char *what, uint64_t now, struct line *ret) {
    struct ledger *ledger = engine->ledger;

    if (!ledger)
        return false;
    if (ledger->journal.size > JOURNAL_MAX) {
        buffer_reset(&ledger->journal);
        ledger->lost = true;
    }
    *ret = (struct line){ ledger, EMITTER_INIT(&ledger->journal), ledger->journal.size };
    emit_object(&ret->emitter);
    emit_key_text(&ret->emitter, "do", what);
    emit_key_integer(&ret->emitter, "now", (int64_t) now);
    return true;
}

static void line_end(struct line *line) {
    struct ledger *ledger = line->ledger;

    emit_object_end(&line->emitter);
    if (ledger->journal.size > line->from)
        ledger->digest = digest_add(ledger->digest, ledger->journal.data + line->from, ledger->journal.size - line->from);
    buffer_add_text(&ledger->journal, "\n");
}

bool ledger_has_wishes(const struct engine_wishes *wishes) {
    for (int i = 0; i < WISH_COUNT; i++)
        if (wishes->lists[i] && wishes->lists[i][0])
            return true;
    return false;
}

void ledger_emit_wishes(const struct engine_wishes *wishes, struct emitter *emitter) {
    for (int i = 0; i < WISH_COUNT; i++)
        if (wishes->lists[i] && wishes->lists[i][0])
            emit_key_list(emitter, engine_wish_names[i], wishes->lists[i]);
}

void ledger_note_place(struct engine *engine, uint64_t now) {
    struct line line;

    if (!line_begin(engine, "place", now, &line))
        return;
    emit_key_list(&line.emitter, "traits", engine->place.traits);
    emit_key_list(&line.emitter, "taints", engine->place.taints);
    line_end(&line);
    note_delta(engine->ledger, "node", "labels and taints");
}

void ledger_note_request(struct engine *engine, const char *what, const struct engine_request *request, uint64_t now) {
    const char *name = request->name ? request->name : request->id;
    struct line line;

    if (!line_begin(engine, what, now, &line))
        return;
    emit_key_text(&line.emitter, "id", request->id);
    emit_key_text(&line.emitter, "name", name);
    emit_key_integer(&line.emitter, "kind", request->kind);
    emit_key_integer(&line.emitter, "cpus", (int64_t) request->cpus);
    emit_key_integer(&line.emitter, "memory", (int64_t) request->memory);
    emit_key_integer(&line.emitter, "priority", request->priority);
    emit_key_integer(&line.emitter, "owner", (int64_t) request->owner);
    emit_key_integer(&line.emitter, "class", (int64_t) request->class);
    emit_key_integer(&line.emitter, "waited", (int64_t) request->waited);
    emit_key_integer(&line.emitter, "expected", (int64_t) request->expected);
    emit_key_integer(&line.emitter, "limit", (int64_t) request->limit);
    emit_key_boolean(&line.emitter, "service", request->service);
    emit_key_integer(&line.emitter, "done", (int64_t) request->done);
    emit_key_integer(&line.emitter, "yields", request->yields);
    if (ledger_has_wishes(&request->wishes)) {
        emit_key(&line.emitter, "wishes");
        emit_object(&line.emitter);
        ledger_emit_wishes(&request->wishes, &line.emitter);
        emit_object_end(&line.emitter);
    }
    if (request->guarantee.cpus || request->guarantee.memory) {
        emit_key_integer(&line.emitter, "guarantee_cpus", (int64_t) request->guarantee.cpus);
        emit_key_integer(&line.emitter, "guarantee_memory", (int64_t) request->guarantee.memory);
        emit_key_boolean(&line.emitter, "guarantee_owned", request->guarantee.owned);
    }
    line_end(&line);
    note_delta(engine->ledger, what, name);
}

void ledger_note_id(struct engine *engine, const char *what, const char *id, bool ended, uint64_t now) {
    const struct engine_entry *entry = map_get(engine->entries, id);
    struct line line;

    if (!entry || !line_begin(engine, what, now, &line))
        return;
    emit_key_text(&line.emitter, "id", id);
    emit_key_boolean(&line.emitter, "ended", ended);
    line_end(&line);
    note_delta(engine->ledger, what, entry->name);
}

void ledger_note_measure(struct engine *engine, enum engine_cost what, uint64_t memory, uint64_t duration, uint64_t now) {
    struct line line;

    if (!line_begin(engine, "measure", now, &line))
        return;
    emit_key_text(&line.emitter, "what", engine_cost_names[what]);
    emit_key_unsigned(&line.emitter, "memory", memory);
    emit_key_unsigned(&line.emitter, "duration", duration);
    line_end(&line);
    note_delta(engine->ledger, "measured", engine_cost_names[what]);
}

void ledger_emit_options(struct emitter *emitter, const struct engine_options *options) {
    emit_key_text(emitter, "policy", options->policy->name);
    emit_key_integer(emitter, "backfill", options->backfill);
    emit_key_integer(emitter, "estimate", options->estimate);
    emit_key_integer(emitter, "residency", (int64_t) options->residency);
    emit_key(emitter, "parameters");
    emit_object(emitter);
    for (const struct policy_parameter_row *row = policy_parameter_rows; row->name; row++)
        emit_key_integer(emitter, row->name,
                         bits_of(*(const double *) ((const char *) &options->parameters + row->offset)));
    emit_object_end(emitter);
}

void ledger_note_options(struct engine *engine, const struct engine_options *options, uint64_t now) {
    struct line line;

    if (!line_begin(engine, "configure", now, &line))
        return;
    ledger_emit_options(&line.emitter, options);
    line_end(&line);
    note_delta(engine->ledger, "policy", options->policy->name);
}

/* A pass may score anew, so that when it was counts too. */
void ledger_note_run(struct engine *engine, uint64_t now) {
    struct line line;

    if (!line_begin(engine, "run", now, &line))
        return;
    line_end(&line);
}

int ledger_outcome(struct engine *engine, int r) {
    if (r == -ENOMEM && engine->ledger)
        engine->ledger->lost = true;
    return r;
}

/* --- decisions -------------------------------------------------------------------------------------------------------- */

static const char *lacks_of(struct demand wanted, struct demand room) {
    if ((int64_t) wanted.cpus > (int64_t) room.cpus)
        return "cpus";
    return (int64_t) wanted.memory > (int64_t) room.memory ? "memory" : NULL;
}

void ledger_begin(struct engine *engine, uint64_t now) {
    struct ledger *ledger = engine->ledger;
    struct queue *queue = engine->queue;
    struct queue_cursor cursor = { 0 };
    uint32_t handle;

    if (!ledger)
        return;
    ledger->now = (int64_t) now;
    ledger->room = queue_free_room(queue, (int64_t) now);
    ledger->waiting = queue_waiting(queue);
    ledger->barred = queue_barred(queue);
    ledger->candidate_count = ledger->counted = 0; /* those of the last pass may be gone */
    memset(ledger->counts, 0, sizeof(ledger->counts));
    if (ledger_outcome(engine, queue_rescore(queue, (int64_t) now)) < 0)
        return;
    while (ledger->counted < LEDGER_COUNTED && queue_next_waiting(queue, &cursor, &handle)) {
        const char *lacks = lacks_of(queue_demand(queue, handle), ledger->room);
        ledger->counted++;
        ledger->counts[!lacks ? 2 : lacks[0] == 'm']++;
        if (ledger->candidate_count == LEDGER_CANDIDATES)
            continue;
        struct ledger_candidate *candidate = &ledger->candidates[ledger->candidate_count++];
        candidate->entry = engine_entry_at(engine, handle);
        candidate->lacks = lacks;
        queue_input(queue, handle, (int64_t) now, &candidate->input);
        candidate->score = engine->options.policy->score(&engine->options.parameters, &candidate->input);
    }
}

static double seconds_of(int64_t time) {
    return (double) (time / 1000) / 1000;
}

/* What the score is made of, where the policy has terms of its own. */
static void emit_terms(const struct engine_options *options, const struct policy_input *input, struct emitter *emitter) {
    struct policy_term terms[POLICY_TERMS];
    size_t count = options->policy->terms ? options->policy->terms(&options->parameters, input, terms) : 0;

    if (count == 0)
        return;
    emit_key(emitter, "terms");
    emit_object(emitter);
    for (size_t i = 0; i < count; i++) {
        emit_key(emitter, terms[i].name);
        emit_double(emitter, terms[i].value);
    }
    emit_object_end(emitter);
}

void engine_emit_score(const struct engine *engine, const char *id, uint64_t now, struct emitter *emitter) {
    const struct engine_entry *entry = map_get(engine->entries, id);
    const struct policy *policy = engine->options.policy;
    struct policy_input input;

    if (!entry || entry->admitted)
        return;
    queue_input(engine->queue, entry->handle, (int64_t) now, &input);
    emit_key(emitter, "score");
    emit_double(emitter, policy->score(&engine->options.parameters, &input));
    emit_key_text(emitter, "formula", policy->formula ? policy->formula : policy->summary);
    emit_terms(&engine->options, &input, emitter);
}

static void emit_candidate(const struct engine_options *options, const struct ledger_candidate *candidate,
                           struct emitter *emitter) {
    const struct policy_input *input = &candidate->input;

    emit_object(emitter);
    emit_key_text(emitter, "name", candidate->entry->name);
    emit_key(emitter, "score");
    emit_double(emitter, candidate->score);
    emit_key(emitter, "waited");
    emit_double(emitter, seconds_of(input->now - input->submitted));
    emit_key(emitter, "expected");
    if (input->estimate >= TIME_FOREVER)
        emit_null(emitter);
    else
        emit_double(emitter, seconds_of(input->estimate));
    emit_key(emitter, "done");
    emit_double(emitter, seconds_of(input->done));
    emit_key(emitter, "size");
    emit_double(emitter, input->size);
    emit_key_integer(emitter, "priority", input->priority);
    emit_key(emitter, "usage");
    emit_double(emitter, input->usage);
    emit_key(emitter, "tag");
    emit_double(emitter, input->tag);
    emit_terms(options, input, emitter);
    emit_key_text(emitter, "lacks", candidate->lacks);
    emit_object_end(emitter);
}

static void emit_input(const struct ledger *ledger, struct emitter *emitter) {
    char digest[17];

    snprintf(digest, sizeof(digest), "%016llx", (unsigned long long) ledger->digest);
    emit_key(emitter, "input");
    emit_object(emitter);
    emit_key_text(emitter, "digest", digest);
    emit_key_unsigned(emitter, "events", ledger->events);
    emit_key(emitter, "delta");
    emit_array(emitter);
    for (size_t i = 0; i < ledger->delta_count; i++)
        emit_text(emitter, ledger->delta[i]);
    emit_array_end(emitter);
    emit_object_end(emitter);
}

/* The cheapest change that would have decided otherwise: how much more of a resource would have made it wait. */
static void emit_flip(const struct engine *engine, const struct engine_entry *entry, struct emitter *emitter) {
    const struct ledger *ledger = engine->ledger;
    uint64_t cpus = engine_free_cpus(engine, entry->kind, ledger->room.cpus);
    uint64_t memory = engine_free_memory(engine, entry->kind, ledger->room.memory);
    uint64_t more_cpus = cpus > entry->cpus ? cpus - entry->cpus : 0;
    uint64_t more_memory = memory > entry->memory ? memory - entry->memory : 0;
    /* Which is less of what it asks for: cross products, since shares would be rounded. */
    bool by_cpus = (unsigned __int128) more_cpus * entry->memory <= (unsigned __int128) more_memory * entry->cpus;
    _cleanup_free_ char *amount = by_cpus ? text_format_cpus(more_cpus) : text_format_size(more_memory);
    _cleanup_free_ char *sentence = text_format("it would have waited if it had asked for more than %s %s more", amount,
                                                by_cpus ? "cpus" : "memory");

    emit_key(emitter, "flip");
    emit_object(emitter);
    emit_key_text(emitter, "resource", by_cpus ? "cpus" : "memory");
    emit_key_unsigned(emitter, "more", by_cpus ? more_cpus : more_memory);
    emit_key_text(emitter, "sentence", sentence);
    emit_object_end(emitter);
}

static void emit_counts(const struct engine *engine, struct emitter *emitter) {
    static const char *const reasons[] = { "cpus", "memory", "order" };
    const struct ledger *ledger = engine->ledger;
    uint64_t cpus = (int64_t) ledger->room.cpus > 0 ? ledger->room.cpus / engine->scale_cpus : 0;
    uint64_t memory = (int64_t) ledger->room.memory > 0 ? ledger->room.memory / engine->scale_memory : 0;

    emit_key(emitter, "free");
    emit_object(emitter);
    emit_key_unsigned(emitter, "cpus_milli", cpus);
    emit_key_unsigned(emitter, "memory", memory);
    emit_object_end(emitter);
    emit_key_unsigned(emitter, "waiting", ledger->waiting);
    emit_key_unsigned(emitter, "barred", ledger->barred);
    emit_key_unsigned(emitter, "counted", ledger->counted);
    emit_key(emitter, "counts");
    emit_object(emitter);
    for (size_t i = 0; i < ELEMENTS(reasons); i++)
        emit_key_unsigned(emitter, reasons[i], ledger->counts[i]);
    emit_object_end(emitter);
}

/* For whom, and what each way would have cost. */
static void emit_giving_way(const struct engine *engine, const struct engine_entry *entry, struct emitter *emitter) {
    uint32_t handle = queue_asked_for(engine->queue);

    emit_key(emitter, "gives_way");
    emit_object(emitter);
    emit_key_text(emitter, "for", handle == UINT32_MAX ? NULL : engine_entry_at(engine, handle)->name);
    engine_emit_costs(engine, entry, engine->ledger->now, emitter);
    emit_object_end(emitter);
}

static void emit_decision(const struct engine *engine, const struct engine_entry *entry, enum engine_verdict verdict,
                          struct emitter *emitter) {
    const struct ledger *ledger = engine->ledger;
    size_t position = 0;

    for (size_t i = 0; i < ledger->candidate_count; i++)
        if (ledger->candidates[i].entry == entry)
            position = i + 1;
    emit_object(emitter);
    emit_key_unsigned(emitter, "decision", ledger->next);
    emit_key_integer(emitter, "engine", ENGINE_VERSION);
    emit_key_integer(emitter, "now", ledger->now);
    emit_key_text(emitter, "policy", engine->options.policy->name);
    emit_key_text(emitter, "backfill", backfill_names[engine->options.backfill]);
    emit_key_text(emitter, "verdict", verdict_names[verdict]);
    emit_key_text(emitter, "id", entry->id);
    emit_key_text(emitter, "name", entry->name);
    emit_key_unsigned(emitter, "position", position);
    emit_input(ledger, emitter);
    emit_counts(engine, emitter);
    emit_key(emitter, "candidates");
    emit_array(emitter);
    for (size_t i = 0; i < ledger->candidate_count; i++)
        emit_candidate(&engine->options, &ledger->candidates[i], emitter);
    emit_array_end(emitter);
    if (verdict == ENGINE_START)
        emit_flip(engine, entry, emitter);
    else
        emit_giving_way(engine, entry, emitter);
    emit_object_end(emitter);
}

void ledger_decided(struct engine *engine, struct engine_entry *entry, enum engine_verdict verdict) {
    struct ledger *ledger = engine->ledger;
    _cleanup_buffer_ struct buffer text = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&text);
    struct ledger_decision *kept;

    if (!ledger)
        return;
    emit_decision(engine, entry, verdict, &emitter);
    kept = &ledger->kept[ledger->next % LEDGER_KEPT];
    free(kept->id);
    free(kept->text);
    *kept = (struct ledger_decision){ .number = ledger->next, .id = strdup(entry->id) };
    (void) buffer_take(&text, &kept->text);
    if (kept->text) {
        buffer_add_text(&ledger->journal, kept->text);
        buffer_add_text(&ledger->journal, "\n");
    }
    ledger->next++;
    delta_clear(ledger);
}

void engine_note(struct engine *engine, const char *line) {
    if (!engine->ledger || engine->ledger->journal.size > JOURNAL_MAX)
        return;
    buffer_add_text(&engine->ledger->journal, line);
    buffer_add_text(&engine->ledger->journal, "\n");
}

const char *engine_decision(const struct engine *engine, uint64_t number) {
    const struct ledger_decision *kept = engine->ledger ? &engine->ledger->kept[number % LEDGER_KEPT] : NULL;

    return kept && kept->number == number ? kept->text : NULL;
}

uint64_t engine_decision_about(const struct engine *engine, const char *id) {
    uint64_t newest = 0;

    for (size_t i = 0; engine->ledger && i < LEDGER_KEPT; i++)
        if (text_equal(engine->ledger->kept[i].id, id) && engine->ledger->kept[i].number > newest)
            newest = engine->ledger->kept[i].number;
    return newest;
}

uint64_t engine_decision_last(const struct engine *engine) {
    return engine->ledger && engine->ledger->next > 0 ? engine->ledger->next - 1 : 0;
}

/* --- the cut before a checkpoint --------------------------------------------------------------------------------------- */

void ledger_cut(struct ledger *ledger, uint64_t digest) {
    delta_clear(ledger);
    ledger->digest = digest;
}
