// SPDX-License-Identifier: GPL-2.0-or-later
/* Each plot is one SVG of WIDTH x HEIGHT units (more where its legend takes several rows) with a frame in it; `struct frame` maps values to units, by
 * their logarithms where an axis is logarithmic. Numbers are printed with one decimal: a tenth of a unit
 * cannot be seen. */
#include "simulator/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>

#include "base/file.h"

#define WIDTH 860
#define HEIGHT 320
#define LEFT 76
#define RIGHT 20
#define TOP 34
#define BOTTOM 52
#define DESCENDER 4 /* below the last line of the legend */
#define POINTS_MAX 2000
#define BARS_MAX 20000
#define TICKS 6
#define LEGEND_ROW 18

/* Okabe and Ito's colours, which are told apart with every kind of colour blindness. */
static const char *const colours[] = { "#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                       "#e69f00", "#56b4e9", "#7f7f7f", "#a05a2c" };
static const char *const dashes[] = { "none", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "14 3 3 3", "6 2 1 2 1 2" };

static void add_escaped(struct buffer *page, const char *text) {
    for (; *text; text++)
        switch (*text) {
        case '&':
            buffer_add_text(page, "&amp;");
            break;
        case '<':
            buffer_add_text(page, "&lt;");
            break;
        case '>':
            buffer_add_text(page, "&gt;");
            break;
        case '"':
            buffer_add_text(page, "&quot;");
            break;
        default:
            buffer_add_char(page, *text);
        }
}

static void add_element(struct buffer *page, const char *name, const char *text) {
    buffer_addf(page, "<%s>", name);
    add_escaped(page, text);
    buffer_addf(page, "</%s>\n", name);
}

void plot_page_begin(struct buffer *page, const char *title, const char *summary) {
    buffer_add_text(page, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                          "<meta name=\"viewport\" content=\"width=device-width\">\n");
    add_element(page, "title", title);
    buffer_add_text(
        page,
        "<style>:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:900px;"
        "margin:2em auto;padding:0 1em}table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .8em;"
        "text-align:right;border-bottom:1px solid #8886}th:first-child,td:first-child{text-align:left}"
        "svg{width:100%;height:auto;margin:1em 0}svg text{font:12px system-ui,sans-serif;fill:currentColor}"
        ".axis{stroke:currentColor;fill:none}.grid{stroke:#8884}.line{fill:none;stroke-width:1.8}"
        ".bar{stroke:Canvas;stroke-width:.5}</style>\n"
        "</head><body>\n");
    add_element(page, "h1", title);
    add_element(page, "p", summary);
}

int plot_page_write(struct buffer *page, const char *path, struct error *error) {
    int r;

    buffer_add_text(page, "</body></html>\n");
    r = page->failed ? -ENOMEM : file_write_atomic(AT_FDCWD, path, page->data, page->size, 0644, false);
    return r < 0 ? error_errno(error, r, "writing %s", path) : 0;
}

void plot_section(struct buffer *page, const char *title) {
    add_element(page, "h2", title);
}

static void add_row(struct buffer *page, const char *const *cells, const char *kind) {
    buffer_add_text(page, "<tr>");
    for (; *cells; cells++) {
        buffer_addf(page, "<%s>", kind);
        add_escaped(page, *cells);
        buffer_addf(page, "</%s>", kind);
    }
    buffer_add_text(page, "</tr>\n");
}

void plot_table_begin(struct buffer *page, const char *const *heads) {
    buffer_add_text(page, "<table>\n");
    add_row(page, heads, "th");
}

void plot_table_row(struct buffer *page, const char *const *cells) {
    add_row(page, cells, "td");
}

void plot_table_end(struct buffer *page) {
    buffer_add_text(page, "</table>\n");
}

/* ---- axes ---- */

struct axis {
    double least, most; /* of values, or of their logarithms */
    bool logarithmic;
};

struct frame {
    struct axis x, y;
};

static bool usable(const struct axis *axis, double value) {
    return isfinite(value) && (!axis->logarithmic || value > 0);
}

static double scaled(const struct axis *axis, double value) {
    double at = axis->logarithmic ? log10(value) : value;

    return (at - axis->least) / (axis->most - axis->least);
}

static double unit_x(const struct frame *frame, double value) {
    return LEFT + scaled(&frame->x, value) * (WIDTH - LEFT - RIGHT);
}

static double unit_y(const struct frame *frame, double value) {
    return HEIGHT - BOTTOM - scaled(&frame->y, value) * (HEIGHT - TOP - BOTTOM);
}

static void axis_extend(struct axis *axis, double value) {
    double at = axis->logarithmic ? log10(value) : value;

    axis->least = at < axis->least ? at : axis->least;
    axis->most = at > axis->most ? at : axis->most;
}

/* A step of 1, 2 or 5 times a power of ten that gives about TICKS ticks. */
static double axis_step(const struct axis *axis) {
    double rough = (axis->most - axis->least) / TICKS, power = pow(10, floor(log10(rough))),
           ratio = rough / power;

    if (axis->logarithmic)
        return rough > 1 ? ceil(rough) : 1;
    return (ratio > 5 ? 10 : ratio > 2 ? 5 : ratio > 1 ? 2 : 1) * power;
}

/* An axis of one value gets some room. */
static void axis_widen(struct axis *axis) {
    if (!(axis->least <= axis->most))
        axis->least = axis->most = 0;
    if (axis->least == axis->most) {
        axis->least -= axis->least != 0 && !axis->logarithmic ? fabs(axis->least) / 2 : 0;
        axis->most += axis->most != 0 && !axis->logarithmic ? fabs(axis->most) / 2 : 1;
    }
}

/* Rounds the ends out to whole steps. */
static void axis_round(struct axis *axis) {
    axis_widen(axis);
    double step = axis_step(axis);
    axis->least = floor(axis->least / step + 1e-9) * step;
    axis->most = ceil(axis->most / step - 1e-9) * step;
}

static void print_value(char *text, size_t size, double value) {
    static const struct {
        double least;
        const char *suffix;
    } scales[] = { { 1e9, "G" }, { 1e6, "M" }, { 1e4, "k" } };

    for (size_t i = 0; i < ELEMENTS(scales); i++)
        if (fabs(value) >= scales[i].least) {
            double unit = scales[i].least == 1e4 ? 1e3 : scales[i].least;
            snprintf(text, size, "%.4g%s", value / unit, scales[i].suffix);
            return;
        }
    snprintf(text, size, "%.4g", fabs(value) < 1e-12 ? 0 : value);
}

static void draw_ticks(struct buffer *page, const struct frame *frame, bool horizontal) {
    const struct axis *axis = horizontal ? &frame->x : &frame->y;
    double step = axis_step(axis), first = ceil(axis->least / step - 1e-9) * step;

    for (int i = 0; i <= 4 * TICKS; i++) {
        double at = first + i * step, value = axis->logarithmic ? pow(10, at) : at;
        char text[32];
        if (at > axis->most + step * 1e-6)
            break;
        print_value(text, sizeof(text), value);
        if (horizontal)
            buffer_addf(page,
                        "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" "
                        "text-anchor=\"middle\">%s</text>\n",
                        unit_x(frame, value), TOP, HEIGHT - BOTTOM, unit_x(frame, value),
                        HEIGHT - BOTTOM + 16, text);
        else
            buffer_addf(page, "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" "
                              "text-anchor=\"end\">%s</text>\n",
                        LEFT, unit_y(frame, value), WIDTH - RIGHT, LEFT - 6, unit_y(frame, value) + 4, text);
    }
}

static void draw_frame(struct buffer *page, const struct frame *frame, const char *title, const char *x_label,
                       const char *y_label, int more) {
    buffer_addf(page, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT + DESCENDER + more);
    add_escaped(page, title);
    buffer_addf(page, "\">\n<text x=\"%d\" y=\"16\" font-weight=\"bold\">", LEFT);
    add_escaped(page, title);
    buffer_add_text(page, "</text>\n");
    draw_ticks(page, frame, true);
    draw_ticks(page, frame, false);
    buffer_addf(page, "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n", LEFT, TOP, HEIGHT - BOTTOM,
                WIDTH - RIGHT);
    buffer_addf(page, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2,
                HEIGHT - BOTTOM + 32);
    add_escaped(page, x_label);
    buffer_addf(page, "</text>\n<text transform=\"translate(16 %d) rotate(-90)\" text-anchor=\"middle\">",
                (TOP + HEIGHT - BOTTOM) / 2);
    add_escaped(page, y_label);
    buffer_add_text(page, "</text>\n");
}

/* ---- lines ---- */

struct pen {
    struct buffer *page;
    const struct frame *frame;
    bool steps, down;
};

static void pen_move(struct pen *pen, double x, double y) {
    double at = unit_x(pen->frame, x), height = unit_y(pen->frame, y);

    if (pen->down && pen->steps)
        buffer_addf(pen->page, "H%.1fV%.1f", at, height);
    else
        buffer_addf(pen->page, "%c%.1f %.1f", pen->down ? 'L' : 'M', at, height);
    pen->down = true;
}

/* The points [begin, end), or their first, least and greatest. */
static void pen_draw(struct pen *pen, const struct plot_line *line, size_t begin, size_t end) {
    size_t least = SIZE_MAX, most = SIZE_MAX;

    for (size_t i = begin; i < end; i++) {
        if (!usable(&pen->frame->x, line->x[i]) || !usable(&pen->frame->y, line->y[i]))
            continue;
        least = least == SIZE_MAX || line->y[i] < line->y[least] ? i : least;
        most = most == SIZE_MAX || line->y[i] > line->y[most] ? i : most;
    }
    if (least == SIZE_MAX)
        return;
    size_t first = least < most ? least : most, second = least < most ? most : least;
    pen_move(pen, line->x[first], line->y[first]);
    if (second != first)
        pen_move(pen, line->x[second], line->y[second]);
}

static void draw_line(struct buffer *page, const struct frame *frame, const struct plot_line *line,
                      size_t number) {
    struct pen pen = { .page = page, .frame = frame, .steps = line->steps };
    size_t stretch = line->count / (POINTS_MAX / 2) + 1;

    buffer_addf(page, "<path class=\"line\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"",
                colours[number % ELEMENTS(colours)], dashes[number % ELEMENTS(dashes)]);
    if (line->count <= POINTS_MAX)
        stretch = 1;
    for (size_t i = 0; i < line->count; i += stretch)
        pen_draw(&pen, line, i, i + stretch < line->count ? i + stretch : line->count);
    buffer_add_text(page, "\"/>\n");
}

/* Moves to the place of the next name, in a new row where it would not fit. */
static void legend_next(const char *name, int *x, int *row) {
    int width = 40 + 7 * (int) strlen(name);

    if (*x > LEFT && *x + width > WIDTH) {
        *x = LEFT;
        *row += 1;
    }
}

static int legend_height(const struct plot *plot) {
    int x = LEFT, row = 0;

    for (size_t i = 0; i < plot->line_count; i++) {
        legend_next(plot->lines[i].name, &x, &row);
        x += 40 + 7 * (int) strlen(plot->lines[i].name);
    }
    return row * LEGEND_ROW;
}

static void draw_legend(struct buffer *page, const struct plot *plot) {
    int x = LEFT, row = 0;

    for (size_t i = 0; i < plot->line_count; i++) {
        legend_next(plot->lines[i].name, &x, &row);
        buffer_addf(page, "<path class=\"line\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"M%d %dh22\"/>",
                    colours[i % ELEMENTS(colours)], dashes[i % ELEMENTS(dashes)], x, HEIGHT - 6 + row * LEGEND_ROW);
        buffer_addf(page, "<text x=\"%d\" y=\"%d\">", x + 27, HEIGHT - 2 + row * LEGEND_ROW);
        add_escaped(page, plot->lines[i].name);
        buffer_add_text(page, "</text>\n");
        x += 40 + 7 * (int) strlen(plot->lines[i].name);
    }
}

void plot_lines(struct buffer *page, const struct plot *plot) {
    struct frame frame = { { INFINITY, -INFINITY, plot->x_logarithmic },
                           { INFINITY, -INFINITY, plot->y_logarithmic } };

    for (size_t i = 0; i < plot->line_count; i++)
        for (size_t j = 0; j < plot->lines[i].count; j++) {
            const struct plot_line *line = &plot->lines[i];
            if (!usable(&frame.x, line->x[j]) || !usable(&frame.y, line->y[j]))
                continue;
            axis_extend(&frame.x, line->x[j]);
            axis_extend(&frame.y, line->y[j]);
        }
    if (plot->y_from_zero && !plot->y_logarithmic)
        axis_extend(&frame.y, 0);
    axis_widen(&frame.x);
    axis_round(&frame.y);
    draw_frame(page, &frame, plot->title, plot->x_label, plot->y_label, legend_height(plot));
    for (size_t i = 0; i < plot->line_count; i++)
        draw_line(page, &frame, &plot->lines[i], i);
    draw_legend(page, plot);
    buffer_add_text(page, "</svg>\n");
}

/* ---- bars ---- */

void plot_gantt(struct buffer *page, const struct plot_gantt *gantt) {
    struct frame frame = { { INFINITY, -INFINITY, false }, { 0, gantt->row * (gantt->rows ? gantt->rows : 1), false } };
    size_t drawn = gantt->bar_count < BARS_MAX ? gantt->bar_count : BARS_MAX;

    for (size_t i = 0; i < drawn; i++) {
        axis_extend(&frame.x, gantt->bars[i].begin);
        axis_extend(&frame.x, gantt->bars[i].end);
    }
    axis_widen(&frame.x);
    draw_frame(page, &frame, gantt->title, gantt->x_label, gantt->y_label, 0);
    for (size_t i = 0; i < drawn; i++) {
        const struct plot_bar *bar = &gantt->bars[i];
        double left = unit_x(&frame, bar->begin), top = unit_y(&frame, gantt->row * ((double) bar->row + bar->height));
        buffer_addf(page, "<path class=\"bar\" fill=\"%s\" d=\"M%.1f %.1fH%.1fV%.1fH%.1fz\"/>\n",
                    colours[bar->colour % ELEMENTS(colours)], left, top, unit_x(&frame, bar->end),
                    unit_y(&frame, gantt->row * bar->row), left);
    }
    if (drawn < gantt->bar_count)
        buffer_addf(page, "<text x=\"%d\" y=\"%d\">the first %zu of %zu</text>\n", LEFT, HEIGHT - 4, drawn,
                    gantt->bar_count);
    buffer_add_text(page, "</svg>\n");
}
