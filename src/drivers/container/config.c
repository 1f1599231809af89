// SPDX-License-Identifier: GPL-2.0-or-later
/* Follows what Docker gives a container (capabilities, masked paths, mounts, environment), plus a user namespace.
 * Field order is fixed: golden tests compare the text. */
#include "drivers/container/config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/text.h"

#define SHM_SIZE "67108864"
#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Docker's default set and no wider; they count inside the container's user namespace only. */
static const char *const capabilities[] = {
    "CAP_CHOWN",  "CAP_DAC_OVERRIDE", "CAP_FSETID",  "CAP_FOWNER",           "CAP_MKNOD",
    "CAP_NET_RAW", "CAP_SETGID",      "CAP_SETUID",  "CAP_SETFCAP",          "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE", NULL,
};

static const char *const masked_paths[] = {
    "/proc/asound",      "/proc/acpi",        "/proc/interrupts", "/proc/kcore",       "/proc/keys",
    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
    "/sys/firmware",     "/sys/devices/virtual/powercap", NULL,
};

static const char *const read_only_paths[] = {
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", NULL,
};

static const char *const namespaces[] = { "pid", "network", "ipc", "uts", "mount", "user", "cgroup", NULL };

struct system_mount {
    const char *destination, *type, *source;
    const char *options[8];
};

/* Always a tmpfs on /dev: a device node that an image brings is never reached. */
static const struct system_mount system_mounts[] = {
    { "/proc", "proc", "proc", { "nosuid", "noexec", "nodev" } },
    { "/dev", "tmpfs", "tmpfs", { "nosuid", "strictatime", "mode=755", "size=65536k" } },
    { "/dev/pts", "devpts", "devpts", { "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5" } },
    { "/sys", "sysfs", "sysfs", { "nosuid", "noexec", "nodev", "ro" } },
    { "/sys/fs/cgroup", "cgroup", "cgroup", { "ro", "nosuid", "noexec", "nodev" } },
    { "/dev/mqueue", "mqueue", "mqueue", { "nosuid", "noexec", "nodev" } },
    { "/dev/shm", "tmpfs", "shm", { "nosuid", "noexec", "nodev", "mode=1777", "size=" SHM_SIZE } },
};

static void emit_list(struct emitter *emitter, const char *key, const char *const *list) {
    emit_key(emitter, key);
    emit_array(emitter);
    for (; *list; list++)
        emit_text(emitter, *list);
    emit_array_end(emitter);
}

/* --- process --------------------------------------------------------------------------------------------------- */

static size_t name_length(const char *pair) {
    return strcspn(pair, "=");
}

const char *environment_get(char *const *list, const char *name) {
    size_t length = strlen(name);

    for (; list && *list; list++)
        if (name_length(*list) == length && strncmp(*list, name, length) == 0 && (*list)[length] == '=')
            return *list + length + 1;
    return NULL;
}

/* Sets or replaces one "NAME=value". */
static int environment_set(char ***list, const char *pair) {
    size_t length = name_length(pair);

    for (char **at = *list; at && *at; at++) {
        if (name_length(*at) != length || strncmp(*at, pair, length) != 0)
            continue;
        char *copy = strdup(pair);
        if (!copy)
            return -ENOMEM;
        free(*at);
        *at = copy;
        return 0;
    }
    return list_add(list, pair);
}

static int environment_add(char ***list, char *const *pairs) {
    int r = 0;

    for (; r >= 0 && pairs && *pairs; pairs++)
        if (strchr(*pairs, '=') && **pairs != '=')
            r = environment_set(list, *pairs);
    return r;
}

static int environment_setf(char ***list, const char *name, const char *value) {
    _cleanup_free_ char *pair = text_format("%s=%s", name, value);

    return pair ? environment_set(list, pair) : -ENOMEM;
}

/* As Docker does: PATH, HOSTNAME and TERM first, then the instance's, then the request's, and HOME unless told. */
static int environment_build(const struct container_config *config, bool tty, char *const *extra, char ***ret) {
    _cleanup_list_ char **list = NULL;
    int r = list_add(&list, DEFAULT_PATH);

    if (r >= 0)
        r = environment_setf(&list, "HOSTNAME", config->hostname);
    if (r >= 0 && tty)
        r = environment_set(&list, "TERM=xterm");
    if (r >= 0)
        r = environment_add(&list, config->instance->process.environment);
    if (r >= 0)
        r = environment_add(&list, extra);
    if (r >= 0 && !environment_get(list, "HOME"))
        r = environment_setf(&list, "HOME", config->user->home);
    if (r < 0)
        return r;
    *ret = STEAL_PTR(list);
    return 0;
}

static void emit_user(struct emitter *emitter, const struct user *user) {
    emit_key(emitter, "user");
    emit_object(emitter);
    emit_key_unsigned(emitter, "uid", user->uid);
    emit_key_unsigned(emitter, "gid", user->gid);
    if (user->group_count > 0) {
        emit_key(emitter, "additionalGids");
        emit_array(emitter);
        for (size_t i = 0; i < user->group_count; i++)
            emit_unsigned(emitter, user->groups[i]);
        emit_array_end(emitter);
    }
    emit_object_end(emitter);
}

/* Anybody but root starts without capabilities and can get those of the bounding set through set-user-id programs. */
static void emit_capabilities(struct emitter *emitter, bool root) {
    static const char *const none[] = { NULL };

    emit_key(emitter, "capabilities");
    emit_object(emitter);
    emit_list(emitter, "bounding", capabilities);
    emit_list(emitter, "effective", root ? capabilities : none);
    emit_list(emitter, "permitted", root ? capabilities : none);
    emit_object_end(emitter);
}

static void emit_limits(struct emitter *emitter, uint64_t open_files) {
    emit_key(emitter, "rlimits");
    emit_array(emitter);
    emit_object(emitter);
    emit_key_text(emitter, "type", "RLIMIT_NOFILE");
    emit_key_unsigned(emitter, "hard", open_files);
    emit_key_unsigned(emitter, "soft", open_files);
    emit_object_end(emitter);
    emit_array_end(emitter);
}

struct process_view {
    bool tty;
    const struct exec_terminal *terminal;
    char *const *arguments;
    char *const *environment; /* added */
    const char *directory;
};

static int emit_process(struct emitter *emitter, const struct container_config *config,
                        const struct process_view *view) {
    _cleanup_list_ char **environment = NULL;
    int r = environment_build(config, view->tty, view->environment, &environment);

    if (r < 0)
        return r;
    emit_object(emitter);
    emit_key_boolean(emitter, "terminal", view->tty);
    if (view->tty && view->terminal && view->terminal->rows > 0) {
        emit_key(emitter, "consoleSize");
        emit_object(emitter);
        emit_key_unsigned(emitter, "height", view->terminal->rows);
        emit_key_unsigned(emitter, "width", view->terminal->columns);
        emit_object_end(emitter);
    }
    emit_user(emitter, config->user);
    emit_key_list(emitter, "args", view->arguments);
    emit_key_list(emitter, "env", environment);
    emit_key_text(emitter, "cwd", text_is_empty(view->directory) ? "/" : view->directory);
    emit_capabilities(emitter, config->user->uid == 0);
    emit_limits(emitter, config->open_files);
    emit_key_boolean(emitter, "noNewPrivileges", false);
    emit_object_end(emitter);
    return 0;
}

int config_emit_exec(const struct container_config *config, const struct exec_request *request, struct buffer *out) {
    const struct process_settings *process = &config->instance->process;
    struct process_view view = {
        .tty = request->tty,
        .terminal = &request->terminal,
        .arguments = request->arguments,
        .environment = request->environment,
        .directory = request->working_directory ? request->working_directory : process->working_directory,
    };
    struct emitter emitter = EMITTER_INIT(out);
    int r = emit_process(&emitter, config, &view);

    return r < 0 ? r : out->failed ? -ENOMEM : 0;
}

/* --- mounts ---------------------------------------------------------------------------------------------------- */

static void emit_mount(struct emitter *emitter, const char *destination, const char *type, const char *source,
                       const char *const *options) {
    emit_object(emitter);
    emit_key_text(emitter, "destination", destination);
    emit_key_text(emitter, "type", type);
    emit_key_text(emitter, "source", source);
    emit_list(emitter, "options", options);
    emit_object_end(emitter);
}

static int emit_bind(struct emitter *emitter, const char *files, const char *name, const char *destination,
                     bool recursive, bool read_only) {
    _cleanup_free_ char *source = text_format("%s/%s", files, name);
    const char *const options[] = { recursive ? "rbind" : "bind", "rprivate", "nodev", read_only ? "ro" : NULL, NULL };

    if (!source)
        return -ENOMEM;
    emit_mount(emitter, destination, "bind", source, options);
    return 0;
}

static int emit_tmpfs(struct emitter *emitter, const struct instance_mount *mount, uint64_t memory) {
    uint64_t bytes = mount->size ? mount->size : memory / 2;
    _cleanup_free_ char *size = text_format("size=%llu", (unsigned long long) bytes);
    const char *options[8] = { "nosuid", "nodev", "noexec", "mode=1777" };
    size_t count = 4;

    if (!size)
        return -ENOMEM;
    if (bytes)
        options[count++] = size;
    if (mount->read_only)
        options[count++] = "ro";
    emit_mount(emitter, mount->target, "tmpfs", "tmpfs", options);
    return 0;
}

static int emit_mounts(struct emitter *emitter, const struct container_config *config) {
    static const char *const etc[][2] = { { "etc/resolv.conf", "/etc/resolv.conf" },
                                          { "etc/hostname", "/etc/hostname" },
                                          { "etc/hosts", "/etc/hosts" } };
    const struct instance_spec *spec = config->instance->spec;
    const struct instance_mount *mounts = spec->mounts.items;
    int r = 0;

    emit_key(emitter, "mounts");
    emit_array(emitter);
    for (size_t i = 0; i < ELEMENTS(system_mounts); i++)
        emit_mount(emitter, system_mounts[i].destination, system_mounts[i].type, system_mounts[i].source,
                   system_mounts[i].options);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(etc); i++)
        r = emit_bind(emitter, config->files, etc[i][0], etc[i][1], false, false);
    for (size_t i = 0; r >= 0 && i < spec->mounts.count; i++) {
        char name[24];
        snprintf(name, sizeof(name), "m/%zu", i);
        r = mounts[i].type == MOUNT_TMPFS
                ? emit_tmpfs(emitter, &mounts[i], spec->memory)
                : emit_bind(emitter, config->files, name, mounts[i].target, true, mounts[i].read_only);
    }
    emit_array_end(emitter);
    return r;
}

/* --- the rest -------------------------------------------------------------------------------------------------- */

static void emit_mapping(struct emitter *emitter, const char *key, int64_t base) {
    emit_key(emitter, key);
    emit_array(emitter);
    emit_object(emitter);
    emit_key_integer(emitter, "containerID", 0);
    emit_key_integer(emitter, "hostID", base);
    emit_key_integer(emitter, "size", CONTAINER_IDS);
    emit_object_end(emitter);
    emit_array_end(emitter);
}

static void emit_linux(struct emitter *emitter, const struct container_config *config) {
    emit_key(emitter, "linux");
    emit_object(emitter);
    emit_mapping(emitter, "uidMappings", config->instance->assigned->uid_base);
    emit_mapping(emitter, "gidMappings", config->instance->assigned->uid_base);
    emit_key(emitter, "sysctl");
    emit_object(emitter);
    emit_key_text(emitter, "net.ipv4.ip_unprivileged_port_start", "0");
    emit_object_end(emitter);
    emit_key(emitter, "namespaces");
    emit_array(emitter);
    for (const char *const *name = namespaces; *name; name++) {
        emit_object(emitter);
        emit_key_text(emitter, "type", *name);
        emit_object_end(emitter);
    }
    emit_array_end(emitter);
    /* The filter itself is in the annotation. A runtime that does not know the annotation finds this one, which
     * forbids everything: no container ever runs unfiltered. */
    emit_key(emitter, "seccomp");
    emit_object(emitter);
    emit_key_text(emitter, "defaultAction", "SCMP_ACT_ERRNO");
    emit_object_end(emitter);
    emit_list(emitter, "maskedPaths", masked_paths);
    emit_list(emitter, "readonlyPaths", read_only_paths);
    emit_object_end(emitter);
}

int config_emit(const struct container_config *config, struct buffer *out) {
    const struct driver_instance *instance = config->instance;
    struct process_view view = {
        .tty = instance->process.tty,
        .terminal = config->terminal,
        .arguments = instance->process.arguments,
        .directory = instance->process.working_directory,
    };
    struct emitter emitter = EMITTER_INIT(out);
    int r;

    emit_object(&emitter);
    emit_key_text(&emitter, "ociVersion", "1.0.2");
    emit_key(&emitter, "process");
    r = emit_process(&emitter, config, &view);
    if (r < 0)
        return r;
    emit_key(&emitter, "root");
    emit_object(&emitter);
    emit_key_text(&emitter, "path", "s/rootfs");
    emit_key_boolean(&emitter, "readonly", instance->spec->read_only);
    emit_object_end(&emitter);
    emit_key_text(&emitter, "hostname", config->hostname);
    r = emit_mounts(&emitter, config);
    if (r < 0)
        return r;
    /* The only annotation there ever is. */
    emit_key(&emitter, "annotations");
    emit_object(&emitter);
    emit_key_text(&emitter, "run.oci.seccomp_bpf_data", config->filter);
    emit_object_end(&emitter);
    emit_linux(&emitter, config);
    emit_object_end(&emitter);
    return out->failed ? -ENOMEM : 0;
}
