// SPDX-License-Identifier: GPL-2.0-or-later
/* The first checkpoint tells the node, and who waited and ran when the record begins; then events tell who came, ran, gave way
 * and left, and decisions who was started. Later checkpoints (of later files, or of a polderd that was started again) say the
 * same again, but for those that are not in them: these are lost, unless polderd takes them over (occupy) or queues them anew.
 *
 * Times are those of the host's clock since it was booted: where they go back it was booted again, and the record goes on as
 * if no time had passed in between. */
#include "simulator/ledger-log.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/map.h"
#include "base/text.h"
#include "engine/ledger.h"
#include "simulator/input.h"

#define SECOND 1000000
#define TIME_MOST (INT64_C(1) << 56)    /* microseconds: two thousand years */
#define MEMORY_MOST (UINT64_C(1) << 60)
#define PRIORITY_MOST 1000000000
#define CPUS_MOST (UINT64_C(40000) * 1000) /* what fits into a job's processors */
#define PROGRESS_LINES 16384
#define NOT_RUNNING (-1)

struct run {
    char *id; /* the map's key */
    uint64_t owner, class, cpus, memory; /* as asked for, after the ratio */
    int64_t submitted, since, ran, first; /* since: NOT_RUNNING, or when it began to run last; first: when it first did */
    int64_t priority, requested;
    bool over, ended, lost;
};

struct reading {
    struct input *input;
    struct swf_log *log;
    uint64_t given;
    struct map *runs;     /* the last of each instance, borrowed */
    struct run **all;
    size_t count, room;
    uint64_t ratios[2][KIND_COUNT]; /* percent: processors, memory */
    int64_t offset, now;  /* added to the host's clock; the last moment */
    bool begun, timed;    /* a checkpoint was seen; a moment was */
};

static void reading_done(struct reading *reading) {
    for (size_t i = 0; i < reading->count; i++) {
        free(reading->all[i]->id);
        free(reading->all[i]);
    }
    free(reading->all);
    map_free(reading->runs);
}

/* --- runs ------------------------------------------------------------------------------------------------------------ */

static int run_new(struct reading *reading, const char *id, struct run **ret) {
    struct run *run = calloc(1, sizeof(*run));

    if (run && reading->count == reading->room) {
        size_t room = reading->room ? reading->room * 2 : 256;
        struct run **all = reallocarray(reading->all, room, sizeof(*all));
        if (all) {
            reading->all = all;
            reading->room = room;
        }
    }
    if (run)
        run->id = strdup(id);
    (void) map_remove(reading->runs, id); /* an earlier run of the same instance */
    if (!run || !run->id || reading->count == reading->room || map_put(reading->runs, run->id, run) < 0) {
        if (run)
            free(run->id);
        free(run);
        return -ENOMEM;
    }
    reading->all[reading->count++] = run;
    run->since = run->first = NOT_RUNNING;
    *ret = run;
    return 0;
}

static uint64_t share_of(uint64_t amount, uint64_t percent) {
    unsigned __int128 share = (unsigned __int128) amount * 100 / (percent ? percent : 100);

    return share > INT64_MAX / 4 ? INT64_MAX / 4 : (uint64_t) share;
}

static void run_ask(const struct reading *reading, struct run *run, const struct engine_request *request) {
    uint64_t cpus = share_of(request->cpus * (LEDGER_PART / 1000), reading->ratios[0][request->kind]);

    run->owner = request->owner;
    run->class = request->class ? request->class : 1;
    run->priority = request->priority;
    run->cpus = cpus ? cpus : 1;
    run->memory = share_of(request->memory, reading->ratios[1][request->kind]);
    run->requested = TIME_FOREVER;
    if (request->limit && request->limit < TIME_MOST)
        run->requested = (int64_t) request->limit;
    else if (request->expected && request->expected < TIME_MOST)
        run->requested = (int64_t) request->expected;
}

static void run_begin(struct reading *reading, struct run *run) {
    if (run->since == NOT_RUNNING)
        run->since = reading->now;
    if (run->first == NOT_RUNNING)
        run->first = reading->now;
    run->over = run->lost = false;
}

static void run_pause(const struct reading *reading, struct run *run) {
    if (run->since == NOT_RUNNING)
        return;
    if (reading->timed)
        run->ran += reading->now - run->since;
    run->since = NOT_RUNNING;
}

/* --- lines ----------------------------------------------------------------------------------------------------------- */

static int refuse_request(struct reading *reading, const struct engine_request *request, struct error *error) {
    if (!*request->id)
        return input_refuse(reading->input, error, "id", "it is missing");
    if ((int) request->kind < 0 || request->kind >= KIND_COUNT)
        return input_refuse(reading->input, error, "kind", "%d is no kind", (int) request->kind);
    if (request->cpus == 0 || request->cpus > CPUS_MOST)
        return input_refuse(reading->input, error, "cpus", "%llu thousandths are absurd", (unsigned long long) request->cpus);
    if (request->memory > MEMORY_MOST)
        return input_refuse(reading->input, error, "memory", "%llu bytes are absurd", (unsigned long long) request->memory);
    if (request->waited > TIME_MOST || request->done > TIME_MOST)
        return input_refuse(reading->input, error, "waited", "the time is absurd");
    if (request->priority > PRIORITY_MOST || request->priority < -PRIORITY_MOST)
        return input_refuse(reading->input, error, "priority", "%lld is absurd", (long long) request->priority);
    return 0;
}

static int read_asked(struct reading *reading, const char *what, struct json_object *line, struct error *error) {
    struct engine_request request;
    struct run *run;
    int r;

    engine_read_request(line, &request);
    r = refuse_request(reading, &request, error);
    if (r < 0)
        return r;
    run = map_get(reading->runs, request.id);
    if (!run && text_equal(what, "change"))
        return 0; /* the engine had nothing to change */
    if (!run || (run->over && (request.done == 0 || run->ended))) {
        if (run_new(reading, request.id, &run) < 0)
            return -ENOMEM;
        run->submitted = reading->now - (int64_t) request.waited;
    }
    run->over = run->lost = false;
    run_ask(reading, run, &request);
    if (text_equal(what, "occupy"))
        run_begin(reading, run);
    return 0;
}

static int read_about(struct reading *reading, const char *what, struct json_object *line, struct error *error) {
    const char *id = json_text(line, "id", "");
    struct run *run = map_get(reading->runs, id);

    if (!*id)
        return input_refuse(reading->input, error, "id", "it is missing");
    if (!run)
        return 0;
    if (!text_equal(what, "refused"))
        run_pause(reading, run);
    if (text_equal(what, "release")) {
        run->over = true;
        run->ended = json_boolean(line, "ended", false);
    }
    return 0;
}

static int read_event(struct reading *reading, const char *what, struct json_object *line, struct error *error) {
    static const char *const asked[] = { "submit", "occupy", "change", NULL };
    static const char *const about[] = { "release", "paused", "refused", NULL };
    static const char *const others[] = { "run", "configure", "measure", "place", NULL };

    for (size_t i = 0; asked[i]; i++)
        if (text_equal(asked[i], what))
            return read_asked(reading, what, line, error);
    for (size_t i = 0; about[i]; i++)
        if (text_equal(about[i], what))
            return read_about(reading, what, line, error);
    for (size_t i = 0; others[i]; i++)
        if (text_equal(others[i], what))
            return 0;
    return input_refuse(reading->input, error, "do", "'%.40s' is no event of this engine", what);
}

static void read_decision(struct reading *reading, struct json_object *line) {
    struct run *run = map_get(reading->runs, json_text(line, "id", ""));

    if (run && text_equal(json_text(line, "verdict", ""), "start"))
        run_begin(reading, run);
}

/* --- checkpoints ------------------------------------------------------------------------------------------------------ */

static int read_node(struct reading *reading, struct json_object *checkpoint, struct error *error) {
    struct json_object *node = json_member(checkpoint, "node");
    static const char *const members[] = { "overcommit_cpu", "overcommit_memory" };
    int64_t cpus = json_integer(node, "cpus", 0), memory = json_integer(node, "memory", 0);

    if (json_integer(checkpoint, "checkpoint", 0) != ENGINE_VERSION)
        return input_refuse(reading->input, error, "checkpoint", "it is of engine version %lld, and this one reads %d",
                            (long long) json_integer(checkpoint, "checkpoint", 0), ENGINE_VERSION);
    if (cpus <= 0 || (uint64_t) cpus > CPUS_MOST || memory <= 0 || (uint64_t) memory > MEMORY_MOST)
        return input_refuse(reading->input, error, "node", "its processors or its memory are absurd");
    for (size_t i = 0; i < ELEMENTS(members); i++)
        for (size_t kind = 0; kind < KIND_COUNT; kind++) {
            struct json_object *ratios = json_member(node, members[i]);
            int64_t ratio = json_object_is_type(ratios, json_type_array) && kind < json_object_array_length(ratios)
                                ? json_object_get_int64(json_object_array_get_idx(ratios, kind))
                                : 0;
            if (ratio < 0)
                return input_refuse(reading->input, error, members[i], "%lld is absurd", (long long) ratio);
            reading->ratios[i][kind] = (uint64_t) ratio;
        }
    reading->log->processors = reading->given ? reading->given * LEDGER_PART : (uint64_t) cpus * (LEDGER_PART / 1000);
    reading->log->memory = (uint64_t) memory;
    reading->log->part = LEDGER_PART;
    return 0;
}

/* Who waited or ran when the record begins. Those that ran came when it begins, as far as it knows. */
static int read_first(struct reading *reading, struct json_object *entry, struct error *error) {
    struct engine_request request;
    struct engine_recorded recorded;
    struct run *run;

    if (engine_read_entry(entry, &request, &recorded) < 0)
        return input_refuse(reading->input, error, "entries", "one is no state of this engine");
    if (refuse_request(reading, &request, error) < 0)
        return -EBADMSG;
    if (recorded.submitted < -TIME_MOST || recorded.submitted > TIME_MOST)
        return input_refuse(reading->input, error, "entries", "the time of one is absurd");
    if (run_new(reading, request.id, &run) < 0)
        return -ENOMEM;
    run_ask(reading, run, &request);
    run->submitted = recorded.admitted ? INT64_MIN : recorded.submitted; /* settled by the first moment */
    run->since = recorded.admitted ? INT64_MIN : NOT_RUNNING;
    return 0;
}

/* Of a later checkpoint: who is not in it is lost for now. */
static int read_later(struct reading *reading, struct json_object *entries) {
    _cleanup_map_ struct map *present = NULL;
    size_t count = json_object_is_type(entries, json_type_array) ? json_object_array_length(entries) : 0, position = 0;
    const char *id;
    void *value;
    int r = map_new(&present);

    for (size_t i = 0; r >= 0 && i < count; i++) {
        struct json_object *entry = json_object_array_get_idx(entries, i);
        bool named = json_object_is_type(entry, json_type_array) && json_object_array_length(entry) > 0;
        const char *name = named ? json_object_get_string(json_object_array_get_idx(entry, 0)) : NULL;
        if (name)
            r = map_put(present, name, reading) == -ENOMEM ? -ENOMEM : 0;
    }
    while (r >= 0 && map_next(reading->runs, &position, &id, &value)) {
        struct run *run = value;
        if (run->over || map_get(present, id))
            continue;
        run_pause(reading, run);
        run->lost = true;
    }
    return r;
}

static int read_checkpoint(struct reading *reading, struct json_object *line, struct error *error) {
    struct json_object *entries = json_member(line, "entries");
    size_t count = json_object_is_type(entries, json_type_array) ? json_object_array_length(entries) : 0;
    int r;

    if (reading->begun)
        return read_later(reading, entries);
    reading->begun = true;
    r = read_node(reading, line, error);
    for (size_t i = 0; r >= 0 && i < count; i++)
        r = read_first(reading, json_object_array_get_idx(entries, i), error);
    return r;
}

/* --- the file --------------------------------------------------------------------------------------------------------- */

static int read_moment(struct reading *reading, struct json_object *line, struct error *error) {
    int64_t now = json_integer(line, "now", -1);

    if (now < 0 || now > TIME_MOST)
        return input_refuse(reading->input, error, "now", "it is missing or absurd");
    if (!reading->timed) {
        reading->offset = 0;
        reading->timed = true;
        for (size_t i = 0; i < reading->count; i++) {
            struct run *run = reading->all[i];
            run->submitted = run->submitted == INT64_MIN ? now : run->submitted;
            run->since = run->since == INT64_MIN ? now : run->since;
            run->first = run->since;
        }
    } else if (now + reading->offset < reading->now) {
        reading->offset = reading->now - now;
        reading->log->repairs[SWF_BOOTED]++;
    }
    reading->now = now + reading->offset;
    return reading->now > TIME_MOST ? input_refuse(reading->input, error, "now", "the times add up to what is absurd") : 0;
}

static int read_line(struct reading *reading, const char *text, struct error *error) {
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_json_ struct json_object *line = NULL;
    const char *what;
    int r;

    if (text[strspn(text, " \t\r")] == '\0')
        return 0;
    if (json_parse(text, strlen(text), &line, &trouble) < 0 || !json_object_is_type(line, json_type_object))
        return input_refuse(reading->input, error, "line", "it is no JSON object");
    if (json_has(line, "checkpoint"))
        return read_checkpoint(reading, line, error);
    if (!reading->begun)
        return input_refuse(reading->input, error, "line", "the record does not begin with a checkpoint");
    if (json_has(line, "placement") || json_has(line, "plan") || json_has(line, "applied"))
        return 0; /* where somebody went, and what the optimiser planned and did: that is not replayed */
    what = json_text(line, "do", NULL);
    if (!what && !json_has(line, "decision"))
        return input_refuse(reading->input, error, "line", "it is neither a checkpoint nor an event nor a decision");
    r = read_moment(reading, line, error);
    if (r < 0)
        return r;
    if (what)
        return read_event(reading, what, line, error);
    read_decision(reading, line);
    return 0;
}

static int64_t seconds_of(int64_t time) {
    return (time + SECOND - 1) / SECOND;
}

/* False: left out, and counted. */
static bool make_job(struct reading *reading, struct run *run, int64_t begin, struct swf_job *ret) {
    uint64_t *repairs = reading->log->repairs;
    int64_t run_time, requested = run->requested;
    enum swf_repair why = SWF_REPAIR_COUNT;

    if (run->since != NOT_RUNNING) {
        run_pause(reading, run);
        repairs[SWF_STILL_RUNS]++;
    }
    if (run->ran <= 0)
        why = SWF_NEVER_RAN;
    else if (run->lost)
        why = SWF_END_LOST;
    else if (run->cpus > reading->log->processors || run->memory > reading->log->memory)
        why = SWF_TOO_LARGE;
    if (why < SWF_REPAIR_COUNT) {
        repairs[why]++;
        return false;
    }
    run_time = seconds_of(run->ran);
    requested = requested >= TIME_FOREVER ? TIME_FOREVER : seconds_of(requested);
    if (requested < run_time) {
        requested = run_time;
        repairs[SWF_OUTLIVED]++;
    }
    *ret = (struct swf_job){ .submitted = (run->submitted - begin) / SECOND, .run = run_time, .requested = requested,
                             .user = (int64_t) run->owner, .queue = -run->priority, .processors = (uint32_t) run->cpus,
                             .memory = run->memory, .class = run->class };
    reading->log->recorded_wait += (double) (run->first - run->submitted) / SECOND;
    return true;
}

static int compare_jobs(const void *a, const void *b) {
    const struct swf_job *left = a, *right = b;

    if (left->submitted != right->submitted)
        return left->submitted < right->submitted ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static int make_jobs(struct reading *reading, struct error *error) {
    struct swf_log *log = reading->log;
    int64_t begin = INT64_MAX;
    int r;

    for (size_t i = 0; i < reading->count; i++)
        begin = reading->all[i]->submitted < begin ? reading->all[i]->submitted : begin;
    r = array_grow(&log->storage, (reading->count + 1) * sizeof(*log->jobs));
    if (r < 0)
        return error_errno(error, r, "reading the record");
    log->jobs = log->storage.data;
    for (size_t i = 0; reading->timed && i < reading->count; i++) {
        struct swf_job job;
        if (!make_job(reading, reading->all[i], begin, &job))
            continue;
        job.id = (int64_t) i + 1; /* in the order in which they came */
        log->jobs[log->count++] = job;
    }
    if (log->count == 0)
        return input_refuse(reading->input, error, "jobs", "nothing ran while it was recorded");
    log->recorded_wait /= (double) log->count;
    qsort(log->jobs, log->count, sizeof(*log->jobs), compare_jobs);
    return 0;
}

int ledger_log_is(struct input *input, struct error *error) {
    char first;
    int r = input_look(input, &first, error);

    return r < 0 ? r : first == '{';
}

int ledger_log_read(struct input *input, uint64_t processors, void (*progress)(double share), struct swf_log *ret,
                    struct error *error) {
    _cleanup_(swf_done) struct swf_log log = { 0 };
    _cleanup_(reading_done) struct reading reading = { .input = input, .log = &log, .given = processors };
    char *line;
    int r = map_new(&reading.runs);

    while (r >= 0 && (r = input_line(input, &line, error)) > 0) {
        r = read_line(&reading, line, error);
        if (progress && input_line_number(input) % PROGRESS_LINES == 0)
            progress(input_progress(input));
    }
    if (r >= 0)
        r = make_jobs(&reading, error);
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "reading the record");
    *ret = log;
    log = (struct swf_log){ 0 };
    return 0;
}
