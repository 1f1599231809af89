// SPDX-License-Identifier: GPL-2.0-or-later
/* The trip of a layer: expander process -> pipe -> here: digest (the diffID) -> tarcheck (one fact per entry)
 * -> libarchive's tar reader -> the entry is compared with its fact -> files beneath the layer's directory.
 * What depends on later entries, the times of directories, is kept until the end. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "commands.h"
#include "expand.h"
#include "jail.h"
#include "layerpath.h"
#include "tarcheck.h"
#include "tree.h"

#define CHUNK (256u << 10)
#define OWNER_MAX 65535
#define XATTR_VALUE_MAX (64u << 10)

struct kept_time {
    char *path;
    struct timespec when;
};

struct unpack {
    const struct options *options;
    struct expander expander;
    struct archive *archive;
    struct tarcheck check;
    struct tree tree;
    struct sha256_ctx digest;
    uint8_t *buffer;
    uint64_t stream_bytes, file_bytes;
    struct kept_time *times;
    size_t times_count, times_room;
    uint64_t dropped_devices, dropped_fifos, dropped_xattrs, whiteouts, hardlinks;
    struct failure *failure;
};

static void unpack_done(struct unpack *unpack) {
    if (unpack->archive)
        archive_read_free(unpack->archive);
    expander_done(&unpack->expander);
    tarcheck_done(&unpack->check);
    tree_done(&unpack->tree);
    for (size_t i = 0; i < unpack->times_count; i++)
        free(unpack->times[i].path);
    free(unpack->times);
    free(unpack->buffer);
}

/* ---- the stream ---- */

/* Next bytes of the tar stream, hashed and looked at. 0 at the end. */
static ssize_t stream_read(struct unpack *unpack) {
    ssize_t n;
    do
        n = read(unpack->expander.stream_fd, unpack->buffer, CHUNK);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(unpack->failure, errno, "", "reading unpacked bytes");
    sha256_update(&unpack->digest, (size_t) n, unpack->buffer);
    unpack->stream_bytes += (uint64_t) n;
    if (unpack->stream_bytes > unpack->options->max_bytes)
        return fail(unpack->failure, FAILURE_LIMIT_BYTES, "", "it unpacks to more than %llu bytes",
                    (unsigned long long) unpack->options->max_bytes);
    int r = tarcheck_feed(&unpack->check, unpack->buffer, (size_t) n, unpack->failure);
    return r < 0 ? r : n;
}

static la_ssize_t archive_input(struct archive *archive, void *data, const void **ret) {
    struct unpack *unpack = data;
    ssize_t n = stream_read(unpack);
    *ret = unpack->buffer;
    if (n >= 0)
        return n;
    archive_set_error(archive, EIO, "%s", "the stream was refused");
    return ARCHIVE_FATAL;
}

/* In the order of their truth: what the expander met, what the gate refused, what libarchive says. */
static int stream_failure(struct unpack *unpack, const char *path) {
    struct expand_report report;
    struct failure ignored = { 0 };
    if (unpack->failure->code)
        return -EBADMSG;
    while (read(unpack->expander.stream_fd, unpack->buffer, CHUNK) > 0)
        ;
    if (expander_finish(&unpack->expander, &report, &ignored) == 0 && report.failure.code) {
        *unpack->failure = report.failure;
        return -EBADMSG;
    }
    if (tarcheck_finish(&unpack->check, false, unpack->failure) < 0)
        return -EBADMSG;
    const char *message = archive_error_string(unpack->archive);
    return fail(unpack->failure, FAILURE_TAR_MALFORMED, path, "%s",
                message ? message : "the archive is damaged");
}

static int open_archive(struct unpack *unpack) {
    unpack->archive = archive_read_new();
    if (!unpack->archive || archive_read_support_format_tar(unpack->archive) != ARCHIVE_OK)
        return fail_errno(unpack->failure, ENOMEM, "", "reading the archive");
    if (archive_read_open(unpack->archive, unpack, NULL, archive_input, NULL) != ARCHIVE_OK)
        return stream_failure(unpack, "");
    return 0;
}

/* ---- an entry's description ---- */

static int check_owner(struct archive_entry *entry, const char *path, struct failure *failure) {
    int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
    if (uid < 0 || uid > OWNER_MAX || gid < 0 || gid > OWNER_MAX)
        return fail(failure, FAILURE_OWNER_RANGE, path, "owner %lld:%lld is not within 0 and %d",
                    (long long) uid, (long long) gid, OWNER_MAX);
    return 0;
}

static bool equals_without_slash(const char *a, const char *b) {
    size_t length_a = strlen(a), length_b = strlen(b);
    while (length_a > 1 && a[length_a - 1] == '/')
        length_a--;
    while (length_b > 1 && b[length_b - 1] == '/')
        length_b--;
    return length_a == length_b && memcmp(a, b, length_a) == 0;
}

static bool type_agrees(struct archive_entry *entry, char type) {
    mode_t found = archive_entry_filetype(entry);
    switch (type) {
    case '0':
        return found == AE_IFREG && !archive_entry_hardlink(entry);
    case '1':
        return archive_entry_hardlink(entry) != NULL;
    case '2':
        return found == AE_IFLNK;
    case '3':
        return found == AE_IFCHR;
    case '4':
        return found == AE_IFBLK;
    case '5':
        return found == AE_IFDIR;
    default:
        return found == AE_IFIFO;
    }
}

/* libarchive and the gate must have read the same entry. */
static int compare_with_fact(struct archive_entry *entry, const struct tar_fact *fact,
                             struct failure *failure) {
    const char *path = archive_entry_pathname(entry);
    const char *link = fact->type == '1'   ? archive_entry_hardlink(entry)
                       : fact->type == '2' ? archive_entry_symlink(entry)
                                           : "";
    if (!path || !link)
        return fail(failure, FAILURE_TAR_CONTRADICTION, fact->path, "a name that cannot be read");
    bool is_link = fact->type == '1' || fact->type == '2';
    if (!equals_without_slash(path, fact->path) || (is_link && strcmp(link, fact->link) != 0))
        return fail(failure, FAILURE_TAR_CONTRADICTION, fact->path, "its name can be read in two ways");
    if (!type_agrees(entry, fact->type) || (uint64_t) archive_entry_size(entry) != fact->size)
        return fail(failure, FAILURE_TAR_CONTRADICTION, fact->path,
                    "its type or size can be read in two ways");
    if (archive_entry_sparse_count(entry) > 0)
        return fail(failure, FAILURE_TAR_UNSUPPORTED, fact->path, "a sparse file");
    return 0;
}

/* ---- extended attributes ---- */

/* Version 2 (20 bytes), or version 3 (24) with the root user of no namespace; the kernel checks the rest. */
static bool capability_is_plain(const uint8_t *value, size_t size) {
    if (size == 20)
        return value[3] == 2;
    return size == 24 && value[3] == 3 && memcmp(value + 20, "\0\0\0", 4) == 0;
}

static bool xattr_is_wanted(const char *name, mode_t type) {
    if (strcmp(name, "security.capability") == 0)
        return type == AE_IFREG;
    if (strncmp(name, "user.", 5) != 0 || name[5] == 0)
        return false;
    return strcmp(name, "user.overlay") != 0 && strncmp(name, "user.overlay.", 13) != 0;
}

static int set_xattrs(struct unpack *unpack, struct archive_entry *entry, int fd, const char *path) {
    const char *name;
    const void *value;
    size_t size;
    archive_entry_xattr_reset(entry);
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (!xattr_is_wanted(name, archive_entry_filetype(entry))) {
            unpack->dropped_xattrs++;
            continue;
        }
        if (strlen(name) > LAYER_NAME_MAX || size > XATTR_VALUE_MAX)
            return fail(unpack->failure, FAILURE_XATTR_INVALID, path, "an extended attribute is too large");
        if (strcmp(name, "security.capability") == 0 && !capability_is_plain(value, size))
            return fail(unpack->failure, FAILURE_XATTR_INVALID, path, "damaged file capabilities");
        if (fsetxattr(fd, name, value, size, 0) == 0)
            continue;
        if (errno == EINVAL || errno == E2BIG || errno == ERANGE)
            return fail(unpack->failure, FAILURE_XATTR_INVALID, path, "the attribute '%s' is refused: %s",
                        name, strerror(errno));
        return fail_errno(unpack->failure, errno, path, "setting an extended attribute");
    }
    return 0;
}

/* ---- owner, mode, times ---- */

static struct timespec entry_time(struct archive_entry *entry) {
    struct timespec when = { .tv_sec = archive_entry_mtime(entry),
                             .tv_nsec = archive_entry_mtime_nsec(entry) };
    if (!archive_entry_mtime_is_set(entry) || when.tv_nsec < 0 || when.tv_nsec > 999999999)
        when = (struct timespec){ 0 };
    return when;
}

static int set_times(int fd, struct timespec when) {
    return futimens(fd, (struct timespec[]){ when, when }) < 0 ? -errno : 0;
}

static int set_times_at(int parent, const char *name, struct timespec when) {
    return utimensat(parent, name, (struct timespec[]){ when, when }, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* Owner first: changing it clears the setuid bits and the capabilities. */
static int set_metadata(struct unpack *unpack, struct archive_entry *entry, int fd, const char *path) {
    uid_t uid = (uid_t) archive_entry_uid(entry);
    gid_t gid = (gid_t) archive_entry_gid(entry);
    bool is_file = archive_entry_filetype(entry) == AE_IFREG;
    bool is_ours = is_file && uid == 0 && gid == 0; /* as it was created */
    if (!is_ours && fchown(fd, uid, gid) < 0)
        return fail_errno(unpack->failure, errno, path, "setting the owner");
    if (fchmod(fd, archive_entry_perm(entry) & 07777) < 0)
        return fail_errno(unpack->failure, errno, path, "setting the mode");
    if (set_xattrs(unpack, entry, fd, path) < 0)
        return -EBADMSG;
    if (is_file && set_times(fd, entry_time(entry)) < 0)
        return fail_errno(unpack->failure, errno, path, "setting the time");
    return 0;
}

/* A directory's time changes with each entry made in it: set at the end. */
static int keep_time(struct unpack *unpack, struct archive_entry *entry, const struct layer_path *path) {
    if (unpack->times_count == unpack->times_room) {
        size_t room = unpack->times_room ? unpack->times_room * 2 : 256;
        struct kept_time *times = reallocarray(unpack->times, room, sizeof(*times));
        if (!times)
            return fail_errno(unpack->failure, ENOMEM, "", "unpacking");
        unpack->times = times;
        unpack->times_room = room;
    }
    struct kept_time *kept = &unpack->times[unpack->times_count];
    kept->when = entry_time(entry);
    if (asprintf(&kept->path, "%s%s%s", path->parent, path->parent[0] ? "/" : "", path->name) < 0)
        return fail_errno(unpack->failure, ENOMEM, "", "unpacking");
    unpack->times_count++;
    return 0;
}

/* A path that a later entry turned into something else is no directory any more and keeps its own time. */
static int restore_times(struct unpack *unpack) {
    for (size_t i = 0; i < unpack->times_count; i++) {
        struct layer_path path;
        struct stat status;
        const char *text = unpack->times[i].path;
        int parent;
        if (text[0] == 0) {
            set_times(unpack->tree.root_fd, unpack->times[i].when);
            continue;
        }
        if (layer_path_parse(text, &path, unpack->failure) < 0)
            return -EBADMSG;
        if (!tree_has_directory(&unpack->tree, path.parent))
            continue;
        if (tree_parent(&unpack->tree, path.parent, &parent, unpack->failure) < 0)
            return -EBADMSG;
        if (fstatat(parent, path.name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode) &&
            set_times_at(parent, path.name, unpack->times[i].when) < 0)
            return fail_errno(unpack->failure, errno, text, "setting the time");
    }
    return 0;
}

/* ---- one entry of each type ---- */

static int write_all(int fd, const void *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data = (const char *) data + n;
        size -= (size_t) n;
    }
    return 0;
}

static int copy_data(struct unpack *unpack, int fd, const char *path) {
    const void *data;
    size_t size;
    la_int64_t offset, expected = 0;
    for (;;) {
        int r = archive_read_data_block(unpack->archive, &data, &size, &offset);
        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK)
            return stream_failure(unpack, path);
        if (offset != expected)
            return fail(unpack->failure, FAILURE_TAR_UNSUPPORTED, path, "a sparse file");
        expected += (la_int64_t) size;
        if ((r = write_all(fd, data, size)) < 0)
            return fail_errno(unpack->failure, -r, path, "writing a file");
    }
}

static int unpack_file(struct unpack *unpack, struct archive_entry *entry, int parent,
                       const struct layer_path *path, const char *text) {
    int created;
    if (tree_file(parent, path->name, &created, unpack->failure) < 0)
        return -EBADMSG;
    _cleanup_fd_ int fd = created;
    unpack->file_bytes += (uint64_t) archive_entry_size(entry);
    if (copy_data(unpack, fd, text) < 0)
        return -EBADMSG;
    return set_metadata(unpack, entry, fd, text);
}

static int unpack_directory(struct unpack *unpack, struct archive_entry *entry, int parent,
                            const struct layer_path *path, const char *text) {
    int opened;
    if (tree_directory(parent, path->name, &opened, unpack->failure) < 0)
        return -EBADMSG;
    _cleanup_fd_ int fd = opened;
    int r = set_metadata(unpack, entry, fd, text);
    return r < 0 ? r : keep_time(unpack, entry, path);
}

static int unpack_symlink(struct unpack *unpack, struct archive_entry *entry, int parent,
                          const struct layer_path *path, const char *text) {
    if (tree_symlink(parent, path->name, archive_entry_symlink(entry), unpack->failure) < 0)
        return -EBADMSG;
    uid_t uid = (uid_t) archive_entry_uid(entry);
    gid_t gid = (gid_t) archive_entry_gid(entry);
    if ((uid || gid) && fchownat(parent, path->name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno(unpack->failure, errno, text, "setting the owner");
    int r = set_times_at(parent, path->name, entry_time(entry));
    return r < 0 ? fail_errno(unpack->failure, -r, text, "setting the time") : 0;
}

static int unpack_hardlink(struct unpack *unpack, struct archive_entry *entry, int parent,
                           const struct layer_path *path) {
    struct layer_path target;
    if (layer_path_parse(archive_entry_hardlink(entry), &target, unpack->failure) < 0)
        return -EBADMSG;
    unpack->hardlinks++;
    return tree_hardlink(&unpack->tree, parent, path->name, &target, unpack->failure);
}

static int unpack_root(struct unpack *unpack, struct archive_entry *entry, const struct layer_path *path,
                       char type) {
    if (type != '5')
        return fail(unpack->failure, FAILURE_PATH_UNSAFE, ".",
                    "the layer's own directory cannot be something else");
    int r = set_metadata(unpack, entry, unpack->tree.root_fd, ".");
    return r < 0 ? r : keep_time(unpack, entry, path);
}

/* Devices would open the host's hardware, and FIFOs are made by whoever needs them at run time: neither is
 * kept. An entry that they replace is gone all the same, as the last entry of a name counts. */
static int drop_special(struct unpack *unpack, int parent, const struct layer_path *path, char type) {
    if (type == '6')
        unpack->dropped_fifos++;
    else
        unpack->dropped_devices++;
    return tree_vacate(parent, path->name, unpack->failure);
}

static int unpack_opaque(struct unpack *unpack, const struct layer_path *path) {
    int parent;
    if (tree_parent(&unpack->tree, path->parent, &parent, unpack->failure) < 0)
        return -EBADMSG;
    /* The parent is an O_PATH descriptor; attributes need a readable one. */
    _cleanup_fd_ int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    unpack->whiteouts++;
    return fd < 0 ? fail_errno(unpack->failure, errno, path->parent, "opening a directory")
                  : tree_set_opaque(fd, unpack->failure);
}

static int unpack_at(struct unpack *unpack, struct archive_entry *entry, const struct layer_path *path,
                     const struct tar_fact *fact) {
    int parent;
    if (tree_parent(&unpack->tree, path->parent, &parent, unpack->failure) < 0)
        return -EBADMSG;
    switch (fact->type) {
    case '0':
        return unpack_file(unpack, entry, parent, path, fact->path);
    case '1':
        return unpack_hardlink(unpack, entry, parent, path);
    case '2':
        return unpack_symlink(unpack, entry, parent, path, fact->path);
    case '5':
        return unpack_directory(unpack, entry, parent, path, fact->path);
    default:
        return drop_special(unpack, parent, path, fact->type);
    }
}

static int unpack_whiteout(struct unpack *unpack, const struct layer_path *path,
                           const struct tar_fact *fact) {
    int parent;
    if (fact->type != '0' || fact->size != 0)
        return fail(unpack->failure, FAILURE_WHITEOUT_INVALID, fact->path,
                    "a whiteout that is no empty file");
    if (tree_parent(&unpack->tree, path->parent, &parent, unpack->failure) < 0)
        return -EBADMSG;
    unpack->whiteouts++;
    return tree_whiteout(parent, path->name, unpack->failure);
}

static int unpack_entry(struct unpack *unpack, struct archive_entry *entry, const struct tar_fact *fact) {
    struct layer_path path;
    if (unpack->check.entries > unpack->options->max_entries)
        return fail(unpack->failure, FAILURE_LIMIT_ENTRIES, "", "it has more than %llu entries",
                    (unsigned long long) unpack->options->max_entries);
    if (compare_with_fact(entry, fact, unpack->failure) < 0 ||
        layer_path_parse(fact->path, &path, unpack->failure) < 0)
        return -EBADMSG;
    if (path.kind == LAYER_PATH_WHITEOUT)
        return unpack_whiteout(unpack, &path, fact);
    if (path.kind == LAYER_PATH_OPAQUE)
        return unpack_opaque(unpack, &path);
    if (path.kind == LAYER_PATH_SKIP)
        return 0;
    if (check_owner(entry, fact->path, unpack->failure) < 0)
        return -EBADMSG;
    if (path.kind == LAYER_PATH_ROOT)
        return unpack_root(unpack, entry, &path, fact->type);
    return unpack_at(unpack, entry, &path, fact);
}

/* ---- the whole ---- */

/* A failed call knows the name within a directory only: the entry's path says more. */
static void name_entry(struct failure *failure, const struct tar_fact *fact) {
    if (failure->code != FAILURE_NONE && fact->path)
        snprintf(failure->field, sizeof(failure->field), "%s", fact->path);
}

static int unpack_next(struct unpack *unpack) {
    struct archive_entry *entry;
    int r = archive_read_next_header(unpack->archive, &entry);
    if (r == ARCHIVE_EOF)
        return 0;
    /* A warning is a name that is not UTF-8, or an attribute it cannot read; the comparison judges the name.
     */
    if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
        return stream_failure(unpack, "");
    struct tar_fact fact;
    if (!tarcheck_take_fact(&unpack->check, &fact))
        return fail(unpack->failure, FAILURE_TAR_CONTRADICTION, "",
                    "an entry that only one of two readers sees");
    r = unpack_entry(unpack, entry, &fact);
    if (r < 0)
        name_entry(unpack->failure, &fact);
    tar_fact_done(&fact);
    return r < 0 ? r : 1;
}

static int unpack_entries(struct unpack *unpack) {
    int r;
    while ((r = unpack_next(unpack)) > 0)
        ;
    if (r < 0)
        return r;
    for (;;) { /* what follows the end mark counts for the digest, and must be zeros */
        ssize_t n = stream_read(unpack);
        if (n <= 0)
            return (int) n;
    }
}

static int check_ends(struct unpack *unpack, const char *diff_id) {
    struct expand_report report;
    const struct options *options = unpack->options;
    if (expander_finish(&unpack->expander, &report, unpack->failure) < 0)
        return -EBADMSG;
    if (report.failure.code) {
        *unpack->failure = report.failure;
        return -EBADMSG;
    }
    if (options->digest && strcmp(options->digest, report.digest) != 0)
        return fail(unpack->failure, FAILURE_DIGEST_MISMATCH, "digest", "the blob is %s, expected %s",
                    report.digest, options->digest);
    if (options->diff_id && strcmp(options->diff_id, diff_id) != 0)
        return fail(unpack->failure, FAILURE_DIFF_ID_MISMATCH, "diff_id",
                    "the layer's content is %s, expected %s", diff_id, options->diff_id);
    /* Where the content is known by its digest, a missing end mark cannot hide a cut; elsewhere it can. */
    if (tarcheck_finish(&unpack->check, options->diff_id == NULL, unpack->failure) < 0)
        return -EBADMSG;
    struct tar_fact fact;
    if (tarcheck_take_fact(&unpack->check, &fact)) {
        tar_fact_done(&fact);
        return fail(unpack->failure, FAILURE_TAR_CONTRADICTION, "",
                    "an entry that only one of two readers sees");
    }
    return 0;
}

/* A container's /dev, /proc, … are mounted over; through a link that would happen elsewhere. The kinds are
 * told, since only all layers together say what will be there. */
static struct json_object *toplevel_kinds(const struct unpack *unpack) {
    static const char *const names[] = { "bin",  "dev", "etc",  "home", "lib", "lib64", "proc",
                                         "root", "run", "sbin", "sys",  "tmp", "usr",   "var" };
    struct json_object *kinds = json_object_new_object();
    for (size_t i = 0; i < ELEMENTS(names); i++) {
        struct stat status;
        if (fstatat(unpack->tree.root_fd, names[i], &status, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        const char *kind = S_ISDIR(status.st_mode)                       ? "dir"
                           : S_ISLNK(status.st_mode)                     ? "link"
                           : is_whiteout(status.st_mode, status.st_rdev) ? "whiteout"
                                                                         : "file";
        json_object_object_add(kinds, names[i], json_object_new_string(kind));
    }
    return kinds;
}

static void add_number(struct json_object *object, const char *key, uint64_t number) {
    json_object_object_add(object, key, json_object_new_uint64(number));
}

static void report_unpacked(const struct unpack *unpack, const char *diff_id,
                            const struct tree_usage *usage) {
    struct json_object *result = json_object_new_object();
    struct json_object *dropped = json_object_new_object();
    add_number(result, "bytes", unpack->stream_bytes);
    add_number(result, "file_bytes", unpack->file_bytes);
    add_number(result, "entries", usage->entries);
    json_object_object_add(result, "diff_id", json_object_new_string(diff_id));
    add_number(result, "size_on_disk", usage->bytes);
    add_number(result, "whiteouts", unpack->whiteouts);
    add_number(result, "hardlinks", unpack->hardlinks);
    add_number(result, "implied_directories", unpack->tree.implied_directories);
    add_number(dropped, "devices", unpack->dropped_devices);
    add_number(dropped, "fifos", unpack->dropped_fifos);
    add_number(dropped, "xattrs", unpack->dropped_xattrs);
    json_object_object_add(result, "dropped", dropped);
    json_object_object_add(result, "toplevel", toplevel_kinds(unpack));
    report_result_take(result);
}

static int unpack_finish(struct unpack *unpack) {
    char diff_id[DIGEST_TEXT_SIZE];
    struct tree_usage usage;
    digest_finish(&unpack->digest, diff_id);
    if (check_ends(unpack, diff_id) < 0 || restore_times(unpack) < 0 ||
        tree_measure(unpack->tree.root_fd, &usage, unpack->failure) < 0)
        return -EBADMSG;
    if (unpack->options->sync && syncfs(unpack->tree.root_fd) < 0)
        return fail_errno(unpack->failure, errno, "", "making the layer durable");
    report_unpacked(unpack, diff_id, &usage);
    return 0;
}

static int unpack_run(struct unpack *unpack, enum compression compression) {
    sha256_init(&unpack->digest);
    tarcheck_init(&unpack->check);
    unpack->buffer = malloc(CHUNK);
    if (!unpack->buffer)
        return fail_errno(unpack->failure, ENOMEM, "", "unpacking");
    if (expander_start(&unpack->expander, unpack->options, compression, unpack->failure) < 0)
        return -EBADMSG;
    if (jail_confine(JAIL_UNPACK, unpack->options, unpack->options->max_bytes, unpack->failure) < 0)
        return -EBADMSG;
    if (open_archive(unpack) < 0 || unpack_entries(unpack) < 0)
        return -EBADMSG;
    return unpack_finish(unpack);
}

static int check_root_is_empty(int root_fd, struct failure *failure) {
    struct tree_usage usage;
    if (tree_measure(root_fd, &usage, failure) < 0)
        return -EBADMSG;
    return usage.entries ? fail(failure, FAILURE_USAGE, "--root-fd", "the directory is not empty") : 0;
}

static int unpack_into_root(struct options *options, enum compression compression, struct failure *failure) {
    _cleanup_(unpack_done) struct unpack unpack = { .options = options,
                                                    .expander = EXPANDER_INIT,
                                                    .failure = failure };
    tree_init(&unpack.tree, options->root_fd);
    if (check_root_is_empty(options->root_fd, failure) < 0)
        return -EBADMSG;
    int r = unpack_run(&unpack, compression);
    expander_done(&unpack.expander); /* so that no progress line follows the last line */
    return r;
}

int command_unpack_layer(struct options *options, struct failure *failure) {
    enum compression compression;
    if (compression_from_media_type(options->media_type, &compression, failure) < 0)
        return -EBADMSG;
    return unpack_into_root(options, compression, failure);
}

int command_import_rootfs(struct options *options, struct failure *failure) {
    return unpack_into_root(options, COMPRESSION_DETECT, failure);
}
