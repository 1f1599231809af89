// SPDX-License-Identifier: GPL-2.0-or-later
/* What happened over time is drawn in BINS equal stretches from the first submission to the last end of all policies of a
 * log, so that they can be compared by eye. Waits and slowdowns are means over the jobs submitted in a stretch; use and
 * queue are exact integrals over it. Who gave way ran in several pieces that the simulation does not keep: such policies
 * have no curve of use and no picture of who ran where. */
#include "simulator/queue-report.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "simulator/plot.h"

#define BINS 96
#define STEPS 200             /* of the distribution of slowdowns */
#define GANTT_JOBS 300        /* about so many are submitted in the stretch that is drawn */
#define GANTT_PROCESSORS 8192 /* larger machines are not drawn, and no finer rows */
#define WAIT_LEAST 0.01 /* hours: less looks the same on a logarithmic axis */
#define WAITING_LEAST 0.01 /* jobs: likewise */
#define UNEVEN 20       /* peaks so many times apart cannot be compared on a linear axis */
#define HOUR 3600.0
#define DAY 86400.0

struct span {
    double begin, end; /* seconds on the log's scale */
};

/* Curves of one cell. */
struct curves {
    double wait[BINS], slowdown[BINS], use[BINS], waiting[BINS];
    double share[STEPS]; /* of the jobs whose slowdown is at most distribution_x's */
    size_t jobs[BINS];
};

/* All cells of one log. */
struct sheet {
    const struct queue_report_cell *cells;
    struct curves *curves;
    size_t count;
    struct span span;
    double x[BINS], distribution_x[STEPS];
};

static double slowdown_of(const struct queue_report_cell *cell, size_t i) {
    double run = (double) cell->run->jobs[i].run, flow = (double) (cell->outcome->ends[i] - cell->run->jobs[i].submitted);
    double slowdown = flow / (run > 10 ? run : 10);

    return slowdown > 1 ? slowdown : 1;
}

static size_t bin_of(const struct span *span, double at) {
    double bin = (at - span->begin) / (span->end - span->begin) * BINS;

    return bin < 0 ? 0 : bin >= BINS ? BINS - 1 : (size_t) bin;
}

/* Adds `amount` for each second of [begin, end) to the stretches that it lies in. */
static void spread(const struct span *span, double *bins, double begin, double end, double amount) {
    double width = (span->end - span->begin) / BINS;

    for (size_t bin = bin_of(span, begin); bin < BINS; bin++) {
        double left = span->begin + (double) bin * width, right = left + width;
        double from = begin > left ? begin : left, to = end < right ? end : right;
        if (to > from)
            bins[bin] += (to - from) * amount;
        if (right >= end)
            return;
    }
}

static void distribution_fill(const struct sheet *sheet, const struct queue_report_cell *cell, double *share) {
    for (size_t i = 0; i < cell->run->count; i++) {
        double at = ceil(log10(slowdown_of(cell, i)) / 4 * (STEPS - 1));
        if (at < STEPS)
            share[(size_t) at]++;
    }
    for (size_t step = 0; step < STEPS; step++)
        share[step] += step > 0 ? share[step - 1] : 0;
    for (size_t step = 0; step < STEPS; step++)
        share[step] *= 100 / (double) (cell->run->count ? cell->run->count : 1);
}

static void curves_fill(const struct sheet *sheet, const struct queue_report_cell *cell, struct curves *curves) {
    double width = (sheet->span.end - sheet->span.begin) / BINS;

    for (size_t i = 0; i < cell->run->count; i++) {
        const struct swf_job *job = &cell->run->jobs[i];
        size_t bin = bin_of(&sheet->span, (double) job->submitted);
        double start = (double) cell->outcome->starts[i];
        curves->jobs[bin]++;
        curves->wait[bin] += (double) (cell->outcome->ends[i] - job->submitted - job->run) / HOUR;
        curves->slowdown[bin] += slowdown_of(cell, i);
        spread(&sheet->span, curves->waiting, (double) job->submitted, start, 1 / width);
        spread(&sheet->span, curves->use, start, (double) cell->outcome->ends[i],
               100.0 * job->processors / width / (double) cell->run->processors);
    }
    for (size_t bin = 0; bin < BINS; bin++) {
        curves->wait[bin] = curves->jobs[bin] ? curves->wait[bin] / (double) curves->jobs[bin] : NAN;
        curves->slowdown[bin] = curves->jobs[bin] ? curves->slowdown[bin] / (double) curves->jobs[bin] : NAN;
    }
    distribution_fill(sheet, cell, curves->share);
}

static int sheet_init(struct sheet *sheet, const struct queue_report_cell *cells, size_t count) {
    *sheet = (struct sheet){ .cells = cells, .count = count, .span = { INFINITY, -INFINITY } };
    sheet->curves = calloc(count, sizeof(*sheet->curves));
    if (!sheet->curves)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < cells[i].run->count; j++) {
            sheet->span.begin = fmin(sheet->span.begin, (double) cells[i].run->jobs[j].submitted);
            sheet->span.end = fmax(sheet->span.end, (double) cells[i].outcome->ends[j]);
        }
    if (!(sheet->span.end > sheet->span.begin))
        sheet->span = (struct span){ 0, 1 };
    for (size_t bin = 0; bin < BINS; bin++)
        sheet->x[bin] = ((double) bin + 0.5) / BINS * (sheet->span.end - sheet->span.begin) / DAY;
    for (size_t step = 0; step < STEPS; step++)
        sheet->distribution_x[step] = pow(10, 4 * (double) step / (STEPS - 1));
    for (size_t i = 0; i < count; i++)
        curves_fill(sheet, &cells[i], &sheet->curves[i]);
    return 0;
}

/* --- plots ----------------------------------------------------------------------------------------------------------- */

static bool is_whole(const struct queue_report_cell *cell) {
    return cell->outcome->preemptions == 0;
}

enum curve { CURVE_WAIT, CURVE_SLOWDOWN, CURVE_USE, CURVE_WAITING };

static const double *curve_of(const struct curves *curves, enum curve curve) {
    const double *const all[] = { curves->wait, curves->slowdown, curves->use, curves->waiting };

    return all[curve];
}

static double peak_of(const double *values) {
    double peak = 0;

    for (size_t bin = 0; bin < BINS; bin++)
        peak = values[bin] > peak ? values[bin] : peak; /* not for what is no number */
    return peak;
}

/* Waits of some policies would be a flat line beside those of others. */
static bool is_uneven(const struct sheet *sheet, enum curve curve) {
    double least = INFINITY, most = 0;

    for (size_t i = 0; i < sheet->count; i++) {
        double peak = peak_of(curve_of(&sheet->curves[i], curve));
        least = peak < least ? peak : least;
        most = peak > most ? peak : most;
    }
    return most > UNEVEN * least && least > 0;
}

/* What is next to nothing would take most of a logarithmic axis. */
static void raise_values(double *values, double least) {
    for (size_t bin = 0; bin < BINS; bin++)
        if (values[bin] < least)
            values[bin] = least;
}

/* A cell without this curve keeps its place, so that colours mean the same in each plot. */
static int draw_curve(struct buffer *page, const struct sheet *sheet, enum curve curve, const char *title, const char *label) {
    _cleanup_free_ struct plot_line *lines = calloc(sheet->count, sizeof(*lines));
    bool logarithmic = curve == CURVE_SLOWDOWN || (curve != CURVE_USE && is_uneven(sheet, curve));

    if (!lines)
        return -ENOMEM;
    for (size_t i = 0; logarithmic && i < sheet->count; i++) {
        if (curve == CURVE_WAIT)
            raise_values(sheet->curves[i].wait, WAIT_LEAST);
        else if (curve == CURVE_WAITING)
            raise_values(sheet->curves[i].waiting, WAITING_LEAST);
    }
    for (size_t i = 0; i < sheet->count; i++)
        lines[i] = (struct plot_line){ .name = sheet->cells[i].name, .x = sheet->x, .y = curve_of(&sheet->curves[i], curve),
                                       .count = curve != CURVE_USE || is_whole(&sheet->cells[i]) ? BINS : 0 };
    plot_lines(page, &(struct plot){ .title = title, .x_label = "days since the first submission", .y_label = label,
                                     .lines = lines, .line_count = sheet->count, .y_from_zero = true,
                                     .y_logarithmic = logarithmic });
    return 0;
}

static int draw_distribution(struct buffer *page, const struct sheet *sheet) {
    _cleanup_free_ struct plot_line *lines = calloc(sheet->count, sizeof(*lines));

    if (!lines)
        return -ENOMEM;
    for (size_t i = 0; i < sheet->count; i++)
        lines[i] = (struct plot_line){ .name = sheet->cells[i].name, .x = sheet->distribution_x, .y = sheet->curves[i].share,
                                       .count = STEPS };
    plot_lines(page, &(struct plot){ .title = "Slowdown: how many jobs have at most so much", .x_label = "bounded slowdown",
                                     .y_label = "percent of the jobs", .lines = lines, .line_count = sheet->count,
                                     .x_logarithmic = true });
    return 0;
}

static void draw_table(struct buffer *page, const struct sheet *sheet) {
    static const char *const heads[] = { "policy", "mean slowdown", "mean wait", "95 % wait at most", "longest wait",
                                         "used", "gave way", NULL };

    plot_table_begin(page, heads);
    for (size_t i = 0; i < sheet->count; i++) {
        const struct queue_outcome *outcome = sheet->cells[i].outcome;
        char slowdown[32], wait[32], most[32], longest[32], used[32], yields[32];
        snprintf(slowdown, sizeof(slowdown), "%.2f", outcome->bsld);
        snprintf(wait, sizeof(wait), "%.2f h", outcome->wait / HOUR);
        snprintf(most, sizeof(most), "%.1f h", (double) outcome->wait_95 / HOUR);
        snprintf(longest, sizeof(longest), "%.1f h", (double) outcome->wait_maximum / HOUR);
        snprintf(used, sizeof(used), "%.1f %%", outcome->utilisation * 100);
        snprintf(yields, sizeof(yields), "%llu", (unsigned long long) outcome->preemptions);
        plot_table_row(page, (const char *const[]){ sheet->cells[i].name, slowdown, wait, most, longest, used, yields, NULL });
    }
    plot_table_end(page);
}

/* --- who ran where ----------------------------------------------------------------------------------------------------- */

/* Around the moment at which the first policy has most waiting, in which about GANTT_JOBS are submitted. */
static struct span gantt_span(const struct sheet *sheet) {
    const struct queue_run *run = sheet->cells[0].run;
    size_t bin = 0, middle = 0, first, last;

    for (size_t i = 0; i < BINS; i++)
        if (sheet->curves[0].waiting[i] > sheet->curves[0].waiting[bin])
            bin = i;
    while (middle + 1 < run->count && bin_of(&sheet->span, (double) run->jobs[middle].submitted) < bin)
        middle++;
    first = middle > GANTT_JOBS / 2 ? middle - GANTT_JOBS / 2 : 0;
    last = first + GANTT_JOBS < run->count ? first + GANTT_JOBS : run->count;
    if (run->count == 0 || last == run->count)
        return (struct span){ run->count ? (double) run->jobs[first].submitted : 0, sheet->span.end };
    return (struct span){ (double) run->jobs[first].submitted, (double) run->jobs[last].submitted };
}

struct piece {
    int64_t start, end;
    const struct swf_job *job;
};

static int piece_compare(const void *first, const void *second) {
    const struct piece *a = first, *b = second;

    if (a->start != b->start)
        return a->start < b->start ? -1 : 1;
    return a->job->id < b->job->id ? -1 : a->job->id > b->job->id;
}

struct gantt {
    struct span span;
    struct plot_bar *bars;
    size_t count, room;
    int64_t *free_at; /* of each row */
    uint32_t rows;
    uint64_t row;     /* what one is of the run's processors */
};

/* As coarse as shows every job in whole rows, or as fine as can be drawn. */
static uint64_t gantt_row(const struct queue_run *run) {
    uint64_t row = run->part ? run->processors : 1;

    for (size_t i = 0; row > 1 && i < run->count; i++)
        for (uint64_t rest = run->jobs[i].processors; rest > 0;) {
            uint64_t next = row % rest;
            row = rest;
            rest = next;
        }
    return run->processors / row <= GANTT_PROCESSORS ? row : (run->processors + GANTT_PROCESSORS - 1) / GANTT_PROCESSORS;
}

static int gantt_add(struct gantt *gantt, const struct piece *piece, uint32_t row, uint32_t height) {
    double begin = (double) piece->start, end = (double) piece->end;

    if (gantt->count == gantt->room) {
        size_t room = gantt->room ? 2 * gantt->room : 1024;
        struct plot_bar *bars = reallocarray(gantt->bars, room, sizeof(*bars));
        if (!bars)
            return -ENOMEM;
        gantt->bars = bars;
        gantt->room = room;
    }
    begin = begin > gantt->span.begin ? begin : gantt->span.begin;
    end = end < gantt->span.end ? end : gantt->span.end;
    gantt->bars[gantt->count++] = (struct plot_bar){ .begin = (begin - gantt->span.begin) / HOUR,
                                                     .end = (end - gantt->span.begin) / HOUR,
                                                     .row = row, .height = height, .colour = (uint32_t) piece->job->id };
    return 0;
}

/* On the lowest processors that are free: the log does not say which. */
static int gantt_place(struct gantt *gantt, const struct piece *piece) {
    uint64_t left = (piece->job->processors + gantt->row / 2) / gantt->row;
    uint32_t begin = 0, height = 0;
    int r = 0;

    left = left > 0 ? left : 1;
    for (uint32_t i = 0; r >= 0 && i < gantt->rows && left > 0; i++) {
        if (gantt->free_at[i] > piece->start) {
            r = height > 0 ? gantt_add(gantt, piece, begin, height) : 0;
            height = 0;
            continue;
        }
        gantt->free_at[i] = piece->end;
        begin = height > 0 ? begin : i;
        height++;
        left--;
    }
    return r >= 0 && height > 0 ? gantt_add(gantt, piece, begin, height) : r;
}

static int gantt_fill(struct gantt *gantt, const struct queue_report_cell *cell) {
    _cleanup_free_ struct piece *pieces = calloc(cell->run->count + 1, sizeof(*pieces));
    size_t count = 0;
    int r = 0;

    if (!pieces)
        return -ENOMEM;
    for (size_t i = 0; i < cell->run->count; i++)
        if ((double) cell->outcome->starts[i] < gantt->span.end && (double) cell->outcome->ends[i] > gantt->span.begin)
            pieces[count++] = (struct piece){ cell->outcome->starts[i], cell->outcome->ends[i], &cell->run->jobs[i] };
    qsort(pieces, count, sizeof(*pieces), piece_compare);
    for (size_t i = 0; r >= 0 && i < count; i++)
        r = gantt_place(gantt, &pieces[i]);
    return r;
}

static int draw_gantt(struct buffer *page, const struct queue_report_cell *cell, struct span span, double origin) {
    _cleanup_free_ char *label = text_format("hours, from day %.1f on; a job has the same colour everywhere",
                                             (span.begin - origin) / DAY);
    uint64_t row = gantt_row(cell->run);
    struct gantt gantt = { .span = span, .rows = (uint32_t) (cell->run->processors / row), .row = row };
    int r;

    gantt.free_at = malloc(((size_t) gantt.rows + 1) * sizeof(int64_t));
    r = gantt.free_at && label ? 0 : -ENOMEM;
    for (uint32_t i = 0; r >= 0 && i < gantt.rows; i++)
        gantt.free_at[i] = INT64_MIN;
    if (r >= 0)
        r = gantt_fill(&gantt, cell);
    if (r >= 0)
        plot_gantt(page, &(struct plot_gantt){
                             .title = cell->name, .x_label = label, .y_label = "processors", .bars = gantt.bars,
                             .bar_count = gantt.count, .rows = gantt.rows,
                             .row = (double) row / (double) (cell->run->part ? cell->run->part : 1) });
    free(gantt.free_at);
    free(gantt.bars);
    return r;
}

static int draw_gantts(struct buffer *page, const struct sheet *sheet) {
    struct span span = gantt_span(sheet);
    int r = 0;

    if (queue_run_machine(sheet->cells[0].run) > GANTT_PROCESSORS || !(span.end > span.begin))
        return 0;
    plot_section(page, "Who ran where, while most waited");
    for (size_t i = 0; r >= 0 && i < sheet->count; i++)
        if (is_whole(&sheet->cells[i]))
            r = draw_gantt(page, &sheet->cells[i], span, sheet->span.begin);
    return r;
}

static int draw_sheet(struct buffer *page, const struct sheet *sheet) {
    const struct queue_run *run = sheet->cells[0].run;
    const char *log = sheet->cells[0].log, *slash = strrchr(log, '/');
    _cleanup_free_ char *title = text_format("%s: %zu jobs, %.10g processors", slash ? slash + 1 : log, run->count,
                                             queue_run_machine(run));
    int r = title ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    plot_section(page, title);
    draw_table(page, sheet);
    r = draw_curve(page, sheet, CURVE_WAIT, "Wait, of those submitted then", "hours");
    if (r >= 0)
        r = draw_curve(page, sheet, CURVE_SLOWDOWN, "Bounded slowdown, of those submitted then", "mean slowdown");
    if (r >= 0)
        r = draw_curve(page, sheet, CURVE_WAITING, "How many wait", "jobs");
    if (r >= 0)
        r = draw_curve(page, sheet, CURVE_USE, "Use of the machine", "percent of the processors");
    if (r >= 0)
        r = draw_distribution(page, sheet);
    return r < 0 ? r : draw_gantts(page, sheet);
}

int queue_report_write(const char *path, const struct queue_report_cell *cells, size_t count, struct error *error) {
    _cleanup_buffer_ struct buffer page = BUFFER_INIT;
    int r = 0;

    plot_page_begin(&page, "Policies of the queue", "Slowdown is bounded: max(1, (wait + run) / max(run, 10 s)). Curves are "
                    "means over equal stretches of time. Policies under which jobs give way have no curve of use and no "
                    "picture of who ran where.");
    for (size_t begin = 0, end; r >= 0 && begin < count; begin = end) {
        struct sheet sheet = { 0 };
        for (end = begin + 1; end < count && text_equal(cells[end].log, cells[begin].log);)
            end++;
        r = sheet_init(&sheet, &cells[begin], end - begin);
        if (r >= 0)
            r = draw_sheet(&page, &sheet);
        free(sheet.curves);
    }
    return r < 0 ? error_errno(error, r, "writing %s", path) : plot_page_write(&page, path, error);
}
