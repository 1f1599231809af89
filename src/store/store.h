// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The state contract: a small transactional key-value store with revisions, watches and leases. SQLite implements it
 * for one host, etcd later for a cluster; nothing above knows which. Keys are "/type/project/uuid" paths without
 * control characters, at most 512 bytes; values are JSON text up to 512 KiB. */

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
#define STORE_TRANSACTION_MAX (1024 * 1024)
#define STORE_SCHEMA 1

struct store_callbacks {
    /* A PUT (value set) or DELETE (value NULL) that was committed, in revision order, on the loop. */
    void (*changed)(const struct store_item *item, void *userdata);
};

/* Opens or creates the database at `path` (0600), takes an exclusive lock (BUSY if another daemon has it), checks it
 * (CORRUPT_STORE names the last good copy), migrates older schemas forward in one transaction after a copy
 * "path.schema-N", refuses newer ones (NEWER_STORE). */
int store_open_sqlite(const char *path, struct store **ret, struct error *error);
/* Waits for what is committed meanwhile; no further calls. */
void store_close(struct store *store);

/* Fiber. All operations or none; durable (fsync'ed) when it returns 0. Transactions that wait together share one
 * fsync. -ESTALE: a CHECK failed (error CHANGED is left to the caller); ERROR_NO_SPACE, READ_ONLY_STORE.
 * After a failed fsync the process must not go on: the store calls `abort` handlers by exiting with status 70. */
int store_commit(struct store *store, const struct store_operation *operations, size_t count,
                 uint64_t *ret_revision, struct error *error);

/* Fiber. Absent: -ENOENT without error. Reads never wait for an fsync under way. */
int store_get(struct store *store, const char *key, struct store_item *ret, struct error *error);
/* Fiber. Keys that start with prefix, in key order, after `after` (NULL: from the start), at most `limit` (0: all). */
int store_list(struct store *store, const char *prefix, const char *after, size_t limit, bool descending,
               struct store_items *ret, struct error *error);
/* Watches keys beneath prefix from `revision` on (exclusive). -ESTALE when that revision was compacted away. */
int store_watch(struct store *store, const char *prefix, uint64_t revision, const struct store_callbacks *callbacks,
                void *userdata, uint64_t *ret_watch);
void store_unwatch(struct store *store, uint64_t watch);
/* Leases: keys put with one are deleted when it is not renewed for `ttl` microseconds of boot time. */
int store_lease_grant(struct store *store, uint64_t ttl, uint64_t *ret_lease, struct error *error);
int store_lease_renew(struct store *store, uint64_t lease);
int store_lease_revoke(struct store *store, uint64_t lease, struct error *error);
uint64_t store_revision(struct store *store);
/* Fiber. Full integrity check; fills *ret_problem (allocated) if there is one. */
int store_check(struct store *store, char **ret_problem, struct error *error);
/* Fiber. A consistent copy at `path` (VACUUM INTO or the backup API). */
int store_copy(struct store *store, const char *path, struct error *error);
/* What the delay of the last fsyncs was, for /metrics. */
struct store_statistics {
    uint64_t commits, transactions, fsync_us_last, fsync_us_max, size;
};
void store_statistics(struct store *store, struct store_statistics *ret);

void store_item_done(struct store_item *item);
void store_items_done(struct store_items *items);
