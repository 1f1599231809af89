// SPDX-License-Identifier: GPL-2.0-or-later
/* Images from files: disks, boot media and root file systems. The file is a name in staging that only we use; its bytes
 * are foreign and are only ever read by the jailed worker. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "storage/internal.h"

/* Digest of a file (its bytes copied to `output`, or nowhere if that is negative), compared with `expected` if given. */
static int file_digest(struct storage *storage, const char *path, int output, const char *expected, const char *step,
                       const struct storage_progress *progress, char **ret_digest, struct error *error) {
    _cleanup_close_ int input = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), nowhere = -EBADF;
    _cleanup_json_ struct json_object *result = NULL;
    char *arguments[] = { "polder-worker", "verify-blob", "--input-fd", "3", "--output-fd", "4", NULL, NULL, NULL };
    struct process_fd fds[2] = { { input, 3 }, { output, 4 } };
    const char *digest;
    int r;

    if (input < 0)
        return error_errno(error, -errno, "opening the file");
    if (output < 0) {
        nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        fds[1].source = nowhere;
    }
    if (expected) {
        arguments[6] = "--digest";
        arguments[7] = (char *) expected;
    } else if (output >= 0) {
        arguments[6] = "--sync";
    }
    r = worker_call(storage, arguments, fds, 2, step, progress, &result, error);
    if (r < 0)
        return r;
    digest = json_text(result, "digest", "");
    if (!image_digest_is_valid(digest))
        return error_set(error, ERROR_PROGRAM_FAILED, "polder-worker", "it gave no digest");
    *ret_digest = strdup(digest);
    return *ret_digest ? 0 : error_errno(error, -ENOMEM, "reading the file");
}

static int check_checksum(struct storage *storage, const char *path, const struct image_request *request,
                          const struct storage_progress *progress, struct error *error) {
    _cleanup_free_ char *digest = NULL;
    int r;

    if (!request->checksum)
        return 0;
    if (!image_digest_is_valid(request->checksum))
        return error_set(error, ERROR_BAD_VALUE, "checksum", request->checksum, "use sha256: and 64 hexadecimal digits");
    r = file_digest(storage, path, -EBADF, NULL, "checking the checksum", progress, &digest, error);
    if (r >= 0 && !text_equal(digest, request->checksum))
        r = error_set(error, ERROR_BAD_DIGEST, "the file", digest, request->checksum);
    return r;
}

static int check_alias(const char *alias, struct error *error) {
    if (!alias || image_alias_is_valid(alias))
        return 0;
    return error_set(error, ERROR_BAD_VALUE, "alias", alias, "use letters, digits and ._:/@- (at most 255)");
}

/* The finished file becomes images/PART/HEX, durable, and then an image. Takes storage->layers so that a sweep does not
 * remove it before its record is there. */
static int publish_file(struct storage *storage, const char *path, const char *part, struct image *image,
                        const char *alias, const struct image **ret, struct error *error) {
    _cleanup_free_ char *final = image_path(storage, part, image->digest);
    _cleanup_close_ int parent = -EBADF;
    const char *name;
    struct stat status;
    int r = final ? fiber_mutex_lock(&storage->layers, DEADLINE_NONE) : -ENOMEM;

    if (r < 0) {
        table_done(&image_table, image);
        return error_errno(error, r, "keeping the image");
    }
    if (chmod(path, 0400) < 0 || stat(path, &status) < 0 || rename(path, final) < 0)
        r = -errno;
    parent = r < 0 ? -EBADF : file_open_parent(AT_FDCWD, final, &name);
    if (r >= 0 && (parent < 0 || fsync(parent) < 0))
        r = -errno;
    FAILPOINT("import-after-rename");
    if (r < 0) {
        table_done(&image_table, image);
        r = error_errno(error, r, "keeping the image");
    } else {
        image->size = (uint64_t) status.st_blocks * 512;
        r = stored_add_take(storage, image, alias, ret, error);
    }
    fiber_mutex_unlock(&storage->layers);
    return r;
}

static int image_begin(struct image *image, enum image_type type, const char *source, struct error *error) {
    int r = table_init(&image_table, image);

    if (r >= 0) {
        image->type = type;
        image->source = strdup(source);
        image->architecture = strdup("amd64");
        image->os = strdup(type == IMAGE_OCI ? "linux" : "unknown");
        r = image->source && image->architecture && image->os ? 0 : -ENOMEM;
    }
    return r < 0 ? error_errno(error, r, "adding the image") : 0;
}

/* --- disks ------------------------------------------------------------------------------------------------------------- */

static int disk_convert(struct storage *storage, const char *path, const char *target,
                        const struct image_request *request, const struct storage_progress *progress,
                        uint64_t *ret_virtual, struct error *error) {
    _cleanup_close_ int input = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    _cleanup_close_ int output = open(target, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const struct process_fd fds[] = { { input, 3 }, { output, 4 } };
    _cleanup_list_ char **arguments = NULL;
    _cleanup_json_ struct json_object *result = NULL;
    static const char *const fixed[] = { "polder-worker", "convert-disk", "--input-fd", "3", "--output-fd", "4", "--sync" };
    int r = 0;

    if (input < 0 || output < 0)
        return error_errno(error, -errno, "opening the disk image");
    for (size_t i = 0; r >= 0 && i < ELEMENTS(fixed); i++)
        r = list_add(&arguments, fixed[i]);
    if (request->format) {
        r = r < 0 ? r : list_add(&arguments, "--declared");
        r = r < 0 ? r : list_add(&arguments, request->format);
    }
    if (request->maximum > 0) {
        r = r < 0 ? r : list_add(&arguments, "--max-bytes");
        r = r < 0 ? r : list_addf(&arguments, "%llu", (unsigned long long) request->maximum);
    }
    if (r < 0)
        return error_errno(error, r, "converting");
    r = worker_call(storage, arguments, fds, ELEMENTS(fds), "converting", progress, &result, error);
    if (r >= 0)
        *ret_virtual = (uint64_t) json_integer(result, "virtual_size", 0);
    return r;
}

int disk_add(struct storage *storage, const char *path, const struct image_request *request, const char *source,
             const struct storage_progress *progress, const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    _cleanup_free_ char *target = NULL;
    struct image image = { 0 };
    int r = check_alias(request->alias, error);

    if (r >= 0)
        r = check_checksum(storage, path, request, progress, error);
    if (r >= 0)
        r = staging_make(storage, &directory, error);
    if (r < 0)
        return r;
    target = text_format("%s/disk", directory);
    r = target ? image_begin(&image, IMAGE_DISK, source, error) : -ENOMEM;
    if (r >= 0)
        r = disk_convert(storage, path, target, request, progress, &image.virtual_size, error);
    FAILPOINT("import-after-convert");
    if (r >= 0)
        r = file_digest(storage, target, -EBADF, NULL, "reading it back", progress, &image.digest, error);
    if (r < 0) {
        table_done(&image_table, &image);
        return error_is_set(error) ? r : error_errno(error, r, "importing the disk");
    }
    return publish_file(storage, target, "disks", &image, request->alias, ret, error);
}

/* Only what is a boot medium and nothing else at the same time. */
static int iso_probe(struct storage *storage, const char *path, struct error *error) {
    _cleanup_close_ int input = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char *arguments[] = { "polder-worker", "probe-disk", "--input-fd", "3", "--declared", "iso", NULL };
    const struct process_fd fds[] = { { input, 3 } };
    _cleanup_json_ struct json_object *result = NULL;

    if (input < 0)
        return error_errno(error, -errno, "opening the boot medium");
    return worker_call(storage, arguments, fds, 1, "looking", NULL, &result, error);
}

int iso_add(struct storage *storage, const char *path, const struct image_request *request, const char *source,
            const struct storage_progress *progress, const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    _cleanup_free_ char *target = NULL;
    _cleanup_close_ int output = -EBADF;
    struct image image = { 0 };
    uint64_t size = 0;
    int r = check_alias(request->alias, error);

    if (r >= 0)
        r = iso_probe(storage, path, error);
    if (r >= 0)
        r = check_checksum(storage, path, request, progress, error);
    if (r >= 0)
        r = staging_make(storage, &directory, error);
    if (r < 0)
        return r;
    target = text_format("%s/iso", directory);
    output = target ? open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -ENOMEM;
    r = output < 0 ? error_errno(error, -errno, "keeping the boot medium") : image_begin(&image, IMAGE_ISO, source, error);
    if (r >= 0)
        r = file_digest(storage, path, output, NULL, "copying", progress, &image.digest, error);
    if (r >= 0)
        r = file_size(AT_FDCWD, target, &size);
    image.virtual_size = size;
    if (r < 0) {
        table_done(&image_table, &image);
        return error_is_set(error) ? r : error_errno(error, r, "importing the boot medium");
    }
    return publish_file(storage, target, "isos", &image, request->alias, ret, error);
}

/* --- root file systems ---------------------------------------------------------------------------------------------------- */

static int rootfs_unpack(struct storage *storage, const char *tar_path, const char *target, uint64_t maximum,
                         const struct storage_progress *progress, struct image_layer *layer, struct error *error) {
    _cleanup_close_ int input = open(tar_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    _cleanup_close_ int root = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct process_fd fds[] = { { input, 3 }, { root, 4 } };
    char most[24];
    char *arguments[] = { "polder-worker", "rootfs-tar-import", "--input-fd", "3", "--root-fd", "4", "--sync",
                          maximum ? "--max-bytes" : NULL, maximum ? most : NULL, NULL };
    _cleanup_json_ struct json_object *result = NULL;
    const char *diff_id;
    int r;

    if (input < 0 || root < 0)
        return error_errno(error, -errno, "opening the root file system");
    snprintf(most, sizeof(most), "%llu", (unsigned long long) maximum);
    r = worker_call(storage, arguments, fds, ELEMENTS(fds), "unpacking", progress, &result, error);
    if (r < 0)
        return r;
    diff_id = json_text(result, "diff_id", "");
    if (!image_digest_is_valid(diff_id))
        return error_set(error, ERROR_PROGRAM_FAILED, "polder-worker", "it gave no digest");
    layer->diff_id = strdup(diff_id);
    layer->digest = strdup(diff_id);
    layer->size = (uint64_t) json_integer(result, "size_on_disk", 0);
    return layer->diff_id && layer->digest ? 0 : error_errno(error, -ENOMEM, "unpacking");
}

/* The identity of an image that never had a manifest: what it is made of. */
static char *rootfs_identity(const struct image *image, const struct image_layer *layer) {
    _cleanup_free_ char *command = list_join(image->config.command, " ");
    _cleanup_free_ char *text = text_format("polder rootfs\n%s\n%s\n", layer->diff_id, command ? command : "");

    return text ? digest_of(text, strlen(text)) : NULL;
}

static int rootfs_publish(struct storage *storage, const char *directory, struct image *image, const char *alias,
                          const struct image **ret, struct error *error) {
    struct image_layer *layer = image->layers.items;
    _cleanup_free_ char *final = layer_path(storage, layer->diff_id);
    _cleanup_close_ int parent = -EBADF;
    const char *name;
    int r = final ? fiber_mutex_lock(&storage->layers, DEADLINE_NONE) : -ENOMEM;

    if (r < 0)
        return error_errno(error, r, "keeping the image");
    if (rename(directory, final) < 0 && errno != EEXIST && errno != ENOTEMPTY)
        r = -errno;
    parent = r < 0 ? -EBADF : file_open_parent(AT_FDCWD, final, &name);
    if (r >= 0 && (parent < 0 || fsync(parent) < 0))
        r = -errno;
    if (r >= 0) {
        r = stored_add_take(storage, image, alias, ret, error);
        *image = (struct image){ 0 };
    } else {
        r = error_errno(error, r, "keeping the image");
    }
    fiber_mutex_unlock(&storage->layers);
    return r;
}

int rootfs_add(struct storage *storage, const char *tar_path, const struct image_request *request, const char *source,
               char *const *command, const struct storage_progress *progress, const struct image **ret,
               struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    struct image image = { 0 };
    struct image_layer *layer = calloc(1, sizeof(*layer));
    int r = layer ? check_alias(request->alias, error) : -ENOMEM;

    if (r >= 0)
        r = check_checksum(storage, tar_path, request, progress, error);
    if (r >= 0)
        r = staging_make(storage, &directory, error);
    if (r >= 0)
        r = image_begin(&image, IMAGE_OCI, source, error);
    if (r < 0) {
        free(layer);
        return error_is_set(error) ? r : error_errno(error, r, "importing");
    }
    image.layers.items = layer;
    image.layers.count = 1;
    r = rootfs_unpack(storage, tar_path, directory, request->maximum, progress, layer, error);
    if (r >= 0)
        r = list_copy(command, &image.config.command);
    if (r >= 0) {
        image.size = layer->size;
        image.digest = rootfs_identity(&image, layer);
        r = image.digest ? rootfs_publish(storage, directory, &image, request->alias, ret, error) : -ENOMEM;
    }
    table_done(&image_table, &image);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "importing") : r;
}

/* --- builds ------------------------------------------------------------------------------------------------------------------ */

static int build_busybox(struct storage *storage, const char *directory, const struct image_request *request,
                         const struct storage_progress *progress, const struct image **ret, struct error *error) {
    char *arguments[] = { "polder-build-busybox", "--output", (char *) directory, NULL };
    char *command[] = { "sh", NULL };
    _cleanup_free_ char *tar = text_format("%s/rootfs.tar", directory);
    struct image_request named = *request;
    int r = tar ? builder_call(storage, "polder-build-busybox", arguments, progress, error) : -ENOMEM;

    if (!named.alias)
        named.alias = "busybox";
    return r < 0 ? r : rootfs_add(storage, tar, &named, "build:busybox", command, progress, ret, error);
}

static int add_debian_parts(struct storage *storage, const char *directory, const struct image_request *request,
                            const char *variant, const struct storage_progress *progress, const struct image **ret,
                            struct error *error) {
    const char *alias = request->alias ? request->alias : request->reference;
    _cleanup_free_ char *tar = text_format("%s/rootfs.tar", directory), *disk = text_format("%s/disk.qcow2", directory);
    _cleanup_free_ char *disk_alias = text_format("%s-disk", alias), *source = text_format("build:%s", request->reference);
    char *command[] = { "bash", NULL };
    struct image_request named = *request;
    int r = tar && disk && disk_alias && source ? 0 : -ENOMEM;

    named.alias = disk_alias;
    named.format = "qcow2";
    if (r >= 0 && !text_equal(variant, "container"))
        r = disk_add(storage, disk, &named, source, progress, ret, error);
    named.alias = alias;
    if (r >= 0 && !text_equal(variant, "disk"))
        r = rootfs_add(storage, tar, &named, source, command, progress, ret, error);
    return r;
}

static int build_debian(struct storage *storage, const char *directory, const struct image_request *request,
                        const struct storage_progress *progress, const struct image **ret, struct error *error) {
    const char *suite = strchr(request->reference, ':'), *variant = request->variant ? request->variant : "both";
    const char *kernel = request->kernel ? request->kernel : "cloud";
    char *arguments[] = { "polder-build-debian", "--suite", suite ? (char *) suite + 1 : "bookworm", "--output",
                          (char *) directory, "--variant", (char *) variant, "--kernel", (char *) kernel, NULL };
    int r;

    if (!text_equal(variant, "container") && !text_equal(variant, "disk") && !text_equal(variant, "both"))
        return error_set(error, ERROR_BAD_VALUE, "variant", variant, "use container, disk or both");
    if (!text_equal(kernel, "cloud") && !text_equal(kernel, "generic"))
        return error_set(error, ERROR_BAD_VALUE, "kernel", kernel, "use cloud or generic");
    r = builder_call(storage, "polder-build-debian", arguments, progress, error);
    return r < 0 ? r : add_debian_parts(storage, directory, request, variant, progress, ret, error);
}

int build_add(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
              const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    const char *what = request->reference ? request->reference : "";
    bool debian = text_equal(what, "debian") || text_starts(what, "debian:");
    int r;

    if (!debian && !text_equal(what, "busybox"))
        return error_set(error, ERROR_BAD_SOURCE, what, "busybox and debian:SUITE can be built");
    if (debian && strspn(what, ":abcdefghijklmnopqrstuvwxyz") != strlen(what))
        return error_set(error, ERROR_BAD_SOURCE, what, "a suite is a word such as bookworm");
    r = staging_make(storage, &directory, error);
    if (r < 0)
        return r;
    FAILPOINT("build-before-builder");
    return debian ? build_debian(storage, directory, request, progress, ret, error)
                  : build_busybox(storage, directory, request, progress, ret, error);
}

/* --- from wherever ---------------------------------------------------------------------------------------------------------- */

static int from_file(struct storage *storage, const char *path, const struct image_request *request, const char *source,
                     const struct storage_progress *progress, const struct image **ret, struct error *error) {
    char *command[] = { "/bin/sh", NULL };

    switch (request->source) {
    case SOURCE_DISK:
        return disk_add(storage, path, request, source, progress, ret, error);
    case SOURCE_ISO:
        return iso_add(storage, path, request, source, progress, ret, error);
    default:
        return rootfs_add(storage, path, request, source, command, progress, ret, error);
    }
}

static int from_url(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
                    const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    _cleanup_free_ char *path = NULL;
    int r = staging_make(storage, &directory, error);

    if (r < 0)
        return r;
    path = text_format("%s/download", directory);
    r = path ? url_fetch(storage, request->reference, path, request->maximum, progress, error) : -ENOMEM;
    return r < 0 ? r : from_file(storage, path, request, request->reference, progress, ret, error);
}

int storage_image_add(struct storage *storage, const struct image_request *request,
                      const struct storage_progress *progress, const struct image **ret, struct error *error) {
    switch (request->source) {
    case SOURCE_DOCKER:
    case SOURCE_OCI:
    case SOURCE_DOCKER_ARCHIVE:
        return oci_add(storage, request, progress, ret, error);
    case SOURCE_BUILD:
        return build_add(storage, request, progress, ret, error);
    default:
        return request->file ? from_file(storage, request->file, request, "upload", progress, ret, error)
                             : from_url(storage, request, progress, ret, error);
    }
}
