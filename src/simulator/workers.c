// SPDX-License-Identifier: GPL-2.0-or-later
#include "simulator/workers.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "simulator/progress.h"

#define PARTS 10000u

struct workers {
    const char *what;
    worker_piece *piece;
    void *userdata;
    pthread_mutex_t lock; /* of all below */
    size_t next, count;
    unsigned *parts; /* of PARTS, of each piece */
    uint64_t sum;
    int shown; /* percent */
    size_t failed;
    int failure;
};

uint64_t workers_usual(void) {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

    return count < 1 ? 1 : count > WORKERS_MAX ? WORKERS_MAX : (uint64_t) count;
}

static void tell_locked(struct workers *workers, size_t which, double share) {
    unsigned parts = (unsigned) (share * PARTS);

    workers->sum += parts;
    workers->sum -= workers->parts[which];
    workers->parts[which] = parts;
    int percent = (int) (workers->sum * 100 / (PARTS * workers->count));
    if (percent == workers->shown || !workers->what)
        return;
    workers->shown = percent;
    progress_show(workers->what, (double) workers->sum / (double) (PARTS * workers->count));
}

void workers_tell(struct workers *workers, size_t which, double share) {
    pthread_mutex_lock(&workers->lock);
    tell_locked(workers, which, share);
    pthread_mutex_unlock(&workers->lock);
}

static void *work(void *userdata) {
    struct workers *workers = userdata;

    for (;;) {
        pthread_mutex_lock(&workers->lock);
        size_t which = workers->failure < 0 ? workers->count : workers->next;
        workers->next += which < workers->count;
        pthread_mutex_unlock(&workers->lock);
        if (which >= workers->count)
            return NULL;
        int r = workers->piece(workers, workers->userdata, which);
        pthread_mutex_lock(&workers->lock);
        if (r < 0 && (workers->failure >= 0 || which < workers->failed)) {
            workers->failure = r;
            workers->failed = which;
        }
        tell_locked(workers, which, 1);
        pthread_mutex_unlock(&workers->lock);
    }
}

int workers_run(const char *what, uint64_t threads, size_t count, worker_piece *piece, void *userdata, size_t *ret_failed) {
    _cleanup_free_ unsigned *parts = calloc(count + 1, sizeof(*parts));
    struct workers workers = { .what = what, .piece = piece, .userdata = userdata, .count = count, .parts = parts, .shown = -1 };
    pthread_t started[WORKERS_MAX];
    size_t others = 0;

    if (!parts)
        return -ENOMEM;
    pthread_mutex_init(&workers.lock, NULL);
    while (others + 1 < threads && others + 1 < count && others < WORKERS_MAX &&
           pthread_create(&started[others], NULL, work, &workers) == 0)
        others++;
    work(&workers);
    while (others > 0)
        pthread_join(started[--others], NULL);
    pthread_mutex_destroy(&workers.lock);
    if (what)
        progress_end();
    if (workers.failure < 0 && ret_failed)
        *ret_failed = workers.failed;
    return workers.failure;
}
