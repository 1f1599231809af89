// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>

#include "base/error.h"

/* A day of CPU use of many VMs: a tar, plain or packed, with a file per VM of 288 lines, each a whole percentage, one per five
 * minutes (CoMon's data as CloudSim has it). In the order of the files' names. `use` gets CLOUD_SAMPLES shares of 0 to 1 for
 * each, the last one twice; owned by the caller. NOT_FOUND, BAD_INPUT with file and line. */
int planetlab_read(const char *path, double **ret_use, size_t *ret_count, struct error *error);
