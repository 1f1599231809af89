// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "base/fiber.h"
#include "store/store.h"

/* Threads of the SQLite store:
 *
 *     loop's thread    calls in, watches, the ring of recent changes; waits as fibers
 *     writer           owns the one connection that writes; takes all waiting tasks as one group, one fsync
 *     reader           owns the read connection; WAL lets it go on while the writer waits for the disk
 *     keeper           lives while a copy is made: the last good copy, every KEEP_INTERVAL if something
 * changed
 *
 * A task lies on the stack of the fiber that waits for it. A thread hands finished tasks and changes to the
 * loop in one list (`finished`, `fresh`) and posts one wake-up; watches are told before the committers wake.
 */

#define STORE_RESERVE (4 * 1024 * 1024)
#define STORE_BUSY_MS 5000
#define STORE_CHECKPOINT_PAGES 1000
#define STORE_KEEP_INTERVAL (600 * CLOCK_SECOND)
#define STORE_RING_CHANGES 1024
#define STORE_RING_BYTES (1024 * 1024)

struct task {
    struct task *next;
    int (*run)(struct store *store, struct task *task); /* reader; NULL for the writer's */
    int result;
    struct error error;
    bool done;
    bool blocking; /* its caller is no fiber: it waits on the thread's condition */
    struct fiber_queue waiters;
};

enum write_type {
    WRITE_COMMIT,
    WRITE_GRANT,
    WRITE_REVOKE,
};

struct change {
    struct change *next;
    struct store_item item; /* value NULL: deleted */
};

struct changes {
    struct change *first;
    struct change *last;
};

struct write_task {
    struct task task;
    enum write_type type;
    const struct store_operation *operations;
    size_t count;
    bool urgent;
    uint64_t lease;
    uint64_t ttl;
    uint64_t revision; /* out */
    struct changes changes;
};

/* A thread with a queue. */
struct worker {
    pthread_t thread;
    bool started;
    bool stopping;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_cond_t finished; /* for blocking callers */
    struct task *first;
    struct task *last;
};

struct lease {
    uint64_t id;
    uint64_t ttl;
    uint64_t expires;
};

struct watch {
    struct watch *next;
    uint64_t id;
    char *prefix;
    uint64_t seen; /* revision of the last change delivered */
    bool dead;
    struct store_callbacks callbacks;
    void *userdata;
};

struct statements {
    sqlite3_stmt *get;
    sqlite3_stmt *put;
    sqlite3_stmt *delete;
    sqlite3_stmt *set_revision;
    sqlite3_stmt *leased;
    sqlite3_stmt *lease_put;
    sqlite3_stmt *lease_delete;
    sqlite3_stmt *lease_get;
};

struct store {
    atomic_uint references; /* the owner and each wake-up under way */
    bool closed;
    char *path;
    int lock_fd;
    atomic_uint_fast64_t revision; /* committed */

    struct worker writer;
    struct worker reader;

    /* writer's thread alone */
    sqlite3 *write_db;
    struct statements statements;
    uint64_t next_revision; /* of the group at hand */
    bool has_reserve;
    bool reserve_used; /* people were told so */
    uint64_t wal_pages;
    uint64_t keep_at;
    uint64_t kept_revision;
    pthread_t keeper;
    bool keeper_started;

    /* reader's thread alone */
    sqlite3 *read_db;
    sqlite3_stmt *read_get; /* prepared at the first use */

    /* under `lock` */
    pthread_mutex_t lock;
    struct task *finished;
    struct changes fresh;
    bool wake_posted;
    struct lease *leases;
    size_t lease_count;
    struct store_statistics statistics;

    /* loop's thread alone */
    struct watch *watches;
    uint64_t next_watch;
    bool pumping;
    struct changes ring;
    size_t ring_count;
    size_t ring_bytes;
    uint64_t ring_floor; /* revision of the last change that is not in the ring any more */
};

/* sqlite.c */
void store_ref(struct store *store);
void store_unref(struct store *store);
/* Hands tasks (a list, in order) and changes over; any thread. */
void store_finish(struct store *store, struct worker *worker, struct task *tasks, struct changes changes);
/* Queues and waits. Returns the task's result; its error is moved to `error`. */
int store_run(struct store *store, struct worker *worker, struct task *task, struct error *error);
void change_free(struct change *change);
void changes_free(struct changes *changes);
void changes_join(struct changes *target, struct changes *source); /* source is empty after it */

/* Renews the last good copy; any thread. */
int store_keep_copy(struct store *store, struct error *error);

/* database.c */
int database_open(const char *path, bool write, sqlite3 **ret, struct error *error);
void database_close(sqlite3 *db);
/* Turns an SQLite result into negative errno and an error; exits with status 70 if an fsync failed. */
int database_error(sqlite3 *db, int code, const char *path, struct error *error);
bool database_is_full(sqlite3 *db, int code);
/* Out of a transaction that could not be ended when it failed, for want of memory: nothing of it may stay. An SQLite
 * code: with anything but SQLITE_OK it is still there. */
int database_rest(sqlite3 *db);
int database_exec(sqlite3 *db, const char *sql, const char *path, struct error *error);
int database_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret, struct error *error);
int database_number(sqlite3 *db, const char *sql, int64_t *ret);
/* A consistent copy, 0600, made aside, synced and renamed. */
int database_copy(sqlite3 *db, const char *path, const char *target, struct error *error);
static inline void statement_done(sqlite3_stmt **statement) {
    sqlite3_finalize(*statement);
}

/* schema.c */
/* Brings the open database to version `count`; steps[i] is the SQL from version i to i + 1. */
int schema_prepare(sqlite3 *db, const char *path, const char *const *steps, int count, struct error *error);
extern const char *const schema_steps[];
/* To the newest version that this program knows. In builds with fail points, POLDER_SCHEMA_STEP is the SQL of one more:
 * how a running daemon's store goes to a schema to come is tried by it. */
int schema_bring(sqlite3 *db, const char *path, struct error *error);
/* First problem that PRAGMA `pragma` (quick_check, integrity_check) names, allocated; NULL if there is none.
 */
int schema_check(sqlite3 *db, const char *pragma, const char *path, char **ret_problem, struct error *error);

/* writer.c */
int writer_prepare(struct store *store, struct error *error);
void *writer_main(void *userdata);
void writer_done(struct store *store);

/* reader.c */
void *reader_main(void *userdata);

/* reserve.c */
int reserve_make(struct store *store);
void reserve_release(struct store *store);

/* watch.c */
/* On the loop: takes the changes into the ring and tells the watches. */
void watch_publish(struct store *store, struct changes *changes);
void watch_done(struct store *store);
