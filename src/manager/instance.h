// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/fiber.h"
#include "drivers/driver.h"
#include "manager/allocation.h"
#include "manager/operation.h"
#include "manager/optimize.h"
#include "model/instance.h"
#include "store/store.h"

/* One instance inside the manager: wish (spec and power), decision (assigned) and fact (status), and its cached JSON
 * text. Its record in the store is one JSON object under "/instances/default/UUID"; "/names/default/NAME" points to it. */

struct actor;
struct manager;

/* What the users want of it. Kept beside the spec; only requests and the end of an instance that is not restarted
 * change it. */
enum power {
    POWER_STOPPED,
    POWER_RUNNING,
    POWER_PAUSED,
    POWER_SUSPENDED,
    POWER_DELETED,
};

struct instance_control {
    int power;         /* enum power */
    char *boot_id;     /* the host's boot in which it was last started or deleted */
    int64_t since;     /* boot time of that */
    uint64_t deleted;  /* wall time it went to the trash */
    uint64_t queued;   /* wall time it began to wait for room: the order in which those who wait are taken again */
    int64_t worked;    /* µs it ran before it was last suspended: work that is kept */
    int64_t yielded;   /* boot time since when it is paused for others; 0: it is not. That time is no work */
    int64_t failures;  /* short runs in a row, for the restart back-off */
    uint64_t memory_most; /* bytes promised before the optimiser took some; 0: it did not */
    uint64_t memory_left; /* what is promised since; when that is no longer so, somebody else decided */
    uint64_t memory_run;  /* status.started of the run that this is about */
    bool purge;        /* with power deleted: not into the trash */
    bool swapped;      /* and its memory went to the host's swap, its room to others */
    bool restarting;   /* stopped to be started again: its end is no end */
};
extern const struct table instance_control_table;

/* Part of the instance, so that an end can be noted when there is no memory. */
struct instance_end {
    int code;
    bool out_of_memory;
    char *reason;
    struct instance *next; /* of those for which no fiber could be started yet */
};

struct instance {
    struct manager *manager;
    char *name;
    struct instance_spec spec;
    struct instance_assigned assigned;
    struct instance_status status;
    struct instance_control control;

    struct driver_instance view; /* what the driver sees of it */
    const struct driver *driver; /* NULL until the kind is decided */
    void *driver_data;
    char *state_path, *run_path;

    struct fiber_mutex lock;     /* held by the one fiber that changes its fact */
    struct fiber_queue changed;  /* woken at every state change */
    struct operation *operation; /* the one under way, or NULL; borrowed */
    struct fiber *starter;       /* the fiber inside run_start, which a newer wish may cancel; borrowed */
    uint64_t ticket;             /* counts starts: a waiting one sees that it is no longer the one */
    bool admitted;               /* the engine gave it room */
    bool stands;                 /* the start under way follows a wish that stood before: nobody is there to be refused it */
    bool yielded;                /* paused, so that others can run: it waits in the queue, and goes on by itself */
    bool swapped;                /* yielded, and its memory is in the host's swap */
    bool unswappable;            /* that did not work out in this run: it is not asked for it again */
    bool handover;               /* it is stopped by somebody who decides what follows: restart, delete */
    struct fiber_queue admission;
    struct instance_end end;     /* told by the driver */
    unsigned ends;               /* 1: that is not yet worked off */
    bool unreachable;            /* it may run, but could not be taken over yet */
    bool unattended;             /* and there was no memory for a fiber of its own that tries again */
    bool uncommitted;            /* its creation is not durable yet: nobody sees it */
    bool purging;                /* its record goes: the writer must not bring it back */
    bool removed;                /* purged; only references keep it */
    bool dirty;                  /* its record must be written, soon */
    bool in_flight;              /* being written by the background writer */
    bool linked;                 /* in the writer's list, which then holds a reference */
    bool unreleased;             /* in the tidier's list, which then holds a reference */
    struct instance *unreleased_next;
    struct instance *dirty_next;
    uint64_t ran_since;          /* boot time of the last start */
    struct instance_share share; /* of processors, memory and I/O */
    struct instance_use use;     /* of these, as measured */
    uint64_t placed;             /* number of the decision that let it start; 0: none was recorded */
    struct run_timer *timer;     /* time limit, or the pause before a restart */
    unsigned references;

    char *text; /* cached JSON, NULL when stale */
    size_t text_size;
    char *reader_text; /* the same without secrets, NULL when stale or no different */
    size_t reader_size;
    char etag[32];
    uint64_t changes;
};

int instance_new(struct manager *manager, const char *name, struct instance **ret);
struct instance *instance_ref(struct instance *instance);
void instance_unref(struct instance *instance);
static inline void instance_unrefp(struct instance **instance) {
    instance_unref(*instance);
}
#define _cleanup_instance_ __attribute__((cleanup(instance_unrefp)))

/* Keys are allocated. */
char *instance_key(const char *uuid);
char *instance_name_key(const char *name);
/* The record's text, and back (into a new instance). */
int instance_encode(const struct instance *instance, char **ret_text);
int instance_decode(struct manager *manager, const char *text, size_t size, struct instance **ret,
                    struct error *error);
/* The JSON object that users see; cached. Borrowed, NULL without memory. */
const char *instance_text(struct instance *instance);
/* What `actor` may see of it: readers are anybody on the host, and are not shown what commonly holds secrets (environment,
 * user data). Borrowed and cached likewise. */
const char *instance_text_for(struct instance *instance, const struct actor *actor, size_t *ret_size);
/* Drops the cache after any change and wakes those who wait for one. */
void instance_touch(struct instance *instance);
/* Paths and driver view, once uuid and kind are decided. */
int instance_prepare(struct instance *instance);
/* Merges image and spec into what runs inside. */
int instance_process(struct instance *instance, const struct image *image, struct error *error);
/* Moves along the state table, publishes "instance.STATE" and marks the record dirty. Illegal: -EBUSY and an error. */
int instance_advance(struct instance *instance, enum lifecycle_event event, struct error *error);
/* The same for what was found rather than what happened: no table is asked. */
void instance_set_state(struct instance *instance, enum state state);
/* Where VNC viewers may connect, or NULL. `path` is copied. */
void instance_set_vnc(struct instance *instance, const char *path);
/* Sets reason and message from an error (or clears them). */
void instance_set_reason(struct instance *instance, const struct error *error);
