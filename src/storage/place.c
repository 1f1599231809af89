// SPDX-License-Identifier: GPL-2.0-or-later
/* Storage that hangs: whoever is about to use it on the loop asks first whether it answers. A worker thread asks, one for
 * each path however many wait, so that what hangs takes one of them and not all. One that does not come back may hang in a file
 * system that was detached since, with another in its place: then it is asked anew, by a few at most. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/process.h"
#include "base/text.h"
#include "storage/internal.h"

#define ASK_ANEW (60 * CLOCK_SECOND) /* and each time four times as long, since whoever repairs it needs a while */
#define ASK_AGAIN (CLOCK_SECOND / 10) /* if it could not be asked at all */
#define ASKED_AT_ONCE 4

struct place {
    struct storage *storage;
    char *path;
    unsigned users;  /* those who ask, and those that wait for a worker */
    unsigned probes; /* under way, with those that hang in what is gone */
    bool asking;     /* the newest of them has not come back */
    uint64_t anew;   /* when that one is no longer waited for alone */
    bool late; /* somebody was told that it does not answer */
    uint64_t answers;
    struct fiber_queue waiters;
};

static void place_drop(struct place *place) {
    if (--place->users > 0)
        return;
    (void) map_remove(place->storage->places, place->path);
    free(place->path);
    free(place);
}

static int place_take(struct storage *storage, const char *path, struct place **ret) {
    struct place *place = map_get(storage->places, path);
    int r = 0;

    if (!place) {
        place = calloc(1, sizeof(*place));
        if (!place)
            return -ENOMEM;
        place->storage = storage;
        place->path = strdup(path);
        r = place->path ? map_put(storage->places, place->path, place) : -ENOMEM;
    }
    if (r < 0) {
        free(place->path);
        free(place);
        return r;
    }
    place->users++;
    *ret = place;
    return 0;
}

static int ask_job(void *userdata) {
    const struct place *place = userdata;

    return process_await_storage(place->path);
}

static int ask_main(void *userdata) {
    struct place *place = userdata;
    int r = fiber_job(ask_job, place);

    /* Without a process or memory for the question there is no answer. */
    while ((r == -EAGAIN || r == -ENOMEM || r == -EMFILE) && fiber_sleep(ASK_AGAIN) >= 0)
        r = fiber_job(ask_job, place);
    if (place->late)
        log_notice("the storage at %s answers again", place->path);
    place->probes--;
    place->asking = place->late = false;
    place->answers++;
    fiber_queue_wake_all(&place->waiters);
    place_drop(place);
    return 0;
}

static int place_begin(struct place *place) {
    int r;

    if (place->probes >= ASKED_AT_ONCE || (place->asking && clock_now() < place->anew))
        return 0;
    r = fiber_start(NULL, "ask storage", ask_main, place);
    if (r < 0)
        return r;
    place->users++;
    place->asking = true;
    place->anew = deadline_in(ASK_ANEW << (2 * place->probes++));
    return 0;
}

static int place_wait(struct place *place, uint64_t deadline) {
    uint64_t before = place->answers;
    int r = place_begin(place);

    while (r >= 0 && place->answers == before) {
        uint64_t look = deadline_in(ASK_ANEW);
        r = fiber_queue_wait(&place->waiters, look < deadline ? look : deadline);
        if (r == -ETIMEDOUT && clock_now() < deadline) {
            (void) place_begin(place);
            r = 0;
        }
    }
    return place->answers == before ? r : 0;
}

static int place_complain(struct place *place, struct error *error) {
    _cleanup_free_ char *what = text_format("the storage at %s", place->path);

    if (!place->late)
        log_warning("the storage at %s does not answer; what needs it waits for it", place->path);
    place->late = true;
    (void) error_set(error, ERROR_UNRESPONSIVE, what ? what : place->path);
    return -ETIMEDOUT;
}

int storage_ask(struct storage *storage, const char *path, uint64_t deadline, struct error *error) {
    struct place *place;
    int r = place_take(storage, path, &place);

    if (r < 0)
        return error_errno(error, r, "asking whether %s answers", path);
    r = place_wait(place, deadline);
    if (r == -ETIMEDOUT)
        r = place_complain(place, error);
    else if (r < 0)
        r = error_errno(error, r, "waiting for %s", path);
    place_drop(place);
    return r;
}

int storage_ask_instance(struct storage *storage, const char *path, uint64_t deadline, struct error *error) {
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *shared = slash ? strndup(path, (size_t) (slash - path)) : NULL;
    int r = shared ? storage_ask(storage, shared, deadline, error) : error_errno(error, -ENOMEM, "asking whether %s answers", path);

    return r < 0 ? r : storage_ask(storage, path, deadline, error);
}

/* --- the image store ------------------------------------------------------------------------------------------------- */

int storage_ask_images(struct storage *storage, uint64_t deadline, struct error *error) {
    int r = storage_ask(storage, storage->images, deadline, error);

    while (r >= 0 && !storage->opened) {
        r = fiber_queue_wait(&storage->opening, deadline);
        if (r == -ETIMEDOUT)
            return error_set(error, ERROR_UNRESPONSIVE, "the image store is not open yet");
        if (r < 0)
            return error_errno(error, r, "waiting for %s", storage->images);
    }
    return r;
}

int storage_wait(struct storage *storage, const struct storage_progress *progress, struct error *error) {
    _cleanup_error_ struct error late = ERROR_INIT;
    int r = storage_ask_images(storage, deadline_in(STORAGE_PATIENCE), &late);

    if (r >= 0)
        return 0;
    if (r != -ETIMEDOUT) {
        error_move(error, &late);
        return r;
    }
    progress_step(progress, "waiting for the storage of the images, which does not answer", 0, 0);
    return storage_ask_images(storage, DEADLINE_NONE, error);
}
