// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/scores.h"
#include "simulator/vmtrace.h"

/* VMs that come and go on equal nodes, as many as it takes: a node is opened when a VM fits on none that is
 * open, the lowest that is empty; it closes when its last VM has ended. */

#define VMS_SAMPLES 4096

struct vms_run {
    const struct score *score;
    uint64_t cpus, memory; /* of each node: millionths, bytes */
    bool lifetimes;        /* ends are predicted from the history of the class */
};

struct vms_outcome {
    uint64_t placed, too_large;
    uint64_t open_most;         /* nodes needed */
    double node_hours;          /* until the last creation */
    double bound_hours;         /* no policy can do with less: the larger sum of requests, in whole nodes */
    uint64_t bound_most;
    double packing;             /* share of the open nodes' CPUs that is promised, over time */
    struct vm_repairs repairs;
    size_t samples;             /* hours since the first creation, open nodes, share promised */
    double hours[VMS_SAMPLES], open[VMS_SAMPLES], share[VMS_SAMPLES];
};

/* `progress` may be NULL. Errors of vm_trace_next; NO_MEMORY. */
int vms_simulate(const struct vms_run *run, struct vm_trace *trace, void (*progress)(double share),
                 struct vms_outcome *ret, struct error *error);
