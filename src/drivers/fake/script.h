// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* How a fake instance behaves: from its labels "polder.fake.STEP" = "WORD,WORD,…", where STEP is start, stop, pause,
 * resume, suspend, restore, adopt or run, and the words are
 *   delay=DURATION   the step takes that long
 *   fail             the step fails;   fail=N: the first N times it is tried
 *   hang             the step never ends by itself (it can be cancelled)
 *   exit=CODE        run only: ends with CODE after the delay
 *   oom              run only: the end counts as out of memory
 *   output=TEXT      run only: what the instance prints when it starts
 *   cpu=NUMBER       run only: the processors that it is seen to use
 *   memory=SIZE      run only: the memory that it is seen to use
 * Labels are the interface because they pass through every layer unchanged. */

struct fake_step {
    uint64_t delay_ms;
    int64_t failures; /* how many tries fail; -1: all */
    bool hang;
    bool exits;
    int code;
    bool oom;
    char *output;
    bool measured;   /* cpu or memory was given */
    uint64_t cpu, memory; /* thousandths, bytes */
};

/* Reads label `step`; BAD_VALUE names the label and the word. An absent label gives an empty step. */
int fake_step_read(char *const *labels, const char *step, struct fake_step *ret, struct error *error);
void fake_step_done(struct fake_step *step);
