// SPDX-License-Identifier: GPL-2.0-or-later
#include "drivers/qemu/check.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "storage/storage.h"

/* The first fields of a qcow2 file, docs/interop/qcow2.txt of QEMU. */
struct head {
    char magic[4];
    uint32_t version;
    uint64_t backing_offset;
    uint32_t backing_size;
} __attribute__((packed));

#define HEAD_MAX 65536 /* the name of the disk beneath is in the first cluster */

static int head_check(int fd, const char *path, const char *base, char ***problems) {
    char name[PATH_MAX];
    struct head head;
    uint64_t offset;
    uint32_t size;

    if (pread(fd, &head, sizeof(head), 0) != (ssize_t) sizeof(head) || memcmp(head.magic, "QFI\xfb", 4) != 0 ||
        be32toh(head.version) != 3)
        return list_addf(problems, "its disk %s has no header", path);
    offset = be64toh(head.backing_offset);
    size = be32toh(head.backing_size);
    if (size >= sizeof(name) || offset > HEAD_MAX || pread(fd, name, size, (off_t) offset) != (ssize_t) size)
        return list_addf(problems, "its disk %s does not say what it stands on", path);
    name[size] = 0;
    return base && !text_equal(name, base) ? list_addf(problems, "its disk %s does not stand on its image", path) : 0;
}

static int overlay_check(struct storage *storage, int fd, const char *path, const char *base, bool resting,
                         char ***problems, struct error *error) {
    _cleanup_free_ char *problem = NULL;
    size_t before = list_count(*problems);
    int r = head_check(fd, path, base, problems);

    if (r < 0 || !resting || list_count(*problems) > before)
        return r;
    r = storage_check_disk(storage, path, &problem, error);
    return r >= 0 && problem ? list_addf(problems, "its disk %s: %s", path, problem) : r;
}

int disks_check(struct storage *storage, struct driver_instance *instance, bool resting, char ***problems, struct error *error) {
    bool overlay = instance->assigned->kind == KIND_VM && instance->image && instance->image->type == IMAGE_DISK;
    bool sure = instance->assigned->kind == KIND_MICROVM || instance->image;
    _cleanup_free_ char *state = strdup(instance->state_path), *base = NULL;
    _cleanup_free_ char *path = text_format("%s/disk.%s", instance->state_path, overlay ? "qcow2" : "raw");
    _cleanup_close_ int fd = -EBADF;
    struct stat status;
    int r = state && path ? 0 : error_errno(error, -ENOMEM, "checking");

    if (r >= 0 && overlay)
        r = storage_disk_path(storage, instance->image, &base, error);
    /* From here on it waits, and neither record nor image is looked at again. */
    if (r >= 0)
        r = storage_ask_instance(storage, state, deadline_in(STORAGE_PATIENCE), error);
    if (r < 0 || !sure)
        return r;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_size == 0)
        r = list_addf(problems, "its disk %s is missing", path);
    else if (overlay)
        r = overlay_check(storage, fd, path, base, resting, problems, error);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "checking") : r;
}
