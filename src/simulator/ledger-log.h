// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>

#include "simulator/swf.h"

/* Polder's own record (`polder queue --ledger FILE`, or the files of STATE/ledger one after another) as a log of jobs: who came
 * when, asked for what, and how long it really ran. Each run is a job: an instance that gave way and went on is one, one that
 * was started again later is another. Processors count in 1/LEDGER_PART of one, after the node's overcommit ratio. */

#define LEDGER_PART 100000

/* Does what comes next look like one? 1, 0; BAD_INPUT. */
int ledger_log_is(struct input *input, struct error *error);

/* `processors` of the machine, 0: the node's. BAD_INPUT names the file and the line: what is no JSON, no event of this engine,
 * has no instance or an absurd number; a record of another version of the engine. */
int ledger_log_read(struct input *input, uint64_t processors, void (*progress)(double share), struct swf_log *ret,
                    struct error *error);
