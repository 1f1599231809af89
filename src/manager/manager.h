// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"
#include "drivers/driver.h"
#include "engine/advisor.h"
#include "host/facts.h"
#include "manager/actor.h"
#include "manager/events.h"
#include "manager/operation.h"
#include "model/instance.h"
#include "model/queue.h"
#include "network/network.h"
#include "storage/storage.h"
#include "store/store.h"

/* The manager keeps what is wished and what is, runs operations, and reconciles. The API calls only this.
 *
 * Reads (…_text, …_emit, find, list) answer from memory, never wait, and may be called off fibers. Changes run on a
 * fiber: they authorise and validate the final merged spec, commit it, and return an operation which goes on by itself;
 * operation_wait waits for it. Every change writes an audit record in the same transaction. */

struct manager;

struct manager_configuration {
    char *state_path;
    char *run_path;
    char *libexec_path;
    char *subnet;              /* NULL: chosen */
    char **mount_roots;        /* host directories beneath which mounts may have their source */
    bool fake_driver;          /* offer --kind fake */
    bool network;              /* offer the default network */
    uint64_t overcommit_cpu[KIND_COUNT];    /* percent of the host's CPUs that may be promised */
    uint64_t overcommit_memory[KIND_COUNT];
    uint64_t memory_reserve;   /* bytes kept for the host */
    uint64_t trash_seconds;    /* how long a deleted instance can be undeleted */
    const struct queue_settings *queue; /* until others are set */
};

/* Off fibers. The drivers are opened here. */
int manager_new(const struct manager_configuration *configuration, struct store *store, struct manager **ret,
                struct error *error);
/* Fiber: loads all objects, adopts what runs, finishes or undoes what was interrupted. Ready when it returns. */
int manager_start(struct manager *manager, struct error *error);
/* Fiber: lets operations under way finish for at most `deadline`; instances run on. */
void manager_stop(struct manager *manager, uint64_t deadline);
void manager_free(struct manager *manager);

/* --- instances ------------------------------------------------------------------------------------------------- */

struct instance; /* opaque to the API: referenced by name */

/* The cached JSON object of one instance {"name","spec","assigned","status"}, as far as the actor may see it, and its
 * entity tag (quoted). Borrowed until the next change. NULL if absent. `name` is a name or a full uuid. */
const char *manager_instance_text(struct manager *manager, const struct actor *actor, const char *name, size_t *ret_size,
                                  const char **ret_etag);

struct instance_filter {
    const struct actor *actor; /* who looks: readers are not shown everything */
    const char *kind;   /* NULL: all */
    const char *state;
    const char *label;  /* "key" or "key=value", literal */
    const char *name;   /* literal prefix */
    bool deleted;       /* also those in the trash */
    const char *after;  /* names greater than this only */
    size_t limit;       /* 0: all */
    char **fields;      /* top-level or dotted names; NULL: everything */
};
/* {"instances":[…],"continue":"name"|null,"revision":N} */
int manager_instances_emit(struct manager *manager, const struct instance_filter *filter, struct emitter *emitter,
                           struct error *error);

/* What the instance has of processors and memory, with every term of the formulas that led there; one that does not run is
 * told of as if it did. NOT_FOUND. */
int manager_allocation_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error);

struct instance_create {
    const char *name;   /* NULL: invented */
    struct json_object *spec; /* as in the request */
    bool start;
    bool dry_run;       /* validate and decide only; *ret_text gets the object as it would be */
    const char *idempotency_key; /* the same key and actor give the same operation for a day */
};
int manager_instance_create(struct manager *manager, const struct actor *actor, const struct instance_create *create,
                            struct operation **ret, char **ret_text, struct error *error);
/* RFC 7396 merge patch of the spec ({"spec":{…}} or with "name" to rename). if_match: entity tag or NULL. */
int manager_instance_patch(struct manager *manager, const struct actor *actor, const char *name,
                           struct json_object *patch, const char *if_match, bool dry_run, struct operation **ret,
                           char **ret_text, struct error *error);

enum instance_action {
    ACTION_START,
    ACTION_STOP,
    ACTION_RESTART,
    ACTION_PAUSE,
    ACTION_RESUME,
    ACTION_SUSPEND,
    ACTION_DELETE,
    ACTION_UNDELETE,
};
struct action_options {
    bool force;            /* stop: kill at once; delete: stop first */
    bool purge;            /* delete: not into the trash */
    int64_t timeout_ms;    /* stop, restart: -1 is the instance's own */
    const char *if_match;
    bool dry_run;
    struct stream **ret_stream; /* start: attached before the first byte */
    const struct exec_terminal *terminal;
};
int manager_instance_action(struct manager *manager, const struct actor *actor, const char *name,
                            enum instance_action action, const struct action_options *options,
                            struct operation **ret, struct error *error);
int manager_instance_signal(struct manager *manager, const struct actor *actor, const char *name, int number,
                            struct error *error);
/* Fiber: until the instance is in `state` (state name, or "removed", or "exited": any ended state). Writes
 * {"name","state","exit_code"}. */
int manager_instance_wait(struct manager *manager, const struct actor *actor, const char *name, const char *state,
                          uint64_t deadline, struct emitter *emitter, struct error *error);
/* Streams of a running instance: exec, attach, console (checks the permission of each). */
int manager_instance_exec(struct manager *manager, const struct actor *actor, const char *name,
                          const struct exec_request *request, struct stream **ret, struct error *error);
int manager_instance_attach(struct manager *manager, const struct actor *actor, const char *name, struct stream **ret,
                            struct error *error);
int manager_instance_console(struct manager *manager, const struct actor *actor, const char *name,
                             struct stream **ret, struct error *error);
int manager_instance_vnc(struct manager *manager, const struct actor *actor, const char *name, int *ret_fd,
                         struct error *error);
int manager_instance_get(struct manager *manager, const struct actor *actor, const char *name, const char *path,
                         struct stream **ret, struct error *error);
int manager_instance_put(struct manager *manager, const struct actor *actor, const char *name, const char *path,
                         struct stream **ret, struct error *error);
/* Where its log is (drivers/log.h); allocated path. */
int manager_instance_log(struct manager *manager, const struct actor *actor, const char *name, char **ret_state_path,
                         struct error *error);
/* True while more output may come. */
bool manager_instance_is_active(struct manager *manager, const char *name);

/* --- images: thin over storage, as operations --------------------------------------------------------------------- */

int manager_image_add(struct manager *manager, const struct actor *actor, const struct image_request *request,
                      struct operation **ret, struct error *error);
int manager_image_remove(struct manager *manager, const struct actor *actor, const char *name, struct error *error);
int manager_image_tag(struct manager *manager, const struct actor *actor, const char *name, const char *alias,
                      struct error *error);
int manager_image_prune(struct manager *manager, const struct actor *actor, bool all, struct emitter *emitter,
                        struct error *error);
struct image_filter {
    int type;          /* enum image_type; -1: all */
    const char *name;  /* literal prefix of one of its names */
    const char *after; /* `continue` of the page before */
    size_t limit;      /* 0: all */
};
/* NULL if a page could have given it, else what is wrong. */
const char *image_cursor_check(const char *text);
/* {"images":[…],"continue":"…"|null}, oldest first. */
int manager_images_emit(struct manager *manager, const struct image_filter *filter, struct emitter *emitter);
int manager_image_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error);

/* --- node ---------------------------------------------------------------------------------------------------------- */

void manager_node_emit(struct manager *manager, struct emitter *emitter); /* promised versus real, versions, host */
/* Fiber. RFC 7396 merge patch {"queue":{…}} of what can be set while the daemon runs; kept over restarts. BAD_VALUE,
 * OUT_OF_RANGE and NOT_FOUND name the setting. */
int manager_node_patch(struct manager *manager, const struct actor *actor, struct json_object *patch, bool dry_run,
                       struct error *error);
/* Fiber. Those that wait, in their order: position, expected start, reason. From memory, as of when its turn came among those who
 * ask: BUSY, CANCELED. */
int manager_queue_emit(struct manager *manager, size_t limit, struct emitter *emitter, struct error *error);
struct what_if {
    int64_t add;        /* so many more of this: */
    int kind;           /* enum kind; auto stands for a container */
    uint64_t cpus, memory, duration; /* thousandths, bytes, ms; 0: without a known end */
    int64_t priority;
    char *policy, *backfill; /* other rules; NULL: the same */
    uint64_t node_cpus, node_memory; /* 0: as it is */
    char *without_node;              /* this node were gone; NULL: none */
    char *node_labels, *taints;      /* "KEY=VALUE,KEY-": were set on it, or taken away; NULL: as they are */
};
/* Fiber. Expected starts of those that wait, now and if it were otherwise, by the same code on a copy. From memory, as of when its
 * turn came. BAD_VALUE, IMPOSSIBLE, BUSY, CANCELED. */
int manager_what_if_emit(struct manager *manager, const struct what_if *what_if, struct emitter *emitter,
                         struct error *error);
/* Fiber. Why it waits or runs, and what would let it start now. NOT_FOUND, BUSY, CANCELED. */
int manager_why_emit(struct manager *manager, const char *name, struct emitter *emitter, struct error *error);
/* Fiber. What is kept of the ledger, oldest first: lines of JSON (engine/ledger.h). */
int manager_ledger_write(struct manager *manager, struct buffer *out, struct error *error);
/* Fiber. One decision {"decision":{…}} of the ledger; with `again` made again from the ledger too ("same", "replayed").
 * NOT_FOUND: there is none such, or none any more; NOT_SUPPORTED: another version of the engine made it. */
int manager_decision_emit(struct manager *manager, uint64_t number, bool again, struct emitter *emitter,
                          struct error *error);
/* Fiber. Makes a plan of what could be better here (engine/optimizer.h), keeps it for a while and tells it; nothing changes. */
struct optimize_request {
    uint64_t observe, cooldown; /* ms */
};
int manager_optimize_plan_emit(struct manager *manager, const struct actor *actor, const struct optimize_request *request,
                               struct emitter *emitter, struct error *error);
/* Fiber. A plan that was made lately; from the ledger (state "recorded", with the steps that were done of it) where polderd has
 * been started since, or has made many others. NOT_FOUND. */
int manager_optimize_emit(struct manager *manager, const char *id, struct emitter *emitter, struct error *error);
/* Carries a plan out by ordinary requests of this actor. NOT_FOUND; STALE: it expired, was applied already, or the state
 * that it was made for has changed. */
int manager_optimize_apply(struct manager *manager, const struct actor *actor, const char *id, struct operation **ret,
                           struct error *error);
/* Which kind suits the need here, and why; the image (or NULL) tells what it can be started as. NOT_FOUND, NOT_SUPPORTED,
 * BAD_VALUE. */
int manager_advise_emit(struct manager *manager, const char *image, struct need *need, struct emitter *emitter,
                        struct error *error);
int manager_doctor_emit(struct manager *manager, struct emitter *emitter, struct error *error); /* fiber */
int manager_fsck_emit(struct manager *manager, const struct actor *actor, bool deep, bool repair,
                      struct emitter *emitter, struct error *error); /* fiber */
/* The same as an operation, whose result is what would be emitted and which tells how far it is. */
int manager_fsck_start(struct manager *manager, const struct actor *actor, bool deep, bool repair, struct operation **ret,
                       struct error *error);
int manager_audit_emit(struct manager *manager, const struct actor *actor, const char *after, size_t limit,
                       struct emitter *emitter, struct error *error); /* fiber; newest first */
/* Fiber: who sent how much to whom, and who had better stay together. */
int manager_flows_emit(struct manager *manager, struct emitter *emitter, struct error *error);
int manager_networks_emit(struct manager *manager, struct emitter *emitter);
int manager_network_reset(struct manager *manager, const struct actor *actor, struct error *error);
/* Notes in the audit trail what was refused before it reached any of the calls here. */
void manager_audit_refused(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                           const struct error *error);
struct events *manager_events(struct manager *manager);
struct operations *manager_operations(struct manager *manager);
struct storage *manager_storage(struct manager *manager);
/* Metrics text (OpenMetrics) of what is known without asking anybody. */
void manager_metrics(struct manager *manager, struct buffer *out);
