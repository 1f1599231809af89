// SPDX-License-Identifier: GPL-2.0-or-later
/* Fibers over one sd-event loop.
 *
 * A fiber is in one of these states: ready (in the ready list), running, parked (a waiting call set `parked` and
 * switched to the loop), done. It is woken exactly once per park by fiber_wake: from its timer, its fd source, a queue,
 * a finished job or a cancel. The ready list is drained by a defer source of the loop, so a wake-up never nests.
 * Stacks have a guard page and are pooled. A fiber for whose stack there is no memory stays ready and is tried again: what
 * it owns depends on its being run. */
#include "base/fiber.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/switch.h"

#define STACK_POOL_MAX 32
#define WORKERS_USUAL 4 /* work at the same time */
#define WORKERS_MAX 64  /* with those that hang, on storage that does not answer, and therefore do not count */
#define STUCK_TIME CLOCK_SECOND
#define POST_TRIES 1000
#define STARVED_PAUSE (10 * CLOCK_MILLISECOND)
#define TIMER_ACCURACY 1000 /* us; 0 would mean 250 ms to sd-event */

struct fiber {
    struct stack_switch context;
    char *name;
    fiber_function function;
    void *userdata;
    int result;
    unsigned references;
    bool done, canceled, parked, ready;
    unsigned shield;
    int wake_result;
    struct fiber *next;         /* in the ready list */
    struct fiber *queue_next;   /* in a fiber_queue */
    struct fiber_queue *queued; /* the queue it waits in */
    struct fiber_queue joiners;
    sd_event_source *timer; /* made at the first deadline, kept */
    sd_event_source *io;    /* made at the first fd wait, reused while the fd is the same */
    int io_fd;
};

struct posted {
    void (*function)(void *userdata);
    void *userdata;
    struct posted *next;
};

struct job {
    int (*function)(void *userdata);
    void *userdata;
    int result;
    bool done;
    struct fiber *fiber;
    struct job *next;
};

struct worker {
    pthread_t thread;
    uint64_t since; /* when it took its job, 0: it has none */
};

/* The loop of this thread. The one mutable global of the program: a fiber's code must find its scheduler from any
 * depth, and a parameter through every function would only repeat what the thread already knows. */
static struct loop {
    sd_event *event;
    sd_event_source *ready_source;
    sd_event_source *post_source;
    sd_event_source *starved_source; /* when a fiber without a stack is tried again */
    struct fiber *current;
    struct fiber *ready_first, *ready_last;
    struct fiber *yielded_first, *yielded_last;
    struct posted *deferred_first, *deferred_last;
    struct stack_switch main_context;
    struct stack *pool;
    unsigned pooled;
    int post_fd;
    pthread_mutex_t lock; /* posted and jobs only */
    pthread_cond_t work;
    struct posted *posted_first, *posted_last;
    struct job *jobs_first, *jobs_last;
    unsigned jobs_waiting;
    unsigned worker_count, idle_workers;
    bool stopping, rescue_armed;
    struct worker workers[WORKERS_MAX];
} loop = { .post_fd = -EBADF, .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER };

/* --- the loop -------------------------------------------------------------------------------------------------- */

static void ready_arm(void) {
    (void) sd_event_source_set_enabled(loop.ready_source, SD_EVENT_ONESHOT);
}

static void ready_link(struct fiber *fiber) {
    fiber->ready = true;
    fiber->next = NULL;
    if (loop.ready_last)
        loop.ready_last->next = fiber;
    else
        loop.ready_first = fiber;
    loop.ready_last = fiber;
}

static void ready_add(struct fiber *fiber) {
    ready_link(fiber);
    ready_arm();
}

/* A defer source is served before all file descriptors, however long these have been waiting: who yields comes back by a file
 * descriptor, behind those. A full counter says that it is told already. */
static void yielded_add(struct fiber *fiber) {
    fiber->ready = true;
    fiber->next = NULL;
    if (loop.yielded_last)
        loop.yielded_last->next = fiber;
    else
        loop.yielded_first = fiber;
    loop.yielded_last = fiber;
    (void) !write(loop.post_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

static void yielded_ready(void) {
    struct fiber *list = loop.yielded_first;

    loop.yielded_first = loop.yielded_last = NULL;
    while (list) {
        struct fiber *fiber = list;
        list = fiber->next;
        ready_add(fiber);
    }
}

static bool fiber_resume(struct fiber *fiber);

static void deferred_run(void) {
    struct posted *list = loop.deferred_first;

    loop.deferred_first = loop.deferred_last = NULL;
    while (list) {
        struct posted *posted = list;
        list = posted->next;
        posted->function(posted->userdata);
        free(posted);
    }
}

static int on_starved(sd_event_source *source _unused_, uint64_t now _unused_, void *userdata _unused_) {
    ready_arm();
    return 0;
}

static void starved_arm(void) {
    (void) sd_event_source_set_time(loop.starved_source, deadline_in(STARVED_PAUSE));
    (void) sd_event_source_set_enabled(loop.starved_source, SD_EVENT_ONESHOT);
}

/* Runs the fibers that are ready now; those that become ready meanwhile come with the next round. */
static int on_ready(sd_event_source *source _unused_, void *userdata _unused_) {
    struct fiber *list = loop.ready_first;
    bool starved = false;

    loop.ready_first = loop.ready_last = NULL;
    deferred_run();
    while (list) {
        struct fiber *fiber = list;
        list = fiber->next;
        fiber->ready = false;
        if (fiber_resume(fiber))
            continue;
        ready_link(fiber);
        starved = true;
    }
    if (starved)
        starved_arm();
    else if (loop.ready_first || loop.deferred_first)
        ready_arm();
    return 0;
}

static int on_posted(sd_event_source *source _unused_, int fd, uint32_t events _unused_, void *userdata _unused_) {
    struct posted *list;
    uint64_t count;

    (void) !read(fd, &count, sizeof(count));
    pthread_mutex_lock(&loop.lock);
    list = loop.posted_first;
    loop.posted_first = loop.posted_last = NULL;
    pthread_mutex_unlock(&loop.lock);
    while (list) {
        struct posted *posted = list;
        list = posted->next;
        posted->function(posted->userdata);
        free(posted);
    }
    yielded_ready();
    return 0;
}

int loop_init(void) {
    int r = sd_event_new(&loop.event);

    if (r < 0)
        return r;
    loop.stopping = loop.rescue_armed = false;
    loop.post_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop.post_fd < 0)
        return -errno;
    r = sd_event_add_defer(loop.event, &loop.ready_source, on_ready, NULL);
    if (r >= 0)
        r = sd_event_source_set_enabled(loop.ready_source, SD_EVENT_OFF);
    if (r >= 0)
        r = sd_event_add_io(loop.event, &loop.post_source, loop.post_fd, EPOLLIN, on_posted, NULL);
    if (r >= 0)
        r = sd_event_add_time(loop.event, &loop.starved_source, CLOCK_BOOTTIME, 0, TIMER_ACCURACY, on_starved, NULL);
    if (r >= 0)
        r = sd_event_source_set_enabled(loop.starved_source, SD_EVENT_OFF);
    (void) signal(SIGPIPE, SIG_IGN);
    return r;
}

static void workers_stop(void) {
    pthread_mutex_lock(&loop.lock);
    loop.stopping = true;
    pthread_cond_broadcast(&loop.work);
    pthread_mutex_unlock(&loop.lock);
    for (unsigned i = 0; i < loop.worker_count; i++)
        pthread_join(loop.workers[i].thread, NULL);
    loop.worker_count = loop.idle_workers = 0;
}

void loop_done(void) {
    workers_stop();
    loop.ready_source = sd_event_source_unref(loop.ready_source);
    loop.post_source = sd_event_source_unref(loop.post_source);
    loop.starved_source = sd_event_source_unref(loop.starved_source);
    loop.event = sd_event_unref(loop.event);
    loop.post_fd = close_fd(loop.post_fd);
    while (loop.pool) {
        struct stack *stack = loop.pool;
        loop.pool = stack->next;
        stack_free(stack);
    }
    loop.pooled = 0;
}

struct sd_event *loop_event(void) {
    return loop.event;
}

int loop_run(void) {
    return sd_event_loop(loop.event);
}

void loop_exit(int code) {
    (void) sd_event_exit(loop.event, code);
}

static struct posted *posted_new(void (*function)(void *userdata), void *userdata) {
    struct posted *posted = calloc(1, sizeof(*posted));

    if (posted) {
        posted->function = function;
        posted->userdata = userdata;
    }
    return posted;
}

int loop_defer(void (*function)(void *userdata), void *userdata) {
    struct posted *posted = posted_new(function, userdata);

    if (!posted)
        return -ENOMEM;
    if (loop.deferred_last)
        loop.deferred_last->next = posted;
    else
        loop.deferred_first = posted;
    loop.deferred_last = posted;
    ready_arm();
    return 0;
}

int loop_post(void (*function)(void *userdata), void *userdata) {
    struct posted *posted = posted_new(function, userdata);
    uint64_t one = 1;

    if (!posted)
        return -ENOMEM;
    pthread_mutex_lock(&loop.lock);
    if (loop.posted_last)
        loop.posted_last->next = posted;
    else
        loop.posted_first = posted;
    loop.posted_last = posted;
    pthread_mutex_unlock(&loop.lock);
    /* EAGAIN: it is told already. Whatever else may fail must not leave a fiber waiting for this. */
    for (unsigned i = 0; i < POST_TRIES && write(loop.post_fd, &one, sizeof(one)) < 0 && errno != EAGAIN; i++)
        usleep(1000);
    return 0;
}

/* --- stacks and switching -------------------------------------------------------------------------------------- */

static struct stack *stack_take(void) {
    struct stack *stack = loop.pool;

    if (!stack)
        return stack_new();
    loop.pool = stack->next;
    loop.pooled--;
    return stack;
}

static void stack_give(struct stack *stack) {
    if (loop.pooled >= STACK_POOL_MAX) {
        stack_free(stack);
        return;
    }
    stack->next = loop.pool;
    loop.pool = stack;
    loop.pooled++;
}

static void fiber_main(void *userdata) {
    struct fiber *fiber = userdata;

    fiber->result = fiber->function(fiber->userdata);
    fiber->done = true;
    switch_leave(&fiber->context, &loop.main_context);
}

static void fiber_finish(struct fiber *fiber) {
    stack_give(STEAL_PTR(fiber->context.stack));
    fiber->timer = sd_event_source_disable_unref(fiber->timer);
    fiber->io = sd_event_source_disable_unref(fiber->io);
    fiber_queue_wake_all(&fiber->joiners);
    fiber_unref(fiber);
}

/* False if there was no memory for its stack. */
static bool fiber_resume(struct fiber *fiber) {
    if (!fiber->context.stack) {
        fiber->context.stack = stack_take();
        if (!fiber->context.stack)
            return false;
        switch_prepare(&fiber->context, fiber_main, fiber);
    }
    loop.current = fiber;
    switch_enter(&loop.main_context, &fiber->context);
    loop.current = NULL;
    if (fiber->done)
        fiber_finish(fiber);
    return true;
}

/* --- fibers ---------------------------------------------------------------------------------------------------- */

int fiber_start(struct fiber **ret_fiber, const char *name, fiber_function function, void *userdata) {
    struct fiber *fiber = calloc(1, sizeof(*fiber));

    if (!fiber)
        return -ENOMEM;
    fiber->name = strdup(name);
    if (!fiber->name) {
        free(fiber);
        return -ENOMEM;
    }
    fiber->function = function;
    fiber->userdata = userdata;
    fiber->io_fd = -EBADF;
    fiber->references = ret_fiber ? 2 : 1;
    ready_add(fiber);
    if (ret_fiber)
        *ret_fiber = fiber;
    return 0;
}

struct fiber *fiber_ref(struct fiber *fiber) {
    fiber->references++;
    return fiber;
}

void fiber_unref(struct fiber *fiber) {
    if (!fiber || --fiber->references > 0)
        return;
    free(fiber->name);
    free(fiber);
}

struct fiber *fiber_current(void) {
    return loop.current;
}

static void fiber_wake(struct fiber *fiber, int result) {
    if (!fiber->parked)
        return;
    fiber->parked = false;
    fiber->wake_result = result;
    ready_add(fiber);
}

static void queue_remove(struct fiber *fiber) {
    struct fiber_queue *queue = fiber->queued;
    struct fiber *previous = NULL;

    if (!queue)
        return;
    for (struct fiber *other = queue->first; other; previous = other, other = other->queue_next) {
        if (other != fiber)
            continue;
        if (previous)
            previous->queue_next = fiber->queue_next;
        else
            queue->first = fiber->queue_next;
        if (queue->last == fiber)
            queue->last = previous;
        break;
    }
    fiber->queued = NULL;
    fiber->queue_next = NULL;
}

void fiber_cancel(struct fiber *fiber) {
    if (!fiber || fiber->done)
        return;
    fiber->canceled = true;
    if (fiber->parked && fiber->shield == 0) {
        queue_remove(fiber);
        fiber_wake(fiber, -ECANCELED);
    }
}

bool fiber_is_canceled(void) {
    return loop.current && loop.current->canceled && loop.current->shield == 0;
}

bool fiber_is_done(const struct fiber *fiber) {
    return fiber->done;
}

void fiber_shield(void) {
    if (loop.current)
        loop.current->shield++;
}

void fiber_unshield(void) {
    if (loop.current)
        loop.current->shield--;
}

static int on_timer(sd_event_source *source _unused_, uint64_t now _unused_, void *userdata) {
    struct fiber *fiber = userdata;

    if (fiber->parked) {
        queue_remove(fiber);
        fiber_wake(fiber, -ETIMEDOUT);
    }
    return 0;
}

static int timer_arm(struct fiber *fiber, uint64_t deadline) {
    int r;

    if (!fiber->timer)
        return sd_event_add_time(loop.event, &fiber->timer, CLOCK_BOOTTIME, deadline, TIMER_ACCURACY, on_timer,
                                 fiber);
    r = sd_event_source_set_time(fiber->timer, deadline);
    return r < 0 ? r : sd_event_source_set_enabled(fiber->timer, SD_EVENT_ONESHOT);
}

/* Parks the current fiber until fiber_wake; the result is what the waker gave. */
static int fiber_park(uint64_t deadline) {
    struct fiber *fiber = loop.current;
    int r;

    if (!fiber)
        return -EDEADLK;
    if (fiber_is_canceled())
        return -ECANCELED;
    if (deadline != DEADLINE_NONE) {
        if (deadline <= clock_now())
            return -ETIMEDOUT;
        r = timer_arm(fiber, deadline);
        if (r < 0)
            return r;
    }
    fiber->parked = true;
    switch_enter(&fiber->context, &loop.main_context);
    if (deadline != DEADLINE_NONE && fiber->timer)
        (void) sd_event_source_set_enabled(fiber->timer, SD_EVENT_OFF);
    return fiber->wake_result;
}

/* Without memory for a timer it looks at the clock instead: those who work for ever pause here, and must not end. */
int fiber_sleep(uint64_t microseconds) {
    uint64_t deadline = deadline_in(microseconds);
    int r = fiber_park(deadline);

    while (r == -ENOMEM) {
        r = fiber_yield();
        if (r >= 0)
            r = fiber_park(deadline);
    }
    return r == -ETIMEDOUT ? 0 : r;
}

int fiber_yield(void) {
    struct fiber *fiber = loop.current;

    if (!fiber)
        return -EDEADLK;
    if (fiber_is_canceled())
        return -ECANCELED;
    fiber->wake_result = 0;
    yielded_add(fiber);
    switch_enter(&fiber->context, &loop.main_context);
    return fiber_is_canceled() ? -ECANCELED : 0;
}

int fiber_join(struct fiber *fiber, uint64_t deadline, int *ret_result) {
    while (!fiber->done) {
        int r = fiber_queue_wait(&fiber->joiners, deadline);
        if (r < 0)
            return r;
    }
    if (ret_result)
        *ret_result = fiber->result;
    return 0;
}

void fiber_cancel_join(struct fiber *fiber) {
    fiber_cancel(fiber);
    fiber_shield();
    (void) fiber_join(fiber, DEADLINE_NONE, NULL);
    fiber_unshield();
}

/* --- descriptors ----------------------------------------------------------------------------------------------- */

static int on_io(sd_event_source *source _unused_, int fd _unused_, uint32_t events, void *userdata) {
    struct fiber *fiber = userdata;

    fiber_wake(fiber, (int) events);
    return 0;
}

static int io_arm(struct fiber *fiber, int fd, uint32_t events) {
    fiber->io = sd_event_source_disable_unref(fiber->io);
    fiber->io_fd = fd;
    return sd_event_add_io(loop.event, &fiber->io, fd, events, on_io, fiber);
}

int fiber_wait_fd(int fd, uint32_t events, uint64_t deadline) {
    struct fiber *fiber = loop.current;
    int r, copy = -EBADF;

    if (!fiber)
        return -EDEADLK;
    r = io_arm(fiber, fd, events);
    if (r == -EEXIST) {
        /* epoll knows one entry per descriptor: a second waiter on the same one waits on a duplicate. */
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        r = copy < 0 ? -errno : io_arm(fiber, copy, events);
    }
    if (r == -EPERM)
        r = (int) events; /* a regular file is always ready */
    else if (r >= 0)
        r = fiber_park(deadline);
    fiber->io = sd_event_source_disable_unref(fiber->io);
    close_fd(copy);
    return r;
}

long fiber_read(int fd, void *data, size_t size, uint64_t deadline) {
    for (;;) {
        ssize_t n = read(fd, data, size);
        int r;

        if (n >= 0)
            return n;
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        r = fiber_wait_fd(fd, EPOLLIN, deadline);
        if (r < 0)
            return r;
    }
}

int fiber_write(int fd, const void *data, size_t size, uint64_t deadline) {
    const char *position = data;

    while (size > 0) {
        ssize_t n = write(fd, position, size);
        int r;

        if (n >= 0) {
            position += n;
            size -= (size_t) n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        r = fiber_wait_fd(fd, EPOLLOUT, deadline);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- jobs ------------------------------------------------------------------------------------------------------ */

static void job_finished(void *userdata) {
    struct job *job = userdata;

    job->done = true;
    fiber_wake(job->fiber, 0);
}

static void *worker_main(void *userdata) {
    struct worker *worker = userdata;

    pthread_mutex_lock(&loop.lock);
    for (;;) {
        struct job *job;

        worker->since = 0;
        loop.idle_workers++;
        while (!loop.jobs_first && !loop.stopping)
            pthread_cond_wait(&loop.work, &loop.lock);
        loop.idle_workers--;
        if (!loop.jobs_first)
            break;
        job = loop.jobs_first;
        loop.jobs_first = job->next;
        if (!loop.jobs_first)
            loop.jobs_last = NULL;
        loop.jobs_waiting--;
        worker->since = clock_now();
        pthread_mutex_unlock(&loop.lock);
        job->result = job->function(job->userdata);
        /* Nothing can be done if memory for the note is gone, but try until it is there: a fiber waits. */
        while (loop_post(job_finished, job) < 0)
            usleep(1000);
        pthread_mutex_lock(&loop.lock);
    }
    pthread_mutex_unlock(&loop.lock);
    return NULL;
}

static int worker_start(void) {
    struct worker *worker = &loop.workers[loop.worker_count];
    static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT }; /* blocked, they would end us without a word */
    sigset_t all, before;
    int r;

    worker->since = 0;
    sigfillset(&all);
    for (size_t i = 0; i < ELEMENTS(faults); i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0)
        loop.worker_count++;
    return -r;
}

/* The lock is held. */
static unsigned workers_stuck(void) {
    uint64_t now = clock_now();
    unsigned stuck = 0;

    for (unsigned i = 0; i < loop.worker_count; i++)
        stuck += loop.workers[i].since != 0 && now - loop.workers[i].since >= STUCK_TIME;
    return stuck;
}

unsigned fiber_jobs_stuck(void) {
    unsigned stuck;

    pthread_mutex_lock(&loop.lock);
    stuck = workers_stuck();
    pthread_mutex_unlock(&loop.lock);
    return stuck;
}

bool fiber_jobs_busy(void) {
    bool busy;

    pthread_mutex_lock(&loop.lock);
    busy = loop.jobs_waiting > 0;
    for (unsigned i = 0; i < loop.worker_count; i++)
        busy = busy || loop.workers[i].since != 0;
    pthread_mutex_unlock(&loop.lock);
    return busy;
}

/* Does a job wait that a further worker should take? One that is at its job for long may never come back. */
static bool worker_is_needed(void) {
    unsigned moving = loop.worker_count - workers_stuck();

    return loop.jobs_waiting > loop.idle_workers && moving < WORKERS_USUAL && loop.worker_count < WORKERS_MAX;
}

static void rescue_arm(void);

static int on_rescue(sd_event_source *source _unused_, uint64_t due _unused_, void *userdata _unused_) {
    pthread_mutex_lock(&loop.lock);
    loop.rescue_armed = false;
    if (worker_is_needed())
        (void) worker_start();
    rescue_arm();
    pthread_mutex_unlock(&loop.lock);
    return 0;
}

/* Looks again later whether the jobs that wait do so behind others that hang. */
static void rescue_arm(void) {
    if (loop.jobs_waiting <= loop.idle_workers || loop.rescue_armed)
        return;
    loop.rescue_armed = sd_event_add_time_relative(loop.event, NULL, CLOCK_MONOTONIC, STUCK_TIME, STUCK_TIME / 10,
                                                   on_rescue, NULL) >= 0;
}

static int job_submit(struct job *job) {
    int r = 0;

    pthread_mutex_lock(&loop.lock);
    loop.jobs_waiting++;
    if (worker_is_needed())
        r = worker_start();
    if (r < 0 && loop.worker_count > 0)
        r = 0;
    if (r < 0) {
        loop.jobs_waiting--;
    } else {
        if (loop.jobs_last)
            loop.jobs_last->next = job;
        else
            loop.jobs_first = job;
        loop.jobs_last = job;
        pthread_cond_signal(&loop.work);
        rescue_arm();
    }
    pthread_mutex_unlock(&loop.lock);
    return r;
}

int fiber_job(int (*function)(void *userdata), void *userdata) {
    struct job job = { .function = function, .userdata = userdata, .fiber = loop.current };

    if (!loop.current || job_submit(&job) < 0)
        return function(userdata);
    fiber_shield();
    while (!job.done)
        (void) fiber_park(DEADLINE_NONE);
    fiber_unshield();
    return job.result;
}

/* --- queues and mutexes ---------------------------------------------------------------------------------------- */

int fiber_queue_wait(struct fiber_queue *queue, uint64_t deadline) {
    struct fiber *fiber = loop.current;
    int r;

    if (!fiber)
        return -EDEADLK;
    fiber->queued = queue;
    fiber->queue_next = NULL;
    if (queue->last)
        queue->last->queue_next = fiber;
    else
        queue->first = fiber;
    queue->last = fiber;
    r = fiber_park(deadline);
    queue_remove(fiber);
    return r;
}

void fiber_queue_wake_one(struct fiber_queue *queue) {
    struct fiber *fiber = queue->first;

    if (!fiber)
        return;
    queue_remove(fiber);
    fiber_wake(fiber, 0);
}

void fiber_queue_wake_all(struct fiber_queue *queue) {
    while (queue->first)
        fiber_queue_wake_one(queue);
}

int fiber_mutex_lock(struct fiber_mutex *mutex, uint64_t deadline) {
    int r = 0;

    if (!mutex->owner) {
        mutex->owner = loop.current;
        return 0;
    }
    if (mutex->owner == loop.current)
        return -EDEADLK;
    while (r >= 0 && mutex->owner != loop.current)
        r = fiber_queue_wait(&mutex->waiters, deadline);
    /* It was handed to us while the wait ended otherwise. */
    if (r < 0 && loop.current && mutex->owner == loop.current)
        fiber_mutex_unlock(mutex);
    return r;
}

/* It goes to the first who waits at once: who locks again right away would otherwise have it before them, for ever. */
void fiber_mutex_unlock(struct fiber_mutex *mutex) {
    mutex->owner = mutex->waiters.first;
    fiber_queue_wake_one(&mutex->waiters);
}
