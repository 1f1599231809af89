// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "storage/internal.h"

/* An OCI or docker image on its way in: a directory that skopeo wrote, and what its documents say. */
struct oci {
    struct json_object *manifest, *config;
    const char *media_types[LAYERS_MAX];
    struct image_layer layers[LAYERS_MAX]; /* texts borrowed from the documents */
    struct claim *claims[LAYERS_MAX];
    size_t count;
    int directory; /* what skopeo wrote */
    bool from_archive;
    bool keeps_blobs; /* until the image is there: a pull that ends before goes on with them */
};

/* The directory was written by a program that a registry may have turned against us: only plain files in it are opened. */
int oci_open_plain(int directory, const char *name);
/* Reads manifest and configuration of oci->directory, each with the digest it must have, into `oci` and `image`. The
 * manifest's own digest is the image's identity. Both are the caller's to free, also after a failure. BAD_IMAGE, BAD_DIGEST. */
int oci_read_image(struct oci *oci, struct image *image, struct error *error);
