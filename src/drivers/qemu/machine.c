// SPDX-License-Identifier: GPL-2.0-or-later
/* States of a machine: starting -> running <-> paused -> halted (the guest is off, QEMU still there) ->
 * ended (no process). What leads there: QMP events (halted, panicked), the agent's exit message, the end of
 * the process. The watcher fiber does the rest: it asks a halted QEMU to quit, waits for the process and
 * tells the manager.
 *
 * The exit of a microVM's main process is written to a file durably before the guest is told to forget it. */
#include "drivers/qemu/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "drivers/qemu/agent.h"
#include "drivers/qemu/arguments.h"
#include "drivers/qemu/display.h"
#include "drivers/qemu/guestrequest.h"
#include "drivers/qemu/identity.h"
#include "drivers/qemu/socket.h"
#include "drivers/qemu/watch.h"
#include "host/cgroup.h"

#define CONNECT_DEADLINE (30 * CLOCK_SECOND)
#define ADOPT_DEADLINE (3 * CLOCK_SECOND) /* who does not answer by then is taken over without */
#define RECONNECT_PAUSE (1 * CLOCK_SECOND)
#define QUIT_DEADLINE (10 * CLOCK_SECOND)
#define OFF_DEADLINE (30 * CLOCK_SECOND) /* between the acknowledged exit and the power-off */
#define SHARE_GRACE (1 * CLOCK_SECOND)
#define ERRORS_MAX 65536
#define ERROR_SHOWN 300
#define EXIT_NAME "exit.json"
#define EXIT_MAX 4096
#define CODE_KILLED 137
#define CODE_CRASHED 255

/* --- life ----------------------------------------------------------------------------------------------- */

static void machine_unlink(struct machine *machine) {
    for (struct machine **link = &machine->qemu->machines; *link; link = &(*link)->next)
        if (*link == machine) {
            *link = machine->next;
            return;
        }
}

static void machine_free(struct machine *machine) {
    machine_unlink(machine);
    qemu_unref(machine->qemu);
    for (unsigned i = 0; i < machine->share_count; i++)
        process_done(&machine->shares[i]);
    free(machine->shares);
    process_done(&machine->process);
    close_fd(machine->directory);
    close_fd(machine->errors);
    fiber_unref(machine->watcher);
    fiber_unref(machine->connector);
    if (machine->log)
        log_file_free(machine->log);
    free(machine->problem);
    free(machine->reason);
    free(machine->last_line);
    free(machine->waiters);
    free(machine);
}

void machine_unref(struct machine *machine) {
    if (--machine->references == 0)
        machine_free(machine);
}

int machine_new(struct qemu *qemu, struct driver_instance *instance, struct machine **ret,
                struct error *error) {
    _cleanup_(machine_unrefp) struct machine *machine = calloc(1, sizeof(*machine));
    struct cgroup_usage usage;

    if (!machine)
        return error_errno(error, -ENOMEM, "starting QEMU");
    machine->references = 1;
    machine->qemu = qemu;
    qemu->references++;
    machine->instance = instance;
    machine->process = (struct process) PROCESS_INIT;
    machine->errors = -EBADF;
    machine->exit_code = -1;
    machine->next = qemu->machines;
    qemu->machines = machine;
    machine->directory = open(instance->run_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (machine->directory < 0)
        return error_errno(error, -errno, "opening %s", instance->run_path);
    if (instance->cgroup && cgroup_usage(instance->cgroup, &usage) >= 0)
        machine->kills_before = usage.oom_kills;
    *ret = STEAL_PTR(machine);
    return 0;
}

void machine_detach(struct machine *machine) {
    machine->quiet = true;
    display_free(STEAL_PTR(machine->display));
    qmp_free(STEAL_PTR(machine->qmp));
    guestport_free(STEAL_PTR(machine->port));
    agent_free(STEAL_PTR(machine->agent));
    console_free(STEAL_PTR(machine->console));
    fiber_cancel(machine->watcher);
    fiber_cancel(machine->connector);
}

static void machine_changed(struct machine *machine) {
    fiber_queue_wake_all(&machine->changed);
}

void machine_mark(const struct machine *machine, const char *what) {
    uint64_t now = clock_now();

    log_debug("instance '%s': %s, %llu.%06llu s after boot", machine->instance->name, what,
              (unsigned long long) (now / CLOCK_SECOND), (unsigned long long) (now % CLOCK_SECOND));
}

void machine_status_changed(struct machine *machine) {
    const struct driver_events *events = machine->qemu->context.events;

    if (!machine->quiet && !machine->ended && events && events->changed)
        events->changed(machine->instance);
}

/* --- the exit file -------------------------------------------------------------------------------------- */

static char *exit_path(const struct driver_instance *instance) {
    return text_format("%s/" EXIT_NAME, instance->state_path);
}

struct exit_job {
    const char *path;
    const struct buffer *text;
};

static int exit_job_run(void *userdata) {
    const struct exit_job *job = userdata;

    return file_write_atomic(AT_FDCWD, job->path, job->text->data, job->text->size, 0600, true);
}

int exit_write(const struct driver_instance *instance, int code, const char *problem) {
    _cleanup_buffer_ struct buffer out = BUFFER_INIT;
    _cleanup_free_ char *path = exit_path(instance);
    struct emitter emitter = EMITTER_INIT(&out);
    struct exit_job job = { .path = path, .text = &out };

    emit_object(&emitter);
    emit_key_integer(&emitter, "code", code);
    if (problem)
        emit_key_text(&emitter, "problem", problem);
    emit_object_end(&emitter);
    return !path || out.failed ? -ENOMEM : fiber_job(exit_job_run, &job);
}

struct read_job {
    const char *path;
    char *text;
    size_t size;
};

static int read_job_run(void *userdata) {
    struct read_job *job = userdata;

    return file_read(AT_FDCWD, job->path, EXIT_MAX, &job->text, &job->size);
}

bool exit_read(const struct driver_instance *instance, int *ret_code, char **ret_problem) {
    _cleanup_json_ struct json_object *json = NULL;
    _cleanup_free_ char *path = exit_path(instance), *text = NULL;
    struct read_job job = { .path = path };
    const char *problem;
    int r = path ? fiber_job(read_job_run, &job) : -ENOMEM;

    text = job.text;
    if (r < 0 || json_parse(text, job.size, &json, NULL) < 0)
        return false;
    problem = json_text(json, "problem", NULL);
    *ret_code = (int) json_integer(json, "code", -1);
    *ret_problem = problem ? strdup(problem) : NULL;
    return true;
}

void exit_remove(const struct driver_instance *instance) {
    _cleanup_free_ char *path = exit_path(instance);

    if (path)
        (void) unlink(path);
}

/* --- what QEMU tells ------------------------------------------------------------------------------------ */

struct event_row {
    const char *name;
    void (*handle)(struct machine *machine, struct json_object *data);
};

static void on_shutdown(struct machine *machine, struct json_object *data) {
    const char *reason = json_text(data, "reason", "");

    machine->halted = true;
    if (text_equal(reason, "guest-panic"))
        machine->panicked = true;
    if (text_equal(reason, "guest-reset"))
        machine->restarted = true;
}

static void on_stop(struct machine *machine, struct json_object *data _unused_) {
    machine->paused = true;
}

static void on_resume(struct machine *machine, struct json_object *data _unused_) {
    machine->paused = false;
    machine->starved = false;
}

/* Other errors of a disk are told to the guest; for want of space QEMU stops it, and repeats the write
 * later. */
static void on_disk_error(struct machine *machine, struct json_object *data) {
    if (!text_equal(json_text(data, "action", ""), "stop"))
        return;
    machine->starved = true;
    watch_starved(machine);
}

/* The machine stands still now, as after a shutdown. */
static void on_panic(struct machine *machine, struct json_object *data _unused_) {
    machine->panicked = true;
    machine->halted = true;
}

static void on_migration(struct machine *machine, struct json_object *data) {
    const char *status = json_text(data, "status", "");

    if (text_equal(status, "completed"))
        machine->migrated = true;
    if (text_equal(status, "failed") || text_equal(status, "cancelled"))
        machine->migration_failed = true;
}

static const struct event_row event_rows[] = {
    { "SHUTDOWN", on_shutdown },       { "STOP", on_stop },           { "RESUME", on_resume },
    { "GUEST_PANICKED", on_panic },    { "MIGRATION", on_migration }, { "BLOCK_IO_ERROR", on_disk_error },
};

static void on_event(const char *name, struct json_object *data, void *userdata) {
    struct machine *machine = userdata;

    for (size_t i = 0; i < ELEMENTS(event_rows); i++)
        if (text_equal(name, event_rows[i].name)) {
            event_rows[i].handle(machine, data);
            machine_changed(machine);
        }
}

static int control_connect(struct machine *machine, uint64_t deadline, struct error *error);

/* QMP broke while QEMU lives: try again until it works or QEMU is gone. The machine itself is left alone. */
static int connector_main(void *userdata) {
    _cleanup_(machine_unrefp) struct machine *machine = userdata;

    while (!machine->ended && !qmp_is_open(machine->qmp)) {
        if (fiber_sleep(RECONNECT_PAUSE) < 0)
            break;
        if (!machine->ended)
            (void) control_connect(machine, deadline_in(CONNECT_DEADLINE), NULL);
    }
    return 0;
}

static void connector_start(struct machine *machine) {
    if (machine->ended || (machine->connector && !fiber_is_done(machine->connector)))
        return;
    fiber_unref(machine->connector);
    machine->connector = NULL;
    if (fiber_start(&machine->connector, "qmp-again", connector_main, machine) >= 0)
        machine->references++;
}

static void on_closed(void *userdata) {
    connector_start(userdata);
}

void machine_reconnect(struct machine *machine) {
    if (!machine->quiet && !qmp_is_open(machine->qmp))
        connector_start(machine);
}

static const struct qmp_handlers qmp_handlers = { .event = on_event, .closed = on_closed };

/* The console starts as output only, which a command line can say; input joins here. */
static int console_join(struct machine *machine, uint64_t deadline) {
    _cleanup_free_ char *arguments =
            text_format("{\"id\":\"console\",\"backend\":{\"type\":\"file\",\"data\":{\"in\":\"/dev/fdset/"
                        "%d\",\"out\":\"/dev/fdset/%d\","
                        "\"append\":true}}}",
                        MACHINE_FD_CONSOLE_IN, MACHINE_FD_CONSOLE_OUT);

    if (!qmp_is_open(machine->qmp))
        return -ENOTCONN;
    return arguments ? qmp_call(machine->qmp, "chardev-change", arguments, -1, deadline, NULL, NULL)
                     : -ENOMEM;
}

static void status_take(struct machine *machine, const char *status) {
    machine->paused = text_equal(status, "paused");
    machine->starved = text_equal(status, "io-error");
    if (text_equal(status, "shutdown") || text_equal(status, "guest-panicked") ||
        text_equal(status, "internal-error")) {
        machine->halted = true;
        machine->panicked = text_equal(status, "guest-panicked");
        machine_changed(machine);
    }
}

static int control_connect(struct machine *machine, uint64_t deadline, struct error *error) {
    _cleanup_json_ struct json_object *status = NULL;
    int fd = socket_connect(machine->directory, "qmp.sock"), r;

    if (fd < 0)
        return error_errno(error, fd, "connecting to QEMU");
    qmp_free(STEAL_PTR(machine->qmp));
    r = qmp_open_take(fd, &qmp_handlers, machine, deadline, &machine->qmp, error);
    if (r < 0)
        return r;
    r = qmp_call(machine->qmp, "query-status", NULL, -1, deadline, &status, error);
    if (r < 0)
        return r;
    status_take(machine, json_text(status, "status", ""));
    (void) console_join(machine, deadline);
    return 0;
}

int machine_call(struct machine *machine, const char *command, const char *arguments,
                 struct json_object **ret, struct error *error) {
    if (!qmp_is_open(machine->qmp))
        return error_set(error, ERROR_BUSY, "QEMU", "it does not answer");
    return qmp_call(machine->qmp, command, arguments, -1, deadline_in(QMP_DEADLINE), ret, error);
}

int machine_ask(struct machine *machine, const char *command, uint64_t deadline) {
    uint64_t usual = deadline_in(QMP_DEADLINE);

    if (!qmp_is_open(machine->qmp))
        return -ENOTCONN;
    return qmp_call(machine->qmp, command, NULL, -1, deadline < usual ? deadline : usual, NULL, NULL);
}

/* --- what the guest tells ------------------------------------------------------------------------------- */

/* Stores the exit durably, lets the guest forget it, and makes sure that the machine ends. */
static int exit_main(void *userdata) {
    _cleanup_(machine_unrefp) struct machine *machine = userdata;
    int r = exit_write(machine->instance, machine->exit_code, machine->problem);

    FAILPOINT("qemu-exit-written");
    if (r < 0) /* the guest keeps it and tells it again after the next hello */
        log_warning("the exit of %s cannot be kept: %s", machine->instance->name, strerror(-r));
    else if (machine->port)
        (void) guestport_acknowledge(machine->port);
    machine_mark(machine, "its exit is acknowledged");
    if (machine_wait_end(machine, deadline_in(OFF_DEADLINE)) == -ETIMEDOUT)
        (void) process_signal(&machine->process, SIGKILL);
    machine->busy--;
    machine_changed(machine);
    return 0;
}

static void on_guest_exited(int code, const char *problem, void *userdata) {
    struct machine *machine = userdata;

    if (machine->exit_known) {
        /* Told again after a break: our acknowledgement was lost. */
        (void) guestport_acknowledge(machine->port);
        return;
    }
    machine_mark(machine, "the guest told its exit");
    machine->exit_known = true;
    machine->exit_code = code;
    machine->problem = problem ? text_escape(problem, strlen(problem), false) : NULL;
    if (fiber_start(NULL, "guest-exit", exit_main, machine) >= 0) {
        machine->references++;
        machine->busy++;
    }
    machine_changed(machine);
}

static void on_guest_output(enum stream_channel channel, const void *data, size_t size, void *userdata) {
    struct machine *machine = userdata;

    if (machine->log)
        log_file_add(machine->log, channel, data, size);
}

/* The daemon that started the machine died before it told the guest what to run. */
static void guest_start_late(struct machine *machine) {
    _cleanup_free_ char *request = NULL;

    if (guest_start_request(machine->instance, machine->qemu->context.network, NULL, &request) < 0 ||
        guestport_start(machine->port, request) < 0)
        log_warning("the guest of %s cannot be told what to run", machine->instance->name);
}

static void on_guest_ready(bool started, void *userdata) {
    struct machine *machine = userdata;

    if (!started && machine->adopted)
        guest_start_late(machine);
    machine_mark(machine, "the guest answers");
    machine_changed(machine);
    machine_status_changed(machine);
}

static const struct guestport_handlers port_handlers = {
    .ready = on_guest_ready,
    .output = on_guest_output,
    .exited = on_guest_exited,
};

static void on_serial_output(const void *data, size_t size, void *userdata) {
    struct machine *machine = userdata;

    if (machine->log)
        log_file_add(machine->log, STREAM_OUTPUT, data, size);
}

static void on_agent_changed(void *userdata) {
    machine_status_changed(userdata);
}

/* --- the end -------------------------------------------------------------------------------------------- */

/* The last line that QEMU wrote to its standard error, escaped; NULL if none. */
static char *errors_last_line(struct machine *machine) {
    _cleanup_free_ char *text = malloc(ERRORS_MAX);
    ssize_t size = 0, start;

    if (!text || machine->errors < 0)
        return NULL;
    size = read(machine->errors, text, ERRORS_MAX);
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == ' '))
        size--;
    if (size <= 0)
        return NULL;
    for (start = size; start > 0 && text[start - 1] != '\n' && size - start < ERROR_SHOWN; start--)
        ;
    return text_escape(text + start, (size_t) (size - start), false);
}

static bool was_out_of_memory(struct machine *machine) {
    struct cgroup_usage usage;

    return !machine->killing && machine->instance->cgroup &&
           cgroup_usage(machine->instance->cgroup, &usage) >= 0 && usage.oom_kills > machine->kills_before;
}

static char *text_copy(const char *text) {
    return text ? strdup(text) : NULL;
}

static char *reason_with(const char *sentence, char *detail_take) {
    _cleanup_free_ char *detail = detail_take;

    return detail ? text_format("%s: %s", sentence, detail) : strdup(sentence);
}

static char *reason_of_kill(const struct machine *machine, bool is_vm) {
    _cleanup_free_ char *time = machine->overdue > 0 ? text_format_duration(machine->overdue) : NULL;

    if (!time)
        return strdup("it was killed");
    return text_format(is_vm ? "the guest did not shut down within %s: its power was cut" : "it did not end within %s and was killed",
                       time);
}

static void exit_of_crash(struct machine *machine, struct driver_exit *ret, char **ret_reason) {
    _cleanup_free_ char *sentence = NULL;

    if (machine->status > 128)
        sentence = text_format("QEMU was killed by signal %d", machine->status - 128);
    else
        sentence = text_format("QEMU ended with status %d", machine->status);
    ret->code = machine->status > 0 ? machine->status : CODE_CRASHED;
    *ret_reason = sentence ? reason_with(sentence, errors_last_line(machine)) : NULL;
}

void machine_exit(struct machine *machine, struct driver_exit *ret, char **ret_reason) {
    bool is_vm = machine->instance->assigned->kind == KIND_VM;

    *ret = (struct driver_exit){ .code = CODE_CRASHED };
    *ret_reason = NULL;
    if (machine->exit_known) {
        ret->code = machine->exit_code;
        *ret_reason = machine->problem ? strdup(machine->problem) : NULL;
    } else if (machine->panicked) {
        *ret_reason = reason_with("the guest's kernel panicked", text_copy(machine->last_line));
    } else if (machine->halted && is_vm) {
        ret->code = 0;
    } else if (machine->halted) {
        *ret_reason =
                reason_with("the guest stopped before its command ended", text_copy(machine->last_line));
    } else if (machine->killing) {
        ret->code = CODE_KILLED;
        *ret_reason = reason_of_kill(machine, is_vm);
    } else if (was_out_of_memory(machine)) {
        ret->code = CODE_KILLED;
        ret->out_of_memory = true;
        *ret_reason = strdup("the kernel killed QEMU because the instance's memory was used up");
    } else if (machine->status < 0) {
        ret->code = -1;
        *ret_reason = strdup("QEMU ended; why is not known, since this polderd did not start it");
    } else {
        exit_of_crash(machine, ret, ret_reason);
    }
    ret->reason = *ret_reason;
}

static void exit_tell(struct machine *machine) {
    const struct driver_events *events = machine->qemu->context.events;
    _cleanup_free_ char *reason = NULL;
    struct driver_exit exit;

    if (machine->told || machine->quiet || !events || !events->exited)
        return;
    machine->told = true;
    machine_exit(machine, &exit, &reason);
    events->exited(machine->instance, &exit);
}

static void tell_deferred(void *userdata) {
    _cleanup_(machine_unrefp) struct machine *machine = userdata;

    exit_tell(machine);
}

/* Not from inside the call that made it speak. */
void machine_tell_late(struct machine *machine) {
    if (!machine->ended || machine->told)
        return;
    if (loop_defer(tell_deferred, machine) >= 0)
        machine->references++;
}

/* QEMU stands still after the guest's end; its files are written out when it quits. */
static void halted_quit(struct machine *machine) {
    int r = -ENOTCONN;

    if (qmp_is_open(machine->qmp))
        r = qmp_call(machine->qmp, "quit", NULL, -1, deadline_in(QUIT_DEADLINE), NULL, NULL);
    if (r >= 0 || r == -ECONNRESET)
        r = process_wait(&machine->process, deadline_in(QUIT_DEADLINE), &machine->status);
    if (r < 0)
        (void) process_signal(&machine->process, SIGKILL);
}

static int halted_main(void *userdata) {
    _cleanup_(machine_unrefp) struct machine *machine = userdata;

    while (!machine->halted && !machine->ended)
        if (fiber_queue_wait(&machine->changed, DEADLINE_NONE) < 0)
            return -ECANCELED;
    if (!machine->ended)
        halted_quit(machine);
    return 0;
}

void machine_end_shares(struct machine *machine) {
    for (unsigned i = 0; i < machine->share_count; i++) {
        if (process_wait(&machine->shares[i], deadline_in(SHARE_GRACE), NULL) < 0)
            (void) process_end(&machine->shares[i], 0);
        process_done(&machine->shares[i]);
    }
    machine->share_count = 0;
}

static void machine_ended(struct machine *machine) {
    machine_mark(machine, "QEMU ended");
    machine_end_shares(machine);
    if (machine->console)
        console_drain(machine->console);
    if (machine->console)
        machine->last_line = console_last_line(machine->console);
    machine->ended = true;
    machine->paused = false;
    (void) identity_remove(machine->directory);
    display_free(STEAL_PTR(machine->display));
    qmp_free(STEAL_PTR(machine->qmp));
    guestport_free(STEAL_PTR(machine->port));
    agent_free(STEAL_PTR(machine->agent));
    exit_tell(machine);
    console_free(STEAL_PTR(machine->console));
    machine_changed(machine);
}

static int watcher_main(void *userdata) {
    _cleanup_(machine_unrefp) struct machine *machine = userdata;
    _cleanup_fiber_ struct fiber *quitter = NULL;
    int status = -1, r;

    /* Without it a machine whose guest ended would stand there for ever. */
    while ((r = fiber_start(&quitter, "halted", halted_main, machine)) < 0 && process_is_alive(&machine->process))
        if (fiber_sleep(PROCESS_SHORTAGE_PAUSE) < 0)
            break;
    if (r >= 0)
        machine->references++;
    r = process_wait(&machine->process, DEADLINE_NONE, &status);
    if (quitter)
        fiber_cancel(quitter);
    if (r < 0)
        return r;
    if (machine->status < 0)
        machine->status = status;
    machine_ended(machine);
    return 0;
}

int machine_wait_end(struct machine *machine, uint64_t deadline) {
    int r = 0;

    while (r >= 0 && !machine->ended)
        r = fiber_queue_wait(&machine->changed, deadline);
    return machine->ended ? 0 : r;
}

int machine_kill(struct machine *machine, uint64_t deadline) {
    int r;

    fiber_shield();
    machine->killing = true;
    (void) process_signal(&machine->process, SIGKILL);
    r = machine->watcher ? machine_wait_end(machine, deadline) : process_end(&machine->process, 0);
    fiber_unshield();
    return r;
}

int machine_failure(struct machine *machine, struct error *error) {
    _cleanup_free_ char *reason = NULL;
    struct driver_exit exit;

    machine_exit(machine, &exit, &reason);
    return error_set(error, ERROR_INTERNAL, "the start of the machine", reason ? reason : "QEMU ended");
}

/* --- connecting ----------------------------------------------------------------------------------------- */

struct budget *machine_budget(struct machine *machine) {
    return machine->port ? guestport_budget(machine->port) : machine->agent ? agent_budget(machine->agent) : NULL;
}

void machine_budget_set(struct machine *machine) {
    const struct instance_spec *spec = machine->instance->spec;
    struct budget *budget = machine_budget(machine);

    if (budget)
        budget_set(budget, spec->priority, (uint64_t) spec->control_rate);
}

static int guest_connect(struct machine *machine) {
    int r = machine->instance->assigned->kind == KIND_MICROVM
                ? guestport_new(machine->directory, "guest.sock", &port_handlers, machine, &machine->port)
                : agent_new(machine->directory, "guest.sock", on_agent_changed, machine, &machine->agent);

    if (r >= 0)
        machine_budget_set(machine);
    return r;
}

/* What is broken for good does not keep a machine from being taken over; what is short will be there later. */
static bool is_in_the_way(int r, bool adopted) {
    return r < 0 && (!adopted || r == -ENOMEM || r == -EMFILE || r == -ENFILE);
}

int machine_connect(struct machine *machine, bool adopted, struct error *error) {
    bool is_vm = machine->instance->assigned->kind == KIND_VM;
    int r;

    machine->status = -1;
    machine->adopted = adopted;
    r = fiber_start(&machine->watcher, "qemu", watcher_main, machine);
    if (r < 0)
        return error_errno(error, r, "watching QEMU");
    machine->references++;
    /* Without a log the machine runs all the same: a full disk must not stop it. */
    (void) log_file_open(machine->instance->state_path, machine->instance->spec->log_size, &machine->log);
    r = console_open(machine->directory, is_vm ? on_serial_output : NULL, machine, &machine->console);
    if (is_in_the_way(r, adopted))
        return error_errno(error, r, "opening the console");
    r = is_vm && machine->instance->spec->graphics ? display_open(machine, &machine->display) : 0;
    if (is_in_the_way(r, adopted))
        return error_errno(error, r, "listening for VNC viewers");
    r = guest_connect(machine);
    if (r < 0)
        return error_errno(error, r, "connecting to the guest");
    watch_begin(machine->qemu);
    r = control_connect(machine, deadline_in(adopted ? ADOPT_DEADLINE : CONNECT_DEADLINE),
                        adopted ? NULL : error);
    if (r >= 0)
        return 0;
    if (!adopted)
        return r;
    /* A QEMU that does not answer now is no reason to touch it. */
    watch_give_up(machine);
    connector_start(machine);
    return 0;
}
