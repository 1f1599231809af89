// SPDX-License-Identifier: GPL-2.0-or-later
/* The root file system of an image, merged from its layers, for one child alone: overlayfs in a mount namespace that ends
 * with it. */
#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "storage/internal.h"

/* What the child reads was brought by an image: nothing more than it needs is left to it, even as root. */
static int capabilities_drop(uint64_t kept) {
    for (unsigned i = 0; i < 64; i++)
        if (!(kept >> i & 1) && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
            return errno == EINVAL && i > 0 ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) : -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int merge_enter(void *userdata) {
    const struct merge *merge = userdata;

    if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0 || mount("tmpfs", merge->place, "tmpfs", 0, NULL) < 0 ||
        chdir(merge->place) < 0 || mkdir("merged", 0755) < 0 || mkdir("none", 0755) < 0)
        return -errno;
    for (size_t i = 0; i < merge->count; i++)
        if (mkdir(merge->names[i], 0700) < 0 || mount(merge->layers[i], merge->names[i], NULL, MS_BIND, NULL) < 0)
            return -errno;
    if (mount("overlay", "merged", "overlay", MS_RDONLY, merge->options) < 0)
        return -errno;
    return capabilities_drop(merge->capabilities);
}

int merge_prepare(struct merge *merge, struct storage *storage, const struct image *image, struct error *error) {
    _cleanup_buffer_ struct buffer options = BUFFER_INIT;
    int r = storage_layer_paths(storage, image, &merge->layers, error);

    if (r >= 0)
        r = staging_make(storage, &merge->place, error);
    if (r < 0)
        return r;
    merge->count = list_count(merge->layers);
    merge->names = calloc(merge->count, sizeof(*merge->names));
    merge->merged = text_format("%s/merged", merge->place);
    if (!merge->names || !merge->merged)
        return error_errno(error, -ENOMEM, "merging layers");
    /* The worker marks opaque directories with user.overlay.opaque, for which it needs no capability. */
    buffer_add_text(&options, "userxattr,lowerdir=");
    for (size_t i = 0; i < merge->count; i++)
        snprintf(merge->names[i], sizeof(*merge->names), "%zu", i);
    for (size_t i = merge->count; i-- > 0;)
        buffer_addf(&options, "%s:", merge->names[i]);
    /* An empty one at the bottom, so that whiteouts of the first layer, or the only one, do not show. */
    buffer_add_text(&options, "none");
    r = buffer_take(&options, &merge->options);
    return r < 0 ? error_errno(error, r, "merging layers") : 0;
}

void merge_done(struct merge *merge) {
    staging_remove(&merge->place);
    list_free(merge->layers);
    free(merge->names);
    free(merge->merged);
    free(merge->options);
    *merge = (struct merge){ 0 };
}
