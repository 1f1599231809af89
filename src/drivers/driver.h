// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/process.h"
#include "drivers/stream.h"
#include "model/image.h"
#include "model/instance.h"

/* The contract between the manager and what runs instances. A driver turns a decision into real processes and devices:
 * it initialises, handles requests, and handles replies and events. It owns no policy and sets no resource limits: its
 * processes enter the cgroup that it is given.
 *
 * All calls but `open`, `close` and `statistics` run on a fiber, one at a time per instance (exec, attach, console, get
 * and put may run beside others). Each is safe to repeat after a crash at any point: resources are named after the
 * uuid, "ensure" before use, "release" tolerates what is absent. Calls return 0 or negative errno with an error. */

struct cgroup;
struct network;
struct storage;
struct driver;

/* What runs inside, merged from image and spec. */
struct process_settings {
    char **arguments;   /* entrypoint + command, never empty for containers and microVMs */
    char **environment; /* "A=b": PATH, HOME and HOSTNAME defaults are the driver's as docker gives them */
    char *user;         /* as written; "" is root */
    char *working_directory;
    bool tty;
    bool stdin_open;
    int stop_signal;
};

/* One instance as drivers see it. The manager owns it; it lives from the first call until `release` of a deleted
 * instance has returned. */
struct driver_instance {
    const char *name; /* may change between calls */
    const struct instance_spec *spec;
    const struct instance_assigned *assigned; /* ->uuid names every resource */
    const struct image *image;                /* the resolved image */
    struct process_settings process;
    const char *state_path; /* "/var/lib/polder/instances/UUID": survives reboots */
    const char *run_path;   /* "/run/polder/i/UUID": gone after a reboot */
    struct cgroup *cgroup;  /* exists, limits set, while the instance is active */
    const struct driver *driver;
    void *driver_data; /* the driver's own */
    void *manager_data;
};

enum driver_capability {
    DRIVER_PAUSE = 1 << 0,
    DRIVER_SUSPEND = 1 << 1, /* memory to disk and back */
    DRIVER_EXEC = 1 << 2,
    DRIVER_ATTACH = 1 << 3,  /* the main process's stdio */
    DRIVER_CONSOLE = 1 << 4, /* a serial console */
    DRIVER_FILES = 1 << 5,   /* get and put */
    DRIVER_VNC = 1 << 6,
    DRIVER_SIGNAL = 1 << 7,  /* any signal to the main process */
    DRIVER_FILES_AT_REST = 1 << 8, /* get and put of one that does not run */
};

struct driver_exit {
    int code;            /* 0..255; -1 unknown */
    bool out_of_memory;
    const char *reason;  /* a sentence when it is no plain end ("QEMU was killed by signal 9"), or NULL */
};

/* From driver to manager, on the loop thread, never from inside a call on the same instance. */
struct driver_events {
    /* The main process or machine ended. Sent once per start (or adopt). */
    void (*exited)(struct driver_instance *instance, const struct driver_exit *exit);
    /* Something the status shows changed (guest addresses, hostname, agent up, trouble). */
    void (*changed)(struct driver_instance *instance);
};

struct driver_context {
    struct storage *storage;
    struct network *network; /* NULL: no networks on this host */
    const struct driver_events *events;
    const char *run_path;    /* "/run/polder" */
    const char *libexec_path; /* where polder-guest, polder-worker … are */
    /* Roots beneath which host directories may be mounted, from the configuration. */
    char *const *mount_roots;
};

struct driver_start {
    bool restore;               /* from the memory saved by suspend */
    struct stream **ret_stream; /* if not NULL: attach before the main process runs, so no byte is missed */
    const struct exec_terminal *terminal; /* first size of a tty, or NULL */
};

struct exec_terminal {
    uint16_t rows, columns;
};

struct exec_request {
    char *const *arguments;
    char *const *environment; /* added to the instance's */
    const char *user;         /* NULL: the instance's */
    const char *working_directory; /* NULL: the instance's */
    bool tty;
    bool stdin_open;
    struct exec_terminal terminal;
};

/* What is seen of a running instance, filled from memory only: never asks the guest. */
struct driver_facts {
    int64_t pid;
    char *hostname;    /* as the guest says, capped, not escaped */
    char **addresses;
    bool agent_up;     /* the guest agent has answered since the start */
    uint64_t control_calls; /* messages on the control channel to and from the guest since the machine started, or was taken over */
    uint64_t control_waits; /* how often it had to wait for its budget of them */
    bool measured;     /* the next two are known although it has no control group: the fake driver's */
    uint64_t cpu_us, memory; /* processor time used so far, bytes in use */
    const char *vnc;     /* path of the socket where VNC viewers may connect, or NULL; the driver's, until the next wait */
    const char *trouble; /* why the driver's own process does not answer, or NULL when it does; static */
};

struct driver_balloon {
    uint64_t target; /* bytes that the guest shall do with, at most what it started with; 0: as it is */
    bool listen;     /* it shall say what it uses, from now on */
    uint64_t size;   /* answer: bytes that it has now; it may be on its way to the target */
    uint64_t used;   /* answer: bytes of them that it could not do without, as it said lately; 0: it has not said */
};

struct driver {
    const char *name;
    unsigned kinds;        /* bits 1 << enum kind */
    unsigned capabilities; /* enum driver_capability */

    /* Once, off fibers: `*ret_data` is passed to close. */
    int (*open)(const struct driver_context *context, void **ret_data, struct error *error);
    void (*close)(void *data);
    /* Is this kind usable on this host now? HOST_LACKS says why not. NULL: always. */
    int (*available)(void *data, enum kind kind, struct error *error);
    /* Makes everything it needs (disks, bundle, seed) and starts the main process. On failure nothing of it runs. */
    int (*start)(void *data, struct driver_instance *instance, const struct driver_start *start, struct error *error);
    /* After a daemon start: finds the running processes again, checks their identity (pid + start time + boot id +
     * cgroup) and reconnects. *ret_running says whether it runs; an end that happened meanwhile is reported through
     * *ret_exit if it is known. */
    int (*adopt)(void *data, struct driver_instance *instance, bool *ret_running, bool *ret_paused,
                 struct driver_exit *ret_exit, struct error *error);
    /* Asks it to stop as its kind does (stop signal, power button), and kills it after `timeout` ms. Returns when it
     * has ended; `exited` is sent too. timeout 0 kills at once. */
    int (*stop)(void *data, struct driver_instance *instance, uint64_t timeout, struct error *error);
    int (*signal)(void *data, struct driver_instance *instance, int number, struct error *error);
    int (*pause)(void *data, struct driver_instance *instance, struct error *error);
    int (*resume)(void *data, struct driver_instance *instance, struct error *error);
    /* Memory to state_path, then the processes end (no `exited`). On failure the instance runs on. */
    int (*suspend)(void *data, struct driver_instance *instance, struct error *error);
    /* Is its whole memory, saved by `suspend`, still there to be restored? `drop` removes it first. NULL: never. */
    bool (*saved)(void *data, struct driver_instance *instance, bool drop);
    /* Ends what still runs of it and removes everything at run_path, mounts, taps … Safe to repeat. */
    int (*release)(void *data, struct driver_instance *instance, struct error *error);
    /* Applies what changed live between `before` and instance->spec beyond cgroup limits (name, balloon …). NULL: none. */
    int (*change)(void *data, struct driver_instance *instance, const struct instance_spec *before,
                  struct error *error);
    /* Gives and takes memory while it runs. Tells the guest and never waits for it. NULL: there is no balloon. */
    int (*balloon)(void *data, struct driver_instance *instance, struct driver_balloon *balloon, struct error *error);
    /* Deep check: is what it keeps at state_path since it was started there, and sound as far as can be told without the
     * guest? Problems are sentences about "its …". With `resting` nothing runs, and disks are looked into; that takes its
     * time, and the instance may go on in it. NULL: it keeps nothing. */
    int (*check)(void *data, struct driver_instance *instance, bool resting, char ***problems, struct error *error);
    /* Streams: the caller frees *ret. */
    int (*exec)(void *data, struct driver_instance *instance, const struct exec_request *request, struct stream **ret,
                struct error *error);
    int (*attach)(void *data, struct driver_instance *instance, struct stream **ret, struct error *error);
    int (*console)(void *data, struct driver_instance *instance, struct stream **ret, struct error *error);
    /* A tar of `path` inside (entries start with its last component), or unpack a tar written to the stream beneath
     * the directory `path`. */
    int (*get)(void *data, struct driver_instance *instance, const char *path, struct stream **ret,
               struct error *error);
    int (*put)(void *data, struct driver_instance *instance, const char *path, struct stream **ret,
               struct error *error);
    /* A connected VNC (RFB) descriptor. */
    int (*vnc)(void *data, struct driver_instance *instance, int *ret_fd, struct error *error);
    void (*facts)(void *data, const struct driver_instance *instance, struct driver_facts *ret);
};

extern const struct driver container_driver;
extern const struct driver qemu_driver;
extern const struct driver fake_driver;
