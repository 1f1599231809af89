// SPDX-License-Identifier: GPL-2.0-or-later
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/uuid.h"
#include "store/fault.h"
#include "store/internal.h"

/* Opening and closing, the way of a task from a fiber to a thread and back, and the calls that the writer
 * serves. internal.h draws the threads. */

void store_item_done(struct store_item *item) {
    free(item->key);
    free(item->value);
    *item = (struct store_item){ 0 };
}

void store_items_done(struct store_items *items) {
    for (size_t i = 0; i < items->count; i++)
        store_item_done(&items->items[i]);
    free(items->items);
    *items = (struct store_items){ 0 };
}

void change_free(struct change *change) {
    store_item_done(&change->item);
    free(change);
}

void changes_free(struct changes *changes) {
    while (changes->first) {
        struct change *change = changes->first;

        changes->first = change->next;
        change_free(change);
    }
    changes->last = NULL;
}

void changes_join(struct changes *target, struct changes *source) {
    if (!source->first)
        return;
    if (target->last)
        target->last->next = source->first;
    else
        target->first = source->first;
    target->last = source->last;
    *source = (struct changes){ 0 };
}

void store_ref(struct store *store) {
    atomic_fetch_add(&store->references, 1);
}

static void worker_done(struct worker *worker) {
    pthread_mutex_destroy(&worker->lock);
    pthread_cond_destroy(&worker->wake);
    pthread_cond_destroy(&worker->finished);
}

void store_unref(struct store *store) {
    if (atomic_fetch_sub(&store->references, 1) > 1)
        return;
    watch_done(store);
    changes_free(&store->fresh);
    worker_done(&store->writer);
    worker_done(&store->reader);
    pthread_mutex_destroy(&store->lock);
    free(store->leases);
    free(store->path);
    free(store);
}

/* On the loop: what the threads have finished. Watches first, so that a committer finds them told. */
static void drain(struct store *store) {
    struct changes fresh;
    struct task *task;

    pthread_mutex_lock(&store->lock);
    task = STEAL_PTR(store->finished);
    fresh = store->fresh;
    store->fresh = (struct changes){ 0 };
    store->wake_posted = false;
    pthread_mutex_unlock(&store->lock);
    watch_publish(store, &fresh);
    while (task) {
        struct task *next = task->next; /* the task is gone once its fiber runs */

        task->done = true;
        fiber_queue_wake_all(&task->waiters);
        task = next;
    }
}

static void on_wake(void *userdata) {
    struct store *store = userdata;

    if (!store->closed)
        drain(store);
    store_unref(store);
}

/* Those of blocking callers are answered here; the others go to the loop. */
static struct task *finish_blocking(struct worker *worker, struct task *tasks) {
    struct task *others = NULL;
    struct task **link = &others;

    pthread_mutex_lock(&worker->lock);
    while (tasks) {
        struct task *next = tasks->next;

        tasks->next = NULL;
        if (tasks->blocking) {
            tasks->done = true;
        } else {
            *link = tasks;
            link = &tasks->next;
        }
        tasks = next;
    }
    pthread_cond_broadcast(&worker->finished);
    pthread_mutex_unlock(&worker->lock);
    return others;
}

void store_finish(struct store *store, struct worker *worker, struct task *tasks, struct changes changes) {
    struct task *others;
    struct task **link;
    bool post;

    /* The changes first: whoever a finished task wakes may look for them. */
    pthread_mutex_lock(&store->lock);
    changes_join(&store->fresh, &changes);
    pthread_mutex_unlock(&store->lock);
    others = finish_blocking(worker, tasks);
    pthread_mutex_lock(&store->lock);
    link = &store->finished;
    while (*link)
        link = &(*link)->next;
    *link = others;
    post = !store->wake_posted && (store->finished || store->fresh.first);
    store->wake_posted |= post;
    pthread_mutex_unlock(&store->lock);
    if (!post)
        return;
    store_ref(store);
    while (loop_post(on_wake, store) < 0)
        usleep(1000); /* out of memory: a committer waits for this, so there is nothing better to do */
}

static void enqueue(struct worker *worker, struct task *task) {
    task->next = NULL;
    if (worker->last)
        worker->last->next = task;
    else
        worker->first = task;
    worker->last = task;
    pthread_cond_signal(&worker->wake);
}

int store_run(struct store *store, struct worker *worker, struct task *task, struct error *error) {
    task->blocking = !fiber_current();
    pthread_mutex_lock(&worker->lock);
    enqueue(worker, task);
    while (task->blocking && !task->done)
        pthread_cond_wait(&worker->finished, &worker->lock);
    pthread_mutex_unlock(&worker->lock);
    if (!task->blocking) {
        /* The task lies on this stack and the thread holds it: no cancel may unwind it. */
        fiber_shield();
        while (!task->done)
            (void) fiber_queue_wait(&task->waiters, DEADLINE_NONE);
        fiber_unshield();
    }
    if (error && !error_is_set(error))
        error_move(error, &task->error);
    else
        error_clear(&task->error);
    return task->result;
}

static bool key_is_valid(const char *key) {
    size_t length = key ? strnlen(key, STORE_KEY_MAX + 1) : 0;

    return length > 0 && length <= STORE_KEY_MAX && key[0] == '/' && text_is_plain(key);
}

static int check_operation(const struct store_operation *operation, size_t *total, struct error *error) {
    if (!key_is_valid(operation->key))
        return error_set(error, ERROR_INTERNAL, "the store", "a key is no path");
    *total += strlen(operation->key);
    if (operation->type != STORE_PUT)
        return 0;
    if (!operation->value || operation->size > STORE_VALUE_MAX)
        return error_set(error, ERROR_TOO_LARGE, "a value in the store", "512 KiB");
    *total += operation->size;
    return 0;
}

static int check_transaction(const struct store_operation *operations, size_t count, struct error *error) {
    size_t total = 0;

    if (count > STORE_OPERATIONS_MAX)
        return error_set(error, ERROR_TOO_LARGE, "a transaction", "128 operations");
    for (size_t i = 0; i < count; i++) {
        int r = check_operation(&operations[i], &total, error);

        if (r < 0)
            return r;
        for (size_t j = 0; j < i && operations[i].type != STORE_CHECK; j++)
            if (operations[j].type != STORE_CHECK && strcmp(operations[i].key, operations[j].key) == 0)
                return error_set(error, ERROR_INTERNAL, "the store",
                                 "a key is changed twice in a transaction");
    }
    if (total > STORE_TRANSACTION_MAX)
        return error_set(error, ERROR_TOO_LARGE, "a transaction", "1 MiB");
    return 0;
}

static int commit(struct store *store, const struct store_operation *operations, size_t count, bool urgent,
                  uint64_t *ret_revision, struct error *error) {
    struct write_task write = {
        .type = WRITE_COMMIT, .operations = operations, .count = count, .urgent = urgent
    };
    int r = check_transaction(operations, count, error);

    if (r == 0)
        r = store_run(store, &store->writer, &write.task, error);
    if (r == 0 && ret_revision)
        *ret_revision = write.revision;
    return r;
}

int store_commit(struct store *store, const struct store_operation *operations, size_t count,
                 uint64_t *ret_revision, struct error *error) {
    return commit(store, operations, count, false, ret_revision, error);
}

int store_commit_urgent(struct store *store, const struct store_operation *operations, size_t count,
                        uint64_t *ret_revision, struct error *error) {
    return commit(store, operations, count, true, ret_revision, error);
}

int store_lease_grant(struct store *store, uint64_t ttl, uint64_t *ret_lease, struct error *error) {
    struct write_task write = { .type = WRITE_GRANT, .ttl = ttl };
    int r;

    if (ttl == 0 || ttl > INT64_MAX)
        return error_set(error, ERROR_INTERNAL, "the store", "a lease has no such duration");
    random_bytes(&write.lease, sizeof(write.lease));
    write.lease = (write.lease >> 1) | 1; /* positive as SQLite sees it, and never 0 */
    r = store_run(store, &store->writer, &write.task, error);
    if (r == 0)
        *ret_lease = write.lease;
    return r;
}

int store_lease_renew(struct store *store, uint64_t lease) {
    int r = -ENOENT;

    pthread_mutex_lock(&store->lock);
    for (size_t i = 0; i < store->lease_count; i++)
        if (store->leases[i].id == lease) {
            store->leases[i].expires = deadline_in(store->leases[i].ttl);
            r = 0;
        }
    pthread_mutex_unlock(&store->lock);
    return r;
}

int store_lease_revoke(struct store *store, uint64_t lease, struct error *error) {
    struct write_task write = { .type = WRITE_REVOKE, .lease = lease };

    return store_run(store, &store->writer, &write.task, error);
}

uint64_t store_revision(struct store *store) {
    return atomic_load(&store->revision);
}

void store_statistics(struct store *store, struct store_statistics *ret) {
    _cleanup_free_ char *wal = text_format("%s-wal", store->path);
    uint64_t size;

    pthread_mutex_lock(&store->lock);
    *ret = store->statistics;
    pthread_mutex_unlock(&store->lock);
    ret->size = 0;
    if (file_size(AT_FDCWD, store->path, &size) == 0)
        ret->size += size;
    if (wal && file_size(AT_FDCWD, wal, &size) == 0)
        ret->size += size;
}

/* A job with a connection of its own, so that neither reads nor commits wait for it. */
struct copy_job {
    struct store *store;
    const char *target; /* NULL: check instead */
    char *problem;
    struct error *error;
};

static int run_copy_job(void *userdata) {
    struct copy_job *job = userdata;
    sqlite3 *db = NULL;
    int r = database_open(job->store->path, false, &db, job->error);

    if (r < 0)
        return r;
    if (job->target)
        r = database_copy(db, job->store->path, job->target, job->error);
    else
        r = schema_check(db, "integrity_check", job->store->path, &job->problem, job->error);
    database_close(db);
    return r;
}

int store_check(struct store *store, char **ret_problem, struct error *error) {
    struct copy_job job = { .store = store, .error = error };
    int r = fiber_job(run_copy_job, &job);

    if (r == 0)
        *ret_problem = job.problem;
    return r;
}

int store_copy(struct store *store, const char *path, struct error *error) {
    struct copy_job job = { .store = store, .target = path, .error = error };

    return fiber_job(run_copy_job, &job);
}

int store_keep_copy(struct store *store, struct error *error) {
    _cleanup_free_ char *good = text_format("%s.good", store->path);
    struct copy_job job = { .store = store, .target = good, .error = error };

    if (!good)
        return error_set(error, ERROR_NO_MEMORY);
    return run_copy_job(&job);
}

int store_keep(struct store *store, struct error *error) {
    _cleanup_free_ char *good = text_format("%s.good", store->path);

    if (!good)
        return error_set(error, ERROR_NO_MEMORY);
    return store_copy(store, good, error);
}

/* The lock is on a file of its own, and its descriptor stays open: the kernel drops it with the process. */
static int lock_take(struct store *store, struct error *error) {
    _cleanup_free_ char *path = text_format("%s.lock", store->path);
    char pid[24];

    if (!path)
        return error_set(error, ERROR_NO_MEMORY);
    store->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (store->lock_fd < 0)
        return error_errno(error, -errno, "opening %s", path);
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        _cleanup_free_ char *owner = NULL;
        _cleanup_free_ char *reason = NULL;

        if (errno != EWOULDBLOCK)
            return error_errno(error, -errno, "locking %s", path);
        if (file_read(AT_FDCWD, path, 32, &owner, NULL) == 0)
            owner[strcspn(owner, "\n")] = '\0';
        reason =
            text_format("another polderd uses it (process %s)", text_is_empty(owner) ? "unknown" : owner);
        return error_set(error, ERROR_BUSY, store->path, reason);
    }
    snprintf(pid, sizeof(pid), "%d\n", (int) getpid());
    /* For people only; without room for it the lock holds as well. */
    if (ftruncate(store->lock_fd, 0) == 0 && pwrite(store->lock_fd, pid, strlen(pid), 0) < 0)
        log_debug("the lock file does not tell its owner");
    return 0;
}

/* SQLite creates files by the umask; its log and shared memory take the mode of the database. */
static int create_private(const char *path, struct error *error) {
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0)
        return errno == EROFS ? error_set(error, ERROR_READ_ONLY_STORE, path)
                              : error_errno(error, -errno, "opening %s", path);
    return 0;
}

static int load_leases(struct store *store, struct error *error) {
    _cleanup_(statement_done) sqlite3_stmt *rows = NULL;
    int code;
    int r = database_prepare(store->write_db, "SELECT id, ttl FROM lease", &rows, error);

    if (r < 0)
        return r;
    while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
        uint64_t ttl = (uint64_t) sqlite3_column_int64(rows, 1);
        struct lease *leases = reallocarray(store->leases, store->lease_count + 1, sizeof(*leases));

        if (!leases)
            return error_set(error, ERROR_NO_MEMORY);
        store->leases = leases;
        leases[store->lease_count++] = (struct lease){ .id = (uint64_t) sqlite3_column_int64(rows, 0),
                                                       .ttl = ttl,
                                                       .expires = deadline_in(ttl) };
    }
    return code == SQLITE_DONE ? 0 : database_error(store->write_db, code, store->path, error);
}

static int open_connections(struct store *store, struct error *error) {
    int r = database_open(store->path, true, &store->write_db, error);

    if (r == 0)
        r = schema_bring(store->write_db, store->path, error);
    if (r == 0)
        r = writer_prepare(store, error);
    if (r == 0)
        r = load_leases(store, error);
    if (r == 0)
        r = database_open(store->path, false, &store->read_db, error);
    return r;
}

static void close_connections(struct store *store) {
    sqlite3_finalize(store->read_get);
    store->read_get = NULL;
    database_close(store->read_db);
    store->read_db = NULL;
    writer_done(store);
    store->statements = (struct statements){ 0 };
}

/* On a full disk even opening may want room: the reserve gives it. */
static int open_database(struct store *store, struct error *error) {
    _cleanup_error_ struct error first = ERROR_INIT;
    int r = open_connections(store, &first);

    if (r < 0 && first.code == ERROR_NO_SPACE) {
        close_connections(store);
        reserve_release(store);
        return open_connections(store, error);
    }
    if (r < 0)
        error_move(error, &first);
    return r;
}

static void worker_init(struct worker *worker) {
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->wake, &attributes);
    pthread_cond_init(&worker->finished, &attributes);
    pthread_condattr_destroy(&attributes);
}

static int worker_start(struct worker *worker, void *(*function)(void *), struct store *store,
                        struct error *error) {
    int r = pthread_create(&worker->thread, NULL, function, store);

    if (r != 0)
        return error_errno(error, -r, "starting a thread of the store");
    worker->started = true;
    return 0;
}

static void worker_stop(struct worker *worker) {
    if (!worker->started)
        return;
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->lock);
    pthread_join(worker->thread, NULL);
    worker->started = false;
}

static void store_shut(struct store *store) {
    worker_stop(&store->writer);
    worker_stop(&store->reader);
    close_connections(store);
    store->lock_fd = close_fd(store->lock_fd);
    store->closed = true;
    store_unref(store);
}

static struct store *store_new(const char *path) {
    struct store *store = calloc(1, sizeof(*store));

    if (!store)
        return NULL;
    atomic_init(&store->references, 1);
    store->lock_fd = -EBADF;
    store->path = strdup(path);
    pthread_mutex_init(&store->lock, NULL);
    worker_init(&store->writer);
    worker_init(&store->reader);
    if (!store->path) {
        store_unref(store);
        return NULL;
    }
    return store;
}

int store_open_sqlite(const char *path, struct store **ret, struct error *error) {
    struct store *store = store_new(path);
    int r;

    if (!store)
        return error_set(error, ERROR_NO_MEMORY);
    fault_register();
    r = lock_take(store, error);
    if (r == 0)
        r = create_private(path, error);
    if (r == 0)
        r = open_database(store, error);
    if (r == 0) {
        (void) reserve_make(store); /* without it changes are refused until there is room */
        r = worker_start(&store->writer, writer_main, store, error);
    }
    if (r == 0)
        r = worker_start(&store->reader, reader_main, store, error);
    if (r < 0) {
        store_shut(store);
        return r;
    }
    *ret = store;
    return 0;
}

void store_close(struct store *store) {
    _cleanup_error_ struct error error = ERROR_INIT;

    if (!store)
        return;
    worker_stop(&store->writer);
    worker_stop(&store->reader);
    drain(store);
    if (atomic_load(&store->revision) != store->kept_revision && store_keep_copy(store, &error) < 0)
        log_warning("the last good copy of the store was not renewed");
    store_shut(store);
}
