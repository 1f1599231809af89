// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/error.h"

/* Reports: one HTML file that needs nothing else, with tables and SVG plots. The same numbers give the same
 * bytes. Colours tell lines apart for eyes of every kind and lines differ by their dashes as well. Texts are
 * escaped here. A failed allocation shows in page->failed and at plot_page_write. */

void plot_page_begin(struct buffer *page, const char *title, const char *summary);
/* Ends the page and writes it, over what was there. INTERNAL, NO_MEMORY. */
int plot_page_write(struct buffer *page, const char *path, struct error *error);
void plot_section(struct buffer *page, const char *title);

/* Rows of a table; the first is its head. Cells of a row end with NULL. */
void plot_table_begin(struct buffer *page, const char *const *heads);
void plot_table_row(struct buffer *page, const char *const *cells);
void plot_table_end(struct buffer *page);

struct plot_line {
    const char *name;
    const double *x, *y; /* x rises; what is not finite is left out */
    size_t count;
    bool steps;          /* y holds until the next x */
};
struct plot {
    const char *title, *x_label, *y_label;
    const struct plot_line *lines;
    size_t line_count;
    bool x_logarithmic, y_logarithmic; /* values above 0 alone */
    bool y_from_zero;
};
/* A line of more than 2,000 points keeps the least and the greatest of each stretch. */
void plot_lines(struct buffer *page, const struct plot *plot);

/* What ran where and when. */
struct plot_bar {
    double begin, end;
    uint32_t row, height; /* rows [row, row + height) */
    uint32_t colour;      /* any number: equal ones look the same */
};
struct plot_gantt {
    const char *title, *x_label, *y_label;
    const struct plot_bar *bars;
    size_t bar_count;
    uint32_t rows;
    double row; /* what one is on the axis */
};
/* Draws the first 20,000 bars and tells how many there are. */
void plot_gantt(struct buffer *page, const struct plot_gantt *gantt);
