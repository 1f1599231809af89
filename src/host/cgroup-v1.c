// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "host/cgroup-internal.h"

/* cpu.shares of weight 100; the kernel's range is 2..262144. */
#define SHARES_NORMAL 1024
#define SHARES_MAX 262144
#define BFQ_WEIGHT_MAX 1000

/* A new cpuset has no CPUs and no memory nodes, and then takes no process: it inherits its parent's. */
static int inherit(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file) {
    _cleanup_free_ char *value = NULL;
    char path[PATH_MAX];
    int r = cgroup_read(cgroup, hierarchy, file, &value);

    if (r == -ENOENT)
        return 0; /* mounted with noprefix */
    if (r < 0 || (value[0] != '\n' && value[0] != '\0'))
        return r;
    free(STEAL_PTR(value));
    snprintf(path, sizeof(path), "%s/%s", cgroup->host->base, file);
    r = file_read(hierarchy->fd, path, CGROUP_TEXT_LIMIT, &value, NULL);
    if (r >= 0 && (value[0] == '\n' || value[0] == '\0')) {
        free(STEAL_PTR(value));
        r = file_read(hierarchy->fd, file, CGROUP_TEXT_LIMIT, &value, NULL);
        if (r >= 0)
            r = file_write_value(hierarchy->fd, path, value);
    }
    return r < 0 ? r : cgroup_write(cgroup, hierarchy, file, value);
}

int cgroup_v1_prepare(const struct cgroup *cgroup, const struct hierarchy *hierarchy) {
    static const char *const files[] = { "cpuset.cpus", "cpuset.mems", "cpus", "mems" };
    int r = 0;

    if (!strstr(hierarchy->controllers, "cpuset"))
        return 0;
    for (size_t i = 0; r >= 0 && i < ELEMENTS(files); i++)
        r = inherit(cgroup, hierarchy, files[i]);
    return r;
}

uint64_t cgroup_v1_shares(uint64_t weight) {
    uint64_t shares = (weight * SHARES_NORMAL + 50) / 100;

    return weight == 0 ? SHARES_NORMAL : shares < 2 ? 2 : shares > SHARES_MAX ? SHARES_MAX : shares;
}

static int set_shares(const struct cgroup *cgroup, uint64_t weight) {
    return cgroup_writef(cgroup, cgroup_find_hierarchy(cgroup->host, "cpu"), "cpu.shares", "%llu",
                         (unsigned long long) cgroup_v1_shares(weight));
}

/* Only the BFQ scheduler knows weights there, of 1 to 1000. */
static void set_io_weight(const struct cgroup *cgroup, uint64_t weight) {
    const struct hierarchy *io = cgroup_find_hierarchy(cgroup->host, "io");

    if (io && weight > 0)
        (void) cgroup_writef(cgroup, io, "blkio.bfq.weight", "%llu",
                             (unsigned long long) (weight > BFQ_WEIGHT_MAX ? BFQ_WEIGHT_MAX : weight));
}

int cgroup_v1_set_weights(const struct cgroup *cgroup, uint64_t cpu, uint64_t io, struct error *error) {
    int r = set_shares(cgroup, cpu);

    set_io_weight(cgroup, io);
    return r < 0 ? cgroup_limit_error(error, r, "CPU weight", "cpu") : 0;
}

static int set_cpu(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    const struct hierarchy *cpu = cgroup_find_hierarchy(cgroup->host, "cpu");
    int r = 0;

    if (!cpu && !limits->cpu_milli && !limits->cpu_weight)
        return 0;
    if (limits->cpu_milli) {
        (void) cgroup_writef(cgroup, cpu, "cpu.cfs_period_us", "%d", CPU_PERIOD);
        r = cgroup_writef(cgroup, cpu, "cpu.cfs_quota_us", "%llu",
                          (unsigned long long) (limits->cpu_milli * CPU_PERIOD / 1000));
    } else {
        (void) cgroup_write(cgroup, cpu, "cpu.cfs_quota_us", "-1");
    }
    if (r >= 0)
        r = set_shares(cgroup, limits->cpu_weight);
    set_io_weight(cgroup, limits->io_weight);
    return r < 0 ? cgroup_limit_error(error, r, "CPU", "cpu") : 0;
}

/* Memory and memory + swap get the same limit: a hard limit is not evaded by swapping. The kernel refuses a swap
 * limit below the memory limit, so the order depends on whether the limit rises or falls. Under pressure the kernel takes
 * first from those that are furthest above their soft limit: so that a floor counts, it is 0 without one. */
static int set_memory(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    const struct hierarchy *memory = cgroup_find_hierarchy(cgroup->host, "memory");
    uint64_t floor = limits->memory_min > limits->memory_low ? limits->memory_min : limits->memory_low;
    char hard[24], soft[24];
    int r;

    if (!memory)
        return limits->memory || floor ? cgroup_limit_error(error, -ENODEV, "memory", "memory") : 0;
    snprintf(hard, sizeof(hard), "%lld", limits->memory ? (long long) limits->memory : -1LL);
    snprintf(soft, sizeof(soft), "%llu", (unsigned long long) floor);
    (void) cgroup_write(cgroup, memory, "memory.memsw.limit_in_bytes", hard);
    r = cgroup_write(cgroup, memory, "memory.limit_in_bytes", hard);
    if (r < 0)
        return cgroup_limit_error(error, r, "memory", "memory");
    r = cgroup_write(cgroup, memory, "memory.memsw.limit_in_bytes", hard);
    if (r < 0 && r != -ENOENT && r != -EOPNOTSUPP)
        return cgroup_limit_error(error, r, "memory", "memory");
    r = cgroup_write(cgroup, memory, "memory.soft_limit_in_bytes", soft);
    return r < 0 && floor ? cgroup_limit_error(error, r, "protected memory", "memory") : 0;
}

static int set_pids(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    const struct hierarchy *pids = cgroup_find_hierarchy(cgroup->host, "pids");
    int r = 0;

    if (limits->pids > 0)
        r = cgroup_writef(cgroup, pids, "pids.max", "%lld", (long long) limits->pids);
    else if (pids)
        r = cgroup_write(cgroup, pids, "pids.max", "max");
    return r < 0 ? cgroup_limit_error(error, r, "process", "pids") : 0;
}

/* v1 throttles what reaches the device in the name of the process: direct I/O and reads, not written-back pages. */
static int set_io(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    const struct hierarchy *io = cgroup_find_hierarchy(cgroup->host, "io");
    unsigned major, minor;
    int r;

    if (!limits->io_device)
        return 0;
    r = cgroup_whole_disk(limits->io_device, &major, &minor);
    if (r < 0)
        return limits->io_read || limits->io_write
                   ? error_set(error, ERROR_HOST_LACKS, "I/O limits", "the state directory is on no block device")
                   : 0;
    if (!io && !limits->io_read && !limits->io_write)
        return 0;
    r = cgroup_writef(cgroup, io, "blkio.throttle.read_bps_device", "%u:%u %llu", major, minor,
                      (unsigned long long) limits->io_read);
    if (r >= 0)
        r = cgroup_writef(cgroup, io, "blkio.throttle.write_bps_device", "%u:%u %llu", major, minor,
                          (unsigned long long) limits->io_write);
    if (r < 0 && !limits->io_read && !limits->io_write)
        return 0;
    return r < 0 ? cgroup_limit_error(error, r, "I/O", "blkio") : 0;
}

int cgroup_v1_set_cpus(const struct cgroup *cgroup, const char *cpus, struct error *error) {
    const struct hierarchy *cpuset = cgroup_find_hierarchy(cgroup->host, "cpuset");
    _cleanup_free_ char *all = NULL;
    char path[PATH_MAX];
    int r;

    if (!cpuset)
        return cpus ? cgroup_limit_error(error, -ENODEV, "CPU set", "cpuset") : 0;
    if (!cpus) {
        snprintf(path, sizeof(path), "%s/cpuset.cpus", cgroup->host->base);
        if (file_read(cpuset->fd, path, CGROUP_TEXT_LIMIT, &all, NULL) < 0)
            return 0;
        cpus = all;
    }
    r = cgroup_write(cgroup, cpuset, "cpuset.cpus", cpus);
    return r < 0 ? cgroup_limit_error(error, r, "CPU set", "cpuset") : 0;
}

int cgroup_v1_set_limits(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    int r = set_cpu(cgroup, limits, error);

    if (r >= 0)
        r = set_memory(cgroup, limits, error);
    if (r >= 0)
        r = set_pids(cgroup, limits, error);
    if (r >= 0)
        r = set_io(cgroup, limits, error);
    return r < 0 ? r : cgroup_v1_set_cpus(cgroup, limits->cpus, error);
}

/* The v1 freezer offers nothing to wait on: its state is read until it says FROZEN. */
int cgroup_v1_freeze(const struct cgroup *cgroup, bool frozen, uint64_t deadline) {
    const struct hierarchy *freezer = cgroup_find_hierarchy(cgroup->host, "freezer");
    const char *wanted = frozen ? "FROZEN" : "THAWED";
    uint64_t pause = CLOCK_MILLISECOND / 4;

    for (;;) {
        _cleanup_free_ char *state = NULL;
        int r = cgroup_write(cgroup, freezer, "freezer.state", wanted);
        if (r >= 0)
            r = cgroup_read(cgroup, freezer, "freezer.state", &state);
        if (r < 0 || text_starts(state, wanted))
            return r;
        if (clock_now() > deadline) {
            (void) cgroup_write(cgroup, freezer, "freezer.state", "THAWED");
            return -ETIMEDOUT;
        }
        r = fiber_sleep(pause);
        if (r < 0)
            return r;
        pause = pause < 20 * CLOCK_MILLISECOND ? pause * 2 : pause;
    }
}

bool cgroup_v1_is_frozen(const struct cgroup *cgroup) {
    _cleanup_free_ char *state = NULL;

    return cgroup_read(cgroup, cgroup_find_hierarchy(cgroup->host, "freezer"), "freezer.state", &state) >= 0 &&
           !text_starts(state, "THAWED");
}

static uint64_t read_number(const struct cgroup *cgroup, const char *controller, const char *file, const char *key) {
    _cleanup_free_ char *text = NULL;

    if (cgroup_read(cgroup, cgroup_find_hierarchy(cgroup->host, controller), file, &text) < 0)
        return 0;
    return cgroup_number(text, key);
}

/* Lines "254:0 Read 4096"; the sums of one word. */
static uint64_t sum_io(const char *text, const char *word) {
    uint64_t sum = 0;

    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        unsigned long long bytes;
        char found[16];
        if (sscanf(line, "%*u:%*u %15s %llu", found, &bytes) == 2 && strcmp(found, word) == 0)
            sum += bytes;
    }
    return sum;
}

int cgroup_v1_usage(const struct cgroup *cgroup, struct cgroup_usage *ret) {
    _cleanup_free_ char *io = NULL;

    ret->cpu_us = read_number(cgroup, "cpuacct", "cpuacct.usage", NULL) / 1000;
    ret->memory = read_number(cgroup, "memory", "memory.usage_in_bytes", NULL);
    ret->oom_kills = read_number(cgroup, "memory", "memory.oom_control", "oom_kill");
    ret->pids = read_number(cgroup, "pids", "pids.current", NULL);
    if (cgroup_read(cgroup, cgroup_find_hierarchy(cgroup->host, "io"), "blkio.throttle.io_service_bytes", &io) >= 0) {
        ret->io_read_bytes = sum_io(io, "Read");
        ret->io_write_bytes = sum_io(io, "Write");
    }
    free(STEAL_PTR(io));
    if (cgroup_read(cgroup, cgroup_find_hierarchy(cgroup->host, "io"), "blkio.throttle.io_serviced", &io) >= 0) {
        ret->io_reads = sum_io(io, "Read");
        ret->io_writes = sum_io(io, "Write");
    }
    return 0;
}

int cgroup_v1_memory(const struct cgroup *cgroup, uint64_t *ret_held, uint64_t *ret_cache) {
    const struct hierarchy *memory = cgroup_find_hierarchy(cgroup->host, "memory");
    _cleanup_free_ char *text = NULL;
    int r = memory ? cgroup_read(cgroup, memory, "memory.stat", &text) : -ENODEV;

    if (r < 0)
        return r;
    *ret_held = read_number(cgroup, "memory", "memory.usage_in_bytes", NULL);
    *ret_cache = cgroup_number(text, "total_inactive_file") + cgroup_number(text, "total_active_file");
    return 0;
}

static bool host_swaps(void) {
    _cleanup_free_ char *text = NULL;
    int r = file_read(AT_FDCWD, "/proc/swaps", CGROUP_TEXT_LIMIT, &text, NULL);

    /* A kernel without swap has no such file; one that does has a line for each below the headings. */
    return r < 0 ? r != -ENOENT : strstr(text, "\n/") != NULL;
}

/* Groups are made with their parent's; read from there, so that nothing depends on how an earlier squeeze ended. */
static int swappiness_usual(const struct cgroup *cgroup, const struct hierarchy *memory, char **ret) {
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/memory.swappiness", cgroup->host->base);
    return file_read(memory->fd, path, CGROUP_TEXT_LIMIT, ret, NULL);
}

/* force_empty swaps as well, if the host has swap: without limit, so all that is not of files, down to nothing. A group
 * without swappiness gives up pages of files alone. */
static int cache_drop(const struct cgroup *cgroup, const struct hierarchy *memory) {
    _cleanup_free_ char *usual = NULL;
    int r = swappiness_usual(cgroup, memory, &usual);

    if (r >= 0)
        r = cgroup_write(cgroup, memory, "memory.swappiness", "0");
    if (r < 0 && host_swaps())
        return r;
    r = cgroup_write(cgroup, memory, "memory.force_empty", "0");
    if (usual)
        (void) cgroup_write(cgroup, memory, "memory.swappiness", usual);
    return r;
}

int cgroup_v1_squeeze(const struct cgroup *cgroup, uint64_t bytes, uint64_t floor) {
    uint64_t held, cache;
    int r = bytes ? cgroup_v1_memory(cgroup, &held, &cache) : 0;

    if (r < 0 || bytes == 0 || held <= bytes || held < cache || held - cache < floor)
        return r;
    r = cache_drop(cgroup, cgroup_find_hierarchy(cgroup->host, "memory"));
    return r < 0 ? r : 1;
}

/* Memory and swap have one limit together, which moving from the one to the other leaves as it is. */
int cgroup_v1_swap_out(const struct cgroup *cgroup) {
    const struct hierarchy *memory = cgroup_find_hierarchy(cgroup->host, "memory");
    _cleanup_free_ char *usual = NULL;

    if (!memory)
        return -EOPNOTSUPP;
    if (swappiness_usual(cgroup, memory, &usual) >= 0)
        (void) cgroup_write(cgroup, memory, "memory.swappiness", usual);
    return cgroup_write(cgroup, memory, "memory.force_empty", "0");
}
