// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/swf.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/text.h"

#define COLUMNS 18
#define TIME_LIMIT INT64_C(1000000000000) /* 31,700 years of seconds: what is above is absurd */
#define PROGRESS_LINES 16384

const char *const swf_repairs[SWF_REPAIR_COUNT] = {
    [SWF_TOO_LARGE] = "dropped: more processors than the machine has",
    [SWF_NO_RUN] = "dropped: no run time",
    [SWF_NO_REQUEST] = "dropped: no requested time",
    [SWF_NO_SUBMISSION] = "dropped: submitted before the log begins",
    [SWF_NO_PROCESSORS] = "dropped: no processors",
    [SWF_RUN_CUT] = "run time cut at the requested time",
    [SWF_REQUEST_FROM_RUN] = "requested time missing: the run time is taken",
    [SWF_UNSORTED] = "out of the order of submission: sorted",
    [SWF_FRACTION] = "fraction of a second left out",
    [SWF_STILL_RUNS] = "still ran when the record ended: until then",
    [SWF_NEVER_RAN] = "dropped: did not run while it was recorded",
    [SWF_END_LOST] = "dropped: when it ended was not recorded",
    [SWF_OUTLIVED] = "ran longer than declared: the run time is taken as the request",
    [SWF_BOOTED] = "after the host was booted again: the time between is left out",
};

static const char *const column_names[COLUMNS] = {
    "job number", "submit time", "wait time", "run time", "allocated processors", "average CPU time", "used memory",
    "requested processors", "requested time", "requested memory", "status", "user", "group", "executable", "queue",
    "partition", "preceding job", "think time",
};

struct reading {
    struct input *input;
    struct swf_log *log;
    enum swf_rules rules;
    uint64_t given; /* processors that the caller gave, or 0 */
    bool any_request;
};

void swf_done(struct swf_log *log) {
    array_done(&log->storage);
    *log = (struct swf_log){ 0 };
}

/* "; MaxProcs: 128" */
static int read_header(struct reading *reading, const char *line, struct error *error) {
    static const char *const words[] = { "MaxProcs:", "MaxNodes:" };
    bool procs_known = reading->log->processors > 0;
    long long value;
    char *end;

    if (reading->given)
        return 0;
    line += strspn(line, "; \t");
    for (size_t i = 0; i < ELEMENTS(words); i++) {
        if (!text_starts(line, words[i]) || (i == 1 && procs_known))
            continue;
        value = strtoll(line + strlen(words[i]), &end, 10);
        if (value > INT32_MAX)
            return input_refuse(reading->input, error, words[i], "%lld is absurd", value);
        if (value > 0)
            reading->log->processors = (uint64_t) value;
    }
    return 0;
}

/* A number of the format; a fraction is left out, and counted. */
static int number(struct reading *reading, char *const *fields, unsigned column, int64_t limit, int64_t *ret,
                  struct error *error) {
    const char *name = column_names[column - 1], *text = fields[column - 1];
    double value;
    int r;

    if (!strchr(text, '.'))
        return input_integer(reading->input, name, text, -limit, limit, ret, error);
    r = input_decimal(reading->input, name, text, -(double) limit, (double) limit, &value, error);
    if (r < 0)
        return r;
    *ret = (int64_t) value;
    if ((double) *ret != value)
        reading->log->repairs[SWF_FRACTION]++;
    return 0;
}

static int check_columns(struct reading *reading, char *const *fields, size_t count, struct error *error) {
    if (count < COLUMNS)
        return input_refuse(reading->input, error, column_names[count], "it is missing: the line has %zu of 18 columns",
                            count);
    if (count > COLUMNS)
        return input_refuse(reading->input, error, "columns", "there are %zu, the format has 18", count);
    for (size_t i = 0; i < COLUMNS; i++) {
        const char *digit = fields[i] + (*fields[i] == '-');
        if (!isdigit((unsigned char) *digit) && *digit != '.')
            return input_refuse(reading->input, error, column_names[i], "'%.40s' is not a number", fields[i]);
    }
    return 0;
}

static int decode(struct reading *reading, char *const *fields, struct swf_job *job, int64_t *ret_allocated,
                  int64_t *ret_requested, struct error *error) {
    const struct {
        unsigned column;
        int64_t limit, *target;
    } numbers[] = {
        { 1, INT64_MAX, &job->id },         { 2, TIME_LIMIT, &job->submitted }, { 4, TIME_LIMIT, &job->run },
        { 5, INT32_MAX, ret_allocated },    { 8, INT32_MAX, ret_requested },    { 9, TIME_LIMIT, &job->requested },
        { 12, INT64_MAX, &job->user },      { 15, INT32_MAX, &job->queue },
    };
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(numbers); i++)
        r = number(reading, fields, numbers[i].column, numbers[i].limit, numbers[i].target, error);
    return r;
}

/* False: left out, and counted. */
static bool accept_strong(struct swf_log *log, struct swf_job *job, int64_t allocated, int64_t requested) {
    int64_t processors = requested > 0 ? requested : allocated;
    enum swf_repair why = SWF_REPAIR_COUNT;

    if (job->run <= 0)
        why = SWF_NO_RUN;
    else if (job->submitted < 0)
        why = SWF_NO_SUBMISSION;
    else if (processors <= 0)
        why = SWF_NO_PROCESSORS;
    else if ((uint64_t) processors > log->processors)
        why = SWF_TOO_LARGE;
    if (why < SWF_REPAIR_COUNT) {
        log->repairs[why]++;
        return false;
    }
    if (job->requested > 0 && job->run > job->requested) {
        job->run = job->requested;
        log->repairs[SWF_RUN_CUT]++;
    }
    job->processors = (uint32_t) processors;
    return true;
}

static bool accept_rlscheduler(struct swf_log *log, struct swf_job *job, int64_t allocated, int64_t requested) {
    int64_t processors = requested > allocated ? requested : allocated;

    if (job->requested == -1) {
        job->requested = job->run;
        log->repairs[SWF_REQUEST_FROM_RUN]++;
    }
    if (job->run < 0)
        job->run = 10;
    if (job->run == 0 || processors <= 0 || (uint64_t) processors > log->processors) {
        log->repairs[job->run == 0 ? SWF_NO_RUN : processors <= 0 ? SWF_NO_PROCESSORS : SWF_TOO_LARGE]++;
        return false;
    }
    job->processors = (uint32_t) processors;
    return true;
}

static int add(struct swf_log *log, const struct swf_job *job) {
    if ((log->count + 1) * sizeof(*job) > log->storage.size) {
        size_t room = log->count + log->count / 2 + 4096;
        int r = array_grow(&log->storage, room * sizeof(*job));
        if (r < 0)
            return r;
        log->jobs = log->storage.data;
    }
    log->jobs[log->count++] = *job;
    return 0;
}

static int read_line(struct reading *reading, char *line, struct error *error) {
    struct swf_log *log = reading->log;
    struct swf_job job = { 0 };
    char *fields[COLUMNS];
    int64_t allocated = 0, requested = 0;
    bool accepted;
    int r;

    line += strspn(line, " \t");
    if (*line == '\0')
        return 0;
    if (*line == ';')
        return read_header(reading, line, error);
    r = check_columns(reading, fields, input_split(line, ' ', fields, COLUMNS), error);
    if (r < 0)
        return r;
    if (log->processors == 0)
        return input_refuse(reading->input, error, "MaxProcs",
                            "the header does not tell the number of processors; give --processors");
    r = decode(reading, fields, &job, &allocated, &requested, error);
    if (r < 0)
        return r;
    accepted = reading->rules == SWF_STRONG ? accept_strong(log, &job, allocated, requested)
                                            : accept_rlscheduler(log, &job, allocated, requested);
    if (!accepted)
        return 0;
    if (job.requested > 0)
        reading->any_request = true;
    if (log->count > 0 && job.submitted < log->jobs[log->count - 1].submitted)
        log->repairs[SWF_UNSORTED]++;
    r = add(log, &job);
    return r < 0 ? error_errno(error, r, "keeping the log's jobs (in " ARRAY_PLACE ")") : 0;
}

static void settle_requests(struct reading *reading) {
    struct swf_log *log = reading->log;
    size_t kept = 0;

    for (size_t i = 0; i < log->count; i++) {
        struct swf_job *job = &log->jobs[i];
        if (job->requested <= 0 && reading->any_request) {
            log->repairs[SWF_NO_REQUEST]++;
            continue;
        }
        if (job->requested <= 0) {
            job->requested = job->run;
            log->repairs[SWF_REQUEST_FROM_RUN]++;
        }
        log->jobs[kept++] = *job;
    }
    log->count = kept;
}

/* By time of submission, or by id alone; the smaller id goes first where times are equal. */
static bool comes_first(const struct swf_job *a, const struct swf_job *b, bool by_id) {
    if (!by_id && a->submitted != b->submitted)
        return a->submitted < b->submitted;
    return a->id <= b->id;
}

/* Merge sort: those that are equal keep their order. */
static int sort_jobs(struct swf_log *log, bool by_id) {
    _cleanup_array_ struct array other = { 0 };
    struct swf_job *from = log->jobs, *to;
    size_t sorted = 1;
    int r;

    while (sorted < log->count && comes_first(&from[sorted - 1], &from[sorted], by_id))
        sorted++;
    if (sorted >= log->count)
        return 0;
    r = array_grow(&other, log->count * sizeof(*from));
    if (r < 0)
        return r;
    to = other.data;
    for (size_t width = 1; width < log->count; width *= 2) {
        for (size_t begin = 0; begin < log->count; begin += 2 * width) {
            size_t middle = begin + width < log->count ? begin + width : log->count;
            size_t end = begin + 2 * width < log->count ? begin + 2 * width : log->count;
            for (size_t left = begin, right = middle, at = begin; at < end; at++) {
                bool take_left = right >= end;
                if (!take_left && left < middle)
                    take_left = comes_first(&from[left], &from[right], by_id);
                to[at] = take_left ? from[left++] : from[right++];
            }
        }
        struct swf_job *swap = from;
        from = to;
        to = swap;
    }
    if (from != log->jobs)
        memcpy(log->jobs, from, log->count * sizeof(*from));
    return 0;
}

int swf_read(struct input *input, enum swf_rules rules, uint64_t processors, void (*progress)(double share),
             struct swf_log *ret, struct error *error) {
    _cleanup_(swf_done) struct swf_log log = { .processors = processors };
    char *line;
    int r;

    struct reading reading = { .input = input, .log = &log, .rules = rules, .given = processors };
    while ((r = input_line(input, &line, error)) > 0) {
        r = read_line(&reading, line, error);
        if (r < 0)
            return r;
        if (progress && input_line_number(input) % PROGRESS_LINES == 0)
            progress(input_progress(input));
    }
    if (r < 0)
        return r;
    settle_requests(&reading);
    if (log.count == 0)
        return input_refuse(input, error, "jobs", "no line of the log is a job that can be run");
    r = sort_jobs(&log, rules == SWF_RLSCHEDULER);
    if (r < 0)
        return error_errno(error, r, "sorting the log's jobs (in " ARRAY_PLACE ")");
    *ret = log;
    log = (struct swf_log){ 0 };
    return 0;
}
