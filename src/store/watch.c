// SPDX-License-Identifier: GPL-2.0-or-later
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "store/internal.h"

/* Watches and the ring of recent changes. Each watch knows the revision it has seen; pumping brings every
 * watch to the ring's end, and only then is the ring cut. */

static void watch_free(struct watch *watch) {
    free(watch->prefix);
    free(watch);
}

static void watch_deliver(struct store *store, struct watch *watch) {
    for (struct change *change = store->ring.first; change && !watch->dead; change = change->next) {
        if (change->item.revision <= watch->seen)
            continue;
        if (text_starts(change->item.key, watch->prefix))
            watch->callbacks.changed(&change->item, watch->userdata);
    }
    if (store->ring.last && store->ring.last->item.revision > watch->seen)
        watch->seen = store->ring.last->item.revision;
}

static void watches_sweep(struct store *store) {
    struct watch **link = &store->watches;

    while (*link) {
        struct watch *watch = *link;

        if (watch->dead) {
            *link = watch->next;
            watch_free(watch);
        } else {
            link = &watch->next;
        }
    }
}

static void ring_cut(struct store *store) {
    while (store->ring.first &&
           (store->ring_count > STORE_RING_CHANGES || store->ring_bytes > STORE_RING_BYTES)) {
        struct change *change = store->ring.first;

        store->ring.first = change->next;
        if (!store->ring.first)
            store->ring.last = NULL;
        store->ring_count--;
        store->ring_bytes -= change->item.size;
        store->ring_floor = change->item.revision;
        change_free(change);
    }
}

/* A callback that publishes is not possible (commits wait, callbacks must not), but one may watch and
 * unwatch. */
static void watches_pump(struct store *store) {
    if (store->pumping)
        return;
    store->pumping = true;
    for (struct watch *watch = store->watches; watch; watch = watch->next)
        if (!watch->dead)
            watch_deliver(store, watch);
    store->pumping = false;
    watches_sweep(store);
    ring_cut(store);
}

void watch_publish(struct store *store, struct changes *changes) {
    for (struct change *change = changes->first; change; change = change->next) {
        store->ring_count++;
        store->ring_bytes += change->item.size;
    }
    changes_join(&store->ring, changes);
    watches_pump(store);
}

static void on_catch_up(void *userdata) {
    struct store *store = userdata;

    if (!store->closed)
        watches_pump(store);
    store_unref(store);
}

int store_watch(struct store *store, const char *prefix, uint64_t revision,
                const struct store_callbacks *callbacks, void *userdata, uint64_t *ret_watch) {
    struct watch **link = &store->watches;
    struct watch *watch;
    int r;

    if (revision < store->ring_floor)
        return -ESTALE;
    watch = calloc(1, sizeof(*watch));
    if (!watch)
        return -ENOMEM;
    watch->prefix = strdup(prefix);
    store_ref(store);
    r = watch->prefix ? loop_defer(on_catch_up, store) : -ENOMEM;
    if (r < 0) {
        store_unref(store);
        watch_free(watch);
        return r;
    }
    watch->id = ++store->next_watch;
    watch->seen = revision;
    watch->callbacks = *callbacks;
    watch->userdata = userdata;
    while (*link)
        link = &(*link)->next;
    *link = watch;
    *ret_watch = watch->id;
    return 0;
}

void store_unwatch(struct store *store, uint64_t id) {
    for (struct watch *watch = store->watches; watch; watch = watch->next)
        if (watch->id == id)
            watch->dead = true;
    if (!store->pumping)
        watches_sweep(store);
}

void watch_done(struct store *store) {
    while (store->watches) {
        struct watch *watch = store->watches;

        store->watches = watch->next;
        watch_free(watch);
    }
    changes_free(&store->ring);
}
