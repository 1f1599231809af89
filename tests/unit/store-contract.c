// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/fiber.h"
#include "base/text.h"
#include "store-contract.h"

struct run {
    void (*function)(void *userdata);
    void *userdata;
};

static int run_main(void *userdata) {
    struct run *run = userdata;

    run->function(run->userdata);
    loop_exit(0);
    return 0;
}

/* cmocka leaves a failed test by longjmp, which from a fiber's stack would leave the loop in pieces: the
 * checks below end the process instead, with the place. */
void on_fiber(void (*function)(void *userdata), void *userdata) {
    struct run run = { function, userdata };

    if (fiber_start(NULL, "test", run_main, &run) < 0 || loop_run() < 0)
        abort();
    /* A loop that has ended does not run again. */
    loop_done();
    if (loop_init() < 0)
        abort();
}

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s is not so\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                                         \
        }                                                                                                    \
    } while (false)

#define PUT(k, v) ((struct store_operation){ .type = STORE_PUT, .key = (k), .value = (v), .size = strlen(v) })
#define DELETE(k) ((struct store_operation){ .type = STORE_DELETE, .key = (k) })
#define CHECK_AT(k, r) ((struct store_operation){ .type = STORE_CHECK, .key = (k), .revision = (r) })
#define COMMIT(store, ...)                                                                                   \
    store_commit(store, (struct store_operation[]){ __VA_ARGS__ },                                           \
                 ELEMENTS(((struct store_operation[]){ __VA_ARGS__ })), NULL, NULL)

static uint64_t revision_of(struct store *store, const char *key) {
    struct store_item item;
    uint64_t revision;

    if (store_get(store, key, &item, NULL) < 0)
        return 0;
    revision = item.revision;
    store_item_done(&item);
    return revision;
}

static bool holds(struct store *store, const char *key, const char *value) {
    struct store_item item;
    bool equal;
    int r = store_get(store, key, &item, NULL);

    if (r < 0)
        return r == -ENOENT && !value;
    equal =
        value && item.size == strlen(value) && strcmp(item.value, value) == 0 && strcmp(item.key, key) == 0;
    store_item_done(&item);
    return equal;
}

static void check_basics(struct store *store) {
    uint64_t first;
    uint64_t second;
    struct store_operation put = PUT("/a/x", "1");

    CHECK(holds(store, "/a/x", NULL));
    CHECK(store_commit(store, &put, 1, &first, NULL) == 0);
    CHECK(holds(store, "/a/x", "1"));
    CHECK(revision_of(store, "/a/x") == first);
    put.value = "2";
    CHECK(store_commit(store, &put, 1, &second, NULL) == 0);
    CHECK(second > first && store_revision(store) == second);
    CHECK(COMMIT(store, DELETE("/a/x")) == 0);
    CHECK(holds(store, "/a/x", NULL));
    first = store_revision(store);
    CHECK(COMMIT(store, DELETE("/a/x")) == 0);
    CHECK(store_revision(store) == first);
    CHECK(COMMIT(store, PUT("/a/empty", "")) == 0);
    CHECK(holds(store, "/a/empty", ""));
}

static void check_transactions(struct store *store) {
    uint64_t revision;
    struct store_operation two[] = { PUT("/t/a", "1"), PUT("/t/b", "1") };

    CHECK(store_commit(store, two, 2, &revision, NULL) == 0);
    CHECK(revision_of(store, "/t/a") == revision && revision_of(store, "/t/b") == revision);
    /* All or none; checks are judged before changes. */
    CHECK(COMMIT(store, PUT("/t/a", "2"), CHECK_AT("/t/b", revision + 1)) == -ESTALE);
    CHECK(holds(store, "/t/a", "1"));
    CHECK(COMMIT(store, PUT("/t/a", "2"), CHECK_AT("/t/a", revision), CHECK_AT("/t/c", 0)) == 0);
    CHECK(holds(store, "/t/a", "2"));
    CHECK(COMMIT(store, CHECK_AT("/t/a", 0), DELETE("/t/a")) == -ESTALE);
    CHECK(COMMIT(store, CHECK_AT("/t/b", revision)) == 0);
    CHECK(COMMIT(store, DELETE("/t/a"), DELETE("/t/b")) == 0);
    CHECK(holds(store, "/t/a", NULL));
    /* A re-created key has a new revision: nobody takes it for the old one. */
    CHECK(COMMIT(store, PUT("/t/a", "3")) == 0);
    CHECK(revision_of(store, "/t/a") > revision);
}

static void check_limits(struct store *store) {
    _cleanup_free_ char *large = calloc(1, STORE_VALUE_MAX + 2);
    struct store_operation many[STORE_OPERATIONS_MAX + 1];
    static char keys[STORE_OPERATIONS_MAX + 1][16];
    char long_key[STORE_KEY_MAX + 2];

    memset(large, 'x', STORE_VALUE_MAX + 1);
    memset(long_key, 'k', sizeof(long_key) - 1);
    long_key[0] = '/';
    long_key[sizeof(long_key) - 1] = '\0';
    for (size_t i = 0; i < ELEMENTS(many); i++) {
        snprintf(keys[i], sizeof(keys[i]), "/l/%zu", i);
        many[i] = PUT(keys[i], "v");
    }
    CHECK(store_commit(store, many, STORE_OPERATIONS_MAX + 1, NULL, NULL) == -E2BIG);
    CHECK(store_commit(store, many, STORE_OPERATIONS_MAX, NULL, NULL) == 0);
    CHECK(COMMIT(store, PUT("/l/big", large)) == -E2BIG);
    large[STORE_VALUE_MAX] = '\0';
    CHECK(COMMIT(store, PUT("/l/big", large)) == 0);
    CHECK(holds(store, "/l/big", large));
    CHECK(COMMIT(store, PUT("/l/b1", large), PUT("/l/b2", large), PUT("/l/b3", "x")) == -E2BIG);
    CHECK(COMMIT(store, PUT(long_key, "x")) < 0);
    long_key[STORE_KEY_MAX] = '\0';
    CHECK(COMMIT(store, PUT(long_key, "x")) == 0);
    CHECK(COMMIT(store, PUT("relative", "x")) < 0);
    CHECK(COMMIT(store, PUT("", "x")) < 0);
    CHECK(COMMIT(store, PUT("/a\nb", "x")) < 0);
    CHECK(COMMIT(store, PUT("/l/twice", "1"), DELETE("/l/twice")) < 0);
    CHECK(holds(store, "/l/twice", NULL));
}

static void check_list(struct store *store, const char *prefix, const char *after, size_t limit,
                       bool descending, const char *expected) {
    struct store_items items;
    _cleanup_buffer_ struct buffer keys = BUFFER_INIT;

    CHECK(store_list(store, prefix, after, limit, descending, &items, NULL) == 0);
    CHECK(items.revision == store_revision(store));
    for (size_t i = 0; i < items.count; i++)
        buffer_addf(&keys, "%s ", items.items[i].key);
    if (strcmp(keys.data ? keys.data : "", expected) != 0) {
        fprintf(stderr, "list of %s gave '%s', not '%s'\n", prefix, keys.data, expected);
        abort();
    }
    store_items_done(&items);
}

static void check_lists(struct store *store) {
    CHECK(COMMIT(store, PUT("/p/a", "1"), PUT("/p/b", "2"), PUT("/p/c", "3"), PUT("/pq", "4"),
                 PUT("/p/é", "5"), PUT("/p%", "6"), PUT("/p_x", "7")) == 0);
    check_list(store, "/p/", NULL, 0, false, "/p/a /p/b /p/c /p/é ");
    check_list(store, "/p/", NULL, 2, false, "/p/a /p/b ");
    check_list(store, "/p/", "/p/b", 2, false, "/p/c /p/é ");
    check_list(store, "/p/", NULL, 2, true, "/p/é /p/c ");
    check_list(store, "/p/", "/p/c", 0, true, "/p/b /p/a ");
    check_list(store, "/p/a", NULL, 0, false, "/p/a ");
    check_list(store, "/none", NULL, 0, false, "");
    check_list(store, "/p%", NULL, 0, false, "/p% ");
    check_list(store, "/p_", NULL, 0, false, "/p_x ");
}

struct seen {
    struct buffer text;
    uint64_t last;
    bool disordered;
};

static void on_changed(const struct store_item *item, void *userdata) {
    struct seen *seen = userdata;

    if (item->revision < seen->last)
        seen->disordered = true;
    seen->last = item->revision;
    buffer_addf(&seen->text, "%s=%s ", item->key, item->value ? item->value : "-");
}

static const struct store_callbacks callbacks = { .changed = on_changed };

static void check_watches(struct store *store) {
    struct seen from_start = { 0 };
    struct seen from_now = { 0 };
    uint64_t start = store_revision(store);
    uint64_t watches[2];

    CHECK(COMMIT(store, PUT("/w/a", "1"), PUT("/other", "x")) == 0);
    CHECK(store_watch(store, "/w/", start, &callbacks, &from_start, &watches[0]) == 0);
    CHECK(store_watch(store, "/w/", store_revision(store), &callbacks, &from_now, &watches[1]) == 0);
    CHECK(from_start.text.size == 0);
    CHECK(COMMIT(store, PUT("/w/b", "2")) == 0);
    /* Whoever committed finds the watches told. */
    CHECK(strcmp(from_start.text.data, "/w/a=1 /w/b=2 ") == 0);
    CHECK(strcmp(from_now.text.data, "/w/b=2 ") == 0);
    store_unwatch(store, watches[1]);
    CHECK(COMMIT(store, DELETE("/w/a"), PUT("/w/b", "3")) == 0);
    CHECK(strcmp(from_start.text.data, "/w/a=1 /w/b=2 /w/a=- /w/b=3 ") == 0);
    CHECK(strcmp(from_now.text.data, "/w/b=2 ") == 0);
    CHECK(COMMIT(store, CHECK_AT("/w/b", 1), PUT("/w/b", "4")) == -ESTALE);
    CHECK(COMMIT(store, PUT("/w/c", "5")) == 0);
    CHECK(strcmp(from_start.text.data, "/w/a=1 /w/b=2 /w/a=- /w/b=3 /w/c=5 ") == 0);
    CHECK(!from_start.disordered);
    store_unwatch(store, watches[0]);
    buffer_done(&from_start.text);
    buffer_done(&from_now.text);
}

static void check_compaction(struct store *store) {
    struct seen seen = { 0 };
    uint64_t start = store_revision(store);
    uint64_t watch;
    char value[16];

    for (int i = 0; i < 3000; i += 100) {
        struct store_operation operations[100];
        static char keys[100][16];

        for (int j = 0; j < 100; j++) {
            snprintf(keys[j], sizeof(keys[j]), "/c/%d", j);
            snprintf(value, sizeof(value), "%d", i);
            operations[j] = PUT(keys[j], value);
        }
        CHECK(store_commit(store, operations, 100, NULL, NULL) == 0);
    }
    CHECK(store_watch(store, "/c/", start, &callbacks, &seen, &watch) == -ESTALE);
    CHECK(store_watch(store, "/c/", store_revision(store), &callbacks, &seen, &watch) == 0);
    store_unwatch(store, watch);
}

static void check_leases(struct store *store) {
    struct seen seen = { 0 };
    uint64_t lease;
    uint64_t other;
    uint64_t watch;
    struct store_operation put = PUT("/e/a", "1");

    CHECK(store_lease_grant(store, 3600 * CLOCK_SECOND, &lease, NULL) == 0);
    CHECK(store_watch(store, "/e/", store_revision(store), &callbacks, &seen, &watch) == 0);
    put.lease = lease;
    CHECK(store_commit(store, &put, 1, NULL, NULL) == 0);
    CHECK(store_lease_renew(store, lease) == 0);
    CHECK(store_lease_revoke(store, lease, NULL) == 0);
    CHECK(holds(store, "/e/a", NULL));
    CHECK(strcmp(seen.text.data, "/e/a=1 /e/a=- ") == 0);
    CHECK(store_lease_renew(store, lease) == -ENOENT);
    CHECK(store_lease_revoke(store, lease, NULL) == -ENOENT);
    CHECK(store_commit(store, &put, 1, NULL, NULL) == -ENOENT);
    /* One that is not renewed ends by itself; a put without it takes the key out of it. */
    CHECK(store_lease_grant(store, CLOCK_SECOND / 5, &other, NULL) == 0);
    put.lease = other;
    CHECK(store_commit(store, &put, 1, NULL, NULL) == 0);
    put.key = "/e/kept";
    CHECK(store_commit(store, &put, 1, NULL, NULL) == 0);
    CHECK(COMMIT(store, PUT("/e/kept", "2")) == 0);
    for (int i = 0; i < 600 && !holds(store, "/e/a", NULL); i++)
        CHECK(fiber_sleep(CLOCK_SECOND / 20) == 0);
    CHECK(holds(store, "/e/a", NULL));
    CHECK(holds(store, "/e/kept", "2"));
    CHECK(store_lease_renew(store, other) == -ENOENT);
    store_unwatch(store, watch);
    buffer_done(&seen.text);
}

struct increment {
    struct store *store;
    int conflicts;
};

static int increment_main(void *userdata) {
    struct increment *increment = userdata;

    for (int i = 0; i < 20;) {
        struct store_item item = { 0 };
        char value[16];
        int r;

        CHECK(store_get(increment->store, "/n", &item, NULL) == 0);
        snprintf(value, sizeof(value), "%d", atoi(item.value) + 1);
        r = COMMIT(increment->store, CHECK_AT("/n", item.revision), PUT("/n", value));
        store_item_done(&item);
        CHECK(r == 0 || r == -ESTALE);
        if (r == 0)
            i++;
        else
            increment->conflicts++;
    }
    return 0;
}

/* Compare-and-set by many at once: no update is lost. */
static void check_concurrency(struct store *store) {
    struct increment increment = { store, 0 };
    struct fiber *fibers[10];

    CHECK(COMMIT(store, PUT("/n", "0")) == 0);
    for (size_t i = 0; i < ELEMENTS(fibers); i++)
        CHECK(fiber_start(&fibers[i], "increment", increment_main, &increment) == 0);
    for (size_t i = 0; i < ELEMENTS(fibers); i++) {
        CHECK(fiber_join(fibers[i], DEADLINE_NONE, NULL) == 0);
        fiber_unref(fibers[i]);
    }
    CHECK(holds(store, "/n", "200"));
    CHECK(increment.conflicts > 0);
}

static int cancelled_main(void *userdata) {
    int r = COMMIT(userdata, PUT("/cancelled", "1"));

    CHECK(fiber_is_canceled());
    return r;
}

/* A commit that began is seen through: its caller learns the truth. */
static void check_cancel(struct store *store) {
    struct fiber *fiber;
    int result = -1;

    CHECK(fiber_start(&fiber, "cancelled", cancelled_main, store) == 0);
    CHECK(fiber_yield() == 0);
    fiber_cancel(fiber);
    CHECK(fiber_join(fiber, DEADLINE_NONE, &result) == 0);
    fiber_unref(fiber);
    CHECK(holds(store, "/cancelled", result == 0 ? "1" : NULL));
}

static const struct store_contract *the_contract;

struct contract_case {
    void (*function)(struct store *store);
};

static void run_case(void *userdata) {
    struct contract_case *row = userdata;
    struct store *store = NULL;

    CHECK(the_contract->open(&store) == 0);
    row->function(store);
    the_contract->close(store);
}

#define CONTRACT_TEST(name)                                                                                  \
    static void test_##name(void **state) {                                                                  \
        struct contract_case row = { check_##name };                                                         \
                                                                                                             \
        on_fiber(run_case, &row);                                                                            \
    }
CONTRACT_TEST(basics)
CONTRACT_TEST(transactions)
CONTRACT_TEST(limits)
CONTRACT_TEST(lists)
CONTRACT_TEST(watches)
CONTRACT_TEST(compaction)
CONTRACT_TEST(leases)
CONTRACT_TEST(concurrency)
CONTRACT_TEST(cancel)

int store_contract_run(const struct store_contract *contract) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_basics), cmocka_unit_test(test_transactions), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_lists),  cmocka_unit_test(test_watches),      cmocka_unit_test(test_compaction),
        cmocka_unit_test(test_leases), cmocka_unit_test(test_concurrency),  cmocka_unit_test(test_cancel),
    };

    the_contract = contract;
    return cmocka_run_group_tests_name("store contract", tests, NULL, NULL);
}
