// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "simulator/array.h"
#include "simulator/input.h"

/* Logs in the Standard Workload Format: 18 columns, header lines begin with ';'. Times in seconds. */

struct swf_job {
    int64_t id, submitted, run, requested;
    int64_t user, queue; /* columns 12 and 15 */
    uint32_t processors; /* 1/part of one each, see swf_log */
    uint64_t memory; /* bytes; 0: the log does not tell */
    uint64_t class;  /* those of one class tell of each other how long they run; 0: the log names none */
};

enum swf_rules {
    /* Gaussier et al., SC'15: no job larger than the machine, none without run time, requested time or time of submission;
     * the run time is cut at the requested one; processors: column 8, else 5. Sorted by submission. A log in which no job has
     * a requested time (a model's) keeps all, with the run time as request. */
    SWF_STRONG,
    /* RLScheduler, SC'20: a negative run time is 10 s, jobs of 0 s are left out, the larger of columns 5 and 8, a missing
     * request is the run time. Sorted by number. */
    SWF_RLSCHEDULER,
};

/* What was dropped or mended, and how often. */
enum swf_repair {
    SWF_TOO_LARGE,
    SWF_NO_RUN,
    SWF_NO_REQUEST,
    SWF_NO_SUBMISSION,
    SWF_NO_PROCESSORS,
    SWF_RUN_CUT,
    SWF_REQUEST_FROM_RUN,
    SWF_UNSORTED,
    SWF_FRACTION,
    /* Of Polder's own records (ledger-log.h): */
    SWF_STILL_RUNS,
    SWF_NEVER_RAN,
    SWF_END_LOST,
    SWF_OUTLIVED,
    SWF_BOOTED,
    SWF_REPAIR_COUNT,
};
extern const char *const swf_repairs[SWF_REPAIR_COUNT];

struct swf_log {
    struct swf_job *jobs; /* of `storage` */
    size_t count;
    struct array storage;
    uint64_t processors;
    uint64_t part;        /* so many of them make one; 0: each is one */
    uint64_t memory;      /* bytes of the machine; 0: it does not count */
    double recorded_wait; /* mean, s, as it really was; of a log with `part` */
    uint64_t repairs[SWF_REPAIR_COUNT];
};

/* All that is left of the input. `processors` of the machine, 0: as the header says (MaxProcs, else MaxNodes). `progress` (may
 * be NULL) is called now and then with the share read. The jobs, not the text, are kept: some 70 bytes each, in a file of
 * its own where they are many (array.h). BAD_INPUT names file, line and column; INTERNAL for no room. */
int swf_read(struct input *input, enum swf_rules rules, uint64_t processors, void (*progress)(double share),
             struct swf_log *ret, struct error *error);
void swf_done(struct swf_log *log);
