// SPDX-License-Identifier: GPL-2.0-or-later
/* OCI and docker images: skopeo brings manifest, configuration and layer blobs into a staging directory (its "dir:"
 * layout keeps the manifest's own bytes, so that the digest is the registry's); what it wrote is foreign and is read
 * with limits, checked against its digests, and unpacked by the jailed worker. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "storage/internal.h"
#include "storage/oci.h"

static int refuse(struct error *error, const char *what) {
    return error_set(error, ERROR_BAD_IMAGE, what);
}

static void oci_free(struct storage *storage, struct oci *oci) {
    for (size_t i = 0; i < oci->count; i++)
        claim_drop(storage, oci->claims[i]);
    json_put(oci->manifest);
    json_put(oci->config);
    close_fd(oci->directory);
    free(oci);
}

/* --- layers -------------------------------------------------------------------------------------------------------------- */

struct unpack {
    struct oci *oci;
    size_t index;
    uint64_t maximum;
    const char *step;
    const struct storage_progress *progress;
};

static int unpack_arguments(const struct unpack *unpack, char ***ret) {
    const struct image_layer *layer = &unpack->oci->layers[unpack->index];
    const char *const fixed[] = { "polder-worker", "unpack-layer", "--input-fd", "3", "--root-fd", "4", "--sync",
                                  "--digest", layer->digest, "--diff-id", layer->diff_id, "--media-type",
                                  unpack->oci->media_types[unpack->index] };
    _cleanup_list_ char **arguments = NULL;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(fixed); i++)
        r = list_add(&arguments, fixed[i]);
    if (unpack->maximum > 0) {
        r = r < 0 ? r : list_add(&arguments, "--max-bytes");
        r = r < 0 ? r : list_addf(&arguments, "%llu", (unsigned long long) unpack->maximum);
    }
    if (r >= 0)
        *ret = STEAL_PTR(arguments);
    return r;
}

/* A docker archive has no manifest: skopeo makes one up, in which every layer is compressed. The bytes tell. */
static void correct_media_type(struct oci *oci, size_t index, int blob) {
    static const unsigned char gzip[] = { 0x1f, 0x8b };
    unsigned char start[sizeof(gzip)];

    if (oci->from_archive &&
        (pread(blob, start, sizeof(start), 0) != sizeof(start) || memcmp(start, gzip, sizeof(gzip)) != 0))
        oci->media_types[index] = "application/vnd.docker.image.rootfs.diff.tar";
}

static int unpack_blob(struct storage *storage, const char *target, void *userdata, uint64_t *ret_size,
                       struct error *error) {
    const struct unpack *unpack = userdata;
    _cleanup_list_ char **arguments = NULL;
    _cleanup_json_ struct json_object *result = NULL;
    _cleanup_close_ int blob = oci_open_plain(unpack->oci->directory, digest_hex(unpack->oci->layers[unpack->index].digest));
    _cleanup_close_ int root = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct process_fd fds[] = { { blob, 3 }, { root, 4 } };
    int r;

    if (blob < 0)
        return refuse(error, "a layer's blob is missing");
    if (root < 0)
        return error_errno(error, -errno, "opening %s", target);
    correct_media_type(unpack->oci, unpack->index, blob);
    r = unpack_arguments(unpack, &arguments);
    if (r < 0)
        return error_errno(error, r, "unpacking");
    r = worker_call(storage, arguments, fds, ELEMENTS(fds), unpack->step, unpack->progress, &result, error);
    if (r >= 0)
        *ret_size = (uint64_t) json_integer(result, "size_on_disk", 0);
    return r;
}

static bool layer_is_known(struct storage *storage, const char *diff_id, uint64_t *ret_size) {
    size_t position = 0;
    const struct image *image;

    while ((image = storage_image_next(storage, &position)))
        for (size_t i = 0; i < image->layers.count; i++) {
            const struct image_layer *layer = (const struct image_layer *) image->layers.items + i;
            if (text_equal(layer->diff_id, diff_id)) {
                *ret_size = layer->size;
                return true;
            }
        }
    return false;
}

/* A directory that a record names was checked when it came; one without a record may be of any crash. */
static int layer_make(struct storage *storage, struct claim *claim, const char *diff_id,
                      const struct layer_source *source, struct error *error) {
    _cleanup_free_ char *final = layer_path(storage, diff_id);
    _cleanup_staging_ char *staging = NULL;
    int r;

    if (claim->ready)
        return 0;
    if (!final)
        return error_errno(error, -ENOMEM, "keeping a layer");
    if (layer_is_known(storage, diff_id, &claim->size) && file_exists(AT_FDCWD, final)) {
        claim->ready = true;
        return 0;
    }
    r = staging_make(storage, &staging, error);
    if (r >= 0)
        r = source->unpack(storage, staging, source->userdata, &claim->size, error);
    FAILPOINT("layer-before-publish");
    if (r >= 0)
        r = staging_publish(storage, staging, final);
    FAILPOINT("layer-after-publish");
    claim->ready = r >= 0;
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "keeping a layer") : r;
}

int layer_ensure(struct storage *storage, struct claim *claim, const char *diff_id, const struct layer_source *source,
                 struct error *error) {
    int r = fiber_mutex_lock(&claim->mutex, DEADLINE_NONE);

    if (r < 0)
        return error_errno(error, r, "keeping a layer");
    r = layer_make(storage, claim, diff_id, source, error);
    fiber_mutex_unlock(&claim->mutex);
    return r;
}

/* The blob's space is free again before the next layer, unless a later one is the same. */
static void drop_blob(const struct oci *oci, size_t index) {
    if (oci->keeps_blobs)
        return;
    for (size_t i = index + 1; i < oci->count; i++)
        if (text_equal(oci->layers[i].digest, oci->layers[index].digest))
            return;
    (void) unlinkat(oci->directory, digest_hex(oci->layers[index].digest), 0);
}

/* The image is there. What is left in the directory then is of other images: what earlier pulls had brought. */
static void drop_blobs(struct oci *oci) {
    oci->keeps_blobs = false;
    for (size_t i = 0; i < oci->count; i++)
        drop_blob(oci, i);
    (void) unlinkat(oci->directory, digest_hex(json_text(json_member(oci->manifest, "config"), "digest", "")), 0);
}

static uint64_t blob_bytes(const struct oci *oci) {
    struct json_object *layers = json_member(oci->manifest, "layers");
    uint64_t bytes = 0;

    for (size_t i = 0; i < oci->count; i++)
        bytes += (uint64_t) json_integer(json_object_array_get_idx(layers, i), "size", 0);
    return bytes;
}

static int unpack_all(struct storage *storage, struct oci *oci, uint64_t maximum, const struct storage_progress *progress,
                      struct error *error) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < oci->count; i++) {
        _cleanup_free_ char *step = text_format("unpacking layer %zu of %zu", i + 1, oci->count);
        struct unpack unpack = { .oci = oci, .index = i, .maximum = maximum, .step = step, .progress = progress };
        struct layer_source source = { unpack_blob, &unpack };
        r = step ? claim_take(storage, "layers", oci->layers[i].diff_id, &oci->claims[i]) : -ENOMEM;
        if (r < 0)
            return error_errno(error, r, "unpacking");
        progress_step(progress, step, 0, 0);
        r = layer_ensure(storage, oci->claims[i], oci->layers[i].diff_id, &source, error);
        oci->layers[i].size = oci->claims[i]->size;
        drop_blob(oci, i);
    }
    return r;
}

static int image_layers(struct image *image, const struct oci *oci) {
    struct image_layer *items = calloc(oci->count, sizeof(*items));

    if (!items)
        return -ENOMEM;
    image->layers.items = items;
    image->layers.count = oci->count;
    for (size_t i = 0; i < oci->count; i++) {
        items[i].digest = strdup(oci->layers[i].digest);
        items[i].diff_id = strdup(oci->layers[i].diff_id);
        items[i].size = oci->layers[i].size;
        image->size += oci->layers[i].size;
        if (!items[i].digest || !items[i].diff_id)
            return -ENOMEM;
    }
    return 0;
}

/* --- all of it -------------------------------------------------------------------------------------------------------------- */

/* An index is chosen from by skopeo; what is one image alone is taken by it whatever its platform is. */
static int check_platform(const struct image_request *request, const struct image *image, struct error *error) {
    const char *architecture = request->platform ? strchr(request->platform, '/') + 1 : NULL;
    _cleanup_free_ char *reason = NULL;
    size_t length = architecture ? strcspn(architecture, "/") : 0;

    if (!architecture || (image->architecture && strlen(image->architecture) == length &&
                          strncmp(image->architecture, architecture, length) == 0))
        return 0;
    reason = text_format("it is for linux/%s alone, and %s was asked for",
                         image->architecture ? image->architecture : "an unnamed processor", request->platform);
    return error_set(error, ERROR_BAD_IMAGE, reason ? reason : "it is for another platform");
}

static int take_image(struct storage *storage, struct oci *oci, const struct image_request *request, const char *alias,
                      const struct storage_progress *progress, const struct image **ret, struct error *error) {
    struct image image;
    int r = table_init(&image_table, &image);

    if (r < 0)
        return error_errno(error, r, "adding the image");
    r = oci_read_image(oci, &image, error);
    if (r >= 0)
        r = check_platform(request, &image, error);
    oci->keeps_blobs = r >= 0 && request->source == SOURCE_DOCKER && resume_has_room(storage, blob_bytes(oci));
    if (r >= 0)
        r = unpack_all(storage, oci, request->maximum, progress, error);
    if (r >= 0) {
        image.source = strdup(request->source == SOURCE_DOCKER ? request->reference : "upload");
        r = image.digest && image.source ? image_layers(&image, oci) : -ENOMEM;
    }
    if (r >= 0) {
        r = stored_add_take(storage, &image, alias, ret, error);
        image = (struct image){ 0 };
    }
    if (r >= 0)
        drop_blobs(oci);
    table_done(&image_table, &image);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "adding the image") : r;
}

static int take_directory(struct storage *storage, const char *directory, const struct image_request *request,
                          const char *alias, const struct storage_progress *progress, const struct image **ret,
                          struct error *error) {
    _cleanup_free_ char *path = text_format("%s/image", directory);
    struct oci *oci = calloc(1, sizeof(*oci));
    int r;

    if (!oci || !path) {
        free(oci);
        return error_errno(error, -ENOMEM, "adding the image");
    }
    oci->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    oci->from_archive = request->source == SOURCE_DOCKER_ARCHIVE;
    if (oci->directory < 0)
        r = refuse(error, "nothing came");
    else
        r = take_image(storage, oci, request, alias, progress, ret, error);
    oci_free(storage, oci);
    return r;
}

/* "docker://[host/]repository[:tag|@digest]": only what a reference may hold, so that it is never an option or a path. */
static int check_reference(const char *reference, struct error *error) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:/@-[]";
    const char *name = reference + strlen("docker://");

    if (!text_starts(reference, "docker://") || strlen(name) == 0 || strlen(name) > 255 ||
        strspn(name, letters) != strlen(name) || strchr("-./:@", *name) || strstr(name, ".."))
        return error_set(error, ERROR_BAD_SOURCE, reference, "use docker://[host/]repository[:tag or @digest]");
    return 0;
}

/* The name people call it by: without scheme; without a tag it is "latest", which a bare name finds too. An upload has
 * the name that it was given, or none. */
static char *alias_of(const struct image_request *request) {
    const char *name = request->reference + strlen("docker://");

    if (text_starts(name, "docker.io/library/"))
        name += strlen("docker.io/library/");
    return strdup(name);
}

/* Blobs of an image that is bad are of no use to anybody; for want of room even those of others go. */
static bool is_worth_keeping(const struct error *error) {
    return error->code != ERROR_BAD_IMAGE && error->code != ERROR_BAD_DIGEST && error->code != ERROR_NO_SPACE;
}

static int fetch(struct storage *storage, const struct image_request *request, const char *directory, const char *alias,
                 const struct storage_progress *progress, const struct image **ret, struct error *error) {
    struct resume resume = RESUME_INIT;
    int r = 0;

    if (request->source == SOURCE_DOCKER)
        r = resume_open(&resume, storage, request->reference, directory, progress, error);
    FAILPOINT("pull-before-skopeo");
    if (r >= 0) {
        progress_step(progress, "downloading", 0, 0);
        r = skopeo_copy(request, directory, &resume, progress, error);
    }
    FAILPOINT("pull-after-skopeo");
    if (r >= 0)
        r = take_directory(storage, directory, request, alias, progress, ret, error);
    resume_close(&resume, r >= 0 || is_worth_keeping(error));
    if (r < 0 && error->code == ERROR_NO_SPACE)
        (void) resume_forget(storage);
    return r;
}

int oci_add(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
            const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    _cleanup_free_ char *derived = NULL;
    const char *alias = request->alias;
    int r = request->source == SOURCE_DOCKER ? check_reference(request->reference, error) : 0;

    if (r >= 0 && !alias && request->source == SOURCE_DOCKER) {
        derived = alias_of(request);
        alias = derived;
        r = derived ? image_alias_check(alias, error) : error_errno(error, -ENOMEM, "adding the image");
    }
    if (r >= 0)
        r = request->source == SOURCE_DOCKER ? resume_staging(storage, request->reference, &directory, error)
                                             : staging_make(storage, &directory, error);
    return r < 0 ? r : fetch(storage, request, directory, alias, progress, ret, error);
}
