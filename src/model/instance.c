// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/instance.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cpulist.h"
#include "base/text.h"
#include "model/placement.h"

/* The tables of an instance. A field is one row here, one member in instance.h, its use, and a line in
 * tests/unit/test-instance.c; what looks at several fields at once is in validate.c. */

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)
#define TIB (GIB * 1024)
#define SECOND UINT64_C(1000) /* durations are milliseconds */
#define DAY (86400 * SECOND)

#define CONTAINER (1U << KIND_CONTAINER)
#define MICROVM (1U << KIND_MICROVM)
#define VM (1U << KIND_VM)

static const char *const kinds[] = { "auto", "container", "microvm", "vm", "fake", NULL };
static const char *const firmwares[] = { "bios", "uefi", NULL };
static const char *const mount_types[] = { "bind", "tmpfs", NULL };
static const char *const protocols[] = { "tcp", "udp", NULL };
static const char *const restarts[] = { "no", "on-failure", "always", "unless-stopped", NULL };
static const char *const allocations[] = { "fixed", "dynamic", "hybrid", NULL };
static const char *const states[] = { "created",    "queued",    "starting", "running", "paused",
                                      "suspending", "suspended", "stopping", "stopped", "migrating",
                                      "failed",     "deleted",   NULL };

_Static_assert(ELEMENTS(kinds) == KIND_COUNT + 1, "a name for each kind");
_Static_assert(ELEMENTS(states) == STATE_COUNT + 1, "a name for each state");

const char *kind_name(enum kind kind) {
    return (unsigned) kind < KIND_COUNT ? kinds[kind] : "unknown";
}

int kind_from_name(const char *name) {
    for (int i = 0; i < KIND_COUNT; i++)
        if (text_equal(kinds[i], name))
            return i;
    return -EINVAL;
}

static const char *check_image(const char *text) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@-";

    if (text[strspn(text, letters)] != '\0' || text[0] == '-' || strstr(text, ".."))
        return "an image's name holds letters, digits and . _ : / @ -";
    return NULL;
}

/* Absolute, and no way upwards in it. */
static const char *check_path(const char *text) {
    if (text[0] != '/')
        return "the path is not absolute";
    for (const char *p = text; p; p = strchr(p + 1, '/'))
        if (strncmp(p, "/..", 3) == 0 && (p[3] == '/' || p[3] == '\0'))
            return "the path holds '..'";
    return NULL;
}

static const char *check_target(const char *text) {
    if (text[strspn(text, "/.")] == '\0')
        return "the root itself cannot be mounted over";
    return check_path(text);
}

static const char *check_address(const char *text) {
    unsigned part[4];
    char rest;

    if (text[strspn(text, "0123456789.")] != '\0' ||
        sscanf(text, "%3u.%3u.%3u.%3u%c", &part[0], &part[1], &part[2], &part[3], &rest) != 4)
        return "it is no IPv4 address";
    for (unsigned i = 0; i < 4; i++)
        if (part[i] > 255)
            return "it is no IPv4 address";
    return NULL;
}

/* One half of user[:group]: a name, or an id that the kernel's 32 bits and "no change" (-1) leave. */
static const char *check_user_part(const char *text, size_t size) {
    uint64_t number = 0;

    if (size == 0 || size > 64 || text[0] == '-')
        return "give NAME or ID, or NAME:GROUP";
    for (size_t i = 0; i < size; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-$", text[i]))
            return "a user's name holds letters, digits and . _ -";
    if (strspn(text, "0123456789") < size)
        return NULL;
    for (size_t i = 0; i < size && number <= INT32_MAX; i++)
        number = number * 10 + (uint64_t) (text[i] - '0');
    return number < INT32_MAX ? NULL : "an id lies between 0 and 2147483646";
}

static const char *check_user(const char *text) {
    const char *colon = strchr(text, ':');
    const char *reason = check_user_part(text, colon ? (size_t) (colon - text) : strlen(text));

    if (reason || !colon)
        return reason;
    return check_user_part(colon + 1, strlen(colon + 1));
}

static const char *check_hostname(const char *text) {
    size_t length = strlen(text);

    if (text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.")] != '\0')
        return "a host name holds letters, digits, '-' and '.'";
    if (strchr("-.", text[0]) || strchr("-.", text[length - 1]) || strstr(text, ".."))
        return "a host name starts and ends with a letter or digit";
    return NULL;
}

static const char *check_network(const char *text) {
    if (strcmp(text, "default") == 0 || strcmp(text, "none") == 0)
        return NULL;
    return "choose one of default, none";
}

static const char *check_signal(const char *text) {
    return signal_from_name(text) > 0 ? NULL : "it is no signal: give such as SIGTERM or 15";
}

static const char *check_ssh_key(const char *text) {
    static const char *const types[] = { "ssh-ed25519 ", "ssh-rsa ", "ecdsa-sha2-", "sk-" };

    for (size_t i = 0; i < ELEMENTS(types); i++)
        if (text_starts(text, types[i]))
            return strchr(text, ' ') ? NULL : "the key itself is missing";
    return "give a public key such as 'ssh-ed25519 AAAA… name'";
}

static const char *check_key(const char *text) {
    return strcspn(text, "=") <= 255 ? NULL : "a key has at most 255 bytes";
}

static const char *check_cpuset(const char *text) {
    struct cpu_list list;

    if (cpu_list_parse(text, &list) < 0 || strpbrk(text, " \n"))
        return "give numbers of processors such as 0-3,8";
    return cpu_list_count(&list) > 0 ? NULL : "it names no processor";
}

uint64_t instance_cpu_limit(const struct instance_spec *spec) {
    return spec->cpu_limit > 0 ? spec->cpu_limit : spec->cpus;
}

uint64_t instance_memory_limit(const struct instance_spec *spec) {
    return spec->memory_limit > 0 ? spec->memory_limit : spec->memory;
}

static int parse_restart(const char *text, void *target, struct error *error) {
    struct instance_spec *spec = target;

    return restart_parse(text, &spec->restart, &spec->restart_limit, error);
}

static int parse_port(const char *text, void *target, struct error *error) {
    return port_parse(text, target, error);
}

/* --volume and --mount fill the same list; what holds "KEY=" before any ':' is the second form. */
static int parse_mount(const char *text, void *target, struct error *error) {
    struct instance_mount *mount = target;
    const char *reason;
    int r;

    r = text[0] != '/' && strchr(text, '=') ? mount_parse_options(text, mount, error)
                                            : mount_parse_volume(text, mount, error);
    if (r < 0)
        return r;
    if (!text_is_plain(text))
        return error_set(error, ERROR_BAD_VALUE, "mounts", text, "it holds control characters");
    reason = check_target(mount->target);
    if (!reason && mount->source)
        reason = check_path(mount->source);
    return reason ? error_set(error, ERROR_BAD_VALUE, "mounts", text, reason) : 0;
}

#define MOUNT(row_name, row_type, member, ...)                                                               \
    { .name = row_name, .type = row_type, .offset = offsetof(struct instance_mount, member), __VA_ARGS__ }

static const struct field mount_fields[] = {
    MOUNT("type", FIELD_ENUM, type, .names = mount_types, .initial = "bind",
          .help = "A directory of the host, or memory."),
    MOUNT("source", FIELD_TEXT, source, .check = check_path,
          .help = "Directory or file of the host, beneath one that the configuration allows."),
    MOUNT("target", FIELD_TEXT, target, .check = check_target, .required = true,
          .help = "Where it is seen inside."),
    MOUNT("read_only", FIELD_BOOLEAN, read_only, .help = "Nothing can be written to it."),
    MOUNT("size", FIELD_SIZE, size, .minimum = 4 * KIB, .maximum = 64 * TIB, .or_zero = true,
          .help = "Most bytes of a tmpfs; 0 stands for half the memory."),
};
const struct table instance_mount_table = TABLE("mount", struct instance_mount, mount_fields);

#define PORT(row_name, row_type, member, ...)                                                                \
    { .name = row_name, .type = row_type, .offset = offsetof(struct instance_port, member), __VA_ARGS__ }

static const struct field port_fields[] = {
    PORT("protocol", FIELD_ENUM, protocol, .names = protocols, .initial = "tcp", .help = "TCP or UDP."),
    PORT("host_address", FIELD_TEXT, host_address, .maximum = 15, .check = check_address,
         .help = "IPv4 address of the host; none stands for all of them."),
    PORT("host_port", FIELD_INTEGER, host_port, .minimum = 1, .maximum = 65535, .required = true,
         .help = "Port of the host."),
    PORT("port", FIELD_INTEGER, port, .minimum = 1, .maximum = 65535, .required = true,
         .help = "Port inside."),
};
const struct table instance_port_table = TABLE("port", struct instance_port, port_fields);

/* 100 Gbit/s and a bit: nftables counts a limit and its burst in bytes times nanoseconds, in 64 bits. */
#define NETWORK_RATE_MAX (12 * GIB)

#define SPEC(row_name, row_type, member, row_change, ...)                                                    \
    {                                                                                                        \
        .name = row_name, .type = row_type, .offset = offsetof(struct instance_spec, member),                \
        .change = CHANGE_##row_change, __VA_ARGS__                                                           \
    }

#define TERMS(row_name, member, row_check, row_flag, row_value, row_help)                                    \
    SPEC(row_name, FIELD_LIST, member, LIVE, .maximum = PLACEMENT_TERMS, .check = row_check, .flag = row_flag, \
         .value = row_value, .help = row_help)

static const struct field spec_fields[] = {
    SPEC("kind", FIELD_ENUM, kind, NEVER, .names = kinds, .initial = "auto", .flag = "kind", .value = "KIND",
         .help = "What it runs as: container, microvm, vm, or auto: then polder chooses and says why."),
    SPEC("image", FIELD_TEXT, image, NEVER, .maximum = 255, .check = check_image,
         .value = "IMAGE", .help = "Name or digest of the image it starts from."),
    SPEC("cpus", FIELD_CPUS, cpus, LIVE, .minimum = 10, .maximum = 1024000, .initial = "1", .flag = "cpus",
         .value = "NUMBER", .help = "Processors it may use, fractions included."),
    SPEC("memory", FIELD_SIZE, memory, LIVE, .minimum = 4 * MIB, .maximum = 64 * TIB, .initial = "256M",
         .flag = "memory", .short_flag = 'm', .value = "SIZE",
         .help = "Memory it may use, such as 512M; a vm gets 1G if not told."),
    SPEC("disk", FIELD_SIZE, disk, STOPPED, .minimum = MIB, .maximum = 64 * TIB, .or_zero = true,
         .flag = "disk", .value = "SIZE",
         .help = "Writable space, such as 4G; 0 stands for what the image or the node has by default."),
    SPEC("command", FIELD_LIST, command, STOPPED, .kinds = CONTAINER | MICROVM, .lines = true,
         .help = "Program and arguments in place of the image's."),
    SPEC("entrypoint", FIELD_LIST, entrypoint, STOPPED, .kinds = CONTAINER | MICROVM, .lines = true,
         .flag = "entrypoint", .value = "PROGRAM", .help = "Program in place of the image's entrypoint."),
    SPEC("environment", FIELD_MAP, environment, STOPPED, .kinds = CONTAINER | MICROVM, .check = check_key,
         .flag = "env", .short_flag = 'e', .value = "NAME=VALUE", .help = "Environment variables; not shown to readers."),
    SPEC("labels", FIELD_MAP, labels, LIVE, .check = check_key, .flag = "label", .short_flag = 'l',
         .value = "KEY=VALUE", .help = "Labels to find it by."),
    TERMS("node_labels", node_labels, placement_check_node_label, "node-label", "KEY=VALUE",
          "Label that a node must have to run it, or, as KEY!=VALUE, must not have; looked at when it starts."),
    TERMS("features", features, placement_check_feature, "feature", "NAME",
          "Feature that the processor of a node must have to run it, such as avx2."),
    TERMS("tolerations", tolerations, placement_check_toleration, "toleration", "KEY[=VALUE]",
          "Taint of a node that does not keep it away; without VALUE whatever its value."),
    TERMS("affinity", affinity, placement_check_selector, "affinity", "SELECTOR[:LEVEL]",
          "Instances (KEY=VALUE or KEY of their labels, or name=NAME) near which it must start: on the same node, rack or zone."),
    TERMS("anti_affinity", anti_affinity, placement_check_selector, "anti-affinity", "SELECTOR[:LEVEL]",
          "Instances, named likewise, near which it must not start, nor they near it."),
    TERMS("spread", spread, placement_check_selector, "spread", "SELECTOR[:LEVEL]",
          "Instances, named likewise, of which each node, rack or zone is to have as many, give or take one."),
    SPEC("user", FIELD_TEXT, user, STOPPED, .kinds = CONTAINER | MICROVM, .maximum = 129, .check = check_user,
         .flag = "user", .short_flag = 'u', .value = "USER[:GROUP]", .help = "User and group it runs as."),
    SPEC("working_directory", FIELD_TEXT, working_directory, STOPPED, .kinds = CONTAINER | MICROVM,
         .check = check_path, .flag = "workdir", .short_flag = 'w', .value = "DIRECTORY",
         .help = "Directory it starts in."),
    SPEC("hostname", FIELD_TEXT, hostname, STOPPED, .maximum = 63, .check = check_hostname,
         .flag = "hostname", .value = "NAME", .help = "What it calls itself; its own name if not told."),
    SPEC("tty", FIELD_BOOLEAN, tty, STOPPED, .kinds = CONTAINER | MICROVM, .flag = "tty", .short_flag = 't',
         .help = "Give it a terminal."),
    SPEC("stdin_open", FIELD_BOOLEAN, stdin_open, STOPPED, .kinds = CONTAINER | MICROVM,
         .flag = "interactive", .short_flag = 'i', .help = "Keep its standard input open."),
    SPEC("read_only", FIELD_BOOLEAN, read_only, STOPPED, .kinds = CONTAINER | MICROVM, .flag = "read-only",
         .help = "Its root file system cannot be written."),
    SPEC("remove", FIELD_BOOLEAN, remove, LIVE, .flag = "rm", .help = "Delete it when it ends."),
    SPEC("mounts", FIELD_OBJECTS, mounts, STOPPED, .maximum = 64, .items = &instance_mount_table,
         .parse = parse_mount, .flag = "volume", .alias = "mount", .short_flag = 'v',
         .value = "SOURCE:TARGET[:ro]",
         .help = "Directories of the host, or memory (type=tmpfs,target=/PATH), seen inside."),
    SPEC("network", FIELD_TEXT, network, STOPPED, .maximum = 63, .initial = "default", .check = check_network,
         .flag = "network", .value = "NETWORK", .help = "Network it is on: default or none."),
    SPEC("publish", FIELD_OBJECTS, publish, STOPPED, .maximum = 128, .items = &instance_port_table,
         .parse = parse_port, .flag = "publish", .short_flag = 'p', .value = "[ADDRESS:]HOST_PORT:PORT[/udp]",
         .help = "Ports of the host that lead to ports inside."),
    SPEC("restart", FIELD_ENUM, restart, LIVE, .names = restarts, .initial = "no", .parse = parse_restart,
         .flag = "restart", .value = "POLICY",
         .help = "When it is started again after it ended: no, on-failure[:TIMES], always or unless-stopped. The last two mean "
                 "the same: what somebody stopped stays so, also when polderd or the host starts anew."),
    SPEC("restart_limit", FIELD_INTEGER, restart_limit, LIVE, .maximum = INSTANCE_RESTARTS_MAX,
         .help = "Most restarts in a row under on-failure; 0 sets no limit."),
    SPEC("priority", FIELD_INTEGER, priority, LIVE, .minimum = (uint64_t) -100, .maximum = 100,
         .flag = "priority", .value = "NUMBER",
         .help = "From -100 to 100: higher goes first where there is too little for all."),
    SPEC("duration", FIELD_DURATION, duration, LIVE, .minimum = 1, .maximum = 3650 * DAY, .or_zero = true,
         .flag = "duration", .value = "DURATION",
         .help = "How long it will probably run, which its place in the queue follows from; 0: not known."),
    SPEC("allocation", FIELD_ENUM, allocation, STOPPED, .names = allocations, .initial = "dynamic", .flag = "allocation",
         .value = "MODE",
         .help = "How it shares the node: fixed (reserved, pinned, preallocated), dynamic (by weight) or hybrid (a floor)."),
    SPEC("cpu_reservation", FIELD_CPUS, cpu_reservation, LIVE, .minimum = 10, .maximum = 1024000, .or_zero = true,
         .initial = "0", .flag = "cpu-reservation", .value = "NUMBER",
         .help = "Processors it always has under hybrid allocation, fractions included; 0 sets no floor."),
    SPEC("cpu_limit", FIELD_CPUS, cpu_limit, LIVE, .minimum = 10, .maximum = 1024000, .or_zero = true, .initial = "0",
         .flag = "cpu-limit", .value = "NUMBER",
         .help = "Processors it may use while others leave them idle; 0 stands for what cpus says."),
    SPEC("memory_reservation", FIELD_SIZE, memory_reservation, LIVE, .minimum = MIB, .maximum = 64 * TIB,
         .or_zero = true, .flag = "memory-reservation", .value = "SIZE",
         .help = "Memory it always keeps under hybrid allocation; 0 sets no floor."),
    SPEC("memory_limit", FIELD_SIZE, memory_limit, LIVE, .kinds = CONTAINER, .minimum = 4 * MIB, .maximum = 64 * TIB,
         .or_zero = true, .flag = "memory-limit", .value = "SIZE",
         .help = "Memory it may use while others leave it free; 0 stands for what memory says."),
    SPEC("cpuset", FIELD_TEXT, cpuset, LIVE, .maximum = 255, .check = check_cpuset, .flag = "cpuset-cpus",
         .value = "LIST", .help = "Processors of the host that it runs on, such as 0-3,8; all that are shared if not told."),
    SPEC("weight_alpha", FIELD_CPUS, weight_alpha, LIVE, .maximum = 1000000, .initial = "1", .flag = "weight-alpha",
         .value = "NUMBER", .help = "How much its priority counts for its weight: R = alpha x P + beta x T."),
    SPEC("weight_beta", FIELD_INTEGER, weight_beta, LIVE, .minimum = (uint64_t) -1000000, .maximum = 1000000,
         .initial = "-2", .flag = "weight-beta", .value = "NUMBER",
         .help = "Weight it wins, or loses where negative, in an hour of running: R = alpha x P + beta x T."),
    SPEC("control_rate", FIELD_INTEGER, control_rate, LIVE, .kinds = MICROVM | VM, .minimum = 1, .maximum = 1000000,
         .initial = "250", .flag = "control-rate", .value = "NUMBER",
         .help = "Messages a second between its guest agent and polderd, at priority 0."),
    SPEC("timeout", FIELD_DURATION, timeout, LIVE, .minimum = 1, .maximum = 3650 * DAY, .or_zero = true,
         .flag = "timeout", .value = "DURATION", .help = "How long it may run, such as 90s or 2h; 0 sets no limit."),
    SPEC("stop_timeout", FIELD_DURATION, stop_timeout, LIVE, .maximum = DAY, .initial = "10s",
         .flag = "stop-timeout", .value = "DURATION", .help = "How long it has to end before it is killed; a vm gets 90s to shut down if not told, then its power is "
                 "cut."),
    SPEC("stop_signal", FIELD_TEXT, stop_signal, LIVE, .kinds = CONTAINER | MICROVM, .maximum = 32,
         .check = check_signal, .flag = "stop-signal", .value = "SIGNAL",
         .help = "Signal that asks it to end; the image's if not told."),
    SPEC("pids", FIELD_INTEGER, pids, LIVE, .kinds = CONTAINER, .minimum = 1, .maximum = 4194304,
         .or_zero = true, .initial = "4096", .flag = "pids-limit", .value = "NUMBER",
         .help = "Most processes and threads; 0 sets no limit."),
    SPEC("io_read", FIELD_SIZE, io_read, LIVE, .minimum = 4 * KIB, .maximum = TIB, .or_zero = true,
         .flag = "io-read", .value = "SIZE", .help = "Most bytes a second read from disk; 0 sets no limit."),
    SPEC("io_write", FIELD_SIZE, io_write, LIVE, .minimum = 4 * KIB, .maximum = TIB, .or_zero = true,
         .flag = "io-write", .value = "SIZE",
         .help = "Most bytes a second written to disk; 0 sets no limit."),
    SPEC("network_in", FIELD_SIZE, network_in, LIVE, .minimum = 4 * KIB, .maximum = NETWORK_RATE_MAX, .or_zero = true,
         .flag = "network-in", .value = "SIZE",
         .help = "Most bytes a second that reach it by network; 0 sets no limit."),
    SPEC("network_out", FIELD_SIZE, network_out, LIVE, .minimum = 4 * KIB, .maximum = NETWORK_RATE_MAX, .or_zero = true,
         .flag = "network-out", .value = "SIZE",
         .help = "Most bytes a second that it sends by network; 0 sets no limit."),
    SPEC("log_size", FIELD_SIZE, log_size, STOPPED, .minimum = 64 * KIB, .maximum = GIB, .initial = "10M",
         .flag = "log-size", .value = "SIZE", .help = "Most bytes of its output that are kept."),
    SPEC("firmware", FIELD_ENUM, firmware, STOPPED, .kinds = VM, .names = firmwares, .initial = "bios",
         .flag = "firmware", .value = "FIRMWARE", .help = "What a vm boots with: bios or uefi."),
    SPEC("cdrom", FIELD_TEXT, cdrom, STOPPED, .kinds = VM, .maximum = 255, .check = check_image,
         .flag = "cdrom", .value = "IMAGE", .help = "ISO image that a vm boots from; then it needs no other image."),
    SPEC("graphics", FIELD_BOOLEAN, graphics, STOPPED, .kinds = VM, .flag = "graphics",
         .help = "Give a vm a screen, a keyboard and a mouse."),
    SPEC("user_data", FIELD_TEXT, user_data, STOPPED, .kinds = VM, .maximum = FIELD_BYTES_MAX, .lines = true,
         .flag = "user-data", .value = "TEXT", .help = "User data for cloud-init, as text or @FILE; not shown to readers."),
    SPEC("ssh_keys", FIELD_LIST, ssh_keys, STOPPED, .kinds = VM, .maximum = 64, .check = check_ssh_key,
         .flag = "ssh-key", .value = "KEY",
         .help = "Public key, or @FILE, that may log in to a vm through cloud-init."),
    SPEC("description", FIELD_TEXT, description, LIVE, .maximum = 1024, .flag = "description",
         .value = "TEXT", .help = "What it is for."),
};
const struct table instance_spec_table = TABLE("instance spec", struct instance_spec, spec_fields);

#define ASSIGNED(row_name, row_type, member, ...)                                                            \
    {                                                                                                        \
        .name = row_name, .type = row_type, .offset = offsetof(struct instance_assigned, member),            \
        .change = CHANGE_OUTPUT, __VA_ARGS__                                                                 \
    }

static const struct field assigned_fields[] = {
    ASSIGNED("uuid", FIELD_TEXT, uuid, .maximum = 36, .help = "Its identity; names may be given again."),
    ASSIGNED("project", FIELD_TEXT, project, .maximum = 63, .help = "Project it belongs to."),
    ASSIGNED("node", FIELD_TEXT, node, .maximum = 255, .help = "Node it is on."),
    ASSIGNED("kind", FIELD_ENUM, kind, .names = kinds, .help = "What it runs as."),
    ASSIGNED("image_digest", FIELD_TEXT, image_digest, .maximum = 71,
             .help = "The image its name stood for."),
    ASSIGNED("cdrom_digest", FIELD_TEXT, cdrom_digest, .maximum = 71,
             .help = "The ISO image that the name of its medium stood for."),
    ASSIGNED("generation", FIELD_INTEGER, generation, .help = "Counts the changes of its spec."),
    ASSIGNED("mac", FIELD_TEXT, mac, .maximum = 17, .help = "Its network card's address."),
    ASSIGNED("address", FIELD_TEXT, address, .maximum = 45, .help = "Its IPv4 address."),
    ASSIGNED("uid_base", FIELD_INTEGER, uid_base, .help = "First of its 65536 user ids on the host."),
    ASSIGNED("created", FIELD_TIME, created, .help = "When it was created."),
    ASSIGNED("why_kind", FIELD_TEXT, why_kind, .maximum = 1024,
             .help = "Why this kind was chosen under auto."),
};
const struct table instance_assigned_table =
    TABLE("instance assigned", struct instance_assigned, assigned_fields);

#define STATUS(row_name, row_type, member, ...)                                                              \
    {                                                                                                        \
        .name = row_name, .type = row_type, .offset = offsetof(struct instance_status, member),              \
        .change = CHANGE_OUTPUT, __VA_ARGS__                                                                 \
    }

static const struct field status_fields[] = {
    STATUS("state", FIELD_ENUM, state, .names = states, .help = "Where it is in its life."),
    STATUS("reason", FIELD_TEXT, reason, .maximum = 64,
           .help = "Code of what went wrong or what it waits for."),
    STATUS("message", FIELD_TEXT, message, .help = "The same as a sentence."),
    STATUS("pid", FIELD_INTEGER, pid, .help = "Its first process on the host; 0 if there is none."),
    STATUS("started", FIELD_TIME, started, .help = "When it last started."),
    STATUS("finished", FIELD_TIME, finished, .help = "When it last ended."),
    STATUS("exit_code", FIELD_INTEGER, exit_code, .initial = "-1",
           .help = "How it ended; -1 if that is not known."),
    STATUS("restarts", FIELD_INTEGER, restarts, .help = "How often it was started again by itself."),
    STATUS("out_of_memory", FIELD_BOOLEAN, out_of_memory, .help = "It was killed for using too much memory."),
    STATUS("unresponsive", FIELD_BOOLEAN, unresponsive,
           .help = "It is there, but what runs it does not answer; message says why."),
    STATUS("queue_position", FIELD_INTEGER, queue_position, .help = "Its place while it is queued, from 1."),
    STATUS("io_reads", FIELD_INTEGER, io_reads, .help = "Reads that reached its disks, over all its runs."),
    STATUS("io_writes", FIELD_INTEGER, io_writes, .help = "Writes that reached its disks, over all its runs."),
    STATUS("io_read_bytes", FIELD_INTEGER, io_read_bytes, .help = "Bytes read from its disks, over all its runs."),
    STATUS("io_write_bytes", FIELD_INTEGER, io_write_bytes, .help = "Bytes written to its disks, over all its runs."),
    STATUS("control_calls", FIELD_INTEGER, control_calls,
           .help = "Messages between its guest agent and polderd, over all its runs."),
    STATUS("control_waits", FIELD_INTEGER, control_waits,
           .help = "How often messages of this run waited for their budget."),
    STATUS("preemptions", FIELD_INTEGER, preemptions, .help = "How often it gave way to others, its work kept."),
    STATUS("hostname", FIELD_TEXT, hostname, .maximum = 255, .help = "What the guest says it is called."),
    STATUS("addresses", FIELD_LIST, addresses, .maximum = 256,
           .help = "Addresses that the guest says it has."),
    STATUS("vnc", FIELD_TEXT, vnc,
           .help = "Socket on the host for VNC viewers, while a vm with graphics runs; root may connect."),
};
const struct table instance_status_table = TABLE("instance status", struct instance_status, status_fields);
