// SPDX-License-Identifier: GPL-2.0-or-later
/* Records of images. The files come first and are durable; then the record makes them an image. A removal goes the other
 * way round: the record first, then the files that no record names. So whatever dies in between leaves at most files
 * without a record, which storage_load and prune remove. */
#include "storage/storage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

/* --- small things -------------------------------------------------------------------------------------------------- */

const char *digest_hex(const char *digest) {
    const char *colon = digest ? strchr(digest, ':') : NULL;

    return colon ? colon + 1 : "";
}

char *digest_of(const void *data, size_t size) {
    struct sha256_ctx context;
    uint8_t digest[SHA256_DIGEST_SIZE];
    char hex[2 * SHA256_DIGEST_SIZE + 1];

    sha256_init(&context);
    sha256_update(&context, size, data);
    sha256_digest(&context, sizeof(digest), digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    return text_format("sha256:%s", hex);
}

char *image_path(const struct storage *storage, const char *part, const char *digest) {
    return text_format("%s/%s/%s", storage->images, part, digest_hex(digest));
}

char *layer_path(const struct storage *storage, const char *diff_id) {
    return image_path(storage, "layers", diff_id);
}

int staging_make(struct storage *storage, char **ret_path, struct error *error) {
    char name[17];
    char *path;

    random_hex(name, 8);
    path = text_format("%s/%s", storage->staging, name);
    if (!path)
        return error_errno(error, -ENOMEM, "making room");
    if (mkdir(path, 0755) < 0) {
        int r = error_errno(error, -errno, "creating %s", path);
        free(path);
        return r;
    }
    *ret_path = path;
    return 0;
}

static int remove_job(void *userdata) {
    return file_remove_tree(AT_FDCWD, userdata);
}

void staging_remove(char **path) {
    if (*path)
        (void) fiber_job(remove_job, *path);
    free(*path);
    *path = NULL;
}

void progress_step(const struct storage_progress *progress, const char *step, uint64_t done, uint64_t total) {
    if (progress && progress->report)
        progress->report(step, done, total, progress->userdata);
}

/* --- records --------------------------------------------------------------------------------------------------------- */

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

static int stored_show(struct storage *storage, struct stored *stored) {
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

static int stored_encode(const struct stored *stored, char **ret_key, char **ret_text) {
    _cleanup_buffer_ struct buffer buffer = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&buffer);
    int r;

    emit_object(&emitter);
    table_emit(&image_table, &stored->image, &emitter);
    emit_object_end(&emitter);
    *ret_key = text_format(IMAGE_PREFIX "%s", digest_hex(stored->image.digest));
    r = *ret_key ? buffer_take(&buffer, ret_text) : -ENOMEM;
    return r;
}

int stored_commit(struct storage *storage, struct stored *stored, struct error *error) {
    _cleanup_free_ char *key = NULL, *text = NULL;
    struct store_operation operation = { .type = STORE_PUT };
    int r = stored_encode(stored, &key, &text);

    if (r < 0)
        return error_errno(error, r, "writing the image's record");
    operation.key = key;
    operation.value = text;
    operation.size = strlen(text);
    FAILPOINT("image-before-commit");
    r = store_commit(storage->store, &operation, 1, NULL, error);
    FAILPOINT("image-after-commit");
    return r;
}

static struct stored *holder_of(struct storage *storage, const char *alias) {
    for (size_t i = 0; i < storage->count; i++)
        if (list_has(storage->list[i]->image.aliases, alias))
            return storage->list[i];
    return NULL;
}

static void list_drop(char **list, const char *text) {
    size_t kept = 0;

    for (size_t i = 0; list && list[i]; i++) {
        if (text_equal(list[i], text))
            free(list[i]);
        else
            list[kept++] = list[i];
    }
    if (list)
        list[kept] = NULL;
}

static int give_alias(struct storage *storage, struct stored *stored, const char *alias, struct error *error) {
    struct stored *holder = alias ? holder_of(storage, alias) : NULL;
    int r;

    if (!alias || holder == stored)
        return 0;
    r = list_add(&stored->image.aliases, alias);
    if (r < 0)
        return error_errno(error, r, "naming the image");
    r = stored_commit(storage, stored, error);
    if (r < 0) {
        list_drop(stored->image.aliases, alias);
        return r;
    }
    if (holder) { /* committed second: between the two the newer image wins, see storage_load */
        list_drop(holder->image.aliases, alias);
        r = stored_commit(storage, holder, error);
    }
    return r;
}

int stored_add_take(struct storage *storage, struct image *image, const char *alias, const struct image **ret,
                    struct error *error) {
    struct stored *stored = stored_find(storage, image->digest);
    int r = 0;

    if (stored) {
        table_done(&image_table, image);
    } else {
        stored = calloc(1, sizeof(*stored));
        if (!stored) {
            table_done(&image_table, image);
            return error_errno(error, -ENOMEM, "adding an image");
        }
        stored->image = *image;
        stored->image.created = clock_wall();
        r = stored_show(storage, stored);
        if (r >= 0)
            r = stored_commit(storage, stored, error);
        if (r < 0) {
            stored_hide(storage, stored);
            stored_free(stored);
            return error_is_set(error) ? r : error_errno(error, r, "adding an image");
        }
    }
    r = give_alias(storage, stored, alias, error);
    if (r >= 0)
        *ret = &stored->image;
    return r;
}

/* --- start ------------------------------------------------------------------------------------------------------------ */

static int storage_paths(struct storage *storage, const struct storage_options *options) {
    storage->state_path = strdup(options->state_path);
    storage->run_path = strdup(options->run_path);
    storage->libexec_path = strdup(options->libexec_path);
    storage->kernel_root = options->kernel_root ? strdup(options->kernel_root) : NULL;
    storage->images = text_format("%s/images", options->state_path);
    storage->staging = text_format("%s/images/staging", options->state_path);
    return storage->state_path && storage->run_path && storage->libexec_path && storage->images && storage->staging
               ? 0
               : -ENOMEM;
}

/* What images hold (set-user-id programs too) is no business of the host's users; skopeo, unprivileged, passes through to
 * its own staging directory. */
static int directories_make(struct storage *storage) {
    static const struct {
        const char *name;
        mode_t mode;
    } parts[] = { { "layers", 0700 }, { "disks", 0700 }, { "isos", 0700 }, { "erofs", 0700 }, { "blank", 0700 },
                  { "staging", 0711 } };
    int r = file_make_directories(AT_FDCWD, storage->images, 0711);

    for (size_t i = 0; r >= 0 && i < ELEMENTS(parts); i++) {
        _cleanup_free_ char *path = text_format("%s/%s", storage->images, parts[i].name);
        r = path ? file_make_directories(AT_FDCWD, path, parts[i].mode) : -ENOMEM;
        if (r >= 0 && chmod(path, parts[i].mode) < 0)
            r = -errno;
    }
    return r;
}

int storage_new(const struct storage_options *options, struct storage **ret, struct error *error) {
    struct storage *storage = calloc(1, sizeof(*storage));
    int r = storage ? storage_paths(storage, options) : -ENOMEM;

    if (r >= 0)
        r = map_new(&storage->by_digest);
    if (r >= 0)
        r = directories_make(storage);
    if (r < 0) {
        storage_free(storage);
        return error_errno(error, r, "opening the image store in %s", options->state_path);
    }
    storage->store = options->store;
    *ret = storage;
    return 0;
}

void storage_free(struct storage *storage) {
    if (!storage)
        return;
    for (size_t i = 0; i < storage->count; i++)
        stored_free(storage->list[i]);
    free(storage->list);
    map_free(storage->by_digest);
    free(storage->state_path);
    free(storage->run_path);
    free(storage->libexec_path);
    free(storage->kernel_root);
    free(storage->images);
    free(storage->staging);
    free(storage);
}

static int load_one(struct storage *storage, const struct store_item *item, struct error *error) {
    _cleanup_json_ struct json_object *record = NULL;
    struct stored *stored = calloc(1, sizeof(*stored));
    int r = stored ? json_parse(item->value, item->size, &record, error) : -ENOMEM;

    if (r >= 0)
        r = table_init(&image_table, &stored->image);
    if (r >= 0)
        r = table_decode(&image_table, record, DECODE_STORED, &stored->image, error);
    if (r >= 0 && !image_digest_is_valid(stored->image.digest))
        r = error_set(error, ERROR_BAD_VALUE, "digest", stored->image.digest, "it is no digest");
    if (r >= 0)
        r = stored_show(storage, stored);
    if (r < 0) {
        stored_free(stored);
        (void) error_subject(error, "record", item->key);
    }
    return r;
}

static int empty_staging_job(void *userdata) {
    struct storage *storage = userdata;
    int r = file_remove_tree(AT_FDCWD, storage->staging);

    return r < 0 ? r : file_make_directories(AT_FDCWD, storage->staging, 0711);
}

/* A name that two images have, after a crash between two commits, belongs to the one added last. */
static void settle_aliases(struct storage *storage) {
    for (size_t i = 0; i < storage->count; i++) {
        for (size_t j = 0; j < storage->count; j++) {
            struct stored *older = storage->list[i], *newer = storage->list[j];
            if (older == newer || older->image.created >= newer->image.created)
                continue;
            for (char **alias = newer->image.aliases; alias && *alias; alias++)
                list_drop(older->image.aliases, *alias);
        }
    }
}

int storage_load(struct storage *storage, struct error *error) {
    struct store_items items = { 0 };
    int r = store_list(storage->store, IMAGE_PREFIX, NULL, 0, false, &items, error);

    for (size_t i = 0; i < items.count && r >= 0; i++)
        r = load_one(storage, &items.items[i], error);
    store_items_done(&items);
    if (r < 0)
        return r;
    settle_aliases(storage);
    r = fiber_job(empty_staging_job, storage);
    return r < 0 ? error_errno(error, r, "emptying %s", storage->staging) : 0;
}

/* --- find and show ------------------------------------------------------------------------------------------------------ */

static struct stored *find_by_prefix(struct storage *storage, const char *prefix, bool *ambiguous) {
    size_t length = strlen(prefix);
    struct stored *found = NULL;

    if (length < 6 || strspn(prefix, "0123456789abcdef") != length)
        return NULL;
    for (size_t i = 0; i < storage->count; i++) {
        if (strncmp(digest_hex(storage->list[i]->image.digest), prefix, length) != 0)
            continue;
        *ambiguous = *ambiguous || found;
        found = storage->list[i];
    }
    return found;
}

static struct stored *lookup(struct storage *storage, const char *name, bool *ambiguous) {
    struct stored *stored = holder_of(storage, name);
    _cleanup_free_ char *latest = NULL;

    if (!stored)
        stored = stored_find(storage, name);
    if (!stored && !strchr(name, '@')) {
        latest = text_format("%s:latest", name);
        stored = latest ? holder_of(storage, latest) : NULL;
    }
    return stored ? stored : find_by_prefix(storage, text_starts(name, "sha256:") ? name + 7 : name, ambiguous);
}

static int find(struct storage *storage, const char *name, struct stored **ret, struct error *error) {
    bool ambiguous = false;
    struct stored *stored = lookup(storage, name, &ambiguous);

    if (!stored)
        return error_set(error, ERROR_NOT_FOUND, "image", name);
    if (ambiguous)
        return error_set(error, ERROR_BAD_VALUE, "image", name, "several images start with these digits");
    *ret = stored;
    return 0;
}

int storage_image_find(struct storage *storage, const char *name, const struct image **ret, struct error *error) {
    struct stored *stored;
    int r = find(storage, name, &stored, error);

    if (r >= 0)
        *ret = &stored->image;
    return r;
}

const struct image *storage_image_next(struct storage *storage, size_t *position) {
    return *position < storage->count ? &storage->list[(*position)++]->image : NULL;
}

void storage_image_emit(const struct image *image, struct emitter *emitter) {
    emit_object(emitter);
    table_emit(&image_table, image, emitter);
    emit_object_end(emitter);
}

/* --- pins ----------------------------------------------------------------------------------------------------------------- */

int storage_image_use(struct storage *storage, const char *digest, const char *uuid) {
    struct stored *stored = stored_find(storage, digest);
    struct pin *pin;

    if (!stored)
        return -ENOENT;
    for (pin = stored->pins; pin; pin = pin->next)
        if (text_equal(pin->uuid, uuid))
            return 0;
    pin = calloc(1, sizeof(*pin));
    if (!pin || !(pin->uuid = strdup(uuid))) {
        free(pin);
        return -ENOMEM;
    }
    pin->next = stored->pins;
    stored->pins = pin;
    stored->image.last_used = clock_wall();
    return 0;
}

void storage_image_unuse(struct storage *storage, const char *digest, const char *uuid) {
    struct stored *stored = stored_find(storage, digest);

    for (struct pin **link = stored ? &stored->pins : NULL; link && *link; link = &(*link)->next) {
        struct pin *pin = *link;
        if (!text_equal(pin->uuid, uuid))
            continue;
        *link = pin->next;
        free(pin->uuid);
        free(pin);
        return;
    }
}

/* --- tag, remove, prune ------------------------------------------------------------------------------------------------------ */

int storage_image_tag(struct storage *storage, const char *name, const char *alias, struct error *error) {
    struct stored *stored;
    int r = find(storage, name, &stored, error);

    return r < 0 ? r : give_alias(storage, stored, alias, error);
}

static bool layer_is_used(const struct storage *storage, const char *diff_hex) {
    for (size_t i = 0; i < storage->count; i++) {
        const struct field_array *layers = &storage->list[i]->image.layers;
        for (size_t j = 0; j < layers->count; j++)
            if (text_equal(digest_hex(((struct image_layer *) layers->items)[j].diff_id), diff_hex))
                return true;
    }
    return false;
}

static bool file_is_owned(struct storage *storage, const char *part, const char *hex) {
    _cleanup_free_ char *digest = NULL;

    if (text_equal(part, "layers"))
        return layer_is_used(storage, hex);
    digest = text_format("sha256:%s", hex);
    return digest && stored_find(storage, digest);
}

/* Removes files of one part that no record names; lists them only unless `remove`. */
static int sweep_part(struct storage *storage, const char *part, bool remove, char ***found) {
    _cleanup_free_ char *path = text_format("%s/%s", storage->images, part);
    _cleanup_list_ char **names = NULL;
    DIR *directory = path ? opendir(path) : NULL;
    struct dirent *entry;
    int r = 0;

    if (!directory)
        return -errno;
    while ((entry = readdir(directory)) && r >= 0)
        if (entry->d_name[0] != '.' && !file_is_owned(storage, part, entry->d_name))
            r = list_add(&names, entry->d_name);
    closedir(directory);
    for (char **name = names; r >= 0 && name && *name; name++) {
        _cleanup_free_ char *full = text_format("%s/%s", path, *name);
        r = full ? list_addf(found, "%s/%s", part, *name) : -ENOMEM;
        if (r >= 0 && remove)
            r = fiber_job(remove_job, full);
    }
    return r;
}

static int sweep(struct storage *storage, bool remove, char ***found) {
    static const char *const parts[] = { "layers", "disks", "isos", "erofs" };
    int r = fiber_mutex_lock(&storage->layers, DEADLINE_NONE); /* nobody adds files meanwhile */

    if (r < 0)
        return r;
    for (size_t i = 0; r >= 0 && i < ELEMENTS(parts); i++)
        r = sweep_part(storage, parts[i], remove, found);
    fiber_mutex_unlock(&storage->layers);
    return r;
}

static int record_remove(struct storage *storage, struct stored *stored, struct error *error) {
    _cleanup_free_ char *key = text_format(IMAGE_PREFIX "%s", digest_hex(stored->image.digest));
    struct store_operation operation = { .type = STORE_DELETE, .key = key };
    int r;

    if (!key)
        return error_errno(error, -ENOMEM, "removing the image");
    if (stored->pins)
        return error_set(error, ERROR_IN_USE, "image", stored->image.digest, stored->pins->uuid);
    stored_hide(storage, stored); /* from here on nobody finds it */
    FAILPOINT("image-remove-before-commit");
    r = store_commit(storage->store, &operation, 1, NULL, error);
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
    int r = find(storage, name, &stored, error);

    if (r < 0)
        return r;
    if (list_count(stored->image.aliases) > 1 && list_has(stored->image.aliases, name)) {
        list_drop(stored->image.aliases, name);
        return stored_commit(storage, stored, error);
    }
    r = record_remove(storage, stored, error);
    if (r >= 0)
        r = sweep(storage, true, &found);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "removing the image's files") : r;
}

int storage_prune(struct storage *storage, bool all, uint64_t *ret_bytes, char ***ret_removed, struct error *error) {
    _cleanup_list_ char **found = NULL;
    int r = 0;

    *ret_bytes = 0;
    for (size_t i = 0; r >= 0 && i < storage->count;) {
        struct stored *stored = storage->list[i];
        uint64_t size = stored->image.size;
        if (stored->pins || (!all && list_count(stored->image.aliases) > 0)) {
            i++;
            continue;
        }
        r = list_add(ret_removed, stored->image.digest);
        if (r >= 0)
            r = record_remove(storage, stored, error);
        if (r >= 0)
            *ret_bytes += size;
    }
    if (r >= 0)
        r = sweep(storage, true, &found);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "pruning") : r;
}

/* --- uploads, findings, check -------------------------------------------------------------------------------------------------- */

int storage_upload_path(struct storage *storage, char **ret_path) {
    char name[17];

    random_hex(name, 8);
    *ret_path = text_format("%s/upload-%s", storage->staging, name);
    return *ret_path ? 0 : -ENOMEM;
}

int storage_check(struct storage *storage, bool deep, char ***ret_problems, struct error *error) {
    _cleanup_list_ char **found = NULL;
    int r = 0;

    (void) deep;
    for (size_t i = 0; r >= 0 && i < storage->count; i++) {
        const struct image *image = &storage->list[i]->image;
        const char *part = image->type == IMAGE_ISO ? "isos" : "disks";
        _cleanup_free_ char *path = image->type == IMAGE_OCI ? NULL : image_path(storage, part, image->digest);
        if (path && !file_exists(AT_FDCWD, path))
            r = list_addf(ret_problems, "image %s: its file is missing", image->digest);
        for (size_t j = 0; r >= 0 && j < image->layers.count; j++) {
            const struct image_layer *layer = (const struct image_layer *) image->layers.items + j;
            _cleanup_free_ char *directory = layer_path(storage, layer->diff_id);
            if (!directory || !file_exists(AT_FDCWD, directory))
                r = list_addf(ret_problems, "image %s: its layer %s is missing", image->digest, layer->diff_id);
        }
    }
    if (r >= 0)
        r = sweep(storage, false, &found);
    for (char **item = found; r >= 0 && item && *item; item++)
        r = list_addf(ret_problems, "image file %s belongs to no image", *item);
    return r < 0 ? error_errno(error, r, "checking the images") : 0;
}
