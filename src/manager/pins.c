// SPDX-License-Identifier: GPL-2.0-or-later
/* The images that an instance holds: the one it was made from, and the medium in its drive. Both are pinned by digest from
 * before its record is there until after it is gone, so that a removal cannot take them and a tag that moves changes
 * nothing. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "manager/internal.h"

int medium_find(struct manager *manager, const struct instance_spec *spec, const struct image **ret, struct error *error) {
    int r;

    *ret = NULL;
    if (text_is_empty(spec->cdrom))
        return 0;
    r = storage_image_find(manager->storage, spec->cdrom, ret, error);
    if (r >= 0 && (*ret)->type != IMAGE_ISO)
        return error_set(error, ERROR_BAD_VALUE, "cdrom", spec->cdrom, "this image is no ISO");
    return r;
}

int medium_insert(struct instance *instance, char **ret_before, struct error *error) {
    const struct image *medium;
    char *digest = NULL;
    int r = medium_find(instance->manager, &instance->spec, &medium, error);

    if (r < 0)
        return r;
    if (medium && !(digest = strdup(medium->digest)))
        return error_errno(error, -ENOMEM, "choosing the medium");
    *ret_before = instance->assigned.cdrom_digest;
    instance->assigned.cdrom_digest = digest;
    return 0;
}

static int pin(struct instance *instance, const char *digest) {
    return text_is_empty(digest) ? 0 : storage_image_use(instance->manager->storage, digest, instance->assigned.uuid);
}

int instance_pin(struct instance *instance) {
    int r = pin(instance, instance->assigned.image_digest), s = pin(instance, instance->assigned.cdrom_digest);

    return r < 0 ? r : s;
}

void instance_unpin(struct instance *instance) {
    const struct instance_assigned *assigned = &instance->assigned;

    if (!text_is_empty(assigned->image_digest))
        storage_image_unuse(instance->manager->storage, assigned->image_digest, assigned->uuid);
    if (!text_is_empty(assigned->cdrom_digest))
        storage_image_unuse(instance->manager->storage, assigned->cdrom_digest, assigned->uuid);
}

void medium_let_go(struct instance *instance, const char *digest) {
    const struct instance_assigned *assigned = &instance->assigned;

    if (!text_is_empty(digest) && !text_equal(digest, assigned->image_digest) && !text_equal(digest, assigned->cdrom_digest))
        storage_image_unuse(instance->manager->storage, digest, assigned->uuid);
}
