// SPDX-License-Identifier: GPL-2.0-or-later
/* The driver for microVMs and VMs: each slot of struct driver in a few lines over machine.c and its parts. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "drivers/driver.h"
#include "drivers/qemu/agent.h"
#include "drivers/qemu/check.h"
#include "drivers/qemu/display.h"
#include "drivers/qemu/guestrequest.h"
#include "drivers/qemu/identity.h"
#include "drivers/qemu/launch.h"
#include "drivers/qemu/machine.h"
#include "drivers/qemu/suspend.h"
#include "host/cgroup.h"
#include "host/facts.h"
#include "network/network.h"
#include "storage/storage.h"

#define PROGRAM "/usr/bin/qemu-system-x86_64"
#define BOOT_DEADLINE (180 * CLOCK_SECOND) /* an emulated guest on a loaded host */
#define RESTORED_DEADLINE (10 * CLOCK_SECOND)
#define KILLED_DEADLINE (5 * CLOCK_SECOND) /* from SIGKILL inside to the guest's power-off */
#define HALTED_DEADLINE (30 * CLOCK_SECOND)
#define KILL_DEADLINE (20 * CLOCK_SECOND) /* from SIGKILL to the end; what waits for the host's storage takes longer */
#define POWER_AGAIN (3 * CLOCK_SECOND)     /* a booting guest does not see the first press */

static struct machine *machine_of(const struct driver_instance *instance) {
    struct machine *machine = instance->driver_data;

    return machine && !machine->ended ? machine : NULL;
}

static int no_machine(struct error *error) {
    return error_set(error, ERROR_GUEST, "the machine does not run");
}

/* The way to its guest is made while it starts or is taken over, and not at all without memory or descriptors. */
static int guest_check(const struct machine *machine, struct error *error) {
    return machine->port || machine->agent ? 0 : error_set(error, ERROR_GUEST, "there is no way to its agent yet");
}

static bool is_vm(const struct driver_instance *instance) {
    return instance->assigned->kind == KIND_VM;
}

/* --- the driver itself ---------------------------------------------------------------------------------- */

static int tsc_job(void *userdata) {
    *(uint64_t *) userdata = host_measure_tsc_khz();
    return 0;
}

void qemu_unref(struct qemu *qemu) {
    if (--qemu->references > 0)
        return;
    fiber_unref(qemu->warming);
    fiber_unref(qemu->watching);
    free(qemu->kvm_reason);
    free(qemu);
}

static void qemu_unrefp(struct qemu **qemu) {
    qemu_unref(*qemu);
}

static int warming_main(void *userdata) {
    _cleanup_(qemu_unrefp) struct qemu *qemu = userdata;
    struct host_facts facts = { 0 };

    host_probe_kvm(&facts, qemu->context.run_path, qemu->context.libexec_path);
    qemu->kvm = facts.kvm_usable;
    qemu->kvm_reason = STEAL_PTR(facts.kvm_reason);
    host_facts_done(&facts);
    (void) fiber_job(tsc_job, &qemu->tsc_khz);
    return 0;
}

static int driver_open(const struct driver_context *context, void **ret_data, struct error *error) {
    struct qemu *qemu = calloc(1, sizeof(*qemu));
    int r;

    if (!qemu)
        return error_errno(error, -ENOMEM, "opening the QEMU driver");
    qemu->references = 2;
    qemu->context = *context;
    r = fiber_start(&qemu->warming, "qemu-warm", warming_main, qemu);
    if (r < 0) {
        free(qemu);
        return error_errno(error, r, "opening the QEMU driver");
    }
    *ret_data = qemu;
    return 0;
}

static void driver_close(void *data) {
    struct qemu *qemu = data;

    /* Machines that their instances were not released from run on. */
    for (struct machine *machine = qemu->machines; machine; machine = machine->next) {
        if (machine->released)
            continue;
        machine_detach(machine);
        machine->instance->driver_data = NULL;
    }
    fiber_cancel(qemu->warming);
    if (qemu->watching)
        fiber_cancel(qemu->watching);
    qemu_unref(qemu);
}

static int driver_available(void *data _unused_, enum kind kind, struct error *error) {
    if (access(PROGRAM, X_OK) < 0)
        return error_set(error, ERROR_HOST_LACKS, PROGRAM, "install the package qemu-system-x86");
    if (kind == KIND_VM && access("/usr/share/seabios/bios-256k.bin", R_OK) < 0)
        return error_set(error, ERROR_HOST_LACKS, "SeaBIOS", "install the package seabios");
    return 0;
}

/* --- start ---------------------------------------------------------------------------------------------- */

static int begin_microvm(struct machine *machine, const struct driver_start *start, struct error *error) {
    _cleanup_free_ char *request = NULL;
    struct stream *stream = NULL;
    int r = guestport_wait_ready(machine->port, deadline_in(BOOT_DEADLINE));

    if (machine->ended)
        return machine_failure(machine, error);
    if (r == -ETIMEDOUT)
        return error_set(error, ERROR_TIMEOUT, "booting the microVM", "180 seconds");
    if (r < 0)
        return error_errno(error, r, "booting the microVM");
    /* Not earlier: it tells the time, and a boot takes some. */
    r = guest_start_request(machine->instance, machine->qemu->context.network, start->terminal, &request);
    if (r < 0)
        return error_errno(error, r, "describing the instance to its guest");
    if (start->ret_stream) {
        r = guestport_attach(machine->port, &stream, error);
        if (r < 0)
            return r;
    }
    r = guestport_start(machine->port, request);
    if (r < 0) {
        stream_free(stream);
        return r == -E2BIG ? error_set(error, ERROR_TOO_LARGE, "the command with its environment", "64 KiB")
                           : error_errno(error, r, "starting the command");
    }
    if (start->ret_stream)
        *start->ret_stream = stream;
    return 0;
}

/* After a restore the guest's clock stands where it stood, and its random numbers would repeat. */
static void guest_refresh(struct machine *machine) {
    if (machine->port && guestport_wait_ready(machine->port, deadline_in(RESTORED_DEADLINE)) >= 0)
        (void) guestport_clock(machine->port);
    if (machine->agent)
        agent_set_clock(machine->agent);
}

static int begin_restored(struct machine *machine, const struct driver_start *start, struct error *error) {
    int r = suspend_load(machine, error);

    if (r < 0)
        return r;
    guest_refresh(machine);
    if (!start->ret_stream)
        return 0;
    /* An end frees the port and the console, and none of the waits above failed for it. */
    if (machine->ended)
        return machine_failure(machine, error);
    return machine->port ? guestport_attach(machine->port, start->ret_stream, error)
                         : console_view(machine->console, start->ret_stream, error);
}

static int machine_begin(struct machine *machine, const struct driver_start *start, struct error *error) {
    struct suspend_note note;
    int r = start->restore ? suspend_note_read(machine->instance, &note, error) : 0;

    if (r >= 0)
        r = launch_machine(machine, start->restore ? &note : NULL, error);

    if (r < 0)
        return r;
    r = machine_connect(machine, false, error);
    if (r < 0) {
        /* QEMU's own last words say more than a broken connection. */
        if (machine_wait_end(machine, deadline_in(CLOCK_SECOND)) >= 0) {
            error_clear(error);
            return machine_failure(machine, error);
        }
        return r;
    }
    if (machine->ended)
        return machine_failure(machine, error);
    if (start->restore)
        return begin_restored(machine, start, error);
    if (machine->port)
        return begin_microvm(machine, start, error);
    return start->ret_stream ? console_view(machine->console, start->ret_stream, error) : 0;
}

/* Ends what runs and forgets the machine. */
static void machine_drop(struct driver_instance *instance) {
    struct machine *machine = STEAL_PTR(instance->driver_data);

    if (!machine)
        return;
    fiber_shield();
    machine->quiet = true;
    if (!machine->ended)
        (void) machine_kill(machine, DEADLINE_NONE);
    machine_end_shares(machine);
    while (machine->busy > 0)
        (void) fiber_queue_wait(&machine->changed, DEADLINE_NONE);
    machine_detach(machine);
    machine->released = true;
    fiber_unshield();
    machine_unref(machine);
}

static int run_directory_make(const struct driver_instance *instance, struct error *error) {
    int r = file_make_directories(AT_FDCWD, instance->run_path, 0700);

    return r < 0 && r != -EEXIST ? error_errno(error, r, "making %s", instance->run_path) : 0;
}

static int driver_start(void *data, struct driver_instance *instance, const struct driver_start *start,
                        struct error *error) {
    struct qemu *qemu = data;
    struct machine *machine;
    int r;

    if (machine_of(instance))
        return 0;
    machine_drop(instance);
    r = fiber_join(qemu->warming, DEADLINE_NONE, NULL);
    if (r < 0)
        return error_errno(error, r, "starting QEMU");
    r = driver_available(data, (enum kind) instance->assigned->kind, error);
    if (r >= 0)
        r = run_directory_make(instance, error);
    if (r < 0)
        return r;
    exit_remove(instance);
    r = machine_new(qemu, instance, &machine, error);
    if (r < 0)
        return r;
    instance->driver_data = machine;
    machine->quiet = true;
    r = machine_begin(machine, start, error);
    if (r >= 0 && machine->ended && !machine->exit_known)
        r = machine_failure(machine, error);
    if (r < 0) {
        machine_drop(instance);
        return r;
    }
    machine->quiet = false;
    /* A command may be through already; then the watcher was told to be quiet and we say it. */
    machine_tell_late(machine);
    return 0;
}

/* --- adoption ------------------------------------------------------------------------------------------- */

static int state_answers(struct qemu *qemu, const struct driver_instance *instance, struct error *error) {
    return storage_ask_instance(qemu->context.storage, instance->state_path, deadline_in(STORAGE_PATIENCE), error);
}

/* Only what is gone needs what it left on its disk: one that runs is taken over whether its storage answers or not. */
static int exit_of_absent(struct qemu *qemu, struct driver_instance *instance, struct driver_exit *ret, struct error *error) {
    _cleanup_free_ char *problem = NULL;
    int r = state_answers(qemu, instance, error);

    if (r >= 0)
        (void) exit_read(instance, &ret->code, &problem);
    return r;
}

/* What a daemon left that died while it saved or loaded memory. A load that was not complete is dropped:
 * the memory is still on disk. Otherwise the guest, which stands still, goes on. */
static int adopt_repair(struct machine *machine) {
    _cleanup_json_ struct json_object *status = NULL;
    struct suspend_note note;
    const char *name;
    bool answers, interrupted;

    if (machine_call(machine, "query-status", NULL, &status, NULL) < 0)
        return 0;
    name = json_text(status, "status", "");
    if (text_equal(name, "inmigrate"))
        return -ESRCH;
    /* What hangs is left for the next look; a save begins by removing it as well. */
    answers = state_answers(machine->qemu, machine->instance, NULL) >= 0;
    interrupted = text_equal(name, "postmigrate") || text_equal(name, "finish-migrate") ||
                  (text_equal(name, "paused") && answers && suspend_note_read(machine->instance, &note, NULL) >= 0);
    if (!interrupted) {
        /* The guest has gone on since, and so has its disk: that memory must never come back. */
        if (text_equal(name, "running") && answers)
            suspend_remove(machine->instance);
        return 0;
    }
    (void) machine_call(machine, "migrate_cancel", NULL, NULL, NULL);
    if (machine_call(machine, "cont", NULL, NULL, NULL) < 0)
        return 0;
    if (answers)
        suspend_remove(machine->instance);
    machine->paused = false;
    return 0;
}

static int adopt_machine(struct machine *machine, bool *ret_running, bool *ret_paused,
                         struct driver_exit *ret_exit, struct error *error) {
    int r = machine_connect(machine, true, error);

    if (r < 0)
        return r;
    if (adopt_repair(machine) == -ESRCH) {
        struct driver_instance *instance = machine->instance;
        struct qemu *qemu = machine->qemu;
        machine_drop(instance);
        return exit_of_absent(qemu, instance, ret_exit, error);
    }
    /* A guest that switched itself off meanwhile stands still until now. */
    if (machine->halted && machine_wait_end(machine, deadline_in(HALTED_DEADLINE)) < 0)
        (void) machine_kill(machine, deadline_in(KILL_DEADLINE));
    if (machine->ended) {
        machine_exit(machine, ret_exit, &machine->reason);
        return 0;
    }
    *ret_running = true;
    *ret_paused = machine->paused;
    machine->quiet = false;
    machine_tell_late(machine);
    return 0;
}

/* It runs on, and is taken over another time. */
static void adopt_let_go(struct driver_instance *instance) {
    struct machine *machine = STEAL_PTR(instance->driver_data);

    machine_detach(machine);
    machine->released = true;
    machine_unref(machine);
}

static int driver_adopt(void *data, struct driver_instance *instance, bool *ret_running, bool *ret_paused,
                        struct driver_exit *ret_exit, struct error *error) {
    struct machine *machine = NULL;
    int r;

    *ret_running = *ret_paused = false;
    *ret_exit = (struct driver_exit){ .code = -1 };
    if (access(instance->run_path, F_OK) < 0 && errno == ENOENT)
        return exit_of_absent(data, instance, ret_exit, error);
    r = machine_new(data, instance, &machine, error);
    if (r < 0)
        return r;
    r = identity_find(machine->directory, instance->assigned->uuid, instance->cgroup, &machine->process);
    if (r < 0 && r != -ESRCH) { /* it may well run: asked again later */
        machine_unref(machine);
        return error_errno(error, r, "finding QEMU");
    }
    if (r < 0) {
        machine_unref(machine);
        /* Started, but not recorded before the daemon died. */
        if (instance->cgroup)
            (void) cgroup_kill(instance->cgroup);
        return exit_of_absent(data, instance, ret_exit, error);
    }
    machine->quiet = true;
    instance->driver_data = machine;
    r = adopt_machine(machine, ret_running, ret_paused, ret_exit, error);
    if (r < 0 && instance->driver_data)
        adopt_let_go(instance);
    return r;
}

/* --- stop ----------------------------------------------------------------------------------------------- */

static void ask_microvm(struct machine *machine, uint64_t deadline) {
    if (guestport_signal(machine->port, machine->instance->process.stop_signal) < 0)
        log_debug("the guest of %s does not listen", machine->instance->name);
    if (machine_wait_end(machine, deadline) != -ETIMEDOUT)
        return;
    /* Killed inside first, so that what it wrote reaches its disk. */
    if (!machine->trouble && guestport_signal(machine->port, SIGKILL) >= 0)
        (void) machine_wait_end(machine, deadline_in(KILLED_DEADLINE));
}

static void ask_vm(struct machine *machine, uint64_t deadline) {
    int r = -ETIMEDOUT;

    while (r == -ETIMEDOUT && clock_now() < deadline && !machine->ended) {
        uint64_t again = deadline_in(POWER_AGAIN);

        (void) machine_ask(machine, "system_powerdown", deadline);
        r = machine_wait_end(machine, again < deadline ? again : deadline);
    }
}

/* Whether it was us or nobody who waits: once the signal is there, it ends. */
static int kill_soon(struct machine *machine, struct error *error) {
    if (machine_kill(machine, deadline_in(KILL_DEADLINE)) >= 0)
        return 0;
    return error_set(error, ERROR_UNRESPONSIVE,
                     "QEMU was killed, but waits for a disk or another device of the host; it ends when that answers");
}

static int driver_stop(void *data _unused_, struct driver_instance *instance, uint64_t timeout,
                       struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return 0;
    machine->references++;
    machine->stopping = true;
    if (timeout > 0) {
        uint64_t deadline = deadline_in(timeout * CLOCK_MILLISECOND);

        if (machine->paused)
            (void) machine_ask(machine, "cont", deadline);
        if (machine->port)
            ask_microvm(machine, deadline);
        else
            ask_vm(machine, deadline);
    }
    if (fiber_is_canceled() && !machine->ended) {
        machine->stopping = false;
        machine_unref(machine);
        return error_errno(error, -ECANCELED, "stopping");
    }
    machine->overdue = machine->ended ? 0 : timeout;
    r = machine->ended ? 0 : kill_soon(machine, error);
    machine_unref(machine);
    return r;
}

static int signal_kill(struct machine *machine, struct error *error) {
    int r;

    machine->references++;
    r = kill_soon(machine, error);
    machine_unref(machine);
    return r;
}

static int driver_signal(void *data _unused_, struct driver_instance *instance, int number,
                         struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    if (is_vm(instance) && number != SIGKILL)
        return error_set(error, ERROR_NOT_SUPPORTED, "the kind vm", "signals",
                         "a virtual machine has no main process; use stop, or the signal KILL");
    if (is_vm(instance) || (number == SIGKILL && machine->trouble))
        return signal_kill(machine, error);
    r = machine->port ? guestport_signal(machine->port, number) : -ENOTCONN;
    if (r < 0 && number == SIGKILL)
        return signal_kill(machine, error);
    return r < 0 ? error_set(error, ERROR_GUEST, "the guest agent does not answer") : 0;
}

/* A QEMU that did not answer in time does later what it was told, when nobody expects it any more: it is told
 * the opposite right behind. */
static int machine_turn(struct machine *machine, const char *command, const char *opposite,
                        struct error *error) {
    int r = machine_call(machine, command, NULL, NULL, error);

    if ((r == -ETIMEDOUT || r == -ECANCELED) && qmp_is_open(machine->qmp))
        (void) qmp_post(machine->qmp, opposite);
    return r;
}

static int driver_pause(void *data _unused_, struct driver_instance *instance, struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    r = machine_turn(machine, "stop", "cont", error);
    if (r >= 0)
        machine->starved = false; /* now it stands still because it was asked to */
    return r;
}

static int driver_resume(void *data _unused_, struct driver_instance *instance, struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    r = machine_turn(machine, "cont", "stop", error);
    if (r < 0)
        return r;
    machine->paused = false;
    if (machine->port)
        (void) guestport_clock(machine->port);
    if (machine->agent)
        agent_set_clock(machine->agent);
    return 0;
}

static bool has_shares(const struct driver_instance *instance) {
    const struct instance_mount *mounts = instance->spec->mounts.items;

    for (size_t i = 0; i < instance->spec->mounts.count; i++)
        if (mounts[i].type == MOUNT_BIND)
            return true;
    return false;
}

static int driver_suspend(void *data _unused_, struct driver_instance *instance, struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    if (has_shares(instance))
        return error_set(error, ERROR_NOT_SUPPORTED, "a machine that mounts host directories", "suspend",
                         "their file servers cannot be saved");
    machine->references++;
    r = suspend_machine(machine, error);
    machine_unref(machine);
    if (r >= 0)
        machine_drop(instance);
    return r;
}

static bool driver_saved(void *data _unused_, struct driver_instance *instance, bool drop) {
    if (drop)
        suspend_remove(instance);
    return suspend_saved(instance);
}

static int driver_change(void *data _unused_, struct driver_instance *instance,
                         const struct instance_spec *before, struct error *error) {
    struct machine *machine = machine_of(instance);

    if (machine && (instance->spec->control_rate != before->control_rate || instance->spec->priority != before->priority))
        machine_budget_set(machine);
    return machine ? machine_resize(machine, before, error) : 0;
}

static int driver_balloon(void *data _unused_, struct driver_instance *instance, struct driver_balloon *balloon,
                          struct error *error) {
    struct machine *machine = machine_of(instance);

    return machine ? machine_balloon(machine, balloon, error) : no_machine(error);
}

static int driver_release(void *data, struct driver_instance *instance, struct error *error) {
    const struct qemu *qemu = data;
    int r = 0;

    machine_drop(instance);
    if (instance->cgroup)
        (void) cgroup_kill(instance->cgroup);
    if (qemu->context.network)
        r = network_detach(qemu->context.network, instance->assigned->uuid, error);
    if (r < 0)
        return r;
    r = file_remove_tree(AT_FDCWD, instance->run_path);
    return r < 0 ? error_errno(error, r, "removing %s", instance->run_path) : 0;
}

/* --- streams -------------------------------------------------------------------------------------------- */

/* A request to the guest of a microVM counts; those to a VM's agent are counted command by command. */
static int count_request(struct machine *machine, struct error *error) {
    int r = machine->port ? budget_take(machine_budget(machine)) : 0;

    return r < 0 ? error_errno(error, r, "asking the guest") : 0;
}

static int driver_check(void *data, struct driver_instance *instance, bool resting, char ***problems, struct error *error) {
    const struct qemu *qemu = data;

    return disks_check(qemu->context.storage, instance, resting, problems, error);
}

static int driver_exec(void *data _unused_, struct driver_instance *instance,
                       const struct exec_request *request, struct stream **ret, struct error *error) {
    struct machine *machine = machine_of(instance);
    _cleanup_free_ char *json = NULL;
    int r;

    if (!machine)
        return no_machine(error);
    r = guest_check(machine, error);
    if (r < 0)
        return r;
    if (is_vm(instance))
        return agent_exec(machine->agent, instance, request, ret, error);
    machine->references++;
    r = count_request(machine, error);
    machine_unref(machine);
    machine = machine_of(instance);
    if (r < 0 || !machine)
        return r < 0 ? r : no_machine(error);
    r = guest_check(machine, error);
    if (r < 0)
        return r;
    r = guest_exec_request(instance, request, &json);
    return r < 0 ? error_errno(error, r, "describing the command")
                 : guestport_exec(machine->port, json, ret, error);
}

static int driver_attach(void *data _unused_, struct driver_instance *instance, struct stream **ret,
                         struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    if (is_vm(instance))
        return console_view(machine->console, ret, error);
    r = guest_check(machine, error);
    return r < 0 ? r : guestport_attach(machine->port, ret, error);
}

static int driver_console(void *data _unused_, struct driver_instance *instance, struct stream **ret,
                          struct error *error) {
    struct machine *machine = machine_of(instance);

    return machine ? console_view(machine->console, ret, error) : no_machine(error);
}

static int driver_get(void *data _unused_, struct driver_instance *instance, const char *path,
                      struct stream **ret, struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    r = guest_check(machine, error);
    if (r < 0)
        return r;
    return is_vm(instance) ? agent_get(machine->agent, path, ret, error)
                           : guestport_transfer(machine->port, false, path, ret, error);
}

static int driver_put(void *data _unused_, struct driver_instance *instance, const char *path,
                      struct stream **ret, struct error *error) {
    struct machine *machine = machine_of(instance);
    int r;

    if (!machine)
        return no_machine(error);
    r = guest_check(machine, error);
    if (r < 0)
        return r;
    return is_vm(instance) ? agent_put(machine->agent, path, ret, error)
                           : guestport_transfer(machine->port, true, path, ret, error);
}

static int driver_vnc(void *data _unused_, struct driver_instance *instance, int *ret_fd,
                      struct error *error) {
    struct machine *machine = machine_of(instance);
    _cleanup_close_ int ours = -EBADF, theirs = -EBADF;
    int pair[2], r;

    if (!machine)
        return no_machine(error);
    if (!is_vm(instance) || !instance->spec->graphics)
        return error_set(error, ERROR_NOT_SUPPORTED, "this instance", "VNC",
                         "it was created without --graphics");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return error_errno(error, -errno, "connecting to the display");
    ours = pair[0];
    theirs = pair[1];
    r = display_hand(machine, theirs, error);
    if (r < 0)
        return r;
    *ret_fd = STEAL_FD(ours);
    return 0;
}

static void driver_facts(void *data _unused_, const struct driver_instance *instance,
                         struct driver_facts *ret) {
    struct machine *machine = machine_of(instance);
    char *const *addresses = NULL;
    const char *hostname = NULL;

    *ret = (struct driver_facts){ 0 };
    if (!machine)
        return;
    ret->pid = machine->process.pid;
    ret->trouble = machine->trouble;
    ret->vnc = display_path(machine->display);
    if (machine_budget(machine)) {
        ret->control_calls = machine_budget(machine)->calls;
        ret->control_waits = machine_budget(machine)->waits;
    }
    if (machine->port) {
        ret->agent_up = guestport_is_ready(machine->port);
        addresses = guestport_addresses(machine->port);
        hostname = guest_hostname(instance);
    } else if (machine->agent) {
        ret->agent_up = agent_is_up(machine->agent);
        addresses = agent_addresses(machine->agent);
        hostname = agent_hostname(machine->agent);
    }
    ret->hostname = hostname ? strdup(hostname) : NULL;
    (void) list_copy(addresses, &ret->addresses);
}

const struct driver qemu_driver = {
    .name = "qemu",
    .kinds = 1 << KIND_MICROVM | 1 << KIND_VM,
    .capabilities = DRIVER_PAUSE | DRIVER_SUSPEND | DRIVER_EXEC | DRIVER_ATTACH | DRIVER_CONSOLE |
                    DRIVER_FILES | DRIVER_VNC | DRIVER_SIGNAL,
    .open = driver_open,
    .close = driver_close,
    .available = driver_available,
    .start = driver_start,
    .adopt = driver_adopt,
    .stop = driver_stop,
    .signal = driver_signal,
    .pause = driver_pause,
    .resume = driver_resume,
    .suspend = driver_suspend,
    .saved = driver_saved,
    .release = driver_release,
    .check = driver_check,
    .change = driver_change,
    .balloon = driver_balloon,
    .exec = driver_exec,
    .attach = driver_attach,
    .console = driver_console,
    .get = driver_get,
    .put = driver_put,
    .vnc = driver_vnc,
    .facts = driver_facts,
};
