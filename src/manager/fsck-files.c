// SPDX-License-Identifier: GPL-2.0-or-later
/* The deep part of fsck that looks into files: what others on the host may read, and the disks of instances. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/text.h"
#include "manager/internal.h"

#define DEPTH_MAX 16
#define TOLD_MAX 20 /* files of one place */

/* --- what others may read ------------------------------------------------------------------------------------------ */

struct walk {
    const char *place;         /* "/var/lib/polder" */
    const char *const *public; /* names in it that are everybody's, each with its reason; NULL ends */
    char ***problems;
    unsigned told;
};

/* A socket is used by who may write to it. */
static bool is_open_to_others(const struct stat *status) {
    return S_ISSOCK(status->st_mode) ? (status->st_mode & S_IWOTH) != 0
                                     : !S_ISLNK(status->st_mode) && (status->st_mode & (S_IROTH | S_IWOTH)) != 0;
}

static bool is_public(const struct walk *walk, const char *name) {
    for (const char *const *one = walk->public; *one; one++)
        if (text_equal(name, *one))
            return true;
    return false;
}

static int walk_directory(struct walk *walk, int fd_take, const char *path, unsigned depth);

/* A directory that others cannot enter keeps from them what is in it, and what its names are is no secret. */
static int walk_entry(struct walk *walk, int directory, const char *path, const char *name, unsigned depth) {
    _cleanup_free_ char *whole = text_format("%s/%s", path, name);
    struct stat status;
    int fd;

    if (!whole)
        return -ENOMEM;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return 0; /* it has just gone */
    if (S_ISDIR(status.st_mode)) {
        if (status.st_mode & S_IWOTH && walk->told++ < TOLD_MAX && list_addf(walk->problems, "others may write to %s", whole) < 0)
            return -ENOMEM;
        if (!(status.st_mode & S_IXOTH) || depth >= DEPTH_MAX)
            return 0;
        fd = openat(directory, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? 0 : walk_directory(walk, fd, whole, depth + 1);
    }
    if (!is_open_to_others(&status) || walk->told++ >= TOLD_MAX)
        return 0;
    return list_addf(walk->problems, "others on this host may %s %s", S_ISSOCK(status.st_mode) ? "use" : "read", whole);
}

static int walk_directory(struct walk *walk, int fd_take, const char *path, unsigned depth) {
    DIR *directory = fdopendir(fd_take);
    struct dirent *entry;
    int r = 0;

    if (!directory) {
        r = -errno;
        close(fd_take);
        return r;
    }
    while (r >= 0 && walk->told < TOLD_MAX && (entry = readdir(directory)))
        if (!text_equal(entry->d_name, ".") && !text_equal(entry->d_name, "..") &&
            !(depth == 0 && is_public(walk, entry->d_name)))
            r = walk_entry(walk, dirfd(directory), path, entry->d_name, depth);
    closedir(directory);
    return r;
}

static int walk_job(void *userdata) {
    struct walk *walk = userdata;
    int fd = open(walk->place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? -errno : walk_directory(walk, fd, walk->place, 0);
}

int fsck_modes(struct manager *manager, char ***problems, struct error *error) {
    static const char *const state_public[] = { "kernels" /* Debian's, as in /boot */, NULL };
    static const char *const run_public[] = { "network" /* names and addresses, for dnsmasq */, "kvm-probe.json",
                                              "pid" /* of quickstart, or whatever else starts polderd */, "polder-ro.sock",
                                              "polder.sock" /* the group's, or whose it was given to */,
                                              NULL };
    struct walk walks[] = {
        { .place = manager->configuration.state_path, .public = state_public, .problems = problems },
        { .place = manager->configuration.run_path, .public = run_public, .problems = problems },
    };
    int r = 0;

    for (size_t i = 0; r >= 0 && i < ELEMENTS(walks); i++)
        r = fiber_job(walk_job, &walks[i]);
    return r < 0 ? error_errno(error, r, "looking at who may read what") : 0;
}

/* --- disks --------------------------------------------------------------------------------------------------------- */

struct looked {
    int state;
    uint64_t started;
};

/* Whatever was found is of no worth if somebody worked on it meanwhile. */
static bool has_moved(const struct instance *instance, const struct looked *before) {
    return instance->removed || instance->lock.owner || instance->status.state != before->state ||
           instance->status.started != before->started;
}

/* One at rest since before this polderd has not been told its image, which it pins all the same. */
static void know_image(struct instance *instance) {
    const struct image *image = NULL;

    if (!instance->view.image && !text_is_empty(instance->assigned.image_digest) &&
        storage_image_find(instance->manager->storage, instance->assigned.image_digest, &image, NULL) >= 0)
        instance->view.image = image;
}

static int check_one(struct instance *instance, char ***problems, struct error *error) {
    const struct looked before = { instance->status.state, instance->status.started };
    _cleanup_error_ struct error trouble = ERROR_INIT;
    _cleanup_list_ char **found = NULL;
    bool resting = !state_is_active((enum state) before.state);
    int r;

    /* What never ran has no disk yet. */
    if (!instance->driver || !instance->driver->check || !before.started || instance->uncommitted || has_moved(instance, &before))
        return 0;
    know_image(instance);
    r = instance->driver->check(instance->driver_data, &instance->view, resting, &found, &trouble);
    if (r == -ECANCELED || r == -ENOMEM) {
        error_move(error, &trouble);
        return r;
    }
    if (r >= 0 && before.state == STATE_SUSPENDED && !run_saved(instance, false))
        r = list_add(&found, "its saved memory is missing");
    if (has_moved(instance, &before))
        return 0;
    if (r < 0) {
        _cleanup_free_ char *sentence = error_sentence(&trouble, LANGUAGE_ENGLISH);
        return list_addf(problems, "instance '%s': its disk cannot be checked: %s", instance->name, sentence ? sentence : "");
    }
    r = 0;
    for (char **one = found; r >= 0 && one && *one; one++)
        r = list_addf(problems, "instance '%s': %s", instance->name, *one);
    return r;
}

int fsck_disks(struct manager *manager, char ***problems, struct error *error) {
    size_t count;
    struct instance **copy = registry_hold(manager, &count);
    int r = copy ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < count; i++)
        r = check_one(copy[i], problems, error);
    registry_release(copy, count);
    return r < 0 && !error_is_set(error) ? error_errno(error, r, "checking the disks") : r;
}
