// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/placement.h"

/* Nodes and pods as the openb GPU-cluster traces have them: CSV with a header; columns are found by name.
 * Nodes: sn,cpu_milli,memory_mib,gpu,model. Pods: name,cpu_milli,memory_mib,num_gpu,gpu_milli[,gpu_spec], the
 * last a list of models with '|' between. Other columns are ignored. BAD_INPUT names file, line and column.
 */

struct openb_node {
    char *name;
    uint64_t cpus, memory; /* millionths, bytes */
    unsigned gpus;
    char *model;
};
struct openb_pod {
    uint64_t cpus, memory;
    unsigned gpus, gpu_milli;
    char *models; /* "" when any will do */
};

struct openb {
    struct openb_node *nodes;
    size_t node_count, node_room;
    struct openb_pod *pods;
    size_t pod_count, pod_room;
};

int openb_read_nodes(struct openb *openb, const char *path, struct error *error);
int openb_read_pods(struct openb *openb, const char *path, struct error *error);
void openb_done(struct openb *openb);
#define _cleanup_openb_ _cleanup_(openb_done)
