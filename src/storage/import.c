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

int file_digest(struct storage *storage, const char *path, int output, const char *step,
                const struct storage_progress *progress, char **ret_digest, struct error *error) {
    _cleanup_close_ int input = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), nowhere = -EBADF;
    _cleanup_json_ struct json_object *result = NULL;
    char *arguments[] = { "polder-worker", "verify-blob", "--input-fd", "3", "--output-fd", "4",
                          output >= 0 ? "--sync" : NULL, NULL };
    struct process_fd fds[2] = { { input, 3 }, { output, 4 } };
    const char *digest;
    int r;

    if (input < 0)
        return error_errno(error, -errno, "opening the file");
    if (output < 0) {
        nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (nowhere < 0)
            return error_errno(error, -errno, "opening /dev/null");
        fds[1].source = nowhere;
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
    r = file_digest(storage, path, -EBADF, "checking the checksum", progress, &digest, error);
    if (r >= 0 && !text_equal(digest, request->checksum))
        r = error_set(error, ERROR_BAD_DIGEST, "the file", digest, request->checksum);
    return r;
}

/* The finished, synced file becomes images/PART/HEX, and then an image. The claim keeps a sweep from taking it before its
 * record is there. `image` is consumed even on failure. */
static int publish_file(struct storage *storage, const char *path, const char *part, struct image *image,
                        const char *alias, const struct image **ret, struct error *error) {
    _cleanup_free_ char *final = image_path(storage, part, image->digest);
    struct claim *claim = NULL;
    struct stat status;
    int r = final ? claim_take(storage, part, image->digest, &claim) : -ENOMEM;

    if (r >= 0 && (chmod(path, 0400) < 0 || stat(path, &status) < 0))
        r = -errno;
    /* One that is there already has the same bytes and may be in use by QEMU: it stays. */
    if (r >= 0 && !stored_find(storage, image->digest))
        r = staging_publish(storage, path, final);
    FAILPOINT("import-after-rename");
    if (r < 0) {
        table_done(&image_table, image);
        r = error_errno(error, r, "keeping the image");
    } else {
        image->size = (uint64_t) status.st_blocks * 512;
        r = stored_add_take(storage, image, alias, ret, error);
    }
    claim_drop(storage, claim);
    return r;
}

static int image_begin(struct image *image, enum image_type type, const char *source, struct error *error) {
    int r = table_init(&image_table, image);

    if (r >= 0) {
        image->type = type;
        image->source = strdup(source);
        image->architecture = strdup(host_architecture());
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
    int r = check_checksum(storage, path, request, progress, error);

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
        r = file_digest(storage, target, -EBADF, "reading it back", progress, &image.digest, error);
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
    int r = check_checksum(storage, path, request, progress, error);

    if (r >= 0)
        r = iso_probe(storage, path, error);
    if (r >= 0)
        r = staging_make(storage, &directory, error);
    if (r < 0)
        return r;
    target = text_format("%s/iso", directory);
    output = target ? open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -ENOMEM;
    r = output < 0 ? error_errno(error, -errno, "keeping the boot medium") : image_begin(&image, IMAGE_ISO, source, error);
    if (r >= 0)
        r = file_digest(storage, path, output, "copying", progress, &image.digest, error);
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

struct rootfs {
    const char *directory; /* unpacked already: its name is only known then */
    uint64_t size;
};

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

/* layer_ensure wants it in a staging directory of its own; it is there already, so it only moves. */
static int rootfs_move(struct storage *storage, const char *target, void *userdata, uint64_t *ret_size,
                       struct error *error) {
    const struct rootfs *rootfs = userdata;

    (void) storage;
    *ret_size = rootfs->size;
    /* A directory replaces an empty one. */
    return rename(rootfs->directory, target) < 0 ? error_errno(error, -errno, "keeping the image") : 0;
}

/* The identity of an image that never had a manifest: what it is made of. */
static char *rootfs_identity(const struct image *image, const struct image_layer *layer) {
    _cleanup_free_ char *command = list_join(image->config.command, " ");
    _cleanup_free_ char *text = text_format("polder rootfs\n%s\n%s\n", layer->diff_id, command ? command : "");

    return text ? digest_of(text, strlen(text)) : NULL;
}

/* `image` is consumed even on failure. */
static int rootfs_publish(struct storage *storage, const char *directory, struct image *image, const char *alias,
                          const struct image **ret, struct error *error) {
    const struct image_layer *layer = image->layers.items;
    struct rootfs rootfs = { directory, layer->size };
    struct layer_source source = { rootfs_move, &rootfs };
    struct claim *claim = NULL;
    int r = claim_take(storage, "layers", layer->diff_id, &claim);

    r = r < 0 ? error_errno(error, r, "keeping the image")
              : layer_ensure(storage, claim, layer->diff_id, &source, error);
    if (r >= 0)
        r = stored_add_take(storage, image, alias, ret, error);
    else
        table_done(&image_table, image);
    *image = (struct image){ 0 };
    claim_drop(storage, claim);
    return r;
}

int rootfs_add(struct storage *storage, const char *tar_path, const struct image_request *request, const char *source,
               char *const *command, const struct storage_progress *progress, const struct image **ret,
               struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    struct image image = { 0 };
    struct image_layer *layer = calloc(1, sizeof(*layer));
    int r = layer ? 0 : -ENOMEM;

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

/* The last part of the URL's path, or NULL if it is no name. A query may hold a key, so it is not kept anywhere. */
static char *url_alias(const char *shown) {
    const char *slash = strrchr(shown, '/');

    return slash && image_alias_is_valid(slash + 1) ? strdup(slash + 1) : NULL;
}

static int from_url(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
                    const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    _cleanup_free_ char *path = NULL, *alias = NULL;
    _cleanup_free_ char *shown = strndup(request->reference, strcspn(request->reference, "?#"));
    struct image_request named = *request;
    int r = shown ? staging_make(storage, &directory, error) : error_errno(error, -ENOMEM, "downloading");

    if (r < 0)
        return r;
    path = text_format("%s/download", directory);
    alias = request->alias ? NULL : url_alias(shown);
    named.alias = request->alias ? request->alias : alias;
    r = path ? url_fetch(storage, request->reference, directory, request->maximum, progress, error)
             : error_errno(error, -ENOMEM, "downloading");
    FAILPOINT("import-after-download");
    return r < 0 ? r : from_file(storage, path, &named, shown, progress, ret, error);
}

static int copy_checked(struct storage *storage, const struct image_request *request,
                        const struct storage_progress *progress, const struct image **ret, struct error *error) {
    int r = request->file ? check_checksum(storage, request->file, request, progress, error) : 0;

    return r < 0 ? r : oci_add(storage, request, progress, ret, error);
}

/* --- what a source takes ----------------------------------------------------------------------------------------------------- */

static const char *const disk_formats[] = { "qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc", NULL };

static const char *source_name(const struct image_request *request) {
    static const char *const names[] = {
        [SOURCE_DOCKER] = "a registry", [SOURCE_OCI] = "an OCI archive", [SOURCE_DOCKER_ARCHIVE] = "a docker archive",
        [SOURCE_DISK] = "a disk",       [SOURCE_ISO] = "a boot medium",  [SOURCE_ROOTFS] = "a root file system",
        [SOURCE_BUILD] = "a build",
    };

    return names[request->source];
}

/* No option is taken that would have no effect. */
static int check_options(const struct image_request *request, struct error *error) {
    bool registry = request->source == SOURCE_DOCKER, build = request->source == SOURCE_BUILD;
    bool archive = request->source == SOURCE_OCI || request->source == SOURCE_DOCKER_ARCHIVE;
    bool debian = build && request->reference && text_starts(request->reference, "debian");
    const struct {
        const char *name;
        bool given, fits;
        const char *reason;
    } options[] = {
        { "platform", request->platform, registry || archive, "it chooses among the images of an index" },
        { "auth", request->auth_file, registry, "it is for registries" },
        { "tls_verify", !request->tls_verify, registry, "it is for registries" },
        { "checksum", request->checksum, !registry && !build, "use a digest in the reference, or nothing" },
        { "format", request->format, request->source == SOURCE_DISK, "it declares the format of a disk" },
        { "kernel", request->kernel, debian, "it is for builds of Debian" },
        { "variant", request->variant, debian, "it is for builds of Debian" },
    };

    for (size_t i = 0; i < ELEMENTS(options); i++)
        if (options[i].given && !options[i].fits)
            return error_set(error, ERROR_NOT_SUPPORTED, source_name(request), options[i].name, options[i].reason);
    return 0;
}

int storage_image_check(const struct image_request *request, struct error *error) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789/_-.";
    bool known = !request->format;

    if (request->alias && image_alias_check(request->alias, error) < 0)
        return -EINVAL;
    for (size_t i = 0; request->format && disk_formats[i]; i++)
        known = known || text_equal(disk_formats[i], request->format);
    if (!known)
        return error_set(error, ERROR_BAD_VALUE, "format", request->format, "use qcow2, raw, vmdk, vdi, vhdx or vpc");
    if (request->checksum && !image_digest_is_valid(request->checksum))
        return error_set(error, ERROR_BAD_VALUE, "checksum", request->checksum, "use sha256: and 64 hexadecimal digits");
    if (request->platform && (strspn(request->platform, letters) != strlen(request->platform) ||
                              !text_starts(request->platform, "linux/") || !request->platform[6]))
        return error_set(error, ERROR_BAD_VALUE, "platform", request->platform, "use linux/amd64 or its like");
    return check_options(request, error);
}

static int add_by_source(struct storage *storage, const struct image_request *request,
                         const struct storage_progress *progress, const struct image **ret, struct error *error) {
    switch (request->source) {
    case SOURCE_DOCKER:
    case SOURCE_OCI:
    case SOURCE_DOCKER_ARCHIVE:
        return copy_checked(storage, request, progress, ret, error);
    case SOURCE_BUILD:
        return build_add(storage, request, progress, ret, error);
    default:
        return request->file ? from_file(storage, request->file, request, "upload", progress, ret, error)
                             : from_url(storage, request, progress, ret, error);
    }
}

int storage_image_add(struct storage *storage, const struct image_request *request,
                      const struct storage_progress *progress, const struct image **ret, struct error *error) {
    _cleanup_list_ char **found = NULL;
    int r = storage_image_check(request, error);

    if (r >= 0)
        r = storage_wait(storage, progress, error);
    if (r < 0)
        return r;
    r = add_by_source(storage, request, progress, ret, error);
    if (r < 0)
        (void) sweep(storage, true, &found); /* layers that came before the one that failed */
    return r;
}
