// SPDX-License-Identifier: GPL-2.0-or-later
/* What drivers start instances from: layer directories, EROFS images, overlays, empty file systems. Each is made once under
 * a temporary name and renamed when it is whole. Kernels are in kernel.c. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

int tool_run(const char *program, char *const *arguments, const struct process_spec *base, struct error *error) {
    struct process_spec spec = base ? *base : (struct process_spec){ 0 };
    struct process_run run = { .deadline = deadline_in(TOOL_DEADLINE_SHORT) };

    spec.program = program;
    spec.arguments = arguments;
    spec.die_with_parent = true;
    return process_run(&spec, &run, error);
}

static bool layer_comes_again(const struct image *image, size_t index) {
    const struct image_layer *layers = image->layers.items;

    for (size_t i = index + 1; i < image->layers.count; i++)
        if (text_equal(layers[i].diff_id, layers[index].diff_id))
            return true;
    return false;
}

int storage_layer_paths(struct storage *storage, const struct image *image, char ***ret, struct error *error) {
    _cleanup_list_ char **paths = NULL;
    int r = 0;

    if (image->type != IMAGE_OCI)
        return error_set(error, ERROR_NOT_SUPPORTED, "a disk image", "layers", "it has none");
    for (size_t i = 0; r >= 0 && i < image->layers.count; i++) {
        const struct image_layer *layer = (const struct image_layer *) image->layers.items + i;
        /* An image may hold a layer twice, overlayfs may not: what the upper one holds hides the lower one's. */
        if (!layer_comes_again(image, i))
            r = list_add_take(&paths, layer_path(storage, layer->diff_id));
    }
    if (r < 0)
        return error_errno(error, r, "finding the layers");
    *ret = STEAL_PTR(paths);
    return 0;
}

/* --- EROFS ---------------------------------------------------------------------------------------------------------------- */

static int erofs_make(struct storage *storage, const struct image *image, const char *final, struct error *error) {
    _cleanup_merge_ struct merge merge = { .capabilities = UINT64_C(1) << CAP_DAC_READ_SEARCH };
    struct process_spec spec = { .setup = merge_enter, .userdata = &merge, .namespaces = CLONE_NEWNS | CLONE_NEWNET };
    _cleanup_free_ char *part = NULL;
    int r = merge_prepare(&merge, storage, image, error);

    if (r < 0)
        return r;
    part = text_format("%s.part", merge.place); /* beside the directory, over which a tmpfs will lie */
    r = part ? 0 : -ENOMEM;
    if (r >= 0) {
        char *arguments[] = { "mkfs.erofs", "-T0", "-Enoinline_data", "--quiet", part, merge.merged, NULL };
        r = tool_run("/usr/bin/mkfs.erofs", arguments, &spec, error);
    }
    FAILPOINT("erofs-before-rename");
    if (r >= 0)
        r = chmod(part, 0400) < 0 ? -errno : file_keep(part, final);
    if (r < 0 && part)
        (void) unlink(part);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "making the EROFS image") : r;
}

int storage_erofs(struct storage *storage, const struct image *image, const struct storage_progress *progress,
                  char **ret_path, struct error *error) {
    _cleanup_free_ char *final = image_path(storage, "erofs", image->digest);
    int r = final ? 0 : -ENOMEM;

    if (image->type != IMAGE_OCI)
        return error_set(error, ERROR_NOT_SUPPORTED, "a disk image", "microvm", "it has no root file system to merge");
    if (r >= 0 && !file_exists(AT_FDCWD, final)) {
        r = fiber_mutex_lock(&storage->makes, DEADLINE_NONE);
        if (r < 0)
            return error_errno(error, r, "making the EROFS image");
        progress_step(progress, "making the root image", 0, 0);
        if (!file_exists(AT_FDCWD, final))
            r = erofs_make(storage, image, final, error);
        fiber_mutex_unlock(&storage->makes);
    }
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "making the EROFS image");
    *ret_path = STEAL_PTR(final);
    return 0;
}

/* --- disks ------------------------------------------------------------------------------------------------------------------ */

int storage_disk_path(struct storage *storage, const struct image *image, char **ret_path, struct error *error) {
    if (image->type == IMAGE_OCI)
        return error_set(error, ERROR_NOT_SUPPORTED, "an OCI image", "vm", "it has no disk with a boot loader");
    *ret_path = image_path(storage, image->type == IMAGE_ISO ? "isos" : "disks", image->digest);
    return *ret_path ? 0 : error_errno(error, -ENOMEM, "finding the disk");
}

int storage_make_overlay(struct storage *storage, const struct image *image, uint64_t size, const char *path,
                         struct error *error) {
    _cleanup_free_ char *base = NULL, *part = text_format("%s.part", path), *bytes = NULL;
    int r;

    if (file_exists(AT_FDCWD, path))
        return 0;
    if (image->type != IMAGE_DISK)
        return error_set(error, ERROR_NOT_SUPPORTED, "this image", "a disk of its own", "it is no disk image");
    r = storage_disk_path(storage, image, &base, error);
    if (r < 0)
        return r;
    bytes = text_format("%" PRIu64, size > image->virtual_size ? size : image->virtual_size);
    if (!part || !bytes)
        return error_errno(error, -ENOMEM, "making the disk");
    /* -u: the base is not opened, all of it is known. */
    char *arguments[] = { "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, part, bytes, NULL };
    (void) unlink(part);
    r = tool_run("/usr/bin/qemu-img", arguments, NULL, error);
    if (r >= 0 && (r = file_keep(part, path)) < 0)
        r = error_errno(error, r, "making the disk");
    if (r < 0)
        (void) unlink(part);
    return r;
}

struct copy {
    int from;
    const char *to;
};

static int copy_job(void *userdata) {
    const struct copy *copy = userdata;
    _cleanup_close_ int to = open(copy->to, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    return to < 0 ? -errno : file_copy_sparse(copy->from, to);
}

static int blank_make(uint64_t size, const char *path, struct error *error) {
    _cleanup_free_ char *part = text_format("%s.part", path);
    _cleanup_close_ int fd = part ? open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -EBADF;
    char *arguments[] = { "mkfs.ext4", "-q", "-F", "-L", "polder", "-m", "0", "-E",
                          "lazy_itable_init=1,lazy_journal_init=1,discard", part, NULL };
    int r;

    if (!part)
        return error_errno(error, -ENOMEM, "making an empty file system");
    if (fd < 0)
        return error_errno(error, -errno, "making an empty file system");
    r = ftruncate(fd, (off_t) size) < 0 ? error_errno(error, -errno, "making an empty file system") : 0;
    if (r >= 0)
        r = tool_run("/usr/sbin/mkfs.ext4", arguments, NULL, error);
    if (r >= 0 && (r = file_keep(part, path)) < 0)
        r = error_errno(error, r, "making an empty file system");
    if (r < 0)
        (void) unlink(part);
    return r;
}

/* An empty file system of this size, made at the first wish; opened, for blanks_remove may take its name away. */
static int blank_open(struct storage *storage, uint64_t size, struct error *error) {
    _cleanup_free_ char *path = text_format("%s/blank/ext4-%" PRIu64, storage->images, size);
    int fd = -EBADF, r = path ? fiber_mutex_lock(&storage->makes, DEADLINE_NONE) : -ENOMEM;

    if (r < 0)
        return error_errno(error, r, "making an empty file system");
    if (!file_exists(AT_FDCWD, path))
        r = blank_make(size, path, error);
    if (r >= 0 && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        r = error_errno(error, -errno, "making an empty file system");
    fiber_mutex_unlock(&storage->makes);
    return r < 0 ? r : fd;
}

int storage_make_ext4(struct storage *storage, uint64_t size, const char *path, struct error *error) {
    _cleanup_free_ char *part = text_format("%s.part", path);
    _cleanup_close_ int blank = -EBADF;
    struct copy copy = { .to = part };
    int r = part ? 0 : -ENOMEM;

    if (r >= 0 && file_exists(AT_FDCWD, path))
        return 0;
    if (r >= 0)
        r = copy.from = blank = blank_open(storage, size, error);
    if (r >= 0)
        r = fiber_job(copy_job, &copy);
    if (r >= 0)
        r = file_keep(part, path);
    if (r < 0 && part)
        (void) unlink(part);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "making the disk") : r < 0 ? r : 0;
}

static int blanks_job(void *userdata) {
    const char *path = userdata;
    DIR *directory = opendir(path);
    struct dirent *entry;

    if (!directory)
        return -errno;
    while ((entry = readdir(directory)))
        if (entry->d_name[0] != '.')
            (void) unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
    return 0;
}

int blanks_remove(struct storage *storage) {
    _cleanup_free_ char *path = text_format("%s/blank", storage->images);
    int r = path ? fiber_mutex_lock(&storage->makes, DEADLINE_NONE) : -ENOMEM;

    if (r < 0)
        return r;
    r = fiber_job(blanks_job, path);
    fiber_mutex_unlock(&storage->makes);
    return r;
}

/* --- doctor ----------------------------------------------------------------------------------------------------------------------- */

static int place_finding(int asked, const struct error *late, const char *needs, struct findings *findings) {
    _cleanup_free_ char *sentence = asked == -ETIMEDOUT ? error_sentence(late, LANGUAGE_ENGLISH) : NULL;

    if (!sentence)
        return 0;
    return findings_add(findings, FINDING_ERROR, "storage", sentence, needs,
                        "see why its file system hangs (dmesg, the server behind it); all goes on by itself when it answers");
}

/* Which programs are missing is told with the others, by the host. */
int storage_findings(struct storage *storage, struct findings *findings) {
    _cleanup_free_ char *instances = text_format("%s/instances", storage->state_path);
    _cleanup_error_ struct error images_late = ERROR_INIT, instances_late = ERROR_INIT;
    uint64_t deadline = deadline_in(STORAGE_PATIENCE);
    int r = instances ? 0 : -ENOMEM;

    if (r >= 0)
        r = place_finding(storage_ask_images(storage, deadline, &images_late), &images_late,
                          "starts and what changes images wait for it", findings);
    if (r >= 0)
        r = place_finding(storage_ask(storage, instances, deadline_in(STORAGE_PATIENCE), &instances_late), &instances_late,
                          "instances whose disks are there wait for it when they start, end or are removed", findings);
    return r < 0 ? r : kernel_findings(storage, findings);
}

/* --- check ------------------------------------------------------------------------------------------------------------------ */

int storage_check_disk(struct storage *storage, const char *path, char **ret_problem, struct error *error) {
    _cleanup_close_ int input = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    _cleanup_error_ struct error failed = ERROR_INIT;
    _cleanup_json_ struct json_object *result = NULL;
    const struct process_fd fds[] = { { input, 3 } };
    char *arguments[] = { "polder-worker", "check-disk", "--input-fd", "3", NULL };
    int r;

    *ret_problem = NULL;
    if (input < 0)
        return error_errno(error, -errno, "opening %s", path);
    r = worker_call(storage, arguments, fds, ELEMENTS(fds), "checking", NULL, &result, &failed);
    if (r >= 0)
        return 0;
    if (failed.code != ERROR_BAD_IMAGE) {
        error_move(error, &failed);
        return r;
    }
    *ret_problem = error_sentence(&failed, LANGUAGE_ENGLISH);
    return *ret_problem ? 0 : error_errno(error, -ENOMEM, "checking %s", path);
}
