// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/fiber.h"
#include "drivers/driver.h"
#include "manager/operation.h"
#include "model/instance.h"
#include "store/store.h"

/* One instance inside the manager: wish (spec and power), decision (assigned) and fact (status), and its cached JSON
 * text. Its record in the store is one JSON object under "/instances/default/UUID"; "/names/default/NAME" points to it. */

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
    char *boot_id;     /* the host's boot in which it was last started */
    uint64_t deleted;  /* wall time it went to the trash */
    int64_t failures;  /* ends in a row, for the restart back-off */
};
extern const struct table instance_control_table;

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
    bool cancellable;            /* that one may be cancelled by a newer wish */
    bool admitted;               /* the engine gave it room */
    struct fiber_queue admission;
    bool dirty;                  /* its record must be written, soon */
    bool removed;                /* purged; only references keep it */
    uint64_t ran_since;          /* boot time of the last start */
    struct fiber *timer;         /* time limit, or the pause before a restart */
    unsigned references;

    char *text; /* cached JSON, NULL when stale */
    size_t text_size;
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
/* Drops the cache after any change and wakes those who wait for one. */
void instance_touch(struct instance *instance);
/* Paths and driver view, once uuid and kind are decided. */
int instance_prepare(struct instance *instance);
/* Merges image and spec into what runs inside. */
int instance_process(struct instance *instance, const struct image *image, struct error *error);
/* Moves along the state table, publishes "instance.STATE" and marks the record dirty. Illegal: -EBUSY and an error. */
int instance_advance(struct instance *instance, enum lifecycle_event event, struct error *error);
/* Sets reason and message from an error (or clears them). */
void instance_set_reason(struct instance *instance, const struct error *error);
