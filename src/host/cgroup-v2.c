// SPDX-License-Identifier: GPL-2.0-or-later
/* The tree's top is preferred, also under systemd: a group beneath our own service would be in the way of restarting
 * it (systemd can put no process into a group that hands on controllers), and would be killed with it. Only where the
 * top may not be used (a container that was given a part of a tree) the groups go beneath our own. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "host/cgroup-internal.h"

#define WEIGHT_MAX 10000
#define BFQ_WEIGHT_MAX 1000

static const struct hierarchy *tree(const struct cgroup_host *host) {
    return &host->hierarchies[0];
}

/* Our own group, without the leading slash; "" at the top. */
static int own_group(char **ret) {
    _cleanup_free_ char *text = NULL;
    const char *line;
    int r = file_read(AT_FDCWD, "/proc/self/cgroup", CGROUP_TEXT_LIMIT, &text, NULL);

    if (r < 0)
        return r;
    line = text_starts(text, "0::/") ? text : strstr(text, "\n0::/");
    if (!line)
        return -ENODATA;
    line = strstr(line, "0::/") + 4;
    *ret = strndup(line, strcspn(line, "\n"));
    return *ret ? 0 : -ENOMEM;
}

int cgroup_v2_choose_base(struct cgroup_host *host) {
    _cleanup_free_ char *own = NULL, *name = NULL;
    int r;

    r = file_read(tree(host)->fd, "cgroup.controllers", CGROUP_TEXT_LIMIT, &host->available, NULL);
    if (r < 0)
        return r;
    if (mkdirat(tree(host)->fd, host->base, 0755) == 0 || errno == EEXIST)
        return 0;
    r = own_group(&own);
    if (r < 0)
        return r;
    name = host->base;
    host->base = text_format("%s%s%s", own, *own ? "/" : "", name);
    return host->base ? 0 : -ENOMEM;
}

static int enable_one(const struct cgroup_host *host, const char *group, const char *controller) {
    char path[PATH_MAX], value[32];

    snprintf(path, sizeof(path), "%s%scgroup.subtree_control", group, *group ? "/" : "");
    snprintf(value, sizeof(value), "+%s", controller);
    return file_write_value(tree(host)->fd, path, value);
}

/* Hands on every controller we use that the group has. -EBUSY: it holds processes. */
static int enable_in(const struct cgroup_host *host, const char *group) {
    static const char *const controllers[] = { "cpu", "memory", "pids", "io", "cpuset" };
    int result = 0;

    for (size_t i = 0; i < ELEMENTS(controllers); i++) {
        int r = enable_one(host, group, controllers[i]);
        if (r == -EBUSY)
            result = r;
    }
    return result;
}

/* A group that hands on controllers holds no process of its own: all there are, we among them, move to a leaf. */
static int vacate(const struct cgroup_host *host, const char *group) {
    _cleanup_free_ char *text = NULL, *source = NULL, *leaf = NULL, *target = NULL;
    char *save = NULL;
    int r;

    source = text_format("%s%scgroup.procs", group, *group ? "/" : "");
    leaf = text_format("%s%spolderd", group, *group ? "/" : "");
    target = leaf ? text_format("%s/cgroup.procs", leaf) : NULL;
    if (!source || !target)
        return -ENOMEM;
    if (mkdirat(tree(host)->fd, leaf, 0755) < 0 && errno != EEXIST)
        return -errno;
    r = file_read(tree(host)->fd, source, CGROUP_TEXT_LIMIT, &text, NULL);
    for (char *line = r < 0 ? NULL : strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        (void) file_write_value(tree(host)->fd, target, line);
    return r < 0 ? r : 0;
}

int cgroup_v2_prepare(struct cgroup_host *host) {
    _cleanup_free_ char *parent = NULL;
    const char *slash = strrchr(host->base, '/');
    char path[PATH_MAX];
    int r;

    if (host->prepared)
        return 0;
    parent = strndup(host->base, slash ? (size_t) (slash - host->base) : 0);
    if (!parent)
        return -ENOMEM;
    if (mkdirat(tree(host)->fd, host->base, 0755) < 0 && errno != EEXIST)
        return -errno;
    r = enable_in(host, parent);
    if (r == -EBUSY) {
        r = vacate(host, parent);
        if (r < 0)
            return r;
        (void) enable_in(host, parent);
    }
    r = enable_in(host, host->base);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/cgroup.subtree_control", host->base);
    free(STEAL_PTR(host->available));
    r = file_read(tree(host)->fd, path, CGROUP_TEXT_LIMIT, &host->available, NULL);
    host->prepared = r >= 0;
    return r;
}

static int set_number(const struct cgroup *cgroup, const char *file, uint64_t value, const char *none) {
    if (value == 0)
        return cgroup_write(cgroup, tree(cgroup->host), file, none);
    return cgroup_writef(cgroup, tree(cgroup->host), file, "%llu", (unsigned long long) value);
}

/* A missing control file matters only if a limit was wanted. */
static int checked(struct error *error, int r, bool wanted, const char *limit, const char *controller) {
    if (r >= 0 || (!wanted && (r == -ENOENT || r == -EOPNOTSUPP)))
        return 0;
    return cgroup_limit_error(error, r, limit, controller);
}

/* io.weight is the cost model's, io.bfq.weight the BFQ scheduler's; which of them decides is the device's matter. */
static void set_io_weight(const struct cgroup *cgroup, uint64_t weight) {
    if (weight == 0)
        return;
    (void) cgroup_writef(cgroup, tree(cgroup->host), "io.weight", "default %llu",
                         (unsigned long long) (weight > WEIGHT_MAX ? WEIGHT_MAX : weight));
    (void) cgroup_writef(cgroup, tree(cgroup->host), "io.bfq.weight", "%llu",
                         (unsigned long long) (weight > BFQ_WEIGHT_MAX ? BFQ_WEIGHT_MAX : weight));
}

int cgroup_v2_set_weights(const struct cgroup *cgroup, uint64_t cpu, uint64_t io, struct error *error) {
    int r = set_number(cgroup, "cpu.weight", cpu > WEIGHT_MAX ? WEIGHT_MAX : cpu, "100");

    set_io_weight(cgroup, io);
    return checked(error, r, cpu != 0, "CPU weight", "cpu");
}

/* A group with processes may not be left without a set of its own once it had one (Linux 6.1): then it gets its parent's. */
int cgroup_v2_set_cpus(const struct cgroup *cgroup, const char *cpus, struct error *error) {
    _cleanup_free_ char *all = NULL;
    char path[PATH_MAX];
    int r = cgroup_write(cgroup, tree(cgroup->host), "cpuset.cpus", cpus ? cpus : "\n");

    if (r < 0 && r != -ENOENT && !cpus) {
        snprintf(path, sizeof(path), "%s/cpuset.cpus.effective", cgroup->host->base);
        if (file_read(tree(cgroup->host)->fd, path, CGROUP_TEXT_LIMIT, &all, NULL) >= 0)
            r = cgroup_write(cgroup, tree(cgroup->host), "cpuset.cpus", all);
    }
    return checked(error, r, cpus != NULL, "CPU set", "cpuset");
}

int cgroup_v2_set_floor(struct cgroup_host *host, uint64_t memory_min) {
    char path[PATH_MAX], value[24];

    snprintf(path, sizeof(path), "%s/memory.min", host->base);
    snprintf(value, sizeof(value), "%llu", (unsigned long long) memory_min);
    return file_write_value(tree(host)->fd, path, value);
}

static int set_cpu(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    int r;

    if (limits->cpu_milli)
        r = cgroup_writef(cgroup, tree(cgroup->host), "cpu.max", "%llu %d",
                          (unsigned long long) (limits->cpu_milli * CPU_PERIOD / 1000), CPU_PERIOD);
    else
        r = cgroup_write(cgroup, tree(cgroup->host), "cpu.max", "max");
    r = checked(error, r, limits->cpu_milli != 0, "CPU", "cpu");
    if (r < 0)
        return r;
    return cgroup_v2_set_weights(cgroup, limits->cpu_weight, limits->io_weight, error);
}

static int set_memory(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    int r = checked(error, set_number(cgroup, "memory.max", limits->memory, "max"), limits->memory != 0, "memory",
                    "memory");

    if (r < 0)
        return r;
    /* A hard limit is not evaded by swapping. */
    (void) cgroup_write(cgroup, tree(cgroup->host), "memory.swap.max", limits->memory ? "0" : "max");
    r = checked(error, set_number(cgroup, "memory.min", limits->memory_min, "0"), limits->memory_min != 0,
                "guaranteed memory", "memory");
    if (r < 0)
        return r;
    r = set_number(cgroup, "memory.low", limits->memory_low, "0");
    return checked(error, r, limits->memory_low != 0, "protected memory", "memory");
}

static int set_io(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    bool wanted = limits->io_read || limits->io_write;
    char reading[24] = "max", writing[24] = "max";
    unsigned major, minor;

    if (!limits->io_device)
        return 0;
    if (cgroup_whole_disk(limits->io_device, &major, &minor) < 0)
        return wanted ? error_set(error, ERROR_HOST_LACKS, "I/O limits", "the state directory is on no block device") : 0;
    if (limits->io_read)
        snprintf(reading, sizeof(reading), "%llu", (unsigned long long) limits->io_read);
    if (limits->io_write)
        snprintf(writing, sizeof(writing), "%llu", (unsigned long long) limits->io_write);
    int r = cgroup_writef(cgroup, tree(cgroup->host), "io.max", "%u:%u rbps=%s wbps=%s", major, minor, reading, writing);
    return checked(error, r == -ENODEV && !wanted ? 0 : r, wanted, "I/O", "io");
}

int cgroup_v2_set_limits(const struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    int r = set_cpu(cgroup, limits, error);

    if (r >= 0)
        r = set_memory(cgroup, limits, error);
    if (r >= 0)
        r = checked(error, set_number(cgroup, "pids.max", limits->pids > 0 ? (uint64_t) limits->pids : 0, "max"),
                    limits->pids > 0, "process", "pids");
    if (r >= 0)
        r = set_io(cgroup, limits, error);
    if (r >= 0)
        r = cgroup_v2_set_cpus(cgroup, limits->cpus, error);
    return r;
}

int cgroup_v2_freeze(const struct cgroup *cgroup, bool frozen, uint64_t deadline) {
    _cleanup_close_ int events = -EBADF;
    char path[PATH_MAX];
    int r;

    snprintf(path, sizeof(path), "%s/%s/cgroup.events", cgroup->host->base, cgroup->uuid);
    events = openat(tree(cgroup->host)->fd, path, O_RDONLY | O_CLOEXEC);
    if (events < 0)
        return -errno;
    r = cgroup_write(cgroup, tree(cgroup->host), "cgroup.freeze", frozen ? "1" : "0");
    while (r >= 0) {
        char text[128];
        /* Read through this very descriptor: it is ready when something changed since its last read. */
        ssize_t size = pread(events, text, sizeof(text) - 1, 0);
        if (size < 0) {
            r = -errno;
            break;
        }
        text[size] = '\0';
        if ((cgroup_number(text, "frozen") != 0) == frozen)
            break;
        r = fiber_wait_fd(events, EPOLLPRI, deadline);
    }
    if (r == -ETIMEDOUT)
        (void) cgroup_write(cgroup, tree(cgroup->host), "cgroup.freeze", "0");
    return r < 0 ? r : 0;
}

static uint64_t read_number(const struct cgroup *cgroup, const char *file, const char *key) {
    _cleanup_free_ char *text = NULL;

    return cgroup_read(cgroup, tree(cgroup->host), file, &text) < 0 ? 0 : cgroup_number(text, key);
}

/* Lines "254:0 rbytes=1 wbytes=2 rios=…". */
static void sum_io(const char *text, struct cgroup_usage *ret) {
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        unsigned long long read, written, reads = 0, writes = 0;
        if (sscanf(line, "%*u:%*u rbytes=%llu wbytes=%llu rios=%llu wios=%llu", &read, &written, &reads, &writes) >= 2) {
            ret->io_read_bytes += read;
            ret->io_write_bytes += written;
            ret->io_reads += reads;
            ret->io_writes += writes;
        }
    }
}

bool cgroup_v2_is_frozen(const struct cgroup *cgroup) {
    return read_number(cgroup, "cgroup.freeze", NULL) != 0;
}

int cgroup_v2_usage(const struct cgroup *cgroup, struct cgroup_usage *ret) {
    _cleanup_free_ char *io = NULL;

    ret->cpu_us = read_number(cgroup, "cpu.stat", "usage_usec");
    ret->memory = read_number(cgroup, "memory.current", NULL);
    ret->pids = read_number(cgroup, "pids.current", NULL);
    ret->oom_kills = read_number(cgroup, "memory.events", "oom_kill");
    if (cgroup_read(cgroup, tree(cgroup->host), "io.stat", &io) >= 0)
        sum_io(io, ret);
    return 0;
}

int cgroup_v2_memory(const struct cgroup *cgroup, uint64_t *ret_held, uint64_t *ret_cache) {
    _cleanup_free_ char *text = NULL;
    int r = cgroup_read(cgroup, tree(cgroup->host), "memory.stat", &text);

    if (r < 0)
        return r;
    *ret_held = read_number(cgroup, "memory.current", NULL);
    *ret_cache = cgroup_number(text, "inactive_file") + cgroup_number(text, "active_file");
    return 0;
}

int cgroup_v2_squeeze(const struct cgroup *cgroup, uint64_t bytes) {
    int r = 0;

    if (read_number(cgroup, "memory.high", NULL) != bytes) /* "max" reads as 0 */
        r = set_number(cgroup, "memory.high", bytes, "max");
    else
        return 0;
    return r < 0 ? r : 1;
}

/* The kernel says EAGAIN when it came not that far. */
int cgroup_v2_swap_out(const struct cgroup *cgroup, uint64_t bytes) {
    int r = cgroup_write(cgroup, tree(cgroup->host), "memory.swap.max", "max");

    if (r >= 0)
        r = cgroup_writef(cgroup, tree(cgroup->host), "memory.reclaim", "%llu", (unsigned long long) bytes);
    return r == -EAGAIN ? 0 : r;
}

void cgroup_v2_swap_end(const struct cgroup *cgroup) {
    if (read_number(cgroup, "memory.max", NULL) > 0) /* "max" reads as 0 */
        (void) cgroup_write(cgroup, tree(cgroup->host), "memory.swap.max", "0");
}
