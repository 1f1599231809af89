// SPDX-License-Identifier: GPL-2.0-or-later
/* A manifest and a configuration of an OCI image, as a registry or an archive may hold them, with a NUL between: refused with
 * an error, or taken; then the image's record is within its limits, and is read back from the store as it was written. In the
 * manifest, "@CONFIG@" and "@SIZE@" become the configuration's digest and size, which no fuzzer guesses. One layer is there:
 * 64 zeros, of three bytes. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "model/image.h"
#include "storage/oci.h"

#define LAYER "0000000000000000000000000000000000000000000000000000000000000000"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(int directory, const char *name, const char *text, size_t size) {
    _cleanup_close_ int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || write(fd, text, size) != (ssize_t) size)
        abort();
}

static void remove_directory(void) {
    const char *path = getenv("POLDER_FUZZ_OCI");

    if (path)
        (void) file_remove_tree(AT_FDCWD, path);
}

static int directory_open(void) {
    static int directory = -EBADF;
    char path[] = "/tmp/polder-fuzz-oci-XXXXXX";

    if (directory >= 0)
        return directory;
    if (!mkdtemp(path) || setenv("POLDER_FUZZ_OCI", path, 1) < 0 || atexit(remove_directory) != 0)
        abort();
    directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        abort();
    put(directory, LAYER, "abc", 3);
    return directory;
}

/* With the configuration's digest and size put in. */
static char *manifest_of(const char *text, size_t size, const char *digest, size_t config_size) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    char *manifest;

    for (size_t i = 0; i < size;) {
        if (size - i >= 8 && memcmp(text + i, "@CONFIG@", 8) == 0) {
            buffer_add_text(&out, digest);
            i += 8;
        } else if (size - i >= 6 && memcmp(text + i, "@SIZE@", 6) == 0) {
            buffer_addf(&out, "%zu", config_size);
            i += 6;
        } else {
            buffer_add_char(&out, text[i++]);
        }
    }
    if (buffer_take(&out, &manifest) < 0)
        abort();
    return manifest;
}

static void check_taken(const struct oci *oci, const struct image *image) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    struct emitter emitter = EMITTER_INIT(&out);
    _cleanup_json_ struct json_object *json = NULL;
    struct image copy = { 0 };

    if (oci->count == 0 || oci->count > LAYERS_MAX || !image_digest_is_valid(image->digest))
        abort();
    for (size_t i = 0; i < oci->count; i++)
        if (!image_digest_is_valid(oci->layers[i].digest) || !image_digest_is_valid(oci->layers[i].diff_id))
            abort();
    if (image->config.working_directory && image->config.working_directory[0] != '/')
        abort();
    emit_object(&emitter);
    table_emit(&image_table, image, &emitter);
    emit_object_end(&emitter);
    if (json_parse(out.data, out.size, &json, NULL) < 0 || table_decode(&image_table, json, DECODE_STORED, &copy, NULL) < 0 ||
        !table_equal(&image_table, image, &copy))
        abort();
    table_done(&image_table, &copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *) data, *end = size > 0 ? memchr(text, '\0', size) : NULL;
    size_t manifest_size = end ? (size_t) (end - text) : size, config_size = end ? size - manifest_size - 1 : 0;
    _cleanup_free_ char *digest = digest_of(end ? end + 1 : "", config_size);
    _cleanup_free_ char *manifest = manifest_of(text, manifest_size, digest, config_size);
    _cleanup_error_ struct error error = ERROR_INIT;
    struct oci oci = { .directory = directory_open() };
    struct image image;
    int r;

    put(oci.directory, "manifest.json", manifest, strlen(manifest));
    put(oci.directory, digest_hex(digest), end ? end + 1 : "", config_size);
    if (table_init(&image_table, &image) < 0)
        abort();
    r = oci_read_image(&oci, &image, &error);
    if (r < 0 ? !error_is_set(&error) : error_is_set(&error))
        abort();
    if (r >= 0)
        check_taken(&oci, &image);
    table_done(&image_table, &image);
    json_put(oci.manifest);
    json_put(oci.config);
    (void) unlinkat(oci.directory, digest_hex(digest), 0);
    return 0;
}
