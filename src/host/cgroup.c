// SPDX-License-Identifier: GPL-2.0-or-later
/* Each instance has the group BASE/UUID in every hierarchy, with its limits. What watches over it is started in
 * BASE/UUID.m: on v2 a leaf beside it, on v1 a group of the freezer hierarchy alone (in the others it goes to BASE),
 * so that neither a limit nor the freezer touches it and yet the uuid finds it after any crash.
 *
 * A process enters by itself, before it has threads, and on v1 through "tasks": a thread that moves itself takes no
 * global lock. Every write to "cgroup.procs" may wait for an RCU grace period, some ten milliseconds during which no
 * group of the host can be changed.
 *
 * A group is emptied by killing what is in it until nothing is: v2 has cgroup.kill for that; on v1 the group is
 * frozen first, so that nothing can fork away, then killed, then thawed. */
#include "host/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "host/cgroup-internal.h"

#define WATCHER ".m"
#define KILL_ROUNDS 64

DEFINE_CLEANUP(struct cgroup_host *, cgroup_host_free)
DEFINE_CLEANUP(struct cgroup *, cgroup_free)

static void closedirp(DIR **directory) {
    if (*directory)
        closedir(*directory);
}

/* --- control files --------------------------------------------------------------------------------------------- */

int cgroup_read(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file, char **ret) {
    char path[PATH_MAX];

    if (!hierarchy)
        return -ENODEV;
    snprintf(path, sizeof(path), "%s/%s/%s", cgroup->host->base, cgroup->uuid, file);
    return file_read(hierarchy->fd, path, CGROUP_TEXT_LIMIT, ret, NULL);
}

int cgroup_write(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file, const char *value) {
    char path[PATH_MAX];

    if (!hierarchy)
        return -ENODEV;
    snprintf(path, sizeof(path), "%s/%s/%s", cgroup->host->base, cgroup->uuid, file);
    return file_write_value(hierarchy->fd, path, value);
}

int cgroup_writef(const struct cgroup *cgroup, const struct hierarchy *hierarchy, const char *file,
                  const char *format, ...) {
    char value[256];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(value, sizeof(value), format, arguments);
    va_end(arguments);
    return cgroup_write(cgroup, hierarchy, file, value);
}

uint64_t cgroup_number(const char *text, const char *key) {
    size_t length = key ? strlen(key) : 0;

    if (!key)
        return strtoull(text, NULL, 10);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, key, length) == 0 && line[length] == ' ')
            return strtoull(line + length + 1, NULL, 10);
    return 0;
}

int cgroup_limit_error(struct error *error, int r, const char *limit, const char *controller) {
    if (r == -ENOENT || r == -ENODEV)
        return error_set(error, ERROR_HOST_LACKS, controller,
                         "the cgroup controller is not available, so the limit cannot be kept");
    if (r == -EBUSY)
        return error_set(error, ERROR_BUSY, limit, "more than the new limit is in use");
    return error_errno(error, r, "setting the %s limit", limit);
}

int cgroup_whole_disk(uint64_t device, unsigned *ret_major, unsigned *ret_minor) {
    _cleanup_free_ char *text = NULL;
    char path[64];
    unsigned number[2] = { major(device), minor(device) };

    if (number[0] == 0)
        return -ENODEV;
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/partition", number[0], number[1]);
    if (file_exists(AT_FDCWD, path)) {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../dev", number[0], number[1]);
        int r = file_read(AT_FDCWD, path, 64, &text, NULL);
        if (r < 0)
            return r;
        if (sscanf(text, "%u:%u", &number[0], &number[1]) != 2)
            return -ENODEV;
    }
    *ret_major = number[0];
    *ret_minor = number[1];
    return 0;
}

/* --- the host's trees ------------------------------------------------------------------------------------------ */

static bool has_word(const char *list, const char *word, const char *separators) {
    size_t length = strlen(word);

    for (const char *at = list; at && *at;) {
        size_t size = strcspn(at, separators);
        if (size == length && memcmp(at, word, length) == 0)
            return true;
        at += size + strspn(at + size, separators);
    }
    return false;
}

const struct hierarchy *cgroup_find_hierarchy(const struct cgroup_host *host, const char *controller) {
    if (host->layout != CGROUP_V2 && strcmp(controller, "io") == 0)
        controller = "blkio";
    for (size_t i = 0; i < host->count; i++) {
        const struct hierarchy *hierarchy = &host->hierarchies[i];
        if (host->layout == CGROUP_V2 ? hierarchy->unified : has_word(hierarchy->controllers, controller, ","))
            return hierarchy;
    }
    return NULL;
}

static int host_add(struct cgroup_host *host, const char *mount_point, const char *controllers, bool unified) {
    struct hierarchy *hierarchy = &host->hierarchies[host->count];

    if (host->count == CGROUP_ENTRY_MAX)
        return -E2BIG;
    hierarchy->fd = open(mount_point, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (hierarchy->fd < 0)
        return -errno;
    hierarchy->controllers = strdup(controllers);
    if (!hierarchy->controllers) {
        hierarchy->fd = close_fd(hierarchy->fd);
        return -ENOMEM;
    }
    hierarchy->unified = unified;
    host->count++;
    return 0;
}

static bool host_knows(const struct cgroup_host *host, const char *controllers, bool unified) {
    for (size_t i = 0; i < host->count; i++)
        if (host->hierarchies[i].unified == unified && text_equal(host->hierarchies[i].controllers, controllers))
            return true;
    return false;
}

/* From the options of a v1 mount's super block, "rw,cpu,cpuacct", what names its hierarchy. */
static int v1_controllers(const char *options, char **ret) {
    static const char *const known[] = { "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids" };
    _cleanup_buffer_ struct buffer names = BUFFER_INIT;
    const char *named = strstr(options, "name=");

    for (size_t i = 0; i < ELEMENTS(known); i++)
        if (has_word(options, known[i], ","))
            buffer_addf(&names, "%s%s", names.size ? "," : "", known[i]);
    if (names.size == 0 && named)
        buffer_addf(&names, "%.*s", (int) strcspn(named, ","), named);
    return buffer_take(&names, ret);
}

/* One line of mountinfo: "36 35 0:31 / /sys/fs/cgroup/cpu rw shared:1 - cgroup cgroup rw,cpu". */
static int host_add_line(struct cgroup_host *host, char *line) {
    _cleanup_free_ char *controllers = NULL;
    char *separator = strstr(line, " - "), *save = NULL, *field = NULL, type[16], options[256];
    bool unified;
    int r;

    if (!separator || sscanf(separator, " - %15s %*s %255s", type, options) != 2)
        return 0;
    unified = strcmp(type, "cgroup2") == 0;
    if (!unified && strcmp(type, "cgroup") != 0)
        return 0;
    *separator = '\0';
    for (int i = 0; i < 5; i++)
        field = strtok_r(i == 0 ? line : NULL, " ", &save);
    r = unified ? ((controllers = strdup("")) ? 0 : -ENOMEM) : v1_controllers(options, &controllers);
    if (r < 0)
        return r;
    if (!field || (!unified && !*controllers) || host_knows(host, controllers, unified))
        return 0;
    r = host_add(host, field, controllers, unified);
    return r == -EACCES || r == -ENOENT || r == -ESTALE ? 0 : r;
}

static void host_decide_layout(struct cgroup_host *host) {
    bool unified = false, legacy = false;

    for (size_t i = 0; i < host->count; i++) {
        unified |= host->hierarchies[i].unified;
        legacy |= !host->hierarchies[i].unified;
    }
    host->layout = legacy ? (unified ? CGROUP_HYBRID : CGROUP_V1) : unified ? CGROUP_V2 : CGROUP_NONE;
}

int cgroup_host_open(const char *name, struct cgroup_host **ret, struct error *error) {
    _cleanup_(cgroup_host_freep) struct cgroup_host *host = calloc(1, sizeof(*host));
    _cleanup_free_ char *text = NULL;
    char *save = NULL;
    int r;

    if (!host || !(host->base = strdup(name)))
        return error_errno(error, -ENOMEM, "opening cgroups");
    r = file_read(AT_FDCWD, "/proc/self/mountinfo", 4 * CGROUP_TEXT_LIMIT, &text, NULL);
    for (char *line = r < 0 ? NULL : strtok_r(text, "\n", &save); line && r >= 0; line = strtok_r(NULL, "\n", &save))
        r = host_add_line(host, line);
    if (r < 0)
        return error_errno(error, r, "reading the cgroup mounts");
    host_decide_layout(host);
    if (host->layout == CGROUP_NONE)
        return error_set(error, ERROR_HOST_LACKS, "cgroups", "no cgroup file system is mounted");
    r = host->layout == CGROUP_V2 ? cgroup_v2_choose_base(host) : 0;
    if (r < 0)
        return error_errno(error, r, "choosing the cgroup of the instances");
    *ret = STEAL_PTR(host);
    return 0;
}

void cgroup_host_free(struct cgroup_host *host) {
    if (!host)
        return;
    for (size_t i = 0; i < host->count; i++) {
        /* Gone if nothing runs in it any more; refused, and kept, otherwise. */
        if (host->base && host->hierarchies[i].fd >= 0)
            (void) unlinkat(host->hierarchies[i].fd, host->base, AT_REMOVEDIR);
        close_fd(host->hierarchies[i].fd);
        free(host->hierarchies[i].controllers);
    }
    free(host->base);
    free(host->available);
    free(host);
}

enum cgroup_layout cgroup_host_layout(const struct cgroup_host *host) {
    return host->layout;
}

bool cgroup_host_has(const struct cgroup_host *host, const char *controller) {
    if (host->layout == CGROUP_V2)
        return strcmp(controller, "freezer") == 0 || has_word(host->available, controller, " \n");
    return cgroup_find_hierarchy(host, controller) != NULL;
}

/* --- groups ---------------------------------------------------------------------------------------------------- */

static int make_group(const struct hierarchy *hierarchy, const char *path) {
    return mkdirat(hierarchy->fd, path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* BASE/UUID; its parent only if it is missing. */
static int group_ensure(const struct cgroup *cgroup, const struct hierarchy *hierarchy) {
    char path[PATH_MAX];
    int r;

    snprintf(path, sizeof(path), "%s/%s", cgroup->host->base, cgroup->uuid);
    r = make_group(hierarchy, path);
    if (r == -ENOENT) {
        r = make_group(hierarchy, cgroup->host->base);
        if (r >= 0)
            r = make_group(hierarchy, path);
    }
    return r >= 0 && !hierarchy->unified ? cgroup_v1_prepare(cgroup, hierarchy) : r;
}

static int cgroup_new(struct cgroup_host *host, const char *uuid, struct cgroup **ret) {
    _cleanup_(cgroup_freep) struct cgroup *cgroup = calloc(1, sizeof(*cgroup));

    if (!uuid_is_valid(uuid))
        return -EINVAL;
    if (!cgroup)
        return -ENOMEM;
    cgroup->host = host;
    cgroup->uuid = strdup(uuid);
    cgroup->path = text_format("/%s/%s", host->base, uuid);
    if (!cgroup->uuid || !cgroup->path)
        return -ENOMEM;
    *ret = STEAL_PTR(cgroup);
    return 0;
}

int cgroup_ensure(struct cgroup_host *host, const char *uuid, struct cgroup **ret, struct error *error) {
    _cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
    int r = cgroup_new(host, uuid, &cgroup);

    if (r >= 0 && host->layout == CGROUP_V2)
        r = cgroup_v2_prepare(host);
    for (size_t i = 0; r >= 0 && i < host->count; i++)
        r = group_ensure(cgroup, &host->hierarchies[i]);
    if (r < 0)
        return error_errno(error, r, "creating the cgroup of %s", uuid);
    *ret = STEAL_PTR(cgroup);
    return 0;
}

void cgroup_free(struct cgroup *cgroup) {
    if (!cgroup)
        return;
    free(cgroup->uuid);
    free(cgroup->path);
    free(cgroup);
}

int cgroup_set_limits(struct cgroup *cgroup, const struct cgroup_limits *limits, struct error *error) {
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_set_limits(cgroup, limits, error)
                                             : cgroup_v1_set_limits(cgroup, limits, error);
}

int cgroup_set_weights(struct cgroup *cgroup, uint64_t cpu, uint64_t io, struct error *error) {
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_set_weights(cgroup, cpu, io, error)
                                             : cgroup_v1_set_weights(cgroup, cpu, io, error);
}

int cgroup_set_cpus(struct cgroup *cgroup, const char *cpus, struct error *error) {
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_set_cpus(cgroup, cpus, error)
                                             : cgroup_v1_set_cpus(cgroup, cpus, error);
}

int cgroup_cpus(const struct cgroup *cgroup, char **ret) {
    int r = cgroup_read(cgroup, cgroup_find_hierarchy(cgroup->host, "cpuset"), "cpuset.cpus", ret);

    if (r >= 0)
        (*ret)[strcspn(*ret, "\n")] = '\0';
    return r < 0 ? r : 0;
}

int cgroup_cpu_weight(const struct cgroup *cgroup, const char **ret_file, uint64_t *ret_value) {
    const char *file = cgroup->host->layout == CGROUP_V2 ? "cpu.weight" : "cpu.shares";
    _cleanup_free_ char *text = NULL;
    int r = cgroup_read(cgroup, cgroup_find_hierarchy(cgroup->host, "cpu"), file, &text);

    if (r < 0)
        return r;
    *ret_file = file;
    *ret_value = cgroup_number(text, NULL);
    return 0;
}

uint64_t cgroup_cpu_value(const struct cgroup_host *host, uint64_t cpu_weight) {
    return host->layout == CGROUP_V2 ? cpu_weight : cgroup_v1_shares(cpu_weight);
}

int cgroup_host_set_floor(struct cgroup_host *host, uint64_t memory_min) {
    int r;

    if (host->layout != CGROUP_V2 || !host->prepared)
        return 0;
    r = cgroup_v2_set_floor(host, memory_min);
    return r < 0 ? r : 1;
}

static const char *entry_file(const struct hierarchy *hierarchy) {
    return hierarchy->unified ? "cgroup.procs" : "tasks";
}

/* The hierarchy in which the watcher's group exists. */
static const struct hierarchy *watcher_hierarchy(const struct cgroup_host *host) {
    const struct hierarchy *freezer = cgroup_find_hierarchy(host, "freezer");

    return freezer ? freezer : &host->hierarchies[0];
}

void cgroup_entry_close(struct cgroup_entry *entry) {
    while (entry->count > 0)
        close_fd(entry->fds[--entry->count]);
}

static int entry_open(const struct cgroup *cgroup, bool watcher, struct cgroup_entry *ret) {
    _cleanup_cgroup_entry_ struct cgroup_entry entry = { .count = 0 };
    const struct cgroup_host *host = cgroup->host;
    char path[PATH_MAX];

    for (size_t i = 0; i < host->count; i++) {
        const struct hierarchy *hierarchy = &host->hierarchies[i];
        bool own = !watcher || hierarchy == watcher_hierarchy(host);
        snprintf(path, sizeof(path), "%s%s%s%s/%s", host->base, own ? "/" : "", own ? cgroup->uuid : "",
                 own && watcher ? WATCHER : "", entry_file(hierarchy));
        int fd = openat(hierarchy->fd, path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        entry.fds[entry.count++] = fd;
    }
    *ret = entry;
    entry.count = 0;
    return 0;
}

int cgroup_entry_open(const struct cgroup *cgroup, struct cgroup_entry *ret) {
    return entry_open(cgroup, false, ret);
}

int cgroup_watcher_open(const struct cgroup *cgroup, struct cgroup_entry *ret) {
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s" WATCHER, cgroup->host->base, cgroup->uuid);
    (void) make_group(watcher_hierarchy(cgroup->host), path); /* else the opening fails */
    return entry_open(cgroup, true, ret);
}

int cgroup_procs_paths(const struct cgroup *cgroup, char ***ret) {
    const struct cgroup_host *host = cgroup->host;
    _cleanup_list_ char **list = NULL;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < host->count; i++)
        r = list_addf(&list, "/proc/%d/fd/%d/%s/%s/%s", getpid(), host->hierarchies[i].fd, host->base, cgroup->uuid,
                      entry_file(&host->hierarchies[i]));
    if (r < 0)
        return r;
    *ret = STEAL_PTR(list);
    return 0;
}

const char *cgroup_path(const struct cgroup *cgroup) {
    return cgroup->path;
}

/* Does a line of /proc/PID/cgroup, "4:memory:/polder/UUID[.m][/…]", name one of our two groups? */
static bool line_names(const char *line, const char *path) {
    const char *name = strchr(line, ':');
    size_t length = strlen(path);

    name = name ? strchr(name + 1, ':') : NULL;
    if (!name || strncmp(name + 1, path, length) != 0)
        return false;
    name += 1 + length;
    if (strncmp(name, WATCHER, strlen(WATCHER)) == 0)
        name += strlen(WATCHER);
    return *name == '\0' || *name == '/';
}

int cgroup_holds(const struct cgroup *cgroup, int pid) {
    _cleanup_free_ char *text = NULL;
    char path[40], *save = NULL;
    int r;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
    r = file_read(AT_FDCWD, path, CGROUP_TEXT_LIMIT, &text, NULL);
    if (r < 0)
        return r == -ENOENT || r == -ESRCH ? 0 : r;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (line_names(line, cgroup->path))
            return 1;
    return 0;
}

int cgroup_freeze(struct cgroup *cgroup, bool frozen, uint64_t deadline, struct error *error) {
    int r = cgroup->host->layout == CGROUP_V2 ? cgroup_v2_freeze(cgroup, frozen, deadline)
                                              : cgroup_v1_freeze(cgroup, frozen, deadline);

    if (r == -ENODEV)
        return error_set(error, ERROR_HOST_LACKS, "freezer", "the cgroup controller is not available");
    return r < 0 ? error_errno(error, r, frozen ? "freezing the processes" : "thawing the processes") : 0;
}

bool cgroup_is_frozen(const struct cgroup *cgroup) {
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_is_frozen(cgroup) : cgroup_v1_is_frozen(cgroup);
}

int cgroup_usage(const struct cgroup *cgroup, struct cgroup_usage *ret) {
    *ret = (struct cgroup_usage){ 0 };
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_usage(cgroup, ret) : cgroup_v1_usage(cgroup, ret);
}

int cgroup_memory(const struct cgroup *cgroup, uint64_t *ret_held, uint64_t *ret_cache) {
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_memory(cgroup, ret_held, ret_cache)
                                             : cgroup_v1_memory(cgroup, ret_held, ret_cache);
}

int cgroup_squeeze(const struct cgroup *cgroup, uint64_t bytes, uint64_t floor) {
    return cgroup->host->layout == CGROUP_V2 ? cgroup_v2_squeeze(cgroup, bytes) : cgroup_v1_squeeze(cgroup, bytes, floor);
}

int cgroup_swap_out(const struct cgroup *cgroup, uint64_t bytes, uint64_t *ret_left) {
    bool unified = cgroup->host->layout == CGROUP_V2;
    int r = unified ? cgroup_v2_swap_out(cgroup, bytes) : cgroup_v1_swap_out(cgroup);
    uint64_t cache;

    if (r < 0)
        return r == -ENOENT || r == -ENODEV || r == -EINVAL ? -EOPNOTSUPP : r;
    return cgroup_memory(cgroup, ret_left, &cache);
}

void cgroup_swap_end(const struct cgroup *cgroup) {
    if (cgroup->host->layout == CGROUP_V2)
        cgroup_v2_swap_end(cgroup);
}

/* --- emptying and removing ------------------------------------------------------------------------------------- */

typedef int (*process_visitor)(int pid, void *userdata);

static int visit_procs(int directory, process_visitor visit, void *userdata) {
    _cleanup_free_ char *text = NULL;
    char *save = NULL;
    int r = file_read(directory, "cgroup.procs", CGROUP_TEXT_LIMIT, &text, NULL);

    if (r < 0)
        return r;
    r = 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        int pid = atoi(line);
        if (pid > 0) {
            (void) visit(pid, userdata);
            r++;
        }
    }
    return r;
}

/* Visits every process of the group at `path` and of the groups beneath it, which a guest may have made. Returns how
 * many there were. */
static int visit_tree(int at, const char *path, process_visitor visit, void *userdata, unsigned depth) {
    _cleanup_close_ int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_(closedirp) DIR *directory = NULL;
    struct dirent *entry;
    int count, r;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    count = visit_procs(fd, visit, userdata);
    if (count < 0 && count != -EOPNOTSUPP)
        return count == -ENODEV || count == -ENOENT ? 0 : count;
    count = count < 0 ? 0 : count;
    directory = fdopendir(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    while (directory && depth < 32 && (entry = readdir(directory))) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
            continue;
        r = visit_tree(fd, entry->d_name, visit, userdata, depth + 1);
        count += r > 0 ? r : 0;
    }
    return count;
}

struct pid_list {
    int *pids;
    size_t count;
    bool failed;
};

static int visit_collect(int pid, void *userdata) {
    struct pid_list *list = userdata;
    int *more = list->failed ? NULL : reallocarray(list->pids, list->count + 1, sizeof(int));

    list->failed |= !more;
    if (more) {
        list->pids = more;
        list->pids[list->count++] = pid;
    }
    return 0;
}

int cgroup_processes(const struct cgroup *cgroup, int **ret_pids, size_t *ret_count) {
    struct pid_list list = { 0 };
    char path[PATH_MAX];
    int r;

    snprintf(path, sizeof(path), "%s/%s", cgroup->host->base, cgroup->uuid);
    r = visit_tree(watcher_hierarchy(cgroup->host)->fd, path, visit_collect, &list, 0);
    if (r < 0 || list.failed) {
        free(list.pids);
        return r < 0 ? r : -ENOMEM;
    }
    *ret_pids = list.pids;
    *ret_count = list.count;
    return 0;
}

static int visit_kill(int pid, void *userdata) {
    return kill(pid, SIGKILL);
}

static int visit_nothing(int pid, void *userdata) {
    return 0;
}

/* Kills what is in BASE/name of one hierarchy; how many processes it saw. */
static int kill_in(const struct cgroup_host *host, const struct hierarchy *hierarchy, const char *name) {
    char path[PATH_MAX];

    snprintf(path, sizeof(path), "%s/%s/cgroup.kill", host->base, name);
    if (hierarchy->unified && host->layout == CGROUP_V2)
        (void) file_write_value(hierarchy->fd, path, "1");
    snprintf(path, sizeof(path), "%s/%s", host->base, name);
    return visit_tree(hierarchy->fd, path, visit_kill, NULL, 0);
}

int cgroup_kill(struct cgroup *cgroup) {
    const struct cgroup_host *host = cgroup->host;
    int r = 0;

    if (host->layout != CGROUP_V2)
        (void) cgroup_write(cgroup, cgroup_find_hierarchy(host, "freezer"), "freezer.state", "FROZEN");
    for (size_t i = 0; i < host->count; i++) {
        int seen = kill_in(host, &host->hierarchies[i], cgroup->uuid);
        r = seen < 0 && r >= 0 ? seen : r;
    }
    if (host->layout != CGROUP_V2)
        (void) cgroup_write(cgroup, cgroup_find_hierarchy(host, "freezer"), "freezer.state", "THAWED");
    return r;
}

static int count_in(const struct cgroup_host *host, const char *name) {
    char path[PATH_MAX];
    int count = 0;

    snprintf(path, sizeof(path), "%s/%s", host->base, name);
    for (size_t i = 0; i < host->count; i++) {
        int r = visit_tree(host->hierarchies[i].fd, path, visit_nothing, NULL, 0);
        count = r > count ? r : count;
    }
    return count;
}

bool cgroup_is_empty(const struct cgroup *cgroup) {
    return count_in(cgroup->host, cgroup->uuid) == 0;
}

static int remove_group(int at, const char *path, unsigned depth) {
    _cleanup_close_ int fd = -EBADF;
    _cleanup_(closedirp) DIR *directory = NULL;
    struct dirent *entry;

    if (unlinkat(at, path, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    if ((errno != EBUSY && errno != ENOTEMPTY) || depth == 32)
        return -errno;
    fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    directory = fdopendir(fcntl(fd, F_DUPFD_CLOEXEC, 3));
    while (directory && (entry = readdir(directory)))
        if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
            (void) remove_group(fd, entry->d_name, depth + 1);
    return unlinkat(at, path, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

static int remove_all(const struct cgroup_host *host, const char *name) {
    char path[PATH_MAX];
    int result = 0;

    snprintf(path, sizeof(path), "%s/%s", host->base, name);
    for (size_t i = 0; i < host->count; i++) {
        int r = remove_group(host->hierarchies[i].fd, path, 0);
        result = r < 0 ? r : result;
    }
    return result;
}

/* Kills both groups until rmdir succeeds. The kernel tells of an empty v1 group in no way that can be waited for, and
 * a dead process leaves its groups a moment after its pidfd fires: so short sleeps that grow. */
static int remove_until(struct cgroup *cgroup, const char *watcher, uint64_t deadline) {
    const struct cgroup_host *host = cgroup->host;
    uint64_t pause = CLOCK_MILLISECOND / 4;

    for (unsigned round = 0;; round++) {
        int r = remove_all(host, cgroup->uuid);
        int s = remove_all(host, watcher);
        if (r >= 0 && s >= 0)
            return 0;
        if ((r < 0 && r != -EBUSY) || (s < 0 && s != -EBUSY))
            return r < 0 && r != -EBUSY ? r : s;
        if (clock_now() > deadline)
            return -ETIMEDOUT;
        if (r < 0)
            (void) cgroup_kill(cgroup);
        for (size_t i = 0; s < 0 && i < host->count; i++)
            (void) kill_in(host, &host->hierarchies[i], watcher);
        r = fiber_sleep(pause);
        if (r < 0)
            return r;
        pause = pause < 20 * CLOCK_MILLISECOND ? pause * 2 : pause;
    }
}

int cgroup_remove(struct cgroup_host *host, const char *uuid, uint64_t deadline, struct error *error) {
    _cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
    _cleanup_free_ char *watcher = text_format("%s" WATCHER, uuid);
    int r = watcher ? cgroup_new(host, uuid, &cgroup) : -ENOMEM;

    if (r >= 0)
        r = remove_until(cgroup, watcher, deadline);
    return r < 0 ? error_errno(error, r, "removing the cgroup of %s", uuid) : 0;
}

static int list_groups(const struct cgroup_host *host, const struct hierarchy *hierarchy, char ***uuids) {
    _cleanup_close_ int fd = openat(hierarchy->fd, host->base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_(closedirp) DIR *directory = NULL;
    struct dirent *entry;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    directory = fdopendir(fd);
    if (!directory)
        return -errno;
    fd = -EBADF;
    while ((entry = readdir(directory))) {
        char *end = entry->d_name + strlen(entry->d_name);
        if (text_ends(entry->d_name, WATCHER))
            end[-(int) strlen(WATCHER)] = '\0';
        if (entry->d_type == DT_DIR && uuid_is_valid(entry->d_name) && !list_has(*uuids, entry->d_name)) {
            int r = list_add(uuids, entry->d_name);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int cgroup_list(struct cgroup_host *host, char ***ret_uuids) {
    _cleanup_list_ char **uuids = NULL;

    for (size_t i = 0; i < host->count; i++) {
        int r = list_groups(host, &host->hierarchies[i], &uuids);
        if (r < 0)
            return r;
    }
    *ret_uuids = STEAL_PTR(uuids);
    return 0;
}
