// SPDX-License-Identifier: GPL-2.0-or-later
/* Records of images. The files come first and are durable; then the record makes them an image. A removal goes the other
 * way round: the record first, then the files that no record names. So whatever dies in between leaves at most files
 * without a record, which sweep.c removes.
 *
 * Records change under storage->records, one transaction at a time, and memory follows the transaction: nobody sees, and
 * no instance can use, what is not durable. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/failpoint.h"
#include "base/text.h"
#include "storage/internal.h"


void stored_free(struct stored *stored) {
    if (!stored)
        return;
    table_done(&image_table, &stored->image);
    while (stored->pins) {
        struct pin *pin = stored->pins;
        stored->pins = pin->next;
        free(pin->uuid);
        free(pin);
    }
    free(stored);
}

struct stored *stored_find(struct storage *storage, const char *digest) {
    return map_get(storage->by_digest, digest);
}

int stored_show(struct storage *storage, struct stored *stored) {
    int r;

    if (storage->count == storage->allocated) {
        size_t allocated = storage->allocated ? storage->allocated * 2 : 16;
        struct stored **list = realloc(storage->list, allocated * sizeof(*list));
        if (!list)
            return -ENOMEM;
        storage->list = list;
        storage->allocated = allocated;
    }
    r = map_put(storage->by_digest, stored->image.digest, stored);
    if (r >= 0)
        storage->list[storage->count++] = stored;
    return r;
}

static void stored_hide(struct storage *storage, struct stored *stored) {
    size_t kept = 0;

    (void) map_remove(storage->by_digest, stored->image.digest);
    for (size_t i = 0; i < storage->count; i++)
        if (storage->list[i] != stored)
            storage->list[kept++] = storage->list[i];
    storage->count = kept;
}

struct stored *stored_holder(struct storage *storage, const char *alias) {
    for (size_t i = 0; i < storage->count; i++)
        if (list_has(storage->list[i]->image.aliases, alias))
            return storage->list[i];
    return NULL;
}

/* --- one transaction ----------------------------------------------------------------------------------------------- */

/* A record that gets other aliases. */
struct change {
    struct stored *stored;
    char **aliases;
    char *key, *text;
};

static void change_done(struct change *change) {
    list_free(change->aliases);
    free(change->key);
    free(change->text);
}

static int change_encode(struct change *change) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    struct image image = change->stored->image; /* borrowed but for its aliases */

    image.aliases = change->aliases;
    storage_image_emit(&image, &emitter);
    change->key = text_format(IMAGE_PREFIX "%s", digest_hex(image.digest));
    return change->key ? buffer_take(&buffer, &change->text) : -ENOMEM;
}

/* `add` and `drop` may be NULL. */
static int change_prepare(struct change *change, struct stored *stored, const char *add, const char *drop) {
    int r = 0;

    change->stored = stored;
    for (char **alias = stored->image.aliases; r >= 0 && alias && *alias; alias++)
        if (!text_equal(*alias, drop))
            r = list_add(&change->aliases, *alias);
    if (r >= 0 && add)
        r = list_add(&change->aliases, add);
    return r < 0 ? r : change_encode(change);
}

static int changes_commit(struct storage *storage, struct change *changes, size_t count, struct error *error) {
    struct store_operation operations[2];
    int r;

    for (size_t i = 0; i < count; i++) {
        operations[i] = (struct store_operation){ .type = STORE_PUT, .key = changes[i].key, .value = changes[i].text,
                                                  .size = strlen(changes[i].text) };
        if (operations[i].size > STORE_VALUE_MAX)
            return error_set(error, ERROR_BAD_IMAGE, "its configuration is larger than 512 KiB");
    }
    FAILPOINT("image-before-commit");
    r = store_commit(storage->store, operations, count, NULL, error);
    FAILPOINT("image-after-commit");
    for (size_t i = 0; r >= 0 && i < count; i++) {
        list_free(changes[i].stored->image.aliases);
        changes[i].stored->image.aliases = STEAL_PTR(changes[i].aliases);
    }
    return r;
}

/* Caller holds the mutex. `alias` may be NULL, then only the record itself is written. */
static int commit_with_alias(struct storage *storage, struct stored *stored, const char *alias, struct error *error) {
    struct stored *holder = alias ? stored_holder(storage, alias) : NULL;
    struct change changes[2] = { 0 };
    int r = change_prepare(&changes[0], stored, alias, alias);

    if (r >= 0 && holder && holder != stored)
        r = change_prepare(&changes[1], holder, NULL, alias);
    r = r < 0 ? error_errno(error, r, "writing the image's record")
              : changes_commit(storage, changes, changes[1].stored ? 2 : 1, error);
    change_done(&changes[0]);
    change_done(&changes[1]);
    return r;
}

static int records_lock(struct storage *storage, struct error *error) {
    int r = fiber_mutex_lock(&storage->records, DEADLINE_NONE);

    return r < 0 ? error_errno(error, r, "changing images") : 0;
}

int image_alias_check(const char *alias, struct error *error) {
    if (!image_alias_is_valid(alias))
        return error_set(error, ERROR_BAD_VALUE, "alias", text_is_plain(alias) ? alias : "this text",
                         "use letters, digits and ._:/@- (at most 255)");
    if (text_starts(alias, "sha256:"))
        return error_set(error, ERROR_BAD_VALUE, "alias", alias, "it would look like a digest");
    return 0;
}

/* --- add, tag ------------------------------------------------------------------------------------------------------- */

static int add_new(struct storage *storage, struct image *image, const char *alias, struct stored **ret,
                   struct error *error) {
    struct stored *stored = calloc(1, sizeof(*stored));
    int r;

    if (!stored) {
        table_done(&image_table, image);
        return error_errno(error, -ENOMEM, "adding an image");
    }
    stored->image = *image;
    stored->image.created = clock_wall();
    r = commit_with_alias(storage, stored, alias, error);
    if (r >= 0 && (r = stored_show(storage, stored)) < 0)
        r = error_errno(error, r, "adding an image"); /* the record shows itself at the next start */
    if (r < 0)
        stored_free(stored);
    else
        *ret = stored;
    return r;
}

int stored_add_take(struct storage *storage, struct image *image, const char *alias, const struct image **ret,
                    struct error *error) {
    struct stored *stored;
    int r = records_lock(storage, error);

    if (r < 0) {
        table_done(&image_table, image);
        return r;
    }
    stored = stored_find(storage, image->digest);
    if (stored) {
        table_done(&image_table, image);
        r = alias && !list_has(stored->image.aliases, alias) ? commit_with_alias(storage, stored, alias, error) : 0;
    } else {
        r = add_new(storage, image, alias, &stored, error);
    }
    if (r >= 0)
        *ret = &stored->image;
    fiber_mutex_unlock(&storage->records);
    return r;
}

int storage_image_tag(struct storage *storage, const char *name, const char *alias, struct error *error) {
    struct stored *stored;
    int r = image_alias_check(alias, error);

    if (r >= 0)
        r = records_lock(storage, error);
    if (r < 0)
        return r;
    r = stored_lookup(storage, name, &stored, NULL, error);
    if (r >= 0 && !list_has(stored->image.aliases, alias))
        r = commit_with_alias(storage, stored, alias, error);
    fiber_mutex_unlock(&storage->records);
    return r;
}

/* --- remove, prune --------------------------------------------------------------------------------------------------- */

/* Caller holds the mutex. */
static int drop_alias(struct storage *storage, struct stored *stored, const char *alias, struct error *error) {
    struct change change = { 0 };
    int r = change_prepare(&change, stored, NULL, alias);

    r = r < 0 ? error_errno(error, r, "writing the image's record") : changes_commit(storage, &change, 1, error);
    change_done(&change);
    return r;
}

/* Caller holds the mutex. */
static int record_remove(struct storage *storage, struct stored *stored, struct error *error) {
    _cleanup_free_ char *key = text_format(IMAGE_PREFIX "%s", digest_hex(stored->image.digest));
    struct store_operation operation = { .type = STORE_DELETE, .key = key };
    int r;

    if (!key)
        return error_errno(error, -ENOMEM, "removing the image");
    if (stored->pins)
        return error_set(error, ERROR_IN_USE, "image", stored->image.digest, stored->pins->uuid);
    stored_hide(storage, stored); /* from here on nobody finds it, so nobody starts to use it */
    FAILPOINT("image-remove-before-commit");
    r = store_commit_urgent(storage->store, &operation, 1, NULL, error);
    FAILPOINT("image-remove-after-commit");
    if (r < 0) {
        (void) stored_show(storage, stored);
        return r;
    }
    stored_free(stored);
    return 0;
}

int storage_image_remove(struct storage *storage, const char *name, struct error *error) {
    _cleanup_list_ char **found = NULL;
    struct stored *stored;
    const char *alias = NULL;
    bool whole = false;
    int r;

    r = storage_wait(storage, NULL, error);
    if (r >= 0)
        r = records_lock(storage, error);
    if (r < 0)
        return r;
    r = stored_lookup(storage, name, &stored, &alias, error);
    if (r >= 0) {
        whole = !alias || list_count(stored->image.aliases) <= 1;
        r = whole ? record_remove(storage, stored, error) : drop_alias(storage, stored, alias, error);
    }
    fiber_mutex_unlock(&storage->records);
    if (r >= 0 && whole)
        r = sweep(storage, true, &found);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "removing the image's files") : r;
}

/* Bytes on disk, each layer once. */
static uint64_t bytes_of_all(const struct storage *storage) {
    _cleanup_map_ struct map *seen = NULL;
    uint64_t bytes = 0;

    if (map_new(&seen) < 0)
        return 0;
    for (size_t i = 0; i < storage->count; i++) {
        const struct image *image = &storage->list[i]->image;
        if (image->layers.count == 0)
            bytes += image->size;
        for (size_t j = 0; j < image->layers.count; j++) {
            struct image_layer *layer = (struct image_layer *) image->layers.items + j;
            if (map_put(seen, layer->diff_id, layer) == 0)
                bytes += layer->size;
        }
    }
    return bytes;
}

static int remove_unused(struct storage *storage, bool all, char ***ret_removed, struct error *error) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < storage->count;) {
        struct stored *stored = storage->list[i];
        if (stored->pins || (!all && list_count(stored->image.aliases) > 0)) {
            i++;
            continue;
        }
        r = list_add(ret_removed, stored->image.digest);
        if (r >= 0)
            r = record_remove(storage, stored, error);
    }
    return r;
}

int storage_prune(struct storage *storage, bool all, uint64_t *ret_bytes, char ***ret_removed, struct error *error) {
    _cleanup_list_ char **found = NULL;
    uint64_t before;
    int r = storage_wait(storage, NULL, error);

    if (r >= 0)
        r = records_lock(storage, error);
    if (r < 0)
        return r;
    before = bytes_of_all(storage);
    r = remove_unused(storage, all, ret_removed, error);
    *ret_bytes = before - bytes_of_all(storage);
    fiber_mutex_unlock(&storage->records);
    *ret_bytes += resume_forget(storage);
    if (r >= 0)
        r = sweep(storage, true, &found);
    if (r >= 0)
        r = blanks_remove(storage);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "pruning") : r;
}
