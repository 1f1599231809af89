// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

/* Fibers over one sd-event loop. Code on a fiber reads top to bottom and waits; everything else on the loop (HTTP
 * callbacks, event sources) must not wait. All fibers of a process run in the thread that called loop_init, one at a
 * time, and switch only inside the waiting calls below: between two waits no other fiber runs.
 *
 * Every waiting call takes a deadline (clock_now() scale, DEADLINE_NONE for none) and returns -ETIMEDOUT when it
 * passes, or -ECANCELED when somebody cancelled the fiber; after a cancel every further wait returns -ECANCELED at
 * once, except inside fiber_shield. Scope guards do the undoing. */

struct sd_event;
struct fiber;

int loop_init(void);
void loop_done(void);
struct sd_event *loop_event(void); /* borrowed */
/* Runs until loop_exit. Returns the exit code or negative errno. */
int loop_run(void);
void loop_exit(int code);
/* From any thread: runs function(userdata) on the loop, not on a fiber. */
int loop_post(void (*function)(void *userdata), void *userdata);
/* Runs function(userdata) once on the loop after the current callback, not on a fiber; loop thread only. */
int loop_defer(void (*function)(void *userdata), void *userdata);

typedef int (*fiber_function)(void *userdata);

/* Starts a fiber; it first runs when the loop comes round, also if it was cancelled before (its first wait then says so):
 * what it owns is always released by it. `name` is copied. With ret_fiber the caller owns a
 * reference (fiber_unref) and may join or cancel; without, it is detached. */
int fiber_start(struct fiber **ret_fiber, const char *name, fiber_function function, void *userdata);
struct fiber *fiber_ref(struct fiber *fiber);
void fiber_unref(struct fiber *fiber);
struct fiber *fiber_current(void); /* NULL off fibers */
void fiber_cancel(struct fiber *fiber);
bool fiber_is_canceled(void); /* the current one */
bool fiber_is_done(const struct fiber *fiber);
/* Waits for its end; *ret_result gets the function's return value. */
int fiber_join(struct fiber *fiber, uint64_t deadline, int *ret_result);
/* Cancels, and waits for its end however long that takes (not cancellable itself). */
void fiber_cancel_join(struct fiber *fiber);
/* Between shield and unshield waits are not cancelled (for clean-up that must wait). Nests. */
void fiber_shield(void);
void fiber_unshield(void);

/* Fails with -ECANCELED alone. */
int fiber_sleep(uint64_t microseconds);
/* Lets other ready fibers and events run once: also those that wait on a file descriptor which is ready by now. */
int fiber_yield(void);
/* Waits until fd is ready for `events` (EPOLLIN | EPOLLOUT …). Returns the events (> 0) or negative errno. */
int fiber_wait_fd(int fd, uint32_t events, uint64_t deadline);
/* Reads/writes on a non-blocking fd, waiting as needed. read: bytes, 0 at end, or negative errno. write: all, or error. */
long fiber_read(int fd, void *data, size_t size, uint64_t deadline);
int fiber_write(int fd, const void *data, size_t size, uint64_t deadline);

/* Runs function(userdata) on a worker thread and waits for it; not cancellable, since userdata is usually on the
 * waiting stack. Returns the function's value. Off fibers it runs in place. */
int fiber_job(int (*function)(void *userdata), void *userdata);
/* How many jobs have been under way for over a second: they may hang, on storage that does not answer, and there are only
 * so many workers. Who can do without a job, or comes from outside again and again, should not begin one when there are
 * FIBER_JOBS_STUCK_MOST. */
unsigned fiber_jobs_stuck(void);
/* Is any job waiting or being done? What it uses must not be freed. */
bool fiber_jobs_busy(void);
#define FIBER_JOBS_STUCK_MOST 32

/* Something fibers wait for. A waiter always re-checks its condition. */
struct fiber_queue {
    struct fiber *first;
    struct fiber *last;
};
int fiber_queue_wait(struct fiber_queue *queue, uint64_t deadline);
void fiber_queue_wake_one(struct fiber_queue *queue);
void fiber_queue_wake_all(struct fiber_queue *queue);

/* Held across waits by one fiber at a time; first come, first served. Errors: -EDEADLK if it is ours already or we are no
 * fiber, and those of a wait. */
struct fiber_mutex {
    struct fiber *owner;
    struct fiber_queue waiters;
};
int fiber_mutex_lock(struct fiber_mutex *mutex, uint64_t deadline);
void fiber_mutex_unlock(struct fiber_mutex *mutex);

static inline void fiber_unrefp(struct fiber **fiber) {
    if (*fiber)
        fiber_unref(*fiber);
}
#define _cleanup_fiber_ __attribute__((cleanup(fiber_unrefp)))
