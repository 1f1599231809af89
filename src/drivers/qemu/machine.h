// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/fiber.h"
#include "base/process.h"
#include "drivers/driver.h"
#include "drivers/log.h"
#include "drivers/qemu/console.h"
#include "drivers/qemu/guestport.h"
#include "drivers/qemu/qmp.h"

struct agent;
struct display;

/* The driver's own state. */
struct qemu {
    unsigned references; /* the manager's, each machine's, the warming fiber's */
    struct driver_context context;
    struct fiber *warming; /* finds out what follows, once */
    struct fiber *watching; /* watch.c, while there are machines */
    bool kvm;
    char *kvm_reason;
    uint64_t tsc_khz;
    struct machine *machines; /* all there are */
};

/* A running microVM or VM, from the start of QEMU until its end was told. It is
 * driver_instance.driver_data.
 *
 * The watcher fiber waits for QEMU's end, finds out why, and tells the manager, unless `quiet`: then
 * somebody waits who wants to know himself (a failing start, suspend, release). */
struct watch_waiter;

struct machine {
    unsigned references;
    struct machine *next;
    struct qemu *qemu;
    struct driver_instance *instance;
    int directory; /* RUN_PATH */
    struct process process;
    int errors; /* what QEMU said, read end */
    struct qmp *qmp;
    struct guestport *port; /* microvm */
    struct agent *agent;    /* vm */
    struct console *console;
    struct display *display; /* vm with graphics */
    unsigned viewers;        /* handed to QEMU so far */
    struct log_file *log;
    struct fiber *watcher;
    struct fiber *connector; /* takes up QMP again after a break */
    struct fiber_queue changed; /* something below did */
    bool adopted;
    bool quiet;
    bool ended;    /* the process is gone */
    bool told;     /* … and so was the manager */
    bool released; /* its instance has forgotten it, and may be gone */
    bool paused;
    const char *trouble; /* why QEMU does not answer, or NULL; watch.c */
    unsigned missed;     /* looks in a row without an answer */
    struct watch_waiter *waiters; /* its threads that waited for the host's storage at the last look, WATCH_WAITERS */
    unsigned hung;       /* looks in a row at which one of them had not moved */
    bool checking;       /* whether there is room */
    bool starved;        /* QEMU stopped the guest: the host has no room for what it writes */
    unsigned starving;   /* looks since it was last told to go on */
    bool killing;  /* by us */
    bool stopping; /* somebody asked it to stop */
    uint64_t overdue; /* ms in which it had to stop and did not; 0: it did, or nobody asked */
    bool halted;   /* QEMU says that the guest is off */
    bool panicked;
    bool restarted; /* off by a restart that a microVM does not do */
    bool exit_known; /* the main process's */
    int exit_code;
    char *problem;
    char *reason;    /* of an end that was found when it was adopted */
    char *last_line; /* of the console, once it has ended */
    struct process *shares; /* virtiofsd processes that we started */
    unsigned share_count;
    unsigned busy;   /* fibers that use `instance` */
    uint64_t boot_memory; /* bytes; 0: unknown */
    unsigned boot_cpus;
    bool listens; /* the guest is asked to say what memory it uses, as far as known */
    bool listening_known;
    uint64_t listening_since; /* seconds of the wall clock */
    int status; /* of QEMU's process */
    uint64_t kills_before; /* out-of-memory kills when it started */
    bool migrated; /* the last migration completed */
    bool migration_failed;
};

void qemu_unref(struct qemu *qemu);

/* Whole life. A machine holds the run directory open. */
int machine_new(struct qemu *qemu, struct driver_instance *instance, struct machine **ret,
                struct error *error);
void machine_unref(struct machine *machine);
/* Begins to connect to QEMU's monitor again if the connection broke and there was no memory to begin with that then. */
void machine_reconnect(struct machine *machine);
/* A debug line with a time, from which ./bench works out our own part of it. */
void machine_mark(const struct machine *machine, const char *what);
/* Stops watching and forgets the connections; the process goes on. */
void machine_detach(struct machine *machine);
static inline void machine_unrefp(struct machine **machine) {
    if (*machine)
        machine_unref(*machine);
}

/* After the process runs: watches it, connects control, console, log and agent. `adopted`: it ran before
 * this daemon. */
int machine_connect(struct machine *machine, bool adopted, struct error *error);
/* Fiber: kills QEMU and waits until the watcher is through, never for the guest. -ETIMEDOUT: it waits for the host's
 * storage in a way that no signal ends, and ends when that answers. */
int machine_kill(struct machine *machine, uint64_t deadline);
/* Fiber: waits until it has ended. */
int machine_wait_end(struct machine *machine, uint64_t deadline);
/* Fiber: one QMP command. BUSY when there is no connection. */
int machine_call(struct machine *machine, const char *command, const char *arguments,
                 struct json_object **ret, struct error *error);
/* Fiber: one without arguments or answer that may not take longer than until `deadline`. */
int machine_ask(struct machine *machine, const char *command, uint64_t deadline);
/* Why QEMU ended before it was of use, as an error. */
int machine_failure(struct machine *machine, struct error *error);
/* Tells the manager that what driver_facts says has changed. */
void machine_status_changed(struct machine *machine);
/* Tells the manager an end that happened while the machine was quiet. */
void machine_tell_late(struct machine *machine);
/* Of the control channel; NULL before there is one. And its rate as the spec has it. */
struct budget *machine_budget(struct machine *machine);
void machine_budget_set(struct machine *machine);
/* How many virtual processors the wished share of CPUs takes. */
unsigned machine_processors(const struct instance_spec *spec);
/* Fiber: boot_memory and boot_cpus are known then; a machine that an earlier daemon started is asked. */
int machine_boot_sizes(struct machine *machine, struct error *error);
/* Fiber: brings memory and processors of a running machine to the wish, within what it started with. */
int machine_resize(struct machine *machine, const struct instance_spec *before, struct error *error);
/* Fiber: driver.h's `balloon`. */
int machine_balloon(struct machine *machine, struct driver_balloon *balloon, struct error *error);
/* Fiber: ends its file servers. They end by themselves when QEMU does; this makes sure and reaps them. */
void machine_end_shares(struct machine *machine);
/* What the driver tells of an end. `reason` is allocated or NULL. */
void machine_exit(struct machine *machine, struct driver_exit *ret, char **ret_reason);

/* STATE_PATH/exit: how the main process of the last start ended, for a daemon that comes later. */
int exit_write(const struct driver_instance *instance, int code, const char *problem);
bool exit_read(const struct driver_instance *instance, int *ret_code, char **ret_problem);
void exit_remove(const struct driver_instance *instance);
