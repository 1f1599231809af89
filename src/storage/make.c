// SPDX-License-Identifier: GPL-2.0-or-later
/* What drivers start instances from: layer directories, EROFS images, overlays, empty file systems, kernels. Each is made
 * once under a temporary name and renamed when it is whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/file.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

#define MAKE_DEADLINE (10 * 60 * CLOCK_SECOND)

static int tool(const char *program, char *const *arguments, const struct process_spec *base, struct error *error) {
    struct process_spec spec = base ? *base : (struct process_spec){ 0 };
    struct process_run run = { .deadline = deadline_in(MAKE_DEADLINE) };

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

/* What the child needs to see the merged root: everything is prepared before, for the child may only make system calls. */
struct merge {
    const char *place;          /* a directory: tmpfs with l/N for each layer, then the overlay at m */
    char *const *layers;        /* lowest first */
    char (*names)[24];          /* "0", "1", … */
    size_t count;
    char *options;              /* "lowerdir=2:1:0" */
};

/* mkfs.erofs reads what an image brought. Reading other users' files is all that it may do as root. */
static int capabilities_drop(void) {
    for (int i = 0; i < 64; i++)
        if (i != CAP_DAC_READ_SEARCH && prctl(PR_CAPBSET_DROP, i, 0, 0, 0) < 0)
            return errno == EINVAL && i > 0 ? prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) : -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static int merge_enter(void *userdata) {
    const struct merge *merge = userdata;

    if (mount(NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0 || mount("tmpfs", merge->place, "tmpfs", 0, NULL) < 0 ||
        chdir(merge->place) < 0 || mkdir("merged", 0755) < 0 || mkdir("none", 0755) < 0)
        return -errno;
    for (size_t i = 0; i < merge->count; i++)
        if (mkdir(merge->names[i], 0700) < 0 || mount(merge->layers[i], merge->names[i], NULL, MS_BIND, NULL) < 0)
            return -errno;
    if (mount("overlay", "merged", "overlay", MS_RDONLY, merge->options) < 0)
        return -errno;
    return capabilities_drop();
}

static int merge_prepare(struct merge *merge, struct error *error) {
    _cleanup_buffer_ struct buffer options = BUFFER_INIT;
    int r;

    merge->count = list_count(merge->layers);
    merge->names = calloc(merge->count, sizeof(*merge->names));
    if (!merge->names)
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

static int erofs_make(struct storage *storage, const struct image *image, const char *final, struct error *error) {
    _cleanup_staging_ char *place = NULL;
    _cleanup_free_ char *part = NULL, *merged = NULL;
    _cleanup_list_ char **layers = NULL;
    struct merge merge = { 0 };
    struct process_spec spec = { .setup = merge_enter, .userdata = &merge, .namespaces = CLONE_NEWNS | CLONE_NEWNET };
    int r = storage_layer_paths(storage, image, &layers, error);

    if (r >= 0)
        r = staging_make(storage, &place, error);
    if (r < 0)
        return r;
    part = text_format("%s.part", place); /* beside the directory, over which a tmpfs will lie */
    merged = text_format("%s/merged", place);
    merge.place = place;
    merge.layers = layers;
    r = part && merged ? merge_prepare(&merge, error) : -ENOMEM;
    if (r >= 0) {
        char *arguments[] = { "mkfs.erofs", "-T0", "-Enoinline_data", "--quiet", part, merged, NULL };
        r = tool("/usr/bin/mkfs.erofs", arguments, &spec, error);
    }
    FAILPOINT("erofs-before-rename");
    if (r >= 0)
        r = chmod(part, 0400) < 0 ? -errno : file_keep(part, final);
    if (r < 0 && part)
        (void) unlink(part);
    free(merge.names);
    free(merge.options);
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
    r = tool("/usr/bin/qemu-img", arguments, NULL, error);
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
        r = tool("/usr/sbin/mkfs.ext4", arguments, NULL, error);
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

/* --- kernels ------------------------------------------------------------------------------------------------------------------ */

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

/* The newest boot/vmlinuz-VERSION beneath root that has its modules; a cloud kernel, being smaller, before others. */
static int kernel_look(const char *root, struct kernel_place *best) {
    _cleanup_free_ char *boot = text_format("%s/boot", root);
    DIR *directory = boot ? opendir(boot) : NULL;
    struct dirent *entry;

    if (!directory)
        return boot ? 0 : -ENOMEM;
    while ((entry = readdir(directory))) {
        const char *version = entry->d_name + strlen("vmlinuz-");
        _cleanup_free_ char *modules = NULL;
        bool better;
        if (!text_starts(entry->d_name, "vmlinuz-") || !*version)
            continue;
        modules = text_format("%s/lib/modules/%s", text_equal(root, "/") ? "" : root, version);
        if (!modules || !file_exists(AT_FDCWD, modules))
            continue;
        better = !best->version || (strstr(version, "cloud") && !strstr(best->version, "cloud")) ||
                 (!strstr(version, "cloud") == !strstr(best->version, "cloud") && version_compare(version, best->version) > 0);
        if (!better)
            continue;
        kernel_place_done(best);
        best->version = strdup(version);
        best->kernel = text_format("%s/%s", boot, entry->d_name);
        best->modules = STEAL_PTR(modules);
    }
    closedir(directory);
    return !best->version || (best->kernel && best->modules) ? 0 : -ENOMEM;
}

static int kernel_find(struct storage *storage, struct kernel_place *ret, struct error *error) {
    _cleanup_free_ char *own = text_format("%s/kernels", storage->state_path);
    DIR *directory;
    struct dirent *entry;
    int r = own ? 0 : -ENOMEM;

    if (storage->kernel_root)
        r = kernel_look(storage->kernel_root, ret);
    directory = r >= 0 && !ret->version ? opendir(own) : NULL;
    while (directory && (entry = readdir(directory)) && r >= 0) {
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

    return program ? tool(program, arguments, NULL, error) : error_errno(error, -ENOMEM, "making the initramfs");
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

int storage_kernel(struct storage *storage, struct kernel_files *ret, struct error *error) {
    __attribute__((cleanup(kernel_place_done))) struct kernel_place place = { 0 };
    __attribute__((cleanup(kernel_files_done))) struct kernel_files files = { 0 };
    _cleanup_free_ char *guest = text_format("%s/polder-guest", storage->libexec_path);
    int r = guest ? kernel_find(storage, &place, error) : -ENOMEM;

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

void kernel_files_done(struct kernel_files *files) {
    free(files->version);
    free(files->kernel);
    free(files->initramfs);
    *files = (struct kernel_files){ 0 };
}

/* --- doctor ----------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *program, *package, *use;
} programs[] = {
    { "/usr/bin/skopeo", "skopeo", "images can be pulled from registries" },
    { "/usr/bin/mkfs.erofs", "erofs-utils", "OCI images can start as microVMs" },
    { "/usr/bin/qemu-img", "qemu-utils", "disk images can be imported" },
    { "/usr/bin/mmdebstrap", "mmdebstrap", "Debian images can be built" },
    { "/usr/sbin/mkfs.ext4", "e2fsprogs", "microVMs have a writable disk" },
    { "/usr/bin/curl", "curl", "images can be fetched from URLs" },
};

int storage_findings(struct storage *storage, struct findings *findings) {
    __attribute__((cleanup(kernel_place_done))) struct kernel_place place = { 0 };
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(programs); i++) {
        bool there = access(programs[i].program, X_OK) == 0;
        _cleanup_free_ char *text = text_format("%s %s", programs[i].package, there ? "is installed" : "is missing");
        _cleanup_free_ char *advice = text_format("apt-get install %s", programs[i].package);
        r = findings_add(findings, there ? FINDING_OK : FINDING_WARNING, "image tools", text, programs[i].use,
                         there ? NULL : advice);
    }
    if (r >= 0 && kernel_find(storage, &place, &error) >= 0)
        r = findings_add(findings, FINDING_OK, "microvm kernel", place.version, "microVMs start with this kernel", NULL);
    else if (r >= 0)
        r = findings_add(findings, FINDING_WARNING, "microvm kernel", "no kernel for microVMs",
                         "a microVM is started with a kernel of the host's", "apt-get install linux-image-cloud-amd64");
    return r;
}
