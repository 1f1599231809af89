// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/uuid.h"
#include "model/field.h"
#include "model/lifecycle.h"

enum kind {
    KIND_AUTO,
    KIND_CONTAINER,
    KIND_MICROVM,
    KIND_VM,
    KIND_FAKE, /* only where the configuration switches the fake driver on */
    KIND_COUNT,
};
const char *kind_name(enum kind kind);
int kind_from_name(const char *name);

enum firmware {
    FIRMWARE_BIOS,
    FIRMWARE_UEFI,
};

/* A host directory, a tmpfs, … seen inside. */
enum mount_type {
    MOUNT_BIND,
    MOUNT_TMPFS,
};
struct instance_mount {
    int type;      /* enum mount_type */
    char *source;  /* absolute host path, bind only; opened beneath an allowed root */
    char *target;  /* absolute path inside */
    bool read_only;
    uint64_t size; /* bytes, tmpfs only; 0: half the memory */
};

enum protocol {
    PROTOCOL_TCP,
    PROTOCOL_UDP,
};
struct instance_port {
    int protocol;       /* enum protocol */
    char *host_address; /* NULL: all addresses */
    int64_t host_port;  /* 1..65535 */
    int64_t port;       /* inside */
};

enum restart_policy {
    RESTART_NO,
    RESTART_ON_FAILURE,
    RESTART_ALWAYS,
    RESTART_UNLESS_STOPPED,
};

/* How it gets processors and memory; the engine's enum allocation_mode has the same order. */
enum instance_allocation {
    INSTANCE_FIXED,   /* reserved whole, pinned, preallocated */
    INSTANCE_DYNAMIC, /* by weight */
    INSTANCE_HYBRID,  /* a guaranteed floor, and by weight above it */
};

#define INSTANCE_RESTARTS_MAX 1000000 /* of restart_limit */

/* The wish. Only users write it. */
struct instance_spec {
    int kind;              /* enum kind */
    char *image;           /* alias or digest as asked */
    uint64_t cpus;         /* thousandths */
    uint64_t memory;       /* bytes */
    uint64_t disk;         /* bytes of writable space; 0: the image's or the default */
    char **command;        /* replaces the image's command */
    char **entrypoint;     /* replaces the image's entrypoint */
    char **environment;    /* "A=b" */
    char **labels;         /* "a=b" */
    char **node_labels;    /* where it may run: terms as model/placement.h tells, likewise the next five */
    char **features;
    char **tolerations;
    char **affinity;
    char **anti_affinity;
    char **spread;
    char *user;            /* name|uid[:group|gid] */
    char *working_directory;
    char *hostname;        /* default: the instance's name */
    bool tty;
    bool stdin_open;
    bool read_only;        /* root file system */
    bool remove;           /* delete when it ends */
    struct field_array mounts; /* struct instance_mount */
    char *network;         /* "default" or "none" */
    struct field_array publish; /* struct instance_port */
    int restart;           /* enum restart_policy */
    int64_t restart_limit; /* on-failure: 0 means no limit */
    int64_t priority;      /* -100..100, higher first */
    uint64_t duration;     /* ms it is expected to run; 0: not known */
    int allocation;        /* enum instance_allocation */
    uint64_t cpu_reservation; /* thousandths it always has; hybrid */
    uint64_t cpu_limit;    /* thousandths it never exceeds; 0: cpus */
    uint64_t memory_reservation; /* bytes it always has; hybrid */
    uint64_t memory_limit; /* bytes it never exceeds; 0: memory */
    char *cpuset;          /* host processors it runs on, "0-3,8"; NULL: all that are shared */
    uint64_t weight_alpha; /* of the priority's share, thousandths */
    int64_t weight_beta;   /* weight won (lost, where negative) in an hour of running */
    int64_t control_rate;  /* messages a second on its control channel at priority 0 */
    uint64_t timeout;      /* ms it may run; 0: no limit */
    uint64_t stop_timeout; /* ms between the stop signal and the kill */
    char *stop_signal;     /* "SIGTERM"; NULL: the image's */
    int64_t pids;          /* most processes */
    uint64_t io_read;      /* bytes/s; 0: no limit */
    uint64_t io_write;
    uint64_t network_in;   /* bytes/s towards it; 0: no limit */
    uint64_t network_out;
    uint64_t log_size;     /* bytes of log kept */
    int firmware;          /* enum firmware, vm */
    char *cdrom;           /* name of an ISO image to boot from, vm */
    bool graphics;         /* VGA and VNC, vm */
    char *user_data;       /* cloud-init user data, vm */
    char **ssh_keys;       /* vm */
    char *description;
};
extern const struct table instance_spec_table;
/* What it may use at most, once the zeros are filled in. */
uint64_t instance_cpu_limit(const struct instance_spec *spec);
uint64_t instance_memory_limit(const struct instance_spec *spec);
extern const struct table instance_mount_table;
extern const struct table instance_port_table;

/* Decided once and kept. */
struct instance_assigned {
    char *uuid;
    char *project;
    char *node;
    int kind;
    char *image_digest;
    char *cdrom_digest; /* what the spec's cdrom stood for, or NULL */
    int64_t generation;
    char *mac;       /* "52:54:…" or NULL without a network */
    char *address;   /* IPv4 without prefix, or NULL */
    int64_t uid_base; /* first of the instance's 65,536 host ids */
    uint64_t created; /* wall time */
    char *why_kind;  /* why auto chose this kind */
};
extern const struct table instance_assigned_table;

/* Observed; may be rebuilt from the host at any time. */
struct instance_status {
    int state;          /* enum state */
    char *reason;       /* wire name of an error code, or NULL */
    char *message;      /* its sentence */
    int64_t pid;        /* of the container's init or QEMU; 0 if none */
    uint64_t started;   /* wall time of the last start */
    uint64_t finished;
    int64_t exit_code;  /* -1: none yet or unknown */
    int64_t restarts;
    bool out_of_memory;
    bool unresponsive;  /* it runs, but what runs it does not answer; `message` says why */
    int64_t queue_position; /* from 1 while queued */
    int64_t io_reads, io_writes;           /* requests that reached its disks, over all its runs */
    int64_t io_read_bytes, io_write_bytes;
    int64_t control_calls; /* messages between its guest agent and polderd, over all its runs */
    int64_t control_waits; /* how often the last run waited for its budget of them */
    int64_t preemptions; /* how often it gave way to others */
    char *hostname;     /* what the guest says it is called, escaped */
    char **addresses;   /* what the guest says */
    char *vnc;          /* path of the socket for VNC viewers while it runs with graphics, or NULL */
};
extern const struct table instance_status_table;

/* Most bytes of a whole spec as JSON; a store value takes 512 KiB. */
#define INSTANCE_SPEC_MAX (384 * 1024)
/* Where a default depends on the kind: once, before the spec is first committed (or after a merge, with
 * DECODE_MERGE), for the fields that the request `given` left out (or reset by null). Memory: 1 GiB for a vm, else
 * 256 MiB, as the table has it. `given` may be NULL: nothing was given. */
void instance_spec_complete(struct instance_spec *spec, enum kind kind, struct json_object *given, unsigned flags);
/* The final merged spec, checked whole: contradictions, what a kind cannot take (NOT_SUPPORTED names the field),
 * required fields, total size. `kind` is the resolved kind, or KIND_AUTO before the choice, when what depends on the
 * kind is not judged. Errors: NOT_SUPPORTED, BAD_VALUE, OUT_OF_RANGE, MISSING_FIELD, TOO_LARGE. */
int instance_spec_validate(const struct instance_spec *spec, enum kind kind, struct error *error);
/* That part of it which depends on the kind: options it cannot take, memory too small for it, its mounts. */
int instance_spec_check_kind(const struct instance_spec *spec, enum kind kind, struct error *error);

/* Every kind of name: ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$ */
bool name_is_valid(const char *name);
int name_check(const char *name, struct error *error); /* BAD_NAME */
/* "brisk-otter-3f": a free-looking name made from random bytes; the caller checks for collisions. */
void name_invent(char *text, size_t size);
/* "8080:80", "127.0.0.1:53:53/udp" -> port (init'ed). "/host:/in[:ro]" -> mount. docker's --mount form too
 * ("type=bind,source=/x,target=/y,readonly", "type=tmpfs,target=/t,size=64M"). Each error is BAD_VALUE or
 * OUT_OF_RANGE of "publish", "volume" or "mount". The flags --volume and --mount both take either form. */
int port_parse(const char *text, struct instance_port *ret, struct error *error);
int mount_parse_volume(const char *text, struct instance_mount *ret, struct error *error);
int mount_parse_options(const char *text, struct instance_mount *ret, struct error *error);
/* "no", "on-failure:3", … as docker's --restart. */
int restart_parse(const char *text, int *ret_policy, int64_t *ret_limit, struct error *error);
/* "SIGTERM", "term", "15", "RTMIN+3" -> number 1..64; -EINVAL. */
int signal_from_name(const char *name);
