// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "store/internal.h"

/* The reader's thread and the calls that it serves. */

void *reader_main(void *userdata) {
    struct store *store = userdata;
    struct worker *worker = &store->reader;

    for (;;) {
        struct task *tasks;

        pthread_mutex_lock(&worker->lock);
        while (!worker->first && !worker->stopping)
            pthread_cond_wait(&worker->wake, &worker->lock);
        tasks = worker->first;
        worker->first = worker->last = NULL;
        pthread_mutex_unlock(&worker->lock);
        if (!tasks)
            return NULL;
        for (struct task *task = tasks; task; task = task->next)
            task->result = task->run(store, task);
        store_finish(store, worker, tasks, (struct changes){ 0 });
    }
}

static int take_item(sqlite3_stmt *row, struct store_item *ret) {
    size_t size = (size_t) sqlite3_column_bytes(row, 1);
    const void *value = sqlite3_column_blob(row, 1);

    ret->key = strdup((const char *) sqlite3_column_text(row, 0));
    ret->value = malloc(size + 1);
    if (!ret->key || !ret->value) {
        store_item_done(ret);
        return -ENOMEM;
    }
    if (size > 0)
        memcpy(ret->value, value, size);
    ret->value[size] = '\0';
    ret->size = size;
    ret->revision = (uint64_t) sqlite3_column_int64(row, 2);
    return 0;
}

struct get_task {
    struct task task;
    const char *key;
    struct store_item item;
};

static int run_get(struct store *store, struct task *task) {
    struct get_task *get = CONTAINER_OF(task, struct get_task, task);
    static const char sql[] = "SELECT key, value, revision FROM item WHERE key = ?1";
    int code;
    int r = 0;

    if (!store->read_get)
        r = database_prepare(store->read_db, sql, &store->read_get, &task->error);
    if (r < 0)
        return r;
    sqlite3_bind_text(store->read_get, 1, get->key, -1, SQLITE_STATIC);
    code = sqlite3_step(store->read_get);
    if (code == SQLITE_DONE)
        r = -ENOENT;
    else if (code != SQLITE_ROW)
        r = database_error(store->read_db, code, store->path, &task->error);
    else if (take_item(store->read_get, &get->item) < 0)
        r = error_set(&task->error, ERROR_NO_MEMORY);
    sqlite3_reset(store->read_get); /* ends the read transaction, or the log could never be cut */
    return r;
}

int store_get(struct store *store, const char *key, struct store_item *ret, struct error *error) {
    struct get_task get = { .task.run = run_get, .key = key };
    int r = store_run(store, &store->reader, &get.task, error);

    if (r == 0)
        *ret = get.item;
    return r;
}

struct list_task {
    struct task task;
    const char *prefix;
    const char *after;
    size_t limit;
    bool descending;
    struct store_items items;
    size_t allocated;
};

/* The least text above every text that starts with prefix, allocated; "" if there is none (only 0xff bytes).
 */
static char *prefix_end(const char *prefix) {
    char *end = strdup(prefix);
    size_t length = strlen(prefix);

    if (!end)
        return NULL;
    while (length > 0 && (unsigned char) end[length - 1] == 0xff)
        length--;
    end[length] = '\0';
    if (length > 0)
        end[length - 1] = (char) ((unsigned char) end[length - 1] + 1);
    return end;
}

static int list_rows(struct store *store, struct list_task *list, sqlite3_stmt *rows) {
    int code;

    while ((code = sqlite3_step(rows)) == SQLITE_ROW) {
        if (list->items.count == list->allocated) {
            size_t allocated = list->allocated ? list->allocated * 2 : 16;
            struct store_item *items = reallocarray(list->items.items, allocated, sizeof(*items));

            if (!items)
                return error_set(&list->task.error, ERROR_NO_MEMORY);
            list->items.items = items;
            list->allocated = allocated;
        }
        if (take_item(rows, &list->items.items[list->items.count]) < 0)
            return error_set(&list->task.error, ERROR_NO_MEMORY);
        list->items.count++;
    }
    return code == SQLITE_DONE ? 0 : database_error(store->read_db, code, store->path, &list->task.error);
}

static int list_query(struct store *store, struct list_task *list) {
    static const char up[] = "SELECT key, value, revision FROM item WHERE key >= ?1 AND (?2 = '' OR key < ?2)"
                             " AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4";
    static const char down[] =
        "SELECT key, value, revision FROM item WHERE key >= ?1 AND (?2 = '' OR key < ?2)"
        " AND (?3 IS NULL OR key < ?3) ORDER BY key DESC LIMIT ?4";
    _cleanup_(statement_done) sqlite3_stmt *rows = NULL;
    _cleanup_free_ char *end = prefix_end(list->prefix);
    int r;

    if (!end)
        return error_set(&list->task.error, ERROR_NO_MEMORY);
    r = database_prepare(store->read_db, list->descending ? down : up, &rows, &list->task.error);
    if (r < 0)
        return r;
    sqlite3_bind_text(rows, 1, list->prefix, -1, SQLITE_STATIC);
    sqlite3_bind_text(rows, 2, end, -1, SQLITE_STATIC);
    if (list->after)
        sqlite3_bind_text(rows, 3, list->after, -1, SQLITE_STATIC);
    sqlite3_bind_int64(rows, 4, list->limit ? (int64_t) list->limit : -1);
    return list_rows(store, list, rows);
}

/* Revision and rows come from one snapshot, so that a watch from that revision misses nothing. */
static int run_list(struct store *store, struct task *task) {
    struct list_task *list = CONTAINER_OF(task, struct list_task, task);
    int64_t revision = 0;
    int r;

    if (database_rest(store->read_db) != SQLITE_OK)
        return error_set(&task->error, ERROR_NO_MEMORY);
    r = database_exec(store->read_db, "BEGIN", store->path, &task->error);
    if (r < 0)
        return r;
    if (database_number(store->read_db, "SELECT value FROM counter WHERE name = 'revision'", &revision) < 0)
        r = database_error(store->read_db, sqlite3_errcode(store->read_db), store->path, &task->error);
    if (r == 0)
        r = list_query(store, list);
    sqlite3_exec(store->read_db, "ROLLBACK", NULL, NULL, NULL);
    list->items.revision = (uint64_t) revision;
    if (r < 0)
        store_items_done(&list->items);
    return r;
}

int store_list(struct store *store, const char *prefix, const char *after, size_t limit, bool descending,
               struct store_items *ret, struct error *error) {
    struct list_task list = {
        .task.run = run_list, .prefix = prefix, .after = after, .limit = limit, .descending = descending
    };
    int r = store_run(store, &store->reader, &list.task, error);

    if (r == 0)
        *ret = list.items;
    return r;
}
