// SPDX-License-Identifier: GPL-2.0-or-later
/* Kernels for microVMs, each with an initramfs that holds polder-guest and the modules it needs. A kernel comes from the
 * image, if that brings one together with its modules, else from the host.
 *
 * The host's are made once for each kernel and polder-guest, in STATE/kernels/.made. An image's are in
 * images/kernels/DIGEST, made once for the image and polder-guest:
 *
 *   version    empty: the image has no kernel that can be used
 *   vmlinux, initramfs
 *   guest      written last: the polder-guest that it was made with */
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
#include "base/log.h"
#include "base/text.h"
#include "storage/internal.h"

#define VERSION_MAX 128
#define STATUS_NO_KERNEL 3 /* of polder-mkinitramfs */

/* --- the host's ------------------------------------------------------------------------------------------------------- */

struct kernel_place {
    char *version, *kernel, *modules;
};

static void kernel_place_done(struct kernel_place *place) {
    free(place->version);
    free(place->kernel);
    free(place->modules);
    *place = (struct kernel_place){ 0 };
}

/* "6.1.0-56" after "6.1.0-9": digits compare as numbers. */
static int version_compare(const char *a, const char *b) {
    return strverscmp(a, b);
}

/* NULL and 0: there is none. Want of memory or descriptors is no such answer. */
static int directory_open(const char *path, DIR **ret) {
    *ret = path ? opendir(path) : NULL;
    if (*ret)
        return 0;
    return !path ? -ENOMEM : errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
}

/* The newest boot/vmlinuz-VERSION beneath root that has its modules; a cloud kernel, being smaller, before others. */
static int kernel_look(const char *root, struct kernel_place *best) {
    _cleanup_free_ char *boot = text_format("%s/boot", root);
    struct dirent *entry;
    DIR *directory;
    int r = directory_open(boot, &directory);

    while (directory && r >= 0 && (entry = readdir(directory))) {
        const char *version = entry->d_name + strlen("vmlinuz-");
        _cleanup_free_ char *modules = NULL;
        bool better;
        if (!text_starts(entry->d_name, "vmlinuz-") || !*version)
            continue;
        modules = text_format("%s/lib/modules/%s", text_equal(root, "/") ? "" : root, version);
        r = modules ? 0 : -ENOMEM;
        if (r < 0 || !file_exists(AT_FDCWD, modules))
            continue;
        better = !best->version || (strstr(version, "cloud") && !strstr(best->version, "cloud")) ||
                 (!strstr(version, "cloud") == !strstr(best->version, "cloud") && version_compare(version, best->version) > 0);
        if (!better)
            continue;
        kernel_place_done(best);
        best->version = strdup(version);
        best->kernel = text_format("%s/%s", boot, entry->d_name);
        best->modules = STEAL_PTR(modules);
        r = best->version && best->kernel ? 0 : -ENOMEM;
    }
    if (directory)
        closedir(directory);
    return r;
}

static int kernel_find(struct storage *storage, struct kernel_place *ret, struct error *error) {
    _cleanup_free_ char *own = text_format("%s/kernels", storage->state_path);
    DIR *directory = NULL;
    struct dirent *entry;
    int r = own ? 0 : -ENOMEM;

    if (storage->kernel_root)
        r = kernel_look(storage->kernel_root, ret);
    if (r >= 0 && !ret->version)
        r = directory_open(own, &directory);
    while (directory && r >= 0 && (entry = readdir(directory))) {
        _cleanup_free_ char *root = text_format("%s/%s", own, entry->d_name);
        if (entry->d_name[0] != '.')
            r = root ? kernel_look(root, ret) : -ENOMEM;
    }
    if (directory)
        closedir(directory);
    if (r >= 0 && !ret->version)
        r = kernel_look("/", ret);
    if (r < 0)
        return error_errno(error, r, "looking for a kernel");
    if (!ret->version)
        return error_set(error, ERROR_HOST_LACKS, "a kernel for microVMs",
                         "neither /boot nor the kernels directory has a vmlinuz with its modules; install linux-image-cloud-amd64");
    return 0;
}

static uint64_t stamp_of(const struct stat *status) {
    return (uint64_t) status->st_mtim.tv_sec * 1000000000 + (uint64_t) status->st_mtim.tv_nsec;
}

/* Names that change when what they are made of does: a package may bring another kernel under the same version, and a
 * new polder-guest gets a new initramfs. */
static int kernel_paths(struct storage *storage, const struct kernel_place *place, const char *guest,
                        struct kernel_files *files, struct error *error) {
    struct stat kernel, agent;

    if (stat(guest, &agent) < 0)
        return error_set(error, ERROR_HOST_LACKS, "the guest agent", guest);
    if (stat(place->kernel, &kernel) < 0)
        return error_errno(error, -errno, "looking at %s", place->kernel);
    files->version = strdup(place->version);
    files->kernel = text_format("%s/kernels/.made/vmlinux-%s-%" PRIx64 "-%" PRIx64, storage->state_path, place->version,
                                stamp_of(&kernel), (uint64_t) kernel.st_size);
    files->initramfs = text_format("%s/kernels/.made/%s-%" PRIx64 "-%" PRIx64 "-%" PRIx64 ".cpio", storage->state_path,
                                   place->version, stamp_of(&kernel), stamp_of(&agent), (uint64_t) agent.st_size);
    return files->version && files->kernel && files->initramfs ? 0 : error_errno(error, -ENOMEM, "finding a kernel");
}

static int mkinitramfs(struct storage *storage, char *const *arguments, struct error *error) {
    _cleanup_free_ char *program = text_format("%s/polder-mkinitramfs", storage->libexec_path);

    return program ? tool_run(program, arguments, NULL, error) : error_errno(error, -ENOMEM, "making the initramfs");
}

static int kernel_make(struct storage *storage, const struct kernel_place *place, const char *guest,
                       struct kernel_files *files, struct error *error) {
    _cleanup_free_ char *directory = text_format("%s/kernels/.made", storage->state_path);
    int r = directory ? file_make_directories(AT_FDCWD, directory, 0755) : -ENOMEM;

    if (r < 0)
        return error_errno(error, r, "making the initramfs");
    if (!file_exists(AT_FDCWD, files->kernel)) {
        char *arguments[] = { "polder-mkinitramfs", "--vmlinux", place->kernel, "--output", files->kernel, NULL };
        r = mkinitramfs(storage, arguments, error);
    }
    FAILPOINT("kernel-between");
    if (r >= 0 && !file_exists(AT_FDCWD, files->initramfs)) {
        char *arguments[] = { "polder-mkinitramfs", "--modules", place->modules, "--guest", (char *) guest, "--output",
                              files->initramfs, NULL };
        r = mkinitramfs(storage, arguments, error);
    }
    return r;
}

static int host_kernel(struct storage *storage, const char *guest, struct kernel_files *ret, struct error *error) {
    __attribute__((cleanup(kernel_place_done))) struct kernel_place place = { 0 };
    __attribute__((cleanup(kernel_files_done))) struct kernel_files files = { 0 };
    int r = kernel_find(storage, &place, error);

    if (r >= 0)
        r = kernel_paths(storage, &place, guest, &files, error);
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "finding a kernel");
    if (!file_exists(AT_FDCWD, files.kernel) || !file_exists(AT_FDCWD, files.initramfs)) {
        r = fiber_mutex_lock(&storage->makes, DEADLINE_NONE);
        if (r >= 0) {
            r = kernel_make(storage, &place, guest, &files, error);
            fiber_mutex_unlock(&storage->makes);
        }
    }
    if (r < 0)
        return error_is_set(error) ? r : error_errno(error, r, "making the initramfs");
    *ret = files;
    files = (struct kernel_files){ 0 };
    return 0;
}

/* --- the image's --------------------------------------------------------------------------------------------------------- */

/* Cheap enough for each start: nearly no image has modules. The image decides what is there, so no link is followed. */
static bool has_modules(struct storage *storage, const struct image *image) {
    static const char *const places[] = { "lib/modules", "usr/lib/modules" };

    for (size_t i = 0; i < image->layers.count; i++) {
        const struct image_layer *layer = (const struct image_layer *) image->layers.items + i;
        _cleanup_free_ char *path = layer_path(storage, layer->diff_id);
        _cleanup_close_ int directory = path ? open(path, O_PATH | O_DIRECTORY | O_CLOEXEC) : -EBADF;
        for (size_t j = 0; directory >= 0 && j < ELEMENTS(places); j++) {
            _cleanup_close_ int fd = file_open_beneath(directory, places[j], O_PATH | O_DIRECTORY | O_CLOEXEC, 0, true);
            if (fd >= 0)
                return true;
        }
    }
    return false;
}

static char *stamp_text(const char *guest, struct error *error) {
    struct stat agent;

    if (stat(guest, &agent) < 0) {
        (void) error_set(error, ERROR_HOST_LACKS, "the guest agent", guest);
        return NULL;
    }
    return text_format("%" PRIx64 "-%" PRIx64, stamp_of(&agent), (uint64_t) agent.st_size);
}

static bool is_made(const char *directory, const char *stamp) {
    _cleanup_free_ char *path = text_format("%s/guest", directory), *text = NULL;
    size_t size;

    return path && file_read(AT_FDCWD, path, VERSION_MAX, &text, &size) >= 0 && text_equal(text, stamp);
}

/* What is wrong with the image's kernel is no reason not to start it: the host's does too. */
static int unusable(const struct image *image, int status, int r, struct error *error) {
    _cleanup_free_ char *sentence = NULL;

    if (r >= 0 || error->code != ERROR_PROGRAM_FAILED)
        return r;
    sentence = error_sentence(error, LANGUAGE_ENGLISH);
    if (status != STATUS_NO_KERNEL)
        log_warning("image %s: its microVMs start with the host's kernel, since its own is of no use: %s", image->digest,
                    sentence ? sentence : "");
    error_clear(error);
    return 0;
}

/* The program leaves what the child still may do behind it as soon as it stands in the image's root. */
static int image_kernel_extract(struct storage *storage, const struct image *image, const char *guest,
                                const char *directory, struct buffer *version, struct error *error) {
    _cleanup_merge_ struct merge merge = { .capabilities = UINT64_C(1) << CAP_DAC_READ_SEARCH |
                                                           UINT64_C(1) << CAP_SYS_CHROOT | UINT64_C(1) << CAP_SETUID |
                                                           UINT64_C(1) << CAP_SETGID };
    _cleanup_free_ char *program = text_format("%s/polder-mkinitramfs", storage->libexec_path);
    _cleanup_free_ char *kernel = text_format("%s/vmlinux", directory), *output = text_format("%s/initramfs", directory);
    struct process_spec spec = { .program = program, .setup = merge_enter, .userdata = &merge, .die_with_parent = true,
                                 .namespaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC };
    int status = 0, r = program && kernel && output ? 0 : error_errno(error, -ENOMEM, "looking for a kernel");
    struct process_run run = { .output = version, .limit = VERSION_MAX, .deadline = deadline_in(TOOL_DEADLINE_SHORT),
                               .ret_status = &status };

    if (r >= 0)
        r = merge_prepare(&merge, storage, image, error);
    if (r < 0)
        return r;
    char *arguments[] = { "polder-mkinitramfs", "--root", merge.merged, "--guest", (char *) guest, "--kernel", kernel,
                          "--output", output, NULL };
    spec.arguments = arguments;
    r = process_run(&spec, &run, error);
    if (r < 0)
        buffer_reset(version);
    return unusable(image, status, r, error);
}

static int note_write(const char *directory, const char *name, const char *text) {
    _cleanup_free_ char *path = text_format("%s/%s", directory, name);

    return path ? file_write_atomic(AT_FDCWD, path, text, strlen(text), 0600, true) : -ENOMEM;
}

static int image_kernel_make(struct storage *storage, const struct image *image, const char *guest, const char *stamp,
                             const char *final, struct error *error) {
    _cleanup_buffer_ struct buffer version = BUFFER_INIT;
    _cleanup_staging_ char *directory = NULL;
    int r = staging_make(storage, &directory, error);

    if (r >= 0)
        r = image_kernel_extract(storage, image, guest, directory, &version, error);
    if (r < 0)
        return r;
    r = note_write(directory, "version", version.size > 0 ? version.data : "");
    if (r >= 0)
        r = note_write(directory, "guest", stamp);
    FAILPOINT("image-kernel-before-publish");
    if (r >= 0)
        r = staging_publish(storage, directory, final);
    return r < 0 ? error_errno(error, r, "keeping the image's kernel") : 0;
}

/* 1: the image has one; 0: it has none. */
static int image_kernel(struct storage *storage, const struct image *image, const char *guest, struct kernel_files *ret,
                        struct error *error) {
    _cleanup_free_ char *final = image_path(storage, "kernels", image->digest), *stamp = stamp_text(guest, error);
    _cleanup_free_ char *path = final ? text_format("%s/version", final) : NULL, *version = NULL;
    size_t size;
    int r = 0;

    if (!stamp || !path)
        return error_is_set(error) ? -ENOENT : error_errno(error, -ENOMEM, "looking for a kernel");
    if (!is_made(final, stamp)) {
        r = fiber_mutex_lock(&storage->makes, DEADLINE_NONE);
        if (r < 0)
            return error_errno(error, r, "looking for a kernel");
        if (!is_made(final, stamp))
            r = image_kernel_make(storage, image, guest, stamp, final, error);
        fiber_mutex_unlock(&storage->makes);
    }
    if (r < 0)
        return r;
    r = file_read(AT_FDCWD, path, VERSION_MAX, &version, &size);
    if (r < 0)
        return error_errno(error, r, "reading %s", path);
    if (size == 0)
        return 0;
    ret->kernel = text_format("%s/vmlinux", final);
    ret->initramfs = text_format("%s/initramfs", final);
    ret->version = STEAL_PTR(version);
    if (ret->kernel && ret->initramfs)
        return 1;
    kernel_files_done(ret);
    return error_errno(error, -ENOMEM, "looking for a kernel");
}

int storage_kernel(struct storage *storage, const struct image *image, struct kernel_files *ret, struct error *error) {
    _cleanup_free_ char *guest = text_format("%s/polder-guest", storage->libexec_path);
    int r = guest ? 0 : error_errno(error, -ENOMEM, "finding a kernel");

    if (r >= 0 && image && has_modules(storage, image))
        r = image_kernel(storage, image, guest, ret, error);
    return r != 0 ? r < 0 ? r : 0 : host_kernel(storage, guest, ret, error);
}

void kernel_files_done(struct kernel_files *files) {
    free(files->version);
    free(files->kernel);
    free(files->initramfs);
    *files = (struct kernel_files){ 0 };
}

int kernel_findings(struct storage *storage, struct findings *findings) {
    __attribute__((cleanup(kernel_place_done))) struct kernel_place place = { 0 };
    _cleanup_error_ struct error error = ERROR_INIT;

    if (kernel_find(storage, &place, &error) >= 0)
        return findings_add(findings, FINDING_OK, "microvm kernel", place.version, "microVMs start with this kernel", NULL);
    return findings_add(findings, FINDING_WARNING, "microvm kernel", "no kernel for microVMs",
                        "a microVM whose image brings no kernel starts with the host's",
                        "apt-get install linux-image-cloud-amd64");
}
