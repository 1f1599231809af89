// SPDX-License-Identifier: GPL-2.0-or-later
/* Files without a record: what a removal or a crash left. A file is in its final place before its record is there, so
 * whoever adds an image holds a claim on each of its files meanwhile.
 *
 * Taking away is a rename into another directory, at once for everybody; removing what lies there takes its time. So a
 * layer under its final name is always whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

/* --- claims ---------------------------------------------------------------------------------------------------------- */

int claim_take(struct storage *storage, const char *part, const char *digest, struct claim **ret) {
    _cleanup_free_ char *key = text_format("%s/%s", part, digest_hex(digest));
    struct claim *claim = key ? map_get(storage->claims, key) : NULL;
    int r;

    if (!key)
        return -ENOMEM;
    if (!claim) {
        claim = calloc(1, sizeof(*claim));
        if (!claim)
            return -ENOMEM;
        claim->key = STEAL_PTR(key);
        r = map_put(storage->claims, claim->key, claim);
        if (r < 0) {
            free(claim->key);
            free(claim);
            return r;
        }
    }
    claim->users++;
    *ret = claim;
    return 0;
}

void claim_drop(struct storage *storage, struct claim *claim) {
    if (!claim || --claim->users > 0)
        return;
    (void) map_remove(storage->claims, claim->key);
    free(claim->key);
    free(claim);
}

/* --- what belongs to nobody ---------------------------------------------------------------------------------------------- */

/* Names that records give, as "part/HEX" keys; values are not looked at. */
static int owned_add(struct map *owned, char ***keys, const char *part, const char *digest) {
    char *key = text_format("%s/%s", part, digest_hex(digest));
    int r;

    if (!key)
        return -ENOMEM;
    if (map_get(owned, key)) {
        free(key);
        return 0;
    }
    r = list_add_take(keys, key);
    return r < 0 ? r : map_put(owned, key, key);
}

static int owned_collect(struct storage *storage, struct map *owned, char ***keys) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < storage->count; i++) {
        const struct image *image = &storage->list[i]->image;
        const char *part = image->type == IMAGE_OCI ? "erofs" : image->type == IMAGE_ISO ? "isos" : "disks";
        r = owned_add(owned, keys, part, image->digest);
        if (r >= 0 && image->type == IMAGE_OCI)
            r = owned_add(owned, keys, "kernels", image->digest);
        for (size_t j = 0; r >= 0 && j < image->layers.count; j++)
            r = owned_add(owned, keys, "layers", ((struct image_layer *) image->layers.items)[j].diff_id);
    }
    return r;
}

static int find_part(struct storage *storage, const char *part, const struct map *owned, char ***found) {
    _cleanup_free_ char *path = text_format("%s/%s", storage->images, part);
    DIR *directory = path ? opendir(path) : NULL;
    struct dirent *entry;
    int r = 0;

    if (!directory)
        return path ? -errno : -ENOMEM;
    while (r >= 0 && (entry = readdir(directory))) {
        _cleanup_free_ char *key = text_format("%s/%s", part, entry->d_name);
        if (text_equal(entry->d_name, ".") || text_equal(entry->d_name, ".."))
            continue;
        if (!key)
            r = -ENOMEM;
        else if (!map_get(owned, key) && !map_get(storage->claims, key))
            r = list_add(found, key);
    }
    closedir(directory);
    return r;
}

/* Does not wait: what it finds is still so when it returns. */
static int find_ownerless(struct storage *storage, char ***found) {
    static const char *const parts[] = { "layers", "disks", "isos", "erofs", "kernels" };
    _cleanup_list_ char **keys = NULL;
    _cleanup_map_ struct map *owned = NULL;
    int r = map_new(&owned);

    if (r >= 0)
        r = owned_collect(storage, owned, &keys);
    for (size_t i = 0; r >= 0 && i < ELEMENTS(parts); i++)
        r = find_part(storage, parts[i], owned, found);
    return r;
}

/* --- away with it -------------------------------------------------------------------------------------------------------- */

static int move_away(const char *from, const char *directory, char ***moved) {
    char name[17];
    _cleanup_free_ char *to = NULL;

    random_hex(name, 8);
    to = text_format("%s/%s", directory, name);
    if (!to)
        return -ENOMEM;
    if (rename(from, to) < 0)
        return errno == ENOENT ? 0 : -errno;
    return moved ? list_add(moved, to) : 0;
}

static int move_ownerless(struct storage *storage, char ***found, char ***moved) {
    _cleanup_free_ char *discarded = text_format("%s/discarded", storage->images);
    int r = discarded ? find_ownerless(storage, found) : -ENOMEM;

    for (char **key = *found; r >= 0 && key && *key; key++) {
        _cleanup_free_ char *path = text_format("%s/%s", storage->images, *key);
        r = path ? move_away(path, discarded, moved) : -ENOMEM;
    }
    return r;
}

static int remove_all_job(void *userdata) {
    int r = 0;

    for (char **path = userdata; r >= 0 && path && *path; path++)
        r = file_remove_tree(AT_FDCWD, *path);
    return r;
}

int sweep(struct storage *storage, bool remove, char ***found) {
    _cleanup_list_ char **moved = NULL;
    int r;

    if (!remove)
        return find_ownerless(storage, found);
    r = move_ownerless(storage, found, &moved);
    return r < 0 ? r : fiber_job(remove_all_job, moved);
}

/* --- start ------------------------------------------------------------------------------------------------------------------ */

static int discard_job(void *userdata) {
    const char *path = userdata;
    DIR *directory = opendir(path);
    struct dirent *entry;

    if (!directory)
        return -errno;
    while ((entry = readdir(directory)))
        if (!text_equal(entry->d_name, ".") && !text_equal(entry->d_name, ".."))
            (void) file_remove_tree(dirfd(directory), entry->d_name);
    closedir(directory);
    return 0;
}

static int discard_fiber(void *userdata) {
    int r = fiber_job(discard_job, userdata);

    free(userdata);
    return r;
}

int staging_clear(const struct storage *storage) {
    _cleanup_free_ char *discarded = text_format("%s/discarded", storage->images);
    int r = discarded ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    resume_rescue(storage);
    r = move_away(storage->staging, discarded, NULL);
    return r < 0 ? r : file_make_directories(AT_FDCWD, storage->staging, 0711);
}

int sweep_at_start(struct storage *storage) {
    _cleanup_free_ char *discarded = text_format("%s/discarded", storage->images);
    _cleanup_list_ char **found = NULL;
    int r = discarded ? move_ownerless(storage, &found, NULL) : -ENOMEM;

    if (r >= 0)
        r = fiber_start(NULL, "discard", discard_fiber, discarded);
    if (r >= 0)
        (void) STEAL_PTR(discarded);
    return r;
}

/* --- check ------------------------------------------------------------------------------------------------------------------ */

/* Bytes of all files that are read, and how many of them were before this one. */
struct reading {
    const struct storage_progress *progress;
    uint64_t done, total;
};

static void report_reading(const char *step, uint64_t done, uint64_t total _unused_, void *userdata) {
    const struct reading *reading = userdata;

    progress_step(reading->progress, step, reading->done + done, reading->total);
}

static int hash_disk(struct storage *storage, const struct image *image, const char *path, struct reading *reading,
                     char ***problems, struct error *error) {
    const struct storage_progress progress = { .report = report_reading, .userdata = reading };
    _cleanup_free_ char *digest = NULL;
    uint64_t size = 0;
    int r;

    (void) file_size(AT_FDCWD, path, &size);
    progress_step(reading->progress, "reading images", reading->done, reading->total);
    r = file_digest(storage, path, -EBADF, "reading images", &progress, &digest, error);
    reading->done += size;
    if (r >= 0 && !text_equal(digest, image->digest))
        r = list_addf(problems, "image %s: its file has the digest %s", image->digest, digest);
    return r;
}

static char *single_file(struct storage *storage, const struct image *image) {
    return image->type == IMAGE_OCI ? NULL
                                    : image_path(storage, image->type == IMAGE_ISO ? "isos" : "disks", image->digest);
}

static uint64_t bytes_to_read(struct storage *storage) {
    uint64_t bytes = 0;

    for (size_t i = 0; i < storage->count; i++) {
        _cleanup_free_ char *path = single_file(storage, &storage->list[i]->image);
        uint64_t size;
        if (path && file_size(AT_FDCWD, path, &size) >= 0)
            bytes += size;
    }
    return bytes;
}

static int check_layers(struct storage *storage, const struct image *image, char ***problems) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < image->layers.count; i++) {
        const struct image_layer *layer = (const struct image_layer *) image->layers.items + i;
        _cleanup_free_ char *directory = layer_path(storage, layer->diff_id);
        if (!directory || !file_exists(AT_FDCWD, directory))
            r = list_addf(problems, "image %s: its layer %s is missing", image->digest, layer->diff_id);
    }
    return r;
}

/* `digest` is a copy: the image may go while its file is read. reading NULL: it is not. */
static int check_image(struct storage *storage, const char *digest, struct reading *reading, char ***problems,
                       struct error *error) {
    struct stored *stored = stored_find(storage, digest);
    const struct image *image = stored ? &stored->image : NULL;
    _cleanup_free_ char *path = NULL;

    if (!image)
        return 0;
    if (image->type == IMAGE_OCI)
        return check_layers(storage, image, problems);
    path = single_file(storage, image);
    if (!path || !file_exists(AT_FDCWD, path))
        return list_addf(problems, "image %s: its file is missing", digest);
    return reading ? hash_disk(storage, image, path, reading, problems, error) : 0;
}

/* The directory for boot media and disks is never written after it was filled, so a digest that differs is damage. The
 * bytes of unpacked layers are not hashed: the digest of a layer is of its archive. */
int storage_check(struct storage *storage, bool deep, const struct storage_progress *progress, char ***ret_problems,
                  struct error *error) {
    _cleanup_list_ char **found = NULL, **digests = NULL;
    struct reading reading = { .progress = progress };
    int r = storage_wait(storage, progress, error);

    if (r < 0)
        return r;
    r = deep ? fiber_mutex_lock(&storage->records, DEADLINE_NONE) : 0;
    if (r < 0)
        return error_errno(error, r, "checking the images");
    for (size_t i = 0; r >= 0 && i < storage->count; i++)
        r = list_add(&digests, storage->list[i]->image.digest);
    if (deep)
        reading.total = bytes_to_read(storage);
    for (char **digest = digests; r >= 0 && digest && *digest; digest++)
        r = check_image(storage, *digest, deep ? &reading : NULL, ret_problems, error);
    if (deep)
        fiber_mutex_unlock(&storage->records);
    if (r >= 0)
        r = sweep(storage, false, &found);
    for (char **item = found; r >= 0 && item && *item; item++)
        r = list_addf(ret_problems, "image file %s belongs to no image", *item);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "checking the images") : r;
}
