// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The state contract: a small transactional key-value store with revisions, watches and leases. SQLite
 * implements it for one host, etcd later for a cluster; nothing above knows which. Keys are
 * "/type/project/uuid" paths without control characters, at most 512 bytes; values are JSON text up to 512
 * KiB. */

struct store;

struct store_item {
    char *key;
    char *value;
    size_t size;
    uint64_t revision; /* of the last change of this key */
};

struct store_items {
    struct store_item *items;
    size_t count;
    uint64_t revision; /* of the store when this was read */
};

enum store_operation_type {
    STORE_PUT,
    STORE_DELETE,
    STORE_CHECK, /* the transaction fails with -ESTALE unless the key's revision is `revision` (0: absent) */
};

struct store_operation {
    enum store_operation_type type;
    const char *key;
    const char *value; /* PUT */
    size_t size;
    uint64_t revision; /* CHECK */
    uint64_t lease;    /* PUT: goes away with this lease; 0 for none */
};

#define STORE_OPERATIONS_MAX 128
#define STORE_TRANSACTION_MAX (1024 * 1024) /* bytes of all keys and values */
#define STORE_KEY_MAX 512
#define STORE_VALUE_MAX (512 * 1024)
#define STORE_SCHEMA 1

struct store_callbacks {
    /* A PUT (value set) or DELETE (value NULL) that was committed, in revision order, on the loop. */
    void (*changed)(const struct store_item *item, void *userdata);
};

/* Opens or creates the database at `path` (0600), takes an exclusive lock on "path.lock" (BUSY if another
 * daemon has it), checks it (CORRUPT_STORE names the last good copy, "path.good", renewed every ten minutes
 * and at the end), migrates older schemas forward in one transaction after a copy "path.schema-N", refuses
 * newer ones (NEWER_STORE). "path.reserve" keeps 4 MiB for store_commit_urgent. Nothing else in the process
 * may open the database file: closing it would drop SQLite's locks. Needs loop_init before. All calls below
 * are for the loop's thread; those marked Fiber wait, and off fibers they block the thread. */
int store_open_sqlite(const char *path, struct store **ret, struct error *error);
/* Waits for what is committed meanwhile; no further calls. */
void store_close(struct store *store);

/* Fiber, not cancellable once begun. All operations or none; durable (fsync'ed) when it returns 0, and
 * watchers were told. Transactions that wait together share one fsync. The checks are judged before the
 * changes; a key may be changed once in a transaction. -ESTALE: a CHECK failed (error CHANGED is left to the
 * caller); NO_SPACE, READ_ONLY_STORE, BUSY, TOO_LARGE, NOT_FOUND (lease), CORRUPT_STORE. After a failed fsync
 * nothing may be trusted: the process logs and exits with status 70 at once. */
int store_commit(struct store *store, const struct store_operation *operations, size_t count,
                 uint64_t *ret_revision, struct error *error);

/* As store_commit, for what frees room (stop, delete, the end of an instance): when the disk is full it may
 * use up the reserve, which store_commit may not, but for transactions without a PUT. The reserve is made
 * again as soon as there is room; until then store_commit answers NO_SPACE. */
int store_commit_urgent(struct store *store, const struct store_operation *operations, size_t count,
                        uint64_t *ret_revision, struct error *error);

/* Fiber. Absent: -ENOENT without error. Reads never wait for an fsync under way. */
int store_get(struct store *store, const char *key, struct store_item *ret, struct error *error);
/* Fiber. Keys that start with prefix, in key order, after `after` (NULL: from the start), at most `limit` (0:
 * all). */
int store_list(struct store *store, const char *prefix, const char *after, size_t limit, bool descending,
               struct store_items *ret, struct error *error);
/* Watches keys beneath prefix from `revision` on (exclusive). -ESTALE when that revision was compacted away
 * (the changes of the last thousand or so are kept, and none from before the start): list again. The callback
 * runs on the loop, never inside this call; it may watch and unwatch. */
int store_watch(struct store *store, const char *prefix, uint64_t revision,
                const struct store_callbacks *callbacks, void *userdata, uint64_t *ret_watch);
void store_unwatch(struct store *store, uint64_t watch);
/* Leases: keys put with one are deleted when it is not renewed for `ttl` microseconds of boot time; opening
 * the store renews all. Fiber: grant and revoke. -ENOENT: no such lease. */
int store_lease_grant(struct store *store, uint64_t ttl, uint64_t *ret_lease, struct error *error);
int store_lease_renew(struct store *store, uint64_t lease);
int store_lease_revoke(struct store *store, uint64_t lease, struct error *error);
uint64_t store_revision(struct store *store);
/* Fiber. Full integrity check; fills *ret_problem (allocated) if there is one. */
int store_check(struct store *store, char **ret_problem, struct error *error);
/* Fiber. A consistent copy at `path` (VACUUM INTO or the backup API). */
int store_copy(struct store *store, const char *path, struct error *error);
/* Fiber. Renews the last good copy now. */
int store_keep(struct store *store, struct error *error);
/* For /metrics: commits to disk, transactions in them, how long a commit with its fsync took, bytes on disk.
 */
struct store_statistics {
    uint64_t commits, transactions, fsync_us_last, fsync_us_max, size;
};
void store_statistics(struct store *store, struct store_statistics *ret);

void store_item_done(struct store_item *item);
void store_items_done(struct store_items *items);
