// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/error.h"
#include "host/cgroup.h"

/* Shared by cgroup.c and the two files that know the control files of one version. */

#define CGROUP_TEXT_LIMIT (1024 * 1024)
#define CPU_PERIOD 100000 /* microseconds */

struct hierarchy {
    char *controllers; /* "cpu,cpuacct", "name=systemd"; "" is the v2 tree */
    int fd;            /* the mount's root directory */
    bool unified;
};

struct cgroup_host {
    enum cgroup_layout layout;
    struct hierarchy hierarchies[CGROUP_ENTRY_MAX];
    size_t count;
    char *base;      /* "polder", or "own/group/polder" below a v2 tree that we may not use at its top */
    char *available; /* v2: the controllers that children can have, space separated */
    bool prepared;   /* v2: base exists and hands on its controllers */
};

struct cgroup {
    struct cgroup_host *host;
    char *uuid;
    char *path; /* "/BASE/UUID" */
};

/* The hierarchy that has the controller ("io" is "blkio" in v1), or NULL. */
const struct hierarchy *cgroup_find_hierarchy(const struct cgroup_host *host, const char *controller);
/* Value of a control file of the group, of at most CGROUP_TEXT_LIMIT bytes. */
int cgroup_read(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file, char **ret);
int cgroup_write(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file, const char *value);
int cgroup_writef(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file,
                  const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The number after `key` and a space at the start of a line of `text`, or the number alone for key NULL. */
uint64_t cgroup_number(const char *text, const char *key);
/* Turns a failed write of a limit into an error that names it. */
int cgroup_limit_error(struct error *error, int r, const char *limit, const char *controller);
/* The disk that a partition belongs to: limits are per whole device. -ENODEV for file systems without a device. */
int cgroup_whole_disk(uint64_t device, unsigned *ret_major, unsigned *ret_minor);

int cgroup_v1_prepare(const struct cgroup *cgroup, const struct hierarchy *hierarchy);
int cgroup_v1_set_limits(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error);
int cgroup_v1_set_weights(const struct cgroup *cgroup, uint64_t cpu, uint64_t io, struct error *error);
int cgroup_v1_set_cpus(const struct cgroup *cgroup, const char *cpus, struct error *error);
uint64_t cgroup_v1_shares(uint64_t weight);
int cgroup_v1_freeze(const struct cgroup *cgroup, bool frozen, uint64_t deadline);
bool cgroup_v1_is_frozen(const struct cgroup *cgroup);
int cgroup_v1_usage(const struct cgroup *cgroup, struct cgroup_usage *ret);
int cgroup_v1_memory(const struct cgroup *cgroup, uint64_t *ret_held, uint64_t *ret_cache);
int cgroup_v1_swap_out(const struct cgroup *cgroup);
int cgroup_v1_squeeze(const struct cgroup *cgroup, uint64_t bytes, uint64_t floor);

int cgroup_v2_choose_base(struct cgroup_host *host);
int cgroup_v2_prepare(struct cgroup_host *host);
int cgroup_v2_set_limits(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error);
int cgroup_v2_set_weights(const struct cgroup *cgroup, uint64_t cpu, uint64_t io, struct error *error);
int cgroup_v2_set_cpus(const struct cgroup *cgroup, const char *cpus, struct error *error);
int cgroup_v2_set_floor(struct cgroup_host *host, uint64_t memory_min);
int cgroup_v2_freeze(const struct cgroup *cgroup, bool frozen, uint64_t deadline);
bool cgroup_v2_is_frozen(const struct cgroup *cgroup);
int cgroup_v2_usage(const struct cgroup *cgroup, struct cgroup_usage *ret);
int cgroup_v2_memory(const struct cgroup *cgroup, uint64_t *ret_held, uint64_t *ret_cache);
int cgroup_v2_swap_out(const struct cgroup *cgroup, uint64_t bytes);
void cgroup_v2_swap_end(const struct cgroup *cgroup);
int cgroup_v2_squeeze(const struct cgroup *cgroup, uint64_t bytes);
