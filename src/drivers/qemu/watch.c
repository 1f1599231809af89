// SPDX-License-Identifier: GPL-2.0-or-later
/* One fiber for all machines, which waits for none of them: every few seconds it sends each QEMU a command
 * and looks whether the last one was answered. What counts is how often it looked in vain, not how long:
 * after polderd itself stood still, the answers lie in the sockets unread. */
#include "drivers/qemu/watch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"

#define STAT_MAX 4096
#define STARVED "the host has no room for what it writes to its disk; it goes on when there is"

/* The letter of /proc/PID/stat behind the name, which is in parentheses and may hold anything. */
static char process_state(const struct process *process) {
    _cleanup_free_ char *text = NULL;
    const char *end;
    char path[64];
    size_t size;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int) process->pid);
    if (file_read(AT_FDCWD, path, STAT_MAX, &text, &size) < 0)
        return '?';
    end = strrchr(text, ')');
    return end && end[1] == ' ' ? end[2] : '?';
}

static const char *trouble_of(const struct machine *machine) {
    switch (process_state(&machine->process)) {
    case 'T':
    case 't':
        return "QEMU's process was stopped by a signal";
    case 'D':
        return "QEMU's process waits for a disk or another device of the host";
    default:
        return "QEMU's process runs, but does not reply";
    }
}

static bool is_silent(struct machine *machine) {
    if (!qmp_is_open(machine->qmp))
        return true;
    return qmp_is_silent(machine->qmp) || qmp_ping(machine->qmp) < 0;
}

static bool has_room(const struct machine *machine) {
    struct statvfs room;

    return statvfs(machine->instance->state_path, &room) == 0 &&
           (uint64_t) room.f_bavail * room.f_frsize >= WATCH_ROOM;
}

static void trouble_set(struct machine *machine, const char *trouble) {
    if (machine->trouble == trouble)
        return;
    machine->trouble = trouble;
    if (trouble)
        log_warning("instance '%s' does not answer: %s", machine->instance->name, trouble);
    else
        log_info("instance '%s' answers again", machine->instance->name);
    machine_status_changed(machine);
}

static void starved_on(struct machine *machine) {
    if (++machine->starving % WATCH_STARVED == 0 && has_room(machine))
        (void) qmp_post(machine->qmp, "cont");
}

static void watch_one(struct machine *machine) {
    if (machine->ended)
        return;
    if (machine->quiet || !is_silent(machine))
        machine->missed = 0;
    else
        machine->missed++;
    if (machine->missed >= WATCH_MISSED)
        trouble_set(machine, trouble_of(machine));
    else if (machine->missed == 0)
        trouble_set(machine, machine->starved ? STARVED : NULL);
    if (machine->starved && machine->missed == 0)
        starved_on(machine);
}

void watch_starved(struct machine *machine) {
    machine->starving = 0;
    trouble_set(machine, STARVED);
}

void watch_give_up(struct machine *machine) {
    machine->missed = WATCH_MISSED;
    trouble_set(machine, trouble_of(machine));
}

static void qemu_unrefp(struct qemu **qemu) {
    qemu_unref(*qemu);
}

static int watch_main(void *userdata) {
    _cleanup_(qemu_unrefp) struct qemu *qemu = userdata;

    while (qemu->machines && fiber_sleep(WATCH_EVERY) >= 0)
        for (struct machine *machine = qemu->machines; machine; machine = machine->next)
            watch_one(machine);
    return 0;
}

void watch_begin(struct qemu *qemu) {
    if (qemu->watching && !fiber_is_done(qemu->watching))
        return;
    fiber_unref(qemu->watching);
    qemu->watching = NULL;
    if (fiber_start(&qemu->watching, "qemu-watch", watch_main, qemu) >= 0)
        qemu->references++;
}
