// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/failpoint.h"
#include "base/log.h"
#include "base/text.h"
#include "store/internal.h"

/* The writer's thread. It takes every task that waits as one group:
 *
 *     BEGIN IMMEDIATE
 *       for each task: SAVEPOINT, checks, changes; a task that fails rolls back to its savepoint, the rest
 * goes on COMMIT                 one fsync for all answer; then checkpoint if the log is long, make the good
 * copy if it is due
 *
 * If the commit finds no space, the tasks are tried one by one, so that a large one does not fail the small;
 * what is urgent may then use the reserve. */

/* How a task ended before its group was committed. */
enum verdict {
    VERDICT_CHANGED,
    VERDICT_SAME, /* nothing to write: checks only, or what was deleted is absent */
    VERDICT_FAILED,
    VERDICT_BROKEN, /* not even undone: nothing of the transaction may stay */
};

int writer_prepare(struct store *store, struct error *error) {
    const struct {
        sqlite3_stmt **statement;
        const char *sql;
    } rows[] = {
        { &store->statements.get, "SELECT revision FROM item WHERE key = ?1" },
        { &store->statements.put,
          "INSERT INTO item (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO "
          "UPDATE SET"
          " value = excluded.value, revision = excluded.revision, lease = excluded.lease" },
        { &store->statements.delete, "DELETE FROM item WHERE key = ?1" },
        { &store->statements.set_revision, "UPDATE counter SET value = ?1 WHERE name = 'revision'" },
        { &store->statements.leased, "SELECT key FROM item WHERE lease = ?1 AND lease <> 0" },
        { &store->statements.lease_put, "INSERT INTO lease (id, ttl) VALUES (?1, ?2)" },
        { &store->statements.lease_delete, "DELETE FROM lease WHERE id = ?1" },
        { &store->statements.lease_get, "SELECT ttl FROM lease WHERE id = ?1" },
    };
    int64_t revision;

    for (size_t i = 0; i < ELEMENTS(rows); i++) {
        int r = database_prepare(store->write_db, rows[i].sql, rows[i].statement, error);

        if (r < 0)
            return r;
    }
    if (database_number(store->write_db, "SELECT value FROM counter WHERE name = 'revision'", &revision) < 0)
        return database_error(store->write_db, sqlite3_errcode(store->write_db), store->path, error);
    atomic_store(&store->revision, (uint64_t) revision);
    store->ring_floor = (uint64_t) revision;
    store->keep_at = deadline_in(60 * CLOCK_SECOND);
    return 0;
}

void writer_done(struct store *store) {
    struct statements *statements = &store->statements;

    sqlite3_finalize(statements->get);
    sqlite3_finalize(statements->put);
    sqlite3_finalize(statements->delete);
    sqlite3_finalize(statements->set_revision);
    sqlite3_finalize(statements->leased);
    sqlite3_finalize(statements->lease_put);
    sqlite3_finalize(statements->lease_delete);
    sqlite3_finalize(statements->lease_get);
    database_close(store->write_db);
    store->write_db = NULL;
}

/* Runs a statement whose parameters are bound, and makes it ready for the next time. Returns SQLITE_ROW or
 * SQLITE_DONE, or the error; *ret_number gets the first column of a row. */
static int run(sqlite3_stmt *statement, int64_t *ret_number) {
    int code = sqlite3_step(statement);

    if (code == SQLITE_ROW && ret_number)
        *ret_number = sqlite3_column_int64(statement, 0);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return code;
}

static int write_error(struct store *store, int code, struct error *error) {
    return database_error(store->write_db, code, store->path, error);
}

static int note_change(struct write_task *write, const char *key, const void *value, size_t size,
                       uint64_t revision) {
    struct change *change = calloc(1, sizeof(*change));
    struct changes one = { change, change };

    if (!change)
        return -ENOMEM;
    change->item.key = strdup(key);
    change->item.revision = revision;
    if (value) {
        change->item.value = malloc(size + 1);
        if (change->item.value) {
            memcpy(change->item.value, value, size);
            change->item.value[size] = '\0';
            change->item.size = size;
        }
    }
    if (!change->item.key || (value && !change->item.value)) {
        change_free(change);
        return -ENOMEM;
    }
    changes_join(&write->changes, &one);
    return 0;
}

static int apply_check(struct store *store, const struct store_operation *operation, struct error *error) {
    sqlite3_stmt *get = store->statements.get;
    int64_t revision = 0;
    int code;

    sqlite3_bind_text(get, 1, operation->key, -1, SQLITE_STATIC);
    code = run(get, &revision);
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        return write_error(store, code, error);
    return (uint64_t) revision == operation->revision ? 0 : -ESTALE;
}

static int check_lease(struct store *store, uint64_t lease, struct error *error) {
    char text[24];
    int code;

    if (lease == 0)
        return 0;
    sqlite3_bind_int64(store->statements.lease_get, 1, (int64_t) lease);
    code = run(store->statements.lease_get, NULL);
    if (code == SQLITE_ROW)
        return 0;
    if (code != SQLITE_DONE)
        return write_error(store, code, error);
    snprintf(text, sizeof(text), "%" PRIu64, lease);
    return error_set(error, ERROR_NOT_FOUND, "lease", text);
}

static int apply_put(struct store *store, struct write_task *write, const struct store_operation *operation) {
    struct error *error = &write->task.error;
    sqlite3_stmt *put = store->statements.put;
    int code;
    int r = check_lease(store, operation->lease, error);

    if (r < 0)
        return r;
    sqlite3_bind_text(put, 1, operation->key, -1, SQLITE_STATIC);
    sqlite3_bind_blob64(put, 2, operation->size ? operation->value : "", operation->size, SQLITE_STATIC);
    sqlite3_bind_int64(put, 3, (int64_t) store->next_revision);
    sqlite3_bind_int64(put, 4, (int64_t) operation->lease);
    code = run(put, NULL);
    if (code != SQLITE_DONE)
        return write_error(store, code, error);
    if (note_change(write, operation->key, operation->value, operation->size, store->next_revision) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    return 0;
}

static int apply_delete(struct store *store, struct write_task *write, const char *key) {
    struct error *error = &write->task.error;
    int code;

    sqlite3_bind_text(store->statements.delete, 1, key, -1, SQLITE_STATIC);
    code = run(store->statements.delete, NULL);
    if (code != SQLITE_DONE)
        return write_error(store, code, error);
    if (sqlite3_changes(store->write_db) == 0)
        return 0;
    if (note_change(write, key, NULL, 0, store->next_revision) < 0)
        return error_set(error, ERROR_NO_MEMORY);
    return 0;
}

static int apply_commit(struct store *store, struct write_task *write) {
    int r = 0;

    for (size_t i = 0; r == 0 && i < write->count; i++)
        if (write->operations[i].type == STORE_CHECK)
            r = apply_check(store, &write->operations[i], &write->task.error);
    for (size_t i = 0; r == 0 && i < write->count; i++) {
        if (write->operations[i].type == STORE_PUT)
            r = apply_put(store, write, &write->operations[i]);
        else if (write->operations[i].type == STORE_DELETE)
            r = apply_delete(store, write, write->operations[i].key);
    }
    return r;
}

static int apply_grant(struct store *store, struct write_task *write) {
    int code;

    sqlite3_bind_int64(store->statements.lease_put, 1, (int64_t) write->lease);
    sqlite3_bind_int64(store->statements.lease_put, 2, (int64_t) write->ttl);
    code = run(store->statements.lease_put, NULL);
    return code == SQLITE_DONE ? 0 : write_error(store, code, &write->task.error);
}

/* The keys of a lease, before they are deleted: a statement must not walk what is changed under it. */
static int leased_keys(struct store *store, uint64_t lease, char ***ret, struct error *error) {
    sqlite3_stmt *leased = store->statements.leased;
    _cleanup_list_ char **keys = NULL;
    int code;
    int r = 0;

    sqlite3_bind_int64(leased, 1, (int64_t) lease);
    while (r == 0 && (code = sqlite3_step(leased)) == SQLITE_ROW)
        r = list_add(&keys, (const char *) sqlite3_column_text(leased, 0));
    sqlite3_reset(leased);
    if (r < 0)
        return error_set(error, ERROR_NO_MEMORY);
    if (code != SQLITE_DONE)
        return write_error(store, code, error);
    *ret = STEAL_PTR(keys);
    return 0;
}

static int apply_revoke(struct store *store, struct write_task *write) {
    _cleanup_list_ char **keys = NULL;
    int code;
    int r;

    sqlite3_bind_int64(store->statements.lease_delete, 1, (int64_t) write->lease);
    code = run(store->statements.lease_delete, NULL);
    if (code != SQLITE_DONE)
        return write_error(store, code, &write->task.error);
    if (sqlite3_changes(store->write_db) == 0)
        return -ENOENT;
    r = leased_keys(store, write->lease, &keys, &write->task.error);
    for (size_t i = 0; r == 0 && keys && keys[i]; i++)
        r = apply_delete(store, write, keys[i]);
    return r;
}

/* One task inside its savepoint. */
static enum verdict apply(struct store *store, struct write_task *write) {
    int (*const functions[])(struct store *, struct write_task *) = {
        [WRITE_COMMIT] = apply_commit,
        [WRITE_GRANT] = apply_grant,
        [WRITE_REVOKE] = apply_revoke,
    };
    int code;

    code = sqlite3_exec(store->write_db, "SAVEPOINT task", NULL, NULL, NULL);
    if (code == SQLITE_OK)
        write->task.result = functions[write->type](store, write);
    else
        write->task.result = write_error(store, code, &write->task.error);
    write->revision = store->next_revision - 1;
    if (write->task.result < 0) {
        changes_free(&write->changes);
        code = sqlite3_exec(store->write_db, "ROLLBACK TO task; RELEASE task", NULL, NULL, NULL);
        return code == SQLITE_OK ? VERDICT_FAILED : VERDICT_BROKEN;
    }
    if (sqlite3_exec(store->write_db, "RELEASE task", NULL, NULL, NULL) != SQLITE_OK)
        return VERDICT_BROKEN;
    if (write->changes.first)
        write->revision = store->next_revision++;
    return write->changes.first || write->type != WRITE_COMMIT ? VERDICT_CHANGED : VERDICT_SAME;
}

static int finish_transaction(struct store *store, bool changed) {
    int code;

    if (!changed)
        return sqlite3_exec(store->write_db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_bind_int64(store->statements.set_revision, 1, (int64_t) store->next_revision - 1);
    code = run(store->statements.set_revision, NULL);
    if (code != SQLITE_DONE)
        return code;
    FAILPOINT("store-before-commit");
    code = sqlite3_exec(store->write_db, "COMMIT", NULL, NULL, NULL);
    if (code == SQLITE_OK)
        FAILPOINT("store-after-commit");
    return code;
}

static void note_commit(struct store *store, uint64_t duration, uint64_t transactions) {
    pthread_mutex_lock(&store->lock);
    store->statistics.commits++;
    store->statistics.transactions += transactions;
    store->statistics.fsync_us_last = duration;
    if (duration > store->statistics.fsync_us_max)
        store->statistics.fsync_us_max = duration;
    pthread_mutex_unlock(&store->lock);
}

/* Makes the tasks' outcome what the failed transaction left: nothing. */
static void undo(struct store *store, struct task *tasks) {
    sqlite3_exec(store->write_db, "ROLLBACK", NULL, NULL, NULL);
    for (struct task *task = tasks; task; task = task->next) {
        struct write_task *write = CONTAINER_OF(task, struct write_task, task);

        changes_free(&write->changes);
        error_clear(&task->error);
        task->result = 0;
    }
}

/* One transaction for all tasks of the list. Returns an SQLite code; anything but SQLITE_OK left nothing
 * behind. */
static int attempt(struct store *store, struct task *tasks) {
    uint64_t started = clock_now();
    uint64_t transactions = 0;
    bool changed = false;
    int code;

    store->next_revision = atomic_load(&store->revision) + 1;
    code = database_rest(store->write_db);
    if (code == SQLITE_OK)
        code = sqlite3_exec(store->write_db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (code != SQLITE_OK)
        return code;
    for (struct task *task = tasks; task; task = task->next) {
        enum verdict verdict = apply(store, CONTAINER_OF(task, struct write_task, task));

        /* Some errors end the whole transaction, not just the savepoint. */
        if (sqlite3_get_autocommit(store->write_db))
            code = SQLITE_FULL;
        else if (verdict == VERDICT_FAILED && task->error.code == ERROR_NO_SPACE)
            code = SQLITE_FULL;
        else if (verdict == VERDICT_BROKEN)
            code = SQLITE_NOMEM;
        if (code != SQLITE_OK)
            break;
        changed |= verdict == VERDICT_CHANGED;
        transactions++;
    }
    if (code == SQLITE_OK)
        code = finish_transaction(store, changed);
    if (code != SQLITE_OK) {
        if (!database_is_full(store->write_db, code))
            write_error(store, code, NULL); /* ends the process if it was an fsync */
        undo(store, tasks);
        return code;
    }
    if (changed) {
        atomic_store(&store->revision, store->next_revision - 1);
        note_commit(store, clock_now() - started, transactions);
    }
    return SQLITE_OK;
}

static void fail_all(struct store *store, struct task *tasks, int code) {
    for (struct task *task = tasks; task; task = task->next)
        if (database_is_full(store->write_db, code))
            task->result = error_set(&task->error, ERROR_NO_SPACE, "saving a change");
        else
            task->result = database_error(NULL, code, store->path, &task->error);
}

static bool may_use_reserve(const struct write_task *write) {
    if (write->urgent || write->type == WRITE_REVOKE)
        return true;
    for (size_t i = 0; i < write->count; i++)
        if (write->operations[i].type == STORE_PUT)
            return false;
    return write->type == WRITE_COMMIT;
}

/* A task by itself, on a disk that is full or was. */
static void write_alone(struct store *store, struct task *task) {
    struct write_task *write = CONTAINER_OF(task, struct write_task, task);
    bool urgent = may_use_reserve(write);
    int code;

    if (!urgent && !store->has_reserve && reserve_make(store) < 0) {
        task->result = error_set(&task->error, ERROR_NO_SPACE, "saving a change");
        return;
    }
    code = attempt(store, task);
    if (code != SQLITE_OK && database_is_full(store->write_db, code) && urgent && store->has_reserve) {
        reserve_release(store);
        code = attempt(store, task);
    }
    if (code != SQLITE_OK)
        fail_all(store, task, code);
}

static void write_group(struct store *store, struct task *tasks) {
    int code = SQLITE_FULL;

    if (store->has_reserve || reserve_make(store) == 0) {
        code = attempt(store, tasks);
        if (code == SQLITE_OK)
            return;
        if (!database_is_full(store->write_db, code)) {
            fail_all(store, tasks, code);
            return;
        }
    }
    for (struct task *task = tasks; task; task = task->next) {
        struct task *rest = task->next;

        task->next = NULL;
        write_alone(store, task);
        task->next = rest;
    }
}

/* Leases are kept in memory beside their rows: renewing one must not wait for the disk. */
static void lease_remember(struct store *store, const struct write_task *write) {
    struct lease *leases;

    pthread_mutex_lock(&store->lock);
    leases = reallocarray(store->leases, store->lease_count + 1, sizeof(*leases));
    if (leases) {
        store->leases = leases;
        leases[store->lease_count++] =
            (struct lease){ .id = write->lease, .ttl = write->ttl, .expires = deadline_in(write->ttl) };
    }
    pthread_mutex_unlock(&store->lock);
}

static void lease_forget(struct store *store, uint64_t id) {
    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < store->lease_count; i++)
        if (store->leases[i].id == id) {
            store->leases[i] = store->leases[--store->lease_count];
            break;
        }
    pthread_mutex_unlock(&store->lock);
}

/* A lease that is over, or 0; *ret_next gets when the next one will be. */
static uint64_t lease_expired(struct store *store, uint64_t *ret_next) {
    uint64_t now = clock_now();
    uint64_t id = 0;

    *ret_next = DEADLINE_NONE;
    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < store->lease_count && id == 0; i++) {
        if (store->leases[i].expires <= now)
            id = store->leases[i].id;
        else if (store->leases[i].expires < *ret_next)
            *ret_next = store->leases[i].expires;
    }
    pthread_mutex_unlock(&store->lock);
    return id;
}

static struct changes gather(struct store *store, struct task *tasks) {
    struct changes all = { 0 };

    for (struct task *task = tasks; task; task = task->next) {
        struct write_task *write = CONTAINER_OF(task, struct write_task, task);

        changes_join(&all, &write->changes);
        if (write->type == WRITE_GRANT && task->result == 0)
            lease_remember(store, write);
        if (write->type == WRITE_REVOKE && (task->result == 0 || task->result == -ENOENT))
            lease_forget(store, write->lease);
    }
    return all;
}

static void expire_leases(struct store *store, uint64_t *ret_next) {
    uint64_t id;

    while ((id = lease_expired(store, ret_next)) != 0) {
        struct write_task write = { .type = WRITE_REVOKE, .lease = id };

        write_group(store, &write.task);
        store_finish(store, &store->writer, NULL, gather(store, &write.task));
        error_clear(&write.task.error);
        if (write.task.result < 0 && write.task.result != -ENOENT) {
            *ret_next = deadline_in(CLOCK_SECOND);
            return;
        }
    }
}

static void checkpoint(struct store *store) {
    int pages = 0;
    int moved = 0;
    int code = sqlite3_wal_checkpoint_v2(store->write_db, NULL, SQLITE_CHECKPOINT_PASSIVE, &pages, &moved);

    if (code != SQLITE_OK && code != SQLITE_BUSY && !database_is_full(store->write_db, code)) {
        _cleanup_error_ struct error error = ERROR_INIT;
        _cleanup_free_ char *sentence = NULL;

        write_error(store, code, &error);
        sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        log_warning("checkpoint of %s: %s", store->path, sentence ? sentence : "failed");
    }
    store->wal_pages = 0;
}

static int on_wal(void *userdata, sqlite3 *db, const char *name, int pages) {
    struct store *store = userdata;

    store->wal_pages = (uint64_t) pages;
    return SQLITE_OK;
}

static void *keeper_main(void *userdata) {
    struct store *store = userdata;
    _cleanup_error_ struct error error = ERROR_INIT;

    if (store_keep_copy(store, &error) < 0) {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);

        log_warning("the last good copy of the store was not renewed: %s", sentence ? sentence : "");
    }
    return NULL;
}

static void keep_if_due(struct store *store) {
    uint64_t revision = atomic_load(&store->revision);

    if (clock_now() < store->keep_at)
        return;
    store->keep_at = deadline_in(STORE_KEEP_INTERVAL);
    if (store->keeper_started) {
        pthread_join(store->keeper, NULL);
        store->keeper_started = false;
    }
    if (revision == store->kept_revision)
        return;
    store->keeper_started = pthread_create(&store->keeper, NULL, keeper_main, store) == 0;
    if (store->keeper_started)
        store->kept_revision = revision;
}

/* Waits until there are tasks, it is to stop, or `until`. The condition runs on the monotonic clock, which
 * stands still while the host sleeps: a lease may then end later than it should, never earlier. */
static struct task *take_tasks(struct worker *worker, uint64_t until, bool *ret_stopping) {
    struct task *tasks;
    uint64_t now = clock_now();
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    if (until > now) {
        uint64_t wait = until - now < 3600 * CLOCK_SECOND ? until - now : 3600 * CLOCK_SECOND;

        time.tv_sec += (time_t) (wait / CLOCK_SECOND);
        time.tv_nsec += (long) (wait % CLOCK_SECOND * 1000);
        if (time.tv_nsec >= 1000000000) {
            time.tv_sec++;
            time.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&worker->lock);
    while (!worker->first && !worker->stopping)
        if (pthread_cond_timedwait(&worker->wake, &worker->lock, &time) == ETIMEDOUT)
            break;
    tasks = worker->first;
    worker->first = worker->last = NULL;
    *ret_stopping = worker->stopping;
    pthread_mutex_unlock(&worker->lock);
    return tasks;
}

void *writer_main(void *userdata) {
    struct store *store = userdata;
    uint64_t next = 0;
    bool stopping = false;

    sqlite3_wal_hook(store->write_db, on_wal, store);
    for (;;) {
        struct task *tasks =
            take_tasks(&store->writer, next < store->keep_at ? next : store->keep_at, &stopping);

        if (tasks) {
            write_group(store, tasks);
            store_finish(store, &store->writer, tasks, gather(store, tasks));
        } else if (stopping) {
            break;
        }
        expire_leases(store, &next);
        if (store->wal_pages >= STORE_CHECKPOINT_PAGES)
            checkpoint(store);
        keep_if_due(store);
    }
    if (store->keeper_started)
        pthread_join(store->keeper, NULL);
    return NULL;
}
