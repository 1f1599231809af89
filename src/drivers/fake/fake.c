// SPDX-License-Identifier: GPL-2.0-or-later
/* A driver without processes: instances exist in memory and behave as their labels say (script.h). It serves scenario
 * tests, demonstrations and load runs of ten thousand instances, so it keeps little per instance: a fiber only while a
 * script has something to wait for. A daemon restart finds them "running" again, as a real one would, unless their
 * script ended them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fiber.h"
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
    instance->fake->events->exited(instance->view, &report);
}

static int life_main(void *userdata) {
    struct fake_instance *instance = userdata;
    uint64_t now = clock_now();
    int r = instance->ends > now ? fiber_sleep(instance->ends - now) : 0;

    if (r >= 0 && instance->running) {
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

static int life_begin(struct fake_instance *instance, uint64_t after) {
    if (!instance->run.exits)
        return 0;
    instance->ends = clock_now() + after;
    return fiber_start(&instance->life, "fake", life_main, instance);
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

static int fake_start(void *data, struct driver_instance *view, const struct driver_start *start, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    if (r >= 0)
        r = step_play(instance, start->restore ? "restore" : "start", error);
    if (r < 0)
        return r;
    fake_step_done(&instance->run);
    r = fake_step_read(view->spec->labels, "run", &instance->run, error);
    if (r >= 0 && start->ret_stream)
        r = fake_stream_new(instance->run.output, instance->run.code, start->ret_stream);
    if (r < 0)
        return r;
    instance->running = true;
    instance->paused = false;
    instance->pid = ((struct fake *) data)->next_pid++;
    return life_begin(instance, start->restore && instance->remaining ? instance->remaining
                                                                      : instance->run.delay_ms * CLOCK_MILLISECOND);
}

static int fake_adopt(void *data, struct driver_instance *view, bool *ret_running, bool *ret_paused,
                      struct driver_exit *ret_exit, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    (void) ret_exit;
    if (r >= 0)
        r = fake_step_read(view->spec->labels, "run", &instance->run, error);
    if (r < 0)
        return r;
    instance->running = *ret_running = true;
    instance->paused = *ret_paused = false;
    instance->pid = ((struct fake *) data)->next_pid++;
    return life_begin(instance, instance->run.delay_ms * CLOCK_MILLISECOND);
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
    if (r < 0)
        return r;
    instance->paused = true;
    instance->remaining = instance->ends > clock_now() ? instance->ends - clock_now() : 0;
    life_end(instance);
    return 0;
}

static int fake_resume(void *data, struct driver_instance *view, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    if (r >= 0)
        r = step_play(instance, "resume", error);
    if (r < 0)
        return r;
    instance->paused = false;
    return life_begin(instance, instance->remaining);
}

static int fake_suspend(void *data, struct driver_instance *view, struct error *error) {
    struct fake_instance *instance;
    int r = instance_of(data, view, &instance);

    if (r >= 0)
        r = step_play(instance, "suspend", error);
    if (r < 0)
        return r;
    instance->remaining = instance->ends > clock_now() ? instance->ends - clock_now() : 0;
    instance->running = false;
    life_end(instance);
    return 0;
}

static int fake_release(void *data _unused_, struct driver_instance *view, struct error *error _unused_) {
    struct fake_instance *instance = view->driver_data;

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
    .release = fake_release,
    .exec = fake_exec,
    .attach = fake_attach,
    .console = fake_attach,
    .facts = fake_facts,
};
