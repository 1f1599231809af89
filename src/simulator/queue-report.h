// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "simulator/queue-simulation.h"

/* An HTML page of policies side by side on logs: tables, wait, slowdown and use over time, and who ran where. */

struct queue_report_cell {
    const char *log;  /* cells of one log stand together */
    const char *name; /* of the policy and what else differs */
    const struct queue_run *run;
    const struct queue_outcome *outcome; /* with starts and ends of all jobs */
};

/* INTERNAL, NO_MEMORY. */
int queue_report_write(const char *path, const struct queue_report_cell *cells, size_t count, struct error *error);
