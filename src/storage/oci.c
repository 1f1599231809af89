// SPDX-License-Identifier: GPL-2.0-or-later
/* OCI and docker images: skopeo brings manifest, configuration and layer blobs into a staging directory (its "dir:"
 * layout keeps the manifest's own bytes, so that the digest is the registry's); what it wrote is foreign and is read
 * with limits, checked against its digests, and unpacked by the jailed worker. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "model/instance.h"
#include "storage/internal.h"

#define CONFIG_TEXT_MAX 65536
#define ENVIRONMENT_MAX 4096

/* --- skopeo ------------------------------------------------------------------------------------------------------------- */

struct skopeo {
    const struct storage_progress *progress;
    uint64_t blobs;
};

static void skopeo_line(const char *line, void *userdata) {
    struct skopeo *skopeo = userdata;

    if (text_starts(line, "Copying blob"))
        skopeo->blobs++;
    progress_step(skopeo->progress, "downloading", skopeo->blobs, 0);
}

static const char *const schemes[] = {
    [SOURCE_DOCKER] = "docker://", [SOURCE_OCI] = "oci-archive:", [SOURCE_DOCKER_ARCHIVE] = "docker-archive:"
};

static int skopeo_arguments(const struct image_request *request, const char *auth_path, const char *source,
                            const char *target, char ***ret) {
    _cleanup_list_ char **list = NULL, **platform = NULL;
    int r = list_add(&list, "skopeo");

    r = r < 0 ? r : list_add(&list, "--insecure-policy");
    if (request->platform) {
        r = r < 0 ? r : list_split(request->platform, "/", &platform);
        r = r < 0 ? r : list_addf(&list, "--override-os=%s", platform[0]);
        if (r >= 0 && list_count(platform) > 1)
            r = list_addf(&list, "--override-arch=%s", platform[1]);
        if (r >= 0 && list_count(platform) > 2)
            r = list_addf(&list, "--override-variant=%s", platform[2]);
    }
    r = r < 0 ? r : list_add(&list, "copy");
    r = r < 0 ? r : list_add(&list, "--retry-times=2");
    if (request->source == SOURCE_DOCKER && !request->tls_verify)
        r = r < 0 ? r : list_add(&list, "--src-tls-verify=false");
    if (auth_path)
        r = r < 0 ? r : list_addf(&list, "--src-authfile=%s", auth_path);
    r = r < 0 ? r : list_add(&list, source);
    r = r < 0 ? r : list_addf(&list, "dir:%s", target);
    if (r >= 0)
        *ret = STEAL_PTR(list);
    return r;
}

/* The last sentence of skopeo's log line is what a person wants to read. */
static int skopeo_failed(const char *reference, const struct buffer *errors, struct error *failed, struct error *error) {
    const char *message = errors->data ? strstr(errors->data, "msg=\"") : NULL;
    _cleanup_free_ char *text = NULL;

    if (failed->code != ERROR_PROGRAM_FAILED || !message) {
        error_move(error, failed);
        return -error_number(error->code);
    }
    text = text_escape(message + 5, strcspn(message + 5, "\n"), false);
    if (text && text_ends(text, "\""))
        text[strlen(text) - 1] = '\0';
    return error_set(error, ERROR_REGISTRY, reference, text);
}

/* Unprivileged: uid nobody, who owns nothing but the staging directory. */
static int become_nobody(void *userdata) {
    const struct rlimit *file_size = userdata;

    if (setrlimit(RLIMIT_FSIZE, file_size) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
        return -errno;
    return 0;
}

static int skopeo_run(struct storage *storage, const struct image_request *request, const char *source,
                      const char *target, const struct storage_progress *progress, struct error *error) {
    _cleanup_error_ struct error failed = ERROR_INIT;
    _cleanup_buffer_ struct buffer errors = BUFFER_INIT;
    _cleanup_list_ char **arguments = NULL, **environment = NULL;
    _cleanup_free_ char *auth_path = request->auth_file ? text_format("%s/auth.json", target) : NULL;
    struct rlimit file_size = { request->maximum ? request->maximum : RLIM_INFINITY,
                                request->maximum ? request->maximum : RLIM_INFINITY };
    struct skopeo skopeo = { .progress = progress };
    struct process_spec spec = { .program = "/usr/bin/skopeo", .setup = become_nobody, .userdata = &file_size,
                                 .die_with_parent = true };
    struct process_run run = { .errors = &errors, .limit = 65536, .deadline = deadline_in(TOOL_DEADLINE),
                               .line = skopeo_line, .userdata = &skopeo };
    int r = 0;

    (void) storage;
    if (auth_path)
        r = file_write_atomic(AT_FDCWD, auth_path, request->auth_file, strlen(request->auth_file), 0600, false);
    if (r >= 0 && auth_path && chown(auth_path, 65534, 65534) < 0)
        r = -errno;
    if (r >= 0)
        r = skopeo_arguments(request, auth_path, source, target, &arguments);
    r = r < 0 ? r : list_addf(&environment, "HOME=%s", target);
    r = r < 0 ? r : list_addf(&environment, "TMPDIR=%s", target);
    r = r < 0 ? r : list_addf(&environment, "XDG_RUNTIME_DIR=%s", target);
    if (r < 0)
        return error_errno(error, r, "preparing skopeo");
    spec.arguments = arguments;
    spec.environment = environment;
    r = process_run(&spec, &run, &failed);
    if (auth_path)
        (void) unlink(auth_path);
    return r < 0 ? skopeo_failed(request->reference ? request->reference : "upload", &errors, &failed, error) : 0;
}

/* --- manifest and configuration ------------------------------------------------------------------------------------------- */

static int refuse(struct error *error, const char *what) {
    return error_set(error, ERROR_BAD_IMAGE, what);
}

static int read_document(const char *directory, const char *name, char **ret_text, size_t *ret_size,
                         struct json_object **ret, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/%s", directory, name);
    _cleanup_free_ char *text = NULL;
    int r = path ? file_read(AT_FDCWD, path, MANIFEST_MAX, &text, ret_size) : -ENOMEM;

    if (r == -EFBIG)
        return refuse(error, "its manifest or configuration is larger than 4 MiB");
    if (r < 0)
        return error_errno(error, r, "reading %s of the image", name);
    r = json_parse(text, *ret_size, ret, error);
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

struct oci {
    struct json_object *manifest, *config;
    const char *media_types[LAYERS_MAX];
    struct image_layer layers[LAYERS_MAX]; /* texts borrowed from the documents */
    size_t count;
};

static int read_layers(struct oci *oci, struct error *error) {
    struct json_object *layers = json_member(oci->manifest, "layers");
    struct json_object *diff_ids = json_member(json_member(oci->config, "rootfs"), "diff_ids");
    size_t count;

    if (!json_object_is_type(layers, json_type_array) || !json_object_is_type(diff_ids, json_type_array))
        return refuse(error, "it has no list of layers");
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
        if (!layer_type_is_known(oci->media_types[i]))
            return refuse(error, "a layer has an unknown media type (layers kept elsewhere are not fetched)");
    }
    oci->count = count;
    return 0;
}

/* Every text is capped and free of NUL (json-c texts with NUL were refused by json_parse); control characters other than
 * newline and tab are not passed on to processes or terminals. */
static int config_list(struct json_object *config, const char *name, size_t most, char ***target, struct error *error) {
    struct json_object *list = json_member(config, name);
    size_t count = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    int r = 0;

    if (count > most)
        return error_set(error, ERROR_BAD_IMAGE, "its configuration lists too many values");
    for (size_t i = 0; i < count && r >= 0; i++) {
        struct json_object *item = json_object_array_get_idx(list, i);
        if (!json_object_is_type(item, json_type_string) || json_object_get_string_len(item) > CONFIG_TEXT_MAX)
            return error_set(error, ERROR_BAD_IMAGE, "its configuration holds a value that is no text or is too long");
        r = list_add(target, json_object_get_string(item));
    }
    return r < 0 ? error_errno(error, r, "reading the configuration") : 0;
}

static int config_text(struct json_object *config, const char *name, size_t most, char **target, struct error *error) {
    const char *text = json_text(config, name, NULL);

    if (!text || !*text)
        return 0;
    if (strlen(text) > most || !text_is_plain(text))
        return error_set(error, ERROR_BAD_IMAGE, "its configuration holds a text that is too long or has control characters");
    *target = strdup(text);
    return *target ? 0 : error_errno(error, -ENOMEM, "reading the configuration");
}

static int config_keys(struct json_object *config, const char *name, size_t most, char ***target, struct error *error) {
    struct json_object *object = json_member(config, name);
    int r = 0;

    if (!json_object_is_type(object, json_type_object))
        return 0;
    if ((size_t) json_object_object_length(object) > most)
        return error_set(error, ERROR_BAD_IMAGE, "its configuration lists too many values");
    json_object_object_foreach(object, key, value) {
        (void) value;
        if (r >= 0 && strlen(key) < 4096 && text_is_plain(key))
            r = list_add(target, key);
    }
    return r < 0 ? error_errno(error, r, "reading the configuration") : 0;
}

static int config_labels(struct json_object *config, char ***target, struct error *error) {
    struct json_object *object = json_member(config, "Labels");
    int r = 0;

    if (!json_object_is_type(object, json_type_object) || json_object_object_length(object) > 1000)
        return 0;
    json_object_object_foreach(object, key, value) {
        /* Labels are only shown, never obeyed: what cannot be shown is left out. */
        if (r >= 0 && json_object_is_type(value, json_type_string) && text_is_plain(key) && !strchr(key, '=') &&
            strlen(key) < 256 && json_object_get_string_len(value) < 4096)
            r = list_addf(target, "%s=%s", key, json_object_get_string(value));
    }
    return r < 0 ? error_errno(error, r, "reading the configuration") : 0;
}

static int read_config(struct oci *oci, struct image *image, struct error *error) {
    struct json_object *config = json_member(oci->config, "config");
    struct image_config *target = &image->config;
    int r = config_list(config, "Entrypoint", 1024, &target->entrypoint, error);

    r = r < 0 ? r : config_list(config, "Cmd", 1024, &target->command, error);
    r = r < 0 ? r : config_list(config, "Env", ENVIRONMENT_MAX, &target->environment, error);
    r = r < 0 ? r : config_text(config, "User", 255, &target->user, error);
    r = r < 0 ? r : config_text(config, "WorkingDir", 4095, &target->working_directory, error);
    r = r < 0 ? r : config_text(config, "StopSignal", 32, &target->stop_signal, error);
    r = r < 0 ? r : config_keys(config, "Volumes", 128, &target->volumes, error);
    r = r < 0 ? r : config_keys(config, "ExposedPorts", 1000, &target->exposed, error);
    r = r < 0 ? r : config_labels(config, &target->labels, error);
    r = r < 0 ? r : config_text(oci->config, "architecture", 63, &image->architecture, error);
    r = r < 0 ? r : config_text(oci->config, "os", 63, &image->os, error);
    if (r >= 0 && target->stop_signal && signal_from_name(target->stop_signal) <= 0)
        r = refuse(error, "its stop signal is no signal");
    if (r >= 0 && image->os && !text_equal(image->os, "linux"))
        r = refuse(error, "it is not for Linux");
    return r;
}

/* --- layers -------------------------------------------------------------------------------------------------------------- */

static int layer_unpack(struct storage *storage, const char *blob_path, const char *media_type, struct image_layer *layer,
                        const char *target, uint64_t maximum, const char *step, const struct storage_progress *progress,
                        struct error *error) {
    _cleanup_list_ char **arguments = NULL;
    _cleanup_json_ struct json_object *result = NULL;
    _cleanup_close_ int blob = open(blob_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    _cleanup_close_ int root = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const struct process_fd fds[] = { { blob, 3 }, { root, 4 } };
    static const char *const fixed[] = { "polder-worker", "unpack-layer", "--input-fd", "3", "--root-fd", "4", "--sync" };
    int r = 0;

    if (blob < 0 || root < 0)
        return error_set(error, ERROR_BAD_IMAGE, "a layer's blob is missing");
    for (size_t i = 0; r >= 0 && i < ELEMENTS(fixed); i++)
        r = list_add(&arguments, fixed[i]);
    r = r < 0 ? r : list_add(&arguments, "--digest");
    r = r < 0 ? r : list_add(&arguments, layer->digest);
    r = r < 0 ? r : list_add(&arguments, "--diff-id");
    r = r < 0 ? r : list_add(&arguments, layer->diff_id);
    r = r < 0 ? r : list_add(&arguments, "--media-type");
    r = r < 0 ? r : list_add(&arguments, media_type);
    if (maximum > 0) {
        r = r < 0 ? r : list_add(&arguments, "--max-bytes");
        r = r < 0 ? r : list_addf(&arguments, "%llu", (unsigned long long) maximum);
    }
    if (r < 0)
        return error_errno(error, r, "unpacking");
    r = worker_call(storage, arguments, fds, ELEMENTS(fds), step, progress, &result, error);
    if (r >= 0)
        layer->size = (uint64_t) json_integer(result, "size_on_disk", 0);
    return r;
}

static int publish(const char *from, const char *to, struct error *error) {
    _cleanup_close_ int parent = -EBADF;
    const char *name;

    if (rename(from, to) < 0 && errno != EEXIST && errno != ENOTEMPTY)
        return error_errno(error, -errno, "keeping a layer");
    parent = file_open_parent(AT_FDCWD, to, &name);
    if (parent < 0 || fsync(parent) < 0)
        return error_errno(error, -errno, "keeping a layer");
    return 0;
}

static int layer_size_known(struct storage *storage, const char *diff_id, uint64_t *ret) {
    size_t position = 0;
    const struct image *image;

    while ((image = storage_image_next(storage, &position)))
        for (size_t i = 0; i < image->layers.count; i++) {
            const struct image_layer *layer = (const struct image_layer *) image->layers.items + i;
            if (text_equal(layer->diff_id, diff_id)) {
                *ret = layer->size;
                return 1;
            }
        }
    return 0;
}

int layer_ensure(struct storage *storage, const char *blob_path, const char *media_type, struct image_layer *layer,
                 uint64_t maximum, const char *step, const struct storage_progress *progress, struct error *error) {
    _cleanup_free_ char *final = layer_path(storage, layer->diff_id);
    _cleanup_staging_ char *staging = NULL;
    int r;

    /* A directory that a record names was checked when it came; one without a record may be of any crash. */
    if (final && file_exists(AT_FDCWD, final) && layer_size_known(storage, layer->diff_id, &layer->size))
        return 0;
    if (final && file_exists(AT_FDCWD, final) && layer->size > 0)
        return 0; /* unpacked a moment ago, for this very image */
    r = final ? file_remove_tree(AT_FDCWD, final) : -ENOMEM;
    if (r >= 0)
        r = staging_make(storage, &staging, error);
    if (r >= 0)
        r = layer_unpack(storage, blob_path, media_type, layer, staging, maximum, step, progress, error);
    FAILPOINT("layer-before-publish");
    if (r >= 0)
        r = publish(staging, final, error);
    FAILPOINT("layer-after-publish");
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "keeping a layer") : r;
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

static int unpack_all(struct storage *storage, struct oci *oci, const char *directory, uint64_t maximum,
                      const struct storage_progress *progress, struct error *error) {
    int r = 0;

    for (size_t i = 0; r >= 0 && i < oci->count; i++) {
        _cleanup_free_ char *blob = text_format("%s/%s", directory, digest_hex(oci->layers[i].digest));
        _cleanup_free_ char *step = text_format("unpacking layer %zu of %zu", i + 1, oci->count);
        r = blob && step ? layer_ensure(storage, blob, oci->media_types[i], &oci->layers[i], maximum, step, progress, error)
                         : -ENOMEM;
        if (r >= 0)
            (void) unlink(blob); /* the space is free again before the next one */
    }
    return r;
}

/* --- all of it -------------------------------------------------------------------------------------------------------------- */

static int take_image(struct storage *storage, const char *directory, const struct image_request *request,
                      const char *alias, const char *source, const struct storage_progress *progress,
                      const struct image **ret, struct error *error) {
    _cleanup_free_ char *manifest_text = NULL, *config_bytes = NULL, *config_digest = NULL;
    _cleanup_json_ struct json_object *manifest = NULL, *config = NULL;
    struct oci *oci = calloc(1, sizeof(*oci));
    struct image image;
    const char *wanted;
    size_t size = 0, config_size = 0;
    int r = oci ? table_init(&image_table, &image) : -ENOMEM;

    if (r < 0) {
        free(oci);
        return error_errno(error, r, "adding the image");
    }
    r = read_document(directory, "manifest.json", &manifest_text, &size, &manifest, error);
    wanted = json_text(json_member(manifest, "config"), "digest", "");
    if (r >= 0 && !image_digest_is_valid(wanted))
        r = refuse(error, "its manifest names no configuration by digest");
    if (r >= 0)
        r = read_document(directory, digest_hex(wanted), &config_bytes, &config_size, &config, error);
    if (r >= 0) {
        config_digest = digest_of(config_bytes, config_size);
        if (!text_equal(config_digest, wanted))
            r = error_set(error, ERROR_BAD_DIGEST, "the image's configuration", config_digest, wanted);
    }
    oci->manifest = manifest;
    oci->config = config;
    if (r >= 0)
        r = read_layers(oci, error);
    if (r >= 0)
        r = read_config(oci, &image, error);
    if (r >= 0)
        r = fiber_mutex_lock(&storage->layers, DEADLINE_NONE);
    if (r >= 0) {
        r = unpack_all(storage, oci, directory, request->maximum, progress, error);
        image.type = IMAGE_OCI;
        image.digest = digest_of(manifest_text, size);
        image.source = strdup(source);
        if (r >= 0)
            r = image.digest && image.source ? image_layers(&image, oci) : -ENOMEM;
        if (r >= 0) {
            r = stored_add_take(storage, &image, alias, ret, error);
            image = (struct image){ 0 };
        }
        fiber_mutex_unlock(&storage->layers);
    }
    table_done(&image_table, &image);
    free(oci);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "adding the image") : r;
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

/* The name people call it by: without scheme; without a tag it is "latest", which a bare name finds too. */
static char *alias_of(const struct image_request *request) {
    const char *name = request->reference;

    if (request->alias)
        return strdup(request->alias);
    if (!name)
        return NULL;
    if (text_starts(name, "docker://"))
        name += strlen("docker://");
    if (text_starts(name, "docker.io/library/"))
        name += strlen("docker.io/library/");
    return strdup(name);
}

int oci_add(struct storage *storage, const struct image_request *request, const struct storage_progress *progress,
            const struct image **ret, struct error *error) {
    _cleanup_staging_ char *directory = NULL;
    _cleanup_free_ char *source = NULL, *alias = alias_of(request);
    int r = request->source == SOURCE_DOCKER ? check_reference(request->reference, error) : 0;

    if (r >= 0 && alias && !image_alias_is_valid(alias))
        r = error_set(error, ERROR_BAD_VALUE, "alias", alias, "use letters, digits and ._:/@- (at most 255)");
    if (r >= 0 && request->platform && strspn(request->platform, "abcdefghijklmnopqrstuvwxyz0123456789/_-.") != strlen(request->platform))
        r = error_set(error, ERROR_BAD_VALUE, "platform", request->platform, "use os/architecture, such as linux/amd64");
    if (r >= 0)
        r = staging_make(storage, &directory, error);
    if (r < 0)
        return r;
    source = request->source == SOURCE_DOCKER ? strdup(request->reference)
                                              : text_format("%s%s", schemes[request->source], request->file);
    if (!source || chown(directory, 65534, 65534) < 0)
        return error_errno(error, source ? -errno : -ENOMEM, "preparing skopeo");
    if (request->file && chown(request->file, 65534, 65534) < 0)
        return error_errno(error, -errno, "preparing skopeo");
    progress_step(progress, "downloading", 0, 0);
    FAILPOINT("pull-before-skopeo");
    r = skopeo_run(storage, request, source, directory, progress, error);
    FAILPOINT("pull-after-skopeo");
    if (r >= 0)
        r = take_image(storage, directory, request, alias,
                       request->source == SOURCE_DOCKER ? request->reference : "upload", progress, ret, error);
    return r;
}
