// SPDX-License-Identifier: GPL-2.0-or-later
/* Pulls that broke off. What skopeo had finished of a pull that failed, was canceled or died with the daemon is kept, blob
 * by blob, as images/downloads/REPOSITORY-HEX, for the next pull from the same repository. It is neither image nor layer: it
 * is hashed before skopeo may count on it, and again, like every blob, when it is unpacked.
 *
 * skopeo's "dir:" layout is emptied when skopeo starts; from then on a blob counts as brought if a file has its name. So
 * kept blobs are moved there in between: when skopeo first wants to connect, which waits for our word anyhow (guard.c), the
 * directory is empty, has its "version", and nothing was asked for yet. A skopeo that did all this in another order would
 * only ask for everything again.
 *
 * Only whole blobs are kept. skopeo 1.9 cannot go on within one; what could, an HTTP client that asks for ranges, would have
 * to speak the registry's protocol with its tokens, redirects and certificates a second time, beside skopeo.
 *
 * Bounds: KEEP_TIME since it was downloaded, KEEP_BYTES in all, a tenth of the file system, and never more than is free. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/uuid.h"
#include "storage/internal.h"

#define KEEP_TIME (3 * 24 * 3600 * CLOCK_SECOND)
#define KEEP_BYTES (16ULL << 30)
#define KEEP_SHARE 10 /* of the file system */
/* A pull keeps its blobs until its image is there only if there is room for so many times as much. */
#define KEEP_ROOM 8
#define REPOSITORY_DIGITS 16
#define ENTRIES_MAX 1000 /* files that a staging directory is searched for */
#define STAGING_PREFIX "pull-"

static bool is_hex(const char *text, size_t digits) {
    return strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

/* "REPOSITORY-HEX" -> HEX, borrowed, or NULL. */
static const char *kept_digest(const char *name, const char *repository) {
    if (strnlen(name, REPOSITORY_DIGITS + 1) <= REPOSITORY_DIGITS || name[REPOSITORY_DIGITS] != '-' ||
        !is_hex(name + REPOSITORY_DIGITS + 1, HEX_DIGITS))
        return NULL;
    if (repository && strncmp(name, repository, REPOSITORY_DIGITS) != 0)
        return NULL;
    return name + REPOSITORY_DIGITS + 1;
}

/* Two tags of one repository share layers, so the tag or digest does not count. */
static int repository_key(const char *reference, char key[REPOSITORY_DIGITS + 1]) {
    const char *slash = strrchr(reference, '/'), *last = slash ? slash + 1 : reference;
    _cleanup_free_ char *digest = digest_of(reference, (size_t) (last - reference) + strcspn(last, ":@"));

    if (!digest)
        return -ENOMEM;
    memcpy(key, digest_hex(digest), REPOSITORY_DIGITS);
    key[REPOSITORY_DIGITS] = '\0';
    return 0;
}

int resume_staging(struct storage *storage, const char *reference, char **ret_path, struct error *error) {
    char key[REPOSITORY_DIGITS + 1];
    _cleanup_free_ char *prefix = repository_key(reference, key) < 0 ? NULL : text_format(STAGING_PREFIX "%s-", key);

    if (!prefix)
        return error_errno(error, -ENOMEM, "making room");
    return staging_make_named(storage, prefix, ret_path, error);
}

/* --- moving blobs ------------------------------------------------------------------------------------------------------ */

static int open_directory(int at, const char *path) {
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    return fd < 0 ? -errno : fd;
}

static int open_downloads(const struct storage *storage) {
    _cleanup_free_ char *path = text_format("%s/downloads", storage->images);

    return path ? open_directory(AT_FDCWD, path) : -ENOMEM;
}

/* Takes it out of reach of whatever wrote it; what is no plain file of one name goes. */
static int keep_blob(int from, const char *name, int downloads, const char *repository) {
    char kept[REPOSITORY_DIGITS + 1 + HEX_DIGITS + 1];
    struct stat status;

    snprintf(kept, sizeof(kept), "%s-%s", repository, name);
    if (renameat(from, name, downloads, kept) < 0)
        return -errno;
    if (fstatat(downloads, kept, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode) || status.st_nlink != 1) {
        (void) file_remove_tree(downloads, kept);
        return -EINVAL;
    }
    return fchownat(downloads, kept, 0, 0, AT_SYMLINK_NOFOLLOW) < 0 || fchmodat(downloads, kept, 0400, 0) < 0 ? -errno : 0;
}

/* Moves the whole blobs of STAGING/image to the kept ones; their names are added to `blobs` unless that is NULL. Blocks. */
static void keep_blobs(int downloads, int staging, const char *repository, char ***blobs) {
    int fd = open_directory(staging, "image");
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    if (!directory) {
        close_fd(fd);
        return;
    }
    for (unsigned i = 0; i < ENTRIES_MAX && (entry = readdir(directory)); i++)
        if (is_hex(entry->d_name, HEX_DIGITS) && keep_blob(dirfd(directory), entry->d_name, downloads, repository) >= 0 &&
            blobs && !list_has(*blobs, entry->d_name))
            (void) list_add(blobs, entry->d_name);
    closedir(directory);
}

static int collect_job(void *userdata) {
    struct resume *resume = userdata;
    _cleanup_close_ int downloads = open_downloads(resume->storage);
    _cleanup_close_ int staging = open_directory(AT_FDCWD, resume->staging);

    if (downloads < 0 || staging < 0)
        return downloads < 0 ? downloads : staging;
    keep_blobs(downloads, staging, resume->repository, &resume->blobs);
    return 0;
}

size_t resume_collect(struct resume *resume) {
    if (!resume->storage)
        return 0;
    (void) fiber_job(collect_job, resume);
    return list_count(resume->blobs);
}

static int offer_job(void *userdata) {
    struct resume *resume = userdata;
    _cleanup_close_ int downloads = open_downloads(resume->storage);
    _cleanup_close_ int staging = open_directory(AT_FDCWD, resume->staging);
    _cleanup_close_ int image = staging < 0 ? -EBADF : open_directory(staging, "image");

    if (downloads < 0 || image < 0 || faccessat(image, "version", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return 0; /* not yet */
    for (char **blob = resume->blobs; blob && *blob; blob++) {
        char kept[REPOSITORY_DIGITS + 1 + HEX_DIGITS + 1];
        snprintf(kept, sizeof(kept), "%s-%s", resume->repository, *blob);
        (void) renameat(downloads, kept, image, *blob);
    }
    list_free(resume->blobs);
    resume->blobs = NULL;
    return 0;
}

void resume_offer(void *userdata) {
    struct resume *resume = userdata;

    if (resume->blobs)
        (void) fiber_job(offer_job, resume);
}

/* --- what was kept ----------------------------------------------------------------------------------------------------- */

static int list_kept(struct storage *storage, const char *repository, char ***ret) {
    _cleanup_close_ int fd = open_downloads(storage);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int r = 0;

    if (!directory)
        return fd < 0 ? fd : -errno;
    (void) STEAL_FD(fd);
    while (r >= 0 && (entry = readdir(directory)))
        if (kept_digest(entry->d_name, repository))
            r = list_add(ret, entry->d_name);
    closedir(directory);
    return r;
}

/* Whatever its bytes are by now: one that is not what it was goes, and the pull does without it. */
static void drop_kept(const char *path, const char *name) {
    log_warning("a kept part of a download is not what it was, and is fetched again: %s", name);
    if (unlink(path) < 0 && errno != ENOENT)
        log_warning("it cannot be removed: %s", strerror(errno));
}

/* Hashes one of them. One that cannot be read now may be as good as ever: it stays, for another pull. -ECANCELED, -ENOMEM. */
static int check_kept(struct resume *resume, const char *name, const struct storage_progress *progress) {
    _cleanup_free_ char *path = text_format("%s/downloads/%s", resume->storage->images, name), *digest = NULL;
    _cleanup_error_ struct error error = ERROR_INIT;
    int r = path ? file_digest(resume->storage, path, -EBADF, "checking what came before", progress, &digest, &error)
                 : -ENOMEM;

    if (r == -ECANCELED || r == -ENOMEM)
        return r;
    if (r >= 0 && text_equal(digest_hex(digest), kept_digest(name, NULL)))
        return list_add(&resume->blobs, kept_digest(name, NULL));
    if (!file_exists(AT_FDCWD, path))
        return 0; /* another pull took it */
    if (r >= 0 || r == -ELOOP) { /* read, or a symbolic link, which none of them was */
        drop_kept(path, name);
    } else {
        _cleanup_free_ char *sentence = error_sentence(&error, LANGUAGE_ENGLISH);
        log_warning("a kept part of a download cannot be checked, and is fetched again: %s: %s", name,
                    sentence && error_is_set(&error) ? sentence : strerror(-r));
    }
    return 0;
}

int resume_open(struct resume *resume, struct storage *storage, const char *reference, const char *staging,
                const struct storage_progress *progress, struct error *error) {
    _cleanup_list_ char **kept = NULL;
    int r = repository_key(reference, resume->repository);

    resume->storage = storage;
    resume->staging = staging;
    storage_tidy(storage);
    if (r >= 0)
        r = list_kept(storage, resume->repository, &kept);
    for (char **name = kept; r >= 0 && name && *name; name++)
        r = check_kept(resume, *name, progress);
    if (r >= 0 || r == -ECANCELED || r == -ENOMEM)
        return r < 0 ? error_errno(error, r, "looking for what came before") : 0;
    log_warning("what earlier pulls left cannot be looked at, and is fetched again: %s", strerror(-r));
    return 0;
}

void resume_close(struct resume *resume, bool keep) {
    if (!resume->storage)
        return;
    if (keep) {
        (void) resume_collect(resume);
        storage_tidy(resume->storage);
    }
    list_free(resume->blobs);
    *resume = (struct resume){ 0 };
}

/* --- bounds ------------------------------------------------------------------------------------------------------------ */

/* Bytes that may be kept now; *ret_free gets what is free. */
static uint64_t bytes_to_keep(const struct storage *storage, uint64_t *ret_free) {
    struct statvfs status;
    uint64_t share;

    *ret_free = 0;
    if (statvfs(storage->images, &status) < 0)
        return 0;
    *ret_free = (uint64_t) status.f_bavail * status.f_frsize;
    share = (uint64_t) status.f_blocks * status.f_frsize / KEEP_SHARE;
    share = share < KEEP_BYTES ? share : KEEP_BYTES;
    return share < *ret_free ? share : *ret_free;
}

bool resume_has_room(const struct storage *storage, uint64_t bytes) {
    uint64_t room, most = bytes_to_keep(storage, &room);

    return bytes <= most && bytes <= room / KEEP_ROOM;
}

struct kept {
    char *name;
    uint64_t size;
    uint64_t time; /* wall clock, when it was downloaded */
};

struct tidy {
    struct storage *storage;
    bool all;
    uint64_t removed;
};

static int older_first(const void *a, const void *b) {
    const struct kept *one = a, *two = b;

    return one->time < two->time ? -1 : one->time > two->time;
}

/* The kept files with their sizes, oldest first. *ret is the caller's. */
static size_t look_at_kept(int downloads, char *const *names, struct kept **ret) {
    struct kept *kept = calloc(list_count(names) + 1, sizeof(*kept));
    size_t count = 0;

    for (char *const *name = names; kept && name && *name; name++) {
        struct stat status;
        if (fstatat(downloads, *name, &status, AT_SYMLINK_NOFOLLOW) >= 0)
            kept[count++] = (struct kept){ *name, (uint64_t) status.st_blocks * 512,
                                           (uint64_t) status.st_mtim.tv_sec * CLOCK_SECOND };
    }
    if (count > 1)
        qsort(kept, count, sizeof(*kept), older_first);
    *ret = kept;
    return count;
}

static int tidy_job(void *userdata) {
    struct tidy *tidy = userdata;
    _cleanup_close_ int downloads = open_downloads(tidy->storage);
    _cleanup_list_ char **names = NULL;
    _cleanup_free_ struct kept *kept = NULL;
    uint64_t now = clock_wall(), total = 0, room, most = tidy->all ? 0 : bytes_to_keep(tidy->storage, &room);
    size_t count;
    int r = downloads < 0 ? downloads : list_kept(tidy->storage, NULL, &names);

    if (r < 0)
        return r;
    count = look_at_kept(downloads, names, &kept);
    for (size_t i = 0; i < count; i++)
        total += kept[i].size;
    for (size_t i = 0; i < count; i++) {
        if (total <= most && !tidy->all && (now < kept[i].time || now - kept[i].time <= KEEP_TIME))
            continue;
        if (unlinkat(downloads, kept[i].name, 0) < 0)
            continue;
        total -= kept[i].size;
        tidy->removed += kept[i].size;
    }
    return 0;
}

void storage_tidy(struct storage *storage) {
    struct tidy tidy = { .storage = storage };

    (void) fiber_job(tidy_job, &tidy);
}

uint64_t resume_forget(struct storage *storage) {
    struct tidy tidy = { .storage = storage, .all = true };

    (void) fiber_job(tidy_job, &tidy);
    return tidy.removed;
}

/* --- start ------------------------------------------------------------------------------------------------------------- */

void resume_rescue(const struct storage *storage) {
    _cleanup_close_ int downloads = open_downloads(storage);
    DIR *directory = downloads < 0 ? NULL : opendir(storage->staging);
    struct dirent *entry;

    while (directory && (entry = readdir(directory))) {
        char repository[REPOSITORY_DIGITS + 1] = "";
        _cleanup_close_ int staging = -EBADF;
        if (!text_starts(entry->d_name, STAGING_PREFIX) || strlen(entry->d_name) < strlen(STAGING_PREFIX) + sizeof(repository))
            continue;
        memcpy(repository, entry->d_name + strlen(STAGING_PREFIX), REPOSITORY_DIGITS);
        if (is_hex(repository, REPOSITORY_DIGITS) && (staging = open_directory(dirfd(directory), entry->d_name)) >= 0)
            keep_blobs(downloads, staging, repository, NULL);
    }
    if (directory)
        closedir(directory);
}
