// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

/* VMs that come and go: read row by row from a CSV file of any size, or generated. In order of creation. */

struct vm {
    uint64_t create, end; /* ms; end UINT64_MAX: it outlives the trace */
    uint64_t cpus;        /* millionths */
    uint64_t memory;      /* bytes */
    uint32_t class_number; /* equal for what is of one class */
};

/* What was counted rather than refused. */
struct vm_repairs {
    uint64_t rows;
    uint64_t endless; /* without an end: they outlive the trace */
    uint64_t instant; /* that ended when they began: left out */
};

struct vm_trace;

/* What the columns of a file mean. */
struct vm_columns {
    /* "id=…,create=…,delete=…,cpus=…,memory=…,class=…": names in the header or, all of them, numbers from 1
     * when the file has no header. NULL: id,create,delete,cpus,memory[,class]. */
    const char *mapping;
    double time_unit;    /* of create and delete, in seconds */
    double memory_unit;  /* in bytes */
    bool tells;          /* on standard error, which columns of the header are not used */
};
/* NOT_FOUND, BAD_VALUE for the mapping, BAD_INPUT. */
int vm_trace_open(const char *path, const struct vm_columns *columns, struct vm_trace **ret,
                  struct error *error);

struct vm_generator {
    uint64_t seed, vms, classes;
    double days; /* over which they are created */
};
int vm_trace_generate(const struct vm_generator *generator, struct vm_trace **ret);

/* 1 and the next VM, 0 at the end. BAD_INPUT names file, line and column: missing fields, what is no number,
 * sizes of 0, lives that end before they begin, rows that are not in order of creation. */
int vm_trace_next(struct vm_trace *trace, struct vm *ret, struct error *error);
/* 0 to 1. */
double vm_trace_progress(const struct vm_trace *trace);
const struct vm_repairs *vm_trace_repairs(const struct vm_trace *trace);
void vm_trace_free(struct vm_trace *trace);
DEFINE_CLEANUP(struct vm_trace *, vm_trace_free)
#define _cleanup_vm_trace_ _cleanup_(vm_trace_freep)
