// SPDX-License-Identifier: GPL-2.0-or-later
/* A driver without processes: instances behave as their labels say (script.h). It serves scenario tests, demonstrations
 * and load runs of ten thousand instances, so it keeps little per instance: a fiber only while a script has something
 * to wait for. In place of a process there is a file at RUN_PATH/fake with one line, "STATE PID ENDS CODE OOM", which
 * stays when polderd dies and is gone after a reboot, and in place of saved memory STATE_PATH/memory. STATE is running,
 * paused or ended; ENDS is the boot time at which the script ends it, in us, or 0. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoint.h"
#include "base/fiber.h"
#include "base/file.h"
#include "base/map.h"
#include "base/text.h"
#include "drivers/driver.h"
#include "drivers/fake/script.h"

/* How often a step that fails at first was tried: kept by uuid, since a failed start is followed by a release. */
struct tries {
    char *uuid;
    int64_t count;
};

struct fake {
    const struct driver_events *events;
    int64_t next_pid;
    struct map *tries;
};

struct fake_instance {
    struct fake *fake;
    struct driver_instance *view;
    int64_t pid;
    bool running, paused;
    struct fiber *life;
    uint64_t remaining; /* us until its script ends it, while paused */
    uint64_t ends;      /* boot time */
    struct fake_step run;
};

struct fake_stream {
    struct stream stream;
    char *text;
    size_t size, position;
    int code;
};

/* --- streams --------------------------------------------------------------------------------------------------------- */

static long fake_stream_read(struct stream *stream, enum stream_channel *ret_channel, void *data, size_t size,
                             uint64_t deadline _unused_) {
    struct fake_stream *fake = (struct fake_stream *) stream;
    size_t left = fake->size - fake->position;

    *ret_channel = STREAM_OUTPUT;
    if (size > left)
        size = left;
    memcpy(data, fake->text + fake->position, size);
    fake->position += size;
    return (long) size;
}

static int fake_stream_write(struct stream *stream _unused_, const void *data _unused_, size_t size _unused_,
                             uint64_t deadline _unused_) {
    return 0;
}

static int fake_stream_nothing(struct stream *stream _unused_) {
    return 0;
}

static int fake_stream_resize(struct stream *stream _unused_, uint16_t rows _unused_, uint16_t columns _unused_) {
    return 0;
}

static int fake_stream_signal(struct stream *stream _unused_, int number _unused_) {
    return 0;
}

static int fake_stream_result(struct stream *stream, int *ret_code, struct error *error _unused_,
                              uint64_t deadline _unused_) {
    *ret_code = ((struct fake_stream *) stream)->code;
    return 0;
}

static void fake_stream_free(struct stream *stream) {
    free(((struct fake_stream *) stream)->text);
    free(stream);
}

static const struct stream_operations fake_stream_operations = {
    .read = fake_stream_read,
    .write = fake_stream_write,
    .close_input = fake_stream_nothing,
    .resize = fake_stream_resize,
    .signal = fake_stream_signal,
    .result = fake_stream_result,
    .free = fake_stream_free,
};

static int fake_stream_new(const char *text, int code, struct stream **ret) {
    struct fake_stream *stream = calloc(1, sizeof(*stream));

    if (!stream)
        return -ENOMEM;
    stream->stream.operations = &fake_stream_operations;
    stream->text = strdup(text ? text : "");
    if (!stream->text) {
        free(stream);
        return -ENOMEM;
    }
    stream->size = strlen(stream->text);
    stream->code = code;
    *ret = &stream->stream;
    return 0;
}

/* --- files ------------------------------------------------------------------------------------------------------------- */

#define FILE_MAX 256

static int file_put(const char *directory, const char *name, const char *text) {
    _cleanup_free_ char *path = text_format("%s/%s", directory, name);
    int r = path ? file_make_directories(AT_FDCWD, directory, 0711) : -ENOMEM;

    return r < 0 && r != -EEXIST ? r : file_write_atomic(AT_FDCWD, path, text, strlen(text), 0600, false);
}

static int life_write(const struct fake_instance *instance, const char *state, int code, bool oom) {
    _cleanup_free_ char *text = text_format("%s %" PRIi64 " %" PRIu64 " %d %d\n", state, instance->pid,
                                            instance->run.exits ? instance->ends : 0, code, oom);

    return text ? file_put(instance->view->run_path, "fake", text) : -ENOMEM;
}

struct life {
    char state[16];
    int64_t pid;
    uint64_t ends;
    int code, oom;
};

/* True: there is one. That it cannot be read (-ENOMEM …) does not mean that there is none. */
static int life_read(const struct driver_instance *view, struct life *ret) {
    _cleanup_free_ char *path = text_format("%s/fake", view->run_path), *text = NULL;
    int r = path ? file_read(AT_FDCWD, path, FILE_MAX, &text, NULL) : -ENOMEM;

    *ret = (struct life){ .code = -1 };
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    return sscanf(text, "%15s %" SCNi64 " %" SCNu64 " %d %d", ret->state, &ret->pid, &ret->ends, &ret->code, &ret->oom) == 5;
}

static char *memory_path(const struct driver_instance *view) {
    return text_format("%s/memory", view->state_path);
}

static int memory_save(const struct fake_instance *instance) {
    _cleanup_free_ char *text = text_format("%" PRIu64 "\n", instance->remaining);

    return text ? file_put(instance->view->state_path, "memory", text) : -ENOMEM;
}

static int memory_load(struct fake_instance *instance) {
    _cleanup_free_ char *path = memory_path(instance->view), *text = NULL;
    int r = path ? file_read(AT_FDCWD, path, FILE_MAX, &text, NULL) : -ENOMEM;

    if (r >= 0)
        instance->remaining = strtoull(text, NULL, 10);
    return r;
}

/* --- steps ------------------------------------------------------------------------------------------------------------- */

static int instance_of(struct fake *fake, struct driver_instance *view, struct fake_instance **ret) {
    struct fake_instance *instance = view->driver_data;

    if (!instance) {
        instance = calloc(1, sizeof(*instance));
        if (!instance)
            return -ENOMEM;
        instance->fake = fake;
        instance->view = view;
        view->driver_data = instance;
    }
    *ret = instance;
    return 0;
}

/* Counts one more try of an instance whose script fails the first `failures`: true while it must fail. */
static bool try_fails(struct fake *fake, const char *uuid, int64_t failures) {
    struct tries *tries = map_get(fake->tries, uuid);

    if (failures <= 0)
        return failures < 0;
    if (!tries) {
        tries = calloc(1, sizeof(*tries));
        if (!tries || !(tries->uuid = strdup(uuid)) || map_put(fake->tries, tries->uuid, tries) < 0) {
            if (tries)
                free(tries->uuid);
            free(tries);
            return true;
        }
    }
    if (tries->count++ < failures)
        return true;
    (void) map_remove(fake->tries, uuid);
    free(tries->uuid);
    free(tries);
    return false;
}

/* Plays one step of the script: waits, hangs or fails as its label says. */
static int step_play(struct fake_instance *instance, const char *name, struct error *error) {
    struct fake_step step;
    int r = fake_step_read(instance->view->spec->labels, name, &step, error);

    if (r < 0)
        return r;
    fake_step_done(&step);
    if (step.delay_ms > 0)
        r = fiber_sleep(step.delay_ms * CLOCK_MILLISECOND);
    while (r >= 0 && step.hang)
        r = fiber_sleep(3600 * CLOCK_SECOND);
    if (r < 0)
        return error_errno(error, r, "%s", name);
    if (try_fails(instance->fake, instance->view->assigned->uuid, step.failures))
        return error_set(error, ERROR_PROGRAM_FAILED, name, "its script says so");
    return 0;
}

static void ended(struct fake_instance *instance, int code, bool oom) {
    struct driver_exit report = { .code = code, .out_of_memory = oom };

    instance->running = instance->paused = false;
    (void) life_write(instance, "ended", code, oom);
    instance->fake->events->exited(instance->view, &report);
}

static int life_main(void *userdata) {
    struct fake_instance *instance = userdata;
    uint64_t now = clock_now();
    int r = fiber_is_canceled() ? -ECANCELED : 0;

    if (r >= 0 && instance->ends > now)
        r = fiber_sleep(instance->ends - now);
    /* Cancelled while it was due: the instance may be gone. */
    if (r >= 0 && !fiber_is_canceled() && instance->running) {
        fiber_unref(instance->life);
        instance->life = NULL;
        ended(instance, instance->run.code, instance->run.oom);
    }
    return 0;
}

static void life_end(struct fake_instance *instance) {
    if (!instance->life)
        return;
    fiber_cancel(instance->life);
    fiber_unref(instance->life);
    instance->life = NULL;
}

/* From now on it runs, until its script ends it. */
static int life_begin(struct fake_instance *instance, uint64_t after, struct error *error) {
    int r;

    if (instance->run.exits)
        instance->ends = clock_now() + after;
    r = life_write(instance, "running", -1, false);
    if (r >= 0 && instance->run.exits)
        r = fiber_start(&instance->life, "fake", life_main, instance);
    return r < 0 ? error_errno(error, r, "starting a fake instance") : 0;
}

static void life_stop(struct fake_instance *instance) {
    instance->remaining = instance->ends > clock_now() ? instance->ends - clock_now() : 0;
    life_end(instance);
}

/* --- the contract -------------------------------------------------------------------------------------------------------- */

static int fake_open(const struct driver_context *context, void **ret_data, struct error *error) {
    struct fake *fake = calloc(1, sizeof(*fake));

    if (!fake || map_new(&fake->tries) < 0) {
        free(fake);
        return error_errno(error, -ENOMEM, "opening the fake driver");
    }
    fake->events = context->events;
    fake->next_pid = 1;
    *ret_data = fake;
    return 0;
}

static void fake_close(void *data) {
    struct fake *fake = data;
    size_t position = 0;
    void *value;

    while (map_next(fake->tries, &position, NULL, &value)) {
        free(((struct tries *) value)->uuid);
        free(value);
    }
    map_free(fake->tries);
    free(fake);
}

static int not_running(struct error *error) {
    return error_set(error, ERROR_INTERNAL, "the fake driver", "it does not run any more");
}

static int start_play(struct fake_instance *instance, const struct driver_start *start, struct error *error) {
    int r = step_play(instance, start->restore ? "restore" : "start", error);

    if (r < 0)
        return r;
    fake_step_done(&instance->run);
    r = fake_step_read(instance->view->spec->labels, "run", &instance->run, error);
    instance->remaining = instance->run.delay_ms * CLOCK_MILLISECOND;
    if (r >= 0 && start->restore && memory_load(instance) < 0)
        r = error_set(error, ERROR_NOT_FOUND, "saved memory of instance", instance->view->name);
    if (r >= 0 && start->ret_stream)
        r = fake_stream_new(instance->run.output, instance->run.code, start->ret_stream);
    return r;
}

static bool fake_saved(void *data, struct driver_instance *view, bool drop);

static int fake_start(void *data, struct driver_instance *view, const struct driver_start *start, struct error *error) {
    struct fake *fake = data;
    struct fake_instance *instance;
    int r = instance_of(fake, view, &instance);

    if (r >= 0)
        r = start_play(instance, start, error);
    if (r < 0)
        return r;
    instance->pid = fake->next_pid++;
    r = life_begin(instance, instance->remaining, error);
    if (r < 0)
        return r;
    instance->running = true;
    instance->paused = false;
    FAILPOINT("fake-started");
    (void) fake_saved(data, view, true);
    return 0;
}

struct saved_job {
    const char *path;
    bool drop;
};

static int saved_job_run(void *userdata) {
    const struct saved_job *job = userdata;

    if (job->drop)
        (void) unlink(job->path);
    return file_exists(AT_FDCWD, job->path);
}

static bool fake_saved(void *data _unused_, struct driver_instance *view, bool drop) {
    _cleanup_free_ char *path = memory_path(view);
    struct saved_job job = { .path = path, .drop = drop };

    return path && fiber_job(saved_job_run, &job) > 0;
}

static int fake_adopt(void *data, struct driver_instance *view, bool *ret_running, bool *ret_paused,
                      struct driver_exit *ret_exit, struct error *error) {
    struct fake *fake = data;
    struct fake_instance *instance;
    struct life life;
    int r = instance_of(fake, view, &instance);

    *ret_running = *ret_paused = false;
    if (r >= 0)
        r = step_play(instance, "adopt", error);
    if (r < 0)
        return r;
    r = life_read(view, &life);
    if (r <= 0)
        return r < 0 ? error_errno(error, r, "reading what it was") : 0;
    if (text_equal(life.state, "ended")) {
        *ret_exit = (struct driver_exit){ .code = life.code, .out_of_memory = life.oom };
        return 0;
    }
    r = fake_step_read(view->spec->labels, "run", &instance->run, error);
    if (r < 0)
        return r;
    instance->running = *ret_running = true;
    instance->paused = *ret_paused = text_equal(life.state, "paused");
    instance->pid = life.pid;
    if (fake->next_pid <= life.pid)
        fake->next_pid = life.pid + 1;
    if (instance->paused) {
        instance->remaining = life.ends; /* what was left then */
        return 0;
    }
    return life_begin(instance, life.ends > clock_now() ? life.ends - clock_now() : 0, error);
}

static int fake_stop(void *data, struct driver_instance *view, uint64_t timeout, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    /* A kill always succeeds, whatever the script says. */
    if (r >= 0 && timeout > 0)
        r = step_play(instance, "stop", error);
    if (r < 0 || !instance->running)
        return r;
    life_end(instance);
    ended(instance, timeout > 0 ? 0 : 137, false);
    return 0;
}

static int fake_signal(void *data, struct driver_instance *view, int number, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    (void) error;
    if (r >= 0 && instance->running && (number == 9 || number == 15)) {
        life_end(instance);
        ended(instance, 128 + number, false);
    }
    return r;
}

static int fake_pause(void *data, struct driver_instance *view, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    if (r >= 0)
        r = step_play(instance, "pause", error);
    if (r >= 0 && !instance->running)
        r = not_running(error);
    if (r < 0)
        return r;
    life_stop(instance);
    instance->ends = instance->remaining;
    r = life_write(instance, "paused", -1, false);
    if (r < 0)
        return error_errno(error, r, "pausing a fake instance");
    instance->paused = true;
    return 0;
}

static int fake_resume(void *data, struct driver_instance *view, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    if (r >= 0)
        r = step_play(instance, "resume", error);
    if (r >= 0 && !instance->running)
        r = not_running(error);
    if (r >= 0)
        r = life_begin(instance, instance->remaining, error);
    if (r >= 0)
        instance->paused = false;
    return r;
}

static int fake_suspend(void *data, struct driver_instance *view, struct error *error) {
    struct fake_instance *instance;
    uint64_t ends;
    int r = instance_of(data, view, &instance);

    if (r >= 0)
        r = step_play(instance, "suspend", error);
    if (r >= 0 && !instance->running)
        r = not_running(error);
    if (r < 0)
        return r;
    ends = instance->ends;
    if (!instance->paused)
        instance->remaining = ends > clock_now() ? ends - clock_now() : 0;
    r = memory_save(instance);
    FAILPOINT("fake-memory-saved");
    if (r < 0)
        return error_errno(error, r, "saving memory");
    r = file_remove_tree(AT_FDCWD, view->run_path);
    if (r < 0) { /* it runs on: that memory must never come back */
        (void) fake_saved(data, view, true);
        return error_errno(error, r, "suspending");
    }
    instance->running = instance->paused = false;
    life_end(instance);
    return 0;
}

static int fake_release(void *data _unused_, struct driver_instance *view, struct error *error) {
    struct fake_instance *instance = view->driver_data;
    int r = file_remove_tree(AT_FDCWD, view->run_path);

    if (r < 0)
        return error_errno(error, r, "removing %s", view->run_path);
    if (!instance)
        return 0;
    life_end(instance);
    fake_step_done(&instance->run);
    free(instance);
    view->driver_data = NULL;
    return 0;
}

static int fake_exec(void *data _unused_, struct driver_instance *view _unused_, const struct exec_request *request,
                     struct stream **ret, struct error *error) {
    _cleanup_free_ char *line = list_join(request->arguments, " ");
    _cleanup_free_ char *text = line ? text_format("%s\n", line) : NULL;
    int r = text ? fake_stream_new(text, 0, ret) : -ENOMEM;

    return r < 0 ? error_errno(error, r, "exec") : 0;
}

static int fake_attach(void *data _unused_, struct driver_instance *view, struct stream **ret, struct error *error) {
    struct fake_instance *instance = view->driver_data;
    int r = fake_stream_new(instance ? instance->run.output : NULL, instance ? instance->run.code : 0, ret);

    return r < 0 ? error_errno(error, r, "attach") : 0;
}

static void fake_facts(void *data _unused_, const struct driver_instance *view, struct driver_facts *ret) {
    const struct fake_instance *instance = view->driver_data;

    *ret = (struct driver_facts){ .pid = instance && instance->running ? instance->pid : 0, .agent_up = instance != NULL };
    if (instance && instance->running && instance->run.measured) {
        uint64_t most = instance_cpu_limit(view->spec);
        ret->measured = true;
        ret->cpu_us = (uint64_t) ((unsigned __int128) clock_now() * (instance->run.cpu < most ? instance->run.cpu : most) / 1000);
        ret->memory = instance->run.memory < view->spec->memory ? instance->run.memory : view->spec->memory;
    }
}

const struct driver fake_driver = {
    .name = "fake",
    .kinds = 1u << KIND_FAKE,
    .capabilities = DRIVER_PAUSE | DRIVER_SUSPEND | DRIVER_EXEC | DRIVER_ATTACH | DRIVER_CONSOLE | DRIVER_SIGNAL,
    .open = fake_open,
    .close = fake_close,
    .start = fake_start,
    .adopt = fake_adopt,
    .stop = fake_stop,
    .signal = fake_signal,
    .pause = fake_pause,
    .resume = fake_resume,
    .suspend = fake_suspend,
    .saved = fake_saved,
    .release = fake_release,
    .exec = fake_exec,
    .attach = fake_attach,
    .console = fake_attach,
    .facts = fake_facts,
};
