// SPDX-License-Identifier: GPL-2.0-or-later
/* STATE_PATH/memory holds QEMU's migration stream, STATE_PATH/memory.json what machine it belongs to. The
 * JSON is written last, durably: without it the memory does not exist. */
#include "drivers/qemu/suspend.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

/* Counts changes of the command line that a saved machine does not survive. */
#define MACHINE_VERSION 1
#define MIGRATION_DEADLINE (30 * 60 * CLOCK_SECOND)
#define NOTE_MAX 4096
#define FD_NAME "memory"

static char *memory_path(const struct driver_instance *instance, const char *suffix) {
    return text_format("%s/memory%s", instance->state_path, suffix);
}

static int unlink_job(void *userdata) {
    return unlink(userdata) < 0 ? -errno : 0;
}

void suspend_remove(const struct driver_instance *instance) {
    _cleanup_free_ char *note = memory_path(instance, ".json"), *data = memory_path(instance, "");

    if (note)
        (void) fiber_job(unlink_job, note);
    if (data)
        (void) fiber_job(unlink_job, data);
}

static int exists_job(void *userdata) {
    return file_exists(AT_FDCWD, userdata);
}

bool suspend_saved(const struct driver_instance *instance) {
    _cleanup_free_ char *note = memory_path(instance, ".json");

    return note && fiber_job(exists_job, note) > 0;
}

/* --- the note ------------------------------------------------------------------------------------------- */

struct note_job {
    const char *path;
    const struct buffer *text;
};

static int note_job_run(void *userdata) {
    const struct note_job *job = userdata;

    return file_write_atomic(AT_FDCWD, job->path, job->text->data, job->text->size, 0600, true);
}

static int note_write(const struct machine *machine) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_free_ char *path = memory_path(machine->instance, ".json");
    struct emitter emitter = EMITTER_INIT(&out);
    struct note_job job = { .path = path, .text = &out };

    emit_object(&emitter);
    emit_key_integer(&emitter, "version", MACHINE_VERSION);
    emit_key_boolean(&emitter, "kvm", machine->qemu->kvm);
    emit_key_unsigned(&emitter, "memory", machine->boot_memory);
    emit_key_unsigned(&emitter, "cpus", machine->boot_cpus);
    emit_object_end(&emitter);
    return !path || out.failed ? -ENOMEM : fiber_job(note_job_run, &job);
}

int suspend_note_read(const struct driver_instance *instance, struct suspend_note *ret, struct error *error) {
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_free_ char *path = memory_path(instance, ".json"), *text = NULL;
    int64_t memory, cpus;
    size_t size;

    if (!path || file_read(AT_FDCWD, path, NOTE_MAX, &text, &size) < 0 ||
        json_parse(text, size, &json, NULL) < 0)
        return error_set(error, ERROR_NOT_FOUND, "saved memory of instance", instance->name);
    memory = json_integer(json, "memory", 0);
    cpus = json_integer(json, "cpus", 0);
    if (json_integer(json, "version", 0) != MACHINE_VERSION || memory <= 0 || cpus <= 0 || cpus > INT32_MAX)
        return error_set(error, ERROR_INTERNAL, "restoring its memory",
                         "it was saved by an incompatible version of Polder");
    *ret = (struct suspend_note){ .memory = (uint64_t) memory, .cpus = (unsigned) cpus };
    return 0;
}

/* --- migration to and from a file ----------------------------------------------------------------------- */

static int capabilities_set(struct machine *machine, struct error *error) {
    int r = machine_call(machine, "migrate-set-capabilities",
                         "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}", NULL, error);

    return r < 0 ? r : machine_call(machine, "migrate-set-parameters", "{\"max-bandwidth\":0}", NULL, error);
}

/* Asks too, because an event may be lost with its connection. */
static int migration_poll(struct machine *machine) {
    _cleanup_json_ struct json_object *info = NULL;
    const char *status;

    if (machine_call(machine, "query-migrate", NULL, &info, NULL) < 0)
        return 0;
    status = json_text(info, "status", "");
    if (text_equal(status, "completed"))
        machine->migrated = true;
    if (text_equal(status, "failed") || text_equal(status, "cancelled"))
        machine->migration_failed = true;
    return 0;
}

static int migration_wait(struct machine *machine, struct error *error) {
    uint64_t deadline = deadline_in(MIGRATION_DEADLINE);
    int r = 0;

    while (!machine->migrated && !machine->migration_failed && !machine->ended) {
        r = fiber_queue_wait(&machine->changed, deadline_in(CLOCK_SECOND));
        if (r == -ETIMEDOUT && clock_now() < deadline)
            r = migration_poll(machine);
        if (r < 0)
            return error_errno(error, r, "moving memory");
    }
    if (machine->migrated)
        return 0;
    if (machine->ended)
        return machine_failure(machine, error);
    return error_set(error, ERROR_INTERNAL, "moving memory", "QEMU could not do it");
}

static int migration_run(struct machine *machine, const char *command, int fd, struct error *error) {
    int r;

    if (!qmp_is_open(machine->qmp))
        return error_set(error, ERROR_BUSY, "QEMU", "it does not answer");
    machine->migrated = machine->migration_failed = false;
    r = capabilities_set(machine, error);
    if (r >= 0)
        r = qmp_call(machine->qmp, "getfd", "{\"fdname\":\"" FD_NAME "\"}", fd, deadline_in(QMP_DEADLINE),
                     NULL, error);
    if (r >= 0)
        r = machine_call(machine, command, "{\"uri\":\"fd:" FD_NAME "\"}", NULL, error);
    return r < 0 ? r : migration_wait(machine, error);
}

static int sync_job(void *userdata) {
    return fdatasync(*(int *) userdata) < 0 ? -errno : 0;
}

/* --- suspend -------------------------------------------------------------------------------------------- */

static int create_job(void *userdata) {
    int fd = open(userdata, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    return fd < 0 ? -errno : fd;
}

static int memory_save(struct machine *machine, struct error *error) {
    _cleanup_free_ char *path = memory_path(machine->instance, "");
    _cleanup_close_ int fd = -EBADF;
    int r;

    suspend_remove(machine->instance);
    if (!path)
        return error_errno(error, -ENOMEM, "saving memory");
    fd = fiber_job(create_job, path);
    if (fd < 0)
        return error_errno(error, fd, "saving memory");
    r = migration_run(machine, "migrate", fd, error);
    if (r < 0)
        return r;
    FAILPOINT("qemu-memory-saved");
    r = fiber_job(sync_job, &fd);
    if (r >= 0)
        r = note_write(machine);
    return r < 0 ? error_errno(error, r, "saving memory") : 0;
}

/* The guest goes on, whatever was tried: what does not answer now does it later. */
static void suspend_undo(struct machine *machine, bool saved, bool was_paused) {
    fiber_shield();
    if (saved)
        (void) machine_call(machine, "migrate_cancel", NULL, NULL, NULL);
    if (!was_paused)
        (void) machine_call(machine, "cont", NULL, NULL, NULL);
    if (saved)
        suspend_remove(machine->instance);
    fiber_unshield();
}

int suspend_machine(struct machine *machine, struct error *error) {
    bool was_paused = machine->paused;
    int r = machine_boot_sizes(machine, error);
    bool stands;

    if (r < 0)
        return r; /* nothing was begun */
    r = machine_call(machine, "stop", NULL, NULL, error);
    stands = r >= 0;

    if (stands)
        r = memory_save(machine, error);
    if (r < 0) {
        suspend_undo(machine, stands, was_paused);
        return r;
    }
    machine->quiet = true;
    fiber_shield();
    /* The disks were written out before the migration completed. */
    if (machine_call(machine, "quit", NULL, NULL, NULL) < 0 ||
        machine_wait_end(machine, deadline_in(QMP_DEADLINE)) < 0)
        (void) machine_kill(machine, DEADLINE_NONE);
    fiber_unshield();
    return 0;
}

int suspend_load(struct machine *machine, struct error *error) {
    _cleanup_free_ char *path = memory_path(machine->instance, "");
    _cleanup_close_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -ENOMEM;
    int r;

    if (fd < 0)
        return error_errno(error, path ? -errno : -ENOMEM, "opening the saved memory");
    r = migration_run(machine, "migrate-incoming", fd, error);
    if (r < 0)
        return r;
    r = machine_call(machine, "cont", NULL, NULL, error);
    if (r < 0)
        return r;
    FAILPOINT("qemu-memory-loaded");
    /* From here on the disk changes, so this memory must never be used again. */
    suspend_remove(machine->instance);
    return 0;
}
