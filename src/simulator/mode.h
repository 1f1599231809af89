// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"

/* A kind of simulation: one file each, one row in main.c. */

struct mode {
    const char *name;    /* the first word: "queue", "placement", "roadef", "planetlab" */
    const char *summary; /* one line of the help */
    const char *help;    /* the options, for --help */
    /* The words after the name. Exit status, or negative errno with the error set. */
    int (*run)(int count, char **words, struct error *error);
};

extern const struct mode queue_mode, placement_mode, vms_mode, packing_mode, roadef_mode, planetlab_mode;
