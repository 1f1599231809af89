// SPDX-License-Identifier: GPL-2.0-or-later
#include "model/image.h"

#include <stddef.h>
#include <string.h>

#include "base/text.h"

#define ALIAS_MAX 255
#define DIGEST_PREFIX "sha256:"

bool image_digest_is_valid(const char *digest) {
    size_t prefix = strlen(DIGEST_PREFIX);

    if (!digest || strncmp(digest, DIGEST_PREFIX, prefix) != 0)
        return false;
    return strspn(digest + prefix, "0123456789abcdef") == 64 && digest[prefix + 64] == '\0';
}

/* Capitals are taken as written in the references of some registries. What could be mistaken for an option or
 * a path upwards is not an alias. */
bool image_alias_is_valid(const char *alias) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/@-";
    size_t length = alias ? strnlen(alias, ALIAS_MAX + 1) : 0;

    if (length == 0 || length > ALIAS_MAX || strspn(alias, letters) != length)
        return false;
    if (strchr("-./:@", alias[0]) || strchr("/:@", alias[length - 1]))
        return false;
    return !strstr(alias, "..");
}

static const char *check_digest(const char *text) {
    return image_digest_is_valid(text) ? NULL : "a digest is sha256: and 64 hexadecimal digits";
}

static const char *check_alias(const char *text) {
    return image_alias_is_valid(text) ? NULL : "an image's name holds letters, digits and . _ : / @ -";
}

static const char *const image_types[] = { "oci", "disk", "iso", NULL };

#define CONFIG(row_name, row_type, member, ...)                                                              \
    {                                                                                                        \
        .name = row_name, .type = row_type, .offset = offsetof(struct image_config, member),                 \
        .change = CHANGE_OUTPUT, __VA_ARGS__                                                                 \
    }

static const struct field image_config_fields[] = {
    CONFIG("entrypoint", FIELD_LIST, entrypoint, .lines = true, .help = "Program and first arguments."),
    CONFIG("command", FIELD_LIST, command, .lines = true,
           .help = "Arguments, or program without an entrypoint."),
    CONFIG("environment", FIELD_LIST, environment, .lines = true, .help = "NAME=VALUE of each variable."),
    CONFIG("user", FIELD_TEXT, user, .maximum = 255, .help = "User and group it runs as."),
    CONFIG("working_directory", FIELD_TEXT, working_directory, .help = "Directory it starts in."),
    CONFIG("stop_signal", FIELD_TEXT, stop_signal, .maximum = 32, .help = "Signal that asks it to end."),
    CONFIG("volumes", FIELD_LIST, volumes, .maximum = 128, .help = "Paths that hold data."),
    CONFIG("exposed", FIELD_LIST, exposed, .maximum = 1000, .help = "Ports it listens on."),
    CONFIG("labels", FIELD_MAP, labels, .lines = true, .help = "What its maker says about it."),
};
const struct table image_config_table = TABLE("image config", struct image_config, image_config_fields);

#define LAYER(row_name, row_type, member, ...)                                                               \
    {                                                                                                        \
        .name = row_name, .type = row_type, .offset = offsetof(struct image_layer, member),                  \
        .change = CHANGE_OUTPUT, __VA_ARGS__                                                                 \
    }

static const struct field image_layer_fields[] = {
    LAYER("digest", FIELD_TEXT, digest, .check = check_digest, .help = "Digest of the blob."),
    LAYER("diff_id", FIELD_TEXT, diff_id, .check = check_digest, .help = "Digest of the unpacked archive."),
    LAYER("size", FIELD_SIZE, size, .help = "Bytes on disk."),
};
const struct table image_layer_table = TABLE("image layer", struct image_layer, image_layer_fields);

#define IMAGE(row_name, row_type, member, ...)                                                               \
    {                                                                                                        \
        .name = row_name, .type = row_type, .offset = offsetof(struct image, member),                        \
        .change = CHANGE_OUTPUT, __VA_ARGS__                                                                 \
    }

static const struct field image_fields[] = {
    IMAGE("digest", FIELD_TEXT, digest, .check = check_digest, .help = "The image's identity."),
    IMAGE("aliases", FIELD_LIST, aliases, .check = check_alias, .help = "Names it can be called by."),
    IMAGE("type", FIELD_ENUM, type, .names = image_types,
          .help = "Layers, a bootable disk, or a boot medium."),
    IMAGE("architecture", FIELD_TEXT, architecture, .maximum = 64,
          .help = "Processor it is for, as OCI names it."),
    IMAGE("os", FIELD_TEXT, os, .maximum = 64, .help = "Operating system it is for."),
    IMAGE("source", FIELD_TEXT, source, .help = "Where it came from, without credentials."),
    IMAGE("size", FIELD_SIZE, size, .help = "Bytes on disk; layers shared with other images count whole."),
    IMAGE("virtual_size", FIELD_SIZE, virtual_size, .help = "Bytes that a guest sees of a disk."),
    IMAGE("created", FIELD_TIME, created, .help = "When it was added to this store."),
    IMAGE("last_used", FIELD_TIME, last_used, .help = "When an instance last started from it."),
    IMAGE("config", FIELD_OBJECT, config, .items = &image_config_table, .help = "How it wants to be run."),
    IMAGE("layers", FIELD_OBJECTS, layers, .maximum = 128, .items = &image_layer_table,
          .help = "Its layers, lowest first."),
};
const struct table image_table = TABLE("image", struct image, image_fields);
