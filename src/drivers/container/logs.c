// SPDX-License-Identifier: GPL-2.0-or-later
/* conmon bounds its log by replacing "log" with an empty file when it is full: what it replaces is lost. So "log" has a
 * second name, "log.keep". When conmon has put a new file in place, "log.keep" (the full one) becomes "log.1" and the
 * new file gets the second name. While no daemon runs, "log.keep" keeps the first of the full ones. Three files can
 * exist at worst, so conmon gets a third of the limit.
 *
 * conmon exits if it cannot create its new file, so an empty "log.tmp" always lies ready: no inode is needed then. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/text.h"
#include "drivers/container/internal.h"
#include "storage/storage.h"

static bool has_bytes(int directory, const char *name) {
    struct stat status;

    return fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && status.st_size > 0;
}

static bool same_file(int directory, const char *a, const char *b) {
    struct stat first, second;

    return fstatat(directory, a, &first, AT_SYMLINK_NOFOLLOW) == 0 &&
           fstatat(directory, b, &second, AT_SYMLINK_NOFOLLOW) == 0 && first.st_ino == second.st_ino;
}

static int make_empty(int directory, const char *name) {
    int fd = openat(directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return -errno;
    close_fd(fd);
    return 0;
}

/* After conmon's rotation, or before a start. */
static int rotate(int directory) {
    if (!same_file(directory, "log", "log.keep"))
        (void) renameat(directory, "log.keep", directory, "log.1");
    else
        (void) unlinkat(directory, "log.keep", 0);
    (void) linkat(directory, "log", directory, "log.keep", 0);
    return make_empty(directory, "log.tmp");
}

int logs_prepare(const struct container *container, uint64_t limit, uint64_t *ret_file_limit) {
    _cleanup_close_ int directory = open(container->state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r;

    if (directory < 0)
        return -errno;
    /* conmon does not count what is there already: an earlier run's lines become the older part. */
    if (has_bytes(directory, "log")) {
        if (renameat(directory, "log", directory, "log.1") < 0)
            return -errno;
        (void) unlinkat(directory, "log.keep", 0);
    }
    r = make_empty(directory, "log");
    if (r < 0)
        return r;
    *ret_file_limit = limit / 3;
    return rotate(directory);
}

/* On a worker thread: the storage may hang. */
static int rotated_job(void *userdata) {
    const struct container *container = userdata;
    _cleanup_close_ int directory = open(container->state_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return directory < 0 ? -errno : rotate(directory);
}

static int rotated_main(void *userdata) {
    _cleanup_container_ struct container *container = userdata;

    do {
        container->log_again = false;
        (void) fiber_job(rotated_job, container);
    } while (container->log_again);
    container->log_busy = false;
    return 0;
}

/* One at a time for each container. */
static void on_rotated(struct container *container) {
    container->log_again = true;
    if (container->log_busy)
        return;
    container->log_busy = true;
    if (fiber_start(NULL, "log-rotated", rotated_main, container_ref(container)) >= 0)
        return;
    container->log_busy = false;
    container_unref(container);
}

static struct container *find_watch(struct container_driver *driver, int watch) {
    size_t position = 0;
    const char *key;
    void *value;

    while (map_next(driver->watched, &position, &key, &value)) {
        struct container *container = value;
        if (container->log_watch == watch)
            return container;
    }
    return NULL;
}

static int on_inotify(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
    struct container_driver *driver = userdata;
    char data[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t size = read(fd, data, sizeof(data));

    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const void *) (data + at);
        struct container *container = find_watch(driver, event->wd);
        if (container && event->len > 0 && strcmp(event->name, "log") == 0)
            on_rotated(container);
        at += (ssize_t) (sizeof(*event) + event->len);
    }
    return 0;
}

int logs_open(struct container_driver *driver) {
    int r = map_new(&driver->watched);

    if (r < 0)
        return r;
    driver->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (driver->inotify < 0)
        return -errno;
    return sd_event_add_io(loop_event(), &driver->inotify_source, driver->inotify, EPOLLIN, on_inotify, driver);
}

void logs_close(struct container_driver *driver) {
    sd_event_source_disable_unref(driver->inotify_source);
    driver->inotify_source = NULL;
    driver->inotify = close_fd(driver->inotify);
    map_free(STEAL_PTR(driver->watched));
}

static int watch_job(void *userdata) {
    const struct container *container = userdata;
    int watch = inotify_add_watch(container->driver->inotify, container->state_path, IN_MOVED_TO | IN_ONLYDIR);

    return watch < 0 ? -errno : watch;
}

static int watch_main(void *userdata) {
    _cleanup_container_ struct container *container = userdata;
    struct container_driver *driver = container->driver;
    int watch = storage_ask_instance(driver->context.storage, container->state_path, DEADLINE_NONE, NULL);

    if (watch >= 0 && container->active)
        watch = fiber_job(watch_job, container);
    container->log_starting = false;
    if (watch <= 0)
        return 0;
    if (!container->active || container->log_watch >= 0) { /* it ended meanwhile */
        if (container->log_watch != watch)
            (void) inotify_rm_watch(driver->inotify, watch);
        return 0;
    }
    container->log_watch = watch;
    if (map_put(driver->watched, container->uuid, container) < 0)
        logs_unwatch(container);
    on_rotated(container);
    return 0;
}

/* Also catches up with rotations while nobody watched. Does not wait for the storage. */
void logs_watch(struct container *container) {
    if (container->log_watch >= 0 || container->log_starting)
        return;
    container->log_starting = true;
    if (fiber_start(NULL, "log-watch", watch_main, container_ref(container)) >= 0)
        return;
    container->log_starting = false;
    container_unref(container);
}

void logs_unwatch(struct container *container) {
    if (container->log_watch < 0)
        return;
    (void) map_remove(container->driver->watched, container->uuid);
    (void) inotify_rm_watch(container->driver->inotify, container->log_watch);
    container->log_watch = -1;
}
