// SPDX-License-Identifier: GPL-2.0-or-later

/* polder-mkinitramfs: what a microVM boots with.
 *
 *   --modules DIR --guest FILE --output FILE   an uncompressed newc archive: polder-guest as /init and the
 * kernel modules it needs, decompressed, with /modules.list in load order. The same input gives the same
 * bytes.
 *   --vmlinux BZIMAGE --output FILE            the uncompressed kernel inside a bzImage, which boots sooner
 * because the (emulated) guest need not unpack it; where there is none that QEMU can boot, a copy of the
 * bzImage.
 *   --root DIR --guest FILE --kernel FILE --output FILE   both, from the newest kernel that has its modules in
 * the root file system of an image. That is foreign: it is read from inside, as nobody. Prints the version;
 * exits with 3 if there is none. The outputs must not exist, and may be incomplete if it fails.
 *
 * A program of its own because it links libarchive and libkmod, which polderd does not. The output appears
 * under its name only when it is complete. */

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <elf.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libkmod.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"

#define MODULE_MAX (64 * 1024 * 1024) /* bytes of one module, decompressed */
#define VMLINUX_MAX (512 * 1024 * 1024)
#define FILES_MAX 256
#define MEMORY_MAX (UINT64_C(2) << 30) /* for an image's kernel */
#define PROCESSOR_SECONDS 300
#define VERSION_MAX 64
#define NOBODY 65534
#define STATUS_NO_KERNEL 3

/* What a microVM may need. An essential one that the kernel neither has built in nor as a module is an error.
 */
struct wanted {
    const char *name;
    bool essential;
};

static const struct wanted wanted_modules[] = {
    { "virtio_mmio", true },
    { "virtio_pci", false },
    { "virtio_blk", true },
    { "virtio_console", true },
    { "virtio_net", true },
    { "virtio_rng", false },
    { "erofs", true },
    { "overlay", true },
    { "crc32c_generic", false },
    { "ext4", true },
    { "fuse", true },
    { "virtiofs", true },
    { "virtio_balloon", false },
    { "virtio_mem", false },
    { "qemu_fw_cfg", false },
    { "af_packet", false },
};

struct file {
    char *name; /* inside the archive */
    void *data;
    size_t size;
};

struct initramfs {
    struct file files[FILES_MAX]; /* the modules in load order */
    size_t count;
    char *list;
    bool drops_signatures;
};

DEFINE_CLEANUP(struct archive *, archive_write_free)
DEFINE_CLEANUP(struct archive *, archive_read_free)
DEFINE_CLEANUP(struct archive_entry *, archive_entry_free)
DEFINE_CLEANUP(struct kmod_ctx *, kmod_unref)
DEFINE_CLEANUP(struct kmod_list *, kmod_module_unref_list)

static int fail(int r, const char *format, ...) _printf_(2, 3);
static int fail(int r, const char *format, ...) {
    va_list list;

    fputs("polder-mkinitramfs: ", stderr);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    if (r != -EINVAL)
        fprintf(stderr, ": %s", strerror(-r));
    fputc('\n', stderr);
    return r;
}

static void initramfs_done(struct initramfs *initramfs) {
    for (size_t i = 0; i < initramfs->count; i++) {
        free(initramfs->files[i].name);
        free(initramfs->files[i].data);
    }
    free(initramfs->list);
}

/* Reads a whole archive entry or file of unknown size, at most `limit` bytes. */
static int read_entry(struct archive *archive, size_t limit, void **ret, size_t *ret_size) {
    _cleanup_free_ uint8_t *data = NULL;
    size_t size = 0, capacity = 0;

    for (;;) {
        la_ssize_t n;
        if (size == capacity) {
            void *grown;
            capacity = capacity ? 2 * capacity : 256 * 1024;
            grown = realloc(data, capacity);
            if (!grown)
                return -ENOMEM;
            data = grown;
        }
        n = archive_read_data(archive, data + size, capacity - size);
        if (n < 0)
            return -EBADMSG;
        if (n == 0)
            break;
        size += (size_t) n;
        if (size > limit)
            return -EFBIG;
    }
    *ret = STEAL_PTR(data);
    *ret_size = size;
    return 0;
}

/* A "raw" archive is one entry with the bytes behind whatever compression there is. */
static struct archive *raw_reader(void) {
    struct archive *archive = archive_read_new();

    if (!archive)
        return NULL;
    archive_read_support_format_raw(archive);
    archive_read_support_format_empty(archive);
    archive_read_support_filter_gzip(archive);
    archive_read_support_filter_bzip2(archive);
    archive_read_support_filter_xz(archive);
    archive_read_support_filter_lzma(archive);
    archive_read_support_filter_zstd(archive);
    archive_read_support_filter_lz4(archive);
    return archive;
}

static int read_decompressed(const char *path, size_t limit, void **ret, size_t *ret_size) {
    _cleanup_(archive_read_freep) struct archive *archive = raw_reader();
    struct archive_entry *entry;
    int r;

    if (!archive)
        return -ENOMEM;
    if (archive_read_open_filename(archive, path, 256 * 1024) != ARCHIVE_OK ||
        archive_read_next_header(archive, &entry) != ARCHIVE_OK)
        return fail(-EINVAL, "cannot read %s: %s", path, archive_error_string(archive));
    r = read_entry(archive, limit, ret, ret_size);
    return r < 0 ? fail(r, "cannot read %s", path) : 0;
}

static int read_plain(const char *path, size_t limit, void **ret, size_t *ret_size) {
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    _cleanup_free_ uint8_t *data = NULL;
    struct stat status;
    size_t size = 0;

    if (fd < 0 || fstat(fd, &status) < 0)
        return fail(-errno, "cannot read %s", path);
    if (!S_ISREG(status.st_mode) || status.st_size == 0 || status.st_size > (off_t) limit)
        return fail(-EINVAL, "%s is no file, empty or too large", path);
    data = malloc((size_t) status.st_size);
    if (!data)
        return -ENOMEM;
    while (size < (size_t) status.st_size) {
        ssize_t n = read(fd, data + size, (size_t) status.st_size - size);
        if (n <= 0)
            return fail(n < 0 ? -errno : -EIO, "cannot read %s", path);
        size += (size_t) n;
    }
    *ret = STEAL_PTR(data);
    *ret_size = size;
    return 0;
}

/* "kernel/fs/ext4/ext4.ko.xz" -> "/modules/ext4.ko": module names are unique. */
static char *module_file_name(const char *name) {
    char *result;

    return asprintf(&result, "/modules/%s.ko", name) < 0 ? NULL : result;
}

static bool has_file(const struct initramfs *initramfs, const char *name) {
    for (size_t i = 0; i < initramfs->count; i++) {
        if (strcmp(initramfs->files[i].name, name) == 0)
            return true;
    }
    return false;
}

/* Checking a signature costs an emulated guest about half the time a module takes to load, and what lies in
 * this archive is trusted anyway. A kernel that insists on signatures gets them: only one whose configuration
 * is there to say that it does not may go without. */
static bool may_drop_signatures(const char *directory) {
    static const char allowed[] = "# CONFIG_MODULE_SIG_FORCE is not set\n";
    static const char *const boot[] = { "boot", "../boot" }; /* beside /lib, or above /usr/lib */
    const char *found = strstr(directory, "lib/modules/");
    const char *version = found ? found + strlen("lib/modules/") : NULL;
    bool is_allowed = false;

    for (size_t i = 0; version && i < ELEMENTS(boot); i++) {
        char path[PATH_MAX], line[256];
        FILE *file;
        snprintf(path, sizeof(path), "%.*s%s/config-%.*s", (int) (found - directory), directory, boot[i],
                 (int) strcspn(version, "/"), version);
        file = fopen(path, "re");
        while (file && !is_allowed && fgets(line, sizeof(line), file))
            is_allowed = strcmp(line, allowed) == 0;
        if (file)
            fclose(file);
    }
    return is_allowed;
}

/* A signed module ends with the signature, a block of 12 bytes whose last 4 give its length, and this mark.
 */
static size_t unsigned_size(const uint8_t *data, size_t size) {
    static const char mark[] = "~Module signature appended~\n";
    const size_t mark_size = sizeof(mark) - 1, block_size = 12;
    size_t length;

    if (size < mark_size + block_size || memcmp(data + size - mark_size, mark, mark_size) != 0)
        return size;
    length = (size_t) data[size - mark_size - 4] << 24 | (size_t) data[size - mark_size - 3] << 16 |
             (size_t) data[size - mark_size - 2] << 8 | data[size - mark_size - 1];
    return length < size - mark_size - block_size ? size - mark_size - block_size - length : size;
}

static int add_module_file(struct initramfs *initramfs, struct kmod_module *module) {
    const char *path = kmod_module_get_path(module);
    _cleanup_free_ char *name = module_file_name(kmod_module_get_name(module));
    struct file *file = &initramfs->files[initramfs->count];
    int r;

    if (!name)
        return -ENOMEM;
    if (!path || has_file(initramfs, name))
        return 0; /* built in, or needed by an earlier one too */
    if (initramfs->count == FILES_MAX)
        return fail(-EINVAL, "more than %d modules", FILES_MAX);
    r = read_decompressed(path, MODULE_MAX, &file->data, &file->size);
    if (r < 0)
        return r;
    if (file->size < SELFMAG || memcmp(file->data, ELFMAG, SELFMAG) != 0) {
        free(file->data);
        return fail(-EINVAL, "%s is no kernel module", path);
    }
    if (initramfs->drops_signatures)
        file->size = unsigned_size(file->data, file->size);
    file->name = STEAL_PTR(name);
    initramfs->count++;
    return 0;
}

/* The module's "load before" hints (ext4 has one for crc32c), then what it depends on, then itself. */
static int add_module(struct initramfs *initramfs, struct kmod_module *module) {
    _cleanup_(kmod_module_unref_listp) struct kmod_list *before = NULL;
    _cleanup_(kmod_module_unref_listp) struct kmod_list *after = NULL;
    _cleanup_(kmod_module_unref_listp) struct kmod_list *needs = kmod_module_get_dependencies(module);
    struct kmod_list *item;
    int r = 0;

    (void) kmod_module_get_softdeps(module, &before, &after);
    kmod_list_foreach(item, before) {
        struct kmod_module *other = kmod_module_get_module(item);
        if (r == 0)
            r = add_module_file(initramfs, other);
        kmod_module_unref(other);
    }
    kmod_list_foreach(item, needs) {
        struct kmod_module *other = kmod_module_get_module(item);
        if (r == 0)
            r = add_module_file(initramfs, other);
        kmod_module_unref(other);
    }
    return r < 0 ? r : add_module_file(initramfs, module);
}

static int add_wanted(struct initramfs *initramfs, struct kmod_ctx *context, const struct wanted *wanted) {
    _cleanup_(kmod_module_unref_listp) struct kmod_list *found = NULL;
    struct kmod_list *item;
    int r = kmod_module_new_from_lookup(context, wanted->name, &found);

    if (r < 0)
        return fail(r, "cannot look up module %s", wanted->name);
    if (!found && wanted->essential)
        return fail(-EINVAL, "this kernel has no %s, which a microVM needs", wanted->name);
    kmod_list_foreach(item, found) {
        struct kmod_module *module = kmod_module_get_module(item);
        if (r == 0)
            r = add_module(initramfs, module);
        kmod_module_unref(module);
    }
    return r;
}

static int collect_modules(struct initramfs *initramfs, const char *directory) {
    static const char *const no_configuration = NULL;
    _cleanup_(kmod_unrefp) struct kmod_ctx *context = kmod_new(directory, &no_configuration);
    char path[PATH_MAX];
    size_t size;
    FILE *list;

    snprintf(path, sizeof(path), "%s/modules.dep.bin", directory);
    if (access(path, R_OK) < 0)
        return fail(-errno, "%s (run depmod for this kernel)", path);
    if (!context)
        return fail(-EINVAL, "cannot read the modules in %s", directory);
    initramfs->drops_signatures = may_drop_signatures(directory);
    for (size_t i = 0; i < ELEMENTS(wanted_modules); i++) {
        int r = add_wanted(initramfs, context, &wanted_modules[i]);
        if (r < 0)
            return r;
    }
    list = open_memstream(&initramfs->list, &size);
    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < initramfs->count; i++)
        fprintf(list, "%s\n", initramfs->files[i].name);
    return fclose(list) == 0 ? 0 : -ENOMEM;
}

/* `inode` is any number of the entry's own. */
static int put_entry(struct archive *archive, unsigned inode, const char *name, mode_t mode, const void *data,
                     size_t size) {
    _cleanup_(archive_entry_freep) struct archive_entry *entry = archive_entry_new();

    if (!entry)
        return -ENOMEM;
    archive_entry_set_pathname(entry, name + 1);
    archive_entry_set_mode(entry, mode);
    archive_entry_set_ino(entry, inode);
    archive_entry_set_nlink(entry, 1);
    archive_entry_set_mtime(entry, 0, 0);
    archive_entry_set_size(entry, (la_int64_t) size);
    if (S_ISCHR(mode))
        archive_entry_set_rdev(entry, makedev(5, 1)); /* the console, the only device here */
    if (archive_write_header(archive, entry) != ARCHIVE_OK ||
        (size > 0 && archive_write_data(archive, data, size) != (la_ssize_t) size))
        return fail(-EINVAL, "cannot write the archive: %s", archive_error_string(archive));
    return 0;
}

static int compare_files(const void *a, const void *b) {
    return strcmp(((const struct file *) a)->name, ((const struct file *) b)->name);
}

static int write_archive(struct initramfs *initramfs, const void *guest, size_t guest_size, int fd) {
    _cleanup_(archive_write_freep) struct archive *archive = archive_write_new();
    int r = 0;

    if (!archive)
        return -ENOMEM;
    if (archive_write_set_format_cpio_newc(archive) != ARCHIVE_OK ||
        archive_write_set_bytes_in_last_block(archive, 1) != ARCHIVE_OK ||
        archive_write_open_fd(archive, fd) != ARCHIVE_OK)
        return fail(-EINVAL, "cannot write the archive: %s", archive_error_string(archive));
    /* The kernel opens /dev/console before it starts /init. */
    r = put_entry(archive, 1, "/dev", S_IFDIR | 0755, NULL, 0);
    if (r == 0)
        r = put_entry(archive, 2, "/dev/console", S_IFCHR | 0600, NULL, 0);
    if (r == 0)
        r = put_entry(archive, 3, "/init", S_IFREG | 0755, guest, guest_size);
    if (r == 0)
        r = put_entry(archive, 4, "/modules", S_IFDIR | 0755, NULL, 0);
    if (r == 0)
        r = put_entry(archive, 5, "/modules.list", S_IFREG | 0644, initramfs->list, strlen(initramfs->list));
    qsort(initramfs->files, initramfs->count, sizeof(struct file), compare_files);
    for (size_t i = 0; r == 0 && i < initramfs->count; i++) {
        const struct file *file = &initramfs->files[i];
        r = put_entry(archive, (unsigned) (6 + i), file->name, S_IFREG | 0644, file->data, file->size);
    }
    if (r == 0 && archive_write_close(archive) != ARCHIVE_OK)
        r = fail(-EINVAL, "cannot write the archive: %s", archive_error_string(archive));
    return r;
}

/* Creates `path` through a temporary file beside it. */
static int output_open(const char *path, char temporary[PATH_MAX]) {
    int fd;

    if (snprintf(temporary, PATH_MAX, "%s.XXXXXX", path) >= PATH_MAX)
        return fail(-ENAMETOOLONG, "%s", path);
    fd = mkostemp(temporary, O_CLOEXEC);
    return fd < 0 ? fail(-errno, "cannot create %s", path) : fd;
}

static int output_finish(int fd, const char *temporary, const char *path, int r) {
    if (r == 0 && (fchmod(fd, 0644) < 0 || fsync(fd) < 0 || rename(temporary, path) < 0))
        r = fail(-errno, "cannot write %s", path);
    if (r < 0)
        (void) unlink(temporary);
    return r;
}

static int make_initramfs(const char *modules, const char *guest, const char *output) {
    _cleanup_(initramfs_done) struct initramfs initramfs = { 0 };
    _cleanup_free_ void *program = NULL;
    _cleanup_close_ int fd = -EBADF;
    char temporary[PATH_MAX];
    size_t size;
    int r = read_plain(guest, MODULE_MAX, &program, &size);

    if (r == 0)
        r = collect_modules(&initramfs, modules);
    if (r < 0)
        return r;
    fd = output_open(output, temporary);
    if (fd < 0)
        return fd;
    return output_finish(fd, temporary, output, write_archive(&initramfs, program, size, fd));
}

static uint32_t read_u32(const uint8_t *data) {
    uint32_t value;

    memcpy(&value, data, sizeof(value));
    return le32toh(value);
}

/* Finds the compressed kernel by the fields of the boot protocol (2.08 and later;
 * Documentation/arch/x86/boot.rst). */
static int payload_find(const uint8_t *image, size_t size, const uint8_t **ret, size_t *ret_size) {
    size_t setup, offset, length;

    if (size < 0x250 || memcmp(image + 0x202, "HdrS", 4) != 0 || (image[0x206] | image[0x207] << 8) < 0x208)
        return -EINVAL;
    setup = ((size_t) (image[0x1f1] ? image[0x1f1] : 4) + 1) * 512;
    offset = setup + read_u32(image + 0x248);
    length = read_u32(image + 0x24c);
    if (offset > size || length > size - offset || length < 4)
        return -EINVAL;
    *ret = image + offset;
    *ret_size = length;
    return 0;
}

/* The payload ends with the kernel's size, which belongs to the container format of gzip alone. */
static int payload_unpack(const uint8_t *payload, size_t size, void **ret, size_t *ret_size) {
    _cleanup_(archive_read_freep) struct archive *archive = raw_reader();
    bool is_gzip = payload[0] == 0x1f && payload[1] == 0x8b;
    size_t expected = read_u32(payload + size - 4);
    _cleanup_free_ void *data = NULL;
    struct archive_entry *entry;
    int r;

    if (!archive)
        return -ENOMEM;
    if (archive_read_open_memory(archive, payload, is_gzip ? size : size - 4) != ARCHIVE_OK ||
        archive_read_next_header(archive, &entry) != ARCHIVE_OK)
        return -EINVAL;
    r = read_entry(archive, VMLINUX_MAX, &data, ret_size);
    if (r < 0)
        return r;
    if (*ret_size != expected)
        return -EINVAL;
    *ret = STEAL_PTR(data);
    return 0;
}

/* QEMU boots an ELF kernel through its Xen PVH note alone: owner "Xen", type 18. */
static bool has_pvh_note(const uint8_t *data, size_t size) {
    const Elf64_Ehdr *header = (const void *) data;

    if (size < sizeof(*header) || memcmp(data, ELFMAG, SELFMAG) != 0 || data[EI_CLASS] != ELFCLASS64)
        return false;
    for (size_t i = 0; i < header->e_phnum; i++) {
        size_t at = header->e_phoff + i * sizeof(Elf64_Phdr);
        Elf64_Phdr segment;

        if (at > size || size - at < sizeof(segment))
            return false;
        memcpy(&segment, data + at, sizeof(segment));
        if (segment.p_type != PT_NOTE || segment.p_offset > size ||
            segment.p_filesz > size - segment.p_offset)
            continue;
        for (size_t p = 0; p + 16 <= segment.p_filesz; p += 4) {
            const uint8_t *note = data + segment.p_offset + p;
            if (read_u32(note) == 4 && read_u32(note + 8) == 18 && memcmp(note + 12, "Xen", 4) == 0)
                return true;
        }
    }
    return false;
}

static int write_all(int fd, const uint8_t *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, data + done, size - done);
        if (n < 0 && errno != EINTR)
            return fail(-errno, "cannot write the kernel");
        done += n > 0 ? (size_t) n : 0;
    }
    return 0;
}

static int write_vmlinux(const char *path, int fd) {
    _cleanup_free_ void *image = NULL, *kernel = NULL;
    const uint8_t *payload, *data;
    size_t size, payload_size, kernel_size = 0;
    int r = read_plain(path, VMLINUX_MAX, &image, &size);

    if (r < 0)
        return r;
    data = image;
    if (payload_find(image, size, &payload, &payload_size) == 0 &&
        payload_unpack(payload, payload_size, &kernel, &kernel_size) == 0 &&
        has_pvh_note(kernel, kernel_size)) {
        data = kernel;
        size = kernel_size;
    }
    return write_all(fd, data, size);
}

static int make_vmlinux(const char *path, const char *output) {
    char temporary[PATH_MAX];
    _cleanup_close_ int fd = output_open(output, temporary);

    return fd < 0 ? fd : output_finish(fd, temporary, output, write_vmlinux(path, fd));
}

/* --- the kernel of an image ------------------------------------------------------------------------------ */

static bool is_version(const char *name) {
    return strlen(name) < VERSION_MAX && name[0] != '.' &&
           name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+~_-")] == '\0';
}

/* The last two places have no version and serve where there is only one. */
static bool find_kernel(const char *version, bool is_only, char path[PATH_MAX]) {
    const struct {
        const char *before, *version, *behind;
    } places[] = {
        { "/boot/vmlinuz-", version, "" },
        { "/lib/modules/", version, "/vmlinuz" },
        { "/boot/vmlinuz", "", "" },
        { "/vmlinuz", "", "" },
    };
    struct stat status;

    for (size_t i = 0; i < (is_only ? ELEMENTS(places) : 2); i++) {
        snprintf(path, PATH_MAX, "%s%s%s", places[i].before, places[i].version, places[i].behind);
        if (stat(path, &status) == 0 && S_ISREG(status.st_mode))
            return true;
    }
    return false;
}

/* The newest version that has both; false if there is none. */
static bool find_version(char version[VERSION_MAX], char kernel[PATH_MAX]) {
    DIR *directory = opendir("/lib/modules");
    struct dirent *entry;
    char path[PATH_MAX];
    unsigned count = 0;

    version[0] = '\0';
    while (directory && (entry = readdir(directory)))
        count += is_version(entry->d_name);
    if (directory)
        rewinddir(directory);
    while (directory && (entry = readdir(directory))) {
        if (!is_version(entry->d_name) || (version[0] && strverscmp(entry->d_name, version) < 0) ||
            !find_kernel(entry->d_name, count == 1, path))
            continue;
        strcpy(version, entry->d_name);
        strcpy(kernel, path);
    }
    if (directory)
        closedir(directory);
    return version[0] != '\0';
}

/* From here on nothing but the image is to be seen; what may be read there does not depend on its modes. */
static int root_enter(const char *root) {
    const struct rlimit memory = { MEMORY_MAX, MEMORY_MAX }, seconds = { PROCESSOR_SECONDS, PROCESSOR_SECONDS };
    const uint32_t kept = 1u << CAP_DAC_READ_SEARCH;
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    const struct __user_cap_data_struct data[2] = { { .effective = kept, .permitted = kept } };

    if (chdir(root) < 0 || chroot(".") < 0 || prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 || setgroups(0, NULL) < 0 ||
        setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0 ||
        syscall(SYS_capset, &header, data) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ||
        setrlimit(RLIMIT_AS, &memory) < 0 || setrlimit(RLIMIT_CPU, &seconds) < 0)
        return fail(-errno, "cannot enter the image");
    return 0;
}

/* QEMU opens it again, as nobody. */
static int output_new(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    return fd < 0 || fchmod(fd, 0644) < 0 ? fail(-errno, "cannot create %s", path) : fd;
}

/* Status of the program. */
static int make_both(const char *root, const char *guest, const char *kernel_output, const char *output) {
    _cleanup_(initramfs_done) struct initramfs initramfs = { 0 };
    _cleanup_close_ int kernel_fd = output_new(kernel_output), fd = output_new(output);
    _cleanup_free_ void *program = NULL;
    char version[VERSION_MAX], kernel[PATH_MAX], modules[PATH_MAX];
    size_t size;

    if (kernel_fd < 0 || fd < 0 || read_plain(guest, MODULE_MAX, &program, &size) < 0 || root_enter(root) < 0)
        return 1;
    if (!find_version(version, kernel))
        return STATUS_NO_KERNEL;
    snprintf(modules, sizeof(modules), "/lib/modules/%s", version);
    if (collect_modules(&initramfs, modules) < 0 || write_vmlinux(kernel, kernel_fd) < 0 ||
        write_archive(&initramfs, program, size, fd) < 0)
        return 1;
    if (fsync(kernel_fd) < 0 || fsync(fd) < 0)
        return fail(-errno, "cannot write the kernel") < 0;
    fputs(version, stdout);
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        { "modules", required_argument, NULL, 'm' },
        { "guest", required_argument, NULL, 'g' },
        { "output", required_argument, NULL, 'o' },
        { "vmlinux", required_argument, NULL, 'v' },
        { "root", required_argument, NULL, 'r' },
        { "kernel", required_argument, NULL, 'k' },
        { 0 },
    };
    const char *values[128] = { 0 };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == '?')
            return 2;
        values[option] = optarg;
    }
    if (optind == argc && values['o'] && values['r'] && values['g'] && values['k'])
        return make_both(values['r'], values['g'], values['k'], values['o']);
    if (optind == argc && values['o'] && values['v'] && !values['m'] && !values['g'])
        return make_vmlinux(values['v'], values['o']) < 0 ? 1 : 0;
    if (optind == argc && values['o'] && values['m'] && values['g'] && !values['v'])
        return make_initramfs(values['m'], values['g'], values['o']) < 0 ? 1 : 0;
    fputs("usage: polder-mkinitramfs --modules DIR --guest FILE --output FILE\n"
          "       polder-mkinitramfs --vmlinux BZIMAGE --output FILE\n"
          "       polder-mkinitramfs --root DIR --guest FILE --kernel FILE --output FILE\n",
          stderr);
    return 2;
}
