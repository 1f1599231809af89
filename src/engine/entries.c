// SPDX-License-Identifier: GPL-2.0-or-later
/* What entries and their copies share: who uses texts or lists is counted, and the last one frees them. Nobody changes them, so
 * that a copy may be looked at on another thread while the engine goes on, and it takes no time to make. */
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "engine/engine-internal.h"

static void lists_free(struct engine_lists *lists) {
    for (int i = 0; i < WISH_COUNT; i++)
        list_free(lists->lists[i]);
    free(lists);
}

/* Was that the last user? What others did with it is done before it is freed. */
static bool leave(atomic_uint *users) {
    return atomic_fetch_sub_explicit(users, 1, memory_order_acq_rel) == 1;
}

static void join(atomic_uint *users) {
    (void) atomic_fetch_add_explicit(users, 1, memory_order_relaxed);
}

static void lists_leave(struct engine_lists *lists) {
    if (lists && leave(&lists->users))
        lists_free(lists);
}

int entry_set_texts(struct engine_entry *entry, const char *id, const char *name) {
    size_t id_size = strlen(id) + 1, name_size = strlen(name) + 1;
    struct engine_texts *texts = malloc(sizeof(*texts) + id_size + name_size);

    if (!texts)
        return -ENOMEM;
    atomic_init(&texts->users, 1);
    entry->texts = texts;
    entry->id = memcpy(texts->texts, id, id_size);
    entry->name = memcpy(texts->texts + id_size, name, name_size);
    return 0;
}

static int lists_new(const struct engine_wishes *wishes, struct engine_lists **ret) {
    struct engine_lists *lists = calloc(1, sizeof(*lists));
    int r = lists ? 0 : -ENOMEM;

    for (int i = 0; r >= 0 && i < WISH_COUNT; i++)
        r = wishes->lists[i] && wishes->lists[i][0] ? list_copy(wishes->lists[i], &lists->lists[i]) : 0;
    if (r < 0) {
        if (lists)
            lists_free(lists);
        return r;
    }
    atomic_init(&lists->users, 1);
    *ret = lists;
    return 0;
}

int entry_set_wishes(struct engine_entry *entry, const struct engine_wishes *wishes) {
    struct engine_lists *lists = NULL, *before = entry->lists;
    bool some = false;
    int r = 0;

    for (int i = 0; i < WISH_COUNT; i++)
        some |= wishes->lists[i] && wishes->lists[i][0];
    if (some)
        r = lists_new(wishes, &lists);
    if (r < 0)
        return r;
    for (int i = 0; i < WISH_COUNT; i++)
        entry->wishes[i] = lists ? lists->lists[i] : NULL;
    entry->lists = lists;
    lists_leave(before);
    return 0;
}

void entry_share(const struct engine_entry *entry, struct engine_entry *ret) {
    *ret = *entry;
    join(&ret->texts->users);
    if (ret->lists)
        join(&ret->lists->users);
}

void entry_done(struct engine_entry *entry) {
    if (entry->texts && leave(&entry->texts->users))
        free(entry->texts);
    lists_leave(entry->lists);
}
