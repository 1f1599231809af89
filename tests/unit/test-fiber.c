// SPDX-License-Identifier: GPL-2.0-or-later
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fiber.h"
#include "base/process.h"

/* Each test body runs as a fiber; the loop ends with it. */
struct body {
    void (*function)(void);
};

static int body_main(void *userdata) {
    ((struct body *) userdata)->function();
    loop_exit(0);
    return 0;
}

static void run_on_fiber(void (*function)(void)) {
    struct body body = { function };

    assert_true(loop_init() >= 0);
    assert_int_equal(fiber_start(NULL, "test", body_main, &body), 0);
    assert_int_equal(loop_run(), 0);
    loop_done();
}

/* --- joining, cancelling, deadlines ---------------------------------------------------------------------------------- */

static int return_seven(void *userdata) {
    (void) userdata;
    return fiber_sleep(1000) < 0 ? -1 : 7;
}

static int sleep_long(void *userdata) {
    int r = fiber_sleep(3600 * CLOCK_SECOND);

    *(int *) userdata = r;
    /* After a cancel every wait ends at once, but a shielded one. */
    assert_int_equal(fiber_sleep(3600 * CLOCK_SECOND), -ECANCELED);
    fiber_shield();
    assert_int_equal(fiber_sleep(1000), 0);
    fiber_unshield();
    return r;
}

static void join_and_cancel(void) {
    _cleanup_fiber_ struct fiber *quick = NULL, *slow = NULL;
    int result = 0, seen = 0;

    assert_int_equal(fiber_start(&quick, "quick", return_seven, NULL), 0);
    assert_int_equal(fiber_join(quick, DEADLINE_NONE, &result), 0);
    assert_int_equal(result, 7);
    assert_int_equal(fiber_start(&slow, "slow", sleep_long, &seen), 0);
    assert_int_equal(fiber_join(slow, deadline_in(5000), NULL), -ETIMEDOUT);
    fiber_cancel_join(slow);
    assert_int_equal(seen, -ECANCELED);
    assert_true(fiber_is_done(slow));
}

/* A fiber that owns something must get the chance to release it. */
static int always_runs(void *userdata) {
    *(bool *) userdata = true;
    return fiber_sleep(3600 * CLOCK_SECOND);
}

static void cancel_before_start(void) {
    _cleanup_fiber_ struct fiber *fiber = NULL;
    bool ran = false;
    int result = 0;

    assert_int_equal(fiber_start(&fiber, "canceled", always_runs, &ran), 0);
    fiber_cancel(fiber);
    assert_int_equal(fiber_join(fiber, DEADLINE_NONE, &result), 0);
    assert_true(ran);
    assert_int_equal(result, -ECANCELED);
}

/* --- queues and mutexes ------------------------------------------------------------------------------------------------ */

struct shared {
    struct fiber_mutex mutex;
    struct fiber_queue queue;
    char order[32];
    int inside;
};

static int take_turn(void *userdata) {
    struct shared *shared = userdata;

    int r = fiber_mutex_lock(&shared->mutex, DEADLINE_NONE);

    if (r < 0) {
        assert_int_equal(r, -ECANCELED);
        return r;
    }
    assert_int_equal(shared->inside++, 0);
    assert_int_equal(fiber_sleep(500), 0);
    shared->inside--;
    fiber_mutex_unlock(&shared->mutex);
    return 0;
}

static void mutex_excludes(void) {
    struct shared shared = { 0 };
    struct fiber *fibers[20];

    for (int i = 0; i < 20; i++)
        assert_int_equal(fiber_start(&fibers[i], "turn", take_turn, &shared), 0);
    assert_int_equal(fiber_yield(), 0);
    assert_int_equal(fiber_mutex_lock(&shared.mutex, deadline_in(100)), -ETIMEDOUT);
    fiber_cancel(fibers[7]); /* waiting: the others must still get their turn */
    for (int i = 0; i < 20; i++) {
        assert_int_equal(fiber_join(fibers[i], deadline_in(10 * CLOCK_SECOND), NULL), 0);
        fiber_unref(fibers[i]);
    }
}

static int take_at_once_again(void *userdata) {
    struct shared *shared = userdata;

    for (int i = 0; i < 1000; i++) {
        assert_int_equal(fiber_mutex_lock(&shared->mutex, DEADLINE_NONE), 0);
        assert_int_equal(fiber_mutex_lock(&shared->mutex, DEADLINE_NONE), -EDEADLK);
        assert_int_equal(fiber_yield(), 0);
        shared->inside++;
        fiber_mutex_unlock(&shared->mutex);
    }
    return 0;
}

static int take_and_give(void *userdata) {
    struct shared *shared = userdata;

    if (fiber_mutex_lock(&shared->mutex, DEADLINE_NONE) >= 0)
        fiber_mutex_unlock(&shared->mutex);
    return 0;
}

/* Who locks again right after it unlocked comes after those who wait, and who is canceled when his turn comes hands it on. */
static void mutex_is_fair(void) {
    struct shared shared = { 0 };
    struct fiber *greedy, *canceled;

    assert_int_equal(fiber_start(&greedy, "greedy", take_at_once_again, &shared), 0);
    assert_int_equal(fiber_yield(), 0);
    assert_int_equal(fiber_mutex_lock(&shared.mutex, DEADLINE_NONE), 0);
    assert_true(shared.inside <= 2);
    assert_int_equal(fiber_start(&canceled, "canceled", take_and_give, &shared), 0);
    assert_int_equal(fiber_yield(), 0);
    fiber_mutex_unlock(&shared.mutex);
    fiber_cancel(canceled);
    assert_int_equal(fiber_join(greedy, deadline_in(10 * CLOCK_SECOND), NULL), 0);
    assert_int_equal(shared.inside, 1000);
    assert_int_equal(fiber_join(canceled, deadline_in(10 * CLOCK_SECOND), NULL), 0);
    assert_null(shared.mutex.owner);
    fiber_unref(greedy);
    fiber_unref(canceled);
}

static int wait_queue(void *userdata) {
    struct shared *shared = userdata;
    size_t length = strlen(shared->order);

    assert_int_equal(fiber_queue_wait(&shared->queue, DEADLINE_NONE), 0);
    shared->order[length] = '\0';
    return 0;
}

static void queue_wakes(void) {
    struct shared shared = { 0 };
    struct fiber *fibers[3];

    for (int i = 0; i < 3; i++)
        assert_int_equal(fiber_start(&fibers[i], "waiter", wait_queue, &shared), 0);
    assert_int_equal(fiber_yield(), 0);
    fiber_queue_wake_one(&shared.queue);
    assert_int_equal(fiber_join(fibers[0], DEADLINE_NONE, NULL), 0);
    assert_false(fiber_is_done(fibers[1]));
    fiber_queue_wake_all(&shared.queue);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fiber_join(fibers[i], DEADLINE_NONE, NULL), 0);
        fiber_unref(fibers[i]);
    }
}

/* --- descriptors and jobs ------------------------------------------------------------------------------------------------- */

static int write_later(void *userdata) {
    int fd = *(int *) userdata;

    assert_int_equal(fiber_sleep(2000), 0);
    assert_int_equal(write(fd, "hello", 5), 5);
    return 0;
}

static void waits_for_bytes(void) {
    char data[16];
    int pair[2];

    assert_int_equal(pipe2(pair, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(fiber_wait_fd(pair[0], EPOLLIN, deadline_in(1000)), -ETIMEDOUT);
    assert_int_equal(fiber_start(NULL, "writer", write_later, &pair[1]), 0);
    assert_int_equal(fiber_read(pair[0], data, sizeof(data), deadline_in(5 * CLOCK_SECOND)), 5);
    close(pair[1]);
    assert_int_equal(fiber_read(pair[0], data, sizeof(data), deadline_in(5 * CLOCK_SECOND)), 0);
    close(pair[0]);
}

static int block_a_while(void *userdata) {
    usleep(20000);
    return *(int *) userdata;
}

static int run_job(void *userdata) {
    return fiber_job(block_a_while, userdata);
}

static void jobs_run_beside(void) {
    struct fiber *fibers[8];
    int values[8];

    for (int i = 0; i < 8; i++) {
        values[i] = i * 3;
        assert_int_equal(fiber_start(&fibers[i], "job", run_job, &values[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        int result = -1;
        assert_int_equal(fiber_join(fibers[i], DEADLINE_NONE, &result), 0);
        assert_int_equal(result, i * 3);
        fiber_unref(fibers[i]);
    }
}

/* --- many ------------------------------------------------------------------------------------------------------------------ */

static int count_up(void *userdata) {
    for (int i = 0; i < 10; i++) {
        char frame[512];
        memset(frame, i, sizeof(frame));
        assert_int_equal(fiber_yield(), 0);
        assert_int_equal(frame[511], i); /* another fiber did not write on our stack */
    }
    ++*(int *) userdata;
    return 0;
}

static void two_thousand(void) {
    int count = 0;

    for (int i = 0; i < 2000; i++)
        assert_int_equal(fiber_start(NULL, "many", count_up, &count), 0);
    while (count < 2000)
        assert_int_equal(fiber_yield(), 0);
}

/* --- processes --------------------------------------------------------------------------------------------------------------- */

static void runs_processes(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    _cleanup_buffer_ struct buffer output = BUFFER_INIT;
    char *arguments[] = { "sh", "-c", "cat; echo \"$0 $PATH\"; exit 3", NULL };
    struct process_spec spec = { .program = "/bin/sh", .arguments = arguments };
    int status = -1;
    struct process_run run = { .input = "given ", .input_size = 6, .output = &output, .limit = 4096,
                               .deadline = deadline_in(20 * CLOCK_SECOND), .ret_status = &status };

    assert_int_equal(process_run(&spec, &run, &error), -EIO);
    assert_int_equal(status, 3);
    assert_int_equal(error.code, ERROR_PROGRAM_FAILED);
    assert_true(strncmp(output.data, "given sh /usr/local/sbin:", 25) == 0);
}

static void missing_program_and_deadline(void) {
    _cleanup_error_ struct error error = ERROR_INIT;
    char *arguments[] = { "sleep", "1000", NULL };
    struct process_spec spec = { .program = "/nonexistent/program", .arguments = arguments };
    struct process_run run = { .deadline = deadline_in(20 * CLOCK_MILLISECOND) };
    _cleanup_process_ struct process process = PROCESS_INIT, again = PROCESS_INIT;
    int status;

    assert_int_equal(process_start(&spec, &process), -ENOENT);
    spec.program = "/bin/sleep";
    assert_int_equal(process_run(&spec, &run, &error), -ETIMEDOUT);
    assert_int_equal(error.code, ERROR_TIMEOUT);
    assert_int_equal(process_start(&spec, &process), 0);
    assert_int_equal(process_adopt(process.pid, process.start_ticks + 1, &again), -ESRCH);
    assert_int_equal(process_adopt(process.pid, process.start_ticks, &again), 0);
    assert_int_equal(process_signal(&again, SIGKILL), 0);
    assert_int_equal(process_wait(&process, deadline_in(5 * CLOCK_SECOND), &status), 0);
    assert_int_equal(status, 137);
    assert_false(process_is_alive(&process));
}

/* A second waiter on one process needs a descriptor, which there is none of for a while: it still learns of the end. */
static int first_waiter(void *userdata) {
    return process_wait(userdata, DEADLINE_NONE, NULL);
}

static int killer(void *userdata) {
    struct rlimit *usual = userdata;
    int r = fiber_sleep(150 * CLOCK_MILLISECOND);

    assert_int_equal(setrlimit(RLIMIT_NOFILE, usual), 0);
    return r;
}

static void wait_without_descriptors(void) {
    char *arguments[] = { "sleep", "1000", NULL };
    struct process_spec spec = { .program = "/bin/sleep", .arguments = arguments };
    _cleanup_process_ struct process process = PROCESS_INIT;
    struct fiber *first, *later;
    struct rlimit usual, none = { .rlim_cur = 4 }; /* below it all are open */
    int result;

    assert_int_equal(process_start(&spec, &process), 0);
    assert_int_equal(fiber_start(&first, "first", first_waiter, &process), 0);
    assert_int_equal(fiber_yield(), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &usual), 0);
    none.rlim_max = usual.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(process_wait(&process, deadline_in(20 * CLOCK_MILLISECOND), NULL), -ETIMEDOUT);
    assert_int_equal(fiber_start(&later, "later", killer, &usual), 0);
    assert_int_equal(process_signal(&process, SIGKILL), 0);
    assert_int_equal(process_wait(&process, deadline_in(20 * CLOCK_SECOND), NULL), 0);
    assert_int_equal(fiber_join(first, deadline_in(20 * CLOCK_SECOND), &result), 0);
    assert_int_equal(fiber_join(later, deadline_in(20 * CLOCK_SECOND), &result), 0);
    assert_int_equal(result, 0);
    fiber_unref(first);
    fiber_unref(later);
}

#define ON_FIBER(name)                                                                                       \
    static void test_##name(void **state) {                                                                  \
        (void) state;                                                                                        \
        run_on_fiber(name);                                                                                  \
    }
ON_FIBER(join_and_cancel)
ON_FIBER(cancel_before_start)
ON_FIBER(mutex_excludes)
ON_FIBER(mutex_is_fair)
ON_FIBER(queue_wakes)
ON_FIBER(waits_for_bytes)
ON_FIBER(jobs_run_beside)
ON_FIBER(two_thousand)
ON_FIBER(runs_processes)
ON_FIBER(missing_program_and_deadline)
ON_FIBER(wait_without_descriptors)

/* --- yielding --------------------------------------------------------------------------------------------------------- */

struct reader {
    int fd;
    bool came;
};

static int read_one(void *userdata) {
    struct reader *reader = userdata;
    char byte;

    assert_int_equal(fiber_read(reader->fd, &byte, 1, DEADLINE_NONE), 1);
    reader->came = true;
    return 0;
}

/* Who yields again and again keeps nobody from what has come meanwhile. */
static void yield_to_descriptors(void) {
    _cleanup_fiber_ struct fiber *fiber = NULL;
    struct reader reader = { 0 };
    int pipe[2], result = 0;

    assert_int_equal(pipe2(pipe, O_CLOEXEC | O_NONBLOCK), 0);
    reader.fd = pipe[0];
    assert_int_equal(fiber_start(&fiber, "reader", read_one, &reader), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(fiber_yield(), 0);
    assert_false(reader.came);
    assert_int_equal(write(pipe[1], "x", 1), 1);
    for (unsigned i = 0; i < 5 && !reader.came; i++)
        assert_int_equal(fiber_yield(), 0);
    assert_true(reader.came);
    assert_int_equal(fiber_join(fiber, DEADLINE_NONE, &result), 0);
    close(pipe[0]);
    close(pipe[1]);
}

static void test_yield(void **state _unused_) {
    run_on_fiber(yield_to_descriptors);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join_and_cancel),  cmocka_unit_test(test_cancel_before_start),
        cmocka_unit_test(test_mutex_excludes),   cmocka_unit_test(test_mutex_is_fair), cmocka_unit_test(test_queue_wakes),
        cmocka_unit_test(test_waits_for_bytes),  cmocka_unit_test(test_jobs_run_beside),
        cmocka_unit_test(test_two_thousand),     cmocka_unit_test(test_runs_processes),
        cmocka_unit_test(test_missing_program_and_deadline),
        cmocka_unit_test(test_wait_without_descriptors),
        cmocka_unit_test(test_yield),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
