// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "base/map.h"
#include "engine/advisor.h"
#include "engine/engine.h"
#include "engine/yielding.h"
#include "manager/allocation.h"
#include "manager/instance.h"
#include "manager/manager.h"
#include "manager/optimize.h"
#include "model/placement.h"

/* What the files of the manager share. */

#define AUDIT_PREFIX "/audit/"
#define INSTANCE_PREFIX "/instances/"
#define NAME_PREFIX "/names/default/"
#define IDEMPOTENCY_PREFIX "/idempotency/"

/* An audit record that waits for the next write, for things that need no commit of their own (refusals, ends). */
struct audit_row {
    char *key;
    char *value;
    struct audit_row *next;
};

struct loaded_driver {
    const struct driver *driver;
    void *data;
    struct error unavailable; /* set if it could not be opened */
};

#define DRIVERS_MAX 4
#define PLACEMENTS_KEPT 256 /* in memory; the ledger has more */

struct placement_record {
    uint64_t number; /* of the queue's decision that let it start */
    char *text;
};
struct placements {
    struct placement_record kept[PLACEMENTS_KEPT]; /* by number */
};

/* The flows that metrics tell. */
struct flows_state {
    struct fiber *reader;        /* of the last reading, or NULL */
    struct network_flow *found;  /* by that before */
    size_t count;
};

struct manager {
    struct manager_configuration configuration; /* borrowed strings */
    struct store *store;
    struct storage *storage;
    struct network *network;
    struct cgroup_host *cgroups;
    struct engine *engine;
    struct events *events;
    struct operations *operations;
    struct host_facts facts;
    struct driver_events driver_events;
    struct driver_context driver_context;
    struct loaded_driver drivers[DRIVERS_MAX];
    size_t driver_count;

    struct map *by_name; /* live instances */
    struct map *by_uuid; /* live ones and those in the trash */
    struct instance **sorted; /* by name, for lists; rebuilt when stale */
    size_t sorted_count;
    bool sorted_stale;
    struct map *idempotency; /* "actor key" -> struct idempotency */

    uint64_t audit_sequence;
    struct audit_row *audit_first, *audit_last;
    size_t audit_waiting;
    uint64_t audit_lost; /* records dropped because too many wait */
    struct instance *dirty_first, *dirty_last; /* to be written, in order */
    struct error write_error;    /* of the last failed round */
    uint64_t write_failures;     /* counts those */
    struct fiber_queue dirty_queue; /* the writer waits here */
    struct fiber_queue urgent_queue;
    struct fiber_queue written_queue; /* those who wait for the writer */
    struct fiber *writer;
    struct fiber *sweeper;
    struct fiber *storekeeper; /* tidies the image store; the last one that the sweeper started */
    struct fiber *probe; /* of what the host can do */
    struct flows_state flows;
    struct fiber *explainer; /* tells those who wait for room why */
    struct fiber_queue explain_queue;
    uint64_t swap_seen, swap_room; /* free swap of the host, and when that was looked up */
    bool explain_stale;
    unsigned thoughts; /* that have a turn */
    struct fiber_mutex thought_lock; /* held by who is next */
    struct fiber_queue thought_queue;
    bool admission_failed, occupation_failed; /* for want of memory, to be tried again */
    struct fiber *reaper;    /* works off ends that no memory was there for */
    struct fiber_queue reaper_queue;
    struct instance *ends_first;
    struct fiber *tidier;    /* releases what could not be released at once */
    struct fiber_queue tidier_queue;
    struct instance *unreleased_first;
    struct fiber *scribe;    /* writes the ledger */
    struct fiber_queue scribe_queue;
    struct fiber_mutex ledger_lock; /* held over each write of it */
    uint64_t ledger_segment, ledger_size;
    bool ledger_broken; /* its last file lacks something: another is to be begun */
    uint64_t learnt_saved, learnt_saved_at; /* the engine's moment, and when */
    struct fiber *ticker;    /* lets the engine decide when time alone has changed something */
    struct fiber_queue ticker_queue;
    struct queue_settings queue_settings;
    struct node_settings node_settings;
    struct fiber_mutex settings_lock; /* held while they change */
    struct allocator_state allocator;
    struct optimize_state optimize;
    struct placements placements;
    bool followed; /* what a crash interrupted goes on; who is taken over later sees to that itself */
    bool writing, urgent, stopping, ready;
    uint64_t started; /* wall time */
    uint64_t start_mean[KIND_COUNT]; /* microseconds that the drivers' starts take; 0: none yet */
};

const struct manager_configuration *manager_configuration(const struct manager *manager);
/* The driver of a kind and its data; NULL if none. */
const struct driver *manager_driver(struct manager *manager, enum kind kind, void **ret_data);
int manager_driver_available(struct manager *manager, enum kind kind, struct error *error);
void process_settings_done(struct process_settings *process);

/* --- create and change ------------------------------------------------------------------------------------------ */
void idempotency_free(struct manager *manager);
/* Takes a record of an earlier run over, or drops it when its day is over: then 0 is returned. */
int idempotency_load(struct manager *manager, const char *key, const char *text, size_t size);
/* Fiber: forgets those whose day is over. */
void idempotency_expire(struct manager *manager);
/* Fiber. A new address if the network no longer has the instance's. */
int instance_readdress(struct instance *instance, struct error *error);
/* The one check of a final spec with its kind decided, before every commit; name: which it will have. */
int instance_admissible(struct manager *manager, const struct instance *instance, const char *name, struct error *error);

/* --- images it holds ---------------------------------------------------------------------------------------------- */
/* Fiber. The ISO image that the spec's cdrom names; NULL if it names none. Borrowed. NOT_FOUND, BAD_VALUE. */
int medium_find(struct manager *manager, const struct instance_spec *spec, const struct image **ret, struct error *error);
/* Fiber. Decides the medium from the spec; *ret_before is the digest of the one before, for the caller to free. */
int medium_insert(struct instance *instance, char **ret_before, struct error *error);
/* Its medium was `digest`, which it holds no longer unless it is what it has now. */
void medium_let_go(struct instance *instance, const char *digest);
/* Keeps its image and its medium from being removed, and ends that. Safe to repeat. -ENOENT: one is gone already. */
int instance_pin(struct instance *instance);
void instance_unpin(struct instance *instance);

/* --- flows ----------------------------------------------------------------------------------------------------- */
/* What instances sent each other, as OpenMetrics: as of the last reading, which the kernel may take its time for; each call begins
 * another unless one is under way. Waits for nothing. */
void flows_metrics(struct manager *manager, struct buffer *out);
void flows_done(struct flows_state *state);

/* --- advice --------------------------------------------------------------------------------------------------- */
void advice_note_start(struct manager *manager, enum kind kind, uint64_t duration);
/* The kind for `auto` and why (allocated); what `given` leaves out is each kind's default. NOT_SUPPORTED. */
int advise_kind(struct manager *manager, const struct image *image, const struct instance_spec *spec, struct json_object *given,
                enum kind *ret, char **ret_why, struct error *error);

/* --- registry ------------------------------------------------------------------------------------------------- */
struct instance *registry_find(struct manager *manager, const char *name); /* live, by name or uuid; borrowed */
/* The one deleted last under this name, or by uuid; borrowed. */
struct instance *registry_find_in_trash(struct manager *manager, const char *name);
/* With trash also those there. NOT_FOUND otherwise. */
int registry_lookup(struct manager *manager, const char *name, bool trash, struct instance **ret, struct error *error);
int registry_add(struct manager *manager, struct instance *instance);
void registry_remove(struct manager *manager, struct instance *instance); /* drops the registry's reference */
int registry_rename(struct manager *manager, struct instance *instance, const char *name);
/* Into or out of the trash: by_name only holds live ones. */
void registry_hide(struct manager *manager, struct instance *instance);
int registry_show(struct manager *manager, struct instance *instance);
struct instance *const *registry_sorted(struct manager *manager, size_t *ret_count);
/* The same for who waits between one and the next: with a reference to each, until registry_release. NULL: no memory. */
struct instance **registry_hold(struct manager *manager, size_t *ret_count);
void registry_release(struct instance **held, size_t count);

/* --- writing -------------------------------------------------------------------------------------------------- */
/* Its record is written soon by the background writer. */
void manager_mark_dirty(struct manager *manager, struct instance *instance);
/* Fiber: until what was marked of this instance is durable; the first failed try ends the wait. */
int instance_flush(struct instance *instance, struct error *error);
/* Fiber, not cancellable: the same after a request that failed, whose wish went back: if we die after that was told, it
 * must not come up again. Without the store nothing can be done about it. */
void instance_settle(struct instance *instance);
/* Fiber: until nothing waits to be written, at most until `deadline`. */
int manager_flush(struct manager *manager, uint64_t deadline, struct error *error);
int writer_start(struct manager *manager);
/* Builds an audit record; key and value allocated. */
int audit_build(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                const char *result, char **ret_key, char **ret_value);
/* Queues one for the writer. */
void audit_note(struct manager *manager, const struct actor *actor, const char *action, const char *object,
                const char *result);
/* "instances/NAME"; allocated. */
char *instance_object(const char *name);
void audit_instance(struct manager *manager, const struct actor *actor, const char *action, const char *name, int r,
                    const struct error *error);
/* Notes a refusal and returns r. */
int audit_refusal(struct manager *manager, const struct actor *actor, const char *action, const char *object, int r,
                  const struct error *error);
enum commit_flags {
    COMMIT_NAME = 1 << 0,   /* its entry in the index of names too, which must be free */
    COMMIT_URGENT = 1 << 1, /* it frees room: even when the disk is full */
};
/* Fiber. Commits the instance's record, an audit record, and extra operations. */
int manager_commit_instance(struct manager *manager, struct instance *instance, const struct actor *actor,
                            const char *action, unsigned flags, const struct store_operation *extra,
                            size_t extra_count, struct error *error);

/* --- settings --------------------------------------------------------------------------------------------------- */
/* The engine's rules for the settings. BAD_VALUE, OUT_OF_RANGE, NOT_FOUND. */
int settings_rules(const struct queue_settings *settings, struct engine_options *ret, struct error *error);
/* Off fibers: those of the configuration. */
int settings_init(struct manager *manager, struct error *error);
/* Fiber: those that were set later. */
int settings_load(struct manager *manager, struct error *error);

/* --- what was learnt of run times --------------------------------------------------------------------------------- */
/* Before anything is told to the engine. What cannot be read is learnt anew. */
int learnt_load(struct manager *manager, struct error *error);
/* When learnt_save has something to do; DEADLINE_NONE: nothing is new. */
uint64_t learnt_due(const struct manager *manager);
/* Fiber. */
void learnt_save(struct manager *manager);

/* --- the ledger of decisions --------------------------------------------------------------------------------------- */
/* Fiber. Goes on numbering where the files end, and writes from now on. What cannot be written is only not there later. */
int ledger_start(struct manager *manager);
/* Fiber: what is recorded goes to the file. */
void ledger_flush(struct manager *manager);
/* Fiber. Lines that begin with `head` and contain `part` (NULL: anything), oldest first, with commas between; `last`: the last
 * one alone. *ret is NULL when there are none. */
int ledger_find_lines(struct manager *manager, const char *head, const char *part, bool last, char **ret);

/* --- room ------------------------------------------------------------------------------------------------------- */
/* Fiber. Queues it and waits for room with the lock given up; admitted when it returns 0. -ECANCELED when the fiber was
 * cancelled or a newer wish came. */
int room_take(struct instance *instance, struct operation *operation, struct error *error);
void room_give_back(struct instance *instance);
/* The same at the end of its work, which its class learns from. */
void room_end(struct instance *instance);
/* It runs already, and has for so long since its memory was last made or read back: it holds its room whatever the engine
 * thinks. */
void room_occupy(struct instance *instance, uint64_t ran);
/* Its spec asks for more or less now: NO_ROOM when it runs and there is not so much. */
int room_change(struct instance *instance, struct error *error);
/* The engine may have room for somebody: wakes those who are admitted. */
void admission_run(struct manager *manager);
/* Why it waits: fills the reason, returns its sentence (allocated, or NULL). */
char *queue_sentence(const struct manager *manager, const struct engine_explanation *why, struct error *reason);
/* An expected start of the engine's scale: members "start" and "starts_in". */
void queue_emit_start(struct emitter *emitter, uint64_t start, uint64_t now);
int explainer_start(struct manager *manager);
/* A question about the queue that takes time: on a copy of the engine as it is when thought_begin returns (copy.h), of all or of
 * the first `most`; `more` are supposed beside these. Waits for its turn: BUSY, CANCELED. What is small is done at once and does
 * not wait at all. */
struct thought {
    struct manager *manager;
    struct engine_copy *copy;
    bool small, turn;
};
int thought_begin(struct thought *thought, struct manager *manager, size_t most, size_t more, struct error *error);
/* The function's value; it runs on another thread, and may look at nothing that changes but the copy. */
int thought_run(struct thought *thought, int (*function)(void *userdata), void *userdata);
/* Waits: what is borrowed from the engine is void afterwards. */
void thought_done(struct thought *thought);
#define _cleanup_thought_ _cleanup_(thought_done)
void room_request(struct instance *instance, struct engine_request *ret);

/* --- where ------------------------------------------------------------------------------------------------------ */
/* The lists of a spec; borrowed. */
struct engine_wishes placement_wishes(const struct instance_spec *spec);
/* UNPLACEABLE names the label or feature that no node has. With `before`, only what was not asked for then is looked at: what
 * another took from the node meanwhile is no reason to refuse something else. */
int placement_possible(struct manager *manager, const struct instance *instance, const struct instance_spec *before,
                       struct error *error);
/* The engine is told what the node is: after settings or facts may have changed. -ENOMEM. */
int placement_tell(struct manager *manager, const struct node_settings *settings);
/* What the engine would be told (engine_set_place); allocated. */
int placement_traits(struct manager *manager, const struct node_settings *settings, char ***ret_traits, char ***ret_taints);
/* Why the node does not take one, as a sentence's part, and what would change that; allocated, or NULL. */
char *placement_reason(const struct manager *manager, const struct engine_refusal *refusal);
char *placement_change(const struct manager *manager, const struct engine_refusal *refusal);
/* The node as it is supposed to be. */
struct supposed_node {
    char **traits, **taints; /* as engine_set_place takes them */
    bool asked, gone;
};
/* NOT_FOUND: there is no such node to be without; BAD_VALUE. */
int supposed_node_make(struct manager *manager, const struct what_if *what_if, struct supposed_node *ret, struct error *error);
void supposed_node_done(struct supposed_node *node);
/* Member "placement": who could not start there, now and then; null where nothing of the node is supposed. On any thread, of an
 * engine that does not change. */
void supposed_node_emit(const struct manager *manager, const struct engine *engine, const struct supposed_node *node,
                        struct emitter *emitter);
/* Fiber. Until it is known what the host can do, or for a while. */
void manager_await_probe(struct manager *manager);
/* BAD_VALUE: it must be near others, which must be near others, ... which must be near it: none of them can be first. */
int affinity_check(struct manager *manager, const struct instance *instance, struct error *error);
void placements_done(struct placements *placements);
/* It was admitted: why here is kept, and written to the ledger. */
void placement_note(struct instance *instance);
/* The line of a placement (engine/placement-explain.h) that is still in memory; NULL. */
const char *placement_kept(const struct manager *manager, uint64_t number);
/* Member "placement": what was decided at its start; of one that waits, what is now; null where nothing is known. */
void placement_emit(struct instance *instance, struct emitter *emitter);
/* The same for something of this kind and size. */
void placement_emit_need(struct manager *manager, enum kind kind, uint64_t cpus, uint64_t memory, struct emitter *emitter);

/* --- giving way ------------------------------------------------------------------------------------------------ */
/* How its driver lets it give way: enum queue_yield. */
unsigned preempt_ways(const struct instance *instance);
/* What a pause, a way to disk or back took, from `begun` until now: the engine weighs by it who gives way, and how. */
void preempt_measured(struct instance *instance, enum engine_cost what, uint64_t begun);
/* The engine wants it to give way: a fiber sees to it. */
void preempt_start(struct instance *instance, enum engine_verdict how);
/* Somebody else decided about one that was paused for others. */
void preempt_forget(struct instance *instance);
/* It runs again, or is to be saved: the pause for others, if it was in one, was no work. True if it was. */
bool preempt_pause_ends(struct instance *instance);
/* An earlier polderd paused it for others and gave its room away: it goes on waiting for room. */
void preempt_take_up(struct instance *instance);

/* --- running (fibers; the instance's lock is held) --------------------------------------------------------------- */
/* From any resting state to running: queue, room, driver. Unlocks while it waits for room. After a failure the state
 * is failed, or what it was when the start was given up. */
int run_start(struct instance *instance, struct operation *operation, const struct driver_start *start,
              struct error *error);
/* The same for one that may be starting already: then waits for that. And on failure the wish is `before` again,
 * unless a newer one came or the restart policy tries anew. */
int run_start_wished(struct instance *instance, struct operation *operation, const struct driver_start *start,
                     enum power before, struct error *error);
int run_stop(struct instance *instance, uint64_t timeout_ms, struct error *error);
/* The same, and until what follows the end is done; the lock is given up while it waits. */
int run_stop_and_wait(struct instance *instance, uint64_t timeout_ms, struct error *error);
/* Waits, with the lock given up, until the end that the driver told of has been worked off; it may be starting again by
 * then, if others wished so. */
int run_wait_rest(struct instance *instance, uint64_t deadline);
int run_pause(struct instance *instance, struct error *error);
int run_resume(struct instance *instance, struct operation *operation, enum power before, struct error *error);
int run_suspend(struct instance *instance, struct error *error);
/* Does its driver do this? NOT_SUPPORTED. */
int run_require(const struct instance *instance, unsigned capability, const char *verb, struct error *error);
/* Is its memory whole on disk? With drop it is not any more. */
bool run_saved(struct instance *instance, bool drop);
/* Everything it holds on the host but its disk. Safe to repeat. */
int run_release(struct instance *instance, struct error *error);
void run_limits(struct instance *instance, struct cgroup_limits *ret);

/* --- ends ----------------------------------------------------------------------------------------------------------- */
/* The driver said it ended: runs on a fiber of its own. */
void run_ended(struct driver_instance *view, const struct driver_exit *ended);
/* What follows the end of an instance: record, release, removal or restart. Lock held. */
void run_after_end(struct instance *instance, const struct driver_exit *ended);
/* Starts the fibers that make up later for what could not be done at an end. */
int reaper_start(struct manager *manager);
/* What it holds on the host could not be released: that is tried again until it succeeds. */
void run_release_later(struct instance *instance);
void run_timer_cancel(struct instance *instance);
/* Counts its time limit from ran_since on. */
int run_arm_timeout(struct instance *instance);
/* If its policy wants that: a start after the pause of the back-off. */
void run_schedule_restart(struct instance *instance);
/* Record, disk and resources go; the instance is out of the registry when this returns. */
int run_purge(struct instance *instance, const struct actor *actor, struct error *error);
/* Finishes a wished delete of one that does not run: into the trash, or away. */
int instance_discard(struct instance *instance, const struct actor *actor, bool purge, struct error *error);

/* --- adopt ---------------------------------------------------------------------------------------------------- */
int adopt_all(struct manager *manager, struct error *error);
/* Fiber, lock held: one that could not be taken over is tried once more. UNRESPONSIVE: it, or the storage beneath it, still
 * does not answer. */
int adopt_reach(struct instance *instance, struct error *error);
/* Fiber, lock held: one that nobody sees to is tried once more. Whether that is over. */
bool adopt_attend(struct instance *instance);
/* Removes resources that no record owns; names what was found. */
int orphans_sweep(struct manager *manager, bool remove, char ***ret_found, struct error *error);
/* Fiber, deep fsck: files in the state and run directories that others on the host can get at, and that are not theirs to see. */
int fsck_modes(struct manager *manager, char ***problems, struct error *error);
/* Fiber, deep fsck: have the instances what their drivers keep of them, and is it sound? Disks of those that rest are looked into. */
int fsck_disks(struct manager *manager, char ***problems, struct error *error);
int sweeper_start(struct manager *manager);
