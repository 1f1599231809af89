// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* cgroups v1, v2 and the hybrid layout behind one interface. Each instance has one group "polder/UUID" (in each v1
 * hierarchy, or in the v2 tree beneath the root that the daemon was started in or may use), so it never moves when
 * polderd restarts. */

enum cgroup_layout {
    CGROUP_NONE,
    CGROUP_V1,
    CGROUP_HYBRID, /* v1 controllers, an empty v2 tree beside them */
    CGROUP_V2,
};

struct cgroup_host; /* where the trees are, which controllers there are */
struct cgroup;

/* Open it before a hybrid v2 tree is hidden from crun (umount2 with MNT_DETACH): the handle keeps using that tree,
 * in which systemd tracks its services. */
/* `name` is the parent of the instances' groups: "polder", or another for each further daemon on this host, so that none
 * takes the other's instances for something nobody owns. */
int cgroup_host_open(const char *name, struct cgroup_host **ret, struct error *error);
void cgroup_host_free(struct cgroup_host *host);
enum cgroup_layout cgroup_host_layout(const struct cgroup_host *host);
bool cgroup_host_has(const struct cgroup_host *host, const char *controller); /* "cpu", "memory", "io", "pids", "freezer", "cpuset" */

/* Absolute limits; 0 means none. */
struct cgroup_limits {
    uint64_t cpu_milli;   /* quota: thousandths of a CPU */
    uint64_t cpu_weight;  /* 1..10000, 100 is normal */
    uint64_t io_weight;   /* the same; what there is no weight for on this host is left out, and 0 leaves it as it is */
    uint64_t memory;      /* bytes, hard */
    uint64_t memory_min;  /* bytes that are never taken from it (v1: the soft limit, the best there is) */
    uint64_t memory_low;  /* bytes taken from it last (v1: likewise) */
    int64_t pids;
    uint64_t io_read;     /* bytes/s on the device below state_path's file system */
    uint64_t io_write;
    uint64_t io_device;   /* dev_t */
    const char *cpus;     /* cpuset list, NULL for all */
};

/* Makes the group (all parents and controllers), or finds it again. */
int cgroup_ensure(struct cgroup_host *host, const char *uuid, struct cgroup **ret, struct error *error);
void cgroup_free(struct cgroup *cgroup); /* the handle, not the group */
/* Errors: HOST_LACKS names a controller that a wanted limit needs, BUSY a limit below what is in use. */
int cgroup_set_limits(struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error);
/* The weights alone: cpu is 1..10000, io is left as it is if 0. */
int cgroup_set_weights(struct cgroup *cgroup, uint64_t cpu, uint64_t io, struct error *error);
/* The cpuset alone; NULL for all that the parent has. HOST_LACKS. */
int cgroup_set_cpus(struct cgroup *cgroup, const char *cpus, struct error *error);
/* Its cpuset as the kernel has it, without the newline; allocated. -ENODEV without the controller. */
int cgroup_cpus(const struct cgroup *cgroup, char **ret);
/* What the scheduler goes by, as the kernel has it, and the control file's name. */
int cgroup_cpu_weight(const struct cgroup *cgroup, const char **ret_file, uint64_t *ret_value);
/* What cpu_weight becomes in that file. */
uint64_t cgroup_cpu_value(const struct cgroup_host *host, uint64_t cpu_weight);
/* v2 protects no group beyond what its parent has: the sum of the groups' memory_min. 1; elsewhere nothing is done:
 * 0. */
int cgroup_host_set_floor(struct cgroup_host *host, uint64_t memory_min);

/* The way into a group, for process_spec: a single-threaded process writes "0" to each descriptor. Whoever starts the process
 * owns it, until the process runs: others enter the same group meanwhile, and the handle may go. */
#define CGROUP_ENTRY_MAX 24 /* hierarchies of a host */
struct cgroup_entry {
    int fds[CGROUP_ENTRY_MAX];
    size_t count;
};
int cgroup_entry_open(const struct cgroup *cgroup, struct cgroup_entry *ret);
void cgroup_entry_close(struct cgroup_entry *entry);
#define _cleanup_cgroup_entry_ __attribute__((cleanup(cgroup_entry_close)))
/* The same for the second group "polder/UUID.m", out of the limits and the freezer, which is for what watches over the
 * instance (conmon): it stays findable by uuid, cgroup_holds counts it and cgroup_remove kills it. */
int cgroup_watcher_open(const struct cgroup *cgroup, struct cgroup_entry *ret);
/* What cgroup_entry_open opens, as paths through which a process without our descriptors enters while we live. The caller
 * frees the list. */
int cgroup_procs_paths(const struct cgroup *cgroup, char ***ret);
/* "/polder/UUID", the path below the mount of each hierarchy. */
const char *cgroup_path(const struct cgroup *cgroup);
/* Is the process in one of the two groups (any hierarchy)? 1, or 0 (also when it is gone); negative errno when that cannot
 * be told now (ENOMEM, EMFILE …). */
int cgroup_holds(const struct cgroup *cgroup, int pid);
/* The processes of the group (without the watcher's). The caller frees *ret_pids. */
int cgroup_processes(const struct cgroup *cgroup, int **ret_pids, size_t *ret_count);
bool cgroup_is_frozen(const struct cgroup *cgroup);
int cgroup_freeze(struct cgroup *cgroup, bool frozen, uint64_t deadline, struct error *error);
/* Kills everything in it, waits until it is empty, removes it. Fiber. Absent is success. */
int cgroup_remove(struct cgroup_host *host, const char *uuid, uint64_t deadline, struct error *error);
/* Kills all processes in it without removing it. */
int cgroup_kill(struct cgroup *cgroup);
bool cgroup_is_empty(const struct cgroup *cgroup);

struct cgroup_usage {
    uint64_t cpu_us;
    uint64_t memory;
    uint64_t pids;
    uint64_t oom_kills;
    uint64_t io_read_bytes, io_write_bytes;
    uint64_t io_reads, io_writes; /* requests */
};
int cgroup_usage(const struct cgroup *cgroup, struct cgroup_usage *ret);
/* Of the memory charged to it, how much is kept only because nobody else wanted it: pages of files. */
int cgroup_memory(const struct cgroup *cgroup, uint64_t *ret_held, uint64_t *ret_cache);
/* Asks it to do with `bytes` for now, 0: with what its limit says. v2 sets memory.high, which the kernel reclaims down to
 * and slows it above; v1 has no such mark: what is kept of files is dropped once, if it takes more than `bytes` and has
 * `floor` without that. May take a while: for a worker thread. Returns 1 if something was written, else 0. */
int cgroup_squeeze(const struct cgroup *cgroup, uint64_t bytes, uint64_t floor);
/* Writes about `bytes` of what it holds of memory out to the host's swap (v1: all), as far as the kernel can, and says what it
 * still holds then. Only for a group that is frozen: others would take it in again. v2 lets it swap until cgroup_swap_end; v1
 * counts swap with memory, and needs no leave. May take long: for a worker thread. -EOPNOTSUPP where the kernel cannot. */
int cgroup_swap_out(const struct cgroup *cgroup, uint64_t bytes, uint64_t *ret_left);
/* No more of it is swapped out, if it has a limit of memory (which swap would evade); what is out comes back as it is needed. */
void cgroup_swap_end(const struct cgroup *cgroup);
/* uuids of the groups that exist beneath polder/, for reconcile and fsck. */
int cgroup_list(struct cgroup_host *host, char ***ret_uuids);
