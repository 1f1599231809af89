// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "host/cgroup.h"

/* What this host is and can do, each finding with its reason and what to do: `polder doctor`. */

enum finding_level {
    FINDING_OK,
    FINDING_NOTE,    /* works, good to know */
    FINDING_WARNING, /* works with a limit */
    FINDING_ERROR,   /* something Polder needs is missing */
};

struct finding {
    enum finding_level level;
    char *topic;  /* "kvm", "cgroup", "network", "image tools" … */
    char *text;   /* what was found */
    char *reason; /* why, what it means */
    char *advice; /* what to do, or NULL */
};

struct findings {
    struct finding *items;
    size_t count;
};
/* NULL advice: nothing to do. Copies. */
int findings_add(struct findings *findings, enum finding_level level, const char *topic, const char *text,
                 const char *reason, const char *advice);
void findings_done(struct findings *findings);
void findings_emit(const struct findings *findings, struct emitter *emitter);
const char *finding_level_name(enum finding_level level);

struct host_facts {
    uint64_t cpus;        /* online */
    uint64_t memory;      /* bytes */
    char *kernel;         /* uname -r */
    char *machine;        /* "x86_64" */
    char *hostname;
    char **features;      /* of the first processor, as the kernel names them ("avx2") */
    uint64_t tsc_khz;     /* measured rate of the time stamp counter, 0 if none */
    bool kvm_usable;      /* a tiny guest ran */
    char *kvm_reason;     /* why (not) */
};

/* Fast facts, no probe. */
int host_facts_read(struct host_facts *ret);
void host_facts_done(struct host_facts *facts);
/* Measures tsc_khz against CLOCK_MONOTONIC_RAW (takes about 20 ms; blocks: run as job). */
uint64_t host_measure_tsc_khz(void);
/* Does KVM run an ordinary guest? A child process opens /dev/kvm and puts a tiny guest through protected and long mode with
 * paging within a deadline. Fiber. Never fails: the reason is kept in facts. The answer is cached beneath run_path for
 * this boot. */
void host_probe_kvm(struct host_facts *facts, const char *run_path, const char *libexec_path);
/* Polder's own helper programs beneath libexec_path: each that is missing is named with what it is needed for. */
int host_helper_findings(const char *libexec_path, struct findings *findings);
/* Kernel features, programs, limits. */
int host_findings(const struct host_facts *facts, const struct cgroup_host *cgroups, const char *state_path,
                  struct findings *findings);
