// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "model/field.h"

enum image_type {
    IMAGE_OCI,  /* layers: runs as container or microvm */
    IMAGE_DISK, /* a bootable disk: runs as vm (or microvm with a kernel) */
    IMAGE_ISO,  /* boot medium for a vm */
};

/* What an image says about how to run it (from the OCI config; capped and checked). */
struct image_config {
    char **entrypoint;
    char **command;
    char **environment;
    char *user;
    char *working_directory;
    char *stop_signal;
    char **volumes; /* absolute paths beneath the root */
    char **exposed; /* "80/tcp" */
    char **labels;
};
extern const struct table image_config_table;

struct image_layer {
    char *digest;  /* of the blob, "sha256:…" */
    char *diff_id; /* of the unpacked tar; the directory's name in the store */
    uint64_t size; /* bytes on disk */
};
extern const struct table image_layer_table;

struct image {
    char *digest;  /* the image's identity: of the OCI manifest or of the disk file, "sha256:…" */
    char **aliases;
    int type;      /* enum image_type */
    char *architecture;
    char *os;
    char *source;  /* where it came from, credentials removed */
    uint64_t size; /* bytes on disk, shared layers counted whole */
    uint64_t virtual_size; /* of a disk */
    uint64_t created;  /* wall time: added to this store */
    uint64_t last_used;
    struct image_config config;
    struct field_array layers; /* struct image_layer, lowest first */
};
extern const struct table image_table;

/* "busybox", "docker://host/repo:tag", "Library/name:tag": aliases may hold [a-z0-9._:/@-], no control characters,
 * at most 255 bytes. */
bool image_alias_is_valid(const char *alias);
bool image_digest_is_valid(const char *digest); /* sha256: + 64 lower-case hex digits */
