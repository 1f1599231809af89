// SPDX-License-Identifier: GPL-2.0-or-later
/* Manifest and configuration of an OCI or docker image, as skopeo's "dir:" layout holds them. They are foreign: size-limited,
 * bound together by digests, and never more is taken from them than what is named here. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "storage/internal.h"
#include "storage/oci.h"

static int refuse(struct error *error, const char *what) {
    return error_set(error, ERROR_BAD_IMAGE, what);
}

int oci_open_plain(int directory, const char *name) {
    _cleanup_close_ int fd = file_open_beneath(directory, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0, true);
    struct stat status;

    if (fd < 0)
        return fd;
    if (fstat(fd, &status) < 0)
        return -errno;
    return S_ISREG(status.st_mode) ? STEAL_FD(fd) : -EINVAL;
}

static int read_plain(int directory, const char *name, size_t limit, char **ret, size_t *ret_size) {
    _cleanup_close_ int fd = oci_open_plain(directory, name);
    _cleanup_free_ char *data = fd < 0 ? NULL : malloc(limit + 1);
    size_t size = 0;
    ssize_t n = 1;

    if (!data)
        return fd < 0 ? fd : -ENOMEM;
    while (size <= limit && n != 0) {
        n = read(fd, data + size, limit + 1 - size);
        if (n < 0 && errno != EINTR)
            return -errno;
        size += n > 0 ? (size_t) n : 0;
    }
    if (size > limit)
        return -EFBIG;
    data[size] = '\0';
    *ret_size = size;
    *ret = STEAL_PTR(data);
    return 0;
}

static int read_document(int directory, const char *name, char **ret_text, size_t *ret_size, struct json_object **ret,
                         struct error *error) {
    _cleanup_free_ char *text = NULL;
    int r = read_plain(directory, name, MANIFEST_MAX, &text, ret_size);

    if (r == -ENOENT || r == -EINVAL || r == -ELOOP)
        return refuse(error, "its manifest or configuration is missing");
    if (r == -EFBIG)
        return refuse(error, "its manifest or configuration is larger than 4 MiB");
    if (r < 0)
        return error_errno(error, r, "reading %s of the image", name);
    r = json_parse_foreign(text, *ret_size, ret, error);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        error_clear(error);
        return refuse(error, "its manifest or configuration is no valid JSON");
    }
    *ret_text = STEAL_PTR(text);
    return 0;
}

static const char *const layer_media_types[] = {
    "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd", NULL,
};

static bool layer_type_is_known(const char *type) {
    for (size_t i = 0; layer_media_types[i]; i++)
        if (text_equal(layer_media_types[i], type))
            return true;
    return false;
}

/* A descriptor names digest and size; skopeo looks at the digest alone. */
static bool size_is_true(int directory, struct json_object *descriptor) {
    struct stat status;
    const char *digest = json_text(descriptor, "digest", "");

    return fstatat(directory, digest_hex(digest), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           json_integer(descriptor, "size", -1) == (int64_t) status.st_size;
}

static int read_layers(struct oci *oci, struct error *error) {
    struct json_object *layers = json_member(oci->manifest, "layers");
    struct json_object *diff_ids = json_member(json_member(oci->config, "rootfs"), "diff_ids");
    size_t count;

    if (!json_object_is_type(layers, json_type_array) || !json_object_is_type(diff_ids, json_type_array))
        return refuse(error, "it has no list of layers");
    if (json_has(oci->manifest, "manifests"))
        return refuse(error, "its manifest is a list of manifests as well");
    count = json_object_array_length(layers);
    if (count != json_object_array_length(diff_ids))
        return refuse(error, "manifest and configuration do not list the same number of layers");
    if (count == 0 || count > LAYERS_MAX)
        return refuse(error, "it has no layers or more than 128");
    for (size_t i = 0; i < count; i++) {
        struct json_object *layer = json_object_array_get_idx(layers, i), *diff_id = json_object_array_get_idx(diff_ids, i);
        oci->layers[i].digest = (char *) json_text(layer, "digest", "");
        oci->layers[i].diff_id = (char *) (json_object_is_type(diff_id, json_type_string) ? json_object_get_string(diff_id) : "");
        oci->media_types[i] = json_text(layer, "mediaType", "");
        if (!image_digest_is_valid(oci->layers[i].digest) || !image_digest_is_valid(oci->layers[i].diff_id))
            return refuse(error, "a layer's digest is not sha256: and 64 digits");
        if (json_has(layer, "urls"))
            return refuse(error, "a layer is kept elsewhere (urls); such layers are not fetched");
        if (!size_is_true(oci->directory, layer))
            return refuse(error, "a layer is missing or has another size than the manifest says");
        if (!layer_type_is_known(oci->media_types[i]))
            return refuse(error, "a layer has an unknown media type");
    }
    oci->count = count;
    return 0;
}

int oci_read_image(struct oci *oci, struct image *image, struct error *error) {
    _cleanup_free_ char *manifest = NULL, *config = NULL, *digest = NULL;
    size_t manifest_size = 0, config_size = 0;
    const char *wanted;
    int r = read_document(oci->directory, "manifest.json", &manifest, &manifest_size, &oci->manifest, error);

    if (r < 0)
        return r;
    wanted = json_text(json_member(oci->manifest, "config"), "digest", "");
    if (!image_digest_is_valid(wanted))
        return refuse(error, "its manifest names no configuration by digest");
    if (!size_is_true(oci->directory, json_member(oci->manifest, "config")))
        return refuse(error, "its configuration is missing or has another size than the manifest says");
    r = read_document(oci->directory, digest_hex(wanted), &config, &config_size, &oci->config, error);
    if (r < 0)
        return r;
    digest = digest_of(config, config_size);
    if (!text_equal(digest, wanted))
        return error_set(error, ERROR_BAD_DIGEST, "the image's configuration", digest, wanted);
    r = read_layers(oci, error);
    if (r >= 0)
        r = oci_read_config(oci->config, image, error);
    image->type = IMAGE_OCI;
    image->digest = digest_of(manifest, manifest_size);
    return r;
}
